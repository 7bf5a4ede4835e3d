use super::*;
use crate::action::Action;
use crate::out::Ledger;
use crate::recorder::Recorded;
use jiff::Timestamp;
use k8s_openapi::api::storage::v1::CSINode;
use serde_json::json;

/// The plugins of a node, and an API server to write their entries to.
struct Bench {
    plugins: Plugins,
    node: Node,
    csi_node: CSINode,
    has_csi_node: bool,
    now: Now,
    ledger: Ledger,
    recorded: Vec<Recorded>,
    in_flight: BTreeMap<ActionId, Call>,
    /// What sockets answer when they are asked who they are.
    infos: BTreeMap<String, PluginInfo>,
    /// What they were told: empty is that they are registered.
    told: Vec<(String, String)>,
    topology: BTreeMap<String, String>,
}

fn info(name: &str, version: &str) -> PluginInfo {
    let (kind, versions) = ("CSIPlugin".to_owned(), vec![version.to_owned()]);
    PluginInfo { kind, name: name.to_owned(), endpoint: String::new(), versions }
}

impl Bench {
    fn new() -> Self {
        Self {
            plugins: Plugins::default(),
            node: serde_json::from_value(json!({"metadata": {"name": "n1", "uid": "node"}})).unwrap(),
            csi_node: CSINode::default(),
            has_csi_node: true,
            now: Now { mono: Mono::ZERO, wall: Timestamp::UNIX_EPOCH },
            ledger: Ledger::default(),
            recorded: Vec::new(),
            in_flight: BTreeMap::new(),
            infos: BTreeMap::new(),
            told: Vec::new(),
            topology: BTreeMap::new(),
        }
    }

    fn with<T>(&mut self, act: impl FnOnce(&mut Plugins, Now, PluginFacts<'_>, &mut Out<'_>) -> T) -> T {
        let mut actions: Vec<Action> = Vec::new();
        let facts = PluginFacts { node: Some(&self.node), csi_node: self.has_csi_node };
        let mut out = Out::new(&mut self.ledger, &mut actions, &mut self.recorded);
        let value = act(&mut self.plugins, self.now, facts, &mut out);
        self.in_flight.extend(actions.into_iter().map(|Action { id, call, .. }| (id, call)));
        value
    }

    fn listed(&mut self, sockets: &[(&str, u64)]) {
        let sockets: Vec<PluginSocket> =
            sockets.iter().map(|(path, instance)| PluginSocket { path: (*path).to_owned(), instance: *instance }).collect();
        self.plugins.listed(&sockets);
    }

    fn drive(&mut self) {
        self.with(|plugins, now, facts, out| plugins.due(now, facts, out));
    }

    /// Ends a call as its other side would.
    fn end(&mut self, id: ActionId) {
        let call = self.in_flight.remove(&id).unwrap();
        self.ledger.take(id);
        match call {
            Call::Csi(call) => {
                let outcome = self.plugin(call);
                self.with(|plugins, now, _, out| plugins.done(now, id, outcome, out));
            }
            Call::Api(call) => {
                let outcome = self.api(call);
                self.with(|plugins, now, facts, out| plugins.api_done(now, id, outcome, facts, out));
            }
            other => panic!("{other:?}"),
        }
    }

    fn plugin(&mut self, call: CsiCall) -> Result<CsiReply, Failure> {
        match call {
            CsiCall::GetPluginInfo { socket } => match self.infos.get(&socket) {
                Some(info) => Ok(CsiReply::Plugin(info.clone())),
                None => Err(Failure::new(FailureKind::Unavailable, "connection refused")),
            },
            CsiCall::NotifyRegistration { socket, error } => {
                self.told.push((socket, error));
                Ok(CsiReply::Done)
            }
            CsiCall::NodeInfo { endpoint } => {
                let topology = self.topology.clone();
                Ok(CsiReply::Node(DriverNode { node_id: format!("id of {endpoint}"), max_volumes: 0, topology }))
            }
            other => panic!("{other:?}"),
        }
    }

