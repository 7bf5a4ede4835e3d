//! Who gets in.

use kubelet::failure::{Failure, FailureKind};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::crypto::ring;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::*;
use crate::tls::tests::{ECDSA_SHA256, first_version};

/// Requests to a path with each of the ways to have no credentials that count.
async fn without_credentials(world: &World, method: &str, path: &str) -> Vec<Answer> {
    let plain = || Request::builder().method(method).uri(path).header("Host", "n1");
    let mut answers = Vec::new();
    for request in [plain(), plain().header("Authorization", "Bearer nobodys"), plain().header("Authorization", "Basic YTpi")] {
        answers.push(world.request(MAIN, request.body(Body::empty()).unwrap()).await);
    }
    answers
}

fn filled(path: &str) -> String {
    ["namespace", "pod", "uid", "container", "*rest"]
        .iter()
        .fold(path.to_owned(), |path, name| path.replace(&format!("{{{name}}}"), "x"))
}

#[tokio::test(start_paused = true)]
async fn no_route_answers_anything_but_401_without_credentials() {
    // INV-01, API-027: every route there is, taken from the router's own table.
    // API-010: the refusal is plain text and offers no way to authenticate. API-048: who is unknown is not even judged,
    // and nobody is asked anything for him.
    for debugging in [true, false] {
        let mut settings = settings();
        settings.listeners.debugging_handlers = debugging;
        let world = World::with(settings).start().await;
        let paths = Gate::paths(&world.shared, Listener::Main);
        assert!(paths.len() > 15);
        for path in paths {
            for method in ["GET", "POST", "HEAD", "PUT", "BREW"] {
                for answer in without_credentials(&world, method, &filled(&path)).await {
                    assert_eq!(answer.status, 401, "{method} {path}");
                    assert!(method == "HEAD" || answer.body == "Unauthorized");
                    assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
                    assert!(!answer.headers.contains_key("www-authenticate"));
                }
            }
        }
        assert!(world.api.access_reviews.lock().unwrap().is_empty());
        assert_eq!(looked_up(&world), 0);
    }
}

/// How often anybody was asked on behalf of a request that was let in.
fn looked_up(world: &World) -> u64 {
    let measured: usize = world.host.measured.lock().unwrap().values().sum();
    let asked = world.view.questions.load(std::sync::atomic::Ordering::Relaxed);
    asked + (world.runtime.sessions.lock().unwrap().len() + measured) as u64
}

#[tokio::test(start_paused = true)]
async fn a_user_without_rights_gets_403_on_every_route() {
    // API-045, INV-01, API-048: judged before anything is looked up
    let world = World::new().start().await;
    world.api.tokens.lock().unwrap().insert("t".to_owned(), UserInfo { name: "eve".to_owned(), ..UserInfo::default() });
    for path in Gate::paths(&world.shared, Listener::Main) {
        let answer = world.ask("GET", &filled(&path), "t").await;
        assert_eq!(answer.status, 403, "{path}");
        assert!(answer.body.starts_with("Forbidden (user=eve, verb=get, resource=nodes, subresource(s)=["), "{}", answer.body);
    }
    // API-048: pkg/kubelet/server/server.go, InstallAuthFilter: each was judged, once it was known who asks, and before anything was done.
    assert_eq!(*world.api.token_reviews.lock().unwrap(), 1);
    assert!(!world.api.access_reviews.lock().unwrap().is_empty());
    assert_eq!(looked_up(&world), 0);
    assert!(world.ask("GET", "/pods", ADMIN).await.status == 200 && looked_up(&world) == 1);
    assert_eq!(
        world.ask("GET", "/pods", "t").await.body,
        "Forbidden (user=eve, verb=get, resource=nodes, subresource(s)=[pods proxy])\n"
    );
}

