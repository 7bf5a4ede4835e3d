//! Decides how long a container that has ended waits before it is started again.
//! Upstream: pkg/kubelet/kuberuntime/kuberuntime_manager.go (doBackOff), staging/src/k8s.io/client-go/util/flowcontrol/backoff.go.
//! Differs: the wait runs from when the end was seen, by a clock that nobody sets; upstream's by the wall clock, which jumps.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use k8s_openapi::api::core::v1::Container;

use crate::ids::ContainerId;
use crate::observation::ContainerStatus;
use crate::time::{Mono, Now};

/// POD-225
const FIRST: Duration = Duration::from_secs(10);
/// POD-225: an instance that ran longer than twice the longest wait begins anew.
const RESET_FACTOR: u32 = 2;
/// How many ends of one container are remembered: the last one, and the one before it.
const ENDS: usize = 2;

/// What the wait of a container hangs on besides its name: another image, or other resources, begin anew (helpers.go,
/// GetBackoffKey).
type Key = (Option<String>, Option<k8s_openapi::api::core::v1::ResourceRequirements>);

/// The wait of one container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RestartBackoff {
    key: Key,
    /// How long the next end waits; `None` if it is forgiven.
    wait: Option<Duration>,
    /// The last ends and when they were seen, the newest last.
    ends: VecDeque<End>,
    /// The end after which a start was last granted.
    granted: Option<ContainerId>,
}

/// Waits by container name. Like upstream's, they begin anew with the agent.
pub type RestartBackoffs = BTreeMap<String, RestartBackoff>;

/// A container that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended<'a> {
    /// Its newest instance.
    pub newest: &'a ContainerStatus,
    /// Whether that was stopped so that it runs again, and the one that had ended before. Upstream stops and starts in one pass, in
    /// which it sees only the latter.
    pub stopped_after: Option<Option<&'a ContainerStatus>>,
}

/// How long an ended container waits in all and how long it still does; `None` if it may be started. The first end is forgiven,
/// the second waits 10 s, each further one twice as long, up to `most`.
pub fn restart_wait(
    backoffs: &mut RestartBackoffs,
    container: &Container,
    ended: Ended<'_>,
    most: Duration,
    now: Now,
) -> Option<(Duration, Duration)> {
    let backoff = backoffs.entry(container.name.clone()).or_default();
    let key = (container.image.clone(), container.resources.clone());
    if backoff.key != key {
        backoff.key = key;
        backoff.wait = None;
    }
    let id = &ended.newest.id;
    if backoff.granted.as_ref() == Some(id) {
        return None;
    }
    // The one before may have been cleared away meanwhile: what is remembered of its end counts just as well.
    let remembered = backoff.ends.back().map(|end| (end.id.clone(), end.ran_long));
    let before = ended.stopped_after.map(|before| before.map(|b| (b.id.clone(), ran_long(b, most))).or(remembered));
    let before = before.filter(|_| backoff.seen(id).is_none());
    backoff.note(ended.newest, most, now);
    let long = backoff.ends.iter().any(|end| end.id == *id && end.ran_long);
    match before {
        Some(None) => {
            backoff.granted = Some(id.clone());
            return None;
        }
        Some(Some((before, ran_long))) if backoff.left(&before, ran_long, most, now).is_none() => backoff.grant(ran_long, most),
        _ => match backoff.left(id, long, most, now) {
            Some(left) => return Some(left),
            None => backoff.grant(long, most),
        },
    }
    // It is forgiven once (hasExpired compares with the last grant): a start that fails now is waited for as after any other end.
    backoff.ends.iter_mut().filter(|end| end.id == *id).for_each(|end| end.ran_long = false);
    backoff.granted = Some(id.clone());
    None
}

/// A start that was granted failed before there was a container: the end before it still counts, so the next one waits again, twice as
/// long (doBackOff: `Next` goes by the last container that ended, in each pass).
pub fn start_failed(backoffs: &mut RestartBackoffs, container: &str) {
    if let Some(backoff) = backoffs.get_mut(container) {
        backoff.granted = None;
    }
}

/// An end that was seen.
#[derive(Clone, Debug, PartialEq)]
struct End {
    id: ContainerId,
    at: Mono,
    ran_long: bool,
}

impl RestartBackoff {
    fn seen(&self, id: &ContainerId) -> Option<Mono> {
        self.ends.iter().find(|end| end.id == *id).map(|end| end.at)
    }

    fn note(&mut self, ended: &ContainerStatus, most: Duration, now: Now) {
        if self.seen(&ended.id).is_none() {
            self.ends.push_back(End { id: ended.id.clone(), at: now.mono, ran_long: ran_long(ended, most) });
            if self.ends.len() > ENDS {
                self.ends.pop_front();
            }
        }
    }

    /// The wait after that end, and what is left of it.
    fn left(&self, ended: &ContainerId, ran_long: bool, most: Duration, now: Now) -> Option<(Duration, Duration)> {
        let wait = self.wait.filter(|_| !ran_long)?.min(most);
        // An end that was never seen is long past: the agent has seen what came after it.
        let until = self.seen(ended)? + wait;
        let left = until.since(now.mono);
        (!left.is_zero()).then_some((wait, left))
    }

