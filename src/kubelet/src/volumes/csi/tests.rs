use super::calls::TOKENS;
use super::spec::{Paths, attachment_name};
use super::*;
use crate::action::Action;
use crate::csi::{CsiCall, DriverCapabilities};
use crate::out::Ledger;
use crate::recorder::Recorded;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PersistentVolume;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Value, json};

const NAME: &str = "kubernetes.io/csi/d.io^vol-1";
const STAGING: &str = "/r/plugins/kubernetes.io/csi/d.io/HASH/globalmount";
const HASH: &str = "d2e8363faaac7ae76def3b14091d8eb5755f6b92e9531627aeec833a8731cc49";

fn staging() -> String {
    STAGING.replace("HASH", HASH)
}

fn target(pod: &str) -> String {
    format!("/r/pods/{pod}/volumes/kubernetes.io~csi/pv-1/mount")
}

fn volume(with: Value) -> PersistentVolume {
    let mut volume = json!({"metadata": {"name": "pv-1"}, "spec": {"accessModes": ["ReadWriteOnce"], "mountOptions": ["noatime"],
        "csi": {"driver": "d.io", "volumeHandle": "vol-1", "fsType": "ext4", "volumeAttributes": {"a": "b"}}}});
    for (key, value) in with.as_object().unwrap() {
        match key.as_str() {
            "accessModes" => volume["spec"][key] = value.clone(),
            _ => volume["spec"]["csi"][key] = value.clone(),
        }
    }
    serde_json::from_value(volume).unwrap()
}

fn spec(with: Value) -> CsiSpec {
    CsiSpec::of(&volume(with), false).unwrap()
}

fn pod(uid: &str, fs_group: Option<i64>) -> Arc<Pod> {
    let spec = json!({"serviceAccountName": "sa", "containers": [], "securityContext": {"fsGroup": fs_group}});
    Arc::new(serde_json::from_value(json!({"metadata": {"name": uid, "namespace": "ns", "uid": uid}, "spec": spec})).unwrap())
}

fn csi_driver(spec: Value) -> Arc<CSIDriver> {
    Arc::new(serde_json::from_value(json!({"metadata": {"name": "d.io"}, "spec": spec})).unwrap())
}

/// How a call ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Well,
    /// Without effect, for sure.
    Refused,
    /// With effect, and no answer.
    Unanswered,
}

/// The CSI volumes of a node, and a driver, a disk, an API server and a clock to try them with.
struct Bench {
    csi: CsiVolumes,
    plugins: Plugins,
    tokens: TokenManager,
    node: Node,
    now: Now,
    pods_known: bool,
    ledger: Ledger,
    recorded: Vec<Recorded>,
    in_flight: BTreeMap<ActionId, Call>,
    can: DriverCapabilities,
    staged: BTreeSet<String>,
    published: BTreeSet<String>,
    disk: BTreeMap<String, String>,
    calls: Vec<String>,
}

impl Bench {
    /// A node whose disk was read, with a driver that stages, and needs no attaching unless told.
    fn new(driver: Value) -> Self {
        let mut bench = Self {
            csi: CsiVolumes::default(),
            plugins: Plugins::with_driver("d.io", "/d.sock"),
            tokens: TokenManager::new(1),
            node: Node::default(),
            now: Now { mono: Mono::ZERO, wall: Timestamp::from_second(1_795_422_621).unwrap() },
            pods_known: true,
            ledger: Ledger::default(),
            recorded: Vec::new(),
            in_flight: BTreeMap::new(),
            can: DriverCapabilities { stage: true, ..DriverCapabilities::default() },
            staged: BTreeSet::new(),
            published: BTreeSet::new(),
            disk: BTreeMap::new(),
            calls: Vec::new(),
        };
        bench.csi.drivers_listed([csi_driver(driver)].into_iter(), &BTreeSet::new());
        bench
    }

    fn ready(driver: Value) -> Self {
        let mut bench = Self::new(driver);
        bench.settle();
        bench.calls.clear();
        bench
    }

    fn drive(&mut self) {
        let mut actions: Vec<Action> = Vec::new();
        let mut context = CsiContext {
            root_dir: "/r",
            node_name: "n1",
            node: Some(&self.node),
            plugins: &self.plugins,
            tokens: &mut self.tokens,
            host_ready: true,
            pods_known: self.pods_known,
            controller_attaches: true,
            standalone: false,
        };
        let mut out = Out::new(&mut self.ledger, &mut actions, &mut self.recorded);
        self.csi.drive(self.now, &mut context, &mut out);
        for Action { id, call, .. } in actions {
            if !matches!(call, Call::Api(ApiCall::Watch(_))) {
                self.in_flight.insert(id, call);
            }
        }
    }

