//! Drives a simulation tick by tick: what is done to the cluster is done between ticks, and looked at after each.
//! Upstream: none.
//! Differs: nothing on purpose.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kubelet::config::Config;
use kubelet::rng::Rng;
use model::api::ApiModel;
use model::api::controllers::storage;
use model::cluster::Cluster;
use model::faults::FaultPlan;
use model::host::HostModel;
use model::invariants::Witness;
use model::poison::Poisons;
use model::runtime::RuntimeModel;
use model::scenario::expect::View;
use model::world::EPOCH_SECONDS;
use tokio::sync::watch;
use turmoil::Sim;

use super::agent::live;
use super::record::Record;
use super::servers::{
    AGENT, API, DRIVERS, MANIFESTS, RUNTIME, api_server, cri_server, serve_api, serve_drivers, serve_manifests, serve_runtime,
};
use super::shared::{Shared, lock};
use crate::apiserver::{ApiServer, WatchFault};
use crate::cri::CriServer;
use crate::interposer;

/// How far time moves at once. Messages arrive at ticks; timers within them fire when they are due.
const TICK: Duration = Duration::from_millis(5);
/// After what time an agent that died by itself starts again.
const COMES_BACK: Duration = Duration::from_millis(500);
/// The longest that a message between the agent and the API server is under way.
const SLOWEST_MESSAGE: u64 = 14;
/// How many segments may be under way on one connection: more than any burst of a watch.
const SEGMENTS: usize = 4096;

/// What is going to happen by itself.
#[derive(Debug)]
enum Coming {
    /// The agent starts.
    Starts,
    /// Nothing is between the agent and the API server any more.
    LinkHeals,
}

/// What is between the agent and the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Between {
    /// Nothing.
    Free,
    /// What is sent is held back, and arrives later: an outage that TCP survives.
    Held,
    /// What is sent is lost; turmoil's TCP sends nothing again, so connections that were in use never recover.
    Lost,
}

/// A cluster of one node: the agent, the API server and the runtime, each on a host of its own. Lives on the thread that made it,
/// which must be armed (see [`interposer::arm`]).
pub struct SimCluster {
    sim: Sim<'static>,
    shared: Arc<Shared>,
    api: ApiServer,
    runtime: CriServer,
    api_back: watch::Sender<Duration>,
    /// The addresses of the agent and the API server: by their names they would be looked up at each tick.
    ends: (IpAddr, IpAddr),
    between: Between,
    between_until: Duration,
    coming: BTreeMap<(Duration, u64), Coming>,
    sequence: u64,
    back_after_death: Duration,
    weather: Rng,
    alive: bool,
    /// Whether it is dying of a planted panic.
    died: bool,
    failed: bool,
    /// Whether the drivers have a host.
    has_drivers: bool,
    /// The revision that the storage controllers have seen.
    storage_seen: u64,
}

