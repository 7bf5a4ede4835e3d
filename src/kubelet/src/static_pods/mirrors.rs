//! Decides when a mirror pod is made and deleted: the API's picture of a static pod, which never runs by itself.
//! Upstream: pkg/kubelet/kubelet.go (tryReconcileMirrorPods), pkg/kubelet/pod/mirror_client.go, pkg/kubelet/kubelet_pods.go.
//! Differs: it is made once the watch has shown that there is none, not at each sync; after each try there is a pause; one that cannot be
//! read is replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::action::{ApiCall, Call, Lane};
use crate::event::{ApiReply, PodSource};
use crate::failure::Failure;
use crate::ids::{PodName, PodUid};
use crate::kubelet::Kubelet;
use crate::out::{Out, Owner};
use crate::pod::manager::{HASH_ANNOTATION, MIRROR_ANNOTATION, annotation, is_static, uid_of};
use crate::pod::worker::Phase;
use crate::time::{Mono, Now, earliest};

const TIMEOUT: Duration = Duration::from_secs(30);
/// Between two tries at least; after failures longer.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MOST: Duration = Duration::from_secs(10);
/// Before a mirror that cannot be read is replaced again: that of an API server whose pods nobody here can read is not made anew for ever.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(10);
const UNREADABLE_PAUSE_MOST: Duration = Duration::from_secs(600);

/// What is being done about mirror pods.
#[derive(Debug, Default)]
pub(crate) struct Mirrors(BTreeMap<PodName, Tries>);

#[derive(Debug, Default)]
struct Tries {
    in_flight: Option<Doing>,
    failures: u32,
    not_before: Mono,
    /// How often in a row a mirror that could not be read was deleted, and when the next may be.
    unreadable: u32,
    replaced_not_before: Mono,
    /// Until when something waits.
    waits: Option<Mono>,
}

#[derive(Debug)]
enum Doing {
    Creating,
    Deleting(PodUid),
    Replacing(PodUid),
}

impl Tries {
    /// Whether that may begin now; if not, it is waited for.
    fn may_begin(&mut self, now: Now, doing: &Doing) -> bool {
        let at = if let Doing::Replacing(_) = doing { self.not_before.max(self.replaced_not_before) } else { self.not_before };
        self.waits = Some(at).filter(|at| *at > now.mono);
        self.in_flight.is_none() && self.waits.is_none()
    }
}

impl Mirrors {
    pub(crate) fn deadline(&self) -> Option<Mono> {
        earliest(self.0.values().filter(|tries| tries.in_flight.is_none()).map(|tries| tries.waits))
    }
}

/// What a static pod's mirror is made from (POD-012); `None` while it is not known whose it is, or the node is about to go (NODE-049).
fn mirror_of(pod: &Pod, node: Option<&Node>) -> Option<Pod> {
    let node = node.filter(|node| node.metadata.deletion_timestamp.is_none())?;
    let uid = node.metadata.uid.clone().filter(|uid| !uid.is_empty())?;
    let mut mirror = pod.clone();
    let annotations = mirror.metadata.annotations.get_or_insert_default();
    let hash = annotations.get(HASH_ANNOTATION).cloned().unwrap_or_default();
    annotations.insert(MIRROR_ANNOTATION.to_owned(), hash);
    mirror.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.metadata.name.clone().unwrap_or_default(),
        uid,
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    Some(mirror)
}

fn is_mirror_of(mirror: &Pod, pod: &Pod) -> bool {
    mirror.metadata.deletion_timestamp.is_none() && annotation(mirror, MIRROR_ANNOTATION) == annotation(pod, HASH_ANNOTATION)
}

impl Kubelet {
    /// Brings the mirror pods in line with the static pods, and the statuses of these with where they are told.
    pub(crate) fn tend_mirrors(&mut self, now: Now, out: &mut Out<'_>) {
        if self.parts.config.node.standalone || !self.pods.has_delivered(PodSource::Api) {
            return;
        }
        let names = self.static_pods.order.keys().chain(self.pods.mirrors()).chain(self.unreadable.mirrors().keys());
        let names: BTreeSet<PodName> = names.cloned().collect();
        self.static_pods
            .mirrors
            .0
            .retain(|name, tries| names.contains(name) || tries.in_flight.is_some() || tries.not_before > now.mono);
        for name in names {
            let first = self.static_pods.order.get(&name).and_then(|order| order.first()).cloned();
            let mirror = self.pods.mirror(&name).cloned();
            let running = first.as_ref().and_then(|uid| self.pods.get(uid)).filter(|known| known.source != PodSource::Api).cloned();
            // Of one that was refused nothing runs, and its mirror is told so (kubelet.go, rejectPod).
            let wanted = self.pods.static_named(&name).cloned();
            if let Some(uid) = first.as_ref().filter(|_| running.is_some()).or(wanted.as_ref().filter(|_| first.is_none())) {
                self.show_mirror(now, uid, mirror.as_ref(), out);
            }
            let unreadable = self.unreadable.mirrors().get(&name);
            let syncing = first.as_ref().and_then(|uid| self.workers.get(uid)).is_some_and(|w| w.phase == Phase::Syncing);
            let nobodys = first.is_none() && self.pods.sources_ready() && wanted.is_none();
            let (doing, call) = match (running.filter(|_| syncing), mirror) {
                (known, _) if let Some(uid) = unreadable.filter(|_| known.is_some() || nobodys) => replacement(&name, uid),
                (Some(known), None) => match mirror_of(&known.pod, self.parts.node.node().map(AsRef::as_ref)) {
                    Some(pod) => (Doing::Creating, ApiCall::CreatePod(Box::new(pod))),
                    None => continue,
                },
                (Some(known), Some(mirror)) if !is_mirror_of(&mirror, &known.pod) => deletion(&name, &mirror),
                // POD-014: nobody's, unless the static pod of that name is on its way out or was refused.
                (None, Some(mirror)) if nobodys => deletion(&name, &mirror),
                (known, _) => {
                    if let Some(tries) = self.static_pods.mirrors.0.get_mut(&name) {
                        tries.waits = None;
                        if known.is_some() {
                            tries.unreadable = 0;
                        }
                    }
                    continue;
                }
            };
            let tries = self.static_pods.mirrors.0.entry(name.clone()).or_default();
            if tries.may_begin(now, &doing) {
                tries.in_flight = Some(doing);
                out.issue(Owner::Mirror(name), Lane::PodStatus, TIMEOUT, Call::Api(call));
            }
        }
    }

