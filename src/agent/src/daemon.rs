//! The daemon's side of the house: files, sockets, clock and signals of the real system, put into an `Env`.
//! Upstream: cmd/kubelet/app/server.go.
//! Differs: nothing on purpose.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use jiff::Timestamp;
use rustix::process::{Resource, Rlimit, setrlimit};
use rustls::crypto::ring;
use rustls::server::danger::ClientCertVerifier;
use tokio_util::sync::CancellationToken;

use crate::api::KubeApi;
use crate::certificate::self_signed;
use crate::client_certificate::{Joining, Renewal, World, connect};
use crate::config::{CertificateSource, Resolved, Tls};
use crate::cri::{CriRuntime, parse_endpoint};
use crate::env::{ApiServer, Clock, Env, Host};
use crate::host::LinuxHost;
use crate::net::SystemNet;
use crate::run::{Agent, Serving, Turns, server_settings};
use crate::server::ClientCa;
use crate::serving_certificate::ServingCertificate;
use crate::standalone::Standalone;
use crate::tls::{certified_key, server_config};

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
    /// Where the event loop turns: on a real node on a thread of its own; where time is pretended, with all the rest.
    pub turns: Turns,
}

/// Runs the daemon until a signal ends it.
///
/// # Errors
/// What keeps it from starting, the end of a listener, or of its credentials.
pub async fn run(resolved: Resolved) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    tokio::spawn(signals(shutdown.clone()));
    refuse_swap(&fs::read_to_string("/proc/swaps").unwrap_or_default(), resolved.kubelet.node.fail_swap_on)?;
    let surroundings = tokio::select! {
        biased;
        // The first certificate may take an hour.
        () = shutdown.cancelled() => return Ok(()),
        surroundings = surroundings(&resolved) => surroundings?,
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
    let Surroundings { env, renewal, turns } = surroundings;
    let serving = serving(resolved, env.clock.now())?;
    let agent = Agent::new(Arc::new(resolved.kubelet.clone()), env, None);
    tracing::info!(node = %resolved.kubelet.node.name, version = env!("CARGO_PKG_VERSION"), "Keelson runs");
    let renewed = match renewal {
        Some(renewal) => renewal.run(agent.metrics()).boxed(),
        None => std::future::pending().boxed(),
    };
    tokio::select! {
        biased;
        ended = agent.run_where(turns, Some(serving), shutdown).boxed() => ended?,
        ended = renewed => return Err(ended.into()),
    }
    tracing::info!("Keelson stops; containers go on running");
    Ok(())
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
    let world = World { net: Arc::new(SystemNet), clock: Arc::new(SystemClock), seed: seed()? };
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
    let (api, renewal): (Arc<dyn ApiServer>, _) = match &resolved.api.kubeconfig {
        Some(kubeconfig) => {
            let joining = Joining {
                node: &node,
                kubeconfig,
                bootstrap: resolved.api.bootstrap_kubeconfig.as_deref(),
                directory: &resolved.api.cert_dir,
                rotates: resolved.api.rotate_certificates,
            };
            let (access, renewal) = connect(&joining, world).await?;
            (Arc::new(KubeApi::new(access, Arc::clone(&net), &node, seed)), renewal)
        }
        None => (Arc::new(Standalone), None),
    };
    let runtime = parse_endpoint(&resolved.runtime.endpoint)?;
    let images = parse_endpoint(&resolved.runtime.image_endpoint)?;
    let runtime = CriRuntime::new(&net, &runtime, &images, tokio::time::Instant::now());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let env = Env { api, runtime: Arc::new(runtime), host, net, clock, seed, cores };
    Ok(Surroundings { env, renewal, turns: |turns| turns })
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
async fn signals(shutdown: CancellationToken) {
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
    std::process::exit(1);
}

fn serving(resolved: &Resolved, now: Timestamp) -> anyhow::Result<Serving> {
    let (certificate, key) = certificate(&resolved.tls, &resolved.kubelet.node.name, &resolved.kubelet.node.ips, now)?;
    let client_ca = match &resolved.auth.client_ca_file {
        Some(path) => {
            let pem = fs::read(path).with_context(|| format!("authentication.x509.clientCAFile {}", path.display()))?;
            Some(ClientCa::new(&pem, Arc::new(ring::default_provider()))?)
        }
        None => None,
    };
    let clients = client_ca.clone().map(|ca| ca as Arc<dyn ClientCertVerifier>);
    let certificate = ServingCertificate::new(Some(certified_key(&certificate, &key)?));
    let tls = server_config(&resolved.tls.terms, certificate, clients)?;
    Ok(Serving { settings: server_settings(resolved), tls: Arc::new(tls), client_ca })
}

/// API-020: the serving certificate, made and kept if there is none yet.
fn certificate(tls: &Tls, node: &str, ips: &[IpAddr], now: Timestamp) -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
    let read = |path: &Path, field: &str| fs::read(path).with_context(|| format!("{field} {}", path.display()));
    match &tls.source {
        CertificateSource::Files { certificate, key } => Ok((read(certificate, "tlsCertFile")?, read(key, "tlsPrivateKeyFile")?)),
        CertificateSource::SelfSigned { certificate, key } => {
            if !(certificate.exists() && key.exists()) {
                let made = self_signed(node, ips, now.as_second())?;
                write_private(certificate, made.certificate.as_bytes(), 0o644)?;
                write_private(key, made.key.as_bytes(), 0o600)?;
            }
            Ok((read(certificate, "certificate")?, read(key, "key")?))
        }
        CertificateSource::Bootstrap(_) => anyhow::bail!(
            "serverTLSBootstrap: certificates signed by the API server are not supported yet; give tlsCertFile and tlsPrivateKeyFile, or leave it off"
        ),
    }
}

