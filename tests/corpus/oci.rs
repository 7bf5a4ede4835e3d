//! What the runtime made of a configuration: the OCI spec, told by where it is not as in most cases, which `usual.json` has.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::source::text_of;

/// The values that most specs of the recordings have, by place, of containers and of sandboxes.
const USUAL: &str = "tests/corpus/usual.json";

/// A spec without what the configuration tells as well, with maps for lists whose order means nothing.
pub(super) fn shaped(spec: &Value) -> Value {
    let mut process = spec["process"].clone();
    let mut linux = spec["linux"].clone();
    // An agent tells them, word for word.
    for told in ["env", "args"] {
        process.as_object_mut().map(|process| process.remove(told));
    }
    for list in process["capabilities"].as_object_mut().into_iter().flat_map(serde_json::Map::values_mut) {
        sort(list);
    }
    sort(&mut process["user"]["additionalGids"]);
    linux["namespaces"] = by(&spec["linux"]["namespaces"], "type", |namespace| match &namespace["path"] {
        Value::Null => "new".into(),
        path => path.clone(),
    });
    for list in ["maskedPaths", "readonlyPaths"] {
        if linux[list].is_null() {
            linux[list] = json!([]);
        }
        sort(&mut linux[list]);
    }
    if let Some(devices) = spec["linux"]["devices"].as_array().filter(|devices| !devices.is_empty()) {
        linux["devices"] = devices.len().into();
    }
    linux["resources"].as_object_mut().map(|resources| resources.remove("devices"));
    linux["seccomp"] = spec["linux"]["seccomp"]["defaultAction"].clone();
    let mounts = by(&spec["mounts"], "destination", |mount| {
        let mut mount = mount.clone();
        mount.as_object_mut().map(|mount| mount.remove("destination"));
        if mount["options"].is_null() {
            mount["options"] = json!([]);
        }
        sort(&mut mount["options"]);
        mount
    });
    let root = json!({"readonly": spec["root"]["readonly"].as_bool().unwrap_or(false)});
    json!({"process": process, "root": root, "hostname": spec["hostname"], "mounts": mounts, "linux": linux})
}

fn sort(list: &mut Value) {
    if let Some(items) = list.as_array_mut() {
        items.sort_by(|a, b| (a.as_i64(), a.as_str()).cmp(&(b.as_i64(), b.as_str())));
    }
}

fn by(list: &Value, field: &str, of: impl Fn(&Value) -> Value) -> Value {
    let items = list.as_array().into_iter().flatten();
    items.map(|item| (item[field].as_str().unwrap_or_default().to_owned(), of(item))).collect()
}

/// By pod, and sandbox or container: where a spec is not as usual.
pub(super) fn unusual(specs: &Value) -> Value {
    let usual: BTreeMap<String, BTreeMap<String, Value>> =
        serde_json::from_str(&text_of(USUAL).unwrap_or_default()).unwrap_or_else(|error| panic!("{USUAL}: {error}"));
    let mut specs = specs.clone();
    for pod in specs.as_object_mut().into_iter().flat_map(serde_json::Map::values_mut) {
        for (who, spec) in pod.as_object_mut().into_iter().flatten() {
            let usual = &usual[if who == "sandbox" { "sandbox" } else { "container" }];
            let mut leaves = BTreeMap::new();
            below(spec, String::new(), &mut leaves);
            let places: BTreeSet<&String> = leaves.keys().chain(usual.keys()).collect();
            let differ = places.into_iter().filter(|place| leaves.get(*place) != usual.get(*place));
            *spec = differ.map(|place| (place.clone(), leaves.get(place).cloned().unwrap_or("absent".into()))).collect();
        }
    }
    specs
}

/// The leaves of a spec by their places; a list of words is one leaf.
fn below(value: &Value, path: String, out: &mut BTreeMap<String, Value>) {
    match value {
        Value::Null => {}
        Value::Object(fields) if !fields.is_empty() => {
            for (key, field) in fields {
                let key = whoever(key);
                below(field, if path.is_empty() { key } else { format!("{path}/{key}") }, out);
            }
        }
        Value::Array(items) if items.iter().all(Value::is_string) => {
            let words: Vec<String> = items.iter().filter_map(Value::as_str).map(whoever).collect();
            out.insert(path, words.join(" ").into());
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, item)| below(item, format!("{path}[{at}]"), out));
        }
        Value::String(text) => drop(out.insert(path, whoever(text).into())),
        leaf => drop(out.insert(path, leaf.clone())),
    }
}

/// The text without whose UID or ID it is: `<id:p/c#0>` becomes `<id>`.
fn whoever(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((at, word)) = ["<uid:", "<id:"].iter().filter_map(|word| Some((rest.find(word)?, *word))).min() {
        let Some(end) = rest[at..].find('>') else { break };
        out.push_str(&rest[..at + word.len() - 1]);
        rest = &rest[at + end..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spec_is_told_by_what_is_not_usual() {
        let spec = json!({
            "process": {"args": ["sh"], "cwd": "/tmp", "user": {"uid": 1, "gid": 0, "additionalGids": [3, 2]}, "oomScoreAdj": 1000},
            "root": {"path": "rootfs"}, "mounts": [{"destination": "/v", "type": "bind", "source": "/x/<uid:p>/<id:p/c#0>", "options": ["rw", "a"]}],
            "linux": {"namespaces": [{"type": "pid"}, {"type": "ipc", "path": "/proc/<pid>/ns/ipc"}], "resources": {"devices": [1]}},
        });
        let told = unusual(&json!({"pod=p": {"c=c": shaped(&spec)}}));
        let told = &told["pod=p"]["c=c"];
        assert_eq!(told["process/cwd"], "/tmp");
        assert_eq!(told["process/user/additionalGids[0]"], 2);
        assert_eq!(told["mounts//v/source"], "/x/<uid>/<id>");
        assert_eq!(told["mounts//v/options"], "a rw");
        assert_eq!(told["mounts//proc/type"], "absent");
        assert!(told.get("linux/namespaces/pid").is_none() && told.get("linux/namespaces/ipc").is_none(), "{told}");
    }
}
