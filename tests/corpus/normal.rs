//! What was seen, as the recordings have it: words for what varies, lists that mean a set as maps, and no order where it means nothing.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::oci::{shaped, unusual};
use super::seen::{Made, Seen};
use super::tokens::tokens;

/// The lists of container statuses, and how facets call their containers.
const STATUSES: [(&str, &str); 3] =
    [("initContainerStatuses", "init "), ("containerStatuses", ""), ("ephemeralContainerStatuses", "ephemeral ")];

/// What the API server adds to the environment of every container, where nothing is done to it.
const KUBERNETES: [(&str, &str); 8] = [
    ("KUBERNETES_PORT", "tcp://10.96.0.1:443"),
    ("KUBERNETES_PORT_443_TCP", "tcp://10.96.0.1:443"),
    ("KUBERNETES_PORT_443_TCP_ADDR", "10.96.0.1"),
    ("KUBERNETES_PORT_443_TCP_PORT", "443"),
    ("KUBERNETES_PORT_443_TCP_PROTO", "tcp"),
    ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
    ("KUBERNETES_SERVICE_PORT", "443"),
    ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
];
/// `masked_paths` and `readonly_paths` of every container that is not asked otherwise.
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Each part of what was seen, by its name.
pub(super) fn normal(seen: &Seen) -> BTreeMap<&'static str, Value> {
    let words = Words::of(seen);
    let parts = [
        ("status", statuses(seen)),
        ("transitions", transitions(seen)),
        ("events", events(seen)),
        ("cri", configs(seen)),
        ("oci", specs(seen)),
        ("logs", json!(seen.logs)),
        ("runtime", json!(seen.deeds.iter().map(|(pod, deeds)| (format!("pod={pod}"), deeds)).collect::<BTreeMap<_, _>>())),
    ];
    let mut parts: BTreeMap<_, _> = parts.into_iter().map(|(part, value)| (part, words.walk(value))).collect();
    if let Some(specs) = parts.get_mut("oci") {
        *specs = unusual(specs);
    }
    for log in parts.get_mut("logs").and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut) {
        if let Some(text) = log["text"].as_str().map(said) {
            log["text"] = text.into();
        }
    }
    parts
}

/// What a container said: a line that comes again and again counts once, and the options of a resolv.conf have no order.
fn said(text: &str) -> String {
    let mut lines: Vec<String> = text.split('\n').map(str::to_owned).collect();
    lines.dedup();
    for line in &mut lines {
        if let Some(options) = line.strip_prefix("options ") {
            let mut options: Vec<&str> = options.split(' ').collect();
            options.sort_unstable();
            *line = format!("options {}", options.join(" "));
        }
    }
    lines.join("\n")
}

/// What the names and addresses of this run are called.
struct Words(Vec<(String, String)>);

impl Words {
    fn of(seen: &Seen) -> Self {
        let mut words = BTreeMap::new();
        for (name, _, pod) in &seen.versions {
            if let Some(uid) = pod["metadata"]["uid"].as_str() {
                words.insert(uid.to_owned(), format!("<uid:{name}>"));
            }
            if let Some(ip) = pod["status"]["podIP"].as_str().filter(|ip| ip.starts_with("10.88.")) {
                words.insert(ip.to_owned(), format!("<ip:{name}>"));
            }
        }
        for (id, made) in &seen.made {
            let who = made.container.as_deref().unwrap_or("sandbox");
            words.insert(id.clone(), format!("<id:{}/{who}#{}>", made.pod, made.attempt));
        }
        words.extend(seen.places.iter().cloned());
        // Of two addresses one may begin like the other.
        let mut words: Vec<_> = words.into_iter().collect();
        words.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        Self(words)
    }

    fn text(&self, text: &str) -> String {
        let known = self.0.iter().fold(text.to_owned(), |text, (is, word)| replaced(&text, is, word));
        tokens(&known)
    }

    fn walk(&self, value: Value) -> Value {
        match value {
            Value::String(text) => self.text(&text).into(),
            Value::Array(items) => items.into_iter().map(|item| self.walk(item)).collect(),
            Value::Object(fields) => fields.into_iter().map(|(key, field)| (self.text(&key), self.walk(field))).collect(),
            other => other,
        }
    }
}

