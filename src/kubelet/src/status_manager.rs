//! Decides when the API server is told of a pod's status, and when a pod is finally deleted there.
//! Upstream: pkg/kubelet/status/status_manager.go.
//! Differs: no GET before a PATCH, for the watch has shown the object; pods are patched side by side, one patch each; that a sandbox is
//! up is told together with its first container, if that one comes at once.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};

use crate::action::{ApiCall, Call, Lane};
use crate::alarms::Alarms;
use crate::canonical_quantity::canonical_status;
use crate::event::ApiReply;
use crate::failure::{Failure, FailureKind};
use crate::ids::{PodName, PodUid};
use crate::out::{Out, Owner};
use crate::pod::conditions::{OWNED, READY_TO_START};
use crate::pod::manager::{name_of, uid_of};
use crate::status_patch::pod_status_patch;
use crate::time::{Mono, Now};
use crate::work::Point;

const TIMEOUT: Duration = Duration::from_secs(30);
/// POD-301: what failed is tried again in the next pass; the first time sooner.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(10);
/// How long a patch waits that was sent before and answered well: whoever makes the difference anew is not fought at full speed.
const REPEAT_FIRST: Duration = Duration::from_secs(1);
const REPEAT_MOST: Duration = Duration::from_secs(5 * 60);
/// POD-132: how long a sandbox that is up waits to be told of together with its first container.
const TOGETHER: Duration = Duration::from_millis(500);
/// How long after the first half of a deletion the second may take: an API server writes it at once.
const SECOND_HALF: Duration = Duration::from_secs(10);

/// What may be told, and what may follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gate {
    /// Something of the pod may still run: a terminal phase is withheld (POD-271).
    pub may_run: bool,
    /// Nothing is left to do: a deleted pod may go from the API (POD-270).
    pub finished: bool,
}

#[derive(Debug)]
struct Tracked {
    name: PodName,
    /// As the API server last showed it.
    api: PodStatus,
    /// The resourceVersion of that.
    version: Option<u64>,
    /// The resourceVersion that the watch showed last: less than `version` while the answer to a write is ahead of it.
    watched: Option<u64>,
    /// As it should be; `None` until it was computed.
    wanted: Option<PodStatus>,
    gate: Gate,
    deleting: bool,
    /// The API server let it go; only finalizers can hold it still.
    released: bool,
    /// Of a static pod: the mirror that its status is told to, if there is one.
    mirror: Option<Option<PodUid>>,
    in_flight: Option<Doing>,
    /// Until when a deletion whose first half the watch has shown is taken to go on by itself.
    half_deleted: Option<Mono>,
    /// How many calls have failed in a row.
    failures: u32,
    not_before: Mono,
    sent: Sent,
    /// When news that may wait for more is told.
    together: Option<Mono>,
    gone: bool,
}

/// The last patch, so that a repeat of it is known.
#[derive(Debug, Default)]
struct Sent {
    digest: u64,
    /// When it was answered well.
    answered: Option<Mono>,
    /// How often it was sent again.
    repeats: u32,
    /// Until when it is held back now.
    held: Option<Mono>,
}

impl Sent {
    /// When a patch may go out.
    fn earliest(&self, digest: u64) -> Mono {
        let Some(answered) = self.answered.filter(|_| self.digest == digest) else { return Mono::ZERO };
        // What somebody overwrote is repaired at once; what is overwritten again and again, or never kept, with growing pauses.
        let Some(before) = self.repeats.checked_sub(1) else { return answered };
        answered + (REPEAT_FIRST * 2u32.pow(before.min(9))).min(REPEAT_MOST)
    }

    fn goes_out(&mut self, digest: u64) {
        let repeated = self.digest == digest && self.answered.is_some();
        self.repeats = if repeated { self.repeats.saturating_add(1) } else { 0 };
        self.digest = digest;
        self.answered = None;
    }
}

fn digest_of(patch: &serde_json::Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(patch.to_string().as_bytes());
    hasher.finish()
}

#[derive(Debug, PartialEq, Eq)]
enum Doing {
    Patching,
    Deleting,
}

