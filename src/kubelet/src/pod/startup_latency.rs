//! Decides when a pod has started, for the metrics of how long that took.
//! Upstream: pkg/kubelet/util/pod_startup_latency_tracker.go.
//! Differs: the time of init containers is what the pod's status says of them.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, Volume};

use crate::facts::Fact;

/// Whether a pod that has just come is one whose start is measured: no agent has told of it before.
#[must_use]
pub fn is_new(pod: &Pod) -> bool {
    pod.status.as_ref().is_none_or(|status| status.start_time.is_none())
}

/// What is counted of a pod as the API server shows it, if all its containers have started; `pulling` is how long its images took.
#[must_use]
pub fn started(pod: &Pod, now: Timestamp, pulling: Duration) -> Option<Fact> {
    let status = pod.status.as_ref()?;
    let statuses = status.container_statuses.as_deref().filter(|statuses| !statuses.is_empty())?;
    let runs = |one: &ContainerStatus| {
        one.state.as_ref().and_then(|state| state.running.as_ref()).is_some_and(|running| running.started_at.is_some())
    };
    if !statuses.iter().all(runs) {
        return None;
    }
    let total = since(pod.metadata.creation_timestamp.as_ref()?.0, now);
    let spec = pod.spec.as_ref()?;
    let inits: Duration = status.init_container_statuses.iter().flatten().filter_map(ran_for).sum();
    let stateless = spec.volumes.iter().flatten().all(keeps_nothing);
    let sli = stateless.then(|| total.saturating_sub(pulling).saturating_sub(inits));
    Some(Fact::PodStarted { total, sli, networked: spec.host_network != Some(true) })
}

fn since(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or_default()
}

fn ran_for(init: &ContainerStatus) -> Option<Duration> {
    let ended = init.state.as_ref()?.terminated.as_ref()?;
    Some(since(ended.started_at.as_ref()?.0, ended.finished_at.as_ref()?.0))
}

fn keeps_nothing(volume: &Volume) -> bool {
    volume.secret.is_some()
        || volume.config_map.is_some()
        || volume.downward_api.is_some()
        || volume.empty_dir.is_some()
        || volume.projected.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(state: serde_json::Value, volume: serde_json::Value) -> Pod {
        let status = |state: serde_json::Value| serde_json::json!({"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state});
        let init = serde_json::json!({"terminated": {
            "exitCode": 0, "startedAt": "2026-11-23T08:00:01Z", "finishedAt": "2026-11-23T08:00:03Z",
        }});
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "creationTimestamp": "2026-11-23T08:00:00Z"},
            "spec": {"containers": [], "volumes": [volume]},
            "status": {"containerStatuses": [status(state)], "initContainerStatuses": [status(init)]},
        }))
        .unwrap()
    }

    // Upstream's TestMetrics in pod_startup_latency_tracker_test.go, and isStatefulPod: pulls and init containers are taken off, and of a
    // pod whose volumes keep something only the whole is told.
    #[test]
    fn a_pod_has_started_once_all_its_containers_run() {
        let now = "2026-11-23T08:00:10Z".parse().unwrap();
        let runs = serde_json::json!({"running": {"startedAt": "2026-11-23T08:00:05Z"}});
        let empty = serde_json::json!({"name": "v", "emptyDir": {}});
        let second = Duration::from_secs(1);
        let total = 10 * second;
        assert_eq!(
            started(&pod(runs.clone(), empty.clone()), now, 3 * second),
            Some(Fact::PodStarted { total, sli: Some(5 * second), networked: true })
        );
        let kept = serde_json::json!({"name": "v", "hostPath": {"path": "/x"}});
        assert_eq!(started(&pod(runs, kept), now, second), Some(Fact::PodStarted { total, sli: None, networked: true }));
        assert_eq!(started(&pod(serde_json::json!({"waiting": {}}), empty.clone()), now, second), None);
        assert!(is_new(&pod(serde_json::json!({}), empty)));
    }
}
