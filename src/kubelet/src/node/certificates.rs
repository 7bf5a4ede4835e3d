//! Decides how the node gets and keeps its client certificate: when to ask for one, what to ask for, what an answer means, when to end.
//! Upstream: k8s.io/client-go/util/certificate/{certificate_manager.go,csr}, pkg/kubelet/certificate/{kubelet,transport,bootstrap}.
//! Differs: the moment of renewal follows a wall clock that is set; upstream sleeps until then whatever the clock does meanwhile.

pub mod kubeconfig;
pub mod serving;
pub mod store;

#[cfg(test)]
mod tests;

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::failure::FailureKind;
use crate::rng::Rng;
use crate::time::{Mono, Now};

/// Who signs (API-191).
pub const SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// The organization of every node.
pub const ORGANIZATION: &str = "system:nodes";
/// What the certificate is for: an EC key encrypts no keys.
pub const USAGES: [&str; 2] = ["digital signature", "client auth"];
/// What a certificate is for, and where it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purpose {
    /// Who signs.
    pub signer: &'static str,
    /// What it may be used for.
    pub usages: [&'static str; 2],
    /// What the names of its files begin with.
    pub store: &'static str,
}

/// API-191, API-193
pub const CLIENT: Purpose = Purpose { signer: SIGNER, usages: USAGES, store: "kubelet-client" };

/// How long one request waits for its certificate (API-191).
pub const SIGNED_WITHIN: Duration = Duration::from_secs(15 * 60);
/// How long the first one of a node that does not renew waits (API-192).
pub const JOINED_WITHIN: Duration = Duration::from_secs(3600);

/// API-194
const FIRST_RETRY: Duration = Duration::from_secs(2);
const RETRY_JITTER: f64 = 0.1;
/// So many retries follow one another faster and slower; then they come evenly.
const QUICK_RETRIES: u32 = 4;
const LATER_RETRY: Duration = Duration::from_secs(32);
/// Between a certificate and the next look at whether it is good.
const AFTER_SUCCESS: Duration = Duration::from_secs(1);
/// API-195, API-196: how often the clock is looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(10);
/// API-196
const WITHOUT_CERTIFICATE: Duration = Duration::from_secs(5 * 60);

/// The user that a node's agent is.
#[must_use]
pub fn user_of(node: &str) -> String {
    format!("system:node:{node}")
}

/// What of a certificate is decided by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// When its life begins.
    pub not_before: Timestamp,
    /// When it ends.
    pub not_after: Timestamp,
    /// Its common name.
    pub common_name: String,
    /// Its organizations.
    pub organizations: Vec<String>,
    /// Its other names.
    pub names: serving::Names,
}

impl Held {
    /// Whether it has not expired. One whose life has not begun counts as good: clocks differ, and there is none better.
    #[must_use]
    pub fn is_valid(&self, now: Timestamp) -> bool {
        now <= self.not_after
    }

    /// Whether it says who this node is.
    fn is_of(&self, node: &str) -> bool {
        self.common_name == user_of(node) && self.organizations.iter().any(|o| o == ORGANIZATION)
    }
}

/// When a certificate is to be renewed: at seven to nine tenths of its life, so that nodes that joined together do not renew
/// together (API-194). `draw` is in `[0, 1)`.
#[must_use]
pub fn renewal_time(not_before: Timestamp, not_after: Timestamp, draw: f64) -> Timestamp {
    let life = not_after.duration_since(not_before).max(SignedDuration::ZERO);
    let share = SignedDuration::try_from_secs_f64(life.as_secs_f64() * (0.7 + 0.2 * draw)).unwrap_or(life);
    not_before.saturating_add(share).unwrap_or(not_after)
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Request a certificate.
    Request,
    /// Look again after that time.
    Wait(Duration),
    /// End the process: who starts it again may give it new credentials (API-196).
    End,
}

/// The renewal of one node's client certificate.
#[derive(Clone, Debug)]
pub struct Rotation {
    node: String,
    held: Option<Held>,
    due: Timestamp,
    not_earlier: Mono,
    failures: u32,
    server_is_healthy: bool,
    last_valid: Mono,
    rng: Rng,
}

