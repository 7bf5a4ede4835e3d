//! A pretend container runtime: sandboxes, containers and images that behave as scripted, in pretend time.
//! Upstream: k8s.io/cri-api (the contract); containerd's answers where the contract leaves room.
//! Differs: effects are immediate; latency, hangs and lost replies are laid over it by whoever drives it.

pub mod behaviour;
mod calls;
mod images;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use kubelet::action::CriCall;
use kubelet::event::{CriReply, ProbeOutcome};
use kubelet::failure::{Failure, FailureKind};
use kubelet::ids::PodUid;
use kubelet::observation::{ContainerState, Image, RuntimeCondition, RuntimeHandler, RuntimeStatus, RuntimeVersion, SandboxState};
use kubelet::sensitive::Sensitive;
use proto::cri::{ContainerConfig, PodSandboxConfig};

use self::behaviour::Behaviour;

/// A pretend sandbox.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// Its ID.
    pub id: String,
    /// What it was made with.
    pub config: PodSandboxConfig,
    /// Its RuntimeClass handler.
    pub handler: String,
    /// Its state.
    pub state: SandboxState,
    /// When it was made.
    pub created: Timestamp,
    /// Its IP; empty on the host's network.
    pub ip: String,
}

/// A pretend container.
#[derive(Clone, Debug)]
pub struct Container {
    /// Its ID.
    pub id: String,
    /// The sandbox that it is in.
    pub sandbox: String,
    /// The pod that it is of.
    pub pod: PodUid,
    /// What it was made with.
    pub config: ContainerConfig,
    /// How it behaves.
    pub behaviour: Behaviour,
    /// Its state.
    pub state: ContainerState,
    /// When it was made.
    pub created: Timestamp,
    /// When it was started.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub finished: Option<Timestamp>,
    /// Its exit code.
    pub exit_code: i32,
    /// The runtime's reason.
    pub reason: String,
    /// When it will end, and how: by itself, or after SIGTERM.
    pub ends: Option<(Timestamp, i32)>,
    /// How many commands were run in it.
    pub execs: u32,
}

impl Container {
    /// Its name in the pod spec.
    #[must_use]
    pub fn name(&self) -> &str {
        self.config.metadata.as_ref().map(|m| m.name.as_str()).unwrap_or_default()
    }

    /// Whether an exec in it would fail now.
    #[must_use]
    pub fn exec_fails_at(&self, now: Timestamp) -> bool {
        let age = self.started.and_then(|s| Duration::try_from(now.duration_since(s)).ok()).unwrap_or_default();
        self.behaviour.exec_fails_at(age)
    }

    /// Which attempt it is.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.config.metadata.as_ref().map(|m| m.attempt).unwrap_or_default()
    }
}

/// One thing that happened in the pretend runtime, for invariants and timelines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeFact {
    /// A sandbox came up.
    SandboxUp {
        /// The pod.
        pod: PodUid,
        /// The sandbox.
        id: String,
    },
    /// A sandbox was stopped.
    SandboxDown {
        /// The pod.
        pod: PodUid,
        /// The sandbox.
        id: String,
    },
    /// A container was made.
    Created {
        /// The pod.
        pod: PodUid,
        /// Its ID.
        id: String,
    },
    /// A container started.
    Started {
        /// The pod.
        pod: PodUid,
        /// Its name in the spec.
        container: String,
        /// Its ID.
        id: String,
        /// Which attempt.
        attempt: u32,
    },
    /// A container ended.
    Exited {
        /// The pod.
        pod: PodUid,
        /// Its name in the spec.
        container: String,
        /// Its ID.
        id: String,
        /// How.
        code: i32,
        /// Whether it was killed before it had its grace.
        killed: bool,
    },
}

/// Why an image cannot be pulled.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The runtime's failure.
    pub failure: Failure,
    /// Whether it can be pulled with credentials.
    pub without_credentials: bool,
}

/// What whoever knocks at a port of a pod meets.
#[derive(Clone, Debug, Default)]
pub struct Door {
    /// Why knocking fails, if it does; `{ip}` is the pod's address.
    pub fails: Option<String>,
    /// What is to be said although it does not.
    pub warns: Option<String>,
    /// Where one knocks at one's peril: a part of the path, the container that ends by it, and its exit code.
    pub ends: Option<(String, String, i32)>,
}

