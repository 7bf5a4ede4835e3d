//! Which calls of the runtime a pod's whole life is made of, in which order, and with which deadlines.
//! Upstream: staging/src/k8s.io/cri-client/pkg/{remote_runtime,remote_image}.go, pkg/kubelet/kuberuntime.
//! Differs: a look at a pod is one call here, and has the time that upstream gives to each request of it; polls of the runtime's health are
//! given up sooner, so that another is answered before the runtime counts as down.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use kubelet::action::{Action, Call, CriCall, HostCall};
use kubelet::config::Config;
use kubelet::event::{Event, HostReply};
use serde_json::{Value, json};

use super::World;
use super::planted::{Asked, Planted};
use crate::api::resource::named;
use crate::api::write::DeleteOptions;

/// `runtimeRequestTimeout`.
const T: Duration = Duration::from_secs(120);
/// How long the runtime's health is waited for.
const POLL: Duration = Duration::from_secs(23);
const GRACE: Duration = Duration::from_secs(20);
const PROBE: Duration = Duration::from_secs(3);

/// What a deadline must be.
#[derive(Debug)]
enum Deadline {
    None,
    Is(Duration),
    AtLeast(Duration),
    Between(Duration, Duration),
}

impl Deadline {
    fn holds(&self, is: Option<Duration>) -> bool {
        match (self, is) {
            (Self::None, is) => is.is_none(),
            (Self::Is(wanted), Some(is)) => is == *wanted,
            (Self::AtLeast(least), Some(is)) => is >= *least,
            (Self::Between(least, most), Some(is)) => *least <= is && is <= *most,
            (_, None) => false,
        }
    }
}

fn deadline(call: &CriCall) -> Deadline {
    match call {
        // CRI-010
        CriCall::Version | CriCall::Status | CriCall::RuntimeConfig => Deadline::Is(POLL),
        CriCall::UpdateRuntimeConfig { .. } => Deadline::Is(T),
        // CRI-014, CRI-015, CRI-020, CRI-021: a listing, or a pod's listing with the status of each. One that hangs hides only its own pod,
        // for no longer than a change that hangs: so what must come true after faults has no longer to wait (`swarm::settle`), and a slow
        // disk is no reason to know nothing.
        CriCall::List | CriCall::Observe { .. } => Deadline::Is(T),
        // CRI-011
        CriCall::RunPodSandbox { .. } => Deadline::Is(2 * T),
        // CRI-018
        CriCall::StopContainer { grace, .. } => Deadline::Is(T + *grace),
        // CRI-025: no probe is cut short of its own time-out, and no hook at all but for the end of the grace.
        CriCall::ExecSync { command, timeout, .. } => match command[0].as_str() {
            "probe" => Deadline::Between(*timeout + Duration::from_secs(1), *timeout + T),
            "pre-stop" => Deadline::Between(T, T + GRACE),
            _ => Deadline::AtLeast(Duration::from_secs(3600)),
        },
        // CRI-034
        CriCall::PullImage { .. } => Deadline::None,
        // CRI-012, CRI-013, CRI-016, CRI-017, CRI-019, CRI-024, CRI-035, CRI-036, CRI-037
        CriCall::StopPodSandbox { .. }
        | CriCall::RemovePodSandbox { .. }
        | CriCall::CreateContainer { .. }
        | CriCall::StartContainer { .. }
        | CriCall::RemoveContainer { .. }
        | CriCall::ReopenContainerLog { .. }
        | CriCall::ImageStatus { .. }
        | CriCall::ListImages
        | CriCall::RemoveImage { .. }
        | CriCall::ImageFsInfo => Deadline::Is(T),
    }
}

/// All that was asked for, in order.
type Record = Rc<RefCell<Vec<Action>>>;

/// Keeps what is asked for. The first look at the size of logs finds them all too big.
fn recorder(record: &Record) -> Planted {
    let record = Rc::clone(record);
    let mut found = false;
    Planted::in_actions(move |action| {
        record.borrow_mut().push(action.clone());
        match &action.call {
            Call::Host(HostCall::LargeLogs { paths, .. }) if !found && !paths.is_empty() => {
                found = true;
                let reply = HostReply::LargeLogs { large: paths.clone(), missing: Vec::new() };
                let event = Event::HostDone { id: action.id, outcome: Ok(reply) };
                vec![Asked::Answered(action, event)]
            }
            _ => vec![Asked::Sent(action)],
        }
    })
}

