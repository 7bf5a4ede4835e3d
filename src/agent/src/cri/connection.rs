//! Where the runtime is.
//! Upstream: staging/src/k8s.io/cri-client/pkg/util/util_unix.go, pkg/remote_runtime.go (NewRemoteRuntimeService).
//! Differs: nothing on purpose.

use thiserror::Error;

use crate::env::Endpoint;

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
