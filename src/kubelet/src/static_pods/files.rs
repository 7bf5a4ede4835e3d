//! Decides when the static pod path is read: when something changed there, and once in a while all the same.
//! Upstream: pkg/kubelet/config/file.go (run, listConfig), pkg/kubelet/config/file_linux.go (doWatch).
//! Differs: a change is a hint to read everything; hints that come close together are one.

use std::time::Duration;

use crate::action::{Call, HostCall, Lane};
use crate::ids::ActionId;
use crate::out::{Out, Owner};
use crate::time::{Mono, Now};

/// A local directory: what takes longer hangs.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Between two readings at least, however often files change.
const PAUSE: Duration = Duration::from_millis(200);
/// `fileCheckFrequency` at least.
const LEAST: Duration = Duration::from_secs(1);

/// The readings of the static pod path.
#[derive(Debug)]
pub(super) struct Files {
    path: String,
    every: Duration,
    in_flight: Option<ActionId>,
    /// Whether the reading in flight is one of those that are made although nothing changed.
    regular: bool,
    /// Whether something changed since the last reading began.
    changed: bool,
    /// When the next regular one is.
    next: Mono,
    not_before: Mono,
}

impl Files {
    pub(super) fn new(path: &str, every: Duration) -> Self {
        Self {
            path: path.to_owned(),
            every: every.max(LEAST),
            in_flight: None,
            regular: false,
            changed: false,
            next: Mono::ZERO,
            not_before: Mono::ZERO,
        }
    }

    pub(super) fn changed(&mut self) {
        self.changed = true;
    }

    pub(super) fn deadline(&self) -> Option<Mono> {
        let next = if self.changed { self.next.min(self.not_before) } else { self.next };
        if self.in_flight.is_some() { None } else { Some(next.max(self.not_before)) }
    }

    /// Reads if it is time to.
    pub(super) fn due(&mut self, now: Now, out: &mut Out<'_>) {
        if self.deadline().is_some_and(|at| at <= now.mono) {
            self.regular = self.next <= now.mono;
            self.changed = false;
            let call = HostCall::ReadManifests { path: self.path.clone() };
            self.in_flight = Some(out.issue(Owner::Manifests, Lane::Host, TIMEOUT, Call::Host(call)));
        }
    }

    /// A reading ended. Whether it was one of those that are made although nothing changed.
    pub(super) fn done(&mut self, now: Now) -> bool {
        self.in_flight = None;
        self.not_before = now.mono + PAUSE;
        if self.regular {
            self.next = now.mono + self.every;
        }
        self.regular
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::out::Ledger;

    fn at(millis: u64) -> Now {
        Now { mono: Mono::from_start(Duration::from_millis(millis)), wall: jiff::Timestamp::UNIX_EPOCH }
    }

    fn due(files: &mut Files, now: Now) -> bool {
        let (mut ledger, mut actions, mut recorded) = (Ledger::default(), Vec::new(), Vec::new());
        files.due(now, &mut Out::new(&mut ledger, &mut actions, &mut recorded));
        !actions.is_empty()
    }

    // POD-007: at the start and each fileCheckFrequency.
    #[test]
    fn path_is_read_at_once_and_then_once_in_a_while() {
        let mut files = Files::new("/etc/kubernetes/manifests", Duration::from_secs(20));
        assert!(due(&mut files, at(0)));
        assert!(!due(&mut files, at(1)), "one at a time");
        assert!(files.done(at(5)));
        assert_eq!(files.deadline(), Some(at(20_005).mono));
        assert!(!due(&mut files, at(20_004)));
        assert!(due(&mut files, at(20_005)));
    }

    // POD-007: hints are followed at once, but never without a pause; one during a reading is not lost.
    #[test]
    fn changes_are_followed_with_a_pause_between() {
        let mut files = Files::new("/etc/kubernetes/manifests", Duration::from_secs(20));
        assert!(due(&mut files, at(0)));
        files.changed();
        files.done(at(5));
        assert!(!due(&mut files, at(204)));
        assert!(due(&mut files, at(205)));
        assert!(!files.done(at(206)), "it was made for the change");
        assert_eq!(files.deadline(), Some(at(20_005).mono), "and puts the regular one off by nothing");
        files.changed();
        assert!(due(&mut files, at(5_000)));
    }
}
