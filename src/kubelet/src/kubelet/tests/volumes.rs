//! Volumes, and the objects that they are made from, in the life of a pod.

use super::*;
use crate::sensitive::Sensitive;

fn set_up(call: &Call) -> bool {
    matches!(call, Call::Host(HostCall::SetUpVolume { .. }))
}

fn torn_down(call: &Call) -> bool {
    matches!(call, Call::Host(HostCall::TearDownVolume { .. }))
}

fn secret_watched(call: &Call) -> bool {
    matches!(call, Call::Api(ApiCall::Watch(WatchKey::Secret { .. })))
}

fn secret_unwatched(call: &Call) -> bool {
    matches!(call, Call::Api(ApiCall::Unwatch(WatchKey::Secret { .. })))
}

fn cgroup_made(call: &Call) -> bool {
    matches!(call, Call::Host(HostCall::EnsureCgroup { .. }))
}

fn container_stopped(call: &Call) -> bool {
    matches!(call, Call::Cri(CriCall::StopContainer { .. }))
}

fn directory(volume: &str) -> VolumeDirectory {
    VolumeDirectory { plugin: "kubernetes.io~empty-dir".to_owned(), volume: volume.to_owned(), data: None }
}

/// A pod that mounts that volume, which is called `data`.
fn mounting(name: &str, mut volume: Value) -> Value {
    let mut pod = pod(name);
    volume["name"] = json!("data");
    pod["spec"]["volumes"] = json!([volume]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    pod
}

fn with_secret() -> Value {
    mounting("web", json!({"secret": {"secretName": "s", "defaultMode": 420}}))
}

fn with_empty_dir() -> Value {
    mounting("web", json!({"emptyDir": {}}))
}

fn deleted(mut pod: Value) -> Value {
    pod["metadata"]["deletionTimestamp"] = json!("1970-01-01T00:00:30Z");
    pod["metadata"]["deletionGracePeriodSeconds"] = json!(30);
    pod
}

impl Bench {
    /// An agent whose node is known and whose pods are not.
    fn begun() -> Self {
        let mut bench = Self::new(Config::new("n1"));
        bench.handle(Event::Started);
        bench.list_node();
        bench
    }

    /// The secret does not exist.
    fn list_no_secret(&mut self) {
        let key = WatchKey::Secret { namespace: "default".to_owned(), name: "s".to_owned() };
        self.handle(Event::WatchListed { key, objects: vec![] });
    }

    fn list_secret(&mut self) {
        let secret =
            json!({"metadata": {"name": "s", "namespace": "default", "uid": "s", "resourceVersion": "1"}, "data": {"k": "dg=="}});
        let object = Object::Secret(Sensitive::new(Arc::new(serde_json::from_value(secret).unwrap())));
        let key = WatchKey::Secret { namespace: "default".to_owned(), name: "s".to_owned() };
        self.handle(Event::WatchListed { key, objects: vec![object] });
    }

    /// Where the first such call is among all that were made.
    fn first(&self, is: fn(&Call) -> bool) -> usize {
        self.calls.iter().position(is).expect("there is such a call")
    }
}

// CFG-002: once the network is there, and before the cgroup and the volumes.
#[test]
fn objects_of_a_pod_are_watched_when_it_may_begin() {
    let mut bench = Bench::new(Config::new("n1"));
    bench.network_ready = false;
    bench.handle(Event::Started);
    bench.list_node();
    bench.list_pods(&[with_secret()]);
    bench.pass(60);
    assert_eq!((bench.count(secret_watched), bench.count(cgroup_made), bench.count(set_up)), (0, 0, 0));
    bench.network_ready = true;
    bench.pass(6);
    assert_eq!(bench.count(secret_watched), 1);
    assert!(bench.first(secret_watched) < bench.first(cgroup_made));
    assert_eq!(bench.count(set_up), 0, "there is nothing to write yet");
    bench.list_secret();
    assert_eq!(bench.count(set_up), 1);
}

// CFG-002: what only a pod that is to stop refers to is not asked for.
#[test]
fn pod_that_is_to_stop_has_nothing_watched() {
    let mut bench = Bench::begun();
    bench.running("web");
    bench.cgroups.insert("/kubepods/besteffort/podweb".to_owned());
    bench.list_pods(&[deleted(with_secret())]);
    bench.pass(60);
    assert_eq!(bench.changes(), ["StopContainer", "StopPodSandbox"]);
    assert_eq!(bench.count(secret_watched), 0);
}

// CFG-002: and what a pod refers to is there for as long as its volumes are.
#[test]
fn objects_of_a_pod_are_watched_until_its_volumes_are_gone() {
    let mut bench = Bench::begun();
    bench.sandboxes_fail = true;
    bench.list_pods(&[with_secret()]);
    bench.pass(1);
    bench.list_secret();
    bench.volumes_are_busy = true;
    bench.list_pods(&[deleted(with_secret())]);
    bench.pass(30);
    assert!(bench.count(torn_down) > 0);
    assert_eq!(bench.count(secret_unwatched), 0);
    bench.volumes_are_busy = false;
    bench.pass(130);
    assert_eq!(bench.count(secret_unwatched), 1);
}

// VOL-003: nobody waits for a next pass: what can be mounted is mounted in the moment in which it can.
#[test]
fn volume_is_set_up_at_once() {
    let mut bench = Bench::begun();
    bench.list_pods(&[]);
    bench.pass(30);
    let before = bench.now;
    bench.list_pods(&[with_empty_dir()]);
    assert_eq!(bench.count(set_up), 1, "without a timer");
    assert!(bench.now.since(before) < Duration::from_millis(100));
}

// VOL-003, VOL-014: what an earlier life put in place is taken over: looked at again, and not taken away under the container.
#[test]
fn new_life_takes_over_the_volumes_of_what_runs() {
    let mut bench = Bench::begun();
    bench.running("web");
    bench.cgroups.insert("/kubepods/besteffort/podweb".to_owned());
    bench.pod_dirs = vec![PodUid::new("web")];
    bench.volumes.insert(PodUid::new("web"), [directory("data")].into());
    bench.list_pods(&[with_empty_dir()]);
    bench.pass(120);
    assert_eq!((bench.count(set_up), bench.count(torn_down), bench.count(container_stopped)), (1, 0, 0));
}

// VOL-005, VOL-014, NODE-261: no volume is taken away before every source of pods has spoken: until then nobody knows whose it is.
#[test]
fn no_volume_goes_before_every_source_has_spoken() {
    let mut bench = Bench::begun();
    bench.pod_dirs = vec![PodUid::new("gone")];
    bench.volumes.insert(PodUid::new("gone"), [directory("data")].into());
    bench.pass(300);
    assert_eq!(bench.count(torn_down), 0);
    bench.list_pods(&[with_empty_dir()]);
    bench.pass(60);
    assert_eq!(bench.count(torn_down), 1);
    let removed = |call: &Call| matches!(call, Call::Host(HostCall::RemovePodDir { pod }) if pod.as_str() == "gone");
    assert!(bench.first(torn_down) < bench.first(removed), "the directory goes after what is in it");
}

// VOL-005, VOL-014: a pod that is to stop gets no volumes any more, and keeps those that it has until nothing of it runs.
#[test]
fn volumes_of_a_pod_that_is_to_stop_outlive_its_containers() {
    let mut bench = Bench::begun();
    bench.running("web");
    bench.volumes.insert(PodUid::new("web"), [directory("data")].into());
    bench.list_pods(&[deleted(with_empty_dir())]);
    bench.pass(60);
    assert_eq!(bench.count(set_up), 0);
    assert!(bench.first(container_stopped) < bench.first(torn_down));
}

// POD-104: an image is not asked for before its pull secrets are here or known to be missing; the latter is told, and then it is tried.
#[test]
fn image_waits_for_its_pull_secrets_and_for_no_longer() {
    let looked_for = |call: &Call| matches!(call, Call::Cri(CriCall::ImageStatus { .. }));
    let told = |call: &Call| {
        matches!(call, Call::Api(ApiCall::CreateEvent(event))
        if event.reason.as_deref() == Some("FailedToRetrieveImagePullSecret") && event.message.as_deref()
            == Some("Unable to retrieve some image pull secrets (s); attempting to pull the image may not succeed."))
    };
    for exists in [true, false] {
        let mut bench = Bench::begun();
        bench.running("web");
        bench.seen.get_mut(&PodUid::new("web")).unwrap().containers.clear();
        let mut pod = pod("web");
        pod["spec"]["imagePullSecrets"] = json!([{"name": "s"}, {"name": ""}]);
        bench.list_pods(&[pod]);
        assert_eq!((bench.count(secret_watched), bench.count(looked_for)), (1, 0));
        if exists {
            bench.list_secret();
        } else {
            bench.list_no_secret();
        }
        assert_eq!(bench.count(looked_for), 1);
        bench.pass(1);
        assert_eq!(bench.count(told), usize::from(!exists));
    }
}
