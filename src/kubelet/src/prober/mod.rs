//! Decides when to probe which container, and what the answers in a row mean for it.
//! Upstream: pkg/kubelet/prober/{prober_manager,worker,prober}.go.
//! Differs: probes wait for deadlines in one place instead of in a goroutine each; a stalled loop delays none of them. A command whose
//! answer does not come is given up five seconds after its time-out, not two minutes after it.

pub mod spec;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};

use self::spec::{PodProbe, ProbeKind, ProbeSpec};
use crate::action::{Call, CriCall, Lane};
use crate::alarms::Alarms;
use crate::event::{CriReply, ProbeOutcome};
use crate::facts::Fact;
use crate::failure::{Failure, FailureKind};
use crate::ids::{ActionId, ContainerId, PodUid};
use crate::observation::{ContainerState, PodObservation};
use crate::out::{Out, Owner};
use crate::pod::manager::{is_static, uid_of};
use crate::recorder::{Recorded, Subject};
use crate::rng::Rng;
use crate::time::{Mono, Now, go_seconds};
use crate::work::Point;

/// POD-245: how often an internal error is tried again at once.
const RETRIES: u32 = 3;
/// How much longer than its own time-out a probe's call may take to come back.
const SLACK: Duration = Duration::from_secs(5);
/// How long after it was first asked for readiness is asked for again: the kubelet syncs a pod of which something is new, and each sync of
/// one that is not ready asks (prober_manager.go, UpdatePodStatus; the pod's worker waits for the next listing of the PLEG).
const LOOKS_AGAIN: Duration = Duration::from_secs(1);
/// By how much the kubelet's syncs of a pod of which nothing is new come later than their frequency (pod_workers.go,
/// workerResyncIntervalJitterFactor).
const RESYNC_JITTER: f64 = 0.5;
/// POD-246: how much of an exec probe's output is told.
const MOST_OUTPUT: usize = 10 << 10;

/// What the probes say of one container instance. `None`: there is no such probe, or it has said nothing yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// Whether there is a startup probe.
    pub has_startup: bool,
    /// Whether there is a readiness probe.
    pub has_readiness: bool,
    /// Startup: `Some(true)` once it succeeded, `Some(false)` once it failed for good.
    pub startup: Option<bool>,
    /// Readiness.
    pub readiness: Option<bool>,
    /// Liveness: `Some(false)` once it failed for good.
    pub liveness: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    pod: PodUid,
    container: String,
    kind: ProbeKind,
}

#[derive(Debug)]
struct Worker {
    number: u64,
    spec: Arc<ProbeSpec>,
    pod: Arc<Pod>,
    field_path: String,
    pod_ip: String,
    rhythm: Rhythm,
    instance: Option<Instance>,
    stopped: bool,
}

#[derive(Debug)]
struct Instance {
    id: ContainerId,
    verdict: Option<bool>,
    last: Option<bool>,
    streak: i32,
    /// Until then its start is not long enough ago.
    not_before: Mono,
    next: Mono,
    /// Whether readiness was asked for when it had started.
    looked_at: bool,
    /// Whether it is asked for again soon after.
    looks_again: bool,
    in_flight: Option<ActionId>,
    /// When what is in flight was asked for.
    asked: Mono,
    retries: u32,
    on_hold: bool,
}

/// The probes of a pod, made once for each spec.
#[derive(Debug)]
struct PodProbes {
    pod: Arc<Pod>,
    probes: Arc<Vec<PodProbe>>,
    /// The containers that were seen last, and how they were.
    shown: Vec<(ContainerId, ContainerState)>,
    /// Whether a probe of it has come to another verdict since.
    judged: bool,
}

/// The prober.
#[derive(Debug)]
pub struct Prober {
    pods: BTreeMap<PodUid, PodProbes>,
    workers: BTreeMap<Key, Worker>,
    keys: BTreeMap<u64, Key>,
    /// When each worker probes next, by its number: of those that may.
    alarms: Alarms<u64>,
    next_number: u64,
    /// How often the kubelet syncs a pod of which nothing is new.
    synced_every: Duration,
    rng: Rng,
}

