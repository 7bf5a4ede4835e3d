//! One request and its answer: through `kube`'s client over a connection pool of our own.
//! Upstream: k8s.io/client-go/rest/request.go.
//! Differs: no retry in here (that is the core's to decide), and no client-side rate limit (priority and fairness is the server's);
//! a connection on which a request went unanswered is not used again, whatever its pings say (kubernetes#87615).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Limited};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::Body;
use kubelet::failure::{Failure, FailureKind};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::access::Stamps;
use super::connector::Connector;
use super::error;
use super::reading::read_answer;
use super::scan::OBJECT_LIMIT;

/// Go's client: a connection that says nothing for so long is pinged, and dropped if it does not answer.
const PING_AFTER: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// API-220, closeAllConns upstream: a request that is given up after so long makes the next one dial.
const SUSPECT_AFTER: Duration = Duration::from_secs(5);
/// A stream's share of the connection's window: lists are big, and one slow reader must not hold the others.
const WINDOW: u32 = 1 << 20;

const AGENT: &str = concat!("keelson/", env!("CARGO_PKG_VERSION"));

/// What kind of body a request has.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// `application/json`
    Json,
    /// `application/strategic-merge-patch+json`
    StrategicMerge,
}

/// One request.
pub(super) struct Ask {
    pub(super) method: Method,
    /// Path and query, beginning with a slash.
    pub(super) path: String,
    pub(super) body: Option<(Kind, Vec<u8>)>,
}

impl Ask {
    pub(super) fn get(path: String) -> Self {
        Self { method: Method::GET, path, body: None }
    }

    pub(super) fn with(method: Method, path: String, kind: Kind, body: &impl serde::Serialize) -> Self {
        // API objects are plain data: they always serialize.
        let body = serde_json::to_vec(body).unwrap_or_default();
        Self { method, path, body: Some((kind, body)) }
    }
}

/// Connections of one age: made with the same identity, and trusted or not together.
struct Connections {
    client: kube::Client,
    identity: Stamps,
    trust: Trust,
}

/// Whether connections are still used for new requests. What is under way on them goes on.
#[derive(Clone)]
pub(super) struct Trust(Arc<AtomicBool>);

impl Trust {
    /// Lets the next request have another connection.
    pub(super) fn distrust(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Distrusts a connection whose request is abandoned after it waited for long: the other side may be gone without a word.
struct Waiting {
    since: Instant,
    trust: Trust,
    answered: bool,
}

impl Waiting {
    fn on(trust: &Trust) -> Self {
        Self { since: Instant::now(), trust: trust.clone(), answered: false }
    }

    fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.answered && self.since.elapsed() >= SUSPECT_AFTER {
            self.trust.distrust();
        }
    }
}

/// An answer whose body is still to be read.
pub(super) struct Opened {
    pub(super) body: Body,
    pub(super) connections: Trust,
}

impl Connections {
    fn new(connector: &Connector, identity: Stamps) -> Self {
        let pool = legacy::Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(90))
            .http2_keep_alive_interval(PING_AFTER)
            .http2_keep_alive_timeout(PING_TIMEOUT)
            .http2_keep_alive_while_idle(true)
            .http2_initial_stream_window_size(WINDOW)
            .http2_initial_connection_window_size(WINDOW * 4)
            .build::<_, Body>(connector.clone());
        Self { client: kube::Client::new(pool, "default"), identity, trust: Trust(Arc::new(AtomicBool::new(true))) }
    }
}

/// Sends requests over connections of its own.
#[derive(Clone)]
pub(super) struct Sender {
    connector: Connector,
    connections: Arc<Mutex<Connections>>,
    forbidden: Arc<AtomicU64>,
}

impl Sender {
    pub(super) fn new(connector: &Connector, forbidden: Arc<AtomicU64>) -> Self {
        let connections = Connections::new(connector, connector.access().stamps());
        Self { connector: connector.clone(), connections: Arc::new(Mutex::new(connections)), forbidden }
    }

