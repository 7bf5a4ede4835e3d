//! Listeners, TLS and connections: from an accepted stream to requests at the gate.
//! Upstream: pkg/kubelet/server/server.go (ListenAndServeKubeletServer), cmd/kubelet/app/server.go (healthz).
//! Differs: a handshake has 10 s, and so has the first request; accepting that fails ten times in a row ends the listener.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::flushed::{Flushes, Watched};
use super::routes::{Gate, IDLE, Peer, Standing};
use super::strangers::Strangers;
use crate::env::{BoxedStream, Net};

const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a connection may be open before it has asked for anything.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// Go counts only bytes; here each request takes memory for so many.
const MAX_HEADER_LINES: usize = 1024;
const HEALTHZ_RETRY: Duration = Duration::from_secs(5);
const ACCEPT_FAILURES: u32 = 10;

/// Why a listener ended; the agent exits with 1 (API-004).
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address could not be had.
    #[error("Failed to listen and serve: listen tcp {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// No stream came out of the listener any more.
    #[error("Failed to listen and serve: accept tcp {address}: {source}")]
    Accept {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// Serves a gate on an address until the token is cancelled, in TLS if there is a configuration for it. Cancelling ends all
/// connections at once.
///
/// # Errors
/// If the address cannot be listened on, or accepting keeps failing.
pub async fn serve(
    net: Arc<dyn Net>,
    address: SocketAddr,
    gate: Arc<Gate>,
    tls: Option<Arc<rustls::ServerConfig>>,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let mut listener = net.listen(address).await.map_err(|source| ServeError::Listen { address, source })?;
    let acceptor = tls.map(TlsAcceptor::from);
    let strangers = Arc::new(Strangers::default());
    let mut failures = 0;
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => {
                failures = 0;
                let over = CancellationToken::new();
                let (gate, acceptor, shutdown) = (Arc::clone(&gate), acceptor.clone(), shutdown.clone());
                let strangers = Arc::clone(&strangers);
                tokio::spawn(async move {
                    let served = async {
                        let stranger = strangers.enter(from.ip(), over.clone()).await;
                        let standing = Arc::new(Standing { stranger: Mutex::new(Some(stranger)), ..Standing::default() });
                        let peer = Peer { address: from, certificates: Vec::new(), shutdown: shutdown.clone(), standing };
                        connection(gate, acceptor, stream, peer).await;
                    };
                    tokio::select! {
                        biased;
                        () = shutdown.cancelled() => {}
                        () = over.cancelled() => tracing::debug!(%from, "Too many connections wait at the door; the oldest is closed"),
                        () = served => {}
                    }
                });
            }
            Err(source) if failures >= ACCEPT_FAILURES => return Err(ServeError::Accept { address, source }),
            Err(error) => {
                // As Go does: out of file descriptors, most likely, and that passes.
                tracing::warn!(%error, %address, "Failed to accept");
                let pause = Duration::from_millis(5 << failures).min(Duration::from_secs(1));
                failures += 1;
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// Serves the healthz listener until the token is cancelled, trying again when it cannot: it is never fatal (API-003).
pub async fn serve_healthz(net: Arc<dyn Net>, address: SocketAddr, gate: Arc<Gate>, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        if let Err(error) = serve(Arc::clone(&net), address, Arc::clone(&gate), None, shutdown.clone()).await {
            tracing::error!(%error, "Failed to start healthz server");
            tokio::select! {
                biased;
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(HEALTHZ_RETRY) => {}
            }
        }
    }
}

async fn connection(gate: Arc<Gate>, acceptor: Option<TlsAcceptor>, stream: BoxedStream, peer: Peer) {
    let address = peer.address;
    let Some(acceptor) = acceptor else { return requests(gate, stream, peer).await };
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let certificates = stream.get_ref().1.peer_certificates().map(<[_]>::to_vec).unwrap_or_default();
            requests(gate, Box::pin(stream), Peer { certificates, ..peer }).await;
        }
        Ok(Err(error)) => tracing::debug!(%error, %address, "TLS handshake error"),
        Err(_) => tracing::debug!(%address, "TLS handshake timeout"),
    }
}

/// Requests of one connection, one after another.
pub(crate) async fn requests(gate: Arc<Gate>, stream: BoxedStream, peer: Peer) {
    let (address, longest) = (peer.address, gate.longest_request());
    let asked = peer.standing.asked.clone();
    let peer = Arc::new(peer);
    let flushes = Flushes::default();
    let stream = Watched::new(stream, flushes.clone());
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        let (gate, peer) = (Arc::clone(&gate), Arc::clone(&peer));
        request.extensions_mut().insert(flushes.clone());
        async move { Ok::<_, Infallible>(gate.respond(&peer, request.map(Body::new)).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(longest)
        .max_headers(MAX_HEADER_LINES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let never_asks = async {
        if tokio::time::timeout(FIRST_REQUEST, asked.cancelled()).await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        ended = served => {
            if let Err(error) = ended {
                tracing::debug!(%error, %address, "Connection ended");
            }
        }
        () = never_asks => tracing::debug!(%address, "Nothing was asked for; the connection is closed"),
    }
}