    fn wait(&mut self, time: Duration) {
        self.now.mono = self.now.mono + time;
    }

    /// Ends a call; the pods that are woken.
    fn end(&mut self, id: ActionId, fate: Fate) -> BTreeSet<PodUid> {
        let call = self.in_flight.remove(&id).unwrap();
        self.calls.push(call.name().to_owned());
        let lost = Failure::new(FailureKind::UnknownOutcome, "context deadline exceeded");
        let outcome = match fate {
            Fate::Refused => Err(Failure::new(FailureKind::Other, "rpc error: code = Internal desc = no")),
            Fate::Well => self.effect(&call),
            Fate::Unanswered => self.effect(&call).and(Err(lost)),
        };
        match self.ledger.take(id) {
            Some(Owner::CsiSurvey) => {
                let outcome = outcome.map(|reply| match reply {
                    StepReply::Host(reply) => reply,
                    other => panic!("{other:?}"),
                });
                // VOL-027: pods that wait for it are planned again if it says something, and none if it does not.
                assert_eq!(self.csi.surveyed(self.now, outcome.clone()), outcome.is_ok());
                BTreeSet::new()
            }
            Some(Owner::Csi(name)) => {
                let mut actions = Vec::new();
                let mut out = Out::new(&mut self.ledger, &mut actions, &mut self.recorded);
                self.csi.done(self.now, &name, id, outcome, &mut out)
            }
            other => panic!("{other:?}"),
        }
    }

    fn effect(&mut self, call: &Call) -> Result<StepReply, Failure> {
        let done = Ok(StepReply::Csi(CsiReply::Done));
        match call {
            Call::Csi(CsiCall::Capabilities { .. }) => Ok(StepReply::Csi(CsiReply::Capabilities(self.can))),
            Call::Csi(CsiCall::Stage { request, .. }) => {
                self.staged.insert(request.staging_target_path.clone());
                done
            }
            Call::Csi(CsiCall::Publish { request, .. }) => {
                assert_eq!(self.staged.contains(&request.staging_target_path), self.can.stage, "published before it was staged");
                self.published.insert(request.target_path.clone());
                done
            }
            Call::Csi(CsiCall::Unpublish { target, .. }) => {
                self.published.remove(target);
                done
            }
            Call::Csi(CsiCall::Unstage { staging, .. }) => {
                assert!(self.published.is_empty(), "unstaged while published: {:?}", self.published);
                self.staged.remove(staging);
                done
            }
            Call::Host(call) => self.host(call).map(StepReply::Host),
            Call::Api(ApiCall::GetVolumeAttachment { .. }) => {
                let status = json!({"attached": true, "attachmentMetadata": {"path": "/dev/x"}});
                let spec = json!({"attacher": "d.io", "nodeName": "n1", "source": {}});
                let attachment = serde_json::from_value(json!({"metadata": {}, "spec": spec, "status": status})).unwrap();
                Ok(StepReply::Api(ApiReply::Attachment(Box::new(attachment))))
            }
            Call::Api(ApiCall::GetObject { .. }) => {
                let secret = serde_json::from_value(json!({"metadata": {}, "data": {"key": "dmFsdWU="}})).unwrap();
                Ok(StepReply::Api(ApiReply::Object(Object::Secret(Sensitive::new(Arc::new(secret))))))
            }
            other => panic!("{other:?}"),
        }
    }

    fn host(&mut self, call: &HostCall) -> Result<HostReply, Failure> {
        match call {
            HostCall::ListCsiVolumes => {
                let (mut staged, mut published) = (Vec::new(), Vec::new());
                for (path, text) in &self.disk {
                    match path.strip_prefix("/r/pods/").and_then(|rest| rest.split_once('/')) {
                        Some((uid, _)) => published.push((PodUid::new(uid), "pv-1".to_owned(), text.clone())),
                        None => staged.push(text.clone()),
                    }
                }
                return Ok(HostReply::CsiVolumes { staged, published });
            }
            HostCall::PrepareCsiVolume { data_path, data, .. } => {
                self.disk.insert(data_path.clone(), data.clone());
            }
            HostCall::RemoveCsiVolume { mount } => {
                if self.published.contains(mount) || self.staged.contains(mount) {
                    return Err(Failure::new(FailureKind::Other, "still mounted"));
                }
                self.disk.remove(&format!("{}/vol_data.json", mount.rsplit_once('/').unwrap().0));
            }
            HostCall::CleanSubPaths { .. } | HostCall::GiveToGroup { .. } => {}
            other => panic!("{other:?}"),
        }
        Ok(HostReply::Done)
    }

