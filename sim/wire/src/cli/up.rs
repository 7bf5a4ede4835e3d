//! `keelson-sim up`: API server, scheduler, controllers, agent and a pretend (or real) runtime in one process, for kubectl.
//! Upstream: none; what kind and minikube do with containers and machines.
//! Differs: nothing on purpose.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent::config::{Invocation, Machine, Resolved, load};
use agent::daemon;
use agent::env::Clock as _;
use anyhow::{Context as _, bail};
use futures::StreamExt as _;
use jiff::Timestamp;
use model::api::ApiModel;
use model::api::authorize::Identity;
use model::api::resource::named;
use model::host::HostModel;
use model::runtime::RuntimeModel;
use proto::cri::image_service_server::ImageServiceServer;
use proto::cri::runtime_service_server::RuntimeServiceServer;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_util::sync::CancellationToken;

use super::host::PretendHost;
use super::{BROKE, HELD, IMPOSSIBLE, Up};
use crate::apiserver::ApiServer;
use crate::apiserver::pki::{Pki, accept};
use crate::cri::{CallFault, CriServer};

const NODE: &str = "n1";
/// How long the sample pod may take to run.
const SAMPLE_WITHIN: Duration = Duration::from_secs(60);

/// Runs until Ctrl-C.
pub(super) fn up(options: &Up) -> u8 {
    let dir = options.dir.clone().unwrap_or_else(|| std::env::temp_dir().join("keelson-up"));
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain!("{error}");
            return IMPOSSIBLE;
        }
    };
    let outcome = runtime.block_on(cluster(options, &dir));
    runtime.shutdown_timeout(Duration::from_secs(2));
    // What is left there would only be in the way of the next one.
    let _gone = std::fs::remove_dir_all(&dir);
    match outcome {
        Ok(true) => HELD,
        Ok(false) => BROKE,
        Err(error) => {
            complain!("{error:#}");
            IMPOSSIBLE
        }
    }
}

fn now() -> Timestamp {
    daemon::SystemClock.now()
}

async fn cluster(options: &Up, dir: &Path) -> anyhow::Result<bool> {
    std::fs::create_dir_all(dir).with_context(|| format!("--dir {}", dir.display()))?;
    let pki = Pki::new()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let url = format!("https://{}", listener.local_addr()?);
    let api = api_server(&pki, listener)?;
    let admin = dir.join("kubeconfig");
    std::fs::write(&admin, pki.kubeconfig(&url, &Identity::admin())?)?;
    let node_kubeconfig = dir.join("node.kubeconfig");
    std::fs::write(&node_kubeconfig, pki.kubeconfig(&url, &Identity::node(NODE))?)?;
    let endpoint = if options.runtime == "sim" { pretend_runtime(dir)? } else { options.runtime.clone() };
    let resolved = settings(options, dir, &pki, &node_kubeconfig, &endpoint)?;
    let mut surroundings = daemon::surroundings(&resolved).await?;
    if options.runtime == "sim" {
        let mut host = HostModel::new();
        host.addresses.routed = vec![Ipv4Addr::LOCALHOST.into()];
        surroundings.env.host = Arc::new(PretendHost(Arc::new(Mutex::new(host))));
    }
    if options.v > 0 {
        surroundings.log = agent::telemetry::init(&resolved.logging, now)?;
    }
    let log = surroundings.log.clone();
    let shutdown = CancellationToken::new();
    let agent = {
        let shutdown = shutdown.clone();
        tokio::spawn(async move { daemon::run_in(surroundings, &resolved, shutdown).await })
    };
    say!("API server  {url}");
    say!("runtime     {}", if options.runtime == "sim" { "pretend" } else { &options.runtime });
    let ran = sample(&api).await;
    say!("\nexport KUBECONFIG={}\n", admin.display());
    if !options.once && ran {
        say!("kubectl works with it now. Ctrl-C ends the cluster.");
        tokio::select! {
            ended = tokio::signal::ctrl_c() => ended?,
            ended = agent => {
                ended??;
                bail!("the agent ended by itself");
            }
        }
    }
    shutdown.cancel();
    log.flush();
    Ok(ran)
}

fn api_server(pki: &Pki, listener: TcpListener) -> anyhow::Result<ApiServer> {
    let mut model = ApiModel::new(now(), 1);
    model.ca_certificate.clone_from(&pki.ca_certificate);
    let api = ApiServer::new(Arc::new(Mutex::new(model)), Arc::new(now), ApiServer::no_faults())
        .with_controllers()
        .with_nodes(pki.node_dialer(|host: String, port: u16| async move { TcpStream::connect((host.as_str(), port)).await })?);
    let tls = pki.server_config(&["127.0.0.1", "localhost"])?;
    let connections = futures::stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.ok()?;
        Some((accepted.0, listener))
    });
    let secured = connections
        .map(move |stream| accept(Arc::clone(&tls), stream))
        .buffer_unordered(64)
        .filter_map(|done| async move { done.ok() })
        .boxed();
    tokio::spawn(api.clone().serve(secured));
    Ok(api)
}

