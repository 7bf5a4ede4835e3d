//! Kills the agent after any one event of a scenario, and asks that the cluster settles and ends as it would have without that.
//! Upstream: none; after the intermediate states of Sieve (OSDI 2022).
//! Differs: nothing on purpose.

use std::collections::BTreeMap;
use std::time::Duration;

use super::expect::{View, unmet};
use super::run::{self, Verdict, act, config_for, first_broken, heal, world_for};
use super::schema::{Expect, PodExpect, Scenario, Step};
use crate::cluster::Cluster;
use crate::liveness::not_at_rest;
use crate::world::World;

/// How long the agent stays dead.
const BACK_AFTER: Duration = Duration::from_secs(1);
/// How much longer than its scenario a run goes on, so that what a crash delayed has its time.
const GOES_ON: Duration = Duration::from_secs(120);
/// How much later than it says what a scenario expects may come.
const DELAYS: Duration = Duration::from_secs(60);
/// How long the cluster may take to settle then, beside the longest call that may hang.
const SETTLES_WITHIN: Duration = Duration::from_secs(180);

/// A run without a crash: what others are measured by.
#[derive(Clone, Debug, Default)]
pub struct Reference {
    /// How many events the agent handled: each is a crash point.
    pub events: u64,
    phases: BTreeMap<String, String>,
}

/// Runs a scenario in stage `model` without a crash of its own making.
///
/// # Errors
/// If it does not hold, or does not settle after it.
pub fn reference(scenario: &Scenario, seed: u64) -> Result<Reference, Verdict> {
    measure(&mut world_for(&scenario.node, seed), scenario)
}

/// Runs a scenario in stage `model`, kills the agent after that event and starts it again. The world is handed back for its lines.
#[must_use]
pub fn killed_after(
    scenario: &Scenario,
    seed: u64,
    reference: &Reference,
    event: u64,
    prepare: impl FnOnce(&mut World),
) -> (Verdict, World) {
    let mut world = world_for(&scenario.node, seed);
    prepare(&mut world);
    let verdict = compare(&mut world, scenario, reference, event);
    (verdict, world)
}

/// Runs a scenario on a new cluster without a crash of its own making.
///
/// # Errors
/// If it does not hold, or does not settle after it.
pub fn measure(cluster: &mut impl Cluster, scenario: &Scenario) -> Result<Reference, Verdict> {
    match run::play(cluster, scenario) {
        Verdict::Held => {}
        other => return Err(other),
    }
    let (events, end) = (cluster.handled(), cluster.elapsed());
    match finish(cluster, scenario, end) {
        Verdict::Held => Ok(Reference { events, phases: cluster.look(phases) }),
        other => Err(other),
    }
}

/// Runs a scenario on a new cluster, and kills the agent after that event. What the scenario expects may come later than it says,
/// and is not insisted on; invariants hold all the time, and in the end all pods are in the phases of the reference.
pub fn compare(cluster: &mut impl Cluster, scenario: &Scenario, reference: &Reference, event: u64) -> Verdict {
    cluster.crash_after(event, BACK_AFTER);
    let mut end = Duration::ZERO;
    for step in &scenario.steps {
        follow(cluster, step);
        end = cluster.elapsed();
        if let Some(broken) = first_broken(cluster) {
            return Verdict::Broke(broken);
        }
    }
    match finish(cluster, scenario, end) {
        Verdict::Held => {}
        other => return other,
    }
    let phases = cluster.look(phases);
    if phases == reference.phases {
        return Verdict::Held;
    }
    let unlike = format!("pods are {phases:?}, and without the crash {:?}", reference.phases);
    Verdict::Unmet(scenario.steps.len(), cluster.elapsed(), vec![unlike])
}

/// Does a step's deeds once what was to come before them has, or would have had the time to.
pub(crate) fn follow(cluster: &mut impl Cluster, step: &Step) {
    if let Some(at) = step.at {
        cluster.run_until(at);
    }
    cluster.run_until(cluster.elapsed() + step.wait.unwrap_or_default());
    // A crash may leave nothing to do it to: that is not what this is about.
    let _done = act(cluster, step);
    if let Some(expect) = &step.expect {
        let state = state_only(expect);
        let until = cluster.elapsed() + expect.within.unwrap_or_default() + DELAYS;
        cluster.run_while(until, |view| view.witness.first_broken().is_none() && !unmet(&state, view).is_empty());
    }
    if let Some(expect) = &step.holds {
        cluster.run_until(cluster.elapsed() + expect.within.unwrap_or_default());
    }
}

