//! How objects look in `kubectl get`: Tables, made by the server.
//! Upstream: pkg/printers/internalversion/printers.go, k8s.io/apimachinery/pkg/util/duration.
//! Differs: only the resources that this server has; the others have a name and an age.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::defaults::items;
use super::resource::Resource;
use super::table_pods;

/// How much of each object a row carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Include {
    /// Its metadata.
    Metadata,
    /// All of it.
    Object,
    /// Nothing.
    None,
}

/// Whether a Table is what a client wants most, and with how much of each object.
#[must_use]
pub fn wanted(accept: &str, include: &str) -> Option<Include> {
    let first = accept.split(',').next().unwrap_or_default();
    (first.contains("as=Table") && first.contains("g=meta.k8s.io") && first.contains("v=v1")).then_some(match include {
        "Object" => Include::Object,
        "None" => Include::None,
        _ => Include::Metadata,
    })
}

/// A Table of objects as they are at `now`.
#[must_use]
pub fn table(resource: &Resource, objects: &[Arc<Value>], include: Include, metadata: Value, now: Timestamp) -> Value {
    let columns: Vec<Value> = columns(resource.plural)
        .map(|(name, wide)| {
            let format = if name == "Name" { "name" } else { "" };
            let number = matches!(name, "Desired" | "Current" | "Data" | "Up-to-date" | "Available");
            let kind = if number { "integer" } else { "string" };
            json!({"name": name, "type": kind, "format": format, "description": "", "priority": i32::from(wide)})
        })
        .collect();
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let carried = match include {
                Include::Metadata => {
                    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
                }
                Include::Object => (**object).clone(),
                Include::None => Value::Null,
            };
            json!({"cells": cells(resource.plural, object, now), "object": carried})
        })
        .collect();
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": columns, "rows": rows})
}

