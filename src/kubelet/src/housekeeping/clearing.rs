//! Decides in which order what a finished pod left behind is removed: containers with their logs, sandboxes, directories.
//! Upstream: pkg/kubelet/kuberuntime/kuberuntime_gc.go (evictContainers, evictSandboxes, evictPodLogsDirectories).
//! Differs: by pod, at once when the pod is forgotten, instead of one sweep over all of them every minute.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::action::{Call, CriCall, HostCall, Lane};
use crate::config::Config;
use crate::failure::Failure;
use crate::ids::{ActionId, ContainerId, PodUid, SandboxId};
use crate::out::{Out, Owner};
use crate::pod::chain::link_path;
use crate::pod::worker::PodWorker;
use crate::time::{Mono, Now};

/// How long the host may take for one of these.
const HOST_LIMIT: Duration = Duration::from_secs(120);
/// How long a stage waits after it failed; twice as long each time, up to the longest.
const RETRY: Duration = Duration::from_secs(10);
const LONGEST_RETRY: Duration = Duration::from_secs(160);
/// How often the logs of single containers are tried: what stays of them goes with the pod's log directory.
const LOG_TRIES: u32 = 3;

/// What is left of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    containers: Vec<DeadContainer>,
    sandboxes: Vec<SandboxId>,
    log_directory: Option<String>,
}

/// A container that is to go, with its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadContainer {
    id: ContainerId,
    log: String,
    link: String,
}

impl DeadContainer {
    /// What is to go of that container. `links` is the directory of container log links (LOG-005).
    #[must_use]
    pub fn new(worker: &PodWorker, container: &crate::observation::ContainerStatus, links: &str) -> Self {
        let pod = &worker.pod.metadata;
        let (name, namespace) = (pod.name.as_deref().unwrap_or_default(), pod.namespace.as_deref().unwrap_or_default());
        let link = link_path(&format!("{links}/{name}_{namespace}_{}", container.name), &container.id);
        Self { id: container.id.clone(), log: container.log_path.clone(), link }
    }

    /// POD-343: its log goes before it does.
    #[must_use]
    pub fn log_removal(&self) -> Option<HostCall> {
        (!self.log.is_empty()).then(|| HostCall::RemoveContainerLogs { path: self.log.clone(), link: self.link.clone() })
    }

    /// Its ID.
    #[must_use]
    pub fn id(&self) -> &ContainerId {
        &self.id
    }
}

