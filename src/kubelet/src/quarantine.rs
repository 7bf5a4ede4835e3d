//! Decides how long a pod is left alone after the core failed on it, or the process died of it.
//! Upstream: pkg/kubelet/pod_workers.go (a worker's back-off), k8s.io/client-go/util/flowcontrol/backoff.go for its shape.
//! Differs: upstream's goroutines have no such state; a panic in one of them ends the kubelet.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::alarms::Alarms;
use crate::ids::PodUid;
use crate::time::Mono;

/// The first pause; twice that after each further failure.
const FIRST: Duration = Duration::from_secs(10);
const MOST: Duration = Duration::from_secs(300);
/// After so many failures in a row it is not expected any more that a plan works.
const HOPELESS: u32 = 3;
/// After so long without another one, the next pause is the first again.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// One pod's record.
#[derive(Debug)]
struct Case {
    /// How often in a row.
    times: u32,
    /// Until when it is left alone; `None` once it is tried again.
    until: Option<Mono>,
    /// When it last failed.
    failed: Mono,
    /// Whether a pause was cut short already.
    hurried: bool,
    /// When what runs of it was last stopped without a plan.
    stopped: Option<Mono>,
}

/// The pods that are left alone, and those that were.
#[derive(Debug, Default)]
pub struct Quarantine {
    cases: BTreeMap<PodUid, Case>,
    alarms: Alarms<PodUid>,
}

/// A pod whose time has come.
#[derive(Debug, PartialEq, Eq)]
pub struct Released(pub PodUid);

impl Quarantine {
    /// The core failed on a pod; answers how long it is left alone.
    pub fn add(&mut self, now: Mono, pod: &PodUid) -> Duration {
        let times = self.cases.get(pod).map_or(0, |case| case.times).saturating_add(1);
        self.set(now, pod, times)
    }

    /// Earlier lives died, that often in a row, while they worked on a pod.
    pub fn suspect(&mut self, now: Mono, pod: &PodUid, deaths: u32) {
        if deaths > 0 {
            self.set(now, pod, deaths);
        }
    }

    fn set(&mut self, now: Mono, pod: &PodUid, times: u32) -> Duration {
        let pause = (FIRST * 2u32.pow(times.saturating_sub(1).min(5))).min(MOST);
        let until = now + pause;
        let (hurried, stopped) = self.cases.get(pod).map_or((false, None), |case| (case.hurried, case.stopped));
        self.cases.insert(pod.clone(), Case { times, until: Some(until), failed: now, hurried, stopped });
        self.alarms.set(pod, Some(until));
        pause
    }

    /// How often in a row it failed on a pod.
    #[must_use]
    pub fn times(&self, pod: &PodUid) -> u32 {
        self.cases.get(pod).map_or(0, |case| case.times)
    }

    /// Whether a pod is left alone.
    #[must_use]
    pub fn holds(&self, pod: &PodUid) -> bool {
        self.cases.get(pod).is_some_and(|case| case.until.is_some())
    }

    /// How many are left alone.
    #[must_use]
    pub fn len(&self) -> usize {
        self.cases.values().filter(|case| case.until.is_some()).count()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is asked of a pod has changed in a way that does not wait: it is tried at once. The next pause is longer all the same. Asked
    /// for again, each pause lasts as long as the first one: whoever writes the pod's object again and again makes nobody try as often.
    pub fn hurry(&mut self, now: Mono, pod: &PodUid) {
        let Some(case) = self.cases.get_mut(pod) else { return };
        let Some(until) = case.until else { return };
        let at = if case.hurried { until.min(now.max(case.failed + FIRST)) } else { now };
        case.hurried = true;
        case.until = Some(at);
        self.alarms.set(pod, Some(at));
    }

    /// Whether what runs of a pod that is to stop is stopped without a plan: its plans have failed again and again. Each time that is so
    /// counts; until a grace of that length is over it is not so again.
    pub fn stops_without_plan(&mut self, now: Mono, pod: &PodUid, grace: Duration) -> bool {
        let Some(case) = self.cases.get_mut(pod).filter(|case| case.times >= HOPELESS) else { return false };
        let may = case.stopped.is_none_or(|stopped| now >= stopped + grace + FIRST);
        if may {
            case.stopped = Some(now);
        }
        may
    }

    /// The pod is gone.
    pub fn forget(&mut self, pod: &PodUid) {
        if self.cases.remove(pod).is_some() {
            self.alarms.set(pod, None);
        }
    }

    /// When something changes by itself.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        self.alarms.first()
    }

