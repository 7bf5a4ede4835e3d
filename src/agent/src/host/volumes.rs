//! Volumes that live on the machine itself: put in place, refreshed, taken away.
//! Upstream: pkg/volume/{emptydir,hostpath,configmap,secret,downwardapi,projected}.
//! Differs: what a plugin of another agent left behind is unmounted and its directory removed if empty, never emptied.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use kubelet::action::{EmptyDirMedium, VolumeSetup};
use kubelet::event::VolumeDirectory;
use kubelet::ids::PodUid;

use super::error::{Context as _, HostError, unless_missing};
use super::layout::{Layout, component};
use super::{atomic_writer, csi, files, mounts, subpath, tree};

const EMPTY_DIR: &str = "kubernetes.io~empty-dir";
const HOST_PATH: &str = "kubernetes.io~host-path";

/// Of the marker that says that an emptyDir is whole.
const READY_MODE: u32 = 0o644;

/// Plugins whose directories hold nothing but what this agent and the pod's containers wrote.
const OWN: [&str; 5] =
    [EMPTY_DIR, "kubernetes.io~configmap", "kubernetes.io~secret", "kubernetes.io~downward-api", "kubernetes.io~projected"];

/// Puts a volume in place, or refreshes it.
pub(super) fn set_up(layout: &Layout, pod: &PodUid, volume: &str, setup: &VolumeSetup) -> Result<(), HostError> {
    match setup {
        VolumeSetup::EmptyDir { medium, fs_group } => {
            let directory = layout.volume(pod, EMPTY_DIR, volume)?;
            let ready = layout.volume_meta(pod, EMPTY_DIR, volume)?.join("ready");
            if set_up_directory(&directory, &ready, medium)? {
                if let Some(group) = group(*fs_group) {
                    // VTY-001: upstream goes on when this fails.
                    if let Err(error) = tree::give_to_group(&directory, group, false) {
                        tracing::warn!(volume, %error, "the volume could not be given to its group");
                    }
                }
                files::create(&ready, READY_MODE)?;
            }
            Ok(())
        }
        VolumeSetup::HostPath { path, kind } => check_host_path(layout, path, kind),
        VolumeSetup::Files { plugin, medium, files: payload, directories, fs_group } => {
            let directory = layout.volume(pod, plugin, volume)?;
            let ready = layout.volume_meta(pod, EMPTY_DIR, &format!("wrapped_{volume}"))?.join("ready");
            if set_up_directory(&directory, &ready, medium)? {
                files::create(&ready, READY_MODE)?;
            }
            // VTY-019
            for nested in directories {
                let mut path = directory.clone();
                for name in nested.split('/').filter(|c| !c.is_empty()) {
                    path.push(component(name)?);
                    files::make_dir(&path, 0o755)?;
                }
            }
            atomic_writer::write(&directory, payload, group(*fs_group))
        }
    }
}

fn group(fs_group: Option<i64>) -> Option<u32> {
    fs_group.and_then(|g| u32::try_from(g).ok())
}

/// Makes a volume's directory, mounted on what it shall lie on. Says whether there was anything to do: the marker tells
/// that it was done before, the mount that it was not undone by a reboot (VTY-001, VTY-002).
fn set_up_directory(directory: &Path, ready: &Path, medium: &EmptyDirMedium) -> Result<bool, HostError> {
    let mounted = mounts::at(directory)?;
    let was_ready = ready.exists() && directory.is_dir();
    if !was_ready {
        files::remove(ready)?;
    }
    if mounted.is_none() && !(was_ready && *medium == EmptyDirMedium::Disk) {
        if let Some(parent) = directory.parent() {
            files::make_dirs(parent, 0o755)?;
        }
        files::make_dir(directory, 0o777)?;
        files::chmod(directory, 0o777)?;
    }
    match (medium, mounted) {
        (EmptyDirMedium::Disk, _) => Ok(!was_ready),
        (EmptyDirMedium::Memory { .. }, Some(mount)) if mount.filesystem == "tmpfs" => Ok(!was_ready),
        (EmptyDirMedium::Memory { size }, _) => mounts::tmpfs(directory, *size).map(|()| true),
        (EmptyDirMedium::HugePages { page_size, .. }, Some(mount)) if mount.filesystem == "hugetlbfs" => {
            match mount.options.split(',').find_map(|o| o.strip_prefix("pagesize=")).and_then(bytes) {
                Some(found) if found == *page_size => Ok(!was_ready),
                found => Err(HostError::Unfit(format!(
                    "expected page size {page_size} of the hugepages medium on {}, found {found:?}",
                    directory.display()
                ))),
            }
        }
        (EmptyDirMedium::HugePages { page_size, size }, _) => mounts::hugetlbfs(directory, *page_size, *size).map(|()| true),
    }
}

