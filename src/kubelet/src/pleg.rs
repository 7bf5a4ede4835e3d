//! Decides when to look at the runtime and which pods a look says must be inspected.
//! Upstream: pkg/kubelet/pleg/{generic,evented}.go.
//! Differs: the runtime's events are hints under a low-rate authoritative listing, and one pod's inspection never delays another's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::action::{Call, CriCall, Lane};
use crate::failure::Failure;
use crate::ids::{ContainerId, PodUid, SandboxId};
use crate::observation::{ContainerState, Listing, SandboxState};
use crate::out::{Out, Owner};
use crate::time::{Mono, Now, go_duration};

/// How often everything is listed when the runtime tells of no changes (POD-054).
const RELIST_WITHOUT_EVENTS: Duration = Duration::from_secs(1);
/// How often everything is listed when the runtime does tell: the repair for a lost event.
const RELIST_WITH_EVENTS: Duration = Duration::from_secs(10);
/// A listing older than this makes the node not ready (NODE-104).
pub const UNHEALTHY_AFTER: Duration = Duration::from_secs(180);

/// What a listing shows of one pod, brief enough to compare: every ID with its state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Brief {
    sandboxes: BTreeMap<String, SandboxState>,
    containers: BTreeMap<String, ContainerState>,
}

/// A pod that the runtime holds something of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimePod {
    /// Its UID.
    pub uid: PodUid,
    /// Its namespace, as its sandbox says.
    pub namespace: String,
    /// Its name, as its sandbox says.
    pub name: String,
    /// Whether anything of it runs: a Ready sandbox, or a running or unknown container.
    pub live: bool,
    /// Its containers that run, with name and attempt.
    pub running: BTreeMap<ContainerId, (String, u32)>,
}

/// The pod lifecycle event generator.
#[derive(Debug, Default)]
pub struct Pleg {
    listed: BTreeMap<PodUid, Brief>,
    pods: BTreeMap<PodUid, RuntimePod>,
    in_flight: bool,
    next: Option<Mono>,
    last_began: Option<Mono>,
    events_open: bool,
    timeout: Duration,
}

