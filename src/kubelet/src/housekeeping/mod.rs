//! Decides what is cleaned up and when: what finished pods leave behind, dead containers, orphans, unused images.
//! Upstream: pkg/kubelet/kubelet_pods.go (HandlePodCleanups), pkg/kubelet/kuberuntime/kuberuntime_gc.go, kubelet_volumes.go.
//! Differs: clean-up follows what happened to a pod; a survey of the disk is taken once, and then rarely, as a repair.

pub mod clearing;
pub mod dead;
pub mod image_gc;
pub mod log_rotation;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use self::clearing::{Clearing, Remains};
use self::dead::DeadContainers;
use self::image_gc::{ImageGc, InUse};
use self::log_rotation::LogRotation;
use crate::action::{Call, HostCall, Lane};
use crate::event::{CriReply, HostReply};
use crate::failure::Failure;
use crate::ids::{ActionId, ContainerId, PodUid};
use crate::kubelet::Kubelet;
use crate::observation::Image;
use crate::out::{Out, Owner};
use crate::parts::Parts;
use crate::pleg::Pleg;
use crate::pod::worker::{Phase, PodWorker};
use crate::resources::cgroup::{burstable_shares, tiers};
use crate::time::{Mono, Now, earliest};
use crate::unreadable::Unreadables;

/// How often the pods' directories and cgroups are looked through.
const SURVEY_PERIOD: Duration = Duration::from_secs(600);
/// How soon it is done again if it failed, or was too early to tell.
const SURVEY_AGAIN: Duration = Duration::from_secs(10);
/// How long after an operation that was given up its late effects are looked for.
const SURVEY_LATE: Duration = Duration::from_secs(10);
/// How long after pods came or went the Burstable tier's shares follow (NODE-134).
const TIER_DELAY: Duration = Duration::from_millis(500);
/// How often all tiers are set anew, whatever they were set to: others may have changed them (periodicQOSCgroupUpdateInterval).
const TIER_PERIOD: Duration = Duration::from_secs(60);
/// How soon they are set again if that failed.
const TIER_AGAIN: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(60);

/// What a survey asked for.
#[derive(Debug, Default)]
struct Survey {
    next: Option<Mono>,
    /// What was given up may appear until then.
    late: Option<Mono>,
    dirs: Option<ActionId>,
    logs: Option<ActionId>,
    /// The removal of links to logs that are no more.
    sweep: Option<ActionId>,
    cgroups: Option<ActionId>,
    /// Cgroups that are being removed.
    removals: BTreeSet<ActionId>,
    /// How often in a row one could not be.
    failures: u32,
}

impl Survey {
    /// One begins. If it was made sooner than an operation that was given up needs, it may find nothing yet: that one comes all the same.
    fn plan_next(&mut self, now: Now) {
        let late = self.late.filter(|at| *at > now.mono);
        self.next = Some(late.unwrap_or(now.mono + SURVEY_PERIOD));
    }

    /// The removal of a cgroup ended. What is left is looked for again: nobody else would try.
    fn removed(&mut self, now: Now, id: ActionId, failed: bool) -> bool {
        let ours = self.removals.remove(&id);
        if ours && failed {
            let wait = (SURVEY_AGAIN * 2u32.pow(self.failures.min(6))).min(SURVEY_PERIOD);
            self.failures += 1;
            self.next = self.next.map(|next| next.min(now.mono + wait));
        } else if ours {
            self.failures = 0;
        }
        ours
    }
}

/// What is to be cleaned up.
#[derive(Debug, Default)]
pub struct Housekeeping {
    clearing: BTreeMap<PodUid, Clearing>,
    dead: DeadContainers,
    image_gc: ImageGc,
    logs: LogRotation,
    survey: Survey,
    found_dirs: Vec<PodUid>,
    found_logs: Vec<String>,
    found_cgroups: BTreeMap<PodUid, String>,
    cleared: Vec<PodUid>,
    tier_at: Option<Mono>,
    tier_shares: Option<u64>,
    tiers_due: Mono,
    tiers_asked: BTreeSet<ActionId>,
}

impl Housekeeping {
    /// The node's images, as last listed.
    #[must_use]
    pub fn images(&self) -> &[Image] {
        self.image_gc.images()
    }

