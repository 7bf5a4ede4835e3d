//! Decides whether the runtime's listings have room for one more pod: each comes as one message, and without it the node is blind.
//! Upstream: none: staging/src/k8s.io/cri-client/pkg (maxMsgSize, 16 MiB); beyond that a kubelet's node is NotReady until pods are removed.
//! Differs: a pod whose labels, annotations, ports and hooks would make a listing too long waits, with words, and the others go on.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use super::labels::{LISTED_EACH, container_listed_bytes, sandbox_listed_bytes, texts};
use crate::ids::PodUid;
use crate::observation::{ContainerStatus, PodObservation};

/// What all pods together may take in one listing, in bytes, before a static or critical one waits. The runtime and its clients take 16 MiB.
pub const CRITICAL_BYTES: usize = 15 << 20;
/// Beyond this a small pod waits: what pods of tenants take, those of the node have left.
pub const SMALL_BYTES: usize = 14 << 20;
/// Beyond this an ordinary pod waits: also hundreds that have ended leave room for small ones.
pub const ORDINARY_BYTES: usize = 12 << 20;
/// Beyond this a large pod waits: what a few large ones take, hundreds of ordinary ones have left.
pub const LARGE_BYTES: usize = 8 << 20;
/// What is new of a small and of an ordinary pod at most, in the listing of sandboxes, in bytes.
const OF_SANDBOX: (usize, usize) = (4 << 10, 24 << 10);
/// The same in the listing of containers: one takes about 2 KiB there, with its dead instance.
const OF_CONTAINERS: (usize, usize) = (16 << 10, 96 << 10);
/// The runtime holds a container that runs and a dead one before it.
const INSTANCES: usize = 2;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Weight {
    sandboxes: usize,
    containers: usize,
}

/// What the containers of a pod take once all were made.
fn containers_of(pod: &Pod) -> usize {
    let spec = pod.spec.as_ref();
    let all = spec.into_iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    all.map(|container| container_listed_bytes(pod, container)).sum::<usize>().saturating_mul(INSTANCES)
}

/// What those sandboxes take that there are, as they were made, whatever the pod's object says by now.
fn sandboxes_of(seen: &PodObservation) -> usize {
    seen.sandboxes.iter().map(|sandbox| LISTED_EACH + texts(&sandbox.labels) + sandbox.annotation_bytes).sum()
}

/// The same of containers.
fn containers_there(seen: &PodObservation) -> usize {
    let one = |c: &ContainerStatus| LISTED_EACH + texts(&c.labels) + texts(&c.annotations) + c.image.len() + c.image_ref.len();
    seen.containers.iter().map(one).sum()
}

/// How much all pods may take before one of that size waits.
fn most(critical: bool, size: usize, (small, ordinary): (usize, usize)) -> usize {
    match size {
        _ if critical => CRITICAL_BYTES,
        size if size <= small => SMALL_BYTES,
        size if size <= ordinary => ORDINARY_BYTES,
        _ => LARGE_BYTES,
    }
}

/// What the pods of this node take in the listings of sandboxes and of containers.
#[derive(Debug, Default)]
pub struct Listings {
    pods: BTreeMap<PodUid, Weight>,
    all: Weight,
}

impl Listings {
    /// What the runtime holds of a pod while nothing of it is being changed, whatever room there is. Where there is a sandbox, containers
    /// are made without a claim: all of the spec count, which is looked at once for each sandbox.
    pub fn hold(&mut self, uid: &PodUid, pod: &Pod, seen: &PodObservation) {
        let known = self.pods.get(uid).copied();
        let expected = match known {
            _ if seen.sandboxes.is_empty() => 0,
            Some(known) if known.sandboxes > 0 => known.containers,
            _ => containers_of(pod),
        };
        self.set(uid, Weight { sandboxes: sandboxes_of(seen), containers: expected.max(containers_there(seen)) });
    }

    /// Nothing more is made for a pod: what the runtime holds of it is all.
    pub fn end(&mut self, uid: &PodUid, seen: &PodObservation) {
        self.set(uid, Weight { sandboxes: sandboxes_of(seen), containers: containers_there(seen) });
    }

    fn set(&mut self, uid: &PodUid, own: Weight) {
        match self.pods.get(uid) {
            None if own == Weight::default() => {}
            Some(known) if *known == own => {}
            _ => self.put(uid, own),
        }
    }

