//! /configz: the configuration in force.
//! Upstream: k8s.io/component-base/configz.
//! Differs: nothing on purpose.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;

use super::{Shared, reply};

/// API-066
pub(crate) async fn configz(State(shared): State<Arc<Shared>>) -> Response {
    let body = serde_json::json!({ "kubeletconfig": shared.settings.configz });
    reply::nosniff(reply::json(body.to_string().into_bytes()))
}
