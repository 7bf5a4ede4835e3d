//! Decides whether a pod that was bound to this node may run here.
//! Upstream: pkg/kubelet/lifecycle/predicate.go, pkg/scheduler/eventhandlers.go (AdmissionCheck).
//! Differs: what this agent cannot do yet (user namespaces, resource claims) is refused here instead of failing later.

mod app_armor;
mod sysctls;

pub(crate) use sysctls::with_dots;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Taint, Toleration};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::config::Config;
use crate::limits::CONTAINERS;
use crate::node::registration::is_extended;
use crate::node::status::{RESTARTS_ALL, Resources, node_declares};
use crate::observation::MachineInfo;
use crate::pod::restart_all::restarts_all;
use crate::resources::reported::is_pod_level;
use crate::resources::requests::{Amounts, Kind, add, amounts_of, pod_amounts};

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It may.
    Admitted,
    /// It may not; for good (POD-032).
    Refused {
        /// Such as `OutOfcpu`.
        reason: String,
        /// In upstream's words.
        message: String,
    },
}

/// The pods that a new one is to run beside.
#[derive(Debug, Default)]
pub struct Beside<'a> {
    pods: Vec<&'a Arc<Pod>>,
    /// What they ask for together.
    used: Amounts,
}

impl<'a> Beside<'a> {
    /// One more, and what it asks for.
    pub fn add(&mut self, pod: &'a Arc<Pod>, requests: &Amounts) {
        self.pods.push(pod);
        add(&mut self.used, requests);
    }
}

/// The reason of a refusal that the node's labels are to blame for.
pub const NODE_AFFINITY: &str = "NodeAffinity";

fn refused(reason: &str, message: impl Into<String>) -> Admission {
    Admission::Refused { reason: reason.to_owned(), message: message.into() }
}

/// Whether the pod may run beside those that do: the first refusal counts (POD-031, POD-034, NODE-160).
#[must_use]
pub fn admit(pod: &Pod, active: &Beside<'_>, node: &Node, machine: Option<&MachineInfo>, config: &Config) -> Admission {
    let Some(spec) = &pod.spec else { return refused("UnexpectedAdmissionError", "the pod has no spec") };
    let containers = spec.containers.len() + spec.init_containers.as_ref().map_or(0, Vec::len);
    if containers > CONTAINERS {
        let message = format!("the pod has {containers} containers, more than the {CONTAINERS} that this agent runs in one pod");
        return refused("PodFeatureUnsupported", message);
    }
    let kernel = machine.map(|machine| machine.kernel_version.as_str());
    if let Some(message) = sysctls::forbidden(spec, &config.pods.allowed_unsafe_sysctls, kernel) {
        return refused("SysctlForbidden", message);
    }
    let resources = || machine.and_then(|machine| resources(pod, active, node, machine, config));
    operating_system(pod, spec)
        .or_else(|| supplemental_groups(spec, node))
        .or_else(resources)
        .or_else(|| affinity(pod, node))
        .or_else(|| name(spec, node))
        .or_else(|| ports(pod, &active.pods))
        .or_else(|| taints(pod, node))
        .or_else(|| app_armor::forbidden(pod, machine).map(|message| refused("AppArmor", message)))
        .or_else(|| pod_level_resources(spec, config))
        .or_else(|| declared_features(spec, config))
        .or_else(|| unsupported(spec))
        .unwrap_or(Admission::Admitted)
}

/// By the pod's *label*, and by the field.
fn operating_system(pod: &Pod, spec: &PodSpec) -> Option<Admission> {
    let label = pod.metadata.labels.as_ref().and_then(|labels| labels.get("kubernetes.io/os"));
    if label.is_some_and(|os| os != "linux") {
        let message = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
        return Some(refused("PodOSSelectorNodeLabelDoesNotMatch", message));
    }
    let other = spec.os.as_ref().is_some_and(|os| os.name != "linux");
    other.then(|| refused("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"))
}

fn supplemental_groups(spec: &PodSpec, node: &Node) -> Option<Admission> {
    let policy = spec.security_context.as_ref().and_then(|context| context.supplemental_groups_policy.as_deref());
    let features = node.status.as_ref().and_then(|status| status.features.as_ref());
    let supported = features.and_then(|features| features.supplemental_groups_policy).unwrap_or(false);
    let message = "SupplementalGroupsPolicy=Strict is not supported in this node";
    (policy == Some("Strict") && !supported).then(|| refused("SupplementalGroupsPolicyNotSupported", message))
}

