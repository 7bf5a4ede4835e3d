//! Decides what a CSI volume is called, where it goes, what is kept of it on the disk, and what its driver is asked.
//! Upstream: pkg/volume/csi/{csi_plugin,csi_mounter,csi_attacher,csi_client,csi_util}.go.
//! Differs: no SELinux mount option: the runtime relabels what a container mounts.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolume, Pod, Volume};
use k8s_openapi::api::storage::v1::CSIDriver;
use proto::csi::volume_capability::access_mode::Mode;
use proto::csi::volume_capability::{AccessMode, AccessType, MountVolume};
use proto::csi::{NodePublishVolumeRequest, NodeStageVolumeRequest, VolumeCapability};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::csi::DriverCapabilities;
use crate::ids::PodUid;
use crate::pod::manager::uid_of;

/// The plugin's directory below `volumes`.
pub(crate) const DIRECTORY: &str = "kubernetes.io~csi";
const RWO: &str = "ReadWriteOnce";
const RWOP: &str = "ReadWriteOncePod";

/// A Secret by namespace and name.
pub(super) type SecretRef = (String, String);

/// A volume as its driver is to serve it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::volumes) struct CsiSpec {
    /// The PersistentVolume's name, or that of an inline volume in its pod.
    pub(in crate::volumes) name: String,
    pub(super) driver: String,
    pub(super) handle: String,
    pub(super) inline: bool,
    pub(in crate::volumes) read_only: bool,
    pub(super) access_modes: Vec<String>,
    fs_type: String,
    attributes: BTreeMap<String, String>,
    mount_options: Vec<String>,
    pub(super) stage_secret: Option<SecretRef>,
    pub(super) publish_secret: Option<SecretRef>,
}

impl CsiSpec {
    /// Of a PersistentVolume; `None` if it is no CSI volume. `read_only` is the pod's word (CSI-017).
    pub(in crate::volumes) fn of(volume: &PersistentVolume, read_only: bool) -> Option<Self> {
        let spec = volume.spec.as_ref()?;
        let source = spec.csi.as_ref()?;
        let secret = |reference: &Option<k8s_openapi::api::core::v1::SecretReference>| {
            let reference = reference.as_ref()?;
            Some((reference.namespace.clone().unwrap_or_default(), reference.name.clone().unwrap_or_default()))
        };
        Some(Self {
            name: volume.metadata.name.clone().unwrap_or_default(),
            driver: source.driver.clone(),
            handle: source.volume_handle.clone(),
            inline: false,
            read_only,
            access_modes: spec.access_modes.clone().unwrap_or_default(),
            fs_type: source.fs_type.clone().unwrap_or_default(),
            attributes: source.volume_attributes.clone().unwrap_or_default(),
            mount_options: spec.mount_options.clone().unwrap_or_default(),
            stage_secret: secret(&source.node_stage_secret_ref),
            publish_secret: secret(&source.node_publish_secret_ref),
        })
    }

    /// Whether no two pods may have it.
    pub(in crate::volumes) fn is_for_one_pod(&self) -> bool {
        self.access_modes == [RWOP]
    }

    /// Of a volume in the pod itself (CSI-012); `None` if it is no CSI volume.
    pub(in crate::volumes) fn inline(pod: &Pod, volume: &Volume) -> Option<Self> {
        let source = volume.csi.as_ref()?;
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let uid = uid_of(pod)?;
        Some(Self {
            name: volume.name.clone(),
            driver: source.driver.clone(),
            // CSI-006
            handle: format!("csi-{}", hex(&[uid.as_str(), &volume.name])),
            inline: true,
            read_only: source.read_only.unwrap_or(false),
            fs_type: source.fs_type.clone().unwrap_or_default(),
            attributes: source.volume_attributes.clone().unwrap_or_default(),
            publish_secret: source.node_publish_secret_ref.as_ref().map(|secret| (namespace, secret.name.clone())),
            ..Self::default()
        })
    }

