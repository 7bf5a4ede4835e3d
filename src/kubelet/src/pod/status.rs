//! Decides what the API server is told of a pod: phase, conditions, containers, IPs.
//! Upstream: pkg/kubelet/kubelet_pods.go (generateAPIPodStatus, getPhase).
//! Differs: nothing on purpose.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState as ApiState, ContainerStatus as ApiStatus, HostIP, Pod, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::actions::needs_sandbox;
use super::conditions::{ConditionInputs, generate_conditions};
use super::manager::is_static;
use super::restart::{is_sidecar, restarts_after};
use super::restart_all::{is_under_way, set_condition, was_removed};
use super::status_containers::{by_name, container_statuses};
use super::termination_messages::share_messages;
use super::worker::{StartError, Verdict};
use crate::ids::{ContainerId, PodUid};
use crate::observation::{ContainerStatus as Instance, PodObservation, SandboxState};
use crate::prober::{Prober, Verdicts};
use crate::resources::reported::{reported_pod_resources, reported_resources_while_running};

/// What a status is made of.
#[derive(Clone, Copy, Debug)]
pub struct StatusInputs<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its UID.
    pub uid: &'a PodUid,
    /// What was last seen of it.
    pub seen: &'a PodObservation,
    /// Whether it was seen at all in this life of the agent.
    pub observed: bool,
    /// The status as last computed or, at first, as the API server has it.
    pub previous: Option<&'a PodStatus>,
    /// Why containers could not be started.
    pub start_errors: &'a BTreeMap<String, StartError>,
    /// Containers that were stopped so that they run again, whatever they exited with.
    pub to_restart: &'a BTreeSet<ContainerId>,
    /// Whether one of them waits for something before it is started again, such as an image.
    pub restart_waits: bool,
    /// What probes say.
    pub prober: &'a Prober,
    /// Whether it is being stopped.
    pub terminating: bool,
    /// Whether nothing of it runs any more.
    pub terminated: bool,
    /// A status that somebody else decided.
    pub verdict: Option<&'a Verdict>,
    /// The node's IPs, the primary one first (NET-006).
    pub host_ips: &'a [String],
    /// Whether the pod's IPv6 address is its first (NET-005).
    pub v6_first: bool,
    /// Such as `containerd`.
    pub runtime_name: &'a str,
    /// Whether it can mount recursively read-only.
    pub recursive_read_only: bool,
    /// Why the resources that the pod's spec asks for now are not those that it has, in words.
    pub resize_refused: Option<&'a str>,
    /// Wall clock in whole seconds.
    pub now: Timestamp,
}

impl StatusInputs<'_> {
    /// What probes say of an instance.
    #[must_use]
    pub fn verdicts(&self, container: &str, id: &ContainerId) -> Verdicts {
        self.prober.verdicts(self.uid, container, id)
    }

    /// Whether that newest instance of a container was stopped so that it runs again (POD-120).
    #[must_use]
    pub fn restarts(&self, newest: Option<&Instance>) -> bool {
        newest.is_some_and(|newest| self.to_restart.contains(&newest.id))
    }
}

