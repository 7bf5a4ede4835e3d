//! Decides what the CSINode and the Node say of the drivers on this node, and which versions of drivers count.
//! Upstream: pkg/volume/csi/nodeinfomanager/nodeinfomanager.go, staging/src/k8s.io/apimachinery/pkg/util/version/version.go.
//! Differs: nothing on purpose.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver, VolumeNodeResources};
use serde_json::{Map, Value, json};

use crate::csi::DriverNode;
use crate::go_json;

/// CSI-003
const ANNOTATION: &str = "csi.volume.kubernetes.io/nodeid";

/// The highest of a driver's versions that is 1.x (CSI-002).
///
/// # Errors
/// In words, if there is none.
pub(super) fn highest_version(versions: &[String]) -> Result<Vec<u64>, String> {
    let parsed = versions.iter().filter_map(|text| parse(text)).filter(|version| version[0] == 1);
    parsed.max().ok_or_else(|| {
        if versions.is_empty() {
            "Plugin returned an empty list for supported versions".to_owned()
        } else {
            format!("None of the versions specified {versions:?} are supported.")
        }
    })
}

/// At least two numbers; what follows them does not count.
fn parse(text: &str) -> Option<Vec<u64>> {
    let text = text.trim_start().trim_start_matches('v');
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let numbers: Option<Vec<u64>> = text[..end].trim_end_matches('.').split('.').map(|number| number.parse().ok()).collect();
    numbers.filter(|numbers| numbers.len() >= 2)
}

