use serde_json::{Value, json};

use super::*;
use crate::action::{Action, CriCall, HostCall};
use crate::event::CriReply;
use crate::observation::{NodeAddresses, RuntimeCondition, RuntimeStatus, RuntimeVersion};
use crate::out::Ledger;

struct Bench {
    manager: NodeManager,
    runtime: RuntimeHealth,
    machine: MachineInfo,
    known: bool,
    /// What the machine says of its addresses; `None` is nothing.
    address: Option<&'static str>,
    /// The events so far: reason and message.
    told: Vec<(String, String)>,
    ledger: Ledger,
    rng: Rng,
}

fn at(millis: u64) -> Now {
    Now { mono: Mono::from_start(Duration::from_millis(millis)), wall: jiff::Timestamp::UNIX_EPOCH }
}

fn failed(kind: FailureKind) -> Result<ApiReply, Failure> {
    Err(Failure::new(kind, "no"))
}

impl Bench {
    fn new() -> Self {
        let machine = MachineInfo {
            cpus: 2,
            memory: 4 << 30,
            root_fs_capacity: 1 << 30,
            architecture: "amd64".to_owned(),
            cpu_cfs_quota: true,
            ..MachineInfo::default()
        };
        let mut bench = Self::before_the_runtime_answers();
        bench.machine = machine;
        bench.ask_runtime(0);
        bench
    }

    fn before_the_runtime_answers() -> Self {
        Self {
            manager: NodeManager::new(Arc::new(Config::new("n1"))),
            runtime: RuntimeHealth::new(Duration::from_secs(120)),
            machine: MachineInfo::default(),
            known: true,
            address: Some("10.77.0.1"),
            told: Vec::new(),
            ledger: Ledger::default(),
            rng: Rng::new(1),
        }
    }

    /// The runtime is asked, and says that all is well.
    fn ask_runtime(&mut self, millis: u64) {
        let (mut actions, mut recorded) = (Vec::new(), Vec::new());
        self.runtime.due(at(millis), &mut Out::new(&mut self.ledger, &mut actions, &mut recorded));
        let well = || Some(RuntimeCondition { status: true, ..RuntimeCondition::default() });
        for action in actions {
            let status = RuntimeStatus { runtime_ready: well(), network_ready: well(), ..RuntimeStatus::default() };
            let reply = match action.call {
                Call::Cri(CriCall::Version) => CriReply::Version(RuntimeVersion::default()),
                Call::Cri(CriCall::RuntimeConfig) => CriReply::RuntimeConfig { systemd_cgroup: None },
                _ => CriReply::Status(status),
            };
            self.runtime.done(at(millis), action.id, Ok(reply));
        }
    }

    fn due(&mut self, millis: u64) -> Vec<Action> {
        let facts = NodeFacts {
            machine: Some(&self.machine),
            runtime: &self.runtime,
            runtime_known: self.known,
            startup_error: None,
            pleg_error: None,
            images: &[],
            pressures: Pressures::default(),
            volumes_in_use: None,
        };
        let (mut actions, mut recorded) = (Vec::new(), Vec::new());
        let mut out = Out::new(&mut self.ledger, &mut actions, &mut recorded);
        self.manager.due(at(millis), &facts, &mut self.rng, &mut out);
        self.told.extend(recorded.into_iter().map(|event: Recorded| (event.reason, event.message)));
        let asked = |a: &Action| matches!(a.call, Call::Host(HostCall::NodeAddresses { .. }));
        let Some(index) = actions.iter().position(asked) else { return actions };
        let Some(address) = self.address else { return actions };
        let found = NodeAddresses { routed: vec![address.parse().unwrap()], ..NodeAddresses::default() };
        self.manager.addresses_done(actions.remove(index).id, Ok(HostReply::NodeAddresses(found)));
        actions.extend(self.due(millis));
        actions
    }

