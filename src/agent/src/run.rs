//! The agent as one function: the same for the daemon and for the simulator, which differ in the `Env` that they hand in.
//! Upstream: cmd/kubelet/app/server.go (run, RunKubelet).
//! Differs: nothing waits for anything else to be up; the core decides what can be done yet.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use kubelet::config::Config;
use kubelet::kubelet::Kubelet;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Resolved;
use crate::containment::kept_up;
use crate::env::{Env, Net};
use crate::event_loop::{EventLoop, Handle, Tap, handle};
use crate::executor::{Callers, Executor};
use crate::lanes::LaneLimits;
use crate::log_lines::LogLines;
use crate::loop_gauge::LoopGauge;
use crate::server::auth::Guard;
use crate::server::stats::{Collector, StatsSettings};
use crate::server::{ClientCa, Gate, NodeView, ServeError, Settings, Shared, metrics, serve, serve_healthz};
use crate::view::CoreView;
use crate::{manifest_events, manifest_url, plugins, probe, runtime_events};

/// How many events of watches and streams wait for the loop before their sources do.
const SOURCE_BACKLOG: usize = 1024;

/// What the servers need beside the settings: read from files by the caller, for the agent itself opens none.
#[derive(Clone)]
pub struct Serving {
    /// The settings of listeners and of who is let in.
    pub settings: Settings,
    /// TLS of the main listener.
    pub tls: Arc<rustls::ServerConfig>,
    /// The authorities of client certificates.
    pub client_ca: Option<Arc<ClientCa>>,
}

/// An agent that is about to run.
pub struct Agent {
    event_loop: EventLoop,
    companions: JoinSet<()>,
    handle: Handle,
    epoch: Instant,
    metrics: Arc<metrics::Registry>,
}

