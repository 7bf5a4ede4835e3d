//! Decides the files of a projected volume: its sources in order, the later one wins, and one that fails fails it whole.
//! Upstream: pkg/volume/projected/projected.go.
//! Differs: trust bundles and pod certificates are refused by name; both are off by default upstream.

use k8s_openapi::api::core::v1::{Pod, ProjectedVolumeSource, ServiceAccountTokenProjection, Volume, VolumeProjection};

use super::emptydir::memory_limit;
use super::manager::Whose;
use super::payload::{self, Files, Wanted};
use super::{Plugin, Trouble, VolumeInputs, configmap, downward, secret};
use crate::action::{ProjectedFile, VolumeSetup};
use crate::ids::PodUid;
use crate::limits::{EACH, Room};
use crate::out::Out;
use crate::sensitive::Sensitive;
use crate::time::Now;
use crate::tokens::{TokenKey, TokenState};

/// VTY-008, VTY-010
pub(super) fn setup(
    now: Now,
    whose: Whose<'_>,
    volume: &Volume,
    inputs: &mut VolumeInputs<'_>,
    room: &mut Room,
    out: &mut Out<'_>,
) -> Result<VolumeSetup, Trouble> {
    let default = ProjectedVolumeSource::default();
    let projected = volume.projected.as_ref().unwrap_or(&default);
    let (mut files, mut errors, mut pending) = (Files::new(), Vec::new(), false);
    for source in projected.sources.iter().flatten() {
        // All are asked, so that all are on their way at once.
        match source_files(now, whose, (source, projected.default_mode), inputs, room, out) {
            Ok(more) => files.extend(more),
            Err(Trouble::Pending) => pending = true,
            Err(Trouble::Failed(error)) => errors.push(error),
        }
    }
    if pending {
        return Err(Trouble::Pending);
    }
    match payload::aggregate(errors) {
        Some(error) => Err(Trouble::Failed(error)),
        None => payload::setup(whose.layout, whose.pod, volume, Plugin::Projected, memory_limit(inputs), files),
    }
}

fn source_files(
    now: Now,
    whose: Whose<'_>,
    (source, default_mode): (&VolumeProjection, Option<i32>),
    inputs: &mut VolumeInputs<'_>,
    room: &mut Room,
    out: &mut Out<'_>,
) -> Result<Files, Trouble> {
    let namespace = whose.namespace();
    if let Some(source) = &source.secret {
        let optional = source.optional == Some(true);
        let wanted = Wanted { namespace, name: &source.name, items: source.items.as_deref(), default_mode, optional };
        secret::files(&wanted, inputs.objects, room)
    } else if let Some(source) = &source.config_map {
        let optional = source.optional == Some(true);
        let wanted = Wanted { namespace, name: &source.name, items: source.items.as_deref(), default_mode, optional };
        configmap::files(&wanted, inputs.objects, room)
    } else if let Some(source) = &source.downward_api {
        let items = source.items.as_deref().unwrap_or_default();
        downward::files(whose.pod, items, default_mode, inputs.node_allocatable, room)
    } else if let Some(source) = &source.service_account_token {
        token(now, whose, (source, default_mode), inputs, room, out)
    } else if source.cluster_trust_bundle.is_some() {
        Err(Trouble::Failed("clusterTrustBundle projections are not supported".to_owned()))
    } else if source.pod_certificate.is_some() {
        Err(Trouble::Failed("podCertificate projections are not supported".to_owned()))
    } else {
        Ok(Files::new())
    }
}

/// TOK-001, VTY-011
fn token(
    now: Now,
    whose: Whose<'_>,
    (source, default_mode): (&ServiceAccountTokenProjection, Option<i32>),
    inputs: &mut VolumeInputs<'_>,
    room: &mut Room,
    out: &mut Out<'_>,
) -> Result<Files, Trouble> {
    let pod = whose.pod;
    let token = match inputs.tokens.get(now, &token_key(pod, whose.uid, source), out) {
        TokenState::Ready(token) => token,
        TokenState::Pending => return Err(Trouble::Pending),
        TokenState::Failed(message) => return Err(Trouble::Failed(message)),
    };
    room.take(source.path.len() + token.reveal().len() + EACH).map_err(Trouble::Failed)?;
    let owner = whose.layout.fs_user;
    // With fsGroup the ownership pass widens 0600 to 0640.
    let private = owner.is_some() || payload::fs_group(pod).is_some();
    let mode = if private { 0o600 } else { payload::default_mode(default_mode)? };
    let data = Sensitive::new(token.into_inner().into_bytes());
    let file = ProjectedFile { data, owner, ..payload::file(&[], mode) };
    Ok([(source.path.clone(), file)].into())
}

/// TOK-002
pub(super) fn token_key(pod: &Pod, uid: &PodUid, source: &ServiceAccountTokenProjection) -> TokenKey {
    TokenKey {
        pod: uid.clone(),
        pod_name: pod.metadata.name.clone().unwrap_or_default(),
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        service_account: pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone()).unwrap_or_default(),
        audience: source.audience.clone().unwrap_or_default(),
        expiration_seconds: source.expiration_seconds,
    }
}
