//! Removes what no owner wants any more, and empties namespaces that are being deleted.
//! Upstream: pkg/controller/garbagecollector, pkg/controller/namespace.
//! Differs: `blockOwnerDeletion` does not matter: a foreground deletion waits for all dependents.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use super::super::ApiModel;
use super::super::defaults::items;
use super::{all, being_deleted, remove, text, write};

/// Gives every namespace its service account, and empties those that are being deleted.
pub(super) fn namespaces(model: &mut ApiModel, now: Timestamp) {
    for namespace in all(model, "namespaces") {
        let name = text(&namespace, "name");
        if !being_deleted(&namespace) {
            model.furnish_namespace(now, name);
            continue;
        }
        let content: Vec<(&'static str, Arc<Value>)> = model
            .store
            .all()
            .filter(|((_, ns, _), _)| ns == name)
            .map(|((plural, _, _), object)| (*plural, Arc::clone(object)))
            .collect();
        for (plural, object) in content.iter().filter(|(_, object)| !being_deleted(object)) {
            remove(model, now, plural, object);
        }
        let finalizers = namespace["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
        if !finalizers && !model.store.all().any(|((_, ns, _), _)| ns == name) {
            model.store.remove("namespaces", "", name);
        }
    }
}

fn has_finalizer(object: &Value, finalizer: &str) -> bool {
    items(&object["metadata"], "finalizers").any(|f| f == finalizer)
}

fn drop_finalizer(model: &mut ApiModel, now: Timestamp, plural: &'static str, object: &Value, finalizer: &str) {
    let mut freed = object.clone();
    if let Some(list) = freed["metadata"]["finalizers"].as_array_mut() {
        list.retain(|f| f != finalizer);
    }
    write(model, now, plural, "", freed);
}

/// Deletes dependents whose owners are gone, and lets owners go whose dependents are dealt with.
pub(super) fn collect(model: &mut ApiModel, now: Timestamp) {
    let objects: Vec<(&'static str, Arc<Value>)> = model.store.all().map(|((plural, _, _), o)| (*plural, Arc::clone(o))).collect();
    let present: BTreeSet<String> = objects.iter().map(|(_, o)| text(o, "uid").to_owned()).collect();
    let mut dependents: BTreeMap<String, Vec<(&'static str, Arc<Value>)>> = BTreeMap::new();
    for (plural, object) in &objects {
        let owners: Vec<&str> = items(&object["metadata"], "ownerReferences").filter_map(|o| o["uid"].as_str()).collect();
        for owner in &owners {
            dependents.entry((*owner).to_owned()).or_default().push((plural, Arc::clone(object)));
        }
        let abandoned = !owners.is_empty() && owners.iter().all(|uid| !present.contains(*uid));
        if abandoned && !being_deleted(object) {
            remove(model, now, plural, object);
        }
    }
    for (plural, owner) in objects.iter().filter(|(_, o)| being_deleted(o)) {
        let mine = dependents.get(text(owner, "uid")).map(Vec::as_slice).unwrap_or_default();
        if has_finalizer(owner, "orphan") {
            for (plural, object) in mine {
                let mut freed = (**object).clone();
                if let Some(owners) = freed["metadata"]["ownerReferences"].as_array_mut() {
                    owners.retain(|o| o["uid"] != owner["metadata"]["uid"]);
                }
                write(model, now, plural, "", freed);
            }
            drop_finalizer(model, now, plural, owner, "orphan");
        } else if has_finalizer(owner, "foregroundDeletion") {
            for (plural, object) in mine.iter().filter(|(_, o)| !being_deleted(o)) {
                remove(model, now, plural, object);
            }
            if mine.is_empty() {
                drop_finalizer(model, now, plural, owner, "foregroundDeletion");
            }
        }
    }
}