    fn done(&mut self, millis: u64, id: ActionId, outcome: Result<ApiReply, Failure>) -> Vec<Action> {
        let (mut actions, mut recorded) = (Vec::new(), Vec::new());
        let mut out = Out::new(&mut self.ledger, &mut actions, &mut recorded);
        self.manager.done(at(millis), id, outcome, &mut self.rng, &mut out);
        self.told.extend(recorded.into_iter().map(|event: Recorded| (event.reason, event.message)));
        actions
    }

    /// The reasons of the events since this was last asked.
    fn events(&mut self) -> Vec<String> {
        self.told.drain(..).map(|(reason, _)| reason).collect()
    }

    /// Reports until nothing is to be reported, and answers the Node as it is then.
    fn settle(&mut self, millis: u64, node: &Node) -> Node {
        let mut node = node.clone();
        while let Some(action) = self.due(millis).into_iter().find(|a| matches!(a.call, Call::Api(ApiCall::PatchNodeStatus(_)))) {
            let Call::Api(ApiCall::PatchNodeStatus(patch)) = &action.call else { unreachable!() };
            node = (*with_patch(&node, patch)).clone();
            self.done(millis, action.id, Ok(ApiReply::Node(Arc::new(node.clone()))));
        }
        node
    }

    /// Its one call of the kind that is looked for.
    fn one<T>(actions: &[Action], pick: impl Fn(&ApiCall) -> Option<T>) -> (ActionId, T) {
        let mut found = actions.iter().filter_map(|a| if let Call::Api(call) = &a.call { Some((a.id, pick(call)?)) } else { None });
        let one = found.next().unwrap_or_else(|| panic!("not among {actions:?}"));
        assert!(found.next().is_none(), "{actions:?}");
        one
    }

    fn created(actions: &[Action]) -> (ActionId, Node) {
        Self::one(actions, |call| if let ApiCall::CreateNode(node) = call { Some((**node).clone()) } else { None })
    }

    fn patched(actions: &[Action]) -> (ActionId, Value) {
        Self::one(actions, |call| if let ApiCall::PatchNodeStatus(patch) = call { Some(patch.clone()) } else { None })
    }

    /// Registers at that moment, with the CSINode that is there. Answers the Node as the API server then has it.
    fn register(&mut self, millis: u64) -> Node {
        let (id, mut node) = Self::created(&self.due(millis));
        node.metadata.uid = Some("u".to_owned());
        self.done(millis, id, Ok(ApiReply::Node(Arc::new(node.clone()))));
        let actions = self.due(millis);
        let (id, ()) = Self::one(&actions, |call| matches!(call, ApiCall::GetCsiNode).then_some(()));
        self.done(millis, id, Ok(ApiReply::CsiNode(Box::new(csi_node("n1", "u")))));
        node
    }
}

fn ready_of(status: &Value) -> (String, String) {
    let conditions = status["conditions"].as_array().unwrap();
    let ready = conditions.iter().find(|c| c["type"] == "Ready").unwrap();
    let text = |field: &str| ready[field].as_str().unwrap_or_default().to_owned();
    (text("status"), text("message"))
}

/// The Node with that patch of its status, as far as conditions go.
fn with_patch(node: &Node, patch: &Value) -> Arc<Node> {
    let mut value = serde_json::to_value(node).unwrap();
    for change in patch["status"]["conditions"].as_array().into_iter().flatten() {
        let conditions = value["status"]["conditions"].as_array_mut().unwrap();
        let of_type = conditions.iter_mut().find(|c| c["type"] == change["type"]).unwrap().as_object_mut().unwrap();
        of_type.extend(change.as_object().unwrap().clone());
    }
    Arc::new(serde_json::from_value(value).unwrap())
}

