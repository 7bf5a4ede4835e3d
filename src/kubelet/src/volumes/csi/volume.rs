//! Decides what comes next for one CSI volume: staged once for the node, published for each pod, and all of it undone in turn.
//! Upstream: pkg/kubelet/volumemanager/{cache,reconciler}, pkg/volume/util/operationexecutor, pkg/volume/csi.
//! Differs: one operation at a time for each volume, also for its pods' unmounts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::storage::v1::CSIDriver;

use super::operation::{Kind, Operation, Step};
use super::spec::{CsiSpec, VolumeData};
use crate::failure::{Failure, FailureKind};
use crate::ids::PodUid;
use crate::operation_backoff::OperationBackoff;
use crate::out::Out;
use crate::recorder::{Recorded, Subject};
use crate::time::{Mono, Now, earliest};

/// How soon a volume is published again at the earliest: pods are synced whenever something happens to them.
const REPUBLISH_AFTER: Duration = Duration::from_secs(60);

/// One pod's use of a volume, by the pod and the volume's name in its directory.
pub(super) type MountId = (PodUid, String);

/// Whether something is there (VOL-001).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Presence {
    #[default]
    No,
    /// It may be: it was begun, or lay on the disk when the agent started.
    Uncertain,
    Yes,
}

/// What a pod wants of it.
#[derive(Clone, Debug)]
pub(super) enum Want {
    /// Nobody has said yet: it lay on the disk (VOL-027).
    Unknown,
    Mounted(Arc<Pod>, Arc<CsiSpec>),
    Gone,
}

/// One pod's use of a volume.
#[derive(Debug)]
pub(super) struct Mount {
    pub(super) want: Want,
    pub(super) presence: Presence,
    /// Whether it lay on the disk: then a failure must not take it away (VOL-029).
    pub(super) found: bool,
    pub(super) backoff: OperationBackoff,
    /// When it was published last, for drivers that want it done again and again (VOL-024).
    published: Mono,
    /// Whether that is due.
    republish: bool,
}

/// What is staged for the node.
#[derive(Debug, Default)]
pub(super) struct Device {
    pub(super) presence: Presence,
    /// See [`Mount::found`].
    pub(super) found: bool,
    pub(super) backoff: OperationBackoff,
}

/// One volume.
#[derive(Debug)]
pub(super) struct CsiVolume {
    pub(super) driver: String,
    pub(super) handle: String,
    pub(super) inline: bool,
    pub(super) device: Device,
    pub(super) mounts: BTreeMap<MountId, Mount>,
    pub(super) operation: Option<Operation>,
    /// Whether the last try found no driver: it is tried again once there is one.
    pub(super) lacks_driver: bool,
    /// The core failed on it.
    pub(super) aside: OperationBackoff,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Begin(Kind),
    /// Nothing, or not yet.
    Nothing,
}

impl CsiVolume {
    pub(super) fn new(driver: &str, handle: &str, inline: bool) -> Self {
        Self {
            driver: driver.to_owned(),
            handle: handle.to_owned(),
            inline,
            device: Device::default(),
            mounts: BTreeMap::new(),
            operation: None,
            lacks_driver: false,
            aside: OperationBackoff::default(),
        }
    }

    pub(super) fn of(data: &VolumeData) -> Self {
        Self::new(&data.driver_name, &data.volume_handle, data.is_inline())
    }

    /// Whether nothing of it is left.
    pub(super) fn is_over(&self) -> bool {
        self.mounts.is_empty() && self.operation.is_none() && self.device.presence == Presence::No
    }

    /// True if it is mounted for the pod.
    pub(super) fn want(&mut self, pod: &Arc<Pod>, uid: &PodUid, spec: CsiSpec) -> bool {
        let mount = self.mount(uid, &spec.name);
        match &mut mount.want {
            Want::Mounted(known, _) => known.clone_from(pod),
            want => *want = Want::Mounted(Arc::clone(pod), Arc::new(spec)),
        }
        mount.presence == Presence::Yes
    }

