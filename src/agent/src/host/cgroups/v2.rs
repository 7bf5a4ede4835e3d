//! Control groups of version 2: one tree, controllers passed down level by level.
//! Upstream: pkg/kubelet/cm/cgroup_v2_manager_linux.go, github.com/opencontainers/cgroups/fs2.
//! Differs: nothing on purpose.

use std::collections::BTreeSet;
use std::path::Path;

use kubelet::action::CgroupSettings;

use super::{HostError, files, read, write};

/// What a pod's cgroup must be able to control, where the root offers it (NODE-132).
const WANTED: [&str; 5] = ["cpu", "cpuset", "hugetlb", "memory", "pids"];

const DEFAULT_PERIOD: u64 = 100_000;

fn controllers(cgroup: &Path, file: &str) -> Result<BTreeSet<String>, HostError> {
    Ok(read(cgroup, file)?.unwrap_or_default().split_whitespace().map(str::to_owned).collect())
}

fn wanted(root: &Path) -> Result<BTreeSet<String>, HostError> {
    Ok(controllers(root, "cgroup.controllers")?.into_iter().filter(|c| WANTED.contains(&c.as_str())).collect())
}

/// A group that lacks a controller does not count: it is made again (NODE-132).
pub(super) fn exists(root: &Path, path: &Path) -> Result<bool, HostError> {
    let cgroup = root.join(path);
    Ok(cgroup.is_dir() && controllers(&cgroup, "cgroup.controllers")?.is_superset(&wanted(root)?))
}

/// Makes a group and those above it, and passes the controllers down to it.
pub(super) fn make(root: &Path, path: &Path) -> Result<(), HostError> {
    let wanted = wanted(root)?;
    let mut parent = root.to_owned();
    for name in path {
        let passed_on = controllers(&parent, "cgroup.subtree_control")?;
        let missing: Vec<_> = wanted.difference(&passed_on).map(|c| format!("+{c}")).collect();
        if !missing.is_empty() {
            write(&parent, "cgroup.subtree_control", &missing.join(" "))?;
        }
        parent.push(name);
        files::make_dir(&parent, 0o755)?;
    }
    Ok(())
}

/// Shares of version 1 as weight (NODE-133).
pub(super) fn weight(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    1 + (shares - 2) * 9999 / 262_142
}

fn or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

/// Writes what is set.
pub(super) fn set(cgroup: &Path, settings: &CgroupSettings) -> Result<(), HostError> {
    if let Some(shares) = settings.cpu_shares {
        write(cgroup, "cpu.weight", &weight(shares).to_string())?;
    }
    if let Some(quota) = settings.cpu_quota {
        let quota = if quota == 0 { -1 } else { quota };
        write(cgroup, "cpu.max", &format!("{} {}", or_max(quota), settings.cpu_period.unwrap_or(DEFAULT_PERIOD)))?;
    }
    if let Some(limit) = settings.memory_limit {
        write(cgroup, "memory.max", &or_max(limit))?;
    }
    if let Some(pids) = settings.pids_max {
        write(cgroup, "pids.max", &or_max(pids))?;
    }
    if let Some(cpus) = settings.cpuset.as_ref().filter(|_| cgroup.join("cpuset.cpus").exists()) {
        write(cgroup, "cpuset.cpus", cpus)?;
    }
    for (size, limit) in &settings.hugetlb {
        // Reservations count as use, where the kernel can count them.
        for file in [format!("hugetlb.{size}.max"), format!("hugetlb.{size}.rsvd.max")] {
            if cgroup.join(&file).exists() {
                write(cgroup, &file, &limit.to_string())?;
            }
        }
    }
    settings.unified.iter().try_for_each(|(file, value)| write(cgroup, file, value))
}
