//! Decides which pods this node should have: merges the sources and tells what changed, by UID.
//! Upstream: pkg/kubelet/config/config.go, pkg/kubelet/pod/pod_manager.go.
//! Differs: an update replaces the whole object, so metadata that upstream never refreshes is fresh here too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::event::PodSource;
use crate::ids::{PodName, PodUid};
use crate::work::caught;

/// Local annotation: which source a pod came from (POD-004).
pub const SOURCE_ANNOTATION: &str = "kubernetes.io/config.source";
/// Local annotation: when the agent first saw the pod (POD-004).
pub const SEEN_ANNOTATION: &str = "kubernetes.io/config.seen";
/// Marks a mirror pod: the API identity of a static pod (POD-011).
pub const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// Names a static pod's manifest: its UID (POD-008).
pub const HASH_ANNOTATION: &str = "kubernetes.io/config.hash";

/// A pod that this node should have.
#[derive(Clone, Debug)]
pub struct DesiredPod {
    /// The object, with the two local annotations.
    pub pod: Arc<Pod>,
    /// Where it came from.
    pub source: PodSource,
}

/// What one delivery of a source changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// New pods, oldest first (POD-030).
    pub added: Vec<PodUid>,
    /// Pods whose spec, metadata or deletion changed.
    pub updated: Vec<PodUid>,
    /// Pods of which only the status changed (POD-002: RECONCILE).
    pub reconciled: Vec<PodUid>,
    /// Pods that are gone.
    pub removed: Vec<PodUid>,
    /// Pods whose object could not be taken over: what was known of them stands.
    pub failed: Vec<PodUid>,
}

/// The pods that this node should have.
#[derive(Debug, Default)]
pub struct PodManager {
    pods: BTreeMap<PodUid, DesiredPod>,
    mirrors: BTreeMap<PodName, Arc<Pod>>,
    /// Which of the pods are static, by full name.
    statics: BTreeSet<(PodName, PodUid)>,
    delivered: BTreeSet<PodSource>,
    expected: BTreeSet<PodSource>,
}

/// The UID of a pod object; `None` if the API server gave none, which it never does.
#[must_use]
pub fn uid_of(pod: &Pod) -> Option<PodUid> {
    pod.metadata.uid.as_deref().map(PodUid::new)
}

/// The full name of a pod object.
#[must_use]
pub fn name_of(pod: &Pod) -> PodName {
    PodName::new(pod.metadata.namespace.as_deref().unwrap_or_default(), pod.metadata.name.as_deref().unwrap_or_default())
}

/// Whether a pod came from another source than the API server (POD-011).
#[must_use]
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, SOURCE_ANNOTATION).is_some_and(|source| source != PodSource::Api.as_str())
}

fn is_mirror(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(MIRROR_ANNOTATION))
}

impl PodManager {
    /// A manager that waits for those sources.
    #[must_use]
    pub fn new(sources: impl IntoIterator<Item = PodSource>) -> Self {
        Self { expected: sources.into_iter().collect(), ..Self::default() }
    }

    /// Whether every source has delivered once: nothing may be removed before (POD-005).
    #[must_use]
    pub fn sources_ready(&self) -> bool {
        self.expected.is_subset(&self.delivered)
    }

    /// Whether that source has delivered once.
    #[must_use]
    pub fn has_delivered(&self, source: PodSource) -> bool {
        self.delivered.contains(&source)
    }

    /// The full names of all mirrors.
    pub fn mirrors(&self) -> impl Iterator<Item = &PodName> {
        self.mirrors.keys()
    }

    /// A static pod of that full name that is wanted, if there is one.
    #[must_use]
    pub fn static_named(&self, name: &PodName) -> Option<&PodUid> {
        let first = (name.clone(), PodUid::new(""));
        self.statics.range(first..).next().filter(|(of, _)| of == name).map(|(_, uid)| uid)
    }

    fn remove(&mut self, uid: &PodUid) {
        if let Some(known) = self.pods.remove(uid) {
            self.statics.remove(&(name_of(&known.pod), uid.clone()));
        }
    }

