//! A planted panic at every place of the core, one run each: the pod is left alone and is well in the end, the others are served.

use std::collections::BTreeMap;
use std::time::Duration;

use kubelet::ids::PodUid;
use kubelet::work::Point;
use serde_json::{Value, json};

use super::Poison;
use crate::api::resource::named;
use crate::api::write::DeleteOptions;
use crate::cluster::Cluster as _;
use crate::liveness::{not_at_rest, unsettled};
use crate::scenario::expect::condition;
use crate::scenario::run::{apply, poison_pod, world_for};
use crate::scenario::schema::NodeSpec;
use crate::world::World;

/// How long a poisoned pod may take: its pauses, and what it does.
const WITHIN: Duration = Duration::from_secs(120);
/// How long another pod may take.
const OTHERS_WITHIN: Duration = Duration::from_secs(20);

/// A pod that comes to every place: it is probed, has volumes of all sorts, a token, an image that is pulled late, and a life of ends.
fn victim() -> Value {
    let token = json!({"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}});
    json!({"kind": "Pod", "metadata": {"name": "victim", "annotations": {"sim.keelson.dev/main": "exit=1@3s"}}, "spec": {
        "terminationGracePeriodSeconds": 2,
        "volumes": [
            {"name": "empty", "emptyDir": {}},
            {"name": "claimed", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "token", "projected": {"sources": [token]}},
        ],
        "containers": [
            {"name": "main", "image": "busybox:1.36",
                "volumeMounts": [{"name": "empty", "mountPath": "/e"}, {"name": "claimed", "mountPath": "/c"}, {"name": "token", "mountPath": "/t"}],
                "readinessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1}},
            {"name": "late", "image": "registry.example/late:1"},
        ],
    }})
}

/// Not on this pod's way: a pull that failed, a pod that only the runtime knows, a step without a call, a token that is renewed.
const NEVER: [&str; 4] = ["image-due", "pod-adopted", "steps-ended", "token-due"];

fn plain(name: &str) -> Value {
    json!({"kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [{"name": "main", "image": "busybox:1.36"}]}})
}

fn world() -> World {
    let node = NodeSpec::default();
    let mut world = world_for(&node, 0);
    world.with_host(|host| host.csi.starts("d.example.com", true));
    let (modes, driver) = (json!(["ReadWriteOnce"]), "d.example.com");
    let objects = [
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": driver}, "spec": {"attachRequired": false}}),
        json!({"kind": "PersistentVolume", "metadata": {"name": "pv"}, "spec": {
            "accessModes": modes, "volumeMode": "Filesystem", "claimRef": {"namespace": "default", "name": "data"},
            "csi": {"driver": driver, "volumeHandle": "vol"}}}),
        json!({"kind": "PersistentVolumeClaim", "metadata": {"name": "data"}, "spec": {"accessModes": modes}}),
        plain("before"),
    ];
    for object in objects {
        apply(&mut world, object).unwrap();
    }
    world.run_until(Duration::from_secs(5));
    world
}

fn uid(world: &World, name: &str) -> Option<String> {
    world.api.store.get("pods", "default", name).map(|pod| pod["metadata"]["uid"].as_str().unwrap().to_owned())
}

/// All of the world but the poisoned pod is as it should be.
fn others_are_served(world: &World) -> Vec<String> {
    let of_victim = |how: &str| how.contains("victim") || how.contains("claimed");
    let view = crate::scenario::run::view(world);
    unsettled(view).iter().map(ToString::to_string).filter(|how| !of_victim(how)).collect()
}

/// Nothing but the panics goes wrong in these runs: the node is Ready at every moment.
fn node_is_ready(world: &World) -> bool {
    world.witness.first_broken().is_none()
        && world.api.store.get("nodes", "", "n1").and_then(|node| condition(node, "Ready")) == Some("True")
}

fn runs(world: &mut World, lasts: Duration, what: &str) {
    let until = world.elapsed() + lasts;
    let stopped = world.run_while(until, node_is_ready);
    assert!(!stopped, "{what}: {:?}, node ready: {}", world.witness.first_broken(), node_is_ready(world));
}

/// One run: the panics are planted, and a whole life of the pod follows, with another pod beside it. Answers how often they struck.
fn run(plant: impl Fn(&mut World, &str), what: &str) -> u64 {
    let mut world = world();
    apply(&mut world, victim()).unwrap();
    let victim = uid(&world, "victim").unwrap();
    plant(&mut world, &victim);
    apply(&mut world, plain("beside")).unwrap();
    runs(&mut world, OTHERS_WITHIN, what);
    assert_eq!(others_are_served(&world), Vec::<String>::new(), "{what}");
    runs(&mut world, WITHIN, what);
    let healed = world.poisons.list.iter().all(|poison| poison.left.load(std::sync::atomic::Ordering::Relaxed) == 0);
    let uncalled = world.poisons.struck() == 0;
    if healed || uncalled {
        let pod = world.api.store.get("pods", "default", "victim").unwrap();
        assert!(pod["status"]["reason"].is_null(), "{what}: {}", pod["status"]);
    }
    let now = world.now();
    world.api.delete(now, named("pods"), "default", "victim", &DeleteOptions::default()).unwrap();
    apply(&mut world, plain("after")).unwrap();
    runs(&mut world, OTHERS_WITHIN, what);
    assert_eq!(others_are_served(&world), Vec::<String>::new(), "{what}");
    runs(&mut world, WITHIN, what);
    world.poisons.heal();
    runs(&mut world, Duration::from_secs(400), what);
    assert_eq!(not_at_rest(crate::scenario::run::view(&world)), Vec::<String>::new(), "{what}");
    world.poisons.struck()
}

fn planted(at: Option<Point>, times: u32, skip: u32, kills: bool) -> impl Fn(&mut World, &str) {
    move |world, uid| {
        let poison = Poison::new(PodUid::new(uid), at, times).after(skip);
        poison_pod(world, uid, if kills { poison.that_kills() } else { poison });
    }
}

#[test]
fn panic_at_every_place_costs_the_pod_alone() {
    let mut struck: BTreeMap<&str, u64> = BTreeMap::new();
    for point in Point::ALL {
        for (times, skip) in [(1, 0), (1, 3), (2, 1)] {
            let what = format!("{} {times} times after {skip}", point.as_str());
            *struck.entry(point.as_str()).or_default() += run(planted(Some(point), times, skip, false), &what);
        }
    }
    let never: Vec<&str> = struck.iter().filter(|(_, times)| **times == 0).map(|(at, _)| *at).collect();
    assert_eq!(never, NEVER);
}

/// One run in which the whole process dies at a place, twice at most, and after it was come to so often. Answers how often it did.
fn death(point: Point, skip: u32) -> u64 {
    let what = format!("death at {} after {skip}", point.as_str());
    let mut world = world();
    apply(&mut world, victim()).unwrap();
    let victim = uid(&world, "victim").unwrap();
    planted(Some(point), 2, skip, true)(&mut world, &victim);
    apply(&mut world, plain("beside")).unwrap();
    runs(&mut world, OTHERS_WITHIN, &what);
    assert_eq!(others_are_served(&world), Vec::<String>::new(), "{what}");
    runs(&mut world, WITHIN, &what);
    let now = world.now();
    world.api.delete(now, named("pods"), "default", "victim", &DeleteOptions::default()).unwrap();
    runs(&mut world, Duration::from_secs(400), &what);
    assert_eq!(not_at_rest(crate::scenario::run::view(&world)), Vec::<String>::new(), "{what}");
    world.poisons.struck()
}

#[test]
fn death_at_every_place_costs_the_pod_alone() {
    // Some places are come to but once.
    let never = Point::ALL.into_iter().filter(|point| death(*point, 1) == 0 && death(*point, 0) == 0);
    let mut never: Vec<&str> = never.map(Point::as_str).collect();
    never.sort_unstable();
    assert_eq!(never, NEVER);
}

#[test]
fn panics_without_end_cost_little_and_end_with_their_cause() {
    for point in [None, Some(Point::Plan), Some(Point::Status), Some(Point::ProbeDue), Some(Point::CallEnded), Some(Point::Forget)]
    {
        let what = format!("for ever at {point:?}");
        let struck = run(planted(point, u32::MAX, 0, false), &what);
        assert!((1..80).contains(&struck), "{what}: {struck} panics");
    }
}

#[test]
fn two_poisoned_pods_cost_no_third_one() {
    let struck = run(
        |world, uid| {
            planted(Some(Point::Report), 2, 0, false)(world, uid);
            let before = super::tests::uid(world, "before").unwrap();
            planted(None, 2, 0, false)(world, &before);
        },
        "two at once",
    );
    assert_eq!(struck, 4);
}

// A run whose panic never struck has shown nothing, and does not hold.
#[test]
fn scenario_whose_planted_panic_never_strikes_fails() {
    let text = |at: &str| {
        format!(
            "about: a\nstages: [model]\nsteps:\n- apply: [{{kind: Pod, metadata: {{name: web}}, spec: {{containers: \
             [{{name: main, image: 'busybox:1.36'}}]}}}}]\n  poison: {{pod: web, at: {at}, times: 1}}\n- wait: 60s\n"
        )
    };
    let verdict = |at: &str| {
        let scenario = crate::scenario::Scenario::parse("poison", &text(at)).unwrap();
        crate::scenario::run::run(&scenario, 0, |_| {}).0
    };
    assert!(verdict("plan").held(), "{}", verdict("plan"));
    assert!(verdict("token-due").to_string().contains("never struck"), "{}", verdict("token-due"));
}
