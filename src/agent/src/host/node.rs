//! What must be right on a machine before pods can run on it: directories, mount propagation, kernel settings.
//! Upstream: pkg/kubelet/kubelet.go (setupDataDirs), pkg/kubelet/cm/container_manager_linux.go (setupKernelTunables).
//! Differs: nothing on purpose.

use std::fs;

use rustix::fs::XattrFlags;

use super::error::{Context as _, HostError};
use super::layout::{DEVICE_PLUGINS, Layout};
use super::{files, mounts, state_files};

/// NODE-145
const SETTINGS: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// Makes everything right (NODE-005, NODE-145, NODE-148).
pub(super) fn prepare(layout: &Layout) -> Result<(), HostError> {
    make_directories(layout)?;
    label_plugins(layout)?;
    mounts::make_shared(&layout.root()?)?;
    state_files::prepare(&layout.root()?, &layout.managers)?;
    set_kernel(layout)?;
    set_oom_score(layout);
    Ok(())
}

/// NODE-005. Existing modes stay.
fn make_directories(layout: &Layout) -> Result<(), HostError> {
    let root = layout.root()?;
    if let Some(parent) = root.parent() {
        files::make_dirs(parent, 0o755)?;
    }
    files::make_dir(&root, 0o750)?;
    for (name, mode) in
        [("pods", 0o750), ("plugins", 0o750), ("plugins_registry", 0o750), ("pod-resources", 0o750), ("checkpoints", 0o700)]
    {
        files::make_dir(&root.join(name), mode)?;
    }
    for (path, mode) in [(layout.pod_logs.as_str(), 0o750), (DEVICE_PLUGINS, 0o755), (&layout.container_logs, 0o755)] {
        let path = layout.at(path)?;
        if let Some(parent) = path.parent() {
            files::make_dirs(parent, 0o755)?;
        }
        files::make_dir(&path, mode)?;
    }
    Ok(())
}

/// DIR-004: what plugins in containers make there is to be theirs. Upstream goes on when this fails.
fn label_plugins(layout: &Layout) -> Result<(), HostError> {
    const LABEL: &[u8] = b"system_u:object_r:container_file_t:s0";
    if !layout.system("sys/fs/selinux/enforce").exists() {
        return Ok(());
    }
    for name in ["plugins", "plugins_registry"] {
        let path = layout.root()?.join(name);
        let labelled = rustix::fs::lsetxattr(&path, "security.selinux", LABEL, XattrFlags::empty());
        if let Err(error) = labelled {
            let path = path.display();
            tracing::info!(%path, %error, "Unprivileged containerized plugins might not work, could not set selinux context");
        }
    }
    Ok(())
}

