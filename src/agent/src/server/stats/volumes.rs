//! What volumes hold, measured in the background: a slow disk or a hung mount keeps no request waiting.
//! Upstream: pkg/kubelet/server/stats/{fs_resource_analyzer,volume_stat_calculator}.go.
//! Differs: one round for all pods instead of a timer for each.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Volume};
use kubelet::action::HostCall;
use kubelet::event::HostReply;
use kubelet::ids::PodUid;

use super::summary::{FsStats, PvcReference, Time, VolumeStats};
use crate::env::{Clock, Host};
use crate::server::NodeView;

/// How long one volume may take before it is left out of a round.
const ONE_VOLUME: Duration = Duration::from_secs(30);

/// The last round, by pod.
#[derive(Debug, Default)]
pub(super) struct Volumes(Mutex<BTreeMap<PodUid, Vec<Measured>>>);

/// A volume, and whether its bytes count as the pod's ephemeral storage (API-127).
#[derive(Clone, Debug)]
pub(super) struct Measured {
    pub(super) stats: VolumeStats,
    pub(super) ephemeral: bool,
}

impl Volumes {
    /// What was last measured of a pod's volumes; nothing if that was not yet done.
    pub(super) fn of(&self, pod: &PodUid) -> Vec<Measured> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(pod).cloned().unwrap_or_default()
    }

    /// All that was last measured.
    pub(super) fn all(&self) -> Vec<VolumeStats> {
        let round = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        round.values().flatten().map(|measured| measured.stats.clone()).collect()
    }

    /// Measures the volumes of all pods, one after another (API-128).
    pub(super) async fn measure(
        &self,
        (host, clock, view): (&dyn Host, &dyn Clock, &dyn NodeView),
        root_dir: &str,
        pods: &[Arc<Pod>],
    ) {
        let mut round = BTreeMap::new();
        for pod in pods {
            let uid = crate::server::lookup::uid(pod);
            let names = view.volume_directories(uid.clone()).await;
            let measured = measure_pod((host, clock), root_dir, (&uid, pod), &names).await;
            round.insert(uid, measured);
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = round;
    }
}

async fn measure_pod(
    (host, clock): (&dyn Host, &dyn Clock),
    root_dir: &str,
    (uid, pod): (&PodUid, &Pod),
    names: &BTreeMap<String, String>,
) -> Vec<Measured> {
    let listed = tokio::time::timeout(ONE_VOLUME, host.call(HostCall::ListVolumes { pod: uid.clone() })).await;
    let Ok(Ok(HostReply::Volumes(directories))) = listed else { return Vec::new() };
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let mut measured = Vec::new();
    for volume in volumes {
        // A claim's directory is called as the volume that it is bound to.
        let name = names.get(&volume.name).unwrap_or(&volume.name);
        let Some(directory) = directories.iter().find(|directory| directory.volume == *name) else { continue };
        let mut path = format!("{root_dir}/pods/{uid}/volumes/{}/{}", directory.plugin, directory.volume);
        if directory.plugin == "kubernetes.io~csi" {
            path.push_str("/mount");
        }
        let pvc_ref = claim(pod, volume);
        let Ok(Some(fs)) = tokio::time::timeout(ONE_VOLUME, usage(host, clock, path, pvc_ref.is_some())).await else { continue };
        let stats = VolumeStats { fs, name: volume.name.clone(), pvc_ref };
        measured.push(Measured { stats, ephemeral: is_ephemeral(volume) });
    }
    measured
}

/// A filesystem of its own knows how full it is; what shares one must be counted.
async fn usage(host: &dyn Host, clock: &dyn Clock, path: String, own_filesystem: bool) -> Option<FsStats> {
    let Ok(HostReply::Fs(fs)) = host.call(HostCall::FsUsage { path: path.clone() }).await else { return None };
    let (used, inodes_used) = if own_filesystem { (fs.used, fs.inodes_used) } else { host.tree_usage(path).await.ok()? };
    Some(FsStats {
        time: Time(clock.now()),
        available_bytes: Some(fs.available),
        capacity_bytes: Some(fs.capacity),
        used_bytes: Some(used),
        inodes_free: Some(fs.inodes_free),
        inodes: Some(fs.inodes),
        inodes_used: Some(inodes_used),
    })
}

/// The claim behind a volume, also of one that was made for it.
fn claim(pod: &Pod, volume: &Volume) -> Option<PvcReference> {
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    let name = match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => claim.claim_name.clone(),
        (None, Some(_)) => format!("{pod_name}-{}", volume.name),
        (None, None) => return None,
    };
    Some(PvcReference { name, namespace: pod.metadata.namespace.clone().unwrap_or_default() })
}

/// Whether a volume lies on the node's disk and goes with the pod.
fn is_ephemeral(volume: &Volume) -> bool {
    let on_disk = volume.empty_dir.as_ref().is_some_and(|empty| empty.medium.as_deref().is_none_or(str::is_empty));
    on_disk || volume.config_map.is_some() || volume.git_repo.is_some()
}
