use std::time::Duration;

use model::scenario::{Scenario, Stage};

use super::*;

fn run(text: &str, seed: u64) -> Outcome {
    run_scenario(&Scenario::parse("test", text).unwrap(), seed)
}

#[track_caller]
fn holds(text: &str) {
    let outcome = run(text, 1);
    if !outcome.verdict.held() {
        if let Some(file) = std::env::var_os("KEELSON_LINES") {
            std::fs::write(file, outcome.lines.join("\n")).unwrap();
        }
        let last = &outcome.lines[outcome.lines.len().saturating_sub(30)..];
        panic!("{}\n{}", outcome.verdict, last.join("\n"));
    }
}

const SMOKE: &str = "
about: An ordinary pod runs and goes.
stages: [sim]
steps:
- at: 3s
  apply: [{metadata: {name: web}, spec: {containers: [{name: main, image: 'busybox:1.36', command: [sleep, '1000']}]}}]
  expect: {within: 10s, node-ready: true, pods: [{name: web, phase: Running, ready: true, running: 1}]}
- delete: {name: web}
  expect: {within: 60s, nothing-left: true, settled: true, pods: [{name: web, gone: true}], lives: 1}
";

#[test]
fn ordinary_pod_runs_and_goes() {
    holds(SMOKE);
}

#[test]
fn killed_agent_finds_its_containers_again() {
    holds(
        "
about: A restart of the agent changes no container.
stages: [sim]
steps:
- at: 3s
  apply: [{metadata: {name: web}, spec: {containers: [{name: main, image: 'busybox:1.36', command: [sleep, '1000']}]}}]
  expect: {within: 10s, pods: [{name: web, ready: true}]}
- crash: {back: 2s}
  expect: {within: 10s, lives: 2}
- holds: {within: 20s, node-ready: true, pods: [{name: web, phase: Running, ready: true, running: 1, starts: 1, restarts: 0}]}
- expect: {settled: true}
",
    );
}

#[test]
fn silent_api_server_is_survived() {
    holds(
        "
about: What happens in an outage that TCP survives is acted on after it.
stages: [sim]
steps:
- at: 3s
  apply: [{metadata: {name: web}, spec: {containers: [{name: main, image: 'busybox:1.36', command: [sleep, '1000']}]}}]
  expect: {within: 10s, pods: [{name: web, ready: true}]}
- api: {silent: 8s}
- wait: 1s
  apply: [{metadata: {name: late}, spec: {containers: [{name: main, image: 'busybox:1.36', command: [sleep, '1000']}]}}]
  expect: {within: 20s, pods: [{name: late, ready: true}, {name: web, ready: true, starts: 1}]}
",
    );
}

