use serde_json::{Map, Value, json};

use super::*;
use crate::action::CriCall;
use crate::ids::SandboxId;
use crate::observation::{ContainerState, ContainerStatus, LinuxUser, SandboxState, SandboxStatus};
use crate::out::{Ledger, Out, Owner};
use crate::prober::ProbedPod;
use crate::status_patch::pod_status_patch;
use crate::time::{Mono, Now};

fn parsed(text: &str) -> Pod {
    serde_json::from_str(text).unwrap()
}

/// A pod, what is seen of it, and what else its status is made of.
struct Bench {
    pod: Pod,
    seen: PodObservation,
    previous: Option<PodStatus>,
    errors: BTreeMap<String, StartError>,
    to_restart: BTreeSet<ContainerId>,
    prober: Prober,
    stopping: Stopping,
    host_ips: Vec<String>,
    v6_first: bool,
    mounts_recursively: bool,
    resize_refused: Option<&'static str>,
    now: Timestamp,
}

#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Stopping {
    Not,
    Terminating,
    Terminated,
}

impl Bench {
    fn new(pod: Pod) -> Self {
        let uid = PodUid::new(pod.metadata.uid.clone().unwrap_or_default());
        Self {
            pod,
            seen: PodObservation::empty(uid, Mono::ZERO),
            previous: None,
            errors: BTreeMap::new(),
            to_restart: BTreeSet::new(),
            prober: Prober::new(1),
            stopping: Stopping::Not,
            host_ips: vec!["10.77.0.1".to_owned()],
            v6_first: false,
            mounts_recursively: true,
            resize_refused: None,
            now: Timestamp::UNIX_EPOCH,
        }
    }

    fn of(spec: &Value) -> Self {
        Self::new(serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}, "spec": spec})).unwrap())
    }

    fn sandbox(&mut self, ip: &str, state: SandboxState) {
        let status = SandboxStatus {
            id: SandboxId::new("s"),
            attempt: 0,
            state,
            created_at: 1,
            ips: vec![ip.to_owned()],
            lacks_ip: ip.is_empty(),
            annotation_bytes: 0,
            host_network: false,
            runtime_handler: String::new(),
            labels: BTreeMap::new(),
        };
        self.seen.sandboxes = vec![status];
    }

    /// The status as it is now; the next one is made from it.
    fn generate(&mut self) -> PodStatus {
        let status = generate_api_pod_status(&StatusInputs {
            pod: &self.pod,
            uid: &self.seen.pod,
            seen: &self.seen,
            observed: true,
            previous: self.previous.as_ref(),
            start_errors: &self.errors,
            to_restart: &self.to_restart,
            restart_waits: false,
            prober: &self.prober,
            terminating: self.stopping >= Stopping::Terminating,
            terminated: self.stopping == Stopping::Terminated,
            verdict: None,
            host_ips: &self.host_ips,
            v6_first: self.v6_first,
            runtime_name: "containerd",
            recursive_read_only: self.mounts_recursively,
            resize_refused: self.resize_refused,
            now: self.now,
        });
        self.previous = Some(status.clone());
        status
    }

    /// Its readiness probes are begun, and pass if `pass` says so.
    fn probe(&mut self, pass: bool) {
        let now = Now { mono: Mono::from_start(std::time::Duration::from_secs(100)), wall: self.now };
        let pod = std::sync::Arc::new(self.pod.clone());
        let probed = ProbedPod {
            uid: &self.seen.pod,
            pod: &pod,
            told: pod.status.as_ref(),
            observation: &self.seen,
            pod_ip: None,
            terminating: false,
        };
        self.prober.sync_pod(now, probed);
        let (mut ledger, mut actions, mut recorded) = (Ledger::default(), Vec::new(), Vec::new());
        if pass {
            self.prober.due(now, &mut Out::new(&mut ledger, &mut actions, &mut recorded));
        }
        for action in actions {
            assert!(matches!(action.call, crate::action::Call::Cri(CriCall::ExecSync { .. })));
            let Some(Owner::Probe(_, number)) = ledger.take(action.id) else { panic!("a probe is the prober's") };
            let mut none = Vec::new();
            let mut out = Out::new(&mut ledger, &mut none, &mut recorded);
            let _changed = self.prober.done(now, number, action.id, Ok(crate::event::ProbeOutcome::Success), &mut out);
        }
    }
}

fn nanos(time: Option<&Value>) -> i64 {
    let time = time.and_then(Value::as_str).map(|text| text.parse::<Timestamp>().unwrap());
    time.map_or(0, |time| time.as_second() * 1_000_000_000 + 5)
}

