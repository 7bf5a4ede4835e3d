//! From the pretend runtime's state to CRI messages.
//! Upstream: containerd internal/cri/server (toCRIContainer, toCRISandbox).
//! Differs: nothing on purpose.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kubelet::observation::{ActualResources, ContainerState, LinuxUser, RuntimeHandler, SandboxState};
use model::runtime::{Container, RuntimeModel, Sandbox};
use proto::cri;

fn nanos(at: Option<Timestamp>) -> i64 {
    at.and_then(|at| i64::try_from(at.as_nanosecond()).ok()).unwrap_or_default()
}

fn sandbox_state(sandbox: &Sandbox) -> i32 {
    match sandbox.state {
        SandboxState::Ready => cri::PodSandboxState::SandboxReady as i32,
        SandboxState::NotReady => cri::PodSandboxState::SandboxNotready as i32,
    }
}

fn container_state(container: &Container) -> i32 {
    let state = match container.state {
        ContainerState::Created => cri::ContainerState::ContainerCreated,
        ContainerState::Running => cri::ContainerState::ContainerRunning,
        ContainerState::Exited => cri::ContainerState::ContainerExited,
        ContainerState::Unknown => cri::ContainerState::ContainerUnknown,
    };
    state as i32
}

/// Whether labels hold everything that a selector asks for.
pub(super) fn selected(labels: &BTreeMap<String, String>, selector: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

pub(super) fn listed_sandbox(sandbox: &Sandbox) -> cri::PodSandbox {
    cri::PodSandbox {
        id: sandbox.id.clone(),
        metadata: sandbox.config.metadata.clone(),
        state: sandbox_state(sandbox),
        created_at: nanos(Some(sandbox.created)),
        labels: sandbox.config.labels.clone(),
        annotations: sandbox.config.annotations.clone(),
        runtime_handler: sandbox.handler.clone(),
    }
}

pub(super) fn sandbox_status(sandbox: &Sandbox) -> cri::PodSandboxStatus {
    let options = sandbox.config.linux.as_ref().and_then(|l| l.security_context.as_ref()).and_then(|s| s.namespace_options.clone());
    let ip = if sandbox.state == SandboxState::Ready { sandbox.ip.clone() } else { String::new() };
    cri::PodSandboxStatus {
        id: sandbox.id.clone(),
        metadata: sandbox.config.metadata.clone(),
        state: sandbox_state(sandbox),
        created_at: nanos(Some(sandbox.created)),
        network: Some(cri::PodSandboxNetworkStatus { ip, additional_ips: Vec::new() }),
        linux: Some(cri::LinuxPodSandboxStatus { namespaces: Some(cri::Namespace { options }) }),
        labels: sandbox.config.labels.clone(),
        annotations: sandbox.config.annotations.clone(),
        runtime_handler: sandbox.handler.clone(),
    }
}

pub(super) fn listed_container(container: &Container) -> cri::Container {
    let config = &container.config;
    cri::Container {
        id: container.id.clone(),
        pod_sandbox_id: container.sandbox.clone(),
        metadata: config.metadata.clone(),
        image: config.image.clone(),
        image_ref: config.image.as_ref().map(|i| i.image.clone()).unwrap_or_default(),
        state: container_state(container),
        created_at: nanos(Some(container.created)),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        ..cri::Container::default()
    }
}

/// What the model tells of a container, and beside it what only the message has.
pub(super) fn container_status(model: &RuntimeModel, container: &Container) -> cri::ContainerStatus {
    let told = model.status_of(container);
    let config = &container.config;
    let log_directory = model.sandboxes.get(&container.sandbox).map(|s| s.config.log_directory.as_str()).unwrap_or_default();
    cri::ContainerStatus {
        id: container.id.clone(),
        metadata: config.metadata.clone(),
        state: container_state(container),
        created_at: told.created_at,
        started_at: told.started_at,
        finished_at: told.finished_at,
        exit_code: told.exit_code,
        image: Some(cri::ImageSpec { image: told.image, ..config.image.clone().unwrap_or_default() }),
        image_ref: told.image_ref,
        image_id: told.image_id,
        reason: told.reason,
        message: told.message,
        labels: told.labels,
        annotations: told.annotations,
        mounts: config.mounts.clone(),
        log_path: format!("{log_directory}/{}", config.log_path),
        resources: told
            .resources
            .map(|resources| cri::ContainerResources { linux: Some(linux_resources(&resources)), windows: None }),
        user: told.user.map(|user| cri::ContainerUser { linux: Some(linux_user(user)) }),
        ..cri::ContainerStatus::default()
    }
}

fn linux_resources(resources: &ActualResources) -> cri::LinuxContainerResources {
    cri::LinuxContainerResources {
        cpu_shares: resources.cpu_shares,
        cpu_quota: resources.cpu_quota,
        cpu_period: resources.cpu_period,
        memory_limit_in_bytes: resources.memory_limit,
        ..cri::LinuxContainerResources::default()
    }
}

fn linux_user(user: LinuxUser) -> cri::LinuxContainerUser {
    cri::LinuxContainerUser { uid: user.uid, gid: user.gid, supplemental_groups: user.supplemental_groups }
}

/// A handler, with what it can.
pub(super) fn handler(handler: RuntimeHandler) -> cri::RuntimeHandler {
    let RuntimeHandler { name, recursive_read_only_mounts, user_namespaces } = handler;
    cri::RuntimeHandler { name, features: Some(cri::RuntimeHandlerFeatures { recursive_read_only_mounts, user_namespaces }) }
}

pub(super) fn image(image: &kubelet::observation::Image) -> cri::Image {
    cri::Image {
        id: image.id.clone(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        uid: image.uid.map(|value| cri::Int64Value { value }),
        username: image.username.clone(),
        pinned: image.pinned,
        ..cri::Image::default()
    }
}