impl Rotation {
    /// Begins with what there is. `at_once` replaces it whatever its age, as the certificate that an administrator put into a
    /// kubeconfig is replaced.
    #[must_use]
    pub fn new(node: &str, held: Option<Held>, at_once: bool, seed: u64, now: Now) -> Self {
        let mut rotation = Self {
            node: node.to_owned(),
            held: None,
            due: now.wall,
            not_earlier: now.mono,
            failures: 0,
            server_is_healthy: false,
            last_valid: now.mono,
            rng: Rng::new(seed),
        };
        rotation.holds(held, now);
        if at_once {
            rotation.due = now.wall;
        }
        rotation
    }

    fn holds(&mut self, held: Option<Held>, now: Now) {
        self.due = match &held {
            Some(held) if held.is_of(&self.node) => renewal_time(held.not_before, held.not_after, self.rng.fraction()),
            _ => now.wall,
        };
        self.held = held;
    }

    /// Whether there is a certificate to show: the next request is then made as the node, else with what the node joins by.
    #[must_use]
    pub fn is_valid(&self, now: Now) -> bool {
        self.held.as_ref().is_some_and(|held| held.is_valid(now.wall))
    }

    /// When the certificate that there is ends.
    #[must_use]
    pub fn not_after(&self) -> Option<Timestamp> {
        self.held.as_ref().map(|held| held.not_after)
    }

    /// When it is renewed, by the wall clock.
    #[must_use]
    pub fn due(&self) -> Timestamp {
        self.due
    }

    /// Decides what to do now.
    pub fn step(&mut self, now: Now) -> Step {
        if self.must_end(now) {
            return Step::End;
        }
        let wait = self.not_earlier.since(now.mono);
        if !wait.is_zero() {
            return Step::Wait(wait.min(LOOK_EVERY));
        }
        match Duration::try_from(self.due.duration_since(now.wall)) {
            // An expired one is not kept, even if its renewal was to come later.
            Ok(left) if !left.is_zero() && self.is_valid(now) => Step::Wait(left.min(LOOK_EVERY)),
            _ => Step::Request,
        }
    }

    /// API-196: whether the node has had no certificate for too long, and that is not because nobody answers. To be asked every
    /// [`LOOK_EVERY`], also while a request is under way.
    pub fn must_end(&mut self, now: Now) -> bool {
        if self.is_valid(now) {
            self.last_valid = now.mono;
            return false;
        }
        self.server_is_healthy && now.mono.since(self.last_valid) > WITHOUT_CERTIFICATE
    }

    /// The API server did not take the request. What it says of itself by that (API-196): 401, 403 and 404 are answers of one that
    /// is well.
    pub fn was_refused(&mut self, now: Now, kind: FailureKind) {
        self.server_is_healthy = matches!(kind, FailureKind::Unauthorized | FailureKind::Forbidden | FailureKind::NotFound);
        self.failed(now);
    }

    /// There was no certificate in the end: denied, not in time, not kept.
    pub fn failed(&mut self, now: Now) {
        self.failures = self.failures.saturating_add(1);
        self.not_earlier = now.mono + retry_wait(self.failures, &mut self.rng);
    }

    /// How many requests in a row came to nothing.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// A new certificate is in use.
    pub fn renewed(&mut self, now: Now, held: Held) {
        self.server_is_healthy = true;
        self.failures = 0;
        self.not_earlier = now.mono + AFTER_SUCCESS;
        self.holds(Some(held), now);
    }
}

/// How long to wait after that many failures in a row (API-194).
fn retry_wait(failures: u32, rng: &mut Rng) -> Duration {
    if failures > QUICK_RETRIES {
        return LATER_RETRY;
    }
    rng.jitter(FIRST_RETRY * 2_u32.pow(failures.saturating_sub(1)), RETRY_JITTER)
}

/// The object that asks for a client certificate (API-191). Without a name the API server makes one.
#[must_use]
pub fn signing_request(name: Option<&str>, pem: Vec<u8>) -> CertificateSigningRequest {
    signing_request_for(&CLIENT, name, pem)
}

/// The same for whatever purpose (API-173).
#[must_use]
pub fn signing_request_for(purpose: &Purpose, name: Option<&str>, pem: Vec<u8>) -> CertificateSigningRequest {
    CertificateSigningRequest {
        metadata: ObjectMeta {
            name: name.map(str::to_owned),
            generate_name: name.is_none().then(|| "csr-".to_owned()),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem),
            signer_name: purpose.signer.to_owned(),
            usages: Some(purpose.usages.map(str::to_owned).to_vec()),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    }
}