/// The instance that a container status in the API tells of; `state` is its state or its last state.
fn instance(told: &Value, state: &Value, attempt: u64) -> Option<ContainerStatus> {
    let (kind, details) = state.as_object()?.iter().next()?;
    let text = |of: &Value, field: &str| of[field].as_str().unwrap_or_default().to_owned();
    let id = details.get("containerID").or(told.get("containerID"))?.as_str()?.strip_prefix("containerd://")?;
    let started = nanos(details.get("startedAt"));
    Some(ContainerStatus {
        id: ContainerId::new(id),
        sandbox: SandboxId::new("s"),
        name: text(told, "name"),
        attempt: u32::try_from(attempt).unwrap(),
        state: if kind == "running" { ContainerState::Running } else { ContainerState::Exited },
        created_at: started,
        started_at: started,
        finished_at: nanos(details.get("finishedAt")),
        exit_code: details["exitCode"].as_i64().and_then(|code| i32::try_from(code).ok()).unwrap_or(0),
        reason: text(details, "reason"),
        message: text(details, "message"),
        image: text(told, "image"),
        image_ref: text(told, "imageID"),
        image_id: String::new(),
        log_path: String::new(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        user: Some(LinuxUser { uid: 0, gid: 0, supplemental_groups: vec![0] }),
        resources: None,
        termination_log: String::new(),
        stop_signal: String::new(),
    })
}

/// What the runtime must have shown for those container statuses: the newest instance of each, and the one before it.
fn see(bench: &mut Bench, told: &Value) {
    for status in ["initContainerStatuses", "containerStatuses"].iter().flat_map(|list| told[*list].as_array()).flatten() {
        let restarts = status["restartCount"].as_u64().unwrap();
        let (state, last) = (&status["state"], &status["lastState"]);
        let newest = instance(status, state, restarts).filter(|_| state.get("waiting").is_none());
        let older = if newest.is_some() { restarts.saturating_sub(1) } else { restarts };
        let found: Vec<_> = newest.into_iter().chain(instance(status, last, older)).collect();
        bench.seen.containers.retain(|known| !found.iter().any(|new| new.name == known.name));
        bench.seen.containers.extend(found);
        if let Some(waiting) = state.get("waiting").filter(|waiting| waiting.get("message").is_some()) {
            let text = |field: &str| waiting[field].as_str().unwrap().to_owned();
            let error = StartError { reason: text("reason"), message: text("message") };
            bench.errors.insert(status["name"].as_str().unwrap().to_owned(), error);
        }
    }
}

/// Without what hangs on when things happened, and what the captured machine's cgroups made of the limits.
fn comparable(mut status: Value) -> Value {
    for condition in status["conditions"].as_array_mut().into_iter().flatten() {
        let condition = condition.as_object_mut().unwrap();
        condition.retain(|key, _| key != "lastTransitionTime" && key != "lastProbeTime");
    }
    status.as_object_mut().unwrap().retain(|key, _| !["startTime", "resources", "qosClass"].contains(&key.as_str()));
    status
}

// POD-274, POD-285, POD-287, POD-291 to POD-293, POD-296, POD-303, POD-306: what a real kubelet told of a pod that crashes, one whose image is not to
// be had, one that is killed for its liveness, and one that is done.
#[test]
fn golden_pods_have_the_golden_statuses() {
    let goldens = [
        include_str!("../../../testdata/pod-running.json"),
        include_str!("../../../testdata/pod-crash.json"),
        include_str!("../../../testdata/pod-noimage.json"),
        include_str!("../../../testdata/pod-unlive.json"),
        include_str!("../../../testdata/pod-done.json"),
    ];
    for golden in goldens {
        let told = serde_json::from_str::<Value>(golden).unwrap()["status"].clone();
        let mut pod = parsed(golden);
        pod.status = None;
        let mut bench = Bench::new(pod);
        let ended = told["phase"] == "Succeeded";
        bench.sandbox(told["podIP"].as_str().unwrap(), SandboxState::Ready);
        see(&mut bench, &told);
        if ended {
            // The IP is told while the sandbox is up, and stands when it is not.
            bench.generate();
            bench.sandbox("", SandboxState::NotReady);
            bench.stopping = Stopping::Terminated;
        }
        bench.probe(true);
        let ours = serde_json::to_value(bench.generate()).unwrap();
        assert_eq!(comparable(ours), comparable(told), "{}", bench.pod.metadata.name.unwrap());
    }
}

/// What the golden patches say, one after the other, in the order in which this agent says it: the pod's IP comes with its sandbox,
/// not with its first container.
fn golden_patches() -> Vec<Value> {
    let text = include_str!("../../../testdata/pod-status-patches.json");
    let mut patches: Vec<Value> = serde_json::from_str(text).unwrap();
    let ips: Map<String, Value> = ["podIP", "podIPs"]
        .into_iter()
        .map(|key| (key.to_owned(), patches[2].as_object_mut().unwrap().remove(key).unwrap()))
        .collect();
    patches[1].as_object_mut().unwrap().extend(ips);
    patches
}

// POD-285, POD-287, POD-288, POD-290 to POD-292, POD-296 to POD-298, POD-301: each status patch of an ordinary pod from its binding
// to its end, field by field.
#[test]
fn golden_pod_has_the_golden_status_patches() {
    let golden = golden_patches();
    let mut pod = parsed(include_str!("../../../testdata/pod-running.json"));
    let bound = json!({"phase": "Pending", "qosClass": "Burstable", "conditions": [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-23T08:35:17Z"}]});
    pod.status = Some(serde_json::from_value(bound).unwrap());
    let mut api = pod.status.clone().unwrap();
    let mut bench = Bench::new(pod);
    bench.previous = Some(api.clone());
    let at = |second: i64| "2026-11-23T08:35:00Z".parse::<Timestamp>().unwrap() + jiff::SignedDuration::from_secs(second);
    let ip = golden[1]["podIP"].as_str().unwrap().to_owned();
    for (step, expected) in golden.iter().enumerate() {
        bench.now = at(match step {
            0..=1 => 17,
            2..=5 => 18,
            _ => 33,
        });
        match step {
            0 => {}
            1 => bench.sandbox(&ip, SandboxState::Ready),
            6 => {
                bench.pod.metadata.generation = Some(2);
                bench.stopping = Stopping::Terminating;
            }
            7 => {
                bench.sandbox("", SandboxState::NotReady);
                bench.stopping = Stopping::Terminated;
            }
            _ => {}
        }
        if step > 1 {
            see(&mut bench, expected);
        }
        bench.probe(step == 5);
        let status = bench.generate();
        let patch = pod_status_patch(&bench.seen.pod, &api, &status).unwrap();
        assert_eq!(&patch["status"], expected, "patch {step}");
        api = status;
    }
}

fn terminated_codes(statuses: Option<&Vec<ApiStatus>>) -> Vec<Option<i32>> {
    let code = |status: &ApiStatus| Some(status.state.as_ref()?.terminated.as_ref()?.exit_code);
    statuses.into_iter().flatten().map(code).collect()
}

// POD-269: nobody knows what became of it, so it has failed.
#[test]
fn container_that_never_ended_is_told_as_lost_at_the_end() {
    let mut bench = Bench::of(&json!({"containers": [{"name": "a"}, {"name": "b"}]}));
    bench.stopping = Stopping::Terminating;
    assert_eq!(terminated_codes(bench.generate().container_statuses.as_ref()), [None, None]);
    bench.stopping = Stopping::Terminated;
    let status = bench.generate();
    assert_eq!(terminated_codes(status.container_statuses.as_ref()), [Some(137), Some(137)]);
    let ended = status.container_statuses.unwrap()[0].state.clone().unwrap().terminated.unwrap();
    assert_eq!(ended.reason.as_deref(), Some("ContainerStatusUnknown"));
    assert_eq!(ended.message.as_deref(), Some("The container could not be located when the pod was terminated"));
    assert_eq!(status.phase.as_deref(), Some("Failed"));
}

// POD-269: whose turn never came has not failed; of the init containers those after the last that began never came to be.
#[test]
fn container_whose_turn_never_came_stays_as_it_was() {
    let spec = json!({"initContainers": [{"name": "i"}, {"name": "j"}, {"name": "k"}], "containers": [{"name": "a"}]});
    let ended = |code: i32| json!({"terminated": {"containerID": "containerd://c", "exitCode": code}});
    let told = |name: &str, state: Value| json!({"name": name, "restartCount": 0, "state": state});
    let codes = |found: Value| {
        let mut bench = Bench::of(&spec);
        see(&mut bench, &found);
        bench.stopping = Stopping::Terminated;
        let status = bench.generate();
        assert_eq!(status.phase.as_deref(), Some("Failed"));
        (terminated_codes(status.init_container_statuses.as_ref()), terminated_codes(status.container_statuses.as_ref()))
    };
    assert_eq!(codes(json!({})), (vec![Some(137), None, None], vec![None]));
    assert_eq!(
        codes(json!({"initContainerStatuses": [told("j", ended(1))]})),
        (vec![Some(137), Some(1), None], vec![None]),
        "the first is gone from the runtime"
    );
    let all = json!({"initContainerStatuses": [told("i", ended(0)), told("j", ended(0)), told("k", ended(0))]});
    assert_eq!(codes(all), (vec![Some(0); 3], vec![Some(137)]));
}

// POD-290: a transition is a change of status, nothing else; the pod starts once; all in whole seconds.
#[test]
fn transition_times_move_only_with_status() {
    let mut bench = Bench::of(&json!({"containers": [{"name": "a"}]}));
    let time_of = |status: &PodStatus, kind: &str| {
        let condition = status.conditions.as_ref().unwrap().iter().find(|c| c.type_ == kind).unwrap();
        condition.last_transition_time.as_ref().unwrap().0.as_second()
    };
    bench.now = Timestamp::from_second(5).unwrap();
    bench.generate();
    bench.now = Timestamp::from_second(9).unwrap();
    bench.sandbox("10.0.0.2", SandboxState::Ready);
    let running = json!({"running": {"startedAt": "1970-01-01T00:00:08Z"}});
    let found = json!({"containerStatuses": [{"name": "a", "containerID": "containerd://c", "restartCount": 0, "state": running}]});
    see(&mut bench, &found);
    let status = bench.generate();
    assert_eq!(time_of(&status, "Initialized"), 5);
    assert_eq!(time_of(&status, "PodReadyToStartContainers"), 9);
    assert_eq!(time_of(&status, "Ready"), 9);
    assert_eq!(status.start_time.unwrap().0.as_second(), 5);
    let started = status.container_statuses.unwrap()[0].state.clone().unwrap().running.unwrap().started_at.unwrap();
    assert_eq!(started.0.subsec_nanosecond(), 0);
}

fn ips_of(status: &PodStatus) -> (Vec<&str>, Vec<&str>) {
    let host = status.host_ips.iter().flatten().map(|ip| ip.ip.as_str()).collect();
    (host, status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).collect())
}

// POD-298, NET-005: of each family one, that of `--node-ip` first, and IPv4 without it, whatever addresses the Node has: kubelet_pods.go
// (sortPodIPs) goes by nodeIPs, which are the flag's (cmd/kubelet/app/server.go, RunKubelet).
#[test]
fn first_ip_of_each_family_is_told_that_of_the_flag_first() {
    let mut bench = Bench::of(&json!({"containers": []}));
    bench.sandbox("fd00::2", SandboxState::Ready);
    bench.seen.sandboxes[0].ips.extend(["10.0.0.2".to_owned(), "10.0.0.3".to_owned()]);
    let status = bench.generate();
    assert_eq!(ips_of(&status), (vec!["10.77.0.1"], vec!["10.0.0.2", "fd00::2"]));
    assert_eq!((status.host_ip.as_deref(), status.pod_ip.as_deref()), (Some("10.77.0.1"), Some("10.0.0.2")));
    bench.host_ips = vec!["fd77::1".to_owned()];
    assert_eq!(ips_of(&bench.generate()), (vec!["fd77::1"], vec!["10.0.0.2", "fd00::2"]));
    bench.v6_first = true;
    assert_eq!(ips_of(&bench.generate()), (vec!["fd77::1"], vec!["fd00::2", "10.0.0.2"]));
}

// POD-058, NET-005: only the newest sandbox is asked, and only if it is up; what it said is kept when it goes.
#[test]
fn pod_has_the_ips_of_its_newest_sandbox_if_that_is_ready() {
    let mut bench = Bench::of(&json!({"containers": []}));
    bench.sandbox("10.0.0.3", SandboxState::Ready);
    let old = bench.seen.sandboxes[0].clone();
    bench.sandbox("10.0.0.2", SandboxState::NotReady);
    bench.seen.sandboxes.push(old);
    assert!(ips_of(&bench.generate()).1.is_empty());
    bench.sandbox("10.0.0.2", SandboxState::Ready);
    bench.seen.sandboxes[0].ips.push("nonsense".to_owned());
    assert!(ips_of(&bench.generate()).1.is_empty());
    bench.sandbox("10.0.0.2", SandboxState::Ready);
    assert_eq!(ips_of(&bench.generate()).1, ["10.0.0.2"]);
    bench.sandbox("", SandboxState::NotReady);
    assert_eq!(ips_of(&bench.generate()).1, ["10.0.0.2"]);
}

// POD-298, NET-005: a pod on the host's network keeps the IPs that it came with, but for a family that the node gets later.
#[test]
fn ips_of_the_hosts_network_only_grow() {
    let mut bench = Bench::of(&json!({"hostNetwork": true, "containers": []}));
    assert_eq!(ips_of(&bench.generate()).1, ["10.77.0.1"]);
    bench.host_ips = vec!["10.77.0.9".to_owned()];
    assert_eq!(ips_of(&bench.generate()), (vec!["10.77.0.9"], vec!["10.77.0.1"]));
    bench.host_ips = vec!["10.77.0.9".to_owned(), "fd77::9".to_owned()];
    assert_eq!(ips_of(&bench.generate()), (vec!["10.77.0.9", "fd77::9"], vec!["10.77.0.1", "fd77::9"]));
    bench.host_ips = vec!["10.77.0.9".to_owned()];
    assert_eq!(ips_of(&bench.generate()).1, ["10.77.0.1", "fd77::9"]);
}

// POD-295: an init container that the runtime has forgotten must have ended well, since a container that comes after it was made.
#[test]
fn init_container_that_is_gone_has_ended_well_once_the_others_were_made() {
    let spec = json!({
        "initContainers": [{"name": "i"}, {"name": "side", "restartPolicy": "Always"}], "containers": [{"name": "a"}, {"name": "b"}],
    });
    let mut bench = Bench::of(&spec);
    bench.sandbox("10.0.0.2", SandboxState::Ready);
    assert_eq!(terminated_codes(bench.generate().init_container_statuses.as_ref()), [None, None]);
    let running = json!({"running": {"startedAt": "1970-01-01T00:00:08Z"}});
    let found = json!({"containerStatuses": [{"name": "b", "containerID": "containerd://c", "restartCount": 0, "state": running}]});
    see(&mut bench, &found);
    let status = bench.generate();
    assert_eq!(terminated_codes(status.init_container_statuses.as_ref()), [Some(0), None], "a sidecar does not end");
    let ended = status.init_container_statuses.unwrap()[0].clone();
    assert!(ended.ready);
    let ended = ended.state.unwrap().terminated.unwrap();
    assert_eq!(ended.reason.as_deref(), Some("Completed"));
    let message =
        "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally";
    assert_eq!(ended.message.as_deref(), Some(message));
}

// POD-120, POD-285 (kuberuntime_manager.go, SyncPod: killed and started in one pass, so neither is told): whatever the policy.
#[test]
fn container_that_was_stopped_to_run_again_is_told_as_it_was_until_it_does() {
    for policy in ["OnFailure", "Never"] {
        let mut bench = Bench::of(&json!({"restartPolicy": policy, "containers": [{"name": "main", "image": "i"}]}));
        bench.sandbox("10.0.0.2", SandboxState::Ready);
        let told = json!({"containerStatuses": [{"name": "main", "restartCount": 0, "image": "i", "imageID": "i",
            "containerID": "containerd://a", "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}, "lastState": {}}]});
        see(&mut bench, &told);
        let running = bench.generate();
        let newest = &mut bench.seen.containers[0];
        (newest.state, newest.exit_code, newest.finished_at) = (ContainerState::Exited, 0, newest.started_at + 1);
        bench.to_restart.insert(ContainerId::new("a"));
        assert_eq!(bench.generate(), running, "{policy}");
        let error = StartError { reason: "ImagePullBackOff".to_owned(), message: "no such image".to_owned() };
        bench.errors.insert("main".to_owned(), error);
        let waits = bench.generate();
        assert_eq!(waits.phase.as_deref(), Some("Running"), "{policy}");
        let status = &waits.container_statuses.as_ref().unwrap()[0];
        assert!(status.state.as_ref().unwrap().waiting.is_some() && status.last_state.as_ref().unwrap().terminated.is_some());
        bench.to_restart.clear();
        bench.errors.clear();
        bench.previous = None;
        assert_eq!(bench.generate().phase.as_deref(), Some("Succeeded"), "{policy}: one that ended by itself");
    }
}

/// Status, reason and message of a condition.
fn said(status: &PodStatus, kind: &str) -> (String, String, String) {
    let condition = status.conditions.iter().flatten().find(|c| c.type_ == kind).unwrap().clone();
    (condition.status, condition.reason.unwrap_or_default(), condition.message.unwrap_or_default())
}

fn is(status: &str, reason: &str, message: &str) -> (String, String, String) {
    (status.to_owned(), reason.to_owned(), message.to_owned())
}

fn container<'a>(status: &'a PodStatus, name: &str) -> &'a ApiStatus {
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    all.into_iter().find(|c| c.name == name).unwrap()
}

/// What the runtime shows of one container.
fn shown(name: &str, state: Value) -> Value {
    json!({"containerStatuses": [{"name": name, "containerID": "containerd://c", "restartCount": 0, "state": state}]})
}

const NOT_READY: &str = "containers with unready status: [c]";

// POD-287: as recorded of the kubelet (cases 031 and 136; generate.go, GeneratePodInitializedCondition).
#[test]
fn pod_whose_init_container_failed_is_not_initialized() {
    let spec = json!({"restartPolicy": "Never", "initContainers": [{"name": "i1"}, {"name": "i2"}], "containers": [{"name": "c"}]});
    let mut bench = Bench::of(&spec);
    let ended = json!({"terminated": {"containerID": "containerd://c", "exitCode": 5}});
    see(&mut bench, &shown("i1", ended));
    for stopping in [Stopping::Not, Stopping::Terminating, Stopping::Terminated, Stopping::Terminated] {
        bench.stopping = stopping;
        let status = bench.generate();
        let message = "containers with incomplete status: [i1 i2]";
        assert_eq!(said(&status, "Initialized"), is("False", "ContainersNotInitialized", message));
        assert_eq!(said(&status, "Ready"), is("False", "PodFailed", ""));
        assert_eq!(said(&status, "ContainersReady"), is("False", "PodFailed", ""));
        assert_eq!(status.phase.as_deref(), Some("Failed"));
    }
}

// POD-287: as recorded of the kubelet (case 621): a sidecar that is stopped because the pod has failed is no longer complete.
#[test]
fn sidecar_that_ends_with_a_failed_pod_is_incomplete() {
    let inits = json!([{"name": "s", "restartPolicy": "Always"}, {"name": "i"}]);
    let mut bench = Bench::of(&json!({"restartPolicy": "Never", "initContainers": inits, "containers": [{"name": "c"}]}));
    let ended = |code: i32| json!({"terminated": {"containerID": "containerd://c", "exitCode": code}});
    see(&mut bench, &shown("s", json!({"running": {}})));
    see(&mut bench, &shown("i", ended(5)));
    let initialized = |bench: &mut Bench| said(&bench.generate(), "Initialized");
    for stopping in [Stopping::Not, Stopping::Terminating] {
        bench.stopping = stopping;
        assert_eq!(initialized(&mut bench), is("False", "ContainersNotInitialized", "containers with incomplete status: [i]"));
    }
    see(&mut bench, &shown("s", ended(0)));
    for stopping in [Stopping::Terminating, Stopping::Terminated, Stopping::Terminated] {
        bench.stopping = stopping;
        assert_eq!(initialized(&mut bench), is("False", "ContainersNotInitialized", "containers with incomplete status: [s i]"));
    }
}

// POD-124, POD-285: as recorded of the kubelet (case 408; kubelet_pods.go, getPhase): an init container that does not run again by its own
// policy has failed its pod, whatever the pod's policy is.
#[test]
fn init_container_that_may_not_run_again_fails_its_pod() {
    let rules = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
    let own = json!({"name": "i", "restartPolicy": "Never", "restartPolicyRules": rules});
    for (code, phase) in [(43, "Failed"), (42, "Pending")] {
        let mut bench = Bench::of(&json!({"restartPolicy": "Always", "initContainers": [own], "containers": [{"name": "c"}]}));
        see(&mut bench, &shown("i", json!({"terminated": {"containerID": "containerd://c", "exitCode": code}})));
        assert_eq!(bench.generate().phase.as_deref(), Some(phase));
    }
}

// POD-297: as recorded of the kubelet (cases 071 and 230): once the pod runs, only CPU and memory, and so to its end.
#[test]
fn resources_of_a_pod_that_runs_are_cpu_and_memory() {
    let requests = json!({"cpu": "125m", "ephemeral-storage": "32Mi", "memory": "33Mi"});
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "c", "resources": {"requests": requests}}]});
    let mut bench = Bench::of(&spec);
    let told = |status: &PodStatus| serde_json::to_value(status.resources.as_ref().unwrap()).unwrap();
    assert_eq!(told(&bench.generate()), json!({"requests": requests}));
    let running = json!({"requests": {"cpu": "125m", "memory": "33Mi"}});
    see(&mut bench, &shown("c", json!({"running": {}})));
    let status = bench.generate();
    assert_eq!((status.phase.as_deref(), told(&status)), (Some("Running"), running.clone()));
    assert_eq!(serde_json::to_value(&status.allocated_resources).unwrap(), requests);
    see(&mut bench, &shown("c", json!({"terminated": {"containerID": "containerd://c", "exitCode": 0}})));
    for stopping in [Stopping::Not, Stopping::Terminating, Stopping::Terminated] {
        bench.stopping = stopping;
        let status = bench.generate();
        assert_eq!((status.phase.as_deref(), told(&status)), (Some("Succeeded"), running.clone()));
    }
}

// POD-287, POD-269: as recorded of the kubelet (cases 130, 131 and 142; status_manager.go, TerminatePod): what was pending to its end
// has failed, and its conditions stand.
#[test]
fn pod_that_is_deleted_while_it_is_pending_keeps_its_conditions() {
    let mut bench = Bench::of(&json!({"containers": [{"name": "c", "image": "i"}]}));
    bench.generate();
    for (stopping, phase) in [
        (Stopping::Terminating, "Pending"),
        (Stopping::Terminated, "Failed"),
        // However often it is told.
        (Stopping::Terminated, "Failed"),
    ] {
        bench.stopping = stopping;
        let status = bench.generate();
        assert_eq!(status.phase.as_deref(), Some(phase));
        assert_eq!(said(&status, "Initialized"), is("True", "", ""));
        assert_eq!(said(&status, "Ready"), is("False", "ContainersNotReady", NOT_READY));
        assert_eq!(said(&status, "ContainersReady"), is("False", "ContainersNotReady", NOT_READY));
    }
    let ended = container(bench.previous.as_ref().unwrap(), "c").state.clone().unwrap().terminated.unwrap();
    assert_eq!((ended.exit_code, ended.reason.as_deref()), (137, Some("ContainerStatusUnknown")));
    assert_eq!((ended.started_at, ended.finished_at, ended.container_id), (None, None, None));
}

// POD-287: as recorded of the kubelet (case 128).
#[test]
fn pod_that_is_deleted_while_it_initializes_keeps_its_conditions() {
    let mut bench = Bench::of(&json!({"initContainers": [{"name": "i"}, {"name": "i2"}], "containers": [{"name": "c"}]}));
    see(&mut bench, &shown("i", json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}})));
    bench.stopping = Stopping::Terminating;
    bench.generate();
    see(&mut bench, &shown("i", json!({"terminated": {"containerID": "containerd://c", "exitCode": 4}})));
    for (stopping, phase) in
        [(Stopping::Terminating, "Pending"), (Stopping::Terminated, "Failed"), (Stopping::Terminated, "Failed")]
    {
        bench.stopping = stopping;
        let status = bench.generate();
        assert_eq!(status.phase.as_deref(), Some(phase));
        let message = "containers with incomplete status: [i i2]";
        assert_eq!(said(&status, "Initialized"), is("False", "ContainersNotInitialized", message));
        assert_eq!(said(&status, "Ready"), is("False", "ContainersNotReady", NOT_READY));
    }
}

