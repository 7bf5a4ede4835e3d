//! Decides when all containers of a pod begin anew because one of them ended so, and what users are told meanwhile.
//! Upstream: pkg/kubelet/container/helpers.go (ShouldAllContainersRestart), kuberuntime_manager.go (getContainersToReset), status/generate.go.
//! Differs: it waits for the back-off of the container that asks for it; upstream does it at once, however often.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState as ApiState, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus as ApiStatus, Pod,
    PodCondition, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::restart::{RESTART_ALL, matching_action};
use crate::observation::{ContainerState, ContainerStatus, PodObservation};

/// Whether all containers are to begin anew.
pub const CONDITION: &str = "AllContainersRestarting";
/// The reason of a container that was removed for it.
pub const REMOVED: &str = "RestartingAllContainers";
const REMOVED_MESSAGE: &str = "The container is removed because RestartAllContainers in place";

fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
}

/// Whether any container may ask for it (upstream's AllContainersCouldRestart).
#[must_use]
pub fn is_possible(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(restarts_all)
}

/// The same of a spec.
#[must_use]
pub fn restarts_all(spec: &PodSpec) -> bool {
    let mut all = spec.init_containers.iter().flatten().chain(&spec.containers);
    all.any(|c| c.restart_policy_rules.iter().flatten().any(|rule| rule.action == RESTART_ALL))
}

fn asks(container: &Container, exit_code: i32) -> bool {
    matching_action(container, exit_code) == Some(RESTART_ALL)
}

/// Whether all containers are to begin anew, until everything of them is removed (POD-128). `before` is the status as last computed, or
/// as the API server has it.
#[must_use]
pub fn is_under_way(pod: &Pod, seen: &PodObservation, before: Option<&PodStatus>) -> bool {
    if !is_possible(pod) {
        return false;
    }
    if is_told(before) {
        return true;
    }
    let (newest, told) = (seen.newest_by_name(), told_codes(before));
    // As upstream: only a container that is there and has ended asks, by its end or by what was told of it.
    let has_asked = |c: &Container| {
        let ended = newest.get(c.name.as_str()).filter(|one| one.state == ContainerState::Exited);
        ended.is_some_and(|one| asks(c, one.exit_code) || told.get(c.name.as_str()).is_some_and(|code| asks(c, *code)))
    };
    containers(pod).any(has_asked)
}

/// With which exit code containers ended, by what was told of them.
fn told_codes(before: Option<&PodStatus>) -> BTreeMap<&str, i32> {
    let told = before.into_iter().flat_map(|s| s.init_container_statuses.iter().chain(&s.container_statuses).flatten());
    told.filter_map(|c| Some((c.name.as_str(), c.state.as_ref()?.terminated.as_ref()?.exit_code))).collect()
}

/// Whether a status tells that it is under way.
#[must_use]
pub fn is_told(status: Option<&PodStatus>) -> bool {
    let conditions = status.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == CONDITION && c.status == "True")
}

/// A container to remove.
#[derive(Clone, Copy, Debug)]
pub struct Reset<'a> {
    /// Which.
    pub container: &'a ContainerStatus,
    /// Whether it may run and is killed first.
    pub kill: bool,
}

/// What is removed, in that order: regular containers, init containers, and last those that asked for it, so that whoever comes in
/// between sees that it is not over.
#[must_use]
pub fn resets<'a>(pod: &Pod, seen: &'a PodObservation) -> Vec<Reset<'a>> {
    let spec = pod.spec.as_ref();
    let regular = spec.map(|s| s.containers.as_slice()).unwrap_or_default();
    let inits = spec.and_then(|s| s.init_containers.as_deref()).unwrap_or_default();
    let all = seen.instances_by_name();
    let of = |list: &[Container], asking: bool| -> Vec<Reset<'a>> {
        let of_one = |spec: &Container| all.get(spec.name.as_str()).into_iter().flatten().copied();
        let instances = list.iter().flat_map(|spec| of_one(spec).map(move |c| (spec, c)));
        let asks = |spec: &Container, c: &ContainerStatus| c.state == ContainerState::Exited && asks(spec, c.exit_code);
        instances
            .filter(|(spec, c)| asks(spec, c) == asking)
            .map(|(_, container)| Reset { container, kill: container.state != ContainerState::Exited })
            .collect()
    };
    [of(regular, false), of(inits, false), of(regular, true), of(inits, true)].concat()
}

