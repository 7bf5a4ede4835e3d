//! Draws a workload and faults from a seed, lets them run, heals, and asks that all settles: one run of a swarm.
//! Upstream: none; after the swarm testing of TigerBeetle's VOPR and the buggify of FoundationDB.
//! Differs: nothing on purpose.

mod blight;
mod manifests;
mod turns;

use std::time::Duration;

use jiff::SignedDuration;
use kubelet::ids::PodUid;
use kubelet::rng::Rng;
use kubelet::work::Point;
use serde_json::{Value, json};

use self::blight::Blight;
use self::manifests::Manifests;
use self::turns::Turns;
use crate::api::admission::{is_mirror, runtime_uid};
use crate::api::request::{Request, Verb};
use crate::api::resource::named;
use crate::api::write::DeleteOptions;
use crate::cluster::Cluster;
use crate::faults::Odds;
use crate::liveness::not_at_rest;
use crate::poison::Poison;
use crate::runtime::behaviour::ANNOTATION_PREFIX;
use crate::scenario::run::{Verdict, administrate, apply, config_for, first_broken, heal, poison_pod, world_for};
use crate::scenario::schema::NodeSpec;
use crate::world::World;

/// While faults run.
const CHAOS: Duration = Duration::from_secs(25);
/// How long a healed cluster may take to settle: the longest back-off of a container (80 s here) and a pod's retry after it.
const SETTLES_WITHIN: Duration = Duration::from_secs(180);
/// How long it must stay settled.
const STAYS_SETTLED: Duration = Duration::from_secs(20);
/// How often it is looked whether it has.
const LOOKS_EACH: Duration = Duration::from_millis(100);
/// What is done in one run, at most.
const MOST_DEEDS: u64 = 14;

/// What a run is made of: printed with a failure, so that one can see at once what was at work.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Odds of faults of runtime, API and host calls.
    pub odds: (Odds, Odds, Odds),
    /// What is done when, in words.
    pub deeds: Vec<(Duration, String)>,
    /// The node.
    pub node: NodeSpec,
    /// How many panics were planted, and how many of them never struck: such a run shows nothing of them.
    pub panics: (usize, usize),
}

/// What is drawn before a run begins.
#[derive(Debug)]
pub struct Draw {
    /// The node.
    pub node: NodeSpec,
    rng: Rng,
    storage: Option<Storage>,
    registry: Option<Registry>,
    venom: Option<Venom>,
    blight: Option<Blight>,
    turns: Option<Turns>,
    manifests: Option<Manifests>,
}

/// Pods that make the core panic, or the whole agent die: in some runs, and drawn apart as well.
#[derive(Debug)]
struct Venom {
    rng: Rng,
    /// The pods that have some.
    given: Vec<String>,
}

/// How many pods are poisoned in one run, at most.
const MOST_POISONED: usize = 3;
/// Until when: one that is poisoned later has no time left to come to its place.
const POISONED_UNTIL: Duration = Duration::from_secs(20);

/// Where a pod comes again and again while something happens to it.
const OFTEN: [Point; 8] =
    [Point::CallEnded, Point::Plan, Point::Probe, Point::Report, Point::Sync, Point::Volumes, Point::CollectDead, Point::Status];
/// Where it comes as it begins, once or twice.
const BEGINS: [Point; 6] = [Point::PodAdded, Point::Sandbox, Point::Container, Point::ProbeDue, Point::StepsEnded, Point::Driver];
/// Where it comes as it ends, once or twice.
const ENDS: [Point; 4] = [Point::Terminate, Point::PodRemoved, Point::CleanUp, Point::Forget];

/// A pod that may be poisoned.
#[derive(Clone)]
struct Prey {
    uid: String,
    name: String,
    is_static: bool,
    is_new: bool,
}

impl Prey {
    fn of(pod: &Value) -> Self {
        let (uid, name) = (runtime_uid(pod).to_owned(), text(&pod["metadata"]["name"]));
        Self { uid, name, is_static: is_mirror(pod), is_new: pod["status"]["startTime"].is_null() }
    }
}

impl Venom {
    fn of(seed: u64) -> Option<Self> {
        let mut rng = Rng::new(seed ^ 0x7665_6e6f_6d00);
        (rng.below(3) == 0).then(|| Self { rng, given: Vec::new() })
    }

