//! Connections for watches: as few as API servers allow, and none that a call waits on.
//! Upstream: golang.org/x/net/http2 (Transport, which opens another connection when one is full).
//! Differs: the limit is ours, for the server's is not told to us.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::super::connector::Connector;
use super::super::send::Sender;
use super::complaints::Complaints;

/// How many watches share a connection: API servers allow 100 to 250 streams on one, and what is above it would wait.
const WATCHES_PER_CONNECTION: u64 = 80;

/// Connections for watches.
pub(in crate::api) struct WatchPool {
    connector: Connector,
    forbidden: Arc<AtomicU64>,
    senders: Mutex<Vec<(Sender, Arc<AtomicU64>)>>,
    bookmarks: AtomicBool,
    pub(super) complaints: Complaints,
}

/// A place on a connection; given back when dropped.
pub(super) struct Place {
    pub(super) sender: Sender,
    taken: Arc<AtomicU64>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

impl WatchPool {
    pub(in crate::api) fn new(connector: Connector, forbidden: Arc<AtomicU64>) -> Self {
        Self {
            connector,
            forbidden,
            senders: Mutex::new(Vec::new()),
            bookmarks: AtomicBool::new(false),
            complaints: Complaints::default(),
        }
    }

    pub(super) fn place(&self) -> Place {
        let mut senders = self.senders.lock().unwrap_or_else(PoisonError::into_inner);
        let free = senders.iter().position(|(_, taken)| taken.load(Ordering::Relaxed) < WATCHES_PER_CONNECTION);
        let at = free.unwrap_or_else(|| {
            senders.push((Sender::new(&self.connector, Arc::clone(&self.forbidden)), Arc::default()));
            senders.len() - 1
        });
        let (sender, taken) = &senders[at];
        taken.fetch_add(1, Ordering::Relaxed);
        Place { sender: sender.clone(), taken: Arc::clone(taken) }
    }

    /// Whether this server has ever sent a bookmark: it then does so on every watch.
    pub(super) fn sends_bookmarks(&self) -> bool {
        self.bookmarks.load(Ordering::Relaxed)
    }

    pub(super) fn saw_bookmark(&self) {
        self.bookmarks.store(true, Ordering::Relaxed);
    }
}
