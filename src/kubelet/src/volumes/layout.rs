//! Decides what of a pod its volumes hang on: which are used, and what is mounted inside which. Made once for each spec.
//! Upstream: pkg/volume/util/nested_volumes.go, pkg/kubelet/volumemanager/populator (processPodVolumes).
//! Differs: upstream reads the spec anew for each volume that it sets up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodSpec, Volume};

use super::{desired, payload};
use crate::limits::{EACH, Room};

/// The directories to be made in a volume, or in words why that cannot be.
type Nested = Result<BTreeSet<String>, String>;

/// What volumes need to know of their pod.
#[derive(Debug)]
pub(super) struct Layout {
    pod: Arc<Pod>,
    /// Another one whenever something changed that a volume may be made from.
    pub(super) revision: u64,
    /// By place in the spec: the volumes that are used, as mounts and as devices.
    used: Vec<(usize, bool, bool)>,
    nested: BTreeMap<String, Nested>,
    /// The one user that every container runs as.
    pub(super) fs_user: Option<i64>,
}

impl Layout {
    fn new(pod: &Arc<Pod>, revision: u64) -> Self {
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let places: BTreeMap<&str, usize> = volumes.enumerate().map(|(at, volume)| (volume.name.as_str(), at)).collect();
        let used = desired::used(pod).into_iter();
        Self {
            used: used.filter_map(|used| Some((*places.get(used.volume.name.as_str())?, used.mounted, used.device))).collect(),
            nested: pod.spec.as_ref().map(nested_directories).unwrap_or_default(),
            fs_user: payload::fs_user(pod),
            pod: Arc::clone(pod),
            revision,
        }
    }

    /// The layout of that pod: the one that there is, if nothing has changed that matters.
    pub(super) fn follow(known: Option<Arc<Self>>, pod: &Arc<Pod>) -> Arc<Self> {
        let Some(known) = known else { return Arc::new(Self::new(pod, 0)) };
        if Arc::ptr_eq(&known.pod, pod) || is_same(&known.pod, pod) {
            return known;
        }
        Arc::new(Self::new(pod, known.revision + 1))
    }

    /// The volumes that containers use.
    pub(super) fn used<'a>(&self, pod: &'a Pod) -> Vec<desired::Used<'a>> {
        let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
        let one = |(at, mounted, device): &(usize, bool, bool)| {
            Some(desired::Used { volume: volumes.get(*at)?, mounted: *mounted, device: *device })
        };
        self.used.iter().filter_map(one).collect()
    }

    /// The directories to be made in that volume (VTY-019).
    pub(super) fn nested(&self, volume: &str) -> Nested {
        self.nested.get(volume).cloned().unwrap_or_else(|| Ok(BTreeSet::new()))
    }
}

/// Whether volumes of both are made from the same.
fn is_same(one: &Pod, other: &Pod) -> bool {
    let (a, b) = (&one.metadata, &other.metadata);
    (&a.name, &a.namespace, &a.uid, &a.labels, &a.annotations) == (&b.name, &b.namespace, &b.uid, &b.labels, &b.annotations)
        && one.spec == other.spec
}

/// Whether the agent writes what is in it.
fn is_written(volume: &Volume) -> bool {
    volume.config_map.is_some() || volume.secret.is_some() || volume.downward_api.is_some() || volume.projected.is_some()
}

/// Directories for what containers mount directly inside volumes that the agent writes, by volume (VTY-019). Each path is looked at
/// once for each mount around it, which its own text must name.
fn nested_directories(spec: &PodSpec) -> BTreeMap<String, Nested> {
    let written = spec.volumes.iter().flatten().filter(|volume| is_written(volume));
    let mut made: BTreeMap<&str, Nested> = written.map(|volume| (volume.name.as_str(), Ok(BTreeSet::new()))).collect();
    let mut room = Room::of_nested();
    for mounts in desired::mounts(spec) {
        let all: BTreeSet<String> = mounts.iter().map(|mount| payload::cleaned(&mount.mount_path)).collect();
        let own: BTreeSet<(&str, String)> =
            mounts.iter().map(|mount| (mount.name.as_str(), payload::cleaned(&mount.mount_path))).collect();
        for (volume, own) in own {
            let Some(nested) = made.get_mut(volume) else { continue };
            if let Ok(directories) = nested
                && let Err(why) = inside(&own, &all, directories, &mut room)
            {
                *nested = Err(why);
            }
        }
    }
    made.into_iter().map(|(volume, nested)| (volume.to_owned(), nested)).collect()
}

