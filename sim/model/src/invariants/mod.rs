//! What must always hold, whatever fails: each a sentence, checked after every event of a run.
//! Upstream: none; each is justified by bugs of the field (S1 to S12 of the study on simulation).
//! Differs: nothing on purpose.

mod causes;
mod written;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use kubelet::action::{ApiCall, Call, CriCall};
use kubelet::csi::CsiCall;
use kubelet::ids::PodUid;
use kubelet::observation::ContainerState;
use serde_json::Value;

use self::causes::{
    age, has_hook, is_attached, is_ready, may_be_stopped, may_lose_readiness, opens, passed_its_probe, pod_by_uid, rules_for_all,
    text,
};
use self::written::{InForce, Written, is_made_anew};
use crate::api::ApiModel;
use crate::api::admission::{is_mirror, runtime_uid};
use crate::api::store::ChangeKind;
use crate::csi::CsiModel;
use crate::manifests::{Wanted, has_come_to_its_end, static_pod_of};
use crate::runtime::{Container, RuntimeFact, RuntimeModel};

/// S11: how many calls of the API server a minute may see, besides those that users' doings explain.
const MOST_API_CALLS_A_MINUTE: usize = 1200;
/// S11: how many times a minute the status of one pod may be written. A container that ends every few seconds needs four each time.
const MOST_STATUSES_A_MINUTE: usize = 120;
/// S11: how many actions may be under way.
const MOST_IN_FLIGHT: usize = 2000;
/// How much a grace may be short, for the time that the stop itself takes.
const GRACE_SLACK: Duration = Duration::from_millis(1500);
/// S5: how long after a start was withdrawn it may have its effect, before the pod's sandbox goes down.
const WITHDRAWN_STARTS_WITHIN: Duration = Duration::from_secs(1);

/// The conditions that a kubelet owns (pkg/kubelet/types/pod_status.go, PodConditionByKubelet): all others are left alone.
const OF_THE_AGENT: [&str; 8] = [
    "PodScheduled",
    "Ready",
    "Initialized",
    "ContainersReady",
    "PodResizeInProgress",
    "PodResizePending",
    "PodReadyToStartContainers",
    "AllContainersRestarting",
];

/// What can be seen of a run at one moment, in whichever stage.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// The API server.
    pub api: &'a ApiModel,
    /// The runtime.
    pub runtime: &'a RuntimeModel,
    /// How long the run has lasted.
    pub elapsed: Duration,
    /// How many actions of the agent are under way.
    pub in_flight: usize,
}

/// How long the agent may not know yet that a pod is gone: the API server may be silent meanwhile.
const TOLD_WITHIN: Duration = Duration::from_secs(15);
/// How long the agent may say what was: a look that gets lost is given up after `runtimeRequestTimeout`, two minutes unless it is set, and
/// a status after half a minute.
const SAYS_WITHIN: Duration = Duration::from_secs(165);

/// How soon the agent looks at a pod of which the runtime said that something changed: whatever else it waits for.
const LOOKS_WITHIN: Duration = Duration::from_secs(2);

/// How long something may still be done by a manifest that has gone, or on account of its end after it has come again: it is read every 20 s,
/// a reading that hangs is given up after eleven, and that may befall two.
const MANIFESTS_ARE_READ_WITHIN: Duration = Duration::from_secs(65);

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// When, since the run began.
    pub at: Duration,
    /// Which.
    pub invariant: &'static str,
    /// How.
    pub how: String,
}

/// What one pod has shown so far.
#[derive(Clone, Debug, Default)]
struct PodRecord {
    phase: String,
    /// Since when it is told so.
    phase_since: Duration,
    ready: bool,
    /// IDs of containers that were said to be ready when last told.
    ready_containers: BTreeSet<String>,
    /// When the users asked for its end.
    deleted_at: Option<Duration>,
    deletion_grace: Duration,
    first_started: Option<Duration>,
    started: BTreeMap<String, u32>,
    /// Starts among them that nobody waited for.
    stale_starts: BTreeMap<String, u32>,
    succeeded: BTreeSet<String>,
    /// Containers that the agent is stopping.
    stopped: BTreeSet<String>,
    containers: BTreeSet<String>,
    /// Conditions that others than the agent own.
    foreign: BTreeSet<String>,
    last_exit: Option<Duration>,
    last_sandbox_down: Option<Duration>,
}

