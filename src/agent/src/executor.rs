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

use crate::env::{Env, EventSink};
use crate::termination_message::with_termination_messages;

/// How much of each kind of work runs at once.
#[derive(Clone, Debug)]
pub struct LaneLimits {
    /// Image pulls (POD-203).
    pub images: usize,
}

impl LaneLimits {
    fn of(&self, lane: Lane) -> usize {
        match lane {
            // Alone in their lanes: the part of the core that owns one has at most one call in flight.
            Lane::Lease | Lane::NodeStatus => 2,
            Lane::Runtime => 8,
            Lane::Observe => 16,
            Lane::Pods => 256,
            Lane::Host => 32,
            Lane::Images => self.images.max(1),
            Lane::PodStatus => 16,
            Lane::Objects => 32,
            Lane::Events => 4,
            Lane::Probes => 256,
            Lane::Housekeeping => 4,
        }
    }
}

const LANES: [Lane; 12] = [
    Lane::Lease,
    Lane::NodeStatus,
    Lane::Runtime,
    Lane::Observe,
    Lane::Pods,
    Lane::Host,
    Lane::Images,
    Lane::PodStatus,
    Lane::Objects,
    Lane::Events,
    Lane::Probes,
    Lane::Housekeeping,
];

/// Probes a container over the network; implemented beside the probe adapters.
pub type Prober = Arc<dyn Fn(ProbeCall, Duration) -> BoxFuture<'static, Result<ProbeOutcome, Failure>> + Send + Sync>;

/// Runs actions. Dropping it aborts everything that is in flight, and nothing else: `Drop` does no I/O.
pub struct Executor {
    env: Env,
    epoch: Instant,
    prober: Prober,
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
    pub fn new(env: Env, epoch: Instant, prober: Prober, sink: EventSink, limits: &LaneLimits) -> Self {
        let lanes = LANES.into_iter().map(|lane| (lane, Arc::new(Semaphore::new(limits.of(lane))))).collect();
        Self {
            env,
            epoch,
            prober,
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
        let lane = self.lanes.get(&lane).map(Arc::clone);
        let (env, prober, epoch) = (self.env.clone(), Arc::clone(&self.prober), self.epoch);
        self.calls.spawn(async move {
            let _permit = match lane {
                // A lane is never closed, so this only waits.
                Some(lane) => lane.acquire_owned().await.ok(),
                None => None,
            };
            let limits = Limits { timeout, token };
            match call {
                Call::Cri(call) => Event::CriDone { id, outcome: limits.hold(cri(&env, epoch, call)).await },
                Call::Api(call) => Event::ApiDone { id, outcome: limits.hold(env.api.call(call)).await },
                Call::Host(call) => Event::HostDone { id, outcome: limits.hold(env.host.call(call)).await },
                Call::Probe(call) => {
                    let timeout = timeout.unwrap_or(DEFAULT_PROBE_TIMEOUT);
                    Event::ProbeDone { id, outcome: limits.hold(prober(call, timeout)).await }
                }
                Call::Cancel(_) => unreachable!("cancels do not reach a lane"),
            }
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
        Event::CriDone { id, .. } | Event::ApiDone { id, .. } | Event::HostDone { id, .. } | Event::ProbeDone { id, .. } => {
            Some(*id)
        }
        _ => None,
    }
}

struct Limits {
    timeout: Option<Duration>,
    token: CancellationToken,
}

impl Limits {
    async fn hold<T>(self, call: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let bounded = async {
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
