//! Decides which resources a pod has when its spec asks for others than it was admitted with.
//! Upstream: pkg/kubelet/allocation/allocation_manager.go (UpdatePodFromAllocation), features_unsupported.go, pkg/kubelet/events/resize.go.
//! Differs: no resize is done, and each is refused as on a node that cannot; what was admitted is read from the pod's status, not from a
//! checkpoint.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::cgroup::{cpu_quota, quota_to_milli};
use crate::config::Pods;
use crate::go_json;
use crate::quantity::Amount;

type List = BTreeMap<String, Quantity>;

/// Why a resize is refused.
const NOT_HERE: &str = "In-place pod resize is not supported on this node";
const NOT_HERE_OF_PODS: &str = "In-place pod-level resources resize is not supported on this node";
/// CPU limits below this many thousandths of a core have the same effect, and systemd rounds to as many.
const MILLI_STEP: u64 = 10;
/// Memory is given by the page; none is larger.
const LARGEST_PAGE: u64 = 64 << 10;

/// A pod with the resources that it has, and why it has not those that its spec asks for.
#[derive(Clone, Debug)]
pub struct Allocated {
    /// The pod; its spec has the resources that it has.
    pub pod: Arc<Pod>,
    /// In words, if its spec asks for others.
    pub refused: Option<&'static str>,
}

/// What a pod has that was known before as `known`.
#[must_use]
pub fn allocated(pod: &Arc<Pod>, known: &Pod) -> Allocated {
    let find = |name: &str| containers(known).find(|known| known.name == name);
    with(pod, |container| find(&container.name).map(|known| known.resources.clone()), pod_level(known).cloned())
}

/// What a pod has that an earlier life of the agent may have admitted: what its status says that it got. A container that was not made
/// yet has what its spec says.
#[must_use]
pub fn allocated_before(pod: &Arc<Pod>, config: &Pods) -> Allocated {
    let least = least_limit(config);
    let status = |name: &str| {
        let status = pod.status.as_ref()?;
        let mut all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
        all.find(|status| status.name == name && status.container_id.is_some())
    };
    let own = pod_level(pod).map(|spec| own_before(pod, spec, least));
    let has = |container: &Container| match status(&container.name) {
        Some(status) => before(container, status, least),
        None => container.resources.clone(),
    };
    with(pod, |container| Some(has(container)), own)
}

/// The least limit of the CPU that the kernel keeps, in thousandths of a core: smaller ones are told as this one.
fn least_limit(config: &Pods) -> i64 {
    let period = i64::try_from(config.cpu_cfs_quota_period.as_micros()).unwrap_or(i64::MAX).max(1);
    if config.cpu_cfs_quota { quota_to_milli(cpu_quota(1, period), period) } else { 0 }
}

fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
}

fn pod_level(pod: &Pod) -> Option<&ResourceRequirements> {
    pod.spec.as_ref()?.resources.as_ref()
}

/// The pod with what its containers have, as far as that is known, and with what it has as a whole.
fn with(
    pod: &Arc<Pod>,
    has: impl Fn(&Container) -> Option<Option<ResourceRequirements>>,
    own: Option<ResourceRequirements>,
) -> Allocated {
    let differs = |container: &Container| has(container).is_some_and(|has| !same(has.as_ref(), container.resources.as_ref()));
    let resized = containers(pod).any(differs);
    let resized_own = !same(own.as_ref(), pod_level(pod));
    if !resized && !resized_own {
        return Allocated { pod: Arc::clone(pod), refused: None };
    }
    let mut pod = Pod::clone(pod);
    if let Some(spec) = &mut pod.spec {
        for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
            if let Some(has) = has(container) {
                container.resources = has;
            }
        }
        spec.resources = own;
    }
    Allocated { pod: Arc::new(pod), refused: Some(if resized { NOT_HERE } else { NOT_HERE_OF_PODS }) }
}

/// Whether both are the same amounts, however they are written.
fn same(one: Option<&ResourceRequirements>, other: Option<&ResourceRequirements>) -> bool {
    fn amounts(list: Option<&List>) -> BTreeMap<&String, Result<Amount, &Quantity>> {
        list.into_iter().flatten().map(|(name, quantity)| (name, Amount::parse(quantity).ok_or(quantity))).collect()
    }
    let list = |of: Option<&ResourceRequirements>, limits: bool| {
        let of = of.cloned().unwrap_or_default();
        if limits { of.limits } else { of.requests }
    };
    [true, false].into_iter().all(|limits| amounts(list(one, limits).as_ref()) == amounts(list(other, limits).as_ref()))
}

/// What a container has by its status. `allocatedResources` are the requests as they were; its limits may be those that the runtime
/// reports, which are rounded: where both have the same effect, the spec's is what it has.
fn before(container: &Container, status: &ContainerStatus, least: i64) -> Option<ResourceRequirements> {
    let spec = container.resources.clone();
    let Some(told) = &status.resources else { return spec };
    let mut has = spec.unwrap_or_default();
    has.limits = has.limits.map(|limits| as_told(limits, told.limits.as_ref(), &List::new(), least));
    if has.requests.is_some() || status.allocated_resources.is_some() {
        has.requests = status.allocated_resources.clone();
    }
    Some(has)
}

