//! Decides whether a container's image is there, who may use it, when to pull it, and how long to wait after a pull that failed.
//! Upstream: pkg/kubelet/images/image_manager.go.
//! Differs: images of one pod are fetched side by side, and a pull never holds the pod's other work.

mod backoff;
pub mod docker_config;
pub mod keyring;
pub mod name;
mod node_logins;
mod provider_plugins;
mod pulling;
mod pulls;
mod records;
mod texts;
mod verification;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Secret};
use proto::cri::PodSandboxConfig;

use self::backoff::Backoffs;
use self::docker_config::DockerConfig;
use self::keyring::{Credential, Keyring, MOST_TRIED, Source};
use self::node_logins::NodeLogins;
use self::provider_plugins::Provider;
use self::pulls::Pulls;
use self::records::{IntentState, PullRecords};
use self::verification::{Verdict, judge};
use crate::action::{Call, CriCall, Lane};
use crate::config::{Config, Images};
use crate::event::{CriReply, HostReply};
use crate::failure::Failure;
use crate::ids::{ActionId, PodUid};
use crate::observation::Image;
use crate::out::{Out, Owner};
use crate::recorder::{Recorded, Subject};
use crate::sensitive::Sensitive;
use crate::time::{Mono, Now, earliest};
use crate::work::Point;

/// How long what was found out without a pull is left alone.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// The reason of a container whose image is there, but not to be read: upstream reads its user while it makes the configuration.
const UNREAD_USER: &str = "CreateContainerConfigError";
/// How long a failed pull shows its own reason before it shows that it waits.
const ERROR_SHOWN: Duration = Duration::from_secs(2);

/// The pod, and its container or image volume.
type Key = (PodUid, String);

/// An image that a container is to run.
#[derive(Clone, Debug)]
pub struct ImageNeed<'a> {
    /// For whom; also what events are about.
    pub pod: &'a Arc<Pod>,
    /// The pod's UID.
    pub uid: &'a PodUid,
    /// The container, or image volume.
    pub name: &'a str,
    /// Such as `spec.containers{main}`; empty for a volume: events are then about the pod.
    pub field_path: &'a str,
    /// As the spec names it.
    pub image: &'a str,
    /// `Always`, `IfNotPresent` or `Never`.
    pub policy: &'a str,
    /// The pod's pull secrets.
    pub secrets: &'a [Sensitive<Arc<Secret>>],
    /// Goes to the runtime with the pull (CRI-034); needed only where [`ImageManager::begins`] says so.
    pub sandbox_config: Option<Arc<PodSandboxConfig>>,
}

/// An image that can be run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvedImage {
    /// What the runtime calls it.
    pub image_ref: String,
    /// The user it runs as, if numeric.
    pub uid: Option<i64>,
    /// The user it runs as, if a name; empty otherwise.
    pub username: String,
}

/// Where a need stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageState {
    /// Being looked at or pulled; the pod is woken.
    Pending,
    /// There.
    Ready(ResolvedImage),
    /// Not to be had now: the waiting reason and message (POD-306).
    Failed {
        /// Such as `ErrImagePull`.
        reason: String,
        /// In words.
        message: String,
    },
}

#[derive(Debug)]
struct Entry {
    /// As the spec names it.
    requested: String,
    /// With its tag.
    image: String,
    wanted: Wanted,
    state: State,
}

/// What a pull needs, kept while it may still come to one.
#[derive(Debug)]
struct Wanted {
    pod: Arc<Pod>,
    field_path: String,
    policy: String,
    secrets: Vec<Sensitive<Arc<Secret>>>,
    /// Once they were looked up: tried in order; none means anonymously.
    credentials: Option<Vec<Credential>>,
    /// What plugins have given so far, in their order.
    from_plugins: Vec<Option<DockerConfig>>,
    sandbox_config: Option<Arc<PodSandboxConfig>>,
}

#[derive(Debug)]
enum State {
    Looking(ActionId),
    /// Whether the pod may use what was found, or with which credentials it is to be pulled, is not known yet.
    Deciding(Option<Image>),
    /// The intent to pull is being written.
    Intending,
    /// Waits for its turn.
    Queued {
        since: Mono,
    },
    Pulling(Pulling),
    /// Pulled; its user is being read.
    Resolving {
        action: ActionId,
        image_ref: String,
        since: Mono,
        began: Mono,
    },
    Ready(ResolvedImage),
    Failed {
        reason: String,
        message: String,
        next: Next,
    },
}

#[derive(Debug)]
struct Pulling {
    action: ActionId,
    tried: usize,
    since: Mono,
    began: Mono,
    /// What went wrong with the credentials before this one.
    errors: Vec<String>,
}

