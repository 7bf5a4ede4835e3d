//! /metrics/resource: CPU, memory and swap of the node, pods and containers, each with the time of its measurement.
//! Upstream: pkg/kubelet/metrics/collectors/resource_metrics.go.
//! Differs: nothing on purpose.

use super::text::{Encoder, Kind};
use crate::server::stats::summary::{CpuStats, MemoryStats, Summary, SwapStats};

/// Samples of one family: labels in the order of their names, a value, a time in milliseconds.
type Samples<'a> = Vec<(Vec<&'a str>, f64, Option<i64>)>;

struct Family<'a> {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    samples: Samples<'a>,
}

const OF_CONTAINER: &[&str] = &["container", "namespace", "pod"];
const OF_POD: &[&str] = &["namespace", "pod"];

/// API-141: `None` is a failed collection, of which only the failure is told.
pub(super) fn encode(summary: Option<&Summary>) -> String {
    let mut encoder = Encoder::default();
    for Family { name, help, kind, labels, mut samples } in summary.map(families).unwrap_or_default() {
        if samples.is_empty() {
            continue;
        }
        samples.sort_by(|(a, ..), (b, ..)| a.cmp(b));
        encoder.family(name, help, kind);
        for (values, value, at) in samples {
            let labels: Vec<(&str, &str)> = labels.iter().copied().zip(values).collect();
            encoder.sample(name, &labels, value, at);
        }
    }
    encoder.family(
        "resource_scrape_error",
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
        Kind::Gauge,
    );
    encoder.sample("resource_scrape_error", &[], if summary.is_some() { 0.0 } else { 1.0 }, None);
    encoder.finish()
}

fn cpu(stats: Option<&CpuStats>) -> Option<(f64, Option<i64>)> {
    let stats = stats?;
    Some((stats.usage_core_nano_seconds? as f64 / 1e9, Some(stats.time.0.as_millisecond())))
}

fn memory(stats: Option<&MemoryStats>) -> Option<(f64, Option<i64>)> {
    let stats = stats?;
    Some((stats.working_set_bytes? as f64, Some(stats.time.0.as_millisecond())))
}

fn swap_usage(stats: Option<&SwapStats>) -> Option<(f64, Option<i64>)> {
    let stats = stats?;
    Some((stats.swap_usage_bytes? as f64, Some(stats.time.0.as_millisecond())))
}

fn swap_limit(stats: Option<&SwapStats>) -> Option<(f64, Option<i64>)> {
    let stats = stats?;
    let limit = stats.swap_available_bytes?.saturating_add(stats.swap_usage_bytes?);
    Some((limit as f64, Some(stats.time.0.as_millisecond())))
}

fn families(summary: &Summary) -> Vec<Family<'_>> {
    let mut families = of_containers(summary);
    families.extend(of_node(summary));
    families.extend(of_pods(summary));
    families
}

fn of_containers(summary: &Summary) -> Vec<Family<'_>> {
    let containers = || {
        summary.pods.iter().flat_map(|pod| {
            pod.containers
                .iter()
                .map(|one| (vec![one.name.as_str(), pod.pod_ref.namespace.as_str(), pod.pod_ref.name.as_str()], one))
        })
    };
    let family = |name, help, kind, samples| Family { name, help, kind, labels: OF_CONTAINER, samples };
    let sampled = |(labels, sample): (Vec<_>, Option<(f64, Option<i64>)>)| sample.map(|(value, at)| (labels, value, at));
    vec![
        family(
            "container_cpu_usage_seconds_total",
            "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
            Kind::Counter,
            containers().map(|(labels, one)| (labels, cpu(one.cpu.as_ref()))).filter_map(sampled).collect(),
        ),
        family(
            "container_memory_working_set_bytes",
            "[STABLE] Current working set of the container in bytes",
            Kind::Gauge,
            containers().map(|(labels, one)| (labels, memory(one.memory.as_ref()))).filter_map(sampled).collect(),
        ),
        family(
            "container_start_time_seconds",
            "[STABLE] Start time of the container since unix epoch in seconds",
            Kind::Gauge,
            containers()
                .map(|(labels, one)| (labels, one.start_time.0.as_nanosecond()))
                .filter(|(_, started)| *started > 0)
                .map(|(labels, started)| (labels, started as f64 / 1e9, None))
                .collect(),
        ),
        family(
            "container_swap_limit_bytes",
            "[ALPHA] Current amount of the container swap limit in bytes. Reported only on non-windows systems",
            Kind::Gauge,
            containers().map(|(labels, one)| (labels, swap_limit(one.swap.as_ref()))).filter_map(sampled).collect(),
        ),
        family(
            "container_swap_usage_bytes",
            "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems",
            Kind::Gauge,
            containers().map(|(labels, one)| (labels, swap_usage(one.swap.as_ref()))).filter_map(sampled).collect(),
        ),
    ]
}

fn of_node(summary: &Summary) -> Vec<Family<'_>> {
    let node = &summary.node;
    let family = |name, help, kind, sample: Option<(f64, Option<i64>)>| {
        let samples = sample.into_iter().map(|(value, at)| (Vec::new(), value, at)).collect();
        Family { name, help, kind, labels: &[], samples }
    };
    vec![
        family(
            "node_cpu_usage_seconds_total",
            "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
            Kind::Counter,
            cpu(node.cpu.as_ref()),
        ),
        family(
            "node_memory_working_set_bytes",
            "[STABLE] Current working set of the node in bytes",
            Kind::Gauge,
            memory(node.memory.as_ref()),
        ),
        family(
            "node_swap_usage_bytes",
            "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems",
            Kind::Gauge,
            swap_usage(node.swap.as_ref()),
        ),
    ]
}