/// What the pod as a whole has by its status, less its overhead, which is in that.
fn own_before(pod: &Pod, spec: &ResourceRequirements, least: i64) -> ResourceRequirements {
    let Some(status) = pod.status.as_ref().filter(|status| status.resources.is_some()) else { return spec.clone() };
    let overhead = pod.spec.as_ref().and_then(|spec| spec.overhead.clone()).unwrap_or_default();
    let told = status.resources.clone().unwrap_or_default();
    ResourceRequirements {
        limits: spec.limits.clone().map(|limits| as_told(limits, told.limits.as_ref(), &overhead, least)),
        requests: spec.requests.clone().map(|requests| as_told(requests, status.allocated_resources.as_ref(), &overhead, 0)),
        claims: spec.claims.clone(),
    }
}

/// The spec's amounts, but for those that were told otherwise; what was not told at all was not there. Less CPU than `least` is told as that.
fn as_told(spec: List, told: Option<&List>, overhead: &List, least: i64) -> List {
    let Some(told) = told else { return List::new() };
    let one = |(name, quantity): (String, Quantity)| {
        let told = told.get(&name)?;
        let extra = overhead.get(&name).and_then(Amount::parse).unwrap_or_default();
        let has = if same_effect(&name, &quantity, told, extra, least) { quantity } else { told.clone() };
        Some((name, has))
    };
    spec.into_iter().filter_map(one).collect()
}

fn same_effect(name: &str, spec: &Quantity, told: &Quantity, extra: Amount, least: i64) -> bool {
    let (Some(spec), Some(told)) = (Amount::parse(spec), Amount::parse(told)) else { return spec == told };
    let spec = spec.plus(extra);
    match name {
        "cpu" => {
            let (spec, told) = (spec.milli_value(), told.milli_value());
            let close = |spec: i64| spec.abs_diff(told) < MILLI_STEP;
            close(spec) || close(spec.max(least)) || spec.max(told).unsigned_abs() <= MILLI_STEP
        }
        "memory" => spec.value().abs_diff(told.value()) < LARGEST_PAGE,
        _ => spec == told,
    }
}

