use std::sync::Arc;
use std::time::Duration;

use kubelet::event::{Event, Object, WatchKey};
use kubelet::failure::FailureKind;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::client;
use super::fake::{Answer, FakeServer, Part, Seen};
use crate::env::ApiServer as _;

const LIST: &str = "GET /api/v1/pods?fieldSelector=spec.nodeName%3Dn1&limit=500&resourceVersion=0";

fn follow(server: &Arc<FakeServer>, key: WatchKey) -> mpsc::Receiver<Event> {
    let (sink, events) = mpsc::channel(64);
    tokio::spawn(client(server).watch(key, sink));
    events
}

fn pod(name: &str, revision: &str) -> Value {
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "default", "uid": name, "resourceVersion": revision,
            "managedFields": [{"manager": "kubectl"}]},
    })
}

fn list(revision: &str, next: &str, pods: &[&str]) -> Answer {
    let items: Vec<Value> = pods.iter().map(|name| pod(name, "5")).collect();
    Answer::whole(json!({
        "kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": revision, "continue": next}, "items": items,
    }))
}

fn line(kind: &str, object: &Value) -> Part {
    Part::Send(format!("{}\n", json!({"type": kind, "object": object})))
}

fn bookmark(revision: &str) -> Part {
    line("BOOKMARK", &json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": revision}}))
}

fn expired() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Expired", "code": 410,
        "message": "too old resource version: 10 (20)"})
}

/// What an event is, in brief: `listed a b`, `applied a`, `deleted a`, `failed`.
fn brief(event: &Event) -> String {
    let name = |object: &Object| match object {
        Object::Pod(pod) => {
            assert!(pod.metadata.managed_fields.is_none());
            pod.metadata.name.clone().unwrap()
        }
        Object::Service(service) => service.metadata.name.clone().unwrap(),
        Object::Unreadable(unknown) => format!("{} of UID {}, unreadable", unknown.full_name(), unknown.uid),
        other => panic!("{other:?}"),
    };
    match event {
        Event::WatchListed { objects, .. } => {
            objects.iter().fold("listed".to_owned(), |text, object| format!("{text} {}", name(object)))
        }
        Event::WatchApplied { object, .. } => format!("applied {}", name(object)),
        Event::WatchDeleted { object, .. } => format!("deleted {}", name(object)),
        Event::WatchFailed { failure, .. } => format!("failed {}", failure.message),
        other => panic!("{other:?}"),
    }
}

async fn next(events: &mut mpsc::Receiver<Event>) -> String {
    brief(&events.recv().await.unwrap())
}

fn is_watch_from(seen: &Seen, revision: &str) {
    assert_eq!((seen.query("watch"), seen.query("resourceVersion")), ("true", revision), "{}", seen.target);
}

// API-224
#[tokio::test(start_paused = true)]
async fn a_list_is_told_and_then_what_changes() {
    let changes =
        vec![line("ADDED", &pod("b", "11")), line("MODIFIED", &pod("a", "12")), line("DELETED", &pod("a", "13")), Part::Silence];
    let server = FakeServer::with([list("10", "", &["a"]), Answer::ok(changes)]);
    let mut events = follow(&server, WatchKey::Pods);
    assert_eq!(next(&mut events).await, "listed a");
    assert_eq!(next(&mut events).await, "applied b");
    assert_eq!(next(&mut events).await, "applied a");
    assert_eq!(next(&mut events).await, "deleted a");
    let seen = server.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].line(), LIST);
    is_watch_from(&seen[1], "10");
    assert_eq!(seen[1].query("allowWatchBookmarks"), "true");
    assert_eq!(seen[1].query("fieldSelector"), "spec.nodeName%3Dn1");
    let seconds: u64 = seen[1].query("timeoutSeconds").parse().unwrap();
    assert!((300..600).contains(&seconds), "{seconds}");
}