    /// Ends everything well until nothing is in flight.
    fn settle(&mut self) {
        loop {
            self.drive();
            let Some(id) = self.in_flight.keys().next().copied() else { return };
            self.end(id, Fate::Well);
        }
    }

    /// Ends everything well up to a call of that name, which ends otherwise.
    fn settle_but(&mut self, name: &str, fate: Fate) -> BTreeSet<PodUid> {
        loop {
            self.drive();
            let (id, call) = self.in_flight.iter().next().unwrap_or_else(|| panic!("no {name}: {:?}", self.calls));
            let (id, is_it) = (*id, call.name() == name);
            if is_it {
                return self.end(id, fate);
            }
            self.end(id, Fate::Well);
        }
    }

    fn want(&mut self, uid: &str) -> bool {
        self.csi.want(&pod(uid, None), spec(json!({})))
    }

    fn leave(&mut self, uid: &str) {
        self.csi.leave(&PodUid::new(uid));
    }

    /// The agent dies and begins anew: what it knew is gone, what it did is not.
    fn restart(&mut self) {
        let drivers = std::mem::take(&mut self.csi.drivers);
        self.csi = CsiVolumes::default();
        self.csi.drivers_listed(drivers.into_values(), &BTreeSet::new());
        self.in_flight.clear();
        self.ledger = Ledger::default();
    }

    fn take_calls(&mut self) -> Vec<String> {
        std::mem::take(&mut self.calls)
    }

    fn messages(&mut self) -> Vec<String> {
        std::mem::take(&mut self.recorded).into_iter().map(|event| event.message).collect()
    }
}

const NO_ATTACH: &str = r#"{"attachRequired": false}"#;

fn no_attach() -> Value {
    serde_json::from_str(NO_ATTACH).unwrap()
}

const MOUNT: [&str; 5] = ["NodeGetCapabilities", "PrepareCsiVolume", "NodeStageVolume", "PrepareCsiVolume", "NodePublishVolume"];
const UNMOUNT: [&str; 3] = ["CleanSubPaths", "NodeUnpublishVolume", "RemoveCsiVolume"];
const UNSTAGE: [&str; 2] = ["NodeUnstageVolume", "RemoveCsiVolume"];

// CSI-006, CSI-008, CSI-014: what is to be known is written before each call, and the last pod's end gives it back.
#[test]
fn volume_is_staged_published_and_given_back_in_order() {
    let mut bench = Bench::ready(no_attach());
    assert!(!bench.want("u"));
    bench.settle();
    assert_eq!(bench.take_calls(), MOUNT);
    assert!(bench.want("u"));
    assert_eq!((bench.staged.clone(), bench.published.clone()), ([staging()].into(), [target("u")].into()));
    let written: Vec<&String> = bench.disk.values().collect();
    let staged = "{\"driverName\":\"d.io\",\"volumeHandle\":\"vol-1\"}\n";
    let attachment = attachment_name("vol-1", "d.io", "n1");
    let published = format!(
        "{{\"attachmentID\":\"{attachment}\",\"driverName\":\"d.io\",\"nodeName\":\"n1\",\"specVolID\":\"pv-1\",\
         \"volumeHandle\":\"vol-1\",\"volumeLifecycleMode\":\"Persistent\"}}\n"
    );
    assert_eq!(written, [staged, &published]);
    bench.leave("u");
    bench.settle();
    assert_eq!(bench.take_calls(), [&UNMOUNT[..], &UNSTAGE[..]].concat());
    assert!(bench.disk.is_empty() && bench.csi.volumes.is_empty());
}