/// `2M` as the kernel shows page sizes.
fn bytes(size: &str) -> Option<u64> {
    let digits = size.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match &size[digits.len()..] {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_shl(shift)
}

/// VTY-006
fn check_host_path(layout: &Layout, path: &str, kind: &str) -> Result<(), HostError> {
    if path.split('/').any(|c| c == "..") {
        return Err(HostError::Invalid(format!("path {path} must not contain '..'")));
    }
    let clean = path.split('/').filter(|c| !c.is_empty() && *c != ".").collect::<Vec<_>>().join("/");
    let full = layout.at(&format!("/{clean}"))?;
    let failed = |what: &str| HostError::Unfit(format!("hostPath type check failed: {path} is not {what}"));
    let found = fs::metadata(&full).ok().map(|m| m.file_type());
    match (kind, found) {
        ("", _) => Ok(()),
        ("DirectoryOrCreate", None) => files::make_dirs(&full, 0o755),
        ("FileOrCreate", None) => {
            let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CREATE;
            files::open(&full, flags, 0o644).map(drop)?;
            files::chmod(&full, 0o644)
        }
        ("DirectoryOrCreate" | "Directory", Some(found)) if found.is_dir() => Ok(()),
        ("FileOrCreate" | "File", Some(found)) if found.is_file() => Ok(()),
        ("Socket", Some(found)) if found.is_socket() => Ok(()),
        ("CharDevice", Some(found)) if found.is_char_device() => Ok(()),
        ("BlockDevice", Some(found)) if found.is_block_device() => Ok(()),
        ("DirectoryOrCreate" | "Directory", _) => Err(failed("a directory")),
        ("FileOrCreate" | "File", _) => Err(failed("a file")),
        ("Socket", _) => Err(failed("a socket file")),
        ("CharDevice", _) => Err(failed("a character device")),
        ("BlockDevice", _) => Err(failed("a block device")),
        (other, _) => Err(HostError::Invalid(format!("{other} is an invalid volume type"))),
    }
}

/// Undoes what `set_up` did (VTY-005, MNT-013). A volume that is not there has been taken away.
pub(super) fn tear_down(layout: &Layout, pod: &PodUid, volume: &str, plugin: &str) -> Result<(), HostError> {
    subpath::clean(layout, pod, volume)?;
    let directory = layout.volume(pod, plugin, volume)?;
    let marker = if plugin == EMPTY_DIR { volume.to_owned() } else { format!("wrapped_{volume}") };
    let ours = OWN.contains(&plugin);
    if ours {
        // First, so that a crash half way makes the next set-up begin anew.
        tree::remove(&layout.volume_meta(pod, EMPTY_DIR, &marker)?)?;
    }
    if plugin == csi::PLUGIN {
        // VOL-028: of which nothing is known any more; what a driver put there is left to it.
        let mount = directory.join("mount");
        mounts::unmount(&mount)?;
        files::remove_dir(&mount)?;
    }
    mounts::unmount(&directory)?;
    if let Some(mounted) = mounts::below(&directory)?.first() {
        return Err(HostError::Unfit(format!("{} is still mounted", mounted.display())));
    }
    if ours { tree::remove(&directory) } else { files::remove_dir(&directory) }
}

/// What there is of volumes in a pod's directory: below `volumes` (VOL-027), and of hostPaths what is bound for subPaths.
pub(super) fn list(layout: &Layout, pod: &PodUid) -> Result<Vec<VolumeDirectory>, HostError> {
    let volumes = layout.pod(pod)?.join("volumes");
    let mut found = Vec::new();
    for plugin in files::names(&volumes)? {
        let directory = volumes.join(&plugin);
        for volume in files::names(&directory)? {
            let path = directory.join(&volume);
            let kind = unless_missing(fs::symlink_metadata(&path).map(Some).context("lstat", &path))?;
            if kind.is_some_and(|m| m.is_dir()) {
                let data = if plugin == csi::PLUGIN { csi::data(&path) } else { None };
                found.push(VolumeDirectory { plugin: plugin.clone(), volume, data });
            }
        }
    }
    // MNT-013: a hostPath has no directory there; the binds of its subPaths tell of it.
    let named: BTreeSet<&str> = found.iter().map(|directory| directory.volume.as_str()).collect();
    let others = subpath::volumes(layout, pod)?.into_iter().filter(|volume| !named.contains(volume.as_str()));
    let others: Vec<VolumeDirectory> =
        others.map(|volume| VolumeDirectory { plugin: HOST_PATH.to_owned(), volume, data: None }).collect();
    found.extend(others);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::sync::Arc;

    use kubelet::action::ProjectedFile;
    use kubelet::sensitive::Sensitive;

    use super::super::testing::{Scratch, may_mount};
    use super::*;

    fn uid() -> PodUid {
        PodUid::new("u1")
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn config_map(tmpfs: bool, plugin: &str) -> VolumeSetup {
        let file = ProjectedFile { data: Sensitive::new(b"value".to_vec()), mode: 0o644, owner: None };
        VolumeSetup::Files {
            plugin: plugin.to_owned(),
            medium: if tmpfs { EmptyDirMedium::Memory { size: Some(1 << 20) } } else { EmptyDirMedium::Disk },
            files: Arc::new(BTreeMap::from([("key".to_owned(), file)])),
            directories: ["inner/deep".to_owned()].into(),
            fs_group: None,
        }
    }

    // MNT-013, VOL-028: also in a later life, when only the disk knows of it.
    #[test]
    fn sub_path_of_a_host_path_is_found_and_unbound() {
        if !may_mount() {
            return;
        }
        let scratch = Scratch::new();
        let layout = scratch.layout();
        scratch.put("srv/file", "precious");
        let (pod, volume) = (&uid(), "data");
        let wanted =
            subpath::SubPath { pod, volume, mount: volume, container: "main", index: 0, volume_path: "/srv", sub_path: "file" };
        subpath::bind(&layout, &wanted).unwrap();
        let listed = list(&layout, pod).unwrap();
        assert_eq!(listed, [VolumeDirectory { plugin: HOST_PATH.into(), volume: volume.into(), data: None }]);
        for _ in 0..2 {
            tear_down(&layout, pod, volume, HOST_PATH).unwrap();
        }
        assert_eq!(list(&layout, pod).unwrap(), []);
        assert!(mounts::below(scratch.path()).unwrap().is_empty());
        assert_eq!(scratch.get("srv/file"), "precious");
    }

    // VTY-001, VTY-005
    #[test]
    fn disk_empty_dir_is_open_to_all_keeps_its_files_and_goes() {
        let scratch = Scratch::new();
        let layout = scratch.layout();
        let setup = VolumeSetup::EmptyDir { medium: EmptyDirMedium::Disk, fs_group: None };
        set_up(&layout, &uid(), "data", &setup).unwrap();
        let directory = layout.volume(&uid(), EMPTY_DIR, "data").unwrap();
        let ready = layout.volume_meta(&uid(), EMPTY_DIR, "data").unwrap().join("ready");
        assert_eq!((mode(&directory), ready.exists()), (0o777, true));
        fs::write(directory.join("file"), "x").unwrap();
        files::chmod(&directory, 0o700).unwrap();
        set_up(&layout, &uid(), "data", &setup).unwrap();
        // Not touched again once it was ready.
        assert_eq!((mode(&directory), directory.join("file").exists()), (0o700, true));
        let listed = VolumeDirectory { plugin: EMPTY_DIR.into(), volume: "data".into(), data: None };
        assert_eq!(list(&layout, &uid()).unwrap(), [listed]);
        for _ in 0..2 {
            tear_down(&layout, &uid(), "data", EMPTY_DIR).unwrap();
        }
        assert!(!directory.exists() && !ready.exists());
        assert!(list(&layout, &uid()).unwrap().is_empty());
    }

    // DIR-010: `volumes/<plugin>/<name>` below the pod's directory, the plugin's open to look at, the volume's as its kind says.
    #[test]
    fn volume_lies_below_its_plugin() {
        let scratch = Scratch::new();
        let layout = scratch.layout();
        let home = scratch.path().join("var/lib/kubelet/pods/u1");
        files::make_dirs(&home.join("volumes"), 0o750).unwrap();
        set_up(&layout, &uid(), "data", &VolumeSetup::EmptyDir { medium: EmptyDirMedium::Disk, fs_group: None }).unwrap();
        set_up(&layout, &uid(), "cm", &config_map(false, "kubernetes.io~configmap")).unwrap();
        let modes =
            ["kubernetes.io~empty-dir", "kubernetes.io~empty-dir/data", "kubernetes.io~configmap", "kubernetes.io~configmap/cm"]
                .map(|path| mode(&home.join("volumes").join(path)));
        assert_eq!(modes, [0o755, 0o777, 0o755, 0o777]);
        assert_eq!((mode(&home), mode(&home.join("volumes"))), (0o750, 0o750));
    }

    // VOL-025: what is bound out of a volume goes before the volume; while it cannot go, neither does the volume.
    #[test]
    fn sub_paths_go_before_their_volume() {
        let scratch = Scratch::new();
        let layout = scratch.layout();
        set_up(&layout, &uid(), "data", &VolumeSetup::EmptyDir { medium: EmptyDirMedium::Disk, fs_group: None }).unwrap();
        let directory = layout.volume(&uid(), EMPTY_DIR, "data").unwrap();
        fs::write(directory.join("file"), "x").unwrap();
        let stuck = "var/lib/kubelet/pods/u1/volume-subpaths/data/main/0/still-in-use";
        scratch.put(stuck, "x");
        assert!(tear_down(&layout, &uid(), "data", EMPTY_DIR).is_err());
        assert!(directory.join("file").exists());
        fs::remove_file(scratch.path().join(stuck)).unwrap();
        tear_down(&layout, &uid(), "data", EMPTY_DIR).unwrap();
        assert!(!directory.exists() && !layout.pod(&uid()).unwrap().join("volume-subpaths").exists());
    }

    // VTY-001
    #[test]
    fn empty_dir_is_given_to_its_group() {
        let scratch = Scratch::new();
        let layout = scratch.layout();
        let group = fs::metadata(scratch.path()).unwrap().gid();
        let setup = VolumeSetup::EmptyDir { medium: EmptyDirMedium::Disk, fs_group: Some(i64::from(group)) };
        set_up(&layout, &uid(), "data", &setup).unwrap();
        assert_eq!(mode(&layout.volume(&uid(), EMPTY_DIR, "data").unwrap()), 0o2777);
    }

    // VTY-002
    #[test]
    fn memory_empty_dir_is_mounted_again_after_a_reboot() {
        if !may_mount() {
            return;
        }
        let scratch = Scratch::new();
        let layout = scratch.layout();
        let setup = VolumeSetup::EmptyDir { medium: EmptyDirMedium::Memory { size: Some(1 << 20) }, fs_group: None };
        let directory = layout.volume(&uid(), EMPTY_DIR, "data").unwrap();
        set_up(&layout, &uid(), "data", &setup).unwrap();
        fs::write(directory.join("file"), "x").unwrap();
        set_up(&layout, &uid(), "data", &setup).unwrap();
        assert!(directory.join("file").exists());
        mounts::unmount(&directory).unwrap();
        set_up(&layout, &uid(), "data", &setup).unwrap();
        assert_eq!(mounts::at(&directory).unwrap().unwrap().filesystem, "tmpfs");
        tear_down(&layout, &uid(), "data", EMPTY_DIR).unwrap();
        assert!(!directory.exists());
    }

    // VTY-007, VTY-019
    #[test]
    fn config_map_is_written_with_room_for_nested_mounts() {
        let scratch = Scratch::new();
        let layout = scratch.layout();
        set_up(&layout, &uid(), "config", &config_map(false, "kubernetes.io~configmap")).unwrap();
        let directory = layout.volume(&uid(), "kubernetes.io~configmap", "config").unwrap();
        assert_eq!(fs::read_to_string(directory.join("key")).unwrap(), "value");
        assert!(directory.join("inner/deep").is_dir());
        assert!(layout.volume_meta(&uid(), EMPTY_DIR, "wrapped_config").unwrap().join("ready").exists());
        tear_down(&layout, &uid(), "config", "kubernetes.io~configmap").unwrap();
        assert!(!directory.exists());
    }

    // VTY-008
    #[test]
    fn secret_lies_in_memory() {
        if !may_mount() {
            return;
        }
        let scratch = Scratch::new();
        let layout = scratch.layout();
        set_up(&layout, &uid(), "token", &config_map(true, "kubernetes.io~secret")).unwrap();
        let directory = layout.volume(&uid(), "kubernetes.io~secret", "token").unwrap();
        let mounted = mounts::at(&directory).unwrap();
        let value = fs::read_to_string(directory.join("key"));
        tear_down(&layout, &uid(), "token", "kubernetes.io~secret").unwrap();
        assert_eq!((mounted.unwrap().filesystem.as_str(), value.unwrap().as_str()), ("tmpfs", "value"));
        assert!(!directory.exists());
    }

    #[test]
    fn strangers_volume_is_not_emptied() {
        let scratch = Scratch::new();
        let layout = scratch.layout();
        let directory = layout.volume(&uid(), "kubernetes.io~csi", "data").unwrap();
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("precious"), "x").unwrap();
        assert!(tear_down(&layout, &uid(), "data", "kubernetes.io~csi").is_err());
        assert!(directory.join("precious").exists());
    }

    // VTY-006
    #[test]
    fn host_path_is_checked_and_made_as_its_type_says() {
        let scratch = Scratch::new();
        let layout = scratch.layout();
        let check = |path: &str, kind: &str| {
            set_up(&layout, &uid(), "host", &VolumeSetup::HostPath { path: path.into(), kind: kind.into() })
        };
        check("/no/where", "").unwrap();
        check("/made/deep/", "DirectoryOrCreate").unwrap();
        check("/made/deep", "Directory").unwrap();
        check("/made/file", "FileOrCreate").unwrap();
        check("/made/file", "File").unwrap();
        assert_eq!((mode(&scratch.path().join("made/deep")), mode(&scratch.path().join("made/file"))), (0o755, 0o644));
        let message = |path: &str, kind: &str| check(path, kind).unwrap_err().to_string();
        assert_eq!(message("/made/file", "Directory"), "hostPath type check failed: /made/file is not a directory");
        assert_eq!(message("/made", "File"), "hostPath type check failed: /made is not a file");
        assert_eq!(message("/none", "Socket"), "hostPath type check failed: /none is not a socket file");
        assert_eq!(message("/none", "CharDevice"), "hostPath type check failed: /none is not a character device");
        assert_eq!(message("/none", "BlockDevice"), "hostPath type check failed: /none is not a block device");
        assert!(message("/made/../etc", "").contains("must not contain '..'"));
        // As a kubelet 1.36.2 was recorded, but for the scratch folder.
        let below_a_file = message("/made/file/x", "DirectoryOrCreate");
        assert_eq!(below_a_file, format!("mkdir {}: not a directory", scratch.path().join("made/file").display()));
    }
}
