use serde_json::json;

use super::*;
use crate::action::Action;
use crate::observation::ContainerStatus;
use crate::out::Ledger;

fn at(seconds: u64) -> Now {
    let wall = Timestamp::from_second(1000 + i64::try_from(seconds).unwrap()).unwrap();
    Now { mono: Mono::from_start(Duration::from_secs(100 + seconds)), wall }
}

struct Bench {
    prober: Prober,
    pod: Arc<Pod>,
    observation: PodObservation,
    uid: PodUid,
    ledger: Ledger,
    recorded: Vec<Recorded>,
}

impl Bench {
    fn new(container: serde_json::Value) -> Self {
        let uid = PodUid::new("u");
        let pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [container]}})).unwrap();
        let mut observation = PodObservation::empty(uid.clone(), Mono::ZERO);
        observation.containers.push(running("id-1", 1000));
        Self { prober: Prober::new(1), pod: Arc::new(pod), observation, uid, ledger: Ledger::default(), recorded: Vec::new() }
    }

    fn sync(&mut self, seconds: u64, terminating: bool) {
        let probed =
            ProbedPod { uid: &self.uid, pod: &self.pod, observation: &self.observation, pod_ip: Some("10.0.0.2"), terminating };
        self.prober.sync_pod(at(seconds), probed);
    }

    fn due(&mut self, seconds: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        self.prober.due(at(seconds), &mut Out::new(&mut self.ledger, &mut actions, &mut self.recorded));
        actions
    }

    /// Probes once and answers; true if a verdict changed.
    fn round(&mut self, seconds: u64, passed: bool) -> bool {
        let actions = self.due(seconds);
        assert_eq!(actions.len(), 1, "one probe is due at {seconds} s");
        let Some(Owner::Probe(number)) = self.ledger.take(actions[0].id) else { panic!("a probe is the prober's") };
        let outcome = if passed { ProbeOutcome::Success } else { ProbeOutcome::Failure("no".to_owned()) };
        let mut none = Vec::new();
        let mut out = Out::new(&mut self.ledger, &mut none, &mut self.recorded);
        self.prober.done(at(seconds), number, actions[0].id, Ok(outcome), &mut out).is_some()
    }

    fn verdicts(&self, id: &str) -> Verdicts {
        self.prober.verdicts(&self.uid, "c", &ContainerId::new(id))
    }
}

