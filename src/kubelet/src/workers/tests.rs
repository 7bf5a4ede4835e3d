use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::action::{Action, ApiCall, Call, CriCall};
use crate::config::Config;
use crate::event::{CriReply, Event, Object, WatchKey};
use crate::failure::{Failure, FailureKind};
use crate::ids::{PodUid, SandboxId};
use crate::kubelet::Kubelet;
use crate::observation::{ListedSandbox, Listing, SandboxState};
use crate::pod::worker::Phase;
use crate::time::{Mono, Now};

/// A new life of the agent, which is shown its node and then pods.
struct Bench {
    kubelet: Kubelet,
    actions: Vec<Action>,
}

impl Bench {
    fn new(pods: &[Value]) -> Self {
        let mut bench = Self { kubelet: Kubelet::new(Arc::new(Config::new("n1")), 1), actions: Vec::new() };
        bench.handle(Event::Started);
        let node = serde_json::from_value(json!({"metadata": {"name": "n1", "uid": "n"}})).unwrap();
        bench.handle(Event::WatchListed { key: WatchKey::Node, objects: vec![Object::Node(Arc::new(node))] });
        let pods = pods.iter().map(|pod| Object::Pod(Arc::new(serde_json::from_value(pod.clone()).unwrap()))).collect();
        bench.handle(Event::WatchListed { key: WatchKey::Pods, objects: pods });
        // POD-035: before a pod is refused for the node's labels, the node is asked for; here it is not to be had.
        let asked = bench.actions.iter().find(|a| matches!(a.call, Call::Api(ApiCall::GetNode))).map(|a| a.id);
        if let Some(id) = asked {
            bench.handle(Event::ApiDone { id, outcome: Err(Failure::new(FailureKind::Unavailable, "connection refused")) });
        }
        bench
    }

    fn handle(&mut self, event: Event) {
        let now = Now { mono: Mono::from_start(Duration::from_secs(1)), wall: jiff::Timestamp::UNIX_EPOCH };
        self.kubelet.handle(now, event, &mut self.actions);
    }

    /// The runtime lists one sandbox.
    fn listed(&mut self, pod: &str, state: SandboxState) {
        let id = self.actions.iter().find(|a| matches!(a.call, Call::Cri(CriCall::List))).unwrap().id;
        let sandbox = ListedSandbox {
            id: SandboxId::new("s1"),
            pod: PodUid::new(pod),
            namespace: "default".to_owned(),
            name: pod.to_owned(),
            attempt: 0,
            state,
            created_at: 1,
        };
        let listing = Listing { sandboxes: vec![sandbox], containers: vec![] };
        self.handle(Event::CriDone { id, outcome: Ok(CriReply::Listing { began: Mono::ZERO, listing }) });
    }

    /// The phase of a pod's worker, and the reason for which it is stopped.
    fn worker(&self, pod: &str) -> Option<(Phase, Option<&str>)> {
        let worker = self.kubelet.workers.get(&PodUid::new(pod))?;
        let verdict = worker.termination.as_ref().and_then(|termination| termination.verdict.as_ref());
        Some((worker.phase.clone(), verdict.map(|verdict| verdict.reason.as_str())))
    }

    /// The phases that the API server was told of a pod.
    fn told(&self, pod: &str) -> Vec<&str> {
        let patches = self.actions.iter().filter_map(|action| match &action.call {
            Call::Api(ApiCall::PatchPodStatus { name, patch, .. }) if name == pod => Some(patch),
            _ => None,
        });
        patches.filter_map(|patch| patch["status"]["phase"].as_str()).collect()
    }
}

fn pod(name: &str, second: u32, spec: &Value, status: &Value) -> Value {
    json!({
        "metadata": {
            "name": name, "namespace": "default", "uid": name, "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z"),
        },
        "spec": spec,
        "status": status,
    })
}

fn misplaced() -> Value {
    json!({"nodeSelector": {"zone": "b"}, "containers": [{"name": "main", "image": "busybox"}]})
}

fn wants_port() -> Value {
    json!({"containers": [{"name": "main", "image": "busybox", "ports": [{"containerPort": 80, "hostPort": 80}]}]})
}

fn ran() -> Value {
    json!({"phase": "Running", "startTime": "2026-01-01T00:00:00Z", "containerStatuses": [
        {"name": "main", "image": "busybox", "imageID": "i", "ready": true, "restartCount": 0, "containerID": "containerd://c1"}]})
}

// POD-032
#[test]
fn refused_pod_fails_at_once_and_has_no_worker() {
    let bench = Bench::new(&[pod("web", 0, &misplaced(), &json!({}))]);
    assert_eq!(bench.worker("web"), None);
    assert_eq!(bench.told("web"), ["Failed"]);
}

// POD-032, S3: Failed is final, so it is told of a pod that ran before only once nothing of it runs any more.
#[test]
fn refused_pod_that_ran_in_an_earlier_life_is_stopped_before_it_fails() {
    let bench = Bench::new(&[pod("web", 0, &misplaced(), &ran())]);
    assert_eq!(bench.worker("web"), Some((Phase::Terminating, Some("NodeAffinity"))));
    assert!(bench.told("web").is_empty());
}

