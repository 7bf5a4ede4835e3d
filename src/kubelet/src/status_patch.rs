//! Decides the smallest strategic merge patch that turns one status into another.
//! Upstream: staging/src/k8s.io/apimachinery/pkg/util/strategicpatch/patch.go (CreateTwoWayMergePatch), pkg/util/pod/pod.go.
//! Differs: only the lists that a pod's or a node's status holds are known; all others are atomic, as they are upstream.

use k8s_openapi::api::core::v1::{NodeStatus, PodStatus};
use serde_json::{Map, Value, json};

use crate::ids::PodUid;

/// Lists of maps that merge by a key, by field name. A test compares it with the published schema (`testdata/status-merge-keys.json`).
pub const MERGE_KEYS: [(&str, &str); 5] =
    [("addresses", "type"), ("conditions", "type"), ("hostIPs", "ip"), ("podIPs", "ip"), ("resourceClaimStatuses", "name")];

/// The patch of a pod's status with its UID as a precondition (POD-301); `None` if nothing differs.
#[must_use]
pub fn pod_status_patch(uid: &PodUid, old: &PodStatus, new: &PodStatus) -> Option<Value> {
    let diff = diff_of(old, new)?;
    Some(json!({"metadata": {"uid": uid.as_str()}, "status": diff}))
}

/// The patch of a node's status; `None` if nothing differs.
#[must_use]
pub fn node_status_patch(old: &NodeStatus, new: &NodeStatus) -> Option<Value> {
    let mut diff = diff_of(old, new)?;
    // NODE-064: addresses merge by type, so two of one type would collapse; a changed list is replaced whole.
    let had_addresses = old.addresses.as_ref().is_some_and(|a| !a.is_empty());
    if had_addresses && old.addresses != new.addresses {
        let mut addresses = serde_json::to_value(&new.addresses).unwrap_or_default();
        if let Some(list) = addresses.as_array_mut() {
            list.push(json!({"$patch": "replace"}));
        }
        diff.insert("addresses".to_owned(), addresses);
        diff.remove("$setElementOrder/addresses");
    }
    Some(json!({"status": diff}))
}

fn diff_of<T: serde::Serialize>(old: &T, new: &T) -> Option<Map<String, Value>> {
    // A status is a plain struct: it always serializes to a map.
    let (Ok(Value::Object(old)), Ok(Value::Object(new))) = (serde_json::to_value(old), serde_json::to_value(new)) else {
        return None;
    };
    let diff = diff_maps(&old, &new);
    (!diff.is_empty()).then_some(diff)
}

fn diff_maps(old: &Map<String, Value>, new: &Map<String, Value>) -> Map<String, Value> {
    let mut diff = Map::new();
    for (key, value) in new {
        match old.get(key) {
            Some(before) if before == value => {}
            None => {
                diff.insert(key.clone(), value.clone());
            }
            Some(before) => diff_values(key, before, value, &mut diff),
        }
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        diff.insert(key.clone(), Value::Null);
    }
    diff
}

fn diff_values(key: &str, before: &Value, after: &Value, diff: &mut Map<String, Value>) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            diff.insert(key.to_owned(), diff_maps(before, after).into());
        }
        (Value::Array(before), Value::Array(after)) => match merge_key(key) {
            Some(merge_key) => diff_lists(key, merge_key, before, after, diff),
            None => {
                diff.insert(key.to_owned(), after.clone().into());
            }
        },
        _ => {
            diff.insert(key.to_owned(), after.clone());
        }
    }
}

fn merge_key(field: &str) -> Option<&'static str> {
    MERGE_KEYS.into_iter().find(|(name, _)| *name == field).map(|(_, key)| key)
}

