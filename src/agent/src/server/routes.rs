//! Which paths there are on which listener, and the one gate that every request to any of them passes.
//! Upstream: pkg/kubelet/server/server.go (InstallDefaultHandlers, InstallAuthRequiredHandlers, ServeHTTP).
//! Differs: a path is matched as it was sent, not decoded; /logs, pprof and /debug/flags/v answer as if switched off.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter, any, on};
use futures::FutureExt as _;
use http::header::{ACCEPT, ALLOW, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use rustls_pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::auth::Guard;
use super::metrics::http::{InFlight, Labels};
use super::strangers::Stranger;
use super::{Shared, configz, health, logs, metrics, pods, reply, stats, statusz, streaming};

/// Which of the three listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// HTTPS, for those whom the guard lets in.
    Main,
    /// Plain HTTP, for all, with what tells little and changes nothing.
    ReadOnly,
    /// Plain HTTP on loopback, healthz only (API-003).
    Healthz,
}

/// One connection's other end.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    pub(crate) certificates: Vec<CertificateDer<'static>>,
    /// Ends the connection, and what it was handed over to.
    pub(crate) shutdown: CancellationToken,
    /// Whether it has asked for anything, and its place among the strangers until it is let in; where nobody has to be, it keeps it.
    pub(crate) standing: Arc<Standing>,
}

/// How far a connection has come.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    pub(crate) asked: CancellationToken,
    pub(crate) stranger: Mutex<Option<Stranger>>,
}