    /// The name by which the node status and the attach controller know it (VOL-002).
    pub(in crate::volumes) fn unique_name(&self) -> String {
        unique_name(&self.driver, &self.handle)
    }

    /// Whether no two pods may have it (VOL-023).
    pub(super) fn exclusive(&self) -> bool {
        self.access_modes == [RWOP]
    }

    /// CSI-010
    fn capability(&self, can: DriverCapabilities, group: Option<i64>) -> VolumeCapability {
        let mode = match self.access_modes.first().map_or(RWO, String::as_str) {
            "ReadOnlyMany" => Mode::MultiNodeReaderOnly,
            "ReadWriteMany" => Mode::MultiNodeMultiWriter,
            RWOP if can.single_node_multi_writer => Mode::SingleNodeSingleWriter,
            RWO if can.single_node_multi_writer => Mode::SingleNodeMultiWriter,
            RWO | RWOP => Mode::SingleNodeWriter,
            _ => Mode::Unknown,
        };
        let mount = MountVolume {
            fs_type: self.fs_type.clone(),
            mount_flags: self.mount_options.clone(),
            // CSI-013: the driver sees to the group itself.
            volume_mount_group: group.filter(|_| can.mount_group).map(|group| group.to_string()).unwrap_or_default(),
        };
        VolumeCapability { access_type: Some(AccessType::Mount(mount)), access_mode: Some(AccessMode { mode: mode.into() }) }
    }

    /// CSI-017, without secrets.
    pub(super) fn stage_request(
        &self,
        paths: &Paths,
        context: &BTreeMap<String, String>,
        can: DriverCapabilities,
        group: Option<i64>,
    ) -> NodeStageVolumeRequest {
        NodeStageVolumeRequest {
            volume_id: self.handle.clone(),
            publish_context: context.clone(),
            staging_target_path: paths.staging(),
            volume_capability: Some(self.capability(can, group)),
            secrets: BTreeMap::new(),
            volume_context: self.attributes.clone(),
        }
    }

    /// CSI-017, without secrets and tokens.
    pub(super) fn publish_request(
        &self,
        (paths, target): (&Paths, String),
        context: &BTreeMap<String, String>,
        can: DriverCapabilities,
        pod: &Pod,
        driver: Option<&CSIDriver>,
    ) -> NodePublishVolumeRequest {
        let mut volume_context = self.attributes.clone();
        // CSI-011
        if driver.and_then(|driver| driver.spec.pod_info_on_mount) == Some(true) {
            volume_context.extend(pod_info(pod, self.inline));
        }
        let stages = can.stage && !self.inline;
        NodePublishVolumeRequest {
            volume_id: self.handle.clone(),
            publish_context: context.clone(),
            staging_target_path: if stages { paths.staging() } else { String::new() },
            target_path: target,
            volume_capability: Some(self.capability(can, fs_group(pod))),
            readonly: self.read_only,
            secrets: BTreeMap::new(),
            volume_context,
        }
    }

    /// The group that the agent gives the volume to once it is mounted, if that is its task (CSI-013).
    pub(super) fn group_to_give(&self, pod: &Pod, can: DriverCapabilities, driver: Option<&CSIDriver>) -> Option<i64> {
        let group = fs_group(pod).filter(|_| !can.mount_group && !self.read_only)?;
        let policy = driver.and_then(|driver| driver.spec.fs_group_policy.as_deref());
        let gives = match policy.unwrap_or("ReadWriteOnceWithFSType") {
            "None" => false,
            "File" => true,
            _ => {
                let writer = self.access_modes.iter().any(|mode| mode == RWO || mode == RWOP);
                !self.fs_type.is_empty() && (self.inline || writer)
            }
        };
        gives.then_some(group)
    }
}

pub(super) fn fs_group(pod: &Pod) -> Option<i64> {
    pod.spec.as_ref()?.security_context.as_ref()?.fs_group
}

