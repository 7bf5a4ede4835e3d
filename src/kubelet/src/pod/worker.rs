//! One pod: what phase it is in, what was last seen of it, what is being done about it. Plans only from a fresh observation.
//! Upstream: pkg/kubelet/pod_workers.go, pkg/kubelet/kubelet.go (SyncPod, SyncTerminatingPod, SyncTerminatedPod).
//! Differs: terminating cuts work in flight short, so a hung hook or a long grace never outlives a forced deletion; what fails of it is
//! tried again at once, then after one second and twice as long each time.
//!
//! ```text
//!   Syncing --deletion, terminal phase, kill--> Terminating --nothing runs--> Terminated --volumes, cgroup gone--> Finished
//!      \___________ API phase terminal and nothing runs (POD-082) _______________/
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use super::batch::Batch;
use super::chain::CallLimits;
use super::held::{FailedChain, Held};
use crate::action::{Call, CriCall, Lane};
use crate::backoff::RestartBackoffs;
use crate::event::PodSource;
use crate::failure::Failure;
use crate::ids::{ActionId, ContainerId, PodUid, SandboxId};
use crate::observation::{Observed, PodObservation};
use crate::out::{Out, Owner};
use crate::resources::requests::{Amounts, Kind, SYSTEM_CRITICAL_PRIORITY, pod_amounts};
use crate::time::{Mono, Now, earliest};

/// How many warnings of a pod are remembered for each of its containers, so that they are not given again.
const WARNINGS_OF_EACH: usize = 16;

/// POD-084: how long after an error what failed is tried again, before jitter.
pub const ERROR_RETRY: Duration = Duration::from_secs(10);
/// After a stop that failed while its grace lasts, and after the second failure of a teardown in a row; twice that after each further
/// one, up to [`ERROR_RETRY`]. After the first, the pod is looked at again at once: a container that ends while it is stopped makes a
/// stop fail, and somebody waits for the pod to go.
const STOP_RETRY: Duration = Duration::from_secs(1);
/// How long after a failed look at a pod the next one is.
const OBSERVE_RETRY: Duration = Duration::from_secs(1);

/// How many containers a pod may have that is planned whenever anything of it changes.
const WITHOUT_REST: usize = 64;
/// How long a larger one rests after a plan, for each of the others: several times as long as the plan takes.
const REST_OF_EACH: Duration = Duration::from_micros(200);

/// Where a pod is in its life. It never goes back (POD-075).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Its containers are to run as the spec says.
    Syncing,
    /// Its containers are to stop.
    Terminating,
    /// Nothing of it runs; volumes and cgroup go.
    Terminated,
    /// Nothing is left to do.
    Finished,
}

/// Why and how a pod is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Termination {
    /// Grace of the containers; only ever shrinks (POD-077).
    pub grace: Duration,
    /// When it began.
    pub since: Mono,
    /// Phase, reason and message that replace the computed ones (eviction, rejection after a restart, shutdown).
    pub verdict: Option<Verdict>,
}

/// A status that somebody else decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Such as `Evicted`.
    pub reason: String,
    /// In words.
    pub message: String,
    /// Whether the pod shows `DisruptionTarget`.
    pub disruption: bool,
}

/// Why a container could not be started: its waiting reason and message (POD-105).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartError {
    /// Such as `CreateContainerError`.
    pub reason: String,
    /// In words.
    pub message: String,
}