/// The containers that ask for it.
#[must_use]
pub fn asking(pod: &Pod, seen: &PodObservation) -> Vec<Container> {
    let newest = seen.newest_by_name();
    let ended = |c: &Container| newest.get(c.name.as_str()).filter(|n| n.state == ContainerState::Exited).map(|n| n.exit_code);
    let asked = |c: &&Container| ended(c).is_some_and(|code| asks(c, code));
    containers(pod).filter(asked).cloned().collect()
}

/// Tells of it in the pod's conditions, if it can happen at all. `under_way`: what was last seen, if it is under way.
pub fn set_condition(
    pod: &Pod,
    under_way: Option<&PodObservation>,
    before: Option<&PodStatus>,
    phase: &str,
    now: Timestamp,
    conditions: &mut Vec<PodCondition>,
) {
    if !is_possible(pod) {
        return;
    }
    let goes_on = under_way.is_some_and(|seen| {
        let newest = seen.newest_by_name();
        containers(pod).any(|c| newest.contains_key(c.name.as_str()))
    });
    let (status, reason, message) = match phase {
        "Succeeded" => ("False", Some("PodCompleted"), None),
        "Failed" => ("False", Some("PodFailed"), None),
        _ if goes_on => ("True", Some("RestartAllContainersStarted"), Some("container exited with restart policy rule")),
        _ => ("False", None, None),
    };
    let told = before.and_then(|s| s.conditions.as_ref()).into_iter().flatten().find(|c| c.type_ == CONDITION);
    let since = told.filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
    let condition = PodCondition {
        type_: CONDITION.to_owned(),
        status: status.to_owned(),
        reason: reason.map(str::to_owned),
        message: message.map(str::to_owned),
        last_transition_time: Some(since.unwrap_or(Time(now))),
        ..PodCondition::default()
    };
    conditions.retain(|c| c.type_ != CONDITION);
    let place = conditions.iter().position(|c| c.type_ == "PodScheduled").map_or(conditions.len(), |at| at + 1);
    conditions.insert(place, condition);
}

/// What is told of a container that was removed for it (POD-305).
#[must_use]
pub fn removed_status(container: &Container, before: &ApiStatus) -> ApiStatus {
    if before.state.as_ref().is_some_and(|state| state.waiting.is_some()) {
        return ApiStatus { volume_mounts: None, ..before.clone() };
    }
    let waiting = ContainerStateWaiting { reason: Some(REMOVED.to_owned()), message: Some(REMOVED_MESSAGE.to_owned()) };
    let ended = ContainerStateTerminated {
        exit_code: 137,
        reason: Some(REMOVED.to_owned()),
        message: Some(REMOVED_MESSAGE.to_owned()),
        ..ContainerStateTerminated::default()
    };
    ApiStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        state: Some(ApiState { waiting: Some(waiting), ..ApiState::default() }),
        last_state: Some(ApiState { terminated: Some(ended), ..ApiState::default() }),
        restart_count: before.restart_count.saturating_add(1),
        ready: before.ready,
        ..ApiStatus::default()
    }
}

