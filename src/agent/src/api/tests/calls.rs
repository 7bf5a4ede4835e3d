use std::time::Duration;

use kubelet::action::ApiCall;
use kubelet::event::{ApiReply, Object, WatchKey};
use kubelet::failure::{Failure, FailureKind};
use kubelet::ids::PodUid;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::fake::{Answer, FakeServer, Part, Seen};
use super::{access, client, client_with};
use crate::env::{AccessReview, ApiServer as _, UserInfo};

/// Makes one call; what the server saw of it, and what came of it.
async fn exchange(call: ApiCall, answer: Answer) -> (Seen, Result<ApiReply, Failure>) {
    let server = FakeServer::with([answer]);
    let reply = client(&server).call(call).await;
    let mut seen = server.seen();
    assert_eq!(seen.len(), 1);
    (seen.remove(0), reply)
}

fn typed<T: DeserializeOwned>(kind: &str, version: &str, namespace: &str) -> Box<T> {
    let object = json!({"kind": kind, "apiVersion": version, "metadata": {"name": "it", "namespace": namespace}, "spec": {}, "involvedObject": {}});
    Box::new(serde_json::from_value(object).unwrap())
}

fn at() -> (String, String) {
    ("ns".to_owned(), "it".to_owned())
}

const JSON: &str = "application/json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// Calls, and what each is in HTTP: line, content type.
fn table() -> Vec<(ApiCall, &'static str, &'static str)> {
    let lease = || typed("Lease", "coordination.k8s.io/v1", "kube-node-lease");
    let csi_node = || typed("CSINode", "storage.k8s.io/v1", "");
    let patch = json!({"status": {}});
    let ((namespace, name), service_account) = (at(), "sa".to_owned());
    let request = Box::new(
        serde_json::from_value(
            json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": {"audiences": ["a"]}}),
        )
        .unwrap(),
    );
    vec![
        (ApiCall::GetNode, "GET /api/v1/nodes/n1", ""),
        (ApiCall::CreateNode(typed("Node", "v1", "")), "POST /api/v1/nodes", JSON),
        (ApiCall::PatchNodeStatus(patch.clone()), "PATCH /api/v1/nodes/n1/status", STRATEGIC),
        (ApiCall::GetLease, "GET /apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1", ""),
        (ApiCall::CreateLease(lease()), "POST /apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", JSON),
        (ApiCall::UpdateLease(lease()), "PUT /apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1", JSON),
        (ApiCall::GetCsiNode, "GET /apis/storage.k8s.io/v1/csinodes/n1", ""),
        (ApiCall::CreateCsiNode(csi_node()), "POST /apis/storage.k8s.io/v1/csinodes", JSON),
        (ApiCall::DeleteCsiNode, "DELETE /apis/storage.k8s.io/v1/csinodes/n1", ""),
        (ApiCall::GetPod { namespace: namespace.clone(), name: name.clone() }, "GET /api/v1/namespaces/ns/pods/it", ""),
        (ApiCall::CreatePod(typed("Pod", "v1", "ns")), "POST /api/v1/namespaces/ns/pods", JSON),
        (
            ApiCall::PatchPodStatus { namespace: namespace.clone(), name: name.clone(), patch: patch.clone() },
            "PATCH /api/v1/namespaces/ns/pods/it/status",
            STRATEGIC,
        ),
        (
            ApiCall::CreateToken { namespace: namespace.clone(), service_account, request },
            "POST /api/v1/namespaces/ns/serviceaccounts/sa/token",
            JSON,
        ),
        (ApiCall::CreateEvent(typed("Event", "v1", "ns")), "POST /api/v1/namespaces/ns/events", JSON),
        (ApiCall::PatchEvent { namespace, name, patch }, "PATCH /api/v1/namespaces/ns/events/it", STRATEGIC),
    ]
}

