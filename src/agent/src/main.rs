//! The daemon `keelson`: a kubelet's command line, and nothing in it that is not in the library.

use std::io::Write as _;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::process::ExitCode;

use agent::config::{EXIT_CODE, Invocation, Machine, Resolved, load};
use agent::env::Clock as _;
use agent::log_lines::LogLines;
use agent::{daemon, telemetry};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match load(&args, &machine()) {
        Err(error) => {
            complain(&error);
            ExitCode::from(EXIT_CODE)
        }
        Ok(Invocation::Print(text)) => {
            // Whoever reads it may have enough (`| head`).
            let _closed = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Ok(Invocation::Run(resolved)) => run(*resolved),
    }
}

/// Says what keeps it from running. That nobody can be told is no reason to fail in another way.
fn complain(error: &dyn std::fmt::Display) {
    let _closed = writeln!(std::io::stderr(), "{error}");
}

/// Of a panic the log learns where it was, and what it said if that is a text of the program: what was put together at run time may hold
/// what nobody is to read.
fn tell_of_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let said = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or_default();
        let at = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(at, said, "panicked");
    }));
}

fn run(resolved: Resolved) -> ExitCode {
    let log = match telemetry::init(&resolved.logging, || daemon::SystemClock.now()) {
        Ok(log) => log,
        Err(error) => {
            complain(&error);
            return ExitCode::FAILURE;
        }
    };
    tell_of_panics();
    // Whatever ends it, what it had to say last is written.
    let ended = std::panic::catch_unwind(AssertUnwindSafe(|| run_logged(resolved, &log)));
    log.flush();
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn run_logged(resolved: Resolved, log: &LogLines) -> ExitCode {
    for warning in &resolved.warnings {
        tracing::warn!("{warning}");
    }
    // Two threads beside the loop's own, and what blocks has threads of its own. Those are made when they are needed; the bounds that
    // keep a pod from holding them all are the host adapter's; names are looked up on others (`net/names.rs`).
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).max_blocking_threads(4096).enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(daemon::run(resolved, log.clone()));
            // A hung file system must not keep the process from ending.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // API-291
            tracing::error!(err = %format_args!("failed to run Kubelet: {error:#}"), "command failed");
            ExitCode::FAILURE
        }
    }
}

fn machine() -> Machine {
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Machine {
        hostname,
        working_dir: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
        home: std::env::var("HOME").ok().filter(|home| home.starts_with('/')),
        cgroup_v2: std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
        online_cpus: std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default(),
    }
}