fn pretend_runtime(dir: &Path) -> anyhow::Result<String> {
    let path = dir.join("cri.sock");
    let _stale = std::fs::remove_file(&path);
    let socket = UnixListener::bind(&path)?;
    let server = CriServer::new(Arc::new(Mutex::new(RuntimeModel::default())), Arc::new(now), Arc::new(|_| CallFault::None));
    tokio::spawn(server.keep_time());
    let incoming = futures::stream::unfold(socket, |socket| async move {
        let accepted = socket.accept().await.map(|(stream, _)| stream);
        Some((accepted, socket))
    });
    let router = tonic::transport::Server::builder()
        .add_service(RuntimeServiceServer::new(server.clone()))
        .add_service(ImageServiceServer::new(server));
    tokio::spawn(router.serve_with_incoming(incoming));
    Ok(format!("unix://{}", path.display()))
}

/// A port that is free now; somebody else could take it before we do, and then the agent says so.
fn free_port() -> anyhow::Result<u16> {
    let listener = std::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    Ok(listener.local_addr()?.port())
}

fn settings(options: &Up, dir: &Path, pki: &Pki, kubeconfig: &Path, endpoint: &str) -> anyhow::Result<Resolved> {
    let ca = dir.join("ca.crt");
    std::fs::write(&ca, &pki.ca_certificate)?;
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "127.0.0.1",
        "port": free_port()?,
        "healthzPort": 0,
        "failCgroupV1": false,
        "failSwapOn": false,
        "containerRuntimeEndpoint": endpoint,
        "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": false}, "x509": {"clientCAFile": ca}},
        "authorization": {"mode": "AlwaysAllow"},
        "evictionHard": {"memory.available": "1Mi"},
    });
    let file = dir.join("config.yaml");
    std::fs::write(&file, config.to_string())?;
    let mut args = vec![
        format!("--config={}", file.display()),
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--hostname-override={NODE}"),
        format!("--cert-dir={}", dir.join("pki").display()),
        format!("--v={}", options.v),
    ];
    if options.runtime == "sim" {
        args.push(format!("--root-dir={}", dir.join("root").display()));
    } else {
        // The API server of this process listens on loopback alone, and so does the agent.
        args.push("--node-ip=127.0.0.1".to_owned());
    }
    let machine = Machine {
        hostname: NODE.to_owned(),
        working_dir: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
        home: None,
        cgroup_v2: Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
        online_cpus: String::new(),
    };
    match load(&args, &machine)? {
        Invocation::Run(resolved) => Ok(*resolved),
        Invocation::Print(text) => bail!("{text}"),
    }
}

/// Applies a sample pod and waits until it runs.
async fn sample(api: &ApiServer) -> bool {
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "hello", "namespace": "default"},
        "spec": {"containers": [{"name": "main", "image": "busybox:1.36", "command": ["sleep", "3600"]}]},
    });
    if let Err(error) = api.with(|model, now| model.create(now, named("pods"), "default", pod)) {
        say!("the sample pod was refused: {}", error.failure().message);
        return false;
    }
    say!("pod/hello   created");
    let mut shown = String::new();
    let done = tokio::time::timeout(SAMPLE_WITHIN, async {
        loop {
            let pod = api.with(|model, _| model.store.get("pods", "default", "hello").cloned());
            let status = pod.map(|pod| describe(&pod)).unwrap_or_default();
            if status != shown {
                say!("pod/hello   {status}");
                shown = status;
            }
            if shown.starts_with("Running 1/1") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    if done.await.is_err() {
        say!("pod/hello does not run after {SAMPLE_WITHIN:?}: {shown}");
        return false;
    }
    true
}

fn describe(pod: &Value) -> String {
    let status = &pod["status"];
    let container = &status["containerStatuses"][0];
    let ready = u8::from(container["ready"] == true);
    let waits = container["state"]["waiting"]["reason"].as_str().map(|reason| format!(" ({reason})")).unwrap_or_default();
    let node = pod["spec"]["nodeName"].as_str().map_or("not scheduled".to_owned(), |node| format!("on {node}"));
    format!("{} {ready}/1{waits} {node}", status["phase"].as_str().unwrap_or_default())
}
