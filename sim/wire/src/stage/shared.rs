//! What the hosts of a simulation and its driver share: the models, the faults, the clocks, and who watches.
//! Upstream: none.
//! Differs: one thread runs them all, so a lock is never waited for.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kubelet::action::{Action, ApiCall, Call, CriCall};
use kubelet::config::Config;
use kubelet::csi::{CsiCall, CsiReply};
use kubelet::event::Event;
use kubelet::failure::{Failure, FailureKind};
use kubelet::rng::Rng;
use kubelet::time::Now;
use model::api::ApiModel;
use model::csi::Hold;
use model::faults::{Fate, FaultPlan, Side};
use model::host::HostModel;
use model::invariants::{Scene, Witness};
use model::poison::Poisons;
use model::runtime::RuntimeModel;
use model::scenario::expect::View;
use model::scenario::run::NODE;
use model::world::EPOCH_SECONDS;
use tokio::sync::watch;

use super::record::Record;

/// Locks what only one thread uses; a panic elsewhere must not hide behind a poisoned lock.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// See the module.
pub(super) struct Shared {
    pub(super) config: Arc<Config>,
    pub(super) api: Arc<Mutex<ApiModel>>,
    pub(super) runtime: Arc<Mutex<RuntimeModel>>,
    pub(super) host: Mutex<HostModel>,
    pub(super) faults: Mutex<FaultPlan>,
    pub(super) poisons: Mutex<Poisons>,
    pub(super) witness: Mutex<Witness>,
    pub(super) record: Arc<Mutex<Record>>,
    /// Counts what was done to the drivers from outside.
    pub(super) drivers_changed: watch::Sender<u64>,
    /// What faults and hints are drawn from.
    pub(super) rng: Mutex<Rng>,
    pub(super) hints_lost: AtomicU64,
    pub(super) in_flight: AtomicUsize,
    pub(super) lives: AtomicU32,
    /// How many events the agent has handled, in all its lives.
    pub(super) handled: AtomicU64,
    /// The agent is to be killed when it has handled so many; none if 0.
    pub(super) dies_at: AtomicU64,
    /// It has.
    pub(super) must_die: AtomicBool,
    /// Until when the runtime does not listen, in nanoseconds since the run began.
    pub(super) runtime_back: AtomicU64,
    /// How long the run has lasted, for the driver: hosts have clocks of their own, which move within a tick.
    elapsed: AtomicU64,
    wall_offset: Mutex<SignedDuration>,
}

impl Shared {
    pub(super) fn new(config: Config, seed: u64, record: Arc<Mutex<Record>>) -> Self {
        let mut rng = Rng::new(seed);
        let start = Timestamp::from_second(EPOCH_SECONDS).unwrap_or_default();
        Self {
            config: Arc::new(config),
            api: Arc::new(Mutex::new(ApiModel::new(start, rng.next_u64()))),
            runtime: Arc::default(),
            host: Mutex::default(),
            faults: Mutex::default(),
            poisons: Mutex::default(),
            witness: Mutex::default(),
            record,
            drivers_changed: watch::Sender::new(0),
            rng: Mutex::new(rng),
            hints_lost: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            lives: AtomicU32::new(0),
            handled: AtomicU64::new(0),
            dies_at: AtomicU64::new(0),
            must_die: AtomicBool::new(false),
            runtime_back: AtomicU64::new(0),
            elapsed: AtomicU64::new(0),
            wall_offset: Mutex::new(SignedDuration::ZERO),
        }
    }

    /// How long the run has lasted.
    pub(super) fn elapsed(&self) -> Duration {
        turmoil::sim_elapsed().unwrap_or(Duration::from_nanos(self.elapsed.load(Ordering::Relaxed)))
    }

