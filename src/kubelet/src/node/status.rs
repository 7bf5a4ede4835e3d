//! Decides what the Node object says of this machine: addresses, capacity, allocatable, versions, images, conditions.
//! Upstream: pkg/kubelet/nodestatus/setters.go, pkg/kubelet/kubelet_node_status.go.
//! Differs: nothing on purpose.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, NodeDaemonEndpoints, NodeFeatures, NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeStatus,
    NodeSwapStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::Value;

use super::addresses::generate_addresses;
use super::conditions::{Pressures, generate_conditions};
use super::registration::is_extended;
use super::runtime_health::RuntimeHealth;
use crate::canonical_quantity::canonical;
use crate::config::{Config, Signal};
use crate::feature_gates::FeatureGates;
use crate::observation::{Image, MachineInfo, NodeAddresses};
use crate::time::Mono;

/// The version that this agent speaks for.
pub const KUBELET_VERSION: &str = "v1.36.2";
/// NODE-090: names of one image in the status.
const MOST_NAMES: usize = 5;

/// What a status is made of.
#[derive(Clone, Copy, Debug)]
pub struct StatusInputs<'a> {
    /// The settings.
    pub config: &'a Config,
    /// The machine, once it was read.
    pub machine: Option<&'a MachineInfo>,
    /// What addresses the machine has, once it was asked.
    pub addresses: Option<&'a NodeAddresses>,
    /// The runtime.
    pub runtime: &'a RuntimeHealth,
    /// Why the node is not ready, besides runtime, network and capacity.
    pub errors: &'a [String],
    /// Why the listing of the runtime is not healthy, if it is not.
    pub pleg_error: Option<&'a str>,
    /// The images of the runtime.
    pub images: &'a [Image],
    /// The pressures.
    pub pressures: Pressures,
    /// The volumes that are in use, in order; `None` leaves what was said of them (VOL-017).
    pub volumes_in_use: Option<&'a [String]>,
    /// Monotonic now.
    pub mono: Mono,
    /// Wall clock in whole seconds.
    pub wall: Timestamp,
}

/// The new status, from the existing one, and the reasons of the events that it causes (NODE-080 to NODE-102).
#[must_use]
pub fn generate_node_status(existing: &NodeStatus, inputs: &StatusInputs<'_>) -> (NodeStatus, Vec<&'static str>) {
    let mut status = existing.clone();
    let mut errors: Vec<String> = Vec::new();
    errors.extend(inputs.runtime.silence_error(inputs.mono));
    errors.extend(inputs.pleg_error.map(str::to_owned));
    errors.extend(inputs.runtime.condition_error());
    errors.extend(inputs.runtime.network_error());
    errors.extend(inputs.runtime.config_error().map(str::to_owned));
    errors.extend(inputs.errors.iter().cloned());
    // An error is told elsewhere: it says nothing of whether pods can run here.
    if let Ok(Some(addresses)) =
        generate_addresses(inputs.config, existing.addresses.as_deref().unwrap_or_default(), inputs.addresses)
    {
        status.addresses = Some(addresses);
    }
    set_resources(&mut status, inputs);
    errors.extend(missing_capacity(&status, inputs.config));
    status.daemon_endpoints =
        Some(NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(inputs.config.node.port) }) });
    status.node_info = Some(node_info(inputs));
    status.images = Some(status_images(inputs.images, inputs.config.node.status_max_images));
    set_handlers(&mut status, inputs.runtime);
    let declared = node_declares(&inputs.config.gates).unwrap_or_default();
    status.declared_features = (!declared.is_empty()).then(|| declared.into_iter().map(str::to_owned).collect());
    if let Some(used) = inputs.volumes_in_use {
        status.volumes_in_use = (!used.is_empty()).then(|| used.to_vec());
    }
    let (mut conditions, events) =
        generate_conditions(existing.conditions.as_deref().unwrap_or_default(), inputs.pressures, &errors, inputs.wall);
    warn_of_missing_quota(&mut conditions, inputs.machine);
    status.conditions = Some(conditions);
    (status, events)
}

