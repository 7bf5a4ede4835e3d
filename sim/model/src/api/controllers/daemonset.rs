//! Keeps one pod of a DaemonSet on every node that it fits.
//! Upstream: pkg/controller/daemon (daemon_controller.go, update.go).
//! Differs: the template's hash is all there is of ControllerRevisions.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::ApiModel;
use super::super::defaults::default_field;
use super::{all, being_deleted, hash_of, pods, scheduler, share, text, write};

const SOURCE: &str = "daemonset-controller";
const HASH: &str = "controller-revision-hash";

/// One pass over all DaemonSets.
pub(super) fn pass(model: &mut ApiModel, now: Timestamp) {
    for set in all(model, "daemonsets") {
        sync(model, now, &set);
    }
}

/// What every daemon pod tolerates.
fn tolerations() -> Vec<Value> {
    let unreachable = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"].map(|key| (key, "NoExecute"));
    let pressure = [
        "node.kubernetes.io/disk-pressure",
        "node.kubernetes.io/memory-pressure",
        "node.kubernetes.io/pid-pressure",
        "node.kubernetes.io/unschedulable",
    ]
    .map(|key| (key, "NoSchedule"));
    let one = |(key, effect): &(&str, &str)| json!({"key": key, "operator": "Exists", "effect": effect});
    unreachable.iter().chain(&pressure).map(one).collect()
}

fn pod_for(pod: &mut Value, node: &str, hash: &str) {
    pod["metadata"]["labels"][HASH] = hash.into();
    default_field(&mut pod["spec"], "tolerations", json!([]));
    if let Some(list) = pod["spec"]["tolerations"].as_array_mut() {
        list.extend(tolerations());
    }
    let term = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]});
    if !pod["spec"]["affinity"].is_object() {
        pod["spec"]["affinity"] = json!({});
    }
    pod["spec"]["affinity"]["nodeAffinity"] =
        json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}});
}

/// The node that a daemon pod is on or is meant for.
fn node_of(pod: &Value) -> String {
    let required = &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let meant = &required["nodeSelectorTerms"][0]["matchFields"][0]["values"][0];
    pod["spec"]["nodeName"].as_str().or(meant.as_str()).unwrap_or_default().to_owned()
}

fn sync(model: &mut ApiModel, now: Timestamp, set: &Value) {
    let hash = hash_of(&set["spec"]["template"]);
    let mut by_node: BTreeMap<String, Vec<Arc<Value>>> = BTreeMap::new();
    for pod in pods::claim(model, now, set) {
        by_node.entry(node_of(&pod)).or_default().push(pod);
    }
    let nodes: Vec<Arc<Value>> = all(model, "nodes").into_iter().filter(|node| fits(set, node)).collect();
    let names: Vec<String> = nodes.iter().map(|n| text(n, "name").to_owned()).collect();
    if !being_deleted(set) {
        for (node, list) in &by_node {
            for pod in list {
                let ended = matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded"));
                if !being_deleted(pod) && (!names.contains(node) || ended) {
                    pods::delete(model, now, set, SOURCE, pod);
                }
            }
        }
        for name in &names {
            if by_node.get(name).is_none_or(Vec::is_empty) {
                pods::create(model, now, set, SOURCE, |pod| pod_for(pod, name, &hash));
            }
        }
        if set["spec"]["updateStrategy"]["type"] == "RollingUpdate" {
            update(model, now, set, &hash, &names, &by_node);
        }
    }
    report(model, now, set, &hash, &names, &by_node);
}

fn fits(set: &Value, node: &Value) -> bool {
    let mut pod = json!({"metadata": {}, "spec": set["spec"]["template"]["spec"]});
    default_field(&mut pod["spec"], "tolerations", json!([]));
    if let Some(list) = pod["spec"]["tolerations"].as_array_mut() {
        list.extend(tolerations());
    }
    !being_deleted(node) && scheduler::selects(&pod, node) && scheduler::tolerates(&pod, node)
}

/// Takes pods of an older template away, no more at a time than may be unavailable; with a surge, only where a new one is ready.
fn update(
    model: &mut ApiModel,
    now: Timestamp,
    set: &Value,
    hash: &str,
    names: &[String],
    by_node: &BTreeMap<String, Vec<Arc<Value>>>,
) {
    let rolling = &set["spec"]["updateStrategy"]["rollingUpdate"];
    let whole = i64::try_from(names.len()).unwrap_or(i64::MAX);
    let surge = share(&rolling["maxSurge"], whole, true);
    let current = |pod: &&Arc<Value>| pod["metadata"]["labels"][HASH] == hash;
    let mut budget = share(&rolling["maxUnavailable"], whole, true);
    let mut surging = surge;
    for name in names {
        let list = by_node.get(name).map(Vec::as_slice).unwrap_or_default();
        if !list.iter().any(|p| pods::is_active(p) && pods::is_ready(p)) {
            budget -= 1;
        }
        if list.iter().any(|p| current(&p)) && list.len() > 1 {
            surging -= 1;
        }
    }
    for name in names {
        let list = by_node.get(name).map(Vec::as_slice).unwrap_or_default();
        let Some(old) = list.iter().find(|p| !current(p) && pods::is_active(p)) else { continue };
        let new = list.iter().find(current);
        if surge > 0 {
            match new {
                Some(new) if pods::is_ready(new) => pods::delete(model, now, set, SOURCE, old),
                None if surging > 0 => {
                    surging -= 1;
                    pods::create(model, now, set, SOURCE, |pod| pod_for(pod, name, hash));
                }
                _ => {}
            }
        } else if !pods::is_ready(old) {
            pods::delete(model, now, set, SOURCE, old);
        } else if budget > 0 {
            budget -= 1;
            pods::delete(model, now, set, SOURCE, old);
        }
    }
}

fn report(
    model: &mut ApiModel,
    now: Timestamp,
    set: &Value,
    hash: &str,
    names: &[String],
    by_node: &BTreeMap<String, Vec<Arc<Value>>>,
) {
    let with = |test: &dyn Fn(&Value) -> bool| {
        names
            .iter()
            .filter(|name| by_node.get(*name).is_some_and(|list| list.iter().any(|p| pods::is_active(p) && test(p))))
            .count()
    };
    let ready = with(&|p| pods::is_ready(p));
    let mut status = json!({
        "currentNumberScheduled": with(&|_| true), "desiredNumberScheduled": names.len(), "numberMisscheduled": 0,
        "numberReady": ready, "observedGeneration": set["metadata"]["generation"],
    });
    let updated = with(&|p| p["metadata"]["labels"][HASH] == hash);
    for (field, count) in
        [("updatedNumberScheduled", updated), ("numberAvailable", ready), ("numberUnavailable", names.len() - ready)]
    {
        if count > 0 {
            status[field] = count.into();
        }
    }
    if set["status"] != status {
        let mut set = set.clone();
        set["status"] = status;
        write(model, now, "daemonsets", "status", set);
    }
}
