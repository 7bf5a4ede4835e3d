//! Decides what comes of a pull: the next credential, the image and the user that it runs as, or a back-off.
//! Upstream: pkg/kubelet/images/image_manager.go (pullImage), pkg/kubelet/kuberuntime/kuberuntime_image.go (PullImage).
//! Differs: an image whose user cannot be read does not run; the record of a pull is kept also if nobody wants the image any more.

use super::pulls::Running;
use super::texts::{aggregate, go_duration, of_failed_pull};
use super::{ERROR_SHOWN, ImageManager, Key, Next, Pulling, ResolvedImage, State, UNREAD_USER};
use crate::action::{Call, CriCall, Lane};
use crate::event::CriReply;
use crate::facts::Fact;
use crate::failure::{Failure, FailureKind};
use crate::ids::ActionId;
use crate::observation::Image;
use crate::out::{Out, Owner};
use crate::time::{Mono, Now};

/// Pulls of one pod whose time is kept: more than it has images.
const SESSIONS: usize = 128;
/// What a pull that is not begun fails with (POD-204).
const TOO_MANY: &str = "pull QPS exceeded";

impl ImageManager {
    /// Begins the pulls whose turn it is.
    pub(super) fn start_pulls(&mut self, now: Now, out: &mut Out<'_>) {
        while let Some(key) = self.pulls.next() {
            let Some(State::Queued { since }) = self.entries.get(&key).map(|entry| &entry.state) else { continue };
            let begun = Begun { since: *since, began: now.mono, errors: Vec::new(), in_doubt: false };
            self.try_credentials(now, &key, 0, begun, out);
        }
    }

    /// Pulls with that credential; with the next if that may not begin; and fails if none is left (CRI-034).
    fn try_credentials(&mut self, now: Now, key: &Key, from: usize, mut begun: Begun, out: &mut Out<'_>) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let credentials = entry.wanted.credentials.as_deref().unwrap_or_default();
        let (mut tried, tries) = (from, credentials.len().max(1));
        while tried < tries {
            if self.pulls.may_begin(now.mono) {
                let credential = credentials.get(tried).cloned();
                let call = CriCall::PullImage {
                    image: entry.image.clone(),
                    annotations: entry.wanted.pod.metadata.annotations.clone().unwrap_or_default(),
                    auth: credential.as_ref().map(|credential| credential.auth.clone()),
                    sandbox_config: entry.wanted.sandbox_config.clone(),
                };
                // A pull takes as long as the registry takes; the runtime has a progress time-out of its own.
                let action = out.issue(Owner::Image(key.0.clone(), key.1.clone()), Lane::Images, None, Call::Cri(call));
                let running = Running { pod: key.0.clone(), image: entry.requested.clone(), credential, in_doubt: begun.in_doubt };
                self.pulls.began(action, running);
                let Begun { since, began, errors, .. } = begun;
                entry.state = State::Pulling(Pulling { action, tried, since, began, errors });
                return;
            }
            begun.errors.push(TOO_MANY.to_owned());
            tried += 1;
        }
        let (image, in_doubt) = (entry.requested.clone(), begun.in_doubt);
        self.pull_failed(now, key, &aggregate(&begun.errors), out);
        self.pull_is_over(now, &image, in_doubt);
    }

    fn pull_is_over(&mut self, now: Now, image: &str, in_doubt: bool) {
        if in_doubt { self.records.leave(now, image) } else { self.records.release(image) }
    }

    /// A pull ended. True if somebody waits for it.
    pub(super) fn pulled(
        &mut self,
        now: Now,
        key: &Key,
        id: ActionId,
        pull: Running,
        outcome: Result<CriReply, Failure>,
        out: &mut Out<'_>,
    ) -> bool {
        let state = self.entries.get_mut(key).map(|entry| &mut entry.state);
        let waiting = match state {
            Some(State::Pulling(pulling)) if pulling.action == id => Some(Begun {
                since: pulling.since,
                began: pulling.began,
                errors: std::mem::take(&mut pulling.errors),
                in_doubt: pull.in_doubt,
            }),
            _ => None,
        };
        let tried = match self.entries.get(key).map(|entry| &entry.state) {
            Some(State::Pulling(pulling)) => pulling.tried,
            _ => 0,
        };
        let failure = match outcome {
            Ok(CriReply::Pulled { image_ref }) => {
                self.records.pulled(now, &pull.image, &image_ref, pull.credential.as_ref());
                let Some(begun) = waiting else { return false };
                self.resolve(key, image_ref, &begun, out);
                return true;
            }
            Ok(_) => Failure::new(FailureKind::Other, "the runtime answered something else"),
            Err(failure) => failure,
        };
        let in_doubt = pull.in_doubt || failure.outcome_unknown();
        let Some(mut begun) = waiting else {
            self.pull_is_over(now, &pull.image, in_doubt);
            return false;
        };
        // A code that is not known says nothing (remote_image.go, PullImage).
        let why = if failure.code.as_deref() == Some("Unknown") { failure.message } else { failure.rpc_message() };
        begun.errors.push(why);
        begun.in_doubt = in_doubt;
        self.try_credentials(now, key, tried + 1, begun, out);
        true
    }

    fn pull_failed(&mut self, now: Now, key: &Key, error: &str, out: &mut Out<'_>) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let (reason, message) = of_failed_pull(&entry.requested, error);
        entry.wanted.warning("Failed", format!("Failed to pull image {:?}: {error}", entry.requested), out);
        entry.wanted.not_met(reason, out);
        let until = self.backoffs.failed(now.mono, &key.0, &entry.requested, format!("{reason}: {message}"));
        let next = Next::ShowBackOff(now.mono + ERROR_SHOWN, until);
        entry.state = State::Failed { reason: reason.to_owned(), message, next };
    }

    fn resolve(&mut self, key: &Key, image_ref: String, begun: &Begun, out: &mut Out<'_>) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let call = Call::Cri(CriCall::ImageStatus { image: image_ref.clone() });
        let action = out.issue(Owner::Image(key.0.clone(), key.1.clone()), Lane::ImageLooks, self.look_limit, call);
        entry.state = State::Resolving { action, image_ref, since: begun.since, began: begun.began };
    }

    /// CRI-035: an image that names no user runs as root; one whose user cannot be read does not run.
    pub(super) fn resolved(&mut self, now: Now, key: &Key, outcome: Result<CriReply, Failure>, out: &mut Out<'_>) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let State::Resolving { image_ref, since, began, .. } = &entry.state else { return };
        let (image_ref, waited, took) = (image_ref.clone(), now.mono.since(*since), now.mono.since(*began));
        let found = match outcome {
            Ok(CriReply::Image(found)) => found.unwrap_or_default(),
            Ok(_) => Image::default(),
            Err(failure) => return entry.fail(now, UNREAD_USER, failure.message, out),
        };
        out.count(Fact::ImagePulled { took: waited, size: found.size });
        let session = (*since, now.mono);
        entry.wanted.normal(
            "Pulled",
            format!(
                "Successfully pulled image {:?} in {} ({} including waiting). Image size: {} bytes.",
                entry.requested,
                go_duration(took),
                go_duration(waited),
                found.size
            ),
            out,
        );
        entry.state = State::Ready(ResolvedImage { image_ref, uid: found.uid, username: found.username });
        let sessions = self.sessions.entry(key.0.clone()).or_default();
        if sessions.len() < SESSIONS {
            sessions.push(session);
        }
    }
}

/// How far a pull has come.
struct Begun {
    since: Mono,
    began: Mono,
    errors: Vec<String>,
    in_doubt: bool,
}
