//! Whole agents that join by a bootstrap kubeconfig and renew their certificates: real TLS over streams within the process, in
//! paused time, on a pretend machine with a pretend runtime; only the files of certificates are on a disk.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent::client_certificate::World;
use agent::config::{Invocation, Machine, Resolved, load};
use agent::daemon;
use agent::env::{BoxedStream, Clock, Endpoint, Listener, Net};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use model::api::ApiModel;
use model::api::authorize::Identity;
use model::host::HostModel;
use model::runtime::RuntimeModel;
use proto::cri::image_service_server::ImageServiceServer;
use proto::cri::runtime_service_server::RuntimeServiceServer;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use x509_parser::extensions::GeneralName;

use super::ApiServer;
use super::pki::{Pki, accept};
use super::signer::Signer;
use crate::cli::host::PretendHost;
use crate::cri::{CallFault, CriServer};

const NODE: &str = "n1";
const TOKEN: &str = "abcdef.0123456789abcdef";
const JOINER: &str = "system:bootstrap:abcdef";
const OWN: &str = "system:node:n1";
const URL: &str = "https://10.0.0.1:6443";
const HOUR: Duration = Duration::from_secs(3600);
/// A short life, for what is renewed.
const LIFE: Duration = Duration::from_secs(600);

/// The wall clock of everything here.
#[derive(Clone)]
struct TestClock(Instant);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_790_000_000).unwrap() + SignedDuration::try_from(self.0.elapsed()).unwrap()
    }
}

/// One request as the API server answered it.
#[derive(Clone, Debug)]
struct Answered {
    user: String,
    line: String,
    code: u16,
}

