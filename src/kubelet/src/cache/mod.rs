//! Decides which ConfigMaps and Secrets are kept and how fresh they are: those that registered pods refer to, and no others.
//! Upstream: pkg/kubelet/util/manager/{manager,watch_based_manager,cache_based_manager}.go, pkg/kubelet/{secret,configmap}.
//! Differs: a change wakes the pods that use the object at once (CFG-023); a watch is never put to rest for want of readers (CFG-013).

mod references;
pub mod runtime_classes;
pub mod services;
mod ttl;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret};

pub use references::references;

use crate::config::ChangeDetection;
use crate::event::{ApiReply, Object, WatchKey};
use crate::failure::Failure;
use crate::ids::{ActionId, PodUid};
use crate::out::Out;
use crate::pod::manager::uid_of;
use crate::sensitive::Sensitive;
use crate::time::{Mono, Now};

/// What the cache has to say about an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Lookup<T> {
    /// It is there.
    Found(T),
    /// The API server does not have it; `optional` masks this.
    NotFound,
    /// It is on its way: the pods that use it are woken when it is here.
    Pending,
    /// It is not to be had now, in upstream's words (CFG-011).
    Failed(String),
    /// No registered pod refers to it (CFG-005); `optional` does not mask this.
    NotRegistered,
}

impl<T> Lookup<T> {
    /// Applies a function to what was found.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Lookup<U> {
        match self {
            Self::Found(found) => Lookup::Found(f(found)),
            Self::NotFound => Lookup::NotFound,
            Self::Pending => Lookup::Pending,
            Self::Failed(message) => Lookup::Failed(message),
            Self::NotRegistered => Lookup::NotRegistered,
        }
    }
}

/// Upstream's error for an object that the API server does not have: `secret "s" not found`.
#[must_use]
pub fn not_found(kind: &str, name: &str) -> String {
    format!("{kind} \"{name}\" not found")
}

/// Upstream's error for an object that no registered pod refers to (CFG-005).
#[must_use]
pub fn not_registered(namespace: &str, name: &str) -> String {
    format!("object \"{namespace}\"/\"{name}\" not registered")
}

/// The ConfigMaps and Secrets that pods use.
#[derive(Debug)]
pub struct ObjectCache {
    pods: BTreeMap<PodUid, BTreeSet<WatchKey>>,
    users: BTreeMap<WatchKey, BTreeSet<PodUid>>,
    store: Store,
}

/// The three strategies, and having no API server at all (CFG-001).
#[derive(Debug)]
enum Store {
    Watch(watch::WatchStore),
    Fetch(ttl::FetchStore),
    Standalone,
}

impl ObjectCache {
    /// An empty cache with that strategy (CFG-001); `standalone` if there is no API server.
    #[must_use]
    pub fn new(detection: ChangeDetection, standalone: bool) -> Self {
        let store = match detection {
            _ if standalone => Store::Standalone,
            ChangeDetection::Watch => Store::Watch(watch::WatchStore::default()),
            ChangeDetection::Cache => Store::Fetch(ttl::FetchStore::aging()),
            ChangeDetection::Get => Store::Fetch(ttl::FetchStore::asking()),
        };
        Self { pods: BTreeMap::new(), users: BTreeMap::new(), store }
    }

    /// With `Cache` and `Get`, objects are read again this often for pods that run: `syncFrequency` (CFG-023).
    #[must_use]
    pub fn synced_every(mut self, period: Duration) -> Self {
        if let Store::Fetch(store) = &mut self.store {
            store.set_resync(period);
        }
        self
    }

    /// Sees to it that everything the pod refers to is, or will be, here (CFG-002). Call it at each sync of the pod: that is
    /// when references are compared (CFG-004) and what has aged is fetched anew.
    pub fn register(&mut self, now: Now, pod: &Pod, out: &mut Out<'_>) {
        let Some(uid) = uid_of(pod) else { return };
        if matches!(self.store, Store::Standalone) {
            return;
        }
        let wanted = references(pod);
        let had = self.pods.remove(&uid).unwrap_or_default();
        for key in wanted.difference(&had) {
            let users = self.users.entry(key.clone()).or_default();
            users.insert(uid.clone());
            match &mut self.store {
                Store::Watch(store) => store.reference(now, key, out),
                Store::Fetch(store) => store.invalidate(key),
                Store::Standalone => {}
            }
        }
        for key in had.difference(&wanted) {
            self.dereference(&uid, key, out);
        }
        if let Store::Fetch(store) = &mut self.store {
            for key in &wanted {
                store.refresh(now, key, out);
            }
        }
        if !wanted.is_empty() {
            self.pods.insert(uid, wanted);
        }
    }

    /// The pod and its volumes are gone: what only it referred to is dropped (CFG-002, CFG-010).
    pub fn unregister(&mut self, uid: &PodUid, out: &mut Out<'_>) {
        for key in self.pods.remove(uid).unwrap_or_default() {
            self.dereference(uid, &key, out);
        }
    }

    /// A ConfigMap that a registered pod refers to.
    #[must_use]
    pub fn lookup_config_map(&self, namespace: &str, name: &str) -> Lookup<Arc<ConfigMap>> {
        let key = WatchKey::ConfigMap { namespace: namespace.to_owned(), name: name.to_owned() };
        match self.lookup(&key) {
            Lookup::Found(Object::ConfigMap(found)) => Lookup::Found(Arc::clone(found)),
            Lookup::Found(_) => Lookup::NotFound,
            other => other.map(|_| Arc::default()),
        }
    }

