//! The kernel's hints that something changed at a path.
//! Upstream: github.com/fsnotify/fsnotify.
//! Differs: what changed is not told: who is told looks at everything.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt as _};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

/// Paths that are watched.
#[derive(Debug)]
pub(super) struct Watched(Option<Arc<OwnedFd>>);

#[expect(unsafe_code, reason = "the one way to wait for a descriptor that is no socket")]
fn waitable(watch: Arc<OwnedFd>) -> Option<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: the descriptor is owned, and an owner moves in: it is open for as long as it is registered.
    unsafe { AsyncFd::register(watch) }.ok()
}

impl Watched {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        Self(inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok().map(Arc::new))
    }

    /// Watches a path too; nothing new if it is watched already. Without it, the next look finds what changed.
    pub(super) fn add(&self, path: &Path, changes: WatchFlags) {
        if let Some(watch) = &self.0 {
            let _ = inotify::add_watch(watch, path, changes);
        }
    }

    /// A hint whenever something changed at a path that is watched; ends if the kernel cannot be asked.
    pub(super) fn changes(&self) -> BoxStream<'static, ()> {
        let Some(watch) = self.0.clone().and_then(waitable) else { return stream::empty().boxed() };
        stream::unfold(watch, |watch| async move {
            watch.readable().await.ok()?.clear_ready();
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut events = inotify::Reader::new(watch.get_ref(), &mut buffer);
            while events.next().is_ok() {}
            Some(((), watch))
        })
        .boxed()
    }
}
