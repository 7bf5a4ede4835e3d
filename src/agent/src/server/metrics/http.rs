//! Requests of the server itself, counted.
//! Upstream: pkg/kubelet/server/metrics/metrics.go, pkg/kubelet/server/server.go (ServeHTTP).
//! Differs: nothing on purpose.

use std::time::Duration;

use http::Method;

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

impl Labels {
    pub(crate) fn of(listener: Listener, method: &Method, path: &str, is_served: impl FnOnce(&str) -> bool) -> Self {
        const FIRST: [&str; 15] = [
            "healthz",
            "pods",
            "stats",
            "metrics",
            "logs",
            "debug",
            "run",
            "exec",
            "attach",
            "portForward",
            "containerLogs",
            "configz",
            "runningpods",
            "flagz",
            "statusz",
        ];
        const METRICS: [&str; 3] = ["metrics/cadvisor", "metrics/resource", "metrics/probes"];
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
        let trimmed = path.trim_matches('/');
        let first = trimmed.split('/').next().unwrap_or_default();
        let known = if first == "metrics" && trimmed != "metrics" {
            METRICS.into_iter().find(|one| *one == trimmed)
        } else {
            FIRST.into_iter().find(|one| *one == first)
        };
        let path = known.filter(|_| is_served(path)).unwrap_or("other");
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
    pub(crate) fn http_started(&self, labels: &Labels) {
        self.add(&REQUESTS, &labels.pairs(), 1.0);
        self.add(&IN_FLIGHT, &labels.pairs(), 1.0);
    }

    pub(crate) fn http_ended(&self, labels: &Labels, after: Duration) {
        self.add(&IN_FLIGHT, &labels.pairs(), -1.0);
        self.observe(&DURATION, &labels.pairs(), after.as_secs_f64());
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
        let label = |method: &str, path: &str, served: bool| {
            let labels = Labels::of(Listener::Main, &method.parse().unwrap(), path, |_| served);
            (labels.method, labels.path, labels.long_running)
        };
        assert_eq!(label("GET", "/exec/a/b/c", true), ("GET", "exec", "true"));
        assert_eq!(label("PATCH", "/pods", true), ("other", "pods", "false"));
        assert_eq!(label("GET", "/metrics/resource", true), ("GET", "metrics/resource", "false"));
        assert_eq!(label("GET", "/metrics/slis", true), ("GET", "other", "false"));
        assert_eq!(label("GET", "/podsecret", false), ("GET", "other", "false"));
        assert_eq!(label("GET", "/pods/x", false), ("GET", "other", "false"));
    }
}
