//! Keeps a panic, or a broken invariant, within the pod that it was for: that pod is left alone for a while, all others go on.
//! Upstream: staging/src/k8s.io/apimachinery/pkg/util/runtime/runtime.go (HandleCrash).
//! Differs: upstream logs and dies of it; here the pod's record is made anew from what is observed, and its containers go on. Those of a
//! pod that is to stop, and whose every plan fails, are stopped without one: with its grace, without hooks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};

use super::Kubelet;
use super::due::Part;
use crate::action::{Call, CriCall, Lane};
use crate::event::Event;
use crate::failure::{Failure, FailureKind};
use crate::ids::{ActionId, PodUid};
use crate::out::{Out, Owner};
use crate::pod::report::{as_of_mirror, quarantined_status};
use crate::pod::stop::pod_grace;
use crate::quarantine::Released;
use crate::recorder::{Recorded, Subject};
use crate::status_manager::Gate;
use crate::time::{Mono, Now};
use crate::work::{Point, caught};
use crate::workers::phase_is_terminal;

/// The reason of events and of statuses.
pub(crate) const QUARANTINED: &str = "Quarantined";
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Parts that failed, for no pod alone.
#[derive(Debug, Default)]
pub(super) struct Faults {
    parts: BTreeMap<Part, (u32, Mono)>,
    caught: u64,
}

impl Faults {
    pub(super) fn not_before(&self, part: Part, at: Option<Mono>) -> Option<Mono> {
        at.map(|at| self.parts.get(&part).map_or(at, |(_, until)| at.max(*until)))
    }

    fn rests(&self, now: Mono, part: Part) -> bool {
        self.parts.get(&part).is_some_and(|(_, until)| *until > now)
    }

    fn failed(&mut self, now: Mono, part: Part) {
        let (times, until) = self.parts.entry(part).or_insert((0, now));
        *until = now + (FIRST_PAUSE * 2u32.pow((*times).min(5))).min(LONGEST_PAUSE);
        *times += 1;
    }
}

impl Kubelet {
    /// How many pods are left alone because the core failed on them.
    #[must_use]
    pub fn quarantined(&self) -> usize {
        self.quarantine.len()
    }

