//! Decides which of the things that happened become API events, and folds repeated ones.
//! Upstream: staging/src/k8s.io/client-go/tools/record, pkg/kubelet/events/event.go.
//! Differs: nothing on purpose.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

/// One thing worth telling the users.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// What it is about.
    pub subject: Subject,
    /// Whether it is a Warning; Normal otherwise.
    pub warning: bool,
    /// Upstream's exact reason, such as `BackOff`.
    pub reason: &'static str,
    /// Upstream's exact message.
    pub message: String,
}

/// What an event is about.
#[derive(Clone, Debug, PartialEq)]
pub enum Subject {
    /// This node.
    Node,
    /// A pod.
    Pod(Arc<Pod>),
    /// A container of a pod, by its field path such as `spec.containers{main}` (POD-360).
    Container(Arc<Pod>, String),
}

impl Recorded {
    /// A Normal event.
    #[must_use]
    pub fn normal(subject: Subject, reason: &'static str, message: impl Into<String>) -> Self {
        Self { subject, warning: false, reason, message: message.into() }
    }

    /// A Warning event.
    #[must_use]
    pub fn warning(subject: Subject, reason: &'static str, message: impl Into<String>) -> Self {
        Self { subject, warning: true, reason, message: message.into() }
    }
}
