//! Parts that run one after another on one bed, which is taken down whatever they do.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// One part of a suite: it leaves no pod behind, for the next finds the same containerd and the same agent.
pub(crate) type Part<B> = fn(&mut B) -> anyhow::Result<()>;

/// Runs the parts that `KEELSON_LIVE` asks for, or all. `up` says what is missing on this machine, or makes the bed; `between` is
/// done after each part; `down` is told whether anything failed.
///
/// # Panics
/// If anything failed, with all of it.
pub(crate) fn run<B: 'static>(
    name: &str,
    parts: &[(&'static str, Part<B>)],
    up: impl FnOnce() -> Result<anyhow::Result<B>, String> + Send + 'static,
    between: fn(&B) -> anyhow::Result<()>,
    down: fn(B, bool) -> anyhow::Result<()>,
) {
    let parts = parts.to_vec();
    let name = name.to_owned();
    // A thread of its own, since it moves into another network and can never come back.
    let ran = std::thread::spawn(move || match up() {
        Ok(made) => run_here(&parts, made, between, down),
        Err(missing) => {
            println!("skipped: {name}: {missing}");
            Vec::new()
        }
    });
    let failures = ran.join().expect("the suite itself does not panic");
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

fn run_here<B>(
    parts: &[(&str, Part<B>)],
    made: anyhow::Result<B>,
    between: fn(&B) -> anyhow::Result<()>,
    down: fn(B, bool) -> anyhow::Result<()>,
) -> Vec<String> {
    let mut bed = match made {
        Ok(bed) => bed,
        Err(error) => return vec![format!("the test bed: {error:#}")],
    };
    let wanted = std::env::var("KEELSON_LIVE").unwrap_or_default();
    let mut failures = Vec::new();
    for (name, part) in parts.iter().filter(|(name, _)| name.contains(&wanted)) {
        let began = Instant::now();
        let ran = catch_unwind(AssertUnwindSafe(|| part(&mut bed)));
        // Also after a failure, so that the next part does not fail for it.
        let cleared = between(&bed);
        let failure = match ran.map(|ran| ran.and(cleared)) {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(_) => Some("it panicked; see above".to_owned()),
        };
        println!("{} {name} ({:?})", if failure.is_none() { "ok" } else { "FAILED" }, began.elapsed());
        failures.extend(failure.map(|why| format!("{name}: {why}")));
    }
    if let Err(error) = down(bed, !failures.is_empty()) {
        failures.push(format!("taking it down: {error:#}"));
    }
    failures
}
