//! /configz: the configuration in force.
//! Upstream: k8s.io/component-base/configz.
//! Differs: nothing on purpose.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;

use super::{Shared, reply};

/// API-066
pub(crate) async fn configz(State(shared): State<Arc<Shared>>) -> Response {
    let mut configuration = shared.settings.configz.clone();
    // Upstream asks the runtime before it shows this (cmd/kubelet/app/server.go, getCgroupDriverFromCRI); here that comes later.
    if let Some(driver) = shared.view.cgroup_driver().await
        && let Some(field) = configuration.get_mut("cgroupDriver")
    {
        *field = driver.into();
    }
    let body = serde_json::json!({ "kubeletconfig": configuration });
    reply::nosniff(reply::json(body.to_string().into_bytes()))
}
