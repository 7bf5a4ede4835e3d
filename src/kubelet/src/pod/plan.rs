//! Plans one pod: from its phase, its spec and what was seen of it to the one batch that comes next. Called after every event
//! that touched the pod; asking again without a change asks for nothing.
//! Upstream: pkg/kubelet/kubelet.go (SyncPod, SyncTerminatingPod, SyncTerminatedPod), kuberuntime_manager.go (SyncPod).
//! Differs: level-triggered; each batch is planned from an observation that began after the one before it ended. While the runtime is not
//! ready, pods are looked at, reported and, if they are to stop, stopped all the same; upstream then does nothing at all. One whose
//! status call hangs is not taken for one that is not ready: a stuck CNI plugin must not stop the whole node.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::actions::{PodActions, VerdictsByName, compute_pod_actions};
use super::batch::{Batch, Stage};
use super::chain::{Chain, Purpose, Step};
use super::counted::count_failures;
use super::manager::{is_static, name_of};
use super::report;
use super::restart_all::{self, Reset, is_told};
use super::start::{Due, Started, back_off, start_batch};
use super::stop::{Kill, field_path_of, in_turn, kill_all, kill_batch, pod_grace, spec_of, until};
use super::worker::{ERROR_RETRY, Phase, PodWorker, call_limits};
use crate::action::{CriCall, HostCall};
use crate::backoff::start_failed;
use crate::facts::Fact;
use crate::ids::SandboxId;
use crate::observation::{MachineInfo, PodObservation, SandboxState};
use crate::out::Out;
use crate::parts::Parts;
use crate::recorder::{Recorded, Subject};
use crate::resources::cgroup::{pod_cgroup_name, pod_cgroup_settings};
use crate::time::{Now, earliest};
use crate::volumes::VolumesState;
use crate::work::Point;

/// Lets the batch that is under way begin its next steps.
pub fn go_on(worker: &mut PodWorker, parts: &mut Parts, now: Now, out: &mut Out<'_>) {
    let Some(batch) = &mut worker.batch else { return };
    let limits = call_limits(parts.config.pods.runtime_request_timeout);
    for end in batch.advance(now, &worker.uid, limits, out) {
        out.works_for(Point::StepsEnded, &worker.uid);
        report::step_ended(worker, parts, &end, out);
    }
}

/// Plans the pod once. True if it should be planned again at once: a phase changed.
pub fn plan(worker: &mut PodWorker, parts: &mut Parts, now: Now, out: &mut Out<'_>) -> bool {
    let limits = call_limits(parts.config.pods.runtime_request_timeout);
    // Of another pod, or of what this one was.
    parts.planned = None;
    go_on(worker, parts, now, out);
    if let Some(over) = worker.batch.as_ref().filter(|batch| batch.is_over()) {
        let took = over.took(now);
        let operation = match worker.phase {
            Phase::Syncing if worker.synced => "sync",
            Phase::Syncing => "create",
            _ => "kill",
        };
        worker.synced = true;
        out.count(Fact::PodSynced { operation, took });
        let failed = worker.end_batch(now).filter(|_| worker.phase != Phase::Finished);
        if let Some((wait, failed)) = failed.filter(|(wait, _)| !wait.is_zero()) {
            let until = now.mono + parts.rng.jitter(wait, 0.5);
            for (purpose, made) in failed {
                if let (Purpose::Start { container }, None) = (&purpose, &made) {
                    start_failed(&mut worker.backoffs, container);
                }
                worker.held.hold((purpose, made), until);
            }
        }
    }
    cut_short_for_termination(worker, parts, now, out);
    out.works_for(Point::Probe, &worker.uid);
    report::probe(worker, parts, now);
    report::report(worker, parts, now, out);
    if worker.is_changing() || worker.phase == Phase::Finished {
        return false;
    }
    if !parts.startup.is_done() {
        return false;
    }
    if worker.phase == Phase::Terminated && worker.batch.is_none() {
        // Nothing runs any more: what is left to do does not hang on the runtime.
        return clean_up(worker, parts, now, out);
    }
    let Some(seen) = worker.fresh().cloned() else {
        // Also while the host prepares something, or a step that failed is held back: neither hides that a container died.
        if !worker.look_waits(now) {
            worker.observe(limits.runtime, out);
        }
        return false;
    };
    parts.listings.hold(&worker.uid, &worker.pod, &seen);
    report::stops_failed(worker, out);
    if worker.batch.is_some() {
        return false;
    }
    match worker.phase {
        // POD-051: nothing is begun while the runtime says that it is not ready.
        Phase::Syncing if worker.in_line || parts.runtime.refuses_work() => false,
        Phase::Syncing => sync(worker, parts, now, &seen, out),
        Phase::Terminating => terminate(worker, parts, now, &seen, out),
        Phase::Terminated | Phase::Finished => false,
    }
}

