//! Decides which calls wait for which: a bound for each kind of work, and in some a bound for each pod or driver.
//! Upstream: the goroutines that pkg/kubelet starts for everything; pkg/kubelet/prober (one for each probe).
//! Differs: what hangs is counted against its own pod or driver, and the wait for a place is part of a call's time-out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kubelet::action::Lane;
use kubelet::failure::{Failure, FailureKind};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bounds::Bounds;

/// How much of each kind of work runs at once.
#[derive(Clone, Debug)]
pub struct LaneLimits {
    /// Image pulls (POD-203).
    pub images: usize,
    /// Sandboxes that are being made. With a hundred at once the machine does a hundred pods' work before the first of them
    /// runs; with a few, pods come up one after another, and the last no later.
    pub sandboxes: usize,
}

impl LaneLimits {
    fn of(&self, lane: Lane) -> usize {
        match lane {
            // Alone in their lanes: the part of the core that owns one has at most one call in flight.
            Lane::Lease | Lane::NodeStatus => 2,
            Lane::Runtime => 8,
            Lane::Observe => 16,
            Lane::Sandboxes => self.sandboxes.max(1),
            Lane::Pods => 256,
            Lane::Host => 32,
            Lane::Images => self.images.max(1),
            Lane::PodStatus => 16,
            Lane::Objects | Lane::ImageLooks => 32,
            Lane::Events => 4,
            // As many at once as there are pods that have some; each pod has a bound of its own.
            Lane::Probes => Semaphore::MAX_PERMITS,
            Lane::Csi => 32,
            Lane::Housekeeping => 4,
        }
    }
}

/// How long a call of the runtime, of a driver or of the machine keeps its place in its lane: one that hangs must not keep others out.
const PLACE: Duration = Duration::from_secs(5);

fn gives_up_its_place(lane: Lane) -> bool {
    matches!(
        lane,
        Lane::Runtime
            | Lane::Observe
            | Lane::Sandboxes
            | Lane::Pods
            | Lane::Host
            | Lane::ImageLooks
            | Lane::Csi
            | Lane::Housekeeping
    )
}

/// Whether a call counts against its subject only as long as it keeps its place: what a stop waits for is a container's grace, and with
/// as many containers as it likes a pod is to be stopped within it all the same.
fn counts_while_it_keeps_its_place(lane: Lane) -> bool {
    lane == Lane::Pods
}

/// How many calls of a lane one subject may have at once, before it waits for itself; `None` where the core has no more than one.
fn of_each(lane: Lane) -> Option<usize> {
    match lane {
        // Probes and hooks of one pod: one that hangs is this pod's alone.
        Lane::Probes => Some(64),
        // Of one pod, or one driver.
        Lane::Host | Lane::Csi => Some(8),
        // Of one pod: thousands of containers are not looked at before another pod's one.
        Lane::ImageLooks | Lane::Objects => Some(8),
        Lane::Pods => Some(64),
        _ => None,
    }
}

const LANES: [Lane; 15] = [
    Lane::Lease,
    Lane::NodeStatus,
    Lane::Runtime,
    Lane::Observe,
    Lane::Sandboxes,
    Lane::Pods,
    Lane::Host,
    Lane::ImageLooks,
    Lane::Images,
    Lane::PodStatus,
    Lane::Objects,
    Lane::Events,
    Lane::Probes,
    Lane::Csi,
    Lane::Housekeeping,
];

/// All lanes, and the bounds of subjects in them.
#[derive(Debug)]
pub(crate) struct Lanes(BTreeMap<Lane, Places>);

#[derive(Clone, Debug)]
struct Places {
    all: Arc<Semaphore>,
    each: Option<Arc<Bounds>>,
}

impl Lanes {
    pub(crate) fn new(limits: &LaneLimits) -> Self {
        let places = |lane| Places {
            all: Arc::new(Semaphore::new(limits.of(lane))),
            each: of_each(lane).map(|each| Arc::new(Bounds::new(each))),
        };
        Self(LANES.into_iter().map(|lane| (lane, places(lane))).collect())
    }

    /// What a call goes by that waits in that lane, is counted against that subject, and is given up after that long.
    pub(crate) fn limits(
        &self,
        lane: Lane,
        subject: Option<String>,
        timeout: Option<Duration>,
        token: CancellationToken,
    ) -> Limits {
        let places = self.0.get(&lane).cloned();
        let place = gives_up_its_place(lane).then_some(PLACE);
        Limits { timeout, token, places, subject, place, own_too: counts_while_it_keeps_its_place(lane) }
    }
}

