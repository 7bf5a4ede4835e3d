//! TLS: to the API server with its authority checked, to probed containers without, and of our own server.
//! Upstream: k8s.io/client-go/transport, pkg/probe/http (InsecureSkipVerify), pkg/kubelet/server (TLS options).
//! Differs: rustls, so no TLS 1.0 and 1.1, and only its cipher suites.

use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ResolvesServerCert;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{
    CipherSuite, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme, SupportedProtocolVersion,
};
use tokio_rustls::TlsConnector;

use crate::config::Terms;
use crate::env::BoxedStream;

/// Why TLS cannot be set up with what was given.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM text that is none, or holds nothing of the kind.
    #[error("{what}: {why}")]
    Pem {
        /// Of what.
        what: &'static str,
        /// In words.
        why: String,
    },
    /// What rustls refuses.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

/// A client's certificate and key, in PEM.
#[derive(Clone)]
pub struct ClientIdentity {
    /// The certificate with its chain.
    pub certificate: Vec<u8>,
    /// Its key.
    pub key: Vec<u8>,
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// All certificates of a PEM text.
///
/// # Errors
/// If it is not PEM, or there are none.
pub fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let read = read.map_err(|e| TlsError::Pem { what, why: e.to_string() })?;
    if read.is_empty() {
        return Err(TlsError::Pem { what, why: "no certificate in it".to_owned() });
    }
    Ok(read)
}

fn private_key(what: &'static str, pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|e| TlsError::Pem { what, why: e.to_string() })
}

fn roots(what: &'static str, pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(what, pem)? {
        store.add(certificate)?;
    }
    Ok(store)
}

/// A client that trusts that authority (nobody checked if `None`), and shows that identity. Offers HTTP/2 and HTTP/1.1.
///
/// # Errors
/// If a PEM text is not as it should be.
pub fn client_config(authority: Option<&[u8]>, identity: Option<&ClientIdentity>) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match authority {
        Some(pem) => builder.with_root_certificates(roots("certificate-authority", pem)?),
        None => builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider()))),
    };
    let mut config = match identity {
        Some(identity) => builder.with_client_auth_cert(
            certificates("client-certificate", &identity.certificate)?,
            private_key("client-key", &identity.key)?,
        )?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// The server on port 10250: what it agrees to, its certificate, and who checks the certificates that clients show, if any are asked for.
/// In which order suites and groups were named does not matter, as in Go.
///
/// # Errors
/// If nothing is left to agree on.
pub fn server_config(
    terms: &Terms,
    certificate: Arc<dyn ResolvesServerCert>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<ServerConfig, TlsError> {
    let mut provider = ring::default_provider();
    if !terms.cipher_suites.is_empty() {
        let chosen = |suite: CipherSuite| suite.as_str().is_some_and(|name| terms.cipher_suites.contains(&name));
        provider.cipher_suites.retain(|suite| suite.tls13().is_some() || chosen(suite.suite()));
    }
    if !terms.curves.is_empty() {
        provider.kx_groups.retain(|group| terms.curves.contains(&u16::from(group.name())));
    }
    let versions: &[&SupportedProtocolVersion] = if terms.only_tls13 { &[&TLS13] } else { &[&TLS13, &TLS12] };
    let builder = ServerConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(versions)?;
    let builder = match clients {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(certificate);
    // API-001: upgrades are of HTTP/1.1.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// A certificate with its key, to be shown by the server.
///
/// # Errors
/// If a PEM text is not as it should be, or they do not belong together.
pub fn certified_key(certificate: &[u8], key: &[u8]) -> Result<CertifiedKey, TlsError> {
    let (chain, key) = (certificates("tlsCertFile", certificate)?, private_key("tlsPrivateKeyFile", key)?);
    Ok(CertifiedKey::from_der(chain, key, &provider())?)
}

/// TLS to a probed container: whatever certificate it shows is good (POD-247). Speaks HTTP/1.1.
///
/// # Errors
/// If the name is none, or the handshake fails.
pub async fn connect_unverified(stream: BoxedStream, host: &str) -> io::Result<BoxedStream> {
    let mut config = client_config(None, None).map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    Ok(Box::pin(stream))
}

/// Where Go looks for the authorities that a Linux machine trusts (crypto/x509/root_linux.go).
const MACHINE_ROOTS: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The authorities that the machine trusts: those of `SSL_CERT_FILE`, or of the first file that is there. What is no certificate in it
/// is passed over.
fn machine_roots() -> RootCertStore {
    let mut store = RootCertStore::empty();
    let given = std::env::var("SSL_CERT_FILE").ok().filter(|path| !path.is_empty());
    let files = given.map_or_else(|| MACHINE_ROOTS.map(str::to_owned).to_vec(), |path| vec![path]);
    if let Some(pem) = files.iter().find_map(|path| std::fs::read(path).ok()) {
        store.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
    }
    store
}

/// TLS to a server whose certificate an authority of the machine's has signed. Speaks HTTP/1.1.
///
/// # Errors
/// If the name is none, or the handshake fails.
pub async fn connect_trusted(stream: BoxedStream, host: &str) -> io::Result<BoxedStream> {
    let builder =
        ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().map_err(io::Error::other)?;
    let mut config = builder.with_root_certificates(machine_roots()).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    Ok(Box::pin(stream))
}

/// Takes any certificate, but checks that the other side has its key.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
pub(crate) mod tests;
