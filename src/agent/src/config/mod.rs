//! What the agent is set to: flags, the configuration file, drop-ins and defaults, resolved before anything is opened.
//! Upstream: cmd/kubelet/app (server.go, options), pkg/kubelet/apis/config.
//! Differs: an unknown flag or field is an error, all problems come at once, and the exit code for them is 64 (upstream falls
//! back to lenient decoding with a warning, stops at the first problem, and exits with 1).

mod cpuset;
mod credential_providers;
mod decode;
mod defaults;
mod duration;
mod effects;
mod file;
mod flag_table;
mod flags;
mod gates;
mod labels;
mod problem;
mod quantity;
mod resolve;
mod schema;
mod suggest;
mod thresholds;
mod validate;

#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub use credential_providers::read_credential_providers;
pub use duration::GoDuration;
pub use file::SourceFile;
pub use problem::{ConfigError, EXIT_CODE, Problem};
pub use resolve::{
    Api, Auth, Authorization, CertificateSource, CredentialProvider, LogSettings, Process, Resolved, Runtime, Server, Terms, Tls,
    TracingSettings,
};
pub use schema::KubeletConfiguration;

use defaults::{set_defaults, without_file};
use flags::{CommandLine, Settings};

/// The version of Kubernetes that this agent stands in for; kubeadm and the API server read it (API-244).
pub const KUBERNETES_VERSION: &str = "v1.36.2";

/// What of the machine settings depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The host's name.
    pub hostname: String,
    /// Where relative paths of flags begin. Absolute.
    pub working_dir: PathBuf,
    /// The home of the user that the process runs as; `None` if there is none.
    pub home: Option<String>,
    /// Whether the host has cgroup v2.
    pub cgroup_v2: bool,
    /// The CPUs that are online, as the kernel lists them, such as `0-3,8`; empty if it does not tell.
    pub online_cpus: String,
}

/// What a command line asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Invocation {
    /// To run with these settings.
    Run(Box<Resolved>),
    /// To print this text to standard output and exit with 0: `--version`, `--help`.
    Print(String),
}

/// The files that settings come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// The `--config` file.
    pub config: Option<SourceFile>,
    /// The files of `--config-dir` in the order in which they apply; `None` if that flag was not given.
    pub drop_ins: Option<Vec<SourceFile>>,
}

/// Understands a command line (without the program's name) and reads the files that it names.
///
/// # Errors
/// Everything that is wrong with flags, files and settings; exit with [`EXIT_CODE`].
pub fn load(args: &[String], machine: &Machine) -> Result<Invocation, ConfigError> {
    settle(args, machine, |config, config_dir, problems| {
        let mut keep = |result: Result<SourceFile, Problem>| result.map_err(|problem| problems.push(problem)).ok();
        let config = if config.is_empty() { None } else { keep(file::read_config(config, &machine.working_dir)) };
        let drop_ins = if config_dir.is_empty() {
            None
        } else {
            file::read_drop_ins(config_dir, &machine.working_dir).map_err(|problem| problems.push(problem)).ok()
        };
        Sources { config, drop_ins }
    })
}

/// The same with files that the caller has read already: no I/O, for the simulator and `check-config`.
///
/// # Errors
/// As [`load`].
pub fn assemble(args: &[String], sources: Sources, machine: &Machine) -> Result<Invocation, ConfigError> {
    settle(args, machine, |_, _, _| sources)
}

/// Precedence: defaults, then the file, then drop-ins, then flags (API-240).
fn settle(
    args: &[String],
    machine: &Machine,
    sources: impl FnOnce(&str, &str, &mut Vec<Problem>) -> Sources,
) -> Result<Invocation, ConfigError> {
    let mut problems = Vec::new();
    let line = CommandLine::parse(args, &mut problems);
    let mut settings = Settings { flags: flags::Flags::default(), config: without_file() };
    line.apply(&mut settings, &mut problems);
    if problems.is_empty() {
        if settings.flags.help {
            return Ok(Invocation::Print(flags::help()));
        }
        match settings.flags.version.as_str() {
            "" | "false" => {}
            // `raw` prints a Go struct upstream; nobody parses it, so it gets the same line.
            _ => return Ok(Invocation::Print(format!("Kubernetes {KUBERNETES_VERSION}\n"))),
        }
    }

    let sources = sources(&settings.flags.config, &settings.flags.config_dir, &mut problems);
    let mut config = match &sources.config {
        Some(file) => file::base(file, &mut problems),
        None => without_file(),
    };
    if let Some(drop_ins) = &sources.drop_ins {
        config = file::merge(config, drop_ins, &mut problems);
    }
    // Flags once more, over what the files say; what is wrong with them is known by now.
    settings.config = config;
    line.apply(&mut settings, &mut Vec::new());

    let (gates, gate_problems) = gates::check(&settings.config.feature_gates);
    problems.extend(gate_problems);
    if !problems.is_empty() {
        // Files that could not be read in full leave fields at zero; checking those would only add noise.
        set_defaults(&mut settings.config);
    }
    problems.extend(validate::validate(&settings.config, &gates, machine.cgroup_v2));
    let mut warnings = line.warnings();
    warnings.extend(gates::warnings(&settings.config.feature_gates));
    match resolve::resolve(&settings, gates, machine, warnings) {
        Ok(resolved) if problems.is_empty() => Ok(Invocation::Run(Box::new(resolved))),
        Ok(_) => Err(ConfigError { problems }),
        Err(more) => {
            problems.extend(more);
            Err(ConfigError { problems })
        }
    }
}