    /// An image was pulled: what is known of them is old.
    pub fn images_changed(&mut self, now: Now) {
        self.image_gc.changed(now);
    }

    /// Whether what is left of that pod is being removed.
    #[must_use]
    pub fn is_clearing(&self, uid: &PodUid) -> bool {
        self.clearing.contains_key(uid)
    }

    /// Nobody knows that pod any more: what is left of it goes.
    pub fn pod_forgotten(&mut self, uid: &PodUid, remains: Remains) {
        self.dead.forget(uid);
        self.clearing.entry(uid.clone()).or_insert_with(|| Clearing::new(remains));
    }

    /// Pods came or went: the tier that they share follows.
    pub fn pods_changed(&mut self, now: Now) {
        let soon = now.mono + TIER_DELAY;
        self.tier_at = Some(self.tier_at.map_or(soon, |at| at.min(soon)));
    }

    /// A pod ended that only the runtime or the disk knew: its cgroup is found by a survey.
    pub fn orphan_ended(&mut self, now: Now) {
        self.survey_at(now.mono);
    }

    /// A host operation of theirs was given up that may still take effect: a volume may appear under a pod that has gone meanwhile. Only
    /// what is done for pods can leave anything of them; a hung look at the plugins' registry costs no survey.
    pub fn gave_up(&mut self, now: Now, owner: &Owner) {
        if !matches!(owner, Owner::Pod(_) | Owner::Volume(..) | Owner::Csi(_)) {
            return;
        }
        let late = now.mono + SURVEY_LATE;
        self.survey.late = self.survey.late.max(Some(late));
        self.survey_at(late);
    }

    fn survey_at(&mut self, at: Mono) {
        // Unset, it is due anyway.
        self.survey.next = self.survey.next.map(|next| next.min(at));
    }

    /// When there is something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        let surveying = self.survey.dirs.is_some() || self.survey.cgroups.is_some();
        let survey = if surveying { None } else { self.survey.next };
        let clearing = self.clearing.values().filter_map(Clearing::deadline).min();
        earliest([survey, clearing, self.tier_at, self.image_gc.deadline(), self.logs.deadline()])
    }

    /// A runtime call ended.
    pub fn cri_done(&mut self, now: Now, id: ActionId, outcome: Result<CriReply, Failure>, out: &mut Out<'_>) {
        let Some(outcome) = self.image_gc.cri_done(now, id, outcome, out) else { return };
        let outcome = outcome.map(|_| ());
        if !self.dead.done(id, &outcome) && !self.logs.done(id, outcome.clone().map(|()| None)) {
            self.clearing_done(now, id, &outcome);
        }
    }

    /// A host operation ended.
    pub fn host_done(&mut self, now: Now, id: ActionId, outcome: Result<HostReply, Failure>) {
        if self.survey.dirs == Some(id) {
            self.survey.dirs = None;
            match outcome {
                Ok(HostReply::PodDirs(found)) => self.found_dirs = found,
                _ => self.survey_at(now.mono + SURVEY_AGAIN),
            }
        } else if self.survey.logs == Some(id) {
            self.survey.logs = None;
            // What cannot be listed now is when the next survey is made.
            if let Ok(HostReply::PodLogs(found)) = outcome {
                self.found_logs = found;
            }
        } else if self.survey.sweep == Some(id) {
            self.survey.sweep = None;
        } else if self.survey.cgroups == Some(id) {
            self.survey.cgroups = None;
            match outcome {
                Ok(HostReply::PodCgroups(found)) => self.found_cgroups = found,
                _ => self.survey_at(now.mono + SURVEY_AGAIN),
            }
        } else if self.survey.removed(now, id, outcome.is_err()) {
        } else if self.tiers_asked.remove(&id) {
            if outcome.is_err() {
                // What it has is not known.
                self.tiers_due = now.mono + TIER_AGAIN;
                self.tier_at = Some(self.tiers_due);
            }
        } else if let Some(outcome) = self.image_gc.host_done(id, outcome) {
            let Some(outcome) = self.log_done(id, outcome) else { return };
            if !self.dead.done(id, &outcome) {
                self.clearing_done(now, id, &outcome);
            }
        }
    }

    /// Gives back what was none of the logs'.
    fn log_done(&mut self, id: ActionId, outcome: Result<HostReply, Failure>) -> Option<Result<(), Failure>> {
        let ours = match outcome.clone() {
            Ok(HostReply::LargeLogs { large, missing }) => self.logs.measured(id, Ok((large, missing))),
            Ok(HostReply::Rotated(name)) => self.logs.done(id, Ok(Some(name))),
            Ok(_) => self.logs.done(id, Ok(None)),
            Err(failure) => self.logs.measured(id, Err(failure.clone())) || self.logs.done(id, Err(failure)),
        };
        (!ours).then(|| outcome.map(|_| ()))
    }

    fn clearing_done(&mut self, now: Now, id: ActionId, outcome: &Result<(), Failure>) {
        let Some((uid, clearing)) = self.clearing.iter_mut().find(|(_, clearing)| clearing.waits_for(id)) else { return };
        clearing.done(now, id, outcome);
        if clearing.is_done() {
            let uid = uid.clone();
            self.clearing.remove(&uid);
            self.cleared.push(uid);
        }
    }
}

