//! What must come true once nothing fails any more: everything is as the API server says, and the API server knows it.
//! Upstream: none (L1 to L6 and S10 of the study on simulation).
//! Differs: nothing on purpose.

use kubelet::observation::{ContainerState, SandboxState};
use serde_json::Value;

use crate::runtime::Container;
use crate::scenario::expect::{View, condition};

/// What is not yet as it should be; empty if the cluster has settled.
#[must_use]
pub fn unsettled(view: View<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    liveness_node_is_ready(view, &mut wrong);
    let pods: Vec<&Value> =
        view.api.store.list("pods", "").map(AsRef::as_ref).filter(|p| p["spec"]["nodeName"] == view.node).collect();
    for pod in &pods {
        liveness_pod_is_as_wanted(view, pod, &mut wrong);
    }
    liveness_only_wanted_pods_run(view, &pods, &mut wrong);
    wrong
}

/// L2
fn liveness_node_is_ready(view: View<'_>, wrong: &mut Vec<String>) {
    let ready = view.api.store.get("nodes", "", view.node).and_then(|node| condition(node, "Ready"));
    if ready != Some("True") {
        wrong.push(format!("the node's Ready condition is {ready:?}"));
    }
    if view.api.store.get("leases", "kube-node-lease", view.node).is_none() {
        wrong.push("the node has no lease".to_owned());
    }
}

/// L1, L4, L6
fn liveness_pod_is_as_wanted(view: View<'_>, pod: &Value, wrong: &mut Vec<String>) {
    let (name, uid) = (text(&pod["metadata"]["name"]), text(&pod["metadata"]["uid"]));
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        wrong.push(format!("pod {name} is still being deleted"));
        return;
    }
    let phase = text(&pod["status"]["phase"]);
    let live = view.runtime.running().filter(|c| c.pod.as_str() == uid).count();
    if matches!(phase, "Succeeded" | "Failed") {
        if live > 0 {
            wrong.push(format!("pod {name} is {phase}, yet {live} of its containers run"));
        }
        return;
    }
    let ready_sandboxes = view
        .runtime
        .sandboxes
        .values()
        .filter(|s| s.state == SandboxState::Ready && s.config.metadata.as_ref().is_some_and(|m| m.uid == uid));
    let ready_sandboxes = ready_sandboxes.count();
    if ready_sandboxes != 1 {
        wrong.push(format!("pod {name} is {phase} and has {ready_sandboxes} sandboxes"));
    }
    let statuses = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    for status in statuses {
        container_is_told(view, name, uid, status, wrong);
    }
}

/// The API server's word about a container is the runtime's.
fn container_is_told(view: View<'_>, pod: &str, uid: &str, status: &Value, wrong: &mut Vec<String>) {
    let container = text(&status["name"]);
    let newest = newest(view, uid, container);
    let told = told_state(&status["state"]);
    let is = newest.map(|c| c.state);
    let id = text(&status["containerID"]).rsplit('/').next().unwrap_or_default();
    let agrees = match is {
        Some(ContainerState::Running) => told == "running" && newest.is_some_and(|c| c.id == id),
        // Ended, or about to be started again; a back-off shows as waiting.
        Some(ContainerState::Exited) => told != "running",
        Some(ContainerState::Created | ContainerState::Unknown) | None => told == "waiting",
    };
    if !agrees {
        wrong.push(format!("container {container} of pod {pod} is told as {told}, and is {is:?}"));
    }
    if told == "waiting" && status["state"]["waiting"]["reason"] == "ContainerCreating" {
        wrong.push(format!("container {container} of pod {pod} is still being created"));
    }
}

fn told_state(state: &Value) -> &'static str {
    ["running", "terminated", "waiting"].into_iter().find(|s| !state[*s].is_null()).unwrap_or("nothing")
}

fn newest<'a>(view: View<'a>, uid: &str, name: &str) -> Option<&'a Container> {
    view.runtime.containers.values().filter(|c| c.pod.as_str() == uid && c.name() == name).max_by_key(|c| (c.attempt(), c.created))
}

/// L1
fn liveness_only_wanted_pods_run(view: View<'_>, pods: &[&Value], wrong: &mut Vec<String>) {
    let known = |uid: &str| pods.iter().any(|pod| pod["metadata"]["uid"] == uid);
    for container in view.runtime.running().filter(|c| !known(c.pod.as_str())) {
        wrong.push(format!("container {} of pod {}, which nobody knows, runs", container.name(), container.pod));
    }
}

/// S10: what is left of pods that the API server does not know.
#[must_use]
pub fn leftovers(view: View<'_>) -> Vec<String> {
    let mut left = Vec::new();
    let known = |uid: &str| view.api.store.list("pods", "").any(|pod| pod["metadata"]["uid"] == uid);
    for sandbox in view.runtime.sandboxes.values() {
        let uid = sandbox.config.metadata.as_ref().map(|m| m.uid.as_str()).unwrap_or_default();
        if !known(uid) {
            left.push(format!("sandbox {} of pod {uid} is left", sandbox.id));
        }
    }
    for container in view.runtime.containers.values().filter(|c| !known(c.pod.as_str())) {
        left.push(format!("container {} of pod {} is left", container.name(), container.pod));
    }
    for uid in view.host.pod_dirs.iter().filter(|uid| !known(uid.as_str())) {
        left.push(format!("the directory of pod {uid} is left"));
    }
    for (uid, volume) in view.host.volumes.keys().filter(|(uid, _)| !known(uid.as_str())) {
        left.push(format!("volume {volume} of pod {uid} is left"));
    }
    for cgroup in &view.host.cgroups {
        if let Some(uid) = cgroup.rsplit('/').next().and_then(|last| last.strip_prefix("pod"))
            && !known(uid)
        {
            left.push(format!("cgroup {cgroup} is left"));
        }
    }
    left
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
