//! Decides a pod's QoS class, and how dear its processes are to the kernel when memory is short.
//! Upstream: pkg/apis/core/v1/helper/qos/qos.go, pkg/kubelet/qos/policy.go.
//! Differs: nothing on purpose.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::requests::{Kind, container_sums, is_critical, is_sidecar};
use crate::quantity::Amount;

/// A QoS class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum QosClass {
    /// All limits set, requests equal to them.
    Guaranteed,
    /// In between.
    Burstable,
    /// Asks for nothing.
    BestEffort,
}

impl QosClass {
    /// As the API has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// The class: what the API server wrote, else computed (POD-184).
#[must_use]
pub fn qos_class(pod: &Pod) -> QosClass {
    match pod.status.as_ref().and_then(|s| s.qos_class.as_deref()) {
        Some("Guaranteed") => QosClass::Guaranteed,
        Some("Burstable") => QosClass::Burstable,
        Some("BestEffort") => QosClass::BestEffort,
        _ => computed_class(pod),
    }
}

fn computed_class(pod: &Pod) -> QosClass {
    let Some(spec) = &pod.spec else { return QosClass::BestEffort };
    let of_pod = spec.resources.as_ref().filter(|r| r.requests.is_some() || r.limits.is_some());
    let parts: Vec<&ResourceRequirements> = match of_pod {
        Some(resources) => vec![resources],
        None => spec.containers.iter().chain(spec.init_containers.iter().flatten()).filter_map(|c| c.resources.as_ref()).collect(),
    };
    let count = if of_pod.is_some() { 1 } else { spec.containers.len() + spec.init_containers.iter().flatten().count() };
    let positive = |list: &Option<BTreeMap<String, Quantity>>, name: &str| {
        list.as_ref().and_then(|l| l.get(name)).and_then(Amount::parse).filter(|a| a.is_positive())
    };
    let asks =
        |r: &&ResourceRequirements| ["cpu", "memory"].iter().any(|n| positive(&r.requests, n).or(positive(&r.limits, n)).is_some());
    if !parts.iter().any(asks) {
        return QosClass::BestEffort;
    }
    let equal = |r: &&ResourceRequirements| {
        ["cpu", "memory"].iter().all(|n| {
            let (request, limit) = (positive(&r.requests, n), positive(&r.limits, n));
            limit.is_some() && (request.is_none() || request == limit)
        })
    };
    if parts.len() == count && parts.iter().all(equal) { QosClass::Guaranteed } else { QosClass::Burstable }
}

/// oom_score_adj of a container (POD-181, NODE-148).
#[must_use]
pub fn oom_score_adj(pod: &Pod, container: &Container, memory_capacity: u64) -> i64 {
    const GUARANTEED: i64 = -997;
    const BEST_EFFORT: i64 = 1000;
    let node_critical = pod.spec.as_ref().and_then(|s| s.priority_class_name.as_deref()) == Some("system-node-critical");
    if node_critical && is_critical(pod) {
        return GUARANTEED;
    }
    match qos_class(pod) {
        QosClass::Guaranteed => GUARANTEED,
        QosClass::BestEffort => BEST_EFFORT,
        QosClass::Burstable => {
            let own = memory_request(container);
            // A sidecar is never rather killed than the smallest regular container: what needs it would go with it.
            // A regular container may have that policy too, and is none for it (isSidecarContainer).
            let inits = pod.spec.as_ref().and_then(|s| s.init_containers.as_deref()).unwrap_or_default();
            let is_sidecar = is_sidecar(container) && inits.iter().any(|init| init.name == container.name);
            let request = if is_sidecar { own.max(smallest_request(pod)) } else { own };
            burstable_score(request + unclaimed_share(pod), memory_capacity)
        }
    }
}

fn memory_request(container: &Container) -> u64 {
    memory_of(container.resources.as_ref())
}

fn memory_of(resources: Option<&ResourceRequirements>) -> u64 {
    let amount = resources.and_then(|r| r.requests.as_ref()).and_then(|r| r.get("memory")).and_then(Amount::parse);
    amount.and_then(|a| u64::try_from(a.value()).ok()).unwrap_or(0)
}

fn smallest_request(pod: &Pod) -> u64 {
    let containers = pod.spec.as_ref().map(|s| s.containers.as_slice()).unwrap_or_default();
    containers.iter().map(memory_request).min().unwrap_or(0)
}

/// What the pod asks for beyond what its containers do, split evenly among them.
fn unclaimed_share(pod: &Pod) -> u64 {
    let Some(spec) = &pod.spec else { return 0 };
    let of_pod = memory_of(spec.resources.as_ref());
    let claimed = container_sums(pod, Kind::Requests).get("memory").and_then(|sum| u64::try_from(*sum).ok()).unwrap_or(0);
    let count = spec.containers.len() + spec.init_containers.iter().flatten().count();
    of_pod.saturating_sub(claimed) / (count.max(1) as u64)
}

fn burstable_score(request: u64, capacity: u64) -> i64 {
    if capacity == 0 {
        return 999;
    }
    let share = i64::try_from(u128::from(request) * 1000 / u128::from(capacity)).unwrap_or(1000);
    (1000 - share).clamp(3, 999)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(resources: &[Value]) -> Pod {
        let containers: Vec<Value> =
            resources.iter().enumerate().map(|(i, r)| json!({"name": format!("c{i}"), "resources": r})).collect();
        serde_json::from_value(json!({"metadata": {}, "spec": {"containers": containers}})).unwrap()
    }

    // POD-184
    #[test]
    fn class_follows_from_requests_and_limits() {
        let full = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
        assert_eq!(qos_class(&pod(std::slice::from_ref(&full))), QosClass::Guaranteed);
        assert_eq!(qos_class(&pod(&[full.clone(), json!({})])), QosClass::Burstable);
        assert_eq!(qos_class(&pod(&[json!({})])), QosClass::BestEffort);
        assert_eq!(qos_class(&pod(&[json!({"requests": {"cpu": "0"}})])), QosClass::BestEffort);
        let less = json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}});
        assert_eq!(qos_class(&pod(&[less])), QosClass::Burstable);
    }

    // POD-181, NODE-148
    #[test]
    fn score_falls_with_the_request() {
        let burstable = pod(&[json!({"requests": {"memory": "1Gi"}})]);
        let container = &burstable.spec.as_ref().unwrap().containers[0];
        assert_eq!(oom_score_adj(&burstable, container, 4 << 30), 750);
        assert_eq!(oom_score_adj(&burstable, container, 1 << 30), 3);
        assert_eq!(oom_score_adj(&burstable, container, 1 << 50), 999);
        let none = pod(&[json!({})]);
        assert_eq!(oom_score_adj(&none, &none.spec.as_ref().unwrap().containers[0], 4 << 30), 1000);
    }

    // POD-181, NODE-148: Guaranteed pods, and those that the node cannot do without, are the last to be killed.
    #[test]
    fn guaranteed_and_node_critical_pods_go_last() {
        let score = |pod: &Pod| oom_score_adj(pod, &pod.spec.as_ref().unwrap().containers[0], 4 << 30);
        assert_eq!(score(&pod(&[json!({"limits": {"cpu": "1", "memory": "1Gi"}})])), -997);
        let mut critical = pod(&[json!({})]);
        let spec = critical.spec.as_mut().unwrap();
        (spec.priority_class_name, spec.priority) = (Some("system-node-critical".to_owned()), Some(2_000_001_000));
        assert_eq!(score(&critical), -997);
        critical.spec.as_mut().unwrap().priority_class_name = Some("system-cluster-critical".to_owned());
        assert_eq!(score(&critical), 1000);
    }

    // POD-181, NODE-148: of its own request and that of the smallest regular container the larger counts.
    #[test]
    fn sidecar_is_as_dear_as_the_smallest_regular_container() {
        let asking = |memory: &str| json!({"requests": {"memory": memory}});
        let mut helped = pod(&[asking("1Gi"), asking("2Gi")]);
        let sidecar = |memory: &str| -> Container {
            serde_json::from_value(json!({"name": "s", "restartPolicy": "Always", "resources": asking(memory)})).unwrap()
        };
        helped.spec.as_mut().unwrap().init_containers = Some(vec![sidecar("1Mi")]);
        assert_eq!(oom_score_adj(&helped, &sidecar("1Mi"), 4 << 30), 750);
        assert_eq!(oom_score_adj(&helped, &sidecar("3Gi"), 4 << 30), 250);
    }

    // NODE-148: what only the pod asks for is split evenly.
    #[test]
    fn request_of_the_pod_alone_is_shared_by_its_containers() {
        let mut shared = pod(&[json!({"requests": {"memory": "1Gi"}}), json!({})]);
        let spec = shared.spec.as_mut().unwrap();
        spec.resources = Some(serde_json::from_value(json!({"requests": {"memory": "3Gi"}})).unwrap());
        let containers = shared.spec.as_ref().unwrap().containers.clone();
        assert_eq!(oom_score_adj(&shared, &containers[0], 4 << 30), 500);
        assert_eq!(oom_score_adj(&shared, &containers[1], 4 << 30), 750);
    }
}