    /// The API server has that mirror no more.
    pub fn mirror_gone(&mut self, name: &PodName, uid: &PodUid) {
        if self.mirrors.get(name).and_then(|mirror| uid_of(mirror)).as_ref() == Some(uid) {
            self.mirrors.remove(name);
        }
    }

    /// A pod by UID.
    #[must_use]
    pub fn get(&self, uid: &PodUid) -> Option<&DesiredPod> {
        self.pods.get(uid)
    }

    /// All pods in UID order.
    pub fn iter(&self) -> impl Iterator<Item = (&PodUid, &DesiredPod)> {
        self.pods.iter()
    }

    /// The mirror of a static pod, by full name.
    #[must_use]
    pub fn mirror(&self, name: &PodName) -> Option<&Arc<Pod>> {
        self.mirrors.get(name)
    }

    /// A source delivered its complete set (POD-002, POD-005).
    pub fn listed(&mut self, wall: Timestamp, source: PodSource, pods: Vec<Arc<Pod>>) -> Changes {
        self.listed_beside(wall, source, pods, &BTreeSet::new())
    }

    /// The same, and there are others, which cannot be read: what was known of them stands.
    pub fn listed_beside(&mut self, wall: Timestamp, source: PodSource, pods: Vec<Arc<Pod>>, others: &BTreeSet<PodUid>) -> Changes {
        self.delivered.insert(source);
        let mut changes = Changes::default();
        let mut kept: BTreeSet<PodUid> = others.clone();
        if source == PodSource::Api {
            self.mirrors.retain(|_, mirror| uid_of(mirror).is_some_and(|uid| others.contains(&uid)));
        }
        for pod in pods {
            if let Some(uid) = uid_of(&pod) {
                kept.insert(uid);
            }
            self.apply(wall, source, pod, &mut changes);
        }
        let gone: Vec<PodUid> =
            self.pods.iter().filter(|(uid, p)| p.source == source && !kept.contains(*uid)).map(|(uid, _)| uid.clone()).collect();
        for uid in gone {
            self.remove(&uid);
            changes.removed.push(uid);
        }
        self.sort_added(&mut changes);
        changes
    }

    /// A source told of one pod.
    pub fn applied(&mut self, wall: Timestamp, source: PodSource, pod: Arc<Pod>) -> Changes {
        let mut changes = Changes::default();
        self.apply(wall, source, pod, &mut changes);
        changes
    }

    /// A source told that one pod is gone.
    pub fn deleted(&mut self, source: PodSource, pod: &Pod) -> Changes {
        let mut changes = Changes::default();
        if is_mirror(pod) {
            if let Some(uid) = uid_of(pod) {
                self.mirror_gone(&name_of(pod), &uid);
            }
        } else if let Some(uid) = uid_of(pod)
            && self.pods.get(&uid).is_some_and(|known| known.source == source)
        {
            self.remove(&uid);
            changes.removed.push(uid);
        }
        changes
    }

    /// One object costs no other one.
    fn apply(&mut self, wall: Timestamp, source: PodSource, pod: Arc<Pod>, changes: &mut Changes) {
        let uid = uid_of(&pod);
        if caught(|| self.take(wall, source, pod, changes)).is_err() {
            changes.failed.extend(uid);
        }
    }

    fn take(&mut self, wall: Timestamp, source: PodSource, pod: Arc<Pod>, changes: &mut Changes) {
        if is_mirror(&pod) {
            // What is made may be shown to go after the one that takes its place was made.
            let newer = |known: &Arc<Pod>| uid_of(known) != uid_of(&pod) && version_of(known) > version_of(&pod);
            if !self.mirrors.get(&name_of(&pod)).is_some_and(newer) {
                self.mirrors.insert(name_of(&pod), pod);
            }
            return;
        }
        let Some(uid) = uid_of(&pod) else { return };
        let seen = self
            .pods
            .get(&uid)
            .and_then(|known| annotation(&known.pod, SEEN_ANNOTATION))
            .map_or_else(|| format!("{wall:.9}"), str::to_owned);
        let pod = annotated(pod, source, seen);
        match self.pods.get_mut(&uid) {
            None => {
                changes.added.push(uid.clone());
                if source != PodSource::Api {
                    self.statics.insert((name_of(&pod), uid.clone()));
                }
                self.pods.insert(uid, DesiredPod { pod, source });
            }
            Some(known) => {
                if known.source != PodSource::Api {
                    self.statics.remove(&(name_of(&known.pod), uid.clone()));
                    self.statics.insert((name_of(&pod), uid.clone()));
                }
                if semantically_equal(&known.pod, &pod) {
                    if known.pod.status != pod.status {
                        changes.reconciled.push(uid);
                    }
                } else {
                    changes.updated.push(uid);
                }
                known.pod = pod;
            }
        }
    }

