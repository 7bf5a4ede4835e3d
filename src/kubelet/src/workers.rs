//! Decides which pods have a worker, and what makes one stop: deletion, a terminal phase, removal from every source.
//! Upstream: pkg/kubelet/pod_workers.go (UpdatePod), pkg/kubelet/kubelet_pods.go (HandlePodCleanups).
//! Differs: clean-up follows each change, without a pass every two seconds; a running pod that is refused stops before it is Failed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::action::{ApiCall, Call, Lane};
use crate::admission::{Admission, Beside, NODE_AFFINITY, admit};
use crate::event::{ApiReply, PodSource};
use crate::facts::Fact;
use crate::failure::Failure;
use crate::ids::{ActionId, PodName, PodUid};
use crate::kubelet::Kubelet;
use crate::out::{Out, Owner};
use crate::pleg::{Pleg, RuntimePod};
use crate::pod::chain::StepReply;
use crate::pod::conditions::RESIZE_PENDING;
use crate::pod::manager::{Changes, DesiredPod, is_static, name_of};
use crate::pod::plan;
use crate::pod::report::{rejected_status, step_ended};
use crate::pod::startup_latency::started;
use crate::pod::stop::pod_grace;
use crate::pod::worker::{Completed, Phase, PodWorker, Verdict};
use crate::recorder::{Recorded, Subject};
use crate::resources::allocated::{Allocated, allocated, allocated_before, refusal_message};
use crate::resources::requests::{Kind, pod_amounts};
use crate::time::Now;
use crate::work::{Point, caught};

/// POD-087: the grace of a pod that no source knows.
const ORPHAN_GRACE: Duration = Duration::from_secs(1);
/// How long the node may be asked for before a pod is judged by what is known of it.
const NODE_LIMIT: Duration = Duration::from_secs(10);
/// How often one pod may be planned within one event: planning converges at once, or something is wrong.
const MOST_PLANS: usize = 16;

/// Pods that the node as it is known does not fit, by its labels.
#[derive(Debug, Default)]
pub(crate) struct Doubts {
    /// Those that wait for the node to be asked for again.
    waiting: BTreeSet<PodUid>,
    /// Those that have waited.
    known: BTreeSet<PodUid>,
    asked: Option<ActionId>,
}

