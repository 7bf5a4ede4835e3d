use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use serde_json::json;

use super::*;
use crate::action::{Action, HostCall};
use crate::config::CredentialsVerification;
use crate::event::FileRead;
use crate::failure::FailureKind;
use crate::out::Ledger;

/// An image manager over a disk that answers at once.
struct Bench {
    images: ImageManager,
    ledger: Ledger,
    recorded: Vec<Recorded>,
    disk: BTreeMap<String, Vec<u8>>,
    /// What plugins answer.
    plugin: Vec<u8>,
    image: String,
    policy: &'static str,
    secrets: Vec<Sensitive<Arc<Secret>>>,
}

impl Bench {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::new("n1");
        config.pods.runtime_request_timeout = Duration::from_secs(90);
        change(&mut config);
        let mut bench = Self {
            images: ImageManager::new(&config),
            ledger: Ledger::default(),
            recorded: Vec::new(),
            disk: BTreeMap::new(),
            plugin: Vec::new(),
            image: "busybox".to_owned(),
            policy: "Always",
            secrets: Vec::new(),
        };
        let _ = bench.due(0);
        bench
    }

    /// The agent starts anew, with the same disk.
    fn restart(&mut self) {
        let fresh = Self::new();
        (self.images, self.ledger) = (fresh.images, fresh.ledger);
        self.images.records = PullRecords::new(Some(&Config::new("n1").paths.root));
        let _ = self.due(0);
    }

    /// Answers what the host was asked for; what is left is for the runtime.
    fn settle(&mut self, seconds: u64, actions: Vec<Action>) -> Vec<Action> {
        let mut left = Vec::new();
        let mut todo: std::collections::VecDeque<Action> = actions.into();
        while let Some(action) = todo.pop_front() {
            let outcome = match &action.call {
                Call::Host(HostCall::ReadDirectory { path, .. }) => {
                    let inside = |(name, bytes): (&String, &Vec<u8>)| {
                        let name = name.strip_prefix(&format!("{path}/"))?.to_owned();
                        Some(FileRead { name, contents: Ok(Sensitive::new(bytes.clone())) })
                    };
                    HostReply::Files(self.disk.iter().filter_map(inside).collect())
                }
                Call::Host(HostCall::ReadFiles { paths }) => {
                    let read = |path: &String| {
                        let contents = Ok(Sensitive::new(self.disk.get(path)?.clone()));
                        Some(FileRead { name: path.clone(), contents })
                    };
                    HostReply::Files(paths.iter().filter_map(read).collect())
                }
                Call::Host(HostCall::AskCredentialPlugin { .. }) => HostReply::Output(Sensitive::new(self.plugin.clone())),
                Call::Host(HostCall::WriteRecord { path, contents }) => {
                    self.disk.insert(path.clone(), contents.reveal().clone());
                    HostReply::Done
                }
                Call::Host(HostCall::RemoveFile { path }) => {
                    self.disk.remove(path);
                    HostReply::Done
                }
                _ => {
                    left.push(action);
                    continue;
                }
            };
            let mut more = Vec::new();
            let mut out = Out::new(&mut self.ledger, &mut more, &mut self.recorded);
            let _ = self.images.host_done(at(seconds), action.id, Ok(outcome), &mut out);
            todo.extend(more);
        }
        left
    }

    fn ensure_for(&mut self, seconds: u64, pod: &str, container: &str) -> (ImageState, Vec<Action>) {
        let (object, uid, image) = (Arc::new(Pod::default()), PodUid::new(pod), self.image.clone());
        let secrets = self.secrets.clone();
        let need = ImageNeed {
            pod: &object,
            uid: &uid,
            name: container,
            field_path: "spec.containers{c}",
            image: &image,
            policy: self.policy,
            secrets: &secrets,
            sandbox_config: None,
        };
        let mut actions = Vec::new();
        let mut out = Out::new(&mut self.ledger, &mut actions, &mut self.recorded);
        let state = self.images.ensure(at(seconds), &need, &mut out);
        let left = self.settle(seconds, actions);
        let state =
            if left.is_empty() { self.images.entries.get(&(uid, container.to_owned())).map_or(state, Entry::shown) } else { state };
        (state, left)
    }

    fn ensure(&mut self, seconds: u64) -> (ImageState, Vec<Action>) {
        self.ensure_for(seconds, "u", "c")
    }

    fn done_for(
        &mut self,
        seconds: u64,
        pod: &str,
        container: &str,
        id: ActionId,
        outcome: Result<CriReply, Failure>,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        let mut out = Out::new(&mut self.ledger, &mut actions, &mut self.recorded);
        let _ = self.images.done(at(seconds), &PodUid::new(pod), container, id, outcome, &mut out);
        self.settle(seconds, actions)
    }

    fn done(&mut self, seconds: u64, id: ActionId, outcome: Result<CriReply, Failure>) -> Vec<Action> {
        self.done_for(seconds, "u", "c", id, outcome)
    }

    fn due(&mut self, seconds: u64) -> BTreeSet<PodUid> {
        let mut actions = Vec::new();
        let woken = self.images.due(at(seconds), &mut Out::new(&mut self.ledger, &mut actions, &mut self.recorded));
        assert!(self.settle(seconds, actions).is_empty());
        woken
    }

    fn failed(&mut self, seconds: u64) -> (String, String) {
        match self.ensure(seconds).0 {
            ImageState::Failed { reason, message } => (reason, message),
            other => panic!("it fails: {other:?}"),
        }
    }

    /// The pull that began; answers the credentials' user.
    fn user(actions: &[Action]) -> Option<String> {
        match &actions[0].call {
            Call::Cri(CriCall::PullImage { auth, .. }) => auth.as_ref().map(|auth| auth.reveal().username.clone()),
            other => panic!("a pull: {other:?}"),
        }
    }

    fn is_pull(actions: &[Action]) -> bool {
        matches!(actions, [Action { call: Call::Cri(CriCall::PullImage { .. }), .. }])
    }

    /// The pod's container pulls the image, and has it.
    fn pull(&mut self, seconds: u64, pod: &str) {
        let (_, mut actions) = self.ensure_for(seconds, pod, "c");
        if !Self::is_pull(&actions) {
            actions = self.done_for(seconds, pod, "c", actions[0].id, Ok(CriReply::Image(None)));
        }
        let look = self.done_for(seconds, pod, "c", actions[0].id, Ok(CriReply::Pulled { image_ref: "sha256:1".to_owned() }));
        self.done_for(seconds, pod, "c", look[0].id, there());
        assert!(matches!(self.ensure_for(seconds, pod, "c").0, ImageState::Ready(_)));
    }

    /// The pod's container wants the image, which is there.
    fn finds(&mut self, seconds: u64, pod: &str) -> (ImageState, Vec<Action>) {
        let (_, actions) = self.ensure_for(seconds, pod, "c");
        let more = self.done_for(seconds, pod, "c", actions[0].id, there());
        let (state, _) = self.ensure_for(seconds, pod, "c");
        (state, more)
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

fn there() -> Result<CriReply, Failure> {
    Ok(CriReply::Image(Some(Image { id: "sha256:1".to_owned(), uid: Some(7), size: 5, ..Image::default() })))
}

fn pull_secret(uid: &str, host: &str, user: &str) -> Sensitive<Arc<Secret>> {
    let config = json!({"auths": {host: {"username": user, "password": "pass"}}}).to_string();
    let mut secret = Secret {
        type_: Some("kubernetes.io/dockerconfigjson".to_owned()),
        data: Some([(".dockerconfigjson".to_owned(), ByteString(config.into_bytes()))].into()),
        ..Secret::default()
    };
    secret.metadata.uid = Some(uid.to_owned());
    secret.metadata.name = Some("pull".to_owned());
    secret.metadata.namespace = Some("default".to_owned());
    Sensitive::new(Arc::new(secret))
}

// POD-200, POD-202: a present image that nobody pulled is not pulled.
#[test]
fn present_image_is_used() {
    let mut bench = Bench::new();
    bench.policy = "IfNotPresent";
    assert_eq!(bench.ensure(0).0, ImageState::Pending);
    bench.images.forget(&PodUid::new("u"));
    let (state, actions) = bench.finds(0, "u");
    assert!(actions.is_empty());
    let image = ResolvedImage { image_ref: "sha256:1".to_owned(), uid: Some(7), username: String::new() };
    assert_eq!(state, ImageState::Ready(image));
    assert_eq!(bench.recorded[0].message, "Container image \"busybox\" already present on machine and can be accessed by the pod");
}

// POD-200: ErrImageNeverPull
#[test]
fn absent_image_is_never_pulled_under_never() {
    let mut bench = Bench::new();
    bench.policy = "Never";
    let (_, actions) = bench.ensure(0);
    assert!(bench.done(0, actions[0].id, Ok(CriReply::Image(None))).is_empty());
    let (reason, message) = bench.failed(0);
    assert_eq!(reason, "ErrImageNeverPull");
    assert_eq!(message, "Container image \"busybox\" is not present with pull policy of Never");
    // It is no back-off, and the next look is no later than the first.
    for seconds in [10, 20, 30] {
        assert_eq!(bench.images.deadline(), Some(at(seconds).mono));
        assert_eq!(bench.due(seconds).len(), 1);
        let (_, actions) = bench.ensure(seconds);
        bench.done(seconds, actions[0].id, Ok(CriReply::Image(None)));
        assert_eq!(bench.failed(seconds).0, "ErrImageNeverPull");
    }
}

// POD-201, POD-202, C7: its own reason first, then the wait; 10 s, then 20 s; the image is named as it is written.
#[test]
fn failed_pull_waits_ten_seconds_and_then_twenty() {
    let mut bench = Bench::new();
    let (_, actions) = bench.ensure(0);
    let Call::Cri(CriCall::PullImage { image, .. }) = &actions[0].call else { panic!() };
    assert_eq!(image, "busybox:latest");
    bench.done(1, actions[0].id, refused());
    assert_eq!(bench.failed(1).0, "ErrImagePull");
    assert_eq!(bench.images.deadline(), Some(at(3).mono));
    assert_eq!(bench.due(3).len(), 1);
    let (reason, message) = bench.failed(3);
    assert_eq!(reason, "ImagePullBackOff");
    assert_eq!(message, "Back-off pulling image \"busybox\": ErrImagePull: not found");
    assert_eq!(bench.reasons(), ["Pulling", "Failed", "Failed", "BackOff", "Failed"]);
    assert_eq!(bench.recorded[0].message, "Pulling image \"busybox\"");
    assert_eq!(bench.images.deadline(), Some(at(11).mono));
    assert_eq!(bench.due(11).len(), 1);
    let (state, actions) = bench.ensure(11);
    assert_eq!(state, ImageState::Pending);
    bench.done(12, actions[0].id, refused());
    bench.due(14);
    assert_eq!(bench.images.deadline(), Some(at(32).mono));
}

// N9: the back-off is the image's (`podUID_image`, image_manager.go:336): another image of the same container has none yet.
#[test]
fn another_image_begins_with_a_back_off_of_its_own() {
    let mut bench = Bench::new();
    for seconds in [0, 10, 30, 70] {
        bench.due(seconds);
        let (_, actions) = bench.ensure(seconds);
        bench.done(seconds, actions[0].id, refused());
    }
    bench.image = "other:1".to_owned();
    let (_, actions) = bench.ensure(80);
    bench.done(80, actions[0].id, refused());
    bench.due(82);
    assert_eq!(bench.images.deadline(), Some(at(90).mono));
    // Back to the first: its back-off still holds.
    bench.image = "busybox".to_owned();
    let (state, actions) = bench.ensure(83);
    assert!(matches!(state, ImageState::Failed { reason, .. } if reason == "ImagePullBackOff") && actions.is_empty());
    assert_eq!(bench.images.deadline(), Some(at(150).mono));
}

// N9: two containers with one image do not pull at once, and share the back-off (golden 166 and EnsureImageExists).
#[test]
fn containers_with_one_image_pull_it_once() {
    let mut bench = Bench::new();
    let (_, actions) = bench.ensure_for(0, "u", "a");
    assert!(Bench::is_pull(&actions));
    let (state, none) = bench.ensure_for(0, "u", "b");
    assert!(state == ImageState::Pending && none.is_empty());
    bench.done_for(1, "u", "a", actions[0].id, refused());
    let (state, actions) = bench.ensure_for(1, "u", "b");
    assert!(actions.is_empty());
    let ImageState::Failed { reason, message } = state else { panic!() };
    assert_eq!(
        (reason.as_str(), message.as_str()),
        ("ImagePullBackOff", "Back-off pulling image \"busybox\": ErrImagePull: not found")
    );
}

// POD-204: TestPullAndListImageWithPodAnnotations's neighbour "pull QPS exceeded" (helpers.go): a pull beyond the burst fails at once.
#[test]
fn pulls_beyond_the_burst_fail_and_back_off() {
    let mut bench = Bench::with(|config| {
        config.images.max_parallel_pulls = None;
        (config.images.pull_qps, config.images.pull_burst) = (1, 2);
    });
    for pod in ["a", "b"] {
        assert!(Bench::is_pull(&bench.ensure_for(0, pod, "c").1));
    }
    let (state, actions) = bench.ensure_for(0, "d", "c");
    assert!(actions.is_empty());
    assert_eq!(state, ImageState::Failed { reason: "ErrImagePull".to_owned(), message: "pull QPS exceeded".to_owned() });
    assert!(Bench::is_pull(&bench.ensure_for(1, "e", "c").1), "one more each second");
}

// POD-203, POD-202: one pull at a time, in the order of asking; the wait is told apart from the pull.
#[test]
fn serialized_pulls_take_turns() {
    let mut bench = Bench::new();
    let (_, first) = bench.ensure_for(0, "a", "c");
    let (state, actions) = bench.ensure_for(0, "b", "c");
    assert!(state == ImageState::Pending && actions.is_empty());
    let more = bench.done_for(4, "a", "c", first[0].id, Ok(CriReply::Pulled { image_ref: "sha256:1".to_owned() }));
    assert_eq!(more.len(), 2, "a look for the first, a pull for the second: {more:?}");
    let pull = more.iter().find(|action| Bench::is_pull(std::slice::from_ref(action))).unwrap();
    let look = bench.done_for(5, "b", "c", pull.id, Ok(CriReply::Pulled { image_ref: "sha256:1".to_owned() }));
    bench.done_for(5, "b", "c", look[0].id, there());
    assert_eq!(
        bench.recorded.last().unwrap().message,
        "Successfully pulled image \"busybox\" in 1s (5s including waiting). Image size: 5 bytes."
    );
    // Upstream's calculateImagePullingTime: what went on side by side counts once.
    assert_eq!(bench.images.pulled_for(&PodUid::new("b")), Duration::from_secs(5));
    bench.images.sessions.entry(PodUid::new("b")).or_default().push((at(3).mono, at(7).mono));
    assert_eq!(bench.images.pulled_for(&PodUid::new("b")), Duration::from_secs(7));
}

// B1, C9, CRI-040: golden 153: each container tells of it, and again; nothing is asked.
#[test]
fn name_that_is_none_is_told_and_nothing_is_asked() {
    let mut bench = Bench::new();
    bench.image = "a b".to_owned();
    let (state, actions) = bench.ensure(0);
    assert!(actions.is_empty());
    let message = "Failed to apply default image tag \"a b\": couldn't parse image name \"a b\": invalid reference format";
    assert_eq!(state, ImageState::Failed { reason: "InvalidImageName".to_owned(), message: message.to_owned() });
    let told: Vec<(&str, &str)> = bench.recorded.iter().map(|r| (r.reason.as_str(), r.message.as_str())).collect();
    assert_eq!(told, [("InspectFailed", message), ("Failed", "Error: InvalidImageName")]);
    assert_eq!(bench.images.deadline(), Some(at(10).mono));
}

// CRI-035, CRI-040: an image that cannot be looked at is told of, and looked at again.
#[test]
fn look_that_fails_is_told_and_repeated() {
    let mut bench = Bench::new();
    bench.policy = "IfNotPresent";
    let (_, actions) = bench.ensure(0);
    assert_eq!(actions[0].timeout, Some(Duration::from_secs(90)));
    bench.done(0, actions[0].id, Err(Failure::new(FailureKind::Other, "broken")));
    // imagePullPrecheck: the reference that it names is the one that it did not get.
    assert_eq!(bench.failed(0), ("ImageInspectError".to_owned(), "Failed to inspect image \"\": broken".to_owned()));
    assert_eq!(bench.reasons(), ["InspectFailed", "Failed"]);
    assert_eq!(bench.due(10).len(), 1);
    assert_eq!(bench.ensure(10).1.len(), 1);
}

// CRI-035: who does not know whom an image runs as does not run it as root.
#[test]
fn pulled_image_whose_user_cannot_be_read_does_not_run() {
    let mut bench = Bench::new();
    let (_, actions) = bench.ensure(0);
    let look = bench.done(1, actions[0].id, Ok(CriReply::Pulled { image_ref: "sha256:1".to_owned() }));
    bench.done(1, look[0].id, Err(Failure::new(FailureKind::UnknownOutcome, "context deadline exceeded")));
    assert_eq!(bench.failed(1), ("CreateContainerConfigError".to_owned(), "context deadline exceeded".to_owned()));
    bench.due(11);
    let (_, actions) = bench.ensure(11);
    let look = bench.done(11, actions[0].id, Ok(CriReply::Pulled { image_ref: "sha256:1".to_owned() }));
    let named = Image { username: "nobody".to_owned(), size: 5, ..Image::default() };
    bench.done(11, look[0].id, Ok(CriReply::Image(Some(named))));
    assert!(matches!(bench.ensure(11).0, ImageState::Ready(image) if image.username == "nobody"));
}

// CRI-034, POD-205: all credentials are tried, and what went wrong with each is told.
#[test]
fn every_credential_is_tried_and_every_error_told() {
    let mut bench = Bench::new();
    bench.image = "r.example.com/team/app:1".to_owned();
    bench.secrets = vec![pull_secret("1", "r.example.com", "host"), pull_secret("2", "r.example.com/team", "team")];
    let (_, actions) = bench.ensure(0);
    assert_eq!(Bench::user(&actions).as_deref(), Some("team"));
    let actions = bench.done(0, actions[0].id, Err(Failure::new(FailureKind::Other, "401 Unauthorized")));
    assert_eq!(Bench::user(&actions).as_deref(), Some("host"));
    bench.done(0, actions[0].id, Err(Failure::new(FailureKind::Other, "403 Forbidden")));
    assert_eq!(bench.failed(0), ("ErrImagePull".to_owned(), "[401 Unauthorized, 403 Forbidden]".to_owned()));
}

fn private() -> Bench {
    let mut bench = Bench::new();
    bench.image = "r.example.com/app:1".to_owned();
    bench.policy = "IfNotPresent";
    bench.secrets = vec![pull_secret("1", "r.example.com", "user")];
    bench.pull(0, "first");
    bench
}

// A4, POD-208: golden 163: a pod with the secret may use the image, one without must pull it, and under Never it looks absent.
#[test]
fn image_that_another_pod_pulled_is_not_for_everybody() {
    let mut bench = private();
    let (state, actions) = bench.finds(1, "fourth");
    assert!(matches!(state, ImageState::Ready(_)) && actions.is_empty());
    bench.secrets.clear();
    let (state, actions) = bench.finds(1, "second");
    assert_eq!(state, ImageState::Pending);
    assert_eq!(Bench::user(&actions), None);
    bench.done_for(1, "second", "c", actions[0].id, Err(Failure::new(FailureKind::Other, "no basic auth credentials")));
    bench.policy = "Never";
    let (state, actions) = bench.finds(1, "third");
    assert!(actions.is_empty());
    let message = "Container image \"r.example.com/app:1\" is not present with pull policy of Never".to_owned();
    assert_eq!(state, ImageState::Failed { reason: "ErrImageNeverPull".to_owned(), message });
}

// POD-208: TestFileBasedImagePullManager_MustAttemptImagePull: the same hash in another secret, the same secret with another hash, and
// neither; each of the first two is known from then on.
#[test]
fn secret_is_known_by_its_content_or_by_its_name() {
    let mut bench = private();
    bench.secrets = vec![pull_secret("other", "r.example.com", "user")];
    assert!(matches!(bench.finds(1, "a").0, ImageState::Ready(_)));
    bench.secrets = vec![pull_secret("other", "r.example.com", "changed")];
    assert!(matches!(bench.finds(1, "b").0, ImageState::Ready(_)));
    bench.secrets = vec![pull_secret("third", "r.example.com", "stranger")];
    assert_eq!(bench.finds(1, "d").0, ImageState::Pending);
}

// POD-208: records survive a restart; the image pulled under another name is another matter.
#[test]
fn who_pulled_what_survives_a_restart() {
    let mut bench = private();
    bench.restart();
    assert!(matches!(bench.finds(1, "a").0, ImageState::Ready(_)));
    bench.image = "r.example.com/alias:1".to_owned();
    assert_eq!(bench.finds(1, "b").0, ImageState::Pending);
    bench.secrets.clear();
    bench.image = "r.example.com/app:1".to_owned();
    bench.restart();
    assert_eq!(bench.finds(1, "d").0, ImageState::Pending);
}

// POD-208: an agent that dies while it pulls does not know later for whom the image came.
#[test]
fn pull_that_nobody_saw_end_is_for_nobody() {
    for dies in [true, false] {
        let mut bench = Bench::new();
        bench.image = "r.example.com/app:1".to_owned();
        let (_, actions) = bench.ensure_for(0, "first", "c");
        if dies {
            bench.restart();
        } else {
            bench.done_for(1, "first", "c", actions[0].id, Err(Failure::new(FailureKind::UnknownOutcome, "connection reset")));
        }
        bench.policy = "Never";
        let (state, _) = bench.finds(1, "second");
        assert!(matches!(state, ImageState::Failed { reason, .. } if reason == "ErrImageNeverPull"), "{dies}");
        bench.image = "r.example.com/other:1".to_owned();
        assert!(matches!(bench.finds(1, "third").0, ImageState::Ready(_)), "{dies}");
    }
}

// POD-208, found by the swarm: a pull that fails says nothing of an earlier one whose end nobody saw. The image that came by that is for
// nobody in particular, also after the next restart.
#[test]
fn failed_pull_does_not_clear_the_doubt_about_an_earlier_one() {
    let mut bench = Bench::new();
    bench.image = "r.example.com/app:1".to_owned();
    bench.secrets = vec![pull_secret("1", "r.example.com", "user")];
    assert_eq!(Bench::user(&bench.ensure_for(0, "first", "c").1).as_deref(), Some("user"));
    bench.restart();
    bench.secrets.clear();
    let (_, actions) = bench.ensure_for(1, "second", "c");
    bench.done_for(1, "second", "c", actions[0].id, refused());
    bench.restart();
    bench.policy = "Never";
    let (state, _) = bench.finds(2, "third");
    assert!(matches!(state, ImageState::Failed { reason, .. } if reason == "ErrImageNeverPull"));
}

// POD-208: the policies (TestNeverVerifyPreloadedPullPolicy, TestNewNeverVerifyAllowListedPullPolicy, ... in image_pull_policies_test.go):
// which of an image that is there and nobody pulled, and of one that another pod pulled, must be pulled again.
#[test]
fn policy_says_which_images_are_verified() {
    use CredentialsVerification::{AlwaysVerify, NeverVerify, NeverVerifyAllowlistedImages, NeverVerifyPreloadedImages};
    for (policy, listed, preloaded_is_free, pulled_is_free) in [
        (NeverVerify, "", true, true),
        (NeverVerifyPreloadedImages, "", true, false),
        (NeverVerifyAllowlistedImages, "r.example.com/app", true, true),
        (NeverVerifyAllowlistedImages, "r.example.com/*", true, true),
        (NeverVerifyAllowlistedImages, "r.example.com/ap", false, false),
        (AlwaysVerify, "", false, false),
    ] {
        let mut bench = Bench::with(|config| {
            config.images.credentials_verification = policy;
            config.images.preloaded_allowlist = vec![listed.to_owned()];
        });
        bench.image = "r.example.com/app:1".to_owned();
        bench.policy = "IfNotPresent";
        let is_free = |found: (ImageState, Vec<Action>)| matches!(found.0, ImageState::Ready(_));
        assert_eq!(is_free(bench.finds(0, "a")), preloaded_is_free, "{policy:?} {listed}");
        bench.images.forget(&PodUid::new("a"));
        bench.images.pulls = Pulls::new(&bench.images.settings);
        bench.secrets = vec![pull_secret("1", "r.example.com", "user")];
        bench.policy = "Always";
        bench.pull(0, "b");
        bench.policy = "IfNotPresent";
        bench.secrets.clear();
        assert_eq!(is_free(bench.finds(0, "d")), pulled_is_free, "{policy:?} {listed}");
    }
}

// POD-208: an image that was pulled with no credentials is everybody's.
#[test]
fn image_that_was_pulled_anonymously_is_for_everybody() {
    let mut bench = Bench::new();
    bench.policy = "IfNotPresent";
    bench.pull(0, "first");
    assert!(matches!(bench.finds(1, "second").0, ImageState::Ready(_)));
}

// POD-208: a pod that goes while its pull runs leaves the record of it; one that goes while it waits leaves nothing.
#[test]
fn pull_outlives_its_pod() {
    let mut bench = Bench::new();
    bench.image = "r.example.com/app:1".to_owned();
    bench.secrets = vec![pull_secret("1", "r.example.com", "user")];
    let (_, actions) = bench.ensure_for(0, "first", "c");
    assert!(bench.ensure_for(0, "waits", "c").1.is_empty());
    bench.images.forget(&PodUid::new("first"));
    bench.images.forget(&PodUid::new("waits"));
    bench.done_for(1, "first", "c", actions[0].id, Ok(CriReply::Pulled { image_ref: "sha256:1".to_owned() }));
    bench.due(1);
    assert_eq!(bench.disk.keys().map(|path| path.rsplit('/').nth(1).unwrap()).collect::<Vec<_>>(), ["pulled"]);
    bench.policy = "IfNotPresent";
    assert!(matches!(bench.finds(1, "second").0, ImageState::Ready(_)));
}

// POD-203, POD-076: pod_workers.go (UpdatePod) cancels the context of a pod that is to stop, which goes down to the runtime's PullImage: a
// registry that never ends keeps nobody waiting once its pod is deleted. Nobody knows how it ended, so the record of it stays.
#[test]
fn pull_of_a_pod_that_is_to_stop_is_withdrawn() {
    let mut bench = Bench::with(|config| config.images.max_parallel_pulls = Some(1));
    bench.image = "tarpit.example.com/x:1".to_owned();
    let (_, pull) = bench.ensure_for(0, "first", "c");
    bench.image = "r.example.com/app:1".to_owned();
    assert!(bench.ensure_for(0, "second", "c").1.is_empty(), "it waits for its turn");
    let (mut actions, first) = (Vec::new(), PodUid::new("first"));
    for _ in 0..2 {
        bench.images.give_up(&first, &mut Out::new(&mut bench.ledger, &mut actions, &mut bench.recorded));
    }
    let canceled: Vec<_> = actions.iter().map(|action| if let Call::Cancel(id) = action.call { Some(id) } else { None }).collect();
    assert_eq!(canceled, [Some(pull[0].id)]);
    let ended = Err(Failure::new(FailureKind::Canceled, "context canceled"));
    let next = bench.done_for(1, "first", "c", pull[0].id, ended);
    assert!(matches!(&next[0].call, Call::Cri(CriCall::PullImage { image, .. }) if image == "r.example.com/app:1"), "{next:?}");
    let kept: Vec<_> = bench.disk.keys().map(|path| path.rsplit('/').nth(1).unwrap()).collect();
    assert_eq!(kept, ["pulling", "pulling"]);
}

// With the gate KubeletEnsureSecretPulledImages off nothing is kept and nothing asked (EnsureImageExists).
#[test]
fn without_the_gate_what_is_there_is_for_everybody() {
    let mut bench = Bench::with(|config| config.images.pulls_are_recorded = false);
    bench.policy = "IfNotPresent";
    bench.secrets = vec![pull_secret("1", "docker.io", "user")];
    bench.pull(0, "first");
    assert!(bench.disk.is_empty());
    bench.secrets.clear();
    assert!(matches!(bench.finds(1, "second").0, ImageState::Ready(_)));
    assert_eq!(bench.recorded.last().unwrap().message, "Container image \"busybox\" already present on machine");
}

// F6, POD-205, POD-206: the pod's secrets first, then the node's docker config, then plugins (makeLookupPullCredentialsFunc); what the node
// gives makes the image everybody's.
#[test]
fn secrets_come_before_the_node_and_the_node_before_plugins() {
    let mut bench = Bench::with(|config| {
        config.images.credential_providers = vec![crate::config::CredentialProvider {
            name: "plugin".to_owned(),
            executable: "/bin/plugin".to_owned(),
            api_version: "credentialprovider.kubelet.k8s.io/v1".to_owned(),
            match_images: vec!["r.example.com".to_owned()],
            default_cache_duration: Duration::ZERO,
            arguments: Vec::new(),
            environment: Sensitive::default(),
        }];
    });
    let auths = |user: &str| json!({"r.example.com": {"username": user, "password": "p"}});
    bench.disk.insert("/var/lib/kubelet/config.json".to_owned(), json!({"auths": auths("node")}).to_string().into_bytes());
    let answer = json!({"kind": "CredentialProviderResponse", "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        "cacheKeyType": "Image", "auth": auths("plugin")});
    bench.plugin = answer.to_string().into_bytes();
    bench.image = "r.example.com/app:1".to_owned();
    bench.secrets = vec![pull_secret("1", "r.example.com", "secret")];
    let (_, mut actions) = bench.ensure(0);
    let mut users = Vec::new();
    for _ in 0..2 {
        users.extend(Bench::user(&actions));
        actions = bench.done(0, actions[0].id, refused());
    }
    users.extend(Bench::user(&actions));
    assert_eq!(users, ["secret", "node", "plugin"]);
    let look = bench.done(0, actions[0].id, Ok(CriReply::Pulled { image_ref: "sha256:1".to_owned() }));
    bench.done(0, look[0].id, there());
    (bench.policy, bench.secrets) = ("IfNotPresent", Vec::new());
    assert!(matches!(bench.finds(1, "second").0, ImageState::Ready(_)));
}
