//! Decides which dead containers and sandboxes of a pod that lives on are removed: all but the newest of each name.
//! Upstream: pkg/kubelet/pod_container_deletor.go, pkg/kubelet/kuberuntime/kuberuntime_gc.go.
//! Differs: after each change of the pod instead of by a sweep every minute, so the number never grows in between.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::clearing::DeadContainer;
use crate::action::{Call, CriCall, Lane};
use crate::failure::Failure;
use crate::ids::{ActionId, ContainerId, PodUid, SandboxId};
use crate::observation::{ContainerState, ContainerStatus, SandboxState};
use crate::out::{Out, Owner};
use crate::pod::worker::PodWorker;

/// POD-340: how many dead instances of one container name stay.
const KEPT_PER_NAME: usize = 1;

#[derive(Debug)]
enum Removal {
    Logs(PodUid, DeadContainer),
    Container(PodUid, ContainerId),
    /// A sandbox that an earlier life left: its network goes with the stop.
    Stop(PodUid, SandboxId),
    Sandbox(PodUid, SandboxId),
}

#[derive(Debug, Default)]
struct Removed {
    containers: BTreeSet<ContainerId>,
    sandboxes: BTreeSet<SandboxId>,
}

/// Removals under way.
#[derive(Debug, Default)]
pub struct DeadContainers {
    in_flight: BTreeMap<ActionId, Removal>,
    /// By pod, what is being removed, or was and is still in its last observation.
    pods: BTreeMap<PodUid, Removed>,
    /// Those whose log is gone.
    next: Vec<(PodUid, DeadContainer)>,
    /// Those that were stopped.
    stopped: Vec<(PodUid, SandboxId)>,
}

impl DeadContainers {
    /// Removes what the pod does not need any more.
    pub fn collect(&mut self, worker: &PodWorker, links: &str, limit: Duration, out: &mut Out<'_>) {
        let Some(seen) = worker.fresh() else { return };
        let removed = self.pods.entry(worker.uid.clone()).or_default();
        let there: BTreeSet<&ContainerId> = seen.containers.iter().map(|c| &c.id).collect();
        removed.containers.retain(|id| there.contains(id));
        removed.sandboxes.retain(|id| seen.sandboxes.iter().any(|s| s.id == *id));
        let newest = seen.newest_by_name();
        let mut kept: BTreeMap<&str, usize> = BTreeMap::new();
        // One that was made and never started is not needed once there is a newer one.
        let superseded = |c: &&ContainerStatus| {
            c.state == ContainerState::Created && newest.get(c.name.as_str()).is_some_and(|newest| newest.id != c.id)
        };
        for container in seen.containers.iter().filter(|c| c.state == ContainerState::Exited || superseded(c)) {
            let kept = kept.entry(&container.name).or_default();
            *kept += usize::from(container.state == ContainerState::Exited);
            let keep = container.state == ContainerState::Exited && *kept <= KEPT_PER_NAME;
            if keep || !removed.containers.insert(container.id.clone()) {
                continue;
            }
            let dead = DeadContainer::new(worker, container, links);
            match dead.log_removal() {
                Some(call) => {
                    let action = issue(Call::Host(call), limit, out);
                    self.in_flight.insert(action, Removal::Logs(worker.uid.clone(), dead));
                }
                None => self.next.push((worker.uid.clone(), dead)),
            }
        }
        let used: BTreeSet<&SandboxId> = seen.containers.iter().map(|c| &c.sandbox).collect();
        for sandbox in seen.sandboxes.iter().skip(1).filter(|s| s.state == SandboxState::NotReady) {
            if used.contains(&sandbox.id) || !removed.sandboxes.insert(sandbox.id.clone()) {
                continue;
            }
            let (uid, id) = (worker.uid.clone(), sandbox.id.clone());
            // POD-342: stopped before it is removed, by whichever life.
            if worker.stopped_sandboxes.contains(&id) {
                self.stopped.push((uid, id));
            } else {
                let action = issue(Call::Cri(CriCall::StopPodSandbox { id: id.clone() }), limit, out);
                self.in_flight.insert(action, Removal::Stop(uid, id));
            }
        }
        if removed.containers.is_empty() && removed.sandboxes.is_empty() {
            self.pods.remove(&worker.uid);
        }
    }

    /// Removes the containers whose logs are gone, and the sandboxes that were stopped.
    pub fn due(&mut self, limit: Duration, out: &mut Out<'_>) {
        for (uid, container) in std::mem::take(&mut self.next) {
            let id = container.id().clone();
            let action = issue(Call::Cri(CriCall::RemoveContainer { id: id.clone() }), limit, out);
            self.in_flight.insert(action, Removal::Container(uid, id));
        }
        for (uid, id) in std::mem::take(&mut self.stopped) {
            let action = issue(Call::Cri(CriCall::RemovePodSandbox { id: id.clone() }), limit, out);
            self.in_flight.insert(action, Removal::Sandbox(uid, id));
        }
    }

    /// Nobody knows the pod any more.
    pub fn forget(&mut self, uid: &PodUid) {
        self.pods.remove(uid);
    }

    /// A removal ended; one that failed is tried again at the pod's next change. False if it was none of these.
    pub fn done(&mut self, id: ActionId, outcome: &Result<(), Failure>) -> bool {
        let Some(removal) = self.in_flight.remove(&id) else { return false };
        match (removal, outcome) {
            // A log that cannot be removed keeps no container: it goes with the pod's log directory.
            (Removal::Logs(uid, container), _) => self.next.push((uid, container)),
            (Removal::Stop(uid, id), Ok(())) => self.stopped.push((uid, id)),
            (_, Ok(())) => {}
            (Removal::Container(uid, id), Err(_)) => self.again(&uid, |removed| removed.containers.remove(&id)),
            (Removal::Stop(uid, id) | Removal::Sandbox(uid, id), Err(_)) => {
                self.again(&uid, |removed| removed.sandboxes.remove(&id))
            }
        }
        true
    }

    fn again(&mut self, uid: &PodUid, forget: impl FnOnce(&mut Removed) -> bool) {
        if let Some(removed) = self.pods.get_mut(uid) {
            forget(removed);
        }
    }
}

fn issue(call: Call, limit: Duration, out: &mut Out<'_>) -> ActionId {
    out.issue(Owner::Housekeeping, Lane::Housekeeping, limit, call)
}
