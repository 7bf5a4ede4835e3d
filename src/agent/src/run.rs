//! The agent as one function: the same for the daemon and for the simulator, which differ in the `Env` that they hand in.
//! Upstream: cmd/kubelet/app/server.go (run, RunKubelet).
//! Differs: nothing waits for anything else to be up; the core decides what can be done yet.

use std::sync::Arc;

use kubelet::config::Config;
use kubelet::kubelet::Kubelet;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::env::Env;
use crate::event_loop::{EventLoop, Handle, Tap, handle};
use crate::executor::{Executor, LaneLimits};
use crate::{probe, runtime_events};

/// How many events of watches and streams wait for the loop before their sources do.
const SOURCE_BACKLOG: usize = 1024;

/// An agent that is about to run.
pub struct Agent {
    event_loop: EventLoop,
    companions: JoinSet<()>,
    handle: Handle,
}

impl Agent {
    /// Puts an agent together. Must be called in the runtime that it will run in; nothing is done before [`Agent::run`].
    #[must_use]
    pub fn new(config: Arc<Config>, env: Env, tap: Option<Tap>) -> Self {
        let (sink, sources) = mpsc::channel(SOURCE_BACKLOG);
        let (handle, queries) = handle();
        let epoch = Instant::now();
        // POD-203: no limit is a limit that nobody reaches.
        let images = config.images.max_parallel_pulls.map_or(64, |n| n as usize);
        let prober = probe::prober(Arc::clone(&env.net));
        let executor = Executor::new(env.clone(), epoch, prober, sink.clone(), &LaneLimits { images });
        let mut companions = JoinSet::new();
        companions.spawn(runtime_events::follow(env.clone(), sink));
        let kubelet = Kubelet::new(config, env.seed);
        let event_loop = EventLoop { kubelet, env, executor, sources, queries, epoch, tap };
        Self { event_loop, companions, handle }
    }

    /// The way to ask the agent while it runs.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs until the token is cancelled. Containers go on running.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { event_loop, companions, handle: _ } = self;
        event_loop.env.host.notify_ready();
        event_loop.run(shutdown).await;
        drop(companions);
    }
}
