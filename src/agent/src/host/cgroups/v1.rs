//! Control groups of version 1: one tree for each controller.
//! Upstream: pkg/kubelet/cm/cgroup_v1_manager_linux.go, github.com/opencontainers/cgroups/fs.
//! Differs: nothing on purpose.

use std::path::{Path, PathBuf};

use kubelet::action::CgroupSettings;

use super::{HostError, files, read, write};

/// Controllers without which a group does not count as made, where the host has them.
const NEEDED: [&str; 6] = ["cpu", "cpuacct", "cpuset", "memory", "pids", "systemd"];

/// The mounted hierarchies. A link such as `cpu` is another name of one (`cpu,cpuacct`); `unified` has no controllers.
pub(super) fn hierarchies(root: &Path) -> Result<Vec<PathBuf>, HostError> {
    let names = files::names(root)?.into_iter().filter(|n| n != "unified").map(|n| root.join(n));
    Ok(names.filter(|p| p.is_dir() && !p.is_symlink()).collect())
}

/// A tree of version 2 beside them. It has no controllers, but runtimes put containers into it all the same.
pub(super) fn unified(root: &Path) -> Option<PathBuf> {
    Some(root.join("unified")).filter(|unified| unified.is_dir())
}

/// Whether every hierarchy that counts has the group.
pub(super) fn exists(root: &Path, path: &Path) -> Result<bool, HostError> {
    let mut needed = NEEDED.iter().map(|c| root.join(c)).filter(|h| h.is_dir()).peekable();
    if needed.peek().is_none() {
        return Err(HostError::Unfit(format!("no cgroup controllers are mounted on {}", root.display())));
    }
    Ok(needed.all(|h| h.join(path).is_dir()))
}

/// Makes a group in every hierarchy.
pub(super) fn make(root: &Path, path: &Path) -> Result<(), HostError> {
    for hierarchy in hierarchies(root)? {
        let mut cgroup = hierarchy;
        for name in path {
            let parent = cgroup.clone();
            cgroup.push(name);
            files::make_dir(&cgroup, 0o755)?;
            // No process may enter a cpuset that has no CPUs or no memory.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let (above, own) = (read(&parent, file)?, read(&cgroup, file)?);
                if let (Some(above), Some("")) = (above, own.as_deref()) {
                    write(&cgroup, file, &above)?;
                }
            }
        }
    }
    Ok(())
}

/// Writes what is set. What the host has no controller for cannot be set.
pub(super) fn set(root: &Path, path: &Path, settings: &CgroupSettings) -> Result<(), HostError> {
    let put = |controller: &str, file: &str, value: String| {
        let cgroup = root.join(controller).join(path);
        if cgroup.is_dir() { write(&cgroup, file, &value) } else { Ok(()) }
    };
    if let Some(shares) = settings.cpu_shares {
        put("cpu", "cpu.shares", shares.to_string())?;
    }
    if let Some(period) = settings.cpu_period {
        put("cpu", "cpu.cfs_period_us", period.to_string())?;
    }
    if let Some(quota) = settings.cpu_quota {
        put("cpu", "cpu.cfs_quota_us", if quota == 0 { -1 } else { quota }.to_string())?;
    }
    if let Some(limit) = settings.memory_limit {
        put("memory", "memory.limit_in_bytes", limit.to_string())?;
    }
    if let Some(pids) = settings.pids_max {
        put("pids", "pids.max", if pids < 0 { "max".to_owned() } else { pids.to_string() })?;
    }
    if let Some(cpus) = &settings.cpuset {
        put("cpuset", "cpuset.cpus", cpus.clone())?;
    }
    for (size, limit) in &settings.hugetlb {
        let file = format!("hugetlb.{size}.limit_in_bytes");
        if root.join("hugetlb").join(path).join(&file).exists() {
            put("hugetlb", &file, limit.to_string())?;
        }
    }
    Ok(())
}
