//! /metrics/cadvisor: usage by cgroup, under the names that dashboards ask for.
//! Upstream: github.com/google/cadvisor/metrics/prometheus.go, pkg/kubelet/server/server.go (containerPrometheusLabelsFunc).
//! Differs: no network, disk I/O or sandboxes; values that are not measured are left out instead of 0; out of memory is told as the
//! kernel counts it by cgroup.

use kubelet::observation::{ActualResources, MachineInfo};

use super::text::{Encoder, Kind};
use crate::server::stats::subjects::Subject;

/// What one family says of a subject: more labels, a value, and whether the measurement's time is told.
type Says = fn(&Subject) -> Vec<(Vec<(&'static str, &'static str)>, f64)>;

struct Family {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    timed: bool,
    says: Says,
}

fn one(value: Option<u64>) -> Vec<(Vec<(&'static str, &'static str)>, f64)> {
    value.map(|value| (Vec::new(), value as f64)).into_iter().collect()
}

fn setting(subject: &Subject, pick: fn(&ActualResources) -> i64) -> Vec<(Vec<(&'static str, &'static str)>, f64)> {
    subject.settings.as_ref().map(pick).filter(|value| *value != 0).map(|value| (Vec::new(), value as f64)).into_iter().collect()
}

fn seconds(nanos: Option<u64>) -> Vec<(Vec<(&'static str, &'static str)>, f64)> {
    nanos.map(|nanos| (Vec::new(), nanos as f64 / 1e9)).into_iter().collect()
}

/// Only of a container whose CPU has a quota.
fn cfs(subject: &Subject, pick: fn((u64, u64, u64)) -> f64) -> Vec<(Vec<(&'static str, &'static str)>, f64)> {
    let limited = subject.settings.as_ref().is_some_and(|settings| settings.cpu_quota > 0);
    subject.more.cfs.filter(|_| limited).map(|cfs| (Vec::new(), pick(cfs))).into_iter().collect()
}

fn failures(subject: &Subject) -> Vec<(Vec<(&'static str, &'static str)>, f64)> {
    let kinds = [("pgfault", subject.page_faults), ("pgmajfault", subject.major_page_faults)];
    let labelled = |(kind, count): (&'static str, Option<u64>)| {
        count.map(|count| (vec![("failure_type", kind), ("scope", "container")], count as f64))
    };
    kinds.into_iter().filter_map(labelled).collect()
}

