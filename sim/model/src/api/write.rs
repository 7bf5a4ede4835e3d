//! How objects are created, changed and deleted, whoever asks.
//! Upstream: staging/src/k8s.io/apiserver/pkg/registry/generic/registry/store.go, pkg/registry/core/pod/strategy.go.
//! Differs: no managedFields; no dry run beyond not storing.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::ApiModel;
use super::admission;
use super::defaults::{self, default_field, items_mut};
use super::error::ApiError;
use super::quantities;
use super::resource::{Resource, named};

/// What a delete asks for beside the name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// How long it may take, in seconds.
    pub grace_seconds: Option<i64>,
    /// The UID that it must have.
    pub uid: Option<String>,
    /// The resourceVersion that it must have.
    pub resource_version: Option<String>,
    /// `Background`, `Foreground` or `Orphan`.
    pub propagation: Option<String>,
}

impl DeleteOptions {
    /// Reads a body of kind DeleteOptions; an absent one asks for nothing.
    #[must_use]
    pub fn of_body(body: &Value) -> Self {
        let text = |v: &Value| v.as_str().map(str::to_owned);
        Self {
            grace_seconds: body["gracePeriodSeconds"].as_i64(),
            uid: text(&body["preconditions"]["uid"]),
            resource_version: text(&body["preconditions"]["resourceVersion"]),
            propagation: text(&body["propagationPolicy"]),
        }
    }
}

