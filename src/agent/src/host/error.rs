//! What a failed operation on the machine means.
//! Upstream: os.PathError and syscall.Errno of Go's library, whose wording users know from upstream's messages.
//! Differs: nothing on purpose.

use std::io;
use std::path::Path;

use kubelet::failure::{Failure, FailureKind};
use thiserror::Error;

pub(super) use crate::go_text::io_error as words;

/// An operation on the machine failed.
#[derive(Debug, Error)]
pub(super) enum HostError {
    /// The kernel refused a call.
    #[error("{operation} {path}: {}", words(.source))]
    Io {
        operation: &'static str,
        path: String,
        #[source]
        source: io::Error,
    },
    /// What was asked for makes no sense; repeating it is useless.
    #[error("{0}")]
    Invalid(String),
    /// The machine is not as the operation needs it.
    #[error("{0}")]
    Unfit(String),
}

impl HostError {
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        let kind = match &error {
            HostError::Invalid(_) => FailureKind::Invalid,
            HostError::Unfit(_) => FailureKind::Other,
            HostError::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => FailureKind::NotFound,
                io::ErrorKind::AlreadyExists => FailureKind::AlreadyExists,
                io::ErrorKind::Unsupported => FailureKind::Unimplemented,
                _ => FailureKind::Other,
            },
        };
        Self::new(kind, error.to_string())
    }
}

/// Says of an error what was being done to what.
pub(super) trait Context<T> {
    fn context(self, operation: &'static str, path: &Path) -> Result<T, HostError>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, operation: &'static str, path: &Path) -> Result<T, HostError> {
        self.map_err(|error| HostError::Io { operation, path: path.display().to_string(), source: error.into() })
    }
}

/// What is not there need not be removed.
pub(super) fn unless_missing<T: Default>(outcome: Result<T, HostError>) -> Result<T, HostError> {
    match outcome {
        Err(error) if error.is_not_found() => Ok(T::default()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_upstreams_do() {
        let missing: Result<(), io::Error> = Err(io::Error::from_raw_os_error(2));
        let failure = Failure::from(missing.context("open", Path::new("/etc/hosts")).unwrap_err());
        assert_eq!(failure, Failure::new(FailureKind::NotFound, "open /etc/hosts: no such file or directory"));
    }
}