/// What one call waits for, and how long.
pub(crate) struct Limits {
    timeout: Option<Duration>,
    token: CancellationToken,
    places: Option<Places>,
    subject: Option<String>,
    /// How long the call keeps its place; `None` is until it ends.
    place: Option<Duration>,
    /// Whether it gives up its subject's place with it.
    own_too: bool,
}

type Permit = Option<OwnedSemaphorePermit>;

/// The places of a call that has ended, which it keeps until this is dropped.
#[must_use]
#[derive(Debug, Default)]
pub(crate) struct Held {
    _own: Permit,
    _in_lane: Permit,
}

impl Limits {
    /// Waits for a place of its subject, then for one in the lane, then for the call, all at most until its deadline; withdrawn, for
    /// none of them. The call is told how much is left of its time. Its places are given back with the outcome.
    pub(crate) async fn hold<T, F>(self, call: impl FnOnce(Option<Duration>) -> F) -> (Result<T, Failure>, Held)
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let Self { timeout, token, places, subject, place, own_too } = self;
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let bounded = async {
            let (own, permit) = enter(places, subject).await;
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let (own, given) = if own_too { (None, own) } else { (own, None) };
            let (outcome, (in_lane, given)) = keep(call(left), (permit, given), place).await;
            (outcome, Held { _own: own.or(given), _in_lane: in_lane })
        };
        let failed = |kind, why| (Err(Failure::new(kind, why)), Held::default());
        let bounded = async {
            match deadline {
                None => bounded.await,
                Some(deadline) => tokio::time::timeout_at(deadline, bounded)
                    .await
                    .unwrap_or_else(|_| failed(FailureKind::UnknownOutcome, "context deadline exceeded")),
            }
        };
        tokio::select! {
            biased;
            () = token.cancelled() => failed(FailureKind::Canceled, "context canceled"),
            outcome = bounded => outcome,
        }
    }
}

/// A place of the subject and one in the lane. A subject that waits for itself keeps no place in the lane meanwhile.
async fn enter(places: Option<Places>, subject: Option<String>) -> (Permit, Permit) {
    let Some(Places { all, each }) = places else { return (None, None) };
    let own = match (&each, &subject) {
        (Some(each), Some(subject)) => each.enter(subject).await,
        _ => None,
    };
    // A lane is never closed, so this only waits.
    (own, all.acquire_owned().await.ok())
}

