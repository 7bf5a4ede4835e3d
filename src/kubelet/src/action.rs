//! All that the agent can ask for, as plain data: every I/O it ever does is one of these.
//! Upstream: the interfaces that pkg/kubelet/kubelet.go holds (CRI, clientset, mounter, cgroup manager).
//! Differs: calls are values with an ID and a deadline, not method calls.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::storage::v1::CSINode;
use proto::cri::{AuthConfig, ContainerConfig, PodSandboxConfig};
use serde::{Deserialize, Serialize};

use crate::csi::CsiCall;
use crate::event::WatchKey;
use crate::ids::{ActionId, ContainerId, PodUid, SandboxId};
use crate::sensitive::Sensitive;

/// One thing to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Action {
    /// Comes back with the completion.
    pub id: ActionId,
    /// Which queue of the executor it waits in.
    pub lane: Lane,
    /// After how long the executor gives up and reports `UnknownOutcome`; `None` only for streams and pulls.
    pub timeout: Option<Duration>,
    /// The pod that it is done for, if it is for one: calls that hang are counted against it.
    #[serde(default)]
    pub pod: Option<PodUid>,
    /// What to do.
    pub call: Call,
}

/// The executor's queues: what waits in one never waits for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Lane {
    /// The node lease, alone.
    Lease,
    /// Registration and node status, alone.
    NodeStatus,
    /// The runtime's health and listing.
    Runtime,
    /// Looking at one pod.
    Observe,
    /// Making sandboxes: what costs the machine most of all that a pod's start needs, so few at a time.
    Sandboxes,
    /// Changing one pod in the runtime.
    Pods,
    /// Host work for pods: directories, volumes, cgroups.
    Host,
    /// Looking whether an image is there.
    ImageLooks,
    /// Image pulls: slow and bounded.
    Images,
    /// Pod status patches and final deletes.
    PodStatus,
    /// Tokens and single objects that pods wait for.
    Objects,
    /// Events: dropped rather than delayed.
    Events,
    /// Probes and hooks over the network.
    Probes,
    /// Plugins on the node: drivers of volumes, which may hang as they like.
    Csi,
    /// Clean-up that nobody waits for.
    Housekeeping,
}

/// What to do, by boundary.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Call {
    /// Ask the runtime. Ends in `Event::CriDone`.
    Cri(CriCall),
    /// Ask the API server. Ends in `Event::ApiDone`, except for watches.
    Api(ApiCall),
    /// Ask the host. Ends in `Event::HostDone`.
    Host(HostCall),
    /// Probe a container over the network. Ends in `Event::ProbeDone`.
    Probe(ProbeCall),
    /// Ask a plugin on the node. Ends in `Event::CsiDone`.
    Csi(CsiCall),
    /// Ask the static pod URL. Ends in `Event::FetchDone`.
    Fetch(FetchCall),
    /// Withdraw an earlier action; it then ends with `Canceled`, unless it had ended.
    Cancel(ActionId),
}

/// One GET of the static pod URL (POD-010). It may hold credentials, as may its headers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FetchCall {
    /// The URL.
    pub url: Sensitive<String>,
    /// What is sent with it.
    pub headers: Sensitive<BTreeMap<String, Vec<String>>>,
    /// How long it may take, the reading of the answer included.
    pub within: Duration,
}

