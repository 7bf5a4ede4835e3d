//! A connection that a client upgrades is handed to the runtime's streaming server, byte for byte, whatever protocol it is.
//! Upstream: k8s.io/apimachinery/pkg/util/proxy/upgradeaware.go.
//! Differs: a session in which nothing moves for `streamingConnectionIdleTimeout` is ended here, not only by the runtime; after one
//! side has closed, the other has 10 s to drain.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::response::Response;
use http::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use http::{Method, StatusCode, Uri};
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::Instant;

use crate::env::Endpoint;
use crate::server::metrics::http::InFlight;
use crate::server::routes::Peer;
use crate::server::{Shared, reply};

/// How long the runtime may take to answer, and to say why it will not upgrade (API-105).
const ANSWER: Duration = Duration::from_secs(10);
/// How long one side may still send after the other has closed.
const DRAIN: Duration = Duration::from_secs(10);
/// The longest refusal that is relayed.
const REFUSAL: usize = 64 << 10;
const BUFFER: usize = 32 << 10;
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What of a request goes on to the runtime.
struct Forwarded {
    method: Method,
    headers: HeaderMap,
}

/// Connects a client to the runtime (API-104, API-105).
pub(crate) async fn proxy(shared: &Arc<Shared>, peer: &Peer, mut request: Request, url: &str) -> Response {
    if !is_upgrade(request.headers()) {
        return reply::error_line(StatusCode::INTERNAL_SERVER_ERROR, "Upgrade request required");
    }
    let client = hyper::upgrade::on(&mut request);
    let mut headers = request.headers().clone();
    forwarded_for(&mut headers, peer.address.ip());
    let forwarded = Forwarded { method: request.method().clone(), headers };
    let in_flight = request.extensions().get::<InFlight>().cloned();
    match tokio::time::timeout(ANSWER, connect(shared, forwarded, url)).await {
        Ok(Ok(answer)) => relay(shared, peer, (client, in_flight), answer).await,
        Ok(Err(why)) => failed(&why),
        Err(_) => failed("i/o timeout"),
    }
}

fn failed(why: &str) -> Response {
    reply::error_line(StatusCode::INTERNAL_SERVER_ERROR, format!("error dialing backend: {why}"))
}

/// As `wsstream.IsWebSocketRequest`.
pub(crate) fn is_websocket(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(UPGRADE).and_then(|upgrade| upgrade.to_str().ok());
    upgrade.is_some_and(|upgrade| upgrade.eq_ignore_ascii_case("websocket")) && is_upgrade(headers)
}

/// As `httpstream.IsUpgradeRequest`.
fn is_upgrade(headers: &HeaderMap) -> bool {
    headers.get_all(CONNECTION).iter().any(|value| value.to_str().is_ok_and(|value| value.to_ascii_lowercase().contains("upgrade")))
}

fn forwarded_for(headers: &mut HeaderMap, client: IpAddr) {
    let before: Vec<&str> = headers.get_all(&FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()).collect();
    let list = before.into_iter().map(str::to_owned).chain([client.to_string()]).collect::<Vec<_>>().join(", ");
    if let Ok(list) = HeaderValue::from_str(&list) {
        headers.insert(FORWARDED_FOR, list);
    }
}

/// Sends the request on. The runtime's address comes from its own answer, and is never followed anywhere else (CVE-2020-8559).
async fn connect(shared: &Shared, forwarded: Forwarded, url: &str) -> Result<http::Response<hyper::body::Incoming>, String> {
    let url: Uri = url.parse().map_err(|error| format!("parse {url:?}: {error}"))?;
    if url.scheme_str() != Some("http") {
        return Err(format!("unsupported scheme {:?} of the runtime's streaming server", url.scheme_str().unwrap_or_default()));
    }
    let host = url.host().ok_or_else(|| format!("no host in {url}"))?.trim_start_matches('[').trim_end_matches(']').to_owned();
    let endpoint = Endpoint::Tcp { host, port: url.port_u16().unwrap_or(80) };
    let stream = shared.env.net.connect(endpoint).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "Connection to the streaming server ended");
        }
    });
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let mut request = http::Request::new(Body::empty());
    *request.method_mut() = forwarded.method;
    *request.uri_mut() = path.parse().map_err(|error| format!("parse {path:?}: {error}"))?;
    *request.headers_mut() = forwarded.headers;
    // The client's body, if it has one, is not sent on.
    for name in [http::header::TRANSFER_ENCODING, http::header::CONTENT_LENGTH, http::header::EXPECT] {
        request.headers_mut().remove(name);
    }
    request.headers_mut().remove(http::header::AUTHORIZATION);
    if !request.headers().contains_key(HOST)
        && let Some(authority) = url.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok())
    {
        request.headers_mut().insert(HOST, authority);
    }
    sender.send_request(request).await.map_err(|error| error.to_string())
}

