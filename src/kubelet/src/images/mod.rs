//! Decides whether a container's image is there, when to pull it, and how long to wait after a pull that failed.
//! Upstream: pkg/kubelet/images/image_manager.go.
//! Differs: images of one pod are fetched side by side, and a pull never holds the pod's other work.

pub mod credentials;
pub mod name;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use proto::cri::{AuthConfig, PodSandboxConfig};

use crate::action::{Call, CriCall, Lane};
use crate::event::CriReply;
use crate::failure::{Failure, FailureKind};
use crate::ids::{ActionId, PodUid};
use crate::out::{Out, Owner};
use crate::recorder::{Recorded, Subject};
use crate::sensitive::Sensitive;
use crate::time::{Mono, Now};
use crate::work::Point;

/// POD-201
const BACKOFF_FIRST: Duration = Duration::from_secs(10);
const BACKOFF_MOST: Duration = Duration::from_secs(300);
const BACKOFF_FORGOTTEN: Duration = Duration::from_secs(600);
/// The reason of a container whose image is there, but not to be read: upstream reads its user while it makes the configuration.
const UNREAD_USER: &str = "CreateContainerConfigError";
/// How long a failed pull shows its own reason before it shows that it waits.
const ERROR_SHOWN: Duration = Duration::from_secs(2);

/// An image that a container is to run.
#[derive(Clone, Debug)]
pub struct ImageNeed<'a> {
    /// For whom; also what events are about.
    pub pod: &'a Arc<Pod>,
    /// The pod's UID.
    pub uid: &'a PodUid,
    /// The container, or image volume.
    pub name: &'a str,
    /// Such as `spec.containers{main}`.
    pub field_path: &'a str,
    /// As the spec names it.
    pub image: &'a str,
    /// `Always`, `IfNotPresent` or `Never`.
    pub policy: &'a str,
    /// Tried in order; none means anonymously.
    pub credentials: Vec<Sensitive<AuthConfig>>,
    /// Goes to the runtime with the pull.
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
    credentials: Vec<Sensitive<AuthConfig>>,
    sandbox_config: Option<Arc<PodSandboxConfig>>,
}

#[derive(Debug)]
enum State {
    Checking(ActionId),
    Pulling {
        action: ActionId,
        tried: usize,
        since: Mono,
    },
    /// Pulled; its user is being read.
    Resolving {
        action: ActionId,
        image_ref: String,
        took: Duration,
    },
    Ready(ResolvedImage),
    Failed {
        reason: String,
        message: String,
        since: Mono,
        told: bool,
    },
}

#[derive(Debug, Clone, Copy)]
struct Backoff {
    wait: Duration,
    until: Mono,
}

/// The image manager.
#[derive(Debug)]
pub struct ImageManager {
    /// How long a look at one image may take.
    look_limit: Duration,
    entries: BTreeMap<(PodUid, String), Entry>,
    backoffs: BTreeMap<(PodUid, String), Backoff>,
}

impl ImageManager {
    /// A manager that has looked at nothing yet. A look at an image takes at most that long; a pull takes as long as it takes.
    #[must_use]
    pub fn new(look_limit: Duration) -> Self {
        Self { look_limit, entries: BTreeMap::new(), backoffs: BTreeMap::new() }
    }

    /// Sees to it that an image is there. Ask again when the pod is woken; asking is free.
    pub fn ensure(&mut self, now: Now, need: &ImageNeed<'_>, out: &mut Out<'_>) -> ImageState {
        let key = (need.uid.clone(), need.name.to_owned());
        let image = match name::with_default_tag(need.image) {
            Ok(image) => image,
            Err(error) => {
                let message = format!("Failed to apply default image tag \"{}\": {error}", need.image);
                return ImageState::Failed { reason: "InvalidImageName".to_owned(), message };
            }
        };
        if self.entries.get(&key).is_some_and(|entry| entry.image != image) {
            self.entries.remove(&key);
        }
        if !self.entries.contains_key(&key) {
            self.begin(now, &key, image, need, out);
        }
        self.entries.get(&key).map_or(ImageState::Pending, |entry| entry.shown())
    }

    /// The container was started with its image: the next start looks afresh.
    pub fn used(&mut self, uid: &PodUid, name: &str) {
        self.entries.remove(&(uid.clone(), name.to_owned()));
    }

