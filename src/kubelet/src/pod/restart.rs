//! Decides whether a container that ended, or is about to be stopped, runs again.
//! Upstream: pkg/kubelet/container/helpers.go (ShouldContainerBeRestarted), pkg/api/v1/pod/util.go (rules).
//! Differs: nothing on purpose.

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::observation::{ContainerState, ContainerStatus};

/// A restart policy, of a pod or of one container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Whatever the exit code.
    Always,
    /// After a failure.
    OnFailure,
    /// Not at all.
    Never,
}

impl RestartPolicy {
    fn parse(policy: Option<&str>) -> Option<Self> {
        match policy? {
            "Always" => Some(Self::Always),
            "OnFailure" => Some(Self::OnFailure),
            "Never" => Some(Self::Never),
            _ => None,
        }
    }
}

/// The pod's own policy; `Always` unless it says otherwise.
#[must_use]
pub fn pod_policy(pod: &Pod) -> RestartPolicy {
    let policy = pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref());
    RestartPolicy::parse(policy).unwrap_or(RestartPolicy::Always)
}

/// A container's policy: its own, else the pod's (POD-127).
#[must_use]
pub fn effective_policy(pod: &Pod, container: &Container) -> RestartPolicy {
    RestartPolicy::parse(container.restart_policy.as_deref()).unwrap_or_else(|| pod_policy(pod))
}

/// Whether an init container is a sidecar (POD-125).
#[must_use]
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Whether a container that ended like this runs again (POD-127): the first rule that matches, then the policy.
#[must_use]
pub fn restarts_after(pod: &Pod, container: &Container, exit_code: i32) -> bool {
    // Rules count only where the container names a policy of its own.
    let rule = container.restart_policy.as_ref().and_then(|_| matching_action(container, exit_code));
    if matches!(rule, Some("Restart" | RESTART_ALL)) {
        return true;
    }
    match effective_policy(pod, container) {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => exit_code != 0,
        RestartPolicy::Never => false,
    }
}

/// The action of a rule after which all containers of the pod begin anew (POD-128).
pub const RESTART_ALL: &str = "RestartAllContainers";

/// What the first rule that matches says.
#[must_use]
pub fn matching_action(container: &Container, exit_code: i32) -> Option<&str> {
    let matches = |rule: &&k8s_openapi::api::core::v1::ContainerRestartRule| {
        rule.exit_codes.as_ref().is_some_and(|codes| {
            let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
            match codes.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                _ => false,
            }
        })
    };
    container.restart_policy_rules.iter().flatten().find(matches).map(|rule| rule.action.as_str())
}

/// Whether a regular container is to be started, given its newest instance (POD-119).
#[must_use]
pub fn should_start(pod: &Pod, container: &Container, newest: Option<&ContainerStatus>) -> bool {
    if pod.metadata.deletion_timestamp.is_some() {
        return false;
    }
    let Some(newest) = newest else { return true };
    match newest.state {
        ContainerState::Running => false,
        // Created: the start was lost; unknown: it is killed first.
        ContainerState::Created | ContainerState::Unknown => true,
        ContainerState::Exited => restarts_after(pod, container, newest.exit_code),
    }
}

/// Whether an init container failed (POD-124): also when it was killed for memory though it exited with 0.
#[must_use]
pub fn init_failed(status: &ContainerStatus) -> bool {
    match status.state {
        ContainerState::Exited => status.exit_code != 0 || status.reason == "OOMKilled",
        ContainerState::Unknown => true,
        ContainerState::Created | ContainerState::Running => false,
    }
}
