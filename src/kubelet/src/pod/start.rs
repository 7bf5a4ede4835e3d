//! Decides how containers are started: which image, after which back-off, with which configuration, in which order.
//! Upstream: pkg/kubelet/kuberuntime/{kuberuntime_manager,kuberuntime_container}.go (SyncPod, startContainer).
//! Differs: images are fetched side by side; a container that never started is removed before its next instance is made.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, ContainerStatus as ApiStatus};
use proto::cri::{ImageSpec, PodSandboxConfig};

use super::actions::PodActions;
use super::batch::{Batch, Stage};
use super::chain::{Chain, Purpose, Step};
use super::configs::ContainerPlan;
use super::image_volumes::{ImageVolumes, image_volumes, looks_anew};
use super::report::set_error;
use super::stop::{field_path_of, hook_of, pod_grace};
use super::worker::PodWorker;
use crate::action::CriCall;
use crate::backoff::{Ended, restart_wait, start_failed};
use crate::facts::{ContainerType, Fact};
use crate::images::{ImageNeed, ImageState, ResolvedImage};
use crate::limits::{BATCH_BYTES, Room};
use crate::observation::{ContainerState, ContainerStatus, PodObservation};
use crate::out::Out;
use crate::parts::{Parts, PlanError, Wanted, config_error};
use crate::recorder::{Recorded, Subject};
use crate::time::{Now, earliest, go_seconds};

/// What came of planning to start.
#[derive(Debug)]
pub enum Started {
    /// These containers can be started now.
    Batch(Batch),
    /// Nothing can, now: an image or a back-off is waited for, or there is nothing to start.
    Waits,
}

/// A container that is due to be started, and its instances so far, the authoritative one first.
#[derive(Clone, Copy)]
pub(super) struct Due<'a> {
    pub(super) container: &'a Container,
    pub(super) instances: &'a [&'a ContainerStatus],
}

/// Whether a container can be started now.
enum Readiness {
    Now(ResolvedImage, BTreeMap<String, ImageSpec>),
    /// It and those behind it wait (its image is on its way).
    HoldsOthers,
    /// It waits or failed; those behind it do not.
    Skipped,
}

/// Starts what is to be started and can be (POD-117, POD-118).
pub fn start_batch(
    worker: &mut PodWorker,
    parts: &mut Parts,
    now: Now,
    seen: &PodObservation,
    actions: &PodActions,
    out: &mut Out<'_>,
) -> Started {
    let Some(spec) = worker.pod.spec.clone() else { return Started::Waits };
    let mut wanted: Vec<Container> = Vec::new();
    let inits = spec.init_containers.unwrap_or_default();
    for at in &actions.inits {
        wanted.extend(inits.get(*at).cloned());
    }
    for at in &actions.containers {
        wanted.extend(spec.containers.get(*at).cloned());
    }
    let mut chains: Vec<Chain> = Vec::new();
    let all = seen.instances_by_name();
    let (mut held, mut bytes) = (false, 0);
    for container in &wanted {
        if worker.held.holds(&Purpose::Start { container: container.name.clone() }, seen) {
            continue;
        }
        // Asked for all of them, also behind one that waits: their images come meanwhile.
        let instances = all.get(container.name.as_str()).map(Vec::as_slice).unwrap_or_default();
        let readiness = readiness(worker, parts, now, seen, Due { container, instances }, out);
        if held {
            continue;
        }
        match readiness {
            Readiness::Now(image, image_volumes) => {
                let mut room = Room::of_container();
                let attempt = next_attempt(worker, instances, &container.name);
                let wanted = Wanted { container, attempt, image: &image, image_volumes: &image_volumes, room: &mut room };
                chains.extend(start_chain(worker, parts, now, seen, (wanted, instances.first().copied()), out));
                bytes += room.taken();
                held = bytes > BATCH_BYTES;
            }
            Readiness::HoldsOthers => held = true,
            Readiness::Skipped => {}
        }
    }
    if chains.is_empty() {
        return Started::Waits;
    }
    Started::Batch(Batch::new([Stage { in_order: true, chains }]))
}

