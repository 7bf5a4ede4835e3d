//! The client against connections that behave badly, and, where one is named, against a real runtime.
//! Upstream: staging/src/k8s.io/cri-client/pkg/remote_runtime_test.go.
//! Differs: the bad connections are in memory.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kubelet::failure::FailureKind;
use kubelet::ids::SandboxId;
use prost::Message as _;
use proto::cri::{PodSandboxConfig, PodSandboxMetadata};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::env::{BoxedStream, Listener};

/// What a runtime of the tests does with its n-th connection.
#[derive(Clone, Copy)]
enum Behaviour {
    /// Does not accept it.
    Refuses,
    /// Reads what comes and hangs up.
    HangsUp,
    /// Takes calls and does not answer.
    IsSilent,
    /// Answers every call with a gRPC status and nothing else.
    Says(u16),
    /// Answers every call with the list of one image whose ID is that long; 0 is a message with nothing in it.
    Tells(usize),
    /// Answers every call with a gRPC status, in so many letters, and nothing else.
    SaysAtLength(u16, usize),
}

struct Scripted {
    script: Vec<Behaviour>,
    connections: AtomicUsize,
    /// The methods that were called, by their path, and with what.
    called: Called,
}

type Called = Arc<Mutex<Vec<(String, Bytes)>>>;

impl Net for Scripted {
    fn connect(&self, _: Endpoint) -> BoxFuture<'_, io::Result<BoxedStream>> {
        let turn = self.connections.fetch_add(1, Ordering::Relaxed);
        let behaviour = self.script.get(turn).copied().unwrap_or(Behaviour::Refuses);
        let called = Arc::clone(&self.called);
        Box::pin(async move {
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            match behaviour {
                Behaviour::Refuses => return Err(io::ErrorKind::ConnectionRefused.into()),
                Behaviour::HangsUp => drop(tokio::spawn(hang_up(theirs))),
                other => drop(tokio::spawn(say(theirs, other, called))),
            }
            Ok(Box::pin(ours) as BoxedStream)
        })
    }

    fn listen(&self, _: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }
}

/// Takes a connection as an HTTP/2 server would, and goes as soon as a request's headers have come.
async fn hang_up(mut stream: tokio::io::DuplexStream) {
    const EMPTY_SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const HEADERS: u8 = 1;
    stream.write_all(&EMPTY_SETTINGS).await.unwrap();
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await.unwrap();
        if head[3] == HEADERS {
            return;
        }
    }
}

async fn say(stream: tokio::io::DuplexStream, behaviour: Behaviour, called: Called) {
    let service = hyper::service::service_fn(move |request: Request<Incoming>| answer(request, behaviour, Arc::clone(&called)));
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    request: Request<Incoming>,
    behaviour: Behaviour,
    called: Called,
) -> Result<Response<BoxBody<Bytes, std::convert::Infallible>>, hyper::Error> {
    let path = request.uri().path().to_owned();
    let framed = request.into_body().collect().await?.to_bytes();
    called.lock().unwrap().push((path, framed.slice(5.min(framed.len())..)));
    let response = Response::builder().header("content-type", "application/grpc");
    Ok(match behaviour {
        Behaviour::Says(code) => response
            .header("grpc-status", code)
            .header("grpc-message", "said the runtime")
            .body(Empty::<Bytes>::new().boxed())
            .unwrap(),
        Behaviour::SaysAtLength(code, length) => response
            .header("grpc-status", code)
            .header("grpc-message", "x".repeat(length))
            .body(Empty::<Bytes>::new().boxed())
            .unwrap(),
        Behaviour::Tells(length) => {
            let image = proto::cri::Image { id: "x".repeat(length), ..proto::cri::Image::default() };
            let images = if length == 0 { Vec::new() } else { vec![image] };
            let message = proto::cri::ListImagesResponse { images }.encode_to_vec();
            let mut frame = vec![0];
            frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
            frame.extend(message);
            let well = http::HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), http::HeaderValue::from(0))]);
            response.body(Full::from(frame).with_trailers(std::future::ready(Some(Ok(well)))).boxed()).unwrap()
        }
        _ => std::future::pending().await,
    })
}

fn runtime(script: &[Behaviour]) -> CriRuntime {
    watched(script).0
}

