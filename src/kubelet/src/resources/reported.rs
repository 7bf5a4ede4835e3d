//! Decides what a pod's status says of the resources of the pod as a whole.
//! Upstream: pkg/kubelet/kubelet_pods.go (getEffectiveAllocatedResources), component-helpers/resource/helpers.go (PodRequests, PodLimits).
//! Differs: what is allocated is reported also while the pod runs; upstream then reads CPU and memory back from the pod's cgroup.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::requests::{Kind, is_sidecar, of_kind};
use crate::canonical_quantity::Written;

type List = BTreeMap<String, Written>;

/// The pod's resources as its status reports them (POD-297): what its containers declare together, also where not all of them
/// declare a limit; what the pod itself declares instead; its overhead on top.
#[must_use]
pub fn reported_pod_resources(pod: &Pod) -> ResourceRequirements {
    let list = |kind| {
        let total = pod_total(pod, kind);
        let list: BTreeMap<String, Quantity> = total.into_iter().map(|(name, amount)| (name, amount.print())).collect();
        (!list.is_empty()).then_some(list)
    };
    ResourceRequirements { requests: list(Kind::Requests), limits: list(Kind::Limits), claims: None }
}

fn pod_total(pod: &Pod, kind: Kind) -> List {
    let Some(spec) = &pod.spec else { return List::new() };
    let mut total = List::new();
    spec.containers.iter().for_each(|container| add(&mut total, &of_container(container, kind)));
    let (mut sidecars, mut peak) = (List::new(), List::new());
    for init in spec.init_containers.iter().flatten() {
        let mut at_its_start = of_container(init, kind);
        if is_sidecar(init) {
            add(&mut total, &at_its_start);
            add(&mut sidecars, &at_its_start);
            max(&mut peak, &sidecars);
        } else {
            add(&mut at_its_start, &sidecars);
            max(&mut peak, &at_its_start);
        }
    }
    max(&mut total, &peak);
    if let Some(resources) = &spec.resources {
        let own = written(of_kind(resources, kind)).into_iter().filter(|(name, _)| is_pod_level(name));
        total.extend(own);
    }
    for (name, overhead) in written(spec.overhead.as_ref()) {
        match (kind, total.get_mut(&name)) {
            (_, Some(amount)) if kind == Kind::Requests || !amount.is_zero() => amount.add(&overhead),
            (Kind::Requests, None) => drop(total.insert(name, overhead)),
            _ => {}
        }
    }
    total
}

/// Upstream's IsSupportedPodLevelResource.
fn is_pod_level(name: &str) -> bool {
    name == "cpu" || name == "memory" || name.starts_with("hugepages-")
}

fn of_container(container: &Container, kind: Kind) -> List {
    written(container.resources.as_ref().and_then(|resources| of_kind(resources, kind)))
}

fn written(list: Option<&BTreeMap<String, Quantity>>) -> List {
    let one = |(name, quantity): (&String, &Quantity)| Some((name.clone(), Written::parse(quantity)?));
    list.into_iter().flatten().filter_map(one).collect()
}

fn add(to: &mut List, more: &List) {
    for (name, amount) in more {
        to.entry(name.clone()).and_modify(|sum| sum.add(amount)).or_insert_with(|| amount.clone());
    }
}

fn max(to: &mut List, other: &List) {
    for (name, amount) in other {
        to.entry(name.clone()).and_modify(|most| *most = most.clone().larger(amount.clone())).or_insert_with(|| amount.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn reported(spec: Value) -> Value {
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
        serde_json::to_value(reported_pod_resources(&pod)).unwrap()
    }

    fn container(requests: Value, limits: Value) -> Value {
        json!({"name": "c", "resources": {"requests": requests, "limits": limits}})
    }

    // POD-297: as the golden pod reports them, less the quirk of its memory limit.
    #[test]
    fn reported_resources_are_the_declared_ones() {
        let declared = json!({"requests": {"cpu": "100m", "memory": "16Mi"}, "limits": {"cpu": "200m", "memory": "32Mi"}});
        assert_eq!(reported(json!({"containers": [{"name": "main", "resources": declared}]})), declared);
    }

    // POD-297: as recorded of the kubelet (cases 224, 226, 227, 230).
    #[test]
    fn notation_and_kinds_are_kept() {
        let containers = [
            container(json!({"cpu": "1m"}), json!({"cpu": "5m"})),
            container(json!({"cpu": "0"}), json!({"cpu": "1500m"})),
            container(json!({"cpu": "3m"}), json!({"cpu": "33m"})),
            container(json!({"cpu": "333m", "memory": "129e6"}), json!({"memory": "200M"})),
        ];
        let expected = json!({"limits": {"cpu": "1538m", "memory": "200M"}, "requests": {"cpu": "337m", "memory": "129e6"}});
        assert_eq!(reported(json!({"containers": containers})), expected);
        let storage = container(json!({"cpu": "100m", "ephemeral-storage": "10Mi"}), json!({"ephemeral-storage": "50Mi"}));
        let expected = json!({"limits": {"ephemeral-storage": "50Mi"}, "requests": {"cpu": "100m", "ephemeral-storage": "10Mi"}});
        assert_eq!(reported(json!({"containers": [storage]})), expected);
        let widget = json!({"example.com/widget": "1"});
        let spec = json!({"containers": [container(widget.clone(), widget.clone())]});
        assert_eq!(reported(spec), json!({"limits": widget, "requests": widget}));
        let own = json!({"requests": {"cpu": "200m", "memory": "64Mi"}, "limits": {"cpu": "200m", "memory": "64Mi"}});
        let one = container(json!({}), json!({"memory": "32Mi"}));
        assert_eq!(reported(json!({"resources": own, "containers": [one]})), own);
    }
}