    /// A sandbox is to be made for a pod beside those that the runtime holds of it; `critical` says whether the node itself needs the pod.
    ///
    /// # Errors
    /// There is no room for it now; in words, for `FailedCreatePodSandBox`.
    pub fn claim(&mut self, uid: &PodUid, pod: &Pod, critical: bool, seen: &PodObservation) -> Result<(), String> {
        let (new, containers) = (sandbox_listed_bytes(pod), containers_of(pod));
        let own = Weight { sandboxes: sandboxes_of(seen).saturating_add(new), containers: containers.max(containers_there(seen)) };
        let others = self.without(uid);
        let fits = |what: &str, own: usize, others: usize, most: usize| {
            if own.saturating_add(others) <= most {
                return Ok(());
            }
            Err(format!(
                "{what} take {own} bytes in the runtime's listings and those of the node's other pods {others}, of {most} that all may \
                 take together"
            ))
        };
        let (of_sandboxes, of_containers) = (most(critical, new, OF_SANDBOX), most(critical, containers, OF_CONTAINERS));
        fits("labels and annotations of the pod", own.sandboxes, others.sandboxes, of_sandboxes)?;
        fits("names, ports and preStop hooks of the pod's containers", own.containers, others.containers, of_containers)?;
        self.put(uid, own);
        Ok(())
    }

    /// The runtime holds nothing of a pod any more.
    pub fn release(&mut self, uid: &PodUid) {
        self.all = self.without(uid);
        self.pods.remove(uid);
    }

    fn without(&self, uid: &PodUid) -> Weight {
        let own = self.pods.get(uid).copied().unwrap_or_default();
        Weight { sandboxes: self.all.sandboxes - own.sandboxes, containers: self.all.containers - own.containers }
    }

