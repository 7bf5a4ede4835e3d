//! Control groups by their names, on hosts with version 1, version 2, systemd above them or not.
//! Upstream: pkg/kubelet/cm/cgroup_manager_linux.go, cgroup_v{1,2}_manager_linux.go, pod_container_manager_linux.go.
//! Differs: the name tells the driver (`.slice`); systemd is asked over busctl and systemctl, not a D-Bus library.

mod systemd;
mod usage;
mod v1;
mod v2;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kubelet::action::CgroupSettings;
use kubelet::ids::PodUid;
use rustix::process::{Pid, Signal, kill_process};

use super::error::{Context as _, HostError, unless_missing};
use super::files;
use super::layout::{Layout, component};

pub(super) use usage::{Whole, usage};

/// How often what is left in a cgroup is killed (NODE-136).
const KILL_ROUNDS: u32 = 5;

/// How long killed processes may take to go, between two tries to remove their cgroup.
const PAUSE: Duration = Duration::from_millis(20);

/// The machine's cgroup file systems.
#[derive(Clone, Debug)]
pub(super) enum Cgroups {
    /// One directory for each controller, or set of controllers.
    V1(PathBuf),
    /// One directory for all.
    V2(PathBuf),
}

impl Cgroups {
    /// Finds out which version the machine has: version 2 only if it is alone.
    pub(super) fn of(layout: &Layout) -> Self {
        let root = layout.system("sys/fs/cgroup");
        if root.join("cgroup.controllers").exists() { Self::V2(root) } else { Self::V1(root) }
    }

    pub(super) fn is_v2(&self) -> bool {
        matches!(self, Self::V2(_))
    }

    /// Whether swap can be limited, as the groups of this process (`/proc/self/cgroup`) show it (NODE-147).
    pub(super) fn limits_swap(&self, own: &str) -> bool {
        match self {
            Self::V1(root) => root.join("memory/memory.memsw.limit_in_bytes").exists(),
            Self::V2(root) => {
                let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
                root.join(own).join("memory.swap.max").exists()
            }
        }
    }

    /// The roots of all hierarchies.
    fn roots(&self) -> Result<Vec<PathBuf>, HostError> {
        match self {
            Self::V1(root) => v1::hierarchies(root),
            Self::V2(root) => Ok(vec![root.clone()]),
        }
    }

    /// The roots of all trees in which something of a pod may be.
    fn trees(&self) -> Result<Vec<PathBuf>, HostError> {
        let mut roots = self.roots()?;
        if let Self::V1(root) = self {
            roots.extend(v1::unified(root));
        }
        Ok(roots)
    }

    /// Whether it is there in all hierarchies, with all controllers that it needs (NODE-132).
    pub(super) fn exists(&self, name: &str) -> Result<bool, HostError> {
        let path = relative(name)?;
        match self {
            Self::V1(root) => v1::exists(root, &path),
            Self::V2(root) => v2::exists(root, &path),
        }
    }

    /// Makes a cgroup with these settings; brings an existing one to them unless `only_new` (NODE-134, NODE-135).
    pub(super) fn apply(&self, name: &str, settings: &CgroupSettings, only_new: bool) -> Result<(), HostError> {
        let path = relative(name)?;
        let exists = self.exists(name)?;
        if exists && only_new {
            return Ok(());
        }
        if let Some(slice) = systemd::slice(name) {
            // On version 1 it knows nothing of CPU sets.
            let cpuset = settings.cpuset.clone().filter(|_| self.is_v2());
            let settings = CgroupSettings { cpuset, ..settings.clone() };
            if exists { systemd::set(slice, &settings)? } else { systemd::start(slice, &settings)? }
        }
        match self {
            Self::V1(root) => {
                v1::make(root, &path)?;
                v1::set(root, &path, settings)
            }
            Self::V2(root) => {
                v2::make(root, &path)?;
                v2::set(&root.join(path), settings)
            }
        }
    }

    /// Kills what is left in a cgroup and removes it (NODE-136).
    pub(super) fn remove(&self, name: &str) -> Result<(), HostError> {
        let path = relative(name)?;
        let directories: Vec<_> = self.trees()?.into_iter().map(|r| r.join(&path)).filter(|d| d.is_dir()).collect();
        if directories.is_empty() {
            return Ok(());
        }
        let mut outcome = Ok(());
        for round in 0..KILL_ROUNDS {
            if round > 0 {
                pause(PAUSE * round);
            }
            let mut left = BTreeSet::new();
            directories.iter().try_for_each(|d| processes(d, &mut left))?;
            left.into_iter().for_each(kill);
            if let Some(slice) = systemd::slice(name) {
                systemd::stop(slice)?;
            }
            outcome = directories.iter().try_for_each(|d| tree_of_cgroups(d));
            if outcome.is_ok() {
                return Ok(());
            }
        }
        outcome
    }

