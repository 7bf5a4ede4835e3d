//! Decides the files of a secret volume, or of a secret in a projected volume.
//! Upstream: pkg/volume/secret/secret.go.
//! Differs: nothing on purpose.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Volume;

use super::emptydir::memory_limit;
use super::manager::Whose;
use super::payload::{self, Files, Wanted};
use super::{Plugin, Trouble, VolumeInputs};
use crate::action::VolumeSetup;
use crate::cache::ObjectCache;
use crate::limits::Room;

const MISSING: &str = "references non-existent secret key";

/// VTY-008
pub(super) fn setup(whose: Whose<'_>, volume: &Volume, inputs: &VolumeInputs<'_>, room: &mut Room) -> Result<VolumeSetup, Trouble> {
    let source = volume.secret.clone().unwrap_or_default();
    let wanted = Wanted {
        namespace: whose.namespace(),
        name: source.secret_name.as_deref().unwrap_or_default(),
        items: source.items.as_deref(),
        default_mode: source.default_mode,
        optional: source.optional == Some(true),
    };
    payload::setup(whose.layout, whose.pod, volume, Plugin::Secret, memory_limit(inputs), files(&wanted, inputs.objects, room)?)
}

/// VTY-009
pub(super) fn files(wanted: &Wanted<'_>, objects: &ObjectCache, room: &mut Room) -> Result<Files, Trouble> {
    let found = objects.lookup_secret(wanted.namespace, wanted.name);
    let secret = payload::object(found, "secret", wanted)?;
    let data = secret.as_ref().and_then(|secret| secret.reveal().data.as_ref());
    let data: BTreeMap<&str, &[u8]> = data.into_iter().flatten().map(|(key, bytes)| (key.as_str(), bytes.0.as_slice())).collect();
    payload::project(&data, wanted, MISSING, room)
}
