//! Decides the labels and annotations by which the runtime's sandboxes and containers are known again.
//! Upstream: pkg/kubelet/kuberuntime/labels.go, pkg/kubelet/types/labels.go.
//! Differs: nothing on purpose.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};
use serde_json::Value;

use super::hash::container_hash;
use crate::go_json::escaped;

/// The pod's name.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// The pod's namespace.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// The pod's UID.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// The container's name.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";

fn pod_labels(pod: &Pod) -> BTreeMap<String, String> {
    let meta = &pod.metadata;
    [(POD_NAME, &meta.name), (POD_NAMESPACE, &meta.namespace), (POD_UID, &meta.uid)]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.clone().unwrap_or_default()))
        .collect()
}

/// A sandbox's labels: the pod's own, and ours over them (LOG-001).
#[must_use]
pub fn sandbox_labels(pod: &Pod) -> BTreeMap<String, String> {
    let mut labels = pod.metadata.labels.clone().unwrap_or_default();
    labels.extend(pod_labels(pod));
    labels
}

/// A container's labels (LOG-001).
#[must_use]
pub fn container_labels(pod: &Pod, container: &Container) -> BTreeMap<String, String> {
    let mut labels = pod_labels(pod);
    labels.insert(CONTAINER_NAME.to_owned(), container.name.clone());
    labels
}

/// A container's annotations (LOG-002, POD-165): enough to stop it without a pod object.
#[must_use]
pub fn container_annotations(pod: &Pod, container: &Container, restart_count: u32) -> BTreeMap<String, String> {
    let mut annotations = BTreeMap::new();
    let mut put = |key: &str, value: String| annotations.insert(format!("io.kubernetes.{key}"), value);
    put("container.hash", container_hash(container));
    put("container.restartCount", restart_count.to_string());
    put("container.terminationMessagePath", container.termination_message_path.clone().unwrap_or_default());
    put("container.terminationMessagePolicy", container.termination_message_policy.clone().unwrap_or_default());
    if let Some(seconds) = pod.metadata.deletion_grace_period_seconds {
        put("pod.deletionGracePeriod", seconds.to_string());
    }
    if let Some(seconds) = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds) {
        put("pod.terminationGracePeriod", seconds.to_string());
    }
    // A list or a handler is plain data: it always serializes.
    if let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()) {
        put("container.preStopHandler", hook_as_go(hook));
    }
    if let Some(ports) = container.ports.as_ref().filter(|p| !p.is_empty()) {
        put("container.ports", ports_as_go(ports));
    }
    annotations
}

/// IDs, times, state and the keys that every sandbox and container has, in a listing, in bytes: rather too many than too few.
pub(super) const LISTED_EACH: usize = 896;
/// What the frame of a key and its value takes.
const LISTED_TEXT: usize = 16;

/// What labels or annotations take in a listing, in bytes: each with its frame, for a key may be short and its value empty.
#[must_use]
pub fn texts(texts: &BTreeMap<String, String>) -> usize {
    texts.iter().map(|(key, value)| key.len() + value.len() + LISTED_TEXT).sum()
}

fn length(text: Option<&String>) -> usize {
    text.map_or(0, String::len)
}

/// About what a listing of the runtime tells of one sandbox of the pod, in bytes.
#[must_use]
pub fn sandbox_listed_bytes(pod: &Pod) -> usize {
    let Pod { metadata, .. } = pod;
    // Both stand in its metadata and among its labels.
    let names = 2 * (length(metadata.name.as_ref()) + length(metadata.namespace.as_ref()));
    LISTED_EACH + names + [&metadata.labels, &metadata.annotations].into_iter().flatten().map(texts).sum::<usize>()
}

/// About what a listing of the runtime tells of one instance of the pod's container, in bytes.
#[must_use]
pub fn container_listed_bytes(pod: &Pod, container: &Container) -> usize {
    let hook =
        container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref()).map_or(0, |hook| hook_as_go(hook).len());
    let ports = container.ports.as_deref().filter(|ports| !ports.is_empty()).map_or(0, |ports| ports_as_go(ports).len());
    let names = length(pod.metadata.name.as_ref()) + length(pod.metadata.namespace.as_ref()) + 2 * container.name.len();
    let (path, image) = (length(container.termination_message_path.as_ref()), length(container.image.as_ref()));
    LISTED_EACH + names + hook + ports + path + 2 * image
}

/// A hook with its keys in Go's order and Go's escapes: what one agent writes the other compares and reads.
fn hook_as_go(hook: &LifecycleHandler) -> String {
    const KINDS: [(&str, &[&str]); 4] = [
        ("exec", &["command"]),
        ("httpGet", &["path", "port", "host", "scheme", "httpHeaders"]),
        ("tcpSocket", &["port", "host"]),
        ("sleep", &["seconds"]),
    ];
    let hook = serde_json::to_value(hook).unwrap_or_default();
    let field = |of: &Value, key: &str| of.get(key).map(|value| format!("\"{key}\":{value}"));
    let kind = |(kind, keys): (&str, &[&str])| {
        let action = hook.get(kind)?;
        let fields: Vec<String> = keys.iter().filter_map(|key| field(action, key)).collect();
        Some(format!("\"{kind}\":{{{}}}", fields.join(",")))
    };
    let kinds: Vec<String> = KINDS.into_iter().filter_map(kind).collect();
    escaped(&format!("{{{}}}", kinds.join(",")))
}