/// The text with a word in the place of another, but not of the beginning of a longer number: one address may begin another.
fn replaced(text: &str, is: &str, word: &str) -> String {
    let mut parts = text.split(is);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let goes_on = is.ends_with(|c: char| c.is_ascii_digit()) && part.starts_with(|c: char| c.is_ascii_digit());
        out.push_str(if goes_on { is } else { word });
        out.push_str(part);
    }
    out
}

/// The items of a list by one of their fields, without it.
fn by(list: &Value, field: &str, prefix: &str) -> Value {
    let mut map = Map::new();
    for item in list.as_array().into_iter().flatten() {
        let mut item = item.clone();
        let key = item.as_object_mut().and_then(|item| item.remove(field));
        map.insert(format!("{prefix}{}", key.as_ref().and_then(Value::as_str).unwrap_or_default()), item);
    }
    Value::Object(map)
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            fields.into_iter().filter(|(_, field)| !field.is_null()).map(|(key, field)| (key, without_nulls(field))).collect()
        }
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

/// The last of each pod, but for its spec, which is the API's.
fn statuses(seen: &Seen) -> Value {
    let there = seen.pods.iter().map(|(name, pod)| (name, pod, false));
    let gone = seen.gone.iter().filter(|(name, _)| !seen.pods.contains_key(*name)).map(|(name, pod)| (name, pod, true));
    there.chain(gone).map(|(name, pod, gone)| (format!("pod={name}"), status(pod, gone))).collect()
}

fn status(pod: &Value, gone: bool) -> Value {
    let metadata = &pod["metadata"];
    let mut out = if pod["status"].is_object() { pod["status"].clone() } else { json!({}) };
    out["gone"] = gone.into();
    let deleting = !metadata["deletionTimestamp"].is_null();
    out["deleting"] = deleting.into();
    if deleting {
        out["deletionGracePeriodSeconds"] = metadata["deletionGracePeriodSeconds"].clone();
    }
    for field in ["finalizers", "annotations"] {
        out[field] = metadata.get(field).cloned().unwrap_or_default();
    }
    out["conditions"] = by(&out["conditions"], "type", "cond=");
    for (list, _) in STATUSES {
        if out.get(list).is_none() {
            continue;
        }
        let names: Vec<Value> = out[list].as_array().into_iter().flatten().map(|one| one["name"].clone()).collect();
        for container in out[list].as_array_mut().into_iter().flatten() {
            if container.get("volumeMounts").is_some() {
                container["volumeMounts"] = by(&container["volumeMounts"], "mountPath", "");
            }
        }
        out[list] = by(&out[list], "name", "c=");
        out[format!("order of {list}")] = names.into();
    }
    without_nulls(out)
}

/// What each version of a pod's status says, as single facts.
fn facets(pod: &Value, last: bool) -> BTreeMap<String, String> {
    let status = &pod["status"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let with = |word: String, reason: &Value| match reason.as_str() {
        Some(reason) if !reason.is_empty() => format!("{word} {reason}"),
        _ => word,
    };
    let mut facets = BTreeMap::new();
    let phase = status["phase"].as_str().unwrap_or("none");
    let reason = status["reason"].as_str().filter(|reason| !reason.is_empty());
    facets.insert("phase".to_owned(), reason.map_or(phase.to_owned(), |reason| format!("{phase} ({reason})")));
    let mut conditions = BTreeMap::new();
    for condition in status["conditions"].as_array().into_iter().flatten() {
        let kind = text(&condition["type"]);
        facets.insert(format!("cond {kind}"), with(text(&condition["status"]), &condition["reason"]));
        conditions.insert(kind, text(&condition["status"]));
    }
    for (list, kind) in STATUSES {
        for container in status[list].as_array().into_iter().flatten() {
            container_facets(container, kind, &mut facets);
        }
    }
    if !conditions.is_empty() {
        let is = |kind: &str| conditions.get(kind).map_or("None", String::as_str);
        let word = format!("{phase} Ready={} ContainersReady={}", is("Ready"), is("ContainersReady"));
        facets.insert("phase with Ready".to_owned(), word);
    }
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        facets.insert("phase while deleting".to_owned(), phase.to_owned());
    }
    if last {
        let grace = &pod["metadata"]["deletionGracePeriodSeconds"];
        let grace = if grace.is_null() { "None".to_owned() } else { grace.to_string() };
        facets.insert("object".to_owned(), format!("gone, grace {grace}"));
    }
    let ip = if status["podIP"].as_str().is_some_and(|ip| !ip.is_empty()) { "set" } else { "none" };
    facets.insert("ip".to_owned(), ip.to_owned());
    if let Some(generation) = status["observedGeneration"].as_i64() {
        facets.insert("observedGeneration".to_owned(), generation.to_string());
    }
    facets
}