    /// Hands a static pod's mirror, or that there is none, to where its status is told.
    fn show_mirror(&mut self, now: Now, uid: &PodUid, mirror: Option<&Arc<Pod>>, out: &mut Out<'_>) {
        let Some(known) = self.pods.get(uid).cloned() else { return };
        let shown = mirror.filter(|mirror| is_mirror_of(mirror, &known.pod));
        let held = self.quarantine.holds(uid);
        if let Some(mirror) = shown.filter(|_| held) {
            self.set_aside_as_shown(uid, mirror);
        }
        let is_computed = self.workers.get(uid).is_some_and(|worker| worker.phase < Phase::Terminated) && !held;
        if self.parts.statuses.mirror_seen(now, uid, shown, is_computed, out) {
            self.dirty.insert(uid.clone());
        }
    }

    /// A mirror pod was made or deleted, or was not.
    pub(crate) fn mirror_done(&mut self, now: Now, name: &PodName, outcome: Result<ApiReply, Failure>) {
        let Some(tries) = self.static_pods.mirrors.0.get_mut(name) else { return };
        let doing = tries.in_flight.take();
        match (outcome, doing) {
            (Ok(reply), Some(Doing::Creating)) => {
                tries.failures = 0;
                tries.not_before = now.mono + PAUSE;
                if let ApiReply::Pod(pod) = reply {
                    self.pods.applied(now.wall, PodSource::Api, pod);
                }
            }
            // The one that follows is made at once.
            (Ok(_), Some(Doing::Deleting(uid))) => {
                tries.failures = 0;
                self.pods.mirror_gone(name, &uid);
            }
            (Ok(_), Some(Doing::Replacing(uid))) => {
                tries.failures = 0;
                let pause = (UNREADABLE_PAUSE * 2_u32.pow(tries.unreadable.min(6))).min(UNREADABLE_PAUSE_MOST);
                tries.replaced_not_before = now.mono + pause;
                tries.unreadable = tries.unreadable.saturating_add(1);
                self.pods.mirror_gone(name, &uid);
            }
            _ => {
                tries.not_before = now.mono + (PAUSE * 2_u32.pow(tries.failures.min(4))).min(PAUSE_MOST);
                tries.failures += 1;
            }
        }
    }

    /// A static pod has a worker, or something that the runtime has of a pod of that name does: they run one at a time (POD-081).
    pub(crate) fn queue(&mut self, name: PodName, uid: &PodUid, first: bool) {
        let order = self.static_pods.order.entry(name).or_default();
        if !order.contains(uid) {
            order.insert(if first { 0 } else { order.len() }, uid.clone());
        }
    }

    /// Such a worker is no more: the next in line may start.
    pub(crate) fn unqueue(&mut self, name: &PodName, uid: &PodUid) {
        let Some(order) = self.static_pods.order.get_mut(name) else { return };
        order.retain(|queued| queued != uid);
        match order.first() {
            Some(next) => {
                self.dirty.insert(next.clone());
            }
            None => {
                self.static_pods.order.remove(name);
            }
        }
    }

    /// Whether a static pod has to wait for another of its name (POD-081).
    pub(crate) fn waits_in_line(&self, pod: &Pod, name: &PodName) -> bool {
        let first = self.static_pods.order.get(name).and_then(|order| order.first());
        is_static(pod) && first.is_some_and(|first| uid_of(pod).as_ref() != Some(first))
    }
}

fn deletion(name: &PodName, mirror: &Pod) -> (Doing, ApiCall) {
    let uid = uid_of(mirror).unwrap_or_else(|| PodUid::new(""));
    (Doing::Deleting(uid.clone()), deleting(name, uid))
}

/// A mirror says nothing that its manifest does not say: one that cannot be read is made anew.
fn replacement(name: &PodName, uid: &PodUid) -> (Doing, ApiCall) {
    (Doing::Replacing(uid.clone()), deleting(name, uid.clone()))
}

fn deleting(name: &PodName, uid: PodUid) -> ApiCall {
    ApiCall::DeletePod { namespace: name.namespace.to_string(), name: name.name.to_string(), uid, grace_seconds: 0 }
}