fn pod() -> Value {
    let exec = |command: &str| json!({"exec": {"command": [command]}});
    let mut probe = exec("probe");
    probe["timeoutSeconds"] = json!(PROBE.as_secs());
    json!({
        "metadata": {"name": "web", "namespace": "default", "annotations": {"sim.keelson.dev/main": "exit=1@30s,1@30s"}},
        "spec": {
            "nodeName": "n1",
            "terminationGracePeriodSeconds": GRACE.as_secs(),
            "containers": [{
                "name": "main", "image": "registry.example/app:1", "livenessProbe": probe,
                "lifecycle": {"postStart": exec("post-start"), "preStop": exec("pre-stop")},
            }],
        },
    })
}

/// A pod is pulled for, started, probed, has its log rotated, ends twice and is started again, and is deleted; then the disk
/// is full, and its image goes.
fn life() -> Vec<Action> {
    life_of(pod())
}

fn life_of(pod: Value) -> Vec<Action> {
    let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
    let record = Record::default();
    let mut world = World::new(Config::new("n1"), 7);
    world.planted = Some(recorder(&record));
    world.run_until(Duration::from_secs(3));
    world.api.create(world.now(), named("pods"), "default", pod).unwrap();
    world.run_until(Duration::from_secs(180));
    world.api.delete(world.now(), named("pods"), "default", &name, &DeleteOptions::default()).unwrap();
    world.run_until(Duration::from_secs(240));
    world.host.disk_full = true;
    world.run_until(Duration::from_secs(700));
    assert!(world.runtime.containers.is_empty() && world.runtime.sandboxes.is_empty() && world.runtime.images.is_empty());
    assert_eq!(world.witness.first_broken(), None);
    record.take()
}

fn calls(actions: &[Action]) -> impl Iterator<Item = (usize, &CriCall, Option<Duration>)> {
    actions.iter().enumerate().filter_map(|(at, action)| match &action.call {
        Call::Cri(call) => Some((at, call, action.timeout)),
        _ => None,
    })
}

/// Where the first call is that is such a one.
fn first(actions: &[Action], is: impl Fn(&CriCall) -> bool) -> usize {
    calls(actions).find(|(_, call, _)| is(call)).map(|(at, ..)| at).expect("there is such a call")
}

// CRI-010 to CRI-021, CRI-024, CRI-025, CRI-034 to CRI-037: every call of the runtime has its deadline, and an ordinary life has them
// all.
#[test]
fn every_call_of_the_runtime_has_its_deadline() {
    let actions = life();
    for (_, call, is) in calls(&actions) {
        let wanted = deadline(call);
        assert!(wanted.holds(is), "{}: {is:?}, not {wanted:?}", call.name());
    }
    let called = |name: &str| calls(&actions).filter(|(_, call, _)| call.name() == name).count();
    let names = [
        "Version",
        "List",
        "Observe",
        "RunPodSandbox",
        "StopPodSandbox",
        "RemovePodSandbox",
        "CreateContainer",
        "StartContainer",
        "RemoveContainer",
        "ReopenContainerLog",
        "ExecSync",
        "PullImage",
        "ImageStatus",
        "ListImages",
        "RemoveImage",
        "ImageFsInfo",
    ];
    for name in names {
        assert!(called(name) > 0, "{name} is not called");
    }
    let commands: Vec<&str> = calls(&actions)
        .filter_map(|(_, call, _)| if let CriCall::ExecSync { command, .. } = call { Some(command[0].as_str()) } else { None })
        .collect();
    for command in ["probe", "post-start", "pre-stop"] {
        assert!(commands.contains(&command), "{command} is not run");
    }
}

// CRI-034: kuberuntime_image.go (PullImage) sends the configuration that the sandbox was made with.
#[test]
fn pull_is_told_the_sandbox_that_the_image_is_for() {
    let (actions, mut sandbox, mut pulls) = (life(), None, 0);
    for (_, call, _) in calls(&actions) {
        match call {
            CriCall::RunPodSandbox { config, .. } => sandbox = Some(config),
            CriCall::PullImage { sandbox_config, .. } => {
                assert!(sandbox.is_some() && sandbox_config.as_ref() == sandbox);
                pulls += 1;
            }
            _ => {}
        }
    }
    assert!(pulls > 0);
}

