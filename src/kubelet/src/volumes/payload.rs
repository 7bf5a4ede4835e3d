//! Decides the files of a volume that the agent writes: from which keys, under which paths, with which modes and owners.
//! Upstream: pkg/volume/util/{atomic_writer,util,nested_volumes}.go, pkg/volume/{secret,configmap}/*.go (MakePayload).
//! Differs: nothing on purpose.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{KeyToPath, Pod, Volume};

use super::layout::Layout;
use super::{Plugin, Trouble};
use crate::action::{EmptyDirMedium, ProjectedFile, VolumeSetup};
use crate::cache::{Lookup, not_found, not_registered};
use crate::limits::{EACH, Room};
use crate::sensitive::Sensitive;

/// AWR-002
const LONGEST_PATH: usize = 4096;
const LONGEST_NAME: usize = 255;

/// Files by path in the volume.
pub(super) type Files = BTreeMap<String, ProjectedFile>;

/// Which keys of which Secret or ConfigMap a volume shows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) items: Option<&'a [KeyToPath]>,
    pub(super) default_mode: Option<i32>,
    pub(super) optional: bool,
}

/// Completes the setup of a volume of files, which may take so much memory if it lies in memory.
pub(super) fn setup(
    layout: &Layout,
    pod: &Pod,
    volume: &Volume,
    plugin: Plugin,
    memory: Option<u64>,
    files: Files,
) -> Result<VolumeSetup, Trouble> {
    Ok(VolumeSetup::Files {
        plugin: plugin.directory(),
        // VTY-007, VTY-008
        medium: if plugin == Plugin::ConfigMap { EmptyDirMedium::Disk } else { EmptyDirMedium::Memory { size: memory } },
        files: Arc::new(clean(files).map_err(Trouble::Failed)?),
        directories: layout.nested(&volume.name).map_err(Trouble::Failed)?,
        fs_group: fs_group(pod),
    })
}

/// The keys of an object that a volume shows (VTY-009). `missing` is upstream's text for a key that is not there.
pub(super) fn project(data: &BTreeMap<&str, &[u8]>, wanted: &Wanted<'_>, missing: &str, room: &mut Room) -> Result<Files, Trouble> {
    let default_mode = default_mode(wanted.default_mode)?;
    let items = wanted.items.unwrap_or_default();
    if items.is_empty() {
        return data.iter().map(|(key, bytes)| Ok(((*key).to_owned(), file_in(room, key, bytes, default_mode)?))).collect();
    }
    let mut files = Files::new();
    for item in items {
        match data.get(item.key.as_str()) {
            Some(bytes) => {
                let file = file_in(room, &item.path, bytes, item.mode.unwrap_or(default_mode))?;
                files.insert(item.path.clone(), file);
            }
            None if wanted.optional => {}
            None => return Err(Trouble::Failed(format!("{missing}: {}", item.key))),
        }
    }
    Ok(files)
}

/// An object, or none if it may be missing (VTY-009).
pub(super) fn object<T>(found: Lookup<T>, kind: &str, wanted: &Wanted<'_>) -> Result<Option<T>, Trouble> {
    match found {
        Lookup::Found(object) => Ok(Some(object)),
        Lookup::NotFound if wanted.optional => Ok(None),
        Lookup::NotFound => Err(Trouble::Failed(not_found(kind, wanted.name))),
        Lookup::Pending => Err(Trouble::Pending),
        Lookup::Failed(message) => Err(Trouble::Failed(message)),
        Lookup::NotRegistered => Err(Trouble::Failed(not_registered(wanted.namespace, wanted.name))),
    }
}

/// VTY-009: the API sets it; without it nothing is written.
pub(super) fn default_mode(mode: Option<i32>) -> Result<i32, Trouble> {
    mode.ok_or_else(|| Trouble::Failed("no defaultMode used, not even the default value for it".to_owned()))
}

/// Several errors as upstream's aggregate has them: one as it is, more in brackets.
pub(super) fn aggregate(mut errors: Vec<String>) -> Option<String> {
    let mut told = BTreeSet::new();
    errors.retain(|error| told.insert(error.clone()));
    match errors.len() {
        0 => None,
        1 => errors.pop(),
        _ => Some(format!("[{}]", errors.join(", "))),
    }
}

/// One file, owned by root.
pub(super) fn file(data: &[u8], mode: i32) -> ProjectedFile {
    ProjectedFile { data: Sensitive::new(data.to_vec()), mode: u32::try_from(mode).unwrap_or(0o644), owner: None }
}

/// The same, if there is room for it in its volume.
pub(super) fn file_in(room: &mut Room, path: &str, data: &[u8], mode: i32) -> Result<ProjectedFile, Trouble> {
    room.take(path.len() + data.len() + EACH).map_err(Trouble::Failed)?;
    Ok(file(data, mode))
}

/// The pod's fsGroup.
pub(super) fn fs_group(pod: &Pod) -> Option<i64> {
    pod.spec.as_ref()?.security_context.as_ref()?.fs_group
}