impl Kubelet {
    /// Cleans up what can be.
    pub(crate) fn keep_house(&mut self, now: Now, out: &mut Out<'_>) {
        for uid in std::mem::take(&mut self.housekeeping.cleared) {
            self.pleg.forget(&uid);
            if !self.workers.contains_key(&uid) {
                self.parts.listings.release(&uid);
            }
        }
        for (uid, clearing) in &mut self.housekeeping.clearing {
            clearing.due(now, uid, self.parts.config.pods.runtime_request_timeout, out);
        }
        self.survey(now, out);
        self.size_tier(now, out);
        let limit = self.parts.config.pods.runtime_request_timeout;
        self.housekeeping.dead.due(limit, out);
        let logs = || running_logs(&self.workers, &self.unreadable, &self.parts, &self.pleg);
        self.housekeeping.logs.due(now, &self.parts.config.container_logs, limit, logs, out);
        if self.parts.runtime.version().is_some() {
            let in_use = || InUse::of(self.workers.values()).and_of(self.unreadable.unread_pods(&self.workers).map(|(_, pod)| pod));
            self.housekeeping.image_gc.due(now, &self.parts.config.images, limit, in_use, out);
        }
    }

    /// Dead containers and sandboxes of one pod that lives on (POD-340, POD-342).
    pub(crate) fn collect_dead(&mut self, worker: &PodWorker, out: &mut Out<'_>) {
        let limit = self.parts.config.pods.runtime_request_timeout;
        self.housekeeping.dead.collect(worker, &self.parts.config.paths.container_logs, limit, out);
    }

    /// What is left of a pod whose worker is done.
    pub(crate) fn remains_of(&self, worker: &PodWorker) -> Remains {
        Remains::of(worker, &self.parts.config, self.parts.pod_log_directory(&worker.pod))
    }

    fn survey(&mut self, now: Now, out: &mut Out<'_>) {
        if !self.parts.startup.is_done() || !self.pods.sources_ready() || !self.pleg.has_listed() {
            return;
        }
        let survey = &mut self.housekeeping.survey;
        if survey.next.is_none_or(|at| at <= now.mono) && survey.dirs.is_none() && survey.cgroups.is_none() {
            survey.plan_next(now);
            let mut ask = |call| out.issue(Owner::Housekeeping, Lane::Housekeeping, TIMEOUT, Call::Host(call));
            survey.dirs = Some(ask(HostCall::ListPodDirs));
            // Of these one at a time: surveys may follow each other soon.
            survey.logs = survey.logs.or_else(|| Some(ask(HostCall::ListPodLogs)));
            survey.sweep = survey.sweep.or_else(|| Some(ask(HostCall::SweepLogLinks)));
            survey.cgroups = self.parts.config.cgroups.per_qos.then(|| ask(HostCall::ListPodCgroups));
        }
        for uid in std::mem::take(&mut self.housekeeping.found_dirs) {
            let known = self.workers.contains_key(&uid) || self.pods.get(&uid).is_some() || self.unreadable.has_pod(&uid);
            if !known && !self.housekeeping.is_clearing(&uid) {
                self.adopt_orphan(now, uid, String::new(), String::new());
            }
        }
        self.remove_orphaned_logs(out);
        for (uid, name) in std::mem::take(&mut self.housekeeping.found_cgroups) {
            // Of a pod whose cgroup was removed already, it is a late one: the worker may wait for the API server for long.
            let wanted = self.workers.get(&uid).map_or_else(|| self.pods.get(&uid).is_some(), |worker| !worker.cgroup_removed);
            if wanted || self.unreadable.has_pod(&uid) {
                continue;
            }
            if self.pleg.runs(&uid) {
                // Something of it ran when the runtime was last listed: it is about to get a worker, or the listing is old.
                self.housekeeping.survey_at(now.mono + SURVEY_AGAIN);
                continue;
            }
            let id = out.issue(Owner::Housekeeping, Lane::Housekeeping, TIMEOUT, Call::Host(HostCall::RemoveCgroup { name }));
            self.housekeeping.survey.removals.insert(id);
        }
    }

