//! How the pretend API server refuses: a code, a reason and upstream's words, as a Status object or as a `Failure`.
//! Upstream: k8s.io/apimachinery/pkg/api/errors.
//! Differs: only the refusals that this server makes.

use std::time::Duration;

use kubelet::failure::{Failure, FailureKind};
use serde_json::{Value, json};

use super::resource::Resource;

/// One refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// The HTTP status code.
    pub code: u16,
    /// The machine-readable reason, such as `NotFound`.
    pub reason: &'static str,
    /// What people read.
    pub message: String,
    /// The object's group, plural and name, where they are known.
    pub about: Option<(&'static str, &'static str, String)>,
    /// When to come back.
    pub retry_after: Option<Duration>,
}

impl ApiError {
    /// A refusal that is about nothing in particular.
    #[must_use]
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), about: None, retry_after: None }
    }

    fn about(code: u16, reason: &'static str, resource: &Resource, name: &str, message: String) -> Self {
        Self { about: Some((resource.group, resource.plural, name.to_owned())), ..Self::new(code, reason, message) }
    }

    /// 404 for an object.
    #[must_use]
    pub fn not_found(resource: &Resource, name: &str) -> Self {
        Self::about(404, "NotFound", resource, name, format!("{} {name:?} not found", resource.qualified()))
    }

    /// 404 for a path that no resource answers to.
    #[must_use]
    pub fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    /// 405.
    #[must_use]
    pub fn not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    /// 409 for a create.
    #[must_use]
    pub fn already_exists(resource: &Resource, name: &str) -> Self {
        Self::about(409, "AlreadyExists", resource, name, format!("{} {name:?} already exists", resource.qualified()))
    }

    /// 409 for an update.
    #[must_use]
    pub fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", resource.qualified());
        Self::about(409, "Conflict", resource, name, message)
    }

    /// 403.
    #[must_use]
    pub fn forbidden(resource: &Resource, name: &str, why: &str) -> Self {
        let what = if name.is_empty() { resource.qualified() } else { format!("{} {name:?}", resource.qualified()) };
        Self::about(403, "Forbidden", resource, name, format!("{what} is forbidden: {why}"))
    }

    /// 422.
    #[must_use]
    pub fn invalid(resource: &Resource, name: &str, why: &str) -> Self {
        Self::about(
            422,
            "Invalid",
            resource,
            name,
            format!("{}{} {name:?} is invalid: {why}", resource.kind, resource.dotted_group()),
        )
    }

    /// 400.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 410: the history does not reach back that far.
    #[must_use]
    pub fn expired(asked: u64, oldest: u64) -> Self {
        Self::new(410, "Expired", format!("too old resource version: {asked} ({oldest})"))
    }

    /// The refusal as the API's Status object.
    #[must_use]
    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        let mut details = serde_json::Map::new();
        if let Some((group, plural, name)) = &self.about {
            for (key, value) in [("name", name.as_str()), ("group", *group), ("kind", *plural)] {
                if !value.is_empty() {
                    details.insert(key.to_owned(), value.into());
                }
            }
        }
        if let Some(after) = self.retry_after {
            details.insert("retryAfterSeconds".to_owned(), after.as_secs().into());
        }
        if !details.is_empty() {
            status["details"] = details.into();
        }
        status
    }

    /// The refusal as the agent's API adapter classifies it.
    #[must_use]
    pub fn failure(&self) -> Failure {
        let kind = match (self.code, self.reason) {
            (404, _) => FailureKind::NotFound,
            (409, "AlreadyExists") => FailureKind::AlreadyExists,
            (409, _) => FailureKind::Conflict,
            (410, _) => FailureKind::Gone,
            (401, _) => FailureKind::Unauthorized,
            (403, _) => FailureKind::Forbidden,
            (429, _) => FailureKind::Throttled { after: self.retry_after },
            (400 | 405 | 415 | 422, _) => FailureKind::Invalid,
            (500.., _) => FailureKind::Unavailable,
            _ => FailureKind::Other,
        };
        Failure::new(kind, self.message.clone())
    }
}
