//! What the agent costs on this machine: pods on a containerd of the bench's own, beside what the runtime alone needs for as many.
//!
//! `cargo bench -p tests` needs what the live tests need. With `KUBEBUILDER_ASSETS` a real API server is asked instead of the pretend
//! one; with `KEELSON_BINARY` another agent is measured, be it the upstream kubelet: it gets the same flags and configuration.
#![expect(clippy::disallowed_methods, reason = "real time is what is measured")]
#![allow(dead_code, reason = "the test bed offers more than a bench needs")]

mod bare;
#[path = "../../cluster/control_plane.rs"]
mod control_plane;
mod live;
mod plane;
mod process;

use std::path::Path;
use std::time::{Duration, Instant};

use model::api::authorize::Identity;
use serde_json::{Value, json};

use live::agent::{Agent, NODE};
use live::api::{container, pod};
use live::requirements;
use live::site::Site;
use plane::Plane;
use process::Used;

/// How many pods come one after another.
const SINGLE: usize = 20;
/// How many come at once.
const MANY: usize = 100;
/// How long idle pods are looked at.
const IDLE: Duration = Duration::from_secs(60);
/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(300);

fn main() -> anyhow::Result<()> {
    let machine = match requirements::machine() {
        Ok(machine) => machine,
        Err(missing) => {
            println!("skipped: bench of the node: {missing}");
            return Ok(());
        }
    };
    let site = Site::up(machine)?;
    let measured = measure(&site);
    site.down(measured.is_err(), &["agent/keelson.log"])?;
    measured
}

fn measure(site: &Site) -> anyhow::Result<()> {
    let runtime = bare::Bare::connect(&site.containerd.socket, &site.directory.join("bare"))?;
    let alone = (runtime.one_by_one(SINGLE)?, runtime.at_once(MANY)?);
    drop(runtime);
    show("the runtime alone: one pod up, p50", alone.0.up);
    show("the runtime alone: one pod down, p50", alone.0.down);
    show(&format!("the runtime alone: {MANY} pods up"), alone.1.up);
    show(&format!("the runtime alone: {MANY} pods down"), alone.1.down);

    let plane = Plane::start(site)?;
    let began = Instant::now();
    let agent = site.start_agent(&plane.kubeconfig(&Identity::node(NODE))?, plane.client_ca())?;
    plane.node_ready()?;
    show("start of the agent to node Ready", began.elapsed());
    singles(&plane)?;
    let up = many(&plane, &agent, site)?;
    println!("{:<55} {:>10.2}", format!("{MANY} pods, beside the runtime alone, up"), up.as_secs_f64() / alone.1.up.as_secs_f64());
    Ok(())
}

fn singles(plane: &Plane) -> anyhow::Result<()> {
    let mut times = Vec::new();
    for number in 0..SINGLE {
        let name = format!("single-{number}");
        let up = plane.up(&[sleeper(&name)])?;
        let down = plane.down(&[name])?;
        times.push((up, down));
    }
    show("one pod, create to Ready, p50", median(times.iter().map(|(up, _)| *up)));
    show("one pod, delete to gone, p50", median(times.iter().map(|(_, down)| *down)));
    Ok(())
}

/// How long many pods took to be Ready.
fn many(plane: &Plane, agent: &Agent, site: &Site) -> anyhow::Result<Duration> {
    let usage = || Used::of(&site.enclosure.path(format!("/proc/{}", agent.pid)));
    let pods: Vec<Value> = (0..MANY).map(|number| sleeper(&format!("many-{number}"))).collect();
    let (before, own) = (usage()?, Used::of(Path::new("/proc/self"))?);
    show_memory("resident without pods", &before);
    let up = plane.up(&pods)?;
    let (started, own_then) = (usage()?, Used::of(Path::new("/proc/self"))?);
    show(&format!("{MANY} pods at once, all Ready"), up);
    show("CPU of the bench meanwhile, pretend API server included", own_then.cpu.saturating_sub(own.cpu));
    show(&format!("agent CPU to start {MANY} pods"), started.cpu.saturating_sub(before.cpu));
    std::thread::sleep(Duration::from_secs(10));
    let settled = usage()?;
    std::thread::sleep(IDLE);
    let idle = usage()?;
    let share = idle.cpu.saturating_sub(settled.cpu).as_secs_f64() / IDLE.as_secs_f64();
    println!("{:<55} {:>8.2} %", format!("agent CPU with {MANY} idle pods, of one core"), share * 100.0);
    show_memory(&format!("resident with {MANY} pods"), &idle);
    let names: Vec<String> = (0..MANY).map(|number| format!("many-{number}")).collect();
    let down = plane.down(&names)?;
    let ended = usage()?;
    show(&format!("{MANY} pods deleted at once, all gone"), down);
    show(&format!("agent CPU to delete {MANY} pods"), ended.cpu.saturating_sub(idle.cpu));
    show_memory("most ever resident", &Used { resident: ended.most_resident, ..ended });
    Ok(up)
}

/// A pod that ends as soon as it is told to.
fn sleeper(name: &str) -> Value {
    let script = "trap 'exit 0' TERM; while :; do sleep 3600 & wait; done";
    pod(name, &json!({"automountServiceAccountToken": true, "containers": [container("main", script, &json!({}))]}))
}

fn median(times: impl Iterator<Item = Duration>) -> Duration {
    let mut times: Vec<Duration> = times.collect();
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn show(what: &str, time: Duration) {
    println!("{what:<55} {:>7.0} ms", time.as_secs_f64() * 1000.0);
}

fn show_memory(what: &str, used: &Used) {
    println!("{what:<55} {:>6.1} MiB", used.resident as f64 / f64::from(1 << 20));
}
