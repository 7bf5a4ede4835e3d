//! Decides when CSI volumes are attached, staged, published, and all of that undone: for all pods of the node together.
//! Upstream: pkg/kubelet/volumemanager, pkg/volume/csi.
//! Differs: the Node that shows a volume as both in use and attached stands for a read of its own (VOL-016). What earlier lives staged is
//! read from the disk as well as what they published, so a volume that nobody uses any more is unstaged after a crash too. Attaching by
//! the kubelet itself is refused, as upstream's CSI plugin does.

mod calls;
mod known;
mod operation;
pub mod spec;
#[cfg(test)]
mod tests;
mod volume;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};

use self::calls::step_call;
use self::known::Known;
use self::operation::{Kind, Operation, Private, Step};
use self::spec::{CsiSpec, VolumeData};
use self::volume::{CsiVolume, Next, Want};
use crate::action::{ApiCall, Call, HostCall, Lane};
use crate::csi::CsiReply;
use crate::event::{ApiReply, HostReply, Object, WatchKey};
use crate::failure::{Failure, FailureKind};
use crate::ids::{ActionId, PodUid};
use crate::operation_backoff::OperationBackoff;
use crate::out::{Out, Owner};
use crate::plugins::Plugins;
use crate::pod::manager::uid_of;
use crate::recorder::{Recorded, Subject};
use crate::sensitive::Sensitive;
use crate::time::{Mono, Now, earliest};
use crate::tokens::TokenManager;
use crate::work::{Point, caught};

/// How long the host may take; changing the group of a large volume takes long.
const HOST_TIMEOUT: Duration = Duration::from_secs(120);

/// What CSI volumes hang on, besides the pods that want them.
#[derive(Debug)]
pub struct CsiContext<'a> {
    /// The agent's root directory.
    pub root_dir: &'a str,
    /// The node's name.
    pub node_name: &'a str,
    /// The Node as last seen.
    pub node: Option<&'a Node>,
    /// The drivers.
    pub plugins: &'a Plugins,
    /// Service account tokens, for drivers that want them.
    pub tokens: &'a mut TokenManager,
    /// Whether the node's directories are ready.
    pub host_ready: bool,
    /// Whether all pods are known: nothing is taken for unused before.
    pub pods_known: bool,
    /// Whether the attach controller attaches.
    pub controller_attaches: bool,
    /// Whether there is no API server, and hence no word about drivers.
    pub standalone: bool,
}

/// What a step answered.
#[derive(Clone, Debug)]
pub enum StepReply {
    /// The API server.
    Api(ApiReply),
    /// The host.
    Host(HostReply),
    /// The driver.
    Csi(CsiReply),
}

/// Where reading the disk stands.
#[derive(Debug, Default)]
enum Survey {
    #[default]
    Open,
    Asked,
    Done,
}

/// The CSI volumes of the node.
#[derive(Debug, Default)]
pub struct CsiVolumes {
    volumes: Known,
    drivers: BTreeMap<String, Arc<CSIDriver>>,
    drivers_listed: bool,
    watching: bool,
    survey: Survey,
    survey_backoff: OperationBackoff,
    /// Whether all pods were known when the volumes were looked at last.
    pods_known: bool,
    wake_at: Option<Mono>,
    /// What was last told to be in use, and of which revision of the volumes that was.
    in_use: Option<(u64, Arc<[String]>)>,
    /// How many panics were caught.
    pub(crate) panics: u64,
}

impl CsiVolumes {
    /// A pod wants a volume; answers where it is once it is mounted. Level-triggered.
    pub(super) fn want(&mut self, pod: &Arc<Pod>, spec: CsiSpec) -> bool {
        let Some(uid) = uid_of(pod) else { return false };
        let new = || CsiVolume::new(&spec.driver, &spec.handle, spec.inline);
        let volume = self.volumes.of(&spec.unique_name(), Some(&uid), new);
        volume.want(pod, &uid, spec)
    }

    /// Whether it is for one pod only, and another has it or asked for it.
    pub(super) fn is_anothers(&self, uid: &PodUid, spec: &CsiSpec) -> bool {
        spec.is_for_one_pod() && self.volumes.get(&spec.unique_name()).is_some_and(|volume| volume.is_anothers(uid))
    }

