//! A pod's row in `kubectl get pods`: its status in one word.
//! Upstream: pkg/printers/internalversion/printers.go (printPod).
//! Differs: nothing on purpose.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::defaults::items;
use super::table::{or_none, since};

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn exit_reason(terminated: &Value) -> String {
    match (word(&terminated["reason"]), terminated["signal"].as_i64().filter(|s| *s != 0)) {
        ("", Some(signal)) => format!("Signal:{signal}"),
        ("", None) => format!("ExitCode:{}", terminated["exitCode"].as_i64().unwrap_or(0)),
        (reason, _) => reason.to_owned(),
    }
}

fn is_sidecar(pod: &Value, name: &Value) -> bool {
    items(&pod["spec"], "initContainers").any(|c| c["name"] == *name && c["restartPolicy"] == "Always")
}

struct Counted {
    ready: usize,
    restarts: i64,
    last_restart: Option<String>,
}

impl Counted {
    fn restarted(&mut self, status: &Value) {
        self.restarts += status["restartCount"].as_i64().unwrap_or(0);
        if let Some(at) =
            status["lastState"]["terminated"]["finishedAt"].as_str().filter(|at| self.last_restart.as_deref() < Some(*at))
        {
            self.last_restart = Some(at.to_owned());
        }
    }
}

/// What an unfinished init container says of its pod, if one is unfinished.
fn init_reason(pod: &Value, counted: &mut Counted) -> Option<String> {
    let total = items(&pod["spec"], "initContainers").count();
    let mut told = None;
    for (at, status) in items(&pod["status"], "initContainerStatuses").enumerate() {
        let sidecar = is_sidecar(pod, &status["name"]);
        counted.restarted(status);
        let (terminated, waiting) = (&status["state"]["terminated"], &status["state"]["waiting"]);
        if sidecar && status["ready"] == true {
            counted.ready += 1;
        }
        if (terminated.is_object() && terminated["exitCode"] == 0) || (sidecar && status["started"] == true) {
            continue;
        }
        if told.is_some() {
            continue;
        }
        let waits = word(&waiting["reason"]);
        told = Some(if terminated.is_object() {
            format!("Init:{}", exit_reason(terminated))
        } else if !waits.is_empty() && waits != "PodInitializing" {
            format!("Init:{waits}")
        } else {
            format!("Init:{at}/{total}")
        });
    }
    told
}

fn main_reason(pod: &Value, reason: String, counted: &mut Counted) -> String {
    let mut reason = reason;
    let mut running = false;
    let statuses: Vec<&Value> = items(&pod["status"], "containerStatuses").collect();
    for status in statuses.iter().rev() {
        counted.restarted(status);
        let (terminated, waiting) = (&status["state"]["terminated"], &status["state"]["waiting"]);
        if !word(&waiting["reason"]).is_empty() {
            word(&waiting["reason"]).clone_into(&mut reason);
        } else if terminated.is_object() {
            reason = exit_reason(terminated);
        } else if status["ready"] == true && status["state"]["running"].is_object() {
            running = true;
            counted.ready += 1;
        }
    }
    if reason == "Completed" && running {
        let ready = items(&pod["status"], "conditions").any(|c| c["type"] == "Ready" && c["status"] == "True");
        return if ready { "Running" } else { "NotReady" }.to_owned();
    }
    reason
}

/// The cells of a pod's row.
pub(super) fn cells(pod: &Value, now: Timestamp) -> Value {
    let status = &pod["status"];
    let mut total = items(&pod["spec"], "containers").count();
    total += items(&pod["spec"], "initContainers").filter(|c| c["restartPolicy"] == "Always").count();
    let mut reason = word(&status["phase"]).to_owned();
    if !word(&status["reason"]).is_empty() {
        word(&status["reason"]).clone_into(&mut reason);
    }
    if items(status, "conditions").any(|c| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated") {
        "SchedulingGated".clone_into(&mut reason);
    }
    let mut counted = Counted { ready: 0, restarts: 0, last_restart: None };
    let initialized = items(status, "conditions").any(|c| c["type"] == "Initialized" && c["status"] == "True");
    let init = init_reason(pod, &mut counted);
    reason = match init {
        Some(init) if !initialized => init,
        _ => {
            if init_done_restarts_are_hidden(pod) {
                counted.restarts = 0;
                counted.last_restart = None;
            }
            main_reason(pod, reason, &mut counted)
        }
    };
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        reason = match word(&status["reason"]) {
            "NodeLost" => "Unknown",
            _ if matches!(word(&status["phase"]), "Failed" | "Succeeded") => &reason,
            _ => "Terminating",
        }
        .to_owned();
    }
    let restarts = match &counted.last_restart {
        Some(at) if counted.restarts > 0 => format!("{} ({} ago)", counted.restarts, since(&at.clone().into(), now)),
        _ => counted.restarts.to_string(),
    };
    let gates = items(&pod["spec"], "readinessGates");
    let met = |gate: &&Value| items(status, "conditions").any(|c| c["type"] == gate["conditionType"] && c["status"] == "True");
    let gates: Vec<&Value> = gates.collect();
    let gates =
        if gates.is_empty() { "<none>".to_owned() } else { format!("{}/{}", gates.iter().filter(|g| met(g)).count(), gates.len()) };
    json!([
        pod["metadata"]["name"],
        format!("{}/{total}", counted.ready),
        reason,
        restarts,
        since(&pod["metadata"]["creationTimestamp"], now),
        or_none(&status["podIP"]),
        or_none(&pod["spec"]["nodeName"]),
        or_none(&status["nominatedNodeName"]),
        gates,
    ])
}

/// Once a pod is initialized, only its sidecars' restarts count beside its containers'.
fn init_done_restarts_are_hidden(pod: &Value) -> bool {
    !items(&pod["spec"], "initContainers").any(|c| c["restartPolicy"] == "Always")
}
