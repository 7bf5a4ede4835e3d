//! Reading a log file from where the client wants it, to its end or for as long as the container runs.
//! Upstream: k8s.io/cri-client/pkg/logs (ReadLogs, waitLogs, findTailLineStartIndex).
//! Differs: where the kernel gives no hints, files are polled every 200 ms; where it does, a log that stays quiet is looked at ever more
//! rarely; a rotated file is read to its end before the next is opened; a file that was cut short is read from its beginning.

use std::io;
use std::time::Duration;

use axum::body::Bytes;
use kubelet::failure::{Failure, FailureKind};
use kubelet::ids::{ContainerId, PodUid};
use kubelet::observation::ContainerState;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::printer::{Printer, Wanted};
use crate::env::LogFile;
use crate::server::{Shared, lookup};

/// What is read and passed on at once.
const BLOCK: usize = 64 << 10;
/// How often a log is looked at without hints.
const POLL: Duration = Duration::from_millis(200);
/// How soon after a hint it is looked at whatever the hints say (upstream: logForceCheckPeriod), and its container asked about: twice that
/// after each look at which nothing was told, for everyone who follows a quiet log costs the node as much as that takes.
const FORCED: Duration = Duration::from_secs(1);
const FORCED_MOST: Duration = Duration::from_secs(10);
/// Between two looks at a log that grows all the time.
const PACE: Duration = Duration::from_millis(20);
/// How often it is looked whether a log with nothing new was rotated or cut: a second call for each look, and a third. A hint makes it so
/// at once.
const MOVE_CHECK: Duration = Duration::from_secs(1);
/// How often a container is asked about whose log has nothing new (API-090).
const STATE_CHECK: Duration = Duration::from_secs(1);

/// Copies a log. `Ok` also when the client went away; otherwise what is to be said at the end of the body.
pub(crate) async fn copy(
    shared: &Shared,
    pod: &PodUid,
    id: &ContainerId,
    mut reader: Reader,
    wanted: &Wanted,
    out: &mpsc::Sender<Bytes>,
) -> Result<(), String> {
    let (mut checked, mut looked) = (Instant::now(), Instant::now());
    let (mut running, mut hinted, mut patience) = (true, false, FORCED);
    loop {
        let grew = match reader.copy_to_end(out).await? {
            Copied::Done => return Ok(()),
            Copied::Something => true,
            Copied::Nothing => false,
        };
        if !wanted.follow {
            return reader.finish(out).await;
        }
        if reader.replaced || !running || (!grew && (hinted || looked.elapsed() >= MOVE_CHECK)) {
            looked = Instant::now();
            if reader.moved_on(shared).await? {
                continue;
            }
        }
        if !running && !grew && !reader.replaced {
            return reader.finish(out).await;
        }
        if !grew && checked.elapsed() >= STATE_CHECK {
            running = is_running(shared, pod, id).await;
            checked = Instant::now();
            if !running {
                // Once more, for what it wrote before it ended.
                continue;
            }
        }
        tokio::select! {
            biased;
            () = out.closed() => return Ok(()),
            told = wait(reader.file.as_mut(), patience) => {
                hinted = told;
                patience = if told || grew || !running { FORCED } else { (patience * 2).min(FORCED_MOST) };
            }
        }
    }
}

/// Until it is worth while to look again; whether that was told.
async fn wait(file: &mut dyn LogFile, patience: Duration) -> bool {
    match tokio::time::timeout(patience, file.changed()).await {
        Ok(true) => {
            tokio::time::sleep(PACE).await;
            true
        }
        Ok(false) => {
            tokio::time::sleep(POLL).await;
            false
        }
        Err(_) => false,
    }
}

/// Whether more may come: a runtime that does not answer says nothing about the container (API-090).
async fn is_running(shared: &Shared, pod: &PodUid, id: &ContainerId) -> bool {
    match lookup::instance(shared, pod, id).await {
        Ok(Some(status)) => status.state == ContainerState::Running,
        Ok(None) => false,
        Err(Failure { kind: FailureKind::NotFound, .. }) => false,
        Err(_) => true,
    }
}

enum Copied {
    /// Nothing new was there.
    Nothing,
    /// Something was, and it is copied.
    Something,
    /// No more is wanted, or nobody wants it any more.
    Done,
}