    fn grant(&mut self, ran_long: bool, most: Duration) {
        let before = self.wait.filter(|_| !ran_long);
        self.wait = Some(before.map_or(FIRST, |wait| wait * 2).min(most));
    }
}

/// What never came to run did not run long: the runtime then says that it started in 1970.
fn ran_long(ended: &ContainerStatus, most: Duration) -> bool {
    ended.started_at > 0 && duration_between(ended.started_at, ended.finished_at) > most * RESET_FACTOR
}

fn duration_between(from: i64, to: i64) -> Duration {
    Duration::from_nanos(u64::try_from(to.saturating_sub(from)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const MOST: Duration = Duration::from_secs(300);

    fn ended(id: &str, ran: u64) -> ContainerStatus {
        let nanos = i64::try_from(ran * 1_000_000_000).unwrap();
        serde_json::from_value(json!({
            "id": id, "sandbox": "s1", "name": "main", "attempt": 0, "state": "Exited", "created_at": 0, "started_at": 1,
            "finished_at": 1 + nanos, "exit_code": 1, "reason": "Error", "message": "", "image": "", "image_ref": "", "image_id": "",
            "log_path": "", "labels": {}, "annotations": {}, "user": null, "resources": null, "termination_log": "",
            "stop_signal": "",
        }))
        .unwrap()
    }

    fn at(seconds: u64, wall: i64) -> Now {
        Now { mono: Mono::from_start(Duration::from_secs(seconds)), wall: jiff::Timestamp::from_second(wall).unwrap() }
    }

    fn seconds(waits: Option<(Duration, Duration)>) -> Option<(u64, u64)> {
        waits.map(|(all, left)| (all.as_secs(), left.as_secs()))
    }

    fn container(image: &str) -> Container {
        serde_json::from_value(json!({"name": "main", "image": image})).unwrap()
    }

    fn exits<'a>(newest: &'a ContainerStatus) -> Ended<'a> {
        Ended { newest, stopped_after: None }
    }

    /// The waits of instances that end one after another, each started once it may be.
    fn waits_of(backoffs: &mut RestartBackoffs, image: &str, ends: &[(&str, u64)], clock: &mut u64) -> Vec<u64> {
        let mut waits = Vec::new();
        for (id, ran) in ends {
            *clock += ran;
            let ended = ended(id, *ran);
            let wait =
                seconds(restart_wait(backoffs, &container(image), exits(&ended), MOST, at(*clock, 0))).map_or(0, |(all, _)| all);
            *clock += wait;
            assert_eq!(restart_wait(backoffs, &container(image), exits(&ended), MOST, at(*clock, 0)), None);
            waits.push(wait);
        }
        waits
    }

    // POD-225: client-go/util/flowcontrol/backoff.go (hasExpired: the end against the last `Next`): once started again, a start that fails is
    // waited for as after any other end.
    #[test]
    fn long_run_is_forgiven_once() {
        let mut backoffs = RestartBackoffs::new();
        let end = ended("a", 700);
        let mut at_seconds = |at_second: u64, failed: bool| {
            if failed {
                start_failed(&mut backoffs, "main");
            }
            seconds(restart_wait(&mut backoffs, &container("i"), exits(&end), MOST, at(at_second, 0)))
        };
        assert_eq!(at_seconds(1000, false), None, "at once after a long run");
        assert_eq!(at_seconds(1001, true), Some((10, 9)));
        assert_eq!(at_seconds(1010, false), None);
        assert_eq!(at_seconds(1011, true), Some((20, 9)));
        assert_eq!(at_seconds(1020, false), None);
        assert_eq!(at_seconds(1021, true), Some((40, 19)));
    }

    // POD-225
    #[test]
    fn each_end_waits_twice_as_long_and_a_long_run_is_forgiven() {
        let (mut backoffs, mut clock) = (RestartBackoffs::new(), 0);
        let ends = ["a", "b", "c", "d", "e", "f", "g", "h"].map(|id| (id, 1));
        assert_eq!(waits_of(&mut backoffs, "i", &ends, &mut clock), [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(waits_of(&mut backoffs, "i", &[("i", 601), ("j", 600)], &mut clock), [0, 10]);
    }

    // POD-225 (kuberuntime/helpers.go, GetBackoffKey): another image or other resources begin anew.
    #[test]
    fn wait_ends_when_the_image_changes() {
        let (mut backoffs, mut clock) = (RestartBackoffs::new(), 0);
        assert_eq!(waits_of(&mut backoffs, "broken", &[("a", 1), ("b", 1), ("c", 1)], &mut clock), [0, 10, 20]);
        let last = ended("d", 1);
        let mut left = |image| seconds(restart_wait(&mut backoffs, &container(image), exits(&last), MOST, at(clock, 0)));
        assert_eq!(left("broken"), Some((40, 40)));
        assert_eq!(left("mended"), None, "at once");
        let (mut backoffs, mut clock) = (RestartBackoffs::new(), 0);
        assert_eq!(waits_of(&mut backoffs, "i", &[("a", 1), ("b", 1), ("c", 1)], &mut clock), [0, 10, 20]);
        let resources = serde_json::from_value(serde_json::json!({"limits": {"cpu": "2"}})).unwrap();
        let larger = Container { resources: Some(resources), ..container("i") };
        assert_eq!(restart_wait(&mut backoffs, &larger, exits(&ended("d", 1)), MOST, at(clock + 1, 0)), None);
    }

    // POD-226 (kubelet.go, newCrashLoopBackOff: the first wait is no longer than the longest): crashLoopBackOff.maxContainerRestartPeriod.
    #[test]
    fn longest_wait_is_the_configured_one_and_lowers_the_first() {
        for (most, waits) in [(25, [None, Some(10), Some(20), Some(25), Some(25)]), (5, [None, Some(5), Some(5), Some(5), Some(5)])]
        {
            let (mut backoffs, most) = (RestartBackoffs::new(), Duration::from_secs(most));
            let mut clock = 0;
            for (id, expected) in ["a", "b", "c", "d", "e"].into_iter().zip(waits) {
                clock += 1;
                let ended = ended(id, 1);
                let wait =
                    seconds(restart_wait(&mut backoffs, &container("i"), exits(&ended), most, at(clock, 0))).map(|(all, _)| all);
                assert_eq!(wait, expected, "{id}");
                clock += wait.unwrap_or_default();
                assert_eq!(restart_wait(&mut backoffs, &container("i"), exits(&ended), most, at(clock, 0)), None);
            }
        }
    }

    // POD-225 (kuberuntime_manager.go, doBackOff looks at what had ended before the kill): recordings 086 and 121.
    #[test]
    fn first_two_restarts_after_a_failed_liveness_probe_are_immediate() {
        let mut backoffs = RestartBackoffs::new();
        let instances: Vec<ContainerStatus> = ["a", "b", "c", "d"].into_iter().map(|id| ended(id, 6)).collect();
        let mut killed = |number: usize, clock| {
            let before = number.checked_sub(1).map(|before| &instances[before]);
            let ended = Ended { newest: &instances[number], stopped_after: Some(before) };
            seconds(restart_wait(&mut backoffs, &container("i"), ended, MOST, at(clock, 0)))
        };
        assert_eq!(killed(0, 6), None);
        assert_eq!(killed(1, 12), None);
        assert_eq!(killed(2, 18), Some((10, 10)), "the one before ended six seconds ago");
        assert_eq!(killed(2, 27), Some((10, 1)));
        assert_eq!(killed(2, 28), None);
        assert_eq!(killed(3, 60), None, "the one before ended longer ago than its wait");
    }

    // POD-225: of dead instances only the newest is kept, so that the one before is seldom there when the next is stopped.
    #[test]
    fn instance_before_counts_although_it_was_cleared_away() {
        let mut backoffs = RestartBackoffs::new();
        let mut killed = |id: &str, clock| {
            let newest = ended(id, 3);
            let ended = Ended { newest: &newest, stopped_after: Some(None) };
            seconds(restart_wait(&mut backoffs, &container("i"), ended, MOST, at(clock, 0)))
        };
        assert_eq!(killed("a", 3), None);
        assert_eq!(killed("b", 6), None);
        assert_eq!(killed("c", 9), Some((10, 10)));
        assert_eq!(killed("c", 19), None);
    }

    // POD-225 (kuberuntime_manager.go, doBackOff; client-go, backoff.go): each pass that may start it doubles the wait, which runs from the
    // last end, whether or not a container comes of it.
    #[test]
    fn start_that_leaves_no_container_doubles_the_wait() {
        let (mut backoffs, last) = (RestartBackoffs::new(), ended("a", 1));
        let mut starts = Vec::new();
        for second in 0..200 {
            if restart_wait(&mut backoffs, &container("i"), exits(&last), MOST, at(second, 0)).is_none() {
                starts.push(second);
                start_failed(&mut backoffs, "main");
            }
        }
        assert_eq!(starts, [0, 10, 20, 40, 80, 160]);
        start_failed(&mut backoffs, "never started");
        assert_eq!(backoffs.len(), 1);
    }

    // POD-225: upstream goes by the wall clock; set back, it holds the container until the old time comes again.
    #[test]
    fn wait_runs_whatever_the_wall_clock_is_set_to() {
        let mut backoffs = RestartBackoffs::new();
        restart_wait(&mut backoffs, &container("i"), exits(&ended("a", 1)), MOST, at(0, 0));
        let b = ended("b", 1);
        let mut wait = |mono, wall| seconds(restart_wait(&mut backoffs, &container("i"), exits(&b), MOST, at(mono, wall)));
        assert_eq!(wait(100, 100), Some((10, 10)));
        assert_eq!(wait(104, 90_000), Some((10, 6)));
        assert_eq!(wait(109, -90_000), Some((10, 1)));
        assert_eq!(wait(110, -90_000), None);
    }
}
