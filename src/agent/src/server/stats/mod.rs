//! Usage of the node, its pods and containers: measured, kept, and told at /stats/summary and /metrics/resource.
//! Upstream: pkg/kubelet/server/stats, pkg/kubelet/stats.
//! Differs: all comes from cgroup files, CRI and /proc, nothing from cadvisor.

mod collect;
mod machine;
pub(crate) mod network;
mod samples;
pub(crate) mod subjects;
pub(crate) mod summary;
mod volumes;

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::{StatusCode, Uri};
use serde::Serialize as _;

use super::query::Pairs;
use super::{Shared, reply};

pub use collect::{Collector, StatsSettings};

/// GET or POST /stats/summary (API-120)
pub(crate) async fn summary(State(shared): State<Arc<Shared>>, uri: Uri) -> Response {
    shared.stats.asked();
    let query = Pairs::of(&uri);
    let mut only: Vec<&str> = query.all("only_cpu_and_memory").collect();
    let summary = if only.len() == 1 && only.pop() == Some("true") {
        shared.stats.cpu_and_memory(shared.view.as_ref(), true).await
    } else {
        shared.stats.all(shared.view.as_ref()).await
    };
    let encoded = match &summary {
        Ok(summary) => indented(summary).map_err(|error| error.to_string()),
        Err(failure) => Err(failure.to_string()),
    };
    match encoded {
        Ok(body) => reply::json(body),
        Err(why) => reply::text(StatusCode::INTERNAL_SERVER_ERROR, format!("Internal Error: {why}")),
    }
}

/// As go-restful's `WriteAsJson` indents: by one space.
fn indented(summary: &summary::Summary) -> serde_json::Result<Vec<u8>> {
    let mut body = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b" ");
    summary.serialize(&mut serde_json::Serializer::with_formatter(&mut body, format))?;
    Ok(body)
}