/// API-143, in the order of their names.
const FAMILIES: [Family; 31] = [
    Family {
        name: "container_cpu_cfs_periods_total",
        help: "Number of elapsed enforcement period intervals.",
        kind: Kind::Counter,
        timed: true,
        says: |subject| cfs(subject, |(periods, ..)| periods as f64),
    },
    Family {
        name: "container_cpu_cfs_throttled_periods_total",
        help: "Number of throttled period intervals.",
        kind: Kind::Counter,
        timed: true,
        says: |subject| cfs(subject, |(_, throttled, _)| throttled as f64),
    },
    Family {
        name: "container_cpu_cfs_throttled_seconds_total",
        help: "Total time duration the container has been throttled.",
        kind: Kind::Counter,
        timed: true,
        says: |subject| cfs(subject, |(.., nanos)| nanos as f64 / 1e9),
    },
    Family {
        name: "container_cpu_system_seconds_total",
        help: "Cumulative system cpu time consumed in seconds.",
        kind: Kind::Counter,
        timed: true,
        says: |subject| seconds(subject.more.system_nanos),
    },
    Family {
        name: "container_cpu_usage_seconds_total",
        help: "Cumulative cpu time consumed in seconds.",
        kind: Kind::Counter,
        timed: true,
        says: |subject| subject.cpu_nanos.map(|used| (vec![("cpu", "total")], used as f64 / 1e9)).into_iter().collect(),
    },
    Family {
        name: "container_cpu_user_seconds_total",
        help: "Cumulative user cpu time consumed in seconds.",
        kind: Kind::Counter,
        timed: true,
        says: |subject| seconds(subject.more.user_nanos),
    },
    Family {
        name: "container_fs_usage_bytes",
        help: "Number of bytes that are consumed by the container on this filesystem.",
        kind: Kind::Gauge,
        timed: true,
        says: |subject| subject.fs_bytes.map(|used| (vec![("device", "")], used as f64)).into_iter().collect(),
    },
    Family {
        name: "container_last_seen",
        help: "Last time a container was seen by the exporter",
        kind: Kind::Gauge,
        timed: true,
        says: |subject| vec![(Vec::new(), subject.at.as_second() as f64)],
    },
    Family {
        name: "container_memory_cache",
        help: "Number of bytes of page cache memory.",
        kind: Kind::Gauge,
        timed: true,
        says: |subject| one(subject.more.cache),
    },
    Family {
        name: "container_memory_failcnt",
        help: "Number of memory usage hits limits",
        kind: Kind::Counter,
        timed: true,
        says: |subject| one(subject.more.memory_failures),
    },
    Family {
        name: "container_memory_failures_total",
        help: "Cumulative count of memory allocation failures.",
        kind: Kind::Counter,
        timed: true,
        says: failures,
    },
    Family {
        name: "container_memory_mapped_file",
        help: "Size of memory mapped files in bytes.",
        kind: Kind::Gauge,
        timed: true,
        says: |subject| one(subject.more.mapped_file),
    },
    Family {
        name: "container_memory_max_usage_bytes",
        help: "Maximum memory usage recorded in bytes",
        kind: Kind::Gauge,
        timed: true,
        says: |subject| one(subject.more.max_memory),
    },
    Family {
        name: "container_memory_rss",
        help: "Size of RSS in bytes.",
        kind: Kind::Gauge,
        timed: true,
        says: |subject| one(subject.rss),
    },
    Family {
        name: "container_memory_swap",
        help: "Container swap usage in bytes.",
        kind: Kind::Gauge,
        timed: true,
        says: |subject| one(subject.swap),
    },
    Family {
        name: "container_memory_usage_bytes",
        help: "Current memory usage in bytes, including all memory regardless of when it was accessed",
        kind: Kind::Gauge,
        timed: true,
        says: |subject| one(subject.memory),
    },
    Family {
        name: "container_memory_working_set_bytes",
        help: "Current working set in bytes.",
        kind: Kind::Gauge,
        timed: true,
        says: |subject| one(subject.working_set),
    },
    Family {
        name: "container_oom_events_total",
        help: "Count of out of memory events observed for the container",
        kind: Kind::Counter,
        timed: true,
        says: |subject| one(subject.more.oom_kills),
    },
    Family {
        name: "container_pressure_cpu_stalled_seconds_total",
        help: "Total time duration no tasks in the container could make progress due to CPU congestion.",
        kind: Kind::Counter,
        timed: true,
        says: |subject| seconds(subject.more.cpu_pressure.map(|pressure| pressure.full.total.saturating_mul(1000))),
    },
    Family {
        name: "container_pressure_cpu_waiting_seconds_total",
        help: "Total time duration tasks in the container have waited due to CPU congestion.",
        kind: Kind::Counter,
        timed: true,
        says: |subject| seconds(subject.more.cpu_pressure.map(|pressure| pressure.some.total.saturating_mul(1000))),
    },
    Family {
        name: "container_pressure_io_stalled_seconds_total",
        help: "Total time duration no tasks in the container could make progress due to IO congestion.",
        kind: Kind::Counter,
        timed: true,
        says: |subject| seconds(subject.more.io_pressure.map(|pressure| pressure.full.total.saturating_mul(1000))),
    },
    Family {
        name: "container_pressure_io_waiting_seconds_total",
        help: "Total time duration tasks in the container have waited due to IO congestion.",
        kind: Kind::Counter,
        timed: true,
        says: |subject| seconds(subject.more.io_pressure.map(|pressure| pressure.some.total.saturating_mul(1000))),
    },
    Family {
        name: "container_pressure_memory_stalled_seconds_total",
        help: "Total time duration no tasks in the container could make progress due to memory congestion.",
        kind: Kind::Counter,
        timed: true,
        says: |subject| seconds(subject.more.memory_pressure.map(|pressure| pressure.full.total.saturating_mul(1000))),
    },
    Family {
        name: "container_pressure_memory_waiting_seconds_total",
        help: "Total time duration tasks in the container have waited due to memory congestion.",
        kind: Kind::Counter,
        timed: true,
        says: |subject| seconds(subject.more.memory_pressure.map(|pressure| pressure.some.total.saturating_mul(1000))),
    },
    Family {
        name: "container_processes",
        help: "Number of processes running inside the container.",
        kind: Kind::Gauge,
        timed: true,
        says: |subject| one(subject.more.processes),
    },
    Family {
        name: "container_spec_cpu_period",
        help: "CPU period of the container.",
        kind: Kind::Gauge,
        timed: false,
        says: |subject| setting(subject, |settings| settings.cpu_period),
    },
    Family {
        name: "container_spec_cpu_quota",
        help: "CPU quota of the container.",
        kind: Kind::Gauge,
        timed: false,
        // Only a quota that limits is a quota.
        says: |subject| setting(subject, |settings| settings.cpu_quota.max(0)),
    },
    Family {
        name: "container_spec_cpu_shares",
        help: "CPU share of the container.",
        kind: Kind::Gauge,
        timed: false,
        says: |subject| setting(subject, |settings| settings.cpu_shares),
    },
    Family {
        name: "container_spec_memory_limit_bytes",
        help: "Memory limit for the container.",
        kind: Kind::Gauge,
        timed: false,
        says: |subject| one(subject.memory_limit),
    },
    Family {
        name: "container_start_time_seconds",
        help: "Start time of the container since unix epoch in seconds.",
        kind: Kind::Gauge,
        timed: false,
        says: |subject| subject.started.map(|at| (Vec::new(), at.as_second() as f64)).into_iter().collect(),
    },
    Family {
        name: "container_threads",
        help: "Number of threads running inside the container",
        kind: Kind::Gauge,
        timed: true,
        says: |subject| one(subject.more.threads),
    },
];