    /// Poisons a pod, perhaps.
    fn deed(&mut self, cluster: &mut impl Cluster) -> Option<String> {
        if !seldom(&mut self.rng, 3) || self.given.len() >= MOST_POISONED {
            return None;
        }
        let mut pods: Vec<Prey> = cluster.look(|view| view.api.store.list("pods", "default").map(|pod| Prey::of(pod)).collect());
        pods.retain(|pod| !self.given.contains(&pod.uid));
        // One that has just come has all of it before it.
        if pods.iter().any(|pod| pod.is_new) {
            pods.retain(|pod| pod.is_new);
        }
        let Prey { uid, name, is_static, is_new } = pods.get(at(&mut self.rng, pods.len().max(1)))?.clone();
        self.given.push(uid.clone());
        let once: &[Point] = match (is_new, is_static) {
            (true, _) => &BEGINS,
            (false, true) => &[],
            (false, false) => &ENDS,
        };
        let places: Vec<Point> = OFTEN.iter().chain(once).copied().collect();
        let place = places[at(&mut self.rng, places.len())];
        let place = (!seldom(&mut self.rng, 3)).then_some(place);
        let again = is_new && place.is_none_or(|place| OFTEN.contains(&place));
        let skip = u32::try_from(self.rng.below(if again { 4 } else { 1 })).unwrap_or(0);
        let times = 1 + u32::try_from(self.rng.below(3)).unwrap_or(0);
        let kills = seldom(&mut self.rng, 4);
        let poison = Poison::new(PodUid::new(&uid), place, times).after(skip);
        poison_pod(cluster, &uid, if kills { poison.that_kills() } else { poison });
        if place.is_some_and(|place| ENDS.contains(&place)) {
            let options = DeleteOptions::default();
            let _gone_already = cluster.with_api(|api, now| api.delete(now, named("pods"), "default", &name, &options));
        } else if !is_new {
            // It may be quiet: something happens to it.
            disrupt(cluster, &name);
        }
        Some(format!("poison pod {uid} at {place:?} after {skip}, {times} times, kills: {kills}"))
    }
}

/// A driver on the node, and claims for pods to use: in some runs. It is drawn apart, so that the rest of a run is what it would be
/// without.
#[derive(Debug)]
struct Storage {
    rng: Rng,
    attaches: bool,
    stages: bool,
    odds: Odds,
}

/// The driver of such a run.
const DRIVER: &str = "d.example.com";

impl Storage {
    fn of(seed: u64) -> Option<Self> {
        let mut rng = Rng::new(seed ^ 0x0063_7369);
        if rng.below(3) != 0 {
            return None;
        }
        let odds = if rng.below(2) == 0 { draw_odds(&mut rng) } else { Odds::default() };
        Some(Self { attaches: rng.below(2) == 0, stages: rng.below(4) != 0, odds, rng })
    }

    /// Makes the driver and the claims.
    fn furnish(&self, cluster: &mut impl Cluster) {
        cluster.with_host(|host| host.csi.starts(DRIVER, self.stages));
        cluster.with_faults(|faults| faults.csi = self.odds);
        let driver = json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": DRIVER},
            "spec": {"attachRequired": self.attaches}});
        let mut objects = vec![driver];
        for number in 0..2 {
            let (name, modes) = (format!("data-{number}"), json!(["ReadWriteMany"]));
            objects.push(json!({"kind": "PersistentVolume", "metadata": {"name": format!("pv-{number}")}, "spec": {
                "accessModes": modes, "volumeMode": "Filesystem", "claimRef": {"namespace": "default", "name": name},
                "csi": {"driver": DRIVER, "volumeHandle": format!("vol-{number}")}}}));
            objects.push(json!({"kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": {"accessModes": modes}}));
        }
        for object in objects {
            let _made = apply(cluster, object);
        }
    }

    /// Lets a pod use a claim, perhaps.
    fn add_to(&mut self, pod: &mut Value) {
        if seldom(&mut self.rng, 2) {
            return;
        }
        let claim = format!("data-{}", self.rng.below(2));
        let volume = json!({"name": "claimed", "persistentVolumeClaim": {"claimName": claim}});
        pod["spec"]["volumes"].as_array_mut().into_iter().for_each(|list| list.push(volume.clone()));
        let mounts = &mut pod["spec"]["containers"][0]["volumeMounts"];
        mounts.as_array_mut().into_iter().for_each(|list| list.push(json!({"name": "claimed", "mountPath": "/claimed"})));
    }

    /// The driver stops or starts, perhaps.
    fn deed(&mut self, cluster: &mut impl Cluster) -> Option<String> {
        if !seldom(&mut self.rng, 8) {
            return None;
        }
        let stages = self.stages;
        Some(cluster.with_host(|host| {
            if host.csi.driver(DRIVER).is_some_and(|driver| driver.runs) {
                host.csi.stops(DRIVER);
                "the driver stops".to_owned()
            } else {
                host.csi.starts(DRIVER, stages);
                "the driver starts".to_owned()
            }
        }))
    }

    fn heal(&self, cluster: &mut impl Cluster) {
        let stages = self.stages;
        cluster.with_host(|host| {
            if !host.csi.driver(DRIVER).is_some_and(|driver| driver.runs) {
                host.csi.starts(DRIVER, stages);
            }
        });
    }
}