    /// It lies on the disk.
    pub(super) fn found(&mut self, uid: &PodUid, name: &str) -> &mut Mount {
        let mount = self.mount(uid, name);
        if mount.presence == Presence::No {
            mount.presence = Presence::Uncertain;
            mount.found = true;
        }
        mount
    }

    fn mount(&mut self, uid: &PodUid, name: &str) -> &mut Mount {
        self.mounts.entry((uid.clone(), name.to_owned())).or_insert_with(|| Mount {
            want: Want::Unknown,
            presence: Presence::No,
            found: false,
            backoff: OperationBackoff::default(),
            published: Mono::ZERO,
            republish: false,
        })
    }

    /// The pod that has it was synced, and its driver wants volumes published again then (VOL-024).
    pub(super) fn synced(&mut self, now: Now, id: &MountId) {
        if let Some(mount) = self.mounts.get_mut(id)
            && mount.presence == Presence::Yes
        {
            mount.republish |= now.mono.since(mount.published) >= REPUBLISH_AFTER;
        }
    }

    /// The pod does not want it any more.
    pub(super) fn leave(&mut self, uid: &PodUid) {
        for (_, mount) in self.mounts.iter_mut().filter(|((pod, _), _)| pod == uid) {
            if !matches!(mount.want, Want::Gone) {
                mount.want = Want::Gone;
                mount.backoff.clear();
            }
        }
        let waits =
            |operation: &mut Operation| operation.step.is_none() && matches!(&operation.kind, Kind::Mount((pod, _)) if pod == uid);
        self.operation.take_if(waits);
        self.clear();
    }

    /// Forgets what pods neither want nor have.
    fn clear(&mut self) {
        let busy = self.operation.as_ref().and_then(Operation::mount).cloned();
        self.mounts
            .retain(|id, mount| mount.presence != Presence::No || !matches!(mount.want, Want::Gone) || busy.as_ref() == Some(id));
    }

    /// Whether it is, may be or is to be mounted for another pod.
    pub(super) fn is_anothers(&self, uid: &PodUid) -> bool {
        let is = |mount: &Mount| mount.presence != Presence::No || matches!(mount.want, Want::Mounted(..));
        self.mounts.iter().any(|((pod, _), mount)| pod != uid && is(mount))
    }

    pub(super) fn has(&self, uid: &PodUid) -> bool {
        self.mounts.keys().any(|(pod, _)| pod == uid)
    }

    /// The driver is there again: what waited for it waits no more.
    pub(super) fn driver_is_back(&mut self) {
        self.lacks_driver = false;
        self.device.backoff.clear();
        self.mounts.values_mut().for_each(|mount| mount.backoff.clear());
    }

    /// What comes next; a mount that may begin still has to wait for its attachment (VOL-014: unmounts first, then mounts, then what
    /// nobody uses any more).
    pub(super) fn next(&self, now: Now, pods_known: bool) -> Next {
        if self.operation.is_some() {
            return Next::Nothing;
        }
        let ready = |mount: &Mount| mount.backoff.until(now).is_none();
        let mut all = self.mounts.iter().filter(|(_, mount)| ready(mount));
        let goes = |mount: &Mount| matches!(mount.want, Want::Gone) && mount.presence != Presence::No;
        if let Some((id, _)) = all.clone().find(|(_, mount)| goes(mount)) {
            return Next::Begin(Kind::Unmount(id.clone()));
        }
        let device_waits = self.device.backoff.until(now).is_some();
        let comes = |mount: &Mount| matches!(mount.want, Want::Mounted(..)) && (mount.presence != Presence::Yes || mount.republish);
        if !(device_waits && self.device.presence != Presence::Yes)
            && let Some((id, _)) = all.find(|(_, mount)| comes(mount))
        {
            return Next::Begin(Kind::Mount(id.clone()));
        }
        if self.mounts.is_empty() && self.device.presence != Presence::No && !device_waits && pods_known {
            return Next::Begin(Kind::Unstage);
        }
        Next::Nothing
    }

