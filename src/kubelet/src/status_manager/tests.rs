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

// POD-270: apiserver/pkg/registry/rest/delete.go (BeforeDelete): of a deletion in two writes the second may fail, and only another DELETE
// recovers that; kubelet/status/status_manager.go (canBeDeleted) looks at no grace. What finalizers hold is not asked for again.
#[test]
fn deletion_that_failed_half_way_is_asked_for_again() {
    for (finalizers, again) in [(vec![], true), (vec!["example.com/hold".to_owned()], false)] {
        let mut bench = Bench::new();
        let last = at_version("Failed", "12", true);
        bench.manager.pod_seen(at(0), &at_version("Running", "10", true));
        bench.set(at(0), "Failed", false, true);
        assert!(matches!(&bench.done(at(1), Ok(ApiReply::Pod(Arc::clone(&last))))[..], [ApiCall::DeletePod { .. }]));
        let mut half = at_version("Failed", "13", true);
        let metadata = &mut Arc::make_mut(&mut half).metadata;
        (metadata.deletion_grace_period_seconds, metadata.finalizers) = (Some(0), Some(finalizers));
        bench.manager.pod_seen(at(1), &half);
        bench.done(at(1), Err(Failure::new(FailureKind::Other, "etcdserver: request timed out")));
        let asked = bench.set(at(60), "Failed", false, true);
        assert_eq!(matches!(&asked[..], [ApiCall::DeletePod { .. }]), again, "{asked:?}");
        // The next life finds it so.
        let mut next = Bench::new();
        next.manager.pod_seen(at(0), &half);
        assert!(next.set(at(1), "Failed", false, true).is_empty(), "it goes by itself, mostly");
        assert_eq!(next.manager.deadline(), again.then_some(at(10).mono));
        let asked = next.act(|manager, _, out| manager.due(at(10), out));
        assert_eq!(matches!(&asked[..], [ApiCall::DeletePod { .. }]), again, "{asked:?}");
    }
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

// Invariant 11: others' conditions survive every patch, and so does DisruptionTarget, which is shared (F3; types/pod_status.go,
// PodConditionSharedByKubelet).
#[test]
fn foreign_conditions_survive() {
    for kind in ["example.com/gate", "DisruptionTarget"] {
        let mut bench = Bench::new();
        let foreign = json!({"type": kind, "status": "True"});
        bench.manager.pod_seen(at(0), &pod(json!({"phase": "Pending", "conditions": [foreign]}), false));
        let mut wanted = status("Running");
        wanted.conditions = Some(vec![]);
        bench.manager.set_status(&bench.uid.clone(), wanted, Gate { may_run: true, finished: false });
        let calls = bench.act(|manager, uid, out| manager.tell(at(0), uid, out));
        let [ApiCall::PatchPodStatus { patch, .. }] = &calls[..] else { panic!("one patch") };
        assert_eq!(patch["status"].get("conditions"), None, "{kind}");
    }
}

/// What is told of a pod whose sandbox is up, with a container in that state.
fn with_sandbox(up: &str, phase: &str) -> PodStatus {
    serde_json::from_value(json!({
        "phase": phase, "startTime": "2026-01-01T00:00:00Z", "podIP": (up == "True").then_some("10.0.0.1"),
        "conditions": [{"type": "PodReadyToStartContainers", "status": up}, {"type": "Ready", "status": if phase == "Running" { "True" } else { "False" }}],
    }))
    .unwrap()
}

// POD-132: a container that starts as soon as its sandbox is up is told of with it; one whose image takes its time does not hold it back.
#[test]
fn sandbox_is_told_with_a_container_that_starts_at_once() {
    for (phase, after) in [("Running", Duration::from_millis(100)), ("Pending", TOGETHER)] {
        let mut bench = Bench::new();
        let uid = bench.uid.clone();
        let gate = Gate { may_run: true, finished: false };
        let tell = |bench: &mut Bench, now: Now, status: PodStatus| {
            bench.manager.set_status(&uid, status, gate);
            bench.act(|manager, uid, out| manager.tell(now, uid, out))
        };
        assert_eq!(tell(&mut bench, at(0), with_sandbox("False", "Pending")).len(), 1);
        let told = serde_json::to_value(with_sandbox("False", "Pending")).unwrap();
        assert!(bench.done(at(0), Ok(ApiReply::Pod(pod(told, false)))).is_empty());
        assert!(tell(&mut bench, at(1), with_sandbox("True", "Pending")).is_empty());
        assert_eq!(bench.manager.deadline(), Some(at(1).mono + TOGETHER));
        let then = Now { mono: at(1).mono + after, ..at(1) };
        let calls = tell(&mut bench, then, with_sandbox("True", phase));
        let [ApiCall::PatchPodStatus { patch, .. }] = &calls[..] else { panic!("{calls:?}") };
        assert_eq!(patch["status"]["podIP"], "10.0.0.1");
        assert_eq!(patch["status"]["phase"] == "Running", phase == "Running");
        assert_eq!(bench.manager.deadline(), None);
    }
}

fn with_memory(memory: &str) -> PodStatus {
    let list = json!({"memory": memory});
    let container = json!({"name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "allocatedResources": list,
                           "resources": {"requests": list, "limits": list}});
    serde_json::from_value(json!({"phase": "Running", "allocatedResources": list, "resources": {"requests": list},
                                  "containerStatuses": [container]}))
    .unwrap()
}

// POD-300: the API server stores quantities as it writes them; that is no difference (A1 of the recorded cases).
#[test]
fn quantities_are_compared_whatever_their_notation() {
    for (memory, stored) in [("129000000", "129M"), ("200000k", "200M"), ("0.1G", "100M"), ("1048576Ki", "1Gi"), ("129e6", "129e6")]
    {
        let mut bench = Bench::new();
        bench.manager.set_status(&bench.uid, with_memory(memory), Gate::default());
        let sent = bench.act(|manager, uid, out| manager.tell(at(0), uid, out));
        let [ApiCall::PatchPodStatus { patch, .. }] = sent.as_slice() else { panic!("{sent:?}") };
        assert_eq!(patch["status"]["allocatedResources"]["memory"], stored);
        let reply = ApiReply::Pod(pod(serde_json::to_value(with_memory(stored)).unwrap(), false));
        assert!(bench.done(at(0), Ok(reply)).is_empty(), "{memory}");
    }
}

// POD-300: what the API server does not keep is not sent again and again, and keeps no pod from going.
#[test]
fn patch_that_changed_nothing_is_repeated_with_growing_pauses() {
    let mut bench = Bench::new();
    assert_eq!(patched_phase(&bench.set(at(0), "Running", true, false)), Some("Running"));
    let ignored = || Ok(ApiReply::Pod(pod(json!({"phase": "Pending"}), false)));
    assert_eq!(patched_phase(&bench.done(at(0), ignored())), Some("Running"));
    assert!(bench.done(at(0), ignored()).is_empty());
    let mut sent = 0;
    for second in 0..600 {
        let calls = bench.act(|manager, _, out| manager.due(at(second), out));
        if !calls.is_empty() {
            sent += 1;
            assert!(bench.done(at(second), ignored()).is_empty());
        }
    }
    assert_eq!(sent, 9, "after 1, 2, 4, .. 256 s, then every five minutes");
    // Other news goes out at once.
    assert_eq!(patched_phase(&bench.set(at(600), "Succeeded", false, true)), Some("Succeeded"));
    let done = pod(json!({"phase": "Succeeded", "reason": "Other"}), true);
    let after = bench.done(at(600), Ok(ApiReply::Pod(done)));
    assert!(matches!(after.as_slice(), [ApiCall::PatchPodStatus { .. }]), "{after:?}");
    let still = || Ok(ApiReply::Pod(pod(json!({"phase": "Succeeded", "reason": "Other"}), true)));
    assert!(matches!(bench.done(at(600), still()).as_slice(), [ApiCall::PatchPodStatus { .. }]));
    let after = bench.done(at(600), still());
    assert!(matches!(after.as_slice(), [ApiCall::DeletePod { .. }]), "{after:?}");
}

// POD-302: what an earlier life told by the mirror goes on (pkg/kubelet/status/status_manager.go, updateStatusInternal); a mirror that was
// made anew has nothing to tell.
#[test]
fn a_mirror_of_an_earlier_life_is_where_the_status_goes_on_from() {
    let mut bench = Bench { manager: StatusManager::new(), ledger: Ledger::default(), uid: PodUid::new("static") };
    let mut manifest = pod(json!(null), false);
    Arc::make_mut(&mut manifest).metadata.uid = Some("static".to_owned());
    bench.manager.static_seen(&manifest);
    let gate = Gate { may_run: true, finished: false };
    let start = |seconds: i64| json!({"phase": "Running", "startTime": format!("2026-01-01T00:00:{seconds:02}Z")});
    bench.manager.set_status(&bench.uid, serde_json::from_value(start(30)).unwrap(), gate);
    assert_eq!(bench.manager.told(&bench.uid), None);
    let mut again = Vec::new();
    let mut show = |bench: &mut Bench, status: serde_json::Value, version: &str, uid: &str| {
        let mut mirror = pod(status, false);
        Arc::make_mut(&mut mirror).metadata.resource_version = Some(version.to_owned());
        Arc::make_mut(&mut mirror).metadata.uid = Some(uid.to_owned());
        bench.act(|manager, uid, out| again.push(manager.mirror_seen(at(1), uid, Some(&mirror), true, out)))
    };
    assert!(show(&mut bench, start(10), "5", "m1").is_empty(), "it is computed first");
    assert_eq!(
        bench.manager.last_known(&bench.uid).and_then(|s| s.start_time.clone()).map(|t| t.0.to_string()).as_deref(),
        Some("2026-01-01T00:00:10Z")
    );
    bench.manager.set_status(&bench.uid, serde_json::from_value(start(10)).unwrap(), gate);
    assert!(show(&mut bench, start(10), "6", "m1").is_empty(), "there is no news");
    let none =
        |manager: &mut StatusManager, uid: &PodUid, out: &mut Out<'_>| assert!(!manager.mirror_seen(at(2), uid, None, true, out));
    bench.act(none);
    assert_eq!(show(&mut bench, json!({}), "9", "m2").len(), 1, "the new one is told at once");
    assert_eq!(again, [true, false, false]);
}
