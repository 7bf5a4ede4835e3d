//! Decides the files of a configMap volume, or of a ConfigMap in a projected volume.
//! Upstream: pkg/volume/configmap/configmap.go.
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

const MISSING: &str = "configmap references non-existent config key";

/// VTY-007
pub(super) fn setup(whose: Whose<'_>, volume: &Volume, inputs: &VolumeInputs<'_>, room: &mut Room) -> Result<VolumeSetup, Trouble> {
    let source = volume.config_map.clone().unwrap_or_default();
    let wanted = Wanted {
        namespace: whose.namespace(),
        name: &source.name,
        items: source.items.as_deref(),
        default_mode: source.default_mode,
        optional: source.optional == Some(true),
    };
    payload::setup(whose.layout, whose.pod, volume, Plugin::ConfigMap, memory_limit(inputs), files(&wanted, inputs.objects, room)?)
}

/// VTY-009
pub(super) fn files(wanted: &Wanted<'_>, objects: &ObjectCache, room: &mut Room) -> Result<Files, Trouble> {
    let found = objects.lookup_config_map(wanted.namespace, wanted.name);
    let config_map = payload::object(found, "configmap", wanted)?;
    let mut data: BTreeMap<&str, &[u8]> = BTreeMap::new();
    if let Some(config_map) = &config_map {
        data.extend(config_map.binary_data.iter().flatten().map(|(key, bytes)| (key.as_str(), bytes.0.as_slice())));
        data.extend(config_map.data.iter().flatten().map(|(key, text)| (key.as_str(), text.as_bytes())));
    }
    payload::project(&data, wanted, MISSING, room)
}
