//! Who a client certificate names, and whether the client CA vouches for it.
//! Upstream: k8s.io/apiserver/pkg/authentication/request/x509.
//! Differs: the handshake's list of acceptable authorities is empty, so that a reload of the CA needs no new TLS configuration.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use kubelet::failure::{Failure, FailureKind};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, UnixTime};
use sha2::{Digest as _, Sha256};
use x509_parser::oid_registry::Oid;
use x509_parser::prelude::{FromDer as _, X509Certificate, X509Name};

use crate::env::UserInfo;
use crate::tls::{Authorities, Usage, verify_tls12, verify_tls13};

/// The attribute of a subject that holds a user's UID: 1.3.6.1.4.1.57683.2.
const UID_ATTRIBUTE: &[u64] = &[1, 3, 6, 1, 4, 1, 57683, 2];

/// Why a file of client authorities cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClientCaError {
    /// It is no PEM.
    #[error("the client CA file is not PEM: {0}")]
    Pem(String),
    /// There is no certificate in it, or one that cannot be read.
    #[error("the client CA file holds no usable certificate: {0}")]
    Unusable(String),
}

/// The authorities of client certificates. As a verifier of handshakes it asks for a certificate, needs none, and only checks
/// that the client holds its key; each request then has it checked against the authorities of the moment (API-021).
pub struct ClientCa {
    algorithms: WebPkiSupportedAlgorithms,
    authorities: RwLock<Arc<Authorities>>,
    reads_uids: bool,
}

impl std::fmt::Debug for ClientCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientCa")
    }
}

impl ClientCa {
    /// Authorities from the contents of `clientCAFile`; with the feature gate `AllowParsingUserUIDFromCertAuth` a certificate tells its
    /// user's UID.
    ///
    /// # Errors
    /// If there is no usable certificate in it; fatal at start (API-028).
    pub fn new(pem: &[u8], provider: &CryptoProvider, reads_uids: bool) -> Result<Arc<Self>, ClientCaError> {
        let algorithms = provider.signature_verification_algorithms;
        Ok(Arc::new(Self { algorithms, authorities: RwLock::new(Arc::new(authorities(pem, algorithms)?)), reads_uids }))
    }

    /// Takes over changed contents of the file.
    ///
    /// # Errors
    /// If there is no usable certificate in it; the old authorities stay (API-028).
    pub fn replace(&self, pem: &[u8]) -> Result<(), ClientCaError> {
        let new = Arc::new(authorities(pem, self.algorithms)?);
        *self.authorities.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// Whom the certificates of a connection name: the first is the client's, the others help to find the authority. `Ok(None)`
    /// if it has no common name.
    pub(crate) fn authenticate(
        &self,
        certificates: &[CertificateDer<'static>],
        now: Timestamp,
    ) -> Result<Option<UserInfo>, Failure> {
        let refused = |why: String| Failure::new(FailureKind::Unauthorized, format!("verifying certificate failed: {why}"));
        let Some((leaf, intermediates)) = certificates.split_first() else { return Ok(None) };
        let seconds = u64::try_from(now.as_second()).unwrap_or_default();
        let authorities = Arc::clone(&self.authorities.read().unwrap_or_else(PoisonError::into_inner));
        authorities
            .verify(leaf, intermediates, Usage::Client, UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
            .map_err(|error| refused(error.to_string()))?;
        let (_, certificate) = X509Certificate::from_der(leaf).map_err(|error| refused(error.to_string()))?;
        user(&certificate, leaf, self.reads_uids)
    }
}

fn authorities(pem: &[u8], algorithms: WebPkiSupportedAlgorithms) -> Result<Authorities, ClientCaError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let read = read.map_err(|error| ClientCaError::Pem(error.to_string()))?;
    let all = read.len();
    let authorities = Authorities::new(read, algorithms);
    match authorities.len() {
        0 if all == 0 => Err(ClientCaError::Unusable("there is none in it".to_owned())),
        readable if readable < all => Err(ClientCaError::Unusable(format!("{} of {all} cannot be read", all - readable))),
        _ => Ok(authorities),
    }
}

/// CN is the user, O the groups (API-021).
fn user(certificate: &X509Certificate<'_>, der: &[u8], reads_uids: bool) -> Result<Option<UserInfo>, Failure> {
    let subject = certificate.subject();
    // Go keeps the last common name.
    let name = subject.iter_common_name().filter_map(|name| name.as_str().ok()).last().filter(|name| !name.is_empty());
    let Some(name) = name else { return Ok(None) };
    let groups = subject.iter_organization().filter_map(|group| group.as_str().ok()).map(str::to_owned).collect();
    let uid = if reads_uids { uid(subject) } else { Ok(String::new()) };
    let uid = uid.map_err(|why| Failure::new(FailureKind::Unauthorized, why))?;
    let digest: String = Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect();
    let extra = vec![("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("X509SHA256={digest}")])];
    Ok(Some(UserInfo { name: name.to_owned(), uid, groups, extra }))
}

/// Empty if the subject has none. In upstream's words (parseUIDFromCert) what is wrong with it: then it names nobody.
fn uid(subject: &X509Name<'_>) -> Result<String, String> {
    let Ok(oid) = Oid::from(UID_ATTRIBUTE) else { return Ok(String::new()) };
    let uids: Result<Vec<&str>, _> = subject.iter_by_oid(&oid).map(|uid| uid.as_str()).collect();
    match uids.map_err(|_| "unable to parse UID into a string")?[..] {
        [] => Ok(String::new()),
        [""] => Err("UID cannot be an empty string".to_owned()),
        [uid] => Ok(uid.to_owned()),
        ref several => Err(format!("expected 1 UID, but found multiple: [{}]", several.join(" "))),
    }
}

impl ClientCertVerifier for ClientCa {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        // A bad certificate must not keep a good token out (API-022), so nothing is refused before a request is there.
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A subject with these values of the UID's attribute: what kind of text, and what it says.
    fn said(values: &[(u8, &[u8])]) -> Result<String, String> {
        let tagged = |tag: u8, content: &[u8]| [&[tag, u8::try_from(content.len()).unwrap()][..], content].concat();
        let oid = tagged(6, &[0x2B, 6, 1, 4, 1, 0x83, 0xC2, 0x53, 2]);
        let attribute = |(tag, value): &(u8, &[u8])| tagged(0x31, &tagged(0x30, &[oid.clone(), tagged(*tag, value)].concat()));
        let der = tagged(0x30, &values.iter().flat_map(attribute).collect::<Vec<u8>>());
        uid(&X509Name::from_der(&der).unwrap().1)
    }

    // API-021: x509.go, parseUIDFromCert.
    #[test]
    fn uid_of_a_certificate_is_one_text_or_there_is_none() {
        const UTF8: u8 = 12;
        assert_eq!(said(&[]), Ok(String::new()));
        assert_eq!(said(&[(UTF8, b"u-1")]), Ok("u-1".to_owned()));
        assert_eq!(said(&[(UTF8, b"a"), (UTF8, b"b")]), Err("expected 1 UID, but found multiple: [a b]".to_owned()));
        assert_eq!(said(&[(UTF8, b"")]), Err("UID cannot be an empty string".to_owned()));
        // An integer.
        assert_eq!(said(&[(2, b"1")]), Err("unable to parse UID into a string".to_owned()));
    }
}
