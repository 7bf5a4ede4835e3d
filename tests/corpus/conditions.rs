//! What cases wait for. All parts of a condition must hold, and all of a list; `any` and `not` combine.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

/// What conditions are about.
pub(super) struct Facts<'a> {
    /// The newest of each pod that is there, by name.
    pub(super) pods: &'a BTreeMap<String, Arc<Value>>,
    /// The last of each that is gone.
    pub(super) gone: &'a BTreeMap<String, Arc<Value>>,
    /// All events.
    pub(super) events: &'a BTreeMap<String, Arc<Value>>,
}

/// Whether it holds.
pub(super) fn holds(condition: &Value, facts: &Facts<'_>) -> bool {
    if let Some(all) = condition.as_array() {
        return all.iter().all(|one| holds(one, facts));
    }
    if let Some(any) = condition["any"].as_array() {
        return any.iter().any(|one| holds(one, facts));
    }
    if condition.get("not").is_some() {
        return !holds(&condition["not"], facts);
    }
    if condition.get("event").is_some() {
        return event_holds(condition, facts);
    }
    let name = condition["pod"].as_str().unwrap_or("p");
    if condition["gone"] == true {
        return facts.gone.contains_key(name);
    }
    facts.pods.get(name).is_some_and(|pod| pod_holds(condition, pod))
}

fn event_holds(condition: &Value, facts: &Facts<'_>) -> bool {
    let contained = condition["contains"].as_str().unwrap_or_default();
    let fits = |event: &&Arc<Value>| {
        event["reason"] == condition["event"]
            && event["message"].as_str().unwrap_or_default().contains(contained)
            && condition["pod"].as_str().is_none_or(|pod| event["involvedObject"]["name"] == pod)
    };
    let times: u64 = facts.events.values().filter(fits).map(|event| event["count"].as_u64().unwrap_or(1).max(1)).sum();
    times >= condition["times"].as_u64().unwrap_or(1)
}

fn pod_holds(condition: &Value, pod: &Value) -> bool {
    let status = &pod["status"];
    let one_of =
        |wanted: &Value, is: &Value| wanted.as_str().is_none_or(|wanted| wanted.split('|').any(|word| Some(word) == is.as_str()));
    one_of(&condition["phase"], &status["phase"])
        && one_of(&condition["reason"], &status["reason"])
        && (condition["deleting"] != true || !pod["metadata"]["deletionTimestamp"].is_null())
        && condition["condition"].as_str().is_none_or(|kind| condition_holds(condition, kind, status))
        && condition["container"].as_str().is_none_or(|name| container_holds(condition, name, status))
        && condition["path"].as_str().is_none_or(|path| path_holds(condition, path, pod))
}

fn condition_holds(condition: &Value, kind: &str, status: &Value) -> bool {
    let mut all = status["conditions"].as_array().into_iter().flatten();
    all.find(|one| one["type"] == kind).is_some_and(|one| {
        one["status"] == condition["status"].as_str().unwrap_or("True")
            && condition["conditionReason"].as_str().is_none_or(|reason| one["reason"] == reason)
    })
}

fn container_holds(condition: &Value, name: &str, status: &Value) -> bool {
    let lists = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    let mut all = lists.iter().flat_map(|list| status[*list].as_array().into_iter().flatten());
    let Some(container) = all.find(|container| container["name"] == name) else { return false };
    let state = container["state"].as_object().and_then(|state| state.iter().next());
    let (word, state) = state.map_or(("", &Value::Null), |(word, state)| (word.as_str(), state));
    let one_of = |wanted: &Value, is: &str| wanted.as_str().is_none_or(|wanted| wanted.split('|').any(|one| one == is));
    one_of(&condition["state"], word)
        && one_of(&condition["stateReason"], state["reason"].as_str().unwrap_or_default())
        && (condition["exitCode"].is_null() || state["exitCode"] == condition["exitCode"])
        && condition["restarts"].as_u64().is_none_or(|least| container["restartCount"].as_u64().unwrap_or(0) >= least)
        && condition["ready"].as_bool().is_none_or(|ready| container["ready"].as_bool().unwrap_or(false) == ready)
        && condition["started"].as_bool().is_none_or(|started| container["started"].as_bool().unwrap_or(false) == started)
        && condition["last"].as_str().is_none_or(|last| container["lastState"]["terminated"]["reason"] == last)
}

fn path_holds(condition: &Value, path: &str, pod: &Value) -> bool {
    let mut found = pod;
    for part in path.split(['.', '[', ']']).filter(|part| !part.is_empty()) {
        found = match part.parse::<usize>() {
            Ok(at) => &found[at],
            Err(_) => &found[part],
        };
    }
    !found.is_null()
        && (condition["is"].is_null() || *found == condition["is"])
        && condition["min"].as_f64().is_none_or(|least| found.as_f64().is_some_and(|is| is >= least))
        && condition["has"].as_str().is_none_or(|part| found.to_string().contains(part))
}
