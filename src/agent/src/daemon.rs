//! The daemon's side of the house: files, sockets, clock and signals of the real system, put into an `Env`.
//! Upstream: cmd/kubelet/app/server.go.
//! Differs: nothing on purpose.

use std::fs;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use jiff::Timestamp;
use rustix::process::{Resource, Rlimit, setrlimit};
use tokio_util::sync::CancellationToken;

use crate::api::{Access, KubeApi};
use crate::client_certificate::{Joining, Renewal, World, connect};
use crate::config::{Resolved, read_credential_providers};
use crate::containment::kept_up;
use crate::cri::{CriRuntime, parse_endpoint};
use crate::env::{ApiServer, Clock, Env, Host};
use crate::event_loop::Handle;
use crate::host::{self, LinuxHost};
use crate::log_lines::LogLines;
use crate::net::SystemNet;
use crate::reloading::Subject;
use crate::run::{Agent, Turns};
use crate::server::health;
use crate::serving_certificate::{Prepared, serving};
use crate::standalone::Standalone;
use crate::tls::machine_roots;
use crate::view::CoreView;
use crate::watchdog::{Check, Watched};

/// The system's clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place where the system's clock is read")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// What an agent runs in.
pub struct Surroundings {
    /// The five seams.
    pub env: Env,
    /// What keeps the client certificate young; none if somebody else does, or nobody.
    pub renewal: Option<Renewal>,
    /// The way to the API server as the node, for requests of a serving certificate; none where there is no API server.
    pub access: Option<Access>,
    /// The lines that the process logs and has not written yet.
    pub log: LogLines,
    /// What is told whether the process is healthy, if systemd watches it.
    pub watched: Watched,
    /// Where the event loop turns: on a real node on a thread of its own; where time is pretended, with all the rest.
    pub turns: Turns,
}

/// Runs the daemon until a signal ends it.
///
/// # Errors
/// What keeps it from starting, the end of a listener, or of its credentials.
pub async fn run(mut resolved: Resolved, log: LogLines) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    tokio::spawn(signals(shutdown.clone(), log.clone()));
    let watched = Watched::default();
    if let Some(limit) = host::watchdog().map_err(anyhow::Error::msg)? {
        tracing::info!(?limit, "Starting systemd watchdog");
        let watched = watched.clone();
        tokio::spawn(async move { kept_up("watchdog", || watched.clone().keep_alive(limit, host::notify_watchdog)).await });
    }
    refuse_swap(&fs::read_to_string("/proc/swaps").unwrap_or_default(), resolved.kubelet.node.fail_swap_on)?;
    if let Some(plugins) = &resolved.credential_provider {
        // POD-206, in upstream's words (pkg/kubelet/kuberuntime/kuberuntime_manager.go).
        let read = read_credential_providers(&plugins.config, &plugins.bin_dir);
        let (providers, warnings) = read.map_err(|error| anyhow::anyhow!("Failed to register CRI auth plugins: {error}"))?;
        resolved.kubelet.images.credential_providers = providers;
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    }
    let surroundings = tokio::select! {
        biased;
        // The first certificate may take an hour.
        () = shutdown.cancelled() => return Ok(()),
        surroundings = surroundings(&resolved) => Surroundings { watched, log, ..surroundings? },
    };
    if let Err(error) = limit_open_files(resolved.process.max_open_files) {
        tracing::warn!(%error, wanted = resolved.process.max_open_files, "Failed to set rlimit on max file handles");
    }
    run_in(surroundings, &resolved, shutdown).await
}

/// NODE-146: whether the machine swaps, as `/proc/swaps` says, and must not. Its first line is a heading.
fn refuse_swap(swaps: &str, must_not: bool) -> anyhow::Result<()> {
    let on = swaps.lines().skip(1).any(|line| !line.trim().is_empty());
    anyhow::ensure!(
        !(on && must_not),
        "running with swap on is not supported, please disable swap or set --fail-swap-on flag to false"
    );
    Ok(())
}