/// A cluster without nodes.
struct Bed {
    directory: PathBuf,
    clock: TestClock,
    api: ApiServer,
    pki: Arc<Pki>,
    tls: Arc<rustls::ServerConfig>,
    cri: CriServer,
    answered: Arc<Mutex<Vec<Answered>>>,
    connections: AtomicUsize,
    away: AtomicBool,
    /// Whether the node requests its serving certificate, and its address.
    serving: Mutex<Option<&'static str>>,
    /// Whether it is given an authority of clients, and a serving certificate besides.
    has_client_ca: AtomicBool,
    has_files: AtomicBool,
    /// Who connects to the node.
    callers: (mpsc::Sender<DuplexStream>, Arc<tokio::sync::Mutex<mpsc::Receiver<DuplexStream>>>),
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Bed {
    /// With that signer, if any.
    fn new(signer: impl FnOnce(Arc<Pki>) -> Option<Signer>) -> Arc<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("keelson-join-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        let clock = TestClock(Instant::now());
        let time = {
            let clock = clock.clone();
            Arc::new(move || clock.now())
        };
        let pki = Arc::new(Pki::new().unwrap());
        let mut model = ApiModel::new(clock.now(), 7);
        model.bootstrap_tokens.insert(TOKEN.to_owned());
        model.ca_certificate.clone_from(&pki.ca_certificate);
        let answered = Arc::new(Mutex::new(Vec::new()));
        let audit = {
            let answered = Arc::clone(&answered);
            Arc::new(move |who: &Identity, method: &str, path: &str, code: u16| {
                let line = format!("{method} {path}");
                answered.lock().unwrap().push(Answered { user: who.user.clone(), line, code });
            })
        };
        let mut api = ApiServer::new(Arc::new(Mutex::new(model)), time.clone(), ApiServer::no_faults()).with_audit(audit);
        if let Some(signer) = signer(Arc::clone(&pki)) {
            api = api.with_signer(signer);
        }
        let cri = CriServer::new(Arc::new(Mutex::new(RuntimeModel::default())), time.clone(), Arc::new(|_| CallFault::None));
        tokio::spawn(cri.keep_time());
        let tls = pki.server_config_by(&["10.0.0.1"], time).unwrap();
        let kubeconfig = pki.token_kubeconfig(URL, TOKEN);
        fs::write(directory.join("bootstrap-kubelet.conf"), kubeconfig).unwrap();
        let (connections, away) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (call, calls) = mpsc::channel(8);
        let (serving, callers) = (Mutex::new(None), (call, Arc::new(tokio::sync::Mutex::new(calls))));
        let (has_client_ca, has_files) = (AtomicBool::new(true), AtomicBool::new(false));
        Arc::new(Self {
            directory,
            clock,
            api,
            pki,
            tls,
            cri,
            answered,
            connections,
            away,
            serving,
            has_client_ca,
            has_files,
            callers,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn settings(&self, rotates: bool) -> Resolved {
        let ca = self.path("ca.crt");
        fs::write(&ca, &self.pki.ca_certificate).unwrap();
        let mut config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "rotateCertificates": rotates,
            "healthzPort": 0, "failCgroupV1": false, "failSwapOn": false, "containerRuntimeEndpoint": "unix:///run/pretend.sock",
            "authentication": {"anonymous": {"enabled": self.serving.lock().unwrap().is_some()}, "webhook": {"enabled": false}, "x509": {"clientCAFile": ca}},
            "authorization": {"mode": "AlwaysAllow"}, "serverTLSBootstrap": self.serving.lock().unwrap().is_some(),
        });
        if !self.has_client_ca.load(Ordering::Relaxed) {
            config["authentication"]["x509"] = json!({});
        }
        if self.has_files.load(Ordering::Relaxed) {
            config["tlsCertFile"] = json!(self.path("tls.crt"));
            config["tlsPrivateKeyFile"] = json!(self.path("tls.key"));
        }
        fs::write(self.path("config.yaml"), config.to_string()).unwrap();
        let file = |flag: &str, name: &str| format!("--{flag}={}", self.path(name).display());
        let args = [
            file("config", "config.yaml"),
            file("kubeconfig", "kubelet.conf"),
            file("bootstrap-kubeconfig", "bootstrap-kubelet.conf"),
            file("cert-dir", "pki"),
            file("root-dir", "root"),
            format!("--hostname-override={NODE}"),
            format!("--node-ip={}", self.serving.lock().unwrap().unwrap_or_default()),
        ];
        let machine = Machine {
            hostname: NODE.to_owned(),
            working_dir: self.directory.clone(),
            home: None,
            cgroup_v2: true,
            online_cpus: String::new(),
        };
        match load(&args, &machine).unwrap() {
            Invocation::Run(resolved) => *resolved,
            Invocation::Print(text) => panic!("{text}"),
        }
    }

    /// Starts an agent; it ends when it is aborted, or by itself.
    fn start(self: &Arc<Self>, rotates: bool) -> JoinHandle<anyhow::Result<()>> {
        let resolved = self.settings(rotates);
        let world = World { net: Arc::new(BedNet(Arc::clone(self))), clock: Arc::new(self.clock.clone()), seed: 7 };
        let host = Arc::new(PretendHost(Arc::new(Mutex::new(HostModel::new()))));
        tokio::spawn(async move {
            let surroundings = daemon::surroundings_in(&resolved, world, host).await?;
            daemon::run_in(surroundings, &resolved, CancellationToken::new()).await
        })
    }

    fn is_ready(&self) -> bool {
        self.api.with(|model, _| {
            let node = model.store.get("nodes", "", NODE);
            let conditions = node.and_then(|node| node["status"]["conditions"].as_array().cloned()).unwrap_or_default();
            conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
        })
    }

    async fn until(&self, what: &str, most: Duration, done: impl Fn(&Self) -> bool) {
        let waited = timeout(most, async {
            while !done(self) {
                sleep(Duration::from_millis(100)).await;
            }
        });
        assert!(waited.await.is_ok(), "no {what} within {most:?}: {:#?}", self.answered());
    }

    async fn until_ready(&self, most: Duration) {
        self.until("ready node", most, Self::is_ready).await;
    }

    fn answered(&self) -> Vec<Answered> {
        self.answered.lock().unwrap().clone()
    }

    fn requests(&self) -> Vec<Arc<Value>> {
        self.api.with(|model, _| model.store.list("certificatesigningrequests", "").cloned().collect())
    }

    /// Those for serving certificates.
    fn serving_requests(&self) -> Vec<Arc<Value>> {
        self.requests().into_iter().filter(|request| request["spec"]["signerName"] == "kubernetes.io/kubelet-serving").collect()
    }

    /// Says so of each request that nothing has become of yet.
    fn judge(&self, verdict: &str) {
        self.api.with(|model, now| {
            for request in model.open_requests() {
                let name = request["metadata"]["name"].as_str().unwrap().to_owned();
                model.judge_request(now, &name, verdict, "Said", "by hand").unwrap();
            }
        });
    }

    /// The certificate that the node shows, if the handshake comes to that.
    async fn shown(&self) -> Option<CertificateDer<'static>> {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        self.callers.0.send(theirs).await.unwrap();
        let connector = TlsConnector::from(Arc::new(agent::tls::client_config(&agent::tls::Trust::Anybody, None).unwrap()));
        let stream = connector.connect(ServerName::try_from("10.0.0.9").unwrap(), ours).await.ok()?;
        stream.get_ref().1.peer_certificates()?.first().map(|shown| shown.clone().into_owned())
    }

    /// A family of the node's metrics, of one series.
    async fn metric(&self, name: &str) -> Option<f64> {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        self.callers.0.send(theirs).await.unwrap();
        let connector = TlsConnector::from(Arc::new(agent::tls::client_config(&agent::tls::Trust::Anybody, None).unwrap()));
        let mut stream = connector.connect(ServerName::try_from("10.0.0.9").unwrap(), ours).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: n1\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        // Whoever closes without a word of TLS has said all before.
        let _ended = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
    }

    async fn until_shown(&self, what: &str, most: Duration, mut is_it: impl FnMut(Option<&CertificateDer<'static>>) -> bool) {
        let began = Instant::now();
        while !is_it(self.shown().await.as_ref()) {
            assert!(began.elapsed() < most, "{what} is not shown within {most:?}: {:#?}", self.serving_requests());
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn current(&self) -> PathBuf {
        fs::read_link(self.path("pki/kubelet-client-current.pem")).unwrap()
    }

    fn pairs(&self) -> usize {
        let named = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let is_pair = |name: &String| name.starts_with("kubelet-client-2");
        fs::read_dir(self.path("pki")).map_or(0, |entries| entries.map(named).filter(is_pair).count())
    }
}

/// The way to the API server and to the runtime.
struct BedNet(Arc<Bed>);

impl Net for BedNet {
    fn connect(&self, endpoint: Endpoint) -> BoxFuture<'_, io::Result<BoxedStream>> {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let bed = Arc::clone(&self.0);
        async move {
            match endpoint {
                Endpoint::Unix(_) => tokio::spawn(serve_runtime(bed.cri.clone(), theirs)),
                Endpoint::Tcp { .. } if bed.away.load(Ordering::Relaxed) => return Err(io::ErrorKind::ConnectionRefused.into()),
                Endpoint::Tcp { .. } => {
                    bed.connections.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(serve_api(bed, theirs))
                }
            };
            Ok(Box::pin(ours) as BoxedStream)
        }
        .boxed()
    }

    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        let callers = Arc::clone(&self.0.callers.1);
        async move { Ok(Box::new(Door(address, callers)) as Box<dyn Listener>) }.boxed()
    }
}

/// Where callers of the node come in.
struct Door(SocketAddr, Arc<tokio::sync::Mutex<mpsc::Receiver<DuplexStream>>>);

impl Listener for Door {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxedStream, SocketAddr)>> {
        async {
            let caller = self.1.lock().await.recv().await.ok_or(io::ErrorKind::BrokenPipe)?;
            Ok((Box::pin(caller) as BoxedStream, "10.0.0.1:40000".parse().unwrap()))
        }
        .boxed()
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0)
    }
}

