//! Runs a pod's one batch of changes: stages in order, the chains of a stage side by side or in order, a chain step by step.
//! Upstream: pkg/kubelet/kuberuntime (SyncPod, startContainer, killContainersWithSyncResult), as straight-line code.
//! Differs: a batch is data; it can be looked at, cut short, and its steps are the points at which a crash is tried.

use std::collections::VecDeque;
use std::time::Duration;

use crate::action::{Call, CriCall, HostCall, Lane, ProbeCall};
use crate::event::{CriReply, HostReply, ProbeOutcome};
use crate::failure::Failure;
use crate::ids::{ActionId, ContainerId, PodUid, SandboxId};
use crate::out::{Out, Owner};
use crate::time::{Mono, Now, earliest};

/// POD-266: no container is given less than this to stop.
pub const MINIMUM_GRACE: Duration = Duration::from_secs(2);

/// One step of a chain.
#[derive(Clone, Debug)]
pub enum Step {
    /// A host operation.
    Host(HostCall),
    /// Run the sandbox.
    RunSandbox(CriCall),
    /// Create the chain's container; its ID is kept for the steps behind.
    Create(CriCall),
    /// Start the chain's container.
    Start,
    /// Link the log of the chain's container; the link's name ends with the container's ID.
    LinkLog {
        /// The log.
        target: String,
        /// The link's path without the ID and `.log`.
        prefix: String,
    },
    /// Run the chain's postStart hook; it blocks the chain.
    PostStart(Hook),
    /// Run a container's preStop hook, at most until that moment.
    PreStop {
        /// Whose.
        of: ContainerId,
        /// The hook.
        hook: Hook,
        /// When the container's grace ends.
        until: Mono,
    },
    /// Stop a container with what is left of its grace.
    Stop {
        /// Which; `None` for the chain's own.
        id: Option<ContainerId>,
        /// When the container's grace ends.
        until: Mono,
    },
    /// Stop a sandbox.
    StopSandbox(SandboxId),
    /// Remove a container.
    Remove(ContainerId),
}

/// A lifecycle handler, resolved (POD-230).
#[derive(Clone, Debug)]
pub enum Hook {
    /// A command in the container; `None` for the chain's own container.
    Exec {
        /// Which.
        container: Option<ContainerId>,
        /// The command.
        command: Vec<String>,
    },
    /// A request over the network.
    Http(ProbeCall),
    /// A pause.
    Sleep(Duration),
    /// One that cannot be run, and why.
    Broken(String),
}

/// What a chain is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Cgroup and directories.
    Prepare,
    /// A new sandbox.
    Sandbox,
    /// A container of that name is started.
    Start {
        /// Its name.
        container: String,
    },
    /// A container of that name is stopped.
    Kill {
        /// Its name.
        container: String,
    },
    /// The sandboxes are stopped.
    StopSandbox,
    /// Dead containers are removed.
    Remove,
    /// The pod's cgroup is removed.
    RemoveCgroup,
}

/// Steps that must follow one another; a failed one ends the chain, hooks excepted.
#[derive(Clone, Debug)]
pub struct Chain {
    /// What it is about.
    pub purpose: Purpose,
    /// What is still to do.
    pub steps: VecDeque<Step>,
    container: Option<ContainerId>,
    current: Option<Current>,
    over: bool,
}

#[derive(Clone, Debug)]
struct Current {
    step: Step,
    action: Option<ActionId>,
    wakes: Option<Mono>,
}

impl Chain {
    /// A chain of those steps.
    #[must_use]
    pub fn new(purpose: Purpose, steps: impl IntoIterator<Item = Step>) -> Self {
        Self { purpose, steps: steps.into_iter().collect(), container: None, current: None, over: false }
    }
}

/// Chains that belong together.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Whether the chains run one after the other; side by side otherwise.
    pub in_order: bool,
    /// The chains.
    pub chains: Vec<Chain>,
}