/// A call of the container runtime.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum CriCall {
    /// Version → `Version`.
    Version,
    /// Status → `Status`.
    Status,
    /// RuntimeConfig → `RuntimeConfig`.
    RuntimeConfig,
    /// UpdateRuntimeConfig with the node's pod CIDR → `Done`.
    UpdateRuntimeConfig {
        /// As the Node has it, joined by commas.
        pod_cidr: String,
    },
    /// Everything there is, briefly → `Listing`.
    List,
    /// One pod in detail, termination messages included → `Observation`.
    Observe {
        /// The pod.
        pod: PodUid,
    },
    /// RunPodSandbox → `Sandbox`.
    RunPodSandbox {
        /// Its configuration.
        config: Arc<PodSandboxConfig>,
        /// The RuntimeClass handler; empty for the default.
        runtime_handler: String,
    },
    /// StopPodSandbox → `Done`, also when it is gone.
    StopPodSandbox {
        /// Which.
        id: SandboxId,
    },
    /// RemovePodSandbox → `Done`, also when it is gone.
    RemovePodSandbox {
        /// Which.
        id: SandboxId,
    },
    /// CreateContainer → `Container`.
    CreateContainer {
        /// In which sandbox.
        sandbox: SandboxId,
        /// Its configuration.
        config: Box<ContainerConfig>,
        /// The sandbox's configuration once more.
        sandbox_config: Arc<PodSandboxConfig>,
    },
    /// StartContainer → `Done`.
    StartContainer {
        /// Which.
        id: ContainerId,
    },
    /// StopContainer → `Done`, also when it is gone.
    StopContainer {
        /// Which.
        id: ContainerId,
        /// After how long it is killed.
        grace: Duration,
    },
    /// RemoveContainer → `Done`, also when it is gone.
    RemoveContainer {
        /// Which.
        id: ContainerId,
    },
    /// ExecSync → `Exec`.
    ExecSync {
        /// In which container.
        id: ContainerId,
        /// The command, not run in a shell.
        command: Vec<String>,
        /// After how long the runtime kills it; zero for never.
        timeout: Duration,
    },
    /// ReopenContainerLog → `Done`.
    ReopenContainerLog {
        /// Of which container.
        id: ContainerId,
    },
    /// ImageStatus → `Image`.
    ImageStatus {
        /// The image as the spec names it.
        image: String,
    },
    /// PullImage → `Pulled`.
    PullImage {
        /// The image as the spec names it, with its tag.
        image: String,
        /// The pod's annotations, for the runtime.
        annotations: BTreeMap<String, String>,
        /// Credentials; `None` to pull anonymously.
        auth: Option<Sensitive<AuthConfig>>,
        /// The sandbox that it is pulled for.
        sandbox_config: Option<Arc<PodSandboxConfig>>,
    },
    /// ListImages → `Images`.
    ListImages,
    /// RemoveImage → `Done`.
    RemoveImage {
        /// Its ID.
        image: String,
    },
    /// ImageFsInfo → `ImageFs`.
    ImageFsInfo,
}

/// A call of the API server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ApiCall {
    /// Open a watch and keep it open. Delivers `Watch*` events for as long as it is wanted.
    Watch(WatchKey),
    /// Close a watch.
    Unwatch(WatchKey),
    /// Get the own Node → `Node`.
    GetNode,
    /// Create the own Node → `Node`.
    CreateNode(Box<Node>),
    /// Strategic merge patch of the own Node's status → `Node`.
    PatchNodeStatus(serde_json::Value),
    /// Get the node's lease → `Lease`.
    GetLease,
    /// Create the node's lease → `Lease`.
    CreateLease(Box<Lease>),
    /// Replace the node's lease → `Lease`.
    UpdateLease(Box<Lease>),
    /// Get the own CSINode → `CsiNode`.
    GetCsiNode,
    /// Create the own CSINode → `CsiNode`.
    CreateCsiNode(Box<CSINode>),
    /// Replace the own CSINode → `CsiNode`.
    UpdateCsiNode(Box<CSINode>),
    /// Delete the own CSINode, that of an earlier Node → `Done`.
    DeleteCsiNode,
    /// Get a pod → `Pod`.
    GetPod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// Create a (mirror) pod → `Pod`.
    CreatePod(Box<Pod>),
    /// Strategic merge patch of a pod's status → `Pod`.
    PatchPodStatus {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The patch, with `metadata.uid`.
        patch: serde_json::Value,
    },
    /// Delete a pod with that UID → `Done`, also when it is gone.
    DeletePod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The precondition.
        uid: PodUid,
        /// The grace period in seconds.
        grace_seconds: i64,
    },
    /// Get a claim that a pod of this node names → `Claim`.
    GetPersistentVolumeClaim {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// Get a volume that such a claim is bound to → `PersistentVolume`.
    GetPersistentVolume {
        /// Its name.
        name: String,
    },
    /// Get the attachment of such a volume to this node → `Attachment`.
    GetVolumeAttachment {
        /// Its name.
        name: String,
    },
    /// Get a ConfigMap or Secret → `Object`.
    GetObject {
        /// Which.
        key: WatchKey,
        /// Whether the server's cache will do (`resourceVersion=0`).
        cached: bool,
    },
    /// Ask for a service account token → `Token`.
    CreateToken {
        /// The service account's namespace.
        namespace: String,
        /// The service account's name.
        service_account: String,
        /// The request.
        request: Box<TokenRequest>,
    },
    /// Create an event → `EventStored`.
    CreateEvent(Box<k8s_openapi::api::core::v1::Event>),
    /// Strategic merge patch of an event → `EventStored`.
    PatchEvent {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The patch.
        patch: serde_json::Value,
    },
}