/// `maxOpenFiles`, both as what holds and as what it could be raised to. Upstream goes on when this fails, too.
fn limit_open_files(most: u64) -> io::Result<()> {
    Ok(setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: Some(most) })?)
}

/// Runs the daemon in those surroundings until the token is cancelled.
///
/// # Errors
/// What keeps it from starting, the end of a listener, or of its credentials.
pub async fn run_in(surroundings: Surroundings, resolved: &Resolved, shutdown: CancellationToken) -> anyhow::Result<()> {
    let Surroundings { env, renewal, access, log, watched, turns } = surroundings;
    let Prepared { mut serving, files, requested } = serving(resolved, env.clock.now())?;
    serving.settings.log = log.clone();
    let world = World { net: Arc::clone(&env.net), clock: Arc::clone(&env.clock), seed: env.seed };
    let agent = Agent::new(Arc::new(resolved.kubelet.clone()), env, None);
    watched.watch(health_of(agent.handle(), resolved.kubelet.pods.sync_frequency, log));
    tracing::info!(node = %resolved.kubelet.node.name, version = env!("CARGO_PKG_VERSION"), "Keelson runs");
    let renewed = match renewal {
        Some(renewal) => renewal.run(agent.metrics()).boxed(),
        None => std::future::pending().boxed(),
    };
    let requesting: BoxFuture<'static, ()> = match (requested, access) {
        (Some(requested), Some(access)) => {
            let node = &resolved.kubelet.node.name;
            requested.kept_up(node, access, world, agent.handle()).run(agent.metrics()).map(|never| match never {}).boxed()
        }
        // Without an API server nobody signs: what was kept is shown.
        _ => std::future::pending().boxed(),
    };
    let followed = followed(files);
    tokio::select! {
        biased;
        ended = agent.run_where(turns, Some(serving), shutdown).boxed() => ended?,
        ended = renewed => return Err(ended.into()),
        () = followed => {}
        () = requesting => {}
    }
    tracing::info!("Keelson stops; containers go on running");
    Ok(())
}

/// What the watchdog goes by: the checks of /healthz.
pub(crate) fn health_of(core: Handle, sync_frequency: Duration, log: LogLines) -> Check {
    let view = CoreView::new(core, sync_frequency);
    Box::new(move || health::check(&view, &log))
}

/// Follows all of them; comes to no end, also if there are none.
fn followed(files: Vec<Subject>) -> BoxFuture<'static, ()> {
    let all = futures::future::join_all(files.into_iter().map(kept_up_to_date));
    all.then(|_| std::future::pending()).boxed()
}

/// Follows files of the server; comes to no end.
async fn kept_up_to_date(files: Subject) {
    kept_up("files of the server", || async { match files.clone().follow().await {} }).await;
}

/// The loop has a thread to itself: however long an event takes, TLS, healthz and all calls go on beside it, and however much they do,
/// it turns. Should it panic outside of every boundary, the process ends and is started again.
fn on_its_own_thread(turns: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
    let runtime = tokio::runtime::Handle::current();
    let (ended, end) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name("event-loop".to_owned()).spawn(move || {
        runtime.block_on(turns);
        // Nobody may wait for it any more.
        let _ = ended.send(());
    });
    async move {
        thread.expect("a process that cannot have one thread cannot be a node agent");
        end.await.expect("the event loop ends by itself only when it is told to");
    }
    .boxed()
}

/// The real system: sockets, files, clock. Joins the cluster first if that is asked for and cannot be done while the agent runs.
///
/// # Errors
/// If the kubeconfig or an endpoint cannot be used, or the node cannot join.
pub async fn surroundings(resolved: &Resolved) -> anyhow::Result<Surroundings> {
    let world = World { net: Arc::new(SystemNet::default()), clock: Arc::new(SystemClock), seed: seed()? };
    if resolved.kubelet.static_pods.url.is_some() {
        // Here it keeps nobody waiting.
        let _read = machine_roots();
    }
    let host = Arc::new(LinuxHost::new(&resolved.kubelet));
    Ok(Surroundings { turns: on_its_own_thread, ..surroundings_in(resolved, world, host).await? })
}

