//! Volumes are measured each for itself, and told as soon as they are.

use kubelet::event::{HostReply, VolumeDirectory};
use kubelet::snapshot::Tallies;

use super::information::disk;
use super::*;

// API-128: volume_stat_calculator.go: each pod is measured by itself, so that one with hung mounts is nobody else's loss.
#[tokio::test(start_paused = true)]
async fn volumes_that_hang_keep_nobody_elses_from_being_measured() {
    let world = World::new().start().await;
    let claim = |name: &str| json!({ "name": name, "persistentVolumeClaim": { "claimName": name } });
    let many: Vec<_> = (0..100).map(|number| format!("v{number}")).collect();
    let directory = |name: &String| VolumeDirectory { plugin: "kubernetes.io~csi".to_owned(), volume: name.clone(), data: None };
    world.host.replies.lock().unwrap().insert("volumes", HostReply::Volumes(many.iter().map(directory).collect()));
    for (name, volumes) in [("a", &many[..]), ("b", &many[..1])] {
        let mut with_claims = pod(name, &json!({ "running": {} }), "r://c1");
        let volumes: Vec<_> = volumes.iter().map(|name| claim(name)).collect();
        with_claims.spec = Some(serde_json::from_value(json!({ "containers": [], "volumes": volumes })).unwrap());
        world.view.pods.lock().unwrap().push(Arc::new(with_claims));
    }
    let path = |pod: &str, volume: &str| format!("/var/lib/kubelet/pods/uid-{pod}/volumes/kubernetes.io~csi/{volume}/mount");
    world.host.hung.lock().unwrap().push(path("a", "").replace("//mount", "/"));
    let told = async |wanted: &str| {
        let text = world.get("/metrics").await.body;
        text.lines().any(|line| line.starts_with("kubelet_volume_stats_used_bytes") && line.ends_with(wanted))
    };
    let set = |pod: &str, volume: &str, used| world.host.fs.lock().unwrap().insert(path(pod, volume), HostReply::Fs(disk(used, 7)));
    set("b", "v0", 77);
    assert!(!told(" 77").await);
    let (collector, view, shutdown) = (world.shared.stats.clone(), world.view.clone(), world.shutdown.clone());
    tokio::spawn(async move { collector.run(view.as_ref(), shutdown).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(told(" 77").await, "as soon as it is measured");
    set("b", "v0", 78);
    tokio::time::sleep(Duration::from_secs(121)).await;
    assert!(told(" 78").await, "and again in the next round");
    // Its own are taken in turn: one that answers is told though those before it do not.
    set("a", "v3", 79);
    *world.host.hung.lock().unwrap() = many.iter().filter(|name| *name != "v3").map(|name| path("a", name)).collect();
    tokio::time::sleep(Duration::from_secs(4 * 121)).await;
    assert!(told(" 79").await);
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_measured_once_and_by_its_own_filesystem() {
    // API-128, API-146; issue 10, S30: the directory is called as the PersistentVolume, not as the pod's volume.
    let world = World::new().start().await;
    let spec = json!({ "containers": [], "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": "claim" } }] });
    for name in ["a", "b"] {
        let mut sharing = pod(name, &json!({ "running": {} }), "r://c1");
        sharing.spec = Some(serde_json::from_value(spec.clone()).unwrap());
        world.view.pods.lock().unwrap().push(Arc::new(sharing));
        let path = format!("/var/lib/kubelet/pods/uid-{name}/volumes/kubernetes.io~csi/pv-1/mount");
        world.host.fs.lock().unwrap().insert(path, HostReply::Fs(disk(77, 7)));
    }
    let directory = VolumeDirectory { plugin: "kubernetes.io~csi".to_owned(), volume: "pv-1".to_owned(), data: None };
    world.view.directories.lock().unwrap().insert("data".to_owned(), "pv-1".to_owned());
    world.host.replies.lock().unwrap().insert("volumes", HostReply::Volumes(vec![directory]));
    *world.view.tallies.lock().unwrap() = Tallies {
        desired: (2, 1),
        active: (1, 1),
        working: [(("desired", "sync", "true"), 1)].into(),
        running_pods: 1,
        containers: [(ContainerState::Exited, 2)].into(),
        volumes: [("kubernetes.io/configmap", (2, 1))].into(),
        cgroup_v2: true,
    };
    // No scrape asks the runtime.
    *world.runtime.hung.lock().unwrap() = true;
    assert!(!world.get("/metrics").await.body.contains("kubelet_volume_stats"));
    let (collector, view, shutdown) = (world.shared.stats.clone(), world.view.clone(), world.shutdown.clone());
    tokio::spawn(async move { collector.run(view.as_ref(), shutdown).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let text = world.get("/metrics").await.body;
    let series: Vec<&str> = text.lines().filter(|line| line.starts_with("kubelet_volume_stats_used_bytes")).collect();
    assert_eq!(series, ["kubelet_volume_stats_used_bytes{namespace=\"default\",persistentvolumeclaim=\"claim\"} 77"]);
    for line in [
        "kubelet_running_pods 1",
        "kubelet_running_containers{container_state=\"exited\"} 2",
        // As a real kubelet's /metrics has them.
        "kubelet_desired_pods{static=\"\"} 2",
        "kubelet_active_pods{static=\"true\"} 1",
        "kubelet_mirror_pods 1",
        "kubelet_cgroup_version 2",
        "kubelet_working_pods{config=\"desired\",lifecycle=\"sync\",static=\"true\"} 1",
        "kubelet_working_pods{config=\"runtime_only\",lifecycle=\"terminating\",static=\"unknown\"} 0",
        "volume_manager_total_volumes{plugin_name=\"kubernetes.io/configmap\",state=\"actual_state_of_world\"} 1",
        "volume_manager_total_volumes{plugin_name=\"kubernetes.io/configmap\",state=\"desired_state_of_world\"} 2",
        "kubelet_metrics_provider{provider=\"cadvisor\"} 1",
        "# HELP process_start_time_seconds Start time of the process since unix epoch in seconds.",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}