fn answer_to(call: &ApiCall) -> Value {
    let (kind, version) = match call {
        ApiCall::GetNode | ApiCall::CreateNode(_) | ApiCall::PatchNodeStatus(_) => ("Node", "v1"),
        ApiCall::GetLease | ApiCall::CreateLease(_) | ApiCall::UpdateLease(_) => ("Lease", "coordination.k8s.io/v1"),
        ApiCall::GetCsiNode | ApiCall::CreateCsiNode(_) => ("CSINode", "storage.k8s.io/v1"),
        ApiCall::DeleteCsiNode => ("Status", "v1"),
        ApiCall::CreateToken { .. } => ("TokenRequest", "authentication.k8s.io/v1"),
        ApiCall::CreateEvent(_) | ApiCall::PatchEvent { .. } => ("Event", "v1"),
        _ => ("Pod", "v1"),
    };
    let more =
        if kind == "TokenRequest" { json!({"token": "t", "expirationTimestamp": "2026-01-01T00:00:00Z"}) } else { json!({}) };
    json!({"kind": kind, "apiVersion": version, "metadata": {"name": "it"}, "spec": {"audiences": [], "drivers": []}, "involvedObject": {}, "status": more})
}

// API-226, API-360
#[tokio::test(start_paused = true)]
async fn each_call_is_the_request_that_upstream_makes() {
    for (call, line, kind) in table() {
        let answer = Answer::whole(answer_to(&call));
        let (seen, reply) = exchange(call, answer).await;
        reply.unwrap_or_else(|failure| panic!("{line}: {failure:?}"));
        assert_eq!((seen.line().as_str(), seen.header("content-type")), (line, kind));
        assert_eq!(seen.header("accept"), "application/json");
        assert_eq!(seen.header("user-agent"), format!("keelson/{}", env!("CARGO_PKG_VERSION")));
        assert_eq!(seen.body.is_empty(), kind.is_empty(), "{line}");
    }
}

// API-226
#[tokio::test(start_paused = true)]
async fn a_pod_is_deleted_at_once_and_only_if_it_is_that_one() {
    let call = || {
        let (namespace, name) = at();
        ApiCall::DeletePod { namespace, name, uid: PodUid::new("u1"), grace_seconds: 0 }
    };
    let (seen, reply) = exchange(call(), Answer::whole(json!({"kind": "Pod", "apiVersion": "v1"}))).await;
    assert!(matches!(reply, Ok(ApiReply::Done)));
    assert_eq!(seen.line(), "DELETE /api/v1/namespaces/ns/pods/it");
    let body: Value = serde_json::from_str(&seen.body).unwrap();
    assert_eq!(body, json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0, "preconditions": {"uid": "u1"}}));

    let (_, reply) = exchange(call(), Answer::status(404, "NotFound", "pods \"it\" not found")).await;
    assert!(matches!(reply, Ok(ApiReply::Done)));
    let (_, reply) = exchange(call(), Answer::status(409, "Conflict", "the UID in the precondition (u1) does not match")).await;
    assert_eq!(reply.unwrap_err().kind, FailureKind::Conflict);
}

#[tokio::test(start_paused = true)]
async fn objects_come_from_the_cache_only_if_that_will_do() {
    let secret = json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "it"}, "data": {"k": "djE="}});
    let (namespace, name) = at();
    let key = WatchKey::Secret { namespace, name };
    let (seen, reply) = exchange(ApiCall::GetObject { key: key.clone(), cached: true }, Answer::whole(&secret)).await;
    assert_eq!(seen.line(), "GET /api/v1/namespaces/ns/secrets/it?resourceVersion=0");
    let Ok(ApiReply::Object(Object::Secret(found))) = reply else { panic!("{reply:?}") };
    assert_eq!(found.reveal().data.as_ref().unwrap()["k"].0, b"v1");
    let (seen, _) = exchange(ApiCall::GetObject { key, cached: false }, Answer::whole(&secret)).await;
    assert_eq!(seen.line(), "GET /api/v1/namespaces/ns/secrets/it");
}