/// POD-076: a pod that is to stop does not go on starting or pulling, and does not wait for a hook or a stop with a longer grace.
fn cut_short_for_termination(worker: &mut PodWorker, parts: &mut Parts, now: Now, out: &mut Out<'_>) {
    let Some(termination) = &worker.termination else { return };
    let grace = termination.grace;
    parts.images.give_up(&worker.uid, out);
    let Some(batch) = &mut worker.batch else { return };
    let stopping = batch.purposes().all(|p| matches!(p, Purpose::Kill { .. } | Purpose::StopSandbox));
    if !stopping {
        batch.cut_short();
        if batch.is_over() || batch.purposes().all(|p| matches!(p, Purpose::Start { .. })) {
            // A start in flight may hang in its hook; what it made is seen by the next look.
            worker.abandon_batch(now, out);
        }
    } else if worker.stopping_with.is_none_or(|with| grace < with) {
        worker.abandon_batch(now, out);
    }
}

fn sync(worker: &mut PodWorker, parts: &mut Parts, now: Now, seen: &PodObservation, out: &mut Out<'_>) -> bool {
    out.works_for(Point::Sync, &worker.uid);
    // What time alone changes is found anew: the active deadline here, back-offs where containers are started.
    worker.wake_at = None;
    if report::deadline_exceeded(worker, parts, now, out) || report::computed_phase_is_terminal(worker, parts) {
        worker.terminate(now, pod_grace(&worker.pod), None);
        return true;
    }
    if !network_allows(worker, parts, out) {
        return false;
    }
    parts.objects.register(now, &worker.pod, out);
    parts.runtime_classes.want(&worker.pod, out);
    if !worker.prepared {
        let batch = before_it_runs(worker, parts, now, seen, out);
        return begin(worker, batch);
    }
    out.works_for(Point::Volumes, &worker.uid);
    let volumes = parts.sync_volumes(worker, now, out);
    if is_told(parts.statuses.status(&worker.uid)) {
        return reset_all(worker, parts, now, seen, out);
    }
    let verdicts = verdicts(worker, parts, seen);
    let actions = compute_pod_actions(&worker.pod, seen, &verdicts, &worker.to_restart);
    match kills(worker, seen, &actions, now, out) {
        Kills::Nothing => {}
        Kills::Held => return false,
        Kills::Now(batch) => {
            worker.begin(batch);
            return true;
        }
    }
    if actions.kill_pod && actions.create_sandbox.is_none() {
        // Nothing of it runs, and nothing of it may run again: what never came to run has failed. (Upstream leaves it Pending.)
        worker.terminate(now, pod_grace(&worker.pod), None);
        return true;
    }
    match volumes {
        VolumesState::Ready => {}
        VolumesState::Waiting { .. } => return false,
        VolumesState::Failed { message } => {
            // It is the same trouble while the other volumes get ready one by one.
            let trouble = message.split_once("], ").map_or(message.as_str(), |(_, trouble)| trouble).to_owned();
            if worker.warn_once(&trouble) {
                out.record(Recorded::warning(Subject::Pod(worker.pod.clone()), "FailedMount", message));
            }
            return false;
        }
    }
    if let Some(attempt) = actions.create_sandbox {
        return create_sandbox(worker, parts, now, seen, attempt, out);
    }
    // A sandbox that an earlier life made tells nothing of them, and a container's configuration needs them too.
    let starts = !actions.inits.is_empty() || !actions.containers.is_empty();
    if starts && !read_node_files(worker, parts, now, out) {
        return false;
    }
    let errors = worker.start_errors.clone();
    let started = start_batch(worker, parts, now, seen, &actions, out);
    count_failures(worker, &errors, out);
    match started {
        Started::Batch(batch) => {
            worker.begin(batch);
            true
        }
        Started::Waits => {
            let waits = starts && seen.containers.iter().any(|c| worker.to_restart.contains(&c.id));
            if errors != worker.start_errors || waits != worker.restart_waits {
                worker.restart_waits = waits;
                report::report(worker, parts, now, out);
            }
            false
        }
    }
}

