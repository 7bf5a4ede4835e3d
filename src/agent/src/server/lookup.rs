//! From the names in a path to a pod, a container, a sandbox: what logs and streams are asked for.
//! Upstream: pkg/kubelet/kubelet_pods.go (validateContainerLogStatus, findContainer), pkg/kubelet/container (Pods.FindPod).
//! Differs: the last observation is looked at first, the runtime only if that does not hold what was asked for.

use std::time::Duration;

use axum::response::Response;
use http::StatusCode;
use k8s_openapi::api::core::v1::{ContainerStatus as PodContainerStatus, Pod, PodStatus};
use kubelet::action::CriCall;
use kubelet::event::CriReply;
use kubelet::failure::{Failure, FailureKind};
use kubelet::ids::{ContainerId, PodUid, SandboxId};
use kubelet::observation::{ContainerState, ContainerStatus, Observed, SandboxState};

use super::{Shared, reply};

/// How long the runtime may take to say what it holds of a pod.
const OBSERVE: Duration = Duration::from_secs(10);

/// What the runtime holds of a pod, asked for now.
pub(crate) async fn observe(shared: &Shared, pod: &PodUid) -> Result<Observed, Failure> {
    let call = shared.env.runtime.call(CriCall::Observe { pod: pod.clone() });
    match tokio::time::timeout(OBSERVE, call).await {
        Ok(Ok(CriReply::Observation(observation))) => Ok(observation),
        Ok(Ok(other)) => Err(Failure::new(FailureKind::Other, format!("unexpected reply: {other:?}"))),
        Ok(Err(failure)) => Err(failure),
        Err(_) => Err(Failure::new(FailureKind::UnknownOutcome, "context deadline exceeded")),
    }
}

/// Looks at the last observation, and at a new one if nothing was found there.
async fn find<T>(shared: &Shared, pod: &PodUid, pick: impl Fn(&Observed) -> Option<T>) -> Result<Option<T>, Failure> {
    if let Some(seen) = shared.view.observation(pod.clone()).await
        && let Some(found) = pick(&seen)
    {
        return Ok(Some(found));
    }
    observe(shared, pod).await.map(|seen| pick(&seen))
}

/// The running instance of a container name (API-101).
pub(crate) async fn running_container(shared: &Shared, pod: &PodUid, name: &str) -> Result<Option<ContainerId>, Failure> {
    let pick = |seen: &Observed| {
        seen.containers.iter().find(|one| one.name == name && one.state == ContainerState::Running).map(|one| one.id.clone())
    };
    find(shared, pod, pick).await
}

/// The pod's newest sandbox (API-114), if anything of the pod runs: of no other pod upstream's runtime tells (GetPods).
pub(crate) async fn sandbox(shared: &Shared, pod: &PodUid) -> Result<Option<SandboxId>, Failure> {
    let pick = |seen: &Observed| {
        let runs = seen.sandboxes.iter().any(|one| one.state == SandboxState::Ready)
            || seen.containers.iter().any(|one| one.state == ContainerState::Running);
        seen.sandboxes.first().filter(|_| runs).map(|one| one.id.clone())
    };
    find(shared, pod, pick).await
}

/// One instance of a container, by its ID.
pub(crate) async fn instance(shared: &Shared, pod: &PodUid, id: &ContainerId) -> Result<Option<ContainerStatus>, Failure> {
    find(shared, pod, |seen| seen.containers.iter().find(|one| one.id == *id).cloned()).await
}

/// What is answered while the loop does not: that a pod is not there would be taken for final.
pub(crate) fn no_answer() -> Response {
    reply::text(StatusCode::SERVICE_UNAVAILABLE, "the sync loop does not answer")
}

/// A pod's UID.
pub(crate) fn uid(pod: &Pod) -> PodUid {
    PodUid::new(pod.metadata.uid.as_deref().unwrap_or_default())
}

/// Whether the spec names a container of whatever kind.
pub(crate) fn has_container(pod: &Pod, name: &str) -> bool {
    terminal(pod, name).is_some()
}

/// Whether a container of the spec has a terminal; `None` if there is no such container (API-110).
pub(crate) fn terminal(pod: &Pod, name: &str) -> Option<Terminal> {
    let spec = pod.spec.as_ref()?;
    let ordinary = spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|one| one.name == name);
    if let Some(container) = ordinary {
        return Some(Terminal { tty: container.tty == Some(true) });
    }
    let ephemeral = spec.ephemeral_containers.iter().flatten().find(|one| one.name == name)?;
    Some(Terminal { tty: ephemeral.tty == Some(true) })
}

/// What attaching needs to know of a container's spec.
pub(crate) struct Terminal {
    pub(crate) tty: bool,
}

