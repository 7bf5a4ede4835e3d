//! Decides what pod a manifest asks for, or what is wrong with it.
//! Upstream: pkg/kubelet/config/common.go (tryDecodeSinglePod, tryDecodePodList, applyDefaults).
//! Differs: what only the API server would find wrong is left to it: then there is a pod, and no mirror pod of it; a list has at most 1000.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus, Toleration};
use serde_json::Value;

use super::defaults;
use super::references::api_reference;
use super::uid::{Origin, Place, uid};
use crate::pod::manager::{HASH_ANNOTATION, MIRROR_ANNOTATION};
use crate::quantity::Amount;

/// The pod of a manifest, with its defaults, its UID and the node's name in its own (POD-008).
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn decode(contents: &[u8], origin: Origin<'_>) -> Result<Arc<Pod>, String> {
    pod_of(document_of(contents)?, origin)
}

/// How many pods one answer may ask for, as many as a folder may.
pub(super) const MOST_PODS: usize = 1000;

/// The pods of what a URL answers: one pod, or a list of pods of which none may be wrong (POD-010).
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn decode_any(contents: &[u8], origin: Origin<'_>) -> Result<Vec<Arc<Pod>>, String> {
    let mut document = document_of(contents)?;
    if document["kind"] != "PodList" || document["apiVersion"] != "v1" {
        return pod_of(document, origin).map(|pod| vec![pod]);
    }
    let items = match document["items"].take() {
        Value::Null => Vec::new(),
        Value::Array(items) if items.len() <= MOST_PODS => items,
        Value::Array(items) => {
            return Err(format!("invalid pods list: it has {} items, and at most {MOST_PODS} may be", items.len()));
        }
        _ => return Err("invalid pods list: items is no list".to_owned()),
    };
    // Whatever kind an item says that it is of.
    let pod = |mut item: Value| {
        item.as_object_mut().into_iter().for_each(|fields| fields.retain(|field, _| field != "kind" && field != "apiVersion"));
        pod_from(item, origin)
    };
    items.into_iter().map(pod).collect()
}

fn document_of(contents: &[u8]) -> Result<Value, String> {
    std::str::from_utf8(contents).map_err(|error| error.to_string())?;
    // As sigs.k8s.io/yaml reads: of two equal keys the last counts, 0644 is octal, and what follows the first document does not count.
    // What aliases stand for is copied: however it is written, all copies together take no more than this.
    let copies = MOST_COPIED / contents.len().max(1);
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::LastWins,
        legacy_octal_numbers: true,
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: copies },
    };
    let mut reader = contents;
    let first = serde_saphyr::read_with_options::<_, Value>(&mut reader, options).next();
    let mut document = first.unwrap_or(Ok(Value::Null)).map_err(|error| format!("yaml: {error}"))?;
    whole_numbers(&mut document);
    Ok(document)
}

/// What copies of anchored parts may take, in bytes.
const MOST_COPIED: usize = 64 << 20;

