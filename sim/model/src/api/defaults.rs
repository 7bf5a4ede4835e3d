//! What the API server fills in that a pod's author left out.
//! Upstream: pkg/apis/core/v1/defaults.go, pkg/apis/apps/v1/defaults.go.
//! Differs: fields of resources that this server does not have.

use k8s_openapi::api::core::v1::Pod;
use kubelet::resources::qos::qos_class;
use serde_json::{Map, Value, json};

/// Fills in one field if it is not there.
pub(super) fn default_field(map: &mut Value, field: &str, value: impl Into<Value>) {
    let Some(map) = map.as_object_mut() else { return };
    let slot = map.entry(field.to_owned()).or_insert(Value::Null);
    if slot.is_null() {
        *slot = value.into();
    }
}

/// The items of a list, to be changed.
pub(super) fn items_mut<'a>(map: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    map.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
}

/// The items of a list.
pub(super) fn items<'a>(map: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    map[field].as_array().into_iter().flatten()
}

fn ensure_map(map: &mut Value, field: &str) {
    default_field(map, field, Map::new());
}

/// Defaults of a pod spec, in a pod or in a template.
pub fn pod_spec(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    for (field, value) in [
        ("restartPolicy", json!("Always")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("dnsPolicy", json!("ClusterFirst")),
        ("schedulerName", json!("default-scheduler")),
        ("securityContext", json!({})),
    ] {
        default_field(spec, field, value);
    }
    // Both names of the one field are always written.
    if let Some(account) = spec["serviceAccountName"].as_str().or(spec["serviceAccount"].as_str()).map(str::to_owned) {
        spec["serviceAccount"] = account.clone().into();
        spec["serviceAccountName"] = account.into();
    }
    let host_network = spec["hostNetwork"] == true;
    for field in ["containers", "initContainers", "ephemeralContainers"] {
        for one in items_mut(spec, field) {
            container(one, host_network);
        }
    }
    for one in items_mut(spec, "volumes") {
        volume(one);
    }
}

fn container(container: &mut Value, host_network: bool) {
    let image = container["image"].as_str().unwrap_or_default();
    let policy = if tag_is_latest(image) { "Always" } else { "IfNotPresent" };
    default_field(container, "imagePullPolicy", policy);
    default_field(container, "terminationMessagePath", "/dev/termination-log");
    default_field(container, "terminationMessagePolicy", "File");
    ensure_map(container, "resources");
    requests_from_limits(&mut container["resources"]);
    for port in items_mut(container, "ports") {
        default_field(port, "protocol", "TCP");
        if host_network {
            let number = port["containerPort"].clone();
            default_field(port, "hostPort", number);
        }
    }
    for variable in items_mut(container, "env") {
        field_ref(&mut variable["valueFrom"]);
    }
    remove_null_sources(container);
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if container[name].is_object() {
            probe(&mut container[name]);
        }
    }
    for hook in ["postStart", "preStop"] {
        if container["lifecycle"][hook]["httpGet"].is_object() {
            http_get(&mut container["lifecycle"][hook]["httpGet"]);
        }
    }
}

// Looking into an absent field by index makes it null: such nulls are taken out again.
fn remove_null_sources(container: &mut Value) {
    for variable in items_mut(container, "env") {
        if let Some(map) = variable.as_object_mut().filter(|m| m.get("valueFrom").is_some_and(Value::is_null)) {
            map.remove("valueFrom");
        }
    }
}

fn tag_is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    match image.rsplit('/').next().and_then(|last| last.rsplit_once(':')) {
        Some((_, tag)) => tag == "latest",
        None => true,
    }
}

fn requests_from_limits(resources: &mut Value) {
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else { return };
    ensure_map(resources, "requests");
    for (name, amount) in limits {
        default_field(&mut resources["requests"], &name, amount);
    }
}

fn probe(probe: &mut Value) {
    for (field, value) in [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)] {
        default_field(probe, field, value);
    }
    if probe.get("httpGet").is_some_and(Value::is_object) {
        http_get(&mut probe["httpGet"]);
    }
    if probe.get("grpc").is_some_and(Value::is_object) {
        default_field(&mut probe["grpc"], "service", "");
    }
}

fn http_get(action: &mut Value) {
    default_field(action, "path", "/");
    default_field(action, "scheme", "HTTP");
}

fn field_ref(source: &mut Value) {
    if source.get("fieldRef").is_some_and(Value::is_object) {
        default_field(&mut source["fieldRef"], "apiVersion", "v1");
    }
    if source.get("resourceFieldRef").is_some_and(Value::is_object) {
        default_field(&mut source["resourceFieldRef"], "divisor", "0");
    }
}