/// POD-128: all containers are removed, the sandbox and the logs stay. What is killed for it has no hook and the least grace.
fn reset_all(worker: &mut PodWorker, parts: &mut Parts, now: Now, seen: &PodObservation, out: &mut Out<'_>) -> bool {
    let all = seen.instances_by_name();
    for container in restart_all::asking(&worker.pod, seen) {
        let instances = all.get(container.name.as_str()).map(Vec::as_slice).unwrap_or_default();
        if let Some(wait) = back_off(worker, parts, now, Due { container: &container, instances }, out) {
            worker.wake_at = earliest([worker.wake_at, Some(now.mono + wait)]);
            report::report(worker, parts, now, out);
            return false;
        }
    }
    let mut chains = Vec::new();
    for Reset { container, kill } in restart_all::resets(&worker.pod, seen) {
        let purpose = Purpose::Kill { container: container.name.clone() };
        if worker.held.holds(&purpose, seen) {
            continue;
        }
        let mut steps = Vec::new();
        if kill {
            let subject = Subject::Container(worker.pod.clone(), field_path_of(&worker.pod, &container.name));
            out.record(Recorded::normal(subject, "Killing", "killing"));
            steps.push(Step::Stop { id: Some(container.id.clone()), until: now.mono });
        }
        steps.push(Step::Remove(container.id.clone()));
        chains.push(Chain::new(purpose, steps));
    }
    if chains.is_empty() {
        return false;
    }
    worker.start_errors.clear();
    worker.begin(Batch::new([Stage { in_order: true, chains }]));
    true
}

/// Begins what is to be done, unless it is held back.
fn begin(worker: &mut PodWorker, batch: Option<Batch>) -> bool {
    let begins = batch.is_some();
    batch.into_iter().for_each(|batch| worker.begin(batch));
    begins
}

/// What probes say of the newest instances.
fn verdicts(worker: &PodWorker, parts: &Parts, seen: &PodObservation) -> VerdictsByName {
    let mut verdicts = VerdictsByName::new();
    for container in &seen.containers {
        if !verdicts.contains_key(&container.name) {
            verdicts.insert(container.name.clone(), parts.prober.verdicts(&worker.uid, &container.name, &container.id));
        }
    }
    verdicts
}

/// POD-052
fn network_allows(worker: &mut PodWorker, parts: &Parts, out: &mut Out<'_>) -> bool {
    let host_network = worker.pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false);
    let Some(error) = parts.runtime.network_error().filter(|_| !host_network) else { return true };
    let message = format!("network is not ready: {error}");
    if worker.warn_once(&message) {
        out.record(Recorded::warning(Subject::Pod(worker.pod.clone()), "NetworkNotReady", message));
    }
    false
}