/// The status manager.
#[derive(Debug, Default)]
pub struct StatusManager {
    pods: BTreeMap<PodUid, Tracked>,
    alarms: Alarms<PodUid>,
}

impl StatusManager {
    /// A manager that knows of no pod.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The status as last computed.
    #[must_use]
    pub fn status(&self, uid: &PodUid) -> Option<&PodStatus> {
        self.pods.get(uid)?.wanted.as_ref()
    }

    /// The API server showed the pod.
    pub fn pod_seen(&mut self, now: Now, pod: &Arc<Pod>) {
        let Some(uid) = uid_of(pod) else { return };
        let mut status = pod.status.clone().unwrap_or_default();
        canonical_status(&mut status);
        let deleting = pod.metadata.deletion_timestamp.is_some();
        match self.pods.get_mut(&uid) {
            Some(tracked) if tracked.is_behind(version_of(pod)) => tracked.watched = version_of(pod),
            Some(tracked) => {
                tracked.api = status;
                tracked.version = version_of(pod);
                tracked.watched = tracked.version;
                tracked.deleting = deleting;
                // What our own DELETE made of it first: the object goes with its second half.
                tracked.released = held_by_finalizers(pod) || (tracked.gone && grace_is_over(pod));
                tracked.gone = false;
                tracked.goes_by_itself(now, pod);
            }
            None => {
                let tracked = self.pods.entry(uid).or_insert_with(|| Tracked::new(pod, status));
                tracked.goes_by_itself(now, pod);
            }
        }
    }

    /// A static pod is wanted: its status is told once it has a mirror (POD-302).
    pub fn static_seen(&mut self, pod: &Arc<Pod>) {
        let Some(uid) = uid_of(pod) else { return };
        let new = || Tracked { mirror: Some(None), ..Tracked::new(pod, PodStatus::default()) };
        self.pods.entry(uid).or_insert_with(new);
    }

    /// The API server has a mirror of a static pod, as it is shown, or has none. Answers whether the pod's status is to be computed
    /// anew, which it can be if `is_computed`: the mirror tells what an earlier life told, and that goes on (`updateStatusInternal`).
    #[must_use]
    pub fn mirror_seen(&mut self, now: Now, uid: &PodUid, mirror: Option<&Arc<Pod>>, is_computed: bool, out: &mut Out<'_>) -> bool {
        let Some(tracked) = self.pods.get_mut(uid) else { return false };
        let shown = mirror.and_then(|mirror| uid_of(mirror));
        let Some(mirror) = mirror else {
            tracked.mirror = Some(None);
            return false;
        };
        let version = version_of(mirror);
        if tracked.mirror.as_ref() != Some(&shown) {
            let (mut wanted, gate) = (tracked.wanted.take(), tracked.gate);
            let told = shown_status(mirror);
            let goes_on = tracked.mirror == Some(None) && told.start_time.is_some();
            if let Some(last) = wanted.as_mut().filter(|_| goes_on) {
                last.start_time.clone_from(&told.start_time);
            }
            let goes_on = goes_on && is_computed;
            let wanted = wanted.filter(|_| !goes_on);
            *tracked = Tracked { mirror: Some(shown), wanted, gate, ..Tracked::new(mirror, told) };
            tracked.watched = version;
            self.tell(now, uid, out);
            return goes_on;
        }
        if tracked.watched == version {
            return false;
        }
        if !tracked.is_behind(version) {
            tracked.api = shown_status(mirror);
            tracked.version = version;
            tracked.gone = false;
        }
        tracked.watched = version;
        self.tell(now, uid, out);
        false
    }

    /// The status as last computed, or as the mirror has it from an earlier life.
    #[must_use]
    pub fn last_known(&self, uid: &PodUid) -> Option<&PodStatus> {
        self.status(uid).or_else(|| self.told(uid))
    }

    /// The status of a static pod as its mirror has it, if it has one.
    #[must_use]
    pub fn told(&self, uid: &PodUid) -> Option<&PodStatus> {
        self.pods.get(uid).filter(|tracked| tracked.mirror.as_ref().is_some_and(Option::is_some)).map(|tracked| &tracked.api)
    }

