//! What must come true once nothing fails any more: everything is as the API server says, and the API server knows it.
//! Upstream: none (L1 to L6 and S10 of the study on simulation).
//! Differs: nothing on purpose.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kubelet::event::WatchKey;
use kubelet::ids::PodUid;
use kubelet::observation::{ContainerState, SandboxState};
use serde_json::Value;

use crate::api::admission::{is_mirror, runtime_uid};
use crate::api::controllers::storage::volumes_of_node;
use crate::api::watch::is_unreadable;
use crate::manifests::{has_come_to_its_end, is_as_written, static_pod_of, uids_of, wanted_manifests, wanted_of_url};
use crate::runtime::Container;
use crate::scenario::expect::{View, condition};

/// How old a lease may be: what the control plane waits before it takes the node for dead.
const LEASE_IS_YOUNG: Duration = Duration::from_secs(40);

/// Something that is not yet as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsettled {
    /// Of which liveness, or S10.
    pub rule: &'static str,
    /// How.
    pub how: String,
}

impl std::fmt::Display for Unsettled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.rule, self.how)
    }
}

/// What is not yet as it should be; empty if the cluster has settled.
#[must_use]
pub fn unsettled(view: View<'_>) -> Vec<Unsettled> {
    let mut wrong = Vec::new();
    liveness_node_is_ready_and_its_lease_young(view, &mut wrong);
    let pods: Vec<&Value> =
        view.api.store.list("pods", "").map(AsRef::as_ref).filter(|p| p["spec"]["nodeName"] == view.node).collect();
    for pod in &pods {
        pod_is_settled(view, pod, &mut wrong);
    }
    liveness_only_wanted_pods_run(view, &pods, &mut wrong);
    liveness_static_pods_have_their_mirrors(view, &pods, &mut wrong);
    wrong
}

/// The same, and what is left of pods that are gone: all that a run must come to in the end, in words.
#[must_use]
pub fn not_at_rest(view: View<'_>) -> Vec<String> {
    unsettled(view).iter().chain(&invariant_nothing_is_left(view)).map(ToString::to_string).collect()
}

/// L2
fn liveness_node_is_ready_and_its_lease_young(view: View<'_>, wrong: &mut Vec<Unsettled>) {
    let mut say = |how| wrong.push(Unsettled { rule: "liveness_node_is_ready_and_its_lease_young", how });
    let ready = view.api.store.get("nodes", "", view.node).and_then(|node| condition(node, "Ready"));
    if ready != Some("True") {
        say(format!("the node's Ready condition is {ready:?}"));
    }
    let node = view.api.store.get("nodes", "", view.node);
    let mut addresses = node.into_iter().flat_map(|node| node["status"]["addresses"].as_array()).flatten();
    let known = addresses.find(|a| a["type"] == "InternalIP").map(|a| text(&a["address"]));
    let machine: Vec<String> = view.host.addresses.routed.iter().map(ToString::to_string).collect();
    if known.is_some_and(|known| !machine.is_empty() && !machine.iter().any(|own| own == known)) {
        say(format!("the node is known by {known:?}, which the machine has not"));
    }
    if view.api.store.get("leases", "kube-node-lease", view.node).is_none() {
        say("the node has no lease".to_owned());
    }
    if let Some(age) = view.witness.lease_age().filter(|age| *age > LEASE_IS_YOUNG) {
        say(format!("the node's lease was last renewed {age:?} ago"));
    }
}

/// What one pod lacks: the first of these, since one explains those after it.
fn pod_is_settled(view: View<'_>, pod: &Value, wrong: &mut Vec<Unsettled>) {
    if is_unreadable(&WatchKey::Pods, pod) {
        // It is left alone, whatever it is.
        return;
    }
    let before = wrong.len();
    for rule in [
        liveness_terminating_pods_finish,
        liveness_new_pods_are_acted_on,
        liveness_no_name_stays_reserved,
        liveness_what_is_wanted_runs,
        liveness_status_is_what_the_runtime_says,
    ] {
        if wrong.len() == before {
            rule(view, pod, wrong);
        }
    }
}

/// L4
fn liveness_terminating_pods_finish(_: View<'_>, pod: &Value, wrong: &mut Vec<Unsettled>) {
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        let how = format!("pod {} is still being deleted", name(pod));
        wrong.push(Unsettled { rule: "liveness_terminating_pods_finish", how });
    }
}

/// L3: of the changes of a pod its coming is the one that every pod has.
fn liveness_new_pods_are_acted_on(_: View<'_>, pod: &Value, wrong: &mut Vec<Unsettled>) {
    if pod["status"]["startTime"].is_null() {
        let how = format!("the agent says nothing of pod {}", name(pod));
        wrong.push(Unsettled { rule: "liveness_new_pods_are_acted_on", how });
    }
}

/// L5
fn liveness_no_name_stays_reserved(view: View<'_>, pod: &Value, wrong: &mut Vec<Unsettled>) {
    for reserved in view.runtime.reserved_names(uid(pod)).filter(|_| !has_ended(pod)) {
        let how = format!("pod {} gets no further than the name {reserved}, which is taken", name(pod));
        wrong.push(Unsettled { rule: "liveness_no_name_stays_reserved", how });
    }
}

