//! Decides when containers' logs are looked at, and which are rotated: those of running containers that have grown too big.
//! Upstream: pkg/kubelet/logs/container_log_manager.go.
//! Differs: all sizes are asked for in one call; the time in a rotated log's name is UTC, not local.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::action::{Call, CriCall, HostCall, Lane};
use crate::config::ContainerLogs;
use crate::failure::Failure;
use crate::ids::{ActionId, ContainerId};
use crate::observation::ContainerState;
use crate::out::{Out, Owner};
use crate::pod::worker::PodWorker;
use crate::time::{Mono, Now};

/// Looking at sizes, and renaming.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Compressing the log before it, which may be as big as the disk.
const ROTATION_TIMEOUT: Duration = Duration::from_secs(600);

/// What comes next for a log.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// It is renamed, the ones before it are compressed, the oldest goes.
    Rotate,
    /// The runtime writes into a new file from now on; the name of the old one, if there was one.
    Reopen(Option<String>),
    /// The runtime did not: the old one gets its name back.
    Undo(String),
}

#[derive(Clone, Debug)]
struct Job {
    container: ContainerId,
    path: String,
    step: Step,
}

/// Rotation of container logs.
#[derive(Debug, Default)]
pub struct LogRotation {
    next: Option<Mono>,
    /// The look under way, and whose the logs are, by path.
    measuring: Option<(ActionId, BTreeMap<String, ContainerId>)>,
    waiting: VecDeque<Job>,
    working: BTreeMap<ActionId, Job>,
}

impl LogRotation {
    /// When there is something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        if self.measuring.is_some() || !self.waiting.is_empty() || !self.working.is_empty() { None } else { self.next }
    }

    /// Looks at the logs of what runs when it is time, and goes on with those that are too big, a few at a time. The runtime may take
    /// as long as `limit` for one call. `logs` is asked only then.
    pub fn due(
        &mut self,
        now: Now,
        config: &ContainerLogs,
        limit: Duration,
        logs: impl FnOnce() -> BTreeMap<String, ContainerId>,
        out: &mut Out<'_>,
    ) {
        let Some(at_least) = config.max_size else { return };
        let next = *self.next.get_or_insert(now.mono + config.monitor_interval);
        if next <= now.mono && self.deadline().is_some() {
            self.next = Some(now.mono + config.monitor_interval);
            let logs = logs();
            if !logs.is_empty() {
                let paths = logs.keys().cloned().collect();
                let call = Call::Host(HostCall::LargeLogs { paths, at_least });
                self.measuring = Some((out.issue(Owner::Housekeeping, Lane::Housekeeping, TIMEOUT, call), logs));
            }
        }
        while self.working.len() < config.max_workers as usize
            && let Some(job) = self.waiting.pop_front()
        {
            let path = job.path.clone();
            let (limit, call) = match &job.step {
                Step::Rotate => {
                    let suffix = now.wall.strftime("%Y%m%d-%H%M%S").to_string();
                    (ROTATION_TIMEOUT, Call::Host(HostCall::RotateLog { path, suffix, max_files: config.max_files }))
                }
                Step::Reopen(_) => (limit, Call::Cri(CriCall::ReopenContainerLog { id: job.container.clone() })),
                Step::Undo(rotated) => (TIMEOUT, Call::Host(HostCall::UndoLogRotation { path, rotated: rotated.clone() })),
            };
            self.working.insert(out.issue(Owner::Housekeeping, Lane::Housekeeping, limit, call), job);
        }
    }

    /// The logs that were looked at: which are too big, and which are not there, so that the runtime makes them anew. False if
    /// nobody had asked.
    pub fn measured(&mut self, id: ActionId, found: Result<(Vec<String>, Vec<String>), Failure>) -> bool {
        let Some((_, logs)) = self.measuring.take_if(|(asked, _)| *asked == id) else { return false };
        // Of what cannot be looked at, the next look tells.
        let (large, missing) = found.unwrap_or_default();
        let large = large.into_iter().map(|path| (path, Step::Rotate));
        for (path, step) in large.chain(missing.into_iter().map(|path| (path, Step::Reopen(None)))) {
            if let Some(container) = logs.get(&path) {
                self.waiting.push_back(Job { container: container.clone(), path, step });
            }
        }
        true
    }

    /// A step ended; `rotated` is the name that the old log got. False if it was none of these.
    pub fn done(&mut self, id: ActionId, outcome: Result<Option<String>, Failure>) -> bool {
        let Some(mut job) = self.working.remove(&id) else { return false };
        let next = match (job.step, outcome) {
            (Step::Rotate, Ok(rotated)) => Some(Step::Reopen(rotated)),
            (Step::Reopen(Some(rotated)), Err(_)) => Some(Step::Undo(rotated)),
            // What failed is found too big again.
            _ => None,
        };
        if let Some(step) = next {
            job.step = step;
            self.waiting.push_front(job);
        }
        true
    }
}

