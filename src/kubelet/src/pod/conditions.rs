//! Decides the conditions of a pod that the agent owns, and keeps those of others.
//! Upstream: pkg/kubelet/status/generate.go, pkg/kubelet/types/pod_status.go.
//! Differs: nothing on purpose.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::restart::is_sidecar;
use super::status_containers::by_name;

/// What conditions are made of.
#[derive(Clone, Copy, Debug)]
pub struct ConditionInputs<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its phase as its containers have it: one that was not over when nothing of it ran any more is `Failed` all the same, but its
    /// conditions do not say so (status_manager.go, TerminatePod).
    pub phase: &'a str,
    /// Whether it had ended already when its status was computed before: what was said of its readiness then stands.
    pub had_ended: bool,
    /// Regular container statuses.
    pub containers: &'a [ContainerStatus],
    /// Init container statuses.
    pub inits: &'a [ContainerStatus],
    /// Whether a sandbox is up that containers can start in.
    pub sandbox_ready: bool,
    /// The status as it was last computed, or found.
    pub previous: &'a [PodCondition],
    /// Why the resources that the pod's spec asks for now are not those that it has, in words.
    pub resize_refused: Option<&'a str>,
    /// Wall clock in whole seconds.
    pub now: Timestamp,
}

/// Whether a sandbox is up that containers can start in.
pub const READY_TO_START: &str = "PodReadyToStartContainers";

const INITIALIZED: &str = "Initialized";
const READY: &str = "Ready";
const CONTAINERS_READY: &str = "ContainersReady";
/// The condition of a pod whose spec asks for other resources than it has.
pub const RESIZE_PENDING: &str = "PodResizePending";

/// The conditions that the agent owns (POD-287; PodConditionByKubelet). `DisruptionTarget` is not among them: whoever announces a
/// disruption sets it, and a Job reads it at the pod's end.
pub const OWNED: [&str; 8] = [
    READY_TO_START,
    INITIALIZED,
    READY,
    CONTAINERS_READY,
    "PodScheduled",
    RESIZE_PENDING,
    "PodResizeInProgress",
    "AllContainersRestarting",
];

struct Owned {
    kind: &'static str,
    status: bool,
    reason: Option<String>,
    message: Option<String>,
}

/// All conditions: the owned ones in upstream's order, then those of others (POD-287, POD-290).
#[must_use]
pub fn generate_conditions(inputs: &ConditionInputs<'_>) -> Vec<PodCondition> {
    let containers_ready = containers_ready(inputs);
    let [initialized, ready, containers_ready] =
        said_at_the_end(inputs).unwrap_or_else(|| [initialized(inputs), ready(inputs, &containers_ready), containers_ready]);
    let owned = [
        Owned { kind: READY_TO_START, status: inputs.sandbox_ready, reason: None, message: None },
        initialized,
        ready,
        containers_ready,
        Owned { kind: "PodScheduled", status: true, reason: None, message: None },
    ];
    let mut conditions: Vec<PodCondition> = owned.iter().map(|o| condition(o, inputs)).collect();
    conditions.extend(resize_pending(inputs));
    // Nothing is ever in progress of a resize.
    let computed = |kind: &str| kind.starts_with("PodResize") || owned.iter().any(|o| o.kind == kind);
    let kept = inputs.previous.iter().filter(|c| OWNED.contains(&c.type_.as_str()) && !computed(&c.type_));
    conditions.extend(kept.chain(foreign(inputs.pod)).cloned());
    conditions
}

/// Of a pod that has not ended (determinePodResizeStatus).
fn resize_pending(inputs: &ConditionInputs<'_>) -> Option<PodCondition> {
    let message = inputs.resize_refused.filter(|_| completed(inputs.phase).is_none())?;
    let (reason, message) = (Some("Infeasible".to_owned()), Some(message.to_owned()));
    let mut condition = condition(&Owned { kind: RESIZE_PENDING, status: true, reason, message }, inputs);
    condition.last_probe_time.clone_from(&condition.last_transition_time);
    Some(condition)
}

/// What was said of a pod that ended while it was pending or ran, unless somebody said that it is ready (status_manager.go, TerminatePod,
/// mergePodStatus). What was said once it had ended is said anew: its sidecars end after that.
fn said_at_the_end(inputs: &ConditionInputs<'_>) -> Option<[Owned; 3]> {
    let said = |kind: &'static str| {
        let said = inputs.previous.iter().find(|c| c.type_ == kind)?;
        Some(Owned { kind, status: said.status == "True", reason: said.reason.clone(), message: said.message.clone() })
    };
    let said = [said(INITIALIZED)?, said(READY)?, said(CONTAINERS_READY)?];
    let since_it_ended = |reason: Option<&str>| matches!(reason, Some("PodCompleted" | "PodFailed"));
    Some(said).filter(|[_, ready, containers]| {
        inputs.had_ended && !ready.status && !containers.status && !since_it_ended(containers.reason.as_deref())
    })
}