fn diff_lists(field: &str, key: &str, before: &[Value], after: &[Value], diff: &mut Map<String, Value>) {
    let find = |list: &[Value], id: &Value| list.iter().find(|item| &item[key] == id).and_then(Value::as_object).cloned();
    let mut changes = Vec::new();
    for item in after {
        let Some(item) = item.as_object() else { continue };
        let id = &item[key];
        let mut change = match find(before, id) {
            Some(known) => diff_maps(&known, item),
            None => item.clone(),
        };
        if !change.is_empty() {
            change.insert(key.to_owned(), id.clone());
            changes.push(Value::Object(change));
        }
    }
    for item in before {
        if find(after, &item[key]).is_none() {
            changes.push(json!({"$patch": "delete", key: item[key]}));
        }
    }
    let order: Vec<Value> = after.iter().map(|item| json!({key: item[key]})).collect();
    diff.insert(format!("$setElementOrder/{field}"), order.into());
    if !changes.is_empty() {
        diff.insert(field.to_owned(), changes.into());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn pod_status(value: Value) -> PodStatus {
        serde_json::from_value(value).unwrap()
    }

    // POD-301: as a real kubelet patched a pod whose init container had ended.
    #[test]
    fn only_what_changed_is_sent() {
        let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "observedGeneration": 1});
        let mut ready = condition("Ready", "False");
        ready["reason"] = json!("ContainersNotReady");
        ready["message"] = json!("containers with unready status: [main]");
        let old = pod_status(json!({"phase": "Running", "conditions": [condition("Initialized", "True"), ready]}));
        let mut now_ready = condition("Ready", "True");
        now_ready["lastTransitionTime"] = json!("2026-11-23T08:35:18Z");
        let new = pod_status(json!({"phase": "Running", "conditions": [condition("Initialized", "True"), now_ready]}));
        assert_eq!(
            pod_status_patch(&PodUid::new("u"), &old, &new),
            Some(json!({"metadata": {"uid": "u"}, "status": {
                "$setElementOrder/conditions": [{"type": "Initialized"}, {"type": "Ready"}],
                "conditions": [{"lastTransitionTime": "2026-11-23T08:35:18Z", "message": null, "reason": null,
                                "status": "True", "type": "Ready"}],
            }}))
        );
        assert_eq!(pod_status_patch(&PodUid::new("u"), &new, &new), None);
    }

    // POD-301: container statuses are sent whole, a first IP without an order.
    #[test]
    fn container_statuses_are_atomic() {
        let container =
            |state: Value| json!({"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state});
        let old = pod_status(json!({"containerStatuses": [container(json!({"waiting": {"reason": "ContainerCreating"}}))]}));
        let new = pod_status(json!({"podIP": "10.0.0.2", "podIPs": [{"ip": "10.0.0.2"}],
                                    "containerStatuses": [container(json!({"running": {}}))]}));
        let patch = pod_status_patch(&PodUid::new("u"), &old, &new).unwrap();
        assert_eq!(patch["status"]["podIPs"], json!([{"ip": "10.0.0.2"}]));
        assert_eq!(patch["status"].get("$setElementOrder/podIPs"), None);
        assert_eq!(patch["status"]["containerStatuses"].as_array().unwrap().len(), 1);
    }

    // NODE-064
    #[test]
    fn changed_addresses_replace_the_list() {
        let node = |addresses: Value| serde_json::from_value::<NodeStatus>(json!({"addresses": addresses})).unwrap();
        let one = json!({"type": "InternalIP", "address": "10.0.0.1"});
        let two = json!({"type": "InternalIP", "address": "fd00::1"});
        let patch = node_status_patch(&node(json!([one])), &node(json!([one, two]))).unwrap();
        assert_eq!(patch, json!({"status": {"addresses": [one, two, {"$patch": "replace"}]}}));
        let first = node_status_patch(&NodeStatus::default(), &node(json!([one]))).unwrap();
        assert_eq!(first, json!({"status": {"addresses": [one]}}));
    }

    // POD-301, NODE-064: by what the lists of a status merge is as published (core/v1/types.go: patchStrategy and patchMergeKey).
    #[test]
    fn lists_merge_by_the_published_keys() {
        let published: BTreeMap<String, BTreeMap<String, Option<String>>> =
            serde_json::from_str(include_str!("../testdata/status-merge-keys.json")).unwrap();
        let roots = [&published["PodStatus"], &published["NodeStatus"]];
        let merging = roots.into_iter().flatten().filter_map(|(field, key)| Some((field.as_str(), key.as_deref()?)));
        let merging: BTreeMap<&str, &str> = merging.collect();
        assert_eq!(merging, MERGE_KEYS.into_iter().collect());
        let both = |field: &String| roots.into_iter().filter_map(|root| root.get(field)).collect::<BTreeSet<_>>().len();
        assert!(roots.into_iter().flatten().all(|(field, _)| both(field) == 1), "a name tells how a list merges");
    }

    /// The lists of a status that there can be.
    fn lists(status: &Value) -> BTreeSet<String> {
        let fields = status.as_object().unwrap().iter().filter(|(_, value)| value.is_array());
        fields.map(|(field, _)| field.clone()).collect()
    }

    // POD-301: every list that is sent is in the published table: of a real kubelet's statuses, and of all that can be told here.
    #[test]
    fn every_list_that_is_sent_is_published() {
        let published: BTreeMap<String, BTreeMap<String, Option<String>>> =
            serde_json::from_str(include_str!("../testdata/status-merge-keys.json")).unwrap();
        let status = |text: &str| serde_json::from_str::<Value>(text).unwrap()["status"].clone();
        let node = status(include_str!("../testdata/node.json"));
        let pod = status(include_str!("../testdata/pod-running.json"));
        for (kind, sent) in [("PodStatus", lists(&pod)), ("NodeStatus", lists(&node))] {
            assert!(!sent.is_empty());
            let known: BTreeSet<String> = published[kind].keys().cloned().collect();
            assert!(sent.is_subset(&known), "{kind}: {sent:?}");
            let all: Map<String, Value> = known.iter().map(|field| (field.clone(), json!([]))).collect();
            let typed = if kind == "PodStatus" {
                serde_json::to_value(pod_status(all.into()))
            } else {
                serde_json::to_value(serde_json::from_value::<NodeStatus>(all.into()).unwrap())
            };
            assert!(lists(&typed.unwrap()).is_subset(&known));
        }
    }

    // POD-301 (CreateTwoWayMergePatch with patchMergeKey "ip"): the node's address changes, and the old one goes.
    #[test]
    fn changed_host_ip_takes_the_old_one_away() {
        let told = |ip: &str| pod_status(json!({"hostIP": ip, "hostIPs": [{"ip": ip}]}));
        let patch = pod_status_patch(&PodUid::new("u"), &told("10.0.0.1"), &told("10.0.0.2")).unwrap();
        assert_eq!(
            patch["status"],
            json!({"hostIP": "10.0.0.2", "hostIPs": [{"ip": "10.0.0.2"}, {"$patch": "delete", "ip": "10.0.0.1"}],
                   "$setElementOrder/hostIPs": [{"ip": "10.0.0.2"}]})
        );
    }
}