/// CSI-011
fn pod_info(pod: &Pod, inline: bool) -> [(String, String); 5] {
    let metadata = &pod.metadata;
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
    [
        ("pod.name", metadata.name.clone().unwrap_or_default()),
        ("pod.namespace", metadata.namespace.clone().unwrap_or_default()),
        ("pod.uid", metadata.uid.clone().unwrap_or_default()),
        ("serviceAccount.name", account.unwrap_or_default()),
        ("ephemeral", inline.to_string()),
    ]
    .map(|(key, value)| (format!("csi.storage.k8s.io/{key}"), value))
}

/// VOL-002
pub(super) fn unique_name(driver: &str, handle: &str) -> String {
    format!("kubernetes.io/csi/{driver}^{handle}")
}

/// The name of the attachment of a volume to a node (CSI-006).
#[must_use]
pub fn attachment_name(handle: &str, driver: &str, node: &str) -> String {
    format!("csi-{}", hex(&[handle, driver, node]))
}

fn hex(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where one volume goes (CSI-006).
#[derive(Clone, Debug)]
pub(super) struct Paths {
    root: String,
    device: String,
}

impl Paths {
    pub(super) fn new(root: &str, driver: &str, handle: &str) -> Self {
        Self { root: root.to_owned(), device: format!("{root}/plugins/kubernetes.io/csi/{driver}/{}", hex(&[handle])) }
    }

    /// Where it is staged.
    pub(super) fn staging(&self) -> String {
        format!("{}/globalmount", self.device)
    }

    /// What is kept of it while it is staged.
    pub(super) fn staging_data(&self) -> String {
        format!("{}/vol_data.json", self.device)
    }

    /// The directory of a pod's volume.
    pub(super) fn directory(&self, pod: &PodUid, name: &str) -> String {
        format!("{}/pods/{pod}/volumes/{DIRECTORY}/{name}", self.root)
    }

    /// Where it is published for a pod.
    pub(super) fn target(&self, pod: &PodUid, name: &str) -> String {
        format!("{}/mount", self.directory(pod, name))
    }

    /// What is kept of it while it is published.
    pub(super) fn target_data(&self, pod: &PodUid, name: &str) -> String {
        format!("{}/vol_data.json", self.directory(pod, name))
    }
}

/// What `vol_data.json` keeps of a volume (CSI-006): enough to undo what was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct VolumeData {
    #[serde(rename = "attachmentID", default, skip_serializing_if = "String::is_empty")]
    attachment_id: String,
    pub(super) driver_name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    node_name: String,
    #[serde(rename = "specVolID", default, skip_serializing_if = "String::is_empty")]
    spec_vol_id: String,
    pub(super) volume_handle: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    volume_lifecycle_mode: String,
}

impl VolumeData {
    /// Of a volume that is about to be staged.
    pub(super) fn staged(spec: &CsiSpec) -> Self {
        Self { driver_name: spec.driver.clone(), volume_handle: spec.handle.clone(), ..Self::default() }
    }

    /// Of a volume that is about to be published.
    pub(super) fn published(spec: &CsiSpec, node: &str) -> Self {
        Self {
            attachment_id: attachment_name(&spec.handle, &spec.driver, node),
            node_name: node.to_owned(),
            spec_vol_id: spec.name.clone(),
            volume_lifecycle_mode: if spec.inline { "Ephemeral" } else { "Persistent" }.to_owned(),
            ..Self::staged(spec)
        }
    }

    /// As upstream writes it.
    pub(super) fn to_text(&self) -> String {
        // Plain text fields always serialize.
        format!("{}\n", serde_json::to_string(self).unwrap_or_default())
    }

    /// As this agent or upstream wrote it; `None` if it is not whole.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let data: Self = serde_json::from_str(text).ok()?;
        (!data.driver_name.is_empty() && !data.volume_handle.is_empty()).then_some(data)
    }

    pub(super) fn unique_name(&self) -> String {
        unique_name(&self.driver_name, &self.volume_handle)
    }

    /// Whether it is a volume of one pod only, written in its spec.
    pub(super) fn is_inline(&self) -> bool {
        self.volume_lifecycle_mode == "Ephemeral"
    }
}
