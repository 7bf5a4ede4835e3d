//! Decides what is counted of how containers start and end.
//! Upstream: pkg/kubelet/kuberuntime/kuberuntime_manager.go (SyncPod), pkg/kubelet/status/status_manager.go (checkAndRecordTerminations).
//! Differs: a start that fails again for the same reason is not counted again.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};

use super::status_containers::by_name;
use super::worker::{PodWorker, StartError};
use crate::facts::{ContainerType, Fact};
use crate::out::Out;

/// A container whose start had begun could not be started, for that reason.
pub fn count_failure(worker: &PodWorker, container: &str, reason: &str, out: &mut Out<'_>) {
    out.count(Fact::StartFailed(ContainerType::of(&worker.pod, container), reason.to_owned()));
}

/// Counts what could not even begin to start, for a reason that was not told before.
pub fn count_failures(worker: &PodWorker, before: &BTreeMap<String, StartError>, out: &mut Out<'_>) {
    for (container, error) in &worker.start_errors {
        // A restart that waits has not begun (doBackOff comes before the count).
        let news = before.get(container).is_none_or(|before| before.reason != error.reason);
        if news && error.reason != "CrashLoopBackOff" {
            let kind = ContainerType::of(&worker.pod, container);
            out.count(Fact::StartBegan(kind));
            out.count(Fact::StartFailed(kind, error.reason.clone()));
        }
    }
}

/// Counts the containers that have ended since the last status (upstream's checkAndRecordTerminations).
pub fn count_ends(old: Option<&PodStatus>, new: &PodStatus, out: &mut Out<'_>) {
    type Pick = fn(&PodStatus) -> &Option<Vec<ContainerStatus>>;
    let ended = |one: &ContainerStatus| one.state.as_ref().is_some_and(|state| state.terminated.is_some());
    let picks: [(ContainerType, Pick); 3] = [
        (ContainerType::Ordinary, |status| &status.container_statuses),
        (ContainerType::Init, |status| &status.init_container_statuses),
        (ContainerType::Ephemeral, |status| &status.ephemeral_container_statuses),
    ];
    for (kind, pick) in picks {
        let before = by_name(old.and_then(|status| pick(status).as_ref()).into_iter().flatten());
        for one in pick(new).iter().flatten() {
            let Some(end) = one.state.as_ref().and_then(|state| state.terminated.as_ref()) else { continue };
            if !before.get(one.name.as_str()).is_some_and(|before| ended(before)) {
                let (exit_code, reason) = (end.exit_code, end.reason.clone().unwrap_or_default());
                out.count(Fact::ContainerEnded { kind, exit_code, reason });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::ids::PodUid;
    use crate::out::Ledger;
    use crate::time::{Mono, Now};

    fn counted(count: impl FnOnce(&mut Out<'_>)) -> Vec<Fact> {
        let (mut ledger, mut actions, mut recorded, mut facts) = (Ledger::default(), Vec::new(), Vec::new(), Vec::new());
        count(&mut Out::new(&mut ledger, &mut actions, &mut recorded).that_counts(&mut facts));
        facts
    }

    fn status(state: serde_json::Value) -> PodStatus {
        let of = |name: &str| json!({"name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state});
        serde_json::from_value(json!({"containerStatuses": [of("main")], "initContainerStatuses": [of("first")]})).unwrap()
    }

    // checkAndRecordTerminations: once for each end, whatever came before it.
    #[test]
    fn end_of_a_container_is_counted_once() {
        let ended = status(json!({"terminated": {"exitCode": 3, "reason": "Error"}}));
        let ends = |kind| Fact::ContainerEnded { kind, exit_code: 3, reason: "Error".to_owned() };
        let both = [ends(ContainerType::Ordinary), ends(ContainerType::Init)];
        assert_eq!(counted(|out| count_ends(None, &ended, out)), both);
        assert_eq!(counted(|out| count_ends(Some(&status(json!({"running": {}}))), &ended, out)), both);
        assert_eq!(counted(|out| count_ends(Some(&ended), &ended, out)), []);
    }

    // A real kubelet counted ErrImagePull and ImagePullBackOff of a container whose image is nowhere.
    #[test]
    fn what_cannot_begin_to_start_is_counted_by_its_reason() {
        let now = Now { mono: Mono::ZERO, wall: jiff::Timestamp::UNIX_EPOCH };
        let pod = json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [], "initContainers": [{"name": "first"}]}});
        let mut worker = PodWorker::new(now, PodUid::new("u"), Arc::new(serde_json::from_value(pod).unwrap()), None);
        let error = |reason: &str| StartError { reason: reason.to_owned(), message: String::new() };
        worker.start_errors.insert("first".to_owned(), error("ErrImagePull"));
        let failed =
            |reason: &str| [Fact::StartBegan(ContainerType::Init), Fact::StartFailed(ContainerType::Init, reason.to_owned())];
        assert_eq!(counted(|out| count_failures(&worker, &BTreeMap::new(), out)), failed("ErrImagePull"));
        let before = worker.start_errors.clone();
        assert_eq!(counted(|out| count_failures(&worker, &before, out)), []);
        worker.start_errors.insert("first".to_owned(), error("ImagePullBackOff"));
        assert_eq!(counted(|out| count_failures(&worker, &before, out)), failed("ImagePullBackOff"));
        worker.start_errors.insert("first".to_owned(), error("CrashLoopBackOff"));
        assert_eq!(counted(|out| count_failures(&worker, &before, out)), []);
    }
}
