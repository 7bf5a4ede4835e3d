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
use crate::resources::cgroup::{kubepods_cgroups, kubepods_settings};
use crate::resources::requests::printed;
use crate::time::{Mono, Now};

const RETRY: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(60);
/// Upstream's words (pkg/kubelet/cm/container_manager.go).
const CGROUP_V1_DEPRECATED: &str = "cgroup v1 detected. cgroup v1 support is deprecated and will be removed in a future release. \
                                    Please migrate to cgroup v2. More information at \
                                    https://git.k8s.io/enhancements/keps/sig-node/5573-remove-cgroup-v1";

#[derive(Debug, Default)]
enum Step {
    #[default]
    Waiting,
    Asked(ActionId),
    Done,
}

impl Step {
    fn is(&self, id: ActionId) -> bool {
        matches!(self, Self::Asked(asked) if *asked == id)
    }
}

/// What is done once in the agent's life.
#[derive(Debug, Default)]
pub struct Startup {
    prepare: Step,
    machine_asked: Step,
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
        let waits = matches!(self.prepare, Step::Waiting)
            || matches!(self.machine_asked, Step::Waiting)
            || self
                .tiers
                .iter()
                .find(|(.., step)| !matches!(step, Step::Done))
                .is_some_and(|(.., step)| matches!(step, Step::Waiting));
        waits.then_some(self.next)
    }

    /// The runtime has told its cgroup driver: the tiers can be made (NODE-134, NODE-141).
    pub fn plan_tiers(&mut self, config: &Config, driver: CgroupDriver, out: &mut Out<'_>) {
        let Some(machine) = self.machine.as_ref().filter(|_| !self.tiers_planned) else { return };
        if let Some(message) = overreserved(config, machine) {
            // NODE-007: no time mends this, only other settings or another machine.
            self.failed("KubeletSetupFailed", message, out);
            return;
        }
        self.tiers_planned = true;
        if config.cgroups.per_qos {
            let node = kubepods_settings(config, machine);
            self.tiers = kubepods_cgroups(config, driver, node).into_iter().map(|(name, s)| (name, s, Step::Waiting)).collect();
        }
    }

    /// Asks for what has not been asked.
    pub fn due(&mut self, now: Now, out: &mut Out<'_>) {
        if self.next > now.mono {
            return;
        }
        let mut ask = |step: &mut Step, call| {
            if matches!(step, Step::Waiting) {
                *step = Step::Asked(out.issue(Owner::Startup, Lane::Host, TIMEOUT, Call::Host(call)));
            }
        };
        ask(&mut self.prepare, HostCall::PrepareNode);
        ask(&mut self.machine_asked, HostCall::MachineInfo);
        // One after the other: a tier lies in the one before it.
        if let Some((name, settings, step)) = self.tiers.iter_mut().find(|(.., step)| !matches!(step, Step::Done)) {
            ask(step, HostCall::ApplyCgroup { name: name.clone(), settings: settings.clone() });
        }
    }

    /// A step ended.
    pub fn done(&mut self, now: Now, id: ActionId, outcome: Result<HostReply, Failure>, out: &mut Out<'_>) {
        let enforced = self.tiers.first().is_some_and(|(.., step)| step.is(id));
        let steps = [&mut self.prepare, &mut self.machine_asked].into_iter().chain(self.tiers.iter_mut().map(|(.., step)| step));
        let Some(step) = steps.into_iter().find(|step| step.is(id)) else { return };
        match outcome {
            Ok(reply) => {
                *step = Step::Done;
                if enforced {
                    // NODE-142
                    let message = "Updated Node Allocatable limit across pods";
                    out.record(Recorded::normal(Subject::Node, "NodeAllocatableEnforced", message));
                }
                if let HostReply::Machine(machine) = reply {
                    if !machine.cgroup_v2 {
                        // NODE-028
                        out.record(Recorded::warning(Subject::Node, "CgroupV1", CGROUP_V1_DEPRECATED));
                    }
                    self.machine = Some(*machine);
                }
            }
            Err(failure) => {
                *step = Step::Waiting;
                self.next = now.mono + RETRY;
                let reason = if enforced { "FailedNodeAllocatableEnforcement" } else { "KubeletSetupFailed" };
                let message = match self.tiers.first().filter(|_| enforced) {
                    Some((name, ..)) => {
                        let parts: Vec<String> = name.split('/').filter(|p| !p.is_empty()).map(|p| format!("{p:?}")).collect();
                        format!("Failed to update Node Allocatable Limits [{}]: {}", parts.join(" "), failure.message)
                    }
                    None => failure.message,
                };
                self.failed(reason, message, out);
            }
        }
    }

    fn failed(&mut self, reason: &str, message: String, out: &mut Out<'_>) {
        if self.last_error.as_ref() != Some(&message) {
            out.record(Recorded::warning(Subject::Node, reason, message.clone()));
            self.last_error = Some(message);
        }
    }
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
