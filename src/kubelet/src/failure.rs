//! How a call failed, classified once at the boundary: the core decides by the kind, people read the message.
//! Upstream: k8s.io/apimachinery/pkg/api/errors, google.golang.org/grpc/codes.
//! Differs: API server, runtime and host share one classification.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The kinds of failure that decisions tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The thing is not there. Success, for a stop or a remove.
    NotFound,
    /// A create found it there.
    AlreadyExists,
    /// The object changed under us (HTTP 409 on update, or a failed precondition).
    Conflict,
    /// The resourceVersion is too old (HTTP 410).
    Gone,
    /// Not authenticated (401).
    Unauthorized,
    /// Authenticated, not allowed (403). Counted: a node identity should never meet it.
    Forbidden,
    /// Asked to come back later (429, a 5xx with `Retry-After`, or gRPC ResourceExhausted).
    Throttled {
        /// What `Retry-After` said.
        after: Option<Duration>,
    },
    /// The other side is not there or says so (connection refused, 5xx, gRPC Unavailable): no effect is to be expected.
    Unavailable,
    /// The request itself is wrong (400, 422, gRPC InvalidArgument): repeating it is useless.
    Invalid,
    /// Our deadline passed, or the connection broke after sending: whether it took effect is not known.
    UnknownOutcome,
    /// The other side does not know the call.
    Unimplemented,
    /// The core withdrew the call.
    Canceled,
    /// Everything else.
    Other,
}

/// One failed call.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What decisions go by.
    pub kind: FailureKind,
    /// What people read: the other side's own words where there are any.
    pub message: String,
    /// The gRPC code with which the other side failed the call, if it did, as gRPC names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The HTTP status with which a server refused the request, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}

impl Failure {
    /// A failure of that kind with that message.
    #[must_use]
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), code: None, status: None }
    }

    /// The same, failed by a gRPC server with that code.
    #[must_use]
    pub fn with_code(self, code: impl Into<String>) -> Self {
        Self { code: Some(code.into()), ..self }
    }

    /// The same, refused by an HTTP server with that status.
    #[must_use]
    pub fn with_status(self, status: u16) -> Self {
        Self { status: Some(status), ..self }
    }

    /// The message as gRPC's own errors print it, which is how users know some failures of the runtime.
    #[must_use]
    pub fn rpc_message(&self) -> String {
        match &self.code {
            Some(code) => format!("rpc error: code = {code} desc = {}", self.message),
            None => self.message.clone(),
        }
    }

    /// Whether the API server's authorizer knows of no pod here that uses the object: for a moment it may not know of one that has just
    /// come (API-360).
    #[must_use]
    pub fn is_unrelated(&self) -> bool {
        self.kind == FailureKind::Forbidden && self.message.contains("no relationship found between node")
    }

    /// Whether the API server's node restriction knows of no such pod, of which it too hears late: only it, which asks a cache, calls one
    /// `pod` in such a message; the storage says `pods`.
    #[must_use]
    pub fn is_of_a_pod_unheard_of(&self) -> bool {
        self.kind == FailureKind::NotFound && self.message.starts_with("pod \"")
    }

    /// Whether the thing was not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.kind == FailureKind::NotFound
    }

    /// Whether the call may have taken effect all the same.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        matches!(self.kind, FailureKind::UnknownOutcome | FailureKind::Canceled)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({})", self.kind, self.message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
