//! A planted panic at every place of the core, with the agent as it is around it: the wires, the executor, the server, the mark on the disk.
//! Upstream: staging/src/k8s.io/apimachinery/pkg/util/runtime/runtime.go (HandleCrash).
//! Differs: nothing on purpose.

use kubelet::work::Point;
use model::cluster::Cluster as _;
use model::scenario::Scenario;
use model::scenario::run::follow;

use super::*;

/// A pod that comes to every place (volumes of all sorts, a token, a probe, an image that comes late, a life of ends), one beside it, and
/// one after it. The node is Ready and the others are served at every moment; in the end the pod is well, and then gone.
const LIFE: &str = "
about: A panic for one pod costs that pod alone.
stages: [sim]
steps:
- driver: {name: d.example.com}
  apply:
  - {apiVersion: storage.k8s.io/v1, kind: CSIDriver, metadata: {name: d.example.com}, spec: {attachRequired: false}}
  - {kind: PersistentVolume, metadata: {name: pv}, spec: {accessModes: [ReadWriteOnce], volumeMode: Filesystem,
     claimRef: {namespace: default, name: data}, csi: {driver: d.example.com, volumeHandle: vol}}}
  - {kind: PersistentVolumeClaim, metadata: {name: data}, spec: {accessModes: [ReadWriteOnce]}}
  - {kind: Pod, metadata: {name: before}, spec: {containers: [{name: main, image: 'busybox:1.36'}]}}
  expect: {within: 20s, node-ready: true, pods: [{name: before, ready: true}]}
- apply:
  - kind: Pod
    metadata: {name: victim, annotations: {sim.keelson.dev/main: 'exit=1@3s'}}
    spec:
      terminationGracePeriodSeconds: 2
      volumes:
      - {name: empty, emptyDir: {}}
      - {name: claimed, persistentVolumeClaim: {claimName: data}}
      - {name: token, projected: {sources: [{serviceAccountToken: {path: token, expirationSeconds: 3600}}]}}
      containers:
      - name: main
        image: 'busybox:1.36'
        volumeMounts: [{name: empty, mountPath: /e}, {name: claimed, mountPath: /c}, {name: token, mountPath: /t}]
        readinessProbe: {exec: {command: ['true']}, periodSeconds: 1}
      - {name: late, image: 'registry.example/late:1'}
  poison: POISON
- apply: [{kind: Pod, metadata: {name: beside}, spec: {containers: [{name: main, image: 'busybox:1.36'}]}}]
  expect: {within: BESIDE, node-ready: true, pods: [{name: beside, ready: true}, {name: before, ready: true}]}
- holds: {within: 30s, NODE pods: [{name: beside, ready: true, starts: 1}, {name: before, ready: true, starts: 1}]}
- expect: {within: 90s, pods: [{name: victim, phase: Running}]}
- delete: {name: victim}
  apply: [{kind: Pod, metadata: {name: after}, spec: {containers: [{name: main, image: 'busybox:1.36'}]}}]
  expect: {within: 20s, node-ready: true, pods: [{name: after, ready: true}]}
- expect: {within: 300s, settled: true, pods: [{name: victim, gone: true}, {name: before, ready: true, starts: 1}, {name: beside, ready: true, starts: 1}]}
";

/// How a run with that poison ends.
fn life(poison: &str, kills: bool) -> (Outcome, u64) {
    // An agent that dies comes back after its pause; meanwhile nobody is served.
    let (beside, node) = if kills { ("60s", "") } else { ("20s", "node-ready: true,") };
    let text = LIFE.replace("POISON", poison).replace("BESIDE", beside).replace("NODE", node);
    let scenario = Scenario::parse("planted", &text).unwrap();
    let struck = std::sync::atomic::AtomicU64::new(0);
    let outcome = alone(&scenario.node, 1, |cluster| {
        let verdict = follow(cluster, &scenario);
        cluster.with_poisons(|poisons| struck.store(poisons.struck(), std::sync::atomic::Ordering::Relaxed));
        verdict
    });
    (outcome, struck.into_inner())
}

/// Whether all places are asked for (`KEELSON_PLANTED=all`), each with a panic and a death: a few minutes. Otherwise it is one in three.
fn all_are_asked_for() -> bool {
    std::env::var("KEELSON_PLANTED").is_ok_and(|which| which == "all")
}

/// Where, after how many times, and whether the whole process dies of it.
fn places() -> Vec<(Point, u32, bool)> {
    let all = all_are_asked_for();
    let mut places = Vec::new();
    for (number, point) in Point::ALL.into_iter().enumerate().filter(|(number, _)| all || number % 3 == 0) {
        // The first few are come to once.
        let skip = u32::from(number % 2 == 0 && number > 3);
        places.push((point, skip, false));
        if all || number % 9 == 0 {
            places.push((point, skip, true));
        }
    }
    places
}

// Issue 10: the same in stage `model` is `model::poison::tests`.
#[test]
fn panic_or_death_at_every_place_costs_the_pod_alone() {
    let (mut failed, mut struck) = (Vec::new(), std::collections::BTreeMap::<&str, u64>::new());
    for (point, skip, kills) in places() {
        let poison = format!("{{pod: victim, at: {}, times: 2, skip: {skip}, kills: {kills}}}", point.as_str());
        let (outcome, times) = life(&poison, kills);
        *struck.entry(point.as_str()).or_default() += times;
        if !outcome.verdict.held() {
            failed.push(format!("{poison}: {}", outcome.verdict));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    let never: Vec<&str> = struck.iter().filter(|(_, times)| **times == 0).map(|(at, _)| *at).collect();
    // Not on this pod's way, as in stage `model`.
    let mut of_others = vec!["image-due", "pod-adopted", "steps-ended", "token-due"];
    of_others.retain(|at| struck.contains_key(at));
    assert_eq!(never, of_others);
}
