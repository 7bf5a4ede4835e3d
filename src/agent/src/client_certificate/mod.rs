//! The node's client certificate while the agent runs: requested when `kubelet::node::certificates` says so, kept, and shown from then on.
//! Upstream: k8s.io/client-go/util/certificate/certificate_manager.go, pkg/kubelet/certificate/kubelet.go.
//! Differs: nothing on purpose.

mod join;
mod pem;
mod store;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kubelet::failure::Failure;
use kubelet::node::certificates::{CLIENT, LOOK_EVERY, Purpose, Rotation, SIGNED_WITHIN, Step, judge, signing_request_for};
use kubelet::time::{Mono, Now};
use tokio::time::{Instant, timeout};

pub use self::join::{JoinError, Joining, World, connect};
pub(crate) use self::pem::NodeKey;
pub use self::store::{Pair, Store, StoreError};
use crate::api::{Access, CertificateRequests, Rotating};
use crate::server::metrics::{Measure, Metric, Registry};

/// The end of an agent that has had no certificate for too long (API-196).
#[derive(Debug, thiserror::Error)]
#[error("No valid client certificate is found and the server is responsive, exiting.")]
pub struct NoCertificate;

/// Why a request came to nothing.
pub(crate) enum Failed {
    /// The API server did not take it.
    Refused(Failure),
    /// It was taken, and not signed.
    Unsigned(String),
    /// It could not even be made.
    Unmade(String),
}

static TTL: Metric = Metric {
    name: "kubelet_certificate_manager_client_ttl_seconds",
    help: "[ALPHA] Gauge of the TTL (time-to-live) of the Kubelet's client certificate. The value is in seconds until certificate \
           expiry (negative if already expired). If client certificate is invalid or unused, the value will be +INF.",
    measure: Measure::TimeLeft,
};
static RENEW_ERRORS: Metric = Metric {
    name: "kubelet_certificate_manager_client_expiration_renew_errors",
    help: "[ALPHA] Counter of certificate renewal errors.",
    measure: Measure::Counter,
};

/// Renews the client certificate for as long as the agent runs.
pub struct Renewal {
    node: String,
    world: World,
    /// What the node joins by.
    bootstrap: Access,
    /// What it shows once it has a certificate.
    own: Access,
    rotating: Arc<Rotating>,
    store: Store,
    rotation: Rotation,
    epoch: Instant,
}

pub(crate) fn moment(world: &World, epoch: Instant) -> Now {
    Now { mono: Mono::from_start(epoch.elapsed()), wall: world.clock.now() }
}

impl Renewal {
    fn now(&self) -> Now {
        moment(&self.world, self.epoch)
    }

    /// Runs until the agent has to end. What becomes of the certificate is counted there.
    pub async fn run(mut self, metrics: Arc<Registry>) -> NoCertificate {
        metrics.add(&RENEW_ERRORS, &[], 0.0);
        loop {
            metrics.set(&TTL, &[], self.rotation.not_after().map_or(f64::INFINITY, |at| at.as_second() as f64));
            match self.rotation.step(self.now()) {
                Step::End => break,
                Step::Wait(time) => tokio::time::sleep(time).await,
                Step::Request => {
                    if self.request(&metrics).await {
                        break;
                    }
                }
            }
        }
        NoCertificate
    }

    /// Requests a certificate and takes it into use; whether the agent has to end meanwhile.
    async fn request(&mut self, metrics: &Registry) -> bool {
        tracing::info!("Rotating certificates");
        let access = if self.rotation.is_valid(self.now()) { &self.own } else { &self.bootstrap };
        let requests = CertificateRequests::new(access.clone(), &self.world.net);
        let node = self.node.clone();
        let mut attempt = std::pin::pin!(attempt(&CLIENT, &requests, |key| key.request(&node)));
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut attempt => break outcome,
                () = tokio::time::sleep(LOOK_EVERY) => {
                    if self.rotation.must_end(moment(&self.world, self.epoch)) {
                        return true;
                    }
                }
            }
        };
        let now = self.now();
        let failed_before = self.rotation.failures();
        match outcome {
            Ok((certificate, key)) => match self.store.update(&certificate, &key.pem(), now.wall) {
                Ok(pair) => {
                    tracing::info!(
                        "Certificate rotation detected, shutting down client connections to start using new credentials"
                    );
                    self.rotating.replace(pair.identity, pair.held.not_after);
                    self.rotation.renewed(now, pair.held);
                    tracing::info!(deadline = %self.rotation.due(), "Certificate rotation deadline determined");
                }
                Err(error) => {
                    tracing::error!(%error, "Unable to store the new cert/key pair");
                    self.rotation.failed(now);
                }
            },
            Err(failed) => {
                match &failed {
                    Failed::Refused(failure) => self.rotation.was_refused(now, failure.kind),
                    Failed::Unsigned(_) | Failed::Unmade(_) => self.rotation.failed(now),
                }
                let (what, error) = failed.told();
                tracing::error!(error, "{what}");
            }
        }
        if self.rotation.failures() > failed_before {
            metrics.add(&RENEW_ERRORS, &[], 1.0);
        }
        false
    }
}

impl Failed {
    /// What the log is told, and why.
    pub(crate) fn told(self) -> (&'static str, String) {
        match self {
            Self::Refused(failure) => (
                "Failed while requesting a signed certificate from the control plane",
                format!("cannot create certificate signing request: {failure}"),
            ),
            Self::Unsigned(why) => ("Certificate request was not signed", why),
            Self::Unmade(why) => ("Unable to generate a certificate signing request", why),
        }
    }
}

/// One request with a key of its own, from its making to its certificate.
pub(crate) async fn attempt(
    purpose: &Purpose,
    requests: &CertificateRequests,
    request: impl FnOnce(&NodeKey) -> Result<String, rcgen::Error>,
) -> Result<(Vec<u8>, NodeKey), Failed> {
    let made = NodeKey::generate().and_then(|key| Ok((request(&key)?, key)));
    let (request, key) = made.map_err(|error| Failed::Unmade(error.to_string()))?;
    let created = requests.create(&signing_request_for(purpose, None, request.into_bytes())).await.map_err(Failed::Refused)?;
    let signed = timeout(SIGNED_WITHIN, certificate_of(requests, &created)).await;
    match signed.unwrap_or_else(|_| Err("timed out waiting for the condition".to_owned())) {
        Ok(certificate) => Ok((certificate, key)),
        Err(why) => Err(Failed::Unsigned(why)),
    }
}

/// Waits until a request has its certificate, or never will.
async fn certificate_of(requests: &CertificateRequests, created: &CertificateSigningRequest) -> Result<Vec<u8>, String> {
    let name = created.metadata.name.as_deref().unwrap_or_default();
    let uid = created.metadata.uid.as_deref().unwrap_or_default();
    let came = requests.follow(name, |request| judge(request, name, uid).transpose()).await;
    came.map_err(|why| format!("cannot watch on the certificate signing request: {why}"))
}
