//! The server over streams within the process: real HTTP requests through the gate.

mod auth;
pub(crate) mod fakes;
mod golden;
mod information;
mod invariants;
mod listeners;
mod logs;
mod recorded;
mod streaming;
mod usage;
mod volumes;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kubelet::ids::{ContainerId, PodUid, SandboxId};
use kubelet::observation::{ContainerState, ContainerStatus, Observed, PodObservation, SandboxState, SandboxStatus};
use kubelet::time::Mono;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use self::fakes::{FakeApi, FakeClock, FakeHost, FakeNet, FakeRuntime, FakeView};
use super::auth::Guard;
use super::stats::{Collector, StatsSettings};
use super::{ClientCa, Gate, Listener, Settings, Shared, metrics, serve};
use crate::config::{Auth, Authorization, Server};
use crate::env::{BoxedStream, Endpoint, Env, Net as _, UserInfo};
use crate::log_lines::LogLines;

const MAIN: &str = "10.0.0.1:10250";

/// The one who may do everything.
const ADMIN: &str = "admin-token";

pub(super) struct World {
    api: Arc<FakeApi>,
    runtime: Arc<FakeRuntime>,
    host: Arc<FakeHost>,
    net: FakeNet,
    view: Arc<FakeView>,
    shared: Arc<Shared>,
    shutdown: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

pub(crate) fn settings() -> Settings {
    let webhook = Authorization::Webhook { authorized_ttl: Duration::from_secs(300), unauthorized_ttl: Duration::from_secs(30) };
    Settings {
        node_name: "n1".to_owned(),
        listeners: Server {
            https: None,
            read_only: None,
            healthz: None,
            debugging_handlers: true,
            system_log_handler: true,
            system_log_query: false,
            profiling_handler: true,
            debug_flags_handler: true,
            streaming_idle_timeout: Duration::from_secs(4 * 3600),
            show_hidden_metrics: false,
        },
        auth: Auth {
            anonymous: false,
            client_ca_file: None,
            token_webhook: Some(Duration::from_secs(120)),
            authorization: webhook,
        },
        strict_streaming: false,
        configz: json!({ "cgroupDriver": "cgroupfs", "kind": "KubeletConfiguration" }),
        log: LogLines::default(),
    }
}

impl World {
    fn new() -> Self {
        Self::with(settings())
    }

    fn with(settings: Settings) -> Self {
        let (api, runtime) = (Arc::new(FakeApi::default()), Arc::new(FakeRuntime::default()));
        let (host, view, net) = (Arc::new(FakeHost::default()), Arc::new(FakeView::default()), FakeNet::default());
        let groups = vec!["system:masters".to_owned()];
        let admin = UserInfo { name: "admin".to_owned(), groups, ..UserInfo::default() };
        api.tokens.lock().unwrap().insert(ADMIN.to_owned(), admin);
        for verb in ["get", "create", "delete", ""] {
            for subresource in ["pods", "proxy", "healthz", "configz", "stats", "metrics", "log"] {
                api.allowed.lock().unwrap().insert(format!("admin {verb} {subresource}"));
            }
        }
        let env = Env {
            api: api.clone(),
            runtime: runtime.clone(),
            host: host.clone(),
            net: Arc::new(net.clone()),
            clock: Arc::new(FakeClock::new()),
            seed: 7,
            cores: 2,
        };
        let stats = StatsSettings {
            node_name: "n1".to_owned(),
            root_dir: "/var/lib/kubelet".to_owned(),
            pod_logs_dir: "/var/log/pods".to_owned(),
            volume_stats_period: Some(Duration::from_secs(60)),
            kubelet_cgroup: String::new(),
            runtime_cgroup: "/runtime".to_owned(),
            system_cgroup: String::new(),
        };
        let collector = Collector::new(env.clone(), stats);
        let shared = Shared::new(env, view.clone(), settings, Arc::new(metrics::Registry::new()), collector);
        Self { api, runtime, host, net, view, shared, shutdown: CancellationToken::new() }
    }

    fn guard(&self, client_ca: Option<Arc<ClientCa>>) -> Guard {
        let env = &self.shared.env;
        let settings = &self.shared.settings;
        Guard::new(env.api.clone(), env.clock.clone(), settings.auth.clone(), client_ca, settings.strict_streaming, 7)
    }

    /// Serves the main listener without TLS.
    async fn start(self) -> Self {
        let gate = Gate::main(self.shared.clone(), self.guard(None));
        self.serve(MAIN, gate, None).await;
        self
    }