/// Whether two statuses differ in more than heartbeats (NODE-062). What Go's JSON does not tell apart is the same: a list that is not
/// there and one that is empty, a text or number that is not there and an empty one.
#[must_use]
pub fn status_changed(old: &NodeStatus, new: &NodeStatus) -> bool {
    let comparable = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        if let Some(conditions) = &mut status.conditions {
            conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
        }
        for list in [&mut status.capacity, &mut status.allocatable] {
            list.iter_mut().flatten().for_each(|(_, quantity)| *quantity = canonical(quantity));
        }
        // A status is a plain struct: it always serializes.
        let mut value = serde_json::to_value(status).unwrap_or_default();
        without_nothing(&mut value);
        value
    };
    comparable(old) != comparable(new)
}

/// Takes out of an object, and of what lies in it, whatever says nothing.
fn without_nothing(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(without_nothing);
            fields.retain(|_, value| match value {
                Value::Null => false,
                Value::String(text) => !text.is_empty(),
                Value::Number(number) => number.as_i64() != Some(0),
                Value::Array(items) => !items.is_empty(),
                Value::Object(fields) => !fields.is_empty(),
                Value::Bool(_) => true,
            });
        }
        Value::Array(items) => items.iter_mut().for_each(without_nothing),
        _ => {}
    }
}

/// NODE-083, NODE-084, NODE-086: what the machine has, and what of it pods may have.
fn set_resources(status: &mut NodeStatus, inputs: &StatusInputs<'_>) {
    let capacity = status.capacity.get_or_insert_default();
    let Some(machine) = inputs.machine else {
        capacity.insert("cpu".to_owned(), Quantity("0".to_owned()));
        capacity.insert("memory".to_owned(), Quantity("0Gi".to_owned()));
        capacity.insert("pods".to_owned(), Quantity(inputs.config.pods.max.to_string()));
        return;
    };
    let resources = Resources::new(inputs.config, machine);
    for (name, quantity) in &resources.capacity {
        capacity.insert(name.clone(), quantity.clone());
    }
    let mut allocatable: BTreeMap<String, Quantity> = status.allocatable.take().unwrap_or_default();
    // Extended resources that are gone from capacity go here too; of those that others put there, pods may have all.
    allocatable.retain(|name, _| capacity.contains_key(name) || !is_extended(name));
    allocatable.extend(capacity.clone());
    allocatable.extend(resources.allocatable);
    status.allocatable = Some(allocatable);
}

/// The node's own resources, as quantities and as numbers.
#[derive(Clone, Debug, Default)]
pub struct Resources {
    /// What there is.
    pub capacity: BTreeMap<String, Quantity>,
    /// What pods may have.
    pub allocatable: BTreeMap<String, Quantity>,
    /// Allocatable CPU in thousandths of a core.
    pub allocatable_cpu_milli: u64,
    /// Allocatable memory in bytes.
    pub allocatable_memory: u64,
    /// Allocatable local storage in bytes.
    pub allocatable_storage: u64,
    /// Pods.
    pub pods: u64,
}

impl Resources {
    /// Computes them from the machine and the reservations.
    #[must_use]
    pub fn new(config: &Config, machine: &MachineInfo) -> Self {
        let mut resources = Self::default();
        let pods = match config.pods.per_core {
            0 => u64::from(config.pods.max),
            per_core => u64::from(config.pods.max).min(machine.cpus * u64::from(per_core)),
        };
        let [cpu, memory, disk] = Self::reserved(config, machine).map(|(_, reserved, capacity)| capacity.saturating_sub(reserved));
        let hugepages: u64 = machine.hugepages.iter().map(|(size, count)| size * count).sum();
        let memory = memory.saturating_sub(hugepages);
        resources.put("cpu", decimal_milli(machine.cpus * 1000), decimal_milli(cpu));
        resources.put("memory", binary(machine.memory), binary(memory));
        resources.put("pods", pods.to_string(), pods.to_string());
        for (size, count) in &machine.hugepages {
            let all = binary(size * count);
            resources.put(&format!("hugepages-{}", binary(*size)), all.clone(), all);
        }
        if config.pods.local_storage_capacity_isolation {
            resources.put("ephemeral-storage", binary(machine.root_fs_capacity), binary(disk));
            resources.allocatable_storage = disk;
        }
        resources.allocatable_cpu_milli = cpu;
        resources.allocatable_memory = memory;
        resources.pods = pods;
        resources
    }