// CSI-014, VOL-019
#[test]
fn shared_volume_is_unstaged_after_the_last_pod() {
    let mut bench = Bench::ready(no_attach());
    bench.want("a");
    bench.want("b");
    bench.settle();
    assert_eq!(bench.take_calls().iter().filter(|call| *call == "NodeStageVolume").count(), 1);
    assert_eq!(bench.published.len(), 2);
    bench.leave("a");
    bench.settle();
    assert_eq!(bench.take_calls(), UNMOUNT);
    assert!(bench.want("b") && !bench.csi.has(&PodUid::new("a")));
    bench.leave("b");
    bench.settle();
    assert!(bench.staged.is_empty());
}

// What is in place costs an event nothing, however much there is; what changes is looked at.
#[test]
fn volumes_in_place_are_not_looked_at() {
    let mut bench = Bench::ready(no_attach());
    bench.want("a");
    bench.settle();
    assert!(bench.csi.volumes.awake(bench.now).is_empty());
    let told = bench.csi.in_use().unwrap();
    bench.drive();
    assert!(Arc::ptr_eq(&told, &bench.csi.in_use().unwrap()));
    bench.want("b");
    assert_eq!(bench.csi.volumes.awake(bench.now), [NAME]);
    bench.settle();
    assert_eq!(bench.csi.volumes.of_pod(&PodUid::new("b")).count(), 1);
    bench.leave("a");
    bench.leave("b");
    bench.settle();
    assert!(bench.csi.volumes.is_empty() && bench.csi.volumes.awake(bench.now).is_empty());
    for pod in ["a", "b"] {
        assert_eq!(bench.csi.volumes.of_pod(&PodUid::new(pod)).count(), 0);
    }
}

// VOL-016, VOL-017, CSI-008: in use first, then attached, then what the attachment says is passed on.
#[test]
fn volume_is_mounted_once_the_node_shows_it_attached() {
    let mut bench = Bench::ready(json!({}));
    assert_eq!(bench.csi.in_use().as_deref(), Some(&[][..]));
    bench.want("u");
    bench.settle();
    assert_eq!(bench.csi.in_use().as_deref(), Some(&[NAME.to_owned()][..]));
    let status = bench.node.status.get_or_insert_default();
    status.volumes_attached = serde_json::from_value(json!([{"name": NAME, "devicePath": ""}])).unwrap();
    bench.settle();
    assert!(bench.take_calls().is_empty(), "the controller may be detaching it: it was not told that it is in use");
    bench.node.status.get_or_insert_default().volumes_in_use = Some(vec![NAME.to_owned()]);
    bench.drive();
    let Some(Call::Api(ApiCall::GetVolumeAttachment { name })) = bench.in_flight.values().next() else { panic!() };
    assert_eq!(*name, attachment_name("vol-1", "d.io", "n1"));
    bench.settle_but("NodePublishVolume", Fate::Refused);
    bench.settle();
    bench.wait(Duration::from_secs(1));
    bench.settle();
    assert!(bench.want("u"));
    assert!(bench.recorded.len() == 1, "{:?}", bench.recorded);
}

// CSI-008, VOL-021: transient, and over when the driver comes.
#[test]
fn missing_driver_is_told_and_its_coming_noticed_at_once() {
    let mut bench = Bench::ready(no_attach());
    bench.plugins = Plugins::default();
    bench.want("u");
    bench.settle();
    assert_eq!(
        bench.messages(),
        ["MountVolume.MountDevice failed for volume \"pv-1\" : kubernetes.io/csi: attacher.MountDevice failed to create \
          newCsiDriverClient: driver name d.io not found in the list of registered CSI drivers"]
    );
    bench.settle();
    assert!(bench.messages().is_empty() && bench.csi.deadline().is_some(), "told once for each try");
    bench.plugins = Plugins::with_driver("d.io", "/d.sock");
    bench.settle();
    assert!(bench.want("u"));
}

// CSI-009, VOL-022: certain failures are undone, uncertain ones kept in mind.
#[test]
fn failure_leaves_what_may_have_happened_and_nothing_else() {
    let mut bench = Bench::ready(no_attach());
    bench.want("u");
    bench.settle_but("NodeStageVolume", Fate::Refused);
    bench.settle();
    assert_eq!(bench.messages(), ["MountVolume.MountDevice failed for volume \"pv-1\" : rpc error: code = Internal desc = no"]);
    assert!(bench.disk.is_empty(), "{:?}", bench.disk);
    bench.wait(Duration::from_millis(500));
    bench.settle_but("NodePublishVolume", Fate::Unanswered);
    assert_eq!(bench.messages(), ["MountVolume.SetUp failed for volume \"pv-1\" : context deadline exceeded"]);
    bench.settle();
    assert_eq!((bench.disk.len(), bench.published.len()), (2, 1), "it may be published");
    bench.leave("u");
    bench.settle();
    assert!(bench.published.is_empty() && bench.staged.is_empty() && bench.disk.is_empty());
}