/// A registry with a private image, and pull secrets for it of which one is right: in some runs. Drawn apart, as storage is.
#[derive(Debug)]
struct Registry {
    rng: Rng,
}

/// The private image of such a run, and its user.
const PRIVATE: (&str, &str, &str) = ("private.example/team/app:1", "user", "pass");

impl Registry {
    fn of(seed: u64) -> Option<Self> {
        let mut rng = Rng::new(seed ^ 0x0072_6567);
        (rng.below(3) == 0).then_some(Self { rng })
    }

    fn furnish(&self, cluster: &mut impl Cluster) {
        let (image, user, password) = PRIVATE;
        cluster.with_runtime(|runtime, _| runtime.private.insert(image.to_owned(), (user.to_owned(), password.to_owned())));
        for (name, password) in [("right", password), ("wrong", "guessed")] {
            let config = json!({"auths": {"private.example": {"username": user, "password": password}}}).to_string();
            let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson",
                "metadata": {"name": name}, "stringData": {".dockerconfigjson": config}});
            let _made = apply(cluster, secret);
        }
    }

    /// Lets a pod's first container want the image, perhaps, with one of the secrets, both, one that is not there, or none.
    fn add_to(&mut self, pod: &mut Value) {
        if seldom(&mut self.rng, 2) {
            return;
        }
        let policy = ["IfNotPresent", "IfNotPresent", "Always", "Never"][at(&mut self.rng, 4)];
        let secrets = [
            json!([{"name": "right"}]),
            json!([{"name": "wrong"}, {"name": "right"}]),
            json!([{"name": "wrong"}]),
            json!([{"name": "nowhere"}]),
            json!([]),
        ];
        pod["spec"]["imagePullSecrets"] = secrets[at(&mut self.rng, secrets.len())].clone();
        let container = &mut pod["spec"]["containers"][0];
        container["image"] = PRIVATE.0.into();
        container["imagePullPolicy"] = policy.into();
    }
}

impl Draw {
    /// Draws a node.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x5741_524d);
        let change_detection = [None, None, Some("Cache"), Some("Get")][usize::try_from(rng.below(4)).unwrap_or(0)];
        // Drawn apart: the rest of a run is what it would be without.
        let manifests = Manifests::of(seed);
        let lag = Rng::new(seed ^ 0x006c_6167).below(4);
        let node = NodeSpec {
            authorizer_lag: Duration::from_millis(if lag == 0 { 300 } else { 0 }),
            runtime_events: rng.below(4) != 0,
            hints_lost: if rng.below(3) == 0 { 4 } else { 0 },
            change_detection: change_detection.map(str::to_owned),
            cgroups_per_qos: rng.below(8) != 0,
            parallel_pulls: (rng.below(4) == 0).then_some(1),
            static_pods: manifests.is_some(),
            static_url: manifests.as_ref().is_some_and(|manifests| manifests.has_url),
            ..NodeSpec::default()
        };
        let (storage, registry) = (Storage::of(seed), Registry::of(seed));
        Self { node, rng, storage, registry, venom: Venom::of(seed), blight: Blight::of(seed), turns: Turns::of(seed), manifests }
    }
}

/// One run in stage `model`.
#[must_use]
pub fn run(seed: u64, prepare: impl FnOnce(&mut World)) -> (Verdict, World, Plan) {
    let draw = Draw::of(seed);
    let mut world = world_for(&draw.node, seed);
    prepare(&mut world);
    let (verdict, plan) = stir(&mut world, draw);
    (verdict, world, plan)
}

