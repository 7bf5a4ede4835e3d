//! /pods and /runningpods/: what the agent was told to run, and what the runtime runs.
//! Upstream: pkg/kubelet/server/server.go (getPods, getRunningPods, encodePods).
//! Differs: nothing on purpose.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use k8s_openapi::api::core::v1::Pod;
use kubelet::action::CriCall;
use kubelet::event::CriReply;
use kubelet::failure::{Failure, FailureKind};
use kubelet::ids::PodUid;
use kubelet::observation::{ContainerState, Listing, SandboxState};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Shared, lookup, reply};

/// A list in Go's form: items carry no kind of their own, and an empty list is null.
#[derive(Serialize)]
struct PodList<T> {
    kind: &'static str,
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    metadata: ListMeta,
    items: Option<Vec<T>>,
}

#[derive(Serialize)]
struct ListMeta {}

impl<T> PodList<T> {
    fn new(items: Vec<T>) -> Self {
        let items = (!items.is_empty()).then_some(items);
        Self { kind: "PodList", api_version: "v1", metadata: ListMeta {}, items }
    }
}

#[derive(Serialize)]
struct Item<'a> {
    metadata: &'a k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    #[serde(skip_serializing_if = "Option::is_none")]
    spec: &'a Option<k8s_openapi::api::core::v1::PodSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: &'a Option<k8s_openapi::api::core::v1::PodStatus>,
}

impl<'a> Item<'a> {
    fn of(pod: &'a Pod) -> Self {
        Self { metadata: &pod.metadata, spec: &pod.spec, status: &pod.status }
    }
}

/// API-060
pub(crate) async fn pods(State(shared): State<Arc<Shared>>) -> Response {
    let Some(pods) = shared.view.pods().await else {
        return lookup::no_answer();
    };
    encoded(&PodList::new(pods.iter().map(|pod| Item::of(pod)).collect()))
}

fn encoded<T: Serialize>(list: &PodList<T>) -> Response {
    match serde_json::to_vec(list) {
        Ok(body) => reply::json(body),
        Err(error) => reply::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// API-061
pub(crate) async fn running_pods(State(shared): State<Arc<Shared>>) -> Response {
    match running(&shared).await {
        Ok(items) => encoded(&PodList::new(items)),
        Err(failure) => reply::text(StatusCode::INTERNAL_SERVER_ERROR, failure.rpc_message()),
    }
}

async fn running(shared: &Shared) -> Result<Vec<Value>, Failure> {
    let listing = match shared.env.runtime.call(CriCall::List).await? {
        CriReply::Listing { listing, .. } => listing,
        other => return Err(Failure::new(FailureKind::Other, format!("unexpected reply: {other:?}"))),
    };
    let mut items = Vec::new();
    for uid in live(&listing) {
        let seen = lookup::observe(shared, &uid).await?;
        let containers: Vec<Value> = seen
            .containers
            .iter()
            .filter(|one| one.state == ContainerState::Running)
            .map(|one| json!({ "name": one.name, "image": one.image_id, "resources": {} }))
            .collect();
        let containers = if containers.is_empty() { Value::Null } else { Value::Array(containers) };
        items.push(json!({
            "metadata": { "name": seen.name, "namespace": seen.namespace, "uid": uid.as_str() },
            "spec": { "containers": containers },
            "status": {},
        }));
    }
    Ok(items)
}

/// Pods with a sandbox that is up or a container that runs.
fn live(listing: &Listing) -> Vec<PodUid> {
    let sandboxes = listing.sandboxes.iter().filter(|one| one.state == SandboxState::Ready).map(|one| one.pod.clone());
    let containers = listing.containers.iter().filter(|one| one.state == ContainerState::Running).map(|one| one.pod.clone());
    let mut pods: Vec<PodUid> = sandboxes.chain(containers).collect();
    pods.sort_unstable();
    pods.dedup();
    pods
}