/// What becomes of a failure that is shown.
#[derive(Clone, Copy, Debug)]
enum Next {
    /// It is shown that the image is not pulled before the second moment.
    ShowBackOff(Mono, Mono),
    /// The need begins anew.
    Again(Mono),
}

/// The image manager.
#[derive(Debug)]
pub struct ImageManager {
    /// How long a look at one image may take.
    look_limit: Duration,
    settings: Images,
    entries: BTreeMap<Key, Entry>,
    backoffs: Backoffs,
    records: PullRecords,
    logins: Logins,
    pulls: Pulls,
    /// When images of a pod were being pulled, for as long as it lives.
    sessions: BTreeMap<PodUid, Vec<(Mono, Mono)>>,
}

/// Where credentials come from besides the pod's secrets.
#[derive(Debug)]
struct Logins {
    node: NodeLogins,
    plugins: Vec<Provider>,
}

impl ImageManager {
    /// A manager that has looked at nothing yet.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let settings = config.images.clone();
        Self {
            look_limit: config.pods.runtime_request_timeout,
            entries: BTreeMap::new(),
            backoffs: Backoffs::default(),
            records: PullRecords::new(settings.pulls_are_recorded.then_some(config.paths.root.as_str())),
            logins: Logins {
                node: NodeLogins::new(config),
                plugins: settings.credential_providers.iter().map(Provider::new).collect(),
            },
            pulls: Pulls::new(&settings),
            sessions: BTreeMap::new(),
            settings,
        }
    }

    /// Sees to it that an image is there. Ask again when the pod is woken; asking is free.
    pub fn ensure(&mut self, now: Now, need: &ImageNeed<'_>, out: &mut Out<'_>) -> ImageState {
        let key = (need.uid.clone(), need.name.to_owned());
        if self.entries.get(&key).is_some_and(|entry| entry.requested != need.image) {
            self.drop_entries(|other| *other == key);
        }
        if !self.entries.contains_key(&key) {
            if self.is_pulled_for_another(&key, need.image) {
                return ImageState::Pending;
            }
            self.begin(now, &key, need, out);
        }
        self.decide(now, &key, out);
        self.intend(now, &key, out);
        self.start_pulls(now, out);
        self.records.due(now, out);
        self.entries.get(&key).map_or(ImageState::Pending, |entry| entry.shown())
    }

    /// Whether asking for that image looks for it anew: what goes with a pull is kept from then on.
    #[must_use]
    pub fn begins(&self, uid: &PodUid, name: &str, image: &str) -> bool {
        self.entries.get(&(uid.clone(), name.to_owned())).is_none_or(|entry| entry.requested != image)
    }

    /// How long images of a pod were being pulled, in all: what went on side by side counts once.
    #[must_use]
    pub fn pulled_for(&self, uid: &PodUid) -> Duration {
        let mut sessions = self.sessions.get(uid).cloned().unwrap_or_default();
        sessions.sort_unstable();
        let (mut all, mut until) = (Duration::ZERO, Mono::ZERO);
        for (from, to) in sessions {
            all += to.since(from.max(until));
            until = until.max(to);
        }
        all
    }

    /// The container was started with its image: the next start looks afresh, at the images of volumes as well.
    pub fn used(&mut self, uid: &PodUid, name: &str) {
        self.drop_entries(|key| key.0 == *uid && key.1 == name);
        let is_volume = |entry: &Entry| entry.wanted.field_path.is_empty() && matches!(entry.state, State::Ready(_));
        self.entries.retain(|(pod, _), entry| pod != uid || !is_volume(entry));
    }

    /// The pod is to stop: what is being pulled for it is withdrawn, as upstream's context is (pod_workers.go, UpdatePod, `cancelFn`). A
    /// registry that never ends would keep its place for ever, and others from their turn.
    pub fn give_up(&mut self, uid: &PodUid, out: &mut Out<'_>) {
        let mut any = false;
        for (_, entry) in self.entries.range((uid.clone(), String::new())..).take_while(|(key, _)| key.0 == *uid) {
            any = true;
            if let State::Pulling(pulling) = &entry.state {
                out.cancel(pulling.action);
            }
        }
        if any {
            self.drop_entries(|(pod, _)| pod == uid);
        }
    }

    /// The pod needs no images any more.
    pub fn forget(&mut self, uid: &PodUid) {
        self.drop_entries(|(pod, _)| pod == uid);
        self.backoffs.forget(uid);
        self.sessions.remove(uid);
    }

    fn drop_entries(&mut self, unwanted: impl Fn(&Key) -> bool) {
        self.pulls.give_up(&unwanted);
        let records = &mut self.records;
        self.entries.retain(|key, entry| {
            let drop = unwanted(key);
            if drop && matches!(entry.state, State::Intending | State::Queued { .. }) {
                records.release(&entry.requested);
            }
            !drop
        });
    }

    /// When a failure shows differently, or a pull may be tried again, or there is something to read or to write.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        earliest([self.entries.values().filter_map(Entry::wakes).min(), self.records.deadline()])
    }

    /// Lets failures show that they wait, and waits end. Answers the pods that are to be looked at again.
    #[must_use]
    pub fn due(&mut self, now: Now, out: &mut Out<'_>) -> BTreeSet<PodUid> {
        self.records.due(now, out);
        let is_due = |(_, entry): &(&Key, &Entry)| entry.wakes().is_some_and(|at| at <= now.mono);
        let woken: Vec<Key> = self.entries.iter().filter(is_due).map(|(key, _)| key.clone()).collect();
        for key in &woken {
            out.works_for(Point::ImageDue, &key.0);
            let Some(entry) = self.entries.get_mut(key) else { continue };
            match &entry.state {
                State::Failed { next: Next::ShowBackOff(_, until), .. } if now.mono < *until => entry.show_back_off(*until, out),
                // Asked again, the need begins anew.
                _ => drop(self.entries.remove(key)),
            }
        }
        woken.into_iter().map(|(uid, _)| uid).collect()
    }

    /// A call of the runtime ended. True if the pod is to be woken.
    pub fn done(
        &mut self,
        now: Now,
        uid: &PodUid,
        name: &str,
        id: ActionId,
        outcome: Result<CriReply, Failure>,
        out: &mut Out<'_>,
    ) -> bool {
        let key = (uid.clone(), name.to_owned());
        let woken = if let Some(pull) = self.pulls.ended(id) {
            self.pulled(now, &key, id, pull, outcome, out)
        } else {
            match self.entries.get(&key).map(|entry| &entry.state) {
                Some(State::Looking(action)) if *action == id => self.looked(now, &key, outcome, out),
                Some(State::Resolving { action, .. }) if *action == id => self.resolved(now, &key, outcome, out),
                _ => return false,
            }
            true
        };
        self.go_on(now, out);
        woken
    }

    /// A call of the host ended. Answers the pods that are to be woken.
    pub fn host_done(
        &mut self,
        now: Now,
        id: ActionId,
        outcome: Result<HostReply, Failure>,
        out: &mut Out<'_>,
    ) -> BTreeSet<PodUid> {
        let mut told = self.logins.node.done(now, id, &outcome);
        let said = self.logins.plugins.iter_mut().position(|plugin| plugin.done(now, id, &outcome));
        told |= said.is_some();
        if !told && !self.records.done(now, id, outcome) {
            return BTreeSet::new();
        }
        let waits = |entry: &Entry| matches!(entry.state, State::Deciding(_) | State::Intending);
        let woken = self.entries.iter().filter(|(_, entry)| waits(entry)).map(|(key, _)| key.0.clone()).collect();
        self.go_on(now, out);
        if let Some(plugin) = said.and_then(|said| self.logins.plugins.get_mut(said)) {
            plugin.go_on(out);
        }
        woken
    }

    /// The node's images were listed.
    pub fn listed(&mut self, now: Now, images: &[Image]) {
        self.records.listed(now, images);
    }

    fn begin(&mut self, now: Now, key: &Key, need: &ImageNeed<'_>, out: &mut Out<'_>) {
        let wanted = Wanted {
            pod: Arc::clone(need.pod),
            field_path: need.field_path.to_owned(),
            policy: need.policy.to_owned(),
            secrets: need.secrets.to_vec(),
            credentials: None,
            from_plugins: vec![None; self.logins.plugins.len()],
            sandbox_config: need.sandbox_config.clone(),
        };
        let named = name::with_default_tag(need.image);
        let image = named.clone().unwrap_or_default();
        let mut entry = Entry { requested: need.image.to_owned(), image, wanted, state: State::Deciding(None) };
        if let Err(error) = named {
            let message = format!("Failed to apply default image tag {:?}: {error}", need.image);
            entry.wanted.warning("InspectFailed", message.clone(), out);
            entry.fail(now, "InvalidImageName", message, out);
        } else if need.policy != "Always" {
            let call = Call::Cri(CriCall::ImageStatus { image: entry.image.clone() });
            let owner = Owner::Image(key.0.clone(), key.1.clone());
            entry.state = State::Looking(out.issue(owner, Lane::ImageLooks, self.look_limit, call));
        }
        self.entries.insert(key.clone(), entry);
    }

    fn looked(&mut self, now: Now, key: &Key, outcome: Result<CriReply, Failure>, out: &mut Out<'_>) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        match outcome {
            Ok(CriReply::Image(Some(found))) => entry.state = State::Deciding(Some(found)),
            Ok(_) if entry.wanted.policy == "Never" => entry.never_pulled(now, out),
            Ok(_) => entry.state = State::Deciding(None),
            Err(failure) => {
                // Upstream names the reference that it did not get.
                let message = format!("Failed to inspect image \"\": {}", failure.rpc_message());
                entry.wanted.warning("InspectFailed", message.clone(), out);
                entry.fail(now, "ImageInspectError", message, out);
            }
        }
    }

    /// Takes every need as far as it gets.
    fn go_on(&mut self, now: Now, out: &mut Out<'_>) {
        let moves = |entry: &Entry| matches!(entry.state, State::Deciding(_) | State::Intending);
        let keys: Vec<Key> = self.entries.iter().filter(|(_, entry)| moves(entry)).map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.decide(now, &key, out);
            self.intend(now, &key, out);
        }
        self.start_pulls(now, out);
        self.records.due(now, out);
    }

    /// Whether the pod may use what is there; or that it is to be pulled.
    fn decide(&mut self, now: Now, key: &Key, out: &mut Out<'_>) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let State::Deciding(found) = &entry.state else { return };
        if !self.records.can_tell() {
            return;
        }
        if let Some(image) = found.clone() {
            let requested = entry.requested.clone();
            let mut ask = |credentials: Option<&[Credential]>| {
                judge(now, &self.settings, &mut self.records, &requested, &image.id, credentials)
            };
            let mut verdict = ask(None);
            if verdict == Verdict::ShowCredentials {
                match self.logins.of(now, entry, out) {
                    Ok(true) => verdict = ask(entry.wanted.credentials.as_deref()),
                    Ok(false) => return,
                    Err(error) => return entry.fail(now, &error.clone(), error, out),
                }
            }
            match verdict {
                Verdict::Allowed => return entry.is_there(image, self.settings.pulls_are_recorded, out),
                _ if entry.wanted.policy == "Never" => return entry.never_pulled(now, out),
                _ => {}
            }
        }
        match self.logins.of(now, entry, out) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => return entry.fail(now, &error.clone(), error, out),
        }
        if let Some((until, why)) = self.backoffs.holds(now.mono, &key.0, &entry.requested) {
            let message = format!("Back-off pulling image {:?}: {why}", entry.requested);
            return entry.back_off(message, until, out);
        }
        let requested = entry.requested.clone();
        if self.is_pulled_for_another(key, &requested) {
            // Asked again when that has ended, this one looks anew.
            self.entries.remove(key);
            return;
        }
        if self.records.kept() {
            self.records.intend(&requested);
        }
        if let Some(entry) = self.entries.get_mut(key) {
            entry.state = State::Intending;
        }
    }

    /// Containers of a pod with one image look for it side by side and take turns to pull it: what one pulled, the next finds.
    fn is_pulled_for_another(&self, key: &Key, image: &str) -> bool {
        self.entries.iter().any(|(other, entry)| other.0 == key.0 && other != key && entry.requested == image && entry.is_pulled())
    }

    /// The intent is on the disk, or cannot be written.
    fn intend(&mut self, now: Now, key: &Key, out: &mut Out<'_>) {
        let Some(entry) = self.entries.get_mut(key).filter(|entry| matches!(entry.state, State::Intending)) else { return };
        let intent = if self.records.kept() { self.records.intent(&entry.requested) } else { IntentState::Written };
        match intent {
            IntentState::Writing => {}
            IntentState::Written => {
                entry.wanted.normal("Pulling", format!("Pulling image {:?}", entry.requested), out);
                entry.state = State::Queued { since: now.mono };
                self.pulls.wait(key);
            }
            IntentState::Failed(error) => {
                let reason = format!("failed to record image pull intent: {error}");
                let message = format!("Failed to record image pull intent for container image {:?}: {reason}", entry.requested);
                entry.fail(now, &reason, message, out);
                self.records.release(&entry.requested.clone());
            }
        }
    }
}