/// What of a pod the prober needs.
#[derive(Clone, Copy, Debug)]
pub struct ProbedPod<'a> {
    /// Its UID.
    pub uid: &'a PodUid,
    /// The object.
    pub pod: &'a Arc<Pod>,
    /// The status that the API server last had, of a static pod that of its mirror (POD-250).
    pub told: Option<&'a PodStatus>,
    /// What was last seen of it.
    pub observation: &'a PodObservation,
    /// Its IP, if it has one.
    pub pod_ip: Option<&'a str>,
    /// Whether it is being stopped: then only readiness is probed (POD-252).
    pub terminating: bool,
}

/// What a probe's answer has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Of which pod.
    pub pod: PodUid,
    /// Whether a container is to be killed for it: its liveness or startup probe has failed.
    pub fatal: bool,
}

impl Prober {
    /// A prober that has nothing to probe. First probes after the agent's start are spread by the seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            pods: BTreeMap::new(),
            workers: BTreeMap::new(),
            keys: BTreeMap::new(),
            alarms: Alarms::default(),
            next_number: 1,
            synced_every: Duration::from_mins(1),
            rng: Rng::new(seed),
        }
    }

    /// Asks for the readiness of what is not ready at least that often (`syncFrequency`), whatever its period is.
    #[must_use]
    pub fn synced_every(self, frequency: Duration) -> Self {
        Self { synced_every: frequency, ..self }
    }

    /// Brings the probes of a pod in line with its spec and what runs of it.
    pub fn sync_pod(&mut self, now: Now, probed: ProbedPod<'_>) {
        let probes = self.probes_of(probed.uid, probed.pod);
        let newest = if probes.is_empty() { BTreeMap::new() } else { probed.observation.newest_by_name() };
        for PodProbe { container, field_path, spec } in probes.iter() {
            let key = Key { pod: probed.uid.clone(), container: container.clone(), kind: spec.kind };
            let running = newest.get(container.as_str()).copied().filter(|c| c.state == ContainerState::Running);
            // A worker begins with its pod, before there is a container: when that comes, its probes wait for the worker's next tick.
            if running.is_none() && probed.terminating && !self.workers.contains_key(&key) {
                continue;
            }
            let number = self.next_number;
            let rng = &mut self.rng;
            let worker = self.workers.entry(key.clone()).or_insert_with(|| Worker {
                number,
                spec: Arc::clone(spec),
                pod: Arc::clone(probed.pod),
                field_path: field_path.clone(),
                pod_ip: String::new(),
                rhythm: Rhythm::new(now.mono, spec.period, rng),
                instance: None,
                stopped: false,
            });
            if worker.number == number {
                self.next_number += 1;
                self.keys.insert(number, key.clone());
            }
            worker.pod = Arc::clone(probed.pod);
            probed.pod_ip.unwrap_or_default().clone_into(&mut worker.pod_ip);
            worker.stopped = probed.terminating && spec.kind != ProbeKind::Readiness;
            match running {
                Some(container) if worker.instance.as_ref().is_none_or(|i| i.id != container.id) => {
                    let known = known_verdict(probed.told, &key.container, &container.id, spec.kind);
                    worker.begin(now, container, known);
                }
                // Only a mirror may be shown after its pod began; what is written to a pod's status meanwhile decides nothing.
                Some(container) if is_static(probed.pod) => {
                    worker.recall(|| known_verdict(probed.told, &key.container, &container.id, spec.kind))
                }
                Some(_) => {}
                // Not running is a failure of readiness until there is a new instance (POD-243).
                None => worker.instance = None,
            }
        }
        let moved = self.has_moved(&probed);
        for PodProbe { container, spec, .. } in probes.iter().filter(|probe| probe.spec.kind == ProbeKind::Readiness) {
            self.look_at_readiness(now, &Key { pod: probed.uid.clone(), container: container.clone(), kind: spec.kind }, moved);
        }
        for PodProbe { container, spec, .. } in probes.iter() {
            self.set_alarm(&Key { pod: probed.uid.clone(), container: container.clone(), kind: spec.kind });
        }
    }

    fn probes_of(&mut self, uid: &PodUid, pod: &Arc<Pod>) -> Arc<Vec<PodProbe>> {
        let new = || PodProbes { pod: Arc::clone(pod), probes: Arc::new(spec::probes_of(pod)), shown: Vec::new(), judged: false };
        let known = self.pods.entry(uid.clone()).or_insert_with(new);
        if !Arc::ptr_eq(&known.pod, pod) {
            if known.pod.spec == pod.spec {
                known.pod = Arc::clone(pod);
            } else {
                *known = new();
            }
        }
        Arc::clone(&known.probes)
    }

    /// Whether any container of the pod is another, in another state, or judged otherwise than when this was last asked: a verdict that
    /// changes has the kubelet sync the pod as well (kubelet.go, handleProbeSync).
    fn has_moved(&mut self, probed: &ProbedPod<'_>) -> bool {
        let Some(known) = self.pods.get_mut(probed.uid).filter(|known| !known.probes.is_empty()) else { return false };
        let containers = || probed.observation.containers.iter();
        let same = containers().map(|c| (&c.id, c.state)).eq(known.shown.iter().map(|(id, state)| (id, *state)));
        if !same {
            known.shown = containers().map(|c| (c.id.clone(), c.state)).collect();
        }
        std::mem::take(&mut known.judged) || !same
    }

    /// POD-241: readiness is asked for as soon as the container has started, once more soon after, whenever a container of the pod has
    /// `moved`, and by the period from there on.
    fn look_at_readiness(&mut self, now: Now, key: &Key, moved: bool) {
        let asks = |instance: &Instance| !instance.looked_at || (moved && instance.verdict != Some(true));
        let is_due = |worker: &Worker| worker.instance.as_ref().is_some_and(asks) && self.has_started(key, worker);
        if self.workers.get(key).is_some_and(is_due)
            && let Some(worker) = self.workers.get_mut(key)
        {
            worker.look_now(now);
        }
    }

    /// A worker changed, or the startup probe that it waits for.
    fn set_alarm(&mut self, key: &Key) {
        let Some(worker) = self.workers.get(key) else { return };
        let at = worker.instance.as_ref().filter(|_| self.may_probe(key, worker)).map(|instance| instance.next);
        self.alarms.set(&worker.number, at);
    }

    /// The pod is gone or done: nothing of it is probed any more.
    pub fn remove_pod(&mut self, uid: &PodUid) {
        self.pods.remove(uid);
        let first = Key { pod: uid.clone(), container: String::new(), kind: ProbeKind::Startup };
        let of_pod = self.workers.range(first..).take_while(|(key, _)| key.pod == *uid);
        let gone: Vec<(Key, u64)> = of_pod.map(|(key, worker)| (key.clone(), worker.number)).collect();
        for (key, number) in gone {
            self.workers.remove(&key);
            self.keys.remove(&number);
            self.alarms.set(&number, None);
        }
    }

    /// What the probes say of a container instance (POD-242, POD-251).
    #[must_use]
    pub fn verdicts(&self, uid: &PodUid, container: &str, id: &ContainerId) -> Verdicts {
        let mut verdicts = Verdicts::default();
        for kind in [ProbeKind::Startup, ProbeKind::Readiness, ProbeKind::Liveness] {
            let key = Key { pod: uid.clone(), container: container.to_owned(), kind };
            let Some(worker) = self.workers.get(&key) else { continue };
            let verdict = worker.instance.as_ref().filter(|i| i.id == *id).and_then(|i| i.verdict);
            match kind {
                ProbeKind::Startup => (verdicts.has_startup, verdicts.startup) = (true, verdict),
                ProbeKind::Readiness => (verdicts.has_readiness, verdicts.readiness) = (true, verdict),
                ProbeKind::Liveness => verdicts.liveness = verdict,
            }
        }
        verdicts
    }

    /// When the next probe is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        self.alarms.first()
    }

    /// Probes what is due.
    pub fn due(&mut self, now: Now, out: &mut Out<'_>) {
        let due: BTreeSet<Key> = self.alarms.due(now.mono).filter_map(|number| self.keys.get(number)).cloned().collect();
        for key in due {
            if let Some(worker) = self.workers.get_mut(&key) {
                out.works_for(Point::ProbeDue, &key.pod);
                worker.probe(now, out);
                if worker.spec.period > self.synced_every {
                    worker.look_by(now.mono + self.rng.jitter(self.synced_every, RESYNC_JITTER));
                }
            }
            self.set_alarm(&key);
        }
    }

    /// A probe ended. Answers the pod whose verdicts changed by it.
    pub fn done(
        &mut self,
        now: Now,
        number: u64,
        id: ActionId,
        outcome: Result<ProbeOutcome, Failure>,
        out: &mut Out<'_>,
    ) -> Option<Told> {
        let key = self.keys.get(&number)?.clone();
        let worker = self.workers.get_mut(&key)?;
        if worker.instance.as_ref().is_none_or(|i| i.in_flight != Some(id)) {
            return None;
        }
        let told = worker.answered(now, &key.container, outcome, out);
        let verdict = worker.instance.as_ref().and_then(|instance| instance.verdict);
        let fatal = key.kind != ProbeKind::Readiness && verdict == Some(false);
        // What ended may be what the others wait for.
        if key.kind == ProbeKind::Startup && verdict == Some(true) {
            self.look_at_readiness(now, &Key { kind: ProbeKind::Readiness, ..key.clone() }, false);
            if let Some(liveness) = self.workers.get_mut(&Key { kind: ProbeKind::Liveness, ..key.clone() }) {
                liveness.wait_for_tick(now);
            }
        }
        for kind in [ProbeKind::Startup, ProbeKind::Readiness, ProbeKind::Liveness] {
            self.set_alarm(&Key { kind, ..key.clone() });
        }
        if let Some(known) = self.pods.get_mut(&key.pod) {
            known.judged |= told;
        }
        told.then_some(Told { pod: key.pod, fatal })
    }

    /// Until a container has started, only its startup probe runs (POD-243).
    fn may_probe(&self, key: &Key, worker: &Worker) -> bool {
        let Some(instance) = &worker.instance else { return false };
        if worker.stopped || instance.on_hold || instance.in_flight.is_some() {
            return false;
        }
        if key.kind == ProbeKind::Startup { instance.verdict.is_none() } else { self.has_started(key, worker) }
    }

    /// Whether the instance has no startup probe, or one that succeeded.
    fn has_started(&self, key: &Key, worker: &Worker) -> bool {
        let Some(instance) = &worker.instance else { return false };
        let startup = Key { kind: ProbeKind::Startup, ..key.clone() };
        self.workers
            .get(&startup)
            .is_none_or(|w| w.instance.as_ref().is_some_and(|i| i.id == instance.id && i.verdict == Some(true)))
    }
}

