mod mirrors;
mod node;
mod starts;
mod volumes;

use serde_json::{Value, json};

use std::time::Duration;

use super::*;
use crate::action::{Action, CriCall, HostCall};
use crate::event::{Manifest, VolumeDirectory};
use crate::failure::{Failure, FailureKind};
use crate::ids::{ContainerId, SandboxId};
use crate::observation::{
    ContainerState, ContainerStatus, Image, ListedContainer, Listing, MachineInfo, NodeAddresses, PodObservation, RuntimeCondition,
    RuntimeHandler, RuntimeStatus, RuntimeVersion, SandboxState, SandboxStatus,
};

/// An agent whose calls are answered a millisecond later, in order, by a node that is well unless a test says otherwise.
struct Bench {
    kubelet: Kubelet,
    now: Mono,
    runtime_ready: bool,
    runtime_silent: bool,
    systemd_cgroup: Option<bool>,
    network_ready: bool,
    supplemental_groups: bool,
    manifests: Vec<Manifest>,
    sandboxes_fail: bool,
    containers_fail: bool,
    /// A pull never ends.
    pulls_hang: bool,
    /// What the API server answers of the node.
    stored_node: Option<Value>,
    pod_dirs: Vec<PodUid>,
    pod_logs: Vec<String>,
    /// What lies on the disk.
    volumes: BTreeMap<PodUid, BTreeSet<VolumeDirectory>>,
    /// No volume can be taken away.
    volumes_are_busy: bool,
    /// What the runtime holds; nothing of a pod that is not here.
    seen: BTreeMap<PodUid, PodObservation>,
    /// What the runtime lists.
    listing: Listing,
    cgroups: BTreeSet<String>,
    /// What the runtime says of any image; `None` if it does not answer.
    image: Option<Option<Image>>,
    /// Whether containers are made and start; else nobody answers.
    containers_start: bool,
    /// What the runtime's handlers can.
    handlers: Vec<RuntimeHandler>,
    hosts_file_is_missing: bool,
    /// The machine's address; none while it has no network.
    address: Option<&'static str>,
    calls: Vec<Call>,
    facts: Vec<Fact>,
}

impl Bench {
    fn new(config: Config) -> Self {
        Self {
            kubelet: Kubelet::new(Arc::new(config), 1),
            now: Mono::ZERO,
            runtime_ready: true,
            runtime_silent: false,
            systemd_cgroup: Some(false),
            network_ready: true,
            supplemental_groups: false,
            manifests: Vec::new(),
            sandboxes_fail: false,
            containers_fail: false,
            pulls_hang: false,
            stored_node: None,
            pod_dirs: Vec::new(),
            pod_logs: Vec::new(),
            volumes: BTreeMap::new(),
            volumes_are_busy: false,
            seen: BTreeMap::new(),
            listing: Listing::default(),
            cgroups: BTreeSet::new(),
            image: None,
            containers_start: false,
            handlers: Vec::new(),
            hosts_file_is_missing: false,
            address: None,
            calls: Vec::new(),
            facts: Vec::new(),
        }
    }

