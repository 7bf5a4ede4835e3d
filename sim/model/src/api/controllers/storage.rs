//! Binds claims to the volumes that name them, and attaches volumes to the nodes whose pods use them.
//! Upstream: pkg/controller/volume/{persistentvolume,ephemeral,attachdetach}, the CSI external-attacher.
//! Differs: static provisioning only; a volume is attached as soon as the driver is registered on the node, and detached only once the node
//! does not say any more that it is in use.

use std::sync::Arc;

use jiff::Timestamp;
use kubelet::volumes::csi::spec::attachment_name;
use serde_json::{Value, json};

use super::super::ApiModel;
use super::super::defaults::items;
use super::super::resource::named;
use super::{all, being_deleted, is_controlled_by, owner_reference, remove, text, write};

/// One pass over claims, volumes and attachments. Nothing to do where there are no volumes.
pub fn pass(model: &mut ApiModel, now: Timestamp) {
    let volumes = all(model, "persistentvolumes");
    if volumes.is_empty() {
        return;
    }
    make_ephemeral_claims(model, now);
    for volume in &volumes {
        bind(model, now, volume);
    }
    for node in all(model, "nodes") {
        attach(model, now, &node);
    }
}

/// The claims of generic ephemeral volumes.
fn make_ephemeral_claims(model: &mut ApiModel, now: Timestamp) {
    for pod in all(model, "pods").iter().filter(|pod| !being_deleted(pod)) {
        let namespace = text(pod, "namespace");
        for volume in items(&pod["spec"], "volumes").filter(|volume| !volume["ephemeral"].is_null()) {
            let name = format!("{}-{}", text(pod, "name"), volume["name"].as_str().unwrap_or_default());
            if model.store.get("persistentvolumeclaims", namespace, &name).is_some() {
                continue;
            }
            let template = &volume["ephemeral"]["volumeClaimTemplate"];
            let metadata = json!({"name": name, "namespace": namespace, "ownerReferences": [owner_reference(pod)]});
            let claim = json!({"metadata": metadata, "spec": template["spec"]});
            let _next_pass = model.create(now, named("persistentvolumeclaims"), namespace, claim);
        }
    }
}

/// Binds the claim that a volume was made for.
fn bind(model: &mut ApiModel, now: Timestamp, volume: &Value) {
    let of = &volume["spec"]["claimRef"];
    let (namespace, name) = (of["namespace"].as_str().unwrap_or_default(), of["name"].as_str().unwrap_or_default());
    let Some(claim) = model.store.get("persistentvolumeclaims", namespace, name).cloned() else { return };
    if of["uid"].is_null() {
        let mut volume = volume.clone();
        volume["spec"]["claimRef"]["uid"] = claim["metadata"]["uid"].clone();
        write(model, now, "persistentvolumes", "", volume);
    }
    let bound_to = claim["spec"]["volumeName"].as_str().unwrap_or_default();
    if bound_to.is_empty() {
        let mut claim = (*claim).clone();
        claim["spec"]["volumeName"] = volume["metadata"]["name"].clone();
        write(model, now, "persistentvolumeclaims", "", claim);
    } else if bound_to == text(volume, "name") && claim["status"]["phase"] != "Bound" {
        let mut claim = (*claim).clone();
        claim["status"] = json!({"phase": "Bound", "accessModes": volume["spec"]["accessModes"]});
        write(model, now, "persistentvolumeclaims", "status", claim);
    }
}

/// The names of the claims that a pod uses.
pub fn claims_of(pod: &Value) -> impl Iterator<Item = String> {
    items(&pod["spec"], "volumes").filter_map(|volume| {
        if !volume["ephemeral"].is_null() {
            return Some(format!("{}-{}", text(pod, "name"), volume["name"].as_str().unwrap_or_default()));
        }
        volume["persistentVolumeClaim"]["claimName"].as_str().map(str::to_owned)
    })
}