/// What the runtime answered, for the client: 101 joins the two connections, for as long as which the request counts as in flight; a
/// refusal is passed on.
async fn relay(
    shared: &Arc<Shared>,
    peer: &Peer,
    (client, in_flight): (OnUpgrade, Option<InFlight>),
    mut answer: http::Response<hyper::body::Incoming>,
) -> Response {
    let status = answer.status();
    let mut headers = answer.headers().clone();
    if status == StatusCode::SWITCHING_PROTOCOLS {
        let runtime = hyper::upgrade::on(&mut answer);
        let (shared, shutdown) = (Arc::clone(shared), peer.shutdown.clone());
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => {}
                () = joined(&shared, client, runtime) => {}
            }
            drop(in_flight);
        });
        let mut response = reply::bare(status, Body::empty());
        *response.headers_mut() = headers;
        return response;
    }
    if status.as_u16() < 400 {
        return reply::error_line(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("invalid upgrade response: status code {}", status.as_u16()),
        );
    }
    let body = tokio::time::timeout(ANSWER, to_bytes(Body::new(answer.into_body()), REFUSAL)).await;
    let body = body.ok().and_then(Result::ok).unwrap_or_default();
    for name in [CONNECTION, UPGRADE, http::header::TRANSFER_ENCODING, http::header::CONTENT_LENGTH] {
        headers.remove(name);
    }
    // The upgrade failed: nothing more may come over this connection (CVE-2018-1002105).
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    let mut response = reply::bare(status, Body::from(body));
    *response.headers_mut() = headers;
    response
}

async fn joined(shared: &Shared, client: OnUpgrade, runtime: OnUpgrade) {
    // Both or neither: whichever is there is dropped, and so closed, if the other is not.
    let (client, runtime) = match tokio::time::timeout(ANSWER, async { tokio::try_join!(client, runtime) }).await {
        Ok(Ok(both)) => both,
        Ok(Err(error)) => return tracing::debug!(%error, "The connection was not upgraded"),
        Err(_) => return tracing::debug!("The connection was not upgraded in time"),
    };
    let open = shared.metrics.stream_opened();
    let idle = shared.settings.listeners.streaming_idle_timeout;
    copy_both_ways(TokioIo::new(client), TokioIo::new(runtime), idle).await;
    drop(open);
}

/// Copies until both sides have closed, until 10 s after one has, or until nothing has moved for `idle` (zero is for ever).
async fn copy_both_ways<A, B>(client: A, runtime: B, idle: Duration)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_runtime, mut to_runtime) = tokio::io::split(runtime);
    let moved = tokio::sync::watch::Sender::new(Instant::now());
    let inwards = copy(&mut from_client, &mut to_runtime, &moved);
    let outwards = copy(&mut from_runtime, &mut to_client, &moved);
    let quiet = quiet(&moved, idle);
    tokio::pin!(inwards, outwards, quiet);
    tokio::select! {
        biased;
        () = &mut inwards => drop(tokio::time::timeout(DRAIN, outwards).await),
        () = &mut outwards => drop(tokio::time::timeout(DRAIN, inwards).await),
        () = &mut quiet => tracing::debug!("A stream was idle for too long"),
    }
}

async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    moved: &tokio::sync::watch::Sender<Instant>,
) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        if read == 0 {
            // Whatever the matter is, this direction is over; the other side learns of it.
            let _ = to.shutdown().await;
            return;
        }
        if to.write_all(&buffer[..read]).await.is_err() || to.flush().await.is_err() {
            return;
        }
        moved.send_replace(Instant::now());
    }
}

async fn quiet(moved: &tokio::sync::watch::Sender<Instant>, idle: Duration) {
    if idle.is_zero() {
        return futures::future::pending().await;
    }
    loop {
        let until = *moved.borrow() + idle;
        if until <= Instant::now() {
            return;
        }
        tokio::time::sleep_until(until).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_session_without_traffic_is_ended() {
        let (client, near) = tokio::io::duplex(64);
        let (runtime, far) = tokio::io::duplex(64);
        let started = Instant::now();
        let idle = Duration::from_secs(4 * 3600);
        let (mut client, mut runtime) = (client, runtime);
        let talk = async {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            client.write_all(b"x").await.unwrap();
            assert_eq!(runtime.read_u8().await.unwrap(), b'x');
        };
        tokio::join!(copy_both_ways(near, far, idle), talk);
        assert_eq!(started.elapsed(), Duration::from_secs(5 * 3600));
        // INV-08: both ends see it.
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(runtime.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn output_is_drained_after_the_client_has_closed_its_half() {
        let (mut client, near) = tokio::io::duplex(64);
        let (mut runtime, far) = tokio::io::duplex(64);
        let talk = async {
            client.shutdown().await.unwrap();
            assert_eq!(runtime.read(&mut [0]).await.unwrap(), 0);
            tokio::time::sleep(Duration::from_secs(5)).await;
            runtime.write_all(b"late").await.unwrap();
            runtime.shutdown().await.unwrap();
            let mut output = String::new();
            client.read_to_string(&mut output).await.unwrap();
            assert_eq!(output, "late");
        };
        tokio::join!(copy_both_ways(near, far, Duration::ZERO), talk);
    }
}
