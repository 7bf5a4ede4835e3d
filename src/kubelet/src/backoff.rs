//! Decides how long a container that has ended waits before it is started again.
//! Upstream: pkg/kubelet/kuberuntime/kuberuntime_manager.go (doBackOff), staging/src/k8s.io/client-go/util/flowcontrol/backoff.go.
//! Differs: nothing on purpose; like upstream's, a back-off begins anew with the agent.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::ids::ContainerId;
use crate::observation::ContainerStatus;
use crate::time::Now;

/// POD-225
const FIRST: Duration = Duration::from_secs(10);
/// POD-225: an instance that ran longer than twice the longest wait begins anew.
const RESET_FACTOR: u32 = 2;

/// The wait of one container, and the instance whose end it was computed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartBackoff {
    after: ContainerId,
    wait: Duration,
}

/// Waits by container name.
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
    let wait = match known {
        Some(known) if known.after == ended.id => known.wait,
        Some(_) if ran > most * RESET_FACTOR => Duration::ZERO,
        Some(known) if known.wait.is_zero() => FIRST.min(most),
        Some(known) => (known.wait * 2).min(most),
        None => Duration::ZERO,
    };
    backoffs.insert(name.to_owned(), RestartBackoff { after: ended.id.clone(), wait });
    let finished = Timestamp::from_nanosecond(i128::from(ended.finished_at)).unwrap_or(now.wall);
    // A runtime's clock ahead of ours makes nobody wait longer than the wait itself.
    let since = Duration::try_from(now.wall.duration_since(finished)).unwrap_or_default();
    let left = wait.saturating_sub(since);
    (!left.is_zero()).then_some((wait, left))
}

fn duration_between(from: i64, to: i64) -> Duration {
    Duration::from_nanos(u64::try_from(to.saturating_sub(from)).unwrap_or(0))
}
