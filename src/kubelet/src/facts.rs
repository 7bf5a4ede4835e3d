//! What is counted of the lives of pods: told where it happens, taken after each event by whoever keeps the counts.
//! Upstream: pkg/kubelet/metrics/metrics.go, pkg/kubelet/prober/worker.go, pkg/kubelet/kubelet.go, pkg/kubelet/status/status_manager.go,
//! where each is observed.
//! Differs: a sync of a pod is one batch of changes; what a pod needs no change for is no sync; a start that fails again for the same
//! reason is not counted again.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use crate::ids::{PodName, PodUid};
use crate::prober::spec::ProbeKind;

/// What a container is in its pod, as metrics call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerType {
    /// `container`
    Ordinary,
    /// `init_container`
    Init,
    /// `ephemeral_container`
    Ephemeral,
}

impl ContainerType {
    /// Upstream's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ordinary => "container",
            Self::Init => "init_container",
            Self::Ephemeral => "ephemeral_container",
        }
    }

    /// That of a container by its name.
    #[must_use]
    pub fn of(pod: &Pod, name: &str) -> Self {
        let spec = pod.spec.as_ref();
        let is_init = spec.and_then(|spec| spec.init_containers.as_ref()).is_some_and(|all| all.iter().any(|one| one.name == name));
        let ephemeral = spec.and_then(|spec| spec.ephemeral_containers.as_ref());
        if is_init {
            Self::Init
        } else if ephemeral.is_some_and(|all| all.iter().any(|one| one.name == name)) {
            Self::Ephemeral
        } else {
            Self::Ordinary
        }
    }
}

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
    /// Nothing of a pod is probed or counted any more: it has ended.
    PodForgotten {
        /// Its name.
        name: PodName,
        /// Its UID.
        uid: PodUid,
    },
    /// A pod began to run, that long after it was first seen.
    PodRuns(Duration),
    /// All containers of a pod that was made while the agent lived have started, as the API server shows (SLI of pod start-up).
    PodStarted {
        /// Since its creation.
        total: Duration,
        /// Without pulls and init containers; `None` of a pod whose volumes keep something.
        sli: Option<Duration>,
        /// Whether it has a network of its own.
        networked: bool,
    },
    /// A pod came, with that many containers.
    PodCame(usize),
    /// The start of a container began.
    StartBegan(ContainerType),
    /// A container could not be started, for that reason.
    StartFailed(ContainerType, String),
    /// A container ended.
    ContainerEnded {
        /// Of which type.
        kind: ContainerType,
        /// How.
        exit_code: i32,
        /// Why.
        reason: String,
    },
    /// An image was pulled.
    ImagePulled {
        /// How long that took, waiting included.
        took: Duration,
        /// In bytes.
        size: u64,
    },
    /// A batch of changes to a pod ended.
    PodSynced {
        /// `create`, `sync` or `kill`.
        operation: &'static str,
        /// How long it took.
        took: Duration,
    },
}