    fn handle(&mut self, event: Event) {
        let mut events = std::collections::VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let mut actions = Vec::new();
            self.now = self.now + Duration::from_millis(1);
            let now = Now { mono: self.now, wall: jiff::Timestamp::UNIX_EPOCH };
            self.kubelet.handle(now, event, &mut actions);
            self.facts.extend_from_slice(self.kubelet.facts());
            for action in actions {
                events.extend(self.answer(&action));
                self.calls.push(action.call);
            }
        }
    }

    /// What comes back. What nobody waits for here stays unanswered.
    fn answer(&mut self, action: &Action) -> Option<Event> {
        let id = action.id;
        match &action.call {
            Call::Api(ApiCall::GetNode) => self
                .stored_node
                .clone()
                .map(|node| Event::ApiDone { id, outcome: Ok(ApiReply::Node(Arc::new(serde_json::from_value(node).unwrap()))) }),
            Call::Api(ApiCall::DeletePod { .. }) => Some(Event::ApiDone { id, outcome: Ok(ApiReply::Done) }),
            Call::Cri(CriCall::Status) if self.runtime_silent => {
                Some(Event::CriDone { id, outcome: Err(Failure::new(FailureKind::Unavailable, "connection refused")) })
            }
            Call::Cri(call) if self.cannot(call) => {
                Some(Event::CriDone { id, outcome: Err(Failure::new(FailureKind::Other, "no")) })
            }
            Call::Cri(call) => self.answer_of_runtime(call).map(|reply| Event::CriDone { id, outcome: Ok(reply) }),
            Call::Host(HostCall::TearDownVolume { .. }) if self.volumes_are_busy => {
                Some(Event::HostDone { id, outcome: Err(Failure::new(FailureKind::Other, "target is busy")) })
            }
            Call::Host(HostCall::ReadFile { path }) if path == "/etc/hosts" && self.hosts_file_is_missing => {
                let failure = Failure::new(FailureKind::NotFound, "open /etc/hosts: no such file or directory");
                Some(Event::HostDone { id, outcome: Err(failure) })
            }
            Call::Host(call) => {
                let reply = match call {
                    HostCall::MachineInfo => HostReply::Machine(Box::new(MachineInfo {
                        cpus: 2,
                        memory: 4 << 30,
                        root_fs_capacity: 1 << 30,
                        ..MachineInfo::default()
                    })),
                    HostCall::NodeAddresses { .. } => {
                        let routed: Vec<std::net::IpAddr> = self.address.iter().map(|ip| ip.parse().unwrap()).collect();
                        let (local, default_routes) = (routed.clone(), !routed.is_empty());
                        HostReply::NodeAddresses(NodeAddresses { named: Some(Vec::new()), routed, default_routes, local })
                    }
                    HostCall::ListPodDirs => HostReply::PodDirs(self.pod_dirs.clone()),
                    HostCall::ListPodLogs => HostReply::PodLogs(self.pod_logs.clone()),
                    HostCall::ListPodCgroups => HostReply::PodCgroups(BTreeMap::new()),
                    HostCall::CgroupExists { name } => HostReply::Exists(self.cgroups.contains(name)),
                    HostCall::ListVolumes { pod } => {
                        HostReply::Volumes(self.volumes.get(pod).into_iter().flatten().cloned().collect())
                    }
                    HostCall::SetUpVolume { pod, volume, .. } => {
                        let directory = VolumeDirectory { plugin: "of-a-test".to_owned(), volume: volume.clone(), data: None };
                        self.volumes.entry(pod.clone()).or_default().insert(directory);
                        HostReply::Done
                    }
                    HostCall::TearDownVolume { pod, volume, .. } => {
                        self.volumes.entry(pod.clone()).or_default().retain(|directory| directory.volume != *volume);
                        HostReply::Done
                    }
                    HostCall::ReadManifests { .. } => HostReply::Manifests(self.manifests.clone()),
                    HostCall::ReadFile { .. } => HostReply::Contents(b"nameserver 10.0.0.2\n".to_vec()),
                    _ => HostReply::Done,
                };
                Some(Event::HostDone { id, outcome: Ok(reply) })
            }
            _ => None,
        }
    }

    fn cannot(&self, call: &CriCall) -> bool {
        match call {
            CriCall::RunPodSandbox { .. } => self.sandboxes_fail,
            CriCall::CreateContainer { .. } => self.containers_fail,
            _ => false,
        }
    }

    fn answer_of_runtime(&mut self, call: &CriCall) -> Option<CriReply> {
        let condition = |status| Some(RuntimeCondition { status, ..RuntimeCondition::default() });
        Some(match call {
            CriCall::Version => CriReply::Version(RuntimeVersion::default()),
            CriCall::RuntimeConfig => CriReply::RuntimeConfig { systemd_cgroup: self.systemd_cgroup },
            CriCall::Status => CriReply::Status(RuntimeStatus {
                runtime_ready: condition(self.runtime_ready),
                network_ready: condition(self.network_ready),
                supplemental_groups_policy: self.supplemental_groups,
                handlers: self.handlers.clone(),
            }),
            CriCall::ImageStatus { .. } => CriReply::Image(self.image.clone()?),
            CriCall::PullImage { .. } if self.pulls_hang => return None,
            CriCall::PullImage { image, .. } => CriReply::Pulled { image_ref: image.clone() },
            CriCall::List => CriReply::Listing { began: self.now, listing: self.listing.clone() },
            CriCall::Observe { pod } => {
                let seen = self.seen.get(pod).cloned().unwrap_or_else(|| PodObservation::empty(pod.clone(), self.now));
                CriReply::Observation(Arc::new(PodObservation { began: self.now, ..seen }))
            }
            CriCall::CreateContainer { config, .. } if self.containers_start => {
                let name = config.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default();
                CriReply::Container(ContainerId::new(format!("{name}-made")))
            }
            CriCall::StartContainer { .. } if self.containers_start => CriReply::Done,
            CriCall::StopContainer { id, .. } => {
                let stopped = self.seen.values_mut().flat_map(|seen| &mut seen.containers).filter(|c| c.id == *id);
                stopped.for_each(|container| container.state = ContainerState::Exited);
                CriReply::Done
            }
            CriCall::StopPodSandbox { id } => {
                let stopped = self.seen.values_mut().flat_map(|seen| &mut seen.sandboxes).filter(|s| s.id == *id);
                stopped.for_each(|sandbox| sandbox.state = SandboxState::NotReady);
                CriReply::Done
            }
            _ => return None,
        })
    }

    /// Lets time pass, waking the agent when it wants to be woken.
    fn pass(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        while let Some(at) = self.kubelet.deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.handle(Event::TimerFired);
            assert!(self.now <= end + Duration::from_secs(1), "wakes without end: {:?}", self.kubelet.deadlines());
        }
        self.now = self.now.max(end);
    }

    fn list_node(&mut self) {
        let node = serde_json::from_value(json!({"metadata": {"name": "n1", "uid": "n"}})).unwrap();
        self.handle(Event::WatchListed { key: WatchKey::Node, objects: vec![Object::Node(Arc::new(node))] });
        self.handle(Event::WatchListed { key: WatchKey::Services, objects: vec![] });
    }

    fn list_pods(&mut self, pods: &[Value]) {
        let object = |pod: &Value| Object::Pod(Arc::new(serde_json::from_value(pod.clone()).unwrap()));
        self.handle(Event::WatchListed { key: WatchKey::Pods, objects: pods.iter().map(object).collect() });
    }

    /// An earlier life left the pod's container running.
    fn running(&mut self, pod: &str) {
        let sandbox = SandboxStatus {
            id: SandboxId::new(format!("sandbox-{pod}")),
            attempt: 0,
            state: SandboxState::Ready,
            created_at: 1,
            ips: vec!["10.0.0.7".to_owned()],
            lacks_ip: false,
            annotation_bytes: 0,
            host_network: false,
            runtime_handler: String::new(),
            labels: BTreeMap::new(),
        };
        let container = ContainerStatus {
            id: ContainerId::new(format!("main-{pod}")),
            sandbox: sandbox.id.clone(),
            name: "main".to_owned(),
            attempt: 0,
            state: ContainerState::Running,
            created_at: 1,
            started_at: 1,
            finished_at: 0,
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
            image: "busybox".to_owned(),
            image_ref: "sha256:1".to_owned(),
            image_id: "sha256:1".to_owned(),
            log_path: String::new(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            user: None,
            resources: None,
            termination_log: String::new(),
            stop_signal: String::new(),
        };
        let uid = PodUid::new(pod);
        let seen = PodObservation {
            sandboxes: vec![sandbox],
            containers: vec![container],
            ..PodObservation::empty(uid.clone(), Mono::ZERO)
        };
        self.seen.insert(uid, seen);
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

fn looks_for_cgroup(call: &Call) -> bool {
    matches!(call, Call::Host(HostCall::CgroupExists { .. }))
}

fn pod(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {"containers": [{"name": "main", "image": "busybox"}]},
    })
}

