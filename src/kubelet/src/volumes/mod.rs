//! Volumes: which ones a pod needs on this node, what is to be in them, and how they come and go.
//! Upstream: pkg/kubelet/volumemanager, pkg/volume.
//! Differs: one level-triggered pass per pod sync instead of two worlds and a reconciler that polls (see `manager`).

mod checks;
mod claims;
mod configmap;
pub mod csi;
mod desired;
pub(crate) mod downward;
mod emptydir;
mod hostpath;
mod layout;
pub mod manager;
mod payload;
mod projected;
mod secret;
mod stamp;
mod teardown;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

pub use manager::VolumeManager;

use crate::cache::ObjectCache;
use crate::tokens::TokenManager;

/// What volumes are made from, besides the pod.
#[derive(Debug)]
pub struct VolumeInputs<'a> {
    /// ConfigMaps and Secrets. The pod is registered with it.
    pub objects: &'a ObjectCache,
    /// Service account tokens.
    pub tokens: &'a mut TokenManager,
    /// The agent's root directory.
    pub root_dir: &'a str,
    /// The node's allocatable resources.
    pub node_allocatable: &'a BTreeMap<String, Quantity>,
    /// The node's labels, if they are known.
    pub node_labels: Option<&'a BTreeMap<String, String>>,
    /// The memory limit of the pod's cgroup in bytes, if it has one.
    pub pod_memory_limit: Option<u64>,
}

/// Where a pod's volumes stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumesState {
    /// Every volume that a container mounts is in place.
    Ready,
    /// Some are not; the pod is woken when that changes. What failed has been told by events (VOL-021) and is tried again.
    Waiting {
        /// Their names, in order.
        unmounted: Vec<String>,
    },
    /// Some can not be, as the pod and this agent are. The caller tells (VOL-012).
    Failed {
        /// Upstream's words: `Unable to attach or mount volumes: unmounted volumes=[..], ..`, for an event `FailedMount`.
        message: String,
    },
}

/// The kinds of volume that this agent puts in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plugin {
    /// VTY-001
    EmptyDir,
    /// VTY-006
    HostPath,
    /// VTY-007
    ConfigMap,
    /// VTY-008
    Secret,
    /// VTY-008, VTY-012
    DownwardApi,
    /// VTY-008, VTY-010
    Projected,
    /// VTY-017: nothing on the host; the runtime mounts the image.
    Image,
    /// CSI-006: a driver puts it in place.
    Csi,
}

impl Plugin {
    /// Upstream's plugin name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::EmptyDir => "kubernetes.io/empty-dir",
            Self::HostPath => "kubernetes.io/host-path",
            Self::ConfigMap => "kubernetes.io/configmap",
            Self::Secret => "kubernetes.io/secret",
            Self::DownwardApi => "kubernetes.io/downward-api",
            Self::Projected => "kubernetes.io/projected",
            Self::Image => "kubernetes.io/image",
            Self::Csi => "kubernetes.io/csi",
        }
    }

    /// The name as a directory.
    #[must_use]
    pub fn directory(self) -> String {
        self.name().replace('/', "~")
    }

    /// Whether containers may only read it.
    #[must_use]
    pub fn read_only(self) -> bool {
        matches!(self, Self::ConfigMap | Self::Secret | Self::DownwardApi | Self::Projected | Self::Image)
    }

    /// Whether the agent owns what is in it, so that it sets owners and the runtime may relabel it (MNT-006).
    #[must_use]
    pub fn managed(self) -> bool {
        !matches!(self, Self::HostPath | Self::Image)
    }

    /// Whether what is in it follows its sources while the pod runs (VOL-024).
    fn refreshes(self) -> bool {
        matches!(self, Self::ConfigMap | Self::Secret | Self::DownwardApi | Self::Projected)
    }
}

/// A volume that is in place, as a container's configuration needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedVolume {
    /// Where it is on the host; empty for an image.
    pub host_path: String,
    /// Its kind, with whether it is read-only and managed.
    pub plugin: Plugin,
    /// Its name in paths: that of the PersistentVolume for a claim, else that in the pod.
    pub name: String,
    /// Whether its source says that it is read-only, whatever its kind (CSI-017).
    pub read_only: bool,
    /// The group that a PersistentVolume says its files are for: containers are in it (MNT-004).
    pub group: Option<i64>,
}

impl MountedVolume {
    /// Whether containers may only read it.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.read_only || self.plugin.read_only()
    }

    /// Whether the runtime may relabel it (MNT-006): what the agent owns, and a driver's volume that is written to.
    #[must_use]
    pub fn is_managed(&self) -> bool {
        self.plugin.managed() && !(self.read_only && matches!(self.plugin, Plugin::Csi))
    }
}

/// Why a volume's setup cannot be told.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Trouble {
    /// A source is on its way; the pod is woken.
    Pending,
    /// In upstream's words.
    Failed(String),
}