fn name(spec: &PodSpec, node: &Node) -> Option<Admission> {
    let wanted = spec.node_name.as_deref().filter(|name| !name.is_empty())?;
    let other = node.metadata.name.as_deref().is_some_and(|name| name != wanted);
    other.then(|| refused("NodeName", "Predicate NodeName failed: node(s) didn't match the requested node name"))
}

/// A gate that is off (features_linux.go, isPodLevelResourcesSupported).
fn pod_level_resources(spec: &PodSpec, config: &Config) -> Option<Admission> {
    let own = spec.resources.as_ref().filter(|_| !config.gates.enabled("PodLevelResources"))?;
    let mut names = own.requests.iter().chain(&own.limits).flat_map(BTreeMap::keys);
    let counts = names.any(|name| is_pod_level(name));
    counts.then(|| refused("PodLevelResourcesNotSupported", "PodLevelResources feature gate is disabled"))
}

/// What a pod needs that the node does not declare (handlers.go, declaredFeaturesAdmitHandler), by name.
fn declared_features(spec: &PodSpec, config: &Config) -> Option<Admission> {
    let declared = node_declares(&config.gates)?;
    let on_the_nodes_network = spec.host_network == Some(true) && spec.host_users == Some(false);
    let needed = [(RESTARTS_ALL, restarts_all(spec)), ("UserNamespacesHostNetworkSupport", on_the_nodes_network)].into_iter();
    let missing: Vec<&str> = needed.filter(|(name, needs)| *needs && !declared.contains(name)).map(|(name, _)| name).collect();
    let message = || format!("Pod requires node features that are not available: {}", missing.join(", "));
    (!missing.is_empty()).then(|| refused("PodFeatureUnsupported", message()))
}

/// What this agent cannot do yet.
fn unsupported(spec: &PodSpec) -> Option<Admission> {
    let what = if spec.host_users == Some(false) {
        "user namespaces (hostUsers: false)"
    } else if spec.resource_claims.iter().flatten().next().is_some() {
        "resource claims (resourceClaims)"
    } else {
        return None;
    };
    Some(refused("PodFeatureUnsupported", format!("{what} are not supported by this agent yet")))
}

/// `OutOf<resource>` for the first resource that is short.
fn resources(pod: &Pod, active: &Beside<'_>, node: &Node, machine: &MachineInfo, config: &Config) -> Option<Admission> {
    let own = Resources::new(config, machine);
    let count = active.pods.len() as u64;
    if count + 1 > own.pods {
        return Some(out_of("pods", 1, count, own.pods));
    }
    let wanted = pod_amounts(pod, Kind::Requests);
    let used = &active.used;
    let capacities =
        [("cpu", own.allocatable_cpu_milli), ("memory", own.allocatable_memory), ("ephemeral-storage", own.allocatable_storage)];
    let others = wanted.keys().filter_map(|name| Some((name.as_str(), other_capacity(name, &own, pod, node)?)));
    for (name, capacity) in capacities.into_iter().chain(others) {
        let asked = wanted.get(name).and_then(|a| u64::try_from(*a).ok()).unwrap_or(0);
        let taken = used.get(name).and_then(|a| u64::try_from(*a).ok()).unwrap_or(0);
        if asked > 0 && asked > capacity.saturating_sub(taken) {
            return Some(out_of(name, asked, taken, capacity));
        }
    }
    None
}

/// What pods may have of a resource that not every node has: huge pages, of which a node may have none, and extended resources that its
/// object names. Those that it does not name are the cluster's, or come with a claim, and are nothing to go by here (POD-036).
fn other_capacity(name: &str, own: &Resources, pod: &Pod, node: &Node) -> Option<u64> {
    if name.starts_with("hugepages-") {
        return Some(amounts_of(Some(&own.allocatable)).get(name).and_then(|amount| u64::try_from(*amount).ok()).unwrap_or(0));
    }
    let extended = is_extended(name);
    let claimed = pod.status.as_ref().and_then(|status| status.extended_resource_claim_status.as_ref());
    let by_claim = claimed.is_some_and(|claim| claim.request_mappings.iter().any(|mapping| mapping.resource_name == name));
    let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref()).filter(|_| extended && !by_claim);
    amounts_of(allocatable).get(name).and_then(|amount| u64::try_from(*amount).ok())
}

