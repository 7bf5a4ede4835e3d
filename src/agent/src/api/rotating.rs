//! A client certificate that is renewed while it is in use: shown in each handshake, and the end of every connection made before.
//! Upstream: pkg/kubelet/certificate/transport.go, k8s.io/client-go/util/connrotation.
//! Differs: connections end when the new certificate is there; upstream looks for one every ten seconds.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::env::Clock;
use crate::tls::ClientIdentity;

/// The certificate that a node shows now, shared by who renews it and who shows it (API-195).
pub struct Rotating {
    clock: Arc<dyn Clock>,
    now: Mutex<Shown>,
    came: Notify,
}

#[derive(Default)]
struct Shown {
    identity: Option<(ClientIdentity, Timestamp)>,
    renewals: u64,
    /// Cancelled when the identity is replaced.
    outdated: CancellationToken,
}

impl fmt::Debug for Rotating {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rotating").field("renewals", &self.renewals()).finish_non_exhaustive()
    }
}

impl Rotating {
    /// None yet.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, now: Mutex::default(), came: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Shown> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows another one from now on, until its end; all connections that were made with the one before are closed.
    pub fn replace(&self, identity: ClientIdentity, until: Timestamp) {
        let outdated = {
            let mut now = self.lock();
            now.identity = Some((identity, until));
            now.renewals += 1;
            std::mem::take(&mut now.outdated)
        };
        outdated.cancel();
        self.came.notify_waiters();
    }

    /// How often it was replaced.
    pub(super) fn renewals(&self) -> u64 {
        self.lock().renewals
    }

    /// Whether there is nothing to show.
    pub(super) fn is_empty(&self) -> bool {
        self.current().is_none()
    }

    /// What to show, and what ends the connection that it is shown on. Waits while there is none that has not expired: the caller
    /// has a deadline.
    pub(super) async fn shown(&self) -> (ClientIdentity, CancellationToken) {
        loop {
            // Before the look, so that nothing that comes between is missed.
            let came = self.came.notified();
            if let Some(shown) = self.current() {
                return shown;
            }
            came.await;
        }
    }

    fn current(&self) -> Option<(ClientIdentity, CancellationToken)> {
        let now = self.lock();
        let (identity, until) = now.identity.as_ref()?;
        (self.clock.now() <= *until).then(|| (identity.clone(), now.outdated.clone()))
    }
}