/// One pod's worker.
#[derive(Debug)]
pub struct PodWorker {
    /// Its UID.
    pub uid: PodUid,
    /// The object as last delivered; for a runtime-only pod, what its labels tell.
    pub pod: Arc<Pod>,
    /// Where it came from; `None` if only the runtime knows it (POD-087).
    pub source: Option<PodSource>,
    /// Where it is.
    pub phase: Phase,
    /// How it is stopped, once it is.
    pub termination: Option<Termination>,
    /// What was last seen of it.
    pub observation: Option<Observed>,
    /// Changes in flight.
    pub batch: Option<Batch>,
    /// Whether cgroup and directories were made in this life.
    pub prepared: bool,
    /// Whether what runs of it lies in the pod's cgroup, once that was looked at in this life (POD-101).
    pub in_cgroup: Option<bool>,
    /// Start errors by container.
    pub start_errors: BTreeMap<String, StartError>,
    /// Those of them that are told of: the pod was looked at since.
    pub shown_errors: BTreeMap<String, StartError>,
    /// Why the resources that the spec asks for now are not those that `pod` has.
    pub resize_refused: Option<&'static str>,
    /// The next restart count of containers of which the runtime holds no instance, from their logs (LOG-004).
    pub log_floor: BTreeMap<String, u32>,
    /// What is not tried again yet, after it failed.
    pub held: Held,
    /// Not looked at before this, after a look that failed.
    pub look_at: Option<Mono>,
    /// Looked at again then, for things that only time changes (back-off, active deadline).
    pub wake_at: Option<Mono>,
    /// Warnings given since the pod last made progress: each is given once.
    pub warned: BTreeSet<String>,
    /// The first attempt number that no sandbox of an unknown outcome can have.
    pub sandbox_floor: u32,
    /// The attempt number of the sandbox that is being made.
    pub sandbox_attempt: u32,
    /// Containers that were stopped so that they run again.
    pub to_restart: BTreeSet<ContainerId>,
    /// Sandboxes that were stopped in this life.
    pub stopped_sandboxes: BTreeSet<SandboxId>,
    /// Containers whose preStop hook has run in this life.
    pub hooked: BTreeSet<ContainerId>,
    /// Containers of whose stop nobody knows how it ended: the next one that ends so holds nothing back.
    pub unanswered: BTreeSet<ContainerId>,
    /// Stops that failed since the pod was last looked at, and why.
    pub unstopped: BTreeMap<ContainerId, String>,
    /// Whether a container that was stopped so that it runs again waits for something before it is started.
    pub restart_waits: bool,
    /// The grace that the stop in flight was begun with.
    pub stopping_with: Option<Duration>,
    /// Whether it was found in the runtime or on the disk, and no source ever told of it: its cgroup is not known.
    pub adopted: bool,
    /// Whether a batch of it has ended in this life.
    pub synced: bool,
    /// When it came.
    pub born: Mono,
    /// Whether it is still to be told how long its start took.
    pub starting: bool,
    /// Whether it waits for another pod of its full name to end (POD-081).
    pub in_line: bool,
    /// Whether a source asked for it again while it was stopped: it begins anew once it has ended (POD-080).
    pub revived: bool,
    /// Until when it is not planned again: a large pod takes no more than a part of the loop's time.
    pub rests_until: Mono,
    /// Whether something changed while it rests.
    pub changed_at_rest: bool,
    /// How often it was planned, for tests of that.
    #[cfg(test)]
    pub plans: u32,
    /// Whether the pod's cgroup was removed.
    pub cgroup_removed: bool,
    /// How long its containers wait before they are started again.
    pub backoffs: RestartBackoffs,
    /// What the pod asks for, and which version of it.
    asked: Option<(Arc<Pod>, Amounts)>,
    stale_after: Mono,
    observing: Option<ActionId>,
    /// How many batches of a pod that is to go have failed in a row.
    teardown_failures: u32,
}

/// What became of a completion.
#[derive(Debug)]
pub enum Completed {
    /// It was a look at the pod.
    Observation,
    /// It was a step of the batch.
    Step(super::chain::StepEnd),
    /// It belonged to something that was given up.
    Nothing,
}

impl PodWorker {
    /// A worker for a pod that is to run, or, if `source` is `None`, to be stopped.
    #[must_use]
    pub fn new(now: Now, uid: PodUid, pod: Arc<Pod>, source: Option<PodSource>) -> Self {
        let starting = super::startup_latency::is_new(&pod);
        Self {
            uid,
            pod,
            source,
            phase: Phase::Syncing,
            termination: None,
            observation: None,
            batch: None,
            prepared: false,
            in_cgroup: None,
            start_errors: BTreeMap::new(),
            shown_errors: BTreeMap::new(),
            resize_refused: None,
            log_floor: BTreeMap::new(),
            held: Held::default(),
            look_at: None,
            wake_at: None,
            warned: BTreeSet::new(),
            sandbox_floor: 0,
            sandbox_attempt: 0,
            to_restart: BTreeSet::new(),
            stopped_sandboxes: BTreeSet::new(),
            hooked: BTreeSet::new(),
            unanswered: BTreeSet::new(),
            unstopped: BTreeMap::new(),
            restart_waits: false,
            stopping_with: None,
            adopted: false,
            synced: false,
            born: now.mono,
            starting,
            in_line: false,
            revived: false,
            rests_until: Mono::ZERO,
            changed_at_rest: false,
            #[cfg(test)]
            plans: 0,
            cgroup_removed: false,
            backoffs: RestartBackoffs::new(),
            asked: None,
            stale_after: now.mono,
            observing: None,
            teardown_failures: 0,
        }
    }

