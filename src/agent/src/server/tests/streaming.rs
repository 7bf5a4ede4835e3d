//! exec, attach, port-forward and run, against a runtime's streaming server within the process.

use kubelet::event::CriReply;
use kubelet::failure::{Failure, FailureKind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::env::{Net, StreamRequest};

const RUNTIME: &str = "127.0.0.1:34567";

/// A streaming server that answers one request with `answer`, then echoes in capitals. Hands out the request's head.
async fn streaming_server(world: &World, answer: &'static str) -> tokio::task::JoinHandle<String> {
    *world.runtime.answers.lock().unwrap() =
        fakes::Answers { stream_url: Some(Ok(format!("http://{RUNTIME}/exec/TOKEN?a=b"))), ..fakes::Answers::default() };
    let mut listener = world.net.listen(RUNTIME.parse().unwrap()).await.unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        if answer.starts_with("HTTP/1.1 101") {
            let mut buffer = [0; 64];
            loop {
                let read = stream.read(&mut buffer).await.unwrap();
                if read == 0 {
                    break;
                }
                stream.write_all(buffer[..read].to_ascii_uppercase().as_slice()).await.unwrap();
            }
        }
        stream.shutdown().await.unwrap();
        String::from_utf8(head).unwrap()
    })
}

fn upgrade(method: &str, path: &str, protocol: &str) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("Host", "n1:10250")
        .header("Authorization", format!("Bearer {ADMIN}"))
        .header("Connection", "Upgrade")
        .header("Upgrade", protocol)
        .header("X-Stream-Protocol-Version", "v4.channel.k8s.io")
        .header("X-Stream-Protocol-Version", "v3.channel.k8s.io")
        .header("X-Forwarded-For", "1.2.3.4")
        .body(Body::empty())
        .unwrap()
}

