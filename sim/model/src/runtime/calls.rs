//! What each runtime call does to the pretend sandboxes and containers.
//! Upstream: k8s.io/cri-api RuntimeService; containerd internal/cri/server.
//! Differs: nothing on purpose.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use kubelet::event::CriReply;
use kubelet::failure::{Failure, FailureKind};
use kubelet::ids::{ContainerId, PodUid, SandboxId};
use kubelet::observation::{
    ActualResources, ContainerState, ContainerStatus, LinuxUser, ListedContainer, ListedSandbox, Listing, PodObservation,
    SandboxState, SandboxStatus,
};
use kubelet::time::Mono;
use proto::cri::{ContainerConfig, NamespaceMode, PodSandboxConfig};

use super::behaviour::{ANNOTATION_PREFIX, Behaviour};
use super::{Container, RuntimeFact, RuntimeModel, Sandbox};

/// How long a container that is not scripted takes to heed SIGTERM.
const DEFAULT_STOP: Duration = Duration::from_millis(20);

/// The longest message that containerd sends.
const MOST_SENT: usize = 16 << 20;

fn nanos(at: Timestamp) -> i64 {
    i64::try_from(at.as_nanosecond()).unwrap_or_default()
}

fn pod_of(config: &PodSandboxConfig) -> PodUid {
    PodUid::new(config.metadata.as_ref().map(|m| m.uid.as_str()).unwrap_or_default())
}

fn host_network(config: &PodSandboxConfig) -> bool {
    let options = config.linux.as_ref().and_then(|l| l.security_context.as_ref()).and_then(|s| s.namespace_options.as_ref());
    options.is_some_and(|o| o.network == NamespaceMode::Node as i32)
}

fn not_found(what: &str, id: &str) -> Failure {
    Failure::new(FailureKind::NotFound, format!("an error occurred when try to find {what} \"{id}\": not found"))
}

impl RuntimeModel {
    pub(super) fn run_sandbox(&mut self, now: Timestamp, config: &PodSandboxConfig, handler: &str) -> Result<CriReply, Failure> {
        let meta = config.metadata.clone().unwrap_or_default();
        let same = self.sandboxes.values().find(|s| s.config.metadata.as_ref() == Some(&meta));
        if let Some(other) = same {
            // RTD-010: containerd refuses the name for as long as the first one stands.
            let name = format!("{}_{}_{}_{}", meta.name, meta.namespace, meta.uid, meta.attempt);
            self.reserved.insert((pod_of(config), String::new()), name.clone());
            return Err(Failure::new(
                FailureKind::Other,
                format!("failed to reserve sandbox name \"{name}\": name \"{name}\" is reserved for \"{}\"", other.id),
            ));
        }
        let host = host_network(config);
        if !self.network_ready && !host {
            return Err(Failure::new(
                FailureKind::Other,
                "failed to setup network for sandbox: plugin type=\"bridge\" failed (add): cni plugin not initialized",
            ));
        }
        let id = self.fresh_id();
        let ip = if host {
            String::new()
        } else {
            self.next_ip += 1;
            let n = self.next_ip;
            format!("10.88.{}.{}", (n >> 8) & 0xff, n & 0xff)
        };
        let pod = pod_of(config);
        self.facts.push((now, RuntimeFact::SandboxUp { pod: pod.clone(), id: id.clone() }));
        self.changed.insert(pod);
        let sandbox = Sandbox {
            id: id.clone(),
            config: config.clone(),
            handler: handler.to_owned(),
            state: SandboxState::Ready,
            created: now,
            ip,
        };
        self.sandboxes.insert(id.clone(), sandbox);
        Ok(CriReply::Sandbox(SandboxId::new(id)))
    }

    pub(super) fn stop_sandbox(&mut self, now: Timestamp, id: &str) -> CriReply {
        let Some(sandbox) = self.sandboxes.get_mut(id) else { return CriReply::Done };
        if sandbox.state == SandboxState::Ready {
            sandbox.state = SandboxState::NotReady;
            let pod = pod_of(&sandbox.config);
            self.facts.push((now, RuntimeFact::SandboxDown { pod: pod.clone(), id: id.to_owned() }));
            self.changed.insert(pod);
        }
        let inside: Vec<String> = self.running().filter(|c| c.sandbox == id).map(|c| c.id.clone()).collect();
        for container in inside {
            self.end(now, &container, 137, true);
        }
        CriReply::Done
    }

