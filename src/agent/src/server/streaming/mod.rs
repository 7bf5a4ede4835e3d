//! /exec, /attach, /portForward and /run: which container and which streams, then the runtime's own streaming server takes over.
//! Upstream: pkg/kubelet/server/server.go (getExec, getAttach, getPortForward, getRun), pkg/kubelet/kubelet_pods.go.
//! Differs: options come from the URL only, not from a form; output of /run is cut where the runtime adapter cuts it.

mod upgrade;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, Path, Request, State};
use axum::response::Response;
use http::{HeaderValue, StatusCode, Uri};
use k8s_openapi::api::core::v1::Pod;
use kubelet::action::CriCall;
use kubelet::event::CriReply;
use kubelet::failure::{Failure, FailureKind};
use serde::Deserialize;

use super::query::Pairs;
use super::routes::Peer;
use super::{Shared, lookup, reply};
use crate::env::StreamRequest;

pub(crate) use upgrade::is_websocket;

/// How long the runtime may take to open a session.
const OPEN: Duration = Duration::from_secs(120);

/// What the path names.
#[derive(Deserialize)]
pub(crate) struct Target {
    namespace: String,
    pod: String,
    #[serde(default)]
    uid: Option<String>,
    #[serde(default)]
    container: String,
}

impl Target {
    /// As upstream writes a pod's full name.
    fn full_name(&self) -> String {
        format!("{}_{}", self.pod, self.namespace)
    }
}

type Refusal = Box<Response>;

fn refuse(status: StatusCode, why: impl Into<String>) -> Refusal {
    Box::new(reply::text(status, why))
}

/// Which streams a client wants (API-100).
struct Streams {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Streams {
    fn of(query: &Pairs) -> Result<Self, Refusal> {
        let on = |key| query.first(key) == Some("1");
        let (stdin, stdout, tty) = (on("input"), on("output"), on("tty"));
        // A terminal has one output.
        let stderr = on("error") && !tty;
        if !stdin && !stdout && !stderr {
            return Err(refuse(StatusCode::BAD_REQUEST, "you must specify at least 1 of stdin, stdout, stderr"));
        }
        Ok(Self { stdin, stdout, stderr, tty })
    }
}

/// POST or GET /exec/{ns}/{pod}[/{uid}]/{container}
pub(crate) async fn exec(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    Path(target): Path<Target>,
    request: Request,
) -> Response {
    let query = Pairs::of(request.uri());
    let session = async {
        let streams = Streams::of(&query)?;
        let pod = pod(&shared, &target, "pod does not exist").await?;
        let found = lookup::running_container(&shared, &lookup::uid(&pod), &target.container).await;
        let container = found_in_runtime(found, || format!("container not found ({:?})", target.container))?;
        let command = query.all("command").map(str::to_owned).collect();
        let Streams { stdin, stdout, stderr, tty } = streams;
        Ok(StreamRequest::Exec { container: container.to_string(), command, tty, stdin, stdout, stderr })
    };
    let session = session.await;
    streamed(&shared, &peer, request, session).await
}

/// POST or GET /attach/{ns}/{pod}[/{uid}]/{container}
pub(crate) async fn attach(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    Path(target): Path<Target>,
    request: Request,
) -> Response {
    let query = Pairs::of(request.uri());
    let session = async {
        let Streams { stdin, stdout, stderr, .. } = Streams::of(&query)?;
        let pod = pod(&shared, &target, "pod does not exist").await?;
        let full_name = target.full_name();
        // API-111
        if target.uid.as_deref().is_some_and(|uid| uid != lookup::uid(&pod).as_str()) {
            return Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, format!("pod {full_name} not found")));
        }
        let missing = || format!("container {} not found in pod {full_name}", target.container);
        let found = lookup::running_container(&shared, &lookup::uid(&pod), &target.container).await;
        let container = found_in_runtime(found, missing)?;
        // API-110
        let terminal =
            lookup::terminal(&pod, &target.container).ok_or_else(|| refuse(StatusCode::INTERNAL_SERVER_ERROR, missing()))?;
        let tty = terminal.tty;
        Ok(StreamRequest::Attach { container: container.to_string(), tty, stdin, stdout, stderr: stderr && !tty })
    };
    let session = session.await;
    streamed(&shared, &peer, request, session).await
}

