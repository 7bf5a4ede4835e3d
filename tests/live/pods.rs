//! What becomes of a pod: it runs, it is read, it goes, and nothing of it stays.

use std::fs;

use anyhow::ensure;
use serde_json::json;

use super::api::{container, pod};
use super::bed::{Bed, SOON};
use super::site::{CGROUP_ROOT, cgroup_directories};
use super::wait::until;

pub(super) fn runs_and_its_log_can_be_read(bed: &mut Bed) -> anyhow::Result<()> {
    let main = container("main", "echo one; echo two >&2; exec sleep 1000", &json!({}));
    bed.api.create("pods", &pod("talks", &json!({"containers": [main]})))?;
    let ready = bed.pod_ready("talks")?;
    let status = &ready["status"];
    ensure!(status["phase"] == "Running" && status["hostIP"] == super::enclosure::NODE_IP, "{status}");
    ensure!(status["podIP"].as_str().is_some_and(|ip| ip.starts_with("10.88.0.")), "{status}");
    let id = status["containerStatuses"][0]["containerID"].as_str().unwrap_or_default();
    ensure!(id.starts_with("containerd://"), "{status}");
    until("its log", SOON, || match bed.log("talks", "") {
        Ok(text) if text.contains("one\n") && text.contains("two\n") => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    let last = bed.log("talks", "?tailLines=1&timestamps=true")?;
    ensure!(last.lines().count() == 1 && last.starts_with("20"), "the last line with its time: {last:?}");
    let (code, text) = bed.api.carried("/api/v1/namespaces/default/pods/talks/log?container=none")?;
    ensure!(code == 400, "{code} {text}");
    bed.delete("talks")
}

pub(super) fn deletion_leaves_nothing(bed: &mut Bed) -> anyhow::Result<()> {
    bed.delete_all_pods()?;
    let main = container("main", "trap 'exit 0' TERM; while :; do sleep 0.1; done", &json!({}));
    let created = bed.api.create("pods", &pod("brief", &json!({"containers": [main]})))?;
    let uid = created["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    bed.pod_ready("brief")?;
    let root = bed.agent.root.clone();
    let places = |bed: &Bed| -> Vec<String> {
        let mut left = bed.containers().unwrap_or_default();
        let directories = [root.join("pods"), "/var/log/pods".into(), "/var/log/containers".into(), "/run/netns".into()];
        for directory in directories {
            let entries = fs::read_dir(bed.site.enclosure.path(&directory)).into_iter().flatten().flatten();
            left.extend(entries.map(|entry| directory.join(entry.file_name()).display().to_string()));
        }
        for class in ["", "burstable", "besteffort"] {
            for directory in cgroup_directories(&format!("{CGROUP_ROOT}/kubepods/{class}")) {
                let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
                let of_pods = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("pod"));
                left.extend(of_pods.map(|entry| entry.path().display().to_string()));
            }
        }
        left
    };
    let there = places(bed);
    for place in ["/kubelet/pods/", "/var/log/pods/", "/var/log/containers/", "/run/netns/cni-", "/besteffort/pod"] {
        ensure!(there.iter().any(|path| path.contains(place)), "nothing at {place} while it ran: {there:?}");
    }
    ensure!(there.iter().any(|path| path.contains(&uid)), "{there:?}");
    bed.delete("brief")?;
    until("nothing left", SOON, || match places(bed) {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    })
}