async fn serve_api(bed: Arc<Bed>, stream: DuplexStream) {
    // A handshake that fails is the client's to tell of.
    if let Ok((stream, identity)) = accept(Arc::clone(&bed.tls), stream).await {
        let _ended = bed.api.clone().serve_connection(stream, identity).await;
    }
    bed.connections.fetch_sub(1, Ordering::Relaxed);
}

async fn serve_runtime(server: CriServer, stream: DuplexStream) {
    let incoming = futures::stream::once(async move { Ok::<_, io::Error>(stream) });
    let services = tonic::transport::Server::builder()
        .add_service(RuntimeServiceServer::new(server.clone()))
        .add_service(ImageServiceServer::new(server));
    let _ended = services.serve_with_incoming(incoming).await;
}

fn signer(life: Duration) -> impl FnOnce(Arc<Pki>) -> Option<Signer> {
    move |pki| Some(Signer::new(pki, life))
}

// API-190, API-191, API-193: a token is all that a node needs.
#[tokio::test(start_paused = true)]
async fn agent_with_nothing_but_a_bootstrap_token_joins_and_is_ready() {
    let bed = Bed::new(signer(24 * HOUR));
    let agent = bed.start(true);
    bed.until_ready(Duration::from_secs(5)).await;
    let kubeconfig = fs::read_to_string(bed.path("kubelet.conf")).unwrap();
    let pem = bed.path("pki/kubelet-client-current.pem").display().to_string();
    for line in [
        "server: https://10.0.0.1:6443\n  name: default-cluster".to_owned(),
        "user: default-auth\n  name: default-context\ncurrent-context: default-context".to_owned(),
        format!("client-certificate: {pem}\n    client-key: {pem}"),
    ] {
        assert!(kubeconfig.contains(&line), "{line} in\n{kubeconfig}");
    }
    let pair = bed.current();
    assert_eq!(pair, bed.path("pki/kubelet-client-2026-09-21-14-13-20.pem"));
    assert_eq!(fs::metadata(&pair).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&pair).unwrap();
    assert!(text.starts_with("-----BEGIN CERTIFICATE-----") && text.trim_end().ends_with("-----END PRIVATE KEY-----"));
    let requests = bed.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0]["spec"]["username"], JOINER);
    assert_eq!(requests[0]["spec"]["usages"], json!(["digital signature", "client auth"]));
    // Who joins asks for a certificate, and everything else is asked by the node.
    for Answered { user, line, code } in bed.answered() {
        assert_eq!(user, if line.contains("certificatesigningrequests") { JOINER } else { OWN }, "{line}");
        assert_ne!(code, 403, "{line}");
    }
    agent.abort();
}

