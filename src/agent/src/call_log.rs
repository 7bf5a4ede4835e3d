//! Says in the log which call of the runtime, the API server, the host or a plugin failed, about what, and after how long.
//! Upstream: staging/src/k8s.io/cri-client/pkg/remote_runtime.go and remote_image.go ("... from runtime service failed").
//! Differs: one place for all boundaries; what is not a fault (not found, withdrawn, a conflict) shows with --v=4 only.

use std::fmt;
use std::time::Duration;

use kubelet::action::{ApiCall, Call, CriCall, HostCall};
use kubelet::csi::CsiCall;
use kubelet::event::Event;
use kubelet::failure::{Failure, FailureKind};
use kubelet::pod::manager::name_of;
use tokio::time::Instant;
use tracing::Level;

/// One call that is under way, with what the log says of it: its name and what it is about, never what is in it.
pub(crate) struct CallLog {
    began: Instant,
    boundary: &'static str,
    name: &'static str,
    subject: String,
}

impl CallLog {
    /// Begins; nothing if nobody reads the log.
    pub(crate) fn begin(call: &Call) -> Option<Self> {
        if !tracing::enabled!(Level::WARN) {
            return None;
        }
        let (boundary, subject) = match call {
            Call::Cri(call) => ("runtime service", of_runtime(call)),
            Call::Api(call) => ("API server", of_api(call)),
            Call::Host(call) => ("host", of_host(call)),
            Call::Csi(call) => ("plugin", of_plugin(call)),
            Call::Probe(_) | Call::Fetch(_) | Call::Cancel(_) => return None,
        };
        Some(Self { began: Instant::now(), boundary, name: call.name(), subject })
    }

    /// The call ended. How long it took includes its wait for a place in its lane.
    pub(crate) fn end(self, event: &Event) {
        let Self { began, boundary, name, subject } = self;
        let took = Took(began.elapsed());
        match failure(event) {
            None => tracing::trace!(subject, %took, "{name} from {boundary} succeeded"),
            Some(failure) if is_fault(failure) => {
                tracing::warn!(subject, %took, error = failure.message, "{name} from {boundary} failed");
            }
            Some(failure) => tracing::debug!(subject, %took, error = failure.message, "{name} from {boundary} failed"),
        }
    }
}

struct Took(Duration);

impl fmt::Display for Took {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0.as_millis())
    }
}

/// Whether somebody should look at it: not at what the core asked for knowing that it may turn out so, nor at what is logged already.
fn is_fault(failure: &Failure) -> bool {
    match failure.kind {
        FailureKind::NotFound
        | FailureKind::AlreadyExists
        | FailureKind::Conflict
        | FailureKind::Gone
        | FailureKind::Forbidden
        | FailureKind::Unimplemented
        | FailureKind::Canceled => false,
        FailureKind::Unauthorized
        | FailureKind::Throttled { .. }
        | FailureKind::Unavailable
        | FailureKind::Invalid
        | FailureKind::UnknownOutcome
        | FailureKind::Other => true,
    }
}

fn failure(event: &Event) -> Option<&Failure> {
    match event {
        Event::CriDone { outcome, .. } => outcome.as_ref().err(),
        Event::ApiDone { outcome, .. } => outcome.as_ref().err(),
        Event::HostDone { outcome, .. } => outcome.as_ref().err(),
        Event::CsiDone { outcome, .. } => outcome.as_ref().err(),
        _ => None,
    }
}

fn of_runtime(call: &CriCall) -> String {
    match call {
        CriCall::Observe { pod } => pod.to_string(),
        CriCall::RunPodSandbox { config, .. } => {
            config.metadata.as_ref().map(|pod| format!("{}/{}", pod.namespace, pod.name)).unwrap_or_default()
        }
        CriCall::StopPodSandbox { id } | CriCall::RemovePodSandbox { id } => id.to_string(),
        CriCall::CreateContainer { sandbox, config, .. } => {
            format!("{} in {sandbox}", config.metadata.as_ref().map(|container| container.name.as_str()).unwrap_or_default())
        }
        CriCall::StartContainer { id }
        | CriCall::StopContainer { id, .. }
        | CriCall::RemoveContainer { id }
        | CriCall::ExecSync { id, .. }
        | CriCall::ReopenContainerLog { id } => id.to_string(),
        CriCall::ImageStatus { image } | CriCall::PullImage { image, .. } | CriCall::RemoveImage { image } => image.clone(),
        CriCall::Version
        | CriCall::Status
        | CriCall::RuntimeConfig
        | CriCall::UpdateRuntimeConfig { .. }
        | CriCall::List
        | CriCall::ListImages
        | CriCall::ImageFsInfo => String::new(),
    }
}

