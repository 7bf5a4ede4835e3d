//! Keeps the Node object: registers it, reports its status when it changes and every so often, makes it again when it is gone.
//! Upstream: pkg/kubelet/kubelet_node_status.go (syncNodeStatus, fastStatusUpdateOnce).
//! Differs: a change of readiness is sent at once instead of at the next tick of ten seconds; a report that failed is repeated within
//! a second, not five times at once.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeAddress, NodeStatus};
use k8s_openapi::api::storage::v1::CSINode;

use super::addresses::{AddressBook, generate_addresses, provided_node_ip};
use super::conditions::Pressures;
use super::registration::{
    Attempts, csi_node, initial_node, is_foreign, kept_metadata, reconcile_patch, with_metadata, with_migrated_plugins,
};
use super::runtime_health::RuntimeHealth;
use super::status::{StatusInputs, generate_node_status, status_changed};
use crate::action::{ApiCall, Call, Lane};
use crate::config::Config;
use crate::event::{ApiReply, HostReply};
use crate::failure::{Failure, FailureKind};
use crate::ids::ActionId;
use crate::observation::{Image, MachineInfo};
use crate::out::{Out, Owner};
use crate::plugins::PluginFacts;
use crate::recorder::{Recorded, Subject};
use crate::rng::Rng;
use crate::status_patch::node_status_patch;
use crate::time::{Mono, Now};

/// NODE-010: node status has a client of its own with a short time-out.
const TIMEOUT: Duration = Duration::from_secs(10);
/// NODE-060
const JITTER: f64 = 0.04;
/// How soon after a failed report the next one is: the tries at once of NODE-061 would only hammer.
const RETRY: Duration = Duration::from_secs(1);

/// How long an agent that was just started waits for a first answer of the runtime before it calls a ready node unready.
const GUESSES_AFTER: Duration = Duration::from_secs(20);

/// What the rest of the core knows that the status is made of.
#[derive(Clone, Copy, Debug)]
pub struct NodeFacts<'a> {
    /// The machine, once read.
    pub machine: Option<&'a MachineInfo>,
    /// The runtime.
    pub runtime: &'a RuntimeHealth,
    /// Whether the runtime has told its state and been listed in this life, and what the node needs was made.
    pub runtime_known: bool,
    /// Why pods cannot be run here yet, if something that the node needs could not be made.
    pub startup_error: Option<&'a str>,
    /// Why the listing of the runtime is not healthy, if it is not.
    pub pleg_error: Option<&'a str>,
    /// The runtime's images.
    pub images: &'a [Image],
    /// The pressures.
    pub pressures: Pressures,
    /// The volumes that are in use, in order; `None` while that is not known (VOL-017).
    pub volumes_in_use: Option<&'a Arc<[String]>>,
}

#[derive(Debug, PartialEq, Eq)]
enum Doing {
    Nothing,
    Getting,
    Creating,
    Reconciling,
    Reporting,
}

#[derive(Debug, PartialEq)]
enum Csi {
    Unknown,
    Getting(ActionId),
    Creating(ActionId),
    Deleting(ActionId),
    Updating(ActionId),
    Missing,
    Foreign,
    /// It is there and tells of other plugins; what it is to be.
    Behind(Box<CSINode>),
    There,
}

/// The Node's keeper.
#[derive(Debug)]
pub struct NodeManager {
    config: Arc<Config>,
    node: Option<Arc<Node>>,
    registered: bool,
    /// A list did not show it: it may have been made before the Node was, so it is asked for.
    doubted: bool,
    doing: Doing,
    attempts: Attempts,
    csi: Csi,
    csi_attempts: Attempts,
    next_status: Mono,
    last_report: Option<Mono>,
    report_delay: Duration,
    urgent: bool,
    /// Flips that were told, of which the report has not come through yet.
    told: Vec<&'static str>,
    unschedulable: bool,
    /// The Node that this life would make, while it is being registered, and the resources of earlier lives' device plugins.
    wanted: Option<(Box<Node>, Option<Vec<String>>)>,
    reboot_told: bool,
    /// Whether all is known that a Node is made of: the machine, and what the runtime says of itself.
    makings_known: bool,
    volumes_in_use: Arc<[String]>,
    addresses: AddressBook,
    address_error: Option<String>,
}

