use jiff::Timestamp;
use kubelet::action::ApiCall;
use kubelet::event::{ApiReply, Event, Object, WatchKey};
use kubelet::failure::FailureKind;
use kubelet::ids::PodUid;
use serde_json::{Value, json};

use super::admission::runtime_uid;
use super::authorize::Identity;
use super::request::{Reply, Request, Verb};
use super::resource::named;
use super::store::ChangeKind;
use super::write::DeleteOptions;
use super::{ApiModel, selector::Selector};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + seconds).unwrap()
}

fn model() -> ApiModel {
    ApiModel::new(at(0), 7)
}

fn pod(name: &str, node: &str) -> Value {
    let mut pod =
        json!({"metadata": {"name": name, "labels": {"app": "gold"}}, "spec": {"containers": [{"name": "c", "image": "busybox"}]}});
    if !node.is_empty() {
        pod["spec"]["nodeName"] = node.into();
    }
    pod
}

fn with_pod(node: &str) -> ApiModel {
    let mut model = model();
    model.create(at(1), named("pods"), "default", pod("p", node)).unwrap();
    model
}

fn stored(model: &ApiModel, name: &str) -> Value {
    (*model.get(named("pods"), "default", name).unwrap()).clone()
}

fn refusal(model: &mut ApiModel, who: &Identity, request: Request) -> String {
    let error = model.request(at(5), who, &request).unwrap_err();
    assert_eq!(error.code, 403, "{}", error.message);
    error.message
}

// The input and what a real API server made of it are those of golden/pods.yaml and golden/pod-running.json.
#[test]
fn a_pod_is_filled_in_as_a_real_api_server_fills_it_in() {
    let sent: Value = serde_json::from_str(include_str!("../../testdata/pod-sent.json")).unwrap();
    let expected: Value = serde_json::from_str(include_str!("../../testdata/pod-stored.json")).unwrap();
    let mut model = model();
    model.create(at(1), named("pods"), "default", sent).unwrap();
    model.bind(at(1), "default", "gold-running", "n1").unwrap();
    let got = stored(&model, "gold-running");
    let plain = |pod: &Value| {
        let mut spec = pod["spec"].clone();
        let volume = super::defaults::items(&spec, "volumes")
            .find_map(|v| v["name"].as_str().filter(|n| n.starts_with("kube-api-access-")))
            .unwrap();
        spec = serde_json::from_str(&spec.to_string().replace(volume, "kube-api-access-xxxxx")).unwrap();
        spec
    };
    assert_eq!(serde_json::to_string_pretty(&plain(&got)).unwrap(), serde_json::to_string_pretty(&plain(&expected)).unwrap());
    assert_eq!((&got["status"]["phase"], &got["status"]["qosClass"]), (&json!("Pending"), &json!("Burstable")));
    assert_eq!(got["metadata"]["generation"], 1);
}

