//! What each image call does to the pretend images.
//! Upstream: k8s.io/cri-api ImageService.
//! Differs: nothing on purpose.

use kubelet::event::CriReply;
use kubelet::failure::{Failure, FailureKind};
use kubelet::observation::{FsUsage, Image};
use proto::cri::AuthConfig;

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

    /// The login that a private image needs, by the image's ID or name.
    #[must_use]
    pub fn login_of(&self, image: &str) -> Option<(&str, &(String, String))> {
        let names = self.find_image(image).map_or_else(|| vec![image.to_owned()], |found| found.repo_tags.clone());
        self.private.iter().find(|(name, _)| names.contains(name)).map(|(name, login)| (name.as_str(), login))
    }

    pub(super) fn pull(&mut self, image: &str, auth: Option<&AuthConfig>) -> Result<CriReply, Failure> {
        if let Some(refusal) = self.refused.get(image)
            && !(refusal.without_credentials && auth.is_some())
        {
            return Err(refusal.failure.clone());
        }
        if let Some((user, password)) = self.private.get(image) {
            // As containerd says it (golden 158 and 161).
            let why = match auth {
                None => {
                    "pull access denied, repository does not exist or may require authorization: authorization failed: no basic auth credentials"
                }
                Some(auth) if (&auth.username, &auth.password) != (user, password) => {
                    "unexpected status from HEAD request: 401 Unauthorized"
                }
                Some(_) => "",
            };
            if !why.is_empty() {
                let message = format!("failed to pull and unpack image \"{image}\": failed to resolve image: {why}");
                return Err(Failure::new(FailureKind::Other, message));
            }
        }
        if self.registry_closed && !self.registry.contains_key(image) {
            return Err(Failure::new(
                FailureKind::NotFound,
                format!("failed to pull and unpack image \"{image}\": failed to resolve image: {image}: not found"),
            ));
        }
        let id = self.add_image(image);
        let name = image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or(image, |(name, _)| name);
        if let Some(pulled) = self.images.get_mut(image) {
            pulled.repo_digests = vec![format!("{name}@{id}")];
        }
        Ok(CriReply::Pulled { image_ref: id })
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
