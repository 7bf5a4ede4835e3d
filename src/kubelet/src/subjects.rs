//! Whose a call is: the pod, driver or place that a call which hangs is counted against, and what it must not run beside.
//! Upstream: pkg/volume/util/nestedpendingoperations (one pending operation for each volume and pod).
//! Differs: of every operation on the machine, not of volumes only.

use crate::action::{Call, HostCall};
use crate::csi::CsiCall;
use crate::ids::PodUid;

impl Call {
    /// Whom it is counted against. `pod` is the pod that the core does it for, if for one.
    #[must_use]
    pub fn subject(&self, pod: Option<&PodUid>) -> Option<String> {
        match self {
            Self::Host(call) => Some(call.subject()),
            Self::Csi(call) => Some(call.socket().to_owned()),
            Self::Cri(_) | Self::Api(_) | Self::Probe(_) | Self::Fetch(_) | Self::Cancel(_) => {
                pod.map(|pod| pod.as_str().to_owned())
            }
        }
    }
}

impl CsiCall {
    /// The socket that it goes to.
    #[must_use]
    pub fn socket(&self) -> &str {
        match self {
            Self::GetPluginInfo { socket } | Self::NotifyRegistration { socket, .. } => socket,
            Self::NodeInfo { endpoint }
            | Self::Capabilities { endpoint }
            | Self::Stage { endpoint, .. }
            | Self::Publish { endpoint, .. }
            | Self::Unpublish { endpoint, .. }
            | Self::Unstage { endpoint, .. } => endpoint,
        }
    }
}

/// The directory in a path that all that is a pod's lies below: its own, and that of its logs.
fn pod_of(path: &str) -> Option<&str> {
    let (_, inside) = path.split_once("/pods/")?;
    inside.split('/').next().filter(|name| !name.is_empty())
}

impl HostCall {
    /// Whom it is counted against: a pod, or what it is about if it is nobody's in particular.
    #[must_use]
    pub fn subject(&self) -> String {
        match self {
            Self::MakePodDirs { pod, .. }
            | Self::RemovePodDir { pod }
            | Self::ListVolumes { pod }
            | Self::SetUpVolume { pod, .. }
            | Self::TearDownVolume { pod, .. }
            | Self::CleanSubPaths { pod, .. }
            | Self::BindSubPath { pod, .. } => pod.as_str().to_owned(),
            call => {
                let about = call.turn();
                pod_of(&about).map(str::to_owned).unwrap_or(about)
            }
        }
    }

    /// What it is about: of two calls with the same turn the second begins when the first has ended, also if nobody waits for
    /// the first any more because it hangs.
    #[must_use]
    pub fn turn(&self) -> String {
        match self {
            Self::SetUpVolume { pod, volume, .. }
            | Self::TearDownVolume { pod, volume, .. }
            | Self::CleanSubPaths { pod, volume }
            | Self::BindSubPath { pod, volume, .. } => format!("volume {volume} of {pod}"),
            Self::MakePodDirs { pod, .. } | Self::RemovePodDir { pod } | Self::ListVolumes { pod } => format!("pod {pod}"),
            Self::ApplyCgroup { name, .. }
            | Self::EnsureCgroup { name, .. }
            | Self::CgroupExists { name }
            | Self::RemoveCgroup { name } => format!("cgroup {name}"),
            Self::PrepareCsiVolume { directory: path, .. }
            | Self::RemoveCsiVolume { mount: path }
            | Self::GiveToGroup { path, .. } => path.strip_suffix("/mount").unwrap_or(path).to_owned(),
            Self::ListPluginSockets { registry: path }
            | Self::WriteFile { path, .. }
            | Self::ReadFile { path }
            | Self::WriteRecord { path, .. }
            | Self::RemoveFile { path }
            | Self::ReadDirectory { path, .. }
            | Self::ReadManifests { path }
            | Self::CreateFile { path, .. }
            | Self::LinkContainerLog { target: path, .. }
            | Self::RemoveContainerLogs { path, .. }
            | Self::RotateLog { path, .. }
            | Self::UndoLogRotation { path, .. }
            | Self::RemovePodLogs { path }
            | Self::HighestLog { directory: path }
            | Self::FsUsage { path } => path.clone(),
            Self::AskCredentialPlugin { executable, .. } => format!("credential provider plugin {executable}"),
            Self::PrepareNode
            | Self::ReadFiles { .. }
            | Self::MachineInfo
            | Self::NodeAddresses { .. }
            | Self::ListPodCgroups
            | Self::ListPodDirs
            | Self::ListPodLogs
            | Self::SweepLogLinks
            | Self::ListCsiVolumes
            | Self::LargeLogs { .. } => Call::Host(self.clone()).name().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Issue 10, S6: whatever is done below a pod's directories counts against that pod, and one volume has one turn.
    #[test]
    fn what_lies_below_a_pod_is_the_pods() {
        let pod = PodUid::new("u1");
        let tear_down = HostCall::TearDownVolume { pod: pod.clone(), volume: "v".into(), plugin: "p".into() };
        let clean = HostCall::CleanSubPaths { pod, volume: "v".into() };
        assert_eq!((tear_down.subject(), tear_down.turn()), ("u1".into(), clean.turn()));
        let mount = "/var/lib/kubelet/pods/u1/volumes/kubernetes.io~csi/pv/mount";
        let give = HostCall::GiveToGroup { path: mount.into(), group: 1, trust_root: false };
        let remove = HostCall::RemoveCsiVolume { mount: mount.into() };
        assert_eq!((give.subject(), give.turn()), ("u1".into(), remove.turn()));
        let of = |path: &str| HostCall::ReadFile { path: path.into() }.subject();
        assert_eq!(of("/var/lib/kubelet/pods/u1/etc-hosts"), "u1");
        assert_eq!(of("/etc/resolv.conf"), "/etc/resolv.conf");
        assert_eq!(HostCall::ListPodDirs.subject(), "ListPodDirs");
    }
}