impl NodeManager {
    /// A keeper that has done nothing yet.
    #[must_use]
    pub fn new(config: Arc<Config>) -> Self {
        Self {
            config,
            node: None,
            registered: false,
            doubted: false,
            doing: Doing::Nothing,
            attempts: Attempts::default(),
            csi: Csi::Unknown,
            csi_attempts: Attempts::default(),
            next_status: Mono::ZERO,
            last_report: None,
            report_delay: Duration::ZERO,
            urgent: true,
            told: Vec::new(),
            unschedulable: false,
            wanted: None,
            reboot_told: false,
            makings_known: false,
            volumes_in_use: Arc::default(),
            addresses: AddressBook::default(),
            address_error: None,
        }
    }

    /// The Node as last seen.
    #[must_use]
    pub fn node(&self) -> Option<&Arc<Node>> {
        self.node.as_ref()
    }

    /// The node's addresses: those of its object or, while there is none, those that it would be made with, for static pods that come before
    /// an API server does (getNodeAnyWay, initialNode).
    #[must_use]
    pub fn addresses(&self) -> Vec<NodeAddress> {
        match &self.node {
            Some(node) => node.status.as_ref().and_then(|status| status.addresses.clone()).unwrap_or_default(),
            None => generate_addresses(&self.config, &[], self.addresses.found()).ok().flatten().unwrap_or_default(),
        }
    }

    /// The Node that pods are judged by: the one that was seen or, while there is none, the one that would be made, for static pods that
    /// come before an API server does, or without one (NODE-002; kubelet_nodecache.go, getCachedNode).
    #[must_use]
    pub fn node_any_way(&self, now: Now, machine: Option<&MachineInfo>, runtime: &RuntimeHealth) -> Arc<Node> {
        let facts = NodeFacts {
            machine,
            runtime,
            runtime_known: true,
            startup_error: None,
            pleg_error: None,
            images: &[],
            pressures: Pressures::default(),
            volumes_in_use: None,
        };
        let initial = || {
            let (status, _) = self.status(now, &NodeStatus::default(), &facts);
            Arc::new(initial_node(&self.config, Self::architecture(&facts), status))
        };
        self.node.as_ref().map_or_else(initial, Arc::clone)
    }

    /// Whether registration succeeded (or is not wanted).
    #[must_use]
    pub fn is_registered(&self) -> bool {
        self.registered
    }

