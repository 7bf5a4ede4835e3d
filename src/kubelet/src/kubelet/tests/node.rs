//! What pods are judged by while nobody has made the Node, and the groups that they lie in.

use super::starts::made;
use super::*;

/// A bench without an API server, with one manifest.
pub(super) fn standalone(node: impl FnOnce(&mut Config), spec: Value) -> Bench {
    let mut config = Config::new("n1");
    config.node.standalone = true;
    config.static_pods.path = Some("/manifests".to_owned());
    node(&mut config);
    let mut bench = Bench::new(config);
    let manifest = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "uid": "web"}, "spec": spec});
    let contents = Ok(manifest.to_string().into_bytes());
    bench.manifests = vec![Manifest { path: "/manifests/web.json".to_owned(), contents }];
    bench
}

// NODE-002, NODE-160, NODE-162: kubelet_nodecache.go (getCachedNode), kubelet_getters.go (GetNode): without a Node of the API server the one
// that would be registered counts, with what the runtime says that it can.
#[test]
fn static_pods_of_a_node_that_nobody_has_are_judged_by_the_node_that_would_be_made() {
    let strict = json!({
        "containers": [{"name": "main", "image": "busybox"}], "securityContext": {"supplementalGroupsPolicy": "Strict"},
    });
    let refused = |bench: &Bench| bench.kubelet.workers.is_empty();
    for (supported, silent) in [(true, false), (false, false), (true, true)] {
        let mut bench = standalone(|_| {}, strict.clone());
        bench.supplemental_groups = supported;
        bench.runtime_silent = silent;
        bench.handle(Event::Started);
        bench.pass(30);
        // Before the runtime has said what it can, nobody is judged.
        assert_eq!(bench.kubelet.pods.iter().count(), usize::from(!silent));
        bench.runtime_silent = false;
        bench.pass(30);
        assert_eq!((bench.kubelet.pods.iter().count(), refused(&bench)), (1, !supported), "{supported} {silent}");
    }
    for (zone, expected) in [("a", false), ("b", true)] {
        let wants = json!({"containers": [{"name": "main", "image": "busybox"}], "nodeSelector": {"zone": "b"}});
        let labelled = |config: &mut Config| {
            config.node.labels.insert("zone".to_owned(), zone.to_owned());
        };
        let mut bench = standalone(labelled, wants);
        bench.handle(Event::Started);
        bench.pass(30);
        assert_eq!(!refused(&bench), expected, "{zone}");
    }
}

// NODE-162: a life that begins while there is no API server stops nothing that it would run.
#[test]
fn static_pod_that_runs_is_not_refused_for_want_of_a_node() {
    let mut bench = standalone(
        |config| config.node.standalone = false,
        json!({"containers": [{"name": "main", "image": "busybox"}], "securityContext": {"supplementalGroupsPolicy": "Strict"}}),
    );
    bench.supplemental_groups = true;
    bench.handle(Event::Started);
    bench.pass(1);
    let uid = bench.kubelet.workers.keys().next().expect("it was admitted").clone();
    let mut next = standalone(|config| config.node.standalone = false, json!({}));
    next.manifests = bench.manifests;
    next.supplemental_groups = true;
    next.running(uid.as_str());
    next.handle(Event::Started);
    next.pass(60);
    // The bench's container is of another spec, so it is made anew; the pod goes on.
    assert!(next.kubelet.workers[&uid].termination.is_none());
    assert_eq!(next.changes().last(), Some(&"RunPodSandbox"));
}

// NET-006: kubelet_getters.go (getHostIPsAnyWay) makes the Node anew, its addresses included, whenever a pod needs them while nobody has
// made it: an agent that is up before its network learns of it, without an API server, with one that is away, and as one that does not
// register itself.
#[test]
fn static_pod_that_needs_the_nodes_address_starts_once_there_is_one() {
    for (alone, register) in [(true, true), (false, false), (false, true)] {
        let env = json!([{"name": "IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.hostIP"}}}]);
        let without = |config: &mut Config| (config.node.standalone, config.node.register) = (alone, register);
        let mut bench = standalone(without, json!({"containers": [{"name": "main", "image": "busybox", "env": env}]}));
        bench.image = Some(Some(Image { id: "sha256:1".to_owned(), size: 1, ..Image::default() }));
        bench.running("web");
        bench.seen.get_mut(&PodUid::new("web")).unwrap().containers.clear();
        bench.handle(Event::Started);
        bench.pass(60);
        let uid = bench.kubelet.workers.keys().next().expect("it was admitted").clone();
        let status = bench.kubelet.parts.statuses.status(&uid).unwrap();
        let waiting = status.container_statuses.as_ref().unwrap()[0].state.as_ref().unwrap().waiting.as_ref().unwrap();
        assert_eq!(waiting.reason.as_deref(), Some("CreateContainerConfigError"), "{alone} {register}");
        assert!(made(&bench).is_empty());
        bench.address = Some("10.0.0.5");
        bench.pass(6);
        let ip = made(&bench)[0].envs.iter().find(|variable| variable.key == "IP").unwrap();
        assert_eq!(ip.value, b"10.0.0.5", "{alone} {register}");
        // It may move on.
        bench.address = Some("10.0.0.6");
        bench.pass(6);
        assert_eq!(bench.kubelet.parts.host_ips(), ["10.0.0.6"]);
    }
}

// NODE-134: qos_container_manager_linux.go (periodicQOSCgroupUpdateInterval): each minute, whatever they were set to before.
#[test]
fn tiers_are_set_anew_each_minute() {
    let mut bench = Bench::new(Config::new("n1"));
    bench.handle(Event::Started);
    bench.list_node();
    bench.list_pods(&[]);
    bench.pass(10);
    bench.calls.clear();
    bench.pass(125);
    let sets = |bench: &Bench, group: &str| {
        bench.count(|call| matches!(call, Call::Host(HostCall::ApplyCgroup { name, .. }) if name.ends_with(group)))
    };
    assert_eq!((sets(&bench, "/burstable"), sets(&bench, "/besteffort"), sets(&bench, "/kubepods")), (2, 2, 0));
}
