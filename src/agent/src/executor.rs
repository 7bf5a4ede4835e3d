//! Turns each action into one call on a trait, within its lane and deadline, and its result into an event.
//! Upstream: the goroutines that pkg/kubelet starts for pod workers, status, lease, image pulls and events.
//! Differs: one place instead of many, with a bound on each kind of work; lease and node status never queue behind another.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use kubelet::action::{Action, ApiCall, Call, CriCall, Lane, ProbeCall};
use kubelet::event::{CriReply, Event, ProbeOutcome, WatchKey};
use kubelet::failure::{Failure, FailureKind};
use kubelet::ids::ActionId;
use kubelet::time::Mono;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::call_log::CallLog;
use crate::env::{Env, EventSink};
use crate::plugins::Caller;
use crate::termination_message::with_termination_messages;

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
            Lane::Objects => 32,
            Lane::Events => 4,
            Lane::Probes => 256,
            Lane::Csi => 32,
            Lane::Housekeeping => 4,
        }
    }
}

/// How long a call of the runtime or of a driver keeps its place in its lane: one that hangs must not keep others out.
const PLACE: Duration = Duration::from_secs(5);

fn gives_up_its_place(lane: Lane) -> bool {
    matches!(lane, Lane::Runtime | Lane::Observe | Lane::Sandboxes | Lane::Pods | Lane::Csi)
}

const LANES: [Lane; 14] = [
    Lane::Lease,
    Lane::NodeStatus,
    Lane::Runtime,
    Lane::Observe,
    Lane::Sandboxes,
    Lane::Pods,
    Lane::Host,
    Lane::Images,
    Lane::PodStatus,
    Lane::Objects,
    Lane::Events,
    Lane::Probes,
    Lane::Csi,
    Lane::Housekeeping,
];

/// Probes a container over the network; implemented beside the probe adapters.
pub type Prober = Arc<dyn Fn(ProbeCall, Duration) -> BoxFuture<'static, Result<ProbeOutcome, Failure>> + Send + Sync>;

/// Runs actions. Dropping it aborts everything that is in flight, and nothing else: `Drop` does no I/O.
pub struct Executor {
    env: Env,
    epoch: Instant,
    prober: Prober,
    plugins: Caller,
    sink: EventSink,
    lanes: BTreeMap<Lane, Arc<Semaphore>>,
    calls: JoinSet<Event>,
    cancels: BTreeMap<ActionId, CancellationToken>,
    watches: BTreeMap<WatchKey, AbortHandle>,
    watch_tasks: JoinSet<()>,
}

impl Executor {
    /// An executor that acts on `env`, hands what watches deliver to `sink`, and counts time from `epoch`.
    #[must_use]
    pub fn new(env: Env, epoch: Instant, (prober, plugins): (Prober, Caller), sink: EventSink, limits: &LaneLimits) -> Self {
        let lanes = LANES.into_iter().map(|lane| (lane, Arc::new(Semaphore::new(limits.of(lane))))).collect();
        Self {
            env,
            epoch,
            prober,
            plugins,
            sink,
            lanes,
            calls: JoinSet::new(),
            cancels: BTreeMap::new(),
            watches: BTreeMap::new(),
            watch_tasks: JoinSet::new(),
        }
    }

    /// Begins an action.
    pub fn start(&mut self, action: Action) {
        match action.call {
            Call::Cancel(id) => {
                if let Some(token) = self.cancels.get(&id) {
                    token.cancel();
                }
            }
            Call::Api(ApiCall::Watch(key)) => {
                if !self.watches.contains_key(&key) {
                    let task = self.env.api.watch(key.clone(), self.sink.clone());
                    self.watches.insert(key, self.watch_tasks.spawn(task));
                }
            }
            Call::Api(ApiCall::Unwatch(key)) => {
                if let Some(handle) = self.watches.remove(&key) {
                    handle.abort();
                }
            }
            call => self.spawn(action.id, action.lane, action.timeout, call),
        }
    }

