//! Decides what the node needs before it can run pods: directories, machine info, cgroup tiers.
//! Upstream: cmd/kubelet/app/server.go, pkg/kubelet/cm/{container_manager_linux,qos_container_manager_linux}.go.
//! Differs: each step is tried again until it works, instead of the process exiting; tiers are made once the runtime has told its
//! cgroup driver, ready or not.

use std::time::Duration;

use crate::action::{Call, CgroupSettings, HostCall, Lane};
use crate::config::{CgroupDriver, Config};
use crate::event::HostReply;
use crate::failure::Failure;
use crate::ids::ActionId;
use crate::node::status::Resources;
use crate::observation::MachineInfo;
use crate::out::{Out, Owner};
use crate::recorder::{Recorded, Subject};
use crate::resources::cgroup::{cgroup_name, kubepods_cgroups};
use crate::resources::requests::printed;
use crate::time::{Mono, Now};

const RETRY: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(60);
/// Upstream's words (pkg/kubelet/cm/container_manager.go).
const CGROUP_V1_DEPRECATED: &str = "cgroup v1 detected. cgroup v1 support is deprecated and will be removed in a future release. \
                                    Please migrate to cgroup v2. More information at \
                                    https://git.k8s.io/enhancements/keps/sig-node/5573-remove-cgroup-v1";
/// The same (pkg/kubelet/cm/container_manager_linux.go).
const SWAPPED_VOLUMES: &str = "The tmpfs noswap option is not supported. Memory-backed volumes (e.g. secrets, emptyDirs, etc.) \
                               might be swapped to disk and should no longer be considered secure.";
/// How long limits of all pods together that could not be set are left alone (NODE-142).
const ENFORCE_AGAIN: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
enum Step {
    #[default]
    Waiting,
    Asked(ActionId),
    Done,
}

/// What is done once in the agent's life.
#[derive(Debug, Default)]
pub struct Startup {
    prepare: Step,
    machine_asked: Step,
    /// The cgroup that the group of all pods is to lie in, with what is said if it is not there (NODE-132); none if that is the root.
    root: Option<(String, String, Step)>,
    /// The cgroup of all pods, and from when on it is due (NODE-142).
    kubepods: Option<(String, CgroupSettings, Step)>,
    /// The same as upstream prints it.
    kubepods_printed: String,
    enforce_at: Mono,
    /// Whether `kubepods` was tried: what lies in it can be made.
    enforced: bool,
    tiers: Vec<(String, CgroupSettings, Step)>,
    tiers_planned: bool,
    machine: Option<MachineInfo>,
    next: Mono,
    last_error: Option<String>,
}

impl Startup {
    /// The machine, once it was read.
    #[must_use]
    pub fn machine(&self) -> Option<&MachineInfo> {
        self.machine.as_ref()
    }

