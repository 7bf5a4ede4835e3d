//! Decides what a pod's progress means to its users: the status, the events, the reasons for which containers wait.
//! Upstream: pkg/kubelet/kubelet.go (SyncPod), pkg/kubelet/kuberuntime/kuberuntime_container.go (startContainer).
//! Differs: a warning about the same trouble is given once, not at each retry.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};

use super::chain::{Purpose, Step, StepEnd};
use super::counted::{count_ends, count_failure};
use super::hook::{hook_failure, post_start_failure};
use super::status::{StatusInputs, generate_api_pod_status};
use super::stop::field_path_of;
use super::worker::{Phase, PodWorker, StartError, Verdict};
use crate::event::HostReply;
use crate::facts::Fact;
use crate::failure::FailureKind;
use crate::ids::ContainerId;
use crate::kubelet::QUARANTINED;
use crate::out::Out;
use crate::parts::Parts;
use crate::pod::chain::StepReply;
use crate::pod::manager::is_static;
use crate::prober::ProbedPod;
use crate::recorder::{Recorded, Subject};
use crate::resources::qos::qos_class;
use crate::status_manager::Gate;
use crate::time::Now;
use crate::work::Point;

/// Brings the probes in line with what was last seen.
pub fn probe(worker: &PodWorker, parts: &mut Parts, now: Now) {
    if worker.phase >= Phase::Terminated {
        return;
    }
    let Some(seen) = &worker.observation else { return };
    let ips = parts.pod_ips(&worker.pod, seen);
    let told = if is_static(&worker.pod) { parts.statuses.told(&worker.uid) } else { worker.pod.status.as_ref() };
    parts.prober.sync_pod(
        now,
        ProbedPod {
            uid: &worker.uid,
            pod: &worker.pod,
            told,
            observation: seen,
            pod_ip: ips.first().map(String::as_str).or_else(|| worker.pod_ip()),
            terminating: worker.phase == Phase::Terminating,
        },
    );
}

/// Computes the status and hands it on (POD-100). A pod that was not seen yet says nothing: what the API server has stands.
pub fn report(worker: &mut PodWorker, parts: &mut Parts, now: Now, out: &mut Out<'_>) {
    if worker.source.is_none() || worker.observation.is_none() || worker.in_line {
        return;
    }
    if is_static(&worker.pod) && worker.phase >= Phase::Terminated {
        // POD-302: it is never forced to end: it may come again. How it ended by itself is told.
        if !worker.revived {
            out.works_for(Point::Status, &worker.uid);
            parts.statuses.ended(now, &worker.uid, out);
        }
        return;
    }
    let gate = Gate { may_run: worker.phase < Phase::Terminated, finished: worker.phase == Phase::Finished };
    if gate.finished && parts.statuses.finished(&worker.uid, gate) {
        // What happens to its object afterwards changes nothing of how it was (pod_workers.go, UpdatePod: no further updates).
        out.works_for(Point::Status, &worker.uid);
        parts.statuses.tell(now, &worker.uid, out);
        return;
    }
    out.works_for(Point::Report, &worker.uid);
    worker.show_errors();
    let seen = worker.seen();
    let host_ips = parts.host_ips();
    let previous = parts.statuses.last_known(&worker.uid).cloned().or_else(|| worker.pod.status.clone()).map(well_again);
    let is_computed = parts.statuses.status(&worker.uid).is_some();
    let previous = previous.map(|status| if is_static(&worker.pod) && !is_computed { as_of_mirror(status) } else { status });
    let status = generate_api_pod_status(&StatusInputs {
        pod: &worker.pod,
        uid: &worker.uid,
        seen: &seen,
        observed: true,
        previous: previous.as_ref(),
        start_errors: &worker.shown_errors,
        to_restart: &worker.to_restart,
        restart_waits: worker.restart_waits,
        prober: &parts.prober,
        terminating: worker.phase >= Phase::Terminating,
        terminated: worker.phase >= Phase::Terminated,
        verdict: worker.termination.as_ref().and_then(|t| t.verdict.as_ref()),
        host_ips: &host_ips,
        v6_first: parts.v6_first(),
        runtime_name: parts.runtime.version().map_or("containerd", |v| &v.name),
        recursive_read_only: parts.mounts_recursively(&worker.pod),
        resize_refused: worker.resize_refused,
        now: now.wall_seconds(),
    });
    let before = parts.statuses.last_known(&worker.uid).or(worker.pod.status.as_ref());
    count_ends(before, &status, out);
    let before = before.and_then(|status| status.phase.as_deref());
    if matches!(before, None | Some("Pending")) && status.phase.as_deref() == Some("Running") {
        out.count(Fact::PodRuns(now.mono.since(worker.born)));
    }
    parts.statuses.set_status(&worker.uid, status, gate);
    out.works_for(Point::Status, &worker.uid);
    parts.statuses.tell(now, &worker.uid, out);
}