// POD-293: as recorded of the kubelet (cases 014 and 015): what could not be started was started at the beginning of time.
#[test]
fn container_that_could_not_be_started_was_started_at_the_beginning_of_time() {
    for (policy, phase) in [("Never", "Failed"), ("Always", "Running")] {
        let mut bench = Bench::of(&json!({"restartPolicy": policy, "containers": [{"name": "c"}]}));
        bench.sandbox("10.0.0.2", SandboxState::Ready);
        let ended = json!({"terminated": {"containerID": "containerd://c", "exitCode": 128, "reason": "StartError",
            "finishedAt": "2026-01-01T00:00:00Z"}});
        see(&mut bench, &shown("c", ended));
        let error = StartError { reason: "RunContainerError".to_owned(), message: "no such file or directory".to_owned() };
        bench.errors.insert("c".to_owned(), error);
        let status = bench.generate();
        assert_eq!(status.phase.as_deref(), Some(phase));
        let (state, last) = (container(&status, "c").state.clone().unwrap(), container(&status, "c").last_state.clone().unwrap());
        let ended = if policy == "Never" { state.terminated } else { last.terminated }.unwrap();
        assert_eq!(serde_json::to_value(&ended).unwrap()["startedAt"], "1970-01-01T00:00:00Z", "{policy}");
        assert_eq!(state.waiting.is_some(), policy == "Always");
    }
}