/// The columns of a resource's table, with a plus before those that only the wide table shows.
fn columns(plural: &str) -> impl Iterator<Item = (&'static str, bool)> {
    let names = match plural {
        "pods" => "Name;Ready;Status;Restarts;Age;+IP;+Node;+Nominated Node;+Readiness Gates",
        "nodes" => "Name;Status;Roles;Age;Version;+Internal-IP;+External-IP;+OS-Image;+Kernel-Version;+Container-Runtime",
        "deployments" => "Name;Ready;Up-to-date;Available;Age;+Containers;+Images;+Selector",
        "replicasets" => "Name;Desired;Current;Ready;Age;+Containers;+Images;+Selector",
        "daemonsets" => "Name;Desired;Current;Ready;Up-to-date;Available;Node Selector;Age;+Containers;+Images;+Selector",
        "services" => "Name;Type;Cluster-IP;External-IP;Port(s);Age;+Selector",
        "namespaces" => "Name;Status;Age",
        "configmaps" => "Name;Data;Age",
        "secrets" => "Name;Type;Data;Age",
        "serviceaccounts" => "Name;Secrets;Age",
        "leases" => "Name;Holder;Age",
        "runtimeclasses" => "Name;Handler;Age",
        "csinodes" => "Name;Drivers;Age",
        "events" => "Last Seen;Type;Reason;Object;+Subobject;+Source;Message;+First Seen;+Count;+Name",
        _ => "Name;Age",
    };
    names.split(';').map(|name| name.strip_prefix('+').map_or((name, false), |wide| (wide, true)))
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

pub(super) fn or_none(value: &Value) -> String {
    let text = text(value);
    if text.is_empty() { "<none>".to_owned() } else { text }
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

fn cells(plural: &str, object: &Value, now: Timestamp) -> Value {
    let (spec, status) = (&object["spec"], &object["status"]);
    let (name, age) = (&object["metadata"]["name"], since(&object["metadata"]["creationTimestamp"], now));
    match plural {
        "pods" => table_pods::cells(object, now),
        "nodes" => node(object, &age),
        "deployments" | "replicasets" | "daemonsets" => workload(plural, object, &age),
        "services" => {
            let port = |p: &Value| match p["nodePort"].as_i64() {
                Some(node_port) => format!("{}:{node_port}/{}", text(&p["port"]), text(&p["protocol"])),
                None => format!("{}/{}", text(&p["port"]), text(&p["protocol"])),
            };
            let ports: Vec<String> = items(spec, "ports").map(port).collect();
            json!([
                name,
                spec["type"],
                or_none(&spec["clusterIP"]),
                "<none>",
                or_none(&ports.join(",").into()),
                age,
                selector(&spec["selector"])
            ])
        }
        "namespaces" => json!([name, status["phase"], age]),
        "configmaps" => {
            let count = |field: &str| object[field].as_object().map_or(0, serde_json::Map::len);
            json!([name, count("data") + count("binaryData"), age])
        }
        "secrets" => json!([name, object["type"], object["data"].as_object().map_or(0, serde_json::Map::len), age]),
        "serviceaccounts" => json!([name, items(object, "secrets").count().to_string(), age]),
        "leases" => json!([name, or_none(&spec["holderIdentity"]), age]),
        "runtimeclasses" => json!([name, object["handler"], age]),
        "csinodes" => json!([name, items(spec, "drivers").count().to_string(), age]),
        "events" => event(object, now),
        _ => json!([name, age]),
    }
}

fn workload(plural: &str, object: &Value, age: &str) -> Value {
    let (name, spec, status) = (&object["metadata"]["name"], &object["spec"], &object["status"]);
    let (containers, images) = templates(spec);
    let selected = selector(&spec["selector"]["matchLabels"]);
    match plural {
        "deployments" => json!([
            name,
            format!("{}/{}", number(&status["readyReplicas"]), number(&spec["replicas"])),
            number(&status["updatedReplicas"]),
            number(&status["availableReplicas"]),
            age,
            containers,
            images,
            selected
        ]),
        "replicasets" => json!([
            name,
            number(&spec["replicas"]),
            number(&status["replicas"]),
            number(&status["readyReplicas"]).to_string(),
            age,
            containers,
            images,
            selected
        ]),
        _ => json!([
            name,
            number(&status["desiredNumberScheduled"]),
            number(&status["currentNumberScheduled"]),
            number(&status["numberReady"]).to_string(),
            number(&status["updatedNumberScheduled"]),
            number(&status["numberAvailable"]),
            selector(&spec["template"]["spec"]["nodeSelector"]),
            age,
            containers,
            images,
            selected
        ]),
    }
}

fn selector(labels: &Value) -> String {
    let pairs: Vec<String> = labels.as_object().into_iter().flatten().map(|(k, v)| format!("{k}={}", text(v))).collect();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

fn templates(spec: &Value) -> (String, String) {
    let join = |field: &str| items(&spec["template"]["spec"], "containers").map(|c| text(&c[field])).collect::<Vec<_>>().join(",");
    (join("name"), join("image"))
}

fn node(node: &Value, age: &str) -> Value {
    let (spec, status) = (&node["spec"], &node["status"]);
    let ready = items(status, "conditions").find(|c| c["type"] == "Ready").map(|c| &c["status"]);
    let mut state = vec![match ready {
        Some(status) if status == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }];
    if spec["unschedulable"] == true {
        state.push("SchedulingDisabled");
    }
    let role = |key: &String| key.strip_prefix("node-role.kubernetes.io/").map(str::to_owned);
    let roles: Vec<String> = node["metadata"]["labels"].as_object().into_iter().flatten().filter_map(|(k, _)| role(k)).collect();
    let address = |kind: &str| items(status, "addresses").find(|a| a["type"] == kind).map_or(Value::Null, |a| a["address"].clone());
    let info = &status["nodeInfo"];
    let unknown = |value: &Value| if text(value).is_empty() { "<unknown>".to_owned() } else { text(value) };
    json!([
        node["metadata"]["name"],
        state.join(","),
        or_none(&roles.join(",").into()),
        age,
        info["kubeletVersion"],
        or_none(&address("InternalIP")),
        or_none(&address("ExternalIP")),
        unknown(&info["osImage"]),
        unknown(&info["kernelVersion"]),
        unknown(&info["containerRuntimeVersion"]),
    ])
}

fn event(event: &Value, now: Timestamp) -> Value {
    let first = since(&event["firstTimestamp"], now);
    let last =
        if event["lastTimestamp"].is_string() { since(&event["lastTimestamp"], now) } else { since(&event["eventTime"], now) };
    let about = &event["involvedObject"];
    let source = [text(&event["source"]["component"]), text(&event["source"]["host"])]
        .iter()
        .filter(|s| !s.is_empty())
        .cloned()
        .collect::<Vec<_>>();
    json!([
        last,
        event["type"],
        event["reason"],
        format!("{}/{}", text(&about["kind"]).to_lowercase(), text(&about["name"])),
        text(&about["fieldPath"]),
        source.join(", "),
        text(&event["message"]).trim(),
        first,
        number(&event["count"]).max(1).to_string(),
        event["metadata"]["name"],
    ])
}

/// How long ago a stored time was, as `kubectl get` shows it.
pub(super) fn since(time: &Value, now: Timestamp) -> String {
    let Some(then) = time.as_str().and_then(|t| t.parse::<Timestamp>().ok()) else { return "<unknown>".to_owned() };
    human(now.as_second() - then.as_second())
}

fn human(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let both =
        |a: i64, unit: char, b: i64, lesser: char| if b == 0 { format!("{a}{unit}") } else { format!("{a}{unit}{b}{lesser}") };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => both(minutes, 'm', seconds % 60, 's'),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => both(hours, 'h', minutes % 60, 'm'),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => both(days, 'd', hours % 24, 'h'),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => both(days / 365, 'y', days % 365, 'd'),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_told_as_kubectl_tells_them() {
        let told: Vec<String> =
            [0, 119, 125, 660, 10_800, 11_000, 90_000, 180_000, 900_000, 70_000_000].into_iter().map(human).collect();
        assert_eq!(told, ["0s", "119s", "2m5s", "11m", "3h", "3h3m", "25h", "2d2h", "10d", "2y80d"]);
    }
}
