//! The agent is killed while many pods run, and comes back: nobody notices.

use std::time::Duration;

use anyhow::ensure;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::watch::Watch;
use super::{Cluster, SOON, node, now, pods};
use crate::live::agent::NODE;
use crate::live::api::{container, pod};
use crate::live::bed::is_ready;
use crate::live::wait::{throughout, until};

/// As many as a node has that is well used.
const COUNT: usize = 50;
/// How long the agent that comes back may take.
const LIMIT: Duration = Duration::from_secs(5);
/// Longer than it takes to list, to observe and to probe all of them anew.
const WINDOW: Duration = Duration::from_secs(5);

const PODS: &str = "/api/v1/namespaces/default/pods";
const NODES: &str = "/api/v1/nodes";
const EVENTS: &str = "/api/v1/namespaces/default/events";

pub(super) fn many_pods_survive_the_agents_death(cluster: &mut Cluster) -> anyhow::Result<()> {
    start_pods(cluster)?;
    usage_can_be_read(cluster)?;
    let of_pods = Watch::start(&cluster.plane, "pods", PODS)?;
    let of_node = Watch::start(&cluster.plane, "node", NODES)?;
    let told = Watch::start(&cluster.plane, "events", EVENTS)?;
    let containers = cluster.site.containerd.containers(&cluster.site.enclosure)?;
    let node = cluster.plane.get(&format!("node/{NODE}"))?.unwrap_or_default();
    let since = since_when_ready(&node);
    cluster.agent.end(&cluster.site.enclosure, "KILL")?;
    #[expect(clippy::disallowed_methods, reason = "nothing is simulated here")]
    let moment = Timestamp::now();
    cluster.agent.start_again(&cluster.site.enclosure)?;
    cluster.started = now();
    is_back(cluster, moment)?;
    throughout("nothing changes", WINDOW, || {
        let changes = of_pods.events()?;
        ensure!(changes.is_empty(), "the agent that came back changed pods: {changes:#?}");
        let mut about_pods = told.events()?;
        about_pods.retain(|event| event["object"]["involvedObject"]["kind"] == "Pod");
        ensure!(about_pods.is_empty(), "it had to say something about pods: {about_pods:#?}");
        for change in of_node.events()? {
            let is = since_when_ready(&change["object"]);
            ensure!(change["type"] == "MODIFIED" && is == since, "the node was ready since {since:?}: {change}");
        }
        Ok(())
    })?;
    let now = cluster.site.containerd.containers(&cluster.site.enclosure)?;
    ensure!(now == containers, "containers and PodSandboxes before {containers:?}, now {now:?}");
    drop((of_pods, of_node, told));
    cluster.plane.kubectl(&["delete", "pods", "--selector=set=many", "--timeout=80s"], "")?;
    until("no containers", SOON, || match cluster.site.containerd.containers(&cluster.site.enclosure) {
        Ok(left) if left.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    cluster.plane.kubectl(&["delete", "configmap/settings", "secret/keys"], "").map(drop)
}

/// Pods that are ready only with a token, a ConfigMap and a Secret.
fn start_pods(cluster: &Cluster) -> anyhow::Result<()> {
    let check = "grep -q blue /all/color && grep -q swordfish /all/password && test -s /all/token";
    let main = container(
        "main",
        "exec sleep 1000",
        &json!({
            "volumeMounts": [{"name": "all", "mountPath": "/all"}],
            // So many commands in so many containers are more than a small machine does within a second each.
            "readinessProbe": {"exec": {"command": ["sh", "-c", check]}, "periodSeconds": 5, "timeoutSeconds": 20},
        }),
    );
    let sources = json!([
        {"serviceAccountToken": {"path": "token", "audience": "elsewhere", "expirationSeconds": 3600}},
        {"configMap": {"name": "settings"}},
        {"secret": {"name": "keys"}},
    ]);
    let spec = json!({"containers": [main], "volumes": [{"name": "all", "projected": {"sources": sources}}]});
    let many = (0..COUNT).map(|n| {
        let mut one = pod(&format!("many-{n}"), &spec);
        one["metadata"]["labels"] = json!({"set": "many"});
        one
    });
    cluster.plane.create(&pods::inputs())?;
    let began = now();
    cluster.plane.create(&many.collect::<Vec<_>>())?;
    until("all pods Ready", SOON, || {
        let listed = cluster.plane.raw(PODS).and_then(|text| Ok(serde_json::from_str::<Value>(&text)?));
        let ready = listed.map(|list| list["items"].as_array().into_iter().flatten().filter(|pod| is_ready(pod)).count());
        if matches!(ready, Ok(COUNT)) { Ok(()) } else { Err(format!("{ready:?}")) }
    })?;
    println!("{COUNT} pods were Ready after {:?}", began.elapsed());
    Ok(())
}

fn usage_can_be_read(cluster: &Cluster) -> anyhow::Result<()> {
    until("usage of all pods", SOON, || {
        let text = cluster.proxied("metrics/resource").map_err(|error| error.to_string())?;
        let measured = text.lines().filter(|line| line.starts_with("container_memory_working_set_bytes{")).count();
        let node = text.contains("\nnode_memory_working_set_bytes ");
        if node && measured == COUNT && text.contains("\nresource_scrape_error 0\n") { Ok(()) } else { Err(text) }
    })
}

/// Waits until the agent that was just started holds the lease and answers for its pods.
fn is_back(cluster: &Cluster, killed: Timestamp) -> anyhow::Result<()> {
    until("the agent that came back", LIMIT, || {
        let back = || -> anyhow::Result<()> {
            let lease = node::lease(cluster)?;
            let renewed: Timestamp = lease["spec"]["renewTime"].as_str().unwrap_or_default().parse()?;
            ensure!(renewed > killed, "the lease was renewed at {renewed}, before the agent was killed");
            let listed: Value = serde_json::from_str(&cluster.proxied("pods")?)?;
            let known = listed["items"].as_array().map_or(0, Vec::len);
            ensure!(known == COUNT, "it knows {known} pods");
            Ok(())
        };
        back().map_err(|error| format!("{error:#}"))
    })?;
    println!("the agent was back after {:?}", cluster.started.elapsed());
    Ok(())
}

/// The moment when the node became ready last; nothing if it is not.
fn since_when_ready(node: &Value) -> Option<&str> {
    let conditions = node["status"]["conditions"].as_array()?;
    let ready = conditions.iter().find(|c| c["type"] == "Ready" && c["status"] == "True")?;
    ready["lastTransitionTime"].as_str()
}
