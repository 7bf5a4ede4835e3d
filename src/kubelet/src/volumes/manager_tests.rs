use super::*;
use crate::action::{Action, ApiCall, EmptyDirMedium};
use crate::cache::ObjectCache;
use crate::config::ChangeDetection;
use crate::event::{ApiReply, Object, VolumeDirectory, WatchKey};
use crate::failure::FailureKind;
use crate::out::Ledger;
use crate::sensitive::Sensitive;
use crate::tokens::TokenManager;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::TokenRequestStatus;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Value, json};

/// The agent's parts that volumes need, and a host, an API server and a clock to try them with.
struct Bench {
    pod: Arc<Pod>,
    now: Now,
    objects: ObjectCache,
    tokens: TokenManager,
    volumes: VolumeManager,
    ledger: Ledger,
    recorded: Vec<Recorded>,
    in_flight: BTreeMap<ActionId, Call>,
    issued: u64,
    /// Digests of what lies on the host, by plugin and volume.
    disk: BTreeMap<VolumeDirectory, u64>,
}

impl Bench {
    fn new(pod: Value) -> Self {
        Self {
            pod: Arc::new(serde_json::from_value(pod).unwrap()),
            now: Now { mono: Mono::ZERO, wall: Timestamp::from_second(1_795_422_621).unwrap() },
            objects: ObjectCache::new(ChangeDetection::Watch, false),
            tokens: TokenManager::new(3),
            volumes: VolumeManager::default(),
            ledger: Ledger::default(),
            recorded: Vec::new(),
            in_flight: BTreeMap::new(),
            issued: 0,
            disk: BTreeMap::new(),
        }
    }

    fn uid(&self) -> PodUid {
        uid_of(&self.pod).unwrap()
    }

