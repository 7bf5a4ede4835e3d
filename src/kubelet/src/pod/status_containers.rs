//! Decides the status of each container from its instances, what could not be started, and what was reported before.
//! Upstream: pkg/kubelet/kubelet_pods.go (convertToAPIContainerStatuses).
//! Differs: how a container of an unknown state was told stands until its state is known.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus as ApiStatus, ContainerUser, LinuxContainerUser, Pod, ResourceRequirements, VolumeMount, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::restart::{is_sidecar, restarts_after};
use super::restart_all::{REMOVED, is_under_way, removed_status};
use super::status::StatusInputs;
use crate::observation::{ContainerState, ContainerStatus};
use crate::resources::reported::set_actual;

/// POD-294: the exit code of a container that cannot be found any more.
const LOST_EXIT_CODE: i32 = 137;

/// The statuses of those containers, in their order in the spec; regular ones sorted by name (POD-296).
#[must_use]
pub fn container_statuses(inputs: &StatusInputs<'_>, containers: &[Container], init: bool) -> Vec<ApiStatus> {
    // Asked once: it looks at every container.
    let begins_anew = !inputs.terminating && is_under_way(inputs.pod, inputs.seen, inputs.previous);
    let mut instances = inputs.seen.instances_by_name();
    let regular = inputs.pod.spec.as_ref().map(|s| s.containers.as_slice()).unwrap_or_default();
    let initialised = regular.iter().any(|c| instances.contains_key(c.name.as_str()));
    let told = inputs.previous.map(|status| if init { &status.init_container_statuses } else { &status.container_statuses });
    let before = by_name(told.into_iter().flatten().flatten());
    let status = |c: &Container| {
        let instances = instances.remove(c.name.as_str()).unwrap_or_default();
        let known = Known { instances, before: before.get(c.name.as_str()).copied(), begins_anew, initialised };
        container_status(inputs, c, init, &known)
    };
    let mut statuses: Vec<ApiStatus> = containers.iter().map(status).collect();
    if !init {
        statuses.sort_by(|a, b| a.name.cmp(&b.name));
    }
    statuses
}

/// Statuses by the names of their containers. A pod may have thousands, and each is asked about.
pub(super) fn by_name<'a>(statuses: impl Iterator<Item = &'a ApiStatus>) -> BTreeMap<&'a str, &'a ApiStatus> {
    let mut found = BTreeMap::new();
    for status in statuses {
        found.entry(status.name.as_str()).or_insert(status);
    }
    found
}

/// What is known of one container: its instances, the authoritative one first, and what was last told of it; and of its pod: whether all
/// begin anew, and whether a regular container was ever made.
struct Known<'a> {
    instances: Vec<&'a ContainerStatus>,
    before: Option<&'a ApiStatus>,
    begins_anew: bool,
    initialised: bool,
}

fn container_status(inputs: &StatusInputs<'_>, container: &Container, init: bool, known: &Known<'_>) -> ApiStatus {
    let Known { instances, before, .. } = known;
    let before = *before;
    if let Some(unchanged) = between_stop_and_start(inputs, container, instances.first().copied(), before) {
        return unchanged;
    }
    let removed = before.filter(|_| known.begins_anew && instances.is_empty());
    let mut status = match (instances.first(), removed) {
        (Some(newest), _) => seen_status(inputs, container, newest, instances.get(1).copied(), before),
        (None, Some(before)) => removed_status(container, before),
        (None, None) => unseen_status(inputs, container, init, known),
    };
    status.volume_mounts = told_mounts(before).or_else(|| mount_statuses(container, inputs.recursive_read_only));
    set_readiness(inputs, container, init, instances.first().copied(), &mut status);
    show_waiting(inputs, container, instances.first().copied(), &mut status);
    if let Some(before) = before {
        // POD-304, invariant 4: what users count never goes back.
        status.restart_count = status.restart_count.max(before.restart_count);
    }
    status
}