impl Logins {
    /// Looks the credentials up, once: the secrets', the node's, the plugins'. True if they are there, false if they are on their way.
    fn of(&mut self, now: Now, entry: &mut Entry, out: &mut Out<'_>) -> Result<bool, String> {
        let wanted = &mut entry.wanted;
        if wanted.credentials.is_some() {
            return Ok(true);
        }
        let repository = name::repository_of(&entry.image).map_err(|error| error.to_string())?;
        let mut credentials = keyring::of_secrets(wanted.secrets.iter().map(Sensitive::reveal), &repository)?;
        let node = self.node.lookup(now, &repository, out);
        for (plugin, said) in self.plugins.iter_mut().zip(&mut wanted.from_plugins) {
            if said.is_none() {
                *said = plugin.lookup(now, &repository, out);
            }
        }
        let Some(node) = node.filter(|_| wanted.from_plugins.iter().all(Option::is_some)) else { return Ok(false) };
        credentials.extend(node);
        let mut keyring = Keyring::default();
        for config in wanted.from_plugins.iter().flatten() {
            keyring.add(&Source::Node, config);
        }
        credentials.extend(keyring.lookup(&repository));
        credentials.truncate(MOST_TRIED);
        wanted.credentials = Some(credentials);
        Ok(true)
    }
}