    /// Moves the driver's clock.
    pub(super) fn has_elapsed(&self, elapsed: Duration) {
        self.elapsed.store(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The time of day that no jump touches: the API server's and the runtime's.
    pub(super) fn now(&self) -> Timestamp {
        let start = Timestamp::from_second(EPOCH_SECONDS).unwrap_or_default();
        start.saturating_add(SignedDuration::try_from(self.elapsed()).unwrap_or(SignedDuration::MAX)).unwrap_or(start)
    }

    /// The node's time of day.
    pub(super) fn node_time(&self) -> Timestamp {
        self.now().saturating_add(*lock(&self.wall_offset)).unwrap_or_default()
    }

    pub(super) fn jump(&self, by: SignedDuration) {
        let mut offset = lock(&self.wall_offset);
        *offset = offset.checked_add(by).unwrap_or(*offset);
    }

    /// A call of that name has reached the other side: what becomes of it.
    pub(super) fn arrives(&self, side: Side, call: &'static str) -> Fate {
        lock(&self.witness).arrived(call);
        lock(&self.faults).fate(side, call, &mut lock(&self.rng))
    }

    /// Whether the next hint of the runtime gets lost.
    pub(super) fn hint_is_lost(&self) -> bool {
        let one_in = self.hints_lost.load(Ordering::Relaxed);
        one_in > 0 && lock(&self.rng).below(one_in) == 0
    }

    /// A new life of the agent begins: its seed.
    pub(super) fn begins_life(&self) -> u64 {
        self.lives.fetch_add(1, Ordering::Relaxed);
        self.in_flight.store(0, Ordering::Relaxed);
        lock(&self.record).note(self.elapsed(), "agent started");
        lock(&self.rng).next_u64()
    }

    /// Looks at all of it.
    pub(super) fn look<T>(&self, look: impl FnOnce(View<'_>) -> T) -> T {
        let (api, runtime, host, witness) = (lock(&self.api), lock(&self.runtime), lock(&self.host), lock(&self.witness));
        let lives = self.lives.load(Ordering::Relaxed);
        look(View { api: &api, runtime: &runtime, host: &host, witness: &witness, lives, node: NODE })
    }

    /// Shows the witness this moment.
    pub(super) fn witnessed(&self, tell: impl FnOnce(&mut Witness, Scene<'_>)) {
        let (api, runtime) = (lock(&self.api), lock(&self.runtime));
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        let scene = Scene { api: &api, runtime: &runtime, elapsed: self.elapsed(), in_flight };
        tell(&mut lock(&self.witness), scene);
    }

    /// The runtime is about to do what the agent asked for.
    pub(super) fn runtime_called(&self, call: &CriCall) {
        self.witnessed(|witness, scene| witness.runtime_called(scene, call));
    }

    /// A driver is about to do what the agent asked for, and does it.
    pub(super) fn driver_called(&self, call: &CsiCall, hold: Option<Hold>) -> Result<CsiReply, Failure> {
        let mut host = lock(&self.host);
        if let Some(hold) = hold {
            host.csi.release(hold);
        }
        self.witnessed(|witness, scene| witness.volume_called(scene, &host.csi, call));
        host.csi.call(call)
    }

    /// Shows the witness what has happened since it last looked.
    pub(super) fn look_at_facts(&self) {
        let facts = {
            let mut runtime = lock(&self.runtime);
            runtime.advance(self.now());
            let facts = std::mem::take(&mut runtime.facts);
            runtime.facts_seen += facts.len() as u64;
            facts
        };
        self.witnessed(|witness, scene| witness.look(scene, &facts));
    }

    /// The agent handled an event.
    pub(super) fn decided(&self, _: Now, event: &Event, actions: &[Action]) {
        let at = self.elapsed();
        lock(&self.record).decided(at, event, actions);
        if let Some(failure) = forbidden(event) {
            self.witnessed(|witness, scene| witness.invariant_nothing_is_asked_that_is_forbidden(scene, failure.message.clone()));
        }
        if ends_action(event) {
            // One that was under way when its life ended is not among this life's.
            let _ended = self.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        }
        for action in actions {
            if !matches!(action.call, Call::Cancel(_) | Call::Api(ApiCall::Watch(_) | ApiCall::Unwatch(_))) {
                self.in_flight.fetch_add(1, Ordering::Relaxed);
                let mut witness = lock(&self.witness);
                witness.sent(at, &action.call);
                if let Call::Probe(_) = &action.call {
                    witness.arrived(action.call.name());
                }
            }
        }
        let handled = self.handled.fetch_add(1, Ordering::Relaxed) + 1;
        let dies_at = self.dies_at.load(Ordering::Relaxed);
        if dies_at > 0 && handled >= dies_at {
            self.must_die.store(true, Ordering::Relaxed);
        }
    }
}

fn ends_action(event: &Event) -> bool {
    matches!(
        event,
        Event::CriDone { .. }
            | Event::ApiDone { .. }
            | Event::HostDone { .. }
            | Event::ProbeDone { .. }
            | Event::CsiDone { .. }
            | Event::FetchDone { .. }
    )
}

fn forbidden(event: &Event) -> Option<&Failure> {
    let failure = match event {
        Event::ApiDone { outcome: Err(failure), .. } | Event::WatchFailed { failure, .. } => failure,
        _ => return None,
    };
    (failure.kind == FailureKind::Forbidden).then_some(failure)
}