/// Watches over a run.
#[derive(Clone, Debug, Default)]
pub struct Witness {
    first: Option<Broken>,
    pods: BTreeMap<String, PodRecord>,
    /// UIDs that users removed by force.
    forced: BTreeSet<String>,
    /// Containers that the runtime has forgotten, by pod and name: if nobody had told of them yet, nobody can know that they ran.
    lost: BTreeSet<(String, String)>,
    /// UIDs of pods for which a panic was planted.
    poisoned: BTreeSet<String>,
    revision: u64,
    /// Secrets that open a private image, or did once: namespace, name and the image.
    openers: BTreeSet<(String, String, String)>,
    lease_renewed: Option<String>,
    lease_written_at: Option<Duration>,
    clock_jumped_at: Option<Duration>,
    /// A status arrived for which nobody waited any more: newer ones may have overtaken it.
    stale_status: bool,
    pod_gone_at: Option<Duration>,
    /// Pods of which the runtime said that something changed, and since when the agent could have looked at them.
    hinted: BTreeMap<PodUid, Duration>,
    api_calls: Vec<Duration>,
    /// When the status of each pod was written lately, by namespace and name.
    statuses: BTreeMap<(String, String), VecDeque<Duration>>,
    /// When the agent died last.
    died_at: Duration,
    /// When its present life first asked for something.
    began_at: Option<Duration>,
    /// What the manifests of static pods have said.
    written: Written,
    now: Duration,
    /// How many calls were made, by name.
    pub calls: BTreeMap<&'static str, u64>,
    /// How many of them reached the other side, by name.
    pub arrived: BTreeMap<&'static str, u64>,
}

impl Witness {
    /// The first invariant that broke, if one did.
    #[must_use]
    pub fn first_broken(&self) -> Option<&Broken> {
        self.first.as_ref()
    }

    /// How often containers of that pod were started.
    #[must_use]
    pub fn starts_of(&self, uid: &str) -> usize {
        self.pods.get(uid).map_or(0, |record| record.started.values().map(|n| *n as usize).sum())
    }

    /// How long ago the lease was made or renewed, if it ever was; by the time that no clock jump touches.
    #[must_use]
    pub fn lease_age(&self) -> Option<Duration> {
        self.lease_written_at.map(|at| self.now.saturating_sub(at))
    }

    /// The files on the node ask for these static pods from here on, and so does the URL, if that can be told.
    pub fn manifests_are(&mut self, at: Duration, files: BTreeMap<String, Wanted>, url: Option<BTreeMap<String, Wanted>>) {
        self.written.is(at, files, url);
    }

    /// The manifest of a static pod's container, if it is in force and the container cannot be of an earlier one: none looked the same, or
    /// the container was started some time after this one came.
    fn manifest_in_force(&self, scene: Scene<'_>, container: &Container) -> Option<&Value> {
        let InForce { pod, again_since } = self.written.of_container(scene.runtime, container)?;
        let stale = self.pods.get(container.pod.as_str()).is_some_and(|record| !record.stale_starts.is_empty());
        let started = scene.elapsed.saturating_sub(age(scene, container));
        (!stale && again_since.is_none_or(|since| started > since + MANIFESTS_ARE_READ_WITHIN)).then_some(pod)
    }

    /// Whether a mirror's manifest is in force, and nothing that the mirror shows can be on account of its having been gone.
    fn mirror_is_wanted(&self, mirror: &Value) -> bool {
        let told = |since: Duration| self.now > since + SAYS_WITHIN;
        self.written.of_mirror(mirror).is_some_and(|manifest| manifest.again_since.is_none_or(told))
    }

    /// The core panics for that pod, for that is planted.
    pub fn poisoned(&mut self, uid: &str) {
        self.poisoned.insert(uid.to_owned());
    }

    /// The core caught a panic that nobody planted.
    pub fn unplanned_panic(&mut self) {
        let how = "the core caught a panic that was not planted".to_owned();
        self.broken("invariant_only_what_fails_is_left_alone", how);
    }

    /// S14
    fn invariant_only_what_fails_is_left_alone(&mut self, object: &Value) {
        let uid = runtime_uid(object);
        if object["status"]["reason"] == "Quarantined" && !self.poisoned.contains(uid) {
            let how = format!("pod {uid} is left alone: {}", text(&object["status"]["message"]));
            self.broken("invariant_only_what_fails_is_left_alone", how);
        }
    }

    /// Something that must not be was seen.
    pub fn broken(&mut self, invariant: &'static str, how: String) {
        let at = self.now;
        self.first.get_or_insert(Broken { at, invariant, how });
    }