/// POD-101: what runs outside the pod's cgroup is stopped before that is made. It ran before the agent was told to keep cgroups, or
/// with another driver.
fn before_it_runs(worker: &PodWorker, parts: &Parts, now: Now, seen: &PodObservation, out: &mut Out<'_>) -> Option<Batch> {
    let is_held = worker.held.holds(&Purpose::Prepare, seen);
    if seen.live_containers().next().is_none() || !parts.config.cgroups.per_qos {
        return (!is_held).then(|| prepare(worker, parts));
    }
    match worker.in_cgroup {
        Some(true) | None if is_held => None,
        Some(true) => Some(prepare(worker, parts)),
        None => {
            let name = pod_cgroup_name(&worker.pod, &parts.config, parts.cgroup_driver());
            let look = Chain::new(Purpose::Prepare, [Step::Host(HostCall::CgroupExists { name })]);
            Some(Batch::new([Stage { in_order: true, chains: vec![look] }]))
        }
        Some(false) => {
            let kills = kill_all(seen, until(now, pod_grace(&worker.pod)));
            let (kills, sandboxes) = without_held(worker, seen, now, kills, sandboxes_to_stop(worker, seen));
            (!kills.is_empty() || !sandboxes.is_empty()).then(|| kill_batch(worker, seen, &kills, &sandboxes, out))
        }
    }
}

/// POD-101, POD-102
fn prepare(worker: &PodWorker, parts: &Parts) -> Batch {
    let mut steps = Vec::new();
    if parts.config.cgroups.per_qos {
        let name = pod_cgroup_name(&worker.pod, &parts.config, parts.cgroup_driver());
        let unknown = MachineInfo::default();
        let settings = pod_cgroup_settings(&worker.pod, &parts.config, parts.startup.machine().unwrap_or(&unknown));
        steps.push(Step::Host(HostCall::EnsureCgroup { name, settings }));
    }
    let spec = worker.pod.spec.as_ref();
    let containers = spec.map(|s| s.init_containers.iter().flatten().chain(&s.containers).map(|c| c.name.clone()).collect());
    let containers: Vec<String> = containers.unwrap_or_default();
    let log_directory = parts.pod_log_directory(&worker.pod);
    // LOG-004: what ran before may be gone from the runtime, but not its logs: they must not be written over.
    let was_there = |status: &ContainerStatus| status.container_id.is_some() || status.restart_count > 0;
    // A static pod's manifest knows nothing of its past.
    let ran = |name: &String| is_static(&worker.pod) || container_status(&worker.pod, name).is_some_and(was_there);
    let logs = containers.iter().filter(|name| ran(name)).map(|name| format!("{log_directory}/{name}"));
    let highest: Vec<Step> = logs.map(|directory| Step::Host(HostCall::HighestLog { directory })).collect();
    steps.push(Step::Host(HostCall::MakePodDirs { pod: worker.uid.clone(), containers, log_directory }));
    steps.extend(highest);
    Batch::new([Stage { in_order: true, chains: vec![Chain::new(Purpose::Prepare, steps)] }])
}

fn container_status<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    all.into_iter().find(|status| status.name == name)
}

/// What has to stop before anything is started.
enum Kills {
    Nothing,
    /// Something, but it failed a moment ago.
    Held,
    Now(Batch),
}

/// What of that is not held back. While the stop of a container is, the sandboxes stay, and so do the sidecars that wait for it.
fn without_held<'a>(
    worker: &PodWorker,
    seen: &PodObservation,
    now: Now,
    kills: Vec<Kill<'a>>,
    sandboxes: Vec<SandboxId>,
) -> (Vec<Kill<'a>>, Vec<SandboxId>) {
    let all = kills.len();
    let is_held = |kill: &Kill<'_>| worker.held.holds(&Purpose::Kill { container: kill.container.name.clone() }, seen);
    let kills = in_turn(&worker.pod, kills, now, is_held);
    let sandboxes_are_held = kills.len() < all || worker.held.holds(&Purpose::StopSandbox, seen);
    (kills, if sandboxes_are_held { Vec::new() } else { sandboxes })
}