/// The ID, with the runtime's name before it, of the instance whose log is asked for (API-084), or why there is none (API-085).
pub(crate) fn log_instance(pod: &Pod, container: &str, previous: bool) -> Result<String, String> {
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    let named = format!("container {container:?} in pod {pod_name:?}");
    let Some(status) = pod.status.as_ref().and_then(|status| container_status(status, container)) else {
        return Err(format!("{named} is not available"));
    };
    let id = |id: Option<&String>| id.filter(|id| !id.is_empty()).cloned();
    let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let last_id = last.and_then(|last| id(last.container_id.as_ref()));
    if previous {
        return last_id.ok_or_else(|| format!("previous terminated {named} not found"));
    }
    let state = status.state.as_ref();
    if state.is_some_and(|state| state.running.is_some()) {
        return id(status.container_id.as_ref()).ok_or_else(|| format!("{named} is not available"));
    }
    if let Some(terminated) = state.and_then(|state| state.terminated.as_ref()) {
        // It ends without an ID if the next instance could not be made.
        return id(terminated.container_id.as_ref()).or(last_id).ok_or_else(|| format!("{named} is terminated"));
    }
    if last.is_some() {
        return last_id.ok_or_else(|| format!("{named} is terminated"));
    }
    Err(match state.and_then(|state| state.waiting.as_ref()).map(|waiting| waiting.reason.as_deref().unwrap_or_default()) {
        Some("ErrImagePull") => format!("{named} is waiting to start: image can't be pulled"),
        Some("ImagePullBackOff") => format!("{named} is waiting to start: trying and failing to pull image"),
        Some(reason) => format!("{named} is waiting to start: {reason}"),
        None => format!("{named} is waiting to start - no logs yet"),
    })
}

fn container_status<'a>(status: &'a PodStatus, name: &str) -> Option<&'a PodContainerStatus> {
    let containers = status.container_statuses.iter().flatten();
    let init = status.init_container_statuses.iter().flatten();
    let ephemeral = status.ephemeral_container_statuses.iter().flatten();
    containers.chain(init).chain(ephemeral).find(|one| one.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(state: serde_json::Value) -> Pod {
        let mut status = state;
        status["name"] = "c".into();
        for (field, value) in [("image", "".into()), ("imageID", "".into()), ("ready", false.into()), ("restartCount", 0.into())] {
            status[field] = value;
        }
        let value = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" }, "status": { "containerStatuses": [status] },
        });
        serde_json::from_value(value).unwrap()
    }

    fn ended(id: &str) -> serde_json::Value {
        serde_json::json!({ "terminated": { "exitCode": 1, "containerID": id } })
    }

    #[test]
    fn the_instance_whose_log_is_shown_is_chosen_by_status() {
        // API-084
        let json = |value| pod(value);
        let running = json(serde_json::json!({ "state": { "running": {} }, "containerID": "r://2", "lastState": ended("r://1") }));
        assert_eq!(log_instance(&running, "c", false).unwrap(), "r://2");
        assert_eq!(log_instance(&running, "c", true).unwrap(), "r://1");
        let waiting =
            json(serde_json::json!({ "state": { "waiting": { "reason": "CrashLoopBackOff" } }, "lastState": ended("r://1") }));
        assert_eq!(log_instance(&waiting, "c", false).unwrap(), "r://1");
        let over = json(serde_json::json!({ "state": ended("r://3"), "lastState": ended("r://1") }));
        assert_eq!(log_instance(&over, "c", false).unwrap(), "r://3");
        let never_made = json(serde_json::json!({ "state": ended(""), "lastState": ended("r://1") }));
        assert_eq!(log_instance(&never_made, "c", false).unwrap(), "r://1");
    }

    #[test]
    fn each_reason_for_having_no_log_has_its_sentence() {
        // API-085
        let waiting = |reason: &str| pod(serde_json::json!({ "state": { "waiting": { "reason": reason } } }));
        let cases = [
            (waiting("ErrImagePull"), false, "container \"c\" in pod \"p\" is waiting to start: image can't be pulled"),
            (
                waiting("ImagePullBackOff"),
                false,
                "container \"c\" in pod \"p\" is waiting to start: trying and failing to pull image",
            ),
            (waiting("PodInitializing"), false, "container \"c\" in pod \"p\" is waiting to start: PodInitializing"),
            (waiting("X"), true, "previous terminated container \"c\" in pod \"p\" not found"),
            (pod(serde_json::json!({})), false, "container \"c\" in pod \"p\" is waiting to start - no logs yet"),
            (pod(serde_json::json!({ "state": ended("") })), false, "container \"c\" in pod \"p\" is terminated"),
        ];
        for (pod, previous, sentence) in cases {
            assert_eq!(log_instance(&pod, "c", previous).unwrap_err(), sentence);
        }
        assert_eq!(log_instance(&waiting("X"), "d", false).unwrap_err(), "container \"d\" in pod \"p\" is not available");
    }
}