/// The pod's status (POD-285 to POD-299).
#[must_use]
pub fn generate_api_pod_status(inputs: &StatusInputs<'_>) -> PodStatus {
    let Some(spec) = &inputs.pod.spec else { return PodStatus::default() };
    let inits = spec.init_containers.as_deref().unwrap_or_default();
    let mut containers = container_statuses(inputs, &spec.containers, false);
    let mut init_statuses = container_statuses(inputs, inits, true);
    let mut status = inputs.previous.cloned().unwrap_or_default();
    let generated = phase_of(inputs, &spec.containers, inits, &containers, &init_statuses);
    // POD-269: what has not ended when nothing runs any more has failed. The conditions are those from before that was so.
    let phase = if inputs.terminated && !is_terminal(&generated) { "Failed".to_owned() } else { generated.clone() };
    if status.phase.as_deref() != Some(&phase) {
        status.reason = None;
        status.message = None;
    }
    if let Some(verdict) = inputs.verdict
        && phase == "Failed"
    {
        status.reason = Some(verdict.reason.clone());
        status.message = Some(verdict.message.clone());
    }
    let mut conditions = generate_conditions(&ConditionInputs {
        pod: inputs.pod,
        phase: &generated,
        had_ended: inputs.previous.and_then(|p| p.phase.as_deref()).is_some_and(is_terminal),
        containers: &containers,
        inits: &init_statuses,
        sandbox_ready: inputs.observed && needs_sandbox(inputs.pod, inputs.seen).is_none(),
        previous: inputs.previous.and_then(|p| p.conditions.as_deref()).unwrap_or_default(),
        resize_refused: inputs.resize_refused,
        now: inputs.now,
    });
    // What is being stopped does not begin anew, whatever it ended with.
    let begins_anew = !inputs.terminating && is_under_way(inputs.pod, inputs.seen, inputs.previous);
    set_condition(inputs.pod, begins_anew.then_some(inputs.seen), inputs.previous, &generated, inputs.now, &mut conditions);
    status.conditions = Some(conditions);
    if inputs.terminated {
        settle_at_the_end(inputs, &mut containers, &mut init_statuses);
    }
    status.phase = Some(phase);
    status.container_statuses = (!containers.is_empty()).then_some(containers);
    status.init_container_statuses = (!init_statuses.is_empty()).then_some(init_statuses);
    status.observed_generation = status.observed_generation.max(inputs.pod.metadata.generation);
    status.start_time.get_or_insert(Time(inputs.now));
    set_addresses(inputs, spec.host_network.unwrap_or(false), &mut status);
    set_pod_resources(inputs, &mut status);
    share_messages(spec, &mut status);
    status
}

fn is_terminal(phase: &str) -> bool {
    matches!(phase, "Failed" | "Succeeded")
}

/// POD-285, POD-286: a terminal phase stays for ever.
fn phase_of(
    inputs: &StatusInputs<'_>,
    containers: &[Container],
    inits: &[Container],
    statuses: &[ApiStatus],
    init_statuses: &[ApiStatus],
) -> String {
    let known = |status: Option<&PodStatus>| status.and_then(|s| s.phase.clone()).filter(|p| is_terminal(p));
    if let Some(phase) = known(inputs.previous).or_else(|| known(inputs.pod.status.as_ref())) {
        return phase;
    }
    if inputs.verdict.is_some() {
        return "Failed".to_owned();
    }
    let told = by_name(statuses.iter().chain(init_statuses));
    let status = |name: &str| told.get(name).copied();
    let ended = |s: &ApiStatus| ended_state(s).map(|t| t.exit_code);
    for init in inits.iter().filter(|c| !is_sidecar(c)) {
        match status(&init.name).and_then(ended) {
            Some(0) => {}
            Some(_) if status(&init.name).is_some_and(|s| ended_state(s).is_some_and(was_removed)) => {}
            Some(code) => {
                let again = restarts_after(inputs.pod, init, code);
                return if again { "Pending" } else { "Failed" }.to_owned();
            }
            None => return "Pending".to_owned(),
        }
    }
    let mut count = Counts::of(containers, &status);
    let is_pending = count.add_sidecars(inits, &status);
    if is_pending && !has_begun(inputs, containers) {
        return "Pending".to_owned();
    }
    let phase = if count.waiting > 0 {
        "Pending"
    } else if count.running > 0 && count.unknown == 0 {
        "Running"
    } else if count.ended > 0 && count.unknown == 0 {
        ended_phase(inputs, containers, &status)
    } else {
        "Pending"
    };
    phase.to_owned()
}

/// All regular containers have ended: what does that make of the pod?
fn ended_phase<'s>(
    inputs: &StatusInputs<'_>,
    containers: &[Container],
    status: &impl Fn(&str) -> Option<&'s ApiStatus>,
) -> &'static str {
    let codes = || containers.iter().filter_map(|c| Some((c, ended_state(status(&c.name)?)?.exit_code)));
    let removed = |c: &Container| status(&c.name).is_some_and(|s| ended_state(s).is_some_and(was_removed));
    let newest = inputs.seen.newest_by_name();
    let restarts = |c: &Container| inputs.restarts(newest.get(c.name.as_str()).copied());
    let again = |c: &Container, code: i32| restarts_after(inputs.pod, c, code) || restarts(c) || removed(c);
    // Nor is the end of a static pod told while it is stopped (POD-302): it may come again.
    if (!inputs.terminating || is_static(inputs.pod)) && codes().any(|(c, code)| again(c, code)) {
        return "Running";
    }
    if codes().all(|(_, code)| code == 0) { "Succeeded" } else { "Failed" }
}