/// What of all is mounted directly inside one mount.
fn inside(own: &str, all: &BTreeSet<String>, directories: &mut BTreeSet<String>, room: &mut Room) -> Result<(), String> {
    if own == ".." || own.starts_with("../") {
        return Err(format!("invalid container mount point {own}"));
    }
    let prefix = format!("{}/", own.trim_end_matches('/'));
    let mut outer: Option<&String> = None;
    for inner in all.range(prefix.clone()..).take_while(|path| path.starts_with(&prefix)) {
        if outer.is_none_or(|outer| !inner.strip_prefix(outer.as_str()).is_some_and(|rest| rest.starts_with('/'))) {
            outer = Some(inner);
            room.take(inner.len() - prefix.len() + EACH)?;
            directories.insert(inner[prefix.len()..].to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::NESTED_BYTES;
    use serde_json::{Value, json};

    fn layout(containers: &Value, volumes: &[String]) -> Layout {
        let volumes: Vec<Value> = volumes.iter().map(|name| json!({"name": name, "configMap": {"name": "m"}})).collect();
        let spec =
            json!({"initContainers": containers["initContainers"], "containers": containers["containers"], "volumes": volumes});
        Layout::new(&Arc::new(serde_json::from_value(json!({"spec": spec})).unwrap()), 0)
    }

    fn mount(name: &str, path: &str) -> Value {
        json!({"name": name, "mountPath": path})
    }

    // VTY-019: only what is directly inside; the same in every container.
    #[test]
    fn directories_are_made_for_mounts_directly_inside_the_volume() {
        let pod = json!({
            "initContainers": [{"name": "i", "volumeMounts": [mount("v", "/x"), mount("o", "/x/deep/er")]}],
            "containers": [{"name": "c", "volumeMounts": [
                mount("v", "/etc/app/"), mount("o", "/etc/app/sub"), mount("p", "/etc/app/sub/below"), mount("q", "/etc/application")]}],
        });
        let layout = layout(&pod, &["v".to_owned(), "q".to_owned()]);
        let directories: Vec<String> = layout.nested("v").unwrap().into_iter().collect();
        assert_eq!(directories, ["deep/er", "sub"]);
        assert!(layout.nested("q").unwrap().is_empty());
    }

    // VTY-019: volumes times mounts. Upstream (pkg/volume/util/nested_volumes.go) makes what there is.
    #[test]
    fn mounts_inside_volumes_are_bounded() {
        // Each of them is inside all volumes, since what sorts between hides that they are inside one another.
        let (mut mounts, mut path) = (Vec::new(), String::new());
        let volumes: Vec<String> = (0..300).map(|n| format!("v{n}")).collect();
        for volume in &volumes {
            path.push_str("/a");
            mounts.push(mount(volume, &path));
            mounts.push(mount("o", &format!("{path}-")));
        }
        for n in 0..300 {
            mounts.push(mount("o", &format!("{path}/a/{n}")));
        }
        let layout = layout(&json!({"containers": [{"name": "c", "volumeMounts": mounts}]}), &volumes);
        let sizes = volumes.iter().map(|volume| layout.nested(volume)).filter_map(Result::ok).flatten().map(|path| path.len());
        assert!(sizes.sum::<usize>() <= NESTED_BYTES);
        let refused = volumes.iter().filter_map(|volume| layout.nested(volume).err()).next().unwrap();
        assert_eq!(
            refused,
            "the paths that are mounted inside the pod's volumes take more than 1048576 bytes, the most that is allowed"
        );
    }

    #[test]
    fn layout_is_made_anew_only_if_something_matters() {
        let pod = |spec: Value, metadata: Value| -> Arc<Pod> {
            Arc::new(serde_json::from_value(json!({"spec": spec, "metadata": metadata, "status": {"phase": "Pending"}})).unwrap())
        };
        let first = Layout::follow(None, &pod(json!({"containers": []}), json!({"labels": {"a": "1"}, "resourceVersion": "1"})));
        let second = Layout::follow(
            Some(Arc::clone(&first)),
            &pod(json!({"containers": []}), json!({"labels": {"a": "1"}, "resourceVersion": "2"})),
        );
        assert!(Arc::ptr_eq(&first, &second));
        let third = Layout::follow(Some(second), &pod(json!({"containers": []}), json!({"labels": {"a": "2"}})));
        assert_ne!(first.revision, third.revision);
    }
}
