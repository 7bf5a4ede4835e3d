//! Decides what becomes of objects that are there and cannot be read: they are left as they are, and somebody is told.
//! Upstream: none: its API types take whatever the API server stores (protobuf).
//! Differs: one such object costs itself alone. A pod is neither started nor stopped nor taken for gone, until it can be read again; the
//! mirror of a static pod is replaced (`static_pods/mirrors`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::event::{Object, Unreadable, WatchKey};
use crate::ids::{PodName, PodUid};
use crate::out::Out;
use crate::recorder::{Recorded, Subject};
use crate::time::{Mono, Now};

/// The reason of the event.
const REASON: &str = "UnreadableObject";
/// After what time it is told again, at first; twice that after each time.
const PAUSE: Duration = Duration::from_secs(10);
const PAUSE_MOST: Duration = Duration::from_secs(600);
/// How many are named.
const NAMED: usize = 3;

/// The objects of the node's own watches that cannot be read. Of a ConfigMap or Secret the pods that use it are told (`cache`).
#[derive(Debug, Default)]
pub struct Unreadables {
    objects: BTreeMap<WatchKey, BTreeMap<String, Unreadable>>,
    /// Those of them that are mirrors of static pods.
    mirrors: BTreeMap<PodName, PodUid>,
    /// When it is to be told.
    next: Option<Mono>,
    /// How often in a row it was.
    times: u32,
}

impl Object {
    /// What every object has; `None` of one that cannot be read.
    #[must_use]
    pub fn metadata(&self) -> Option<&ObjectMeta> {
        Some(match self {
            Self::Pod(object) => &object.metadata,
            Self::Node(object) => &object.metadata,
            Self::Service(object) => &object.metadata,
            Self::RuntimeClass(object) => &object.metadata,
            Self::CsiDriver(object) => &object.metadata,
            Self::ConfigMap(object) => &object.metadata,
            Self::Secret(object) => &object.reveal().metadata,
            Self::Unreadable(_) => return None,
        })
    }

    fn uid(&self) -> &str {
        match self {
            Self::Unreadable(unknown) => &unknown.uid,
            object => object.metadata().and_then(|metadata| metadata.uid.as_deref()).unwrap_or_default(),
        }
    }
}

fn is_ours(key: &WatchKey) -> bool {
    !matches!(key, WatchKey::ConfigMap { .. } | WatchKey::Secret { .. })
}

impl Unreadables {
    /// A watch delivered all that there is.
    pub fn listed(&mut self, now: Now, key: &WatchKey, objects: &[Object]) {
        if is_ours(key) {
            let before = self.objects.remove(key).unwrap_or_default();
            if *key == WatchKey::Pods {
                self.mirrors.clear();
            }
            for object in objects {
                self.note(now, key, object, &before);
            }
        }
    }

    /// A watch told of one.
    pub fn applied(&mut self, now: Now, key: &WatchKey, object: &Object) {
        if is_ours(key) {
            let before = self.take(key, object.uid());
            self.note(now, key, object, &before);
        }
    }

    /// One is gone.
    pub fn deleted(&mut self, key: &WatchKey, object: &Object) {
        self.take(key, object.uid());
    }

    fn take(&mut self, key: &WatchKey, uid: &str) -> BTreeMap<String, Unreadable> {
        let known = self.objects.get_mut(key).and_then(|objects| objects.remove_entry(uid));
        if self.objects.get(key).is_some_and(BTreeMap::is_empty) {
            self.objects.remove(key);
        }
        if let Some((_, unknown)) = known.as_ref().filter(|_| *key == WatchKey::Pods) {
            self.forget_mirror(unknown);
        }
        known.into_iter().collect()
    }

    fn note(&mut self, now: Now, key: &WatchKey, object: &Object, before: &BTreeMap<String, Unreadable>) {
        let Object::Unreadable(unknown) = object else { return };
        if unknown.is_nobody() {
            return;
        }
        if !before.contains_key(&unknown.uid) {
            self.next.get_or_insert(now.mono);
        }
        if unknown.mirror && *key == WatchKey::Pods {
            self.mirrors.insert(full_name(unknown), PodUid::new(&unknown.uid));
        }
        self.objects.entry(key.clone()).or_default().insert(unknown.uid.clone(), (**unknown).clone());
    }

