//! Directories of pods and their logs: made, listed, and removed only when nothing in them is mounted.
//! Upstream: pkg/kubelet/kubelet_pods.go (makePodDataDirs), kubelet_volumes.go (cleanupOrphanedPodDirs), kuberuntime_gc.go.
//! Differs: a directory with anything mounted in it is refused as a whole, by the mount table.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use kubelet::ids::PodUid;

use super::error::{Context as _, HostError};
use super::layout::{Layout, component};
use super::{files, mounts, tree};

/// POD-102
pub(super) fn make(layout: &Layout, pod: &PodUid, containers: &[String], logs: &str) -> Result<(), HostError> {
    let directory = layout.pod(pod)?;
    files::make_dirs(&directory, 0o750)?;
    for name in ["volumes", "plugins", "containers"] {
        files::make_dir(&directory.join(name), 0o750)?;
    }
    for container in containers {
        files::make_dir(&directory.join("containers").join(component(container)?), 0o750)?;
    }
    // DIR-009: not every runtime makes the directory that a log is to lie in.
    let logs = layout.below_pod_logs(logs)?;
    files::make_dirs(&logs, 0o755)?;
    for container in containers {
        files::make_dir(&logs.join(component(container)?), 0o755)?;
    }
    Ok(())
}

/// The pods that have a directory.
pub(super) fn list(layout: &Layout) -> Result<Vec<PodUid>, HostError> {
    let pods = layout.pods()?;
    let names = files::names(&pods)?.into_iter();
    Ok(names.filter(|n| pods.join(n).is_dir()).map(PodUid::new).collect())
}

/// Removes a pod's directory (VOL-031): volumes only if nothing is left in them, never across a mount.
pub(super) fn remove(layout: &Layout, pod: &PodUid) -> Result<(), HostError> {
    let directory = layout.pod(pod)?;
    let mounted = mounts::below(&directory)?;
    if !mounted.is_empty() {
        return Err(HostError::Unfit(format!(
            "orphaned pod {:?} found, but volume paths are still present on disk: {mounted:?}",
            pod.as_str()
        )));
    }
    let wrong = |what: &str, error: HostError| {
        HostError::Unfit(format!("orphaned pod {:?} found, but failed to {what}: {error}", pod.as_str()))
    };
    tree::remove(&directory.join("volume-subpaths")).map_err(|e| wrong("remove volume subpaths", e))?;
    tree::remove_dirs(&directory.join("volumes")).map_err(|e| wrong("rmdir() volumes", e))?;
    tree::remove(&directory).map_err(|e| wrong("remove its directory", e))
}

/// LOG-005: links a container's log if it exists.
pub(super) fn link_log(layout: &Layout, target: &str, link: &str) -> Result<(), HostError> {
    let (log, path) = (layout.at(target)?, layout.at(link)?);
    if !log.exists() || fs::read_link(&path).is_ok_and(|found| found == Path::new(target)) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        files::make_dirs(parent, 0o755)?;
    }
    files::remove(&path)?;
    symlink(target, &path).context("symlink", &path)
}

/// POD-343: a container's log, its rotated ones, and its link.
pub(super) fn remove_container_logs(layout: &Layout, log: &str, link: &str) -> Result<(), HostError> {
    // The link goes also if a log does not, and the other way round.
    let unlinked = if link.is_empty() { Ok(()) } else { layout.at(link).and_then(|link| files::remove(&link)) };
    let path = layout.below_pod_logs(log)?;
    if let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) {
        let rotated = |found: &str| found.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        for found in files::names(directory)?.iter().filter(|found| rotated(found)) {
            files::remove(&directory.join(found))?;
        }
    }
    unlinked
}

/// A pod's log directory.
pub(super) fn remove_pod_logs(layout: &Layout, path: &str) -> Result<(), HostError> {
    tree::remove(&layout.below_pod_logs(path)?)
}