    /// Sums up what the pod asks for, once for each version of it.
    pub fn sum_up(&mut self) {
        if self.asked.as_ref().is_none_or(|(pod, _)| !Arc::ptr_eq(pod, &self.pod)) {
            self.asked = Some((Arc::clone(&self.pod), pod_amounts(&self.pod, Kind::Requests)));
        }
    }

    /// What the pod asks for, if that was summed up since it changed.
    #[must_use]
    pub fn requests(&self) -> Option<&Amounts> {
        self.asked.as_ref().filter(|(pod, _)| Arc::ptr_eq(pod, &self.pod)).map(|(_, amounts)| amounts)
    }

    /// The same pod with a record that is made anew from what is observed, as in a new life of the agent. What is in flight for it is
    /// withdrawn; what cannot be seen from outside stays: how far it is, how it ends, what it has waited for.
    #[must_use]
    pub fn made_anew(mut self, now: Now, out: &mut Out<'_>) -> Self {
        let makes_sandbox =
            self.batch.as_ref().is_some_and(|batch| batch.purposes().any(|p| matches!(p, super::chain::Purpose::Sandbox)));
        self.abandon_batch(now, out);
        let floor = if makes_sandbox { self.sandbox_attempt.saturating_add(1) } else { 0 };
        let anew = Self::new(now, self.uid, self.pod, self.source);
        Self {
            // That nothing runs any more is seen anew, too.
            phase: self.phase.min(Phase::Terminating),
            termination: self.termination,
            to_restart: self.to_restart,
            stopped_sandboxes: self.stopped_sandboxes,
            hooked: self.hooked,
            unanswered: self.unanswered,
            stopping_with: self.stopping_with,
            adopted: self.adopted,
            backoffs: self.backoffs,
            log_floor: self.log_floor,
            resize_refused: self.resize_refused,
            sandbox_floor: self.sandbox_floor.max(floor),
            ..anew
        }
    }

    /// The observation, if nothing has changed since it began.
    #[must_use]
    pub fn fresh(&self) -> Option<&Observed> {
        self.observation.as_ref().filter(|seen| seen.began >= self.stale_after)
    }

    /// Lets start errors be told of. One that came with the change that is under way, or of which nobody has seen yet what it left, waits:
    /// a container that could not be started has ended, and in a pod that never restarts that is all there is to tell.
    pub fn show_errors(&mut self) {
        if !self.is_changing() && self.fresh().is_some() && self.shown_errors != self.start_errors {
            self.shown_errors.clone_from(&self.start_errors);
        }
    }

    /// Something of the pod changed in the runtime: what was seen before now does not count any more.
    pub fn runtime_changed(&mut self, now: Now) {
        self.stale_after = self.stale_after.max(now.mono);
    }

    /// Looks at the pod unless a look is under way.
    pub fn observe(&mut self, limit: Duration, out: &mut Out<'_>) {
        if self.observing.is_none() {
            let call = Call::Cri(CriCall::Observe { pod: self.uid.clone() });
            self.observing = Some(out.issue(Owner::Pod(self.uid.clone()), Lane::Observe, limit, call));
        }
    }

    /// Whether a look is under way.
    #[must_use]
    pub fn is_observing(&self) -> bool {
        self.observing.is_some()
    }

    /// A look ended.
    pub fn observed(&mut self, now: Now, outcome: Result<Observed, Failure>) {
        match outcome {
            Ok(seen) => {
                if self.observation.as_ref().is_none_or(|known| known.began <= seen.began) {
                    self.observation = Some(seen);
                }
            }
            Err(_) => self.look_at = Some(now.mono + OBSERVE_RETRY),
        }
    }

    /// Finds whose a completion is, and takes it.
    pub fn completed(&mut self, now: Now, id: ActionId, outcome: Result<super::chain::StepReply, Failure>) -> Completed {
        use super::chain::StepReply;
        use crate::event::CriReply;
        if self.observing == Some(id) {
            self.observing = None;
            match outcome {
                Ok(StepReply::Cri(CriReply::Observation(seen))) => self.observed(now, Ok(seen)),
                Ok(_) => {}
                Err(failure) => self.observed(now, Err(failure)),
            }
            return Completed::Observation;
        }
        let end = self.batch.as_mut().and_then(|batch| batch.done(id, outcome));
        end.map_or(Completed::Nothing, Completed::Step)
    }

