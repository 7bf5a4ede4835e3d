//! What is counted of the lives of pods: told where it happens, taken after each event by whoever keeps the counts.
//! Upstream: pkg/kubelet/metrics/metrics.go, pkg/kubelet/prober/worker.go, pkg/kubelet/kubelet.go, where each is observed.
//! Differs: a sync of a pod is one batch of changes; what a pod needs no change for is no sync.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use crate::prober::spec::ProbeKind;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// A probe ended.
    Probed {
        /// Of which pod.
        pod: Arc<Pod>,
        /// Of which container.
        container: String,
        /// Which one.
        kind: ProbeKind,
        /// Whether it passed.
        passed: bool,
        /// How long it took.
        took: Duration,
    },
    /// A pod began to run, that long after it was first seen.
    PodRuns(Duration),
    /// A batch of changes to a pod ended.
    PodSynced {
        /// `create`, `sync` or `kill`.
        operation: &'static str,
        /// How long it took.
        took: Duration,
    },
}
