//! One HTTP request to the pretend API server and its answer.
//! Upstream: staging/src/k8s.io/apiserver/pkg/endpoints/{filters,handlers}.
//! Differs: no impersonation, no flow control but what a fault plan says.

use std::future::pending;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use jiff::Timestamp;
use model::api::authorize::Identity;
use model::api::error::ApiError;
use model::api::request::{Request, Verb};
use model::api::rest::{self, RestCall, Route, Routed};
use serde_json::Value;

use super::{ApiFault, ApiServer};

/// How large a body may be, as upstream has it.
const MAX_BODY: usize = 3 << 20;

pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

pub(super) fn text_response(code: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

pub(super) fn json_response(code: u16, body: &Value) -> Response<Body> {
    let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    text_response(code, "application/json", body.to_string())
}

pub(super) fn refusal(error: &ApiError) -> Response<Body> {
    let mut response = json_response(error.code, &error.status());
    if let Some(after) = error.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, after.as_secs().into());
    }
    response
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the simulator broke this connection")
}

fn fault_error(code: u16, after: Option<Duration>) -> ApiError {
    let (reason, message) = match code {
        429 => ("TooManyRequests", "Too many requests, please try again later."),
        503 => ("ServiceUnavailable", "the server is currently unable to handle the request"),
        504 => ("Timeout", "the server was unable to return a response in the time allotted"),
        _ => ("InternalError", "Internal error occurred: simulated failure"),
    };
    ApiError { retry_after: after, ..ApiError::new(code, reason, message) }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> &str {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

impl ApiServer {
    /// Answers one request. An error breaks the connection.
    pub(super) async fn handle(self, request: http::Request<Incoming>, identity: Option<Identity>) -> io::Result<Response<Body>> {
        let who = match self.who(request.headers(), identity) {
            Ok(who) => who,
            Err(error) => return Ok(refusal(&error)),
        };
        let method = request.method().clone();
        // Bodies come first: what is asked for depends on them only after the path is known, and connects have none.
        let (head, body) = request.into_parts();
        let (path, query) = (head.uri.path().to_owned(), head.uri.query().unwrap_or_default().to_owned());
        let call = |body| RestCall {
            method: method.as_str(),
            path: &path,
            query: &query,
            content_type: text(&head.headers, header::CONTENT_TYPE),
            accept: text(&head.headers, header::ACCEPT),
            body,
        };
        if let Ok(Route::Connect(connect)) = rest::route(&call(&[])) {
            let fault = self.before(&who, &connect.request).await?;
            if let ApiFault::Refuse { code, after } = fault {
                return Ok(refusal(&fault_error(code, after)));
            }
            return Ok(self.connect(&who, *connect, http::Request::from_parts(head, body)).await);
        }
        let body = match Limited::new(body, MAX_BODY).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => {
                return Ok(refusal(&ApiError::new(413, "RequestEntityTooLarge", format!("Request entity too large: {error}"))));
            }
        };
        let mut response = match rest::route(&call(&body)) {
            Err(error) => refusal(&error),
            Ok(Route::Document(document)) => json_response(200, &document),
            Ok(Route::Health) => text_response(StatusCode::OK, "text/plain; charset=utf-8", "ok"),
            Ok(Route::Connect(_)) => refusal(&ApiError::not_allowed()),
            Ok(Route::Resource(routed)) => self.resource(&who, *routed).await?,
        };
        if let Some(audit) = &self.audit {
            audit(&who, method.as_str(), &path, response.status().as_u16());
        }
        if method == Method::HEAD {
            *response.body_mut() = Full::default().map_err(|never| match never {}).boxed_unsync();
        }
        Ok(response)
    }

    /// Whom a request is from: its token, else its connection, else nobody.
    fn who(&self, headers: &HeaderMap, identity: Option<Identity>) -> Result<Identity, ApiError> {
        let Some(token) = text(headers, header::AUTHORIZATION).strip_prefix("Bearer ") else {
            return Ok(identity.unwrap_or_else(Identity::anonymous));
        };
        self.with(|model, now| model.authenticate(now, token)).ok_or_else(|| ApiError::new(401, "Unauthorized", "Unauthorized"))
    }

    /// What happens before a request has any effect.
    async fn before(&self, who: &Identity, request: &Request) -> io::Result<ApiFault> {
        let fault = (self.faults)(who, request);
        match fault {
            ApiFault::Hold => pending().await,
            ApiFault::Reset => Err(broken()),
            ApiFault::Slow(extra) => {
                tokio::time::sleep(extra).await;
                Ok(fault)
            }
            _ => Ok(fault),
        }
    }

    async fn resource(&self, who: &Identity, routed: Routed) -> io::Result<Response<Body>> {
        let fault = self.before(who, &routed.request).await?;
        if let ApiFault::Refuse { code, after } = fault {
            return Ok(refusal(&fault_error(code, after)));
        }
        if routed.request.verb == Verb::Watch {
            return Ok(self.watch(who, routed, fault == ApiFault::Silence).unwrap_or_else(|error| refusal(&error)));
        }
        let answer = self.with(|model, now: Timestamp| model.answer(now, who, &routed));
        if fault == ApiFault::Lost {
            return Err(broken());
        }
        Ok(match answer {
            Ok((code, body)) => json_response(code, &body),
            Err(error) => refusal(&error),
        })
    }
}