    /// That one is not there any more. Another of its name may be.
    fn forget_mirror(&mut self, gone: &Unreadable) {
        let name = full_name(gone);
        if self.mirrors.get(&name).is_some_and(|uid| uid.as_str() == gone.uid) {
            let other = self.of(&WatchKey::Pods).find(|other| other.mirror && full_name(other) == name);
            match other.map(|other| PodUid::new(&other.uid)) {
                Some(uid) => self.mirrors.insert(name, uid),
                None => self.mirrors.remove(&name),
            };
        }
    }

    /// Whether that pod is there and cannot be read.
    #[must_use]
    pub fn has_pod(&self, uid: &PodUid) -> bool {
        self.objects.get(&WatchKey::Pods).is_some_and(|pods| pods.contains_key(uid.as_str()))
    }

    /// The pods that cannot be read.
    #[must_use]
    pub fn pods(&self) -> BTreeSet<PodUid> {
        self.of(&WatchKey::Pods).map(|unknown| PodUid::new(&unknown.uid)).collect()
    }

    /// The pods that cannot be read and never could in this life, with what is known of them. `known` are those that could.
    pub fn unread_pods<T>(&self, known: &BTreeMap<PodUid, T>) -> impl Iterator<Item = (PodUid, Pod)> {
        let all = self.of(&WatchKey::Pods).map(|unknown| (PodUid::new(&unknown.uid), unknown));
        all.filter(|(uid, _)| !known.contains_key(uid)).map(|(uid, unknown)| (uid, pod_by_name(unknown)))
    }

    /// The mirrors of static pods that cannot be read, by full name.
    #[must_use]
    pub fn mirrors(&self) -> &BTreeMap<PodName, PodUid> {
        &self.mirrors
    }

    /// The objects of one watch that cannot be read.
    pub fn of(&self, key: &WatchKey) -> impl Iterator<Item = &Unreadable> {
        self.objects.get(key).into_iter().flat_map(BTreeMap::values)
    }

    /// How many there are, by the plural of their kind.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<&'static str, usize> {
        self.objects.iter().map(|(key, objects)| (key.resource(), objects.len())).collect()
    }

    /// When there is something to tell.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        self.next
    }

    /// Tells what there is, ever more rarely while it lasts.
    pub fn due(&mut self, now: Now, out: &mut Out<'_>) {
        if self.next.is_none_or(|at| at > now.mono) {
            return;
        }
        if self.objects.is_empty() {
            (self.next, self.times) = (None, 0);
            return;
        }
        out.record(Recorded::warning(Subject::Node, REASON, self.message()));
        self.next = Some(now.mono + (PAUSE * 2u32.pow(self.times.min(6))).min(PAUSE_MOST));
        self.times = self.times.saturating_add(1);
    }

    fn message(&self) -> String {
        let all = self.objects.iter().flat_map(|(key, objects)| objects.values().map(move |unknown| (key.resource(), unknown)));
        let count = all.clone().count();
        let named: Vec<String> = all
            .take(NAMED)
            .map(|(kind, unknown)| format!("{kind} {} (UID {}): {}", unknown.full_name(), unknown.uid, unknown.why))
            .collect();
        let more = count.saturating_sub(NAMED);
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        let named = named.join("; ");
        format!("{count} objects cannot be read and are left alone, mend or delete them: {named}{more}")
    }
}

fn full_name(unknown: &Unreadable) -> PodName {
    PodName::new(&unknown.namespace, &unknown.name)
}

