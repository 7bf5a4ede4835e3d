//! What a process has used so far.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow};

/// Of a process with all its threads.
#[derive(Clone, Copy)]
pub(crate) struct Used {
    /// Time on a CPU, in user and kernel mode.
    pub(crate) cpu: Duration,
    /// Resident memory in bytes.
    pub(crate) resident: u64,
    /// The most that ever was resident, in bytes.
    pub(crate) most_resident: u64,
}

impl Used {
    /// Reads it from the process's directory in /proc.
    pub(crate) fn of(process: &Path) -> anyhow::Result<Self> {
        let read = |file: &str| fs::read_to_string(process.join(file)).with_context(|| process.display().to_string());
        let stat = read("stat")?;
        // The second field is the program's name, in which anything may be.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|ticks| ticks.parse::<u64>().ok()).ok_or_else(|| anyhow!("{stat}"));
        let all = ticks(11)? + ticks(12)?;
        let status = read("status")?;
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
            number.map(|kibibytes| kibibytes << 10).ok_or_else(|| anyhow!("{name} {status}"))
        };
        Ok(Self {
            cpu: Duration::from_secs_f64(all as f64 / rustix::param::clock_ticks_per_second() as f64),
            resident: bytes("VmRSS:")?,
            most_resident: bytes("VmHWM:")?,
        })
    }
}