impl Pleg {
    /// A generator that has seen nothing. `timeout` bounds one listing.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, next: Some(Mono::ZERO), ..Self::default() }
    }

    /// Whether a complete listing was ever seen in this life.
    #[must_use]
    pub fn has_listed(&self) -> bool {
        self.last_began.is_some()
    }

    /// Why the node is not ready on the listing's account, if it is not.
    #[must_use]
    pub fn unhealthy(&self, now: Mono) -> Option<String> {
        let Some(began) = self.last_began else {
            return Some("PLEG is not healthy: pleg has yet to be successful".to_owned());
        };
        let age = now.since(began);
        (age > UNHEALTHY_AFTER)
            .then(|| format!("PLEG is not healthy: pleg was last seen active {} ago; threshold is 3m0s", go_duration(age)))
    }

    /// The pods that the runtime held something of at the last listing.
    pub fn runtime_pods(&self) -> impl Iterator<Item = &RuntimePod> {
        self.pods.values()
    }

    /// How many pods had a sandbox that was up at the last listing, and how many containers there were in each state.
    #[must_use]
    pub fn counts(&self) -> (usize, BTreeMap<ContainerState, usize>) {
        let up = |brief: &&Brief| brief.sandboxes.values().any(|state| *state == SandboxState::Ready);
        let mut containers: BTreeMap<ContainerState, usize> = BTreeMap::new();
        for state in self.listed.values().flat_map(|brief| brief.containers.values()) {
            *containers.entry(*state).or_default() += 1;
        }
        (self.listed.values().filter(up).count(), containers)
    }

    /// What the runtime held of that pod at the last listing.
    #[must_use]
    pub fn runtime_pod(&self, pod: &PodUid) -> Option<&RuntimePod> {
        self.pods.get(pod)
    }

    /// Everything of that pod was removed.
    pub fn forget(&mut self, pod: &PodUid) {
        self.listed.remove(pod);
        self.pods.remove(pod);
    }

    /// Whether anything of the pod ran at the last listing.
    #[must_use]
    pub fn runs(&self, pod: &PodUid) -> bool {
        self.pods.get(pod).is_some_and(|pod| pod.live)
    }

    /// Whether the runtime held anything of the pod at the last listing.
    #[must_use]
    pub fn holds(&self, pod: &PodUid) -> bool {
        self.pods.contains_key(pod)
    }

    /// What ran of the pod at the last listing: containers that may run, and sandboxes.
    #[must_use]
    pub fn running(&self, pod: &PodUid) -> (Vec<ContainerId>, Vec<SandboxId>) {
        let Some(brief) = self.listed.get(pod) else { return (Vec::new(), Vec::new()) };
        let runs = |(_, state): &(&String, &ContainerState)| matches!(state, ContainerState::Running | ContainerState::Unknown);
        let containers = brief.containers.iter().filter(runs).map(|(id, _)| ContainerId::new(id));
        let sandboxes = brief.sandboxes.iter().filter(|(_, state)| **state == SandboxState::Ready);
        (containers.collect(), sandboxes.map(|(id, _)| SandboxId::new(id)).collect())
    }

    /// The runtime's event stream opened: a listing closes the gap before it, then they become rare.
    pub fn events_opened(&mut self, now: Now) {
        self.events_open = true;
        self.next = Some(now.mono);
    }

    /// The runtime's event stream is not to be had: listings become frequent.
    pub fn events_closed(&mut self, now: Now) {
        self.events_open = false;
        let soon = now.mono + RELIST_WITHOUT_EVENTS;
        self.next = Some(self.next.map_or(soon, |next| next.min(soon)));
    }

    /// When there is something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        if self.in_flight { None } else { self.next }
    }

    /// Asks for a listing if one is due.
    pub fn due(&mut self, now: Now, out: &mut Out<'_>) {
        if !self.in_flight && self.next.is_some_and(|next| next <= now.mono) {
            self.in_flight = true;
            out.issue(Owner::Pleg, Lane::Runtime, self.timeout, Call::Cri(CriCall::List));
        }
    }

    /// A listing ended. Answers the pods that differ from the last one, and so must be inspected.
    pub fn listed(&mut self, now: Now, outcome: Result<(Mono, Listing), Failure>) -> BTreeSet<PodUid> {
        self.in_flight = false;
        let period = if self.events_open { RELIST_WITH_EVENTS } else { RELIST_WITHOUT_EVENTS };
        self.next = Some(now.mono + period);
        let Ok((began, listing)) = outcome else { return BTreeSet::new() };
        self.last_began = Some(began);
        let (briefs, pods) = summarize(listing);
        let changed =
            self.listed.keys().chain(briefs.keys()).filter(|uid| self.listed.get(*uid) != briefs.get(*uid)).cloned().collect();
        self.listed = briefs;
        self.pods = pods;
        changed
    }
}