/// What does not count how often something was done.
fn state_only(expect: &Expect) -> Expect {
    let of_pod = |pod: &PodExpect| PodExpect {
        name: pod.name.clone(),
        namespace: pod.namespace.clone(),
        gone: pod.gone,
        phase: pod.phase.clone(),
        ready: pod.ready,
        running: pod.running,
        ..PodExpect::default()
    };
    Expect {
        pods: expect.pods.iter().map(of_pod).collect(),
        node_ready: expect.node_ready,
        nothing_left: expect.nothing_left,
        settled: expect.settled,
        ..Expect::default()
    }
}

/// Ends all faults, lets the run go on and waits until it has settled.
fn finish(cluster: &mut impl Cluster, scenario: &Scenario, end: Duration) -> Verdict {
    cluster.run_until(end);
    heal(cluster);
    cluster.run_until(end + GOES_ON);
    let until = end + GOES_ON + SETTLES_WITHIN + config_for(&scenario.node).pods.runtime_request_timeout;
    let met = cluster.run_while(until, |view| view.witness.first_broken().is_none() && !not_at_rest(view).is_empty());
    match first_broken(cluster) {
        Some(broken) => Verdict::Broke(broken),
        None if !met => Verdict::Unmet(0, cluster.elapsed(), cluster.look(not_at_rest)),
        None => Verdict::Held,
    }
}

fn phases(view: View<'_>) -> BTreeMap<String, String> {
    let pods = view.api.store.list("pods", "");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    pods.map(|pod| (text(&pod["metadata"]["name"]), text(&pod["status"]["phase"]))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMOKE: &str = r#"
about: A pod with an init container, a volume and a probe runs and goes, and a job ends.
stages: [model]
steps:
  - apply:
      - kind: ConfigMap
        metadata: {name: settings}
        data: {colour: blue}
      - kind: Pod
        metadata: {name: web, annotations: {sim.keelson.dev/init: "exit=0@1s*"}}
        spec:
          terminationGracePeriodSeconds: 5
          volumes: [{name: settings, configMap: {name: settings}}]
          initContainers: [{name: init, image: "busybox:1.36"}]
          containers:
            - name: main
              image: nginx:1.27
              volumeMounts: [{name: settings, mountPath: /settings}]
              readinessProbe: {exec: {command: ["true"]}, periodSeconds: 2}
              lifecycle: {preStop: {sleep: {seconds: 1}}}
      - kind: Pod
        metadata: {name: job, annotations: {sim.keelson.dev/main: "exit=0@3s*"}}
        spec:
          restartPolicy: Never
          containers: [{name: main, image: "busybox:1.36"}]
    expect: {within: 20s, pods: [{name: web, ready: true}, {name: job, phase: Succeeded}]}
  - delete: {name: web}
    expect: {within: 20s, pods: [{name: web, gone: true}]}
  - expect: {within: 30s, settled: true}
"#;

    // POD-090, S7: whatever was under way, the next life sees it, and carries on.
    #[test]
    fn crash_after_any_event_leaves_no_trace() {
        let scenario = Scenario::parse("smoke", SMOKE).unwrap();
        let reference = reference(&scenario, 0).unwrap_or_else(|verdict| panic!("without a crash: {verdict}"));
        assert!(reference.events > 100, "{} events", reference.events);
        let verdicts = (1..=reference.events).map(|event| (event, killed_after(&scenario, 0, &reference, event, |_| {}).0));
        let failed: Vec<String> = verdicts
            .filter(|(_, verdict)| !verdict.held())
            .map(|(event, verdict)| format!("killed after event {event}: {verdict}"))
            .collect();
        assert!(failed.is_empty(), "{} of {}\n{}", failed.len(), reference.events, failed.join("\n"));
    }
}