fn of_pods(summary: &Summary) -> Vec<Family<'_>> {
    let pods = || summary.pods.iter().map(|pod| (vec![pod.pod_ref.namespace.as_str(), pod.pod_ref.name.as_str()], pod));
    let family = |name, help, kind, samples| Family { name, help, kind, labels: OF_POD, samples };
    let sampled = |(labels, sample): (Vec<_>, Option<(f64, Option<i64>)>)| sample.map(|(value, at)| (labels, value, at));
    vec![
        family(
            "pod_cpu_usage_seconds_total",
            "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
            Kind::Counter,
            pods().map(|(labels, pod)| (labels, cpu(pod.cpu.as_ref()))).filter_map(sampled).collect(),
        ),
        family(
            "pod_memory_working_set_bytes",
            "[STABLE] Current working set of the pod in bytes",
            Kind::Gauge,
            pods().map(|(labels, pod)| (labels, memory(pod.memory.as_ref()))).filter_map(sampled).collect(),
        ),
        family(
            "pod_swap_usage_bytes",
            "[ALPHA] Current amount of the pod swap usage in bytes. Reported only on non-windows systems",
            Kind::Gauge,
            pods().map(|(labels, pod)| (labels, swap_usage(pod.swap.as_ref()))).filter_map(sampled).collect(),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::server::stats::summary::{ContainerStats, NodeStats, PodReference, PodStats, Time};

    fn at(milliseconds: i64) -> Time {
        Time(Timestamp::from_millisecond(milliseconds).unwrap())
    }

    fn cpu(time: Time, used: u64) -> Option<CpuStats> {
        Some(CpuStats { time, usage_nano_cores: None, usage_core_nano_seconds: Some(used), psi: None })
    }

    fn memory(time: Time, working_set: u64) -> Option<MemoryStats> {
        Some(MemoryStats {
            time,
            available_bytes: None,
            usage_bytes: None,
            working_set_bytes: Some(working_set),
            rss_bytes: None,
            page_faults: None,
            major_page_faults: None,
            psi: None,
        })
    }

    fn swap(time: Time, available: Option<u64>) -> Option<SwapStats> {
        Some(SwapStats { time, swap_available_bytes: available, swap_usage_bytes: Some(0) })
    }

    fn container(name: &str) -> ContainerStats {
        let time = at(1_795_422_706_080);
        ContainerStats {
            name: name.to_owned(),
            start_time: Time(Timestamp::from_nanosecond(1_795_422_623_580_525_100).unwrap()),
            cpu: cpu(time, 316_992_308),
            memory: memory(time, 675_840),
            io: None,
            rootfs: None,
            logs: None,
            swap: swap(at(1_795_422_706_082), Some(0)),
        }
    }

    fn summary() -> Summary {
        let (node, pod) = (at(1_795_422_705_387), at(1_795_422_696_747));
        Summary {
            node: NodeStats {
                node_name: "n1".to_owned(),
                system_containers: Vec::new(),
                start_time: node,
                cpu: cpu(node, 4_469_493_962_597),
                memory: memory(node, 1_285_509_120),
                io: None,
                network: None,
                fs: None,
                runtime: None,
                rlimit: None,
                swap: swap(node, None),
            },
            pods: vec![PodStats {
                pod_ref: PodReference { name: "gold-running".to_owned(), namespace: "default".to_owned(), uid: String::new() },
                start_time: pod,
                containers: vec![container("main")],
                cpu: cpu(pod, 308_776_626),
                memory: memory(pod, 3_076_096),
                io: None,
                network: None,
                volume: Vec::new(),
                ephemeral_storage: None,
                process_stats: None,
                swap: swap(pod, None),
            }],
        }
    }

    #[test]
    fn the_text_is_what_a_kubelet_sent_to_the_last_byte() {
        // API-141
        assert_eq!(encode(Some(&summary())), include_str!("../../../testdata/server/metrics-resource.txt"));
    }

    #[test]
    fn a_failed_collection_tells_only_that() {
        // API-141
        let text = "# HELP resource_scrape_error [STABLE] 1 if there was an error while getting container metrics, 0 otherwise\n\
                    # TYPE resource_scrape_error gauge\nresource_scrape_error 1\n";
        assert_eq!(encode(None), text);
    }

    #[test]
    fn what_was_not_measured_is_left_out() {
        // API-142, INV-10
        let mut summary = summary();
        let mut unmeasured = container("a");
        (unmeasured.cpu, unmeasured.memory, unmeasured.swap) = (None, None, None);
        unmeasured.start_time = Time(Timestamp::UNIX_EPOCH);
        summary.pods[0].containers.insert(0, unmeasured);
        summary.pods[0].containers.push(container("b"));
        let text = encode(Some(&summary));
        assert!(!text.contains("container=\"a\""));
        let first = text.lines().find(|line| line.starts_with("container_cpu")).unwrap();
        assert!(first.contains("container=\"b\""), "series come in the order of their labels");
    }
}
