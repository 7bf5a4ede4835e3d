//! Decides what a pod's status says of the resources of the pod as a whole, and of a running container.
//! Upstream: pkg/kubelet/kubelet_pods.go (getEffectiveAllocatedResources, convertContainerStatusResources), component-helpers/resource/helpers.go.
//! Differs: of the pod as a whole what is allocated is reported also while it runs; upstream then reads CPU and memory from its cgroup.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::cgroup::quota_to_milli;
use super::requests::{Kind, is_sidecar, of_kind, printed};
use crate::canonical_quantity::Written;
use crate::observation::ActualResources;
use crate::quantity::Amount;

type List = BTreeMap<String, Written>;

/// The pod's resources as its status reports them (POD-297): what its containers declare together, also where not all of them
/// declare a limit; what the pod itself declares instead; its overhead on top.
#[must_use]
pub fn reported_pod_resources(pod: &Pod) -> ResourceRequirements {
    reported(pod, |_, _| true)
}

/// The same of a pod that runs by its own status: of what its containers declare only CPU and memory, which its cgroup holds
/// (convertToAPIPodLevelResourcesStatus).
#[must_use]
pub fn reported_resources_while_running(pod: &Pod) -> ResourceRequirements {
    let own = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let declared = |kind, name: &str| own.and_then(|own| of_kind(own, kind)).is_some_and(|list| list.contains_key(name));
    reported(pod, |kind, name| matches!(name, "cpu" | "memory") || declared(kind, name))
}

fn reported(pod: &Pod, told: impl Fn(Kind, &str) -> bool) -> ResourceRequirements {
    let list = |kind| {
        let total = pod_total(pod, kind).into_iter().filter(|(name, _)| told(kind, name));
        let list: BTreeMap<String, Quantity> = total.map(|(name, amount)| (name, amount.print())).collect();
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
#[must_use]
pub fn is_pod_level(name: &str) -> bool {
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

/// At most as many shares and thousandths of a core count as none asked for (pkg/kubelet/cm/helpers_linux.go).
const LEAST_SHARES: i64 = 2;
const LEAST_MILLI_LIMIT: i64 = 10;

/// Puts what is in force of a running container's CPU and memory over what it was given, as far as the runtime tells; else what was told
/// of it before. What is too little to be told apart stays as it was given.
pub fn set_actual(given: &mut ResourceRequirements, actual: Option<&ActualResources>, told: Option<&ResourceRequirements>) {
    let actual = actual.copied().unwrap_or_default();
    let told = |kind, name: &str| of_kind(told?, kind)?.get(name).cloned();
    if let Some(limits) = &mut given.limits {
        let small = milli(limits.get("cpu")) <= LEAST_MILLI_LIMIT;
        let cpu = milli_of_quota(actual.cpu_quota, actual.cpu_period)
            .map(|is| (!small || is > LEAST_MILLI_LIMIT).then(|| printed("cpu", is)));
        put(limits, "cpu", cpu.unwrap_or_else(|| told(Kind::Limits, "cpu")));
        let memory = (actual.memory_limit > 0).then(|| printed("memory", actual.memory_limit));
        put(limits, "memory", memory.or_else(|| told(Kind::Limits, "memory")));
    }
    if let Some(requests) = &mut given.requests {
        let small = milli(requests.get("cpu")) <= LEAST_SHARES;
        let cpu = milli_of_shares(actual.cpu_shares).map(|is| (!small || is > LEAST_SHARES).then(|| printed("cpu", is)));
        put(requests, "cpu", cpu.unwrap_or_else(|| told(Kind::Requests, "cpu")));
        // The runtime knows nothing of it.
        put(requests, "memory", told(Kind::Requests, "memory"));
    }
}

fn put(list: &mut BTreeMap<String, Quantity>, name: &str, quantity: Option<Quantity>) {
    if let Some(quantity) = quantity {
        list.insert(name.to_owned(), quantity);
    }
}

fn milli(quantity: Option<&Quantity>) -> i64 {
    quantity.and_then(Amount::parse).map_or(0, Amount::milli_value)
}

fn milli_of_quota(quota: i64, period: i64) -> Option<i64> {
    Some(quota_to_milli(quota, period)).filter(|milli| *milli > 0)
}

fn milli_of_shares(shares: i64) -> Option<i64> {
    (shares >= LEAST_SHARES).then(|| shares.saturating_mul(1000).saturating_add(1023) / 1024)
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

    // POD-297: as recorded of the kubelet (case 071, second run).
    #[test]
    fn running_pod_has_cpu_and_memory_and_what_it_declares_itself() {
        let running = |spec: Value| {
            let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
            serde_json::to_value(reported_resources_while_running(&pod)).unwrap()
        };
        let requests = json!({"cpu": "125m", "ephemeral-storage": "32Mi", "memory": "33Mi"});
        let limits = json!({"cpu": "1250m", "ephemeral-storage": "1Gi", "memory": "64Mi"});
        let expected = json!({"limits": {"cpu": "1250m", "memory": "64Mi"}, "requests": {"cpu": "125m", "memory": "33Mi"}});
        assert_eq!(running(json!({"containers": [container(requests, limits)]})), expected);
        let widget = json!({"example.com/widget": "1"});
        assert_eq!(running(json!({"containers": [container(widget.clone(), widget)]})), json!({}));
        let own = json!({"requests": {"hugepages-2Mi": "2Mi"}, "limits": {"hugepages-2Mi": "2Mi"}});
        assert_eq!(running(json!({"resources": own, "containers": [{"name": "c"}]})), own);
    }

    fn actual(given: Value, actual: ActualResources, told: Option<Value>) -> Value {
        let mut given: ResourceRequirements = serde_json::from_value(given).unwrap();
        let told = told.map(|told| serde_json::from_value(told).unwrap());
        set_actual(&mut given, Some(&actual), told.as_ref());
        serde_json::to_value(given).unwrap()
    }

    // POD-297: as recorded of the kubelet (cases 224 and 226): what is in force, but for what is too little to be told apart.
    #[test]
    fn running_container_has_what_is_in_force() {
        let force =
            |cpu_shares, cpu_quota, memory_limit| ActualResources { cpu_shares, cpu_quota, cpu_period: 100_000, memory_limit };
        let memory = json!({"limits": {"memory": "32Mi"}, "requests": {"memory": "32Mi"}});
        let expected = json!({"limits": {"cpu": "200m", "memory": "32Mi"}, "requests": {"cpu": "200m", "memory": "32Mi"}});
        assert_eq!(actual(memory, force(204, 20_000, 32 << 20), None), expected, "from the pod's own");
        let least = json!({"limits": {"cpu": "5m"}, "requests": {"cpu": "1m"}});
        assert_eq!(actual(least.clone(), force(2, 1000, 0), None), least);
        let none = json!({"limits": {"cpu": "1500m"}, "requests": {"cpu": "0"}});
        assert_eq!(actual(none.clone(), force(2, 150_000, 0), None), none);
        let some = json!({"limits": {"cpu": "33m"}, "requests": {"cpu": "3m"}});
        assert_eq!(actual(some.clone(), force(3, 3300, 0), None), some);
        assert_eq!(actual(json!({}), force(2, 0, 0), None), json!({}));
        // convertContainerStatusResources: what the runtime does not tell is as it was told before.
        let given = json!({"limits": {"cpu": "2"}, "requests": {"memory": "1Gi"}});
        let told = json!({"limits": {"cpu": "1"}, "requests": {"memory": "1G"}});
        assert_eq!(actual(given, ActualResources::default(), Some(told.clone())), told);
    }
}
