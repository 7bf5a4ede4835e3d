//! Gathers what a sandbox or a container is configured with, and has the translators put it together.
//! Upstream: pkg/kubelet/kubelet_pods.go (GenerateRunContainerOptions), pkg/kubelet/kuberuntime (generateContainerConfig).
//! Differs: nothing on purpose.

use std::sync::Arc;

use proto::cri::{ContainerConfig, PodSandboxConfig};

use crate::action::HostCall;
use crate::ids::SandboxId;

/// A container as it is to be made.
#[derive(Debug)]
pub struct ContainerPlan {
    /// Its configuration.
    pub config: ContainerConfig,
    /// The sandbox that it is made in.
    pub sandbox: SandboxId,
    /// That sandbox's configuration.
    pub sandbox_config: Arc<PodSandboxConfig>,
    /// Files that must be there before it is made.
    pub files: Vec<HostCall>,
    /// Its log.
    pub log_target: String,
    /// The link to it, without ID and ending.
    pub link_prefix: String,
}