    /// What the plugins need to know of it.
    #[must_use]
    pub fn plugin_facts(&self) -> PluginFacts<'_> {
        PluginFacts { node: self.node.as_deref(), csi_node: self.csi == Csi::There }
    }

    /// Something that readiness hangs on changed: report without waiting for the tick.
    pub fn hurry(&mut self) {
        self.urgent = true;
    }

    /// The Node was seen, by the watch or in a reply.
    pub fn seen(&mut self, node: Arc<Node>, out: &mut Out<'_>) {
        let new_identity = self.node.as_ref().is_some_and(|known| known.metadata.uid != node.metadata.uid);
        if new_identity {
            self.csi = Csi::Unknown;
            self.urgent = true;
        }
        self.doubted = false;
        if newer(self.node.as_deref(), &node) {
            self.tell_schedulable(&node, out);
            self.node = Some(node);
        }
    }

    /// The Node was deleted under us: it is made again.
    pub fn gone(&mut self) {
        self.node = None;
        self.registered = false;
        self.doubted = false;
        self.attempts = Attempts::default();
        self.csi = Csi::Unknown;
    }

    /// A list of the watch did not show the Node. That is no proof: its answer may be older than the answer to the registration.
    pub fn not_listed(&mut self) {
        self.doubted = self.node.is_some();
    }

    /// When there is something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        let addresses = self.addresses.deadline(&self.config.node).filter(|_| self.looks_for_addresses());
        if self.config.node.standalone {
            return addresses;
        }
        let status = match (&self.doing, self.registered) {
            // What machine and runtime are comes with events of their own.
            (Doing::Nothing, false) if self.makings_known && self.addresses.is_settled(&self.config.node) => {
                Some(self.attempts.next())
            }
            (Doing::Nothing, true) if self.urgent || self.doubted => Some(self.next_status.min(self.attempts.next())),
            (Doing::Nothing, true) => Some(self.next_status),
            _ => None,
        };
        let csi = match self.csi {
            Csi::Unknown | Csi::Missing | Csi::Foreign | Csi::Behind(_) if self.registered && self.node.is_some() => {
                Some(self.csi_attempts.next())
            }
            _ => None,
        };
        crate::time::earliest([status, csi, addresses])
    }

    /// Whether the machine is asked although no status is due. Of a node that nobody has made, upstream finds the addresses anew whenever a
    /// pod needs them (kubelet_getters.go, getHostIPsAnyWay): the agent may be up before its network.
    fn looks_for_addresses(&self) -> bool {
        self.node.is_none() || !self.addresses.is_settled(&self.config.node)
    }

    /// Registers, reports, and keeps the CSINode, as is due.
    pub fn due(&mut self, now: Now, facts: &NodeFacts<'_>, rng: &mut Rng, out: &mut Out<'_>) {
        if self.looks_for_addresses() {
            self.addresses.ask(now, &self.config.node, out);
        }
        if self.config.node.standalone {
            return;
        }
        self.makings_known = facts.machine.is_some() && facts.runtime.has_answered();
        if let Some(used) = facts.volumes_in_use.filter(|used| !Arc::ptr_eq(used, &self.volumes_in_use)) {
            // VOL-016: a volume is attached only after it was said to be in use.
            self.urgent |= **used != *self.volumes_in_use;
            self.volumes_in_use = Arc::clone(used);
        }
        if self.doing == Doing::Nothing {
            if !self.registered {
                // NODE-060: what is told before the runtime was asked would be believed: pods are bound by it, and refused by it.
                let known = self.makings_known && self.addresses.is_settled(&self.config.node);
                if self.attempts.next() <= now.mono && known {
                    self.register(now, facts, out);
                }
            } else if self.doubted && self.attempts.next() <= now.mono {
                self.doing = Doing::Getting;
                out.issue(Owner::Node, Lane::NodeStatus, TIMEOUT, Call::Api(ApiCall::GetNode));
            } else if self.next_status <= now.mono || (self.urgent && self.attempts.next() <= now.mono) {
                self.report(now, facts, rng, out);
            }
        }
        self.keep_csi_node(now, out);
    }

    /// A call ended. Tells whether the rest of the core should look again.
    pub fn done(&mut self, now: Now, id: ActionId, outcome: Result<ApiReply, Failure>, rng: &mut Rng, out: &mut Out<'_>) {
        if self.csi_done(now, id, &outcome) {
            return;
        }
        let doing = std::mem::replace(&mut self.doing, Doing::Nothing);
        match (doing, outcome) {
            (Doing::Creating, Ok(ApiReply::Node(node))) => {
                self.told.clear();
                self.last_report = Some(now.mono);
                self.is_there();
                self.seen(node, out);
            }
            // NODE-044: it is there already, or may not be created: then it is brought in line.
            (Doing::Creating, Err(failure)) if matches!(failure.kind, FailureKind::AlreadyExists | FailureKind::Forbidden) => {
                self.doing = Doing::Getting;
                out.issue(Owner::Node, Lane::NodeStatus, TIMEOUT, Call::Api(ApiCall::GetNode));
            }
            (Doing::Getting, Ok(ApiReply::Node(node))) => self.reconcile(node, out),
            (Doing::Reconciling, Ok(ApiReply::Node(node))) => {
                self.seen(node, out);
                self.is_there();
            }
            (Doing::Reporting, Ok(ApiReply::Node(node))) => {
                self.attempts.succeeded();
                self.told.clear();
                self.seen(node, out);
                self.last_report = Some(now.mono);
                self.report_delay = report_jitter(self.config.node.status_report_frequency, rng);
                self.next_status = now.mono + rng.jitter(self.config.node.status_update_frequency, JITTER);
            }
            (Doing::Reporting, Err(failure)) if failure.is_not_found() => self.gone(),
            (Doing::Getting, Err(failure)) if failure.is_not_found() && self.doubted => self.gone(),
            (Doing::Reporting, _) => {
                self.urgent = true;
                self.attempts.failed(now);
                self.next_status = now.mono + RETRY;
            }
            _ => self.attempts.failed(now),
        }
    }

    /// The machine told its addresses, or failed to. Others than before are reported at once.
    pub fn addresses_done(&mut self, id: ActionId, outcome: Result<HostReply, Failure>) {
        self.urgent |= self.addresses.done(id, outcome);
    }

    /// An address that cannot be told is the loss of those who look for the node, and no reason to run no pods. It is told once.
    fn tell_address_error(&mut self, existing: &NodeStatus, out: &mut Out<'_>) {
        let existing = existing.addresses.as_deref().unwrap_or_default();
        let error = generate_addresses(&self.config, existing, self.addresses.found()).err();
        if let Some(error) = error.as_ref().filter(|error| self.address_error.as_ref() != Some(error)) {
            let message = format!("Failed to set some node status fields: {error}");
            out.record(Recorded::warning(Subject::Node, "KubeletSetupFailed", message));
        }
        self.address_error = error;
    }

    fn status(&self, now: Now, existing: &NodeStatus, facts: &NodeFacts<'_>) -> (NodeStatus, Vec<&'static str>) {
        let mut errors = Vec::new();
        // NODE-106
        if self.csi != Csi::There {
            errors.push("CSINode is not yet initialized".to_owned());
        }
        errors.extend(facts.startup_error.map(str::to_owned));
        let inputs = StatusInputs {
            config: &self.config,
            machine: facts.machine,
            addresses: self.addresses.found(),
            runtime: facts.runtime,
            errors: &errors,
            pleg_error: facts.pleg_error,
            images: facts.images,
            pressures: facts.pressures,
            volumes_in_use: facts.volumes_in_use.map(AsRef::as_ref).filter(|_| self.config.node.enable_controller_attach_detach),
            mono: now.mono,
            wall: now.wall_seconds(),
        };
        generate_node_status(existing, &inputs)
    }

    fn architecture<'a>(facts: &NodeFacts<'a>) -> &'a str {
        facts.machine.map(|m| m.architecture.as_str()).unwrap_or_default()
    }

    fn register(&mut self, now: Now, facts: &NodeFacts<'_>, out: &mut Out<'_>) {
        if !self.config.node.register {
            // Somebody else makes it; status is reported once it is there.
            self.registered = self.node.is_some();
            self.attempts.failed(now);
            return;
        }
        let (status, events) = self.status(now, &NodeStatus::default(), facts);
        self.tell_address_error(&NodeStatus::default(), out);
        self.tell(&events, out);
        let node = initial_node(&self.config, Self::architecture(facts), status);
        let devices = facts.machine.and_then(|machine| machine.device_resources.clone());
        self.wanted = Some((Box::new(node.clone()), devices));
        self.doing = Doing::Creating;
        out.issue(Owner::Node, Lane::NodeStatus, TIMEOUT, Call::Api(ApiCall::CreateNode(Box::new(node))));
    }

    fn reconcile(&mut self, node: Arc<Node>, out: &mut Out<'_>) {
        // One that was only looked for again has been brought in line before.
        let patch = self.wanted.as_ref().and_then(|(wanted, devices)| reconcile_patch(&node, wanted, devices.as_deref()));
        self.seen(node, out);
        match patch {
            Some(patch) => {
                self.doing = Doing::Reconciling;
                out.issue(Owner::Node, Lane::NodeStatus, TIMEOUT, Call::Api(ApiCall::PatchNodeStatus(patch)));
            }
            None => self.is_there(),
        }
    }

    /// The Node is registered, and as it should be but for its status.
    fn is_there(&mut self) {
        self.registered = true;
        self.wanted = None;
        self.attempts.succeeded();
        self.urgent = true;
    }

    fn report(&mut self, now: Now, facts: &NodeFacts<'_>, rng: &mut Rng, out: &mut Out<'_>) {
        let Some(node) = self.node.clone() else {
            self.doing = Doing::Getting;
            out.issue(Owner::Node, Lane::NodeStatus, TIMEOUT, Call::Api(ApiCall::GetNode));
            return;
        };
        self.urgent = false;
        self.addresses.ask(now, &self.config.node, out);
        let existing = node.status.clone().unwrap_or_default();
        if !facts.runtime.has_answered() || self.would_guess(now, facts) && is_ready(&existing) {
            // An agent that has just been restarted does not know yet; what it knew before stands (the node was ready).
            self.next_status = now.mono + RETRY;
            return;
        }
        self.next_status = now.mono + rng.jitter(self.config.node.status_update_frequency, JITTER);
        let (status, events) = self.status(now, &existing, facts);
        self.tell_address_error(&existing, out);
        self.tell_reboot(&existing, &status, out);
        // Upstream leaves the annotation while an address is wrong.
        let provided = self.address_error.is_none().then(|| provided_node_ip(&self.config));
        let metadata = kept_metadata(&node, Self::architecture(facts), provided);
        let due = self
            .last_report
            .is_none_or(|at| now.mono.since(at) >= self.config.node.status_report_frequency.saturating_add(self.report_delay));
        if !due && metadata.is_empty() && !status_changed(&existing, &status) {
            return;
        }
        self.tell(&events, out);
        let Some(patch) = with_metadata(node_status_patch(&existing, &status), metadata) else {
            self.last_report = Some(now.mono);
            return;
        };
        self.doing = Doing::Reporting;
        out.issue(Owner::Node, Lane::NodeStatus, TIMEOUT, Call::Api(ApiCall::PatchNodeStatus(patch)));
    }

    /// Whether a report would be made before the runtime was asked for the first time in this life.
    fn would_guess(&self, now: Now, facts: &NodeFacts<'_>) -> bool {
        let csi_known = !matches!(self.csi, Csi::Unknown | Csi::Getting(_));
        now.mono.since_start() < GUESSES_AFTER && !(facts.runtime_known && csi_known)
    }

    fn keep_csi_node(&mut self, now: Now, out: &mut Out<'_>) {
        let Some(uid) = self.node.as_ref().and_then(|n| n.metadata.uid.clone()) else { return };
        if !self.registered || self.csi_attempts.next() > now.mono {
            return;
        }
        let mut ask = |call| out.issue(Owner::Node, Lane::NodeStatus, TIMEOUT, Call::Api(call));
        match &self.csi {
            Csi::Unknown => self.csi = Csi::Getting(ask(ApiCall::GetCsiNode)),
            Csi::Missing => {
                let made = csi_node(&self.config.node.name, &uid);
                self.csi = Csi::Creating(ask(ApiCall::CreateCsiNode(Box::new(made))));
            }
            Csi::Foreign => self.csi = Csi::Deleting(ask(ApiCall::DeleteCsiNode)),
            Csi::Behind(wanted) => self.csi = Csi::Updating(ask(ApiCall::UpdateCsiNode(wanted.clone()))),
            _ => {}
        }
    }

    fn csi_done(&mut self, now: Now, id: ActionId, outcome: &Result<ApiReply, Failure>) -> bool {
        let uid = self.node.as_ref().and_then(|n| n.metadata.uid.clone()).unwrap_or_default();
        let next = match (&self.csi, outcome) {
            (Csi::Getting(action), Ok(ApiReply::CsiNode(found))) if *action == id => {
                if is_foreign(found, &uid) {
                    Csi::Foreign
                } else {
                    with_migrated_plugins(found).map_or(Csi::There, |wanted| Csi::Behind(Box::new(wanted)))
                }
            }
            (Csi::Getting(action), Err(failure)) if *action == id && failure.is_not_found() => Csi::Missing,
            (Csi::Creating(action) | Csi::Updating(action), Ok(_)) if *action == id => Csi::There,
            (Csi::Deleting(action), Ok(_)) if *action == id => Csi::Missing,
            (Csi::Getting(action) | Csi::Creating(action) | Csi::Deleting(action) | Csi::Updating(action), _) if *action == id => {
                self.csi_attempts.failed(now);
                Csi::Unknown
            }
            _ => return false,
        };
        if next == Csi::There {
            self.csi_attempts.succeeded();
            self.urgent = true;
        }
        self.csi = next;
        true
    }

    /// Each flip is told once, also when the report of it has to be repeated.
    fn tell(&mut self, events: &[&'static str], out: &mut Out<'_>) {
        for reason in events.iter().filter(|reason| !self.told.contains(reason)) {
            out.record(Recorded::normal(Subject::Node, *reason, self.is_now(reason)));
        }
        self.told = events.to_vec();
    }

    fn is_now(&self, reason: &str) -> String {
        format!("Node {} status is now: {reason}", self.config.node.name)
    }

    /// NODE-069: what is not known counts as schedulable, so a node that is cordoned when the agent starts is told.
    fn tell_schedulable(&mut self, node: &Node, out: &mut Out<'_>) {
        let unschedulable = node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false);
        if self.unschedulable != unschedulable {
            let reason = if unschedulable { "NodeNotSchedulable" } else { "NodeSchedulable" };
            out.record(Recorded::normal(Subject::Node, reason, self.is_now(reason)));
        }
        self.unschedulable = unschedulable;
    }

    /// NODE-088: once in a life.
    fn tell_reboot(&mut self, existing: &NodeStatus, status: &NodeStatus, out: &mut Out<'_>) {
        let boot = |status: &NodeStatus| status.node_info.as_ref().map(|info| info.boot_id.clone()).unwrap_or_default();
        let (before, now) = (boot(existing), boot(status));
        if before.is_empty() || now.is_empty() || before == now || self.reboot_told {
            return;
        }
        self.reboot_told = true;
        let message = format!("Node {} has been rebooted, boot id: {now}", self.config.node.name);
        out.record(Recorded::warning(Subject::Node, "Rebooted", message));
    }
}

fn is_ready(status: &NodeStatus) -> bool {
    status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// A reply and a watch event may arrive in either order: the higher resourceVersion is the truth.
fn newer(known: Option<&Node>, seen: &Node) -> bool {
    let version = |node: &Node| node.metadata.resource_version.as_deref().and_then(|v| v.parse::<u64>().ok());
    let Some(known) = known else { return true };
    known.metadata.uid != seen.metadata.uid || version(seen) >= version(known)
}

/// NODE-063: within half the report frequency, either way.
fn report_jitter(frequency: Duration, rng: &mut Rng) -> Duration {
    // Only the positive half: reporting early would be one report more, for nothing.
    frequency.mul_f64(rng.fraction() * 0.5)
}

#[cfg(test)]
mod tests;
