//! The container runtime over CRI v1: one connection that re-makes itself, strict about what it is told.
//! Upstream: staging/src/k8s.io/cri-client/pkg/{remote_runtime,remote_image}.go.
//! Differs: nothing is retried or timed here; deadlines are the executor's.

mod client;
mod connection;
mod convert;
mod error;
mod events;
mod observe;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use kubelet::action::CriCall;
use kubelet::event::CriReply;
use kubelet::failure::Failure;
use kubelet::ids::PodUid;
use kubelet::time::Mono;
use proto::cri::image_service_client::ImageServiceClient;
use proto::cri::runtime_service_client::RuntimeServiceClient;
use tokio::time::Instant;
use tonic::transport::Channel;

pub use connection::{EndpointError, parse_endpoint};

use crate::env::{ContainerRuntime, Endpoint, Net, StreamRequest};
use crate::grpc;

/// The largest answer that is accepted, in bytes (CRI-001).
const MAX_MESSAGE: usize = 16 << 20;

/// A container runtime behind CRI v1.
#[derive(Clone)]
pub struct CriRuntime {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    epoch: Instant,
    trouble: Arc<Trouble>,
}

/// What keeps the runtime from telling its version, told once.
#[derive(Debug, Default)]
struct Trouble {
    endpoint: String,
    told: Mutex<String>,
}

impl Trouble {
    /// API-291: what operators look for in the log of an agent whose runtime is not there. Says whether it was told.
    fn tell(&self, outcome: Result<(), &Failure>) -> bool {
        let now = outcome.err().map(|failure| failure.message.clone()).unwrap_or_default();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if *told == now {
            return false;
        }
        *told = now;
        if !told.is_empty() {
            let endpoint = &self.endpoint;
            tracing::error!(error = %told, "validate service connection: validate CRI v1 runtime API for endpoint {endpoint:?}");
        }
        !told.is_empty()
    }
}

impl CriRuntime {
    /// A client of the runtime service at `runtime` and the image service at `images` (often the same endpoint, which then
    /// shares one connection). Observations are stamped with the time since `epoch`, the core's zero. Nothing is opened
    /// before the first call; must be called within a tokio runtime, which then carries the connection.
    #[must_use]
    pub fn new(net: &Arc<dyn Net>, runtime: &Endpoint, images: &Endpoint, epoch: Instant) -> Self {
        let channel = grpc::channel(Arc::clone(net), runtime.clone());
        let image_channel = if images == runtime { channel.clone() } else { grpc::channel(Arc::clone(net), images.clone()) };
        Self {
            runtime: RuntimeServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE),
            images: ImageServiceClient::new(image_channel).max_decoding_message_size(MAX_MESSAGE),
            epoch,
            trouble: Arc::new(Trouble { endpoint: shown(runtime), told: Mutex::default() }),
        }
    }

    fn now(&self) -> Mono {
        Mono::from_start(Instant::now().duration_since(self.epoch))
    }
}

/// An endpoint as the configuration has it.
fn shown(endpoint: &Endpoint) -> String {
    match endpoint {
        Endpoint::Unix(path) => format!("unix://{path}"),
        Endpoint::Tcp { host, port } => format!("tcp://{host}:{port}"),
    }
}

impl ContainerRuntime for CriRuntime {
    fn call(&self, call: CriCall) -> BoxFuture<'_, Result<CriReply, Failure>> {
        Box::pin(self.make(call))
    }

    fn events(&self) -> BoxFuture<'_, Result<BoxStream<'static, Result<PodUid, Failure>>, Failure>> {
        Box::pin(events::open(self.runtime.clone()))
    }

    fn stream_url(&self, request: StreamRequest) -> BoxFuture<'_, Result<String, Failure>> {
        Box::pin(self.streaming_session(request))
    }

    fn container_stats(&self) -> BoxFuture<'_, Result<Vec<proto::cri::ContainerStats>, Failure>> {
        Box::pin(self.all_container_stats())
    }
}
