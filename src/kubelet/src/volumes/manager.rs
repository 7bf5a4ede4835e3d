//! Decides what is done about each volume of each pod: set up, refreshed, tried again, torn down.
//! Upstream: pkg/kubelet/volumemanager, pkg/volume/util/operationexecutor, pkg/volume/util/nestedpendingoperations.
//! Differs: no polling: a change of a source or a completion wakes the pod, whose sync compares what is wanted with what was written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Volume};

use super::claims::{Bound, Claim, ClaimName};
use super::csi::spec::CsiSpec;
use super::csi::{CsiVolumes, spec};
use super::desired::{Claimed, Source};
use super::layout::Layout;
use super::stamp::stamp;
use super::teardown::Teardown;
use super::{MountedVolume, Plugin, Trouble, VolumeInputs, VolumesState, checks, desired, payload};
use crate::action::{Call, HostCall, Lane, VolumeSetup};
use crate::alarms::Alarms;
use crate::event::{ApiReply, HostReply};
use crate::failure::{Failure, FailureKind};
use crate::ids::{ActionId, PodUid};
use crate::limits::{Room, WRITING_BYTES};
use crate::operation_backoff::OperationBackoff;
use crate::out::{Out, Owner};
use crate::pod::manager::uid_of;
use crate::recorder::{Recorded, Subject};
use crate::time::{Mono, Now, earliest};

/// How long the host may take for one operation.
pub(super) const LIMIT: Duration = Duration::from_secs(120);
/// The volume name of the operation that lists a pod's volumes; no volume has it.
pub(super) const LISTING: &str = "";

/// The volumes of all pods.
#[derive(Debug, Default)]
pub struct VolumeManager {
    pods: BTreeMap<PodUid, PodVolumes>,
    /// When each pod is to be looked at again.
    alarms: Alarms<PodUid>,
    /// Those that pods may share, and drivers put in place.
    pub csi: CsiVolumes,
}

/// The volumes of one pod.
#[derive(Debug, Default)]
struct PodVolumes {
    volumes: BTreeMap<String, Record>,
    claims: BTreeMap<String, ClaimRecord>,
    mounted: BTreeMap<String, MountedVolume>,
    layout: Option<Arc<Layout>>,
    teardown: Option<Teardown>,
    /// When the pod is to be looked at again; `None` once it was woken.
    wake_at: Option<Mono>,
    /// Whether the last sync left something undone because as much as may be was being written.
    put_off: bool,
    /// Whether a volume came into place for which the pod was not woken, since others were still on their way.
    withheld: bool,
}

/// The claim of one volume of one pod.
#[derive(Debug)]
struct ClaimRecord {
    pod: Arc<Pod>,
    name: ClaimName,
    claim: Claim,
    /// Until when nothing is said again of a volume that may not be mounted here.
    refused: OperationBackoff,
}

/// What a volume is by where it comes from: the pod, or a PersistentVolume.
#[derive(Clone, Copy, Debug)]
struct Origin<'a> {
    name: &'a str,
    read_only: bool,
    group: Option<i64>,
}

/// One volume of one pod.
#[derive(Debug)]
struct Record {
    /// For events.
    pod: Arc<Pod>,
    place: MountedVolume,
    operation: Option<Operation>,
    /// What its sources came to when they were last read, and by which stamp: the digest of what is to be set up, or why there is none.
    made: Option<(u64, Result<u64, String>)>,
    /// The digest of what was set up last; `None` until something was, and while nobody knows because a refresh failed.
    written: Option<u64>,
    /// After the host failed: the operation is not repeated before.
    host: OperationBackoff,
    /// After the sources failed: the failure is not told again before.
    sources: OperationBackoff,
}

#[derive(Debug)]
struct Operation {
    action: ActionId,
    digest: u64,
    bytes: usize,
}