// VOL-020
#[test]
fn failed_stage_waits_longer_each_time() {
    let mut bench = Bench::ready(no_attach());
    bench.want("u");
    let mut waits = Vec::new();
    for _ in 0..3 {
        bench.settle_but("NodeStageVolume", Fate::Refused);
        bench.settle();
        let until = bench.csi.deadline().unwrap();
        waits.push(until.since(bench.now.mono).as_millis());
        bench.now.mono = until;
    }
    assert_eq!(waits, [500, 1000, 2000]);
}

// VOL-027, VOL-029: what lies on the disk may be mounted: it is mounted again, and a refusal does not take it away.
#[test]
fn restart_forgets_no_mount() {
    let mut bench = Bench::ready(no_attach());
    bench.want("u");
    bench.settle();
    bench.restart();
    bench.calls.clear();
    bench.settle();
    assert_eq!(bench.take_calls(), ["ListCsiVolumes"], "nobody has said yet what becomes of it");
    assert!(!bench.want("u"));
    bench.settle_but("NodePublishVolume", Fate::Refused);
    bench.settle();
    assert_eq!(bench.disk.len(), 2, "the pod that runs goes on seeing it");
    bench.wait(Duration::from_secs(1));
    bench.settle();
    assert!(bench.want("u"));
    bench.restart();
    bench.settle();
    bench.leave("u");
    bench.settle();
    assert!(bench.published.is_empty() && bench.staged.is_empty() && bench.disk.is_empty());
}

// VOL-027: staged, and killed before it was published; the pod has gone meanwhile.
#[test]
fn volume_that_only_was_staged_is_unstaged_after_a_restart() {
    let mut bench = Bench::ready(no_attach());
    bench.want("u");
    bench.settle_but("NodeStageVolume", Fate::Well);
    bench.restart();
    bench.pods_known = false;
    bench.settle();
    assert_eq!(bench.staged.len(), 1, "not before all pods are known");
    bench.pods_known = true;
    bench.settle();
    assert!(bench.staged.is_empty() && bench.disk.is_empty());
}

// VOL-017: an old list must survive until the disk was read.
#[test]
fn volumes_in_use_are_not_known_before_the_disk_was_read() {
    let mut bench = Bench::new(json!({}));
    bench.drive();
    assert_eq!(bench.csi.in_use(), None);
    bench.settle_but("ListCsiVolumes", Fate::Refused);
    assert_eq!(bench.csi.in_use(), None, "it could not be read");
    bench.now.mono = bench.now.mono + Duration::from_secs(60);
    bench.settle();
    assert_eq!(bench.csi.in_use().as_deref(), Some(&[][..]));
}

// VOL-024: for drivers that want it, while the pod goes on seeing what it has, whatever becomes of it.
#[test]
fn volume_is_published_again_for_drivers_that_want_it() {
    let mut bench = Bench::ready(json!({"attachRequired": false, "requiresRepublish": true}));
    bench.csi.want(&pod("u", Some(7)), spec(json!({})));
    bench.settle();
    bench.take_calls();
    bench.csi.synced(bench.now, &PodUid::new("u"), "pv-1");
    bench.settle();
    assert!(bench.take_calls().is_empty(), "not at each sync");
    bench.wait(Duration::from_secs(60));
    bench.csi.synced(bench.now, &PodUid::new("u"), "pv-1");
    bench.settle_but("NodePublishVolume", Fate::Refused);
    bench.settle();
    assert_eq!((bench.published.len(), bench.disk.len(), bench.messages().len()), (1, 2, 1));
    assert!(bench.csi.want(&pod("u", Some(7)), spec(json!({}))));
    bench.take_calls();
    bench.wait(Duration::from_secs(1));
    bench.settle();
    assert_eq!(bench.take_calls(), ["NodeGetCapabilities", "PrepareCsiVolume", "NodePublishVolume"]);
}

