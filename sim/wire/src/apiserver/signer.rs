//! Approves nodes' requests for client certificates, and signs these and approved ones for serving certificates, as a controller manager does.
//! Upstream: pkg/controller/certificates/{approver/sarapprove.go,signer/signer.go}.
//! Differs: within the request that makes it, or as long after as the simulator says.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use model::api::ApiModel;
use model::api::certificates::{KUBELET_SIGNER, SERVING_SIGNER, approval, unfit_for_serving};
use serde_json::Value;

use super::pki::{Pki, ReadRequest, Use};

/// As upstream: so much younger than now its certificates are, for clocks that are behind.
const BACKDATED: Duration = Duration::from_secs(300);

/// The part of a controller manager that signs.
pub struct Signer {
    pki: Arc<Pki>,
    life: Duration,
    approves: bool,
}

impl Signer {
    /// Signs with that authority, for that long.
    #[must_use]
    pub fn new(pki: Arc<Pki>, life: Duration) -> Self {
        Self { pki, life, approves: true }
    }

    /// The same, of which somebody else approves.
    #[must_use]
    pub fn without_approver(mut self) -> Self {
        self.approves = false;
        self
    }

    /// Does what there is to do.
    pub fn run(&self, model: &mut ApiModel, now: Timestamp) {
        for request in model.open_requests() {
            let Some(name) = request["metadata"]["name"].as_str() else { continue };
            // What cannot be read stays open, for somebody to look at.
            let Some(read) = read(&request) else { continue };
            if !ApiModel::is_approved(&request) {
                let Some(message) = approval(&request, &read.asked).filter(|_| self.approves) else { continue };
                if model.judge_request(now, name, "Approved", "AutoApproved", message).is_err() {
                    continue;
                }
            }
            let usage = match request["spec"]["signerName"].as_str() {
                Some(KUBELET_SIGNER) => Use::Client,
                Some(SERVING_SIGNER) => Use::Serving,
                _ => continue,
            };
            if usage == Use::Serving
                && let Some(why) = unfit_for_serving(&request, &read.asked)
            {
                // It was there a moment ago, and nobody else has the model.
                let _failed = model.judge_request(now, name, "Failed", "SignerValidationFailure", why);
                continue;
            }
            let from = now - SignedDuration::try_from(BACKDATED).unwrap_or_default();
            let to = now.saturating_add(SignedDuration::try_from(self.life).unwrap_or_default()).unwrap_or(now);
            match self.pki.sign_request(&read, usage, from, to) {
                Ok(certificate) => {
                    // It was there a moment ago, and nobody else has the model.
                    let _issued = model.issue(now, name, &certificate);
                }
                Err(error) => tracing::warn!(%error, csr = name, "a request cannot be signed"),
            }
        }
    }
}

fn read(request: &Value) -> Option<ReadRequest> {
    ReadRequest::new(&STANDARD.decode(request["spec"]["request"].as_str()?).ok()?).ok()
}
