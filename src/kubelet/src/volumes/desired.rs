//! Decides which of a pod's volumes are needed, which plugin each is for, and where it goes.
//! Upstream: pkg/kubelet/volumemanager/populator/desired_state_of_world_populator.go, pkg/volume/plugins.go (FindPluginBySpec).
//! Differs: nothing on purpose.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{PersistentVolume, Pod, PodSpec, Volume, VolumeMount};

use super::claims::ClaimName;
use super::csi::spec::CsiSpec;
use super::manager::Whose;
use super::{MountedVolume, Plugin, Trouble, VolumeInputs, configmap, downward, emptydir, hostpath, projected, secret};
use crate::action::VolumeSetup;
use crate::ids::PodUid;
use crate::limits::Room;
use crate::out::Out;
use crate::time::Now;

/// A volume that some container uses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used<'a> {
    /// The volume.
    pub(super) volume: &'a Volume,
    /// Whether it is mounted.
    pub(super) mounted: bool,
    /// Whether it is used as a block device.
    pub(super) device: bool,
}

/// Where a pod's volume comes from.
#[derive(Debug)]
pub(super) enum Source {
    /// From the pod alone.
    Pod(Plugin),
    /// From a driver, as the pod says (CSI-012).
    Driver(Box<CsiSpec>),
    /// From a claim; with whether the pod wants it read-only.
    Claim(ClaimName, bool),
}

/// What a claim's volume is.
#[derive(Debug)]
pub(super) enum Claimed {
    /// A driver's.
    Driver(Box<CsiSpec>),
    /// On the machine itself: as a pod would say it, and its plugin.
    Machine(Box<Volume>, Plugin),
}

/// The volumes that a container of any kind mounts, in the order of the spec (VOL-004).
pub(super) fn used(pod: &Pod) -> Vec<Used<'_>> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let (mounts, devices) = names(spec);
    spec.volumes
        .iter()
        .flatten()
        .filter(|volume| mounts.contains(volume.name.as_str()) || devices.contains(volume.name.as_str()))
        .map(|volume| {
            let name = volume.name.as_str();
            Used { volume, mounted: mounts.contains(name), device: devices.contains(name) }
        })
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

/// Where a used volume comes from.
///
/// # Errors
/// In words, if it is of a kind that this agent does not put in place, or is used as a block device.
pub(super) fn source(pod: &Pod, used: Used<'_>) -> Result<Source, String> {
    let volume = used.volume;
    if let Some(source) = &volume.persistent_volume_claim {
        let name = ClaimName { name: source.claim_name.clone(), ephemeral: false };
        return Ok(Source::Claim(name, source.read_only.unwrap_or(false)));
    }
    if volume.ephemeral.is_some() {
        // VOL-009
        let name = format!("{}-{}", pod.metadata.name.as_deref().unwrap_or_default(), volume.name);
        return Ok(Source::Claim(ClaimName { name, ephemeral: true }, false));
    }
    match CsiSpec::inline(pod, volume) {
        Some(_) if used.device => Err(not_a_device(&volume.name)),
        Some(spec) => Ok(Source::Driver(Box::new(spec))),
        None => plugin(used).map(Source::Pod),
    }
}

fn not_a_device(name: &str) -> String {
    format!("volume {name} has volumeMode Filesystem, but is specified in volumeDevices")
}

/// What a claim's volume is to this agent (VOL-008).
///
/// # Errors
/// In words, if the pod uses it otherwise than it is, or it is of a kind that this agent does not put in place.
pub(super) fn claimed(used: Used<'_>, found: &PersistentVolume, read_only: bool) -> Result<Claimed, String> {
    let name = &used.volume.name;
    let spec = found.spec.clone().unwrap_or_default();
    let block = spec.volume_mode.as_deref() == Some("Block");
    if used.mounted && block {
        return Err(format!("volume {name} has volumeMode Block, but is specified in volumeMounts"));
    }
    if used.device && !block {
        return Err(not_a_device(name));
    }
    if block {
        return Err(format!("volume \"{name}\" has volumeMode Block, which is not supported"));
    }
    if let Some(spec) = CsiSpec::of(found, read_only) {
        return Ok(Claimed::Driver(Box::new(spec)));
    }
    if let Some(source) = spec.host_path {
        let volume = Volume { name: name.clone(), host_path: Some(source), ..Volume::default() };
        return Ok(Claimed::Machine(Box::new(volume), Plugin::HostPath));
    }
    let kind = serde_json::to_value(&spec).ok().and_then(|value| {
        let mut sources =
            value.as_object()?.iter().filter(|(key, _)| !PV_FIELDS.contains(&key.as_str())).map(|(key, _)| key.clone());
        sources.next()
    });
    Err(format!("volume \"{name}\" is of kind {}, which is not supported", kind.unwrap_or_default()))
}

