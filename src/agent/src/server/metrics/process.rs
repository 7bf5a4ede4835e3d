//! What the process uses, as the kernel tells; what it does not tell is left out.
//! Upstream: github.com/prometheus/client_golang/prometheus/process_collector.go.
//! Differs: open file descriptors and the limit of virtual memory are not counted.

use kubelet::action::HostCall;
use kubelet::event::HostReply;

use super::text::{Encoder, Kind};
use crate::server::Shared;

/// Ticks of `/proc/self/stat` in a second: the kernel's promise to user space.
const USER_HZ: f64 = 100.0;

/// Ours: upstream waits instead.
const DROPPED: &str = "keelson_log_lines_dropped_total";

pub(super) async fn encode(shared: &Shared, encoder: &mut Encoder) {
    encoder.family(DROPPED, "[ALPHA] Lines of the log that were dropped because standard error was not read.", Kind::Counter);
    encoder.sample(DROPPED, &[], shared.settings.log.dropped() as f64, None);
    if let Some(seconds) = read(shared, "/proc/self/stat").await.as_deref().and_then(cpu_seconds) {
        encoder.family("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.", Kind::Counter);
        encoder.sample("process_cpu_seconds_total", &[], seconds, None);
    }
    if let Some(limit) = read(shared, "/proc/self/limits").await.as_deref().and_then(max_files) {
        encoder.family("process_max_fds", "Maximum number of open file descriptors.", Kind::Gauge);
        encoder.sample("process_max_fds", &[], limit, None);
    }
    let status = read(shared, "/proc/self/status").await.unwrap_or_default();
    if let Some(bytes) = kibibytes(&status, "VmRSS:") {
        encoder.family("process_resident_memory_bytes", "Resident memory size in bytes.", Kind::Gauge);
        encoder.sample("process_resident_memory_bytes", &[], bytes, None);
    }
    started(shared, encoder, STARTED);
    if let Some(bytes) = kibibytes(&status, "VmSize:") {
        encoder.family("process_virtual_memory_bytes", "Virtual memory size in bytes.", Kind::Gauge);
        encoder.sample("process_virtual_memory_bytes", &[], bytes, None);
    }
}

/// As client_golang says it, and as component-base does.
const STARTED: &str = "Start time of the process since unix epoch in seconds.";
/// See `STARTED`.
pub(super) const STARTED_ALPHA: &str = "[ALPHA] Start time of the process since unix epoch in seconds.";

/// When the agent was started.
pub(super) fn started(shared: &Shared, encoder: &mut Encoder, help: &str) {
    let seconds = shared.started.as_millisecond() as f64 / 1e3;
    encoder.family("process_start_time_seconds", help, Kind::Gauge);
    encoder.sample("process_start_time_seconds", &[], seconds, None);
}

async fn read(shared: &Shared, path: &str) -> Option<String> {
    match shared.env.host.call(HostCall::ReadFile { path: path.to_owned() }).await {
        Ok(HostReply::Contents(contents)) => String::from_utf8(contents).ok(),
        _ => None,
    }
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    // The second field is the program's name in parentheses, and may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / USER_HZ)
}

fn max_files(limits: &str) -> Option<f64> {
    limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_ascii_whitespace().next()?.parse().ok()
}

fn kibibytes(status: &str, key: &str) -> Option<f64> {
    let amount: f64 = status.lines().find_map(|line| line.strip_prefix(key))?.split_ascii_whitespace().next()?.parse().ok()?;
    Some(amount * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 2 0 0 0 250 50 0 0 20 0 9 0 100 1000 200 18446744073709551615";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(
            max_files("Limit  Soft\nMax open files            1024                 4096                 files\n"),
            Some(1024.0)
        );
        assert_eq!(kibibytes("Name:\tx\nVmRSS:\t    12 kB\n", "VmRSS:"), Some(12288.0));
        assert_eq!(kibibytes("", "VmRSS:"), None);
    }
}
