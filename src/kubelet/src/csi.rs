//! What the agent asks of plugins on its node, and what they answer: registration, and the node service of CSI drivers.
//! Upstream: pkg/volume/csi/csi_client.go, pkg/kubelet/pluginmanager/operationexecutor.
//! Differs: calls are values with an ID and a deadline, as all others are.

use std::collections::BTreeMap;

use proto::csi::{NodePublishVolumeRequest, NodeStageVolumeRequest};
use serde::{Deserialize, Serialize};

use crate::sensitive::Sensitive;

/// A call of a plugin: of the socket that it registers on, or of the endpoint that it named there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum CsiCall {
    /// GetInfo of plugin registration → `Plugin`.
    GetPluginInfo {
        /// The registration socket.
        socket: String,
    },
    /// NotifyRegistrationStatus → `Done`.
    NotifyRegistration {
        /// The registration socket.
        socket: String,
        /// Why the plugin is not registered; empty if it is.
        error: String,
    },
    /// NodeGetInfo → `Node`.
    NodeInfo {
        /// The driver's endpoint.
        endpoint: String,
    },
    /// NodeGetCapabilities → `Capabilities`.
    Capabilities {
        /// The driver's endpoint.
        endpoint: String,
    },
    /// NodeStageVolume → `Done`.
    Stage {
        /// The driver's endpoint.
        endpoint: String,
        /// The request, without secrets.
        request: Box<NodeStageVolumeRequest>,
        /// The secrets.
        secrets: Sensitive<BTreeMap<String, String>>,
    },
    /// NodePublishVolume → `Done`.
    Publish {
        /// The driver's endpoint.
        endpoint: String,
        /// The request, without secrets and tokens.
        request: Box<NodePublishVolumeRequest>,
        /// The secrets.
        secrets: Sensitive<BTreeMap<String, String>>,
        /// What of the volume's context must not show: the pod's tokens.
        private_context: Sensitive<BTreeMap<String, String>>,
    },
    /// NodeUnpublishVolume → `Done`, also when it was not published.
    Unpublish {
        /// The driver's endpoint.
        endpoint: String,
        /// The volume's handle.
        volume: String,
        /// Where it was published.
        target: String,
    },
    /// NodeUnstageVolume → `Done`, also when it was not staged.
    Unstage {
        /// The driver's endpoint.
        endpoint: String,
        /// The volume's handle.
        volume: String,
        /// Where it was staged.
        staging: String,
    },
}

/// What a plugin answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum CsiReply {
    /// It was done; there is nothing to tell.
    Done,
    /// Who it is.
    Plugin(PluginInfo),
    /// How it knows this node.
    Node(DriverNode),
    /// What it can do.
    Capabilities(DriverCapabilities),
}

/// Who a plugin says that it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginInfo {
    /// `CSIPlugin`, `DevicePlugin` or `DRAPlugin`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Where it serves; empty for the socket that it registered on.
    pub endpoint: String,
    /// Versions of what it serves.
    pub versions: Vec<String>,
}

/// How a driver knows this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriverNode {
    /// The node's name in the driver's world.
    pub node_id: String,
    /// How many volumes may be attached; zero is no word about it.
    pub max_volumes: i64,
    /// Where the node is, in the driver's terms.
    pub topology: BTreeMap<String, String>,
}

/// What of a driver's capabilities decisions hang on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriverCapabilities {
    /// STAGE_UNSTAGE_VOLUME
    pub stage: bool,
    /// SINGLE_NODE_MULTI_WRITER
    pub single_node_multi_writer: bool,
    /// VOLUME_MOUNT_GROUP
    pub mount_group: bool,
}

/// A socket in the plugins' registry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PluginSocket {
    /// Where it is.
    pub path: String,
    /// What tells one socket at that path from another that was made later.
    pub instance: u64,
}