/// Waits for the call, which gives up its places after that long.
async fn keep<T, P: Default>(call: impl Future<Output = T>, permit: P, place: Option<Duration>) -> (T, P) {
    let mut call = std::pin::pin!(call);
    if let Some(place) = place {
        if let Ok(outcome) = tokio::time::timeout(place, &mut call).await {
            return (outcome, permit);
        }
        drop(permit);
        return (call.await, P::default());
    }
    (call.await, permit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(120);

    fn lanes(images: usize, sandboxes: usize) -> Lanes {
        Lanes::new(&LaneLimits { images, sandboxes })
    }

    async fn hangs(_: Option<Duration>) -> Result<(), Failure> {
        futures::future::pending().await
    }

    async fn answers(_: Option<Duration>) -> Result<(), Failure> {
        Ok(())
    }

    fn limits(lanes: &Lanes, lane: Lane, subject: &str) -> Limits {
        lanes.limits(lane, Some(subject.to_owned()), Some(LIMIT), CancellationToken::new())
    }

    /// How long the next call has to wait for its place.
    async fn wait(lanes: &Lanes, lane: Lane, subject: &str) -> Duration {
        let began = Instant::now();
        limits(lanes, lane, subject).hold(answers).await.0.unwrap();
        began.elapsed()
    }

    // One hung call costs its own pod: the next in its lane waits for it five seconds, not two minutes.
    #[tokio::test(start_paused = true)]
    async fn call_that_hangs_gives_up_its_place() {
        let lanes = lanes(1, 1);
        let hangs = limits(&lanes, Lane::Sandboxes, "a").hold(hangs);
        let began = Instant::now();
        let hangs = tokio::spawn(async move { (hangs.await.0, began.elapsed()) });
        tokio::task::yield_now().await;
        assert_eq!(wait(&lanes, Lane::Sandboxes, "b").await, PLACE);
        let (outcome, took) = hangs.await.unwrap();
        assert_eq!(outcome.unwrap_err().kind, FailureKind::UnknownOutcome);
        assert_eq!(took, LIMIT, "its own deadline stands");
    }

    // Issue 10, S5, S6: two subjects of which everything hangs, as much as there can be, delay no third.
    #[tokio::test(start_paused = true)]
    async fn what_hangs_is_counted_against_its_subject() {
        for lane in [Lane::Probes, Lane::Host, Lane::Csi, Lane::ImageLooks, Lane::Objects, Lane::Pods] {
            let lanes = lanes(1, 1);
            for number in 0..1000 {
                tokio::spawn(limits(&lanes, lane, ["a", "b"][number % 2]).hold(hangs));
            }
            // Until nothing but time could let anything go on.
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert_eq!(wait(&lanes, lane, "c").await, Duration::ZERO, "{lane:?}");
        }
    }

    // Issue 10: kuberuntime_container.go (killContainersWithSyncResult: a goroutine each): all are told to stop, however long the first take.
    #[tokio::test(start_paused = true)]
    async fn containers_that_take_their_grace_keep_no_others_of_their_pod_from_being_stopped() {
        let lanes = lanes(1, 1);
        for _ in 0..of_each(Lane::Pods).unwrap() {
            tokio::spawn(limits(&lanes, Lane::Pods, "a").hold(hangs));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(wait(&lanes, Lane::Pods, "a").await, PLACE - Duration::from_secs(1));
    }

    // Issue 10, S5: the wait is a part of the time-out, and the call is told what is left of it.
    #[tokio::test(start_paused = true)]
    async fn time_spent_waiting_is_time_spent() {
        let lanes = lanes(1, 1);
        let places = of_each(Lane::Probes).unwrap();
        for _ in 0..places {
            tokio::spawn(limits(&lanes, Lane::Probes, "a").hold(hangs));
        }
        tokio::task::yield_now().await;
        tokio::time::advance(LIMIT / 2).await;
        let late = lanes.limits(Lane::Probes, Some("a".to_owned()), Some(LIMIT / 4), CancellationToken::new());
        let began = Instant::now();
        assert_eq!(late.hold(answers).await.0.unwrap_err().kind, FailureKind::UnknownOutcome);
        assert_eq!(began.elapsed(), LIMIT / 4);
        let told = limits(&lanes, Lane::Probes, "a").hold(|left| async move { Ok(left) }).await.0.unwrap();
        assert_eq!(told, Some(LIMIT - LIMIT / 4));
    }

    // POD-076: a pod that is deleted before its turn came does not wait for its turn.
    #[tokio::test(start_paused = true)]
    async fn withdrawn_call_does_not_wait_for_its_place() {
        let lanes = lanes(1, 1);
        tokio::spawn(limits(&lanes, Lane::Images, "a").hold(hangs));
        tokio::task::yield_now().await;
        let token = CancellationToken::new();
        token.cancel();
        let outcome = lanes.limits(Lane::Images, None, Some(LIMIT), token).hold(answers).await.0;
        assert_eq!(outcome.unwrap_err().kind, FailureKind::Canceled);
    }

    // POD-203: so many pulls run at once as may; the others wait, however long those take.
    #[tokio::test(start_paused = true)]
    async fn pulls_beyond_the_limit_wait() {
        for images in [1, 3] {
            let (lanes, begun) = (lanes(images, 4), Arc::new(std::sync::atomic::AtomicUsize::new(0)));
            for _ in 0..5 {
                let begun = Arc::clone(&begun);
                let pull = move |left| {
                    begun.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    hangs(left)
                };
                tokio::spawn(limits(&lanes, Lane::Images, "a").hold(pull));
            }
            tokio::time::advance(Duration::from_secs(60)).await;
            tokio::task::yield_now().await;
            assert_eq!(begun.load(std::sync::atomic::Ordering::Relaxed), images);
        }
    }

    // INV-11, INV-15: whatever else hangs, the lease is renewed.
    #[tokio::test(start_paused = true)]
    async fn lease_waits_for_nothing_else() {
        let lanes = lanes(1, 1);
        for lane in LANES.into_iter().filter(|lane| *lane != Lane::Lease) {
            for number in 0..300 {
                tokio::spawn(limits(&lanes, lane, &number.to_string()).hold(hangs));
            }
        }
        tokio::task::yield_now().await;
        assert_eq!(wait(&lanes, Lane::Lease, "node").await, Duration::ZERO);
    }
}