    /// The API server has the pod no more. Answers its name, if it was known.
    pub fn pod_gone(&mut self, uid: &PodUid) -> Option<PodName> {
        self.alarms.set(uid, None);
        self.pods.remove(uid).map(|tracked| tracked.name)
    }

    /// The pod's status was computed.
    pub fn set_status(&mut self, uid: &PodUid, mut status: PodStatus, gate: Gate) {
        if let Some(tracked) = self.pods.get_mut(uid) {
            canonical_status(&mut status);
            tracked.wanted = Some(status);
            tracked.gate = gate;
        }
    }

    /// The pod's worker has finished: its last status stands, if it says how the pod ended. Answers whether it does.
    pub fn finished(&mut self, uid: &PodUid, gate: Gate) -> bool {
        let Some(tracked) = self.pods.get_mut(uid).filter(|tracked| tracked.wanted.as_ref().is_some_and(is_terminal)) else {
            return false;
        };
        tracked.gate = gate;
        true
    }

    /// Nothing of a static pod runs any more: how it ended is not withheld any longer (`SyncTerminatedPod`).
    pub fn ended(&mut self, now: Now, uid: &PodUid, out: &mut Out<'_>) {
        if let Some(tracked) = self.pods.get_mut(uid)
            && tracked.wanted.is_some()
            && tracked.gate.may_run
        {
            tracked.gate.may_run = false;
            self.tell(now, uid, out);
        }
    }

    /// The pod was refused (POD-032): this is its last status, and nothing of it runs.
    pub fn reject(&mut self, now: Now, pod: &Arc<Pod>, status: PodStatus, out: &mut Out<'_>) {
        if let Some(uid) = uid_of(pod) {
            self.set_status(&uid, status, Gate { may_run: false, finished: true });
            self.tell(now, &uid, out);
        }
    }

    /// The core failed on the pod: this is what is told of it, and nothing more by itself for as long as a call may take.
    pub fn set_aside(&mut self, now: Now, uid: &PodUid, status: PodStatus, out: &mut Out<'_>) {
        self.alarms.set(uid, None);
        if let Some(tracked) = self.pods.get_mut(uid) {
            let gate = tracked.gate;
            self.set_status(uid, status, gate);
            self.tell(now, uid, out);
        }
    }

    /// When something is to be told, again or at last.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        self.alarms.first()
    }

    /// Tells what is to be told.
    pub fn due(&mut self, now: Now, out: &mut Out<'_>) {
        let due: Vec<PodUid> = self.alarms.due(now.mono).cloned().collect();
        for uid in due {
            out.works_for(Point::Status, &uid);
            self.tell(now, &uid, out);
        }
    }

    /// Tells of one pod, if there is news that may not wait, and no call in flight.
    pub fn tell(&mut self, now: Now, uid: &PodUid, out: &mut Out<'_>) {
        if let Some(tracked) = self.pods.get_mut(uid) {
            tracked.tell(now, uid, out);
            self.alarms.set(uid, tracked.deadline(now));
        }
    }

    /// A call ended.
    pub fn done(&mut self, now: Now, uid: &PodUid, outcome: Result<ApiReply, Failure>, out: &mut Out<'_>) {
        let Some(tracked) = self.pods.get_mut(uid) else { return };
        // What was sent to a mirror that is no more says nothing.
        let Some(doing) = tracked.in_flight.take() else { return };
        let target = tracked.target(uid).clone();
        match outcome {
            Ok(reply) => {
                tracked.failures = 0;
                tracked.not_before = Mono::ZERO;
                if doing == Doing::Patching {
                    tracked.sent.answered = Some(now.mono);
                }
                if let ApiReply::Pod(pod) = reply
                    && uid_of(&pod).as_ref() == Some(&target)
                    && !tracked.has_seen_newer(&pod)
                {
                    tracked.version = version_of(&pod);
                    tracked.api = pod.status.clone().unwrap_or_default();
                    canonical_status(&mut tracked.api);
                    tracked.deleting |= pod.metadata.deletion_timestamp.is_some();
                }
                if doing == Doing::Deleting {
                    tracked.released = true;
                    tracked.gone = true;
                }
            }
            // POD-301: gone, or another pod of that name: the watch will say so too.
            Err(failure) if matches!(failure.kind, FailureKind::NotFound | FailureKind::Conflict) => tracked.gone = true,
            Err(failure) => {
                let wait = (RETRY_FIRST * 2u32.pow(tracked.failures.min(6))).min(RETRY_MOST);
                let asked = if let FailureKind::Throttled { after: Some(after) } = failure.kind { after } else { Duration::ZERO };
                tracked.failures += 1;
                tracked.not_before = now.mono + wait.max(asked);
            }
        }
        self.tell(now, uid, out);
    }
}