impl Entry {
    /// Whether a pull has begun, or is about to.
    fn is_pulled(&self) -> bool {
        matches!(self.state, State::Intending | State::Queued { .. } | State::Pulling(_) | State::Resolving { .. })
    }

    fn wakes(&self) -> Option<Mono> {
        match &self.state {
            State::Failed { next: Next::ShowBackOff(at, _) | Next::Again(at), .. } => Some(*at),
            _ => None,
        }
    }

    /// POD-202
    fn is_there(&mut self, image: Image, verified: bool, out: &mut Out<'_>) {
        let and = if verified { " and can be accessed by the pod" } else { "" };
        self.wanted.normal("Pulled", format!("Container image {:?} already present on machine{and}", self.requested), out);
        self.state = State::Ready(ResolvedImage { image_ref: image.id, uid: image.uid, username: image.username });
    }

    /// It is not there, or the pod may not use it: that is not told apart (imageNotPresentOnNeverPolicyError).
    fn never_pulled(&mut self, now: Now, out: &mut Out<'_>) {
        let message = format!("Container image {:?} is not present with pull policy of Never", self.requested);
        self.wanted.warning("ErrImageNeverPull", message.clone(), out);
        self.fail(now, "ErrImageNeverPull", message, out);
    }

    /// POD-201: only pulls are backed off from. What was found out without one keeps its reason, and is looked at again.
    fn fail(&mut self, now: Now, reason: &str, message: String, out: &mut Out<'_>) {
        self.wanted.not_met(reason, out);
        self.state = State::Failed { reason: reason.to_owned(), message, next: Next::Again(now.mono + LOOK_AGAIN) };
    }

