//! Decides what to do in the runtime to bring a pod to its spec: a function of what is wanted and what was seen.
//! Upstream: pkg/kubelet/kuberuntime/kuberuntime_manager.go (computePodActions, computeInitContainerActions).
//! Differs: pure; back-off, images and volumes are the caller's, so a plan says what is wanted and not when.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, Pod};

use super::hash::container_hash;
use super::restart::{RestartPolicy, effective_policy, init_failed, is_sidecar, pod_policy, restarts_after, should_start};
use crate::ids::{ContainerId, SandboxId};
use crate::observation::{ContainerState, ContainerStatus, PodObservation, SandboxState};
use crate::prober::Verdicts;
use crate::prober::spec::ProbeKind;

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
    pub by_probe: Option<ProbeKind>,
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

/// What a plan is made from. What is asked of each container is gathered once, by name: a pod may have thousands.
struct Makings<'a> {
    pod: &'a Pod,
    inits: &'a [Container],
    regulars: &'a [Container],
    init_names: BTreeSet<&'a str>,
    newest: BTreeMap<&'a str, &'a ContainerStatus>,
    sandbox: Option<&'a SandboxId>,
    verdicts: &'a VerdictsByName,
    to_restart: &'a ToRestart,
}

/// What to do (POD-115 to POD-129). What is left of older instances is housekeeping's (POD-130).
#[must_use]
pub fn compute_pod_actions(pod: &Pod, seen: &PodObservation, verdicts: &VerdictsByName, to_restart: &ToRestart) -> PodActions {
    let Some(spec) = &pod.spec else { return PodActions::default() };
    let inits = spec.init_containers.as_deref().unwrap_or_default();
    let makings = Makings {
        pod,
        inits,
        regulars: &spec.containers,
        init_names: inits.iter().map(|c| c.name.as_str()).collect(),
        newest: seen.newest_by_name(),
        sandbox: seen.sandboxes.first().map(|s| &s.id),
        verdicts,
        to_restart,
    };
    if let Some(attempt) = needs_sandbox(pod, seen) {
        return makings.sandbox_actions(seen, attempt);
    }
    let mut actions = PodActions { sandbox: makings.sandbox.cloned(), ..PodActions::default() };
    let ephemeral = spec.ephemeral_containers.iter().flatten().enumerate();
    actions.ephemeral = ephemeral.filter(|(_, c)| makings.newest_of(&c.name).is_none()).map(|(at, _)| at).collect();
    let initialised = makings.init_actions(&mut actions);
    if actions.kill_pod {
        return PodActions { ephemeral: Vec::new(), ..actions };
    }
    let mut kept = 0;
    if initialised {
        kept = makings.regular_actions(&mut actions);
    }
    // POD-121: nothing kept and nothing to start: sidecars and all go. What is killed for its probe and does not run again is not kept.
    let ends = |kill: &ContainerKill| makings.is_init(&kill.name) || (kill.by_probe.is_some() && !kill.restart);
    if initialised && kept == 0 && actions.containers.is_empty() && actions.kills.iter().all(ends) {
        return PodActions { kill_pod: true, ..PodActions::default() };
    }
    actions
}

/// The attempt of the sandbox that must be made, if one must (POD-115, CRI-042).
#[must_use]
pub fn needs_sandbox(pod: &Pod, seen: &PodObservation) -> Option<u32> {
    let Some(newest) = seen.sandboxes.first() else { return Some(0) };
    let next = newest.attempt.saturating_add(1);
    let host_network = pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false);
    let more_than_one = seen.ready_sandboxes().count() > 1;
    let lacks_ip = !host_network && newest.lacks_ip;
    let broken = newest.state != SandboxState::Ready || newest.host_network != host_network || lacks_ip;
    (more_than_one || broken).then_some(next)
}