    /// A user removes a pod by force: nothing is promised about its containers any more.
    pub fn forced(&mut self, uid: &str) {
        self.forced.insert(uid.to_owned());
    }

    /// The runtime forgets a container of that pod.
    pub fn lost(&mut self, pod: &str, container: &str) {
        self.lost.insert((pod.to_owned(), container.to_owned()));
    }

    /// Whether it has.
    #[must_use]
    pub fn has_lost(&self, pod: &str, container: &str) -> bool {
        self.lost.contains(&(pod.to_owned(), container.to_owned()))
    }

    /// The node's clock jumped: times that it wrote need not grow from here.
    pub fn clock_jumped(&mut self) {
        self.clock_jumped_at = Some(self.now);
    }

    /// A container of that pod is about to be started by a call for which nobody waits any more: it may have been replaced, or may
    /// be removed before anybody sees it run.
    pub fn stale_start_arrives(&mut self, pod: &str, container: &str) {
        *self.pods.entry(pod.to_owned()).or_default().stale_starts.entry(container.to_owned()).or_default() += 1;
    }

    /// A status is about to be stored that was sent by an earlier life, or given up. The agent cannot help it; it mends it.
    pub fn stale_status_arrives(&mut self) {
        self.stale_status = true;
    }

    /// The agent sent a call.
    pub fn sent(&mut self, at: Duration, call: &Call) {
        *self.calls.entry(call.name()).or_default() += 1;
        self.began_at.get_or_insert(at);
        match call {
            Call::Api(_) => self.api_calls.push(at),
            Call::Cri(CriCall::Observe { pod }) => {
                if self.hinted.remove(pod).is_some_and(|since| at.saturating_sub(since) > LOOKS_WITHIN) {
                    self.looked_at_late(at, pod);
                }
            }
            _ => {}
        }
        if let Call::Api(ApiCall::PatchPodStatus { namespace, name, .. }) = call {
            self.status_written(at, namespace, name);
        }
    }

    /// S11: nothing that a pod is makes the agent write its status without end.
    fn status_written(&mut self, at: Duration, namespace: &str, name: &str) {
        let written = self.statuses.entry((namespace.to_owned(), name.to_owned())).or_default();
        written.push_back(at);
        let minute_ago = at.saturating_sub(Duration::from_secs(60));
        while written.front().is_some_and(|first| *first < minute_ago) {
            written.pop_front();
        }
        if written.len() > MOST_STATUSES_A_MINUTE {
            let how = format!("the status of pod {namespace}/{name} is written {} times within a minute", written.len());
            self.broken("invariant_load_stays_bounded", how);
        }
    }

    /// The runtime's hint that something of a pod changed has reached the agent.
    pub fn hinted(&mut self, at: Duration, pod: &PodUid) {
        self.hinted.entry(pod.clone()).or_insert(at);
    }

    /// The agent died: what it was told is forgotten.
    pub fn agent_died(&mut self) {
        self.hinted.clear();
        self.died_at = self.now;
        self.began_at = None;
    }

    /// S13. `free` tells whether the agent does nothing for the pod that keeps it from looking; `None` if it has no need to.
    pub fn invariant_what_changed_is_looked_at(&mut self, at: Duration, free: impl Fn(&PodUid) -> Option<bool>) {
        let mut late = None;
        self.hinted.retain(|pod, since| match free(pod) {
            None => false,
            Some(false) => {
                *since = at;
                true
            }
            Some(true) => {
                late = late.take().or_else(|| (at.saturating_sub(*since) > LOOKS_WITHIN).then(|| pod.clone()));
                true
            }
        });
        late.into_iter().for_each(|pod| self.looked_at_late(at, &pod));
    }

    fn looked_at_late(&mut self, at: Duration, pod: &PodUid) {
        self.now = at;
        let how = format!("pod {pod} was not looked at for {LOOKS_WITHIN:?} after the runtime said that it changed");
        self.broken("invariant_what_changed_is_looked_at", how);
    }

    /// A call of that name reached the other side.
    pub fn arrived(&mut self, call: &'static str) {
        *self.arrived.entry(call).or_default() += 1;
    }