impl Remains {
    /// What was last seen of a pod.
    #[must_use]
    pub fn of(worker: &PodWorker, config: &Config, log_directory: String) -> Self {
        let seen = worker.seen();
        Self {
            containers: seen.containers.iter().map(|c| DeadContainer::new(worker, c, &config.paths.container_logs)).collect(),
            sandboxes: seen.sandboxes.iter().map(|s| s.id.clone()).collect(),
            log_directory: worker.pod.metadata.name.is_some().then_some(log_directory),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Logs,
    Containers,
    Sandboxes,
    Directories,
    Done,
}

/// The removal of one pod's remains.
#[derive(Debug)]
pub struct Clearing {
    remains: Remains,
    stage: Stage,
    asked: bool,
    in_flight: BTreeSet<ActionId>,
    failed: bool,
    /// How often the stage failed.
    failures: u32,
    retry_at: Option<Mono>,
}

impl Clearing {
    /// Begins at the next `due`.
    #[must_use]
    pub fn new(remains: Remains) -> Self {
        Self { remains, stage: Stage::Logs, asked: false, in_flight: BTreeSet::new(), failed: false, failures: 0, retry_at: None }
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// Whether that action is one of its own.
    #[must_use]
    pub fn waits_for(&self, id: ActionId) -> bool {
        self.in_flight.contains(&id)
    }

    /// When a failed stage is tried again.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        self.retry_at
    }

    /// Asks for the next stage if the one before it has ended. The runtime may take as long as `limit` for one call.
    pub fn due(&mut self, now: Now, uid: &PodUid, limit: Duration, out: &mut Out<'_>) {
        if self.retry_at.is_some_and(|at| at > now.mono) {
            return;
        }
        self.retry_at = None;
        while !self.asked && self.stage != Stage::Done {
            let calls = self.calls(uid);
            if calls.is_empty() {
                self.advance();
                continue;
            }
            self.asked = true;
            let issue = |call| {
                let limit = if matches!(call, Call::Cri(_)) { limit } else { HOST_LIMIT };
                out.issue(Owner::Housekeeping, Lane::Housekeeping, limit, call)
            };
            self.in_flight = calls.into_iter().map(issue).collect();
        }
    }

    fn calls(&self, uid: &PodUid) -> Vec<Call> {
        let remains = &self.remains;
        match self.stage {
            Stage::Logs => remains.containers.iter().filter_map(DeadContainer::log_removal).map(Call::Host).collect(),
            Stage::Containers => {
                let remove = |c: &DeadContainer| Call::Cri(CriCall::RemoveContainer { id: c.id.clone() });
                remains.containers.iter().map(remove).collect()
            }
            Stage::Sandboxes => {
                let remove = |id: &SandboxId| Call::Cri(CriCall::RemovePodSandbox { id: id.clone() });
                remains.sandboxes.iter().map(remove).collect()
            }
            Stage::Directories => {
                let logs = remains.log_directory.iter().map(|path| HostCall::RemovePodLogs { path: path.clone() });
                logs.chain([HostCall::RemovePodDir { pod: uid.clone() }]).map(Call::Host).collect()
            }
            Stage::Done => Vec::new(),
        }
    }

    fn advance(&mut self) {
        self.asked = false;
        self.failures = 0;
        self.stage = match self.stage {
            Stage::Logs => Stage::Containers,
            Stage::Containers => Stage::Sandboxes,
            Stage::Sandboxes => Stage::Directories,
            Stage::Directories | Stage::Done => Stage::Done,
        };
    }

    /// A call ended. A stage of which one call failed is tried again as a whole.
    pub fn done(&mut self, now: Now, id: ActionId, outcome: &Result<(), Failure>) {
        self.in_flight.remove(&id);
        self.failed |= outcome.is_err();
        if !self.in_flight.is_empty() {
            return;
        }
        if !std::mem::take(&mut self.failed) {
            self.advance();
            return;
        }
        self.failures += 1;
        if self.stage == Stage::Logs && self.failures >= LOG_TRIES {
            // A container whose log cannot be removed goes all the same.
            self.advance();
            return;
        }
        self.asked = false;
        self.retry_at = Some(now.mono + (RETRY * 2u32.pow(self.failures.min(5) - 1)).min(LONGEST_RETRY));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::FailureKind;
    use crate::out::Ledger;

    fn at(mono: Mono) -> Now {
        Now { mono, wall: jiff::Timestamp::UNIX_EPOCH }
    }

    /// The calls that are asked for next, each of which ends like that.
    fn next(clearing: &mut Clearing, now: Now, failure: Option<&str>) -> Vec<&'static str> {
        let (mut ledger, mut actions, mut recorded) = (Ledger::default(), Vec::new(), Vec::new());
        let mut out = Out::new(&mut ledger, &mut actions, &mut recorded);
        clearing.due(now, &PodUid::new("u1"), HOST_LIMIT, &mut out);
        let outcome = failure.map_or(Ok(()), |why| Err(Failure::new(FailureKind::Other, why)));
        for action in &actions {
            clearing.done(now, action.id, &outcome);
        }
        actions.iter().map(|action| action.call.name()).collect()
    }

    // FINDINGS A8: a log that cannot be removed, whatever the reason, holds nothing up for ever; the pod's log directory takes it along.
    #[test]
    fn log_that_cannot_be_removed_does_not_keep_the_pod() {
        let dead = DeadContainer { id: ContainerId::new("c1"), log: "/var/log/pods/p/main/0.log".into(), link: "/l".into() };
        let remains = Remains { containers: vec![dead], sandboxes: Vec::new(), log_directory: Some("/var/log/pods/p".into()) };
        let mut clearing = Clearing::new(remains);
        let (mut now, mut waits) = (at(Mono::ZERO), Vec::new());
        for _ in 0..LOG_TRIES {
            assert_eq!(next(&mut clearing, now, Some("file name too long")), ["RemoveContainerLogs"]);
            if let Some(until) = clearing.deadline() {
                waits.push(until.since(now.mono));
                now = at(until);
            }
        }
        assert_eq!(waits, [RETRY, RETRY * 2]);
        assert_eq!(next(&mut clearing, now, None), ["RemoveContainer"]);
        assert_eq!(next(&mut clearing, now, None), ["RemovePodLogs", "RemovePodDir"]);
        assert!(clearing.is_done());
    }
}