/// The node's names by driver, as the annotation has them.
fn annotated(node: &Node) -> BTreeMap<String, String> {
    let text = node.metadata.annotations.as_ref().and_then(|annotations| annotations.get(ANNOTATION));
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// What is to be patched into the Node for its drivers, if anything (CSI-003).
///
/// # Errors
/// The driver, and in words the label of the node that says otherwise than it.
pub(super) fn node_patch(
    node: &Node,
    wanted: &BTreeMap<String, DriverNode>,
    removed: &BTreeSet<String>,
) -> Result<Option<Value>, (String, String)> {
    let before = annotated(node);
    let mut after: BTreeMap<String, String> = before.clone();
    after.retain(|name, _| !removed.contains(name));
    let mut labels = Map::new();
    let has = node.metadata.labels.clone().unwrap_or_default();
    for (name, driver) in wanted {
        after.insert(name.clone(), driver.node_id.clone());
        for (key, value) in &driver.topology {
            match has.get(key) {
                Some(there) if there == value => {}
                Some(there) => {
                    let why = format!(
                        "detected topology value collision: driver reported {key:?}:{value:?} but existing label is {key:?}:{there:?}"
                    );
                    return Err((name.clone(), why));
                }
                None => {
                    labels.insert(key.clone(), value.clone().into());
                }
            }
        }
    }
    let mut metadata = Map::new();
    if !labels.is_empty() {
        metadata.insert("labels".to_owned(), labels.into());
    }
    if after != before {
        let text = if after.is_empty() { Value::Null } else { go_json::of(&after).into() };
        metadata.insert("annotations".to_owned(), json!({ANNOTATION: text}));
    }
    Ok((!metadata.is_empty()).then(|| json!({"metadata": metadata})))
}

/// The CSINode with its drivers as they are to be; `None` if they are (CSI-003).
pub(super) fn with_drivers(
    csi_node: &CSINode,
    wanted: &BTreeMap<String, DriverNode>,
    removed: &BTreeSet<String>,
) -> Option<CSINode> {
    let mut after = csi_node.clone();
    after.spec.drivers.retain(|driver| !removed.contains(&driver.name));
    for (name, driver) in wanted {
        let entry = CSINodeDriver {
            name: name.clone(),
            node_id: driver.node_id.clone(),
            topology_keys: (!driver.topology.is_empty()).then(|| driver.topology.keys().cloned().collect()),
            allocatable: (driver.max_volumes > 0)
                .then(|| VolumeNodeResources { count: Some(i32::try_from(driver.max_volumes).unwrap_or(i32::MAX)) }),
        };
        match after.spec.drivers.iter_mut().find(|known| known.name == *name) {
            Some(known) => *known = entry,
            None => after.spec.drivers.push(entry),
        }
    }
    (after != *csi_node).then_some(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn driver(node_id: &str, topology: &[(&str, &str)]) -> DriverNode {
        let topology = topology.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        DriverNode { node_id: node_id.to_owned(), max_volumes: 7, topology }
    }

    // CSI-002
    #[test]
    fn highest_version_one_counts() {
        let highest = |versions: &[&str]| highest_version(&versions.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>());
        assert_eq!(highest(&["1.0.0", "v1.12.0", "1.9", "0.3.0", "2.0.0", "x"]), Ok(vec![1, 12, 0]));
        assert_eq!(highest(&["1.2.3-rc1"]), Ok(vec![1, 2, 3]));
        assert_eq!(highest(&[]).unwrap_err(), "Plugin returned an empty list for supported versions");
        assert_eq!(
            highest(&["0.3.0", "2.0", "1"]).unwrap_err(),
            "None of the versions specified [\"0.3.0\", \"2.0\", \"1\"] are supported."
        );
    }

    // CSI-003: annotation and labels of a driver; others' stay; a label that says otherwise is not written over.
    #[test]
    fn node_is_told_of_drivers_and_keeps_what_others_said() {
        let node = |annotation: Option<&str>, labels: Value| -> Node {
            serde_json::from_value(
                json!({"metadata": {"annotations": annotation.map(|a| json!({ANNOTATION: a})), "labels": labels}}),
            )
            .unwrap()
        };
        let wanted = [("a.io".to_owned(), driver("n-a", &[("zone", "z1")]))].into();
        let none = BTreeSet::new();
        let patch = node_patch(&node(Some(r#"{"b.io":"n-b"}"#), json!({})), &wanted, &none).unwrap().unwrap();
        assert_eq!(
            patch,
            json!({"metadata": {"labels": {"zone": "z1"}, "annotations": {ANNOTATION: r#"{"a.io":"n-a","b.io":"n-b"}"#}}})
        );
        let told = node(Some(r#"{"a.io":"n-a"}"#), json!({"zone": "z1"}));
        assert_eq!(node_patch(&told, &wanted, &none), Ok(None));
        let removed = ["a.io".to_owned()].into();
        let patch = node_patch(&told, &BTreeMap::new(), &removed).unwrap().unwrap();
        assert_eq!(patch, json!({"metadata": {"annotations": {ANNOTATION: null}}}));
        let (name, why) = node_patch(&node(None, json!({"zone": "z2"})), &wanted, &none).unwrap_err();
        assert_eq!(name, "a.io");
        assert!(why.starts_with("detected topology value collision"), "{why}");
    }

    // CSI-003: name, node ID, sorted topology keys, a limit if there is one; CSI-004: what others registered stays.
    #[test]
    fn csi_node_gets_and_loses_the_entry_of_a_driver() {
        let mut csi_node = CSINode::default();
        csi_node.spec.drivers.push(CSINodeDriver {
            name: "b.io".to_owned(),
            node_id: "n-b".to_owned(),
            ..CSINodeDriver::default()
        });
        let wanted = [("a.io".to_owned(), driver("n-a", &[("zone", "z1"), ("rack", "r")]))].into();
        let with = with_drivers(&csi_node, &wanted, &BTreeSet::new()).unwrap();
        let entry = &with.spec.drivers[1];
        assert_eq!((entry.name.as_str(), entry.node_id.as_str()), ("a.io", "n-a"));
        assert_eq!(entry.topology_keys.as_deref().unwrap(), ["rack", "zone"]);
        assert_eq!(entry.allocatable.as_ref().unwrap().count, Some(7));
        assert_eq!(with_drivers(&with, &wanted, &BTreeSet::new()), None);
        assert_eq!(with_drivers(&with, &BTreeMap::new(), &["a.io".to_owned()].into()), Some(csi_node));
    }
}
