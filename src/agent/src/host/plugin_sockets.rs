//! Which sockets there are in the plugins' registry, and the kernel's hints that they may be others by now.
//! Upstream: pkg/kubelet/pluginmanager/pluginwatcher/plugin_watcher.go.
//! Differs: a directory is watched from when it was last listed; what changed in it is not told.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use futures::stream::BoxStream;
use kubelet::csi::PluginSocket;
use rustix::fs::inotify::WatchFlags;

use super::error::{Context as _, HostError};
use super::files;
use super::inotify::Watched;

/// The plugins' registry, and what watches it.
#[derive(Debug)]
pub(super) struct Registry {
    watched: Watched,
}

impl Registry {
    pub(super) fn new() -> Self {
        Self { watched: Watched::new() }
    }

    /// A hint whenever something changed in a directory that was listed; ends if the kernel cannot be asked.
    pub(super) fn changes(&self) -> BoxStream<'static, ()> {
        self.watched.changes()
    }

    /// The sockets in the registry, in order. Its path as the core knows it is `name`.
    pub(super) fn look(&self, registry: &Path, name: &str) -> Result<Vec<PluginSocket>, HostError> {
        let (mut sockets, mut waiting) = (Vec::new(), vec![(registry.to_owned(), name.to_owned())]);
        // What is below it may go at any moment, it itself must be there.
        fs::read_dir(registry).context("open", registry)?;
        while let Some((directory, name)) = waiting.pop() {
            let changes = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVED_FROM | WatchFlags::MOVED_TO;
            // Before it is read, so that nothing is missed.
            self.watched.add(&directory, changes | WatchFlags::ONLYDIR);
            // CSI-001: hidden ones do not count.
            for entry in files::names(&directory).unwrap_or_default().into_iter().filter(|entry| !entry.starts_with('.')) {
                let path = directory.join(&entry);
                let Ok(found) = fs::symlink_metadata(&path) else { continue };
                let name = format!("{name}/{entry}");
                if found.is_dir() {
                    waiting.push((path, name));
                } else if found.file_type().is_socket() {
                    let changed = u64::try_from(found.ctime()).unwrap_or(0).wrapping_mul(1_000_000_000);
                    let changed = changed.wrapping_add(u64::try_from(found.ctime_nsec()).unwrap_or(0));
                    sockets.push(PluginSocket { path: name, instance: found.ino().rotate_left(40) ^ changed });
                }
            }
        }
        sockets.sort();
        Ok(sockets)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use futures::StreamExt as _;

    use super::super::testing::Scratch;
    use super::*;

    const NAME: &str = "/var/lib/kubelet/plugins_registry";

    fn paths(sockets: &[PluginSocket]) -> Vec<&str> {
        sockets.iter().map(|socket| socket.path.as_str()).collect()
    }

    // CSI-001
    #[test]
    fn missing_registry_is_an_error() {
        let scratch = Scratch::new();
        assert!(Registry::new().look(&scratch.path().join("nowhere"), NAME).is_err());
    }

    // CSI-001: what changed after a look is hinted at, in directories below too.
    #[tokio::test]
    async fn sockets_are_found_as_they_come_and_go() {
        let scratch = Scratch::new();
        let directory = scratch.path().join("registry");
        fs::create_dir_all(directory.join("deep")).unwrap();
        fs::write(directory.join("file"), "no socket").unwrap();
        let _hidden = UnixListener::bind(directory.join(".hidden")).unwrap();
        let first = UnixListener::bind(directory.join("a.sock")).unwrap();
        let registry = Registry::new();
        let mut changes = registry.changes();
        let look = || registry.look(&directory, NAME).unwrap();
        let at_first = look();
        assert_eq!(paths(&at_first), ["/var/lib/kubelet/plugins_registry/a.sock"]);
        let _second = UnixListener::bind(directory.join("deep/b.sock")).unwrap();
        changes.next().await.unwrap();
        let both = ["/var/lib/kubelet/plugins_registry/a.sock", "/var/lib/kubelet/plugins_registry/deep/b.sock"];
        assert_eq!(paths(&look()), both);
        drop(first);
        fs::remove_file(directory.join("a.sock")).unwrap();
        changes.next().await.unwrap();
        assert_eq!(paths(&look()), both[1..]);
        let _again = UnixListener::bind(directory.join("a.sock")).unwrap();
        changes.next().await.unwrap();
        assert_ne!(look()[0].instance, at_first[0].instance, "another socket at the same path");
    }
}
