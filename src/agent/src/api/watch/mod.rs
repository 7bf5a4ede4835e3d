//! Keeps one watch of the core open for ever: lists once, resumes where it was, lists again only when the server has forgotten.
//! Upstream: k8s.io/client-go/tools/cache/reflector.go.
//! Differs: a watch on which nothing comes for too long is opened anew, even if its connection looks healthy (kubernetes#125380);
//! one that was silent all its life is listed anew, for the server may have gone back in time (etcd restored from a backup). What is there at
//! first comes by a list, never by a streaming one (client-go's WatchListClient).

mod complaints;
mod decode;
mod pool;

use std::sync::Arc;
use std::time::Duration;

use kubelet::event::{Event, Object, WatchKey};
use kubelet::failure::{Failure, FailureKind};
use kubelet::rng::Rng;
use tokio::time::{Instant, timeout};

use self::decode::{Page, Subject, Told, subject};
use self::pool::Place;
pub(super) use self::pool::WatchPool;
use super::error::{in_watch, is_too_large_revision};
use super::lines::{Line, Lines};
use super::names::encoded;
use super::send::{Ask, Opened};
use crate::env::EventSink;

/// API-224: how long a watch lives at least; twice that at most.
const WATCH_SECONDS: u64 = 300;
/// The server sends a bookmark every minute: one that missed two and a half has stopped.
const IDLE_WITH_BOOKMARKS: Duration = Duration::from_secs(150);
/// How much longer than it was asked to a watch without bookmarks may be silent.
const IDLE_SLACK: Duration = Duration::from_secs(30);
/// As upstream's reflector.
const BACKOFF_FIRST: Duration = Duration::from_millis(800);
const BACKOFF_MOST: Duration = Duration::from_secs(30);
/// While the authorizer may not have heard of the pod that the object is for (API-360): so soon, doubled, and that often.
const UNRELATED_FIRST: Duration = Duration::from_millis(50);
const UNRELATED_TIMES: u32 = 5;
/// A watch that held for so long begins with the first back-off again.
const HEALTHY_AFTER: Duration = Duration::from_secs(120);
/// Upstream's VeryShortWatchError: one that ends sooner, and empty, is no watch.
const VERY_SHORT: Duration = Duration::from_secs(1);
/// How long the headers of a watch may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Upstream's pager.
const PAGE: &str = "limit=500&";

/// How old a list may be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Freshness {
    /// Whatever the server's cache has: cheap, and good for a beginning.
    Any,
    /// Not older than what was seen already, or pods would come back from the dead.
    AtLeast(String),
    /// What is true now, in pages.
    Newest,
    /// The same in one piece, for a list that takes longer than its pages are kept.
    NewestWhole,
}

/// What comes next.
enum Step {
    List(Freshness),
    /// On from there.
    Watch(String),
}

/// How a step ended.
enum Ended {
    /// The loop has gone away.
    Closed,
    /// The list is told; the watch goes on from there.
    Listed(String),
    /// The watch is to be opened again where it is.
    Resume,
    /// The server may not know that place any more.
    Forgotten(Freshness),
    /// To be tried again later.
    Failed(Failure),
}