    fn with<T>(&mut self, act: impl FnOnce(&mut Self, &mut Out<'_>) -> T) -> T {
        let (mut ledger, mut recorded, mut actions) =
            (std::mem::take(&mut self.ledger), std::mem::take(&mut self.recorded), Vec::new());
        let value = act(self, &mut Out::new(&mut ledger, &mut actions, &mut recorded));
        (self.ledger, self.recorded) = (ledger, recorded);
        for Action { id, call, .. } in actions {
            self.issued += 1;
            if !matches!(call, Call::Api(ApiCall::Watch(_) | ApiCall::Unwatch(_))) {
                self.in_flight.insert(id, call);
            }
        }
        value
    }

    fn sync(&mut self) -> VolumesState {
        let pod = Arc::clone(&self.pod);
        self.with(|bench, out| {
            let Bench { objects, tokens, volumes, now, .. } = bench;
            objects.register(*now, &pod, out);
            let (node_allocatable, node_labels) = (&BTreeMap::new(), None);
            let mut inputs =
                VolumeInputs { objects, tokens, root_dir: "/r", node_allocatable, node_labels, pod_memory_limit: None };
            volumes.sync_pod(*now, &pod, &mut inputs, out)
        })
    }

    fn tear_down(&mut self) -> bool {
        let uid = self.uid();
        self.with(|bench, out| bench.volumes.tear_down(bench.now, &uid, out))
    }

    /// Lets time pass. True if the pod is to be woken.
    fn wait(&mut self, time: Duration) -> bool {
        self.now.mono = self.now.mono + time;
        self.now.wall += jiff::SignedDuration::try_from(time).unwrap();
        let now = self.now;
        let mut woken = self.objects.due(now);
        woken.extend(self.volumes.due(now));
        woken.extend(self.with(|bench, out| bench.tokens.due(now, out)));
        !woken.is_empty()
    }

    fn deadline(&self) -> Option<Mono> {
        earliest([self.objects.deadline(), self.tokens.deadline(), self.volumes.deadline()])
    }

    fn tell(&mut self, object: Object) -> bool {
        let key = match &object {
            Object::ConfigMap(object) => {
                WatchKey::ConfigMap { namespace: "ns".into(), name: object.metadata.name.clone().unwrap() }
            }
            Object::Secret(object) => {
                WatchKey::Secret { namespace: "ns".into(), name: object.reveal().metadata.name.clone().unwrap() }
            }
            other => panic!("{other:?}"),
        };
        self.with(|bench, out| !bench.objects.applied(&key, object, out).is_empty())
    }

    fn delete_config_map(&mut self, name: &str) {
        let key = WatchKey::ConfigMap { namespace: "ns".into(), name: name.into() };
        let _ = self.with(|bench, out| bench.objects.deleted(&key, out));
    }

    /// Ends an action well or badly. True if the pod is to be woken.
    fn end(&mut self, id: ActionId, well: bool) -> bool {
        let call = self.in_flight.remove(&id).unwrap();
        let owner = self.ledger.take(id);
        let failure = Failure::new(FailureKind::Other, "no space left on device");
        match (call, owner) {
            (Call::Host(call), Some(Owner::Volume(uid, volume))) => {
                let outcome = if well { Ok(self.host(call)) } else { Err(failure) };
                self.with(|bench, out| bench.volumes.done(bench.now, &uid, &volume, id, outcome, out))
            }
            (Call::Api(ApiCall::CreateToken { .. }), Some(Owner::Token(number))) => {
                let expires = self.now.wall + jiff::SignedDuration::from_secs(3607);
                let status = TokenRequestStatus { token: Some(format!("token {id}")), expiration_timestamp: Some(Time(expires)) };
                let outcome = if well { Ok(ApiReply::Token(Sensitive::new(status))) } else { Err(failure) };
                self.tokens.done(self.now, number, outcome).is_some()
            }
            other => panic!("{other:?}"),
        }
    }

    fn host(&mut self, call: HostCall) -> HostReply {
        match call {
            HostCall::SetUpVolume { volume, setup, .. } => {
                let plugin = match &*setup {
                    VolumeSetup::HostPath { .. } => return HostReply::Done,
                    VolumeSetup::EmptyDir { .. } => "kubernetes.io~empty-dir".to_owned(),
                    VolumeSetup::Files { plugin, .. } => plugin.clone(),
                };
                self.disk.insert(VolumeDirectory { plugin, volume, data: None }, payload::digest(&setup));
                HostReply::Done
            }
            HostCall::TearDownVolume { plugin, volume, .. } => {
                self.disk.remove(&VolumeDirectory { plugin, volume, data: None });
                HostReply::Done
            }
            HostCall::ListVolumes { .. } => HostReply::Volumes(self.disk.keys().cloned().collect()),
            other => panic!("{other:?}"),
        }
    }

    /// The one action in flight.
    fn only(&self) -> ActionId {
        assert_eq!(self.in_flight.len(), 1, "{:?}", self.in_flight);
        *self.in_flight.keys().next().unwrap()
    }

    /// Ends everything well until nothing is in flight.
    fn settle(&mut self) -> VolumesState {
        loop {
            let state = self.sync();
            let Some(id) = self.in_flight.keys().next().copied() else { return state };
            self.end(id, true);
        }
    }

    fn setup_of(&self, volume: &str) -> &VolumeSetup {
        let found = self.in_flight.values().find_map(|call| match call {
            Call::Host(HostCall::SetUpVolume { volume: name, setup, .. }) if name == volume => Some(&**setup),
            _ => None,
        });
        found.unwrap_or_else(|| panic!("{volume} is not being set up"))
    }

    fn files_of(&self, volume: &str) -> BTreeMap<String, String> {
        let VolumeSetup::Files { files, .. } = self.setup_of(volume) else { panic!("{volume} has no files") };
        let text = |file: &crate::action::ProjectedFile| format!("{:o} {}", file.mode, String::from_utf8_lossy(file.data.reveal()));
        files.iter().map(|(path, file)| (path.clone(), text(file))).collect()
    }

    fn messages(&mut self) -> Vec<String> {
        std::mem::take(&mut self.recorded).into_iter().map(|event| event.message).collect()
    }
}

fn pod(volumes: Value) -> Value {
    let mounts: Vec<Value> = volumes
        .as_array()
        .unwrap()
        .iter()
        .map(|v| json!({"name": v["name"], "mountPath": format!("/{}", v["name"].as_str().unwrap())}))
        .collect();
    json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"app": "web"}},
        "spec": {"serviceAccountName": "default", "containers": [{"name": "c", "volumeMounts": mounts}], "volumes": volumes},
    })
}

fn config_map(name: &str, version: u32, data: Value) -> Object {
    let object: ConfigMap = serde_json::from_value(
        json!({"metadata": {"name": name, "namespace": "ns", "resourceVersion": version.to_string()}, "data": data}),
    )
    .unwrap();
    Object::ConfigMap(Arc::new(object))
}

fn secret(name: &str, version: u32, data: &[(&str, &str)]) -> Object {
    let mut object: Secret =
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "ns", "resourceVersion": version.to_string()}}))
            .unwrap();
    object.data = Some(data.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec()))).collect());
    Object::Secret(Sensitive::new(Arc::new(object)))
}

fn waiting(names: &[&str]) -> VolumesState {
    VolumesState::Waiting { unmounted: names.iter().map(|name| (*name).to_owned()).collect() }
}

fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