    pub(super) fn remove_sandbox(&mut self, now: Timestamp, id: &str) -> Result<CriReply, Failure> {
        if self.sandboxes.contains_key(id) {
            self.stop_sandbox(now, id);
            self.containers.retain(|_, c| c.sandbox != id);
            if let Some(sandbox) = self.sandboxes.remove(id) {
                self.changed.insert(pod_of(&sandbox.config));
            }
        }
        Ok(CriReply::Done)
    }

    pub(super) fn create_container(
        &mut self,
        now: Timestamp,
        sandbox: &str,
        config: &ContainerConfig,
    ) -> Result<CriReply, Failure> {
        let Some(home) = self.sandboxes.get(sandbox) else { return Err(not_found("sandbox", sandbox)) };
        if home.state != SandboxState::Ready {
            return Err(Failure::new(FailureKind::Other, format!("sandbox container \"{sandbox}\" is not running")));
        }
        let pod = pod_of(&home.config);
        let meta = config.metadata.clone().unwrap_or_default();
        let taken = self.containers.values().any(|c| c.sandbox == sandbox && c.config.metadata.as_ref() == Some(&meta));
        if taken {
            let name = format!("{}_{}", meta.name, meta.attempt);
            self.reserved.insert((pod, meta.name), name.clone());
            return Err(Failure::new(FailureKind::Other, format!("failed to reserve container name \"{name}\": name is reserved")));
        }
        let image = config.image.as_ref().map(|i| i.image.clone()).unwrap_or_default();
        if self.find_image(&image).is_none() {
            return Err(not_found("image", &image));
        }
        let script = home.config.annotations.get(&format!("{ANNOTATION_PREFIX}{}", meta.name));
        let command: Vec<String> = config.command.iter().chain(&config.args).cloned().collect();
        let home_name = home.config.metadata.as_ref().map(|m| m.name.clone()).unwrap_or_default();
        let behaviour = match (self.scripts.get(&(home_name, meta.name.clone())), script) {
            (Some(behaviour), _) => behaviour.clone(),
            (None, Some(script)) => Behaviour::parse(script).map_err(|e| Failure::new(FailureKind::Invalid, e.to_string()))?,
            (None, None) => Behaviour::of_command(&command),
        };
        if let Some(why) = &behaviour.create_error {
            return Err(Failure::new(FailureKind::Other, why.clone()));
        }
        let id = self.fresh_id();
        self.changed.insert(pod.clone());
        self.facts.push((now, RuntimeFact::Created { pod: pod.clone(), id: id.clone() }));
        let container = Container {
            id: id.clone(),
            sandbox: sandbox.to_owned(),
            pod,
            config: config.clone(),
            behaviour,
            state: ContainerState::Created,
            created: now,
            started: None,
            finished: None,
            exit_code: 0,
            reason: String::new(),
            ends: None,
            execs: 0,
        };
        self.containers.insert(id.clone(), container);
        Ok(CriReply::Container(ContainerId::new(id)))
    }

    pub(super) fn start_container(&mut self, now: Timestamp, id: &str) -> Result<CriReply, Failure> {
        let Some(container) = self.containers.get_mut(id) else { return Err(not_found("container", id)) };
        if container.state != ContainerState::Created {
            return Err(Failure::new(FailureKind::Other, format!("container is in {:?} state", container.state)));
        }
        let up = self.sandboxes.get(&container.sandbox).is_some_and(|s| s.state == SandboxState::Ready);
        if !up {
            return Err(Failure::new(FailureKind::Other, format!("sandbox container \"{}\" is not running", container.sandbox)));
        }
        if let Some(why) = container.behaviour.start_error.clone() {
            container.state = ContainerState::Exited;
            container.exit_code = 128;
            "StartError".clone_into(&mut container.reason);
            // As containerd has it: it never started.
            container.finished = Some(now);
            self.changed.insert(container.pod.clone());
            return Err(Failure::new(FailureKind::Other, why));
        }
        container.state = ContainerState::Running;
        container.started = Some(now);
        let starts = self.starts.entry((container.pod.clone(), container.name().to_owned())).or_default();
        let exit = container.behaviour.exit_of(*starts);
        *starts += 1;
        container.ends = exit.and_then(|(after, code)| Some((now.checked_add(after).ok()?, code)));
        let fact = RuntimeFact::Started {
            pod: container.pod.clone(),
            container: container.name().to_owned(),
            id: id.to_owned(),
            attempt: container.attempt(),
        };
        self.changed.insert(container.pod.clone());
        self.facts.push((now, fact));
        self.advance(now);
        Ok(CriReply::Done)
    }