#[tokio::test(start_paused = true)]
async fn an_event_may_come_in_pieces_and_several_in_one() {
    let text = |kind: &str, name: &str| json!({"type": kind, "object": pod(name, "11")}).to_string();
    let all = format!("{}\n\n{}\n", text("ADDED", "a"), text("ADDED", "b"));
    let (first, second) = all.split_at(40);
    let parts =
        vec![Part::Send(first.to_owned()), Part::Wait(Duration::from_secs(1)), Part::Send(second.to_owned()), Part::Silence];
    let server = FakeServer::with([list("10", "", &[]), Answer::ok(parts)]);
    let mut events = follow(&server, WatchKey::Pods);
    assert_eq!(next(&mut events).await, "listed");
    assert_eq!(next(&mut events).await, "applied a");
    assert_eq!(next(&mut events).await, "applied b");
}

// API-224: neither a list nor a pause.
#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_goes_on_from_its_bookmark() {
    let first = vec![line("ADDED", &pod("a", "11")), bookmark("20")];
    let second = vec![line("ADDED", &pod("b", "21")), Part::Wait(Duration::from_millis(10)), Part::Break];
    let third =
        vec![line("ADDED", &pod("c", "22")), Part::Send("{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"resour".to_owned())];
    let server = FakeServer::with([list("10", "", &[]), Answer::ok(first), Answer::ok(second), Answer::ok(third)]);
    let began = Instant::now();
    let mut events = follow(&server, WatchKey::Pods);
    for expected in ["listed", "applied a", "applied b", "applied c"] {
        assert_eq!(next(&mut events).await, expected);
    }
    let seen = server.until_seen(5).await;
    is_watch_from(&seen[2], "20");
    is_watch_from(&seen[3], "21");
    is_watch_from(&seen[4], "22");
    assert!(began.elapsed() < Duration::from_millis(100));
}

// API-224: a list that is not older than what was seen.
#[tokio::test(start_paused = true)]
async fn a_forgotten_place_is_listed_anew() {
    let ends = vec![line("ADDED", &pod("a", "11")), line("ERROR", &expired())];
    let server = FakeServer::with([
        list("10", "", &[]),
        Answer::ok(ends),
        list("30", "", &["b"]),
        Answer::status(410, "Expired", "too old resource version"),
        list("40", "", &["c"]),
    ]);
    let mut events = follow(&server, WatchKey::Pods);
    for expected in ["listed", "applied a", "listed b", "listed c"] {
        assert_eq!(next(&mut events).await, expected);
    }
    let seen = server.until_seen(6).await;
    assert_eq!(seen[2].query("resourceVersion"), "11");
    is_watch_from(&seen[3], "30");
    assert_eq!(seen[4].query("resourceVersion"), "30");
    is_watch_from(&seen[5], "40");
    // The first relist is prompt; a server that forgets again at once is asked with pauses.
    assert!(seen[2].at - seen[1].at < Duration::from_millis(10));
    let pause = seen[4].at - seen[3].at;
    assert!(pause >= Duration::from_millis(800) && pause < Duration::from_millis(1700), "{pause:?}");
}

// A replica of the API server that is behind the one that was asked before.
#[tokio::test(start_paused = true)]
async fn a_server_that_is_behind_is_asked_for_what_is_newest() {
    let server = FakeServer::with([
        list("10", "", &[]),
        Answer::ok(vec![line("ERROR", &expired())]),
        Answer::status(504, "Timeout", "Too large resource version: 10, current: 9"),
        list("12", "", &["a"]),
    ]);
    let mut events = follow(&server, WatchKey::Pods);
    assert_eq!(next(&mut events).await, "listed");
    assert_eq!(next(&mut events).await, "listed a");
    let seen = server.seen();
    assert_eq!((seen[3].query("resourceVersion"), seen[3].query("limit")), ("", "500"));
}

#[tokio::test(start_paused = true)]
async fn pages_are_put_together_and_an_expired_page_means_one_list_in_whole() {
    let newest = || [list("10", "", &[]), Answer::ok(vec![line("ERROR", &expired())]), Answer::status(410, "Expired", "x")];
    let pages = [list("20", "p=2/", &["a"]), list("20", "", &["b"])];
    let server = FakeServer::with(newest().into_iter().chain(pages));
    let mut events = follow(&server, WatchKey::Pods);
    assert_eq!(next(&mut events).await, "listed");
    assert_eq!(next(&mut events).await, "listed a b");
    assert_eq!(server.seen()[4].query("continue"), "p%3D2%2F");
    is_watch_from(&server.until_seen(6).await[5], "20");

    let pages =
        [list("20", "p2", &["a"]), Answer::status(410, "Expired", "the continue token is too old"), list("21", "", &["a", "b"])];
    let server = FakeServer::with(newest().into_iter().chain(pages));
    let mut events = follow(&server, WatchKey::Pods);
    assert_eq!(next(&mut events).await, "listed");
    assert_eq!(next(&mut events).await, "listed a b");
    assert_eq!(server.seen()[5].line(), "GET /api/v1/pods?fieldSelector=spec.nodeName%3Dn1");
}

#[tokio::test(start_paused = true)]
async fn a_list_that_breaks_between_pages_is_not_watched() {
    let server = FakeServer::with([
        list("10", "p2", &["a"]),
        Answer::status(500, "InternalError", "etcd is away"),
        list("11", "", &["a", "b"]),
    ]);
    let mut events = follow(&server, WatchKey::Pods);
    assert_eq!(next(&mut events).await, "failed etcd is away");
    assert_eq!(next(&mut events).await, "listed a b");
    assert_eq!(server.seen()[2].line(), LIST);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_no_list_deletes_nothing() {
    let nothing = Answer::whole(json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": []}));
    let server = FakeServer::with([nothing, Answer::whole("{}"), list("10", "", &["a"])]);
    let mut events = follow(&server, WatchKey::Pods);
    assert_eq!(next(&mut events).await, "failed the list has no resourceVersion");
    assert_eq!(next(&mut events).await, "failed the list has no resourceVersion");
    assert_eq!(next(&mut events).await, "listed a");
}

// kubernetes#125380
#[tokio::test(start_paused = true)]
async fn a_watch_without_its_bookmarks_is_opened_again_on_another_connection() {
    let goes_deaf = vec![bookmark("20"), Part::Silence];
    let server =
        FakeServer::with([list("10", "", &[]), Answer::ok(goes_deaf), Answer::ok(vec![Part::Silence]), list("30", "", &["a"])]);
    let mut events = follow(&server, WatchKey::Pods);
    assert_eq!(next(&mut events).await, "listed");
    assert_eq!(next(&mut events).await, "listed a");
    let seen = server.seen();
    is_watch_from(&seen[2], "20");
    assert_eq!((seen[2].at - seen[1].at).as_secs(), 150);
    assert_ne!(seen[2].connection, seen[1].connection);
    // Known by now to send bookmarks; and after silence from beginning to end, what is true is asked for.
    assert_eq!((seen[3].at - seen[2].at).as_secs(), 150);
    assert_eq!(seen[3].query("resourceVersion"), "20");
}

#[tokio::test(start_paused = true)]
async fn without_bookmarks_silence_may_last_as_long_as_the_watch() {
    let server = FakeServer::with([list("10", "", &[]), Answer::ok(vec![Part::Silence]), list("10", "", &["a"])]);
    let mut events = follow(&server, WatchKey::Pods);
    assert_eq!(next(&mut events).await, "listed");
    assert_eq!(next(&mut events).await, "listed a");
    let seen = server.seen();
    let seconds: u64 = seen[1].query("timeoutSeconds").parse().unwrap();
    assert_eq!((seen[2].at - seen[1].at).as_secs(), seconds + 30);
}

/// One that no reader takes for a pod.
fn wrong(name: &str, revision: &str) -> Value {
    let mut wrong = pod(name, revision);
    wrong["spec"] = json!({"containers": "none"});
    wrong
}

// S3: upstream's types take what the API server stores; here what cannot be read is told as such, and the others are what they are.
#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_read_is_told_and_does_not_stop_the_others() {
    let all = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "10"},
        "items": [pod("a", "5"), wrong("wrong", "6"), pod("b", "7")]});
    let server = FakeServer::with([
        Answer::whole(all),
        Answer::ok(vec![line("ADDED", &wrong("other", "11")), line("DELETED", &wrong("wrong", "12"))]),
        Answer::ok(vec![line("ADDED", &pod("c", "13")), Part::Silence]),
    ]);
    let mut events = follow(&server, WatchKey::Pods);
    assert_eq!(next(&mut events).await, "listed a default/wrong of UID wrong, unreadable b");
    assert_eq!(next(&mut events).await, "applied default/other of UID other, unreadable");
    assert_eq!(next(&mut events).await, "deleted default/wrong of UID wrong, unreadable");
    assert_eq!(next(&mut events).await, "applied c");
    is_watch_from(&server.seen()[2], "12");
}