const API_ACCESS: &str = r#"{"name": "kube-api-access", "projected": {"defaultMode": 420, "sources": [
    {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
    {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
    {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}}"#;

// VTY-010, TOK-001: the volume that every pod has; written once all of it is here, where a real kubelet puts it.
#[test]
fn api_access_volume_is_written_once_token_and_ca_are_here() {
    let volume: Value = serde_json::from_str(API_ACCESS).unwrap();
    let mut bench = Bench::new(pod(json!([volume])));
    assert_eq!(bench.sync(), waiting(&["kube-api-access"]));
    let token = bench.only();
    assert!(bench.end(token, true));
    assert_eq!(bench.sync(), waiting(&["kube-api-access"]));
    assert!(bench.in_flight.is_empty(), "nothing is written before the CA is here");
    assert!(bench.tell(config_map("kube-root-ca.crt", 1, json!({"ca.crt": "CA"}))));
    bench.sync();
    let expected = map(&[("ca.crt", "644 CA"), ("namespace", "644 ns"), ("token", &format!("644 token {token}"))]);
    assert_eq!(bench.files_of("kube-api-access"), expected);
    let write = bench.only();
    assert!(bench.end(write, true));
    assert_eq!(bench.sync(), VolumesState::Ready);
    let mounted = &bench.volumes.mounted(&bench.uid())["kube-api-access"];
    assert_eq!(mounted.host_path, "/r/pods/u/volumes/kubernetes.io~projected/kube-api-access");
    assert!(mounted.plugin.read_only() && mounted.plugin.managed());
    assert!(bench.recorded.is_empty());
}

// TOK-003: a renewed token reaches the file by itself, and the volume is in place all the while.
#[test]
fn renewed_token_is_written_without_disturbing_the_pod() {
    let volume: Value = serde_json::from_str(API_ACCESS).unwrap();
    let mut bench = Bench::new(pod(json!([volume])));
    bench.sync();
    bench.tell(config_map("kube-root-ca.crt", 1, json!({"ca.crt": "CA"})));
    assert_eq!(bench.settle(), VolumesState::Ready);
    let before = bench.disk.clone();
    bench.wait(Duration::from_secs(2887));
    let renewal = bench.only();
    assert!(bench.end(renewal, true), "the pod is woken");
    assert_eq!(bench.sync(), VolumesState::Ready);
    assert_eq!(bench.files_of("kube-api-access")["token"], format!("644 token {renewal}"));
    assert_eq!(bench.settle(), VolumesState::Ready);
    assert_ne!(bench.disk, before);
}

// VTY-009, VOL-024: a changed ConfigMap is written again; an unchanged one is not.
#[test]
fn changed_object_is_written_again_and_an_unchanged_one_is_not() {
    let mut bench = Bench::new(pod(json!([{"name": "v", "configMap": {"name": "m", "defaultMode": 0o600}}])));
    bench.sync();
    bench.tell(config_map("m", 1, json!({"a": "1"})));
    assert_eq!(bench.settle(), VolumesState::Ready);
    let issued = bench.issued;
    bench.tell(config_map("m", 2, json!({"a": "1"})));
    assert_eq!((bench.sync(), bench.issued), (VolumesState::Ready, issued));
    bench.tell(config_map("m", 3, json!({"a": "2"})));
    assert_eq!(bench.sync(), VolumesState::Ready);
    assert_eq!(bench.files_of("v"), map(&[("a", "600 2")]));
}

// VOL-019: a change that comes while the one before is being written is written after it, never side by side (invariant 3).
#[test]
fn change_during_a_write_is_written_afterwards() {
    let mut bench = Bench::new(pod(json!([{"name": "v", "secret": {"secretName": "s", "defaultMode": 420}}])));
    bench.sync();
    bench.tell(secret("s", 1, &[("k", "one")]));
    bench.sync();
    let first = bench.only();
    bench.tell(secret("s", 2, &[("k", "two")]));
    bench.sync();
    assert_eq!(bench.only(), first);
    assert!(bench.end(first, true));
    assert_eq!(bench.sync(), VolumesState::Ready);
    assert_eq!(bench.files_of("v"), map(&[("k", "644 two")]));
}

// VTY-009, VOL-021, VOL-020: told at once and again with a growing pause; written as soon as it can be.
#[test]
fn missing_object_is_told_with_pauses_and_heals_at_once() {
    let mut bench = Bench::new(pod(json!([{"name": "v", "secret": {"secretName": "s", "defaultMode": 420}}])));
    bench.sync();
    let key = WatchKey::Secret { namespace: "ns".into(), name: "s".into() };
    assert!(!bench.with(|bench, out| bench.objects.listed(&key, vec![], out)).is_empty());
    for _ in 0..5 {
        assert_eq!(bench.sync(), waiting(&["v"]));
    }
    assert_eq!(bench.messages(), ["MountVolume.SetUp failed for volume \"v\" : secret \"s\" not found"]);
    assert_eq!(bench.volumes.deadline(), Some(bench.now.mono + Duration::from_millis(500)));
    bench.wait(Duration::from_millis(500));
    assert_eq!(bench.volumes.deadline(), None, "the pod is woken once");
    bench.sync();
    assert_eq!(bench.messages().len(), 1);
    assert_eq!(bench.volumes.deadline(), Some(bench.now.mono + Duration::from_secs(1)));
    bench.tell(secret("s", 1, &[("k", "v")]));
    assert_eq!(bench.settle(), VolumesState::Ready);
    assert_eq!(bench.volumes.deadline(), None);
}

// VTY-009
#[test]
fn optional_object_leaves_an_empty_volume_and_missing_keys_are_named() {
    let volumes = json!([
        {"name": "a", "configMap": {"name": "m", "defaultMode": 420, "optional": true}},
        {"name": "b", "configMap": {"name": "n", "defaultMode": 420, "items": [{"key": "gone", "path": "x"}]}},
        {"name": "c", "secret": {"secretName": "s", "defaultMode": 420, "items": [{"key": "gone", "path": "x"}]}},
        {"name": "d", "configMap": {"name": "n", "defaultMode": 420, "optional": true, "items": [
            {"key": "gone", "path": "x"}, {"key": "k", "path": "deep/er", "mode": 0o400}]}}]);
    let mut bench = Bench::new(pod(volumes));
    bench.sync();
    bench.delete_config_map("m");
    bench.tell(config_map("n", 1, json!({"k": "v"})));
    bench.tell(secret("s", 1, &[("k", "v")]));
    bench.sync();
    assert!(bench.files_of("a").is_empty());
    assert_eq!(bench.files_of("d"), map(&[("deep/er", "400 v")]));
    assert_eq!(
        bench.messages(),
        [
            "MountVolume.SetUp failed for volume \"b\" : configmap references non-existent config key: gone",
            "MountVolume.SetUp failed for volume \"c\" : references non-existent secret key: gone",
        ]
    );
}

// CFG-005, CFG-011: an API server that does not answer is told in upstream's words, not waited for in silence.
#[test]
fn object_that_does_not_come_is_told_after_a_second() {
    let mut bench = Bench::new(pod(json!([{"name": "v", "configMap": {"name": "m", "defaultMode": 420}}])));
    bench.sync();
    assert!(bench.messages().is_empty());
    bench.wait(Duration::from_secs(1));
    bench.sync();
    let text = "MountVolume.SetUp failed for volume \"v\" : failed to sync configmap cache: timed out waiting for the condition";
    assert_eq!(bench.messages(), [text]);
}

// Edge of CFG-015 and VTY-009: a deleted object fails its refresh; the files stay and the pod stays ready.
#[test]
fn deleted_object_leaves_the_files_of_a_running_pod() {
    let mut bench = Bench::new(pod(json!([{"name": "v", "configMap": {"name": "m", "defaultMode": 420}}])));
    bench.sync();
    bench.tell(config_map("m", 1, json!({"a": "1"})));
    bench.settle();
    let before = bench.disk.clone();
    bench.delete_config_map("m");
    assert_eq!(bench.sync(), VolumesState::Ready);
    assert_eq!(bench.messages(), ["MountVolume.SetUp failed for volume \"v\" : configmap \"m\" not found"]);
    assert_eq!(bench.disk, before);
}

// VOL-020, VOL-021
#[test]
fn host_that_fails_is_asked_again_after_its_back_off_and_not_before() {
    let mut bench = Bench::new(pod(json!([{"name": "v", "emptyDir": {}}])));
    bench.sync();
    let first = bench.only();
    bench.end(first, false);
    assert_eq!(bench.messages(), ["MountVolume.SetUp failed for volume \"v\" : no space left on device"]);
    assert_eq!(bench.volumes.deadline(), Some(bench.now.mono + Duration::from_millis(500)));
    bench.sync();
    assert!(bench.in_flight.is_empty());
    bench.wait(Duration::from_millis(500));
    assert_eq!(bench.settle(), VolumesState::Ready);
}

// A refresh of which nobody knows whether it took effect is repeated, even if the object went back to what was written before.
#[test]
fn failed_refresh_is_repeated_even_if_the_object_went_back() {
    let mut bench = Bench::new(pod(json!([{"name": "v", "configMap": {"name": "m", "defaultMode": 420}}])));
    bench.sync();
    bench.tell(config_map("m", 1, json!({"a": "1"})));
    bench.settle();
    bench.tell(config_map("m", 2, json!({"a": "2"})));
    bench.sync();
    let refresh = bench.only();
    bench.end(refresh, false);
    bench.tell(config_map("m", 3, json!({"a": "1"})));
    assert_eq!(bench.sync(), VolumesState::Ready);
    bench.wait(Duration::from_millis(500));
    bench.sync();
    assert_eq!(bench.files_of("v"), map(&[("a", "644 1")]));
}

// VOL-004, VTY-006, VTY-017: what no container mounts is left alone; what needs no host is there at once.
#[test]
fn only_used_volumes_are_set_up_and_some_need_nothing() {
    let mut object = pod(json!([{"name": "h", "hostPath": {"path": "/var/log"}}, {"name": "i", "image": {"reference": "r"}}]));
    object["spec"]["volumes"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "unused", "secret": {"secretName": "none", "defaultMode": 420}}));
    let mut bench = Bench::new(object);
    assert_eq!(bench.sync(), VolumesState::Ready);
    assert!(bench.in_flight.is_empty());
    let mounted = bench.volumes.mounted(&bench.uid());
    assert_eq!(
        mounted["h"],
        MountedVolume { host_path: "/var/log".into(), plugin: Plugin::HostPath, name: "h".into(), read_only: false, group: None }
    );
    assert!(!mounted["h"].plugin.read_only() && !mounted["h"].plugin.managed());
    assert_eq!(mounted["i"].host_path, "");
    assert!(!mounted.contains_key("unused"));
}