fn watched(script: &[Behaviour]) -> (CriRuntime, Called) {
    let called = Called::default();
    let scripted = Scripted { script: script.to_vec(), connections: AtomicUsize::new(0), called: Arc::clone(&called) };
    let net: Arc<dyn Net> = Arc::new(scripted);
    let endpoint = Endpoint::Unix("/run/nobody.sock".into());
    (CriRuntime::new(&net, &endpoint, &endpoint, Instant::now()), called)
}

const NOT_FOUND: u16 = 5;

// API-291: a runtime that is away does not end the agent; what is wrong is in the log, once, and again when it is something else.
#[test]
fn runtime_that_is_away_is_told_once() {
    let trouble = Trouble { endpoint: "unix:///run/nobody.sock".into(), told: Mutex::default() };
    let failure = |message: &str| Failure::new(FailureKind::Unavailable, message);
    let (refused, unknown) = (failure("connection refused"), failure("unknown service runtime.v1.RuntimeService"));
    let told = [Err(&refused), Err(&refused), Err(&unknown), Ok(()), Ok(()), Err(&unknown)].map(|outcome| trouble.tell(outcome));
    assert_eq!(told, [true, false, true, false, false, true]);
}

// CRI-001
#[tokio::test]
async fn runtime_that_is_away_had_no_effect() {
    let failure = runtime(&[Behaviour::Refuses]).call(CriCall::Version).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unavailable);
    assert!(failure.message.contains("connection refused"), "{failure}");
}

#[tokio::test]
async fn connection_lost_after_sending_is_an_unknown_outcome() {
    let failure = runtime(&[Behaviour::HangsUp]).call(CriCall::Status).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::UnknownOutcome, "{failure}");
}

// CRI-001, CRI-005
#[tokio::test]
async fn connects_again_after_refusal_and_loss() {
    let runtime = runtime(&[Behaviour::Refuses, Behaviour::HangsUp, Behaviour::Says(NOT_FOUND)]);
    let stop = || runtime.call(CriCall::StopPodSandbox { id: SandboxId::new("s1") });
    assert_eq!(stop().await.unwrap_err().kind, FailureKind::Unavailable);
    assert_eq!(stop().await.unwrap_err().kind, FailureKind::UnknownOutcome);
    assert!(matches!(stop().await, Ok(CriReply::Done)));
}

// RTD-016, CRI-012, CRI-013, CRI-019: whatever a runtime answers to an ID that it does not know, what is gone is stopped and removed; an
// image too. What is to run must be there.
#[tokio::test]
async fn what_the_runtime_does_not_know_is_gone() {
    let runtime = runtime(&[Behaviour::Says(NOT_FOUND)]);
    let (sandbox, container) = (SandboxId::new("s1"), kubelet::ids::ContainerId::new("c1"));
    let gone = [
        CriCall::StopPodSandbox { id: sandbox.clone() },
        CriCall::RemovePodSandbox { id: sandbox },
        CriCall::StopContainer { id: container.clone(), grace: Duration::ZERO },
        CriCall::RemoveContainer { id: container.clone() },
        CriCall::RemoveImage { image: "sha256:1".into() },
    ];
    for call in gone {
        assert!(matches!(runtime.call(call.clone()).await, Ok(CriReply::Done)), "{call:?}");
    }
    for call in [CriCall::StartContainer { id: container.clone() }, CriCall::ReopenContainerLog { id: container }] {
        assert!(runtime.call(call.clone()).await.unwrap_err().is_not_found(), "{call:?}");
    }
}

// RTD-015: v1 and nothing older; a runtime that has only v1alpha2 has none of it, and says so.
#[tokio::test]
async fn runtime_is_spoken_to_in_v1() {
    let unimplemented = 12;
    let (runtime, called) = watched(&[Behaviour::Says(unimplemented)]);
    for call in [CriCall::Version, CriCall::List, CriCall::ListImages] {
        assert_eq!(runtime.call(call).await.unwrap_err().kind, FailureKind::Unimplemented);
    }
    let mut called: Vec<String> = called.lock().unwrap().iter().map(|(path, _)| path.clone()).collect();
    called.sort_unstable();
    called.dedup();
    assert!(called.contains(&"/runtime.v1.RuntimeService/Version".to_owned()), "{called:?}");
    assert!(called.contains(&"/runtime.v1.ImageService/ListImages".to_owned()), "{called:?}");
    assert!(called.iter().all(|path| path.starts_with("/runtime.v1.")), "{called:?}");
}

