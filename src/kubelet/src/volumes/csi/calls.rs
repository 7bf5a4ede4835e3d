//! Decides the call that each step of an operation on a CSI volume is, and what of a pod its driver is told.
//! Upstream: pkg/volume/csi/{csi_attacher,csi_mounter}.go (MountDevice, SetUpAt, podServiceAccountTokenAttrs).
//! Differs: nothing on purpose.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::storage::v1::CSIDriver;
use serde_json::{Map, Value, json};

use super::operation::{Operation, Private, Step};
use super::spec::{Paths, VolumeData, attachment_name, fs_group};
use super::volume::{CsiVolume, MountId, Want};
use super::{CsiContext, HOST_TIMEOUT};
use crate::action::{ApiCall, Call, HostCall, Lane};
use crate::csi::CsiCall;
use crate::event::WatchKey;
use crate::out::Out;
use crate::pod::manager::uid_of;
use crate::time::Now;
use crate::tokens::{TokenKey, TokenManager, TokenState};

/// CSI-007
const DRIVER_TIMEOUT: Duration = Duration::from_secs(120);
/// How long the API server may take for one object.
const API_TIMEOUT: Duration = Duration::from_secs(10);
pub(super) const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";

/// The call of a step; `None` if it has to wait for something that is on its way.
pub(super) fn step_call(
    now: Now,
    volume: &CsiVolume,
    step: Step,
    driver: Option<&CSIDriver>,
    context: &mut CsiContext<'_>,
    out: &mut Out<'_>,
) -> Option<(Lane, Duration, Call)> {
    let operation = volume.operation.as_ref()?;
    let paths = Paths::new(context.root_dir, &volume.driver, &volume.handle);
    let endpoint = operation.endpoint.clone();
    let target = |id: &MountId| paths.target(&id.0, &id.1);
    match (step, operation.mount()) {
        (Step::Attachment, _) => {
            api(ApiCall::GetVolumeAttachment { name: attachment_name(&volume.handle, &volume.driver, context.node_name) })
        }
        (Step::Capabilities, _) => csi(CsiCall::Capabilities { endpoint }),
        (Step::UndoStage | Step::RemoveStaged, _) => host(HostCall::RemoveCsiVolume { mount: paths.staging() }),
        (Step::Unstage, _) => csi(CsiCall::Unstage { endpoint, volume: volume.handle.clone(), staging: paths.staging() }),
        (Step::CleanSubPaths, Some((pod, name))) => host(HostCall::CleanSubPaths { pod: pod.clone(), volume: name.clone() }),
        (Step::Unpublish, Some(id)) => csi(CsiCall::Unpublish { endpoint, volume: volume.handle.clone(), target: target(id) }),
        (Step::UndoPublish | Step::RemovePublished, Some(id)) => host(HostCall::RemoveCsiVolume { mount: target(id) }),
        (step, Some(id)) => mount_call(now, volume, operation, (id, step), driver, context, out),
        _ => None,
    }
}

/// The call of a step of a mount.
fn mount_call(
    now: Now,
    volume: &CsiVolume,
    operation: &Operation,
    (id, step): (&MountId, Step),
    driver: Option<&CSIDriver>,
    context: &mut CsiContext<'_>,
    out: &mut Out<'_>,
) -> Option<(Lane, Duration, Call)> {
    let Want::Mounted(pod, spec) = &volume.mounts.get(id)?.want else { return None };
    let paths = Paths::new(context.root_dir, &volume.driver, &volume.handle);
    let (endpoint, target) = (operation.endpoint.clone(), paths.target(&id.0, &id.1));
    match step {
        Step::StageSecret => api(secret(spec.stage_secret.as_ref()?)),
        Step::PublishSecret => api(secret(spec.publish_secret.as_ref()?)),
        Step::PrepareStage => {
            let data = VolumeData::staged(spec).to_text();
            let (directory, data_path) = (paths.staging(), paths.staging_data());
            host(HostCall::PrepareCsiVolume { directory, data_path, data })
        }
        Step::PreparePublish => {
            let data = VolumeData::published(spec, context.node_name).to_text();
            let (directory, data_path) = (paths.directory(&id.0, &id.1), paths.target_data(&id.0, &id.1));
            host(HostCall::PrepareCsiVolume { directory, data_path, data })
        }
        Step::Stage => {
            let request = spec.stage_request(&paths, &operation.publish_context, operation.can, fs_group(pod));
            csi(CsiCall::Stage { endpoint, request: Box::new(request), secrets: operation.stage_secrets.clone() })
        }
        Step::Publish => {
            let Tokens::Ready(tokens) = tokens(now, pod, driver, context.tokens, out) else { return None };
            let request = spec.publish_request((&paths, target), &operation.publish_context, operation.can, pod, driver);
            let in_secrets = driver.and_then(|driver| driver.spec.service_account_token_in_secrets) == Some(true);
            let mut secrets = operation.publish_secrets.reveal().clone();
            let mut private = BTreeMap::new();
            let there = if in_secrets { &mut secrets } else { &mut private };
            there.extend(tokens.map(|tokens| (TOKENS.to_owned(), tokens)));
            let (secrets, private_context) = (Private::new(secrets), Private::new(private));
            csi(CsiCall::Publish { endpoint, request: Box::new(request), secrets, private_context })
        }
        Step::Give => {
            let group = spec.group_to_give(pod, operation.can, driver)?;
            let policy = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
            let policy = policy.and_then(|context| context.fs_group_change_policy.as_deref());
            host(HostCall::GiveToGroup { path: target, group, trust_root: policy == Some("OnRootMismatch") })
        }
        _ => None,
    }
}

