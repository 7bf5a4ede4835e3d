//! /containerLogs: a container's output, from the files that the runtime writes.
//! Upstream: pkg/kubelet/server/server.go (getContainerLogs), pkg/kubelet/kubelet_pods.go (GetKubeletContainerLogs).
//! Differs: nothing on purpose.

mod line;
mod printer;
mod query;
mod reader;

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Extension, Path, State};
use axum::response::Response;
use futures::stream;
use http::{StatusCode, Uri};
use k8s_openapi::api::core::v1::Pod;
use kubelet::ids::ContainerId;
use tokio::sync::mpsc;

use super::flushed::Flushes;
use super::query::Pairs;
use super::{Shared, lookup, reply};
use query::{LogOptions, Refused};
use reader::Reader;

/// How many blocks may wait for a client that reads slowly.
const BLOCKS: usize = 4;

/// API-080 to API-090
pub(crate) async fn container_logs(
    State(shared): State<Arc<Shared>>,
    Path((namespace, pod_name, container)): Path<(String, String, String)>,
    flushes: Option<Extension<Flushes>>,
    uri: Uri,
) -> Response {
    let options = match query::parse(&Pairs::of(&uri), shared.env.clock.now()) {
        Ok(options) => options,
        Err(Refused::Undecodable) => return reply::text(StatusCode::BAD_REQUEST, r#"{"message": "Unable to decode query."}"#),
        Err(Refused::Invalid) => return reply::text(StatusCode::UNPROCESSABLE_ENTITY, r#"{"message": "Invalid request."}"#),
    };
    let Some(pod) = shared.view.pod(namespace, pod_name.clone()).await else { return lookup::no_answer() };
    let Some(pod) = pod else {
        return reply::text(StatusCode::NOT_FOUND, format!("pod {pod_name:?} does not exist"));
    };
    if !lookup::has_container(&pod, &container) {
        return reply::text(StatusCode::NOT_FOUND, format!("container {container:?} not found in pod {pod_name:?}"));
    }
    if let Some(stream) = &options.stream {
        let why = format!(
            "unable to return the given log stream: {stream:?}. Please enable PodLogsQuerySplitStreams feature gate in kubelet"
        );
        return reply::text(StatusCode::BAD_REQUEST, why);
    }
    match lookup::log_instance(&pod, &container, options.previous) {
        Ok(instance) => reply::bare(StatusCode::OK, body(shared, pod, container, instance, options, flushes)),
        Err(why) => reply::bare(StatusCode::BAD_REQUEST, Body::from(why)),
    }
}

/// A body that is read as fast as the client takes it, and no faster. What goes wrong from here on is said in it (API-086). Its end comes
/// after all of it has gone.
fn body(
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    container: String,
    instance: String,
    options: LogOptions,
    flushes: Option<Extension<Flushes>>,
) -> Body {
    let (blocks, receiver) = mpsc::channel::<Bytes>(BLOCKS);
    tokio::spawn(async move {
        let uid = lookup::uid(&pod);
        let outcome = match open_newest(&shared, &pod, &container, instance, &options).await {
            Ok((id, reader)) => reader::copy(&shared, &uid, &id, reader, &options.wanted, &blocks).await,
            Err(why) => Err(why),
        };
        if let Err(why) = outcome {
            // The client may have gone away; then nobody reads it.
            let _ = blocks.send(Bytes::from(why)).await;
        }
    });
    Body::from_stream(stream::unfold((receiver, flushes), |(mut receiver, flushes)| async move {
        // Whatever was read until now may not have gone yet.
        let gone = flushes.as_ref().map(|flushes| flushes.count());
        if let Some(block) = receiver.recv().await {
            return Some((Ok::<_, Infallible>(block), (receiver, flushes)));
        }
        if let (Some(Extension(flushes)), Some(gone)) = (flushes, gone) {
            flushes.after(gone).await;
        }
        None
    }))
}

/// Opens the log of that instance. If there is none, a crash loop may have moved on since the pod was looked up, and the instance may be
/// gone with its log: then that of the one that takes its place.
async fn open_newest(
    shared: &Shared,
    pod: &Pod,
    container: &str,
    instance: String,
    options: &LogOptions,
) -> Result<(ContainerId, Reader), String> {
    let why = match open(shared, pod, &instance, options).await {
        Ok(opened) => return Ok(opened),
        Err(why) => why,
    };
    let name = |name: &Option<String>| name.clone().unwrap_or_default();
    let newer = shared.view.pod(name(&pod.metadata.namespace), name(&pod.metadata.name)).await;
    let Some(newer) = newer.flatten() else { return Err(why) };
    match lookup::log_instance(&newer, container, options.previous) {
        Ok(other) if other != instance => open(shared, &newer, &other, options).await,
        _ => Err(why),
    }
}

async fn open(shared: &Shared, pod: &Pod, instance: &str, options: &LogOptions) -> Result<(ContainerId, Reader), String> {
    let id = ContainerId::new(instance.split_once("://").map_or(instance, |(_, id)| id));
    let found = lookup::instance(shared, &lookup::uid(pod), &id).await.ok().flatten();
    let status = found.ok_or_else(|| format!("unable to retrieve container logs for {instance}"))?;
    Ok((id, Reader::open(shared, &status.log_path, &options.wanted).await?))
}