const SPDY_101: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n";
const WEBSOCKET_101: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn an_upgraded_connection_is_passed_through_byte_for_byte() {
    // API-102, API-105, API-106, API-107, INV-08
    for (method, protocol, answer) in [("POST", "SPDY/3.1", SPDY_101), ("GET", "websocket", WEBSOCKET_101)] {
        let world = World::new().start().await;
        world.run_pod("p");
        let server = streaming_server(&world, answer).await;
        let path = "/exec/default/p/c?command=sh&command=-c&command=echo+1&input=1&output=1&error=1";
        let response = send(world.connect(MAIN).await, upgrade(method, path, protocol)).await;
        assert_eq!(response.status(), 101);
        assert_eq!(response.headers()["upgrade"], protocol);
        let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        stream.write_all(b"hello").await.unwrap();
        let mut echo = [0; 5];
        stream.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"HELLO");
        assert_eq!(world.shared.metrics.open_streams(), 1.0);
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut echo).await.unwrap(), 0);
        drop(stream);

        let head = server.await.unwrap();
        assert!(head.starts_with(&format!("{method} /exec/TOKEN?a=b HTTP/1.1\r\n")), "{head}");
        let lower = head.to_ascii_lowercase();
        for line in ["host: n1:10250", "x-stream-protocol-version: v3.channel.k8s.io", "x-forwarded-for: 1.2.3.4, 10.0.0.9"] {
            assert!(lower.contains(line), "{head}");
        }
        assert!(lower.contains(&format!("upgrade: {}", protocol.to_ascii_lowercase())));
        // INV-07
        assert!(!lower.contains("authorization"));
        let (command, stdin) = (["sh", "-c", "echo 1"].map(str::to_owned).to_vec(), true);
        let expected = StreamRequest::Exec { container: "c1".to_owned(), command, tty: false, stdin, stdout: true, stderr: true };
        assert_eq!(*world.runtime.sessions.lock().unwrap(), [expected]);
        while world.shared.metrics.open_streams() > 0.0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_runtime_refuses_is_relayed_and_the_connection_closed() {
    // API-105, CVE-2018-1002105
    let world = World::new().start().await;
    world.run_pod("p");
    let server = streaming_server(
        &world,
        "HTTP/1.1 403 Forbidden\r\nX-Accepted-Stream-Protocol-Versions: v4\r\nContent-Length: 2\r\n\r\nno",
    )
    .await;
    let answer = world.request(MAIN, upgrade("POST", "/attach/default/p/c?output=1&error=1", "SPDY/3.1")).await;
    assert_eq!((answer.status, answer.body.as_str()), (403, "no"));
    assert_eq!(answer.header("x-accepted-stream-protocol-versions"), "v4");
    assert_eq!(answer.header("connection"), "close");
    server.await.unwrap();
    // API-110: the container's own terminal counts, whatever the client says; and a terminal has no standard error.
    let expected = StreamRequest::Attach { container: "c1".to_owned(), tty: true, stdin: false, stdout: true, stderr: false };
    assert_eq!(*world.runtime.sessions.lock().unwrap(), [expected]);
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_no_upgrade_are_errors() {
    // API-105, CVE-2020-8559: no redirect is followed or passed on.
    let world = World::new().start().await;
    world.run_pod("p");
    let moved = "HTTP/1.1 302 Found\r\nLocation: http://evil/\r\nContent-Length: 0\r\n\r\n";
    let server = streaming_server(&world, moved).await;
    let answer = world.request(MAIN, upgrade("POST", "/exec/default/p/c?output=1", "SPDY/3.1")).await;
    assert_eq!((answer.status, answer.body.as_str()), (500, "invalid upgrade response: status code 302\n"));
    assert!(!answer.headers.contains_key("location"));
    server.await.unwrap();
    world.runtime.answers.lock().unwrap().stream_url = Some(Ok("http://127.0.0.1:1/x".to_owned()));
    let answer = world.request(MAIN, upgrade("POST", "/exec/default/p/c?output=1", "SPDY/3.1")).await;
    assert_eq!((answer.status, answer.body.as_str()), (500, "error dialing backend: connection refused\n"));
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_for_is_looked_up_before_the_runtime_is_asked() {
    // API-100, API-101, API-104, API-111
    let world = World::new().start().await;
    world.run_pod("p");
    world.runtime.answers.lock().unwrap().stream_url = Some(Ok(format!("http://{RUNTIME}/x")));
    let cases = [
        ("POST", "/exec/default/p/c?command=id", 400, "you must specify at least 1 of stdin, stdout, stderr"),
        ("POST", "/exec/default/p/c?tty=1&error=1", 400, "you must specify at least 1 of stdin, stdout, stderr"),
        ("GET", "/exec/default/nosuch/c?output=1", 404, "pod does not exist"),
        ("GET", "/exec/default/p/nosuch?output=1", 500, "container not found (\"nosuch\")"),
        ("GET", "/attach/default/nosuch/c?output=1", 404, "pod does not exist"),
        ("GET", "/attach/default/p/nosuch?output=1", 500, "container nosuch not found in pod p_default"),
        ("GET", "/attach/default/p/other/c?output=1", 500, "pod p_default not found"),
        ("POST", "/portForward/default/nosuch", 404, "pod does not exist"),
        ("POST", "/portForward/default/p/other", 404, "pod not found"),
        ("POST", "/exec/default/p/c?output=1", 500, "Upgrade request required\n"),
        // Exec takes a pod by its name, whatever UID is given.
        ("POST", "/exec/default/p/other/c?output=1", 500, "Upgrade request required\n"),
        ("POST", "/portForward/default/p/uid-p", 500, "Upgrade request required\n"),
    ];
    for (method, path, status, body) in cases {
        let answer = world.ask(method, path, ADMIN).await;
        assert_eq!((answer.status, answer.body.as_str()), (status, body), "{method} {path}");
    }
}

#[tokio::test(start_paused = true)]
async fn errors_of_the_runtime_have_their_codes() {
    // API-103
    let world = World::new().start().await;
    world.run_pod("p");
    let cases = [
        (FailureKind::NotFound, "NotFound", 404, ""),
        (FailureKind::Throttled { after: None }, "ResourceExhausted", 429, "60"),
        (FailureKind::Unavailable, "Unavailable", 500, ""),
        (FailureKind::Other, "Unknown", 500, ""),
    ];
    for (kind, code, status, retry_after) in cases {
        let failure = Failure::new(kind, "said the runtime").with_code(code);
        world.runtime.answers.lock().unwrap().stream_url = Some(Err(failure));
        // Upstream: cri-streaming, errors.go (WriteError), writes gRPC's own error.
        let said = format!("rpc error: code = {code} desc = said the runtime");
        for path in ["/exec/default/p/c?output=1", "/attach/default/p/c?output=1", "/portForward/default/p"] {
            let answer = world.request(MAIN, upgrade("POST", path, "SPDY/3.1")).await;
            assert_eq!((answer.status, &answer.body, answer.header("retry-after")), (status, &said, retry_after), "{path}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_websocket_port_forward_names_its_ports() {
    // API-113, API-114
    let world = World::new().start().await;
    world.run_pod("p");
    let cases = [
        ("", "query parameter \"port\" is required"),
        ("?port=", "query parameter \"port\" cannot be empty"),
        ("?port=0", "port \"0\" must be > 0"),
        ("?port=x", "unable to parse \"x\" as a port: strconv.ParseUint: parsing \"x\": invalid syntax"),
        ("?port=65536", "unable to parse \"65536\" as a port: strconv.ParseUint: parsing \"65536\": value out of range"),
    ];
    for (query, why) in cases {
        let answer = world.request(MAIN, upgrade("GET", &format!("/portForward/default/p{query}"), "websocket")).await;
        assert_eq!((answer.status, answer.body.as_str()), (400, why));
    }
    let server = streaming_server(&world, WEBSOCKET_101).await;
    let request = upgrade("GET", "/portForward/default/p?port=80,443&port=8080", "websocket");
    assert_eq!(send(world.connect(MAIN).await, request).await.status(), 101);
    let expected = StreamRequest::PortForward { sandbox: "s1".to_owned(), ports: vec![80, 443, 8080] };
    assert_eq!(*world.runtime.sessions.lock().unwrap(), [expected]);
    server.abort();
}

#[tokio::test(start_paused = true)]
async fn a_container_that_the_agent_has_not_seen_yet_is_asked_for() {
    // API-101: the runtime decides, not the agent's memory of it.
    let world = World::new().start().await;
    let uid = world.run_pod("p");
    world.view.observations.lock().unwrap().insert(uid.clone(), Observed::new(observation(&uid, "p", ContainerState::Created)));
    let done = |exit_code| CriReply::Exec { exit_code, output: "uid=0\n".to_owned(), stderr: 0 };
    world.runtime.answers.lock().unwrap().exec = Some(Ok(done(0)));
    let answer = world.ask("POST", "/run/default/p/c?cmd=id%20-u", ADMIN).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "uid=0\n"));
    // API-115
    world.runtime.answers.lock().unwrap().exec = Some(Ok(done(2)));
    let answer = world.ask("POST", "/run/default/p/c?cmd=id%20-u", ADMIN).await;
    assert_eq!((answer.status, answer.body.as_str()), (500, "command 'id -u' exited with 2: uid=0\n"));
}

#[tokio::test(start_paused = true)]
async fn streams_end_when_the_listener_does() {
    // INV-08
    let world = World::new().start().await;
    world.run_pod("p");
    let server = streaming_server(&world, SPDY_101).await;
    let response = send(world.connect(MAIN).await, upgrade("POST", "/exec/default/p/c?output=1", "SPDY/3.1")).await;
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    stream.write_all(b"x").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'X');
    // API-014: server.go:1269-1276: a request is in flight until its handler returns, which is when the stream ends.
    let in_flight = |world: &World| {
        let text = metrics::text_of(&world.shared.metrics);
        let series =
            "kubelet_http_inflight_requests{long_running=\"true\",method=\"POST\",path=\"exec\",server_type=\"readwrite\"} ";
        text.lines().find_map(|line| line.strip_prefix(series)).unwrap().to_owned()
    };
    assert_eq!(in_flight(&world), "1");
    world.shutdown.cancel();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    server.await.unwrap();
    assert_eq!(world.shared.metrics.open_streams(), 0.0);
    assert_eq!(in_flight(&world), "0");
}