    fn api(&mut self, call: ApiCall) -> Result<ApiReply, Failure> {
        match call {
            ApiCall::PatchNodeStatus(patch) => {
                let annotations = self.node.metadata.annotations.get_or_insert_default();
                for (key, value) in patch["metadata"]["annotations"].as_object().into_iter().flatten() {
                    match value.as_str() {
                        Some(text) => annotations.insert(key.clone(), text.to_owned()),
                        None => annotations.remove(key),
                    };
                }
                let labels = self.node.metadata.labels.get_or_insert_default();
                for (key, value) in patch["metadata"]["labels"].as_object().into_iter().flatten() {
                    labels.insert(key.clone(), value.as_str().unwrap().to_owned());
                }
                Ok(ApiReply::Node(std::sync::Arc::new(self.node.clone())))
            }
            ApiCall::GetCsiNode => Ok(ApiReply::CsiNode(Box::new(self.csi_node.clone()))),
            ApiCall::UpdateCsiNode(new) => {
                self.csi_node = *new;
                Ok(ApiReply::CsiNode(Box::new(self.csi_node.clone())))
            }
            other => panic!("{other:?}"),
        }
    }

    fn settle(&mut self) {
        loop {
            self.drive();
            let Some(id) = self.in_flight.keys().next().copied() else { return };
            self.end(id);
        }
    }

    fn entries(&self) -> Vec<&str> {
        self.csi_node.spec.drivers.iter().map(|entry| entry.name.as_str()).collect()
    }

    fn annotation(&self) -> Option<&str> {
        self.node.metadata.annotations.as_ref()?.get("csi.volume.kubernetes.io/nodeid").map(String::as_str)
    }
}

