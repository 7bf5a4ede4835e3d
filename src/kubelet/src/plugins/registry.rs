//! Decides when the plugins' registry is looked at: when something changed there, and once in a while all the same.
//! Upstream: pkg/kubelet/pluginmanager/pluginwatcher/plugin_watcher.go.
//! Differs: a change is a hint to look at everything; where none are to be had, there is a look every second.

use std::time::Duration;

use crate::action::{Call, HostCall, Lane};
use crate::ids::ActionId;
use crate::out::{Out, Owner};
use crate::time::{Mono, Now};

/// A local directory: what takes longer hangs.
const TIMEOUT: Duration = Duration::from_secs(10);
/// For changes that nobody told of.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// CSI-001: without hints, and after a look that failed.
const LOOK_OFTEN: Duration = Duration::from_secs(1);

/// The looks at the registry.
#[derive(Debug)]
pub(super) struct Registry {
    in_flight: Option<ActionId>,
    /// Whether something changed since the last look began.
    changed: bool,
    next: Option<Mono>,
    every: Duration,
}

impl Default for Registry {
    fn default() -> Self {
        Self { in_flight: None, changed: true, next: None, every: LOOK_EVERY }
    }
}

impl Registry {
    pub(super) fn changed(&mut self) {
        self.changed = true;
    }

    /// Nobody tells of changes any more.
    pub(super) fn unwatched(&mut self) {
        self.changed = true;
        self.every = LOOK_OFTEN;
    }

    pub(super) fn deadline(&self) -> Option<Mono> {
        if self.in_flight.is_some() { None } else { self.next }
    }

    /// Looks if it is time to.
    pub(super) fn due(&mut self, now: Now, root: &str, out: &mut Out<'_>) {
        if self.in_flight.is_none() && (self.changed || self.next.is_some_and(|next| next <= now.mono)) {
            self.changed = false;
            let call = HostCall::ListPluginSockets { registry: format!("{root}/plugins_registry") };
            self.in_flight = Some(out.issue(Owner::Plugins, Lane::Host, TIMEOUT, Call::Host(call)));
        }
    }

    /// A look ended. Whether it was one of these.
    pub(super) fn done(&mut self, now: Now, id: ActionId, failed: bool) -> bool {
        if self.in_flight != Some(id) {
            return false;
        }
        self.in_flight = None;
        self.next = Some(now.mono + if failed { LOOK_OFTEN } else { self.every });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::out::Ledger;

    fn at(seconds: u64) -> Now {
        Now { mono: Mono::from_start(Duration::from_secs(seconds)), wall: jiff::Timestamp::UNIX_EPOCH }
    }

    /// The look that is begun, if one is.
    fn due(registry: &mut Registry, ledger: &mut Ledger, now: Now) -> Option<ActionId> {
        let (mut actions, mut recorded) = (Vec::new(), Vec::new());
        registry.due(now, "/var/lib/kubelet", &mut Out::new(ledger, &mut actions, &mut recorded));
        actions.first().map(|action| action.id)
    }

    // CSI-001: one look at a time; a change during it is looked at afterwards.
    #[test]
    fn change_during_a_look_is_not_lost() {
        let (mut registry, mut ledger) = (Registry::default(), Ledger::default());
        let first = due(&mut registry, &mut ledger, at(1)).expect("at first");
        registry.changed();
        assert_eq!(due(&mut registry, &mut ledger, at(2)), None);
        assert!(registry.done(at(2), first, false));
        let second = due(&mut registry, &mut ledger, at(2)).expect("the change");
        assert!(registry.done(at(3), second, false));
        assert_eq!((due(&mut registry, &mut ledger, at(4)), registry.deadline()), (None, Some(at(63).mono)));
    }

    // CSI-001
    #[test]
    fn without_hints_there_is_a_look_every_second() {
        let (mut registry, mut ledger) = (Registry::default(), Ledger::default());
        registry.unwatched();
        for second in 1..4 {
            let look = due(&mut registry, &mut ledger, at(second)).expect("a look");
            assert!(registry.done(at(second), look, false));
            assert_eq!(registry.deadline(), Some(at(second + 1).mono));
        }
    }

    // CSI-001
    #[test]
    fn failed_look_is_made_again_soon() {
        let (mut registry, mut ledger) = (Registry::default(), Ledger::default());
        let look = due(&mut registry, &mut ledger, at(1)).expect("a look");
        assert!(registry.done(at(1), look, true));
        assert_eq!(registry.deadline(), Some(at(2).mono));
        assert!(due(&mut registry, &mut ledger, at(2)).is_some());
    }
}
