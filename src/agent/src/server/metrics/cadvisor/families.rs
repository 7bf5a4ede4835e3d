//! What /metrics/cadvisor says of each cgroup, by family.
//! Upstream: github.com/google/cadvisor/metrics/prometheus.go (NewPrometheusCollector).
//! Differs: as its neighbour.

use super::super::text::Kind;
use crate::env::{DiskUsage, Stall};
use crate::server::stats::network::Interface;
use crate::server::stats::subjects::Subject;

/// More labels, and a value.
type Sample = (Vec<(&'static str, String)>, f64);

/// What one family says of a subject, and whether the measurement's time is told.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: Kind,
    pub(super) timed: bool,
    pub(super) says: fn(&Subject) -> Vec<Sample>,
}

fn one(value: f64) -> Vec<Sample> {
    vec![(Vec::new(), value)]
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

fn set<S>(settings: Option<S>, pick: fn(S) -> u64) -> Vec<Sample> {
    settings.map(pick).into_iter().flat_map(|value| one(value as f64)).collect()
}

/// Only a quota that limits is a quota.
fn quota(subject: &Subject) -> Option<u64> {
    subject.usage.cpu_settings?.quota.filter(|quota| *quota > 0)
}

/// Only of a subject whose CPU has a quota.
fn cfs(subject: &Subject, value: f64) -> Vec<Sample> {
    quota(subject).into_iter().flat_map(|_| one(value)).collect()
}

/// Where the kernel measures no pressure there is no family, as without upstream's PressureMetrics.
fn stalled(stall: Option<Stall>) -> Vec<Sample> {
    stall.into_iter().flat_map(|stall| one(seconds(stall.total.saturating_mul(1000)))).collect()
}

fn disks(subject: &Subject, pick: fn(&DiskUsage) -> u64) -> Vec<Sample> {
    subject.disks.iter().map(|(name, disk)| (vec![("device", name.clone())], pick(disk) as f64)).collect()
}

fn blkio(subject: &Subject) -> Vec<Sample> {
    let operations = |(name, disk): &(String, DiskUsage)| {
        let (major, minor) = disk.device;
        [("Read", disk.read.0), ("Write", disk.written.0)].map(|(operation, bytes)| {
            let labels = vec![
                ("device", name.clone()),
                ("major", major.to_string()),
                ("minor", minor.to_string()),
                ("operation", operation.to_owned()),
            ];
            (labels, bytes as f64)
        })
    };
    subject.disks.iter().flat_map(operations).collect()
}

fn interfaces(subject: &Subject, pick: fn(&Interface) -> u64) -> Vec<Sample> {
    subject.interfaces.iter().map(|one| (vec![("interface", one.name.clone())], pick(one) as f64)).collect()
}

/// Upstream tells one number twice (setMemoryStats).
fn failures(subject: &Subject) -> Vec<Sample> {
    let kinds = [("pgfault", subject.usage.page_faults), ("pgmajfault", subject.usage.major_page_faults)];
    let labelled = |(kind, count): (&str, u64)| {
        ["container", "hierarchy"].map(|scope| (vec![("failure_type", kind.to_owned()), ("scope", scope.to_owned())], count as f64))
    };
    kinds.into_iter().flat_map(labelled).collect()
}

/// API-143, in the order of their names; `container_scrape_error` comes after as many.
pub(super) const BEFORE_THE_ERROR: usize = 42;

/// See `BEFORE_THE_ERROR`.
pub(super) const FAMILIES: [Family; 51] = [
    Family {
        name: "container_blkio_device_usage_total",
        help: "Blkio Device bytes usage",
        kind: Kind::Counter,
        timed: true,
        says: blkio,
    },
    Family {
        name: "container_cpu_cfs_burst_periods_total",
        help: "Number of periods when burst occurs.",
        kind: Kind::Counter,
        timed: true,
        says: |subject| cfs(subject, subject.usage.bursts.0 as f64),
    },
    Family {
        name: "container_cpu_cfs_burst_seconds_total",
        help: "Total time duration the container has been bursted.",
        kind: Kind::Counter,
        timed: true,
        says: |subject| cfs(subject, seconds(subject.usage.bursts.1)),
    },
    Family {
        name: "container_cpu_cfs_periods_total",
        help: "Number of elapsed enforcement period intervals.",
        kind: Kind::Counter,
        timed: true,
        says: |subject| cfs(subject, subject.usage.cfs.map_or(0, |(periods, ..)| periods) as f64),
    },
    Family {
        name: "container_cpu_cfs_throttled_periods_total",
        help: "Number of throttled period intervals.",
        kind: Kind::Counter,
        timed: true,
        says: |subject| cfs(subject, subject.usage.cfs.map_or(0, |(_, throttled, _)| throttled) as f64),
    },
    Family {
        name: "container_cpu_cfs_throttled_seconds_total",
        help: "Total time duration the container has been throttled.",
        kind: Kind::Counter,
        timed: true,
        says: |subject| cfs(subject, seconds(subject.usage.cfs.map_or(0, |(.., nanos)| nanos))),
    },
    Family {
        name: "container_cpu_system_seconds_total",
        help: "Cumulative system cpu time consumed in seconds.",
        kind: Kind::Counter,
        timed: true,
        says: |subject| one(seconds(subject.usage.system_nanos.unwrap_or_default())),
    },
    Family {
        name: "container_cpu_usage_seconds_total",
        help: "Cumulative cpu time consumed in seconds.",
        kind: Kind::Counter,
        timed: true,
        says: |subject| vec![(vec![("cpu", "total".to_owned())], seconds(subject.usage.cpu_nanos))],
    },
    Family {
        name: "container_cpu_user_seconds_total",
        help: "Cumulative user cpu time consumed in seconds.",
        kind: Kind::Counter,
        timed: true,
        says: |subject| one(seconds(subject.usage.user_nanos.unwrap_or_default())),
    },
    Family {
        name: "container_fs_reads_bytes_total",
        help: "Cumulative count of bytes read",
        kind: Kind::Counter,
        timed: true,
        says: |subject| disks(subject, |disk| disk.read.0),
    },
    Family {
        name: "container_fs_reads_total",
        help: "Cumulative count of reads completed",
        kind: Kind::Counter,
        timed: true,
        says: |subject| disks(subject, |disk| disk.read.1),
    },
    Family {
        name: "container_fs_writes_bytes_total",
        help: "Cumulative count of bytes written",
        kind: Kind::Counter,
        timed: true,
        says: |subject| disks(subject, |disk| disk.written.0),
    },
    Family {
        name: "container_fs_writes_total",
        help: "Cumulative count of writes completed",
        kind: Kind::Counter,
        timed: true,
        says: |subject| disks(subject, |disk| disk.written.1),
    },
    Family {
        name: "container_last_seen",
        help: "Last time a container was seen by the exporter",
        kind: Kind::Gauge,
        timed: true,
        says: |subject| one(subject.at.as_second() as f64),
    },
    Family {
        name: "container_memory_cache",
        help: "Number of bytes of page cache memory.",
        kind: Kind::Gauge,
        timed: true,
        says: |subject| one(subject.usage.cache.unwrap_or_default() as f64),
    },
    Family {
        name: "container_memory_failcnt",
        help: "Number of memory usage hits limits",
        kind: Kind::Counter,
        timed: true,
        says: |subject| one(subject.usage.memory_failures.unwrap_or_default() as f64),
    },
    Family {
        name: "container_memory_failures_total",
        help: "Cumulative count of memory allocation failures.",
        kind: Kind::Counter,
        timed: true,
        says: failures,
    },
    Family {
        name: "container_memory_kernel_usage",
        help: "Size of kernel memory allocated in bytes.",
        kind: Kind::Gauge,
        timed: true,
        says: |subject| one(subject.usage.kernel_memory.unwrap_or_default() as f64),
    },
    Family {
        name: "container_memory_mapped_file",
        help: "Size of memory mapped files in bytes.",
        kind: Kind::Gauge,
        timed: true,
        says: |subject| one(subject.usage.mapped_file.unwrap_or_default() as f64),
    },
    Family {
        name: "container_memory_max_usage_bytes",
        help: "Maximum memory usage recorded in bytes",
        kind: Kind::Gauge,
        timed: true,
        says: |subject| one(subject.usage.max_memory.unwrap_or_default() as f64),
    },
    Family {
        name: "container_memory_rss",
        help: "Size of RSS in bytes.",
        kind: Kind::Gauge,
        timed: true,
        says: |subject| one(subject.usage.rss as f64),
    },
    Family {
        name: "container_memory_swap",
        help: "Container swap usage in bytes.",
        kind: Kind::Gauge,
        timed: true,
        says: |subject| one(subject.usage.swap.unwrap_or_default() as f64),
    },
    Family {
        name: "container_memory_total_active_file_bytes",
        help: "Current total active file in bytes.",
        kind: Kind::Gauge,
        timed: true,
        says: |subject| one(subject.usage.active_file.unwrap_or_default() as f64),
    },
    Family {
        name: "container_memory_total_inactive_file_bytes",
        help: "Current total inactive file in bytes.",
        kind: Kind::Gauge,
        timed: true,
        says: |subject| one(subject.usage.inactive_file.unwrap_or_default() as f64),
    },
    Family {
        name: "container_memory_usage_bytes",
        help: "Current memory usage in bytes, including all memory regardless of when it was accessed",
        kind: Kind::Gauge,
        timed: true,
        says: |subject| one(subject.usage.memory as f64),
    },
    Family {
        name: "container_memory_working_set_bytes",
        help: "Current working set in bytes.",
        kind: Kind::Gauge,
        timed: true,
        says: |subject| one(subject.usage.working_set.min(subject.usage.memory) as f64),
    },
    Family {
        name: "container_network_receive_bytes_total",
        help: "Cumulative count of bytes received",
        kind: Kind::Counter,
        timed: true,
        says: |subject| interfaces(subject, |one| one.received.bytes),
    },
    Family {
        name: "container_network_receive_errors_total",
        help: "Cumulative count of errors encountered while receiving",
        kind: Kind::Counter,
        timed: true,
        says: |subject| interfaces(subject, |one| one.received.errors),
    },
    Family {
        name: "container_network_receive_packets_dropped_total",
        help: "Cumulative count of packets dropped while receiving",
        kind: Kind::Counter,
        timed: true,
        says: |subject| interfaces(subject, |one| one.received.dropped),
    },
    Family {
        name: "container_network_receive_packets_total",
        help: "Cumulative count of packets received",
        kind: Kind::Counter,
        timed: true,
        says: |subject| interfaces(subject, |one| one.received.packets),
    },
    Family {
        name: "container_network_transmit_bytes_total",
        help: "Cumulative count of bytes transmitted",
        kind: Kind::Counter,
        timed: true,
        says: |subject| interfaces(subject, |one| one.sent.bytes),
    },
    Family {
        name: "container_network_transmit_errors_total",
        help: "Cumulative count of errors encountered while transmitting",
        kind: Kind::Counter,
        timed: true,
        says: |subject| interfaces(subject, |one| one.sent.errors),
    },
    Family {
        name: "container_network_transmit_packets_dropped_total",
        help: "Cumulative count of packets dropped while transmitting",
        kind: Kind::Counter,
        timed: true,
        says: |subject| interfaces(subject, |one| one.sent.dropped),
    },
    Family {
        name: "container_network_transmit_packets_total",
        help: "Cumulative count of packets transmitted",
        kind: Kind::Counter,
        timed: true,
        says: |subject| interfaces(subject, |one| one.sent.packets),
    },
    Family {
        name: "container_oom_events_total",
        help: "Count of out of memory events observed for the container",
        kind: Kind::Counter,
        timed: true,
        says: |subject| one(subject.usage.oom_kills.unwrap_or_default() as f64),
    },
    Family {
        name: "container_pressure_cpu_stalled_seconds_total",
        help: "Total time duration no tasks in the container could make progress due to CPU congestion.",
        kind: Kind::Counter,
        timed: true,
        says: |subject| stalled(subject.usage.cpu_pressure.map(|pressure| pressure.full)),
    },
    Family {
        name: "container_pressure_cpu_waiting_seconds_total",
        help: "Total time duration tasks in the container have waited due to CPU congestion.",
        kind: Kind::Counter,
        timed: true,
        says: |subject| stalled(subject.usage.cpu_pressure.map(|pressure| pressure.some)),
    },
    Family {
        name: "container_pressure_io_stalled_seconds_total",
        help: "Total time duration no tasks in the container could make progress due to IO congestion.",
        kind: Kind::Counter,
        timed: true,
        says: |subject| stalled(subject.usage.io_pressure.map(|pressure| pressure.full)),
    },
    Family {
        name: "container_pressure_io_waiting_seconds_total",
        help: "Total time duration tasks in the container have waited due to IO congestion.",
        kind: Kind::Counter,
        timed: true,
        says: |subject| stalled(subject.usage.io_pressure.map(|pressure| pressure.some)),
    },
    Family {
        name: "container_pressure_memory_stalled_seconds_total",
        help: "Total time duration no tasks in the container could make progress due to memory congestion.",
        kind: Kind::Counter,
        timed: true,
        says: |subject| stalled(subject.usage.memory_pressure.map(|pressure| pressure.full)),
    },
    Family {
        name: "container_pressure_memory_waiting_seconds_total",
        help: "Total time duration tasks in the container have waited due to memory congestion.",
        kind: Kind::Counter,
        timed: true,
        says: |subject| stalled(subject.usage.memory_pressure.map(|pressure| pressure.some)),
    },
    Family {
        name: "container_processes",
        help: "Number of processes running inside the container.",
        kind: Kind::Gauge,
        timed: true,
        says: |subject| one(subject.usage.processes.unwrap_or_default() as f64),
    },
    Family {
        name: "container_spec_cpu_period",
        help: "CPU period of the container.",
        kind: Kind::Gauge,
        timed: false,
        says: |subject| set(subject.usage.cpu_settings, |set| set.period),
    },
    Family {
        name: "container_spec_cpu_quota",
        help: "CPU quota of the container.",
        kind: Kind::Gauge,
        timed: false,
        says: |subject| quota(subject).into_iter().flat_map(|quota| one(quota as f64)).collect(),
    },
    Family {
        name: "container_spec_cpu_shares",
        help: "CPU share of the container.",
        kind: Kind::Gauge,
        timed: false,
        says: |subject| set(subject.usage.cpu_settings, |set| set.shares),
    },
    Family {
        name: "container_spec_memory_limit_bytes",
        help: "Memory limit for the container.",
        kind: Kind::Gauge,
        timed: false,
        says: |subject| set(subject.usage.memory_settings, |set| set.limit),
    },
    Family {
        name: "container_spec_memory_reservation_limit_bytes",
        help: "Memory reservation limit for the container.",
        kind: Kind::Gauge,
        timed: false,
        says: |subject| set(subject.usage.memory_settings, |set| set.reservation),
    },
    Family {
        name: "container_spec_memory_swap_limit_bytes",
        help: "Memory swap limit for the container.",
        kind: Kind::Gauge,
        timed: false,
        says: |subject| set(subject.usage.memory_settings, |set| set.swap_limit),
    },
    Family {
        name: "container_start_time_seconds",
        help: "Start time of the container since unix epoch in seconds.",
        kind: Kind::Gauge,
        timed: false,
        says: |subject| subject.usage.made.into_iter().flat_map(|made| one(made.as_second() as f64)).collect(),
    },
    Family {
        name: "container_threads",
        help: "Number of threads running inside the container",
        kind: Kind::Gauge,
        timed: true,
        says: |subject| one(subject.usage.threads.unwrap_or_default() as f64),
    },
    Family {
        name: "container_threads_max",
        help: "Maximum number of threads allowed inside the container, infinity if value is zero",
        kind: Kind::Gauge,
        timed: true,
        says: |subject| one(subject.usage.threads_max.unwrap_or_default() as f64),
    },
];
