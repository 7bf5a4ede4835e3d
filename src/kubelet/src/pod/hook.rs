//! Decides what call a lifecycle handler is, how long it may take, and whether it did its work.
//! Upstream: pkg/kubelet/lifecycle/handlers.go, pkg/kubelet/kuberuntime (executePreStopHook).
//! Differs: nothing on purpose.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use super::chain::{CallLimits, Step, StepEnd, StepReply};
use super::manager::name_of;
use super::stop::spec_of;
use crate::action::{Call, CriCall, Lane, ProbeCall};
use crate::event::{CriReply, ProbeOutcome};
use crate::ids::ContainerId;
use crate::time::{Mono, Now};
use crate::volumes::downward::quoted;

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
        // A hook has no time-out of its own (POD-230): a preStop ends with its container, a postStart never.
        let timeout = until.map_or(NO_HOOK_LIMIT, |until| until.since(now.mono) + limits.runtime);
        match self {
            Self::Exec { container, command } => {
                let id = container.as_ref().or(own)?.clone();
                let call = CriCall::ExecSync { id, command: command.clone(), timeout: Duration::ZERO };
                Some((Lane::Probes, timeout, Call::Cri(call)))
            }
            Self::Http(call) => Some((Lane::Probes, timeout, Call::Probe(call.clone()))),
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
        (Err(failure), _) => Some(failure.rpc_message()),
        (Ok(StepReply::Cri(CriReply::Exec { exit_code, output, stderr })), Hook::Exec { command, .. }) if *exit_code != 0 => {
            let said = output.get(*stderr..).unwrap_or_default();
            Some(format!("command '{}' exited with {exit_code}: {said}", command.join(" ")))
        }
        (Ok(StepReply::Probe(ProbeOutcome::Failure(output))), _) => Some(output.clone()),
        (Ok(StepReply::Elapsed), Hook::Exec { .. } | Hook::Http(_)) => Some("context deadline exceeded".to_owned()),
        _ => None,
    }
}

/// Why a container's postStart hook did not do its work, if it did not, as the container's status tells it (handlers.go, Run).
#[must_use]
pub fn post_start_failure(pod: &Pod, container: &str, end: &StepEnd) -> Option<String> {
    let why = hook_failure(end)?;
    let handler = spec_of(pod, container)?.lifecycle.as_ref()?.post_start.as_ref()?;
    let of = format!(
        "for Container {} in Pod {} failed - error: {why}",
        quoted(container),
        quoted(&format!("{}({})", name_of(pod), pod.metadata.uid.as_deref().unwrap_or_default()))
    );
    Some(if let Some(exec) = &handler.exec {
        let command = exec.command.as_deref().unwrap_or_default().join(" ");
        let output = match &end.outcome {
            Ok(StepReply::Cri(CriReply::Exec { output, .. })) => output.as_str(),
            _ => "",
        };
        format!("Exec lifecycle hook ([{command}]) {of}, message: {}", quoted(output))
    } else if let Some(http) = &handler.http_get {
        format!("HTTP lifecycle hook ({}) {of}", http.path.as_deref().unwrap_or_default())
    } else {
        format!("Cannot run handler: {why}")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::failure::{Failure, FailureKind};
    use crate::pod::chain::Purpose;

    fn failure(post_start: &Value, hook: Hook, outcome: Result<StepReply, Failure>) -> Option<String> {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"containers": [{"name": "c", "lifecycle": {"postStart": post_start}}]}}))
        .unwrap();
        let step = Step::PostStart { hook, pre_stop: None, grace: Duration::ZERO };
        let purpose = Purpose::Start { container: "c".to_owned() };
        post_start_failure(&pod, "c", &StepEnd { purpose, step, outcome, container: None })
    }

    // POD-228: pkg/kubelet/lifecycle/handlers.go (Run), cri-client/pkg/remote_runtime.go (execSyncV1): the words in the container's status.
    #[test]
    fn status_tells_why_a_post_start_hook_failed() {
        let command = ["sh", "-c", "exit 3"].map(str::to_owned).to_vec();
        let exec = || Hook::Exec { container: None, command: command.clone() };
        let spec = json!({"exec": {"command": command}});
        let reply = |exit_code| {
            let reply = CriReply::Exec { exit_code, output: "out\nerr\n".to_owned(), stderr: 4 };
            Ok(StepReply::Cri(reply))
        };
        let said = "Exec lifecycle hook ([sh -c exit 3]) for Container \"c\" in Pod \"p_ns(u)\" failed - error: command 'sh -c exit 3' \
            exited with 3: err\n, message: \"out\\nerr\\n\"";
        assert_eq!(failure(&spec, exec(), reply(3)).as_deref(), Some(said));
        assert_eq!(failure(&spec, exec(), reply(0)), None);
        let red = Ok(StepReply::Cri(CriReply::Exec { exit_code: 3, output: "\u{1b}[31m\0".to_owned(), stderr: 0 }));
        let said = failure(&spec, exec(), red).unwrap_or_default();
        assert!(said.ends_with(r#", message: "\x1b[31m\x00""#), "as Go writes it: {said}");
        let gone = Failure::new(FailureKind::Other, "gone").with_code("Unknown");
        let said = "Exec lifecycle hook ([sh -c exit 3]) for Container \"c\" in Pod \"p_ns(u)\" failed - error: rpc error: code = Unknown \
            desc = gone, message: \"\"";
        assert_eq!(failure(&spec, exec(), Err(gone)).as_deref(), Some(said));
        let http = json!({"httpGet": {"path": "/x", "port": "none"}});
        let said = "HTTP lifecycle hook (/x) for Container \"c\" in Pod \"p_ns(u)\" failed - error: why";
        assert_eq!(failure(&http, Hook::Broken("why".to_owned()), Ok(StepReply::Elapsed)).as_deref(), Some(said));
    }
}
