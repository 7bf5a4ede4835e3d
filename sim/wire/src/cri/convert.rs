//! From the pretend runtime's state to CRI messages.
//! Upstream: containerd internal/cri/server (toCRIContainer, toCRISandbox).
//! Differs: nothing on purpose.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kubelet::observation::{ContainerState, SandboxState};
use model::runtime::{Container, Sandbox};
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

pub(super) fn container_status(container: &Container, log_directory: &str) -> cri::ContainerStatus {
    let config = &container.config;
    let message = if container.state == ContainerState::Exited { container.behaviour.says.clone() } else { String::new() };
    let image = config.image.clone().unwrap_or_default();
    cri::ContainerStatus {
        id: container.id.clone(),
        metadata: config.metadata.clone(),
        state: container_state(container),
        created_at: nanos(Some(container.created)),
        started_at: nanos(container.started),
        finished_at: nanos(container.finished),
        exit_code: container.exit_code,
        image_ref: image.image.clone(),
        image: Some(cri::ImageSpec { image: image.user_specified_image.clone(), ..image }),
        reason: container.reason.clone(),
        message,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        mounts: config.mounts.clone(),
        log_path: format!("{log_directory}/{}", config.log_path),
        user: Some(cri::ContainerUser { linux: Some(cri::LinuxContainerUser { uid: 0, gid: 0, supplemental_groups: vec![0] }) }),
        ..cri::ContainerStatus::default()
    }
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
