//! /metrics and its kin: what the agent counts of itself, of probes, of its health, and what the node's containers use.
//! Upstream: pkg/kubelet/server/server.go (metrics handlers), pkg/kubelet/metrics, k8s.io/component-base/metrics/slis.
//! Differs: no OpenMetrics or protobuf form, no gzip; families of different sources come in groups, not all in one order.

mod cadvisor;
pub(crate) mod http;
mod node;
mod process;
mod registry;
mod resource;
mod text;

use std::sync::Arc;

use ::http::{HeaderName, HeaderValue, StatusCode};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;

use super::{Shared, reply};
use text::Encoder;

pub use registry::{DEFAULT_BUCKETS, Measure, Metric, Registry};

/// API-148
const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8; escaping=underscores");
const STARTED: HeaderName = HeaderName::from_static("process-start-time-unix");

/// Families of probes have a path of their own (API-144).
const PROBES: &str = "prober_";
/// Families of health checks too (API-145).
const HEALTH: &str = "kubernetes_healthcheck";

static HEALTHCHECK: Metric = Metric {
    name: "kubernetes_healthcheck",
    help: "[STABLE] This metric records the result of a single healthcheck.",
    measure: Measure::Gauge,
};
static HEALTHCHECKS: Metric = Metric {
    name: "kubernetes_healthchecks_total",
    help: "[STABLE] This metric records the results of all healthcheck.",
    measure: Measure::Counter,
};

impl Registry {
    pub(crate) fn health_checked(&self, name: &'static str, passed: bool) {
        let (gauge, status) = if passed { (1.0, "success") } else { (0.0, "error") };
        self.set(&HEALTHCHECK, &[("name", name), ("type", "healthz")], gauge);
        self.add(&HEALTHCHECKS, &[("name", name), ("type", "healthz"), ("status", status)], 1.0);
    }
}

/// /metrics (API-146)
pub(crate) async fn all(State(shared): State<Arc<Shared>>) -> Response {
    let mut encoder = Encoder::default();
    shared.metrics.encode(&mut encoder, |name| !name.starts_with(PROBES) && !name.starts_with(HEALTH));
    node::encode(&shared, &mut encoder).await;
    process::encode(&shared, &mut encoder).await;
    answer(&shared, encoder.finish())
}

/// /metrics/probes (API-144)
pub(crate) async fn probes(State(shared): State<Arc<Shared>>) -> Response {
    some(&shared, PROBES)
}

/// /metrics/slis (API-145)
pub(crate) async fn slis(State(shared): State<Arc<Shared>>) -> Response {
    some(&shared, HEALTH)
}

fn some(shared: &Shared, prefix: &str) -> Response {
    let mut encoder = Encoder::default();
    shared.metrics.encode(&mut encoder, |name| name.starts_with(prefix));
    process::started(shared, &mut encoder);
    answer(shared, encoder.finish())
}

/// /metrics/resource (API-141): 200, whatever happens.
pub(crate) async fn resource(State(shared): State<Arc<Shared>>) -> Response {
    let summary = shared.stats.cpu_and_memory(shared.view.as_ref()).await;
    if let Err(failure) = &summary {
        tracing::error!(%failure, "Error getting summary for resourceMetric prometheus endpoint");
    }
    answer(&shared, resource::encode(summary.ok().as_ref()))
}

/// /metrics/cadvisor (API-143)
pub(crate) async fn cadvisor(State(shared): State<Arc<Shared>>) -> Response {
    let measured = shared.stats.subjects(shared.view.as_ref()).await;
    if let Err(failure) = &measured {
        tracing::error!(%failure, "Error getting usage for the cadvisor prometheus endpoint");
    }
    answer(&shared, cadvisor::encode(measured.ok().as_ref()))
}

fn answer(shared: &Shared, body: String) -> Response {
    let mut response = reply::with_type(StatusCode::OK, CONTENT_TYPE, Body::from(body));
    if let Ok(started) = HeaderValue::from_str(&shared.started.as_second().to_string()) {
        response.headers_mut().insert(STARTED, started);
    }
    response
}