    /// What is kept from pods, hard eviction thresholds included, and what there is: CPU in thousandths of a core, bytes.
    #[must_use]
    pub fn reserved(config: &Config, machine: &MachineInfo) -> [(&'static str, u64, u64); 3] {
        let hard = |signal: Signal, capacity: u64| {
            let threshold = config.eviction.thresholds.iter().find(|t| t.is_hard() && t.signal == signal);
            threshold.map_or(0, |t| t.value.of(capacity))
        };
        let of = |name, capacity, evicted: u64| (name, config.reserved.total(name).saturating_add(evicted), capacity);
        let disk = machine.root_fs_capacity;
        [
            of("cpu", machine.cpus * 1000, 0),
            of("memory", machine.memory, hard(Signal::MemoryAvailable, machine.memory)),
            of("ephemeral-storage", disk, hard(Signal::NodeFsAvailable, disk)),
        ]
    }

    fn put(&mut self, name: &str, capacity: String, allocatable: String) {
        self.capacity.insert(name.to_owned(), Quantity(capacity));
        self.allocatable.insert(name.to_owned(), Quantity(allocatable));
    }
}

/// A canonical binary quantity: the largest unit that divides it.
fn binary(bytes: u64) -> String {
    if bytes == 0 {
        return "0".to_owned();
    }
    let units = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let mut value = bytes;
    let mut unit = 0;
    while value.is_multiple_of(1024) && unit + 1 < units.len() {
        value /= 1024;
        unit += 1;
    }
    format!("{value}{}", units[unit])
}

fn decimal_milli(milli: u64) -> String {
    if milli.is_multiple_of(1000) { (milli / 1000).to_string() } else { format!("{milli}m") }
}

/// NODE-101
fn missing_capacity(status: &NodeStatus, config: &Config) -> Option<String> {
    let mut wanted = vec!["cpu", "memory", "pods"];
    if config.pods.local_storage_capacity_isolation {
        wanted.push("ephemeral-storage");
    }
    let has = |name: &str| status.capacity.as_ref().is_some_and(|c| c.contains_key(name));
    let missing: Vec<&str> = wanted.into_iter().filter(|name| !has(name)).collect();
    (!missing.is_empty()).then(|| format!("missing node capacity for resources: {}", missing.join(", ")))
}

fn node_info(inputs: &StatusInputs<'_>) -> NodeSystemInfo {
    let machine = inputs.machine.cloned().unwrap_or_default();
    let runtime = inputs.runtime.version();
    NodeSystemInfo {
        machine_id: machine.machine_id,
        system_uuid: machine.system_uuid,
        boot_id: machine.boot_id,
        kernel_version: machine.kernel_version,
        os_image: machine.os_image,
        container_runtime_version: runtime
            .map_or_else(|| "unknown://Unknown".to_owned(), |version| format!("{}://{}", version.name, version.version)),
        kubelet_version: KUBELET_VERSION.to_owned(),
        kube_proxy_version: String::new(),
        operating_system: "linux".to_owned(),
        architecture: machine.architecture,
        swap: (machine.swap > 0).then(|| NodeSwapStatus { capacity: i64::try_from(machine.swap).ok() }),
    }
}

/// NODE-090: largest first; digests before tags.
fn status_images(images: &[Image], most: Option<usize>) -> Vec<ContainerImage> {
    let mut sorted: Vec<&Image> = images.iter().collect();
    sorted.sort_by(|a, b| (b.size, &b.id).cmp(&(a.size, &a.id)));
    sorted.truncate(most.unwrap_or(usize::MAX));
    let one = |image: &Image| {
        let names: Vec<String> = image.repo_digests.iter().chain(&image.repo_tags).take(MOST_NAMES).cloned().collect();
        ContainerImage { names: Some(names), size_bytes: i64::try_from(image.size).ok() }
    };
    sorted.into_iter().map(one).collect()
}

/// NODE-091
fn set_handlers(status: &mut NodeStatus, runtime: &RuntimeHealth) {
    let mut handlers = runtime.handlers().to_vec();
    handlers.sort();
    status.runtime_handlers = (!handlers.is_empty()).then(|| {
        let one = |handler: crate::observation::RuntimeHandler| NodeRuntimeHandler {
            name: Some(handler.name),
            features: Some(NodeRuntimeHandlerFeatures {
                recursive_read_only_mounts: Some(handler.recursive_read_only_mounts),
                user_namespaces: Some(handler.user_namespaces),
            }),
        };
        handlers.into_iter().map(one).collect()
    });
    status.features = Some(NodeFeatures { supplemental_groups_policy: Some(runtime.supplemental_groups_policy()) });
}

fn warn_of_missing_quota(conditions: &mut [k8s_openapi::api::core::v1::NodeCondition], machine: Option<&MachineInfo>) {
    if machine.is_none_or(|m| m.cpu_cfs_quota) {
        return;
    }
    for condition in conditions.iter_mut().filter(|c| c.type_ == "Ready") {
        if let Some(message) = &mut condition.message {
            message.push_str(". WARNING: CPU hardcapping unsupported");
        }
    }
}

/// Of what upstream's nodes declare (nodedeclaredfeatures/features/registry.go), what is built (NODE-092). A kubelet that was here
/// before leaves its list behind, by which the API server sends streams, and the scheduler pods, that only that could serve.
/// `None` if a node of these gates declares nothing.
#[must_use]
pub fn node_declares(gates: &FeatureGates) -> Option<Vec<&'static str>> {
    let built = [RESTARTS_ALL].into_iter().filter(|feature| gates.enabled(feature));
    gates.enabled("NodeDeclaredFeatures").then(|| built.collect())
}