// POD-297: as recorded of the kubelet (cases 270 and 271; kubelet_pods.go, resolveRecursiveReadOnly).
#[test]
fn recursive_read_only_is_told_as_it_came_out() {
    let mount = |path: &str, asked: Value| json!({"name": "v", "mountPath": path, "readOnly": true, "recursiveReadOnly": asked});
    let mut shared = mount("/shared", json!("IfPossible"));
    shared["mountPropagation"] = json!("HostToContainer");
    let mounts = json!([{"name": "v", "mountPath": "/none"}, mount("/ro", Value::Null), mount("/rrd", json!("Disabled")),
        mount("/rro", json!("IfPossible")), mount("/must", json!("Enabled")), shared]);
    for (can, expected) in [(true, "Enabled"), (false, "Disabled")] {
        let mut bench = Bench::of(&json!({"containers": [{"name": "c", "volumeMounts": mounts}]}));
        bench.mounts_recursively = can;
        let told = container(&bench.generate(), "c").volume_mounts.clone().unwrap();
        let told: Vec<Option<&str>> = told.iter().map(|mount| mount.recursive_read_only.as_deref()).collect();
        let disabled = Some("Disabled");
        assert_eq!(told, [None, disabled, disabled, Some(expected), Some(expected), disabled]);
    }
}

