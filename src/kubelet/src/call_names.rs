//! What calls are called: in logs, metrics, traces and fault plans.
//! Upstream: CRI method names; API verbs as audit logs combine them with resources.
//! Differs: nothing on purpose.

use crate::action::{ApiCall, Call, CriCall, HostCall, ProbeCall};
use crate::csi::CsiCall;
use crate::event::Event;

impl Call {
    /// Such as `RunPodSandbox` or `PatchPodStatus`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Cri(call) => call.name(),
            Self::Api(call) => call.name(),
            Self::Host(call) => call.name(),
            Self::Probe(ProbeCall::Http { .. }) => "HttpProbe",
            Self::Probe(ProbeCall::Tcp { .. }) => "TcpProbe",
            Self::Probe(ProbeCall::Grpc { .. }) => "GrpcProbe",
            Self::Csi(call) => call.name(),
            Self::Fetch(_) => "FetchManifests",
            Self::Cancel(_) => "Cancel",
        }
    }
}

impl Event {
    /// Its kind.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Started => "Started",
            Self::WatchListed { .. } => "WatchListed",
            Self::WatchApplied { .. } => "WatchApplied",
            Self::WatchDeleted { .. } => "WatchDeleted",
            Self::WatchFailed { .. } => "WatchFailed",
            Self::ManifestsChanged => "ManifestsChanged",
            Self::RuntimeEventsOpened => "RuntimeEventsOpened",
            Self::RuntimeEventsClosed { .. } => "RuntimeEventsClosed",
            Self::RuntimeChanged { .. } => "RuntimeChanged",
            Self::CriDone { .. } => "CriDone",
            Self::ApiDone { .. } => "ApiDone",
            Self::HostDone { .. } => "HostDone",
            Self::ProbeDone { .. } => "ProbeDone",
            Self::CsiDone { .. } => "CsiDone",
            Self::FetchDone { .. } => "FetchDone",
            Self::PluginsChanged => "PluginsChanged",
            Self::PluginsUnwatched => "PluginsUnwatched",
            Self::TimerFired => "TimerFired",
        }
    }
}

impl CriCall {
    /// The CRI method; `List` and `Observe` stand for several.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Version => "Version",
            Self::Status => "Status",
            Self::RuntimeConfig => "RuntimeConfig",
            Self::UpdateRuntimeConfig { .. } => "UpdateRuntimeConfig",
            Self::List => "List",
            Self::Observe { .. } => "Observe",
            Self::RunPodSandbox { .. } => "RunPodSandbox",
            Self::StopPodSandbox { .. } => "StopPodSandbox",
            Self::RemovePodSandbox { .. } => "RemovePodSandbox",
            Self::CreateContainer { .. } => "CreateContainer",
            Self::StartContainer { .. } => "StartContainer",
            Self::StopContainer { .. } => "StopContainer",
            Self::RemoveContainer { .. } => "RemoveContainer",
            Self::ExecSync { .. } => "ExecSync",
            Self::ReopenContainerLog { .. } => "ReopenContainerLog",
            Self::ImageStatus { .. } => "ImageStatus",
            Self::PullImage { .. } => "PullImage",
            Self::ListImages => "ListImages",
            Self::RemoveImage { .. } => "RemoveImage",
            Self::ImageFsInfo => "ImageFsInfo",
        }
    }
}

