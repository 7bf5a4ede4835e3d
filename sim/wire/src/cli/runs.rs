//! The commands that run scenarios and swarms, and what they print of a failure: seed, commit, what broke, how to replay it.
//! Upstream: none.
//! Differs: nothing on purpose.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use model::scenario::Scenario;
use model::scenario::crash_points;
use model::scenario::run::Verdict;
use model::world::World;

use super::{BROKE, Crashpoints, Determinism, HELD, IMPOSSIBLE, Run, StageArg, Swarm};
use crate::stage;

/// What one run came to.
struct Ran {
    verdict: Verdict,
    digest: u64,
    lines: Vec<String>,
    /// How many panics were planted, and how many of them never struck.
    panics: (usize, usize),
}

fn lines_of(world: &World) -> Vec<String> {
    world.lines.iter().flatten().map(|line| format!("{:>10.4} {}", line.at.as_secs_f64(), line.text)).collect()
}

fn watched(lines: bool) -> impl FnOnce(&mut World) {
    move |world| {
        world.keep_digest();
        if lines {
            world.lines = Some(Vec::new());
        }
    }
}

fn one_scenario(scenario: &Scenario, at: StageArg, seed: u64, lines: bool) -> Ran {
    match at {
        StageArg::Model => {
            let (verdict, world) = model::scenario::run::run(scenario, seed, watched(lines));
            Ran { verdict, digest: world.digest().unwrap_or(0), lines: lines_of(&world), panics: (0, 0) }
        }
        StageArg::Sim => of(stage::run_scenario(scenario, seed)),
    }
}

fn one_swarm(at: StageArg, seed: u64, digest: bool, lines: bool) -> Ran {
    match at {
        StageArg::Model => {
            let prepare = |world: &mut World| {
                if digest || lines {
                    watched(lines)(world);
                }
            };
            let (verdict, world, plan) = model::swarm::run(seed, prepare);
            let mut told = lines_of(&world);
            if !verdict.held() {
                told.push(format!("{plan:?}"));
            }
            Ran { verdict, digest: world.digest().unwrap_or(0), lines: told, panics: plan.panics }
        }
        StageArg::Sim => {
            let (outcome, panics) = stage::run_swarm(seed);
            Ran { panics, ..of(outcome) }
        }
    }
}

fn of(outcome: stage::Outcome) -> Ran {
    Ran { verdict: outcome.verdict, digest: outcome.digest, lines: outcome.lines, panics: (0, 0) }
}

/// Runs scenario files.
pub(super) fn run(options: &Run) -> u8 {
    let mut files = Vec::new();
    for path in &options.files {
        if let Err(error) = collect(path, &mut files) {
            complain!("{}: {error}", path.display());
            return IMPOSSIBLE;
        }
    }
    let seeds = match (&options.seeds, options.seed) {
        (Some(seeds), _) => seeds.clone(),
        (None, seed) => seed.unwrap_or(1)..seed.unwrap_or(1) + 1,
    };
    let mut code = HELD;
    for file in files {
        let scenario = match read(&file) {
            Ok(scenario) => scenario,
            Err(error) => {
                complain!("{error}");
                code = code.max(IMPOSSIBLE);
                continue;
            }
        };
        for at in [StageArg::Model, StageArg::Sim] {
            if options.stage.is_some_and(|only| only != at) || !scenario.stages.contains(&at.stage()) {
                continue;
            }
            for seed in seeds.clone() {
                code = code.max(told(&file, at, seed, options, one_scenario(&scenario, at, seed, options.lines)));
            }
        }
    }
    code
}

fn told(file: &Path, at: StageArg, seed: u64, options: &Run, ran: Ran) -> u8 {
    let held = ran.verdict.held();
    if options.lines {
        ran.lines.iter().for_each(|line| say!("{line}"));
    }
    if options.output == "json" {
        let line = serde_json::json!({
            "file": file, "stage": at.name(), "seed": seed, "held": held, "verdict": ran.verdict.to_string(),
            "digest": format!("{:016x}", ran.digest),
        });
        say!("{line}");
    } else if held {
        say!("held   {} stage {} seed {seed} digest {:016x}", file.display(), at.name(), ran.digest);
    } else {
        say!("BROKE  {} stage {} seed {seed} commit {}", file.display(), at.name(), commit());
        say!("       {}", ran.verdict);
        say!("       replay: keelson-sim run {} --stage {} --seed {seed} --lines", file.display(), at.name());
    }
    if held { HELD } else { BROKE }
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if !path.is_dir() {
        std::fs::metadata(path)?;
        files.push(path.to_owned());
        return Ok(());
    }
    let mut entries: Vec<PathBuf> = std::fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            collect(&entry, files)?;
        } else if entry.extension().is_some_and(|e| e == "yaml") {
            files.push(entry);
        }
    }
    Ok(())
}

fn read(file: &Path) -> anyhow::Result<Scenario> {
    let text = std::fs::read_to_string(file)?;
    Ok(Scenario::parse(&file.display().to_string(), &text)?)
}

/// The commit that this was built from, where it is known.
fn commit() -> &'static str {
    option_env!("KEELSON_COMMIT").unwrap_or("unknown")
}