    /// Whether pods can be run.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.prepare, Step::Done)
            && self.machine.is_some()
            && self.tiers_planned
            && (self.kubepods.is_none() || self.enforced)
            && self.tiers.iter().all(|(.., step)| matches!(step, Step::Done))
    }

    /// What the last failed step said, while it is not done.
    #[must_use]
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref().filter(|_| !self.is_done())
    }

    /// When a failed step is tried again.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        let asks_for_root = self.root.as_ref().is_some_and(|(.., step)| matches!(step, Step::Waiting));
        let waits = asks_for_root
            || (matches!(self.prepare, Step::Waiting) && self.machine.is_some())
            || matches!(self.machine_asked, Step::Waiting)
            || self.tier_due().is_some_and(|(.., step)| matches!(step, Step::Waiting));
        let rooted = self.root_is_there();
        let enforce = self.kubepods.as_ref().filter(|(.., step)| rooted && matches!(step, Step::Waiting)).map(|_| self.enforce_at);
        waits.then_some(self.next).into_iter().chain(enforce).min()
    }

    /// The runtime has told its cgroup driver: the tiers can be made (NODE-134, NODE-141).
    pub fn plan_tiers(&mut self, config: &Config, driver: CgroupDriver, out: &mut Out<'_>) {
        let Some(machine) = self.machine.as_ref().filter(|_| !self.tiers_planned) else { return };
        if let Some(message) = overreserved(config, machine) {
            // NODE-007: no time mends this, only other settings or another machine.
            self.failed(message, out);
            return;
        }
        self.tiers_planned = true;
        if config.cgroups.per_qos {
            let mut groups = kubepods_cgroups(config, driver, machine).into_iter().map(|(name, s)| (name, s, Step::Waiting));
            self.kubepods = groups.next();
            self.tiers = groups.collect();
            let components: Vec<&str> = config.cgroups.root.split('/').filter(|component| !component.is_empty()).collect();
            self.kubepods_printed = printed_name(components.iter().copied().chain(["kubepods"]));
            if !components.is_empty() {
                let name = cgroup_name(config, driver, &[]);
                let printed = printed_name(components.iter().copied());
                let missing = format!("invalid configuration: cgroup {printed} has some missing paths: /sys/fs/cgroup{name}");
                self.root = Some((name, missing, Step::Waiting));
            }
        }
    }

    /// Asks for what has not been asked.
    pub fn due(&mut self, now: Now, out: &mut Out<'_>) {
        let mut ask = |step: &mut Step, call| {
            if matches!(step, Step::Waiting) {
                *step = Step::Asked(out.issue(Owner::Startup, Lane::Host, TIMEOUT, Call::Host(call)));
            }
        };
        let rooted = self.root.as_ref().is_none_or(|(.., step)| matches!(step, Step::Done));
        let apply =
            |name: &str, settings: &CgroupSettings| HostCall::ApplyCgroup { name: name.to_owned(), settings: settings.clone() };
        if let Some((name, settings, step)) = self.kubepods.as_mut().filter(|(.., step)| !matches!(step, Step::Done))
            && self.enforce_at <= now.mono
            && rooted
        {
            ask(step, apply(name, settings));
        }
        if self.next > now.mono {
            return;
        }
        if let Some((name, _, step)) = &mut self.root {
            ask(step, HostCall::CgroupExists { name: name.clone() });
        }
        ask(&mut self.machine_asked, HostCall::MachineInfo);
        // What is made now is not to be taken for what an earlier life left.
        if self.machine.is_some() {
            ask(&mut self.prepare, HostCall::PrepareNode);
        }
        // One after the other, and after the group that they lie in.
        let enforced = self.enforced;
        if let Some((name, settings, step)) =
            self.tiers.iter_mut().find(|(.., step)| !matches!(step, Step::Done)).filter(|_| enforced)
        {
            ask(step, apply(name, settings));
        }
    }

    fn root_is_there(&self) -> bool {
        self.root.as_ref().is_none_or(|(.., step)| matches!(step, Step::Done))
    }

    /// NODE-132: a root that somebody else has to make is not made here: pods would run outside of what it bounds.
    fn root_looked_for(&mut self, now: Now, outcome: Result<HostReply, Failure>, out: &mut Out<'_>) {
        let Some((_, missing, step)) = &mut self.root else { return };
        let failed = match outcome {
            Ok(HostReply::Exists(true)) => {
                *step = Step::Done;
                return;
            }
            Ok(_) => missing.clone(),
            Err(failure) => format!("invalid configuration: {}", failure.message),
        };
        *step = Step::Waiting;
        self.next = now.mono + RETRY;
        self.failed(failed, out);
    }

    /// The tier that comes next.
    fn tier_due(&self) -> Option<&(String, CgroupSettings, Step)> {
        self.tiers.iter().find(|(.., step)| !matches!(step, Step::Done)).filter(|_| self.enforced)
    }

    /// NODE-142: too little for what runs already is no reason not to start. It is tried again, until there is room for it.
    fn enforcement_done(&mut self, now: Now, outcome: Result<HostReply, Failure>, out: &mut Out<'_>) {
        self.enforced = true;
        let Some((_, _, step)) = &mut self.kubepods else { return };
        match outcome {
            Ok(_) => {
                *step = Step::Done;
                let message = "Updated Node Allocatable limit across pods";
                out.record(Recorded::normal(Subject::Node, "NodeAllocatableEnforced", message));
            }
            Err(failure) => {
                *step = Step::Waiting;
                self.enforce_at = now.mono + ENFORCE_AGAIN;
                let message = format!("Failed to update Node Allocatable Limits {}: {}", self.kubepods_printed, failure.message);
                out.record(Recorded::warning(Subject::Node, "FailedNodeAllocatableEnforcement", message));
            }
        }
    }

    /// A step ended.
    pub fn done(&mut self, now: Now, id: ActionId, outcome: Result<HostReply, Failure>, out: &mut Out<'_>) {
        if self.root.as_ref().is_some_and(|(.., step)| matches!(step, Step::Asked(asked) if *asked == id)) {
            self.root_looked_for(now, outcome, out);
            return;
        }
        if self.kubepods.as_ref().is_some_and(|(.., step)| matches!(step, Step::Asked(asked) if *asked == id)) {
            self.enforcement_done(now, outcome, out);
            return;
        }
        let steps = [&mut self.prepare, &mut self.machine_asked].into_iter().chain(self.tiers.iter_mut().map(|(.., step)| step));
        let Some(step) = steps.into_iter().find(|step| matches!(step, Step::Asked(asked) if *asked == id)) else { return };
        match outcome {
            Ok(reply) => {
                *step = Step::Done;
                if let HostReply::Machine(machine) = reply {
                    warn_of(&machine, out);
                    self.machine = Some(*machine);
                }
            }
            Err(failure) => {
                *step = Step::Waiting;
                self.next = now.mono + RETRY;
                self.failed(failure.message, out);
            }
        }
    }

    fn failed(&mut self, message: String, out: &mut Out<'_>) {
        if self.last_error.as_ref() != Some(&message) {
            out.record(Recorded::warning(Subject::Node, "KubeletSetupFailed", message.clone()));
            self.last_error = Some(message);
        }
    }
}