/// Does to a cluster what is drawn, heals it, and sees it settle.
pub fn stir(cluster: &mut impl Cluster, draw: Draw) -> (Verdict, Plan) {
    let Draw { node, mut rng, mut storage, mut registry, mut venom, mut blight, mut turns, mut manifests } = draw;
    // A status write that lands after a newer one shows an old status for a moment, whoever writes: not a fault to draw.
    let api = Odds { late: 0, ..draw_odds(&mut rng) };
    let odds = (draw_odds(&mut rng), api, if rng.below(4) == 0 { draw_odds(&mut rng) } else { Odds::default() });
    cluster.with_faults(|faults| (faults.runtime, faults.api, faults.host) = odds);
    if let Some(storage) = &storage {
        storage.furnish(cluster);
    }
    if let Some(blight) = &blight {
        blight.furnish(cluster);
    }
    if let Some(registry) = &registry {
        registry.furnish(cluster);
    }
    if let Some(manifests) = &mut manifests {
        manifests.furnish(cluster);
    }
    let mut plan = Plan { odds, deeds: Vec::new(), node: node.clone(), panics: (0, 0) };
    let mut times: Vec<u64> = (0..3 + rng.below(MOST_DEEDS)).map(|_| rng.below(25_000)).collect();
    times.sort_unstable();
    let mut pods = 0;
    for millis in times {
        let at = Duration::from_millis(millis);
        cluster.run_until(at);
        let text = deed(cluster, &mut rng, &mut pods, &mut storage, &mut registry);
        let of_driver = storage.as_mut().and_then(|storage| storage.deed(cluster));
        let poisoned = venom.as_mut().filter(|_| at < POISONED_UNTIL).and_then(|venom| venom.deed(cluster));
        let spoiled = blight.as_mut().and_then(|blight| blight.deed(cluster));
        let turned = turns.as_mut().and_then(|turns| turns.deed(cluster));
        let written = manifests.as_mut().and_then(|manifests| manifests.deed(cluster));
        let others = of_driver.into_iter().chain(poisoned).chain(spoiled).chain(turned).chain(written);
        let text = others.fold(text, |text, more| format!("{text}; {more}"));
        cluster.note(&text);
        plan.deeds.push((at, text));
        if let Some(broken) = first_broken(cluster) {
            return (Verdict::Broke(broken), plan);
        }
    }
    cluster.run_until(CHAOS);
    plan.panics = cluster.with_poisons(|poisons| (poisons.len(), poisons.idle().count()));
    heal(cluster);
    if let Some(storage) = &storage {
        storage.heal(cluster);
    }
    if let Some(blight) = &mut blight {
        blight.heal(cluster);
    }
    if let Some(manifests) = &mut manifests {
        manifests.heal(cluster);
    }
    for kind in ["ConfigMap", "Secret"] {
        // Pods may still wait for theirs.
        let _made = apply(cluster, settings(&mut rng, kind));
    }
    cluster.note("healed");
    if !cluster.is_alive() {
        cluster.crash(Some(Duration::from_millis(500)));
    }
    let verdict = settle(cluster, config_for(&node).pods.runtime_request_timeout);
    (verdict, plan)
}

/// Whether a cluster comes to rest until then, or breaks. All that a run must come to costs more than what happens between two looks at it.
fn comes_to_rest(cluster: &mut impl Cluster, until: Duration) -> bool {
    loop {
        if first_broken(cluster).is_some() || cluster.look(not_at_rest).is_empty() {
            return true;
        }
        if cluster.elapsed() >= until {
            return false;
        }
        let next = (cluster.elapsed() + LOOKS_EACH).min(until);
        cluster.run_while(next, |view| view.witness.first_broken().is_none());
    }
}

/// Waits until the healed cluster settles, and sees that it stays so.
fn settle(cluster: &mut impl Cluster, longest_call: Duration) -> Verdict {
    // What was hanging when the faults ended may hang for as long as its deadline.
    let until = CHAOS + SETTLES_WITHIN + longest_call;
    loop {
        let met = comes_to_rest(cluster, until);
        if let Some(broken) = first_broken(cluster) {
            return Verdict::Broke(broken);
        }
        if !met {
            return Verdict::Unmet(0, cluster.elapsed(), cluster.look(not_at_rest));
        }
        let calm = (cluster.elapsed() + STAYS_SETTLED).min(until + STAYS_SETTLED);
        let before = cluster.look(|view| view.runtime.facts_seen);
        cluster.run_until(calm);
        let quiet = cluster.look(|view| view.runtime.facts_seen) == before;
        if let Some(broken) = first_broken(cluster) {
            return Verdict::Broke(broken);
        }
        let wrong = cluster.look(not_at_rest);
        // A call that has hung since before may unsettle what had settled, until it is given up.
        if quiet && !wrong.is_empty() && cluster.elapsed() > CHAOS + longest_call {
            return Verdict::Unmet(0, cluster.elapsed(), wrong);
        }
        if (quiet && wrong.is_empty()) || cluster.elapsed() >= until {
            return Verdict::Held;
        }
    }
}

