//! Slices: cgroups that systemd makes, so that it does not undo what it does not know of.
//! Upstream: github.com/opencontainers/cgroups/systemd (the transient units that libcontainer starts).
//! Differs: `busctl` and `systemctl` instead of a D-Bus connection; what systemd has no property for is written beside it.

use std::process::Command;

use kubelet::action::CgroupSettings;

use super::{HostError, v2};

/// The unit of a cgroup that systemd manages: the last component of its name (NODE-132).
pub(super) fn slice(name: &str) -> Option<&str> {
    name.rsplit('/').next().filter(|last| last.ends_with(".slice"))
}

const MANAGER: [&str; 4] = ["call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"];

/// The period of a quota unless another is set.
const PERIOD: u64 = 100_000;

/// Properties in busctl's words: each a name, a signature, and a value of as many words as it takes.
fn properties(settings: &CgroupSettings) -> Vec<Vec<String>> {
    let max = |value: i64| u64::try_from(value).unwrap_or(u64::MAX).to_string();
    let mut properties = Vec::new();
    let mut add = |name: &str, signature: &str, value: String| {
        properties.push(vec![name.to_owned(), signature.to_owned(), value]);
    };
    if let Some(shares) = settings.cpu_shares {
        add("CPUWeight", "t", v2::weight(shares).to_string());
    }
    if let Some(quota) = settings.cpu_quota {
        let period = settings.cpu_period.unwrap_or(PERIOD).max(1);
        // In tens of milliseconds, rounded up: systemd knows no finer.
        let per_second = u64::try_from(quota).ok().filter(|q| *q > 0).map(|q| q * 1_000_000 / period);
        let per_second = per_second.map_or(u64::MAX, |q| q.div_ceil(10_000) * 10_000);
        // Older than version 242, it knows only this one.
        if period != PERIOD {
            add("CPUQuotaPeriodUSec", "t", period.to_string());
        }
        add("CPUQuotaPerSecUSec", "t", per_second.to_string());
    }
    if let Some(limit) = settings.memory_limit {
        add("MemoryMax", "t", max(limit));
    }
    if let Some(pids) = settings.pids_max {
        // It takes 0 for no limit at all.
        add("TasksMax", "t", max(if pids == 0 { 1 } else { pids }));
    }
    if let Some(mask) = settings.cpuset.as_deref().and_then(mask) {
        let head = ["AllowedCPUs".to_owned(), "ay".to_owned(), mask.len().to_string()];
        properties.push(head.into_iter().chain(mask.iter().map(u8::to_string)).collect());
    }
    properties
}

/// CPUs such as `0-3,8` as bits, the first CPU in the lowest of the first byte.
fn mask(cpus: &str) -> Option<Vec<u8>> {
    let mut mask = Vec::new();
    for range in cpus.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.trim().parse::<u16>().ok()?, last.trim().parse::<u16>().ok()?);
        for cpu in first..=last {
            let (byte, bit) = (usize::from(cpu / 8), cpu % 8);
            mask.resize(mask.len().max(byte + 1), 0);
            mask[byte] |= 1 << bit;
        }
    }
    Some(mask)
}

fn start_arguments(slice: &str, settings: &CgroupSettings) -> Vec<String> {
    let accounting = ["MemoryAccounting", "CPUAccounting", "TasksAccounting", "IOAccounting"];
    let mut all = vec![vec!["Description".to_owned(), "s".to_owned(), format!("libcontainer container {slice}")]];
    all.extend(accounting.map(|name| vec![name.to_owned(), "b".to_owned(), "true".to_owned()]));
    all.push(vec!["DefaultDependencies".to_owned(), "b".to_owned(), "false".to_owned()]);
    all.extend(properties(settings));
    let head = ["StartTransientUnit", "ssa(sv)a(sa(sv))", slice, "replace"].map(str::to_owned);
    let count = all.len().to_string();
    let mut arguments: Vec<String> = MANAGER.iter().map(|&a| a.to_owned()).chain(head).chain([count]).collect();
    arguments.extend(all.into_iter().flatten());
    arguments.push("0".to_owned());
    arguments
}

