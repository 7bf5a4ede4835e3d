//! Decides what to do in the runtime to bring a pod to its spec: a function of what is wanted and what was seen.
//! Upstream: pkg/kubelet/kuberuntime/kuberuntime_manager.go (computePodActions, computeInitContainerActions).
//! Differs: pure; back-off, images and volumes are the caller's, so a plan says what is wanted and not when.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, Pod};

use super::hash::container_hash;
use super::restart::{
    RestartPolicy, effective_policy, init_failed, init_succeeded, is_sidecar, pod_policy, restarts_after, should_start,
};
use crate::ids::{ContainerId, SandboxId};
use crate::observation::{ContainerState, ContainerStatus, PodObservation, SandboxState};
use crate::prober::Verdicts;

/// The annotation that says which spec a container was made from (POD-122).
pub const HASH_ANNOTATION: &str = "io.kubernetes.container.hash";

/// A container to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerKill {
    /// Which.
    pub id: ContainerId,
    /// Its name in the spec.
    pub name: String,
    /// The message of the event `Killing` (POD-120).
    pub message: String,
    /// Whether a probe said so: then the probe's own grace counts (POD-253).
    pub by_probe: Option<crate::prober::spec::ProbeKind>,
    /// Whether it runs again whatever it exits with.
    pub restart: bool,
}

/// What to do, at most one kind of thing at a time: a kill is seen through before anything is started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodActions {
    /// Stop everything of the pod, sandboxes included; `create_sandbox` then tells what comes after.
    pub kill_pod: bool,
    /// Make a sandbox of that attempt.
    pub create_sandbox: Option<u32>,
    /// The sandbox that containers are started in.
    pub sandbox: Option<SandboxId>,
    /// Containers to stop.
    pub kills: Vec<ContainerKill>,
    /// Ephemeral containers to start, by index.
    pub ephemeral: Vec<usize>,
    /// Init containers to start, by index: one plain one, or sidecars that have ended.
    pub inits: Vec<usize>,
    /// Regular containers to start, by index.
    pub containers: Vec<usize>,
}

impl PodActions {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let nothing = Self { sandbox: self.sandbox.clone(), ..Self::default() };
        *self == nothing
    }
}

/// What probes say of the newest instance of each container, by name.
pub type VerdictsByName = BTreeMap<String, Verdicts>;

/// Containers that were stopped so that they run again, whatever they exited with (POD-120).
pub type ToRestart = BTreeSet<ContainerId>;

/// What to do (POD-115 to POD-129). What is left of older instances is housekeeping's (POD-130).
#[must_use]
pub fn compute_pod_actions(pod: &Pod, seen: &PodObservation, verdicts: &VerdictsByName, to_restart: &ToRestart) -> PodActions {
    let Some(spec) = &pod.spec else { return PodActions::default() };
    let inits = spec.init_containers.as_deref().unwrap_or_default();
    if let Some(attempt) = needs_sandbox(pod, seen) {
        return sandbox_actions(pod, seen, attempt);
    }
    let mut actions = PodActions { sandbox: seen.sandboxes.first().map(|s| s.id.clone()), ..PodActions::default() };
    let ephemeral = spec.ephemeral_containers.iter().flatten().enumerate();
    actions.ephemeral = ephemeral.filter(|(_, c)| seen.newest(&c.name).is_none()).map(|(at, _)| at).collect();
    let initialised = init_actions(pod, inits, &spec.containers, seen, verdicts, &mut actions);
    if actions.kill_pod {
        return PodActions { ephemeral: Vec::new(), ..actions };
    }
    let mut kept = 0;
    if initialised {
        kept = regular_actions(pod, &spec.containers, seen, verdicts, to_restart, &mut actions);
    }
    // POD-121: nothing kept and nothing to start: sidecars and all go. What is killed for its probe and does not run again is not kept.
    let ends = |kill: &ContainerKill| is_init(inits, &kill.name) || (kill.by_probe.is_some() && !kill.restart);
    if initialised && kept == 0 && actions.containers.is_empty() && actions.kills.iter().all(ends) {
        return PodActions { kill_pod: true, ..PodActions::default() };
    }
    actions
}

fn is_init(inits: &[Container], name: &str) -> bool {
    inits.iter().any(|c| c.name == name)
}

