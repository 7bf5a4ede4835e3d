//! The certificates of a pretend cluster: one authority, servers and clients that it signed, and whom a client's names.
//! Upstream: cmd/kubeadm/app/phases/certs, staging/src/k8s.io/apiserver/pkg/authentication/request/x509.
//! Differs: certificates that nobody asked for by a request do not expire; a node's serving certificate is not checked, as without `--kubelet-certificate-authority`.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use model::api::authorize::Identity;
use model::api::certificates::Asked;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SignatureAlgorithm,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::server::WebPkiClientVerifier;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509CertificationRequest};

use super::{NodeDialer, NodeStream};

/// What can go wrong with certificates.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A certificate could not be made.
    #[error("a certificate could not be made: {0}")]
    Make(#[from] rcgen::Error),
    /// TLS would not take it.
    #[error("a TLS configuration could not be made: {0}")]
    Tls(#[from] rustls::Error),
    /// The verifier of client certificates could not be made.
    #[error("client certificates could not be verified: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// A request for a certificate is none, or its signature is not its key's.
    #[error("the request cannot be read: {0}")]
    Request(String),
}

/// A request for a certificate: what it asks for, and the key that it is for.
pub struct ReadRequest {
    /// What it asks for.
    pub asked: Asked,
    key: Vec<u8>,
    names: Vec<SanType>,
}

impl ReadRequest {
    /// Reads one that is in PEM.
    ///
    /// # Errors
    /// If it is none, or not signed by its key.
    pub fn new(pem: &[u8]) -> Result<Self, PkiError> {
        let wrong = |why: &dyn fmt::Display| PkiError::Request(why.to_string());
        let (_, block) = x509_parser::pem::parse_x509_pem(pem).map_err(|e| wrong(&e))?;
        let (_, request) = X509CertificationRequest::from_der(&block.contents).map_err(|e| wrong(&e))?;
        request.verify_signature().map_err(|e| wrong(&e))?;
        let info = &request.certification_request_info;
        let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| value.as_str().unwrap_or_default().to_owned();
        let mut names = Vec::new();
        for extension in request.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(asked) = extension else { continue };
            for name in &asked.general_names {
                match name {
                    GeneralName::DNSName(name) => names.push(SanType::DnsName((*name).try_into()?)),
                    GeneralName::IPAddress(bytes) => {
                        let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                        let ip = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
                        names.push(SanType::IpAddress(ip.map_err(|e| wrong(&e))?));
                    }
                    _ => return Err(wrong(&"a name of a kind that no node has")),
                }
            }
        }
        Ok(Self {
            names,
            asked: Asked {
                common_name: info.subject.iter_common_name().next().map(text).unwrap_or_default(),
                organizations: info.subject.iter_organization().map(text).collect(),
                other_names: request.requested_extensions().is_some_and(|mut extensions| extensions.next().is_some()),
            },
            key: info.subject_pki.subject_public_key.data.to_vec(),
        })
    }
}

impl PublicKeyData for ReadRequest {
    fn der_bytes(&self) -> &[u8] {
        &self.key
    }

    // What nodes use; a signature by another key would not have been verified.
    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// What a certificate that was requested is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// To show to a server.
    Client,
    /// To show to clients.
    Serving,
}

/// A clock for the expiry of certificates.
pub type PkiClock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

struct Watchful(PkiClock);

impl fmt::Debug for Watchful {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watchful")
    }
}

