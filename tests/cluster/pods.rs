//! What becomes of a pod, with everything in it that the agent asks the API server for.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::{Cluster, SOON};
use crate::live::api::{container, pod};
use crate::live::bed::container_status;
use crate::live::wait::until;

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

/// The waits between the ends of a container and its next starts, as a user with upstream's defaults has them.
pub(super) fn crash_loop_backs_off(cluster: &mut Cluster) -> anyhow::Result<()> {
    let plane = &cluster.plane;
    let script = "date +%s >> /data/starts; cat /data/starts; exit 3";
    let main = container("main", script, &json!({"volumeMounts": [{"name": "data", "mountPath": "/data"}]}));
    plane.create(&[pod("crashes", &json!({"containers": [main], "volumes": [{"name": "data", "emptyDir": {}}]}))])?;
    let ended = |pod: &Value| container_status(pod, "main")["state"]["running"].is_null();
    let restarts = |count: u64| {
        until(&format!("restart {count}"), SOON, || match plane.get("pod/crashes") {
            // It has said all.
            Ok(Some(pod)) if ended(&pod) && container_status(&pod, "main")["restartCount"] == count => Ok(pod),
            other => Err(format!("{other:?}")),
        })
    };
    for count in 1..=3 {
        restarts(count)?;
    }
    let waits = restarts(4)?;
    let text = plane.kubectl(&["logs", "crashes"], "")?;
    let starts: Vec<i64> = text.lines().map(str::parse).collect::<Result<_, _>>().with_context(|| text.clone())?;
    let gaps: Vec<i64> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // Whole seconds, and what a start takes.
    let expected = [0..=3, 10..=13, 20..=23, 40..=43];
    ensure!(
        gaps.len() == expected.len() && gaps.iter().zip(&expected).all(|(gap, expected)| expected.contains(gap)),
        "{gaps:?}: {}",
        waits["status"]
    );
    println!("a container that crashes was started again after {gaps:?} seconds");
    Ok(())
}