    /// Those that want it.
    pub(super) fn users(&self) -> impl Iterator<Item = (Arc<Pod>, &MountId)> {
        self.mounts.iter().filter_map(|(id, mount)| match &mount.want {
            Want::Mounted(pod, _) => Some((Arc::clone(pod), id)),
            _ => None,
        })
    }

    /// When something that failed is tried again.
    pub(super) fn retry_at(&self, now: Now) -> Option<Mono> {
        if self.operation.is_some() {
            return None;
        }
        let mounts = self.mounts.values().filter(|mount| match mount.want {
            Want::Unknown => false,
            Want::Mounted(..) => mount.presence != Presence::Yes || mount.republish,
            Want::Gone => true,
        });
        earliest(mounts.map(|mount| mount.backoff.until(now)).chain([self.device.backoff.until(now)]))
    }

    /// Why a pod may not have it beside another (VOL-023).
    pub(super) fn conflict(&self, id: &MountId) -> Option<String> {
        let mount = self.mounts.get(id).filter(|mount| mount.presence != Presence::Yes)?;
        let Want::Mounted(_, spec) = &mount.want else { return None };
        let used = self.mounts.keys().any(|(pod, _)| *pod != id.0);
        (spec.exclusive() && used)
            .then(|| "volume uses the ReadWriteOncePod access mode and is already in use by another pod".to_owned())
    }

    /// VOL-021: told of the mounting of a pod's volume only.
    pub(super) fn tell(&self, id: &MountId, what: &str, cause: &str, out: &mut Out<'_>) {
        let Some(Mount { want: Want::Mounted(pod, spec), .. }) = self.mounts.get(id) else { return };
        let message = format!("MountVolume.{what} failed for volume \"{}\" : {cause}", spec.name);
        out.record(Recorded::warning(Subject::Pod(Arc::clone(pod)), "FailedMount", message));
    }

    /// A mount could not even begin.
    pub(super) fn cannot_begin(&mut self, now: Now, id: &MountId, what: &str, cause: &str, out: &mut Out<'_>) {
        self.tell(id, what, cause, out);
        if let Some(mount) = self.mounts.get_mut(id) {
            mount.backoff.failed(now);
        }
    }

    /// The operation begins. One that only publishes again neither gives the volume to a group again nor takes it away if it fails.
    pub(super) fn begins(&mut self, kind: Kind, endpoint: String) {
        let mut operation = Operation::new(kind, endpoint);
        if let Kind::Mount(id) = &operation.kind
            && let Some(mount) = self.mounts.get_mut(id)
            && mount.presence == Presence::Yes
        {
            operation.done.insert(Step::Give);
            mount.found = true;
        }
        self.operation = Some(operation);
    }

    /// A step is about to be taken: from here it may be there.
    pub(super) fn step_begins(&mut self, step: Step) {
        match step {
            Step::PrepareStage | Step::Stage if self.device.presence == Presence::No => {
                self.device.presence = Presence::Uncertain;
            }
            Step::PreparePublish | Step::Publish => {
                if let Some(mount) = self.mount_of_operation()
                    && mount.presence == Presence::No
                {
                    mount.presence = Presence::Uncertain;
                }
            }
            _ => {}
        }
    }

    fn mount_of_operation(&mut self) -> Option<&mut Mount> {
        let id = self.operation.as_ref()?.mount()?.clone();
        self.mounts.get_mut(&id)
    }

