//! Requests of the server itself, counted.
//! Upstream: pkg/kubelet/server/metrics/metrics.go, pkg/kubelet/server/server.go (ServeHTTP).
//! Differs: nothing on purpose.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use http::Method;
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

use super::registry::{DEFAULT_BUCKETS, Measure, Metric, Registry};
use crate::server::routes::Listener;

static REQUESTS: Metric = Metric {
    name: "kubelet_http_requests_total",
    help: "[ALPHA] Number of the http requests received since the server started",
    measure: Measure::Counter,
};
static IN_FLIGHT: Metric = Metric {
    name: "kubelet_http_inflight_requests",
    help: "[ALPHA] Number of the inflight http requests",
    measure: Measure::Gauge,
};
static DURATION: Metric = Metric {
    name: "kubelet_http_requests_duration_seconds",
    help: "[ALPHA] Duration in seconds to serve http requests",
    measure: Measure::Histogram(DEFAULT_BUCKETS),
};
static FORBIDDEN: Metric = Metric {
    name: "keelson_api_forbidden_requests_total",
    help: "[ALPHA] Number of requests of the HTTPS API that were refused with 403, by root of the path",
    measure: Measure::Counter,
};
static STREAMS: Metric = Metric {
    name: "keelson_open_streams",
    help: "[ALPHA] Number of exec, attach and port-forward connections that are being proxied",
    measure: Measure::Gauge,
};

/// The labels of one request: few, whatever clients ask for (API-014, CVE-2020-8551).
pub(crate) struct Labels {
    method: &'static str,
    path: &'static str,
    server_type: &'static str,
    long_running: &'static str,
}

/// What requests are counted by on every listener (addMetricsBucketMatcher).
const ALWAYS: [&str; 7] = ["healthz", "pods", "stats", "metrics", "metrics/cadvisor", "metrics/probes", "metrics/resource"];
/// Besides, where there are handlers for debugging.
const DEBUGGING: [&str; 12] = [
    "logs",
    "debug",
    "run",
    "exec",
    "attach",
    "portForward",
    "containerLogs",
    "configz",
    "runningpods",
    "checkpoint",
    "flagz",
    "statusz",
];
/// Besides, where there are none.
const DISABLED: [&str; 8] = ["run", "exec", "attach", "portForward", "containerLogs", "runningpods", "pprof", "logs"];

/// Upstream's `getURLRootPath`: what a path is counted by, whatever is routed below it.
fn root(path: &str) -> &str {
    let path = path.strip_prefix('/').unwrap_or(path);
    let mut ends = path.match_indices('/').map(|(at, _)| at);
    let first = ends.next().map_or(path, |end| &path[..end]);
    if first == "metrics" { ends.next().map_or(path, |end| &path[..end]) } else { first }
}

impl Labels {
    pub(crate) fn of(listener: Listener, debugging: bool, method: &Method, path: &str) -> Self {
        let method = match *method {
            Method::GET => "GET",
            Method::HEAD => "HEAD",
            Method::POST => "POST",
            Method::PUT => "PUT",
            Method::DELETE => "DELETE",
            Method::OPTIONS => "OPTIONS",
            Method::TRACE => "TRACE",
            Method::CONNECT => "CONNECT",
            _ => "other",
        };
        let others: &[&'static str] = if debugging { &DEBUGGING } else { &DISABLED };
        let root = root(path);
        let path = ALWAYS.iter().chain(others).copied().find(|known| *known == root).unwrap_or("other");
        Self {
            method,
            path,
            server_type: if listener == Listener::ReadOnly { "readonly" } else { "readwrite" },
            long_running: if matches!(path, "exec" | "attach" | "debug") { "true" } else { "false" },
        }
    }

    fn pairs(&self) -> [(&'static str, &str); 4] {
        [("method", self.method), ("path", self.path), ("server_type", self.server_type), ("long_running", self.long_running)]
    }
}

impl Registry {
    pub(crate) fn http_started(self: &Arc<Self>, labels: Labels) -> InFlight {
        self.add(&REQUESTS, &labels.pairs(), 1.0);
        self.add(&IN_FLIGHT, &labels.pairs(), 1.0);
        InFlight { _served: Arc::new(Served { registry: Arc::clone(self), labels, started: Instant::now() }) }
    }

    pub(crate) fn forbidden(&self, root: &'static str) {
        self.add(&FORBIDDEN, &[("path", root.trim_matches('/'))], 1.0);
    }

    /// Counts a stream for as long as the answer lives (INV-08).
    pub(crate) fn stream_opened(&self) -> OpenStream<'_> {
        self.add(&STREAMS, &[], 1.0);
        OpenStream(self)
    }

    #[cfg(test)]
    pub(crate) fn open_streams(&self) -> f64 {
        self.value(&STREAMS, &[])
    }
}

/// A request that is being served. It is over once all of these are gone: with the end of the answer's body, and of what a connection
/// was handed over to, which is when upstream's handlers return.
#[derive(Clone)]
pub(crate) struct InFlight {
    _served: Arc<Served>,
}

struct Served {
    registry: Arc<Registry>,
    labels: Labels,
    started: Instant,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.registry.add(&IN_FLIGHT, &self.labels.pairs(), -1.0);
        self.registry.observe(&DURATION, &self.labels.pairs(), self.started.elapsed().as_secs_f64());
    }
}

impl InFlight {
    /// The same body, with whose end the request is over.
    pub(crate) fn until_sent(self, body: Body) -> Body {
        Body::new(Counted { body, _request: self })
    }
}

struct Counted {
    body: Body,
    _request: InFlight,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that is being proxied.
pub(crate) struct OpenStream<'a>(&'a Registry);

impl Drop for OpenStream<'_> {
    fn drop(&mut self) {
        self.0.add(&STREAMS, &[], -1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_do_not_grow_with_what_clients_send() {
        // API-014
        let label = |method: &str, path: &str| {
            let labels = Labels::of(Listener::Main, true, &method.parse().unwrap(), path);
            (labels.method, labels.path, labels.long_running)
        };
        assert_eq!(label("GET", "/exec/a/b/c"), ("GET", "exec", "true"));
        assert_eq!(label("PATCH", "/pods"), ("other", "pods", "false"));
        assert_eq!(label("GET", "/podsecret"), ("GET", "other", "false"));
        // Upstream's map has `portforward`, which no bucket is called.
        assert_eq!(label("GET", "/portForward/a/b"), ("GET", "portForward", "false"));
    }

    // API-014: pkg/kubelet/server/server.go, getMetricBucket, getURLRootPath and who calls addMetricsBucketMatcher.
    #[test]
    fn requests_are_counted_by_the_first_segment_of_their_path_whatever_is_routed() {
        let bucket = |debugging: bool, path: &str| Labels::of(Listener::Main, debugging, &Method::GET, path).path;
        for (path, with, without) in [
            ("/healthz/nosuch", "healthz", "healthz"),
            ("/pods/x", "pods", "pods"),
            ("//pods", "other", "other"),
            ("/", "other", "other"),
            ("/metrics", "metrics", "metrics"),
            ("/metrics/", "other", "other"),
            ("/metrics/slis", "other", "other"),
            ("/metrics/probes/x", "metrics/probes", "metrics/probes"),
            ("/debug/x", "debug", "other"),
            ("/debug/pprof/", "debug", "other"),
            ("/pprof", "other", "pprof"),
            ("/configz", "configz", "other"),
            ("/checkpoint/a/b/c", "checkpoint", "other"),
            ("/logs/", "logs", "logs"),
        ] {
            assert_eq!((bucket(true, path), bucket(false, path)), (with, without), "{path}");
        }
    }
}