#[test]
fn the_same_seed_gives_the_same_uids_and_names() {
    let run = || {
        let mut model = model();
        let sent = json!({"metadata": {"generateName": "p-"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        (*model.create(at(1), named("pods"), "default", sent).unwrap()).clone()
    };
    assert_eq!(run(), run());
    assert_eq!(run()["metadata"]["name"].as_str().unwrap().len(), 7);
    assert_eq!(run()["metadata"]["uid"].as_str().unwrap().len(), 36);
}

#[test]
fn an_image_without_tag_is_always_pulled() {
    let policy = |image: &str| {
        let mut pod = json!({"metadata": {}, "spec": {"containers": [{"name": "c", "image": image}]}});
        super::defaults::pod(&mut pod);
        pod["spec"]["containers"][0]["imagePullPolicy"].clone()
    };
    assert_eq!(policy("reg:5000/a"), "Always");
    assert_eq!(policy("a:latest"), "Always");
    assert_eq!(policy("a:1"), "IfNotPresent");
    assert_eq!(policy("a@sha256:00"), "IfNotPresent");
}

#[test]
fn a_bound_pod_is_marked_and_goes_only_when_its_node_says_so() {
    let mut model = with_pod("n1");
    let uid = stored(&model, "p")["metadata"]["uid"].as_str().unwrap().to_owned();
    let (marked, gone) = model.delete(at(10), named("pods"), "default", "p", &DeleteOptions::default()).unwrap();
    assert!(!gone);
    assert_eq!(marked["metadata"]["deletionTimestamp"], super::write::seconds(at(40)));
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(marked["metadata"]["generation"], 2);
    let call = |uid: &str| ApiCall::DeletePod {
        namespace: "default".to_owned(),
        name: "p".to_owned(),
        uid: PodUid::new(uid),
        grace_seconds: 0,
    };
    let wrong = model.call(at(11), &Identity::node("n1"), &call("other")).unwrap_err();
    assert_eq!(wrong.kind, FailureKind::Conflict);
    assert!(model.call(at(12), &Identity::node("n2"), &call(&uid)).is_err_and(|f| f.kind == FailureKind::Forbidden));
    model.call(at(13), &Identity::node("n1"), &call(&uid)).unwrap();
    assert!(model.get(named("pods"), "default", "p").is_err());
    assert!(matches!(model.call(at(14), &Identity::node("n1"), &call(&uid)), Ok(ApiReply::Done)), "gone is success");
}

// S32: Go's time.Duration counts nanoseconds and wraps: registry/rest/delete.go, BeforeDelete, adds `time.Second * 2^63-1`, which is -1 s.
#[test]
fn deletion_with_the_longest_grace_wraps_as_gos_does() {
    let mut model = with_pod("n1");
    let options = DeleteOptions { grace_seconds: Some(i64::MAX), ..DeleteOptions::default() };
    let (marked, gone) = model.delete(at(10), named("pods"), "default", "p", &options).unwrap();
    assert!(!gone);
    assert_eq!(marked["metadata"]["deletionTimestamp"], super::write::seconds(at(9)));
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], i64::MAX);
}

#[test]
fn grace_can_only_be_shortened() {
    let mut model = with_pod("n1");
    let mut delete = |after: i64, grace: i64| {
        let options = DeleteOptions { grace_seconds: Some(grace), ..DeleteOptions::default() };
        (*model.delete(at(after), named("pods"), "default", "p", &options).unwrap().0).clone()
    };
    assert_eq!(delete(10, 60)["metadata"]["deletionTimestamp"], super::write::seconds(at(70)));
    assert_eq!(delete(20, 90)["metadata"]["deletionGracePeriodSeconds"], 60);
    let shorter = delete(20, 5);
    assert_eq!(shorter["metadata"]["deletionTimestamp"], super::write::seconds(at(15)));
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
}

#[test]
fn unbound_and_ended_pods_vanish_at_once() {
    let mut model = with_pod("");
    assert!(model.delete(at(2), named("pods"), "default", "p", &DeleteOptions::default()).unwrap().1);
    model.create(at(3), named("pods"), "default", pod("q", "n1")).unwrap();
    let mut ended = stored(&model, "q");
    ended["status"]["phase"] = "Succeeded".into();
    model.update(at(4), named("pods"), "default", "q", "status", ended).unwrap();
    assert!(model.delete(at(5), named("pods"), "default", "q", &DeleteOptions::default()).unwrap().1);
}

#[test]
fn finalizers_keep_a_pod_until_the_last_is_gone() {
    let mut model = model();
    let mut guarded = pod("p", "");
    guarded["metadata"]["finalizers"] = json!(["example.com/guard"]);
    model.create(at(1), named("pods"), "default", guarded).unwrap();
    let (object, gone) = model.delete(at(2), named("pods"), "default", "p", &DeleteOptions::default()).unwrap();
    assert!(!gone && object["metadata"]["deletionTimestamp"].is_string());
    let mut freed = (*object).clone();
    freed["metadata"]["finalizers"] = json!([]);
    model.update(at(3), named("pods"), "default", "p", "", freed).unwrap();
    assert!(model.get(named("pods"), "default", "p").is_err());
}

#[test]
fn a_stale_update_conflicts_and_one_that_changes_nothing_is_no_revision() {
    let mut model = with_pod("n1");
    let old = stored(&model, "p");
    let before = model.store.revision();
    model.update(at(2), named("pods"), "default", "p", "", old.clone()).unwrap();
    assert_eq!(model.store.revision(), before);
    let mut newer = old.clone();
    newer["metadata"]["labels"]["x"] = "y".into();
    model.update(at(3), named("pods"), "default", "p", "", newer).unwrap();
    let error = model.update(at(4), named("pods"), "default", "p", "", old).unwrap_err();
    assert_eq!((error.code, error.reason), (409, "Conflict"));
    assert_eq!(
        error.message,
        "Operation cannot be fulfilled on pods \"p\": the object has been modified; please apply your changes to the latest version and \
         try again"
    );
}

#[test]
fn a_main_update_leaves_the_status_and_a_status_update_leaves_the_spec() {
    let mut model = with_pod("n1");
    let mut sent = stored(&model, "p");
    sent["status"]["phase"] = "Running".into();
    sent["spec"]["containers"][0]["image"] = "other:1".into();
    let main = model.update(at(2), named("pods"), "default", "p", "", sent.clone()).unwrap();
    assert_eq!((&main["status"]["phase"], &main["metadata"]["generation"]), (&json!("Pending"), &json!(2)));
    sent["metadata"]["resourceVersion"] = main["metadata"]["resourceVersion"].clone();
    sent["spec"]["containers"][0]["image"] = "third:1".into();
    let status = model.update(at(3), named("pods"), "default", "p", "status", sent.clone()).unwrap();
    assert_eq!((&status["status"]["phase"], &status["spec"]["containers"][0]["image"]), (&json!("Running"), &json!("other:1")));
    sent["metadata"]["resourceVersion"] = status["metadata"]["resourceVersion"].clone();
    sent["spec"]["nodeName"] = "n2".into();
    assert_eq!(model.update(at(4), named("pods"), "default", "p", "", sent).unwrap_err().code, 422);
}

#[test]
fn a_lease_is_renewed_with_its_revision_or_not_at_all() {
    let (mut model, node) = (model(), Identity::node("n1"));
    let lease = json!({"metadata": {"name": "n1", "namespace": "kube-node-lease"}, "spec": {"holderIdentity": "n1"}});
    let created = model.call(at(1), &node, &ApiCall::CreateLease(serde_json::from_value(lease.clone()).unwrap())).unwrap();
    let ApiReply::Lease(created) = created else { panic!("a lease") };
    assert!(matches!(model.call(at(2), &node, &ApiCall::UpdateLease(created.clone())), Ok(ApiReply::Lease(_))));
    let unversioned = model.call(at(3), &node, &ApiCall::UpdateLease(serde_json::from_value(lease).unwrap())).unwrap_err();
    assert_eq!(unversioned.kind, FailureKind::Invalid);
    let again = model.call(at(4), &node, &ApiCall::CreateLease(created)).unwrap_err();
    assert_eq!(again.kind, FailureKind::AlreadyExists);
}

// POD-301, API-226
#[test]
fn a_status_patch_for_a_pod_that_was_made_anew_conflicts() {
    let mut model = with_pod("n1");
    let node = Identity::node("n1");
    let call = |patch: Value| ApiCall::PatchPodStatus { namespace: "default".to_owned(), name: "p".to_owned(), patch };
    let wrong = call(json!({"metadata": {"uid": "gone"}, "status": {"phase": "Running"}}));
    assert_eq!(model.call(at(2), &node, &wrong).unwrap_err().kind, FailureKind::Conflict);
    let right = call(json!({"metadata": {"uid": stored(&model, "p")["metadata"]["uid"]}, "status": {"phase": "Running"}}));
    let ApiReply::Pod(patched) = model.call(at(3), &node, &right).unwrap() else { panic!("a pod") };
    assert_eq!(patched.status.as_ref().unwrap().phase.as_deref(), Some("Running"));
    assert_eq!(stored(&model, "p")["metadata"]["generation"], 1);
}

#[test]
fn watches_tell_of_pods_as_they_come_and_go_for_a_node() {
    let mut model = with_pod("");
    let request = Request::new(Verb::Watch, "pods", "", "").selecting(Selector::field("spec.nodeName", "n1"));
    let mut watch = model.watch(at(2), &Identity::node("n1"), request, None).unwrap();
    model.bind(at(2), "default", "p", "n1").unwrap();
    model.create(at(3), named("pods"), "default", pod("elsewhere", "n2")).unwrap();
    model.delete(at(4), named("pods"), "default", "p", &DeleteOptions::default()).unwrap();
    let now = DeleteOptions { grace_seconds: Some(0), ..DeleteOptions::default() };
    model.delete(at(5), named("pods"), "default", "p", &now).unwrap();
    let kinds: Vec<ChangeKind> = model.watch_changes(&mut watch).unwrap().into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, [ChangeKind::Added, ChangeKind::Modified, ChangeKind::Modified, ChangeKind::Deleted]);
    assert_eq!(watch.revision(), model.store.revision());
    assert!(model.watch_changes(&mut watch).unwrap().is_empty());
    model.create(at(6), named("pods"), "default", pod("r", "n1")).unwrap();
    model.store.compact();
    assert_eq!(model.watch_changes(&mut watch).unwrap_err().code, 410);
}