#[tokio::test(start_paused = true)]
async fn a_reply_has_no_managed_fields() {
    let node = json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "n1", "managedFields": [{"manager": "kubectl"}]}});
    let (_, reply) = exchange(ApiCall::GetNode, Answer::whole(node)).await;
    let Ok(ApiReply::Node(node)) = reply else { panic!("{reply:?}") };
    assert!(node.metadata.managed_fields.is_none());
}

// API-360: counted, so that a scenario can demand that there were none.
#[tokio::test(start_paused = true)]
async fn what_is_forbidden_is_counted() {
    let refused = || Answer::status(403, "Forbidden", "nodes \"n1\" is forbidden: User \"system:node:n2\" cannot get");
    let server = FakeServer::with([refused(), Answer::status(404, "NotFound", "no"), refused()]);
    let api = client(&server);
    let mut kinds = Vec::new();
    for _ in 0..3 {
        kinds.push(api.call(ApiCall::GetNode).await.unwrap_err().kind);
    }
    assert_eq!(kinds, [FailureKind::Forbidden, FailureKind::NotFound, FailureKind::Forbidden]);
    assert_eq!(api.forbidden_requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn failures_are_classified_by_what_the_server_says() {
    let throttled = |seconds| FailureKind::Throttled { after: Some(Duration::from_secs(seconds)) };
    let cases = [
        (Answer::status(429, "TooManyRequests", "m").header("retry-after", "3"), throttled(3)),
        (Answer::status(401, "Unauthorized", "m"), FailureKind::Unauthorized),
        (Answer::status(409, "AlreadyExists", "m"), FailureKind::AlreadyExists),
        (Answer::status(410, "Expired", "m"), FailureKind::Gone),
        (Answer::status(422, "Invalid", "m"), FailureKind::Invalid),
        (Answer::status(500, "InternalError", "m"), FailureKind::Unavailable),
        (Answer::status(504, "Timeout", "m"), FailureKind::UnknownOutcome),
    ];
    for (answer, kind) in cases {
        let (_, reply) = exchange(ApiCall::CreatePod(typed("Pod", "v1", "ns")), answer).await;
        let failure = reply.unwrap_err();
        assert_eq!((failure.kind, failure.message.as_str()), (kind, "m"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_breaks_off_may_have_been_done_and_a_read_may_be_repeated() {
    let broken = || Answer::ok(vec![Part::Send("{\"kind\":".to_owned()), Part::Wait(Duration::from_secs(1)), Part::Break]);
    let (_, reply) = exchange(ApiCall::CreatePod(typed("Pod", "v1", "ns")), broken()).await;
    assert_eq!(reply.unwrap_err().kind, FailureKind::UnknownOutcome);
    let (_, reply) = exchange(ApiCall::GetNode, broken()).await;
    assert_eq!(reply.unwrap_err().kind, FailureKind::Unavailable);
}

// S20: rest.Request.Name; what cannot be a name is not asked for.
#[tokio::test(start_paused = true)]
async fn what_leads_elsewhere_is_not_asked_for() {
    let server = FakeServer::with([Answer::status(404, "NotFound", "no")]);
    let api = client(&server);
    let claim = |name: &str| ApiCall::GetPersistentVolumeClaim { namespace: "ns".to_owned(), name: name.to_owned() };
    let failure = api.call(claim("a/../../x")).await.unwrap_err();
    assert_eq!(failure, Failure::new(FailureKind::Invalid, "invalid resource name \"a/../../x\": [may not contain '/']"));
    api.call(claim("x?y#z")).await.unwrap_err();
    let seen = server.seen();
    assert_eq!((seen.len(), seen[0].line().as_str()), (1, "GET /api/v1/namespaces/ns/persistentvolumeclaims/x%3Fy%23z"));
}

// S3: a patch whose answer has managed fields that cannot be read was done.
#[tokio::test(start_paused = true)]
async fn managed_fields_of_an_answer_are_nobodys_business() {
    let fields = json!([{"manager": "evil", "time": "9999-12-31T23:59:59Z"}]);
    let pod = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "it", "namespace": "ns", "managedFields": fields}});
    let (_, reply) = exchange(ApiCall::GetPod { namespace: "ns".to_owned(), name: "it".to_owned() }, Answer::whole(pod)).await;
    assert!(matches!(reply, Ok(ApiReply::Pod(pod)) if pod.metadata.managed_fields.is_none()));
}

// API-023
#[tokio::test(start_paused = true)]
async fn a_token_is_reviewed() {
    let review = |status: Value| {
        Answer::whole(
            json!({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {}, "spec": {}, "status": status}),
        )
    };
    let known = json!({"authenticated": true, "user": {"username": "u", "uid": "1", "groups": ["g"], "extra": {"k": ["v"]}}});
    let server = FakeServer::with([review(known), review(json!({"error": "invalid bearer token"}))]);
    let api = client(&server);
    let user = UserInfo {
        name: "u".to_owned(),
        uid: "1".to_owned(),
        groups: vec!["g".to_owned()],
        extra: vec![("k".to_owned(), vec!["v".to_owned()])],
    };
    assert_eq!(api.review_token("t1".to_owned()).await, Ok(Some(user)));
    assert_eq!(api.review_token("t2".to_owned()).await, Ok(None));
    let seen = server.seen();
    assert_eq!(seen[0].line(), "POST /apis/authentication.k8s.io/v1/tokenreviews");
    let body: Value = serde_json::from_str(&seen[0].body).unwrap();
    assert_eq!((&body["kind"], &body["spec"]), (&json!("TokenReview"), &json!({"token": "t1"})));
}

// API-046
#[tokio::test(start_paused = true)]
async fn access_is_reviewed_for_the_own_node() {
    let answer = |status: Value| {
        Answer::whole(
            json!({"kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "metadata": {}, "spec": {}, "status": status}),
        )
    };
    let both = json!({"allowed": true, "denied": true});
    let denied = json!({"allowed": false, "denied": true});
    let server = FakeServer::with(
        [json!({"allowed": true, "denied": false}), json!({"allowed": false}), denied, both].into_iter().map(answer),
    );
    let api = client(&server);
    let user = UserInfo { name: "u".to_owned(), groups: vec!["g".to_owned()], ..UserInfo::default() };
    let review = AccessReview { user, verb: "get".to_owned(), subresource: "log".to_owned() };
    assert_eq!(api.review_access(review.clone()).await, Ok(true));
    assert_eq!(api.review_access(review.clone()).await, Ok(false));
    // S23: webhook.go.
    assert_eq!(api.review_access(review.clone()).await, Ok(false));
    let both = api.review_access(review).await.unwrap_err();
    assert_eq!(both.message, "webhook subject access review returned both allow and deny response");
    let seen = server.seen();
    assert_eq!(seen[0].line(), "POST /apis/authorization.k8s.io/v1/subjectaccessreviews");
    let body: Value = serde_json::from_str(&seen[0].body).unwrap();
    let attributes = json!({"verb": "get", "version": "v1", "resource": "nodes", "subresource": "log", "name": "n1"});
    assert_eq!(body["spec"], json!({"user": "u", "groups": ["g"], "resourceAttributes": attributes}));
}

// A path in the server's URL comes before each request's.
#[tokio::test(start_paused = true)]
async fn the_servers_url_may_have_a_path() {
    let server = FakeServer::with([Answer::status(404, "NotFound", "no")]);
    let api = client_with(&server, access("http://10.0.0.1:6443/k8s/clusters/c1/"));
    api.call(ApiCall::GetNode).await.unwrap_err();
    assert_eq!(server.seen()[0].line(), "GET /k8s/clusters/c1/api/v1/nodes/n1");
}