/// `None` is a failed collection.
pub(super) fn encode(measured: Option<&(MachineInfo, Vec<Subject>)>) -> String {
    let mut encoder = Encoder::default();
    let error = if measured.is_some() { 0.0 } else { 1.0 };
    let (before, after) = FAMILIES.split_at(25);
    for family in before {
        encode_family(&mut encoder, family, measured);
    }
    encoder.family("container_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise", Kind::Gauge);
    encoder.sample("container_scrape_error", &[], error, None);
    for family in after {
        encode_family(&mut encoder, family, measured);
    }
    if let Some((machine, _)) = measured {
        let labels = [
            ("boot_id", machine.boot_id.as_str()),
            ("machine_id", machine.machine_id.as_str()),
            ("system_uuid", machine.system_uuid.as_str()),
        ];
        for (name, help, value) in [
            ("machine_cpu_cores", "Number of logical CPU cores.", machine.cpus),
            ("machine_memory_bytes", "Amount of memory installed on the machine.", machine.memory),
        ] {
            encoder.family(name, help, Kind::Gauge);
            encoder.sample(name, &labels, value as f64, None);
        }
        encoder.family("machine_scrape_error", "1 if there was an error while getting machine metrics, 0 otherwise.", Kind::Gauge);
        encoder.sample("machine_scrape_error", &[], 0.0, None);
        encoder.family("machine_swap_bytes", "Amount of swap memory available on the machine.", Kind::Gauge);
        encoder.sample("machine_swap_bytes", &labels, machine.swap as f64, None);
    }
    encoder.finish()
}

fn encode_family(encoder: &mut Encoder, family: &Family, measured: Option<&(MachineInfo, Vec<Subject>)>) {
    let mut begun = false;
    for subject in measured.iter().flat_map(|(_, subjects)| subjects) {
        for (more, value) in (family.says)(subject) {
            if !begun {
                encoder.family(family.name, family.help, family.kind);
                begun = true;
            }
            let mut labels = vec![
                ("container", subject.container.as_str()),
                ("id", &subject.id),
                ("image", &subject.image),
                ("name", &subject.name),
                ("namespace", &subject.namespace),
                ("pod", &subject.pod),
            ];
            labels.extend(more);
            labels.sort_unstable();
            encoder.sample(family.name, &labels, value, family.timed.then(|| subject.at.as_millisecond()));
        }
    }
}
