//! Logs of containers, read from where the reader stands.
//! Upstream: pkg/kubelet/kuberuntime/logs, k8s.io/utils/io, pkg/kubelet/kuberuntime/util (termination messages).
//! Differs: a path that is not a regular file is refused: containers choose what lies at some of them.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, Fuse, StreamExt as _};
use rustix::fs::OFlags;
use rustix::fs::inotify::WatchFlags;

use super::error::{Context as _, HostError};
use super::inotify::Watched;
use super::threads::Threads;
use super::{files, on_a_thread};
use crate::env::LogFile;

fn open_regular(path: &Path, flags: OFlags) -> Result<(File, u64), HostError> {
    let file = files::open(path, OFlags::RDONLY | flags, 0)?;
    let found = file.metadata().context("stat", path)?;
    if !found.is_file() {
        return Err(HostError::Unfit(format!("{} is not a regular file", path.display())));
    }
    Ok((file, found.len()))
}

fn read_some(file: &File, at: u64, limit: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; limit];
    let mut filled = 0;
    while filled < limit {
        match file.read_at(&mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}

/// The last bytes of a file, at most `limit`; `None` if there is none.
pub(super) fn tail(path: &Path, limit: usize) -> Result<Option<Vec<u8>>, HostError> {
    match open_regular(path, OFlags::NOFOLLOW) {
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
        Ok((file, length)) => read_some(&file, length.saturating_sub(limit as u64), limit).map(Some).context("read", path),
    }
}

/// A log that is being read.
pub(super) struct Log {
    path: PathBuf,
    file: Arc<File>,
    position: u64,
    threads: Arc<Threads>,
    /// Once somebody waits for changes.
    hints: Option<Fuse<BoxStream<'static, ()>>>,
}

impl Log {
    pub(super) fn open(path: PathBuf, threads: Arc<Threads>) -> Result<Self, HostError> {
        let (file, _) = open_regular(&path, OFlags::empty())?;
        Ok(Self { path, file: Arc::new(file), position: 0, threads, hints: None })
    }
}

impl Log {
    /// Every reader of a log has a turn of its own, and all readers of one log few threads.
    fn ask<T: Send + 'static, F: FnOnce() -> io::Result<T> + Send + 'static>(
        &self,
        what: F,
    ) -> impl Future<Output = io::Result<T>> + Send + use<T, F> {
        let threads = Arc::clone(&self.threads);
        let subject = format!("log {}", self.path.display());
        let own = format!("{subject} for {:p}", Arc::as_ptr(&self.file));
        async move {
            let turn = threads.turn(&own, &subject).await;
            let asked = on_a_thread(turn, move || Ok(what()));
            asked.await.map_err(io::Error::other)?
        }
    }
}

impl LogFile for Log {
    fn read(&mut self, limit: usize) -> BoxFuture<'_, io::Result<Vec<u8>>> {
        Box::pin(async move {
            let (file, at) = (Arc::clone(&self.file), self.position);
            let read = self.ask(move || read_some(&file, at, limit)).await?;
            self.position += read.len() as u64;
            Ok(read)
        })
    }

    fn seek(&mut self, to: u64) -> BoxFuture<'_, io::Result<()>> {
        self.position = to;
        Box::pin(async { Ok(()) })
    }

    fn len(&mut self) -> BoxFuture<'_, io::Result<u64>> {
        let file = Arc::clone(&self.file);
        Box::pin(self.ask(move || file.metadata().map(|m| m.len())))
    }

    fn replaced(&mut self) -> BoxFuture<'_, io::Result<bool>> {
        let (file, path) = (Arc::clone(&self.file), self.path.clone());
        Box::pin(self.ask(move || {
            let own = file.metadata()?;
            match fs::metadata(path) {
                Ok(found) => Ok((found.dev(), found.ino()) != (own.dev(), own.ino())),
                // Between its renaming and the new one there is none: not replaced yet.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(error) => Err(error),
            }
        }))
    }

    fn changed(&mut self) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            if let Some(hints) = &mut self.hints {
                return hints.next().await.is_some();
            }
            let path = self.path.clone();
            let watch = move || {
                let watched = Watched::new();
                // The runtime closes it when the container ends.
                watched.add(&path, WatchFlags::MODIFY | WatchFlags::CLOSE_WRITE);
                if let Some(directory) = path.parent() {
                    watched.add(directory, WatchFlags::CREATE | WatchFlags::MOVE | WatchFlags::DELETE);
                }
                Ok(watched)
            };
            let Ok(watched) = self.ask(watch).await else { return false };
            // What came before it was watched is read after this.
            self.hints = Some(watched.changes().fuse());
            true
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Scratch;
    use super::*;

    #[test]
    fn tail_is_the_end_of_a_regular_file() {
        let scratch = Scratch::new();
        scratch.put("message", "0123456789");
        let path = scratch.path().join("message");
        assert_eq!(tail(&path, 4).unwrap().unwrap(), b"6789");
        assert_eq!(tail(&path, 100).unwrap().unwrap(), b"0123456789");
        assert_eq!(tail(&scratch.path().join("none"), 4).unwrap(), None);
        assert!(tail(scratch.path(), 4).is_err());
        std::os::unix::fs::symlink(&path, scratch.path().join("link")).unwrap();
        assert!(tail(&scratch.path().join("link"), 4).is_err());
    }

    // LOG-007
    #[tokio::test]
    async fn log_is_read_on_and_its_rotation_noticed() {
        let scratch = Scratch::new();
        scratch.put("0.log", "one\n");
        let path = scratch.path().join("0.log");
        let mut log = Log::open(path.clone(), Arc::new(Threads::new())).unwrap();
        assert_eq!(log.read(100).await.unwrap(), b"one\n");
        assert!(log.read(100).await.unwrap().is_empty());
        scratch.put("0.log", "one\ntwo\n");
        assert_eq!((log.len().await.unwrap(), log.replaced().await.unwrap()), (8, false));
        assert_eq!(log.read(2).await.unwrap(), b"tw");
        log.seek(0).await.unwrap();
        assert_eq!(log.read(3).await.unwrap(), b"one");
        fs::rename(&path, scratch.path().join("0.log.20260101-000000")).unwrap();
        assert!(!log.replaced().await.unwrap());
        scratch.put("0.log", "new\n");
        assert!(log.replaced().await.unwrap());
    }

    // LOG-007, S30: what is written, and that the path leads elsewhere, is told.
    #[tokio::test]
    async fn reader_is_told_of_more_and_of_a_rotation() {
        let scratch = Scratch::new();
        scratch.put("0.log", "one\n");
        let path = scratch.path().join("0.log");
        let mut log = Log::open(path.clone(), Arc::new(Threads::new())).unwrap();
        assert!(log.changed().await, "the first comes at once");
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        io::Write::write_all(&mut file, b"two\n").unwrap();
        assert!(log.changed().await);
        drop(file);
        assert!(log.changed().await, "its writer has gone");
        fs::rename(&path, scratch.path().join("0.log.20260101-000000")).unwrap();
        assert!(log.changed().await);
        let nothing = std::pin::pin!(log.changed());
        assert!(futures::FutureExt::now_or_never(nothing).is_none());
    }
}