/// Stops what has to stop before anything is started: the whole pod, or some containers (POD-118).
fn kills(worker: &mut PodWorker, seen: &PodObservation, actions: &PodActions, now: Now, out: &mut Out<'_>) -> Kills {
    if actions.kill_pod {
        let until = until(now, pod_grace(&worker.pod));
        let kills = kill_all(seen, until);
        let sandboxes = sandboxes_to_stop(worker, seen);
        if kills.is_empty() && sandboxes.is_empty() {
            return Kills::Nothing;
        }
        let (kills, sandboxes) = without_held(worker, seen, now, kills, sandboxes);
        if kills.is_empty() && sandboxes.is_empty() {
            return Kills::Held;
        }
        if actions.create_sandbox.is_some() && worker.warn_once("SandboxChanged") {
            let message = "Pod sandbox changed, it will be killed and re-created.";
            out.record(Recorded::normal(Subject::Pod(worker.pod.clone()), "SandboxChanged", message));
        }
        return Kills::Now(kill_batch(worker, seen, &kills, &sandboxes, out));
    }
    if actions.kills.is_empty() {
        return Kills::Nothing;
    }
    let mut kills = Vec::new();
    let there: BTreeMap<_, _> = seen.containers.iter().map(|c| (&c.id, c)).collect();
    if actions.kills.iter().any(|kill| kill.restart) {
        worker.to_restart.retain(|id| there.contains_key(id));
    }
    for kill in &actions.kills {
        let Some(&container) = there.get(&kill.id) else { continue };
        let grace = kill.by_probe.and_then(|kind| probe_grace(worker, &kill.name, kind)).unwrap_or_else(|| pod_grace(&worker.pod));
        if kill.restart {
            worker.to_restart.insert(kill.id.clone());
        }
        kills.push(Kill { container, message: kill.message.clone(), until: until(now, grace) });
    }
    let (kills, _) = without_held(worker, seen, now, kills, Vec::new());
    if kills.is_empty() { Kills::Held } else { Kills::Now(kill_batch(worker, seen, &kills, &[], out)) }
}

/// POD-253: a probe's own grace, unless the pod is being deleted.
fn probe_grace(worker: &PodWorker, name: &str, kind: crate::prober::spec::ProbeKind) -> Option<Duration> {
    use crate::prober::spec::ProbeKind;
    if worker.pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let spec = spec_of(&worker.pod, name)?;
    let probe = match kind {
        ProbeKind::Startup => spec.startup_probe.as_ref(),
        ProbeKind::Liveness => spec.liveness_probe.as_ref(),
        ProbeKind::Readiness => None,
    };
    let seconds = probe?.termination_grace_period_seconds?;
    Some(Duration::from_secs(u64::try_from(seconds).ok()?))
}

/// Sandboxes that are up, and dead ones that were not stopped in this life: their network must be torn down too (CRI-012).
fn sandboxes_to_stop(worker: &PodWorker, seen: &PodObservation) -> Vec<SandboxId> {
    seen.sandboxes
        .iter()
        .filter(|s| s.state == SandboxState::Ready || !worker.stopped_sandboxes.contains(&s.id))
        .map(|s| s.id.clone())
        .collect()
}

/// Whether the node's files were read since the pod came, and not long ago; if not, the pod is woken when they are.
fn read_node_files(worker: &PodWorker, parts: &mut Parts, now: Now, out: &mut Out<'_>) -> bool {
    let Parts { node_files, config, .. } = parts;
    node_files.ensure(now, (&worker.uid, worker.born), &config.dns.resolv_conf, out)
}