/// What of the machine users should know.
fn warn_of(machine: &MachineInfo, out: &mut Out<'_>) {
    if !machine.cgroup_v2 {
        // NODE-028
        out.record(Recorded::warning(Subject::Node, "CgroupV1", CGROUP_V1_DEPRECATED));
    }
    if machine.swap_on && !machine.tmpfs_no_swap {
        // NODE-146
        out.record(Recorded::warning(Subject::Node, "PossibleMemoryBackedVolumesOnDisk", SWAPPED_VOLUMES));
    }
}

/// A name as upstream's CgroupName is printed with `%q`.
fn printed_name<'a>(components: impl Iterator<Item = &'a str>) -> String {
    format!("[{}]", components.map(|component| format!("{component:?}")).collect::<Vec<_>>().join(" "))
}

/// What is reserved beyond what there is (node_container_manager_linux.go, validateNodeAllocatable).
fn overreserved(config: &Config, machine: &MachineInfo) -> Option<String> {
    let of = Resources::reserved(config, machine);
    let counted = |name: &str| name != "ephemeral-storage" || config.pods.local_storage_capacity_isolation;
    let too_much = of.iter().filter(|(name, reserved, capacity)| reserved > capacity && counted(name));
    let told: Vec<String> = too_much
        .map(|(name, reserved, capacity)| {
            let printed = |amount: &u64| printed(name, i64::try_from(*amount).unwrap_or(i64::MAX)).0;
            let (reserved, capacity) = (printed(reserved), printed(capacity));
            format!(
                "Resource {name:?} has a reservation of {reserved} but capacity of {capacity}. Expected capacity >= reservation."
            )
        })
        .collect();
    (!told.is_empty()).then(|| format!("invalid Node Allocatable configuration. {}", told.join(" ")))
}

#[cfg(test)]
mod tests;
