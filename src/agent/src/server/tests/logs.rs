//! Logs of containers, whole and followed.

use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};

use tokio::time::Instant;

use super::*;
use crate::server::listen::requests;
use crate::server::routes::Peer;

const TWO: &str = "2026-11-23T08:00:00Z stdout F one\n2026-11-23T08:31:40Z stderr F two\n";

fn line(text: &str) -> String {
    format!("2026-11-23T08:31:45Z stdout F {text}\n")
}

async fn world(log: &str) -> (World, PodUid) {
    let world = World::new().start().await;
    let uid = world.run_pod("p");
    world.host.write(LOG, log);
    (world, uid)
}

fn exit(world: &World, uid: &PodUid) {
    world.observe(uid, observation(uid, "p", ContainerState::Exited));
}

/// Reads on until that much was said.
async fn read_until(body: &mut hyper::body::Incoming, said: &mut String, end: &str) {
    while !said.ends_with(end) {
        let frame = body.frame().await.expect("the log ended").unwrap();
        said.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
    }
}

async fn follow(world: &World, query: &str) -> hyper::body::Incoming {
    let path = format!("/containerLogs/default/p/c?follow=true{query}");
    let request = Request::builder().uri(path).header("Host", "n1").header("Authorization", format!("Bearer {ADMIN}"));
    let response = send(world.connect(MAIN).await, request.body(Body::empty()).unwrap()).await;
    assert_eq!(response.status(), 200);
    response.into_body()
}

#[tokio::test(start_paused = true)]
async fn a_log_is_read_to_its_end() {
    // API-080, API-086, API-087, LOG-006, LOG-007
    let (world, _) = world(TWO).await;
    let answer = world.get("/containerLogs/default/p/c").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "one\ntwo\n"));
    assert!(!answer.headers.contains_key("content-type"));
    assert_eq!(answer.header("transfer-encoding"), "chunked");
    let cases = [
        ("tailLines=1", "two\n"),
        ("tailLines=5", "one\ntwo\n"),
        ("tailLines=0", ""),
        ("sinceSeconds=60", "two\n"),
        ("sinceTime=2026-11-23T08:00:01Z", "two\n"),
        ("limitBytes=5", "one\nt"),
        ("tailLines=1&timestamps=true", "2026-11-23T08:31:40.000000000Z two\n"),
    ];
    for (query, expected) in cases {
        assert_eq!(world.get(&format!("/containerLogs/default/p/c?{query}")).await.body, expected, "{query}");
    }
}

// LOG-007: cri-client/pkg/logs/logs.go, ReadLogs: one file is read, the one that the runtime names.
#[tokio::test(start_paused = true)]
async fn rotated_files_are_not_read() {
    let (world, _) = world(TWO).await;
    world.host.write(&format!("{LOG}.20261123-070000"), &line("zero"));
    for query in ["", "?tailLines=3", "?sinceTime=2026-11-23T00:00:00Z"] {
        assert_eq!(world.get(&format!("/containerLogs/default/p/c{query}")).await.body, "one\ntwo\n", "{query}");
    }
}

// suite-websocket-logs, API-086: pkg/kubelet/server/server.go, getContainerLogs looks at no upgrade: the API server makes the WebSocket of
// what it reads here (apiserver/pkg/endpoints/handlers/responsewriters/writers.go, StreamObject).
#[tokio::test(start_paused = true)]
async fn log_is_plain_text_also_for_whoever_offers_a_websocket() {
    let (world, _) = world(TWO).await;
    let path = "/containerLogs/default/p/c?tailLines=1";
    let request = Request::builder().uri(path).header("Host", "n1").header("Authorization", format!("Bearer {ADMIN}"));
    let request = request.header("Connection", "Upgrade").header("Upgrade", "websocket").header("Sec-WebSocket-Version", "13");
    let request = request.header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==").header("Sec-WebSocket-Protocol", "binary.k8s.io");
    let answer = world.request(MAIN, request.body(Body::empty()).unwrap()).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "two\n"));
    assert!(!answer.headers.contains_key("upgrade") && !answer.headers.contains_key("sec-websocket-accept"));
}

/// What the client's side of a connection gets, write by write.
struct Writes(tokio::io::DuplexStream, Arc<Mutex<Vec<String>>>);

