//! Asks the static pod URL: one GET, redirects followed, and what went wrong said a few times only.
//! Upstream: pkg/kubelet/config/http.go, Go's net/http (Client).
//! Differs: HTTP/1.1 only, no proxy of the environment; a URL in the log or a Referer has neither login nor query.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, COOKIE, HOST, LOCATION, REFERER, TRAILER, TRANSFER_ENCODING, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use kubelet::action::FetchCall;
use kubelet::failure::{Failure, FailureKind};
use tokio::time::{Instant, timeout_at};

use crate::env::Net;
use crate::executor::Fetcher;
use crate::go_http::url::{Login, Unresolved, Url};
use crate::go_http::wire::{exchange_error, open_verified};
use crate::go_http::{MOST_ANSWER_HEADERS, MOST_REQUESTS, TOO_LATE, TOO_LATE_BODY, over, redirects};
use crate::go_text::quote;

/// An answer of that many bytes is one too many (`maxConfigLength`).
const LIMIT: usize = 10 << 20;
/// So many failures in a row are told of.
const TOLD: u32 = 4;

/// What the executor calls to ask the URL.
#[must_use]
pub fn fetcher(net: Arc<dyn Net>) -> Fetcher {
    let failures = Arc::new(AtomicU32::new(0));
    Arc::new(move |call: FetchCall| ask(Arc::clone(&net), Arc::clone(&failures), call).boxed())
}

fn ask(net: Arc<dyn Net>, failures: Arc<AtomicU32>, call: FetchCall) -> BoxFuture<'static, Result<Vec<u8>, Failure>> {
    async move {
        let told = Url::parse(call.url.reveal()).map_or_else(|_| "staticPodURL".to_owned(), |(url, _)| url.told());
        let answer = fetch(net.as_ref(), &call).await;
        let wrong = match &answer {
            Err(why) => Some(why.clone()),
            Ok(body) if body.is_empty() => Some(format!("zero-length data received from {told}")),
            Ok(_) => None,
        };
        tell(&failures, &told, wrong.as_deref());
        answer.map_err(|why| Failure::new(FailureKind::Other, why))
    }
    .boxed()
}

/// The first failures should be enough to get the point across.
fn tell(failures: &AtomicU32, url: &str, wrong: Option<&str>) {
    let Some(error) = wrong else {
        if failures.swap(0, Ordering::Relaxed) > 0 {
            tracing::info!(url, "Successfully read pods from URL");
        }
        return;
    };
    let before = failures.fetch_add(1, Ordering::Relaxed);
    if before + 1 < TOLD {
        tracing::warn!(url, error, "Failed to read pods from URL");
    } else if before + 1 == TOLD {
        tracing::warn!(url, error, "Failed to read pods from URL. Dropping verbosity of this message to V(4)");
    } else {
        tracing::debug!(url, error, "Failed to read pods from URL");
        // It never comes round to the first again.
        failures.store(TOLD, Ordering::Relaxed);
    }
}

/// What an answer says.
struct Answer {
    status: StatusCode,
    location: Option<String>,
    body: Result<Vec<u8>, String>,
}

/// The last answer's body, if its status is 200 (POD-010).
async fn fetch(net: &dyn Net, call: &FetchCall) -> Result<Vec<u8>, String> {
    let deadline = Instant::now() + call.within;
    let (mut url, mut login) = Url::parse(call.url.reveal())?;
    let first = url.host.clone();
    let mut headers = headers(call.headers.reveal())?;
    let mut from: Option<Url> = None;
    for requests in 1.. {
        let of = |url: &Url, why: &str| format!("Get \"{}\": {why}", url.told());
        let headers_now = headers_to(&url, &headers, login.as_ref(), from.as_ref())?;
        let answer = get(net, &url, headers_now, deadline).await.map_err(|why| of(&url, &why))?;
        let Some(location) = answer.location.filter(|to| !to.is_empty() && redirects(answer.status)) else {
            let body = answer.body?;
            return if answer.status == StatusCode::OK { Ok(body) } else { Err(status(&url, answer.status)) };
        };
        // Without what it leads to: it may name a login, or a query that is one.
        let next = url.resolve(&location).map_err(|why| match why {
            Unresolved::Malformed => of(&url, "failed to parse Location header"),
            Unresolved::Scheme(..) => of(&url, &why.told(&location)),
        })?;
        if requests >= MOST_REQUESTS {
            return Err(of(&url, &format!("stopped after {MOST_REQUESTS} redirects")));
        }
        if !is_same_or_below(&next.host, &first) {
            withhold_credentials(&mut headers);
        }
        login = Url::login_after(login, &location);
        from = Some(std::mem::replace(&mut url, next));
    }
    Err("stopped".to_owned())
}

fn status(url: &Url, status: StatusCode) -> String {
    format!("{}: {} {}", url.told(), status.as_u16(), status.canonical_reason().unwrap_or_default()).trim_end().to_owned()
}

