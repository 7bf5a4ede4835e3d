//! Decides how containers are stopped: in which order, with which hook, within which grace.
//! Upstream: pkg/kubelet/kuberuntime/{kuberuntime_container,kuberuntime_termination_order}.go.
//! Differs: nothing on purpose.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};

use super::batch::{Batch, Stage};
use super::chain::{Chain, MINIMUM_GRACE, Purpose, Step};
use super::hook::Hook;
use super::restart::is_sidecar;
use super::worker::PodWorker;
use crate::action::ProbeCall;
use crate::ids::{ContainerId, SandboxId};
use crate::observation::{ContainerState, ContainerStatus, PodObservation};
use crate::out::Out;
use crate::prober::spec::resolve_port;
use crate::recorder::{Recorded, Subject};
use crate::time::{Mono, Now};

/// One container to stop.
#[derive(Clone, Debug)]
pub struct Kill<'a> {
    /// What runs.
    pub container: &'a ContainerStatus,
    /// The message of the event `Killing` (POD-120, POD-266).
    pub message: String,
    /// When its grace ends.
    pub until: Mono,
}

/// The spec of a container by name, in whichever list it stands.
#[must_use]
pub fn spec_of<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    let spec = pod.spec.as_ref()?;
    spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|c| c.name == name)
}

/// The field path of a container by name (POD-360).
#[must_use]
pub fn field_path_of(pod: &Pod, name: &str) -> String {
    let list = match &pod.spec {
        Some(spec) if spec.init_containers.iter().flatten().any(|c| c.name == name) => "initContainers",
        Some(spec) if spec.ephemeral_containers.iter().flatten().any(|c| c.name == name) => "ephemeralContainers",
        _ => CONTAINERS,
    };
    path_in(list, name)
}

const CONTAINERS: &str = "containers";

fn path_in(list: &str, name: &str) -> String {
    format!("spec.{list}{{{name}}}")
}

/// Where a container stands in the spec.
struct Place<'a> {
    list: &'static str,
    /// `None` of an ephemeral one.
    spec: Option<&'a Container>,
    /// Of a sidecar: how many init containers are before it.
    sidecar: Option<usize>,
}

/// The rank of what nobody waits for: plain init containers, ephemeral ones, and those of which the spec knows nothing.
const LAST: usize = 0;
/// The rank of regular containers.
const FIRST: usize = usize::MAX;

impl Place<'_> {
    /// Whose end comes first: whatever has a lower rank waits for it. Sidecars go from the last to the first, after everything else
    /// (kuberuntime_termination_order.go).
    fn rank(place: Option<&Self>) -> usize {
        let Some(place) = place else { return LAST };
        let regular = if place.list == CONTAINERS { FIRST } else { LAST };
        place.sidecar.unwrap_or(regular)
    }

    /// Whether it waits for those of a higher rank.
    fn waits(place: Option<&Self>) -> bool {
        place.is_some_and(|place| place.sidecar.is_some())
    }
}

/// Where each container of a pod stands: looked up for each that is stopped, of which there may be thousands.
fn places(pod: &Pod) -> BTreeMap<&str, Place<'_>> {
    let Some(spec) = &pod.spec else { return BTreeMap::new() };
    let regular = spec.containers.iter().map(|c| (c.name.as_str(), Place { list: CONTAINERS, spec: Some(c), sidecar: None }));
    let init = spec.init_containers.iter().flatten().enumerate().map(|(at, c)| {
        let sidecar = is_sidecar(c).then_some(at);
        (c.name.as_str(), Place { list: "initContainers", spec: Some(c), sidecar })
    });
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let ephemeral = ephemeral.map(|c| (c.name.as_str(), Place { list: "ephemeralContainers", spec: None, sidecar: None }));
    regular.chain(init).chain(ephemeral).collect()
}

