//! What a cgroup uses now.
//! Upstream: github.com/google/cadvisor/container/libcontainer/handler.go.
//! Differs: nothing on purpose.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Cgroups, HostError, component, read};
use crate::env::{CgroupUsage, Pressure, Stall};

/// Above this a limit of version 1 is none (NODE-125).
const NO_LIMIT: u64 = 1 << 62;

/// Nanoseconds in a tick of `cpuacct.stat`: a hundredth of a second on every machine that Linux runs on.
const TICK: u64 = 10_000_000;

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
        Cgroups::V2(root) => {
            let (there, whole) = (root.join(&path), Some(whole).filter(|_| path.as_os_str().is_empty()));
            while_there(&there, || v2(&there, whole))
        }
        Cgroups::V1(root) => while_there(&root.join("memory").join(&path), || v1(root, &path)),
    }
}

/// What is measured of a cgroup, if it is there from the beginning to the end: what went away meanwhile reads as nothing, which it did
/// not use.
fn while_there(cgroup: &Path, measure: impl FnOnce() -> Result<CgroupUsage, HostError>) -> Result<Option<CgroupUsage>, HostError> {
    if !cgroup.is_dir() {
        return Ok(None);
    }
    let measured = measure()?;
    Ok(cgroup.is_dir().then_some(measured))
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

/// How many processes there are: of the cgroup itself, not of those below it.
fn processes(cgroup: &Path) -> Result<Option<u64>, HostError> {
    Ok(read(cgroup, "cgroup.procs")?.map(|text| text.lines().count() as u64))
}

/// `whole` is of the root, which has neither `memory.current` nor `memory.max` (NODE-125).
fn v2(cgroup: &Path, whole: Option<Whole>) -> Result<CgroupUsage, HostError> {
    let (cpu, stat) = (table(cgroup, "cpu.stat")?, table(cgroup, "memory.stat")?);
    let of = |table: &BTreeMap<String, u64>, name: &str| table.get(name).copied().unwrap_or(0);
    let memory = number(cgroup, "memory.current")?.unwrap_or_else(|| of(&stat, "anon").saturating_add(of(&stat, "file")));
    let events = table(cgroup, "memory.events")?;
    let nanos = |name: &str| cpu.get(name).map(|micros| micros.saturating_mul(1000));
    Ok(CgroupUsage {
        cpu_nanos: of(&cpu, "usage_usec").saturating_mul(1000),
        memory,
        working_set: memory.saturating_sub(of(&stat, "inactive_file")),
        rss: of(&stat, "anon"),
        page_faults: of(&stat, "pgfault"),
        major_page_faults: of(&stat, "pgmajfault"),
        memory_limit: whole.map_or_else(|| number(cgroup, "memory.max"), |whole| Ok(Some(whole.memory)))?,
        swap: whole.map_or_else(|| number(cgroup, "memory.swap.current"), |whole| Ok(Some(whole.swap_used)))?,
        swap_limit: whole.map_or_else(|| number(cgroup, "memory.swap.max"), |whole| Ok(Some(whole.swap)))?,
        processes: processes(cgroup)?,
        threads: number(cgroup, "pids.current")?,
        user_nanos: nanos("user_usec"),
        system_nanos: nanos("system_usec"),
        cfs: cpu
            .get("nr_periods")
            .map(|periods| (*periods, of(&cpu, "nr_throttled"), of(&cpu, "throttled_usec").saturating_mul(1000))),
        cache: stat.get("file").copied(),
        mapped_file: stat.get("file_mapped").copied(),
        max_memory: number(cgroup, "memory.peak")?,
        memory_failures: None,
        oom_kills: events.get("oom_kill").copied(),
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
    let (cpu, cpu_time) = (table(&of("cpu"), "cpu.stat")?, table(&of("cpuacct"), "cpuacct.stat")?);
    Ok(CgroupUsage {
        cpu_nanos: number(&of("cpuacct"), "cpuacct.usage")?.unwrap_or(0),
        memory,
        working_set: memory.saturating_sub(total("total_inactive_file")),
        rss: total("total_rss"),
        page_faults: total("total_pgfault"),
        major_page_faults: total("total_pgmajfault"),
        memory_limit: limit.filter(|l| *l < NO_LIMIT),
        swap: stat.get("total_swap").copied(),
        processes: processes(&of("memory"))?,
        threads: number(&of("pids"), "pids.current")?,
        user_nanos: cpu_time.get("user").map(|ticks| ticks.saturating_mul(TICK)),
        system_nanos: cpu_time.get("system").map(|ticks| ticks.saturating_mul(TICK)),
        cfs: cpu.get("nr_periods").map(|periods| {
            let of = |name: &str| cpu.get(name).copied().unwrap_or(0);
            (*periods, of("nr_throttled"), of("throttled_time"))
        }),
        cache: stat.get("total_cache").copied(),
        mapped_file: stat.get("total_mapped_file").copied(),
        max_memory: number(&of("memory"), "memory.max_usage_in_bytes")?,
        memory_failures: number(&of("memory"), "memory.failcnt")?,
        oom_kills: table(&of("memory"), "memory.oom_control")?.get("oom_kill").copied(),
        ..CgroupUsage::default()
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::Scratch;
    use super::*;

    // N11: cAdvisor gives an error, hence no sample, for a cgroup that goes away while it is read; never zeros.
    #[test]
    fn cgroup_that_goes_away_meanwhile_has_used_no_zeros() {
        let scratch = Scratch::new();
        let cgroup = scratch.path().join("gone");
        std::fs::create_dir(&cgroup).unwrap();
        let nothing = || Ok(CgroupUsage::default());
        assert!(while_there(&cgroup, nothing).unwrap().is_some());
        let goes = || {
            std::fs::remove_dir(&cgroup).unwrap();
            v2(&cgroup, None)
        };
        assert_eq!(while_there(&cgroup, goes).unwrap(), None);
        assert_eq!(while_there(&cgroup, nothing).unwrap(), None);
    }
}
