//! TLS: to the API server with its authority checked, to probed containers without, and of our own server.
//! Upstream: k8s.io/client-go/transport, pkg/probe/http (InsecureSkipVerify), pkg/kubelet/server (TLS options).
//! Differs: rustls, so no TLS 1.0 and 1.1, and only its cipher suites.

mod authorities;
mod machine_roots;
mod verifiers;

use std::io;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ResolvesServerCert;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, ClientConfig, InconsistentKeys, ServerConfig, SupportedProtocolVersion};
use tokio_rustls::TlsConnector;

pub use self::authorities::{Authorities, Usage};
pub(crate) use self::machine_roots::machine_roots;
use self::verifiers::{Servers, public_key_of};
pub(crate) use self::verifiers::{verify_tls12, verify_tls13};
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

/// Whose certificates a client takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Anybody's.
    Anybody,
    /// Those that an authority of the machine's vouches for.
    Machine,
    /// Those that an authority of that PEM text vouches for.
    These(Vec<u8>),
}

fn trusted(trust: &Trust) -> Result<Option<Arc<Authorities>>, TlsError> {
    let what = "certificate-authority";
    let algorithms = provider().signature_verification_algorithms;
    match trust {
        Trust::Anybody => Ok(None),
        Trust::Machine => Ok(Some(machine_roots())),
        Trust::These(pem) => {
            let authorities = Authorities::new(certificates(what, pem)?, algorithms);
            if authorities.is_empty() {
                return Err(TlsError::Pem { what, why: "no certificate in it can be read".to_owned() });
            }
            Ok(Some(Arc::new(authorities)))
        }
    }
}

/// A client that takes those certificates, and shows that identity. Offers HTTP/2 and HTTP/1.1.
///
/// # Errors
/// If a PEM text is not as it should be.
pub fn client_config(trust: &Trust, identity: Option<&ClientIdentity>) -> Result<ClientConfig, TlsError> {
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let servers = Servers { authorities: trusted(trust)?, provider };
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(servers));
    let mut config = match identity {
        Some(ClientIdentity { certificate, key }) => {
            let pair = pair(("client-certificate", certificate.as_slice()), ("client-key", key.as_slice()))?;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair)))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// A certificate with its chain, and the key that belongs to it. Nothing else of it is looked at, as in Go: it is for others to judge.
fn pair(
    (certificate_is, certificate): (&'static str, &[u8]),
    (key_is, key): (&'static str, &[u8]),
) -> Result<CertifiedKey, TlsError> {
    let chain = certificates(certificate_is, certificate)?;
    let key = provider().key_provider.load_private_key(private_key(key_is, key)?)?;
    let certified = chain.first().map(public_key_of).transpose()?;
    if key.public_key().is_some_and(|own| certified.is_none_or(|certified| own.as_ref() != certified.as_ref())) {
        return Err(rustls::Error::from(InconsistentKeys::KeyMismatch).into());
    }
    Ok(CertifiedKey::new(chain, key))
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
    pair(("tlsCertFile", certificate), ("tlsPrivateKeyFile", key))
}

/// TLS to a probed container: whatever certificate it shows is good (POD-247). Speaks HTTP/1.1.
///
/// # Errors
/// If the name is none, or the handshake fails.
pub async fn connect_unverified(stream: BoxedStream, host: &str) -> io::Result<BoxedStream> {
    let mut config = client_config(&Trust::Anybody, None).map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    Ok(Box::pin(stream))
}

/// TLS to a server whose certificate an authority of the machine's has signed. Speaks HTTP/1.1.
///
/// # Errors
/// If the name is none, or the handshake fails.
pub async fn connect_trusted(stream: BoxedStream, host: &str) -> io::Result<BoxedStream> {
    let mut config = client_config(&Trust::Machine, None).map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    Ok(Box::pin(stream))
}

#[cfg(test)]
pub(crate) mod tests;
