//! An HTTP probe or lifecycle hook: one GET, redirects on the same host followed; an answer from 200 to 299 is alive.
//! Upstream: pkg/probe/http/{http,request}.go, pkg/kubelet/lifecycle/handlers.go (runHTTPHandler), Go's net/http (Client).
//! Differs: what the headers of a spec may take is bounded (`kubelet::limits`).

use std::fmt::Display;
use std::time::Duration;

use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, LOCATION, RANGE, REFERER, TRAILER, TRANSFER_ENCODING,
    UPGRADE, USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use kubelet::event::ProbeOutcome;
use kubelet::failure::{Failure, FailureKind};
use kubelet::limits::check_headers;
use tokio::time::{Instant, timeout_at};

use crate::env::Net;
use crate::go_http::url::{Unresolved, Url};
use crate::go_http::wire::{HTTP_ON_HTTPS, exchange_error, open};
use crate::go_http::{MOST_ANSWER_HEADERS, MOST_REQUESTS, TOO_LATE, TOO_LATE_BODY, over, redirects};
use crate::go_text::quote;

/// POD-247: what of an answer is kept.
const BODY_LIMIT: usize = 10 * 1024;

/// What is probed.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) url: Url,
    /// As the spec has them.
    pub(super) headers: Vec<(String, String)>,
    /// Of a hook: any answer will do.
    pub(super) lifecycle: bool,
}

/// POD-247, POD-230.
///
/// # Errors
/// The answer's body could not be read: that says nothing of the container.
pub(super) async fn probe(net: &dyn Net, target: &Target, timeout: Duration) -> Result<ProbeOutcome, Failure> {
    let deadline = Instant::now() + timeout;
    let answer = match follow(net, target, deadline).await {
        Err(error) if target.lifecycle && target.url.https && error.ends_with(HTTP_ON_HTTPS) => {
            return Ok(without_tls(net, target, deadline).await.unwrap_or(ProbeOutcome::Failure(error)));
        }
        Err(error) => return Ok(ProbeOutcome::Failure(error)),
        Ok(answer) => answer,
    };
    if target.lifecycle { Ok(ProbeOutcome::Success) } else { judge(answer) }
}

/// A hook whose server speaks plain HTTP (POD-230); what worked is told as a warning.
async fn without_tls(net: &dyn Net, target: &Target, deadline: Instant) -> Option<ProbeOutcome> {
    let mut plain = target.clone();
    plain.url.https = false;
    plain.headers.retain(|(name, _)| !name.eq_ignore_ascii_case(AUTHORIZATION.as_str()));
    follow(net, &plain, deadline).await.ok()?;
    let host = target.url.authority();
    Some(ProbeOutcome::Warning(format!("request to HTTPS lifecycle hook {host} got HTTP response, retry with HTTP succeeded")))
}

/// What counts of an answer.
struct Answer {
    status: StatusCode,
    location: Option<String>,
    body: Result<Vec<u8>, String>,
}

/// The last answer: the first that is no redirect, or leads to another host.
async fn follow(net: &dyn Net, target: &Target, deadline: Instant) -> Result<Answer, String> {
    let of = |url: &Url, error: &dyn Display| format!("Get \"{url}\": {error}");
    let mut url = target.url.clone();
    let mut headers = headers(target).map_err(|error| of(&url, &error))?;
    // Whom it leads to is asked first, also where nothing can be asked.
    let elsewhere = |host: &str| host != target.url.host;
    for requests in 1.. {
        let answer = get(net, &url, headers.clone(), deadline).await.map_err(|error| of(&url, &error))?;
        let Some(location) = answer.location.clone().filter(|l| !l.is_empty() && redirects(answer.status)) else {
            return Ok(answer);
        };
        let next = match url.resolve(&location) {
            Err(Unresolved::Scheme(_, host)) if elsewhere(&host) => return Ok(answer),
            resolved => resolved.map_err(|why| of(&url, &why.told(&location)))?,
        };
        if elsewhere(&next.host) {
            return Ok(answer);
        }
        if requests >= MOST_REQUESTS {
            // Go names the location as it was written there.
            return Err(format!("Get {}: stopped after {MOST_REQUESTS} redirects", quote(location.as_bytes())));
        }
        redirect_headers(&mut headers, &url, &next, &location);
        url = next;
    }
    Err(of(&url, &"stopped"))
}

/// What changes with a redirect: a `Host` of the spec's own stays while the location names none, and the server is told where it
/// sent us from, but not from HTTPS to HTTP.
fn redirect_headers(headers: &mut HeaderMap, from: &Url, to: &Url, location: &str) {
    let own_host = headers.get(HOST).is_some_and(|host| host.as_bytes() != from.authority().as_bytes());
    let relative = !location.contains("://") && !location.starts_with("//");
    if !(own_host && relative) {
        set(headers, HOST, &to.authority());
    }
    if !from.https || to.https {
        let mut referer = from.to_string();
        referer.truncate(referer.find('#').unwrap_or(referer.len()));
        set(headers, REFERER, &referer);
    }
}

/// What cannot be a value is left out: these values are made of URLs that were taken apart and escaped.
fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        let _set = headers.try_insert(name, value);
    }
}

/// 200 to 299 is alive; a redirect that was not followed is, with a warning; all else is not (POD-247).
fn judge(answer: Answer) -> Result<ProbeOutcome, Failure> {
    let body = answer.body.map_err(|error| Failure::new(FailureKind::Other, error))?;
    Ok(match answer.status.as_u16() {
        200..=299 => ProbeOutcome::Success,
        300..=399 => {
            ProbeOutcome::Warning(format!("Probe terminated redirects, Response body: {}", String::from_utf8_lossy(&body)))
        }
        code => ProbeOutcome::Failure(format!("HTTP probe failed with statuscode: {code}")),
    })
}