// CSI-001, CSI-003
#[test]
fn driver_is_asked_entered_and_told_and_only_then_registered() {
    let mut bench = Bench::new();
    bench.infos.insert("/a.sock".to_owned(), info("a.io", "1.0.0"));
    bench.listed(&[("/a.sock", 1)]);
    bench.has_csi_node = false;
    bench.settle();
    assert!(bench.entries().is_empty() && bench.plugins.endpoint("a.io").is_none());
    bench.has_csi_node = true;
    bench.settle();
    assert_eq!(bench.entries(), ["a.io"]);
    assert_eq!(bench.annotation(), Some(r#"{"a.io":"id of /a.sock"}"#));
    assert_eq!(bench.told, [("/a.sock".to_owned(), String::new())]);
    assert_eq!(bench.plugins.endpoint("a.io"), Some("/a.sock"));
    assert_eq!(bench.plugins.deadline(), None);
}

// CSI-001, CSI-003: the entry goes, then the annotation; others' stay.
#[test]
fn driver_whose_socket_goes_is_taken_out() {
    let mut bench = Bench::new();
    bench.infos.insert("/a.sock".to_owned(), info("a.io", "1.0.0"));
    bench.infos.insert("/b.sock".to_owned(), info("b.io", "1.0.0"));
    bench.listed(&[("/a.sock", 1), ("/b.sock", 2)]);
    bench.settle();
    bench.listed(&[("/b.sock", 2)]);
    assert_eq!(bench.plugins.endpoint("a.io"), None, "at once");
    bench.settle();
    assert_eq!(bench.entries(), ["b.io"]);
    assert_eq!(bench.annotation(), Some(r#"{"b.io":"id of /b.sock"}"#));
    bench.listed(&[]);
    bench.settle();
    assert_eq!((bench.entries().len(), bench.annotation()), (0, None));
    assert_eq!(bench.plugins.deadline(), None);
}

// CSI-001: asked again, and its entry stays meanwhile, unless another driver is behind it.
#[test]
fn socket_that_was_made_anew_is_registered_again() {
    let mut bench = Bench::new();
    bench.infos.insert("/a.sock".to_owned(), info("a.io", "1.0.0"));
    bench.listed(&[("/a.sock", 1)]);
    bench.settle();
    bench.listed(&[("/a.sock", 2)]);
    assert_eq!(bench.plugins.endpoint("a.io"), None);
    bench.settle();
    assert_eq!(bench.told.len(), 2);
    assert_eq!((bench.entries(), bench.plugins.endpoint("a.io")), (vec!["a.io"], Some("/a.sock")));
    bench.infos.insert("/a.sock".to_owned(), info("z.io", "1.0.0"));
    bench.listed(&[("/a.sock", 3)]);
    bench.settle();
    assert_eq!(bench.entries(), ["z.io"]);
}

// CSI-002
#[test]
fn second_driver_of_a_name_must_be_newer() {
    let mut bench = Bench::new();
    bench.infos.insert("/a.sock".to_owned(), info("a.io", "1.1.0"));
    bench.infos.insert("/b.sock".to_owned(), info("a.io", "1.1.0"));
    bench.listed(&[("/a.sock", 1)]);
    bench.settle();
    bench.listed(&[("/a.sock", 1), ("/b.sock", 2)]);
    bench.settle();
    let (socket, error) = &bench.told[1];
    assert_eq!(socket, "/b.sock");
    assert!(error.ends_with("Another driver with the same name is already registered with a higher supported version: \"1.1.0\""));
    assert_eq!(bench.plugins.endpoint("a.io"), Some("/a.sock"));
    bench.infos.insert("/b.sock".to_owned(), info("a.io", "1.2.0"));
    bench.now.mono = bench.plugins.deadline().unwrap();
    bench.settle();
    assert_eq!(bench.plugins.endpoint("a.io"), Some("/b.sock"));
}

// CSI-001: other kinds are told that nobody handles them, and asked again ever later.
#[test]
fn other_plugins_are_told_that_nobody_handles_them() {
    let mut bench = Bench::new();
    bench.infos.insert("/gpu.sock".to_owned(), PluginInfo { kind: "DevicePlugin".to_owned(), ..info("gpu", "v1beta1") });
    bench.listed(&[("/gpu.sock", 1)]);
    bench.settle();
    let error = "RegisterPlugin error -- no handler registered for plugin type: DevicePlugin at socket /gpu.sock";
    assert_eq!(bench.told, [("/gpu.sock".to_owned(), error.to_owned())]);
    let first = bench.plugins.deadline().unwrap();
    bench.now.mono = first;
    bench.settle();
    assert_eq!(bench.told.len(), 2);
    assert_eq!(bench.plugins.deadline().unwrap().since(first), Duration::from_secs(1));
}

// CSI-003
#[test]
fn driver_that_contradicts_a_label_of_the_node_is_refused() {
    let mut bench = Bench::new();
    bench.infos.insert("/a.sock".to_owned(), info("a.io", "1.0.0"));
    bench.topology.insert("zone".to_owned(), "z1".to_owned());
    bench.node.metadata.labels = Some([("zone".to_owned(), "z2".to_owned())].into());
    bench.listed(&[("/a.sock", 1)]);
    bench.settle();
    assert!(bench.told[0].1.contains("detected topology value collision"), "{:?}", bench.told);
    assert!(bench.entries().is_empty() && bench.plugins.endpoint("a.io").is_none());
}

// CSI-003, CSI-004: a Node that was made again gets its drivers' entries again.
#[test]
fn new_node_object_gets_the_entries_again() {
    let mut bench = Bench::new();
    bench.infos.insert("/a.sock".to_owned(), info("a.io", "1.0.0"));
    bench.listed(&[("/a.sock", 1)]);
    bench.settle();
    bench.node = serde_json::from_value(json!({"metadata": {"name": "n1", "uid": "another"}})).unwrap();
    bench.csi_node = CSINode::default();
    bench.settle();
    assert_eq!((bench.entries(), bench.annotation()), (vec!["a.io"], Some(r#"{"a.io":"id of /a.sock"}"#)));
    assert_eq!(bench.told.len(), 1, "the driver need not be told");
}

// CSI-003: registration waits for the API server.
#[test]
fn entry_that_cannot_be_written_is_tried_again() {
    let mut bench = Bench::new();
    bench.infos.insert("/a.sock".to_owned(), info("a.io", "1.0.0"));
    bench.listed(&[("/a.sock", 1)]);
    loop {
        bench.drive();
        let (id, call) = bench.in_flight.iter().next().unwrap();
        let (id, write) = (*id, matches!(call, Call::Api(ApiCall::UpdateCsiNode(_))));
        if write {
            bench.in_flight.remove(&id);
            let away = Err(Failure::new(FailureKind::Unavailable, "connection refused"));
            bench.with(|plugins, now, facts, out| plugins.api_done(now, id, away, facts, out));
            break;
        }
        bench.end(id);
    }
    bench.settle();
    assert!(bench.told.is_empty() && bench.entries().is_empty());
    bench.now.mono = bench.plugins.deadline().unwrap();
    bench.settle();
    assert_eq!((bench.entries(), bench.told.len()), (vec!["a.io"], 1));
}
