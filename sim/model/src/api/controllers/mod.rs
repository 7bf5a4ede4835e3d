//! The controllers that a cluster has beside its nodes, each one pass over what is stored.
//! Upstream: cmd/kube-controller-manager, cmd/kube-scheduler.
//! Differs: no informers, no queues, no leader; a pass sees everything as it is.

mod daemonset;
mod deployment;
mod garbage;
mod pods;
mod replicaset;
mod scheduler;
pub mod storage;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::ApiModel;
use super::resource::named;
use super::write::seconds;

/// How many passes one run may take: more means that two controllers undo each other.
const MAX_PASSES: usize = 100;

/// The controllers of one cluster. They act only on what is stored, so a new value carries on where another left off.
#[derive(Clone, Debug, Default)]
pub struct Controllers {
    seen: u64,
}

impl Controllers {
    /// Lets all controllers act until none has anything left to do. Cheap if nothing has changed since the last run.
    ///
    /// # Panics
    /// If they do not come to rest: that is a bug in one of them.
    pub fn run(&mut self, model: &mut ApiModel, now: Timestamp) {
        for _ in 0..MAX_PASSES {
            if model.store.revision() == self.seen {
                return;
            }
            self.seen = model.store.revision();
            garbage::namespaces(model, now);
            deployment::pass(model, now);
            replicaset::pass(model, now);
            daemonset::pass(model, now);
            scheduler::pass(model, now);
            storage::pass(model, now);
            garbage::collect(model, now);
        }
        panic!("the controllers do not come to rest");
    }
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

fn being_deleted(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

fn all(model: &ApiModel, plural: &'static str) -> Vec<Arc<Value>> {
    model.store.list(plural, "").cloned().collect()
}

fn in_namespace(model: &ApiModel, plural: &'static str, namespace: &str) -> Vec<Arc<Value>> {
    model.store.list(plural, namespace).cloned().collect()
}

fn controller_of(object: &Value) -> Option<&Value> {
    super::defaults::items(&object["metadata"], "ownerReferences").find(|o| o["controller"] == true)
}

fn is_controlled_by(object: &Value, owner: &Value) -> bool {
    controller_of(object).is_some_and(|o| o["uid"] == owner["metadata"]["uid"])
}

fn owner_reference(owner: &Value) -> Value {
    json!({"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"], "controller": true, "blockOwnerDeletion": true})
}

/// Writes an object that a controller changed; what another write overtook is seen again in the next pass.
fn write(model: &mut ApiModel, now: Timestamp, plural: &'static str, subresource: &str, object: Value) {
    let (namespace, name) = (text(&object, "namespace").to_owned(), text(&object, "name").to_owned());
    let _next_pass = model.update(now, named(plural), &namespace, &name, subresource, object);
}

fn remove(model: &mut ApiModel, now: Timestamp, plural: &'static str, object: &Value) {
    let (namespace, name) = (text(object, "namespace"), text(object, "name"));
    let _gone_already = model.delete(now, named(plural), namespace, name, &super::write::DeleteOptions::default());
}

/// Stores an event about an object.
fn event(model: &mut ApiModel, now: Timestamp, about: &Value, source: &str, kind: &str, reason: &str, message: &str) {
    let namespace = match text(about, "namespace") {
        "" => "default",
        namespace => namespace,
    }
    .to_owned();
    let event = json!({
        "metadata": {"name": format!("{}.{:x}", text(about, "name"), model.store.revision()), "namespace": namespace},
        "involvedObject": {"kind": about["kind"], "namespace": about["metadata"]["namespace"], "name": about["metadata"]["name"],
            "uid": about["metadata"]["uid"], "apiVersion": about["apiVersion"], "resourceVersion": about["metadata"]["resourceVersion"]},
        "reason": reason, "message": message, "source": {"component": source}, "firstTimestamp": seconds(now),
        "lastTimestamp": seconds(now), "count": 1, "type": kind, "eventTime": null, "reportingComponent": source, "reportingInstance": "",
    });
    let _dropped = model.create(now, named("events"), &namespace, event);
}

/// `25%` of a whole or a plain number, rounded up or down.
fn share(value: &Value, whole: i64, up: bool) -> i64 {
    match value.as_str().and_then(|v| v.strip_suffix('%')).and_then(|v| v.parse::<i64>().ok()) {
        Some(percent) if up => (percent * whole + 99) / 100,
        Some(percent) => percent * whole / 100,
        None => value.as_i64().unwrap_or(0),
    }
}

/// A short name for a template, as upstream's hashes look.
fn hash_of(template: &Value) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let digest = template.to_string().bytes().fold(0x811c_9dc5_u32, |d, b| (d ^ u32::from(b)).wrapping_mul(0x0100_0193));
    digest.to_string().bytes().map(|b| char::from(LETTERS[usize::from(b) % LETTERS.len()])).collect()
}