/// NODE-145: all that differ are named at once.
fn set_kernel(layout: &Layout) -> Result<(), HostError> {
    let mut wrong = Vec::new();
    for (name, wanted) in SETTINGS {
        let path = layout.system("proc/sys").join(name);
        let found = files::text(&path).context("read", &path)?;
        if found.trim() == wanted {
            continue;
        }
        if layout.protect_kernel_defaults {
            wrong.push(format!("invalid kernel flag: {name}, expected value: {wanted}, actual value: {}", found.trim()));
        } else {
            tracing::info!(setting = name, from = found.trim(), to = wanted, "changing a kernel setting");
            fs::write(&path, wanted).context("write", &path)?;
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(HostError::Unfit(format!("[{}]", wrong.join(", ")))) }
}

/// NODE-148: the agent is to be the last to go. Upstream goes on when this fails.
fn set_oom_score(layout: &Layout) {
    let path = layout.system("proc/self/oom_score_adj");
    if let Err(error) = fs::write(&path, layout.oom_score_adj.to_string()) {
        tracing::warn!(%error, "failed to set the agent's oom_score_adj");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::testing::{Scratch, may_mount};
    use super::*;

    // NODE-005, NODE-004, API-293, DIR-001, DIR-002, DIR-004, DIR-005, DIR-008
    #[test]
    fn new_node_directories_have_their_modes() {
        let scratch = Scratch::new();
        make_directories(&scratch.layout()).unwrap();
        let mode = |path: &str| fs::metadata(scratch.path().join(path)).unwrap().permissions().mode() & 0o7777;
        for below in ["", "/pods", "/plugins", "/plugins_registry", "/pod-resources"] {
            assert_eq!(mode(&format!("var/lib/kubelet{below}")), 0o750, "{below}");
        }
        assert_eq!(mode("var/lib/kubelet/checkpoints"), 0o700);
        assert_eq!((mode("var/log/pods"), mode("var/log/containers")), (0o750, 0o755));
    }

    // DIR-001: a root that is there keeps its mode; the certificates may have come first.
    #[test]
    fn root_that_was_there_keeps_its_mode() {
        let scratch = Scratch::new();
        fs::create_dir_all(scratch.path().join("var/lib/kubelet/pki")).unwrap();
        files::chmod(&scratch.path().join("var/lib/kubelet"), 0o755).unwrap();
        make_directories(&scratch.layout()).unwrap();
        assert_eq!(fs::metadata(scratch.path().join("var/lib/kubelet")).unwrap().permissions().mode() & 0o7777, 0o755);
    }

    // DIR-005: device plugins know one place, wherever the root is; the pod resources are below the root.
    #[test]
    fn device_plugins_have_the_place_that_they_know() {
        let scratch = Scratch::new();
        let mut layout = scratch.layout();
        "/data/kubelet".clone_into(&mut layout.kubelet_root);
        make_directories(&layout).unwrap();
        let mode = |path: &str| fs::metadata(scratch.path().join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("var/lib/kubelet/device-plugins"), mode("data/kubelet/pod-resources")), (0o755, 0o750));
        assert!(!scratch.path().join("data/kubelet/device-plugins").exists());
    }

    // DIR-004
    #[test]
    fn plugin_directories_have_their_label_where_labels_count() {
        if !may_mount() {
            return;
        }
        let scratch = Scratch::new();
        let layout = scratch.layout();
        make_directories(&layout).unwrap();
        let label = |name: &str| {
            let mut label = [0; 64];
            let path = scratch.path().join("var/lib/kubelet").join(name);
            let read = rustix::fs::lgetxattr(path, "security.selinux", &mut label[..]);
            read.ok().map(|length| String::from_utf8_lossy(&label[..length]).trim_end_matches('\0').to_owned())
        };
        let unlabelled = label("plugins");
        label_plugins(&layout).unwrap();
        assert_eq!(label("plugins"), unlabelled, "not without SELinux");
        scratch.put("sys/fs/selinux/enforce", "1");
        label_plugins(&layout).unwrap();
        for name in ["plugins", "plugins_registry"] {
            assert_eq!(label(name).as_deref(), Some("system_u:object_r:container_file_t:s0"), "{name}");
        }
        assert_ne!(label("pods").as_deref(), Some("system_u:object_r:container_file_t:s0"));
    }

    // NODE-148
    #[test]
    fn agent_is_the_last_to_be_killed() {
        let scratch = Scratch::new();
        scratch.put("proc/self/oom_score_adj", "0");
        set_oom_score(&scratch.layout());
        assert_eq!(scratch.get("proc/self/oom_score_adj"), "-999");
    }

    // NODE-005
    #[test]
    fn node_directories_have_their_modes_and_keep_those_they_had() {
        let scratch = Scratch::new();
        let layout = scratch.layout();
        fs::create_dir_all(scratch.path().join("var/lib/kubelet/pods")).unwrap();
        files::chmod(&scratch.path().join("var/lib/kubelet/pods"), 0o711).unwrap();
        make_directories(&layout).unwrap();
        make_directories(&layout).unwrap();
        let mode = |path: &str| fs::metadata(scratch.path().join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode("var/lib/kubelet/pods"), 0o711);
        assert_eq!(mode("var/lib/kubelet/plugins_registry"), 0o750);
        assert_eq!(mode("var/lib/kubelet/checkpoints"), 0o700);
        assert_eq!(mode("var/lib/kubelet/device-plugins"), 0o755);
        assert_eq!(mode("var/log/pods"), 0o750);
    }

    // NODE-145
    #[test]
    fn kernel_is_set_or_only_checked() {
        let scratch = Scratch::new();
        for (name, wanted) in SETTINGS {
            scratch.put(&format!("proc/sys/{name}"), wanted);
        }
        scratch.put("proc/sys/vm/overcommit_memory", "0\n");
        let mut layout = scratch.layout();
        layout.protect_kernel_defaults = true;
        let refusal = set_kernel(&layout).unwrap_err().to_string();
        assert_eq!(refusal, "[invalid kernel flag: vm/overcommit_memory, expected value: 1, actual value: 0]");
        layout.protect_kernel_defaults = false;
        set_kernel(&layout).unwrap();
        assert_eq!(scratch.get("proc/sys/vm/overcommit_memory"), "1");
    }
}