// S3, LOG-008: a pod that cannot be read writes its logs as any other.
#[test]
fn log_of_a_pod_that_cannot_be_read_is_rotated() {
    let mut bench = Bench::new(Config::new("n1"));
    let (pod, sandbox) = (PodUid::new("u"), SandboxId::new("s"));
    let container = |id: &str, state| ListedContainer {
        id: ContainerId::new(id),
        pod: pod.clone(),
        sandbox: sandbox.clone(),
        name: "main".to_owned(),
        attempt: 2,
        state,
        created_at: 1,
    };
    let containers = vec![container("c1", ContainerState::Running), container("c0", ContainerState::Exited)];
    bench.listing = Listing { sandboxes: Vec::new(), containers };
    bench.handle(Event::Started);
    bench.list_node();
    let unknown = Unreadable { namespace: "ns".to_owned(), name: "p".to_owned(), uid: "u".to_owned(), ..Unreadable::default() };
    bench.handle(Event::WatchListed { key: WatchKey::Pods, objects: vec![Object::Unreadable(Box::new(unknown))] });
    bench.pass(30);
    let looks = bench
        .calls
        .iter()
        .find_map(|call| if let Call::Host(HostCall::LargeLogs { paths, .. }) = call { Some(paths) } else { None });
    assert_eq!(looks.map(Vec::as_slice), Some(["/var/log/pods/ns_p_u/main/2.log".to_owned()].as_slice()));
}