    fn spawn(&mut self, id: ActionId, lane: Lane, timeout: Option<Duration>, call: Call) {
        let token = CancellationToken::new();
        self.cancels.insert(id, token.clone());
        let place = gives_up_its_place(lane).then_some(PLACE);
        let lane = self.lanes.get(&lane).map(Arc::clone);
        let (env, prober, plugins, epoch) = (self.env.clone(), Arc::clone(&self.prober), Arc::clone(&self.plugins), self.epoch);
        self.calls.spawn(async move {
            let limits = Limits { timeout, token, lane, place };
            let log = CallLog::begin(&call);
            let event = match call {
                Call::Cri(call) => Event::CriDone { id, outcome: limits.hold(cri(&env, epoch, call)).await },
                Call::Api(call) => Event::ApiDone { id, outcome: limits.hold(env.api.call(call)).await },
                Call::Host(call) => Event::HostDone { id, outcome: limits.hold(env.host.call(call)).await },
                Call::Csi(call) => Event::CsiDone { id, outcome: limits.hold(plugins(call)).await },
                Call::Probe(call) => {
                    let timeout = timeout.unwrap_or(DEFAULT_PROBE_TIMEOUT);
                    Event::ProbeDone { id, outcome: limits.hold(prober(call, timeout)).await }
                }
                Call::Cancel(_) => unreachable!("cancels do not reach a lane"),
            };
            if let Some(log) = log {
                log.end(&event);
            }
            event
        });
    }

    /// The next completion. Pending while nothing is in flight.
    pub async fn next(&mut self) -> Event {
        loop {
            match self.calls.join_next().await {
                Some(Ok(event)) => {
                    if let Some(id) = completed(&event) {
                        self.cancels.remove(&id);
                    }
                    return event;
                }
                Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Some(Err(_)) => {}
                None => futures::future::pending().await,
            }
        }
    }

    /// A completion that is there already, if one is.
    pub fn try_next(&mut self) -> Option<Event> {
        let event = self.next().now_or_never()?;
        Some(event)
    }
}

/// How long a network probe may take if its action does not say (POD-240).
const DEFAULT_PROBE_TIMEOUT: Duration = Duration::from_secs(1);

fn completed(event: &Event) -> Option<ActionId> {
    match event {
        Event::CriDone { id, .. }
        | Event::ApiDone { id, .. }
        | Event::HostDone { id, .. }
        | Event::ProbeDone { id, .. }
        | Event::CsiDone { id, .. } => Some(*id),
        _ => None,
    }
}

struct Limits {
    timeout: Option<Duration>,
    token: CancellationToken,
    lane: Option<Arc<Semaphore>>,
    /// How long the call keeps its place; `None` is until it ends.
    place: Option<Duration>,
}

impl Limits {
    /// Waits for a place in the lane, then for the call, at most until its deadline; withdrawn, for neither.
    async fn hold<T>(self, call: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let bounded = async {
            let permit = match self.lane {
                // A lane is never closed, so this only waits.
                Some(lane) => lane.acquire_owned().await.ok(),
                None => None,
            };
            let call = async {
                let mut call = std::pin::pin!(call);
                if let Some(place) = self.place {
                    if let Ok(outcome) = tokio::time::timeout(place, &mut call).await {
                        return outcome;
                    }
                    drop(permit);
                    return call.await;
                }
                let outcome = call.await;
                drop(permit);
                outcome
            };
            match self.timeout {
                None => call.await,
                Some(limit) => tokio::time::timeout(limit, call)
                    .await
                    .unwrap_or_else(|_| Err(Failure::new(FailureKind::UnknownOutcome, "context deadline exceeded"))),
            }
        };
        tokio::select! {
            biased;
            () = self.token.cancelled() => Err(Failure::new(FailureKind::Canceled, "context canceled")),
            outcome = bounded => outcome,
        }
    }
}

