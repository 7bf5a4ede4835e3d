//! The two hosts that the agent talks to: the pretend API server over HTTP, the pretend runtime over gRPC.
//! Upstream: none.
//! Differs: no TLS; both know by the socket who asks.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::{FutureExt as _, stream};
use kubelet::csi::{CsiCall, CsiReply};
use kubelet::failure::{Failure, FailureKind};
use model::api::authorize::Identity;
use model::faults::{Fate, Side};
use model::scenario::run::NODE;
use proto::cri::image_service_server::ImageServiceServer;
use proto::cri::runtime_service_server::RuntimeServiceServer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use turmoil::net::TcpListener;

use super::faults::{met, name_of, of_call, of_request};
use super::net::GrpcStream;
use super::shared::{Shared, lock};
use crate::apiserver::{ApiFault, ApiServer};
use crate::cri::{CallFault, CriServer};
use crate::csi::{self, Calls};

/// The host that the agent runs on.
pub(super) const AGENT: &str = "agent";
/// The host of the API server.
pub(super) const API: &str = "apiserver";
/// Its port.
pub(super) const API_PORT: u16 = 6443;
/// The host of the runtime.
pub(super) const RUNTIME: &str = "runtime";
/// Its port.
pub(super) const RUNTIME_PORT: u16 = 8443;

/// The host of the drivers: a process of their own, which outlives the agent.
pub(super) const DRIVERS: &str = "drivers";
/// Its port.
pub(super) const DRIVERS_PORT: u16 = 9000;
/// The host that the static pod URL names.
pub(super) const MANIFESTS: &str = "manifests";
/// How long it takes for an answer.
const URL_TAKES: Duration = Duration::from_millis(4);
/// How long a driver takes for anything.
const DRIVER_TAKES: Duration = Duration::from_millis(4);

const ANYWHERE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// The API server over the shared model, with the faults of the shared plan.
pub(super) fn api_server(shared: &Arc<Shared>) -> ApiServer {
    let (clock, faults) = (Arc::clone(shared), Arc::clone(shared));
    let plan = Arc::new(move |_: &Identity, request: &model::api::request::Request| match name_of(request) {
        Some(name) => of_request(faults.arrives(Side::Api, name)),
        None => ApiFault::None,
    });
    ApiServer::new(Arc::clone(&shared.api), Arc::new(move || clock.now()), plan)
}

/// The runtime over the shared model, with the faults of the shared plan.
pub(super) fn cri_server(shared: &Arc<Shared>) -> CriServer {
    let (clock, faults, witness) = (Arc::clone(shared), Arc::clone(shared), Arc::clone(shared));
    let plan = Arc::new(move |method: &'static str| match method {
        // As a whole they are `List` and `Observe`, which meet their fate where the agent makes them.
        "ListPodSandbox" | "ListContainers" => CallFault::None,
        method => of_call(faults.arrives(Side::Runtime, method)),
    });
    CriServer::new(Arc::clone(&shared.runtime), Arc::new(move || clock.now()), plan)
        .watched_by(Arc::new(move |call| witness.runtime_called(call)))
}

/// Serves the API until the end of the run; `back` says until when nobody listens, and each change of it breaks all connections.
pub(super) async fn serve_api(shared: Arc<Shared>, server: ApiServer, mut back: watch::Receiver<Duration>) -> turmoil::Result {
    loop {
        let away = back.borrow_and_update().saturating_sub(shared.elapsed());
        if !away.is_zero() {
            tokio::select! {
                biased;
                _ = back.changed() => {}
                () = tokio::time::sleep(away) => {}
            }
            continue;
        }
        let listener = TcpListener::bind((ANYWHERE, API_PORT)).await?;
        // They are closed one by one in the order in which they came: what a runtime that is torn down closes first depends on
        // numbers that tasks have in the whole process.
        let mut connections: Vec<(CancellationToken, JoinHandle<()>)> = Vec::new();
        loop {
            tokio::select! {
                biased;
                changed = back.changed() => {
                    changed?;
                    break;
                }
                accepted = listener.accept() => {
                    let (stream, from): (_, SocketAddr) = accepted?;
                    connections.retain(|(_, task)| !task.is_finished());
                    let cut = CancellationToken::new();
                    let serving = server.clone().serve_connection(stream, Some(Identity::node(NODE)));
                    let task = {
                        let cut = cut.clone();
                        async move {
                            tokio::select! {
                                biased;
                                () = cut.cancelled() => {}
                                ended = serving => tracing::debug!(%from, ?ended, "connection ended"),
                            }
                        }
                    };
                    connections.push((cut, tokio::spawn(task)));
                }
            }
        }
        for (cut, _) in &connections {
            cut.cancel();
        }
    }
}

