//! How long the loop takes for an event, which was the slowest lately, and how many pods are left alone: metrics and log.
//! Upstream: pkg/kubelet/metrics (kubelet_pod_worker_duration_seconds and its kin) for each goroutine.
//! Differs: one loop; what takes it long is named.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kubelet::event::WatchKey;
use kubelet::facts::Fact;
use kubelet::ids::PodUid;
use kubelet::kubelet::Kubelet;
use kubelet::pod::manager::name_of;
use tokio::time::Instant;

use crate::server::metrics::{DEFAULT_BUCKETS, Measure, Metric, Registry};

static DURATION: Metric = Metric {
    name: "keelson_event_loop_duration_seconds",
    help: "[ALPHA] Duration in seconds of one turn of the event loop, by kind of event",
    measure: Measure::Histogram(&[0.0001, 0.001, 0.01, 0.1, 1.0, 10.0]),
};
static QUARANTINED: Metric = Metric {
    name: "keelson_quarantined_pods",
    help: "[ALPHA] Number of pods that are left alone because the agent failed while it worked on them",
    measure: Measure::Gauge,
};
static PANICS: Metric = Metric {
    name: "keelson_panics_total",
    help: "[ALPHA] Number of panics that were caught while events were handled",
    measure: Measure::Counter,
};

static UNREADABLE: Metric = Metric {
    name: "keelson_unreadable_objects",
    help: "[ALPHA] Number of objects of the node's watches that cannot be read and are left alone",
    measure: Measure::Gauge,
};
static WATCH_FAILURES: Metric = Metric {
    name: "keelson_watch_failures_total",
    help: "[ALPHA] Number of lists and watches that failed, by what they are about",
    measure: Measure::Counter,
};

static POD_WORKER: Metric = Metric {
    name: "kubelet_pod_worker_duration_seconds",
    help: "[ALPHA] Duration in seconds to sync a single pod. Broken down by operation type: create, update, or sync",
    measure: Measure::Histogram(DEFAULT_BUCKETS),
};
static POD_START: Metric = Metric {
    name: "kubelet_pod_start_duration_seconds",
    help: "[ALPHA] Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run",
    measure: Measure::Histogram(START_BUCKETS),
};
/// Upstream's podStartupDurationBuckets.
const START_BUCKETS: &[f64] = &[
    0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0,
    1200.0, 1800.0, 2700.0, 3600.0,
];
static SLI: Metric = Metric {
    name: "kubelet_pod_start_sli_duration_seconds",
    help: "[ALPHA] Duration in seconds to start a pod, excluding time to pull images and run init containers, measured from pod \
           creation timestamp to when all its containers are reported as started and observed via watch",
    measure: Measure::Histogram(START_BUCKETS),
};
static START_TOTAL: Metric = Metric {
    name: "kubelet_pod_start_total_duration_seconds",
    help: "[ALPHA] Duration in seconds to start a pod since creation, including time to pull images and run init containers, measured \
           from pod creation timestamp to when all its containers are reported as started and observed via watch",
    measure: Measure::Histogram(START_BUCKETS),
};
static FIRST_NETWORKED: Metric = Metric {
    name: "kubelet_first_network_pod_start_sli_duration_seconds",
    help: "[INTERNAL] Duration in seconds to start the first network pod, excluding time to pull images and run init containers, \
           measured from pod creation timestamp to when all its containers are reported as started and observed via watch",
    measure: Measure::Gauge,
};
static PER_POD: Metric = Metric {
    name: "kubelet_containers_per_pod_count",
    help: "[ALPHA] The number of containers per pod.",
    // ExponentialBuckets(1, 2, 5)
    measure: Measure::Histogram(&[1.0, 2.0, 4.0, 8.0, 16.0]),
};
static STARTED_CONTAINERS: Metric = Metric {
    name: "kubelet_started_containers_total",
    help: "[ALPHA] Cumulative number of containers started",
    measure: Measure::Counter,
};
static STARTED_CONTAINERS_ERRORS: Metric = Metric {
    name: "kubelet_started_containers_errors_total",
    help: "[ALPHA] Cumulative number of errors when starting containers",
    measure: Measure::Counter,
};
static TERMINATED: Metric = Metric {
    name: "kubelet_terminated_containers_total",
    help: "[ALPHA] Cumulative number of container terminations.",
    measure: Measure::Counter,
};
static PULLS: Metric = Metric {
    name: "kubelet_image_pull_duration_seconds",
    help: "[ALPHA] Duration in seconds to pull an image.",
    measure: Measure::Histogram(&[
        1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0,
    ]),
};

/// Upstream's imageSizeBuckets: above how many MiB.
const SIZES: [(u64, &str); 12] = [
    (0, "0-10MB"),
    (10, "10MB-100MB"),
    (100, "100MB-500MB"),
    (500, "500MB-1GB"),
    (1 << 10, "1GB-5GB"),
    (5 << 10, "5GB-10GB"),
    (10 << 10, "10GB-20GB"),
    (20 << 10, "20GB-30GB"),
    (30 << 10, "30GB-40GB"),
    (40 << 10, "40GB-60GB"),
    (60 << 10, "60GB-100GB"),
    (100 << 10, "GT100GB"),
];

