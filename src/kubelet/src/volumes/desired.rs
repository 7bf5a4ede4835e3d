//! Decides which of a pod's volumes are needed, which plugin each is for, and where it goes.
//! Upstream: pkg/kubelet/volumemanager/populator/desired_state_of_world_populator.go, pkg/volume/plugins.go (FindPluginBySpec).
//! Differs: nothing on purpose.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Pod, PodSpec, Volume, VolumeMount};

use super::{MountedVolume, Plugin, Trouble, VolumeInputs, configmap, downward, emptydir, hostpath, projected, secret};
use crate::action::VolumeSetup;
use crate::ids::PodUid;
use crate::out::Out;
use crate::time::Now;

/// A volume that some container uses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used<'a> {
    /// The volume.
    pub(super) volume: &'a Volume,
    /// Whether it is used as a block device.
    pub(super) device: bool,
}

/// The volumes that a container of any kind mounts, in the order of the spec (VOL-004).
pub(super) fn used(pod: &Pod) -> Vec<Used<'_>> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let (mounts, devices) = names(spec);
    spec.volumes
        .iter()
        .flatten()
        .filter(|volume| mounts.contains(volume.name.as_str()) || devices.contains(volume.name.as_str()))
        .map(|volume| Used { volume, device: devices.contains(volume.name.as_str()) })
        .collect()
}

/// The mounts of every container, by container.
pub(super) fn mounts(spec: &PodSpec) -> impl Iterator<Item = &[VolumeMount]> {
    let ordinary = spec.init_containers.iter().flatten().chain(&spec.containers).map(|c| c.volume_mounts.as_deref());
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| c.volume_mounts.as_deref());
    ordinary.chain(ephemeral).flatten()
}

fn names(spec: &PodSpec) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let ordinary = spec.init_containers.iter().flatten().chain(&spec.containers).map(|c| c.volume_devices.as_deref());
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| c.volume_devices.as_deref());
    (
        mounts(spec).flatten().map(|mount| mount.name.as_str()).collect(),
        ordinary.chain(ephemeral).flatten().flatten().map(|device| device.name.as_str()).collect(),
    )
}

/// The plugin for a used volume.
///
/// # Errors
/// In words, if it is of a kind that this agent does not put in place, or is used as a block device.
pub(super) fn plugin(used: Used<'_>) -> Result<Plugin, String> {
    let (volume, name) = (used.volume, &used.volume.name);
    let plugin = if volume.empty_dir.is_some() {
        Plugin::EmptyDir
    } else if volume.host_path.is_some() {
        Plugin::HostPath
    } else if volume.config_map.is_some() {
        Plugin::ConfigMap
    } else if volume.secret.is_some() {
        Plugin::Secret
    } else if volume.downward_api.is_some() {
        Plugin::DownwardApi
    } else if volume.projected.is_some() {
        Plugin::Projected
    } else if volume.image.is_some() {
        Plugin::Image
    } else if let Some(kind) = unsupported_kind(volume) {
        return Err(format!("volume \"{name}\" is of kind {kind}, which is not supported"));
    } else {
        // The API's default for a volume without a source.
        Plugin::EmptyDir
    };
    if used.device {
        // VOL-008: none of these is a block device.
        return Err(format!("volume {name} has volumeMode Filesystem, but is specified in volumeDevices"));
    }
    Ok(plugin)
}

/// Where the volume is once it is in place.
pub(super) fn place(root_dir: &str, uid: &PodUid, volume: &Volume, plugin: Plugin) -> MountedVolume {
    let host_path = match (plugin, &volume.host_path) {
        (Plugin::Image, _) => String::new(),
        (Plugin::HostPath, Some(source)) => source.path.clone(),
        // DIR-010
        _ => format!("{root_dir}/pods/{uid}/volumes/{}/{}", plugin.directory(), volume.name),
    };
    MountedVolume { host_path, plugin }
}

/// What is to be done on the host; `None` if nothing is.
pub(super) fn setup(
    now: Now,
    pod: &Pod,
    volume: &Volume,
    plugin: Plugin,
    inputs: &mut VolumeInputs<'_>,
    out: &mut Out<'_>,
) -> Result<Option<VolumeSetup>, Trouble> {
    match plugin {
        Plugin::EmptyDir => emptydir::setup(pod, volume, inputs).map(Some),
        Plugin::HostPath => hostpath::setup(volume),
        Plugin::ConfigMap => configmap::setup(pod, volume, inputs).map(Some),
        Plugin::Secret => secret::setup(pod, volume, inputs).map(Some),
        Plugin::DownwardApi => downward::setup(pod, volume, inputs).map(Some),
        Plugin::Projected => projected::setup(now, pod, volume, inputs, out).map(Some),
        Plugin::Image => Ok(None),
    }
}

/// The API's name for the source of a volume that has another one than ours.
fn unsupported_kind(volume: &Volume) -> Option<&'static str> {
    let kinds = [
        ("persistentVolumeClaim", volume.persistent_volume_claim.is_some()),
        ("ephemeral", volume.ephemeral.is_some()),
        ("csi", volume.csi.is_some()),
        ("nfs", volume.nfs.is_some()),
        ("iscsi", volume.iscsi.is_some()),
        ("fc", volume.fc.is_some()),
        ("flexVolume", volume.flex_volume.is_some()),
        ("awsElasticBlockStore", volume.aws_elastic_block_store.is_some()),
        ("azureDisk", volume.azure_disk.is_some()),
        ("azureFile", volume.azure_file.is_some()),
        ("cephfs", volume.cephfs.is_some()),
        ("cinder", volume.cinder.is_some()),
        ("flocker", volume.flocker.is_some()),
        ("gcePersistentDisk", volume.gce_persistent_disk.is_some()),
        ("gitRepo", volume.git_repo.is_some()),
        ("glusterfs", volume.glusterfs.is_some()),
        ("photonPersistentDisk", volume.photon_persistent_disk.is_some()),
        ("portworxVolume", volume.portworx_volume.is_some()),
        ("quobyte", volume.quobyte.is_some()),
        ("rbd", volume.rbd.is_some()),
        ("scaleIO", volume.scale_io.is_some()),
        ("storageos", volume.storageos.is_some()),
        ("vsphereVolume", volume.vsphere_volume.is_some()),
    ];
    kinds.into_iter().find(|(_, is)| *is).map(|(kind, _)| kind)
}