// POD-297: once it was made, a container's mounts are as they were told (convertContainerStatus: immutable).
#[test]
fn mounts_that_were_told_stay() {
    let mounts = json!([{"name": "v", "mountPath": "/rro", "readOnly": true, "recursiveReadOnly": "IfPossible"}]);
    let mut bench = Bench::of(&json!({"containers": [{"name": "c", "volumeMounts": mounts}]}));
    see(&mut bench, &shown("c", json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}})));
    let told = |status: &PodStatus| container(status, "c").volume_mounts.as_ref().unwrap()[0].recursive_read_only.clone();
    assert_eq!(told(&bench.generate()).as_deref(), Some("Enabled"));
    // After a restart nothing is known of the runtime at first.
    bench.mounts_recursively = false;
    assert_eq!(told(&bench.generate()).as_deref(), Some("Enabled"));
}

/// A pod whose container was told to run, once restarted, and of which the runtime holds nothing any more.
fn lost(last_state: Value) -> Bench {
    let mut bench = Bench::of(&json!({"restartPolicy": "Always", "containers": [{"name": "c", "image": "i"}]}));
    let told = json!({"phase": "Running", "containerStatuses": [{"name": "c", "image": "i", "imageID": "i", "ready": true,
        "restartCount": 1, "containerID": "containerd://c", "state": {"running": {}}, "lastState": last_state}]});
    bench.previous = Some(serde_json::from_value(told).unwrap());
    bench
}