/// What the name of a request that outlives a restart is a digest of (API-192): key, user, group and usages, so that each of them
/// makes another request.
#[must_use]
pub fn digested_of(public_key_der: &[u8], node: &str) -> Vec<u8> {
    let mut text = String::new();
    let user = user_of(node);
    let parts = [public_key_der, user.as_bytes(), ORGANIZATION.as_bytes()];
    for part in parts.into_iter().chain(USAGES.iter().map(|usage| usage.as_bytes())) {
        text.push_str(&BASE64_URL_SAFE_NO_PAD.encode(part));
        text.push('|');
    }
    text.into_bytes()
}

/// The name of a request by its SHA-512/256 digest (API-192).
#[must_use]
pub fn name_of_digest(digest: &[u8]) -> String {
    format!("node-csr-{}", BASE64_URL_SAFE_NO_PAD.encode(digest))
}

/// What a request has come to: nothing yet, or a certificate. `None` for one that is not there any more.
///
/// # Errors
/// In upstream's words, if it will never have one (API-191).
pub fn judge(request: Option<&CertificateSigningRequest>, name: &str, uid: &str) -> Result<Option<Vec<u8>>, String> {
    let Some(request) = request else { return Err(format!("csr {name:?} was deleted")) };
    if request.metadata.uid.as_deref().unwrap_or_default() != uid {
        return Err(format!("csr {name:?} changed UIDs"));
    }
    let Some(status) = &request.status else { return Ok(None) };
    let mut approved = false;
    for condition in status.conditions.iter().flatten() {
        let what = match condition.type_.as_str() {
            "Denied" => "is denied",
            "Failed" => "failed",
            "Approved" => {
                approved = true;
                continue;
            }
            _ => continue,
        };
        let (reason, message) = (condition.reason.as_deref().unwrap_or_default(), condition.message.as_deref().unwrap_or_default());
        return Err(format!("certificate signing request {what}, reason: {reason}, message: {message}"));
    }
    Ok(status.certificate.as_ref().filter(|pem| approved && !pem.0.is_empty()).map(|pem| pem.0.clone()))
}

/// What of a request that was found under our name must be as in ours (API-192).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestFacts {
    /// The subject, in words.
    pub subject: String,
    /// The public key in DER.
    pub public_key: Vec<u8>,
}

/// Whether a request that an earlier life made is the one that this life would make. `expiry` is of the certificate that it may
/// have by now.
///
/// # Errors
/// What is different.
pub fn check_compatible(
    found: &RequestFacts,
    ours: &RequestFacts,
    signer: &str,
    expiry: Option<Timestamp>,
    now: Timestamp,
) -> Result<(), String> {
    if found.subject != ours.subject {
        return Err(format!("csr subjects differ: new: {:?}, orig: {:?}", found.subject, ours.subject));
    }
    if signer != SIGNER {
        return Err(format!("csr signerNames differ: new {signer:?}, orig: {SIGNER:?}"));
    }
    if found.public_key != ours.public_key {
        return Err("error validating signature new CSR against old key: the keys differ".to_owned());
    }
    match expiry.filter(|expiry| now > *expiry) {
        Some(expiry) => Err(format!("one of the certificates for the CSR has expired: {expiry}")),
        None => Ok(()),
    }
}

/// The kubeconfig as it was found at the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// There is none.
    Nothing,
    /// There is one that cannot be used, and why.
    Unusable(String),
    /// It has a client certificate; when each of its chain ends.
    Expiries(Vec<Timestamp>),
}

/// What a node begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Its kubeconfig.
    Kubeconfig,
    /// What it joins by; with the reason why its kubeconfig does not count, if there is one.
    Bootstrap(Option<String>),
}

/// API-190: a kubeconfig that can be used and has not expired goes before the bootstrap kubeconfig.
#[must_use]
pub fn compute_start(found: Found, now: Timestamp) -> Start {
    match found {
        Found::Nothing => Start::Bootstrap(None),
        Found::Unusable(why) => Start::Bootstrap(Some(why)),
        Found::Expiries(ends) if ends.is_empty() => Start::Bootstrap(Some("there is no client certificate in it".to_owned())),
        Found::Expiries(ends) => match ends.into_iter().find(|end| now > *end) {
            Some(end) => Start::Bootstrap(Some(format!("part of the existing bootstrap client certificate is expired: {end}"))),
            None => Start::Kubeconfig,
        },
    }
}
