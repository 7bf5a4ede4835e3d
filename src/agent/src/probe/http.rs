//! An HTTP probe: an answer from 200 to 399 is alive; and the gRPC health check, which is one HTTP/2 request.
//! Upstream: pkg/probe/http/{http,request}.go, pkg/probe/grpc/grpc.go.
//! Differs: nothing on purpose.

use std::time::Duration;

use http::header::{ACCEPT, CONNECTION, HOST, LOCATION, USER_AGENT};
use http::{HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Empty, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kubelet::event::ProbeOutcome;
use kubelet::limits::check_headers;

use crate::env::{BoxedStream, Endpoint, Net};
use crate::tls::connect_unverified;

/// POD-247: what of an answer is kept.
const BODY_LIMIT: usize = 10 * 1024;
const MOST_REDIRECTS: usize = 10;

/// What is probed.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) https: bool,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) path: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) lifecycle: bool,
}

/// One GET, redirects on the same host followed (POD-247).
pub(super) async fn probe(net: &dyn Net, target: &Target, timeout: Duration) -> ProbeOutcome {
    let url = target.url();
    match tokio::time::timeout(timeout, follow(net, target.clone())).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => ProbeOutcome::Failure(format!("Get \"{url}\": {error}")),
        Err(_) => ProbeOutcome::Failure(format!(
            "Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )),
    }
}

async fn follow(net: &dyn Net, mut target: Target) -> Result<ProbeOutcome, String> {
    let first_host = target.host.clone();
    for _ in 0..=MOST_REDIRECTS {
        let answer = get(net, &target).await?;
        let status = answer.status();
        if target.lifecycle {
            return Ok(ProbeOutcome::Success);
        }
        if !status.is_redirection() {
            return Ok(judge(answer).await);
        }
        let Some(location) = answer.headers().get(LOCATION).and_then(|l| l.to_str().ok()) else {
            return Ok(ProbeOutcome::Success);
        };
        let Some(next) = target.redirected(location) else {
            return Ok(ProbeOutcome::Warning(format!("Probe terminated redirects, Response body: {location}")));
        };
        if next.host != first_host {
            return Ok(ProbeOutcome::Warning("Probe terminated redirects, Response body: ".to_owned()));
        }
        target = next;
    }
    Err(format!("stopped after {MOST_REDIRECTS} redirects"))
}

async fn judge(answer: Response<Incoming>) -> ProbeOutcome {
    let status = answer.status();
    if status.is_success() {
        return ProbeOutcome::Success;
    }
    let body = Limited::new(answer.into_body(), BODY_LIMIT).collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    // Read for the connection's sake; upstream's message does not hold it.
    drop(body);
    ProbeOutcome::Failure(format!("HTTP probe failed with statuscode: {}", status.as_u16()))
}

async fn get(net: &dyn Net, target: &Target) -> Result<Response<Incoming>, String> {
    let request = target.request()?;
    let stream = open(net, target.https, &target.host, target.port).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    // Go's word for a server that hangs up.
    let said = |e: hyper::Error| if e.is_incomplete_message() || e.is_canceled() { "EOF".to_owned() } else { e.to_string() };
    over(connection, async { sender.send_request(request).await.map_err(said) }).await
}

/// What is exchanged over a connection, while that is kept going. The answer may have come with the connection's end.
async fn over<T>(
    connection: impl Future<Output = hyper::Result<()>>,
    exchange: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let (mut connection, mut exchange) = (std::pin::pin!(connection), std::pin::pin!(exchange));
    tokio::select! {
        biased;
        answer = &mut exchange => return answer,
        ended = &mut connection => tracing::trace!(?ended, "probe's connection ended"),
    }
    exchange.await
}

async fn open(net: &dyn Net, https: bool, host: &str, port: u16) -> Result<BoxedStream, String> {
    let endpoint = Endpoint::Tcp { host: host.to_owned(), port };
    let stream = net.connect(endpoint).await.map_err(|e| format!("dial tcp {host}:{port}: connect: {e}"))?;
    if https { connect_unverified(stream, host).await.map_err(|e| e.to_string()) } else { Ok(stream) }
}

impl Target {
    fn url(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority(), self.path_and_query())
    }

    fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("{host}:{}", self.port)
    }

    fn path_and_query(&self) -> String {
        if self.path.starts_with('/') { self.path.clone() } else { format!("/{}", self.path) }
    }

    fn request(&self) -> Result<Request<Empty<Bytes>>, String> {
        check_headers(&self.headers)?;
        let mut request = Request::get(self.path_and_query()).body(Empty::new()).map_err(|e| e.to_string())?;
        let headers = request.headers_mut();
        let agent = if self.lifecycle { "kube-lifecycle/1.36" } else { "kube-probe/1.36" };
        headers.insert(USER_AGENT, HeaderValue::from_static(agent));
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        headers.insert(HOST, HeaderValue::from_str(&self.authority()).map_err(|e| e.to_string())?);
        for (name, value) in &self.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|e| e.to_string())?;
            // An empty value takes a default header away.
            if value.is_empty() && (name == ACCEPT || name == USER_AGENT) {
                headers.remove(&name);
                continue;
            }
            let value = HeaderValue::from_str(value).map_err(|e| e.to_string())?;
            if name == HOST || name == ACCEPT || name == USER_AGENT {
                headers.try_insert(name, value).map_err(|e| e.to_string())?;
            } else {
                headers.try_append(name, value).map_err(|e| e.to_string())?;
            }
        }
        Ok(request)
    }

    fn redirected(&self, location: &str) -> Option<Self> {
        let mut next = self.clone();
        if location.starts_with('/') && !location.starts_with("//") {
            location.clone_into(&mut next.path);
            return Some(next);
        }
        let uri: http::Uri = location.parse().ok()?;
        next.https = uri.scheme_str()? == "https";
        uri.host()?.trim_matches(['[', ']']).clone_into(&mut next.host);
        next.port = uri.port_u16().unwrap_or(if next.https { 443 } else { 80 });
        next.path = uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
        Some(next)
    }
}

