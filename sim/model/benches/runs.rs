//! What deciding costs: whole runs in stage `model`, core and models together, without wires.
//!
//! `cargo bench -p model`. A run of the 25-second scenario per core and minute is what the swarm's size hangs on; the two with
//! 100 pods show what the core does when pods start, and what it does for pods that merely run.

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use model::scenario::Scenario;
use model::scenario::run::run;
use model::world::World;

fn scenario(pods: usize, then: &str) -> Scenario {
    let mut text = String::from("about: bench\nstages: [model]\nsteps:\n  - apply:\n");
    for number in 0..pods {
        writeln!(
            text,
            "      - {{kind: Pod, metadata: {{name: p{number}}}, spec: {{containers: [{{name: main, image: 'busybox:1.36'}}]}}}}"
        )
        .expect("text");
    }
    text.push_str("    expect:\n      within: 120s\n      pods:\n");
    for number in 0..pods {
        writeln!(text, "        - {{name: p{number}, ready: true}}").expect("text");
    }
    text.push_str(then);
    Scenario::parse("bench", &text).expect("it parses")
}

/// The scenario, held: its world.
fn held(scenario: &Scenario, seed: u64) -> World {
    let (verdict, world) = run(scenario, seed, |_| {});
    assert!(verdict.held(), "{verdict}");
    world
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("model");
    group.sample_size(20).throughput(Throughput::Elements(1));
    let smoke = scenario(
        1,
        "  - holds: {within: 20s, node-ready: true}\n  - delete: {name: p0}\n    holds: {within: 4s, node-ready: true}\n",
    );
    let mut seed = 0;
    group.bench_function("25_seconds_of_one_pod", |bencher| {
        bencher.iter(|| {
            seed += 1;
            black_box(held(&smoke, seed).handled())
        });
    });
    let hundred = scenario(100, "");
    group.bench_function("100_pods_from_nothing_to_ready", |bencher| bencher.iter(|| black_box(held(&hundred, 7).handled())));
    group.bench_function("a_minute_of_100_idle_pods", |bencher| {
        bencher.iter_batched(
            || held(&hundred, 7),
            |mut world| {
                world.run_until(world.elapsed() + Duration::from_secs(60));
                world
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(runs, benches);
criterion_main!(runs);
