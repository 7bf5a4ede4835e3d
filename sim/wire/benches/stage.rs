//! What a run in stage `sim` costs: the whole agent with HTTP and gRPC over simulated networks.
//!
//! `cargo bench -p wire`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use model::scenario::Scenario;
use wire::stage;

const SMOKE: &str = "
about: bench
stages: [sim]
steps:
  - apply: [{kind: Pod, metadata: {name: p0}, spec: {containers: [{name: main, image: 'busybox:1.36'}]}}]
    expect: {within: 20s, node-ready: true, pods: [{name: p0, ready: true}]}
  - holds: {within: 20s, node-ready: true}
  - delete: {name: p0}
    holds: {within: 4s, node-ready: true}
";

fn benches(criterion: &mut Criterion) {
    let scenario = Scenario::parse("bench", SMOKE).expect("it parses");
    let mut group = criterion.benchmark_group("sim");
    group.sample_size(20).throughput(Throughput::Elements(1));
    let mut seed = 0;
    group.bench_function("25_seconds_of_one_pod", |bencher| {
        bencher.iter(|| {
            seed += 1;
            let outcome = stage::run_scenario(&scenario, seed);
            assert!(outcome.verdict.held(), "{}", outcome.verdict);
            black_box(outcome.digest)
        });
    });
    group.finish();
}

criterion_group!(stages, benches);
criterion_main!(stages);