#[derive(Default)]
struct Counts {
    waiting: usize,
    running: usize,
    ended: usize,
    unknown: usize,
}

impl Counts {
    fn of<'s>(containers: &[Container], status: &impl Fn(&str) -> Option<&'s ApiStatus>) -> Self {
        let mut counts = Self::default();
        for container in containers {
            let Some(status) = status(&container.name) else {
                counts.unknown += 1;
                continue;
            };
            let state = status.state.as_ref();
            if state.is_some_and(|s| s.running.is_some()) {
                counts.running += 1;
            } else if ended_state(status).is_some() {
                counts.ended += 1;
            } else if state.is_some_and(|s| s.waiting.is_some()) {
                counts.waiting += 1;
            } else {
                counts.unknown += 1;
            }
        }
        counts
    }

    /// Sidecars run and wait as others do; of one that has ended nothing hangs. Whether one has yet to come up.
    fn add_sidecars<'s>(&mut self, inits: &[Container], status: &impl Fn(&str) -> Option<&'s ApiStatus>) -> bool {
        let mut is_pending = false;
        for sidecar in inits.iter().filter(|c| is_sidecar(c)) {
            let status = status(&sidecar.name);
            let state = status.and_then(|s| s.state.as_ref());
            if state.is_some_and(|s| s.running.is_some()) {
                self.running += 1;
                is_pending |= status.is_none_or(|s| s.started != Some(true));
            } else if status.and_then(ended_state).is_none() {
                let waits = state.is_some_and(|s| s.waiting.is_some());
                *(if waits { &mut self.waiting } else { &mut self.unknown }) += 1;
                is_pending |= status.is_some();
            }
        }
        is_pending
    }
}

/// Whether the sandbox that is up holds a regular container, in whatever state (HasAnyActiveRegularContainerStarted).
fn has_begun(inputs: &StatusInputs<'_>, containers: &[Container]) -> bool {
    let newest = inputs.seen.sandboxes.first().filter(|s| s.state == SandboxState::Ready);
    let Some(sandbox) = newest else { return false };
    let regular: BTreeSet<&str> = containers.iter().map(|c| c.name.as_str()).collect();
    inputs.seen.containers.iter().any(|one| one.sandbox == sandbox.id && regular.contains(one.name.as_str()))
}

/// A container that waits after it has run counts as ended.
fn ended_state(status: &ApiStatus) -> Option<&k8s_openapi::api::core::v1::ContainerStateTerminated> {
    let of = |state: Option<&'_ ApiState>| state.is_some_and(|s| s.terminated.is_some());
    if of(status.state.as_ref()) {
        return status.state.as_ref()?.terminated.as_ref();
    }
    let waits = status.state.as_ref().is_some_and(|s| s.waiting.is_some());
    if waits && of(status.last_state.as_ref()) {
        return status.last_state.as_ref()?.terminated.as_ref();
    }
    None
}

/// POD-269: at the end nothing waits or runs any more. What became of it cannot be told, so it counts as failed.
fn settle_at_the_end(inputs: &StatusInputs<'_>, containers: &mut [ApiStatus], inits: &mut [ApiStatus]) {
    if initialised(inputs, containers, inits) {
        containers.iter_mut().for_each(settle_container);
    }
    // Those after the last one that was ever started never came to be; the first was at least about to.
    let begun = inits.iter().rposition(was_begun).map_or(1, |last| last + 1);
    inits.iter_mut().take(begun).for_each(settle_container);
}

fn settle_container(status: &mut ApiStatus) {
    if status.state.as_ref().is_some_and(|s| s.terminated.is_some()) {
        return;
    }
    if let Some(last) = status.last_state.clone().filter(|s| s.terminated.is_some()) {
        // Due to restart when the pod was stopped: how it ended stands.
        status.state = Some(last);
        return;
    }
    let lost = k8s_openapi::api::core::v1::ContainerStateTerminated {
        exit_code: 137,
        reason: Some("ContainerStatusUnknown".to_owned()),
        message: Some("The container could not be located when the pod was terminated".to_owned()),
        ..Default::default()
    };
    status.state = Some(ApiState { terminated: Some(lost), ..ApiState::default() });
    status.ready = false;
    status.started = Some(false);
}

