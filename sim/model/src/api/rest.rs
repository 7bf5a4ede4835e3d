//! What a method and a path ask for, and answers as bodies: the untyped door to the pretend API server.
//! Upstream: staging/src/k8s.io/apiserver/pkg/endpoints/{request/requestinfo.go,handlers}.
//! Differs: JSON only; server-side apply is not offered.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::ApiModel;
use super::authorize::Identity;
use super::discovery;
use super::error::ApiError;
use super::patch::PatchKind;
use super::request::{Reply, Request, Verb};
use super::resource::{self, Resource};
use super::selector::Selector;
use super::store::ChangeKind;
use super::table;

/// A request as HTTP has it.
#[derive(Clone, Copy, Debug)]
pub struct RestCall<'a> {
    /// The method.
    pub method: &'a str,
    /// The path, still encoded.
    pub path: &'a str,
    /// The query, still encoded.
    pub query: &'a str,
    /// `Content-Type`, or empty.
    pub content_type: &'a str,
    /// `Accept`, or empty.
    pub accept: &'a str,
    /// The body.
    pub body: &'a [u8],
}

/// What a path leads to.
#[derive(Clone, Debug)]
pub enum Route {
    /// A document that does not depend on what is stored.
    Document(Value),
    /// `ok`, in plain text.
    Health,
    /// A request for resources.
    Resource(Box<Routed>),
    /// A request to be carried on to a node: logs, exec, attach, port-forward, proxy.
    Connect(Box<Connect>),
}

/// A request for resources and how its answer is to look.
#[derive(Clone, Debug)]
pub struct Routed {
    /// The request.
    pub request: Request,
    /// The options of a list or a watch.
    pub options: ListOptions,
    /// Whether the answer is to be a Table, and with how much of each object in it.
    pub table: Option<table::Include>,
}

/// A request to be carried on to a node.
#[derive(Clone, Debug)]
pub struct Connect {
    /// What must be allowed.
    pub request: Request,
    /// The rest of the path, after `proxy/`.
    pub tail: String,
    /// The query, decoded.
    pub query: Vec<(String, String)>,
}

/// The options of a list or a watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// `resourceVersion`.
    pub revision: Option<u64>,
    /// `limit`.
    pub limit: usize,
    /// `continue`.
    pub resume: String,
    /// `allowWatchBookmarks`.
    pub bookmarks: bool,
    /// `sendInitialEvents`.
    pub initial_events: Option<bool>,
    /// `timeoutSeconds`.
    pub timeout_seconds: Option<u64>,
}

/// Finds out what is asked for.
///
/// # Errors
/// 404 for an unknown path, 400 or 415 for what cannot be understood.
pub fn route(call: &RestCall<'_>) -> Result<Route, ApiError> {
    let segments: Vec<String> = call.path.split('/').filter(|s| !s.is_empty()).map(decode).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    if let Some(document) = discovery::document(&segments) {
        return Ok(Route::Document(document));
    }
    match segments[..] {
        ["healthz" | "livez" | "readyz", ..] => Ok(Route::Health),
        ["api", "v1", ref rest @ ..] => resource_route(call, "", "v1", rest),
        ["apis", group, version, ref rest @ ..] => resource_route(call, group, version, rest),
        _ => Err(ApiError::no_such_path()),
    }
}

