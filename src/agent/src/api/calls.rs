//! What each call of the core is as a request: verb, path, subresource, body.
//! Upstream: pkg/kubelet (kubelet_node_status.go, status/status_manager.go, token/token_manager.go), component-helpers/apimachinery/lease.
//! Differs: nothing on purpose.

use std::sync::Arc;

use http::Method;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Node, Pod, Secret};
use kubelet::action::ApiCall;
use kubelet::event::{ApiReply, Object, WatchKey};
use kubelet::failure::{Failure, FailureKind};
use kubelet::sensitive::Sensitive;
use serde_json::json;

use super::names::{namespace_segment, segment};
use super::send::{Ask, Kind, Sender};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
const CSI_NODES: &str = "/apis/storage.k8s.io/v1/csinodes";

pub(super) async fn call(sender: &Sender, node: &str, call: ApiCall) -> Result<ApiReply, Failure> {
    use Kind::{Json, StrategicMerge};
    let post = |path: String, body: &dyn erased::Body| Ask { method: Method::POST, path, body: Some((Json, body.json())) };
    match call {
        ApiCall::Watch(_) | ApiCall::Unwatch(_) => Ok(ApiReply::Done),
        ApiCall::GetNode => node_reply(sender, Ask::get(format!("/api/v1/nodes/{node}"))).await,
        ApiCall::CreateNode(new) => node_reply(sender, post("/api/v1/nodes".to_owned(), &new)).await,
        ApiCall::PatchNodeStatus(patch) => {
            let path = format!("/api/v1/nodes/{node}/status");
            node_reply(sender, Ask::with(Method::PATCH, path, StrategicMerge, &patch)).await
        }
        ApiCall::GetLease => lease(sender, Ask::get(format!("{LEASES}/{node}"))).await,
        ApiCall::CreateLease(new) => lease(sender, post(LEASES.to_owned(), &new)).await,
        ApiCall::UpdateLease(new) => lease(sender, Ask::with(Method::PUT, format!("{LEASES}/{node}"), Json, &new)).await,
        ApiCall::GetCsiNode => csi_node(sender, Ask::get(format!("{CSI_NODES}/{node}"))).await,
        ApiCall::CreateCsiNode(new) => csi_node(sender, post(CSI_NODES.to_owned(), &new)).await,
        ApiCall::UpdateCsiNode(new) => csi_node(sender, Ask::with(Method::PUT, format!("{CSI_NODES}/{node}"), Json, &new)).await,
        ApiCall::DeleteCsiNode => {
            removed(sender.done(Ask { method: Method::DELETE, path: format!("{CSI_NODES}/{node}"), body: None }).await)
        }
        ApiCall::GetPod { namespace, name } => pod(sender, Ask::get(pod_path(&namespace, &name)?)).await,
        ApiCall::CreatePod(new) => {
            let namespace = new.metadata.namespace.clone().unwrap_or_default();
            pod(sender, post(within(&namespace, "pods")?, &new)).await
        }
        ApiCall::PatchPodStatus { namespace, name, patch } => {
            let path = format!("{}/status", pod_path(&namespace, &name)?);
            pod(sender, Ask::with(Method::PATCH, path, StrategicMerge, &patch)).await
        }
        ApiCall::DeletePod { namespace, name, uid, grace_seconds } => {
            let options = json!({
                "kind": "DeleteOptions",
                "apiVersion": "v1",
                "gracePeriodSeconds": grace_seconds,
                "preconditions": {"uid": uid.as_str()},
            });
            let outcome = sender.done(Ask::with(Method::DELETE, pod_path(&namespace, &name)?, Json, &options)).await;
            removed(outcome)
        }
        ApiCall::GetPersistentVolumeClaim { namespace, name } => {
            let path = format!("{}/{}", within(&namespace, "persistentvolumeclaims")?, segment(&name)?);
            Ok(ApiReply::Claim(Box::new(sender.object(Ask::get(path)).await?)))
        }
        ApiCall::GetPersistentVolume { name } => {
            let path = format!("/api/v1/persistentvolumes/{}", segment(&name)?);
            Ok(ApiReply::PersistentVolume(Box::new(sender.object(Ask::get(path)).await?)))
        }
        ApiCall::GetVolumeAttachment { name } => {
            let path = format!("/apis/storage.k8s.io/v1/volumeattachments/{}", segment(&name)?);
            Ok(ApiReply::Attachment(Box::new(sender.object(Ask::get(path)).await?)))
        }
        ApiCall::GetObject { key, cached } => object(sender, key, cached).await,
        ApiCall::CreateToken { namespace, service_account, request } => {
            let path = format!("{}/{}/token", within(&namespace, "serviceaccounts")?, segment(&service_account)?);
            let answer: TokenRequest = sender.object(post(path, &request)).await?;
            let status =
                answer.status.ok_or_else(|| Failure::new(FailureKind::Other, "the API server answered without a token"))?;
            Ok(ApiReply::Token(Sensitive::new(status)))
        }
        ApiCall::CreateEvent(new) => {
            let namespace = new.metadata.namespace.clone().unwrap_or_default();
            event(sender, post(within(&namespace, "events")?, &new)).await
        }
        ApiCall::PatchEvent { namespace, name, patch } => {
            let path = format!("{}/{}", within(&namespace, "events")?, segment(&name)?);
            event(sender, Ask::with(Method::PATCH, path, StrategicMerge, &patch)).await
        }
    }
}