fn out_of(resource: &str, requested: u64, used: u64, capacity: u64) -> Admission {
    refused(
        &format!("OutOf{resource}"),
        format!("Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"),
    )
}

/// nodeSelector and required node affinity.
fn affinity(pod: &Pod, node: &Node) -> Option<Admission> {
    let spec = pod.spec.as_ref()?;
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let selector_matches = spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let fields: BTreeMap<String, String> = [("metadata.name".to_owned(), node.metadata.name.clone().unwrap_or_default())].into();
    let affinity_matches = required.is_none_or(|selector| selects(&selector.node_selector_terms, &labels, &fields));
    (!selector_matches || !affinity_matches)
        .then(|| refused(NODE_AFFINITY, "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"))
}

/// Whether one of those terms is for a node with those labels and fields.
pub(crate) fn selects(terms: &[NodeSelectorTerm], labels: &BTreeMap<String, String>, fields: &BTreeMap<String, String>) -> bool {
    terms.iter().any(|term| {
        let expressions = term.match_expressions.as_deref().unwrap_or_default();
        let of_fields = term.match_fields.as_deref().unwrap_or_default();
        // A term that asks for nothing matches nothing.
        let empty = expressions.is_empty() && of_fields.is_empty();
        !empty && expressions.iter().all(|e| matches(e, labels)) && of_fields.iter().all(|e| matches(e, fields))
    })
}

fn matches(requirement: &NodeSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let value = labels.get(&requirement.key);
    let values = requirement.values.as_deref().unwrap_or_default();
    let number = |text: &String| text.parse::<i64>().ok();
    let compared = |order: std::cmp::Ordering| match (value.and_then(number), values.first().and_then(number)) {
        (Some(have), Some(bound)) => have.cmp(&bound) == order,
        _ => false,
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|v| values.contains(v)),
        "NotIn" => value.is_none_or(|v| !values.contains(v)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared(std::cmp::Ordering::Greater),
        "Lt" => compared(std::cmp::Ordering::Less),
        _ => false,
    }
}

/// Protocol, address and port.
type HostPort = (String, String, i32);

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let spec = pod.spec.as_ref();
    let containers = spec.iter().flat_map(|s| {
        s.containers.iter().chain(s.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always")))
    });
    containers
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(|p| Some((p, p.host_port.filter(|port| *port > 0)?)))
        .map(|(p, port)| {
            let ip = p.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".to_owned());
            (p.protocol.clone().unwrap_or_else(|| "TCP".to_owned()), ip, port)
        })
        .collect()
}

fn ports(pod: &Pod, active: &[&Arc<Pod>]) -> Option<Admission> {
    let wanted = host_ports(pod);
    if wanted.is_empty() {
        return None;
    }
    // By port and protocol: one pod may ask for thousands.
    let mut taken: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for (protocol, ip, port) in active.iter().flat_map(|p| host_ports(p)) {
        taken.entry((port, protocol)).or_default().insert(ip);
    }
    let any = "0.0.0.0";
    let clashes = |(protocol, ip, port): HostPort| {
        let taken = taken.get(&(port, protocol));
        taken.is_some_and(|ips| ip == any || ips.contains(any) || ips.contains(&ip))
    };
    wanted
        .into_iter()
        .any(clashes)
        .then(|| refused("NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"))
}