// S3: what whoever may write an object can put into its managed fields, and kube-apiserver stores (seen with 1.36.2).
#[tokio::test(start_paused = true)]
async fn managed_fields_are_nobodys_business() {
    let deep = "{\"f:a\":".repeat(200) + "{}" + &"}".repeat(200);
    let evil = |name: &str| {
        let fields = format!(r#"[{{"manager":"evil","time":"9999-12-31T23:59:59Z","fieldsType":"FieldsV1","fieldsV1":{deep}}}]"#);
        pod(name, "5").to_string().replace(r#"[{"manager":"kubectl"}]"#, &fields)
    };
    let list = format!(r#"{{"kind":"PodList","apiVersion":"v1","metadata":{{"resourceVersion":"10"}},"items":[{}]}}"#, evil("a"));
    let line = format!("{{\"type\":\"ADDED\",\"object\":{}}}\n", evil("b"));
    let server = FakeServer::with([Answer::whole(list), Answer::ok(vec![Part::Send(line), Part::Silence])]);
    let mut events = follow(&server, WatchKey::Pods);
    assert_eq!(next(&mut events).await, "listed a");
    assert_eq!(next(&mut events).await, "applied b");
}

// Who is not even known cannot be left alone: what is not in the list would count as gone.
#[tokio::test(start_paused = true)]
async fn a_list_with_an_object_of_nobody_deletes_nothing() {
    let all = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "10"}, "items": [{"spec": 1}]});
    let other = json!({"kind": "NodeList", "apiVersion": "v1", "metadata": {"resourceVersion": "10"}, "items": []});
    let server = FakeServer::with([Answer::whole(all), Answer::whole(other), list("10", "", &["a"])]);
    let mut events = follow(&server, WatchKey::Pods);
    assert_eq!(next(&mut events).await, "failed the list has an object of which not even the name can be read");
    assert_eq!(next(&mut events).await, "failed the answer is not a list: its kind is \"NodeList\"");
    assert_eq!(next(&mut events).await, "listed a");
}