/// Follows until the sink closes.
pub(super) async fn follow(pool: Arc<WatchPool>, node: String, key: WatchKey, sink: EventSink, seed: u64) {
    let mark = format!("{key:?}").bytes().fold(seed, |mark, byte| (mark ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mut watch = Watch { place: pool.place(), pool, subject: subject(&node, &key), key, sink, rng: Rng::new(mark) };
    let mut step = Step::List(Freshness::Any);
    let mut wait = BACKOFF_FIRST;
    // The first relist after a time that was good need not wait; a server that forgets at once must not be asked in a tight loop.
    let mut prompt = true;
    let mut unrelated = 0;
    loop {
        let began = Instant::now();
        let ended = match &mut step {
            Step::List(freshness) => watch.list(freshness).await,
            Step::Watch(revision) => watch.stream(revision).await,
        };
        if began.elapsed() > HEALTHY_AFTER {
            wait = BACKOFF_FIRST;
        }
        let pause = match ended {
            Ended::Closed => return,
            Ended::Listed(revision) => {
                unrelated = UNRELATED_TIMES;
                step = Step::Watch(revision);
                continue;
            }
            Ended::Resume => {
                prompt = true;
                continue;
            }
            Ended::Forgotten(freshness) => {
                step = Step::List(freshness);
                if std::mem::take(&mut prompt) {
                    continue;
                }
                wait
            }
            Ended::Failed(failure) => {
                let soon = failure.is_unrelated() && unrelated < UNRELATED_TIMES;
                let after = match failure.kind {
                    FailureKind::Throttled { after } => after.unwrap_or_default(),
                    _ => Duration::ZERO,
                };
                if !soon && let Some(more) = watch.pool.complaints.allow() {
                    tracing::warn!(watch = ?watch.key, error = failure.message, more, "A list or watch failed and is tried again");
                }
                if watch.sink.send(Event::WatchFailed { key: watch.key.clone(), failure }).await.is_err() {
                    return;
                }
                if soon {
                    tokio::time::sleep(watch.rng.jitter(UNRELATED_FIRST * 2u32.pow(unrelated), 0.5)).await;
                    unrelated += 1;
                    continue;
                }
                after.max(wait)
            }
        };
        tokio::time::sleep(watch.rng.jitter(pause, 1.0)).await;
        wait = (wait * 2).min(BACKOFF_MOST);
    }
}

struct Watch {
    place: Place,
    pool: Arc<WatchPool>,
    subject: Subject,
    key: WatchKey,
    sink: EventSink,
    rng: Rng,
}

/// How far a stream has come.
struct Progress<'a> {
    revision: &'a mut String,
    /// Whether any line came at all.
    lines: bool,
    /// How long it may be silent.
    idle: Duration,
}

impl Watch {
    /// Lists all that matches, and tells it.
    async fn list(&self, freshness: &Freshness) -> Ended {
        let mut objects = Vec::new();
        let mut next = String::new();
        loop {
            let page = match self.page(freshness, &next).await {
                Err(failure) if failure.kind == FailureKind::Gone && !next.is_empty() => {
                    return Ended::Forgotten(Freshness::NewestWhole);
                }
                Err(failure) if failure.kind == FailureKind::Gone || is_too_large_revision(&failure) => {
                    return Ended::Forgotten(Freshness::Newest);
                }
                Err(failure) => return Ended::Failed(failure),
                Ok(page) => page,
            };
            objects.extend(page.objects);
            next = page.next;
            if !next.is_empty() {
                continue;
            }
            if page.revision.is_empty() {
                // Not from an API server: what is not in it is not gone.
                return Ended::Failed(Failure::new(FailureKind::Other, "the list has no resourceVersion"));
            }
            objects.iter().for_each(|object| self.complain(object));
            return match self.sink.send(Event::WatchListed { key: self.key.clone(), objects }).await {
                Ok(()) => Ended::Listed(page.revision),
                Err(_) => Ended::Closed,
            };
        }
    }

    async fn page(&self, freshness: &Freshness, next: &str) -> Result<Page, Failure> {
        // As upstream's reflector: with 0, a cache that can answer takes no notice of the limit; with another revision, a limit would make
        // servers ask etcd where their cache may answer.
        let query = match freshness {
            _ if !next.is_empty() => format!("{PAGE}continue={}", encoded(next)),
            Freshness::Any => format!("{PAGE}resourceVersion=0"),
            Freshness::AtLeast(revision) => format!("resourceVersion={}", encoded(revision)),
            Freshness::Newest => PAGE.to_owned(),
            Freshness::NewestWhole => String::new(),
        };
        let query = format!("{}{query}", self.subject.selector);
        let path = format!("{}?{}", self.subject.path, query.trim_end_matches('&'));
        decode::page(&self.place.sender, &self.key, Ask::get(path)).await
    }

    /// Watches on from `revision`, and moves it along.
    async fn stream(&mut self, revision: &mut String) -> Ended {
        let seconds = WATCH_SECONDS + self.rng.below(WATCH_SECONDS);
        let path = format!(
            "{}?{}watch=true&allowWatchBookmarks=true&resourceVersion={}&timeoutSeconds={seconds}",
            self.subject.path,
            self.subject.selector,
            encoded(revision)
        );
        let began = Instant::now();
        let opened = match timeout(ANSWER_TIMEOUT, self.place.sender.stream(Ask::get(path))).await {
            Err(_) => return Ended::Failed(Failure::new(FailureKind::Unavailable, "the watch took too long to open")),
            Ok(Err(failure)) if failure.kind == FailureKind::Gone => return Ended::Forgotten(Freshness::AtLeast(revision.clone())),
            Ok(Err(failure)) => return Ended::Failed(failure),
            Ok(Ok(opened)) => opened,
        };
        let idle = Duration::from_secs(seconds) + IDLE_SLACK;
        let idle = if self.pool.sends_bookmarks() { idle.min(IDLE_WITH_BOOKMARKS) } else { idle };
        let mut progress = Progress { revision, lines: false, idle };
        if let Some(ended) = self.lines(opened, &mut progress).await {
            return ended;
        }
        // The end of a watch's life, or of its server's.
        match began.elapsed() {
            _ if progress.lines => Ended::Resume,
            lasted if lasted < VERY_SHORT => Ended::Failed(Failure::new(
                FailureKind::Unavailable,
                "very short watch: unexpected watch close - watch lasted less than a second and no items received",
            )),
            lasted if lasted > HEALTHY_AFTER => Ended::Forgotten(Freshness::AtLeast(revision.clone())),
            _ => Ended::Resume,
        }
    }

    /// Reads to the end of the stream, or until something else comes next.
    async fn lines(&self, opened: Opened, progress: &mut Progress<'_>) -> Option<Ended> {
        let mut lines = Lines::new(opened.body);
        loop {
            let Ok(line) = timeout(progress.idle, lines.next()).await else {
                tracing::warn!(watch = ?self.key, "Nothing came on a watch for too long; it is opened again");
                opened.connections.distrust();
                return None;
            };
            let ended = self.line(&line?, progress).await;
            if ended.is_some() {
                return ended;
            }
        }
    }

    async fn line(&self, Line { bytes, whole }: &Line, progress: &mut Progress<'_>) -> Option<Ended> {
        if bytes.trim_ascii().is_empty() {
            return None;
        }
        let Some(told) = Told::read(bytes, *whole) else {
            // What it was is not known, so nothing after it can be trusted.
            return Some(Ended::Failed(Failure::new(FailureKind::Other, "a line of the watch cannot be read")));
        };
        let key = self.key.clone();
        let event = match told.kind.as_str() {
            "BOOKMARK" => {
                self.pool.saw_bookmark();
                progress.idle = progress.idle.min(IDLE_WITH_BOOKMARKS);
                None
            }
            "ERROR" => return Some(Self::error(&told, progress.revision)),
            "ADDED" | "MODIFIED" => Some(Event::WatchApplied { key, object: self.object(&told, *whole) }),
            "DELETED" => Some(Event::WatchDeleted { key, object: self.object(&told, *whole) }),
            _ => None,
        };
        if let Some(event) = event
            && self.sink.send(event).await.is_err()
        {
            return Some(Ended::Closed);
        }
        progress.lines = true;
        if let Some(revision) = told.revision() {
            *progress.revision = revision;
        }
        None
    }

    fn object(&self, told: &Told<'_>, whole: bool) -> Object {
        let object = decode::object(&self.key, told.object, whole);
        self.complain(&object);
        object
    }

    /// One object that cannot be read must not stop the others, but somebody should know.
    fn complain(&self, object: &Object) {
        let Object::Unreadable(unknown) = object else { return };
        if let Some(more) = self.pool.complaints.allow() {
            let (name, uid, why) = (unknown.full_name(), &unknown.uid, &unknown.why);
            tracing::warn!(watch = ?self.key, object = name, uid, why, more, "An object cannot be read and is left alone");
        }
    }

    fn error(told: &Told<'_>, revision: &str) -> Ended {
        let failure = in_watch(&told.status());
        match failure.kind {
            FailureKind::Gone => Ended::Forgotten(Freshness::AtLeast(revision.to_owned())),
            _ if is_too_large_revision(&failure) => Ended::Forgotten(Freshness::Newest),
            _ => Ended::Failed(failure),
        }
    }
}