/// Whose volumes are being synced.
#[derive(Clone, Copy, Debug)]
pub(super) struct Whose<'a> {
    pub(super) pod: &'a Arc<Pod>,
    pub(super) uid: &'a PodUid,
    pub(super) layout: &'a Layout,
}

impl<'a> Whose<'a> {
    pub(super) fn namespace(self) -> &'a str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }
}

/// What one sync may still read and write.
#[derive(Debug)]
struct Budget {
    bytes: usize,
    /// Whether something was put off.
    spent: bool,
}

impl VolumeManager {
    /// Brings the pod's volumes nearer to what they are to be, and tells how far they are. Level-triggered: call it at each sync
    /// of the pod, after the pod was registered with the object cache. What is in place stays in place while it is refreshed.
    pub fn sync_pod(&mut self, now: Now, pod: &Arc<Pod>, inputs: &mut VolumeInputs<'_>, out: &mut Out<'_>) -> VolumesState {
        let Some(uid) = uid_of(pod) else { return VolumesState::Ready };
        if !self.pods.contains_key(&uid) && desired::used(pod).is_empty() {
            return VolumesState::Ready;
        }
        let Self { pods, csi, alarms } = self;
        let volumes = pods.entry(uid.clone()).or_default();
        let state = volumes.sync_all(now, pod, &uid, inputs, csi, out);
        alarms.set(&uid, volumes.wake_at);
        state
    }

    /// How many volumes of each kind are wanted, and how many are in place.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<&'static str, (usize, usize)> {
        let mut counts: BTreeMap<&'static str, (usize, usize)> = BTreeMap::new();
        for pod in self.pods.values() {
            for record in pod.volumes.values() {
                counts.entry(record.place.plugin.name()).or_default().0 += 1;
            }
            for place in pod.mounted.values() {
                counts.entry(place.plugin.name()).or_default().1 += 1;
            }
        }
        counts
    }

    /// The volumes of a pod that are in place, by name in the pod's spec.
    #[must_use]
    pub fn mounted(&self, uid: &PodUid) -> &BTreeMap<String, MountedVolume> {
        static NONE: BTreeMap<String, MountedVolume> = BTreeMap::new();
        self.pods.get(uid).map_or(&NONE, |volumes| &volumes.mounted)
    }

    /// Removes the volumes of a pod, known or not, of which nothing runs any more. Call it until it answers true: nothing is left.
    pub fn tear_down(&mut self, now: Now, uid: &PodUid, out: &mut Out<'_>) -> bool {
        let volumes = self.pods.entry(uid.clone()).or_default();
        let done = volumes.tear_down(now, uid, &mut self.csi, out);
        self.alarms.set(uid, volumes.wake_at);
        done
    }

    /// The core failed on the pod: what is known of its volumes is found out anew, as after a restart of the agent. Those that pods
    /// may share stay as they are.
    pub fn begin_anew(&mut self, uid: &PodUid) {
        self.pods.remove(uid);
        self.alarms.set(uid, None);
    }

    /// Whether volumes of that pod were set up, or are being removed.
    #[must_use]
    pub fn wants_teardown(&self, uid: &PodUid) -> bool {
        self.pods.get(uid).is_some_and(|volumes| volumes.teardown.is_none() || volumes.is_going(uid, &self.csi))
    }

    /// The pod is finished: its record goes, unless its volumes have not.
    pub fn forget(&mut self, uid: &PodUid) {
        if !self.wants_teardown(uid) {
            self.pods.remove(uid);
            self.alarms.set(uid, None);
        }
    }

    /// An operation ended (`Owner::Volume(uid, volume)`). True if the pod is to be woken.
    #[must_use]
    pub fn done(
        &mut self,
        now: Now,
        uid: &PodUid,
        volume: &str,
        id: ActionId,
        outcome: Result<HostReply, Failure>,
        out: &mut Out<'_>,
    ) -> bool {
        let Some(volumes) = self.pods.get_mut(uid) else { return false };
        if let Some(teardown) = &mut volumes.teardown
            && teardown.done(now, uid, id, &outcome, &mut self.csi)
        {
            return true;
        }
        let woken = volumes.set_up_ended(now, volume, id, outcome, out);
        self.alarms.set(uid, volumes.wake_at);
        woken
    }

    /// A read for a claim ended (`Owner::Claim(uid, volume)`). True if the pod is to be woken.
    #[must_use]
    pub fn claim_done(
        &mut self,
        now: Now,
        uid: &PodUid,
        volume: &str,
        id: ActionId,
        outcome: &Result<ApiReply, Failure>,
        out: &mut Out<'_>,
    ) -> bool {
        let Some(volumes) = self.pods.get_mut(uid) else { return false };
        let Some(ClaimRecord { pod, name, claim, .. }) = volumes.claims.get_mut(volume) else { return false };
        let ours = claim.done(now, (pod, uid, volume, name), id, outcome, out);
        volumes.wake_at = earliest([volumes.wake_at, volumes.retry_at(now)]);
        self.alarms.set(uid, volumes.wake_at);
        ours
    }

    /// When something that failed is tried, or told, again.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        debug_assert_eq!(self.alarms.first(), earliest(self.pods.values().map(|volumes| volumes.wake_at)), "an alarm was not set");
        earliest([self.alarms.first(), self.csi.deadline()])
    }

    /// Answers the pods of which something is to be tried again; each is answered once, and is then to be synced.
    #[must_use]
    pub fn due(&mut self, now: Now) -> BTreeSet<PodUid> {
        let woken: BTreeSet<PodUid> = self.alarms.due(now.mono).cloned().collect();
        for uid in &woken {
            self.alarms.set(uid, None);
            if let Some(volumes) = self.pods.get_mut(uid) {
                volumes.wake_at = None;
            }
        }
        woken
    }
}