/// The attempt of the sandbox that must be made, if one must (POD-115, CRI-042).
#[must_use]
pub fn needs_sandbox(pod: &Pod, seen: &PodObservation) -> Option<u32> {
    let Some(newest) = seen.sandboxes.first() else { return Some(0) };
    let next = newest.attempt.saturating_add(1);
    let host_network = pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false);
    let more_than_one = seen.ready_sandboxes().count() > 1;
    let lacks_ip = !host_network && newest.ips.iter().all(String::is_empty);
    let broken = newest.state != SandboxState::Ready || newest.host_network != host_network || lacks_ip;
    (more_than_one || broken).then_some(next)
}

fn sandbox_actions(pod: &Pod, seen: &PodObservation, attempt: u32) -> PodActions {
    let mut actions = PodActions { kill_pod: !seen.sandboxes.is_empty(), create_sandbox: Some(attempt), ..PodActions::default() };
    let Some(spec) = &pod.spec else { return actions };
    // POD-116: what has run once and may not run again needs no new sandbox. What never ran may still.
    if pod_policy(pod) == RestartPolicy::Never && attempt > 0 && seen.containers.iter().any(|c| c.started_at > 0) {
        actions.create_sandbox = None;
        return actions;
    }
    let succeeded = |c: &&Container| {
        let ended = seen.newest(&c.name).filter(|s| s.state == ContainerState::Exited && s.exit_code == 0);
        ended.is_some() && effective_policy(pod, c) == RestartPolicy::OnFailure
    };
    let to_start = spec.containers.iter().filter(|c| !succeeded(c)).count();
    let any_regular = spec.containers.iter().any(|c| seen.newest(&c.name).is_some());
    if to_start == 0 && any_regular {
        actions.create_sandbox = None;
    }
    actions
}

/// Plans the init containers; true once the regular ones may start (POD-123 to POD-125).
fn init_actions(
    pod: &Pod,
    inits: &[Container],
    regulars: &[Container],
    seen: &PodObservation,
    verdicts: &VerdictsByName,
    actions: &mut PodActions,
) -> bool {
    if inits.is_empty() {
        return true;
    }
    // A regular container that is there shows that the plain ones are done; they never run again in this sandbox. What an
    // earlier sandbox left (a reboot) does not count.
    let sandbox = actions.sandbox.clone();
    let sandbox = sandbox.as_ref();
    let initialised = regulars.iter().any(|c| seen.newest(&c.name).is_some_and(|s| Some(&s.sandbox) == sandbox));
    // Older plain ones may be gone from the runtime: the last one that is there tells how far it went.
    let in_sandbox = |c: &Container| seen.newest(&c.name).filter(|s| Some(&s.sandbox) == sandbox);
    let furthest = inits.iter().rposition(|c| in_sandbox(c).is_some());
    for (at, init) in inits.iter().enumerate() {
        let status = in_sandbox(init);
        if is_sidecar(init) {
            let started = sidecar(at, init, status, verdicts, actions, pod);
            if !started && !initialised {
                return false;
            }
            continue;
        }
        if initialised {
            continue;
        }
        match status {
            None if furthest.is_some_and(|last| last > at) => {}
            None => {
                actions.inits.push(at);
                return false;
            }
            Some(status) if init_succeeded(status) => {}
            Some(status) => {
                plain_init(pod, at, init, status, actions);
                return false;
            }
        }
    }
    true
}

fn plain_init(pod: &Pod, at: usize, init: &Container, status: &ContainerStatus, actions: &mut PodActions) {
    match status.state {
        ContainerState::Running => {}
        ContainerState::Created => actions.inits.push(at),
        ContainerState::Unknown | ContainerState::Exited => {
            debug_assert!(init_failed(status));
            let again = match effective_policy(pod, init) {
                RestartPolicy::Never => restarts_after(pod, init, status.exit_code),
                _ => true,
            };
            if !again {
                actions.kill_pod = true;
                return;
            }
            if status.state == ContainerState::Unknown {
                let message = format!("Init container is in \"{:?}\" state, try killing it before restart", status.state);
                actions.kills.push(kill(status, message));
            } else {
                actions.inits.push(at);
            }
        }
    }
}