    /// The runtime is about to do what the agent asked for.
    pub fn runtime_called(&mut self, scene: Scene<'_>, call: &CriCall) {
        self.now = scene.elapsed;
        match call {
            CriCall::StopContainer { id, grace } => {
                self.invariant_nothing_is_killed_before_its_grace(scene, id.as_str(), *grace);
                if let Some(container) = scene.runtime.containers.get(id.as_str()) {
                    let record = self.pods.entry(container.pod.to_string()).or_default();
                    record.stopped.insert(container.name().to_owned());
                }
                self.invariant_nothing_is_stopped_that_nobody_wants_stopped(scene, None, Some(id.as_str()));
            }
            CriCall::StopPodSandbox { id } => {
                self.invariant_nothing_is_stopped_that_nobody_wants_stopped(scene, Some(id.as_str()), None);
                // What still runs in it is killed at once. A start that was withdrawn may still have had its effect, a moment ago.
                let settled = |c: &&Container| c.sandbox == id.as_str() && age(scene, c) > WITHDRAWN_STARTS_WITHIN;
                for container in scene.runtime.running().filter(settled) {
                    self.invariant_nothing_is_killed_before_its_grace(scene, &container.id, Duration::ZERO);
                }
            }
            _ => {}
        }
    }

    /// A driver is about to do what the agent asked for.
    pub fn volume_called(&mut self, scene: Scene<'_>, drivers: &CsiModel, call: &CsiCall) {
        self.now = scene.elapsed;
        self.invariant_volumes_are_used_in_their_order(scene, drivers, call);
    }

    /// Attached, staged, published, and back; and nothing is taken away under a container that runs.
    fn invariant_volumes_are_used_in_their_order(&mut self, scene: Scene<'_>, drivers: &CsiModel, call: &CsiCall) {
        let broken = match call {
            CsiCall::Stage { .. } => drivers
                .volume_of(call)
                .filter(|volume| !is_attached(scene, volume))
                .map(|(driver, handle)| format!("volume {handle} of {driver} is staged before it is attached")),
            CsiCall::Unpublish { target, .. } => {
                let pod = target.split_once("/pods/").and_then(|(_, rest)| rest.split('/').next()).unwrap_or_default();
                let stale = self.pods.get(pod).is_some_and(|record| !record.stale_starts.is_empty());
                let runs = scene.runtime.running().find(|c| c.pod.as_str() == pod && !stale);
                runs.map(|container| format!("{target} is unpublished while container {} runs", container.name()))
            }
            _ => None,
        };
        if let Some(how) = broken.or_else(|| drivers.out_of_order(call)) {
            self.broken("invariant_volumes_are_used_in_their_order", how);
        }
    }

    /// The API server refused the agent something. What it asked for a pod that others removed a moment ago, it could not know, nor that
    /// the authorizer has not heard of one that has just come.
    pub fn invariant_nothing_is_asked_that_is_forbidden(&mut self, scene: Scene<'_>, how: String) {
        self.now = scene.elapsed;
        self.changes(scene);
        let heard = scene.api.behind.lag.is_zero() || !how.contains("no relationship found");
        if heard && self.pod_gone_at.is_none_or(|at| self.now.saturating_sub(at) > TOLD_WITHIN) {
            self.broken("invariant_nothing_is_asked_that_is_forbidden", how);
        }
    }

    /// Looks at what an event has led to.
    pub fn look(&mut self, scene: Scene<'_>, facts: &[(Timestamp, RuntimeFact)]) {
        self.now = scene.elapsed;
        for (_, fact) in facts {
            self.fact(scene, fact);
        }
        self.changes(scene);
        self.invariant_load_stays_bounded(scene);
    }

    fn fact(&mut self, scene: Scene<'_>, fact: &RuntimeFact) {
        let now = self.now;
        match fact {
            RuntimeFact::Started { pod, container, id, .. } => {
                self.invariant_private_images_are_for_who_can_open_them(scene, pod.as_str(), id);
                let record = self.pods.entry(pod.to_string()).or_default();
                record.first_started.get_or_insert(now);
                *record.started.entry(container.clone()).or_default() += 1;
                self.invariant_one_live_instance_of_a_container(scene, pod.as_str(), container);
                self.invariant_restart_policy_is_kept(scene, pod.as_str(), container);
            }
            RuntimeFact::Exited { pod, container, code, .. } => {
                let record = self.pods.entry(pod.to_string()).or_default();
                record.last_exit = Some(now);
                // One that was stopped (for its liveness probe) has not succeeded, whatever it says.
                if !record.stopped.remove(container) && *code == 0 {
                    record.succeeded.insert(container.clone());
                }
            }
            RuntimeFact::SandboxDown { pod, .. } => {
                self.pods.entry(pod.to_string()).or_default().last_sandbox_down = Some(now);
            }
            RuntimeFact::Created { pod, id } => {
                self.pods.entry(pod.to_string()).or_default().containers.insert(id.clone());
            }
            RuntimeFact::SandboxUp { .. } => {}
        }
    }