/// What of a mirror's status a static pod goes on from: that it ended once is of an earlier life, and it runs again
/// (kubelet_pods.go, generateAPIPodStatus: the phase before is the manifest's).
pub(crate) fn as_of_mirror(mut status: PodStatus) -> PodStatus {
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        (status.phase, status.reason, status.message) = (None, None, None);
    }
    status
}

/// Whether the status that was just computed says that the pod has ended: then it is stopped (POD-076).
#[must_use]
pub fn computed_phase_is_terminal(worker: &PodWorker, parts: &Parts) -> bool {
    let phase = parts.statuses.status(&worker.uid).and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// POD-106
pub fn deadline_exceeded(worker: &mut PodWorker, parts: &Parts, now: Now, out: &mut Out<'_>) -> bool {
    let Some(limit) = worker.pod.spec.as_ref().and_then(|s| s.active_deadline_seconds) else { return false };
    // As it was told last, for the manifest of a static pod has none (active_deadline.go, pastActiveDeadline).
    let status = parts.statuses.last_known(&worker.uid).or(worker.pod.status.as_ref());
    let Some(start) = status.and_then(|s| s.start_time.as_ref()) else { return false };
    let limit = Duration::from_secs(u64::try_from(limit).unwrap_or(0));
    let active = Duration::try_from(now.wall.duration_since(start.0)).unwrap_or_default();
    if active < limit {
        worker.wake_at = Some(now.mono + (limit - active));
        return false;
    }
    let message = "Pod was active on the node longer than the specified deadline";
    out.record(Recorded::normal(Subject::Pod(Arc::clone(&worker.pod)), "DeadlineExceeded", message));
    let verdict = Verdict { reason: "DeadlineExceeded".to_owned(), message: message.to_owned(), disruption: false };
    worker.terminate(now, super::stop::pod_grace(&worker.pod), Some(verdict));
    true
}

/// POD-032: the last status of a pod that was not admitted.
#[must_use]
pub fn rejected_status(pod: &Pod, reason: &str, message: &str, now: Now) -> PodStatus {
    let before = pod.status.clone().unwrap_or_default();
    PodStatus {
        phase: Some("Failed".to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(format!("Pod was rejected: {message}")),
        qos_class: Some(qos_class(pod).as_str().to_owned()),
        conditions: before.conditions,
        start_time: before.start_time.or(Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now.wall_seconds()))),
        observed_generation: pod.metadata.generation,
        ..PodStatus::default()
    }
}

/// The status of a pod on which the core failed: as it was, with the reason. How a pod ended is not covered by it.
#[must_use]
pub fn quarantined_status(pod: &Pod, before: Option<PodStatus>, reason: &str, message: &str) -> PodStatus {
    let mut status = before.unwrap_or_default();
    if !matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        status.phase.get_or_insert_with(|| "Pending".to_owned());
        status.reason = Some(reason.to_owned());
        status.message = Some(message.to_owned());
    }
    status.observed_generation = status.observed_generation.max(pod.metadata.generation);
    status
}

/// It is planned again: what was said of a failure of the core is not so any more.
fn well_again(mut status: PodStatus) -> PodStatus {
    if status.reason.as_deref() == Some(QUARANTINED) {
        (status.reason, status.message) = (None, None);
    }
    status
}

/// POD-131: told once for each trouble.
pub fn sandbox_failed(worker: &mut PodWorker, trouble: &str, message: &str, out: &mut Out<'_>) {
    if worker.phase == Phase::Syncing && worker.warn_once(trouble) {
        let text = format!("Failed to create pod sandbox: {message}");
        out.record(Recorded::warning(Subject::Pod(Arc::clone(&worker.pod)), "FailedCreatePodSandBox", text));
    }
}