/// POD-250: a container that was known before this life of the agent keeps what was known of it.
fn known_verdict(told: Option<&PodStatus>, container: &str, id: &ContainerId, kind: ProbeKind) -> Option<bool> {
    let status = told?;
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    let same = |c: &&k8s_openapi::api::core::v1::ContainerStatus| {
        c.name == container && c.container_id.as_deref().is_some_and(|known| known.ends_with(id.as_str()))
    };
    let known = all.into_iter().find(same)?;
    match kind {
        ProbeKind::Startup => (known.started == Some(true)).then_some(true),
        ProbeKind::Readiness => known.ready.then_some(true),
        ProbeKind::Liveness => None,
    }
}

/// When a worker looks: at its first moment, and then each period (POD-241).
#[derive(Clone, Copy, Debug)]
struct Rhythm {
    first: Mono,
    period: Duration,
}

impl Rhythm {
    /// From now on; soon after the agent's start from a random moment on, so that probes do not come all at once.
    fn new(now: Mono, period: Duration, rng: &mut Rng) -> Self {
        let is_new = now.since_start() < period;
        Self { first: if is_new { now + period.mul_f64(rng.fraction()) } else { now }, period }
    }

    /// The first tick that is not before `at`.
    fn tick_from(self, at: Mono) -> Mono {
        let ticks = at.since(self.first).as_nanos().div_ceil(self.period.as_nanos().max(1));
        self.first + self.period.saturating_mul(u32::try_from(ticks).unwrap_or(u32::MAX))
    }

