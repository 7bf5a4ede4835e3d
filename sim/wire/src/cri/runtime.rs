//! The runtime service of the pretend runtime, one RPC after the other.
//! Upstream: k8s.io/cri-api RuntimeService.
//! Differs: stats, checkpoints, resizes and streaming lists are Unimplemented, as in containerd 1.6.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use kubelet::action::CriCall;
use kubelet::event::CriReply;
use kubelet::ids::{ContainerId, PodUid, SandboxId};
use proto::cri::runtime_service_server::RuntimeService;
use proto::cri::*;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::{CriServer, convert, unexpected};

type Reply<T> = Result<Response<T>, Status>;

fn not_had<T>(method: &str) -> Reply<T> {
    Err(Status::unimplemented(format!("unknown method {method} for service runtime.v1.RuntimeService")))
}

fn selector(filter: Option<std::collections::BTreeMap<String, String>>) -> std::collections::BTreeMap<String, String> {
    filter.unwrap_or_default()
}

#[tonic::async_trait]
impl RuntimeService for CriServer {
    type StreamPodSandboxesStream = BoxStream<StreamPodSandboxesResponse>;
    type StreamContainersStream = BoxStream<StreamContainersResponse>;
    type StreamContainerStatsStream = BoxStream<StreamContainerStatsResponse>;
    type StreamPodSandboxStatsStream = BoxStream<StreamPodSandboxStatsResponse>;
    type StreamPodSandboxMetricsStream = BoxStream<StreamPodSandboxMetricsResponse>;
    type GetContainerEventsStream = BoxStream<ContainerEventResponse>;

    async fn version(&self, _: Request<VersionRequest>) -> Reply<VersionResponse> {
        match self.call("Version", CriCall::Version).await? {
            CriReply::Version(version) => Ok(Response::new(VersionResponse {
                version: "0.1.0".to_owned(),
                runtime_name: version.name,
                runtime_version: version.version,
                runtime_api_version: version.api_version,
            })),
            other => Err(unexpected(&other)),
        }
    }

