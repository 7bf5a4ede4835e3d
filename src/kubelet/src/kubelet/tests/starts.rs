//! What containers are started with, of pods that an earlier life of the agent knew as well.

use k8s_openapi::api::node::v1::RuntimeClass;
use proto::cri::{ContainerConfig, PodSandboxConfig};

use super::*;

/// The containers that were made, in order.
pub(super) fn made(bench: &Bench) -> Vec<&ContainerConfig> {
    let mut made = Vec::new();
    for call in &bench.calls {
        if let Call::Cri(CriCall::CreateContainer { config, .. }) = call {
            made.push(&**config);
        }
    }
    made
}

/// A node on which a pod has its sandbox, and nothing in it; its image is there.
fn with_a_sandbox() -> Bench {
    let mut bench = Bench::new(Config::new("n1"));
    bench.image = Some(Some(Image { id: "sha256:1".to_owned(), size: 1, ..Image::default() }));
    bench.running("web");
    bench.seen.get_mut(&PodUid::new("web")).unwrap().containers.clear();
    bench
}

/// A new life of the agent finds that pod.
fn begin(bench: &mut Bench, pod: &Value) {
    bench.handle(Event::Started);
    bench.list_node();
    bench.list_pods(std::slice::from_ref(pod));
    bench.pass(20);
}