fn of_api(call: &ApiCall) -> String {
    match call {
        ApiCall::GetPod { namespace, name }
        | ApiCall::PatchPodStatus { namespace, name, .. }
        | ApiCall::DeletePod { namespace, name, .. }
        | ApiCall::GetPersistentVolumeClaim { namespace, name }
        | ApiCall::PatchEvent { namespace, name, .. }
        | ApiCall::CreateToken { namespace, service_account: name, .. } => format!("{namespace}/{name}"),
        ApiCall::CreatePod(pod) => {
            let pod = name_of(pod);
            format!("{}/{}", pod.namespace, pod.name)
        }
        ApiCall::CreateEvent(event) => {
            let about = &event.involved_object;
            format!("{}/{}", about.namespace.as_deref().unwrap_or_default(), about.name.as_deref().unwrap_or_default())
        }
        ApiCall::GetPersistentVolume { name } | ApiCall::GetVolumeAttachment { name } => name.clone(),
        ApiCall::GetObject { key, .. } | ApiCall::Watch(key) | ApiCall::Unwatch(key) => format!("{key:?}"),
        ApiCall::GetNode
        | ApiCall::CreateNode(_)
        | ApiCall::PatchNodeStatus(_)
        | ApiCall::GetLease
        | ApiCall::CreateLease(_)
        | ApiCall::UpdateLease(_)
        | ApiCall::GetCsiNode
        | ApiCall::CreateCsiNode(_)
        | ApiCall::UpdateCsiNode(_)
        | ApiCall::DeleteCsiNode => String::new(),
    }
}

fn of_host(call: &HostCall) -> String {
    match call {
        HostCall::ApplyCgroup { name, .. }
        | HostCall::EnsureCgroup { name, .. }
        | HostCall::CgroupExists { name }
        | HostCall::RemoveCgroup { name } => name.clone(),
        HostCall::MakePodDirs { pod, .. } | HostCall::RemovePodDir { pod } | HostCall::ListVolumes { pod } => pod.to_string(),
        HostCall::SetUpVolume { pod, volume, .. }
        | HostCall::TearDownVolume { pod, volume, .. }
        | HostCall::CleanSubPaths { pod, volume }
        | HostCall::BindSubPath { pod, volume, .. } => format!("{volume} of {pod}"),
        HostCall::AskCredentialPlugin { executable, .. } => executable.clone(),
        HostCall::ReadFiles { paths } => paths.join(", "),
        HostCall::ListPluginSockets { registry: path }
        | HostCall::ReadManifests { path }
        | HostCall::WriteFile { path, .. }
        | HostCall::ReadFile { path }
        | HostCall::WriteRecord { path, .. }
        | HostCall::RemoveFile { path }
        | HostCall::ReadDirectory { path, .. }
        | HostCall::CreateFile { path, .. }
        | HostCall::LinkContainerLog { link: path, .. }
        | HostCall::RemoveContainerLogs { path, .. }
        | HostCall::RotateLog { path, .. }
        | HostCall::UndoLogRotation { path, .. }
        | HostCall::RemovePodLogs { path }
        | HostCall::HighestLog { directory: path }
        | HostCall::PrepareCsiVolume { directory: path, .. }
        | HostCall::RemoveCsiVolume { mount: path }
        | HostCall::GiveToGroup { path, .. }
        | HostCall::FsUsage { path } => path.clone(),
        HostCall::PrepareNode
        | HostCall::MachineInfo
        | HostCall::NodeAddresses { .. }
        | HostCall::ListPodCgroups
        | HostCall::ListPodDirs
        | HostCall::ListPodLogs
        | HostCall::SweepLogLinks
        | HostCall::LargeLogs { .. }
        | HostCall::ListCsiVolumes => String::new(),
    }
}

fn of_plugin(call: &CsiCall) -> String {
    match call {
        CsiCall::GetPluginInfo { socket } | CsiCall::NotifyRegistration { socket, .. } => socket.clone(),
        CsiCall::NodeInfo { endpoint } | CsiCall::Capabilities { endpoint } => endpoint.clone(),
        CsiCall::Stage { request, .. } => request.volume_id.clone(),
        CsiCall::Publish { request, .. } => request.volume_id.clone(),
        CsiCall::Unpublish { volume, .. } | CsiCall::Unstage { volume, .. } => volume.clone(),
    }
}

#[cfg(test)]
mod tests {
    use kubelet::ids::ContainerId;

    use super::*;

    // A command may hold a secret; the log has the call's name and its container.
    #[test]
    fn command_is_not_told() {
        let command = vec!["login".to_owned(), "--password=hidden".to_owned()];
        assert_eq!(of_runtime(&CriCall::ExecSync { id: ContainerId::new("c1"), command, timeout: Duration::ZERO }), "c1");
    }

    #[test]
    fn what_is_no_fault_is_not_warned_of() {
        let faults = |kinds: &[FailureKind]| kinds.iter().filter(|kind| is_fault(&Failure::new(**kind, ""))).count();
        assert_eq!(faults(&[FailureKind::NotFound, FailureKind::Conflict, FailureKind::Canceled]), 0);
        assert_eq!(faults(&[FailureKind::Unavailable, FailureKind::UnknownOutcome, FailureKind::Other]), 3);
    }
}