    /// POD-030: the older first. Of pods of one second those that an earlier life started come first: they have their place.
    fn sort_added(&self, changes: &mut Changes) {
        changes.added.sort_by_key(|uid| {
            let pod = self.pods.get(uid).map(|known| &known.pod);
            let created = pod.and_then(|pod| pod.metadata.creation_timestamp.as_ref().map(|t| t.0));
            let never_started = pod.and_then(|pod| pod.status.as_ref()?.start_time.as_ref()).is_none();
            (created, never_started, uid.clone())
        });
    }
}

/// API servers number versions upwards.
fn version_of(pod: &Pod) -> Option<u64> {
    pod.metadata.resource_version.as_deref()?.parse().ok()
}

/// One of a pod's annotations.
#[must_use]
pub fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

fn annotated(mut pod: Arc<Pod>, source: PodSource, seen: String) -> Arc<Pod> {
    let annotations = Arc::make_mut(&mut pod).metadata.annotations.get_or_insert_default();
    annotations.insert(SOURCE_ANNOTATION.to_owned(), source.as_str().to_owned());
    annotations.insert(SEEN_ANNOTATION.to_owned(), seen);
    pod
}

/// POD-003: spec, labels, deletion and annotations count; the rest does not.
fn semantically_equal(a: &Pod, b: &Pod) -> bool {
    let (x, y) = (&a.metadata, &b.metadata);
    x.deletion_timestamp == y.deletion_timestamp
        && x.deletion_grace_period_seconds == y.deletion_grace_period_seconds
        && x.labels == y.labels
        && x.annotations == y.annotations
        && a.spec == b.spec
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use serde_json::json;

    fn pod(uid: &str, image: &str, phase: &str) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": uid, "namespace": "default", "uid": uid},
                "spec": {"containers": [{"name": "c", "image": image}]},
                "status": {"phase": phase},
            }))
            .unwrap(),
        )
    }

    fn annotate_with(pod: &mut Pod, key: &str) {
        pod.metadata.annotations = Some([(key.to_owned(), "v".to_owned())].into());
    }

    const WALL: Timestamp = Timestamp::UNIX_EPOCH;

    // POD-002: one operation for each pod of a set; status alone is a reconcile.
    #[test]
    fn complete_set_is_compared_by_uid() {
        let mut manager = PodManager::new([PodSource::Api]);
        let first = manager.listed(
            WALL,
            PodSource::Api,
            vec![pod("a", "x:1", "Pending"), pod("b", "x:1", "Pending"), pod("c", "x:1", "Pending")],
        );
        assert_eq!(first.added.len(), 3);
        let second = manager.listed(WALL, PodSource::Api, vec![pod("a", "x:2", "Pending"), pod("b", "x:1", "Running")]);
        assert_eq!(second.updated, vec![PodUid::new("a")]);
        assert_eq!(second.reconciled, vec![PodUid::new("b")]);
        assert_eq!(second.removed, vec![PodUid::new("c")]);
        assert!(second.added.is_empty());
    }

    // S3: what is there and cannot be read is not gone.
    #[test]
    fn what_was_known_of_a_pod_that_cannot_be_read_stands() {
        let mut manager = PodManager::new([PodSource::Api]);
        let mut mirror = pod("m", "x:1", "Pending");
        annotate_with(Arc::make_mut(&mut mirror), MIRROR_ANNOTATION);
        manager.listed(WALL, PodSource::Api, vec![pod("a", "x:1", "Pending"), pod("b", "x:1", "Pending"), mirror]);
        let others = [PodUid::new("a"), PodUid::new("m"), PodUid::new("new")].into();
        let changes = manager.listed_beside(WALL, PodSource::Api, vec![], &others);
        assert_eq!(changes, Changes { removed: vec![PodUid::new("b")], ..Changes::default() });
        assert_eq!((manager.iter().count(), manager.mirrors().count()), (1, 1));
    }

    // POD-005: an empty first set counts as delivered.
    #[test]
    fn sources_are_ready_once_each_has_delivered() {
        let mut manager = PodManager::new([PodSource::Api, PodSource::File]);
        manager.listed(WALL, PodSource::Api, vec![]);
        assert!(!manager.sources_ready());
        manager.listed(WALL, PodSource::File, vec![]);
        assert!(manager.sources_ready());
    }

    // POD-004: both annotations are set, and the first sight stays.
    #[test]
    fn pod_is_annotated_with_its_source_and_first_sight() {
        let mut manager = PodManager::new([PodSource::Api]);
        manager.listed(WALL, PodSource::Api, vec![pod("a", "x:1", "Pending")]);
        manager.applied(Timestamp::from_second(9).unwrap(), PodSource::Api, pod("a", "x:2", "Pending"));
        let known = &manager.get(&PodUid::new("a")).unwrap().pod;
        assert_eq!(annotation(known, SOURCE_ANNOTATION), Some("api"));
        assert_eq!(annotation(known, SEEN_ANNOTATION), Some("1970-01-01T00:00:00.000000000Z"));
    }

    // POD-003: what an update is, and that the whole object is taken over with it.
    #[test]
    fn only_what_a_pod_is_to_be_makes_an_update() {
        let changed = |change: fn(&mut Pod)| {
            let mut manager = PodManager::new([PodSource::Api]);
            let mut object = pod("a", "x:1", "Pending");
            manager.applied(WALL, PodSource::Api, Arc::clone(&object));
            change(Arc::make_mut(&mut object));
            let changes = manager.applied(WALL, PodSource::Api, object);
            let known = manager.get(&PodUid::new("a")).unwrap().pod.metadata.generation;
            (changes.updated.len(), changes.reconciled.len(), known)
        };
        assert_eq!(changed(|p| p.spec.as_mut().unwrap().active_deadline_seconds = Some(5)), (1, 0, None));
        assert_eq!(changed(|p| p.metadata.labels = Some([("l".to_owned(), "v".to_owned())].into())), (1, 0, None));
        assert_eq!(changed(|p| p.metadata.deletion_grace_period_seconds = Some(5)), (1, 0, None));
        assert_eq!(changed(|p| p.metadata.deletion_timestamp = Some(Time(WALL))), (1, 0, None));
        assert_eq!(changed(|p| annotate_with(p, "a")), (1, 0, None));
        assert_eq!(changed(|p| annotate_with(p, SOURCE_ANNOTATION)), (0, 0, None), "a local annotation is ours to set");
        assert_eq!(changed(|p| annotate_with(p, SEEN_ANNOTATION)), (0, 0, None));
        assert_eq!(changed(|p| p.metadata.finalizers = Some(vec!["f".to_owned()])), (0, 0, None));
        assert_eq!(changed(|p| p.metadata.generation = Some(2)), (0, 0, Some(2)), "it is known all the same");
    }

    // POD-011: a mirror pod is an identity, never something to run.
    #[test]
    fn mirror_pod_is_not_a_desired_pod() {
        let mut manager = PodManager::new([PodSource::Api]);
        let mut mirror = pod("m", "x:1", "Pending");
        Arc::make_mut(&mut mirror).metadata.annotations = Some([(MIRROR_ANNOTATION.to_owned(), "h".to_owned())].into());
        let changes = manager.listed(WALL, PodSource::Api, vec![mirror]);
        assert_eq!(changes, Changes::default());
        assert!(manager.mirror(&PodName::new("default", "m")).is_some());
    }
}