fn volume(volume: &mut Value) {
    if volume.as_object().is_some_and(|v| v.len() == 1) {
        volume["emptyDir"] = json!({});
    }
    for kind in ["secret", "configMap", "downwardAPI", "projected"] {
        if volume.get(kind).is_some_and(Value::is_object) {
            default_field(&mut volume[kind], "defaultMode", 420);
        }
    }
    if volume.get("hostPath").is_some_and(Value::is_object) {
        default_field(&mut volume["hostPath"], "type", "");
    }
    if let Some(downward) = volume.get_mut("downwardAPI") {
        items_mut(downward, "items").for_each(field_ref);
    }
    let Some(projected) = volume.get_mut("projected") else { return };
    for source in items_mut(projected, "sources") {
        if let Some(token) = source.get_mut("serviceAccountToken") {
            default_field(token, "expirationSeconds", 3600);
        }
        if let Some(downward) = source.get_mut("downwardAPI") {
            items_mut(downward, "items").for_each(field_ref);
        }
    }
}

/// Defaults of a pod as it is created: its spec and its first status.
pub fn pod(pod: &mut Value) {
    pod_spec(&mut pod["spec"]);
    default_field(&mut pod["spec"], "enableServiceLinks", true);
    let class = serde_json::from_value::<Pod>(pod.clone()).map(|p| qos_class(&p).as_str()).unwrap_or("BestEffort");
    pod["status"] = json!({"phase": "Pending", "qosClass": class});
}

/// Defaults of any object as it is created or updated, but for pods, which have their own.
pub fn object(plural: &str, object: &mut Value) {
    match plural {
        "deployments" => deployment(&mut object["spec"]),
        "replicasets" => {
            template_labels(&mut object["spec"]);
            default_field(&mut object["spec"], "replicas", 1);
            pod_spec(&mut object["spec"]["template"]["spec"]);
        }
        "daemonsets" => daemon_set(&mut object["spec"]),
        "jobs" => pod_spec(&mut object["spec"]["template"]["spec"]),
        "secrets" => secret(object),
        "services" => service(&mut object["spec"]),
        "namespaces" => namespace(object),
        "nodes" => ensure_map(object, "spec"),
        _ => {}
    }
}

fn template_labels(spec: &mut Value) {
    ensure_map(spec, "template");
    ensure_map(&mut spec["template"], "metadata");
}

fn deployment(spec: &mut Value) {
    template_labels(spec);
    for (field, value) in [("replicas", 1), ("revisionHistoryLimit", 10), ("progressDeadlineSeconds", 600)] {
        default_field(spec, field, value);
    }
    ensure_map(spec, "strategy");
    default_field(&mut spec["strategy"], "type", "RollingUpdate");
    if spec["strategy"]["type"] == "RollingUpdate" {
        ensure_map(&mut spec["strategy"], "rollingUpdate");
        default_field(&mut spec["strategy"]["rollingUpdate"], "maxUnavailable", "25%");
        default_field(&mut spec["strategy"]["rollingUpdate"], "maxSurge", "25%");
    }
    pod_spec(&mut spec["template"]["spec"]);
}

fn daemon_set(spec: &mut Value) {
    template_labels(spec);
    default_field(spec, "revisionHistoryLimit", 10);
    ensure_map(spec, "updateStrategy");
    default_field(&mut spec["updateStrategy"], "type", "RollingUpdate");
    if spec["updateStrategy"]["type"] == "RollingUpdate" {
        ensure_map(&mut spec["updateStrategy"], "rollingUpdate");
        default_field(&mut spec["updateStrategy"]["rollingUpdate"], "maxUnavailable", 1);
        default_field(&mut spec["updateStrategy"]["rollingUpdate"], "maxSurge", 0);
    }
    pod_spec(&mut spec["template"]["spec"]);
}

fn secret(secret: &mut Value) {
    use base64::Engine as _;
    default_field(secret, "type", "Opaque");
    let Some(plain) = secret.as_object_mut().and_then(|s| s.remove("stringData")) else { return };
    ensure_map(secret, "data");
    for (key, value) in plain.as_object().into_iter().flatten() {
        let text = value.as_str().unwrap_or_default();
        secret["data"][key] = base64::engine::general_purpose::STANDARD.encode(text).into();
    }
}

fn service(spec: &mut Value) {
    default_field(spec, "type", "ClusterIP");
    default_field(spec, "sessionAffinity", "None");
    if spec["type"] != "ExternalName" {
        default_field(spec, "ipFamilies", json!(["IPv4"]));
        default_field(spec, "ipFamilyPolicy", "SingleStack");
        default_field(spec, "internalTrafficPolicy", "Cluster");
    }
    for port in items_mut(spec, "ports") {
        default_field(port, "protocol", "TCP");
        let number = port["port"].clone();
        default_field(port, "targetPort", number);
    }
}

fn namespace(namespace: &mut Value) {
    let name = namespace["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    ensure_map(&mut namespace["metadata"], "labels");
    namespace["metadata"]["labels"]["kubernetes.io/metadata.name"] = name.into();
    ensure_map(namespace, "spec");
    default_field(&mut namespace["spec"], "finalizers", json!(["kubernetes"]));
    ensure_map(namespace, "status");
    default_field(&mut namespace["status"], "phase", "Active");
}