/// The same with another network, clock and machine; the files of certificates are the real system's.
///
/// # Errors
/// If the kubeconfig or an endpoint cannot be used, or the node cannot join.
pub async fn surroundings_in(resolved: &Resolved, world: World, host: Arc<dyn Host>) -> anyhow::Result<Surroundings> {
    let World { net, clock, seed } = world.clone();
    let node = resolved.kubelet.node.name.to_string();
    let (api, renewal, access): (Arc<dyn ApiServer>, _, _) = match &resolved.api.kubeconfig {
        Some(kubeconfig) => {
            let joining = Joining {
                node: &node,
                kubeconfig,
                bootstrap: resolved.api.bootstrap_kubeconfig.as_deref(),
                directory: &resolved.api.cert_dir,
                rotates: resolved.api.rotate_certificates,
            };
            let (access, renewal) = connect(&joining, world).await?;
            (Arc::new(KubeApi::new(access.clone(), Arc::clone(&net), &node, seed)), renewal, Some(access))
        }
        None => (Arc::new(Standalone), None, None),
    };
    let runtime = parse_endpoint(&resolved.runtime.endpoint)?;
    let images = parse_endpoint(&resolved.runtime.image_endpoint)?;
    let runtime = CriRuntime::new(&net, &runtime, &images, tokio::time::Instant::now());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let env = Env { api, runtime: Arc::new(runtime), host, net, clock, seed, cores };
    Ok(Surroundings { env, renewal, access, log: LogLines::default(), watched: Watched::default(), turns: |turns| turns })
}

fn seed() -> io::Result<u64> {
    let mut bytes = [0; 8];
    let read = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    if read < bytes.len() {
        return Err(io::Error::other("the kernel gave too little randomness"));
    }
    Ok(u64::from_ne_bytes(bytes))
}

/// API-294: the first signal ends the agent in good order; who asks twice does not want to wait.
async fn signals(shutdown: CancellationToken, log: LogLines) {
    use tokio::signal::unix::{Signal, SignalKind, signal};
    async fn either(term: &mut Signal, interrupt: &mut Signal) {
        tokio::select! {
            biased;
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
    let (Ok(mut term), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else { return };
    either(&mut term, &mut interrupt).await;
    shutdown.cancel();
    either(&mut term, &mut interrupt).await;
    log.flush();
    std::process::exit(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    // NODE-001: the agent may open as many files as the configuration says.
    #[test]
    fn limit_of_open_files_is_set() {
        let before = rustix::process::getrlimit(Resource::Nofile);
        // Without privileges it can only go down.
        let most = before.maximum.unwrap_or(1 << 20) - 1;
        limit_open_files(most).unwrap();
        let after = rustix::process::getrlimit(Resource::Nofile);
        assert_eq!((after.current, after.maximum), (Some(most), Some(most)));
    }

    // API-173: a server whose certificate comes from the API server, and that has no authority of clients, has no files.
    #[test]
    fn agent_does_not_end_because_there_are_no_files_to_follow() {
        assert!(followed(Vec::new()).now_or_never().is_none());
    }

    // NODE-146, API-291
    #[test]
    fn swap_is_refused_unless_it_is_allowed() {
        let heading = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        let swapping = format!("{heading}/swapfile file 2097148 0 -2\n");
        let told = refuse_swap(&swapping, true).unwrap_err().to_string();
        assert_eq!(told, "running with swap on is not supported, please disable swap or set --fail-swap-on flag to false");
        refuse_swap(&swapping, false).unwrap();
        refuse_swap(heading, true).unwrap();
        refuse_swap("", true).unwrap();
    }
}