    /// How long a container needs from SIGTERM to its end, given its grace.
    pub(super) fn stop_takes(&self, now: Timestamp, id: &str, grace: Duration) -> Duration {
        let Some(container) = self.containers.get(id).filter(|c| c.state == ContainerState::Running) else { return Duration::ZERO };
        let own =
            if container.behaviour.ignores_term { grace } else { container.behaviour.stops_after.max(DEFAULT_STOP).min(grace) };
        // It may end by itself before that.
        match container.ends {
            Some((at, _)) => own.min(Duration::try_from(at.duration_since(now)).unwrap_or_default()),
            None => own,
        }
    }

    pub(super) fn stop_container(&mut self, now: Timestamp, id: &str, grace: Duration) -> CriReply {
        let takes = self.stop_takes(now, id, grace);
        let Some(container) = self.containers.get_mut(id) else { return CriReply::Done };
        if container.state == ContainerState::Created {
            container.state = ContainerState::Exited;
            container.exit_code = 137;
            container.finished = Some(now);
            self.changed.insert(container.pod.clone());
            return CriReply::Done;
        }
        if container.state == ContainerState::Running {
            let needs = container.behaviour.stops_after.max(DEFAULT_STOP);
            let killed = container.behaviour.ignores_term || needs > grace;
            let code = if killed { 137 } else { container.behaviour.term_code };
            let at = now.checked_add(takes).unwrap_or(now);
            if container.ends.is_none_or(|(ends, _)| at < ends) {
                container.ends = Some((at, code));
            }
        }
        CriReply::Done
    }

    pub(super) fn remove_container(&mut self, id: &str) -> Result<CriReply, Failure> {
        if let Some(container) = self.containers.get(id) {
            if container.state == ContainerState::Running {
                return Err(Failure::new(FailureKind::Other, format!("container \"{id}\" is still running")));
            }
            self.changed.insert(container.pod.clone());
            self.containers.remove(id);
        }
        Ok(CriReply::Done)
    }

    pub(super) fn exec(&mut self, now: Timestamp, id: &str, command: &[String]) -> Result<CriReply, Failure> {
        let Some(container) = self.containers.get_mut(id) else { return Err(not_found("container", id)) };
        if container.state != ContainerState::Running {
            return Err(Failure::new(FailureKind::Other, format!("container is in {:?} state", container.state)));
        }
        container.execs += 1;
        let age = container.started.and_then(|s| Duration::try_from(now.duration_since(s)).ok()).unwrap_or_default();
        if let Some(exec) = container.behaviour.exec(command) {
            if let Some(why) = &exec.error {
                return Err(Failure::new(FailureKind::Other, why.clone()).with_code("Unknown"));
            }
            let passes = exec.passes_from.is_some_and(|from| age >= from);
            let exit_code = if passes { 0 } else { exec.code };
            let (output, ends) = (exec.output.clone(), exec.ends);
            container.ends = ends.map_or(container.ends, |code| Some((now, code)));
            return Ok(CriReply::Exec { exit_code, stderr: output.len(), output });
        }
        let exit_code = i32::from(container.behaviour.exec_fails_at(age));
        Ok(CriReply::Exec { exit_code, output: String::new(), stderr: 0 })
    }

    /// Both listings; each comes as one message, and containerd sends none that is larger (defaults.DefaultMaxSendMsgSize).
    pub(super) fn listing(&self) -> Result<Listing, Failure> {
        // Each entry has a frame, and a tag with a length before its key and its value.
        let texts = |labels: &BTreeMap<String, String>, annotations: &BTreeMap<String, String>| {
            labels.iter().chain(annotations).map(|(key, value)| 6 + key.len() + value.len()).sum::<usize>()
        };
        let sandboxes: usize = self.sandboxes.values().map(|s| texts(&s.config.labels, &s.config.annotations)).sum();
        let containers: usize = self.containers.values().map(|c| texts(&c.config.labels, &c.config.annotations)).sum();
        let size = sandboxes.max(containers);
        if size > MOST_SENT {
            let why = format!("grpc: trying to send message larger than max ({size} vs. {MOST_SENT})");
            return Err(Failure::new(FailureKind::Other, why).with_code("ResourceExhausted"));
        }
        Ok(self.whole_listing())
    }