fn summarize(listing: Listing) -> (BTreeMap<PodUid, Brief>, BTreeMap<PodUid, RuntimePod>) {
    let mut briefs: BTreeMap<PodUid, Brief> = BTreeMap::new();
    let mut pods: BTreeMap<PodUid, RuntimePod> = BTreeMap::new();
    for sandbox in listing.sandboxes {
        let pod = pods.entry(sandbox.pod.clone()).or_insert_with(|| RuntimePod {
            uid: sandbox.pod.clone(),
            namespace: sandbox.namespace.clone(),
            name: sandbox.name.clone(),
            live: false,
            running: BTreeMap::new(),
        });
        pod.live |= sandbox.state == SandboxState::Ready;
        briefs.entry(sandbox.pod).or_default().sandboxes.insert(sandbox.id.as_str().to_owned(), sandbox.state);
    }
    for container in listing.containers {
        let pod = pods.entry(container.pod.clone()).or_insert_with(|| RuntimePod {
            uid: container.pod.clone(),
            namespace: String::new(),
            name: String::new(),
            live: false,
            running: BTreeMap::new(),
        });
        if container.state == ContainerState::Running {
            pod.running.insert(container.id.clone(), (container.name.clone(), container.attempt));
        }
        pod.live |= matches!(container.state, ContainerState::Running | ContainerState::Unknown);
        briefs.entry(container.pod).or_default().containers.insert(container.id.as_str().to_owned(), container.state);
    }
    (briefs, pods)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::FailureKind;
    use crate::observation::{ListedContainer, ListedSandbox};

    fn at(seconds: u64) -> Now {
        Now { mono: Mono::from_start(Duration::from_secs(seconds)), wall: jiff::Timestamp::UNIX_EPOCH }
    }

    fn listing(state: ContainerState) -> Listing {
        Listing {
            sandboxes: vec![],
            containers: vec![ListedContainer {
                id: ContainerId::new("c1"),
                pod: PodUid::new("u1"),
                sandbox: SandboxId::new("s1"),
                name: "main".to_owned(),
                attempt: 0,
                state,
                created_at: 1,
            }],
        }
    }

    // POD-054: a listing is compared with the one before it, container by container.
    #[test]
    fn only_pods_that_changed_are_inspected() {
        let mut pleg = Pleg::new(Duration::from_secs(120));
        let changed = pleg.listed(at(1), Ok((at(1).mono, listing(ContainerState::Running))));
        assert_eq!(changed, BTreeSet::from([PodUid::new("u1")]));
        assert!(pleg.listed(at(2), Ok((at(2).mono, listing(ContainerState::Running)))).is_empty());
        assert_eq!(pleg.listed(at(3), Ok((at(3).mono, listing(ContainerState::Exited)))).len(), 1);
        assert_eq!(pleg.listed(at(4), Ok((at(4).mono, Listing::default()))).len(), 1);
    }

    // N11: pkg/kubelet/pleg/generic.go (updateRunningPodAndContainerMetrics) counts pods, also one with two sandboxes.
    #[test]
    fn pods_and_containers_are_counted_as_last_listed() {
        let mut pleg = Pleg::new(Duration::from_secs(2));
        let mut listed = listing(ContainerState::Exited);
        let sandbox = |id: &str, pod: &str, state| ListedSandbox {
            id: SandboxId::new(id),
            pod: PodUid::new(pod),
            namespace: "default".to_owned(),
            name: pod.to_owned(),
            attempt: 0,
            state,
            created_at: 1,
        };
        listed.sandboxes.extend(["s1", "s2"].map(|id| sandbox(id, "u1", SandboxState::Ready)));
        listed.sandboxes.push(sandbox("s3", "u2", SandboxState::NotReady));
        pleg.listed(at(1), Ok((at(1).mono, listed)));
        assert_eq!(pleg.counts(), (1, [(ContainerState::Exited, 1)].into()));
    }

    // NODE-104, POD-061: what is old is unhealthy, and a failed listing does not count as one.
    #[test]
    fn listing_older_than_three_minutes_is_unhealthy() {
        let mut pleg = Pleg::new(Duration::from_secs(120));
        assert!(pleg.unhealthy(at(0).mono).is_some());
        pleg.listed(at(10), Ok((at(10).mono, Listing::default())));
        assert_eq!(pleg.unhealthy(at(190).mono), None);
        pleg.listed(at(191), Err(Failure::new(FailureKind::Unavailable, "down")));
        assert!(pleg.unhealthy(at(191).mono).unwrap().starts_with("PLEG is not healthy: pleg was last seen active 3m1s ago"));
    }

    // POD-060: events make listings rare; their loss makes them frequent again.
    #[test]
    fn runtime_events_make_listings_rare() {
        let mut pleg = Pleg::new(Duration::from_secs(120));
        pleg.listed(at(1), Ok((at(1).mono, Listing::default())));
        assert_eq!(pleg.deadline(), Some(at(2).mono));
        pleg.events_opened(at(1));
        assert_eq!(pleg.deadline(), Some(at(1).mono), "a gap may lie before the stream");
        pleg.listed(at(2), Ok((at(2).mono, Listing::default())));
        assert_eq!(pleg.deadline(), Some(at(12).mono));
        pleg.events_closed(at(3));
        assert_eq!(pleg.deadline(), Some(at(4).mono));
    }
}