// CRI-001: remote_runtime.go (maxMsgSize): 16 MiB, four times what a client of gRPC takes by itself, and no more.
#[tokio::test]
async fn answers_of_up_to_sixteen_mebibytes_are_taken() {
    for (length, fits) in [(5 << 20, true), ((16 << 20) - 64, true), (16 << 20, false)] {
        let told = runtime(&[Behaviour::Tells(length)]).call(CriCall::ListImages).await;
        assert_eq!(told.as_ref().is_ok_and(|told| matches!(told, CriReply::Images(images) if images.len() == 1)), fits, "{length}");
    }
}

// CRI-001: the image service is at the runtime's endpoint unless it has one of its own; then the runtime is not asked for images.
#[tokio::test]
async fn images_are_asked_for_where_they_are() {
    for (own, connections) in [(false, 1), (true, 2)] {
        let scripted = Arc::new(Scripted {
            script: vec![Behaviour::Tells(0); 2],
            connections: AtomicUsize::new(0),
            called: Called::default(),
        });
        let (net, endpoint) = (Arc::clone(&scripted) as Arc<dyn Net>, Endpoint::Unix("/run/nobody.sock".into()));
        let images = if own { Endpoint::Unix("/run/images.sock".into()) } else { endpoint.clone() };
        let runtime = CriRuntime::new(&net, &endpoint, &images, Instant::now());
        assert!(matches!(runtime.call(CriCall::ListImages).await, Ok(CriReply::Images(images)) if images.is_empty()));
        assert!(matches!(runtime.call(CriCall::List).await, Ok(CriReply::Listing { .. })));
        assert_eq!(scripted.connections.load(Ordering::Relaxed), connections);
    }
}

// CRI-002: remote_runtime.go (kubeRuntimeAPIVersion): the version that the kubelet says it speaks.
#[tokio::test]
async fn runtime_is_told_which_version_is_spoken() {
    let (runtime, called) = watched(&[Behaviour::Tells(0)]);
    let failure = runtime.call(CriCall::Version).await.unwrap_err();
    assert!(failure.message.starts_with("not all fields are set in VersionResponse"), "{failure}");
    let (path, request) = called.lock().unwrap()[0].clone();
    assert_eq!(path, "/runtime.v1.RuntimeService/Version");
    assert_eq!(proto::cri::VersionRequest::decode(request).unwrap().version, "0.1.0");
}

// CRI-006: remote_runtime.go and remote_image.go: an answer without what was asked for is none.
#[tokio::test]
async fn answer_without_what_was_asked_for_is_refused() {
    let runtime = runtime(&[Behaviour::Tells(0)]);
    let metadata = PodSandboxMetadata { name: "web".into(), ..PodSandboxMetadata::default() };
    let sandbox = Arc::new(PodSandboxConfig { metadata: Some(metadata), ..PodSandboxConfig::default() });
    let metadata = proto::cri::ContainerMetadata { name: "main".into(), attempt: 0 };
    let config = Box::new(proto::cri::ContainerConfig { metadata: Some(metadata), ..proto::cri::ContainerConfig::default() });
    let create = CriCall::CreateContainer { sandbox: SandboxId::new("s1"), config, sandbox_config: Arc::clone(&sandbox) };
    let run = CriCall::RunPodSandbox { config: sandbox, runtime_handler: String::new() };
    let pull = CriCall::PullImage { image: "busybox".into(), annotations: BTreeMap::new(), auth: None, sandbox_config: None };
    for (call, why) in [
        (run, "PodSandboxId is not set for sandbox \"web\""),
        (create, "ContainerId is not set for container \"main\""),
        (pull, "imageRef of image \"busybox\" is not set"),
        (CriCall::Status, "RuntimeReady or NetworkReady condition are not set"),
    ] {
        let failure = runtime.call(call).await.unwrap_err();
        assert_eq!((failure.kind, failure.message.as_str()), (FailureKind::Other, why));
    }
    let session = StreamRequest::PortForward { sandbox: "s1".into(), ports: vec![80] };
    assert_eq!(runtime.stream_url(session).await.unwrap_err().message, "URL is not set");
}

// RTD-011
#[tokio::test]
async fn exec_over_a_broken_connection_says_nothing_of_the_container() {
    let exec = CriCall::ExecSync { id: "c1".into(), command: vec!["true".into()], timeout: Duration::from_secs(1) };
    let failure = runtime(&[Behaviour::HangsUp]).call(exec.clone()).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unavailable);
    let deadline_exceeded = 4;
    let failure = runtime(&[Behaviour::Says(deadline_exceeded)]).call(exec).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::UnknownOutcome);
    assert!(failure.message.starts_with("command timed out"), "{failure}");
}

