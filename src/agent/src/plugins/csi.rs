//! Calls of plugins over their Unix sockets: registration, and the node service of CSI drivers.
//! Upstream: pkg/volume/csi/csi_client.go, pkg/kubelet/pluginmanager/operationexecutor/operation_generator.go.
//! Differs: nothing on purpose.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use kubelet::csi::{CsiCall, CsiReply, DriverCapabilities, DriverNode, PluginInfo};
use kubelet::failure::Failure;
use proto::csi::node_client::NodeClient;
use proto::csi::node_service_capability::Type;
use proto::csi::node_service_capability::rpc::Type as Rpc;
use proto::csi::{
    NodeGetCapabilitiesRequest, NodeGetCapabilitiesResponse, NodeGetInfoRequest, NodeUnpublishVolumeRequest,
    NodeUnstageVolumeRequest,
};
use proto::pluginregistration::registration_client::RegistrationClient;
use proto::pluginregistration::{InfoRequest, RegistrationStatus};
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::env::{Endpoint, Net};
use crate::grpc;

/// Makes a call of a plugin. The deadline is the caller's.
pub type Caller = Arc<dyn Fn(CsiCall) -> BoxFuture<'static, Result<CsiReply, Failure>> + Send + Sync>;

/// A caller over these sockets. Each call has a connection of its own (CSI-007).
#[must_use]
pub fn caller(net: Arc<dyn Net>) -> Caller {
    Arc::new(move |call| make(Arc::clone(&net), call).boxed())
}

/// Some drivers register their endpoint as a URL.
fn channel(net: Arc<dyn Net>, socket: &str) -> Channel {
    let path = socket.strip_prefix("unix://").unwrap_or(socket);
    grpc::channel(net, Endpoint::Unix(path.to_owned()))
}

async fn make(net: Arc<dyn Net>, call: CsiCall) -> Result<CsiReply, Failure> {
    match call {
        CsiCall::GetPluginInfo { socket } => {
            let answer = RegistrationClient::new(channel(net, &socket)).get_info(InfoRequest {}).await;
            let info = reply(answer)?;
            let (kind, versions) = (info.r#type, info.supported_versions);
            Ok(CsiReply::Plugin(PluginInfo { kind, name: info.name, endpoint: info.endpoint, versions }))
        }
        CsiCall::NotifyRegistration { socket, error } => {
            let status = RegistrationStatus { plugin_registered: error.is_empty(), error };
            done(RegistrationClient::new(channel(net, &socket)).notify_registration_status(status).await)
        }
        CsiCall::NodeInfo { endpoint } => {
            let info = reply(NodeClient::new(channel(net, &endpoint)).node_get_info(NodeGetInfoRequest {}).await)?;
            let topology = info.accessible_topology.unwrap_or_default().segments;
            Ok(CsiReply::Node(DriverNode { node_id: info.node_id, max_volumes: info.max_volumes_per_node, topology }))
        }
        CsiCall::Capabilities { endpoint } => {
            let answer = NodeClient::new(channel(net, &endpoint)).node_get_capabilities(NodeGetCapabilitiesRequest {}).await;
            Ok(CsiReply::Capabilities(capabilities(&reply(answer)?)))
        }
        CsiCall::Stage { endpoint, mut request, secrets } => {
            request.secrets = secrets.into_inner();
            done(NodeClient::new(channel(net, &endpoint)).node_stage_volume(*request).await)
        }
        CsiCall::Publish { endpoint, mut request, secrets, private_context } => {
            request.secrets = secrets.into_inner();
            request.volume_context.extend(private_context.into_inner());
            done(NodeClient::new(channel(net, &endpoint)).node_publish_volume(*request).await)
        }
        CsiCall::Unpublish { endpoint, volume: volume_id, target: target_path } => {
            let request = NodeUnpublishVolumeRequest { volume_id, target_path };
            done(NodeClient::new(channel(net, &endpoint)).node_unpublish_volume(request).await)
        }
        CsiCall::Unstage { endpoint, volume: volume_id, staging: staging_target_path } => {
            let request = NodeUnstageVolumeRequest { volume_id, staging_target_path };
            done(NodeClient::new(channel(net, &endpoint)).node_unstage_volume(request).await)
        }
    }
}

fn capabilities(answer: &NodeGetCapabilitiesResponse) -> DriverCapabilities {
    let mut can = DriverCapabilities::default();
    for capability in &answer.capabilities {
        let Some(Type::Rpc(rpc)) = &capability.r#type else { continue };
        match rpc.r#type() {
            Rpc::StageUnstageVolume => can.stage = true,
            Rpc::SingleNodeMultiWriter => can.single_node_multi_writer = true,
            Rpc::VolumeMountGroup => can.mount_group = true,
            _ => {}
        }
    }
    can
}

fn done<T>(outcome: Result<Response<T>, Status>) -> Result<CsiReply, Failure> {
    reply(outcome).map(|_| CsiReply::Done)
}

/// Users know what drivers say with gRPC's own words around it.
fn reply<T>(outcome: Result<Response<T>, Status>) -> Result<T, Failure> {
    outcome.map(Response::into_inner).map_err(|status| {
        let failure = grpc::failure(&status);
        Failure { message: failure.rpc_message(), ..failure }
    })
}

#[cfg(test)]
mod tests {
    use kubelet::failure::FailureKind;

    use super::*;

    // API-147: pkg/volume/util/metrics.go, getErrorCode; the words of a driver are told with gRPC's around them.
    #[test]
    fn refusal_of_a_driver_has_its_code_and_its_words() {
        let failure = reply::<()>(Err(Status::cancelled("no"))).unwrap_err();
        assert_eq!(failure.to_string(), "rpc error: code = Canceled desc = no");
        assert_eq!((failure.code.as_deref(), failure.kind), (Some("Canceled"), FailureKind::UnknownOutcome));
    }
}