/// Makes a slice and waits until it is there.
pub(super) fn start(slice: &str, settings: &CgroupSettings) -> Result<(), HostError> {
    match run("busctl", &start_arguments(slice, settings)) {
        // A slice that is there without its controllers is brought to them below.
        Err(HostError::Unfit(message)) if message.contains("already") => set(slice, settings)?,
        outcome => outcome?,
    }
    run("systemctl", &["start".to_owned(), slice.to_owned()])
}

/// Brings a slice to these settings until the next boot.
pub(super) fn set(slice: &str, settings: &CgroupSettings) -> Result<(), HostError> {
    let all = properties(settings);
    if all.is_empty() {
        return Ok(());
    }
    let head = ["SetUnitProperties", "sba(sv)", slice, "true"].map(str::to_owned);
    let mut arguments: Vec<String> = MANAGER.iter().map(|&a| a.to_owned()).chain(head).chain([all.len().to_string()]).collect();
    arguments.extend(all.into_iter().flatten());
    run("busctl", &arguments)
}

/// Stops a slice; one that systemd does not know is stopped.
pub(super) fn stop(slice: &str) -> Result<(), HostError> {
    match run("systemctl", &["stop".to_owned(), slice.to_owned()]) {
        Err(HostError::Unfit(message)) if message.contains("not loaded") => Ok(()),
        outcome => outcome,
    }
}

fn run(program: &str, arguments: &[String]) -> Result<(), HostError> {
    let said = Command::new(program).args(arguments).env("LC_ALL", "C").output();
    let output = said.map_err(|e| HostError::Unfit(format!("failed to run {program}: {e}")))?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    Err(HostError::Unfit(format!("{program} {}: {}", arguments.first().map_or("", String::as_str), message.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    // NODE-132
    #[test]
    fn the_name_tells_whether_systemd_makes_it() {
        assert_eq!(slice("/kubepods.slice/kubepods-burstable.slice"), Some("kubepods-burstable.slice"));
        assert_eq!(slice("/kubepods/burstable"), None);
    }

    #[test]
    fn slice_is_asked_for_with_its_limits() {
        let settings = CgroupSettings {
            cpu_shares: Some(1024),
            cpu_quota: Some(50_500),
            cpu_period: Some(100_000),
            memory_limit: Some(1 << 20),
            pids_max: Some(-1),
            cpuset: Some("0-1,9".to_owned()),
            ..CgroupSettings::default()
        };
        let said = start_arguments("kubepods-podu1.slice", &settings).join(" ");
        assert!(said.contains("StartTransientUnit ssa(sv)a(sa(sv)) kubepods-podu1.slice replace 11 Description s"), "{said}");
        assert!(said.contains("CPUWeight t 39 CPUQuotaPerSecUSec t 510000"), "{said}");
        assert!(said.ends_with("MemoryMax t 1048576 TasksMax t 18446744073709551615 AllowedCPUs ay 2 3 2 0"), "{said}");
        let odd =
            CgroupSettings { cpu_quota: Some(5000), cpu_period: Some(10_000), pids_max: Some(0), ..CgroupSettings::default() };
        let said = start_arguments("kubepods-podu1.slice", &odd).join(" ");
        assert!(said.ends_with("CPUQuotaPeriodUSec t 10000 CPUQuotaPerSecUSec t 500000 TasksMax t 1 0"), "{said}");
    }

    #[test]
    fn list_of_cpus_is_a_set_of_bits() {
        assert_eq!(mask("0"), Some(vec![1]));
        assert_eq!(mask("0-3,8"), Some(vec![15, 1]));
        assert_eq!(mask("4-11"), Some(vec![0xf0, 0x0f]));
        assert_eq!((mask(""), mask("0-x")), (None, None));
    }
}