impl tokio::io::AsyncRead for Writes {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut tokio::io::ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl tokio::io::AsyncWrite for Writes {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let wrote = std::task::ready!(Pin::new(&mut self.0).poll_write(cx, bytes))?;
        self.1.lock().unwrap().push(String::from_utf8_lossy(&bytes[..wrote]).into_owned());
        Poll::Ready(Ok(wrote))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A client's side that reads nothing for an hour after it has read something for the first time.
struct Sleepy(tokio::io::DuplexStream, Pin<Box<tokio::time::Sleep>>, u32);

impl tokio::io::AsyncRead for Sleepy {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut tokio::io::ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        std::task::ready!(self.1.as_mut().poll(cx));
        let mut some = [0; 100];
        let mut part = tokio::io::ReadBuf::new(&mut some);
        let read =
            if self.2 == 0 { Pin::new(&mut self.0).poll_read(cx, &mut part) } else { Pin::new(&mut self.0).poll_read(cx, buffer) };
        std::task::ready!(read)?;
        buffer.put_slice(part.filled());
        if self.2 == 0 {
            self.1.as_mut().reset(Instant::now() + Duration::from_secs(3600));
        }
        self.2 += 1;
        Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncWrite for Sleepy {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

// suite-websocket-logs: net/http (chunkWriter.close) writes a body's end by itself; apiserver/pkg/util/wsstream (messageCopy) drops what it
// reads together with the end: with both in one record of TLS a log over a WebSocket was empty.
#[tokio::test(start_paused = true)]
async fn end_of_a_log_is_written_by_itself() {
    let long: String = (0..5000).map(|number| line(&number.to_string())).collect();
    for (log, room) in [(TWO, 1 << 16), (TWO, 64), (long.as_str(), 1 << 20), (long.as_str(), 1000)] {
        let (world, _) = world(log).await;
        let writes = Arc::new(Mutex::new(Vec::new()));
        let (client, server) = tokio::io::duplex(room);
        let gate = Gate::main(world.shared.clone(), world.guard(None));
        let (address, shutdown) = (MAIN.parse().unwrap(), world.shutdown.clone());
        let peer = Peer { address, certificates: Vec::new(), shutdown, standing: Arc::default() };
        let served = requests(gate, Box::pin(Writes(server, Arc::clone(&writes))), peer);
        let request = Request::builder().uri("/containerLogs/default/p/c").header("Host", "n1");
        let request = request.header("Authorization", format!("Bearer {ADMIN}")).header("Connection", "close").body(Body::empty());
        // However long the client takes nothing.
        let client = Box::pin(Sleepy(client, Box::pin(tokio::time::sleep(Duration::ZERO)), 0));
        let asked = async { Answer::of(send(client, request.unwrap()).await).await };
        let ((), answer) = tokio::join!(served, asked);
        assert_eq!((answer.status, answer.body.lines().count()), (200, log.lines().count()));
        let writes = writes.lock().unwrap();
        assert_eq!(writes.last().map(String::as_str), Some("0\r\n\r\n"), "{room}: {:?}", &writes[writes.len().saturating_sub(2)..]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_lines_of_a_long_log_are_found_from_its_end() {
    // API-089
    let log: String = (0..20_000).map(|number| line(&number.to_string())).collect();
    let (world, _) = world(&log).await;
    let answer = world.get("/containerLogs/default/p/c?tailLines=3").await;
    assert_eq!(answer.body, "19997\n19998\n19999\n");
    let answer = world.get("/containerLogs/default/p/c?tailLines=5000").await;
    assert_eq!(answer.body.lines().count(), 5000);
    assert!(answer.body.starts_with("15000\n"));
}

#[tokio::test(start_paused = true)]
async fn errors_are_said_as_upstream_says_them() {
    // API-080 to API-083, API-085
    let (world, _) = world(TWO).await;
    let cases = [
        ("p/c?tailLines=x", 400, r#"{"message": "Unable to decode query."}"#),
        ("p/c?tailLines=-1", 422, r#"{"message": "Invalid request."}"#),
        ("nosuch/c", 404, "pod \"nosuch\" does not exist"),
        ("p/nosuch", 404, "container \"nosuch\" not found in pod \"p\""),
        ("p/c?previous=true", 400, "previous terminated container \"c\" in pod \"p\" not found"),
        (
            "p/c?stream=Stdout",
            400,
            "unable to return the given log stream: \"Stdout\". Please enable PodLogsQuerySplitStreams feature gate in kubelet",
        ),
    ];
    for (path, status, body) in cases {
        let answer = world.get(&format!("/containerLogs/default/{path}")).await;
        assert_eq!((answer.status, answer.body.as_str()), (status, body), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_goes_wrong_after_the_headers_is_said_in_the_body() {
    // API-086, API-087
    let (world, uid) = world("garbage\n").await;
    let answer = world.get("/containerLogs/default/p/c").await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (200, "failed to get parse function: unsupported log format: \"garbage\\n\"")
    );
    world.host.files.lock().unwrap().clear();
    let answer = world.get("/containerLogs/default/p/c").await;
    assert!(answer.body.starts_with(&format!("failed to try resolving symlinks in path {LOG:?}: ")), "{}", answer.body);
    world.observe(&uid, PodObservation::empty(uid.clone(), Mono::from_start(Duration::ZERO)));
    let answer = world.get("/containerLogs/default/p/c").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "unable to retrieve container logs for r://c1"));
}

// API-086: GetKubeletContainerLogs writes nothing, and flushes, before it waits for anything to write.
// API-014: server.go:1269-1276: the request is in flight, and is timed, until the handler returns.
#[tokio::test(start_paused = true)]
async fn followed_log_is_answered_before_it_says_anything_and_is_in_flight_until_it_ends() {
    let (world, _) = world("").await;
    let body = follow(&world, "").await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    let has = |line: &str| metrics::text_of(&world.shared.metrics).lines().any(|found| found == line);
    let labels = "long_running=\"false\",method=\"GET\",path=\"containerLogs\",server_type=\"readwrite\"";
    assert!(has(&format!("kubelet_http_inflight_requests{{{labels}}} 1")));
    drop(body);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(has(&format!("kubelet_http_inflight_requests{{{labels}}} 0")));
    assert!(has(&format!("kubelet_http_requests_duration_seconds_bucket{{{labels},le=\"10\"}} 0")));
    assert!(has(&format!("kubelet_http_requests_duration_seconds_count{{{labels}}} 1")));
}

#[tokio::test(start_paused = true)]
async fn a_followed_log_goes_on_until_the_container_has_ended() {
    // API-090, LOG-007
    let (world, uid) = world(&line("one")).await;
    let mut body = follow(&world, "").await;
    let mut said = String::new();
    read_until(&mut body, &mut said, "one\n").await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    // A line that comes in two halves is said once, when it is whole.
    world.host.append(LOG, "2026-11-23T08:31:46Z stdo");
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.host.append(LOG, "ut F two\n");
    read_until(&mut body, &mut said, "two\n").await;
    exit(&world, &uid);
    let ended = Instant::now();
    // Its last words come after the news of its end.
    world.host.append(LOG, &line("three"));
    read_until(&mut body, &mut said, "three\n").await;
    assert!(body.frame().await.is_none());
    assert!(ended.elapsed() <= Duration::from_secs(3));
    assert_eq!(said, "one\ntwo\nthree\n");
}

// Issue 10: a thousand who follow quiet logs must not cost a thousand looks a second; what is written is said at once all the same, and
// an end is noticed as soon as the runtime has closed the log.
#[tokio::test(start_paused = true)]
async fn quiet_log_is_looked_at_ever_more_rarely_where_the_kernel_gives_hints() {
    let (world, uid) = world(&line("one")).await;
    let hints = Arc::clone(&world.host.hints);
    hints.are_given.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut body = follow(&world, "").await;
    let mut said = String::new();
    read_until(&mut body, &mut said, "one\n").await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    let reads = hints.reads.load(std::sync::atomic::Ordering::Relaxed);
    assert!(reads < 80, "{reads} looks in ten minutes");
    world.host.append(LOG, &line("two"));
    hints.one.notify_one();
    let told = Instant::now();
    read_until(&mut body, &mut said, "two\n").await;
    assert!(told.elapsed() < Duration::from_millis(100));
    tokio::time::sleep(Duration::from_secs(600)).await;
    // The hint comes a little before the news of the end.
    hints.one.notify_one();
    tokio::time::sleep(Duration::from_millis(300)).await;
    exit(&world, &uid);
    let ended = Instant::now();
    assert!(body.frame().await.is_none());
    assert!(ended.elapsed() <= Duration::from_secs(4), "{:?}", ended.elapsed());
}

#[tokio::test(start_paused = true)]
async fn following_goes_over_to_the_next_file_when_a_log_is_rotated() {
    // API-090, LOG-007
    let (world, uid) = world(&line("one")).await;
    let mut body = follow(&world, "&tailLines=1").await;
    let mut said = String::new();
    read_until(&mut body, &mut said, "one\n").await;
    for round in 0..3 {
        let rotated = format!("{LOG}.{round}");
        world.host.rename(LOG, &rotated);
        tokio::time::sleep(Duration::from_secs(3)).await;
        // The runtime writes to the old file until it has reopened its log, and for a moment longer.
        world.host.append(&rotated, &line("old"));
        world.host.write(LOG, &line(&format!("new {round}")));
        world.host.append(&rotated, &line("late"));
        read_until(&mut body, &mut said, &format!("new {round}\n")).await;
    }
    exit(&world, &uid);
    assert!(body.frame().await.is_none());
    assert_eq!(said, "one\nold\nlate\nnew 0\nold\nlate\nnew 1\nold\nlate\nnew 2\n");
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_rotated_as_its_container_ends_is_read_to_the_end() {
    // API-090
    let (world, uid) = world(&line("one")).await;
    let mut body = follow(&world, "").await;
    let mut said = String::new();
    read_until(&mut body, &mut said, "one\n").await;
    exit(&world, &uid);
    world.host.rename(LOG, "/rotated");
    world.host.write(LOG, &line("two"));
    read_until(&mut body, &mut said, "two\n").await;
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_log_that_was_cut_is_read_from_its_beginning() {
    let (world, uid) = world(&(line("one") + &line("two"))).await;
    let mut body = follow(&world, "").await;
    let mut said = String::new();
    read_until(&mut body, &mut said, "two\n").await;
    let file = world.host.files.lock().unwrap()[LOG].clone();
    *file.lock().unwrap() = line("three").into_bytes();
    read_until(&mut body, &mut said, "three\n").await;
    exit(&world, &uid);
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_does_not_answer_does_not_end_a_followed_log() {
    // API-090, LOG-007
    let (world, uid) = world(&line("one")).await;
    let mut body = follow(&world, "").await;
    let mut said = String::new();
    read_until(&mut body, &mut said, "one\n").await;
    world.view.observations.lock().unwrap().clear();
    *world.runtime.hung.lock().unwrap() = true;
    tokio::time::sleep(Duration::from_secs(60)).await;
    world.host.append(LOG, &line("two"));
    read_until(&mut body, &mut said, "two\n").await;
    *world.runtime.hung.lock().unwrap() = false;
    exit(&world, &uid);
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_slowly_holds_little_memory_and_one_that_leaves_holds_none() {
    // API-090: nothing is read from the file before somebody takes it.
    let log: String = (0..100_000).map(|number| line(&format!("{number:060}"))).collect();
    let (world, _) = world(&log).await;
    let body = follow(&world, "").await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let file = world.host.files.lock().unwrap()[LOG].clone();
    let readers = Arc::strong_count(&file);
    drop(body);
    for _ in 0..1000 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if Arc::strong_count(&file) < readers {
            return;
        }
    }
    panic!("the file is still open");
}

// API-084: a crash loop moves on between the look-up and the opening; the older instance is gone with its log.
#[tokio::test(start_paused = true)]
async fn log_that_goes_meanwhile_gives_way_to_the_next() {
    let (world, _) = world(TWO).await;
    let last = |id: &str| Arc::new(pod("p", &json!({"terminated": {"exitCode": 1, "containerID": id}}), id));
    *world.view.pods.lock().unwrap() = vec![last("r://gone")];
    *world.view.then.lock().unwrap() = Some(vec![last("r://c1")]);
    let answer = world.get("/containerLogs/default/p/c").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "one\ntwo\n"));
    // Without a next one, it is said why.
    *world.view.pods.lock().unwrap() = vec![last("r://gone")];
    let answer = world.get("/containerLogs/default/p/c").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "unable to retrieve container logs for r://gone"));
}