/// A log that is open.
pub(crate) struct Reader {
    path: String,
    file: Box<dyn LogFile>,
    /// How far the file was read.
    position: u64,
    /// Whether another file was found in its place, the last time that its end was reached.
    replaced: bool,
    printer: Printer,
}

impl Reader {
    /// Opens a log where the client wants to read it.
    pub(crate) async fn open(shared: &Shared, path: &str, wanted: &Wanted) -> Result<Self, String> {
        // Upstream resolves links before it opens, and says so.
        let unresolved = |failure: Failure| format!("failed to try resolving symlinks in path {path:?}: {failure}");
        let mut file = shared.env.host.open_log(path.to_owned()).await.map_err(unresolved)?;
        let start = match wanted.tail {
            Some(lines) => tail_start(file.as_mut(), lines).await.map_err(|error| failed("tail", path, &error))?,
            None => 0,
        };
        file.seek(start).await.map_err(|error| failed("seek", path, &error))?;
        Ok(Self { path: path.to_owned(), file, position: start, replaced: false, printer: Printer::new(wanted) })
    }

    /// Copies all that is there now.
    async fn copy_to_end(&mut self, out: &mpsc::Sender<Bytes>) -> Result<Copied, String> {
        let mut copied = Copied::Nothing;
        loop {
            if self.printer.is_done() {
                return Ok(Copied::Done);
            }
            let block = self.file.read(BLOCK).await.map_err(|error| failed("read", &self.path, &error))?;
            if block.is_empty() {
                return Ok(copied);
            }
            copied = Copied::Something;
            self.position += block.len() as u64;
            let mut text = Vec::new();
            let fed = self.printer.feed(&block, &mut text).map_err(|error| error.to_string());
            if !text.is_empty() && out.send(Bytes::from(text)).await.is_err() {
                return Ok(Copied::Done);
            }
            fed?;
        }
    }

    /// Says what has no line feed.
    async fn finish(&mut self, out: &mpsc::Sender<Bytes>) -> Result<(), String> {
        let mut text = Vec::new();
        self.printer.finish(&mut text).map_err(|error| error.to_string())?;
        if !text.is_empty() {
            // The client may have gone away.
            let _ = out.send(Bytes::from(text)).await;
        }
        Ok(())
    }

    /// Goes to the next file, if the log was rotated and this one was read once more since; or to the beginning, if it was cut.
    async fn moved_on(&mut self, shared: &Shared) -> Result<bool, String> {
        let was_replaced = self.replaced;
        // Between a rotation and the runtime's reopening there is no file of that name; that is not the end.
        self.replaced = self.file.replaced().await.unwrap_or(false);
        if self.replaced && was_replaced {
            let next = match shared.env.host.open_log(self.path.clone()).await {
                Ok(next) => next,
                Err(failure) if failure.is_not_found() => {
                    self.replaced = false;
                    return Ok(false);
                }
                Err(failure) => return Err(format!("failed to open log file {:?}: {failure}", self.path)),
            };
            self.file = next;
            self.position = 0;
            self.replaced = false;
            self.printer.next_file();
            return Ok(true);
        }
        if self.file.len().await.is_ok_and(|length| length < self.position) {
            self.file.seek(0).await.map_err(|error| failed("seek", &self.path, &error))?;
            self.position = 0;
            self.printer.next_file();
            return Ok(true);
        }
        Ok(false)
    }
}

fn failed(what: &str, path: &str, error: &io::Error) -> String {
    format!("failed to {what} log file {path:?}: {error}")
}

/// Where the last lines begin, found from the end, a block at a time (API-089).
async fn tail_start(file: &mut dyn LogFile, lines: u64) -> io::Result<u64> {
    let mut right = file.len().await?;
    let mut found = 0_u64;
    while right > 0 {
        let left = right.saturating_sub(BLOCK as u64);
        file.seek(left).await?;
        let block = read_exactly(file, usize::try_from(right - left).unwrap_or(BLOCK)).await?;
        for (index, byte) in block.iter().enumerate().rev() {
            if *byte == b'\n' {
                found += 1;
                if found > lines {
                    return Ok(left + index as u64 + 1);
                }
            }
        }
        right = left;
    }
    Ok(0)
}

async fn read_exactly(file: &mut dyn LogFile, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        let more = file.read(length - bytes.len()).await?;
        if more.is_empty() {
            // It was cut short meanwhile.
            break;
        }
        bytes.extend_from_slice(&more);
    }
    Ok(bytes)
}