// S7: some 260 services of the largest size, 70 MB, and no end to it.
#[tokio::test(start_paused = true)]
async fn a_list_may_be_of_any_size() {
    let service = |number: usize| {
        let metadata =
            json!({"name": format!("s{number}"), "namespace": "ns", "uid": "u", "annotations": {"a": "x".repeat(1 << 20)}});
        json!({"metadata": metadata, "spec": {"clusterIP": "10.0.0.1"}}).to_string()
    };
    let begin = r#"{"kind":"ServiceList","apiVersion":"v1","metadata":{"resourceVersion":"10"},"items":["#;
    let mut parts = vec![Part::Send(begin.to_owned())];
    parts.extend((0..70).map(|number| Part::Send(service(number) + if number < 69 { "," } else { "]}" })));
    let server = FakeServer::with([Answer::ok(parts), Answer::ok(vec![Part::Silence])]);
    let mut events = follow(&server, WatchKey::Services);
    let Some(Event::WatchListed { objects, .. }) = events.recv().await else { panic!("no list") };
    assert_eq!(objects.len(), 70);
    assert!(objects.iter().all(|object| matches!(object, Object::Service(service) if service.metadata.annotations.is_none())));
}

#[tokio::test(start_paused = true)]
async fn a_list_that_stops_coming_is_asked_for_again_on_another_connection() {
    let half = vec![Part::Send(r#"{"kind":"PodList","items":["#.to_owned()), Part::Silence];
    let slow =
        vec![Part::Send(r#"{"metadata":{"resourceVersion":"10"},"items":["#.to_owned()), Part::Wait(Duration::from_secs(59))];
    let slow =
        slow.into_iter().chain([Part::Send("]".to_owned()), Part::Wait(Duration::from_secs(59)), Part::Send("}".to_owned())]);
    let server = FakeServer::with([Answer::ok(half), Answer::ok(slow.collect())]);
    let mut events = follow(&server, WatchKey::Pods);
    assert_eq!(next(&mut events).await, "failed the answer stopped coming");
    assert_eq!(next(&mut events).await, "listed");
    let seen = server.seen();
    assert_ne!(seen[1].connection, seen[0].connection);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_too_large_is_known_and_the_watch_goes_on() {
    let mut large = pod("large", "11");
    large["spec"] = json!({"containers": [{"name": "x".repeat(17 << 20)}]});
    // As API servers write it: in the order of the type's fields.
    let large =
        format!(r#"{{"type":"ADDED","object":{{"kind":"Pod","metadata":{},"spec":{}}}}}"#, large["metadata"], large["spec"]);
    let (first, second) = large.split_at(1 << 20);
    let parts =
        vec![Part::Send(first.to_owned()), Part::Send(format!("{second}\n")), line("ADDED", &pod("a", "12")), Part::Silence];
    let server = FakeServer::with([list("10", "", &[]), Answer::ok(parts)]);
    let mut events = follow(&server, WatchKey::Pods);
    assert_eq!(next(&mut events).await, "listed");
    assert_eq!(next(&mut events).await, "applied default/large of UID large, unreadable");
    assert_eq!(next(&mut events).await, "applied a");
}

#[tokio::test(start_paused = true)]
async fn nonsense_ends_the_stream_but_not_what_was_understood() {
    let nonsense = vec![line("ADDED", &pod("a", "11")), Part::Send("<html>\n".to_owned()), line("ADDED", &pod("b", "12"))];
    let again = vec![line("ADDED", &pod("b", "12")), Part::Silence];
    let server = FakeServer::with([list("10", "", &[]), Answer::ok(nonsense), Answer::ok(again)]);
    let mut events = follow(&server, WatchKey::Pods);
    assert_eq!(next(&mut events).await, "listed");
    assert_eq!(next(&mut events).await, "applied a");
    assert!(next(&mut events).await.starts_with("failed a line of the watch cannot be read"));
    assert_eq!(next(&mut events).await, "applied b");
    is_watch_from(&server.seen()[2], "11");
}

// As upstream's reflector: 0.8 s, doubled, each lengthened by up to itself, at most 30 s.
#[tokio::test(start_paused = true)]
async fn failures_are_told_and_tried_again_with_growing_pauses() {
    let away = || Answer::status(503, "ServiceUnavailable", "apiserver is shutting down");
    let slow = Answer::status(429, "TooManyRequests", "later").header("retry-after", "100");
    let script = (0..7).map(|_| away()).chain([slow, list("10", "", &[])]);
    let server = FakeServer::with(script);
    let mut events = follow(&server, WatchKey::Pods);
    for _ in 0..7 {
        assert_eq!(next(&mut events).await, "failed apiserver is shutting down");
    }
    let Some(Event::WatchFailed { failure, .. }) = events.recv().await else { panic!("no failure") };
    assert_eq!(failure.kind, FailureKind::Throttled { after: Some(Duration::from_secs(100)) });
    assert_eq!(next(&mut events).await, "listed");
    let seen = server.seen();
    let pauses: Vec<f64> = seen.windows(2).map(|pair| (pair[1].at - pair[0].at).as_secs_f64()).collect();
    for (pause, base) in pauses.iter().zip([0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 100.0]) {
        assert!((base..=base * 2.0 + 0.01).contains(pause), "{base}: {pauses:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_closes_each_watch_at_once_is_asked_with_pauses() {
    let empty = || Answer::ok(Vec::new());
    let server = FakeServer::with([list("10", "", &[]), empty(), empty(), empty()]);
    let mut events = follow(&server, WatchKey::Pods);
    assert_eq!(next(&mut events).await, "listed");
    assert!(next(&mut events).await.starts_with("failed very short watch"));
    let seen = server.until_seen(4).await;
    is_watch_from(&seen[3], "10");
    assert!(seen[2].at - seen[1].at >= Duration::from_millis(800));
    assert!(seen[3].at - seen[2].at >= Duration::from_millis(1600));
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_with_its_sink() {
    let server = FakeServer::with([list("10", "", &[])]);
    let (sink, events) = mpsc::channel(1);
    drop(events);
    client(&server).watch(WatchKey::Pods, sink).await;
    assert_eq!(server.seen().len(), 1);
}

// API-224, API-360: what a node identity may list and watch.
#[tokio::test(start_paused = true)]
async fn each_watch_asks_only_for_what_a_node_may_have() {
    let of = |namespace: &str, name: &str| (namespace.to_owned(), name.to_owned());
    let (namespace, name) = of("ns", "cm");
    let map = WatchKey::ConfigMap { namespace, name };
    let (namespace, name) = of("ns", "s.1");
    let secret = WatchKey::Secret { namespace, name };
    let expected = [
        (WatchKey::Node, "/api/v1/nodes?fieldSelector=metadata.name%3Dn1&"),
        (WatchKey::Services, "/api/v1/services?fieldSelector=spec.clusterIP%21%3DNone&"),
        (WatchKey::RuntimeClasses, "/apis/node.k8s.io/v1/runtimeclasses?"),
        (WatchKey::CsiDrivers, "/apis/storage.k8s.io/v1/csidrivers?"),
        (map, "/api/v1/namespaces/ns/configmaps?fieldSelector=metadata.name%3Dcm&"),
        (secret, "/api/v1/namespaces/ns/secrets?fieldSelector=metadata.name%3Ds.1&"),
    ];
    for (key, target) in expected {
        let server = FakeServer::with([]);
        let _events = follow(&server, key);
        assert_eq!(server.until_seen(1).await[0].line(), format!("GET {target}limit=500&resourceVersion=0"));
    }
}

// API-360, FINDINGS A9: the Node authorizer hears of a new pod some milliseconds after the node; what the pod needs is asked for again soon,
// and as seldom as anything else once that lasts. A watch that was open once has no such excuse.
#[tokio::test(start_paused = true)]
async fn an_object_that_the_authorizer_does_not_relate_to_the_node_yet_is_asked_for_soon() {
    let unrelated = || {
        let message = "secrets \"s\" is forbidden: User \"system:node:n1\" cannot list resource \"secrets\" in API group \"\" in the \
                       namespace \"ns\": no relationship found between node 'n1' and this object";
        Answer::status(403, "Forbidden", message)
    };
    let pauses = |seen: &[Seen]| seen.windows(2).map(|pair| (pair[1].at - pair[0].at).as_secs_f64()).collect::<Vec<_>>();
    let key = WatchKey::Secret { namespace: "ns".to_owned(), name: "s".to_owned() };
    let server = FakeServer::with((0..7).map(|_| unrelated()));
    let mut events = follow(&server, key.clone());
    for _ in 0..7 {
        assert!(next(&mut events).await.ends_with("no relationship found between node 'n1' and this object"));
    }
    for (pause, base) in pauses(&server.seen()).iter().zip([0.05, 0.1, 0.2, 0.4, 0.8, 0.8]) {
        assert!((base..=base * 2.0 + 0.01).contains(pause), "{base}: {:?}", pauses(&server.seen()));
    }
    let list = Answer::whole(json!({"kind": "SecretList", "apiVersion": "v1", "metadata": {"resourceVersion": "10"}, "items": []}));
    let server = FakeServer::with([unrelated(), list, unrelated()]);
    let mut events = follow(&server, key);
    assert!(next(&mut events).await.starts_with("failed"));
    assert_eq!(next(&mut events).await, "listed");
    assert!(next(&mut events).await.starts_with("failed"));
    let pauses = pauses(&server.until_seen(4).await);
    assert!(pauses[0] < 0.1 && pauses[2] >= 0.8, "{pauses:?}");
}
