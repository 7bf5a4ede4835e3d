//! What answers of the runtime count as failures beside those that it calls so itself.
//! Upstream: staging/src/k8s.io/cri-client/pkg/remote_runtime.go, pkg/kubelet/kuberuntime (isErrNotFound).
//! Differs: nothing on purpose.

use kubelet::failure::{Failure, FailureKind};

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
    use tonic::Status;

    use super::*;
    use crate::grpc::failure;

    // CRI-005
    #[test]
    fn what_is_gone_is_stopped() {
        let gone: Result<(), Failure> = Err(failure(&Status::not_found("no such container")));
        assert_eq!(gone_is_done(gone), Ok(()));
        let refused: Result<(), Failure> = Err(failure(&Status::unknown("permission denied")));
        assert!(gone_is_done(refused).is_err());
    }
}
