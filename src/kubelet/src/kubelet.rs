//! The decider: owns the parts, routes each event to the one that it is for, and lets every pod that it touched plan anew.
//! Upstream: pkg/kubelet/kubelet.go.
//! Differs: one synchronous function from events to actions; nothing waits, so nothing needs a lock.

mod due;
mod guard;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use self::due::Part;
use self::guard::Faults;
pub(crate) use self::guard::QUARANTINED;
use crate::action::{Action, ApiCall, Call, Lane};
use crate::alarms::Alarms;
use crate::cache::ObjectCache;
use crate::cache::runtime_classes::RuntimeClasses;
use crate::cache::services::ServiceCache;
use crate::config::Config;
use crate::csi::CsiReply;
use crate::event::{ApiReply, CriReply, Event, HostReply, Object, PodSource, ProbeOutcome, Unreadable, WatchKey};
use crate::facts::Fact;
use crate::failure::{Failure, FailureKind};
use crate::housekeeping::Housekeeping;
use crate::ids::{ActionId, PodUid};
use crate::images::ImageManager;
use crate::node::lease::NodeLease;
use crate::node::manager::NodeManager;
use crate::node::runtime_health::RuntimeHealth;
use crate::node_files::NodeFiles;
use crate::out::{Ledger, Out, Owner};
use crate::parts::Parts;
use crate::pleg::Pleg;
use crate::plugins::Plugins;
use crate::pod::chain::StepReply;
use crate::pod::listings::Listings;
use crate::pod::manager::{PodManager, name_of};
use crate::pod::worker::PodWorker;
use crate::prober::{Prober, exec_outcome};
use crate::quarantine::Quarantine;
use crate::recorder::{Recorded, Recorder, Subject};
use crate::rng::Rng;
use crate::startup::Startup;
use crate::static_pods::StaticPods;
use crate::status_manager::StatusManager;
use crate::time::{Mono, Now, earliest};
use crate::tokens::TokenManager;
use crate::unreadable::{Unreadables, pod_by_name};
use crate::volumes::csi::StepReply as VolumeReply;
use crate::volumes::manager::VolumeManager;
use crate::work::{OnWork, Work};
use crate::workers::Doubts;

/// The pure machine. See the crate's head for the reading order.
#[derive(Debug)]
pub struct Kubelet {
    pub(crate) parts: Parts,
    pub(crate) pods: PodManager,
    pub(crate) workers: BTreeMap<PodUid, PodWorker>,
    pub(crate) pleg: Pleg,
    pub(crate) housekeeping: Housekeeping,
    pub(crate) dirty: BTreeSet<PodUid>,
    /// When each worker wants to be planned again: of every worker that is not dirty.
    pub(crate) alarms: Alarms<PodUid>,
    pub(crate) affinity: Doubts,
    pub(crate) static_pods: StaticPods,
    /// Pods on which the core failed.
    pub(crate) quarantine: Quarantine,
    /// What is there and cannot be read.
    pub(crate) unreadable: Unreadables,
    faults: Faults,
    work: Work,
    lease: NodeLease,
    recorder: Recorder,
    ledger: Ledger,
    pending_events: Vec<Recorded>,
    /// The node's addresses as pods were last told of them.
    host_ips: Vec<String>,
    facts: Vec<Fact>,
    node_listed: bool,
    watching_pods: bool,
}

