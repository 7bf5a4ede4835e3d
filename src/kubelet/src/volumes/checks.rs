//! Decides whether a claim's volume may be mounted here at all, for this pod.
//! Upstream: pkg/volume/util/operationexecutor/operation_generator.go (GenerateMountVolumeFunc and the checks that it makes).
//! Differs: a volume for one pod is another's as soon as that one asked for it, not only once it has it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PersistentVolume;

use super::csi::CsiVolumes;
use super::desired::Claimed;
use crate::admission::selects;
use crate::ids::PodUid;

/// Which check failed, and why, in upstream's words.
pub(super) type Refusal = (&'static str, &'static str);

/// What keeps that volume from being mounted for that pod, if anything does; `labels` are the node's, if they are known.
pub(super) fn refusal(
    found: &PersistentVolume,
    claimed: &Claimed,
    labels: Option<&BTreeMap<String, String>>,
    csi: &CsiVolumes,
    uid: &PodUid,
) -> Option<Refusal> {
    if labels.is_some_and(|labels| !is_for_node(found, labels)) {
        return Some(("MountVolume.NodeAffinity check", "no matching NodeSelectorTerms"));
    }
    match claimed {
        Claimed::Machine(..) => has_options(found)
            .then_some(("MountVolume.MountOptionSupport check", "mount options are not supported for this volume type")),
        Claimed::Driver(spec) => csi
            .is_anothers(uid, spec)
            .then_some(("MountVolume.SetUp", "volume uses the ReadWriteOncePod access mode and is already in use by another pod")),
    }
}

/// Another node may have its data, or its device.
fn is_for_node(volume: &PersistentVolume, labels: &BTreeMap<String, String>) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required.as_ref());
    required.is_none_or(|required| selects(&required.node_selector_terms, labels, &BTreeMap::new()))
}

/// The annotation goes before the field, and empty ones do not count (pkg/volume/util/util.go, MountOptionFromSpec).
fn has_options(volume: &PersistentVolume) -> bool {
    let annotation = volume.metadata.annotations.as_ref().and_then(|all| all.get("volume.beta.kubernetes.io/mount-options"));
    match annotation {
        Some(options) => options.split(',').any(|option| !option.is_empty()),
        None => volume.spec.iter().flat_map(|spec| &spec.mount_options).flatten().any(|option| !option.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use super::super::Plugin;
    use super::super::csi::spec::CsiSpec;
    use super::*;

    fn checked(volume: Value) -> Option<Refusal> {
        let volume: PersistentVolume = serde_json::from_value(volume).unwrap();
        let labels = [("kubernetes.io/hostname".to_owned(), "n1".to_owned()), ("zone".to_owned(), "a".to_owned())].into();
        let (uid, on_the_machine) = (PodUid::new("u"), Claimed::Machine(Box::default(), Plugin::HostPath));
        refusal(&volume, &on_the_machine, Some(&labels), &CsiVolumes::default(), &uid)
    }

    // VOL-007: the words are those of a kubelet 1.36.2, and the table that of CheckNodeAffinity's test.
    #[test]
    fn volume_of_another_node_is_not_used_here() {
        let with = |affinity: Value| checked(json!({"metadata": {"name": "pv"}, "spec": {"nodeAffinity": affinity}}));
        let of = |terms: Value| with(json!({"required": {"nodeSelectorTerms": terms}}));
        let one = |key: &str, operator: &str, values: Value| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        let mismatch = Some(("MountVolume.NodeAffinity check", "no matching NodeSelectorTerms"));
        assert_eq!((with(Value::Null), with(json!({}))), (None, None));
        assert_eq!(of(json!([one("kubernetes.io/hostname", "In", json!(["n1"]))])), None);
        assert_eq!(of(json!([one("kubernetes.io/hostname", "In", json!(["other"]))])), mismatch);
        assert_eq!(of(json!([one("zone", "In", json!(["b"])), one("zone", "In", json!(["a", "c"]))])), None, "one is enough");
        let mut both = one("zone", "In", json!(["a"]));
        both["matchExpressions"].as_array_mut().unwrap().push(json!({"key": "rack", "operator": "Exists"}));
        assert_eq!(of(json!([both])), mismatch, "all of one term count");
        assert_eq!(of(json!([])), mismatch);
    }

    // VTY-006, as a kubelet 1.36.2 was recorded: a hostPath is not mounted, hence has no options.
    #[test]
    fn volume_of_the_machine_takes_no_mount_options() {
        let refused = Some(("MountVolume.MountOptionSupport check", "mount options are not supported for this volume type"));
        assert_eq!(checked(json!({"spec": {"mountOptions": ["noatime"]}})), refused);
        let annotations = json!({"volume.beta.kubernetes.io/mount-options": "noatime"});
        assert_eq!(checked(json!({"metadata": {"annotations": annotations}})), refused);
        assert_eq!(checked(json!({"spec": {"mountOptions": []}})), None);
        // pkg/volume/util/util.go: empty ones do not count, and the annotation goes before the field.
        assert_eq!(checked(json!({"spec": {"mountOptions": [""]}})), None);
        let empty = json!({"volume.beta.kubernetes.io/mount-options": ""});
        assert_eq!(checked(json!({"metadata": {"annotations": empty}, "spec": {"mountOptions": ["noatime"]}})), None);
    }

    // CSI-006: operation_generator.go (GenerateMountVolumeFunc); only if it is the one mode that the volume has.
    #[test]
    fn volume_for_one_pod_is_not_mounted_for_another() {
        let first: Pod = serde_json::from_value(json!({"metadata": {"name": "first", "uid": "first"}})).unwrap();
        let (first, mine, another) = (Arc::new(first), PodUid::new("first"), PodUid::new("another"));
        for (modes, words) in [
            (
                json!(["ReadWriteOncePod"]),
                Some("volume uses the ReadWriteOncePod access mode and is already in use by another pod"),
            ),
            (json!(["ReadWriteOncePod", "ReadWriteOnce"]), None),
            (json!(["ReadWriteMany"]), None),
        ] {
            let csi = json!({"driver": "d.io", "volumeHandle": "h"});
            let found = json!({"metadata": {"name": "pv"}, "spec": {"accessModes": modes, "csi": csi}});
            let found: PersistentVolume = serde_json::from_value(found).unwrap();
            let spec = CsiSpec::of(&found, false).unwrap();
            let mut volumes = CsiVolumes::default();
            let checked = |volumes: &CsiVolumes, uid| {
                refusal(&found, &Claimed::Driver(Box::new(spec.clone())), None, volumes, uid).map(|(_, why)| why)
            };
            assert_eq!(checked(&volumes, &another), None, "nobody has it yet");
            volumes.want(&first, spec.clone());
            assert_eq!((checked(&volumes, &mine), checked(&volumes, &another)), (None, words));
            volumes.leave(&mine);
            assert_eq!(checked(&volumes, &another), None, "it was never mounted, and nobody wants it");
        }
    }
}