    /// The first tick after `at`.
    fn tick_after(self, at: Mono) -> Mono {
        self.tick_from(at + Duration::from_nanos(1))
    }
}

/// Until when a container is not probed: its delay counts from its start, in whole seconds as its status tells of it (POD-242).
fn delayed_until(now: Now, delay: Duration, started_at: i64) -> Mono {
    let age = Timestamp::from_second(started_at.div_euclid(1_000_000_000))
        .ok()
        .and_then(|started| Duration::try_from(now.wall.duration_since(started)).ok())
        .unwrap_or_default();
    now.mono + delay.saturating_sub(age)
}

impl Worker {
    /// There is a new instance; `known` is what was known of it before this life of the agent.
    fn begin(&mut self, now: Now, container: &crate::observation::ContainerStatus, known: Option<bool>) {
        // POD-242: readiness begins as a failure, liveness as a success, startup with nothing.
        let verdict = known.or(match self.spec.kind {
            ProbeKind::Readiness => Some(false),
            ProbeKind::Liveness => Some(true),
            ProbeKind::Startup => None,
        });
        let not_before = delayed_until(now, self.spec.initial_delay, container.started_at);
        self.instance = Some(Instance {
            id: container.id.clone(),
            verdict,
            last: known,
            streak: 0,
            not_before,
            next: self.rhythm.tick_from(not_before),
            looked_at: false,
            looks_again: false,
            in_flight: None,
            asked: Mono::ZERO,
            retries: 0,
            on_hold: false,
        });
    }