/// An operation on the host. Paths are absolute.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum HostCall {
    /// Make the node's directories, mount propagation and kernel settings right (NODE-005, NODE-145) → `Done`.
    PrepareNode,
    /// Read what the machine is → `Machine`.
    MachineInfo,
    /// Find the addresses that the node may be known by (NODE-080) → `NodeAddresses`.
    NodeAddresses {
        /// The name to resolve, if one is to be.
        name: Option<String>,
        /// How long name servers may take: after that the rest is answered without them.
        within: Duration,
        /// Addresses that the machine may have or not.
        given: Vec<IpAddr>,
    },
    /// Make a cgroup with these settings, or bring an existing one to them (NODE-134, NODE-141) → `Done`.
    ApplyCgroup {
        /// Its name, such as `/kubepods/burstable`.
        name: String,
        /// Its settings.
        settings: CgroupSettings,
    },
    /// Make a pod's cgroup with these settings unless it exists (NODE-135) → `Done`.
    EnsureCgroup {
        /// Its name.
        name: String,
        /// Its settings.
        settings: CgroupSettings,
    },
    /// Whether a cgroup is there, with the controllers that it needs (NODE-132) → `Exists`.
    CgroupExists {
        /// Its name.
        name: String,
    },
    /// Kill what is left in a cgroup and remove it (NODE-136) → `Done`, also when it is gone.
    RemoveCgroup {
        /// Its name.
        name: String,
    },
    /// The pods that have a cgroup → `PodCgroups`.
    ListPodCgroups,
    /// The sockets in the plugins' registry (CSI-001) → `PluginSockets`. From then on, changes there are told of, where they can be.
    ListPluginSockets {
        /// The directory.
        registry: String,
    },
    /// Read the manifests at the static pod path, a directory or one file (POD-007) → `Manifests`. From then on, changes there are told
    /// of, where they can be.
    ReadManifests {
        /// The path.
        path: String,
    },
    /// Make a pod's directories (POD-102) and, 0755, its log directory → `Done`.
    MakePodDirs {
        /// The pod.
        pod: PodUid,
        /// Its containers.
        containers: Vec<String>,
        /// The log directory.
        log_directory: String,
    },
    /// Remove a pod's directory if nothing in it is mounted (VOL-031) → `Done`.
    RemovePodDir {
        /// The pod.
        pod: PodUid,
    },
    /// The pods that have a directory → `PodDirs`.
    ListPodDirs,
    /// Write a file whole: temporary, fsync, rename → `Done`.
    WriteFile {
        /// Where.
        path: String,
        /// What.
        contents: Vec<u8>,
        /// Its mode.
        mode: u32,
    },
    /// Read a file of at most 10 MiB → `Contents`.
    ReadFile {
        /// Which.
        path: String,
    },
    /// Write a file whole, mode 0600, its directory made with mode 0700 if it is missing → `Done`.
    WriteRecord {
        /// Where.
        path: String,
        /// What.
        contents: Sensitive<Vec<u8>>,
    },
    /// Remove a file → `Done`, also when it is gone.
    RemoveFile {
        /// Which.
        path: String,
    },
    /// Read the files of a directory whose names begin so, each of at most 1 MiB → `Files`, none if there is no such directory.
    ReadDirectory {
        /// The directory.
        path: String,
        /// What their names begin with.
        prefix: String,
    },
    /// Read these files, each of at most 10 MiB → `Files`, by their paths; those that are not there are left out.
    ReadFiles {
        /// Which.
        paths: Vec<String>,
    },
    /// Ask a credential provider plugin about an image (POD-206) → `Output`. It gets a minute.
    AskCredentialPlugin {
        /// The plugin.
        executable: String,
        /// Its arguments.
        arguments: Vec<String>,
        /// What its environment has besides the agent's.
        environment: Sensitive<Vec<(String, String)>>,
        /// What it gets on its stdin.
        request: Sensitive<Vec<u8>>,
    },
    /// Make an empty file with exactly that mode, parents included (MNT-015) → `Done`.
    CreateFile {
        /// Where.
        path: String,
        /// Its mode.
        mode: u32,
    },
    /// Link a container's log under `/var/log/containers` if the log exists (LOG-005) → `Done`.
    LinkContainerLog {
        /// The log.
        target: String,
        /// The link.
        link: String,
    },
    /// Remove a container's logs, rotated ones included, and its link (POD-343) → `Done`.
    RemoveContainerLogs {
        /// The log.
        path: String,
        /// The link.
        link: String,
    },
    /// Find the logs of at least that size, and those that are not there (LOG-008) → `LargeLogs`.
    LargeLogs {
        /// The logs.
        paths: Vec<String>,
        /// The size in bytes.
        at_least: u64,
    },
    /// Rename a log, compress those renamed before, remove the oldest (LOG-008) → `Rotated`.
    RotateLog {
        /// The log.
        path: String,
        /// What its name gets, after a dot.
        suffix: String,
        /// How many files there may be in all.
        max_files: u32,
    },
    /// Give a rotated log its name back, unless there is a new one by now → `Done`.
    UndoLogRotation {
        /// The log.
        path: String,
        /// The name that it got.
        rotated: String,
    },
    /// The names of all pods' log directories → `PodLogs`.
    ListPodLogs,
    /// Remove the links to containers' logs whose directory is gone (POD-343) → `Done`.
    SweepLogLinks,
    /// Remove a pod's log directory → `Done`.
    RemovePodLogs {
        /// The directory.
        path: String,
    },
    /// Find the highest restart count among a container's log files (LOG-004) → `HighestLog`.
    HighestLog {
        /// The container's log directory.
        directory: String,
    },
    /// Put a volume in place, or refresh it → `Done`.
    SetUpVolume {
        /// Of which pod.
        pod: PodUid,
        /// Its name in the pod spec.
        volume: String,
        /// How.
        setup: Box<VolumeSetup>,
    },
    /// Undo it → `Done`.
    TearDownVolume {
        /// Of which pod.
        pod: PodUid,
        /// Its name in the pod spec.
        volume: String,
        /// The plugin's escaped name, such as `kubernetes.io~empty-dir`.
        plugin: String,
    },
    /// What CSI volumes lie on the disk, by their `vol_data.json` → `CsiVolumes`, none if there are no such directories (VOL-027).
    ListCsiVolumes,
    /// Make a directory for a CSI volume, 0750, and write beside or in it what is to be known of the volume later → `Done`.
    PrepareCsiVolume {
        /// The directory to make, parents included.
        directory: String,
        /// The file; it is written whole.
        data_path: String,
        /// What it says.
        data: String,
    },
    /// Remove what was prepared, if nothing is mounted there (CSI-014) → `Done`.
    RemoveCsiVolume {
        /// The directory that a driver mounts on; what is to be known of the volume lies beside it.
        mount: String,
    },
    /// Undo a pod's subPath binds of a volume (MNT-013) → `Done`.
    CleanSubPaths {
        /// The pod.
        pod: PodUid,
        /// The volume's name in the binds' paths.
        volume: String,
    },
    /// Give a mounted volume to a group (CSI-013) → `Done`.
    GiveToGroup {
        /// Where it is mounted.
        path: String,
        /// The group.
        group: i64,
        /// Whether a root that is the group's already tells that all of it is (`fsGroupChangePolicy: OnRootMismatch`).
        trust_root: bool,
    },
    /// The directories below a pod's `volumes` directory → `Volumes`, none if there is no such directory (VOL-027).
    ListVolumes {
        /// The pod.
        pod: PodUid,
    },
    /// Make and bind one subPath of a volume (MNT-011, MNT-012) → `Done`.
    BindSubPath {
        /// Of which pod.
        pod: PodUid,
        /// Its name in paths.
        volume: String,
        /// The container that mounts it.
        container: String,
        /// The index of the mount in the container.
        index: usize,
        /// The volume's path on the host.
        volume_path: String,
        /// The path within the volume.
        sub_path: String,
        /// The mount's own name of the volume, for messages.
        mount: String,
    },
    /// A filesystem's fill → `Fs`.
    FsUsage {
        /// A path on it.
        path: String,
    },
}

