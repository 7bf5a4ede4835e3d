//! Decides how the Node object and the CSINode come to be, and how an existing Node is brought in line without a fight.
//! Upstream: pkg/kubelet/kubelet_node_status.go (registerWithAPIServer), pkg/volume/csi/nodeinfomanager.
//! Differs: a Node that is deleted while the agent runs is made again; upstream needs a restart for that.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus, Taint};
use k8s_openapi::api::storage::v1::{CSINode, CSINodeSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::config::Config;
use crate::time::{Mono, Now};

/// NODE-040: waits before the attempts to register.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(7);
/// NODE-043
const ATTACH_DETACH: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
/// CSI-004: what a real kubelet writes; the scheduler counts by it.
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
            annotations,
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

/// The metadata patch that brings an existing Node in line, if one is needed (NODE-045, NODE-046, NODE-065): the annotation and
/// the default labels, nothing that people set.
#[must_use]
pub fn reconcile_patch(existing: &Node, wanted: &Node, node_name: &str, architecture: &str) -> Option<serde_json::Value> {
    let mut labels = serde_json::Map::new();
    for key in default_labels(node_name, architecture).keys() {
        let want = wanted.metadata.labels.as_ref().and_then(|l| l.get(key));
        let have = existing.metadata.labels.as_ref().and_then(|l| l.get(key));
        if want.is_some() && want != have {
            labels.insert(key.clone(), want.cloned().into());
        }
    }
    let of = |node: &Node| node.metadata.annotations.as_ref().and_then(|a| a.get(ATTACH_DETACH)).cloned();
    let mut metadata = serde_json::Map::new();
    if !labels.is_empty() {
        metadata.insert("labels".to_owned(), labels.into());
    }
    if of(existing) != of(wanted) {
        metadata.insert("annotations".to_owned(), serde_json::json!({ATTACH_DETACH: of(wanted)}));
    }
    (!metadata.is_empty()).then(|| serde_json::json!({"metadata": metadata}))
}

/// The CSINode of this Node (CSI-004).
#[must_use]
pub fn csi_node(node_name: &str, node_uid: &str) -> CSINode {
    CSINode {
        metadata: ObjectMeta {
            name: Some(node_name.to_owned()),
            annotations: Some([("storage.alpha.kubernetes.io/migrated-plugins".to_owned(), MIGRATED_PLUGINS.to_owned())].into()),
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
        assert_eq!(reconcile_patch(&plain, &external, "n1", "amd64"), None);
    }

    // NODE-045, NODE-046: what the kubelet owns is repaired, what people own is not touched.
    #[test]
    fn existing_node_is_reconciled_without_a_fight() {
        let wanted = initial_node(&Config::new("n1"), "amd64", NodeStatus::default());
        let mut existing = wanted.clone();
        let labels = existing.metadata.labels.get_or_insert_default();
        labels.insert("team".to_owned(), "a".to_owned());
        assert_eq!(reconcile_patch(&existing, &wanted, "n1", "amd64"), None);
        let labels = existing.metadata.labels.get_or_insert_default();
        labels.insert("kubernetes.io/os".to_owned(), "windows".to_owned());
        assert_eq!(
            reconcile_patch(&existing, &wanted, "n1", "amd64"),
            Some(serde_json::json!({"metadata": {"labels": {"kubernetes.io/os": "linux"}}}))
        );
    }

    // CSI-004: a CSINode of an earlier Node of that name is foreign.
    #[test]
    fn csi_node_of_an_earlier_node_is_foreign() {
        assert!(!is_foreign(&csi_node("n1", "u1"), "u1"));
        assert!(is_foreign(&csi_node("n1", "u1"), "u2"));
    }
}