#[test]
fn the_cores_watch_begins_with_a_list_and_lists_again_after_a_loss() {
    let mut model = with_pod("n1");
    let (mut watch, first) = model.open(at(2), &Identity::node("n1"), &WatchKey::Pods).unwrap();
    assert!(matches!(first, Event::WatchListed { ref objects, .. } if objects.len() == 1));
    model.create(at(2), named("pods"), "default", pod("q", "n1")).unwrap();
    let events = model.changes(&mut watch);
    assert!(matches!(&events[..], [Event::WatchApplied { object: Object::Pod(p), .. }] if p.metadata.name.as_deref() == Some("q")));
    model.create(at(3), named("pods"), "default", pod("r", "n1")).unwrap();
    model.store.compact();
    let events = model.changes(&mut watch);
    assert!(matches!(&events[..], [Event::WatchListed { objects, .. }] if objects.len() == 3));
}

// API-360
#[test]
fn a_node_reads_only_what_its_pods_refer_to() {
    let (mut model, node) = (model(), Identity::node("n1"));
    for name in ["mine", "other"] {
        model.create(at(1), named("secrets"), "default", json!({"metadata": {"name": name}})).unwrap();
    }
    let mut user = pod("p", "n1");
    user["spec"]["containers"][0]["env"] = json!([{"name": "A", "valueFrom": {"secretKeyRef": {"name": "mine", "key": "k"}}}]);
    model.create(at(1), named("pods"), "default", user).unwrap();
    let get = |name: &str| Request::new(Verb::Get, "secrets", "default", name);
    assert!(model.request(at(2), &node, &get("mine")).is_ok());
    assert_eq!(
        refusal(&mut model, &node, get("other")),
        "secrets \"other\" is forbidden: User \"system:node:n1\" cannot get resource \"secrets\" in API group \"\" in the namespace \
         \"default\": no relationship found between node 'n1' and this object"
    );
    refusal(&mut model, &Identity::node("n2"), get("mine"));
    refusal(&mut model, &node, Request::new(Verb::List, "secrets", "default", ""));
    refusal(&mut model, &node, Request::new(Verb::List, "pods", "", ""));
    let message = refusal(&mut model, &node, Request::new(Verb::Get, "nodes", "", "n2"));
    assert!(message.ends_with("node 'n1' cannot read 'n2', only its own Node object"), "{message}");
    let message = refusal(&mut model, &node, Request::new(Verb::Get, "leases", "kube-node-lease", "n2"));
    assert!(message.ends_with("can only access node lease with the same name as the requesting node"), "{message}");
    assert!(model.open(at(2), &node, &WatchKey::Secret { namespace: "default".to_owned(), name: "mine".to_owned() }).is_ok());
}

