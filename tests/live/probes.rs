//! Probes of all kinds that a busybox can answer.

use anyhow::ensure;
use serde_json::json;

use super::api::{container, pod};
use super::bed::{Bed, container_status, is_ready};

pub(super) fn each_kind_of_probe_makes_its_container_ready(bed: &mut Bed) -> anyhow::Result<()> {
    let probe = |handler: serde_json::Value| {
        let mut probe = handler;
        probe["periodSeconds"] = json!(1);
        probe
    };
    let http = json!({
        "readinessProbe": probe(json!({"httpGet": {"path": "/index.html", "port": "web"}})),
        "ports": [{"name": "web", "containerPort": 8080}],
    });
    let tcp = json!({"readinessProbe": probe(json!({"tcpSocket": {"port": 8081}}))});
    let exec = json!({
        "readinessProbe": probe(json!({"exec": {"command": ["test", "-e", "/tmp/ready"]}})),
        "startupProbe": probe(json!({"exec": {"command": ["test", "-e", "/tmp/started"]}})),
    });
    let spec = json!({"containers": [
        container("http", "echo hello >/tmp/index.html; exec httpd -f -p 8080 -h /tmp", &http),
        container("tcp", "exec nc -ll -p 8081 -e cat", &tcp),
        container("exec", "sleep 0.5; touch /tmp/started; sleep 0.5; touch /tmp/ready; exec sleep 1000", &exec),
    ]});
    bed.api.create("pods", &pod("probed", &spec))?;
    bed.pod_becomes("probed", "not Ready while it runs", |pod| pod["status"]["phase"] == "Running" && !is_ready(pod))?;
    let ready = bed.pod_ready("probed")?;
    for name in ["http", "tcp", "exec"] {
        let status = container_status(&ready, name);
        ensure!(status["ready"] == true && status["started"] == true && status["restartCount"] == 0, "{status}");
    }
    bed.delete("probed")
}

pub(super) fn failed_liveness_restarts_the_container(bed: &mut Bed) -> anyhow::Result<()> {
    let liveness =
        json!({"exec": {"command": ["cat", "/tmp/alive"]}, "periodSeconds": 1, "failureThreshold": 1, "initialDelaySeconds": 1});
    let main = container("main", "touch /tmp/alive; sleep 2; rm /tmp/alive; exec sleep 1000", &json!({"livenessProbe": liveness}));
    bed.api.create("pods", &pod("sickly", &json!({"containers": [main]})))?;
    let pod = bed.pod_becomes("sickly", "restarted", |pod| container_status(pod, "main")["restartCount"].as_u64() >= Some(1))?;
    ensure!(container_status(&pod, "main")["lastState"]["terminated"]["exitCode"] == 137, "{}", pod["status"]);
    let events = bed.api.events_about("sickly");
    let told = |reason: &str, text: &str| events.iter().any(|(r, t)| r == reason && t.starts_with(text));
    ensure!(told("Unhealthy", "Liveness probe failed: cat: can't open '/tmp/alive'"), "{events:?}");
    ensure!(told("Killing", "Container main failed liveness probe, will be restarted"), "{events:?}");
    bed.delete("sickly")
}
