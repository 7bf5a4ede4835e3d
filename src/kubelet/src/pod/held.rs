//! Decides which steps of a pod are not tried again yet because they failed. Everything else of the pod goes on: it is looked at,
//! reported and planned.
//! Upstream: pkg/kubelet/pod_workers.go (completeWork), where whatever happens meanwhile ends the wait.
//! Differs: what happens meanwhile is looked at and acted upon, but does not repeat the step that failed.

use std::collections::BTreeMap;

use super::chain::Purpose;
use crate::ids::ContainerId;
use crate::observation::{ContainerState, PodObservation};
use crate::time::Mono;

/// What failed: the purpose of a chain, and the container that it was about, if there was one.
pub type FailedChain = (Purpose, Option<ContainerId>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Hold {
    about: Option<ContainerId>,
    until: Mono,
}

/// What is held back, each until its time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held(BTreeMap<Purpose, Hold>);

impl Held {
    /// Not again before that moment.
    pub fn hold(&mut self, (purpose, about): FailedChain, until: Mono) {
        self.0.insert(purpose, Hold { about, until });
    }

    /// Whether a chain of that purpose has to wait, given what was seen of the pod.
    #[must_use]
    pub fn holds(&self, purpose: &Purpose, seen: &PodObservation) -> bool {
        let Some(hold) = self.0.get(purpose) else { return false };
        let of = |id: &ContainerId| seen.containers.iter().find(|c| c.id == *id);
        match (purpose, &hold.about) {
            // What was made and has ended waits in the restart back-off, as whatever ends (POD-225).
            (Purpose::Start { container }, Some(made)) => {
                !seen.newest(container).is_some_and(|newest| newest.id == *made && newest.state == ContainerState::Exited)
            }
            // Another instance may be stopped at once.
            (Purpose::Kill { .. }, Some(id)) => {
                of(id).is_some_and(|c| matches!(c.state, ContainerState::Running | ContainerState::Unknown))
            }
            _ => true,
        }
    }

    /// The next moment at which something is not held back any more.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        self.0.values().map(|hold| hold.until).min()
    }

    /// Lets go what has waited long enough. Whether there was anything.
    pub fn time_passed(&mut self, now: Mono) -> bool {
        let before = self.0.len();
        self.0.retain(|_, hold| hold.until > now);
        self.0.len() < before
    }

    /// The spec changed: what is started from it is not what failed.
    pub fn spec_changed(&mut self) {
        self.0.retain(|purpose, _| !matches!(purpose, Purpose::Start { .. }));
    }

    /// Nothing is held back any more.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::ids::PodUid;
    use crate::observation::ContainerStatus;

    fn seen(instances: &[(&str, &str)]) -> PodObservation {
        let mut seen = PodObservation::empty(PodUid::new("u"), Mono::ZERO);
        let status = |(id, state): &(&str, &str)| -> ContainerStatus {
            serde_json::from_value(json!({
                "id": id, "sandbox": "s", "name": "main", "attempt": 0, "state": state, "created_at": 0, "started_at": 0,
                "finished_at": 0, "exit_code": 0, "reason": "", "message": "", "image": "", "image_ref": "", "image_id": "", "log_path": "",
                "labels": {}, "annotations": {}, "user": null, "resources": null, "termination_log": "", "stop_signal": "",
            }))
            .unwrap()
        };
        seen.containers = instances.iter().map(status).collect();
        seen
    }

    fn main(of: fn(String) -> Purpose) -> Purpose {
        of("main".to_owned())
    }

    // POD-084, POD-225: a start that failed and left a dead container waits as whatever ends does; one that left nothing, its ten seconds.
    #[test]
    fn failed_start_is_held_unless_it_left_a_dead_container() {
        let start = main(|container| Purpose::Start { container });
        let until = Mono::from_start(Duration::from_secs(10));
        let mut held = Held::default();
        held.hold((start.clone(), Some(ContainerId::new("b"))), until);
        assert!(!held.holds(&start, &seen(&[("b", "Exited"), ("a", "Exited")])));
        assert!(held.holds(&start, &seen(&[("b", "Created")])) && held.holds(&start, &seen(&[])));
        held.hold((start.clone(), None), until);
        assert!(held.holds(&start, &seen(&[("a", "Exited")])), "an end from before it");
        assert!(!held.holds(&Purpose::Start { container: "other".to_owned() }, &seen(&[])), "another container is not held");
        held.spec_changed();
        assert!(!held.holds(&start, &seen(&[])));
    }

    // POD-266
    #[test]
    fn failed_stop_is_held_while_that_instance_lives() {
        let kill = main(|container| Purpose::Kill { container });
        let mut held = Held::default();
        held.hold((kill.clone(), Some(ContainerId::new("a"))), Mono::from_start(Duration::from_secs(10)));
        assert!(held.holds(&kill, &seen(&[("a", "Running")])));
        assert!(!held.holds(&kill, &seen(&[("a", "Exited")])) && !held.holds(&kill, &seen(&[("b", "Running"), ("a", "Exited")])));
        assert_eq!(held.deadline(), Some(Mono::from_start(Duration::from_secs(10))));
        assert!(!held.time_passed(Mono::from_start(Duration::from_secs(9))));
        assert!(held.time_passed(Mono::from_start(Duration::from_secs(10))));
        assert!(!held.holds(&kill, &seen(&[("a", "Running")])));
    }
}
