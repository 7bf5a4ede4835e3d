//! Decides what a pod as a whole asks for and may use: its containers' sums, init containers' peaks, overhead.
//! Upstream: staging/src/k8s.io/component-helpers/resource/helpers.go, pkg/api/v1/resource/helpers.go.
//! Differs: nothing on purpose.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity::Amount;

/// Upstream's SystemCriticalPriority.
pub const SYSTEM_CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// Amounts by resource name: CPU in thousandths of a core, everything else in units (bytes).
pub type Amounts = BTreeMap<String, i64>;

/// Whether requests or limits are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Requests.
    Requests,
    /// Limits.
    Limits,
}

/// Whether an init container is a sidecar.
#[must_use]
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// NODE-164: static, mirror, or of system priority.
#[must_use]
pub fn is_critical(pod: &Pod) -> bool {
    let annotated = |key: &str| pod.metadata.annotations.as_ref().and_then(|a| a.get(key)).map(String::as_str);
    let is_static = annotated("kubernetes.io/config.source").is_some_and(|source| source != "api");
    let mirror = annotated("kubernetes.io/config.mirror").is_some();
    is_static || mirror || pod.spec.as_ref().and_then(|s| s.priority).is_some_and(|p| p >= SYSTEM_CRITICAL_PRIORITY)
}

/// One list of quantities as amounts.
#[must_use]
pub fn amounts_of(list: Option<&BTreeMap<String, Quantity>>) -> Amounts {
    let one = |(name, quantity): (&String, &Quantity)| {
        let amount = Amount::parse(quantity)?;
        Some((name.clone(), if name == "cpu" { amount.milli_value() } else { amount.value() }))
    };
    list.into_iter().flatten().filter_map(one).collect()
}

/// What a container asks for or may use.
#[must_use]
pub fn container_amounts(container: &Container, kind: Kind) -> Amounts {
    amounts_of(container.resources.as_ref().and_then(|r| of_kind(r, kind)))
}

pub(super) fn of_kind(resources: &ResourceRequirements, kind: Kind) -> Option<&BTreeMap<String, Quantity>> {
    match kind {
        Kind::Requests => resources.requests.as_ref(),
        Kind::Limits => resources.limits.as_ref(),
    }
}

/// What the pod's containers ask for together: regular containers and sidecars, or the peak while init containers run.
#[must_use]
pub fn container_sums(pod: &Pod, kind: Kind) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::new() };
    let mut total = Amounts::new();
    for container in &spec.containers {
        add(&mut total, &container_amounts(container, kind));
    }
    let mut sidecars = Amounts::new();
    let mut peak = Amounts::new();
    for init in spec.init_containers.iter().flatten() {
        let mut at_its_start = container_amounts(init, kind);
        if is_sidecar(init) {
            add(&mut sidecars, &at_its_start);
            add(&mut total, &at_its_start);
            max(&mut peak, &sidecars);
        } else {
            add(&mut at_its_start, &sidecars);
            max(&mut peak, &at_its_start);
        }
    }
    max(&mut total, &peak);
    total
}

/// The pod's effective amounts: those of its containers; pod-level values instead where they are set; overhead on top (on limits
/// only where there is a limit).
#[must_use]
pub fn pod_amounts(pod: &Pod, kind: Kind) -> Amounts {
    let mut total = amounts_without_overhead(pod, kind);
    for (name, amount) in amounts_of(pod.spec.as_ref().and_then(|spec| spec.overhead.as_ref())) {
        match kind {
            Kind::Requests => {
                let sum = total.entry(name).or_default();
                *sum = sum.saturating_add(amount);
            }
            Kind::Limits => {
                if let Some(limit) = total.get_mut(&name) {
                    *limit = limit.saturating_add(amount);
                }
            }
        }
    }
    total
}

/// The same without what the pod costs beside its containers.
#[must_use]
pub fn amounts_without_overhead(pod: &Pod, kind: Kind) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::new() };
    let mut total = container_sums(pod, kind);
    if let Some(resources) = &spec.resources {
        total.extend(amounts_of(of_kind(resources, kind)));
    }
    total
}

/// Whether every container, or the pod itself, declares that limit (POD-180): only then does the pod's cgroup have one.
#[must_use]
pub fn declares_limit(pod: &Pod, resource: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let has = |r: Option<&ResourceRequirements>| {
        r.and_then(|r| r.limits.as_ref()).and_then(|l| l.get(resource)).and_then(Amount::parse).is_some_and(Amount::is_positive)
    };
    has(spec.resources.as_ref())
        || spec.containers.iter().chain(spec.init_containers.iter().flatten()).all(|c| has(c.resources.as_ref()))
}

/// An amount as a canonical quantity.
#[must_use]
pub fn printed(name: &str, amount: i64) -> Quantity {
    if name == "cpu" {
        return Quantity(if amount % 1000 == 0 { (amount / 1000).to_string() } else { format!("{amount}m") });
    }
    let units = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let (mut value, mut unit) = (amount, 0);
    while value != 0 && value % 1024 == 0 && unit + 1 < units.len() {
        value /= 1024;
        unit += 1;
    }
    Quantity(format!("{value}{}", units[unit]))
}

/// Adds amounts to others of the same names.
pub fn add(to: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        match to.get_mut(name) {
            Some(sum) => *sum = sum.saturating_add(*amount),
            None => {
                to.insert(name.clone(), *amount);
            }
        }
    }
}

fn max(to: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let entry = to.entry(name.clone()).or_insert(*amount);
        *entry = (*entry).max(*amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cpu(pod: serde_json::Value) -> i64 {
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": pod})).unwrap();
        pod_amounts(&pod, Kind::Requests).get("cpu").copied().unwrap_or(0)
    }

    fn container(cpu: &str) -> serde_json::Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu}}})
    }

    // NODE-135: sums, peaks, sidecars, overhead.
    #[test]
    fn pod_asks_for_its_peak() {
        assert_eq!(cpu(json!({"containers": [container("100m"), container("1")]})), 1100);
        assert_eq!(cpu(json!({"containers": [container("100m")], "initContainers": [container("500m")]})), 500);
        let mut sidecar = container("200m");
        sidecar["restartPolicy"] = json!("Always");
        assert_eq!(cpu(json!({"containers": [container("100m")], "initContainers": [sidecar, container("500m")]})), 700);
        assert_eq!(cpu(json!({"containers": [container("100m")], "overhead": {"cpu": "50m"}})), 150);
    }

    // NODE-135: what overflows is more than any node has, not less than nothing.
    #[test]
    fn sum_of_huge_requests_is_huge() {
        let most = i64::MAX.to_string();
        let pod = json!({"containers": [container(&most), container(&most)], "overhead": {"cpu": most}, "initContainers": [
            {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": most}}}, container("1e40")]});
        assert_eq!(cpu(pod), i64::MAX);
    }
}
