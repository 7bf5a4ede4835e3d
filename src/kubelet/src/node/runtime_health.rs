//! Decides whether the runtime and its network are up, from what the runtime says of itself.
//! Upstream: pkg/kubelet/runtime.go, pkg/kubelet/kubelet.go (updateRuntimeUp).
//! Differs: a failed poll is asked again after one second, so that a restarted runtime is seen at once; one that hangs is given up after
//! 23 seconds, though `runtimeRequestTimeout` may be longer, so that it alone does not make the node unready; while it cannot be told how
//! cgroups are named the node is not ready, instead of the process exiting.

use std::time::Duration;

use crate::action::{Call, CriCall, Lane};
use crate::event::CriReply;
use crate::failure::{Failure, FailureKind};
use crate::ids::ActionId;
use crate::observation::{RuntimeCondition, RuntimeHandler, RuntimeStatus, RuntimeVersion};
use crate::out::{Out, Owner};
use crate::time::{Mono, Now};

/// NODE-103: how often the runtime is asked.
const POLL: Duration = Duration::from_secs(5);
/// How soon again after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// NODE-104: a runtime not heard of for this long is down.
const DOWN_AFTER: Duration = Duration::from_secs(30);
/// A poll is given up after `runtimeRequestTimeout`, but so soon that after one that hangs another is answered before the runtime counts
/// as down. Upstream waits for the hanging one; nor is a runtime up there that takes longer, for its polls are five seconds apart.
const POLL_MOST: Duration = Duration::from_secs(23);
/// CRI-010: for how long the version that the runtime told counts, as long as it answers.
const VERSION_FOR: Duration = Duration::from_secs(60);

/// What is known of the runtime's health.
#[derive(Debug, Default)]
pub struct RuntimeHealth {
    poll_limit: Duration,
    version: Option<RuntimeVersion>,
    /// When the version is asked for again: one that went away may come back as another one.
    version_until: Mono,
    systemd_cgroup: Option<Option<bool>>,
    config_error: Option<String>,
    status: Option<RuntimeStatus>,
    last_ready: Option<Mono>,
    next: Option<Mono>,
    asking: Asking,
    down_since_told: bool,
    /// Whether a first round of questions is over, whatever came of it.
    answered: bool,
    polled: bool,
}

#[derive(Debug, Default)]
struct Asking {
    version: Option<ActionId>,
    config: Option<ActionId>,
    status: Option<ActionId>,
}

/// What a poll changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HealthChange {
    /// Whether runtime or network readiness, or the handlers, are other than before.
    pub changed: bool,
}