/// POST or GET /portForward/{ns}/{pod}[/{uid}]
pub(crate) async fn port_forward(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    Path(target): Path<Target>,
    request: Request,
) -> Response {
    let ports = if is_websocket(request.headers()) { ports(&Pairs::of(request.uri())) } else { Ok(Vec::new()) };
    let session = async {
        let ports = ports?;
        let pod = pod(&shared, &target, "pod does not exist").await?;
        // API-111
        if target.uid.as_deref().is_some_and(|uid| uid != lookup::uid(&pod).as_str()) {
            return Err(refuse(StatusCode::NOT_FOUND, "pod not found"));
        }
        // API-114
        let found = lookup::sandbox(&shared, &lookup::uid(&pod)).await;
        let sandbox = found_in_runtime(found, || format!("pod not found ({:?})", target.full_name()))?;
        Ok(StreamRequest::PortForward { sandbox: sandbox.to_string(), ports })
    };
    let session = session.await;
    streamed(&shared, &peer, request, session).await
}

/// POST /run/{ns}/{pod}[/{uid}]/{container}?cmd= (API-115)
pub(crate) async fn run(State(shared): State<Arc<Shared>>, Path(target): Path<Target>, uri: Uri) -> Response {
    let outcome = async {
        let pod = pod(&shared, &target, "pod does not exist").await?;
        let found = lookup::running_container(&shared, &lookup::uid(&pod), &target.container).await;
        let id = found_in_runtime(found, || format!("container not found ({:?})", target.container))?;
        let query = Pairs::of(&uri);
        let line = query.first("cmd").unwrap_or_default();
        let command = line.split(' ').map(str::to_owned).collect();
        let call = CriCall::ExecSync { id, command, timeout: Duration::ZERO };
        match shared.env.runtime.call(call).await.map_err(|failure| said_by_the_runtime(&failure))? {
            CriReply::Exec { exit_code: 0, output, .. } => Ok(reply::json(output.into_bytes())),
            CriReply::Exec { exit_code, output, stderr } => {
                let said = output.get(stderr..).unwrap_or_default();
                let why = format!("command '{line}' exited with {exit_code}: {said}");
                Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, why))
            }
            other => Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, format!("unexpected reply: {other:?}"))),
        }
    };
    outcome.await.unwrap_or_else(|refusal: Refusal| *refusal)
}

async fn pod(shared: &Shared, target: &Target, missing: &str) -> Result<Arc<Pod>, Refusal> {
    let pod = shared.view.pod(target.namespace.clone(), target.pod.clone()).await;
    pod.ok_or_else(|| Box::new(lookup::no_answer()))?.ok_or_else(|| refuse(StatusCode::NOT_FOUND, missing))
}

fn found_in_runtime<T>(found: Result<Option<T>, Failure>, missing: impl FnOnce() -> String) -> Result<T, Refusal> {
    match found {
        Ok(Some(found)) => Ok(found),
        Ok(None) => Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, missing())),
        Err(failure) if failure.is_not_found() => Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, missing())),
        Err(failure) => Err(said_by_the_runtime(&failure)),
    }
}

/// API-103: in the words that gRPC puts around the runtime's.
fn said_by_the_runtime(failure: &Failure) -> Refusal {
    let status = match failure.kind {
        FailureKind::NotFound => StatusCode::NOT_FOUND,
        FailureKind::Throttled { .. } => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let mut refusal = refuse(status, failure.rpc_message());
    if status == StatusCode::TOO_MANY_REQUESTS {
        refusal.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from_static("60"));
    }
    refusal
}

/// API-113
fn ports(query: &Pairs) -> Result<Vec<i32>, Refusal> {
    let bad = |why: String| refuse(StatusCode::BAD_REQUEST, why);
    let mut ports = Vec::new();
    for text in query.all("port").flat_map(|list| list.split(',')) {
        if text.is_empty() {
            return Err(bad("query parameter \"port\" cannot be empty".to_owned()));
        }
        match text.parse::<u16>() {
            Ok(0) => return Err(bad(format!("port {text:?} must be > 0"))),
            Ok(port) => ports.push(i32::from(port)),
            Err(_) => {
                let why = if text.bytes().all(|byte| byte.is_ascii_digit()) { "value out of range" } else { "invalid syntax" };
                return Err(bad(format!("unable to parse {text:?} as a port: strconv.ParseUint: parsing {text:?}: {why}")));
            }
        }
    }
    if ports.is_empty() { Err(bad("query parameter \"port\" is required".to_owned())) } else { Ok(ports) }
}

/// Asks the runtime for a session and hands the connection over to it (API-102).
async fn streamed(shared: &Arc<Shared>, peer: &Peer, request: Request, session: Result<StreamRequest, Refusal>) -> Response {
    let url = match session {
        Ok(session) => match tokio::time::timeout(OPEN, shared.env.runtime.stream_url(session)).await {
            Ok(Ok(url)) => url,
            Ok(Err(failure)) => return *said_by_the_runtime(&failure),
            Err(_) => return reply::text(StatusCode::INTERNAL_SERVER_ERROR, "context deadline exceeded"),
        },
        Err(refusal) => return *refusal,
    };
    upgrade::proxy(shared, peer, request, &url).await
}
