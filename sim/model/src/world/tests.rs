use std::time::Duration;

use kubelet::config::Config;
use serde_json::{Value, json};

use super::World;
use crate::api::resource::named;

fn world() -> World {
    let mut world = World::new(Config::new("n1"), 7);
    world.lines = Some(Vec::new());
    world
}

fn busybox(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"nodeName": "n1", "containers": [{"name": "main", "image": "busybox:1.36", "command": ["sleep", "1000"]}]},
    })
}

fn show(world: &World) -> String {
    world.lines.iter().flatten().map(|line| format!("{:>9.3} {}\n", line.at.as_secs_f64(), line.text)).collect()
}

fn phase(world: &World, name: &str) -> String {
    let pod = world.api.store.get("pods", "default", name);
    pod.map_or("gone".to_owned(), |pod| pod["status"]["phase"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn ordinary_pod_runs_and_goes() {
    let mut world = world();
    world.run_until(Duration::from_secs(3));
    let now = world.now();
    world.api.create(now, named("pods"), "default", busybox("web")).unwrap();
    world.run_until(Duration::from_secs(6));
    assert_eq!(phase(&world, "web"), "Running", "{}", show(&world));
    let now = world.now();
    world.api.delete(now, named("pods"), "default", "web", &crate::api::write::DeleteOptions::default()).unwrap();
    world.run_until(Duration::from_secs(60));
    assert_eq!(phase(&world, "web"), "gone", "{}", show(&world));
    assert!(world.runtime.containers.is_empty() && world.runtime.sandboxes.is_empty(), "{}", show(&world));
    assert!(world.host.pod_dirs.is_empty() && world.host.volumes.is_empty(), "{}", show(&world));
    assert_eq!(world.witness.first_broken(), None);
}