impl TimeProvider for Watchful {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from((self.0)().as_second()).ok()?)))
    }
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct PemPair {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

/// The authority of one pretend cluster.
pub struct Pki {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, in PEM.
    pub ca_certificate: String,
    ca_der: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl Pki {
    /// A new authority.
    ///
    /// # Errors
    /// If no key can be made.
    pub fn new() -> Result<Self, PkiError> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, "kubernetes");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            ca_certificate: certificate.pem(),
            ca_der: certificate.der().clone(),
            issuer: Issuer::new(params, key),
            provider: Arc::new(ring::default_provider()),
        })
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<(CertificateDer<'static>, KeyPair, String), PkiError> {
        params.extended_key_usages = vec![usage];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((certificate.der().clone(), key, certificate.pem()))
    }

    fn client(&self, who: &Identity) -> Result<(CertificateDer<'static>, KeyPair, String), PkiError> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, who.user.as_str());
        // A distinguished name holds one organization here: the one that decides what its holder may do.
        let group = who.groups.iter().find(|g| g.as_str() != "system:authenticated");
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group.as_str());
        }
        self.sign(params, ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// A client certificate for that identity.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn client_pair(&self, who: &Identity) -> Result<PemPair, PkiError> {
        let (_, key, certificate) = self.client(who)?;
        Ok(PemPair { certificate, key: key.serialize_pem() })
    }

    /// A serving certificate for those DNS names and IP addresses.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn server_pair(&self, names: &[&str]) -> Result<PemPair, PkiError> {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let (_, key, certificate) = self.sign(CertificateParams::new(names)?, ExtendedKeyUsagePurpose::ServerAuth)?;
        Ok(PemPair { certificate, key: key.serialize_pem() })
    }

    /// Signs what a request asks for, for a client and from that moment to the other; in PEM.
    ///
    /// # Errors
    /// If it cannot be done.
    pub fn sign_request(&self, request: &ReadRequest, usage: Use, from: Timestamp, to: Timestamp) -> Result<String, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        // A distinguished name holds one organization here.
        for organization in request.asked.organizations.iter().take(1) {
            params.distinguished_name.push(DnType::OrganizationName, organization.as_str());
        }
        params.distinguished_name.push(DnType::CommonName, request.asked.common_name.as_str());
        params.extended_key_usages = vec![match usage {
            Use::Client => ExtendedKeyUsagePurpose::ClientAuth,
            Use::Serving => ExtendedKeyUsagePurpose::ServerAuth,
        }];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.subject_alt_names.clone_from(&request.names);
        let moment = |at: Timestamp| {
            rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(at.as_second()).unwrap_or_default())
        };
        (params.not_before, params.not_after) = (moment(from), moment(to));
        Ok(params.signed_by(request, &self.issuer)?.pem())
    }

    /// How the API server serves TLS under those names: client certificates of this authority are welcome, not required.
    ///
    /// # Errors
    /// If a certificate cannot be made.
    pub fn server_config(&self, names: &[&str]) -> Result<Arc<ServerConfig>, PkiError> {
        self.server_config_at(names, Arc::new(DefaultTimeProvider))
    }

    /// The same, with another clock for the expiry of clients' certificates.
    ///
    /// # Errors
    /// If a certificate cannot be made.
    pub fn server_config_by(&self, names: &[&str], clock: PkiClock) -> Result<Arc<ServerConfig>, PkiError> {
        self.server_config_at(names, Arc::new(Watchful(clock)))
    }

    fn server_config_at(&self, names: &[&str], time: Arc<dyn TimeProvider>) -> Result<Arc<ServerConfig>, PkiError> {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let (certificate, key, _) = self.sign(CertificateParams::new(names)?, ExtendedKeyUsagePurpose::ServerAuth)?;
        let mut roots = RootCertStore::empty();
        roots.add(self.ca_der.clone())?;
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .allow_unauthenticated()
            .build()?;
        let mut config = ServerConfig::builder_with_details(Arc::clone(&self.provider), time)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![certificate], private(&key))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// How an administrator of this cluster reaches nodes, over streams that `raw` opens.
    ///
    /// # Errors
    /// If a certificate cannot be made.
    pub fn node_dialer<F, S>(&self, raw: impl Fn(String, u16) -> F + Send + Sync + 'static) -> Result<NodeDialer, PkiError>
    where
        F: Future<Output = io::Result<S>> + Send + 'static,
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let who = Identity::new("kube-apiserver-kubelet-client", &["system:masters"]);
        let (certificate, key, _) = self.client(&who)?;
        let config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer(Arc::clone(&self.provider))))
            .with_client_auth_cert(vec![certificate], private(&key))?;
        let connector = TlsConnector::from(Arc::new(config));
        Ok(Arc::new(move |host, port| {
            let (connector, opening) = (connector.clone(), raw(host.clone(), port));
            Box::pin(async move {
                let name = ServerName::try_from(host).map_err(io::Error::other)?;
                let stream = connector.connect(name, opening.await?).await?;
                Ok(Box::new(stream) as Box<dyn NodeStream>)
            })
        }))
    }

    /// A kubeconfig for that server URL and whoever has that token.
    #[must_use]
    pub fn token_kubeconfig(&self, server: &str, token: &str) -> String {
        let ca = STANDARD.encode(&self.ca_certificate);
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: keelson\n  cluster:\n    server: {server}\n    \
             certificate-authority-data: {ca}\nusers:\n- name: tls-bootstrap-token-user\n  user:\n    token: {token}\ncontexts:\n- name: \
             keelson\n  context:\n    cluster: keelson\n    user: tls-bootstrap-token-user\ncurrent-context: keelson\n"
        )
    }

    /// A kubeconfig for that identity and that server URL.
    ///
    /// # Errors
    /// If a certificate cannot be made.
    pub fn kubeconfig(&self, server: &str, who: &Identity) -> Result<String, PkiError> {
        let pair = self.client_pair(who)?;
        let (ca, certificate, key) =
            (STANDARD.encode(&self.ca_certificate), STANDARD.encode(&pair.certificate), STANDARD.encode(&pair.key));
        let user = &who.user;
        Ok(format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: keelson\n  cluster:\n    server: {server}\n    \
             certificate-authority-data: {ca}\nusers:\n- name: {user}\n  user:\n    client-certificate-data: {certificate}\n    \
             client-key-data: {key}\ncontexts:\n- name: keelson\n  context:\n    cluster: keelson\n    user: {user}\ncurrent-context: \
             keelson\n"
        ))
    }
}

fn private(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(key.serialize_der()).into()
}

/// Does the server's part of a TLS handshake: the stream, and whom the client's certificate names, if it showed one.
///
/// # Errors
/// If the handshake fails.
pub async fn accept<S>(config: Arc<ServerConfig>, stream: S) -> io::Result<(TlsStream<S>, Option<Identity>)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    let identity = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).and_then(|der| identity_of(der));
    Ok((stream, identity))
}

/// The common name as the user, the organizations as the groups.
fn identity_of(der: &[u8]) -> Option<Identity> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let user = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    let mut groups: Vec<&str> = certificate.subject().iter_organization().filter_map(|o| o.as_str().ok()).collect();
    groups.push("system:authenticated");
    Some(Identity::new(user, &groups))
}

/// Believes any server: what the API server does without `--kubelet-certificate-authority`.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
