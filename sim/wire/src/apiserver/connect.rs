//! Requests that are carried on to a node's agent: logs, exec, attach, port-forward, proxy.
//! Upstream: pkg/registry/core/pod/strategy.go (LogLocation, ExecLocation), pkg/kubelet/client (API-340, API-341).
//! Differs: WebSockets go to the node as they are, or are refused so that clients fall back to SPDY; nothing is translated.

use std::io;

use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use model::api::authorize::Identity;
use model::api::error::ApiError;
use model::api::request::{Request as ApiRequest, Verb};
use model::api::rest::Connect;
use serde_json::Value;

use super::ApiServer;
use super::handler::{Body, refusal, text_response};

/// Where a request goes.
struct Destination {
    host: String,
    port: u16,
    path: String,
    /// Whether the agent there speaks the newer WebSocket protocols (API-109).
    websockets: bool,
    logs: bool,
}

impl ApiServer {
    /// Carries a request on to its node and brings back the answer, or joins the two connections.
    pub(super) async fn connect(&self, who: &Identity, connect: Connect, request: Request<Incoming>) -> Response<Body> {
        let destination = match self.destination(who, &connect) {
            Ok(destination) => destination,
            Err(error) => return refusal(&error),
        };
        let offered: Vec<&str> = request
            .headers()
            .get_all(header::SEC_WEBSOCKET_PROTOCOL)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(',').map(str::trim))
            .collect();
        let newer = |p: &&str| matches!(*p, "v5.channel.k8s.io" | "SPDY/3.1+portforward.k8s.io");
        if !destination.websockets && !offered.is_empty() && offered.iter().all(newer) {
            return refusal(&ApiError::new(403, "Forbidden", "unable to upgrade: no supported subprotocol requested"));
        }
        let Some(dial) = &self.nodes else {
            return refusal(&ApiError::new(503, "ServiceUnavailable", "this cluster has no way to its nodes"));
        };
        let logs = destination.logs;
        let carried = match dial(destination.host.clone(), destination.port).await {
            Ok(stream) => carry(TokioIo::new(stream), &destination, request).await,
            Err(error) => Err(error),
        };
        match carried {
            Ok(response) if logs && !response.status().is_success() => log_error(response).await,
            Ok(response) => response,
            Err(error) => {
                let message = format!("error dialing backend: {error}");
                refusal(&ApiError::new(500, "InternalError", format!("Internal error occurred: {message}")))
            }
        }
    }

    fn destination(&self, who: &Identity, connect: &Connect) -> Result<Destination, ApiError> {
        let request = &connect.request;
        let get = |key: &str| connect.query.iter().find(|(k, _)| k == key).map_or("", |(_, v)| v.as_str());
        self.with(|model, now| {
            let read = ApiRequest { subresource: String::new(), verb: Verb::Get, ..request.clone() };
            let object = model.request(now, who, &read)?.object().ok_or_else(ApiError::no_such_path)?;
            if request.resource.plural == "nodes" {
                let query = encode(&connect.query);
                return destination_on(&object, format!("/{}{query}", connect.tail), false);
            }
            let (namespace, name) = (&request.namespace, &request.name);
            let Some(node_name) = object["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) else {
                return Err(ApiError::bad_request(format!("pod {name} does not have a host assigned")));
            };
            let node = model.get(model::api::resource::named("nodes"), "", node_name)?;
            let path = match request.subresource.as_str() {
                "portforward" => format!("/portForward/{namespace}/{name}{}", encode(&ports(&connect.query))),
                "log" => {
                    let container = container_of(&object, get("container"))?;
                    let options =
                        ["follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream"];
                    format!("/containerLogs/{namespace}/{name}/{container}{}", encode(&pick(&connect.query, &options, &[])))
                }
                verb => {
                    let container = container_of(&object, get("container"))?;
                    let flags = [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")];
                    format!("/{verb}/{namespace}/{name}/{container}{}", encode(&pick(&connect.query, &["command"], &flags)))
                }
            };
            destination_on(&node, path, request.subresource == "log")
        })
    }
}

