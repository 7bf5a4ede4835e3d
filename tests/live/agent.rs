//! The daemon under test, as a process with a kubeconfig and a configuration file.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use anyhow::{Context as _, anyhow, ensure};
use serde_json::{Value, json};

use super::enclosure::{Enclosure, NODE_IP};

/// Name of the node.
pub(crate) const NODE: &str = "n1";

/// Variable that names a ready-made `keelson` to test instead of building one.
const BINARY: &str = "KEELSON_BINARY";

/// The daemon's program: the one that is named, or the one that was built beside these tests if nothing was changed since, or one
/// that is built now.
pub(crate) fn program() -> anyhow::Result<PathBuf> {
    if let Some(ready) = std::env::var_os(BINARY) {
        return Ok(ready.into());
    }
    // target/PROFILE/deps/all-HASH
    let test = std::env::current_exe()?;
    let folder = test.parent().and_then(Path::parent).ok_or_else(|| anyhow!("{} is not in a target folder", test.display()))?;
    let beside = folder.join("keelson");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let built = fs::metadata(&beside).and_then(|metadata| metadata.modified()).ok();
    if built.is_some() && built >= newest_in(&root.join("src"))?.max(newest_in(&root.join("proto"))?) {
        return Ok(beside);
    }
    build(folder, &root)?;
    Ok(beside)
}

/// When the youngest of the files below a folder was written.
fn newest_in(folder: &Path) -> anyhow::Result<Option<SystemTime>> {
    let mut newest = None;
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let written = if entry.file_type()?.is_dir() { newest_in(&entry.path())? } else { Some(entry.metadata()?.modified()?) };
        newest = newest.max(written);
    }
    Ok(newest)
}

/// Builds the daemon into the folder that these tests were built into, with the same profile.
fn build(folder: &Path, root: &Path) -> anyhow::Result<()> {
    let target = folder.parent().ok_or_else(|| anyhow!("{} is not in a target folder", folder.display()))?;
    let profile = match folder.file_name().and_then(OsStr::to_str) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new("timeout");
    // What cargo tells this test about its own package would make build scripts (ring's) run again, and half the tree with them.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|n| ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| n.starts_with(prefix))) {
            command.env_remove(name);
        }
    }
    let output = command
        .arg("900")
        .arg(cargo)
        .args(["build", "--quiet", "--locked", "--package", "agent", "--bin", "keelson", "--profile", profile, "--target-dir"])
        .arg(target)
        .current_dir(root)
        .stdin(Stdio::null())
        .output()
        .context("cargo build")?;
    ensure!(output.status.success(), "cargo build: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The agent's files and its process.
pub(crate) struct Agent {
    command: String,
    /// Its log.
    pub(crate) log: PathBuf,
    /// Its root directory.
    pub(crate) root: PathBuf,
    /// Its process, by its number inside the enclosure.
    pub(crate) pid: u32,
}

/// What the agent needs to know of its surroundings.
pub(crate) struct Surroundings<'a> {
    /// The program.
    pub(crate) binary: &'a Path,
    /// Where its files are to be.
    pub(crate) directory: &'a Path,
    /// The runtime's socket.
    pub(crate) socket: &'a Path,
    /// The node's name.
    pub(crate) node: &'a str,
    /// What it shows the API server.
    pub(crate) credentials: Credentials<'a>,
    /// The certificate of the authority that signs clients.
    pub(crate) client_ca: &'a str,
    /// The cgroup that everything of it is in.
    pub(crate) cgroup_root: &'a str,
    /// Its root directory.
    pub(crate) root: &'a Path,
    /// Settings laid over those that every agent of the tests has.
    pub(crate) settings: &'a Value,
}

/// What an agent is given to show the API server.
#[derive(Clone, Copy)]
pub(crate) enum Credentials<'a> {
    /// A kubeconfig, which nobody renews.
    Kubeconfig(&'a str),
    /// A kubeconfig to join by; certificates are renewed.
    Bootstrap(&'a str),
}

impl Agent {
    /// Writes its files and starts it.
    pub(crate) fn start(enclosure: &Enclosure, surroundings: &Surroundings<'_>) -> anyhow::Result<Self> {
        let Surroundings { binary, directory, socket, node, credentials, client_ca, cgroup_root, root, settings } = surroundings;
        let file = |name: &str| directory.join(name);
        let joins = match credentials {
            Credentials::Kubeconfig(text) => fs::write(file("kubeconfig"), text).map(|()| String::new()),
            Credentials::Bootstrap(text) => {
                let path = file("bootstrap-kubeconfig");
                fs::write(&path, text).map(|()| format!(" --bootstrap-kubeconfig={}", path.display()))
            }
        }?;
        fs::write(file("ca.crt"), client_ca)?;
        fs::write(file("resolv.conf"), "nameserver 10.255.255.53\n")?;
        let mut config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": false}, "webhook": {"enabled": true}, "x509": {"clientCAFile": file("ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs", "cgroupRoot": cgroup_root, "failCgroupV1": false, "failSwapOn": false,
            "containerRuntimeEndpoint": format!("unix://{}", socket.display()),
            "clusterDNS": ["10.96.0.10"], "clusterDomain": "cluster.local", "resolvConf": file("resolv.conf"),
            // What else the machine is used for must not get pods evicted, nor the only image removed.
            "evictionHard": {"memory.available": "1Mi"}, "imageGCHighThresholdPercent": 100,
            "volumePluginDir": file("plugins"), "rotateCertificates": matches!(credentials, Credentials::Bootstrap(_)),
        });
        for (name, setting) in settings.as_object().into_iter().flatten() {
            config[name] = setting.clone();
        }
        // JSON is YAML.
        fs::write(file("config.yaml"), serde_json::to_string_pretty(&config)?)?;
        let command = format!(
            "{} --config={} --kubeconfig={} --hostname-override={node} --node-ip={NODE_IP} --root-dir={} --cert-dir={} --v=2{joins}",
            binary.display(),
            file("config.yaml").display(),
            file("kubeconfig").display(),
            root.display(),
            file("certificates").display()
        );
        let log = file("keelson.log");
        let pid = enclosure.start(&command, &log)?;
        Ok(Self { command, log, root: root.to_path_buf(), pid })
    }

    /// Ends it by that signal (`TERM`, `KILL`); its exit code.
    pub(crate) fn end(&self, enclosure: &Enclosure, signal: &str) -> anyhow::Result<i32> {
        enclosure.end(self.pid, signal)
    }

    /// Starts it once more, with the same files.
    pub(crate) fn start_again(&mut self, enclosure: &Enclosure) -> anyhow::Result<()> {
        self.pid = enclosure.start(&self.command, &self.log)?;
        Ok(())
    }

    /// Whether it runs.
    pub(crate) fn runs(&self, enclosure: &Enclosure) -> bool {
        enclosure.runs(self.pid)
    }
}