/// The names of the directories in which pods' logs lie.
pub(super) fn list_logs(layout: &Layout) -> Result<Vec<String>, HostError> {
    let logs = layout.at(&layout.pod_logs)?;
    let names = files::names(&logs)?.into_iter();
    Ok(names.filter(|name| fs::symlink_metadata(logs.join(name)).is_ok_and(|found| found.is_dir())).collect())
}

/// POD-343: links into pods' logs whose container's directory is gone. One that leads to no log is no reason alone: while a log is rotated
/// there is none.
pub(super) fn sweep_log_links(layout: &Layout) -> Result<(), HostError> {
    sweep_log_links_by(layout, files::remove)
}

/// One that cannot be removed keeps none of the others; the first such failure is told.
fn sweep_log_links_by(layout: &Layout, remove: impl Fn(&Path) -> Result<(), HostError>) -> Result<(), HostError> {
    let mut outcome = Ok(());
    let links = layout.at(&layout.container_logs)?;
    for name in files::names(&links)?.iter().filter(|name| name.ends_with(".log")) {
        let link = links.join(name);
        let target = fs::read_link(&link).ok().and_then(|target| target.to_str().map(str::to_owned));
        let log = target.and_then(|target| layout.below_pod_logs(&target).ok());
        if log.as_deref().and_then(Path::parent).is_some_and(|directory| !directory.exists()) {
            outcome = outcome.and(remove(&link));
        }
    }
    outcome
}

