//! What is counted, by name and labels, bounded.
//! Upstream: k8s.io/component-base/metrics, github.com/prometheus/client_golang.
//! Differs: series beyond 10 000 in a family are not begun, instead of growing without end; of one about pods, those beyond 300 of each,
//! and those beyond 60 of each while all pods have 20 000.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::text::{Encoder, Kind};

/// Series in one family (INV-09).
const MAX_SERIES: usize = 10_000;
/// Series of each pod, in a family that is about pods: one with thousands of containers does not keep later ones from being counted.
const MAX_SERIES_OF_POD: usize = 300;
/// Series of all pods, in all families: a scrape writes each of them.
const MAX_SERIES_OF_PODS: usize = 20_000;
/// Series of each pod, in a family that is about pods, that are begun however many others have: more than a pod of few containers has.
const FEW_SERIES_OF_POD: usize = 60;

/// A family of series.
#[derive(Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it says, with its stability before it where upstream has one (API-140).
    pub help: &'static str,
    /// How it is counted.
    pub measure: Measure,
}

/// How a family is counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Measure {
    /// Only ever grows.
    Counter,
    /// Is what it was last set to.
    Gauge,
    /// The seconds that are left until the Unix time that it was last set to; endless once it has passed, as what has ended is none
    /// (certificate_manager.go: `Current` is nil then).
    TimeLeft,
    /// Counts observations up to each bound, in seconds for durations.
    Histogram(&'static [f64]),
}

