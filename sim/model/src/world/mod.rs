//! Stage `model`: the core against the pretend API server, runtime and machine, in pretend time that jumps from event to event.
//! Upstream: none.
//! Differs: no wire and no task: a run is a function of its seed.

mod cluster;
mod links;
pub mod planted;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kubelet::action::{Action, ApiCall, Call, CriCall};
use kubelet::config::Config;
use kubelet::csi::PluginSocket;
use kubelet::event::{Event, WatchKey};
use kubelet::failure::{Failure, FailureKind};
use kubelet::ids::ActionId;
use kubelet::kubelet::Kubelet;
use kubelet::rng::Rng;
use kubelet::time::{Mono, Now};

pub use self::links::Link;
use self::planted::Planted;
use crate::api::ApiModel;
use crate::api::authorize::Identity;
use crate::api::watch::CoreWatch;
use crate::csi::Hold;
use crate::faults::{Fate, FaultPlan};
use crate::host::HostModel;
use crate::invariants::{Scene, Witness};
use crate::poison::Poisons;
use crate::runtime::RuntimeModel;

/// 2026-01-01T00:00:00Z: when every run begins.
pub const EPOCH_SECONDS: i64 = 1_767_225_600;

/// How many steps may be taken within one moment.
const MOST_STEPS_AT_ONCE: u32 = 100_000;
/// After what time an agent that died by itself starts again.
const COMES_BACK: Duration = Duration::from_millis(500);

/// One thing that is going to happen.
#[derive(Debug)]
enum Coming {
    /// A call reaches the other side. `reply` is when its answer is back, if it comes at all.
    Effect { life: u32, began: Mono, action: Box<Action>, answers: bool, rest: Duration },
    /// Something reaches the agent, unless that life of it is over.
    Arrives { life: u32, event: Box<Event> },
    /// A watch delivers what it has.
    Delivers { life: u32, key: WatchKey },
    /// A watch is opened (again).
    Opens { life: u32, key: WatchKey },
    /// The runtime's event stream is opened (again).
    OpensEvents { life: u32 },
    /// The agent starts.
    Starts,
    /// The API server is reachable again.
    ApiBack,
    /// The runtime is reachable again.
    RuntimeBack,
}

/// One life of the agent.
struct Life {
    number: u32,
    kubelet: Kubelet,
    /// How many planted panics it has been given, and how many had struck before it.
    poisons: (usize, u64),
    began: Duration,
    in_flight: BTreeMap<ActionId, Fails>,
    watches: BTreeMap<WatchKey, Option<CoreWatch>>,
    delivering: BTreeSet<WatchKey>,
    events_open: bool,
    /// The plugins' sockets that it was told of.
    sockets: Vec<PluginSocket>,
    /// How many changes of manifests it was told of.
    manifest_changes: u64,
}

/// What a run saw of one handled event, for digests and timelines.
#[derive(Clone, Debug)]
pub struct Line {
    /// When, since the run began.
    pub at: Duration,
    /// What.
    pub text: String,
}

/// A cluster of one node in pretend time.
pub struct World {
    /// The API server.
    pub api: ApiModel,
    /// The runtime.
    pub runtime: RuntimeModel,
    /// The machine.
    pub host: HostModel,
    /// The faults.
    pub faults: FaultPlan,
    /// The planted panics.
    pub poisons: Poisons,
    /// What watches over the run.
    pub witness: Witness,
    /// How the API server is reached.
    pub api_link: Link,
    /// How the runtime is reached.
    pub runtime_link: Link,
    /// Whether hints of the runtime get lost, one in that many; 0 is never.
    pub hints_lost: u64,
    /// The line of what happened, if it is kept.
    pub lines: Option<Vec<Line>>,
    /// A fault of the core, to see that it is found.
    pub planted: Option<Planted>,
    config: Arc<Config>,
    identity: Identity,
    elapsed: Duration,
    wall_offset: SignedDuration,
    coming: BTreeMap<(Duration, u64), Coming>,
    sequence: u64,
    rng: Rng,
    life: Option<Life>,
    lives: u32,
    handled: u64,
    crash_after: Option<(u64, Duration)>,
    digest: Option<u64>,
    stood_still: u32,
    /// The revision that the storage controllers have seen.
    storage_seen: u64,
    /// Calls of drivers that go on after they were given up.
    holds: BTreeMap<(u32, ActionId), Hold>,
}

