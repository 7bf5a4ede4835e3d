//! What a container is given: environment, volumes that are made of objects, and their changes.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::api::{NAMESPACE, container, pod};
use super::bed::{Bed, SOON, pod_path};
use super::wait::until;

fn settings() -> Value {
    json!({"metadata": {"name": "settings"}, "data": {"color": "blue", "SIZE": "large"}})
}

fn keys() -> Value {
    json!({"metadata": {"name": "keys"}, "data": {"password": "c3dvcmRmaXNo"}})
}

pub(super) fn environment_comes_from_everywhere(bed: &mut Bed) -> anyhow::Result<()> {
    bed.api.create("configmaps", &settings())?;
    bed.api.create("secrets", &keys())?;
    let script = "echo $PLAIN,$COLOR,$PASSWORD,$CM_SIZE,$NAME,$LIMIT,$TWICE; echo ip=$IP host=$HOST api=$KUBERNETES_SERVICE_HOST";
    let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    let fields = json!({
        "resources": {"limits": {"cpu": "500m", "memory": "32Mi"}},
        "envFrom": [{"prefix": "CM_", "configMapRef": {"name": "settings"}}],
        "env": [
            {"name": "PLAIN", "value": "plain"},
            {"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "color"}}},
            {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "password"}}},
            {"name": "NAME", "valueFrom": field("metadata.name")},
            {"name": "IP", "valueFrom": field("status.podIP")},
            {"name": "HOST", "valueFrom": field("status.hostIP")},
            {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
            {"name": "TWICE", "value": "$(PLAIN)-$$(PLAIN)"},
        ],
    });
    let given = pod("given", &json!({"restartPolicy": "Never", "containers": [container("main", script, &fields)]}));
    let text = bed.output_of(&given)?;
    ensure!(text.starts_with("plain,blue,swordfish,large,given,33554432,plain-$(PLAIN)\n"), "{text}");
    ensure!(text.contains("ip=10.88.0.") && text.contains("host=10.77.0.1 api=10.96.0.1"), "{text}");
    // A key that is missing is told, and its coming mends it.
    let missing = json!({"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "later"}}}]});
    bed.api.create("pods", &pod("waits", &json!({"containers": [container("main", "exec sleep 1000", &missing)]})))?;
    bed.pod_becomes("waits", "told what is missing", |pod| {
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CreateContainerConfigError"
    })?;
    bed.api.patch(&format!("{NAMESPACE}/configmaps/settings"), &json!({"data": {"later": "now"}}))?;
    bed.pod_ready("waits")?;
    bed.api.delete(&format!("{NAMESPACE}/configmaps/settings"))?;
    bed.api.delete(&format!("{NAMESPACE}/secrets/keys"))
}

pub(super) fn volumes_hold_objects_and_follow_their_changes(bed: &mut Bed) -> anyhow::Result<()> {
    bed.api.create("configmaps", &settings())?;
    bed.api.create("secrets", &keys())?;
    let script = "while :; do echo \"$(cat /cm/color) $(cat /secret/password) $(cat /down/labels) $(cat /all/cm/color) \
                  $(cat /all/ns) $(cat /one)\"; sleep 0.2; done";
    let label = json!({"path": "labels", "fieldRef": {"fieldPath": "metadata.labels['stage']"}});
    let mount = |name: &str, path: &str| json!({"name": name, "mountPath": path});
    let main = container(
        "main",
        script,
        &json!({"volumeMounts": [
            mount("cm", "/cm"), mount("secret", "/secret"), mount("down", "/down"), mount("all", "/all"),
            {"name": "cm", "mountPath": "/one", "subPath": "color"},
        ]}),
    );
    let volumes = json!([
        {"name": "cm", "configMap": {"name": "settings"}},
        {"name": "secret", "secret": {"secretName": "keys", "defaultMode": 256}},
        {"name": "down", "downwardAPI": {"items": [label]}},
        {"name": "all", "projected": {"sources": [
            {"configMap": {"name": "settings", "items": [{"key": "color", "path": "cm/color"}]}},
            {"downwardAPI": {"items": [{"path": "ns", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
        ]}},
    ]);
    let mut reader = pod("reader", &json!({"containers": [main], "volumes": volumes}));
    reader["metadata"]["labels"] = json!({"stage": "first"});
    bed.api.create("pods", &reader)?;
    bed.pod_ready("reader")?;
    last_line_becomes(bed, "blue swordfish first blue default blue")?;
    bed.api.patch(&format!("{NAMESPACE}/configmaps/settings"), &json!({"data": {"color": "red"}}))?;
    bed.api.patch(&format!("{NAMESPACE}/secrets/keys"), &json!({"data": {"password": "dHJvdXQ="}}))?;
    bed.api.patch(&pod_path("reader"), &json!({"metadata": {"labels": {"stage": "second"}}}))?;
    // A subPath mount stays as it was.
    last_line_becomes(bed, "red trout second red default blue")?;
    bed.delete("reader")?;
    bed.api.delete(&format!("{NAMESPACE}/configmaps/settings"))?;
    bed.api.delete(&format!("{NAMESPACE}/secrets/keys"))
}

fn last_line_becomes(bed: &Bed, wanted: &str) -> anyhow::Result<()> {
    until(&format!("{wanted:?} in the log"), SOON, || {
        let text = bed.log("reader", "?tailLines=1").map_err(|error| error.to_string())?;
        if text.trim_end() == wanted { Ok(()) } else { Err(text) }
    })
}

pub(super) fn service_account_token_is_the_pods_own(bed: &mut Bed) -> anyhow::Result<()> {
    let script = "cd /var/run/secrets/kubernetes.io/serviceaccount; cat token; echo; cat namespace; echo; head -n 1 ca.crt";
    let text =
        bed.output_of(&pod("knows", &json!({"restartPolicy": "Never", "containers": [container("main", script, &json!({}))]})))?;
    let lines: Vec<&str> = text.lines().collect();
    ensure!(lines.len() == 3 && lines[1] == "default" && lines[2].contains("BEGIN CERTIFICATE"), "{text}");
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": lines[0]}});
    let review = bed.api.post("/apis/authentication.k8s.io/v1/tokenreviews", &review)?;
    let user = review["status"]["user"]["username"].as_str().context("the token is of nobody")?;
    ensure!(user == "system:serviceaccount:default:default", "{review}");
    Ok(())
}
