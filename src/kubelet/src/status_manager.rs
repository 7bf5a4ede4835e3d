//! Decides when the API server is told of a pod's status, and when a pod is finally deleted there.
//! Upstream: pkg/kubelet/status/status_manager.go.
//! Differs: no GET before a PATCH, for the watch has shown the object; pods are patched side by side, one patch each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};

use crate::action::{ApiCall, Call, Lane};
use crate::event::ApiReply;
use crate::failure::{Failure, FailureKind};
use crate::ids::{PodName, PodUid};
use crate::out::{Out, Owner};
use crate::pod::conditions::OWNED;
use crate::pod::manager::{name_of, uid_of};
use crate::status_patch::pod_status_patch;
use crate::time::{Mono, Now};

const TIMEOUT: Duration = Duration::from_secs(30);
/// POD-301: what failed is tried again in the next pass; the first time sooner.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(10);

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
    mirror: bool,
    in_flight: Option<Doing>,
    /// Something happened since the last patch was built.
    failures: u32,
    not_before: Mono,
    gone: bool,
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
    pub fn pod_seen(&mut self, _now: Now, pod: &Arc<Pod>) {
        let Some(uid) = uid_of(pod) else { return };
        let status = pod.status.clone().unwrap_or_default();
        let deleting = pod.metadata.deletion_timestamp.is_some();
        match self.pods.get_mut(&uid) {
            Some(tracked) if tracked.is_behind(version_of(pod)) => tracked.watched = version_of(pod),
            Some(tracked) => {
                tracked.api = status;
                tracked.version = version_of(pod);
                tracked.watched = tracked.version;
                tracked.deleting = deleting;
                // Its last state says that its grace is over.
                tracked.released &= pod.metadata.deletion_grace_period_seconds == Some(0);
                tracked.gone = false;
            }
            None => {
                self.pods.insert(
                    uid,
                    Tracked {
                        name: name_of(pod),
                        api: status,
                        version: version_of(pod),
                        watched: version_of(pod),
                        wanted: None,
                        gate: Gate::default(),
                        deleting,
                        released: false,
                        mirror: false,
                        in_flight: None,
                        failures: 0,
                        not_before: Mono::ZERO,
                        gone: false,
                    },
                );
            }
        }
    }

    /// The API server has the pod no more. Answers its name, if it was known.
    pub fn pod_gone(&mut self, uid: &PodUid) -> Option<PodName> {
        self.pods.remove(uid).map(|tracked| tracked.name)
    }

    /// The pod's status was computed.
    pub fn set_status(&mut self, uid: &PodUid, status: PodStatus, gate: Gate) {
        if let Some(tracked) = self.pods.get_mut(uid) {
            tracked.wanted = Some(status);
            tracked.gate = gate;
        }
    }

    /// The pod was refused (POD-032): this is its last status, and nothing of it runs.
    pub fn reject(&mut self, now: Now, pod: &Arc<Pod>, status: PodStatus, out: &mut Out<'_>) {
        if let Some(uid) = uid_of(pod) {
            self.set_status(&uid, status, Gate { may_run: false, finished: true });
            self.tell(now, &uid, out);
        }
    }

    /// When something is to be told again.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        self.pods
            .values()
            .filter(|t| t.in_flight.is_none() && t.not_before > Mono::ZERO && t.has_work())
            .map(|t| t.not_before)
            .min()
    }

    /// Tells what is to be told. Called after each event: a pod without news costs a comparison, and only if it was touched.
    pub fn due(&mut self, now: Now, out: &mut Out<'_>) {
        for (uid, tracked) in &mut self.pods {
            if tracked.not_before > Mono::ZERO && tracked.not_before <= now.mono {
                tracked.not_before = Mono::ZERO;
                tracked.tell(now, uid, out);
            }
        }
    }

    /// Tells of one pod, if there is news and no call in flight.
    pub fn tell(&mut self, now: Now, uid: &PodUid, out: &mut Out<'_>) {
        if let Some(tracked) = self.pods.get_mut(uid)
            && tracked.not_before <= now.mono
        {
            tracked.tell(now, uid, out);
        }
    }

    /// A call ended.
    pub fn done(&mut self, now: Now, uid: &PodUid, outcome: Result<ApiReply, Failure>, out: &mut Out<'_>) {
        let Some(tracked) = self.pods.get_mut(uid) else { return };
        let doing = tracked.in_flight.take();
        match outcome {
            Ok(reply) => {
                tracked.failures = 0;
                tracked.not_before = Mono::ZERO;
                if let ApiReply::Pod(pod) = reply
                    && uid_of(&pod).as_ref() == Some(uid)
                    && !tracked.has_seen_newer(&pod)
                {
                    tracked.version = version_of(&pod);
                    tracked.api = pod.status.clone().unwrap_or_default();
                    tracked.deleting |= pod.metadata.deletion_timestamp.is_some();
                }
                if doing == Some(Doing::Deleting) {
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
                return;
            }
        }
        tracked.tell(now, uid, out);
    }
}