/// What a cgroup is set to. `None` leaves a setting alone. In cgroup v1 terms; the host converts for v2 (NODE-133).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupSettings {
    /// CPU shares, 2 to 262144.
    pub cpu_shares: Option<u64>,
    /// CFS quota in microseconds; -1 for none.
    pub cpu_quota: Option<i64>,
    /// CFS period in microseconds.
    pub cpu_period: Option<u64>,
    /// Memory limit in bytes; -1 for none.
    pub memory_limit: Option<i64>,
    /// Processes.
    pub pids_max: Option<i64>,
    /// CPUs as the kernel lists them, such as `0-3,8`.
    #[serde(default)]
    pub cpuset: Option<String>,
    /// Bytes by page size as the kernel names it, such as `2MB`.
    pub hugetlb: BTreeMap<String, u64>,
    /// cgroup v2 keys written as they are, such as `memory.oom.group`.
    pub unified: BTreeMap<String, String>,
}

/// How a volume is put in place.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum VolumeSetup {
    /// VTY-001, VTY-002, VTY-003.
    EmptyDir {
        /// What it lies on.
        medium: EmptyDirMedium,
        /// The group that owns it.
        fs_group: Option<i64>,
    },
    /// VTY-006: check, and make if asked.
    HostPath {
        /// The path.
        path: String,
        /// `""`, `DirectoryOrCreate`, `Directory`, `FileOrCreate`, `File`, `Socket`, `CharDevice`, `BlockDevice`.
        kind: String,
    },
    /// VTY-007 to VTY-011: files that the agent writes, replaced all at once (AWR-001 to AWR-006).
    Files {
        /// `kubernetes.io~configmap`, `kubernetes.io~secret`, `kubernetes.io~downward-api`, `kubernetes.io~projected`.
        plugin: String,
        /// What it lies on.
        medium: EmptyDirMedium,
        /// The files by their path in the volume.
        files: Arc<BTreeMap<String, ProjectedFile>>,
        /// Directories in the volume to be made, 0755, for what containers mount inside it (VTY-019).
        directories: BTreeSet<String>,
        /// The group that owns it.
        fs_group: Option<i64>,
    },
}