/// A step of the pod's batch ended: what does it mean to the users, and what must be remembered?
pub fn step_ended(worker: &mut PodWorker, parts: &mut Parts, end: &StepEnd, out: &mut Out<'_>) {
    match &end.purpose {
        Purpose::Prepare => prepared(worker, end, out),
        Purpose::Sandbox => sandbox_ended(worker, end, out),
        Purpose::Start { container } => start_step_ended(worker, parts, container, end, out),
        Purpose::Kill { container } => kill_step_ended(worker, container, end, out),
        Purpose::RemoveCgroup => worker.cgroup_removed |= end.outcome.is_ok(),
        Purpose::StopSandbox => match (&end.step, &end.outcome) {
            (Step::StopSandbox(id), Ok(_)) => {
                worker.stopped_sandboxes.insert(id.clone());
            }
            (_, Err(failure)) => failed_to_kill(worker, &failure.message, out),
            _ => {}
        },
    }
}

fn prepared(worker: &mut PodWorker, end: &StepEnd, out: &mut Out<'_>) {
    use crate::action::HostCall;
    let subject = Subject::Pod(Arc::clone(&worker.pod));
    match (&end.step, &end.outcome) {
        (Step::Host(HostCall::MakePodDirs { .. }), Ok(_)) => worker.prepared = true,
        (Step::Host(HostCall::CgroupExists { .. }), Ok(StepReply::Host(HostReply::Exists(exists)))) => {
            worker.in_cgroup = Some(*exists);
        }
        (Step::Host(HostCall::HighestLog { directory }), Ok(StepReply::Host(HostReply::HighestLog(Some(highest))))) => {
            let container = directory.rsplit('/').next().unwrap_or_default().to_owned();
            worker.log_floor.insert(container, highest.saturating_add(1));
        }
        (Step::Host(HostCall::MakePodDirs { .. }), Err(failure)) => {
            if worker.warn_once(&failure.message) {
                out.record(Recorded::warning(subject, "Failed", format!("error making pod data directories: {}", failure.message)));
            }
        }
        (_, Err(failure)) => {
            if worker.warn_once(&failure.message) {
                let text = format!("unable to ensure pod container exists: {}", failure.message);
                out.record(Recorded::warning(subject, "FailedCreatePodContainer", text));
            }
        }
        _ => {}
    }
}

fn sandbox_ended(worker: &mut PodWorker, end: &StepEnd, out: &mut Out<'_>) {
    match &end.outcome {
        Ok(_) => worker.made_progress(),
        Err(failure) => {
            if failure.outcome_unknown() || failure.message.contains("failed to reserve sandbox name") {
                // RTD-010: the name stays taken until the runtime has finished what it began.
                worker.sandbox_floor = worker.sandbox_attempt.saturating_add(1);
            }
            let message = failure.rpc_message();
            sandbox_failed(worker, &message, &message, out);
        }
    }
}

fn start_step_ended(worker: &mut PodWorker, parts: &mut Parts, container: &str, end: &StepEnd, out: &mut Out<'_>) {
    let subject = Subject::Container(Arc::clone(&worker.pod), field_path_of(&worker.pod, container));
    if let Step::PreStop { of, .. } = &end.step {
        worker.hooked.insert(of.clone());
        pre_stop_ended(subject, end, out);
        return;
    }
    if let Step::PostStart { .. } = &end.step {
        if let Some(why) = post_start_failure(&worker.pod, container, end) {
            // Nothing of what it said: that may hold secrets, and whoever reads events may not read those.
            out.record(Recorded::warning(subject.clone(), "FailedPostStartHook", "PostStartHook failed"));
            out.record(Recorded::normal(subject, "Killing", "FailedPostStartHook".to_owned()));
            count_failure(worker, container, "PostStartHookError", out);
            set_error(worker, container, "PostStartHookError", why);
        }
        return;
    }
    match (&end.step, &end.outcome) {
        (Step::Create(_), Ok(_)) => out.record(Recorded::normal(subject, "Created", "Container created")),
        (Step::Start, Ok(_)) => {
            out.record(Recorded::normal(subject, "Started", "Container started"));
            worker.start_errors.remove(container);
            worker.made_progress();
            parts.images.used(&worker.uid, container);
        }
        (Step::Create(_), Err(failure)) => {
            start_failed(worker, container, subject, "CreateContainerError", (&failure.message, &failure.message), out);
        }
        (Step::Start, Err(failure)) => {
            let told = without_id(&failure.message, end, container);
            start_failed(worker, container, subject, "RunContainerError", (&failure.message, &told), out);
        }
        (Step::Host(_), Err(failure)) => {
            start_failed(worker, container, subject, "CreateContainerConfigError", (&failure.message, &failure.message), out);
        }
        _ => {}
    }
}

/// What the runtime says of a container, with its name in place of its ID (upstream's recordContainerEvent): each try has another
/// container, and its ID would make each event another one.
fn without_id(message: &str, end: &StepEnd, container: &str) -> String {
    end.container.as_ref().map_or_else(|| message.to_owned(), |id| message.replace(id.as_str(), container))
}