/// What the event says of a resize that is refused (PodResizePendingMsg).
#[must_use]
pub fn refusal_message(wanted: &Pod, refused: &str) -> String {
    fn amounts(list: Option<&List>) -> Option<String> {
        list.filter(|list| !list.is_empty()).map(go_json::of)
    }
    let one = |container: &Container| {
        let resources = container.resources.clone().unwrap_or_default();
        let lists = [("limits", amounts(resources.limits.as_ref())), ("requests", amounts(resources.requests.as_ref()))];
        go_json::object([("name", Some(go_json::of(&container.name))), ("resources", Some(go_json::object(lists)))])
    };
    let all = |containers: &[Container]| (!containers.is_empty()).then(|| go_json::list(containers.iter().map(one)));
    let spec = wanted.spec.as_ref();
    let summary = go_json::object([
        ("initContainers", spec.and_then(|spec| all(spec.init_containers.as_deref()?))),
        ("containers", spec.and_then(|spec| all(&spec.containers))),
        ("generation", Some(wanted.metadata.generation.unwrap_or(0).to_string())),
        ("error", Some(go_json::of(&refused))),
    ]);
    format!("Pod resize Infeasible: {summary}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value, status: Value) -> Arc<Pod> {
        let object = json!({"metadata": {"name": "p", "generation": 2}, "spec": spec, "status": status});
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn allocated_before(pod: &Arc<Pod>) -> Allocated {
        super::allocated_before(pod, &Pods::default())
    }

    fn of(requests: Value, limits: Value) -> Value {
        json!({"containers": [{"name": "c", "resources": {"requests": requests, "limits": limits}}]})
    }

    fn status(allocated: Value, resources: Value) -> Value {
        json!({"containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "containerID": "containerd://c", "allocatedResources": allocated, "resources": resources}]})
    }

    fn resources(pod: &Pod) -> Value {
        serde_json::to_value(containers(pod).next().unwrap().resources.as_ref().unwrap()).unwrap()
    }

    // allocation_manager.go (UpdatePodFromAllocation): what a spec asks for later is not what the pod has.
    #[test]
    fn pod_keeps_what_it_was_admitted_with() {
        let admitted = pod(of(json!({"cpu": "100m"}), json!({"memory": "64Mi"})), json!({}));
        let same = pod(of(json!({"cpu": "0.1"}), json!({"memory": "65536Ki"})), json!({}));
        let known = allocated(&same, &admitted);
        assert!(known.refused.is_none() && Arc::ptr_eq(&known.pod, &same), "written otherwise, it is the same");
        let resized = pod(of(json!({"cpu": "150m"}), json!({"memory": "72Mi"})), json!({}));
        let known = allocated(&resized, &admitted);
        assert_eq!(resources(&known.pod), resources(&admitted));
        // features_unsupported.go
        assert_eq!(known.refused, Some("In-place pod resize is not supported on this node"));
        assert!(allocated(&admitted, &known.pod).refused.is_none(), "it is asked for no more");
    }

    // The same of the pod as a whole (case 238).
    #[test]
    fn pod_as_a_whole_keeps_what_it_was_admitted_with() {
        let spec = |cpu: &str| json!({"containers": [{"name": "c"}], "resources": {"requests": {"cpu": cpu}}});
        let known = allocated(&pod(spec("120m"), json!({})), &pod(spec("100m"), json!({})));
        assert_eq!(pod_level(&known.pod).unwrap().requests.as_ref().unwrap()["cpu"].0, "100m");
        assert_eq!(known.refused, Some("In-place pod-level resources resize is not supported on this node"));
        let told = json!({"resources": {"requests": {"cpu": "100m"}}, "allocatedResources": {"cpu": "100m"}});
        assert!(allocated_before(&pod(spec("120m"), told.clone())).refused.is_some());
        assert!(allocated_before(&pod(spec("0.1"), told)).refused.is_none());
    }

    // After a restart the status tells what was admitted; what the runtime's rounding changed is no resize.
    #[test]
    fn status_tells_what_was_admitted() {
        let told = status(json!({"cpu": "100m"}), json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "33m", "memory": "64Mi"}}));
        let unchanged = pod(of(json!({"cpu": "0.1"}), json!({"cpu": "0.0331", "memory": "64Mi"})), told.clone());
        let known = allocated_before(&unchanged);
        assert!(known.refused.is_none(), "{:?}", known.pod.spec);
        let resized = pod(of(json!({"cpu": "150m"}), json!({"cpu": "33m", "memory": "72Mi"})), told.clone());
        let known = allocated_before(&resized);
        assert_eq!(resources(&known.pod), json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "33m", "memory": "64Mi"}}));
        assert!(known.refused.is_some());
        // Case 226: the limit of the CPU is that of the pod as a whole, and none of the container's own.
        let of_pod = status(
            json!({"memory": "32Mi"}),
            json!({"limits": {"cpu": "200m", "memory": "32Mi"}, "requests": {"cpu": "200m", "memory": "32Mi"}}),
        );
        assert!(allocated_before(&pod(of(json!({"memory": "32Mi"}), json!({"memory": "32Mi"})), of_pod)).refused.is_none());
        // Case 224: too little to be told apart.
        let least = status(json!({"cpu": "1m"}), json!({"limits": {"cpu": "10m"}, "requests": {"cpu": "1m"}}));
        assert!(allocated_before(&pod(of(json!({"cpu": "1m"}), json!({"cpu": "5m"})), least)).refused.is_none());
        // Rounded to pages, and by systemd.
        let rounded = status(Value::Null, json!({"limits": {"cpu": "40m", "memory": "99999744"}}));
        assert!(allocated_before(&pod(of(Value::Null, json!({"cpu": "33m", "memory": "100000001"})), rounded)).refused.is_none());
        // A container that was not made yet has what its spec says.
        assert!(allocated_before(&pod(of(json!({"cpu": "150m"}), json!({})), json!({}))).refused.is_none());
        // One that had neither requests nor limits.
        let nothing = json!({"containers": [{"name": "c"}]});
        assert!(allocated_before(&pod(nothing, status(Value::Null, json!({})))).refused.is_none());
    }

    // helpers_linux.go, MilliCPUToQuota: a quota of at least 1000 microseconds in each period, by which small limits are told as others.
    #[test]
    fn least_quota_of_a_period_is_no_resize() {
        let before = |limit: &str, told: &str, period: u64| {
            let config = Pods { cpu_cfs_quota_period: Duration::from_millis(period), ..Pods::default() };
            let told = status(Value::Null, json!({"limits": {"cpu": told}}));
            let known = super::allocated_before(&pod(of(Value::Null, json!({"cpu": limit})), told), &config);
            known.refused.is_some()
        };
        assert!(!before("50m", "100m", 10));
        assert!(!before("700m", "1", 1));
        assert!(before("150m", "100m", 10), "more than the least");
        assert!(before("50m", "100m", 100), "no limit of such a period is told so");
        assert!(before("50m", "200m", 10));
    }

    // As recorded of the kubelet (case 236), but for the reason: pkg/kubelet/allocation/allocation_manager.go.
    #[test]
    fn event_names_what_was_asked_for() {
        let wanted = pod(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1950m"}}}]}), json!({}));
        let expected = r#"Pod resize Infeasible: {"containers":[{"name":"c","resources":{"requests":{"cpu":"1950m"}}}],"generation":2,"error":"no"}"#;
        assert_eq!(refusal_message(&wanted, "no"), expected);
    }
}
