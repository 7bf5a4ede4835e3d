//! Runs a scenario in stage `model`.
//! Upstream: none.
//! Differs: nothing on purpose.

use std::time::Duration;

use jiff::SignedDuration;
use kubelet::config::{ChangeDetection, Config};
use kubelet::failure::{Failure, FailureKind};
use kubelet::ids::PodUid;
use kubelet::observation::Image;
use serde_json::Value;

use super::expect::{View, unmet};
use super::schema::{Away, Expect, FaultFate, NodeSpec, Scenario, Step};
use crate::api::authorize::Identity;
use crate::api::request::{Request, Verb};
use crate::api::resource::of_kind;
use crate::faults::{Fate, Planned};
use crate::invariants::Broken;
use crate::world::{Link, World};

/// The name of the node in every run.
pub const NODE: &str = "n1";

/// Why a run did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It held.
    Held,
    /// An invariant broke.
    Broke(Broken),
    /// An expectation was not met: the step's number from 1, when, and what was not as expected.
    Unmet(usize, Duration, Vec<String>),
    /// A step could not be done: its number, and why.
    Impossible(usize, String),
}

impl Verdict {
    /// Whether all went as it should.
    #[must_use]
    pub fn held(&self) -> bool {
        *self == Self::Held
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Held => f.write_str("held"),
            Self::Broke(broken) => write!(f, "{} broke at {:?}: {}", broken.invariant, broken.at, broken.how),
            Self::Unmet(step, at, unmet) => write!(f, "step {step} was not met at {at:?}: {}", unmet.join("; ")),
            Self::Impossible(step, why) => write!(f, "step {step} could not be done: {why}"),
        }
    }
}

/// A world as the scenario's node wants it.
#[must_use]
pub fn world_for(node: &NodeSpec, seed: u64) -> World {
    let mut config = Config::new(NODE);
    config.pods.change_detection = match node.change_detection.as_deref() {
        Some("Cache") => ChangeDetection::Cache,
        Some("Get") => ChangeDetection::Get,
        _ => config.pods.change_detection,
    };
    if let Some(most) = node.max_pods {
        config.pods.max = most;
    }
    let mut world = World::new(config, seed);
    world.runtime.has_events = node.runtime_events;
    world.hints_lost = node.hints_lost;
    for image in &node.registry {
        world.runtime.registry.insert(image.clone(), format!("sha256:{image}"));
    }
    world.runtime.registry_closed = !node.registry.is_empty();
    let image = Image { id: "sha256:busybox".to_owned(), repo_tags: vec!["busybox:1.36".to_owned()], size: 2 << 20, ..Image::default() };
    world.runtime.images.insert("busybox:1.36".to_owned(), image);
    world
}

/// Runs a scenario. The world is handed back for its lines and digest.
#[must_use]
pub fn run(scenario: &Scenario, seed: u64, prepare: impl FnOnce(&mut World)) -> (Verdict, World) {
    let mut world = world_for(&scenario.node, seed);
    prepare(&mut world);
    for (number, step) in (1..).zip(&scenario.steps) {
        let verdict = take(&mut world, number, step);
        if let Some(broken) = world.witness.first_broken() {
            return (Verdict::Broke(broken.clone()), world);
        }
        if !verdict.held() {
            return (verdict, world);
        }
    }
    (Verdict::Held, world)
}

fn take(world: &mut World, number: usize, step: &Step) -> Verdict {
    if let Some(at) = step.at {
        world.run_until(at);
    }
    if let Some(wait) = step.wait {
        world.run_until(world.elapsed() + wait);
    }
    if let Err(why) = act(world, step) {
        return Verdict::Impossible(number, why);
    }
    if let Some(expect) = &step.expect {
        let until = world.elapsed() + expect.within.unwrap_or_default();
        let met = world.run_while(until, |w| w.witness.first_broken().is_none() && !unmet(expect, view(w)).is_empty());
        if !met {
            return Verdict::Unmet(number, world.elapsed(), unmet(expect, view(world)));
        }
    }
    if let Some(expect) = &step.holds {
        let until = world.elapsed() + expect.within.unwrap_or_default();
        if world.run_while(until, |w| w.witness.first_broken().is_none() && holds(expect, w)) {
            return Verdict::Unmet(number, world.elapsed(), unmet(expect, view(world)));
        }
    }
    Verdict::Held
}

fn holds(expect: &Expect, world: &World) -> bool {
    unmet(expect, view(world)).is_empty()
}

/// What can be seen of a world.
#[must_use]
pub fn view(world: &World) -> View<'_> {
    View {
        api: &world.api,
        runtime: &world.runtime,
        host: &world.host,
        witness: &world.witness,
        lives: world.lives(),
        node: NODE,
    }
}