// POD-294 (kubelet_pods.go, convertToAPIContainerStatuses: "The container used to be Running").
#[test]
fn running_container_that_is_lost_has_ended_once_more() {
    let mut bench = lost(json!({}));
    for _ in 0..2 {
        let status = bench.generate();
        let told = container(&status, "c");
        assert_eq!(told.restart_count, 2);
        assert_eq!(told.state.as_ref().unwrap().waiting.as_ref().unwrap().reason.as_deref(), Some("ContainerCreating"));
        let ended = told.last_state.as_ref().unwrap().terminated.as_ref().unwrap();
        assert_eq!((ended.exit_code, ended.reason.as_deref()), (137, Some("ContainerStatusUnknown")));
        let message = "The container could not be located when the pod was deleted.  The container used to be Running";
        assert_eq!(ended.message.as_deref(), Some(message));
        assert_eq!(status.phase.as_deref(), Some("Running"));
    }
    // "if we already have a termination state, nothing to do".
    let mut bench = lost(json!({"terminated": {"exitCode": 3, "reason": "Error"}}));
    let status = bench.generate();
    let told = container(&status, "c");
    assert_eq!(told.restart_count, 1);
    assert_eq!(told.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 3);
    // "If the pod was not deleted, then it's been restarted."
    let mut bench = lost(json!({}));
    bench.pod.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    assert_eq!(container(&bench.generate(), "c").restart_count, 1);
}

