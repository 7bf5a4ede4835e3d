//! Classifies what gRPC says of a failed call: did nothing happen, did something perhaps, or was it refused.
//! Upstream: google.golang.org/grpc/codes, pkg/kubelet/images/types.go (code Unknown is not shown).
//! Differs: the message is the runtime's own, without `rpc error: code = .. desc = ..` around it.

use std::error::Error;

use kubelet::failure::{Failure, FailureKind};
use tonic::{Code, Status};

use super::connection::NotConnected;

/// What a failed call means.
pub(super) fn failure(status: &Status) -> Failure {
    if let Some(not_connected) = cause::<NotConnected>(status) {
        return Failure::new(FailureKind::Unavailable, not_connected.to_string());
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
    Failure::new(kind, message)
}

fn broken(status: &Status) -> FailureKind {
    // hyper hands a request back unsent when the connection was gone before its turn came.
    if cause::<hyper::Error>(status).is_some_and(hyper::Error::is_canceled) {
        FailureKind::Unavailable
    } else {
        FailureKind::UnknownOutcome
    }
}

fn cause<E: Error + 'static>(status: &Status) -> Option<&E> {
    let mut next = status.source();
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// A reply that breaks the contract (CRI-006).
pub(super) fn malformed(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Other, message)
}

/// Stopping or removing what is not there has succeeded (CRI-005, RTD-016).
pub(super) fn gone_is_done<T: Default>(outcome: Result<T, Failure>) -> Result<T, Failure> {
    match outcome {
        Err(failure) if failure.is_not_found() => Ok(T::default()),
        outcome => outcome,
    }
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
    }

    // CRI-005
    #[test]
    fn what_is_gone_is_stopped() {
        let gone: Result<(), Failure> = Err(failure(&Status::not_found("no such container")));
        assert_eq!(gone_is_done(gone), Ok(()));
        let refused: Result<(), Failure> = Err(failure(&Status::unknown("permission denied")));
        assert!(gone_is_done(refused).is_err());
    }
}