fn readiness(
    worker: &mut PodWorker,
    parts: &mut Parts,
    now: Now,
    seen: &PodObservation,
    due: Due<'_>,
    out: &mut Out<'_>,
) -> Readiness {
    let container = due.container;
    if let Some(wait) = back_off(worker, parts, now, due, out) {
        worker.wake_at = earliest([worker.wake_at, Some(now.mono + wait)]);
        return Readiness::Skipped;
    }
    let field_path = field_path_of(&worker.pod, &container.name);
    let image = container.image.clone().unwrap_or_default();
    let secrets = parts.pull_secrets(&worker.pod);
    if secrets.pending {
        // Without it the registry may refuse, and that costs a back-off.
        return Readiness::HoldsOthers;
    }
    pull_secrets_missing(worker, &secrets.missing, out);
    let sandbox_config = match config_of_pulls(worker, parts, seen, container) {
        Ok(config) => config,
        Err(error) => {
            config_failed(worker, parts, now, container, error, out);
            return Readiness::Skipped;
        }
    };
    let volumes = match image_volumes(worker, parts, now, container, &secrets.found, sandbox_config.as_ref(), out) {
        ImageVolumes::Ready(volumes) => volumes,
        ImageVolumes::OnTheirWay => return Readiness::HoldsOthers,
        ImageVolumes::Failed => return Readiness::Skipped,
    };
    let need = ImageNeed {
        pod: &worker.pod,
        uid: &worker.uid,
        name: &container.name,
        field_path: &field_path,
        image: &image,
        policy: container.image_pull_policy.as_deref().unwrap_or("IfNotPresent"),
        secrets: &secrets.found,
        sandbox_config,
    };
    match parts.images.ensure(now, &need, out) {
        ImageState::Ready(image) => Readiness::Now(image, volumes),
        ImageState::Pending => Readiness::HoldsOthers,
        ImageState::Failed { reason, message } => {
            set_error(worker, &container.name, &reason, message);
            Readiness::Skipped
        }
    }
}

/// CRI-034: the sandbox's configuration as pulls are told it: where the image is unpacked, which policy it must meet, and whose cgroup the
/// pull is charged to may hang on it. It is made only if an image is looked for anew, for this is asked with each plan.
fn config_of_pulls(
    worker: &PodWorker,
    parts: &mut Parts,
    seen: &PodObservation,
    container: &Container,
) -> Result<Option<Arc<PodSandboxConfig>>, PlanError> {
    let image = container.image.as_deref().unwrap_or_default();
    let begins = parts.images.begins(&worker.uid, &container.name, image);
    if !begins && !looks_anew(&parts.images, &worker.uid, &worker.pod, container) {
        return Ok(None);
    }
    let Some(sandbox) = seen.sandboxes.first() else { return Err(None) };
    parts.sandbox_config_of_pull(&worker.pod, sandbox.attempt).map(Some).map_err(config_error)
}

/// A container waits, for its configuration cannot be made: with the reason, unless something is still on its way.
fn config_failed(worker: &mut PodWorker, parts: &mut Parts, now: Now, container: &Container, error: PlanError, out: &mut Out<'_>) {
    let Some((reason, message)) = error else { return };
    if worker.warn_once(&format!("{}: {message}", container.name)) {
        let subject = Subject::Container(Arc::clone(&worker.pod), field_path_of(&worker.pod, &container.name));
        out.record(Recorded::warning(subject, "Failed", format!("Error: {message}")));
    }
    set_error(worker, &container.name, &reason, message);
    // doBackOff: `Next` in each pass, whatever a start fails with.
    start_failed(&mut worker.backoffs, &container.name);
    worker.wake_at = earliest([worker.wake_at, Some(now.mono + parts.rng.jitter(super::worker::ERROR_RETRY, 0.5))]);
}

/// POD-104
fn pull_secrets_missing(worker: &mut PodWorker, missing: &[String], out: &mut Out<'_>) {
    let message = format!(
        "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
        missing.join(", ")
    );
    if !missing.is_empty() && worker.warn_once(&message) {
        out.record(Recorded::warning(Subject::Pod(Arc::clone(&worker.pod)), "FailedToRetrieveImagePullSecret", message));
    }
}