/// LOG-004: the highest restart count among a container's log files.
pub(super) fn highest_log(layout: &Layout, directory: &str) -> Result<Option<u32>, HostError> {
    let count = |name: &String| {
        let (count, rest) = name.split_once('.')?;
        let is_log = rest == "log" || rest.starts_with("log.");
        count.parse().ok().filter(|_| is_log && count.bytes().all(|b| b.is_ascii_digit()))
    };
    Ok(files::names(&layout.at(directory)?)?.iter().filter_map(count).max())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::testing::{Scratch, may_mount};
    use super::*;

    const LOGS: &str = "/var/log/pods/default_web_u1";

    fn made(scratch: &Scratch) -> (Layout, PodUid) {
        let (layout, pod) = (scratch.layout(), PodUid::new("u1"));
        make(&layout, &pod, &["main".to_owned()], LOGS).unwrap();
        (layout, pod)
    }

    // POD-102, DIR-002, DIR-009
    #[test]
    fn pod_has_its_directories_with_their_modes() {
        let scratch = Scratch::new();
        let (layout, pod) = made(&scratch);
        let mode = |path: &str| fs::metadata(scratch.path().join(path)).unwrap().permissions().mode() & 0o7777;
        for path in ["", "/volumes", "/plugins", "/containers", "/containers/main"] {
            assert_eq!(mode(&format!("var/lib/kubelet/pods/u1{path}")), 0o750, "{path}");
        }
        assert_eq!(mode("var/lib/kubelet/pods"), 0o750);
        assert_eq!((mode(&LOGS[1..]), mode(&format!("{}/main", &LOGS[1..]))), (0o755, 0o755));
        assert_eq!(list(&layout).unwrap(), [pod]);
    }

    // VOL-031
    #[test]
    fn pod_directory_goes_unless_a_volume_has_something_in_it() {
        let scratch = Scratch::new();
        let (layout, pod) = made(&scratch);
        let data = "var/lib/kubelet/pods/u1/volumes/kubernetes.io~empty-dir/data";
        scratch.put(&format!("{data}/file"), "x");
        scratch.put("var/lib/kubelet/pods/u1/etc-hosts", "x");
        assert!(remove(&layout, &pod).is_err());
        assert_eq!(scratch.get(&format!("{data}/file")), "x");
        fs::remove_file(scratch.path().join(data).join("file")).unwrap();
        remove(&layout, &pod).unwrap();
        remove(&layout, &pod).unwrap();
        assert!(list(&layout).unwrap().is_empty());
    }

    // VOL-031
    #[test]
    fn pod_directory_with_a_mount_in_it_stays() {
        if !may_mount() {
            return;
        }
        let scratch = Scratch::new();
        let (layout, pod) = made(&scratch);
        let mount = layout.pod(&pod).unwrap().join("plugins");
        mounts::tmpfs(&mount, None).unwrap();
        let outcome = remove(&layout, &pod);
        mounts::unmount(&mount).unwrap();
        assert!(outcome.unwrap_err().to_string().contains("volume paths are still present on disk"));
    }

    // LOG-005, POD-343
    #[test]
    fn log_is_linked_if_it_exists_and_goes_with_its_rotations() {
        let scratch = Scratch::new();
        let (layout, _) = made(&scratch);
        let (log, link) = (format!("{LOGS}/main/0.log"), "/var/log/containers/web_default_main-c1.log");
        link_log(&layout, &log, link).unwrap();
        assert!(fs::symlink_metadata(scratch.path().join(&link[1..])).is_err());
        for name in ["0.log", "0.log.20260101-000000", "0.log.20260101-000001.gz", "1.log"] {
            scratch.put(&format!("{}/main/{name}", &LOGS[1..]), "x");
        }
        for _ in 0..2 {
            link_log(&layout, &log, link).unwrap();
        }
        assert_eq!(fs::read_link(scratch.path().join(&link[1..])).unwrap(), Path::new(&log));
        // LOG-004
        assert_eq!(highest_log(&layout, &format!("{LOGS}/main")).unwrap(), Some(1));
        assert_eq!(highest_log(&layout, &format!("{LOGS}/none")).unwrap(), None);
        for _ in 0..2 {
            remove_container_logs(&layout, &log, link).unwrap();
        }
        assert_eq!(files::names(&scratch.path().join(&LOGS[1..]).join("main")).unwrap(), ["1.log"]);
        assert!(fs::symlink_metadata(scratch.path().join(&link[1..])).is_err());
        remove_pod_logs(&layout, LOGS).unwrap();
        assert!(!scratch.path().join(&LOGS[1..]).exists());
    }

    // POD-343
    #[test]
    fn links_into_directories_that_are_gone_are_swept() {
        let scratch = Scratch::new();
        let (layout, _) = made(&scratch);
        assert_eq!(list_logs(&layout).unwrap(), ["default_web_u1"]);
        let links = scratch.path().join("var/log/containers");
        fs::create_dir_all(&links).unwrap();
        symlink(format!("{LOGS}/main/0.log"), links.join("web_default_main-rotated.log")).unwrap();
        symlink(format!("{LOGS}/gone/0.log"), links.join("web_default_gone-c1.log")).unwrap();
        symlink("/elsewhere/0.log", links.join("somebodys.log")).unwrap();
        for _ in 0..2 {
            sweep_log_links(&layout).unwrap();
        }
        let mut left = files::names(&links).unwrap();
        left.sort();
        assert_eq!(left, ["somebodys.log", "web_default_main-rotated.log"]);
    }

    // POD-343: kuberuntime_gc.go, evictPodLogsDirectories logs what it cannot remove and goes on.
    #[test]
    fn link_that_cannot_be_removed_does_not_end_the_sweep() {
        let scratch = Scratch::new();
        let (layout, _) = made(&scratch);
        let links = scratch.path().join("var/log/containers");
        fs::create_dir_all(&links).unwrap();
        for name in ["a.log", "b.log", "c.log"] {
            symlink(format!("{LOGS}/gone/0.log"), links.join(name)).unwrap();
        }
        let remove =
            |link: &Path| if link.ends_with("b.log") { Err(HostError::Unfit("no".to_owned())) } else { files::remove(link) };
        assert!(sweep_log_links_by(&layout, remove).unwrap_err().to_string().contains("no"));
        assert_eq!(files::names(&links).unwrap(), ["b.log"]);
    }
}
