//! Where the runtime is, and the one connection to it.
//! Upstream: staging/src/k8s.io/cri-client/pkg/util/util_unix.go, pkg/remote_runtime.go (NewRemoteRuntimeService).
//! Differs: a broken connection is re-made by the next call, at once, instead of after a back-off; a socket is cheap.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tonic::transport::Channel;

use crate::env::{Endpoint, Net};

/// How long a connection may take to come up (CRI-001).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The connection could not be made, so nothing was sent.
#[derive(Debug, Error)]
#[error("connection error: desc = \"transport: Error while dialing: {0}\"")]
pub(super) struct NotConnected(#[source] pub(super) io::Error);

/// Why text does not name a runtime endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EndpointError {
    /// The scheme is not `unix`.
    #[error("protocol {0:?} not supported")]
    Scheme(String),
    /// There is no absolute path.
    #[error("endpoint {0:?} has no absolute path")]
    Path(String),
}

/// Reads `--container-runtime-endpoint`: `unix:///path`, or a bare absolute path as older configurations have it (CRI-001).
///
/// # Errors
/// Another scheme, or a path that is not absolute.
pub fn parse_endpoint(text: &str) -> Result<Endpoint, EndpointError> {
    let path = match text.split_once("://") {
        Some(("unix", path)) => path,
        Some((scheme, _)) => return Err(EndpointError::Scheme(scheme.to_owned())),
        None => text.strip_prefix("unix:").unwrap_or(text),
    };
    if path.starts_with('/') { Ok(Endpoint::Unix(path.to_owned())) } else { Err(EndpointError::Path(text.to_owned())) }
}

/// A channel that connects when it is used, and again whenever its connection has gone.
pub(super) fn channel(net: Arc<dyn Net>, endpoint: Endpoint) -> Channel {
    let connector = tower::service_fn(move |_: Uri| {
        let (net, endpoint) = (Arc::clone(&net), endpoint.clone());
        async move {
            let connecting = net.connect(endpoint);
            match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
                Ok(Ok(stream)) => Ok(TokioIo::new(stream)),
                Ok(Err(error)) => Err(NotConnected(error)),
                Err(_) => Err(NotConnected(io::Error::from(io::ErrorKind::TimedOut))),
            }
        }
    });
    // The authority is what gRPC servers see as host (CRI-001).
    tonic::transport::Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector)
}

#[cfg(test)]
mod tests {
    use super::*;

    // CRI-001
    #[test]
    fn endpoints_are_unix_sockets() {
        let socket = Endpoint::Unix("/run/containerd/containerd.sock".into());
        assert_eq!(parse_endpoint("unix:///run/containerd/containerd.sock"), Ok(socket.clone()));
        assert_eq!(parse_endpoint("/run/containerd/containerd.sock"), Ok(socket));
        assert_eq!(parse_endpoint("tcp://1.2.3.4:5"), Err(EndpointError::Scheme("tcp".into())));
        assert!(matches!(parse_endpoint("unix://relative"), Err(EndpointError::Path(_))));
    }
}