impl SimCluster {
    /// A cluster whose agent starts at once.
    pub(super) fn new(config: Config, seed: u64, record: Arc<Mutex<Record>>) -> Self {
        let static_url = config.static_pods.url.is_some();
        let shared = Arc::new(Shared::new(config, seed, record));
        let (api, runtime) = (api_server(&shared), cri_server(&shared));
        let (api_back, back) = watch::channel(Duration::ZERO);
        let epoch = std::time::UNIX_EPOCH + Duration::from_secs(EPOCH_SECONDS.unsigned_abs());
        let mut sim = turmoil::Builder::new()
            .rng_seed(seed)
            .epoch(epoch)
            // Runs end by themselves.
            .simulation_duration(Duration::from_secs(u64::from(u32::MAX)))
            .tick_duration(TICK)
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(1))
            .tcp_capacity(SEGMENTS)
            .build();
        {
            let (shared, api) = (Arc::clone(&shared), api.clone());
            sim.host(API, move || serve_api(Arc::clone(&shared), api.clone(), back.clone()));
        }
        {
            let (shared, runtime) = (Arc::clone(&shared), runtime.clone());
            sim.host(RUNTIME, move || serve_runtime(Arc::clone(&shared), runtime.clone()));
        }
        {
            let shared = Arc::clone(&shared);
            sim.host(AGENT, move || live(Arc::clone(&shared)));
        }
        if static_url {
            let shared = Arc::clone(&shared);
            sim.host(MANIFESTS, move || serve_manifests(Arc::clone(&shared)));
        }
        let ends = (sim.lookup(AGENT), sim.lookup(API));
        Self {
            sim,
            ends,
            shared,
            api,
            runtime,
            api_back,
            between: Between::Free,
            between_until: Duration::ZERO,
            coming: BTreeMap::new(),
            sequence: 0,
            back_after_death: Duration::ZERO,
            weather: Rng::new(seed ^ 0x7765_6174),
            alive: true,
            died: false,
            failed: false,
            has_drivers: false,
            storage_seen: 0,
        }
    }

    fn schedule(&mut self, after: Duration, coming: Coming) {
        self.sequence += 1;
        self.coming.insert((self.elapsed() + after, self.sequence), coming);
    }

    /// The agent died by itself: it is started again.
    fn bury(&mut self) {
        if lock(&self.shared.poisons).take_death() {
            self.died = true;
            self.crash(Some(COMES_BACK));
        }
    }

    fn tick(&mut self) {
        while let Some(coming) = self.coming.first_entry().filter(|first| first.key().0 <= self.sim.elapsed()) {
            match coming.remove() {
                Coming::Starts => self.start(),
                Coming::LinkHeals if self.between_until <= self.elapsed() => self.free_link(),
                Coming::LinkHeals => {}
            }
        }
        // One latency for all messages of a tick. What turmoil draws for each message would depend on the order in which the
        // sockets of a killed agent close, and that on numbers that tasks have in the whole process.
        self.sim.set_link_latency(self.ends.0, self.ends.1, Duration::from_millis(1 + self.weather.below(SLOWEST_MESSAGE)));
        interposer::set_elapsed(self.sim.elapsed());
        if let Err(error) = self.sim.step() {
            self.failed = true;
            lock(&self.shared.witness).broken("invariant_the_agent_goes_on", error.to_string());
        }
        self.shared.has_elapsed(self.sim.elapsed());
        self.shared.look_at_facts();
        self.tend_storage();
        self.bury();
        if self.shared.must_die.swap(false, Ordering::Relaxed) {
            self.crash(Some(self.back_after_death));
        }
    }

    /// Lets the cluster's storage controllers act; nothing without a driver.
    fn tend_storage(&mut self) {
        if !self.has_drivers {
            return;
        }
        let seen = self.storage_seen;
        self.storage_seen = self.api.with(|api, now| {
            // As it was before: what a pass changed, it sees itself in the next.
            let revision = api.store.revision();
            if revision != seen {
                storage::pass(api, now);
            }
            revision
        });
    }

    fn start(&mut self) {
        if !std::mem::replace(&mut self.alive, true) {
            self.sim.bounce(AGENT);
        }
    }

    /// Puts something between the agent and the API server. The worse and the longer prevails.
    fn disturb_link(&mut self, between: Between, lasts: Duration) {
        self.between_until = self.between_until.max(self.elapsed() + lasts);
        self.schedule(lasts, Coming::LinkHeals);
        match (self.between, between) {
            (Between::Free, Between::Held) => self.sim.hold(AGENT, API),
            (Between::Free | Between::Held, Between::Lost) => self.sim.partition(AGENT, API),
            _ => return,
        }
        self.between = between;
    }

    fn free_link(&mut self) {
        match self.between {
            Between::Free => {}
            Between::Held => self.sim.release(AGENT, API),
            Between::Lost => self.sim.repair(AGENT, API),
        }
        self.between = Between::Free;
        self.between_until = Duration::ZERO;
    }
}

impl Cluster for SimCluster {
    fn elapsed(&self) -> Duration {
        self.sim.elapsed()
    }