    /// How many objects are left alone because they cannot be read, by the plural of their kind.
    #[must_use]
    pub fn unreadable(&self) -> BTreeMap<&'static str, usize> {
        self.unreadable.counts()
    }

    /// How many panics the core has caught.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.faults.caught + self.parts.volumes.csi.panics
    }

    /// Routes an event. What fails of it costs the pod that it was for; a call that ended there has failed.
    pub(super) fn take(&mut self, now: Now, event: Event, out: &mut Out<'_>) {
        let call = ended(&event);
        let owner = call.and_then(|(id, _)| out.owns(id)).cloned();
        let pod = self.pod_of(&event, owner.as_ref());
        let routed = caught(|| {
            match &pod {
                Some(pod) => out.works_for(Point::CallEnded, pod),
                None => out.rests(),
            }
            self.route(now, event, out);
        });
        let Err(said) = routed else { return };
        let pod = out.working_for().map(|(_, pod)| pod.clone()).or(pod);
        self.faults.caught += 1;
        if let Some(((id, fails), owner)) = call.zip(owner) {
            // Whoever waits for it must not wait for ever.
            out.give_back(id, owner);
            out.rests();
            let failure = Failure::new(FailureKind::Other, "internal error: the answer could not be taken");
            self.faults.caught += u64::from(caught(|| self.route(now, fails(id, failure), out)).is_err());
        }
        if let Some(pod) = pod {
            self.fails_on(now, &pod, said, out);
        }
    }

    fn pod_of(&self, event: &Event, owner: Option<&Owner>) -> Option<PodUid> {
        match (event, owner) {
            (Event::RuntimeChanged { pod }, _) => Some(pod.clone()),
            (
                _,
                Some(Owner::Pod(uid) | Owner::Volume(uid, _) | Owner::Claim(uid, _) | Owner::PodStatus(uid) | Owner::Image(uid, _)),
            ) => Some(uid.clone()),
            (_, Some(Owner::Token(number))) => self.parts.tokens.pod_of(*number).cloned(),
            (_, Some(Owner::Csi(name))) => self.parts.volumes.csi.a_user_of(name).cloned(),
            _ => None,
        }
    }

    /// Lets a part do something. What fails of it costs the pod that it was for; if that is none, or does not help, the part rests.
    pub(super) fn guarded(&mut self, now: Now, part: Part, out: &mut Out<'_>, work: impl FnOnce(&mut Self, &mut Out<'_>)) {
        if self.faults.rests(now.mono, part) {
            return;
        }
        let done = caught(|| {
            out.rests();
            work(self, out);
        });
        match done {
            Ok(()) => {
                self.faults.parts.remove(&part);
            }
            Err(said) => {
                self.faults.caught += 1;
                let pod = out.working_for().map(|(_, pod)| pod.clone());
                if pod.as_ref().is_none_or(|pod| self.quarantine.holds(pod)) {
                    self.faults.failed(now.mono, part);
                }
                if let Some(pod) = pod {
                    self.fails_on(now, &pod, said, out);
                }
            }
        }
    }

    /// Does something for one pod. What fails of it costs that pod.
    pub(crate) fn for_pod(
        &mut self,
        now: Now,
        at: Point,
        uid: &PodUid,
        out: &mut Out<'_>,
        work: impl FnOnce(&mut Self, &mut Out<'_>),
    ) {
        let done = caught(|| {
            out.works_for(at, uid);
            work(self, out);
        });
        if let Err(said) = done {
            self.panicked(now, uid, said, out);
        }
    }

    /// Something for that pod panicked.
    pub(crate) fn panicked(&mut self, now: Now, uid: &PodUid, said: Option<&'static str>, out: &mut Out<'_>) {
        self.faults.caught += 1;
        self.fails_on(now, uid, said, out);
    }

    /// The core failed on a pod: its record is made anew, nothing of it is touched, and it is left alone for a while.
    pub(crate) fn fails_on(&mut self, now: Now, uid: &PodUid, said: Option<&'static str>, out: &mut Out<'_>) {
        let at = out.working_for().map_or("", |(at, _)| at.as_str());
        let pause = self.quarantine.add(now.mono, uid);
        let again = self.quarantine.times(uid) > 1;
        self.dirty.remove(uid);
        self.alarms.set(uid, None);
        if let Some(worker) = self.workers.remove(uid) {
            self.workers.insert(uid.clone(), worker.made_anew(now, out));
        }
        self.parts.images.forget(uid);
        self.parts.prober.remove_pod(uid);
        if again {
            // What its record holds may be what is wrong.
            self.parts.tokens.forget(uid);
            self.parts.volumes.begin_anew(uid);
        }
        let why = said.map(|said| format!(": {said}")).unwrap_or_default();
        let fate = if self.stops_without_plan(now, uid, out) {
            "what runs of it is stopped without its hooks"
        } else {
            "its containers are left as they are"
        };
        let message = format!(
            "the node agent failed while it worked on this pod (at {at}{why}); {fate}, and it is tried again after {}s",
            pause.as_secs()
        );
        self.tell_quarantine(now, uid, &message, out);
    }

    /// A pod that is to stop and on which the core fails again and again: what the runtime holds of it is stopped all the same, first
    /// containers, then sandboxes. Nothing of its spec is read for it but its grace.
    fn stops_without_plan(&mut self, now: Now, uid: &PodUid, out: &mut Out<'_>) -> bool {
        let Some(worker) = self.workers.get(uid) else { return false };
        let deleting = self.pods.get(uid).map(|desired| &desired.pod).filter(|pod| pod.metadata.deletion_timestamp.is_some());
        let grace = worker.termination.as_ref().map(|termination| termination.grace).or_else(|| deleting.map(|pod| pod_grace(pod)));
        let Some(grace) = grace else { return false };
        let (containers, sandboxes) = self.pleg.running(uid);
        if (containers.is_empty() && sandboxes.is_empty()) || !self.quarantine.stops_without_plan(now.mono, uid, grace) {
            return false;
        }
        let limit = self.parts.config.pods.runtime_request_timeout;
        if containers.is_empty() {
            for id in sandboxes {
                out.post(Lane::Pods, limit, Call::Cri(CriCall::StopPodSandbox { id }));
            }
        }
        for id in containers {
            out.post(Lane::Pods, limit + grace, Call::Cri(CriCall::StopContainer { id, grace }));
        }
        true
    }

    /// Says so to the users. What fails of that is left unsaid.
    fn tell_quarantine(&mut self, now: Now, uid: &PodUid, message: &str, out: &mut Out<'_>) {
        let worker = self.workers.get(uid);
        let known =
            worker.map(|worker| (&worker.pod, worker.source)).or_else(|| self.pods.get(uid).map(|d| (&d.pod, Some(d.source))));
        let Some((pod, source)) = known else { return };
        let pod: Arc<Pod> = Arc::clone(pod);
        if source.is_some() {
            out.record(Recorded::warning(Subject::Pod(Arc::clone(&pod)), QUARANTINED, message));
            let told = caught(|| {
                out.rests();
                let statuses = &self.parts.statuses;
                let mirrored = || statuses.told(uid).cloned().map(as_of_mirror);
                let before = statuses.status(uid).cloned().or_else(mirrored).or_else(|| pod.status.clone());
                let status = quarantined_status(&pod, before, QUARANTINED, message);
                self.parts.statuses.set_aside(now, uid, status, out);
            });
            self.faults.caught += u64::from(told.is_err());
        }
    }

    /// The mirror of a static pod that is left alone is shown: what is told of the pod is that on top of what an earlier life told.
    pub(crate) fn set_aside_as_shown(&mut self, uid: &PodUid, mirror: &Pod) {
        let statuses = &mut self.parts.statuses;
        if statuses.told(uid).is_some() {
            return;
        }
        if let Some(PodStatus { reason: Some(reason), message: Some(message), start_time: None, .. }) =
            statuses.status(uid).cloned()
        {
            let status = quarantined_status(mirror, mirror.status.clone().map(as_of_mirror), &reason, &message);
            statuses.set_status(uid, status, Gate::default());
        }
    }

    /// A pod of which an earlier life died is known now.
    pub(crate) fn tell_suspect(&mut self, now: Now, uid: &PodUid, out: &mut Out<'_>) {
        let deaths = self.quarantine.times(uid);
        let message = format!(
            "the node agent died while it worked on this pod ({deaths} in a row); its containers are left as they are, and it is tried again after a pause"
        );
        self.tell_quarantine(now, uid, &message, out);
    }

    /// Pods that were left alone for long enough are tried again.
    pub(super) fn release(&mut self, now: Now, out: &mut Out<'_>) {
        for Released(uid) in self.quarantine.due(now.mono) {
            let source = self.workers.get(&uid).map(|worker| worker.source);
            if let Some(source) = source {
                // What the sources told may be what could not be taken: it is taken from what they say now.
                let gone = source.is_some() && self.pods.get(&uid).is_none();
                self.dirty.insert(uid.clone());
                self.for_pod(now, if gone { Point::PodRemoved } else { Point::PodUpdated }, &uid, out, |kubelet, out| {
                    if gone {
                        kubelet.pod_removed(now, &uid);
                    } else if source.is_some() {
                        kubelet.pod_updated(now, &uid, out);
                    }
                });
            } else if self.pods.get(&uid).is_some_and(|desired| !phase_is_terminal(&desired.pod)) {
                self.for_pod(now, Point::PodAdded, &uid, out, |kubelet, out| kubelet.pod_added(now, &uid, out));
            }
        }
    }
}

/// The call that an event ends, and what its failure would be.
type Fails = fn(ActionId, Failure) -> Event;

fn ended(event: &Event) -> Option<(ActionId, Fails)> {
    match event {
        Event::CriDone { id, .. } => Some((*id, |id, failure| Event::CriDone { id, outcome: Err(failure) })),
        Event::ApiDone { id, .. } => Some((*id, |id, failure| Event::ApiDone { id, outcome: Err(failure) })),
        Event::HostDone { id, .. } => Some((*id, |id, failure| Event::HostDone { id, outcome: Err(failure) })),
        Event::ProbeDone { id, .. } => Some((*id, |id, failure| Event::ProbeDone { id, outcome: Err(failure) })),
        Event::CsiDone { id, .. } => Some((*id, |id, failure| Event::CsiDone { id, outcome: Err(failure) })),
        Event::FetchDone { id, .. } => Some((*id, |id, failure| Event::FetchDone { id, outcome: Err(failure) })),
        _ => None,
    }
}
