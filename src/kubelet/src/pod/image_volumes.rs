//! Decides whether the images that a container mounts as volumes are there, and what it is told of them.
//! Upstream: pkg/kubelet/kuberuntime/kuberuntime_manager.go (getImageVolumes, toKubeContainerImageVolumes).
//! Differs: only images that a container which is due mounts are fetched, not those of all volumes.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Secret, Volume};
use proto::cri::ImageSpec;

use super::report::set_error;
use super::stop::field_path_of;
use super::worker::PodWorker;
use crate::images::{ImageNeed, ImageState};
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

/// Sees to it that the images which a container mounts are there.
pub fn image_volumes(
    worker: &mut PodWorker,
    parts: &mut Parts,
    now: Now,
    container: &Container,
    secrets: &[Sensitive<Arc<Secret>>],
    out: &mut Out<'_>,
) -> ImageVolumes {
    let pod = Arc::clone(&worker.pod);
    let volumes: &[Volume] = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let is_mounted = |volume: &&Volume| container.volume_mounts.iter().flatten().any(|mount| mount.name == volume.name);
    let (mut ready, mut on_their_way, mut failed) = (BTreeMap::new(), false, None);
    for volume in volumes.iter().filter(is_mounted) {
        let Some(source) = &volume.image else { continue };
        let reference = source.reference.clone().unwrap_or_default();
        let need = ImageNeed {
            pod: &pod,
            uid: &worker.uid,
            name: &format!("volume {}", volume.name),
            field_path: "",
            image: &reference,
            policy: source.pull_policy.as_deref().unwrap_or("IfNotPresent"),
            secrets,
            sandbox_config: None,
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
