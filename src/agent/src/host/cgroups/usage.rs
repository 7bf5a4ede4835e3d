//! What a cgroup uses now.
//! Upstream: github.com/google/cadvisor/container/libcontainer/handler.go.
//! Differs: nothing on purpose.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Cgroups, HostError, component, read};
use crate::env::{CgroupUsage, Pressure, Stall};

/// Above this a limit of version 1 is none (NODE-125).
const NO_LIMIT: u64 = 1 << 62;

/// What the root of version 2 does not tell, since it is the machine's, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(in super::super) struct Whole {
    /// MemTotal.
    pub(in super::super) memory: u64,
    /// SwapTotal.
    pub(in super::super) swap: u64,
    /// SwapTotal - SwapFree.
    pub(in super::super) swap_used: u64,
}

/// CPU, memory and processes of one cgroup, the root included; `None` if there is none.
pub(in super::super) fn usage(cgroups: &Cgroups, name: &str, whole: Whole) -> Result<Option<CgroupUsage>, HostError> {
    let path: PathBuf = name.split('/').filter(|c| !c.is_empty()).map(component).collect::<Result<_, _>>()?;
    match cgroups {
        Cgroups::V2(root) if root.join(&path).is_dir() => v2(&root.join(path), whole).map(Some),
        Cgroups::V1(root) if root.join("memory").join(&path).is_dir() => v1(root, &path).map(Some),
        _ => Ok(None),
    }
}

fn number(cgroup: &Path, file: &str) -> Result<Option<u64>, HostError> {
    Ok(read(cgroup, file)?.and_then(|text| text.parse().ok()))
}

/// A file of names and numbers.
fn table(cgroup: &Path, file: &str) -> Result<BTreeMap<String, u64>, HostError> {
    let text = read(cgroup, file)?.unwrap_or_default();
    let entry = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    };
    Ok(text.lines().filter_map(entry).collect())
}

fn v2(cgroup: &Path, whole: Whole) -> Result<CgroupUsage, HostError> {
    let (cpu, stat) = (table(cgroup, "cpu.stat")?, table(cgroup, "memory.stat")?);
    let of = |table: &BTreeMap<String, u64>, name: &str| table.get(name).copied().unwrap_or(0);
    // The root has neither `memory.current` nor `memory.max` (NODE-125).
    let current = number(cgroup, "memory.current")?;
    let memory = current.unwrap_or_else(|| of(&stat, "anon") + of(&stat, "file"));
    Ok(CgroupUsage {
        cpu_nanos: of(&cpu, "usage_usec").saturating_mul(1000),
        memory,
        working_set: memory.saturating_sub(of(&stat, "inactive_file")),
        rss: of(&stat, "anon"),
        page_faults: of(&stat, "pgfault"),
        major_page_faults: of(&stat, "pgmajfault"),
        memory_limit: if current.is_some() { number(cgroup, "memory.max")? } else { Some(whole.memory) },
        swap: if current.is_some() { number(cgroup, "memory.swap.current")? } else { Some(whole.swap_used) },
        swap_limit: if current.is_some() { number(cgroup, "memory.swap.max")? } else { Some(whole.swap) },
        pids: number(cgroup, "pids.current")?,
        cpu_pressure: pressure(cgroup, "cpu.pressure"),
        memory_pressure: pressure(cgroup, "memory.pressure"),
        io_pressure: pressure(cgroup, "io.pressure"),
    })
}

/// A kernel may have been told not to measure it: then there is no such file, or none that can be read.
fn pressure(cgroup: &Path, file: &str) -> Option<Pressure> {
    let text = super::files::text(&cgroup.join(file)).ok()?;
    let stall = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind));
        let field = |name: &str| line?.split_whitespace().find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
        let share = |name| field(name).and_then(|share| share.parse().ok()).unwrap_or(0.0);
        let total = field("total").and_then(|total| total.parse().ok()).unwrap_or(0);
        Stall { avg10: share("avg10"), avg60: share("avg60"), avg300: share("avg300"), total }
    };
    Some(Pressure { some: stall("some "), full: stall("full ") })
}

fn v1(root: &Path, path: &Path) -> Result<CgroupUsage, HostError> {
    let of = |controller: &str| root.join(controller).join(path);
    let stat = table(&of("memory"), "memory.stat")?;
    let total = |name: &str| stat.get(name).copied().unwrap_or(0);
    let memory = number(&of("memory"), "memory.usage_in_bytes")?.unwrap_or(0);
    let limit = number(&of("memory"), "memory.limit_in_bytes")?;
    Ok(CgroupUsage {
        cpu_nanos: number(&of("cpuacct"), "cpuacct.usage")?.unwrap_or(0),
        memory,
        working_set: memory.saturating_sub(total("total_inactive_file")),
        rss: total("total_rss"),
        page_faults: total("total_pgfault"),
        major_page_faults: total("total_pgmajfault"),
        memory_limit: limit.filter(|l| *l < NO_LIMIT),
        swap: stat.get("total_swap").copied(),
        pids: number(&of("pids"), "pids.current")?,
        ..CgroupUsage::default()
    })
}
