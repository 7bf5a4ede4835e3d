use serde_json::json;

use super::*;
use crate::action::{CriCall, HostCall};
use crate::ids::{ContainerId, SandboxId};
use crate::observation::{
    ContainerState, ContainerStatus, Listing, MachineInfo, PodObservation, RuntimeCondition, RuntimeStatus, RuntimeVersion,
    SandboxState, SandboxStatus,
};

/// An agent whose calls are answered at once, in order, by a node that is well unless a test says otherwise.
struct Bench {
    kubelet: Kubelet,
    now: Mono,
    runtime_ready: bool,
    cgroup_driver: Option<bool>,
    observation: Option<PodObservation>,
    cgroups: BTreeMap<PodUid, String>,
    calls: Vec<Call>,
}

impl Bench {
    fn new(config: Config) -> Self {
        Self {
            kubelet: Kubelet::new(Arc::new(config), 1),
            now: Mono::ZERO,
            runtime_ready: true,
            cgroup_driver: Some(false),
            observation: None,
            cgroups: BTreeMap::new(),
            calls: Vec::new(),
        }
    }

    fn handle(&mut self, event: Event) {
        let mut events = std::collections::VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            // A look counts only if it began after what came before it.
            self.now = self.now + Duration::from_millis(1);
            let mut actions = Vec::new();
            let now = Now { mono: self.now, wall: jiff::Timestamp::UNIX_EPOCH };
            self.kubelet.handle(now, event, &mut actions);
            for action in actions {
                assert!(self.calls.len() < 1000, "it goes on for ever: {:?}", &self.calls[990..]);
                events.extend(self.answer(&action));
                self.calls.push(action.call);
            }
        }
    }

    /// What comes back. What nobody waits for here stays unanswered.
    fn answer(&mut self, action: &Action) -> Option<Event> {
        let id = action.id;
        match &action.call {
            Call::Cri(call) => self.answer_of_runtime(call).map(|reply| Event::CriDone { id, outcome: Ok(reply) }),
            Call::Host(call) => {
                let reply = match call {
                    HostCall::MachineInfo => HostReply::Machine(Box::new(MachineInfo {
                        cpus: 2,
                        memory: 4 << 30,
                        root_fs_capacity: 1 << 30,
                        ..MachineInfo::default()
                    })),
                    HostCall::ListPodDirs => HostReply::PodDirs(Vec::new()),
                    HostCall::ListPodCgroups => HostReply::PodCgroups(self.cgroups.clone()),
                    HostCall::ReadFile { .. } => HostReply::Contents(b"nameserver 10.0.0.2\n".to_vec()),
                    _ => HostReply::Done,
                };
                Some(Event::HostDone { id, outcome: Ok(reply) })
            }
            _ => None,
        }
    }

    fn answer_of_runtime(&mut self, call: &CriCall) -> Option<CriReply> {
        let condition = |status| Some(RuntimeCondition { status, ..RuntimeCondition::default() });
        Some(match call {
            CriCall::Version => CriReply::Version(RuntimeVersion::default()),
            CriCall::RuntimeConfig => CriReply::RuntimeConfig { systemd_cgroup: self.cgroup_driver },
            CriCall::Status => CriReply::Status(RuntimeStatus {
                runtime_ready: condition(self.runtime_ready),
                network_ready: condition(true),
                ..RuntimeStatus::default()
            }),
            CriCall::List => CriReply::Listing { began: self.now, listing: Listing::default() },
            CriCall::Observe { pod } => {
                let seen = self.observation.clone().unwrap_or_else(|| PodObservation::empty(pod.clone(), self.now));
                CriReply::Observation(Arc::new(PodObservation { began: self.now, ..seen }))
            }
            CriCall::StopContainer { .. } => {
                for container in self.observation.iter_mut().flat_map(|seen| &mut seen.containers) {
                    container.state = ContainerState::Exited;
                }
                CriReply::Done
            }
            CriCall::StopPodSandbox { .. } => {
                for sandbox in self.observation.iter_mut().flat_map(|seen| &mut seen.sandboxes) {
                    sandbox.state = SandboxState::NotReady;
                }
                CriReply::Done
            }
            _ => return None,
        })
    }

    /// Lets time pass, waking the agent when it wants to be woken.
    fn pass(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        while let Some(at) = self.kubelet.deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at) + Duration::from_millis(1);
            self.handle(Event::TimerFired);
        }
        self.now = end;
    }

    fn list_node(&mut self) {
        let node = serde_json::from_value(json!({"metadata": {"name": "n1", "uid": "n"}})).unwrap();
        self.handle(Event::WatchListed { key: WatchKey::Node, objects: vec![Object::Node(Arc::new(node))] });
        self.handle(Event::WatchListed { key: WatchKey::Services, objects: vec![] });
    }

    fn list_pods(&mut self) {
        let pod = json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "web"},
            "spec": {"containers": [{"name": "main", "image": "busybox"}]},
        });
        let pod = Object::Pod(Arc::new(serde_json::from_value(pod).unwrap()));
        self.handle(Event::WatchListed { key: WatchKey::Pods, objects: vec![pod] });
    }

    fn count(&self, is: impl Fn(&Call) -> bool) -> usize {
        self.calls.iter().filter(|call| is(call)).count()
    }

    /// The calls that change the pod, in order.
    fn changes(&self) -> Vec<&'static str> {
        let name = |call: &Call| match call {
            Call::Host(HostCall::EnsureCgroup { .. }) => Some("EnsureCgroup"),
            Call::Cri(CriCall::StopContainer { .. }) => Some("StopContainer"),
            Call::Cri(CriCall::StopPodSandbox { .. }) => Some("StopPodSandbox"),
            Call::Cri(CriCall::RunPodSandbox { .. }) => Some("RunPodSandbox"),
            _ => None,
        };
        self.calls.iter().filter_map(name).collect()
    }
}