// API-194, API-195: renewed by the node itself in time; everything after is asked over new connections.
#[tokio::test(start_paused = true)]
async fn certificate_near_its_end_is_renewed_and_the_old_connections_are_closed() {
    let bed = Bed::new(signer(LIFE));
    let agent = bed.start(true);
    bed.until_ready(Duration::from_secs(5)).await;
    let (first, began) = (bed.current(), Instant::now());
    let open = bed.connections.load(Ordering::Relaxed);
    bed.until("second certificate", LIFE, |bed| bed.current() != first).await;
    // Its life began five minutes before it was made.
    let share = (began.elapsed().as_secs_f64() + 300.0) / (LIFE.as_secs_f64() + 300.0);
    assert!((0.69..0.91).contains(&share), "{share}");
    let by: Vec<Value> = bed.requests().iter().map(|request| request["spec"]["username"].clone()).collect();
    assert_eq!(by.iter().filter(|user| **user == OWN).count(), 1, "{by:?}");
    sleep(Duration::from_secs(1)).await;
    let now = bed.connections.load(Ordering::Relaxed);
    assert!(now <= open + 1, "{now} connections, {open} before");
    // The first has long expired, the node has not.
    sleep(3 * LIFE).await;
    assert!(bed.is_ready());
    let seen = bed.answered().len();
    sleep(Duration::from_secs(60)).await;
    let since = bed.answered().split_off(seen);
    assert!(!since.is_empty() && since.iter().all(|a| a.user == OWN && a.code < 400), "{since:#?}");
    assert!(bed.pairs() >= 4, "{}", bed.pairs());
    assert!(!agent.is_finished());
    agent.abort();
}

