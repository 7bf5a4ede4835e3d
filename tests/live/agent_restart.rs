//! The agent ends, in one way or another, and comes back; containers do not notice.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};

use super::api::{container, pod};
use super::bed::{Bed, SOON, condition, container_status, is_ready};
use super::wait::{throughout, until};

/// Of a pod's container: its ID, and how often it was restarted.
type Running = BTreeMap<String, (String, u64)>;

fn running(bed: &Bed, names: &[String]) -> anyhow::Result<Running> {
    let of = |name: &String| -> anyhow::Result<(String, (String, u64))> {
        let pod = bed.pod(name)?;
        ensure!(is_ready(&pod), "{name} is not Ready: {}", pod["status"]);
        let status = container_status(&pod, "main");
        let id = status["containerID"].as_str().unwrap_or_default().to_owned();
        Ok((name.clone(), (id, status["restartCount"].as_u64().unwrap_or_default())))
    };
    names.iter().map(of).collect()
}

/// The moment when the node became ready last.
fn ready_since(bed: &Bed) -> anyhow::Result<String> {
    let node = bed.node()?.unwrap_or_default();
    ensure!(condition(&node, "Ready") == "True", "the node is not Ready: {}", node["status"]["conditions"]);
    let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    let since = conditions.filter(|c| c["type"] == "Ready").map(|c| c["lastTransitionTime"].to_string()).collect();
    Ok(since)
}

/// Waits until the agent that was just started answers for its pods.
fn answers_for(bed: &Bed, count: usize) -> anyhow::Result<()> {
    let path = format!("/api/v1/nodes/{}/proxy/pods", super::agent::NODE);
    until("pods at the agent that came back", SOON, || match bed.api.carried(&path) {
        Ok((200, text)) => {
            let list: Value = serde_json::from_str(&text).unwrap_or_default();
            let known = list["items"].as_array().map(Vec::len);
            if known == Some(count) { Ok(()) } else { Err(format!("{known:?} pods")) }
        }
        other => Err(format!("{other:?}")),
    })
}

pub(super) fn killed_agent_takes_over_what_runs(bed: &mut Bed) -> anyhow::Result<()> {
    let names: Vec<String> = (0..10).map(|n| format!("stays-{n}")).collect();
    let probe = json!({"readinessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1}});
    for name in &names {
        bed.api.create("pods", &pod(name, &json!({"containers": [container("main", "exec sleep 1000", &probe)]})))?;
    }
    for name in &names {
        bed.pod_ready(name)?;
    }
    let (before, since, all) = (running(bed, &names)?, ready_since(bed)?, bed.containers()?);
    bed.agent.end(&bed.site.enclosure, "KILL")?;
    bed.agent.start_again(&bed.site.enclosure)?;
    let bed = &*bed;
    let same = || {
        let now = running(bed, &names)?;
        ensure!(now == before, "before {before:?}, now {now:?}");
        let (was, is) = (&since, ready_since(bed)?);
        ensure!(*was == is, "the node was ready since {was}, now since {is}");
        Ok(())
    };
    answers_for(bed, names.len())?;
    // Longer than it takes to list, to observe and to probe all of them anew.
    throughout("as before", Duration::from_secs(5), same)?;
    let now = bed.containers()?;
    ensure!(now == all, "containers and PodSandboxes before {all:?}, now {now:?}");
    // It is not only alive but in charge.
    for name in &names {
        bed.api.delete(&super::bed::pod_path(name))?;
    }
    names.iter().try_for_each(|name| bed.gone(name))
}

pub(super) fn stopped_agent_leaves_containers_running(bed: &mut Bed) -> anyhow::Result<()> {
    bed.api.create("pods", &pod("outlives", &json!({"containers": [container("main", "exec sleep 1000", &json!({}))]})))?;
    bed.pod_ready("outlives")?;
    let (names, all) = (["outlives".to_owned()], bed.containers()?);
    let before = running(bed, &names)?;
    let code = bed.agent.end(&bed.site.enclosure, "TERM")?;
    ensure!(code == 0, "exit code {code}");
    ensure!(bed.containers()? == all, "containers ended with the agent");
    // What happens meanwhile is seen when it is back.
    bed.api.create("pods", &pod("meanwhile", &json!({"containers": [container("main", "exec sleep 1000", &json!({}))]})))?;
    bed.agent.start_again(&bed.site.enclosure)?;
    bed.pod_ready("meanwhile")?;
    let now = running(bed, &names)?;
    ensure!(now == before, "before {before:?}, now {now:?}");
    bed.delete("outlives")?;
    bed.delete("meanwhile")
}
