//! One request to the pretend API server, from whichever door it came in, and what it answers.
//! Upstream: staging/src/k8s.io/apiserver/pkg/endpoints (handlers, request info).
//! Differs: nothing on purpose.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::ApiModel;
use super::authorize::{self, Identity};
use super::certificates;
use super::error::ApiError;
use super::patch::{self, PatchKind};
use super::resource::{Resource, is_review, named};
use super::selector::Selector;
use super::write::DeleteOptions;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// One object.
    Get,
    /// Many.
    List,
    /// Many, and what becomes of them.
    Watch,
    /// A new one.
    Create,
    /// Replace one.
    Update,
    /// Change one.
    Patch,
    /// Remove one.
    Delete,
    /// Remove many.
    DeleteCollection,
}

impl Verb {
    /// As authorizers name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        }
    }
}

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What is asked for.
    pub verb: Verb,
    /// Of which resource.
    pub resource: &'static Resource,
    /// Which part of it; empty for the whole.
    pub subresource: String,
    /// In which namespace; empty for all, or for none.
    pub namespace: String,
    /// Of which object; empty for many, or for a create.
    pub name: String,
    /// Which of many.
    pub selector: Selector,
    /// How `body` is to be applied, for a patch.
    pub patch: PatchKind,
    /// The body; null if there is none.
    pub body: Value,
    /// Whether nothing is to be stored.
    pub dry_run: bool,
}

impl Request {
    /// A request about one object, or about all of a namespace if `name` is empty.
    #[must_use]
    pub fn new(verb: Verb, plural: &str, namespace: &str, name: &str) -> Self {
        Self {
            verb,
            resource: named(plural),
            subresource: String::new(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            selector: Selector::default(),
            patch: PatchKind::Strategic,
            body: Value::Null,
            dry_run: false,
        }
    }

    /// The same, of a part.
    #[must_use]
    pub fn of(mut self, subresource: &str) -> Self {
        subresource.clone_into(&mut self.subresource);
        self
    }

    /// The same, with a body.
    #[must_use]
    pub fn with(mut self, body: Value) -> Self {
        self.body = body;
        self
    }

    /// The same, of those selected.
    #[must_use]
    pub fn selecting(mut self, selector: Selector) -> Self {
        self.selector = selector;
        self
    }

    /// Whether an object of its resource is among those that it is about.
    #[must_use]
    pub fn concerns(&self, object: &Value) -> bool {
        (self.namespace.is_empty() || object["metadata"]["namespace"] == self.namespace.as_str())
            && (self.name.is_empty() || object["metadata"]["name"] == self.name.as_str())
            && self.selector.matches(object)
    }

    /// The one object that it is about, be it by name or by selector.
    #[must_use]
    pub fn target_name(&self) -> &str {
        if self.name.is_empty() { self.selector.required("metadata.name").unwrap_or_default() } else { &self.name }
    }
}

/// What was answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// An object, unchanged or changed: 200.
    Object(Arc<Value>),
    /// A new object: 201.
    Created(Arc<Value>),
    /// Objects as of a revision.
    List {
        /// The objects, by namespace and name.
        items: Vec<Arc<Value>>,
        /// The revision.
        revision: u64,
    },
}

impl Reply {
    /// The object that it holds.
    #[must_use]
    pub fn object(self) -> Option<Arc<Value>> {
        match self {
            Self::Object(object) | Self::Created(object) => Some(object),
            Self::List { .. } => None,
        }
    }
}

impl ApiModel {
    /// Does what is asked, if `who` may. A watch is opened by [`ApiModel::watch`], which asks here for leave.
    ///
    /// # Errors
    /// As the API server refuses.
    pub fn request(&mut self, now: Timestamp, who: &Identity, request: &Request) -> Result<Reply, ApiError> {
        self.authorize(now, who, request)?;
        if !request.dry_run {
            return self.perform(now, who, request);
        }
        // Nothing of a dry run stays, not even in the counters.
        let mut copy = self.clone();
        copy.perform(now, who, request)
    }