// S3, POD-014: an API server whose mirrors nobody here can read is not worked on for ever; what is no mirror is left alone.
#[test]
fn mirror_that_cannot_be_read_is_deleted_with_growing_pauses() {
    let mut bench = Bench::new(Config::new("n1"));
    bench.handle(Event::Started);
    bench.list_node();
    let unknown = |name: &str, mirror| {
        let (namespace, name, uid) = ("ns".to_owned(), name.to_owned(), name.to_owned());
        Object::Unreadable(Box::new(Unreadable { namespace, name, uid, mirror, ..Unreadable::default() }))
    };
    bench.handle(Event::WatchListed { key: WatchKey::Pods, objects: vec![unknown("mirror", true), unknown("other", false)] });
    let mut deletions = Vec::new();
    for _ in 0..100 {
        bench.pass(1);
        deletions.push(bench.count(|call| matches!(call, Call::Api(ApiCall::DeletePod { uid, .. }) if uid.as_str() == "mirror")));
    }
    assert_eq!([0, 8, 12, 28, 33, 68, 75].map(|second| deletions[second]), [1, 1, 2, 2, 3, 3, 4], "{deletions:?}");
    assert_eq!(bench.count(|call| matches!(call, Call::Api(ApiCall::DeletePod { .. }))), 4);
}

// NODE-001: the beginning of each life is told, once.
#[test]
fn start_of_the_agent_is_told() {
    let mut bench = Bench::new(Config::new("n1"));
    bench.handle(Event::Started);
    bench.pass(1);
    let events =
        bench.calls.iter().filter_map(|call| if let Call::Api(ApiCall::CreateEvent(event)) = call { Some(event) } else { None });
    let mut told = events.map(|e| (e.type_.as_deref(), e.reason.as_deref(), e.message.as_deref()));
    assert_eq!(told.next(), Some((Some("Normal"), Some("Starting"), Some("Starting kubelet."))));
    assert!(told.all(|(_, reason, _)| reason != Some("Starting")), "once");
}

// API-060: pkg/kubelet/kubelet_getters.go, GetPods: nobody but the agent has the status of a static pod; all others are as the API server
// has them. API-084: the instance whose log is asked for is found by the agent's own.
#[test]
fn pods_of_the_api_server_are_told_as_it_has_them() {
    let mut config = Config::new("n1");
    config.static_pods.path = Some("/etc/kubernetes/manifests".to_owned());
    let mut bench = Bench::new(config);
    let manifest = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "fixed"}, "spec": pod("fixed")["spec"]});
    let path = "/etc/kubernetes/manifests/fixed.json".to_owned();
    bench.manifests = vec![Manifest { path, contents: Ok(manifest.to_string().into_bytes()) }];
    bench.handle(Event::Started);
    bench.list_node();
    let mut web = pod("web");
    web["status"] = json!({"phase": "Pending", "message": "of the API server"});
    bench.list_pods(&[web]);
    bench.pass(30);
    let told: BTreeMap<_, _> = bench
        .kubelet
        .pods()
        .iter()
        .map(|pod| (pod.metadata.name.clone().unwrap(), pod.status.clone().unwrap_or_default()))
        .collect();
    assert_eq!(told["web"].message.as_deref(), Some("of the API server"));
    assert_eq!(told["web"].conditions, None);
    assert_eq!(told["fixed-n1"].phase.as_deref(), Some("Pending"));
    let own = bench.kubelet.pod("default", "web").unwrap().status.clone().unwrap();
    assert!(own.conditions.is_some(), "{own:?}");
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
    bench.list_pods(&[pod("web")]);
    bench.pass(60);
    assert!(bench.changes().is_empty());
    assert!(bench.count(|call| matches!(call, Call::Cri(CriCall::Observe { .. }))) > 0);
    bench.runtime_ready = true;
    bench.pass(6);
    assert_eq!(bench.changes(), ["EnsureCgroup", "RunPodSandbox"]);
}

