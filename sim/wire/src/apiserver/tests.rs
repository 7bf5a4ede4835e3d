use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use model::api::ApiModel;
use model::api::authorize::Identity;
use model::api::request::Verb;
use model::api::resource::named;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::pki::{Pki, accept};
use super::{ApiFault, ApiFaultPlan, ApiServer, NodeStream, WatchFault};

fn start() -> Timestamp {
    Timestamp::from_second(1_790_000_000).unwrap()
}

fn server(faults: ApiFaultPlan) -> ApiServer {
    ApiServer::new(Arc::new(Mutex::new(ApiModel::new(start(), 7))), Arc::new(start), faults)
}

async fn client(server: &ApiServer) -> SendRequest<Full<Bytes>> {
    let (here, there) = tokio::io::duplex(1 << 16);
    tokio::spawn(server.clone().serve_connection(there, Some(Identity::admin())));
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(here)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    sender
}

fn request(method: &str, path: &str, body: &Value) -> Request<Full<Bytes>> {
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let builder =
        Request::builder().method(method).uri(path).header(header::HOST, "api").header(header::CONTENT_TYPE, "application/json");
    builder.body(Full::new(body)).unwrap()
}

async fn send(client: &mut SendRequest<Full<Bytes>>, method: &str, path: &str, body: &Value) -> (StatusCode, Value) {
    let response = client.send_request(request(method, path, body)).await.unwrap();
    let code = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into_owned().into()))
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}})
}

const PODS: &str = "/api/v1/namespaces/default/pods";

/// The next line of a watch, as its type and the name or the revision that it is about; `None` at its end.
async fn told(body: &mut Incoming) -> Option<(String, String)> {
    let frame = body.frame().await?.unwrap().into_data().unwrap();
    let event: Value = serde_json::from_slice(&frame).unwrap();
    let object = &event["object"];
    let about = object["metadata"]["name"].as_str().or(object["reason"].as_str()).unwrap_or("-");
    Some((event["type"].as_str().unwrap().to_owned(), about.to_owned()))
}

fn pair(kind: &str, about: &str) -> Option<(String, String)> {
    Some((kind.to_owned(), about.to_owned()))
}

#[tokio::test(start_paused = true)]
async fn objects_are_created_listed_in_pages_and_deleted_over_http() {
    let server = server(ApiServer::no_faults());
    let mut client = client(&server).await;
    assert_eq!(send(&mut client, "GET", "/livez", &Value::Null).await, (StatusCode::OK, "ok".into()));
    for name in ["a", "b", "c"] {
        assert_eq!(send(&mut client, "POST", PODS, &pod(name)).await.0, StatusCode::CREATED);
    }
    let (code, again) = send(&mut client, "POST", PODS, &pod("a")).await;
    assert_eq!((code, &again["reason"]), (StatusCode::CONFLICT, &json!("AlreadyExists")));
    let (_, first) = send(&mut client, "GET", &format!("{PODS}?limit=2"), &Value::Null).await;
    assert_eq!((first["items"].as_array().unwrap().len(), &first["metadata"]["remainingItemCount"]), (2, &json!(1)));
    let next = first["metadata"]["continue"].as_str().unwrap();
    let (_, second) = send(&mut client, "GET", &format!("{PODS}?limit=2&continue={next}"), &Value::Null).await;
    assert_eq!(second["items"][0]["metadata"]["name"], "c");
    let (_, deleted) = send(&mut client, "DELETE", &format!("{PODS}/a?gracePeriodSeconds=7"), &Value::Null).await;
    assert_eq!(deleted["metadata"]["deletionGracePeriodSeconds"], 7);
    assert_eq!(send(&mut client, "GET", "/apis/none/v1/things", &Value::Null).await.0, StatusCode::NOT_FOUND);
}

