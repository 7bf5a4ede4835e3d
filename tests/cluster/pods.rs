//! What becomes of a pod, with everything in it that the agent asks the API server for.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::Cluster;
use crate::live::api::{container, pod};
use crate::live::bed::container_status;

/// A ConfigMap and a Secret.
pub(super) fn inputs() -> [Value; 2] {
    [
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"color": "blue"}}),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"password": "swordfish"}}),
    ]
}

pub(super) fn live_and_go(cluster: &mut Cluster) -> anyhow::Result<()> {
    let plane = &cluster.plane;
    let script =
        "cat /var/run/secrets/kubernetes.io/serviceaccount/token; echo; echo $COLOR $(cat /keys/password); exec sleep 1000";
    let main = container(
        "main",
        script,
        &json!({
            "env": [{"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "color"}}}],
            "volumeMounts": [{"name": "keys", "mountPath": "/keys"}],
            "resources": {"requests": {"cpu": "10m"}, "limits": {"memory": "64Mi"}},
        }),
    );
    let volumes = json!([{"name": "keys", "secret": {"secretName": "keys"}}]);
    plane.create(&inputs())?;
    plane.create(&[pod("lives", &json!({"containers": [main], "volumes": volumes}))])?;
    let ready = cluster.pod_ready("lives")?;
    ensure!(container_status(&ready, "main")["restartCount"] == 0, "{}", ready["status"]);
    let text = plane.kubectl(&["logs", "lives"], "")?;
    let (token, rest) = text.split_once('\n').context("two lines")?;
    ensure!(rest == "blue swordfish\n", "{rest}");
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let review = plane.create_one(&review)?;
    ensure!(review["status"]["user"]["username"] == "system:serviceaccount:default:default", "{review}");
    plane.kubectl(&["delete", "pod", "lives", "--timeout=60s"], "")?;
    let events = plane.kubectl(&["get", "events", "--output=jsonpath={.items[*].reason}"], "")?;
    for reason in ["Starting", "Pulled", "Created", "Started", "Killing"] {
        ensure!(events.split(' ').any(|told| told == reason), "no event {reason}: {events}");
    }
    plane.kubectl(&["delete", "configmap/settings", "secret/keys"], "").map(drop)
}