    /// S1
    fn invariant_one_live_instance_of_a_container(&mut self, scene: Scene<'_>, pod: &str, container: &str) {
        let of = |c: &Container| static_pod_of(scene.runtime, c).map(str::to_owned);
        let one = scene.runtime.running().find(|c| c.pod.as_str() == pod && c.name() == container);
        // A static pod that takes another's place has its name and another UID. Of one that an earlier life left, the agent knows only
        // once every source has told what it wants, also if a call that nobody waits for any more has started it since; but as long as
        // its manifest says the same, nothing takes its place.
        let same = |c: &&Container| {
            c.pod.as_str() == pod
                || one.is_some_and(|one| of(one).is_some() && of(one) == of(c))
                    && (!self.is_of_earlier_life(scene, c) || self.manifest_in_force(scene, c).is_some())
        };
        let live = scene.runtime.running().filter(|c| c.name() == container).filter(same).count();
        if live > 1 {
            let how = format!("{live} instances of {container} of pod {pod} run at once");
            self.broken("invariant_one_live_instance_of_a_container", how);
        }
    }

    /// S15
    fn invariant_private_images_are_for_who_can_open_them(&mut self, scene: Scene<'_>, pod: &str, id: &str) {
        let config = scene.runtime.containers.get(id).and_then(|container| container.config.image.as_ref());
        let Some((image, _)) = config.and_then(|image| scene.runtime.login_of(&image.image)) else { return };
        let is_static = scene.runtime.containers.get(id).is_some_and(|c| static_pod_of(scene.runtime, c).is_some());
        // A static pod has no secrets: of it nothing need be known.
        let Some(object) = pod_by_uid(scene, pod).or(is_static.then_some(&Value::Null)) else { return };
        let namespace = text(&object["metadata"]["namespace"]);
        let mut secrets = object["spec"]["imagePullSecrets"].as_array().into_iter().flatten().map(|secret| text(&secret["name"]));
        let opens = |secret: &str| self.openers.contains(&(namespace.to_owned(), secret.to_owned(), image.to_owned()));
        if !secrets.any(opens) && !scene.runtime.opened_by_node.contains(image) {
            let how = format!("a container of pod {pod} runs from the private image {image}, and none of its secrets opens it");
            self.broken("invariant_private_images_are_for_who_can_open_them", how);
        }
    }