/// POD-225: how long a container that has ended still waits; it then shows why.
pub(super) fn back_off(
    worker: &mut PodWorker,
    parts: &Parts,
    now: Now,
    Due { container, instances }: Due<'_>,
    out: &mut Out<'_>,
) -> Option<std::time::Duration> {
    let newest = *instances.first().filter(|c| c.state == ContainerState::Exited)?;
    let before = || instances.iter().skip(1).copied().find(|c| c.state == ContainerState::Exited);
    let stopped_after = worker.to_restart.contains(&newest.id).then(before);
    let most = parts.config.pods.max_container_restart_period;
    let (total, left) = restart_wait(&mut worker.backoffs, container, Ended { newest, stopped_after }, most, now)?;
    let name = &container.name;
    let pod = crate::pod::manager::name_of(&worker.pod);
    let message = format!("back-off {} restarting failed container={name} pod={pod}({})", go_seconds(total), worker.uid);
    if worker.warn_once(&format!("{name} {}", newest.id)) {
        let subject = Subject::Container(Arc::clone(&worker.pod), field_path_of(&worker.pod, name));
        let text = format!("Back-off restarting failed container {name} in pod {pod}({})", worker.uid);
        out.record(Recorded::warning(subject, "BackOff", text));
    }
    set_error(worker, name, "CrashLoopBackOff", message);
    Some(left)
}

/// POD-129: the instance's number: one more than any other's, or what the logs tell. Of a container that was lost, which has no ID any
/// more, it was told already that it is restarted (POD-294).
fn next_attempt(worker: &PodWorker, instances: &[&ContainerStatus], name: &str) -> u32 {
    let reported = worker.pod.status.iter().flat_map(|s| s.container_statuses.iter().chain(&s.init_container_statuses).flatten());
    let next = |c: &ApiStatus| c.restart_count.saturating_add(i32::from(c.container_id.is_some()));
    let reported = reported.filter(|c| c.name == name).map(next).max();
    let floor = worker.log_floor.get(name).copied().unwrap_or(0).max(u32::try_from(reported.unwrap_or(0)).unwrap_or(0));
    instances.iter().map(|instance| instance.attempt.saturating_add(1)).max().unwrap_or(floor)
}

/// The steps that start one container, or `None` if its configuration cannot be made: then it waits with the reason.
fn start_chain(
    worker: &mut PodWorker,
    parts: &mut Parts,
    now: Now,
    seen: &PodObservation,
    (wanted, newest): (Wanted<'_>, Option<&ContainerStatus>),
    out: &mut Out<'_>,
) -> Option<Chain> {
    let container = wanted.container;
    let plan = match parts.container_plan(worker, seen, wanted, out) {
        Ok(plan) => plan,
        Err(error) => {
            config_failed(worker, parts, now, container, error, out);
            return None;
        }
    };
    let ContainerPlan { config, sandbox, sandbox_config, files, log_target, link_prefix } = plan;
    let mut steps: Vec<Step> = files.into_iter().map(Step::Host).collect();
    // A start that this agent, or the one before it, knows nothing of may still be under way: what may yet begin to run is
    // removed before another instance is made.
    let unborn = newest.filter(|newest| newest.state == ContainerState::Created);
    steps.extend(unborn.map(|unborn| Step::Remove(unborn.id.clone())));
    steps.push(Step::Create(CriCall::CreateContainer { sandbox, config: Box::new(config), sandbox_config }));
    steps.push(Step::Start);
    steps.push(Step::LinkLog { target: log_target, prefix: link_prefix });
    if let Some(handler) = container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) {
        let ips = parts.pod_ips(&worker.pod, seen);
        let ip = ips.first().map(String::as_str).or_else(|| worker.pod_ip());
        let pre_stop = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref());
        steps.push(Step::PostStart {
            hook: hook_of(handler, container, None, ip),
            pre_stop: pre_stop.map(|handler| hook_of(handler, container, None, ip)),
            grace: pod_grace(&worker.pod),
        });
    }
    out.count(Fact::StartBegan(ContainerType::of(&worker.pod, &container.name)));
    Some(Chain::new(Purpose::Start { container: container.name.clone() }, steps))
}