/// With the message as the status has it, and as the event does.
fn start_failed(
    worker: &mut PodWorker,
    container: &str,
    subject: Subject,
    reason: &str,
    (message, told): (&str, &str),
    out: &mut Out<'_>,
) {
    if worker.warn_once(&format!("{container}: {told}")) {
        out.record(Recorded::warning(subject, "Failed", format!("Error: {told}")));
    }
    count_failure(worker, container, reason, out);
    set_error(worker, container, reason, message.to_owned());
}

/// Remembers why a container waits (POD-105).
pub fn set_error(worker: &mut PodWorker, container: &str, reason: &str, message: String) {
    worker.start_errors.insert(container.to_owned(), StartError { reason: reason.to_owned(), message });
}

fn kill_step_ended(worker: &mut PodWorker, container: &str, end: &StepEnd, out: &mut Out<'_>) {
    if let Some(seen) = &worker.observation {
        let is_there = |id: &ContainerId| seen.containers.iter().any(|c| c.id == *id);
        worker.hooked.retain(is_there);
        worker.unanswered.retain(is_there);
    }
    match (&end.step, &end.outcome) {
        (Step::PreStop { of, .. }, _) => {
            worker.hooked.insert(of.clone());
        }
        (Step::Stop { id: Some(id), .. }, Err(failure)) => {
            if failure.outcome_unknown() {
                worker.unanswered.insert(id.clone());
            }
            worker.unstopped.insert(id.clone(), failure.message.clone());
            return;
        }
        _ => {}
    }
    if matches!(end.step, Step::PreStop { .. }) {
        let subject = Subject::Container(Arc::clone(&worker.pod), field_path_of(&worker.pod, container));
        pre_stop_ended(subject, end, out);
    } else if let Err(failure) = &end.outcome {
        failed_to_kill(worker, &failure.message, out);
    }
}

fn pre_stop_ended(subject: Subject, end: &StepEnd, out: &mut Out<'_>) {
    // One that a shorter grace withdrew has not failed.
    let withdrawn = end.outcome.as_ref().is_err_and(|failure| failure.kind == FailureKind::Canceled);
    if !withdrawn && hook_failure(end).is_some() {
        out.record(Recorded::warning(subject, "FailedPreStopHook", "PreStopHook failed"));
    }
}

/// Stops that failed are told of if what they were to stop runs on: one that ends by itself meanwhile makes its stop fail too.
pub fn stops_failed(worker: &mut PodWorker, out: &mut Out<'_>) {
    let seen = worker.seen();
    for (id, message) in std::mem::take(&mut worker.unstopped) {
        if seen.live_containers().any(|container| container.id == id) {
            failed_to_kill(worker, &message, out);
        }
    }
}

