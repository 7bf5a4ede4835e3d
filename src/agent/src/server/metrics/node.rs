//! How many pods and containers run, and how full volumes are: told at the moment of the scrape.
//! Upstream: pkg/kubelet/metrics/metrics.go, pkg/kubelet/metrics/collectors/volume_stats.go, pkg/kubelet/pleg/generic.go.
//! Differs: pods are counted when asked, not at each sweep; the health of volumes is not told.

use std::collections::BTreeMap;

use kubelet::observation::ContainerState;
use kubelet::snapshot::Tallies;

use super::text::{Encoder, Kind};
use crate::config::KUBERNETES_VERSION;
use crate::server::Shared;
use crate::server::stats::summary::{FsStats, VolumeStats};

pub(super) async fn encode(shared: &Shared, encoder: &mut Encoder) {
    encoder.family("kubelet_node_name", "[ALPHA] The node's name. The count is always 1.", Kind::Gauge);
    encoder.sample("kubelet_node_name", &[("node", &shared.settings.node_name)], 1.0, None);
    if let Some(tallies) = shared.view.tallies().await {
        encode_tallies(&tallies, encoder);
    }
    encoder.family(
        "kubelet_metrics_provider",
        "[ALPHA] Metrics provider used by kubelet to collect container stats. Values can be 'cadvisor' and 'cri'",
        Kind::Gauge,
    );
    encoder.sample("kubelet_metrics_provider", &[("provider", "cadvisor")], 1.0, None);
    encode_volumes(&shared.stats.claims(), encoder);
    encoder.family(
        "kubernetes_build_info",
        "[BETA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go \
         version, and compiler from which Kubernetes was built, and platform on which it is running.",
        Kind::Gauge,
    );
    let (major, minor) = KUBERNETES_VERSION.trim_start_matches('v').split_once('.').unwrap_or_default();
    let minor = minor.split('.').next().unwrap_or_default();
    let platform = format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" });
    // The version is that of the kubelet that is followed; there is no Go, and what this was built from is told by `--version`.
    let labels = [
        ("build_date", ""),
        ("compiler", "rustc"),
        ("git_commit", ""),
        ("git_tree_state", ""),
        ("git_version", KUBERNETES_VERSION),
        ("go_version", ""),
        ("major", major),
        ("minor", minor),
        ("platform", &platform),
    ];
    encoder.sample("kubernetes_build_info", &labels, 1.0, None);
}

/// At the last listing, or as the core has it now.
fn encode_tallies(tallies: &Tallies, encoder: &mut Encoder) {
    let split = |encoder: &mut Encoder, name: &str, help: &str, (api, fixed): (usize, usize)| {
        encoder.family(name, help, Kind::Gauge);
        encoder.sample(name, &[("static", "")], api as f64, None);
        encoder.sample(name, &[("static", "true")], fixed as f64, None);
    };
    split(encoder, "kubelet_active_pods", ACTIVE, tallies.active);
    encoder.family("kubelet_cgroup_version", "[ALPHA] cgroup version on the hosts.", Kind::Gauge);
    encoder.sample("kubelet_cgroup_version", &[], if tallies.cgroup_v2 { 2.0 } else { 1.0 }, None);
    split(encoder, "kubelet_desired_pods", DESIRED, tallies.desired);
    encoder.family("kubelet_mirror_pods", MIRRORS, Kind::Gauge);
    encoder.sample("kubelet_mirror_pods", &[], tallies.desired.1 as f64, None);
    encoder.family("kubelet_running_containers", "[ALPHA] Number of containers currently running", Kind::Gauge);
    for (state, count) in &tallies.containers {
        let state = match state {
            ContainerState::Created => "created",
            ContainerState::Running => "running",
            ContainerState::Exited => "exited",
            ContainerState::Unknown => "unknown",
        };
        encoder.sample("kubelet_running_containers", &[("container_state", state)], *count as f64, None);
    }
    encoder.family("kubelet_running_pods", "[ALPHA] Number of pods that have a running pod sandbox", Kind::Gauge);
    encoder.sample("kubelet_running_pods", &[], tallies.running_pods as f64, None);
    encoder.family("kubelet_working_pods", WORKING, Kind::Gauge);
    for (config, fixed) in [("desired", ["", "true"].as_slice()), ("orphan", &["", "true"]), ("runtime_only", &["unknown"])] {
        for lifecycle in ["sync", "terminated", "terminating"] {
            for fixed in fixed {
                let count = tallies.working.get(&(config, lifecycle, *fixed)).copied().unwrap_or(0);
                let labels = [("config", config), ("lifecycle", lifecycle), ("static", fixed)];
                encoder.sample("kubelet_working_pods", &labels, count as f64, None);
            }
        }
    }
    if !tallies.volumes.is_empty() {
        encoder.family("volume_manager_total_volumes", "[ALPHA] Number of volumes in Volume Manager", Kind::Gauge);
    }
    for (plugin, (desired, actual)) in &tallies.volumes {
        for (state, count) in [("actual_state_of_world", actual), ("desired_state_of_world", desired)] {
            encoder.sample("volume_manager_total_volumes", &[("plugin_name", plugin), ("state", state)], *count as f64, None);
        }
    }
}

const ACTIVE: &str = "[ALPHA] The number of pods the kubelet considers active and which are being considered when admitting new pods. \
                      static is true if the pod is not from the apiserver.";
const DESIRED: &str =
    "[ALPHA] The number of pods the kubelet is being instructed to run. static is true if the pod is not from the apiserver.";
const MIRRORS: &str = "[ALPHA] The number of mirror pods the kubelet will try to create (one per admitted static pod)";
const WORKING: &str = "[ALPHA] Number of pods the kubelet is actually running, broken down by lifecycle phase, whether the pod is \
                       desired, orphaned, or runtime only (also orphaned), and whether the pod is static. An orphaned pod has been \
                       removed from local configuration or force deleted in the API and consumes resources that are not otherwise \
                       visible.";

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
