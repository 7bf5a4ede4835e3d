//! What a patch makes of an object: strategic merge, JSON merge, JSON patch.
//! Upstream: staging/src/k8s.io/apimachinery/pkg/util/strategicpatch/patch.go, RFC 7386, RFC 6902.
//! Differs: the keys by which lists merge are known by field name, as they are in the resources that this server has.

use serde_json::{Map, Value};

use super::error::ApiError;

/// How a patch is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// `application/strategic-merge-patch+json`.
    Strategic,
    /// `application/merge-patch+json`.
    Merge,
    /// `application/json-patch+json`.
    Json,
}

/// Applies a patch.
///
/// # Errors
/// 400 or 422 if the patch cannot be applied.
pub fn apply(kind: PatchKind, original: &Value, patch: &Value) -> Result<Value, ApiError> {
    match kind {
        PatchKind::Json => json_patch(original.clone(), patch),
        PatchKind::Merge => {
            let mut patched = original.clone();
            merge(&mut patched, patch);
            Ok(patched)
        }
        PatchKind::Strategic => {
            let (Some(original), Some(patch)) = (original.as_object(), patch.as_object()) else {
                return Err(ApiError::bad_request("a strategic merge patch must be an object"));
            };
            Ok(Value::Object(merge_maps(original.clone(), patch)?))
        }
    }
}

fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    for (key, value) in patch {
        let Some(map) = target.as_object_mut() else { return };
        if value.is_null() {
            map.remove(key);
        } else {
            merge(map.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// How a list of that field merges: by the key of its items, `""` for a set of plain values, `None` if it is replaced whole.
fn merge_key(field: &str, item: Option<&Value>) -> Option<&'static str> {
    Some(match field {
        "conditions" | "addresses" => "type",
        "podIPs" | "hostIPs" | "hostAliases" => "ip",
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "volumes"
        | "env"
        | "imagePullSecrets"
        | "secrets"
        | "resourceClaims"
        | "resourceClaimStatuses"
        | "schedulingGates"
        | "claims" => "name",
        "volumeMounts" => "mountPath",
        "volumeDevices" => "devicePath",
        "topologySpreadConstraints" => "topologyKey",
        "ownerReferences" => "uid",
        // A container's and a service's ports merge by different keys.
        "ports" if item.is_some_and(|i| i.get("containerPort").is_some()) => "containerPort",
        "ports" if item.is_some_and(|i| i.get("port").is_some()) => "port",
        "finalizers" | "podCIDRs" => "",
        _ => return None,
    })
}

fn merge_maps(mut original: Map<String, Value>, patch: &Map<String, Value>) -> Result<Map<String, Value>, ApiError> {
    match patch.get("$patch").and_then(Value::as_str) {
        Some("replace") => {
            let mut replaced = patch.clone();
            replaced.remove("$patch");
            return Ok(replaced);
        }
        Some("delete") => return Ok(Map::new()),
        Some("merge") | None => {}
        Some(other) => return Err(ApiError::bad_request(format!("unrecognized patch type: {other}"))),
    }
    if let Some(keep) = patch.get("$retainKeys").and_then(Value::as_array) {
        original.retain(|key, _| keep.iter().any(|k| k == key));
    }
    for (key, value) in patch {
        if key == "$patch" || key == "$retainKeys" {
            continue;
        }
        if let Some(field) = key.strip_prefix("$setElementOrder/") {
            // With changes of the list itself, the order is applied with them.
            if let (None, Some(list)) = (patch.get(field), original.get(field).and_then(Value::as_array)) {
                let ordered = in_order(list.clone(), value, field, list, &[]);
                original.insert(field.to_owned(), ordered.into());
            }
            continue;
        }
        if let Some(field) = key.strip_prefix("$deleteFromPrimitiveList/") {
            if let Some(list) = original.get_mut(field).and_then(Value::as_array_mut) {
                list.retain(|item| !value.as_array().is_some_and(|gone| gone.contains(item)));
            }
            continue;
        }
        merge_field(&mut original, key, value, patch.get(&format!("$setElementOrder/{key}")))?;
    }
    Ok(original)
}

fn merge_field(original: &mut Map<String, Value>, key: &str, value: &Value, order: Option<&Value>) -> Result<(), ApiError> {
    let before = original.remove(key);
    let after = match (before, value) {
        (_, Value::Null) => return Ok(()),
        (Some(Value::Object(before)), Value::Object(change)) => Value::Object(merge_maps(before, change)?),
        (before, Value::Object(change)) => {
            debug_assert!(!matches!(before, Some(Value::Object(_))));
            if change.get("$patch").and_then(Value::as_str) == Some("delete") {
                return Ok(());
            }
            Value::Object(merge_maps(Map::new(), change)?)
        }
        (before, Value::Array(changes)) => {
            let before = match before {
                Some(Value::Array(list)) => list,
                _ => Vec::new(),
            };
            Value::Array(merge_lists(key, before, changes, order)?)
        }
        (_, plain) => plain.clone(),
    };
    original.insert(key.to_owned(), after);
    Ok(())
}

fn directive(item: &Value) -> Option<&str> {
    item.get("$patch").and_then(Value::as_str)
}

fn merge_lists(field: &str, before: Vec<Value>, changes: &[Value], order: Option<&Value>) -> Result<Vec<Value>, ApiError> {
    let sample = changes.iter().find(|c| directive(c).is_none()).or(before.first());
    if changes.iter().any(|c| directive(c) == Some("replace")) {
        return Ok(changes.iter().filter(|c| directive(c) != Some("replace")).cloned().collect());
    }
    let Some(key) = merge_key(field, sample) else { return Ok(changes.iter().map(without_nulls).collect()) };
    let server_order = before.clone();
    let mut list = before;
    if key.is_empty() {
        for change in changes {
            if !list.contains(change) {
                list.push(change.clone());
            }
        }
        return Ok(list);
    }
    for change in changes {
        let id = &change[key];
        if id.is_null() {
            return Err(ApiError::bad_request(format!("map: {change} does not contain declared merge key: {key}")));
        }
        let at = list.iter().position(|item| item[key] == *id);
        match (at, change.as_object()) {
            (Some(at), _) if directive(change) == Some("delete") => {
                list.remove(at);
            }
            (None, _) if directive(change) == Some("delete") => {}
            (Some(at), Some(change)) => {
                let item = list[at].as_object().cloned().unwrap_or_default();
                list[at] = Value::Object(merge_maps(item, change)?);
            }
            (None, Some(change)) => list.push(Value::Object(merge_maps(Map::new(), change)?)),
            (_, None) => {}
        }
    }
    Ok(match order {
        Some(order) => in_order(list, order, field, &server_order, changes),
        None => list,
    })
}

/// Puts items that the patch orders into that order; what only the server knows keeps its place among them.
fn in_order(list: Vec<Value>, order: &Value, field: &str, server: &[Value], changes: &[Value]) -> Vec<Value> {
    let Some(key) = merge_key(field, list.first().or(changes.first())) else { return list };
    let id = |item: &Value| if key.is_empty() { item.clone() } else { item[key].clone() };
    let wanted: Vec<Value> = order.as_array().into_iter().flatten().map(id).collect();
    let rank = |item: &Value| wanted.iter().position(|w| *w == id(item));
    let place = |item: &Value| server.iter().position(|s| id(s) == id(item));
    let (mut ordered, kept): (Vec<Value>, Vec<Value>) = list.into_iter().partition(|item| rank(item).is_some());
    ordered.sort_by_key(|item| rank(item));
    let mut merged = Vec::with_capacity(ordered.len() + kept.len());
    let (mut left, mut right) = (kept.into_iter().peekable(), ordered.into_iter().peekable());
    loop {
        let take_left = match (left.peek(), right.peek()) {
            (None, None) => return merged,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(l), Some(r)) => matches!((place(l), place(r)), (Some(l), Some(r)) if l < r),
        };
        merged.extend(if take_left { left.next() } else { right.next() });
    }
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => map.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), without_nulls(v))).collect(),
        Value::Array(list) => list.iter().map(without_nulls).collect(),
        plain => plain.clone(),
    }
}