/// Each fault is in one run of two, and then it is rare or frequent.
fn draw_odds(rng: &mut Rng) -> Odds {
    let mut one = || match rng.below(4) {
        0 => 6 + rng.below(10),
        1 => 30 + rng.below(50),
        _ => 0,
    };
    Odds { error: one(), lost: one(), reply_lost: one(), late: one(), slow: one() }
}

fn deed(
    cluster: &mut impl Cluster,
    rng: &mut Rng,
    pods: &mut u64,
    storage: &mut Option<Storage>,
    registry: &mut Option<Registry>,
) -> String {
    match rng.below(19) {
        0..=5 => {
            *pods += 1;
            let mut pod = draw_pod(rng, *pods);
            draw_resources(&mut pod, *pods);
            draw_rules(&mut pod, *pods);
            if let Some(storage) = storage {
                storage.add_to(&mut pod);
            }
            if let Some(registry) = registry {
                registry.add_to(&mut pod);
            }
            let text = format!("apply pod {}", pod["metadata"]["name"]);
            match apply(cluster, pod) {
                Ok(()) => text,
                Err(why) => format!("{text}: {why}"),
            }
        }
        6..=8 => delete(cluster, rng),
        9 => {
            let back = Duration::from_millis(50 + rng.below(4000));
            cluster.crash(Some(back));
            format!("kill the agent for {back:?}")
        }
        10 => {
            let away = Duration::from_millis(200 + rng.below(8000));
            cluster.restart_api(away);
            format!("API server away for {away:?}")
        }
        11 => {
            let silent = Duration::from_millis(200 + rng.below(8000));
            cluster.silence_api(silent);
            format!("API server silent for {silent:?}")
        }
        12 => {
            cluster.compact_api();
            "compaction".to_owned()
        }
        13 => {
            let (away, die) = (Duration::from_millis(200 + rng.below(5000)), rng.below(3) == 0);
            cluster.restart_runtime(away, die);
            format!("runtime away for {away:?}, containers die: {die}")
        }
        14 => {
            let by = SignedDuration::from_secs(i64::try_from(rng.below(7200)).unwrap_or(0) - 3600);
            cluster.jump_clock(by);
            format!("clock jumps by {by:?}")
        }
        15 => kill(cluster, rng),
        16 | 17 => {
            let kind = ["ConfigMap", "Secret"][at(rng, 2)];
            let object = settings(rng, kind);
            let text = format!("apply {object}");
            match apply(cluster, object) {
                Ok(()) => text,
                Err(why) => format!("{text}: {why}"),
            }
        }
        _ => {
            cluster.crash_after(rng.below(60), Duration::from_millis(100));
            "kill the agent at some event".to_owned()
        }
    }
}

fn delete(cluster: &mut impl Cluster, rng: &mut Rng) -> String {
    let names: Vec<(String, String)> = cluster.look(|view| {
        let pods = view.api.store.list("pods", "");
        pods.map(|p| (text(&p["metadata"]["name"]), text(&p["metadata"]["uid"]))).collect()
    });
    let Some((name, uid)) = usize::try_from(rng.below(names.len() as u64)).ok().and_then(|at| names.get(at)).cloned() else {
        return "nothing to delete".to_owned();
    };
    let grace = match rng.below(6) {
        0 => Some(0),
        1 => Some(1),
        _ => None,
    };
    if grace == Some(0) {
        cluster.with_witness(|witness| witness.forced(&uid));
    }
    // Drawn apart: the rest of a run is what it would be without.
    if grace.is_none() && seldom(&mut Rng::new(uid.bytes().map(u64::from).sum()), 2) {
        disrupt(cluster, &name);
    }
    let options = DeleteOptions { grace_seconds: grace, ..DeleteOptions::default() };
    let _gone_already = cluster.with_api(|api, now| api.delete(now, named("pods"), "default", &name, &options));
    format!("delete pod {name} with grace {grace:?}")
}

