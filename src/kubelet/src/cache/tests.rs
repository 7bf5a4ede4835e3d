use super::*;
use crate::action::{Action, ApiCall, Call};
use crate::failure::FailureKind;
use crate::out::Ledger;
use crate::recorder::Recorded;
use jiff::Timestamp;
use serde_json::json;
use std::time::Duration;

struct Bench {
    cache: ObjectCache,
    ledger: Ledger,
    recorded: Vec<Recorded>,
}

impl Bench {
    fn new(detection: ChangeDetection) -> Self {
        Self { cache: ObjectCache::new(detection, false), ledger: Ledger::default(), recorded: Vec::new() }
    }

    fn with<T>(&mut self, act: impl FnOnce(&mut ObjectCache, &mut Out<'_>) -> T) -> (T, Vec<Action>) {
        let mut actions = Vec::new();
        let value = act(&mut self.cache, &mut Out::new(&mut self.ledger, &mut actions, &mut self.recorded));
        (value, actions)
    }

    fn register(&mut self, at: Now, pod: &Pod) -> Vec<Action> {
        self.with(|cache, out| cache.register(at, pod, out)).1
    }

    fn unregister(&mut self, uid: &str) -> Vec<Action> {
        self.with(|cache, out| cache.unregister(&PodUid::new(uid), out)).1
    }

    fn applied(&mut self, object: Object) -> (BTreeSet<PodUid>, Vec<Action>) {
        self.with(|cache, out| cache.applied(&secret_key("s"), object, out))
    }

    fn fetched(&mut self, at: Now, action: &Action, outcome: Result<Object, Failure>) -> BTreeSet<PodUid> {
        self.cache.done(at, &secret_key("s"), action.id, outcome.map(ApiReply::Object))
    }

    fn look(&self) -> Lookup<String> {
        self.cache.lookup_secret("ns", "s").map(|s| s.reveal().metadata.resource_version.clone().unwrap_or_default())
    }
}

fn at(seconds: f64) -> Now {
    Now { mono: Mono::from_start(Duration::from_secs_f64(seconds)), wall: Timestamp::UNIX_EPOCH }
}

fn secret_key(name: &str) -> WatchKey {
    WatchKey::Secret { namespace: "ns".to_owned(), name: name.to_owned() }
}

fn secret(version: &str, immutable: bool) -> Object {
    let secret = json!({"metadata": {"namespace": "ns", "name": "s", "resourceVersion": version}, "immutable": immutable});
    Object::Secret(Sensitive::new(Arc::new(serde_json::from_value(secret).unwrap())))
}

fn pod(uid: &str, secrets: &[&str]) -> Pod {
    let volumes: Vec<_> = secrets.iter().map(|s| json!({"name": s, "secret": {"secretName": s}})).collect();
    let pod = json!({"metadata": {"name": uid, "namespace": "ns", "uid": uid}, "spec": {"containers": [], "volumes": volumes}});
    serde_json::from_value(pod).unwrap()
}

fn calls(actions: &[Action]) -> Vec<String> {
    let name = |key: &WatchKey| match key {
        WatchKey::Secret { name, .. } | WatchKey::ConfigMap { name, .. } => name.clone(),
        other => panic!("{other:?}"),
    };
    actions
        .iter()
        .map(|action| match &action.call {
            Call::Api(ApiCall::Watch(key)) => format!("watch {}", name(key)),
            Call::Api(ApiCall::Unwatch(key)) => format!("unwatch {}", name(key)),
            Call::Api(ApiCall::GetObject { key, cached }) => format!("get {}{}", name(key), if *cached { " cached" } else { "" }),
            other => panic!("a cache does not ask for {other:?}"),
        })
        .collect()
}

fn uids(uids: &[&str]) -> BTreeSet<PodUid> {
    uids.iter().map(PodUid::new).collect()
}

// CFG-010: one watch however many pods; counted per UID, so that a pod that is replaced by its namesake does not close it.
#[test]
fn watch_is_shared_and_closed_with_the_last_reference() {
    let mut bench = Bench::new(ChangeDetection::Watch);
    assert_eq!(calls(&bench.register(at(0.0), &pod("a", &["s"]))), ["watch s"]);
    assert_eq!(calls(&bench.register(at(0.0), &pod("b", &["s"]))), [""; 0]);
    assert_eq!(calls(&bench.register(at(0.0), &pod("b", &["s"]))), [""; 0]);
    assert_eq!(calls(&bench.unregister("a")), [""; 0]);
    assert_eq!(calls(&bench.unregister("b")), ["unwatch s"]);
    assert_eq!(bench.look(), Lookup::NotRegistered);
    assert!(bench.cache.is_empty() && bench.cache.pods.is_empty());
}

// CFG-004
#[test]
fn registering_again_adds_new_names_and_drops_vanished_ones() {
    let mut bench = Bench::new(ChangeDetection::Watch);
    bench.register(at(0.0), &pod("a", &["s", "t"]));
    assert_eq!(calls(&bench.register(at(1.0), &pod("a", &["t", "v"]))), ["watch v", "unwatch s"]);
}

// CFG-011: pending for a second, then upstream's words; the late answer still counts, and wakes.
#[test]
fn first_answer_that_is_late_fails_the_reader_and_heals_when_it_comes() {
    let mut bench = Bench::new(ChangeDetection::Watch);
    bench.register(at(0.0), &pod("a", &["s"]));
    assert_eq!(bench.look(), Lookup::Pending);
    assert_eq!(bench.cache.deadline(), Some(at(1.0).mono));
    assert_eq!(bench.cache.due(at(0.5)), uids(&[]));
    assert_eq!(bench.cache.due(at(1.0)), uids(&["a"]));
    assert_eq!(bench.look(), Lookup::Failed("failed to sync secret cache: timed out waiting for the condition".to_owned()));
    assert_eq!(bench.cache.deadline(), None);
    assert_eq!(bench.applied(secret("1", false)).0, uids(&["a"]));
    assert_eq!(bench.look(), Lookup::Found("1".to_owned()));
}

#[test]
fn refused_watch_is_named_as_the_cause() {
    let mut bench = Bench::new(ChangeDetection::Watch);
    bench.register(at(0.0), &pod("a", &["s"]));
    bench.cache.failed(&secret_key("s"), &Failure::new(FailureKind::Forbidden, "secrets \"s\" is forbidden"));
    assert_eq!(bench.look(), Lookup::Pending);
    let _ = bench.cache.due(at(1.0));
    let text = "failed to sync secret cache: timed out waiting for the condition: secrets \"s\" is forbidden";
    assert_eq!(bench.look(), Lookup::Failed(text.to_owned()));
}

// S3, CFG-015: one that cannot be read fails those who need it, with the reason; what was read before stays.
#[test]
fn secret_that_cannot_be_read_is_missing_unless_it_was_read_before() {
    let unknown = || {
        let (namespace, name, why) = ("ns".to_owned(), "s".to_owned(), "missing field".to_owned());
        Object::Unreadable(Box::new(crate::event::Unreadable {
            namespace,
            name,
            why,
            uid: "u".to_owned(),
            resource_version: "2".to_owned(),
            spec: None,
            mirror: false,
        }))
    };
    let mut bench = Bench::new(ChangeDetection::Watch);
    bench.register(at(0.0), &pod("a", &["s"]));
    assert_eq!(bench.applied(unknown()).0.len(), 1, "its users are told");
    assert_eq!(bench.look(), Lookup::Failed("secret \"s\" cannot be read: missing field".to_owned()));
    assert_eq!(bench.cache.deadline(), None);
    bench.applied(secret("3", false));
    assert_eq!(bench.look(), Lookup::Found("3".to_owned()));
    bench.applied(unknown());
    assert_eq!(bench.look(), Lookup::Found("3".to_owned()));
}

// CFG-015: a deletion is seen at once; a broken watch takes nothing away.
#[test]
fn copy_serves_while_the_api_server_is_away_and_deletion_ends_it() {
    let mut bench = Bench::new(ChangeDetection::Watch);
    bench.register(at(0.0), &pod("a", &["s"]));
    bench.applied(secret("1", false));
    bench.cache.failed(&secret_key("s"), &Failure::new(FailureKind::Unavailable, "connection refused"));
    assert_eq!(bench.look(), Lookup::Found("1".to_owned()));
    let woken = bench.with(|cache, out| cache.deleted(&secret_key("s"), out)).0;
    assert_eq!(woken, uids(&["a"]));
    assert_eq!(bench.look(), Lookup::NotFound);
}

// Differs from CFG-023: what changed wakes its users; a relist of the same version does not.
#[test]
fn only_news_wakes_the_pods_that_use_the_object() {
    let mut bench = Bench::new(ChangeDetection::Watch);
    bench.register(at(0.0), &pod("a", &["s"]));
    bench.register(at(0.0), &pod("b", &["s"]));
    bench.register(at(0.0), &pod("c", &["t"]));
    assert_eq!(bench.applied(secret("1", false)).0, uids(&["a", "b"]));
    let relisted = bench.with(|cache, out| cache.listed(&secret_key("s"), vec![secret("1", false)], out)).0;
    assert_eq!(relisted, uids(&[]));
    assert_eq!(bench.applied(secret("2", false)).0, uids(&["a", "b"]));
    let emptied = bench.with(|cache, out| cache.listed(&secret_key("s"), vec![], out)).0;
    assert_eq!(emptied, uids(&["a", "b"]));
}

// CFG-012: the copy serves until dereferenced, also when the object is recreated meanwhile.
#[test]
fn immutable_object_stops_its_watch_and_keeps_its_copy() {
    let mut bench = Bench::new(ChangeDetection::Watch);
    bench.register(at(0.0), &pod("a", &["s"]));
    assert_eq!(calls(&bench.applied(secret("1", true)).1), ["unwatch s"]);
    assert_eq!(bench.applied(secret("2", false)).0, uids(&[]));
    assert_eq!(bench.look(), Lookup::Found("1".to_owned()));
    assert_eq!(calls(&bench.unregister("a")), [""; 0]);
    assert_eq!(calls(&bench.register(at(1.0), &pod("b", &["s"]))), ["watch s"]);
}

// CFG-001
#[test]
fn standalone_agent_has_no_objects() {
    let mut bench = Bench::new(ChangeDetection::Watch);
    bench.cache = ObjectCache::new(ChangeDetection::Watch, true);
    assert_eq!(calls(&bench.register(at(0.0), &pod("a", &["s"]))), [""; 0]);
    assert_eq!(bench.look(), Lookup::Failed("not supported due to running kubelet in standalone mode".to_owned()));
}

// CFG-020: fetched once, then from the server's cache when it has aged; a new reference wants it as it is now.
#[test]
fn aged_object_is_fetched_again_when_its_pod_is_synced() {
    let mut bench = Bench::new(ChangeDetection::Cache);
    let first = bench.register(at(0.0), &pod("a", &["s"]));
    assert_eq!(calls(&first), ["get s"]);
    assert_eq!(bench.look(), Lookup::Pending);
    assert_eq!(bench.fetched(at(0.1), &first[0], Ok(secret("5", false))), uids(&["a"]));
    assert_eq!(bench.look(), Lookup::Found("5".to_owned()));
    assert_eq!(calls(&bench.register(at(60.0), &pod("a", &["s"]))), [""; 0]);
    let second = bench.register(at(60.1), &pod("a", &["s"]));
    assert_eq!(calls(&second), ["get s cached"]);
    bench.fetched(at(60.2), &second[0], Ok(secret("4", false)));
    assert_eq!(bench.look(), Lookup::Found("5".to_owned()), "an older resourceVersion is ignored (CFG-021)");
    assert_eq!(calls(&bench.register(at(60.3), &pod("b", &["s"]))), ["get s"]);
    assert_eq!(bench.look(), Lookup::Pending);
}

#[test]
fn node_annotation_says_how_long_objects_stay_fresh() {
    let mut bench = Bench::new(ChangeDetection::Cache);
    let node =
        |ttl: &str| serde_json::from_value(json!({"metadata": {"annotations": {"node.alpha.kubernetes.io/ttl": ttl}}})).unwrap();
    bench.cache.node_seen(&node("300"));
    let first = bench.register(at(0.0), &pod("a", &["s"]));
    bench.fetched(at(0.0), &first[0], Ok(secret("5", false)));
    assert_eq!(calls(&bench.register(at(299.0), &pod("a", &["s"]))), [""; 0]);
    let second = bench.register(at(300.0), &pod("a", &["s"]));
    assert_eq!(calls(&second), ["get s cached"]);
    bench.fetched(at(300.0), &second[0], Ok(secret("5", false)));
    // cache_based_manager.go (GetObjectTTLFromNodeFunc, isObjectFresh): each read asks the node; what does not parse is none.
    for (no_number, asked) in [(node("soon"), 360.0), (serde_json::from_value(json!({"metadata": {}})).unwrap(), 420.0)] {
        bench.cache.node_seen(&no_number);
        assert_eq!(calls(&bench.register(at(asked - 1.0), &pod("a", &["s"]))), [""; 0]);
        let again = bench.register(at(asked), &pod("a", &["s"]));
        assert_eq!(calls(&again), ["get s cached"]);
        bench.fetched(at(asked), &again[0], Ok(secret("5", false)));
        bench.cache.node_seen(&node("300"));
    }
}

// CFG-021: an error leaves the copy, NotFound does not.
#[test]
fn failed_refresh_leaves_the_copy_unless_the_object_is_gone() {
    let mut bench = Bench::new(ChangeDetection::Cache);
    let first = bench.register(at(0.0), &pod("a", &["s"]));
    bench.fetched(at(0.0), &first[0], Ok(secret("5", false)));
    let second = bench.register(at(60.0), &pod("a", &["s"]));
    bench.fetched(at(60.0), &second[0], Err(Failure::new(FailureKind::Unavailable, "connection refused")));
    assert_eq!(bench.look(), Lookup::Found("5".to_owned()));
    let third = bench.register(at(61.0), &pod("a", &["s"]));
    assert_eq!(calls(&third), ["get s"], "after an error the server's cache will not do");
    bench.fetched(at(61.0), &third[0], Err(Failure::new(FailureKind::NotFound, "secrets \"s\" not found")));
    assert_eq!(bench.look(), Lookup::NotFound);
    assert_eq!(
        calls(&bench.register(at(61.1), &pod("a", &["s"]))),
        [""; 0],
        "a pod that is woken by the answer does not ask at once"
    );
    assert_eq!(calls(&bench.register(at(61.6), &pod("a", &["s"]))), ["get s"]);
}

// CFG-023: pods that run are synced for the sake of their objects, once in each period.
#[test]
fn aged_object_wakes_its_pods() {
    let mut bench = Bench::new(ChangeDetection::Cache);
    assert_eq!(bench.cache.deadline(), None);
    let first = bench.register(at(0.0), &pod("a", &["s"]));
    bench.fetched(at(1.0), &first[0], Ok(secret("5", false)));
    assert_eq!(bench.cache.deadline(), Some(at(61.0).mono));
    assert_eq!(bench.cache.due(at(60.0)), uids(&[]));
    assert_eq!(bench.cache.due(at(61.0)), uids(&["a"]));
    assert_eq!(bench.cache.deadline(), Some(at(121.0).mono), "a pod that does not read it is not woken again at once");
}

// CFG-022: nothing serves that was not just asked for.
#[test]
fn get_asks_each_time_and_serves_no_old_copy() {
    let mut bench = Bench::new(ChangeDetection::Get);
    let first = bench.register(at(0.0), &pod("a", &["s"]));
    bench.fetched(at(0.0), &first[0], Ok(secret("5", false)));
    let second = bench.register(at(20.0), &pod("a", &["s"]));
    assert_eq!(calls(&second), ["get s"]);
    bench.fetched(at(20.0), &second[0], Err(Failure::new(FailureKind::Unavailable, "connection refused")));
    assert_eq!(bench.look(), Lookup::Failed("connection refused".to_owned()));
}

// API-360, FINDINGS A9: what the authorizer does not grant yet is on its way, asked for again soon, and fails when that lasts.
#[test]
fn object_of_a_pod_that_the_authorizer_does_not_know_yet_is_fetched_again_soon() {
    for detection in [ChangeDetection::Cache, ChangeDetection::Get] {
        let mut bench = Bench::new(detection);
        let pod = pod("a", &["s"]);
        let refusal = || Err(Failure::new(FailureKind::Forbidden, "no relationship found between node 'n1' and this object"));
        let (mut now, mut waits) = (at(0.0), Vec::new());
        loop {
            let fetches = bench.register(now, &pod);
            let woken = bench.fetched(now, &fetches[0], refusal());
            if !woken.is_empty() {
                break;
            }
            assert_eq!(bench.look(), Lookup::Pending);
            assert!(bench.register(now, &pod).is_empty(), "not before its time");
            let next = bench.cache.deadline().unwrap();
            waits.push(next.since(now.mono).as_millis());
            now = Now { mono: next, ..now };
            assert_eq!(bench.cache.due(now).len(), 1, "the pod is synced, and so it is fetched");
        }
        assert_eq!(waits, [50, 100, 200, 400, 800]);
        assert!(matches!(bench.look(), Lookup::Failed(_)));
    }
}