// NODE-044: one that is there, or may not be made, is read and brought in line; any other failure is an attempt that failed.
#[test]
fn node_that_is_there_already_is_reconciled() {
    for kind in [FailureKind::AlreadyExists, FailureKind::Forbidden] {
        let mut bench = Bench::new();
        let (id, mut node) = Bench::created(&bench.due(0));
        let actions = bench.done(0, id, failed(kind));
        let (id, ()) = Bench::one(&actions, |call| matches!(call, ApiCall::GetNode).then_some(()));
        node.metadata.labels.as_mut().unwrap().insert("kubernetes.io/os".to_owned(), "plan9".to_owned());
        let (id, patch) = Bench::patched(&bench.done(0, id, Ok(ApiReply::Node(Arc::new(node.clone())))));
        assert_eq!(patch["metadata"]["labels"], json!({"kubernetes.io/os": "linux"}));
        assert!(!bench.manager.is_registered());
        bench.done(0, id, failed(FailureKind::Unavailable));
        assert!(!bench.manager.is_registered(), "a patch that failed fails the attempt");
        let (id, _) = Bench::created(&bench.due(200));
        bench.done(200, id, Ok(ApiReply::Node(Arc::new(node))));
        assert!(bench.manager.is_registered());
    }
}

// NODE-044
#[test]
fn list_that_is_older_than_the_registration_makes_no_second_one() {
    let mut bench = Bench::new();
    let node = bench.register(0);
    bench.manager.not_listed();
    let (id, ()) = Bench::one(&bench.due(400), |call| matches!(call, ApiCall::GetNode).then_some(()));
    bench.done(400, id, Ok(ApiReply::Node(Arc::new(node))));
    assert!(bench.manager.is_registered());
    let calls = bench.due(400);
    assert!(!calls.iter().any(|a| matches!(a.call, Call::Api(ApiCall::GetNode | ApiCall::CreateNode(_)))), "{calls:?}");
}

// NODE-044, S9: and if it is gone indeed, it is made again.
#[test]
fn node_that_a_list_did_not_show_is_made_again_if_it_is_gone() {
    let mut bench = Bench::new();
    bench.register(0);
    bench.manager.not_listed();
    let (id, ()) = Bench::one(&bench.due(400), |call| matches!(call, ApiCall::GetNode).then_some(()));
    bench.done(400, id, failed(FailureKind::NotFound));
    Bench::created(&bench.due(400));
}

// NODE-044, NODE-040: tried again after a wait that doubles, up to seven seconds.
#[test]
fn failed_registration_is_tried_again_after_a_growing_wait() {
    let mut bench = Bench::new();
    let mut millis = 0;
    for wait in [100, 200, 400, 800, 1600, 3200, 6400, 7000, 7000] {
        let (id, _) = Bench::created(&bench.due(millis));
        assert!(bench.done(millis, id, failed(FailureKind::Unavailable)).is_empty());
        assert!(bench.due(millis + wait - 1).is_empty());
        assert_eq!(bench.manager.deadline(), Some(at(millis + wait).mono));
        millis += wait;
    }
}

// NODE-060: each period is counted from the end of the report before it, with a little jitter.
#[test]
fn status_is_looked_at_again_ten_seconds_after_the_last_report() {
    let mut bench = Bench::new();
    let node = bench.register(0);
    let (id, patch) = Bench::patched(&bench.due(0));
    bench.done(3000, id, Ok(ApiReply::Node(with_patch(&node, &patch))));
    let mut last = 3000;
    for _ in 0..3 {
        let next = bench.manager.deadline().unwrap().since(at(last).mono);
        assert!((Duration::from_secs(10)..=Duration::from_millis(10_400)).contains(&next), "{next:?}");
        bench.ask_runtime(last + 9000);
        assert!(bench.due(last + 9999).is_empty());
        last += 10_400;
        bench.ask_runtime(last);
        assert!(bench.due(last).is_empty(), "nothing changed");
    }
}

// NODE-061: a report that failed is repeated soon, with what is true then.
#[test]
fn failed_report_is_repeated_within_a_second() {
    let mut bench = Bench::new();
    bench.register(0);
    let mut millis = 0;
    for _ in 0..6 {
        let (id, _) = Bench::patched(&bench.due(millis));
        bench.done(millis, id, failed(FailureKind::UnknownOutcome));
        assert!(bench.due(millis).is_empty(), "not at once");
        let wait = bench.manager.deadline().unwrap().since(at(millis).mono);
        assert!(wait <= Duration::from_secs(1), "{wait:?}");
        millis += 1000;
        bench.ask_runtime(millis);
    }
}