    /// POD-343: logs of pods of which neither a source nor the runtime nor the disk knows anything else (evictPodLogsDirectories).
    fn remove_orphaned_logs(&mut self, out: &mut Out<'_>) {
        // Gathered once, if any name asks for it.
        let mut worked_on: Option<BTreeSet<String>> = None;
        for name in std::mem::take(&mut self.housekeeping.found_logs) {
            let uid = PodUid::new(name.rsplit('_').next().unwrap_or_default());
            let known = self.workers.contains_key(&uid) || self.pods.get(&uid).is_some() || self.unreadable.has_pod(&uid);
            if !known && !self.housekeeping.is_clearing(&uid) && !self.pleg.holds(&uid) {
                let path = format!("{}/{name}", self.parts.config.paths.pod_logs);
                // The UID that a manifest names may have such a line in it, too.
                let all = || {
                    let wanted = self.pods.iter().map(|(_, desired)| &desired.pod);
                    self.workers
                        .values()
                        .map(|worker| &worker.pod)
                        .chain(wanted)
                        .map(|pod| self.parts.pod_log_directory(pod))
                        .collect()
                };
                if uid_with_line(&name) && worked_on.get_or_insert_with(all).contains(&path) {
                    continue;
                }
                let call = HostCall::RemovePodLogs { path };
                let _removed = out.issue(Owner::Housekeeping, Lane::Housekeeping, TIMEOUT, Call::Host(call));
            }
        }
    }

    /// NODE-134
    fn size_tier(&mut self, now: Now, out: &mut Out<'_>) {
        if self.housekeeping.tier_at.is_none_or(|at| at > now.mono) {
            return;
        }
        if !self.parts.config.cgroups.per_qos {
            self.housekeeping.tier_at = None;
            return;
        }
        if !self.parts.startup.is_done() {
            self.housekeeping.tier_at = Some(now.mono + TIER_DELAY);
            return;
        }
        let active = self.workers.values().filter(|w| w.phase < Phase::Terminated && w.source.is_some());
        let shares = burstable_shares(active.map(|w| Arc::as_ref(&w.pod)));
        let house = &mut self.housekeeping;
        let all = house.tiers_due <= now.mono;
        if all {
            house.tiers_due = now.mono + TIER_PERIOD;
        }
        house.tier_at = Some(house.tiers_due);
        if house.tier_shares.replace(shares) == Some(shares) && !all {
            return;
        }
        let Some(machine) = self.parts.startup.machine() else { return };
        for (name, settings) in tiers(&self.parts.config, self.parts.cgroup_driver(), machine, shares, all) {
            let call = Call::Host(HostCall::ApplyCgroup { name, settings });
            house.tiers_asked.insert(out.issue(Owner::Housekeeping, Lane::Housekeeping, TIMEOUT, call));
        }
    }
}

/// Whether a directory's name has more lines than part namespace, name and UID.
fn uid_with_line(directory: &str) -> bool {
    directory.matches('_').count() > 2
}

