//! What a planned or drawn fault means on the wires: for a request of the API server, a call of the runtime, an operation.
//! Upstream: none.
//! Differs: nothing on purpose.

use std::future::pending;
use std::time::Duration;

use kubelet::failure::{Failure, FailureKind};
use model::api::request::{Request, Verb};
use model::faults::Fate;
use tokio::sync::oneshot;

use crate::apiserver::ApiFault;
use crate::cri::CallFault;

/// The core's name of a request, by which faults are planned; none for what is not a call of the core's.
pub(super) fn name_of(request: &Request) -> Option<&'static str> {
    let status = request.subresource == "status";
    Some(match (request.verb, request.resource.plural) {
        (Verb::Get, "nodes") => "GetNode",
        (Verb::Create, "nodes") => "CreateNode",
        (Verb::Patch, "nodes") if status => "PatchNodeStatus",
        (Verb::Get, "leases") => "GetLease",
        (Verb::Create, "leases") => "CreateLease",
        (Verb::Update, "leases") => "UpdateLease",
        (Verb::Get, "csinodes") => "GetCsiNode",
        (Verb::Create, "csinodes") => "CreateCsiNode",
        (Verb::Update, "csinodes") => "UpdateCsiNode",
        (Verb::Delete, "csinodes") => "DeleteCsiNode",
        (Verb::Get, "persistentvolumeclaims") => "GetPersistentVolumeClaim",
        (Verb::Get, "persistentvolumes") => "GetPersistentVolume",
        (Verb::Get, "volumeattachments") => "GetVolumeAttachment",
        (Verb::Get, "pods") => "GetPod",
        (Verb::Create, "pods") => "CreatePod",
        (Verb::Patch, "pods") if status => "PatchPodStatus",
        (Verb::Delete, "pods") => "DeletePod",
        (Verb::Get, "configmaps" | "secrets") => "GetObject",
        (Verb::Create, "serviceaccounts") if request.subresource == "token" => "CreateToken",
        (Verb::Create, "events") => "CreateEvent",
        (Verb::Patch, "events") => "PatchEvent",
        _ => return None,
    })
}

/// What the API server does about a request with that fate.
pub(super) fn of_request(fate: Fate) -> ApiFault {
    match fate {
        Fate::Well => ApiFault::None,
        Fate::Fails(Failure { kind, .. }) => match kind {
            FailureKind::Throttled { after } => ApiFault::Refuse { code: 429, after },
            FailureKind::Unavailable => ApiFault::Refuse { code: 503, after: None },
            FailureKind::Conflict => ApiFault::Refuse { code: 409, after: None },
            _ => ApiFault::Refuse { code: 500, after: None },
        },
        Fate::Lost => ApiFault::Hold,
        Fate::ReplyLost => ApiFault::Lost,
        Fate::Late(more) | Fate::Slow(more) => ApiFault::Slow(more),
    }
}

/// What the runtime does about a call with that fate.
pub(super) fn of_call(fate: Fate) -> CallFault {
    match fate {
        Fate::Well => CallFault::None,
        Fate::Fails(failure) => CallFault::Error(failure),
        Fate::Lost => CallFault::Hang,
        Fate::ReplyLost => CallFault::Lost,
        Fate::Late(after) => CallFault::Late(after),
        Fate::Slow(extra) => CallFault::Slow(extra),
    }
}

/// Does something that takes its time and meets its fate; the effect may come long after the caller has given up.
pub(super) async fn met<T: Send + 'static>(
    fate: Fate,
    takes: Duration,
    effect: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match fate {
        Fate::Well => tokio::time::sleep(takes).await,
        Fate::Slow(more) => tokio::time::sleep(takes + more).await,
        Fate::Fails(failure) => {
            tokio::time::sleep(takes).await;
            return Err(failure);
        }
        Fate::Lost => return pending().await,
        Fate::ReplyLost => {
            tokio::time::sleep(takes).await;
            effect().ok();
            return pending().await;
        }
        Fate::Late(after) => {
            // Dropped with this future: when the caller gives up.
            let (_held, given_up) = oneshot::channel::<()>();
            tokio::spawn(async move {
                given_up.await.ok();
                tokio::time::sleep(after).await;
                effect().ok();
            });
            return pending().await;
        }
    }
    effect()
}
