//! What a watch is told, in order: changes of the objects that it selects, from a revision on.
//! Upstream: staging/src/k8s.io/apiserver/pkg/storage/cacher/cacher.go (convertToWatchEvent).
//! Differs: a watcher asks for what is new; nothing is buffered for it.

use std::borrow::Cow;
use std::sync::Arc;

use jiff::Timestamp;
use kubelet::event::{Event, Object, Unreadable, WatchKey};
use kubelet::failure::Failure;
use kubelet::sensitive::Sensitive;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::ApiModel;
use super::admission::is_mirror;
use super::authorize::Identity;
use super::error::ApiError;
use super::request::{Request, Verb};
use super::selector::Selector;
use super::store::ChangeKind;

/// One watch and how far it has been told.
#[derive(Clone, Debug)]
pub struct Watch {
    request: Request,
    revision: u64,
}

impl Watch {
    /// The revision up to which it has been told; a bookmark carries it.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What it asked for.
    #[must_use]
    pub fn request(&self) -> &Request {
        &self.request
    }
}

/// A watch that the agent's core asked for.
#[derive(Clone, Debug)]
pub struct CoreWatch {
    key: WatchKey,
    watch: Watch,
}

impl CoreWatch {
    /// The revision up to which it has been told.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.watch.revision
    }
}

impl ApiModel {
    /// Opens a watch that is told all that happens after `revision`; `None` for all that happens from now on.
    ///
    /// # Errors
    /// 403 if `who` may not; 410 if the history does not reach back that far.
    pub fn watch(&self, now: Timestamp, who: &Identity, mut request: Request, revision: Option<u64>) -> Result<Watch, ApiError> {
        request.verb = Verb::Watch;
        self.authorize(now, who, &request)?;
        let revision = revision.unwrap_or(self.store.revision());
        self.store.since(revision).map(drop)?;
        Ok(Watch { request, revision })
    }

    /// What has happened since the watch was last told.
    ///
    /// # Errors
    /// 410 if the history has lost some of it: the watch is of no more use.
    pub fn watch_changes(&self, watch: &mut Watch) -> Result<Vec<(ChangeKind, Arc<Value>)>, ApiError> {
        let request = &watch.request;
        let mut told = Vec::new();
        for change in self.store.since(watch.revision)? {
            if change.plural != request.resource.plural {
                continue;
            }
            let is = change.kind != ChangeKind::Deleted && request.concerns(&change.object);
            let was = change.previous.as_ref().is_some_and(|previous| request.concerns(previous));
            match (was, is) {
                (false, false) => {}
                (false, true) => told.push((ChangeKind::Added, Arc::clone(&change.object))),
                (true, true) => told.push((ChangeKind::Modified, Arc::clone(&change.object))),
                // Upstream sends the object as it was when it was last selected, with the revision of its going.
                (true, false) => {
                    let mut last = change.previous.as_ref().map_or(Value::Null, |p| (**p).clone());
                    last["metadata"]["resourceVersion"] = change.object["metadata"]["resourceVersion"].clone();
                    told.push((ChangeKind::Deleted, Arc::new(last)));
                }
            }
        }
        watch.revision = self.store.revision();
        Ok(told)
    }

    /// Opens one of the core's watches: the watch and its first event, a complete list.
    ///
    /// # Errors
    /// 403 if `who` may not.
    pub fn open(&self, now: Timestamp, who: &Identity, key: &WatchKey) -> Result<(CoreWatch, Event), Failure> {
        let request = request_of(who, key);
        let watch = self.watch(now, who, request, None).map_err(|e| e.failure())?;
        let objects = self.listed(key, &watch.request);
        Ok((CoreWatch { key: key.clone(), watch }, Event::WatchListed { key: key.clone(), objects }))
    }