/// What a look finds carries when it began: only the executor knows both the moment and the core's epoch.
async fn cri(env: &Env, epoch: Instant, call: CriCall) -> Result<CriReply, Failure> {
    let began = Mono::from_start(Instant::now().duration_since(epoch));
    match env.runtime.call(call).await? {
        CriReply::Observation(observation) => {
            let mut observation = with_termination_messages(env.host.as_ref(), observation).await;
            Arc::make_mut(&mut observation).began = began;
            Ok(CriReply::Observation(observation))
        }
        CriReply::Listing { listing, .. } => Ok(CriReply::Listing { began, listing }),
        reply => Ok(reply),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(lane: &Arc<Semaphore>, place: Option<Duration>, token: &CancellationToken) -> Limits {
        Limits { timeout: Some(Duration::from_secs(120)), token: token.clone(), lane: Some(Arc::clone(lane)), place }
    }

    // One hung call costs its own pod: the next in its lane waits for it five seconds, not two minutes.
    #[tokio::test(start_paused = true)]
    async fn call_that_hangs_gives_up_its_place() {
        let lane = Arc::new(Semaphore::new(1));
        let token = CancellationToken::new();
        let hangs = limits(&lane, Some(PLACE), &token).hold(futures::future::pending::<Result<(), Failure>>());
        let began = Instant::now();
        let hangs = tokio::spawn(async move { (hangs.await, began.elapsed()) });
        tokio::task::yield_now().await;
        limits(&lane, Some(PLACE), &token).hold(async { Ok(()) }).await.unwrap();
        assert_eq!(began.elapsed(), PLACE);
        let (outcome, took) = hangs.await.unwrap();
        assert_eq!(outcome.unwrap_err().kind, FailureKind::UnknownOutcome);
        assert_eq!(took, Duration::from_secs(120), "its own deadline stands");
    }

    // POD-076: a pod that is deleted before its turn came does not wait for its turn.
    #[tokio::test(start_paused = true)]
    async fn withdrawn_call_does_not_wait_for_its_place() {
        let lane = Arc::new(Semaphore::new(0));
        let token = CancellationToken::new();
        token.cancel();
        let outcome = limits(&lane, None, &token).hold(async { Ok(()) }).await;
        assert_eq!(outcome.unwrap_err().kind, FailureKind::Canceled);
    }

    // POD-203: so many pulls run at once as may; the others wait, however long those take.
    #[tokio::test(start_paused = true)]
    async fn pulls_beyond_the_limit_wait() {
        for images in [1, 3] {
            let lane = Arc::new(Semaphore::new(LaneLimits { images, sandboxes: 4 }.of(Lane::Images)));
            let (token, begun) = (CancellationToken::new(), Arc::new(std::sync::atomic::AtomicUsize::new(0)));
            let place = gives_up_its_place(Lane::Images).then_some(PLACE);
            for _ in 0..5 {
                let begun = Arc::clone(&begun);
                let pull = async move {
                    begun.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    futures::future::pending::<Result<(), Failure>>().await
                };
                tokio::spawn(limits(&lane, place, &token).hold(pull));
            }
            tokio::time::advance(Duration::from_secs(60)).await;
            tokio::task::yield_now().await;
            assert_eq!(begun.load(std::sync::atomic::Ordering::Relaxed), images);
        }
    }

    // INV-15: whatever else hangs, the lease is renewed.
    #[tokio::test(start_paused = true)]
    async fn lease_waits_for_nothing_else() {
        let limits_of = LaneLimits { images: 1, sandboxes: 1 };
        let lanes: BTreeMap<Lane, Arc<Semaphore>> =
            LANES.into_iter().map(|lane| (lane, Arc::new(Semaphore::new(limits_of.of(lane))))).collect();
        let token = CancellationToken::new();
        for lane in LANES.into_iter().filter(|lane| *lane != Lane::Lease) {
            for _ in 0..300 {
                let hangs = futures::future::pending::<Result<(), Failure>>();
                tokio::spawn(limits(&lanes[&lane], None, &token).hold(hangs));
            }
        }
        tokio::task::yield_now().await;
        let began = Instant::now();
        limits(&lanes[&Lane::Lease], None, &token).hold(async { Ok(()) }).await.unwrap();
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