impl PodVolumes {
    fn sync_all(
        &mut self,
        now: Now,
        pod: &Arc<Pod>,
        uid: &PodUid,
        inputs: &mut VolumeInputs<'_>,
        csi: &mut CsiVolumes,
        out: &mut Out<'_>,
    ) -> VolumesState {
        let layout = Layout::follow(self.layout.take(), pod);
        self.layout = Some(Arc::clone(&layout));
        let used = layout.used(pod);
        if used.is_empty() {
            return VolumesState::Ready;
        }
        if self.is_going(uid, csi) {
            self.tear_down(now, uid, csi, out);
            return VolumesState::Waiting { unmounted: names(&used, |_| true) };
        }
        if self.teardown.is_some() {
            // A pod of the same UID begins anew.
            *self = Self { layout: self.layout.take(), ..Self::default() };
        }
        let whose = Whose { pod, uid, layout: &layout };
        let writing: usize =
            self.volumes.values().filter_map(|record| record.operation.as_ref()).map(|operation| operation.bytes).sum();
        let mut budget = Budget { bytes: WRITING_BYTES.saturating_sub(writing), spent: false };
        let mut problems = BTreeMap::new();
        for used in &used {
            if let Err(cause) = self.sync(now, whose, *used, (inputs, &mut budget), csi, out) {
                problems.insert(used.volume.name.as_str(), cause);
            }
        }
        self.put_off = budget.spent;
        self.wake_at = self.retry_at(now);
        if budget.spent && self.volumes.values().all(|record| record.operation.is_none()) {
            // What was put off waits for nobody.
            self.wake_at = Some(now.mono);
        }
        let unmounted = names(&used, |name| !self.mounted.contains_key(name));
        if !problems.is_empty() {
            VolumesState::Failed { message: failure_message(&unmounted, &problems) }
        } else if unmounted.is_empty() {
            VolumesState::Ready
        } else {
            VolumesState::Waiting { unmounted }
        }
    }