/// Bodies of different types behind one closure.
mod erased {
    pub(super) trait Body {
        fn json(&self) -> Vec<u8>;
    }

    impl<T: serde::Serialize> Body for T {
        fn json(&self) -> Vec<u8> {
            // API objects are plain data: they always serialize.
            serde_json::to_vec(self).unwrap_or_default()
        }
    }
}

fn pod_path(namespace: &str, name: &str) -> Result<String, Failure> {
    Ok(format!("{}/{}", within(namespace, "pods")?, segment(name)?))
}

/// Where the objects of a namespace are.
fn within(namespace: &str, plural: &str) -> Result<String, Failure> {
    Ok(format!("/api/v1/namespaces/{}/{plural}", namespace_segment(namespace)?))
}

async fn node_reply(sender: &Sender, ask: Ask) -> Result<ApiReply, Failure> {
    let mut node: Node = sender.object(ask).await?;
    node.metadata.managed_fields = None;
    Ok(ApiReply::Node(Arc::new(node)))
}

async fn pod(sender: &Sender, ask: Ask) -> Result<ApiReply, Failure> {
    let mut pod: Pod = sender.object(ask).await?;
    pod.metadata.managed_fields = None;
    Ok(ApiReply::Pod(Arc::new(pod)))
}

async fn lease(sender: &Sender, ask: Ask) -> Result<ApiReply, Failure> {
    Ok(ApiReply::Lease(Box::new(sender.object(ask).await?)))
}

async fn csi_node(sender: &Sender, ask: Ask) -> Result<ApiReply, Failure> {
    Ok(ApiReply::CsiNode(Box::new(sender.object(ask).await?)))
}

async fn event(sender: &Sender, ask: Ask) -> Result<ApiReply, Failure> {
    let stored: Event = sender.object(ask).await?;
    Ok(ApiReply::EventStored { name: stored.metadata.name.unwrap_or_default() })
}

fn removed(outcome: Result<(), Failure>) -> Result<ApiReply, Failure> {
    match outcome {
        Err(failure) if !failure.is_not_found() => Err(failure),
        _ => Ok(ApiReply::Done),
    }
}

async fn object(sender: &Sender, key: WatchKey, cached: bool) -> Result<ApiReply, Failure> {
    let query = if cached { "?resourceVersion=0" } else { "" };
    let object = match key {
        WatchKey::ConfigMap { namespace, name } => {
            let path = format!("{}/{}{query}", within(&namespace, "configmaps")?, segment(&name)?);
            let found: ConfigMap = sender.object(Ask::get(path)).await?;
            Object::ConfigMap(Arc::new(found))
        }
        WatchKey::Secret { namespace, name } => {
            let path = format!("{}/{}{query}", within(&namespace, "secrets")?, segment(&name)?);
            let found: Secret = sender.object(Ask::get(path)).await?;
            Object::Secret(Sensitive::new(Arc::new(found)))
        }
        other => return Err(Failure::new(FailureKind::Invalid, format!("{other:?} is not one object"))),
    };
    Ok(ApiReply::Object(object))
}
