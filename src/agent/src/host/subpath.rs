//! One directory or file of a volume for one container, held by the kernel to lie inside the volume.
//! Upstream: pkg/volume/util/subpath/subpath_linux.go.
//! Differs: openat2 refuses links where upstream walks the path by hand.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use kubelet::ids::PodUid;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

use super::error::{Context as _, HostError, unless_missing};
use super::layout::{Layout, component};
use super::{files, mounts};

/// What to bind, and for whom.
pub(super) struct SubPath<'a> {
    pub(super) pod: &'a PodUid,
    pub(super) volume: &'a str,
    /// What the container calls the volume, for messages.
    pub(super) mount: &'a str,
    pub(super) container: &'a str,
    pub(super) index: usize,
    pub(super) volume_path: &'a str,
    pub(super) sub_path: &'a str,
}

fn directory(layout: &Layout, pod: &PodUid, volume: &str) -> Result<PathBuf, HostError> {
    Ok(layout.pod(pod)?.join("volume-subpaths").join(component(volume)?))
}

/// Makes the directory if it is missing (MNT-011) and binds it (MNT-012). A bind that shows the same thing is kept.
pub(super) fn bind(layout: &Layout, wanted: &SubPath<'_>) -> Result<(), HostError> {
    // MNT-010: what users see hides the host's paths.
    let hiding = |what: &str| {
        HostError::Unfit(format!("failed to {what} for volumeMount {:?} of container {:?}", wanted.mount, wanted.container))
    };
    let hidden = || hiding("prepare subPath");
    let volume = fs::canonicalize(layout.at(wanted.volume_path)?).map_err(|source| match source.kind() {
        // Its path is what the pod says.
        std::io::ErrorKind::NotFound => HostError::Io { operation: "stat", path: wanted.volume_path.to_owned(), source },
        _ => hidden(),
    })?;
    // What is there is not made, wherever a link leads it to: whether it may be used is seen when it is opened.
    if fs::metadata(volume.join(wanted.sub_path)).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        let made = make_missing(&volume, wanted.sub_path);
        made.inspect_err(|e| tracing::warn!(error = %e, "subPath")).map_err(|_| hiding("create subPath directory"))?;
    }
    let open =
        open_inside(&volume, wanted.sub_path).inspect_err(|e| tracing::warn!(error = %e, "subPath")).map_err(|_| hidden())?;
    let status = rustix::fs::fstat(&open).context("fstat", &volume)?;
    let target = directory(layout, wanted.pod, wanted.volume)?.join(component(wanted.container)?).join(wanted.index.to_string());
    if mounts::at(&target)?.is_some() {
        let same = fs::metadata(&target).is_ok_and(|m| (m.dev(), m.ino()) == (status.st_dev, status.st_ino));
        if same {
            return Ok(());
        }
        mounts::unmount(&target)?;
    }
    if let Some(parent) = target.parent() {
        files::make_dirs(parent, 0o750)?;
    }
    if FileType::from_raw_mode(status.st_mode) == FileType::Directory {
        files::make_dir(&target, 0o750)?;
    } else {
        files::create(&target, 0o640)?;
    }
    mounts::bind(open.as_fd(), &target)
}

/// The longest part of a path below `volume` that exists, with its links resolved, and what is missing after it.
fn existing(volume: &Path, sub_path: &str) -> Result<(PathBuf, Vec<String>), HostError> {
    let mut missing = Vec::new();
    let mut path = volume.to_owned();
    for name in sub_path.split('/').filter(|c| !c.is_empty() && *c != ".") {
        let name = component(name)?;
        if !missing.is_empty() || fs::symlink_metadata(path.join(name)).is_err() {
            missing.push(name.to_owned());
        } else {
            path.push(name);
        }
    }
    let resolved = fs::canonicalize(&path).context("realpath", &path)?;
    let inside = resolved.strip_prefix(volume).map(Path::to_owned);
    inside.map(|inside| (inside, missing)).map_err(|_| HostError::Unfit(format!("{} leaves its volume", path.display())))
}