    /// A pod that has a volume was synced.
    pub(super) fn synced(&mut self, now: Now, uid: &PodUid, name: &str) {
        let id = (uid.clone(), name.to_owned());
        let drivers = &self.drivers;
        let again = |driver: &str| drivers.get(driver).and_then(|driver| driver.spec.requires_republish) == Some(true);
        let own = self.volumes.of_pod(uid).filter(|(_, volume)| again(&volume.driver));
        for name in own.map(|(name, _)| name.to_owned()).collect::<Vec<_>>() {
            if let Some(volume) = self.volumes.get_mut(&name) {
                volume.synced(now, &id);
            }
        }
    }

    /// A pod wants none of its volumes any more.
    pub(super) fn leave(&mut self, uid: &PodUid) {
        for name in self.volumes.of_pod(uid).map(|(name, _)| name.to_owned()).collect::<Vec<_>>() {
            if let Some(volume) = self.volumes.get_mut(&name) {
                volume.leave(uid);
            }
            self.volumes.left(&name, [uid]);
        }
    }

    /// Whether that volume of that pod is known here.
    pub(super) fn knows(&self, uid: &PodUid, name: &str) -> bool {
        let id = (uid.clone(), name.to_owned());
        self.volumes.of_pod(uid).any(|(_, volume)| volume.mounts.contains_key(&id))
    }

    /// Whether something of that pod is, or may be, mounted.
    pub(super) fn has(&self, uid: &PodUid) -> bool {
        self.volumes.of_pod(uid).any(|(_, volume)| volume.has(uid))
    }

    /// A directory lies on the disk of a pod that is going; false if nothing is known of it but that it is there (VOL-028).
    pub(super) fn adopt(&mut self, uid: &PodUid, name: &str, data: &str) -> bool {
        let Some(data) = VolumeData::parse(data) else { return false };
        let volume = self.volumes.of(&data.unique_name(), Some(uid), || CsiVolume::of(&data));
        volume.found(uid, name).want = Want::Gone;
        true
    }

    /// The volumes that are in use, as the node status has them; `None` while that is not known (VOL-017).
    #[must_use]
    pub fn in_use(&mut self) -> Option<Arc<[String]>> {
        if !matches!(self.survey, Survey::Done) || !(self.drivers_listed || self.volumes.is_empty()) {
            return None;
        }
        let told = self.in_use.take().filter(|(revision, _)| *revision == self.volumes.revision);
        let (_, names) = self.in_use.insert(told.unwrap_or_else(|| {
            let attachable = self.volumes.iter().filter(|(_, volume)| self.attaches(volume)).map(|(name, _)| name.clone());
            (self.volumes.revision, attachable.collect())
        }));
        Some(Arc::clone(names))
    }

    /// CSI-008: without a word about the driver, its volumes are attached.
    fn attaches(&self, volume: &CsiVolume) -> bool {
        let driver = self.drivers.get(&volume.driver);
        !volume.inline && driver.and_then(|driver| driver.spec.attach_required).unwrap_or(true)
    }

    /// All CSIDrivers; what was known of those that cannot be read stands.
    pub fn drivers_listed(&mut self, drivers: impl Iterator<Item = Arc<CSIDriver>>, unreadable: &BTreeSet<String>) {
        self.in_use = None;
        self.drivers.retain(|name, _| unreadable.contains(name));
        self.drivers.extend(drivers.map(|driver| (driver.metadata.name.clone().unwrap_or_default(), driver)));
        self.drivers_listed = true;
    }

    /// A CSIDriver as it is now.
    pub fn driver_applied(&mut self, driver: Arc<CSIDriver>) {
        self.in_use = None;
        self.drivers.insert(driver.metadata.name.clone().unwrap_or_default(), driver);
    }

    /// A CSIDriver went away.
    pub fn driver_deleted(&mut self, driver: &CSIDriver) {
        self.driver_gone(driver.metadata.name.as_deref().unwrap_or_default());
    }

    /// The CSIDriver of that name went away.
    pub fn driver_gone(&mut self, name: &str) {
        self.in_use = None;
        self.drivers.remove(name);
    }