#[tokio::test(start_paused = true)]
async fn each_path_and_method_has_its_verb_and_subresources() {
    // API-041, API-042, API-043, API-342: whoever scrapes metrics needs that right and no other.
    let world = World::new().start().await;
    world.api.tokens.lock().unwrap().insert("t".to_owned(), UserInfo { name: "u".to_owned(), ..UserInfo::default() });
    let cases = [
        ("GET", "/pods", "u get pods,u get proxy"),
        ("POST", "/pods/", "u create pods,u create proxy"),
        ("GET", "/runningpods/", "u get pods,u get proxy"),
        ("PUT", "/healthz/ping", "u update healthz,u update proxy"),
        ("GET", "/configz", "u get configz,u get proxy"),
        ("GET", "/stats/summary", "u get stats"),
        ("DELETE", "/metrics/resource", "u delete metrics"),
        ("PATCH", "/metrics", "u patch metrics"),
        ("GET", "/metrics", "u get metrics"),
        ("GET", "/metrics/resource", "u get metrics"),
        ("GET", "/metrics/cadvisor", "u get metrics"),
        ("GET", "/metrics/probes", "u get metrics"),
        ("GET", "/logs/syslog", "u get log"),
        ("GET", "/exec/a/b/c", "u get proxy"),
        ("POST", "/attach/a/b/c", "u create proxy"),
        ("HEAD", "/containerLogs/a/b/c", "u  proxy"),
        ("OPTIONS", "/portForward/a/b", "u  proxy"),
        ("POST", "/run/a/b/c", "u create proxy"),
        ("GET", "/statusz", "u get statusz"),
    ];
    for (method, path, expected) in cases {
        tokio::time::advance(Duration::from_secs(31)).await;
        world.api.access_reviews.lock().unwrap().clear();
        assert_eq!(world.ask(method, path, "t").await.status, 403, "{method} {path}");
        assert_eq!(world.api.access_reviews.lock().unwrap().join(","), expected, "{method} {path}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_fine_grained_right_is_enough_and_so_is_proxy() {
    // API-043
    let world = World::new().start().await;
    for (token, right) in [("fine", "pods"), ("coarse", "proxy"), ("other", "stats")] {
        world.api.tokens.lock().unwrap().insert(token.to_owned(), UserInfo { name: token.to_owned(), ..UserInfo::default() });
        world.api.allowed.lock().unwrap().insert(format!("{token} get {right}"));
    }
    assert_eq!(world.ask("GET", "/pods", "fine").await.status, 200);
    assert_eq!(world.ask("GET", "/pods", "coarse").await.status, 200);
    assert_eq!(world.ask("GET", "/pods", "other").await.status, 403);
    // Reading pods is no right to run things in them.
    assert_eq!(world.ask("POST", "/run/a/b/c", "fine").await.status, 403);
}

#[tokio::test(start_paused = true)]
async fn answers_of_the_api_server_are_kept_for_as_long_as_set() {
    // API-024, API-046, INV-04
    let world = World::new().start().await;
    for _ in 0..3 {
        assert_eq!(world.get("/pods").await.status, 200);
    }
    assert_eq!(*world.api.token_reviews.lock().unwrap(), 1);
    assert_eq!(world.api.access_reviews.lock().unwrap().len(), 1);
    world.api.allowed.lock().unwrap().clear();
    tokio::time::advance(Duration::from_secs(299)).await;
    assert_eq!(world.get("/pods").await.status, 200);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(world.get("/pods").await.status, 403);
    world.api.allowed.lock().unwrap().insert("admin get pods".to_owned());
    assert_eq!(world.get("/pods").await.status, 403);
    tokio::time::advance(Duration::from_secs(30)).await;
    assert_eq!(world.get("/pods").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_becomes_known_works_within_ten_seconds() {
    // API-024
    let world = World::new().start().await;
    assert_eq!(world.ask("GET", "/pods", "new").await.status, 401);
    world.api.tokens.lock().unwrap().insert("new".to_owned(), UserInfo { name: "admin".to_owned(), ..UserInfo::default() });
    assert_eq!(world.ask("GET", "/pods", "new").await.status, 401);
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(world.ask("GET", "/pods", "new").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_down_lets_nobody_in() {
    // INV-04, API-023, API-044
    let world = World::new().start().await;
    *world.api.down.lock().unwrap() = Some(Failure::new(FailureKind::Unavailable, "connection refused"));
    assert_eq!(world.get("/pods").await.status, 401);
    *world.api.down.lock().unwrap() = None;
    assert_eq!(world.get("/metrics").await.status, 200);
    // Who it is, is known by now; whether they may, is not.
    *world.api.down.lock().unwrap() = Some(Failure::new(FailureKind::Forbidden, "no"));
    let answer = world.get("/pods").await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (500, "Authorization error (user=admin, verb=get, resource=nodes, subresource=pods)")
    );
    *world.api.down.lock().unwrap() = None;
    assert_eq!(world.get("/pods").await.status, 200);
}

// API-023: apiserver/pkg/util/webhook/webhook.go, DefaultShouldRetry, with the five tries and pauses of DefaultRetryBackoff.
#[tokio::test(start_paused = true)]
async fn api_server_is_asked_again_where_that_may_help() {
    let failure = |kind| Failure::new(kind, "down");
    let throttled = |after| failure(FailureKind::Throttled { after });
    let (all, once) = ((5, 4062), (1, 0));
    for (failure, tries) in [
        // A connection that was reset, or a gateway's 504.
        (failure(FailureKind::UnknownOutcome), all),
        (failure(FailureKind::UnknownOutcome).with_status(504), all),
        (failure(FailureKind::Unavailable).with_status(500), all),
        (failure(FailureKind::Unavailable).with_status(502), all),
        (throttled(None), all),
        (throttled(Some(Duration::from_secs(2))), (5, 8000)),
        // Connection refused.
        (failure(FailureKind::Unavailable), once),
        (failure(FailureKind::Unavailable).with_status(503), once),
        (failure(FailureKind::Forbidden).with_status(403), once),
    ] {
        let world = World::new().start().await;
        *world.api.down.lock().unwrap() = Some(failure.clone());
        let began = tokio::time::Instant::now();
        assert_eq!(world.get("/pods").await.status, 401);
        let (reviews, took) = (*world.api.token_reviews.lock().unwrap(), began.elapsed().as_millis());
        assert!((reviews, took / 10) == (tries.0, tries.1 / 10), "{failure:?} {:?}: {reviews} in {took} ms", failure.status);
    }
}

// S14
#[tokio::test(start_paused = true)]
async fn nothing_is_asked_for_those_who_have_gone() {
    use tokio::io::AsyncWriteExt as _;
    let world = World::new().start().await;
    *world.api.down.lock().unwrap() = Some(Failure::new(FailureKind::UnknownOutcome, "connection reset by peer"));
    let mut stream = world.connect(MAIN).await;
    stream.write_all(b"GET /pods HTTP/1.1\r\nHost: n1\r\nAuthorization: Bearer x\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(stream);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(*world.api.token_reviews.lock().unwrap(), 1);
}

// S14: rest.Config's QPS and burst of the kubelet's client.
#[tokio::test(start_paused = true)]
async fn strangers_tokens_are_asked_about_at_the_kubelets_pace() {
    let world = World::new().start().await;
    let began = tokio::time::Instant::now();
    for number in 0..200 {
        assert_eq!(world.ask("GET", "/pods", &format!("random{number}")).await.status, 401);
    }
    assert_eq!((*world.api.token_reviews.lock().unwrap(), began.elapsed().as_secs()), (200, 2));
}

// S22
#[tokio::test(start_paused = true)]
async fn connections_that_ask_for_nothing_keep_nobody_out_for_long() {
    let world = World::new().start().await;
    let mut idle = Vec::new();
    for _ in 0..64 {
        idle.push(world.connect(MAIN).await);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut one_more = world.connect(MAIN).await;
    let mut nothing = Vec::new();
    let began = tokio::time::Instant::now();
    let _ended = tokio::io::AsyncReadExt::read_to_end(&mut idle[0], &mut nothing).await;
    assert_eq!(began.elapsed().as_secs(), 0, "the oldest makes room at once");
    let _ended = tokio::io::AsyncReadExt::read_to_end(&mut one_more, &mut nothing).await;
    assert_eq!(began.elapsed().as_secs(), 10, "who asks for nothing goes after ten seconds");
    // Those who were let in do not count.
    let mut known = Vec::new();
    for _ in 0..70 {
        known.push(kept_open(&world, "/pods", ADMIN, 200).await);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(ask_again(&mut known[0], "/pods", ADMIN).await, 200);
}

// S22: on the listeners without a guard anybody is let in, so that it is no reason to keep as many connections as somebody likes.
#[tokio::test(start_paused = true)]
async fn one_who_may_ask_for_healthz_keeps_few_connections_and_little_on_each() {
    let world = World::new().start().await;
    let address = "127.0.0.1:10248";
    world.serve(address, Gate::healthz(world.shared.clone()), None).await;
    let mut all = Vec::new();
    for _ in 0..300 {
        let mut stream = world.connect(address).await;
        assert_eq!(ask_again(&mut stream, "/healthz", ADMIN).await, 200);
        all.push(stream);
    }
    let mut open = Vec::new();
    for mut stream in all {
        let read = tokio::io::AsyncReadExt::read_u8(&mut stream);
        if tokio::time::timeout(Duration::from_millis(1), read).await.is_err() {
            open.push(stream);
        }
    }
    assert_eq!(open.len(), 64, "{address}");
    let long = format!("/healthz?{}", "x".repeat(20_000));
    // It does not wait for the end of it.
    let request = format!("GET {long} HTTP/1.1\r\nHost: n1\r\n\r\n");
    let _cut_short = tokio::io::AsyncWriteExt::write_all(&mut open[0], request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ended = tokio::io::AsyncReadExt::read_to_end(&mut open[0], &mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 431 "), "{:?}", String::from_utf8_lossy(&answer));
    assert_eq!(ask_again(&mut open[1], "/healthz", ADMIN).await, 200);
}

/// Asks, and keeps the connection.
async fn kept_open(world: &World, path: &str, token: &str, status: u16) -> BoxedStream {
    let mut stream = world.connect(MAIN).await;
    assert_eq!(ask_again(&mut stream, path, token).await, status, "{path}");
    stream
}

async fn ask_again(stream: &mut BoxedStream, path: &str, token: &str) -> u16 {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let request = format!("GET {path} HTTP/1.1\r\nHost: n1\r\nAuthorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    // Short answers come at once.
    let mut answer = [0; 4096];
    let read = stream.read(&mut answer).await.unwrap();
    let answer = std::str::from_utf8(&answer[..read]).unwrap();
    answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).unwrap_or_default().parse().unwrap_or_default()
}

// API-005, S22: net/http keeps no place for anybody, and so none can be taken by those whom the guard refuses (server.go:197-204).
#[tokio::test(start_paused = true)]
async fn connections_whose_requests_are_refused_keep_nobody_out() {
    let world = World::new().start().await;
    let mut refused = Vec::new();
    for (path, status) in [("/pods", 401), ("/nosuch", 404), ("//pods", 307)] {
        for _ in 0..30 {
            refused.push(kept_open(&world, path, "nobodys", status).await);
        }
    }
    kept_open(&world, "/pods", ADMIN, 200).await;
    // As in upstream, they may go on asking.
    assert_eq!(ask_again(&mut refused[89], "/pods", "nobodys").await, 401);
    assert_eq!(ask_again(&mut refused[89], "/pods", ADMIN).await, 200);
}

#[tokio::test(start_paused = true)]
async fn anonymous_is_a_user_only_if_allowed_and_only_without_a_bad_credential() {
    // API-022, API-026, INV-05
    let mut settings = settings();
    settings.auth.anonymous = true;
    let world = World::with(settings).start().await;
    let [none, bad, _]: [Answer; 3] = without_credentials(&world, "GET", "/pods").await.try_into().unwrap();
    assert_eq!(none.body, "Forbidden (user=system:anonymous, verb=get, resource=nodes, subresource(s)=[pods proxy])\n");
    assert_eq!(bad.status, 401);
    world.api.allowed.lock().unwrap().insert("system:anonymous get healthz".to_owned());
    let answers = without_credentials(&world, "GET", "/healthz").await;
    assert_eq!((answers[0].status, answers[0].body.as_str()), (200, "ok"));
}

#[tokio::test(start_paused = true)]
async fn always_allow_still_wants_to_know_who_it_is() {
    // API-040
    let mut settings = settings();
    settings.auth.authorization = Authorization::AlwaysAllow;
    let world = World::with(settings).start().await;
    world.api.allowed.lock().unwrap().clear();
    assert_eq!(world.get("/pods").await.status, 200);
    assert_eq!(world.ask("GET", "/pods", "nobodys").await.status, 401);
}

#[tokio::test(start_paused = true)]
async fn a_websocket_client_may_send_its_token_as_a_subprotocol() {
    // API-025: apiserver/pkg/authentication/request/websocket/protocol.go
    let world = World::new().start().await;
    // base64url of admin-token
    let token = "base64url.bearer.authorization.k8s.io.YWRtaW4tdG9rZW4";
    let both = format!("{token}, v4.channel.k8s.io");
    assert_eq!(with_subprotocols(&world, &both, Some("websocket")).await, 200);
    assert_eq!(with_subprotocols(&world, &both, Some("WebSocket")).await, 200);
    // Of who asks for no WebSocket it is no credential.
    assert_eq!(with_subprotocols(&world, &both, None).await, 401);
    assert_eq!(with_subprotocols(&world, &both, Some("SPDY/3.1")).await, 401);
    assert_eq!(with_subprotocols(&world, token, Some("websocket")).await, 401);
    assert_eq!(with_subprotocols(&world, &format!("{token}, {both}"), Some("websocket")).await, 401);
}

async fn with_subprotocols(world: &World, protocols: &str, upgrade: Option<&str>) -> u16 {
    let mut request = Request::builder().uri("/pods").header("Host", "n1").header("Sec-WebSocket-Protocol", protocols);
    if let Some(protocol) = upgrade {
        request = request.header("Connection", "keep-alive, Upgrade").header("Upgrade", protocol);
    }
    world.request(MAIN, request.body(Body::empty()).unwrap()).await.status
}

// API-022, API-025, API-026: each of protocol.go's errors is one, and so nobody is anonymous who made it.
#[tokio::test(start_paused = true)]
async fn websocket_token_that_is_none_is_no_way_to_be_anonymous() {
    let mut settings = settings();
    settings.auth.anonymous = true;
    let world = World::with(settings).start().await;
    world.api.allowed.lock().unwrap().insert("system:anonymous get pods".to_owned());
    let token = |encoded: &str| format!("base64url.bearer.authorization.k8s.io.{encoded}");
    for (protocols, status) in [
        (format!("{}, v4.channel.k8s.io", token("bm9ib2R5cw")), 401),
        (format!("{}, {}, v4.channel.k8s.io", token("YQ"), token("YQ")), 401),
        (format!("{}, v4.channel.k8s.io", token("!")), 401),
        // A byte that no text has.
        (format!("{}, v4.channel.k8s.io", token("_w")), 401),
        (token("YQ"), 401),
        // Neither an empty token nor none is one.
        (format!("{}, v4.channel.k8s.io", token("")), 200),
        ("v4.channel.k8s.io".to_owned(), 200),
    ] {
        assert_eq!(with_subprotocols(&world, &protocols, Some("websocket")).await, status, "{protocols}");
        assert_eq!(with_subprotocols(&world, &protocols, None).await, 200, "{protocols}");
    }
}

// API-020: apiserver/pkg/authentication/group/authenticated_group_adder.go
#[test]
fn group_of_those_who_are_known_is_added_to_nobody_else() {
    let groups = |name: &str, groups: &[&str]| {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        let user = UserInfo { name: name.to_owned(), groups, ..UserInfo::default() };
        crate::server::auth::authenticated(user).groups.join(",")
    };
    assert_eq!(groups("u", &["a"]), "a,system:authenticated");
    assert_eq!(groups("u", &["system:authenticated", "a"]), "system:authenticated,a");
    assert_eq!(groups("u", &["system:unauthenticated"]), "system:unauthenticated");
    assert_eq!(groups("system:anonymous", &["a"]), "a");
}

#[tokio::test(start_paused = true)]
async fn a_streaming_get_needs_create_if_set_so() {
    // INV-02
    for (strict, expected) in [(false, 404), (true, 403)] {
        let mut settings = settings();
        settings.strict_streaming = strict;
        let world = World::with(settings).start().await;
        world.api.tokens.lock().unwrap().insert("t".to_owned(), UserInfo { name: "reader".to_owned(), ..UserInfo::default() });
        world.api.allowed.lock().unwrap().insert("reader get proxy".to_owned());
        let request = Request::builder().uri("/exec/a/b/c?output=1").header("Host", "n1").header("Authorization", "Bearer t");
        let request = request.header("Connection", "Upgrade").header("Upgrade", "websocket").body(Body::empty()).unwrap();
        assert_eq!(world.request(MAIN, request).await.status, expected);
    }
}

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Issuer {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    (params.not_before, params.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2036, 1, 1));
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

struct Leaf {
    usage: ExtendedKeyUsagePurpose,
    last_year: i32,
}

const CLIENT: Leaf = Leaf { usage: ExtendedKeyUsagePurpose::ClientAuth, last_year: 2030 };

fn leaf(issuer: &Issuer, leaf: &Leaf, name: &str) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let mut params = CertificateParams::new(vec!["n1".to_owned()]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![leaf.usage.clone()];
    (params.not_before, params.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(leaf.last_year, 12, 31));
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
}

/// A world whose main listener speaks TLS and trusts clients of `ca`.
async fn with_tls(settings: Settings, ca: &Issuer) -> World {
    let world = World::with(settings);
    let provider = Arc::new(ring::default_provider());
    let client_ca = ClientCa::new(ca.pem().as_bytes(), &provider, true).unwrap();
    let serving = Leaf { usage: ExtendedKeyUsagePurpose::ServerAuth, last_year: 2030 };
    let (certificate, key) = leaf(ca, &serving, "n1");
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(client_ca.clone())
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let gate = Gate::main(world.shared.clone(), world.guard(Some(client_ca)));
    world.serve(MAIN, gate, Some(Arc::new(config))).await;
    world
}

type Client = (CertificateDer<'static>, PrivateKeyDer<'static>);

async fn get_with(world: &World, ca: &Issuer, client: Option<Client>, token: &str) -> Answer {
    get_over(&[&TLS13, &TLS12], world, ca, client, token).await
}

async fn get_over(
    versions: &[&'static rustls::SupportedProtocolVersion],
    world: &World,
    ca: &Issuer,
    client: Option<Client>,
    token: &str,
) -> Answer {
    let mut request = Request::builder().uri("/pods").header("Host", "n1");
    if !token.is_empty() {
        request = request.header("Authorization", format!("Bearer {token}"));
    }
    let client = client.map(|(certificate, key)| (vec![certificate], key));
    over_tls(versions, world, ca, client, request.body(Body::empty()).unwrap()).await
}

async fn over_tls(
    versions: &[&'static rustls::SupportedProtocolVersion],
    world: &World,
    ca: &Issuer,
    client: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    request: Request<Body>,
) -> Answer {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let config = match client {
        Some((chain, key)) => {
            let pair = CertifiedKey::new(chain, provider.key_provider.load_private_key(key).unwrap());
            config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair)))
        }
        None => config.with_no_client_auth(),
    };
    let stream = world.connect(MAIN).await;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect(ServerName::try_from("n1").unwrap(), stream).await.unwrap();
    Answer::of(send(Box::pin(stream), request).await).await
}

// API-020: apiserver/pkg/authentication/authenticatorfactory/delegating.go: who a request is from is what the first says that knows it.
#[tokio::test(start_paused = true)]
async fn certificate_comes_before_token_before_subprotocol_before_nobody() {
    let ca = authority("ca");
    let mut settings = settings();
    settings.auth.anonymous = true;
    let world = with_tls(settings, &ca).await;
    for user in ["bearer", "subprotocol"] {
        world.api.tokens.lock().unwrap().insert(user.to_owned(), UserInfo { name: user.to_owned(), ..UserInfo::default() });
    }
    // base64url of subprotocol
    let protocols = "base64url.bearer.authorization.k8s.io.c3VicHJvdG9jb2w, v4.channel.k8s.io";
    for (first, user) in ["certificate", "bearer", "subprotocol", "system:anonymous"].into_iter().enumerate() {
        let client = (first == 0).then(|| leaf(&ca, &CLIENT, "certificate")).map(|(certificate, key)| (vec![certificate], key));
        let mut request = Request::builder().uri("/pods").header("Host", "n1");
        if first <= 1 {
            request = request.header("Authorization", "Bearer bearer");
        }
        if first <= 2 {
            let upgrade = request.header("Connection", "Upgrade").header("Upgrade", "websocket");
            request = upgrade.header("Sec-WebSocket-Protocol", protocols);
        }
        let answer = over_tls(&[&TLS13], &world, &ca, client, request.body(Body::empty()).unwrap()).await;
        assert_eq!(answer.body, format!("Forbidden (user={user}, verb=get, resource=nodes, subresource(s)=[pods proxy])\n"));
    }
}

// API-021: x509.go: the first certificate is the client's, the others help to find the authority.
#[tokio::test(start_paused = true)]
async fn certificate_may_come_with_what_leads_to_its_authority() {
    let ca = authority("ca");
    let world = with_tls(settings(), &ca).await;
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "between");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (params.not_before, params.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2036, 1, 1));
    let between = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &*ca).unwrap();
    for (sent, status) in [(2, 200), (1, 401)] {
        let (certificate, key) = leaf(&between, &CLIENT, "admin");
        let chain = [certificate, between.der().clone()].into_iter().take(sent).collect();
        let request = Request::builder().uri("/pods").header("Host", "n1").body(Body::empty()).unwrap();
        assert_eq!(over_tls(&[&TLS13], &world, &ca, Some((chain, key)), request).await.status, status);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_certificate_names_its_user_and_groups() {
    // API-021
    let ca = authority("ca");
    let world = with_tls(settings(), &ca).await;
    assert_eq!(get_with(&world, &ca, Some(leaf(&ca, &CLIENT, "admin")), "").await.status, 200);
    let answer = get_with(&world, &ca, Some(leaf(&ca, &CLIENT, "mallory")), "").await;
    assert_eq!(answer.body, "Forbidden (user=mallory, verb=get, resource=nodes, subresource(s)=[pods proxy])\n");
    // No certificate at all is no hindrance for a token, and no credential either.
    assert_eq!(get_with(&world, &ca, None, ADMIN).await.status, 200);
    assert_eq!(get_with(&world, &ca, None, "").await.status, 401);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_does_not_hold_is_no_credential_but_a_token_still_is() {
    // API-021, API-022
    let (ca, other) = (authority("ca"), authority("other"));
    let mut settings = settings();
    settings.auth.anonymous = true;
    let world = with_tls(settings, &ca).await;
    world.api.allowed.lock().unwrap().insert("system:anonymous get pods".to_owned());
    let serving = Leaf { usage: ExtendedKeyUsagePurpose::ServerAuth, last_year: 2030 };
    // It is November 2026 on the node's clock; the world outside may be elsewhere.
    let expired = Leaf { usage: ExtendedKeyUsagePurpose::ClientAuth, last_year: 2025 };
    let bad = || [leaf(&other, &CLIENT, "admin"), leaf(&ca, &serving, "admin"), leaf(&ca, &expired, "admin")];
    for client in bad() {
        assert_eq!(get_with(&world, &ca, Some(client), "").await.status, 401);
    }
    for client in bad() {
        assert_eq!(get_with(&world, &ca, Some(client), ADMIN).await.status, 200);
    }
    // Version 1, which `openssl x509 -req` makes: the handshake is not where it is judged. One of the authority's is good.
    let old = |issuer: &Issuer| {
        let (like, key) = leaf(issuer, &CLIENT, "admin");
        (first_version(&like, issuer.key(), ECDSA_SHA256), key)
    };
    for version in [&TLS12, &TLS13] {
        assert_eq!(get_over(&[version], &world, &ca, Some(old(&other)), "").await.status, 401);
        assert_eq!(get_over(&[version], &world, &ca, Some(old(&other)), ADMIN).await.status, 200);
        assert_eq!(get_over(&[version], &world, &ca, Some(old(&ca)), "nobodys").await.status, 200);
    }
    // Without a name it is no credential, but no error either.
    assert_eq!(get_with(&world, &ca, Some(leaf(&ca, &CLIENT, "")), "").await.status, 200);
}

// Issue 10 (exec-burst): apiserver's webhook authorizer holds that request alone; here none of them makes room for the others meanwhile.
#[tokio::test(start_paused = true)]
async fn burst_of_the_api_server_waits_for_its_review_together() {
    let ca = authority("ca");
    let world = with_tls(settings(), &ca).await;
    *world.api.access_takes.lock().unwrap() = Duration::from_millis(1500);
    let (certificate, key) = leaf(&ca, &CLIENT, "admin");
    let asked = (0..150).map(|_| get_with(&world, &ca, Some((certificate.clone(), key.clone_key())), ""));
    let answers = futures::future::join_all(asked).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(world.api.access_reviews.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "AlertReceived")]
async fn a_certificate_without_its_key_ends_the_handshake() {
    // API-021: what is in a certificate is judged later, who has it is not.
    let ca = authority("ca");
    let world = with_tls(settings(), &ca).await;
    let ((certificate, _), (_, key)) = (leaf(&ca, &CLIENT, "admin"), leaf(&ca, &CLIENT, "admin"));
    let old = first_version(&certificate, ca.key(), ECDSA_SHA256);
    get_over(&[&TLS12], &world, &ca, Some((old, key)), ADMIN).await;
}

#[tokio::test(start_paused = true)]
async fn authority_is_who_may_sign_and_is_of_its_time() {
    // API-021, API-028. x509.go (CheckSignatureFrom): "parent certificate cannot sign this kind of certificate"; verify.go (isValid).
    let now = FakeClock::START.parse().unwrap();
    let made = |change: fn(&mut CertificateParams)| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "monitoring");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        (params.not_before, params.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2036, 1, 1));
        change(&mut params);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    };
    let good = authority("ca");
    // A pinned client, and an authority that ended the day before.
    let pinned: [Issuer; 2] = [made(|it| it.is_ca = IsCa::NoCa), made(|it| it.is_ca = IsCa::ExplicitNoCa)];
    let over = made(|it| (it.is_ca, it.not_after) = (IsCa::Ca(BasicConstraints::Unconstrained), date_time_ymd(2026, 11, 22)));
    let pem: String = [&good, &pinned[0], &pinned[1], &over].map(|it| it.pem()).concat();
    let ca = ClientCa::new(pem.as_bytes(), &ring::default_provider(), true).unwrap();
    let named = |certificate: &CertificateDer<'static>| ca.authenticate(std::slice::from_ref(certificate), now);
    assert_eq!(named(&leaf(&good, &CLIENT, "admin").0).unwrap().unwrap().name, "admin");
    for bad in [&pinned[0], &pinned[1], &over] {
        assert!(named(&leaf(bad, &CLIENT, "system:masters").0).is_err());
    }
    for it in &pinned {
        assert_eq!(named(it.der()).unwrap().unwrap().name, "monitoring");
    }
    assert!(named(over.der()).is_err());
}

#[tokio::test(start_paused = true)]
async fn authorities_between_come_with_the_client() {
    // API-021; and the attribute that is a user's UID: authentication/request/x509 (parseUIDFromCert).
    let now = FakeClock::START.parse().unwrap();
    let root = authority("root");
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "between");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let between: Issuer = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &root).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "admin");
    params.distinguished_name.push(DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 57683, 2]), "42");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let shown = params.signed_by(&KeyPair::generate().unwrap(), &between).unwrap().der().clone();
    let ca = ClientCa::new(root.pem().as_bytes(), &ring::default_provider(), true).unwrap();
    let user = ca.authenticate(&[shown.clone(), between.der().clone()], now).unwrap().unwrap();
    assert_eq!((user.name.as_str(), user.uid.as_str()), ("admin", "42"));
    // AllowParsingUserUIDFromCertAuth
    let without = ClientCa::new(root.pem().as_bytes(), &ring::default_provider(), false).unwrap();
    assert_eq!(without.authenticate(&[shown.clone(), between.der().clone()], now).unwrap().unwrap().uid, "");
    assert!(ca.authenticate(std::slice::from_ref(&shown), now).is_err());
    assert!(ca.authenticate(&[shown, authority("between").der().clone()], now).is_err());
}

#[tokio::test(start_paused = true)]
async fn authorities_can_be_replaced_and_bad_ones_are_not_taken() {
    // API-028
    let (old, new) = (authority("old"), authority("new"));
    let now = FakeClock::START.parse().unwrap();
    let ca = ClientCa::new(old.pem().as_bytes(), &ring::default_provider(), true).unwrap();
    let (certificate, _) = leaf(&new, &CLIENT, "admin");
    assert!(ca.authenticate(std::slice::from_ref(&certificate), now).is_err());
    assert!(ca.replace(b"").is_err());
    let rubbish = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(ca.replace(rubbish.as_bytes()).is_err());
    // cert.NewPoolFromBytes: one that cannot be read spoils the file.
    assert!(ca.replace(format!("{}{rubbish}", new.pem()).as_bytes()).is_err());
    assert!(ca.authenticate(std::slice::from_ref(&certificate), now).is_err());
    ca.replace(new.pem().as_bytes()).unwrap();
    let user = ca.authenticate(&[certificate], now).unwrap().unwrap();
    assert_eq!((user.name.as_str(), user.groups), ("admin", vec!["system:nodes".to_owned()]));
    let (key, ids) = &user.extra[0];
    assert_eq!(key, "authentication.kubernetes.io/credential-id");
    assert!(ids[0].starts_with("X509SHA256=") && ids[0].len() == "X509SHA256=".len() + 64);
}