/// Opens what a resolved path means, through no link: what changed meanwhile is refused.
fn open_resolved(volume: &Path, inside: &Path, flags: OFlags) -> Result<OwnedFd, HostError> {
    let base =
        rustix::fs::open(volume, OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty()).context("open", volume)?;
    if inside.as_os_str().is_empty() {
        return rustix::fs::openat(&base, ".", flags | OFlags::CLOEXEC, Mode::empty()).context("open", volume);
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(&base, inside, flags, Mode::empty(), resolve).context("open", inside)
}

fn open_inside(volume: &Path, sub_path: &str) -> Result<OwnedFd, HostError> {
    match existing(volume, sub_path)? {
        (inside, missing) if missing.is_empty() => open_resolved(volume, &inside, OFlags::PATH),
        _ => Err(HostError::Unfit(format!("{sub_path} does not exist in its volume"))),
    }
}

/// Missing directories get the mode of the volume's root (MNT-011).
fn make_missing(volume: &Path, sub_path: &str) -> Result<(), HostError> {
    let (inside, missing) = existing(volume, sub_path)?;
    if missing.is_empty() {
        return Ok(());
    }
    let mode = fs::metadata(volume).context("stat", volume)?.permissions().mode() & 0o7777;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut directory = open_resolved(volume, &inside, flags)?;
    for name in missing {
        let path = Path::new(&name);
        match rustix::fs::mkdirat(&directory, path, Mode::from_raw_mode(mode)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error).context("mkdir", path),
        }
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        directory = rustix::fs::openat(&directory, path, flags, Mode::empty()).context("open", path)?;
        rustix::fs::fchmod(&directory, Mode::from_raw_mode(mode)).context("chmod", path)?;
    }
    Ok(())
}

/// The volumes of which something is bound for a pod, or was.
pub(super) fn volumes(layout: &Layout, pod: &PodUid) -> Result<Vec<String>, HostError> {
    files::names(&layout.pod(pod)?.join("volume-subpaths"))
}

