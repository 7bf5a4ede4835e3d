use proptest::prelude::*;
use proptest::test_runner::RngSeed;
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
        let probed = ProbedPod {
            uid: &self.uid,
            pod: &self.pod,
            told: self.pod.status.as_ref(),
            observation: &self.observation,
            pod_ip: Some("10.0.0.2"),
            terminating,
        };
        self.prober.sync_pod(at(seconds), probed);
    }

    fn due(&mut self, seconds: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        self.prober.due(at(seconds), &mut Out::new(&mut self.ledger, &mut actions, &mut self.recorded));
        actions
    }

    /// Probes once and answers; true if a verdict changed.
    fn round(&mut self, seconds: u64, passed: bool) -> bool {
        self.answered(seconds, Ok(if passed { ProbeOutcome::Success } else { ProbeOutcome::Failure("no".to_owned()) }))
    }

    /// The one probe that is due ends so; true if a verdict changed.
    fn answered(&mut self, seconds: u64, outcome: Result<ProbeOutcome, Failure>) -> bool {
        let actions = self.due(seconds);
        assert_eq!(actions.len(), 1, "one probe is due at {seconds} s");
        let Some(Owner::Probe(_, number)) = self.ledger.take(actions[0].id) else { panic!("a probe is the prober's") };
        let mut none = Vec::new();
        let mut out = Out::new(&mut self.ledger, &mut none, &mut self.recorded);
        self.prober.done(at(seconds), number, actions[0].id, outcome, &mut out).is_some()
    }

    /// The probe fails by an error of the agent's own as often as it is tried again at once.
    fn every_try_fails(&mut self, failure: &Failure) {
        for _ in 0..RETRIES {
            assert!(!self.answered(0, Err(failure.clone())));
        }
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

/// A pod that is known `before` seconds before its container runs, with the time at which that is first probed.
fn first_probe(kind: &str, probe: serde_json::Value, before: u64) -> Mono {
    let mut bench = Bench::new(json!({"name": "c", kind: probe}));
    let container = std::mem::take(&mut bench.observation.containers);
    bench.sync(0, false);
    assert_eq!(bench.prober.deadline(), None, "there is nothing to be probed yet");
    bench.observation.containers = container;
    bench.observation.containers[0].started_at += i64::try_from(before).unwrap() * 1_000_000_000 + 700_000_000;
    bench.sync(before + 1, false);
    bench.prober.deadline().unwrap()
}

// POD-240, POD-242, F7: a worker begins with its pod and looks each period; of liveness and startup the first look at which the container
// runs is the first probe, never its start itself. Readiness is asked for at once (upstream's worker.go: run, doProbe;
// prober_manager.go: UpdatePodStatus).
#[test]
fn first_probe_of_liveness_and_startup_waits_for_a_tick() {
    for kind in ["livenessProbe", "startupProbe"] {
        assert_eq!(first_probe(kind, exec(10), 3), at(10).mono, "{kind}");
        assert_eq!(first_probe(kind, exec(10), 12), at(20).mono, "{kind}");
    }
    assert_eq!(first_probe("readinessProbe", exec(10), 3), at(4).mono);
}

/// When a readiness probe of that period is asked for that fails until `ready`, by whole seconds; `syncs` are moments at which another
/// container has ended.
fn readiness_asked(period: u64, ready: u64, until: u64, syncs: &[u64]) -> Vec<u64> {
    let mut bench = Bench::new(json!({"name": "c", "readinessProbe": exec(period)}));
    let mut asked = Vec::new();
    for seconds in 0..until {
        if syncs.contains(&seconds) {
            let ended =
                ContainerStatus { name: "d".to_owned(), state: ContainerState::Exited, ..running(&format!("d{seconds}"), 1000) };
            bench.observation.containers.push(ended);
        }
        bench.sync(seconds, false);
        if bench.prober.deadline().is_some_and(|at_| at_ <= at(seconds).mono) {
            bench.round(seconds, seconds >= ready);
            asked.push(seconds);
        }
    }
    asked
}

// POD-240, POD-241: as a kubelet 1.36.2 was recorded, which asks at each sync of a pod that is not ready, and syncs twice when a container
// has started: of a container that is ready at once, half a second, and two seconds after its start (at 0.0 and 0.7 s; at 0.1, 0.4 and
// 10.4 s), and of one whose sibling crashes (cases 580 to 587).
#[test]
fn readiness_is_asked_for_again_soon_after_the_start_and_when_a_container_of_the_pod_ends() {
    assert_eq!(readiness_asked(10, 0, 25, &[]), [0, 10, 20]);
    assert_eq!(readiness_asked(10, 1, 25, &[]), [0, 1, 11, 21]);
    assert_eq!(readiness_asked(10, 2, 25, &[]), [0, 1, 11, 21]);
    assert_eq!(readiness_asked(30, 3, 40, &[4]), [0, 1, 4, 34]);
    assert_eq!(readiness_asked(30, 0, 40, &[4]), [0, 30], "what is ready is left in its rhythm");
    let mut delayed = exec(10);
    delayed["initialDelaySeconds"] = json!(3);
    let mut bench = Bench::new(json!({"name": "c", "readinessProbe": delayed}));
    bench.sync(0, false);
    bench.round(10, false);
    assert_eq!(bench.prober.deadline(), Some(at(20).mono), "its delay was over before (case 586)");
}

// POD-240: prober_manager.go (UpdatePodStatus) asks at each sync of a pod that is not ready, and the pod is synced when a verdict changes
// (kubelet.go, handleProbeSync) and, jittered by half, every syncFrequency (pod_workers.go, completeWork).
#[test]
fn readiness_is_asked_for_at_each_sync_of_what_is_not_ready() {
    let mut bench = Bench::new(json!({"name": "c", "readinessProbe": exec(20)}));
    bench.sync(0, false);
    assert!(bench.round(0, true));
    bench.sync(0, false);
    assert!(!bench.round(20, false) && !bench.round(40, false) && bench.round(60, false));
    bench.sync(60, false);
    assert_eq!(bench.prober.deadline(), Some(at(60).mono), "it has just failed for good");
    assert!(!bench.round(60, false));
    bench.sync(60, false);
    assert_eq!(bench.prober.deadline(), Some(at(80).mono));
    let mut bench = Bench::new(json!({"name": "c", "readinessProbe": exec(600)}));
    bench.sync(1000, false);
    assert!(!bench.round(1000, false) && !bench.round(1001, false));
    for _ in 0..3 {
        let before = bench.prober.deadline().unwrap();
        assert!((at(1061).mono..=at(1091).mono).contains(&before), "{before:?}");
        bench.sync(1030, false);
        assert_eq!(bench.prober.deadline(), Some(before), "a plan is no sync");
    }
    assert!(bench.round(1091, true));
    assert!(bench.prober.deadline().unwrap() > at(1600).mono, "what is ready is left in its rhythm");
}

// POD-242: `int32(time.Since(startedAt).Seconds()) < initialDelaySeconds` (worker.go), where the status has the start in whole seconds:
// started at 3.7 s, it may be probed from 3 s + 17 s on, at a tick. Readiness has its ticks from when it was asked for by hand.
#[test]
fn delay_ends_at_a_tick() {
    let delayed = |seconds: u64| json!({"exec": {"command": ["true"]}, "periodSeconds": 10, "initialDelaySeconds": seconds});
    assert_eq!(first_probe("livenessProbe", delayed(17), 3), at(20).mono);
    assert_eq!(first_probe("livenessProbe", delayed(18), 3), at(30).mono);
    assert_eq!(first_probe("readinessProbe", delayed(5), 3), at(14).mono);
}

// POD-241: after a restart of the agent a worker waits for a random part of its period first, whatever it probes; once the agent has
// run for a period, it does not (worker.go: run).
#[test]
fn probes_after_a_restart_of_the_agent_are_spread_over_a_period() {
    for kind in ["livenessProbe", "startupProbe", "readinessProbe"] {
        let first = |period: u64, seed: u64| {
            let mut bench = Bench::new(json!({"name": "c", kind: exec(period)}));
            bench.prober = Prober::new(seed);
            bench.sync(0, false);
            bench.prober.deadline().unwrap()
        };
        let spread: BTreeSet<Mono> = (0..20).map(|seed| first(1000, seed)).collect();
        assert!(spread.len() > 10 && spread.iter().all(|first| (at(0).mono..at(1000).mono).contains(first)), "{kind}: {spread:?}");
        assert_eq!(first(1000, 7), first(1000, 7), "{kind}");
        assert_eq!(first(100, 7), at(0).mono, "{kind}");
    }
}

// POD-243: once it has started, readiness is asked for at once, and liveness at its own next tick.
#[test]
fn end_of_the_startup_probe_asks_for_readiness_only() {
    let bench =
        &mut Bench::new(json!({"name": "c", "startupProbe": exec(3), "readinessProbe": exec(10), "livenessProbe": exec(10)}));
    bench.sync(0, false);
    assert!(!bench.round(0, false));
    assert!(bench.round(3, true));
    let readiness = bench.due(3);
    assert_eq!(readiness.len(), 1);
    assert_eq!(bench.prober.deadline(), Some(at(10).mono), "liveness");
}

// POD-240: the delay counts from the container's start, and ends at a tick: the worker looks at 12 s, 22 s, 32 s (worker.go).
#[test]
fn initial_delay_counts_from_the_start_of_the_container() {
    let mut probe = exec(10);
    probe["initialDelaySeconds"] = json!(30);
    let mut bench = Bench::new(json!({"name": "c", "livenessProbe": probe}));
    bench.sync(12, false);
    assert_eq!(bench.prober.deadline(), Some(at(32).mono));
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
    // As a kubelet 1.36.2 was recorded (039).
    bench.every_try_fails(&Failure::new(FailureKind::NotFound, "failed to exec in container").with_code("NotFound"));
    assert!(bench.due(0).is_empty());
    assert_eq!(bench.recorded.len(), 1);
    assert_eq!(
        bench.recorded[0].message,
        "Liveness probe errored and resulted in unknown state: rpc error: code = NotFound desc = failed to exec in container"
    );
    assert_eq!(bench.verdicts("id-1").liveness, Some(true));
}

// POD-245, POD-247: pkg/probe/http/http.go (DoHTTPProbe: an error and Failure), prober.go (runProbeWithRetries, probe: `errored and resulted in
// %s state`); as a kubelet 1.36.2 was recorded.
#[test]
fn answer_over_http_that_cannot_be_read_is_told_as_a_failure() {
    let probe = json!({"httpGet": {"port": 80}, "periodSeconds": 10});
    let mut bench = Bench::new(json!({"name": "c", "readinessProbe": probe}));
    bench.sync(0, false);
    bench.every_try_fails(&Failure::new(FailureKind::Other, "unexpected EOF"));
    let told: Vec<&str> = bench.recorded.iter().map(|event| event.message.as_str()).collect();
    assert_eq!(told, ["Readiness probe errored and resulted in failure state: unexpected EOF"]);
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
    let exited = |exit_code, output: &str| outcome(Ok(CriReply::Exec { exit_code, output: output.to_owned(), stderr: 0 }));
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

// POD-168: 15,000 variables and 40,000 words that name them. Upstream makes a map for each probe (pkg/kubelet/prober/prober.go,
// runProbe): the last of one name counts, and one that is not a literal is empty.
#[test]
fn long_probe_command_is_expanded_once() {
    let mut env: Vec<_> = (0..15_000).map(|n| json!({"name": format!("a{n:05}"), "value": "x"})).collect();
    env.push(json!({"name": "a00000", "value": "last"}));
    env.push(json!({"name": "elsewhere", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}));
    let mut command = vec!["$(a00000)"; 40_000];
    command.push("$(elsewhere)$(none)");
    let bench = &mut Bench::new(json!({"name": "c", "env": env, "livenessProbe": {"exec": {"command": command}}}));
    bench.sync(0, false);
    let made = Arc::clone(&bench.prober.pods[&bench.uid].probes);
    let words = made[0].spec.command();
    assert_eq!((words[0].as_str(), words[40_000].as_str()), ("last", "$(none)"));
    let again = |bench: &Bench| Arc::ptr_eq(&made, &bench.prober.pods[&bench.uid].probes);
    for _ in 0..1000 {
        bench.sync(1, false);
        assert!(again(bench));
    }
    let mut pod = Pod::clone(&bench.pod);
    pod.metadata.resource_version = Some("2".to_owned());
    bench.pod = Arc::new(pod.clone());
    bench.sync(2, false);
    assert!(again(bench), "the spec is the same");
    pod.spec.as_mut().unwrap().containers[0].env = None;
    bench.pod = Arc::new(pod);
    bench.sync(3, false);
    assert!(!again(bench));
}

// POD-245: what cannot be asked says nothing of the container. Upstream has no limit.
#[test]
fn probe_whose_command_is_too_long_is_told_and_says_nothing() {
    let env = json!([{"name": "A", "value": "x".repeat(1 << 20)}]);
    let mut bench = Bench::new(json!({"name": "c", "env": env, "livenessProbe": {"exec": {"command": ["$(A)$(A)$(A)", "$(A)"]}}}));
    bench.sync(0, false);
    assert!(bench.due(0).is_empty());
    let [told] = bench.recorded.as_slice() else { panic!("{:?}", bench.recorded) };
    assert_eq!(
        told.message,
        "Liveness probe errored and resulted in unknown state: the commands of the pod's probes take more than 4194304 bytes, the \
         most that is allowed"
    );
    assert_eq!(bench.verdicts("id-1").liveness, Some(true));
}

impl Prober {
    /// When each worker probes next, by a scan of all.
    fn scanned(&self) -> Vec<(Mono, Key)> {
        let waiting = self.workers.iter().filter(|(key, worker)| self.may_probe(key, worker));
        let mut all: Vec<_> = waiting.filter_map(|(key, w)| Some((w.instance.as_ref()?.next, key.clone()))).collect();
        all.sort();
        all
    }

    fn indexed(&self) -> Vec<(Mono, Key)> {
        let far = Mono::from_start(Duration::from_secs(1 << 40));
        let mut all: Vec<_> = self
            .alarms
            .due(far)
            .map(|number| &self.keys[number])
            .map(|key| (self.workers[key].instance.as_ref().unwrap().next, key.clone()))
            .collect();
        all.sort();
        all
    }
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(9), cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    // POD-240, POD-243: who is probed when is known without looking at everybody, whatever has happened.
    #[test]
    fn index_of_who_is_probed_when_is_what_a_scan_finds(steps in prop::collection::vec((0..6_u8, 0..3_usize, 0..4_u64), 0..60)) {
        let probe = json!({"tcpSocket": {"port": 1}, "periodSeconds": 2, "failureThreshold": 2});
        let containers: Vec<_> = ["c", "d"].map(|name| json!({"name": name, "startupProbe": probe, "readinessProbe": probe, "livenessProbe": probe})).into();
        let pod = |n: usize| -> Arc<Pod> {
            Arc::new(serde_json::from_value(json!({"metadata": {"name": "p", "uid": n.to_string()}, "spec": {"containers": containers}})).unwrap())
        };
        let mut bench = Bench::new(json!({"name": "c"}));
        let (mut seconds, mut in_flight) = (0, Vec::new());
        for (what, which, more) in steps {
            let uid = PodUid::new(which.to_string());
            match what {
                0 | 1 => {
                    let mut observation = PodObservation::empty(uid.clone(), Mono::ZERO);
                    for name in ["c", "d"].into_iter().take(usize::try_from(more).unwrap()) {
                        observation.containers.push(ContainerStatus { name: name.to_owned(), ..running(&format!("{which}{name}{what}"), 1000) });
                    }
                    let probed = ProbedPod { uid: &uid, pod: &pod(which), told: None, observation: &observation, pod_ip: Some("10.0.0.2"), terminating: more == 3 };
                    bench.prober.sync_pod(at(seconds), probed);
                }
                2 => {
                    seconds += more;
                    in_flight.extend(bench.due(seconds).into_iter().map(|action| action.id));
                }
                3 | 4 if !in_flight.is_empty() => {
                    let id = in_flight.remove(which % in_flight.len());
                    let Some(Owner::Probe(_, number)) = bench.ledger.take(id) else { panic!("a probe is the prober's") };
                    let outcome = match more {
                        0 => Err(Failure::new(FailureKind::Other, "no")),
                        1 => Ok(ProbeOutcome::Failure("no".to_owned())),
                        _ => Ok(ProbeOutcome::Success),
                    };
                    let (mut none, recorded) = (Vec::new(), &mut bench.recorded);
                    let _told = bench.prober.done(at(seconds), number, id, outcome, &mut Out::new(&mut bench.ledger, &mut none, recorded));
                }
                5 => bench.prober.remove_pod(&uid),
                _ => {}
            }
            prop_assert_eq!(bench.prober.indexed(), bench.prober.scanned());
            prop_assert_eq!(bench.prober.deadline(), bench.prober.scanned().first().map(|(at, _)| *at));
        }
    }
}