    fn put(&mut self, uid: &PodUid, own: Weight) {
        let others = self.without(uid);
        self.all = Weight {
            sandboxes: others.sandboxes.saturating_add(own.sandboxes),
            containers: others.containers.saturating_add(own.containers),
        };
        self.pods.insert(uid.clone(), own);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::observation::SandboxStatus;

    fn pod(annotation: usize, containers: usize, command: usize) -> Pod {
        let hook = json!({"preStop": {"exec": {"command": ["x".repeat(command)]}}});
        let container = |number: usize| -> Value {
            let mut container = json!({"name": format!("c{number}"), "image": "busybox"});
            if command > 0 {
                container["lifecycle"] = hook.clone();
            }
            container
        };
        let annotations = json!({"a": "x".repeat(annotation)});
        let containers: Vec<Value> = (0..containers).map(container).collect();
        serde_json::from_value(json!({"metadata": {"name": "p", "annotations": annotations}, "spec": {"containers": containers}}))
            .unwrap()
    }

    fn uid(number: usize) -> PodUid {
        PodUid::new(format!("u{number}"))
    }

    fn empty() -> PodObservation {
        PodObservation::empty(uid(0), crate::time::Mono::ZERO)
    }

    /// Sandboxes of which the runtime tells so many bytes of annotations.
    fn seen(annotations: &[usize]) -> PodObservation {
        let sandbox = |bytes: &usize| -> SandboxStatus {
            serde_json::from_value(json!({
                "id": "s", "attempt": 0, "state": "Ready", "created_at": 1, "ips": [], "annotation_bytes": bytes,
                "host_network": false, "runtime_handler": "", "labels": {},
            }))
            .unwrap()
        };
        PodObservation { sandboxes: annotations.iter().map(sandbox).collect(), ..empty() }
    }

    /// Takes as many such pods as there is room for: how many, and what is said of the next one.
    fn fill(listings: &mut Listings, pod: &Pod, name: &str) -> (usize, String) {
        for number in 0..20_000 {
            if let Err(why) = listings.claim(&PodUid::new(format!("{name}{number}")), pod, false, &empty()) {
                return (number, why);
            }
        }
        panic!("there is always an end")
    }

    /// How many of such pods one node takes, and what it says of the next one.
    fn taken(pod: &Pod) -> (usize, String) {
        fill(&mut Listings::default(), pod, "u")
    }

    // Issue 10 (listing-size): cri-client/pkg/remote_runtime.go (maxMsgSize): what pods of any kind make of a listing stays below 16 MiB.
    #[test]
    fn pods_that_would_make_a_listing_too_long_wait() {
        let (large, why) = taken(&pod(250 << 10, 1, 0));
        assert!((30..33).contains(&large), "{large}");
        assert!(why.starts_with("labels and annotations of the pod take 2569"), "{why}");
        let (many, why) = taken(&pod(0, 3000, 0));
        assert_eq!(many, 1);
        assert!(why.starts_with("names, ports and preStop hooks of the pod's containers take "), "{why}");
        assert_eq!(taken(&pod(0, 1, 1 << 20)).0, 3);
        // As many as a node may have, with forty containers each.
        assert!(taken(&pod(2000, 40, 100)).0 >= 110);
        assert!(taken(&pod(16 << 10, 3, 0)).0 >= 700);
        // Pods that have ended are listed as well, and nothing else bounds their number.
        assert!(taken(&pod(0, 1, 0)).0 >= 7000);
    }

    #[test]
    fn what_large_and_ended_pods_take_small_ones_and_those_of_the_node_have_left() {
        let mut listings = Listings::default();
        let goes = |listings: &mut Listings, pod: &Pod, critical: bool| {
            let went = listings.claim(&uid(1), pod, critical, &empty()).is_ok();
            listings.release(&uid(1));
            went
        };
        let (hooks, annotations) = (pod(0, 1, 1 << 20), pod(250 << 10, 1, 0));
        fill(&mut listings, &hooks, "hooks");
        fill(&mut listings, &annotations, "annotations");
        let (dozens, usual) = (pod(2000, 40, 100), pod(20 << 10, 20, 100));
        assert!(!goes(&mut listings, &hooks, false) && goes(&mut listings, &dozens, false) && goes(&mut listings, &usual, false));
        fill(&mut listings, &pod(23 << 10, 1, 0), "ended");
        let small = pod(2000, 7, 100);
        assert!(!goes(&mut listings, &usual, false) && goes(&mut listings, &small, false));
        fill(&mut listings, &pod(2000, 1, 0), "ended and small");
        assert!(
            !goes(&mut listings, &small, false) && goes(&mut listings, &small, true) && goes(&mut listings, &annotations, true)
        );
        let of_the_node = (0..1000).filter(|number| listings.claim(&uid(*number), &annotations, true, &empty()).is_ok()).count();
        assert!((3..6).contains(&of_the_node) && listings.all.sandboxes <= CRITICAL_BYTES, "{of_the_node}");
    }

    // What is listed is what was made: neither an object that somebody changed nor a sandbox that is gone makes it less or more.
    #[test]
    fn room_is_what_the_runtime_tells() {
        let (mut listings, large, small) = (Listings::default(), pod(1 << 20, 1, 0), pod(0, 1, 0));
        for number in 0..6 {
            listings.hold(&uid(number), &small, &seen(&[1 << 20]));
        }
        listings.hold(&uid(7), &large, &empty());
        assert!(listings.claim(&uid(8), &large, false, &empty()).is_ok());
        assert!(listings.claim(&uid(9), &large, false, &empty()).is_err());
        // One more sandbox of the same pod: the dead one is still listed, also after its object was changed.
        assert!(listings.claim(&uid(8), &large, false, &seen(&[1 << 20])).is_err());
        listings.claim(&uid(8), &small, false, &seen(&[1 << 20])).unwrap();
        assert!(listings.claim(&uid(9), &large, false, &empty()).is_err());
        listings.hold(&uid(8), &small, &seen(&[1 << 20, 0]));
        assert!(listings.claim(&uid(9), &large, false, &empty()).is_err());
        // It was removed.
        listings.hold(&uid(8), &small, &seen(&[0]));
        assert!(listings.claim(&uid(9), &large, false, &empty()).is_ok());
        for number in 0..10 {
            listings.release(&uid(number));
        }
        assert_eq!((listings.all, listings.pods.len()), (Weight::default(), 0));
    }

    // After a restart the containers that are still to be made count as well: no claim follows, for the sandbox is there.
    #[test]
    fn containers_that_are_not_made_yet_count() {
        let (mut listings, hooks) = (Listings::default(), pod(0, 1, 1 << 20));
        for number in 0..3 {
            listings.hold(&uid(number), &hooks, &seen(&[0]));
        }
        assert!(listings.claim(&uid(3), &hooks, false, &empty()).is_err());
        // Nor does one follow where a sandbox is seen late, of a call that nobody had an answer of; where none came, there is nothing.
        listings.hold(&uid(0), &hooks, &empty());
        assert!(listings.claim(&uid(3), &hooks, false, &empty()).is_ok());
        listings.release(&uid(3));
        listings.hold(&uid(0), &hooks, &seen(&[0]));
        assert!(listings.claim(&uid(3), &hooks, false, &empty()).is_err());
        // A pod that has ended makes none.
        listings.end(&uid(0), &seen(&[0]));
        assert!(listings.claim(&uid(3), &hooks, false, &empty()).is_ok());
    }

    // A key may have three letters and its value none, 50,000 times: what is seen of it is no less than what is sent.
    #[test]
    fn empty_annotations_take_room_too() {
        let many: BTreeMap<String, String> = (0..50_000).map(|number| (format!("{number:05}"), String::new())).collect();
        // In protobuf: a tag and a length of the entry, of its key and of its value.
        assert!(texts(&many) >= many.keys().map(|key| 6 + key.len()).sum());
    }
}
