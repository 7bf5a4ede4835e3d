//! Runs a scenario: takes its steps, and sees whether what is expected comes true.
//! Upstream: none.
//! Differs: nothing on purpose.

use std::time::Duration;

use jiff::SignedDuration;
use kubelet::config::{ChangeDetection, Config, CredentialProvider};
use kubelet::failure::{Failure, FailureKind};
use kubelet::ids::PodUid;
use kubelet::observation::{Image, RuntimeHandler};
use kubelet::sensitive::Sensitive;
use kubelet::work::Point;
use serde_json::{Value, json};

use super::expect::{View, unmet};
use super::schema::{Away, Expect, FaultFate, Many, NodeSpec, PoisonStep, Scenario, Spoil, Step};
use crate::api::admission::{is_mirror, runtime_uid};
use crate::api::authorize::Identity;
use crate::api::request::{Request, Verb};
use crate::api::resource::{RESOURCES, of_kind};
use crate::cluster::Cluster;
use crate::faults::{Fate, FaultPlan, Planned};
use crate::invariants::Broken;
use crate::manifests::{wanted_manifests, wanted_of_url};
use crate::poison::Poison;
use crate::world::World;

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

/// The settings that the scenario's node wants.
#[must_use]
pub fn config_for(node: &NodeSpec) -> Config {
    let mut config = Config::new(NODE);
    config.pods.change_detection = match node.change_detection.as_deref() {
        Some("Cache") => ChangeDetection::Cache,
        Some("Get") => ChangeDetection::Get,
        _ => config.pods.change_detection,
    };
    if let Some(most) = node.max_pods {
        config.pods.max = most;
    }
    if node.static_pods {
        config.static_pods.path = Some("/etc/kubernetes/manifests".to_owned());
    }
    if node.static_url {
        config.static_pods.url = Some("http://manifests/pods".to_owned());
    }
    config.node.external_cloud_provider = node.external_cloud;
    config.cgroups.per_qos = node.cgroups_per_qos;
    config.images.credential_providers = node.credential_plugin.iter().map(|image| plugin_for(image)).collect();
    config.images.max_parallel_pulls = node.parallel_pulls.or(config.images.max_parallel_pulls);
    config
}

/// A plugin that is asked about one image.
fn plugin_for(image: &str) -> CredentialProvider {
    CredentialProvider {
        name: image.to_owned(),
        executable: format!("/plugins/{image}"),
        api_version: "credentialprovider.kubelet.k8s.io/v1".to_owned(),
        match_images: vec![image.split_once(':').map_or(image, |(repository, _)| repository).to_owned()],
        default_cache_duration: Duration::from_secs(60),
        arguments: Vec::new(),
        environment: Sensitive::default(),
    }
}

/// The node has the logins of some private images: in its docker config, or by plugins.
fn furnish_logins(cluster: &mut impl Cluster, node: &NodeSpec) {
    let auths = |images: &[String]| {
        let login = |image: &String| {
            let (user, password) = node.private.get(image)?.split_once(':')?;
            let repository = image.split_once(':').map_or(image.as_str(), |(repository, _)| repository);
            Some((repository.to_owned(), json!({"username": user, "password": password})))
        };
        images.iter().filter_map(login).collect::<serde_json::Map<String, Value>>()
    };
    cluster.with_host(|host| {
        if !node.docker_config.is_empty() {
            let config = json!({"auths": auths(&node.docker_config)});
            host.files.insert("/var/lib/kubelet/config.json".to_owned(), config.to_string().into_bytes());
        }
        for image in &node.credential_plugin {
            let answer = json!({"kind": "CredentialProviderResponse", "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
                "cacheKeyType": "Image", "auth": auths(std::slice::from_ref(image))});
            host.credential_plugins.insert(plugin_for(image).executable, answer.to_string().into_bytes());
        }
    });
    cluster.with_runtime(|runtime, _| {
        runtime.opened_by_node.extend(node.docker_config.iter().chain(&node.credential_plugin).cloned());
    });
}

/// Gives a cluster what the scenario's node wants it to have.
pub fn furnish(cluster: &mut impl Cluster, node: &NodeSpec) {
    cluster.lose_hints(node.hints_lost);
    cluster.with_host(|host| host.addresses.routed.clone_from(&node.addresses));
    furnish_logins(cluster, node);
    cluster.with_api(|api, _| api.behind.lag = node.authorizer_lag);
    cluster.with_runtime(|runtime, _| {
        runtime.has_events = node.runtime_events;
        for image in &node.registry {
            runtime.registry.insert(image.clone(), format!("sha256:{image}"));
        }
        for (image, login) in &node.private {
            let (user, password) = login.split_once(':').unwrap_or((login, ""));
            runtime.private.insert(image.clone(), (user.to_owned(), password.to_owned()));
        }
        runtime.handlers.extend(node.recursive_read_only.iter().map(|name| RuntimeHandler {
            name: name.clone(),
            recursive_read_only_mounts: true,
            user_namespaces: false,
        }));
        runtime.registry_closed = !node.registry.is_empty();
        let repo_tags = vec!["busybox:1.36".to_owned()];
        let image = Image { id: "sha256:busybox".to_owned(), repo_tags, size: 2 << 20, ..Image::default() };
        runtime.images.insert("busybox:1.36".to_owned(), image);
    });
}