impl ApiCall {
    /// Verb and resource.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Watch(_) => "Watch",
            Self::Unwatch(_) => "Unwatch",
            Self::GetNode => "GetNode",
            Self::CreateNode(_) => "CreateNode",
            Self::PatchNodeStatus(_) => "PatchNodeStatus",
            Self::GetLease => "GetLease",
            Self::CreateLease(_) => "CreateLease",
            Self::UpdateLease(_) => "UpdateLease",
            Self::GetCsiNode => "GetCsiNode",
            Self::CreateCsiNode(_) => "CreateCsiNode",
            Self::UpdateCsiNode(_) => "UpdateCsiNode",
            Self::DeleteCsiNode => "DeleteCsiNode",
            Self::GetPod { .. } => "GetPod",
            Self::CreatePod(_) => "CreatePod",
            Self::PatchPodStatus { .. } => "PatchPodStatus",
            Self::DeletePod { .. } => "DeletePod",
            Self::GetPersistentVolumeClaim { .. } => "GetPersistentVolumeClaim",
            Self::GetPersistentVolume { .. } => "GetPersistentVolume",
            Self::GetVolumeAttachment { .. } => "GetVolumeAttachment",
            Self::GetObject { .. } => "GetObject",
            Self::CreateToken { .. } => "CreateToken",
            Self::CreateEvent(_) => "CreateEvent",
            Self::PatchEvent { .. } => "PatchEvent",
        }
    }
}

impl CsiCall {
    /// The method of the plugin's service.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::GetPluginInfo { .. } => "GetInfo",
            Self::NotifyRegistration { .. } => "NotifyRegistrationStatus",
            Self::NodeInfo { .. } => "NodeGetInfo",
            Self::Capabilities { .. } => "NodeGetCapabilities",
            Self::Stage { .. } => "NodeStageVolume",
            Self::Publish { .. } => "NodePublishVolume",
            Self::Unpublish { .. } => "NodeUnpublishVolume",
            Self::Unstage { .. } => "NodeUnstageVolume",
        }
    }
}

impl HostCall {
    /// The operation.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::PrepareNode => "PrepareNode",
            Self::MachineInfo => "MachineInfo",
            Self::NodeAddresses { .. } => "NodeAddresses",
            Self::ApplyCgroup { .. } => "ApplyCgroup",
            Self::EnsureCgroup { .. } => "EnsureCgroup",
            Self::CgroupExists { .. } => "CgroupExists",
            Self::RemoveCgroup { .. } => "RemoveCgroup",
            Self::ListPodCgroups => "ListPodCgroups",
            Self::ReadManifests { .. } => "ReadManifests",
            Self::ListPluginSockets { .. } => "ListPluginSockets",
            Self::MakePodDirs { .. } => "MakePodDirs",
            Self::RemovePodDir { .. } => "RemovePodDir",
            Self::ListPodDirs => "ListPodDirs",
            Self::ListPodLogs => "ListPodLogs",
            Self::SweepLogLinks => "SweepLogLinks",
            Self::WriteFile { .. } => "WriteFile",
            Self::ReadFile { .. } => "ReadFile",
            Self::WriteRecord { .. } => "WriteRecord",
            Self::RemoveFile { .. } => "RemoveFile",
            Self::ReadDirectory { .. } => "ReadDirectory",
            Self::ReadFiles { .. } => "ReadFiles",
            Self::AskCredentialPlugin { .. } => "AskCredentialPlugin",
            Self::CreateFile { .. } => "CreateFile",
            Self::LinkContainerLog { .. } => "LinkContainerLog",
            Self::RemoveContainerLogs { .. } => "RemoveContainerLogs",
            Self::RemovePodLogs { .. } => "RemovePodLogs",
            Self::LargeLogs { .. } => "LargeLogs",
            Self::RotateLog { .. } => "RotateLog",
            Self::UndoLogRotation { .. } => "UndoLogRotation",
            Self::HighestLog { .. } => "HighestLog",
            Self::SetUpVolume { .. } => "SetUpVolume",
            Self::TearDownVolume { .. } => "TearDownVolume",
            Self::ListCsiVolumes => "ListCsiVolumes",
            Self::PrepareCsiVolume { .. } => "PrepareCsiVolume",
            Self::RemoveCsiVolume { .. } => "RemoveCsiVolume",
            Self::CleanSubPaths { .. } => "CleanSubPaths",
            Self::GiveToGroup { .. } => "GiveToGroup",
            Self::ListVolumes { .. } => "ListVolumes",
            Self::BindSubPath { .. } => "BindSubPath",
            Self::FsUsage { .. } => "FsUsage",
        }
    }
}
