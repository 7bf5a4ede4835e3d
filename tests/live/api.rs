//! The pretend API server as the enclosure's agent sees it, and an administrator's requests to it.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use model::api::ApiModel;
use model::api::authorize::Identity;
use model::api::rest::RestCall;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use wire::apiserver::ApiServer;
use wire::apiserver::pki::{Pki, accept};

use super::enclosure::NODE_IP;

/// Where pods of the tests are.
pub(crate) const NAMESPACE: &str = "/api/v1/namespaces/default";

/// The API server, for as long as this lives. Must be made and used in the enclosure's network.
pub(crate) struct Api {
    server: ApiServer,
    /// The cluster's authority.
    pub(crate) pki: Pki,
    refused: Arc<Mutex<Vec<String>>>,
    runtime: Runtime,
}

impl Api {
    /// Serves on port 6443 of the node; every answer is written down in that file.
    pub(crate) fn start(requests: &Path) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let pki = Pki::new()?;
        let mut model = ApiModel::new(Timestamp::now(), 1);
        model.ca_certificate.clone_from(&pki.ca_certificate);
        let refused = Arc::new(Mutex::new(Vec::new()));
        let witness = Arc::clone(&refused);
        let requests = Mutex::new(File::create(requests)?);
        let server = ApiServer::new(Arc::new(Mutex::new(model)), Arc::new(Timestamp::now), ApiServer::no_faults())
            .with_controllers()
            .with_nodes(pki.node_dialer(|host, port| async move { TcpStream::connect((host, port)).await })?)
            .with_audit(Arc::new(move |who, method, path, code| {
                let mut requests = requests.lock().unwrap_or_else(PoisonError::into_inner);
                // For whoever looks into a failure; the tests do not read it.
                let _written = writeln!(requests, "{} {code} {} {method} {path}", Timestamp::now(), who.user);
                if code == 403 || (method == "DELETE" && code == 404) {
                    witness.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{} {code} {method} {path}", who.user));
                }
            }));
        let tls = pki.server_config(&[NODE_IP, "localhost"])?;
        let listener = runtime.block_on(TcpListener::bind((NODE_IP, 6443)))?;
        let serving = server.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (server, tls) = (serving.clone(), Arc::clone(&tls));
                tokio::spawn(async move {
                    if let Ok((stream, who)) = accept(tls, stream).await {
                        let _ended = server.serve_connection(stream, who).await;
                    }
                });
            }
        });
        Ok(Self { server, pki, refused, runtime })
    }

    /// A kubeconfig of that identity.
    pub(crate) fn kubeconfig(&self, who: &Identity) -> anyhow::Result<String> {
        Ok(self.pki.kubeconfig(&format!("https://{NODE_IP}:6443"), who)?)
    }

    /// Who was refused what (403) so far, and who deleted in vain (404).
    pub(crate) fn refused(&self) -> Vec<String> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn call(&self, method: &str, path: &str, kind: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let call = RestCall { method, path, query, content_type: kind, accept: "application/json", body: &body };
        self.server.with(|model, now| model.rest(now, &Identity::admin(), &call))
    }

    fn must(&self, method: &str, path: &str, kind: &str, body: &Value) -> anyhow::Result<Value> {
        match self.call(method, path, kind, body) {
            (200..300, answer) => Ok(answer),
            (code, status) => bail!("{method} {path}: {code} {}", status["message"]),
        }
    }

    /// An object, or nothing.
    pub(crate) fn get(&self, path: &str) -> anyhow::Result<Option<Value>> {
        match self.call("GET", path, "", &Value::Null) {
            (200, object) => Ok(Some(object)),
            (404, _) => Ok(None),
            (code, status) => bail!("GET {path}: {code} {}", status["message"]),
        }
    }

    /// Makes an object of that kind (`pods`) in the tests' namespace.
    pub(crate) fn create(&self, plural: &str, object: &Value) -> anyhow::Result<Value> {
        self.post(&format!("{NAMESPACE}/{plural}"), object)
    }

    /// Posts an object to a path.
    pub(crate) fn post(&self, path: &str, object: &Value) -> anyhow::Result<Value> {
        self.must("POST", path, "application/json", object)
    }

    /// Changes an object by a merge patch.
    pub(crate) fn patch(&self, path: &str, patch: &Value) -> anyhow::Result<Value> {
        self.must("PATCH", path, "application/merge-patch+json", patch)
    }

    /// Asks for an object's end.
    pub(crate) fn delete(&self, path: &str) -> anyhow::Result<()> {
        self.must("DELETE", path, "application/json", &Value::Null)?;
        Ok(())
    }

    /// Events about a pod: their reasons and messages.
    pub(crate) fn events_about(&self, pod: &str) -> Vec<(String, String)> {
        let listed = self.get(&format!("{NAMESPACE}/events")).ok().flatten().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let about = |event: &&Value| event["involvedObject"]["name"] == pod;
        let events = listed["items"].as_array().into_iter().flatten().filter(about);
        events.map(|event| (text(&event["reason"]), text(&event["message"]))).collect()
    }

    /// Gets what a node answers to a request that the API server carries on to it: a log, for one.
    pub(crate) fn carried(&self, path: &str) -> anyhow::Result<(u16, String)> {
        self.connected(path, async |mut sender| {
            let request = http::Request::get(path).header(http::header::HOST, "api").body(Full::<Bytes>::default())?;
            let response = sender.send_request(request).await?;
            let code = response.status().as_u16();
            let body = response.into_body().collect().await?.to_bytes();
            Ok((code, String::from_utf8_lossy(&body).into_owned()))
        })
    }

    /// Does something with an administrator's connection, within a limit.
    pub(super) fn connected<T>(
        &self,
        what: &str,
        act: impl AsyncFnOnce(SendRequest<Full<Bytes>>) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let limit = Duration::from_secs(20);
        let server = self.server.clone();
        self.runtime.block_on(async move {
            let (here, there) = tokio::io::duplex(1 << 16);
            tokio::spawn(server.serve_connection(there, Some(Identity::admin())));
            let acted = async {
                let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(here)).await?;
                tokio::spawn(connection.with_upgrades());
                act(sender).await
            };
            tokio::time::timeout(limit, acted).await.with_context(|| format!("GET {what}: not within {limit:?}"))?
        })
    }
}

/// A pod for the node of the tests: the fields of its spec are laid over what every such pod has.
pub(crate) fn pod(name: &str, spec: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"nodeName": super::agent::NODE, "terminationGracePeriodSeconds": 1},
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        object["spec"][key] = value.clone();
    }
    object
}

/// A container that runs a shell script; `fields` are laid over it.
pub(crate) fn container(name: &str, script: &str, fields: &Value) -> Value {
    let mut container = json!({"name": name, "image": super::image::BUSYBOX_IMAGE, "command": ["/bin/sh", "-c", script]});
    for (key, value) in fields.as_object().into_iter().flatten() {
        container[key] = value.clone();
    }
    container
}
