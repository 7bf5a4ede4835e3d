//! Runs steps that must follow one another: the call of each, what its end means for those behind it.
//! Upstream: pkg/kubelet/kuberuntime/kuberuntime_container.go (startContainer, killContainer), as straight-line code.
//! Differs: each step is data, and a point at which a crash is tried.

use std::collections::VecDeque;
use std::time::Duration;

use super::hook::{Hook, hook_failed};
use crate::action::{Call, CriCall, HostCall, Lane};
use crate::event::{CriReply, HostReply, ProbeOutcome};
use crate::failure::Failure;
use crate::ids::{ActionId, ContainerId, PodUid, SandboxId};
use crate::out::{Out, Owner};
use crate::time::{Mono, Now};

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
    /// Run the chain's postStart hook; it blocks the chain. If it fails, the container is stopped as any other (POD-228).
    PostStart {
        /// The hook.
        hook: Hook,
        /// The container's preStop hook.
        pre_stop: Option<Hook>,
        /// The grace that it then has.
        grace: Duration,
    },
    /// Stop the chain's container, with its hook and its grace from then on.
    StopOwn {
        /// The container's preStop hook.
        pre_stop: Option<Hook>,
        /// Its grace.
        grace: Duration,
    },
    /// Wait until the stage's containers of a higher rank have been stopped, at most until that moment.
    AwaitTurn {
        /// When the container's grace ends.
        until: Mono,
    },
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

/// What a chain is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    /// Of the stop of a container: it waits for those of a higher rank.
    rank: usize,
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

impl Chain {
    /// A chain of those steps.
    #[must_use]
    pub fn new(purpose: Purpose, steps: impl IntoIterator<Item = Step>) -> Self {
        Self { purpose, steps: steps.into_iter().collect(), rank: usize::MAX, container: None, current: None, over: false }
    }

    /// The same, with a rank among the stops of its stage.
    #[must_use]
    pub(super) fn ranked(self, rank: usize) -> Self {
        Self { rank, ..self }
    }

    /// Its rank while it has not ended.
    pub(super) fn unfinished_rank(&self) -> Option<usize> {
        (!self.over).then_some(self.rank)
    }

    /// Whether its last step has ended, or one that the others need has failed.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// The action in flight.
    #[must_use]
    pub fn in_flight(&self) -> Option<ActionId> {
        self.current.as_ref()?.action
    }