    /// The pod needs no images any more. Pulls in flight are left to end: the image may serve another.
    pub fn forget(&mut self, uid: &PodUid) {
        self.entries.retain(|(pod, _), _| pod != uid);
        self.backoffs.retain(|(pod, _), _| pod != uid);
    }

    /// When a failure shows differently, or a pull may be tried again.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        self.entries.iter().filter_map(|(key, entry)| self.wakes(key, entry)).min()
    }

    /// Lets failures show that they wait, and waits end. Answers the pods that are to be looked at again.
    #[must_use]
    pub fn due(&mut self, now: Now, out: &mut Out<'_>) -> BTreeSet<PodUid> {
        let woken: Vec<(PodUid, String)> = self
            .entries
            .iter()
            .filter(|(key, entry)| self.wakes(key, entry).is_some_and(|at| at <= now.mono))
            .map(|(key, _)| key.clone())
            .collect();
        for key in &woken {
            out.works_for(Point::ImageDue, &key.0);
            if self.backoffs.get(key).is_none_or(|backoff| backoff.until <= now.mono) {
                // Asked again, the need begins anew.
                self.entries.remove(key);
            } else if let Some(entry) = self.entries.get_mut(key) {
                entry.show_back_off(out);
            }
        }
        woken.into_iter().map(|(uid, _)| uid).collect()
    }

    /// A call ended. True if the pod is to be woken.
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
        let Some(entry) = self.entries.get_mut(&key) else { return false };
        match &entry.state {
            State::Checking(action) if *action == id => self.checked(now, &key, outcome, out),
            State::Pulling { action, tried, since } if *action == id => {
                let (tried, since) = (*tried, *since);
                self.pulled(now, &key, tried, since, outcome, out);
            }
            State::Resolving { action, image_ref, took } if *action == id => {
                let (image_ref, took) = (image_ref.clone(), *took);
                self.resolved(now, &key, image_ref, took, outcome, out);
            }
            _ => return false,
        }
        true
    }

    fn wakes(&self, key: &(PodUid, String), entry: &Entry) -> Option<Mono> {
        let State::Failed { since, told, .. } = &entry.state else { return None };
        if *told || !self.backoffs.contains_key(key) { self.backoffs.get(key).map(|b| b.until) } else { Some(*since + ERROR_SHOWN) }
    }

    fn begin(&mut self, now: Now, key: &(PodUid, String), image: String, need: &ImageNeed<'_>, out: &mut Out<'_>) {
        let wanted = Wanted {
            pod: Arc::clone(need.pod),
            field_path: need.field_path.to_owned(),
            policy: need.policy.to_owned(),
            credentials: need.credentials.clone(),
            sandbox_config: need.sandbox_config.clone(),
        };
        if need.policy == "Always" {
            let action = wanted.pull(key, &image, 0, out);
            let state = State::Pulling { action, tried: 0, since: now.mono };
            self.entries.insert(key.clone(), Entry { image, wanted, state });
        } else {
            let call = Call::Cri(CriCall::ImageStatus { image: image.clone() });
            let action = out.issue(Owner::Image(key.0.clone(), key.1.clone()), Lane::Objects, self.look_limit, call);
            self.entries.insert(key.clone(), Entry { image, wanted, state: State::Checking(action) });
        }
    }

    fn checked(&mut self, now: Now, key: &(PodUid, String), outcome: Result<CriReply, Failure>, out: &mut Out<'_>) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        match outcome {
            Ok(CriReply::Image(Some(found))) => {
                entry.wanted.normal(
                    "Pulled",
                    format!("Container image \"{}\" already present on machine and can be accessed by the pod", entry.image),
                    out,
                );
                let resolved = ResolvedImage { image_ref: found.id, uid: found.uid, username: found.username };
                entry.state = State::Ready(resolved);
            }
            Ok(_) if entry.wanted.policy == "Never" => {
                let message = format!("Container image \"{}\" is not present with pull policy of Never", entry.image);
                entry.wanted.warning("ErrImageNeverPull", message.clone(), out);
                self.fail(now, key, "ErrImageNeverPull", message, out);
            }
            Ok(_) => {
                let action = entry.wanted.pull(key, &entry.image, 0, out);
                entry.state = State::Pulling { action, tried: 0, since: now.mono };
            }
            Err(failure) => {
                let message = format!("Failed to inspect image \"{}\": {}", entry.image, failure.message);
                entry.wanted.warning("InspectFailed", message.clone(), out);
                self.fail(now, key, "ImageInspectError", message, out);
            }
        }
    }

    fn pulled(
        &mut self,
        now: Now,
        key: &(PodUid, String),
        tried: usize,
        since: Mono,
        outcome: Result<CriReply, Failure>,
        out: &mut Out<'_>,
    ) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let failure = match outcome {
            Ok(CriReply::Pulled { image_ref }) => {
                let call = Call::Cri(CriCall::ImageStatus { image: image_ref.clone() });
                let action = out.issue(Owner::Image(key.0.clone(), key.1.clone()), Lane::Objects, self.look_limit, call);
                entry.state = State::Resolving { action, image_ref, took: now.mono.since(since) };
                return;
            }
            Ok(_) => Failure::new(FailureKind::Other, "the runtime answered something else"),
            Err(failure) => failure,
        };
        // CRI-034: each credential until one succeeds.
        if tried + 1 < entry.wanted.credentials.len() {
            let action = entry.wanted.pull_again(key, &entry.image, tried + 1, out);
            entry.state = State::Pulling { action, tried: tried + 1, since };
            return;
        }
        let reason = ["RegistryUnavailable", "SignatureValidationFailed"]
            .into_iter()
            .find(|prefix| failure.message.starts_with(prefix))
            .unwrap_or("ErrImagePull");
        // A code that is not known says nothing (remote_image.go, PullImage).
        let why = if failure.code.as_deref() == Some("Unknown") { failure.message } else { failure.rpc_message() };
        entry.wanted.warning("Failed", format!("Failed to pull image \"{}\": {why}", entry.image), out);
        self.fail(now, key, reason, why, out);
    }

    /// CRI-035: an image that names no user runs as root; one whose user cannot be read does not run.
    fn resolved(
        &mut self,
        now: Now,
        key: &(PodUid, String),
        image_ref: String,
        took: Duration,
        outcome: Result<CriReply, Failure>,
        out: &mut Out<'_>,
    ) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let found = match outcome {
            Ok(CriReply::Image(found)) => found.unwrap_or_default(),
            Ok(_) => crate::observation::Image::default(),
            Err(failure) => {
                entry.wanted.warning("Failed", format!("Error: {}", failure.message), out);
                self.look_failed(now, key, UNREAD_USER, failure.message);
                return;
            }
        };
        let took = go_duration(took);
        entry.wanted.normal(
            "Pulled",
            format!(
                "Successfully pulled image \"{}\" in {took} ({took} including waiting). Image size: {} bytes.",
                entry.image, found.size
            ),
            out,
        );
        self.backoffs.remove(key);
        entry.state = State::Ready(ResolvedImage { image_ref, uid: found.uid, username: found.username });
    }

    fn fail(&mut self, now: Now, key: &(PodUid, String), reason: &str, message: String, out: &mut Out<'_>) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.wanted.warning("Failed", format!("Error: {reason}"), out);
        if matches!(reason, "ErrImageNeverPull" | "ImageInspectError") {
            self.look_failed(now, key, reason, message);
            return;
        }
        entry.state = State::Failed { reason: reason.to_owned(), message, since: now.mono, told: false };
        let wait = match self.backoffs.get(key) {
            Some(last) if now.mono.since(last.until) <= BACKOFF_FORGOTTEN => (last.wait * 2).min(BACKOFF_MOST),
            _ => BACKOFF_FIRST,
        };
        self.backoffs.insert(key.clone(), Backoff { wait, until: now.mono + wait });
    }

    /// POD-201: only pulls are backed off from. What was found out without one keeps its reason, and is looked at again.
    fn look_failed(&mut self, now: Now, key: &(PodUid, String), reason: &str, message: String) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.state = State::Failed { reason: reason.to_owned(), message, since: now.mono, told: true };
        self.backoffs.insert(key.clone(), Backoff { wait: BACKOFF_FIRST, until: now.mono + BACKOFF_FIRST });
    }
}