// POD-294 (convertContainerStatus, ContainerStateUnknown): told once, and then it stands.
#[test]
fn container_of_an_unknown_state_has_ended_if_it_ran() {
    let mut bench = lost(json!({}));
    see(&mut bench, &shown("c", json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}})));
    bench.seen.containers[0].state = ContainerState::Unknown;
    bench.seen.containers[0].attempt = 1;
    for _ in 0..2 {
        let status = bench.generate();
        let told = container(&status, "c");
        assert_eq!(told.restart_count, 2);
        let ended = told.state.as_ref().unwrap().terminated.as_ref().unwrap();
        assert_eq!((ended.exit_code, ended.reason.as_deref()), (137, Some("ContainerStatusUnknown")));
        assert_eq!(ended.message.as_deref(), Some("The container could not be located when the pod was terminated"));
        assert_eq!(ended.container_id, None);
    }
    // "this collapses any unknown state to container waiting".
    bench.previous = None;
    let waits = json!({"waiting": {}});
    assert_eq!(serde_json::to_value(container(&bench.generate(), "c").state.clone()).unwrap(), waits);
    bench.seen.containers[0].state = ContainerState::Created;
    assert_eq!(serde_json::to_value(container(&bench.generate(), "c").state.clone()).unwrap(), waits);
}