// POD-051: a runtime that was ready and whose status call hangs may run pods all the same; the node says that it is down (NODE-104).
#[test]
fn hanging_status_call_of_the_runtime_stops_no_pod() {
    let mut bench = Bench::new(Config::new("n1"));
    bench.handle(Event::Started);
    bench.list_node();
    bench.list_pods(&[]);
    bench.pass(10);
    bench.runtime_silent = true;
    bench.pass(40);
    assert_eq!(bench.kubelet.parts.runtime.silence_error(bench.now).as_deref(), Some("container runtime is down"));
    bench.list_pods(&[pod("web")]);
    bench.pass(2);
    assert_eq!(bench.changes(), ["EnsureCgroup", "RunPodSandbox"]);
}

// POD-051: what is to stop is stopped all the same: whether the runtime can, it says itself.
#[test]
fn pod_is_stopped_on_a_runtime_that_is_not_ready() {
    let mut bench = Bench::new(Config::new("n1"));
    bench.runtime_ready = false;
    bench.running("web");
    bench.handle(Event::Started);
    bench.list_node();
    let mut deleted = pod("web");
    deleted["metadata"]["deletionTimestamp"] = json!("1970-01-01T00:00:30Z");
    deleted["metadata"]["deletionGracePeriodSeconds"] = json!(30);
    bench.list_pods(&[deleted]);
    bench.pass(60);
    assert_eq!(bench.changes(), ["StopContainer", "StopPodSandbox"]);
}

// POD-101: the pod's cgroup is there before its sandbox is.
#[test]
fn sandbox_waits_for_the_cgroup() {
    let mut bench = Bench::new(Config::new("n1"));
    bench.handle(Event::Started);
    bench.list_node();
    bench.list_pods(&[pod("web")]);
    bench.pass(1);
    assert_eq!(bench.changes(), ["EnsureCgroup", "RunPodSandbox"]);
    assert_eq!(bench.count(looks_for_cgroup), 0, "nothing runs that could be outside");
}

// POD-101: what an earlier life left running in its cgroup runs on, and one small look at each pod tells so.
#[test]
fn new_life_leaves_what_runs_in_its_cgroup_alone() {
    let mut bench = Bench::new(Config::new("n1"));
    let names: Vec<String> = (0..100).map(|n| format!("p{n}")).collect();
    for name in &names {
        bench.running(name);
        bench.cgroups.insert(format!("/kubepods/besteffort/pod{name}"));
    }
    bench.handle(Event::Started);
    bench.list_node();
    bench.list_pods(&names.iter().map(|name| pod(name)).collect::<Vec<_>>());
    bench.pass(120);
    assert_eq!(bench.changes(), vec!["EnsureCgroup"; 100]);
    assert_eq!(bench.count(looks_for_cgroup), 100);
    let listings = bench.count(|call| matches!(call, Call::Host(HostCall::ListPodCgroups)));
    assert!(listings < 10, "{listings} listings of all cgroups in two minutes");
}

// POD-101: what runs outside its cgroup is stopped before that is made.
#[test]
fn what_runs_outside_its_cgroup_is_stopped_first() {
    let mut bench = Bench::new(Config::new("n1"));
    bench.running("web");
    bench.cgroups.insert("/kubepods/podweb".to_owned());
    bench.handle(Event::Started);
    bench.list_node();
    bench.list_pods(&[pod("web")]);
    bench.pass(1);
    assert_eq!(bench.changes(), ["StopContainer", "StopPodSandbox", "EnsureCgroup", "RunPodSandbox"]);
    assert_eq!(bench.count(looks_for_cgroup), 1);
}

