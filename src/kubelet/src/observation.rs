//! What was seen of the runtime and the machine: strict, small, and stamped with when the look began.
//! Upstream: pkg/kubelet/container/runtime.go (Pod, PodStatus, Status), github.com/google/cadvisor/info/v1 (MachineInfo).
//! Differs: nothing on purpose.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{ContainerId, PodUid, SandboxId};
use crate::time::Mono;

/// Whether a sandbox can hold containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SandboxState {
    /// It is up.
    Ready,
    /// It was stopped or died.
    NotReady,
}

/// A container's state in the runtime's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ContainerState {
    /// Made, not started.
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited,
    /// The runtime does not know.
    Unknown,
}

/// One sandbox in a listing of all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedSandbox {
    /// Its ID.
    pub id: SandboxId,
    /// The pod that it is of.
    pub pod: PodUid,
    /// The pod's namespace and name.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// Which attempt of the pod's sandbox it is.
    pub attempt: u32,
    /// Its state.
    pub state: SandboxState,
    /// When it was made, in nanoseconds of the runtime's wall clock.
    pub created_at: i64,
}

/// One container in a listing of all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedContainer {
    /// Its ID.
    pub id: ContainerId,
    /// The pod that it is of.
    pub pod: PodUid,
    /// The sandbox that it is in.
    pub sandbox: SandboxId,
    /// Its name in the pod spec.
    pub name: String,
    /// Which attempt of that name it is.
    pub attempt: u32,
    /// Its state.
    pub state: ContainerState,
    /// When it was made, in nanoseconds of the runtime's wall clock.
    pub created_at: i64,
}

/// All sandboxes and containers of the runtime that carry a pod's identity (POD-054, LOG-003).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// Every sandbox.
    pub sandboxes: Vec<ListedSandbox>,
    /// Every container.
    pub containers: Vec<ListedContainer>,
}

/// A sandbox in detail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxStatus {
    /// Its ID.
    pub id: SandboxId,
    /// Which attempt of the pod's sandbox it is.
    pub attempt: u32,
    /// Its state.
    pub state: SandboxState,
    /// When it was made, in nanoseconds of the runtime's wall clock.
    pub created_at: i64,
    /// All IPs in the runtime's order, unparsable ones included.
    pub ips: Vec<String>,
    /// Whether the runtime tells of its network and has no first IP for it (CRI-042).
    #[serde(default)]
    pub lacks_ip: bool,
    /// Whether it uses the node's network namespace.
    pub host_network: bool,
    /// The RuntimeClass handler that it was made with; empty for the default.
    pub runtime_handler: String,
    /// The labels it was made with.
    pub labels: BTreeMap<String, String>,
    /// What the annotations that it was made with take, in bytes.
    #[serde(default)]
    pub annotation_bytes: usize,
}

/// A container in detail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Its ID.
    pub id: ContainerId,
    /// The sandbox that it is in.
    pub sandbox: SandboxId,
    /// Its name in the pod spec.
    pub name: String,
    /// Which attempt of that name it is; equals its restart count.
    pub attempt: u32,
    /// Its state.
    pub state: ContainerState,
    /// When it was made, started and ended, in nanoseconds of the runtime's wall clock; 0 if it was not.
    pub created_at: i64,
    /// See `created_at`.
    pub started_at: i64,
    /// See `created_at`.
    pub finished_at: i64,
    /// The exit code; meaningful when exited.
    pub exit_code: i32,
    /// The runtime's reason, such as `Completed`, `Error`, `OOMKilled`.
    pub reason: String,
    /// The runtime's message and, after it, the termination message that the container left (POD-175).
    pub message: String,
    /// The image as the spec named it.
    pub image: String,
    /// What the image resolved to, for `imageID`.
    pub image_ref: String,
    /// The image's ID on this node; what it resolved to where the runtime does not tell (CRI-021).
    pub image_id: String,
    /// The absolute path of its log.
    pub log_path: String,
    /// Labels and annotations carry what a kill needs when the pod object is gone (LOG-001, LOG-002).
    pub labels: BTreeMap<String, String>,
    /// See `labels`.
    pub annotations: BTreeMap<String, String>,
    /// Numeric user: uid, gid and supplemental groups, where the runtime tells.
    pub user: Option<LinuxUser>,
    /// CPU and memory settings in force, where the runtime tells.
    pub resources: Option<ActualResources>,
    /// Where on the host its termination message lies; empty if it is mounted nowhere. Read by the executor (POD-175).
    pub termination_log: String,
    /// The signal that stops it, where the runtime tells; empty otherwise.
    pub stop_signal: String,
}

/// The identity of a container's first process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinuxUser {
    /// User ID.
    pub uid: i64,
    /// Primary group ID.
    pub gid: i64,
    /// Supplemental groups, the primary one often among them.
    pub supplemental_groups: Vec<i64>,
}

/// Resource settings that the runtime reports for a container. Zero means not set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActualResources {
    /// CPU shares (cgroup v1 scale).
    pub cpu_shares: i64,
    /// CFS quota in microseconds per period.
    pub cpu_quota: i64,
    /// CFS period in microseconds.
    pub cpu_period: i64,
    /// Memory limit in bytes.
    pub memory_limit: i64,
}