// CRI-001: internal/transport/defaults.go (defaultClientMaxHeaderListSize): what a runtime repeats of a long command, or of a registry's
// answer, is told, and it is known that the call failed.
#[tokio::test]
async fn long_error_arrives_whole() {
    let failure = runtime(&[Behaviour::SaysAtLength(2, 100_000)]).call(CriCall::Status).await.unwrap_err();
    assert_eq!(
        (failure.kind, failure.message.len()),
        (FailureKind::Other, 100_000),
        "{}",
        &failure.message[..100.min(failure.message.len())]
    );
}

// CRI-032
#[tokio::test]
async fn runtime_without_events_says_so_at_once() {
    let unimplemented = 12;
    let failure = runtime(&[Behaviour::Says(unimplemented)]).events().await.err().unwrap();
    assert_eq!(failure.kind, FailureKind::Unimplemented);
}

// CRI-032: containerd sends no headers before its first event. Takes a real second.
#[tokio::test]
async fn silent_event_stream_is_open() {
    assert!(runtime(&[Behaviour::IsSilent]).events().await.is_ok());
}

struct UnixNet;

impl Net for UnixNet {
    fn connect(&self, endpoint: Endpoint) -> BoxFuture<'_, io::Result<BoxedStream>> {
        Box::pin(async move {
            let Endpoint::Unix(path) = endpoint else { return Err(io::ErrorKind::Unsupported.into()) };
            Ok(Box::pin(tokio::net::UnixStream::connect(path).await?) as BoxedStream)
        })
    }

    fn listen(&self, _: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }
}

/// Run with `CONTAINER_RUNTIME_ENDPOINT=unix:///... cargo test -p agent --lib real_runtime -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "needs a container runtime"]
async fn real_runtime_runs_and_removes_a_sandbox() {
    let endpoint = std::env::var("CONTAINER_RUNTIME_ENDPOINT").expect("CONTAINER_RUNTIME_ENDPOINT is not set");
    let endpoint = parse_endpoint(&endpoint).unwrap();
    let net: Arc<dyn Net> = Arc::new(UnixNet);
    let runtime = CriRuntime::new(&net, &endpoint, &endpoint, Instant::now());
    for call in [CriCall::Version, CriCall::Status, CriCall::RuntimeConfig, CriCall::ListImages, CriCall::ImageFsInfo] {
        println!("{call:?}: {:?}", runtime.call(call.clone()).await);
    }
    let events = runtime.events().await;
    println!("events: {:?}", events.as_ref().err());
    let pod = PodUid::new("11111111-2222-3333-4444-555555555555");
    let labels = [(convert::POD_UID, pod.as_str()), ("io.kubernetes.pod.name", "real")].map(|(k, v)| (k.into(), v.into()));
    let metadata = PodSandboxMetadata { name: "real".into(), uid: pod.to_string(), namespace: "t".into(), attempt: 0 };
    let config = PodSandboxConfig {
        metadata: Some(metadata),
        labels: BTreeMap::from(labels),
        log_directory: "/tmp".into(),
        ..PodSandboxConfig::default()
    };
    let run = CriCall::RunPodSandbox { config: Arc::new(config), runtime_handler: String::new() };
    let CriReply::Sandbox(id) = runtime.call(run).await.unwrap() else { panic!("no sandbox") };
    let CriReply::Observation(seen) = runtime.call(CriCall::Observe { pod: pod.clone() }).await.unwrap() else {
        panic!("no observation")
    };
    println!("{seen:?}");
    assert_eq!((seen.sandboxes.len(), seen.ready_sandboxes().count()), (1, 1));
    if let Ok(mut events) = events {
        use futures::StreamExt as _;
        let told = tokio::time::timeout(Duration::from_secs(5), events.next()).await;
        assert_eq!(told.unwrap().unwrap().unwrap(), pod);
    }
    for _ in 0..2 {
        assert!(matches!(runtime.call(CriCall::StopPodSandbox { id: id.clone() }).await, Ok(CriReply::Done)));
        assert!(matches!(runtime.call(CriCall::RemovePodSandbox { id: id.clone() }).await, Ok(CriReply::Done)));
    }
    let CriReply::Observation(seen) = runtime.call(CriCall::Observe { pod }).await.unwrap() else { panic!("no observation") };
    assert!(seen.sandboxes.is_empty());
}