/// Plans one sidecar; true once the next init container may start.
fn sidecar(
    at: usize,
    init: &Container,
    status: Option<&ContainerStatus>,
    verdicts: &VerdictsByName,
    actions: &mut PodActions,
    pod: &Pod,
) -> bool {
    let Some(status) = status else {
        actions.inits.push(at);
        return false;
    };
    match status.state {
        ContainerState::Running => {
            if let Some(kill) = running_kill(pod, init, status, verdicts) {
                actions.kills.push(kill);
                return false;
            }
            let verdict = verdicts.get(&init.name).copied().unwrap_or_default();
            !verdict.has_startup || verdict.startup == Some(true)
        }
        ContainerState::Unknown => {
            let message = format!("Init container is in \"{:?}\" state, try killing it before restart", status.state);
            actions.kills.push(kill(status, message));
            false
        }
        ContainerState::Created | ContainerState::Exited => {
            if pod.metadata.deletion_timestamp.is_none() {
                actions.inits.push(at);
            }
            false
        }
    }
}

/// Plans the regular containers; how many are kept as they are.
fn regular_actions(
    pod: &Pod,
    containers: &[Container],
    seen: &PodObservation,
    verdicts: &VerdictsByName,
    to_restart: &ToRestart,
    actions: &mut PodActions,
) -> usize {
    let mut kept = 0;
    for (at, container) in containers.iter().enumerate() {
        let status = seen.newest(&container.name);
        match status {
            Some(status) if status.state == ContainerState::Running => match running_kill(pod, container, status, verdicts) {
                Some(kill) => actions.kills.push(kill),
                None => kept += 1,
            },
            Some(status) if status.state == ContainerState::Unknown => {
                let message = format!("Container is in \"{:?}\" state, try killing it before restart", status.state);
                actions.kills.push(kill(status, message));
            }
            Some(status) if to_restart.contains(&status.id) && pod.metadata.deletion_timestamp.is_none() => {
                actions.containers.push(at);
            }
            _ if should_start(pod, container, status) => actions.containers.push(at),
            _ => {}
        }
    }
    kept
}

/// Why a running container must stop, if it must (POD-120).
fn running_kill(pod: &Pod, container: &Container, status: &ContainerStatus, verdicts: &VerdictsByName) -> Option<ContainerKill> {
    use crate::prober::spec::ProbeKind;
    let verdict = verdicts.get(&container.name).copied().unwrap_or_default();
    let hash = container_hash(container);
    let other_spec = status.annotations.get(HASH_ANNOTATION).is_some_and(|made_from| *made_from != hash);
    let (what, by_probe) = if other_spec {
        ("definition changed", None)
    } else if verdict.liveness == Some(false) {
        ("failed liveness probe", Some(ProbeKind::Liveness))
    } else if verdict.startup == Some(false) {
        ("failed startup probe", Some(ProbeKind::Startup))
    } else {
        return None;
    };
    let again = other_spec || effective_policy(pod, container) != RestartPolicy::Never;
    let message = match (is_sidecar(container), again) {
        (true, _) => format!("Init container {} {what}", container.name),
        (false, true) => format!("Container {} {what}, will be restarted", container.name),
        (false, false) => format!("Container {} {what}", container.name),
    };
    Some(ContainerKill { by_probe, restart: again, ..kill(status, message) })
}