/// The one user that every container runs as, by the spec alone (VTY-011).
pub(super) fn fs_user(pod: &Pod) -> Option<i64> {
    let spec = pod.spec.as_ref()?;
    let of_pod = spec.security_context.as_ref().and_then(|context| context.run_as_user);
    let ordinary = spec.init_containers.iter().flatten().chain(&spec.containers).map(|c| c.security_context.as_ref());
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| c.security_context.as_ref());
    let users: BTreeSet<Option<i64>> =
        ordinary.chain(ephemeral).map(|context| context.and_then(|context| context.run_as_user).or(of_pod)).collect();
    if users.len() == 1 { users.into_iter().next().flatten() } else { None }
}

/// What tells one setup from another: equal digests, equal volumes. Valid within one life of the agent.
pub(super) fn digest(setup: &VolumeSetup) -> u64 {
    let mut hasher = DefaultHasher::new();
    if let VolumeSetup::Files { files, directories, .. } = setup {
        for (path, file) in files.iter() {
            (path, file.data.reveal(), file.mode, file.owner).hash(&mut hasher);
        }
        directories.hash(&mut hasher);
    }
    hasher.finish()
}

/// How much the contents of a setup take.
pub(super) fn size(setup: &VolumeSetup) -> usize {
    let VolumeSetup::Files { files, .. } = setup else { return 0 };
    files.iter().map(|(path, file)| path.len() + file.data.reveal().len() + EACH).sum()
}

/// AWR-002
fn clean(files: Files) -> Result<Files, String> {
    files.into_iter().map(|(path, file)| check(&path).map(|()| (cleaned(&path), file))).collect()
}

fn check(path: &str) -> Result<(), String> {
    let elements: Vec<&str> = path.split('/').collect();
    if path.is_empty() {
        return Err("invalid path: must not be empty: \"\"".to_owned());
    }
    if path.starts_with('/') {
        return Err(format!("invalid path: must be relative path: {path}"));
    }
    if path.len() > LONGEST_PATH {
        return Err(format!("invalid path: must be less than or equal to {LONGEST_PATH} characters"));
    }
    if elements.contains(&"..") {
        return Err(format!("invalid path: must not contain '..': {path}"));
    }
    if elements.iter().any(|element| element.len() > LONGEST_NAME) {
        return Err(format!("invalid path: filenames must be less than or equal to {LONGEST_NAME} characters"));
    }
    if elements[0].starts_with("..") {
        return Err(format!("invalid path: must not start with '..': {path}"));
    }
    Ok(())
}

/// Without empty and `.` elements; absolute stays absolute. There is no `..` in it.
pub(super) fn cleaned(path: &str) -> String {
    let elements: Vec<&str> = path.split('/').filter(|element| !element.is_empty() && *element != ".").collect();
    let root = if path.starts_with('/') { "/" } else { "" };
    format!("{root}{}", elements.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"spec": spec})).unwrap()
    }

    // VTY-011
    #[test]
    fn file_owner_is_the_one_user_of_all_containers() {
        let container = |user: Value| json!({"name": "c", "securityContext": {"runAsUser": user}});
        assert_eq!(fs_user(&pod(json!({"containers": [container(json!(7)), container(json!(7))]}))), Some(7));
        assert_eq!(fs_user(&pod(json!({"containers": [container(json!(7)), container(json!(8))]}))), None);
        assert_eq!(fs_user(&pod(json!({"containers": [container(json!(7)), container(Value::Null)]}))), None);
        let with_pod = json!({"securityContext": {"runAsUser": 7}, "containers": [container(Value::Null)], "initContainers": [container(json!(7))]});
        assert_eq!(fs_user(&pod(with_pod)), Some(7));
    }

    // AWR-002
    #[test]
    fn paths_that_leave_the_volume_are_refused() {
        for (path, error) in [
            ("", "invalid path: must not be empty: \"\""),
            ("/etc/passwd", "invalid path: must be relative path: /etc/passwd"),
            ("a/../b", "invalid path: must not contain '..': a/../b"),
            ("..data/k", "invalid path: must not start with '..': ..data/k"),
        ] {
            assert_eq!(check(path), Err(error.to_owned()));
        }
        assert!(check(&"x".repeat(256)).is_err() && check(&"x/".repeat(2049)).is_err());
        assert_eq!(check("a/..b"), Ok(()));
        assert_eq!(cleaned("a//./b"), "a/b");
    }

    #[test]
    fn digest_tells_contents_modes_and_owners_apart() {
        let setup = |data: &str, mode: i32, owner: Option<i64>| {
            let file = ProjectedFile { owner, ..file(data.as_bytes(), mode) };
            let files = Arc::new([("k".to_owned(), file)].into());
            let (plugin, medium) = (String::new(), EmptyDirMedium::Disk);
            digest(&VolumeSetup::Files { plugin, medium, files, directories: BTreeSet::new(), fs_group: None })
        };
        assert_eq!(setup("a", 0o644, None), setup("a", 0o644, None));
        assert_ne!(setup("a", 0o644, None), setup("b", 0o644, None));
        assert_ne!(setup("a", 0o644, None), setup("a", 0o600, None));
        assert_ne!(setup("a", 0o644, None), setup("a", 0o644, Some(1)));
    }
}
