//! Pretend CSI drivers of a node: what they were asked for, and what they have staged and published.
//! Upstream: github.com/container-storage-interface/spec, the hostpath driver as an example of it.
//! Differs: volumes hold nothing. What a driver mounted outlives it, as mounts do.

use std::collections::BTreeMap;

use kubelet::csi::{CsiCall, CsiReply, DriverCapabilities, DriverNode, PluginInfo, PluginSocket};
use kubelet::failure::{Failure, FailureKind};

/// One driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    /// Whether it runs.
    pub runs: bool,
    /// Which of its sockets is there: each start makes another.
    pub instance: u64,
    /// Whether volumes are staged before they are published.
    pub stages: bool,
    /// Why the agent did not register it, if it said so.
    pub refused: Option<String>,
    /// Whether the agent said that it is registered.
    pub registered: bool,
}

/// A volume: its driver and handle.
pub type VolumeId = (String, String);

/// The drivers of one node.
#[derive(Clone, Debug, Default)]
pub struct CsiModel {
    drivers: BTreeMap<String, Driver>,
    /// Where volumes are staged.
    pub staged: BTreeMap<VolumeId, String>,
    /// What is published where.
    pub published: BTreeMap<String, VolumeId>,
    /// Volumes on which something is being done for which nobody waits any more.
    held: BTreeMap<Hold, VolumeId>,
    holds: u64,
    starts: u64,
}

/// One call that goes on; see [`CsiModel::hold`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hold(u64);

impl CsiModel {
    /// A driver starts: it makes a socket in the plugins' registry.
    pub fn starts(&mut self, name: &str, stages: bool) {
        self.starts += 1;
        let driver = Driver { runs: true, instance: self.starts, stages, refused: None, registered: false };
        self.drivers.insert(name.to_owned(), driver);
    }

    /// A driver stops, and its socket goes.
    pub fn stops(&mut self, name: &str) {
        if let Some(driver) = self.drivers.get_mut(name) {
            driver.runs = false;
        }
    }

    /// The driver of that name.
    #[must_use]
    pub fn driver(&self, name: &str) -> Option<&Driver> {
        self.drivers.get(name)
    }