fn watches_pods(call: &Call) -> bool {
    matches!(call, Call::Api(ApiCall::Watch(WatchKey::Pods)))
}

// NODE-001
#[test]
fn start_of_the_agent_is_told() {
    let mut bench = Bench::new(Config::new("n1"));
    bench.handle(Event::Started);
    bench.pass(1);
    let events =
        bench.calls.iter().filter_map(|call| if let Call::Api(ApiCall::CreateEvent(event)) = call { Some(event) } else { None });
    let told: Vec<_> = events.map(|e| (e.type_.as_deref(), e.reason.as_deref(), e.message.as_deref())).collect();
    assert_eq!(told[0], (Some("Normal"), Some("Starting"), Some("Starting kubelet.")));
    assert_eq!(told.iter().filter(|(_, reason, _)| *reason == Some("Starting")).count(), 1);
}

// NODE-002: without an API server there is nobody to ask and nobody to tell.
#[test]
fn standalone_agent_asks_no_api_server() {
    let mut config = Config::new("n1");
    config.node.standalone = true;
    let mut bench = Bench::new(config);
    bench.handle(Event::Started);
    bench.pass(120);
    assert_eq!(bench.count(|call| matches!(call, Call::Api(_))), 0);
    assert!(bench.count(|call| matches!(call, Call::Cri(CriCall::List))) > 10, "it lives");
}

// NODE-011: pods are judged by the own Node, so it is listed first; that there is none yet is an answer too.
#[test]
fn pods_are_watched_once_the_own_node_was_listed() {
    let mut bench = Bench::new(Config::new("n1"));
    bench.handle(Event::Started);
    bench.pass(30);
    assert_eq!(bench.count(watches_pods), 0);
    bench.handle(Event::WatchListed { key: WatchKey::Node, objects: vec![] });
    assert_eq!(bench.count(watches_pods), 1);
    bench.list_node();
    bench.pass(30);
    assert_eq!(bench.count(watches_pods), 1);
}

// POD-051, NODE-105: on a runtime that is not ready nothing is begun; the pod is looked at, and begun as soon as the runtime is.
#[test]
fn nothing_is_begun_on_a_runtime_that_is_not_ready() {
    let mut bench = Bench::new(Config::new("n1"));
    bench.runtime_ready = false;
    bench.handle(Event::Started);
    bench.list_node();
    bench.list_pods();
    bench.pass(60);
    assert!(bench.changes().is_empty());
    assert!(bench.count(|call| matches!(call, Call::Cri(CriCall::Observe { .. }))) > 0);
    bench.runtime_ready = true;
    bench.pass(6);
    assert_eq!(bench.changes(), ["EnsureCgroup", "RunPodSandbox"]);
}

/// The pod as an earlier life of the agent left it: one container runs.
fn running() -> PodObservation {
    let sandbox = SandboxStatus {
        id: SandboxId::new("s"),
        attempt: 0,
        state: SandboxState::Ready,
        created_at: 1,
        ips: vec!["10.0.0.2".to_owned()],
        host_network: false,
        runtime_handler: String::new(),
        labels: BTreeMap::new(),
    };
    let container = ContainerStatus {
        id: ContainerId::new("c"),
        sandbox: SandboxId::new("s"),
        name: "main".to_owned(),
        attempt: 0,
        state: ContainerState::Running,
        created_at: 2,
        started_at: 3,
        finished_at: 0,
        exit_code: 0,
        reason: String::new(),
        message: String::new(),
        image: "busybox".to_owned(),
        image_ref: "sha256:1".to_owned(),
        log_path: String::new(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        user: None,
        resources: None,
        termination_log: String::new(),
        stop_signal: String::new(),
    };
    let mut seen = PodObservation::empty(PodUid::new("web"), Mono::ZERO);
    (seen.sandboxes, seen.containers) = (vec![sandbox], vec![container]);
    seen
}

/// What an agent does to a pod that it finds running, with those pods' cgroups on the node.
fn done_to_running_pod(config: Config, cgroup: Option<&str>) -> Vec<&'static str> {
    let mut bench = Bench::new(config);
    bench.observation = Some(running());
    bench.cgroups = cgroup.into_iter().map(|name| (PodUid::new("web"), name.to_owned())).collect();
    bench.handle(Event::Started);
    bench.list_node();
    bench.list_pods();
    bench.pass(1);
    bench.changes()
}

// POD-101: the pod's cgroup is there before its sandbox is.
#[test]
fn cgroup_comes_before_the_sandbox() {
    let mut bench = Bench::new(Config::new("n1"));
    bench.handle(Event::Started);
    bench.list_node();
    bench.list_pods();
    bench.pass(1);
    assert_eq!(bench.changes(), ["EnsureCgroup", "RunPodSandbox"]);
}

// POD-101: what runs outside the pod's cgroup is stopped, and runs again inside; what runs inside it is left alone.
#[test]
fn what_runs_outside_the_pods_cgroup_is_stopped_first() {
    let inside = "/kubepods/besteffort/podweb";
    assert_eq!(done_to_running_pod(Config::new("n1"), Some(inside)), ["EnsureCgroup"]);
    let again = ["StopContainer", "StopPodSandbox", "EnsureCgroup", "RunPodSandbox"];
    assert_eq!(done_to_running_pod(Config::new("n1"), None), again);
    assert_eq!(done_to_running_pod(Config::new("n1"), Some("/other/besteffort/podweb")), again);
    let mut config = Config::new("n1");
    config.cgroups.per_qos = false;
    assert!(done_to_running_pod(config, None).is_empty());
}
