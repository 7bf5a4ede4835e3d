//! Whether the feature gates that were asked for can be had.
//! Upstream: staging/src/k8s.io/component-base/featuregate (SetFromMap, Validate).
//! Differs: all problems at once, with the nearest known name.

use std::collections::BTreeMap;

use kubelet::feature_gates::{FeatureGates, GATES, Stage, find};

use super::problem::Problem;
use super::suggest::nearest;

/// Checks gates that were set. Answers the gates and everything that is wrong with them (API-270).
pub(super) fn check(set: &BTreeMap<String, bool>) -> (FeatureGates, Vec<Problem>) {
    let mut problems = Vec::new();
    let field = |name: &str| format!("featureGates.{name}");
    for (name, value) in set {
        match find(name) {
            None => {
                let remedy = match nearest(name, GATES.iter().map(|gate| gate.name)) {
                    Some(known) => format!("did you mean {known}?"),
                    None => "remove it; Kubernetes 1.36 has no such gate".to_owned(),
                };
                problems.push(Problem::new(field(name), value, format!("unrecognized feature gate: {name}"), remedy));
            }
            Some(gate) if gate.locked && gate.default != *value => problems.push(Problem::new(
                field(name),
                value,
                format!("cannot set feature gate {name} to {value}, feature is locked to {}", gate.default),
                "remove it",
            )),
            Some(_) => {}
        }
    }
    let gates = FeatureGates::new(set.clone());
    if problems.is_empty() {
        for gate in GATES.iter().filter(|gate| gates.enabled(gate.name)) {
            let disabled: Vec<&str> = gate.needs.iter().copied().filter(|needed| !gates.enabled(needed)).collect();
            if !disabled.is_empty() {
                let list = disabled.join(" ");
                problems.push(Problem::new(
                    field(gate.name),
                    true,
                    format!("{} is enabled, but depends on features that are disabled: [{list}]", gate.name),
                    format!("turn it off, or {} on", disabled.join(" and ")),
                ));
            }
        }
    }
    (gates, problems)
}

/// What to say about gates that will go away.
pub(super) fn warnings(set: &BTreeMap<String, bool>) -> impl Iterator<Item = String> {
    set.iter().filter_map(|(name, value)| {
        let kind = match find(name)?.stage {
            Stage::Deprecated => "deprecated",
            Stage::Ga => "GA",
            Stage::Alpha | Stage::Beta => return None,
        };
        Some(format!("setting {kind} feature gate {name}={value}. It will be removed in a future release."))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(set: &[(&str, bool)]) -> Vec<String> {
        let set = set.iter().map(|(name, on)| ((*name).to_owned(), *on)).collect();
        check(&set).1.iter().map(|problem| problem.message.clone()).collect()
    }

    #[test]
    fn unknown_and_locked_gates_are_all_reported() {
        // API-270
        assert_eq!(
            problems(&[("NoSuchGate", true), ("NodeSwap", false), ("MemoryQoS", true)]),
            ["unrecognized feature gate: NoSuchGate", "cannot set feature gate NodeSwap to false, feature is locked to true"]
        );
        assert!(problems(&[("NodeSwap", true)]).is_empty());
    }

    #[test]
    fn gate_names_are_case_sensitive_and_the_right_case_is_named() {
        let set = BTreeMap::from([("memoryQos".to_owned(), true)]);
        assert_eq!(check(&set).1[0].remedy, "did you mean MemoryQoS?");
    }

    #[test]
    fn a_gate_whose_base_is_off_is_reported() {
        assert_eq!(
            problems(&[("GracefulNodeShutdown", false), ("WindowsGracefulNodeShutdown", false)]),
            [
                "GracefulNodeShutdownBasedOnPodPriority is enabled, but depends on features that are disabled: [GracefulNodeShutdown]"
            ]
        );
    }
}