// POD-101: where pods have no cgroups of their own, nothing is outside.
#[test]
fn without_cgroups_of_pods_nothing_is_looked_for() {
    let mut config = Config::new("n1");
    config.cgroups.per_qos = false;
    let mut bench = Bench::new(config);
    bench.running("web");
    bench.handle(Event::Started);
    bench.list_node();
    bench.list_pods(&[pod("web")]);
    bench.pass(10);
    assert!(bench.changes().is_empty());
    assert_eq!(bench.count(looks_for_cgroup), 0);
}

// API-292, NODE-132: the runtime's word on the driver goes before the configuration's, which stands where the runtime has none.
#[test]
fn runtimes_cgroup_driver_wins() {
    for (told, prefix) in [(Some(false), "/kubepods/"), (Some(true), "/kubepods.slice/"), (None, "/kubepods.slice/")] {
        let mut config = Config::new("n1");
        config.cgroups.driver = crate::config::CgroupDriver::Systemd;
        let mut bench = Bench::new(config);
        bench.systemd_cgroup = told;
        bench.handle(Event::Started);
        bench.list_node();
        bench.list_pods(&[pod("web")]);
        bench.pass(1);
        let names = bench.calls.iter().filter_map(|call| match call {
            Call::Host(HostCall::EnsureCgroup { name, .. }) => Some(name.as_str()),
            _ => None,
        });
        let names: Vec<&str> = names.collect();
        assert!(names.len() == 1 && names[0].starts_with(prefix), "{told:?}: {names:?}");
    }
}

// POD-084, POD-053: after an error the pod is due again ten to fifteen seconds later, with no event but time.
#[test]
fn pod_that_failed_is_tried_again_after_ten_seconds() {
    let mut bench = Bench::new(Config::new("n1"));
    bench.sandboxes_fail = true;
    bench.handle(Event::Started);
    bench.list_node();
    bench.list_pods(&[pod("web")]);
    let tries = |bench: &Bench| bench.changes().into_iter().filter(|change| *change == "RunPodSandbox").count();
    bench.pass(9);
    assert_eq!(tries(&bench), 1);
    bench.pass(7);
    assert_eq!(tries(&bench), 2);
    bench.pass(60);
    assert!((5..=8).contains(&tries(&bench)), "{}", tries(&bench));
}

// POD-085, NODE-261: what nobody knows is not removed before all sources have spoken, and is once they have.
#[test]
fn directory_of_an_unknown_pod_goes_once_every_source_has_spoken() {
    let removed = |call: &Call| matches!(call, Call::Host(HostCall::RemovePodDir { .. }));
    let mut bench = Bench::new(Config::new("n1"));
    bench.pod_dirs = vec![PodUid::new("gone"), PodUid::new("web")];
    bench.handle(Event::Started);
    bench.list_node();
    bench.pass(300);
    assert_eq!(bench.count(removed), 0);
    bench.list_pods(&[pod("web")]);
    bench.pass(60);
    let of_gone = |call: &Call| matches!(call, Call::Host(HostCall::RemovePodDir { pod }) if pod.as_str() == "gone");
    assert!(bench.count(of_gone) > 0);
    assert_eq!(bench.count(of_gone), bench.count(removed), "the pod that runs keeps its own");
}

// POD-343: kuberuntime_gc.go (evictPodLogsDirectories): the last part of the name is the UID; nothing else may be left of the pod.
#[test]
fn logs_of_an_unknown_pod_go() {
    let mut bench = Bench::new(Config::new("n1"));
    bench.pod_logs = vec!["default_old_gone".to_owned(), "default_web_web".to_owned()];
    bench.handle(Event::Started);
    bench.list_node();
    bench.pass(300);
    let removed = |call: &Call| matches!(call, Call::Host(HostCall::RemovePodLogs { .. }));
    assert_eq!(bench.count(removed), 0, "not every source has spoken");
    bench.list_pods(&[pod("web")]);
    bench.pass(60);
    let of_gone =
        |call: &Call| matches!(call, Call::Host(HostCall::RemovePodLogs { path }) if path == "/var/log/pods/default_old_gone");
    assert_eq!((bench.count(of_gone), bench.count(removed)), (1, 1));
}