fn resource_route(call: &RestCall<'_>, group: &str, version: &str, rest: &[&str]) -> Result<Route, ApiError> {
    let (namespace, rest) = match rest {
        // `namespaces/x/status` is about the namespace, `namespaces/x/pods` about what is in it.
        ["namespaces", name, plural, ..] if !matches!(*plural, "status" | "finalize") => (*name, &rest[2..]),
        _ => ("", rest),
    };
    let (plural, name, subresource, tail) = match rest {
        [plural] => (*plural, "", "", String::new()),
        [plural, name] => (*plural, *name, "", String::new()),
        [plural, name, subresource, tail @ ..] => (*plural, *name, *subresource, tail.join("/")),
        [] => return Err(ApiError::no_such_path()),
    };
    let resource = resource::find(group, version, plural).ok_or_else(ApiError::no_such_path)?;
    if !resource.has(subresource) || (!resource.namespaced && !namespace.is_empty()) {
        return Err(ApiError::no_such_path());
    }
    let query = parse_query(call.query);
    let get = |key: &str| query.iter().find(|(k, _)| k == key).map_or("", |(_, v)| v.as_str());
    let truth = |key: &str| matches!(get(key), "true" | "1");
    let request = Request {
        verb: verb_of(call.method, name, subresource, truth("watch"))?,
        resource,
        subresource: subresource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        selector: Selector::parse(plural, get("labelSelector"), get("fieldSelector"))?,
        patch: PatchKind::Strategic,
        body: Value::Null,
        dry_run: get("dryRun") == "All",
    };
    if matches!(subresource, "log" | "exec" | "attach" | "portforward" | "proxy") {
        return Ok(Route::Connect(Box::new(Connect { request, tail, query })));
    }
    let mut routed = Routed { request, options: ListOptions::default(), table: table::wanted(call.accept, get("includeObject")) };
    read_body(call, &mut routed.request)?;
    if matches!(routed.request.verb, Verb::Delete | Verb::DeleteCollection) {
        delete_options(&mut routed.request.body, get("gracePeriodSeconds"), get("propagationPolicy"));
    }
    let revision = get("resourceVersion");
    routed.options = ListOptions {
        revision: if revision.is_empty() {
            None
        } else {
            Some(revision.parse().map_err(|_| ApiError::bad_request(format!("Invalid value: {revision:?}: strconv.ParseUint")))?)
        },
        limit: get("limit").parse().unwrap_or(0),
        resume: get("continue").to_owned(),
        bookmarks: truth("allowWatchBookmarks"),
        initial_events: if get("sendInitialEvents").is_empty() { None } else { Some(truth("sendInitialEvents")) },
        timeout_seconds: get("timeoutSeconds").parse().ok(),
    };
    Ok(Route::Resource(Box::new(routed)))
}

fn verb_of(method: &str, name: &str, subresource: &str, watch: bool) -> Result<Verb, ApiError> {
    Ok(match method {
        "GET" | "HEAD" if watch => Verb::Watch,
        "GET" | "HEAD" if name.is_empty() => Verb::List,
        "GET" | "HEAD" => Verb::Get,
        "POST" if name.is_empty() || !subresource.is_empty() => Verb::Create,
        "PUT" if !name.is_empty() => Verb::Update,
        "PATCH" if !name.is_empty() => Verb::Patch,
        "DELETE" if name.is_empty() => Verb::DeleteCollection,
        "DELETE" => Verb::Delete,
        _ => return Err(ApiError::not_allowed()),
    })
}

fn read_body(call: &RestCall<'_>, request: &mut Request) -> Result<(), ApiError> {
    let media = call.content_type.split(';').next().unwrap_or_default().trim();
    if request.verb == Verb::Patch {
        request.patch = match media {
            "application/strategic-merge-patch+json" => PatchKind::Strategic,
            "application/merge-patch+json" => PatchKind::Merge,
            "application/json-patch+json" => PatchKind::Json,
            _ => {
                return Err(unsupported(
                    "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json",
                ));
            }
        };
    } else if !call.body.is_empty() && !matches!(media, "" | "application/json" | "*/*") {
        return Err(unsupported("application/json"));
    }
    if !call.body.is_empty() {
        request.body = serde_json::from_slice(call.body).map_err(|e| {
            ApiError::bad_request(format!("the object provided is unrecognized (must be of type {}): {e}", request.resource.kind))
        })?;
    }
    Ok(())
}

fn unsupported(accepted: &str) -> ApiError {
    let message = format!("the body of the request was in an unknown format - accepted media types include: {accepted}");
    ApiError::new(415, "UnsupportedMediaType", message)
}

fn delete_options(body: &mut Value, grace: &str, propagation: &str) {
    if !body.is_object() {
        *body = json!({});
    }
    if let Ok(grace) = grace.parse::<i64>() {
        body["gracePeriodSeconds"] = grace.into();
    }
    if !propagation.is_empty() {
        body["propagationPolicy"] = propagation.into();
    }
}

/// Undoes percent encoding.
#[must_use]
pub fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped =
            (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten().and_then(|hex| u8::from_str_radix(hex, 16).ok());
        plain.push(escaped.unwrap_or(bytes[at]));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&plain).into_owned()
}

fn parse_query(query: &str) -> Vec<(String, String)> {
    let pair = |part: &str| {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        (decode(&key.replace('+', " ")), decode(&value.replace('+', " ")))
    };
    query.split('&').filter(|p| !p.is_empty()).map(pair).collect()
}

impl ApiModel {
    /// Answers a request that needs neither a watch nor a node: code and body. Health answers a string.
    pub fn rest(&mut self, now: Timestamp, who: &Identity, call: &RestCall<'_>) -> (u16, Value) {
        let refuse = |error: ApiError| (error.code, error.status());
        match route(call) {
            Err(error) => refuse(error),
            Ok(Route::Document(document)) => (200, document),
            Ok(Route::Health) => (200, "ok".into()),
            Ok(Route::Connect(_)) => refuse(ApiError::not_allowed()),
            Ok(Route::Resource(routed)) => self.answer(now, who, &routed).unwrap_or_else(refuse),
        }
    }