/// What of that is stopped now, while the stops of some are held back: while their grace lasts, the sidecars that wait for those wait on
/// (kuberuntime_container.go, killContainer: who waits is told of a stop that went well alone).
#[must_use]
pub fn in_turn<'a>(pod: &Pod, kills: Vec<Kill<'a>>, now: Now, is_held: impl Fn(&Kill<'_>) -> bool) -> Vec<Kill<'a>> {
    let all = kills.len();
    let (held, kills): (Vec<_>, Vec<_>) = kills.into_iter().partition(is_held);
    if kills.is_empty() || kills.len() == all {
        return kills;
    }
    let places = places(pod);
    let place_of = |kill: &Kill<'_>| places.get(kill.container.name.as_str());
    let lasts = held.iter().filter(|kill| kill.until > now.mono + MINIMUM_GRACE);
    let highest = lasts.map(|kill| Place::rank(place_of(kill))).max();
    let goes = |kill: &Kill<'_>| !Place::waits(place_of(kill)) || highest <= Some(Place::rank(place_of(kill)));
    kills.into_iter().filter(goes).collect()
}

/// The batch that stops those containers: the hooks of all begin at once; regular ones are stopped side by side, then the sidecars
/// from the last to the first, but what waits when its grace is over waits no longer (POD-267). Then the sandboxes, unless the pod must be looked at again first. Hooks that have run do not run again.
#[must_use]
pub fn kill_batch(
    worker: &PodWorker,
    seen: &PodObservation,
    kills: &[Kill<'_>],
    sandboxes: &[SandboxId],
    out: &mut Out<'_>,
) -> Batch {
    let pod = &worker.pod;
    let places = places(pod);
    let place_of = |kill: &Kill<'_>| places.get(kill.container.name.as_str());
    let last = kills.iter().map(|kill| Place::rank(place_of(kill))).max();
    let mut stages = Vec::new();
    let mut chains = Vec::new();
    for kill in kills {
        let (name, place) = (&kill.container.name, place_of(kill));
        let path = path_in(place.map_or(CONTAINERS, |place| place.list), name);
        let subject = Subject::Container(Arc::clone(pod), path);
        out.record(Recorded::normal(subject, "Killing", kill.message.clone()));
        chains.push(kill_chain(worker, kill, place, Place::waits(place) && last > Some(Place::rank(place))));
    }
    if !chains.is_empty() {
        stages.push(Stage { in_order: false, chains });
    }
    // One that was made may start meanwhile, of a call that was withdrawn: with the sandbox it would lose its grace.
    let may_start = !kills.is_empty() && seen.containers.iter().any(|c| c.state == ContainerState::Created);
    if !sandboxes.is_empty() && !may_start {
        let stop = |id: &SandboxId| Chain::new(Purpose::StopSandbox, [Step::StopSandbox(id.clone())]);
        stages.push(Stage { in_order: false, chains: sandboxes.iter().map(stop).collect() });
    }
    // Once: a stop that always hangs does not hold the pod for ever.
    let again = kills.iter().all(|kill| worker.unanswered.contains(&kill.container.id));
    let batch = Batch::new(stages);
    if sandboxes.is_empty() || again { batch } else { batch.looks_again() }
}

fn kill_chain(worker: &PodWorker, kill: &Kill<'_>, place: Option<&Place<'_>>, waits: bool) -> Chain {
    let name = kill.container.name.clone();
    let mut steps = Vec::new();
    let has_run = worker.hooked.contains(&kill.container.id);
    if let Some(hook) = pre_stop(place.and_then(|place| place.spec), kill.container, worker.pod_ip()).filter(|_| !has_run) {
        steps.push(Step::PreStop { of: kill.container.id.clone(), hook, until: kill.until });
    }
    if waits {
        steps.push(Step::AwaitTurn { until: kill.until });
    }
    steps.push(Step::Stop { id: Some(kill.container.id.clone()), until: kill.until });
    Chain::new(Purpose::Kill { container: name }, steps).ranked(Place::rank(place))
}

/// The preStop hook from the spec; without one, from the container's annotation (LOG-002).
fn pre_stop(spec: Option<&Container>, container: &ContainerStatus, pod_ip: Option<&str>) -> Option<Hook> {
    match spec {
        Some(spec) => {
            let handler = spec.lifecycle.as_ref()?.pre_stop.as_ref()?;
            Some(hook_of(handler, spec, Some(&container.id), pod_ip))
        }
        None => {
            let text = container.annotations.get("io.kubernetes.container.preStopHandler")?;
            let handler: LifecycleHandler = serde_json::from_str(text).ok()?;
            Some(hook_of(&handler, &as_labelled(container), Some(&container.id), pod_ip))
        }
    }
}

/// What of a container's spec its hook goes by, as far as its annotations keep it (kuberuntime_container.go,
/// restoreSpecsFromContainerLabels): a hook may name a port.
fn as_labelled(container: &ContainerStatus) -> Container {
    let ports = container.annotations.get("io.kubernetes.container.ports").and_then(|text| serde_json::from_str(text).ok());
    Container { name: container.name.clone(), ports, ..Container::default() }
}

/// What a lifecycle handler means (POD-230). `container` is `None` for a postStart hook, which runs in the container just started.
#[must_use]
pub fn hook_of(handler: &LifecycleHandler, spec: &Container, container: Option<&ContainerId>, pod_ip: Option<&str>) -> Hook {
    if let Some(exec) = &handler.exec {
        return Hook::Exec { container: container.cloned(), command: exec.command.clone().unwrap_or_default() };
    }
    if let Some(sleep) = &handler.sleep {
        return Hook::Sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0)));
    }
    let Some(http) = &handler.http_get else { return Hook::Broken("invalid handler".to_owned()) };
    let Some(host) = http.host.as_deref().filter(|h| !h.is_empty()).or(pod_ip) else {
        return Hook::Broken("failed to find networking container: pod has no IP".to_owned());
    };
    match resolve_port(&http.port, spec) {
        Ok(port) => Hook::Http(ProbeCall::Http {
            scheme: http.scheme.clone().unwrap_or_else(|| "HTTP".to_owned()).to_ascii_lowercase(),
            host: host.to_owned(),
            port,
            path: http.path.clone().unwrap_or_else(|| "/".to_owned()),
            headers: http.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect(),
            lifecycle: true,
        }),
        Err(why) => Hook::Broken(why),
    }
}

