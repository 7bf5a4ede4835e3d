//! The strategy `Watch`: one watch per object that a pod refers to, closed with the last reference or once it cannot change.
//! Upstream: pkg/kubelet/util/manager/watch_based_manager.go.
//! Differs: an immutable object's watch closes on arrival, not on the first read; a failed sync tells the watch's own error too.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Lookup, is_immutable, kind, version};
use crate::action::{ApiCall, Call, Lane};
use crate::event::{Object, WatchKey};
use crate::failure::Failure;
use crate::out::Out;
use crate::time::{Mono, Now};

/// CFG-011: how long a read waits for the first answer.
const SYNC_LIMIT: Duration = Duration::from_secs(1);

/// Objects by watch.
#[derive(Debug, Default)]
pub(super) struct WatchStore {
    objects: BTreeMap<WatchKey, Watched>,
    /// When those that were never listed have been waited for long enough.
    unsynced: BTreeMap<WatchKey, Mono>,
}

#[derive(Debug)]
enum Watched {
    /// Never listed.
    Unsynced { late: bool, cause: Option<String> },
    /// Listed, and not there.
    Absent,
    /// There, and never read since it was referred to: why not.
    Unreadable(String),
    /// As last told.
    Present(Object),
    /// Never to change; its watch is closed (CFG-012).
    Immutable(Object),
}

impl WatchStore {
    /// Opens the object's watch unless it is known.
    pub(super) fn reference(&mut self, now: Now, key: &WatchKey, out: &mut Out<'_>) {
        if !self.objects.contains_key(key) {
            self.objects.insert(key.clone(), Watched::Unsynced { late: false, cause: None });
            self.unsynced.insert(key.clone(), now.mono + SYNC_LIMIT);
            out.post(Lane::Objects, None, Call::Api(ApiCall::Watch(key.clone())));
        }
    }

    /// Closes the object's watch and drops it.
    pub(super) fn drop_object(&mut self, key: &WatchKey, out: &mut Out<'_>) {
        self.unsynced.remove(key);
        match self.objects.remove(key) {
            None | Some(Watched::Immutable(_)) => {}
            Some(_) => unwatch(key, out),
        }
    }

    /// Takes the object as it is now. True if that is news.
    pub(super) fn told(&mut self, key: &WatchKey, object: Option<Object>, out: &mut Out<'_>) -> bool {
        let Some(known) = self.objects.get_mut(key) else { return false };
        if let Some(Object::Unreadable(unknown)) = object {
            // CFG-015: what was read before stays valid.
            if !matches!(known, Watched::Present(_) | Watched::Immutable(_)) {
                *known = Watched::Unreadable(unknown.why);
                self.unsynced.remove(key);
            }
            return true;
        }
        let news = match (&*known, &object) {
            // Its watch is closed: this was under way.
            (Watched::Immutable(_), _) => return false,
            (Watched::Unsynced { .. } | Watched::Unreadable(_), _) | (Watched::Absent, Some(_)) | (Watched::Present(_), None) => {
                true
            }
            (Watched::Absent, None) => false,
            (Watched::Present(old), Some(new)) => version(old).is_none() || version(old) != version(new),
        };
        *known = match object {
            None => Watched::Absent,
            Some(object) if is_immutable(&object) => {
                unwatch(key, out);
                Watched::Immutable(object)
            }
            Some(object) => Watched::Present(object),
        };
        self.unsynced.remove(key);
        news
    }

    /// Keeps why the object cannot be listed.
    pub(super) fn failed(&mut self, key: &WatchKey, failure: &Failure) {
        if let Some(Watched::Unsynced { cause, .. }) = self.objects.get_mut(key) {
            *cause = Some(failure.message.clone());
        }
    }

    /// What is known of the object.
    pub(super) fn lookup(&self, key: &WatchKey) -> Lookup<&Object> {
        match self.objects.get(key) {
            None => Lookup::NotRegistered,
            Some(Watched::Unsynced { late: false, .. }) => Lookup::Pending,
            Some(Watched::Unsynced { cause, .. }) => {
                let cause = cause.as_ref().map(|cause| format!(": {cause}")).unwrap_or_default();
                Lookup::Failed(format!("failed to sync {} cache: timed out waiting for the condition{cause}", kind(key)))
            }
            Some(Watched::Unreadable(why)) => {
                Lookup::Failed(format!("{} \"{}\" cannot be read: {why}", kind(key), key.object_name()))
            }
            Some(Watched::Absent) => Lookup::NotFound,
            Some(Watched::Present(object) | Watched::Immutable(object)) => Lookup::Found(object),
        }
    }

    /// When the next first answer is late.
    pub(super) fn deadline(&self) -> Option<Mono> {
        self.unsynced.values().min().copied()
    }

    /// Answers what is late since.
    pub(super) fn due(&mut self, now: Now) -> Vec<WatchKey> {
        let due: Vec<WatchKey> = self.unsynced.iter().filter(|(_, at)| **at <= now.mono).map(|(key, _)| key.clone()).collect();
        for key in &due {
            self.unsynced.remove(key);
            if let Some(Watched::Unsynced { late, .. }) = self.objects.get_mut(key) {
                *late = true;
            }
        }
        due
    }
}

fn unwatch(key: &WatchKey, out: &mut Out<'_>) {
    out.post(Lane::Objects, None, Call::Api(ApiCall::Unwatch(key.clone())));
}
