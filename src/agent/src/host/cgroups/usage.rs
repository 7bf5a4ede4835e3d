//! What a cgroup uses now.
//! Upstream: github.com/google/cadvisor/container/libcontainer/handler.go.
//! Differs: nothing on purpose.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::{Cgroups, HostError, component, read};
use crate::env::{CgroupUsage, CpuSettings, DiskUsage, MemorySettings, Pressure, Stall};

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

/// CPU, memory and processes of one cgroup, the root included, with its pressure if that is asked for; `None` if there is none.
pub(in super::super) fn usage(
    cgroups: &Cgroups,
    name: &str,
    whole: Whole,
    pressure: bool,
) -> Result<Option<CgroupUsage>, HostError> {
    let path: PathBuf = name.split('/').filter(|c| !c.is_empty()).map(component).collect::<Result<_, _>>()?;
    match cgroups {
        Cgroups::V2(root) => {
            let (there, whole) = (root.join(&path), Some(whole).filter(|_| path.as_os_str().is_empty()));
            while_there(&there, || v2(&there, whole, pressure))
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

/// How many processes there are, and one of them: of the cgroup itself, not of those below it.
fn processes(cgroup: &Path) -> Result<(Option<u64>, Option<u32>), HostError> {
    let text = read(cgroup, "cgroup.procs")?;
    let first = text.as_deref().and_then(|text| text.lines().next()?.trim().parse().ok());
    Ok((text.map(|text| text.lines().count() as u64), first.filter(|pid| *pid > 0)))
}

/// When a cgroup was made: its directory changes with each cgroup below it, a file that nobody writes does not.
fn made(cgroup: &Path, file: &str) -> Option<Timestamp> {
    let changed = |path: &Path| std::fs::metadata(path).and_then(|found| found.modified()).ok();
    let earliest = [changed(cgroup), changed(&cgroup.join(file))].into_iter().flatten().min()?;
    Timestamp::try_from(earliest).ok()
}

/// A limit as upstream's `specMemoryValue` tells it: 0 if there is none.
fn limit(value: Option<String>) -> u64 {
    value.and_then(|value| value.parse().ok()).filter(|limit| *limit <= NO_LIMIT).unwrap_or(0)
}

fn device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// A weight of version 2 as shares (upstream's `convertCPUWeightToCPULimit`).
fn shares(weight: u64) -> u64 {
    if (1..=10_000).contains(&weight) { 2 + (weight - 1) * 262_142 / 9999 } else { 0 }
}

/// `whole` is of the root, which has neither `memory.current` nor `memory.max` (NODE-125).
fn v2(cgroup: &Path, whole: Option<Whole>, with_pressure: bool) -> Result<CgroupUsage, HostError> {
    let (cpu, stat) = (table(cgroup, "cpu.stat")?, table(cgroup, "memory.stat")?);
    let of = |table: &BTreeMap<String, u64>, name: &str| table.get(name).copied().unwrap_or(0);
    let memory = number(cgroup, "memory.current")?.unwrap_or_else(|| of(&stat, "anon").saturating_add(of(&stat, "file")));
    let events = table(cgroup, "memory.events")?;
    let nanos = |name: &str| cpu.get(name).map(|micros| micros.saturating_mul(1000));
    let (processes, first_process) = processes(cgroup)?;
    let pressure = |file| if with_pressure { pressure(cgroup, file) } else { None };
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
        processes,
        first_process,
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
        cpu_pressure: pressure("cpu.pressure"),
        memory_pressure: pressure("memory.pressure"),
        io_pressure: pressure("io.pressure"),
        active_file: stat.get("active_file").copied(),
        inactive_file: stat.get("inactive_file").copied(),
        kernel_memory: None,
        bursts: (of(&cpu, "nr_bursts"), of(&cpu, "burst_usec").saturating_mul(1000)),
        threads_max: number(cgroup, "pids.max")?,
        made: made(cgroup, "cgroup.events"),
        cpu_settings: v2_cpu(cgroup)?,
        memory_settings: v2_memory(cgroup)?,
        disks: read(cgroup, "io.stat")?.map(|text| text.lines().filter_map(v2_disk).collect()).unwrap_or_default(),
    })
}

fn v2_cpu(cgroup: &Path) -> Result<Option<CpuSettings>, HostError> {
    let max = read(cgroup, "cpu.max")?;
    let (quota, period) = max.as_deref().and_then(|max| max.split_once(' ')).unwrap_or_default();
    let shares = number(cgroup, "cpu.weight")?.map_or(0, shares);
    Ok(Some(CpuSettings { shares, quota: quota.parse().ok(), period: period.parse().unwrap_or(0) }))
}

/// The root has no `memory.max`, and so no settings.
fn v2_memory(cgroup: &Path) -> Result<Option<MemorySettings>, HostError> {
    let Some(max) = read(cgroup, "memory.max")? else { return Ok(None) };
    let (swap_limit, reservation) = (limit(read(cgroup, "memory.swap.max")?), limit(read(cgroup, "memory.min")?));
    Ok(Some(MemorySettings { limit: limit(Some(max)), swap_limit, reservation }))
}

/// A line of `io.stat`, such as `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`.
fn v2_disk(line: &str) -> Option<DiskUsage> {
    let mut fields = line.split_ascii_whitespace();
    let mut disk = DiskUsage { device: device(fields.next()?)?, ..DiskUsage::default() };
    let mut counts = false;
    for (name, value) in fields.filter_map(|field| field.split_once('=')) {
        let Ok(value) = value.parse() else { continue };
        match name {
            "rbytes" => disk.read.0 = value,
            "rios" => disk.read.1 = value,
            "wbytes" => disk.written.0 = value,
            "wios" => disk.written.1 = value,
            _ => continue,
        }
        counts = true;
    }
    counts.then_some(disk)
}

/// What upstream's `BlkioGroup.GetStats` takes, less what only old schedulers count: the first pair of files that says anything.
fn v1_disks(cgroup: &Path) -> Result<Vec<DiskUsage>, HostError> {
    for (bytes, requests) in [
        ("blkio.bfq.io_service_bytes_recursive", "blkio.bfq.io_serviced_recursive"),
        ("blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive"),
        ("blkio.throttle.io_service_bytes", "blkio.throttle.io_serviced"),
    ] {
        let mut disks: BTreeMap<(u32, u32), DiskUsage> = BTreeMap::new();
        for (file, of_bytes) in [(bytes, true), (requests, false)] {
            let text = read(cgroup, file)?.unwrap_or_default();
            for line in text.lines() {
                let fields: Vec<&str> = line.split_ascii_whitespace().collect();
                let [name, operation @ ("Read" | "Write"), value] = fields.as_slice() else { continue };
                let (Some(device), Ok(value)) = (device(name), value.parse()) else { continue };
                let disk = disks.entry(device).or_insert_with(|| DiskUsage { device, ..DiskUsage::default() });
                let counted = if *operation == "Read" { &mut disk.read } else { &mut disk.written };
                *if of_bytes { &mut counted.0 } else { &mut counted.1 } = value;
            }
        }
        if !disks.is_empty() {
            return Ok(disks.into_values().collect());
        }
    }
    Ok(Vec::new())
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
    let of_cpu = |name: &str| cpu.get(name).copied().unwrap_or(0);
    let (processes, first_process) = processes(&of("memory"))?;
    let cpu_settings = CpuSettings {
        shares: number(&of("cpu"), "cpu.shares")?.unwrap_or(0),
        quota: number(&of("cpu"), "cpu.cfs_quota_us")?,
        period: number(&of("cpu"), "cpu.cfs_period_us")?.unwrap_or(0),
    };
    let memory_settings = MemorySettings {
        limit: limit.filter(|limit| *limit <= NO_LIMIT).unwrap_or(0),
        swap_limit: self::limit(read(&of("memory"), "memory.memsw.limit_in_bytes")?),
        reservation: self::limit(read(&of("memory"), "memory.soft_limit_in_bytes")?),
    };
    Ok(CgroupUsage {
        cpu_nanos: number(&of("cpuacct"), "cpuacct.usage")?.unwrap_or(0),
        memory,
        working_set: memory.saturating_sub(total("total_inactive_file")),
        rss: total("total_rss"),
        // Of the cgroup itself, and not of those below it: so upstream reads version 1 (setMemoryStats).
        page_faults: total("pgfault"),
        major_page_faults: total("pgmajfault"),
        memory_limit: limit.filter(|l| *l < NO_LIMIT),
        swap: stat.get("total_swap").copied(),
        processes,
        first_process,
        threads: number(&of("pids"), "pids.current")?,
        user_nanos: cpu_time.get("user").map(|ticks| ticks.saturating_mul(TICK)),
        system_nanos: cpu_time.get("system").map(|ticks| ticks.saturating_mul(TICK)),
        cfs: cpu.get("nr_periods").map(|periods| (*periods, of_cpu("nr_throttled"), of_cpu("throttled_time"))),
        cache: stat.get("total_cache").copied(),
        mapped_file: stat.get("total_mapped_file").copied(),
        max_memory: number(&of("memory"), "memory.max_usage_in_bytes")?,
        memory_failures: number(&of("memory"), "memory.failcnt")?,
        oom_kills: table(&of("memory"), "memory.oom_control")?.get("oom_kill").copied(),
        active_file: stat.get("total_active_file").copied(),
        inactive_file: stat.get("total_inactive_file").copied(),
        kernel_memory: number(&of("memory"), "memory.kmem.usage_in_bytes")?,
        bursts: (of_cpu("nr_bursts"), of_cpu("burst_time")),
        threads_max: number(&of("pids"), "pids.max")?,
        made: made(&of("memory"), "cgroup.clone_children"),
        cpu_settings: of("cpu").is_dir().then_some(cpu_settings),
        memory_settings: Some(memory_settings),
        disks: v1_disks(&of("blkio"))?,
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
            v2(&cgroup, None, true)
        };
        assert_eq!(while_there(&cgroup, goes).unwrap(), None);
        assert_eq!(while_there(&cgroup, nothing).unwrap(), None);
    }
}
