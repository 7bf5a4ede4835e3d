//! Decides how long a container that has ended waits before it is started again.
//! Upstream: pkg/kubelet/kuberuntime/kuberuntime_manager.go (doBackOff), staging/src/k8s.io/client-go/util/flowcontrol/backoff.go.
//! Differs: the wait runs from when the end was seen, by a clock that nobody sets; upstream's by the wall clock, which jumps.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ids::ContainerId;
use crate::observation::ContainerStatus;
use crate::time::{Mono, Now};

/// POD-225
const FIRST: Duration = Duration::from_secs(10);
/// POD-225: an instance that ran longer than twice the longest wait begins anew.
const RESET_FACTOR: u32 = 2;

/// The wait of one container, and the instance whose end it was computed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartBackoff {
    after: ContainerId,
    wait: Duration,
    until: Mono,
}

/// Waits by container name. Like upstream's, they begin anew with the agent.
pub type RestartBackoffs = BTreeMap<String, RestartBackoff>;

/// How long an ended container waits in all and how long it still does; `None` if it may be started. The first end is forgiven,
/// the second waits 10 s, each further one twice as long, up to `most`.
pub fn restart_wait(
    backoffs: &mut RestartBackoffs,
    name: &str,
    ended: &ContainerStatus,
    most: Duration,
    now: Now,
) -> Option<(Duration, Duration)> {
    let ran = duration_between(ended.started_at, ended.finished_at);
    let known = backoffs.get(name);
    let (wait, until) = match known {
        Some(known) if known.after == ended.id => (known.wait, known.until),
        Some(known) if ran <= most * RESET_FACTOR => {
            let wait = if known.wait.is_zero() { FIRST } else { known.wait * 2 }.min(most);
            (wait, now.mono + wait)
        }
        _ => (Duration::ZERO, now.mono),
    };
    backoffs.insert(name.to_owned(), RestartBackoff { after: ended.id.clone(), wait, until });
    let left = until.since(now.mono);
    (!left.is_zero()).then_some((wait, left))
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

    // POD-225
    #[test]
    fn each_end_waits_twice_as_long_and_a_long_run_is_forgiven() {
        let mut backoffs = RestartBackoffs::new();
        let waits: Vec<_> = ["a", "b", "c", "d", "e", "f", "g", "h"]
            .into_iter()
            .map(|id| seconds(restart_wait(&mut backoffs, "main", &ended(id, 1), MOST, at(0, 0))).map(|(all, _)| all))
            .collect();
        assert_eq!(waits, [None, Some(10), Some(20), Some(40), Some(80), Some(160), Some(300), Some(300)]);
        assert_eq!(restart_wait(&mut backoffs, "main", &ended("i", 601), MOST, at(0, 0)), None);
        assert_eq!(seconds(restart_wait(&mut backoffs, "main", &ended("j", 600), MOST, at(0, 0))), Some((10, 10)));
        assert_eq!(restart_wait(&mut backoffs, "other", &ended("k", 1), MOST, at(0, 0)), None);
    }

    // POD-225: upstream goes by the wall clock; set back, it holds the container until the old time comes again.
    #[test]
    fn wait_runs_whatever_the_wall_clock_is_set_to() {
        let mut backoffs = RestartBackoffs::new();
        restart_wait(&mut backoffs, "main", &ended("a", 1), MOST, at(0, 0));
        let mut wait = |mono, wall| seconds(restart_wait(&mut backoffs, "main", &ended("b", 1), MOST, at(mono, wall)));
        assert_eq!(wait(100, 100), Some((10, 10)));
        assert_eq!(wait(104, 90_000), Some((10, 6)));
        assert_eq!(wait(109, -90_000), Some((10, 1)));
        assert_eq!(wait(110, -90_000), None);
    }
}