    async fn status(&self, _: Request<StatusRequest>) -> Reply<StatusResponse> {
        let CriReply::Status(status) = self.call("Status", CriCall::Status).await? else {
            return Err(Status::internal("the pretend runtime answered something else"));
        };
        let condition = |kind: &str, c: Option<kubelet::observation::RuntimeCondition>| {
            c.map(|c| RuntimeCondition { r#type: kind.to_owned(), status: c.status, reason: c.reason, message: c.message })
        };
        let conditions = [condition("RuntimeReady", status.runtime_ready), condition("NetworkReady", status.network_ready)];
        let features =
            RuntimeFeatures { supplemental_groups_policy: status.supplemental_groups_policy, ..RuntimeFeatures::default() };
        Ok(Response::new(StatusResponse {
            status: Some(RuntimeStatus { conditions: conditions.into_iter().flatten().collect() }),
            runtime_handlers: status.handlers.into_iter().map(convert::handler).collect(),
            features: Some(features),
            ..StatusResponse::default()
        }))
    }

    async fn runtime_config(&self, _: Request<RuntimeConfigRequest>) -> Reply<RuntimeConfigResponse> {
        match self.call("RuntimeConfig", CriCall::RuntimeConfig).await? {
            CriReply::RuntimeConfig { systemd_cgroup } => {
                let driver = if systemd_cgroup == Some(true) { CgroupDriver::Systemd } else { CgroupDriver::Cgroupfs };
                let linux = Some(LinuxRuntimeConfiguration { cgroup_driver: driver as i32 });
                Ok(Response::new(RuntimeConfigResponse { linux }))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn run_pod_sandbox(&self, request: Request<RunPodSandboxRequest>) -> Reply<RunPodSandboxResponse> {
        let request = request.into_inner();
        let config = Arc::new(request.config.unwrap_or_default());
        let call = CriCall::RunPodSandbox { config, runtime_handler: request.runtime_handler };
        match self.call("RunPodSandbox", call).await? {
            CriReply::Sandbox(id) => Ok(Response::new(RunPodSandboxResponse { pod_sandbox_id: id.to_string() })),
            other => Err(unexpected(&other)),
        }
    }

    async fn stop_pod_sandbox(&self, request: Request<StopPodSandboxRequest>) -> Reply<StopPodSandboxResponse> {
        let id = SandboxId::new(request.into_inner().pod_sandbox_id);
        self.call("StopPodSandbox", CriCall::StopPodSandbox { id }).await?;
        Ok(Response::new(StopPodSandboxResponse::default()))
    }

    async fn remove_pod_sandbox(&self, request: Request<RemovePodSandboxRequest>) -> Reply<RemovePodSandboxResponse> {
        let id = SandboxId::new(request.into_inner().pod_sandbox_id);
        self.call("RemovePodSandbox", CriCall::RemovePodSandbox { id }).await?;
        Ok(Response::new(RemovePodSandboxResponse::default()))
    }

    async fn pod_sandbox_status(&self, request: Request<PodSandboxStatusRequest>) -> Reply<PodSandboxStatusResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let status = self.with(|model, _| model.sandboxes.get(&id).map(convert::sandbox_status));
        match status {
            Some(status) => {
                Ok(Response::new(PodSandboxStatusResponse { status: Some(status), ..PodSandboxStatusResponse::default() }))
            }
            None => Err(Status::not_found(format!("an error occurred when try to find sandbox \"{id}\": not found"))),
        }
    }

    async fn list_pod_sandbox(&self, request: Request<ListPodSandboxRequest>) -> Reply<ListPodSandboxResponse> {
        self.call("ListPodSandbox", CriCall::List).await?;
        let filter = request.into_inner().filter.unwrap_or_default();
        let wanted = selector(Some(filter.label_selector));
        let items = self.with(|model, _| {
            let all = model.sandboxes.values().map(convert::listed_sandbox);
            all.filter(|s| convert::selected(&s.labels, &wanted))
                .filter(|s| filter.id.is_empty() || s.id == filter.id)
                .filter(|s| filter.state.as_ref().is_none_or(|state| state.state == s.state))
                .collect()
        });
        Ok(Response::new(ListPodSandboxResponse { items }))
    }

    async fn create_container(&self, request: Request<CreateContainerRequest>) -> Reply<CreateContainerResponse> {
        let request = request.into_inner();
        let call = CriCall::CreateContainer {
            sandbox: SandboxId::new(request.pod_sandbox_id),
            config: Box::new(request.config.unwrap_or_default()),
            sandbox_config: Arc::new(request.sandbox_config.unwrap_or_default()),
        };
        match self.call("CreateContainer", call).await? {
            CriReply::Container(id) => Ok(Response::new(CreateContainerResponse { container_id: id.to_string() })),
            other => Err(unexpected(&other)),
        }
    }

    async fn start_container(&self, request: Request<StartContainerRequest>) -> Reply<StartContainerResponse> {
        let id = ContainerId::new(request.into_inner().container_id);
        self.call("StartContainer", CriCall::StartContainer { id }).await?;
        Ok(Response::new(StartContainerResponse::default()))
    }

    async fn stop_container(&self, request: Request<StopContainerRequest>) -> Reply<StopContainerResponse> {
        let request = request.into_inner();
        let grace = Duration::from_secs(u64::try_from(request.timeout).unwrap_or(0));
        let call = CriCall::StopContainer { id: ContainerId::new(request.container_id), grace };
        self.call("StopContainer", call).await?;
        Ok(Response::new(StopContainerResponse::default()))
    }

    async fn remove_container(&self, request: Request<RemoveContainerRequest>) -> Reply<RemoveContainerResponse> {
        let id = ContainerId::new(request.into_inner().container_id);
        self.call("RemoveContainer", CriCall::RemoveContainer { id }).await?;
        Ok(Response::new(RemoveContainerResponse::default()))
    }

    async fn list_containers(&self, request: Request<ListContainersRequest>) -> Reply<ListContainersResponse> {
        self.call("ListContainers", CriCall::List).await?;
        let filter = request.into_inner().filter.unwrap_or_default();
        let wanted = selector(Some(filter.label_selector));
        let containers = self.with(|model, _| {
            let all = model.containers.values().map(convert::listed_container);
            all.filter(|c| convert::selected(&c.labels, &wanted))
                .filter(|c| filter.id.is_empty() || c.id == filter.id)
                .filter(|c| filter.pod_sandbox_id.is_empty() || c.pod_sandbox_id == filter.pod_sandbox_id)
                .filter(|c| filter.state.as_ref().is_none_or(|state| state.state == c.state))
                .collect()
        });
        Ok(Response::new(ListContainersResponse { containers }))
    }

    async fn container_status(&self, request: Request<ContainerStatusRequest>) -> Reply<ContainerStatusResponse> {
        let id = request.into_inner().container_id;
        let status = self.with(|model, _| model.containers.get(&id).map(|c| convert::container_status(model, c)));
        match status {
            Some(status) => {
                Ok(Response::new(ContainerStatusResponse { status: Some(status), ..ContainerStatusResponse::default() }))
            }
            None => Err(Status::not_found(format!("an error occurred when try to find container \"{id}\": not found"))),
        }
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Reply<ExecSyncResponse> {
        let request = request.into_inner();
        let call = CriCall::ExecSync {
            id: ContainerId::new(request.container_id),
            command: request.cmd,
            timeout: Duration::from_secs(u64::try_from(request.timeout).unwrap_or(0)),
        };
        let run = self.call("ExecSync", call);
        let limit = Duration::from_secs(u64::try_from(request.timeout).unwrap_or(0));
        let reply = if limit.is_zero() {
            run.await?
        } else {
            let timed_out =
                |_| Status::deadline_exceeded("failed to exec in container: timeout exceeded: context deadline exceeded");
            tokio::time::timeout(limit, run).await.map_err(timed_out)??
        };
        match reply {
            CriReply::Exec { exit_code, output, .. } => {
                Ok(Response::new(ExecSyncResponse { exit_code, stdout: output.into_bytes(), stderr: Vec::new() }))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn reopen_container_log(&self, _: Request<ReopenContainerLogRequest>) -> Reply<ReopenContainerLogResponse> {
        Ok(Response::new(ReopenContainerLogResponse::default()))
    }

    async fn update_runtime_config(&self, _: Request<UpdateRuntimeConfigRequest>) -> Reply<UpdateRuntimeConfigResponse> {
        Ok(Response::new(UpdateRuntimeConfigResponse::default()))
    }

    async fn get_container_events(&self, _: Request<GetEventsRequest>) -> Reply<Self::GetContainerEventsStream> {
        if !self.with(|model, _| model.has_events) {
            return not_had("GetContainerEvents");
        }
        // What happened before the stream opened is not told.
        self.with(|model, _| model.take_changed());
        let server = self.clone();
        let changed = self.changed.subscribe();
        let stream = futures::stream::unfold((server, changed), |(server, mut changed)| async move {
            loop {
                let pods = server.with(|model, now| (model.take_changed(), now));
                if !pods.0.is_empty() {
                    let events: Vec<_> = pods.0.iter().map(|pod| Ok(server.event_of(pod))).collect();
                    return Some((futures::stream::iter(events), (server, changed)));
                }
                changed.changed().await.ok()?;
            }
        });
        Ok(Response::new(stream.flatten().boxed()))
    }

    async fn exec(&self, _: Request<ExecRequest>) -> Reply<ExecResponse> {
        not_had("Exec")
    }
    async fn attach(&self, _: Request<AttachRequest>) -> Reply<AttachResponse> {
        not_had("Attach")
    }
    async fn port_forward(&self, _: Request<PortForwardRequest>) -> Reply<PortForwardResponse> {
        not_had("PortForward")
    }
    async fn update_container_resources(
        &self,
        _: Request<UpdateContainerResourcesRequest>,
    ) -> Reply<UpdateContainerResourcesResponse> {
        not_had("UpdateContainerResources")
    }
    async fn update_pod_sandbox_resources(
        &self,
        _: Request<UpdatePodSandboxResourcesRequest>,
    ) -> Reply<UpdatePodSandboxResourcesResponse> {
        not_had("UpdatePodSandboxResources")
    }
    async fn container_stats(&self, _: Request<ContainerStatsRequest>) -> Reply<ContainerStatsResponse> {
        not_had("ContainerStats")
    }
    async fn list_container_stats(&self, _: Request<ListContainerStatsRequest>) -> Reply<ListContainerStatsResponse> {
        Ok(Response::new(ListContainerStatsResponse::default()))
    }
    async fn pod_sandbox_stats(&self, _: Request<PodSandboxStatsRequest>) -> Reply<PodSandboxStatsResponse> {
        not_had("PodSandboxStats")
    }
    async fn list_pod_sandbox_stats(&self, _: Request<ListPodSandboxStatsRequest>) -> Reply<ListPodSandboxStatsResponse> {
        not_had("ListPodSandboxStats")
    }
    async fn checkpoint_container(&self, _: Request<CheckpointContainerRequest>) -> Reply<CheckpointContainerResponse> {
        not_had("CheckpointContainer")
    }
    async fn list_metric_descriptors(&self, _: Request<ListMetricDescriptorsRequest>) -> Reply<ListMetricDescriptorsResponse> {
        not_had("ListMetricDescriptors")
    }
    async fn list_pod_sandbox_metrics(&self, _: Request<ListPodSandboxMetricsRequest>) -> Reply<ListPodSandboxMetricsResponse> {
        not_had("ListPodSandboxMetrics")
    }
    async fn stream_pod_sandboxes(&self, _: Request<StreamPodSandboxesRequest>) -> Reply<Self::StreamPodSandboxesStream> {
        not_had("StreamPodSandboxes")
    }
    async fn stream_containers(&self, _: Request<StreamContainersRequest>) -> Reply<Self::StreamContainersStream> {
        not_had("StreamContainers")
    }
    async fn stream_container_stats(&self, _: Request<StreamContainerStatsRequest>) -> Reply<Self::StreamContainerStatsStream> {
        not_had("StreamContainerStats")
    }
    async fn stream_pod_sandbox_stats(&self, _: Request<StreamPodSandboxStatsRequest>) -> Reply<Self::StreamPodSandboxStatsStream> {
        not_had("StreamPodSandboxStats")
    }
    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<StreamPodSandboxMetricsRequest>,
    ) -> Reply<Self::StreamPodSandboxMetricsStream> {
        not_had("StreamPodSandboxMetrics")
    }
}

impl CriServer {
    fn event_of(&self, pod: &PodUid) -> ContainerEventResponse {
        self.with(|model, now| {
            let sandbox =
                model.sandboxes.values().rev().find(|s| s.config.metadata.as_ref().is_some_and(|m| m.uid == pod.as_str()));
            let containers = model.containers.values().filter(|c| c.pod == *pod);
            ContainerEventResponse {
                container_id: sandbox.map(|s| s.id.clone()).unwrap_or_default(),
                container_event_type: ContainerEventType::ContainerStartedEvent as i32,
                created_at: i64::try_from(now.as_nanosecond()).unwrap_or_default(),
                pod_sandbox_status: sandbox.map(convert::sandbox_status).or_else(|| Some(gone(pod))),
                containers_statuses: containers.map(|c| convert::container_status(model, c)).collect(),
            }
        })
    }
}

/// A pod of which nothing is left: its UID is all there is to tell.
fn gone(pod: &PodUid) -> PodSandboxStatus {
    let metadata = PodSandboxMetadata { uid: pod.to_string(), ..PodSandboxMetadata::default() };
    PodSandboxStatus { metadata: Some(metadata), ..PodSandboxStatus::default() }
}
