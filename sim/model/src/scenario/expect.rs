//! Whether what a scenario expects is true now, and if not, why not.
//! Upstream: none.
//! Differs: nothing on purpose.

use kubelet::ids::PodUid;
use serde_json::Value;

use super::schema::{Expect, PodExpect};
use crate::api::ApiModel;
use crate::api::admission::runtime_uid;
use crate::host::HostModel;
use crate::invariants::Witness;
use crate::liveness::{invariant_nothing_is_left, unsettled};
use crate::runtime::{RuntimeModel, Sandbox};

/// What can be seen of a cluster, in whichever stage.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The API server.
    pub api: &'a ApiModel,
    /// The runtime.
    pub runtime: &'a RuntimeModel,
    /// The machine.
    pub host: &'a HostModel,
    /// What watched over the run.
    pub witness: &'a Witness,
    /// Lives of the agent so far.
    pub lives: u32,
    /// The node's name.
    pub node: &'a str,
}

/// What is not as expected; empty if all is.
#[must_use]
pub fn unmet(expect: &Expect, view: View<'_>) -> Vec<String> {
    let mut unmet = Vec::new();
    for pod in &expect.pods {
        pod_unmet(pod, view, &mut unmet);
    }
    if let Some(ready) = expect.node_ready {
        let node = view.api.store.get("nodes", "", view.node);
        let is = node.and_then(|node| condition(node, "Ready")) == Some("True");
        if is != ready {
            unmet.push(format!("node ready: {is}, expected {ready}"));
        }
    }
    let node = view.api.store.get("nodes", "", view.node);
    for (pointer, wanted) in &expect.node_is {
        let is = node.and_then(|node| node.pointer(pointer)).unwrap_or(&Value::Null);
        if is != wanted {
            unmet.push(format!("node: {pointer} is {is}, expected {wanted}"));
        }
    }
    if expect.nothing_left {
        unmet.extend(invariant_nothing_is_left(view).iter().map(ToString::to_string));
    }
    if expect.settled {
        unmet.extend(unsettled(view).iter().map(ToString::to_string));
    }
    for (call, most) in &expect.calls_at_most {
        let made = view.witness.calls.get(call.as_str()).copied().unwrap_or(0);
        if made > *most {
            unmet.push(format!("{call} was called {made} times, expected at most {most}"));
        }
    }
    for (call, least) in &expect.calls_at_least {
        let arrived = view.witness.arrived.get(call.as_str()).copied().unwrap_or(0);
        if arrived < *least {
            unmet.push(format!("{call} was called {arrived} times, expected at least {least}"));
        }
    }
    let csi = &view.host.csi;
    for (what, is, wanted) in [("staged", csi.staged.len(), expect.staged), ("published", csi.published.len(), expect.published)] {
        if wanted.is_some_and(|wanted| wanted != is) {
            unmet.push(format!("{is} volumes are {what}, expected {}", wanted.unwrap_or_default()));
        }
    }
    for (reason, wanted) in expect.events.iter().map(|r| (r, true)).chain(expect.no_events.iter().map(|r| (r, false))) {
        let stored = view.api.store.list("events", "").any(|event| event["reason"] == reason.as_str());
        if stored != wanted {
            unmet.push(if wanted { format!("no event {reason}") } else { format!("there is an event {reason}") });
        }
    }
    for part in &expect.event_messages {
        if !view.api.store.list("events", "").any(|event| text(&event["message"]).contains(part)) {
            unmet.push(format!("no event says {part:?}"));
        }
    }
    if let Some(lives) = expect.lives
        && view.lives != lives
    {
        unmet.push(format!("lives of the agent: {}, expected {lives}", view.lives));
    }
    unmet
}