impl Kubelet {
    /// A machine that has seen nothing yet; its first event is [`Event::Started`].
    #[must_use]
    pub fn new(config: Arc<Config>, seed: u64) -> Self {
        let mut sources = BTreeSet::new();
        if !config.node.standalone {
            sources.insert(PodSource::Api);
        }
        if config.static_pods.path.is_some() {
            sources.insert(PodSource::File);
        }
        if config.static_pods.url.is_some() {
            sources.insert(PodSource::Http);
        }
        let mut rng = Rng::new(seed);
        let parts = Parts {
            startup: Startup::default(),
            runtime: RuntimeHealth::new(config.pods.runtime_request_timeout),
            planned: None,
            listings: Listings::default(),
            images: ImageManager::new(&config),
            volumes: VolumeManager::default(),
            plugins: Plugins::default(),
            objects: ObjectCache::new(config.pods.change_detection, config.node.standalone)
                .synced_every(config.pods.sync_frequency),
            services: ServiceCache::default(),
            runtime_classes: RuntimeClasses::new(config.node.standalone),
            tokens: TokenManager::new(rng.next_u64()),
            statuses: StatusManager::new(),
            prober: Prober::new(rng.next_u64()).synced_every(config.pods.sync_frequency),
            node: NodeManager::new(Arc::clone(&config)),
            node_files: NodeFiles::default(),
            rng,
            config: Arc::clone(&config),
        };
        Self {
            parts,
            pods: PodManager::new(sources),
            workers: BTreeMap::new(),
            pleg: Pleg::new(config.pods.runtime_request_timeout),
            housekeeping: Housekeeping::default(),
            dirty: BTreeSet::new(),
            alarms: Alarms::default(),
            affinity: Doubts::default(),
            static_pods: StaticPods::new(&config),
            quarantine: Quarantine::default(),
            unreadable: Unreadables::default(),
            faults: Faults::default(),
            work: Work::default(),
            lease: NodeLease::new(&config.node.name, config.node.lease_duration),
            recorder: Recorder::new(&config.node.name, config.events.qps, config.events.burst),
            ledger: Ledger::default(),
            pending_events: Vec::new(),
            host_ips: Vec::new(),
            facts: Vec::new(),
            node_listed: false,
            watching_pods: false,
        }
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &Arc<Config> {
        &self.parts.config
    }

    /// Tells somebody for whom the core works, from now on.
    pub fn on_work(&mut self, on_work: OnWork) {
        self.work.told_to(on_work);
    }

    /// The pod that was worked for last since this was last asked.
    pub fn worked_for(&mut self) -> Option<PodUid> {
        self.work.take_last()
    }

    /// Earlier lives died while they worked on that pod, so often in a row: it is taken last.
    pub fn suspect(&mut self, pod: &PodUid, deaths: u32) {
        self.quarantine.suspect(Mono::ZERO, pod, deaths);
    }

    /// Takes one event and says what is to be done about it. Does not panic: what does, within, costs the pod that it was for.
    pub fn handle(&mut self, now: Now, event: Event, actions: &mut Vec<Action>) {
        let mut ledger = std::mem::take(&mut self.ledger);
        let mut recorded = std::mem::take(&mut self.pending_events);
        let mut work = std::mem::take(&mut self.work);
        let mut facts = std::mem::take(&mut self.facts);
        facts.clear();
        let mut out = Out::new(&mut ledger, actions, &mut recorded).that_tells(&mut work).that_counts(&mut facts);
        self.take(now, event, &mut out);
        self.due(now, &mut out);
        self.settle(now, &mut out);
        self.guarded(now, Part::StaticPods, &mut out, |kubelet, out| kubelet.tend_mirrors(now, out));
        // A mirror may have shown what an earlier life told of its pod.
        self.settle(now, &mut out);
        self.guarded(now, Part::Drivers, &mut out, |kubelet, out| {
            kubelet.parts.drive_volumes(now, kubelet.pods.sources_ready(), out);
        });
        out.rests();
        if self.parts.config.node.standalone {
            // NODE-002: there is nobody to tell.
            recorded.clear();
        }
        let mut nothing = Vec::new();
        let mut out = Out::new(&mut ledger, actions, &mut nothing);
        self.guarded(now, Part::Recorder, &mut out, |kubelet, out| kubelet.recorder.take(now, &mut recorded, out));
        // Of events that cannot be told, none waits.
        recorded.clear();
        self.ledger = ledger;
        self.pending_events = recorded;
        self.work = work;
        self.facts = facts;
    }

    /// What the last event made happen that is counted.
    #[must_use]
    pub fn facts(&self) -> &[Fact] {
        &self.facts
    }

    /// When [`Event::TimerFired`] is wanted next.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        let workers = self.alarms.first();
        debug_assert_eq!(
            workers,
            earliest(self.workers.values().filter(|worker| !self.quarantine.holds(&worker.uid)).map(PodWorker::deadline)),
            "a worker changed and was not planned"
        );
        earliest(self.deadlines().into_iter().map(|(_, at)| at).chain([workers]))
    }

