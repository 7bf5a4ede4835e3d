//! A claim's volume in a real cluster: what the node may read of it, and what the attach-detach controller makes of what the agent says.

use anyhow::ensure;
use serde_json::{Value, json};

use super::{Cluster, SOON};
use crate::live::agent::NODE;
use crate::live::csi::{DRIVER, Driver, furniture, writer};
use crate::live::wait::until;

pub(super) fn attached_mounted_and_given_back(cluster: &mut Cluster) -> anyhow::Result<()> {
    let plane = &cluster.plane;
    let driver = Driver::start(&cluster.agent.root, cluster.site.enclosure.mounts())?;
    until("the driver in the CSINode", SOON, || match plane.get(&format!("csinode/{NODE}")) {
        Ok(Some(node)) if node["spec"]["drivers"][0]["name"] == DRIVER => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    plane.create(&furniture())?;
    bind(cluster)?;
    for name in ["first", "second"] {
        plane.create(&[writer(name)])?;
    }
    attach(cluster)?;
    for name in ["first", "second"] {
        cluster.pod_ready(name)?;
    }
    let text = plane.kubectl(&["exec", "first", "--", "sort", "/data/lines"], "")?;
    ensure!(text == "first\nsecond\n", "{text}");
    let node = plane.get(&format!("node/{NODE}"))?.unwrap_or_default();
    ensure!(node["status"]["volumesInUse"][0] == format!("kubernetes.io/csi/{DRIVER}^vol-data"), "{}", node["status"]);
    plane.kubectl(&["delete", "pod", "first", "--timeout=60s"], "")?;
    ensure!(!driver.calls().contains(&"unstage"), "unstaged under the second pod: {:?}", driver.calls());
    plane.kubectl(&["delete", "pod", "second", "--timeout=60s"], "")?;
    until("nothing staged or published", SOON, || {
        let left = driver.with(|state| (state.staged.clone(), state.published.clone()));
        if left.0.is_empty() && left.1.is_empty() { Ok(()) } else { Err(left) }
    })?;
    until("no volume in use", SOON, || match plane.get(&format!("node/{NODE}")) {
        Ok(Some(node)) if node["status"]["volumesInUse"].as_array().is_none_or(Vec::is_empty) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    // The controller lets go only of what no node says that it uses.
    if plane.controlled {
        until("no attachment", SOON, || match attachment(cluster) {
            Ok(None) => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
    } else {
        plane.kubectl(&["delete", "volumeattachments", "--all"], "")?;
    }
    plane.kubectl(&["delete", "pvc/data", "pv/pv-data", &format!("csidriver/{DRIVER}"), "--timeout=60s"], "").map(drop)
}

/// The claim bound, as a controller does it.
fn bind(cluster: &Cluster) -> anyhow::Result<()> {
    let plane = &cluster.plane;
    if !plane.controlled {
        let bound = json!({"status": {"phase": "Bound"}}).to_string();
        plane.kubectl(&["patch", "pvc", "data", "--subresource=status", "--type=merge", "--patch", &bound], "")?;
    }
    until("the claim bound", SOON, || match plane.get("pvc/data") {
        Ok(Some(claim)) if claim["status"]["phase"] == "Bound" => Ok(()),
        other => Err(format!("{other:?}")),
    })
}

/// The volume attached: there is no attacher, so this says that it has done its work.
fn attach(cluster: &Cluster) -> anyhow::Result<()> {
    let plane = &cluster.plane;
    if !plane.controlled {
        plane.create(&[json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment",
            "metadata": {"name": kubelet::volumes::csi::spec::attachment_name("vol-data", DRIVER, NODE)},
            "spec": {"attacher": DRIVER, "nodeName": NODE, "source": {"persistentVolumeName": "pv-data"}}})])?;
    }
    let wanted = until("an attachment", SOON, || match attachment(cluster) {
        Ok(Some(attachment)) => Ok(attachment),
        other => Err(format!("{other:?}")),
    })?;
    let name = format!("volumeattachment/{}", wanted["metadata"]["name"].as_str().unwrap_or_default());
    let attached = json!({"status": {"attached": true}}).to_string();
    plane.kubectl(&["patch", &name, "--subresource=status", "--type=merge", "--patch", &attached], "").map(drop)
}

fn attachment(cluster: &Cluster) -> anyhow::Result<Option<Value>> {
    let all: Value = serde_json::from_str(&cluster.plane.kubectl(&["get", "volumeattachments", "--output=json"], "")?)?;
    Ok(all["items"].as_array().into_iter().flatten().next().cloned())
}
