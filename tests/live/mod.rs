//! Live tests: the daemon against a containerd and a pretend API server, on any Linux machine that has what they need (as root:
//! containerd, runc, CNI plugins, a static busybox). Everything runs in namespaces of its own and leaves nothing behind.
//!
//! `KEELSON_LIVE=word` runs the parts whose names contain it; `KEELSON_BINARY` tests that binary instead of building one;
//! `KEELSON_LIVE_KEEP=1` keeps the files of the run.
#![expect(dead_code, reason = "what the parts that follow need")]
#![expect(clippy::disallowed_methods, reason = "real time, and threads that wait for it, are what these tests are about")]

mod agent;
mod api;
mod bed;
mod containerd;
mod enclosure;
mod image;
mod node;
mod pods;
mod requirements;
mod wait;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use bed::Bed;

/// One part of the suite: it leaves no pod behind, for the next finds the same containerd and the same agent.
type Part = fn(&mut Bed) -> anyhow::Result<()>;

/// One test, not many, because its parts share a containerd and must come one after another, whatever runs them.
#[test]
fn the_agent_runs_pods_on_containerd() {
    let parts: &[(&str, Part)] = &[
        // NODE-040
        ("node_is_ready_within_five_seconds", node::is_ready_within_five_seconds),
        ("pod_runs_and_its_log_can_be_read", pods::runs_and_its_log_can_be_read),
        ("deletion_leaves_nothing", pods::deletion_leaves_nothing),
        ("agent_is_never_refused_anything", node::is_never_refused_anything),
    ];
    // A thread of its own, since it moves into another network and can never come back.
    let ran = std::thread::spawn(move || run(parts)).join();
    let failures = ran.expect("the suite itself does not panic");
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

/// Runs all parts; what failed.
fn run(parts: &[(&str, Part)]) -> Vec<String> {
    let machine = match requirements::machine() {
        Ok(machine) => machine,
        Err(missing) => {
            println!("skipped: live tests: {missing}");
            return Vec::new();
        }
    };
    let wanted = std::env::var("KEELSON_LIVE").unwrap_or_default();
    let began = Instant::now();
    let mut bed = match Bed::up(machine) {
        Ok(bed) => bed,
        Err(error) => return vec![format!("the test bed: {error:#}")],
    };
    println!("the test bed is up after {:?}", began.elapsed());
    let mut failures = Vec::new();
    for (name, part) in parts.iter().filter(|(name, _)| name.contains(&wanted)) {
        let began = Instant::now();
        let ran = catch_unwind(AssertUnwindSafe(|| part(&mut bed).and_then(|()| bed.delete_all_pods())));
        let failure = match ran {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(_) => Some("it panicked; see above".to_owned()),
        };
        println!("{} {name} ({:?})", if failure.is_none() { "ok" } else { "FAILED" }, began.elapsed());
        failures.extend(failure.map(|why| format!("{name}: {why}")));
    }
    if let Err(error) = bed.down(!failures.is_empty()) {
        failures.push(format!("taking it down: {error:#}"));
    }
    failures
}
