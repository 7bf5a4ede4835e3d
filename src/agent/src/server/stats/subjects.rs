//! Usage by cgroup: the node, its parts, all pods, each pod, each sandbox and container, with what they are called.
//! Upstream: github.com/google/cadvisor/manager, pkg/kubelet/cadvisor, cmd/kubelet/app/server.go (cgroupRoots).
//! Differs: which pods, sandboxes and containers there are is what the agent last saw; a sandbox's image is not known.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use kubelet::action::CriCall;
use kubelet::event::CriReply;
use kubelet::failure::Failure;
use kubelet::ids::PodUid;
use kubelet::observation::{ContainerState, MachineInfo, Observed, SandboxState};

use super::collect::Collector;
use super::network::{Interface, interfaces};
use crate::env::{CgroupUsage, DiskUsage};
use crate::server::NodeView;

/// One cgroup. Names that it has not are empty.
#[derive(Clone, Debug, Default)]
pub(crate) struct Subject {
    /// The cgroup's path.
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) image: String,
    pub(crate) container: String,
    pub(crate) pod: String,
    pub(crate) namespace: String,
    /// When it was measured.
    pub(crate) at: Timestamp,
    pub(crate) usage: CgroupUsage,
    /// What it read and wrote, by the disk's name.
    pub(crate) disks: Vec<(String, DiskUsage)>,
    /// Of the node and of sandboxes: what the others of a pod would only say again.
    pub(crate) interfaces: Vec<Interface>,
}

impl Collector {
    /// The machine, and every cgroup that is measured.
    pub(crate) async fn subjects(&self, view: &dyn NodeView) -> Result<(MachineInfo, Vec<Subject>), Failure> {
        let (cgroups, seen, prefix) = tokio::join!(self.pod_cgroups(), view.observations(), self.cgroup_prefix());
        let seen: BTreeMap<&PodUid, &Observed> = seen.iter().map(|seen| (&seen.pod, seen)).collect();
        let mut subjects = Vec::new();
        let mut named = BTreeSet::new();
        for cgroup in self.parts_of_the_node(view).await {
            if named.insert(cgroup.clone()) {
                subjects.extend(self.subject(Subject { id: cgroup, ..Subject::default() }).await);
            }
        }
        for (uid, cgroup) in cgroups? {
            let Some(seen) = seen.get(&uid) else {
                subjects.extend(self.subject(Subject { id: cgroup, ..Subject::default() }).await);
                continue;
            };
            let pod = Subject { pod: seen.name.clone(), namespace: seen.namespace.clone(), ..Subject::default() };
            subjects.extend(self.subject(Subject { id: cgroup.clone(), ..pod.clone() }).await);
            subjects.extend(self.of_runtime(&cgroup, prefix, seen, &pod).await);
        }
        let machine = self.machine_with_disks_of(&mut subjects).await?;
        Ok((MachineInfo::clone(&machine), subjects))
    }

    /// The root, what the machine is divided into, and the tiers that pods are divided into.
    async fn parts_of_the_node(&self, view: &dyn NodeView) -> Vec<String> {
        let parts = self.system_cgroups(view).await.into_iter().map(|(_, cgroup)| cgroup);
        let tiers =
            view.pods_cgroup().await.into_iter().flat_map(|pods| ["besteffort", "burstable"].map(|tier| tier_of(&pods, tier)));
        ["/".to_owned()].into_iter().chain(parts).chain(tiers).collect()
    }

    /// The sandboxes and containers of one pod that run.
    async fn of_runtime(&self, cgroup: &str, prefix: &str, seen: &Observed, pod: &Subject) -> Vec<Subject> {
        let mut subjects = Vec::new();
        for sandbox in seen.sandboxes.iter().filter(|one| one.state == SandboxState::Ready) {
            let id = container_cgroup(cgroup, sandbox.id.as_str(), prefix);
            // So CRI-O labels its sandboxes; containerd leaves theirs without a name (API-143).
            let container = if prefix == CRIO { "POD" } else { "" }.to_owned();
            let named = Subject { id, name: sandbox.id.to_string(), container, ..pod.clone() };
            let Some(mut sandbox) = self.subject(named).await else { continue };
            if let Some(process) = sandbox.usage.first_process {
                let table = self.contents(&format!("/proc/{process}/net/dev")).await;
                sandbox.interfaces = table.as_deref().map(interfaces).unwrap_or_default();
            }
            subjects.push(sandbox);
        }
        for container in seen.containers.iter().filter(|one| one.state == ContainerState::Running) {
            let id = container_cgroup(cgroup, container.id.as_str(), prefix);
            let (image, name) = (container.image.clone(), container.id.to_string());
            let named = Subject { id, name, image, container: container.name.clone(), ..pod.clone() };
            subjects.extend(self.subject(named).await);
        }
        subjects
    }

    /// Measures a cgroup; `None` if it is not there.
    async fn subject(&self, named: Subject) -> Option<Subject> {
        let usage = self.usage(&named.id, true).await.ok()??;
        let interfaces = match named.id.as_str() {
            "/" => self.contents("/proc/net/dev").await.as_deref().map(interfaces).unwrap_or_default(),
            _ => Vec::new(),
        };
        Some(Subject { at: self.env.clock.now(), usage, interfaces, ..named })
    }

    /// What the runtime puts before a container's ID in the name of its systemd scope; it does not tell, but it is well known.
    pub(super) async fn cgroup_prefix(&self) -> &'static str {
        let ask = || async {
            let version = self.env.runtime.call(CriCall::Version);
            match tokio::time::timeout(PATIENCE, version).await {
                Ok(Ok(CriReply::Version(version))) => Ok(if version.name == "cri-o" { CRIO } else { CONTAINERD }),
                // Asked again the next time.
                _ => Err(()),
            }
        };
        self.scope_prefix.get_or_try_init(ask).await.copied().unwrap_or(CONTAINERD)
    }
}

const CRIO: &str = "crio";
const CONTAINERD: &str = "cri-containerd";
/// How long a scrape waits for the runtime's name.
const PATIENCE: Duration = Duration::from_secs(2);

/// The cgroup of a tier, as the driver names it.
fn tier_of(pods: &str, tier: &str) -> String {
    match pods.strip_suffix(".slice") {
        Some(slice) => format!("{pods}/{}-{tier}.slice", slice.rsplit('/').next().unwrap_or_default()),
        None => format!("{pods}/{tier}"),
    }
}

/// The cgroup of a container below its pod's.
pub(super) fn container_cgroup(pod: &str, id: &str, prefix: &str) -> String {
    if pod.ends_with(".slice") { format!("{pod}/{prefix}-{id}.scope") } else { format!("{pod}/{id}") }
}