// POD-032, POD-087: an earlier life started it and was killed before it could say so.
#[test]
fn refused_pod_that_turns_out_to_run_is_stopped() {
    let mut bench = Bench::new(&[pod("web", 0, &misplaced(), &json!({}))]);
    bench.listed("web", SandboxState::Ready);
    assert_eq!(bench.worker("web"), Some((Phase::Terminating, Some("NodeAffinity"))));
}

// POD-032: what ended in an earlier life is told, and its volumes go.
#[test]
fn refused_pod_of_which_something_is_left_is_cleared_away() {
    let mut bench = Bench::new(&[pod("web", 0, &misplaced(), &json!({}))]);
    bench.listed("web", SandboxState::NotReady);
    assert_eq!(bench.worker("web"), Some((Phase::Terminating, Some("NodeAffinity"))));
}

// POD-088: the runtime may hold nothing of it, and the disk something.
#[test]
fn refused_pod_that_goes_is_looked_at_for_what_an_earlier_life_left() {
    let web = pod("web", 0, &misplaced(), &json!({}));
    let mut bench = Bench::new(std::slice::from_ref(&web));
    let object = Object::Pod(Arc::new(serde_json::from_value(web).unwrap()));
    bench.handle(Event::WatchDeleted { key: WatchKey::Pods, object });
    assert_eq!(bench.worker("web"), Some((Phase::Terminating, None)));
}

// POD-009, NODE-134: the echo of a status brings nobody and takes nobody: the runtime's pods are not looked through for orphans again, and
// the tier that pods share is not summed up anew. Whoever looked would find the one that lies here.
#[test]
fn echo_of_a_status_costs_its_own_pod() {
    let spec = json!({"containers": [{"name": "main", "image": "busybox"}]});
    let applied = |status: &Value| {
        let object = Object::Pod(Arc::new(serde_json::from_value(pod("web", 0, &spec, status)).unwrap()));
        Event::WatchApplied { key: WatchKey::Pods, object }
    };
    let mut bench = Bench::new(&[pod("web", 0, &spec, &json!({}))]);
    bench.listed("orphan", SandboxState::Ready);
    assert!(bench.worker("orphan").is_some());
    bench.kubelet.workers.remove(&PodUid::new("orphan"));
    bench.kubelet.housekeeping.tier_is_settled();
    bench.handle(applied(&ran()));
    assert_eq!((bench.worker("orphan"), bench.kubelet.housekeeping.tier_follows()), (None, false));
    let other = serde_json::from_value(pod("other", 1, &spec, &json!({}))).unwrap();
    bench.handle(Event::WatchApplied { key: WatchKey::Pods, object: Object::Pod(Arc::new(other)) });
    assert!(bench.worker("orphan").is_some() && bench.kubelet.housekeeping.tier_follows(), "one came");
}

// POD-033, kubernetes/kubernetes#105523
#[test]
fn ended_pod_takes_no_room_in_a_new_life() {
    let ended = json!({"phase": "Succeeded"});
    let bench = Bench::new(&[pod("job", 0, &wants_port(), &ended), pod("web", 1, &wants_port(), &ran())]);
    assert_eq!(bench.worker("web"), Some((Phase::Syncing, None)));
}

// POD-030: what was created in the same second has no order but this one.
#[test]
fn pod_that_was_started_keeps_its_place_before_its_twin() {
    let bench = Bench::new(&[pod("a", 0, &wants_port(), &json!({})), pod("b", 0, &wants_port(), &ran())]);
    assert_eq!(bench.worker("b"), Some((Phase::Syncing, None)));
    assert_eq!(bench.told("a"), ["Failed"]);
    let older = Bench::new(&[pod("a", 0, &wants_port(), &json!({})), pod("b", 1, &wants_port(), &ran())]);
    assert_eq!(older.told("a"), [""; 0]);
    assert_eq!(older.worker("b"), Some((Phase::Terminating, Some("NodePorts"))));
}

// POD-272, POD-077: pod_workers.go (calculateEffectiveGracePeriod): a pod that is found gone after the API server was away keeps its own
// grace; the last state of one that was deleted by force says that it has none.
#[test]
fn pod_that_is_found_gone_keeps_its_grace() {
    let grace = |last: Option<Value>| {
        let mut web = pod("web", 0, &json!({"terminationGracePeriodSeconds": 40, "containers": [{"name": "main"}]}), &ran());
        let mut bench = Bench::new(std::slice::from_ref(&web));
        if let Some(grace) = last {
            web["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:09Z".into();
            web["metadata"]["deletionGracePeriodSeconds"] = grace;
            let object = Object::Pod(Arc::new(serde_json::from_value(web).unwrap()));
            bench.handle(Event::WatchApplied { key: WatchKey::Pods, object });
        }
        bench.handle(Event::WatchListed { key: WatchKey::Pods, objects: vec![] });
        let worker = bench.kubelet.workers.get(&PodUid::new("web")).unwrap();
        worker.termination.as_ref().map(|termination| termination.grace.as_secs())
    };
    assert_eq!(grace(None), Some(40));
    assert_eq!(grace(Some(json!(30))), Some(30));
    assert_eq!(grace(Some(json!(0))), Some(1));
}
