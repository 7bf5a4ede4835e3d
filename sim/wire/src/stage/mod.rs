//! Stage `sim`: the whole agent with its production adapters, over simulated networks, against the pretend servers.
//! Upstream: none.
//! Differs: one machine's sockets, disk and clocks are pretended; everything above them is what runs on a node.

mod agent;
mod cluster;
mod faults;
mod host;
mod net;
mod record;
mod servers;
mod shared;

#[cfg(test)]
mod planted;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::sync::{Arc, Mutex};

use kubelet::config::Config;
use model::invariants::Broken;
use model::scenario::Scenario;
use model::scenario::crash_points::{Reference, compare, measure};
use model::scenario::run::{Verdict, config_for, furnish, play};
use model::scenario::schema::NodeSpec;
use model::swarm::{Draw, stir};

pub use self::cluster::SimCluster;
use self::record::Record;
use self::shared::lock;
use crate::interposer;

/// How a run ended, and what happened in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whether all went as it should.
    pub verdict: Verdict,
    /// A digest of every event that the agent handled and everything that it asked for, with the moment of each.
    pub digest: u64,
    /// The same as text, one event each, and what was done to the cluster.
    pub lines: Vec<String>,
}

/// Runs a scenario in this stage. The same seed gives the same outcome, whatever else the process does.
#[must_use]
pub fn run_scenario(scenario: &Scenario, seed: u64) -> Outcome {
    alone(&scenario.node, seed, |cluster| play(cluster, scenario))
}

/// Makes the run of a swarm that a seed stands for, in this stage. Beside the outcome, how many panics were planted, and how many of them
/// never struck.
#[must_use]
pub fn run_swarm(seed: u64) -> (Outcome, (usize, usize)) {
    let draw = Draw::of(seed);
    let node = draw.node.clone();
    let mut panics = (0, 0);
    let outcome = alone(&node, seed, |cluster| {
        let (verdict, plan) = stir(cluster, draw);
        panics = plan.panics;
        verdict
    });
    (outcome, panics)
}

/// Runs a scenario without a crash of its own making, to measure others by.
///
/// # Errors
/// If it does not hold, or does not settle after it.
pub fn reference(scenario: &Scenario, seed: u64) -> Result<Reference, Verdict> {
    let mut measured = Reference::default();
    let outcome = alone(&scenario.node, seed, |cluster| match measure(cluster, scenario) {
        Ok(reference) => {
            measured = reference;
            Verdict::Held
        }
        Err(verdict) => verdict,
    });
    if outcome.verdict.held() { Ok(measured) } else { Err(outcome.verdict) }
}

/// Runs a scenario, kills the agent after that event and starts it again.
#[must_use]
pub fn killed_after(scenario: &Scenario, seed: u64, reference: &Reference, event: u64) -> Outcome {
    alone(&scenario.node, seed, |cluster| compare(cluster, scenario, reference, event))
}

/// Has something else than a scenario run on a new cluster, under those settings. It is handed out before its agent has done anything.
pub fn run_with(config: Config, seed: u64, run: impl FnOnce(&mut SimCluster) + Send) -> Outcome {
    on(config, seed, |cluster| {
        run(cluster);
        Verdict::Held
    })
}

/// How much stack a run has: builds without optimization nest deep.
const STACK: usize = 16 << 20;

/// Runs something on a new cluster, on a thread of its own: std draws a thread's hash keys once, before a caller could see to it.
fn alone(node: &NodeSpec, seed: u64, run: impl FnOnce(&mut SimCluster) -> Verdict + Send) -> Outcome {
    on(config_for(node), seed, |cluster| {
        furnish(cluster, node);
        run(cluster)
    })
}

fn on(config: Config, seed: u64, run: impl FnOnce(&mut SimCluster) -> Verdict + Send) -> Outcome {
    let record = Arc::new(Mutex::new(Record::default()));
    let ended = std::thread::scope(|scope| {
        let kept = Arc::clone(&record);
        let body = move || {
            let _armed = interposer::arm(seed);
            run(&mut SimCluster::new(config, seed, kept))
        };
        match std::thread::Builder::new().name(format!("seed {seed}")).stack_size(STACK).spawn_scoped(scope, body) {
            Ok(thread) => thread.join().unwrap_or_else(|panic| panicked(&record, panic.as_ref())),
            Err(error) => Verdict::Impossible(0, error.to_string()),
        }
    });
    let Record { digest, lines, .. } = std::mem::take(&mut *lock(&record));
    Outcome { verdict: ended, digest, lines }
}

/// Whatever panics in a run breaks it, and is found as any other fault is.
fn panicked(record: &Mutex<Record>, panic: &(dyn Any + Send)) -> Verdict {
    let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    Verdict::Broke(Broken {
        at: lock(record).last,
        invariant: "invariant_nothing_panics",
        how: said.unwrap_or("a panic without a message").to_owned(),
    })
}
