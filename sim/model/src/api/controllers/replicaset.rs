//! Keeps as many pods of a ReplicaSet as it asks for.
//! Upstream: pkg/controller/replicaset/replica_set.go.
//! Differs: all at once instead of in slow-start batches.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::ApiModel;
use super::super::defaults::items;
use super::{all, being_deleted, pods, write};

const SOURCE: &str = "replicaset-controller";

/// One pass over all ReplicaSets.
pub(super) fn pass(model: &mut ApiModel, now: Timestamp) {
    for set in all(model, "replicasets") {
        sync(model, now, &set);
    }
}

fn sync(model: &mut ApiModel, now: Timestamp, set: &Value) {
    let mut active = pods::claim(model, now, set);
    active.retain(|p| pods::is_active(p));
    let wanted = usize::try_from(set["spec"]["replicas"].as_i64().unwrap_or(1)).unwrap_or(0);
    if !being_deleted(set) {
        for _ in active.len()..wanted {
            pods::create(model, now, set, SOURCE, |_| {});
        }
        if active.len() > wanted {
            pods::least_missed_first(&mut active);
            for pod in active.drain(..active.len() - wanted) {
                pods::delete(model, now, set, SOURCE, &pod);
            }
        }
    }
    let template = &set["spec"]["template"]["metadata"]["labels"];
    let labelled = |p: &Value| template.as_object().into_iter().flatten().all(|(k, v)| p["metadata"]["labels"][k] == *v);
    let ready = active.iter().filter(|p| pods::is_ready(p)).count();
    let mut status = json!({"replicas": active.len(), "observedGeneration": set["metadata"]["generation"]});
    for (field, count) in [
        ("fullyLabeledReplicas", active.iter().filter(|p| labelled(p)).count()),
        ("readyReplicas", ready),
        ("availableReplicas", ready),
    ] {
        if count > 0 {
            status[field] = count.into();
        }
    }
    debug_assert!(items(&status, "conditions").next().is_none());
    if set["status"] != status {
        let mut set = set.clone();
        set["status"] = status;
        write(model, now, "replicasets", "status", set);
    }
}
