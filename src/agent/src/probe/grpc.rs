//! The gRPC health check, `grpc.health.v1.Health/Check`: one connection, one HTTP/2 request.
//! Upstream: pkg/probe/grpc/grpc.go, google.golang.org/grpc (WithBlock, internal/transport).
//! Differs: a server that is not there is told of at once, in the same words; upstream connects again until the time is over.

use std::time::Duration;

use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kubelet::event::ProbeOutcome;
use kubelet::time::go_seconds;
use tokio::time::{Instant, timeout_at};

use crate::env::Net;
use crate::go_http::over;
use crate::go_http::wire::{Heard, open};
use crate::go_text::{join_host_port, quote};

const BODY_LIMIT: usize = 10 * 1024;
/// POD-248
pub(super) async fn probe(net: &dyn Net, host: &str, port: u16, service: &str, timeout: Duration) -> ProbeOutcome {
    let deadline = Instant::now() + timeout;
    let address = join_host_port(host, port);
    let heard = Heard::default();
    // In the API it is whole seconds; what is left of it here may be a moment less.
    let within = go_seconds(timeout.saturating_add(Duration::from_nanos(999_999_999)));
    match timeout_at(deadline, check(net, host, port, service, &heard)).await {
        Ok(Ok(outcome)) => outcome,
        Err(_) if speaks_http2(&heard) => failed(format!("timeout: health rpc did not complete within {within}")),
        Ok(Err(NotConnected)) | Err(_) => {
            let address = quote(address.as_bytes());
            failed(format!("timeout: failed to connect service {address} within {within}: context deadline exceeded"))
        }
    }
}

fn failed(text: String) -> ProbeOutcome {
    ProbeOutcome::Failure(text)
}

/// There is no gRPC at that address, or not yet.
struct NotConnected;

/// The other side has begun with its settings, as every HTTP/2 server does.
fn speaks_http2(heard: &Heard) -> bool {
    heard.bytes().get(3) == Some(&4)
}

async fn check(net: &dyn Net, host: &str, port: u16, service: &str, heard: &Heard) -> Result<ProbeOutcome, NotConnected> {
    let (stream, _) = open(net, false, host, port).await.map_err(|_| NotConnected)?;
    let stream = Heard::share(stream, heard.clone());
    let handshake = hyper::client::conn::http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(|_| NotConnected)?;
    let broken = |error: &dyn std::fmt::Display| {
        if speaks_http2(heard) { Ok(unhealthy(14, &error.to_string())) } else { Err(NotConnected) }
    };
    let exchange = async {
        let request = Request::post(format!("http://{}/grpc.health.v1.Health/Check", join_host_port(host, port)))
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .header(USER_AGENT, "kube-probe/1.36")
            .body(Full::new(health_request(service)));
        let request = request.map_err(|_| NotConnected)?;
        let answer = match sender.send_request(request).await {
            Ok(answer) => answer,
            Err(error) => return broken(&error),
        };
        let (head, body) = answer.into_parts();
        if let Some(outcome) = status_of(head.status, &head.headers) {
            return Ok(outcome);
        }
        let body = match Limited::new(body, BODY_LIMIT).collect().await {
            Ok(body) => body,
            Err(error) => return broken(&error),
        };
        let trailers = body.trailers().cloned().unwrap_or_default();
        Ok(status_of(StatusCode::OK, &trailers).unwrap_or_else(|| serving(&body.to_bytes())))
    };
    over(connection, exchange).await
}

/// What headers or trailers say, if they end the call.
fn status_of(http: StatusCode, headers: &HeaderMap) -> Option<ProbeOutcome> {
    let code = headers.get("grpc-status").and_then(|code| code.to_str().ok()?.parse::<u32>().ok());
    match code {
        Some(0) => None,
        Some(code) => {
            let message = headers.get("grpc-message").map(|m| percent_decoded(m.as_bytes())).unwrap_or_default();
            Some(unhealthy(code, &message))
        }
        None if http != StatusCode::OK => {
            let reason = http.canonical_reason().unwrap_or_default();
            let message = format!("unexpected HTTP status code received from server: {} ({reason})", http.as_u16());
            Some(unhealthy(code_of_http(http), &message))
        }
        None => None,
    }
}

/// internal/transport/http_util.go (HTTPStatusConvTab).
fn code_of_http(status: StatusCode) -> u32 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

fn unhealthy(code: u32, message: &str) -> ProbeOutcome {
    failed(match code {
        12 => format!("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {message}"),
        _ => format!("error: health rpc probe failed: rpc error: code = {} desc = {message}", code_name(code)),
    })
}

fn code_name(code: u32) -> String {
    const NAMES: [&str; 17] = [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ];
    let name = usize::try_from(code).ok().and_then(|code| NAMES.get(code));
    name.map_or_else(|| format!("Code({code})"), |name| (*name).to_owned())
}

