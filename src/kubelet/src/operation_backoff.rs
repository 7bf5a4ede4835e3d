//! Decides how long an operation on a volume or a plugin waits after it failed.
//! Upstream: pkg/util/goroutinemap/exponentialbackoff/exponential_backoff.go.
//! Differs: nothing on purpose.

use std::time::Duration;

use crate::time::{Mono, Now};

/// VOL-020
const FIRST: Duration = Duration::from_millis(500);
const MOST: Duration = Duration::from_secs(122);

/// The wait after a failure. None at first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OperationBackoff {
    last: Option<(Duration, Mono)>,
}

impl OperationBackoff {
    /// The operation failed: it waits half a second, then twice as long each time, at most 2 min 2 s.
    pub(crate) fn failed(&mut self, now: Now) {
        let wait = self.last.map_or(FIRST, |(wait, _)| (wait * 2).min(MOST));
        self.last = Some((wait, now.mono + wait));
    }

    /// The operation succeeded.
    pub(crate) fn clear(&mut self) {
        self.last = None;
    }

    /// Until when it waits, if it does.
    pub(crate) fn until(&self, now: Now) -> Option<Mono> {
        self.last.map(|(_, until)| until).filter(|until| *until > now.mono)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    // VOL-020
    #[test]
    fn wait_doubles_up_to_its_limit_and_begins_anew_after_success() {
        let mut backoff = OperationBackoff::default();
        let mut now = Now { mono: Mono::ZERO, wall: Timestamp::UNIX_EPOCH };
        let mut waits = Vec::new();
        for _ in 0..10 {
            backoff.failed(now);
            let until = backoff.until(now).unwrap();
            waits.push(until.since(now.mono).as_millis());
            now.mono = until;
            assert_eq!(backoff.until(now), None);
        }
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 122_000, 122_000]);
        backoff.clear();
        backoff.failed(now);
        assert_eq!(backoff.until(now).unwrap().since(now.mono), FIRST);
    }
}