fn host(call: HostCall) -> Option<(Lane, Duration, Call)> {
    Some((Lane::Host, HOST_TIMEOUT, Call::Host(call)))
}

fn csi(call: CsiCall) -> Option<(Lane, Duration, Call)> {
    Some((Lane::Csi, DRIVER_TIMEOUT, Call::Csi(call)))
}

fn api(call: ApiCall) -> Option<(Lane, Duration, Call)> {
    Some((Lane::Objects, API_TIMEOUT, Call::Api(call)))
}

fn secret((namespace, name): &(String, String)) -> ApiCall {
    let key = WatchKey::Secret { namespace: namespace.clone(), name: name.clone() };
    ApiCall::GetObject { key, cached: false }
}

/// The tokens of a pod that a driver asks for.
enum Tokens {
    /// As it reads them, if it asks for any.
    Ready(Option<String>),
    /// On their way; the pod is woken.
    Pending,
    /// In upstream's words.
    Failed(String),
}

impl CsiVolume {
    /// Whether what a mount needs of tokens is there; if it is not to be had, that is told.
    pub(super) fn tokens_are_ready(
        &mut self,
        now: Now,
        id: &MountId,
        driver: Option<&CSIDriver>,
        manager: &mut TokenManager,
        out: &mut Out<'_>,
    ) -> bool {
        let Some(Want::Mounted(pod, _)) = self.mounts.get(id).map(|mount| &mount.want) else { return false };
        match tokens(now, pod, driver, manager, out) {
            Tokens::Ready(_) => true,
            Tokens::Pending => false,
            Tokens::Failed(why) => {
                let cause = format!("kubernetes.io/csi: mounter.SetUpAt failed to get service accoount token attributes: {why}");
                self.cannot_begin(now, id, "SetUp", &cause, out);
                false
            }
        }
    }
}

/// CSI-011
fn tokens(now: Now, pod: &Pod, driver: Option<&CSIDriver>, tokens: &mut TokenManager, out: &mut Out<'_>) -> Tokens {
    let requests = driver.and_then(|driver| driver.spec.token_requests.as_deref()).unwrap_or_default();
    let (mut texts, mut waits) = (Map::new(), false);
    let Some(uid) = uid_of(pod) else { return Tokens::Pending };
    for request in requests {
        let key = TokenKey {
            pod: uid.clone(),
            pod_name: pod.metadata.name.clone().unwrap_or_default(),
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            service_account: pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone()).unwrap_or_default(),
            audience: request.audience.clone(),
            expiration_seconds: request.expiration_seconds,
        };
        match tokens.get(now, &key, out) {
            TokenState::Ready(token) => {
                let expires = tokens.expires(&key).map(|at| at.to_string());
                texts.insert(request.audience.clone(), json!({"token": token.reveal(), "expirationTimestamp": expires}));
            }
            TokenState::Pending => waits = true,
            TokenState::Failed(why) => return Tokens::Failed(why),
        }
    }
    if waits {
        return Tokens::Pending;
    }
    Tokens::Ready((!texts.is_empty()).then(|| Value::Object(texts).to_string()))
}
