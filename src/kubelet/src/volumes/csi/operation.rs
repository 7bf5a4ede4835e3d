//! Decides the steps of one operation on a CSI volume, from what it has gathered so far.
//! Upstream: pkg/volume/csi/{csi_attacher,csi_mounter}.go (MountDevice, SetUpAt, TearDownAt, UnmountDevice).
//! Differs: what the driver can do is asked once for a mount, not once for each of its parts; a driver that does not stage gets no staging
//! directory; a volume that the driver does not know any more is taken for unmounted if nothing is mounted there.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::storage::v1::CSIDriver;

use super::volume::{MountId, Want};
use crate::csi::DriverCapabilities;
use crate::ids::ActionId;
use crate::sensitive::Sensitive;

/// Secrets or other private values, by key.
pub(super) type Private = Sensitive<BTreeMap<String, String>>;

/// What an operation is to bring about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Mount(MountId),
    Unmount(MountId),
    Unstage,
}

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// What attaching it answered.
    Attachment,
    /// What the driver can do.
    Capabilities,
    StageSecret,
    PrepareStage,
    Stage,
    PublishSecret,
    PreparePublish,
    Publish,
    /// Giving it to the pod's group.
    Give,
    /// After a failure that is final.
    UndoStage,
    /// After a failure that is final.
    UndoPublish,
    CleanSubPaths,
    Unpublish,
    RemovePublished,
    Unstage,
    RemoveStaged,
}

impl Step {
    /// Upstream's name for what it is part of (VOL-021).
    pub(super) fn upstream_name(self) -> &'static str {
        match self {
            Self::Attachment => "WaitForAttach",
            Self::Capabilities | Self::StageSecret | Self::PrepareStage | Self::Stage | Self::UndoStage => "MountDevice",
            _ => "SetUp",
        }
    }
}

const MOUNT: [Step; 9] = [
    Step::Attachment,
    Step::Capabilities,
    Step::StageSecret,
    Step::PrepareStage,
    Step::Stage,
    Step::PublishSecret,
    Step::PreparePublish,
    Step::Publish,
    Step::Give,
];
/// CSI-014
const UNMOUNT: [Step; 3] = [Step::CleanSubPaths, Step::Unpublish, Step::RemovePublished];
/// CSI-014
const UNSTAGE: [Step; 2] = [Step::Unstage, Step::RemoveStaged];

/// An operation that is under way.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) kind: Kind,
    pub(super) endpoint: String,
    /// The call that is out.
    pub(super) step: Option<(Step, ActionId)>,
    pub(super) done: BTreeSet<Step>,
    /// What is to be done after a failure.
    pub(super) undo: Option<Step>,
    /// The step that failed, and why.
    pub(super) failed: Option<(Step, String)>,
    pub(super) publish_context: BTreeMap<String, String>,
    pub(super) can: DriverCapabilities,
    pub(super) stage_secrets: Private,
    pub(super) publish_secrets: Private,
}

impl Operation {
    pub(super) fn new(kind: Kind, endpoint: String) -> Self {
        Self {
            kind,
            endpoint,
            step: None,
            done: BTreeSet::new(),
            undo: None,
            failed: None,
            publish_context: BTreeMap::new(),
            can: DriverCapabilities::default(),
            stage_secrets: Private::default(),
            publish_secrets: Private::default(),
        }
    }

    /// The pod's use of the volume that it is about.
    pub(super) fn mount(&self) -> Option<&MountId> {
        match &self.kind {
            Kind::Mount(id) | Kind::Unmount(id) => Some(id),
            Kind::Unstage => None,
        }
    }

    /// The first step that is needed and not done. A mount that is not wanted any more takes none.
    pub(super) fn next_step(&self, want: Option<&Want>, attaches: bool, stages: bool, driver: Option<&CSIDriver>) -> Option<Step> {
        let undone = |step: &Step| !self.done.contains(step);
        match &self.kind {
            Kind::Unmount(_) => UNMOUNT.into_iter().find(undone),
            Kind::Unstage => UNSTAGE.into_iter().find(undone),
            Kind::Mount(_) => {
                let Some(Want::Mounted(pod, spec)) = want else { return None };
                let stages = stages && self.can.stage;
                let needed = |step: &Step| match step {
                    Step::Attachment => attaches,
                    Step::StageSecret => stages && spec.stage_secret.is_some(),
                    Step::PrepareStage | Step::Stage => stages,
                    Step::PublishSecret => spec.publish_secret.is_some(),
                    Step::Give => spec.group_to_give(pod, self.can, driver).is_some(),
                    _ => true,
                };
                MOUNT.into_iter().find(|step| undone(step) && needed(step))
            }
        }
    }
}
