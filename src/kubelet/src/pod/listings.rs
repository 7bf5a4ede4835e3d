//! Decides whether the runtime's listings have room for one more pod: each comes as one message, and without it the node is blind.
//! Upstream: none: staging/src/k8s.io/cri-client/pkg (maxMsgSize, 16 MiB); beyond that a kubelet's node is NotReady until pods are removed.
//! Differs: a pod whose labels, annotations, ports and hooks would make a listing too long waits, with words, and the others go on.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use super::labels::{LISTED_EACH, container_listed_bytes, sandbox_listed_bytes, texts};
use crate::ids::PodUid;
use crate::observation::{ContainerStatus, PodObservation};

/// What all pods together may take in one listing, in bytes. The runtime and its clients take 16 MiB.
pub const LISTING_BYTES: usize = 14 << 20;
/// Beyond this those wait that take more than [`SHARE_BYTES`]: what a few large ones take, hundreds of ordinary ones have left.
pub const LARGE_PODS_BYTES: usize = 8 << 20;
/// What an ordinary pod takes at most, in bytes.
pub const SHARE_BYTES: usize = 24 << 10;
/// The runtime holds a container that runs and a dead one before it.
const INSTANCES: usize = 2;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Weight {
    sandboxes: usize,
    containers: usize,
}

impl Weight {
    fn of(pod: &Pod, sandboxes: usize) -> Self {
        let spec = pod.spec.as_ref();
        let all = spec.into_iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
        Self {
            sandboxes: sandbox_listed_bytes(pod).saturating_mul(sandboxes),
            containers: all.map(container_listed_bytes).sum::<usize>().saturating_mul(INSTANCES),
        }
    }

    fn seen(seen: &PodObservation) -> Self {
        let container =
            |c: &ContainerStatus| LISTED_EACH + texts(&c.labels) + texts(&c.annotations) + c.image.len() + c.image_ref.len();
        Self {
            sandboxes: seen.sandboxes.iter().map(|s| LISTED_EACH + texts(&s.labels) + s.annotation_bytes).sum(),
            containers: seen.containers.iter().map(container).sum::<usize>().saturating_mul(INSTANCES),
        }
    }
}

/// What the pods of this node take in the listings of sandboxes and of containers.
#[derive(Debug, Default)]
pub struct Listings {
    pods: BTreeMap<PodUid, Weight>,
    all: Weight,
}

impl Listings {
    /// The runtime holds sandboxes of a pod already: they count as they were made, whatever the pod's object says by now and whatever room
    /// there is. Free once they do.
    pub fn hold(&mut self, uid: &PodUid, seen: &PodObservation) {
        if !seen.sandboxes.is_empty() && !self.pods.contains_key(uid) {
            self.put(uid, Weight::seen(seen));
        }
    }

    /// A sandbox is to be made for a pod of which the runtime holds so many.
    ///
    /// # Errors
    /// There is no room for it now; in words, for `FailedCreatePodSandBox`.
    pub fn claim(&mut self, uid: &PodUid, pod: &Pod, sandboxes: usize) -> Result<(), String> {
        let own = Weight::of(pod, sandboxes + 1);
        let others = self.without(uid);
        let fits = |what: &str, own: usize, others: usize| {
            let most = if own <= SHARE_BYTES { LISTING_BYTES } else { LARGE_PODS_BYTES };
            if own.saturating_add(others) <= most {
                return Ok(());
            }
            Err(format!(
                "{what} take {own} bytes in the runtime's listings and those of the node's other pods {others}, of {most} that all may \
                 take together"
            ))
        };
        fits("labels and annotations of the pod", own.sandboxes, others.sandboxes)?;
        fits("names, ports and preStop hooks of the pod's containers", own.containers, others.containers)?;
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

    /// How many of such pods one node takes, and what it says of the next one.
    fn taken(pod: &Pod) -> (usize, String) {
        let mut listings = Listings::default();
        for number in 0..20_000 {
            if let Err(why) = listings.claim(&uid(number), pod, 0) {
                let all = listings.all.sandboxes.max(listings.all.containers);
                assert!(all < LISTING_BYTES, "{all}");
                let goes_on = listings.claim(&uid(30_000), &self::pod(100, 2, 0), 0).is_ok();
                assert!(goes_on || !why.contains(&format!(" {LARGE_PODS_BYTES} ")), "ordinary pods go on beside large ones");
                return (number, why);
            }
        }
        panic!("there is always an end")
    }

    // Issue 10 (listing-size): cri-client/pkg/remote_runtime.go (maxMsgSize): what pods of any kind make of a listing stays below 16 MiB.
    #[test]
    fn pods_that_would_make_a_listing_too_long_wait() {
        let (large, why) = taken(&pod(250 << 10, 1, 0));
        assert!((30..33).contains(&large), "{large}");
        assert!(why.starts_with("labels and annotations of the pod take 2570"), "{why}");
        let (many, why) = taken(&pod(0, 3000, 0));
        assert_eq!(many, 1);
        assert!(why.starts_with("names, ports and preStop hooks of the pod's containers take "), "{why}");
        assert_eq!(taken(&pod(0, 1, 1 << 20)).0, 3);
        // As many as a node may have, with twenty containers each.
        assert!(taken(&pod(2000, 20, 100)).0 >= 110);
        assert!(taken(&pod(16 << 10, 3, 0)).0 >= 800);
        // Pods that have ended are listed as well, and nothing else bounds their number.
        assert!(taken(&pod(0, 1, 0)).0 >= 7000);
    }

    #[test]
    fn room_is_given_back_and_what_runs_counts_without_being_asked() {
        let (mut listings, large) = (Listings::default(), pod(1 << 20, 1, 0));
        let seen = |annotation_bytes: usize| {
            let sandbox: SandboxStatus = serde_json::from_value(json!({
                "id": "s", "attempt": 0, "state": "Ready", "created_at": 1, "ips": [], "annotation_bytes": annotation_bytes,
                "host_network": false, "runtime_handler": "", "labels": {},
            }))
            .unwrap();
            PodObservation { sandboxes: vec![sandbox], ..PodObservation::empty(uid(0), crate::time::Mono::ZERO) }
        };
        for number in 0..6 {
            // As they were made, whatever their objects say now.
            listings.hold(&uid(number), &seen(1 << 20));
            listings.hold(&uid(number), &seen(9 << 20));
        }
        listings.hold(&uid(7), &PodObservation::empty(uid(7), crate::time::Mono::ZERO));
        assert!(listings.claim(&uid(8), &large, 0).is_ok());
        assert!(listings.claim(&uid(9), &large, 0).is_err());
        // One more sandbox of the same pod: the dead one is still listed.
        assert!(listings.claim(&uid(8), &large, 1).is_err());
        assert!(listings.claim(&uid(8), &large, 0).is_ok());
        listings.release(&uid(3));
        assert!(listings.claim(&uid(9), &large, 0).is_ok());
        for number in 0..10 {
            listings.release(&uid(number));
        }
        assert_eq!((listings.all, listings.pods.len()), (Weight::default(), 0));
    }
}