// POD-343: the UID that a static pod's manifest names may have such a line in it.
#[test]
fn logs_of_a_pod_stay_whatever_its_uid_is() {
    let mut bench = Bench::new(Config::new("n1"));
    bench.pod_logs = vec!["default_web_a_b".to_owned(), "default_gone_a_b".to_owned()];
    bench.handle(Event::Started);
    bench.list_node();
    let mut web = pod("web");
    web["metadata"]["uid"] = "a_b".into();
    bench.list_pods(&[web]);
    bench.pass(120);
    let removed = bench.calls.iter().filter_map(|call| match call {
        Call::Host(HostCall::RemovePodLogs { path }) => Some(path.as_str()),
        _ => None,
    });
    assert_eq!(removed.collect::<BTreeSet<_>>(), BTreeSet::from(["/var/log/pods/default_gone_a_b"]));
}

// POD-057: a look that began before something changed tells nothing of what is now: it is looked again.
#[test]
fn look_that_began_before_a_change_does_not_count() {
    let now = |seconds| Now { mono: Mono::from_start(Duration::from_secs(seconds)), wall: jiff::Timestamp::UNIX_EPOCH };
    let uid = PodUid::new("web");
    let object = Arc::new(serde_json::from_value(pod("web")).unwrap());
    let mut worker = PodWorker::new(now(1), uid.clone(), object, Some(PodSource::Api));
    let look = |seconds| Arc::new(PodObservation::empty(uid.clone(), now(seconds).mono));
    worker.observed(now(3), Ok(look(2)));
    assert!(worker.fresh().is_some());
    worker.runtime_changed(now(4));
    assert!(worker.fresh().is_none());
    worker.observed(now(6), Ok(look(3)));
    assert!(worker.fresh().is_none(), "it began before the change and ended after it");
    worker.observed(now(6), Ok(look(5)));
    assert!(worker.fresh().is_some());
    worker.observed(now(7), Ok(look(2)));
    assert_eq!(worker.seen().began, now(5).mono, "a late look does not take the place of a newer one");
}

// POD-035: the scheduler may have seen a label of the node before the agent did: the node is asked for again, once, before the pod is
// refused for good.
#[test]
fn node_is_asked_for_again_before_a_pod_is_refused_for_its_labels() {
    let node = |zone: &str| json!({"metadata": {"name": "n1", "uid": "n", "labels": {"zone": zone}}});
    for (zone, changes, refused) in [("a", vec!["EnsureCgroup", "RunPodSandbox"], 0), ("b", vec![], 1)] {
        let mut bench = Bench::new(Config::new("n1"));
        bench.stored_node = Some(node(zone));
        bench.handle(Event::Started);
        bench.list_node();
        let mut wanting = pod("web");
        wanting["spec"]["nodeSelector"] = json!({"zone": "a"});
        bench.list_pods(&[pod("other"), wanting]);
        bench.pass(30);
        let asked = |call: &Call| matches!(call, Call::Api(ApiCall::GetNode));
        assert_eq!(bench.count(asked), 1, "zone {zone}");
        let of_web = |call: &&Call| {
            matches!(call, Call::Api(ApiCall::PatchPodStatus { name, patch, .. })
            if name == "web" && patch["status"]["phase"] == "Failed" && patch["status"]["reason"] == "NodeAffinity")
        };
        assert_eq!(bench.calls.iter().filter(of_web).count(), refused, "zone {zone}");
        let others = ["EnsureCgroup", "RunPodSandbox"];
        let mut found = bench.changes();
        for other in others {
            found.remove(found.iter().position(|change| *change == other).unwrap());
        }
        assert_eq!(found, changes, "zone {zone}");
    }
}

