use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kubelet::action::ApiCall;
use kubelet::event::WatchKey;
use kubelet::failure::FailureKind;
use kubelet::node::certificates::{judge, signing_request};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::connections::Pki;
use super::fake::{Answer, FakeNet, FakeServer, Part};
use super::{access, client_with};
use crate::api::{Access, CertificateRequests, Material, Rotating};
use crate::env::{ApiServer as _, Clock, Net};
use crate::tls::ClientIdentity;

fn csr(conditions: &Value, certificate: Option<&str>) -> Value {
    json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": "csr-x", "uid": "u1", "resourceVersion": "5"},
        "spec": {"request": "", "signerName": "kubernetes.io/kube-apiserver-client-kubelet", "usages": []},
        "status": {"conditions": conditions, "certificate": certificate},
    })
}

fn list(items: &[Value]) -> Answer {
    Answer::whole(json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequestList", "metadata": {"resourceVersion": "7"}, "items": items,
    }))
}

fn event(kind: &str, object: &Value) -> Part {
    Part::Send(format!("{}\n", json!({"type": kind, "object": object})))
}

fn requests(server: &Arc<FakeServer>) -> CertificateRequests {
    let token = Some(Material::Data(b"abcdef.0123456789abcdef".to_vec()));
    let net: Arc<dyn Net> = Arc::new(FakeNet(Arc::clone(server)));
    CertificateRequests::new(Access { token, ..access("http://10.0.0.1:6443") }, &net)
}

fn look(request: Option<&CertificateSigningRequest>) -> Option<Result<Vec<u8>, String>> {
    judge(request, "csr-x", "u1").transpose()
}

// API-191: POST, list by name, watch on from there.
#[tokio::test(start_paused = true)]
async fn request_is_made_and_watched_by_its_name_until_it_is_signed() {
    let approved = json!([{"type": "Approved", "status": "True", "reason": "AutoApproved"}]);
    let server = FakeServer::with([
        Answer::whole(csr(&json!([]), None)),
        list(&[csr(&json!([]), None)]),
        Answer::ok(vec![
            event("MODIFIED", &csr(&approved, None)),
            Part::Wait(Duration::from_secs(20)),
            event("MODIFIED", &csr(&approved, Some("UEVN"))),
            Part::Silence,
        ]),
    ]);
    let requests = requests(&server);
    let made = requests.create(&signing_request(None, b"csr".to_vec())).await.unwrap();
    assert_eq!(made.metadata.uid.as_deref(), Some("u1"));
    assert_eq!(requests.follow("csr-x", look).await, Ok(b"PEM".to_vec()));
    let seen = server.seen();
    let lines: Vec<String> = seen.iter().map(|seen| seen.line()).collect();
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let selected = format!("{path}?fieldSelector=metadata.name%3Dcsr-x");
    let watch = format!("GET {selected}&watch=true&resourceVersion=7&timeoutSeconds=300");
    assert_eq!(lines, [format!("POST {path}"), format!("GET {selected}"), watch]);
    assert!(seen.iter().all(|seen| seen.header("authorization") == "Bearer abcdef.0123456789abcdef"));
    let body: Value = serde_json::from_str(&seen[0].body).unwrap();
    assert_eq!(body["spec"]["usages"], json!(["digital signature", "client auth"]));
    assert_eq!(body["metadata"]["generateName"], "csr-");
}

// API-191: a watch that breaks, a list that fails and a silent server are outlived.
#[tokio::test(start_paused = true)]
async fn request_is_looked_at_again_after_a_broken_watch() {
    let denied = json!([{"type": "Denied", "status": "True", "reason": "No", "message": "never"}]);
    let server = FakeServer::with([
        list(&[csr(&json!([]), None)]),
        Answer::ok(vec![Part::Break]),
        Answer::status(500, "InternalError", "etcd is away"),
        list(&[csr(&json!([]), None)]),
        Answer::ok(vec![event("ERROR", &json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}))]),
        list(&[csr(&denied, None)]),
    ]);
    let began = Instant::now();
    let came = requests(&server).follow("csr-x", look).await;
    assert_eq!(came, Err("certificate signing request is denied, reason: No, message: never".to_owned()));
    assert_eq!(began.elapsed().as_secs(), 3, "a second after each");
}

