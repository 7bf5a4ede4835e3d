//! Decides how a pod's volumes go: by what lies on the disk, so that it is the same after a restart and for pods that nobody knows.
//! Upstream: pkg/kubelet/volumemanager/reconciler (reconstruct.go), pkg/kubelet/volumemanager (WaitForUnmount).
//! Differs: always from a listing of the pod's directory; upstream lists only once, when it starts.

use std::collections::BTreeMap;

use super::csi::{CsiVolumes, spec};
use super::manager::{LIMIT, LISTING};
use crate::action::{Call, HostCall, Lane};
use crate::event::{HostReply, VolumeDirectory};
use crate::failure::Failure;
use crate::ids::{ActionId, PodUid};
use crate::operation_backoff::OperationBackoff;
use crate::out::{Out, Owner};
use crate::time::{Mono, Now, earliest};

/// Where the removal of a pod's volumes stands.
#[derive(Debug, Default)]
pub(super) struct Teardown {
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// The directory is being read, or will be again.
    Listing(Operation),
    /// What was found in it, until it is gone.
    Removing(BTreeMap<VolumeDirectory, Operation>),
    /// Nothing is left.
    Done,
}

impl Default for Stage {
    fn default() -> Self {
        Self::Listing(Operation::default())
    }
}

#[derive(Debug, Default)]
struct Operation {
    action: Option<ActionId>,
    backoff: OperationBackoff,
}

impl Operation {
    /// Issues a call unless one is in flight or waits.
    fn go(&mut self, now: Now, uid: &PodUid, volume: &str, call: impl FnOnce() -> HostCall, out: &mut Out<'_>) {
        if self.action.is_none() && self.backoff.until(now).is_none() {
            let owner = Owner::Volume(uid.clone(), volume.to_owned());
            self.action = Some(out.issue(owner, Lane::Host, LIMIT, Call::Host(call())));
        }
    }

    fn failed(&mut self, now: Now) {
        self.action = None;
        self.backoff.failed(now);
    }
}

impl Teardown {
    /// Goes on. True when nothing is left.
    pub(super) fn go_on(&mut self, now: Now, uid: &PodUid, out: &mut Out<'_>) -> bool {
        match &mut self.stage {
            Stage::Listing(operation) => {
                operation.go(now, uid, LISTING, || HostCall::ListVolumes { pod: uid.clone() }, out);
                false
            }
            Stage::Removing(directories) => {
                for (directory, operation) in directories {
                    let call = || HostCall::TearDownVolume {
                        pod: uid.clone(),
                        volume: directory.volume.clone(),
                        plugin: directory.plugin.clone(),
                    };
                    operation.go(now, uid, &directory.volume, call, out);
                }
                false
            }
            Stage::Done => true,
        }
    }

    /// Whether nothing is left.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Done)
    }

    /// An operation ended. True if it was one of these.
    pub(super) fn done(
        &mut self,
        now: Now,
        uid: &PodUid,
        id: ActionId,
        outcome: &Result<HostReply, Failure>,
        csi: &mut CsiVolumes,
    ) -> bool {
        match &mut self.stage {
            Stage::Listing(operation) if operation.action == Some(id) => {
                match outcome {
                    Ok(HostReply::Volumes(found)) => {
                        let ours = found.iter().filter(|directory| !is_drivers(csi, uid, directory));
                        self.stage = removing(ours.map(|directory| (directory.clone(), Operation::default())).collect());
                    }
                    Err(failure) if failure.is_not_found() => self.stage = Stage::Done,
                    _ => operation.failed(now),
                }
                true
            }
            Stage::Removing(directories) => {
                let Some((directory, operation)) = directories.iter_mut().find(|(_, operation)| operation.action == Some(id))
                else {
                    return false;
                };
                match outcome {
                    Err(failure) if !failure.is_not_found() => operation.failed(now),
                    _ => {
                        let directory = directory.clone();
                        directories.remove(&directory);
                        self.stage = removing(std::mem::take(directories));
                    }
                }
                true
            }
            _ => false,
        }
    }

    /// When something that failed is tried again.
    pub(super) fn retry_at(&self, now: Now) -> Option<Mono> {
        match &self.stage {
            Stage::Listing(operation) => operation.backoff.until(now),
            Stage::Removing(directories) => earliest(directories.values().map(|operation| operation.backoff.until(now))),
            Stage::Done => None,
        }
    }
}

/// Whether a driver takes it away. One of which nothing is known is taken away here, by force (VOL-028).
fn is_drivers(csi: &mut CsiVolumes, uid: &PodUid, directory: &VolumeDirectory) -> bool {
    let known = csi.knows(uid, &directory.volume);
    directory.plugin == spec::DIRECTORY
        && (known || directory.data.as_deref().is_some_and(|data| csi.adopt(uid, &directory.volume, data)))
}

fn removing(directories: BTreeMap<VolumeDirectory, Operation>) -> Stage {
    if directories.is_empty() { Stage::Done } else { Stage::Removing(directories) }
}
