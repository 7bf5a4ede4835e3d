//! Decides when an operation on the machine gets a thread: never beside another on the same thing, and few at once for one pod.
//! Upstream: pkg/volume/util/nestedpendingoperations, pkg/util/goroutinemap.
//! Differs: an operation waits for the one before it, whoever gave that up; upstream refuses it and tries again.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::bounds::Bounds;

/// How many threads one pod, or one thing that is no pod's, may hold for ever.
const EACH: usize = 8;
/// How many threads all of them may hold: fewer than the runtime has.
const ALL: usize = 3072;
/// How long it is remembered that a group was given a volume though nobody waited for it any more.
const REMEMBERED: Duration = Duration::from_secs(600);

/// The threads of operations on the machine.
#[derive(Debug)]
pub(super) struct Threads {
    turns: Bounds,
    subjects: Bounds,
    filesystems: Bounds,
    all: std::sync::Arc<Semaphore>,
    given: Mutex<BTreeMap<String, (Gift, Instant)>>,
}

/// What was given to a group: the group, and whether the root was trusted to tell of it.
pub(super) type Gift = (i64, bool);

/// The right to a thread. The thread itself holds it, for a call that was given up ends when the kernel lets it.
pub(super) struct Turn(#[expect(dead_code, reason = "held until it is dropped")] [Option<OwnedSemaphorePermit>; 4]);

impl Threads {
    pub(super) fn new() -> Self {
        let all = std::sync::Arc::new(Semaphore::new(ALL));
        let [subjects, filesystems] = [EACH; 2].map(Bounds::new);
        Self { turns: Bounds::new(1), subjects, filesystems, all, given: Mutex::default() }
    }

    /// Waits until nothing else is done to `about`, and until `subject` has a thread to spare.
    pub(super) async fn turn(&self, about: &str, subject: &str) -> Turn {
        self.turn_on(about, subject, None).await
    }

    /// The same, and until the filesystem that is not the agent's own has a thread to spare: what hangs on it hangs for each pod that comes
    /// and goes.
    pub(super) async fn turn_on(&self, about: &str, subject: &str, filesystem: Option<&str>) -> Turn {
        let turn = self.turns.enter(about).await;
        let own = self.subjects.enter(subject).await;
        let on = match filesystem {
            Some(filesystem) => self.filesystems.enter(filesystem).await,
            None => None,
        };
        // The semaphore is never closed, so this only waits.
        Turn([turn, own, on, std::sync::Arc::clone(&self.all).acquire_owned().await.ok()])
    }

    /// A volume was given to its group.
    pub(super) fn gave(&self, about: &str, gift: Gift) {
        let now = Instant::now();
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.retain(|_, (_, at)| now.duration_since(*at) < REMEMBERED);
        given.insert(about.to_owned(), (gift, now));
    }

    /// Whether that was done by a call that nobody waited for any more. Asking forgets it, as does whatever else is done there.
    pub(super) fn was_given(&self, about: &str, gift: Option<Gift>) -> bool {
        let found = self.given.lock().unwrap_or_else(PoisonError::into_inner).remove(about);
        found.is_some_and(|(found, at)| Some(found) == gift && at.elapsed() < REMEMBERED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(120);

    /// Waits for a turn as long as the core does.
    async fn turn(threads: &Threads, about: &str, subject: &str) -> Option<Turn> {
        tokio::time::timeout(LIMIT, threads.turn(about, subject)).await.ok()
    }

    // Issue 10, S6: however often it is tried again, what hangs holds one thread; it goes on when that one is let go.
    #[tokio::test(start_paused = true)]
    async fn what_hangs_is_not_begun_a_second_time() {
        let threads = Threads::new();
        let hangs = turn(&threads, "volume v of u1", "u1").await.unwrap();
        for _ in 0..100 {
            assert!(turn(&threads, "volume v of u1", "u1").await.is_none());
        }
        assert_eq!(threads.all.available_permits(), ALL - 1);
        drop(hangs);
        assert!(turn(&threads, "volume v of u1", "u1").await.is_some());
    }

    // Issue 10, S6: two pods with a thousand hung volumes each hold no thread that another needs.
    #[tokio::test(start_paused = true)]
    async fn pod_has_few_threads_to_lose() {
        let threads = Threads::new();
        let mut hang = Vec::new();
        for number in 0..2000 {
            let subject = ["u1", "u2"][number % 2];
            hang.extend(tokio::time::timeout(Duration::ZERO, threads.turn(&number.to_string(), subject)).await.ok());
        }
        assert_eq!(hang.len(), 2 * EACH);
        let began = Instant::now();
        assert!(turn(&threads, "volume v of u3", "u3").await.is_some());
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    // Issue 10, S6: pods that come and go lose no more threads to one hung filesystem than one pod does.
    #[tokio::test(start_paused = true)]
    async fn filesystem_has_few_threads_whoever_uses_it() {
        let threads = Threads::new();
        let mut hang = Vec::new();
        for number in 0..400 {
            let (about, subject) = (format!("volume v of {number}"), number.to_string());
            hang.extend(tokio::time::timeout(Duration::ZERO, threads.turn_on(&about, &subject, Some("0:50"))).await.ok());
        }
        assert_eq!((hang.len(), threads.all.available_permits()), (EACH, ALL - EACH));
        assert!(turn(&threads, "volume v of u", "u").await.is_some());
        assert!(tokio::time::timeout(LIMIT, threads.turn_on("volume w of u", "u", Some("0:51"))).await.is_ok());
    }

    // Issue 10, S6
    #[tokio::test(start_paused = true)]
    async fn gift_is_remembered_once_and_not_for_ever() {
        let threads = Threads::new();
        threads.gave("pv", (7, false));
        assert!(!threads.was_given("pv", Some((8, false))));
        assert!(!threads.was_given("pv", Some((7, false))), "it was asked for something else meanwhile");
        threads.gave("pv", (7, false));
        assert!(threads.was_given("pv", Some((7, false))));
        threads.gave("pv", (7, false));
        tokio::time::advance(REMEMBERED).await;
        assert!(!threads.was_given("pv", Some((7, false))));
    }
}
