//! Decides the node's conditions: the three pressures and, last, Ready.
//! Upstream: pkg/kubelet/nodestatus/setters.go.
//! Differs: nothing on purpose.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NodeCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Which pressures there are (NODE-100).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressures {
    /// Memory is short.
    pub memory: bool,
    /// Disk space or inodes are short.
    pub disk: bool,
    /// Process IDs are short.
    pub pid: bool,
}

/// The conditions after this pass, in upstream's order, foreign ones kept where they stood; and the event reasons of those
/// that flipped.
#[must_use]
pub fn generate_conditions(
    existing: &[NodeCondition],
    pressures: Pressures,
    ready_errors: &[String],
    now: Timestamp,
) -> (Vec<NodeCondition>, Vec<&'static str>) {
    let mut conditions = existing.to_vec();
    let mut events = Vec::new();
    for (kind, holds, texts) in [
        ("MemoryPressure", pressures.memory, &MEMORY),
        ("DiskPressure", pressures.disk, &DISK),
        ("PIDPressure", pressures.pid, &PID),
    ] {
        set_pressure(&mut conditions, kind, holds, texts, now, &mut events);
    }
    set_ready(&mut conditions, ready_errors, now, &mut events);
    (conditions, events)
}

struct Texts {
    holds: [&'static str; 3],
    not: [&'static str; 3],
}

/// Reason, message, event reason.
const MEMORY: Texts = Texts {
    holds: ["KubeletHasInsufficientMemory", "kubelet has insufficient memory available", "NodeHasInsufficientMemory"],
    not: ["KubeletHasSufficientMemory", "kubelet has sufficient memory available", "NodeHasSufficientMemory"],
};
const DISK: Texts = Texts {
    holds: ["KubeletHasDiskPressure", "kubelet has disk pressure", "NodeHasDiskPressure"],
    not: ["KubeletHasNoDiskPressure", "kubelet has no disk pressure", "NodeHasNoDiskPressure"],
};
const PID: Texts = Texts {
    holds: ["KubeletHasInsufficientPID", "kubelet has insufficient PID available", "NodeHasInsufficientPID"],
    not: ["KubeletHasSufficientPID", "kubelet has sufficient PID available", "NodeHasSufficientPID"],
};

fn set_pressure(
    conditions: &mut Vec<NodeCondition>,
    kind: &str,
    holds: bool,
    texts: &Texts,
    now: Timestamp,
    events: &mut Vec<&'static str>,
) {
    let at = match conditions.iter().position(|c| c.type_ == kind) {
        Some(at) => at,
        None => {
            conditions.push(NodeCondition { type_: kind.to_owned(), status: "Unknown".to_owned(), ..NodeCondition::default() });
            conditions.len() - 1
        }
    };
    let condition = &mut conditions[at];
    condition.last_heartbeat_time = Some(Time(now));
    let status = if holds { "True" } else { "False" };
    if condition.status != status {
        let [reason, message, event] = if holds { texts.holds } else { texts.not };
        status.clone_into(&mut condition.status);
        condition.reason = Some(reason.to_owned());
        condition.message = Some(message.to_owned());
        condition.last_transition_time = Some(Time(now));
        events.push(event);
    }
}

fn set_ready(conditions: &mut Vec<NodeCondition>, errors: &[String], now: Timestamp, events: &mut Vec<&'static str>) {
    let mut ready = NodeCondition {
        type_: "Ready".to_owned(),
        last_heartbeat_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
        ..NodeCondition::default()
    };
    if errors.is_empty() {
        "True".clone_into(&mut ready.status);
        ready.reason = Some("KubeletReady".to_owned());
        ready.message = Some("kubelet is posting ready status".to_owned());
    } else {
        "False".clone_into(&mut ready.status);
        ready.reason = Some("KubeletNotReady".to_owned());
        ready.message = Some(aggregated(errors));
    }
    match conditions.iter_mut().find(|c| c.type_ == "Ready") {
        None => conditions.push(ready),
        Some(known) => {
            if known.status == ready.status {
                ready.last_transition_time.clone_from(&known.last_transition_time);
            } else {
                events.push(if ready.status == "True" { "NodeReady" } else { "NodeNotReady" });
            }
            *known = ready;
        }
    }
}

/// NODE-101: one error stands alone; several print `[e1, e2]`, each once.
fn aggregated(errors: &[String]) -> String {
    let mut once: Vec<&str> = Vec::new();
    for error in errors {
        if !once.contains(&error.as_str()) {
            once.push(error);
        }
    }
    if once.len() == 1 { once[0].to_owned() } else { format!("[{}]", once.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    // NODE-100: order, reasons and messages of a healthy node, as a real kubelet reports them.
    #[test]
    fn healthy_node_has_upstreams_conditions() {
        let (conditions, events) = generate_conditions(&[], Pressures::default(), &[], at(5));
        let golden: serde_json::Value = serde_json::from_str(include_str!("../../testdata/node.json")).unwrap();
        let brief = |c: &serde_json::Value| (c["type"].clone(), c["status"].clone(), c["reason"].clone(), c["message"].clone());
        let ours = serde_json::to_value(&conditions).unwrap();
        let (ours, theirs) = (ours.as_array().unwrap(), golden["status"]["conditions"].as_array().unwrap());
        assert_eq!(ours.iter().map(brief).collect::<Vec<_>>(), theirs.iter().map(brief).collect::<Vec<_>>());
        assert_eq!(events, ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID"], "a new Ready is no flip");
    }

    // NODE-100: a transition is a change of status, nothing else; heartbeat moves each time.
    #[test]
    fn transition_time_moves_only_with_status() {
        let (first, _) = generate_conditions(&[], Pressures::default(), &["x".to_owned()], at(5));
        let (second, events) = generate_conditions(&first, Pressures::default(), &["y".to_owned()], at(15));
        assert_eq!(second[3].last_transition_time, Some(Time(at(5))));
        assert_eq!(second[3].last_heartbeat_time, Some(Time(at(15))));
        assert_eq!(second[3].message.as_deref(), Some("y"));
        assert!(events.is_empty());
        let (third, events) = generate_conditions(&second, Pressures { disk: true, ..Pressures::default() }, &[], at(25));
        assert_eq!(third[3].last_transition_time, Some(Time(at(25))));
        assert_eq!(third[1].reason.as_deref(), Some("KubeletHasDiskPressure"));
        assert_eq!(events, ["NodeHasDiskPressure", "NodeReady"]);
    }

    // NODE-102: what others wrote stays.
    #[test]
    fn foreign_conditions_are_kept() {
        let foreign =
            NodeCondition { type_: "NetworkUnavailable".to_owned(), status: "False".to_owned(), ..NodeCondition::default() };
        let (conditions, _) = generate_conditions(std::slice::from_ref(&foreign), Pressures::default(), &[], at(5));
        assert_eq!(conditions[0], foreign);
    }

    // NODE-101
    #[test]
    fn several_errors_are_listed_once_each() {
        let errors = ["a".to_owned(), "b".to_owned(), "a".to_owned()];
        assert_eq!(aggregated(&errors), "[a, b]");
        assert_eq!(aggregated(&errors[..1]), "a");
    }
}