impl Entry {
    /// POD-201: the reason becomes `ImagePullBackOff`, and the users are told.
    fn show_back_off(&mut self, out: &mut Out<'_>) {
        let State::Failed { reason, message, told, .. } = &mut self.state else { return };
        *told = true;
        *message = format!("Back-off pulling image \"{}\": {reason}: {message}", self.image);
        "ImagePullBackOff".clone_into(reason);
        self.wanted.normal("BackOff", format!("Back-off pulling image \"{}\"", self.image), out);
        self.wanted.warning("Failed", "Error: ImagePullBackOff".to_owned(), out);
    }

    fn shown(&self) -> ImageState {
        match &self.state {
            State::Ready(image) => ImageState::Ready(image.clone()),
            State::Failed { reason, message, .. } => ImageState::Failed { reason: reason.clone(), message: message.clone() },
            State::Checking(_) | State::Pulling { .. } | State::Resolving { .. } => ImageState::Pending,
        }
    }
}

impl Wanted {
    fn pull(&self, key: &(PodUid, String), image: &str, credential: usize, out: &mut Out<'_>) -> ActionId {
        self.normal("Pulling", format!("Pulling image \"{image}\""), out);
        self.pull_again(key, image, credential, out)
    }

    fn pull_again(&self, key: &(PodUid, String), image: &str, credential: usize, out: &mut Out<'_>) -> ActionId {
        let call = CriCall::PullImage {
            image: image.to_owned(),
            annotations: self.pod.metadata.annotations.clone().unwrap_or_default(),
            auth: self.credentials.get(credential).cloned(),
            sandbox_config: self.sandbox_config.clone(),
        };
        // A pull takes as long as the registry takes; the runtime has a progress time-out of its own.
        out.issue(Owner::Image(key.0.clone(), key.1.clone()), Lane::Images, None, Call::Cri(call))
    }

