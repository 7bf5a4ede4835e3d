//! The agent as a whole, with an API server, a runtime and a machine that answer little.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use http::Request;
use http_body_util::BodyExt as _;
use kubelet::action::{Action, ApiCall, Call, HostCall, Lane, ProbeCall};
use kubelet::event::{Event, ProbeOutcome};
use kubelet::ids::{ActionId, PodUid};

use super::*;
use crate::certificate::self_signed;
use crate::env::Endpoint;
use crate::event_loop::Pulse;
use crate::net::{Servers, SystemNet};
use crate::server::tests::fakes::{FakeApi, FakeClock, FakeHost, FakeNet, FakeRuntime};
use crate::server::tests::{send, settings};
use crate::serving_certificate::ServingCertificate;
use crate::tls::{certified_key, server_config};

fn env(net: &FakeNet) -> Env {
    Env {
        api: Arc::new(FakeApi::default()),
        runtime: Arc::new(FakeRuntime::default()),
        host: Arc::new(FakeHost::default()),
        net: Arc::new(net.clone()),
        clock: Arc::new(FakeClock::new()),
        seed: 7,
        cores: 2,
    }
}

fn serving(settings: Settings) -> Serving {
    let made = self_signed("n1", &[], 1_767_225_600).unwrap();
    let certificate = certified_key(made.certificate.as_bytes(), made.key.as_bytes()).unwrap();
    let tls = server_config(&crate::config::Terms::default(), ServingCertificate::new(Some(certificate)), None).unwrap();
    Serving { settings, tls: Arc::new(tls), client_ca: None }
}

// API-004: pkg/kubelet/server/server.go, ListenAndServeKubeletServer and ListenAndServeKubeletReadOnlyServer: either ends the process; the
// healthz listener, which is another matter, ends nothing (API-003).
#[tokio::test(start_paused = true)]
async fn agent_ends_with_a_listener_that_cannot_be_had() {
    let address: SocketAddr = "10.0.0.1:10250".parse().unwrap();
    type Listener = fn(&mut Settings) -> &mut Option<SocketAddr>;
    let listeners: [(Listener, bool); 3] = [
        (|settings| &mut settings.listeners.https, true),
        (|settings| &mut settings.listeners.read_only, true),
        (|settings| &mut settings.listeners.healthz, false),
    ];
    for (listener, ends) in listeners {
        let net = FakeNet::default();
        let _taken = net.listen(address).await.unwrap();
        let mut settings = settings();
        *listener(&mut settings) = Some(address);
        let agent = Agent::new(Arc::new(Config::new("n1")), env(&net), None);
        let running = agent.run(Some(serving(settings)), CancellationToken::new());
        let ended = tokio::time::timeout(Duration::from_secs(60), running).await;
        let told = ended.ok().map(|ended| ended.unwrap_err().to_string());
        let why = format!("Failed to listen and serve: listen tcp {address}: bind: address already in use");
        assert_eq!(told, ends.then_some(why));
    }
}

// API-321: kubeadm waits for this before there is anything that the node could do: neither API server nor runtime answers.
#[tokio::test(start_paused = true)]
async fn healthz_answers_as_soon_as_the_agent_runs() {
    let net = FakeNet::default();
    let mut settings = settings();
    settings.listeners.healthz = Some("127.0.0.1:10248".parse().unwrap());
    let serving = serving(settings);
    let agent = Agent::new(Arc::new(Config::new("n1")), env(&net), None);
    let asked = async {
        let endpoint = || Endpoint::Tcp { host: "127.0.0.1".to_owned(), port: 10248 };
        let mut stream = net.connect(endpoint()).await;
        for _ in 0..1000 {
            if stream.is_ok() {
                break;
            }
            tokio::task::yield_now().await;
            stream = net.connect(endpoint()).await;
        }
        let request = Request::builder().uri("/healthz").header("Host", "127.0.0.1:10248").body(Body::empty()).unwrap();
        let response = send(stream.expect("it listens"), request).await;
        let status = response.status().as_u16();
        (status, response.into_body().collect().await.unwrap().to_bytes())
    };
    tokio::select! {
        biased;
        ended = agent.run(Some(serving), CancellationToken::new()) => panic!("it ended: {ended:?}"),
        answer = asked => assert_eq!((answer.0, &answer.1[..]), (200, &b"ok"[..])),
    }
}

// API-064: upstream's loop turns once a second (syncTicker). Here what is due makes it turn, and that there is nothing to do must not look
// as if it stood still.
#[tokio::test(start_paused = true)]
async fn idle_loop_turns_often_enough() {
    let agent = Agent::new(Arc::new(Config::new("n1")), env(&FakeNet::default()), None);
    let pulse = agent.handle().pulse().clone();
    assert!(pulse.age().is_none());
    let looked_at = async {
        for _ in 0..60 {
            tokio::time::sleep(Duration::from_secs(61)).await;
            let age = pulse.age().expect("it has turned");
            assert!(age <= Duration::from_secs(11), "{age:?}");
        }
    };
    tokio::select! {
        biased;
        ended = agent.run(None, CancellationToken::new()) => panic!("it ended: {ended:?}"),
        () = looked_at => {}
    }
}

