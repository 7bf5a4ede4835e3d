//! Pretend CSI drivers as real gRPC servers: registration and node service, over whatever stream they are given.
//! Upstream: github.com/container-storage-interface/spec, sigs.k8s.io/node-driver-registrar.
//! Differs: a driver registers and serves on one socket.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream;
use kubelet::csi::{CsiCall, CsiReply, PluginInfo};
use kubelet::failure::{Failure, FailureKind};
use kubelet::sensitive::Sensitive;
use proto::csi::node_server::{Node, NodeServer};
use proto::csi::node_service_capability::rpc::Type as Rpc;
use proto::csi::node_service_capability::{Rpc as RpcCapability, Type};
use proto::csi::*;
use proto::pluginregistration as registration;
use proto::pluginregistration::registration_server::{Registration, RegistrationServer};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Code, Request, Response, Status};

/// Makes a call of a driver, as the pretend one does.
pub type Calls = Arc<dyn Fn(CsiCall) -> BoxFuture<'static, Result<CsiReply, Failure>> + Send + Sync>;

/// Serves one connection to the socket at `endpoint` until it ends.
///
/// # Errors
/// As the connection fails.
pub async fn serve<S>(stream: S, endpoint: String, calls: Calls) -> Result<(), tonic::transport::Error>
where
    S: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let driver = Driver { endpoint, calls };
    let services = Server::builder().add_service(RegistrationServer::new(driver.clone())).add_service(NodeServer::new(driver));
    services.serve_with_incoming(stream::iter([Ok::<_, std::io::Error>(stream)])).await
}

#[derive(Clone)]
struct Driver {
    endpoint: String,
    calls: Calls,
}

impl Driver {
    async fn call(&self, call: CsiCall) -> Result<CsiReply, Status> {
        (self.calls)(call).await.map_err(|failure| status_of(&failure))
    }

    async fn done<T: Default>(&self, call: CsiCall) -> Result<Response<T>, Status> {
        self.call(call).await.map(|_| Response::new(T::default()))
    }
}

fn status_of(failure: &Failure) -> Status {
    let code = match failure.kind {
        FailureKind::NotFound => Code::NotFound,
        FailureKind::Conflict => Code::Aborted,
        FailureKind::Unavailable => Code::Unavailable,
        FailureKind::Throttled { .. } => Code::ResourceExhausted,
        FailureKind::Invalid => Code::InvalidArgument,
        FailureKind::UnknownOutcome => Code::DeadlineExceeded,
        FailureKind::Unimplemented => Code::Unimplemented,
        _ => Code::Internal,
    };
    Status::new(code, failure.message.clone())
}

