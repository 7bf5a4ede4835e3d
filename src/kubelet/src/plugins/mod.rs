//! Decides which plugins on the node are registered: who is behind each socket, whether it may come in, and who is told of it.
//! Upstream: pkg/kubelet/pluginmanager, pkg/volume/csi (RegistrationHandler), pkg/volume/csi/nodeinfomanager.
//! Differs: while the API server does not take the driver's entry, registration waits; upstream gives up after four tries and tells the
//! plugin that it failed. A socket that was made anew keeps its driver's entry while it is asked again. Device plugins and DRA plugins are
//! told that nobody handles their kind.

mod entries;
mod registry;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::CSINode;

use self::entries::{highest_version, node_patch, with_drivers};
use self::registry::Registry;
use crate::action::{ApiCall, Call, Lane};
use crate::csi::{CsiCall, CsiReply, DriverNode, PluginInfo, PluginSocket};
use crate::event::{ApiReply, HostReply};
use crate::failure::{Failure, FailureKind};
use crate::ids::ActionId;
use crate::operation_backoff::OperationBackoff;
use crate::out::{Out, Owner};
use crate::time::{Mono, Now, earliest};

/// CSI-001: ten seconds to connect, one for the answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(11);
/// CSI-001
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(5);
/// CSI-003
const NODE_INFO_TIMEOUT: Duration = Duration::from_secs(120);
/// How long the API server may take for the entry of a driver.
const API_TIMEOUT: Duration = Duration::from_secs(10);

/// A driver that said who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Driver {
    name: String,
    endpoint: String,
    version: Vec<u64>,
}

/// Where the registration of one socket stands.
#[derive(Debug)]
enum State {
    /// To be asked who it is, unless it waits after a failure.
    New,
    Asking(ActionId),
    AskingNode(ActionId, Driver),
    /// Its entry is to be written.
    Entering(Driver, DriverNode),
    /// It is being told that it is registered.
    Confirming(ActionId, Driver, DriverNode),
    /// It is being told why it is not.
    Refusing(ActionId),
    Registered(Driver, DriverNode),
}

#[derive(Debug)]
struct Socket {
    instance: u64,
    state: State,
    backoff: OperationBackoff,
    /// The driver that was behind an earlier socket at that path, and still has its entry.
    before: Option<String>,
}

impl Socket {
    fn new(instance: u64) -> Self {
        Self { instance, state: State::New, backoff: OperationBackoff::default(), before: None }
    }

    /// The driver with its entry, if it has or is to have one.
    fn entry(&self) -> Option<(&Driver, &DriverNode)> {
        match &self.state {
            State::Entering(driver, node) | State::Confirming(_, driver, node) | State::Registered(driver, node) => {
                Some((driver, node))
            }
            _ => None,
        }
    }

    fn action(&self) -> Option<ActionId> {
        match &self.state {
            State::Asking(id) | State::AskingNode(id, _) | State::Confirming(id, _, _) | State::Refusing(id) => Some(*id),
            _ => None,
        }
    }
}

/// The write of entries that is under way: one at a time.
#[derive(Debug)]
enum Edit {
    Patching(ActionId),
    Reading(ActionId),
    Writing(ActionId),
}

/// What plugins need to know of the rest.
#[derive(Clone, Copy, Debug)]
pub struct PluginFacts<'a> {
    /// The Node as last seen.
    pub node: Option<&'a Node>,
    /// Whether this Node has its CSINode.
    pub csi_node: bool,
}

/// The plugins on the node.
#[derive(Debug, Default)]
pub struct Plugins {
    registry: Registry,
    sockets: BTreeMap<String, Socket>,
    /// Drivers whose entries are to go.
    removed: BTreeSet<String>,
    edit: Option<Edit>,
    edit_backoff: OperationBackoff,
    /// The UID of the Node that entries were last written for.
    entered: Option<String>,
    /// Whether entries are not as they should be.
    entries_changed: bool,
    wake_at: Option<Mono>,
}

impl Plugins {
    /// Plugins of which one is registered.
    #[cfg(test)]
    pub(crate) fn with_driver(name: &str, endpoint: &str) -> Self {
        let driver = Driver { name: name.to_owned(), endpoint: endpoint.to_owned(), version: vec![1, 0] };
        let socket = Socket { state: State::Registered(driver, DriverNode::default()), ..Socket::new(1) };
        Self { sockets: [(endpoint.to_owned(), socket)].into(), ..Self::default() }
    }