    /// What each part waits for: to tell why the agent wakes. One that has failed waits for no less than its pause.
    #[must_use]
    pub fn deadlines(&self) -> [(&'static str, Option<Mono>); Part::ALL.len()] {
        Part::ALL.map(|part| (part.name(), self.faults.not_before(part, self.deadline_of(part))))
    }

    fn route(&mut self, now: Now, event: Event, out: &mut Out<'_>) {
        match event {
            Event::Started => self.started(out),
            Event::WatchListed { key, objects } => self.watch_listed(now, key, objects, out),
            Event::WatchApplied { key, object } => self.watch_applied(now, &key, object, out),
            Event::WatchDeleted { key, object } => self.watch_deleted(now, &key, object, out),
            Event::WatchFailed { key, failure } => self.watch_failed(&key, &failure),
            Event::RuntimeEventsOpened => self.pleg.events_opened(now),
            Event::RuntimeEventsClosed { failure } => {
                self.pleg.events_closed(now);
                if failure.kind != FailureKind::Unimplemented {
                    self.parts.runtime.suspect(now);
                }
            }
            Event::RuntimeChanged { pod } => self.runtime_changed(now, pod),
            Event::CriDone { id, outcome } => self.cri_done(now, id, outcome, out),
            Event::ApiDone { id, outcome } => self.api_done(now, id, outcome, out),
            Event::HostDone { id, outcome } => self.host_done(now, id, outcome, out),
            Event::ProbeDone { id, outcome } => self.probe_done(now, id, outcome, out),
            Event::CsiDone { id, outcome } => self.csi_done(now, id, outcome, out),
            Event::FetchDone { id, outcome } => self.fetch_done(now, id, outcome, out),
            Event::PluginsChanged => self.parts.plugins.registry_changed(),
            Event::PluginsUnwatched => self.parts.plugins.registry_unwatched(),
            Event::ManifestsChanged => self.static_pods.files_changed(),
            Event::TimerFired => {}
        }
    }

    fn started(&self, out: &mut Out<'_>) {
        out.record(Recorded::normal(Subject::Node, "Starting", "Starting kubelet."));
        if !self.parts.config.node.standalone {
            // NODE-011: pods are watched once the own Node is known, and the machine: they are judged by both.
            for key in [WatchKey::Node, WatchKey::Services] {
                out.post(Lane::Objects, None, Call::Api(ApiCall::Watch(key)));
            }
        }
    }

    fn watch_listed(&mut self, now: Now, key: WatchKey, objects: Vec<Object>, out: &mut Out<'_>) {
        self.unreadable.listed(now, &key, &objects);
        match key {
            WatchKey::Pods => {
                let pods = objects.into_iter().filter_map(|o| if let Object::Pod(pod) = o { Some(pod) } else { None }).collect();
                let changes = self.pods.listed_beside(now.wall, PodSource::Api, pods, &self.unreadable.pods());
                self.pods_changed(now, changes, out);
            }
            WatchKey::Node => {
                let node = objects.into_iter().find_map(|o| if let Object::Node(node) = o { Some(node) } else { None });
                match node {
                    Some(node) => self.node_seen(now, node, out),
                    // It is there: nobody has to make it.
                    None if self.unreadable.of(&key).next().is_some() => {}
                    None => self.parts.node.not_listed(),
                }
                self.node_listed = true;
                self.watch_pods(out);
            }
            WatchKey::Services => {
                let services =
                    objects.into_iter().filter_map(|o| if let Object::Service(s) = o { Some(s) } else { None }).collect();
                let first = !self.parts.services.is_synced();
                let unknown: Vec<_> = self.unreadable.of(&key).collect();
                self.parts.services.listed_beside(services, &unknown);
                if first {
                    self.all_dirty();
                }
            }
            WatchKey::ConfigMap { .. } | WatchKey::Secret { .. } => {
                let woken = self.parts.objects.listed(&key, objects, out);
                self.wake(woken);
            }
            WatchKey::CsiDrivers => {
                let drivers = objects.into_iter().filter_map(|o| if let Object::CsiDriver(d) = o { Some(d) } else { None });
                let unknown = self.unreadable.of(&key).map(|unknown| unknown.name.clone()).collect();
                self.parts.volumes.csi.drivers_listed(drivers, &unknown);
            }
            WatchKey::RuntimeClasses => {
                let classes = objects.into_iter().filter_map(|o| if let Object::RuntimeClass(c) = o { Some(c) } else { None });
                let unknown = self.unreadable.of(&key).map(|unknown| unknown.name.clone()).collect();
                self.parts.runtime_classes.listed(classes, &unknown);
                self.all_dirty();
            }
        }
    }

    fn watch_applied(&mut self, now: Now, key: &WatchKey, object: Object, out: &mut Out<'_>) {
        self.unreadable.applied(now, key, &object);
        match object {
            Object::Pod(pod) => {
                let changes = self.pods.applied(now.wall, PodSource::Api, pod);
                self.pods_changed(now, changes, out);
            }
            Object::Node(node) => self.node_seen(now, node, out),
            Object::Service(service) => self.parts.services.applied(service),
            object @ (Object::ConfigMap(_) | Object::Secret(_) | Object::Unreadable(_)) => {
                let woken = self.parts.objects.applied(key, object, out);
                self.wake(woken);
            }
            Object::CsiDriver(driver) => self.parts.volumes.csi.driver_applied(driver),
            Object::RuntimeClass(class) => {
                self.parts.runtime_classes.applied(&class);
                self.all_dirty();
            }
        }
    }

    fn watch_deleted(&mut self, now: Now, key: &WatchKey, object: Object, out: &mut Out<'_>) {
        self.unreadable.deleted(key, &object);
        match object {
            Object::Pod(pod) => {
                let changes = self.pods.deleted(PodSource::Api, &pod);
                self.pods_changed(now, changes, out);
            }
            Object::Unreadable(unknown) => self.unreadable_deleted(now, key, &unknown, out),
            Object::Node(_) => self.parts.node.gone(),
            Object::Service(service) => self.parts.services.deleted(&service),
            Object::ConfigMap(_) | Object::Secret(_) => {
                let woken = self.parts.objects.deleted(key, out);
                self.wake(woken);
            }
            Object::CsiDriver(driver) => self.parts.volumes.csi.driver_deleted(&driver),
            Object::RuntimeClass(class) => {
                self.parts.runtime_classes.gone(class.metadata.name.as_deref().unwrap_or_default());
            }
        }
    }

    /// What cannot be read is gone all the same.
    fn unreadable_deleted(&mut self, now: Now, key: &WatchKey, unknown: &Unreadable, out: &mut Out<'_>) {
        match key {
            WatchKey::Pods => {
                let pod = pod_by_name(unknown);
                self.pods.mirror_gone(&name_of(&pod), &PodUid::new(&unknown.uid));
                let changes = self.pods.deleted(PodSource::Api, &pod);
                self.pods_changed(now, changes, out);
                // While it could not be read, whatever of it runs or lies on the disk was left alone.
                self.adopt_orphans(now, out);
                self.housekeeping.orphan_ended(now);
            }
            WatchKey::Node => self.parts.node.gone(),
            WatchKey::Services => self.parts.services.gone(&unknown.namespace, &unknown.name),
            WatchKey::ConfigMap { .. } | WatchKey::Secret { .. } => {
                let woken = self.parts.objects.deleted(key, out);
                self.wake(woken);
            }
            WatchKey::CsiDrivers => self.parts.volumes.csi.driver_gone(&unknown.name),
            WatchKey::RuntimeClasses => self.parts.runtime_classes.gone(&unknown.name),
        }
    }

    fn watch_failed(&mut self, key: &WatchKey, failure: &Failure) {
        if matches!(key, WatchKey::ConfigMap { .. } | WatchKey::Secret { .. }) {
            self.parts.objects.failed(key, failure);
        }
    }

    fn node_seen(&mut self, now: Now, node: Arc<k8s_openapi::api::core::v1::Node>, out: &mut Out<'_>) {
        self.parts.objects.node_seen(&node);
        self.parts.node.seen(node, out);
        self.node_known(now);
        self.addresses_follow();
        self.node_listed = true;
        self.watch_pods(out);
    }

    /// POD-298: pods tell of their node's addresses.
    fn addresses_follow(&mut self) {
        let host_ips = self.parts.host_ips();
        if host_ips != self.host_ips {
            self.host_ips = host_ips;
            self.all_dirty();
        }
    }

    fn node_known(&mut self, now: Now) {
        if let Some(node) = self.parts.node.node()
            && let Some(uid) = node.metadata.uid.clone()
        {
            self.lease.node_known(now, &uid);
        }
    }

    fn watch_pods(&mut self, out: &mut Out<'_>) {
        if !self.watching_pods && self.node_listed && self.parts.startup.machine().is_some() {
            self.watching_pods = true;
            out.post(Lane::Objects, None, Call::Api(ApiCall::Watch(WatchKey::Pods)));
        }
    }

    fn runtime_changed(&mut self, now: Now, pod: PodUid) {
        // Of a pod without a worker the next listing tells more; there is no hurry.
        if let Some(worker) = self.workers.get_mut(&pod) {
            worker.runtime_changed(now);
            self.dirty.insert(pod);
        }
    }

    fn wake(&mut self, pods: BTreeSet<PodUid>) {
        self.dirty.extend(pods);
    }

    pub(crate) fn all_dirty(&mut self) {
        self.dirty.extend(self.workers.keys().cloned());
    }

    fn cri_done(&mut self, now: Now, id: ActionId, outcome: Result<CriReply, Failure>, out: &mut Out<'_>) {
        match out.owner_of(id) {
            Some(Owner::RuntimeHealth) => {
                if self.parts.runtime.done(now, id, outcome).changed {
                    self.runtime_health_changed(out);
                }
            }
            Some(Owner::Pleg) => {
                let first = !self.pleg.has_listed();
                let listed = outcome.and_then(|reply| match reply {
                    CriReply::Listing { began, listing } => Ok((began, listing)),
                    _ => Err(Failure::new(FailureKind::Other, "the runtime answered something else")),
                });
                let changed = self.pleg.listed(now, listed);
                for pod in changed {
                    self.runtime_changed(now, pod);
                }
                if first && self.pleg.has_listed() {
                    self.parts.node.hurry();
                }
                self.adopt_orphans(now, out);
            }
            Some(Owner::Pod(uid)) => self.pod_done(now, &uid, id, outcome.map(StepReply::Cri), out),
            Some(Owner::Image(uid, name)) => {
                if matches!(outcome, Ok(CriReply::Pulled { .. })) {
                    self.housekeeping.images_changed(now);
                }
                if self.parts.images.done(now, &uid, &name, id, outcome, out) {
                    self.dirty.insert(uid);
                }
            }
            Some(Owner::Probe(_, number)) => {
                let (command, timeout) = self.parts.prober.exec_of(number);
                let outcome = exec_outcome(outcome, command, timeout);
                self.probed(now, number, id, outcome, out);
            }
            Some(Owner::Housekeeping | Owner::ImageGc) => {
                if let Ok(CriReply::Images(images)) = &outcome {
                    self.parts.images.listed(now, images);
                }
                self.housekeeping.cri_done(now, id, outcome, out);
            }
            _ => {}
        }
    }

    fn api_done(&mut self, now: Now, id: ActionId, outcome: Result<ApiReply, Failure>, out: &mut Out<'_>) {
        match out.owner_of(id) {
            Some(Owner::Node) => {
                self.parts.node.done(now, id, outcome, &mut self.parts.rng, out);
                self.addresses_follow();
                self.node_known(now);
            }
            Some(Owner::Affinity) => self.doubts_end(now, outcome, out),
            Some(Owner::Lease) => self.lease.done(now, outcome, &mut self.parts.rng),
            Some(Owner::PodStatus(uid)) => {
                self.parts.statuses.done(now, &uid, outcome, out);
                self.dirty.insert(uid);
            }
            Some(Owner::Object(key)) => {
                let woken = self.parts.objects.done(now, &key, id, outcome);
                self.wake(woken);
            }
            Some(Owner::Token(number)) => {
                let woken = self.parts.tokens.done(now, number, outcome);
                self.dirty.extend(woken);
            }
            Some(Owner::Claim(uid, volume)) => {
                if self.parts.volumes.claim_done(now, &uid, &volume, id, &outcome, out) {
                    self.dirty.insert(uid);
                }
            }
            Some(Owner::Csi(name)) => self.volume_done(now, &name, id, outcome.map(VolumeReply::Api), out),
            Some(Owner::Plugins) => {
                let facts = self.parts.node.plugin_facts();
                if let Some(node) = self.parts.plugins.api_done(now, id, outcome, facts, out) {
                    self.parts.node.seen(node, out);
                }
            }
            Some(Owner::Recorder) => self.recorder.done(now, id, outcome),
            Some(Owner::Mirror(name)) => self.mirror_done(now, &name, outcome),
            _ => {}
        }
    }

    fn host_done(&mut self, now: Now, id: ActionId, outcome: Result<HostReply, Failure>, out: &mut Out<'_>) {
        let owner = out.owner_of(id);
        if let Some(owner) = &owner
            && outcome.as_ref().is_err_and(Failure::outcome_unknown)
        {
            self.housekeeping.gave_up(now, owner);
        }
        match owner {
            Some(Owner::Startup) => {
                self.parts.startup.done(now, id, outcome, out);
                self.watch_pods(out);
                self.plan_tiers(out);
                self.parts.node.hurry();
                if self.parts.startup.is_done() {
                    self.all_dirty();
                }
            }
            Some(Owner::Node) => {
                self.parts.node.addresses_done(id, outcome);
                self.addresses_follow();
            }
            Some(Owner::Pod(uid)) => self.pod_done(now, &uid, id, outcome.map(StepReply::Host), out),
            Some(Owner::Volume(uid, volume)) => {
                if self.parts.volumes.done(now, &uid, &volume, id, outcome, out) {
                    self.dirty.insert(uid);
                }
            }
            Some(Owner::Csi(name)) => self.volume_done(now, &name, id, outcome.map(VolumeReply::Host), out),
            Some(Owner::Plugins) => self.parts.plugins.host_done(now, id, outcome),
            Some(Owner::Manifests) => self.manifests_read(now, outcome, out),
            Some(Owner::CsiSurvey) => {
                // Volumes for one pod only wait for it.
                if self.parts.volumes.csi.surveyed(now, outcome) {
                    self.all_dirty();
                }
            }
            Some(Owner::Housekeeping | Owner::ImageGc) => self.housekeeping.host_done(now, id, outcome),
            Some(Owner::ImageRecords) => {
                let woken = self.parts.images.host_done(now, id, outcome, out);
                self.wake(woken);
            }
            Some(Owner::NodeFiles) => {
                if let Some(woken) = self.parts.node_files.done(now, id, outcome) {
                    if let Some(why) = self.parts.node_files.first_complaint(&self.parts.config.dns) {
                        out.record(Recorded::warning(Subject::Node, "CheckLimitsForResolvConf", why));
                    }
                    self.wake(woken);
                }
            }
            _ => {}
        }
    }

    fn csi_done(&mut self, now: Now, id: ActionId, outcome: Result<CsiReply, Failure>, out: &mut Out<'_>) {
        match out.owner_of(id) {
            Some(Owner::Plugins) => self.parts.plugins.done(now, id, outcome, out),
            Some(Owner::Csi(name)) => self.volume_done(now, &name, id, outcome.map(VolumeReply::Csi), out),
            _ => {}
        }
    }

    fn fetch_done(&mut self, now: Now, id: ActionId, outcome: Result<Vec<u8>, Failure>, out: &mut Out<'_>) {
        if out.owner_of(id) == Some(Owner::ManifestUrl) {
            self.url_answered(now, outcome, out);
        }
    }

    fn volume_done(&mut self, now: Now, name: &str, id: ActionId, outcome: Result<VolumeReply, Failure>, out: &mut Out<'_>) {
        let woken = self.parts.volumes.csi.done(now, name, id, outcome, out);
        self.wake(woken);
    }

    fn probe_done(&mut self, now: Now, id: ActionId, outcome: Result<ProbeOutcome, Failure>, out: &mut Out<'_>) {
        match out.owner_of(id) {
            Some(Owner::Probe(_, number)) => self.probed(now, number, id, outcome, out),
            Some(Owner::Pod(uid)) => self.pod_done(now, &uid, id, outcome.map(StepReply::Probe), out),
            _ => {}
        }
    }

    fn probed(&mut self, now: Now, number: u64, id: ActionId, outcome: Result<ProbeOutcome, Failure>, out: &mut Out<'_>) {
        let Some(told) = self.parts.prober.done(now, number, id, outcome, out) else { return };
        if told.fatal
            && let Some(worker) = self.workers.get_mut(&told.pod)
        {
            // A container that has ended meanwhile is not killed, and goes by its restart policy: looked at first.
            worker.runtime_changed(now);
        }
        self.dirty.insert(told.pod);
    }

    fn runtime_health_changed(&mut self, out: &mut Out<'_>) {
        self.plan_tiers(out);
        self.parts.node.hurry();
        self.all_dirty();
    }

    fn plan_tiers(&mut self, out: &mut Out<'_>) {
        if self.parts.runtime.systemd_cgroup().is_some() {
            let driver = self.parts.cgroup_driver();
            self.parts.startup.plan_tiers(&self.parts.config, driver, out);
        }
    }
}

#[cfg(test)]
mod tests;
