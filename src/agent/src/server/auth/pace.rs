//! How fast, and how many at once, the guard asks the API server: whoever sends tokens cannot make more of it than the kubelet would.
//! Upstream: k8s.io/client-go/util/flowcontrol/throttle.go, with the kubelet's defaults (kubeAPIQPS 50, kubeAPIBurst 100).
//! Differs: reviews have limits of their own, so that they keep no status, token or event waiting; so many at once is ours.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Between two questions, in the long run: 50 a second.
const INTERVAL: Duration = Duration::from_millis(20);
/// How many may be asked before that counts.
const BURST: u32 = 100;
/// How many may wait for their answer.
const AT_ONCE: usize = 32;

/// The pace of one kind of question.
pub(super) struct Pace {
    places: Semaphore,
    /// When the bucket is full again.
    full: Mutex<Option<Instant>>,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { places: Semaphore::new(AT_ONCE), full: Mutex::new(None) }
    }

    /// Asks when it is one's turn.
    pub(super) async fn ask<T>(&self, question: impl Future<Output = T>) -> T {
        // It is never closed.
        let _place = self.places.acquire().await;
        tokio::time::sleep_until(self.turn()).await;
        question.await
    }

    fn turn(&self) -> Instant {
        let now = Instant::now();
        let mut full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        let then = full.map_or(now, |full| full.max(now)) + INTERVAL;
        *full = Some(then);
        then.checked_sub(INTERVAL * BURST).map_or(now, |turn| turn.max(now))
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;

    use super::*;

    // S14: rate.NewLimiter(50, 100).
    #[tokio::test(start_paused = true)]
    async fn hundred_are_asked_at_once_and_then_fifty_a_second() {
        let (pace, began) = (Pace::new(), Instant::now());
        let times = join_all((0..200).map(|_| pace.ask(async { began.elapsed().as_millis() }))).await;
        assert_eq!((times[99], times[100], times[199]), (0, 20, 2000));
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_so_many_wait_for_their_answer() {
        let (pace, began) = (Pace::new(), Instant::now());
        let slow = || pace.ask(async { tokio::time::sleep(Duration::from_secs(1)).await });
        join_all((0..AT_ONCE + 1).map(|_| slow())).await;
        assert_eq!(began.elapsed().as_secs(), 2);
    }
}