/// The object's version; API servers number them upwards.
fn version_of(pod: &Pod) -> Option<u64> {
    pod.metadata.resource_version.as_deref()?.parse().ok()
}

impl Tracked {
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

    fn has_work(&self) -> bool {
        !self.gone && (self.patch_base().is_some() || self.may_delete())
    }

    /// What is to be sent: the wanted status, a terminal phase withheld while something may run.
    fn patch_base(&self) -> Option<PodStatus> {
        let mut status = self.wanted.clone()?;
        if self.gate.may_run && is_terminal(&status) && !is_terminal(&self.api) {
            status.phase.clone_from(&self.api.phase);
            status.reason.clone_from(&self.api.reason);
            status.message.clone_from(&self.api.message);
        }
        // POD-286, POD-288: never back.
        if is_terminal(&self.api) {
            status.phase.clone_from(&self.api.phase);
        }
        status.observed_generation = status.observed_generation.max(self.api.observed_generation);
        // POD-300: what others own is theirs.
        status.resource_claim_statuses.clone_from(&self.api.resource_claim_statuses);
        status.nominated_node_name.clone_from(&self.api.nominated_node_name);
        keep_foreign_conditions(&mut status, &self.api);
        Some(status).filter(|status| *status != self.api)
    }

    fn may_delete(&self) -> bool {
        self.deleting && !self.released && !self.mirror && self.gate.finished && is_terminal(&self.api)
    }