// VOL-023
#[test]
fn volume_for_one_pod_only_is_refused_to_a_second() {
    let mut bench = Bench::ready(no_attach());
    let exclusive = || spec(json!({"accessModes": ["ReadWriteOncePod"]}));
    bench.csi.want(&pod("a", None), exclusive());
    bench.settle();
    bench.csi.want(&pod("b", None), exclusive());
    bench.settle();
    let messages = bench.messages();
    assert!(messages[0].ends_with("uses the ReadWriteOncePod access mode and is already in use by another pod"), "{messages:?}");
    bench.leave("a");
    bench.wait(Duration::from_secs(1));
    bench.settle();
    assert!(bench.csi.want(&pod("b", None), exclusive()));
}

// CSI-012: never attached, never staged, and only for drivers that say so.
#[test]
fn inline_volume_is_published_only() {
    let inline = || {
        let volume = serde_json::from_value(json!({"name": "v", "csi": {"driver": "d.io", "readOnly": true}})).unwrap();
        CsiSpec::inline(&pod("u", None), &volume).unwrap()
    };
    let mut bench = Bench::ready(json!({}));
    bench.csi.want(&pod("u", None), inline());
    bench.settle();
    let messages = bench.messages();
    assert!(messages[0].contains("volume mode \"Ephemeral\" not supported by driver d.io"), "{messages:?}");
    let mut bench = Bench::ready(json!({"volumeLifecycleModes": ["Ephemeral"]}));
    bench.csi.want(&pod("u", None), inline());
    bench.drive();
    bench.can.stage = false;
    bench.settle();
    assert_eq!(bench.take_calls(), ["NodeGetCapabilities", "PrepareCsiVolume", "NodePublishVolume"]);
    assert_eq!(bench.csi.in_use().as_deref(), Some(&[][..]));
    bench.restart();
    bench.settle();
    bench.leave("u");
    bench.calls.clear();
    bench.settle();
    assert_eq!(bench.take_calls(), UNMOUNT);
}

// CSI-013: given by the agent unless the driver does it; secrets are read for each part that names one.
#[test]
fn group_and_secrets_are_seen_to() {
    let mut bench = Bench::ready(no_attach());
    let secret = |name: &str| json!({"name": name, "namespace": "ns"});
    let with = json!({"nodeStageSecretRef": secret("s"), "nodePublishSecretRef": secret("p")});
    bench.csi.want(&pod("u", Some(7)), spec(with));
    bench.drive();
    let mut seen = Vec::new();
    while let Some((id, call)) = bench.in_flight.iter().next() {
        match call {
            Call::Csi(CsiCall::Stage { secrets, .. } | CsiCall::Publish { secrets, .. }) => {
                assert_eq!(secrets.reveal()["key"], "value");
            }
            Call::Host(HostCall::GiveToGroup { path, group: 7, trust_root: false }) => assert_eq!(*path, target("u")),
            _ => {}
        }
        seen.push(call.name());
        let id = *id;
        bench.end(id, Fate::Well);
        bench.drive();
    }
    let expected = [
        "NodeGetCapabilities",
        "GetObject",
        "PrepareCsiVolume",
        "NodeStageVolume",
        "GetObject",
        "PrepareCsiVolume",
        "NodePublishVolume",
        "GiveToGroup",
    ];
    assert_eq!(seen, expected);
}

// CSI-013: a failure leaves it uncertain, so it is unpublished in the end.
#[test]
fn volume_that_could_not_be_given_to_its_group_is_not_ready_and_not_forgotten() {
    let mut bench = Bench::ready(no_attach());
    bench.csi.want(&pod("u", Some(7)), spec(json!({})));
    bench.settle_but("GiveToGroup", Fate::Refused);
    assert!(bench.messages()[0].contains("applyFSGroup failed for vol vol-1"));
    assert!(!bench.csi.want(&pod("u", Some(7)), spec(json!({}))));
    bench.leave("u");
    bench.settle();
    assert!(bench.published.is_empty() && bench.staged.is_empty());
}