/// L1: one sandbox with all that was started in it; nothing of a pod that has ended.
fn liveness_what_is_wanted_runs(view: View<'_>, pod: &Value, wrong: &mut Vec<Unsettled>) {
    let mut say = |how| wrong.push(Unsettled { rule: "liveness_what_is_wanted_runs", how });
    let (name, uid, phase) = (name(pod), uid(pod), text(&pod["status"]["phase"]));
    if has_ended(pod) {
        let live = view.runtime.running().filter(|c| c.pod.as_str() == uid).count();
        if live > 0 {
            say(format!("pod {name} is {phase}, yet {live} of its containers run"));
        }
        return;
    }
    let is_its = |meta: &proto::cri::PodSandboxMetadata| meta.uid == uid;
    let sandboxes = view.runtime.sandboxes.values().filter(|s| s.config.metadata.as_ref().is_some_and(is_its));
    let up = sandboxes.filter(|s| s.state == SandboxState::Ready).count();
    if up != 1 {
        say(format!("pod {name} is {phase} and has {up} sandboxes"));
    }
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten().map(|c| text(&c["name"]));
    for container in containers {
        if newest(view, uid, container).is_some_and(|c| c.state == ContainerState::Created) {
            say(format!("container {container} of pod {name} was made and does not start"));
        }
        let waits = status_of(pod, container).map(|status| text(&status["state"]["waiting"]["reason"]));
        if waits == Some("ContainerCreating") {
            say(format!("container {container} of pod {name} is still being created"));
        }
    }
}

/// L6: the API server's word about each container is the runtime's, and its word about the pod follows from that.
fn liveness_status_is_what_the_runtime_says(view: View<'_>, pod: &Value, wrong: &mut Vec<Unsettled>) {
    if has_ended(pod) {
        return;
    }
    let mut say = |how| wrong.push(Unsettled { rule: "liveness_status_is_what_the_runtime_says", how });
    let (pod_name, uid) = (name(pod), uid(pod));
    let mut all_ready = true;
    let sidecars = pod["status"]["initContainerStatuses"].as_array().into_iter().flatten().filter(|s| is_sidecar(pod, &s["name"]));
    for status in pod["status"]["containerStatuses"].as_array().into_iter().flatten().chain(sidecars) {
        all_ready &= status["ready"] == true;
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
            say(format!("container {container} of pod {pod_name} is told as {told}, and is {is:?}"));
        }
    }
    let gated = pod["spec"]["readinessGates"].as_array().is_some_and(|gates| !gates.is_empty());
    for kind in ["ContainersReady", "Ready"] {
        let told = condition(pod, kind) == Some("True");
        if told != all_ready && !(gated && kind == "Ready") {
            say(format!("pod {pod_name} is told with {kind} {told}, and its containers say {all_ready}"));
        }
    }
}

fn status_of<'a>(pod: &'a Value, container: &str) -> Option<&'a Value> {
    pod["status"]["containerStatuses"].as_array()?.iter().find(|status| status["name"] == container)
}

/// An init container that runs as long as the pod does counts as much as a regular one.
fn is_sidecar(pod: &Value, container: &Value) -> bool {
    let inits = pod["spec"]["initContainers"].as_array().into_iter().flatten();
    inits.into_iter().any(|init| init["name"] == *container && init["restartPolicy"] == "Always")
}

fn has_ended(pod: &Value) -> bool {
    matches!(text(&pod["status"]["phase"]), "Succeeded" | "Failed")
}

fn name(pod: &Value) -> &str {
    text(&pod["metadata"]["name"])
}

fn uid(pod: &Value) -> &str {
    runtime_uid(pod)
}

fn told_state(state: &Value) -> &'static str {
    ["running", "terminated", "waiting"].into_iter().find(|s| !state[*s].is_null()).unwrap_or("nothing")
}

fn newest<'a>(view: View<'a>, uid: &str, name: &str) -> Option<&'a Container> {
    view.runtime
        .containers
        .values()
        .filter(|c| c.pod.as_str() == uid && c.name() == name)
        .max_by_key(|c| (c.state == ContainerState::Running, c.attempt(), c.created))
}

/// L1
fn liveness_only_wanted_pods_run(view: View<'_>, pods: &[&Value], wrong: &mut Vec<Unsettled>) {
    let known = |uid: &str| pods.iter().any(|pod| runtime_uid(pod) == uid);
    // Of static pods the manifests know, whether or not the API server does.
    let manifests = all_manifests(view);
    let written = |c: &Container| {
        let manifest = static_pod_of(view.runtime, c).and_then(|name| manifests.get(name));
        manifest.is_some_and(|pod| is_as_written(view.runtime, pod, c))
    };
    for container in view.runtime.running().filter(|c| !known(c.pod.as_str()) && !written(c)) {
        let how = format!("container {} of pod {}, which nobody knows, runs", container.name(), container.pod);
        wrong.push(Unsettled { rule: "liveness_only_wanted_pods_run", how });
    }
}