/// What an emptyDir lies on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EmptyDirMedium {
    /// The disk of the root directory.
    Disk,
    /// A tmpfs of at most that many bytes, if bounded.
    Memory {
        /// The bound.
        size: Option<u64>,
    },
    /// A hugetlbfs.
    HugePages {
        /// The page size in bytes.
        page_size: u64,
        /// The bound in bytes.
        size: Option<u64>,
    },
}

/// One file of a projected volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectedFile {
    /// What is in it.
    pub data: Sensitive<Vec<u8>>,
    /// Its exact mode.
    pub mode: u32,
    /// Who owns it, if not root (VTY-011).
    pub owner: Option<i64>,
}

/// A probe over the network (POD-247, POD-248).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeCall {
    /// HTTP GET.
    Http {
        /// `http` or `https`.
        scheme: String,
        /// Host name or IP.
        host: String,
        /// Port.
        port: u16,
        /// Path and query.
        path: String,
        /// Headers as given; an empty value removes a default one.
        headers: Vec<(String, String)>,
        /// For lifecycle handlers any answer passes, and the user agent differs (POD-230).
        lifecycle: bool,
    },
    /// TCP connect.
    Tcp {
        /// Host name or IP.
        host: String,
        /// Port.
        port: u16,
    },
    /// gRPC health check.
    Grpc {
        /// Host name or IP.
        host: String,
        /// Port.
        port: u16,
        /// The service; empty for the server as a whole.
        service: String,
    },
}