    fn secret_changed(&mut self, scene: Scene<'_>, object: &Value) {
        for (image, _) in scene.runtime.private.iter().filter(|(image, login)| opens(object, image, login)) {
            let (namespace, name) = (text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
            self.openers.insert((namespace.to_owned(), name.to_owned(), image.clone()));
        }
    }

    /// S4
    fn invariant_restart_policy_is_kept(&mut self, scene: Scene<'_>, pod: &str, container: &str) {
        let Some(object) = pod_by_uid(scene, pod).or_else(|| self.only_manifest(scene, pod, container)) else { return };
        let is_init = object["spec"]["initContainers"].as_array().into_iter().flatten().any(|c| c["name"] == container);
        if rules_for_all(object).next().is_some() {
            // Any container of it may start again for another's sake.
            return;
        }
        let Some(record) = self.pods.get(pod) else { return };
        let count = |starts: &BTreeMap<String, u32>| starts.get(container).copied().unwrap_or(0);
        let started = count(&record.started).saturating_sub(count(&record.stale_starts));
        let broken = match object["spec"]["restartPolicy"].as_str() {
            // Another image is started whatever the policy.
            Some("Never") => started > 1 && !is_init && object["metadata"]["generation"].as_u64().is_none_or(|at| at <= 1),
            Some("OnFailure") => started > 1 && !is_init && record.succeeded.contains(container),
            _ => false,
        };
        if broken && !self.has_lost(pod, container) {
            let how = format!("{container} of pod {pod} was started {started} times against its restart policy");
            self.broken("invariant_restart_policy_is_kept", how);
        }
    }

    /// The manifest of a static pod that was never otherwise: one that goes and comes again runs anew, whatever its policy, and one that has
    /// ended may in the agent's next life, if that cannot see that it ran.
    fn only_manifest(&self, scene: Scene<'_>, pod: &str, container: &str) -> Option<&Value> {
        let started = scene.runtime.running().find(|c| c.pod.as_str() == pod && c.name() == container)?;
        let of_this_life = self.pods.get(pod)?.first_started? > self.died_at;
        let ended = |c: &Container| c.pod.as_str() == pod && c.name() == container && c.state == ContainerState::Exited;
        let known = of_this_life || scene.runtime.containers.values().any(ended);
        let manifest = self.written.of_container(scene.runtime, started).filter(|_| known)?;
        manifest.again_since.is_none().then_some(manifest.pod)
    }

    fn changes(&mut self, scene: Scene<'_>) {
        let Ok(changes) = scene.api.store.since(self.revision) else {
            self.revision = scene.api.store.revision();
            return;
        };
        for change in changes {
            match (change.plural, change.kind) {
                ("pods", ChangeKind::Deleted) => self.invariant_no_pod_is_gone_while_it_runs(scene, &change.object),
                ("pods", kind) => self.pod_changed(scene, &change.object, kind),
                ("secrets", ChangeKind::Added | ChangeKind::Modified) => self.secret_changed(scene, &change.object),
                ("leases", ChangeKind::Added) => self.lease_written_at = Some(self.now),
                ("leases", ChangeKind::Modified) => self.invariant_lease_is_renewed_forwards(&change.object),
                _ => {}
            }
        }
        self.revision = scene.api.store.revision();
        self.stale_status = false;
    }

    /// S2: of a static pod, that the agent removes its mirror.
    fn invariant_no_pod_is_gone_while_it_runs(&mut self, scene: Scene<'_>, object: &Value) {
        if !is_mirror(object) {
            self.pod_gone_at = Some(self.now);
        }
        let uid = runtime_uid(object);
        let runs = scene.runtime.running().find(|c| c.pod.as_str() == uid);
        if let Some(container) = runs
            && !self.forced.contains(text(&object["metadata"]["uid"]))
            && !(is_mirror(object) && self.mirror_may_go(scene, object, container))
        {
            let how = format!("pod {uid} was removed from the API server while its container {} ran", container.name());
            self.broken("invariant_no_pod_is_gone_while_it_runs", how);
        }
    }

    /// S2: whether a mirror may go while its pod runs: it is made anew, for nobody can read it; or it was asked to go when its manifest was
    /// not what it is, a moment ago; or what runs is an earlier life's, and another manifest has taken its place.
    fn mirror_may_go(&self, scene: Scene<'_>, mirror: &Value, container: &Container) -> bool {
        let lately = |since: Duration| self.now <= since + MANIFESTS_ARE_READ_WITHIN;
        match self.written.of_pod_of(scene.runtime, container) {
            _ if is_made_anew(mirror) => true,
            Some(manifest) => manifest.again_since.is_some_and(lately),
            None => self.is_of_earlier_life(scene, container),
        }
    }

    fn pod_changed(&mut self, scene: Scene<'_>, object: &Value, kind: ChangeKind) {
        let uid = runtime_uid(object);
        let mut record = self.pods.remove(uid).unwrap_or_default();
        if is_mirror(object) {
            if kind == ChangeKind::Added {
                // It is another picture of the same, and shows nothing yet.
                record.phase.clear();
                record.ready = false;
                record.ready_containers.clear();
                record.foreign.clear();
            }
            // The agent deletes without grace. One that somebody else deletes it removes, and makes another (kubelet.go, tryReconcileMirrorPods).
            if object["metadata"]["deletionGracePeriodSeconds"].as_u64().is_some_and(|grace| grace > 0) {
                self.forced.insert(text(&object["metadata"]["uid"]).to_owned());
            }
        } else if !object["metadata"]["deletionTimestamp"].is_null() {
            record.deleted_at.get_or_insert(self.now);
            record.deletion_grace = Duration::from_secs(object["metadata"]["deletionGracePeriodSeconds"].as_u64().unwrap_or(0));
        }
        self.invariant_only_what_fails_is_left_alone(object);
        self.invariant_terminal_phase_is_final(&mut record, object);
        self.invariant_conditions_of_others_stay(&mut record, object);
        self.invariant_no_readiness_is_lost_without_a_cause(scene, &mut record, object);
        self.invariant_status_is_of_the_pods_own_containers(scene, &record, object);
        self.invariant_ready_containers_run_and_have_passed_their_probe(scene, &mut record, object);
        self.pods.insert(uid.to_owned(), record);
    }

    /// S3
    fn invariant_terminal_phase_is_final(&mut self, record: &mut PodRecord, object: &Value) {
        let phase = text(&object["status"]["phase"]);
        // A static pod whose manifest goes and comes again runs anew under its UID, and its mirror may have stayed. Nor does the next life
        // of the agent go by the phase of a mirror (kubelet_pods.go, generateAPIPodStatus: the phase before is the manifest's).
        let again = is_mirror(object) && (self.died_at >= record.phase_since || !self.mirror_is_wanted(object));
        if phase != record.phase {
            record.phase_since = self.now;
        }
        if matches!(record.phase.as_str(), "Succeeded" | "Failed") && phase != record.phase && !self.stale_status && !again {
            let how = format!("pod {} went from {} to {phase}", text(&object["metadata"]["uid"]), record.phase);
            self.broken("invariant_terminal_phase_is_final", how);
        }
        phase.clone_into(&mut record.phase);
    }

    /// S16: no scenario takes one away.
    fn invariant_conditions_of_others_stay(&mut self, record: &mut PodRecord, object: &Value) {
        let conditions = object["status"]["conditions"].as_array().into_iter().flatten().map(|c| text(&c["type"]));
        let foreign: BTreeSet<String> = conditions.filter(|kind| !OF_THE_AGENT.contains(kind)).map(str::to_owned).collect();
        if let Some(lost) = record.foreign.difference(&foreign).next() {
            let how = format!("the condition {lost} of pod {} is gone", text(&object["metadata"]["uid"]));
            self.broken("invariant_conditions_of_others_stay", how);
        }
        record.foreign = foreign;
    }

    /// S7: what no restart of the agent explains either.
    fn invariant_no_readiness_is_lost_without_a_cause(&mut self, scene: Scene<'_>, record: &mut PodRecord, object: &Value) {
        let ready = is_ready(object);
        let ends = is_mirror(object) && !self.mirror_is_wanted(object);
        if record.ready && !ready && !self.stale_status && !ends && !may_lose_readiness(scene, record, object, self.now) {
            let how = format!("pod {} is not ready any more, yet all of it runs", text(&object["metadata"]["uid"]));
            self.broken("invariant_no_readiness_is_lost_without_a_cause", how);
        }
        record.ready = ready;
    }

    /// S12
    fn invariant_status_is_of_the_pods_own_containers(&mut self, scene: Scene<'_>, record: &PodRecord, object: &Value) {
        let uid = runtime_uid(object);
        for id in statuses(object).map(container_id).filter(|id| !id.is_empty()) {
            let is_its = scene.runtime.containers.get(id).is_some_and(|c| c.pod.as_str() == uid);
            if !record.containers.contains(id) && !is_its {
                let how = format!("the status of pod {uid} names container {id}, which never was one of its");
                self.broken("invariant_status_is_of_the_pods_own_containers", how);
            }
        }
    }

    /// S8: of containers that were not ready before. Of one that ended lately the agent may not know yet.
    fn invariant_ready_containers_run_and_have_passed_their_probe(
        &mut self,
        scene: Scene<'_>,
        record: &mut PodRecord,
        object: &Value,
    ) {
        let uid = runtime_uid(object);
        let ended_lately = |at: Option<Duration>| at.is_some_and(|at| self.now.saturating_sub(at) < SAYS_WITHIN);
        let told_late = self.stale_status || ended_lately(record.last_exit) || ended_lately(record.last_sandbox_down);
        let ready: BTreeSet<String> = statuses(object).filter(|s| s["ready"] == true).map(|s| container_id(s).to_owned()).collect();
        let mut wrong = None;
        for id in ready.difference(&record.ready_containers) {
            let container = scene.runtime.containers.get(id);
            let runs = container.is_some_and(|c| c.state == ContainerState::Running);
            let passed = container.is_none_or(|c| passed_its_probe(scene, object, c));
            if (!runs && !told_late) || !passed {
                let why = if runs { "its readiness probe never passed" } else { "it does not run" };
                wrong = Some(format!("container {id} of pod {uid} is told to be ready, and {why}"));
            }
        }
        record.ready_containers = ready;
        if let Some(how) = wrong {
            self.broken("invariant_ready_containers_run_and_have_passed_their_probe", how);
        }
    }

    /// S9
    fn invariant_lease_is_renewed_forwards(&mut self, object: &Value) {
        self.lease_written_at = Some(self.now);
        let renewed = text(&object["spec"]["renewTime"]).to_owned();
        // What was sent before a jump may arrive after it.
        let jumped = self.clock_jumped_at.is_some_and(|at| self.now.saturating_sub(at) < Duration::from_secs(60));
        if let Some(before) = self.lease_renewed.replace(renewed.clone())
            && renewed < before
            && !jumped
        {
            self.broken("invariant_lease_is_renewed_forwards", format!("from {before} to {renewed}"));
        }
    }

    /// S5
    fn invariant_nothing_is_killed_before_its_grace(&mut self, scene: Scene<'_>, id: &str, grace: Duration) {
        let Some(container) = scene.runtime.containers.get(id).filter(|c| c.state == ContainerState::Running) else { return };
        let uid = container.pod.to_string();
        let Some((asked_at, whole)) = self.asked_to_end(scene, container) else { return };
        let least = whole.saturating_sub(self.now.saturating_sub(asked_at));
        if grace + GRACE_SLACK < least {
            let how = format!("container {} of pod {uid} gets {grace:?}, and {least:?} are left", container.name());
            self.broken("invariant_nothing_is_killed_before_its_grace", how);
        }
    }

    /// S5: when the end of a container's pod was asked for, and with what grace; `None` if it was not, or if that is not known.
    fn asked_to_end(&self, scene: Scene<'_>, container: &Container) -> Option<(Duration, Duration)> {
        let Some(object) = pod_by_uid(scene, container.pod.as_str()) else {
            let started = scene.elapsed.saturating_sub(age(scene, container));
            let (end, grace) = self.written.ended(scene.runtime, container, started)?;
            // Of one that an earlier life left, and whose manifest had gone when this life read it, nobody knows what grace it has
            // (POD-087).
            let unread = self.began_at.is_none_or(|began| end <= began + MANIFESTS_ARE_READ_WITHIN);
            return (!unread || !self.is_of_earlier_life(scene, container)).then_some((end, grace));
        };
        let record = self.pods.get(container.pod.as_str()).filter(|_| !has_hook(object, container.name()))?;
        Some((record.deleted_at?, record.deletion_grace))
    }

    /// Whether a container was started before the agent's present life, or by a call of an earlier one.
    fn is_of_earlier_life(&self, scene: Scene<'_>, container: &Container) -> bool {
        let record = self.pods.get(container.pod.as_str());
        let stale = record.is_some_and(|record| record.stale_starts.contains_key(container.name()));
        stale || scene.elapsed.saturating_sub(age(scene, container)) <= self.died_at
    }

    /// S6: of a container or a whole sandbox.
    fn invariant_nothing_is_stopped_that_nobody_wants_stopped(
        &mut self,
        scene: Scene<'_>,
        sandbox: Option<&str>,
        container: Option<&str>,
    ) {
        let stopped = match (sandbox, container) {
            (_, Some(id)) => scene.runtime.containers.get(id).filter(|c| c.state == ContainerState::Running),
            (Some(id), None) => scene.runtime.running().find(|c| c.sandbox == id),
            (None, None) => None,
        };
        let Some(stopped) = stopped else { return };
        let object = pod_by_uid(scene, stopped.pod.as_str()).or_else(|| self.manifest_in_force(scene, stopped));
        let Some(object) = object else { return };
        let uid = stopped.pod.as_str();
        let ended = object["status"].is_null() && has_come_to_its_end(scene.runtime, object, uid, |name| self.has_lost(uid, name));
        if !ended && !may_be_stopped(scene, object, stopped, container.is_some()) {
            let how = format!("{} of pod {} is stopped while it runs and nobody asked for it", stopped.name(), stopped.pod);
            self.broken("invariant_nothing_is_stopped_that_nobody_wants_stopped", how);
        }
    }

    /// S11
    fn invariant_load_stays_bounded(&mut self, scene: Scene<'_>) {
        let minute_ago = self.now.saturating_sub(Duration::from_secs(60));
        let old = self.api_calls.partition_point(|at| *at < minute_ago);
        if old > 256 {
            self.api_calls.drain(..old);
        }
        let recent = self.api_calls.len() - self.api_calls.partition_point(|at| *at < minute_ago);
        let pods = self.pods.len().max(1);
        if recent > MOST_API_CALLS_A_MINUTE + 60 * pods {
            self.broken("invariant_load_stays_bounded", format!("{recent} calls of the API server within a minute"));
        }
        if scene.in_flight > MOST_IN_FLIGHT {
            self.broken("invariant_load_stays_bounded", format!("{} actions under way", scene.in_flight));
        }
    }
}

fn statuses(object: &Value) -> impl Iterator<Item = &Value> {
    object["status"]["containerStatuses"].as_array().into_iter().flatten()
}

fn container_id(status: &Value) -> &str {
    text(&status["containerID"]).rsplit('/').next().unwrap_or_default()
}