// NODE-066, NODE-106: until the CSINode is there the node is not Ready; that it has become so is told at once.
#[test]
fn node_becomes_ready_in_the_moment_in_which_its_csi_node_is_there() {
    let mut bench = Bench::new();
    let (id, mut node) = Bench::created(&bench.due(0));
    let first = serde_json::to_value(&node.status).unwrap();
    assert_eq!(ready_of(&first), ("False".to_owned(), "CSINode is not yet initialized".to_owned()));
    node.metadata.uid = Some("u".to_owned());
    bench.done(0, id, Ok(ApiReply::Node(Arc::new(node))));
    let actions = bench.due(0);
    let (id, ()) = Bench::one(&actions, |call| matches!(call, ApiCall::GetCsiNode).then_some(()));
    bench.done(0, id, failed(FailureKind::Unavailable));
    let (id, ()) = Bench::one(&bench.due(4100), |call| matches!(call, ApiCall::GetCsiNode).then_some(()));
    bench.done(4100, id, failed(FailureKind::NotFound));
    let (id, owner) = Bench::one(&bench.due(4100), |call| match call {
        ApiCall::CreateCsiNode(made) => made.metadata.owner_references.clone(),
        _ => None,
    });
    assert_eq!(owner[0].uid, "u");
    bench.done(4100, id, Ok(ApiReply::Done));
    let (_, patch) = Bench::patched(&bench.due(4100));
    assert_eq!(ready_of(&patch["status"]), ("True".to_owned(), "kubelet is posting ready status".to_owned()));
}

// CSI-004: nodeinfomanager.go, tryInitializeCSINodeWithAnnotation: an older kubelet's list of plugins is brought in line, as a set.
#[test]
fn csi_node_of_an_older_kubelet_gets_todays_plugins() {
    let key = "storage.alpha.kubernetes.io/migrated-plugins";
    for (told, changes) in [(Some("kubernetes.io/aws-ebs,kubernetes.io/gce-pd"), true), (None, true), (Some("of today"), false)] {
        let mut bench = Bench::new();
        let (id, mut node) = Bench::created(&bench.due(0));
        node.metadata.uid = Some("u".to_owned());
        bench.done(0, id, Ok(ApiReply::Node(Arc::new(node))));
        let (id, ()) = Bench::one(&bench.due(0), |call| matches!(call, ApiCall::GetCsiNode).then_some(()));
        let mut found = csi_node("n1", "u");
        let today = found.metadata.annotations.take().unwrap()[key].clone();
        let turned: Vec<&str> = today.split(',').rev().collect();
        let told = told.map(|told| if changes { told.to_owned() } else { turned.join(",") });
        found.metadata.annotations = told.map(|told| [(key.to_owned(), told), ("other".to_owned(), "stays".to_owned())].into());
        bench.done(0, id, Ok(ApiReply::CsiNode(Box::new(found.clone()))));
        let update = |call: &ApiCall| if let ApiCall::UpdateCsiNode(new) = call { Some(new.clone()) } else { None };
        let actions = bench.due(0);
        if changes {
            let (id, new) = Bench::one(&actions, update);
            let annotations = new.metadata.annotations.unwrap();
            assert_eq!((&annotations[key], annotations.contains_key("other")), (&today, found.metadata.annotations.is_some()));
            bench.done(0, id, failed(FailureKind::Conflict));
            let (id, ()) = Bench::one(&bench.due(9_000), |call| matches!(call, ApiCall::GetCsiNode).then_some(()));
            bench.done(9_000, id, Ok(ApiReply::CsiNode(Box::new(csi_node("n1", "u")))));
        } else {
            assert!(!actions.iter().any(|action| matches!(&action.call, Call::Api(call) if update(call).is_some())));
        }
        assert!(bench.manager.plugin_facts().csi_node);
    }
}