    fn whole_listing(&self) -> Listing {
        let sandboxes = self.sandboxes.values().map(|s| {
            let meta = s.config.metadata.clone().unwrap_or_default();
            ListedSandbox {
                id: SandboxId::new(&s.id),
                pod: PodUid::new(meta.uid),
                namespace: meta.namespace,
                name: meta.name,
                attempt: meta.attempt,
                state: s.state,
                created_at: nanos(s.created),
            }
        });
        let containers = self.containers.values().map(|c| ListedContainer {
            id: ContainerId::new(&c.id),
            pod: c.pod.clone(),
            sandbox: SandboxId::new(&c.sandbox),
            name: c.name().to_owned(),
            attempt: c.attempt(),
            state: c.state,
            created_at: nanos(c.created),
        });
        Listing { sandboxes: sandboxes.collect(), containers: containers.collect() }
    }

    pub(super) fn observe(&self, pod: &PodUid) -> PodObservation {
        let mut observation = PodObservation::empty(pod.clone(), Mono::ZERO);
        for sandbox in self.sandboxes.values().filter(|s| pod_of(&s.config) == *pod) {
            let meta = sandbox.config.metadata.clone().unwrap_or_default();
            observation.namespace = meta.namespace;
            observation.name = meta.name;
            observation.sandboxes.push(SandboxStatus {
                id: SandboxId::new(&sandbox.id),
                attempt: meta.attempt,
                state: sandbox.state,
                created_at: nanos(sandbox.created),
                ips: if sandbox.ip.is_empty() || sandbox.state == SandboxState::NotReady {
                    vec![]
                } else {
                    vec![sandbox.ip.clone()]
                },
                annotation_bytes: kubelet::pod::labels::texts(&sandbox.config.annotations),
                lacks_ip: sandbox.ip.is_empty() || sandbox.state == SandboxState::NotReady,
                host_network: host_network(&sandbox.config),
                runtime_handler: sandbox.handler.clone(),
                labels: sandbox.config.labels.clone(),
            });
        }
        observation.sandboxes.sort_by_key(|s| std::cmp::Reverse((s.attempt, s.created_at)));
        let of_pod = self.containers.values().filter(|c| c.pod == *pod);
        observation.containers = of_pod.map(|container| self.status_of(container)).collect();
        observation.containers.sort_by_key(|c| std::cmp::Reverse((c.attempt, c.created_at)));
        observation
    }

    /// The digest that an image was pulled by; its ID if it was not.
    fn reference_of(&self, image: &str) -> String {
        let digest = self.find_image(image).and_then(|image| image.repo_digests.first());
        digest.cloned().unwrap_or_else(|| image.to_owned())
    }

    /// What is told of a container.
    #[must_use]
    pub fn status_of(&self, container: &Container) -> ContainerStatus {
        let image = container.config.image.clone().unwrap_or_default().image;
        status_of(container, self.reference_of(&image))
    }
}

fn status_of(container: &Container, image_ref: String) -> ContainerStatus {
    let config = &container.config;
    let image = config.image.clone().unwrap_or_default();
    ContainerStatus {
        id: ContainerId::new(&container.id),
        sandbox: SandboxId::new(&container.sandbox),
        name: container.name().to_owned(),
        attempt: container.attempt(),
        state: container.state,
        created_at: nanos(container.created),
        started_at: container.started.map(nanos).unwrap_or_default(),
        finished_at: container.finished.map(nanos).unwrap_or_default(),
        exit_code: container.exit_code,
        reason: container.reason.clone(),
        message: match (container.state, &container.behaviour.start_error) {
            (ContainerState::Exited, Some(why)) => why.clone(),
            (ContainerState::Exited, None) => container.behaviour.says.clone(),
            _ => String::new(),
        },
        image: image.user_specified_image,
        image_id: image.image,
        image_ref,
        log_path: config.log_path.clone(),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        user: Some(user_of(config)),
        resources: resources_of(config),
        termination_log: String::new(),
        stop_signal: String::new(),
    }
}

/// As containerd tells them: what the container was made with.
fn resources_of(config: &ContainerConfig) -> Option<ActualResources> {
    let resources = config.linux.as_ref()?.resources.as_ref()?;
    Some(ActualResources {
        cpu_shares: resources.cpu_shares,
        cpu_quota: resources.cpu_quota,
        cpu_period: resources.cpu_period,
        memory_limit: resources.memory_limit_in_bytes,
    })
}

/// Whom a container runs as, when its image says nothing.
fn user_of(config: &ContainerConfig) -> LinuxUser {
    let security = config.linux.as_ref().and_then(|linux| linux.security_context.clone()).unwrap_or_default();
    let gid = security.run_as_group.map_or(0, |group| group.value);
    let supplemental_groups = std::iter::once(gid).chain(security.supplemental_groups).collect();
    LinuxUser { uid: security.run_as_user.map_or(0, |user| user.value), gid, supplemental_groups }
}