// CRI-034: startContainer (kuberuntime_container.go) and getImageVolumes (kuberuntime_manager.go) hand the configuration of the pod's sandbox
// to EnsureImageExists, with the attempt of the sandbox that there is.
#[test]
fn pull_is_told_the_sandbox_that_it_is_for() {
    let mut bench = with_a_sandbox();
    bench.image = Some(None);
    bench.seen.get_mut(&PodUid::new("web")).unwrap().sandboxes[0].attempt = 3;
    let mut web = pod("web");
    web["spec"]["volumes"] = json!([{"name": "model", "image": {"reference": "registry/model:1"}}]);
    web["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "model", "mountPath": "/model"}]);
    begin(&mut bench, &web);
    let mut pulls: Vec<(&str, Option<&PodSandboxConfig>)> = Vec::new();
    for call in &bench.calls {
        if let Call::Cri(CriCall::PullImage { image, sandbox_config, .. }) = call {
            pulls.push((image, sandbox_config.as_deref()));
        }
    }
    assert_eq!(pulls.iter().map(|(image, _)| *image).collect::<Vec<_>>(), ["registry/model:1", "busybox:latest"]);
    for (image, config) in pulls {
        let meta = config.unwrap_or_else(|| panic!("{image} is pulled for no sandbox")).metadata.as_ref().unwrap();
        assert_eq!((meta.name.as_str(), meta.namespace.as_str(), meta.uid.as_str(), meta.attempt), ("web", "default", "web", 3));
    }
}

// POD-076: pod_workers.go (UpdatePod): `cancelFn` of a pod that is deleted ends its pull, while what runs of it has its grace.
#[test]
fn pull_of_a_pod_that_is_deleted_is_withdrawn_at_once() {
    let mut bench = with_a_sandbox();
    (bench.image, bench.pulls_hang) = (Some(None), true);
    let mut web = pod("web");
    begin(&mut bench, &web);
    let withdrawn = |bench: &Bench| bench.count(|call| matches!(call, Call::Cancel(_)));
    assert_eq!((bench.count(|call| matches!(call, Call::Cri(CriCall::PullImage { .. }))), withdrawn(&bench)), (1, 0));
    web["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let object = Object::Pod(Arc::new(serde_json::from_value(web).unwrap()));
    bench.handle(Event::WatchApplied { key: WatchKey::Pods, object });
    assert_eq!(withdrawn(&bench), 1);
}

// CRI-004, MNT-009: kubelet_pods.go (runtimeClassSupportsRecursiveReadOnlyMounts) asks an informer that runs from the start, so also of a
// pod whose sandbox an earlier life of the agent made. What does not hang on the class does not wait for it.
#[test]
fn recursive_read_only_mounts_outlive_the_agent() {
    for (mode, waits) in [("Enabled", true), ("IfPossible", true), ("Disabled", false)] {
        let mut bench = with_a_sandbox();
        bench.handlers =
            vec![RuntimeHandler { name: "runc-x".to_owned(), recursive_read_only_mounts: true, user_namespaces: false }];
        let mut web = pod("web");
        web["spec"]["runtimeClassName"] = json!("x");
        web["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
        web["spec"]["containers"][0]["volumeMounts"] =
            json!([{"name": "data", "mountPath": "/data", "readOnly": true, "recursiveReadOnly": mode}]);
        begin(&mut bench, &web);
        assert_eq!(bench.count(|call| matches!(call, Call::Api(ApiCall::Watch(WatchKey::RuntimeClasses)))), 1, "{mode}");
        assert_eq!(made(&bench).is_empty(), waits, "{mode}");
        let class: RuntimeClass = serde_json::from_value(json!({"metadata": {"name": "x"}, "handler": "runc-x"})).unwrap();
        bench.handle(Event::WatchListed { key: WatchKey::RuntimeClasses, objects: vec![Object::RuntimeClass(Arc::new(class))] });
        bench.pass(5);
        let mount = made(&bench)[0].mounts.iter().find(|mount| mount.container_path == "/data").unwrap();
        assert_eq!((mount.readonly, mount.recursive_read_only), (true, waits), "{mode}");
    }
}

// NET-004: SyncPod (kuberuntime_manager.go) hands makeMounts all IPs in the runtime's order; only the environment's are sorted.
#[test]
fn hosts_file_has_all_addresses_in_the_runtimes_order() {
    let mut bench = with_a_sandbox();
    let ips = ["fd00::2", "10.0.0.2", "10.0.0.3"];
    bench.seen.get_mut(&PodUid::new("web")).unwrap().sandboxes[0].ips = ips.map(str::to_owned).into();
    let mut web = pod("web");
    web["spec"]["containers"][0]["env"] =
        json!([{"name": "IPS", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIPs"}}}]);
    begin(&mut bench, &web);
    let written = bench.calls.iter().find_map(|call| match call {
        Call::Host(HostCall::WriteFile { path, contents, .. }) if path.ends_with("/etc-hosts") => Some(contents),
        _ => None,
    });
    let file = String::from_utf8(written.unwrap().clone()).unwrap();
    assert!(file.ends_with("ip6-allrouters\nfd00::2\tweb\n10.0.0.2\tweb\n10.0.0.3\tweb\n"), "{file}");
    let ips = made(&bench)[0].envs.iter().find(|variable| variable.key == "IPS").unwrap();
    assert_eq!(ips.value, b"10.0.0.2,fd00::2");
}

// POD-225: kuberuntime_manager.go (doBackOff): each pass that may start it doubles the wait, which runs from the last end, although no
// container comes of it.
#[test]
fn container_that_cannot_be_made_again_waits_twice_as_long_each_time() {
    let mut bench = Bench::new(Config::new("n1"));
    bench.image = Some(Some(Image { id: "sha256:1".to_owned(), size: 1, ..Image::default() }));
    bench.containers_fail = true;
    bench.running("web");
    let ended = &mut bench.seen.get_mut(&PodUid::new("web")).unwrap().containers[0];
    (ended.state, ended.exit_code, ended.finished_at) = (ContainerState::Exited, 1, 2);
    begin(&mut bench, &pod("web"));
    let mut tries = vec![made(&bench).len()];
    for _ in 0..8 {
        bench.pass(20);
        tries.push(made(&bench).len());
    }
    // At 0, and from 10, 20, 40, 80 and 160 s on; what failed is left alone for ten seconds at least besides.
    assert_eq!((tries[0], tries[2], tries[4], tries[6]), (2, 4, 5, 5), "{tries:?}");
    let status = bench.kubelet.parts.statuses.status(&PodUid::new("web")).unwrap();
    let state = status.container_statuses.as_ref().unwrap()[0].state.as_ref().unwrap();
    let told = state.waiting.as_ref().and_then(|waiting| waiting.message.as_deref()).unwrap();
    assert!(told.contains("restarting failed container=main") || told == "no", "{told}");
}

// API-144: prober/worker.go (run): the series of a pod's probes go with their workers, when the pod has ended, not when its object goes.
#[test]
fn pod_that_has_ended_is_not_counted_any_more() {
    for (policy, phase, by_its_end) in [("Never", "Succeeded", 1), ("Always", "Running", 0)] {
        let mut bench = Bench::new(Config::new("n1"));
        bench.running("web");
        let ended = &mut bench.seen.get_mut(&PodUid::new("web")).unwrap().containers[0];
        (ended.state, ended.exit_code, ended.finished_at) = (ContainerState::Exited, 0, 2);
        let mut web = pod("web");
        web["spec"]["restartPolicy"] = json!(policy);
        begin(&mut bench, &web);
        let forgotten = |bench: &Bench| bench.facts.iter().filter(|fact| matches!(fact, Fact::PodForgotten { .. })).count();
        assert_eq!(bench.kubelet.parts.statuses.status(&PodUid::new("web")).unwrap().phase.as_deref(), Some(phase));
        assert_eq!(forgotten(&bench), by_its_end);
        bench.list_pods(&[]);
        bench.pass(60);
        assert_eq!(forgotten(&bench), 1, "{policy}");
    }
}

// NET-003: kubelet_pods.go (nodeHostsFileContent): the read fails, and with it makeMounts. Only who is to have the file needs it.
#[test]
fn container_does_not_start_without_the_nodes_hosts_file() {
    for host_network in [true, false] {
        let mut bench = with_a_sandbox();
        bench.hosts_file_is_missing = true;
        let mut web = pod("web");
        if host_network {
            let sandbox = &mut bench.seen.get_mut(&PodUid::new("web")).unwrap().sandboxes[0];
            (sandbox.host_network, sandbox.ips) = (true, Vec::new());
            web["spec"]["hostNetwork"] = json!(true);
        }
        begin(&mut bench, &web);
        assert_eq!(made(&bench).is_empty(), host_network);
        let status = bench.kubelet.parts.statuses.status(&PodUid::new("web")).unwrap();
        let waiting = status.container_statuses.as_ref().unwrap()[0].state.as_ref().unwrap().waiting.as_ref().unwrap();
        let told = (waiting.reason.as_deref(), waiting.message.as_deref());
        let why = (Some("CreateContainerConfigError"), Some("open /etc/hosts: no such file or directory"));
        assert_eq!(told == why, host_network, "{told:?}");
        bench.hosts_file_is_missing = false;
        bench.pass(30);
        assert_eq!(made(&bench).len(), 1);
    }
}

// S2, and upstream's pod workers (pod_workers.go: a pod is synced again after its last sync, however often it changed meanwhile): what comes
// by the thousand from a pod with thousands of containers has it planned a few times a second, and others go on between.
#[test]
fn a_pod_with_thousands_of_containers_leaves_the_loop_to_others() {
    let plans = |containers: usize| {
        let mut bench = with_a_sandbox();
        bench.image = Some(None);
        let mut web = pod("web");
        let container = |n: usize| json!({"name": format!("c{n}"), "image": "nope", "imagePullPolicy": "Never"});
        web["spec"]["containers"] = (0..containers).map(container).collect();
        begin(&mut bench, &web);
        let looks = bench.count(|call| matches!(call, Call::Cri(CriCall::ImageStatus { .. })));
        assert!(looks >= containers, "{looks} looks at {containers} images");
        bench.kubelet.workers[&PodUid::new("web")].plans
    };
    let (few, many) = (plans(64), plans(1064));
    assert!(few >= 64, "each answer counts at once: {few}");
    assert!(many < 200, "planned {many} times in twenty seconds");
}

// Issue 10: kuberuntime_container.go (startContainer: straight-line code): the pause between plans holds no step of what is under way.
#[test]
fn containers_of_a_large_pod_start_as_fast_as_the_runtime_makes_them() {
    let mut config = Config::new("n1");
    config.images.pulls_are_recorded = false;
    let mut bench = Bench { kubelet: Kubelet::new(Arc::new(config), 1), containers_start: true, ..with_a_sandbox() };
    let mut web = pod("web");
    web["spec"]["containers"] = (0..500).map(|n| json!({"name": format!("c{n}"), "image": "busybox"})).collect();
    begin(&mut bench, &web);
    let started = bench.count(|call| matches!(call, Call::Cri(CriCall::StartContainer { .. })));
    assert!(started >= 500, "{started} in twenty seconds");
}

// Issue 10: generatePodSandboxConfig makes one for each pull of upstream's; with thousands of containers, ports and annotations that is time
// and memory.
#[test]
fn containers_of_one_plan_share_their_sandboxs_configuration() {
    let mut bench = with_a_sandbox();
    bench.containers_start = true;
    bench.image = Some(None);
    let mut web = pod("web");
    web["spec"]["containers"] = (0..60).map(|n| json!({"name": format!("c{n}"), "image": format!("busybox:{n}")})).collect();
    begin(&mut bench, &web);
    let mut of_pulls = Vec::new();
    for call in &bench.calls {
        if let Call::Cri(CriCall::PullImage { sandbox_config: Some(config), .. }) = call {
            of_pulls.push(Arc::as_ptr(config));
        }
    }
    // The images of one pod are looked for in one plan; those beyond registryPullQPS again in later ones.
    assert!(of_pulls.len() >= 10, "{}", of_pulls.len());
    assert_eq!(of_pulls[..10].iter().collect::<BTreeSet<_>>().len(), 1);
}