/// The group of an annotation of the volume; none if it is no number.
pub(super) fn group(volume: &PersistentVolume) -> Option<i64> {
    volume.metadata.annotations.as_ref()?.get("pv.beta.kubernetes.io/gid")?.parse().ok()
}

/// What a PersistentVolume says besides its source.
const PV_FIELDS: [&str; 9] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

/// The plugin for a used volume of a pod's own.
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
        return Err(not_a_device(name));
    }
    Ok(plugin)
}

/// Where the volume is once it is in place.
pub(super) fn place(root_dir: &str, uid: &PodUid, volume: &Volume, plugin: Plugin) -> MountedVolume {
    let host_path = match (plugin, &volume.host_path) {
        (Plugin::Image | Plugin::Csi, _) => String::new(),
        (Plugin::HostPath, Some(source)) => source.path.clone(),
        // DIR-010
        _ => format!("{root_dir}/pods/{uid}/volumes/{}/{}", plugin.directory(), volume.name),
    };
    MountedVolume { host_path, plugin, name: volume.name.clone(), read_only: false, group: None }
}

/// What is to be done on the host; `None` if nothing is.
pub(super) fn setup(
    now: Now,
    whose: Whose<'_>,
    volume: &Volume,
    plugin: Plugin,
    inputs: &mut VolumeInputs<'_>,
    room: &mut Room,
    out: &mut Out<'_>,
) -> Result<Option<VolumeSetup>, Trouble> {
    match plugin {
        Plugin::EmptyDir => emptydir::setup(whose.pod, volume, inputs).map(Some),
        Plugin::HostPath => hostpath::setup(volume),
        Plugin::ConfigMap => configmap::setup(whose, volume, inputs, room).map(Some),
        Plugin::Secret => secret::setup(whose, volume, inputs, room).map(Some),
        Plugin::DownwardApi => downward::setup(whose, volume, inputs, room).map(Some),
        Plugin::Projected => projected::setup(now, whose, volume, inputs, room, out).map(Some),
        Plugin::Image | Plugin::Csi => Ok(None),
    }
}

/// The API's name for the source of a volume that has another one than ours.
fn unsupported_kind(volume: &Volume) -> Option<&'static str> {
    let kinds = [
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claimed_as(spec: Value, mounted: bool, device: bool) -> Result<Claimed, String> {
        let volume = Volume { name: "data".to_owned(), ..Volume::default() };
        let found = serde_json::from_value(json!({"metadata": {"name": "pv-1"}, "spec": spec})).unwrap();
        claimed(Used { volume: &volume, mounted, device }, &found, true)
    }

    // VOL-032: pkg/volume/util/util.go and kubelet/volumemanager/volume_manager.go (getExtraSupplementalGid) read a decimal number.
    #[test]
    fn volume_names_the_group_of_its_files() {
        let named = |id: &str| {
            let annotations = json!({"pv.beta.kubernetes.io/gid": id});
            group(&serde_json::from_value(json!({"metadata": {"annotations": annotations}})).unwrap())
        };
        assert_eq!((named("777"), named(""), named("root"), named("0x7")), (Some(777), None, None, None));
        assert_eq!(group(&PersistentVolume::default()), None);
    }

    // VOL-008: a volume is used as what it is.
    #[test]
    fn mode_of_a_claimed_volume_is_the_mode_of_its_use() {
        let csi = json!({"driver": "d.io", "volumeHandle": "h"});
        let block = || claimed_as(json!({"volumeMode": "Block", "csi": csi}), true, false).unwrap_err();
        assert_eq!(block(), "volume data has volumeMode Block, but is specified in volumeMounts");
        let device = claimed_as(json!({"volumeMode": "Filesystem", "csi": csi}), false, true).unwrap_err();
        assert_eq!(device, "volume data has volumeMode Filesystem, but is specified in volumeDevices");
        let unsupported = claimed_as(json!({"volumeMode": "Block", "csi": csi}), false, true).unwrap_err();
        assert_eq!(unsupported, "volume \"data\" has volumeMode Block, which is not supported");
        let Ok(Claimed::Driver(spec)) = claimed_as(json!({"csi": csi}), true, false) else { panic!("it is a driver's") };
        assert!(spec.name == "pv-1" && spec.read_only);
    }

    #[test]
    fn claimed_volume_of_another_kind_is_refused_by_name_and_a_host_path_is_not() {
        let nfs = json!({"accessModes": ["ReadWriteMany"], "capacity": {"storage": "1Gi"}, "nfs": {"server": "s", "path": "/"}});
        assert_eq!(claimed_as(nfs, true, false).unwrap_err(), "volume \"data\" is of kind nfs, which is not supported");
        let Ok(Claimed::Machine(volume, Plugin::HostPath)) = claimed_as(json!({"hostPath": {"path": "/d"}}), true, false) else {
            panic!("it is on the machine")
        };
        assert_eq!((volume.name.as_str(), volume.host_path.unwrap().path.as_str()), ("data", "/d"));
    }
}