    /// What one of the core's watches is to be told. After a loss of history it is told the complete list again.
    pub fn changes(&self, watch: &mut CoreWatch) -> Vec<Event> {
        let key = watch.key.clone();
        let told = match self.watch_changes(&mut watch.watch) {
            Ok(told) => told,
            Err(_) => {
                watch.watch.revision = self.store.revision();
                let objects = self.listed(&key, &watch.watch.request);
                return vec![Event::WatchListed { key, objects }];
            }
        };
        let event = |(kind, object): (ChangeKind, Arc<Value>)| {
            let (key, object) = (key.clone(), delivered(&key, &object));
            if kind == ChangeKind::Deleted { Event::WatchDeleted { key, object } } else { Event::WatchApplied { key, object } }
        };
        told.into_iter().map(event).collect()
    }

    fn listed(&self, key: &WatchKey, request: &Request) -> Vec<Object> {
        let chosen = self.store.list(request.resource.plural, &request.namespace).filter(|o| request.selector.matches(o));
        chosen.map(|object| delivered(key, object)).collect()
    }
}

/// What the agent's adapter asks the API server for, for one of the core's watches (API-224).
#[must_use]
pub fn request_of(who: &Identity, key: &WatchKey) -> Request {
    let node = who.node_name().unwrap_or_default();
    let one = |plural: &str, namespace: &str, name: &str| {
        Request::new(Verb::Watch, plural, namespace, "").selecting(Selector::field("metadata.name", name))
    };
    match key {
        WatchKey::Pods => Request::new(Verb::Watch, "pods", "", "").selecting(Selector::field("spec.nodeName", node)),
        WatchKey::Node => one("nodes", "", node),
        WatchKey::Services => Request::new(Verb::Watch, "services", "", ""),
        WatchKey::RuntimeClasses => Request::new(Verb::Watch, "runtimeclasses", "", ""),
        WatchKey::CsiDrivers => Request::new(Verb::Watch, "csidrivers", "", ""),
        WatchKey::ConfigMap { namespace, name } => one("configmaps", namespace, name),
        WatchKey::Secret { namespace, name } => one("secrets", namespace, name),
    }
}

/// An object as the core's watch of that key delivers it: if it cannot be read, who it is.
fn delivered(key: &WatchKey, object: &Value) -> Object {
    typed(key, object).unwrap_or_else(|failure| {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        Object::Unreadable(Box::new(Unreadable {
            namespace: text("namespace"),
            name: text("name"),
            uid: text("uid"),
            resource_version: text("resourceVersion"),
            why: failure.message,
            spec: if *key == WatchKey::Pods { serde_json::from_value(object["spec"].clone()).ok() } else { None },
            mirror: *key == WatchKey::Pods && is_mirror(object),
        }))
    })
}

/// Whether an object of such a watch cannot be read.
#[must_use]
pub fn is_unreadable(key: &WatchKey, object: &Value) -> bool {
    typed(key, object).is_err()
}

/// An object as the core's watch of that key delivers it, and its calls.
///
/// # Errors
/// If it cannot be read as that.
pub(super) fn typed(key: &WatchKey, object: &Value) -> Result<Object, Failure> {
    Ok(match key {
        WatchKey::Pods => Object::Pod(read(object)?),
        WatchKey::Node => Object::Node(read(object)?),
        WatchKey::Services => Object::Service(read(object)?),
        WatchKey::RuntimeClasses => Object::RuntimeClass(read(object)?),
        WatchKey::CsiDrivers => Object::CsiDriver(read(object)?),
        WatchKey::ConfigMap { .. } => Object::ConfigMap(read(object)?),
        WatchKey::Secret { .. } => Object::Secret(Sensitive::new(read(object)?)),
    })
}

/// Reads a stored object as a typed one.
///
/// # Errors
/// If it is not one.
pub(super) fn read<T: DeserializeOwned>(object: &Value) -> Result<Arc<T>, Failure> {
    let mut object = Cow::Borrowed(object);
    if !object["metadata"]["managedFields"].is_null() {
        // As the agent's adapter: nobody looks at them.
        object.to_mut()["metadata"]["managedFields"] = Value::Null;
    }
    T::deserialize(&*object).map(Arc::new).map_err(|e| ApiError::new(500, "InternalError", e.to_string()).failure())
}