/// Where the loop turns: a way to run it to its end.
pub type Turns = fn(BoxFuture<'static, ()>) -> BoxFuture<'static, ()>;

impl Agent {
    /// Puts an agent together. Must be called in the runtime that it will run in; nothing is done before [`Agent::run`].
    #[must_use]
    pub fn new(config: Arc<Config>, env: Env, tap: Option<Tap>) -> Self {
        let (sink, sources) = mpsc::channel(SOURCE_BACKLOG);
        let (handle, queries) = handle();
        let epoch = Instant::now();
        // POD-203: no limit is none: one pod could have as many images on their way as any other number.
        let images = config.images.max_parallel_pulls.map_or(Semaphore::MAX_PERMITS, |n| n as usize);
        let callers = callers(&env.net);
        let metrics = Arc::new(metrics::Registry::new());
        let limits = LaneLimits { images, sandboxes: (2 * env.cores).max(4) };
        let executor = Executor::new(env.clone(), epoch, callers, sink.clone(), &limits, Arc::clone(&metrics));
        let mut companions = JoinSet::new();
        {
            let (env, sink) = (env.clone(), sink.clone());
            companions
                .spawn(async move { kept_up("events of the runtime", || runtime_events::follow(env.clone(), sink.clone())).await });
        }
        {
            let (env, sink) = (env.clone(), sink.clone());
            companions.spawn(async move {
                kept_up("registry of plugins", || plugins::registry::follow(env.clone(), sink.clone())).await
            });
        }
        {
            let env = env.clone();
            companions.spawn(async move { kept_up("manifests", || manifest_events::follow(env.clone(), sink.clone())).await });
        }
        let mut kubelet = Kubelet::new(config, env.seed);
        let host = Arc::clone(&env.host);
        kubelet.on_work(Box::new(move |work| host.works_for(work)));
        let gauge = LoopGauge::new(Arc::clone(&metrics));
        let pulse = handle.pulse().clone();
        let event_loop = EventLoop { kubelet, env, executor, sources, queries, pulse, epoch, tap, gauge };
        Self { event_loop, companions, handle, epoch, metrics }
    }

    /// The way to ask the agent while it runs.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Where all that the agent does is counted.
    #[must_use]
    pub fn metrics(&self) -> Arc<metrics::Registry> {
        Arc::clone(&self.metrics)
    }

    /// The moment that the core counts from.
    #[must_use]
    pub fn epoch(&self) -> Instant {
        self.epoch
    }

    /// Runs until the token is cancelled. Containers go on running.
    ///
    /// # Errors
    /// If a listener cannot be had, or ended (API-004).
    pub async fn run(self, serving: Option<Serving>, shutdown: CancellationToken) -> Result<(), ServeError> {
        Box::pin(self.run_where(|turns| turns, serving, shutdown)).await
    }

    /// The same, and the loop turns where it is told to: on a real node it has a thread of its own, so that nothing else waits for it.
    ///
    /// # Errors
    /// If a listener cannot be had, or ended (API-004).
    pub async fn run_where(self, turns: Turns, serving: Option<Serving>, shutdown: CancellationToken) -> Result<(), ServeError> {
        let Self { mut event_loop, mut companions, handle, epoch: _, metrics } = self;
        let env = event_loop.env.clone();
        let config = Arc::clone(event_loop.kubelet.config());
        let servers = match serving {
            Some(serving) => servers(&env, &config, serving, (handle, metrics), &mut companions, &shutdown),
            None => futures::future::pending().boxed(),
        };
        let stop = shutdown.child_token();
        env.host.notify_ready();
        let turning = async move {
            for (pod, deaths) in env.host.suspects().await {
                tracing::warn!(%pod, deaths, "An earlier life died while it worked on a pod: it is taken last");
                event_loop.kubelet.suspect(&pod, deaths);
            }
            turns(event_loop.run(stop).boxed()).await;
        };
        tokio::select! {
            biased;
            () = turning => Ok(()),
            ended = servers => ended,
        }
    }
}

fn callers(net: &Arc<dyn Net>) -> Callers {
    Callers {
        probes: probe::prober(Arc::clone(net)),
        plugins: plugins::caller(Arc::clone(net)),
        fetches: manifest_url::fetcher(Arc::clone(net)),
    }
}

/// The listeners; ends when the first of those that must be there does.
fn servers(
    env: &Env,
    config: &Config,
    serving: Serving,
    (handle, metrics): (Handle, Arc<metrics::Registry>),
    companions: &mut JoinSet<()>,
    shutdown: &CancellationToken,
) -> BoxFuture<'static, Result<(), ServeError>> {
    let Serving { settings, tls, client_ca } = serving;
    let view: Arc<dyn NodeView> = Arc::new(CoreView::new(handle, config.pods.sync_frequency));
    let stats_settings = StatsSettings {
        node_name: settings.node_name.clone(),
        root_dir: config.paths.root.clone(),
        pod_logs_dir: config.paths.pod_logs.clone(),
        volume_stats_period: config.node.volume_stats_period,
        kubelet_cgroup: config.cgroups.kubelet.clone(),
        runtime_cgroup: config.cgroups.runtime.clone(),
        system_cgroup: config.cgroups.system.clone(),
    };
    let stats = Collector::new(env.clone(), stats_settings);
    let listeners = settings.listeners.clone();
    let strict = settings.strict_streaming;
    let guard = Guard::new(Arc::clone(&env.api), Arc::clone(&env.clock), settings.auth.clone(), client_ca, strict, env.seed);
    let shared = Shared::new(env.clone(), Arc::clone(&view), settings, metrics, Arc::clone(&stats));
    {
        let shutdown = shutdown.clone();
        companions.spawn(async move { kept_up("usage", || stats.run(view.as_ref(), shutdown.clone())).await });
    }
    if let Some(address) = listeners.healthz {
        let gate = Gate::healthz(Arc::clone(&shared));
        let (net, shutdown) = (Arc::clone(&env.net), shutdown.clone());
        let serve = move || serve_healthz(Arc::clone(&net), address, Arc::clone(&gate), shutdown.clone());
        companions.spawn(async move { kept_up("healthz", serve).await });
    }
    let main = listeners.https.map(|address| {
        serve(Arc::clone(&env.net), address, Gate::main(Arc::clone(&shared), guard), Some(tls), shutdown.clone()).boxed()
    });
    let read_only = listeners
        .read_only
        .map(|address| serve(Arc::clone(&env.net), address, Gate::read_only(Arc::clone(&shared)), None, shutdown.clone()).boxed());
    let all: Vec<_> = main.into_iter().chain(read_only).collect();
    if all.is_empty() {
        return futures::future::pending().boxed();
    }
    async move { futures::future::select_all(all).await.0 }.boxed()
}

/// What the listeners are set to.
#[must_use]
pub fn server_settings(resolved: &Resolved) -> Settings {
    Settings {
        node_name: resolved.kubelet.node.name.to_string(),
        listeners: resolved.server.clone(),
        auth: resolved.auth.clone(),
        strict_streaming: false,
        configz: serde_json::to_value(resolved.effective()).unwrap_or_default(),
        log: LogLines::default(),
    }
}

#[cfg(test)]
mod tests;
