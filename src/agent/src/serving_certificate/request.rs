//! The serving certificate that the API server signs: requested when `kubelet::node::certificates::serving` says so, kept, shown from then on.
//! Upstream: pkg/kubelet/certificate/kubelet.go, k8s.io/client-go/util/certificate/certificate_manager.go.
//! Differs: the node's addresses are looked at every ten seconds while there is a certificate, not each second.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use kubelet::node::certificates::serving::{LOOK_SOON, Names, SERVING, ServingRotation};
use kubelet::node::certificates::{Held, Step};
use kubelet::time::Now;
use tokio::time::Instant;

use super::ServingCertificate;
use crate::api::{Access, CertificateRequests};
use crate::client_certificate::{Failed, Pair, Store, StoreError, World, attempt, moment};
use crate::event_loop::Handle;
use crate::server::metrics::{Measure, Metric, Registry};
use crate::tls::certified_key;

static TTL: Metric = Metric {
    name: "kubelet_certificate_manager_server_ttl_seconds",
    help: "[ALPHA] Gauge of the shortest TTL (time-to-live) of the Kubelet's serving certificate. The value is in seconds until \
           certificate expiry (negative if already expired). If serving certificate is invalid or unused, the value will be +INF.",
    measure: Measure::TimeLeft,
};
static RENEW_ERRORS: Metric = Metric {
    name: "kubelet_server_expiration_renew_errors",
    help: "[ALPHA] Counter of certificate renewal errors.",
    measure: Measure::Counter,
};
static ROTATED: Metric = Metric {
    name: "kubelet_certificate_manager_server_rotation_seconds",
    help: "[ALPHA] Histogram of the number of seconds the previous certificate lived before being rotated.",
    measure: Measure::Histogram(&[
        60.0,
        3_600.0,
        14_400.0,
        86_400.0,
        604_800.0,
        2_592_000.0,
        7_776_000.0,
        15_552_000.0,
        31_104_000.0,
        124_416_000.0,
    ]),
};

/// What there is of it at the start.
pub struct Requested {
    store: Store,
    held: Option<Held>,
    certificate: Arc<ServingCertificate>,
}

impl Requested {
    /// Opens the store (`kubelet-server-current.pem`); what is in it, or else the pair in those files, is shown by `certificate` from now on.
    ///
    /// # Errors
    /// If the store cannot be used.
    pub fn open(
        directory: &Path,
        until_then: Option<(PathBuf, PathBuf)>,
        certificate: Arc<ServingCertificate>,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let store = Store::open(directory, &SERVING)?;
        let pair = store.current(until_then).filter(|pair| pair.held.is_valid(now) && show(&certificate, pair));
        Ok(Self { store, held: pair.map(|pair| pair.held), certificate })
    }

    /// Keeps it up, with the node's own access to the API server, for the names that the agent behind `handle` knows.
    #[must_use]
    pub fn kept_up(self, node: &str, access: Access, world: World, handle: Handle) -> Requesting {
        let epoch = Instant::now();
        let now = moment(&world, epoch);
        let rotation = ServingRotation::new(node, self.held.clone(), world.seed ^ 0x7365_7276, now);
        Requesting { node: node.to_owned(), it: self, access, world, handle, rotation, epoch }
    }
}

/// What keeps it up.
pub struct Requesting {
    node: String,
    it: Requested,
    access: Access,
    world: World,
    handle: Handle,
    rotation: ServingRotation,
    epoch: Instant,
}

/// Whether it can be shown at all.
fn show(certificate: &ServingCertificate, pair: &Pair) -> bool {
    match certified_key(&pair.identity.certificate, &pair.identity.key) {
        Ok(key) => {
            certificate.replace(key);
            true
        }
        Err(error) => {
            tracing::warn!(%error, "A serving certificate cannot be used");
            false
        }
    }
}

impl Requesting {
    fn now(&self) -> Now {
        moment(&self.world, self.epoch)
    }

    async fn names(&self) -> Option<Names> {
        self.handle.ask(|kubelet, _| kubelet.serving_names()).await.flatten()
    }

    /// Runs for ever.
    pub async fn run(mut self, metrics: Arc<Registry>) -> Infallible {
        tracing::info!("Certificate rotation is enabled");
        metrics.add(&RENEW_ERRORS, &[], 0.0);
        loop {
            let names = self.names().await;
            let now = self.now();
            if !self.rotation.is_valid(now) {
                self.it.certificate.withdraw();
            }
            let ends = self.rotation.held().filter(|held| held.is_valid(now.wall)).map(|held| held.not_after);
            metrics.set(&TTL, &[], ends.map_or(f64::INFINITY, |at| at.as_second() as f64));
            match (self.rotation.step(names.as_ref(), now), names) {
                (Step::Request, Some(names)) => self.request(names, &metrics).await,
                (Step::Wait(time), _) => tokio::time::sleep(time).await,
                (Step::Request | Step::End, _) => tokio::time::sleep(LOOK_SOON).await,
            }
        }
    }

    /// Requests a certificate for those names and takes it into use; gives up as soon as they are those of before.
    async fn request(&mut self, names: Names, metrics: &Registry) {
        tracing::info!(?names, "Rotating certificates");
        let requests = CertificateRequests::new(self.access.clone(), &self.world.net);
        let node = self.node.clone();
        self.rotation.asked(names.clone());
        let mut attempt = std::pin::pin!(attempt(&SERVING, &requests, |key| key.request_under(&node, &names)));
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut attempt => break outcome,
                () = tokio::time::sleep(LOOK_SOON) => {
                    if !self.rotation.is_valid(self.now()) {
                        self.it.certificate.withdraw();
                    }
                    if self.rotation.is_outdated(self.names().await.as_ref()) {
                        break Err(Failed::Unsigned("the node's addresses changed".to_owned()));
                    }
                }
            }
        };
        let now = self.now();
        let before = self.rotation.held().map(|held| now.wall.duration_since(held.not_before).as_secs_f64());
        let kept = match outcome {
            Ok((certificate, key)) => self
                .it
                .store
                .update(&certificate, &key.pem(), now.wall)
                .map_err(|error| ("Unable to store the new cert/key pair", error.to_string())),
            Err(failed) => Err(failed.told()),
        };
        match kept {
            Ok(pair) if show(&self.it.certificate, &pair) => {
                self.rotation.renewed(now, pair.held);
                if let Some(age) = before {
                    metrics.observe(&ROTATED, &[], age);
                }
                tracing::info!(deadline = %self.rotation.due(), "Certificate rotation deadline determined");
            }
            failed => {
                if let Err((what, error)) = failed {
                    tracing::error!(error, "{what}");
                }
                metrics.add(&RENEW_ERRORS, &[], 1.0);
                self.rotation.failed(now);
            }
        }
    }
}
