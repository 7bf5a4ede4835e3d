//! The pods that a workload owns: which they are, how they fare, how one is made.
//! Upstream: pkg/controller/controller_utils.go, controller_ref_manager.go.
//! Differs: minReadySeconds counts as zero.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::ApiModel;
use super::super::defaults::items;
use super::super::resource::named;
use super::super::selector::Selector;
use super::{being_deleted, controller_of, event, in_namespace, is_controlled_by, owner_reference, remove, text, write};

pub(super) fn is_ready(pod: &Value) -> bool {
    items(&pod["status"], "conditions").any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Neither ended nor being deleted.
pub(super) fn is_active(pod: &Value) -> bool {
    !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) && !being_deleted(pod)
}

/// The pods of a workload, after orphans that it selects were adopted and pods that it selects no more were let go.
pub(super) fn claim(model: &mut ApiModel, now: Timestamp, owner: &Value) -> Vec<Arc<Value>> {
    let Some(selector) = Selector::of_spec(&owner["spec"]["selector"]) else { return Vec::new() };
    let mut claimed = Vec::new();
    for pod in in_namespace(model, "pods", text(owner, "namespace")) {
        let owned = is_controlled_by(&pod, owner);
        match (owned, selector.matches(&pod)) {
            (true, true) => claimed.push(pod),
            (true, false) if !being_deleted(&pod) => {
                let mut freed = (*pod).clone();
                if let Some(owners) = freed["metadata"]["ownerReferences"].as_array_mut() {
                    owners.retain(|o| o["uid"] != owner["metadata"]["uid"]);
                }
                write(model, now, "pods", "", freed);
            }
            (false, true) if controller_of(&pod).is_none() && is_active(&pod) && !being_deleted(owner) => {
                let mut adopted = (*pod).clone();
                match adopted["metadata"]["ownerReferences"].as_array_mut() {
                    Some(owners) => owners.push(owner_reference(owner)),
                    None => adopted["metadata"]["ownerReferences"] = json!([owner_reference(owner)]),
                }
                write(model, now, "pods", "", adopted);
            }
            _ => {}
        }
    }
    claimed
}

/// Makes a pod of a workload's template.
pub(super) fn create(model: &mut ApiModel, now: Timestamp, owner: &Value, source: &str, change: impl FnOnce(&mut Value)) {
    let template = &owner["spec"]["template"];
    let mut pod = json!({
        "metadata": {"generateName": format!("{}-", text(owner, "name")), "ownerReferences": [owner_reference(owner)]},
        "spec": template["spec"],
    });
    for field in ["labels", "annotations", "finalizers"] {
        if let Some(value) = template["metadata"].get(field) {
            pod["metadata"][field] = value.clone();
        }
    }
    change(&mut pod);
    match model.create(now, named("pods"), text(owner, "namespace"), pod) {
        Ok(pod) => {
            let message = format!("Created pod: {}", text(&pod, "name"));
            event(model, now, owner, source, "Normal", "SuccessfulCreate", &message);
        }
        Err(error) => {
            // Told once: a second event would be a change, and so another pass.
            let told = in_namespace(model, "events", text(owner, "namespace"))
                .iter()
                .any(|e| e["reason"] == "FailedCreate" && e["involvedObject"]["uid"] == owner["metadata"]["uid"]);
            if !told {
                event(model, now, owner, source, "Warning", "FailedCreate", &format!("Error creating: {}", error.message));
            }
        }
    }
}

/// Deletes a workload's pod.
pub(super) fn delete(model: &mut ApiModel, now: Timestamp, owner: &Value, source: &str, pod: &Value) {
    remove(model, now, "pods", pod);
    event(model, now, owner, source, "Normal", "SuccessfulDelete", &format!("Deleted pod: {}", text(pod, "name")));
}

/// Sorts pods so that those that are missed least come first.
pub(super) fn least_missed_first(pods: &mut [Arc<Value>]) {
    let phase = |pod: &Value| match pod["status"]["phase"].as_str() {
        Some("Running") => 2,
        Some("Unknown") => 1,
        _ => 0,
    };
    // Newer pods first among equals; names make the order complete.
    pods.sort_by(|a, b| {
        let rank = |p: &Value| (p["spec"]["nodeName"].is_string(), phase(p), is_ready(p));
        rank(a)
            .cmp(&rank(b))
            .then_with(|| text(b, "creationTimestamp").cmp(text(a, "creationTimestamp")))
            .then_with(|| text(a, "name").cmp(text(b, "name")))
    });
}