// API-362
#[test]
fn a_node_changes_neither_its_taints_nor_labels_that_steer_pods() {
    let (mut model, node) = (model(), Identity::node("n1"));
    let labelled = |key: &str| json!({"metadata": {"name": "n1", "labels": {key: "x"}}});
    let create = |body: Value| Request::new(Verb::Create, "nodes", "", "").with(body);
    assert_eq!(
        refusal(&mut model, &node, create(labelled("node-restriction.kubernetes.io/a"))),
        "nodes \"n1\" is forbidden: node \"n1\" is not allowed to set the following labels: node-restriction.kubernetes.io/a"
    );
    model.request(at(1), &node, &create(labelled("kubernetes.io/hostname"))).unwrap();
    let patch = |body: Value| Request::new(Verb::Patch, "nodes", "", "n1").of("status").with(body);
    assert_eq!(
        refusal(&mut model, &node, patch(labelled("foo.kubernetes.io/a"))),
        "nodes \"n1\" is forbidden: is not allowed to modify labels: foo.kubernetes.io/a"
    );
    model.request(at(2), &node, &patch(labelled("node.kubernetes.io/instance-type"))).unwrap();
    let taint =
        Request::new(Verb::Patch, "nodes", "", "n1").with(json!({"spec": {"taints": [{"key": "a", "effect": "NoExecute"}]}}));
    assert_eq!(refusal(&mut model, &node, taint), "nodes \"n1\" is forbidden: node \"n1\" is not allowed to modify taints");
}