impl RuntimeHealth {
    /// Nothing is known yet; the first poll is due at once. `limit` is `runtimeRequestTimeout` (CRI-010).
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self { poll_limit: limit.min(POLL_MOST), next: Some(Mono::ZERO), ..Self::default() }
    }

    /// The runtime's name and version, once it has said them.
    #[must_use]
    pub fn version(&self) -> Option<&RuntimeVersion> {
        self.version.as_ref()
    }

    /// Whether the runtime uses the systemd cgroup driver: `None` until it was asked, `Some(None)` if it does not tell (CRI-003).
    #[must_use]
    pub fn systemd_cgroup(&self) -> Option<Option<bool>> {
        self.systemd_cgroup
    }

    /// Why it could not be told so far how cgroups are named, if it could not (NODE-130): until then no pod can be run.
    #[must_use]
    pub fn config_error(&self) -> Option<&str> {
        self.config_error.as_deref().filter(|_| self.systemd_cgroup.is_none())
    }

    /// The runtime's handlers (NODE-091).
    #[must_use]
    pub fn handlers(&self) -> &[RuntimeHandler] {
        self.status.as_ref().map_or(&[], |status| &status.handlers)
    }

    /// Whether `supplementalGroupsPolicy` is supported (NODE-091).
    #[must_use]
    pub fn supplemental_groups_policy(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.supplemental_groups_policy)
    }

    /// Whether it has told its state in this life.
    #[must_use]
    pub fn has_told(&self) -> bool {
        self.status.is_some()
    }

    /// Whether a first round of questions is over: the runtime has told all that it is asked for, or failed to (NODE-060).
    #[must_use]
    pub fn has_answered(&self) -> bool {
        self.answered
    }

    /// Whether it was ever ready in this life (POD-062).
    #[must_use]
    pub fn was_ready(&self) -> bool {
        self.last_ready.is_some()
    }

    /// That the runtime has not said for too long that it is ready, if so (NODE-104).
    #[must_use]
    pub fn silence_error(&self, now: Mono) -> Option<String> {
        match self.last_ready {
            None => Some("container runtime status check may not have completed yet".to_owned()),
            Some(stamp) => (now.since(stamp) > DOWN_AFTER).then(|| "container runtime is down".to_owned()),
        }
    }

    /// Why the runtime says that it is not ready, if it does (NODE-103).
    #[must_use]
    pub fn condition_error(&self) -> Option<String> {
        let condition = self.status.as_ref()?.runtime_ready.as_ref();
        (!condition.is_some_and(|condition| condition.status))
            .then(|| format!("container runtime not ready: {}", printed("RuntimeReady", condition)))
    }

    /// Whether nothing is to be begun on it: it says that it is not ready, or was never ready in this life (POD-051). One whose status
    /// call hangs may well run pods: its other calls tell.
    #[must_use]
    pub fn refuses_work(&self) -> bool {
        let ready = self.status.as_ref().and_then(|status| status.runtime_ready.as_ref()).is_some_and(|condition| condition.status);
        !(ready && self.was_ready())
    }

    /// Why the network is not ready, if it is not (POD-052).
    #[must_use]
    pub fn network_error(&self) -> Option<String> {
        match &self.status {
            None => Some("network state unknown".to_owned()),
            Some(status) if !status.network_ready.as_ref().is_some_and(|c| c.status) => {
                Some(format!("container runtime network not ready: {}", printed("NetworkReady", status.network_ready.as_ref())))
            }
            Some(_) => None,
        }
    }

    /// When there is something to do: a poll, or the moment at which silence means down.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        let down = self.last_ready.filter(|_| !self.down_since_told).map(|stamp| stamp + DOWN_AFTER + Duration::from_nanos(1));
        let poll = if self.asking.status.is_some() { None } else { self.next };
        crate::time::earliest([poll, down])
    }

    /// Asks what is due. Tells whether readiness changed by time alone.
    pub fn due(&mut self, now: Now, out: &mut Out<'_>) -> HealthChange {
        let mut change = HealthChange::default();
        if !self.down_since_told && self.last_ready.is_some_and(|stamp| now.mono.since(stamp) > DOWN_AFTER) {
            self.down_since_told = true;
            change.changed = true;
        }
        if self.asking.status.is_none() && self.next.is_some_and(|next| next <= now.mono) {
            let limit = self.poll_limit;
            let mut ask = |call| Some(out.issue(Owner::RuntimeHealth, Lane::Runtime, limit, Call::Cri(call)));
            if (self.version.is_none() || self.version_until <= now.mono) && self.asking.version.is_none() {
                self.asking.version = ask(CriCall::Version);
            }
            if self.systemd_cgroup.is_none() && self.asking.config.is_none() {
                self.asking.config = ask(CriCall::RuntimeConfig);
            }
            self.asking.status = ask(CriCall::Status);
        }
        change
    }

    /// The runtime's event stream broke: perhaps the runtime did too, so it is asked at once.
    pub fn suspect(&mut self, now: Now) {
        self.next = Some(now.mono);
        self.version_until = now.mono;
    }

    /// One of the questions was answered.
    pub fn done(&mut self, now: Now, id: ActionId, outcome: Result<CriReply, Failure>) -> HealthChange {
        let change = self.take(now, id, outcome);
        self.answered |= self.polled && self.asking.version.is_none() && self.asking.config.is_none();
        change
    }

    fn take(&mut self, now: Now, id: ActionId, outcome: Result<CriReply, Failure>) -> HealthChange {
        if self.asking.version == Some(id) {
            self.asking.version = None;
            if let Ok(CriReply::Version(version)) = outcome {
                self.version_until = now.mono + VERSION_FOR;
                let changed = self.version.as_ref() != Some(&version);
                self.version = Some(version);
                return HealthChange { changed };
            }
        } else if self.asking.config == Some(id) {
            self.asking.config = None;
            match outcome {
                Ok(CriReply::RuntimeConfig { systemd_cgroup }) => self.systemd_cgroup = Some(systemd_cgroup),
                Err(failure) if failure.kind == FailureKind::Unimplemented => self.systemd_cgroup = Some(None),
                Err(failure) => {
                    let told = self.config_error.replace(failure.message);
                    return HealthChange { changed: told != self.config_error };
                }
                Ok(_) => return HealthChange::default(),
            }
            return HealthChange { changed: true };
        } else if self.asking.status == Some(id) {
            self.asking.status = None;
            self.polled = true;
            return self.status_done(now, outcome);
        }
        HealthChange::default()
    }

    fn status_done(&mut self, now: Now, outcome: Result<CriReply, Failure>) -> HealthChange {
        let Ok(CriReply::Status(status)) = outcome else {
            self.next = Some(now.mono + RETRY);
            self.version_until = now.mono;
            return HealthChange::default();
        };
        let complete = self.version.is_some() && self.systemd_cgroup.is_some();
        self.next = Some(now.mono + if complete { POLL } else { RETRY });
        let mut changed = self.status.as_ref() != Some(&status) || self.down_since_told;
        if status.runtime_ready.as_ref().is_some_and(|c| c.status) {
            changed |= self.last_ready.is_none();
            self.last_ready = Some(now.mono);
            self.down_since_told = false;
        }
        self.status = Some(status);
        HealthChange { changed }
    }
}

