//! What the mirror of a static pod is told when its pod ends, is refused, or is left alone, in lives that find it there.

use k8s_openapi::api::core::v1::PodStatus;

use super::node::standalone;
use super::*;
use crate::pod::manager::{HASH_ANNOTATION, MIRROR_ANNOTATION};

/// A bench with an API server that may be away, and one static pod.
fn with_static(spec: Value) -> Bench {
    standalone(|config| config.node.standalone = false, spec)
}

fn policy(policy: &str) -> Value {
    json!({"restartPolicy": policy, "containers": [{"name": "main", "image": "busybox"}]})
}

/// The one pod of a bench.
fn uid_in(bench: &Bench) -> PodUid {
    bench.kubelet.pods.iter().next().expect("there is a pod").0.clone()
}

/// The next life, which finds what the last one left: a container that runs, or one that ended with that code.
fn next_life(mut last: Bench, exited: Option<i32>) -> Bench {
    let uid = uid_in(&last);
    let mut next = with_static(json!({}));
    next.manifests = std::mem::take(&mut last.manifests);
    next.running(uid.as_str());
    for container in next.seen.values_mut().flat_map(|seen| &mut seen.containers) {
        if let Some(code) = exited {
            (container.state, container.exit_code, container.finished_at) = (ContainerState::Exited, code, 2);
        }
    }
    next
}

/// A first life, which admitted the pod.
fn first_life(spec: Value) -> Bench {
    let mut bench = with_static(spec);
    bench.supplemental_groups = true;
    bench.handle(Event::Started);
    bench.pass(1);
    bench
}

/// The API server comes, and shows the pod's mirror.
fn show_mirror(bench: &mut Bench, status: &Value) {
    let uid = uid_in(bench);
    let known = &bench.kubelet.pods.get(&uid).expect("it is wanted").pod;
    let hash = known.metadata.annotations.as_ref().and_then(|all| all.get(HASH_ANNOTATION)).expect("it has a hash").clone();
    let mut mirror = serde_json::to_value(&**known).expect("a pod is JSON");
    mirror["metadata"]["uid"] = json!("m");
    mirror["metadata"]["resourceVersion"] = json!("5");
    mirror["metadata"]["annotations"][MIRROR_ANNOTATION] = json!(hash);
    mirror["status"] = status.clone();
    bench.list_node();
    bench.list_pods(&[mirror]);
    bench.pass(5);
}

/// What the mirror is told in the end.
fn told(bench: &Bench) -> Option<Value> {
    let patch = |call: &Call| {
        if let Call::Api(ApiCall::PatchPodStatus { patch, .. }) = call { Some(patch["status"].clone()) } else { None }
    };
    bench.calls.iter().rev().find_map(patch)
}

fn status_in(bench: &Bench) -> Option<&PodStatus> {
    bench.kubelet.parts.statuses.status(&uid_in(bench))
}

fn runs() -> Value {
    json!({
        "phase": "Running", "startTime": "1970-01-01T00:00:00Z",
        "containerStatuses": [{"name": "main", "ready": true, "restartCount": 0, "image": "busybox", "imageID": "", "state": {"running": {}}}],
    })
}

// POD-302: the status that was computed is told whenever the mirror comes (status_manager.go, updateStatusInternal: the mirror's status is
// only merged into it), and how a static pod ended is told (kubelet.go, SyncTerminatedPod; status_manager.go, mergePodStatus).
#[test]
fn end_of_a_static_pod_is_told_also_if_the_api_server_comes_later() {
    for (code, phase) in [(0, "Succeeded"), (3, "Failed")] {
        for api_first in [true, false] {
            let mut bench = next_life(first_life(policy("Never")), Some(code));
            bench.handle(Event::Started);
            if !api_first {
                bench.pass(60);
                assert_eq!(bench.kubelet.workers[&uid_in(&bench)].phase, crate::pod::worker::Phase::Finished);
            }
            show_mirror(&mut bench, &runs());
            let told = told(&bench).unwrap_or_default();
            assert_eq!(told["phase"], json!(phase), "{code} {api_first}: {told}");
            let ended =
                status_in(&bench).and_then(|status| status.container_statuses.as_ref()?[0].state.as_ref()?.terminated.as_ref());
            assert_eq!(ended.map(|ended| ended.exit_code), Some(code));
        }
    }
}