    /// When something that failed is tried again.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        self.wake_at
    }

    /// Brings every volume on, as far as it can be without waiting. Level-triggered: call it after everything that happens.
    pub fn drive(&mut self, now: Now, context: &mut CsiContext<'_>, out: &mut Out<'_>) {
        self.survey(now, context, out);
        if self.volumes.is_empty() {
            self.wake_at = self.survey_backoff.until(now);
            return;
        }
        if !self.watching {
            self.watching = true;
            out.post(Lane::Objects, None, Call::Api(ApiCall::Watch(WatchKey::CsiDrivers)));
        }
        if self.pods_known != context.pods_known {
            self.pods_known = context.pods_known;
            self.volumes.rouse();
        }
        let begins = matches!(self.survey, Survey::Done) && (self.drivers_listed || context.standalone);
        let pods_known = context.pods_known;
        let due = |volume: &CsiVolume| match &volume.operation {
            _ if volume.aside.until(now).is_some() => false,
            Some(operation) => operation.step.is_none(),
            None => volume.lacks_driver || volume.next(now, pods_known) != Next::Nothing,
        };
        let awake = self.volumes.awake(now);
        let names = awake.iter().filter(|name| begins && self.volumes.get(name).is_some_and(due));
        for name in names.cloned().collect::<Vec<_>>() {
            self.bring_on(now, &name, context, out);
        }
        for name in awake {
            if let Some(volume) = self.volumes.get(&name) {
                let again = earliest([volume.retry_at(now), volume.aside.until(now)]);
                let busy = !begins || due(volume);
                self.volumes.looked_at(&name, busy, again);
            }
        }
        debug_assert!(!begins || !self.volumes.asleep().any(due), "a volume has something to do and is not looked at");
        self.wake_at = earliest([self.volumes.next(), self.survey_backoff.until(now)]);
    }

    /// VOL-003: the disk is read once, before anything is done.
    fn survey(&mut self, now: Now, context: &CsiContext<'_>, out: &mut Out<'_>) {
        if matches!(self.survey, Survey::Open) && context.host_ready && self.survey_backoff.until(now).is_none() {
            let call = Call::Host(HostCall::ListCsiVolumes);
            out.issue(Owner::CsiSurvey, Lane::Housekeeping, HOST_TIMEOUT, call);
            self.survey = Survey::Asked;
        }
    }

    /// Whether it is known what earlier lives mounted.
    pub(super) fn is_surveyed(&self) -> bool {
        matches!(self.survey, Survey::Done)
    }

    /// The disk was read (VOL-027), or could not be. Tells whether what waits for it may go on.
    pub fn surveyed(&mut self, now: Now, outcome: Result<HostReply, Failure>) -> bool {
        let Ok(HostReply::CsiVolumes { staged, published }) = outcome else {
            self.survey = Survey::Open;
            self.survey_backoff.failed(now);
            return false;
        };
        self.survey = Survey::Done;
        self.survey_backoff.clear();
        for data in staged.iter().filter_map(|text| VolumeData::parse(text)) {
            let volume = self.volumes.of(&data.unique_name(), None, || CsiVolume::of(&data));
            volume.device.presence = volume::Presence::Uncertain;
            volume.device.found = true;
        }
        for (uid, name, text) in published {
            if let Some(data) = VolumeData::parse(&text) {
                let volume = self.volumes.of(&data.unique_name(), Some(&uid), || CsiVolume::of(&data));
                volume.found(&uid, &name);
            }
        }
        true
    }

    /// Brings one volume on. If that fails, it is left alone for a while, and with it only those who use it.
    fn bring_on(&mut self, now: Now, name: &str, context: &mut CsiContext<'_>, out: &mut Out<'_>) {
        let user = self.a_user_of(name).cloned();
        let done = caught(|| {
            match &user {
                Some(user) => out.works_for(Point::Driver, user),
                None => out.rests(),
            }
            self.begin(now, name, context, out);
            self.go_on(now, name, context, out);
        });
        let Some(volume) = self.volumes.get_mut(name) else { return };
        match done {
            Ok(()) => volume.aside.clear(),
            Err(_) => {
                self.panics += 1;
                volume.aside.failed(now);
                for (pod, id) in volume.users() {
                    let message =
                        format!("MountVolume.SetUp failed for volume \"{}\" : the node agent failed while it worked on it", id.1);
                    out.record(Recorded::warning(Subject::Pod(pod), "FailedMount", message));
                }
            }
        }
    }

    /// A pod that a volume is for.
    #[must_use]
    pub fn a_user_of(&self, name: &str) -> Option<&PodUid> {
        self.volumes.get(name)?.mounts.keys().next().map(|(uid, _)| uid)
    }

    /// Begins what comes next, if it can begin.
    fn begin(&mut self, now: Now, name: &str, context: &mut CsiContext<'_>, out: &mut Out<'_>) {
        let Some(volume) = self.volumes.get(name) else { return };
        let driver = self.drivers.get(&volume.driver).cloned();
        let endpoint = context.plugins.endpoint(&volume.driver).map(str::to_owned);
        let attaches = self.attaches(volume);
        let inline = self.inline_refusal(volume);
        let Some(volume) = self.volumes.get_mut(name) else { return };
        if volume.lacks_driver && endpoint.is_some() {
            volume.driver_is_back();
        }
        let Next::Begin(kind) = volume.next(now, context.pods_known) else { return };
        if let Kind::Mount(id) = &kind {
            if attaches && !context.controller_attaches {
                let cause = "attaching volumes from the kubelet is not supported";
                volume.cannot_begin(now, id, "WaitForAttach", cause, out);
                return;
            }
            if attaches && !is_attached(context.node, name) {
                return;
            }
            if let Some(cause) = inline.or_else(|| volume.conflict(id)) {
                volume.cannot_begin(now, id, "SetUp", &cause, out);
                return;
            }
            if endpoint.is_some() && !volume.tokens_are_ready(now, id, driver.as_deref(), context.tokens, out) {
                return;
            }
        }
        match endpoint {
            Some(endpoint) => volume.begins(kind, endpoint),
            None => no_driver(now, volume, &kind, out),
        }
    }

    /// CSI-012
    fn inline_refusal(&self, volume: &CsiVolume) -> Option<String> {
        let name = &volume.driver;
        let refused = |why: String| format!("kubernetes.io/csi: mounter.SetupAt failed to check volume lifecycle mode: {why}");
        match self.drivers.get(name) {
            _ if !volume.inline => None,
            None => Some(refused(format!("volume mode \"Ephemeral\" not supported by driver {name} (no CSIDriver object)"))),
            Some(driver) => {
                let allows = driver.spec.volume_lifecycle_modes.iter().flatten().any(|mode| mode == "Ephemeral");
                let why = || {
                    format!(
                        "volume mode \"Ephemeral\" not supported by driver {name} (only supports {:?})",
                        driver.spec.volume_lifecycle_modes.as_deref().unwrap_or_default()
                    )
                };
                (!allows).then(|| refused(why()))
            }
        }
    }

    /// Takes the next step of a volume's operation, if it has one that can be taken.
    fn go_on(&mut self, now: Now, name: &str, context: &mut CsiContext<'_>, out: &mut Out<'_>) {
        let Some(volume) = self.volumes.get(name) else { return };
        if volume.operation.as_ref().is_none_or(|operation| operation.step.is_some()) {
            return;
        }
        let driver = self.drivers.get(&volume.driver).map(Arc::as_ref);
        let Some(step) = volume.next_step(self.attaches(volume), driver) else { return };
        let Some((lane, timeout, call)) = step_call(now, volume, step, driver, context, out) else { return };
        let Some(volume) = self.volumes.get_mut(name) else { return };
        volume.step_begins(step);
        let id = out.issue(Owner::Csi(name.to_owned()), lane, timeout, call);
        if let Some(operation) = &mut volume.operation {
            operation.step = Some((step, id));
        }
    }

    /// A step ended. Answers the pods that are to be woken.
    #[must_use]
    pub fn done(
        &mut self,
        now: Now,
        name: &str,
        id: ActionId,
        outcome: Result<StepReply, Failure>,
        out: &mut Out<'_>,
    ) -> BTreeSet<PodUid> {
        let Some(volume) = self.volumes.get_mut(name) else { return BTreeSet::new() };
        let Some(operation) = &mut volume.operation else { return BTreeSet::new() };
        let Some((step, _)) = operation.step.take_if(|(_, action)| *action == id) else { return BTreeSet::new() };
        match gather(operation, step, outcome) {
            Ok(()) => volume.step_succeeded(step),
            Err(failure) => {
                let message = words(volume, step, &failure);
                volume.step_failed(step, &failure, message);
            }
        }
        let Some(volume) = self.volumes.get(name) else { return BTreeSet::new() };
        let driver = self.drivers.get(&volume.driver).map(Arc::as_ref);
        if volume.next_step(self.attaches(volume), driver).is_some() {
            return BTreeSet::new();
        }
        let Some(volume) = self.volumes.get_mut(name) else { return BTreeSet::new() };
        let users: BTreeSet<PodUid> = volume.mounts.keys().map(|(uid, _)| uid.clone()).collect();
        let woken = volume.finish(now, out);
        self.volumes.left(name, &users);
        woken
    }
}