// API-361
#[test]
fn a_node_creates_only_mirror_pods_that_it_owns_and_that_refer_to_nothing() {
    let (mut model, node) = (model(), Identity::node("n1"));
    let own = model.create(at(1), named("nodes"), "", json!({"metadata": {"name": "n1"}})).unwrap();
    let create = |body: &Value| Request::new(Verb::Create, "pods", "default", "").with(body.clone());
    let mut mirror = pod("p-n1", "n1");
    assert!(refusal(&mut model, &node, create(&mirror)).ends_with("node \"n1\" can only create mirror pods"));
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    assert!(refusal(&mut model, &node, create(&mirror)).ends_with("with an owner reference set to itself"));
    mirror["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": own["metadata"]["uid"], "controller": true}]);
    let stored = model.request(at(2), &node, &create(&mirror)).unwrap().object().unwrap();
    assert!(stored["spec"].get("serviceAccountName").is_none(), "mirror pods get no service account");
    assert_eq!(runtime_uid(&stored), "x");
    let mut of_user = pod("u-n1", "n1");
    of_user["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    let of_user = model.create(at(2), named("pods"), "default", of_user).unwrap();
    assert_eq!(runtime_uid(&of_user), of_user["metadata"]["uid"], "what a user calls a mirror is nobody's");
    mirror["metadata"]["name"] = "q-n1".into();
    mirror["spec"]["volumes"] = json!([{"name": "v", "configMap": {"name": "c"}}]);
    assert!(refusal(&mut model, &node, create(&mirror)).ends_with("node \"n1\" can not create pods that reference configmaps"));
}

