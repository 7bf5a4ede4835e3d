//! What the pretend API server holds: objects under one counter of revisions, and the recent past that watches replay.
//! Upstream: staging/src/k8s.io/apiserver/pkg/storage (etcd3, cacher).
//! Differs: nothing on purpose; the watch cache is never behind.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::Value;

use super::error::ApiError;

/// What names an object: the plural of its resource, its namespace (empty if it has none), its name.
pub type Key = (&'static str, String, String);

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It came to be.
    Added,
    /// It changed.
    Modified,
    /// It is gone.
    Deleted,
}

/// One revision.
#[derive(Clone, Debug)]
pub struct Change {
    /// The revision.
    pub revision: u64,
    /// The plural of the resource.
    pub plural: &'static str,
    /// What happened.
    pub kind: ChangeKind,
    /// The object as of this revision; for a delete, as it last was, with this revision.
    pub object: Arc<Value>,
    /// The object before.
    pub previous: Option<Arc<Value>>,
}

/// The objects and their recent past.
#[derive(Clone, Debug)]
pub struct Store {
    objects: BTreeMap<Key, Arc<Value>>,
    revision: u64,
    history: VecDeque<Change>,
    /// The last revision that the history has lost.
    compacted: u64,
    /// How many changes the history keeps.
    pub history_limit: usize,
}

impl Store {
    /// An empty store that remembers that many changes.
    #[must_use]
    pub fn new(history_limit: usize) -> Self {
        Self { objects: BTreeMap::new(), revision: 1, history: VecDeque::new(), compacted: 0, history_limit }
    }

    /// The newest revision.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// One object.
    #[must_use]
    pub fn get(&self, plural: &'static str, namespace: &str, name: &str) -> Option<&Arc<Value>> {
        self.objects.get(&(plural, namespace.to_owned(), name.to_owned()))
    }

    /// All objects of a resource, of one namespace if it is not empty, in order of namespace and name.
    pub fn list<'a>(&'a self, plural: &'static str, namespace: &'a str) -> impl Iterator<Item = &'a Arc<Value>> {
        self.objects
            .range((plural, namespace.to_owned(), String::new())..)
            .take_while(move |((p, ns, _), _)| *p == plural && (namespace.is_empty() || ns == namespace))
            .map(|(_, object)| object)
    }

    /// Every object there is.
    pub fn all(&self) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        self.objects.iter()
    }

    /// Stores an object under its name with the next revision, and hands it back with it.
    pub fn put(&mut self, plural: &'static str, mut object: Value) -> Arc<Value> {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let key = key_of(plural, &object);
        let object = Arc::new(object);
        let previous = self.objects.insert(key, Arc::clone(&object));
        let kind = if previous.is_some() { ChangeKind::Modified } else { ChangeKind::Added };
        self.record(Change { revision: self.revision, plural, kind, object: Arc::clone(&object), previous });
        object
    }

    /// Removes an object; hands it back as it last was, with the revision of its end.
    pub fn remove(&mut self, plural: &'static str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let previous = self.objects.remove(&(plural, namespace.to_owned(), name.to_owned()))?;
        self.revision += 1;
        let mut last = (*previous).clone();
        last["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let object = Arc::new(last);
        let change = Change {
            revision: self.revision,
            plural,
            kind: ChangeKind::Deleted,
            object: Arc::clone(&object),
            previous: Some(previous),
        };
        self.record(change);
        Some(object)
    }

    /// What happened after a revision.
    ///
    /// # Errors
    /// 410 if the history does not reach back that far.
    pub fn since(&self, revision: u64) -> Result<impl Iterator<Item = &Change>, ApiError> {
        if revision < self.compacted {
            return Err(ApiError::expired(revision, self.compacted));
        }
        let start = self.history.partition_point(|change| change.revision <= revision);
        Ok(self.history.range(start..))
    }

    /// Forgets the past up to the newest revision: watches from before it get 410.
    pub fn compact(&mut self) {
        self.history.clear();
        self.compacted = self.revision;
    }

    fn record(&mut self, change: Change) {
        self.history.push_back(change);
        while self.history.len() > self.history_limit {
            if let Some(lost) = self.history.pop_front() {
                self.compacted = lost.revision;
            }
        }
    }
}

fn key_of(plural: &'static str, object: &Value) -> Key {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    (plural, text("namespace"), text("name"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str) -> Value {
        json!({"metadata": {"namespace": "default", "name": name}})
    }

    #[test]
    fn every_write_takes_the_next_revision_and_a_delete_is_one() {
        let mut store = Store::new(10);
        let first = store.put("pods", pod("a"));
        let second = store.put("pods", pod("b"));
        assert_eq!((&first["metadata"]["resourceVersion"], &second["metadata"]["resourceVersion"]), (&json!("2"), &json!("3")));
        let last = store.remove("pods", "default", "a").unwrap();
        assert_eq!(last["metadata"]["resourceVersion"], "4");
        let kinds: Vec<ChangeKind> = store.since(2).unwrap().map(|c| c.kind).collect();
        assert_eq!(kinds, [ChangeKind::Added, ChangeKind::Deleted]);
    }

    #[test]
    fn a_watch_from_before_the_history_is_told_that_it_expired() {
        let mut store = Store::new(2);
        for name in ["a", "b", "c", "d"] {
            store.put("pods", pod(name));
        }
        assert_eq!(store.since(3).unwrap().count(), 2);
        assert_eq!(store.since(2).map(|_| ()).unwrap_err().code, 410);
        store.compact();
        assert_eq!(store.since(store.revision()).unwrap().count(), 0);
    }

    #[test]
    fn a_list_of_one_namespace_does_not_run_into_the_next() {
        let mut store = Store::new(10);
        store.put("pods", pod("a"));
        store.put("pods", json!({"metadata": {"namespace": "other", "name": "b"}}));
        store.put("secrets", json!({"metadata": {"namespace": "default", "name": "c"}}));
        assert_eq!(store.list("pods", "default").count(), 1);
        assert_eq!(store.list("pods", "").count(), 2);
    }
}