fn container_facets(container: &Value, kind: &str, facets: &mut BTreeMap<String, String>) {
    let name = format!("{kind}c={}", container["name"].as_str().unwrap_or_default());
    let state = container["state"].as_object().and_then(|state| state.iter().next());
    let word = match state {
        None => "none".to_owned(),
        Some((word, state)) => match state["reason"].as_str().filter(|reason| !reason.is_empty()) {
            Some(reason) => format!("{word}:{reason}"),
            None => word.clone(),
        },
    };
    let last = if container["lastState"]["terminated"].is_object() { "terminated" } else { "none" };
    let lower = |value: &Value| value.as_bool().map_or("none".to_owned(), |is| is.to_string());
    facets.insert(format!("{name} state"), format!("{word} last {last}"));
    facets.insert(format!("{name} ready"), format!("{} started {}", lower(&container["ready"]), lower(&container["started"])));
    facets.insert(format!("{name} restartCount"), container["restartCount"].as_i64().unwrap_or(0).to_string());
}

/// For each pod the steps of its status: what was new with each.
fn transitions(seen: &Seen) -> Value {
    let mut state: BTreeMap<&str, BTreeMap<String, String>> = BTreeMap::new();
    let mut steps: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for (name, last, pod) in &seen.versions {
        let before = state.entry(name).or_default();
        let now = facets(pod, *last);
        let new: Vec<Value> =
            now.iter().filter(|(facet, value)| before.get(*facet) != Some(*value)).map(|(f, v)| json!([f, v])).collect();
        before.extend(now);
        if !new.is_empty() {
            steps.entry(format!("pod={name}")).or_default().push(new.into());
        }
    }
    json!(steps)
}

