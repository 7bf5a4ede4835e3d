//! Decides how long an image is not pulled again for a pod after a pull that failed.
//! Upstream: k8s.io/client-go/util/flowcontrol/backoff.go, as pkg/kubelet/images/image_manager.go uses it.
//! Differs: what a pod's end makes superfluous goes with it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ids::PodUid;
use crate::time::Mono;

/// POD-201
const FIRST: Duration = Duration::from_secs(10);
const MOST: Duration = Duration::from_secs(300);
const FORGOTTEN: Duration = Duration::from_secs(600);

#[derive(Debug)]
struct Entry {
    failed_at: Mono,
    wait: Duration,
    /// What the last pull failed with, reason first.
    why: String,
}

/// The back-offs by pod and image: containers with one image share one, another image of the pod has its own.
#[derive(Debug, Default)]
pub(super) struct Backoffs(BTreeMap<PodUid, BTreeMap<String, Entry>>);

impl Backoffs {
    /// Until when the image is not pulled for the pod, and what the last pull failed with; `None` if it may be.
    pub(super) fn holds(&self, now: Mono, pod: &PodUid, image: &str) -> Option<(Mono, &str)> {
        let entry = self.0.get(pod)?.get(image)?;
        (now < entry.failed_at + entry.wait).then_some((entry.failed_at + entry.wait, entry.why.as_str()))
    }

    /// A pull failed. Answers until when none is tried.
    pub(super) fn failed(&mut self, now: Mono, pod: &PodUid, image: &str, why: String) -> Mono {
        let images = self.0.entry(pod.clone()).or_default();
        images.retain(|_, entry| now.since(entry.failed_at) <= FORGOTTEN);
        let wait = images.get(image).map_or(FIRST, |last| (last.wait * 2).min(MOST));
        images.insert(image.to_owned(), Entry { failed_at: now, wait, why });
        now + wait
    }

    /// The pod needs no images any more.
    pub(super) fn forget(&mut self, pod: &PodUid) {
        self.0.remove(pod);
    }
}
