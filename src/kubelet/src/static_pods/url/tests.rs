use serde_json::json;

use super::*;
use crate::failure::FailureKind;
use crate::out::Ledger;

fn at(seconds: u64) -> Now {
    Now { mono: Mono::from_start(Duration::from_secs(seconds)), wall: jiff::Timestamp::UNIX_EPOCH }
}

fn url() -> Url {
    let mut config = Config::new("node-1");
    config.static_pods.url = Some("http://example.com/pods".to_owned());
    Url::of(&config).unwrap()
}

/// What an answer asks for, by name, and the events that it makes.
fn answered(url: &mut Url, outcome: Result<&[u8], &str>) -> (Option<Vec<String>>, Vec<Recorded>) {
    let (mut ledger, mut actions, mut recorded) = (Ledger::default(), Vec::new(), Vec::new());
    let mut out = Out::new(&mut ledger, &mut actions, &mut recorded);
    let outcome = outcome.map(<[u8]>::to_vec).map_err(|why| Failure::new(FailureKind::Other, why));
    let pods = url.answered(at(1), "node-1", outcome, &mut out);
    let names = |pods: Vec<Arc<Pod>>| pods.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect();
    (pods.map(names), recorded)
}

fn pod(name: &str) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "x:1"}]}})
}

fn list(pods: &[serde_json::Value]) -> Vec<u8> {
    json!({"apiVersion": "v1", "kind": "PodList", "items": pods}).to_string().into_bytes()
}

fn asks(url: &mut Url, now: Now) -> bool {
    let (mut ledger, mut actions, mut recorded) = (Ledger::default(), Vec::new(), Vec::new());
    url.due(now, &mut Out::new(&mut ledger, &mut actions, &mut recorded));
    !actions.is_empty()
}

// POD-010: at the start, and httpCheckFrequency after each answer (wait.Until counts from the end).
#[test]
fn url_is_asked_at_once_and_then_once_in_a_while() {
    let mut url = url();
    assert!(asks(&mut url, at(0)));
    assert!(!asks(&mut url, at(1)), "one at a time");
    answered(&mut url, Err("connection refused"));
    assert!(!asks(&mut url, at(20)));
    assert!(asks(&mut url, at(21)));
}

// POD-010: pkg/kubelet/config/http.go (extractFromURL): a pod, a list, the same bytes again, an error, an answer that is no pod.
#[test]
fn an_answer_replaces_what_was_and_an_error_leaves_it() {
    let mut url = url();
    let names = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    let one = pod("a").to_string();
    assert_eq!(answered(&mut url, Ok(one.as_bytes())).0, names(&["a-node-1"]));
    assert_eq!(answered(&mut url, Ok(one.as_bytes())).0, None, "nothing new");
    assert_eq!(answered(&mut url, Err("503 Service Unavailable")), (None, Vec::new()));
    assert_eq!(answered(&mut url, Ok(&list(&[pod("a"), pod("b")]))).0, names(&["a-node-1", "b-node-1"]));
    let (pods, told) = answered(&mut url, Ok(b"<html>secret</html>"));
    assert_eq!((pods, told.len()), (None, 1));
    assert!(!told[0].message.contains("secret"), "{told:?}");
    assert_eq!(answered(&mut url, Ok(b"<html>secret</html>")), (None, Vec::new()), "it is told once");
    // What is of the wrong kind is told by its kind: the commonest mistake is a password that looks like a number.
    for (field, value, kind) in
        [("env", json!([{"name": "P", "value": 8_675_309}]), "integer"), ("args", json!("hunter2"), "string")]
    {
        let mut wrong = pod("a");
        wrong["spec"]["containers"][0][field] = value;
        let (pods, told) = answered(&mut url, Ok(wrong.to_string().as_bytes()));
        assert_eq!((pods, told.len()), (None, 1));
        let message = &told[0].message;
        assert!(message.contains(&format!("invalid type: {kind}, expected ")), "{message}");
        assert!(!message.contains("8675309") && !message.contains("hunter2"), "{message}");
    }
    assert_eq!(answered(&mut url, Ok(&list(&[]))).0, names(&[]));
    let mut bad = pod("b");
    bad["spec"]["containers"] = json!([]);
    assert_eq!(answered(&mut url, Ok(&list(&[pod("a"), bad]))).0, None, "one that is wrong spoils the list");
}

// POD-010: an empty answer is an empty set. What it answered before counts again after it, which upstream passes over as known.
#[test]
fn an_empty_answer_is_no_pods() {
    let mut url = url();
    let one = pod("a").to_string();
    answered(&mut url, Ok(one.as_bytes()));
    assert_eq!(answered(&mut url, Ok(b"")).0, Some(Vec::new()));
    assert_eq!(answered(&mut url, Ok(one.as_bytes())).0, Some(vec!["a-node-1".to_owned()]));
}

// POD-006: pkg/kubelet/config/config.go (filterInvalidPods).
#[test]
fn of_two_pods_of_one_name_the_first_counts() {
    let mut second = pod("a");
    second["metadata"]["uid"] = "u2".into();
    let (pods, told) = answered(&mut url(), Ok(&list(&[pod("a"), second])));
    assert_eq!(pods, Some(vec!["a-node-1".to_owned()]));
    let message = "Error validating pod a-node-1_default(u2) from http due to duplicate pod name \"a-node-1\", ignoring";
    assert_eq!((told[0].reason.as_str(), told[0].message.as_str()), ("FailedValidation", message));
}

// POD-010: what is sent is never shown.
#[test]
fn neither_url_nor_headers_show() {
    let mut config = Config::new("n");
    config.static_pods.url = Some("http://user:hunter2@example.com/".to_owned());
    config.static_pods.url_headers = Sensitive::new([("Authorization".to_owned(), vec!["hunter2".to_owned()])].into());
    let (mut ledger, mut actions, mut recorded) = (Ledger::default(), Vec::new(), Vec::new());
    Url::of(&config).unwrap().due(at(0), &mut Out::new(&mut ledger, &mut actions, &mut recorded));
    assert!(actions.len() == 1 && !format!("{actions:?}").contains("hunter2"));
}

// Issue 10 (url-pods): as many as a folder may have; more are told by their number, and what was stays.
#[test]
fn an_answer_may_ask_for_a_thousand_pods() {
    use crate::static_pods::decode::MOST_PODS;

    let mut url = url();
    let pods: Vec<_> = (0..=MOST_PODS).map(|number| pod(&format!("p{number}"))).collect();
    assert_eq!(answered(&mut url, Ok(&list(&pods[..MOST_PODS]))).0.unwrap().len(), MOST_PODS);
    let (none, told) = answered(&mut url, Ok(&list(&pods)));
    let why = "invalid pods list: it has 1001 items, and at most 1000 may be";
    assert_eq!(none, None);
    assert_eq!(told[0].message, format!("Could not process the manifest of staticPodURL: {why}"));
}