/// Everything the runtime holds of one pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodObservation {
    /// The pod.
    pub pod: PodUid,
    /// The pod's namespace, from the runtime's metadata.
    pub namespace: String,
    /// The pod's name, from the runtime's metadata.
    pub name: String,
    /// When the look began: nothing that ended before it is missing from it.
    pub began: Mono,
    /// Newest first, by (attempt, creation).
    pub sandboxes: Vec<SandboxStatus>,
    /// Newest first, by (attempt, creation).
    pub containers: Vec<ContainerStatus>,
}

impl PodObservation {
    /// A pod of which the runtime holds nothing.
    #[must_use]
    pub fn empty(pod: PodUid, began: Mono) -> Self {
        Self { pod, namespace: String::new(), name: String::new(), began, sandboxes: Vec::new(), containers: Vec::new() }
    }

    /// The authoritative instance of one container name: the newest one (POD-129), unless an older one runs. What the runtime makes
    /// long after it was asked for must not hide, and so double, what runs. Whoever asks about each container of a pod asks for all at
    /// once, for it looks at every instance.
    #[must_use]
    pub fn newest(&self, name: &str) -> Option<&ContainerStatus> {
        let mut instances = self.containers.iter().filter(|c| c.name == name);
        let first = instances.next()?;
        let running = |c: &&ContainerStatus| c.state == ContainerState::Running;
        std::iter::once(first).chain(instances).find(running).or(Some(first))
    }

    /// The authoritative instance of each container name: as [`Self::newest`], for whoever asks about all of them.
    #[must_use]
    pub fn newest_by_name(&self) -> BTreeMap<&str, &ContainerStatus> {
        let (mut newest, running) = (BTreeMap::new(), |c: &ContainerStatus| c.state == ContainerState::Running);
        for container in &self.containers {
            let known = newest.entry(container.name.as_str()).or_insert(container);
            if running(container) && !running(known) {
                *known = container;
            }
        }
        newest
    }

    /// All instances of each container name, the authoritative one first; the others newest first.
    #[must_use]
    pub fn instances_by_name(&self) -> BTreeMap<&str, Vec<&ContainerStatus>> {
        let mut instances: BTreeMap<&str, Vec<&ContainerStatus>> = BTreeMap::new();
        let runs = |c: &&ContainerStatus| c.state == ContainerState::Running;
        for container in self.containers.iter().filter(runs).chain(self.containers.iter().filter(|c| !runs(c))) {
            instances.entry(container.name.as_str()).or_default().push(container);
        }
        instances
    }

    /// Containers that run, or of which the runtime does not know that they do not.
    pub fn live_containers(&self) -> impl Iterator<Item = &ContainerStatus> {
        self.containers.iter().filter(|c| matches!(c.state, ContainerState::Running | ContainerState::Unknown))
    }

    /// Sandboxes that are up.
    pub fn ready_sandboxes(&self) -> impl Iterator<Item = &SandboxStatus> {
        self.sandboxes.iter().filter(|s| s.state == SandboxState::Ready)
    }
}

/// What the runtime says of itself (CRI-004).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeStatus {
    /// The `RuntimeReady` condition, if it was in the answer.
    pub runtime_ready: Option<RuntimeCondition>,
    /// The `NetworkReady` condition, if it was in the answer.
    pub network_ready: Option<RuntimeCondition>,
    /// Runtime handlers with their features.
    pub handlers: Vec<RuntimeHandler>,
    /// Whether `supplementalGroupsPolicy` is supported.
    pub supplemental_groups_policy: bool,
}

/// One condition of the runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeCondition {
    /// Whether it holds.
    pub status: bool,
    /// Why.
    pub reason: String,
    /// In words.
    pub message: String,
}

/// One RuntimeClass handler.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RuntimeHandler {
    /// Its name; empty for the default.
    pub name: String,
    /// Whether it can mount recursively read-only.
    pub recursive_read_only_mounts: bool,
    /// Whether it can run pods in user namespaces.
    pub user_namespaces: bool,
}

/// The runtime's name and versions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeVersion {
    /// Such as `containerd`.
    pub name: String,
    /// Such as `2.1.9`.
    pub version: String,
    /// Such as `v1`.
    pub api_version: String,
}

/// An image that the runtime holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its ID.
    pub id: String,
    /// Names with a tag.
    pub repo_tags: Vec<String>,
    /// Names with a digest.
    pub repo_digests: Vec<String>,
    /// Bytes on disk.
    pub size: u64,
    /// The user it runs as, if numeric.
    pub uid: Option<i64>,
    /// The user it runs as, if a name; empty otherwise.
    pub username: String,
    /// Whether it must not be removed.
    pub pinned: bool,
}