/// What one request of several has: the headers that were given; the login of its own URL where none was given; and, but from HTTPS to
/// HTTP, where the server was sent from, unless that was given (refererForURL).
fn headers_to(url: &Url, given: &HeaderMap, login: Option<&Login>, from: Option<&Url>) -> Result<HeaderMap, String> {
    let mut headers = given.clone();
    if let Some(login) = login
        && given.get(AUTHORIZATION).is_none_or(HeaderValue::is_empty)
    {
        log_in(&mut headers, login)?;
    }
    if let Some(from) = from.filter(|from| !given.contains_key(REFERER) && (!from.https || url.https)) {
        set(&mut headers, REFERER, &from.told());
    }
    set(&mut headers, HOST, &url.authority());
    Ok(headers)
}

/// Once another host was asked, no request has them any more (makeHeadersCopier).
fn withhold_credentials(headers: &mut HeaderMap) {
    let secret = ["www-authenticate", "cookie2", "proxy-authorization", "proxy-authenticate"];
    let secret = secret.map(HeaderName::from_static).into_iter().chain([AUTHORIZATION, COOKIE]);
    secret.for_each(|name| while headers.remove(&name).is_some() {});
}

/// Go's `isDomainOrSubdomain`.
fn is_same_or_below(host: &str, parent: &str) -> bool {
    let above = host.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'));
    host == parent || (above && !host.contains([':', '%']))
}

async fn get(net: &dyn Net, url: &Url, headers: HeaderMap, deadline: Instant) -> Result<Answer, String> {
    let late = |_| TOO_LATE.to_owned();
    let mut request = Request::get(url.request_target()).body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
    *request.headers_mut() = headers;
    let (stream, heard) = timeout_at(deadline, open_verified(net, url.https, &url.host, url.port())).await.map_err(late)??;
    let said = |error: hyper::Error| exchange_error(&error, &heard.bytes());
    let mut builder = hyper::client::conn::http1::Builder::new();
    builder.title_case_headers(true).max_headers(MOST_ANSWER_HEADERS);
    let (mut sender, connection) =
        timeout_at(deadline, builder.handshake(TokioIo::new(stream))).await.map_err(late)?.map_err(said)?;
    let exchange = async {
        let answer = timeout_at(deadline, sender.send_request(request)).await.map_err(late)?.map_err(said)?;
        let (head, body) = answer.into_parts();
        let location = head.headers.get(LOCATION).map(|to| String::from_utf8_lossy(to.as_bytes()).into_owned());
        if redirects(head.status) && location.is_some() {
            return Ok(Answer { status: head.status, location, body: Ok(Vec::new()) });
        }
        let body = timeout_at(deadline, read(body)).await.map_err(|_| TOO_LATE_BODY.to_owned());
        let body = body.and_then(|read| read.map_err(said)).and_then(|read| read.ok_or("the read limit is reached".to_owned()));
        Ok(Answer { status: head.status, location, body })
    };
    over(connection, exchange).await
}

/// All of a body; `None` if it is too long.
async fn read(mut body: Incoming) -> hyper::Result<Option<Vec<u8>>> {
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            if read.len() + data.len() >= LIMIT {
                return Ok(None);
            }
            read.extend_from_slice(&data);
        }
    }
    Ok(Some(read))
}

/// What a request tells, but for the host.
fn headers(given: &BTreeMap<String, Vec<String>>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let full = |_| "the headers of staticPodURL are too many".to_owned();
    let mut agent: Option<&str> = Some("Go-http-client/1.1");
    for (name, values) in given {
        let told = || quote(name.as_bytes());
        let header =
            HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("net/http: invalid header field name {}", told()))?;
        if header == USER_AGENT {
            agent = values.first().map(String::as_str).filter(|agent| !agent.is_empty());
            continue;
        }
        if [HOST, CONTENT_LENGTH, TRANSFER_ENCODING, TRAILER].contains(&header) {
            continue;
        }
        for value in values {
            // Go trims what it writes.
            let value = HeaderValue::from_bytes(value.trim_matches([' ', '\t']).as_bytes());
            let value = value.map_err(|_| format!("net/http: invalid header field value for {}", told()))?;
            headers.try_append(header.clone(), value).map_err(full)?;
        }
    }
    if let Some(agent) = agent {
        set(&mut headers, USER_AGENT, agent);
    }
    Ok(headers)
}

fn log_in(headers: &mut HeaderMap, (user, password): &Login) -> Result<(), String> {
    let login = BASE64_STANDARD.encode([user, b":".as_slice(), password].concat());
    let value = HeaderValue::try_from(format!("Basic {login}")).map_err(|_| "net/url: invalid userinfo".to_owned())?;
    headers.insert(AUTHORIZATION, value);
    Ok(())
}

/// What cannot be a value is left out.
fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        let _set = headers.try_insert(name, value);
    }
}

#[cfg(test)]
mod tests;