fn running(id: &str, started: i64) -> ContainerStatus {
    ContainerStatus {
        id: ContainerId::new(id),
        sandbox: crate::ids::SandboxId::new("s"),
        name: "c".to_owned(),
        attempt: 0,
        state: ContainerState::Running,
        created_at: started * 1_000_000_000,
        started_at: started * 1_000_000_000,
        finished_at: 0,
        exit_code: 0,
        reason: String::new(),
        message: String::new(),
        image: String::new(),
        image_ref: String::new(),
        image_id: String::new(),
        log_path: String::new(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        user: None,
        resources: None,
        termination_log: String::new(),
        stop_signal: String::new(),
    }
}

fn exec(period: u64) -> serde_json::Value {
    json!({"exec": {"command": ["true"]}, "periodSeconds": period})
}

// POD-242, POD-243: three failures in a row kill, and nothing is probed until there is a new instance (POD-244).
#[test]
fn liveness_fails_after_three_failures_and_holds() {
    let mut bench = Bench::new(json!({"name": "c", "livenessProbe": exec(10)}));
    bench.sync(0, false);
    assert!(!bench.round(0, false));
    assert!(!bench.round(10, false));
    assert!(bench.round(20, false));
    assert_eq!(bench.verdicts("id-1").liveness, Some(false));
    assert!(bench.due(30).is_empty());
    assert_eq!(bench.recorded.len(), 3);
    assert_eq!(bench.recorded[0].message, "Liveness probe failed: no");
    bench.observation.containers = vec![running("id-2", 1030)];
    bench.sync(30, false);
    assert_eq!(bench.verdicts("id-2").liveness, Some(true));
    assert_eq!(bench.due(30).len(), 1);
}

// POD-242, POD-251: not ready until the readiness probe says so.
#[test]
fn readiness_begins_as_a_failure() {
    let mut bench = Bench::new(json!({"name": "c", "readinessProbe": exec(2)}));
    bench.sync(0, false);
    assert_eq!(bench.verdicts("id-1").readiness, Some(false));
    assert!(bench.round(0, true));
    assert_eq!(bench.verdicts("id-1").readiness, Some(true));
    assert!(!bench.round(2, true));
}

// POD-243: until started, only startup runs.
#[test]
fn only_startup_is_probed_until_it_succeeds() {
    let mut bench = Bench::new(json!({"name": "c", "startupProbe": exec(1), "livenessProbe": exec(1)}));
    bench.sync(0, false);
    assert!(bench.round(0, true));
    assert_eq!(bench.verdicts("id-1").startup, Some(true));
    assert!(!bench.round(0, true), "now liveness runs, and its first success is what was assumed");
}

// POD-240: the delay counts from the container's start.
#[test]
fn initial_delay_counts_from_the_start_of_the_container() {
    let mut probe = exec(10);
    probe["initialDelaySeconds"] = json!(30);
    let mut bench = Bench::new(json!({"name": "c", "livenessProbe": probe}));
    bench.sync(12, false);
    assert_eq!(bench.prober.deadline(), Some(at(30).mono));
}

// POD-250: a restart of the agent changes no verdict.
#[test]
fn restarted_agent_keeps_a_ready_container_ready() {
    let mut bench = Bench::new(json!({"name": "c", "readinessProbe": exec(2), "startupProbe": exec(2)}));
    Arc::make_mut(&mut bench.pod).status = serde_json::from_value(json!({"containerStatuses": [
        {"name": "c", "containerID": "containerd://id-1", "ready": true, "started": true, "image": "", "imageID": "", "restartCount": 0}
    ]}))
    .unwrap();
    bench.sync(500, false);
    assert_eq!(bench.verdicts("id-1").readiness, Some(true));
    assert_eq!(bench.verdicts("id-1").startup, Some(true));
}

// POD-252
#[test]
fn terminating_pod_is_probed_for_readiness_only() {
    let mut bench = Bench::new(json!({"name": "c", "readinessProbe": exec(2), "livenessProbe": exec(2)}));
    bench.sync(0, true);
    assert_eq!(bench.due(0).len(), 1);
    bench.observation.containers.clear();
    bench.sync(1, true);
    assert!(bench.due(2).is_empty());
}

// POD-245: an error of the agent's own is tried again at once and changes nothing.
#[test]
fn internal_error_changes_nothing() {
    let mut bench = Bench::new(json!({"name": "c", "livenessProbe": exec(10)}));
    bench.sync(0, false);
    for _ in 0..RETRIES {
        let actions = bench.due(0);
        let Some(Owner::Probe(number)) = bench.ledger.take(actions[0].id) else { panic!("a probe is the prober's") };
        let mut none = Vec::new();
        let mut out = Out::new(&mut bench.ledger, &mut none, &mut bench.recorded);
        let failure = Failure::new(FailureKind::Unavailable, "connection refused");
        assert!(bench.prober.done(at(0), number, actions[0].id, Err(failure), &mut out).is_none());
    }
    assert!(bench.due(0).is_empty());
    assert_eq!(bench.recorded.len(), 1);
    assert_eq!(bench.recorded[0].message, "Liveness probe errored and resulted in unknown state: connection refused");
    assert_eq!(bench.verdicts("id-1").liveness, Some(true));
}

// POD-247: named ports and the pod's IP.
#[test]
fn http_probe_resolves_named_ports() {
    let probe = json!({"httpGet": {"port": "http", "path": "/healthz"}});
    let ports = json!([{"name": "http", "containerPort": 8080}]);
    let mut bench = Bench::new(json!({"name": "c", "ports": ports, "readinessProbe": probe}));
    bench.sync(0, false);
    let actions = bench.due(0);
    let Call::Probe(crate::action::ProbeCall::Http { host, port, path, .. }) = &actions[0].call else { panic!("an HTTP probe") };
    assert_eq!((host.as_str(), *port, path.as_str()), ("10.0.0.2", 8080, "/healthz"));
}

// POD-246
#[test]
fn exec_probe_passes_with_zero_only_and_a_timeout_is_a_failure() {
    let command = ["sh".to_owned(), "-c".to_owned(), "check".to_owned()];
    let outcome = |reply| exec_outcome(reply, &command, Duration::from_secs(90));
    let exited = |exit_code, output: &str| outcome(Ok(CriReply::Exec { exit_code, output: output.to_owned() }));
    assert_eq!(exited(0, "fine"), Ok(ProbeOutcome::Success));
    assert_eq!(exited(1, "not fine"), Ok(ProbeOutcome::Failure("not fine".to_owned())));
    let Ok(ProbeOutcome::Failure(cut)) = exited(1, &"\u{e9}".repeat(10 << 10)) else { panic!("a failure") };
    assert_eq!(cut.len(), 10 << 10);
    let timed_out = outcome(Err(Failure::new(FailureKind::UnknownOutcome, "context deadline exceeded")));
    let told = "command timed out: \"sh -c check\" timed out after 1m30s";
    assert_eq!(timed_out, Ok(ProbeOutcome::Failure(told.to_owned())));
    // What says nothing of the container is no failure of it.
    assert!(outcome(Err(Failure::new(FailureKind::Unavailable, "connection refused"))).is_err());
}

// POD-168: a probe's command knows the values that the spec gives, and nothing that comes from elsewhere.
#[test]
fn exec_probe_expands_literal_variables_only() {
    let probe = json!({"exec": {"command": ["check", "$(PORT)", "$(SECRET)", "$(NONE)", "$$(PORT)"]}});
    let secret = json!({"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}});
    let mut bench = Bench::new(json!({"name": "c", "env": [{"name": "PORT", "value": "80"}, secret], "readinessProbe": probe}));
    bench.sync(0, false);
    let actions = bench.due(0);
    let Call::Cri(CriCall::ExecSync { command, .. }) = &actions[0].call else { panic!("an exec probe") };
    assert_eq!(command, &["check", "80", "", "$(NONE)", "$(PORT)"]);
}
