//! Who a request is from, and whether they may make it. Everything that is not a clear yes is a no.
//! Upstream: cmd/kubelet/app/auth.go, pkg/kubelet/server/{auth,server}.go.
//! Differs: tokens that are nobody's are remembered for 10 s at most; calls of the API server are retried without jitter.

pub mod client_certificate;
mod pace;
mod ttl_cache;

use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use kubelet::failure::{Failure, FailureKind};
use rustls_pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};

use super::reply;
use super::streaming::is_websocket;
use crate::config::{Auth, Authorization};
use crate::env::{AccessReview, ApiServer, Clock, UserInfo};
use client_certificate::ClientCa;
use pace::Pace;
use ttl_cache::TtlCache;

/// A token that is nobody's is asked about again after this at the latest: it may be somebody's by then.
const UNKNOWN_TOKEN_TTL: Duration = Duration::from_secs(10);
const TOKEN_CACHE: usize = 4096;
/// API-046
const ACCESS_CACHE: usize = 8192;
/// API-023
const ATTEMPTS: u32 = 5;
const FIRST_RETRY: Duration = Duration::from_millis(500);

const ANONYMOUS: &str = "system:anonymous";
const UNAUTHENTICATED: &str = "system:unauthenticated";
const SUBPROTOCOL: HeaderName = http::header::SEC_WEBSOCKET_PROTOCOL;
const SUBPROTOCOL_TOKEN: &str = "base64url.bearer.authorization.k8s.io.";

/// The guard of the main listener.
pub struct Guard {
    api: Arc<dyn ApiServer>,
    clock: Arc<dyn Clock>,
    settings: Auth,
    client_ca: Option<Arc<ClientCa>>,
    strict_streaming: bool,
    tokens: TtlCache<[u8; 32], Option<UserInfo>>,
    access: TtlCache<AccessReview, bool>,
    token_key: [u8; 8],
    /// Of questions about tokens, which anybody may send, and about users, whom the first have let in.
    pace: (Arc<Pace>, Arc<Pace>),
}

/// Why a request was not let in.
enum Denial {
    Unauthorized,
    Forbidden { user: String, verb: &'static str, subresources: Vec<&'static str> },
    Failed { user: String, verb: &'static str, subresource: &'static str },
}

impl Denial {
    fn into_response(self) -> Response {
        match self {
            // API-027
            Self::Unauthorized => reply::text(StatusCode::UNAUTHORIZED, "Unauthorized"),
            // API-045
            Self::Forbidden { user, verb, subresources } => reply::text(
                StatusCode::FORBIDDEN,
                format!("Forbidden (user={user}, verb={verb}, resource=nodes, subresource(s)=[{}])\n", subresources.join(" ")),
            ),
            // API-044
            Self::Failed { user, verb, subresource } => reply::text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("Authorization error (user={user}, verb={verb}, resource=nodes, subresource={subresource})"),
            ),
        }
    }
}

impl Guard {
    /// A guard. `seed` keys the digests by which tokens are remembered.
    #[must_use]
    pub fn new(
        api: Arc<dyn ApiServer>,
        clock: Arc<dyn Clock>,
        settings: Auth,
        client_ca: Option<Arc<ClientCa>>,
        strict_streaming: bool,
        seed: u64,
    ) -> Self {
        Self {
            api,
            clock,
            settings,
            client_ca,
            strict_streaming,
            tokens: TtlCache::new(TOKEN_CACHE),
            access: TtlCache::new(ACCESS_CACHE),
            token_key: seed.to_be_bytes(),
            pace: (Arc::new(Pace::new()), Arc::new(Pace::new())),
        }
    }