/// When the grace of containers that are all stopped now ends.
#[must_use]
pub fn until(now: Now, grace: Duration) -> Mono {
    now.mono + grace.max(MINIMUM_GRACE)
}

/// The grace that a pod has by its object.
#[must_use]
pub fn pod_grace(pod: &Pod) -> Duration {
    let seconds = pod
        .metadata
        .deletion_grace_period_seconds
        .or_else(|| pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds))
        .unwrap_or(DEFAULT_GRACE_SECONDS);
    // POD-077: never less than a second.
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0).max(1))
}

/// The API's default; it is always set in practice.
const DEFAULT_GRACE_SECONDS: i64 = 30;

/// Everything of a pod that may run, with one message and one end of grace.
#[must_use]
pub fn kill_all(observation: &PodObservation, until: Mono) -> Vec<Kill<'_>> {
    observation
        .live_containers()
        .map(|container| Kill { container, message: format!("Stopping container {}", container.name), until })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::action::{Call, CriCall};
    use crate::event::CriReply;
    use crate::ids::PodUid;
    use crate::out::Ledger;
    use crate::pod::chain::{CallLimits, StepReply};

    // LOG-002: kuberuntime_container.go (restoreSpecsFromContainerLabels) reads the ports as well, and lifecycle/handlers.go looks the
    // name up among them.
    #[test]
    fn hook_of_a_container_without_a_pod_knows_its_ports() {
        let mut pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": []}})).unwrap();
        let lifecycle = json!({"preStop": {"httpGet": {"path": "/drain", "port": "web", "scheme": "HTTP"}}});
        let container = json!({"name": "main", "lifecycle": lifecycle, "ports": [
            {"name": "metrics", "containerPort": 9090, "protocol": "TCP"}, {"name": "web", "containerPort": 8080, "protocol": "TCP"}]});
        let container: Container = serde_json::from_value(container).unwrap();
        let annotations = crate::pod::labels::container_annotations(&pod, &container, 0);
        let seen = json!({"id": "c", "sandbox": "s", "name": "main", "attempt": 0, "state": "Running", "created_at": 1, "started_at": 2,
            "finished_at": 0, "exit_code": 0, "reason": "", "message": "", "image": "", "image_ref": "", "image_id": "", "log_path": "",
            "labels": {}, "annotations": annotations, "user": null, "resources": null, "termination_log": "", "stop_signal": ""});
        let seen: ContainerStatus = serde_json::from_value(seen).unwrap();
        let orphan = pre_stop(None, &seen, Some("10.0.0.7"));
        let Some(Hook::Http(ProbeCall::Http { host, port, path, .. })) = &orphan else { panic!("{orphan:?}") };
        assert_eq!((host.as_str(), *port, path.as_str()), ("10.0.0.7", 8080, "/drain"));
        pod.spec.as_mut().unwrap().containers = vec![container];
        assert_eq!(
            format!("{:?}", pre_stop(spec_of(&pod, "main"), &seen, Some("10.0.0.7"))),
            format!("{orphan:?}"),
            "as with its pod"
        );
    }

    // POD-168: of a hook's command nothing is expanded, not even what the spec itself gives.
    #[test]
    fn variables_in_a_hooks_command_stay() {
        let container: Container = serde_json::from_value(json!({
            "name": "main",
            "env": [{"name": "HOME", "value": "/root"}],
            "lifecycle": {"preStop": {"exec": {"command": ["ls", "$(HOME)", "$$"]}}},
        }))
        .unwrap();
        let handler = container.lifecycle.as_ref().unwrap().pre_stop.as_ref().unwrap();
        let Hook::Exec { command, .. } = hook_of(handler, &container, None, None) else { panic!("an exec hook") };
        assert_eq!(command, ["ls", "$(HOME)", "$$"]);
    }

    /// A container of that name and ID that runs.
    fn runs(name: &str) -> ContainerStatus {
        serde_json::from_value(json!({
            "id": name, "sandbox": "s", "name": name, "attempt": 0, "state": "Running", "created_at": 0, "started_at": 0,
            "finished_at": 0, "exit_code": 0, "reason": "", "message": "", "image": "", "image_ref": "", "image_id": "", "log_path": "",
            "labels": {}, "annotations": {}, "user": null, "resources": null, "termination_log": "", "stop_signal": "",
        }))
        .unwrap()
    }

    // POD-267: kuberuntime_termination_order.go: regular containers side by side, then the sidecars from the last to the first. With
    // thousands of them each is looked up once, and none has a list of whom it waits for: a square of them would not end here.
    #[test]
    fn thousands_of_sidecars_stop_in_their_order() {
        const EACH: usize = 1500;
        let spec = |name: String, more: serde_json::Value| {
            let mut spec = json!({"name": name, "image": "i"});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            spec
        };
        let pod = json!({"metadata": {"name": "p", "uid": "u"}, "spec": {
            "containers": (0..EACH).map(|i| spec(format!("c{i}"), json!({}))).collect::<Vec<_>>(),
            "initContainers": (0..EACH).map(|i| spec(format!("s{i}"), json!({"restartPolicy": "Always"}))).collect::<Vec<_>>(),
        }});
        let now = Now { mono: Mono::ZERO, wall: jiff::Timestamp::UNIX_EPOCH };
        let worker = PodWorker::new(now, PodUid::new("u"), Arc::new(serde_json::from_value(pod).unwrap()), None);
        let mut seen = PodObservation::empty(PodUid::new("u"), Mono::ZERO);
        for number in 0..2 * EACH {
            let name = if number < EACH { format!("s{number}") } else { format!("c{}", number - EACH) };
            seen.containers.push(runs(&name));
        }
        let (mut ledger, mut actions, mut recorded) = (Ledger::default(), Vec::new(), Vec::new());
        let limits = CallLimits { runtime: Duration::from_secs(1), host: Duration::from_secs(1) };
        let kills = kill_all(&seen, Mono::ZERO + Duration::from_secs(3600));
        let mut batch = kill_batch(&worker, &seen, &kills, &[], &mut Out::new(&mut ledger, &mut actions, &mut recorded));
        let mut stopped = Vec::new();
        while !batch.is_over() {
            actions.clear();
            batch.advance(now, &PodUid::new("u"), limits, &mut Out::new(&mut ledger, &mut actions, &mut recorded));
            for action in &actions {
                let Call::Cri(CriCall::StopContainer { id, .. }) = &action.call else { panic!("{action:?}") };
                stopped.push(id.to_string());
                batch.done(action.id, Ok(StepReply::Cri(CriReply::Done)));
            }
        }
        let of = |kind: &'static str, number: usize| format!("{kind}{number}");
        let expected = (0..EACH).map(|i| of("c", i)).chain((0..EACH).rev().map(|i| of("s", i)));
        assert!(stopped.iter().cloned().eq(expected), "{:?}", &stopped[..10]);
        let paths = recorded.iter().filter(|one| format!("{one:?}").contains("spec.initContainers{s7}")).count();
        assert_eq!((recorded.len(), paths), (2 * EACH, 1));
    }

    /// A pod of one container, two sidecars and an init container, all of which run.
    fn with_sidecars() -> (PodWorker, PodObservation) {
        let pod = json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [{"name": "main"}], "initContainers": [
            {"name": "first", "restartPolicy": "Always"}, {"name": "second", "restartPolicy": "Always"}, {"name": "plain"}]}});
        let now = Now { mono: Mono::ZERO, wall: jiff::Timestamp::UNIX_EPOCH };
        let worker = PodWorker::new(now, PodUid::new("u"), Arc::new(serde_json::from_value(pod).unwrap()), None);
        let mut seen = PodObservation::empty(PodUid::new("u"), Mono::ZERO);
        seen.containers = ["main", "first", "second", "plain"].map(runs).into();
        (worker, seen)
    }

    fn stopped(actions: &[crate::action::Action]) -> Vec<String> {
        let of = |call: &Call| if let Call::Cri(CriCall::StopContainer { id, .. }) = call { Some(id.to_string()) } else { None };
        actions.iter().filter_map(|action| of(&action.call)).collect()
    }

    // POD-267: kuberuntime_container.go (killContainer): a stop that failed has not told those who wait for it, so they wait while the grace
    // lasts; kuberuntime_termination_order.go: for plain init containers nobody waits.
    #[test]
    fn sidecars_wait_on_for_a_container_that_could_not_be_stopped() {
        let (worker, seen) = with_sidecars();
        let at = |seconds| Now { mono: Mono::ZERO + Duration::from_secs(seconds), wall: jiff::Timestamp::UNIX_EPOCH };
        let limits = CallLimits { runtime: Duration::from_secs(1), host: Duration::from_secs(1) };
        let kills = kill_all(&seen, Mono::ZERO + Duration::from_secs(30));
        for (fails_at, sidecars) in [(0, &[] as &[&str]), (31, &["first", "second"])] {
            let (mut ledger, mut actions, mut recorded) = (Ledger::default(), Vec::new(), Vec::new());
            let mut out = Out::new(&mut ledger, &mut actions, &mut recorded);
            let mut batch = kill_batch(&worker, &seen, &kills, &[], &mut out).patient();
            batch.advance(at(0), &PodUid::new("u"), limits, &mut out);
            let [main, plain]: [_; 2] = batch.in_flight().collect::<Vec<_>>().try_into().unwrap();
            batch.done(main, Err(crate::failure::Failure::new(crate::failure::FailureKind::Other, "shim is busy")));
            batch.done(plain, Ok(StepReply::Cri(CriReply::Done)));
            batch.advance(at(fails_at), &PodUid::new("u"), limits, &mut out);
            assert_eq!(batch.is_over(), sidecars.is_empty());
            assert_eq!(stopped(&actions)[2..], *sidecars);
        }
        let names = |kills: Vec<Kill<'_>>| kills.into_iter().map(|kill| kill.container.name.clone()).collect::<Vec<_>>();
        let held = |name: &'static str| move |kill: &Kill<'_>| kill.container.name == name;
        assert_eq!(names(in_turn(&worker.pod, kills.clone(), at(1), held("main"))), ["plain"]);
        assert_eq!(names(in_turn(&worker.pod, kills.clone(), at(1), held("second"))), ["main", "plain"]);
        assert_eq!(names(in_turn(&worker.pod, kills.clone(), at(1), held("first"))), ["main", "second", "plain"]);
        assert_eq!(names(in_turn(&worker.pod, kills.clone(), at(1), held("plain"))), ["main", "first", "second"]);
        assert_eq!(names(in_turn(&worker.pod, kills.clone(), at(29), held("main"))), ["first", "second", "plain"]);
        assert_eq!(in_turn(&worker.pod, kills, at(1), held("none")).len(), 4);
    }

    // POD-229: executePreStopHook waits for a hook no longer than the grace, and leaves it running, be it a command or a request.
    #[test]
    fn hook_runs_until_its_container_is_killed() {
        let grace = Duration::from_secs(30);
        let now = |seconds| Now { mono: Mono::ZERO + Duration::from_secs(seconds), wall: jiff::Timestamp::UNIX_EPOCH };
        let request = ProbeCall::Http {
            scheme: "http".to_owned(),
            host: "h".to_owned(),
            port: 1,
            path: "/".to_owned(),
            headers: Vec::new(),
            lifecycle: true,
        };
        for hook in [Hook::Exec { container: Some(ContainerId::new("c")), command: vec!["x".to_owned()] }, Hook::Http(request)] {
            let (of, until) = (ContainerId::new("c"), Mono::ZERO + grace);
            let steps = [Step::PreStop { of: of.clone(), hook, until }, Step::Stop { id: Some(of), until }];
            let chain = Chain::new(Purpose::Kill { container: "c".to_owned() }, steps);
            let mut batch = Batch::new([Stage { in_order: false, chains: vec![chain] }]);
            let (mut ledger, mut actions, mut recorded) = (Ledger::default(), Vec::new(), Vec::new());
            let limits = CallLimits { runtime: Duration::from_secs(120), host: Duration::from_secs(1) };
            for seconds in [0, 29, 30] {
                batch.advance(now(seconds), &PodUid::new("u"), limits, &mut Out::new(&mut ledger, &mut actions, &mut recorded));
            }
            let count = |of: fn(&Call) -> bool| actions.iter().filter(|action| of(&action.call)).count();
            assert_eq!(count(|call| matches!(call, Call::Cancel(_))), 0);
            assert_eq!(count(|call| matches!(call, Call::Cri(CriCall::StopContainer { grace, .. }) if *grace == MINIMUM_GRACE)), 1);
            // It may last until the container is killed, and not for ever.
            let lasts = actions.first().and_then(|action| action.timeout).unwrap();
            assert!(lasts > grace + MINIMUM_GRACE && lasts < grace * 10, "{lasts:?}");
        }
    }
}