    /// Begins a batch.
    pub fn begin(&mut self, batch: Batch) {
        debug_assert!(self.batch.is_none(), "one batch at a time");
        self.restart_waits = false;
        self.batch = Some(batch);
    }

    /// Whether a batch is in flight that changes what a look at the runtime would show.
    #[must_use]
    pub fn is_changing(&self) -> bool {
        self.batch.as_ref().is_some_and(Batch::touches_runtime)
    }

    /// The batch is over. What of it failed, and how long that is not to be tried again.
    pub fn end_batch(&mut self, now: Now) -> Option<(Duration, Vec<FailedChain>)> {
        let batch = self.batch.take()?;
        if batch.touches_runtime() {
            self.stale_after = self.stale_after.max(now.mono);
        }
        if batch.failed().is_empty() {
            self.teardown_failures = 0;
            return None;
        }
        let wait = if batch.held_back() {
            STOP_RETRY
        } else if self.phase == Phase::Syncing {
            ERROR_RETRY
        } else {
            self.teardown_failures += 1;
            teardown_wait(self.teardown_failures)
        };
        Some((wait, batch.failed().to_vec()))
    }

    /// Lets the batch go, with what is in flight: its calls are withdrawn and their ends belong to nobody.
    pub fn abandon_batch(&mut self, now: Now, out: &mut Out<'_>) {
        if let Some(batch) = self.batch.take() {
            for action in batch.in_flight() {
                out.cancel(action);
            }
            self.stale_after = self.stale_after.max(now.mono);
        }
    }

    /// The pod is to stop. Asked again, the grace can only shrink; tells whether it did, or whether stopping begins.
    pub fn terminate(&mut self, now: Now, grace: Duration, verdict: Option<Verdict>) -> bool {
        match &mut self.termination {
            None => {
                self.termination = Some(Termination { grace, since: now.mono, verdict });
                self.phase = self.phase.clone().max(Phase::Terminating);
                self.held.clear();
                true
            }
            Some(under_way) => {
                if verdict.is_some() {
                    under_way.verdict = verdict;
                }
                let shrinks = grace < under_way.grace;
                if shrinks {
                    under_way.grace = grace;
                }
                shrinks && self.phase == Phase::Terminating
            }
        }
    }

    /// When a container's grace ends if it began when the pod's termination did.
    #[must_use]
    pub fn grace_ends(&self, now: Now) -> Mono {
        self.termination.as_ref().map_or(now.mono, |t| t.since.max(now.mono - t.grace) + t.grace)
    }

    /// Whether it came from a file or a URL, or is of system priority: what the node itself needs, whatever annotations say.
    #[must_use]
    pub fn is_of_the_node(&self) -> bool {
        let priority = self.pod.spec.as_ref().and_then(|spec| spec.priority);
        self.source.is_some_and(|source| source != PodSource::Api) || priority.is_some_and(|own| own >= SYSTEM_CRITICAL_PRIORITY)
    }

    /// Gives a warning once, until [`PodWorker::made_progress`]. Words of the runtime may name another ID with each try: of those, not
    /// all are remembered.
    pub fn warn_once(&mut self, key: &str) -> bool {
        if self.warned.contains(key) {
            return false;
        }
        let containers = self.pod.spec.as_ref().map_or(0, |s| s.containers.len() + s.init_containers.as_ref().map_or(0, Vec::len));
        if self.warned.len() >= WARNINGS_OF_EACH * containers.max(1) {
            self.warned.clear();
        }
        self.warned.insert(key.to_owned())
    }

    /// The pod moved on: warnings may be given again.
    pub fn made_progress(&mut self) {
        self.warned.clear();
    }

    /// Whether the next look waits for time to pass.
    #[must_use]
    pub fn look_waits(&self, now: Now) -> bool {
        self.look_at.is_some_and(|at| at > now.mono)
    }

    /// It is planned now. What a plan costs grows with the pod's containers, and so does the pause until the next: events of a pod with
    /// thousands of them come by the thousand, and each would have all looked at.
    pub fn is_planned(&mut self, now: Now) {
        let containers = self.pod.spec.as_ref().map_or(0, |spec| {
            spec.containers.len()
                + spec.init_containers.iter().flatten().count()
                + spec.ephemeral_containers.iter().flatten().count()
        });
        let many = u32::try_from(containers.saturating_sub(WITHOUT_REST)).unwrap_or(u32::MAX);
        self.changed_at_rest = false;
        self.rests_until = now.mono + REST_OF_EACH.saturating_mul(many);
        #[cfg(test)]
        {
            self.plans += 1;
        }
    }