// API-191, API-194: with a key of its own each time.
#[tokio::test(start_paused = true)]
async fn denied_request_is_followed_by_another_after_a_while() {
    let bed = Bed::new(|pki| Some(Signer::new(pki, 24 * HOUR).without_approver()));
    let agent = bed.start(true);
    let judge = |bed: &Bed, number: usize, verdict: &'static str| {
        let open = bed.api.with(|model, _| model.open_requests());
        let name = open[0]["metadata"]["name"].as_str().unwrap().to_owned();
        bed.api.with(|model, now| model.judge_request(now, &name, verdict, "Said", "by hand")).unwrap();
        (number, Instant::now())
    };
    let mut waits = Vec::new();
    for number in 1..=3 {
        bed.until("request", Duration::from_secs(60), |bed| bed.requests().len() == number).await;
        let (_, denied) = judge(&bed, number, "Denied");
        bed.until("next request", Duration::from_secs(60), |bed| bed.requests().len() == number + 1).await;
        waits.push(denied.elapsed().as_secs());
    }
    assert_eq!(waits, [2, 4, 8]);
    let keys: BTreeSet<String> = bed.requests().iter().map(|r| r["spec"]["request"].to_string()).collect();
    assert_eq!(keys.len(), 4);
    assert!(!bed.is_ready());
    judge(&bed, 4, "Approved");
    bed.until_ready(Duration::from_secs(60)).await;
    agent.abort();
}

// API-190, API-193: killed after any of its requests, the next life joins all the same.
#[tokio::test(start_paused = true)]
async fn agent_killed_while_it_joins_joins_in_its_next_life() {
    for rotates in [true, false] {
        for answers in 0..8 {
            let bed = Bed::new(signer(24 * HOUR));
            let agent = bed.start(rotates);
            bed.until("answer", Duration::from_secs(30), |bed| bed.answered().len() >= answers).await;
            agent.abort();
            let _ended = agent.await;
            let agent = bed.start(rotates);
            bed.until_ready(Duration::from_secs(30)).await;
            assert!(bed.current().exists(), "killed after {answers}");
            assert!(!bed.path("pki/kubelet-client.key.tmp").exists());
            agent.abort();
        }
    }
}

// API-192: without renewal the first certificate is waited for, and a life that ends meanwhile leaves its key to the next.
#[tokio::test(start_paused = true)]
async fn agent_that_does_not_renew_waits_for_its_certificate_before_it_begins() {
    let bed = Bed::new(|pki| Some(Signer::new(pki, 24 * HOUR).without_approver()));
    let agent = bed.start(false);
    bed.until("request", Duration::from_secs(5), |bed| bed.requests().len() == 1).await;
    assert!(!bed.path("kubelet.conf").exists(), "there is nothing to point it to");
    let key = bed.path("pki/kubelet-client.key.tmp");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    agent.abort();
    let agent = bed.start(false);
    sleep(Duration::from_secs(600)).await;
    let requests = bed.requests();
    assert_eq!(requests.len(), 1, "the second life goes on with the request of the first");
    let name = requests[0]["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("node-csr-"), "{name}");
    assert!(bed.answered().iter().all(|a| a.user == JOINER), "it has not begun");
    bed.api.with(|model, now| model.judge_request(now, name, "Approved", "Said", "by hand")).unwrap();
    bed.until_ready(Duration::from_secs(10)).await;
    assert!(bed.current().exists() && !key.exists());
    agent.abort();
    // An hour without an answer ends the start, for a supervisor to begin anew.
    let bed = Bed::new(|_| None);
    let ended = timeout(2 * HOUR, bed.start(false)).await.unwrap().unwrap().unwrap_err();
    assert_eq!(ended.to_string(), "timed out waiting for the condition");
    assert!(bed.clock.0.elapsed() >= HOUR);
}

// API-196: with credentials that the server does not take there is nothing more to be done here.
#[tokio::test(start_paused = true)]
async fn agent_whose_token_is_refused_ends_after_five_minutes() {
    let bed = Bed::new(signer(HOUR));
    bed.api.with(|model, _| model.bootstrap_tokens.clear());
    let ended = timeout(HOUR, bed.start(true)).await.unwrap().unwrap().unwrap_err();
    assert_eq!(ended.to_string(), "No valid client certificate is found and the server is responsive, exiting.");
    let waited = bed.clock.0.elapsed().as_secs();
    assert!((300..=340).contains(&waited), "{waited}");
}

// API-196: a server that is away, or ill, says nothing about credentials.
#[tokio::test(start_paused = true)]
async fn agent_waits_for_a_server_that_is_not_well_and_then_joins() {
    let bed = Bed::new(signer(LIFE));
    bed.away.store(true, Ordering::Relaxed);
    let agent = bed.start(true);
    sleep(2 * LIFE).await;
    assert!(!agent.is_finished());
    bed.away.store(false, Ordering::Relaxed);
    bed.until_ready(Duration::from_secs(60)).await;
    agent.abort();
}

// Edge case of API-190: the kubeconfig's certificate expired while the agent did not run, and the token is still good.
#[tokio::test(start_paused = true)]
async fn node_that_slept_past_its_certificate_joins_anew() {
    let bed = Bed::new(signer(LIFE));
    let agent = bed.start(true);
    bed.until_ready(Duration::from_secs(5)).await;
    agent.abort();
    let _ended = agent.await;
    sleep(2 * LIFE).await;
    let first = bed.current();
    let seen = bed.answered().len();
    let agent = bed.start(true);
    bed.until("second certificate", Duration::from_secs(10), |bed| bed.current() != first).await;
    assert_eq!(bed.answered()[seen].user, JOINER);
    bed.until("word of the node", Duration::from_secs(20), |bed| bed.answered().iter().skip(seen).any(|a| a.user == OWN)).await;
    agent.abort();
}

/// The names in a certificate, in its order.
fn names_in(der: &CertificateDer<'_>) -> Vec<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).unwrap();
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::IPAddress(bytes) => bytes.iter().map(ToString::to_string).collect::<Vec<_>>().join("."),
        other => other.to_string(),
    };
    names.value.general_names.iter().map(text).collect()
}