impl World {
    /// A cluster whose agent starts at once.
    #[must_use]
    pub fn new(config: Config, seed: u64) -> Self {
        let identity = Identity::node(&config.node.name);
        let mut rng = Rng::new(seed);
        let start = Timestamp::from_second(EPOCH_SECONDS).unwrap_or_default();
        let mut world = Self {
            api: ApiModel::new(start, rng.next_u64()),
            runtime: RuntimeModel::default(),
            host: HostModel::new(),
            faults: FaultPlan::default(),
            poisons: Poisons::default(),
            witness: Witness::default(),
            api_link: Link::Up,
            runtime_link: Link::Up,
            hints_lost: 0,
            lines: None,
            planted: None,
            config: Arc::new(config),
            identity,
            elapsed: Duration::ZERO,
            wall_offset: SignedDuration::ZERO,
            coming: BTreeMap::new(),
            sequence: 0,
            rng,
            life: None,
            lives: 0,
            handled: 0,
            crash_after: None,
            digest: None,
            stood_still: 0,
            storage_seen: 0,
            holds: BTreeMap::new(),
        };
        world.schedule(Duration::ZERO, Coming::Starts);
        world
    }

    /// How long the run has lasted.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// The time that no clock jump touches: the API server's and the runtime's.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let start = Timestamp::from_second(EPOCH_SECONDS).unwrap_or_default();
        start.saturating_add(SignedDuration::try_from(self.elapsed).unwrap_or(SignedDuration::MAX)).unwrap_or(start)
    }

    /// The node's settings.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How many events the agent has handled, in all its lives.
    #[must_use]
    pub fn handled(&self) -> u64 {
        self.handled
    }

    /// Whether the agent lives.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.life.is_some()
    }

    /// How many lives the agent has had.
    #[must_use]
    pub fn lives(&self) -> u32 {
        self.lives
    }

    /// How many actions of the agent are under way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.life.as_ref().map_or(0, |life| life.in_flight.len())
    }

    /// What can be seen of it now.
    #[must_use]
    pub fn scene(&self) -> Scene<'_> {
        Scene { api: &self.api, runtime: &self.runtime, elapsed: self.elapsed, in_flight: self.in_flight() }
    }

    /// The agent's core, while it lives.
    #[must_use]
    pub fn kubelet(&self) -> Option<&Kubelet> {
        self.life.as_ref().map(|life| &life.kubelet)
    }

    /// Keeps a digest of all that is decided from now on.
    pub fn keep_digest(&mut self) {
        self.digest = Some(0xcbf2_9ce4_8422_2325);
    }

    /// The digest of all that was decided since.
    #[must_use]
    pub fn digest(&self) -> Option<u64> {
        self.digest
    }

    /// The agent is killed once it has handled that many events, and started again later.
    pub fn crash_after(&mut self, events: u64, back_after: Duration) {
        self.crash_after = Some((events, back_after));
    }

    /// Kills the agent: what it had sent is on its way, and nobody waits for the answers. It starts again later, if told.
    pub fn crash(&mut self, back_after: Option<Duration>) {
        if self.life.take().is_some() {
            self.witness.agent_died();
            self.poisons.ended_well();
            self.note("agent killed");
        }
        if let Some(after) = back_after {
            self.schedule(after, Coming::Starts);
        }
    }

    /// The node's wall clock jumps.
    pub fn jump_clock(&mut self, by: SignedDuration) {
        self.wall_offset = self.wall_offset.checked_add(by).unwrap_or(self.wall_offset);
        self.witness.clock_jumped();
    }

    /// Every watch loses its place, as after a compaction: it delivers the complete list again.
    pub fn watches_lose_their_place(&mut self) {
        let Some(life) = &mut self.life else { return };
        let keys: Vec<WatchKey> = life.watches.keys().cloned().collect();
        let number = life.number;
        for key in keys {
            self.schedule(Duration::from_millis(5), Coming::Opens { life: number, key });
        }
    }

    /// The API server restarts: it is away for a while, and its watches begin anew.
    pub fn restart_api(&mut self, away: Duration) {
        self.api_link = Link::Refuses;
        self.schedule(away, Coming::ApiBack);
    }

    /// Nothing comes through between the agent and the API server for a while; then the watches begin anew.
    pub fn silence_api(&mut self, silent: Duration) {
        self.api_link = Link::Silent;
        self.schedule(silent, Coming::ApiBack);
    }

    /// The runtime restarts: it is away for a while; containers live on or not.
    pub fn restart_runtime(&mut self, away: Duration, containers_die: bool) {
        self.runtime_link = Link::Refuses;
        let now = self.now();
        self.runtime.restart(now, containers_die);
        if let Some(life) = &mut self.life
            && std::mem::take(&mut life.events_open)
        {
            let failure = Failure::new(FailureKind::Unavailable, "the stream of container events ended");
            let number = life.number;
            self.arrives(number, Duration::from_millis(1), Event::RuntimeEventsClosed { failure });
            self.schedule(away + Duration::from_millis(100), Coming::OpensEvents { life: number });
        }
        self.schedule(away, Coming::RuntimeBack);
    }

    /// Runs until that much time has passed since the run began.
    pub fn run_until(&mut self, until: Duration) {
        self.run_while(until, |_| true);
    }

    /// Runs until that much time has passed, or `goes_on` says no; it is asked after every event. True if it said no.
    pub fn run_while(&mut self, until: Duration, goes_on: impl Fn(&Self) -> bool) -> bool {
        // Users may have changed something since the last step.
        self.tend_volumes();
        self.tell_manifest_changes();
        self.tell_watches();
        self.tell_runtime_changes();
        loop {
            if !goes_on(self) {
                return true;
            }
            let Some(next) = self.next_moment().filter(|next| *next <= until) else {
                self.elapsed = self.elapsed.max(until);
                return !goes_on(self);
            };
            if next > self.elapsed {
                self.elapsed = next;
                self.stood_still = 0;
            }
            self.stood_still += 1;
            // A core that asks for a moment that has passed, and does nothing when it is told so, would stop the world.
            assert!(self.stood_still < MOST_STEPS_AT_ONCE, "time stands still at {:?}: {}", self.elapsed, self.last_lines());
            self.step();
        }
    }

    fn next_moment(&self) -> Option<Duration> {
        let queued = self.coming.keys().next().map(|(at, _)| *at);
        let start = Timestamp::from_second(EPOCH_SECONDS).unwrap_or_default();
        let container = self.runtime.next_change().map(|at| Duration::try_from(at.duration_since(start)).unwrap_or_default());
        [queued, container, self.deadline()].into_iter().flatten().min()
    }

    fn deadline(&self) -> Option<Duration> {
        let life = self.life.as_ref()?;
        life.kubelet.deadline().map(|at| life.began + at.since_start())
    }

    fn step(&mut self) {
        let now = self.now();
        self.looks_are_in_time();
        self.runtime.advance(now);
        self.tell_runtime_changes();
        let due = self.coming.keys().next().copied().filter(|(at, _)| *at <= self.elapsed);
        if let Some(coming) = due.and_then(|key| self.coming.remove(&key)) {
            self.happens(coming);
        } else if self.deadline().is_some_and(|at| at <= self.elapsed) {
            self.handle(Event::TimerFired);
        }
        self.tend_volumes();
        self.tell_runtime_changes();
        self.tell_watches();
        let facts = std::mem::take(&mut self.runtime.facts);
        self.runtime.facts_seen += facts.len() as u64;
        let mut witness = std::mem::take(&mut self.witness);
        witness.look(self.scene(), &facts);
        self.witness = witness;
        self.looks_are_in_time();
    }

    fn looks_are_in_time(&mut self) {
        let Some(life) = &self.life else { return };
        self.witness.invariant_what_changed_is_looked_at(self.elapsed, |pod| life.kubelet.may_look_at(pod));
    }

    fn happens(&mut self, coming: Coming) {
        match coming {
            Coming::Effect { life, began, action, answers, rest } => self.takes_effect(life, began, &action, answers, rest),
            Coming::Arrives { life, event } => {
                if self.is_life(life) && self.expects(&event) {
                    if let Event::RuntimeChanged { pod } = &*event {
                        self.witness.hinted(self.elapsed, pod);
                    }
                    self.handle(*event);
                }
            }
            Coming::Delivers { life, key } => self.deliver(life, &key),
            Coming::Opens { life, key } => self.open_watch(life, &key),
            Coming::OpensEvents { life } => self.open_events(life),
            Coming::Starts => self.start(),
            Coming::ApiBack => {
                self.api_link = Link::Up;
                self.watches_lose_their_place();
            }
            Coming::RuntimeBack => self.runtime_link = Link::Up,
        }
    }

    fn start(&mut self) {
        if self.life.is_some() {
            return;
        }
        self.lives += 1;
        let seed = self.rng.next_u64();
        let mut kubelet = Kubelet::new(Arc::clone(&self.config), seed);
        for (pod, deaths) in self.poisons.suspects() {
            kubelet.suspect(&pod, deaths);
        }
        self.life = Some(Life {
            number: self.lives,
            kubelet,
            poisons: (0, self.poisons.struck()),
            began: self.elapsed,
            in_flight: BTreeMap::new(),
            watches: BTreeMap::new(),
            delivering: BTreeSet::new(),
            events_open: false,
            sockets: Vec::new(),
            manifest_changes: self.host.manifest_changes,
        });
        let life = self.lives;
        self.schedule(Duration::from_millis(3), Coming::OpensEvents { life });
        self.note("agent started");
        self.handle(Event::Started);
    }

    fn is_life(&self, number: u32) -> bool {
        self.life.as_ref().is_some_and(|life| life.number == number)
    }

    /// Whether an answer is still waited for; asking ends the wait.
    fn expects(&mut self, event: &Event) -> bool {
        let id = match event {
            Event::CriDone { id, .. }
            | Event::ApiDone { id, .. }
            | Event::HostDone { id, .. }
            | Event::ProbeDone { id, .. }
            | Event::CsiDone { id, .. }
            | Event::FetchDone { id, .. } => id,
            _ => return true,
        };
        self.life.as_mut().is_some_and(|life| life.in_flight.remove(id).is_some())
    }

    fn schedule(&mut self, after: Duration, coming: Coming) {
        self.sequence += 1;
        self.coming.insert((self.elapsed + after, self.sequence), coming);
    }

    fn arrives(&mut self, life: u32, after: Duration, event: Event) {
        self.schedule(after, Coming::Arrives { life, event: Box::new(event) });
    }

    fn handle(&mut self, event: Event) {
        let Some(event) = self.seen(event) else { return };
        let wall = self.now().saturating_add(self.wall_offset).unwrap_or_default();
        let Some(life) = &mut self.life else { return };
        let now = Now { mono: Mono::from_start(self.elapsed - life.began), wall };
        let text = (self.lines.is_some() || self.digest.is_some()).then(|| format!("{event:?}"));
        let mut actions = Vec::new();
        if life.poisons.0 != self.poisons.len() {
            life.poisons.0 = self.poisons.len();
            life.kubelet.on_work(self.poisons.hook());
        }
        life.kubelet.handle(now, event, &mut actions);
        self.handled += 1;
        if life.kubelet.panics() != self.poisons.struck() - life.poisons.1 {
            self.witness.unplanned_panic();
        }
        if self.poisons.take_death() {
            let suspects = std::mem::take(&mut self.poisons);
            self.crash(Some(COMES_BACK));
            self.poisons = suspects;
            return;
        }
        if let Some(text) = text {
            self.keep(&text, &actions);
        }
        for action in actions {
            self.ask(action);
        }
        if let Some((events, back_after)) = self.crash_after
            && self.handled >= events
        {
            self.crash_after = None;
            self.crash(Some(back_after));
        }
    }

    fn keep(&mut self, event: &str, actions: &[Action]) {
        let mut text = event.to_owned();
        for action in actions {
            text.push_str("\n    -> ");
            text.push_str(&format!("{action:?}"));
        }
        if let Some(digest) = &mut self.digest {
            for byte in text.bytes() {
                *digest = (*digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
            *digest = digest.wrapping_add(u64::try_from(self.elapsed.as_nanos()).unwrap_or(0));
        }
        if let Some(lines) = &mut self.lines {
            lines.push(Line { at: self.elapsed, text });
        }
    }

    fn last_lines(&self) -> String {
        let lines = self.lines.as_deref().unwrap_or_default();
        let deadlines = self.kubelet().map(Kubelet::deadlines);
        let last: String = lines.iter().rev().take(20).map(|line| format!("{:?} {}\n", line.at, line.text)).collect();
        format!("{deadlines:?}\n{last}")
    }

    /// Adds a line to what happened, if it is kept.
    pub fn note(&mut self, text: &str) {
        if let Some(lines) = &mut self.lines {
            lines.push(Line { at: self.elapsed, text: format!("# {text}") });
        }
    }

    fn send(&mut self, action: Action) {
        let Some(life) = &mut self.life else { return };
        let number = life.number;
        let began = Mono::from_start(self.elapsed - life.began);
        match &action.call {
            Call::Cancel(id) => {
                if let Some(fails) = life.in_flight.get(id) {
                    let event = fails(*id, Failure::new(FailureKind::Canceled, "context canceled"));
                    self.arrives(number, Duration::ZERO, event);
                }
            }
            Call::Api(ApiCall::Watch(key)) => {
                let key = key.clone();
                life.watches.insert(key.clone(), None);
                self.schedule(Duration::from_millis(4), Coming::Opens { life: number, key });
            }
            Call::Api(ApiCall::Unwatch(key)) => {
                life.watches.remove(key);
            }
            _ => {
                life.in_flight.insert(action.id, fails(&action.call));
                self.witness.sent(self.elapsed, &action.call);
                self.witness.arrived(action.call.name());
                self.dispatch(number, began, action);
            }
        }
    }

    /// Decides how long a call takes and what becomes of it.
    fn dispatch(&mut self, life: u32, began: Mono, action: Action) {
        let fate = self.fate(&action.call);
        let latency = self.latency(&action.call);
        let spread = 0.5 + self.rng.fraction();
        let takes = latency.mul_f64(spread);
        let early = matches!(action.call, Call::Cri(CriCall::StopContainer { .. }));
        let until_effect = if early { Duration::from_millis(2) } else { takes.mul_f64(0.6) };
        let timeout = action.timeout;
        let id = action.id;
        let fails = fails(&action.call);
        if let (Fate::Late(_), Call::Csi(call)) = (&fate, &action.call) {
            self.holds.insert((life, id), self.host.csi.hold(call));
        }
        let lost = |world: &mut Self| {
            if let Some(limit) = timeout {
                let failure = Failure::new(FailureKind::UnknownOutcome, "context deadline exceeded");
                world.arrives(life, limit, fails(id, failure));
            }
        };
        let effect = |answers, rest| Coming::Effect { life, began, action: Box::new(action), answers, rest };
        let rest = takes.saturating_sub(until_effect);
        match fate {
            Fate::Well => {
                self.schedule(until_effect, effect(true, rest));
                lost(self);
            }
            Fate::Slow(more) => {
                self.schedule(until_effect + more, effect(true, rest));
                lost(self);
            }
            Fate::Fails(failure) => self.arrives(life, takes, fails(id, failure)),
            Fate::Lost => lost(self),
            Fate::ReplyLost => {
                self.schedule(until_effect, effect(false, rest));
                lost(self);
            }
            Fate::Late(more) => {
                self.schedule(timeout.unwrap_or_default() + more, effect(false, rest));
                lost(self);
            }
        }
    }
}

/// Makes the completion that a call which failed ends in.
type Fails = fn(ActionId, Failure) -> Event;

fn fails(call: &Call) -> Fails {
    match call {
        Call::Cri(_) | Call::Cancel(_) => |id, failure| Event::CriDone { id, outcome: Err(failure) },
        Call::Api(_) => |id, failure| Event::ApiDone { id, outcome: Err(failure) },
        Call::Host(_) => |id, failure| Event::HostDone { id, outcome: Err(failure) },
        Call::Csi(_) => |id, failure| Event::CsiDone { id, outcome: Err(failure) },
        Call::Probe(_) => |id, failure| Event::ProbeDone { id, outcome: Err(failure) },
        Call::Fetch(_) => |id, failure| Event::FetchDone { id, outcome: Err(failure) },
    }
}

#[cfg(test)]
mod runtime_calls;
#[cfg(test)]
mod tests;