/// A pod's changes in flight.
#[derive(Clone, Debug)]
pub struct Batch {
    stages: VecDeque<Stage>,
    touches_runtime: bool,
    failed: bool,
    /// Whether a stop that failed holds back what comes after it while its grace lasts.
    patient: bool,
    /// Whether a stop of which nobody knows how it ended holds back what comes after it.
    looks_again: bool,
    /// Whether there was such a stop.
    unanswered: bool,
    /// The end of the longest grace of a stop that failed.
    unstopped: Option<Mono>,
    held_back: bool,
}

/// How a step ended.
#[derive(Clone, Debug)]
pub struct StepEnd {
    /// What its chain was about.
    pub purpose: Purpose,
    /// The step.
    pub step: Step,
    /// How it ended.
    pub outcome: Result<StepReply, Failure>,
    /// The chain's own container, if it has one.
    pub container: Option<ContainerId>,
}

/// What a step answered.
#[derive(Clone, Debug)]
pub enum StepReply {
    /// The runtime.
    Cri(CriReply),
    /// The host.
    Host(HostReply),
    /// The network.
    Probe(ProbeOutcome),
    /// A pause ended, or a hook ran out of time.
    Elapsed,
}

/// How long calls may take.
#[derive(Clone, Copy, Debug)]
pub struct CallLimits {
    /// `runtimeRequestTimeout`.
    pub runtime: Duration,
    /// A host operation.
    pub host: Duration,
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
            failed: false,
            patient: false,
            looks_again: false,
            unanswered: false,
            unstopped: None,
            held_back: false,
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

    /// Whether a step that matters failed.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.failed
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
        self.stages.iter().flat_map(|stage| &stage.chains).filter(|chain| !chain.over).map(|chain| &chain.purpose)
    }

    /// The actions in flight.
    pub fn in_flight(&self) -> impl Iterator<Item = ActionId> {
        self.stages.iter().flat_map(|stage| &stage.chains).filter_map(|chain| chain.current.as_ref()?.action)
    }

    /// Drops the steps that have not begun; what is in flight still ends.
    pub fn cut_short(&mut self) {
        self.stages.truncate(1);
        for chain in self.stages.iter_mut().flat_map(|stage| &mut stage.chains) {
            chain.steps.clear();
            if chain.current.is_none() {
                chain.over = true;
            }
        }
    }

    /// When a pause ends.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        earliest(self.stages.iter().flat_map(|stage| &stage.chains).map(|chain| chain.current.as_ref()?.wakes))
    }

    /// Begins whatever can begin. Answers steps that ended without a call (pauses, hooks that cannot run).
    pub fn advance(&mut self, now: Now, pod: &PodUid, limits: CallLimits, out: &mut Out<'_>) -> Vec<StepEnd> {
        let mut ended = Vec::new();
        while let Some(stage) = self.stages.front_mut() {
            for chain in &mut stage.chains {
                chain.advance(now, pod, limits, out, &mut ended);
                self.failed |= chain.over && !chain.steps.is_empty();
                if !chain.over && stage.in_order {
                    break;
                }
            }
            if !stage.chains.iter().all(|chain| chain.over) {
                break;
            }
            self.stages.pop_front();
            let within_grace = self.patient && self.unstopped.is_some_and(|until| until > now.mono);
            if within_grace || (self.looks_again && self.unanswered) {
                self.stages.clear();
                self.held_back = true;
            }
        }
        ended
    }

    /// A call ended; `None` if it was none of this batch's.
    pub fn done(&mut self, id: ActionId, outcome: Result<StepReply, Failure>) -> Option<StepEnd> {
        let chain = self
            .stages
            .iter_mut()
            .flat_map(|stage| &mut stage.chains)
            .find(|chain| chain.current.as_ref().is_some_and(|current| current.action == Some(id)))?;
        let end = chain.end(outcome);
        if let Some(end) = &end {
            self.failed |= end.outcome.is_err() && !matches!(end.step, Step::PreStop { .. } | Step::LinkLog { .. });
            if let (Step::Stop { until, .. }, Err(failure)) = (&end.step, &end.outcome) {
                self.unstopped = self.unstopped.max(Some(*until));
                self.unanswered |= failure.outcome_unknown();
            }
        }
        end
    }
}