/// The volumes that pods of that node use by their claims.
#[must_use]
pub fn volumes_of_node(model: &ApiModel, node: &str) -> Vec<Arc<Value>> {
    let pods = model.store.list("pods", "").filter(|pod| pod["spec"]["nodeName"] == node);
    let mut names: Vec<String> = Vec::new();
    for pod in pods {
        let namespace = text(pod, "namespace");
        for claim in claims_of(pod).filter_map(|name| model.store.get("persistentvolumeclaims", namespace, &name)) {
            let generic = items(&pod["spec"], "volumes").any(|volume| !volume["ephemeral"].is_null());
            if !generic || is_controlled_by(claim, pod) || claim["metadata"]["ownerReferences"].is_null() {
                names.extend(claim["spec"]["volumeName"].as_str().map(str::to_owned));
            }
        }
    }
    names.iter().filter_map(|name| model.store.get("persistentvolumes", "", name).cloned()).collect()
}

fn attach(model: &mut ApiModel, now: Timestamp, node: &Value) {
    let name = text(node, "name");
    let csi_node = model.store.get("csinodes", "", name).cloned();
    let registered =
        |driver: &str| csi_node.as_ref().is_some_and(|found| items(&found["spec"], "drivers").any(|entry| entry["name"] == driver));
    let mut wanted: Vec<(String, String)> = Vec::new();
    for volume in volumes_of_node(model, name) {
        let source = &volume["spec"]["csi"];
        let (Some(driver), Some(handle)) = (source["driver"].as_str(), source["volumeHandle"].as_str()) else { continue };
        let object = model.store.get("csidrivers", "", driver);
        let attaches = object.is_none_or(|driver| driver["spec"]["attachRequired"] != false);
        if !attaches || !registered(driver) {
            continue;
        }
        let attachment = attachment_name(handle, driver, name);
        wanted.push((attachment.clone(), format!("kubernetes.io/csi/{driver}^{handle}")));
        if model.store.get("volumeattachments", "", &attachment).is_none() {
            let spec =
                json!({"attacher": driver, "nodeName": name, "source": {"persistentVolumeName": volume["metadata"]["name"]}});
            let made = json!({"metadata": {"name": attachment}, "spec": spec});
            let _next_pass = model.create(now, named("volumeattachments"), "", made);
            if let Some(made) = model.store.get("volumeattachments", "", &attachment).cloned() {
                let mut made = (*made).clone();
                made["status"] = json!({"attached": true, "attachmentMetadata": {"devicePath": format!("/dev/{handle}")}});
                write(model, now, "volumeattachments", "status", made);
            }
        }
    }
    detach(model, now, node, &wanted);
}

/// Says of a node what is attached, and takes away what it neither uses nor wants.
fn detach(model: &mut ApiModel, now: Timestamp, node: &Value, wanted: &[(String, String)]) {
    let in_use = |volume: &str| items_of(&node["status"]["volumesInUse"]).any(|used| used == volume);
    let mut attached: Vec<String> =
        items_of(&node["status"]["volumesAttached"]).filter_map(|one| one["name"].as_str().map(str::to_owned)).collect();
    attached.retain(|volume| in_use(volume) || wanted.iter().any(|(_, name)| name == volume));
    for (_, volume) in wanted.iter().filter(|(_, volume)| !attached.contains(volume)).collect::<Vec<_>>() {
        attached.push(volume.clone());
    }
    let told: Vec<Value> = attached.iter().map(|name| json!({"name": name, "devicePath": ""})).collect();
    if items_of(&node["status"]["volumesAttached"]).ne(told.iter()) {
        let mut node = node.clone();
        node["status"]["volumesAttached"] = told.into();
        write(model, now, "nodes", "status", node);
        // What is taken away goes in the next pass, once that is known.
        return;
    }
    for attachment in all(model, "volumeattachments").iter().filter(|one| one["spec"]["nodeName"] == node["metadata"]["name"]) {
        let name = text(attachment, "name");
        let is_told = attached.iter().any(|volume| {
            let (driver, handle) = volume.trim_start_matches("kubernetes.io/csi/").split_once('^').unwrap_or_default();
            attachment_name(handle, driver, text(node, "name")) == name
        });
        if !is_told {
            remove(model, now, "volumeattachments", attachment);
        }
    }
}

fn items_of(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}