impl Standing {
    /// A request of it was let in.
    fn let_in(&self) {
        drop(self.stranger.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// What answers below one root. A root with a slash at its end has all below it, one without has itself as well.
struct Mount {
    root: &'static str,
    /// Whether any method is routed and nothing lies below: upstream's plain handlers (API-008).
    handler: bool,
    routes: Vec<(String, MethodRouter<Arc<Shared>>)>,
}

/// All that a listener serves, behind all that it checks. There is no other way to a handler.
pub struct Gate {
    listener: Listener,
    guard: Option<Guard>,
    mounts: Vec<(&'static str, bool)>,
    router: Router,
    shared: Arc<Shared>,
}

impl Gate {
    /// The main listener's.
    #[must_use]
    pub fn main(shared: Arc<Shared>, guard: Guard) -> Arc<Self> {
        Self::new(shared, Listener::Main, Some(guard))
    }

    /// The read-only listener's.
    #[must_use]
    pub fn read_only(shared: Arc<Shared>) -> Arc<Self> {
        Self::new(shared, Listener::ReadOnly, None)
    }

    /// The healthz listener's.
    #[must_use]
    pub fn healthz(shared: Arc<Shared>) -> Arc<Self> {
        Self::new(shared, Listener::Healthz, None)
    }

    fn new(shared: Arc<Shared>, listener: Listener, guard: Option<Guard>) -> Arc<Self> {
        let mut router = Router::new();
        let mut roots = Vec::new();
        for mount in mounts(&shared, listener) {
            roots.push((mount.root, mount.handler));
            for (path, methods) in mount.routes {
                router = router.route(&path, methods);
            }
        }
        let router =
            router.fallback(|| async { reply::text(StatusCode::NOT_FOUND, "404: Page Not Found") }).with_state(Arc::clone(&shared));
        Arc::new(Self { listener, guard, mounts: roots, router, shared })
    }

    /// How much of a request may come before it is answered: where all are served, little, for none of them has a long one to make.
    pub(super) fn longest_request(&self) -> usize {
        if self.guard.is_some() { MAX_HEADERS } else { MAX_STRANGERS_HEADERS }
    }

    /// Answers one request.
    pub(crate) async fn respond(&self, peer: &Peer, mut request: Request) -> Response {
        peer.standing.asked.cancel();
        let in_flight = self.counted(&request);
        if let Some(in_flight) = &in_flight {
            // For whoever takes the connection over.
            request.extensions_mut().insert(in_flight.clone());
        }
        let answered = AssertUnwindSafe(self.answer(peer, request)).catch_unwind().await;
        let response = answered.unwrap_or_else(|_| {
            reply::error_line(StatusCode::INTERNAL_SERVER_ERROR, "internal server error: the handler panicked")
        });
        match in_flight {
            Some(in_flight) => response.map(|body| in_flight.until_sent(body)),
            None => response,
        }
    }

    /// API-014. The healthz listener is no part of upstream's server, and counts nothing.
    fn counted(&self, request: &Request) -> Option<InFlight> {
        if self.listener == Listener::Healthz {
            return None;
        }
        let debugging = has_debugging(&self.shared, self.listener);
        let labels = Labels::of(self.listener, debugging, request.method(), request.uri().path());
        Some(self.shared.metrics.http_started(labels))
    }

    async fn answer(&self, peer: &Peer, mut request: Request) -> Response {
        let path = request.uri().path().to_owned();
        // Before authentication, as upstream: this tells which routes exist, and no more (API-007, API-009).
        let clean = clean(&path);
        if clean != path {
            return redirect(&request, &clean);
        }
        let Some((root, handler)) = self.root(&path) else {
            return if self.mounts.iter().any(|(root, _)| root.strip_suffix('/') == Some(path.as_str())) {
                redirect(&request, &format!("{path}/"))
            } else {
                reply::error_line(StatusCode::NOT_FOUND, "404 page not found")
            };
        };
        if let Some(guard) = &self.guard {
            let method = request.method().clone();
            // Whom a certificate vouches for is no stranger: it does not make room while what it may is asked for.
            let vouched = || peer.standing.let_in();
            if let Err(refusal) = guard.admit(&method, &path, request.headers_mut(), &peer.certificates, vouched).await {
                if refusal.status() == StatusCode::FORBIDDEN {
                    self.shared.metrics.forbidden(root);
                }
                return *refusal;
            }
        }
        if self.guard.is_some() {
            peer.standing.let_in();
        }
        request.extensions_mut().insert(peer.clone());
        if !handler && request.method() == Method::HEAD {
            // The router would answer HEAD where it answers GET; upstream's does not.
            *request.method_mut() = Method::OPTIONS;
        }
        if !handler && let Some(uri) = without_slash(request.uri(), root) {
            *request.uri_mut() = uri;
        }
        let Ok(response) = self.router.clone().oneshot(request).await;
        finished(response)
    }

    /// The mount that a path is below, and whether it is a plain handler.
    fn root(&self, path: &str) -> Option<(&'static str, bool)> {
        self.mounts.iter().copied().find(|(root, handler)| match root.strip_suffix('/') {
            Some(_) => path.starts_with(root),
            None if *handler => path == *root,
            None => super::auth::below(path, root),
        })
    }

    /// Every path that is served, for tests.
    #[cfg(test)]
    pub(crate) fn paths(shared: &Shared, listener: Listener) -> Vec<String> {
        mounts(shared, listener).into_iter().flat_map(|mount| mount.routes).map(|(path, _)| path).collect()
    }
}

/// go-restful's `matchesAccept`: parameters and preferences do not count. Whoever does not say what it produces serves only those who
/// take anything.
fn takes(headers: &HeaderMap, produced: &[&str]) -> bool {
    let accepted = headers.get(ACCEPT).and_then(|accepted| accepted.to_str().ok()).filter(|accepted| !accepted.is_empty());
    let mut types = accepted.unwrap_or("*/*").split(',').map(|one| one.split(';').next().unwrap_or_default().trim());
    types.any(|one| one == "*/*" || produced.contains(&one))
}

/// go-restful's router does not look at slashes at the end of a path; what is not below its root stays as it is.
fn without_slash(uri: &Uri, root: &str) -> Option<Uri> {
    let path = uri.path().strip_suffix('/').filter(|path| path.len() > root.len())?;
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    format!("{path}{query}").parse().ok()
}

/// The router's own refusals in upstream's words (API-007).
fn finished(mut response: Response) -> Response {
    let refused = response.status() == StatusCode::METHOD_NOT_ALLOWED && response.headers().contains_key(ALLOW);
    if refused {
        let allow = response.headers().get(ALLOW).and_then(|allow| allow.to_str().ok()).unwrap_or_default();
        let allow: Vec<&str> = allow.split(',').map(str::trim).filter(|method| *method != "HEAD").collect();
        let allow = HeaderValue::from_str(&allow.join(", "));
        response = reply::text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed");
        if let Ok(allow) = allow {
            response.headers_mut().insert(ALLOW, allow);
        }
    }
    response
}

/// Go's `ServeMux` sends a client to the canonical path.
fn redirect(request: &Request, path: &str) -> Response {
    let path = escaped(path);
    let target = match request.uri().query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let Ok(location) = HeaderValue::from_str(&target) else {
        return reply::error_line(StatusCode::NOT_FOUND, "404 page not found");
    };
    let body = if *request.method() == Method::GET {
        let escaped =
            target.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;").replace('\'', "&#39;");
        Body::from(format!("<a href=\"{escaped}\">Temporary Redirect</a>.\n\n"))
    } else {
        Body::empty()
    };
    let mut response = reply::bare(StatusCode::TEMPORARY_REDIRECT, body);
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    }
    response.headers_mut().insert(LOCATION, location);
    response
}

/// What Go's `URL.EscapedPath` leaves of a path that is escaped already: a browser takes `/\\` for `//`, and what follows for a host.
fn escaped(path: &str) -> String {
    let mut escaped = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z'
            | b'A'..=b'Z'
            | b'0'..=b'9'
            | b'-'
            | b'_'
            | b'.'
            | b'~'
            | b'$'
            | b'&'
            | b'+'
            | b','
            | b'/'
            | b':'
            | b';'
            | b'='
            | b'@'
            | b'%' => escaped.push(char::from(byte)),
            other => {
                // Writing to a string does not fail.
                let _ = write!(escaped, "%{other:02X}");
            }
        }
    }
    escaped
}

/// Go's `path.Clean`, keeping a slash at the end.
fn clean(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    let mut clean = format!("/{}", segments.join("/"));
    if path.ends_with('/') && !segments.is_empty() {
        clean.push('/');
    }
    clean
}

fn handler(root: &'static str, methods: MethodRouter<Arc<Shared>>) -> Mount {
    Mount { root, handler: true, routes: vec![(root.to_owned(), methods)] }
}

/// A subtree that answers one thing.
fn switched_off(root: &'static str, why: &'static str) -> Mount {
    let answer = move || async move { reply::error_line(StatusCode::METHOD_NOT_ALLOWED, why) };
    Mount { root, handler: true, routes: vec![(root.to_owned(), any(answer)), (format!("{root}{{*rest}}"), any(answer))] }
}

/// What routes may say that they produce.
const JSON: &[&str] = &["application/json"];
const UNSAID: &[&str] = &[];

/// A web service of go-restful, which looks at what a client takes once it has found the path and the method (API-007).
fn service(root: &'static str, produced: &'static [&'static str], routes: Vec<(&str, MethodRouter<Arc<Shared>>)>) -> Mount {
    let judged = from_fn(move |request: Request, next: Next| async move {
        if takes(request.headers(), produced) {
            return next.run(request).await;
        }
        let why = format!("406: Not Acceptable\n\nAvailable representations: {}", produced.join(", "));
        reply::text(StatusCode::NOT_ACCEPTABLE, why)
    });
    let routes = routes.into_iter().map(|(path, methods)| (format!("{root}{path}"), methods.route_layer(judged.clone())));
    Mount { root, handler: false, routes: routes.collect() }
}

/// Whether a listener has handlers that look into pods and act on them (API-011, API-012).
fn has_debugging(shared: &Shared, listener: Listener) -> bool {
    listener == Listener::Main && shared.settings.listeners.debugging_handlers
}

const GET_OR_POST: MethodFilter = MethodFilter::GET.or(MethodFilter::POST);

/// API-001, API-002, API-003 and the route table of the reference.
fn mounts(shared: &Shared, listener: Listener) -> Vec<Mount> {
    if listener == Listener::Healthz {
        return vec![handler("/healthz", any(health::ping_only)), handler("/healthz/ping", any(health::ping))];
    }
    let mut mounts = vec![
        handler("/healthz", any(health::all)),
        handler("/healthz/ping", any(health::ping)),
        handler("/healthz/log", any(health::log)),
        handler("/healthz/syncloop", any(health::sync_loop)),
        handler("/healthz/device-plugin", any(health::device_plugin)),
        service("/pods", JSON, vec![("", on(MethodFilter::GET, pods::pods)), ("/", on(MethodFilter::GET, pods::pods))]),
        service("/stats/", JSON, vec![("summary", on(GET_OR_POST, stats::summary))]),
        handler("/metrics", any(metrics::all)),
        handler("/metrics/resource", any(metrics::resource)),
        handler("/metrics/cadvisor", any(metrics::cadvisor)),
        handler("/metrics/probes", any(metrics::probes)),
        handler("/metrics/slis", any(metrics::slis)),
    ];
    if has_debugging(shared, listener) {
        mounts.extend(debugging_mounts());
    } else {
        // API-011, API-012
        let off = "Debug endpoints are disabled.";
        mounts.extend(
            ["/run/", "/exec/", "/attach/", "/portForward/", "/containerLogs/", "/runningpods/", "/debug/pprof/", "/logs/"]
                .map(|root| switched_off(root, off)),
        );
    }
    mounts
}

fn debugging_mounts() -> Vec<Mount> {
    let with_uid = "/{namespace}/{pod}/{uid}/{container}";
    let without_uid = "/{namespace}/{pod}/{container}";
    vec![
        service("/containerLogs", UNSAID, vec![(without_uid, on(MethodFilter::GET, logs::container_logs))]),
        service(
            "/run",
            UNSAID,
            vec![(without_uid, on(MethodFilter::POST, streaming::run)), (with_uid, on(MethodFilter::POST, streaming::run))],
        ),
        service(
            "/exec",
            UNSAID,
            vec![(without_uid, on(GET_OR_POST, streaming::exec)), (with_uid, on(GET_OR_POST, streaming::exec))],
        ),
        service(
            "/attach",
            UNSAID,
            vec![(without_uid, on(GET_OR_POST, streaming::attach)), (with_uid, on(GET_OR_POST, streaming::attach))],
        ),
        service(
            "/portForward",
            UNSAID,
            vec![
                ("/{namespace}/{pod}", on(GET_OR_POST, streaming::port_forward)),
                ("/{namespace}/{pod}/{uid}", on(GET_OR_POST, streaming::port_forward)),
            ],
        ),
        service("/runningpods/", JSON, vec![("", on(MethodFilter::GET, pods::running_pods))]),
        handler("/configz", any(configz::configz)),
        handler("/statusz", any(statusz::statusz)),
        // API-013: not served, and said so in the words of the switch.
        switched_off("/logs/", "logs endpoint is disabled."),
        switched_off("/debug/pprof/", "profiling endpoint is disabled."),
        handler(
            "/debug/flags/v",
            any(|| async { reply::error_line(StatusCode::METHOD_NOT_ALLOWED, "flags endpoint is disabled.") }),
        ),
    ]
}

/// API-005
const MAX_HEADERS: usize = 1 << 20;
/// Where nobody is asked who he is.
const MAX_STRANGERS_HEADERS: usize = 16 << 10;

/// How long requests of a connection may keep it waiting (API-005).
pub(crate) const IDLE: Duration = Duration::from_secs(90);

#[cfg(test)]
mod tests {
    use super::clean;

    #[test]
    fn paths_are_cleaned_as_go_does() {
        // API-009
        let cases = [
            ("/pods", "/pods"),
            ("/pods/", "/pods/"),
            ("//pods", "/pods"),
            ("/exec/../pods", "/pods"),
            ("/..", "/"),
            ("/pods/./", "/pods/"),
            ("/", "/"),
            ("/a/b/..", "/a"),
        ];
        for (path, expected) in cases {
            assert_eq!(clean(path), expected, "{path}");
        }
    }
}
