//! Decides the status of each container from its instances, what could not be started, and what was reported before.
//! Upstream: pkg/kubelet/kubelet_pods.go (convertToAPIContainerStatuses).
//! Differs: nothing on purpose.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus as ApiStatus, ContainerUser, LinuxContainerUser, Pod, ResourceRequirements, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::restart::{RestartPolicy, effective_policy, is_sidecar, restarts_after};
use super::status::StatusInputs;
use crate::observation::{ContainerState, ContainerStatus};

/// POD-294: the exit code of a container that cannot be found any more.
const LOST_EXIT_CODE: i32 = 137;

/// The statuses of those containers, in their order in the spec; regular ones sorted by name (POD-296).
#[must_use]
pub fn container_statuses(inputs: &StatusInputs<'_>, containers: &[Container], init: bool) -> Vec<ApiStatus> {
    let mut statuses: Vec<ApiStatus> = containers.iter().map(|c| container_status(inputs, c, init)).collect();
    if !init {
        statuses.sort_by(|a, b| a.name.cmp(&b.name));
    }
    statuses
}

fn container_status(inputs: &StatusInputs<'_>, container: &Container, init: bool) -> ApiStatus {
    let instances: Vec<&ContainerStatus> = inputs.seen.instances(&container.name).collect();
    let before = previous(inputs.previous, &container.name, init);
    if let Some(unchanged) = between_stop_and_start(inputs, container, before) {
        return unchanged;
    }
    let mut status = match instances.first() {
        Some(newest) => seen_status(inputs, container, newest, instances.get(1).copied(), before),
        None => unseen_status(inputs, container, init, before),
    };
    status.volume_mounts = mount_statuses(container);
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
fn between_stop_and_start(inputs: &StatusInputs<'_>, container: &Container, before: Option<&ApiStatus>) -> Option<ApiStatus> {
    let newest = inputs.seen.newest(&container.name).filter(|newest| newest.state == ContainerState::Exited)?;
    let before = before.filter(|before| same_id(inputs, before, newest))?;
    let ran = before.state.as_ref().is_some_and(|state| state.running.is_some());
    let waits = inputs.terminating || inputs.start_errors.contains_key(&container.name);
    let ready = before.ready && !inputs.restart_waits;
    (ran && !waits && inputs.restarts(&container.name)).then(|| ApiStatus { ready, ..before.clone() })
}

fn previous<'a>(status: Option<&'a k8s_openapi::api::core::v1::PodStatus>, name: &str, init: bool) -> Option<&'a ApiStatus> {
    let status = status?;
    let list = if init { &status.init_container_statuses } else { &status.container_statuses };
    list.iter().flatten().find(|c| c.name == name)
}

/// POD-291, POD-292: what the runtime tells of the newest instance, and of the one before it.
fn seen_status(
    inputs: &StatusInputs<'_>,
    container: &Container,
    newest: &ContainerStatus,
    older: Option<&ContainerStatus>,
    before: Option<&ApiStatus>,
) -> ApiStatus {
    let has_inits = has_inits(inputs.pod);
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
        ContainerState::Created => waiting(default_reason(has_inits), None),
        ContainerState::Unknown => lost(inputs, Some(newest), "The container could not be located when the pod was terminated"),
    };
    ApiStatus {
        name: container.name.clone(),
        state: Some(state),
        last_state: Some(last_state),
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
        resources: Some(reported_resources(container, newest)),
        allocated_resources: container.resources.as_ref().and_then(|r| r.requests.clone()).filter(|r| !r.is_empty()),
        ..ApiStatus::default()
    }
}

/// POD-297: running, what is in force; else what the spec says.
fn reported_resources(container: &Container, _newest: &ContainerStatus) -> ResourceRequirements {
    let wanted = container.resources.clone().unwrap_or_default();
    ResourceRequirements { limits: wanted.limits, requests: wanted.requests, claims: None }
}

/// A container of which the runtime holds nothing: not made yet, lost, or cleaned up.
fn unseen_status(inputs: &StatusInputs<'_>, container: &Container, init: bool, before: Option<&ApiStatus>) -> ApiStatus {
    let reason = default_reason(has_inits(inputs.pod));
    let mut status = ApiStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        state: Some(waiting(reason, None)),
        last_state: Some(ApiState::default()),
        ..ApiStatus::default()
    };
    let Some(before) = before else {
        if init && initialised(inputs) && !is_sidecar(container) {
            status.state = Some(finished_init());
        }
        return status;
    };
    status.restart_count = before.restart_count;
    status.last_state.clone_from(&before.last_state);
    let was = before.state.clone().unwrap_or_default();
    if was.terminated.is_some() {
        let again = match was.terminated.as_ref() {
            Some(ended) => restarts_after(inputs.pod, container, ended.exit_code) && !inputs.terminating,
            None => false,
        };
        if again && !init {
            status.last_state = Some(was);
        } else {
            // Cleaned up after its end: the report stands.
            return ApiStatus { volume_mounts: None, ..before.clone() };
        }
    } else if was.running.is_some() && inputs.observed {
        status.last_state = Some(lost(
            inputs,
            None,
            "The container could not be located when the pod was deleted.  The container used to be Running",
        ));
        if !inputs.terminating {
            status.restart_count += 1;
        }
        if inputs.terminated {
            status.state.clone_from(&status.last_state);
        }
    } else if init && initialised(inputs) && !is_sidecar(container) {
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

fn initialised(inputs: &StatusInputs<'_>) -> bool {
    let regular = inputs.pod.spec.as_ref().map(|s| s.containers.as_slice()).unwrap_or_default();
    regular.iter().any(|c| inputs.seen.newest(&c.name).is_some())
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
        status.ready = ended.is_some_and(|t| t.exit_code == 0);
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
        let again = match effective_policy(inputs.pod, container) {
            _ if inputs.restarts(&container.name) => true,
            RestartPolicy::Never => restarts_after(inputs.pod, container, ended.exit_code),
            RestartPolicy::OnFailure => ended.exit_code != 0,
            RestartPolicy::Always => true,
        };
        if !again {
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

fn lost(inputs: &StatusInputs<'_>, container: Option<&ContainerStatus>, message: &str) -> ApiState {
    let ended = ContainerStateTerminated {
        exit_code: LOST_EXIT_CODE,
        reason: Some("ContainerStatusUnknown".to_owned()),
        message: Some(message.to_owned()),
        container_id: container.map(|c| format!("{}://{}", inputs.runtime_name, c.id)),
        ..ContainerStateTerminated::default()
    };
    ApiState { terminated: Some(ended), ..ApiState::default() }
}

/// Whole seconds (POD-290), or the beginning of time if it has not happened.
fn time(nanos: i64) -> Option<Time> {
    (nanos > 0).then(|| Time(Timestamp::from_second(nanos.div_euclid(1_000_000_000)).unwrap_or_default()))
}

fn mount_statuses(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let one = |mount: &k8s_openapi::api::core::v1::VolumeMount| VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: mount.read_only.filter(|read_only| *read_only),
        recursive_read_only: mount.read_only.filter(|r| *r).map(|_| recursive(mount)),
        volume_status: None,
    };
    container.volume_mounts.as_ref().filter(|m| !m.is_empty()).map(|mounts| mounts.iter().map(one).collect())
}

fn recursive(mount: &k8s_openapi::api::core::v1::VolumeMount) -> String {
    mount.recursive_read_only.clone().unwrap_or_else(|| "Disabled".to_owned())
}
