//! The HTTPS API of the node: who asks, whether they may, and what they get.
//! Upstream: pkg/kubelet/server.
//! Differs: HTTP/1.1 only; /logs, pprof, flagz, checkpoints and WebSocket v5 are not served; `logs -f` is not cut after 4 h.

pub mod auth;
mod configz;
mod flushed;
pub(crate) mod health;
mod listen;
mod logs;
mod lookup;
pub mod metrics;
mod pods;
mod query;
mod reply;
mod routes;
pub mod stats;
mod statusz;
mod strangers;
mod streaming;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kubelet::ids::PodUid;
use kubelet::observation::Observed;
use kubelet::snapshot::Tallies;

use crate::env::Env;
use crate::log_lines::LogLines;

pub use auth::client_certificate::{ClientCa, ClientCaError};
pub use listen::{ServeError, serve, serve_healthz};
pub use routes::{Gate, Listener};

/// What the server may know of the node. Answers come from memory: none of them waits for the runtime or the API server.
pub trait NodeView: Send + Sync {
    /// The pods that the agent knows, static ones under their own UID and with their current status, no mirror pods, each with the
    /// annotations `kubernetes.io/config.seen` and `kubernetes.io/config.source` (API-060); `None` if nobody answers in time.
    fn pods(&self) -> BoxFuture<'_, Option<Vec<Arc<Pod>>>>;

    /// One of them, by namespace and name; `None` if nobody answers in time, which says nothing about the pod.
    fn pod(&self, namespace: String, name: String) -> BoxFuture<'_, Option<Option<Arc<Pod>>>>;

    /// What was last seen of a pod in the runtime; `None` if nothing was seen of it yet.
    fn observation(&self, pod: PodUid) -> BoxFuture<'_, Option<Observed>>;

    /// What was last seen of each pod in the runtime.
    fn observations(&self) -> BoxFuture<'_, Vec<Observed>>;

    /// How many there are of what, for metrics; `None` if nobody answers in time.
    fn tallies(&self) -> BoxFuture<'_, Option<Tallies>>;

    /// The volumes of a pod that are in place: by their names in the pod, what their directories are called.
    fn volume_directories(&self, pod: PodUid) -> BoxFuture<'_, BTreeMap<String, String>>;

    /// The cgroup that all pods are in, such as `/kubepods`; `None` if nobody answers.
    fn pods_cgroup(&self) -> BoxFuture<'_, Option<String>>;

    /// The cgroup driver in use, which is the runtime's where it tells; `None` if nobody answers.
    fn cgroup_driver(&self) -> BoxFuture<'_, Option<&'static str>>;

    /// Whether the sync loop still turns (API-064); true before its first turn.
    fn sync_loop_healthy(&self) -> bool;
}

/// What the server is set to.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The node's name.
    pub node_name: String,
    /// The listeners' switches.
    pub listeners: crate::config::Server,
    /// Whom the main listener lets in.
    pub auth: crate::config::Auth,
    /// Whether a GET that upgrades on exec, attach and portForward needs `create` too, as a POST does (kubernetes#133515).
    /// Upstream: off.
    pub strict_streaming: bool,
    /// The effective configuration, for /configz.
    pub configz: serde_json::Value,
    /// The lines that the process logs and has not written yet (API-065).
    pub log: LogLines,
}

/// What all handlers share.
pub struct Shared {
    pub(crate) env: Env,
    pub(crate) view: Arc<dyn NodeView>,
    pub(crate) settings: Settings,
    pub(crate) metrics: Arc<metrics::Registry>,
    pub(crate) stats: Arc<stats::Collector>,
    pub(crate) started: Timestamp,
}

impl Shared {
    /// Puts it together. `metrics` is where the rest of the agent counts too; `stats` is the agent's one collector of usage.
    #[must_use]
    pub fn new(
        env: Env,
        view: Arc<dyn NodeView>,
        settings: Settings,
        metrics: Arc<metrics::Registry>,
        stats: Arc<stats::Collector>,
    ) -> Arc<Self> {
        let started = env.clock.now();
        Arc::new(Self { env, view, settings, metrics, stats, started })
    }
}
