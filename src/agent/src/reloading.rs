//! Takes files of the server into use while it serves, whenever they change: its certificate and key, the authorities of its clients.
//! Upstream: k8s.io/apiserver/pkg/server/dynamiccertificates, pkg/kubelet/certificate/kubelet.go (kubeletServerCertificateDynamicFileManager).
//! Differs: a change that cannot be used is told once, not at each try.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use sha2::{Digest as _, Sha256};

use crate::host::read_watched;

/// How often files are looked at without a hint (dynamiccertificates.FileRefreshDuration).
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Between two looks, whoever writes to the files meanwhile.
const PAUSE: Duration = Duration::from_millis(100);

/// Files that belong together, and who takes them over.
#[derive(Clone)]
pub struct Subject {
    what: &'static str,
    paths: Arc<[PathBuf]>,
    begun_with: Seen,
    take: Arc<Take>,
}

/// Takes contents over, or says why not: then what there is stays in use.
type Take = dyn Fn(&[Vec<u8>]) -> Result<(), String> + Send + Sync;

/// What was seen last: of contents no more than a digest, for a key is among them.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Contents([u8; 32]),
    Unreadable(String),
}

impl Seen {
    fn of(contents: &[Vec<u8>]) -> Self {
        let mut digest = Sha256::new();
        for contents in contents {
            digest.update((contents.len() as u64).to_be_bytes());
            digest.update(contents);
        }
        Self::Contents(digest.finalize().into())
    }
}

impl Subject {
    /// Files of which those contents are in use.
    #[must_use]
    pub fn new(
        what: &'static str,
        paths: Vec<PathBuf>,
        in_use: &[Vec<u8>],
        take: impl Fn(&[Vec<u8>]) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        Self { what, paths: paths.into(), begun_with: Seen::of(in_use), take: Arc::new(take) }
    }

    /// Looks at the files for ever.
    pub async fn follow(self) -> Infallible {
        let mut seen = self.begun_with.clone();
        loop {
            let (contents, mut changes) = match read_watched(Arc::clone(&self.paths)).await {
                Ok((contents, changes)) => (contents.into_iter().collect(), changes),
                Err(error) => (Err(error), futures::stream::pending().boxed()),
            };
            self.look(contents, &mut seen);
            tokio::time::sleep(PAUSE).await;
            let hint = async {
                if changes.next().await.is_none() {
                    std::future::pending::<()>().await;
                }
            };
            // Whether a hint came or the time is over, what follows is the same.
            let _ = tokio::time::timeout(LOOK_EVERY, hint).await;
        }
    }

    fn look(&self, contents: Result<Vec<Vec<u8>>, String>, seen: &mut Seen) {
        let now = match &contents {
            Ok(contents) => Seen::of(contents),
            Err(why) => Seen::Unreadable(why.clone()),
        };
        if now == *seen {
            return;
        }
        *seen = now;
        let paths = || self.paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        match contents.and_then(|contents| (self.take)(&contents)) {
            Ok(()) => tracing::info!(files = paths(), "Loaded a new {}", self.what),
            Err(error) => {
                tracing::warn!(files = paths(), error, "A changed {} cannot be used; the one before stays in use", self.what);
            }
        }
    }
}