/// The pretend runtime.
#[derive(Clone, Debug)]
pub struct RuntimeModel {
    /// All sandboxes by ID.
    pub sandboxes: BTreeMap<String, Sandbox>,
    /// All containers by ID.
    pub containers: BTreeMap<String, Container>,
    /// All images by reference.
    pub images: BTreeMap<String, Image>,
    /// Images that a registry would give, beside those that are there; a pull of any other fails. Empty: any pull works.
    pub registry: BTreeMap<String, String>,
    /// Images that the registry gives to one user only: the user and the password.
    pub private: BTreeMap<String, (String, String)>,
    /// Those of them that the node has the login for: every pod may use them.
    pub opened_by_node: BTreeSet<String>,
    /// Whether pulls of images that `registry` does not name fail.
    pub registry_closed: bool,
    /// Whether the runtime says that its network is ready.
    pub network_ready: bool,
    /// Whether it tells of changes (containerd 1.7 and later).
    pub has_events: bool,
    /// What happened since it was last taken.
    pub facts: Vec<(Timestamp, RuntimeFact)>,
    /// How many facts were taken.
    pub facts_seen: u64,
    /// Its handlers, with what they can.
    pub handlers: Vec<RuntimeHandler>,
    /// Whether it knows of `supplementalGroupsPolicy`.
    pub supplemental_groups_policy: bool,
    /// Pulls that are refused, by image.
    pub refused: BTreeMap<String, Refusal>,
    /// What is behind the ports of pods, by the name of the pod and the port; what containers are scripted to do counts for others.
    pub doors: BTreeMap<(String, u16), Door>,
    /// How containers behave whatever their annotations and commands say, by the names of the pod and the container.
    pub scripts: BTreeMap<(String, String), Behaviour>,
    changed: BTreeSet<PodUid>,
    /// How often each container was started, by pod and name: what its script goes by.
    starts: BTreeMap<(PodUid, String), u32>,
    /// Names that were refused to a pod, the last for its sandbox (an empty name) and for each container.
    reserved: BTreeMap<(PodUid, String), String>,
    next_id: u64,
    next_ip: u32,
}

impl Default for RuntimeModel {
    fn default() -> Self {
        Self {
            sandboxes: BTreeMap::new(),
            containers: BTreeMap::new(),
            images: BTreeMap::new(),
            registry: BTreeMap::new(),
            private: BTreeMap::new(),
            opened_by_node: BTreeSet::new(),
            registry_closed: false,
            network_ready: true,
            has_events: true,
            facts: Vec::new(),
            facts_seen: 0,
            handlers: Vec::new(),
            supplemental_groups_policy: false,
            refused: BTreeMap::new(),
            doors: BTreeMap::new(),
            scripts: BTreeMap::new(),
            changed: BTreeSet::new(),
            starts: BTreeMap::new(),
            reserved: BTreeMap::new(),
            next_id: 1,
            next_ip: 2,
        }
    }
}

impl RuntimeModel {
    /// Makes one call; its effect is there when it returns. StopContainer ends a container at once or marks when it will end:
    /// ask [`RuntimeModel::latency`] first for how long the call itself takes.
    ///
    /// # Errors
    /// As containerd fails: NotFound, a reserved name, a missing image, a scripted error.
    pub fn call(&mut self, now: Timestamp, call: &CriCall) -> Result<CriReply, Failure> {
        self.advance(now);
        match call {
            CriCall::Version => Ok(CriReply::Version(self.version())),
            CriCall::Status => Ok(CriReply::Status(self.status())),
            CriCall::RuntimeConfig if !self.has_events => Err(unimplemented("RuntimeConfig")),
            CriCall::RuntimeConfig => Ok(CriReply::RuntimeConfig { systemd_cgroup: Some(false) }),
            CriCall::UpdateRuntimeConfig { .. } | CriCall::ReopenContainerLog { .. } => Ok(CriReply::Done),
            CriCall::List => self.listing().map(|listing| CriReply::Listing { began: kubelet::time::Mono::ZERO, listing }),
            CriCall::Observe { pod } => Ok(CriReply::Observation(std::sync::Arc::new(self.observe(pod)))),
            CriCall::RunPodSandbox { config, runtime_handler } => self.run_sandbox(now, config, runtime_handler),
            CriCall::StopPodSandbox { id } => Ok(self.stop_sandbox(now, id.as_str())),
            CriCall::RemovePodSandbox { id } => self.remove_sandbox(now, id.as_str()),
            CriCall::CreateContainer { sandbox, config, .. } => self.create_container(now, sandbox.as_str(), config),
            CriCall::StartContainer { id } => self.start_container(now, id.as_str()),
            CriCall::StopContainer { id, grace } => Ok(self.stop_container(now, id.as_str(), *grace)),
            CriCall::RemoveContainer { id } => self.remove_container(id.as_str()),
            CriCall::ExecSync { id, command, .. } => self.exec(now, id.as_str(), command),
            CriCall::ImageStatus { image } => Ok(CriReply::Image(self.find_image(image).cloned())),
            CriCall::PullImage { image, auth, .. } => self.pull(image, auth.as_ref().map(Sensitive::reveal)),
            CriCall::ListImages => Ok(CriReply::Images(self.images.values().cloned().collect())),
            CriCall::RemoveImage { image } => Ok(self.remove_image(image)),
            CriCall::ImageFsInfo => Ok(CriReply::ImageFs(vec![self.image_fs()])),
        }
    }