/// A world of stage `model` as the scenario's node wants it.
#[must_use]
pub fn world_for(node: &NodeSpec, seed: u64) -> World {
    let mut world = World::new(config_for(node), seed);
    furnish(&mut world, node);
    world
}

/// Runs a scenario in stage `model`. The world is handed back for its lines and digest.
#[must_use]
pub fn run(scenario: &Scenario, seed: u64, prepare: impl FnOnce(&mut World)) -> (Verdict, World) {
    let mut world = world_for(&scenario.node, seed);
    prepare(&mut world);
    let verdict = play(&mut world, scenario);
    (verdict, world)
}

/// Takes all of a scenario's steps, and sees that what it plants has struck: else it has shown nothing.
pub fn play(cluster: &mut impl Cluster, scenario: &Scenario) -> Verdict {
    let verdict = follow(cluster, scenario);
    let idle = cluster.with_poisons(|poisons| poisons.idle().map(PodUid::to_string).collect::<Vec<_>>());
    if !verdict.held() || idle.is_empty() {
        return verdict;
    }
    let never = |pod: String| format!("the panic that was planted for pod {pod} never struck");
    Verdict::Unmet(scenario.steps.len(), cluster.elapsed(), idle.into_iter().map(never).collect())
}

/// Takes a scenario's steps, one after the other, until one does not go as it should.
pub fn follow(cluster: &mut impl Cluster, scenario: &Scenario) -> Verdict {
    for (number, step) in (1..).zip(&scenario.steps) {
        let verdict = take(cluster, number, step);
        if let Some(broken) = first_broken(cluster) {
            return Verdict::Broke(broken);
        }
        if !verdict.held() {
            return verdict;
        }
    }
    Verdict::Held
}

/// The first invariant that broke, if one did.
pub fn first_broken(cluster: &impl Cluster) -> Option<Broken> {
    cluster.look(|view| view.witness.first_broken().cloned())
}

fn take(cluster: &mut impl Cluster, number: usize, step: &Step) -> Verdict {
    if let Some(at) = step.at {
        cluster.run_until(at);
    }
    if let Some(wait) = step.wait {
        cluster.run_until(cluster.elapsed() + wait);
    }
    if let Err(why) = act(cluster, step) {
        return Verdict::Impossible(number, why);
    }
    if let Some(expect) = &step.expect {
        let until = cluster.elapsed() + expect.within.unwrap_or_default();
        let met = cluster.run_while(until, |view| view.witness.first_broken().is_none() && !holds(expect, view));
        if !met {
            return missing(cluster, number, expect);
        }
    }
    if let Some(expect) = &step.holds {
        let until = cluster.elapsed() + expect.within.unwrap_or_default();
        if cluster.run_while(until, |view| view.witness.first_broken().is_none() && holds(expect, view)) {
            return missing(cluster, number, expect);
        }
    }
    Verdict::Held
}

fn holds(expect: &Expect, view: View<'_>) -> bool {
    unmet(expect, view).is_empty()
}

fn missing(cluster: &impl Cluster, number: usize, expect: &Expect) -> Verdict {
    Verdict::Unmet(number, cluster.elapsed(), cluster.look(|view| unmet(expect, view)))
}

/// What can be seen of a world.
#[must_use]
pub fn view(world: &World) -> View<'_> {
    View { api: &world.api, runtime: &world.runtime, host: &world.host, witness: &world.witness, lives: world.lives(), node: NODE }
}

