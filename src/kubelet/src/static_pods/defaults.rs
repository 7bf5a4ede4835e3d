//! Fills in what a manifest leaves out, as the API server would.
//! Upstream: pkg/apis/core/v1/defaults.go, pkg/apis/core/v1/zz_generated.defaults.go (SetObjectDefaults_Pod).
//! Differs: of the amounts of a whole pod (`spec.resources`) requests come from limits where no container asks for any, not from sums.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

fn missing(value: Option<&Value>) -> bool {
    value.is_none_or(|value| value.is_null() || *value == "" || *value == 0)
}

/// Fills in one field if it is not there, empty or zero.
fn fill(object: &mut Value, field: &str, value: impl Into<Value>) {
    if let Some(object) = object.as_object_mut()
        && missing(object.get(field))
    {
        object.insert(field.to_owned(), value.into());
    }
}

/// Fills in one field if it is not there.
fn fill_absent(object: &mut Value, field: &str, value: impl Into<Value>) {
    if object.get(field).is_none_or(Value::is_null) {
        fill(object, field, value);
    }
}

fn each(object: &mut Value, field: &str, mut change: impl FnMut(&mut Value)) {
    object.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten().for_each(&mut change);
}

fn within(object: &mut Value, field: &str, change: impl FnOnce(&mut Value)) {
    if let Some(value) = object.get_mut(field).filter(|value| value.is_object()) {
        change(value);
    }
}

/// Fills in a pod.
pub(super) fn pod(pod: &mut Value) {
    let Some(spec) = pod.get_mut("spec") else { return };
    let host_network = spec["hostNetwork"] == true;
    for field in ["containers", "initContainers"] {
        each(spec, field, |one| container(one, host_network));
    }
    whole_pod(spec);
    fill_absent(spec, "enableServiceLinks", true);
    fill(spec, "dnsPolicy", "ClusterFirst");
    fill(spec, "restartPolicy", "Always");
    fill_absent(spec, "securityContext", Map::new());
    fill_absent(spec, "terminationGracePeriodSeconds", 30);
    fill(spec, "schedulerName", "default-scheduler");
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|grace| grace < 0) {
        spec["terminationGracePeriodSeconds"] = json!(1);
    }
    each(spec, "volumes", volume);
}

/// What the pod as a whole may have of a resource it asks for, if none of its containers asks for any (defaultPodRequests).
fn whole_pod(spec: &mut Value) {
    let containers = ["containers", "initContainers"].into_iter().filter_map(|field| spec[field].as_array()).flatten();
    let asked: BTreeSet<String> =
        containers.filter_map(|c| c["resources"]["requests"].as_object()).flat_map(|requests| requests.keys().cloned()).collect();
    let of_pods = |name: &str| matches!(name, "cpu" | "memory") || name.starts_with("hugepages-");
    within(spec, "resources", |resources| {
        let limits = resources.get("limits").and_then(Value::as_object).cloned().unwrap_or_default();
        for (name, amount) in limits.into_iter().filter(|(name, _)| of_pods(name) && !asked.contains(name)) {
            fill_absent(resources, "requests", Map::new());
            fill_absent(&mut resources["requests"], &name, amount);
        }
    });
}

fn container(container: &mut Value, host_network: bool) {
    let policy = pull_policy(container["image"].as_str().unwrap_or_default());
    fill(container, "imagePullPolicy", policy);
    fill(container, "terminationMessagePath", "/dev/termination-log");
    fill(container, "terminationMessagePolicy", "File");
    within(container, "resources", |resources| {
        let limits = resources.get("limits").and_then(Value::as_object).cloned();
        if let Some(limits) = limits {
            fill_absent(resources, "requests", Map::new());
            limits.into_iter().for_each(|(name, amount)| fill_absent(&mut resources["requests"], &name, amount));
        }
    });
    each(container, "ports", |port| {
        fill(port, "protocol", "TCP");
        if host_network {
            let number = port["containerPort"].clone();
            fill(port, "hostPort", number);
        }
    });
    each(container, "env", |variable| {
        within(variable, "valueFrom", |source| {
            within(source, "fieldRef", |field| fill(field, "apiVersion", "v1"));
            within(source, "fileKeyRef", |key| fill_absent(key, "optional", false));
        });
    });
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        within(container, name, probe);
    }
    within(container, "lifecycle", |lifecycle| {
        for hook in ["postStart", "preStop"] {
            within(lifecycle, hook, |hook| within(hook, "httpGet", http_get));
        }
    });
}

fn pull_policy(image: &str) -> &'static str {
    let last = image.rsplit('/').next().unwrap_or_default();
    let tagged = last.contains(':') || image.contains('@');
    if !tagged || last.ends_with(":latest") { "Always" } else { "IfNotPresent" }
}

fn probe(probe: &mut Value) {
    for (field, value) in [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)] {
        fill(probe, field, value);
    }
    within(probe, "httpGet", http_get);
    within(probe, "grpc", |action| fill_absent(action, "service", ""));
}

fn http_get(action: &mut Value) {
    fill(action, "path", "/");
    fill(action, "scheme", "HTTP");
}

fn volume(volume: &mut Value) {
    let sources = volume.as_object().into_iter().flatten().filter(|(field, value)| *field != "name" && !value.is_null()).count();
    if sources == 0 {
        fill_absent(volume, "emptyDir", Map::new());
    }
    within(volume, "image", |image| {
        let policy = pull_policy(image["reference"].as_str().unwrap_or_default());
        fill(image, "pullPolicy", policy);
    });
    within(volume, "hostPath", |path| fill_absent(path, "type", ""));
    for kind in ["secret", "configMap", "downwardAPI", "projected"] {
        within(volume, kind, |source| fill_absent(source, "defaultMode", 420));
    }
    let field_refs = |source: &mut Value| {
        each(source, "items", |item| within(item, "fieldRef", |field| fill(field, "apiVersion", "v1")));
    };
    within(volume, "downwardAPI", field_refs);
    within(volume, "projected", |projected| {
        each(projected, "sources", |source| {
            within(source, "downwardAPI", field_refs);
            within(source, "serviceAccountToken", |token| fill_absent(token, "expirationSeconds", 3600));
        });
    });
}
