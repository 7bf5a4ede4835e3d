//! Runs a case on a pretend cluster that is made like the lab that the recordings come from, and keeps what is seen.

use std::cell::RefCell;
use std::time::Duration;

use kubelet::config::{Config, Signal};
use kubelet::observation::RuntimeHandler;
use model::api::authorize::Identity;
use model::api::patch::PatchKind;
use model::api::request::{Request, Verb};
use model::api::resource::of_kind;
use model::cluster::Cluster;
use model::world::World;
use serde_json::{Value, json};
use wire::stage::{Outcome, run_with};

use super::case::{Case, filled, image};
use super::commands::behaviours;
use super::scripts::Scripts;
use super::seen::Seen;
use super::tables::number;

/// When the node is Ready for certain.
const READY_BY: Duration = Duration::from_secs(6);

/// The settings of the lab's kubelet.
fn settings() -> Config {
    let mut config = Config::new("n1");
    config.pods.max = 250;
    config.dns.cluster_dns = vec!["10.96.0.10".parse().expect("an address")];
    config.dns.cluster_domain = "cluster.local".to_owned();
    let memory = [Signal::MemoryAvailable, Signal::AllocatableMemoryAvailable];
    config.eviction.thresholds.retain(|threshold| memory.contains(&threshold.signal));
    config
}

/// A cluster of stage `model` like the lab.
pub(super) fn lab() -> World {
    let mut world = World::new(settings(), 1);
    furnish(&mut world);
    world
}

/// Runs a case in stage `sim`: what happened besides.
pub(super) fn run_over_wires(case: &Case) -> (Seen, Vec<String>, Outcome) {
    let mut ran = None;
    let outcome = run_with(settings(), 1, |cluster| {
        furnish(cluster);
        ran = Some(run(cluster, case));
    });
    let (seen, mut problems) = ran.unwrap_or_default();
    if !outcome.verdict.held() {
        problems.push(outcome.verdict.to_string());
    }
    (seen, problems, outcome)
}

/// Makes a cluster like the lab, before its agent does anything.
fn furnish(cluster: &mut impl Cluster) {
    cluster.with_host(|host| {
        let machine = &mut host.machine;
        machine.cgroup_v2 = false;
        machine.root_fs_capacity = 270_553_174_016;
        machine.hugepages = [(2 << 20, 0), (1 << 30, 0)].into();
        machine.memory = 24 << 30;
        machine.swap_controller = true;
        host.files.insert("/etc/resolv.conf".to_owned(), b"nameserver 10.255.255.53\n".to_vec());
    });
    cluster.with_runtime(|runtime, _| {
        let handler =
            |name: &str| RuntimeHandler { name: name.to_owned(), recursive_read_only_mounts: true, user_namespaces: false };
        runtime.handlers = ["", "runc"].map(handler).into();
        runtime.supplemental_groups_policy = true;
        for name in ["BUSYBOX", "AGNHOST", "NONROOT", "NGINX"] {
            runtime.add_image(&image(name));
        }
    });
}

/// Runs a case: what was seen, and what of it could not be done or never came true.
pub(super) fn run(cluster: &mut impl Cluster, case: &Case) -> (Seen, Vec<String>) {
    cluster.run_until(READY_BY);
    cluster.with_api(|api, now| api.ensure_namespace(now, &case.namespace));
    let scripts = Scripts::of(number(&case.id));
    cluster.with_runtime(|runtime, _| {
        runtime.scripts = behaviours(case, &scripts);
        runtime.doors = scripts.doors();
        runtime.refused = scripts.refused();
    });
    let revision = cluster.look(|view| view.api.store.revision());
    let began = cluster.elapsed();
    let run = Run { case, began, end: began + case.timeout, seen: RefCell::new(Seen::of(&case.namespace, revision)) };
    let mut problems = Vec::new();
    for object in &case.objects {
        problems.extend(create(cluster, &case.namespace, object.clone()).err());
    }
    for (number, step) in (1..).zip(&case.steps) {
        problems.extend(run.step(cluster, step).err().map(|why| format!("step {number}: {why}")));
    }
    if !run.wait(cluster, &case.until, run.end) {
        problems.push(format!("{} never held", case.until));
    }
    run.settle(cluster);
    (run.seen.into_inner(), problems)
}

struct Run<'a> {
    case: &'a Case,
    began: Duration,
    end: Duration,
    seen: RefCell<Seen>,
}