    /// Where a registered driver serves.
    #[must_use]
    pub fn endpoint(&self, name: &str) -> Option<&str> {
        self.registered().find(|driver| driver.name == name).map(|driver| driver.endpoint.as_str())
    }

    fn registered(&self) -> impl Iterator<Item = &Driver> {
        // Of two with one name the higher version counts (CSI-002).
        let of = |socket: &'_ Socket| matches!(socket.state, State::Registered(..));
        let mut drivers: Vec<&Driver> =
            self.sockets.values().filter(|socket| of(socket)).filter_map(Socket::entry).map(|(driver, _)| driver).collect();
        drivers.sort_by(|a, b| b.version.cmp(&a.version));
        drivers.into_iter()
    }

    /// Something changed in the plugins' registry.
    pub fn registry_changed(&mut self) {
        self.registry.changed();
    }

    /// Nobody tells any more what changes in the plugins' registry.
    pub fn registry_unwatched(&mut self) {
        self.registry.unwatched();
    }

    /// Looks at the plugins' registry if it is time to; it lies in the agent's root directory, which is there.
    pub fn look(&mut self, now: Now, root: &str, out: &mut Out<'_>) {
        self.registry.due(now, root, out);
    }

    /// A look at the plugins' registry ended.
    pub fn host_done(&mut self, now: Now, id: ActionId, outcome: Result<HostReply, Failure>) {
        if !self.registry.done(now, id, outcome.is_err()) {
            return;
        }
        if let Ok(HostReply::PluginSockets(sockets)) = outcome {
            self.listed(&sockets);
        }
    }

    /// All sockets that there are (CSI-001).
    fn listed(&mut self, sockets: &[PluginSocket]) {
        let there: BTreeMap<&str, u64> = sockets.iter().map(|socket| (socket.path.as_str(), socket.instance)).collect();
        let gone: Vec<String> = self.sockets.keys().filter(|path| !there.contains_key(path.as_str())).cloned().collect();
        for path in gone {
            if let Some(socket) = self.sockets.remove(&path) {
                let entered = socket.entry().map(|(driver, _)| driver.name.clone());
                self.remove_entries(entered.into_iter().chain(socket.before));
            }
        }
        for (path, instance) in there {
            let socket = self.sockets.entry(path.to_owned()).or_insert_with(|| Socket::new(instance));
            if socket.instance != instance {
                let before = socket.entry().map(|(driver, _)| driver.name.clone()).or(socket.before.take());
                *socket = Socket { before, ..Socket::new(instance) };
            }
        }
    }

    fn remove_entries(&mut self, names: impl Iterator<Item = String>) {
        for name in names {
            let stays = self.sockets.values().any(|socket| {
                socket.before.as_deref() == Some(&name) || socket.entry().is_some_and(|(driver, _)| driver.name == name)
            });
            if !stays {
                self.removed.insert(name);
                self.entries_changed = true;
            }
        }
    }