/// The beginning of a body; what is beyond it is not waited for.
async fn read_at_most(mut body: Incoming) -> hyper::Result<Vec<u8>> {
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            let room = BODY_LIMIT - read.len();
            read.extend_from_slice(&data[..data.len().min(room)]);
        }
        if read.len() == BODY_LIMIT {
            break;
        }
    }
    Ok(read)
}

async fn get(net: &dyn Net, url: &Url, headers: HeaderMap, deadline: Instant) -> Result<Answer, String> {
    let late = |_| TOO_LATE.to_owned();
    let mut request = Request::get(url.request_target()).body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
    *request.headers_mut() = headers;
    let opening = open(net, url.https, &url.host, url.port());
    let (stream, heard) = timeout_at(deadline, opening).await.map_err(late)??;
    let said = |error: hyper::Error| exchange_error(&error, &heard.bytes());
    let mut builder = hyper::client::conn::http1::Builder::new();
    builder.title_case_headers(true).max_headers(MOST_ANSWER_HEADERS);
    // What old servers send, and Go takes.
    builder.allow_obsolete_multiline_headers_in_responses(true).allow_spaces_after_header_name_in_responses(true);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(said)?;
    let exchange = async {
        let answer = timeout_at(deadline, sender.send_request(request)).await.map_err(late)?.map_err(said)?;
        let (head, body) = answer.into_parts();
        transfer_coding(&head.headers)?;
        let body = timeout_at(deadline, read_at_most(body)).await.map_err(|_| TOO_LATE_BODY.to_owned());
        let location = head.headers.get(LOCATION).map(|l| String::from_utf8_lossy(l.as_bytes()).into_owned());
        Ok(Answer { status: head.status, location, body: body.and_then(|read| read.map_err(said)) })
    };
    over(connection, exchange).await
}

/// net/http/transfer.go (parseTransferEncoding): one coding, and that is `chunked`.
fn transfer_coding(headers: &HeaderMap) -> Result<(), String> {
    let codings: Vec<String> = headers.get_all(TRANSFER_ENCODING).iter().map(|coding| quote(coding.as_bytes())).collect();
    match codings.as_slice() {
        [] => Ok(()),
        [one] if one.eq_ignore_ascii_case("\"chunked\"") => Ok(()),
        [one] => Err(format!("unsupported transfer encoding: {one}")),
        several => Err(format!("too many transfer encodings: [{}]", several.join(" "))),
    }
}

/// What a request tells, in the order in which Go writes it: host, user agent, the others by name.
fn headers(target: &Target) -> Result<HeaderMap, String> {
    check_headers(&target.headers)?;
    let mut given: Vec<(HeaderName, &str)> = Vec::new();
    for (name, value) in &target.headers {
        let valid = HeaderName::from_bytes(name.as_bytes());
        given.push((valid.map_err(|_| format!("net/http: invalid header field name {}", quote(name.as_bytes())))?, value));
    }
    let first = |name: &HeaderName| given.iter().find(|(n, _)| n == name).map(|(_, value)| *value);
    let mut headers = HeaderMap::new();
    let authority = target.url.authority();
    let host = first(&HOST).filter(|host| !host.is_empty()).unwrap_or(&authority);
    add(&mut headers, &HOST, host)?;
    let agent = if target.lifecycle { "kube-lifecycle/1.36" } else { "kube-probe/1.36" };
    let agent = first(&USER_AGENT).unwrap_or(agent);
    if !agent.is_empty() {
        add(&mut headers, &USER_AGENT, agent)?;
    }
    // POD-247: an empty value takes the default away.
    match first(&ACCEPT) {
        None => given.push((ACCEPT, "*/*")),
        Some("") => given.retain(|(name, _)| name != ACCEPT),
        Some(_) => {}
    }
    given.retain(|(name, _)| ![HOST, USER_AGENT, CONTENT_LENGTH, TRANSFER_ENCODING, TRAILER].contains(name));
    given.sort_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
    for (name, value) in &given {
        add(&mut headers, name, value)?;
    }
    // A hook has Go's usual client, a probe one that keeps no connections and unpacks nothing (net/http, Transport.roundTrip).
    if target.lifecycle && !headers.contains_key(ACCEPT_ENCODING) && !headers.contains_key(RANGE) {
        add(&mut headers, &ACCEPT_ENCODING, "gzip")?;
    }
    let switches = headers.contains_key(UPGRADE) && has_token(&headers, "upgrade");
    if !target.lifecycle && !switches && !has_token(&headers, "close") {
        add(&mut headers, &CONNECTION, "close")?;
    }
    Ok(headers)
}

/// Whether the spec's own header `Connection` has that token.
fn has_token(headers: &HeaderMap, token: &str) -> bool {
    let first = headers.get(CONNECTION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    first.split([',', ' ', '\t']).any(|word| word.eq_ignore_ascii_case(token))
}

/// A header's name as Go writes it: each word with a capital.
fn canonical(name: &HeaderName) -> String {
    let mut begins = true;
    let letter = |letter: char| {
        let written = if begins { letter.to_ascii_uppercase() } else { letter };
        begins = letter == '-';
        written
    };
    name.as_str().chars().map(letter).collect()
}

fn add(headers: &mut HeaderMap, name: &HeaderName, value: &str) -> Result<(), String> {
    // Go trims what it writes.
    let valid = HeaderValue::from_bytes(value.trim_matches([' ', '\t']).as_bytes());
    let valid = valid.map_err(|_| format!("net/http: invalid header field value for {}", quote(canonical(name).as_bytes())))?;
    headers.try_append(name, valid).map(|_| ()).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests;
