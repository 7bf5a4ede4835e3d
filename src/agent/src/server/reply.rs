//! Answers in plain text, which is what all errors are (API-010).
//! Upstream: net/http (Error), github.com/emicklei/go-restful (WriteErrorString).
//! Differs: nothing on purpose.

use axum::body::Body;
use axum::response::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderName, StatusCode};

const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const NOSNIFF: (HeaderName, HeaderValue) = (http::header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));

/// A body of plain text, as it stands.
pub(crate) fn text(status: StatusCode, body: impl Into<String>) -> Response {
    with_type(status, PLAIN, Body::from(body.into()))
}

/// Go's `http.Error`: the body gets a line feed, and browsers may not guess its type.
pub(crate) fn error_line(status: StatusCode, body: impl Into<String>) -> Response {
    let mut body = body.into();
    body.push('\n');
    nosniff(text(status, body))
}

/// A body of JSON.
pub(crate) fn json(body: Vec<u8>) -> Response {
    with_type(StatusCode::OK, HeaderValue::from_static("application/json"), Body::from(body))
}

/// The same answer, whose type browsers may not guess.
pub(crate) fn nosniff(mut response: Response) -> Response {
    let (name, value) = NOSNIFF;
    response.headers_mut().insert(name, value);
    response
}

/// An answer without a type of content.
pub(crate) fn bare(status: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

pub(crate) fn with_type(status: StatusCode, content_type: HeaderValue, body: Body) -> Response {
    let mut response = bare(status, body);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