fn act(world: &mut World, step: &Step) -> Result<(), String> {
    for object in &step.apply {
        apply(world, object.clone())?;
    }
    if let Some(patch) = &step.patch {
        let (resource, part) = patch.resource.split_once('/').unwrap_or((&patch.resource, ""));
        let request = Request::new(Verb::Patch, resource, &patch.namespace, &patch.name).of(part).with(patch.with.clone());
        let now = world.now();
        world.api.request(now, &Identity::admin(), &request).map_err(|e| e.failure().message)?;
    }
    if let Some(delete) = &step.delete {
        let mut body = serde_json::json!({});
        if let Some(grace) = delete.grace {
            body["gracePeriodSeconds"] = grace.into();
        }
        if delete.grace == Some(0)
            && let Some(pod) = world.api.store.get("pods", &delete.namespace, &delete.name)
        {
            let uid = pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
            world.witness.forced(&uid);
        }
        let namespace = if delete.resource == "nodes" { "" } else { &delete.namespace };
        let request = Request::new(Verb::Delete, &delete.resource, namespace, &delete.name).with(body);
        let now = world.now();
        world.api.request(now, &Identity::admin(), &request).map_err(|e| e.failure().message)?;
    }
    disturb(world, step);
    Ok(())
}

fn disturb(world: &mut World, step: &Step) {
    if let Some(fault) = &step.fault {
        let fate = fate_of(&fault.fate);
        world.faults.plan(Planned { call: fault.call.clone(), skip: fault.skip, times: fault.times, fate });
    }
    if let Some(crash) = &step.crash {
        world.crash(Some(crash.back));
    }
    if let Some(api) = &step.api {
        api_away(world, api);
    }
    if let Some(runtime) = &step.runtime {
        world.restart_runtime(runtime.away, runtime.containers_die);
    }
    if let Some(kill) = &step.kill {
        let pod = world.api.store.list("pods", "").find(|p| p["metadata"]["name"] == kill.pod.as_str());
        let uid = pod.map(|p| PodUid::new(p["metadata"]["uid"].as_str().unwrap_or_default()));
        let now = world.now();
        if let Some(uid) = uid {
            world.runtime.kill(now, &uid, &kill.container, kill.code, &kill.reason);
        }
    }
    if let Some(jump) = &step.clock {
        let signed = |by: Duration| SignedDuration::try_from(by).unwrap_or(SignedDuration::ZERO);
        world.jump_clock(jump.forwards.map(signed).unwrap_or_default());
        world.jump_clock(-jump.backwards.map(signed).unwrap_or_default());
    }
    if step.heal {
        heal(world);
    }
    if let Some(full) = step.disk_full {
        world.host.disk_full = full;
    }
    if let Some(ready) = step.network_ready {
        world.runtime.network_ready = ready;
    }
}

/// No more faults from here.
pub fn heal(world: &mut World) {
    world.faults.heal();
    world.hints_lost = 0;
    world.host.disk_full = false;
    world.runtime.network_ready = true;
    if world.api_link == Link::Silent {
        world.api_link = Link::Up;
        world.watches_lose_their_place();
    }
    if world.runtime_link == Link::Silent {
        world.runtime_link = Link::Up;
    }
}

fn api_away(world: &mut World, api: &Away) {
    if let Some(away) = api.away {
        world.restart_api(away);
    }
    if let Some(silent) = api.silent {
        world.silence_api(silent);
    }
    if api.compact {
        world.api.store.compact();
        world.watches_lose_their_place();
    }
}

/// Makes or replaces an object; a pod is bound to the node.
///
/// # Errors
/// As the API server refuses.
pub fn apply(world: &mut World, mut object: Value) -> Result<(), String> {
    let kind = object["kind"].as_str().unwrap_or("Pod").to_owned();
    let version = object["apiVersion"].as_str().unwrap_or("v1").to_owned();
    let resource = of_kind(&version, &kind).ok_or_else(|| format!("{version} {kind} is not known"))?;
    object["apiVersion"] = version.into();
    object["kind"] = kind.clone().into();
    let namespace = match object["metadata"]["namespace"].as_str() {
        Some(namespace) => namespace.to_owned(),
        None if matches!(kind.as_str(), "Node" | "Namespace") => String::new(),
        None => "default".to_owned(),
    };
    if kind == "Pod" && object["spec"]["nodeName"].is_null() {
        object["spec"]["nodeName"] = NODE.into();
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let now = world.now();
    let verb = match world.api.store.get(resource.plural, &namespace, &name) {
        Some(known) => {
            object["metadata"]["resourceVersion"] = known["metadata"]["resourceVersion"].clone();
            Verb::Update
        }
        None => Verb::Create,
    };
    let name = if verb == Verb::Create { "" } else { &name };
    let request = Request::new(verb, resource.plural, &namespace, name).with(object);
    world.api.request(now, &Identity::admin(), &request).map(|_| ()).map_err(|e| e.failure().message)
}

fn fate_of(fate: &FaultFate) -> Fate {
    let fails = |kind, message: &str| Fate::Fails(Failure::new(kind, message));
    match fate {
        FaultFate::Fails(message) => fails(FailureKind::Other, message),
        FaultFate::Throttled => fails(FailureKind::Throttled { after: Some(Duration::from_secs(1)) }, "too many requests"),
        FaultFate::Unavailable => fails(FailureKind::Unavailable, "connection refused"),
        FaultFate::Conflict => fails(FailureKind::Conflict, "the object has been modified"),
        FaultFate::Lost => Fate::Lost,
        FaultFate::ReplyLost => Fate::ReplyLost,
        FaultFate::Late(more) => Fate::Late(*more),
        FaultFate::Slow(more) => Fate::Slow(*more),
    }
}
