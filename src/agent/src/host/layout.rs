//! Where things lie on the machine; names that come from outside cannot lead elsewhere.
//! Upstream: pkg/kubelet/kubelet_getters.go, pkg/kubelet/config/defaults.go.
//! Differs: everything hangs below one root, so that tests need no machine of their own.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use kubelet::config::{Config, Managers};
use kubelet::ids::PodUid;

use super::error::HostError;

/// Where device plugins look for a kubelet, wherever its root is (k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1, DevicePluginPath).
pub(super) const DEVICE_PLUGINS: &str = "/var/lib/kubelet/device-plugins";

/// The paths and names that the host adapter goes by.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// What paths are taken from: `/`, or a directory in tests.
    pub(super) machine: PathBuf,
    pub(super) kubelet_root: String,
    pub(super) pod_logs: String,
    pub(super) container_logs: String,
    pub(super) cgroup_root: String,
    pub(super) protect_kernel_defaults: bool,
    pub(super) oom_score_adj: i32,
    pub(super) managers: Managers,
    pub(super) notify_socket: Option<OsString>,
}

impl Layout {
    pub(super) fn new(machine: &Path, config: &Config) -> Self {
        Self {
            machine: machine.to_owned(),
            kubelet_root: config.paths.root.clone(),
            pod_logs: config.paths.pod_logs.clone(),
            container_logs: config.paths.container_logs.clone(),
            cgroup_root: config.cgroups.root.clone(),
            protect_kernel_defaults: config.node.protect_kernel_defaults,
            oom_score_adj: config.cgroups.kubelet_oom_score_adj,
            managers: config.managers.clone(),
            notify_socket: super::notify::socket(),
        }
    }

    /// An absolute path of the machine. `..` has no place in what the core asks for.
    pub(super) fn at(&self, path: &str) -> Result<PathBuf, HostError> {
        let strange = || HostError::Invalid(format!("path {path:?} is not absolute and clean"));
        let relative = Path::new(path).strip_prefix("/").map_err(|_| strange())?;
        if path.contains('\0') || relative.components().any(|c| !matches!(c, Component::Normal(_))) {
            return Err(strange());
        }
        Ok(self.machine.join(relative))
    }

    /// A path of `/proc`, `/sys` or `/etc`, written without the leading slash.
    pub(super) fn system(&self, path: &str) -> PathBuf {
        self.machine.join(path)
    }

    /// The kubelet's root directory.
    pub(super) fn root(&self) -> Result<PathBuf, HostError> {
        self.at(&self.kubelet_root)
    }

    pub(super) fn pods(&self) -> Result<PathBuf, HostError> {
        Ok(self.root()?.join("pods"))
    }

    pub(super) fn pod(&self, pod: &PodUid) -> Result<PathBuf, HostError> {
        Ok(self.pods()?.join(component(pod.as_str())?))
    }

    pub(super) fn volume(&self, pod: &PodUid, plugin: &str, volume: &str) -> Result<PathBuf, HostError> {
        Ok(self.pod(pod)?.join("volumes").join(component(plugin)?).join(component(volume)?))
    }

    /// Where a plugin keeps what it must remember of a volume.
    pub(super) fn volume_meta(&self, pod: &PodUid, plugin: &str, volume: &str) -> Result<PathBuf, HostError> {
        Ok(self.pod(pod)?.join("plugins").join(component(plugin)?).join(component(volume)?))
    }

    /// A path that must lie strictly below the pod log directory.
    pub(super) fn below_pod_logs(&self, path: &str) -> Result<PathBuf, HostError> {
        let (logs, found) = (self.at(&self.pod_logs)?, self.at(path)?);
        if found == logs || !found.starts_with(&logs) {
            return Err(HostError::Invalid(format!("{path:?} is not below {:?}", self.pod_logs)));
        }
        Ok(found)
    }
}

/// One component of a path.
pub(super) fn component(name: &str) -> Result<&str, HostError> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(HostError::Invalid(format!("{name:?} is not a file name")));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_outside_cannot_lead_elsewhere() {
        let layout = Layout::new(Path::new("/m"), &Config::new("n1"));
        assert_eq!(layout.at("/etc/hosts").unwrap(), Path::new("/m/etc/hosts"));
        for path in ["etc/hosts", "/etc/../../x", "", "/a\0b"] {
            assert!(layout.at(path).is_err(), "{path:?}");
        }
        assert!(layout.volume(&PodUid::new("../x"), "p", "v").is_err());
        assert!(layout.volume(&PodUid::new("u"), "p", "..").is_err());
    }

    #[test]
    fn only_what_lies_below_the_pod_logs_counts_as_pod_logs() {
        let layout = Layout::new(Path::new("/m"), &Config::new("n1"));
        assert!(layout.below_pod_logs("/var/log/pods/default_web_u1").is_ok());
        assert!(layout.below_pod_logs("/var/log/pods").is_err());
        assert!(layout.below_pod_logs("/var/log/podsx/a").is_err());
    }
}