fn percent_decoded(text: &[u8]) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let digits = text.get(at + 1..at + 3).filter(|_| text[at] == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            decoded.push(byte);
            at += 3;
        } else {
            decoded.push(text[at]);
            at += 1;
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

const SERVING: u8 = 1;

/// A frame: a flag, four bytes of length, then `08 <status>`; an absent field is zero.
fn serving(frame: &[u8]) -> ProbeOutcome {
    let status = if frame.len() >= 7 && frame[5] == 0x08 { frame[6] } else { 0 };
    let name = match status {
        SERVING => return ProbeOutcome::Success,
        0 => "UNKNOWN".to_owned(),
        2 => "NOT_SERVING".to_owned(),
        3 => "SERVICE_UNKNOWN".to_owned(),
        other => other.to_string(),
    };
    failed(format!("service unhealthy (responded with \"{name}\")"))
}

/// The request holds one string field, the reply one number: no generated code is needed.
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
    use super::*;
    use crate::go_http::testing::Answers;

    #[test]
    fn health_request_is_a_grpc_frame() {
        assert_eq!(&health_request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&health_request("a")[..], [0, 0, 0, 0, 3, 0x0a, 1, b'a']);
    }

    fn told(outcome: &ProbeOutcome) -> &str {
        let ProbeOutcome::Failure(text) = outcome else { panic!("{outcome:?}") };
        text
    }

    // POD-248; as recorded of the kubelet (cases 090, 091).
    #[test]
    fn statuses_read_as_the_kubelets() {
        let headers = |code: &str, message: &str| {
            HeaderMap::from_iter(
                [("grpc-status", code), ("grpc-message", message)].map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())),
            )
        };
        let outcome = status_of(StatusCode::OK, &headers("5", "unknown%20service")).unwrap();
        assert_eq!(told(&outcome), "error: health rpc probe failed: rpc error: code = NotFound desc = unknown service");
        assert_eq!(told(&serving(&[0, 0, 0, 0, 2, 8, 2])), "service unhealthy (responded with \"NOT_SERVING\")");
        assert_eq!(serving(&[0, 0, 0, 0, 2, 8, 1]), ProbeOutcome::Success);
        let absent = status_of(StatusCode::NOT_FOUND, &HeaderMap::new()).unwrap();
        assert!(
            told(&absent).starts_with("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): ")
        );
    }

    // POD-248; as recorded of the kubelet (case 091): nobody there, and somebody who speaks no gRPC.
    #[tokio::test(start_paused = true)]
    async fn who_is_not_there_is_told_of_at_once() {
        let began = Instant::now();
        for net in [Answers::none(), Answers::of(["HTTP/1.1 400 Bad Request\r\n\r\n"])] {
            let outcome = probe(&net, "10.0.0.2", 5999, "", Duration::from_secs(1)).await;
            let text = "timeout: failed to connect service \"10.0.0.2:5999\" within 1s: context deadline exceeded";
            assert_eq!(told(&outcome), text);
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
        // As the executor asks: some of its time has gone by.
        let outcome = probe(&Answers::none(), "fd00::2", 1, "", Duration::from_millis(2999)).await;
        assert!(told(&outcome).contains("\"[fd00::2]:1\" within 3s"));
    }

    // F9 of the faults: an authority with an IPv6 address has brackets.
    #[tokio::test(start_paused = true)]
    async fn ipv6_pods_are_asked() {
        let (client, server) = tokio::io::duplex(1 << 16);
        let served = tokio::spawn(async move {
            let service = hyper::service::service_fn(async |request: Request<hyper::body::Incoming>| {
                assert_eq!(request.uri().authority().unwrap(), "[fd00::2]:5000");
                let frames = futures::stream::iter([
                    Ok::<_, std::convert::Infallible>(hyper::body::Frame::data(Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1]))),
                    Ok(hyper::body::Frame::trailers(HeaderMap::from_iter([(
                        "grpc-status".parse().unwrap(),
                        "0".parse().unwrap(),
                    )]))),
                ]);
                Ok::<_, std::convert::Infallible>(http::Response::new(http_body_util::StreamBody::new(frames)))
            });
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ended = connection.serve_connection(TokioIo::new(server), service).await;
        });
        let net = crate::go_http::testing::One::of(client);
        assert_eq!(probe(&net, "fd00::2", 5000, "", Duration::from_secs(1)).await, ProbeOutcome::Success);
        served.abort();
    }

    // What a container answers.
    #[test]
    fn mangled_answers_are_success_or_failure() {
        crate::mangled::each("grpc answer", &[b"\0\0\0\0\x02\x08\x01", b"a%20b%zz%f", b"%"], |input| {
            let _outcome = (serving(input), percent_decoded(input));
            let mut headers = HeaderMap::new();
            for name in ["grpc-status", "grpc-message"] {
                if let Ok(value) = http::HeaderValue::from_bytes(input) {
                    headers.insert(name, value);
                }
            }
            let _status = (status_of(StatusCode::OK, &headers), status_of(StatusCode::IM_A_TEAPOT, &headers));
        });
    }
}