// CRI-012, CRI-013, CRI-019: nothing is removed that was not stopped before, sandboxes in this very life: the network goes with the stop.
#[test]
fn what_is_removed_was_stopped_before() {
    let actions = life();
    for (at, call, _) in calls(&actions) {
        match call {
            CriCall::RemovePodSandbox { id } => {
                let stopped = first(&actions, |call| matches!(call, CriCall::StopPodSandbox { id: stopped } if stopped == id));
                assert!(stopped < at);
            }
            CriCall::RemoveContainer { id } => {
                let started = first(&actions, |call| matches!(call, CriCall::StartContainer { id: started } if started == id));
                assert!(started < at);
            }
            _ => {}
        }
    }
}

// CRI-010: the runtime's version is not asked for at every look at the node.
#[test]
fn version_is_asked_for_once_a_minute() {
    let asked = calls(&life()).filter(|(_, call, _)| matches!(call, CriCall::Version)).count();
    assert!((700 / 65..=700 / 60 + 1).contains(&asked), "{asked}");
}

// CRI-024: a log is opened anew once it was renamed. CRI-037, CRI-036: images go once their filesystem was looked at.
#[test]
fn log_is_reopened_after_its_rotation_and_images_go_after_a_look_at_the_disk() {
    let actions = life();
    let rotated = actions.iter().position(|action| matches!(action.call, Call::Host(HostCall::RotateLog { .. }))).unwrap();
    let reopened = first(&actions, |call| matches!(call, CriCall::ReopenContainerLog { .. }));
    assert!(rotated < reopened);
    let looked = first(&actions, |call| matches!(call, CriCall::ImageFsInfo));
    let removed = first(&actions, |call| matches!(call, CriCall::RemoveImage { .. }));
    assert!(looked < removed);
}

// LOG-005, FINDINGS A8: a link that is made is removed by the same name, however long the names of pod and container are.
#[test]
fn links_to_logs_go_by_the_name_by_which_they_were_made() {
    for (pod_name, container) in [("web", "main"), ("p".repeat(253).as_str(), "c".repeat(63).as_str())] {
        let mut long = pod();
        long["metadata"] = json!({"name": pod_name, "namespace": "default", "annotations": {format!("sim.keelson.dev/{container}"): "exit=1@30s,1@30s"}});
        long["spec"]["containers"][0]["name"] = json!(container);
        let (mut made, mut removed) = (BTreeSet::new(), BTreeSet::new());
        for action in life_of(long) {
            match action.call {
                Call::Host(HostCall::LinkContainerLog { link, .. }) => made.insert(link),
                Call::Host(HostCall::RemoveContainerLogs { link, .. }) => removed.insert(link),
                _ => false,
            };
        }
        assert!(!made.is_empty() && made.iter().all(|link| link.rsplit('/').next().unwrap().len() <= 255), "{made:?}");
        assert_eq!(made, removed);
    }
}

/// With which graces the containers of a pod were stopped that has a grace of a minute, and a probe with one of seven seconds.
fn graces(script: &str) -> Vec<Duration> {
    let record = Record::default();
    let mut world = World::new(Config::new("n1"), 7);
    world.planted = Some(recorder(&record));
    world.run_until(Duration::from_secs(3));
    let mut pod = pod();
    pod["metadata"]["annotations"]["sim.keelson.dev/main"] = json!(script);
    pod["spec"]["terminationGracePeriodSeconds"] = json!(60);
    let container = &mut pod["spec"]["containers"][0];
    container["lifecycle"] = Value::Null;
    let probe = &mut container["livenessProbe"];
    (probe["periodSeconds"], probe["failureThreshold"]) = (json!(1), json!(1));
    probe["terminationGracePeriodSeconds"] = json!(7);
    world.api.create(world.now(), named("pods"), "default", pod).unwrap();
    world.run_until(Duration::from_secs(12));
    world.api.delete(world.now(), named("pods"), "default", "web", &DeleteOptions::default()).unwrap();
    world.run_until(Duration::from_secs(90));
    let actions = record.take();
    calls(&actions)
        .filter_map(|(_, call, _)| if let CriCall::StopContainer { grace, .. } = call { Some(*grace) } else { None })
        .collect()
}

// POD-253: a probe that has a grace of its own gives it to what it kills; to what is deleted the pod gives its own.
#[test]
fn probe_kills_with_its_own_grace() {
    assert_eq!(graces("exec-fails=5s..")[0], Duration::from_secs(7));
    let deleted = graces("term=1s");
    assert!(!deleted.is_empty() && deleted.iter().all(|grace| *grace >= Duration::from_secs(58)), "{deleted:?}");
}
