//! How long the loop takes for an event, which was the slowest lately, and how many pods are left alone: metrics and log.
//! Upstream: pkg/kubelet/metrics (kubelet_pod_worker_duration_seconds and its kin) for each goroutine.
//! Differs: one loop; what takes it long is named.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kubelet::event::WatchKey;
use kubelet::ids::PodUid;
use kubelet::kubelet::Kubelet;
use tokio::time::Instant;

use crate::server::metrics::{Measure, Metric, Registry};

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
}

impl LoopGauge {
    /// Counts into that registry.
    #[must_use]
    pub fn new(registry: Arc<Registry>) -> Self {
        registry.set(&QUARANTINED, &[], 0.0);
        registry.add(&PANICS, &[], 0.0);
        Self { registry, slowest: None, told: None, quarantined: 0, unreadable: BTreeMap::new(), panics: 0 }
    }

    /// A list or watch failed.
    pub fn watch_failed(&self, key: &WatchKey) {
        self.registry.add(&WATCH_FAILURES, &[("resource", key.resource())], 1.0);
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
