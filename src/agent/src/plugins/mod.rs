//! The plugins on the node: who there is, and the calls of them.
//! Upstream: pkg/kubelet/pluginmanager, pkg/volume/csi/csi_client.go.
//! Differs: what to make of either is the core's decision.

mod csi;
pub mod registry;

pub use csi::{Caller, caller};