// API-191
#[tokio::test(start_paused = true)]
async fn request_that_goes_away_is_an_error() {
    let server = FakeServer::with([list(&[csr(&json!([]), None)]), Answer::ok(vec![event("DELETED", &csr(&json!([]), None))])]);
    assert_eq!(requests(&server).follow("csr-x", look).await, Err("csr \"csr-x\" was deleted".to_owned()));
    let server = FakeServer::with([list(&[])]);
    assert_eq!(requests(&server).follow("csr-x", look).await, Err("csr \"csr-x\" was deleted".to_owned()));
}

struct Fixed;

impl Clock for Fixed {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_790_000_000).unwrap()
    }
}

fn identity(pki: &Pki, name: &str) -> ClientIdentity {
    let (certificate, key) = pki.leaf(name);
    ClientIdentity { certificate: certificate.pem().into_bytes(), key: key.serialize_pem().into_bytes() }
}

fn later() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn rotating(pki: &Pki) -> (Access, Arc<Rotating>) {
    let rotating = Arc::new(Rotating::new(Arc::new(Fixed)));
    let access = Access { certificate: None, key: None, rotating: Some(Arc::clone(&rotating)), ..pki.access() };
    (access, rotating)
}

// API-195: what is under way on a connection with the old certificate ends at once, and goes on with the new one.
#[tokio::test(start_paused = true)]
async fn renewed_certificate_closes_every_connection_and_is_shown_on_the_next() {
    let pki = Pki::new("renewed");
    let server = pki.server([]);
    let (access, rotating) = rotating(&pki);
    rotating.replace(identity(&pki, "old"), later());
    let api = client_with(&server, access);
    let (sink, _events) = tokio::sync::mpsc::channel(1);
    tokio::spawn(api.watch(WatchKey::Node, sink));
    server.until_seen(1).await;
    let call = api.call(ApiCall::GetNode);
    let renewal = async {
        server.until_seen(2).await;
        rotating.replace(identity(&pki, "new"), later());
    };
    let (failure, ()) = tokio::join!(call, renewal);
    let message = failure.unwrap_err().message;
    assert!(message.contains("the client certificate was renewed"), "{message}");
    let seen = timeout(Duration::from_secs(5), server.until_seen(3)).await.unwrap();
    let clients: Vec<_> = seen.iter().map(|seen| seen.client.clone().unwrap()).collect();
    assert_eq!(clients, ["old", "old", "new"], "the watch comes again by itself");
    assert!(seen[2].target.contains("watch=true") || seen[2].target.contains("nodes?"), "{}", seen[2].target);
}

// API-190: nothing is asked as nobody; what waits goes on as soon as there is a certificate.
#[tokio::test(start_paused = true)]
async fn node_without_a_certificate_asks_nothing_until_it_has_one() {
    let pki = Pki::new("none-yet");
    let server = pki.server([Answer::status(404, "NotFound", "nodes \"n1\" not found")]);
    let (access, rotating) = rotating(&pki);
    let api = client_with(&server, access);
    let failure = api.call(ApiCall::GetNode).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unavailable);
    assert_eq!(failure.message, "there is no valid client certificate; it is being requested");
    assert!(server.seen().is_empty());
    let expired = Timestamp::from_second(1_789_999_999).unwrap();
    rotating.replace(identity(&pki, "expired"), expired);
    assert_eq!(api.call(ApiCall::GetNode).await.unwrap_err().kind, FailureKind::Unavailable);
    assert!(server.seen().is_empty(), "an expired one is none");
    let began = Instant::now();
    let comes = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        rotating.replace(identity(&pki, "system:node:n1"), later());
    };
    let (answer, ()) = tokio::join!(api.call(ApiCall::GetNode), comes);
    assert_eq!(answer.unwrap_err().kind, FailureKind::NotFound);
    assert_eq!(began.elapsed(), Duration::from_secs(3));
}