/// `GetImageSizeBucket`: what is just as large as a bound is below it; of what has none, the size could not be had.
fn size_of(bytes: u64) -> &'static str {
    SIZES.iter().rev().find(|(mib, _)| bytes > mib << 20).map_or("N/A", |(_, name)| name)
}

static PROBES: Metric = Metric {
    name: "prober_probe_total",
    help: "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.",
    measure: Measure::Counter,
};
static PROBE_SECONDS: Metric = Metric {
    name: "prober_probe_duration_seconds",
    help: "[ALPHA] Duration in seconds for a probe response.",
    measure: Measure::Histogram(DEFAULT_BUCKETS),
};

/// What takes longer is told.
const SLOW: Duration = Duration::from_millis(250);
/// How often, at most: the slowest since the last time.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// What the loop counts of itself.
pub struct LoopGauge {
    registry: Arc<Registry>,
    slowest: Option<(Duration, &'static str, Option<PodUid>)>,
    told: Option<Instant>,
    quarantined: usize,
    unreadable: BTreeMap<&'static str, usize>,
    panics: u64,
    /// Whether a pod with a network of its own was seen to start.
    networked: AtomicBool,
}

impl LoopGauge {
    /// Counts into that registry.
    #[must_use]
    pub fn new(registry: Arc<Registry>) -> Self {
        registry.set(&QUARANTINED, &[], 0.0);
        registry.add(&PANICS, &[], 0.0);
        Self {
            registry,
            slowest: None,
            told: None,
            quarantined: 0,
            unreadable: BTreeMap::new(),
            panics: 0,
            networked: AtomicBool::new(false),
        }
    }

    /// A list or watch failed.
    pub fn watch_failed(&self, key: &WatchKey) {
        self.registry.add(&WATCH_FAILURES, &[("resource", key.resource())], 1.0);
    }

    /// Counts what happened to pods.
    pub fn counts(&self, facts: &[Fact]) {
        for fact in facts {
            match fact {
                Fact::PodSynced { operation, took } => {
                    self.registry.observe(&POD_WORKER, &[("operation_type", operation)], took.as_secs_f64());
                }
                Fact::PodStarted { total, sli, networked } => {
                    self.registry.observe(&START_TOTAL, &[], total.as_secs_f64());
                    if let Some(sli) = sli.map(|sli| sli.as_secs_f64()) {
                        self.registry.observe(&SLI, &[], sli);
                        if *networked && !self.networked.swap(true, Ordering::Relaxed) {
                            self.registry.set(&FIRST_NETWORKED, &[], sli);
                        }
                    }
                }
                Fact::PodCame(containers) => self.registry.observe(&PER_POD, &[], *containers as f64),
                Fact::StartBegan(kind) => self.registry.add(&STARTED_CONTAINERS, &[("container_type", kind.as_str())], 1.0),
                Fact::StartFailed(kind, code) => {
                    let labels = [("code", code.as_str()), ("container_type", kind.as_str())];
                    self.registry.add(&STARTED_CONTAINERS_ERRORS, &labels, 1.0);
                }
                Fact::ContainerEnded { kind, exit_code, reason } => {
                    let exit_code = exit_code.to_string();
                    let labels = [("container_type", kind.as_str()), ("exit_code", exit_code.as_str()), ("reason", reason)];
                    self.registry.add(&TERMINATED, &labels, 1.0);
                }
                Fact::ImagePulled { took, size } => {
                    self.registry.observe(&PULLS, &[("image_size_in_bytes", size_of(*size))], took.as_secs_f64());
                }
                Fact::PodRuns(after) => self.registry.observe(&POD_START, &[], after.as_secs_f64()),
                Fact::PodForgotten { name, uid } => self.registry.forget_pod(&name.namespace, &name.name, uid.as_str()),
                Fact::Probed { pod, container, kind, passed, took } => {
                    let name = name_of(pod);
                    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
                    let result = if *passed { "successful" } else { "failed" };
                    let labels = [
                        ("container", container.as_str()),
                        ("namespace", &*name.namespace),
                        ("pod", &*name.name),
                        ("probe_type", kind.as_str()),
                    ];
                    // Upstream times those only that passed.
                    if *passed {
                        self.registry.observe(&PROBE_SECONDS, &labels, took.as_secs_f64());
                    }
                    let [container, namespace, pod, probe] = labels;
                    let labels = [container, namespace, pod, ("pod_uid", uid), probe, ("result", result)];
                    self.registry.add(&PROBES, &labels, 1.0);
                }
            }
        }
    }