/// `grpc.health.v1.Health/Check` (POD-248). The request holds one string field, the reply one number: no generated code needed.
pub(super) async fn probe_grpc(net: &dyn Net, host: &str, port: u16, service: &str, timeout: Duration) -> ProbeOutcome {
    match tokio::time::timeout(timeout, check(net, host, port, service)).await {
        Ok(Ok(SERVING)) => ProbeOutcome::Success,
        Ok(Ok(status)) => ProbeOutcome::Failure(format!("service unhealthy (responded with \"{}\")", status_name(status))),
        Ok(Err(error)) => ProbeOutcome::Failure(error),
        Err(_) => ProbeOutcome::Failure(format!(
            "timeout: failed to connect service \"{host}:{port}\" within {timeout:?}: context deadline exceeded"
        )),
    }
}

const SERVING: u8 = 1;

fn status_name(status: u8) -> &'static str {
    match status {
        0 => "UNKNOWN",
        SERVING => "SERVING",
        2 => "NOT_SERVING",
        _ => "SERVICE_UNKNOWN",
    }
}

async fn check(net: &dyn Net, host: &str, port: u16, service: &str) -> Result<u8, String> {
    let failed = |e: &dyn std::fmt::Display| format!("error: health rpc probe failed: {e}");
    let stream = open(net, false, host, port).await.map_err(|e| failed(&e))?;
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|e| failed(&e))?;
    let exchange = async {
        let request = Request::post(format!("http://{host}:{port}/grpc.health.v1.Health/Check"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header(USER_AGENT, "kube-probe/1.36")
            .body(Full::new(health_request(service)))
            .map_err(|e| failed(&e))?;
        let answer = sender.send_request(request).await.map_err(|e| failed(&e))?;
        let code = answer.headers().get("grpc-status").cloned();
        let body = Limited::new(answer.into_body(), BODY_LIMIT).collect().await.map_err(|e| failed(&e))?;
        let code = code.or_else(|| body.trailers().and_then(|t| t.get("grpc-status").cloned()));
        if let Some(code) = code.filter(|code| code != "0") {
            return Err(failed(&format!("rpc error: code = {}", code.to_str().unwrap_or("?"))));
        }
        let bytes = body.to_bytes();
        // Frame: flag, four bytes of length, then `08 <status>`; an absent field is zero.
        Ok(if bytes.len() >= 7 && bytes[5] == 0x08 { bytes[6] } else { 0 })
    };
    over(connection, exchange).await
}

fn health_request(service: &str) -> Bytes {
    let name = service.as_bytes();
    let mut message = Vec::new();
    if !name.is_empty() {
        message.push(0x0a);
        let mut length = name.len();
        while length >= 0x80 {
            message.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(name);
    }
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend(message);
    Bytes::from(frame)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn target() -> Target {
        Target {
            https: false,
            host: "10.0.0.2".to_owned(),
            port: 8080,
            path: "healthz".to_owned(),
            headers: vec![],
            lifecycle: false,
        }
    }

    // POD-247: default headers, the Host header honoured, an empty value removes.
    #[test]
    fn headers_are_upstreams() {
        let mut target = target();
        let request = target.request().unwrap();
        assert_eq!(request.uri(), "/healthz");
        assert_eq!(request.headers()[USER_AGENT], "kube-probe/1.36");
        assert_eq!(request.headers()[ACCEPT], "*/*");
        assert_eq!(request.headers()[HOST], "10.0.0.2:8080");
        target.headers = vec![("Host".to_owned(), "example.com".to_owned()), ("Accept".to_owned(), String::new())];
        let request = target.request().unwrap();
        assert_eq!(request.headers()[HOST], "example.com");
        assert!(!request.headers().contains_key(ACCEPT));
    }

    // POD-247: 700 KB of spec with 25,000 names are more than the map of headers holds, which panics.
    #[test]
    fn more_headers_than_can_be_sent_are_a_failure() {
        let numbered = |number: usize| (0..number).map(|n| (format!("h{n}"), "v".to_owned())).collect();
        let told = |target: &Target| target.request().unwrap_err();
        let mut many = Target { headers: numbered(25_000), ..target() };
        assert_eq!(told(&many), "the request has 25000 headers, more than the 4096 that are allowed");
        many.headers.truncate(4096);
        assert_eq!(many.request().unwrap().headers().len(), 4100);
        many.headers[0].1 = "v".repeat(1 << 20);
        assert_eq!(told(&many), "the headers of the request take more than 1048576 bytes, the most that is allowed");
    }

    // POD-247: redirects stay on the host.
    #[test]
    fn redirect_target_is_resolved() {
        assert_eq!(target().redirected("/a?b=c").unwrap().url(), "http://10.0.0.2:8080/a?b=c");
        assert_eq!(target().redirected("https://example.com/x").unwrap().url(), "https://example.com:443/x");
        assert!(target().redirected("::").is_none());
    }

    #[test]
    fn health_request_is_a_grpc_frame() {
        assert_eq!(&health_request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&health_request("a")[..], [0, 0, 0, 0, 3, 0x0a, 1, b'a']);
    }

    /// A server that answers any request with the same bytes and hangs up.
    struct Says(&'static [u8]);

    impl Net for Says {
        fn connect(&self, _: Endpoint) -> futures::future::BoxFuture<'_, std::io::Result<BoxedStream>> {
            let says = self.0;
            Box::pin(async move {
                let (ours, theirs) = tokio::io::duplex(4096);
                tokio::spawn(async move {
                    let mut theirs = tokio::io::BufReader::new(theirs);
                    let mut line = String::new();
                    while theirs.read_line(&mut line).await.unwrap() > 2 {
                        line.clear();
                    }
                    theirs.write_all(says).await.unwrap();
                });
                Ok(Box::pin(ours) as BoxedStream)
            })
        }

        fn listen(
            &self,
            _: std::net::SocketAddr,
        ) -> futures::future::BoxFuture<'_, std::io::Result<Box<dyn crate::env::Listener>>> {
            Box::pin(async { Err(std::io::ErrorKind::Unsupported.into()) })
        }
    }

    // POD-247
    #[tokio::test(start_paused = true)]
    async fn answer_that_comes_with_the_end_of_its_connection_counts() {
        let outcome = |says| async move { probe(&Says(says), &target(), Duration::from_secs(1)).await };
        let well = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
        assert_eq!(outcome(well).await, ProbeOutcome::Success);
        let ill = b"HTTP/1.1 500 Internal Server Error\r\nConnection: close\r\n\r\nno";
        assert_eq!(outcome(ill).await, ProbeOutcome::Failure("HTTP probe failed with statuscode: 500".to_owned()));
        let silent = ProbeOutcome::Failure("Get \"http://10.0.0.2:8080/healthz\": EOF".to_owned());
        assert_eq!(outcome(b"").await, silent);
    }
}