    /// Whether there ever was one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.drivers.is_empty()
    }

    /// The sockets in the plugins' registry.
    #[must_use]
    pub fn sockets(&self, registry: &str) -> Vec<PluginSocket> {
        let running = self.drivers.iter().filter(|(_, driver)| driver.runs);
        running.map(|(name, driver)| PluginSocket { path: socket(registry, name), instance: driver.instance }).collect()
    }

    /// The driver behind a socket, if it runs.
    #[must_use]
    pub fn behind(&self, socket: &str) -> Option<&str> {
        let name = socket.rsplit('/').next()?.strip_suffix("-reg.sock")?;
        self.drivers.get_key_value(name).filter(|(_, driver)| driver.runs).map(|(name, _)| name.as_str())
    }

    /// Whether something is mounted at that path.
    #[must_use]
    pub fn is_mounted(&self, path: &str) -> bool {
        self.published.contains_key(path) || self.staged.values().any(|staged| staged == path)
    }

    /// Somebody unmounts what is there, whatever the driver thinks.
    pub fn unmount_by_force(&mut self, path: &str) {
        self.published.remove(path);
        self.staged.retain(|_, staged| staged != path);
    }

    /// The volume that a call is about.
    #[must_use]
    pub fn volume_of(&self, call: &CsiCall) -> Option<VolumeId> {
        let (endpoint, handle) = match call {
            CsiCall::Stage { endpoint, request, .. } => (endpoint, &request.volume_id),
            CsiCall::Publish { endpoint, request, .. } => (endpoint, &request.volume_id),
            CsiCall::Unpublish { endpoint, volume, .. } | CsiCall::Unstage { endpoint, volume, .. } => (endpoint, volume),
            _ => return None,
        };
        let name = endpoint.rsplit('/').next()?.strip_suffix("-reg.sock")?;
        Some((name.to_owned(), handle.clone()))
    }

    /// A call goes on after its caller has given up: until [`CsiModel::release`] nothing else is done to its volume.
    #[must_use]
    pub fn hold(&mut self, call: &CsiCall) -> Hold {
        self.holds += 1;
        let hold = Hold(self.holds);
        if let Some(volume) = self.volume_of(call) {
            self.held.insert(hold, volume);
        }
        hold
    }

    /// The call that went on is about to be done.
    pub fn release(&mut self, hold: Hold) {
        self.held.remove(&hold);
    }

    /// What of the order of calls that one would break, if it were made now.
    #[must_use]
    pub fn out_of_order(&self, call: &CsiCall) -> Option<String> {
        let volume = self.volume_of(call)?;
        let name = format!("volume {} of {}", volume.1, volume.0);
        match call {
            CsiCall::Unstage { .. } => {
                let (target, _) = self.published.iter().find(|(_, published)| **published == volume)?;
                Some(format!("{name} is unstaged while it is published at {target}"))
            }
            CsiCall::Publish { request, .. } => {
                let staged = self.staged.get(&volume).map(String::as_str).unwrap_or_default();
                (staged != request.staging_target_path)
                    .then(|| format!("{name} is published from {:?}, and staged at {staged:?}", request.staging_target_path))
            }
            _ => None,
        }
    }

    /// Makes a call.
    ///
    /// # Errors
    /// As a driver fails, or the network without one.
    pub fn call(&mut self, call: &CsiCall) -> Result<CsiReply, Failure> {
        let (CsiCall::GetPluginInfo { socket: endpoint }
        | CsiCall::NotifyRegistration { socket: endpoint, .. }
        | CsiCall::NodeInfo { endpoint }
        | CsiCall::Capabilities { endpoint }
        | CsiCall::Stage { endpoint, .. }
        | CsiCall::Publish { endpoint, .. }
        | CsiCall::Unpublish { endpoint, .. }
        | CsiCall::Unstage { endpoint, .. }) = call;
        let Some(name) = self.behind(endpoint).map(str::to_owned) else {
            return Err(Failure::new(FailureKind::Unavailable, "connection refused"));
        };
        let volume = self.volume_of(call);
        if self.held.values().any(|held| Some(held) == volume.as_ref()) {
            return Err(Failure::new(FailureKind::Conflict, "an operation with the given volume already exists"));
        }
        let volume = volume.unwrap_or_default();
        match call {
            CsiCall::GetPluginInfo { .. } => Ok(CsiReply::Plugin(PluginInfo {
                kind: "CSIPlugin".to_owned(),
                name,
                endpoint: String::new(),
                versions: vec!["1.0.0".to_owned()],
            })),
            CsiCall::NotifyRegistration { error, .. } => {
                if let Some(driver) = self.drivers.get_mut(&name) {
                    driver.registered = error.is_empty();
                    driver.refused = (!error.is_empty()).then(|| error.clone());
                }
                Ok(CsiReply::Done)
            }
            CsiCall::NodeInfo { .. } => Ok(CsiReply::Node(DriverNode { node_id: "node-1".to_owned(), ..DriverNode::default() })),
            CsiCall::Capabilities { .. } => {
                let stage = self.drivers.get(&name).is_some_and(|driver| driver.stages);
                Ok(CsiReply::Capabilities(DriverCapabilities { stage, ..DriverCapabilities::default() }))
            }
            CsiCall::Stage { request, .. } => {
                self.staged.insert(volume, request.staging_target_path.clone());
                Ok(CsiReply::Done)
            }
            CsiCall::Publish { request, .. } => {
                self.published.insert(request.target_path.clone(), volume);
                Ok(CsiReply::Done)
            }
            CsiCall::Unpublish { target, .. } => {
                self.published.remove(target);
                Ok(CsiReply::Done)
            }
            CsiCall::Unstage { .. } => {
                self.staged.remove(&volume);
                Ok(CsiReply::Done)
            }
        }
    }
}

/// The socket of a driver, on which it registers and serves.
fn socket(registry: &str, name: &str) -> String {
    format!("{registry}/{name}-reg.sock")
}
