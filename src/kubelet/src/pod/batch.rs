//! Runs a pod's one batch of changes: stages in order, the chains of a stage side by side or in order, a chain step by step.
//! Upstream: pkg/kubelet/kuberuntime (SyncPod, startContainer, killContainersWithSyncResult), as straight-line code.
//! Differs: a batch is data; it can be looked at, cut short, and its steps are the points at which a crash is tried.

use std::collections::VecDeque;
use std::time::Duration;

use super::chain::{CallLimits, Chain, Purpose, Step, StepEnd, StepReply};
use super::held::FailedChain;
use crate::failure::Failure;
use crate::ids::{ActionId, PodUid};
use crate::out::Out;
use crate::time::{Mono, Now, earliest};

/// Chains that belong together.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Whether the chains run one after the other; side by side otherwise.
    pub in_order: bool,
    /// The chains.
    pub chains: Vec<Chain>,
}

impl Stage {
    /// Lets go on those that waited for others which have ended. Whether there were any.
    fn turns_have_come(&mut self) -> bool {
        let Some(highest) = self.chains.iter().filter_map(Chain::unfinished_rank).max() else { return false };
        let mut any = false;
        for chain in &mut self.chains {
            any |= chain.turn_has_come(highest);
        }
        any
    }
}

/// A pod's changes in flight.
#[derive(Clone, Debug)]
pub struct Batch {
    stages: VecDeque<Stage>,
    touches_runtime: bool,
    failed: Vec<FailedChain>,
    /// Whether a stop that failed holds back what comes after it while its grace lasts.
    patient: bool,
    /// Whether a stop of which nobody knows how it ended holds back what comes after it.
    looks_again: bool,
    /// Whether there was such a stop.
    unanswered: bool,
    /// The end of the longest grace of a stop that failed.
    unstopped: Option<Mono>,
    held_back: bool,
    began: Option<Mono>,
}

impl Batch {
    /// A batch of those stages.
    #[must_use]
    pub fn new(stages: impl IntoIterator<Item = Stage>) -> Self {
        let stages: VecDeque<Stage> = stages.into_iter().collect();
        let touches_runtime = stages.iter().flat_map(|stage| &stage.chains).any(|chain| chain.purpose != Purpose::Prepare);
        Self {
            stages,
            touches_runtime,
            failed: Vec::new(),
            patient: false,
            looks_again: false,
            unanswered: false,
            unstopped: None,
            held_back: false,
            began: None,
        }
    }

    /// The same, but a stop that fails while its grace lasts ends the batch: what comes after it, the sandbox's end above all, would
    /// kill the container without its grace. (Upstream goes on.)
    #[must_use]
    pub fn patient(self) -> Self {
        Self { patient: true, ..self }
    }

    /// The same, but a stop of which nobody knows how it ended ends the batch: minutes have passed, the pod must be looked at again.
    #[must_use]
    pub fn looks_again(self) -> Self {
        Self { looks_again: true, ..self }
    }