/// Whether the API says that the pod has ended.
#[must_use]
pub fn phase_is_terminal(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

impl Kubelet {
    /// A source changed its pods.
    pub(crate) fn pods_changed(&mut self, now: Now, changes: Changes, out: &mut Out<'_>) {
        // Most of what is told is news of one pod that is known: nobody comes or goes, and the others are not looked at.
        let news = !(changes.updated.is_empty() && changes.reconciled.is_empty());
        let moves = !(news && changes.added.is_empty() && changes.removed.is_empty());
        let resized = moves || !changes.updated.is_empty();
        for uid in changes.failed {
            self.panicked(now, &uid, None, out);
        }
        for uid in changes.removed {
            self.for_pod(now, Point::PodRemoved, &uid, out, |kubelet, _| kubelet.pod_removed(now, &uid));
        }
        for uid in changes.added {
            self.for_pod(now, Point::PodAdded, &uid, out, |kubelet, out| kubelet.pod_added(now, &uid, out));
        }
        for uid in changes.updated.into_iter().chain(changes.reconciled) {
            self.for_pod(now, Point::PodUpdated, &uid, out, |kubelet, out| kubelet.pod_updated(now, &uid, out));
        }
        out.rests();
        if moves {
            self.adopt_orphans(now, out);
        }
        if resized {
            self.housekeeping.pods_changed(now);
        }
    }

    pub(crate) fn pod_added(&mut self, now: Now, uid: &PodUid, out: &mut Out<'_>) {
        let Some(mut desired) = self.pods.get(uid).cloned() else { return };
        self.status_follows(now, &desired);
        // What it was admitted with stands, whatever its spec asks for since.
        desired.pod = allocated_before(&desired.pod, &self.parts.config.pods).pod;
        let name = name_of(&desired.pod);
        if is_static(&desired.pod) {
            if self.housekeeping.is_clearing(uid) {
                // POD-080: one of that UID was here before, and is still being cleared away.
                self.static_pods.postponed.insert(uid.clone());
                return;
            }
            self.queue(name, uid, false);
        }
        if let Some(orphan) = self.workers.get_mut(uid) {
            // It was only in the runtime, or had been removed: the object tells how it is to end (POD-080).
            orphan.pod = Arc::clone(&desired.pod);
            orphan.source = Some(desired.source);
            orphan.adopted = false;
            orphan.revived = is_static(&desired.pod) && orphan.termination.is_some();
            self.dirty.insert(uid.clone());
            return;
        }
        if self.quarantine.holds(uid) {
            self.add_held(now, uid, desired.pod, desired.source, out);
            return;
        }
        let deleting = desired.pod.metadata.deletion_timestamp.is_some();
        if !phase_is_terminal(&desired.pod)
            && !deleting
            && let Admission::Refused { reason, message } = self.admit(now, &desired.pod)
        {
            if reason == NODE_AFFINITY && self.doubt(uid, out) {
                return;
            }
            out.record(Recorded::warning(Subject::Pod(Arc::clone(&desired.pod)), reason.clone(), message.clone()));
            if self.was_here(&desired.pod, uid) {
                let verdict = Verdict { reason, message: format!("Pod was rejected: {message}"), disruption: false };
                self.stop_refused(now, uid, verdict);
                return;
            }
            self.unqueue(&name_of(&desired.pod), uid);
            let status = rejected_status(&desired.pod, &reason, &message, now);
            self.parts.statuses.reject(now, &desired.pod, status, out);
            return;
        }
        out.count(Fact::PodCame(desired.pod.spec.as_ref().map_or(0, |spec| spec.containers.len())));
        let worker = PodWorker::new(now, uid.clone(), desired.pod, Some(desired.source));
        self.workers.insert(uid.clone(), worker);
        self.pod_updated(now, uid, out);
    }

    /// A pod of which an earlier life may have died. If it has its place already, it keeps it; else it is judged when its pause is over.
    fn add_held(&mut self, now: Now, uid: &PodUid, pod: Arc<Pod>, source: PodSource, out: &mut Out<'_>) {
        if pod.status.as_ref().is_some_and(|status| status.start_time.is_some()) && !phase_is_terminal(&pod) {
            self.workers.insert(uid.clone(), PodWorker::new(now, uid.clone(), pod, Some(source)));
        }
        self.tell_suspect(now, uid, out);
    }

    /// POD-035: the scheduler may know labels of the node that have not come this far yet. Before a pod is refused for good on their
    /// account, they are asked for, once. True if the pod is to wait for them.
    fn doubt(&mut self, uid: &PodUid, out: &mut Out<'_>) -> bool {
        let doubts = &mut self.affinity;
        if doubts.known.contains(uid) {
            return false;
        }
        doubts.waiting.insert(uid.clone());
        if doubts.asked.is_none() {
            let call = Call::Api(ApiCall::GetNode);
            doubts.asked = Some(out.issue(Owner::Affinity, Lane::Objects, NODE_LIMIT, call));
        }
        true
    }

    /// The node was asked for again, or is not to be had: those who wait are judged by what is known.
    pub(crate) fn doubts_end(&mut self, now: Now, outcome: Result<ApiReply, Failure>, out: &mut Out<'_>) {
        if let Ok(ApiReply::Node(node)) = outcome {
            self.parts.node.seen(node, out);
        }
        self.affinity.asked = None;
        self.affinity.known = std::mem::take(&mut self.affinity.waiting);
        for uid in self.affinity.known.clone() {
            self.pod_added(now, &uid, out);
        }
        self.affinity.known.clear();
    }

    /// Whether the runtime may hold something of a pod that this life of the agent has not looked at yet.
    fn was_here(&self, pod: &Pod, uid: &PodUid) -> bool {
        let statuses = pod.status.iter().flat_map(|s| s.container_statuses.iter().chain(&s.init_container_statuses).flatten());
        self.pleg.holds(uid) || (!self.pleg.has_listed() && statuses.into_iter().any(|status| status.container_id.is_some()))
    }

    /// A pod that an earlier life began with is refused: it is stopped, and has failed once nothing of it runs any more.
    fn stop_refused(&mut self, now: Now, uid: &PodUid, verdict: Verdict) {
        let Some(desired) = self.pods.get(uid).cloned() else { return };
        if is_static(&desired.pod) {
            // Nothing else of its name starts before it is gone (POD-081).
            self.queue(name_of(&desired.pod), uid, true);
        }
        let mut worker = PodWorker::new(now, uid.clone(), Arc::clone(&desired.pod), Some(desired.source));
        worker.terminate(now, pod_grace(&desired.pod), Some(verdict));
        self.workers.insert(uid.clone(), worker);
        self.dirty.insert(uid.clone());
    }

    /// Refused pods of which the runtime turns out to hold something: a listing may come after the pods did.
    fn stop_refused_that_were_here(&mut self, now: Now) {
        let refused = |pod: &&RuntimePod| {
            !self.workers.contains_key(&pod.uid)
                && self.pods.get(&pod.uid).is_some()
                && !self.affinity.waiting.contains(&pod.uid)
                // It was not refused: nobody has come to judge it yet.
                && self.quarantine.times(&pod.uid) == 0
        };
        let running: Vec<PodUid> = self.pleg.runtime_pods().filter(refused).map(|pod| pod.uid.clone()).collect();
        for uid in running {
            let status = self.parts.statuses.status(&uid).cloned().unwrap_or_default();
            let (reason, message) = (status.reason.unwrap_or_default(), status.message.unwrap_or_default());
            self.stop_refused(now, &uid, Verdict { reason, message, disruption: false });
        }
    }

    /// POD-033: whether the pod counts against what the node has. One that has ended counts only while something of it runs.
    pub(crate) fn is_active(pleg: &Pleg, worker: &PodWorker) -> bool {
        let ended = phase_is_terminal(&worker.pod) && !pleg.runs(&worker.uid);
        worker.phase <= Phase::Terminating && worker.source.is_some() && !ended
    }

    fn admit(&mut self, now: Now, pod: &Arc<Pod>) -> Admission {
        // What runs and cannot be read holds what it asked for all the same.
        let runs = |uid: &PodUid| !self.pleg.has_listed() || self.pleg.runs(uid);
        let unread = self.unreadable.unread_pods(&self.workers).filter(|(uid, _)| runs(uid));
        let unread: Vec<Arc<Pod>> = unread.map(|(_, pod)| pod.into()).collect();
        let mut beside = Beside::default();
        for worker in self.workers.values_mut().filter(|worker| Self::is_active(&self.pleg, worker)) {
            worker.sum_up();
            let worker = &*worker;
            if let Some(requests) = worker.requests() {
                beside.add(&worker.pod, requests);
            }
        }
        for pod in &unread {
            beside.add(pod, &pod_amounts(pod, Kind::Requests));
        }
        let machine = self.parts.startup.machine();
        let node = self.parts.node.node_any_way(now, machine, &self.parts.runtime);
        admit(pod, &beside, &node, machine, &self.parts.config)
    }

    pub(crate) fn pod_updated(&mut self, now: Now, uid: &PodUid, out: &mut Out<'_>) {
        let Some(desired) = self.pods.get(uid).cloned() else { return };
        self.status_follows(now, &desired);
        let Some(worker) = self.workers.get_mut(uid) else {
            // A refused pod: nobody plans it, and yet its status is kept as it is, and it may be deleted.
            self.parts.statuses.tell(now, uid, out);
            return;
        };
        let Allocated { pod, refused } = allocated(&desired.pod, &worker.pod);
        if worker.pod.spec != pod.spec {
            worker.held.spec_changed();
        }
        if let Some(refused) = refused.filter(|_| !resize_was_told(worker, &desired.pod)) {
            let message = refusal_message(&desired.pod, refused);
            out.record(Recorded::warning(Subject::Pod(Arc::clone(&desired.pod)), "ResizeInfeasible", message));
        }
        worker.resize_refused = refused;
        worker.pod = pod;
        if worker.starting
            && let Some(fact) = started(&desired.pod, now.wall, self.parts.images.pulled_for(uid))
        {
            worker.starting = false;
            out.count(fact);
        }
        let deleting = desired.pod.metadata.deletion_timestamp.is_some();
        if deleting || phase_is_terminal(&desired.pod) {
            let sooner = worker.terminate(now, pod_grace(&desired.pod), None);
            if sooner {
                self.quarantine.hurry(now.mono, uid);
            }
        }
        self.dirty.insert(uid.clone());
    }

    /// POD-272: the object is gone. Whatever still runs is stopped, and nobody is told.
    pub(crate) fn pod_removed(&mut self, now: Now, uid: &PodUid) {
        let known_as = self.parts.statuses.pod_gone(uid);
        // The API server gives no more tokens for it.
        self.parts.tokens.forget(uid);
        self.static_pods.postponed.remove(uid);
        let Some(worker) = self.workers.get_mut(uid) else {
            self.quarantine.forget(uid);
            // A refused pod: of an earlier life anything may be left.
            let known_as = known_as.unwrap_or_else(|| PodName::new("", ""));
            self.adopt_orphan(now, uid.clone(), known_as.namespace.to_string(), known_as.name.to_string());
            return;
        };
        worker.source = None;
        worker.revived = false;
        // A manifest that goes is how a static pod is deleted. Of one that was deleted by force the last state told the grace; of one that
        // is found gone after the API server was away nobody said that it has less than its own (calculateEffectiveGracePeriod).
        let grace = pod_grace(&worker.pod);
        worker.terminate(now, grace, None);
        self.quarantine.hurry(now.mono, uid);
        self.dirty.insert(uid.clone());
    }

    /// POD-087: what runs of pods that no source knows is stopped; never before every source has spoken (POD-005).
    pub(crate) fn adopt_orphans(&mut self, now: Now, out: &mut Out<'_>) {
        if !self.pods.sources_ready() {
            return;
        }
        self.stop_refused_that_were_here(now);
        let unknown = |pod: &&RuntimePod| {
            !self.workers.contains_key(&pod.uid)
                && self.pods.get(&pod.uid).is_none()
                && !self.unreadable.has_pod(&pod.uid)
                && !self.housekeeping.is_clearing(&pod.uid)
                && !self.quarantine.holds(&pod.uid)
        };
        let orphans: Vec<RuntimePod> = self.pleg.runtime_pods().filter(unknown).cloned().collect();
        for orphan in orphans {
            let uid = orphan.uid.clone();
            self.for_pod(now, Point::PodAdopted, &uid, out, |kubelet, _| {
                kubelet.adopt_orphan(now, orphan.uid, orphan.namespace, orphan.name);
            });
        }
    }

    /// Gives a worker to a pod that only the runtime, or the disk, knows: it is stopped and cleared away.
    pub(crate) fn adopt_orphan(&mut self, now: Now, uid: PodUid, namespace: String, name: String) {
        if !name.is_empty() {
            self.queue(PodName::new(&namespace, &name), &uid, true);
        }
        let mut worker = PodWorker::new(now, uid.clone(), Arc::new(orphaned_pod(&uid, namespace, name)), None);
        worker.adopted = true;
        worker.terminate(now, ORPHAN_GRACE, None);
        self.dirty.insert(uid.clone());
        self.workers.insert(uid, worker);
    }

    /// A worker's call ended.
    pub(crate) fn pod_done(
        &mut self,
        now: Now,
        uid: &PodUid,
        id: ActionId,
        outcome: Result<StepReply, Failure>,
        out: &mut Out<'_>,
    ) {
        let Some(worker) = self.workers.get_mut(uid) else { return };
        if let Completed::Step(end) = worker.completed(now, id, outcome) {
            step_ended(worker, &mut self.parts, &end, out);
        }
        self.dirty.insert(uid.clone());
    }

    /// Lets every pod that was touched plan anew, but for those that are left alone.
    pub(crate) fn settle(&mut self, now: Now, out: &mut Out<'_>) {
        let mut plans: BTreeMap<PodUid, usize> = BTreeMap::new();
        while let Some(uid) = self.dirty.pop_first() {
            if self.quarantine.holds(&uid) {
                self.alarms.set(&uid, None);
                continue;
            }
            let Some(mut worker) = self.workers.remove(&uid) else { continue };
            if worker.rests_until > now.mono && !plans.contains_key(&uid) {
                self.rest(now, &uid, worker, out);
                continue;
            }
            worker.is_planned(now);
            let times = plans.entry(uid.clone()).or_default();
            *times += 1;
            if *times > MOST_PLANS {
                self.workers.insert(uid.clone(), worker);
                self.fails_on(now, &uid, Some("planning does not converge"), out);
                continue;
            }
            self.plan_one(now, &uid, worker, out);
        }
    }

    /// A pod that is not planned yet: what is under way goes on all the same, for that costs no plan, unless the pod is to stop.
    fn rest(&mut self, now: Now, uid: &PodUid, mut worker: PodWorker, out: &mut Out<'_>) {
        worker.changed_at_rest = true;
        let parts = &mut self.parts;
        let gone_on = caught(|| {
            if worker.termination.is_none() {
                out.works_for(Point::Plan, uid);
                plan::go_on(&mut worker, parts, now, out);
            }
        });
        self.alarms.set(uid, worker.deadline());
        self.workers.insert(uid.clone(), worker);
        if let Err(said) = gone_on {
            self.panicked(now, uid, said, out);
        }
    }

    fn plan_one(&mut self, now: Now, uid: &PodUid, mut worker: PodWorker, out: &mut Out<'_>) {
        worker.in_line = self.waits_in_line(&worker.pod, &name_of(&worker.pod));
        let parts = &mut self.parts;
        let planned = caught(|| {
            out.works_for(Point::Plan, uid);
            plan::plan(&mut worker, parts, now, out)
        });
        let done = planned.and_then(|again| {
            if worker.phase == Phase::Finished && worker.revived {
                // POD-080: its manifest is back. What it left it finds again.
                caught(|| {
                    out.works_for(Point::Forget, uid);
                    self.begin_anew(now, &worker, out);
                })?;
                return Ok(None);
            }
            if worker.phase == Phase::Finished && worker.source.is_none() {
                // Nobody knows the pod any more: what is left of it can go.
                caught(|| {
                    out.works_for(Point::Forget, uid);
                    self.forget(now, &worker);
                })?;
                return Ok(None);
            }
            if worker.batch.is_none() {
                caught(|| {
                    out.works_for(Point::CollectDead, uid);
                    self.collect_dead(&worker, out);
                })?;
            }
            Ok(Some(again))
        });
        match done {
            Ok(Some(again)) => {
                self.alarms.set(uid, worker.deadline());
                self.workers.insert(uid.clone(), worker);
                if again {
                    self.dirty.insert(uid.clone());
                }
            }
            Ok(None) => {
                self.alarms.set(uid, None);
                self.quarantine.forget(uid);
            }
            Err(said) => {
                self.workers.insert(uid.clone(), worker);
                self.panicked(now, uid, said, out);
            }
        }
    }

    /// Where the pod's status is told: of a static pod by its mirror (POD-302).
    fn status_follows(&mut self, now: Now, desired: &DesiredPod) {
        if desired.source == PodSource::Api {
            self.parts.statuses.pod_seen(now, &desired.pod);
        } else {
            self.parts.statuses.static_seen(&desired.pod);
        }
    }

    fn begin_anew(&mut self, now: Now, worker: &PodWorker, out: &mut Out<'_>) {
        let uid = &worker.uid;
        self.alarms.set(uid, None);
        self.parts.images.forget(uid);
        self.parts.prober.remove_pod(uid);
        self.parts.volumes.forget(uid);
        self.parts.statuses.pod_gone(uid);
        self.unqueue(&name_of(&worker.pod), uid);
        self.pod_added(now, uid, out);
    }

    /// Static pods that waited for the room that an earlier one of their UID left.
    pub(crate) fn start_postponed(&mut self, now: Now, out: &mut Out<'_>) {
        let free: Vec<PodUid> =
            self.static_pods.postponed.iter().filter(|uid| !self.housekeeping.is_clearing(uid)).cloned().collect();
        for uid in free {
            self.static_pods.postponed.remove(&uid);
            self.pod_added(now, &uid, out);
        }
    }

    fn forget(&mut self, now: Now, worker: &PodWorker) {
        self.unqueue(&name_of(&worker.pod), &worker.uid);
        self.parts.images.forget(&worker.uid);
        self.parts.prober.remove_pod(&worker.uid);
        self.parts.tokens.forget(&worker.uid);
        self.parts.volumes.forget(&worker.uid);
        if worker.adopted {
            self.housekeeping.orphan_ended(now);
        }
        let remains = self.remains_of(worker);
        self.housekeeping.pod_forgotten(&worker.uid, remains);
    }
}

/// What is known of a pod that only the runtime has. A pod without a name is known by its directory alone.
fn orphaned_pod(uid: &PodUid, namespace: String, name: String) -> Pod {
    Pod {
        metadata: ObjectMeta {
            name: Some(name).filter(|name| !name.is_empty()),
            namespace: Some(namespace),
            uid: Some(uid.to_string()),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec { termination_grace_period_seconds: Some(1), ..PodSpec::default() }),
        status: None,
    }
}

/// Whether users were told already that what this version of the pod asks for is refused, or need not be.
fn resize_was_told(worker: &PodWorker, wanted: &Pod) -> bool {
    let generation = wanted.metadata.generation;
    let known = worker.resize_refused.is_some() && worker.pod.metadata.generation == generation;
    let conditions = wanted.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut told = conditions.filter(|c| c.type_ == RESIZE_PENDING && c.observed_generation == generation);
    known || told.next().is_some() || phase_is_terminal(wanted) || wanted.metadata.deletion_timestamp.is_some()
}

#[cfg(test)]
mod tests;
