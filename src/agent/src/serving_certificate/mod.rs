//! The certificate that the server shows: that of the moment, for another may take its place while it serves.
//! Upstream: pkg/kubelet/kubelet.go (NewMainKubelet: getServingCertificate), pkg/kubelet/certificate/kubelet.go.
//! Differs: nothing on purpose.

mod files;
mod request;
#[cfg(test)]
mod tests;

use std::sync::{Arc, PoisonError, RwLock};

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

pub use self::files::{Prepared, serving};
pub use self::request::{Requested, Requesting};

/// What is shown to whoever connects, whatever name they ask for: the API server asks for an address (API-171).
#[derive(Debug)]
pub struct ServingCertificate(RwLock<Option<Arc<CertifiedKey>>>);

impl ServingCertificate {
    /// Begins with that one; without any, handshakes fail (API-173).
    #[must_use]
    pub fn new(certificate: Option<CertifiedKey>) -> Arc<Self> {
        Arc::new(Self(RwLock::new(certificate.map(Arc::new))))
    }

    /// Takes another one into use; connections that there are go on.
    pub fn replace(&self, certificate: CertifiedKey) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(certificate));
    }

    /// From here on there is none: the last one has expired.
    pub fn withdraw(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let certificate = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        if certificate.is_none() {
            tracing::debug!("no serving certificate available for the kubelet");
        }
        certificate
    }
}