fn pod_unmet(expect: &PodExpect, view: View<'_>, unmet: &mut Vec<String>) {
    let found = view.api.store.get("pods", &expect.namespace, &expect.name);
    let name = &expect.name;
    let Some(pod) = found else {
        if !expect.gone {
            unmet.push(format!("pod {name} is gone"));
        }
        return;
    };
    if expect.gone {
        unmet.push(format!("pod {name} is there, expected gone"));
    }
    let mut compare = |what: &str, is: String, wanted: String| {
        if is != wanted {
            unmet.push(format!("pod {name}: {what} is {is}, expected {wanted}"));
        }
    };
    let status = &pod["status"];
    let container = container_status(status, expect.container.as_deref());
    if let Some(phase) = &expect.phase {
        compare("phase", text(&status["phase"]), phase.clone());
    }
    if let Some(reason) = &expect.reason {
        compare("reason", text(&status["reason"]), reason.clone());
    }
    if let Some(ready) = expect.ready {
        compare("ready", (condition(pod, "Ready") == Some("True")).to_string(), ready.to_string());
    }
    if let Some(restarts) = expect.restarts {
        compare("restart count", container["restartCount"].as_u64().unwrap_or(0).to_string(), restarts.to_string());
    }
    if let Some(reason) = &expect.waiting {
        compare("waiting reason", text(&container["state"]["waiting"]["reason"]), reason.clone());
    }
    if let Some(part) = &expect.waiting_message {
        let message = text(&container["state"]["waiting"]["message"]);
        if !message.contains(part) {
            compare("waiting message", message, part.clone());
        }
    }
    let ended = [&container["state"]["terminated"], &container["lastState"]["terminated"]].into_iter().find(|t| !t.is_null());
    if let Some(code) = expect.exit_code {
        compare("exit code", ended.map_or(String::new(), |t| t["exitCode"].to_string()), code.to_string());
    }
    if let Some(reason) = &expect.terminated {
        compare("terminated reason", ended.map_or(String::new(), |t| text(&t["reason"])), reason.clone());
    }
    if let Some(bytes) = expect.message_bytes {
        compare("message bytes", ended.map_or(0, |t| text(&t["message"]).len()).to_string(), bytes.to_string());
    }
    told(expect, pod, container, &mut compare);
    let uid = runtime_uid(pod);
    if let Some(handler) = &expect.handler {
        let is_its = |s: &&Sandbox| s.config.metadata.as_ref().is_some_and(|meta| meta.uid == uid);
        let is = view.runtime.sandboxes.values().find(is_its).map(|s| s.handler.clone());
        compare("handler", is.unwrap_or_default(), handler.clone());
    }
    if let Some(running) = expect.running {
        let is = view.runtime.running().filter(|c| c.pod.as_str() == uid).count();
        compare("running containers", is.to_string(), running.to_string());
    }
    if let Some(starts) = expect.starts {
        compare("starts", view.witness.starts_of(uid).to_string(), starts.to_string());
    }
    for (file, contents) in &expect.files {
        let (volume, path) = file.split_once('/').unwrap_or((file, ""));
        let placed = view.host.volumes.get(&(PodUid::new(uid), volume.to_owned()));
        let is =
            placed.and_then(|placed| placed.files.get(path)).map_or("not there".into(), |bytes| String::from_utf8_lossy(bytes));
        compare(file, is.into_owned(), contents.clone());
    }
}

/// What the pod's status says beside what its container is doing.
fn told(expect: &PodExpect, pod: &Value, container: &Value, compare: &mut impl FnMut(&str, String, String)) {
    let status = &pod["status"];
    for (kind, wanted) in &expect.conditions {
        let is = condition_text(pod, kind);
        if !is.starts_with(wanted.as_str()) {
            compare(kind, is, wanted.clone());
        }
    }
    for (which, wanted) in &expect.resources {
        compare(which, resource(status, container, which), wanted.clone());
    }
    if let Some(wanted) = &expect.host_ips {
        let is = status["hostIPs"].as_array().into_iter().flatten().map(|ip| text(&ip["ip"])).collect::<Vec<_>>();
        compare("host IPs", is.join(" "), wanted.join(" "));
    }
}

/// The status of a container of any kind; of the first regular one if none is named.
fn container_status<'a>(status: &'a Value, name: Option<&str>) -> &'a Value {
    let Some(name) = name else { return &status["containerStatuses"][0] };
    let kinds = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    let mut all = kinds.iter().flat_map(|kind| status[*kind].as_array().into_iter().flatten());
    all.find(|container| container["name"] == name).unwrap_or(&Value::Null)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// An amount in a pod's or container's status.
fn resource(pod: &Value, container: &Value, which: &str) -> String {
    let (of, which) = which.strip_prefix("pod.").map_or((container, which), |which| (pod, which));
    let found = match which.split_once('.') {
        Some(("allocated", name)) => &of["allocatedResources"][name],
        Some((list, name)) => &of["resources"][list][name],
        None => &Value::Null,
    };
    if found.is_null() { "none".to_owned() } else { text(found) }
}

/// An object's condition: status, reason and message, as far as they are there.
fn condition_text(object: &Value, kind: &str) -> String {
    let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let Some(found) = conditions.find(|c| c["type"] == kind) else { return "none".to_owned() };
    let parts = ["status", "reason", "message"].iter().map(|part| text(&found[*part])).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join(" ")
}

/// The status of an object's condition.
#[must_use]
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a str> {
    let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.find(|c| c["type"] == kind)?["status"].as_str()
}