    /// The pods that have a cgroup below `kubepods`, whichever driver named it (NODE-131, NODE-136).
    pub(super) fn pods(&self, cgroup_root: &str) -> Result<BTreeMap<PodUid, String>, HostError> {
        let mut found = BTreeMap::new();
        for root in self.trees()? {
            for kubepods in kubepods(cgroup_root) {
                let directory = root.join(&kubepods[1..]);
                for name in files::names(&directory)? {
                    if let Some(pod) = pod_of(&name) {
                        found.insert(pod, format!("{kubepods}/{name}"));
                    } else if is_tier(&name) {
                        let pods = files::names(&directory.join(&name))?;
                        let pods = pods.iter().filter_map(|p| Some((pod_of(p)?, format!("{kubepods}/{name}/{p}"))));
                        found.extend(pods);
                    }
                }
            }
        }
        Ok(found)
    }
}

/// A cgroup's directory below a hierarchy's root. The root itself is nobody's to change.
fn relative(name: &str) -> Result<PathBuf, HostError> {
    let path: PathBuf = name.split('/').filter(|c| !c.is_empty()).map(component).collect::<Result<_, _>>()?;
    if path.as_os_str().is_empty() {
        return Err(HostError::Invalid(format!("{name:?} names no cgroup of ours")));
    }
    Ok(path)
}

/// The cgroup of all pods as either driver names it.
fn kubepods(cgroup_root: &str) -> [String; 2] {
    let components = || cgroup_root.split('/').filter(|c| !c.is_empty()).chain(["kubepods"]);
    let cgroupfs = components().map(|c| format!("/{c}")).collect();
    let (mut systemd, mut slice) = (String::new(), String::new());
    for name in components() {
        slice = if slice.is_empty() { name.replace('-', "_") } else { format!("{slice}-{}", name.replace('-', "_")) };
        systemd.push_str(&format!("/{slice}.slice"));
    }
    [cgroupfs, systemd]
}

/// A component without what systemd puts around it.
fn plain(name: &str) -> &str {
    name.strip_suffix(".slice").and_then(|slice| slice.rsplit('-').next()).unwrap_or(name)
}

fn is_tier(name: &str) -> bool {
    matches!(plain(name), "burstable" | "besteffort")
}

fn pod_of(name: &str) -> Option<PodUid> {
    let uid = plain(name).strip_prefix("pod").filter(|uid| !uid.is_empty())?;
    Some(if name.ends_with(".slice") { PodUid::new(uid.replace('_', "-")) } else { PodUid::new(uid) })
}

/// The processes in a cgroup and in those below it.
fn processes(cgroup: &Path, found: &mut BTreeSet<i32>) -> Result<(), HostError> {
    let list = cgroup.join("cgroup.procs");
    let listed = unless_missing(files::text(&list).context("read", &list))?;
    found.extend(listed.lines().filter_map(|pid| pid.parse::<i32>().ok()));
    for child in children(cgroup)? {
        processes(&child, found)?;
    }
    Ok(())
}

fn children(cgroup: &Path) -> Result<Vec<PathBuf>, HostError> {
    Ok(files::names(cgroup)?.into_iter().map(|n| cgroup.join(n)).filter(|p| p.is_dir() && !p.is_symlink()).collect())
}

/// Neither the agent itself, nor init, nor what another PID namespace hides as 0.
fn kill(pid: i32) {
    let spared = pid <= 1 || u32::try_from(pid) == Ok(std::process::id());
    if let Some(pid) = Pid::from_raw(pid).filter(|_| !spared) {
        // It may have gone by itself; if it did not, the removal will tell.
        let _ = kill_process(pid, Signal::KILL);
    }
}

fn tree_of_cgroups(cgroup: &Path) -> Result<(), HostError> {
    for child in children(cgroup)? {
        tree_of_cgroups(&child)?;
    }
    files::remove_dir(cgroup)
}

#[expect(clippy::disallowed_methods, reason = "killed processes go in real time; no simulated host runs this")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Writes one setting of a cgroup.
fn write(cgroup: &Path, file: &str, value: &str) -> Result<(), HostError> {
    let path = cgroup.join(component(file)?);
    fs::write(&path, value).context("write", &path)
}

/// Reads one value of a cgroup; `None` if it has no such file.
fn read(cgroup: &Path, file: &str) -> Result<Option<String>, HostError> {
    let path = cgroup.join(file);
    unless_missing(files::text(&path).map(|text| Some(text.trim().to_owned())).context("read", &path))
}

#[cfg(test)]
mod tests;