// CSI-013
#[test]
fn group_is_the_agents_to_give_as_the_driver_says() {
    let gives = |policy: Option<&str>, with: Value, can: bool, group: Option<i64>| {
        let driver = csi_driver(json!({"fsGroupPolicy": policy}));
        let can = DriverCapabilities { mount_group: can, ..DriverCapabilities::default() };
        spec(with).group_to_give(&pod("u", group), can, Some(&driver)).is_some()
    };
    assert!(gives(None, json!({}), false, Some(7)));
    assert!(!gives(None, json!({}), false, None));
    assert!(!gives(None, json!({}), true, Some(7)));
    assert!(!gives(None, json!({"fsType": ""}), false, Some(7)));
    assert!(!gives(None, json!({"accessModes": ["ReadWriteMany"]}), false, Some(7)));
    assert!(!gives(Some("None"), json!({}), false, Some(7)));
    assert!(gives(Some("File"), json!({"fsType": "", "accessModes": ["ReadWriteMany"]}), false, Some(7)));
    let read_only = CsiSpec::of(&volume(json!({})), true).unwrap();
    let file = csi_driver(json!({"fsGroupPolicy": "File"}));
    assert_eq!(read_only.group_to_give(&pod("u", Some(7)), DriverCapabilities::default(), Some(&file)), None);
}

// CSI-010, CSI-017, CSI-011
#[test]
fn requests_say_what_upstreams_say() {
    let paths = Paths::new("/r", "d.io", "vol-1");
    let context = BTreeMap::from([("path".to_owned(), "/dev/x".to_owned())]);
    let can = DriverCapabilities { stage: true, mount_group: true, single_node_multi_writer: false };
    let stage = spec(json!({})).stage_request(&paths, &context, can, Some(7));
    assert_eq!((stage.volume_id.as_str(), stage.staging_target_path), ("vol-1", staging()));
    assert_eq!(stage.volume_context, BTreeMap::from([("a".to_owned(), "b".to_owned())]));
    let capability = serde_json::to_value(stage.volume_capability).unwrap();
    let mount = json!({"fs_type": "ext4", "mount_flags": ["noatime"], "volume_mount_group": "7"});
    assert_eq!(capability["access_type"], json!({"Mount": mount}));
    let driver = csi_driver(json!({"podInfoOnMount": true}));
    let publish = spec(json!({})).publish_request((&paths, target("u")), &context, can, &pod("u", None), Some(&driver));
    assert_eq!((publish.target_path, publish.staging_target_path, publish.readonly), (target("u"), staging(), false));
    assert_eq!(publish.publish_context, context);
    let info: Vec<(&str, &str)> = publish.volume_context.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let expected = [
        ("a", "b"),
        ("csi.storage.k8s.io/ephemeral", "false"),
        ("csi.storage.k8s.io/pod.name", "u"),
        ("csi.storage.k8s.io/pod.namespace", "ns"),
        ("csi.storage.k8s.io/pod.uid", "u"),
        ("csi.storage.k8s.io/serviceAccount.name", "sa"),
    ];
    assert_eq!(info, expected);
}

// CSI-010
#[test]
fn access_modes_are_told_as_the_driver_can_read_them() {
    let mode = |modes: Value, multi: bool| {
        let can = DriverCapabilities { single_node_multi_writer: multi, ..DriverCapabilities::default() };
        let paths = Paths::new("/r", "d.io", "vol-1");
        let request = spec(json!({"accessModes": modes})).stage_request(&paths, &BTreeMap::new(), can, None);
        request.volume_capability.unwrap().access_mode.unwrap().mode().as_str_name()
    };
    assert_eq!(mode(json!(["ReadWriteOnce", "ReadWriteMany"]), false), "SINGLE_NODE_WRITER");
    assert_eq!(mode(json!(["ReadWriteOncePod"]), false), "SINGLE_NODE_WRITER");
    assert_eq!(mode(json!(["ReadWriteOnce"]), true), "SINGLE_NODE_MULTI_WRITER");
    assert_eq!(mode(json!(["ReadWriteOncePod"]), true), "SINGLE_NODE_SINGLE_WRITER");
    assert_eq!(mode(json!(["ReadOnlyMany"]), true), "MULTI_NODE_READER_ONLY");
    assert_eq!(mode(json!(["ReadWriteMany"]), false), "MULTI_NODE_MULTI_WRITER");
}

// CSI-006: names that upstream, other controllers and the disk know.
#[test]
fn names_are_upstreams() {
    assert_eq!(attachment_name("vol-1", "d.io", "n1"), "csi-40442d846bb36955ab6e193f0f927e71c846efef02079a519a1ea8cd4a8c18f3");
    let volume = serde_json::from_value(json!({"name": "v", "csi": {"driver": "d.io"}})).unwrap();
    assert_eq!(
        CsiSpec::inline(&pod("u", None), &volume).unwrap().handle,
        "csi-e6184ce10e266134fdcfa401e8f1a95005bcd4f18d16b62b757323e2833fe9a9"
    );
    assert_eq!(spec(json!({})).unique_name(), NAME);
    assert_eq!(VolumeData::parse("{\"driverName\":\"d.io\""), None, "torn");
    assert_eq!(VolumeData::parse("{}"), None);
}

