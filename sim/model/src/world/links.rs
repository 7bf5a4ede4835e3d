//! What calls meet on the other side, and what the other side tells by itself: watches, hints of the runtime.
//! Upstream: none.
//! Differs: nothing on purpose.

use std::sync::Arc;
use std::time::Duration;

use kubelet::action::{Action, ApiCall, Call, CriCall, ProbeCall};
use kubelet::event::{CriReply, Event, ProbeOutcome, WatchKey};
use kubelet::failure::{Failure, FailureKind};
use kubelet::observation::ContainerState;
use kubelet::time::Mono;

use super::{Coming, World};
use crate::api::controllers::storage;
use crate::faults::{Fate, Side};

/// How one of the agent's counterparts is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Well.
    Up,
    /// It refuses connections at once.
    Refuses,
    /// Nothing comes through, in either direction.
    Silent,
}

/// How long a watch that could not be opened waits.
const WATCH_RETRY: Duration = Duration::from_secs(1);
/// The same while the authorizer may not have heard of the pod.
const UNRELATED_RETRY: Duration = Duration::from_millis(100);
/// How long a runtime event stream that could not be opened waits.
const EVENTS_RETRY: Duration = Duration::from_millis(500);

impl World {
    pub(super) fn fate(&mut self, call: &Call) -> Fate {
        let (side, link) = match call {
            Call::Cri(_) => (Side::Runtime, self.runtime_link),
            Call::Api(_) => (Side::Api, self.api_link),
            Call::Host(_) | Call::Fetch(_) => (Side::Host, Link::Up),
            Call::Csi(_) => (Side::Csi, Link::Up),
            Call::Probe(_) | Call::Cancel(_) => return Fate::Well,
        };
        match link {
            Link::Up => self.faults.fate(side, call.name(), &mut self.rng),
            Link::Refuses => Fate::Fails(Failure::new(FailureKind::Unavailable, "connection refused")),
            Link::Silent => Fate::Lost,
        }
    }

    pub(super) fn latency(&self, call: &Call) -> Duration {
        match call {
            Call::Cri(call) => self.runtime.latency(self.now(), call),
            Call::Api(_) => Duration::from_millis(6),
            Call::Host(call) => self.host.latency(call),
            Call::Probe(_) | Call::Csi(_) | Call::Fetch(_) => Duration::from_millis(4),
            Call::Cancel(_) => Duration::ZERO,
        }
    }

    pub(super) fn takes_effect(&mut self, life: u32, began: Mono, action: &Action, answers: bool, rest: Duration) {
        if matches!(action.call, Call::Host(_)) && !self.is_life(life) {
            // The agent does these itself: they end with it.
            return;
        }
        let now = self.now();
        let id = action.id;
        let mut rest = rest;
        let awaited = self.life.as_ref().is_some_and(|one| one.number == life && one.in_flight.contains_key(&id));
        let event = match &action.call {
            Call::Cri(call) => {
                if let CriCall::StopContainer { .. } = call {
                    rest = self.runtime.latency(now, call);
                }
                let mut witness = std::mem::take(&mut self.witness);
                if let CriCall::StartContainer { id } = call
                    && !awaited
                    && let Some(container) = self.runtime.containers.get(id.as_str())
                {
                    witness.stale_start_arrives(container.pod.as_str(), container.name());
                }
                witness.runtime_called(self.scene(), call);
                self.witness = witness;
                let outcome = self.runtime.call(now, call).map(|reply| stamped(reply, began));
                Event::CriDone { id, outcome }
            }
            Call::Api(call) => {
                if matches!(call, ApiCall::PatchPodStatus { .. }) && !awaited {
                    self.witness.stale_status_arrives();
                }
                let outcome = self.api.call(now, &self.identity.clone(), call);
                if let Err(failure) = &outcome
                    && failure.kind == FailureKind::Forbidden
                {
                    let mut witness = std::mem::take(&mut self.witness);
                    witness.invariant_nothing_is_asked_that_is_forbidden(self.scene(), format!("{}: {failure}", call.name()));
                    self.witness = witness;
                }
                Event::ApiDone { id, outcome }
            }
            Call::Host(call) => Event::HostDone { id, outcome: self.host.call(call) },
            Call::Csi(call) => {
                if let Some(hold) = self.holds.remove(&(life, id)) {
                    self.host.csi.release(hold);
                }
                let mut witness = std::mem::take(&mut self.witness);
                witness.volume_called(self.scene(), &self.host.csi, call);
                self.witness = witness;
                Event::CsiDone { id, outcome: self.host.csi.call(call) }
            }
            Call::Probe(call) => Event::ProbeDone { id, outcome: Ok(self.probe(call)) },
            Call::Fetch(_) => Event::FetchDone { id, outcome: self.host.fetch() },
            Call::Cancel(_) => return,
        };
        if answers {
            self.arrives(life, rest, event);
        }
    }

    /// A network probe finds what an exec in the pod's containers would.
    fn probe(&mut self, call: &ProbeCall) -> ProbeOutcome {
        let (ProbeCall::Http { host, port, .. } | ProbeCall::Tcp { host, port } | ProbeCall::Grpc { host, port, .. }) = call;
        let path = if let ProbeCall::Http { path, .. } = call { path } else { "" };
        let now = self.now();
        if let Some(met) = self.runtime.knock(now, host, *port, path) {
            return met;
        }
        let sandbox = self.runtime.sandboxes.values().find(|s| s.ip == *host).map(|s| s.id.clone());
        let mut containers = self
            .runtime
            .containers
            .values()
            .filter(|c| c.state == ContainerState::Running && sandbox.as_ref().is_some_and(|sandbox| c.sandbox == *sandbox));
        match containers.find(|c| !c.exec_fails_at(now)) {
            Some(_) => ProbeOutcome::Success,
            None => ProbeOutcome::Failure("connection refused".to_owned()),
        }
    }