// API-224
#[tokio::test(start_paused = true)]
async fn a_streaming_list_ends_with_its_bookmark_and_goes_on_as_a_watch() {
    let server = server(ApiServer::no_faults());
    let mut one = client(&server).await;
    send(&mut one, "POST", PODS, &pod("a")).await;
    let query = "/api/v1/pods?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true\
                 &fieldSelector=spec.nodeName%3Dn1&timeoutSeconds=90";
    let mut other = client(&server).await;
    let mut body = other.send_request(request("GET", query, &Value::Null)).await.unwrap().into_body();
    assert_eq!(told(&mut body).await, pair("ADDED", "a"));
    assert_eq!(told(&mut body).await, pair("BOOKMARK", "-"));
    send(&mut one, "POST", PODS, &pod("b")).await;
    assert_eq!(told(&mut body).await, pair("ADDED", "b"));
    assert_eq!(told(&mut body).await, pair("BOOKMARK", "-"), "after a quiet minute");
    assert_eq!(told(&mut body).await, pair("BOOKMARK", "-"), "at its end");
    assert_eq!(told(&mut body).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_watch_from_a_lost_revision_is_told_so_inside_the_stream() {
    let server = server(ApiServer::no_faults());
    server.with(|model, _| model.store.compact());
    let mut client = client(&server).await;
    let response = client.send_request(request("GET", "/api/v1/pods?watch=1&resourceVersion=2", &Value::Null)).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body();
    assert_eq!(told(&mut body).await, pair("ERROR", "Expired"));
    assert_eq!(told(&mut body).await, None);
}

#[tokio::test(start_paused = true)]
async fn open_watches_can_be_ended_expired_and_silenced() {
    let server = server(ApiServer::no_faults());
    let mut writer = client(&server).await;
    let mut bodies = Vec::new();
    for _ in 0..3 {
        let mut client = client(&server).await;
        let response = client.send_request(request("GET", "/api/v1/pods?watch=1&timeoutSeconds=100", &Value::Null)).await.unwrap();
        bodies.push((client, response.into_body()));
    }
    send(&mut writer, "POST", PODS, &pod("a")).await;
    for (_, body) in &mut bodies {
        assert_eq!(told(body).await, pair("ADDED", "a"));
    }
    server.break_watches(WatchFault::Silence, Arc::new(|_, _| true));
    // The fault must have been seen before the next change is.
    tokio::time::sleep(Duration::from_millis(1)).await;
    send(&mut writer, "POST", PODS, &pod("b")).await;
    for (_, body) in &mut bodies {
        let heard = tokio::time::timeout(Duration::from_secs(500), told(body)).await;
        assert!(heard.is_err(), "a silent watch does not even end");
    }
    server.break_watches(WatchFault::Expired, Arc::new(|_, request| request.resource.plural == "pods"));
    for (_, body) in &mut bodies {
        assert_eq!(told(body).await, pair("ERROR", "Expired"));
        assert_eq!(told(body).await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_took_effect_and_a_refusal_and_a_reset_did_not() {
    let plan: ApiFaultPlan = Arc::new(|_, request| match (request.verb, request.body["metadata"]["name"].as_str()) {
        (Verb::Create, Some("lost")) => ApiFault::Lost,
        (Verb::Create, Some("reset")) => ApiFault::Reset,
        (Verb::Create, Some("throttled")) => ApiFault::Refuse { code: 429, after: Some(Duration::from_secs(3)) },
        _ => ApiFault::None,
    });
    let server = server(plan);
    for name in ["lost", "reset"] {
        let broken = client(&server).await.send_request(request("POST", PODS, &pod(name))).await;
        assert!(broken.is_err(), "{name}");
    }
    let throttled = client(&server).await.send_request(request("POST", PODS, &pod("throttled"))).await.unwrap();
    assert_eq!(
        (throttled.status(), &throttled.headers()[header::RETRY_AFTER]),
        (StatusCode::TOO_MANY_REQUESTS, &"3".parse().unwrap())
    );
    let stored = |name: &str| server.with(|model, _| model.get(named("pods"), "default", name).is_ok());
    assert_eq!((stored("lost"), stored("reset"), stored("throttled")), (true, false, false));
}

#[tokio::test(start_paused = true)]
async fn a_bad_token_is_unauthorized_and_nobody_in_particular_may_do_nothing() {
    let server = server(ApiServer::no_faults());
    let (here, there) = tokio::io::duplex(1 << 16);
    tokio::spawn(server.clone().serve_connection(there, None));
    let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(here)).await.unwrap();
    tokio::spawn(connection);
    assert_eq!(send(&mut client, "GET", PODS, &Value::Null).await.0, StatusCode::FORBIDDEN);
    let mut forged = request("GET", PODS, &Value::Null);
    forged.headers_mut().insert(header::AUTHORIZATION, "Bearer a.b.c".parse().unwrap());
    assert_eq!(client.send_request(forged).await.unwrap().status(), StatusCode::UNAUTHORIZED);
}

/// A node that speaks HTTPS: it echoes the path it was asked for, refuses logs of `young`, and upgrades `exec`.
async fn node(pki: Arc<Pki>, stream: tokio::io::DuplexStream, seen: Arc<Mutex<Vec<Option<Identity>>>>) {
    let (stream, identity) = accept(pki.server_config(&["10.77.0.1"]).unwrap(), stream).await.unwrap();
    seen.lock().unwrap().push(identity);
    let service = hyper::service::service_fn(|mut request: Request<Incoming>| async move {
        let path = request.uri().to_string();
        let mut response = http::Response::new(Full::new(Bytes::from(path.clone())));
        if path.contains("/young/") {
            *response.status_mut() = StatusCode::BAD_REQUEST;
            *response.body_mut() =
                Full::new(Bytes::from("container \"c\" in pod \"young\" is waiting to start: ContainerCreating"));
        } else if path.starts_with("/exec") {
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            for name in [header::CONNECTION, header::UPGRADE] {
                let value = request.headers()[&name].clone();
                response.headers_mut().insert(name, value);
            }
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut stream = TokioIo::new(upgrade.await.unwrap());
                stream.write_all(path.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            });
        }
        Ok::<_, std::convert::Infallible>(response)
    });
    let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
    served.await.unwrap();
}

async fn cluster_with_node() -> (SendRequest<Full<Bytes>>, Arc<Mutex<Vec<Option<Identity>>>>) {
    let pki = Arc::new(Pki::new().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (to, witnesses) = (Arc::clone(&pki), Arc::clone(&seen));
    let dialer = pki.node_dialer(move |host, port| {
        assert_eq!((host.as_str(), port), ("10.77.0.1", 10250));
        let (here, there) = tokio::io::duplex(1 << 16);
        tokio::spawn(node(Arc::clone(&to), there, Arc::clone(&witnesses)));
        async move { Ok(here) }
    });
    let server = server(ApiServer::no_faults()).with_nodes(dialer.unwrap());
    server.with(|model, now| {
        let status = json!({"addresses": [{"type": "InternalIP", "address": "10.77.0.1"}]});
        model.create(now, named("nodes"), "", json!({"metadata": {"name": "n1"}, "status": status})).unwrap();
        for name in ["p", "young"] {
            model.create(now, named("pods"), "default", pod(name)).unwrap();
        }
    });
    (client(&server).await, seen)
}

// API-340, API-341
#[tokio::test]
async fn logs_and_proxied_requests_reach_the_node_as_an_administrators() {
    let (mut client, seen) = cluster_with_node().await;
    let (_, logs) = send(&mut client, "GET", &format!("{PODS}/p/log?follow=true&tailLines=5&other=1"), &Value::Null).await;
    assert_eq!(logs, "/containerLogs/default/p/c?follow=true&tailLines=5");
    assert!(seen.lock().unwrap()[0].as_ref().unwrap().is_admin());
    let (_, proxied) =
        send(&mut client, "GET", "/api/v1/nodes/n1/proxy/stats/summary?only_cpu_and_memory=true", &Value::Null).await;
    assert_eq!(proxied, "/stats/summary?only_cpu_and_memory=true");
    let (code, status) = send(&mut client, "GET", &format!("{PODS}/young/log"), &Value::Null).await;
    assert_eq!((code, &status["reason"]), (StatusCode::BAD_REQUEST, &json!("BadRequest")));
    assert_eq!(status["message"], "container \"c\" in pod \"young\" is waiting to start: ContainerCreating");
    let (code, status) = send(&mut client, "GET", &format!("{PODS}/p/log?container=x"), &Value::Null).await;
    assert_eq!((code, &status["message"]), (StatusCode::BAD_REQUEST, &json!("container x is not valid for pod p")));
}

#[tokio::test]
async fn an_exec_joins_the_two_connections_and_a_new_websocket_falls_back() {
    let (mut client, _) = cluster_with_node().await;
    let path = format!("{PODS}/p/exec?command=a%20b&command=c&stdout=true&tty=false");
    let upgrade = |protocol: (&str, &str)| {
        let mut request = request("POST", &path, &Value::Null);
        for (name, value) in [("connection", "Upgrade"), ("upgrade", "SPDY/3.1"), protocol] {
            request.headers_mut().insert(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        request
    };
    let newer = client.send_request(upgrade(("sec-websocket-protocol", "v5.channel.k8s.io"))).await.unwrap();
    assert_eq!(newer.status(), StatusCode::FORBIDDEN);
    newer.into_body().collect().await.unwrap();
    let mut response = client.send_request(upgrade(("x-stream-protocol-version", "v4.channel.k8s.io"))).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut stream = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
    let mut heard = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut heard).await.unwrap();
    assert_eq!(heard, "/exec/default/p/c?command=a%20b&command=c&output=1");
}

#[tokio::test]
async fn a_client_certificate_names_the_node_that_shows_it() {
    let pki = Pki::new().unwrap();
    let config = pki.server_config(&["10.96.0.1"]).unwrap();
    let (here, there) = tokio::io::duplex(1 << 16);
    let accepting = tokio::spawn(accept(config, there));
    let streams = Mutex::new(Some(here));
    let dialer = pki.node_dialer(move |_, _| {
        let stream = streams.lock().unwrap().take().unwrap();
        async move { Ok(stream) }
    });
    let _stream: Box<dyn NodeStream> = dialer.unwrap()("10.96.0.1".to_owned(), 1).await.unwrap();
    let (_, identity) = accepting.await.unwrap().unwrap();
    assert_eq!(identity, Some(Identity::new("kube-apiserver-kubelet-client", &["system:masters", "system:authenticated"])));
    let kubeconfig = pki.kubeconfig("https://127.0.0.1:6443", &Identity::node("n1")).unwrap();
    assert!(kubeconfig.contains("current-context: keelson") && kubeconfig.contains("system:node:n1"));
}
