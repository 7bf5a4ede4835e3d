//! Decides how the Node object and the CSINode come to be, and how an existing Node is brought in line without a fight.
//! Upstream: pkg/kubelet/kubelet_node_status.go (registerWithAPIServer), pkg/volume/csi/nodeinfomanager.
//! Differs: a Node that is deleted while the agent runs is made again; upstream needs a restart for that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus, Taint};
use k8s_openapi::api::storage::v1::{CSINode, CSINodeSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::{Map, Value, json};

use super::addresses::{PROVIDED_NODE_IP, annotate};
use crate::canonical_quantity::canonical;
use crate::config::Config;
use crate::status_patch::node_status_patch;
use crate::time::{Mono, Now};

/// NODE-040: waits before the attempts to register.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(7);
/// NODE-043
const ATTACH_DETACH: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
/// CSI-004: what a real kubelet writes; the scheduler counts by it.
const MIGRATED: &str = "storage.alpha.kubernetes.io/migrated-plugins";
const MIGRATED_PLUGINS: &str = "kubernetes.io/aws-ebs,kubernetes.io/azure-disk,kubernetes.io/azure-file,kubernetes.io/cinder,\
                                kubernetes.io/gce-pd,kubernetes.io/portworx-volume,kubernetes.io/vsphere-volume";

/// The labels that every node has (NODE-041).
#[must_use]
pub fn default_labels(node_name: &str, architecture: &str) -> BTreeMap<String, String> {
    [
        ("beta.kubernetes.io/arch", architecture),
        ("beta.kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture),
        ("kubernetes.io/hostname", node_name),
        ("kubernetes.io/os", "linux"),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

/// The Node as it is first created (NODE-041 to NODE-043).
#[must_use]
pub fn initial_node(config: &Config, architecture: &str, status: NodeStatus) -> Node {
    let mut labels = default_labels(&config.node.name, architecture);
    labels.extend(config.node.labels.clone());
    let mut taints = config.node.register_with_taints.clone();
    if config.node.external_cloud_provider {
        taints.push(Taint {
            key: "node.cloudprovider.kubernetes.io/uninitialized".to_owned(),
            value: Some("true".to_owned()),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        });
    }
    let annotations = config.node.enable_controller_attach_detach.then(|| [(ATTACH_DETACH.to_owned(), "true".to_owned())].into());
    Node {
        metadata: ObjectMeta {
            name: Some(config.node.name.to_string()),
            labels: Some(labels),
            annotations: annotate(annotations, config),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            taints: (!taints.is_empty()).then_some(taints),
            provider_id: (!config.node.provider_id.is_empty()).then(|| config.node.provider_id.clone()),
            ..NodeSpec::default()
        }),
        status: Some(status),
    }
}

/// Labels that are the kubelet's to set, if it has a value for them (upstream's updateDefaultLabels).
const OWN_LABELS: [&str; 12] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "node.kubernetes.io/windows-build",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

/// The patch that brings an existing Node in line, if one is needed (NODE-045, NODE-046): the annotation, the labels that are the
/// kubelet's, huge pages and extended resources; nothing that people set. `devices` are the resources of device plugins of earlier
/// lives; `None` if there was no earlier life.
#[must_use]
pub fn reconcile_patch(existing: &Node, wanted: &Node, devices: Option<&[String]>) -> Option<Value> {
    let mut metadata = Map::new();
    let labels = changed_labels(existing, wanted, &OWN_LABELS);
    if !labels.is_empty() {
        metadata.insert("labels".to_owned(), labels.into());
    }
    let of = |node: &Node| node.metadata.annotations.as_ref().and_then(|a| a.get(ATTACH_DETACH)).cloned();
    if of(existing) != of(wanted) {
        metadata.insert("annotations".to_owned(), json!({ATTACH_DETACH: of(wanted)}));
    }
    let nothing = NodeStatus::default();
    let (known, fresh) = (existing.status.as_ref().unwrap_or(&nothing), wanted.status.as_ref().unwrap_or(&nothing));
    let resources = node_status_patch(known, &reconciled_resources(known, fresh, devices));
    with_metadata(resources, metadata)
}

/// A patch of the status with one of the metadata, if there is either.
#[must_use]
pub fn with_metadata(patch: Option<Value>, metadata: Map<String, Value>) -> Option<Value> {
    if metadata.is_empty() {
        return patch;
    }
    let mut patch = patch.unwrap_or_else(|| json!({}));
    patch["metadata"] = metadata.into();
    Some(patch)
}

/// Those of the labels that are to change. One that is to be empty goes.
fn changed_labels(existing: &Node, wanted: &Node, names: &[&str]) -> Map<String, Value> {
    let of = |node: &Node, name: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(name)).cloned();
    let change = |name: &&str| {
        let want = of(wanted, name).filter(|want| *want != of(existing, name).unwrap_or_default())?;
        Some(((*name).to_owned(), Some(want).filter(|want| !want.is_empty()).into()))
    };
    names.iter().filter_map(change).collect()
}

/// The metadata that each look at the status brings in line (NODE-065, NODE-081): the labels of system and architecture, and the
/// annotation for cloud providers; `None` leaves the annotation.
#[must_use]
pub fn kept_metadata(existing: &Node, architecture: &str, provided_ip: Option<Option<String>>) -> Map<String, Value> {
    let wanted = Node {
        metadata: ObjectMeta { labels: Some(default_labels("", architecture)), ..ObjectMeta::default() },
        ..Node::default()
    };
    let mut metadata = Map::new();
    // What the machine is may not be known yet.
    let names: &[&str] = if architecture.is_empty() { &[] } else { &["kubernetes.io/os", "kubernetes.io/arch"] };
    let labels = changed_labels(existing, &wanted, names);
    if !labels.is_empty() {
        metadata.insert("labels".to_owned(), labels.into());
    }
    let provided = existing.metadata.annotations.as_ref().and_then(|a| a.get(PROVIDED_NODE_IP));
    if let Some(wanted) = provided_ip.filter(|wanted| wanted.as_ref() != provided) {
        metadata.insert("annotations".to_owned(), json!({PROVIDED_NODE_IP: wanted}));
    }
    metadata
}

/// Upstream's reconcileExtendedResource and reconcileHugePageResource. Nobody hands out the devices of plugins that an earlier kubelet
/// had, so there are none.
fn reconciled_resources(known: &NodeStatus, fresh: &NodeStatus, devices: Option<&[String]>) -> NodeStatus {
    let mut status = known.clone();
    let (capacity, allocatable) = (status.capacity.get_or_insert_default(), status.allocatable.get_or_insert_default());
    // Of a Node that says nothing of its resources, the first report is soon enough; the machine's own are all that there is.
    if known.capacity.is_none() && fresh.capacity.is_none() {
        return known.clone();
    }
    if known.capacity.is_none() {
        capacity.extend(fresh.capacity.clone().unwrap_or_default());
    }
    if known.allocatable.is_none() {
        allocatable.extend(fresh.allocatable.clone().unwrap_or_default());
    }
    let nothing = || Quantity("0".to_owned());
    let lost = |name: &String| is_extended(name) && devices.is_none_or(|devices| devices.contains(name));
    for name in capacity.keys().filter(|name| lost(name)).cloned().collect::<Vec<_>>() {
        allocatable.insert(name.clone(), nothing());
        capacity.insert(name, nothing());
    }
    let Some(has) = &fresh.capacity else { return status };
    let gone = |name: &String| name.starts_with(HUGE_PAGES) && !has.contains_key(name);
    for name in capacity.keys().filter(|name| gone(name)).cloned().collect::<Vec<_>>() {
        capacity.remove(&name);
        allocatable.remove(&name);
    }
    for (name, amount) in has.iter().filter(|(name, _)| name.starts_with(HUGE_PAGES)) {
        let may = fresh.allocatable.as_ref().and_then(|fresh| fresh.get(name)).cloned().unwrap_or_else(nothing);
        for (list, wanted) in [(&mut *capacity, amount.clone()), (&mut *allocatable, may)] {
            if list.get(name).map(canonical) != Some(canonical(&wanted)) {
                list.insert(name.clone(), wanted);
            }
        }
    }
    status
}

const HUGE_PAGES: &str = "hugepages-";

/// Whether a resource is one of others than Kubernetes itself (upstream's IsExtendedResourceName).
#[must_use]
pub fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

/// The CSINode of this Node (CSI-004).
#[must_use]
pub fn csi_node(node_name: &str, node_uid: &str) -> CSINode {
    CSINode {
        metadata: ObjectMeta {
            name: Some(node_name.to_owned()),
            annotations: Some([(MIGRATED.to_owned(), MIGRATED_PLUGINS.to_owned())].into()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: node_name.to_owned(),
                uid: node_uid.to_owned(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        spec: CSINodeSpec { drivers: Vec::new() },
    }
}

/// The CSINode with the plugins that are migrated, as a set; `None` if it says so (upstream's setMigrationAnnotation).
#[must_use]
pub fn with_migrated_plugins(found: &CSINode) -> Option<CSINode> {
    let told = found.metadata.annotations.as_ref().and_then(|annotations| annotations.get(MIGRATED));
    let set = |text: &str| text.split(',').map(str::to_owned).collect::<BTreeSet<_>>();
    if told.is_some_and(|told| set(told) == set(MIGRATED_PLUGINS)) {
        return None;
    }
    let mut wanted = found.clone();
    wanted.metadata.annotations.get_or_insert_default().insert(MIGRATED.to_owned(), MIGRATED_PLUGINS.to_owned());
    Some(wanted)
}

/// Whether a CSINode belongs to another Node object of the same name.
#[must_use]
pub fn is_foreign(csi_node: &CSINode, node_uid: &str) -> bool {
    csi_node.metadata.owner_references.iter().flatten().any(|owner| owner.kind == "Node" && owner.uid != node_uid)
}

/// Waits that double.
#[derive(Debug, Default)]
pub struct Attempts {
    failed: u32,
    next: Mono,
}

impl Attempts {
    /// When the next attempt may be made.
    #[must_use]
    pub fn next(&self) -> Mono {
        self.next
    }

    /// An attempt failed.
    pub fn failed(&mut self, now: Now) {
        let wait = (FIRST_WAIT * 2u32.pow(self.failed.min(10))).min(LONGEST_WAIT);
        self.failed += 1;
        self.next = now.mono + wait;
    }

    /// An attempt succeeded.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // NODE-041, NODE-043: labels and annotation as a real kubelet registers them.
    #[test]
    fn new_node_has_the_captured_labels_and_annotation() {
        let golden: Node = serde_json::from_str(include_str!("../../testdata/node.json")).unwrap();
        let ours = initial_node(&Config::new("n1"), "amd64", NodeStatus::default());
        assert_eq!(ours.metadata.labels, golden.metadata.labels);
        assert_eq!(ours.metadata.annotations.unwrap()[ATTACH_DETACH], "true");
        assert_eq!(ours.spec, golden.spec);
    }

    // NODE-042: taints and the provider's ID are given at the first registration, and only then.
    #[test]
    fn new_node_has_the_taints_and_the_provider_that_are_set() {
        let mut config = Config::new("n1");
        let taint = |key: &str, value: Option<&str>| Taint {
            key: key.to_owned(),
            value: value.map(str::to_owned),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        };
        config.node.register_with_taints = vec![taint("dedicated", None)];
        config.node.provider_id = "cloud://1".to_owned();
        let spec = initial_node(&config, "amd64", NodeStatus::default()).spec.unwrap();
        assert_eq!(spec.taints, Some(vec![taint("dedicated", None)]));
        assert_eq!((spec.provider_id.as_deref(), spec.external_id), (Some("cloud://1"), None));
        config.node.external_cloud_provider = true;
        let external = initial_node(&config, "amd64", NodeStatus::default());
        let uninitialized = taint("node.cloudprovider.kubernetes.io/uninitialized", Some("true"));
        assert_eq!(external.spec.as_ref().unwrap().taints, Some(vec![taint("dedicated", None), uninitialized]));
        let plain = initial_node(&Config::new("n1"), "amd64", NodeStatus::default());
        assert_eq!(reconcile_patch(&plain, &external, Some(&[])), None);
    }

    // NODE-045, NODE-046: what the kubelet owns is repaired, what people own is not touched.
    #[test]
    fn existing_node_is_reconciled_without_a_fight() {
        let wanted = initial_node(&Config::new("n1"), "amd64", NodeStatus::default());
        let mut existing = wanted.clone();
        let labels = existing.metadata.labels.get_or_insert_default();
        labels.insert("team".to_owned(), "a".to_owned());
        assert_eq!(reconcile_patch(&existing, &wanted, Some(&[])), None);
        let labels = existing.metadata.labels.get_or_insert_default();
        labels.insert("kubernetes.io/os".to_owned(), "windows".to_owned());
        assert_eq!(
            reconcile_patch(&existing, &wanted, Some(&[])),
            Some(serde_json::json!({"metadata": {"labels": {"kubernetes.io/os": "linux"}}}))
        );
    }

    // N7, NODE-045: upstream's updateDefaultLabels: twelve labels, those that `--node-labels` names among them; an empty one goes.
    #[test]
    fn labels_of_zone_and_machine_are_brought_in_line() {
        let mut config = Config::new("n1");
        let labels = [("topology.kubernetes.io/zone", "b"), ("node.kubernetes.io/instance-type", ""), ("team", "b")];
        config.node.labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let wanted = initial_node(&config, "amd64", NodeStatus::default());
        let mut existing = wanted.clone();
        let known = existing.metadata.labels.get_or_insert_default();
        for (name, value) in [("topology.kubernetes.io/zone", "a"), ("node.kubernetes.io/instance-type", "m1"), ("team", "a")] {
            known.insert(name.to_owned(), value.to_owned());
        }
        known.remove("kubernetes.io/arch");
        let labels =
            json!({"topology.kubernetes.io/zone": "b", "node.kubernetes.io/instance-type": null, "kubernetes.io/arch": "amd64"});
        assert_eq!(reconcile_patch(&existing, &wanted, Some(&[])), Some(json!({"metadata": {"labels": labels}})));
        existing.metadata.labels.get_or_insert_default().remove("node.kubernetes.io/instance-type");
        let patch = reconcile_patch(&existing, &wanted, Some(&[])).unwrap();
        assert_eq!(patch["metadata"]["labels"].get("node.kubernetes.io/instance-type"), None, "what is not there need not go");
    }

    // NODE-065: upstream's updateNode, at each pass.
    #[test]
    fn labels_of_system_and_architecture_are_repaired() {
        let mut node = initial_node(&Config::new("n1"), "amd64", NodeStatus::default());
        assert_eq!(kept_metadata(&node, "amd64", Some(None)), Map::new());
        node.metadata.labels.get_or_insert_default().insert("kubernetes.io/arch".to_owned(), String::new());
        node.metadata.annotations.get_or_insert_default().insert(PROVIDED_NODE_IP.to_owned(), "10.0.0.1".to_owned());
        let kept = kept_metadata(&node, "amd64", Some(None));
        let expected = json!({"labels": {"kubernetes.io/arch": "amd64"}, "annotations": {PROVIDED_NODE_IP: null}});
        assert_eq!(Value::Object(kept), expected);
    }

    fn status(capacity: Value) -> NodeStatus {
        serde_json::from_value(json!({"capacity": capacity, "allocatable": capacity})).unwrap()
    }

    // F13, NODE-045: TestReconcileExtendedResource and TestReconcileHugePageResource of upstream's kubelet_node_status_test.go.
    #[test]
    fn resources_of_earlier_lives_do_not_stay() {
        let of = |known: Value, fresh: Value, devices: Option<&[String]>| {
            let status = reconciled_resources(&status(known), &status(fresh), devices);
            assert_eq!(status.capacity, status.allocatable);
            serde_json::to_value(status.capacity).unwrap()
        };
        let fresh = json!({"cpu": "2"});
        let known = json!({"cpu": "2", "test.com/resource1": "2", "test.com/resource2": "10"});
        let zero = json!({"cpu": "2", "test.com/resource1": "0", "test.com/resource2": "0"});
        assert_eq!(of(known.clone(), fresh.clone(), None), zero, "no manager of devices was here: the node was made anew");
        assert_eq!(of(known.clone(), fresh.clone(), Some(&[])), known, "what an administrator told stays");
        let gpus = ["test.com/resource2".to_owned()];
        let one = json!({"cpu": "2", "test.com/resource1": "2", "test.com/resource2": "0"});
        assert_eq!(of(known, fresh, Some(&gpus)), one, "its plugins have nobody to register with");
        let fresh = json!({"cpu": "2", "hugepages-2Mi": "100Mi"});
        assert_eq!(of(json!({"cpu": "2"}), fresh.clone(), Some(&[])), fresh, "a size is new");
        assert_eq!(of(json!({"cpu": "2", "hugepages-2Mi": "102400Ki"}), fresh.clone(), Some(&[]))["hugepages-2Mi"], "102400Ki");
        let stale = json!({"cpu": "2", "hugepages-1Gi": "2Gi", "hugepages-2Mi": "0"});
        assert_eq!(of(stale, fresh.clone(), Some(&[])), fresh, "one that is gone goes, one that changed follows");
    }

    // CSI-004: a CSINode of an earlier Node of that name is foreign.
    #[test]
    fn csi_node_of_an_earlier_node_is_foreign() {
        assert!(!is_foreign(&csi_node("n1", "u1"), "u1"));
        assert!(is_foreign(&csi_node("n1", "u1"), "u2"));
    }
}