#[tonic::async_trait]
impl Registration for Driver {
    async fn get_info(&self, _: Request<registration::InfoRequest>) -> Result<Response<registration::PluginInfo>, Status> {
        let reply = self.call(CsiCall::GetPluginInfo { socket: self.endpoint.clone() }).await?;
        let CsiReply::Plugin(PluginInfo { kind, name, endpoint, versions }) = reply else {
            return Err(Status::internal("no plugin"));
        };
        Ok(Response::new(registration::PluginInfo { r#type: kind, name, endpoint, supported_versions: versions }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<registration::RegistrationStatus>,
    ) -> Result<Response<registration::RegistrationStatusResponse>, Status> {
        let error = request.into_inner().error;
        self.done(CsiCall::NotifyRegistration { socket: self.endpoint.clone(), error }).await
    }
}

#[tonic::async_trait]
impl Node for Driver {
    async fn node_stage_volume(
        &self,
        request: Request<NodeStageVolumeRequest>,
    ) -> Result<Response<NodeStageVolumeResponse>, Status> {
        let request = Box::new(request.into_inner());
        self.done(CsiCall::Stage { endpoint: self.endpoint.clone(), request, secrets: Sensitive::default() }).await
    }

    async fn node_unstage_volume(
        &self,
        request: Request<NodeUnstageVolumeRequest>,
    ) -> Result<Response<NodeUnstageVolumeResponse>, Status> {
        let NodeUnstageVolumeRequest { volume_id: volume, staging_target_path: staging } = request.into_inner();
        self.done(CsiCall::Unstage { endpoint: self.endpoint.clone(), volume, staging }).await
    }

    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let request = Box::new(request.into_inner());
        let (secrets, private_context) = (Sensitive::default(), Sensitive::default());
        self.done(CsiCall::Publish { endpoint: self.endpoint.clone(), request, secrets, private_context }).await
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let NodeUnpublishVolumeRequest { volume_id: volume, target_path: target } = request.into_inner();
        self.done(CsiCall::Unpublish { endpoint: self.endpoint.clone(), volume, target }).await
    }

    async fn node_get_volume_stats(
        &self,
        _: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        Err(Status::unimplemented("NodeGetVolumeStats"))
    }

    async fn node_expand_volume(&self, _: Request<NodeExpandVolumeRequest>) -> Result<Response<NodeExpandVolumeResponse>, Status> {
        Err(Status::unimplemented("NodeExpandVolume"))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        let CsiReply::Capabilities(can) = self.call(CsiCall::Capabilities { endpoint: self.endpoint.clone() }).await? else {
            return Err(Status::internal("no capabilities"));
        };
        let all = [
            (can.stage, Rpc::StageUnstageVolume),
            (can.single_node_multi_writer, Rpc::SingleNodeMultiWriter),
            (can.mount_group, Rpc::VolumeMountGroup),
        ];
        let capability = |rpc: Rpc| NodeServiceCapability { r#type: Some(Type::Rpc(RpcCapability { r#type: rpc.into() })) };
        let capabilities = all.into_iter().filter(|(can, _)| *can).map(|(_, rpc)| capability(rpc)).collect();
        Ok(Response::new(NodeGetCapabilitiesResponse { capabilities }))
    }

    async fn node_get_info(&self, _: Request<NodeGetInfoRequest>) -> Result<Response<NodeGetInfoResponse>, Status> {
        let CsiReply::Node(node) = self.call(CsiCall::NodeInfo { endpoint: self.endpoint.clone() }).await? else {
            return Err(Status::internal("no node"));
        };
        let accessible_topology = (!node.topology.is_empty()).then_some(Topology { segments: node.topology });
        Ok(Response::new(NodeGetInfoResponse {
            node_id: node.node_id,
            max_volumes_per_node: node.max_volumes,
            accessible_topology,
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io;
    use std::net::SocketAddr;
    use std::sync::Mutex;

    use agent::env::{BoxedStream, Endpoint, Listener, Net};
    use agent::plugins::caller;
    use futures::FutureExt as _;
    use model::csi::CsiModel;

    use super::*;

    const SOCKET: &str = "/r/plugins_registry/d.io-reg.sock";

    /// Sockets that lead to the pretend drivers, who keep the calls that they get.
    #[derive(Clone, Default)]
    struct Sockets {
        drivers: Arc<Mutex<CsiModel>>,
        calls: Arc<Mutex<Vec<CsiCall>>>,
    }

    impl Net for Sockets {
        fn connect(&self, endpoint: Endpoint) -> BoxFuture<'_, io::Result<BoxedStream>> {
            let Endpoint::Unix(path) = endpoint else { panic!("{endpoint:?}") };
            let here = self.clone();
            async move {
                if here.drivers.lock().unwrap().behind(&path).is_none() {
                    return Err(io::ErrorKind::NotFound.into());
                }
                let (ours, theirs) = tokio::io::duplex(1 << 16);
                let calls: Calls = Arc::new(move |call| {
                    here.calls.lock().unwrap().push(call.clone());
                    let answer = here.drivers.lock().unwrap().call(&call);
                    async move { answer }.boxed()
                });
                tokio::spawn(serve(theirs, path, calls));
                Ok(Box::pin(ours) as BoxedStream)
            }
            .boxed()
        }

        fn listen(&self, _: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
            async { Err(io::ErrorKind::Unsupported.into()) }.boxed()
        }
    }

    fn publish() -> CsiCall {
        let private = |key: &str| Sensitive::new(BTreeMap::from([(key.to_owned(), "hidden".to_owned())]));
        let request = NodePublishVolumeRequest {
            volume_id: "v".to_owned(),
            target_path: "/t".to_owned(),
            volume_context: BTreeMap::from([("shown".to_owned(), "x".to_owned())]),
            ..NodePublishVolumeRequest::default()
        };
        CsiCall::Publish {
            endpoint: format!("unix://{SOCKET}"),
            request: Box::new(request),
            secrets: private("secret"),
            private_context: private("tokens"),
        }
    }

    // CSI-001, CSI-007, CSI-017: what the core asks for is what a driver gets, secrets and tokens included.
    #[tokio::test]
    async fn calls_reach_the_driver_whole() {
        let sockets = Sockets::default();
        sockets.drivers.lock().unwrap().starts("d.io", true);
        let call = caller(Arc::new(sockets.clone()));
        let Ok(CsiReply::Plugin(found)) = call(CsiCall::GetPluginInfo { socket: SOCKET.to_owned() }).await else { panic!() };
        assert_eq!((found.kind.as_str(), found.name.as_str()), ("CSIPlugin", "d.io"));
        let Ok(CsiReply::Capabilities(can)) = call(CsiCall::Capabilities { endpoint: SOCKET.to_owned() }).await else { panic!() };
        assert!(can.stage && !can.mount_group && !can.single_node_multi_writer);
        let Ok(CsiReply::Node(node)) = call(CsiCall::NodeInfo { endpoint: SOCKET.to_owned() }).await else { panic!() };
        assert_eq!(node.node_id, "node-1");
        assert!(matches!(call(publish()).await, Ok(CsiReply::Done)));
        let calls = sockets.calls.lock().unwrap();
        let Some(CsiCall::Publish { request, .. }) = calls.last() else { panic!("{calls:?}") };
        assert_eq!(request.secrets.keys().collect::<Vec<_>>(), ["secret"]);
        assert_eq!(request.volume_context.keys().collect::<Vec<_>>(), ["shown", "tokens"]);
        assert!(!format!("{calls:?}").contains("hidden"));
    }

    // CSI-009: what the core tells apart, in the words that users know.
    #[tokio::test]
    async fn failures_are_told_apart_in_grpcs_words() {
        let sockets = Sockets::default();
        let call = caller(Arc::new(sockets.clone()));
        let missing = call(publish()).await.unwrap_err();
        assert_eq!(missing.kind, FailureKind::Unavailable);
        assert!(missing.message.starts_with("rpc error: code = Unavailable desc = connection error"), "{missing}");
        sockets.drivers.lock().unwrap().starts("d.io", true);
        let mut held = publish();
        if let CsiCall::Publish { endpoint, .. } = &mut held {
            *endpoint = SOCKET.to_owned();
        }
        let _goes_on = sockets.drivers.lock().unwrap().hold(&held);
        let busy = call(publish()).await.unwrap_err();
        assert_eq!(busy.kind, FailureKind::Conflict);
        assert_eq!(busy.message, "rpc error: code = Aborted desc = an operation with the given volume already exists");
    }
}