/// Does what a step says.
///
/// # Errors
/// As the API server refuses.
pub(super) fn act(cluster: &mut impl Cluster, step: &Step) -> Result<(), String> {
    for object in &step.apply {
        apply(cluster, object.clone())?;
    }
    if let Some(patch) = &step.patch {
        let (resource, part) = patch.resource.split_once('/').unwrap_or((&patch.resource, ""));
        let request = Request::new(Verb::Patch, resource, &patch.namespace, &patch.name).of(part).with(patch.with.clone());
        administrate(cluster, &request)?;
    }
    if let Some(delete) = &step.delete {
        let mut body = serde_json::json!({});
        if let Some(grace) = delete.grace {
            body["gracePeriodSeconds"] = grace.into();
        }
        let pod = cluster.look(|view| view.api.store.get("pods", &delete.namespace, &delete.name).cloned());
        // A mirror that a user deletes is only a picture, whatever grace he gives.
        if let Some(pod) = pod.filter(|pod| delete.grace == Some(0) || is_mirror(pod)) {
            let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
            cluster.with_witness(|witness| witness.forced(uid));
        }
        let cluster_wide = RESOURCES.iter().any(|resource| resource.plural == delete.resource && !resource.namespaced);
        let namespace = if cluster_wide { "" } else { &delete.namespace };
        let request = Request::new(Verb::Delete, &delete.resource, namespace, &delete.name).with(body);
        administrate(cluster, &request)?;
    }
    if let Some(spoiled) = &step.spoil {
        spoil(cluster, spoiled)?;
    }
    if let Some(many) = &step.many {
        make_many(cluster, many)?;
    }
    disturb(cluster, step);
    step.poison.as_ref().map_or(Ok(()), |poison| plant(cluster, poison))
}

/// Asks the API server as an administrator.
pub(crate) fn administrate(cluster: &mut impl Cluster, request: &Request) -> Result<(), String> {
    let answer = cluster.with_api(|api, now| api.request(now, &Identity::admin(), request));
    answer.map(|_| ()).map_err(|e| e.failure().message)
}

fn disturb(cluster: &mut impl Cluster, step: &Step) {
    if let Some(fault) = &step.fault {
        let fate = fate_of(&fault.fate);
        let planned = Planned { call: fault.call.clone(), skip: fault.skip, times: fault.times, fate };
        cluster.with_faults(|faults| faults.plan(planned));
    }
    if let Some(crash) = &step.crash {
        cluster.crash(Some(crash.back));
    }
    if let Some(api) = &step.api {
        api_away(cluster, api);
    }
    if let Some(runtime) = &step.runtime {
        cluster.restart_runtime(runtime.away, runtime.containers_die);
    }
    if let Some(kill) = &step.kill {
        let uid = cluster.look(|view| {
            let pod = view.api.store.list("pods", "").find(|p| p["metadata"]["name"] == kill.pod.as_str());
            pod.map(|p| PodUid::new(runtime_uid(p)))
        });
        if let Some(uid) = uid {
            cluster.with_runtime(|runtime, now| match &kill.container {
                Some(container) if kill.forgotten => runtime.lose(now, &uid, container),
                Some(container) => runtime.kill(now, &uid, container, kill.code, &kill.reason),
                None => runtime.kill_sandboxes(now, &uid),
            });
        }
    }
    if let Some(jump) = &step.clock {
        let signed = |by: Duration| SignedDuration::try_from(by).unwrap_or(SignedDuration::ZERO);
        cluster.jump_clock(jump.forwards.map(signed).unwrap_or_default());
        cluster.jump_clock(-jump.backwards.map(signed).unwrap_or_default());
    }
    if let Some(driver) = &step.driver {
        cluster.with_host(
            |host| {
                if driver.stops { host.csi.stops(&driver.name) } else { host.csi.starts(&driver.name, driver.stages) }
            },
        );
    }
    if let Some(manifest) = &step.manifest {
        let contents = manifest.pod.as_ref().map(Value::to_string).or_else(|| manifest.text.clone());
        put_manifest(cluster, &manifest.file, contents.map(String::into_bytes));
    }
    if let Some(url) = &step.url {
        let pods = url.pods.as_ref().map(|pods| json!({"apiVersion": "v1", "kind": "PodList", "items": pods}));
        let body = url.pod.as_ref().or(pods.as_ref()).map(Value::to_string).or_else(|| url.text.clone());
        let answer =
            (body.is_some() || url.status.is_some()).then(|| (url.status.unwrap_or(200), body.unwrap_or_default().into_bytes()));
        answer_url(cluster, answer);
    }
    if step.heal {
        heal(cluster);
    }
    if let Some(address) = &step.address {
        cluster.with_host(|host| host.addresses.routed = address.parse().into_iter().collect());
    }
    if let Some(full) = step.disk_full {
        cluster.with_host(|host| host.disk_full = full);
    }
    if let Some(addresses) = &step.addresses {
        cluster.with_host(|host| host.addresses.routed.clone_from(addresses));
    }
    if let Some(ready) = step.network_ready {
        cluster.with_runtime(|runtime, _| runtime.network_ready = ready);
    }
}

/// Writes a file at the static pod path, or removes it.
pub fn put_manifest(cluster: &mut impl Cluster, file: &str, contents: Option<Vec<u8>>) {
    cluster.with_host(|host| host.put_manifest(file, contents));
    manifests_changed(cluster);
}

/// The static pod URL answers so from here on, or nobody does.
pub fn answer_url(cluster: &mut impl Cluster, answer: Option<(u16, Vec<u8>)>) {
    cluster.with_host(|host| host.answer_url(answer));
    manifests_changed(cluster);
}