/// The feature, and its gate, of a rule that restarts all containers.
pub const RESTARTS_ALL: &str = "RestartAllContainersOnContainerExits";

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Node;

    use std::time::Duration;

    use crate::config::{Threshold, ThresholdValue};
    use crate::event::CriReply;
    use crate::observation::{RuntimeCondition, RuntimeStatus};
    use crate::out::{Ledger, Out};
    use crate::time::Now;

    fn machine() -> MachineInfo {
        MachineInfo {
            cpus: 2,
            memory: 24_684_092 << 10,
            hugepages: [(2 << 20, 0), (1 << 30, 0)].into(),
            root_fs_capacity: 264_212_084 << 10,
            machine_id: "3d1219c7c4c5404aaa1f6d2a48adfda4".to_owned(),
            system_uuid: "3d1219c7c4c5404aaa1f6d2a48adfda4".to_owned(),
            boot_id: "96cff5b6-7043-4835-9ca5-808dd0b07611".to_owned(),
            kernel_version: "6.18.44-fc-v657".to_owned(),
            os_image: "Debian GNU/Linux 12 (bookworm)".to_owned(),
            architecture: "amd64".to_owned(),
            cpu_cfs_quota: true,
            ..MachineInfo::default()
        }
    }

    fn config() -> Config {
        let mut config = Config::new("n1");
        config.pods.max = 250;
        // The capture's node had only this threshold.
        config.eviction.thresholds.retain(|t| t.signal == Signal::MemoryAvailable);
        config
    }

    fn generate(config: &Config, existing: &NodeStatus) -> NodeStatus {
        generate_on(config, existing, &RuntimeHealth::new(config.pods.runtime_request_timeout), None)
    }

    fn generate_on(config: &Config, existing: &NodeStatus, runtime: &RuntimeHealth, pleg_error: Option<&str>) -> NodeStatus {
        let machine = machine();
        let addresses = NodeAddresses { routed: vec!["10.77.0.1".parse().unwrap()], ..NodeAddresses::default() };
        let inputs = StatusInputs {
            config,
            machine: Some(&machine),
            addresses: Some(&addresses),
            runtime,
            errors: &[],
            pleg_error,
            images: &[],
            pressures: Pressures::default(),
            volumes_in_use: None,
            mono: Mono::ZERO,
            wall: Timestamp::UNIX_EPOCH,
        };
        generate_node_status(existing, &inputs).0
    }

    // NODE-080, NODE-083, NODE-084, NODE-087, NODE-089: as a real kubelet reported the same machine.
    #[test]
    fn status_of_the_captured_machine_is_the_captured_one() {
        let golden: Node = serde_json::from_str(include_str!("../../testdata/node.json")).unwrap();
        let golden = golden.status.unwrap();
        let ours = generate(&config(), &NodeStatus::default());
        assert_eq!(ours.capacity, golden.capacity);
        assert_eq!(ours.allocatable, golden.allocatable);
        assert_eq!(ours.addresses, golden.addresses);
        assert_eq!(ours.daemon_endpoints, golden.daemon_endpoints);
        let mut info = golden.node_info.unwrap();
        info.container_runtime_version = "unknown://Unknown".to_owned();
        assert_eq!(ours.node_info, Some(info));
    }

    // N10, NODE-101: pkg/kubelet/runtime.go (runtimeErrors): what is not there yet or down, then the PLEG, then what the runtime says.
    #[test]
    fn errors_come_in_upstreams_order() {
        let (mut runtime, mut ledger, mut actions) = (RuntimeHealth::new(Duration::from_secs(120)), Ledger::default(), Vec::new());
        let now = Now { mono: Mono::ZERO, wall: Timestamp::UNIX_EPOCH };
        runtime.due(now, &mut Out::new(&mut ledger, &mut actions, &mut Vec::new()));
        let condition = |status| Some(RuntimeCondition { status, reason: "R".to_owned(), message: "M".to_owned() });
        let told = RuntimeStatus { runtime_ready: condition(false), network_ready: condition(true), ..RuntimeStatus::default() };
        for action in actions {
            runtime.done(now, action.id, Ok(CriReply::Status(told.clone())));
        }
        let status = generate_on(&config(), &NodeStatus::default(), &runtime, Some("PLEG is not healthy: why"));
        let ready = status.conditions.unwrap().into_iter().find(|one| one.type_ == "Ready").unwrap();
        let expected = "[container runtime status check may not have completed yet, PLEG is not healthy: why, container runtime not \
                        ready: RuntimeReady=false reason:R message:M]";
        assert_eq!(ready.message.as_deref(), Some(expected));
    }

    // NODE-083: setters.go, MachineInfo: podsPerCore times the cores, at most maxPods; 0 is no limit.
    #[test]
    fn pods_are_bounded_by_cores_as_well() {
        for (per_core, pods) in [(0, "250"), (10, "20"), (1000, "250")] {
            let mut config = config();
            config.pods.per_core = per_core;
            let status = generate(&config, &NodeStatus::default());
            let told = |list: &Option<BTreeMap<String, Quantity>>| list.as_ref().unwrap()["pods"].0.clone();
            assert_eq!((told(&status.capacity), told(&status.allocatable)), (pods.to_owned(), pods.to_owned()), "{per_core}");
        }
    }

    // NODE-084: reservations, the hard threshold and huge pages are taken off memory, but never below zero.
    #[test]
    fn allocatable_is_capacity_less_what_is_kept() {
        let mut config = config();
        config.reserved.system = [("memory".to_owned(), 1 << 30), ("cpu".to_owned(), 250)].into();
        let resources = Resources::new(&config, &machine());
        assert_eq!(resources.allocatable["cpu"].0, "1750m");
        assert_eq!(resources.allocatable_memory, (24_684_092 << 10) - (1 << 30) - (100 << 20));
        config.reserved.system = [("memory".to_owned(), u64::MAX)].into();
        assert_eq!(Resources::new(&config, &machine()).allocatable["memory"].0, "0");
    }

    // NODE-084: node_container_manager_linux.go (GetNodeAllocatableReservation, hardEvictionReservation) and setters.go (MachineInfo):
    // thresholds in percent of what there is, of the disk as well; what huge pages hold is no memory of others.
    #[test]
    fn thresholds_in_percent_and_huge_pages_are_taken_off() {
        let mut config = Config::new("n1");
        let of = |signal, value| Threshold { signal, value, grace_period: Duration::ZERO, min_reclaim: None };
        config.eviction.thresholds = vec![
            of(Signal::MemoryAvailable, ThresholdValue::Fraction(0.25)),
            of(Signal::NodeFsAvailable, ThresholdValue::Fraction(0.125)),
        ];
        let machine = MachineInfo {
            cpus: 2,
            memory: 4 << 30,
            root_fs_capacity: 10 << 30,
            hugepages: [(2 << 20, 8), (1 << 30, 1)].into(),
            ..MachineInfo::default()
        };
        let told = |config: &Config, name: &str| Resources::new(config, &machine).allocatable[name].0.clone();
        // A quarter of 4Gi, 16Mi and 1Gi less.
        assert_eq!((told(&config, "memory"), told(&config, "ephemeral-storage")), ("2032Mi".to_owned(), "8960Mi".to_owned()));
        assert_eq!((told(&config, "hugepages-2Mi"), told(&config, "hugepages-1Gi")), ("16Mi".to_owned(), "1Gi".to_owned()));
        config.reserved.kube = [("ephemeral-storage".to_owned(), 1 << 30)].into();
        assert_eq!(told(&config, "ephemeral-storage"), "7936Mi");
    }

    // NODE-101: setters.go, ReadyCondition: capacity that is not known makes the node unready, a kernel without quotas does not.
    #[test]
    fn missing_capacity_and_missing_quotas_are_told() {
        let ready = |inputs: &StatusInputs<'_>| {
            let status = generate_node_status(&NodeStatus::default(), inputs).0;
            let ready = status.conditions.unwrap().into_iter().find(|one| one.type_ == "Ready").unwrap();
            (ready.status, ready.message.unwrap_or_default())
        };
        let (mut runtime, mut ledger, mut actions) = (RuntimeHealth::new(Duration::from_secs(120)), Ledger::default(), Vec::new());
        let now = Now { mono: Mono::ZERO, wall: Timestamp::UNIX_EPOCH };
        runtime.due(now, &mut Out::new(&mut ledger, &mut actions, &mut Vec::new()));
        let condition = || Some(RuntimeCondition { status: true, ..RuntimeCondition::default() });
        let told = RuntimeStatus { runtime_ready: condition(), network_ready: condition(), ..RuntimeStatus::default() };
        for action in actions {
            runtime.done(now, action.id, Ok(CriReply::Status(told.clone())));
        }
        let (config, mut machine) = (config(), machine());
        machine.cpu_cfs_quota = false;
        let mut inputs = StatusInputs {
            config: &config,
            machine: Some(&machine),
            addresses: None,
            runtime: &runtime,
            errors: &[],
            pleg_error: None,
            images: &[],
            pressures: Pressures::default(),
            volumes_in_use: None,
            mono: Mono::ZERO,
            wall: Timestamp::UNIX_EPOCH,
        };
        let unlimited = "kubelet is posting ready status. WARNING: CPU hardcapping unsupported";
        assert_eq!(ready(&inputs), ("True".to_owned(), unlimited.to_owned()));
        inputs.machine = None;
        let missing = "missing node capacity for resources: ephemeral-storage";
        assert_eq!(ready(&inputs), ("False".to_owned(), missing.to_owned()));
    }

    // NODE-092: what the kubelet before declared goes, or the API server would send here what only that could do.
    #[test]
    fn features_that_are_not_built_are_declared_no_more() {
        let golden: Node = serde_json::from_str(include_str!("../../testdata/node.json")).unwrap();
        let golden = golden.status.unwrap();
        assert_eq!(golden.declared_features.as_ref().map(Vec::len), Some(4));
        let ours = generate(&config(), &golden);
        let built = ["RestartAllContainersOnContainerExits".to_owned()];
        assert_eq!(ours.declared_features.as_deref(), Some(built.as_slice()));
        let patch = crate::status_patch::node_status_patch(&golden, &ours).unwrap();
        assert_eq!(patch["status"].get("declaredFeatures"), Some(&serde_json::json!(built)));
        let mut without = config();
        without.gates = FeatureGates::new([("RestartAllContainersOnContainerExits".to_owned(), false)].into());
        let ours = generate(&without, &golden);
        let patch = crate::status_patch::node_status_patch(&golden, &ours).unwrap();
        assert_eq!(patch["status"].get("declaredFeatures"), Some(&Value::Null));
    }

    // NODE-083: what others put there stays; NODE-062: a heartbeat alone is no change.
    #[test]
    fn foreign_capacity_is_kept_and_heartbeats_are_no_change() {
        let mut existing = NodeStatus::default();
        existing.capacity.get_or_insert_default().insert("example.com/gpu".to_owned(), Quantity("2".to_owned()));
        let first = generate(&config(), &existing);
        assert_eq!(first.capacity.as_ref().unwrap()["example.com/gpu"].0, "2");
        let mut later = first.clone();
        for condition in later.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        assert!(!status_changed(&first, &later));
        later.conditions.as_mut().unwrap()[0].status = "True".to_owned();
        assert!(status_changed(&first, &later));
    }

    // N4, NODE-084: setters.go, MachineInfo: allocatable is capacity at each pass, whoever changed it.
    #[test]
    fn allocatable_of_extended_resources_follows_capacity() {
        let mut status = NodeStatus::default();
        for (capacity, expected) in [(Some("4"), Some("4")), (Some("2"), Some("2")), (Some("4"), Some("4")), (None, None)] {
            let list = status.capacity.get_or_insert_default();
            match capacity {
                Some(capacity) => list.insert("example.com/dongle".to_owned(), Quantity(capacity.to_owned())),
                None => list.remove("example.com/dongle"),
            };
            status = generate(&config(), &status);
            let allocatable = status.allocatable.as_ref().unwrap().get("example.com/dongle");
            assert_eq!(allocatable.map(|quantity| quantity.0.as_str()), expected);
        }
    }

    // N5, NODE-062: upstream compares with apiequality.Semantic.DeepEqual, which takes nil and empty for the same, and quantities by value.
    #[test]
    fn what_the_api_server_leaves_out_is_no_change() {
        let mut config = config();
        config.node.status_max_images = Some(0);
        let mut ours = generate(&config, &NodeStatus::default());
        assert_eq!(ours.images, Some(Vec::new()));
        let read = |status: &NodeStatus, images: Value| {
            let mut value = serde_json::to_value(status).unwrap();
            value["images"] = images;
            let info = value["nodeInfo"].as_object_mut().unwrap();
            info.remove("swap");
            value["allocatable"]["pods"] = "0.25k".into();
            serde_json::from_value::<NodeStatus>(value).unwrap()
        };
        assert!(!status_changed(&read(&ours, Value::Null), &ours));
        ours.images = Some(vec![ContainerImage { names: Some(Vec::new()), size_bytes: Some(0) }]);
        assert!(!status_changed(&read(&ours, serde_json::json!([{"names": null}])), &ours));
        assert!(status_changed(&read(&ours, serde_json::json!([])), &ours));
    }

    // NODE-090
    #[test]
    fn images_are_reported_largest_first() {
        let image = |id: &str, size| Image { id: id.to_owned(), size, repo_tags: vec![format!("{id}:1")], ..Image::default() };
        let reported = status_images(&[image("a", 1), image("b", 3), image("c", 2)], Some(2));
        assert_eq!(reported.iter().map(|i| i.size_bytes.unwrap()).collect::<Vec<_>>(), [3, 2]);
    }
}
