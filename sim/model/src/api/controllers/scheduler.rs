//! Binds pods to nodes that are ready, selected, tolerated and have room.
//! Upstream: pkg/scheduler (framework/plugins: nodename, nodeaffinity, tainttoleration, nodeunschedulable, noderesources).
//! Differs: the node with the fewest pods wins; no preemption, no pod affinity, no spreading.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kubelet::quantity::Amount;
use kubelet::resources::requests::{Kind, pod_amounts};
use serde_json::{Value, json};

use super::super::ApiModel;
use super::super::defaults::{default_field, items};
use super::super::write::seconds;
use super::{all, being_deleted, event, text, write};

const SOURCE: &str = "default-scheduler";

/// One pass over all pods that are not bound.
pub(super) fn pass(model: &mut ApiModel, now: Timestamp) {
    let pods = all(model, "pods");
    let waiting = |pod: &&Arc<Value>| {
        !pod["spec"]["nodeName"].is_string()
            && !being_deleted(pod)
            && pod["spec"]["schedulerName"] == SOURCE
            && items(&pod["spec"], "schedulingGates").next().is_none()
            && pod["status"]["phase"] == "Pending"
    };
    let mut queue: Vec<&Arc<Value>> = pods.iter().filter(waiting).collect();
    if queue.is_empty() {
        return;
    }
    queue.sort_by_key(|pod| (-pod["spec"]["priority"].as_i64().unwrap_or(0), text(pod, "creationTimestamp").to_owned()));
    let nodes = all(model, "nodes");
    let mut load: BTreeMap<String, Load> = nodes.iter().map(|node| (text(node, "name").to_owned(), Load::default())).collect();
    for pod in pods.iter().filter(|p| !matches!(p["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))) {
        if let Some(load) = pod["spec"]["nodeName"].as_str().and_then(|node| load.get_mut(node)) {
            load.add(pod);
        }
    }
    for pod in queue {
        let mut why: BTreeMap<String, usize> = BTreeMap::new();
        let mut best: Option<(i64, &str)> = None;
        for node in &nodes {
            let name = text(node, "name");
            match load.get(name).map_or(Some("node(s) were gone".to_owned()), |load| unfit(pod, node, load)) {
                Some(reason) => *why.entry(reason).or_default() += 1,
                None => {
                    let count = load.get(name).map_or(0, |l| l.pods);
                    if best.is_none_or(|(least, _)| count < least) {
                        best = Some((count, name));
                    }
                }
            }
        }
        match best {
            Some((_, node)) => {
                if let Some(load) = load.get_mut(node) {
                    load.add(pod);
                }
                bind(model, now, pod, node);
            }
            None => refuse(model, now, pod, nodes.len(), &why),
        }
    }
}

#[derive(Debug, Default)]
struct Load {
    pods: i64,
    cpu: i64,
    memory: i64,
}

fn asked(pod: &Value) -> (i64, i64) {
    let Ok(pod) = serde_json::from_value::<Pod>(pod.clone()) else { return (0, 0) };
    let amounts = pod_amounts(&pod, Kind::Requests);
    let get = |name: &str| amounts.get(name).copied().unwrap_or(0);
    (get("cpu"), get("memory"))
}

impl Load {
    fn add(&mut self, pod: &Value) {
        let (cpu, memory) = asked(pod);
        self.pods += 1;
        self.cpu += cpu;
        self.memory += memory;
    }
}

/// Why a node does not do for a pod, in upstream's words.
fn unfit(pod: &Value, node: &Value, load: &Load) -> Option<String> {
    let ready = items(&node["status"], "conditions").any(|c| c["type"] == "Ready" && c["status"] == "True");
    if !ready {
        return Some("node(s) had untolerated taint {node.kubernetes.io/not-ready: }".to_owned());
    }
    if node["spec"]["unschedulable"] == true
        && !tolerates_taint(pod, &json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}))
    {
        return Some("node(s) were unschedulable".to_owned());
    }
    if let Some(taint) = untolerated(pod, node) {
        let part = |field: &str| taint[field].as_str().unwrap_or_default();
        return Some(format!("node(s) had untolerated taint {{{}: {}}}", part("key"), part("value")));
    }
    if !selects(pod, node) {
        return Some("node(s) didn't match Pod's node affinity/selector".to_owned());
    }
    let limit = |name: &str| node["status"]["allocatable"][name].as_str().and_then(Amount::parse_text);
    let (cpu, memory) = asked(pod);
    if limit("pods").is_some_and(|l| load.pods + 1 > l.value()) {
        return Some("Too many pods".to_owned());
    }
    if limit("cpu").is_some_and(|l| cpu > 0 && load.cpu + cpu > l.milli_value()) {
        return Some("Insufficient cpu".to_owned());
    }
    if limit("memory").is_some_and(|l| memory > 0 && load.memory + memory > l.value()) {
        return Some("Insufficient memory".to_owned());
    }
    None
}