/// Takes away every bind of a volume's subPaths (MNT-013).
pub(super) fn clean(layout: &Layout, pod: &PodUid, volume: &str) -> Result<(), HostError> {
    let directory = directory(layout, pod, volume)?;
    for container in files::names(&directory)? {
        let container = directory.join(container);
        for index in files::names(&container)? {
            let target = container.join(index);
            mounts::unmount(&target)?;
            let kind = unless_missing(fs::symlink_metadata(&target).map(Some).context("lstat", &target))?;
            if kind.is_some_and(|k| k.is_dir()) { files::remove_dir(&target)? } else { files::remove(&target)? }
        }
        files::remove_dir(&container)?;
    }
    files::remove_dir(&directory)?;
    match directory.parent() {
        // Other volumes may have theirs beside it.
        Some(parent) if files::names(parent)?.is_empty() => files::remove_dir(parent),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::testing::{Scratch, may_mount};
    use super::*;

    // MNT-011: whatever the umask is; a group that the volume hands down is handed down further.
    #[test]
    fn missing_directories_get_the_mode_of_the_volume() {
        let scratch = Scratch::new();
        let volume = fs::canonicalize(scratch.path()).unwrap();
        let mode = |path: &str| fs::metadata(volume.join(path)).unwrap().permissions().mode() & 0o7777;
        files::chmod(&volume, 0o2773).unwrap();
        make_missing(&volume, "a/b").unwrap();
        assert_eq!((mode("a"), mode("a/b")), (0o2773, 0o2773));
        files::chmod(&volume, 0o755).unwrap();
        make_missing(&volume, "a/b").unwrap();
        assert_eq!(mode("a/b"), 0o2773, "what was there keeps its mode");
        make_missing(&volume, "c").unwrap();
        assert_eq!(mode("c"), 0o755);
        // A volume in memory that was given to a group. Upstream: test/e2e/common/storage/empty_dir.go (dgtrwxrwxrwx),
        // pkg/volume/util/subpath/subpath_linux.go (doSafeMakeDir: setgid, setuid and sticky of the volume's root).
        files::chmod(&volume, 0o3777).unwrap();
        make_missing(&volume, "d/e").unwrap();
        assert_eq!((mode("d"), mode("d/e")), (0o3777, 0o3777));
    }

    // MNT-010, MNT-011: as a kubelet 1.36.2 was recorded (269): what is there beyond a link is not made and then refused; what is not
    // there cannot be made.
    #[test]
    fn refusal_says_whether_it_was_to_be_made() {
        let scratch = Scratch::new();
        scratch.put("volume/file", "x");
        scratch.put("elsewhere/file", "x");
        let volume = scratch.path().join("volume");
        symlink("../elsewhere", volume.join("out")).unwrap();
        symlink("..", volume.join("up")).unwrap();
        let refused = |container: &str, sub_path: &str| {
            let volume_path = format!("/{}", volume.strip_prefix(scratch.path()).unwrap().display());
            let pod = PodUid::new("u");
            let (volume, mount) = ("pv", "v");
            let wanted = SubPath { pod: &pod, volume, mount, container, index: 0, volume_path: &volume_path, sub_path };
            bind(&scratch.layout(), &wanted).unwrap_err().to_string()
        };
        assert_eq!(refused("a", "out"), "failed to prepare subPath for volumeMount \"v\" of container \"a\"");
        let unmade = "failed to create subPath directory for volumeMount \"v\" of container \"b\"";
        assert_eq!(refused("b", "up/tmp"), unmade);
    }

    // MNT-011, INV-06: nothing is made through a link that leads out, whether or not it leads anywhere yet.
    #[test]
    fn missing_directory_is_not_made_through_a_link() {
        let scratch = Scratch::new();
        scratch.put("volume/file", "x");
        let volume = fs::canonicalize(scratch.path().join("volume")).unwrap();
        symlink("../new", volume.join("dangling")).unwrap();
        symlink("..", volume.join("out")).unwrap();
        for sub_path in ["dangling", "dangling/inner", "out/new", "file/new"] {
            assert!(make_missing(&volume, sub_path).is_err(), "{sub_path}");
        }
        assert_eq!(files::names(scratch.path()).unwrap(), ["volume"]);
    }

    // MNT-012, INV-06
    #[test]
    fn link_may_lead_within_the_volume_but_not_out_of_it() {
        let scratch = Scratch::new();
        scratch.put("volume/real/file", "x");
        scratch.put("secret/file", "y");
        let volume = fs::canonicalize(scratch.path().join("volume")).unwrap();
        symlink("real", volume.join("inner")).unwrap();
        symlink("../secret", volume.join("outer")).unwrap();
        open_inside(&volume, "inner/file").unwrap();
        assert!(open_inside(&volume, "outer/file").is_err());
        assert!(make_missing(&volume, "outer/new").is_err());
        assert!(open_inside(&volume, "../secret").is_err());
        assert!(!scratch.path().join("secret/new").exists());
        // What was resolved and then swapped for a link is refused, the volume itself too (S25; subpath_linux.go, doSafeOpen: O_NOFOLLOW).
        assert!(open_resolved(&volume, Path::new("inner/file"), OFlags::PATH).is_err());
        symlink("secret", scratch.path().join("swapped")).unwrap();
        let swapped = fs::canonicalize(scratch.path()).unwrap().join("swapped");
        for inside in ["file", ""] {
            assert!(open_resolved(&swapped, Path::new(inside), OFlags::PATH).is_err(), "{inside:?}");
        }
    }

    // MNT-012, MNT-013
    #[test]
    fn sub_path_is_bound_once_and_cleaned() {
        if !may_mount() {
            return;
        }
        let scratch = Scratch::new();
        let layout = scratch.layout();
        scratch.put("volume/file", "x");
        let pod = PodUid::new("u1");
        let at = |sub_path: &'static str, index| SubPath {
            pod: &pod,
            volume: "data",
            mount: "data",
            container: "main",
            index,
            volume_path: "/volume",
            sub_path,
        };
        bind(&layout, &at("new/dir", 0)).unwrap();
        bind(&layout, &at("new/dir", 0)).unwrap();
        bind(&layout, &at("file", 1)).unwrap();
        let home = directory(&layout, &pod, "data").unwrap().join("main");
        let bound = mounts::below(&home).unwrap().len();
        let content = fs::read_to_string(home.join("1"));
        clean(&layout, &pod, "data").unwrap();
        clean(&layout, &pod, "data").unwrap();
        assert_eq!((bound, content.unwrap().as_str()), (2, "x"));
        assert!(!home.exists());
        assert!(scratch.path().join("volume/new/dir").is_dir());
    }

    #[test]
    fn failure_does_not_show_the_hosts_paths() {
        let scratch = Scratch::new();
        let (pod, volume, container) = (&PodUid::new("u"), "data", "main");
        let wanted = SubPath { pod, volume, mount: "data", container, index: 0, volume_path: "/none", sub_path: "a" };
        let message = bind(&scratch.layout(), &wanted).unwrap_err().to_string();
        // As a kubelet 1.36.2 was recorded with a hostPath that there is not.
        assert_eq!(message, "stat /none: no such file or directory");
    }
}