/// `5.0` is 5, as YAML that becomes JSON in Go has it.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            // Beyond this not every whole number is one of these.
            let exact = |float: &f64| float.fract() == 0.0 && float.abs() < 9_007_199_254_740_992.0;
            if let Some(whole) = number.as_f64().filter(|_| number.is_f64()).filter(exact) {
                *number = (whole as i64).into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(fields) => fields.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

fn pod_of(document: Value, origin: Origin<'_>) -> Result<Arc<Pod>, String> {
    let (version, kind) = (document["apiVersion"].as_str().unwrap_or_default(), document["kind"].as_str().unwrap_or_default());
    if version != "v1" || kind != "Pod" {
        return Err(format!("invalid pod: it is a {kind:?} of {version:?}, not a Pod of v1"));
    }
    pod_from(document, origin)
}

/// What is wrong, without the value that is: it may be a secret, and events are for everybody. Go's decoder tells none either.
fn without_value(error: &serde_json::Error) -> String {
    let said = error.to_string();
    match said.rsplit_once(", expected ") {
        // What was found is told by its kind and then, between quotes, as it is.
        Some((found, expected)) => {
            let kind = found.split(['`', '"']).next().unwrap_or_default().trim_end();
            format!("{kind}, expected {expected}")
        }
        None if said.starts_with("missing field") || said.starts_with("duplicate field") => said,
        None => "a value cannot be read".to_owned(),
    }
}

fn pod_from(document: Value, origin: Origin<'_>) -> Result<Arc<Pod>, String> {
    // Unknown fields are left out, as a server would.
    let read =
        |document: Value| serde_json::from_value::<Pod>(document).map_err(|error| format!("json: {}", without_value(&error)));
    let pod = read(document)?;
    let mut document = serde_json::to_value(&pod).map_err(|error| error.to_string())?;
    if pod.metadata.name.as_deref().unwrap_or_default().is_empty() {
        return Err("invalid pod: name is needed for the pod".to_owned());
    }
    drop_old_annotations(&mut document);
    defaults::pod(&mut document);
    let mut pod = read(document.clone())?;
    let own = pod.metadata.uid.clone().filter(|uid| !uid.is_empty());
    place(&mut pod, own.unwrap_or_else(|| uid(&document, origin)), origin);
    let wrong = wrong_with(&pod);
    if !wrong.is_empty() {
        return Err(format!("invalid pod: [{}]", wrong.join(" ")));
    }
    match api_reference(&pod) {
        Some(kind) => Err(format!("static pods may not reference {kind}")),
        None => Ok(Arc::new(pod)),
    }
}

/// Annotations that init containers once lay in (dropInitContainerAnnotations).
fn drop_old_annotations(document: &mut Value) {
    if let Some(annotations) = document["metadata"].get_mut("annotations").and_then(Value::as_object_mut) {
        for kind in ["pod.beta.kubernetes.io/init-containers", "pod.alpha.kubernetes.io/init-containers"] {
            annotations.remove(kind);
        }
        for kind in ["pod.beta.kubernetes.io/init-container-statuses", "pod.alpha.kubernetes.io/init-container-statuses"] {
            annotations.remove(kind);
        }
    }
}

fn place(pod: &mut Pod, uid: String, origin: Origin<'_>) {
    let name = format!("{}-{}", pod.metadata.name.as_deref().unwrap_or_default(), origin.node.to_lowercase());
    pod.metadata.name = Some(name);
    pod.metadata.namespace.get_or_insert_default();
    if pod.metadata.namespace.as_deref() == Some("") {
        pod.metadata.namespace = Some("default".to_owned());
    }
    pod.metadata.annotations.get_or_insert_default().insert(HASH_ANNOTATION.to_owned(), uid.clone());
    pod.metadata.uid = Some(uid);
    let spec = pod.spec.get_or_insert_default();
    spec.node_name = Some(origin.node.to_owned());
    if let Place::File(_) = origin.place {
        tolerate_all(spec);
    }
    pod.status.get_or_insert_with(PodStatus::default).phase = Some("Pending".to_owned());
}

/// File pods stay when the node has problems.
fn tolerate_all(spec: &mut PodSpec) {
    let all = Toleration { operator: Some("Exists".to_owned()), effect: Some("NoExecute".to_owned()), ..Toleration::default() };
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let key = |t: &Toleration| (text(&t.key), text(&t.effect), text(&t.operator), text(&t.value));
    let tolerations = spec.tolerations.get_or_insert_default();
    match tolerations.iter_mut().find(|known| key(known) == key(&all)) {
        Some(known) => *known = all,
        None => tolerations.push(all),
    }
}

fn is_label(name: &str) -> bool {
    let inner = name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-');
    !name.is_empty() && name.len() <= 63 && inner && !name.starts_with('-') && !name.ends_with('-')
}

fn is_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(|label| is_label(label) || label.len() > 63)
}

