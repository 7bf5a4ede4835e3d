//! The certificates of a pretend cluster: one authority, servers and clients that it signed, and whom a client's names.
//! Upstream: cmd/kubeadm/app/phases/certs, staging/src/k8s.io/apiserver/pkg/authentication/request/x509.
//! Differs: certificates do not expire; a node's serving certificate is not checked, as without `--kubelet-certificate-authority`.

use std::io;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::api::authorize::Identity;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

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
}

/// A certificate and its key, in PEM.
#[derive(Clone, Debug)]
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

    /// How the API server serves TLS under those names: client certificates of this authority are welcome, not required.
    ///
    /// # Errors
    /// If a certificate cannot be made.
    pub fn server_config(&self, names: &[&str]) -> Result<Arc<ServerConfig>, PkiError> {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let (certificate, key, _) = self.sign(CertificateParams::new(names)?, ExtendedKeyUsagePurpose::ServerAuth)?;
        let mut roots = RootCertStore::empty();
        roots.add(self.ca_der.clone())?;
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .allow_unauthenticated()
            .build()?;
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
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