// CSI-011
#[test]
fn tokens_are_fetched_before_a_volume_is_published() {
    let driver = json!({"attachRequired": false, "tokenRequests": [{"audience": "aud", "expirationSeconds": 600}]});
    let mut bench = Bench::ready(driver);
    bench.want("u");
    bench.drive();
    let (id, call) = bench.in_flight.pop_first().unwrap();
    let Call::Api(ApiCall::CreateToken { request, .. }) = call else { panic!("{call:?}") };
    assert_eq!(request.spec.unwrap().audiences, Some(vec!["aud".to_owned()]));
    assert!(bench.in_flight.is_empty());
    let Some(Owner::Token(number)) = bench.ledger.take(id) else { panic!() };
    let expires = bench.now.wall + jiff::SignedDuration::from_secs(600);
    let status = serde_json::from_value(json!({"token": "t", "expirationTimestamp": expires.to_string()})).unwrap();
    let _ = bench.tokens.done(bench.now, number, Ok(ApiReply::Token(Sensitive::new(status))));
    loop {
        bench.drive();
        let (id, call) = bench.in_flight.iter().next().unwrap();
        if let Call::Csi(CsiCall::Publish { request, private_context, .. }) = call {
            let tokens: Value = serde_json::from_str(&private_context.reveal()[TOKENS]).unwrap();
            assert_eq!(tokens["aud"]["token"], "t");
            assert!(!request.volume_context.contains_key(TOKENS));
            return;
        }
        let id = *id;
        bench.end(id, Fate::Well);
    }
}

/// What happens next in a run of the property test.
#[derive(Clone, Debug)]
enum Move {
    Want(usize),
    Leave(usize),
    End(usize, Fate),
    Wait,
    Restart,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let fate = prop_oneof![6 => Just(Fate::Well), 1 => Just(Fate::Refused), 1 => Just(Fate::Unanswered)];
    let one = prop_oneof![
        2 => (0..3usize).prop_map(Move::Want),
        2 => (0..3usize).prop_map(Move::Leave),
        10 => (0..8usize, fate).prop_map(|(which, fate)| Move::End(which, fate)),
        2 => Just(Move::Wait),
        1 => Just(Move::Restart),
    ];
    proptest::collection::vec(one, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(7), failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    // CSI-009, CSI-014, VOL-027: the driver's own assertions hold throughout, and nothing is left in the end.
    #[test]
    fn whatever_fails_volumes_are_used_in_order_and_given_back(moves in moves()) {
        let pods = ["a", "b", "c"];
        let mut wanted: BTreeSet<usize> = BTreeSet::new();
        let mut bench = Bench::ready(no_attach());
        for one in moves {
            match one {
                Move::Want(pod) => {
                    wanted.insert(pod);
                    bench.want(pods[pod]);
                }
                Move::Leave(pod) => {
                    wanted.remove(&pod);
                    bench.leave(pods[pod]);
                }
                Move::End(which, fate) => {
                    if let Some(id) = bench.in_flight.keys().nth(which % bench.in_flight.len().max(1)).copied() {
                        bench.end(id, fate);
                    }
                }
                Move::Wait => bench.wait(Duration::from_secs(130)),
                Move::Restart => {
                    bench.restart();
                    wanted.clear();
                }
            }
            prop_assert!(bench.in_flight.len() <= 2, "one operation at a time: {:?}", bench.in_flight);
            bench.drive();
        }
        for pod in pods {
            bench.leave(pod);
        }
        for _ in 0..3 {
            bench.wait(Duration::from_secs(130));
            bench.settle();
            for pod in pods {
                bench.leave(pod);
            }
        }
        prop_assert!(bench.published.is_empty() && bench.staged.is_empty(), "{:?} {:?}", bench.published, bench.staged);
        prop_assert!(bench.disk.is_empty() && bench.csi.volumes.is_empty(), "{:?} {:?}", bench.disk, bench.csi.volumes);
    }
}