// kubernetes#125380
#[test]
fn watch_that_went_deaf_is_opened_again_while_the_lease_is_renewed() {
    holds(
        "
about: A gateway forgets the connections; the watch never hears again, and nobody tells it.
refs: [kubernetes#125380]
stages: [sim]
steps:
- at: 3s
  expect: {within: 20s, node-ready: true}
- at: 70s
  api: {forgotten: 3s}
- wait: 10s
  apply: [{metadata: {name: web}, spec: {containers: [{name: main, image: 'busybox:1.36', command: [sleep, '1000']}]}}]
  expect: {within: 170s, node-ready: true, pods: [{name: web, ready: true}]}
",
    );
}

#[test]
fn restart_of_the_api_server_and_a_lost_history_are_survived() {
    holds(
        "
about: Watches that end go on where they were; watches whose place is lost list anew.
stages: [sim]
steps:
- at: 3s
  apply: [{metadata: {name: web}, spec: {containers: [{name: main, image: 'busybox:1.36', command: [sleep, '1000']}]}}]
  expect: {within: 10s, pods: [{name: web, ready: true}]}
- api: {away: 3s}
- delete: {name: web}
  expect: {within: 50s, nothing-left: true, pods: [{name: web, gone: true}]}
- api: {compact: true, away: 1s}
  apply: [{metadata: {name: next}, spec: {containers: [{name: main, image: 'busybox:1.36', command: [sleep, '1000']}]}}]
  expect: {within: 30s, settled: true, pods: [{name: next, ready: true}]}
- api: {compact: true}
  apply: [{metadata: {name: last}, spec: {containers: [{name: main, image: 'busybox:1.36', command: [sleep, '1000']}]}}]
  expect: {within: 30s, settled: true, pods: [{name: last, ready: true}]}
",
    );
}

#[test]
fn restart_of_the_runtime_is_survived() {
    holds(
        "
about: The runtime goes away and comes back, with its containers and without.
stages: [sim]
steps:
- at: 3s
  apply: [{metadata: {name: web}, spec: {containers: [{name: main, image: 'busybox:1.36', command: [sleep, '1000']}]}}]
  expect: {within: 10s, pods: [{name: web, ready: true}]}
- runtime: {away: 5s}
- holds: {within: 20s, pods: [{name: web, running: 1, starts: 1}]}
- runtime: {away: 2s, containers-die: true}
- expect: {within: 60s, settled: true, pods: [{name: web, ready: true, running: 1, starts: 2}]}
",
    );
}

#[test]
fn planned_faults_reach_the_wire() {
    holds(
        "
about: Calls fail, hang, and take effect without an answer.
stages: [sim]
steps:
- at: 3s
  fault: {call: RunPodSandbox, fate: {fails: no luck}}
- fault: {call: CreateContainer, fate: reply-lost}
- fault: {call: PatchPodStatus, fate: reply-lost}
- fault: {call: UpdateLease, fate: throttled}
- fault: {call: SetUpVolume, fate: {fails: no luck}}
  apply: [{metadata: {name: web}, spec: {containers: [{name: main, image: 'busybox:1.36', command: [sleep, '1000']}]}}]
  expect: {within: 400s, settled: true, pods: [{name: web, ready: true, starts: 1}]}
",
    );
}

#[test]
fn panic_is_a_broken_invariant() {
    let record = Mutex::new(Record { last: Duration::from_secs(3), ..Record::default() });
    let verdict = panicked(&record, &"it went wrong");
    assert_eq!(verdict.to_string(), "invariant_nothing_panics broke at 3s: it went wrong");
}

// The same seed gives the same decisions, whatever ran before, and other tests run beside this one.
#[test]
fn same_seed_decides_the_same() {
    let crashing = SMOKE.replace("- delete", "- crash: {back: 300ms}\n- api: {away: 1s}\n- delete").replace("lives: 1", "lives: 2");
    let mut digests = Vec::new();
    for seed in 0..5 {
        let (first, second) = (run(&crashing, seed), run(&crashing, seed));
        assert!(first.verdict.held(), "seed {seed}: {}", first.verdict);
        if let Some(at) = first.lines.iter().zip(&second.lines).position(|(a, b)| a != b) {
            panic!("seed {seed} differs at line {at}:\n{}\n{}", first.lines[at], second.lines[at]);
        }
        assert_eq!(first, second, "seed {seed}");
        digests.push(first.digest);
    }
    digests.dedup();
    assert_eq!(digests.len(), 5);
}

// The full swarm is `keelson-sim swarm --stage sim`; this much is run with every test.
#[test]
fn swarm_of_seeds_holds_every_invariant_and_settles() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse().ok());
    let (first, seeds) = (number("KEELSON_SWARM_FIRST").unwrap_or(2), number("KEELSON_SWARM_SEEDS").unwrap_or(6));
    let mut failed = Vec::new();
    for seed in first..first + seeds {
        let (outcome, _) = run_swarm(seed);
        if !outcome.verdict.held() {
            if let Some(file) = std::env::var_os("KEELSON_LINES") {
                std::fs::write(file, outcome.lines.join("\n")).unwrap();
            }
            println!("seed {seed}: {}", outcome.verdict);
            failed.push(format!("seed {seed}: {}", outcome.verdict));
        }
    }
    assert!(failed.is_empty(), "{} of {seeds} seeds failed\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn every_scenario_of_this_stage_holds() {
    let mut folders = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../scenarios"))];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "yaml") {
                files.push(path);
            }
        }
    }
    files.sort();
    let mut failed = Vec::new();
    for file in &files {
        let name = file.display().to_string();
        let scenario = Scenario::parse(&name, &std::fs::read_to_string(file).unwrap()).unwrap();
        if scenario.stages.contains(&Stage::Sim) {
            let outcome = run_scenario(&scenario, 1);
            if !outcome.verdict.held() {
                failed.push(format!("{name}: {}", outcome.verdict));
            }
        }
    }
    assert!(failed.is_empty(), "{} of {} failed\n{}", failed.len(), files.len(), failed.join("\n"));
}