/// The logs of containers that run, by path. A pod that cannot be read writes them as any other.
fn running_logs(
    workers: &BTreeMap<PodUid, PodWorker>,
    unreadable: &Unreadables,
    parts: &Parts,
    pleg: &Pleg,
) -> BTreeMap<String, ContainerId> {
    let mut logs = log_rotation::running(workers.values());
    for (uid, pod) in unreadable.unread_pods(workers) {
        let directory = parts.pod_log_directory(&pod);
        for (id, (name, attempt)) in pleg.runtime_pod(&uid).iter().flat_map(|pod| &pod.running) {
            logs.insert(format!("{directory}/{name}/{attempt}.log"), id.clone());
        }
    }
    logs
}

#[cfg(test)]
impl Housekeeping {
    /// Nothing is to be done about the tiers.
    pub(crate) fn tier_is_settled(&mut self) {
        self.tier_at = None;
    }

    /// Whether the tier that pods share is to follow them.
    pub(crate) fn tier_follows(&self) -> bool {
        self.tier_at.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::FailureKind;

    fn at(seconds: u64) -> Now {
        Now { mono: Mono::from_start(Duration::from_secs(seconds)), wall: jiff::Timestamp::UNIX_EPOCH }
    }

    // POD-343: swarm seeds 18899, 19620. Of an operation that was given up, something may appear after any number of early surveys.
    #[test]
    fn early_surveys_do_not_take_away_the_late_one() {
        let mut housekeeping =
            Housekeeping { survey: Survey { next: Some(at(600).mono), ..Survey::default() }, ..Housekeeping::default() };
        for harmless in [Owner::Plugins, Owner::CsiSurvey, Owner::NodeFiles, Owner::Housekeeping] {
            housekeeping.gave_up(at(0), &harmless);
            assert_eq!(housekeeping.survey.next, Some(at(600).mono), "{harmless:?}");
        }
        housekeeping.gave_up(at(0), &Owner::Volume(PodUid::new("u"), "v".to_owned()));
        let late = at(0).mono + SURVEY_LATE;
        for second in [1, 2] {
            housekeeping.orphan_ended(at(second));
            assert_eq!(housekeeping.survey.next, Some(at(second).mono));
            housekeeping.survey.plan_next(at(second));
            assert_eq!(housekeeping.survey.next, Some(late));
        }
        let then = Now { mono: late, ..at(0) };
        housekeeping.survey.plan_next(then);
        assert_eq!(housekeeping.survey.next, Some(late + SURVEY_PERIOD));
    }

    // R12, POD-343: nobody but the survey knows of that cgroup, so it looks again, ever more rarely while it is in vain.
    #[test]
    fn removal_of_a_cgroup_that_failed_is_tried_again_with_a_back_off() {
        let (mut survey, id) = (Survey::default(), ActionId(1));
        let mut waits = Vec::new();
        for _ in 0..8 {
            survey.plan_next(at(0));
            survey.removals.insert(id);
            assert!(survey.removed(at(0), id, true));
            waits.push(survey.next.unwrap().since(Mono::ZERO).as_secs());
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 600, 600]);
        assert!(!survey.removed(at(0), id, true), "it ends once");
    }

    // NODE-134: what the tier has after a failed call is not known, so it is set again.
    #[test]
    fn tiers_are_set_again_if_that_failed() {
        let id = ActionId(7);
        let mut housekeeping = Housekeeping { tiers_due: at(60).mono, tiers_asked: [id].into(), ..Housekeeping::default() };
        housekeeping.host_done(at(5), id, Err(Failure::new(FailureKind::UnknownOutcome, "context deadline exceeded")));
        assert_eq!((housekeeping.tiers_due, housekeeping.tier_at), (at(15).mono, Some(at(15).mono)));
    }

    // NODE-134: pods that come and go put no other look off.
    #[test]
    fn tiers_follow_pods_soon_whatever_is_planned() {
        let mut housekeeping = Housekeeping { tier_at: Some(at(60).mono), ..Housekeeping::default() };
        housekeeping.pods_changed(at(5));
        assert_eq!(housekeeping.tier_at, Some(at(5).mono + TIER_DELAY));
        housekeeping.pods_changed(at(6));
        assert_eq!(housekeeping.tier_at, Some(at(5).mono + TIER_DELAY));
    }
}
