//! The node as the API server sees it.

use std::time::Duration;

use anyhow::ensure;

use super::bed::{Bed, is_ready};
use super::wait::until;

pub(super) fn is_ready_within_five_seconds(bed: &mut Bed) -> anyhow::Result<()> {
    let node = until("node Ready", Duration::from_secs(5), || match bed.node() {
        Ok(Some(node)) if is_ready(&node) => Ok(node),
        other => Err(format!("{other:?}; events {:?}", bed.api.events_about(super::agent::NODE))),
    })?;
    let info = &node["status"]["nodeInfo"];
    ensure!(info["containerRuntimeVersion"].as_str().is_some_and(|v| v.starts_with("containerd://")), "{info}");
    let addresses = node["status"]["addresses"].to_string();
    ensure!(addresses.contains(super::enclosure::NODE_IP), "{addresses}");
    Ok(())
}

pub(super) fn is_never_refused_anything(bed: &mut Bed) -> anyhow::Result<()> {
    let refused = bed.api.refused();
    // Nor does it delete twice.
    ensure!(refused.is_empty(), "{refused:#?}");
    ensure!(bed.agent.runs(&bed.site.enclosure), "the agent has ended");
    Ok(())
}