/// The status of a pod as the API server shows it, with quantities as they are compared.
fn shown_status(pod: &Pod) -> PodStatus {
    let mut status = pod.status.clone().unwrap_or_default();
    canonical_status(&mut status);
    status
}

/// Whether nothing but finalizers holds a deleted pod: nobody has to say again that it may go. One without finalizers is there because the
/// second half of its deletion failed, and only another DELETE makes it go (apiserver/pkg/registry/rest/delete.go, BeforeDelete).
fn held_by_finalizers(pod: &Pod) -> bool {
    grace_is_over(pod) && pod.metadata.finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty())
}

fn grace_is_over(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some() && pod.metadata.deletion_grace_period_seconds == Some(0)
}

/// The object's version; API servers number them upwards.
fn version_of(pod: &Pod) -> Option<u64> {
    pod.metadata.resource_version.as_deref()?.parse().ok()
}

impl Tracked {
    fn new(pod: &Pod, api: PodStatus) -> Self {
        Self {
            name: name_of(pod),
            api,
            version: version_of(pod),
            watched: version_of(pod),
            wanted: None,
            gate: Gate::default(),
            deleting: pod.metadata.deletion_timestamp.is_some(),
            released: held_by_finalizers(pod),
            mirror: None,
            in_flight: None,
            half_deleted: None,
            failures: 0,
            not_before: Mono::ZERO,
            sent: Sent::default(),
            together: None,
            gone: false,
        }
    }

    /// The second half of a deletion follows within a moment, unless it fails: only then the pod is to be deleted once more.
    fn goes_by_itself(&mut self, now: Now, pod: &Pod) {
        if grace_is_over(pod) {
            self.half_deleted.get_or_insert(now.mono + SECOND_HALF);
        } else {
            self.half_deleted = None;
        }
    }

    /// Whether the watch has shown what others made of the pod since the answer to a write was given.
    fn has_seen_newer(&self, answer: &Pod) -> bool {
        matches!((self.version, version_of(answer)), (Some(seen), Some(answer)) if answer < seen)
    }

    /// Whether the watch only shows now what was before the answer to the last write: it comes to that answer by itself. An API
    /// server that was set back shows something older than the watch showed before, and that counts, unless the pod is gone.
    fn is_behind(&self, shown: Option<u64>) -> bool {
        let (Some(shown), Some(known)) = (shown, self.version) else { return false };
        if self.gone { shown <= known } else { shown < known && self.watched.is_some_and(|before| before <= shown) }
    }

    /// When it is to be told of although nothing happens: what failed, and what waited for more.
    fn deadline(&self, now: Now) -> Option<Mono> {
        let waits = self.mirror != Some(None) && self.in_flight.is_none() && !self.gone;
        let again = Some(self.not_before).filter(|at| *at > now.mono);
        let half = self.half_deleted.filter(|at| *at > now.mono && self.gate.finished && !self.released);
        again.max(self.together).max(self.sent.held).max(half).filter(|_| waits)
    }

