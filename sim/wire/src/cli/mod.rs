//! The command line of `keelson-sim`.
//! Upstream: none.
//! Differs: nothing on purpose.

pub(crate) mod host;
/// A line on standard output. Whoever reads it may have enough (`| head`): a closed pipe is no reason to fail.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _closed = writeln!(std::io::stdout(), $($text)*);
    }};
}

/// A line on standard error, likewise.
macro_rules! complain {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _closed = writeln!(std::io::stderr(), $($text)*);
    }};
}

mod runs;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// It held.
const HELD: u8 = 0;
/// An expectation or an invariant broke.
const BROKE: u8 = 1;
/// The run could not be made.
const IMPOSSIBLE: u8 = 2;
/// Bad usage.
const USAGE: u8 = 64;

/// Runs the node agent against pretend API servers, runtimes and machines; a failure is a file and a seed.
#[derive(Debug, Parser)]
#[command(name = "keelson-sim", version)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run scenario files.
    Run(Run),
    /// Run generated pods and faults, one run for each seed.
    Swarm(Swarm),
    /// Run each seed twice and compare what was decided.
    Determinism(Determinism),
    /// Kill the agent after each event that a scenario handles, one run for each.
    Crashpoints(Crashpoints),
    /// A one-node cluster in this process, on real sockets, for kubectl.
    Up(Up),
}

/// Where a run takes place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StageArg {
    /// The core against the models, without wires.
    Model,
    /// The agent over simulated networks.
    Sim,
}

impl StageArg {
    fn stage(self) -> model::scenario::Stage {
        match self {
            Self::Model => model::scenario::Stage::Model,
            Self::Sim => model::scenario::Stage::Sim,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Sim => "sim",
        }
    }
}

#[derive(Args, Debug)]
struct Run {
    /// Scenario files, or directories of them.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Where; every stage that a file names if not given.
    #[arg(long)]
    stage: Option<StageArg>,
    /// One seed.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Seeds from A up to but not including B, as A..B.
    #[arg(long, value_parser = range)]
    seeds: Option<std::ops::Range<u64>>,
    /// Print what happened, line by line.
    #[arg(long)]
    lines: bool,
    /// Print one JSON object for each run.
    #[arg(long, value_parser = ["text", "json"], default_value = "text")]
    output: String,
}

#[derive(Args, Debug)]
struct Swarm {
    /// Where.
    #[arg(long, default_value = "model")]
    stage: StageArg,
    /// How many seeds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Print what happened, line by line; for one seed.
    #[arg(long)]
    lines: bool,
}

#[derive(Args, Debug)]
struct Determinism {
    /// Where; both if not given.
    #[arg(long)]
    stage: Option<StageArg>,
    /// How many seeds in each stage.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    first: u64,
}

#[derive(Args, Debug)]
struct Crashpoints {
    /// The scenario.
    file: PathBuf,
    /// Where; every stage that the file names if not given.
    #[arg(long)]
    stage: Option<StageArg>,
    /// The seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// After this event only.
    #[arg(long)]
    event: Option<u64>,
    /// Print what happened, line by line; for one event.
    #[arg(long, requires = "event")]
    lines: bool,
}

#[derive(Args, Debug)]
struct Up {
    /// `sim` for a runtime that only pretends, or the endpoint of a real one such as unix:///run/containerd/containerd.sock.
    #[arg(long, default_value = "sim")]
    runtime: String,
    /// Where files go: certificates, kubeconfig, the pretend runtime's socket. Removed at the end.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// End once the sample pod runs, instead of on Ctrl-C.
    #[arg(long)]
    once: bool,
    /// The number for the verbosity of the agent's log.
    #[arg(long, default_value_t = 0)]
    v: u32,
}

fn range(text: &str) -> Result<std::ops::Range<u64>, String> {
    let wrong = || format!("{text:?} is not a range of seeds; write it as 0..100");
    let (from, to) = text.split_once("..").ok_or_else(wrong)?;
    let (from, to): (u64, u64) = (from.parse().map_err(|_| wrong())?, to.parse().map_err(|_| wrong())?);
    if from < to { Ok(from..to) } else { Err(wrong()) }
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let line = match Line::try_parse() {
        Ok(line) => line,
        Err(error) => {
            let asked = !error.use_stderr();
            // A closed standard output is no reason to fail.
            let _closed = error.print();
            return if asked { ExitCode::from(HELD) } else { ExitCode::from(USAGE) };
        }
    };
    let code = match line.command {
        Command::Run(run) => runs::run(&run),
        Command::Swarm(swarm) => runs::swarm(&swarm),
        Command::Determinism(determinism) => runs::determinism(&determinism),
        Command::Crashpoints(crashpoints) => runs::crashpoints(&crashpoints),
        Command::Up(up) => up::up(&up),
    };
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        use clap::CommandFactory as _;
        Line::command().debug_assert();
        assert_eq!(range("3..9"), Ok(3..9));
        assert!(range("9..3").is_err() && range("x").is_err());
    }
}