impl Chain {
    fn advance(&mut self, now: Now, pod: &PodUid, limits: CallLimits, out: &mut Out<'_>, ended: &mut Vec<StepEnd>) {
        loop {
            if let Some(current) = &self.current {
                match current.wakes {
                    Some(at) if at <= now.mono => {
                        if let Some(action) = current.action {
                            out.cancel(action);
                        }
                        ended.extend(self.end(Ok(StepReply::Elapsed)));
                    }
                    _ => return,
                }
            } else if let Some(step) = self.steps.pop_front() {
                self.begin(now, step, pod, limits, out, ended);
            } else {
                self.over = true;
                return;
            }
            if self.over {
                return;
            }
        }
    }

    fn begin(&mut self, now: Now, step: Step, pod: &PodUid, limits: CallLimits, out: &mut Out<'_>, ended: &mut Vec<StepEnd>) {
        let mut wakes = None;
        let call = match &step {
            Step::Host(call) => Some((Lane::Host, limits.host, Call::Host(call.clone()))),
            Step::LinkLog { target, prefix } => self.container.as_ref().map(|id| {
                let link = link_path(prefix, id);
                (Lane::Host, limits.host, Call::Host(HostCall::LinkContainerLog { target: target.clone(), link }))
            }),
            Step::RunSandbox(call) => Some((Lane::Sandboxes, limits.runtime * 2, Call::Cri(call.clone()))),
            Step::Create(call) => Some((Lane::Pods, limits.runtime, Call::Cri(call.clone()))),
            Step::Start => self.container.clone().map(|id| (Lane::Pods, limits.runtime, Call::Cri(CriCall::StartContainer { id }))),
            Step::PostStart(hook) => self.hook(hook, now, None, limits, &mut wakes),
            Step::PreStop { hook, until, .. } => self.hook(hook, now, Some(*until), limits, &mut wakes),
            Step::Stop { id, until } => id.clone().or_else(|| self.container.clone()).map(|id| {
                let grace = until.since(now.mono).max(MINIMUM_GRACE);
                // Whole seconds: the runtime is told no finer (POD-229).
                let grace = Duration::from_secs(grace.as_secs());
                (Lane::Pods, limits.runtime + grace, Call::Cri(CriCall::StopContainer { id, grace }))
            }),
            Step::StopSandbox(id) => Some((Lane::Pods, limits.runtime, Call::Cri(CriCall::StopPodSandbox { id: id.clone() }))),
            Step::Remove(id) => Some((Lane::Pods, limits.runtime, Call::Cri(CriCall::RemoveContainer { id: id.clone() }))),
        };
        let action = call.map(|(lane, timeout, call)| out.issue(Owner::Pod(pod.clone()), lane, timeout, call));
        let nothing_to_wait_for = action.is_none() && wakes.is_none();
        self.current = Some(Current { step, action, wakes });
        if nothing_to_wait_for {
            ended.extend(self.end(Ok(StepReply::Elapsed)));
        }
    }

    fn hook(
        &self,
        hook: &Hook,
        now: Now,
        until: Option<Mono>,
        limits: CallLimits,
        wakes: &mut Option<Mono>,
    ) -> Option<(Lane, Duration, Call)> {
        *wakes = until;
        match hook {
            Hook::Exec { container, command } => {
                let id = container.clone().or_else(|| self.container.clone())?;
                // A hook has no time-out of its own (POD-230): a preStop ends with the grace, a postStart never.
                let timeout = until.map_or(NO_HOOK_LIMIT, |until| until.since(now.mono) + limits.runtime);
                let call = CriCall::ExecSync { id, command: command.clone(), timeout: Duration::ZERO };
                Some((Lane::Probes, timeout, Call::Cri(call)))
            }
            Hook::Http(call) => Some((Lane::Probes, NO_HOOK_LIMIT, Call::Probe(call.clone()))),
            Hook::Sleep(duration) => {
                let end = now.mono + *duration;
                *wakes = Some(until.map_or(end, |until| until.min(end)));
                None
            }
            Hook::Broken(_) => {
                *wakes = None;
                None
            }
        }
    }