    /// Lets a request in, or says what to answer instead. A token among the WebSocket subprotocols is taken out of the headers, so
    /// that it goes no further (API-025).
    pub(crate) async fn admit(
        &self,
        method: &Method,
        path: &str,
        headers: &mut HeaderMap,
        certificates: &[CertificateDer<'static>],
        vouched: impl FnOnce(),
    ) -> Result<UserInfo, Box<Response>> {
        let outcome = async {
            let user = self.authenticate(headers, certificates, vouched).await?;
            self.authorize(&user, method, path, headers).await?;
            Ok(user)
        };
        outcome.await.map_err(|denial: Denial| Box::new(denial.into_response()))
    }

    /// Certificate, bearer token, WebSocket token, anonymous (API-020, API-026). One method's failure does not stop the next, but it
    /// rules anonymous out (API-022).
    async fn authenticate(
        &self,
        headers: &mut HeaderMap,
        certificates: &[CertificateDer<'static>],
        vouched: impl FnOnce(),
    ) -> Result<UserInfo, Denial> {
        let mut failed = false;
        if let Some(ca) = &self.client_ca
            && !certificates.is_empty()
        {
            match ca.authenticate(certificates, self.clock.now()) {
                Ok(Some(user)) => {
                    vouched();
                    return Ok(authenticated(user));
                }
                Ok(None) => {}
                Err(failure) => {
                    tracing::debug!(%failure, "Unable to authenticate the request");
                    failed = true;
                }
            }
        }
        if let Some(ttl) = self.settings.token_webhook {
            let subprotocol = take_subprotocol_token(headers);
            for token in [bearer_token(headers), subprotocol.clone().unwrap_or_default()].into_iter().flatten() {
                match self.user_of(token, ttl).await {
                    Ok(Some(user)) => return Ok(authenticated(user)),
                    // A token that is nobody's is an error of its method, as upstream's bearer authenticator has it.
                    Ok(None) => failed = true,
                    Err(failure) => {
                        tracing::warn!(%failure, "Unable to authenticate the request");
                        failed = true;
                    }
                }
            }
            if let Err(why) = subprotocol {
                tracing::debug!(why, "Unable to authenticate the request");
                failed = true;
            }
        }
        if self.settings.anonymous && !failed {
            let groups = vec![UNAUTHENTICATED.to_owned()];
            return Ok(UserInfo { name: ANONYMOUS.to_owned(), groups, ..UserInfo::default() });
        }
        Err(Denial::Unauthorized)
    }

    async fn user_of(&self, token: String, ttl: Duration) -> Result<Option<UserInfo>, Failure> {
        // INV-07: no memory of the token itself.
        let key: [u8; 32] = Sha256::new().chain_update(self.token_key).chain_update(&token).finalize().into();
        let ttl = move |user: &Option<UserInfo>| if user.is_some() { ttl } else { ttl.min(UNKNOWN_TOKEN_TTL) };
        let (api, pace) = (Arc::clone(&self.api), Arc::clone(&self.pace.0));
        let once = move || {
            let (api, pace, token) = (Arc::clone(&api), Arc::clone(&pace), token.clone());
            async move { pace.ask(async { api.review_token(token).await }).await }.boxed()
        };
        self.tokens.get_or_ask(key, ttl, || retried(once).boxed()).await
    }

    /// API-041 to API-046.
    async fn authorize(&self, user: &UserInfo, method: &Method, path: &str, headers: &HeaderMap) -> Result<(), Denial> {
        let Authorization::Webhook { authorized_ttl, unauthorized_ttl } = self.settings.authorization else { return Ok(()) };
        let verb = verb(method);
        let subresources = subresources(path);
        self.allowed(user, verb, subresources, authorized_ttl, unauthorized_ttl).await?;
        // INV-02
        let streams = ["/exec", "/attach", "/portForward"].iter().any(|prefix| below(path, prefix));
        if self.strict_streaming && streams && verb != "create" && headers.contains_key(http::header::UPGRADE) {
            self.allowed(user, "create", subresources, authorized_ttl, unauthorized_ttl).await?;
        }
        Ok(())
    }

    async fn allowed(
        &self,
        user: &UserInfo,
        verb: &'static str,
        subresources: &'static [&'static str],
        authorized_ttl: Duration,
        unauthorized_ttl: Duration,
    ) -> Result<(), Denial> {
        for &subresource in subresources {
            let review = AccessReview { user: user.clone(), verb: verb.to_owned(), subresource: subresource.to_owned() };
            let (api, pace) = (Arc::clone(&self.api), Arc::clone(&self.pace.1));
            let question = review.clone();
            let once = move || {
                let (api, pace, question) = (Arc::clone(&api), Arc::clone(&pace), question.clone());
                async move { pace.ask(async { api.review_access(question).await }).await }.boxed()
            };
            let ttl = move |allowed: &bool| if *allowed { authorized_ttl } else { unauthorized_ttl };
            match self.access.get_or_ask(review, ttl, || retried(once).boxed()).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(failure) => {
                    tracing::error!(user = %user.name, verb, subresource, %failure, "Authorization error");
                    return Err(Denial::Failed { user: user.name.clone(), verb, subresource });
                }
            }
        }
        tracing::debug!(user = %user.name, verb, ?subresources, "Forbidden");
        Err(Denial::Forbidden { user: user.name.clone(), verb, subresources: subresources.to_vec() })
    }
}