fn destination_on(node: &Value, path: String, logs: bool) -> Result<Destination, ApiError> {
    let addresses = node["status"]["addresses"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of = |kind: &str| addresses.iter().find(|a| a["type"] == kind).and_then(|a| a["address"].as_str());
    let host = ["InternalIP", "Hostname", "InternalDNS", "ExternalDNS", "ExternalIP"].iter().find_map(|kind| of(kind));
    let host = host.ok_or_else(|| ApiError::new(500, "InternalError", "no preferred addresses found; known addresses: []"))?;
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().and_then(|p| u16::try_from(p).ok());
    let declared = node["status"]["declaredFeatures"].as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(Destination {
        host: host.to_owned(),
        port: port.filter(|p| *p > 0).unwrap_or(10250),
        path,
        websockets: declared.iter().any(|f| f == "ExtendWebSocketsToKubelet"),
        logs,
    })
}

/// The container that is meant: the one that is named, or the only one.
fn container_of(pod: &Value, named: &str) -> Result<String, ApiError> {
    let names = |field: &str| -> Vec<String> {
        let list = pod["spec"][field].as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(|c| c["name"].as_str().map(str::to_owned)).collect()
    };
    let (main, init) = (names("containers"), names("initContainers"));
    let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
    if !named.is_empty() {
        let known = main.iter().chain(&init).chain(&names("ephemeralContainers")).any(|n| n == named);
        return if known {
            Ok(named.to_owned())
        } else {
            Err(ApiError::bad_request(format!("container {named} is not valid for pod {pod_name}")))
        };
    }
    match &main[..] {
        [only] => Ok(only.clone()),
        _ => {
            let of_init =
                if init.is_empty() { String::new() } else { format!(" or one of the init containers: [{}]", init.join(" ")) };
            let choice = main.join(" ");
            let message = format!("a container name must be specified for pod {pod_name}, choose one of: [{choice}]{of_init}");
            Err(ApiError::bad_request(message))
        }
    }
}

/// Parameters that go on: some as they are, flags under another name and as `1`.
fn pick(query: &[(String, String)], kept: &[&str], flags: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut picked: Vec<(String, String)> = query.iter().filter(|(key, _)| kept.contains(&key.as_str())).cloned().collect();
    for (from, to) in flags {
        if query.iter().any(|(key, value)| key == from && matches!(value.as_str(), "true" | "1")) {
            picked.push(((*to).to_owned(), "1".to_owned()));
        }
    }
    picked
}

/// The ports of a client that cannot name them within the connection, as nodes are told of them.
fn ports(query: &[(String, String)]) -> Vec<(String, String)> {
    let named: Vec<&str> = query.iter().filter(|(key, _)| key == "ports").map(|(_, value)| value.as_str()).collect();
    if named.is_empty() { Vec::new() } else { vec![("port".to_owned(), named.join(","))] }
}

fn encode(query: &[(String, String)]) -> String {
    let escape = |text: &str| -> String {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
        text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
    };
    let pairs: Vec<String> = query.iter().map(|(key, value)| format!("{}={}", escape(key), escape(value))).collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

async fn carry<S>(stream: TokioIo<S>, to: &Destination, mut request: Request<Incoming>) -> io::Result<Response<Body>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let upgrade = request.headers().contains_key(header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(io::Error::other)?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to a node ended");
        }
    });
    let (mut head, body) = request.into_parts();
    head.uri = to.path.parse::<Uri>().map_err(io::Error::other)?;
    head.version = http::Version::HTTP_11;
    head.headers.remove(header::AUTHORIZATION);
    head.headers.insert(header::HOST, HeaderValue::from_str(&format!("{}:{}", to.host, to.port)).map_err(io::Error::other)?);
    let mut response = sender.send_request(Request::from_parts(head, body)).await.map_err(io::Error::other)?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let there = hyper::upgrade::on(&mut response);
        if let Some(here) = upgrade {
            tokio::spawn(join(here, there));
        }
    }
    Ok(response.map(|body| body.map_err(io::Error::other).boxed_unsync()))
}

/// Copies both ways until either side closes.
async fn join(here: OnUpgrade, there: OnUpgrade) {
    let (Ok(here), Ok(there)) = tokio::join!(here, there) else { return };
    let (mut here, mut there) = (TokioIo::new(here), TokioIo::new(there));
    let _ended = tokio::io::copy_bidirectional(&mut here, &mut there).await;
}

/// What a node says when it has no logs, as the Status that clients read.
async fn log_error(response: Response<Body>) -> Response<Body> {
    let code = response.status();
    let body = Limited::new(response.into_body(), 64 << 10).collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    let message = String::from_utf8_lossy(&body).trim().to_owned();
    match code {
        StatusCode::BAD_REQUEST => refusal(&ApiError::bad_request(message)),
        StatusCode::NOT_FOUND => refusal(&ApiError::new(404, "NotFound", message)),
        code if code.is_client_error() => text_response(code, "text/plain", body),
        _ => refusal(&ApiError::new(500, "InternalError", format!("Internal error occurred: {message}"))),
    }
}