/// What was stopped so that it runs again is told as it was until it does, or cannot: upstream stops and starts in one pass and tells of
/// neither, and an API server lets no container of a pod that never restarts come back from `terminated`.
fn between_stop_and_start(
    inputs: &StatusInputs<'_>,
    container: &Container,
    newest: Option<&ContainerStatus>,
    before: Option<&ApiStatus>,
) -> Option<ApiStatus> {
    let newest = newest.filter(|newest| newest.state == ContainerState::Exited)?;
    let before = before.filter(|before| same_id(inputs, before, newest))?;
    let ran = before.state.as_ref().is_some_and(|state| state.running.is_some());
    let waits = inputs.terminating || inputs.start_errors.contains_key(&container.name);
    let ready = before.ready && !inputs.restart_waits;
    (ran && !waits && inputs.restarts(Some(newest))).then(|| ApiStatus { ready, ..before.clone() })
}

/// POD-291, POD-292: what the runtime tells of the newest instance, and of the one before it.
fn seen_status(
    inputs: &StatusInputs<'_>,
    container: &Container,
    newest: &ContainerStatus,
    older: Option<&ContainerStatus>,
    before: Option<&ApiStatus>,
) -> ApiStatus {
    let mut last_state = ApiState::default();
    if let Some(older) = older.filter(|o| o.state == ContainerState::Exited) {
        last_state = terminated(inputs, older);
    } else if let Some(before) = before
        && !same_id(inputs, before, newest)
    {
        // The instance before this one is gone from the runtime: what was reported of it stands (POD-292).
        if let Some(ended) = before.state.as_ref().filter(|s| s.terminated.is_some()) {
            last_state = ended.clone();
        } else if let Some(last) = before.last_state.as_ref() {
            last_state = last.clone();
        }
    } else if let Some(last) = before.and_then(|b| b.last_state.clone()) {
        last_state = last;
    }
    let state = match newest.state {
        ContainerState::Running => {
            ApiState { running: Some(ContainerStateRunning { started_at: time(newest.started_at) }), ..ApiState::default() }
        }
        ContainerState::Exited => terminated(inputs, newest),
        // Made, and waiting to be running.
        ContainerState::Created => waits_for_nothing(),
        ContainerState::Unknown => return lost_status(inputs, container, newest, before),
    };
    ApiStatus { state: Some(state), last_state: Some(last_state), ..instance_status(inputs, container, newest, before) }
}

/// What the runtime tells of an instance, but for its state.
fn instance_status(
    inputs: &StatusInputs<'_>,
    container: &Container,
    newest: &ContainerStatus,
    before: Option<&ApiStatus>,
) -> ApiStatus {
    ApiStatus {
        name: container.name.clone(),
        image: newest.image.clone(),
        image_id: newest.image_ref.clone(),
        container_id: Some(format!("{}://{}", inputs.runtime_name, newest.id)),
        restart_count: i32::try_from(newest.attempt).unwrap_or(i32::MAX),
        user: newest.user.as_ref().map(|user| ContainerUser {
            linux: Some(LinuxContainerUser {
                uid: user.uid,
                gid: user.gid,
                supplemental_groups: (!user.supplemental_groups.is_empty()).then(|| user.supplemental_groups.clone()),
            }),
        }),
        resources: Some(reported_resources(inputs, container, newest, before)),
        allocated_resources: container.resources.as_ref().and_then(|r| r.requests.clone()).filter(|r| !r.is_empty()),
        ..ApiStatus::default()
    }
}

/// POD-297: running, what is in force as far as the runtime tells; else what is allocated (convertContainerStatusResources).
fn reported_resources(
    inputs: &StatusInputs<'_>,
    container: &Container,
    newest: &ContainerStatus,
    before: Option<&ApiStatus>,
) -> ResourceRequirements {
    let allocated = container.resources.clone().unwrap_or_default();
    let mut reported = ResourceRequirements { limits: allocated.limits, requests: allocated.requests, claims: None };
    if newest.state != ContainerState::Running {
        return reported;
    }
    let same = before.filter(|b| same_id(inputs, b, newest) && b.state.as_ref().is_some_and(|s| s.running.is_some()));
    set_actual(&mut reported, newest.resources.as_ref(), same.and_then(|b| b.resources.as_ref()));
    reported
}