    /// What is to be sent: the wanted status, a terminal phase withheld while something may run.
    fn patch_base(&self) -> Option<PodStatus> {
        let mut status = self.wanted.clone()?;
        if self.gate.may_run && is_terminal(&status) && !is_terminal(&self.api) {
            status.phase.clone_from(&self.api.phase);
            status.reason.clone_from(&self.api.reason);
            status.message.clone_from(&self.api.message);
        }
        // POD-286, POD-288: never back. A mirror has no life of its own: its pod may run again.
        if is_terminal(&self.api) && self.mirror.is_none() {
            status.phase.clone_from(&self.api.phase);
        }
        status.observed_generation = status.observed_generation.max(self.api.observed_generation);
        // POD-300: what others own is theirs.
        status.resource_claim_statuses.clone_from(&self.api.resource_claim_statuses);
        status.nominated_node_name.clone_from(&self.api.nominated_node_name);
        keep_foreign_conditions(&mut status, &self.api);
        Some(status).filter(|status| *status != self.api)
    }

    /// The pod in the API that the status is told to.
    fn target<'a>(&'a self, uid: &'a PodUid) -> &'a PodUid {
        self.mirror.as_ref().and_then(Option::as_ref).unwrap_or(uid)
    }

    fn may_delete(&self, now: Now) -> bool {
        let goes_by_itself = self.half_deleted.is_some_and(|until| until > now.mono);
        self.deleting && !self.released && !goes_by_itself && self.mirror.is_none() && self.gate.finished && is_terminal(&self.api)
    }

    fn tell(&mut self, now: Now, uid: &PodUid, out: &mut Out<'_>) {
        if self.mirror == Some(None) || self.in_flight.is_some() || self.gone || self.not_before > now.mono {
            return;
        }
        self.sent.held = None;
        let base = self.patch_base();
        let may_wait = base.as_ref().is_some_and(|status| only_sandbox_came_up(&self.api, status));
        if may_wait && *self.together.get_or_insert(now.mono + TOGETHER) > now.mono {
            return;
        }
        self.together = None;
        let (namespace, name) = (self.name.namespace.to_string(), self.name.name.to_string());
        let patch = base.and_then(|status| pod_status_patch(self.target(uid), &self.api, &status));
        let patch = patch.map(|patch| (digest_of(&patch), patch));
        let held = patch.as_ref().map(|(digest, _)| self.sent.earliest(*digest)).filter(|at| *at > now.mono);
        self.sent.held = held;
        // A difference that does not go away does not keep a pod from going.
        let (doing, call) = if let Some((digest, patch)) = patch.filter(|_| held.is_none()) {
            self.sent.goes_out(digest);
            (Doing::Patching, ApiCall::PatchPodStatus { namespace, name, patch })
        } else if self.may_delete(now) {
            (Doing::Deleting, ApiCall::DeletePod { namespace, name, uid: uid.clone(), grace_seconds: 0 })
        } else {
            return;
        };
        self.in_flight = Some(doing);
        out.issue(Owner::PodStatus(uid.clone()), Lane::PodStatus, TIMEOUT, Call::Api(call));
    }
}

/// Others' conditions are sent as the API server has them now, not as they were when the status was computed.
fn keep_foreign_conditions(status: &mut PodStatus, api: &PodStatus) {
    let foreign = |type_: &str| !OWNED.contains(&type_);
    let mut conditions = status.conditions.take().unwrap_or_default();
    conditions.retain(|c| !foreign(&c.type_));
    conditions.extend(api.conditions.iter().flatten().filter(|c| foreign(&c.type_)).cloned());
    status.conditions = (!conditions.is_empty()).then_some(conditions);
}

/// Whether all the news of a pod is that its sandbox is up, and with it its addresses. A container of it starts within moments, unless
/// its image has to be pulled: one patch then tells of both.
fn only_sandbox_came_up(api: &PodStatus, wanted: &PodStatus) -> bool {
    fn others(status: &PodStatus) -> impl Iterator<Item = &PodCondition> {
        status.conditions.iter().flatten().filter(|condition| condition.type_ != READY_TO_START)
    }
    let rest = |status: &PodStatus| PodStatus { conditions: None, pod_ip: None, pod_ips: None, ..status.clone() };
    let up = wanted.conditions.iter().flatten().any(|condition| condition.type_ == READY_TO_START && condition.status == "True");
    up && api.start_time.is_some()
        && wanted.phase.as_deref() == Some("Pending")
        && others(api).eq(others(wanted))
        && rest(api) == rest(wanted)
}

fn is_terminal(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

#[cfg(test)]
mod tests;