    /// When there is something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        if self.changed_at_rest {
            return Some(self.rests_until);
        }
        if self.phase == Phase::Finished {
            return None;
        }
        let batch = self.batch.as_ref().and_then(Batch::deadline);
        // While a batch changes things nothing is looked at or planned, so nothing else needs time to pass.
        let plan =
            if self.is_changing() || self.observing.is_some() { None } else { earliest([self.look_at, self.held.deadline()]) };
        let wake = if self.batch.is_some() { None } else { self.wake_at };
        earliest([batch, plan, wake])
    }

    /// Time passed: what waited for it does not wait any more.
    pub fn time_passed(&mut self, now: Now) {
        if self.look_at.is_some_and(|at| at <= now.mono) {
            self.look_at = None;
        }
        if self.held.time_passed(now.mono) {
            // What was not known of what failed is looked up before it is tried again.
            self.runtime_changed(now);
        }
        if self.wake_at.is_some_and(|at| at <= now.mono) {
            self.wake_at = None;
        }
    }

    /// The pod's IP: that of its newest sandbox if it is up, else what was last reported (POD-058, NET-005).
    #[must_use]
    pub fn pod_ip(&self) -> Option<&str> {
        let seen = self.observation.as_ref().and_then(|o| o.sandboxes.first()).and_then(|s| s.ips.first()).map(String::as_str);
        seen.or_else(|| self.pod.status.as_ref()?.pod_ip.as_deref())
    }

    /// What is seen of the pod: the last observation, or nothing at all.
    #[must_use]
    pub fn seen(&self) -> Observed {
        self.observation.clone().unwrap_or_else(|| Arc::new(PodObservation::empty(self.uid.clone(), Mono::ZERO)))
    }
}

/// How long a pod that is to go waits after so many failures in a row.
fn teardown_wait(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(2).min(5);
    if failures <= 1 { Duration::ZERO } else { (STOP_RETRY * 2u32.pow(doublings)).min(ERROR_RETRY) }
}

/// How long calls for pods may take.
#[must_use]
pub fn call_limits(runtime_request_timeout: Duration) -> CallLimits {
    /// Host work is local; what takes longer hangs.
    const HOST: Duration = Duration::from_secs(120);
    CallLimits { runtime: runtime_request_timeout, host: HOST }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    // Issue 10: words of a runtime that names another ID with each try are told each time, and not remembered without end; what a pod of
    // many containers is told of each of them is told once.
    #[test]
    fn warnings_are_remembered_up_to_a_bound_of_the_pods_containers() {
        let now = Now { mono: Mono::ZERO, wall: jiff::Timestamp::UNIX_EPOCH };
        let containers: Vec<_> = (0..100).map(|number| json!({"name": format!("c{number}")})).collect();
        let pod = json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": containers}});
        let mut worker = PodWorker::new(now, PodUid::new("u"), Arc::new(serde_json::from_value(pod).unwrap()), None);
        for first in [true, false] {
            assert!((0..100).all(|number| worker.warn_once(&format!("c{number}: no")) == first));
        }
        assert!((0..100_000).all(|id| worker.warn_once(&format!("sandbox {id}"))));
        assert!(worker.warned.len() <= 100 * WARNINGS_OF_EACH);
    }

    // Admission looks at all pods for each new one: what they ask for is read once for each version of their objects.
    #[test]
    fn requests_are_summed_up_once_for_each_version() {
        let pod = |cpu: &str| -> Arc<Pod> {
            let containers = json!([{"name": "c", "resources": {"requests": {"cpu": cpu}}}]);
            Arc::new(serde_json::from_value(json!({"spec": {"containers": containers}})).unwrap())
        };
        let now = Now { mono: Mono::ZERO, wall: jiff::Timestamp::UNIX_EPOCH };
        let mut worker = PodWorker::new(now, PodUid::new("u"), pod("1"), None);
        assert_eq!(worker.requests(), None);
        worker.sum_up();
        // Whoever summed up again would write this over.
        worker.asked.as_mut().unwrap().1.insert("mark".to_owned(), 1);
        worker.sum_up();
        assert!(worker.requests().unwrap().contains_key("mark"));
        worker.pod = pod("2");
        assert_eq!(worker.requests(), None);
        worker.sum_up();
        assert_eq!(*worker.requests().unwrap(), [("cpu".to_owned(), 2000)].into());
    }
}