/// A container of which the runtime does not know how it is. If it ran, it has ended, and somehow badly; that is told once.
fn lost_status(
    inputs: &StatusInputs<'_>,
    container: &Container,
    newest: &ContainerStatus,
    before: Option<&ApiStatus>,
) -> ApiStatus {
    let mut status = instance_status(inputs, container, newest, before);
    status.last_state = Some(before.and_then(|b| b.last_state.clone()).unwrap_or_default());
    let was = before.and_then(|b| b.state.clone()).unwrap_or_default();
    status.state = Some(waits_for_nothing());
    if was.running.is_some() {
        status.state = Some(lost("The container could not be located when the pod was terminated"));
        status.restart_count = before.map_or(0, |b| b.restart_count.saturating_add(1));
    } else if was.terminated.is_some() && before.is_some_and(|b| same_id(inputs, b, newest)) {
        status.state = Some(was);
    }
    status
}

/// A container of which the runtime holds nothing: not made yet, lost, or cleaned up.
fn unseen_status(inputs: &StatusInputs<'_>, container: &Container, init: bool, known: &Known<'_>) -> ApiStatus {
    let reason = default_reason(has_inits(inputs.pod));
    let mut status = ApiStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        state: Some(waiting(reason, None)),
        last_state: Some(ApiState::default()),
        ..ApiStatus::default()
    };
    if let Some(before) = known.before {
        let was = before.state.as_ref();
        if was.is_some_and(|s| s.terminated.is_some()) {
            // Cleaned up after its end: the report stands.
            return before.clone();
        }
        status.restart_count = before.restart_count;
        status.last_state.clone_from(&before.last_state);
        let ended_before = status.last_state.as_ref().is_some_and(|s| s.terminated.is_some());
        if was.is_some_and(|s| s.running.is_some()) && inputs.observed && !ended_before {
            status.last_state =
                Some(lost("The container could not be located when the pod was deleted.  The container used to be Running"));
            if inputs.pod.metadata.deletion_timestamp.is_none() {
                status.restart_count = status.restart_count.saturating_add(1);
            }
        }
        if was.is_some_and(|s| s.running.is_some()) && inputs.terminated {
            status.state.clone_from(&status.last_state);
        }
    }
    if init && known.initialised && !is_sidecar(container) && status.state.as_ref().is_some_and(|s| s.waiting.is_some()) {
        status.state = Some(finished_init());
    }
    status
}

/// POD-295
fn finished_init() -> ApiState {
    let ended = ContainerStateTerminated {
        exit_code: 0,
        reason: Some("Completed".to_owned()),
        message: Some(
            "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally"
                .to_owned(),
        ),
        ..ContainerStateTerminated::default()
    };
    ApiState { terminated: Some(ended), ..ApiState::default() }
}

fn set_readiness(
    inputs: &StatusInputs<'_>,
    container: &Container,
    init: bool,
    newest: Option<&ContainerStatus>,
    status: &mut ApiStatus,
) {
    let plain_init = init && !is_sidecar(container);
    if plain_init {
        let ended = status.state.as_ref().and_then(|s| s.terminated.as_ref());
        let waits = status.state.as_ref().and_then(|s| s.waiting.as_ref()).and_then(|w| w.reason.as_deref());
        // As recorded of the kubelet (case 025): what was removed because all begin anew is as ready as it was.
        status.ready = if waits == Some(REMOVED) { status.ready } else { ended.is_some_and(|t| t.exit_code == 0) };
        status.started = Some(status.state.as_ref().is_some_and(|s| s.running.is_some()));
        return;
    }
    let running = newest.filter(|c| c.state == ContainerState::Running);
    let verdict = running.map(|c| inputs.verdicts(&container.name, &c.id)).unwrap_or_default();
    let started = running.is_some() && (!verdict.has_startup || verdict.startup == Some(true));
    status.started = Some(started);
    status.ready = started && (!verdict.has_readiness || verdict.readiness == Some(true));
}

