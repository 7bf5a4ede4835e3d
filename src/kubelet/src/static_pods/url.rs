//! Decides when the static pod URL is asked, and which pods its answer asks for.
//! Upstream: pkg/kubelet/config/http.go.
//! Differs: after an empty answer the one before it counts again; what is wrong is told without the answer.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use super::decode::decode_any;
use super::uid::{Origin, Place};
use crate::action::{Call, FetchCall, Lane};
use crate::config::{Config, StaticPods};
use crate::failure::Failure;
use crate::ids::{ActionId, PodName};
use crate::out::{Out, Owner};
use crate::pod::manager::name_of;
use crate::recorder::{Recorded, Subject};
use crate::sensitive::Sensitive;
use crate::time::{Mono, Now};

/// One GET with its answer.
const WITHIN: Duration = Duration::from_secs(10);
/// Whoever asks says in its own words that this was too long, and gets a second more for it.
const TIMEOUT: Duration = Duration::from_secs(11);
/// `httpCheckFrequency` at least.
const LEAST: Duration = Duration::from_secs(1);

/// The readings of the static pod URL.
#[derive(Debug)]
pub(super) struct Url {
    /// Where, and with which headers and frequency.
    at: StaticPods,
    url: Sensitive<String>,
    in_flight: Option<ActionId>,
    next: Mono,
    /// What it last answered that was no error.
    data: Vec<u8>,
}

impl Url {
    pub(super) fn of(config: &Config) -> Option<Self> {
        let at = config.static_pods.clone();
        let url = Sensitive::new(at.url.clone()?);
        Some(Self { at, url, in_flight: None, next: Mono::ZERO, data: Vec::new() })
    }

    pub(super) fn deadline(&self) -> Option<Mono> {
        self.in_flight.is_none().then_some(self.next)
    }

    /// Asks if it is time to.
    pub(super) fn due(&mut self, now: Now, out: &mut Out<'_>) {
        if self.deadline().is_some_and(|at| at <= now.mono) {
            let call = FetchCall { url: self.url.clone(), headers: self.at.url_headers.clone(), within: WITHIN };
            self.in_flight = Some(out.issue(Owner::ManifestUrl, Lane::Objects, TIMEOUT, Call::Fetch(call)));
        }
    }

    /// It was asked. All pods that it asks for, if that can be told and is not what is known: an error leaves in place what was (POD-010).
    pub(super) fn answered(
        &mut self,
        now: Now,
        node: &str,
        outcome: Result<Vec<u8>, Failure>,
        out: &mut Out<'_>,
    ) -> Option<Vec<Arc<Pod>>> {
        self.in_flight = None;
        self.next = now.mono + self.at.http_check_frequency.max(LEAST);
        let data = outcome.ok()?;
        if data.is_empty() {
            self.data = data;
            return Some(Vec::new());
        }
        if data == self.data {
            return None;
        }
        let origin = Origin { node, place: Place::Url(self.url.reveal()) };
        let pods = decode_any(&data, origin);
        self.data = data;
        match pods {
            Ok(pods) => Some(first_of_each_name(pods, out)),
            Err(why) => {
                let message = format!("Could not process the manifest of staticPodURL: {why}");
                out.record(Recorded::warning(Subject::Node, "FailedValidation", message));
                None
            }
        }
    }
}

/// POD-006: of two of one name the earlier one counts.
fn first_of_each_name(pods: Vec<Arc<Pod>>, out: &mut Out<'_>) -> Vec<Arc<Pod>> {
    let mut named: BTreeMap<PodName, Arc<Pod>> = BTreeMap::new();
    for pod in pods {
        match named.entry(name_of(&pod)) {
            Entry::Vacant(free) => {
                free.insert(pod);
            }
            Entry::Occupied(taken) => {
                let name = taken.key();
                let uid = pod.metadata.uid.as_deref().unwrap_or_default();
                let (of, pod_name) = (format!("{}_{}({uid})", name.name, name.namespace), name.name.to_string());
                let message = format!("Error validating pod {of} from http due to duplicate pod name {pod_name:?}, ignoring");
                out.record(Recorded::warning(Subject::Pod(pod), "FailedValidation", message));
            }
        }
    }
    named.into_values().collect()
}

#[cfg(test)]
mod tests;
