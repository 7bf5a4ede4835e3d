//! Decides whether the images that a container mounts as volumes are there, and what it is told of them.
//! Upstream: pkg/kubelet/kuberuntime/kuberuntime_manager.go (getImageVolumes, toKubeContainerImageVolumes).
//! Differs: only images that a container which is due mounts are fetched, not those of all volumes.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, ImageVolumeSource, Pod, Secret, Volume};
use proto::cri::{ImageSpec, PodSandboxConfig};

use super::report::set_error;
use super::stop::field_path_of;
use super::worker::PodWorker;
use crate::ids::PodUid;
use crate::images::{ImageManager, ImageNeed, ImageState};
use crate::out::Out;
use crate::parts::Parts;
use crate::recorder::{Recorded, Subject};
use crate::sensitive::Sensitive;
use crate::time::Now;

/// Where a container's image volumes stand.
#[derive(Debug)]
pub enum ImageVolumes {
    /// They are there: what the runtime is to mount, by the volumes' names (POD-209).
    Ready(BTreeMap<String, ImageSpec>),
    /// Some are on their way.
    OnTheirWay,
    /// One is not to be had; the container waits with the reason.
    Failed,
}

/// The pod's volumes that are images and that the container mounts.
fn mounted<'a>(pod: &'a Pod, container: &Container) -> impl Iterator<Item = (&'a Volume, &'a ImageVolumeSource)> {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let is_mounted = |volume: &&Volume| container.volume_mounts.iter().flatten().any(|mount| mount.name == volume.name);
    volumes.iter().filter(is_mounted).filter_map(|volume| Some((volume, volume.image.as_ref()?)))
}

/// What the image manager knows a volume's image by.
fn name_of(volume: &Volume) -> String {
    format!("volume {}", volume.name)
}

/// Whether asking for the images that the container mounts looks for one of them anew.
#[must_use]
pub fn looks_anew(images: &ImageManager, uid: &PodUid, pod: &Pod, container: &Container) -> bool {
    let begins = |(volume, source): (&Volume, &ImageVolumeSource)| {
        images.begins(uid, &name_of(volume), source.reference.as_deref().unwrap_or_default())
    };
    mounted(pod, container).any(begins)
}

/// Sees to it that the images which a container mounts are there. `sandbox_config` goes with the pulls that begin.
pub fn image_volumes(
    worker: &mut PodWorker,
    parts: &mut Parts,
    now: Now,
    container: &Container,
    secrets: &[Sensitive<Arc<Secret>>],
    sandbox_config: Option<&Arc<PodSandboxConfig>>,
    out: &mut Out<'_>,
) -> ImageVolumes {
    let pod = Arc::clone(&worker.pod);
    let (mut ready, mut on_their_way, mut failed) = (BTreeMap::new(), false, None);
    for (volume, source) in mounted(&pod, container) {
        let reference = source.reference.clone().unwrap_or_default();
        let need = ImageNeed {
            pod: &pod,
            uid: &worker.uid,
            name: &name_of(volume),
            field_path: "",
            image: &reference,
            policy: source.pull_policy.as_deref().unwrap_or("IfNotPresent"),
            secrets,
            sandbox_config: sandbox_config.cloned(),
        };
        match parts.images.ensure(now, &need, out) {
            ImageState::Pending => on_their_way = true,
            ImageState::Failed { reason, message } => failed = Some((reason, message)),
            ImageState::Ready(image) => {
                let spec = ImageSpec {
                    image: image.image_ref,
                    user_specified_image: reference,
                    annotations: pod.metadata.annotations.clone().unwrap_or_default(),
                    ..ImageSpec::default()
                };
                ready.insert(volume.name.clone(), spec);
            }
        }
    }
    let Some((reason, message)) = failed else {
        return if on_their_way { ImageVolumes::OnTheirWay } else { ImageVolumes::Ready(ready) };
    };
    if worker.start_errors.get(&container.name).is_none_or(|error| error.reason != reason) {
        let subject = Subject::Container(Arc::clone(&pod), field_path_of(&pod, &container.name));
        out.record(Recorded::warning(subject, "Failed", format!("Error: {reason}")));
    }
    set_error(worker, &container.name, &reason, message);
    ImageVolumes::Failed
}