// NODE-080: setters.go, NodeAddress, asks name servers and routes at each pass; another address is reported when it is known.
#[test]
fn machine_is_asked_for_its_addresses_at_each_look_at_the_status() {
    let mut bench = Bench::new();
    let mut node = bench.register(0);
    assert_eq!(node.status.as_ref().unwrap().addresses.as_ref().unwrap()[0].address, "10.77.0.1");
    let (id, patch) = Bench::patched(&bench.due(0));
    node = (*with_patch(&node, &patch)).clone();
    bench.done(0, id, Ok(ApiReply::Node(Arc::new(node))));
    bench.address = Some("10.77.0.9");
    bench.ask_runtime(10_400);
    let (_, patch) = Bench::patched(&bench.due(10_400));
    let address = |ip: &str, kind: &str| json!({"address": ip, "type": kind});
    let expected = json!([address("10.77.0.9", "InternalIP"), address("n1", "Hostname"), {"$patch": "replace"}]);
    assert_eq!(patch["status"]["addresses"], expected);
}

// NODE-080: a machine that does not answer is waited for until its call is given up, and then the node is registered without.
#[test]
fn node_is_registered_once_its_machine_has_answered_or_failed_to() {
    let mut bench = Bench::new();
    bench.address = None;
    let actions = bench.due(0);
    let [asked] = actions.as_slice() else { panic!("{actions:?}") };
    assert!(bench.manager.deadline().is_none());
    bench.manager.addresses_done(asked.id, Err(Failure::new(FailureKind::UnknownOutcome, "no answer")));
    let (_, node) = Bench::created(&bench.due(0));
    assert_eq!(node.status.unwrap().addresses, None);
}

// N3, NODE-044, NODE-045: a Node that was made beforehand gets the labels of the machine, whatever its status says.
#[test]
fn labels_of_a_node_that_was_made_beforehand_are_the_machines() {
    let mut bench = Bench::new();
    let (id, wanted) = Bench::created(&bench.due(0));
    let actions = bench.done(0, id, failed(FailureKind::AlreadyExists));
    let (id, ()) = Bench::one(&actions, |call| matches!(call, ApiCall::GetNode).then_some(()));
    let mut bare = wanted.clone();
    bare.metadata.labels = Some([("kubernetes.io/arch".to_owned(), String::new())].into());
    bare.metadata.annotations = None;
    bare.status = Some(serde_json::from_value(json!({"nodeInfo": {"architecture": ""}})).unwrap());
    let (_, patch) = Bench::patched(&bench.done(0, id, Ok(ApiReply::Node(Arc::new(bare)))));
    assert_eq!(patch["metadata"]["labels"], json!(wanted.metadata.labels));
}

// N8, NODE-100: setters.go, ReadyCondition and the pressures: each flip of a condition that was there is told, whoever flipped it.
#[test]
fn node_that_comes_back_is_told_each_time() {
    let mut bench = Bench::new();
    let mut node = bench.register(0);
    node = bench.settle(0, &node);
    bench.events();
    let back = ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID", "NodeReady"];
    for round in 1..=2 {
        // The node controller has not heard of it.
        for condition in node.status.as_mut().unwrap().conditions.as_mut().unwrap() {
            condition.status = "Unknown".to_owned();
        }
        let (mut actions, mut recorded) = (Vec::new(), Vec::new());
        bench.manager.seen(Arc::new(node.clone()), &mut Out::new(&mut bench.ledger, &mut actions, &mut recorded));
        let millis = round * 60_000;
        bench.ask_runtime(millis);
        let (id, _) = Bench::patched(&bench.due(millis));
        assert_eq!(bench.events(), back, "round {round}");
        bench.done(millis, id, failed(FailureKind::Unavailable));
        node = bench.settle(millis + 1000, &node);
        assert_eq!(bench.events(), [""; 0], "the report that is repeated tells nothing new");
    }
}