fn tolerates_taint(pod: &Value, taint: &Value) -> bool {
    let same = |toleration: &Value, field: &str| toleration[field].as_str().is_none_or(|v| v.is_empty() || taint[field] == v);
    items(&pod["spec"], "tolerations").any(|t| {
        let value = t["value"].as_str().unwrap_or_default() == taint["value"].as_str().unwrap_or_default();
        same(t, "key") && same(t, "effect") && (t["operator"] == "Exists" || value)
    })
}

fn untolerated<'a>(pod: &Value, node: &'a Value) -> Option<&'a Value> {
    items(&node["spec"], "taints").find(|t| t["effect"] != "PreferNoSchedule" && !tolerates_taint(pod, t))
}

/// Whether a pod tolerates all of a node's taints.
pub(super) fn tolerates(pod: &Value, node: &Value) -> bool {
    untolerated(pod, node).is_none()
}

/// Whether a pod's node selector and required node affinity select a node.
pub(super) fn selects(pod: &Value, node: &Value) -> bool {
    let label = |key: &str| node["metadata"]["labels"][key].as_str();
    let selector = &pod["spec"]["nodeSelector"];
    if !selector.as_object().into_iter().flatten().all(|(k, v)| label(k) == v.as_str()) {
        return false;
    }
    let required = &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let mut terms = items(required, "nodeSelectorTerms").peekable();
    terms.peek().is_none()
        || terms.any(|term| {
            let name = |key: &str| if key == "metadata.name" { Some(text(node, "name")) } else { None };
            items(term, "matchExpressions").all(|e| expression(e, &label))
                && items(term, "matchFields").all(|e| expression(e, &name))
        })
}

fn expression<'a>(expression: &Value, lookup: &impl Fn(&str) -> Option<&'a str>) -> bool {
    let have = lookup(expression["key"].as_str().unwrap_or_default());
    let listed = have.is_some_and(|have| items(expression, "values").any(|v| v == have));
    let number = |text: Option<&str>| text.and_then(|t| t.parse::<i64>().ok());
    let bound = number(expression["values"][0].as_str());
    match expression["operator"].as_str() {
        Some("In") => listed,
        Some("NotIn") => !listed,
        Some("Exists") => have.is_some(),
        Some("DoesNotExist") => have.is_none(),
        Some("Gt") => matches!((number(have), bound), (Some(have), Some(bound)) if have > bound),
        Some("Lt") => matches!((number(have), bound), (Some(have), Some(bound)) if have < bound),
        _ => false,
    }
}

fn bind(model: &mut ApiModel, now: Timestamp, pod: &Value, node: &str) {
    let (namespace, name) = (text(pod, "namespace"), text(pod, "name"));
    if model.bind(now, namespace, name, node).is_ok() {
        let message = format!("Successfully assigned {namespace}/{name} to {node}");
        event(model, now, pod, SOURCE, "Normal", "Scheduled", &message);
    }
}

fn refuse(model: &mut ApiModel, now: Timestamp, pod: &Value, nodes: usize, why: &BTreeMap<String, usize>) {
    let reasons: Vec<String> = why.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    let message = match nodes {
        0 => "no nodes available to schedule pods".to_owned(),
        nodes => format!(
            "0/{nodes} nodes are available: {}. preemption: not eligible due to preemptionPolicy=Never.",
            reasons.join(", ")
        ),
    };
    // Told once for each reason: to tell it again would be a change, and so another pass.
    if items(&pod["status"], "conditions").any(|c| c["type"] == "PodScheduled" && c["message"] == message.as_str()) {
        return;
    }
    let mut changed = pod.clone();
    default_field(&mut changed["status"], "conditions", json!([]));
    if let Some(conditions) = changed["status"]["conditions"].as_array_mut() {
        conditions.retain(|c| c["type"] != "PodScheduled");
        conditions.push(json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
            "lastTransitionTime": seconds(now)}));
    }
    write(model, now, "pods", "status", changed);
    event(model, now, pod, SOURCE, "Warning", "FailedScheduling", &message);
}
