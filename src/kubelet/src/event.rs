//! All that can happen to the agent, as plain data in the past tense.
//! Upstream: pkg/kubelet/kubelet.go (syncLoopIteration's channels).
//! Differs: one enum instead of eight channels, so that a run is a list of these.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::authentication::v1::TokenRequestStatus;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node, PersistentVolume, PersistentVolumeClaim, Pod, PodSpec, Secret, Service};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, VolumeAttachment};
use serde::{Deserialize, Serialize};

use crate::csi::{CsiReply, PluginSocket};
use crate::failure::Failure;
use crate::ids::{ActionId, ContainerId, PodUid, SandboxId};
use crate::observation::{FsUsage, Image, Listing, MachineInfo, NodeAddresses, PodObservation, RuntimeStatus, RuntimeVersion};
use crate::sensitive::Sensitive;
use crate::time::Mono;

/// One thing that happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Event {
    /// The agent's life began. Always the first event.
    Started,
    /// A watch delivered its complete state: what is not in it is gone.
    WatchListed {
        /// Which watch.
        key: WatchKey,
        /// Everything that matches.
        objects: Vec<Object>,
    },
    /// A watched object appeared or changed.
    WatchApplied {
        /// Which watch.
        key: WatchKey,
        /// The object as it is now.
        object: Object,
    },
    /// A watched object went away.
    WatchDeleted {
        /// Which watch.
        key: WatchKey,
        /// The object as it last was.
        object: Object,
    },
    /// A watch could not be opened or broke; its plumbing goes on by itself.
    WatchFailed {
        /// Which watch.
        key: WatchKey,
        /// Why.
        failure: Failure,
    },
    /// The runtime's event stream is open: changes will be told.
    RuntimeEventsOpened,
    /// The runtime's event stream is not to be had, or broke.
    RuntimeEventsClosed {
        /// Why; `Unimplemented` if the runtime has none.
        failure: Failure,
    },
    /// The runtime said that something of a pod changed. A hint: the observation decides.
    RuntimeChanged {
        /// The pod.
        pod: PodUid,
    },
    /// A runtime call ended.
    CriDone {
        /// The action.
        id: ActionId,
        /// How.
        outcome: Result<CriReply, Failure>,
    },
    /// An API call ended.
    ApiDone {
        /// The action.
        id: ActionId,
        /// How.
        outcome: Result<ApiReply, Failure>,
    },
    /// A host operation ended.
    HostDone {
        /// The action.
        id: ActionId,
        /// How.
        outcome: Result<HostReply, Failure>,
    },
    /// A probe (or a lifecycle handler over the network) ended.
    ProbeDone {
        /// The action.
        id: ActionId,
        /// How.
        outcome: Result<ProbeOutcome, Failure>,
    },
    /// A call of a plugin ended.
    CsiDone {
        /// The action.
        id: ActionId,
        /// How.
        outcome: Result<CsiReply, Failure>,
    },
    /// The static pod URL was asked: what it answered with status 200, at most 10 MiB.
    FetchDone {
        /// The action.
        id: ActionId,
        /// How.
        outcome: Result<Vec<u8>, Failure>,
    },
    /// A hint: something changed in the plugins' registry, since it was last looked at.
    PluginsChanged,
    /// No such hints are to be had.
    PluginsUnwatched,
    /// A hint: something changed at the static pod path, since it was last read.
    ManifestsChanged,
    /// The moment that `deadline` named has come.
    TimerFired,
}

/// Where pods come from (POD-004).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PodSource {
    /// The API server.
    Api,
    /// The static pod path.
    File,
    /// The static pod URL.
    Http,
}

impl PodSource {
    /// The value of the annotation `kubernetes.io/config.source`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::File => "file",
            Self::Http => "http",
        }
    }
}

/// One watch that the core asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum WatchKey {
    /// The pods bound to this node.
    Pods,
    /// This node's own object.
    Node,
    /// Services with a cluster IP.
    Services,
    /// RuntimeClasses.
    RuntimeClasses,
    /// CSIDrivers.
    CsiDrivers,
    /// One ConfigMap.
    ConfigMap {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// One Secret.
    Secret {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

impl WatchKey {
    /// The plural of what it is about.
    #[must_use]
    pub fn resource(&self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Node => "nodes",
            Self::Services => "services",
            Self::RuntimeClasses => "runtimeclasses",
            Self::CsiDrivers => "csidrivers",
            Self::ConfigMap { .. } => "configmaps",
            Self::Secret { .. } => "secrets",
        }
    }

    /// The name of the one object that it is about; empty if it is about all of a kind.
    #[must_use]
    pub fn object_name(&self) -> &str {
        match self {
            Self::ConfigMap { name, .. } | Self::Secret { name, .. } => name,
            _ => "",
        }
    }
}

/// A watched object.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Object {
    /// A pod, without managedFields.
    Pod(Arc<Pod>),
    /// A node.
    Node(Arc<Node>),
    /// A service.
    Service(Arc<Service>),
    /// A RuntimeClass.
    RuntimeClass(Arc<RuntimeClass>),
    /// A CSIDriver.
    CsiDriver(Arc<CSIDriver>),
    /// A ConfigMap.
    ConfigMap(Arc<ConfigMap>),
    /// A Secret; its data does not show.
    Secret(Sensitive<Arc<Secret>>),
    /// One that is there and cannot be read, of whichever kind its watch is about.
    Unreadable(Box<Unreadable>),
}