// N8, NODE-069: recordNodeSchedulableEvent of upstream's kubelet_node_status.go starts from a node that is schedulable.
#[test]
fn node_that_is_cordoned_at_the_start_is_told() {
    let mut bench = Bench::new();
    let (id, mut node) = Bench::created(&bench.due(0));
    node.spec.get_or_insert_default().unschedulable = Some(true);
    bench.events();
    bench.done(0, id, Ok(ApiReply::Node(Arc::new(node.clone()))));
    assert_eq!(bench.events(), ["NodeNotSchedulable"]);
    node.spec.get_or_insert_default().unschedulable = None;
    let (mut actions, mut recorded) = (Vec::new(), Vec::new());
    bench.manager.seen(Arc::new(node), &mut Out::new(&mut bench.ledger, &mut actions, &mut recorded));
    assert_eq!(recorded[0].message, "Node n1 status is now: NodeSchedulable");
}

// NODE-088: setters.go, MachineInfo.
#[test]
fn node_that_was_booted_since_is_told_once() {
    let mut bench = Bench::new();
    bench.machine.boot_id = "new".to_owned();
    let mut node = bench.register(0);
    node.status.as_mut().unwrap().node_info.as_mut().unwrap().boot_id = "old".to_owned();
    let (mut actions, mut recorded) = (Vec::new(), Vec::new());
    bench.manager.seen(Arc::new(node.clone()), &mut Out::new(&mut bench.ledger, &mut actions, &mut recorded));
    for millis in [0, 1000] {
        let (id, _) = Bench::patched(&bench.due(millis));
        bench.done(millis, id, failed(FailureKind::Unavailable));
    }
    let told: Vec<_> = bench.told.iter().filter(|(reason, _)| reason == "Rebooted").map(|(_, message)| message.as_str()).collect();
    assert_eq!(told, ["Node n1 has been rebooted, boot id: new"]);
}

// NODE-060: upstream's Run has the runtime asked once before syncNodeStatus: a Node that is made before would say that the runtime can
// do nothing, and pods that come at once would be refused by that. One that fails to answer holds nothing up.
#[test]
fn node_is_made_once_the_runtime_was_asked() {
    let mut bench = Bench { machine: MachineInfo { cpus: 2, ..MachineInfo::default() }, ..Bench::before_the_runtime_answers() };
    assert!(bench.due(0).is_empty() && bench.due(900).is_empty());
    assert_eq!(bench.manager.deadline(), Some(at(5000).mono), "the runtime's answer wakes it; the addresses are asked for again");
    bench.ask_runtime(1000);
    let (_, node) = Bench::created(&bench.due(1000));
    assert!(node.status.unwrap().features.is_some());
    let mut bench = Bench { machine: MachineInfo { cpus: 2, ..MachineInfo::default() }, ..Bench::before_the_runtime_answers() };
    let (mut actions, mut recorded) = (Vec::new(), Vec::new());
    bench.runtime.due(at(0), &mut Out::new(&mut bench.ledger, &mut actions, &mut recorded));
    for action in actions {
        bench.runtime.done(at(5), action.id, Err(Failure::new(FailureKind::Unavailable, "connection refused")));
    }
    Bench::created(&bench.due(5));
}

// NODE-060, NODE-062: the same for a Node that is there and that nobody calls ready: its first report says what the runtime says.
#[test]
fn first_report_waits_for_the_runtime_too() {
    let mut bench = Bench { machine: MachineInfo { cpus: 2, ..MachineInfo::default() }, ..Bench::before_the_runtime_answers() };
    bench.manager.registered = true;
    bench.manager.csi = Csi::There;
    let node = json!({"metadata": {"name": "n1", "uid": "u"}, "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
    bench.manager.node = Some(Arc::new(serde_json::from_value(node).unwrap()));
    assert!(bench.due(0).is_empty() && bench.due(2000).is_empty());
    bench.ask_runtime(3000);
    bench.manager.hurry();
    let (_, patch) = Bench::patched(&bench.due(3000));
    assert_eq!(patch["status"]["features"]["supplementalGroupsPolicy"], false, "{patch}");
}