fn failed_to_kill(worker: &mut PodWorker, message: &str, out: &mut Out<'_>) {
    if worker.warn_once(message) {
        let text = format!("error killing pod: {message}");
        out.record(Recorded::warning(Subject::Pod(Arc::clone(&worker.pod)), "FailedKillPod", text));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::action::ProbeCall;
    use crate::event::ProbeOutcome;
    use crate::failure::Failure;
    use crate::ids::PodUid;
    use crate::observation::PodObservation;
    use crate::out::Ledger;
    use crate::pod::hook::Hook;
    use crate::time::Mono;

    // NODE-161, POD-032: kubelet.go (rejectPod): the class as it was, or as it would be told.
    #[test]
    fn rejected_pod_has_failed_with_the_reason_and_its_class() {
        let now = Now { mono: Mono::ZERO, wall: jiff::Timestamp::UNIX_EPOCH };
        let of = |pod: serde_json::Value| {
            let pod: Pod = serde_json::from_value(pod).unwrap();
            let status = serde_json::to_value(rejected_status(&pod, "NodePorts", "why", now)).unwrap();
            ["phase", "reason", "message", "qosClass"].map(|field| status[field].as_str().unwrap_or_default().to_owned())
        };
        let limits = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
        let spec = json!({"containers": [{"name": "c", "resources": limits}]});
        let rejected = |class: &str| ["Failed", "NodePorts", "Pod was rejected: why", class].map(str::to_owned);
        assert_eq!(of(json!({"spec": spec})), rejected("Guaranteed"));
        assert_eq!(of(json!({"spec": spec, "status": {"qosClass": "Burstable"}})), rejected("Burstable"));
    }

    // POD-230: as a kubelet 1.36.2 was recorded: of a hook that is tried again without TLS there is no event (kubelet.go hands it
    // FilterEventRecorder, which drops those of pods), nor of one that a shorter grace withdraws; of one that fails there is.
    #[test]
    fn only_a_hook_that_fails_is_told() {
        let now = Now { mono: Mono::ZERO, wall: jiff::Timestamp::UNIX_EPOCH };
        let pod: Arc<Pod> = Arc::new(serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}})).unwrap());
        let mut worker = PodWorker::new(now, PodUid::new("u"), pod, None);
        let warning = ProbeOutcome::Warning("retry with HTTP succeeded".to_owned());
        let failed = |kind| Err(Failure::new(kind, "no"));
        for (outcome, told) in
            [(Ok(StepReply::Probe(warning)), 0), (failed(FailureKind::Canceled), 0), (failed(FailureKind::Other), 1)]
        {
            let hook = Hook::Http(ProbeCall::Tcp { host: "10.0.0.2".to_owned(), port: 80 });
            let end = StepEnd {
                purpose: Purpose::Kill { container: "c".to_owned() },
                step: Step::PreStop { of: ContainerId::new("id"), hook, until: Mono::ZERO },
                outcome,
                container: None,
            };
            let (mut ledger, mut actions, mut recorded) = (Ledger::default(), Vec::new(), Vec::new());
            kill_step_ended(&mut worker, "c", &end, &mut Out::new(&mut ledger, &mut actions, &mut recorded));
            assert_eq!(recorded.len(), told, "{:?}", end.outcome);
        }
    }

    // POD-360, as a kubelet 1.36.2 was recorded with a volume that cannot be mounted where it is to be.
    #[test]
    fn event_of_a_failed_start_names_the_container_in_place_of_its_id() {
        let id = "9cf4a6b1d5e8";
        let of = |id: Option<&str>| StepEnd {
            purpose: Purpose::Start { container: "f".to_owned() },
            step: Step::Start,
            outcome: Ok(StepReply::Elapsed),
            container: id.map(ContainerId::new),
        };
        let message = format!("\"/run/k8s.io/{id}/rootfs/proc/x\" cannot be mounted because it is inside /proc");
        let told = "\"/run/k8s.io/f/rootfs/proc/x\" cannot be mounted because it is inside /proc";
        assert_eq!(without_id(&message, &of(Some(id)), "f"), told);
        assert_eq!(without_id(&message, &of(None), "f"), message);
    }

    // POD-266, FINDINGS B11: `ttrpc: closed` when a container ends by itself while it is stopped.
    #[test]
    fn failed_stop_is_told_only_of_a_container_that_runs_on() {
        for (state, told) in [("Running", 1), ("Exited", 0)] {
            let now = Now { mono: Mono::ZERO, wall: jiff::Timestamp::UNIX_EPOCH };
            let pod: Arc<Pod> = Arc::new(serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}})).unwrap());
            let mut worker = PodWorker::new(now, PodUid::new("u"), pod, None);
            let mut seen = PodObservation::empty(PodUid::new("u"), Mono::ZERO);
            let container = json!({
                "id": "c", "sandbox": "s", "name": "main", "attempt": 0, "state": state, "created_at": 0, "started_at": 0,
                "finished_at": 0, "exit_code": 0, "reason": "", "message": "", "image": "", "image_ref": "", "image_id": "", "log_path": "",
                "labels": {}, "annotations": {}, "user": null, "resources": null, "termination_log": "", "stop_signal": "",
            });
            seen.containers.push(serde_json::from_value(container).unwrap());
            worker.observed(now, Ok(Arc::new(seen)));
            let end = StepEnd {
                purpose: Purpose::Kill { container: "main".to_owned() },
                step: Step::Stop { id: Some(ContainerId::new("c")), until: Mono::ZERO },
                outcome: Err(Failure::new(FailureKind::Other, "ttrpc: closed")),
                container: None,
            };
            let (mut ledger, mut actions, mut recorded) = (Ledger::default(), Vec::new(), Vec::new());
            // It is told after the next look, not at once: only that knows whether the container has ended.
            kill_step_ended(&mut worker, "main", &end, &mut Out::new(&mut ledger, &mut actions, &mut recorded));
            assert_eq!(recorded.len(), 0, "{state}");
            for _ in 0..2 {
                stops_failed(&mut worker, &mut Out::new(&mut ledger, &mut actions, &mut recorded));
            }
            assert_eq!(recorded.len(), told, "{state}");
        }
    }
}