impl<'a> Makings<'a> {
    fn newest_of(&self, name: &str) -> Option<&'a ContainerStatus> {
        self.newest.get(name).copied()
    }

    fn is_init(&self, name: &str) -> bool {
        self.init_names.contains(name)
    }

    fn sandbox_actions(&self, seen: &PodObservation, attempt: u32) -> PodActions {
        let mut actions =
            PodActions { kill_pod: !seen.sandboxes.is_empty(), create_sandbox: Some(attempt), ..PodActions::default() };
        // POD-116: what has run once and may not run again needs no new sandbox. What never ran may still.
        if pod_policy(self.pod) == RestartPolicy::Never && attempt > 0 && seen.containers.iter().any(|c| c.started_at > 0) {
            actions.create_sandbox = None;
            return actions;
        }
        let succeeded = |c: &&Container| {
            let ended = self.newest_of(&c.name).filter(|s| s.state == ContainerState::Exited && s.exit_code == 0);
            ended.is_some() && effective_policy(self.pod, c) == RestartPolicy::OnFailure
        };
        let to_start = self.regulars.iter().filter(|c| !succeeded(c)).count();
        let any_regular = self.regulars.iter().any(|c| self.newest_of(&c.name).is_some());
        if to_start == 0 && any_regular {
            actions.create_sandbox = None;
        }
        actions
    }

    /// Plans the init containers; true once the regular ones may start (POD-123 to POD-125).
    fn init_actions(&self, actions: &mut PodActions) -> bool {
        let (inits, regulars) = (self.inits, self.regulars);
        let Some(last) = inits.len().checked_sub(1) else { return true };
        // What an earlier sandbox left (a reboot) does not count.
        let in_sandbox = |c: &Container| self.newest_of(&c.name).filter(|s| Some(&s.sandbox) == self.sandbox);
        // A regular container that is there shows that the plain ones are done; they never run again in this sandbox.
        let plain_are_done = regulars.iter().any(|c| in_sandbox(c).is_some());
        let goes_on = |s: &ContainerStatus| matches!(s.state, ContainerState::Created | ContainerState::Running);
        let mut initialised =
            regulars.iter().any(|c| in_sandbox(c).is_some_and(goes_on)) || (plain_are_done && !is_sidecar(&inits[last]));
        // From the last to the first, for older ones may be gone from the runtime: the last one that is there tells how far it went, and
        // sidecars before it are begun again beside what comes next.
        let mut is_furthest = !plain_are_done;
        for (at, init) in inits.iter().enumerate().rev() {
            let is_done = match in_sandbox(init) {
                None => {
                    if !is_furthest && is_sidecar(init) {
                        actions.inits.push(at);
                    }
                    continue;
                }
                Some(_) if !is_furthest && !is_sidecar(init) => continue,
                Some(status) if is_sidecar(init) => self.sidecar(at, init, status, actions),
                // It was stopped to run again: whatever it ended with, it has not done its work.
                Some(status) if status.state == ContainerState::Exited && self.to_restart.contains(&status.id) => {
                    actions.inits.push(at);
                    false
                }
                Some(status) => plain_init(self.pod, at, init, status, actions),
            };
            if actions.kill_pod {
                actions.inits.clear();
                return false;
            }
            if is_done && at == last {
                initialised = true;
            } else if is_done && is_furthest {
                actions.inits.push(at + 1);
            }
            is_furthest = false;
        }
        if is_furthest {
            actions.inits.push(0);
        }
        actions.inits.sort_unstable();
        initialised
    }

    /// Plans one sidecar; true once the next init container may start.
    fn sidecar(&self, at: usize, init: &Container, status: &ContainerStatus, actions: &mut PodActions) -> bool {
        match status.state {
            ContainerState::Running => {
                let kill = self.running_kill(init, status);
                let verdict = self.verdict(init);
                // Until its startup probe has passed, only that one says anything; then the next may start, whatever becomes of it.
                let started = !verdict.has_startup || verdict.startup == Some(true);
                let by_startup = |kill: &ContainerKill| kill.by_probe == Some(ProbeKind::Startup);
                actions.kills.extend(kill.filter(|kill| started || by_startup(kill)));
                started
            }
            ContainerState::Unknown => {
                actions.kills.push(unknown_kill("Init container", status));
                false
            }
            ContainerState::Created | ContainerState::Exited => {
                if self.pod.metadata.deletion_timestamp.is_none() {
                    actions.inits.push(at);
                }
                false
            }
        }
    }

    /// Plans the regular containers; how many are kept as they are.
    fn regular_actions(&self, actions: &mut PodActions) -> usize {
        let mut kept = 0;
        for (at, container) in self.regulars.iter().enumerate() {
            let status = self.newest_of(&container.name);
            match status {
                Some(status) if status.state == ContainerState::Running => match self.running_kill(container, status) {
                    Some(kill) => actions.kills.push(kill),
                    None => kept += 1,
                },
                Some(status) if status.state == ContainerState::Unknown => actions.kills.push(unknown_kill("Container", status)),
                Some(status) if self.pod.metadata.deletion_timestamp.is_none() && self.begins_anew(container, status) => {
                    actions.containers.push(at);
                }
                _ if should_start(self.pod, container, status) => actions.containers.push(at),
                _ => {}
            }
        }
        kept
    }

    /// Whether one that has ended, or was never started, runs again whatever its policy says: it was stopped for that or, without init
    /// containers before it, its pod has a new sandbox. With that all is started that has not succeeded for good (POD-116), so what names
    /// `Never` for itself too; a pod that says so for all gets no new sandbox.
    fn begins_anew(&self, container: &Container, status: &ContainerStatus) -> bool {
        let own_never = container.restart_policy.as_deref() == Some("Never");
        let of_another = self.sandbox != Some(&status.sandbox);
        let never = pod_policy(self.pod) == RestartPolicy::Never;
        self.to_restart.contains(&status.id) || (own_never && of_another && !never && self.inits.is_empty())
    }

    fn verdict(&self, container: &Container) -> Verdicts {
        self.verdicts.get(&container.name).copied().unwrap_or_default()
    }

    /// Why a running container must stop, if it must (POD-120).
    fn running_kill(&self, container: &Container, status: &ContainerStatus) -> Option<ContainerKill> {
        let verdict = self.verdict(container);
        let hash = container_hash(container);
        let other_spec = status.annotations.get(HASH_ANNOTATION).is_some_and(|made_from| *made_from != hash);
        // A regular container may have a sidecar's policy too, and is none for it.
        let is_init = self.is_init(&container.name);
        let waits_for_startup = is_init && is_sidecar(container) && verdict.has_startup && verdict.startup != Some(true);
        let (what, by_probe) = if other_spec && !waits_for_startup {
            ("definition changed", None)
        } else if verdict.liveness == Some(false) {
            ("failed liveness probe", Some(ProbeKind::Liveness))
        } else if verdict.startup == Some(false) {
            ("failed startup probe", Some(ProbeKind::Startup))
        } else {
            return None;
        };
        let again = by_probe.is_none() || effective_policy(self.pod, container) != RestartPolicy::Never;
        let message = match (is_init, again) {
            (true, _) => format!("Init container {} {what}", container.name),
            (false, true) => format!("Container {} {what}, will be restarted", container.name),
            (false, false) => format!("Container {} {what}", container.name),
        };
        Some(ContainerKill { by_probe, restart: again, ..kill(status, message) })
    }
}

