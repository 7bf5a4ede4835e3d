//! /metrics and its kin: what the agent counts of itself, of probes, of its health, and what the node's containers use.
//! Upstream: pkg/kubelet/server/server.go (metrics handlers), pkg/kubelet/metrics, k8s.io/component-base/metrics/slis.
//! Differs: no OpenMetrics or protobuf form; families of different sources come in groups, not all in one order.

mod cadvisor;
pub(crate) mod http;
mod node;
mod process;
mod registry;
mod resource;
mod text;

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::sync::Arc;

use ::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};
use ::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use flate2::Compression;
use flate2::write::GzEncoder;
use k8s_openapi::api::core::v1::Pod;

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
pub(crate) async fn all(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let mut encoder = Encoder::default();
    shared.metrics.encode(&mut encoder, unix_now(&shared), |name| !name.starts_with(PROBES) && !name.starts_with(HEALTH));
    node::encode(&shared, &mut encoder).await;
    process::encode(&shared, &mut encoder).await;
    answer(&shared, &headers, encoder.finish())
}

fn unix_now(shared: &Shared) -> f64 {
    shared.env.clock.now().as_millisecond() as f64 / 1000.0
}

/// Everything that was counted.
#[cfg(test)]
pub(crate) fn text_of(registry: &Registry) -> String {
    let mut encoder = Encoder::default();
    registry.encode(&mut encoder, 0.0, |_| true);
    encoder.finish()
}

/// /metrics/probes (API-144): of pods that are gone nothing is told any more.
pub(crate) async fn probes(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    // While nobody answers, nobody knows what is gone.
    if let Some(pods) = shared.view.pods().await {
        let known: BTreeSet<(String, String)> = pods.iter().map(|pod| namespace_and_name(pod)).collect();
        let uids: BTreeSet<&str> = pods.iter().filter_map(|pod| pod.metadata.uid.as_deref()).collect();
        shared.metrics.keep_pods(PROBES, |namespace, pod, uid| match uid {
            Some(uid) => uids.contains(uid),
            None => known.contains(&(namespace.to_owned(), pod.to_owned())),
        });
    }
    some(&shared, &headers, PROBES)
}

/// /metrics/slis (API-145)
pub(crate) async fn slis(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    some(&shared, &headers, HEALTH)
}

fn namespace_and_name(pod: &Pod) -> (String, String) {
    (pod.metadata.namespace.clone().unwrap_or_default(), pod.metadata.name.clone().unwrap_or_default())
}

fn some(shared: &Shared, headers: &HeaderMap, prefix: &str) -> Response {
    let mut encoder = Encoder::default();
    shared.metrics.encode(&mut encoder, unix_now(shared), |name| name.starts_with(prefix));
    process::started(shared, &mut encoder, process::STARTED_ALPHA);
    answer(shared, headers, encoder.finish())
}

/// /metrics/resource (API-141): 200, whatever happens.
pub(crate) async fn resource(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let summary = shared.stats.cpu_and_memory(shared.view.as_ref(), false).await;
    if let Err(failure) = &summary {
        tracing::error!(%failure, "Error getting summary for resourceMetric prometheus endpoint");
    }
    answer(&shared, &headers, resource::encode(summary.ok().as_ref()))
}

/// /metrics/cadvisor (API-143)
pub(crate) async fn cadvisor(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let measured = shared.stats.subjects(shared.view.as_ref()).await;
    if let Err(failure) = &measured {
        tracing::error!(%failure, "Error getting usage for the cadvisor prometheus endpoint");
    }
    answer(&shared, &headers, cadvisor::encode(measured.ok().as_ref()))
}

fn answer(shared: &Shared, headers: &HeaderMap, body: String) -> Response {
    let packed = if takes_gzip(headers) { gzip(body.as_bytes()).ok() } else { None };
    let encoded = packed.is_some();
    let body = packed.map_or_else(|| Body::from(body), Body::from);
    let mut response = reply::with_type(StatusCode::OK, CONTENT_TYPE, body);
    if encoded {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    if let Ok(started) = HeaderValue::from_str(&shared.started.as_second().to_string()) {
        response.headers_mut().insert(STARTED, started);
    }
    response
}

/// Whether the client said that it takes gzip (as promhttp's NegotiateEncoding asks).
fn takes_gzip(headers: &HeaderMap) -> bool {
    let accepted =
        headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let mut parts = accepted.map(|part| part.split_once(';').unwrap_or((part, "")));
    parts.any(|(name, quality)| name.trim() == "gzip" && !matches!(quality.trim(), "q=0" | "q=0.0"))
}

/// The numbers of a large node are megabytes, and alike: the least effort packs them to a tenth.
fn gzip(body: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    // N11, API-148: as promhttp does for every /metrics path.
    #[test]
    fn metrics_are_packed_for_whoever_takes_it() {
        let takes = |value: &'static str| takes_gzip(&[(ACCEPT_ENCODING, HeaderValue::from_static(value))].into_iter().collect());
        assert!(takes("gzip") && takes("deflate, gzip;q=0.5") && takes("zstd,gzip"));
        assert!(!takes("gzip;q=0") && !takes("identity") && !takes_gzip(&HeaderMap::new()));
        let mut text = String::new();
        flate2::read::GzDecoder::new(gzip(b"up 1\n").unwrap().as_slice()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "up 1\n");
    }
}