    /// How long a call takes when nothing is wrong, as measured with containerd and rounded. A stop takes as long as the
    /// container needs.
    #[must_use]
    pub fn latency(&self, now: Timestamp, call: &CriCall) -> Duration {
        match call {
            CriCall::RunPodSandbox { .. } => Duration::from_millis(120),
            CriCall::StopPodSandbox { .. } => Duration::from_millis(60),
            CriCall::CreateContainer { .. } => Duration::from_millis(15),
            CriCall::StartContainer { .. } => Duration::from_millis(40),
            CriCall::PullImage { .. } => Duration::from_millis(800),
            CriCall::RemoveContainer { .. } | CriCall::RemovePodSandbox { .. } => Duration::from_millis(10),
            CriCall::StopContainer { id, grace } => self.stop_takes(now, id.as_str(), *grace) + Duration::from_millis(10),
            CriCall::ExecSync { id, command, .. } => {
                let behaviour = self.containers.get(id.as_str()).map(|c| &c.behaviour);
                let takes = behaviour.map(|b| b.exec(command).map_or(b.exec_takes, |exec| exec.takes));
                Duration::from_millis(20) + takes.unwrap_or_default()
            }
            _ => Duration::from_millis(2),
        }
    }

    /// Ends the containers whose time has come.
    pub fn advance(&mut self, now: Timestamp) {
        loop {
            let next = self
                .containers
                .values()
                .filter_map(|c| c.ends.map(|(at, code)| (at, c.id.clone(), code)))
                .filter(|(at, ..)| *at <= now)
                .min();
            let Some((at, id, code)) = next else { return };
            self.end(at, &id, code, false);
        }
    }

    /// When the next container ends by itself.
    #[must_use]
    pub fn next_change(&self) -> Option<Timestamp> {
        self.containers.values().filter_map(|c| c.ends.map(|(at, _)| at)).min()
    }

    /// The pods of which something changed since this was last asked.
    pub fn take_changed(&mut self) -> BTreeSet<PodUid> {
        std::mem::take(&mut self.changed)
    }

    /// The runtime restarts; with `containers_die` the node was rebooted under it.
    pub fn restart(&mut self, now: Timestamp, containers_die: bool) {
        self.advance(now);
        if containers_die {
            let ids: Vec<String> = self.running().map(|c| c.id.clone()).collect();
            for id in ids {
                self.end(now, &id, 255, true);
                if let Some(container) = self.containers.get_mut(&id) {
                    "Unknown".clone_into(&mut container.reason);
                }
            }
            for sandbox in self.sandboxes.values_mut() {
                sandbox.state = SandboxState::NotReady;
            }
        }
    }

    /// Kills a container from outside, as the OOM killer or an operator does.
    pub fn kill(&mut self, now: Timestamp, pod: &PodUid, container: &str, code: i32, reason: &str) {
        let ids: Vec<String> = self.running().filter(|c| c.pod == *pod && c.name() == container).map(|c| c.id.clone()).collect();
        for id in ids {
            self.end(now, &id, code, true);
            if let Some(container) = self.containers.get_mut(&id) {
                reason.clone_into(&mut container.reason);
            }
        }
    }

    /// A container is gone, and nothing is left to tell how it ended: somebody removed it, or the runtime lost its data.
    pub fn lose(&mut self, now: Timestamp, pod: &PodUid, container: &str) {
        self.kill(now, pod, container, 137, "Error");
        self.containers.retain(|_, c| c.pod != *pod || c.name() != container);
        self.changed.insert(pod.clone());
    }