    pub(super) fn tell_runtime_changes(&mut self) {
        let changed = self.runtime.take_changed();
        let Some(life) = &self.life else { return };
        if !life.events_open || self.runtime_link != Link::Up {
            return;
        }
        let number = life.number;
        for pod in changed {
            if self.hints_lost > 0 && self.rng.below(self.hints_lost) == 0 {
                continue;
            }
            let after = Duration::from_micros(500 + self.rng.below(2500));
            self.arrives(number, after, Event::RuntimeChanged { pod });
        }
    }

    /// Lets the cluster's storage controllers act, and the agent see the sockets of drivers; nothing without a driver.
    pub(super) fn tend_volumes(&mut self) {
        if self.host.csi.is_empty() {
            return;
        }
        let revision = self.api.store.revision();
        if revision != self.storage_seen {
            let now = self.now();
            storage::pass(&mut self.api, now);
            self.storage_seen = revision;
        }
        let sockets = self.host.csi.sockets("");
        if let Some(life) = &mut self.life
            && life.sockets != sockets
        {
            life.sockets.clone_from(&sockets);
            let number = life.number;
            self.arrives(number, Duration::from_millis(50), Event::PluginsChanged);
        }
    }

    /// Lets the agent see that manifests changed.
    pub(super) fn tell_manifest_changes(&mut self) {
        let changes = self.host.manifest_changes;
        if let Some(life) = &mut self.life
            && std::mem::replace(&mut life.manifest_changes, changes) != changes
        {
            let number = life.number;
            self.arrives(number, Duration::from_millis(50), Event::ManifestsChanged);
        }
    }

    pub(super) fn open_events(&mut self, life: u32) {
        if !self.is_life(life) {
            return;
        }
        let event = if self.runtime_link != Link::Up {
            let failure = Failure::new(FailureKind::Unavailable, "connection refused");
            self.schedule(EVENTS_RETRY, Coming::OpensEvents { life });
            Event::RuntimeEventsClosed { failure }
        } else if self.runtime.has_events {
            if let Some(life) = &mut self.life {
                life.events_open = true;
            }
            Event::RuntimeEventsOpened
        } else {
            Event::RuntimeEventsClosed { failure: Failure::new(FailureKind::Unimplemented, "unknown method GetContainerEvents") }
        };
        self.handle(event);
    }

    pub(super) fn open_watch(&mut self, number: u32, key: &WatchKey) {
        let wanted = self.life.as_ref().is_some_and(|life| life.number == number && life.watches.contains_key(key));
        if !wanted {
            return;
        }
        if self.api_link != Link::Up {
            let failure = Failure::new(FailureKind::Unavailable, "connection refused");
            self.schedule(WATCH_RETRY, Coming::Opens { life: number, key: key.clone() });
            self.handle(Event::WatchFailed { key: key.clone(), failure });
            return;
        }
        match self.api.open(self.now(), &self.identity, key) {
            Ok((watch, listed)) => {
                if let Some(life) = &mut self.life {
                    life.watches.insert(key.clone(), Some(watch));
                }
                self.handle(listed);
            }
            Err(failure) => {
                let wait = if failure.is_unrelated() { UNRELATED_RETRY } else { WATCH_RETRY };
                self.schedule(wait, Coming::Opens { life: number, key: key.clone() });
                self.handle(Event::WatchFailed { key: key.clone(), failure });
            }
        }
    }

    /// Lets every watch that has something to tell deliver it soon.
    pub(super) fn tell_watches(&mut self) {
        let revision = self.api.store.revision();
        let Some(life) = &mut self.life else { return };
        if self.api_link != Link::Up {
            return;
        }
        let number = life.number;
        let behind: Vec<WatchKey> = life
            .watches
            .iter()
            .filter(|(key, watch)| watch.as_ref().is_some_and(|w| w.revision() < revision) && !life.delivering.contains(*key))
            .map(|(key, _)| key.clone())
            .collect();
        for key in behind {
            if let Some(life) = &mut self.life {
                life.delivering.insert(key.clone());
            }
            let after = Duration::from_micros(500 + self.rng.below(4500));
            self.schedule(after, Coming::Delivers { life: number, key });
        }
    }

    pub(super) fn deliver(&mut self, number: u32, key: &WatchKey) {
        if !self.is_life(number) {
            return;
        }
        let Some(life) = &mut self.life else { return };
        life.delivering.remove(key);
        if self.api_link != Link::Up {
            return;
        }
        let Some(Some(watch)) = life.watches.get_mut(key) else { return };
        let events = self.api.changes(watch);
        for event in events {
            self.handle(event);
            if !self.is_life(number) {
                return;
            }
        }
    }
}

fn stamped(reply: CriReply, began: Mono) -> CriReply {
    match reply {
        CriReply::Observation(mut observation) => {
            Arc::make_mut(&mut observation).began = began;
            CriReply::Observation(observation)
        }
        CriReply::Listing { listing, .. } => CriReply::Listing { began, listing },
        reply => reply,
    }
}
