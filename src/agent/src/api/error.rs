//! What a request that did not succeed means: classified once, here.
//! Upstream: staging/src/k8s.io/apimachinery/pkg/api/errors.
//! Differs: nothing on purpose.

use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use kubelet::failure::{Failure, FailureKind};
use serde::Deserialize;

/// As long as anybody may ask us to stay away: a server, or what is before it, may err, and nothing is watched meanwhile.
const RETRY_AFTER_MOST: Duration = Duration::from_secs(300);

/// What of a `Status` object is read.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Status {
    pub(super) message: String,
    pub(super) reason: String,
    pub(super) code: u16,
    details: Option<Details>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Details {
    retry_after_seconds: u64,
    causes: Vec<Cause>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cause {
    reason: String,
}

/// Whether something was refused because its namespace is being deleted: that is normal, and nobody need look at it.
pub(super) fn is_of_a_namespace_that_goes(body: &[u8]) -> bool {
    let told: Status = serde_json::from_slice(body).unwrap_or_default();
    told.details.is_some_and(|details| details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating"))
}

/// An answer that is not a success.
pub(super) fn refused(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Failure {
    let told: Status = serde_json::from_slice(body).unwrap_or_default();
    let header = headers.get(RETRY_AFTER).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
    let after = header.or(told.details.as_ref().map(|d| d.retry_after_seconds)).filter(|s| *s > 0).map(Duration::from_secs);
    let after = after.map(|after| after.min(RETRY_AFTER_MOST));
    let asked = header.is_some() || after.is_some();
    let message = if told.message.is_empty() {
        let text: String = String::from_utf8_lossy(body).trim().chars().take(512).collect();
        if text.is_empty() { format!("the server answered {status}") } else { text }
    } else {
        told.message
    };
    let kind = match kind_of(status.as_u16(), &told.reason) {
        // client-go/rest/with_retry.go (checkWait), SuggestsClientDelay: any 5xx may ask for it, and is asked again then.
        FailureKind::Throttled { .. } => FailureKind::Throttled { after },
        FailureKind::Unavailable if asked => FailureKind::Throttled { after },
        kind => kind,
    };
    Failure::new(kind, message).with_status(status.as_u16())
}

/// An error that came within a watch.
pub(super) fn in_watch(status: &Status) -> Failure {
    Failure::new(kind_of(status.code, &status.reason), status.message.clone())
}

/// Whether a server whose cache is behind was asked for what it has not seen yet.
pub(super) fn is_too_large_revision(failure: &Failure) -> bool {
    // As client-go does for servers that give no cause; the message is the same in all.
    failure.message.contains("Too large resource version")
}

fn kind_of(code: u16, reason: &str) -> FailureKind {
    match code {
        401 => FailureKind::Unauthorized,
        403 => FailureKind::Forbidden,
        404 => FailureKind::NotFound,
        409 if reason == "AlreadyExists" => FailureKind::AlreadyExists,
        409 => FailureKind::Conflict,
        410 => FailureKind::Gone,
        429 => FailureKind::Throttled { after: None },
        400 | 405 | 406 | 413 | 415 | 422 => FailureKind::Invalid,
        // The server may have done it before the gateway gave up.
        504 => FailureKind::UnknownOutcome,
        500..=599 => FailureKind::Unavailable,
        _ => FailureKind::Other,
    }
}

/// A request that got no answer. What was never sent had no effect; of what was, nobody knows.
pub(super) fn transport(error: &kube::Error, reads: bool) -> Failure {
    let mut text = String::new();
    let mut unsent = reads;
    let mut next: Option<&dyn std::error::Error> = Some(error);
    while let Some(cause) = next {
        if let Some(client) = cause.downcast_ref::<hyper_util::client::legacy::Error>() {
            unsent |= client.is_connect();
            // What went wrong, not who passes it on.
            if cause.source().is_some() {
                text.clear();
                next = cause.source();
                continue;
            }
        }
        let more = cause.to_string();
        if !text.contains(&more) {
            text = if text.is_empty() { more } else { format!("{text}: {more}") };
        }
        next = cause.source();
    }
    Failure::new(if unsent { FailureKind::Unavailable } else { FailureKind::UnknownOutcome }, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    // apiserver/pkg/admission/plugin/namespace/lifecycle/admission.go gives the cause, client-go tools/record/event.go looks for it.
    #[test]
    fn what_a_namespace_that_is_deleted_takes_no_more_is_known() {
        let body = |causes: &str| {
            format!(
                r#"{{"kind":"Status","status":"Failure","message":"events \"p.1\" is forbidden: unable to create new content in namespace
                    ns because it is being terminated","reason":"Forbidden","details":{{"name":"p.1","kind":"events"{causes}}},"code":403}}"#
            )
            .replace('\n', " ")
        };
        let causes = r#","causes":[{"reason":"NamespaceTerminating","message":"namespace ns is being terminated","field":"metadata.namespace"}]"#;
        assert!(is_of_a_namespace_that_goes(body(causes).as_bytes()));
        assert!(!is_of_a_namespace_that_goes(body("").as_bytes()));
        assert!(!is_of_a_namespace_that_goes(b"no"));
    }

    // API-220
    #[test]
    fn throttling_tells_when_to_come_back() {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, "7".parse().unwrap());
        let failure = refused(StatusCode::TOO_MANY_REQUESTS, &headers, b"");
        assert_eq!(failure.kind, FailureKind::Throttled { after: Some(Duration::from_secs(7)) });
        // S16
        for giant in ["31536000", "18446744073709551615"] {
            headers.insert(RETRY_AFTER, giant.parse().unwrap());
            let failure = refused(StatusCode::TOO_MANY_REQUESTS, &headers, b"");
            assert_eq!(failure.kind, FailureKind::Throttled { after: Some(Duration::from_secs(300)) });
        }
    }

    // API-023, API-220: client-go/rest/with_retry.go, checkWait: 429 and every 5xx, if there is such a header.
    #[test]
    fn server_that_cannot_now_tells_when_to_come_back() {
        let kind = |status: u16, after: Option<&str>, body: &str| {
            let headers = after.map(|after| (RETRY_AFTER, after.parse().unwrap()));
            refused(StatusCode::from_u16(status).unwrap(), &headers.into_iter().collect(), body.as_bytes()).kind
        };
        let throttled = |after: Option<u64>| FailureKind::Throttled { after: after.map(Duration::from_secs) };
        assert_eq!(kind(503, Some("7"), ""), throttled(Some(7)));
        assert_eq!(kind(500, Some("0"), ""), throttled(None));
        // errors.go, SuggestsClientDelay.
        assert_eq!(kind(500, None, r#"{"reason":"ServerTimeout","details":{"retryAfterSeconds":2}}"#), throttled(Some(2)));
        assert_eq!(kind(503, Some("Wed, 21 Oct 2026 07:28:00 GMT"), ""), FailureKind::Unavailable);
        assert_eq!(kind(503, None, ""), FailureKind::Unavailable);
        assert_eq!(kind(404, Some("7"), ""), FailureKind::NotFound);
        // Whether it was done is not known all the same.
        assert_eq!(kind(504, Some("7"), ""), FailureKind::UnknownOutcome);
    }

    #[test]
    fn conflicts_of_creates_and_of_updates_differ() {
        let body = br#"{"kind":"Status","reason":"AlreadyExists","message":"nodes \"n1\" already exists","code":409}"#;
        let failure = refused(StatusCode::CONFLICT, &HeaderMap::new(), body);
        assert_eq!((failure.kind, failure.message.as_str()), (FailureKind::AlreadyExists, "nodes \"n1\" already exists"));
        assert_eq!(refused(StatusCode::CONFLICT, &HeaderMap::new(), b"{}").kind, FailureKind::Conflict);
    }

    // API-147: what calls are counted by is the status of the answer, whatever it means to decisions.
    #[test]
    fn status_of_an_answer_is_kept() {
        for status in [400, 404, 500, 503, 504] {
            let refused = refused(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), b"{}");
            assert_eq!((refused.status, refused.rpc_message()), (Some(status), refused.message.clone()));
        }
    }

    #[test]
    fn mangled_refusal_is_a_failure() {
        let seed = br#"{"kind":"Status","status":"Failure","message":"m","reason":"TooManyRequests","code":429,"details":{"retryAfterSeconds":18446744073709551615,"causes":[{"reason":"NamespaceTerminating"}]}}"#;
        crate::mangled::each("status", &[seed, b"18446744073709551615"], |input| {
            let mut headers = HeaderMap::new();
            if let Ok(value) = http::HeaderValue::from_bytes(input) {
                headers.insert(RETRY_AFTER, value);
            }
            for code in [429, 404, 500, 999] {
                let failure = refused(StatusCode::from_u16(code).unwrap(), &headers, input);
                assert!(!failure.message.is_empty());
            }
            let _about = is_of_a_namespace_that_goes(input);
            let _in_watch = serde_json::from_slice(input).map(|status| in_watch(&status));
        });
    }
}