    /// # Errors
    /// In words, if the volume cannot be put in place by this agent.
    fn sync(
        &mut self,
        now: Now,
        whose: Whose<'_>,
        used: desired::Used<'_>,
        (inputs, budget): (&mut VolumeInputs<'_>, &mut Budget),
        csi: &mut CsiVolumes,
        out: &mut Out<'_>,
    ) -> Result<(), String> {
        let Whose { pod, uid, .. } = whose;
        let volume = used.volume;
        if let Some(mounted) = self.mounted.get(&volume.name).filter(|mounted| mounted.plugin == Plugin::Csi) {
            csi.synced(now, uid, &mounted.name);
            return Ok(());
        }
        match desired::source(pod, used)? {
            Source::Pod(plugin) => self.set_up(
                now,
                whose,
                volume,
                (plugin, Origin { name: &volume.name, read_only: false, group: None }),
                (inputs, budget),
                out,
            ),
            Source::Driver(spec) => self.mount_by_driver(pod, uid, volume, (*spec, None), inputs.root_dir, csi),
            // What is in place is what the claim was bound to, and no claim is bound twice.
            Source::Claim(..) if self.mounted.contains_key(&volume.name) => {}
            Source::Claim(name, read_only) => {
                let (claim, refused) = (Claim::default(), OperationBackoff::default());
                let new = || ClaimRecord { pod: Arc::clone(pod), name: name.clone(), claim, refused };
                let record = self.claims.entry(volume.name.clone()).or_insert_with(new);
                record.pod = Arc::clone(pod);
                match record.claim.resolve(now, pod, uid, &volume.name, &name, out) {
                    Bound::Pending => {}
                    Bound::Failed(cause) => return Err(cause.to_owned()),
                    Bound::To(found) => {
                        let name = found.metadata.name.clone().unwrap_or_default();
                        let group = desired::group(found);
                        let claimed = desired::claimed(used, found, read_only)?;
                        if let Some((what, cause)) = checks::refusal(found, &claimed, inputs.node_labels, csi, uid) {
                            if record.refused.until(now).is_none() {
                                record.refused.failed(now);
                                failed_mount(pod, what, &name, cause, out);
                            }
                            return Ok(());
                        }
                        match claimed {
                            // Whose it is tells the disk, after a restart of the agent.
                            Claimed::Driver(spec) if spec.is_for_one_pod() && !csi.is_surveyed() => {}
                            Claimed::Driver(spec) => self.mount_by_driver(pod, uid, volume, (*spec, group), inputs.root_dir, csi),
                            Claimed::Machine(volume, plugin) => {
                                let origin = Origin { name: &name, read_only, group };
                                self.set_up(now, whose, &volume, (plugin, origin), (inputs, budget), out);
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// CSI-006
    fn mount_by_driver(
        &mut self,
        pod: &Arc<Pod>,
        uid: &PodUid,
        volume: &Volume,
        (wanted, group): (CsiSpec, Option<i64>),
        root: &str,
        csi: &mut CsiVolumes,
    ) {
        let (name, read_only) = (wanted.name.clone(), wanted.read_only);
        if csi.want(pod, wanted) {
            let host_path = format!("{root}/pods/{uid}/volumes/{}/{name}/mount", spec::DIRECTORY);
            let mounted = MountedVolume { host_path, plugin: Plugin::Csi, name, read_only, group };
            self.mounted.insert(volume.name.clone(), mounted);
        }
    }

    fn set_up(
        &mut self,
        now: Now,
        whose: Whose<'_>,
        volume: &Volume,
        (plugin, origin): (Plugin, Origin<'_>),
        (inputs, budget): (&mut VolumeInputs<'_>, &mut Budget),
        out: &mut Out<'_>,
    ) {
        let Whose { pod, uid, .. } = whose;
        let record = self.volumes.entry(volume.name.clone()).or_insert_with(|| Record {
            pod: Arc::clone(pod),
            place: MountedVolume {
                name: origin.name.to_owned(),
                read_only: origin.read_only,
                group: origin.group,
                ..desired::place(inputs.root_dir, uid, volume, plugin)
            },
            operation: None,
            made: None,
            written: None,
            host: OperationBackoff::default(),
            sources: OperationBackoff::default(),
        });
        record.pod = Arc::clone(pod);
        if !plugin.refreshes() && self.mounted.contains_key(&volume.name) {
            return;
        }
        if record.sync(now, whose, (volume, plugin), inputs, budget, out) {
            self.mounted.insert(volume.name.clone(), record.place.clone());
        }
    }

    /// Whether its volumes are on their way out.
    fn is_going(&self, uid: &PodUid, csi: &CsiVolumes) -> bool {
        self.teardown.as_ref().is_some_and(|teardown| !teardown.is_done() || csi.has(uid))
    }

    fn set_up_ended(
        &mut self,
        now: Now,
        volume: &str,
        id: ActionId,
        outcome: Result<HostReply, Failure>,
        out: &mut Out<'_>,
    ) -> bool {
        let Some(record) = self.volumes.get_mut(volume) else { return false };
        let Some(operation) = record.operation.take_if(|operation| operation.action == id) else { return false };
        let succeeded = outcome.is_ok();
        let woken = match outcome {
            Ok(_) => {
                record.written = Some(operation.digest);
                record.host.clear();
                self.mounted.insert(volume.to_owned(), record.place.clone());
                let as_wanted = matches!(&record.made, Some((_, Ok(digest))) if *digest == operation.digest);
                !as_wanted || self.put_off || self.teardown.is_some()
            }
            Err(failure) => {
                record.written = None;
                record.host.failed(now);
                // What may hang in the kernel is told by its place (issue 10, S6).
                let hangs = failure.kind == FailureKind::UnknownOutcome;
                let cause =
                    if hangs { format!("{}: {}", record.place.host_path, failure.message) } else { failure.message.clone() };
                record.tell(&cause, out);
                self.wake_at = earliest([self.wake_at, record.host.until(now)]);
                // Once the volumes are to go, whoever removes them waits for this.
                self.teardown.is_some()
            }
        };
        // A pod is not planned for each of its volumes, but for the last of those that are on their way: cost linear in the spec.
        self.withheld |= succeeded;
        let last = self.withheld && self.volumes.values().all(|record| record.operation.is_none());
        self.withheld &= !(woken || last);
        woken || last
    }

    fn tear_down(&mut self, now: Now, uid: &PodUid, csi: &mut CsiVolumes, out: &mut Out<'_>) -> bool {
        let teardown = self.teardown.get_or_insert_default();
        // What is being set up must not be forgotten (VOL-006).
        if self.volumes.values().any(|record| record.operation.is_some()) {
            return false;
        }
        self.volumes.clear();
        self.claims.clear();
        self.mounted.clear();
        csi.leave(uid);
        let done = teardown.go_on(now, uid, out) && !csi.has(uid);
        self.wake_at = teardown.retry_at(now);
        done
    }

    fn retry_at(&self, now: Now) -> Option<Mono> {
        let claims = self.claims.values().flat_map(|record| [record.claim.retry_at(now), record.refused.until(now)]);
        earliest(self.volumes.values().flat_map(|record| [record.host.until(now), record.sources.until(now)]).chain(claims))
    }
}

impl Record {
    /// True if the volume came into place without the host.
    fn sync(
        &mut self,
        now: Now,
        whose: Whose<'_>,
        (volume, plugin): (&Volume, Plugin),
        inputs: &mut VolumeInputs<'_>,
        budget: &mut Budget,
        out: &mut Out<'_>,
    ) -> bool {
        let Ok(stamp) = stamp(now, whose, volume, plugin, inputs, out) else { return false };
        match &self.made {
            Some((of, Ok(digest))) if *of == stamp && self.is_set_up_as(now, *digest) => {
                self.sources.clear();
                return false;
            }
            Some((of, Err(cause))) if *of == stamp => {
                let cause = cause.clone();
                self.failed(now, &cause, out);
                return false;
            }
            _ => {}
        }
        if budget.bytes == 0 {
            budget.spent = true;
            return false;
        }
        let mut room = Room::of_volume();
        let setup = desired::setup(now, whose, volume, plugin, inputs, &mut room, out);
        budget.bytes = budget.bytes.saturating_sub(room.taken());
        match setup {
            Ok(None) => {
                self.written = Some(0);
                return true;
            }
            Ok(Some(setup)) => {
                self.sources.clear();
                let (digest, bytes) = (payload::digest(&setup), payload::size(&setup));
                self.made = Some((stamp, Ok(digest)));
                if !self.is_set_up_as(now, digest) {
                    self.set_up(whose.uid, &volume.name, setup, (digest, bytes), out);
                }
            }
            Err(Trouble::Pending) => {}
            Err(Trouble::Failed(cause)) => {
                self.failed(now, &cause, out);
                self.made = Some((stamp, Err(cause)));
            }
        }
        false
    }

    /// Whether there is nothing to be done, or nothing can be now, for it to be as that digest says.
    fn is_set_up_as(&self, now: Now, digest: u64) -> bool {
        self.operation.is_some() || self.written == Some(digest) || self.host.until(now).is_some()
    }

    fn failed(&mut self, now: Now, cause: &str, out: &mut Out<'_>) {
        if self.sources.until(now).is_none() {
            self.sources.failed(now);
            self.tell(cause, out);
        }
    }

    fn set_up(&mut self, uid: &PodUid, volume: &str, setup: VolumeSetup, (digest, bytes): (u64, usize), out: &mut Out<'_>) {
        let call = HostCall::SetUpVolume { pod: uid.clone(), volume: volume.to_owned(), setup: Box::new(setup) };
        let action = out.issue(Owner::Volume(uid.clone(), volume.to_owned()), Lane::Host, LIMIT, Call::Host(call));
        self.operation = Some(Operation { action, digest, bytes });
    }

    /// VOL-021
    fn tell(&self, cause: &str, out: &mut Out<'_>) {
        failed_mount(&self.pod, "MountVolume.SetUp", &self.place.name, cause, out);
    }
}

fn failed_mount(pod: &Arc<Pod>, what: &str, volume: &str, cause: &str, out: &mut Out<'_>) {
    let message = format!("{what} failed for volume \"{volume}\" : {cause}");
    out.record(Recorded::warning(Subject::Pod(Arc::clone(pod)), "FailedMount", message));
}

/// The names of those used volumes, in order.
fn names(used: &[desired::Used<'_>], which: impl Fn(&str) -> bool) -> Vec<String> {
    let names: BTreeSet<&str> = used.iter().map(|used| used.volume.name.as_str()).filter(|name| which(name)).collect();
    names.into_iter().map(str::to_owned).collect()
}

/// How many causes the event of a failed mount names.
const MOST_CAUSES: usize = 11;

/// VOL-012
fn failure_message(unmounted: &[String], problems: &BTreeMap<&str, String>) -> String {
    let processed: Vec<&str> = problems.keys().copied().collect();
    // Each text once, in their order, and no more than so many (desired_state_of_world.go, PopPodErrors, maxPodErrors).
    let causes: BTreeSet<&str> = problems.values().map(String::as_str).collect();
    let causes: Vec<&str> = causes.into_iter().take(MOST_CAUSES).collect();
    format!(
        "Unable to attach or mount volumes: unmounted volumes=[{}], unattached volumes=[], failed to process volumes=[{}]: {}",
        unmounted.join(" "),
        processed.join(" "),
        causes.join("; ")
    )
}

#[cfg(test)]
#[path = "manager_tests.rs"]
mod tests;