fn manifests_changed(cluster: &mut impl Cluster) {
    let (files, url) = cluster.look(|view| (wanted_manifests(view.host), wanted_of_url(view.host)));
    let at = cluster.elapsed();
    cluster.with_witness(|witness| witness.manifests_are(at, files, url));
}

/// Writes into an object past all checks.
///
/// # Errors
/// If it is not there.
pub fn spoil(cluster: &mut impl Cluster, step: &Spoil) -> Result<(), String> {
    let resource = RESOURCES.iter().find(|resource| resource.plural == step.resource);
    let resource = resource.ok_or_else(|| format!("{} is not known", step.resource))?;
    let namespace = if resource.namespaced { step.namespace.as_str() } else { "" };
    let spoiled = cluster.with_api(|api, _| api.spoil(resource, namespace, &step.name, &step.with));
    spoiled.map(drop).ok_or_else(|| format!("there is no {} {}", step.resource, step.name))
}

fn make_many(cluster: &mut impl Cluster, many: &Many) -> Result<(), String> {
    let name = many.object["metadata"]["name"].as_str().unwrap_or_default();
    for number in 0..many.times {
        let mut object = many.object.clone();
        object["metadata"]["name"] = format!("{name}{number}").into();
        object["metadata"]["annotations"]["padding"] = "x".repeat(many.padding).into();
        apply(cluster, object)?;
    }
    Ok(())
}

/// Makes the core panic for a pod that the API server has.
fn plant(cluster: &mut impl Cluster, step: &PoisonStep) -> Result<(), String> {
    let at = match &step.at {
        None => None,
        Some(name) => {
            let known = Point::ALL.into_iter().find(|point| point.as_str() == name);
            Some(known.ok_or_else(|| format!("there is no place {name}"))?)
        }
    };
    let uid = cluster.look(|view| {
        let mut pods = view.api.store.list("pods", "");
        let pod = pods.find(|pod| pod["metadata"]["name"] == step.pod.as_str())?;
        Some(runtime_uid(pod).to_owned())
    });
    let uid = uid.ok_or_else(|| format!("there is no pod {}", step.pod))?;
    let poison = Poison::new(PodUid::new(&uid), at, step.times).after(step.skip);
    poison_pod(cluster, &uid, if step.kills { poison.that_kills() } else { poison });
    Ok(())
}

/// Makes the core panic for the pod of that UID.
pub fn poison_pod(cluster: &mut impl Cluster, uid: &str, poison: Poison) {
    cluster.with_witness(|witness| witness.poisoned(uid));
    cluster.with_poisons(|poisons| poisons.plant(poison));
}

/// No more faults from here.
pub fn heal(cluster: &mut impl Cluster) {
    cluster.with_faults(FaultPlan::heal);
    cluster.with_poisons(|poisons| poisons.heal());
    cluster.lose_hints(0);
    cluster.with_host(|host| host.disk_full = false);
    cluster.with_runtime(|runtime, _| runtime.network_ready = true);
    cluster.heal_links();
}

fn api_away(cluster: &mut impl Cluster, api: &Away) {
    if let Some(away) = api.away {
        cluster.restart_api(away);
    }
    if let Some(silent) = api.silent {
        cluster.silence_api(silent);
    }
    if let Some(forgotten) = api.forgotten {
        cluster.forget_api(forgotten);
    }
    if api.compact {
        cluster.compact_api();
    }
}

/// Makes or replaces an object; a pod is bound to the node.
///
/// # Errors
/// As the API server refuses.
pub fn apply(cluster: &mut impl Cluster, mut object: Value) -> Result<(), String> {
    let kind = object["kind"].as_str().unwrap_or("Pod").to_owned();
    let version = object["apiVersion"].as_str().unwrap_or("v1").to_owned();
    let resource = of_kind(&version, &kind).ok_or_else(|| format!("{version} {kind} is not known"))?;
    object["apiVersion"] = version.into();
    object["kind"] = kind.clone().into();
    let namespace = match object["metadata"]["namespace"].as_str() {
        Some(namespace) => namespace.to_owned(),
        None if !resource.namespaced => String::new(),
        None => "default".to_owned(),
    };
    if kind == "Pod" && object["spec"]["nodeName"].is_null() {
        object["spec"]["nodeName"] = NODE.into();
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let revision = cluster.look(|view| {
        view.api.store.get(resource.plural, &namespace, &name).map(|known| known["metadata"]["resourceVersion"].clone())
    });
    let request = match revision {
        Some(revision) => {
            object["metadata"]["resourceVersion"] = revision;
            Request::new(Verb::Update, resource.plural, &namespace, &name)
        }
        None => Request::new(Verb::Create, resource.plural, &namespace, ""),
    };
    administrate(cluster, &request.with(object))
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
