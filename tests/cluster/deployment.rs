//! What most people do with a cluster: a Deployment comes up, is rolled over to another version, and goes.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::{Cluster, SOON, now, pods};
use crate::live::api::container;
use crate::live::wait::until;

/// As many as a Deployment that matters.
const REPLICAS: usize = 20;

pub(super) fn rolls_over_its_pods(cluster: &mut Cluster) -> anyhow::Result<()> {
    let plane = &cluster.plane;
    if !plane.controlled {
        println!("skipped: a Deployment: no kube-controller-manager and kube-scheduler in KUBEBUILDER_ASSETS");
        return Ok(());
    }
    plane.create(&pods::inputs())?;
    let began = now();
    plane.create(&[deployment()])?;
    let rolled = || plane.kubectl(&["rollout", "status", "deployment/web", "--timeout=85s"], "");
    rolled()?;
    println!("a Deployment of {REPLICAS} pods was rolled out after {:?}", began.elapsed());
    let first = running(cluster)?;
    ensure!(first.len() == REPLICAS, "{first:?}");

    let began = now();
    plane.kubectl(&["set", "env", "deployment/web", "VERSION=2"], "")?;
    rolled()?;
    println!("and rolled over to its next version after {:?}", began.elapsed());
    until("only pods of the next version", SOON, || {
        let second = running(cluster).map_err(|error| error.to_string())?;
        let left = second.iter().filter(|name| first.contains(name)).count();
        if left == 0 && second.len() == REPLICAS { Ok(()) } else { Err(format!("{left} of {} are of the first", second.len())) }
    })?;

    plane.kubectl(&["delete", "deployment/web", "--cascade=foreground", "--timeout=80s"], "")?;
    until("no containers", SOON, || match cluster.site.containerd.containers(&cluster.site.enclosure) {
        Ok(left) if left.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    plane.kubectl(&["delete", "configmap/settings", "secret/keys"], "").map(drop)
}

/// Pods that are ready only with a token, a ConfigMap and a Secret, and that end when they are told to.
fn deployment() -> Value {
    let check = "test \"$COLOR\" = blue && grep -q swordfish /keys/password && \
                 test -s /var/run/secrets/kubernetes.io/serviceaccount/token";
    let main = container(
        "main",
        "trap 'exit 0' TERM; while :; do sleep 3600 & wait; done",
        &json!({
            "env": [{"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "color"}}}],
            "volumeMounts": [{"name": "keys", "mountPath": "/keys"}],
            "readinessProbe": {"exec": {"command": ["sh", "-c", check]}, "periodSeconds": 1},
            "resources": {"requests": {"cpu": "10m", "memory": "8Mi"}},
        }),
    );
    let volumes = json!([{"name": "keys", "secret": {"secretName": "keys"}}]);
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "replicas": REPLICAS, "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"terminationGracePeriodSeconds": 5, "containers": [main], "volumes": volumes},
            },
        },
    })
}

/// The names of the Deployment's pods that are not on their way out.
fn running(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let text = cluster.plane.raw("/api/v1/namespaces/default/pods?labelSelector=app%3Dweb")?;
    let listed: Value = serde_json::from_str(&text)?;
    let pods = listed["items"].as_array().context("a list")?.iter();
    let stays = pods.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    Ok(stays.filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect())
}