    fn subject(&self) -> Subject {
        Subject::Container(Arc::clone(&self.pod), self.field_path.clone())
    }

    fn normal(&self, reason: &str, message: String, out: &mut Out<'_>) {
        out.record(Recorded::normal(self.subject(), reason, message));
    }

    fn warning(&self, reason: &str, message: String, out: &mut Out<'_>) {
        out.record(Recorded::warning(self.subject(), reason, message));
    }
}

/// A duration as Go prints it, cut to milliseconds: `800ms`, `1.2s`, `1m2.5s`.
fn go_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let (minutes, rest) = (millis / 60_000, millis % 60_000);
    let seconds = format!("{}.{:03}", rest / 1000, rest % 1000);
    let seconds = seconds.trim_end_matches('0').trim_end_matches('.');
    if minutes == 0 { format!("{seconds}s") } else { format!("{minutes}m{seconds}s") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Action;
    use crate::observation::Image;
    use crate::out::Ledger;

    struct Bench {
        images: ImageManager,
        ledger: Ledger,
        recorded: Vec<Recorded>,
        pod: Arc<Pod>,
        uid: PodUid,
    }

    impl Bench {
        fn new() -> Self {
            let (images, ledger, recorded) = (ImageManager::new(Duration::from_secs(90)), Ledger::default(), Vec::new());
            Self { images, ledger, recorded, pod: Arc::new(Pod::default()), uid: PodUid::new("u") }
        }

        fn ensure(&mut self, seconds: u64, policy: &str) -> (ImageState, Vec<Action>) {
            let mut actions = Vec::new();
            let need = ImageNeed {
                pod: &self.pod,
                uid: &self.uid,
                name: "c",
                field_path: "spec.containers{c}",
                image: "busybox",
                policy,
                credentials: vec![],
                sandbox_config: None,
            };
            let mut out = Out::new(&mut self.ledger, &mut actions, &mut self.recorded);
            (self.images.ensure(at(seconds), &need, &mut out), actions)
        }

        fn done(&mut self, seconds: u64, id: ActionId, outcome: Result<CriReply, Failure>) -> Vec<Action> {
            let mut actions = Vec::new();
            let mut out = Out::new(&mut self.ledger, &mut actions, &mut self.recorded);
            assert!(self.images.done(at(seconds), &self.uid, "c", id, outcome, &mut out));
            actions
        }

        fn due(&mut self, seconds: u64) -> BTreeSet<PodUid> {
            let mut actions = Vec::new();
            self.images.due(at(seconds), &mut Out::new(&mut self.ledger, &mut actions, &mut self.recorded))
        }

        fn reasons(&self) -> Vec<&str> {
            self.recorded.iter().map(|r| r.reason.as_str()).collect()
        }
    }

    fn at(seconds: u64) -> Now {
        Now { mono: Mono::from_start(Duration::from_secs(seconds)), wall: jiff::Timestamp::UNIX_EPOCH }
    }

    fn refused() -> Result<CriReply, Failure> {
        Err(Failure::new(FailureKind::NotFound, "not found"))
    }

    // POD-200, POD-202: a present image is not pulled.
    #[test]
    fn present_image_is_used() {
        let mut bench = Bench::new();
        let (state, actions) = bench.ensure(0, "IfNotPresent");
        assert_eq!(state, ImageState::Pending);
        let image = Image { id: "sha256:1".to_owned(), uid: Some(7), ..Image::default() };
        bench.done(0, actions[0].id, Ok(CriReply::Image(Some(image))));
        let (state, actions) = bench.ensure(0, "IfNotPresent");
        assert!(actions.is_empty());
        assert_eq!(
            state,
            ImageState::Ready(ResolvedImage { image_ref: "sha256:1".to_owned(), uid: Some(7), username: String::new() })
        );
        assert_eq!(bench.reasons(), ["Pulled"]);
    }

    // POD-200: ErrImageNeverPull
    #[test]
    fn absent_image_is_never_pulled_under_never() {
        let mut bench = Bench::new();
        let (_, actions) = bench.ensure(0, "Never");
        assert!(bench.done(0, actions[0].id, Ok(CriReply::Image(None))).is_empty());
        let (ImageState::Failed { reason, message }, _) = bench.ensure(0, "Never") else { panic!("it fails") };
        assert_eq!(reason, "ErrImageNeverPull");
        assert_eq!(message, "Container image \"busybox:latest\" is not present with pull policy of Never");
        // It is no back-off, and the next look is no later than the first.
        for seconds in [10, 20, 30] {
            assert_eq!(bench.images.deadline(), Some(at(seconds).mono));
            assert_eq!(bench.due(seconds).len(), 1);
            let (_, actions) = bench.ensure(seconds, "Never");
            bench.done(seconds, actions[0].id, Ok(CriReply::Image(None)));
            assert!(matches!(bench.ensure(seconds, "Never").0, ImageState::Failed { reason, .. } if reason == "ErrImageNeverPull"));
        }
    }

    // POD-201, POD-202: its own reason first, then the wait; 10 s, then 20 s.
    #[test]
    fn failed_pull_waits_ten_seconds_and_then_twenty() {
        let mut bench = Bench::new();
        let (_, actions) = bench.ensure(0, "Always");
        bench.done(1, actions[0].id, refused());
        assert!(matches!(bench.ensure(1, "Always").0, ImageState::Failed { reason, .. } if reason == "ErrImagePull"));
        assert_eq!(bench.images.deadline(), Some(at(3).mono));
        assert_eq!(bench.due(3).len(), 1);
        let (ImageState::Failed { reason, message }, _) = bench.ensure(3, "Always") else { panic!("it waits") };
        assert_eq!(reason, "ImagePullBackOff");
        assert_eq!(message, "Back-off pulling image \"busybox:latest\": ErrImagePull: not found");
        assert_eq!(bench.reasons(), ["Pulling", "Failed", "Failed", "BackOff", "Failed"]);
        assert_eq!(bench.images.deadline(), Some(at(11).mono));
        assert_eq!(bench.due(11).len(), 1);
        let (state, actions) = bench.ensure(11, "Always");
        assert_eq!(state, ImageState::Pending);
        bench.done(12, actions[0].id, refused());
        bench.due(14);
        assert_eq!(bench.images.deadline(), Some(at(32).mono));
    }

    /// What a container with that image shows once its pull has failed so.
    fn shown_after(failure: &str) -> (String, String) {
        let mut bench = Bench::new();
        let (_, actions) = bench.ensure(0, "Always");
        bench.done(0, actions[0].id, Err(Failure::new(FailureKind::Other, failure)));
        let (ImageState::Failed { reason, message }, _) = bench.ensure(0, "Always") else { panic!("it fails") };
        (reason, message)
    }

    // CRI-040: what the runtime says first is the reason, if it is one of these.
    #[test]
    fn runtime_may_name_the_reason_of_a_failed_pull() {
        for reason in ["RegistryUnavailable", "SignatureValidationFailed"] {
            let text = format!("{reason}: no route to host");
            assert_eq!(shown_after(&text), (reason.to_owned(), text.clone()));
        }
        assert_eq!(shown_after("manifest unknown").0, "ErrImagePull");
        assert_eq!(shown_after("pull failed: RegistryUnavailable").0, "ErrImagePull");
    }

    // CRI-040: InvalidImageName
    #[test]
    fn name_that_is_none_is_told_and_nothing_is_asked() {
        let mut bench = Bench::new();
        let pod = Arc::clone(&bench.pod);
        let need = ImageNeed {
            pod: &pod,
            uid: &PodUid::new("u"),
            name: "c",
            field_path: "spec.containers{c}",
            image: "UPPER CASE",
            policy: "Always",
            credentials: vec![],
            sandbox_config: None,
        };
        let mut actions = Vec::new();
        let mut out = Out::new(&mut bench.ledger, &mut actions, &mut bench.recorded);
        let state = bench.images.ensure(at(0), &need, &mut out);
        assert!(matches!(state, ImageState::Failed { reason, .. } if reason == "InvalidImageName"));
        assert!(actions.is_empty());
    }

    // CRI-035, CRI-040: an image that cannot be looked at is told of, and looked at again.
    #[test]
    fn look_that_fails_is_told_and_repeated() {
        let mut bench = Bench::new();
        let (_, actions) = bench.ensure(0, "IfNotPresent");
        assert_eq!(actions[0].timeout, Some(Duration::from_secs(90)));
        bench.done(0, actions[0].id, Err(Failure::new(FailureKind::Other, "broken")));
        let (ImageState::Failed { reason, message }, _) = bench.ensure(0, "IfNotPresent") else { panic!("it fails") };
        assert_eq!(
            (reason.as_str(), message.as_str()),
            ("ImageInspectError", "Failed to inspect image \"busybox:latest\": broken")
        );
        assert_eq!(bench.reasons(), ["InspectFailed", "Failed"]);
        assert_eq!(bench.due(10).len(), 1);
        assert_eq!(bench.ensure(10, "IfNotPresent").1.len(), 1);
    }

    // CRI-035: who does not know whom an image runs as does not run it as root.
    #[test]
    fn pulled_image_whose_user_cannot_be_read_does_not_run() {
        let mut bench = Bench::new();
        let (_, actions) = bench.ensure(0, "Always");
        let look = bench.done(1, actions[0].id, Ok(CriReply::Pulled { image_ref: "sha256:1".to_owned() }));
        bench.done(1, look[0].id, Err(Failure::new(FailureKind::UnknownOutcome, "context deadline exceeded")));
        let (ImageState::Failed { reason, message }, _) = bench.ensure(1, "Always") else { panic!("it must not run") };
        assert_eq!((reason.as_str(), message.as_str()), ("CreateContainerConfigError", "context deadline exceeded"));
        bench.due(11);
        let (_, actions) = bench.ensure(11, "Always");
        let look = bench.done(11, actions[0].id, Ok(CriReply::Pulled { image_ref: "sha256:1".to_owned() }));
        let named = Image { username: "nobody".to_owned(), size: 5, ..Image::default() };
        bench.done(11, look[0].id, Ok(CriReply::Image(Some(named))));
        assert!(matches!(bench.ensure(11, "Always").0, ImageState::Ready(image) if image.username == "nobody"));
    }

    // CRI-034: all credentials are tried, and then none of them is kept waiting.
    #[test]
    fn success_after_a_failure_forgets_the_back_off() {
        let mut bench = Bench::new();
        let (_, actions) = bench.ensure(0, "Always");
        bench.done(0, actions[0].id, refused());
        bench.due(2);
        bench.due(10);
        let (_, actions) = bench.ensure(10, "Always");
        let resolve = bench.done(11, actions[0].id, Ok(CriReply::Pulled { image_ref: "sha256:1".to_owned() }));
        bench.done(11, resolve[0].id, Ok(CriReply::Image(Some(Image { size: 5, ..Image::default() }))));
        assert!(matches!(bench.ensure(11, "Always").0, ImageState::Ready(_)));
        assert_eq!(
            bench.recorded.last().unwrap().message,
            "Successfully pulled image \"busybox:latest\" in 1s (1s including waiting). Image size: 5 bytes."
        );
        assert_eq!(bench.images.deadline(), None);
    }
}