/// After how many events a question is answered that comes while the loop has all these to handle.
async fn answered_after(completions: u64, events: usize) -> usize {
    let net = FakeNet::default();
    let env = env(&net);
    let (sink, sources) = mpsc::channel(SOURCE_BACKLOG);
    let (handle, queries) = handle();
    let limits = LaneLimits { images: 1, sandboxes: 4 };
    let callers = callers(&env.net);
    let mut executor = Executor::new(env.clone(), Instant::now(), callers, sink.clone(), &limits, Arc::default());
    for number in 0..completions {
        let call = Call::Host(HostCall::ReadFile { path: "/nowhere".to_owned() });
        let (id, timeout) = (ActionId((1 << 40) + number), Some(Duration::from_secs(9)));
        executor.start(Action { id, lane: Lane::Host, timeout, pod: None, call });
    }
    for _ in 0..events {
        sink.try_send(Event::RuntimeChanged { pod: PodUid::new("nobody's") }).unwrap();
    }
    let handled = Arc::new(AtomicUsize::new(0));
    let (counted, told) = (Arc::clone(&handled), Arc::clone(&handled));
    let tap: Tap = Box::new(move |_, _, _| {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    let asked = tokio::spawn(async move { handle.ask(move |_, _| told.load(Ordering::Relaxed)).await });
    for _ in 0..2000 {
        tokio::task::yield_now().await;
    }
    let kubelet = Kubelet::new(Arc::new(Config::new("n1")), 1);
    let gauge = LoopGauge::new(Arc::default());
    let (pulse, epoch) = (Pulse::default(), Instant::now());
    let event_loop = EventLoop { kubelet, env, executor, sources, queries, pulse, epoch, tap: Some(tap), gauge };
    tokio::select! {
        biased;
        () = event_loop.run(CancellationToken::new()) => panic!("it ended"),
        answer = asked => answer.unwrap().expect("the loop runs"),
    }
}

// POD-050: the loop hears everyone, however much one of them has to say: watches, the runtime, calls that end.
#[tokio::test(start_paused = true)]
async fn nobody_keeps_the_others_out_of_the_loop() {
    let alone = answered_after(0, 0).await;
    assert!(alone < 10, "{alone}");
    for (completions, events) in [(1000, 0), (0, 1000), (1000, 1000)] {
        let after = answered_after(completions, events).await;
        assert!(after < 200, "answered after {after} events, with {completions} completions and {events} events to handle");
    }
}

// S2, INV-15: however much one pod has set going, and however long the core takes over each end of it, the end of another call waits
// for a few of them and not for all.
#[tokio::test(start_paused = true)]
async fn calls_of_one_pod_that_have_ended_keep_no_others_waiting() {
    let env = env(&FakeNet::default());
    let (sink, _sources) = mpsc::channel(SOURCE_BACKLOG);
    let callers = callers(&env.net);
    let mut executor = Executor::new(env, Instant::now(), callers, sink, &LaneLimits { images: 1, sandboxes: 4 }, Arc::default());
    let start = |executor: &mut Executor, number, lane, call| {
        executor.start(Action { id: ActionId(number), lane, timeout: Some(Duration::from_secs(9)), pod: None, call });
    };
    for number in 0..1000 {
        let path = "/var/lib/kubelet/pods/a/etc-hosts".to_owned();
        start(&mut executor, number, Lane::Host, Call::Host(HostCall::ReadFile { path }));
    }
    for _ in 0..2000 {
        tokio::task::yield_now().await;
    }
    start(&mut executor, 1000, Lane::Lease, Call::Api(ApiCall::GetLease));
    let mut before = 0;
    loop {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        match executor.next().await {
            Event::ApiDone { .. } => break,
            _ => before += 1,
        }
    }
    assert!(before < 50, "after {before} others");
}

// POD-248: the words as recorded of the kubelet, at the probe's own deadline. net/lookup.go (lookupIPAddr): whoever gives up leaves nothing
// behind that another would wait for; here it leaves few threads, its pod's.
#[tokio::test(start_paused = true)]
async fn probes_of_names_that_nobody_answers_for_end_in_time_and_leave_little() {
    let servers = Arc::new(Servers::default());
    let net = SystemNet::by(&servers);
    let env = Env { net: Arc::new(net.clone()), ..env(&FakeNet::default()) };
    let (sink, _sources) = mpsc::channel(SOURCE_BACKLOG);
    let callers = callers(&env.net);
    let mut executor = Executor::new(env, Instant::now(), callers, sink, &LaneLimits { images: 1, sandboxes: 4 }, Arc::default());
    let host = |number| format!("c{number}.blackhole.example");
    for number in 0..200 {
        let call = match number % 2 {
            0 => ProbeCall::Tcp { host: host(number), port: 80 },
            _ => ProbeCall::Grpc { host: host(number), port: 80, service: String::new() },
        };
        let pod = Some(PodUid::new(["a", "b"][usize::from(number > 99)]));
        let (id, began) = (ActionId(number), Instant::now());
        executor.start(Action { id, lane: Lane::Probes, timeout: Some(Duration::from_secs(1)), pod, call: Call::Probe(call) });
        if number % 20 == 19 {
            for _ in 0..20 {
                let Event::ProbeDone { id, outcome: Ok(ProbeOutcome::Failure(why)) } = executor.next().await else { panic!() };
                let host = host(id.0);
                let expected = match id.0 % 2 {
                    0 => format!("dial tcp: lookup {host}: i/o timeout"),
                    _ => format!("timeout: failed to connect service \"{host}:80\" within 1s: context deadline exceeded"),
                };
                assert_eq!(why, expected);
            }
            assert_eq!(began.elapsed(), Duration::from_secs(1));
        }
    }
    assert_eq!(net.looked_up_for_pods(), 2 * 8);
    servers.answer();
}