    /// What was known of the instance before this life turned up after it did: a static pod's mirror. The probe's own answers go before.
    fn recall(&mut self, known: impl FnOnce() -> Option<bool>) {
        if let Some(instance) = self.instance.as_mut().filter(|instance| instance.last.is_none())
            && let Some(known) = known()
        {
            instance.verdict = Some(known);
            instance.last = Some(known);
        }
    }

    /// Looks at once, if nothing is to be waited for, and each period from now on.
    fn look_now(&mut self, now: Now) {
        let Some(instance) = &mut self.instance else { return };
        // What asks while its delay lasts asks in vain.
        let in_vain = instance.not_before > now.mono;
        instance.looks_again = !instance.looked_at && instance.verdict != Some(true) && !in_vain;
        instance.looked_at = true;
        self.rhythm.first = self.rhythm.first.max(now.mono);
        instance.next = self.rhythm.tick_from(instance.not_before.max(now.mono));
    }

    /// Looks then at the latest, if it is asked for what is not ready: at the next sync of its pod.
    fn look_by(&mut self, sync: Mono) {
        let Some(instance) = self.instance.as_mut().filter(|instance| instance.verdict != Some(true)) else { return };
        if self.spec.kind == ProbeKind::Readiness && sync < instance.next {
            self.rhythm.first = sync;
            instance.next = sync;
        }
    }

    /// What it waited for has come: it goes on at its next tick.
    fn wait_for_tick(&mut self, now: Now) {
        let Some(instance) = &mut self.instance else { return };
        instance.next = self.rhythm.tick_from(instance.not_before.max(now.mono));
    }

    fn probe(&mut self, now: Now, out: &mut Out<'_>) {
        let Some(instance) = &mut self.instance else { return };
        let timeout = self.spec.timeout;
        let call = match self.spec.call(&self.pod_ip) {
            Ok(None) => {
                let (id, command) = (instance.id.clone(), self.spec.command().to_vec());
                Call::Cri(CriCall::ExecSync { id, command, timeout })
            }
            Ok(Some(call)) => Call::Probe(call),
            Err(why) => {
                let text = format!("{} probe errored and resulted in unknown state: {why}", self.spec.kind.as_str());
                out.record(Recorded::warning(self.subject(), "Unhealthy", text));
                if let Some(instance) = &mut self.instance {
                    instance.next = self.rhythm.tick_after(now.mono);
                }
                return;
            }
        };
        let limit = if matches!(call, Call::Cri(_)) { timeout + SLACK } else { timeout };
        let uid = uid_of(&self.pod).unwrap_or_else(|| PodUid::new(""));
        instance.in_flight = Some(out.issue(Owner::Probe(uid, self.number), Lane::Probes, limit, call));
        instance.asked = now.mono;
        if std::mem::take(&mut instance.looks_again) {
            self.rhythm.first = now.mono + LOOKS_AGAIN;
        }
        // The rhythm is the spec's, however long the probe takes.
        instance.next = self.rhythm.tick_after(now.mono);
    }