/// As the eviction API, the scheduler and the taint manager do before they delete a pod.
fn disrupt(cluster: &mut impl Cluster, name: &str) {
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"});
    let with = json!({"status": {"conditions": [condition]}});
    let request = Request::new(Verb::Patch, "pods", "default", name).of("status").with(with);
    let _gone_already = administrate(cluster, &request);
}

fn kill(cluster: &mut impl Cluster, rng: &mut Rng) -> String {
    let running: Vec<_> = cluster.look(|view| view.runtime.running().map(|c| (c.pod.clone(), c.name().to_owned())).collect());
    let Some((pod, name)) = usize::try_from(rng.below(running.len() as u64)).ok().and_then(|at| running.get(at)).cloned() else {
        return "nothing to kill".to_owned();
    };
    cluster.with_runtime(|runtime, now| runtime.kill(now, &pod, &name, 137, "OOMKilled"));
    format!("{name} of pod {pod} dies")
}

/// The one ConfigMap or Secret that pods are drawn to use, as it is now.
fn settings(rng: &mut Rng, kind: &str) -> Value {
    // A Secret's data are base64; a ConfigMap takes them as they are.
    let value = ["YQ==", "Yg==", "Yw=="][at(rng, 3)];
    json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "settings"}, "data": {"key": value}})
}

fn at(rng: &mut Rng, most: usize) -> usize {
    usize::try_from(rng.below(most as u64)).unwrap_or(0)
}

/// One time in so many.
fn seldom(rng: &mut Rng, times: u64) -> bool {
    rng.below(times) == 0
}

/// A pod with a few containers that behave in some way.
fn draw_pod(rng: &mut Rng, number: u64) -> Value {
    let policy = ["Always", "Always", "OnFailure", "Never"][at(rng, 4)];
    let scripts = ["", "", "exit=0@3s*", "exit=1@2s*", "term=ignore", "term=2s@0", "exec-fails=5s..8s"];
    let mut annotations = serde_json::Map::new();
    let mut behave = |name: &str, script: &str| {
        if !script.is_empty() {
            annotations.insert(format!("{ANNOTATION_PREFIX}{name}"), script.into());
        }
    };
    let volumes = draw_volumes(rng);
    let mut containers = Vec::new();
    let mut inits = Vec::new();
    for number in 0..=rng.below(2) {
        let name = format!("c{number}");
        behave(&name, scripts[at(rng, scripts.len())]);
        containers.push(draw_container(rng, &name, &volumes));
    }
    if seldom(rng, 3) {
        behave("init", if seldom(rng, 4) { "exit=1@1s,0@1s*" } else { "exit=0@1s*" });
        inits.push(json!({"name": "init", "image": "busybox:1.36"}));
    }
    if seldom(rng, 6) {
        behave("side", ["", "exit=1@4s*", "term=ignore"][at(rng, 3)]);
        inits.push(json!({"name": "side", "image": "busybox:1.36", "restartPolicy": "Always"}));
    }
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": format!("p{number}"), "namespace": "default", "annotations": annotations},
        "spec": {
            "restartPolicy": policy,
            "terminationGracePeriodSeconds": 2 + rng.below(8),
            "hostNetwork": seldom(rng, 8),
            "initContainers": inits,
            "containers": containers,
            "volumes": volumes,
        },
    })
}

/// Quantities in every notation. They are drawn from the pod's number, so that the rest of a run is what it would be without.
fn draw_resources(pod: &mut Value, number: u64) {
    const MEMORY: [&str; 12] =
        ["64Mi", "64M", "129e6", "0.1G", "200000k", "1E7", "67108864", "100000Ki", "0.05Gi", "7e7", "64000000", "50000001"];
    const CPU: [&str; 6] = ["0.033", "1m", "100e-3", "0", "0.1", "50000u"];
    let mut rng = Rng::new(number ^ pod.to_string().len() as u64);
    for container in pod["spec"]["containers"].as_array_mut().into_iter().flatten() {
        if seldom(&mut rng, 2) {
            let (memory, cpu) = (MEMORY[at(&mut rng, MEMORY.len())], CPU[at(&mut rng, CPU.len())]);
            container["resources"] = json!({"requests": {"memory": memory, "cpu": cpu}, "limits": {"memory": "200000k"}});
        }
    }
}