/// Whether the regular containers' turn had come (status_manager.go, hasPodInitialized).
fn initialised(inputs: &StatusInputs<'_>, containers: &[ApiStatus], inits: &[ApiStatus]) -> bool {
    let specs = inputs.pod.spec.as_ref().and_then(|s| s.init_containers.as_deref()).unwrap_or_default();
    let Some((spec, status)) = specs.last().zip(inits.last()) else { return true };
    let succeeded = |state: Option<&ApiState>| state.and_then(|s| s.terminated.as_ref()).is_some_and(|t| t.exit_code == 0);
    let last_done = if is_sidecar(spec) {
        status.started == Some(true)
    } else {
        succeeded(status.state.as_ref()) || succeeded(status.last_state.as_ref())
    };
    last_done || containers.iter().any(was_begun)
}

fn was_begun(status: &ApiStatus) -> bool {
    let waits = status.state.as_ref().is_some_and(|s| s.waiting.is_some());
    !waits || status.last_state.as_ref().is_some_and(|s| s.terminated.is_some())
}

/// POD-298, POD-274, NET-005: IPs are kept when the sandbox goes.
fn set_addresses(inputs: &StatusInputs<'_>, host_network: bool, status: &mut PodStatus) {
    if let Some(primary) = inputs.host_ips.first() {
        status.host_ip = Some(primary.clone());
        status.host_ips = Some(inputs.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect());
    }
    let ips: Vec<String> = if host_network {
        host_network_ips(inputs.host_ips, status)
    } else {
        let newest = inputs.seen.sandboxes.first().filter(|s| s.state == SandboxState::Ready);
        newest.map(|s| sorted_ips(&s.ips, inputs.v6_first)).unwrap_or_default()
    };
    if let Some(first) = ips.first() {
        status.pod_ip = Some(first.clone());
        status.pod_ips = Some(ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect());
    }
}

/// The node's IPs as they were when the pod came; only the other family's is added when the node gets it.
fn host_network_ips(host_ips: &[String], status: &PodStatus) -> Vec<String> {
    let Some(first) = status.pod_ip.clone() else { return host_ips.to_vec() };
    let mut ips: Vec<String> = status.pod_ips.iter().flatten().map(|known| known.ip.clone()).collect();
    if ips.is_empty() {
        ips.push(first);
    }
    let is_v6 = |ip: &str| ip.contains(':');
    if let ([only], [_, second]) = (ips.as_slice(), host_ips)
        && is_v6(only) != is_v6(second)
    {
        ips.push(second.clone());
    }
    ips
}

/// All IPs as the runtime tells them; none if any cannot be read (determinePodSandboxIPs in
/// kuberuntime_sandbox.go).
#[must_use]
pub fn all_ips(ips: &[String]) -> Vec<String> {
    if ips.iter().all(|ip| ip.parse::<std::net::IpAddr>().is_ok()) { ips.to_vec() } else { Vec::new() }
}

/// One IP of each family, that of `--node-ip` first (sortPodIPs in kubelet_pods.go); none if any cannot be read.
#[must_use]
pub fn sorted_ips(ips: &[String], v6_first: bool) -> Vec<String> {
    let Ok(parsed) = ips.iter().map(|ip| ip.parse::<std::net::IpAddr>()).collect::<Result<Vec<_>, _>>() else { return Vec::new() };
    let of = |v6: bool| parsed.iter().find(|ip| ip.is_ipv6() == v6).map(ToString::to_string);
    [of(v6_first), of(!v6_first)].into_iter().flatten().collect()
}

/// POD-297: the pod's own resources: all that its containers declare until it runs, then CPU and memory, of which its cgroup tells.
/// When it has ended they stay as they were told.
fn set_pod_resources(inputs: &StatusInputs<'_>, status: &mut PodStatus) {
    let allocated = reported_pod_resources(inputs.pod);
    let told =
        inputs.previous.filter(|told| told.phase.as_deref().is_some_and(is_terminal)).and_then(|told| told.resources.clone());
    let ran = |told: &PodStatus| told.phase.as_deref() == Some("Running");
    status.resources = Some(match told {
        Some(told) => told,
        None if ran(status) || inputs.previous.is_some_and(ran) => reported_resources_while_running(inputs.pod),
        None => allocated.clone(),
    });
    status.allocated_resources = allocated.requests.filter(|r| !r.is_empty());
}

#[cfg(test)]
mod tests;