/// The bounds that Prometheus' libraries take when none are given.
pub const DEFAULT_BUCKETS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Sorted by name.
type Labels = Arc<[(&'static str, String)]>;

/// Namespace, name and UID; without a UID it is empty.
type PodKey = (String, String, String);

#[derive(Debug)]
enum Value {
    Number(f64),
    Histogram { counts: Vec<u64>, sum: f64 },
}

#[derive(Debug)]
struct Family {
    metric: &'static Metric,
    series: BTreeMap<Labels, Value>,
    /// Those that are about pods, by pod.
    of_pods: BTreeMap<PodKey, Vec<Labels>>,
}

impl Family {
    fn forget_pod(&mut self, pod: &PodKey) {
        for labels in self.of_pods.remove(pod).into_iter().flatten() {
            self.series.remove(&labels);
        }
    }

    /// Whether there is room for a series that is not counted yet, when all pods have so many. Then it is known by its pod.
    fn begins(&mut self, labels: &Labels, of_all_pods: usize) -> bool {
        let Some(pod) = pod_of(labels) else { return self.series.len() < MAX_SERIES };
        let own = self.of_pods.entry(pod).or_default();
        let most = if of_all_pods < MAX_SERIES_OF_PODS { MAX_SERIES_OF_POD } else { FEW_SERIES_OF_POD };
        let begins = own.len() < most;
        if begins {
            own.push(Arc::clone(labels));
        }
        begins
    }
}

/// All that the agent counts of itself. One per agent; cheap enough to lock for each count.
#[derive(Debug, Default)]
pub struct Registry {
    families: Mutex<BTreeMap<&'static str, Family>>,
}

impl Registry {
    /// Nothing counted yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds to a counter, or to a gauge.
    pub fn add(&self, metric: &'static Metric, labels: &[(&'static str, &str)], amount: f64) {
        self.change(metric, labels, |value| {
            if let Value::Number(number) = value {
                *number += amount;
            }
        });
    }

    /// Sets a gauge.
    pub fn set(&self, metric: &'static Metric, labels: &[(&'static str, &str)], to: f64) {
        self.change(metric, labels, |value| *value = Value::Number(to));
    }

    /// Adds an observation to a histogram.
    pub fn observe(&self, metric: &'static Metric, labels: &[(&'static str, &str)], observed: f64) {
        let Measure::Histogram(bounds) = metric.measure else { return };
        self.change(metric, labels, |value| {
            if let Value::Histogram { counts, sum } = value {
                *sum += observed;
                let bucket = bounds.iter().position(|bound| observed <= *bound).unwrap_or(bounds.len());
                if let Some(count) = counts.get_mut(bucket) {
                    *count += 1;
                }
            }
        });
    }

    /// Forgets the series of a pod that has ended, of all families: whichever pod has its name then begins anew.
    pub fn forget_pod(&self, namespace: &str, pod: &str, uid: &str) {
        for family in self.lock().values_mut().filter(|family| !family.of_pods.is_empty()) {
            for uid in [uid, ""] {
                family.forget_pod(&(namespace.to_owned(), pod.to_owned(), uid.to_owned()));
            }
        }
    }

    /// Forgets the series of pods that are not known any more, by namespace, name and UID, of the families whose names begin so. A series
    /// without a UID goes with those of its pod that have one: whichever pod has the name then begins anew.
    pub(super) fn keep_pods(&self, prefix: &str, known: impl Fn(&str, &str, Option<&str>) -> bool) {
        let mut families = self.lock();
        let wanted = || families.iter().filter(|(name, _)| name.starts_with(prefix));
        let pods = wanted().flat_map(|(_, family)| family.of_pods.keys());
        let is_gone = |(namespace, pod, uid): &&PodKey| !known(namespace, pod, Some(uid.as_str()).filter(|uid| !uid.is_empty()));
        let gone: Vec<PodKey> = pods.filter(is_gone).cloned().collect();
        for (_, family) in families.iter_mut().filter(|(name, _)| name.starts_with(prefix)) {
            for (namespace, pod, uid) in &gone {
                for uid in [uid, ""] {
                    family.forget_pod(&(namespace.clone(), pod.clone(), uid.to_owned()));
                }
            }
        }
    }

    /// The value of one series of a counter or gauge; 0 if it was never touched.
    #[must_use]
    pub fn value(&self, metric: &'static Metric, labels: &[(&'static str, &str)]) -> f64 {
        match self.lock().get(metric.name).and_then(|family| family.series.get(&sorted(labels))) {
            Some(Value::Number(number)) => *number,
            _ => 0.0,
        }
    }

    fn change(&self, metric: &'static Metric, labels: &[(&'static str, &str)], change: impl FnOnce(&mut Value)) {
        let mut families = self.lock();
        let labels = sorted(labels);
        let is_new = families.get(metric.name).is_none_or(|family| !family.series.contains_key(&labels));
        let of_all_pods = if is_new { of_all_pods(&families) } else { 0 };
        let family =
            families.entry(metric.name).or_insert_with(|| Family { metric, series: BTreeMap::new(), of_pods: BTreeMap::new() });
        if is_new && !family.begins(&labels, of_all_pods) {
            return;
        }
        change(family.series.entry(labels).or_insert_with(|| match metric.measure {
            Measure::Counter | Measure::Gauge | Measure::TimeLeft => Value::Number(0.0),
            Measure::Histogram(bounds) => Value::Histogram { counts: vec![0; bounds.len() + 1], sum: 0.0 },
        }));
    }

    /// Writes the families that are wanted, in the order of their names, at that Unix time.
    pub(super) fn encode(&self, encoder: &mut Encoder, now: f64, wanted: impl Fn(&str) -> bool) {
        for (name, Family { metric, series, .. }) in self.lock().iter().filter(|(name, _)| wanted(name)) {
            let kind = match metric.measure {
                Measure::Counter => Kind::Counter,
                Measure::Gauge | Measure::TimeLeft => Kind::Gauge,
                Measure::Histogram(_) => Kind::Histogram,
            };
            encoder.family(name, metric.help, kind);
            for (labels, value) in series {
                let labels: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
                match (value, metric.measure) {
                    (Value::Histogram { counts, sum }, Measure::Histogram(bounds)) => {
                        encoder.histogram(name, &labels, bounds, counts, *sum)
                    }
                    (Value::Number(until), Measure::TimeLeft) => {
                        let left = if *until < now { f64::INFINITY } else { (until - now).trunc() };
                        encoder.sample(name, &labels, left, None);
                    }
                    (Value::Number(number), _) => encoder.sample(name, &labels, *number, None),
                    (Value::Histogram { .. }, _) => {}
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Family>> {
        // Counts are whole after each change; a panic elsewhere does not spoil them.
        self.families.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn of_all_pods(families: &BTreeMap<&'static str, Family>) -> usize {
    families.values().filter(|family| !family.of_pods.is_empty()).map(|family| family.series.len()).sum()
}

fn label<'a>(labels: &'a Labels, name: &str) -> Option<&'a str> {
    labels.iter().find(|(label, _)| *label == name).map(|(_, value)| value.as_str())
}

/// The pod that a series is about.
fn pod_of(labels: &Labels) -> Option<PodKey> {
    let text = |name| label(labels, name).unwrap_or_default().to_owned();
    label(labels, "pod").is_some().then(|| (text("namespace"), text("pod"), text("pod_uid")))
}

fn sorted(labels: &[(&'static str, &str)]) -> Labels {
    let mut labels: Vec<(&'static str, String)> = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    labels.sort_unstable();
    labels.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    static COUNTER: Metric = Metric { name: "b_total", help: "[ALPHA] Counts", measure: Measure::Counter };
    static SECONDS: Metric = Metric { name: "a_seconds", help: "[ALPHA] Takes", measure: Measure::Histogram(&[0.5, 1.0]) };

    #[test]
    fn families_and_series_come_in_order() {
        let registry = Registry::new();
        registry.add(&COUNTER, &[("to", "y"), ("from", "b")], 2.0);
        registry.add(&COUNTER, &[("from", "a"), ("to", "\"z\"\n\\")], 1.0);
        for seconds in [0.1, 0.5, 7.0] {
            registry.observe(&SECONDS, &[], seconds);
        }
        let mut encoder = Encoder::default();
        registry.encode(&mut encoder, 0.0, |_| true);
        let expected = r#"# HELP a_seconds [ALPHA] Takes
# TYPE a_seconds histogram
a_seconds_bucket{le="0.5"} 2
a_seconds_bucket{le="1"} 2
a_seconds_bucket{le="+Inf"} 3
a_seconds_sum 7.6
a_seconds_count 3
# HELP b_total [ALPHA] Counts
# TYPE b_total counter
b_total{from="a",to="\"z\"\n\\"} 1
b_total{from="b",to="y"} 2
"#;
        assert_eq!(encoder.finish(), expected);
    }

    #[test]
    fn what_is_about_nothing_any_more_is_forgotten() {
        static LEFT: Metric = Metric { name: "c_seconds", help: "Left", measure: Measure::TimeLeft };
        let registry = Registry::new();
        registry.add(&COUNTER, &[("pod", "a")], 1.0);
        registry.add(&COUNTER, &[("pod", "b")], 1.0);
        registry.set(&LEFT, &[], 100.7);
        registry.keep_pods("b_", |_, pod, _| pod == "b");
        let mut encoder = Encoder::default();
        registry.encode(&mut encoder, 40.0, |_| true);
        let text = encoder.finish();
        assert!(text.contains("b_total{pod=\"b\"} 1\n") && !text.contains("pod=\"a\""), "{text}");
        assert!(text.contains("c_seconds 60\n"), "{text}");
        // API-146: certificate_manager.go (Current) has no certificate any more once it has ended, and the gauges then say +Inf.
        let mut encoder = Encoder::default();
        registry.encode(&mut encoder, 101.0, |_| true);
        let text = encoder.finish();
        assert!(text.contains("c_seconds +Inf\n"), "{text}");
    }

    // API-144, INV-09: prober/worker.go (run) deletes its worker's series of both families when it ends, whoever has the pod's name then.
    #[test]
    fn series_of_a_pod_go_though_another_has_its_name() {
        let registry = Registry::new();
        for (pod, uid) in [("web-0", "old"), ("web-0", "new"), ("web-1", "other")] {
            registry.add(&COUNTER, &[("namespace", "ns"), ("pod", pod), ("pod_uid", uid)], 1.0);
            registry.observe(&SECONDS, &[("namespace", "ns"), ("pod", pod)], 0.1);
        }
        let known = |_: &str, _: &str, uid: Option<&str>| uid != Some("old");
        let told = || {
            registry.keep_pods("", known);
            let mut encoder = Encoder::default();
            registry.encode(&mut encoder, 0.0, |_| true);
            encoder.finish()
        };
        let text = told();
        assert!(!text.contains("old") && text.contains("pod_uid=\"new\"") && text.contains("pod_uid=\"other\""), "{text}");
        assert!(!text.contains("a_seconds_count{namespace=\"ns\",pod=\"web-0\"}"), "{text}");
        assert!(text.contains("a_seconds_count{namespace=\"ns\",pod=\"web-1\"} 1"), "{text}");
        registry.observe(&SECONDS, &[("namespace", "ns"), ("pod", "web-0")], 0.1);
        assert!(told().contains("a_seconds_count{namespace=\"ns\",pod=\"web-0\"} 1"));
    }

    #[test]
    fn a_family_does_not_grow_without_end() {
        // INV-09
        let registry = Registry::new();
        for number in 0..MAX_SERIES + 5 {
            registry.add(&COUNTER, &[("n", &number.to_string())], 1.0);
        }
        assert_eq!(registry.lock()["b_total"].series.len(), MAX_SERIES);
    }

    // Issue 10 (probe-series), INV-09: pods with thousands of probed containers leave those of others counted, and take theirs along.
    #[test]
    fn pod_has_its_own_bound_and_takes_its_series_along() {
        let registry = Registry::new();
        let count = |pod: &str, container: usize| {
            let container = container.to_string();
            registry.add(&COUNTER, &[("namespace", "ns"), ("pod", pod), ("pod_uid", pod), ("container", &container)], 1.0);
            registry.observe(&SECONDS, &[("namespace", "ns"), ("pod", pod), ("container", &container)], 0.1);
        };
        let series = || registry.lock().values().map(|family| family.series.len()).sum::<usize>();
        let fill =
            |pods: std::ops::Range<usize>| pods.for_each(|pod| (0..1000).for_each(|container| count(&pod.to_string(), container)));
        fill(0..30);
        assert_eq!(series(), 2 * 30 * MAX_SERIES_OF_POD);
        // The node has a bound too, beyond which each pod has a few.
        fill(30..100);
        let whole = MAX_SERIES_OF_PODS.div_ceil(2 * MAX_SERIES_OF_POD);
        assert_eq!(series(), MAX_SERIES_OF_PODS + 2 * (100 - whole) * FEW_SERIES_OF_POD);
        let full = series();
        count("late", 1);
        assert_eq!(series(), full + 2);
        for pod in 0..100 {
            registry.forget_pod("ns", &pod.to_string(), &pod.to_string());
        }
        assert_eq!(series(), 2);
        assert_eq!(registry.lock().values().map(|family| family.of_pods.len()).sum::<usize>(), 2);
        fill(0..1);
        assert_eq!(series(), 2 + 2 * MAX_SERIES_OF_POD, "there is room again");
    }
}
