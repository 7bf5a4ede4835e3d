//! The node as a real API server sees it.

use std::time::Duration;

use anyhow::ensure;
use serde_json::Value;

use super::{Cluster, SOON};
use crate::live::agent::NODE;
use crate::live::bed::is_ready;
use crate::live::wait::until;

/// How long after its start the agent may take.
const LIMIT: Duration = Duration::from_secs(5);

pub(super) fn is_ready_within_five_seconds(cluster: &mut Cluster) -> anyhow::Result<()> {
    let plane = &cluster.plane;
    let node = until("node Ready", LIMIT.saturating_sub(cluster.started.elapsed()), || match plane.get(&format!("node/{NODE}")) {
        Ok(Some(node)) if is_ready(&node) => Ok(node),
        other => Err(format!("{other:?}")),
    })?;
    println!("the node was Ready {:?} after the start of its agent", cluster.started.elapsed());
    let lease = until("its lease", SOON, || lease(cluster).map_err(|error| error.to_string()))?;
    ensure!(lease["spec"]["holderIdentity"] == NODE, "{lease}");
    ensure!(lease["metadata"]["ownerReferences"][0]["uid"] == node["metadata"]["uid"], "{lease}");
    Ok(())
}

/// The node's lease.
pub(super) fn lease(cluster: &Cluster) -> anyhow::Result<Value> {
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{NODE}");
    Ok(serde_json::from_str(&cluster.plane.raw(&path)?)?)
}

pub(super) fn identity_is_enough(cluster: &mut Cluster) -> anyhow::Result<()> {
    let refused = cluster.plane.refused(&format!("system:node:{NODE}"))?;
    // Nor does it delete twice.
    ensure!(refused.is_empty(), "{refused:#?}");
    ensure!(cluster.agent.runs(&cluster.site.enclosure), "the agent has ended");
    Ok(())
}