/// Only NoExecute taints count, and not for static pods.
fn taints(pod: &Pod, node: &Node) -> Option<Admission> {
    let source = pod.metadata.annotations.as_ref().and_then(|a| a.get(crate::pod::manager::SOURCE_ANNOTATION));
    if source.is_some_and(|source| source != "api") {
        return None;
    }
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    let bad = taints.iter().any(|taint| taint.effect == "NoExecute" && !tolerations.iter().any(|t| tolerates(t, taint)));
    bad.then(|| refused("TaintToleration", "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate"))
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let unset = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
    let effect = unset(&toleration.effect) || toleration.effect.as_deref() == Some(taint.effect.as_str());
    let key = unset(&toleration.key) || toleration.key.as_deref() == Some(taint.key.as_str());
    let value = match toleration.operator.as_deref().unwrap_or("Equal") {
        "Exists" => true,
        _ => {
            !unset(&toleration.key) && toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
        }
    };
    effect && key && value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feature_gates::FeatureGates;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap()
    }

    fn asking(cpu: &str) -> Pod {
        pod(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}))
    }

    fn node(value: Value) -> Node {
        serde_json::from_value(value).unwrap()
    }

    fn verdict(pod: &Pod, active: &[&Arc<Pod>], of: &Node) -> Admission {
        verdict_with(&Config::new("n1"), pod, active, of)
    }

    fn verdict_with(config: &Config, pod: &Pod, active: &[&Arc<Pod>], of: &Node) -> Admission {
        let machine = MachineInfo { cpus: 2, memory: 4 << 30, root_fs_capacity: 1 << 30, ..MachineInfo::default() };
        let mut beside = Beside::default();
        active.iter().for_each(|pod| beside.add(pod, &pod_amounts(pod, Kind::Requests)));
        admit(pod, &beside, of, Some(&machine), config)
    }

    // POD-034, NODE-162: OutOfcpu, in milli.
    #[test]
    fn pod_that_asks_for_too_much_is_refused() {
        let other = Arc::new(asking("1500m"));
        assert_eq!(verdict(&asking("500m"), &[&other], &Node::default()), Admission::Admitted);
        assert_eq!(
            verdict(&asking("501m"), &[&other], &Node::default()),
            refused("OutOfcpu", "Node didn't have enough resource: cpu, requested: 501, used: 1500, capacity: 2000")
        );
    }

    // POD-036, POD-034: what the node's object names is counted, huge pages always; what it does not name is not the node's to give.
    #[test]
    fn extended_resources_count_where_the_node_has_them() {
        let asking = |name: &str, amount: &str| {
            pod(json!({"containers": [{"name": "c", "resources": {"requests": {name: amount}, "limits": {name: amount}}}]}))
        };
        let here = node(json!({"status": {"allocatable": {"example.com/gpu": "2", "example.com/none": "0"}}}));
        let other = Arc::new(asking("example.com/gpu", "1"));
        assert_eq!(verdict(&asking("example.com/gpu", "1"), &[&other], &here), Admission::Admitted);
        assert_eq!(
            verdict(&asking("example.com/gpu", "2"), &[&other], &here),
            refused(
                "OutOfexample.com/gpu",
                "Node didn't have enough resource: example.com/gpu, requested: 2, used: 1, capacity: 2"
            )
        );
        assert_eq!(reason(&asking("example.com/none", "1"), &[], &here), "OutOfexample.com/none");
        assert_eq!(reason(&asking("example.com/elsewhere", "1"), &[], &here), "admitted");
        assert_eq!(reason(&asking("hugepages-2Mi", "2Mi"), &[], &here), "OutOfhugepages-2Mi");
        let mut claiming = asking("example.com/gpu", "3");
        claiming.status = serde_json::from_value(json!({"extendedResourceClaimStatus": {
            "resourceClaimName": "gpus",
            "requestMappings": [{"containerName": "c", "resourceName": "example.com/gpu", "requestName": "container-0"}],
        }}))
        .unwrap();
        assert_eq!(reason(&claiming, &[], &here), "admitted");
    }

    // POD-034, NODE-162: NodeAffinity
    #[test]
    fn pod_that_wants_another_node_is_refused() {
        let here = node(json!({"metadata": {"name": "n1", "labels": {"zone": "a", "n": "5"}}}));
        let selecting = |zone: &str| pod(json!({"containers": [], "nodeSelector": {"zone": zone}}));
        assert_eq!(verdict(&selecting("a"), &[], &here), Admission::Admitted);
        assert!(matches!(verdict(&selecting("b"), &[], &here), Admission::Refused { reason, .. } if reason == "NodeAffinity"));
        let requiring = |operator: &str, values: Value| {
            pod(json!({"containers": [], "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "n", "operator": operator, "values": values}]}]}}}}))
        };
        assert_eq!(verdict(&requiring("Gt", json!(["4"])), &[], &here), Admission::Admitted);
        assert_ne!(verdict(&requiring("In", json!(["4"])), &[], &here), Admission::Admitted);
    }

    // POD-034, NODE-162: NodePorts
    #[test]
    fn pod_that_wants_a_taken_port_is_refused() {
        let with_port = |port: i32| pod(json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": port}]}]}));
        let other = Arc::new(with_port(80));
        assert_eq!(verdict(&with_port(81), &[&other], &Node::default()), Admission::Admitted);
        assert!(
            matches!(verdict(&with_port(80), &[&other], &Node::default()), Admission::Refused { reason, .. } if reason == "NodePorts")
        );
    }

    // POD-034: component-helpers/scheduling/corev1/nodeports (Fits): by port, protocol, and address, of which 0.0.0.0 is any.
    #[test]
    fn ports_of_two_addresses_do_not_clash_and_those_of_any_do() {
        let with = |ip: &str, protocol: &str| {
            pod(json!({"containers": [{"name": "c", "ports": [
                {"containerPort": 80, "hostPort": 80, "hostIP": ip, "protocol": protocol}]}]}))
        };
        let other = Arc::new(with("10.0.0.1", "TCP"));
        for (ip, protocol, fits) in [
            ("10.0.0.2", "TCP", true),
            ("10.0.0.1", "UDP", true),
            ("10.0.0.1", "TCP", false),
            ("", "TCP", false),
            ("0.0.0.0", "TCP", false),
        ] {
            let admitted = verdict(&with(ip, protocol), &[&other], &Node::default()) == Admission::Admitted;
            assert_eq!(admitted, fits, "{ip} {protocol}");
        }
        let any = Arc::new(with("", "TCP"));
        assert_eq!(reason(&with("10.0.0.2", "TCP"), &[&any], &Node::default()), "NodePorts");
    }

    // Issue 10: docs/differs.md
    #[test]
    fn pod_of_more_containers_than_one_pod_may_have_is_refused() {
        let many = |containers: usize| {
            let of = |number: usize| json!({"name": format!("c{number}"), "image": "x"});
            let inits: Vec<_> = (0..2).map(of).collect();
            pod(json!({"initContainers": inits, "containers": (2..containers).map(of).collect::<Vec<_>>()}))
        };
        assert_eq!(reason(&many(CONTAINERS), &[], &Node::default()), "admitted");
        assert_eq!(reason(&many(CONTAINERS + 1), &[], &Node::default()), "PodFeatureUnsupported");
    }

    // POD-034, NODE-162: TaintToleration
    #[test]
    fn only_no_execute_taints_count() {
        let tainted = |effect: &str| node(json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": effect}]}}));
        let plain = pod(json!({"containers": []}));
        assert_eq!(verdict(&plain, &[], &tainted("NoSchedule")), Admission::Admitted);
        assert_ne!(verdict(&plain, &[], &tainted("NoExecute")), Admission::Admitted);
        let tolerant = pod(json!({"containers": [], "tolerations": [{"key": "k", "operator": "Exists"}]}));
        assert_eq!(verdict(&tolerant, &[], &tainted("NoExecute")), Admission::Admitted);
    }

    fn reason(pod: &Pod, active: &[&Arc<Pod>], of: &Node) -> String {
        match verdict(pod, active, of) {
            Admission::Admitted => "admitted".to_owned(),
            Admission::Refused { reason, .. } => reason,
        }
    }

    // POD-034, NODE-162: an object of another node, and a pod of another operating system.
    #[test]
    fn pod_of_another_node_or_system_is_refused() {
        let here = node(json!({"metadata": {"name": "n1"}}));
        assert_eq!(reason(&pod(json!({"containers": [], "nodeName": "n1"})), &[], &here), "admitted");
        assert_eq!(reason(&pod(json!({"containers": [], "nodeName": "n2"})), &[], &here), "NodeName");
        assert_eq!(
            verdict(&pod(json!({"containers": [], "os": {"name": "windows"}})), &[], &here),
            refused("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS")
        );
        let mut labelled = pod(json!({"containers": []}));
        labelled.metadata.labels = Some([("kubernetes.io/os".to_owned(), "windows".to_owned())].into());
        assert_eq!(reason(&labelled, &[], &here), "PodOSSelectorNodeLabelDoesNotMatch");
    }

    // POD-034: the node tells whether its runtime can.
    #[test]
    fn strict_supplemental_groups_need_a_runtime_that_knows_them() {
        let strict = pod(json!({"containers": [], "securityContext": {"supplementalGroupsPolicy": "Strict"}}));
        let able = |able: bool| node(json!({"status": {"features": {"supplementalGroupsPolicy": able}}}));
        assert_eq!(reason(&strict, &[], &able(true)), "admitted");
        assert_eq!(reason(&strict, &[], &able(false)), "SupplementalGroupsPolicyNotSupported");
        assert_eq!(reason(&strict, &[], &Node::default()), "SupplementalGroupsPolicyNotSupported");
    }

    // NODE-160, NODE-092: features_linux.go and handlers.go (declaredFeaturesAdmitHandler): after all others, gates that are off and what the
    // node does not declare. Without the gate of the declarations nothing is asked.
    #[test]
    fn pods_of_gates_that_are_off_are_refused() {
        let with = |gates: &[&str]| {
            let mut config = Config::new("n1");
            config.gates = FeatureGates::new(gates.iter().map(|gate| ((*gate).to_owned(), false)).collect());
            config
        };
        let rules = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]);
        let restarting = pod(json!({"containers": [], "initContainers": [{"name": "c", "restartPolicyRules": rules}]}));
        let own = |resources: Value| pod(json!({"containers": [], "resources": resources}));
        let of = |config: &Config, pod: &Pod| verdict_with(config, pod, &[], &Node::default());
        let missing = "Pod requires node features that are not available: RestartAllContainersOnContainerExits";
        assert_eq!(of(&with(&[]), &restarting), Admission::Admitted);
        assert_eq!(of(&with(&["RestartAllContainersOnContainerExits"]), &restarting), refused("PodFeatureUnsupported", missing));
        let neither = with(&["RestartAllContainersOnContainerExits", "NodeDeclaredFeatures"]);
        assert_eq!(of(&neither, &restarting), Admission::Admitted);
        let (off, words) = (with(&["PodLevelResources"]), "PodLevelResources feature gate is disabled");
        for resources in [json!({"requests": {"cpu": "1m"}}), json!({"limits": {"hugepages-2Mi": "0"}})] {
            assert_eq!(of(&with(&[]), &own(resources.clone())), Admission::Admitted);
            assert_eq!(of(&off, &own(resources)), refused("PodLevelResourcesNotSupported", words));
        }
        assert_eq!(of(&off, &own(json!({"requests": {"ephemeral-storage": "1"}}))), Admission::Admitted);
        let spaces = pod(json!({"containers": [], "hostNetwork": true, "hostUsers": false}));
        let missing = "Pod requires node features that are not available: UserNamespacesHostNetworkSupport";
        assert_eq!(of(&with(&[]), &spaces), refused("PodFeatureUnsupported", missing));
    }

    // POD-031, NODE-160: of all that is wrong with a pod the first counts, in upstream's order.
    #[test]
    fn first_refusal_counts_in_upstreams_order() {
        let here = node(json!({
            "metadata": {"name": "n1"},
            "spec": {"taints": [{"key": "k", "effect": "NoExecute"}]},
        }));
        let mut wrong = pod(json!({
            "nodeName": "n2", "nodeSelector": {"zone": "b"}, "os": {"name": "windows"}, "hostUsers": false,
            "resourceClaims": [{"name": "gpu", "resourceClaimName": "gpu"}],
            "securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}], "supplementalGroupsPolicy": "Strict"},
            "containers": [{"name": "c", "securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}, "resources": {"requests": {"cpu": "3"}}, "ports": [{"containerPort": 80, "hostPort": 80}]}],
        }));
        let active = Arc::new(pod(json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]})));
        type Mending = fn(&mut PodSpec);
        let mendings: [(&str, Mending); 11] = [
            ("SysctlForbidden", |s| s.security_context.as_mut().unwrap().sysctls = None),
            ("PodOSNotSupported", |s| s.os = None),
            ("SupplementalGroupsPolicyNotSupported", |s| s.security_context = None),
            ("OutOfcpu", |s| s.containers[0].resources = None),
            ("NodeAffinity", |s| s.node_selector = None),
            ("NodeName", |s| s.node_name = None),
            ("NodePorts", |s| s.containers[0].ports = None),
            ("TaintToleration", |s| s.tolerations = Some(serde_json::from_value(json!([{"operator": "Exists"}])).unwrap())),
            ("AppArmor", |s| s.containers[0].security_context = None),
            ("PodFeatureUnsupported", |s| s.host_users = None),
            ("PodFeatureUnsupported", |s| s.resource_claims = None),
        ];
        for (expected, mend) in mendings {
            assert_eq!(reason(&wrong, &[&active], &here), expected);
            mend(wrong.spec.as_mut().unwrap());
        }
        assert_eq!(verdict(&wrong, &[&active], &here), Admission::Admitted);
    }
}