    /// When there is something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        earliest([self.wake_at, self.registry.deadline()])
    }

    /// Asks sockets who they are, and writes entries, as is due.
    pub fn due(&mut self, now: Now, facts: PluginFacts<'_>, out: &mut Out<'_>) {
        if self.sockets.is_empty() && self.removed.is_empty() {
            self.wake_at = None;
            return;
        }
        for (path, socket) in &mut self.sockets {
            if matches!(socket.state, State::New) && socket.backoff.until(now).is_none() {
                let call = CsiCall::GetPluginInfo { socket: path.clone() };
                socket.state = State::Asking(out.issue(Owner::Plugins, Lane::Csi, ASK_TIMEOUT, Call::Csi(call)));
            }
        }
        self.write_entries(now, facts, out);
        let waits = |socket: &Socket| if matches!(socket.state, State::New) { socket.backoff.until(now) } else { None };
        self.wake_at = earliest(self.sockets.values().map(waits).chain([self.edit_backoff.until(now)]));
    }

    fn wanted(&self) -> BTreeMap<String, DriverNode> {
        let mut wanted: BTreeMap<String, (&Driver, &DriverNode)> = BTreeMap::new();
        for (driver, node) in self.sockets.values().filter_map(Socket::entry) {
            let known = wanted.entry(driver.name.clone()).or_insert((driver, node));
            if known.0.version < driver.version {
                *known = (driver, node);
            }
        }
        wanted.into_iter().map(|(name, (_, node))| (name, node.clone())).collect()
    }

    fn write_entries(&mut self, now: Now, facts: PluginFacts<'_>, out: &mut Out<'_>) {
        let Some(node) = facts.node.filter(|_| facts.csi_node) else { return };
        let uid = node.metadata.uid.as_deref();
        let current = self.entered.is_some() && self.entered.as_deref() == uid && !self.entries_changed;
        if self.edit.is_some() || current || self.edit_backoff.until(now).is_some() {
            return;
        }
        let wanted = self.wanted();
        if self.entered.is_none() && wanted.is_empty() && self.removed.is_empty() {
            return;
        }
        self.entries_changed = false;
        self.entered = uid.map(str::to_owned);
        let ask = |call, out: &mut Out<'_>| out.issue(Owner::Plugins, Lane::NodeStatus, API_TIMEOUT, Call::Api(call));
        // What goes leaves the CSINode first, so the annotation of a driver that goes is left until then.
        match node_patch(node, &wanted, &BTreeSet::new()) {
            Ok(Some(patch)) => self.edit = Some(Edit::Patching(ask(ApiCall::PatchNodeStatus(patch), out))),
            Ok(None) => self.edit = Some(Edit::Reading(ask(ApiCall::GetCsiNode, out))),
            Err((name, why)) => {
                self.entries_changed = true;
                self.refuse_driver(now, &name, &why, out);
            }
        }
    }

    fn refuse_driver(&mut self, now: Now, name: &str, why: &str, out: &mut Out<'_>) {
        let error = format!("RegisterPlugin error -- plugin registration failed with err: {why}");
        for (path, socket) in &mut self.sockets {
            if socket.entry().is_some_and(|(driver, _)| driver.name == name) {
                refuse(now, path, socket, error.clone(), out);
            }
        }
    }

    /// A call of the API server ended; answers the Node if it was told.
    pub fn api_done(
        &mut self,
        now: Now,
        id: ActionId,
        outcome: Result<ApiReply, Failure>,
        facts: PluginFacts<'_>,
        out: &mut Out<'_>,
    ) -> Option<std::sync::Arc<Node>> {
        let ask = |call, out: &mut Out<'_>| out.issue(Owner::Plugins, Lane::NodeStatus, API_TIMEOUT, Call::Api(call));
        match (self.edit.take(), outcome) {
            (Some(Edit::Patching(action)), Ok(ApiReply::Node(node))) if action == id => {
                self.edit = Some(Edit::Reading(ask(ApiCall::GetCsiNode, out)));
                return Some(node);
            }
            (Some(Edit::Reading(action)), Ok(ApiReply::CsiNode(found))) if action == id => {
                match with_drivers(&found, &self.wanted(), &self.removed) {
                    Some(wanted) => self.edit = Some(Edit::Writing(ask(ApiCall::UpdateCsiNode(Box::new(wanted)), out))),
                    None => self.entered(&found, facts, out),
                }
            }
            (Some(Edit::Writing(action)), Ok(ApiReply::CsiNode(written))) if action == id => self.entered(&written, facts, out),
            (edit, outcome) => {
                // Somebody else wrote in between: it is read again at once.
                let overtaken = matches!(&outcome, Err(failure) if failure.kind == FailureKind::Conflict);
                self.entries_changed = true;
                if edit.is_some() && !overtaken {
                    self.edit_backoff.failed(now);
                }
            }
        }
        None
    }

    /// The CSINode says of the drivers what it should.
    fn entered(&mut self, written: &CSINode, facts: PluginFacts<'_>, out: &mut Out<'_>) {
        self.edit_backoff.clear();
        let is_there = |name: &String| written.spec.drivers.iter().any(|entry| entry.name == *name);
        let (left, gone) = std::mem::take(&mut self.removed).into_iter().partition(is_there);
        self.removed = left;
        let patch = facts.node.and_then(|node| node_patch(node, &BTreeMap::new(), &gone).ok().flatten());
        if let Some(patch) = patch {
            out.post(Lane::NodeStatus, API_TIMEOUT, Call::Api(ApiCall::PatchNodeStatus(patch)));
        }
        for (path, socket) in &mut self.sockets {
            let is_in = |driver: &Driver| written.spec.drivers.iter().any(|entry| entry.name == driver.name);
            match std::mem::replace(&mut socket.state, State::New) {
                State::Entering(driver, node) if is_in(&driver) => {
                    let call = CsiCall::NotifyRegistration { socket: path.clone(), error: String::new() };
                    let id = out.issue(Owner::Plugins, Lane::Csi, NOTIFY_TIMEOUT, Call::Csi(call));
                    socket.state = State::Confirming(id, driver, node);
                }
                state => {
                    self.entries_changed |= matches!(state, State::Entering(..));
                    socket.state = state;
                }
            }
        }
    }

    /// A call of a plugin ended.
    pub fn done(&mut self, now: Now, id: ActionId, outcome: Result<CsiReply, Failure>, out: &mut Out<'_>) {
        let Some((path, mut socket)) = self.take_waiting_for(id) else { return };
        match (std::mem::replace(&mut socket.state, State::New), outcome) {
            (State::Asking(_), Ok(CsiReply::Plugin(info))) => match self.validate(&path, info) {
                Ok(driver) => {
                    let call = CsiCall::NodeInfo { endpoint: driver.endpoint.clone() };
                    let id = out.issue(Owner::Plugins, Lane::Csi, NODE_INFO_TIMEOUT, Call::Csi(call));
                    socket.state = State::AskingNode(id, driver);
                }
                Err(error) => refuse(now, &path, &mut socket, error, out),
            },
            (State::AskingNode(_, driver), Ok(CsiReply::Node(node))) => {
                self.entries_changed = true;
                self.removed.remove(&driver.name);
                socket.state = State::Entering(driver, node);
            }
            (State::AskingNode(..), Err(failure)) => {
                let error = format!("RegisterPlugin error -- plugin registration failed with err: {failure}");
                refuse(now, &path, &mut socket, error, out);
            }
            (State::Confirming(_, driver, node), Ok(_)) => {
                socket.backoff.clear();
                socket.before = socket.before.take().filter(|before| *before != driver.name);
                socket.state = State::Registered(driver, node);
            }
            // A failed notification takes the driver out again; so does any failure before.
            (State::Confirming(_, driver, _), Err(_)) => {
                socket.before = Some(driver.name);
                socket.backoff.failed(now);
            }
            (State::Refusing(_), _) => {}
            _ => socket.backoff.failed(now),
        }
        let before = if matches!(socket.state, State::Registered(..)) { socket.before.take() } else { None };
        self.sockets.insert(path, socket);
        self.remove_entries(before.into_iter());
    }

    fn take_waiting_for(&mut self, id: ActionId) -> Option<(String, Socket)> {
        let path = self.sockets.iter().find(|(_, socket)| socket.action() == Some(id))?.0.clone();
        self.sockets.remove_entry(&path)
    }

    /// CSI-001, CSI-002
    fn validate(&self, path: &str, info: PluginInfo) -> Result<Driver, String> {
        if info.kind != "CSIPlugin" {
            return Err(format!("RegisterPlugin error -- no handler registered for plugin type: {} at socket {path}", info.kind));
        }
        let endpoint = if info.endpoint.is_empty() { path.to_owned() } else { info.endpoint };
        let invalid = |why: String| {
            format!(
                "RegisterPlugin error -- plugin validation failed with err: validation failed for CSI Driver {} at endpoint {endpoint}: \
                 kubernetes.io/csi: ValidatePlugin for CSI driver {:?} failed. {why}",
                info.name, info.name
            )
        };
        let version = highest_version(&info.versions).map_err(invalid)?;
        if let Some(other) = self.registered().find(|other| other.name == info.name)
            && other.version >= version
        {
            let has: Vec<String> = other.version.iter().map(u64::to_string).collect();
            let has = has.join(".");
            return Err(invalid(format!(
                "Another driver with the same name is already registered with a higher supported version: {has:?}"
            )));
        }
        Ok(Driver { name: info.name, endpoint, version })
    }
}

/// Tells a plugin why it is not registered; it is asked again later.
fn refuse(now: Now, path: &str, socket: &mut Socket, error: String, out: &mut Out<'_>) {
    if let Some((driver, _)) = socket.entry() {
        socket.before = Some(driver.name.clone());
    }
    let call = CsiCall::NotifyRegistration { socket: path.to_owned(), error };
    socket.backoff.failed(now);
    socket.state = State::Refusing(out.issue(Owner::Plugins, Lane::Csi, NOTIFY_TIMEOUT, Call::Csi(call)));
}