    /// What is met at a port of the pod with that address, if that is known.
    pub fn knock(&mut self, now: Timestamp, ip: &str, port: u16, path: &str) -> Option<ProbeOutcome> {
        let sandbox = self.sandboxes.values().find(|s| s.ip == ip && s.state == SandboxState::Ready)?;
        let meta = sandbox.config.metadata.as_ref()?;
        let (name, uid) = (meta.name.clone(), PodUid::new(&meta.uid));
        let door = self.doors.get(&(name, port))?.clone();
        if let Some((_, container, code)) = door.ends.as_ref().filter(|(part, ..)| path.contains(part)) {
            self.kill(now, &uid, container, *code, "Error");
            return Some(ProbeOutcome::Failure("EOF".to_owned()));
        }
        Some(match (door.fails, door.warns) {
            (Some(why), _) => ProbeOutcome::Failure(why.replace("{ip}", ip)),
            (None, Some(words)) => ProbeOutcome::Warning(words),
            (None, None) => ProbeOutcome::Success,
        })
    }

    /// The sandboxes of a pod die, and with them all that runs in them.
    pub fn kill_sandboxes(&mut self, now: Timestamp, pod: &PodUid) {
        let of_pod = |s: &&Sandbox| s.config.metadata.as_ref().is_some_and(|m| m.uid == pod.as_str());
        let ids: Vec<String> = self.sandboxes.values().filter(of_pod).map(|s| s.id.clone()).collect();
        for id in ids {
            self.stop_sandbox(now, &id);
        }
    }

    /// The sandboxes of a pod die, and what runs in them goes on.
    pub fn kill_sandboxes_alone(&mut self, pod: &PodUid) {
        let of_pod = |s: &&mut Sandbox| s.config.metadata.as_ref().is_some_and(|m| m.uid == pod.as_str());
        self.sandboxes.values_mut().filter(of_pod).for_each(|sandbox| sandbox.state = SandboxState::NotReady);
        self.changed.insert(pod.clone());
    }

    /// Names that were refused to that pod for something that it still lacks: a sandbox that is up, a container that was started.
    pub fn reserved_names(&self, pod: &str) -> impl Iterator<Item = &String> {
        let of_pod = move |s: &&Sandbox| s.config.metadata.as_ref().is_some_and(|m| m.uid == pod);
        let is_up = self.sandboxes.values().filter(of_pod).any(|s| s.state == SandboxState::Ready);
        let was_started = move |name: &str| self.starts.contains_key(&(PodUid::new(pod), name.to_owned()));
        let lacks = move |name: &str| if name.is_empty() { !is_up } else { !was_started(name) };
        self.reserved.iter().filter(move |((uid, what), _)| uid.as_str() == pod && lacks(what)).map(|(_, name)| name)
    }

    /// The containers that run.
    pub fn running(&self) -> impl Iterator<Item = &Container> {
        self.containers.values().filter(|c| c.state == ContainerState::Running)
    }

    fn end(&mut self, at: Timestamp, id: &str, code: i32, killed: bool) {
        let Some(container) = self.containers.get_mut(id) else { return };
        container.state = ContainerState::Exited;
        container.finished = Some(at);
        container.exit_code = code;
        container.ends = None;
        let reason = match (code, container.behaviour.reason.as_str()) {
            (0, _) => "Completed",
            (_, "") => "Error",
            (_, own) => own,
        };
        container.reason = reason.to_owned();
        let fact = RuntimeFact::Exited {
            pod: container.pod.clone(),
            container: container.name().to_owned(),
            id: id.to_owned(),
            code,
            killed,
        };
        self.changed.insert(container.pod.clone());
        self.facts.push((at, fact));
    }

    fn version(&self) -> RuntimeVersion {
        let version = if self.has_events { "2.1.9" } else { "1.6.20" };
        RuntimeVersion { name: "containerd".to_owned(), version: version.to_owned(), api_version: "v1".to_owned() }
    }

    fn status(&self) -> RuntimeStatus {
        let network = if self.network_ready {
            RuntimeCondition { status: true, ..RuntimeCondition::default() }
        } else {
            RuntimeCondition {
                status: false,
                reason: "NetworkPluginNotReady".to_owned(),
                message: "Network plugin returns error: cni plugin not initialized".to_owned(),
            }
        };
        RuntimeStatus {
            runtime_ready: Some(RuntimeCondition { status: true, ..RuntimeCondition::default() }),
            network_ready: Some(network),
            handlers: self.handlers.clone(),
            supplemental_groups_policy: self.supplemental_groups_policy,
        }
    }

    fn fresh_id(&mut self) -> String {
        let id = self.next_id;
        self.next_id += 1;
        format!("{id:064x}")
    }
}

fn unimplemented(method: &str) -> Failure {
    Failure::new(FailureKind::Unimplemented, format!("unknown method {method} for service runtime.v1.RuntimeService"))
}
