//! What the server and the tools may see of the core: read between two events, never kept.
//! Upstream: pkg/kubelet/kubelet_pods.go (GetPods), pkg/kubelet/kubelet_getters.go.
//! Differs: nothing on purpose.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::ids::PodUid;
use crate::kubelet::Kubelet;
use crate::observation::Observed;
use crate::pod::manager::name_of;
use crate::pod::worker::PodWorker;

impl Kubelet {
    /// The pods that some source wants here, each with the status that was last computed (API-060).
    #[must_use]
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        self.pods.iter().map(|(uid, desired)| self.with_status(uid, &desired.pod)).collect()
    }

    /// One of them, by namespace and name; of two with one name, the one that is not being deleted.
    #[must_use]
    pub fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let named = self.pods.iter().filter(|(_, desired)| {
            let full = name_of(&desired.pod);
            *full.namespace == *namespace && *full.name == *name
        });
        let (uid, desired) = named.min_by_key(|(_, desired)| desired.pod.metadata.deletion_timestamp.is_some())?;
        Some(self.with_status(uid, &desired.pod))
    }

    /// What was last seen of a pod in the runtime.
    #[must_use]
    pub fn observation(&self, uid: &PodUid) -> Option<Observed> {
        self.workers.get(uid)?.observation.clone()
    }

    /// One pod's worker.
    #[must_use]
    pub fn worker(&self, uid: &PodUid) -> Option<&PodWorker> {
        self.workers.get(uid)
    }

    fn with_status(&self, uid: &PodUid, pod: &Arc<Pod>) -> Arc<Pod> {
        match self.parts.statuses.status(uid) {
            Some(status) if pod.status.as_ref() != Some(status) => {
                let mut pod = (**pod).clone();
                pod.status = Some(status.clone());
                Arc::new(pod)
            }
            _ => Arc::clone(pod),
        }
    }
}
