//! How fast CPU is used: the difference of two samples that are taken on a beat while somebody is interested, never by a request.
//! Upstream: pkg/kubelet/stats/cri_stats_provider.go (getAndUpdateContainerUsageNanoCores).
//! Differs: cgroups are sampled the same way as containers; nothing is sampled before the first request for it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a rate is told after it was measured (API-125).
const KEPT: Duration = Duration::from_secs(600);
/// How long it is measured on after somebody asked.
const INTEREST: Duration = Duration::from_secs(600);

/// Whether anybody wants to know: a node that nobody watches measures nothing.
#[derive(Debug, Default)]
pub(super) struct Demand {
    asked: Mutex<Option<Instant>>,
    changed: Notify,
}

impl Demand {
    /// Somebody asked.
    pub(super) fn asked(&self) {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.changed.notify_waiters();
    }

    /// Waits until somebody has asked in the last ten minutes.
    pub(super) async fn wanted(&self) {
        loop {
            let changed = self.changed.notified();
            let asked = *self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            if asked.is_some_and(|at| at.elapsed() < INTEREST) {
                return;
            }
            changed.await;
        }
    }
}

#[derive(Debug)]
struct Sample {
    /// The measurement's own time, in nanoseconds.
    at: i64,
    /// CPU time used until then, in nanoseconds.
    used: u64,
    rate: Option<u64>,
    taken: Instant,
}

/// Rates by subject: a container's ID or a cgroup's name.
#[derive(Debug, Default)]
pub(super) struct Samples(Mutex<BTreeMap<String, Sample>>);

impl Samples {
    /// Takes a round of samples: subject, time in nanoseconds, CPU time used until then. Subjects that were not sampled for ten
    /// minutes are forgotten.
    pub(super) fn take(&self, round: impl IntoIterator<Item = (String, i64, u64)>) {
        let now = Instant::now();
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (subject, at, used) in round {
            let rate = samples.get(&subject).and_then(|last| if last.at == at { last.rate } else { rate(last, at, used) });
            samples.insert(subject, Sample { at, used, rate, taken: now });
        }
        samples.retain(|_, sample| now.duration_since(sample.taken) < KEPT);
    }

    /// The rate in nano-cores; `None` until there are two samples, and when the counter went backwards.
    pub(super) fn rate(&self, subject: &str) -> Option<u64> {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        samples.get(subject).filter(|sample| sample.taken.elapsed() < KEPT)?.rate
    }
}

fn rate(last: &Sample, at: i64, used: u64) -> Option<u64> {
    let elapsed = u64::try_from(at.checked_sub(last.at)?).ok().filter(|elapsed| *elapsed > 0)?;
    let more = used.checked_sub(last.used)?;
    u64::try_from(u128::from(more) * 1_000_000_000 / u128::from(elapsed)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[tokio::test(start_paused = true)]
    async fn a_rate_needs_two_samples_and_a_counter_that_grows() {
        // API-125, INV-10
        let samples = Samples::default();
        let take = |at: i64, used: u64| {
            samples.take([("c".to_owned(), at * SECOND, used)]);
            samples.rate("c")
        };
        assert_eq!(take(0, 100), None);
        assert_eq!(take(10, 100 + 5_000_000_000), Some(500_000_000));
        assert_eq!(take(10, 100 + 5_000_000_000), Some(500_000_000));
        assert_eq!(take(20, 7), None);
        assert_eq!(take(30, 7), Some(0));
        tokio::time::advance(KEPT).await;
        assert_eq!(samples.rate("c"), None);
    }
}
