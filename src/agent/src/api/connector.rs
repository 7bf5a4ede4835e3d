//! One connection to the API server: a stream of `Net`, and TLS above it where the URL says so.
//! Upstream: k8s.io/client-go/transport.
//! Differs: identity files are read for each new connection, and changed files make new connections: no restart for a renewed certificate;
//! while a node has no certificate yet, a connection waits for it, where upstream would ask as nobody.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tower::Service;

use super::access::Access;
use crate::env::{BoxedStream, Endpoint, Net};
use crate::tls::client_config;

/// How long a connection may take to be there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes connections.
#[derive(Clone)]
pub(super) struct Connector {
    access: Arc<Access>,
    net: Arc<dyn Net>,
}

impl Connector {
    pub(super) fn new(access: Arc<Access>, net: Arc<dyn Net>) -> Self {
        Self { access, net }
    }

    pub(super) fn access(&self) -> &Access {
        &self.access
    }
}

impl Service<Uri> for Connector {
    type Response = ApiStream;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<ApiStream>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (access, net) = (Arc::clone(&self.access), Arc::clone(&self.net));
        async move {
            let connected = tokio::time::timeout(CONNECT_TIMEOUT, connect(&access, net.as_ref(), &uri)).await;
            connected.unwrap_or_else(|_| {
                let waits = access.rotating.as_ref().is_some_and(|rotating| rotating.is_empty());
                let why = if waits { "there is no valid client certificate; it is being requested" } else { "dial: i/o timeout" };
                Err(io::Error::new(io::ErrorKind::TimedOut, why))
            })
        }
        .boxed()
    }
}

async fn connect(access: &Access, net: &dyn Net, uri: &Uri) -> io::Result<ApiStream> {
    // First, for a certificate that is renewed meanwhile must end this connection too.
    let (identity, outdated) = match &access.rotating {
        Some(rotating) => {
            let (identity, outdated) = rotating.shown().await;
            (Some(identity), Some(outdated))
        }
        None => (access.identity()?, None),
    };
    let secure = uri.scheme_str() != Some("http");
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let dialed = net.connect(Endpoint::Tcp { host: host.clone(), port }).await;
    // Go's words, without the system's number: people search for them.
    let stream = dialed.map_err(|e| io::Error::new(e.kind(), format!("dial tcp {host}:{port}: connect: {}", plain(&e))))?;
    if !secure {
        return Ok(ApiStream::new(stream, false, outdated));
    }
    let mut config = client_config(&access.trusted()?, identity.as_ref()).map_err(io::Error::other)?;
    if access.http1_only {
        config.alpn_protocols.retain(|protocol| protocol != b"h2");
    }
    let name = ServerName::try_from(access.server_name.clone().unwrap_or(host)).map_err(io::Error::other)?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    Ok(ApiStream::new(Box::pin(stream), h2, outdated))
}

/// An error of the system as Go tells it.
fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset by peer".to_owned(),
        io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        io::ErrorKind::TimedOut => "connection timed out".to_owned(),
        _ => error.to_string(),
    }
}

/// A connection, and whether HTTP/2 was agreed on.
pub(super) struct ApiStream {
    io: TokioIo<BoxedStream>,
    h2: bool,
    /// Ready once the certificate that it was made with has been replaced.
    outdated: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl ApiStream {
    fn new(stream: BoxedStream, h2: bool, outdated: Option<CancellationToken>) -> Self {
        Self { io: TokioIo::new(stream), h2, outdated: outdated.map(|token| Box::pin(token.cancelled_owned())) }
    }
}

impl Connection for ApiStream {
    fn connected(&self) -> Connected {
        if self.h2 { Connected::new().negotiated_h2() } else { Connected::new() }
    }
}

impl Read for ApiStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        // API-195. Somebody always reads, for an answer or for the end.
        if self.outdated.as_mut().is_some_and(|outdated| outdated.as_mut().poll(cx).is_ready()) {
            let why = "the client certificate was renewed: connections with the old one are closed";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, why)));
        }
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl Write for ApiStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
