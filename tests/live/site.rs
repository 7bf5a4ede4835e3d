//! What every agent under test stands on: namespaces, a cgroup, a containerd and a directory for all files, taken down as a whole.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use rustix::fs::FlockOperation;
use serde_json::{Value, json};

use super::agent::{Agent, Credentials, NODE, Surroundings, program};
use super::containerd::Containerd;
use super::enclosure::Enclosure;
use super::requirements::Machine;
use super::wait::until;

/// The cgroup above everything of the tests, so that an agent of the machine's own is not disturbed.
pub(crate) const CGROUP_ROOT: &str = "/keelson-live";

/// How long what is left may take to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// Keeps the files of a run.
const KEEP: &str = "KEELSON_LIVE_KEEP";

/// Namespaces and a runtime, for one agent.
pub(crate) struct Site {
    pub(crate) machine: Machine,
    pub(crate) enclosure: Enclosure,
    pub(crate) containerd: Containerd,
    /// Where all files are.
    pub(crate) directory: PathBuf,
    binary: PathBuf,
    _lock: OwnedFd,
}

impl Site {
    /// Brings it up; the calling thread is in the enclosure's network afterwards, for good.
    pub(crate) fn up(machine: Machine) -> anyhow::Result<Self> {
        let binary = program()?;
        // One at a time: there is one cgroup. What an earlier run that was killed left is cleared away.
        let lock = OwnedFd::from(fs::File::open(std::env::temp_dir())?);
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
        let directory = std::env::temp_dir().join("keelson-live");
        until_cgroups_are_gone()?;
        clear(&directory)?;
        fs::create_dir_all(&directory)?;
        let enclosure = Enclosure::new(&directory.join("shell.log"))?;
        let prepared = enclosure.enter_network().and_then(|()| make_cgroups());
        match prepared.and_then(|()| Containerd::start(&enclosure, &machine, &directory.join("containerd"))) {
            Ok(containerd) => Ok(Self { machine, enclosure, containerd, directory, binary, _lock: lock }),
            Err(error) => {
                show_end_of(&directory.join("containerd/containerd.log"));
                enclosure.close()?;
                until_cgroups_are_gone()?;
                if std::env::var_os(KEEP).is_none() {
                    clear(&directory)?;
                }
                Err(error)
            }
        }
    }

    /// Starts the agent with that kubeconfig; `client_ca` signs the clients of its HTTPS API.
    pub(crate) fn start_agent(&self, kubeconfig: &str, client_ca: &str) -> anyhow::Result<Agent> {
        self.start_agent_as("agent", NODE, Credentials::Kubeconfig(kubeconfig), client_ca)
    }

    /// The same, and there are manifests of static pods.
    pub(crate) fn start_agent_of_manifests(&self, kubeconfig: &str, client_ca: &str, manifests: &Path) -> anyhow::Result<Agent> {
        self.start("agent", NODE, Credentials::Kubeconfig(kubeconfig), client_ca, None, &json!({"staticPodPath": manifests}))
    }

    /// The same, with the shortest back-offs there are, so that tests see a container that keeps ending start again.
    pub(crate) fn start_impatient_agent(&self, kubeconfig: &str, client_ca: &str) -> anyhow::Result<Agent> {
        let settings = json!({
            "crashLoopBackOff": {"maxContainerRestartPeriod": "3s"}, "featureGates": {"KubeletCrashLoopBackOffMax": true},
        });
        self.start("agent", NODE, Credentials::Kubeconfig(kubeconfig), client_ca, None, &settings)
    }

    /// Starts an agent of that node, with its files in that folder. There is one at a time: it has the ports.
    pub(crate) fn start_agent_as(
        &self,
        folder: &str,
        node: &str,
        credentials: Credentials<'_>,
        client_ca: &str,
    ) -> anyhow::Result<Agent> {
        self.start(folder, node, credentials, client_ca, None, &json!({}))
    }

    /// The same with those settings, and its root directory there and not in the folder.
    pub(crate) fn start(
        &self,
        folder: &str,
        node: &str,
        credentials: Credentials<'_>,
        client_ca: &str,
        root: Option<&Path>,
        settings: &Value,
    ) -> anyhow::Result<Agent> {
        let directory = self.directory.join(folder);
        let own = directory.join("kubelet");
        fs::create_dir_all(&own)?;
        let surroundings = Surroundings {
            binary: &self.binary,
            directory: &directory,
            socket: &self.containerd.socket,
            node,
            credentials,
            client_ca,
            cgroup_root: CGROUP_ROOT,
            root: root.unwrap_or(&own),
            settings,
        };
        Agent::start(&self.enclosure, &surroundings)
    }

    /// Ends everything. The ends of those logs and of its own are shown first if something failed.
    pub(crate) fn down(self, failed: bool, logs: &[&str]) -> anyhow::Result<()> {
        if failed {
            for log in ["shell.log", "containerd/containerd.log"].iter().chain(logs) {
                show_end_of(&self.directory.join(log));
            }
        }
        self.enclosure.close()?;
        until_cgroups_are_gone()?;
        if std::env::var_os(KEEP).is_some() { Ok(()) } else { clear(&self.directory) }
    }
}

/// Processes may take a moment to leave them.
fn until_cgroups_are_gone() -> anyhow::Result<()> {
    until("end of the cgroups", PATIENCE, || remove_cgroups().map_err(|error| error.to_string()))
}

fn clear(directory: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).context(directory.display().to_string()),
        _ => Ok(()),
    }
}

fn show_end_of(log: &Path) {
    const LINES: usize = 120;
    let text = fs::read_to_string(log).unwrap_or_default();
    // Every shim tells what it loads.
    let lines: Vec<&str> = text.lines().filter(|line| !line.contains("level=info")).collect();
    eprintln!("--- {} ({} lines)", log.display(), lines.len());
    for line in lines.iter().skip(lines.len().saturating_sub(LINES)) {
        eprintln!("{line}");
    }
}

/// The directories in which a cgroup is, one for each hierarchy of the machine.
pub(crate) fn cgroup_directories(cgroup: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let inside = cgroup.trim_start_matches('/');
    if root.join("cgroup.controllers").exists() {
        return vec![root.join(inside)];
    }
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten();
    // Names such as `cpu` may lead to `cpu,cpuacct`.
    let real = hierarchies.filter(|h| h.file_type().is_ok_and(|kind| kind.is_dir()));
    real.map(|hierarchy| hierarchy.path().join(inside)).collect()
}

fn make_cgroups() -> anyhow::Result<()> {
    for directory in cgroup_directories(CGROUP_ROOT) {
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    }
    Ok(())
}

fn remove_cgroups() -> anyhow::Result<()> {
    for directory in cgroup_directories(CGROUP_ROOT) {
        remove_cgroup(&directory).with_context(|| directory.display().to_string())?;
    }
    Ok(())
}

/// Cgroups are removed from the bottom up; their files are not removed at all.
fn remove_cgroup(directory: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    fs::remove_dir(directory)
}