/// POD-293, POD-306: a container that is to start and cannot shows why.
fn show_waiting(inputs: &StatusInputs<'_>, container: &Container, newest: Option<&ContainerStatus>, status: &mut ApiStatus) {
    let Some(error) = inputs.start_errors.get(&container.name) else { return };
    if inputs.terminating || newest.is_some_and(|c| c.state == ContainerState::Running) {
        return;
    }
    let state = status.state.clone().unwrap_or_default();
    if let Some(ended) = &state.terminated {
        if !inputs.restarts(newest) && !restarts_after(inputs.pod, container, ended.exit_code) {
            return;
        }
        status.last_state = Some(state);
    }
    status.state = Some(waiting(&error.reason, Some(error.message.clone())));
}

fn same_id(inputs: &StatusInputs<'_>, before: &ApiStatus, newest: &ContainerStatus) -> bool {
    before.container_id.as_deref().is_some_and(|id| id == format!("{}://{}", inputs.runtime_name, newest.id))
}

fn has_inits(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|s| s.init_containers.as_ref().is_some_and(|i| !i.is_empty()))
}

fn default_reason(has_inits: bool) -> &'static str {
    if has_inits { "PodInitializing" } else { "ContainerCreating" }
}

fn waiting(reason: &str, message: Option<String>) -> ApiState {
    let waiting = ContainerStateWaiting { reason: Some(reason.to_owned()), message: message.filter(|m| !m.is_empty()) };
    ApiState { waiting: Some(waiting), ..ApiState::default() }
}

/// Upstream gives no reason here.
fn waits_for_nothing() -> ApiState {
    ApiState { waiting: Some(ContainerStateWaiting::default()), ..ApiState::default() }
}

fn terminated(inputs: &StatusInputs<'_>, container: &ContainerStatus) -> ApiState {
    let text = |t: &str| (!t.is_empty()).then(|| t.to_owned());
    let ended = ContainerStateTerminated {
        exit_code: container.exit_code,
        reason: text(&container.reason),
        message: text(&container.message),
        started_at: time(container.started_at),
        finished_at: time(container.finished_at),
        container_id: Some(format!("{}://{}", inputs.runtime_name, container.id)),
        signal: None,
    };
    ApiState { terminated: Some(ended), ..ApiState::default() }
}

fn lost(message: &str) -> ApiState {
    let ended = ContainerStateTerminated {
        exit_code: LOST_EXIT_CODE,
        reason: Some("ContainerStatusUnknown".to_owned()),
        message: Some(message.to_owned()),
        ..ContainerStateTerminated::default()
    };
    ApiState { terminated: Some(ended), ..ApiState::default() }
}

/// Whole seconds (POD-290). What has not happened, such as the start of a container that could not be started, is the beginning of time.
fn time(nanos: i64) -> Option<Time> {
    Some(Time(Timestamp::from_second(nanos.div_euclid(1_000_000_000)).unwrap_or_default()))
}

/// What was told of the mounts of a container that was made: that does not change, whatever is known of the runtime just now.
fn told_mounts(before: Option<&ApiStatus>) -> Option<Vec<VolumeMountStatus>> {
    let told = before.filter(|b| b.container_id.is_some())?.volume_mounts.as_ref().filter(|told| !told.is_empty())?;
    told.iter().all(|mount| mount.recursive_read_only.as_deref() != Some("IfPossible")).then(|| told.clone())
}

fn mount_statuses(container: &Container, runtime_can: bool) -> Option<Vec<VolumeMountStatus>> {
    let one = |mount: &VolumeMount| VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: mount.read_only.filter(|read_only| *read_only),
        recursive_read_only: mount.read_only.filter(|r| *r).map(|_| recursive(mount, runtime_can).to_owned()),
        volume_status: None,
    };
    container.volume_mounts.as_ref().filter(|m| !m.is_empty()).map(|mounts| mounts.iter().map(one).collect())
}

/// What became of what was asked for (resolveRecursiveReadOnly).
fn recursive(mount: &VolumeMount, runtime_can: bool) -> &'static str {
    let asked = matches!(mount.recursive_read_only.as_deref(), Some("IfPossible" | "Enabled"));
    let private = mount.mount_propagation.as_deref().is_none_or(|propagation| propagation == "None");
    if asked && private && runtime_can { "Enabled" } else { "Disabled" }
}