    /// A step went well.
    pub(super) fn step_succeeded(&mut self, step: Step) {
        if let Some(operation) = &mut self.operation {
            operation.done.insert(step);
        }
        match step {
            Step::Stage => self.device = Device { presence: Presence::Yes, ..Device::default() },
            Step::UndoStage => self.device.presence = Presence::No,
            Step::RemoveStaged => self.device = Device::default(),
            Step::UndoPublish | Step::RemovePublished => {
                if let Some(mount) = self.mount_of_operation() {
                    mount.presence = Presence::No;
                    mount.found = false;
                }
            }
            _ => {}
        }
    }

    /// A step failed (CSI-009, VOL-022).
    pub(super) fn step_failed(&mut self, step: Step, failure: &Failure, message: String) {
        let found = match step {
            Step::PrepareStage | Step::Stage => self.device.found,
            _ => self.mount_of_operation().is_some_and(|mount| mount.found),
        };
        let undo = match step {
            Step::PrepareStage | Step::Stage => Some(Step::UndoStage),
            Step::PreparePublish | Step::Publish => Some(Step::UndoPublish),
            _ => None,
        };
        let Some(operation) = &mut self.operation else { return };
        if !matches!(step, Step::UndoStage | Step::UndoPublish) {
            operation.failed = Some((step, message));
        }
        operation.undo = undo.filter(|_| !found && is_final(failure));
    }

    /// The operation is over: how it stands now, and which pods are to be woken.
    pub(super) fn finish(&mut self, now: Now, out: &mut Out<'_>) -> BTreeSet<PodUid> {
        let Some(operation) = self.operation.take() else { return BTreeSet::new() };
        let mut woken = BTreeSet::new();
        match (&operation.kind, &operation.failed) {
            (Kind::Mount(id), None) => {
                if let Some(mount) = self.mounts.get_mut(id)
                    && operation.done.contains(&Step::Publish)
                {
                    mount.presence = Presence::Yes;
                    mount.found = false;
                    mount.published = now.mono;
                    mount.republish = false;
                    mount.backoff.clear();
                }
                woken.insert(id.0.clone());
            }
            (Kind::Mount(id), Some((step, message))) => {
                self.tell(id, step.upstream_name(), message, out);
                let of_device = matches!(step, Step::StageSecret | Step::PrepareStage | Step::Stage);
                match self.mounts.get_mut(id) {
                    Some(Mount { want: Want::Gone, .. }) => {
                        woken.insert(id.0.clone());
                    }
                    _ if of_device => self.device.backoff.failed(now),
                    Some(mount) => mount.backoff.failed(now),
                    None => {}
                }
            }
            (Kind::Unmount(id), None) => {
                woken.insert(id.0.clone());
            }
            (Kind::Unmount(id), Some(_)) => {
                if let Some(mount) = self.mounts.get_mut(id) {
                    // VOL-022: a failed teardown leaves it uncertain.
                    mount.presence = Presence::Uncertain;
                    mount.backoff.failed(now);
                }
            }
            (Kind::Unstage, None) => {}
            (Kind::Unstage, Some(_)) => {
                self.device.presence = Presence::Uncertain;
                self.device.backoff.failed(now);
            }
        }
        self.clear();
        woken
    }

    /// The next step of the operation that is under way; `None` if it is over.
    pub(super) fn next_step(&self, attaches: bool, driver: Option<&CSIDriver>) -> Option<Step> {
        let operation = self.operation.as_ref()?;
        if operation.failed.is_some() {
            return operation.undo.filter(|undo| !operation.done.contains(undo));
        }
        let wanted = operation.mount().and_then(|id| self.mounts.get(id)).map(|mount| &mount.want);
        let stages = !self.inline && self.device.presence != Presence::Yes;
        operation.next_step(wanted, attaches, stages, driver)
    }
}

/// CSI-009: whether the call has certainly ended, so that it cannot take effect any more.
fn is_final(failure: &Failure) -> bool {
    !matches!(
        failure.kind,
        FailureKind::UnknownOutcome
            | FailureKind::Canceled
            | FailureKind::Unavailable
            | FailureKind::Throttled { .. }
            | FailureKind::Conflict
    )
}
