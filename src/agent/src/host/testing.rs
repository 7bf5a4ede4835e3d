//! A machine of a test's own: an empty directory that goes away with it.
//! Upstream: k8s.io/client-go/util/testing (MkTmpdir).
//! Differs: nothing on purpose.

use std::fs;
use std::path::{Path, PathBuf};

use kubelet::config::Config;

use super::files::unique;
use super::layout::Layout;

/// An empty directory.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("keelson-host-{}-{}", std::process::id(), unique()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// The layout of a machine that lies in this directory.
    pub(super) fn layout(&self) -> Layout {
        // An IP for a name, so that no test asks a name server.
        Layout::new(&self.0, &Config::new("192.0.2.1"))
    }

    /// Writes a file, parents included.
    pub(super) fn put(&self, path: &str, contents: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }

    /// Reads a file.
    pub(super) fn get(&self, path: &str) -> String {
        fs::read_to_string(self.0.join(path)).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Whether this process may mount; otherwise says that a test was skipped.
pub(super) fn may_mount() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:")).unwrap().trim();
    let sys_admin = u64::from_str_radix(effective, 16).unwrap() >> 21 & 1 == 1;
    if !sys_admin {
        println!("skipped: needs CAP_SYS_ADMIN");
    }
    sys_admin
}
