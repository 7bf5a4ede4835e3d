//! How many pods and containers run, and how full volumes are: told at the moment of the scrape.
//! Upstream: pkg/kubelet/metrics/metrics.go, pkg/kubelet/metrics/collectors/volume_stats.go, pkg/kubelet/pleg/generic.go.
//! Differs: pods and containers are counted when asked, not at each relist; the health of volumes is not told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kubelet::action::CriCall;
use kubelet::event::CriReply;
use kubelet::observation::{ContainerState, SandboxState};

use super::text::{Encoder, Kind};
use crate::config::KUBERNETES_VERSION;
use crate::server::Shared;
use crate::server::stats::summary::{FsStats, VolumeStats};

/// How long a scrape waits for the runtime: it must be over before Prometheus gives it up.
const RUNTIME: Duration = Duration::from_secs(5);

pub(super) async fn encode(shared: &Shared, encoder: &mut Encoder) {
    encoder.family("kubelet_node_name", "[ALPHA] The node's name. The count is always 1.", Kind::Gauge);
    encoder.sample("kubelet_node_name", &[("node", &shared.settings.node_name)], 1.0, None);
    encode_running(shared, encoder).await;
    encode_volumes(&shared.stats.claims(), encoder);
    encoder.family(
        "kubernetes_build_info",
        "[BETA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go \
         version, and compiler from which Kubernetes was built, and platform on which it is running.",
        Kind::Gauge,
    );
    let (major, minor) = KUBERNETES_VERSION.trim_start_matches('v').split_once('.').unwrap_or_default();
    let minor = minor.split('.').next().unwrap_or_default();
    encoder.sample("kubernetes_build_info", &[("git_version", KUBERNETES_VERSION), ("major", major), ("minor", minor)], 1.0, None);
}

async fn encode_running(shared: &Shared, encoder: &mut Encoder) {
    let listed = tokio::time::timeout(RUNTIME, shared.env.runtime.call(CriCall::List)).await;
    let Ok(Ok(CriReply::Listing { listing, .. })) = listed else { return };
    let mut containers: BTreeMap<&str, u64> = BTreeMap::new();
    for container in &listing.containers {
        let state = match container.state {
            ContainerState::Created => "created",
            ContainerState::Running => "running",
            ContainerState::Exited => "exited",
            ContainerState::Unknown => "unknown",
        };
        *containers.entry(state).or_default() += 1;
    }
    encoder.family("kubelet_running_containers", "[ALPHA] Number of containers currently running", Kind::Gauge);
    for (state, count) in containers {
        encoder.sample("kubelet_running_containers", &[("container_state", state)], count as f64, None);
    }
    let up = listing.sandboxes.iter().filter(|one| one.state == SandboxState::Ready);
    // A pod counts once, also while a second sandbox of it is up.
    let pods = up.map(|one| &one.pod).collect::<BTreeSet<_>>().len();
    encoder.family("kubelet_running_pods", "[ALPHA] Number of pods that have a running pod sandbox", Kind::Gauge);
    encoder.sample("kubelet_running_pods", &[], pods as f64, None);
}

type Pick = fn(&FsStats) -> Option<u64>;

/// API-146: one series for each claim, however many pods share it.
fn encode_volumes(volumes: &[VolumeStats], encoder: &mut Encoder) {
    const FAMILIES: [(&str, &str, Pick); 6] = [
        ("kubelet_volume_stats_available_bytes", "[ALPHA] Number of available bytes in the volume", |fs| fs.available_bytes),
        ("kubelet_volume_stats_capacity_bytes", "[ALPHA] Capacity in bytes of the volume", |fs| fs.capacity_bytes),
        ("kubelet_volume_stats_inodes", "[ALPHA] Maximum number of inodes in the volume", |fs| fs.inodes),
        ("kubelet_volume_stats_inodes_free", "[ALPHA] Number of free inodes in the volume", |fs| fs.inodes_free),
        ("kubelet_volume_stats_inodes_used", "[ALPHA] Number of used inodes in the volume", |fs| fs.inodes_used),
        ("kubelet_volume_stats_used_bytes", "[ALPHA] Number of used bytes in the volume", |fs| fs.used_bytes),
    ];
    let mut claims: BTreeMap<(&str, &str), &FsStats> = BTreeMap::new();
    for volume in volumes {
        if let Some(claim) = &volume.pvc_ref {
            claims.entry((&claim.namespace, &claim.name)).or_insert(&volume.fs);
        }
    }
    if claims.is_empty() {
        return;
    }
    for (name, help, pick) in FAMILIES {
        encoder.family(name, help, Kind::Gauge);
        for ((namespace, claim), fs) in &claims {
            if let Some(value) = pick(fs) {
                encoder.sample(name, &[("namespace", namespace), ("persistentvolumeclaim", claim)], value as f64, None);
            }
        }
    }
}
