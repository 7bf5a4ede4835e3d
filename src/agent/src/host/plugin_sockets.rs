//! Which sockets there are in the plugins' registry, told whenever that changes.
//! Upstream: pkg/kubelet/pluginmanager/pluginwatcher/plugin_watcher.go.
//! Differs: the kernel's word is a hint to look, at everything; where it cannot be had, there is a look every second.

use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt as _};
use kubelet::csi::PluginSocket;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

use super::layout::Layout;
use super::{blocking_io, files};

/// How long a change may go on before it is looked at: sockets are made and bound in steps.
const SETTLES: Duration = Duration::from_millis(50);
/// CSI-001
const LOOK_EVERY: Duration = Duration::from_secs(1);

struct Follower {
    registry: PathBuf,
    /// The registry's path as the core knows it.
    name: String,
    watch: Option<Arc<AsyncFd<OwnedFd>>>,
    told: Vec<PluginSocket>,
    /// Whether the registry was read, and is watched since.
    looked: bool,
}

/// All sockets of the registry, each time that they are others than before; at first none.
pub(super) fn follow(layout: &Layout) -> BoxStream<'static, Vec<PluginSocket>> {
    let Ok(registry) = layout.root().map(|root| root.join("plugins_registry")) else { return stream::pending().boxed() };
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok().and_then(watched);
    let name = format!("{}/plugins_registry", layout.kubelet_root);
    let follower = Follower { registry, name, watch: watch.map(Arc::new), told: Vec::new(), looked: false };
    stream::unfold(follower, |mut follower| async move {
        let changed = follower.next().await;
        Some((changed, follower))
    })
    .boxed()
}

#[expect(unsafe_code, reason = "the one way to wait for a descriptor that is no socket")]
fn watched(fd: OwnedFd) -> Option<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned, and its owner moves in: it is open for as long as it is registered.
    unsafe { AsyncFd::register(fd) }.ok()
}

impl Follower {
    async fn next(&mut self) -> Vec<PluginSocket> {
        loop {
            if std::mem::replace(&mut self.looked, true) {
                self.changes().await;
            }
            let (registry, name, watch) = (self.registry.clone(), self.name.clone(), self.watch.clone());
            let found = blocking_io(move || Ok(look(&registry, &name, watch.as_ref().map(|fd| fd.get_ref())))).await;
            match found {
                Ok(Some(sockets)) if sockets != self.told => {
                    self.told.clone_from(&sockets);
                    return sockets;
                }
                Ok(None) | Err(_) => {
                    // The registry is not there yet, or cannot be read: nothing watches it either.
                    tokio::time::sleep(LOOK_EVERY).await;
                    self.looked = false;
                }
                Ok(Some(_)) => {}
            }
        }
    }

    /// Waits until something may have changed.
    async fn changes(&self) {
        let Some(watch) = &self.watch else { return tokio::time::sleep(LOOK_EVERY).await };
        let Ok(mut guard) = watch.readable().await else { return tokio::time::sleep(LOOK_EVERY).await };
        guard.clear_ready();
        tokio::time::sleep(SETTLES).await;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(watch.get_ref(), &mut buffer);
        while events.next().is_ok() {}
    }
}

/// The sockets there, and a watch on every directory; `None` if there is no registry yet.
fn look(registry: &Path, name: &str, watch: Option<&OwnedFd>) -> Option<Vec<PluginSocket>> {
    if !registry.is_dir() {
        return None;
    }
    let (mut sockets, mut waiting) = (Vec::new(), vec![(registry.to_owned(), name.to_owned())]);
    while let Some((directory, name)) = waiting.pop() {
        if let Some(watch) = watch {
            let changes = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVED_FROM | WatchFlags::MOVED_TO;
            // Before it is read, so that nothing is missed; a directory that has gone meanwhile has nothing to say.
            let _ = inotify::add_watch(watch, &directory, changes | WatchFlags::ONLYDIR);
        }
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
    Some(sockets)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::super::testing::Scratch;
    use super::*;

    fn paths(sockets: &[PluginSocket]) -> Vec<&str> {
        sockets.iter().map(|socket| socket.path.as_str()).collect()
    }

    // CSI-001: the agent looks before it has made its own directories.
    #[tokio::test(start_paused = true)]
    async fn registry_that_comes_late_is_found() {
        let scratch = Scratch::new();
        let mut listings = follow(&scratch.layout());
        let nothing = tokio::time::timeout(LOOK_EVERY * 3, listings.next()).await;
        assert!(nothing.is_err(), "{nothing:?}");
        let registry = scratch.path().join("var/lib/kubelet/plugins_registry");
        fs::create_dir_all(&registry).unwrap();
        let _socket = UnixListener::bind(registry.join("a.sock")).unwrap();
        let found = tokio::time::timeout(LOOK_EVERY * 3, listings.next()).await.expect("a look each second").unwrap();
        assert_eq!(paths(&found), ["/var/lib/kubelet/plugins_registry/a.sock"]);
    }

    // CSI-001
    #[tokio::test]
    async fn sockets_are_told_as_they_come_and_go() {
        let scratch = Scratch::new();
        let registry = scratch.path().join("var/lib/kubelet/plugins_registry");
        fs::create_dir_all(registry.join("deep")).unwrap();
        fs::write(registry.join("file"), "no socket").unwrap();
        let _hidden = UnixListener::bind(registry.join(".hidden")).unwrap();
        let first = UnixListener::bind(registry.join("a.sock")).unwrap();
        let mut listings = follow(&scratch.layout());
        let at_first = listings.next().await.unwrap();
        assert_eq!(paths(&at_first), ["/var/lib/kubelet/plugins_registry/a.sock"]);
        let _second = UnixListener::bind(registry.join("deep/b.sock")).unwrap();
        let both = listings.next().await.unwrap();
        assert_eq!(paths(&both), ["/var/lib/kubelet/plugins_registry/a.sock", "/var/lib/kubelet/plugins_registry/deep/b.sock"]);
        drop(first);
        fs::remove_file(registry.join("a.sock")).unwrap();
        assert_eq!(paths(&listings.next().await.unwrap()), ["/var/lib/kubelet/plugins_registry/deep/b.sock"]);
        let _again = UnixListener::bind(registry.join("a.sock")).unwrap();
        let again = listings.next().await.unwrap();
        assert_ne!(again[0].instance, at_first[0].instance, "another socket at the same path");
    }
}