/// By object, field, and type with reason: each message, and how often. What an event says beside that is said only where it is not
/// as all others say it.
fn events(seen: &Seen) -> Value {
    let mut out = json!({});
    for event in seen.events.values() {
        let about = &event["involvedObject"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let field = about["fieldPath"].as_str().filter(|field| !field.is_empty()).unwrap_or("-");
        let key = format!("{} {}", text(&event["type"]), text(&event["reason"]));
        let entry = &mut out[format!("{}={}", text(&about["kind"]), text(&about["name"]))][field][key];
        let message = text(&event["message"]);
        entry[message.as_str()] = (entry[message.as_str()].as_u64().unwrap_or(0) + event["count"].as_u64().unwrap_or(1)).into();
        let odd = oddities(event);
        if !odd.is_empty() {
            entry["<odd>"] = json!(odd);
        }
    }
    out
}

/// What an event says otherwise than every event of a kubelet.
fn oddities(event: &Value) -> BTreeSet<&'static str> {
    let about = &event["involvedObject"];
    let name = event["metadata"]["name"].as_str().unwrap_or_default();
    let suffix = name.strip_prefix(about["name"].as_str().unwrap_or_default()).and_then(|rest| rest.strip_prefix('.'));
    let is = |good: bool, what: &'static str| (!good).then_some(what);
    [
        is(about["apiVersion"] == "v1", "involvedObject.apiVersion"),
        is(about["uid"].is_string(), "involvedObject.uid"),
        is(about["resourceVersion"].is_string(), "involvedObject.resourceVersion"),
        is(event["source"] == json!({"component": "kubelet", "host": "n1"}), "source"),
        is(event["reportingComponent"] == "kubelet" && event["reportingInstance"] == "n1", "reporting"),
        is(event["firstTimestamp"].is_string() && event["lastTimestamp"].is_string(), "timestamps"),
        is(event["eventTime"].is_null() && event["series"].is_null() && event["related"].is_null(), "eventTime, series, related"),
        is(event["action"].as_str().is_none_or(str::is_empty), "action"),
        is(suffix.is_some_and(|hex| hex.len() >= 14 && hex.bytes().all(|b| b.is_ascii_hexdigit())), "name"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// All attempts at each sandbox and container, in order.
fn attempts(seen: &Seen) -> BTreeMap<(String, String), Vec<&Made>> {
    let mut groups: BTreeMap<(String, String), Vec<&Made>> = BTreeMap::new();
    for made in seen.made.values() {
        let who = made.container.as_ref().map_or("sandbox".to_owned(), |name| format!("c={name}"));
        groups.entry((format!("pod={}", made.pod), who)).or_default().push(made);
    }
    groups.values_mut().for_each(|attempts| attempts.sort_by_key(|made| made.attempt));
    groups
}

/// The spec of each first attempt.
fn specs(seen: &Seen) -> Value {
    let mut out = json!({});
    for ((pod, who), attempts) in attempts(seen) {
        out[pod][who] = shaped(&attempts[0].spec);
    }
    out
}

/// By pod, and sandbox or container: what the first attempt was made with, and what the second was told otherwise.
fn configs(seen: &Seen) -> Value {
    let mut out = json!({});
    for ((pod, who), attempts) in attempts(seen) {
        let first = config(attempts[0]);
        let mut one = json!({"config": first});
        if !attempts[0].handler.is_empty() {
            one["runtimeHandler"] = attempts[0].handler.clone().into();
        }
        if let Some(second) = attempts.get(1) {
            let (first, second) = (leaves(&first), leaves(&config(second)));
            let keys: BTreeSet<&String> = first.keys().chain(second.keys()).collect();
            let differs = keys.into_iter().filter(|key| first.get(*key) != second.get(*key));
            one["second"] = differs.map(|key| (key.clone(), second.get(key).cloned().unwrap_or("absent".into()))).collect();
        }
        out[pod][who] = one;
    }
    out
}

fn config(made: &Made) -> Value {
    let mut config = made.config.clone();
    if made.container.is_none() {
        if let Some(options) = config["dns_config"]["options"].as_array_mut() {
            // Upstream's order is a map's.
            options.sort_by_key(ToString::to_string);
        }
        if let Some(ports) = config["port_mappings"].as_array_mut() {
            ports.sort_by_key(ToString::to_string);
        }
        return without_nulls(config);
    }
    if config["envs"].is_array() {
        config["envs"] = environment(&config["envs"]);
    }
    for list in ["mounts", "devices"] {
        if config[list].is_array() {
            config[list] = by(&config[list], "container_path", "");
        }
    }
    let security = &mut config["linux"]["security_context"];
    for (list, default) in [("masked_paths", &MASKED[..]), ("readonly_paths", &READ_ONLY[..])] {
        if security[list] == json!(default) {
            security[list] = "<default>".into();
        }
    }
    without_nulls(config)
}

fn environment(envs: &Value) -> Value {
    let mut map: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for env in envs.as_array().into_iter().flatten() {
        let value = if env["value"].is_null() { "".into() } else { env["value"].clone() };
        map.entry(env["key"].as_str().unwrap_or_default().to_owned()).or_default().push(value);
    }
    if KUBERNETES.iter().all(|(key, value)| map.get(*key).is_some_and(|is| is[..] == [json!(value)])) {
        KUBERNETES.iter().for_each(|(key, _)| drop(map.remove(*key)));
        map.insert("<kubernetes>".to_owned(), vec!["<default>".into()]);
    }
    map.into_iter().map(|(key, mut values)| (key, if values.len() == 1 { values.remove(0) } else { values.into() })).collect()
}

/// The leaves of a value by their paths; what is empty is a leaf.
fn leaves(value: &Value) -> BTreeMap<String, Value> {
    fn below(value: &Value, path: String, out: &mut BTreeMap<String, Value>) {
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                for (key, field) in fields {
                    below(field, if path.is_empty() { key.clone() } else { format!("{path}/{key}") }, out);
                }
            }
            Value::Array(items) if !items.is_empty() => {
                items.iter().enumerate().for_each(|(at, item)| below(item, format!("{path}[{at}]"), out));
            }
            leaf => drop(out.insert(path, leaf.clone())),
        }
    }
    let mut out = BTreeMap::new();
    below(value, String::new(), &mut out);
    out
}