// API-173: until it is approved and signed, handshakes fail; then it is shown, kept, and renewed in time by the node itself.
#[tokio::test(start_paused = true)]
async fn serving_certificate_is_requested_kept_and_renewed() {
    let bed = Bed::new(signer(LIFE));
    *bed.serving.lock().unwrap() = Some("10.0.0.9");
    let agent = bed.start(true);
    bed.until("request", Duration::from_secs(10), |bed| bed.serving_requests().len() == 1).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!((bed.shown().await, bed.serving_requests().len()), (None, 1), "nobody approves it by himself");
    let request = &bed.serving_requests()[0];
    assert_eq!((&request["spec"]["username"], &request["metadata"]["generateName"]), (&json!(OWN), &json!("csr-")));
    assert_eq!(request["spec"]["usages"], json!(["digital signature", "server auth"]));
    bed.judge("Approved");
    bed.until_shown("the first", Duration::from_secs(10), |shown| shown.is_some()).await;
    let (first, began) = (bed.shown().await.unwrap(), Instant::now());
    assert_eq!(names_in(&first), ["DNSName(n1)", "10.0.0.9"]);
    // Alerts of the kubernetes mixin: KubeletServerCertificateExpiration, KubeletServerCertificateRenewalErrors.
    sleep(Duration::from_secs(10)).await;
    let ttl = bed.metric("kubelet_certificate_manager_server_ttl_seconds").await.unwrap();
    assert!((LIFE.as_secs_f64() - 30.0..LIFE.as_secs_f64()).contains(&ttl), "{ttl}");
    assert_eq!(bed.metric("kubelet_server_expiration_renew_errors").await, Some(0.0));
    let pair = fs::read_link(bed.path("pki/kubelet-server-current.pem")).unwrap();
    assert!(pair.file_name().unwrap().to_str().unwrap().starts_with("kubelet-server-2026-09-21-"), "{}", pair.display());
    assert_eq!(fs::metadata(&pair).unwrap().permissions().mode() & 0o777, 0o600);
    bed.until("second request", LIFE, |bed| bed.serving_requests().len() == 2).await;
    // Its life began five minutes before it was made.
    let share = (began.elapsed().as_secs_f64() + 300.0) / (LIFE.as_secs_f64() + 300.0);
    assert!((0.68..0.92).contains(&share), "{share}");
    assert_eq!(bed.shown().await.as_ref(), Some(&first));
    bed.judge("Approved");
    bed.until_shown("the second", Duration::from_secs(10), |shown| shown.is_some_and(|shown| *shown != first)).await;
    assert_eq!(bed.metric("kubelet_certificate_manager_server_rotation_seconds_count").await, Some(1.0));
    // Nobody approves the third, and the second ends.
    bed.until_shown("nothing", 3 * LIFE, |shown| shown.is_none()).await;
    assert!(!agent.is_finished() && bed.is_ready());
    agent.abort();
}