    /// The connections to use now: others than before if the identity was renewed, or if they are no longer trusted.
    fn connections(&self) -> (kube::Client, Trust) {
        let identity = self.connector.access().stamps();
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if connections.identity != identity || !connections.trust.0.load(Ordering::Relaxed) {
            *connections = Connections::new(&self.connector, identity);
        }
        (connections.client.clone(), connections.trust.clone())
    }

    /// Sends a request and reads the whole answer as one object.
    pub(super) async fn object<T: DeserializeOwned>(&self, ask: Ask) -> Result<T, Failure> {
        read_answer(&self.bytes(ask).await?)
    }

    /// Sends a request of which only success matters.
    pub(super) async fn done(&self, ask: Ask) -> Result<(), Failure> {
        self.bytes(ask).await.map(|_| ())
    }

    async fn bytes(&self, ask: Ask) -> Result<bytes::Bytes, Failure> {
        let reads = ask.method == Method::GET;
        let opened = self.stream(ask).await?;
        let waiting = Waiting::on(&opened.connections);
        let body = Limited::new(opened.body, OBJECT_LIMIT).collect().await;
        waiting.answered();
        match body {
            Ok(body) => Ok(body.to_bytes()),
            // A write whose answer broke off was most likely done.
            Err(e) => {
                let kind = if reads { FailureKind::Unavailable } else { FailureKind::UnknownOutcome };
                Err(Failure::new(kind, format!("the answer broke off: {e}")))
            }
        }
    }

    /// Sends a request; a successful answer's body is still to be read.
    pub(super) async fn stream(&self, ask: Ask) -> Result<Opened, Failure> {
        let (method, path) = (ask.method.clone(), ask.path.clone());
        let request = self.request(ask)?;
        let (client, connections) = self.connections();
        let waiting = Waiting::on(&connections);
        let answer = client.send(request).await;
        let (parts, body) = match answer {
            Ok(response) => response.into_parts(),
            Err(error) => {
                waiting.answered();
                return Err(error::transport(&error, method == Method::GET));
            }
        };
        let status = parts.status;
        if status.is_success() {
            waiting.answered();
            return Ok(Opened { body, connections });
        }
        let body = Limited::new(body, 1 << 20).collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        waiting.answered();
        let failure = error::refused(status, &parts.headers, &body);
        if status == StatusCode::FORBIDDEN {
            self.forbidden.fetch_add(1, Ordering::Relaxed);
            let path = path.split('?').next().unwrap_or_default();
            if error::is_of_a_namespace_that_goes(&body) {
                tracing::debug!(%method, path, error = %failure.message, "The namespace is being deleted");
            } else {
                tracing::warn!(%method, path, error = %failure.message, "The API server forbids a request");
            }
        }
        Err(failure)
    }

    fn request(&self, ask: Ask) -> Result<Request<Body>, Failure> {
        let invalid = |why: String| Failure::new(FailureKind::Invalid, why);
        let access = self.connector.access();
        let prefix = access.server.path().trim_end_matches('/');
        let mut parts = access.server.clone().into_parts();
        parts.path_and_query = Some(format!("{prefix}{}", ask.path).parse().map_err(|e| invalid(format!("{}: {e}", ask.path)))?);
        let uri = Uri::from_parts(parts).map_err(|e| invalid(e.to_string()))?;
        let mut request =
            Request::builder().method(ask.method).uri(uri).header(USER_AGENT, AGENT).header(ACCEPT, "application/json");
        if let Some(token) = &access.token {
            let token = token.read().map_err(|e| Failure::new(FailureKind::Unauthorized, e.to_string()))?;
            let text = format!("Bearer {}", String::from_utf8_lossy(&token).trim());
            let mut value =
                HeaderValue::from_str(&text).map_err(|_| invalid("the bearer token has control characters".to_owned()))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let body = match ask.body {
            None => Body::empty(),
            Some((kind, bytes)) => {
                let kind = match kind {
                    Kind::Json => "application/json",
                    Kind::StrategicMerge => "application/strategic-merge-patch+json",
                };
                request = request.header(CONTENT_TYPE, kind);
                Body::from(bytes)
            }
        };
        request.body(body).map_err(|e| invalid(e.to_string()))
    }
}