fn create_sandbox(
    worker: &mut PodWorker,
    parts: &mut Parts,
    now: Now,
    seen: &PodObservation,
    attempt: u32,
    out: &mut Out<'_>,
) -> bool {
    if worker.held.holds(&Purpose::Sandbox, seen) {
        return false;
    }
    let attempt = attempt.max(worker.sandbox_floor);
    out.works_for(Point::Sandbox, &worker.uid);
    if !read_node_files(worker, parts, now, out) {
        return false;
    }
    let handler = match parts.runtime_classes.handler(&worker.pod) {
        Err(None) => return false,
        Err(Some(message)) => Err(message),
        Ok(handler) => Ok(handler),
    };
    let room = handler.and_then(|handler| {
        parts.listings.claim(&worker.uid, &worker.pod, worker.is_of_the_node(), seen)?;
        Ok((parts.sandbox_config(&worker.pod, attempt, out)?, handler))
    });
    match room {
        Ok((config, runtime_handler)) => {
            worker.sandbox_attempt = attempt;
            let step = Step::RunSandbox(CriCall::RunPodSandbox { config, runtime_handler });
            let chain = Chain::new(Purpose::Sandbox, [step]);
            worker.begin(Batch::new([Stage { in_order: true, chains: vec![chain] }]));
            true
        }
        Err(message) => {
            // Figures change from try to try: it is the same trouble.
            let trouble = message.replace(|c: char| c.is_ascii_digit(), "");
            report::sandbox_failed(worker, &trouble, &message, out);
            worker.held.hold((Purpose::Sandbox, None), now.mono + parts.rng.jitter(ERROR_RETRY, 0.5));
            false
        }
    }
}

/// POD-265
fn terminate(worker: &mut PodWorker, parts: &mut Parts, now: Now, seen: &PodObservation, out: &mut Out<'_>) -> bool {
    out.works_for(Point::Terminate, &worker.uid);
    let until = worker.grace_ends(now).max(until(now, Duration::ZERO));
    let kills = kill_all(seen, until);
    let sandboxes = sandboxes_to_stop(worker, seen);
    if kills.is_empty() && sandboxes.is_empty() {
        worker.phase = Phase::Terminated;
        parts.prober.remove_pod(&worker.uid);
        parts.images.forget(&worker.uid);
        parts.listings.end(&worker.uid, seen);
        // prober/worker.go (run): its series go with its probes.
        out.count(Fact::PodForgotten { name: name_of(&worker.pod), uid: worker.uid.clone() });
        return true;
    }
    let (kills, sandboxes) = without_held(worker, seen, now, kills, sandboxes);
    if kills.is_empty() && sandboxes.is_empty() {
        return false;
    }
    let batch = kill_batch(worker, seen, &kills, &sandboxes, out).patient();
    worker.stopping_with = worker.termination.as_ref().map(|t| t.grace);
    worker.begin(batch);
    true
}

/// POD-268: volumes, then object references, then the cgroup; then the pod is finished.
fn clean_up(worker: &mut PodWorker, parts: &mut Parts, now: Now, out: &mut Out<'_>) -> bool {
    out.works_for(Point::CleanUp, &worker.uid);
    if !parts.volumes.tear_down(now, &worker.uid, out) {
        return false;
    }
    parts.objects.unregister(&worker.uid, out);
    parts.tokens.forget(&worker.uid);
    if parts.config.cgroups.per_qos && !worker.cgroup_removed && !worker.adopted {
        if worker.held.holds(&Purpose::RemoveCgroup, &worker.seen()) {
            return false;
        }
        let name = pod_cgroup_name(&worker.pod, &parts.config, parts.cgroup_driver());
        let step = Step::Host(HostCall::RemoveCgroup { name });
        worker.begin(Batch::new([Stage { in_order: true, chains: vec![Chain::new(Purpose::RemoveCgroup, [step])] }]));
        return true;
    }
    worker.phase = Phase::Finished;
    true
}