/// A pod of which nothing is known but who it is, and perhaps some of its spec.
pub(crate) fn pod_by_name(unknown: &Unreadable) -> Pod {
    Pod {
        metadata: ObjectMeta {
            name: Some(unknown.name.clone()),
            namespace: Some(unknown.namespace.clone()),
            uid: Some(unknown.uid.clone()),
            ..ObjectMeta::default()
        },
        spec: unknown.spec.as_deref().cloned(),
        ..Pod::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        Now { mono: Mono::from_start(Duration::from_secs(seconds)), wall: jiff::Timestamp::UNIX_EPOCH }
    }

    fn unknown(uid: &str) -> Object {
        let name = format!("name-{uid}");
        Object::Unreadable(Box::new(Unreadable {
            namespace: "ns".into(),
            name,
            uid: uid.into(),
            why: "why".into(),
            ..Unreadable::default()
        }))
    }

    fn told(unreadables: &mut Unreadables, now: Now) -> Vec<String> {
        let (mut ledger, mut actions, mut recorded) = (crate::out::Ledger::default(), Vec::new(), Vec::new());
        unreadables.due(now, &mut Out::new(&mut ledger, &mut actions, &mut recorded));
        recorded.into_iter().map(|recorded| recorded.message).collect()
    }

    // S3: known until it is readable or gone, whatever list or change tells so.
    #[test]
    fn what_cannot_be_read_is_known_until_it_can_or_is_gone() {
        let (mut all, key) = (Unreadables::default(), WatchKey::Pods);
        all.listed(at(0), &key, &[unknown("a"), unknown("b"), unknown("c")]);
        assert!(all.has_pod(&PodUid::new("a")) && all.counts() == [("pods", 3)].into());
        let readable = Pod { metadata: ObjectMeta { uid: Some("a".into()), ..ObjectMeta::default() }, ..Pod::default() };
        all.applied(at(0), &key, &Object::Pod(readable.into()));
        all.deleted(&key, &unknown("b"));
        assert_eq!(all.pods(), [PodUid::new("c")].into());
        all.listed(at(0), &key, &[]);
        assert!(all.counts().is_empty());
        let secret = WatchKey::Secret { namespace: "ns".into(), name: "s".into() };
        all.applied(at(0), &secret, &unknown("s"));
        assert!(all.counts().is_empty(), "its users are told");
    }

    // S3, POD-014: every event looks at the mirrors, so they are kept as they come and go, whichever watch tells of them.
    #[test]
    fn mirrors_that_cannot_be_read_are_those_that_a_scan_finds() {
        let mirror = |uid: &str, name: &str, mirror| {
            let (namespace, name, uid) = ("ns".to_owned(), name.to_owned(), uid.to_owned());
            Object::Unreadable(Box::new(Unreadable { namespace, name, uid, mirror, ..Unreadable::default() }))
        };
        let (mut all, key) = (Unreadables::default(), WatchKey::Pods);
        let is = |all: &Unreadables, known: &[(&str, &str)]| {
            let known = known.iter().map(|(name, uid)| (PodName::new("ns", name), PodUid::new(*uid))).collect();
            assert_eq!(*all.mirrors(), known);
        };
        all.listed(at(0), &key, &[mirror("1", "a", true), mirror("2", "b", true), mirror("3", "c", false)]);
        is(&all, &[("a", "1"), ("b", "2")]);
        all.listed(at(0), &WatchKey::Services, &[mirror("4", "d", true)]);
        all.deleted(&WatchKey::Services, &mirror("1", "a", true));
        all.applied(at(0), &key, &mirror("5", "a", true));
        is(&all, &[("a", "5"), ("b", "2")]);
        all.deleted(&key, &mirror("1", "a", true));
        is(&all, &[("a", "5"), ("b", "2")]);
        all.applied(at(0), &key, &mirror("6", "a", true));
        all.deleted(&key, &mirror("6", "a", true));
        is(&all, &[("a", "5"), ("b", "2")]);
        let readable = Pod { metadata: ObjectMeta { uid: Some("2".into()), ..ObjectMeta::default() }, ..Pod::default() };
        all.applied(at(0), &key, &Object::Pod(readable.into()));
        is(&all, &[("a", "5")]);
        all.applied(at(0), &key, &mirror("5", "a", false));
        is(&all, &[]);
        all.listed(at(0), &key, &[mirror("7", "e", true)]);
        is(&all, &[("e", "7")]);
        all.listed(at(0), &key, &[]);
        is(&all, &[]);
    }

    // S17: at once, then ever more rarely; one more does not make it more often.
    #[test]
    fn it_is_told_at_once_and_then_ever_more_rarely() {
        let mut all = Unreadables::default();
        assert_eq!(all.deadline(), None);
        all.applied(at(0), &WatchKey::Services, &unknown("a"));
        let first = "1 objects cannot be read and are left alone, mend or delete them: services ns/name-a (UID a): why";
        assert_eq!(told(&mut all, at(0)), [first]);
        for uid in ["b", "c", "d", "e"] {
            all.applied(at(1), &WatchKey::Services, &unknown(uid));
        }
        assert!(told(&mut all, at(1)).is_empty());
        let mut pauses = Vec::new();
        let mut now = at(0);
        for _ in 0..8 {
            let next = all.deadline().unwrap();
            pauses.push(next.since(now.mono).as_secs());
            now = Now { mono: next, ..now };
            let message = told(&mut all, now).remove(0);
            assert!(message.starts_with("5 objects") && message.ends_with("; and 2 more"), "{message}");
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 600, 600]);
        all.listed(now, &WatchKey::Services, &[]);
        now = Now { mono: all.deadline().unwrap(), ..now };
        assert!(told(&mut all, now).is_empty() && all.deadline().is_none());
    }
}