/// Whether a container ended only because all of them began anew.
#[must_use]
pub fn was_removed(ended: &ContainerStateTerminated) -> bool {
    ended.reason.as_deref() == Some(REMOVED)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::ids::PodUid;
    use crate::time::Mono;

    /// The pod of the recording 025.
    fn pod() -> Pod {
        let rules = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]);
        serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": {
            "restartPolicy": "Never",
            "initContainers": [{"name": "i"}],
            "containers": [{"name": "a", "restartPolicy": "Never", "restartPolicyRules": rules}, {"name": "b"}],
        }}))
        .unwrap()
    }

    fn seen(containers: &[(&str, &str, i32)]) -> PodObservation {
        let mut seen = PodObservation::empty(PodUid::new("u"), Mono::ZERO);
        let one = |(name, state, code): &(&str, &str, i32)| -> ContainerStatus {
            serde_json::from_value(json!({"id": name, "sandbox": "s", "name": name, "attempt": 0, "state": state, "created_at": 1,
                "started_at": 2, "finished_at": 3, "exit_code": code, "reason": "", "message": "", "image": "", "image_ref": "",
                "image_id": "", "log_path": "", "labels": {}, "annotations": {}, "user": null, "resources": null,
                "termination_log": "", "stop_signal": ""}))
            .unwrap()
        };
        seen.containers = containers.iter().map(one).collect();
        seen
    }

    fn told(state: Value, restarting: &str) -> PodStatus {
        let a = json!({"name": "a", "state": state, "image": "", "imageID": "", "ready": false, "restartCount": 0});
        serde_json::from_value(json!({"containerStatuses": [a], "conditions": [{"type": CONDITION, "status": restarting}]}))
            .unwrap()
    }

    // POD-128: pkg/kubelet/container/helpers.go (ShouldAllContainersRestart).
    #[test]
    fn container_that_ended_so_asks_until_it_is_told_that_all_is_removed() {
        let ended = |code: i32| seen(&[("i", "Exited", 0), ("a", "Exited", code), ("b", "Running", 0)]);
        assert!(is_under_way(&pod(), &ended(42), None));
        assert!(!is_under_way(&pod(), &ended(1), None));
        assert!(!is_under_way(&pod(), &seen(&[("a", "Running", 42)]), None));
        assert!(is_under_way(&pod(), &seen(&[]), Some(&told(json!({"running": {}}), "True"))));
        let told_of_its_end = told(json!({"terminated": {"exitCode": 42}}), "False");
        assert!(is_under_way(&pod(), &ended(1), Some(&told_of_its_end)));
        assert!(!is_under_way(&pod(), &seen(&[]), Some(&told_of_its_end)), "it is gone");
        assert!(!is_under_way(&pod(), &seen(&[]), Some(&told(json!({"waiting": {}}), "False"))));
        let mut other = pod();
        other.spec.as_mut().unwrap().containers[0].restart_policy_rules.as_mut().unwrap()[0].action = "Restart".to_owned();
        assert!(!is_under_way(&other, &ended(42), Some(&told(json!({"running": {}}), "True"))));
    }

    // POD-128: kuberuntime_manager.go: targets before sources, regular containers before init containers.
    #[test]
    fn what_asked_for_it_is_removed_last() {
        let seen = seen(&[("i", "Exited", 0), ("a", "Exited", 42), ("b", "Running", 0)]);
        let order: Vec<(String, bool)> = resets(&pod(), &seen).iter().map(|r| (r.container.name.clone(), r.kill)).collect();
        assert_eq!(order, [("b".to_owned(), true), ("i".to_owned(), false), ("a".to_owned(), false)]);
        assert_eq!(asking(&pod(), &seen).len(), 1);
    }

    // POD-128, POD-305: as a kubelet 1.36.2 was recorded (025).
    #[test]
    fn conditions_and_containers_are_told_as_recorded() {
        let condition = |seen: &PodObservation, before: Option<&PodStatus>, phase: &str| {
            let mut conditions = Vec::new();
            let under_way = is_under_way(&pod(), seen, before).then_some(seen);
            set_condition(&pod(), under_way, before, phase, Timestamp::UNIX_EPOCH, &mut conditions);
            let told = conditions.remove(0);
            (told.status, told.reason, told.observed_generation)
        };
        let asked = seen(&[("a", "Exited", 42), ("b", "Running", 0)]);
        let started = Some("RestartAllContainersStarted".to_owned());
        assert_eq!(condition(&seen(&[]), None, "Pending"), ("False".to_owned(), None, None));
        assert_eq!(condition(&asked, None, "Running"), ("True".to_owned(), started, None));
        let under_way = told(json!({"running": {}}), "True");
        assert_eq!(condition(&seen(&[]), Some(&under_way), "Running"), ("False".to_owned(), None, None));
        assert_eq!(condition(&asked, None, "Succeeded"), ("False".to_owned(), Some("PodCompleted".to_owned()), None));
        let before = &under_way.container_statuses.as_ref().unwrap()[0];
        let removed = removed_status(&pod().spec.unwrap().containers[0], before);
        let state = serde_json::to_value(&removed.state).unwrap();
        let message = "The container is removed because RestartAllContainers in place";
        assert_eq!(state, json!({"waiting": {"reason": "RestartingAllContainers", "message": message}}));
        let last = serde_json::to_value(&removed.last_state).unwrap();
        assert_eq!(last, json!({"terminated": {"exitCode": 137, "reason": "RestartingAllContainers", "message": message}}));
        assert_eq!(removed.restart_count, 1);
        assert_eq!(removed_status(&pod().spec.unwrap().containers[0], &removed).restart_count, 1, "it is counted once");
    }
}
