//! How often the log is told of what fails again and again: a few at once, then one now and then, and how many were left out.
//! Upstream: k8s.io/apimachinery/pkg/util/runtime (rudimentaryErrorBackoff, BackoffError).
//! Differs: for all watches together; there may be hundreds, and an API server that is away fails all of them.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How many may be told at once.
const BURST: u32 = 20;
/// How long it takes until one more may.
const REFILL: Duration = Duration::from_secs(5);

/// What is left of what may be told.
#[derive(Debug, Default)]
pub(super) struct Complaints(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Spent since, and of that so many.
    since: Option<Instant>,
    spent: u32,
    left_out: u64,
}

impl Complaints {
    /// Whether one more may be told: then how many were left out before it.
    pub(super) fn allow(&self) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let since = *state.since.get_or_insert(now);
        let refilled = u32::try_from(now.duration_since(since).as_secs() / REFILL.as_secs()).unwrap_or(u32::MAX);
        state.spent = state.spent.saturating_sub(refilled);
        state.since = Some(if state.spent == 0 { now } else { since + REFILL * refilled });
        if state.spent >= BURST {
            state.left_out += 1;
            return None;
        }
        state.spent += 1;
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // S17
    #[tokio::test(start_paused = true)]
    async fn few_are_told_at_once_and_then_one_now_and_then() {
        let complaints = Complaints::default();
        let told = (0..100).filter(|_| complaints.allow().is_some()).count();
        assert_eq!(told, 20);
        tokio::time::advance(REFILL).await;
        assert_eq!((complaints.allow(), complaints.allow()), (Some(80), None));
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!((0..100).filter(|_| complaints.allow().is_some()).count(), 20);
    }
}