/// Plans the plain init container that was begun last; true once it has done its work.
fn plain_init(pod: &Pod, at: usize, init: &Container, status: &ContainerStatus, actions: &mut PodActions) -> bool {
    match status.state {
        ContainerState::Running => {}
        ContainerState::Created => actions.inits.push(at),
        ContainerState::Exited if !init_failed(status) => return true,
        ContainerState::Exited if restarts_after(pod, init, status.exit_code) => actions.inits.push(at),
        // Rules do not count: it may not have ended, so there is no exit code.
        ContainerState::Unknown if effective_policy(pod, init) != RestartPolicy::Never => {
            actions.kills.push(unknown_kill("Init container", status));
        }
        ContainerState::Exited | ContainerState::Unknown => actions.kill_pod = true,
    }
    false
}

fn kill(status: &ContainerStatus, message: String) -> ContainerKill {
    ContainerKill { id: status.id.clone(), name: status.name.clone(), message, by_probe: None, restart: false }
}

/// One of which the runtime does not know how it is: it may run, so it is stopped first. It runs again whatever it ends with, as upstream
/// decides that before.
fn unknown_kill(what: &str, status: &ContainerStatus) -> ContainerKill {
    let message = format!("{what} is in \"unknown\" state, try killing it before restart");
    ContainerKill { restart: true, ..kill(status, message) }
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
            lacks_ip: false,
            annotation_bytes: 0,
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

    // POD-116: kuberuntime_manager.go (computePodActions) starts with a new sandbox all that has not succeeded under OnFailure, so what names
    // Never for itself as well; behind init containers it comes to its turn in a later pass (ShouldContainerBeRestarted), and does not run.
    #[test]
    fn container_that_never_restarts_begins_again_with_a_new_sandbox() {
        let started = |policy: &str, own: &str, with_init: bool, code: i32, sandbox: &str| {
            let mut spec = json!({"containers": [{"name": "a", "restartPolicy": own}, {"name": "b"}]});
            if with_init {
                spec["initContainers"] = json!([{"name": "i"}]);
            }
            let mut seen = seen(&[("a", code), ("i", 0), ("b", 1)]);
            seen.sandboxes[0].id = SandboxId::new("new");
            seen.sandboxes[0].state = SandboxState::Ready;
            seen.containers[0].sandbox = SandboxId::new(sandbox);
            for in_place in &mut seen.containers[1..] {
                in_place.sandbox = SandboxId::new("new");
            }
            seen.containers[2].state = ContainerState::Running;
            compute_pod_actions(&pod(policy, &spec), &seen, &VerdictsByName::new(), &ToRestart::new()).containers
        };
        for code in [0, 1] {
            assert_eq!(started("Always", "Never", false, code, "old"), [0], "{code}");
            assert_eq!(started("OnFailure", "Never", false, code, "old"), [0], "{code}");
            assert!(started("Always", "Never", false, code, "new").is_empty(), "it has run in this one");
            assert!(started("Always", "Never", true, code, "old").is_empty(), "behind init containers");
            assert!(started("Never", "Never", false, code, "old").is_empty());
        }
        assert!(started("Always", "OnFailure", false, 0, "old").is_empty());
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
        // Case 534.
        let own = json!({"containers": [{"name": "c", "restartPolicy": "Always"}, {"name": "d"}]});
        let told = "Container c failed liveness probe, will be restarted".to_owned();
        assert_eq!(kill("Never", &own, &["c", "d"], false), (false, told));
    }

    /// What is done about the init containers of a pod with a sandbox: those to start, whether the pod is killed, the regular ones to start.
    fn inits_of(policy: &str, spec: &Value, seen: &[(&str, ContainerState, i32)]) -> (Vec<usize>, bool, Vec<usize>) {
        let mut all = self::seen(&seen.iter().map(|(name, _, code)| (*name, *code)).collect::<Vec<_>>());
        all.sandboxes[0].state = SandboxState::Ready;
        all.sandboxes[0].ips = vec!["10.0.0.2".to_owned()];
        all.containers.iter_mut().zip(seen).for_each(|(container, (_, state, _))| container.state = *state);
        let actions = compute_pod_actions(&pod(policy, spec), &all, &VerdictsByName::new(), &ToRestart::new());
        (actions.inits, actions.kill_pod, actions.containers)
    }

    // POD-124: as a kubelet 1.36.2 was recorded (case 408), and kuberuntime_container.go, computeInitContainerActions: the container's own
    // policy and rules count, whatever the pod's.
    #[test]
    fn init_container_that_failed_runs_again_as_its_own_policy_says() {
        use ContainerState::Exited;
        let rules = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
        let own = json!({"name": "i", "restartPolicy": "Never", "restartPolicyRules": rules});
        let spec = json!({"initContainers": [own], "containers": [{"name": "c"}]});
        assert_eq!(inits_of("Always", &spec, &[("i", Exited, 43)]), (vec![], true, vec![]));
        assert_eq!(inits_of("Always", &spec, &[("i", Exited, 42)]), (vec![0], false, vec![]));
        let plain = json!({"initContainers": [{"name": "i"}], "containers": [{"name": "c"}]});
        assert_eq!(inits_of("Always", &plain, &[("i", Exited, 43)]), (vec![0], false, vec![]));
    }

    // POD-125: as a kubelet 1.36.2 was recorded (case 418): a sidecar that ended while a later init container ran is started again, and
    // holds up neither the next one nor the regular containers.
    #[test]
    fn sidecar_that_crashes_holds_up_nothing_once_a_later_init_container_was_started() {
        use ContainerState::{Exited, Running};
        let spec = json!({
            "initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "i"}, {"name": "j"}],
            "containers": [{"name": "c"}],
        });
        assert_eq!(inits_of("Never", &spec, &[("s", Exited, 2)]), (vec![0], false, vec![]), "the next has to wait for it");
        assert_eq!(inits_of("Never", &spec, &[("s", Exited, 2), ("i", Running, 0)]), (vec![0], false, vec![]));
        assert_eq!(inits_of("Never", &spec, &[("s", Exited, 2), ("i", Exited, 0)]), (vec![0, 2], false, vec![]));
        assert_eq!(inits_of("Never", &spec, &[("s", Exited, 2), ("i", Exited, 0), ("j", Exited, 0)]), (vec![0], false, vec![0]));
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

    /// What is planned for a pod in a sandbox that is up: which inits and regular containers are started, what is killed, and whether all
    /// of it is. Containers: name, state, exit code.
    fn planned(
        policy: &str,
        spec: &Value,
        containers: &[(&str, ContainerState, i32)],
    ) -> (Vec<usize>, Vec<usize>, Vec<String>, bool) {
        planned_with(policy, spec, containers, &VerdictsByName::new())
    }

    fn planned_with(
        policy: &str,
        spec: &Value,
        containers: &[(&str, ContainerState, i32)],
        verdicts: &VerdictsByName,
    ) -> (Vec<usize>, Vec<usize>, Vec<String>, bool) {
        let mut seen = seen(&containers.iter().map(|(name, _, code)| (*name, *code)).collect::<Vec<_>>());
        seen.sandboxes[0].state = SandboxState::Ready;
        seen.sandboxes[0].ips = vec!["10.0.0.2".to_owned()];
        for (container, (_, state, _)) in seen.containers.iter_mut().zip(containers) {
            container.state = *state;
            container.id = ContainerId::new(container.name.clone());
        }
        let actions = compute_pod_actions(&pod(policy, spec), &seen, verdicts, &ToRestart::new());
        let kills = actions.kills.into_iter().map(|kill| kill.message).collect();
        (actions.inits, actions.containers, kills, actions.kill_pod)
    }

    // POD-125: kuberuntime_container.go (computeInitContainerActions): a sidecar that has ended is begun again beside what comes next; once
    // a later one was begun, it holds none of them up.
    #[test]
    fn sidecar_that_ended_holds_up_none_that_comes_after_one_that_was_begun() {
        use ContainerState::{Exited, Running};
        let none = Vec::<usize>::new;
        let kept = Vec::<String>::new;
        let spec = json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "i"}, {"name": "j"}],
            "containers": [{"name": "a"}]});
        assert_eq!(planned("Always", &spec, &[]), (vec![0], none(), kept(), false));
        assert_eq!(planned("Always", &spec, &[("s", Exited, 1)]), (vec![0], none(), kept(), false), "none after it was begun");
        assert_eq!(planned("Always", &spec, &[("s", Running, 0)]), (vec![1], none(), kept(), false));
        assert_eq!(planned("Always", &spec, &[("s", Exited, 1), ("i", Running, 0)]), (vec![0], none(), kept(), false));
        assert_eq!(planned("Always", &spec, &[("s", Exited, 1), ("i", Exited, 0)]), (vec![0, 2], none(), kept(), false));
        assert_eq!(planned("Always", &spec, &[("s", Exited, 1), ("i", Exited, 1)]), (vec![0, 1], none(), kept(), false));
        assert_eq!(planned("Always", &spec, &[("j", Exited, 0)]), (vec![0], vec![0], kept(), false), "it is gone");
        let all = [("s", Exited, 1), ("j", Exited, 0), ("a", Running, 0)];
        assert_eq!(planned("Always", &spec, &all), (vec![0], none(), kept(), false));
    }

    // POD-125, as above: the last init container holds up the regular ones unless one of them goes on.
    #[test]
    fn last_sidecar_is_waited_for_while_no_regular_container_goes_on() {
        use ContainerState::{Created, Exited, Running};
        let spec = json!({"initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
            "containers": [{"name": "a"}, {"name": "b"}]});
        let plan = |s, a, b| {
            let containers = [("i", Exited, 0), ("s", s, 1), ("a", a, 1), ("b", b, 1)];
            let (inits, regulars, ..) = planned("Always", &spec, &containers);
            (inits, regulars)
        };
        assert_eq!(plan(Exited, Exited, Exited), (vec![1], vec![]));
        assert_eq!(plan(Exited, Running, Exited), (vec![1], vec![1]));
        assert_eq!(plan(Exited, Created, Exited), (vec![1], vec![0, 1]));
        assert_eq!(plan(Running, Exited, Exited), (vec![], vec![0, 1]));
    }

    // POD-125, as above: before its startup probe has passed nothing else counts, not even another image; then the next one starts although
    // it is killed.
    #[test]
    fn sidecar_is_not_judged_before_its_startup_probe_has_passed() {
        let spec = json!({"initContainers": [{"name": "s", "image": "new", "restartPolicy": "Always"}, {"name": "i"}],
            "containers": [{"name": "a"}]});
        let plan = |startup: Option<bool>, liveness: Option<bool>| {
            let verdict = Verdicts { has_startup: true, startup, liveness, ..Verdicts::default() };
            let verdicts = VerdictsByName::from([("s".to_owned(), verdict)]);
            let (inits, _, kills, _) = planned_with("Always", &spec, &[("s", ContainerState::Running, 0)], &verdicts);
            (inits, kills.join(", "))
        };
        assert_eq!(plan(None, Some(true)), (vec![], String::new()));
        assert_eq!(plan(Some(false), Some(true)), (vec![], "Init container s failed startup probe".to_owned()));
        assert_eq!(plan(Some(true), Some(false)), (vec![1], "Init container s failed liveness probe".to_owned()));
    }

    // POD-124: kuberuntime_container.go, kuberuntime/helpers.go (isInitContainerFailed), pkg/api/v1/pod/util.go (ContainerShouldRestart): one
    // that was killed for memory failed though it ended with 0, and of 0 an OnFailure does not restart.
    #[test]
    fn init_container_that_failed_runs_again_as_its_policy_says() {
        use ContainerState::{Exited, Unknown};
        let spec = json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]});
        for (policy, code, again) in [("Always", 1, true), ("OnFailure", 1, true), ("Never", 1, false)] {
            let (inits, .., kill_pod) = planned(policy, &spec, &[("i", Exited, code)]);
            assert_eq!((inits.len() == 1, kill_pod), (again, !again), "{policy}");
        }
        let own = json!({"initContainers": [{"name": "i", "restartPolicy": "Never"}], "containers": [{"name": "a"}]});
        assert!(planned("Always", &own, &[("i", Exited, 1)]).3);
        let mut oom = seen(&[("i", 0)]);
        oom.sandboxes[0].state = SandboxState::Ready;
        oom.sandboxes[0].ips = vec!["10.0.0.2".to_owned()];
        oom.containers[0].reason = "OOMKilled".to_owned();
        for (policy, again) in [("Always", true), ("OnFailure", false), ("Never", false)] {
            let actions = compute_pod_actions(&pod(policy, &spec), &oom, &VerdictsByName::new(), &ToRestart::new());
            assert_eq!((actions.inits.len() == 1, actions.kill_pod), (again, !again), "{policy}");
        }
        // pkg/kubelet/container/runtime.go: ContainerStateUnknown is "unknown".
        let (.., kills, _) = planned("Always", &spec, &[("i", Unknown, 0)]);
        assert_eq!(kills, ["Init container is in \"unknown\" state, try killing it before restart"]);
    }

    // POD-124: kuberuntime_container.go (computeInitContainerActions): one of an unknown state that was stopped is begun again, whatever it
    // ended with.
    #[test]
    fn init_container_that_was_stopped_to_run_again_has_not_done_its_work() {
        let spec = json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]});
        let mut seen = seen(&[("i", 0)]);
        seen.sandboxes[0].state = SandboxState::Ready;
        seen.sandboxes[0].ips = vec!["10.0.0.2".to_owned()];
        let plan = |to_restart: &ToRestart| {
            let actions = compute_pod_actions(&pod("OnFailure", &spec), &seen, &VerdictsByName::new(), to_restart);
            (actions.inits, actions.containers)
        };
        assert_eq!(plan(&ToRestart::from([seen.containers[0].id.clone()])), (vec![0], vec![]));
        assert_eq!(plan(&ToRestart::new()), (vec![], vec![0]));
    }

    // POD-120: kuberuntime_manager.go (containerChanged): only a sidecar is not asked before its startup probe has passed, and not each
    // container with its policy.
    #[test]
    fn changed_container_is_made_anew_whatever_its_startup_probe_says() {
        let changed = |spec: &Value| {
            let mut seen = seen(&[("s", 0)]);
            seen.sandboxes[0].state = SandboxState::Ready;
            seen.sandboxes[0].ips = vec!["10.0.0.2".to_owned()];
            seen.containers[0].state = ContainerState::Running;
            seen.containers[0].annotations = [(HASH_ANNOTATION.to_owned(), "of another image".to_owned())].into();
            let verdict = Verdicts { has_startup: true, startup: None, ..Verdicts::default() };
            let verdicts = VerdictsByName::from([("s".to_owned(), verdict)]);
            let actions = compute_pod_actions(&pod("Always", spec), &seen, &verdicts, &ToRestart::new());
            actions.kills.into_iter().map(|kill| kill.message).collect::<Vec<_>>()
        };
        let of = |kind: &str| json!({kind: [{"name": "s", "image": "new", "restartPolicy": "Always"}]});
        assert_eq!(changed(&of("containers")), ["Container s definition changed, will be restarted"]);
        let mut sidecar = of("initContainers");
        sidecar["containers"] = json!([{"name": "a"}]);
        assert!(changed(&sidecar).is_empty());
    }

    // POD-119: kuberuntime_manager.go (computePodActions): what is of an unknown state is stopped and begun again, also where nothing else is.
    #[test]
    fn container_of_an_unknown_state_is_stopped_and_runs_again() {
        let mut seen = seen(&[("c", 0)]);
        seen.sandboxes[0].state = SandboxState::Ready;
        seen.sandboxes[0].ips = vec!["10.0.0.2".to_owned()];
        seen.containers[0].state = ContainerState::Unknown;
        let spec = json!({"containers": [{"name": "c"}]});
        let actions = compute_pod_actions(&pod("Never", &spec), &seen, &VerdictsByName::new(), &ToRestart::new());
        let kills: Vec<_> = actions.kills.iter().map(|kill| (kill.message.as_str(), kill.restart)).collect();
        assert_eq!(kills, [("Container is in \"unknown\" state, try killing it before restart", true)]);
    }
}