    /// A Secret that a registered pod refers to.
    #[must_use]
    pub fn lookup_secret(&self, namespace: &str, name: &str) -> Lookup<Sensitive<Arc<Secret>>> {
        let key = WatchKey::Secret { namespace: namespace.to_owned(), name: name.to_owned() };
        match self.lookup(&key) {
            Lookup::Found(Object::Secret(found)) => Lookup::Found(found.clone()),
            Lookup::Found(_) => Lookup::NotFound,
            other => other.map(|_| Sensitive::default()),
        }
    }

    /// A watch delivered all that matches. Answers the pods to wake.
    #[must_use]
    pub fn listed(&mut self, key: &WatchKey, objects: Vec<Object>, out: &mut Out<'_>) -> BTreeSet<PodUid> {
        self.told(key, objects.into_iter().next(), out)
    }

    /// A watched object appeared or changed. Answers the pods to wake.
    #[must_use]
    pub fn applied(&mut self, key: &WatchKey, object: Object, out: &mut Out<'_>) -> BTreeSet<PodUid> {
        self.told(key, Some(object), out)
    }

    /// A watched object went away: it is not found from now on (CFG-015). Answers the pods to wake.
    #[must_use]
    pub fn deleted(&mut self, key: &WatchKey, out: &mut Out<'_>) -> BTreeSet<PodUid> {
        self.told(key, None, out)
    }

    /// A watch could not be opened or broke. What is here stays valid without limit (CFG-015); of what is not, the cause is kept.
    pub fn failed(&mut self, key: &WatchKey, failure: &Failure) {
        if let Store::Watch(store) = &mut self.store {
            store.failed(key, failure);
        }
    }

    /// A fetch ended (`Owner::Object`). Answers the pods to wake.
    #[must_use]
    pub fn done(&mut self, now: Now, key: &WatchKey, id: ActionId, outcome: Result<ApiReply, Failure>) -> BTreeSet<PodUid> {
        let Store::Fetch(store) = &mut self.store else { return BTreeSet::new() };
        if store.done(now, key, id, outcome) { self.users_of(key) } else { BTreeSet::new() }
    }

    /// The own Node was seen: its annotation says how long objects stay fresh (CFG-020).
    pub fn node_seen(&mut self, node: &Node) {
        if let Store::Fetch(store) = &mut self.store {
            store.node_seen(node);
        }
    }

    /// When something has been waited for long enough to say so (CFG-011), or is to be read again (CFG-023).
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        match &self.store {
            Store::Watch(store) => store.deadline(),
            Store::Fetch(store) => store.deadline(),
            Store::Standalone => None,
        }
    }

    /// Lets what was waited for long enough fail (CFG-011), and what has aged be read again. Answers the pods to wake.
    #[must_use]
    pub fn due(&mut self, now: Now) -> BTreeSet<PodUid> {
        let due = match &mut self.store {
            Store::Watch(store) => store.due(now).into_iter().collect(),
            Store::Fetch(store) => store.due(now),
            Store::Standalone => BTreeSet::new(),
        };
        due.iter().flat_map(|key| self.users_of(key)).collect()
    }

    /// How many objects are kept or waited for: those that registered pods refer to.
    #[must_use]
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether no registered pod refers to anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    fn lookup(&self, key: &WatchKey) -> Lookup<&Object> {
        match &self.store {
            Store::Standalone => Lookup::Failed("not supported due to running kubelet in standalone mode".to_owned()),
            Store::Watch(store) => store.lookup(key),
            Store::Fetch(store) => store.lookup(key),
        }
    }

    fn told(&mut self, key: &WatchKey, object: Option<Object>, out: &mut Out<'_>) -> BTreeSet<PodUid> {
        let Store::Watch(store) = &mut self.store else { return BTreeSet::new() };
        if store.told(key, object, out) { self.users_of(key) } else { BTreeSet::new() }
    }

    fn users_of(&self, key: &WatchKey) -> BTreeSet<PodUid> {
        self.users.get(key).cloned().unwrap_or_default()
    }

    fn dereference(&mut self, uid: &PodUid, key: &WatchKey, out: &mut Out<'_>) {
        let Some(users) = self.users.get_mut(key) else { return };
        users.remove(uid);
        if !users.is_empty() {
            return;
        }
        self.users.remove(key);
        match &mut self.store {
            Store::Watch(store) => store.drop_object(key, out),
            Store::Fetch(store) => store.drop_object(key),
            Store::Standalone => {}
        }
    }
}

/// The resourceVersion of a ConfigMap or Secret, for comparison.
fn version(object: &Object) -> Option<&str> {
    match object {
        Object::ConfigMap(object) => object.metadata.resource_version.as_deref(),
        Object::Secret(object) => object.reveal().metadata.resource_version.as_deref(),
        _ => None,
    }
}

fn is_immutable(object: &Object) -> bool {
    match object {
        Object::ConfigMap(object) => object.immutable == Some(true),
        Object::Secret(object) => object.reveal().immutable == Some(true),
        _ => false,
    }
}

/// `secret` or `configmap`, as errors have it.
fn kind(key: &WatchKey) -> &'static str {
    match key {
        WatchKey::Secret { .. } => "secret",
        _ => "configmap",
    }
}

#[cfg(test)]
mod tests;