    fn end(&mut self, outcome: Result<StepReply, Failure>) -> Option<StepEnd> {
        let current = self.current.take()?;
        let hook = matches!(current.step, Step::PreStop { .. } | Step::LinkLog { .. });
        if let (Step::Create(_), Ok(StepReply::Cri(CriReply::Container(id)))) = (&current.step, &outcome) {
            self.container = Some(id.clone());
        }
        let end = StepEnd { purpose: self.purpose.clone(), step: current.step, outcome, container: self.container.clone() };
        if end.outcome.is_err() && !hook {
            self.steps.clear();
            self.over = true;
        } else if hook_failed(&end) && matches!(end.step, Step::PostStart(_)) {
            self.steps.clear();
            // POD-228: the container is killed. Its grace is the least there is: it never came up.
            self.steps.push_back(Step::Stop { id: None, until: Mono::ZERO });
        }
        Some(end)
    }
}

/// A hook without a bound of its own is still given up some day, so that a call cannot hang for ever.
const NO_HOOK_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Why a hook did not do its work, if it did not (POD-228, POD-229).
#[must_use]
pub fn hook_failed(end: &StepEnd) -> bool {
    hook_failure(end).is_some()
}

/// The reason in words why a hook did not do its work, if it did not.
#[must_use]
pub fn hook_failure(end: &StepEnd) -> Option<String> {
    let (Step::PostStart(hook) | Step::PreStop { hook, .. }) = &end.step else { return None };
    match (&end.outcome, hook) {
        (_, Hook::Broken(why)) => Some(why.clone()),
        (Err(failure), _) => Some(failure.message.clone()),
        (Ok(StepReply::Cri(CriReply::Exec { exit_code, output })), Hook::Exec { command, .. }) if *exit_code != 0 => {
            Some(format!("command '{}' exited with {exit_code}: {output}", command.join(" ")))
        }
        (Ok(StepReply::Probe(ProbeOutcome::Failure(output))), _) => Some(output.clone()),
        (Ok(StepReply::Elapsed), Hook::Exec { .. } | Hook::Http(_)) => Some("context deadline exceeded".to_owned()),
        _ => None,
    }
}

/// LOG-005: `<pod>_<ns>_<container>-<id>.log`, cut to 255 bytes with the ending kept.
#[must_use]
pub fn link_path(prefix: &str, id: &ContainerId) -> String {
    const LONGEST_NAME: usize = 255;
    let (directory, name) = prefix.rsplit_once('/').unwrap_or(("", prefix));
    let tail = format!("-{id}.log");
    let mut keep = LONGEST_NAME.saturating_sub(tail.len()).min(name.len());
    while !name.is_char_boundary(keep) {
        keep -= 1;
    }
    format!("{directory}/{}{tail}", &name[..keep])
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::failure::FailureKind;
    use crate::out::Ledger;

    // Its stages go as they end, what it did does not.
    #[test]
    fn ended_batch_still_tells_that_it_touched_the_runtime() {
        let now = Now { mono: Mono::ZERO, wall: Timestamp::UNIX_EPOCH };
        let limits = CallLimits { runtime: Duration::from_secs(1), host: Duration::from_secs(1) };
        for (purpose, touches) in [(Purpose::Prepare, false), (Purpose::Sandbox, true), (Purpose::Remove, true)] {
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
            assert!(batch.failed());
        }
    }
}