/// A wall clock reading as `metav1.Time` prints it.
#[must_use]
pub fn seconds(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

fn meta_text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

fn has_finalizers(object: &Value) -> bool {
    object["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty())
}

const STAMPED: [&str; 6] =
    ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink"];

impl ApiModel {
    /// One object.
    ///
    /// # Errors
    /// 404.
    pub fn get(&self, resource: &'static Resource, namespace: &str, name: &str) -> Result<Arc<Value>, ApiError> {
        self.store.get(resource.plural, namespace, name).cloned().ok_or_else(|| ApiError::not_found(resource, name))
    }

    /// Creates an object: defaults, admission, validation, UID and times.
    ///
    /// # Errors
    /// 409 if it exists, 422 if it is wrong, 403 or 404 for what it refers to.
    pub fn create(
        &mut self,
        now: Timestamp,
        resource: &'static Resource,
        namespace: &str,
        mut object: Value,
    ) -> Result<Arc<Value>, ApiError> {
        quantities::canonicalise(&mut object);
        self.prepare_new(now, resource, namespace, &mut object)?;
        let name = meta_text(&object, "name").to_owned();
        if self.store.get(resource.plural, namespace, &name).is_some() {
            return Err(ApiError::already_exists(resource, &name));
        }
        if resource.plural == "pods" {
            self.behind.changed(now, &object);
        }
        Ok(self.store.put(resource.plural, object))
    }

    fn prepare_new(
        &mut self,
        now: Timestamp,
        resource: &'static Resource,
        namespace: &str,
        object: &mut Value,
    ) -> Result<(), ApiError> {
        if !object.is_object() {
            return Err(ApiError::bad_request("the object provided is unrecognized"));
        }
        object["apiVersion"] = resource.api_version().into();
        object["kind"] = resource.kind.into();
        default_field(object, "metadata", json!({}));
        if resource.namespaced {
            let stated = meta_text(object, "namespace");
            if !stated.is_empty() && stated != namespace {
                return Err(ApiError::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
            object["metadata"]["namespace"] = namespace.into();
            self.check_namespace(resource, object)?;
        }
        if meta_text(object, "name").is_empty() && !meta_text(object, "generateName").is_empty() {
            let name = format!("{}{}", meta_text(object, "generateName"), self.suffix());
            object["metadata"]["name"] = name.into();
        }
        self.stamp_new(now, resource, object);
        self.fill_in(resource, object)?;
        admission::validate_new(resource, object)
    }

    fn check_namespace(&self, resource: &Resource, object: &Value) -> Result<(), ApiError> {
        let namespace = meta_text(object, "namespace");
        match self.store.get("namespaces", "", namespace) {
            None => Err(ApiError::not_found(named("namespaces"), namespace)),
            Some(ns) if !ns["metadata"]["deletionTimestamp"].is_null() => {
                let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
                Err(ApiError::forbidden(resource, meta_text(object, "name"), &why))
            }
            Some(_) => Ok(()),
        }
    }

    fn stamp_new(&mut self, now: Timestamp, resource: &Resource, object: &mut Value) {
        let uid = self.fresh_uid();
        let metadata = &mut object["metadata"];
        if let Some(map) = metadata.as_object_mut() {
            for field in STAMPED.iter().chain(&["resourceVersion", "managedFields"]) {
                map.remove(*field);
            }
        }
        metadata["uid"] = uid.into();
        metadata["creationTimestamp"] = seconds(now).into();
        if resource.rules.generation {
            metadata["generation"] = 1.into();
        }
    }

    fn fill_in(&mut self, resource: &Resource, object: &mut Value) -> Result<(), ApiError> {
        match resource.plural {
            "pods" => {
                let suffix = self.suffix();
                admission::validate_new(resource, &json!({"metadata": object["metadata"], "spec": object["spec"]}))?;
                admission::admit_pod(&self.store, object, &suffix)?;
                defaults::pod(object);
            }
            "deployments" | "replicasets" | "daemonsets" => {
                object["status"] = json!({});
                defaults::object(resource.plural, object);
            }
            "services" => {
                defaults::object(resource.plural, object);
                object["status"] = json!({"loadBalancer": {}});
                if object["spec"]["type"] != "ExternalName" && object["spec"]["clusterIP"].is_null() {
                    object["spec"]["clusterIP"] = self.fresh_cluster_ip().into();
                }
                if let Some(ip) = object["spec"].get("clusterIP").cloned() {
                    object["spec"]["clusterIPs"] = json!([ip]);
                }
            }
            plural => defaults::object(plural, object),
        }
        Ok(())
    }

    /// Writes something into an object past all checks, as only etcd's clients can: what is stored need not be readable. `None` for what
    /// is not there.
    pub fn spoil(&mut self, resource: &'static Resource, namespace: &str, name: &str, with: &Value) -> Option<Arc<Value>> {
        let mut object = (**self.store.get(resource.plural, namespace, name)?).clone();
        merge(&mut object, with);
        Some(self.store.put(resource.plural, object))
    }

    /// Replaces an object, or only the part that a subresource is about.
    ///
    /// # Errors
    /// 404, 409 for a stale resourceVersion or another UID, 422 for what may not change.
    pub fn update(
        &mut self,
        now: Timestamp,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
        subresource: &str,
        object: Value,
    ) -> Result<Arc<Value>, ApiError> {
        let Some(old) = self.store.get(resource.plural, namespace, name).cloned() else {
            if resource.rules.create_on_update && subresource.is_empty() {
                return self.create(now, resource, namespace, object);
            }
            return Err(ApiError::not_found(resource, name));
        };
        if meta_text(&object, "name") != name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({}) does not match the name on the URL ({name})",
                meta_text(&object, "name")
            )));
        }
        self.check_preconditions(resource, name, &old, &object)?;
        let mut new = next_version(resource, subresource, &old, object)?;
        quantities::canonicalise(&mut new);
        if new == *old {
            return Ok(old);
        }
        if !new["metadata"]["deletionTimestamp"].is_null() && !has_finalizers(&new) && grace_is_over(resource, &new) {
            // The last finalizer of an object that is being deleted has gone: so does the object, as it is now.
            self.store.put(resource.plural, new);
            return self.store.remove(resource.plural, namespace, name).ok_or_else(|| ApiError::not_found(resource, name));
        }
        Ok(self.store.put(resource.plural, new))
    }

    fn check_preconditions(&self, resource: &Resource, name: &str, old: &Value, new: &Value) -> Result<(), ApiError> {
        let (was, asked) = (meta_text(old, "uid"), meta_text(new, "uid"));
        if !asked.is_empty() && was != asked {
            let why = format!("Precondition failed: UID in precondition: {asked}, UID in object meta: {was}");
            return Err(ApiError::conflict(resource, name, &why));
        }
        let (was, asked) = (meta_text(old, "resourceVersion"), meta_text(new, "resourceVersion"));
        if asked.is_empty() && !resource.rules.unconditional {
            return Err(ApiError::invalid(
                resource,
                name,
                "metadata.resourceVersion: Invalid value: 0: must be specified for an update",
            ));
        }
        if !asked.is_empty() && was != asked {
            let why = "the object has been modified; please apply your changes to the latest version and try again";
            return Err(ApiError::conflict(resource, name, why));
        }
        Ok(())
    }

    /// Deletes an object by upstream's protocol: a bound pod is only marked, and goes when its grace is cut to zero; what has
    /// finalizers stays until they are gone. Hands back the object, and whether it is gone.
    ///
    /// # Errors
    /// 404; 409 if a precondition does not hold.
    pub fn delete(
        &mut self,
        now: Timestamp,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<(Arc<Value>, bool), ApiError> {
        let old = self.get(resource, namespace, name)?;
        for (field, label, asked) in
            [("uid", "UID", &options.uid), ("resourceVersion", "ResourceVersion", &options.resource_version)]
        {
            let was = meta_text(&old, field);
            if let Some(asked) = asked.as_deref().filter(|asked| *asked != was) {
                let why = format!("Precondition failed: {label} in precondition: {asked}, {label} in object meta: {was}");
                return Err(ApiError::conflict(resource, name, &why));
            }
        }
        let mut object = (*old).clone();
        if old["metadata"]["deletionTimestamp"].is_null() {
            add_propagation_finalizer(&mut object, options);
        }
        let grace = match resource.plural {
            "pods" => pod_grace(&object, options),
            _ => 0,
        };
        let marked = mark_deleted(&mut object, now, grace, options.grace_seconds.is_some() || resource.plural != "pods");
        let namespace_content = resource.plural == "namespaces" && self.namespace_has_content(name);
        if namespace_content {
            object["status"]["phase"] = "Terminating".into();
        }
        let grace_left = object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or_default();
        if grace_left == 0 && !has_finalizers(&object) && !namespace_content {
            if marked && resource.plural == "pods" {
                // As upstream, the last state of a pod says that its grace is over.
                self.store.put(resource.plural, object);
            }
            let last = self.store.remove(resource.plural, namespace, name).ok_or_else(|| ApiError::not_found(resource, name))?;
            return Ok((last, true));
        }
        if object == *old {
            return Ok((old, false));
        }
        Ok((self.store.put(resource.plural, object), false))
    }

    fn namespace_has_content(&self, name: &str) -> bool {
        self.store.all().any(|((_, namespace, _), _)| namespace == name)
    }

    /// Binds a pod to a node, as the scheduler does.
    ///
    /// # Errors
    /// 404; 409 if it is bound already.
    pub fn bind(&mut self, now: Timestamp, namespace: &str, name: &str, node: &str) -> Result<(), ApiError> {
        let pods = named("pods");
        let old = self.get(pods, namespace, name)?;
        let bound = old["spec"]["nodeName"].as_str().unwrap_or_default();
        if !bound.is_empty() {
            return Err(ApiError::conflict(pods, name, &format!("pod {name} is already assigned to node {bound:?}")));
        }
        let mut pod = (*old).clone();
        pod["spec"]["nodeName"] = node.into();
        let condition = json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": seconds(now),
            "observedGeneration": pod["metadata"]["generation"]});
        default_field(&mut pod["status"], "conditions", json!([]));
        if let Some(conditions) = pod["status"]["conditions"].as_array_mut() {
            conditions.retain(|c| c["type"] != "PodScheduled");
            conditions.push(condition);
        }
        self.behind.changed(now, &pod);
        self.store.put("pods", pod);
        Ok(())
    }
}

