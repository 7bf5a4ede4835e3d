//! The runtime's stream of container events, reduced to the pods that they are about.
//! Upstream: pkg/kubelet/pleg/evented.go, staging/src/k8s.io/cri-client/pkg/remote_runtime.go (GetContainerEvents).
//! Differs: an event is a hint that a pod changed; its statuses are not used, since observations carry when they began.

use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt as _, TryFutureExt as _};
use kubelet::failure::Failure;
use kubelet::ids::PodUid;
use proto::cri::runtime_service_client::RuntimeServiceClient;
use proto::cri::{ContainerEventResponse, GetEventsRequest};
use tonic::Streaming;
use tonic::transport::Channel;

use crate::grpc::failure;

/// How long a runtime may take to refuse. containerd sends no headers before its first event: silence means open.
const REFUSAL: Duration = Duration::from_secs(1);

/// Opens the stream (CRI-032).
pub(super) async fn open(
    mut client: RuntimeServiceClient<Channel>,
) -> Result<BoxStream<'static, Result<PodUid, Failure>>, Failure> {
    let mut opening = Box::pin(async move {
        let opened = client.get_container_events(GetEventsRequest::default()).await;
        opened.map(|stream| pods(stream.into_inner())).map_err(|status| failure(&status))
    });
    match tokio::time::timeout(REFUSAL, &mut opening).await {
        Ok(opened) => opened,
        Err(_) => Ok(opening.try_flatten_stream().boxed()),
    }
}

fn pods(events: Streaming<ContainerEventResponse>) -> BoxStream<'static, Result<PodUid, Failure>> {
    let pods = events.filter_map(|item| async move {
        match item {
            Ok(event) => subject(&event).map(Ok),
            Err(status) => Some(Err(failure(&status))),
        }
    });
    pods.boxed()
}

/// The pod that an event is about; none if it does not say.
fn subject(event: &ContainerEventResponse) -> Option<PodUid> {
    let metadata = event.pod_sandbox_status.as_ref()?.metadata.as_ref()?;
    (!metadata.uid.is_empty()).then(|| PodUid::new(&metadata.uid))
}

#[cfg(test)]
mod tests {
    use proto::cri::{PodSandboxMetadata, PodSandboxStatus};

    use super::*;

    // CRI-032
    #[test]
    fn event_without_a_sandbox_is_about_nobody() {
        assert_eq!(subject(&ContainerEventResponse::default()), None);
        let metadata = Some(PodSandboxMetadata { uid: "u1".into(), ..PodSandboxMetadata::default() });
        let status = Some(PodSandboxStatus { metadata, ..PodSandboxStatus::default() });
        let event = ContainerEventResponse { pod_sandbox_status: status, ..ContainerEventResponse::default() };
        assert_eq!(subject(&event), Some(PodUid::new("u1")));
    }
}