    /// The pods that are to be tried again.
    pub fn due(&mut self, now: Mono) -> Vec<Released> {
        let due: Vec<PodUid> = self.alarms.due(now).cloned().collect();
        let mut released = Vec::new();
        for pod in due {
            let Some(case) = self.cases.get_mut(&pod) else { continue };
            if case.until.take().is_some() {
                self.alarms.set(&pod, Some(now + FORGOTTEN));
                released.push(Released(pod));
            } else {
                self.forget(&pod);
            }
        }
        released
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Mono {
        Mono::from_start(Duration::from_secs(seconds))
    }

    #[test]
    fn pauses_grow_until_a_pod_has_been_well_for_long() {
        let (mut quarantine, pod) = (Quarantine::default(), PodUid::new("u"));
        let mut pauses = Vec::new();
        let mut now = at(0);
        for _ in 0..7 {
            pauses.push(quarantine.add(now, &pod).as_secs());
            assert!(quarantine.holds(&pod));
            now = quarantine.deadline().unwrap();
            assert_eq!(quarantine.due(now), [Released(pod.clone())]);
            assert!(!quarantine.holds(&pod));
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 300, 300]);
        now = quarantine.deadline().unwrap();
        assert_eq!(quarantine.due(now), []);
        assert_eq!((quarantine.deadline(), quarantine.times(&pod)), (None, 0));
        assert_eq!(quarantine.add(now, &pod).as_secs(), 10);
    }

    #[test]
    fn hurry_again_and_again_tries_no_more_often_than_the_first_pause_lets() {
        let (mut quarantine, pod) = (Quarantine::default(), PodUid::new("u"));
        let mut tries = 0;
        for second in 0..600 {
            if tries == 0 || quarantine.due(at(second)) == [Released(pod.clone())] {
                quarantine.add(at(second), &pod);
                tries += 1;
            }
            quarantine.hurry(at(second), &pod);
        }
        assert!((60..=62).contains(&tries), "{tries}");
    }

    #[test]
    fn what_fails_again_and_again_is_stopped_without_a_plan_once_a_grace() {
        let (mut quarantine, pod) = (Quarantine::default(), PodUid::new("u"));
        let grace = Duration::from_secs(30);
        let stops = |quarantine: &mut Quarantine, second: u64| quarantine.stops_without_plan(at(second), &pod, grace);
        for second in 0..3 {
            assert!(!stops(&mut quarantine, second));
            quarantine.add(at(second), &pod);
        }
        assert!(stops(&mut quarantine, 3) && !stops(&mut quarantine, 42));
        quarantine.add(at(42), &pod);
        assert!(!stops(&mut quarantine, 42) && stops(&mut quarantine, 43));
    }

    #[test]
    fn hurry_ends_a_pause_and_not_the_count() {
        let (mut quarantine, pod) = (Quarantine::default(), PodUid::new("u"));
        quarantine.suspect(at(0), &pod, 3);
        assert_eq!(quarantine.deadline(), Some(at(40)));
        quarantine.hurry(at(1), &pod);
        assert_eq!(quarantine.due(at(1)), [Released(pod.clone())]);
        assert_eq!(quarantine.add(at(1), &pod).as_secs(), 80);
        quarantine.forget(&pod);
        assert!(quarantine.is_empty() && quarantine.deadline().is_none());
    }
}