fn json_patch(mut target: Value, patch: &Value) -> Result<Value, ApiError> {
    let steps = patch.as_array().ok_or_else(|| ApiError::bad_request("error decoding patch: a JSON patch is a list"))?;
    for step in steps {
        let path = step["path"].as_str().unwrap_or_default();
        let refuse = |why: &str| {
            ApiError::new(422, "Invalid", format!("the server rejected our request due to an error in our request: {why}"))
        };
        let (parent, last) = path.rsplit_once('/').ok_or_else(|| refuse("path must begin with a slash"))?;
        let last = last.replace("~1", "/").replace("~0", "~");
        let operation = step["op"].as_str().unwrap_or_default();
        if operation == "test" {
            if target.pointer(path) != step.get("value") {
                return Err(refuse(&format!("testing value {path} failed")));
            }
            continue;
        }
        let moved = match operation {
            "move" | "copy" => target.pointer(step["from"].as_str().unwrap_or_default()).cloned(),
            _ => step.get("value").cloned(),
        };
        let holder = target.pointer_mut(parent).ok_or_else(|| refuse(&format!("missing path {path}")))?;
        match (operation, holder) {
            ("add" | "replace" | "copy", Value::Object(map)) => {
                map.insert(last, moved.unwrap_or_default());
            }
            ("add" | "copy", Value::Array(list)) => {
                let at = if last == "-" { list.len() } else { last.parse().unwrap_or(usize::MAX) };
                if at > list.len() {
                    return Err(refuse(&format!("index out of bounds: {path}")));
                }
                list.insert(at, moved.unwrap_or_default());
            }
            ("replace", Value::Array(list)) => {
                let slot = last.parse::<usize>().ok().and_then(|at| list.get_mut(at));
                *slot.ok_or_else(|| refuse(&format!("index out of bounds: {path}")))? = moved.unwrap_or_default();
            }
            ("remove", Value::Object(map)) => {
                map.remove(&last).ok_or_else(|| refuse(&format!("missing path {path}")))?;
            }
            ("remove", Value::Array(list)) => match last.parse::<usize>() {
                Ok(at) if at < list.len() => drop(list.remove(at)),
                _ => return Err(refuse(&format!("index out of bounds: {path}"))),
            },
            _ => return Err(refuse(&format!("unexpected kind: {operation}"))),
        }
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn strategic(original: Value, patch: Value) -> Value {
        apply(PatchKind::Strategic, &original, &patch).unwrap()
    }

    // POD-301
    #[test]
    fn conditions_merge_by_type_and_keep_the_order_that_the_patch_names() {
        let before = json!({"conditions": [{"type": "A", "status": "False"}, {"type": "S", "status": "True"}]});
        let patch = json!({
            "$setElementOrder/conditions": [{"type": "B"}, {"type": "A"}, {"type": "S"}],
            "conditions": [{"type": "B", "status": "True", "lastProbeTime": null}, {"type": "A", "status": "True"}, {"type": "S"}],
        });
        let after = json!({"conditions": [
            {"type": "B", "status": "True"}, {"type": "A", "status": "True"}, {"type": "S", "status": "True"}]});
        assert_eq!(strategic(before, patch), after);
    }

    // core/v1/types.go: what the agent is held to by its own test, this server does.
    #[test]
    fn lists_of_a_status_merge_by_the_keys_that_the_agent_knows() {
        for (field, key) in kubelet::status_patch::MERGE_KEYS {
            assert_eq!(merge_key(field, None), Some(key), "{field}");
        }
        let before = json!({"hostIPs": [{"ip": "A"}]});
        assert_eq!(strategic(before.clone(), json!({"hostIPs": [{"ip": "B"}]})), json!({"hostIPs": [{"ip": "A"}, {"ip": "B"}]}));
        let changed = json!({"$setElementOrder/hostIPs": [{"ip": "B"}], "hostIPs": [{"ip": "B"}, {"$patch": "delete", "ip": "A"}]});
        assert_eq!(strategic(before, changed), json!({"hostIPs": [{"ip": "B"}]}));
    }

    #[test]
    fn what_only_the_server_knows_keeps_its_place() {
        let before = json!({"conditions": [{"type": "Gate"}, {"type": "A"}, {"type": "Z"}]});
        let patch = json!({"$setElementOrder/conditions": [{"type": "A"}, {"type": "B"}], "conditions": [{"type": "B"}]});
        let after = json!({"conditions": [{"type": "Gate"}, {"type": "A"}, {"type": "B"}, {"type": "Z"}]});
        assert_eq!(strategic(before, patch), after);
    }

    #[test]
    fn container_statuses_are_replaced_whole() {
        let before = json!({"containerStatuses": [{"name": "a", "ready": true}, {"name": "b"}]});
        let patch = json!({"containerStatuses": [{"name": "a"}]});
        assert_eq!(strategic(before, patch), json!({"containerStatuses": [{"name": "a"}]}));
    }

    // NODE-064
    #[test]
    fn addresses_can_be_deleted_by_type_or_replaced_at_once() {
        let before = json!({"addresses": [{"type": "InternalIP", "address": "1"}, {"type": "Hostname", "address": "n"}]});
        let gone = json!({"addresses": [{"$patch": "delete", "type": "Hostname"}]});
        assert_eq!(strategic(before.clone(), gone), json!({"addresses": [{"type": "InternalIP", "address": "1"}]}));
        let all = json!([{"type": "InternalIP", "address": "1"}, {"type": "InternalIP", "address": "2"}]);
        let replace = json!({"addresses": [all[0], all[1], {"$patch": "replace"}]});
        assert_eq!(strategic(before, replace), json!({ "addresses": all }));
    }

    #[test]
    fn null_deletes_and_retain_keys_drops_the_rest() {
        let before = json!({"a": {"x": 1, "y": 2}, "strategy": {"type": "RollingUpdate", "rollingUpdate": {}}});
        let patch = json!({"a": {"x": null}, "strategy": {"$retainKeys": ["type"], "type": "Recreate"}});
        assert_eq!(strategic(before, patch), json!({"a": {"y": 2}, "strategy": {"type": "Recreate"}}));
    }

    #[test]
    fn finalizers_are_a_set() {
        let before = json!({"finalizers": ["a", "b"]});
        assert_eq!(strategic(before.clone(), json!({"finalizers": ["c", "a"]})), json!({"finalizers": ["a", "b", "c"]}));
        let gone = json!({"$deleteFromPrimitiveList/finalizers": ["a"]});
        assert_eq!(strategic(before, gone), json!({"finalizers": ["b"]}));
    }

    #[test]
    fn a_merge_patch_replaces_lists_and_deletes_by_null() {
        let before = json!({"list": [1, 2], "map": {"a": 1, "b": 2}});
        let after = apply(PatchKind::Merge, &before, &json!({"list": [3], "map": {"a": null, "c": {"d": null}}})).unwrap();
        assert_eq!(after, json!({"list": [3], "map": {"b": 2, "c": {}}}));
    }

    #[test]
    fn a_json_patch_goes_step_by_step_or_not_at_all() {
        let before = json!({"metadata": {"labels": {"a/b": "1"}}, "list": [1]});
        let steps = json!([
            {"op": "test", "path": "/list/0", "value": 1},
            {"op": "add", "path": "/list/-", "value": 2},
            {"op": "remove", "path": "/metadata/labels/a~1b"},
        ]);
        assert_eq!(apply(PatchKind::Json, &before, &steps).unwrap(), json!({"metadata": {"labels": {}}, "list": [1, 2]}));
        let refused = apply(PatchKind::Json, &before, &json!([{"op": "test", "path": "/list/0", "value": 9}]));
        assert_eq!(refused.unwrap_err().code, 422);
    }
}
