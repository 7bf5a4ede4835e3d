//! What holds for all that a listener serves, or for its health.

use super::*;

// API-003: cmd/kubelet/app/server.go:944-953: wait.Until every five seconds; the error is logged and ends nothing.
#[tokio::test(start_paused = true)]
async fn healthz_listener_waits_for_its_address() {
    let world = World::new();
    let address: SocketAddr = "127.0.0.1:10248".parse().unwrap();
    let other = world.net.listen(address).await.unwrap();
    let (net, gate, shutdown) = (Arc::new(world.net.clone()), Gate::healthz(world.shared.clone()), world.shutdown.clone());
    let serving = tokio::spawn(crate::server::serve_healthz(net, address, gate, shutdown.clone()));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(!serving.is_finished());
    drop(other);
    tokio::time::sleep(Duration::from_secs(6)).await;
    let request = Request::builder().uri("/healthz").header("Host", "n1").body(Body::empty()).unwrap();
    assert_eq!(world.request("127.0.0.1:10248", request).await.body, "ok");
    shutdown.cancel();
    serving.await.unwrap();
}

// API-007: go-restful, route.go (matchesAccept) and jsr311.go (detectRoute): what a route says that it produces counts, after its method;
// of those of the kubelet that act and of its logs none says anything.
#[tokio::test(start_paused = true)]
async fn what_a_client_does_not_take_is_not_served() {
    let world = World::new().start().await;
    world.run_pod("p");
    let ask = async |method: &str, path: &str, accept: &str| {
        let request = Request::builder().method(method).uri(path).header("Host", "n1").header("Accept", accept);
        let request = request.header("Authorization", format!("Bearer {ADMIN}"));
        let answer = world.request(MAIN, request.body(Body::empty()).unwrap()).await;
        (answer.status, answer.body)
    };
    let refused = |produced: &str| (406, format!("406: Not Acceptable\n\nAvailable representations: {produced}"));
    for (method, path, produced) in [
        ("GET", "/pods", "application/json"),
        ("GET", "/runningpods/", "application/json"),
        ("GET", "/stats/summary", "application/json"),
        ("POST", "/stats/summary", "application/json"),
        ("GET", "/containerLogs/default/p/c", ""),
        ("POST", "/run/default/p/c", ""),
        ("GET", "/exec/default/p/c", ""),
        ("POST", "/attach/default/p/uid-p/c", ""),
        ("GET", "/portForward/default/p", ""),
    ] {
        assert_eq!(ask(method, path, "text/html, text/plain").await, refused(produced), "{method} {path}");
        assert_ne!(ask(method, path, "text/html, */*;q=0.1").await.0, 406, "{method} {path}");
        assert_eq!(ask("DELETE", path, "text/html").await.0, 405, "{path}");
        assert_eq!(ask(method, path, "application/json").await.0 == 406, produced.is_empty(), "{method} {path}");
    }
    // Plain handlers look at nothing of it.
    assert_eq!(ask("GET", "/healthz", "image/png").await.0, 200);
}

// API-060, API-082: that the loop does not answer is no word about pods, and the next question may be answered.
#[tokio::test(start_paused = true)]
async fn pod_of_which_nobody_answers_is_not_said_to_be_missing() {
    let world = World::new().start().await;
    world.run_pod("p");
    world.view.silent.store(true, std::sync::atomic::Ordering::Relaxed);
    for (method, path) in [
        ("GET", "/pods"),
        ("GET", "/containerLogs/default/p/c"),
        ("POST", "/run/default/p/c?cmd=x"),
        ("POST", "/exec/default/p/c?output=1"),
        ("POST", "/attach/default/p/c?output=1"),
        ("POST", "/portForward/default/p"),
    ] {
        let answer = world.ask(method, path, ADMIN).await;
        assert_eq!((answer.status, answer.body.as_str()), (503, "the sync loop does not answer"), "{path}");
    }
}

// API-145: apiserver/pkg/server/healthz/healthz.go, handleRootHealth: only the aggregate counts, and only what it looks at; the listener
// of healthz alone does as well.
#[tokio::test(start_paused = true)]
async fn checks_are_counted_where_a_kubelet_counts_them() {
    let world = World::new().start().await;
    let healthz = "127.0.0.1:10248";
    world.serve(healthz, Gate::healthz(world.shared.clone()), None).await;
    world.get("/healthz").await;
    *world.view.stuck.lock().unwrap() = true;
    for path in ["/healthz", "/healthz/syncloop", "/healthz/ping", "/healthz?exclude=syncloop&exclude=ping"] {
        world.get(path).await;
    }
    let request = Request::builder().uri("/healthz").header("Host", "n1").body(Body::empty()).unwrap();
    world.request(healthz, request).await;
    let slis = world.get("/metrics/slis").await.body;
    for (name, status, count) in [
        ("syncloop", "success", 1),
        ("syncloop", "error", 1),
        ("ping", "success", 3),
        ("log", "success", 3),
        ("device-plugin", "success", 3),
    ] {
        let line = format!("kubernetes_healthchecks_total{{name=\"{name}\",status=\"{status}\",type=\"healthz\"}} {count}");
        assert!(slis.lines().any(|found| found == line), "{line}\n{slis}");
    }
}

// API-065: staging/src/k8s.io/apiserver/pkg/server/healthz/healthz.go, LogHealthz.
#[tokio::test(start_paused = true)]
async fn log_check_fails_while_nobody_reads_the_log() {
    let settings = settings();
    let log = settings.log.clone();
    let world = World::with(settings).start().await;
    log.push(b"nobody writes me\n");
    assert_eq!(world.get("/healthz/log").await.body, "ok");
    tokio::time::advance(Duration::from_secs(120)).await;
    let answer = world.get("/healthz/log").await;
    assert_eq!((answer.status, answer.body.as_str()), (500, "internal server error: logging blocked\n"));
    let all = "[+]ping ok\n[-]log failed: reason withheld\n[+]syncloop ok\n[+]device-plugin ok\nhealthz check failed\n";
    assert_eq!(world.get("/healthz").await.body, all);
    (0..(5 << 10)).for_each(|_| log.push(&[b'x'; 1 << 10]));
    let dropped = format!("keelson_log_lines_dropped_total {}", log.dropped());
    assert!(world.get("/metrics").await.body.lines().any(|line| line == dropped), "{dropped}");
}