/// RFC 7396.
fn merge(target: &mut Value, with: &Value) {
    let Some(changes) = with.as_object() else {
        *target = with.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in changes {
        match value {
            Value::Null => drop(target.as_object_mut().and_then(|object| object.remove(key))),
            value => merge(&mut target[key.as_str()], value),
        }
    }
}

fn add_propagation_finalizer(object: &mut Value, options: &DeleteOptions) {
    let finalizer = match options.propagation.as_deref() {
        Some("Foreground") => "foregroundDeletion",
        Some("Orphan") => "orphan",
        _ => return,
    };
    default_field(&mut object["metadata"], "finalizers", json!([]));
    if let Some(list) = object["metadata"]["finalizers"].as_array_mut() {
        list.push(finalizer.into());
    }
}

/// How long a pod may take, as `CheckGracefulDelete` has it.
fn pod_grace(pod: &Value, options: &DeleteOptions) -> i64 {
    let asked = options.grace_seconds.or(pod["spec"]["terminationGracePeriodSeconds"].as_i64()).unwrap_or(0);
    let bound = pod["spec"]["nodeName"].as_str().is_some_and(|n| !n.is_empty());
    let ended = matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded"));
    match asked {
        _ if !bound || ended => 0,
        asked if asked < 0 => 1,
        asked => asked,
    }
}

/// Marks an object as being deleted, or shortens the grace that it has. Whether anything changed.
fn mark_deleted(object: &mut Value, now: Timestamp, grace: i64, stated: bool) -> bool {
    let metadata = &mut object["metadata"];
    let marked = metadata["deletionTimestamp"].as_str().and_then(|t| t.parse::<Timestamp>().ok());
    let at = match marked {
        None => {
            if let Some(generation) = metadata["generation"].as_i64() {
                metadata["generation"] = (generation + 1).into();
            }
            shifted(now, grace)
        }
        Some(marked) => {
            let left = metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
            if !stated || grace >= left {
                return false;
            }
            shifted(marked, grace.saturating_sub(left))
        }
    };
    metadata["deletionTimestamp"] = seconds(at).into();
    metadata["deletionGracePeriodSeconds"] = grace.into();
    true
}

/// As Go has it: `time.Duration` counts nanoseconds, and wraps.
fn shifted(at: Timestamp, by: i64) -> Timestamp {
    at.saturating_add(SignedDuration::from_nanos(by.wrapping_mul(1_000_000_000))).unwrap_or(at)
}

fn grace_is_over(resource: &Resource, object: &Value) -> bool {
    resource.plural != "namespaces" && object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
}

/// What is stored when `new` is sent for `old`: what a client may not change is taken from the old object.
fn next_version(resource: &Resource, subresource: &str, old: &Value, sent: Value) -> Result<Value, ApiError> {
    if resource.plural == "pods" {
        admission::validate_static(subresource, old)?;
    }
    let mut new = match subresource {
        "" | "finalize" => sent,
        "status" => {
            let new = status_only(resource, old, sent);
            if resource.plural == "pods" {
                admission::validate_state_transitions(resource, old, &new)?;
            }
            new
        }
        "resize" => resize_only(old, &sent),
        "approval" => {
            let mut new = old.clone();
            new["status"]["conditions"] = sent["status"]["conditions"].clone();
            new
        }
        "ephemeralcontainers" => {
            let mut new = old.clone();
            new["spec"]["ephemeralContainers"] = sent["spec"]["ephemeralContainers"].clone();
            new
        }
        _ => return Err(ApiError::not_allowed()),
    };
    new["apiVersion"] = old["apiVersion"].clone();
    new["kind"] = old["kind"].clone();
    for field in STAMPED.iter().chain(&["namespace", "resourceVersion"]) {
        match old["metadata"].get(*field) {
            Some(value) => new["metadata"][*field] = value.clone(),
            None => drop(new["metadata"].as_object_mut().and_then(|m| m.remove(*field))),
        }
    }
    if subresource.is_empty() {
        if resource.rules.status {
            match old.get("status") {
                Some(status) => new["status"] = status.clone(),
                None => drop(new.as_object_mut().and_then(|o| o.remove("status"))),
            }
        }
        match resource.plural {
            "pods" => {
                defaults::pod_spec(&mut new["spec"]);
                admission::validate_pod_update(old, &new)?;
            }
            plural => {
                defaults::object(plural, &mut new);
                admission::validate_new(resource, &new)?;
            }
        }
    }
    if resource.plural == "namespaces" && subresource == "finalize" {
        new["status"] = old["status"].clone();
    }
    if resource.rules.generation && new["spec"] != old["spec"] {
        new["metadata"]["generation"] = (old["metadata"]["generation"].as_i64().unwrap_or(0) + 1).into();
    }
    Ok(new)
}

fn status_only(resource: &Resource, old: &Value, sent: Value) -> Value {
    let mut new = sent;
    match old.get("spec") {
        Some(spec) => new["spec"] = spec.clone(),
        None => drop(new.as_object_mut().and_then(|o| o.remove("spec"))),
    }
    if resource.plural == "pods" {
        match old["metadata"].get("ownerReferences") {
            Some(owners) => new["metadata"]["ownerReferences"] = owners.clone(),
            None => drop(new["metadata"].as_object_mut().and_then(|m| m.remove("ownerReferences"))),
        }
    }
    new
}

fn resize_only(old: &Value, sent: &Value) -> Value {
    let mut new = old.clone();
    for field in ["containers", "initContainers"] {
        for container in items_mut(&mut new["spec"], field) {
            let asked = defaults::items(&sent["spec"], field).find(|c| c["name"] == container["name"]);
            if let Some(asked) = asked {
                container["resources"] = asked["resources"].clone();
                container["resizePolicy"] = asked["resizePolicy"].clone();
                if container["resizePolicy"].is_null() {
                    drop(container.as_object_mut().and_then(|c| c.remove("resizePolicy")));
                }
            }
        }
    }
    new
}
