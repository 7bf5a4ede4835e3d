//! Looks at the runtime: at everything briefly, or at one pod in detail.
//! Upstream: pkg/kubelet/kuberuntime/kuberuntime_manager.go (GetPods, GetPodStatus), kuberuntime_{sandbox,container}.go.
//! Differs: the statuses of one pod are asked for at once; the highest attempt is the newest, whatever the clock was set to.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::{try_join, try_join_all};
use kubelet::event::CriReply;
use kubelet::failure::Failure;
use kubelet::ids::PodUid;
use kubelet::observation::{ContainerStatus, Listing, PodObservation, SandboxStatus};
use proto::cri::*;

use super::convert::{self, Identified, POD_UID};
use super::{CriRuntime, error};
use crate::grpc::failure;

impl CriRuntime {
    /// Everything that carries a pod's identity (POD-054, LOG-003).
    pub(super) async fn list(&self) -> Result<CriReply, Failure> {
        let began = self.now();
        let (sandboxes, containers) = try_join(self.list_sandboxes(BTreeMap::new()), self.list_containers(BTreeMap::new())).await?;
        let sandboxes = sandboxes.iter().filter_map(convert::listed_sandbox).collect::<Result<_, _>>()?;
        let containers = containers.iter().filter_map(convert::listed_container).collect::<Result<_, _>>()?;
        Ok(CriReply::Listing { began, listing: Listing { sandboxes, containers } })
    }

    /// One pod in detail. What goes away between its listing and its status is left out (CRI-005).
    pub(super) async fn observe(&self, pod: PodUid) -> Result<CriReply, Failure> {
        let began = self.now();
        let selector = || BTreeMap::from([(POD_UID.to_owned(), pod.to_string())]);
        let sandboxes = async {
            let listed = self.list_sandboxes(selector()).await?;
            let listed = listed.into_iter().filter(|s| convert::listed_sandbox(s).is_some());
            let statuses = try_join_all(listed.map(|s| self.sandbox_status(s.id))).await?;
            Ok::<_, Failure>(statuses.into_iter().flatten().collect::<Vec<_>>())
        };
        let containers = async {
            let listed = self.list_containers(selector()).await?;
            let listed = listed.into_iter().filter(|c| convert::listed_container(c).is_some());
            let statuses = try_join_all(listed.map(|c| self.container_status(c.id, c.pod_sandbox_id))).await?;
            Ok::<_, Failure>(statuses.into_iter().flatten().collect::<Vec<_>>())
        };
        let (sandboxes, containers) = try_join(sandboxes, containers).await?;
        Ok(CriReply::Observation(Arc::new(assemble(pod, began, sandboxes, containers))))
    }

    async fn list_sandboxes(&self, label_selector: BTreeMap<String, String>) -> Result<Vec<PodSandbox>, Failure> {
        let filter = Some(PodSandboxFilter { label_selector, ..PodSandboxFilter::default() });
        let reply = self.runtime.clone().list_pod_sandbox(ListPodSandboxRequest { filter }).await;
        reply.map(|r| r.into_inner().items).map_err(|status| failure(&status))
    }

    async fn list_containers(&self, label_selector: BTreeMap<String, String>) -> Result<Vec<Container>, Failure> {
        let filter = Some(ContainerFilter { label_selector, ..ContainerFilter::default() });
        let reply = self.runtime.clone().list_containers(ListContainersRequest { filter }).await;
        reply.map(|r| r.into_inner().containers).map_err(|status| failure(&status))
    }

    async fn sandbox_status(&self, id: String) -> Result<Option<Identified<SandboxStatus>>, Failure> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: false };
        let reply = self.runtime.clone().pod_sandbox_status(request).await.map_err(|status| failure(&status));
        match reply {
            Ok(reply) => {
                let status = reply.into_inner().status;
                let status = status.ok_or_else(|| error::malformed(format!("sandbox {id:?}: status is not set")))?;
                convert::sandbox_status(status).map(Some)
            }
            Err(failure) if failure.is_not_found() => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    async fn container_status(&self, id: String, sandbox: String) -> Result<Option<Identified<ContainerStatus>>, Failure> {
        let request = ContainerStatusRequest { container_id: id.clone(), verbose: false };
        let reply = self.runtime.clone().container_status(request).await.map_err(|status| failure(&status));
        match reply {
            Ok(reply) => {
                let status = reply.into_inner().status;
                let status = status.ok_or_else(|| error::malformed(format!("container {id:?}: status is not set")))?;
                convert::container_status(status, &sandbox).map(Some)
            }
            Err(failure) if failure.is_not_found() => Ok(None),
            Err(failure) => Err(failure),
        }
    }
}

fn assemble(
    pod: PodUid,
    began: kubelet::time::Mono,
    sandboxes: Vec<Identified<SandboxStatus>>,
    containers: Vec<Identified<ContainerStatus>>,
) -> PodObservation {
    let mut observation = PodObservation::empty(pod, began);
    let names = sandboxes.iter().map(|s| (&s.namespace, &s.name)).chain(containers.iter().map(|c| (&c.namespace, &c.name)));
    if let Some((namespace, name)) = names.into_iter().find(|(_, name)| !name.is_empty()) {
        observation.namespace.clone_from(namespace);
        observation.name.clone_from(name);
    }
    observation.sandboxes = sandboxes.into_iter().map(|s| s.status).collect();
    observation.containers = containers.into_iter().map(|c| c.status).collect();
    // Newest first. Attempts only grow, but wall clocks are set back, and a runtime may finish an old creation late. The ID
    // comes last, so that the order never hangs on the runtime's.
    observation.sandboxes.sort_by(|a, b| (b.attempt, b.created_at, &b.id).cmp(&(a.attempt, a.created_at, &a.id)));
    observation.containers.sort_by(|a, b| (b.attempt, b.created_at, &b.id).cmp(&(a.attempt, a.created_at, &a.id)));
    observation
}