// POD-032, POD-302: kubelet.go (rejectPod: SetPodStatus with Failed), status_manager.go (podToMirror: by full name, admitted or not).
#[test]
fn refusal_of_a_static_pod_is_told_to_the_mirror_of_an_earlier_life() {
    let strict =
        json!({"containers": [{"name": "main", "image": "busybox"}], "securityContext": {"supplementalGroupsPolicy": "Strict"}});
    for running in [true, false] {
        let mut bench = next_life(first_life(strict.clone()), None);
        if !running {
            bench.seen.clear();
        }
        bench.listing.sandboxes.clear();
        bench.supplemental_groups = false;
        bench.handle(Event::Started);
        bench.pass(30);
        show_mirror(&mut bench, &runs());
        bench.pass(60);
        let told = told(&bench).unwrap_or_default();
        assert_eq!(
            (&told["phase"], &told["reason"]),
            (&json!("Failed"), &json!("SupplementalGroupsPolicyNotSupported")),
            "{running}"
        );
    }
}

// POD-302: kubelet_pods.go (generateAPIPodStatus: the phase before is the cached one or the manifest's, never the mirror's).
#[test]
fn mirror_that_says_that_its_pod_ended_does_not_stop_it() {
    for api_first in [true, false] {
        let mut bench = next_life(first_life(policy("Always")), None);
        bench.handle(Event::Started);
        if !api_first {
            bench.pass(60);
        }
        let mut ended = runs();
        ended["phase"] = json!("Failed");
        ended["reason"] = json!("NodeShutdown");
        show_mirror(&mut bench, &ended);
        bench.pass(30);
        let uid = uid_in(&bench);
        assert!(bench.kubelet.workers[&uid].termination.is_none(), "{api_first}");
        let told = told(&bench).unwrap_or_default();
        assert_ne!(told["phase"], json!("Failed"));
        assert_eq!((told["phase"].is_string(), &told["reason"]), (true, &Value::Null), "{api_first}: {told}");
    }
}

// docs/differs.md: a pod that an earlier life died of says so, and keeps what was told of it.
#[test]
fn mirror_of_a_static_pod_that_is_left_alone_keeps_what_it_says() {
    let mut bench = next_life(first_life(policy("Always")), None);
    bench.kubelet.suspect(&uid_in_manifest(&bench), 1);
    bench.handle(Event::Started);
    show_mirror(&mut bench, &runs());
    let told = told(&bench).unwrap_or_default();
    assert_eq!(told["reason"], json!("Quarantined"), "{told}");
    let kept = status_in(&bench).expect("it is told");
    assert_eq!(kept.phase.as_deref(), Some("Running"));
    assert!(kept.container_statuses.is_some() && kept.start_time.is_some());
}

// POD-302: an end that the mirror has of an earlier life is not the pod's, also if it is left alone for a while.
#[test]
fn end_in_the_mirror_of_a_static_pod_that_is_left_alone_does_not_stop_it() {
    let mut bench = next_life(first_life(policy("Always")), None);
    bench.kubelet.suspect(&uid_in_manifest(&bench), 1);
    bench.handle(Event::Started);
    let mut ended = runs();
    (ended["phase"], ended["reason"]) = (json!("Failed"), json!("NodeShutdown"));
    show_mirror(&mut bench, &ended);
    assert_eq!(told(&bench).unwrap_or_default()["reason"], json!("Quarantined"));
    bench.pass(600);
    let uid = uid_in(&bench);
    assert!(bench.kubelet.workers[&uid].termination.is_none());
    let phase = status_in(&bench).and_then(|status| status.phase.clone());
    assert_eq!(phase.as_deref(), Some("Running"));
}

/// The UID that the one manifest of a bench has, before anybody read it.
fn uid_in_manifest(bench: &Bench) -> PodUid {
    bench.seen.keys().next().expect("an earlier life ran it").clone()
}