/// L7: each static pod has a mirror, and it runs once and as its manifest says; no other pod has a mirror.
fn liveness_static_pods_have_their_mirrors(view: View<'_>, pods: &[&Value], wrong: &mut Vec<Unsettled>) {
    let mut say = |how| wrong.push(Unsettled { rule: "liveness_static_pods_have_their_mirrors", how });
    let manifests = all_manifests(view);
    let all_are_known = wanted_of_url(view.host).is_some();
    let ended = ended_static_pods(view);
    let mirror_of = |name: &str| pods.iter().find(|pod| pod["metadata"]["name"] == name && is_mirror(pod));
    for (name, manifest) in &manifests {
        match mirror_of(name) {
            // That of one that has ended is not made again (kubelet.go: tryReconcileMirrorPods is a part of SyncPod).
            None if ended.iter().any(|(ended, _)| ended == name) => {}
            None => say(format!("static pod {name} has no mirror")),
            Some(mirror) if is_unreadable(&WatchKey::Pods, mirror) => {}
            Some(mirror) => {
                let live = view.runtime.running().filter(|c| c.pod.as_str() == uid(mirror));
                for container in live.filter(|c| !is_as_written(view.runtime, manifest, c)) {
                    say(format!("container {} of static pod {name} runs as an earlier manifest said", container.name()));
                }
            }
        }
    }
    let mut uids: BTreeMap<&str, BTreeSet<&PodUid>> = BTreeMap::new();
    for container in view.runtime.running() {
        if let Some(name) = static_pod_of(view.runtime, container) {
            uids.entry(name).or_default().insert(&container.pod);
        }
    }
    for (name, uids) in uids.iter().filter(|(_, uids)| uids.len() > 1) {
        say(format!("static pod {name} runs {} times at once", uids.len()));
    }
    let is_wanted = |pod: &Value| !all_are_known || manifests.contains_key(name(pod));
    for mirror in pods.iter().filter(|pod| is_mirror(pod) && !is_wanted(pod) && !is_unreadable(&WatchKey::Pods, pod)) {
        say(format!("{} is the mirror of no static pod", name(mirror)));
    }
}

/// The static pods that have come to their end, with their names and UIDs: they are wanted, and nothing of them runs.
fn ended_static_pods(view: View<'_>) -> BTreeSet<(String, String)> {
    let ends = |pod: &Value, uid: &str| {
        let mut records = view.runtime.containers.values().filter(|c| c.pod.as_str() == uid).peekable();
        let as_written = records.peek().is_none() || records.any(|c| is_as_written(view.runtime, pod, c));
        as_written
            && !view.runtime.running().any(|c| c.pod.as_str() == uid)
            && has_come_to_its_end(view.runtime, pod, uid, |container| view.witness.has_lost(uid, container))
    };
    let mut ended = BTreeSet::new();
    for (name, pod) in all_manifests(view) {
        ended.extend(uids_of(view.runtime, &name).filter(|uid| ends(&pod, uid)).map(|uid| (name.clone(), uid.to_owned())));
    }
    ended
}

/// The pods that the manifests ask for, wherever they are, as far as that can be told.
fn all_manifests(view: View<'_>) -> BTreeMap<String, Value> {
    let all = wanted_manifests(view.host).into_iter().chain(wanted_of_url(view.host).unwrap_or_default());
    all.map(|(name, wanted)| (name, wanted.pod)).collect()
}

/// S10: what is left of pods that the API server does not know.
#[must_use]
pub fn invariant_nothing_is_left(view: View<'_>) -> Vec<Unsettled> {
    let mut left = Vec::new();
    let ended = ended_static_pods(view);
    let known = |uid: &str| {
        let mut pods = view.api.store.list("pods", "");
        pods.any(|pod| runtime_uid(pod) == uid) || ended.iter().any(|(_, ended)| ended == uid)
    };
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
    left.extend(volumes_left(view, &known));
    left.into_iter().map(|how| Unsettled { rule: "invariant_nothing_is_left", how }).collect()
}

/// What drivers still have published for pods that are not known, or staged for none.
fn volumes_left(view: View<'_>, known: &impl Fn(&str) -> bool) -> Vec<String> {
    let csi = &view.host.csi;
    let pod_of = |target: &str| target.split_once("/pods/").and_then(|(_, rest)| rest.split('/').next()).map(str::to_owned);
    let published = csi.published.keys().filter(|target| !pod_of(target).is_some_and(|pod| known(&pod)));
    let mut left: Vec<String> = published.map(|target| format!("{target} is left published")).collect();
    let wanted = volumes_of_node(view.api, view.node);
    let is_wanted = |(driver, handle): &(String, String)| {
        let mut sources = wanted.iter().map(|volume| &volume["spec"]["csi"]);
        sources.any(|source| source["driver"] == driver.as_str() && source["volumeHandle"] == handle.as_str())
    };
    let staged = csi.staged.keys().filter(|volume| !is_wanted(volume));
    left.extend(staged.map(|(driver, handle)| format!("volume {handle} of {driver} is left staged")));
    left
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