/// A filesystem's fill.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsUsage {
    /// Where it is mounted, of what the runtime tells of; empty otherwise.
    pub mountpoint: String,
    /// Bytes in all.
    pub capacity: u64,
    /// Bytes that may still be written.
    pub available: u64,
    /// Bytes that the subject uses.
    pub used: u64,
    /// Inodes in all.
    pub inodes: u64,
    /// Inodes that are free.
    pub inodes_free: u64,
    /// Inodes that the subject uses.
    pub inodes_used: u64,
}

/// What addresses the machine has that its node may be known by (NODE-080).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAddresses {
    /// Those of the machine that the node's name resolves to, IPv4 first; `None` while no name server has answered.
    pub named: Option<Vec<IpAddr>>,
    /// Those of the interfaces of the default routes, IPv4 first.
    pub routed: Vec<IpAddr>,
    /// Whether there is a default route.
    #[serde(default)]
    pub default_routes: bool,
    /// Of those that were asked about, the ones that the machine has.
    pub local: Vec<IpAddr>,
}

/// What the machine is: read once in the agent's life (NODE-083, NODE-087).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineInfo {
    /// Logical CPUs.
    pub cpus: u64,
    /// MemTotal in bytes.
    pub memory: u64,
    /// SwapTotal in bytes.
    pub swap: u64,
    /// Pages by page size in bytes.
    pub hugepages: BTreeMap<u64, u64>,
    /// Size in bytes of the filesystem of the root directory.
    pub root_fs_capacity: u64,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// DMI product UUID.
    pub system_uuid: String,
    /// The kernel's boot ID.
    pub boot_id: String,
    /// `uname -r`.
    pub kernel_version: String,
    /// PRETTY_NAME of os-release.
    pub os_image: String,
    /// In Go's words: `amd64`, `arm64`.
    pub architecture: String,
    /// Whether the host runs on cgroup v2 alone.
    pub cgroup_v2: bool,
    /// min(pid_max, threads-max).
    pub max_pids: u64,
    /// Whether SELinux is on.
    pub selinux: bool,
    /// Whether the kernel enforces CFS quotas.
    pub cpu_cfs_quota: bool,
    /// Whether swap is on.
    pub swap_on: bool,
    /// Whether volumes in memory can be kept from swap (NODE-146).
    #[serde(default)]
    pub tmpfs_no_swap: bool,
    /// Whether the kernel can limit a cgroup's swap (NODE-147).
    #[serde(default)]
    pub swap_controller: bool,
    /// The resources that device plugins had registered with an earlier kubelet; `None` on a machine where none ever ran (NODE-045).
    #[serde(default)]
    pub device_resources: Option<Vec<String>>,
    /// CPUs that are online, as the kernel lists them, such as `0-3,8`.
    #[serde(default)]
    pub online_cpus: String,
    /// Directories of the kernel that tell how hot each CPU is, as far as there are any (POD-177).
    #[serde(default)]
    pub thermal_throttles: Vec<String>,
    /// Whether the kernel enforces AppArmor profiles.
    #[serde(default)]
    pub apparmor: bool,
    /// Cores, and sockets, that the CPUs are of; 0 if the kernel does not tell.
    #[serde(default)]
    pub cores_and_sockets: (u64, u64),
    /// Disks by their numbers, such as `8:0`: their names, such as `sda`.
    #[serde(default)]
    pub disks: BTreeMap<String, String>,
}

/// Shared handle to an observation.
pub type Observed = Arc<PodObservation>;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn observation(instances: &[(&str, &str)]) -> PodObservation {
        let mut observation = PodObservation::empty(PodUid::new("u1"), Mono::ZERO);
        let status = |(id, state): &(&str, &str)| {
            let status = json!({
                "id": id, "sandbox": "s1", "name": "main", "attempt": 0, "state": state, "created_at": 0, "started_at": 0,
                "finished_at": 0, "exit_code": 0, "reason": "", "message": "", "image": "", "image_ref": "", "image_id": "", "log_path": "",
                "labels": {}, "annotations": {}, "user": null, "resources": null, "termination_log": "", "stop_signal": "",
            });
            serde_json::from_value(status).unwrap()
        };
        observation.containers = instances.iter().map(status).collect();
        observation
    }

    // POD-129, S1: the newest first, as the adapters sort them.
    #[test]
    fn instance_made_too_late_does_not_hide_the_one_that_runs() {
        let newest = |instances: &[(&str, &str)]| observation(instances).newest("main").map(|c| c.id.as_str().to_owned());
        assert_eq!(newest(&[("late", "Created"), ("runs", "Running"), ("old", "Exited")]).as_deref(), Some("runs"));
        assert_eq!(newest(&[("ended", "Exited"), ("old", "Exited")]).as_deref(), Some("ended"));
        assert_eq!(newest(&[("made", "Created"), ("old", "Exited")]).as_deref(), Some("made"));
        assert_eq!(newest(&[]), None);
        let all = observation(&[("late", "Created"), ("runs", "Running"), ("old", "Exited")]);
        assert_eq!(all.newest_by_name()["main"].id.as_str(), "runs");
        let ids: Vec<_> = all.instances_by_name()["main"].iter().map(|c| c.id.as_str()).collect();
        assert_eq!(ids, ["runs", "late", "old"]);
    }
}