/// Runs a range of seeds, on all cores in stage model, on one in stage sim, whose tasks share what is global in the process.
fn all(at: StageArg, first: u64, seeds: u64, run: impl Fn(u64) -> Option<String> + Sync) -> Vec<String> {
    let next = AtomicU64::new(first);
    let failed = Mutex::new(Vec::new());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + seeds {
                return;
            }
            if let Some(failure) = run(seed) {
                failed.lock().unwrap_or_else(PoisonError::into_inner).push((seed, failure));
            }
        }
    };
    let threads = match at {
        StageArg::Model => std::thread::available_parallelism().map_or(1, usize::from),
        StageArg::Sim => 1,
    };
    if threads == 1 {
        work();
    } else {
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(work);
            }
        });
    }
    let mut failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.sort();
    failed.into_iter().map(|(_, failure)| failure).collect()
}

/// Runs generated pods and faults.
pub(super) fn swarm(options: &Swarm) -> u8 {
    let began = clock();
    let at = options.stage;
    let (planted, idle) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failed = all(at, options.first, options.seeds, |seed| {
        let ran = one_swarm(at, seed, false, options.lines);
        planted.fetch_add(ran.panics.0, Ordering::Relaxed);
        idle.fetch_add(ran.panics.1, Ordering::Relaxed);
        if options.lines {
            ran.lines.iter().for_each(|line| say!("{line}"));
        }
        let more = ran.lines.last().cloned().unwrap_or_default();
        let replay = format!("keelson-sim swarm --stage {} --first {seed} --seeds 1 --lines", at.name());
        (!ran.verdict.held()).then(|| {
            format!("BROKE  seed {seed} commit {}\n       {}\n       {more}\n       replay: {replay}", commit(), ran.verdict)
        })
    });
    say!("{} panics were planted, {} of them never struck", planted.into_inner(), idle.into_inner());
    summary("swarm", at, options.seeds, began.elapsed(), &failed)
}

/// Runs each seed twice.
pub(super) fn determinism(options: &Determinism) -> u8 {
    let mut code = HELD;
    for at in [StageArg::Model, StageArg::Sim] {
        if options.stage.is_some_and(|only| only != at) {
            continue;
        }
        let began = clock();
        let failed = all(at, options.first, options.seeds, |seed| {
            let (one, two) = (one_swarm(at, seed, true, false).digest, one_swarm(at, seed, true, false).digest);
            (one != two).then(|| format!("seed {seed}: {one:016x} and {two:016x}"))
        });
        code = code.max(summary("determinism", at, options.seeds, began.elapsed(), &failed));
    }
    code
}

/// Kills the agent after each event of a scenario.
pub(super) fn crashpoints(options: &Crashpoints) -> u8 {
    let scenario = match read(&options.file) {
        Ok(scenario) => scenario,
        Err(error) => {
            complain!("{error}");
            return IMPOSSIBLE;
        }
    };
    let mut code = HELD;
    for at in [StageArg::Model, StageArg::Sim] {
        if options.stage.is_none_or(|only| only == at) && scenario.stages.contains(&at.stage()) {
            code = code.max(crashpoints_in(&scenario, at, options));
        }
    }
    code
}

fn crashpoints_in(scenario: &Scenario, at: StageArg, options: &Crashpoints) -> u8 {
    let began = clock();
    let seed = options.seed;
    let measured = match at {
        StageArg::Model => crash_points::reference(scenario, seed),
        StageArg::Sim => stage::reference(scenario, seed),
    };
    let reference = match measured {
        Ok(reference) => reference,
        Err(verdict) => {
            complain!("the scenario does not hold without a crash: {verdict}");
            return BROKE;
        }
    };
    let (first, last) = match options.event {
        Some(event) => (event, event),
        None => (1, reference.events),
    };
    let failed = all(at, first, last + 1 - first, |event| {
        let ran = match at {
            StageArg::Model => {
                let (verdict, world) = crash_points::killed_after(scenario, seed, &reference, event, watched(options.lines));
                Ran { verdict, digest: 0, lines: lines_of(&world), panics: (0, 0) }
            }
            StageArg::Sim => of(stage::killed_after(scenario, seed, &reference, event)),
        };
        if options.lines {
            ran.lines.iter().for_each(|line| say!("{line}"));
        }
        let replay = format!(
            "keelson-sim crashpoints {} --stage {} --seed {seed} --event {event} --lines",
            options.file.display(),
            at.name()
        );
        (!ran.verdict.held()).then(|| {
            format!("BROKE  killed after event {event} commit {}\n       {}\n       replay: {replay}", commit(), ran.verdict)
        })
    });
    summary("crash points", at, last + 1 - first, began.elapsed(), &failed)
}

fn summary(what: &str, at: StageArg, runs: u64, took: Duration, failed: &[String]) -> u8 {
    for failure in failed.iter().take(20) {
        say!("{failure}");
    }
    let rate = runs as f64 / took.as_secs_f64() * 60.0;
    say!(
        "{what} in stage {}: {runs} runs, {} failed, {:.1} s, {rate:.0} runs a minute",
        at.name(),
        failed.len(),
        took.as_secs_f64()
    );
    if failed.is_empty() { HELD } else { BROKE }
}

#[expect(clippy::disallowed_methods, reason = "how long it took is for people; no run sees it")]
fn clock() -> Instant {
    Instant::now()
}