/// Serves all drivers, each connection for the one whose socket its first line names.
pub(super) async fn serve_drivers(shared: Arc<Shared>) -> turmoil::Result {
    let listener = TcpListener::bind((ANYWHERE, DRIVERS_PORT)).await?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let mut path = Vec::new();
            loop {
                match stream.read_u8().await {
                    Ok(b'\n') => break,
                    Ok(byte) => path.push(byte),
                    Err(_) => return,
                }
            }
            let path = String::from_utf8_lossy(&path).into_owned();
            let calls: Calls = Arc::new(move |call| driver_call(Arc::clone(&shared), call).boxed());
            let ended = csi::serve(GrpcStream(stream), path, calls).await;
            tracing::debug!(?ended, "connection to a driver ended");
        });
    }
}

/// Answers at the static pod URL, one request on each connection; hangs up while nobody is to answer.
pub(super) async fn serve_manifests(shared: Arc<Shared>) -> turmoil::Result {
    let listener = TcpListener::bind((ANYWHERE, 80)).await?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => request.push(byte),
                    Err(_) => return,
                }
            }
            let fate = shared.arrives(Side::Host, "FetchManifests");
            let answer = met(fate, URL_TAKES, {
                let shared = Arc::clone(&shared);
                move || lock(&shared.host).pod_url.clone().ok_or_else(|| Failure::new(FailureKind::Other, "nobody answers"))
            });
            let Ok((status, body)) = answer.await else { return };
            let head = format!("HTTP/1.1 {status} Said\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let said = stream.write_all(&[head.into_bytes(), body].concat()).await;
            tracing::debug!(?said, "answered at the static pod URL");
        });
    }
}

/// What has begun goes on whether or not its caller still waits.
async fn driver_call(shared: Arc<Shared>, call: CsiCall) -> Result<CsiReply, Failure> {
    let fate = shared.arrives(Side::Csi, call.name());
    let hold = matches!(fate, Fate::Late(_)).then(|| lock(&shared.host).csi.hold(&call));
    let doing = met(fate, DRIVER_TAKES, move || shared.driver_called(&call, hold));
    if hold.is_some() {
        // It waits for its caller to give up, which is seen here.
        return doing.await;
    }
    let lost = |error: tokio::task::JoinError| Err(Failure::new(FailureKind::Other, error.to_string()));
    tokio::spawn(doing).await.unwrap_or_else(lost)
}

/// Serves the runtime until it is killed. After a restart it first stays away for a while.
pub(super) async fn serve_runtime(shared: Arc<Shared>, server: CriServer) -> turmoil::Result {
    let back = Duration::from_nanos(shared.runtime_back.load(Ordering::Relaxed));
    tokio::time::sleep(back.saturating_sub(shared.elapsed())).await;
    let listener = TcpListener::bind((ANYWHERE, RUNTIME_PORT)).await?;
    let incoming = stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.map(|(stream, _)| GrpcStream(stream));
        Some((accepted, listener))
    });
    let services = Server::builder()
        .add_service(RuntimeServiceServer::new(server.clone()))
        .add_service(ImageServiceServer::new(server.clone()));
    tokio::select! {
        biased;
        ended = services.serve_with_incoming(incoming) => ended?,
        () = server.keep_time() => {}
    }
    Ok(())
}