    /// When the step in flight ends by itself.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        self.current.as_ref()?.wakes
    }

    /// Drops the steps that have not begun; what is in flight still ends.
    pub fn cut_short(&mut self) {
        self.steps.clear();
        self.over |= self.current.is_none();
    }

    /// Begins what can begin, and ends what has run out of time.
    pub(super) fn advance(&mut self, now: Now, pod: &PodUid, limits: CallLimits, out: &mut Out<'_>, ended: &mut Vec<StepEnd>) {
        loop {
            if let Some(current) = &self.current {
                match current.wakes {
                    Some(at) if at <= now.mono => {
                        // A preStop hook that takes longer than the grace runs on until its container is killed (executePreStopHook).
                        let runs_on = matches!(current.step, Step::PreStop { .. });
                        if let Some(action) = current.action.filter(|_| !runs_on) {
                            out.cancel(action);
                        }
                        ended.extend(self.end(Ok(StepReply::Elapsed)));
                    }
                    _ => return,
                }
            } else if let Some(step) = self.steps.pop_front() {
                match step {
                    Step::StopOwn { pre_stop, grace } => self.stop_own(now, pre_stop, grace),
                    step => self.begin(now, step, pod, limits, out, ended),
                }
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
            Step::PostStart { hook, .. } => hook.begin(self.container.as_ref(), now, None, limits, &mut wakes),
            Step::PreStop { hook, until, .. } => hook.begin(self.container.as_ref(), now, Some(*until), limits, &mut wakes),
            Step::Stop { id, until } => id.clone().or_else(|| self.container.clone()).map(|id| {
                let grace = whole_seconds(until.since(now.mono)).max(MINIMUM_GRACE);
                (Lane::Pods, limits.runtime + grace, Call::Cri(CriCall::StopContainer { id, grace }))
            }),
            Step::AwaitTurn { until, .. } => {
                wakes = Some(*until);
                None
            }
            Step::StopOwn { .. } => None,
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

    /// The step in flight ended, if there is one.
    pub(super) fn end(&mut self, outcome: Result<StepReply, Failure>) -> Option<StepEnd> {
        let current = self.current.take()?;
        let goes_on = matches!(current.step, Step::PreStop { .. } | Step::PostStart { .. } | Step::LinkLog { .. });
        if let (Step::Create(_), Ok(StepReply::Cri(CriReply::Container(id)))) = (&current.step, &outcome) {
            self.container = Some(id.clone());
        }
        let end = StepEnd { purpose: self.purpose.clone(), step: current.step, outcome, container: self.container.clone() };
        if end.outcome.is_err() && !goes_on {
            self.steps.clear();
            self.over = true;
        } else if let Step::PostStart { pre_stop, grace, .. } = &end.step
            && hook_failed(&end)
        {
            self.steps.clear();
            self.steps.push_back(Step::StopOwn { pre_stop: pre_stop.clone(), grace: *grace });
        }
        Some(end)
    }

    fn stop_own(&mut self, now: Now, pre_stop: Option<Hook>, grace: Duration) {
        let until = now.mono + grace.max(MINIMUM_GRACE);
        self.steps.push_front(Step::Stop { id: None, until });
        if let Some((hook, of)) = pre_stop.zip(self.container.clone()) {
            self.steps.push_front(Step::PreStop { of, hook, until });
        }
    }

    /// Gives up what it waits its turn for: what it waits for could not be stopped, and all of it is tried again.
    pub(super) fn give_up_its_turn(&mut self) {
        if self.current.as_ref().is_some_and(|current| matches!(current.step, Step::AwaitTurn { .. })) {
            self.current = None;
            self.cut_short();
        }
    }

    /// Whether it waits for nothing any more, if it does wait and that is the highest rank of what has not ended: then it goes on.
    pub(super) fn turn_has_come(&mut self, highest: usize) -> bool {
        let waits = self.current.as_ref().is_some_and(|current| matches!(current.step, Step::AwaitTurn { .. }));
        let comes = waits && self.rank >= highest;
        if comes {
            self.current = None;
        }
        comes
    }
}

/// The runtime is told no finer, and what hooks took is cut to whole seconds before it is taken from the grace (POD-229,
/// executePreStopHook).
fn whole_seconds(left: Duration) -> Duration {
    Duration::from_secs(left.as_secs() + u64::from(left.subsec_nanos() > 0))
}

/// LOG-005: `<pod>_<ns>_<container>-<id>.log`, cut at its end, before `.log`, to what a file's name may have. Made and removed by this name.
#[must_use]
pub fn link_path(prefix: &str, id: &ContainerId) -> String {
    const LONGEST_NAME: usize = 255 - ".log".len();
    let (directory, name) = prefix.rsplit_once('/').unwrap_or(("", prefix));
    let name = format!("{name}-{id}");
    let mut keep = LONGEST_NAME.min(name.len());
    while !name.is_char_boundary(keep) {
        keep -= 1;
    }
    format!("{directory}/{}.log", &name[..keep])
}

#[cfg(test)]
mod tests {
    use super::*;

    // POD-229. Upstream: kuberuntime_container.go (executePreStopHook): int64(elapsed.Seconds()) is taken from the grace.
    #[test]
    fn hook_costs_the_whole_seconds_that_it_took() {
        for (took, left) in [(0, 30), (500, 30), (1000, 29), (1999, 29), (2000, 28)] {
            let grace = whole_seconds(Duration::from_secs(30) - Duration::from_millis(took));
            assert_eq!(grace, Duration::from_secs(left), "a hook of {took} ms");
        }
    }

    // LOG-005. Upstream: pkg/kubelet/kuberuntime/legacy.go (logSymlink) and legacy_test.go (TestLogSymLink).
    #[test]
    fn link_is_cut_at_its_end() {
        let id = "80a427d6e6f2b1e9b5d8a3c1f4e7d2a9c6b3f0e1d4a7c8b5e2f9d6a3c0b1e4f7";
        let link = link_path(&format!("/foo/{}_ns_{}", "p".repeat(128), "c".repeat(128)), &ContainerId::new(id));
        assert_eq!(link, format!("/foo/{}_ns_{}.log", "p".repeat(128), "c".repeat(251 - 128 - 4)));
        assert_eq!(link_path("/foo/p_ns_c", &ContainerId::new("0a1b")), "/foo/p_ns_c-0a1b.log");
        let short = link_path(&format!("/foo/{}_n_c", "p".repeat(200)), &ContainerId::new(id));
        assert_eq!(short, format!("/foo/{}_n_c-{}.log", "p".repeat(200), &id[..251 - 205]));
    }
}