#[test]
fn a_token_is_for_a_pod_of_the_node_and_dies_with_it() {
    let (mut model, node) = (with_pod("n1"), Identity::node("n1"));
    let uid = stored(&model, "p")["metadata"]["uid"].clone();
    let ask = |uid: &Value, seconds: i64| {
        let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": uid});
        Request::new(Verb::Create, "serviceaccounts", "default", "default")
            .of("token")
            .with(json!({"spec": {"audiences": null, "expirationSeconds": seconds, "boundObjectRef": bound}}))
    };
    let token = model.request(at(2), &node, &ask(&uid, 3607)).unwrap().object().unwrap();
    assert_eq!(token["status"]["expirationTimestamp"], super::write::seconds(at(2 + 3607)));
    let text = token["status"]["token"].as_str().unwrap();
    assert_eq!(text.split('.').count(), 3);
    assert_eq!(model.authenticate(at(3), text).unwrap().user, "system:serviceaccount:default:default");
    assert!(model.authenticate(at(5000), text).is_none(), "expired");
    assert!(model.authenticate(at(3), &text.replace('e', "f")).is_none(), "forged");
    refusal(&mut model, &node, ask(&json!(""), 3607));
    assert!(model.request(at(2), &Identity::node("n2"), &ask(&uid, 3607)).is_err_and(|e| e.code == 403));
    assert!(model.request(at(2), &node, &ask(&uid, 60)).is_err_and(|e| e.code == 422));
    let now = DeleteOptions { grace_seconds: Some(0), ..DeleteOptions::default() };
    model.delete(at(4), named("pods"), "default", "p", &now).unwrap();
    assert!(model.authenticate(at(5), text).is_none(), "its pod is gone");
}

#[test]
fn a_dry_run_leaves_nothing_behind() {
    let mut model = model();
    let before = model.store.revision();
    let mut request = Request::new(Verb::Create, "pods", "default", "").with(pod("p", ""));
    request.dry_run = true;
    assert!(matches!(model.request(at(1), &Identity::admin(), &request), Ok(Reply::Created(_))));
    assert_eq!(model.store.revision(), before);
    assert!(model.get(named("pods"), "default", "p").is_err());
}

#[test]
fn what_is_plainly_wrong_is_invalid() {
    let mut model = model();
    let mut create = |body: Value| model.create(at(1), named("pods"), "default", body).unwrap_err();
    assert_eq!(create(json!({"metadata": {"name": "p"}, "spec": {}})).code, 422);
    assert_eq!(create(json!({"metadata": {"name": "P!"}, "spec": pod("p", "")["spec"]})).code, 422);
    let error = model.create(at(1), named("pods"), "nowhere", pod("p", "")).unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (404, "namespaces \"nowhere\" not found"));
    assert_eq!(error.status()["details"], json!({"name": "nowhere", "kind": "namespaces"}));
}

#[test]
fn a_workload_whose_selector_misses_its_own_pods_is_invalid() {
    let mut model = model();
    let mut sent = json!({"metadata": {"name": "web"}, "spec": {"selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": pod("p", "")["spec"]}}});
    let stored = model.create(at(1), named("deployments"), "default", sent.clone()).unwrap();
    let mut changed = (*stored).clone();
    changed["spec"]["template"]["metadata"]["labels"] = json!({"app": "other"});
    assert_eq!(model.update(at(2), named("deployments"), "default", "web", "", changed).unwrap_err().code, 422);
    sent["metadata"]["name"] = "db".into();
    sent["spec"]["selector"]["matchLabels"]["app"] = "db".into();
    assert_eq!(model.create(at(3), named("deployments"), "default", sent).unwrap_err().code, 422);
}

// API-360: the authorizer follows pods by a watch of its own, and may be behind the node's.
#[test]
fn authorizer_that_is_behind_refuses_what_a_new_pod_needs_for_a_while() {
    let (mut model, node) = (model(), Identity::node("n1"));
    model.behind.lag = std::time::Duration::from_secs(2);
    let uses = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}],
            "imagePullSecrets": [{"name": "mine"}]}})
    };
    let get = Request::new(Verb::Get, "secrets", "default", "mine");
    model.create(at(0), named("secrets"), "default", json!({"metadata": {"name": "mine"}})).unwrap();
    model.create(at(1), named("pods"), "default", uses("a")).unwrap();
    let refused = model.request(at(2), &node, &get).unwrap_err();
    assert!(refused.failure().is_unrelated(), "{refused:?}");
    assert!(model.request(at(3), &node, &get).is_ok());
    model.create(at(3), named("pods"), "default", uses("b")).unwrap();
    assert!(model.request(at(3), &node, &get).is_ok(), "the other pod relates them");
}