// VTY-001, VTY-002, VTY-006: set up once, with the pod's fsGroup.
#[test]
fn directories_are_set_up_once_with_the_group_of_the_pod() {
    let volumes = json!([
        {"name": "e", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": "h", "hostPath": {"path": "/d", "type": "Directory"}}]);
    let mut object = pod(volumes);
    object["spec"]["securityContext"] = json!({"fsGroup": 2000});
    let mut bench = Bench::new(object);
    assert_eq!(bench.sync(), waiting(&["e", "h"]));
    let VolumeSetup::EmptyDir { medium, fs_group } = bench.setup_of("e") else { panic!("an emptyDir") };
    assert_eq!((medium, fs_group), (&EmptyDirMedium::Memory { size: Some(1 << 20) }, &Some(2000)));
    assert_eq!(bench.settle(), VolumesState::Ready);
    let issued = bench.issued;
    assert_eq!((bench.sync(), bench.issued), (VolumesState::Ready, issued));
}

// VTY-011: a token is for its user alone; fsGroup widens it on the host.
#[test]
fn token_is_private_to_the_user_that_all_containers_share() {
    let volume: Value = serde_json::from_str(API_ACCESS).unwrap();
    let mut object = pod(json!([volume]));
    object["spec"]["securityContext"] = json!({"runAsUser": 1000});
    let mut bench = Bench::new(object);
    bench.sync();
    bench.tell(config_map("kube-root-ca.crt", 1, json!({"ca.crt": "CA"})));
    let token = bench.only();
    bench.end(token, true);
    bench.sync();
    let VolumeSetup::Files { files, .. } = bench.setup_of("kube-api-access") else { panic!("files") };
    assert_eq!((files["token"].mode, files["token"].owner), (0o600, Some(1000)));
    assert_eq!((files["ca.crt"].mode, files["ca.crt"].owner), (0o644, None));
}

/// Ends the operation as one of which nobody knows whether it took effect, though it did.
fn lose_the_answer(bench: &mut Bench, id: ActionId) {
    let Some(Call::Host(call)) = bench.in_flight.remove(&id) else { panic!("a call of the host") };
    let Some(Owner::Volume(uid, volume)) = bench.ledger.take(id) else { panic!("a volume's") };
    bench.host(call);
    let outcome = Err(Failure::new(FailureKind::UnknownOutcome, "context deadline exceeded"));
    let _ = bench.with(|bench, out| bench.volumes.done(bench.now, &uid, &volume, id, outcome, out));
}

// VOL-001, VOL-015, VOL-022: what may be mounted does not count as mounted, is mounted again, and is taken away all the same.
#[test]
fn uncertain_volume_is_neither_counted_on_nor_forgotten() {
    let mut bench = Bench::new(pod(json!([{"name": "v", "emptyDir": {}}])));
    bench.sync();
    let first = bench.only();
    lose_the_answer(&mut bench, first);
    assert_eq!(bench.sync(), waiting(&["v"]));
    assert!(bench.volumes.mounted(&bench.uid()).is_empty());
    assert!(bench.wait(Duration::from_millis(500)));
    assert_eq!(bench.sync(), waiting(&["v"]));
    let second = bench.only();
    lose_the_answer(&mut bench, second);
    assert!(!bench.tear_down());
    let list = bench.only();
    bench.end(list, true);
    assert!(!bench.tear_down());
    let removal = bench.only();
    bench.end(removal, false);
    assert!(!bench.tear_down(), "a removal that failed leaves it uncertain");
    bench.wait(Duration::from_millis(500));
    assert!(!bench.tear_down());
    let removal = bench.only();
    bench.end(removal, true);
    assert!(bench.tear_down() && bench.disk.is_empty());
}

// VOL-002, VOL-019: volumes are told apart by pod and name; those of two pods neither wait for one another nor go together.
#[test]
fn volumes_of_the_same_name_in_two_pods_are_two() {
    let mut bench = Bench::new(pod(json!([{"name": "v", "emptyDir": {}}])));
    let first = Arc::clone(&bench.pod);
    let mut other = (*first).clone();
    other.metadata.uid = Some("other".into());
    let other = Arc::new(other);
    bench.sync();
    bench.pod = Arc::clone(&other);
    bench.sync();
    let pods = |bench: &Bench| -> Vec<PodUid> {
        let pod_of = |call: &Call| match call {
            Call::Host(HostCall::SetUpVolume { pod, .. }) => pod.clone(),
            other => panic!("{other:?}"),
        };
        bench.in_flight.values().map(pod_of).collect()
    };
    assert_eq!(pods(&bench), [PodUid::new("u"), PodUid::new("other")]);
    assert_eq!(bench.settle(), VolumesState::Ready);
    bench.pod = first;
    assert_eq!(bench.sync(), VolumesState::Ready);
    assert!(!bench.tear_down());
    assert!(bench.volumes.mounted(&PodUid::new("u")).is_empty());
    assert!(bench.volumes.mounted(&PodUid::new("other")).contains_key("v"));
}

// VOL-010: the failures of one pass are told together, and only as long as they last.
#[test]
fn volumes_that_cannot_be_are_named_together_until_they_can() {
    let claims = json!([{"name": "a", "fc": {}}, {"name": "b", "nfs": {"server": "s", "path": "/"}}]);
    let mut bench = Bench::new(pod(claims));
    let VolumesState::Failed { message } = bench.sync() else { panic!("it fails at once") };
    let cause = "volume \"a\" is of kind fc, which is not supported; volume \"b\" is of kind nfs, which is not supported";
    assert_eq!(message.split_once(": ").unwrap().1.split_once(": ").unwrap().1, cause);
    bench.pod = Arc::new(serde_json::from_value(pod(json!([]))).unwrap());
    assert_eq!(bench.sync(), VolumesState::Ready);
}

// VOL-012, VOL-008: what cannot be put in place is named; the others are set up all the same.
#[test]
fn unsupported_volume_is_named_and_does_not_hold_the_others() {
    let mut object = pod(json!([{"name": "data", "fc": {}}, {"name": "e", "emptyDir": {}}]));
    let mut bench = Bench::new(object.clone());
    let failed = |unmounted: &str, processed: &str, cause: &str| VolumesState::Failed {
        message: format!(
            "Unable to attach or mount volumes: unmounted volumes=[{unmounted}], unattached volumes=[], failed to process volumes=[{processed}]: {cause}"
        ),
    };
    let cause = "volume \"data\" is of kind fc, which is not supported";
    assert_eq!(bench.sync(), failed("data e", "data", cause));
    assert_eq!(bench.settle(), failed("data", "data", cause));
    object["spec"]["containers"][0]["volumeMounts"] = json!([]);
    object["spec"]["containers"][0]["volumeDevices"] = json!([{"name": "e", "devicePath": "/dev/x"}]);
    let mut bench = Bench::new(object);
    assert_eq!(bench.sync(), failed("e", "e", "volume e has volumeMode Filesystem, but is specified in volumeDevices"));
}

// VOL-006, VOL-026: waits for what is being set up, then removes what lies on the disk.
#[test]
fn teardown_waits_for_setups_in_flight_and_removes_what_is_there() {
    let mut bench =
        Bench::new(pod(json!([{"name": "e", "emptyDir": {}}, {"name": "h", "hostPath": {"path": "/d", "type": "Directory"}}])));
    bench.sync();
    let setups: Vec<ActionId> = bench.in_flight.keys().copied().collect();
    assert!(!bench.tear_down());
    assert_eq!(bench.in_flight.len(), 2);
    for id in setups {
        assert!(bench.end(id, true));
        assert!(!bench.tear_down());
    }
    let list = bench.only();
    assert!(bench.end(list, true));
    assert!(!bench.tear_down());
    let remove = bench.only();
    assert!(bench.end(remove, true));
    assert!(bench.tear_down() && bench.tear_down());
    assert!(bench.disk.is_empty() && bench.in_flight.is_empty());
    assert!(!bench.volumes.wants_teardown(&bench.uid()));
    let uid = bench.uid();
    bench.volumes.forget(&uid);
    assert!(bench.volumes.pods.is_empty());
}

// VOL-027, VOL-031: after a restart, or for a pod that nobody knows, the disk says what is left.
#[test]
fn volumes_of_an_unknown_pod_are_found_on_the_disk() {
    let mut bench = Bench::new(pod(json!([])));
    bench.disk.insert(VolumeDirectory { plugin: "kubernetes.io~secret".into(), volume: "s".into(), data: None }, 1);
    bench.disk.insert(VolumeDirectory { plugin: "kubernetes.io~empty-dir".into(), volume: "s".into(), data: None }, 1);
    for well in [false, true, false, true, true] {
        assert!(!bench.tear_down());
        let id = *bench.in_flight.keys().next().unwrap();
        assert!(bench.end(id, well));
        bench.tear_down();
        if !well {
            assert_eq!(bench.volumes.deadline(), Some(bench.now.mono + Duration::from_millis(500)));
            bench.wait(Duration::from_millis(500));
        }
    }
    assert!(bench.tear_down());
    assert!(bench.disk.is_empty());
}

#[derive(Clone, Debug)]
enum Happening {
    End { which: usize, well: bool },
    Tell { which: u8, version: u32 },
    Wait { millis: u64 },
    Sync,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (0_usize..8, prop::bool::weighted(0.5)).prop_map(|(which, well)| Happening::End { which, well }),
        3 => (0_u8..4, 1_u32..4).prop_map(|(which, version)| Happening::Tell { which, version }),
        2 => (1_u64..5000).prop_map(|millis| Happening::Wait { millis }),
        3 => Just(Happening::Sync),
    ]
}

fn everything() -> Value {
    let access: Value = serde_json::from_str(API_ACCESS).unwrap();
    pod(json!([
        access,
        {"name": "cm", "configMap": {"name": "m", "defaultMode": 420}},
        {"name": "secret", "secret": {"secretName": "s", "defaultMode": 420}},
        {"name": "info", "downwardAPI": {"defaultMode": 420, "items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "host", "hostPath": {"path": "/d", "type": "DirectoryOrCreate"}}]))
}

/// True if the pod is to be woken.
fn tell(bench: &mut Bench, which: u8, version: u32) -> bool {
    let data = format!("v{version}");
    match which {
        0 => bench.tell(config_map("kube-root-ca.crt", version, json!({"ca.crt": data}))),
        1 => bench.tell(config_map("m", version, json!({"k": data}))),
        2 => bench.tell(secret("s", version, &[("k", &data)])),
        _ => {
            bench.delete_config_map("m");
            true
        }
    }
}

/// Whatever happened: at most one operation for a volume, and none for one that failed just now.
fn check(bench: &Bench, failed_at: &BTreeMap<String, Mono>) {
    let mut names = BTreeSet::new();
    for call in bench.in_flight.values() {
        if let Call::Host(HostCall::SetUpVolume { volume, .. }) = call {
            assert!(names.insert(volume.clone()), "{volume} is being set up twice");
            let calm = failed_at.get(volume).is_none_or(|at| bench.now.mono.since(*at) >= Duration::from_millis(500));
            assert!(calm, "{volume} is repeated before its back-off ends");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

    // Invariants 3 and 17 of the reference: any order of completions, failures and changes ends in volumes that hold what their
    // sources say, after which nothing more is issued; and then everything goes.
    #[test]
    fn volumes_converge_whatever_happens_first(happenings in prop::collection::vec(happening(), 0..60)) {
        let mut bench = Bench::new(everything());
        bench.sync();
        let mut failed_at = BTreeMap::new();
        for happening in happenings {
            match happening {
                Happening::End { which, well } => {
                    if let Some((id, call)) = bench.in_flight.iter().nth(which).map(|(id, call)| (*id, call.clone())) {
                        if let (Call::Host(HostCall::SetUpVolume { volume, .. }), false) = (call, well) {
                            failed_at.insert(volume, bench.now.mono);
                        }
                        if bench.end(id, well) {
                            bench.sync();
                        }
                    }
                }
                Happening::Tell { which, version } => {
                    tell(&mut bench, which, version);
                }
                Happening::Wait { millis } => {
                    bench.wait(Duration::from_millis(millis));
                }
                Happening::Sync => {
                    let mounted = bench.volumes.mounted(&bench.uid()).clone();
                    bench.sync();
                    let still = bench.volumes.mounted(&bench.uid());
                    prop_assert!(mounted.iter().all(|(name, volume)| still.get(name) == Some(volume)));
                }
            }
            check(&bench, &failed_at);
        }
        for which in 0..3 {
            tell(&mut bench, which, 9);
        }
        // One wait ends all back-offs: tokens' at most 90 s, volumes' at most 122 s.
        bench.settle();
        bench.wait(Duration::from_secs(123));
        prop_assert_eq!(bench.settle(), VolumesState::Ready);
        let (issued, disk) = (bench.issued, bench.disk.clone());
        bench.sync();
        prop_assert_eq!(bench.issued, issued);
        // What is there is what a pod that begins now would be given, but for its token.
        let mut fresh = Bench::new(everything());
        fresh.sync();
        for which in 0..3 {
            tell(&mut fresh, which, 9);
        }
        fresh.settle();
        let access = VolumeDirectory { plugin: "kubernetes.io~projected".into(), volume: "kube-api-access".into(), data: None };
        let without = |disk: &BTreeMap<VolumeDirectory, u64>| {
            let mut disk = disk.clone();
            disk.remove(&access).map(|_| disk)
        };
        prop_assert_eq!(without(&disk), without(&fresh.disk));
        for _ in 0..32 {
            if bench.tear_down() {
                break;
            }
            if let Some(id) = bench.in_flight.keys().next().copied() {
                bench.end(id, true);
            }
        }
        prop_assert!(bench.tear_down() && bench.disk.is_empty());
    }

    // Level-triggered, but never left asleep: syncing the pod only when something wakes it is enough, in whatever order the
    // objects come and whichever operations fail at first.
    #[test]
    fn being_woken_is_enough_to_become_ready(
        outcomes in prop::collection::vec(prop::bool::weighted(0.4), 0..40),
        picks in prop::collection::vec(0_usize..8, 200),
        told_at in prop::collection::vec(0_usize..60, 3),
    ) {
        let mut bench = Bench::new(everything());
        let mut outcomes = outcomes.into_iter();
        let (mut state, mut dirty, mut trouble_ended) = (bench.sync(), false, Mono::ZERO);
        for (step, pick) in picks.into_iter().enumerate() {
            for (which, _) in (0_u8..).zip(&told_at).filter(|(_, at)| **at == step) {
                dirty |= tell(&mut bench, which, 9);
                trouble_ended = bench.now.mono;
            }
            if dirty {
                (state, dirty) = (bench.sync(), false);
            }
            let in_flight = bench.in_flight.len();
            if in_flight > 0 {
                let id = *bench.in_flight.keys().nth(pick % in_flight).unwrap();
                let well = outcomes.next().unwrap_or(true);
                trouble_ended = if well { trouble_ended } else { bench.now.mono };
                dirty |= bench.end(id, well);
            } else if state != VolumesState::Ready && let Some(at) = bench.deadline() {
                dirty |= bench.wait(at.since(bench.now.mono));
            }
        }
        prop_assert_eq!(state, VolumesState::Ready);
        prop_assert!(bench.now.mono.since(trouble_ended) <= Duration::from_secs(122));
    }
}

// VOL-020, VTY-009: a megabyte under many names. Upstream writes all of them, as many volumes at once as there are.
#[test]
fn volumes_of_much_are_written_a_few_at_a_time_and_read_once() {
    let items: Vec<Value> = (0..25).map(|n| json!({"key": "k", "path": format!("f{n}")})).collect();
    let one = |n: usize| json!({"name": format!("v{n}"), "configMap": {"name": "m", "defaultMode": 420, "items": items}});
    let mut bench = Bench::new(pod((0..5).map(one).collect()));
    bench.sync();
    bench.tell(config_map("m", 1, json!({"k": "x".repeat(1 << 20)})));
    bench.sync();
    assert_eq!(bench.in_flight.len(), 3);
    let first = *bench.in_flight.keys().next().unwrap();
    assert!(bench.end(first, true));
    bench.sync();
    assert_eq!(bench.in_flight.len(), 3);
    assert_eq!(bench.settle(), VolumesState::Ready);
    let layout = bench.volumes.pods[&bench.uid()].layout.clone().unwrap();
    // What has been read is not read again, however often the pod is synced.
    (0..5000).for_each(|_| assert_eq!(bench.sync(), VolumesState::Ready));
    assert!(Arc::ptr_eq(&layout, bench.volumes.pods[&bench.uid()].layout.as_ref().unwrap()));
}