    /// Whether everything has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.stages.is_empty()
    }

    /// The chains of which a step that matters failed.
    #[must_use]
    pub fn failed(&self) -> &[FailedChain] {
        &self.failed
    }

    /// Whether it ended for a stop that failed within its grace, of which the more is left the sooner it is tried again, or for one
    /// of which nobody knows how it ended.
    #[must_use]
    pub fn held_back(&self) -> bool {
        self.held_back
    }

    /// Whether what was seen of the pod in the runtime may be old after it.
    #[must_use]
    pub fn touches_runtime(&self) -> bool {
        self.touches_runtime
    }

    /// What the chains that have not ended are about.
    pub fn purposes(&self) -> impl Iterator<Item = &Purpose> {
        self.stages.iter().flat_map(|stage| &stage.chains).filter(|chain| !chain.is_over()).map(|chain| &chain.purpose)
    }

    /// How long it has taken so far.
    #[must_use]
    pub fn took(&self, now: Now) -> Duration {
        self.began.map(|began| now.mono.since(began)).unwrap_or_default()
    }

    /// The actions in flight.
    pub fn in_flight(&self) -> impl Iterator<Item = ActionId> {
        self.stages.iter().flat_map(|stage| &stage.chains).filter_map(Chain::in_flight)
    }

    /// Drops the steps that have not begun; what is in flight still ends.
    pub fn cut_short(&mut self) {
        self.stages.truncate(1);
        for chain in self.stages.iter_mut().flat_map(|stage| &mut stage.chains) {
            chain.cut_short();
        }
    }

    /// When a pause ends.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        earliest(self.stages.iter().flat_map(|stage| &stage.chains).map(Chain::deadline))
    }

    /// Begins whatever can begin. Answers steps that ended without a call (pauses, hooks that cannot run).
    pub fn advance(&mut self, now: Now, pod: &PodUid, limits: CallLimits, out: &mut Out<'_>) -> Vec<StepEnd> {
        let mut ended = Vec::new();
        self.began.get_or_insert(now.mono);
        while let Some(stage) = self.stages.front_mut() {
            for chain in &mut stage.chains {
                chain.advance(now, pod, limits, out, &mut ended);
                if !chain.is_over() && stage.in_order {
                    break;
                }
            }
            let within_grace = self.patient && self.unstopped.is_some_and(|until| until > now.mono);
            if within_grace {
                // What they wait for runs on: it is stopped again first.
                stage.chains.iter_mut().for_each(Chain::give_up_its_turn);
            } else if stage.turns_have_come() {
                continue;
            }
            if !stage.chains.iter().all(Chain::is_over) {
                break;
            }
            self.stages.pop_front();
            if within_grace || (self.looks_again && self.unanswered) {
                self.stages.clear();
                self.held_back = true;
            }
        }
        ended
    }

    /// A call ended; `None` if it was none of this batch's.
    pub fn done(&mut self, id: ActionId, outcome: Result<StepReply, Failure>) -> Option<StepEnd> {
        let chain = self.stages.iter_mut().flat_map(|stage| &mut stage.chains).find(|chain| chain.in_flight() == Some(id))?;
        let end = chain.end(outcome);
        if let Some(end) = &end {
            if end.outcome.is_err() && !matches!(end.step, Step::PreStop { .. } | Step::LinkLog { .. }) {
                let stopped = if let Step::Stop { id, .. } = &end.step { id.clone() } else { None };
                self.failed.push((end.purpose.clone(), stopped.or_else(|| end.container.clone())));
            }
            if let (Step::Stop { until, .. }, Err(failure)) = (&end.step, &end.outcome) {
                self.unstopped = self.unstopped.max(Some(*until));
                self.unanswered |= failure.outcome_unknown();
            }
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::*;
    use crate::failure::FailureKind;
    use crate::ids::{ContainerId, SandboxId};
    use crate::out::Ledger;

    // Its stages go as they end, what it did does not.
    #[test]
    fn ended_batch_still_tells_that_it_touched_the_runtime() {
        let now = Now { mono: Mono::ZERO, wall: Timestamp::UNIX_EPOCH };
        let limits = CallLimits { runtime: Duration::from_secs(1), host: Duration::from_secs(1) };
        for (purpose, touches) in [(Purpose::Prepare, false), (Purpose::Sandbox, true), (Purpose::RemoveCgroup, true)] {
            let mut batch = Batch::new([Stage { in_order: true, chains: vec![Chain::new(purpose, [])] }]);
            let (mut ledger, mut actions, mut recorded) = (Ledger::default(), Vec::new(), Vec::new());
            batch.advance(now, &PodUid::new("u"), limits, &mut Out::new(&mut ledger, &mut actions, &mut recorded));
            assert!(batch.is_over());
            assert_eq!(batch.touches_runtime(), touches);
        }
    }

    // POD-266: swarm seeds 5170, 9559. What is behind a stop waits for a look at the pod if nobody knows how the stop ended.
    #[test]
    fn stop_of_which_nobody_knows_how_it_ended_ends_the_batch() {
        let now = Now { mono: Mono::ZERO, wall: Timestamp::UNIX_EPOCH };
        let limits = CallLimits { runtime: Duration::from_secs(1), host: Duration::from_secs(1) };
        for (kind, goes_on) in [(FailureKind::UnknownOutcome, false), (FailureKind::Other, true)] {
            let stop = Step::Stop { id: Some(ContainerId::new("c")), until: Mono::ZERO };
            let stages = [
                (Purpose::Kill { container: "main".to_owned() }, stop),
                (Purpose::StopSandbox, Step::StopSandbox(SandboxId::new("s"))),
            ]
            .map(|(purpose, step)| Stage { in_order: false, chains: vec![Chain::new(purpose, [step])] });
            let mut batch = Batch::new(stages).looks_again();
            let (mut ledger, mut actions, mut recorded) = (Ledger::default(), Vec::new(), Vec::new());
            let mut out = Out::new(&mut ledger, &mut actions, &mut recorded);
            batch.advance(now, &PodUid::new("u"), limits, &mut out);
            let id = batch.in_flight().next().unwrap();
            batch.done(id, Err(Failure::new(kind, "deadline exceeded")));
            batch.advance(now, &PodUid::new("u"), limits, &mut out);
            assert_eq!((batch.is_over(), batch.held_back()), (!goes_on, !goes_on), "{kind:?}");
            let failed = batch.failed().iter().map(|(purpose, about)| (purpose.clone(), about.clone()));
            let kill = Purpose::Kill { container: "main".to_owned() };
            assert_eq!(failed.collect::<Vec<_>>(), [(kill, Some(ContainerId::new("c")))]);
        }
    }
}
