//! What volumes hold, measured in the background: a slow disk or a hung mount keeps no request waiting.
//! Upstream: pkg/kubelet/server/stats/{fs_resource_analyzer,volume_stat_calculator}.go.
//! Differs: rounds of all pods, a few side by side, instead of a timer for each; a pod whose volumes take too long is gone on with in the
//! next round.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Pod, Volume};
use kubelet::action::HostCall;
use kubelet::event::{HostReply, VolumeDirectory};
use kubelet::ids::PodUid;
use tokio::time::Instant;

use super::summary::{FsStats, PvcReference, Time, VolumeStats};
use crate::env::{Clock, Host};
use crate::server::NodeView;

/// How long one volume may take before it is left out of a round.
const ONE_VOLUME: Duration = Duration::from_secs(30);

/// How long the volumes of one pod may take before those that are left wait for the next round.
const ONE_POD: Duration = Duration::from_secs(30);
/// How many pods are measured at once.
const AT_ONCE: usize = 8;

/// What was last measured, by pod.
#[derive(Debug, Default)]
pub(super) struct Volumes(Mutex<BTreeMap<PodUid, OfPod>>);

/// What was last measured of one pod.
#[derive(Clone, Debug, Default)]
struct OfPod {
    /// By the place of the volume in the spec.
    volumes: BTreeMap<usize, Measured>,
    /// The place of the volume that the next round begins with.
    next: usize,
}

/// A volume, and whether its bytes count as the pod's ephemeral storage (API-127).
#[derive(Clone, Debug)]
pub(super) struct Measured {
    pub(super) stats: VolumeStats,
    pub(super) ephemeral: bool,
}

impl Volumes {
    /// What was last measured of a pod's volumes; nothing if that was not yet done.
    pub(super) fn of(&self, pod: &PodUid) -> Vec<Measured> {
        self.lock().get(pod).map(|of| of.volumes.values().cloned().collect()).unwrap_or_default()
    }

    /// All that was last measured.
    pub(super) fn all(&self) -> Vec<VolumeStats> {
        self.lock().values().flat_map(|of| of.volumes.values()).map(|measured| measured.stats.clone()).collect()
    }

    /// Measures the volumes of all pods; those of each are told as soon as they are measured (API-128).
    pub(super) async fn measure(&self, world: (&dyn Host, &dyn Clock, &dyn NodeView), root_dir: &str, pods: &[Arc<Pod>]) {
        let each: Vec<_> = pods.iter().map(|pod| self.measure_pod(world, root_dir, pod)).collect();
        futures::stream::iter(each).buffer_unordered(AT_ONCE).collect::<()>().await;
        let known: BTreeSet<PodUid> = pods.iter().map(|pod| crate::server::lookup::uid(pod)).collect();
        self.lock().retain(|pod, _| known.contains(pod));
    }

    async fn measure_pod(&self, (host, clock, view): (&dyn Host, &dyn Clock, &dyn NodeView), root_dir: &str, pod: &Pod) {
        let uid = crate::server::lookup::uid(pod);
        let names = view.volume_directories(uid.clone()).await;
        let before = self.lock().get(&uid).cloned().unwrap_or_default();
        let of_pod = of_pod((host, clock), root_dir, (&uid, pod), &names, before).await;
        self.lock().insert(uid, of_pod);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PodUid, OfPod>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Measures one after another, from where the round before ended, until the pod's time is over; of the others stands what was known before.
async fn of_pod(
    world: (&dyn Host, &dyn Clock),
    root_dir: &str,
    (uid, pod): (&PodUid, &Pod),
    names: &BTreeMap<String, String>,
    before: OfPod,
) -> OfPod {
    let until = Instant::now() + ONE_POD;
    let listed = tokio::time::timeout(ONE_VOLUME, world.0.call(HostCall::ListVolumes { pod: uid.clone() })).await;
    let Ok(Ok(HostReply::Volumes(directories))) = listed else { return OfPod::default() };
    let below = format!("{root_dir}/pods/{uid}/volumes");
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let OfPod { volumes: mut measured, next: first } = before;
    // A manifest of the same UID may have fewer.
    measured.retain(|at, _| *at < volumes.len());
    let first = first.min(volumes.len());
    for at in (first..volumes.len()).chain(0..first) {
        if Instant::now() >= until {
            return OfPod { volumes: measured, next: at };
        }
        let volume = &volumes[at];
        // A claim's directory is called as the volume that it is bound to.
        let name = names.get(&volume.name).unwrap_or(&volume.name);
        let directory = directories.iter().find(|directory| directory.volume == *name);
        let found = async { of_volume(world, &below, directory?, (pod, volume)).await };
        match tokio::time::timeout(ONE_VOLUME, found).await {
            Ok(Some(found)) => measured.insert(at, found),
            _ => measured.remove(&at),
        };
    }
    OfPod { volumes: measured, next: 0 }
}

async fn of_volume(
    (host, clock): (&dyn Host, &dyn Clock),
    below: &str,
    directory: &VolumeDirectory,
    (pod, volume): (&Pod, &Volume),
) -> Option<Measured> {
    let mut path = format!("{below}/{}/{}", directory.plugin, directory.volume);
    if directory.plugin == "kubernetes.io~csi" {
        path.push_str("/mount");
    }
    let pvc_ref = claim(pod, volume);
    let fs = usage(host, clock, path, pvc_ref.is_some()).await?;
    Some(Measured { stats: VolumeStats { fs, name: volume.name.clone(), pvc_ref }, ephemeral: is_ephemeral(volume) })
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