fn kill(status: &ContainerStatus, message: String) -> ContainerKill {
    ContainerKill { id: status.id.clone(), name: status.name.clone(), message, by_probe: None, restart: false }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::ids::PodUid;
    use crate::observation::SandboxStatus;
    use crate::time::Mono;

    fn pod(policy: &str, spec: &Value) -> Pod {
        let mut pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
        pod.spec.as_mut().unwrap().restart_policy = Some(policy.to_owned());
        pod
    }

    /// A pod whose only sandbox has died, with containers that have ended: name and exit code.
    fn seen(ended: &[(&str, i32)]) -> PodObservation {
        let mut seen = PodObservation::empty(PodUid::new("u"), Mono::ZERO);
        seen.sandboxes.push(SandboxStatus {
            id: SandboxId::new("s"),
            attempt: 0,
            state: SandboxState::NotReady,
            created_at: 1,
            ips: vec![],
            host_network: false,
            runtime_handler: String::new(),
            labels: BTreeMap::new(),
        });
        let template = json!({"id": "c", "sandbox": "s", "name": "", "attempt": 0, "state": "Exited", "created_at": 1, "started_at": 2,
            "finished_at": 3, "exit_code": 0, "reason": "", "message": "", "image": "", "image_ref": "", "image_id": "", "log_path": "", "labels": {},
            "annotations": {}, "user": null, "resources": null, "termination_log": "", "stop_signal": ""});
        let template: ContainerStatus = serde_json::from_value(template).unwrap();
        let of = |(name, code): &(&str, i32)| ContainerStatus { name: (*name).to_owned(), exit_code: *code, ..template.clone() };
        seen.containers = ended.iter().map(of).collect();
        seen
    }

    fn wanted(policy: &str, spec: &Value, ended: &[(&str, i32)]) -> (bool, Option<u32>) {
        let actions = compute_pod_actions(&pod(policy, spec), &seen(ended), &VerdictsByName::new(), &ToRestart::new());
        (actions.kill_pod, actions.create_sandbox)
    }

    // POD-116: what ran once and never runs again needs no new sandbox; what never ran does.
    #[test]
    fn pod_that_never_restarts_gets_no_second_sandbox() {
        let spec = json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}, {"name": "b"}]});
        assert_eq!(wanted("Never", &spec, &[("i", 0)]), (true, None), "an init container counts too");
        assert_eq!(wanted("Never", &spec, &[("a", 1)]), (true, None));
        assert_eq!(wanted("Never", &spec, &[]), (true, Some(1)));
        assert_eq!(wanted("Always", &spec, &[("a", 1)]), (true, Some(1)));
    }

    // POD-120, POD-121: as a kubelet 1.36.2 was recorded (101 and 040): what fails its probe and does not run again ends its pod, so it is
    // stopped as all of a pod is; with another container that goes on it is stopped by itself. Sidecars have words of their own
    // (kuberuntime_manager.go, computePodActions; kuberuntime_container.go, computeInitContainerActions).
    #[test]
    fn container_that_fails_its_probe_is_killed_in_upstreams_words() {
        let kill = |policy: &str, spec: &Value, running: &[&str], startup: bool| {
            let mut seen = seen(&running.iter().map(|name| (*name, 0)).collect::<Vec<_>>());
            seen.sandboxes[0].state = SandboxState::Ready;
            seen.sandboxes[0].ips = vec!["10.0.0.2".to_owned()];
            for container in &mut seen.containers {
                container.state = ContainerState::Running;
            }
            let failed = if startup {
                Verdicts { has_startup: true, startup: Some(false), ..Verdicts::default() }
            } else {
                Verdicts { liveness: Some(false), ..Verdicts::default() }
            };
            let verdicts = VerdictsByName::from([(running[0].to_owned(), failed)]);
            let actions = compute_pod_actions(&pod(policy, spec), &seen, &verdicts, &ToRestart::new());
            let messages: Vec<String> = actions.kills.into_iter().map(|kill| kill.message).collect();
            (actions.kill_pod, messages.join(", "))
        };
        let one = json!({"containers": [{"name": "c"}]});
        assert_eq!(kill("Always", &one, &["c"], false), (false, "Container c failed liveness probe, will be restarted".to_owned()));
        assert_eq!(kill("Never", &one, &["c"], false), (true, String::new()));
        let two = json!({"containers": [{"name": "c"}, {"name": "d"}]});
        assert_eq!(kill("Never", &two, &["c", "d"], true), (false, "Container c failed startup probe".to_owned()));
        let sidecar = json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "c"}]});
        assert_eq!(kill("Never", &sidecar, &["s", "c"], false), (false, "Init container s failed liveness probe".to_owned()));
    }

    // POD-116: a new sandbox would have nothing to hold.
    #[test]
    fn pod_with_nothing_left_to_start_gets_no_new_sandbox() {
        let spec = json!({"containers": [{"name": "a"}, {"name": "b"}]});
        assert_eq!(wanted("OnFailure", &spec, &[("a", 0), ("b", 0)]), (true, None));
        assert_eq!(wanted("OnFailure", &spec, &[("a", 0), ("b", 1)]), (true, Some(1)));
        assert_eq!(wanted("OnFailure", &spec, &[("a", 0)]), (true, Some(1)), "one was never started");
        assert_eq!(wanted("Always", &spec, &[("a", 0), ("b", 0)]), (true, Some(1)));
    }
}
