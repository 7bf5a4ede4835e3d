//! What the agent itself does for volumes that drivers mount: directories, what is to be known of them later, their group.
//! Upstream: pkg/volume/csi/{csi_mounter,csi_attacher,csi_util}.go.
//! Differs: what is to be known is written whole or not at all, and a volume that is still mounted is refused, not left in silence.

use std::path::Path;

use kubelet::ids::PodUid;

use super::error::HostError;
use super::layout::Layout;
use super::{files, mounts, tree};

/// The plugin's directory in a pod's `volumes`.
pub(super) const PLUGIN: &str = "kubernetes.io~csi";
const DATA: &str = "vol_data.json";

/// What is said of a volume, if anything is.
pub(super) fn data(directory: &Path) -> Option<String> {
    files::read(&directory.join(DATA)).ok().map(|contents| String::from_utf8_lossy(&contents).into_owned())
}

/// A volume of a pod: the pod, the volume's directory, what is said of it.
pub(super) type Published = (PodUid, String, String);

/// What may be staged, and what may be published (VOL-027).
pub(super) fn list(layout: &Layout) -> Result<(Vec<String>, Vec<Published>), HostError> {
    let (mut staged, mut published) = (Vec::new(), Vec::new());
    let devices = layout.root()?.join("plugins/kubernetes.io/csi");
    for driver in files::names(&devices)? {
        let driver = devices.join(driver);
        for volume in files::names(&driver).unwrap_or_default() {
            staged.extend(data(&driver.join(volume)));
        }
    }
    let pods = layout.pods()?;
    for pod in files::names(&pods)? {
        let volumes = pods.join(&pod).join("volumes").join(PLUGIN);
        for volume in files::names(&volumes).unwrap_or_default() {
            if let Some(text) = data(&volumes.join(&volume)) {
                published.push((PodUid::new(pod.as_str()), volume, text));
            }
        }
    }
    Ok((staged, published))
}

/// CSI-006
pub(super) fn prepare(layout: &Layout, directory: &str, data_path: &str, data: &str) -> Result<(), HostError> {
    files::make_dirs(&layout.at(directory)?, 0o750)?;
    files::write_whole(&layout.at(data_path)?, data.as_bytes(), 0o644)
}

/// CSI-014: what is to be known goes after the directory that it is about.
pub(super) fn remove(layout: &Layout, mount: &str) -> Result<(), HostError> {
    let mount = layout.at(mount)?;
    if let Some(mounted) = mounts::below(&mount)?.first() {
        return Err(HostError::Unfit(format!("{} is still mounted", mounted.display())));
    }
    files::remove_dir(&mount)?;
    let Some(parent) = mount.parent() else { return Ok(()) };
    files::remove(&parent.join(DATA))?;
    files::remove_dir(parent)
}

/// CSI-013
pub(super) fn give_to_group(layout: &Layout, path: &str, group: i64, trust_root: bool) -> Result<(), HostError> {
    let id = u32::try_from(group).map_err(|_| HostError::Invalid(format!("{group} is not a group")))?;
    tree::give_shared_to_group(&layout.at(path)?, id, trust_root)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scratch, may_mount};
    use super::*;

    const TARGET: &str = "/var/lib/kubelet/pods/u1/volumes/kubernetes.io~csi/pv-1";

    fn prepared(layout: &Layout) {
        let device = "/var/lib/kubelet/plugins/kubernetes.io/csi/d.io/abc";
        prepare(layout, &format!("{device}/globalmount"), &format!("{device}/{DATA}"), "staged").unwrap();
        prepare(layout, TARGET, &format!("{TARGET}/{DATA}"), "published").unwrap();
    }

    // CSI-006, VOL-027
    #[test]
    fn what_is_said_of_volumes_is_found_again() {
        let scratch = Scratch::new();
        let layout = scratch.layout();
        assert_eq!(list(&layout).unwrap(), (Vec::new(), Vec::new()));
        prepared(&layout);
        scratch.put("var/lib/kubelet/plugins/kubernetes.io/csi/pv/strange", "x");
        let published = (PodUid::new("u1"), "pv-1".to_owned(), "published".to_owned());
        assert_eq!(list(&layout).unwrap(), (vec!["staged".to_owned()], vec![published]));
    }

    // CSI-014
    #[test]
    fn volume_is_removed_with_what_is_said_of_it_and_never_emptied() {
        let scratch = Scratch::new();
        let layout = scratch.layout();
        prepared(&layout);
        let target = format!("{TARGET}/mount");
        scratch.put(&format!("{}/file", &target[1..]), "precious");
        assert!(remove(&layout, &target).is_err());
        assert_eq!(scratch.get(&format!("{}/{DATA}", &TARGET[1..])), "published");
        std::fs::remove_file(scratch.path().join(&target[1..]).join("file")).unwrap();
        for _ in 0..2 {
            remove(&layout, &target).unwrap();
        }
        assert!(!scratch.path().join(&TARGET[1..]).exists());
    }

    // CSI-014
    #[test]
    fn volume_that_is_still_mounted_stays() {
        if !may_mount() {
            return;
        }
        let scratch = Scratch::new();
        let layout = scratch.layout();
        prepared(&layout);
        let target = format!("{TARGET}/mount");
        let path = layout.at(&target).unwrap();
        files::make_dir(&path, 0o750).unwrap();
        mounts::tmpfs(&path, None).unwrap();
        let refused = remove(&layout, &target);
        mounts::unmount(&path).unwrap();
        assert!(refused.unwrap_err().to_string().ends_with("is still mounted"));
        assert_eq!(list(&layout).unwrap().1.len(), 1);
    }
}
