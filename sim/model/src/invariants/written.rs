//! What manifests have said, and since when: what is known of a static pod, whose objects the API server does not have.
//! Upstream: none.
//! Differs: nothing on purpose.

use std::collections::BTreeMap;
use std::time::Duration;

use kubelet::event::WatchKey;
use serde_json::Value;

use super::MANIFESTS_ARE_READ_WITHIN;
use super::causes::has_hook;
use crate::api::watch::is_unreadable;
use crate::manifests::{Wanted, grace_of, is_as_written, is_mirror_as_written, is_of, static_pod_of};
use crate::runtime::{Container, RuntimeModel};

/// What the manifests of each name have said, one after the other, and since when; without a pod if there was none.
#[derive(Clone, Debug, Default)]
pub(super) struct Written {
    names: BTreeMap<String, Vec<(Option<Wanted>, Duration)>>,
    /// What the URL asked for when it was last known.
    of_url: BTreeMap<String, Wanted>,
}

/// A manifest that is in force for something that was made from one that looks like it.
pub(super) struct InForce<'a> {
    pub(super) pod: &'a Value,
    /// Since when, if one that looked the same was in force before and had gone; `None` if nothing can have been made from another.
    pub(super) again_since: Option<Duration>,
}

impl Written {
    /// These are wanted from here on. What the URL asks for stands where it cannot be told.
    pub(super) fn is(&mut self, at: Duration, files: BTreeMap<String, Wanted>, url: Option<BTreeMap<String, Wanted>>) {
        self.of_url = url.unwrap_or_else(|| std::mem::take(&mut self.of_url));
        let mut wanted = self.of_url.clone();
        wanted.extend(files);
        for (name, said) in &mut self.names {
            let now = wanted.remove(name);
            if said.last().is_none_or(|(last, _)| *last != now) {
                said.push((now, at));
            }
        }
        self.names.extend(wanted.into_iter().map(|(name, pod)| (name, vec![(Some(pod), at)])));
    }

    fn in_force(&self, name: &str, is: impl Fn(&Value) -> bool, may_be_of: impl Fn(&Value) -> bool) -> Option<InForce<'_>> {
        let ((pod, since), before) = self.names.get(name)?.split_last()?;
        let pod = pod.as_ref().map(|wanted| &wanted.pod).filter(|pod| is(pod))?;
        let was = before.iter().any(|(wanted, _)| wanted.as_ref().is_some_and(|wanted| may_be_of(&wanted.pod)));
        Some(InForce { pod, again_since: was.then_some(*since) })
    }

    /// The manifest in force, if a static pod's container is as it says.
    pub(super) fn of_container(&self, runtime: &RuntimeModel, container: &Container) -> Option<InForce<'_>> {
        let may_be_of = |pod: &Value| is_of(runtime, pod, container);
        self.in_force(static_pod_of(runtime, container)?, |pod| is_as_written(runtime, pod, container), may_be_of)
    }

    /// The manifest in force, if a static pod's container is of its pod, be it as it was before it changed in place.
    pub(super) fn of_pod_of(&self, runtime: &RuntimeModel, container: &Container) -> Option<InForce<'_>> {
        let is_of = |pod: &Value| is_of(runtime, pod, container);
        self.in_force(static_pod_of(runtime, container)?, is_of, is_of)
    }

    /// The manifest in force, if a mirror is as it says.
    pub(super) fn of_mirror(&self, mirror: &Value) -> Option<InForce<'_>> {
        let is = |pod: &Value| is_mirror_as_written(pod, mirror);
        self.in_force(mirror["metadata"]["name"].as_str()?, is, is)
    }

    /// When the pod that a static pod's container is of was asked for no more, and how long its grace is: of all that it may have been
    /// made from the earliest and the shortest; a container was not asked to end before it was started. `None` if it may still be wanted.
    pub(super) fn ended(&self, runtime: &RuntimeModel, container: &Container, started: Duration) -> Option<(Duration, Duration)> {
        let said = self.names.get(static_pod_of(runtime, container)?)?;
        let looks = |wanted: &Option<Wanted>| wanted.as_ref().is_some_and(|wanted| is_of(runtime, &wanted.pod, container));
        if said.last().is_some_and(|(pod, _)| looks(pod)) {
            return None;
        }
        // Under the UID that a manifest names a pod goes on.
        let goes_on =
            |next: &Option<Wanted>| next.as_ref().is_some_and(|next| next.pod["metadata"]["uid"] == container.pod.as_str());
        let ends = said
            .iter()
            .zip(said.iter().skip(1))
            .filter(|((pod, _), (next, end))| looks(pod) && !goes_on(next) && *end + MANIFESTS_ARE_READ_WITHIN >= started);
        let grace = |pod: &Value| if has_hook(pod, container.name()) { Duration::ZERO } else { grace_of(pod) };
        let ends = ends.filter_map(|((pod, _), (_, end))| Some((*end, grace(&pod.as_ref()?.pod))));
        ends.reduce(|(end, grace), (other, least)| (end.min(other), grace.min(least)))
    }
}

/// Whether a mirror is one that nobody can read, and that is made anew for it.
pub(super) fn is_made_anew(mirror: &Value) -> bool {
    is_unreadable(&WatchKey::Pods, mirror)
}