/// Ports with their keys in Go's order, so that they read as upstream's.
fn ports_as_go(ports: &[k8s_openapi::api::core::v1::ContainerPort]) -> String {
    let one = |port: &k8s_openapi::api::core::v1::ContainerPort| {
        let mut fields = Vec::new();
        let mut text = |key: &str, value: Option<&String>| {
            if let Some(value) = value.filter(|v| !v.is_empty()) {
                fields.push(format!("\"{key}\":{}", Value::from(value.as_str())));
            }
        };
        text("name", port.name.as_ref());
        if let Some(host) = port.host_port.filter(|p| *p != 0) {
            fields.push(format!("\"hostPort\":{host}"));
        }
        fields.push(format!("\"containerPort\":{}", port.container_port));
        let mut text = |key: &str, value: Option<&String>| {
            if let Some(value) = value.filter(|v| !v.is_empty()) {
                fields.push(format!("\"{key}\":{}", Value::from(value.as_str())));
            }
        };
        text("protocol", port.protocol.as_ref());
        text("hostIP", port.host_ip.as_ref());
        format!("{{{}}}", fields.join(","))
    };
    format!("[{}]", ports.iter().map(one).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    // LOG-001, LOG-002: whoever finds the container knows whose it is and how to stop it, without the pod object.
    #[test]
    fn container_tells_whose_it_is_and_how_to_stop_it() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "deletionGracePeriodSeconds": 5, "labels": {"app": "web"}},
            "spec": {"terminationGracePeriodSeconds": 30, "containers": []},
        }))
        .unwrap();
        let container: Container = serde_json::from_value(json!({
            "name": "c",
            "ports": [{"name": "web", "containerPort": 80, "protocol": "TCP"}],
            "lifecycle": {"preStop": {"exec": {"command": ["true"]}}},
            "terminationMessagePath": "/dev/termination-log",
            "terminationMessagePolicy": "File",
        }))
        .unwrap();
        let expected = [(CONTAINER_NAME, "c"), (POD_NAME, "p"), (POD_NAMESPACE, "ns"), (POD_UID, "u")];
        let labels = container_labels(&pod, &container);
        assert_eq!(labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect::<Vec<_>>(), expected);
        let hash = container_hash(&container);
        let expected = [
            ("container.hash", hash.as_str()),
            ("container.ports", r#"[{"name":"web","containerPort":80,"protocol":"TCP"}]"#),
            ("container.preStopHandler", r#"{"exec":{"command":["true"]}}"#),
            ("container.restartCount", "3"),
            ("container.terminationMessagePath", "/dev/termination-log"),
            ("container.terminationMessagePolicy", "File"),
            ("pod.deletionGracePeriod", "5"),
            ("pod.terminationGracePeriod", "30"),
        ];
        let annotations = container_annotations(&pod, &container, 3);
        let short = |key: &str| key.strip_prefix("io.kubernetes.").unwrap().to_owned();
        let found: Vec<(String, &str)> = annotations.iter().map(|(key, value)| (short(key), value.as_str())).collect();
        assert_eq!(found, expected.map(|(key, value)| (key.to_owned(), value)));
        assert!(hash.bytes().all(|digit| digit.is_ascii_hexdigit()), "{hash}");
    }

    // LOG-002: as Go's encoding/json writes it: the fields in the order of the type (core/v1/types.go, LifecycleHandler, HTTPGetAction), and
    // `<`, `>` and `&` escaped (recorded case 117).
    #[test]
    fn hook_reads_as_upstream_writes_it() {
        let of = |handler: Value| {
            let container = json!({"name": "c", "lifecycle": {"preStop": handler}});
            let container: Container = serde_json::from_value(container).unwrap();
            container_annotations(&Pod::default(), &container, 0)["io.kubernetes.container.preStopHandler"].clone()
        };
        assert_eq!(
            of(json!({"exec": {"command": ["sh", "-c", "echo out; echo err >&2; exit 4"]}})),
            r#"{"exec":{"command":["sh","-c","echo out; echo err \u003e\u00262; exit 4"]}}"#
        );
        let http =
            json!({"host": "h", "httpHeaders": [{"name": "n", "value": "<v>"}], "path": "/", "port": "web", "scheme": "HTTP"});
        assert_eq!(
            of(json!({"httpGet": http})),
            r#"{"httpGet":{"path":"/","port":"web","host":"h","scheme":"HTTP","httpHeaders":[{"name":"n","value":"\u003cv\u003e"}]}}"#
        );
        assert_eq!(of(json!({"tcpSocket": {"host": "h", "port": 80}})), r#"{"tcpSocket":{"port":80,"host":"h"}}"#);
        assert_eq!(of(json!({"sleep": {"seconds": 5}})), r#"{"sleep":{"seconds":5}}"#);
    }
}