// POD-131: why there is no sandbox is told, each reason once, until the pod makes progress; not of a pod that is to stop anyway.
#[test]
fn sandbox_that_cannot_be_made_is_told() {
    let mut bench = Bench::new(Config::new("n1"));
    bench.sandboxes_fail = true;
    bench.handle(Event::Started);
    bench.list_node();
    bench.list_pods(&[pod("web")]);
    bench.pass(120);
    let told = |call: &&Call| {
        matches!(call, Call::Api(ApiCall::CreateEvent(event))
        if event.reason.as_deref() == Some("FailedCreatePodSandBox")
            && event.message.as_deref() == Some("Failed to create pod sandbox: no") && event.type_.as_deref() == Some("Warning"))
    };
    assert_eq!(bench.calls.iter().filter(told).count(), 1);
    let now = Now { mono: bench.now, wall: jiff::Timestamp::UNIX_EPOCH };
    let object = Arc::new(serde_json::from_value(pod("web")).unwrap());
    let mut worker = PodWorker::new(now, PodUid::new("web"), object, Some(PodSource::Api));
    worker.terminate(now, Duration::ZERO, None);
    let (mut ledger, mut actions, mut recorded) = (Ledger::default(), Vec::new(), Vec::new());
    crate::pod::report::sandbox_failed(&mut worker, "no", "no", &mut Out::new(&mut ledger, &mut actions, &mut recorded));
    assert!(recorded.is_empty());
}

// POD-132: that a pod has its sandbox is told before its images are there.
#[test]
fn sandbox_is_told_before_images_are_pulled() {
    let mut bench = Bench::new(Config::new("n1"));
    bench.running("web");
    bench.seen.get_mut(&PodUid::new("web")).unwrap().containers.clear();
    bench.handle(Event::Started);
    bench.list_node();
    bench.list_pods(&[pod("web")]);
    bench.pass(5);
    assert_eq!(bench.count(|call| matches!(call, Call::Cri(CriCall::CreateContainer { .. }))), 0, "the image is still looked for");
    let told = bench.count(|call| match call {
        Call::Api(ApiCall::PatchPodStatus { patch, .. }) => {
            let mut conditions = patch["status"]["conditions"].as_array().into_iter().flatten();
            conditions.any(|c| c["type"] == "PodReadyToStartContainers" && c["status"] == "True")
        }
        _ => false,
    });
    assert_eq!(told, 1);
}

// POD-341, POD-342: of a pod that lives on, one dead instance of each name stays, and the sandbox that it runs in; older sandboxes are
// stopped, by whichever life made them, and go.
#[test]
fn remains_of_a_pod_that_lives_on_go() {
    let mut bench = Bench::new(Config::new("n1"));
    bench.running("web");
    bench.cgroups.insert("/kubepods/besteffort/podweb".to_owned());
    let seen = bench.seen.get_mut(&PodUid::new("web")).unwrap();
    let (running, sandbox) = (seen.containers[0].clone(), seen.sandboxes[0].clone());
    (seen.containers[0].attempt, seen.sandboxes[0].attempt) = (3, 1);
    for attempt in [2, 1, 0] {
        let (id, state) = (ContainerId::new(format!("dead-{attempt}")), ContainerState::Exited);
        seen.containers.push(ContainerStatus { id, attempt, state, ..running.clone() });
    }
    let (id, state) = (SandboxId::new("old"), SandboxState::NotReady);
    seen.sandboxes.push(SandboxStatus { id, state, ..sandbox });
    bench.handle(Event::Started);
    bench.list_node();
    bench.list_pods(&[pod("web")]);
    bench.pass(30);
    let removed: Vec<String> = bench
        .calls
        .iter()
        .filter_map(|call| match call {
            Call::Cri(CriCall::RemoveContainer { id }) => Some(id.to_string()),
            Call::Cri(CriCall::StopPodSandbox { id }) => Some(format!("stop {id}")),
            Call::Cri(CriCall::RemovePodSandbox { id }) => Some(format!("remove {id}")),
            _ => None,
        })
        .collect();
    let of = |what: &str| removed.iter().filter(|one| one.contains(what)).map(String::as_str).collect::<Vec<_>>();
    assert_eq!(of("dead"), ["dead-1", "dead-0"]);
    assert_eq!(of("old"), ["stop old", "remove old"]);
    assert_eq!(removed.len(), 4, "{removed:?}");
}