/// Writes a file whole or not at all, with exactly that mode: half a key would end every later start.
fn write_private(path: &Path, contents: &[u8], mode: u32) -> anyhow::Result<()> {
    use io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;
    let directory = path.parent().unwrap_or_else(|| Path::new("/"));
    fs::create_dir_all(directory).with_context(|| format!("cert-dir {}", directory.display()))?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = Path::new(&temporary);
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(temporary)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(temporary, path)?;
        fs::File::open(directory)?.sync_all()
    };
    let written = write();
    if written.is_err() {
        // The failure that is reported is the first one.
        let _ = fs::remove_file(temporary);
    }
    written.with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::config::Terms;

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

    // API-170: made once for the host and a year, kept beside its key, and the same in every later life.
    #[test]
    fn serving_certificate_is_made_once_and_kept() {
        let directory = std::env::temp_dir().join(format!("keelson-daemon-{}", std::process::id()));
        let (file, key_file) = (directory.join("pki/kubelet.crt"), directory.join("pki/kubelet.key"));
        let source = CertificateSource::SelfSigned { certificate: file.clone(), key: key_file.clone() };
        let tls = Tls { source, terms: Terms::default() };
        let made = certificate(&tls, "n1", &[], Timestamp::from_second(1_767_225_600).unwrap()).unwrap();
        let kept = certificate(&tls, "n1", &[], Timestamp::from_second(1_767_312_000).unwrap()).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let modes = (mode(&file), mode(&key_file));
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(made, kept);
        assert_eq!(modes, (0o644, 0o600));
        certified_key(&made.0, &made.1).unwrap();
        let der = crate::tls::certificates("it", &made.0).unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(&der[0]).unwrap();
        let names = parsed.subject_alternative_name().unwrap().unwrap();
        assert!(matches!(names.value.general_names[..], [x509_parser::extensions::GeneralName::DNSName("n1")]));
        let seconds = parsed.validity().not_after.timestamp() - 1_767_225_600;
        assert_eq!(seconds, 365 * 86_400);
    }

    // Issue 10, S28
    #[test]
    fn private_file_has_its_mode_and_is_whole() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = std::env::temp_dir().join(format!("keelson-private-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let key = directory.join("kubelet.key");
        fs::write(&key, "torn").unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        write_private(&key, b"whole", 0o600).unwrap();
        let (mode, names) = (fs::metadata(&key).unwrap().permissions().mode() & 0o777, fs::read_dir(&directory).unwrap().count());
        let found = fs::read(&key).unwrap();
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!((mode, names, found.as_slice()), (0o600, 1, &b"whole"[..]));
    }
}
