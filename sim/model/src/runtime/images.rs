//! What each image call does to the pretend images.
//! Upstream: k8s.io/cri-api ImageService.
//! Differs: nothing on purpose.

use kubelet::event::CriReply;
use kubelet::failure::{Failure, FailureKind};
use kubelet::observation::{FsUsage, Image};

use super::RuntimeModel;

/// What an image takes on disk when nothing else is said.
const IMAGE_SIZE: u64 = 1_103_076;

impl RuntimeModel {
    /// Puts an image there, as if it had been imported.
    pub fn add_image(&mut self, reference: &str) -> String {
        // Any digest will do as long as it is the reference's own.
        let mut digest = 0xcbf2_9ce4_8422_2325_u64;
        for byte in reference.bytes() {
            digest = (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        let id = format!("sha256:{digest:016x}{digest:016x}{digest:016x}{digest:016x}");
        let image = Image { id: id.clone(), repo_tags: vec![reference.to_owned()], size: IMAGE_SIZE, ..Image::default() };
        self.images.insert(reference.to_owned(), image);
        id
    }

    pub(super) fn find_image(&self, name: &str) -> Option<&Image> {
        self.images.get(name).or_else(|| self.images.values().find(|image| image.id == name))
    }

    pub(super) fn pull(&mut self, image: &str) -> Result<CriReply, Failure> {
        if self.registry_closed && !self.registry.contains_key(image) {
            return Err(Failure::new(
                FailureKind::NotFound,
                format!("failed to pull and unpack image \"{image}\": failed to resolve image: {image}: not found"),
            ));
        }
        Ok(CriReply::Pulled { image_ref: self.add_image(image) })
    }

    pub(super) fn remove_image(&mut self, name: &str) -> CriReply {
        self.images.retain(|reference, image| reference != name && image.id != name);
        CriReply::Done
    }

    pub(super) fn image_fs(&self) -> FsUsage {
        let used = self.images.values().map(|image| image.size).sum();
        FsUsage { mountpoint: "/var/lib/containerd".to_owned(), used, ..FsUsage::default() }
    }
}