    fn look<T>(&self, look: impl FnOnce(View<'_>) -> T) -> T {
        self.shared.look(look)
    }

    fn with_api<T>(&mut self, deed: impl FnOnce(&mut ApiModel, Timestamp) -> T) -> T {
        self.api.with(deed)
    }

    fn with_runtime<T>(&mut self, deed: impl FnOnce(&mut RuntimeModel, Timestamp) -> T) -> T {
        let now = self.shared.now();
        let done = {
            let mut runtime = lock(&self.shared.runtime);
            runtime.advance(now);
            deed(&mut runtime, now)
        };
        self.runtime.nudge();
        done
    }

    fn with_host<T>(&mut self, deed: impl FnOnce(&mut HostModel) -> T) -> T {
        let done = deed(&mut lock(&self.shared.host));
        let has_drivers = !lock(&self.shared.host).csi.is_empty();
        if has_drivers && !std::mem::replace(&mut self.has_drivers, true) {
            let shared = Arc::clone(&self.shared);
            self.sim.host(DRIVERS, move || serve_drivers(Arc::clone(&shared)));
        }
        self.shared.drivers_changed.send_modify(|n| *n += 1);
        done
    }

    fn with_faults<T>(&mut self, deed: impl FnOnce(&mut FaultPlan) -> T) -> T {
        deed(&mut lock(&self.shared.faults))
    }

    fn with_poisons<T>(&mut self, deed: impl FnOnce(&mut Poisons) -> T) -> T {
        deed(&mut lock(&self.shared.poisons))
    }

    fn with_witness<T>(&mut self, deed: impl FnOnce(&mut Witness) -> T) -> T {
        deed(&mut lock(&self.shared.witness))
    }

    fn lose_hints(&mut self, one_in: u64) {
        self.shared.hints_lost.store(one_in, Ordering::Relaxed);
    }

    fn run_while(&mut self, until: Duration, goes_on: impl Fn(View<'_>) -> bool) -> bool {
        loop {
            if self.failed || !self.look(&goes_on) {
                return true;
            }
            if self.elapsed() >= until {
                return false;
            }
            self.tick();
        }
    }

    fn handled(&self) -> u64 {
        self.shared.handled.load(Ordering::Relaxed)
    }

    fn is_alive(&self) -> bool {
        self.alive
    }

    fn crash(&mut self, back_after: Option<Duration>) {
        self.shared.dies_at.store(0, Ordering::Relaxed);
        if std::mem::take(&mut self.alive) {
            self.note("agent killed");
            if !std::mem::take(&mut self.died) {
                lock(&self.shared.poisons).ended_well();
            }
            self.sim.crash(AGENT);
            lock(&self.shared.witness).agent_died();
        }
        if let Some(after) = back_after {
            self.schedule(after, Coming::Starts);
        }
    }

    fn crash_after(&mut self, events: u64, back_after: Duration) {
        self.back_after_death = back_after;
        let dies_at = self.shared.handled.load(Ordering::Relaxed) + events.max(1);
        self.shared.dies_at.store(dies_at, Ordering::Relaxed);
    }

    fn jump_clock(&mut self, by: SignedDuration) {
        self.shared.jump(by);
        self.with_witness(Witness::clock_jumped);
    }

    fn restart_api(&mut self, away: Duration) {
        let back = self.elapsed() + away;
        self.api_back.send_modify(|at| *at = back.max(*at));
    }

    fn silence_api(&mut self, silent: Duration) {
        self.disturb_link(Between::Held, silent);
    }

    fn forget_api(&mut self, lost: Duration) {
        self.disturb_link(Between::Lost, lost);
    }

    fn compact_api(&mut self) {
        self.api.with(|api, _| api.store.compact());
        self.api.break_watches(WatchFault::Expired, Arc::new(|_, _| true));
    }

    fn restart_runtime(&mut self, away: Duration, containers_die: bool) {
        let back = self.elapsed() + away;
        self.shared.runtime_back.fetch_max(u64::try_from(back.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.with_runtime(|runtime, now| runtime.restart(now, containers_die));
        // Its connections break, and what it was about to do is not done.
        self.sim.crash(RUNTIME);
        self.sim.bounce(RUNTIME);
    }

    fn heal_links(&mut self) {
        self.free_link();
    }

    fn note(&mut self, text: &str) {
        lock(&self.shared.record).note(self.elapsed(), text);
    }
}