    fn perform(&mut self, now: Timestamp, who: &Identity, request: &Request) -> Result<Reply, ApiError> {
        let Request { resource, namespace, name, .. } = request;
        if is_review(resource) {
            return if request.verb == Verb::Create { self.review(now, who, request) } else { Err(ApiError::not_allowed()) };
        }
        match (request.verb, request.subresource.as_str()) {
            (Verb::Get, "scale") => Ok(Reply::Object(Arc::new(scale_of(&*self.get(resource, namespace, name)?)))),
            (Verb::Update | Verb::Patch, "scale") => self.rescale(now, who, request),
            (Verb::Get, "" | "status" | "approval" | "resize" | "ephemeralcontainers") => {
                Ok(Reply::Object(self.get(resource, namespace, name)?))
            }
            (Verb::List | Verb::Watch, "") => {
                let items = self.store.list(resource.plural, namespace).filter(|o| request.concerns(o)).cloned().collect();
                Ok(Reply::List { items, revision: self.store.revision() })
            }
            (Verb::Create, "") => {
                authorize::admit(&self.store, who, request, &Value::Null, &request.body)?;
                let mut object = request.body.clone();
                if resource.plural == "certificatesigningrequests" {
                    certificates::stamp(who, &mut object);
                }
                self.create(now, resource, namespace, object).map(Reply::Created)
            }
            (Verb::Create, "binding") => {
                let node = request.body["target"]["name"].as_str().unwrap_or_default();
                self.bind(now, namespace, name, node)?;
                Ok(Reply::Created(Arc::new(success())))
            }
            (Verb::Create, "eviction") => self.evict(now, who, request),
            (Verb::Create, "token") => self.request_token(now, who, request),
            (Verb::Update, _) => {
                let old = self.store.get(resource.plural, namespace, name).map_or(Value::Null, |o| (**o).clone());
                authorize::admit(&self.store, who, request, &old, &request.body)?;
                self.update(now, resource, namespace, name, &request.subresource, request.body.clone()).map(Reply::Object)
            }
            (Verb::Patch, _) => self.patch(now, who, request),
            (Verb::Delete, "") => {
                let old = self.get(resource, namespace, name)?;
                authorize::admit(&self.store, who, request, &old, &Value::Null)?;
                let (object, gone) = self.delete(now, resource, namespace, name, &DeleteOptions::of_body(&request.body))?;
                Ok(Reply::Object(if gone && resource.plural != "pods" { Arc::new(deleted(resource, &object)) } else { object }))
            }
            (Verb::DeleteCollection, "") => self.delete_collection(now, request),
            _ => Err(ApiError::not_allowed()),
        }
    }

    fn patch(&mut self, now: Timestamp, who: &Identity, request: &Request) -> Result<Reply, ApiError> {
        let Request { resource, namespace, name, .. } = request;
        let old = self.get(resource, namespace, name)?;
        let mut patched = patch::apply(request.patch, &old, &request.body)?;
        if request.body["metadata"]["resourceVersion"].is_null() {
            patched["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
        }
        authorize::admit(&self.store, who, request, &old, &patched)?;
        self.update(now, resource, namespace, name, &request.subresource, patched).map(Reply::Object)
    }

    fn rescale(&mut self, now: Timestamp, who: &Identity, request: &Request) -> Result<Reply, ApiError> {
        let Request { resource, namespace, name, .. } = request;
        let old = self.get(resource, namespace, name)?;
        let scale = match request.verb {
            Verb::Patch => patch::apply(request.patch, &scale_of(&old), &request.body)?,
            _ => request.body.clone(),
        };
        let mut new = (*old).clone();
        new["spec"]["replicas"] = scale["spec"]["replicas"].as_i64().unwrap_or(0).into();
        authorize::admit(&self.store, who, request, &old, &new)?;
        let new = self.update(now, resource, namespace, name, "", new)?;
        Ok(Reply::Object(Arc::new(scale_of(&new))))
    }

    fn evict(&mut self, now: Timestamp, who: &Identity, request: &Request) -> Result<Reply, ApiError> {
        let old = self.get(request.resource, &request.namespace, &request.name)?;
        authorize::admit(&self.store, who, request, &old, &request.body)?;
        let options = DeleteOptions::of_body(&request.body["deleteOptions"]);
        self.delete(now, request.resource, &request.namespace, &request.name, &options)?;
        Ok(Reply::Created(Arc::new(success())))
    }

    fn delete_collection(&mut self, now: Timestamp, request: &Request) -> Result<Reply, ApiError> {
        let chosen: Vec<Arc<Value>> =
            self.store.list(request.resource.plural, &request.namespace).filter(|o| request.selector.matches(o)).cloned().collect();
        let options = DeleteOptions::of_body(&request.body);
        for object in &chosen {
            let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
            self.delete(now, request.resource, text("namespace"), text("name"), &options)?;
        }
        Ok(Reply::List { items: chosen, revision: self.store.revision() })
    }
}

/// A Status that says that it worked.
#[must_use]
pub fn success() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})
}

fn deleted(resource: &Resource, object: &Value) -> Value {
    let mut status = success();
    status["details"] = json!({"name": object["metadata"]["name"], "group": resource.group, "kind": resource.plural,
        "uid": object["metadata"]["uid"]});
    status
}

fn scale_of(object: &Value) -> Value {
    let metadata = &object["metadata"];
    let labels = &object["spec"]["selector"]["matchLabels"];
    let selector: Vec<String> =
        labels.as_object().into_iter().flatten().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"], "creationTimestamp": metadata["creationTimestamp"]},
        "spec": {"replicas": object["spec"]["replicas"]},
        "status": {"replicas": object["status"]["replicas"].as_i64().unwrap_or(0), "selector": selector.join(",")},
    })
}