/// VOL-016: the controller has seen that it is in use, and says that it is attached.
fn is_attached(node: Option<&Node>, name: &str) -> bool {
    let Some(status) = node.and_then(|node| node.status.as_ref()) else { return false };
    let in_use = status.volumes_in_use.iter().flatten().any(|used| used == name);
    in_use && status.volumes_attached.iter().flatten().any(|attached| attached.name == name)
}

/// CSI-008: transient, and over as soon as the driver registers.
fn no_driver(now: Now, volume: &mut CsiVolume, kind: &Kind, out: &mut Out<'_>) {
    volume.lacks_driver = true;
    let missing = format!("driver name {} not found in the list of registered CSI drivers", volume.driver);
    match kind {
        Kind::Mount(id) if volume.inline => {
            let cause = format!("kubernetes.io/csi: mounter.SetUpAt failed to get CSI client: {missing}");
            volume.cannot_begin(now, id, "SetUp", &cause, out);
        }
        Kind::Mount(id) => {
            let cause = format!("kubernetes.io/csi: attacher.MountDevice failed to create newCsiDriverClient: {missing}");
            volume.cannot_begin(now, id, "MountDevice", &cause, out);
        }
        Kind::Unmount(id) => {
            if let Some(mount) = volume.mounts.get_mut(id) {
                mount.backoff.failed(now);
            }
        }
        Kind::Unstage => volume.device.backoff.failed(now),
    }
}