/// The logs of containers that run, by path.
pub(super) fn running<'a>(pods: impl Iterator<Item = &'a PodWorker>) -> BTreeMap<String, ContainerId> {
    let seen = pods.filter_map(|worker| worker.observation.as_ref()).flat_map(|seen| &seen.containers);
    seen.filter(|c| c.state == ContainerState::Running && !c.log_path.is_empty())
        .map(|c| (c.log_path.clone(), c.id.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::failure::FailureKind;
    use crate::ids::PodUid;
    use crate::observation::PodObservation;
    use crate::out::Ledger;

    const LOG: &str = "/var/log/pods/ns_web_u1/main/0.log";

    fn at(seconds: u64) -> Now {
        let wall = "2026-11-23T18:00:00Z".parse().unwrap();
        Now { mono: Mono::from_start(Duration::from_secs(seconds)), wall }
    }

    /// A pod with a container that runs and one that has ended.
    fn pod() -> PodWorker {
        let container = |id: &str, state: &str, log: &str| {
            serde_json::from_value(json!({
                "id": id, "sandbox": "s1", "name": "main", "attempt": 0, "state": state, "created_at": 0, "started_at": 0,
                "finished_at": 0, "exit_code": 0, "reason": "", "message": "", "image": "", "image_ref": "", "image_id": "", "log_path": log,
                "labels": {}, "annotations": {}, "user": null, "resources": null, "termination_log": "", "stop_signal": "",
            }))
            .unwrap()
        };
        let mut seen = PodObservation::empty(PodUid::new("u1"), Mono::ZERO);
        seen.containers = vec![container("c1", "Running", LOG), container("c0", "Exited", "/var/log/pods/old.log")];
        let mut worker = PodWorker::new(at(0), PodUid::new("u1"), Arc::default(), None);
        worker.observation = Some(Arc::new(seen));
        worker
    }

    struct Bench {
        rotation: LogRotation,
        ledger: Ledger,
    }

    impl Bench {
        /// What is asked for at that time.
        fn due(&mut self, seconds: u64, config: &ContainerLogs) -> Vec<(ActionId, Call)> {
            let (mut actions, mut recorded, pod) = (Vec::new(), Vec::new(), pod());
            let mut out = Out::new(&mut self.ledger, &mut actions, &mut recorded);
            self.rotation.due(at(seconds), config, Duration::from_secs(120), || running(std::iter::once(&pod)), &mut out);
            actions.into_iter().map(|action| (action.id, action.call)).collect()
        }

        fn one(&mut self, seconds: u64, config: &ContainerLogs) -> (ActionId, Call) {
            let mut asked = self.due(seconds, config);
            assert_eq!(asked.len(), 1, "{asked:?}");
            asked.remove(0)
        }
    }

    fn bench() -> (Bench, ContainerLogs) {
        let config = crate::config::Config::new("n1").container_logs;
        (Bench { rotation: LogRotation::default(), ledger: Ledger::default() }, config)
    }

    // LOG-008, POD-344: every ten seconds, running containers only.
    #[test]
    fn log_that_is_too_big_is_rotated_and_reopened() {
        let (mut bench, config) = bench();
        assert!(bench.due(0, &config).is_empty());
        assert_eq!(bench.rotation.deadline(), Some(at(10).mono));
        let (id, call) = bench.one(10, &config);
        assert!(matches!(&call, Call::Host(HostCall::LargeLogs { paths, at_least: 10_485_760 }) if *paths == [LOG]), "{call:?}");
        assert!(bench.rotation.measured(id, Ok((vec![LOG.to_owned()], vec![]))));
        let (id, call) = bench.one(10, &config);
        let Call::Host(HostCall::RotateLog { path, suffix, max_files: 5 }) = call else { panic!("{call:?}") };
        assert_eq!((path.as_str(), suffix.as_str()), (LOG, "20261123-180000"));
        assert!(bench.rotation.done(id, Ok(Some(format!("{LOG}.{suffix}")))));
        let (id, call) = bench.one(11, &config);
        assert!(matches!(&call, Call::Cri(CriCall::ReopenContainerLog { id }) if id.as_str() == "c1"), "{call:?}");
        assert!(bench.rotation.done(id, Ok(None)));
        assert!(bench.due(12, &config).is_empty());
        assert_eq!(bench.rotation.deadline(), Some(at(20).mono));
    }

    // LOG-008
    #[test]
    fn log_that_cannot_be_reopened_gets_its_name_back() {
        let (mut bench, config) = bench();
        bench.due(0, &config);
        let (id, _) = bench.one(10, &config);
        bench.rotation.measured(id, Ok((vec![LOG.to_owned()], vec![])));
        let (id, _) = bench.one(10, &config);
        bench.rotation.done(id, Ok(Some("old".to_owned())));
        let (id, _) = bench.one(10, &config);
        bench.rotation.done(id, Err(Failure::new(FailureKind::Unavailable, "gone")));
        let (id, call) = bench.one(10, &config);
        assert!(matches!(&call, Call::Host(HostCall::UndoLogRotation { path, rotated }) if path == LOG && rotated == "old"));
        bench.rotation.done(id, Ok(None));
        assert!(bench.due(10, &config).is_empty());
    }

    // LOG-008
    #[test]
    fn log_that_is_missing_is_reopened_only() {
        let (mut bench, config) = bench();
        bench.due(0, &config);
        let (id, _) = bench.one(10, &config);
        bench.rotation.measured(id, Ok((vec![], vec![LOG.to_owned()])));
        let (id, call) = bench.one(10, &config);
        assert!(matches!(call, Call::Cri(CriCall::ReopenContainerLog { .. })));
        bench.rotation.done(id, Err(Failure::new(FailureKind::Other, "no")));
        assert!(bench.due(10, &config).is_empty());
    }

    // LOG-008: a negative size is never.
    #[test]
    fn nothing_is_looked_at_without_a_limit() {
        let (mut bench, config) = bench();
        let config = ContainerLogs { max_size: None, ..config };
        assert!(bench.due(0, &config).is_empty() && bench.due(100, &config).is_empty());
        assert_eq!(bench.rotation.deadline(), None);
    }
}