// API-173: pkg/kubelet/kubelet.go (NewMainKubelet): neither an authority of clients nor given files have a say in it.
#[tokio::test(start_paused = true)]
async fn serving_certificate_is_requested_without_client_authority_and_beside_given_files() {
    for has_files in [false, true] {
        let bed = Bed::new(signer(24 * HOUR));
        *bed.serving.lock().unwrap() = Some("10.0.0.9");
        bed.has_client_ca.store(false, Ordering::Relaxed);
        bed.has_files.store(has_files, Ordering::Relaxed);
        let given = agent::certificate::self_signed(NODE, &[], bed.clock.now().as_second()).unwrap();
        fs::write(bed.path("tls.crt"), &given.certificate).unwrap();
        fs::write(bed.path("tls.key"), &given.key).unwrap();
        let agent = bed.start(true);
        bed.until("request", Duration::from_secs(30), |bed| bed.serving_requests().len() == 1).await;
        sleep(Duration::from_secs(60)).await;
        assert!(!agent.is_finished() && bed.is_ready());
        let before = bed.shown().await;
        assert_eq!(before.is_some(), has_files);
        bed.judge("Approved");
        bed.until_shown("the signed one", Duration::from_secs(10), |shown| shown.is_some() && shown != before.as_ref()).await;
        assert_eq!(names_in(&bed.shown().await.unwrap()), ["DNSName(n1)", "10.0.0.9"]);
        agent.abort();
    }
}

// API-173, API-194: a denied request is followed by another after a while. The next life shows what was kept, and asks for a new one when
// the node has another address.
#[tokio::test(start_paused = true)]
async fn serving_certificate_follows_denials_and_addresses() {
    let bed = Bed::new(signer(24 * HOUR));
    *bed.serving.lock().unwrap() = Some("10.0.0.9");
    let agent = bed.start(true);
    let mut waits = Vec::new();
    for number in 1..=3 {
        bed.until("request", Duration::from_secs(60), |bed| bed.serving_requests().len() == number).await;
        let denied = Instant::now();
        bed.judge("Denied");
        bed.until("next request", Duration::from_secs(60), |bed| bed.serving_requests().len() == number + 1).await;
        waits.push(denied.elapsed().as_secs());
    }
    assert!(waits.iter().zip([2, 4, 8]).all(|(wait, least)| (least..least + 3).contains(wait)), "{waits:?}");
    bed.judge("Approved");
    bed.until_shown("the first", Duration::from_secs(10), |shown| shown.is_some()).await;
    assert_eq!(bed.metric("kubelet_server_expiration_renew_errors").await, Some(3.0));
    let first = bed.shown().await;
    agent.abort();
    let _ended = agent.await;
    let agent = bed.start(true);
    bed.until_shown("what was kept", Duration::from_secs(10), |shown| shown == first.as_ref()).await;
    sleep(Duration::from_secs(120)).await;
    assert_eq!(bed.serving_requests().len(), 4, "there is no reason to ask again");
    agent.abort();
    let _ended = agent.await;
    *bed.serving.lock().unwrap() = Some("10.0.0.10");
    let agent = bed.start(true);
    bed.until("request for the new address", Duration::from_secs(60), |bed| bed.serving_requests().len() == 5).await;
    bed.judge("Approved");
    bed.until_shown("the second", Duration::from_secs(10), |shown| shown.is_some_and(|shown| Some(shown) != first.as_ref())).await;
    assert_eq!(names_in(&bed.shown().await.unwrap()), ["DNSName(n1)", "10.0.0.10"]);
    agent.abort();
}