    fn tell(&mut self, _now: Now, uid: &PodUid, out: &mut Out<'_>) {
        if self.in_flight.is_some() || self.gone {
            return;
        }
        let (namespace, name) = (self.name.namespace.to_string(), self.name.name.to_string());
        let patch = self.patch_base().and_then(|status| pod_status_patch(uid, &self.api, &status));
        let (doing, call) = if let Some(patch) = patch {
            (Doing::Patching, ApiCall::PatchPodStatus { namespace, name, patch })
        } else if self.may_delete() {
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
    let Some(conditions) = &mut status.conditions else { return };
    conditions.retain(|c| !foreign(&c.type_));
    conditions.extend(api.conditions.iter().flatten().filter(|c| foreign(&c.type_)).cloned());
}

fn is_terminal(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::action::Action;
    use crate::out::Ledger;

    struct Bench {
        manager: StatusManager,
        ledger: Ledger,
        uid: PodUid,
    }

    fn at(seconds: u64) -> Now {
        Now { mono: Mono::from_start(Duration::from_secs(seconds)), wall: jiff::Timestamp::UNIX_EPOCH }
    }

    fn pod(status: serde_json::Value, deleting: bool) -> Arc<Pod> {
        let deletion = deleting.then_some("2026-01-01T00:00:00Z");
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": "p", "namespace": "default", "uid": "u", "deletionTimestamp": deletion}, "status": status,
            }))
            .unwrap(),
        )
    }

    fn at_version(phase: &str, version: &str, deleting: bool) -> Arc<Pod> {
        let mut pod = pod(json!({"phase": phase}), deleting);
        Arc::make_mut(&mut pod).metadata.resource_version = Some(version.to_owned());
        pod
    }

    fn status(phase: &str) -> PodStatus {
        PodStatus { phase: Some(phase.to_owned()), ..PodStatus::default() }
    }

    impl Bench {
        fn new() -> Self {
            let mut manager = StatusManager::new();
            manager.pod_seen(at(0), &pod(json!({"phase": "Pending"}), false));
            Self { manager, ledger: Ledger::default(), uid: PodUid::new("u") }
        }

        fn set(&mut self, now: Now, phase: &str, may_run: bool, finished: bool) -> Vec<ApiCall> {
            self.manager.set_status(&self.uid, status(phase), Gate { may_run, finished });
            self.act(|manager, uid, out| manager.tell(now, uid, out))
        }

        fn done(&mut self, now: Now, outcome: Result<ApiReply, Failure>) -> Vec<ApiCall> {
            self.act(|manager, uid, out| manager.done(now, uid, outcome, out))
        }

        fn act(&mut self, f: impl FnOnce(&mut StatusManager, &PodUid, &mut Out<'_>)) -> Vec<ApiCall> {
            let (mut actions, mut recorded) = (Vec::<Action>::new(), Vec::new());
            f(&mut self.manager, &self.uid, &mut Out::new(&mut self.ledger, &mut actions, &mut recorded));
            actions.into_iter().map(|a| if let Call::Api(call) = a.call { call } else { panic!("only API calls") }).collect()
        }
    }

    fn patched_phase(calls: &[ApiCall]) -> Option<&str> {
        let [ApiCall::PatchPodStatus { patch, .. }] = calls else { return None };
        assert_eq!(patch["metadata"]["uid"], "u");
        patch["status"]["phase"].as_str()
    }

    // POD-300, POD-301: one patch in flight; what comes meanwhile is sent as one.
    #[test]
    fn changes_during_a_patch_are_sent_as_one() {
        let mut bench = Bench::new();
        assert_eq!(patched_phase(&bench.set(at(0), "Running", true, false)), Some("Running"));
        assert!(bench.set(at(0), "Pending", true, false).is_empty());
        assert!(bench.set(at(0), "Running", true, false).is_empty());
        let reply = ApiReply::Pod(pod(json!({"phase": "Running"}), false));
        assert!(bench.done(at(1), Ok(reply)).is_empty());
    }

    // POD-271: users do not see the end before it is one.
    #[test]
    fn terminal_phase_is_withheld_while_something_may_run() {
        let mut bench = Bench::new();
        assert!(bench.set(at(0), "Succeeded", true, false).is_empty());
        assert_eq!(patched_phase(&bench.set(at(0), "Succeeded", false, false)), Some("Succeeded"));
    }

    // POD-270: deleted, terminal, finished: then it goes, with its UID as precondition.
    #[test]
    fn deleted_pod_goes_once_it_is_finished() {
        let mut bench = Bench::new();
        bench.manager.pod_seen(at(0), &pod(json!({"phase": "Running"}), true));
        assert_eq!(patched_phase(&bench.set(at(0), "Failed", false, false)), Some("Failed"));
        assert!(bench.done(at(1), Ok(ApiReply::Pod(pod(json!({"phase": "Failed"}), true)))).is_empty());
        let calls = bench.set(at(1), "Failed", false, true);
        assert!(matches!(&calls[..], [ApiCall::DeletePod { uid, grace_seconds: 0, .. }] if uid.as_str() == "u"));
    }

    // POD-270: the answer to the last write overtakes what the watch has to tell of it.
    #[test]
    fn pod_that_was_deleted_is_not_deleted_again_because_the_watch_is_late() {
        let mut bench = Bench::new();
        let last = at_version("Failed", "12", true);
        bench.manager.pod_seen(at(0), &at_version("Running", "10", true));
        bench.set(at(0), "Failed", false, true);
        assert!(matches!(&bench.done(at(1), Ok(ApiReply::Pod(Arc::clone(&last))))[..], [ApiCall::DeletePod { .. }]));
        assert!(bench.done(at(1), Ok(ApiReply::Done)).is_empty());
        let mut let_go = at_version("Failed", "13", true);
        Arc::make_mut(&mut let_go).metadata.deletion_grace_period_seconds = Some(0);
        for late in [at_version("Running", "11", true), last, let_go] {
            bench.manager.pod_seen(at(1), &late);
            assert!(bench.set(at(1), "Failed", false, true).is_empty());
        }
        // An API server that knows nothing of it any more is asked once more.
        bench.manager.pod_seen(at(2), &at_version("Failed", "14", true));
        assert!(matches!(&bench.set(at(2), "Failed", false, true)[..], [ApiCall::DeletePod { .. }]));
    }

    // POD-270: the same while the deletion is under way.
    #[test]
    fn late_watch_during_the_deletion_does_not_repeat_it() {
        let mut bench = Bench::new();
        let last = at_version("Failed", "12", true);
        bench.manager.pod_seen(at(0), &at_version("Running", "10", true));
        bench.set(at(0), "Failed", false, true);
        assert!(matches!(&bench.done(at(1), Ok(ApiReply::Pod(Arc::clone(&last))))[..], [ApiCall::DeletePod { .. }]));
        bench.manager.pod_seen(at(1), &at_version("Running", "11", true));
        assert!(bench.done(at(1), Ok(ApiReply::Done)).is_empty());
        bench.manager.pod_seen(at(1), &last);
        assert!(bench.set(at(1), "Failed", false, true).is_empty());
    }

    // L6: an API server that was set back to an earlier state is told again.
    #[test]
    fn api_server_that_was_set_back_is_told_again() {
        let mut bench = Bench::new();
        bench.manager.pod_seen(at(0), &at_version("Pending", "10", false));
        bench.set(at(0), "Running", true, false);
        bench.done(at(0), Ok(ApiReply::Pod(at_version("Running", "12", false))));
        bench.manager.pod_seen(at(1), &at_version("Pending", "9", false));
        assert_eq!(patched_phase(&bench.set(at(1), "Running", true, false)), Some("Running"));
    }

    // POD-301: a failed patch is tried again; a pod that is gone is not.
    #[test]
    fn failed_patch_is_tried_again() {
        let mut bench = Bench::new();
        bench.set(at(0), "Running", true, false);
        assert!(bench.done(at(0), Err(Failure::new(FailureKind::Unavailable, "no"))).is_empty());
        assert_eq!(bench.manager.deadline(), Some(at(1).mono));
        let calls = bench.act(|manager, _, out| manager.due(at(1), out));
        assert_eq!(patched_phase(&calls), Some("Running"));
        bench.done(at(1), Err(Failure::new(FailureKind::NotFound, "no")));
        assert_eq!(bench.manager.deadline(), None);
        assert!(bench.set(at(2), "Pending", true, false).is_empty());
    }

    // L6: a status that others overwrote is sent again.
    #[test]
    fn foreign_overwrite_is_repaired() {
        let mut bench = Bench::new();
        bench.set(at(0), "Running", true, false);
        bench.done(at(0), Ok(ApiReply::Pod(pod(json!({"phase": "Running"}), false))));
        bench.manager.pod_seen(at(5), &pod(json!({"phase": "Pending"}), false));
        let calls = bench.act(|manager, uid, out| manager.tell(at(5), uid, out));
        assert_eq!(patched_phase(&calls), Some("Running"));
    }

    // L6: the watch may outrun the answer to the agent's own write; the older of the two does not count.
    #[test]
    fn overwrite_that_outruns_the_answer_to_a_patch_is_repaired() {
        let mut bench = Bench::new();
        bench.set(at(0), "Running", true, false);
        bench.manager.pod_seen(at(0), &at_version("Running", "9", false));
        bench.manager.pod_seen(at(0), &at_version("Pending", "10", false));
        let calls = bench.done(at(0), Ok(ApiReply::Pod(at_version("Running", "9", false))));
        assert_eq!(patched_phase(&calls), Some("Running"));
    }

    // Invariant 11: others' conditions survive every patch.
    #[test]
    fn foreign_conditions_survive() {
        let mut bench = Bench::new();
        let foreign = json!({"type": "example.com/gate", "status": "True"});
        bench.manager.pod_seen(at(0), &pod(json!({"phase": "Pending", "conditions": [foreign]}), false));
        let mut wanted = status("Running");
        wanted.conditions = Some(vec![]);
        bench.manager.set_status(&bench.uid.clone(), wanted, Gate { may_run: true, finished: false });
        let calls = bench.act(|manager, uid, out| manager.tell(at(0), uid, out));
        let [ApiCall::PatchPodStatus { patch, .. }] = &calls[..] else { panic!("one patch") };
        assert_eq!(patch["status"].get("conditions"), None);
    }
}
