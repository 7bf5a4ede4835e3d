//! /statusz: which version runs, and since when.
//! Upstream: k8s.io/apiserver/pkg/server/statusz, k8s.io/component-base/zpages/statusz.
//! Differs: there is no Go, and so none of its versions; the text has one of upstream's two separators instead of a random one.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::header::{ACCEPT, WARNING};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::json;

use super::{Shared, reply};
use crate::config::KUBERNETES_VERSION;

/// As upstream begins the text.
const HEAD: &str = "\nkubelet statusz\nWarning: This endpoint is not meant to be machine parseable, has no formatting compatibility \
                    guarantees and is for debugging purposes only.\n";
/// What stands where upstream says which Go it was built with.
const NO_GO: &str = "none";
const PATHS: [&str; 4] = ["/configz", "/debug", "/healthz", "/metrics"];
const REFUSED: &str = "only the following media types are accepted: application/json, application/yaml, text/plain";
const DEPRECATED: HeaderValue =
    HeaderValue::from_static("299 - \"This version of the statusz endpoint is deprecated. Please use a newer version.\"");

/// What a client takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    /// JSON or YAML, of a version.
    Object {
        yaml: bool,
        deprecated: bool,
    },
}

/// API-067
pub(crate) async fn statusz(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let accepted = headers.get(ACCEPT).and_then(|accepted| accepted.to_str().ok()).unwrap_or_default();
    match form(accepted) {
        Some(Form::Text) => reply::text(StatusCode::OK, text(&shared)),
        Some(Form::Object { yaml, deprecated }) => object(&shared, yaml, deprecated),
        None => refused(accepted),
    }
}

/// The first form of those that a client takes (upstream's `negotiate`).
fn form(accepted: &str) -> Option<Form> {
    if accepted.trim().is_empty() {
        return Some(Form::Text);
    }
    accepted.split(',').find_map(|one| {
        let mut parts = one.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        let parameters: Vec<&str> = parts.collect();
        let version = |version: &str| ["as=Statusz", version, "g=config.k8s.io"].iter().all(|part| parameters.contains(part));
        let deprecated = version("v=v1alpha1");
        match kind {
            "*/*" | "text/plain" | "text/*" => Some(Form::Text),
            "application/json" | "application/yaml" if deprecated || version("v=v1beta1") => {
                Some(Form::Object { yaml: kind == "application/yaml", deprecated })
            }
            _ => None,
        }
    })
}

/// Versions as upstream writes them: without the letter, and of the emulated one no patch.
fn versions() -> (&'static str, &'static str) {
    let binary = KUBERNETES_VERSION.trim_start_matches('v');
    (binary, binary.rsplit_once('.').map_or(binary, |(minor, _)| minor))
}

fn seconds_up(shared: &Shared) -> i64 {
    (shared.env.clock.now().as_second() - shared.started.as_second()).max(0)
}

fn text(shared: &Shared) -> String {
    let (binary, emulated) = versions();
    let up = seconds_up(shared);
    let up = format!("{} hr {:02} min {:02} sec", up / 3600, up / 60 % 60, up % 60);
    let started = shared.started.strftime("%a %b %e %H:%M:%S UTC %Y");
    let paths = PATHS.join(" ");
    format!(
        "{HEAD}\nStarted: {started}\nUp: {up}\nGo version: {NO_GO}\nBinary version: {binary}\nEmulation version: {emulated}\nPaths: {paths}\n"
    )
}

fn object(shared: &Shared, yaml: bool, deprecated: bool) -> Response {
    let (binary, emulated) = versions();
    let version = if deprecated { "v1alpha1" } else { "v1beta1" };
    let started = shared.started.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let up = seconds_up(shared);
    let body = if yaml {
        let paths: String = PATHS.iter().map(|path| format!("- {path}\n")).collect();
        format!(
            "apiVersion: config.k8s.io/{version}\nbinaryVersion: {binary}\nemulationVersion: \"{emulated}\"\ngoVersion: {NO_GO}\n\
             kind: Statusz\nmetadata:\n  name: kubelet\npaths:\n{paths}startTime: \"{started}\"\nuptimeSeconds: {up}\n"
        )
    } else {
        let paths = json!(PATHS);
        format!(
            "{{\"kind\":\"Statusz\",\"apiVersion\":\"config.k8s.io/{version}\",\"metadata\":{{\"name\":\"kubelet\"}},\
             \"startTime\":\"{started}\",\"uptimeSeconds\":{up},\"goVersion\":\"{NO_GO}\",\"binaryVersion\":\"{binary}\",\
             \"emulationVersion\":\"{emulated}\",\"paths\":{paths}}}\n"
        )
    };
    let kind = match (yaml, deprecated) {
        (false, false) => HeaderValue::from_static("application/json;g=config.k8s.io;v=v1beta1;as=Statusz"),
        (false, true) => HeaderValue::from_static("application/json;g=config.k8s.io;v=v1alpha1;as=Statusz"),
        (true, false) => HeaderValue::from_static("application/yaml;g=config.k8s.io;v=v1beta1;as=Statusz"),
        (true, true) => HeaderValue::from_static("application/yaml;g=config.k8s.io;v=v1alpha1;as=Statusz"),
    };
    let mut response = reply::with_type(StatusCode::OK, kind, Body::from(body));
    if deprecated {
        response.headers_mut().insert(WARNING, DEPRECATED);
    }
    response
}

/// A `Status`: in one line for whoever takes JSON, spread out for the others.
fn refused(accepted: &str) -> Response {
    let body = if accepted.split(',').any(|one| one.trim() == "application/json") {
        format!(
            "{{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{{}},\"status\":\"Failure\",\"message\":\"{REFUSED}\",\
             \"reason\":\"NotAcceptable\",\"code\":406}}\n"
        )
    } else {
        format!(
            "{{\n  \"kind\": \"Status\",\n  \"apiVersion\": \"v1\",\n  \"metadata\": {{}},\n  \"status\": \"Failure\",\n  \
             \"message\": \"{REFUSED}\",\n  \"reason\": \"NotAcceptable\",\n  \"code\": 406\n}}"
        )
    };
    reply::with_type(StatusCode::NOT_ACCEPTABLE, HeaderValue::from_static("application/json"), Body::from(body))
}