/// A rule after which the whole pod begins anew, drawn from the pod's number as well.
fn draw_rules(pod: &mut Value, number: u64) {
    let mut rng = Rng::new(number ^ 0x5a5a ^ pod.to_string().len() as u64);
    if let Some(container) = pod["spec"]["containers"].get_mut(0).filter(|_| seldom(&mut rng, 5)) {
        container["restartPolicy"] = json!(["Never", "OnFailure", "Always"][at(&mut rng, 3)]);
        let codes = json!({"operator": "In", "values": [1, 137]});
        container["restartPolicyRules"] = json!([{"action": "RestartAllContainers", "exitCodes": codes}]);
    }
}

/// Volumes of which some need an object that may come late, or never while faults run.
fn draw_volumes(rng: &mut Rng) -> Vec<Value> {
    let kinds = [
        json!({"name": "config", "configMap": {"name": "settings"}}),
        json!({"name": "secret", "secret": {"secretName": "settings"}}),
        json!({"name": "optional", "configMap": {"name": "nowhere", "optional": true}}),
        json!({"name": "empty", "emptyDir": {}}),
        json!({"name": "memory", "emptyDir": {"medium": "Memory"}}),
        json!({"name": "info", "downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}}),
    ];
    kinds.into_iter().filter(|_| seldom(rng, 6)).collect()
}

fn draw_container(rng: &mut Rng, name: &str, volumes: &[Value]) -> Value {
    let image = ["busybox:1.36", "busybox:1.36", "registry.example/a:1", "registry.example/b:1"][at(rng, 4)];
    let mounts: Vec<Value> =
        volumes.iter().map(|v| json!({"name": v["name"], "mountPath": format!("/{}", text(&v["name"]))})).collect();
    let mut container = json!({"name": name, "image": image, "volumeMounts": mounts});
    if seldom(rng, 4) {
        container["readinessProbe"] = json!({"exec": {"command": ["true"]}, "periodSeconds": 1 + rng.below(3)});
    }
    if seldom(rng, 6) {
        container["livenessProbe"] = json!({"exec": {"command": ["true"]}, "periodSeconds": 2, "failureThreshold": 2});
    }
    if seldom(rng, 10) {
        container["startupProbe"] = json!({"exec": {"command": ["true"]}, "periodSeconds": 1, "failureThreshold": 3});
    }
    if seldom(rng, 6) {
        container["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 1 + rng.below(3)}}});
    } else if seldom(rng, 8) {
        container["lifecycle"] = json!({"postStart": {"sleep": {"seconds": 1}}});
    }
    if seldom(rng, 12) {
        let reference = json!({"configMapKeyRef": {"name": "settings", "key": "key"}});
        container["env"] = json!([{"name": "KEY", "valueFrom": reference}]);
    }
    container
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    // The full swarm is `keelson-sim swarm`; this much is run with every test.
    #[test]
    fn swarm_of_seeds_holds_every_invariant_and_settles() {
        let seeds = std::env::var("KEELSON_SWARM_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
        let first = std::env::var("KEELSON_SWARM_FIRST").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
        let mut failed = Vec::new();
        let (mut planted, mut idle) = (0, 0);
        for seed in first..first + seeds {
            let (verdict, _, plan) = run(seed, |_| {});
            (planted, idle) = (planted + plan.panics.0, idle + plan.panics.1);
            if !verdict.held() {
                if let Some(file) = std::env::var_os("KEELSON_LINES") {
                    let (_, world, _) = run(seed, |w| w.lines = Some(Vec::new()));
                    let text: String =
                        world.lines.iter().flatten().map(|l| format!("{:>10.4} {}\n", l.at.as_secs_f64(), l.text)).collect();
                    std::fs::write(file, text).unwrap();
                }
                failed.push(format!("seed {seed}: {verdict}\n  {plan:?}"));
            }
        }
        println!("{planted} panics were planted, {idle} of them never struck");
        assert!(
            failed.is_empty(),
            "{} of {seeds} seeds failed\n{}",
            failed.len(),
            failed.iter().take(8).cloned().collect::<Vec<_>>().join("\n")
        );
        assert!(planted < 20 || idle * 2 < planted, "{idle} of {planted} planted panics never struck");
    }

    #[test]
    fn same_seed_decides_the_same() {
        for seed in 0..20 {
            let digest = || run(seed, World::keep_digest).1.digest();
            assert_eq!(digest(), digest(), "seed {seed}");
        }
    }
}
