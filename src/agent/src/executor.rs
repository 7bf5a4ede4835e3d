//! Turns each action into one call on a trait, within its lane and deadline, and its result into an event.
//! Upstream: the goroutines that pkg/kubelet starts for pod workers, status, lease, image pulls and events.
//! Differs: one place instead of many, with a bound on each kind of work; lease and node status never queue behind another.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use kubelet::action::{Action, ApiCall, Call, CriCall, FetchCall, Lane, ProbeCall};
use kubelet::event::{CriReply, Event, ProbeOutcome, WatchKey};
use kubelet::failure::{Failure, FailureKind};
use kubelet::ids::{ActionId, PodUid};
use kubelet::time::Mono;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::call_log::CallLog;
use crate::call_metrics::{CallMetrics, Counting};
use crate::containment::{contained, kept_up};
use crate::env::{Env, EventSink};
use crate::lanes::{Held, LaneLimits, Lanes};
use crate::plugins::Caller;
use crate::server::metrics::Registry;
use crate::termination_message::with_termination_messages;

/// Probes a container over the network, for whom it is counted against; implemented beside the probe adapters.
pub type Prober = Arc<ProbeFn>;

/// Asks the static pod URL.
pub type Fetcher = Arc<dyn Fn(FetchCall) -> BoxFuture<'static, Result<Vec<u8>, Failure>> + Send + Sync>;

/// Who makes the calls that go over sockets of their own.
#[derive(Clone)]
pub struct Callers {
    /// Probes.
    pub probes: Prober,
    /// Plugins.
    pub plugins: Caller,
    /// The static pod URL.
    pub fetches: Fetcher,
}

type ProbeFn = dyn Fn(ProbeCall, String, Duration) -> BoxFuture<'static, Result<ProbeOutcome, Failure>> + Send + Sync;

/// Runs actions. Dropping it aborts everything that is in flight, and nothing else: `Drop` does no I/O.
pub struct Executor {
    env: Env,
    epoch: Instant,
    callers: Callers,
    sink: EventSink,
    lanes: Lanes,
    metrics: CallMetrics,
    /// Each with its places, which are free again once the core has been told of its end: however much one pod has set going, of what
    /// has ended only as much waits for the core as may be in flight, and nobody else's end waits behind all of it.
    calls: JoinSet<(Event, Held)>,
    cancels: BTreeMap<ActionId, CancellationToken>,
    watches: BTreeMap<WatchKey, AbortHandle>,
    watch_tasks: JoinSet<()>,
}

impl Executor {
    /// An executor that acts on `env`, hands what watches deliver to `sink`, counts time from `epoch`, and calls in `metrics`.
    #[must_use]
    pub fn new(env: Env, epoch: Instant, callers: Callers, sink: EventSink, limits: &LaneLimits, metrics: Arc<Registry>) -> Self {
        let metrics = CallMetrics::new(metrics, Arc::clone(&env.clock));
        Self {
            env,
            epoch,
            callers,
            sink,
            lanes: Lanes::new(limits),
            metrics,
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
                    let (api, sink, of) = (Arc::clone(&self.env.api), self.sink.clone(), key.clone());
                    let task = async move { kept_up("watch", || api.watch(of.clone(), sink.clone())).await };
                    self.watches.insert(key, self.watch_tasks.spawn(task));
                }
            }
            Call::Api(ApiCall::Unwatch(key)) => {
                if let Some(handle) = self.watches.remove(&key) {
                    handle.abort();
                }
            }
            call => self.spawn(action.id, action.lane, (action.timeout, action.pod), call),
        }
    }

    fn spawn(&mut self, id: ActionId, lane: Lane, (timeout, pod): (Option<Duration>, Option<PodUid>), call: Call) {
        let token = CancellationToken::new();
        self.cancels.insert(id, token.clone());
        // A probe that runs out of time says so itself, in its own words.
        let limit = if matches!(call, Call::Probe(_)) { timeout.map(|timeout| timeout + PROBE_ANSWER) } else { timeout };
        let subject = call.subject(pod.as_ref());
        let limits = self.lanes.limits(lane, subject.clone(), limit, token);
        let (env, callers, epoch) = (self.env.clone(), self.callers.clone(), self.epoch);
        let counting = self.metrics.counting(&call);
        self.calls.spawn(async move {
            let log = CallLog::begin(&call);
            let counted = counting.as_ref();
            let (event, held) = match call {
                Call::Cri(call) => {
                    let (outcome, held) = limits.hold(|_| Counting::around(counted, contained(cri(&env, epoch, call)))).await;
                    (Event::CriDone { id, outcome }, held)
                }
                Call::Api(call) => {
                    let (outcome, held) =
                        limits.hold(|_| Counting::around(counted, contained(async { env.api.call(call).await }))).await;
                    (Event::ApiDone { id, outcome }, held)
                }
                Call::Host(call) => {
                    let (outcome, held) =
                        limits.hold(|_| Counting::around(counted, contained(async { env.host.call(call).await }))).await;
                    (Event::HostDone { id, outcome }, held)
                }
                Call::Csi(call) => {
                    let (outcome, held) =
                        limits.hold(|_| Counting::around(counted, contained(async { (callers.plugins)(call).await }))).await;
                    (Event::CsiDone { id, outcome }, held)
                }
                Call::Probe(call) => {
                    let whose = subject.unwrap_or_default();
                    let probe = |left| contained(async move { probe(callers.probes.as_ref(), (call, whose), left).await });
                    let (outcome, held) = limits.hold(probe).await;
                    (Event::ProbeDone { id, outcome }, held)
                }
                Call::Fetch(call) => {
                    let fetch = |_| contained(async move { (callers.fetches)(call).await });
                    let (outcome, held) = limits.hold(fetch).await;
                    (Event::FetchDone { id, outcome }, held)
                }
                Call::Cancel(_) => unreachable!("cancels do not reach a lane"),
            };
            if let Some(log) = log {
                log.end(&event);
            }
            if let Some(counting) = counting {
                counting.end(&event);
            }
            (event, held)
        });
    }

    /// The next completion. Pending while nothing is in flight.
    pub async fn next(&mut self) -> Event {
        loop {
            match self.calls.join_next().await {
                Some(Ok((event, _held))) => {
                    if let Some(id) = completed(&event) {
                        self.cancels.remove(&id);
                    }
                    return event;
                }
                // A call that panicked has failed (see `containment`); what is left is one that was aborted.
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
        | Event::CsiDone { id, .. }
        | Event::FetchDone { id, .. } => Some(*id),
        _ => None,
    }
}

/// How long a probe that has run out of time may take to say so.
const PROBE_ANSWER: Duration = Duration::from_secs(1);

/// Probes for as long as is left; one whose time went by while others of its pod had all places says nothing of the container.
async fn probe(prober: &ProbeFn, (call, whose): (ProbeCall, String), left: Option<Duration>) -> Result<ProbeOutcome, Failure> {
    let left = left.map_or(DEFAULT_PROBE_TIMEOUT, |left| left.saturating_sub(PROBE_ANSWER));
    if left.is_zero() {
        return Err(Failure::new(FailureKind::UnknownOutcome, "context deadline exceeded"));
    }
    prober(call, whose, left).await
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