/// API-020: as upstream's AuthenticatedGroupAdder.
pub(super) fn authenticated(mut user: UserInfo) -> UserInfo {
    const GROUP: &str = "system:authenticated";
    let has_a_group = user.groups.iter().any(|group| group == GROUP || group == UNAUTHENTICATED);
    if user.name != ANONYMOUS && !has_a_group {
        user.groups.push(GROUP.to_owned());
    }
    user
}

/// Asks up to five times where asking again may help (API-023).
async fn retried<T>(ask: impl Fn() -> BoxFuture<'static, Result<T, Failure>> + Send + Sync) -> Result<T, Failure> {
    let mut pause = FIRST_RETRY;
    for _ in 1..ATTEMPTS {
        match ask().await {
            Err(failure) if may_pass(&failure) => {
                let after = if let FailureKind::Throttled { after } = failure.kind { after } else { None };
                tokio::time::sleep(after.unwrap_or(pause)).await;
            }
            answer => return answer,
        }
        pause = pause.mul_f64(1.5);
    }
    ask().await
}

/// Upstream's DefaultShouldRetry: the server was there, and failed or lost the connection. One that is not there, or says that it serves
/// nobody (503) and not until when, is not asked again: whoever waits for the answer had better ask later.
fn may_pass(failure: &Failure) -> bool {
    match failure.kind {
        FailureKind::Throttled { .. } | FailureKind::UnknownOutcome => true,
        FailureKind::Unavailable => failure.status.is_some_and(|status| status != 503),
        _ => false,
    }
}

fn bearer_token(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?.trim();
    let (scheme, token) = value.split_once(' ')?;
    // Go splits at every space and takes the second part.
    let token = token.split(' ').next().unwrap_or_default();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned())
}

/// Takes the token out of a WebSocket client's subprotocols, so that it goes no further; of other clients, nothing counts that they call a
/// subprotocol. As upstream's errors, in its words, mistakes rule anonymous out (API-025, API-022).
fn take_subprotocol_token(headers: &mut HeaderMap) -> Result<Option<String>, &'static str> {
    if !is_websocket(headers) {
        return Ok(None);
    }
    let mut token = None;
    let mut others = Vec::new();
    for value in headers.get_all(SUBPROTOCOL) {
        for protocol in String::from_utf8_lossy(value.as_bytes()).split(',').map(str::trim) {
            match protocol.strip_prefix(SUBPROTOCOL_TOKEN) {
                Some(_) if token.is_some() => return Err("multiple base64.bearer.authorization tokens specified"),
                Some(encoded) => {
                    let bytes = URL_SAFE_NO_PAD.decode(encoded);
                    let bytes = bytes.map_err(|_| "invalid base64.bearer.authorization token encoding")?;
                    token = Some(String::from_utf8(bytes).map_err(|_| "invalid base64.bearer.authorization token")?);
                }
                None => others.push(protocol.to_owned()),
            }
        }
    }
    let Some(token) = token.filter(|token| !token.is_empty()) else { return Ok(None) };
    if others.is_empty() {
        return Err("missing additional subprotocol");
    }
    let others = HeaderValue::from_str(&others.join(",")).map_err(|_| "invalid subprotocol")?;
    headers.insert(SUBPROTOCOL, others);
    Ok(Some(token))
}

/// API-041
fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::GET => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

/// Whether a path is that prefix or below it, in whole segments.
pub(crate) fn below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// API-042: what a path asks for, the finest first.
fn subresources(path: &str) -> &'static [&'static str] {
    const TABLE: [(&str, &[&str]); 10] = [
        ("/pods", &["pods", "proxy"]),
        ("/runningpods", &["pods", "proxy"]),
        ("/healthz", &["healthz", "proxy"]),
        ("/configz", &["configz", "proxy"]),
        ("/stats", &["stats"]),
        ("/metrics", &["metrics"]),
        ("/logs", &["log"]),
        ("/checkpoint", &["checkpoint"]),
        ("/statusz", &["statusz"]),
        ("/flagz", &["configz"]),
    ];
    TABLE.iter().find(|(prefix, _)| below(path, prefix)).map_or(&["proxy"], |(_, subresources)| subresources)
}