/// What would keep the pod from being run (ValidatePodCreate), with the path of each field.
fn wrong_with(pod: &Pod) -> Vec<String> {
    let mut wrong = Vec::new();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let rule = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and \
                end with an alphanumeric character";
    if !is_subdomain(name) {
        wrong.push(format!("metadata.name: Invalid value: {name:?}: {rule}"));
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if !is_label(namespace) {
        wrong.push(format!("metadata.namespace: Invalid value: {namespace:?}: {rule}"));
    }
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    // Directories and cgroups are called by it.
    if !uid.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._".contains(&c)) || uid.starts_with('.') || uid.len() > 200 {
        wrong.push(format!("metadata.uid: Invalid value: {uid:?}: it is no name of a directory"));
    }
    if pod.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(MIRROR_ANNOTATION)) {
        wrong.push(format!("metadata.annotations[{MIRROR_ANNOTATION}]: Forbidden: a manifest is no mirror pod"));
    }
    let Some(spec) = &pod.spec else { return wrong };
    let policy = spec.restart_policy.as_deref().unwrap_or_default();
    if !["Always", "OnFailure", "Never"].contains(&policy) {
        let known = "supported values: \"Always\", \"OnFailure\", \"Never\"";
        wrong.push(format!("spec.restartPolicy: Unsupported value: {policy:?}: {known}"));
    }
    let mut volumes = BTreeSet::new();
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        if !is_label(&volume.name) {
            wrong.push(format!("spec.volumes[{index}].name: Invalid value: {:?}: {rule}", volume.name));
        } else if !volumes.insert(volume.name.as_str()) {
            wrong.push(format!("spec.volumes[{index}].name: Duplicate value: {:?}", volume.name));
        }
    }
    if spec.containers.is_empty() {
        wrong.push("spec.containers: Required value".to_owned());
    }
    let mut names = BTreeSet::new();
    let inits = spec.init_containers.iter().flatten().enumerate().map(|(index, c)| (format!("spec.initContainers[{index}]"), c));
    let regular = spec.containers.iter().enumerate().map(|(index, c)| (format!("spec.containers[{index}]"), c));
    for (path, container) in inits.chain(regular) {
        if is_label(&container.name) && !names.insert(container.name.as_str()) {
            wrong.push(format!("{path}.name: Duplicate value: {:?}", container.name));
        }
        wrong_with_container(&path, container, &volumes, &mut wrong);
    }
    wrong
}

fn wrong_with_container(path: &str, container: &Container, volumes: &BTreeSet<&str>, wrong: &mut Vec<String>) {
    if !is_label(&container.name) {
        wrong.push(format!("{path}.name: Invalid value: {:?}: a lowercase RFC 1123 label is needed", container.name));
    }
    if container.image.as_deref().unwrap_or_default().trim().is_empty() {
        wrong.push(format!("{path}.image: Required value"));
    }
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        if !volumes.contains(mount.name.as_str()) {
            wrong.push(format!("{path}.volumeMounts[{index}].name: Not found: {:?}", mount.name));
        }
        if mount.mount_path.is_empty() {
            wrong.push(format!("{path}.volumeMounts[{index}].mountPath: Required value"));
        }
    }
    for (index, port) in container.ports.iter().flatten().enumerate() {
        for (field, number) in [("containerPort", Some(port.container_port)), ("hostPort", port.host_port.filter(|n| *n != 0))] {
            if let Some(number) = number.filter(|number| !(1..=65535).contains(number)) {
                let rule = "must be between 1 and 65535, inclusive";
                wrong.push(format!("{path}.ports[{index}].{field}: Invalid value: {number}: {rule}"));
            }
        }
    }
    for (index, variable) in container.env.iter().flatten().enumerate() {
        if variable.name.is_empty() {
            wrong.push(format!("{path}.env[{index}].name: Required value"));
        }
    }
    let resources = container.resources.iter().flat_map(|r| r.limits.iter().chain(&r.requests).flatten());
    if resources.into_iter().any(|(_, amount)| Amount::parse(amount).is_none()) {
        wrong.push("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'".to_owned());
    }
}