fn condition(owned: &Owned, inputs: &ConditionInputs<'_>) -> PodCondition {
    let status = if owned.status { "True" } else { "False" };
    let before = inputs.previous.iter().find(|c| c.type_ == owned.kind);
    let since = before.filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
    PodCondition {
        type_: owned.kind.to_owned(),
        status: status.to_owned(),
        reason: owned.reason.clone(),
        message: owned.message.clone(),
        last_transition_time: Some(since.unwrap_or(Time(inputs.now))),
        observed_generation: inputs.pod.metadata.generation,
        last_probe_time: None,
    }
}

/// POD-289: what others own is as the API server shows it now, not as it was when the status was last computed.
fn foreign(pod: &Pod) -> impl Iterator<Item = &PodCondition> {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().filter(|c| !OWNED.contains(&c.type_.as_str()))
}

fn completed(phase: &str) -> Option<&'static str> {
    match phase {
        "Succeeded" => Some("PodCompleted"),
        "Failed" => Some("PodFailed"),
        _ => None,
    }
}

fn not_yet(kind: &'static str, reason: &str, message: Option<String>) -> Owned {
    Owned { kind, status: false, reason: Some(reason.to_owned()), message }
}

fn containers_ready(inputs: &ConditionInputs<'_>) -> Owned {
    const KIND: &str = CONTAINERS_READY;
    if let Some(reason) = completed(inputs.phase) {
        return not_yet(KIND, reason, None);
    }
    let spec = inputs.pod.spec.as_ref();
    let sidecars = spec.iter().flat_map(|s| s.init_containers.iter().flatten()).filter(|c| is_sidecar(c));
    let wanted = sidecars.chain(spec.iter().flat_map(|s| &s.containers));
    let statuses = by_name(inputs.containers.iter().chain(inputs.inits));
    let mut unready = Vec::new();
    let mut unknown = Vec::new();
    for container in wanted {
        match statuses.get(container.name.as_str()) {
            None => unknown.push(container.name.as_str()),
            Some(status) if !status.ready => unready.push(container.name.as_str()),
            Some(_) => {}
        }
    }
    if unknown.is_empty() && unready.is_empty() {
        return Owned { kind: KIND, status: true, reason: None, message: None };
    }
    let mut messages = Vec::new();
    if !unknown.is_empty() {
        messages.push(format!("containers with unknown status: [{}]", unknown.join(" ")));
    }
    if !unready.is_empty() {
        messages.push(format!("containers with unready status: [{}]", unready.join(" ")));
    }
    not_yet(KIND, "ContainersNotReady", Some(messages.join(", ")))
}

/// POD-289: every gate must hold as well.
fn ready(inputs: &ConditionInputs<'_>, containers: &Owned) -> Owned {
    if !containers.status {
        return Owned { kind: READY, status: false, reason: containers.reason.clone(), message: containers.message.clone() };
    }
    let mut messages = Vec::new();
    for gate in inputs.pod.spec.iter().flat_map(|s| s.readiness_gates.iter().flatten()) {
        match foreign(inputs.pod).chain(inputs.previous).find(|c| c.type_ == gate.condition_type) {
            None => {
                messages.push(format!("corresponding condition of pod readiness gate \"{}\" does not exist.", gate.condition_type))
            }
            Some(c) if c.status != "True" => messages
                .push(format!("the status of pod readiness gate \"{}\" is not \"True\", but {}", gate.condition_type, c.status)),
            Some(_) => {}
        }
    }
    if messages.is_empty() {
        Owned { kind: READY, status: true, reason: None, message: None }
    } else {
        not_yet(READY, "ReadinessGatesNotReady", Some(messages.join(", ")))
    }
}

/// POD-287: never `PodFailed` (GeneratePodInitializedCondition). Once it holds it holds for good.
fn initialized(inputs: &ConditionInputs<'_>) -> Owned {
    let holds = |reason: Option<&str>| Owned { kind: INITIALIZED, status: true, reason: reason.map(str::to_owned), message: None };
    if inputs.phase == "Succeeded" {
        return holds(Some("PodCompleted"));
    }
    let started = |c: &ContainerStatus| c.state.as_ref().is_some_and(|s| s.running.is_some() || s.terminated.is_some());
    let was_started = |c: &ContainerStatus| started(c) || c.last_state.as_ref().is_some_and(|s| s.terminated.is_some());
    let held = inputs.previous.iter().any(|c| c.type_ == INITIALIZED && c.status == "True");
    // Whatever became of the init containers: they let the regular ones go on once.
    if held || inputs.containers.iter().any(was_started) {
        return holds(None);
    }
    let spec = inputs.pod.spec.as_ref();
    let done = |init: &Container| {
        let status = inputs.inits.iter().find(|c| c.name == init.name);
        status.is_some_and(|status| if is_sidecar(init) { status.started == Some(true) } else { status.ready })
    };
    let inits = spec.iter().flat_map(|s| s.init_containers.iter().flatten());
    let incomplete: Vec<&str> = inits.filter(|init| !done(init)).map(|init| init.name.as_str()).collect();
    if incomplete.is_empty() {
        return holds(None);
    }
    let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
    not_yet(INITIALIZED, "ContainersNotInitialized", Some(message))
}