/// What is known of an object that cannot be read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Unreadable {
    /// Its namespace; empty if it has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its version.
    pub resource_version: String,
    /// Why it cannot be read, without any of its values.
    pub why: String,
    /// Of a pod, what could be read of its spec: the containers with their images and resources. It may run, and hold what they say.
    pub spec: Option<Box<PodSpec>>,
    /// Of a pod, whether it says that it is the mirror of a static pod.
    pub mirror: bool,
}

impl Unreadable {
    /// Whether nobody can tell which object it is.
    #[must_use]
    pub fn is_nobody(&self) -> bool {
        self.name.is_empty() || self.uid.is_empty()
    }

    /// `namespace/name`, or the name alone.
    #[must_use]
    pub fn full_name(&self) -> String {
        if self.namespace.is_empty() { self.name.clone() } else { format!("{}/{}", self.namespace, self.name) }
    }
}

/// What a runtime call answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum CriReply {
    /// It was done; there is nothing to tell.
    Done,
    /// Version.
    Version(RuntimeVersion),
    /// Status.
    Status(RuntimeStatus),
    /// RuntimeConfig: whether the runtime uses the systemd cgroup driver, if it tells.
    RuntimeConfig {
        /// `Some(true)` systemd, `Some(false)` cgroupfs.
        systemd_cgroup: Option<bool>,
    },
    /// All sandboxes and containers.
    Listing {
        /// When the look began.
        began: Mono,
        /// What there is.
        listing: Listing,
    },
    /// One pod in detail.
    Observation(Arc<PodObservation>),
    /// RunPodSandbox.
    Sandbox(SandboxId),
    /// CreateContainer.
    Container(ContainerId),
    /// ExecSync.
    Exec {
        /// The exit code.
        exit_code: i32,
        /// Output, stdout then stderr, at most 16 KiB.
        output: String,
        /// Where in it stderr begins.
        stderr: usize,
    },
    /// ImageStatus; `None` if the image is absent.
    Image(Option<Image>),
    /// PullImage.
    Pulled {
        /// The image reference.
        image_ref: String,
    },
    /// ListImages.
    Images(Vec<Image>),
    /// ImageFsInfo.
    ImageFs(Vec<FsUsage>),
}

/// What an API call answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ApiReply {
    /// It was done; there is nothing to tell.
    Done,
    /// A node, after get, create or patch.
    Node(Arc<Node>),
    /// A pod, after get or patch.
    Pod(Arc<Pod>),
    /// A lease.
    Lease(Box<Lease>),
    /// A CSINode.
    CsiNode(Box<CSINode>),
    /// A claim.
    Claim(Box<PersistentVolumeClaim>),
    /// A volume that claims are bound to.
    PersistentVolume(Box<PersistentVolume>),
    /// The attachment of a volume to a node.
    Attachment(Box<VolumeAttachment>),
    /// A ConfigMap or Secret that was fetched.
    Object(Object),
    /// A service account token.
    Token(Sensitive<TokenRequestStatus>),
    /// An event as stored: its name, to patch its count later.
    EventStored {
        /// The event's name.
        name: String,
    },
}

/// What a host operation answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum HostReply {
    /// It was done; there is nothing to tell.
    Done,
    /// The machine.
    Machine(Box<MachineInfo>),
    /// Addresses that the node may be known by.
    NodeAddresses(NodeAddresses),
    /// A file's contents.
    Contents(Vec<u8>),
    /// The UIDs that have a pod directory.
    PodDirs(Vec<PodUid>),
    /// The names of pods' log directories.
    PodLogs(Vec<String>),
    /// What lies in a pod's `volumes` directory.
    Volumes(Vec<VolumeDirectory>),
    /// What CSI volumes lie on the disk.
    CsiVolumes {
        /// What is said of those that may be staged.
        staged: Vec<String>,
        /// Those that may be published: the pod, the volume's directory, and what is said of it.
        published: Vec<(PodUid, String, String)>,
    },
    /// The pods that have a cgroup, with its name.
    PodCgroups(BTreeMap<PodUid, String>),
    /// The sockets in the plugins' registry, in order.
    PluginSockets(Vec<PluginSocket>),
    /// The files at the static pod path, in order; none if there is no such path.
    Manifests(Vec<Manifest>),
    /// The files of a directory, or those that were asked for.
    Files(Vec<FileRead>),
    /// What a program said.
    Output(Sensitive<Vec<u8>>),
    /// Whether it is there.
    Exists(bool),
    /// A filesystem's fill.
    Fs(FsUsage),
    /// The highest restart count found among a container's log files, if there is one.
    HighestLog(Option<u32>),
    /// Container logs that are too big, and those that are not there.
    LargeLogs {
        /// Too big.
        large: Vec<String>,
        /// Not there.
        missing: Vec<String>,
    },
    /// The name that a rotated log got.
    Rotated(String),
}

/// A file that was read, and may hold what must not show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRead {
    /// Its name in its directory, or its path.
    pub name: String,
    /// What is in it, or why that cannot be told.
    pub contents: Result<Sensitive<Vec<u8>>, String>,
}

/// A file that is to tell of a static pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Its absolute path.
    pub path: String,
    /// What is in it, or why that cannot be told.
    pub contents: Result<Vec<u8>, String>,
}

/// A directory that a volume plugin made for a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VolumeDirectory {
    /// The plugin's escaped name, such as `kubernetes.io~empty-dir`.
    pub plugin: String,
    /// The volume's name.
    pub volume: String,
    /// What `vol_data.json` in it says, if there is one (CSI-006).
    pub data: Option<String>,
}

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeOutcome {
    /// It passed.
    Success,
    /// It passed, with something to say.
    Warning(String),
    /// It failed, with its output.
    Failure(String),
}
