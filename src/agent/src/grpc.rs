//! gRPC over the agent's own sockets: a channel that connects when it is used, and what the other side's failures mean.
//! Upstream: google.golang.org/grpc (ClientConn, codes), pkg/kubelet/images/types.go (code Unknown is not shown).
//! Differs: a broken connection is re-made by the next call, at once, instead of after a back-off; a socket is cheap. The message is the
//! other side's own; `rpc error: code = .. desc = ..` comes around it where users know it so (`Failure::rpc_message`).

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use kubelet::failure::{Failure, FailureKind};
use thiserror::Error;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::env::{Endpoint, Net};

/// How long a connection may take to come up (CRI-001).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an error may be: it comes in a header, and a server breaks off the call rather than send one that is longer
/// (internal/transport/defaults.go: defaultClientMaxHeaderListSize).
const MAX_HEADERS: u32 = 16 << 20;

/// The connection could not be made, so nothing was sent.
#[derive(Debug, Error)]
#[error("connection error: desc = \"transport: Error while dialing: {0}\"")]
pub(crate) struct NotConnected(#[source] pub(crate) io::Error);

/// A channel that connects when it is used, and again whenever its connection has gone.
pub(crate) fn channel(net: Arc<dyn Net>, endpoint: Endpoint) -> Channel {
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
    let endpoint = tonic::transport::Endpoint::from_static("http://localhost").http2_max_header_list_size(MAX_HEADERS);
    endpoint.connect_with_connector_lazy(connector)
}

/// What a failed call means.
pub(crate) fn failure(status: &Status) -> Failure {
    if let Some(not_connected) = cause::<NotConnected>(status) {
        return Failure::new(FailureKind::Unavailable, not_connected.to_string()).with_code("Unavailable");
    }
    let kind = if status.source().is_some() {
        // Our own side made this status: the connection broke, or what came over it was no gRPC.
        broken(status)
    } else {
        match status.code() {
            Code::NotFound => FailureKind::NotFound,
            Code::AlreadyExists => FailureKind::AlreadyExists,
            Code::Aborted => FailureKind::Conflict,
            Code::Unauthenticated => FailureKind::Unauthorized,
            Code::PermissionDenied => FailureKind::Forbidden,
            Code::ResourceExhausted => FailureKind::Throttled { after: None },
            Code::Unavailable => FailureKind::Unavailable,
            Code::InvalidArgument | Code::OutOfRange => FailureKind::Invalid,
            Code::DeadlineExceeded | Code::Cancelled => FailureKind::UnknownOutcome,
            Code::Unimplemented => FailureKind::Unimplemented,
            _ => FailureKind::Other,
        }
    };
    let message = if status.message().is_empty() { status.code().description() } else { status.message() };
    Failure::new(kind, message).with_code(code_name(status.code()))
}

/// As Go names it.
fn code_name(code: Code) -> String {
    if code == Code::Cancelled { "Canceled".to_owned() } else { format!("{code:?}") }
}

fn broken(status: &Status) -> FailureKind {
    // hyper hands a request back unsent when the connection was gone before its turn came.
    if cause::<hyper::Error>(status).is_some_and(hyper::Error::is_canceled) {
        FailureKind::Unavailable
    } else {
        FailureKind::UnknownOutcome
    }
}

fn cause<E: StdError + 'static>(status: &Status) -> Option<&E> {
    let mut next = status.source();
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(code: Code) -> FailureKind {
        failure(&Status::new(code, "said the runtime")).kind
    }

    #[test]
    fn codes_are_told_apart_by_what_they_mean_for_a_retry() {
        assert_eq!(kind(Code::NotFound), FailureKind::NotFound);
        assert_eq!(kind(Code::DeadlineExceeded), FailureKind::UnknownOutcome);
        assert_eq!(kind(Code::Cancelled), FailureKind::UnknownOutcome);
        assert_eq!(kind(Code::Unavailable), FailureKind::Unavailable);
        assert_eq!(kind(Code::Unimplemented), FailureKind::Unimplemented);
        assert_eq!(kind(Code::ResourceExhausted), FailureKind::Throttled { after: None });
        assert_eq!(kind(Code::InvalidArgument), FailureKind::Invalid);
        assert_eq!(kind(Code::Unknown), FailureKind::Other);
    }

    #[test]
    fn the_runtimes_own_words_are_kept() {
        let failure = failure(&Status::unknown("failed to reserve sandbox name \"x\""));
        assert_eq!(failure.message, "failed to reserve sandbox name \"x\"");
        // google.golang.org/grpc/status (Error)
        assert_eq!(failure.rpc_message(), "rpc error: code = Unknown desc = failed to reserve sandbox name \"x\"");
        assert_eq!(super::failure(&Status::cancelled("gone")).rpc_message(), "rpc error: code = Canceled desc = gone");
        assert_eq!(super::failure(&Status::not_found("gone")).rpc_message(), "rpc error: code = NotFound desc = gone");
    }
}
