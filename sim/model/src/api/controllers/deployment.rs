//! Rolls a Deployment's ReplicaSets from one template to the next.
//! Upstream: pkg/controller/deployment (sync.go, rolling.go, recreate.go).
//! Differs: no proportional scaling while a roll-out is under way, no progress deadline.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::ApiModel;
use super::super::defaults::items;
use super::super::resource::named;
use super::super::write::seconds;
use super::{all, being_deleted, event, hash_of, in_namespace, is_controlled_by, owner_reference, remove, share, text, write};

const SOURCE: &str = "deployment-controller";
const REVISION: &str = "deployment.kubernetes.io/revision";
const HASH: &str = "pod-template-hash";

/// One pass over all Deployments.
pub(super) fn pass(model: &mut ApiModel, now: Timestamp) {
    for deployment in all(model, "deployments") {
        if !being_deleted(&deployment) {
            sync(model, now, &deployment);
        }
    }
}

fn replicas(object: &Value) -> i64 {
    object["spec"]["replicas"].as_i64().unwrap_or(0)
}

fn count(set: &Value, field: &str) -> i64 {
    set["status"][field].as_i64().unwrap_or(0)
}

fn revision(object: &Value) -> i64 {
    object["metadata"]["annotations"][REVISION].as_str().and_then(|r| r.parse().ok()).unwrap_or(0)
}

fn template_without_hash(set: &Value) -> Value {
    let mut template = set["spec"]["template"].clone();
    if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
        labels.remove(HASH);
    }
    template
}

fn sync(model: &mut ApiModel, now: Timestamp, deployment: &Value) {
    let mut sets = in_namespace(model, "replicasets", text(deployment, "namespace"));
    sets.retain(|set| is_controlled_by(set, deployment) && !being_deleted(set));
    let at = sets.iter().position(|set| template_without_hash(set) == deployment["spec"]["template"]);
    let new = at.map(|at| sets.remove(at));
    let old = sets;
    let Some(new) = new else {
        if deployment["spec"]["paused"] != true {
            create_set(model, now, deployment, &old);
        }
        return;
    };
    let newest = old.iter().map(|s| revision(s)).max().unwrap_or(0).max(0) + 1;
    if revision(&new) < newest {
        annotate(model, now, &new, newest);
        return;
    }
    if revision(deployment) != revision(&new) {
        let mut marked = deployment.clone();
        set_annotation(&mut marked, &revision(&new).to_string());
        write(model, now, "deployments", "", marked);
        return;
    }
    if deployment["spec"]["strategy"]["type"] == "Recreate" {
        recreate(model, now, deployment, &new, &old);
    } else {
        roll(model, now, deployment, &new, &old);
    }
    clean_up(model, now, deployment, &new, &old);
    report(model, now, deployment, &new, &old);
}

fn set_annotation(object: &mut Value, value: &str) {
    if !object["metadata"]["annotations"].is_object() {
        object["metadata"]["annotations"] = json!({});
    }
    object["metadata"]["annotations"][REVISION] = value.into();
}

fn annotate(model: &mut ApiModel, now: Timestamp, set: &Value, revision: i64) {
    let mut set = set.clone();
    set_annotation(&mut set, &revision.to_string());
    write(model, now, "replicasets", "", set);
}

fn create_set(model: &mut ApiModel, now: Timestamp, deployment: &Value, old: &[Arc<Value>]) {
    let hash = hash_of(&deployment["spec"]["template"]);
    let mut template = deployment["spec"]["template"].clone();
    template["metadata"]["labels"][HASH] = hash.as_str().into();
    let mut selector = deployment["spec"]["selector"].clone();
    if !selector["matchLabels"].is_object() {
        selector["matchLabels"] = json!({});
    }
    selector["matchLabels"][HASH] = hash.as_str().into();
    // What exists of the old is counted by the roll: it scales the new set up in the next pass.
    let first = old.iter().all(|s| replicas(s) == 0);
    let set = json!({
        "metadata": {
            "name": format!("{}-{hash}", text(deployment, "name")),
            "labels": template["metadata"]["labels"],
            "annotations": {REVISION: (old.iter().map(|s| revision(s)).max().unwrap_or(0) + 1).to_string()},
            "ownerReferences": [owner_reference(deployment)],
        },
        "spec": {"replicas": if first { replicas(deployment) } else { 0 }, "selector": selector, "template": template},
    });
    if let Ok(set) = model.create(now, named("replicasets"), text(deployment, "namespace"), set)
        && replicas(&set) > 0
    {
        let message = format!("Scaled up replica set {} from 0 to {}", text(&set, "name"), replicas(&set));
        event(model, now, deployment, SOURCE, "Normal", "ScalingReplicaSet", &message);
    }
}

fn scale(model: &mut ApiModel, now: Timestamp, deployment: &Value, set: &Value, to: i64) {
    let from = replicas(set);
    if from == to {
        return;
    }
    let mut scaled = set.clone();
    scaled["spec"]["replicas"] = to.into();
    write(model, now, "replicasets", "", scaled);
    let way = if to > from { "up" } else { "down" };
    let message = format!("Scaled {way} replica set {} from {from} to {to}", text(set, "name"));
    event(model, now, deployment, SOURCE, "Normal", "ScalingReplicaSet", &message);
}

fn recreate(model: &mut ApiModel, now: Timestamp, deployment: &Value, new: &Value, old: &[Arc<Value>]) {
    for set in old {
        scale(model, now, deployment, set, 0);
    }
    let uids: Vec<&Value> = old.iter().map(|s| &s["metadata"]["uid"]).collect();
    let remain = in_namespace(model, "pods", text(deployment, "namespace")).iter().any(|pod| {
        let ended = matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded"));
        !ended && super::controller_of(pod).is_some_and(|o| uids.contains(&&o["uid"]))
    });
    if !remain {
        scale(model, now, deployment, new, replicas(deployment));
    }
}

