//! Decides what call a lifecycle handler is, how long it may take, and whether it did its work.
//! Upstream: pkg/kubelet/lifecycle/handlers.go, pkg/kubelet/kuberuntime (executePreStopHook).
//! Differs: nothing on purpose.

use std::time::Duration;

use super::chain::{CallLimits, Step, StepEnd, StepReply};
use crate::action::{Call, CriCall, Lane, ProbeCall};
use crate::event::{CriReply, ProbeOutcome};
use crate::ids::ContainerId;
use crate::time::{Mono, Now};

/// A hook without a bound of its own is still given up some day, so that a call cannot hang for ever.
const NO_HOOK_LIMIT: Duration = Duration::from_secs(24 * 3600);

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

impl Hook {
    /// Its call, and in `wakes` when it ends by itself: at `until` at the latest, which is the end of a container's grace. `own` is the
    /// container of the chain that it is a step of.
    pub(super) fn begin(
        &self,
        own: Option<&ContainerId>,
        now: Now,
        until: Option<Mono>,
        limits: CallLimits,
        wakes: &mut Option<Mono>,
    ) -> Option<(Lane, Duration, Call)> {
        *wakes = until;
        match self {
            Self::Exec { container, command } => {
                let id = container.as_ref().or(own)?.clone();
                // A hook has no time-out of its own (POD-230): a preStop ends with the grace, a postStart never.
                let timeout = until.map_or(NO_HOOK_LIMIT, |until| until.since(now.mono) + limits.runtime);
                let call = CriCall::ExecSync { id, command: command.clone(), timeout: Duration::ZERO };
                Some((Lane::Probes, timeout, Call::Cri(call)))
            }
            Self::Http(call) => Some((Lane::Probes, NO_HOOK_LIMIT, Call::Probe(call.clone()))),
            Self::Sleep(duration) => {
                let end = now.mono + *duration;
                *wakes = Some(until.map_or(end, |until| until.min(end)));
                None
            }
            Self::Broken(_) => {
                *wakes = None;
                None
            }
        }
    }
}

/// Why a hook did not do its work, if it did not (POD-228, POD-229).
#[must_use]
pub fn hook_failed(end: &StepEnd) -> bool {
    hook_failure(end).is_some()
}

/// The reason in words why a hook did not do its work, if it did not.
#[must_use]
pub fn hook_failure(end: &StepEnd) -> Option<String> {
    let (Step::PostStart { hook, .. } | Step::PreStop { hook, .. }) = &end.step else { return None };
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