    /// POD-201: the reason becomes `ImagePullBackOff`, and the users are told.
    fn show_back_off(&mut self, until: Mono, out: &mut Out<'_>) {
        let State::Failed { reason, message, .. } = &self.state else { return };
        let message = format!("Back-off pulling image {:?}: {reason}: {message}", self.requested);
        self.back_off(message, until, out);
    }

    fn back_off(&mut self, message: String, until: Mono, out: &mut Out<'_>) {
        self.wanted.normal("BackOff", format!("Back-off pulling image {:?}", self.requested), out);
        self.wanted.not_met("ImagePullBackOff", out);
        self.state = State::Failed { reason: "ImagePullBackOff".to_owned(), message, next: Next::Again(until) };
    }

    fn shown(&self) -> ImageState {
        match &self.state {
            State::Ready(image) => ImageState::Ready(image.clone()),
            State::Failed { reason, message, .. } => ImageState::Failed { reason: reason.clone(), message: message.clone() },
            _ => ImageState::Pending,
        }
    }
}

impl Wanted {
    /// That the need is not met is told of a container; of a volume it is told of the containers that mount it.
    fn not_met(&self, reason: &str, out: &mut Out<'_>) {
        if !self.field_path.is_empty() {
            self.warning("Failed", format!("Error: {reason}"), out);
        }
    }

    fn subject(&self) -> Subject {
        if self.field_path.is_empty() {
            return Subject::Pod(Arc::clone(&self.pod));
        }
        Subject::Container(Arc::clone(&self.pod), self.field_path.clone())
    }

    fn normal(&self, reason: &str, message: String, out: &mut Out<'_>) {
        out.record(Recorded::normal(self.subject(), reason, message));
    }

    fn warning(&self, reason: &str, message: String, out: &mut Out<'_>) {
        out.record(Recorded::warning(self.subject(), reason, message));
    }
}

#[cfg(test)]
mod tests;
