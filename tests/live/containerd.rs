//! A containerd of the tests' own: everything that it keeps is below one directory, and its pods' network is in the enclosure.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::enclosure::Enclosure;
use super::image::{PAUSE_IMAGE, Recipe, archive, usual};
use super::requirements::Machine;
use super::wait::until;

/// What statfs says of an overlay, on which no other overlay can be.
const OVERLAY: i64 = 0x794c_7630;
/// CAP_SYS_RESOURCE, by its bit.
const SYS_RESOURCE: u32 = 24;

/// A containerd that runs.
pub(crate) struct Containerd {
    /// Its socket.
    pub(crate) socket: PathBuf,
    ctr: String,
}

impl Containerd {
    /// Starts it and gives it its images.
    pub(crate) fn start(enclosure: &Enclosure, machine: &Machine, directory: &Path) -> anyhow::Result<Self> {
        let (program, ctr) = (machine.containerd.display(), machine.ctr.display().to_string());
        let containerd = Self { socket: directory.join("containerd.sock"), ctr };
        for part in ["root", "state", "opt", "cni", "registries"] {
            fs::create_dir_all(directory.join(part))?;
        }
        let config = directory.join("config.toml");
        fs::write(&config, config_text(directory, &containerd.socket, machine)?)?;
        fs::write(directory.join("cni/10-live.conflist"), network_text(directory))?;
        // It looks for its shim where programs are looked for: that must be the one beside it.
        let beside = machine.containerd.parent().unwrap_or(Path::new("/")).display();
        let command = format!("PATH={beside}:$PATH {program} --config {}", config.display());
        enclosure.start(&command, &directory.join("containerd.log"))?;
        until("an answer of containerd", Duration::from_secs(20), || {
            containerd.ctr(enclosure, &["version"]).map_err(|e| e.to_string())
        })?;
        containerd.import(enclosure, directory, &usual())?;
        Ok(containerd)
    }

    /// Makes images, and gives them to it.
    pub(crate) fn import(&self, enclosure: &Enclosure, directory: &Path, recipes: &[Recipe]) -> anyhow::Result<()> {
        let names: Vec<&str> = recipes.iter().map(|recipe| recipe.name.as_str()).collect();
        self.import_archive(enclosure, directory, &archive(recipes)?, &names)
    }

    /// Gives it the images of those names, which are in that archive.
    pub(crate) fn import_archive(
        &self,
        enclosure: &Enclosure,
        directory: &Path,
        archive: &[u8],
        names: &[&str],
    ) -> anyhow::Result<()> {
        let images = directory.join("images.tar");
        fs::write(&images, archive)?;
        self.ctr(enclosure, &["images", "import", "--no-unpack=false", &images.to_string_lossy()])?;
        fs::remove_file(&images)?;
        // The CRI plugin hears of images by events, and labels those that it knows.
        until("images that the CRI plugin knows", Duration::from_secs(20), || {
            let listed = self.ctr(enclosure, &["images", "list"]).unwrap_or_default();
            let known = |name: &str| listed.lines().any(|l| l.starts_with(name) && l.contains("io.cri-containerd.image=managed"));
            if names.iter().all(|name| known(name)) { Ok(()) } else { Err(listed) }
        })
    }

    /// Runs `ctr` in the namespace that CRI uses.
    pub(crate) fn ctr(&self, enclosure: &Enclosure, args: &[&str]) -> anyhow::Result<String> {
        let socket = self.socket.to_string_lossy();
        let args: Vec<&str> = ["--address", &socket, "--namespace", "k8s.io"].into_iter().chain(args.iter().copied()).collect();
        enclosure.run(&self.ctr, &args)
    }

    /// The IDs of all containers and PodSandboxes that it knows, by what they are called in a pod.
    pub(crate) fn containers(&self, enclosure: &Enclosure) -> anyhow::Result<Vec<String>> {
        Ok(self.ctr(enclosure, &["containers", "list", "--quiet"])?.lines().map(str::to_owned).collect())
    }
}

/// In version 2, which newer ones read as well.
fn config_text(directory: &Path, socket: &Path, machine: &Machine) -> anyhow::Result<String> {
    let (directory_text, socket, plugins) = (directory.display(), socket.display(), machine.cni_plugins.display());
    let on_overlay = rustix::fs::statfs(directory)?.f_type == OVERLAY;
    let snapshotter = if on_overlay { "native" } else { "overlayfs" };
    // Without the capability every PodSandbox would fail, for it is to be killed less readily than others.
    let restricted = !has_capability(SYS_RESOURCE);
    Ok(format!(
        r#"version = 2
root = "{directory_text}/root"
state = "{directory_text}/state"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "{socket}"
[debug]
  level = "warn"
[plugins."io.containerd.internal.v1.opt"]
  path = "{directory_text}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = {restricted}
  disable_apparmor = true
  sandbox_image = "{PAUSE_IMAGE}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{directory_text}/registries"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{directory_text}/cni"
"#
    ))
}

fn network_text(directory: &Path) -> String {
    let directory = directory.display();
    format!(
        r#"{{"cniVersion": "0.4.0", "name": "live", "plugins": [
 {{"type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "hairpinMode": true,
  "ipam": {{"type": "host-local", "dataDir": "{directory}/cni-data", "ranges": [[{{"subnet": "10.88.0.0/16"}}]]}}}},
 {{"type": "loopback"}}]}}
"#
    )
}

fn has_capability(bit: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or_default();
    u64::from_str_radix(effective.trim(), 16).is_ok_and(|set| set & (1 << bit) != 0)
}