    fn subject(&self) -> Subject {
        Subject::Container(Arc::clone(&self.pod), self.field_path.clone())
    }

    fn answered(&mut self, now: Now, container: &str, outcome: Result<ProbeOutcome, Failure>, out: &mut Out<'_>) -> bool {
        let kind = self.spec.kind;
        let subject = self.subject();
        let Some(instance) = &mut self.instance else { return false };
        instance.in_flight = None;
        let passed = match outcome {
            Ok(ProbeOutcome::Success) => true,
            Ok(ProbeOutcome::Warning(text)) => {
                let text = format!("{} probe warning: {text}", kind.as_str());
                out.record(Recorded::warning(subject, "ProbeWarning", text));
                true
            }
            Ok(ProbeOutcome::Failure(text)) => {
                let text = format!("{} probe failed: {text}", kind.as_str());
                out.record(Recorded::warning(subject, "Unhealthy", text));
                false
            }
            Err(failure) => {
                // POD-245: an error of our own says nothing of the container.
                instance.retries += 1;
                if instance.retries < RETRIES {
                    instance.next = now.mono;
                } else {
                    instance.retries = 0;
                    let why = failure.rpc_message();
                    // Of a request over HTTP it is known that it failed (DoHTTPProbe).
                    let state = if self.spec.is_http() { "failure" } else { "unknown" };
                    let text = format!("{} probe errored and resulted in {state} state: {why}", kind.as_str());
                    out.record(Recorded::warning(subject, "Unhealthy", text));
                }
                return false;
            }
        };
        out.count(Fact::Probed {
            pod: Arc::clone(&self.pod),
            container: container.to_owned(),
            kind,
            passed,
            took: now.mono.since(instance.asked),
        });
        instance.retries = 0;
        instance.streak = if instance.last == Some(passed) { instance.streak.saturating_add(1) } else { 1 };
        instance.last = Some(passed);
        let threshold = if passed { self.spec.success_threshold } else { self.spec.failure_threshold };
        if instance.streak < threshold {
            return false;
        }
        // POD-244: after a verdict that kills, and after startup's, there is nothing more to learn of this instance.
        if kind == ProbeKind::Startup || (kind == ProbeKind::Liveness && !passed) {
            instance.on_hold = true;
        }
        let changed = instance.verdict != Some(passed);
        instance.verdict = Some(passed);
        if passed && self.rhythm.first > instance.asked {
            // It need not be asked for again so soon.
            self.rhythm.first = instance.asked;
            instance.next = self.rhythm.tick_after(now.mono);
        }
        changed
    }
}

/// What an exec probe's reply means (POD-246).
///
/// # Errors
/// The call itself failed, which says nothing of the container.
pub fn exec_outcome(reply: Result<CriReply, Failure>, command: &[String], timeout: Duration) -> Result<ProbeOutcome, Failure> {
    match reply {
        Ok(CriReply::Exec { exit_code: 0, .. }) => Ok(ProbeOutcome::Success),
        Ok(CriReply::Exec { mut output, .. }) => {
            output.truncate(output.floor_char_boundary(MOST_OUTPUT));
            Ok(ProbeOutcome::Failure(output))
        }
        Ok(_) => Err(Failure::new(FailureKind::Other, "the runtime answered something else")),
        Err(failure) if failure.kind == FailureKind::UnknownOutcome => {
            let (command, timeout) = (command.join(" "), go_seconds(timeout));
            Ok(ProbeOutcome::Failure(format!("command timed out: {command:?} timed out after {timeout}")))
        }
        Err(failure) => Err(failure),
    }
}

/// Pods that have a probe: for tests and introspection.
impl Prober {
    /// The pods of which something is probed.
    #[must_use]
    pub fn pods(&self) -> BTreeSet<&PodUid> {
        self.workers.keys().map(|key| &key.pod).collect()
    }

    /// The command and the time-out of the probe of that number, for [`exec_outcome`].
    #[must_use]
    pub fn exec_of(&self, number: u64) -> (&[String], Duration) {
        let worker = self.keys.get(&number).and_then(|key| self.workers.get(key));
        worker.map_or((&[], Duration::from_secs(1)), |w| (w.spec.command(), w.spec.timeout))
    }
}

#[cfg(test)]
mod tests;