impl Run<'_> {
    /// Runs on until a condition holds; whether it did.
    fn wait(&self, cluster: &mut impl Cluster, condition: &Value, end: Duration) -> bool {
        let held = RefCell::new(None);
        cluster.run_while(end, |view| {
            let news = self.seen.borrow_mut().look(view);
            let mut held = held.borrow_mut();
            if news || held.is_none() {
                *held = Some(self.seen.borrow().holds(condition));
            }
            *held != Some(true)
        })
    }

    /// Runs on until that moment.
    fn watch(&self, cluster: &mut impl Cluster, until: Duration) {
        cluster.run_while(until, |view| {
            self.seen.borrow_mut().look(view);
            true
        });
    }

    /// Runs on until nothing has changed for a while, but not for longer than twice that.
    fn settle(&self, cluster: &mut impl Cluster) {
        let last = self.end.min(cluster.elapsed() + self.case.settle) + self.case.settle;
        loop {
            let versions = self.seen.borrow().versions.len();
            let quiet = cluster.elapsed() + self.case.settle;
            let changed = cluster.run_while(quiet.min(last), |view| {
                let mut seen = self.seen.borrow_mut();
                seen.look(view);
                seen.versions.len() == versions
            });
            if !changed || cluster.elapsed() >= last {
                return;
            }
        }
    }

    fn step(&self, cluster: &mut impl Cluster, step: &Value) -> Result<(), String> {
        if let Some(at) = step["at"].as_f64() {
            self.watch(cluster, (self.began + Duration::from_secs_f64(at)).min(self.end));
        }
        if step.get("after").is_some() && !self.wait(cluster, &step["after"], self.end) {
            return Err(format!("{} never held", step["after"]));
        }
        if let Some(plus) = step["plus"].as_f64() {
            self.watch(cluster, (cluster.elapsed() + Duration::from_secs_f64(plus)).min(self.end));
        }
        let (namespace, pod) = (self.case.namespace.as_str(), step["pod"].as_str().unwrap_or("p"));
        let request = |verb| Request::new(verb, "pods", namespace, pod);
        match step["do"].as_str().unwrap_or_default() {
            "delete" => {
                let body = step["grace"].as_i64().map_or(json!({}), |grace| json!({"gracePeriodSeconds": grace}));
                ask(cluster, &request(Verb::Delete).with(body))
            }
            word @ ("patch" | "status") => {
                let part = if word == "status" { "status" } else { step["subresource"].as_str().unwrap_or_default() };
                let mut patch = request(Verb::Patch).of(part).with(patched(&step["patch"]));
                if step["type"] == "json" {
                    patch.patch = PatchKind::Json;
                }
                ask(cluster, &patch)
            }
            "finalizers" => {
                let mut patch = request(Verb::Patch).with(json!({"metadata": {"finalizers": null}}));
                patch.patch = PatchKind::Merge;
                ask(cluster, &patch)
            }
            "apply" => create(cluster, namespace, filled(step["object"].clone(), namespace)),
            "kill-sandbox" | "kill-container" => {
                self.kill(cluster, pod, step["container"].as_str());
                Ok(())
            }
            // Nothing of them can be seen here but that they change nothing.
            "exec" | "fetch" | "capture" | "wait" => Ok(()),
            other => Err(format!("{other} is not known")),
        }
    }

    fn kill(&self, cluster: &mut impl Cluster, pod: &str, container: Option<&str>) {
        let uid = self.seen.borrow().pods.get(pod).and_then(|pod| pod["metadata"]["uid"].as_str().map(str::to_owned));
        let uid = kubelet::ids::PodUid::new(uid.unwrap_or_default());
        cluster.with_runtime(|runtime, now| match container {
            Some(container) => runtime.kill(now, &uid, container, 137, "Error"),
            None => runtime.kill_sandboxes_alone(&uid),
        });
    }
}

/// A patch with the names of its images as runtimes know them.
pub(super) fn patched(patch: &Value) -> Value {
    let mut patch = patch.clone();
    for list in ["ephemeralContainers", "containers"] {
        for container in patch["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(name) = container["image"].as_str() {
                container["image"] = image(name).into();
            }
        }
    }
    patch
}

fn ask(cluster: &mut impl Cluster, request: &Request) -> Result<(), String> {
    let answer = cluster.with_api(|api, now| api.request(now, &Identity::admin(), request));
    answer.map(drop).map_err(|error| error.failure().message)
}

/// Makes an object, or replaces it.
fn create(cluster: &mut impl Cluster, namespace: &str, mut object: Value) -> Result<(), String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (version, kind, name) = (text(&object["apiVersion"]), text(&object["kind"]), text(&object["metadata"]["name"]));
    let resource = of_kind(&version, &kind).ok_or_else(|| format!("{version} {kind} is not known"))?;
    let namespace = if resource.namespaced { namespace } else { "" };
    let known = cluster.look(|view| {
        view.api.store.get(resource.plural, namespace, &name).map(|known| known["metadata"]["resourceVersion"].clone())
    });
    let request = match known {
        Some(revision) => {
            object["metadata"]["resourceVersion"] = revision;
            Request::new(Verb::Update, resource.plural, namespace, &name)
        }
        None => Request::new(Verb::Create, resource.plural, namespace, ""),
    };
    ask(cluster, &request.with(object)).map_err(|why| format!("{kind} {name}: {why}"))
}