// POD-294 ("if the old container status was terminated, the lasttermination status is correct").
#[test]
fn container_that_ended_and_is_gone_is_told_as_it_ended() {
    for (policy, init) in [("Always", false), ("OnFailure", false), ("Never", false), ("Always", true)] {
        let (list, statuses) = if init { ("initContainers", "initContainerStatuses") } else { ("containers", "containerStatuses") };
        let mut spec = json!({"restartPolicy": policy, "containers": [{"name": "other"}]});
        spec[list] = json!([{"name": "c", "image": "i"}]);
        let mut bench = Bench::of(&spec);
        let mut told = json!({"phase": "Running"});
        told[statuses] = json!([{"name": "c", "image": "i", "imageID": "i", "ready": false, "restartCount": 4,
            "containerID": "containerd://c", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}, "lastState": {}}]);
        bench.previous = Some(serde_json::from_value(told).unwrap());
        let status = bench.generate();
        let told = container(&status, "c");
        assert_eq!(told.state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 1, "{policy} {init}");
        assert_eq!((told.restart_count, told.container_id.as_deref()), (4, Some("containerd://c")));
    }
}

// POD-287 (case 236, but for the reason): a resize that is refused is told of until the pod ends, and is not done.
#[test]
fn refused_resize_is_told_of() {
    let mut bench = Bench::of(&json!({"restartPolicy": "Never", "containers": [{"name": "c"}]}));
    bench.pod.metadata.generation = Some(2);
    let pending = |status: &PodStatus| status.conditions.iter().flatten().find(|c| c.type_ == "PodResizePending").cloned();
    assert_eq!(pending(&bench.generate()), None);
    bench.resize_refused = Some("In-place pod resize is not supported on this node");
    let condition = pending(&bench.generate()).unwrap();
    assert_eq!((condition.status.as_str(), condition.reason.as_deref()), ("True", Some("Infeasible")));
    assert_eq!(condition.message.as_deref(), bench.resize_refused);
    assert_eq!(condition.observed_generation, Some(2));
    assert!(condition.last_probe_time.is_some() && condition.last_transition_time.is_some());
    bench.resize_refused = None;
    assert_eq!(pending(&bench.generate()), None, "the spec asks for what there is");
    bench.resize_refused = Some("no");
    see(&mut bench, &shown("c", json!({"terminated": {"containerID": "containerd://c", "exitCode": 0}})));
    assert_eq!(pending(&bench.generate()), None, "it has ended");
}

// POD-285: kubelet_pods.go (getPhase): a sidecar that runs is something that runs, also when all regular containers have ended; one that has
// ended, or waits to run again, counts for nothing.
#[test]
fn pod_runs_as_long_as_a_sidecar_does() {
    let spec = json!({"restartPolicy": "Never", "initContainers": [{"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "c"}]});
    let ended = |id: &str, code: i32| json!({"terminated": {"containerID": id, "exitCode": code}});
    let phase = |sidecar: Value| {
        let mut bench = Bench::of(&spec);
        bench.sandbox("10.77.1.2", SandboxState::Ready);
        see(&mut bench, &shown("c", ended("containerd://c", 0)));
        let of = |state: Value| json!({"initContainerStatuses": [{"name": "s", "containerID": "containerd://s", "restartCount": 0, "state": state}]});
        see(&mut bench, &of(sidecar));
        bench.generate().phase.unwrap()
    };
    assert_eq!(phase(json!({"running": {}})), "Running");
    assert_eq!(phase(ended("containerd://s", 1)), "Succeeded");
}

// POD-285, as above: an init container's own policy counts; the end of a static pod is not told while it is stopped.
#[test]
fn phase_goes_by_whose_policy_it_is() {
    let init = json!({"initContainers": [{"name": "i", "restartPolicy": "Never"}], "containers": [{"name": "c"}]});
    let mut bench = Bench::of(&init);
    see(&mut bench, &shown("i", json!({"terminated": {"containerID": "containerd://c", "exitCode": 5}})));
    assert_eq!(bench.generate().phase.as_deref(), Some("Failed"));
    for (source, phase) in [("api", "Failed"), ("file", "Running")] {
        let mut bench = Bench::of(&json!({"containers": [{"name": "c"}]}));
        bench.pod.metadata.annotations = Some(BTreeMap::from([("kubernetes.io/config.source".to_owned(), source.to_owned())]));
        see(&mut bench, &shown("c", json!({"terminated": {"containerID": "containerd://c", "exitCode": 5}})));
        bench.stopping = Stopping::Terminating;
        assert_eq!(bench.generate().phase.as_deref(), Some(phase), "{source}");
    }
}