/// Keeps what a step answered for the steps after it.
fn gather(operation: &mut Operation, step: Step, outcome: Result<StepReply, Failure>) -> Result<(), Failure> {
    let reply = match (step, outcome) {
        // What the driver or the host does not know is not there; whether something is mounted is seen when it is removed.
        (Step::Unpublish | Step::Unstage, Err(failure)) if failure.is_not_found() => return Ok(()),
        (Step::Unstage, Err(failure)) if failure.kind == FailureKind::Unimplemented => return Ok(()),
        (_, outcome) => outcome?,
    };
    match (step, reply) {
        (Step::Attachment, StepReply::Api(ApiReply::Attachment(found))) => {
            operation.publish_context = attached(&found)?;
        }
        (Step::Capabilities, StepReply::Csi(CsiReply::Capabilities(can))) => operation.can = can,
        (Step::StageSecret, StepReply::Api(ApiReply::Object(Object::Secret(secret)))) => {
            operation.stage_secrets = credentials(&secret);
        }
        (Step::PublishSecret, StepReply::Api(ApiReply::Object(Object::Secret(secret)))) => {
            operation.publish_secrets = credentials(&secret);
        }
        _ => {}
    }
    Ok(())
}

/// CSI-008
fn attached(attachment: &VolumeAttachment) -> Result<BTreeMap<String, String>, Failure> {
    let refused = |why: &str| Err(Failure::new(FailureKind::Other, why));
    let status = attachment.status.clone().unwrap_or_default();
    if attachment.metadata.deletion_timestamp.is_some() {
        return refused("volume attachment is being deleted");
    }
    match status.attach_error {
        _ if status.attached => Ok(status.attachment_metadata.unwrap_or_default()),
        Some(error) => refused(&error.message.unwrap_or_default()),
        None => refused("volume is not attached yet"),
    }
}

fn credentials(secret: &Sensitive<Arc<k8s_openapi::api::core::v1::Secret>>) -> Private {
    let data = secret.reveal().data.iter().flatten();
    Private::new(data.map(|(key, value)| (key.clone(), String::from_utf8_lossy(&value.0).into_owned())).collect())
}

/// A failure in upstream's words.
fn words(volume: &CsiVolume, step: Step, failure: &Failure) -> String {
    let spec = volume.operation.as_ref().and_then(Operation::mount).and_then(|id| match &volume.mounts.get(id)?.want {
        Want::Mounted(_, spec) => Some(spec),
        _ => None,
    });
    let secret = |kind: &str, reference: Option<&(String, String)>| {
        let (namespace, name) = reference.cloned().unwrap_or_default();
        format!("fetching {kind} {namespace}/{name} failed: {failure}")
    };
    match step {
        Step::StageSecret => secret("NodeStageSecretRef", spec.and_then(|spec| spec.stage_secret.as_ref())),
        Step::PublishSecret => secret("NodePublishSecretRef", spec.and_then(|spec| spec.publish_secret.as_ref())),
        Step::Give => format!("applyFSGroup failed for vol {}: {failure}", volume.handle),
        _ => failure.to_string(),
    }
}