    /// Answers a request for resources; a watch is answered as the list that it would begin with.
    ///
    /// # Errors
    /// As the API server refuses.
    pub fn answer(&mut self, now: Timestamp, who: &Identity, routed: &Routed) -> Result<(u16, Value), ApiError> {
        let newest = self.store.revision();
        if let Some(asked) = routed.options.revision.filter(|asked| *asked > newest) {
            let mut error = ApiError::new(504, "Timeout", format!("Too large resource version: {asked}, current: {newest}"));
            error.retry_after = Some(std::time::Duration::from_secs(1));
            return Err(error);
        }
        let resource = routed.request.resource;
        Ok(match self.request(now, who, &routed.request)? {
            Reply::Object(object) => (200, self.shown(now, routed, &object)),
            Reply::Created(object) => (201, self.shown(now, routed, &object)),
            Reply::List { items, revision } => {
                let (items, metadata) = page(items, revision, &routed.options)?;
                let list = match routed.table {
                    Some(include) => table::table(resource, &items, include, metadata, now),
                    None => list_of(resource, &items, metadata),
                };
                (200, list)
            }
        })
    }

    fn shown(&self, now: Timestamp, routed: &Routed, object: &Arc<Value>) -> Value {
        match routed.table {
            Some(include) if object["kind"] == routed.request.resource.kind => {
                let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                table::table(routed.request.resource, std::slice::from_ref(object), include, metadata, now)
            }
            _ => (**object).clone(),
        }
    }
}

fn list_of(resource: &Resource, items: &[Arc<Value>], metadata: Value) -> Value {
    // Items of a list do not say what they are: the list does.
    let bare = |object: &Arc<Value>| {
        let mut object = (**object).clone();
        if let Some(map) = object.as_object_mut() {
            map.remove("kind");
            map.remove("apiVersion");
        }
        object
    };
    let items: Vec<Value> = items.iter().map(bare).collect();
    json!({"kind": format!("{}List", resource.kind), "apiVersion": resource.api_version(), "metadata": metadata, "items": items})
}

fn page(mut items: Vec<Arc<Value>>, revision: u64, options: &ListOptions) -> Result<(Vec<Arc<Value>>, Value), ApiError> {
    let key = |object: &Value| {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        (text("namespace"), text("name"))
    };
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if !options.resume.is_empty() {
        let token =
            URL_SAFE_NO_PAD.decode(&options.resume).ok().and_then(|t| serde_json::from_slice::<(u64, String, String)>(&t).ok());
        let (since, namespace, name) =
            token.ok_or_else(|| ApiError::bad_request("continue key is not valid: illegal base64 data"))?;
        metadata["resourceVersion"] = since.to_string().into();
        let after = (namespace, name);
        items.retain(|object| key(object) > after);
    }
    if options.limit > 0 && items.len() > options.limit {
        let left = items.split_off(options.limit);
        if let Some(last) = items.last() {
            let (namespace, name) = key(last);
            metadata["continue"] = URL_SAFE_NO_PAD.encode(json!([revision, namespace, name]).to_string()).into();
            metadata["remainingItemCount"] = left.len().into();
        }
    }
    Ok((items, metadata))
}

/// One event of a watch as its stream carries it.
#[must_use]
pub fn watch_event(routed: &Routed, kind: ChangeKind, object: &Arc<Value>, now: Timestamp) -> Value {
    let kind = match kind {
        ChangeKind::Added => "ADDED",
        ChangeKind::Modified => "MODIFIED",
        ChangeKind::Deleted => "DELETED",
    };
    let object = match routed.table {
        Some(include) => {
            let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
            table::table(routed.request.resource, std::slice::from_ref(object), include, metadata, now)
        }
        None => (**object).clone(),
    };
    json!({"type": kind, "object": object})
}

/// A bookmark: nothing happened up to that revision that has not been told.
#[must_use]
pub fn bookmark(resource: &Resource, revision: u64, initial_events_end: bool) -> Value {
    let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
    if initial_events_end {
        metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    let mut object = json!({"kind": resource.kind, "apiVersion": resource.api_version(), "metadata": metadata});
    if resource.plural == "pods" {
        object["spec"] = json!({"containers": null});
        object["status"] = json!({});
    }
    json!({"type": "BOOKMARK", "object": object})
}

/// The last event of a watch that cannot go on.
#[must_use]
pub fn error_event(error: &ApiError) -> Value {
    json!({"type": "ERROR", "object": error.status()})
}