    async fn serve(&self, address: &str, gate: Arc<Gate>, tls: Option<Arc<rustls::ServerConfig>>) {
        let address: SocketAddr = address.parse().unwrap();
        let (net, shutdown) = (Arc::new(self.net.clone()), self.shutdown.clone());
        tokio::spawn(async move { serve(net, address, gate, tls, shutdown).await.unwrap() });
        tokio::task::yield_now().await;
    }

    async fn connect(&self, address: &str) -> BoxedStream {
        let address: SocketAddr = address.parse().unwrap();
        self.net.connect(Endpoint::Tcp { host: address.ip().to_string(), port: address.port() }).await.unwrap()
    }

    async fn request(&self, address: &str, request: Request<Body>) -> Answer {
        let stream = self.connect(address).await;
        Answer::of(send(stream, request).await).await
    }

    /// As the administrator.
    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, ADMIN).await
    }

    async fn ask(&self, method: &str, path: &str, token: &str) -> Answer {
        let request =
            Request::builder().method(method).uri(path).header("Host", "n1").header("Authorization", format!("Bearer {token}"));
        self.request(MAIN, request.body(Body::empty()).unwrap()).await
    }

    /// Adds a pod with one running container `c`, as the runtime has it too.
    fn run_pod(&self, name: &str) -> PodUid {
        let pod = pod(name, &json!({ "running": {} }), "r://c1");
        let uid = PodUid::new(pod.metadata.uid.as_deref().unwrap());
        self.view.pods.lock().unwrap().push(Arc::new(pod));
        self.observe(&uid, observation(&uid, name, ContainerState::Running));
        uid
    }

    fn observe(&self, uid: &PodUid, seen: PodObservation) {
        let seen = Observed::new(seen);
        self.view.observations.lock().unwrap().insert(uid.clone(), seen.clone());
        self.runtime.observations.lock().unwrap().insert(uid.clone(), seen);
    }
}

/// One request on a stream of its own; the connection lives as long as the answer's body.
pub(crate) async fn send(stream: BoxedStream, request: Request<Body>) -> Response<hyper::body::Incoming> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await.unwrap()
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: http::HeaderMap,
    body: String,
}

impl Answer {
    async fn of(response: Response<hyper::body::Incoming>) -> Self {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Self { status: parts.status.as_u16(), headers: parts.headers, body: String::from_utf8(body.to_vec()).unwrap() }
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

fn pod(name: &str, state: &Value, id: &str) -> Pod {
    let status = json!({
        "name": "c", "image": "i", "imageID": "i", "ready": true, "restartCount": 0, "state": state, "containerID": id,
    });
    let value = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "default", "uid": format!("uid-{name}") },
        "spec": { "containers": [{ "name": "c", "image": "i", "tty": true }] },
        "status": { "phase": "Running", "containerStatuses": [status] },
    });
    serde_json::from_value(value).unwrap()
}

const LOG: &str = "/var/log/pods/p/c/0.log";

fn observation(uid: &PodUid, name: &str, state: ContainerState) -> PodObservation {
    let container = ContainerStatus {
        id: ContainerId::new("c1"),
        sandbox: SandboxId::new("s1"),
        name: "c".to_owned(),
        attempt: 0,
        state,
        created_at: 1,
        started_at: 2,
        finished_at: 0,
        exit_code: 0,
        reason: String::new(),
        message: String::new(),
        image: "i".to_owned(),
        image_ref: "docker.io/library/i@sha256:d".to_owned(),
        image_id: "sha256:i".to_owned(),
        log_path: LOG.to_owned(),
        labels: [].into(),
        annotations: [].into(),
        user: None,
        resources: None,
        termination_log: String::new(),
        stop_signal: String::new(),
    };
    let sandbox = SandboxStatus {
        id: SandboxId::new("s1"),
        attempt: 0,
        state: SandboxState::Ready,
        created_at: 1,
        ips: Vec::new(),
        lacks_ip: false,
        annotation_bytes: 0,
        host_network: false,
        runtime_handler: String::new(),
        labels: [].into(),
    };
    let mut seen = PodObservation::empty(uid.clone(), Mono::from_start(Duration::ZERO));
    seen.namespace = "default".to_owned();
    seen.name = name.to_owned();
    seen.containers.push(container);
    seen.sandboxes.push(sandbox);
    seen
}