    /// One turn ended.
    pub fn turned(&mut self, kind: &'static str, subject: Option<PodUid>, took: Duration, kubelet: &Kubelet) {
        self.registry.observe(&DURATION, &[("event", kind)], took.as_secs_f64());
        let panics = kubelet.panics();
        if panics != self.panics {
            tracing::error!(event = kind, in_all = panics, "A panic was caught while an event was handled");
            self.registry.add(&PANICS, &[], (panics - self.panics) as f64);
            self.panics = panics;
        }
        let quarantined = kubelet.quarantined();
        if quarantined != self.quarantined {
            self.registry.set(&QUARANTINED, &[], quarantined as f64);
            self.quarantined = quarantined;
        }
        let unreadable = kubelet.unreadable();
        if unreadable != self.unreadable {
            for kind in self.unreadable.keys().chain(unreadable.keys()) {
                self.registry.set(&UNREADABLE, &[("resource", kind)], unreadable.get(kind).copied().unwrap_or(0) as f64);
            }
            self.unreadable = unreadable;
        }
        if took >= SLOW && self.slowest.as_ref().is_none_or(|(most, ..)| took > *most) {
            self.slowest = Some((took, kind, subject));
        }
        let now = Instant::now();
        if self.slowest.is_some() && self.told.is_none_or(|told| now.duration_since(told) >= TOLD_EVERY) {
            self.told = Some(now);
            if let Some((took, event, pod)) = self.slowest.take() {
                let pod = pod.as_ref().map_or("", PodUid::as_str);
                tracing::warn!(event, pod, ?took, "The event loop was slow");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use kubelet::facts::ContainerType;
    use kubelet::prober::spec::ProbeKind;

    use super::*;
    use crate::server::metrics::text_of;

    // API-144, API-146: as a real kubelet's answer at /metrics/probes has them; only probes that passed are timed.
    #[test]
    fn lives_of_pods_are_counted_as_a_kubelet_counts_them() {
        let registry = Arc::new(Registry::new());
        let gauge = LoopGauge::new(Arc::clone(&registry));
        let pod: Arc<Pod> = Arc::new(
            serde_json::from_str(r#"{"metadata": {"name": "gold-running", "namespace": "default", "uid": "u"}}"#).unwrap(),
        );
        let probed = |kind, passed| Fact::Probed {
            pod: Arc::clone(&pod),
            container: "main".to_owned(),
            kind,
            passed,
            took: Duration::from_millis(30),
        };
        gauge.counts(&[
            probed(ProbeKind::Liveness, true),
            probed(ProbeKind::Readiness, false),
            Fact::PodRuns(Duration::from_millis(700)),
            Fact::PodSynced { operation: "create", took: Duration::from_millis(40) },
            Fact::PodCame(2),
            Fact::PodStarted { total: Duration::from_secs(7), sli: Some(Duration::from_secs(3)), networked: true },
            Fact::PodStarted { total: Duration::from_secs(9), sli: None, networked: true },
            Fact::StartBegan(ContainerType::Init),
            Fact::StartFailed(ContainerType::Ordinary, "ErrImagePull".to_owned()),
            Fact::ContainerEnded { kind: ContainerType::Ordinary, exit_code: 3, reason: "Error".to_owned() },
            Fact::ImagePulled { took: Duration::from_secs(4), size: 500 << 20 },
            Fact::ImagePulled { took: Duration::from_secs(4), size: (500 << 20) + 1 },
            Fact::ImagePulled { took: Duration::from_secs(4), size: 0 },
        ]);
        let text = text_of(&registry);
        for line in [
            r#"prober_probe_duration_seconds_bucket{container="main",namespace="default",pod="gold-running",probe_type="Liveness",le="0.05"} 1"#,
            r#"prober_probe_total{container="main",namespace="default",pod="gold-running",pod_uid="u",probe_type="Liveness",result="successful"} 1"#,
            r#"prober_probe_total{container="main",namespace="default",pod="gold-running",pod_uid="u",probe_type="Readiness",result="failed"} 1"#,
            r#"kubelet_pod_start_duration_seconds_bucket{le="0.5"} 0"#,
            r#"kubelet_pod_start_duration_seconds_bucket{le="1"} 1"#,
            r#"kubelet_pod_worker_duration_seconds_count{operation_type="create"} 1"#,
            r#"kubelet_containers_per_pod_count_bucket{le="2"} 1"#,
            r#"kubelet_pod_start_total_duration_seconds_count 2"#,
            r#"kubelet_pod_start_sli_duration_seconds_bucket{le="3"} 1"#,
            r#"kubelet_pod_start_sli_duration_seconds_count 1"#,
            r#"kubelet_first_network_pod_start_sli_duration_seconds 3"#,
            r#"kubelet_started_containers_total{container_type="init_container"} 1"#,
            r#"kubelet_started_containers_errors_total{code="ErrImagePull",container_type="container"} 1"#,
            r#"kubelet_terminated_containers_total{container_type="container",exit_code="3",reason="Error"} 1"#,
            // pkg/kubelet/metrics/metrics.go, GetImageSizeBucket.
            r#"kubelet_image_pull_duration_seconds_bucket{image_size_in_bytes="100MB-500MB",le="5"} 1"#,
            r#"kubelet_image_pull_duration_seconds_bucket{image_size_in_bytes="500MB-1GB",le="5"} 1"#,
            r#"kubelet_image_pull_duration_seconds_bucket{image_size_in_bytes="N/A",le="5"} 1"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\nnot in\n{text}");
        }
        assert!(!text.contains(r#"probe_type="Readiness",le"#), "{text}");
    }
}
