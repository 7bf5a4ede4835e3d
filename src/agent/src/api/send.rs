//! One request and its answer: through `kube`'s client over a connection pool of our own.
//! Upstream: k8s.io/client-go/rest/request.go.
//! Differs: no retry in here (that is the core's to decide), and no client-side rate limit (priority and fairness is the server's).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Limited};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::Body;
use kubelet::failure::{Failure, FailureKind};
use serde::de::DeserializeOwned;

use super::Material;
use super::connector::Connector;
use super::error;

/// The largest answer that is read: a list of a full node's pods stays far below.
const BODY_LIMIT: usize = 64 << 20;
/// Go's client: a connection that says nothing for so long is pinged, and dropped if it does not answer.
const PING_AFTER: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);
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

/// Sends requests over connections of its own.
#[derive(Clone)]
pub(super) struct Sender {
    client: kube::Client,
    base: Uri,
    token: Option<Material>,
    forbidden: Arc<AtomicU64>,
}

impl Sender {
    pub(super) fn new(connector: &Connector, forbidden: Arc<AtomicU64>) -> Self {
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
        Self {
            client: kube::Client::new(pool, "default"),
            base: connector.access().server.clone(),
            token: connector.access().token.clone(),
            forbidden,
        }
    }

    /// Sends a request and reads the whole answer as one object.
    pub(super) async fn object<T: DeserializeOwned>(&self, ask: Ask) -> Result<T, Failure> {
        let bytes = self.bytes(ask).await?;
        serde_json::from_slice(&bytes)
            .map_err(|e| Failure::new(FailureKind::Other, format!("the API server's answer cannot be read: {e}")))
    }

    /// Sends a request of which only success matters.
    pub(super) async fn done(&self, ask: Ask) -> Result<(), Failure> {
        self.bytes(ask).await.map(|_| ())
    }

    async fn bytes(&self, ask: Ask) -> Result<bytes::Bytes, Failure> {
        let reads = ask.method == Method::GET;
        let response = self.stream(ask).await?;
        let body = Limited::new(response.into_body(), BODY_LIMIT).collect().await;
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
    pub(super) async fn stream(&self, ask: Ask) -> Result<Response<Body>, Failure> {
        let (method, path) = (ask.method.clone(), ask.path.clone());
        let request = self.request(ask)?;
        let response = self.client.send(request).await.map_err(|e| error::transport(&e, method == Method::GET))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, 1 << 20).collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let failure = error::refused(status, &parts.headers, &body);
        if status == StatusCode::FORBIDDEN {
            self.forbidden.fetch_add(1, Ordering::Relaxed);
            let path = path.split('?').next().unwrap_or_default();
            tracing::warn!(%method, path, error = %failure.message, "The API server forbids a request");
        }
        Err(failure)
    }

    fn request(&self, ask: Ask) -> Result<Request<Body>, Failure> {
        let invalid = |why: String| Failure::new(FailureKind::Invalid, why);
        let prefix = self.base.path().trim_end_matches('/');
        let mut parts = self.base.clone().into_parts();
        parts.path_and_query = Some(format!("{prefix}{}", ask.path).parse().map_err(|e| invalid(format!("{}: {e}", ask.path)))?);
        let uri = Uri::from_parts(parts).map_err(|e| invalid(e.to_string()))?;
        let mut request =
            Request::builder().method(ask.method).uri(uri).header(USER_AGENT, AGENT).header(ACCEPT, "application/json");
        if let Some(token) = &self.token {
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