fn roll(model: &mut ApiModel, now: Timestamp, deployment: &Value, new: &Value, old: &[Arc<Value>]) {
    let wanted = replicas(deployment);
    let rolling = &deployment["spec"]["strategy"]["rollingUpdate"];
    let surge = share(&rolling["maxSurge"], wanted, true);
    let mut unavailable = share(&rolling["maxUnavailable"], wanted, false);
    if surge == 0 && unavailable == 0 {
        unavailable = 1;
    }
    let total: i64 = replicas(new) + old.iter().map(|s| replicas(s)).sum::<i64>();
    if replicas(new) > wanted {
        scale(model, now, deployment, new, wanted);
        return;
    }
    if replicas(new) < wanted {
        let room = (wanted + surge - total).max(0);
        let to = replicas(new) + room.min(wanted - replicas(new));
        if to != replicas(new) {
            scale(model, now, deployment, new, to);
            return;
        }
    }
    scale_down_old(model, now, deployment, new, old, wanted - unavailable);
}

fn scale_down_old(model: &mut ApiModel, now: Timestamp, deployment: &Value, new: &Value, old: &[Arc<Value>], least: i64) {
    // A status that lags behind its spec would count pods twice.
    let settled = |s: &Value| s["status"]["observedGeneration"] == s["metadata"]["generation"];
    if !settled(new) || !old.iter().all(|s| settled(s)) {
        return;
    }
    let total: i64 = replicas(new) + old.iter().map(|s| replicas(s)).sum::<i64>();
    let mut may_go = total - least - (replicas(new) - count(new, "availableReplicas"));
    let mut left: Vec<(Arc<Value>, i64)> = old.iter().map(|s| (Arc::clone(s), replicas(s))).collect();
    // First what is not available anyway.
    for (set, replicas) in &mut left {
        let idle = (*replicas - count(set, "availableReplicas")).clamp(0, may_go.max(0));
        *replicas -= idle;
        may_go -= idle;
    }
    let available: i64 = count(new, "availableReplicas") + old.iter().map(|s| count(s, "availableReplicas")).sum::<i64>();
    let mut spare = (available - least).max(0);
    left.sort_by(|a, b| {
        text(&a.0, "creationTimestamp").cmp(text(&b.0, "creationTimestamp")).then_with(|| revision(&a.0).cmp(&revision(&b.0)))
    });
    for (set, replicas) in &mut left {
        let go = (*replicas).min(spare);
        *replicas -= go;
        spare -= go;
        scale(model, now, deployment, set, *replicas);
    }
}

fn clean_up(model: &mut ApiModel, now: Timestamp, deployment: &Value, new: &Value, old: &[Arc<Value>]) {
    let keep = usize::try_from(deployment["spec"]["revisionHistoryLimit"].as_i64().unwrap_or(10)).unwrap_or(0);
    let empty = |s: &&Arc<Value>| replicas(s) == 0 && count(s, "replicas") == 0 && revision(s) < revision(new);
    let mut done: Vec<&Arc<Value>> = old.iter().filter(empty).collect();
    done.sort_by_key(|s| revision(s));
    let surplus = done.len().saturating_sub(keep);
    for set in &done[..surplus] {
        remove(model, now, "replicasets", set);
    }
}

fn report(model: &mut ApiModel, now: Timestamp, deployment: &Value, new: &Value, old: &[Arc<Value>]) {
    let sum = |field: &str| count(new, field) + old.iter().map(|s| count(s, field)).sum::<i64>();
    let wanted = replicas(deployment);
    let (total, ready, available) = (sum("replicas"), sum("readyReplicas"), sum("availableReplicas"));
    let mut status = json!({"observedGeneration": deployment["metadata"]["generation"]});
    for (field, number) in [
        ("replicas", total),
        ("updatedReplicas", count(new, "replicas")),
        ("readyReplicas", ready),
        ("availableReplicas", available),
        ("unavailableReplicas", (wanted.max(total) - available).max(0)),
    ] {
        if number > 0 {
            status[field] = number.into();
        }
    }
    let least = wanted - share(&deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"], wanted, false);
    let complete = count(new, "replicas") == wanted && available >= wanted && total == wanted;
    let name = text(new, "name");
    let conditions = [
        if available >= least {
            ("Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.".to_owned())
        } else {
            ("Available", "False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.".to_owned())
        },
        if complete {
            ("Progressing", "True", "NewReplicaSetAvailable", format!("ReplicaSet \"{name}\" has successfully progressed."))
        } else {
            ("Progressing", "True", "ReplicaSetUpdated", format!("ReplicaSet \"{name}\" is progressing."))
        },
    ];
    status["conditions"] = conditions
        .into_iter()
        .map(|(kind, value, reason, message)| {
            let old = items(&deployment["status"], "conditions").find(|c| c["type"] == kind);
            match old.filter(|c| c["status"] == value && c["reason"] == reason) {
                Some(same) => same.clone(),
                None => json!({"type": kind, "status": value, "reason": reason, "message": message,
                "lastUpdateTime": seconds(now), "lastTransitionTime": seconds(now)}),
            }
        })
        .collect();
    if deployment["status"] != status {
        let mut deployment = deployment.clone();
        deployment["status"] = status;
        write(model, now, "deployments", "status", deployment);
    }
}
