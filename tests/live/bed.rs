//! Everything that live tests run on, brought up together and taken down together.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use model::api::authorize::Identity;
use rustix::fs::FlockOperation;
use serde_json::Value;

use super::agent::{Agent, NODE, Surroundings, build};
use super::api::{Api, NAMESPACE};
use super::containerd::Containerd;
use super::enclosure::Enclosure;
use super::requirements::Machine;
use super::wait::until;

/// The cgroup above everything of the tests, so that an agent of the machine's own is not disturbed.
pub(crate) const CGROUP_ROOT: &str = "/keelson-live";

/// How long a pod may take to get anywhere, on a machine that is busy with a compiler.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A runtime, an API server and an agent.
pub(crate) struct Bed {
    pub(crate) machine: Machine,
    pub(crate) enclosure: Enclosure,
    pub(crate) containerd: Containerd,
    pub(crate) api: Api,
    pub(crate) agent: Agent,
    directory: PathBuf,
    _lock: OwnedFd,
}

impl Bed {
    /// Brings everything up; the calling thread is in the enclosure's network afterwards.
    pub(crate) fn up(machine: Machine) -> anyhow::Result<Self> {
        let binary = build()?;
        // One at a time: there is one cgroup root. What an earlier run that was killed left is cleared away.
        let lock = OwnedFd::from(fs::File::open(std::env::temp_dir())?);
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
        remove_cgroups()?;
        let directory = std::env::temp_dir().join("keelson-live");
        remove_all(&directory)?;
        fs::create_dir_all(&directory)?;
        let enclosure = Enclosure::new(&directory.join("shell.log"))?;
        enclosure.enter_network()?;
        make_cgroups()?;
        let containerd = Containerd::start(&enclosure, &machine, &directory.join("containerd"))?;
        let api = Api::start(&directory.join("requests.log"))?;
        fs::write(directory.join("admin.kubeconfig"), api.kubeconfig(&Identity::admin())?)?;
        let agent_directory = directory.join("agent");
        fs::create_dir_all(&agent_directory)?;
        let surroundings = Surroundings {
            binary: &binary,
            directory: &agent_directory,
            socket: &containerd.socket,
            kubeconfig: &api.kubeconfig(&Identity::node(NODE))?,
            client_ca: &api.pki.ca_certificate,
            cgroup_root: CGROUP_ROOT,
        };
        let agent = Agent::start(&enclosure, &surroundings)?;
        Ok(Self { machine, enclosure, containerd, api, agent, directory, _lock: lock })
    }

    /// Ends everything. Logs are shown first if something failed.
    pub(crate) fn down(self, failed: bool) -> anyhow::Result<()> {
        if failed {
            for log in ["shell.log", "containerd/containerd.log", "requests.log", "agent/keelson.log"] {
                show_end_of(&self.directory.join(log));
            }
        }
        let Self { enclosure, directory, api, _lock: lock, .. } = self;
        drop(api);
        enclosure.close()?;
        until("end of the cgroups", SOON, || remove_cgroups().map_err(|error| error.to_string()))?;
        if std::env::var_os("KEELSON_LIVE_KEEP").is_none() {
            remove_all(&directory).context("clearing away")?;
        }
        drop(lock);
        Ok(())
    }

    /// The kubeconfig of an administrator.
    pub(crate) fn admin_kubeconfig(&self) -> PathBuf {
        self.directory.join("admin.kubeconfig")
    }

    /// The node, if it is registered.
    pub(crate) fn node(&self) -> anyhow::Result<Option<Value>> {
        self.api.get(&format!("/api/v1/nodes/{NODE}"))
    }

    /// A pod as the API server has it.
    pub(crate) fn pod(&self, name: &str) -> anyhow::Result<Value> {
        self.api.get(&pod_path(name))?.with_context(|| format!("pod {name} is gone"))
    }

    /// Waits until a pod is as wanted.
    pub(crate) fn pod_becomes(&self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        until(&format!("pod {name}: {what}"), SOON, || match self.pod(name) {
            Ok(pod) if wanted(&pod) => Ok(pod),
            Ok(pod) => Err(format!("{} events {:?}", pod["status"], self.api.events_about(name))),
            Err(error) => Err(error.to_string()),
        })
    }

    /// Waits until all of a pod's containers are ready.
    pub(crate) fn pod_ready(&self, name: &str) -> anyhow::Result<Value> {
        self.pod_becomes(name, "Ready", is_ready)
    }

    /// Waits until a pod has ended, well or not.
    pub(crate) fn pod_ended(&self, name: &str) -> anyhow::Result<Value> {
        self.pod_becomes(name, "ended", |pod| pod["status"]["phase"] == "Succeeded" || pod["status"]["phase"] == "Failed")
    }

    /// What a container wrote, through the agent's HTTPS API.
    pub(crate) fn log(&self, pod: &str, query: &str) -> anyhow::Result<String> {
        match self.api.carried(&format!("{}/log{query}", pod_path(pod)))? {
            (200, text) => Ok(text),
            (code, text) => bail!("log of {pod}: {code} {text}"),
        }
    }

    /// Makes a pod, waits for its end, and gives what its only container wrote.
    pub(crate) fn output_of(&self, pod: &Value) -> anyhow::Result<String> {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        self.api.create("pods", pod)?;
        let ended = self.pod_ended(name)?;
        let text = self.log(name, "")?;
        anyhow::ensure!(ended["status"]["phase"] == "Succeeded", "pod {name}: {}; it wrote: {text}", ended["status"]);
        Ok(text)
    }

    /// Deletes a pod and waits until it is gone.
    pub(crate) fn delete(&self, name: &str) -> anyhow::Result<()> {
        self.api.delete(&pod_path(name), None)?;
        self.gone(name)
    }

    /// Waits until a pod is gone.
    pub(crate) fn gone(&self, name: &str) -> anyhow::Result<()> {
        until(&format!("pod {name}: gone"), SOON, || match self.api.get(&pod_path(name)) {
            Ok(None) => Ok(()),
            Ok(Some(pod)) => Err(pod["status"].to_string()),
            Err(error) => Err(error.to_string()),
        })
    }

    /// Deletes all pods at once, as between two tests.
    pub(crate) fn delete_all_pods(&self) -> anyhow::Result<()> {
        for name in self.pod_names()? {
            self.api.delete(&pod_path(&name), Some(Duration::ZERO))?;
        }
        until("no pods", SOON, || match self.pod_names() {
            Ok(names) if names.is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        })
    }

    fn pod_names(&self) -> anyhow::Result<Vec<String>> {
        let listed = self.api.get(&format!("{NAMESPACE}/pods"))?.unwrap_or_default();
        let names = listed["items"].as_array().into_iter().flatten().filter_map(|pod| pod["metadata"]["name"].as_str());
        Ok(names.map(str::to_owned).collect())
    }
}

/// The path of a pod.
pub(crate) fn pod_path(name: &str) -> String {
    format!("{NAMESPACE}/pods/{name}")
}

/// Whether an object's condition `Ready` is `True`.
pub(crate) fn is_ready(object: &Value) -> bool {
    condition(object, "Ready") == "True"
}

/// The status of a condition; empty if there is none.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    let conditions = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().find(|c| c["type"] == kind).and_then(|c| c["status"].as_str()).unwrap_or_default()
}

fn show_end_of(log: &Path) {
    const LINES: usize = 120;
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
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

fn remove_all(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