/// NODE-103: `Type=bool reason:R message:M`, or `<nil>` for a condition that was not in the answer.
fn printed(kind: &str, condition: Option<&RuntimeCondition>) -> String {
    match condition {
        None => "<nil>".to_owned(),
        Some(c) => format!("{kind}={} reason:{} message:{}", c.status, c.reason, c.message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::out::Ledger;

    /// `runtimeRequestTimeout`.
    const T: Duration = Duration::from_secs(120);

    fn at(seconds: u64) -> Now {
        Now { mono: Mono::from_start(Duration::from_secs(seconds)), wall: jiff::Timestamp::UNIX_EPOCH }
    }

    fn ready(network: bool) -> CriReply {
        let condition = |status| Some(RuntimeCondition { status, reason: "R".to_owned(), message: "M".to_owned() });
        CriReply::Status(RuntimeStatus {
            runtime_ready: condition(true),
            network_ready: condition(network),
            ..RuntimeStatus::default()
        })
    }

    fn poll(health: &mut RuntimeHealth, now: Now, outcome: Result<CriReply, Failure>) -> HealthChange {
        let (mut ledger, mut actions, mut recorded) = (Ledger::default(), Vec::new(), Vec::new());
        health.due(now, &mut Out::new(&mut ledger, &mut actions, &mut recorded));
        let mut change = HealthChange::default();
        for action in actions {
            let answer = match action.call {
                Call::Cri(CriCall::Status) => outcome.clone(),
                Call::Cri(CriCall::Version) => Ok(CriReply::Version(RuntimeVersion::default())),
                _ => Ok(CriReply::RuntimeConfig { systemd_cgroup: None }),
            };
            let of_status = matches!(action.call, Call::Cri(CriCall::Status));
            let done = health.done(now, action.id, answer);
            if of_status {
                change = done;
            }
        }
        change
    }

    // NODE-103, POD-052: before the first answer nothing is ready.
    #[test]
    fn nothing_is_ready_before_the_first_answer() {
        let health = RuntimeHealth::new(T);
        assert_eq!(health.network_error().as_deref(), Some("network state unknown"));
        assert_eq!(health.silence_error(Mono::ZERO).as_deref(), Some("container runtime status check may not have completed yet"));
    }

    // NODE-060: kubelet.go (Run): updateRuntimeUp once before the first syncNodeStatus, however it ends.
    #[test]
    fn first_round_of_questions_is_over_once_each_is_answered_or_has_failed() {
        let gone = || Err(Failure::new(FailureKind::Unavailable, "connection refused"));
        for (status, version) in [(Ok(ready(true)), Ok(CriReply::Version(RuntimeVersion::default()))), (gone(), gone())] {
            let mut health = RuntimeHealth::new(Duration::from_secs(120));
            let (mut ledger, mut actions, mut recorded) = (Ledger::default(), Vec::new(), Vec::new());
            health.due(at(0), &mut Out::new(&mut ledger, &mut actions, &mut recorded));
            let answer = |call: &Call| match call {
                Call::Cri(CriCall::Status) => status.clone(),
                Call::Cri(CriCall::Version) => version.clone(),
                _ => gone(),
            };
            assert_eq!(actions.len(), 3);
            for action in actions.into_iter().rev() {
                assert!(!health.has_answered());
                health.done(at(1), action.id, answer(&action.call));
            }
            assert!(health.has_answered());
        }
    }

    // NODE-103: the message prints the condition.
    #[test]
    fn network_condition_is_printed() {
        let mut health = RuntimeHealth::new(T);
        assert!(poll(&mut health, at(0), Ok(ready(false))).changed);
        assert_eq!(health.silence_error(at(0).mono), None);
        assert_eq!(
            health.network_error().as_deref(),
            Some("container runtime network not ready: NetworkReady=false reason:R message:M")
        );
        assert!(poll(&mut health, at(5), Ok(ready(true))).changed);
        assert_eq!(health.network_error(), None);
    }

    // N10, NODE-104: updateRuntimeUp of upstream's pkg/kubelet/kubelet.go stamps only a runtime that is ready: one that says otherwise
    // has both to say.
    #[test]
    fn runtime_that_is_not_ready_is_down_as_well_in_the_end() {
        let mut health = RuntimeHealth::new(T);
        let condition = RuntimeCondition { status: false, reason: "R".to_owned(), message: "M".to_owned() };
        let not_ready =
            || Ok(CriReply::Status(RuntimeStatus { runtime_ready: Some(condition.clone()), ..RuntimeStatus::default() }));
        let told = |health: &RuntimeHealth, seconds| (health.silence_error(at(seconds).mono), health.condition_error());
        let says = Some("container runtime not ready: RuntimeReady=false reason:R message:M".to_owned());
        poll(&mut health, at(0), not_ready());
        assert_eq!(told(&health, 0), (Some("container runtime status check may not have completed yet".to_owned()), says.clone()));
        poll(&mut health, at(5), Ok(ready(true)));
        assert_eq!(told(&health, 5), (None, None));
        poll(&mut health, at(10), not_ready());
        assert_eq!(told(&health, 10), (None, says.clone()));
        assert_eq!(told(&health, 36), (Some("container runtime is down".to_owned()), says));
    }

    /// What is asked at that moment, by name, with the answer to RuntimeConfig; all else goes well.
    fn asked(health: &mut RuntimeHealth, now: Now, config: Result<CriReply, Failure>) -> Vec<&'static str> {
        let (mut ledger, mut actions, mut recorded) = (Ledger::default(), Vec::new(), Vec::new());
        health.due(now, &mut Out::new(&mut ledger, &mut actions, &mut recorded));
        let names = actions.iter().map(|action| action.call.name()).collect();
        for action in actions {
            let answer = match action.call {
                Call::Cri(CriCall::Status) => Ok(ready(true)),
                Call::Cri(CriCall::Version) => Ok(CriReply::Version(RuntimeVersion::default())),
                _ => config.clone(),
            };
            health.done(now, action.id, answer);
        }
        names
    }

    // CRI-003, RTD-001: asked until it answers, then not again; a runtime that does not know the call has answered.
    #[test]
    fn runtime_is_asked_for_its_cgroup_driver_until_it_answers() {
        let unimplemented = || Err(Failure::new(FailureKind::Unimplemented, "unknown method RuntimeConfig"));
        let told = |systemd_cgroup| Ok(CriReply::RuntimeConfig { systemd_cgroup });
        for (answer, driver) in
            [(unimplemented(), None), (told(None), None), (told(Some(true)), Some(true)), (told(Some(false)), Some(false))]
        {
            let mut health = RuntimeHealth::new(T);
            let broken = Err(Failure::new(FailureKind::Unavailable, "connection refused"));
            assert!(asked(&mut health, at(0), broken).contains(&"RuntimeConfig"));
            assert_eq!((health.systemd_cgroup(), health.config_error()), (None, Some("connection refused")));
            assert_eq!(asked(&mut health, at(1), answer), ["RuntimeConfig", "Status"]);
            assert_eq!((health.systemd_cgroup(), health.config_error()), (Some(driver), None));
            assert_eq!(asked(&mut health, at(6), unimplemented()), ["Status"]);
        }
    }

    /// Asks what is due and answers with that version.
    fn told(health: &mut RuntimeHealth, now: Now, version: &str) -> (bool, HealthChange) {
        let (mut ledger, mut actions, mut recorded) = (Ledger::default(), Vec::new(), Vec::new());
        health.due(now, &mut Out::new(&mut ledger, &mut actions, &mut recorded));
        let (mut asked, mut change) = (false, HealthChange::default());
        for action in actions {
            if matches!(action.call, Call::Cri(CriCall::Version)) {
                asked = true;
                let version = RuntimeVersion { version: version.to_owned(), ..RuntimeVersion::default() };
                change = health.done(now, action.id, Ok(CriReply::Version(version)));
            } else if matches!(action.call, Call::Cri(CriCall::Status)) {
                health.done(now, action.id, Ok(ready(true)));
            } else {
                health.done(now, action.id, Ok(CriReply::RuntimeConfig { systemd_cgroup: None }));
            }
        }
        (asked, change)
    }

    // CRI-010: a runtime that was replaced under the agent is found out within a minute, and at once if it was seen to go.
    #[test]
    fn version_of_the_runtime_follows_its_upgrade() {
        let mut health = RuntimeHealth::new(T);
        let version = |health: &RuntimeHealth| health.version().unwrap().version.clone();
        assert_eq!(told(&mut health, at(0), "1.7"), (true, HealthChange { changed: true }));
        assert!((1..12).all(|poll| !told(&mut health, at(5 * poll), "2.1").0), "what was told counts for a minute");
        assert_eq!(told(&mut health, at(60), "1.7"), (true, HealthChange { changed: false }));
        health.suspect(at(62));
        assert_eq!(told(&mut health, at(62), "2.1"), (true, HealthChange { changed: true }));
        assert_eq!(version(&health), "2.1");
        poll(&mut health, at(67), Err(Failure::new(FailureKind::Unavailable, "connection refused")));
        assert_eq!(told(&mut health, at(68), "2.2"), (true, HealthChange { changed: true }));
        assert_eq!(version(&health), "2.2");
    }

    // CRI-010: remote_runtime.go gives each of them `runtimeRequestTimeout`. A Status that takes twelve seconds makes no node unready; one
    // that hangs is followed by another before its silence counts: it began five seconds after the last good one.
    #[test]
    fn poll_may_take_its_time_but_not_all_of_it() {
        for (timeout, limit) in [(5, 5), (20, 20), (120, 23)] {
            let mut health = RuntimeHealth::new(Duration::from_secs(timeout));
            let (mut ledger, mut actions, mut recorded) = (Ledger::default(), Vec::new(), Vec::new());
            health.due(at(0), &mut Out::new(&mut ledger, &mut actions, &mut recorded));
            assert_eq!(actions.iter().map(|action| action.timeout).collect::<Vec<_>>(), [Some(Duration::from_secs(limit)); 3]);
        }
        assert!(POLL + POLL_MOST + RETRY < DOWN_AFTER);
    }

    // NODE-104: age alone decides, whether the call fails or hangs.
    #[test]
    fn silent_runtime_is_down_after_thirty_seconds() {
        let mut health = RuntimeHealth::new(T);
        poll(&mut health, at(0), Ok(ready(true)));
        let gone = || Err(Failure::new(FailureKind::Unavailable, "connection refused"));
        assert!(!poll(&mut health, at(5), gone()).changed);
        assert_eq!(health.silence_error(at(30).mono), None);
        assert_eq!(health.silence_error(at(31).mono).as_deref(), Some("container runtime is down"));
        let (mut ledger, mut actions, mut recorded) = (Ledger::default(), Vec::new(), Vec::new());
        let change = health.due(at(31), &mut Out::new(&mut ledger, &mut actions, &mut recorded));
        assert!(change.changed, "the node is told by time alone");
    }
}
