//! Decides whether a volume's sources are what they were, by versions: so that contents are not read at each sync of a pod.
//! Upstream: pkg/volume/util/atomic_writer.go (shouldWritePayload compares contents at each sync).
//! Differs: by the resourceVersions of what it is made from; contents are compared once for each.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use k8s_openapi::api::core::v1::{ConfigMap, Secret, Volume, VolumeProjection};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::emptydir::memory_limit;
use super::manager::Whose;
use super::{Plugin, Trouble, VolumeInputs, projected};
use crate::cache::Lookup;
use crate::out::Out;
use crate::time::Now;
use crate::tokens::TokenState;

/// What tells one state of a volume's sources from another. Asks for what is missing, as making the volume does.
///
/// # Errors
/// Something is still on its way.
pub(super) fn stamp(
    now: Now,
    whose: Whose<'_>,
    volume: &Volume,
    plugin: Plugin,
    inputs: &mut VolumeInputs<'_>,
    out: &mut Out<'_>,
) -> Result<u64, Trouble> {
    let mut stamp = Stamp { hasher: DefaultHasher::new(), pending: false };
    (whose.layout.revision, plugin.name()).hash(&mut stamp.hasher);
    match plugin {
        Plugin::ConfigMap => {
            let name = volume.config_map.as_ref().map(|source| source.name.as_str());
            stamp.config_map(whose, name.unwrap_or_default(), inputs);
        }
        Plugin::Secret => {
            let name = volume.secret.as_ref().and_then(|source| source.secret_name.as_deref());
            stamp.secret(whose, name.unwrap_or_default(), inputs);
            stamp.memory(inputs);
        }
        Plugin::Projected => {
            stamp.memory(inputs);
            for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
                stamp.source(now, whose, source, inputs, out);
            }
        }
        Plugin::DownwardApi => {
            stamp.node(inputs);
            stamp.memory(inputs);
        }
        Plugin::EmptyDir => {
            stamp.node(inputs);
            inputs.pod_memory_limit.hash(&mut stamp.hasher);
        }
        Plugin::HostPath => {
            // Of a claim's volume, which is not in the pod's spec.
            let source = volume.host_path.as_ref();
            source.map(|source| (&source.path, &source.type_)).hash(&mut stamp.hasher);
        }
        Plugin::Image | Plugin::Csi => {}
    }
    if stamp.pending { Err(Trouble::Pending) } else { Ok(stamp.hasher.finish()) }
}

struct Stamp {
    hasher: DefaultHasher,
    pending: bool,
}

impl Stamp {
    fn source(&mut self, now: Now, whose: Whose<'_>, source: &VolumeProjection, inputs: &mut VolumeInputs<'_>, out: &mut Out<'_>) {
        // In the order in which it is made: of several, the first counts.
        if let Some(source) = &source.secret {
            self.secret(whose, &source.name, inputs);
        } else if let Some(source) = &source.config_map {
            self.config_map(whose, &source.name, inputs);
        } else if source.downward_api.is_some() {
            self.node(inputs);
        } else if let Some(source) = &source.service_account_token {
            match inputs.tokens.get(now, &projected::token_key(whose.pod, whose.uid, source), out) {
                TokenState::Ready(token) => (0, token.reveal()).hash(&mut self.hasher),
                TokenState::Pending => self.pending = true,
                TokenState::Failed(message) => (1, message).hash(&mut self.hasher),
            }
        }
    }

    fn config_map(&mut self, whose: Whose<'_>, name: &str, inputs: &VolumeInputs<'_>) {
        let contents = |map: &ConfigMap, hasher: &mut DefaultHasher| {
            map.data.hash(hasher);
            map.binary_data.iter().flatten().for_each(|(key, value)| (key, &value.0).hash(hasher));
        };
        let found = inputs.objects.lookup_config_map(whose.namespace(), name);
        self.object(found, |map| &map.metadata, |map, hasher| contents(map, hasher));
    }

    fn secret(&mut self, whose: Whose<'_>, name: &str, inputs: &VolumeInputs<'_>) {
        let contents = |secret: &Secret, hasher: &mut DefaultHasher| {
            secret.data.iter().flatten().for_each(|(key, value)| (key, &value.0).hash(hasher));
        };
        let found = inputs.objects.lookup_secret(whose.namespace(), name);
        self.object(found, |secret| &secret.reveal().metadata, |secret, hasher| contents(secret.reveal(), hasher));
    }

    /// An object by its version; one without is read.
    fn object<T>(&mut self, found: Lookup<T>, metadata: impl Fn(&T) -> &ObjectMeta, contents: impl Fn(&T, &mut DefaultHasher)) {
        match found {
            Lookup::Found(object) => match metadata(&object) {
                ObjectMeta { uid, resource_version: Some(version), .. } => (0, uid, version).hash(&mut self.hasher),
                _ => {
                    1.hash(&mut self.hasher);
                    contents(&object, &mut self.hasher);
                }
            },
            Lookup::NotFound => 2.hash(&mut self.hasher),
            Lookup::NotRegistered => 3.hash(&mut self.hasher),
            Lookup::Failed(message) => (4, message).hash(&mut self.hasher),
            Lookup::Pending => self.pending = true,
        }
    }

    /// How large a volume in memory may grow.
    fn memory(&mut self, inputs: &VolumeInputs<'_>) {
        memory_limit(inputs).hash(&mut self.hasher);
    }

    fn node(&mut self, inputs: &VolumeInputs<'_>) {
        inputs.node_allocatable.iter().for_each(|(name, quantity)| (name, &quantity.0).hash(&mut self.hasher));
    }
}
