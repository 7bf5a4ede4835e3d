//! What is negotiated, as a client of rustls sees it.

use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SigningKey as _, date_time_ymd};
use rustls::pki_types::UnixTime;
use rustls::{NamedGroup, ProtocolVersion};
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::*;
use crate::certificate::self_signed;
use crate::config::{Invocation, Machine, Resolved, SourceFile, Sources, assemble};
use crate::serving_certificate::ServingCertificate;

/// What a configuration file of those fields comes to.
pub(crate) fn resolved(fields: &str) -> Resolved {
    let text = format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\ncontainerRuntimeEndpoint: unix:///c\n{fields}\n"
    );
    let config = Some(SourceFile { path: "/c".into(), content: text.into_bytes() });
    let machine =
        Machine { hostname: "n1".to_owned(), working_dir: "/".into(), home: None, cgroup_v2: true, online_cpus: String::new() };
    match assemble(&["--kubeconfig=/k".to_owned()], Sources { config, drop_ins: None }, &machine) {
        Ok(Invocation::Run(resolved)) => *resolved,
        other => panic!("{other:?}"),
    }
}

/// What a client is given that can do all there is of these versions.
async fn negotiated(
    fields: &str,
    versions: &[&'static SupportedProtocolVersion],
) -> io::Result<(ProtocolVersion, CipherSuite, NamedGroup)> {
    let made = self_signed("n1", &[], 1_767_225_600).unwrap();
    let certificate = certified_key(made.certificate.as_bytes(), made.key.as_bytes()).unwrap();
    let server = server_config(&resolved(fields).tls.terms, ServingCertificate::new(Some(certificate)), None).unwrap();
    let client = ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions).unwrap();
    let anybody = Servers { authorities: None, provider: provider() };
    let client = client.dangerous().with_custom_certificate_verifier(Arc::new(anybody)).with_no_client_auth();
    let (near, far) = tokio::io::duplex(1 << 16);
    let accepted = tokio::spawn(async move { TlsAcceptor::from(Arc::new(server)).accept(far).await.map(drop) });
    let stream = TlsConnector::from(Arc::new(client)).connect(ServerName::try_from("n1").unwrap(), near).await?;
    // In TLS 1.3 the client is done first.
    accepted.await.unwrap()?;
    let it = stream.get_ref().1;
    let group = it.negotiated_key_exchange_group().unwrap().name();
    Ok((it.protocol_version().unwrap(), it.negotiated_cipher_suite().unwrap().suite(), group))
}

// API-174
#[tokio::test]
async fn oldest_version_is_the_configured_one() {
    async fn version(fields: &str, versions: &[&'static SupportedProtocolVersion]) -> Option<ProtocolVersion> {
        negotiated(fields, versions).await.map(|(version, ..)| version).ok()
    }
    assert_eq!(version("", &[&TLS12]).await, Some(ProtocolVersion::TLSv1_2));
    assert_eq!(version("", &[&TLS12, &TLS13]).await, Some(ProtocolVersion::TLSv1_3));
    assert_eq!(version("tlsMinVersion: VersionTLS13", &[&TLS12]).await, None);
    assert_eq!(version("tlsMinVersion: VersionTLS13", &[&TLS13]).await, Some(ProtocolVersion::TLSv1_3));
}

// API-174
#[tokio::test]
async fn suite_is_one_of_the_configured_ones() {
    async fn suite(fields: &str, versions: &[&'static SupportedProtocolVersion]) -> Option<CipherSuite> {
        negotiated(fields, versions).await.map(|(_, suite, _)| suite).ok()
    }
    // Neither is what would be taken without a list.
    let named = "tlsCipherSuites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]";
    assert_eq!(suite("", &[&TLS12]).await, Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384));
    assert_eq!(suite(named, &[&TLS12]).await, Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256));
    let by_its_old_name = "tlsCipherSuites: [TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305]";
    let chacha = CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256;
    assert_eq!(suite(by_its_old_name, &[&TLS12]).await, Some(chacha));
    // The certificate's key is none for RSA.
    assert_eq!(suite("tlsCipherSuites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]", &[&TLS12]).await, None);
    // crypto/tls, Config.CipherSuites: "TLS 1.3 ciphersuites are not configurable."
    assert_eq!(suite(named, &[&TLS13]).await, Some(CipherSuite::TLS13_AES_256_GCM_SHA384));
    let of_tls13 = "tlsCipherSuites: [TLS_AES_128_GCM_SHA256]";
    assert_eq!(suite(of_tls13, &[&TLS13]).await, Some(CipherSuite::TLS13_AES_256_GCM_SHA384));
    assert_eq!(suite(of_tls13, &[&TLS12]).await, None);
}

// API-174
#[tokio::test]
async fn group_is_one_of_the_configured_ones() {
    for version in [&TLS12, &TLS13] {
        let group = |fields| async move { negotiated(fields, &[version]).await.map(|(.., group)| group).ok() };
        assert_eq!(group("").await, Some(NamedGroup::X25519));
        assert_eq!(group("tlsCurvePreferences: [24]").await, Some(NamedGroup::secp384r1));
        assert_eq!(group("tlsCurvePreferences: [25, 23, 4588]").await, Some(NamedGroup::secp256r1));
    }
}

// R1, API-174: the kubelet starts with the list of the CIS benchmark, and warns of what is insecure in it.
#[tokio::test]
async fn suites_that_cannot_be_served_are_left_out_by_name() {
    let fields = "tlsCipherSuites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, \
                  TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305, TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305, \
                  TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, TLS_RSA_WITH_AES_256_GCM_SHA384, TLS_RSA_WITH_AES_128_GCM_SHA256]";
    let warnings = resolved(fields).warnings;
    let left_out = "tlsCipherSuites: TLS_RSA_WITH_AES_256_GCM_SHA384, TLS_RSA_WITH_AES_128_GCM_SHA256 cannot be served";
    assert!(warnings.iter().any(|warning| warning.starts_with(left_out)), "{warnings:?}");
    assert!(negotiated(fields, &[&TLS12]).await.is_ok());
    let warnings = resolved("tlsCurvePreferences: [4588, 29, 25]").warnings;
    assert!(warnings.iter().any(|warning| warning.starts_with("tlsCurvePreferences: 4588, 25 cannot be served")), "{warnings:?}");
    // cmd/kubelet/app/server.go (InitializeTLS)
    let warnings = resolved("tlsMinVersion: VersionTLS13\ntlsCipherSuites: [TLS_RSA_WITH_AES_128_CBC_SHA]").warnings;
    assert!(
        warnings.contains(&"TLS 1.3 cipher suites are not configurable, ignoring --tls-cipher-suites".to_owned()),
        "{warnings:?}"
    );
}

// Each suite that there is can be chosen by its name.
#[test]
fn suites_of_the_library_are_all_known() {
    for suite in ring::ALL_CIPHER_SUITES {
        let name = suite.suite().as_str().unwrap();
        let terms = resolved(&format!("tlsCipherSuites: [{}]", name.replace("TLS13_", "TLS_"))).tls.terms;
        assert_eq!(terms.only_tls13, suite.tls13().is_some());
        assert!(terms.only_tls13 || terms.cipher_suites == [name]);
    }
}

/// The AlgorithmIdentifier of ecdsa-with-SHA256.
pub(crate) const ECDSA_SHA256: &[u8] = &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];

fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut encoded = vec![tag];
    match content.len() {
        short @ 0..=127 => encoded.push(u8::try_from(short).unwrap()),
        middling @ 128..=255 => encoded.extend([0x81, u8::try_from(middling).unwrap()]),
        long => encoded.extend([&[0x82][..], &u16::try_from(long).unwrap().to_be_bytes()].concat()),
    }
    encoded.extend(content);
    encoded
}

/// A certificate of version 1 with the names, times and key of that one, as `openssl x509 -req` makes it without extensions: rcgen has
/// only version 3.
pub(crate) fn first_version(like: &CertificateDer<'_>, signer: &KeyPair, algorithm: &[u8]) -> CertificateDer<'static> {
    let (_, like) = X509Certificate::from_der(like).unwrap();
    let time = |at: x509_parser::time::ASN1Time| {
        let at = jiff::Timestamp::from_second(at.timestamp()).unwrap().strftime("%y%m%d%H%M%SZ").to_string();
        der(0x17, &[at.as_bytes()])
    };
    let validity = der(0x30, &[&time(like.validity().not_before), &time(like.validity().not_after)]);
    let (issuer, subject, key) = (like.issuer().as_raw(), like.subject().as_raw(), like.public_key().raw);
    let body = der(0x30, &[&[0x02, 0x01, 0x07], algorithm, issuer, &validity, subject, key]);
    let signature = signer.sign(&body).unwrap();
    CertificateDer::from(der(0x30, &[&body, algorithm, &der(0x03, &[&[0], &signature])]))
}

/// A self-signed certificate with CA:TRUE for 10.0.0.1, as `openssl req -x509` makes it.
fn self_signed_authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(vec!["10.0.0.1".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "it");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2040, 1, 1));
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn pem_of(certificate: &CertificateDer<'_>) -> Vec<u8> {
    use base64::Engine as _;
    let text = base64::prelude::BASE64_STANDARD.encode(certificate);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n").into_bytes()
}

/// Whether that client is content with a server of that pair, in that version of TLS.
async fn is_content(
    mut client: ClientConfig,
    host: &'static str,
    pair: CertifiedKey,
    version: &'static SupportedProtocolVersion,
) -> Result<(), String> {
    let server = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[version]).unwrap();
    let server = server.with_no_client_auth().with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
    client.alpn_protocols.clear();
    let (near, far) = tokio::io::duplex(1 << 16);
    let accepted = tokio::spawn(async move { TlsAcceptor::from(Arc::new(server)).accept(far).await.map(drop) });
    let connected = TlsConnector::from(Arc::new(client)).connect(ServerName::try_from(host).unwrap(), near).await;
    let _ended = accepted.await.unwrap();
    connected.map(drop).map_err(|error| error.to_string())
}

// API-190: the API server's own certificate as its authority. verify.go: `opts.Roots.contains(c)`, after VerifyHostname.
#[tokio::test]
async fn server_may_be_its_own_authority_under_its_own_name() {
    let (it, other) = (self_signed_authority(), self_signed_authority());
    let pair = || certified_key(it.pem().as_bytes(), it.key().serialize_pem().as_bytes()).unwrap();
    let trusting = |pem: String| client_config(&Trust::These(pem.into_bytes()), None).unwrap();
    for version in [&TLS12, &TLS13] {
        assert_eq!(is_content(trusting(it.pem()), "10.0.0.1", pair(), version).await, Ok(()));
        assert_eq!(is_content(trusting(format!("{}{}", other.pem(), it.pem())), "10.0.0.1", pair(), version).await, Ok(()));
        let why = is_content(trusting(it.pem()), "10.0.0.2", pair(), version).await.unwrap_err();
        assert!(why.contains("certificate not valid for name"), "{why}");
        let why = is_content(trusting(other.pem()), "10.0.0.1", pair(), version).await.unwrap_err();
        assert!(why.starts_with("invalid peer certificate"), "{why}");
    }
}

// API-190, POD-010: crypto/x509/root_unix.go, loadSystemRoots: the first file that is there, and everything in the directories.
#[test]
fn machines_authorities_are_where_go_looks_for_them() {
    use super::machine_roots::Places;
    let places = Places::of(Some("/f".into()), Some("/a::/b".into()));
    assert_eq!((places.files, places.directories), (vec!["/f".into()], vec!["/a".into(), "".into(), "/b".into()]));
    let places = Places::of(None, None);
    assert_eq!((places.files.len(), places.directories.len()), (6, 2));
    let directory = std::env::temp_dir().join(format!("keelson-roots-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let [it, other, third] = [(); 3].map(|()| self_signed_authority());
    let file = directory.join("first");
    std::fs::write(&file, format!("rubbish\n-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n{}", it.pem())).unwrap();
    let files = vec!["/nonexistent/roots.crt".into(), file.clone(), directory.join("second")];
    std::fs::write(directory.join("second"), other.pem()).unwrap();
    std::os::unix::fs::symlink("second", directory.join("hash.0")).unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(1_790_000_000));
    let trusts = |directories: Vec<std::path::PathBuf>| {
        let roots = Places { files: files.clone(), directories }.roots();
        let trusted = [&it, &other, &third].map(|one| roots.verify(one.der(), &[], Usage::Server, now).is_ok());
        (trusted, roots.len())
    };
    assert_eq!(trusts(vec!["/nonexistent".into()]), ([true, false, false], 1));
    assert_eq!(trusts(vec!["/nonexistent".into(), directory.clone()]), ([true, true, false], 2));
    std::fs::remove_dir_all(&directory).unwrap();
    assert_eq!(trusts(vec![directory]).1, 0);
}

// API-190: without an authority in the kubeconfig the machine's count.
#[test]
fn authorities_are_those_of_the_kubeconfig_or_the_machines() {
    let it = self_signed_authority();
    client_config(&Trust::Machine, None).unwrap();
    // transport.go (rootCertPool): a file that is empty is not the machine's.
    assert!(client_config(&Trust::These(Vec::new()), None).is_err());
    // AppendCertsFromPEM: what cannot be read is passed over, unless it is all that there is.
    let rubbish = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n".to_vec();
    client_config(&Trust::These([rubbish.clone(), it.pem().into_bytes()].concat()), None).unwrap();
    assert!(client_config(&Trust::These(rubbish), None).is_err());
}

// API-171, API-191, POD-247: Go reads version 1; `openssl x509 -req` without extensions makes nothing else.
#[tokio::test]
async fn own_certificate_may_be_of_version_one() {
    let (it, other) = (self_signed_authority(), self_signed_authority());
    let certificate = pem_of(&first_version(it.der(), it.key(), ECDSA_SHA256));
    let key = it.key().serialize_pem();
    let shown = certified_key(&certificate, key.as_bytes()).unwrap();
    for version in [&TLS12, &TLS13] {
        // As a probe looks at a container.
        let anybody = client_config(&Trust::Anybody, None).unwrap();
        assert_eq!(is_content(anybody, "10.0.0.1", shown.clone(), version).await, Ok(()));
        // It has no names that count. verify.go: "certificate relies on legacy Common Name field".
        let trusting = client_config(&Trust::These(certificate.clone()), None).unwrap();
        is_content(trusting, "10.0.0.1", shown.clone(), version).await.unwrap_err();
        // The key must be the certificate's.
        let foreign = provider().key_provider.load_private_key(private_key("it", other.key().serialize_pem().as_bytes()).unwrap());
        let foreign = CertifiedKey::new(shown.cert.clone(), foreign.unwrap());
        let anybody = client_config(&Trust::Anybody, None).unwrap();
        is_content(anybody, "10.0.0.1", foreign, version).await.unwrap_err();
    }
    let identity = |key: String| ClientIdentity { certificate: certificate.clone(), key: key.into_bytes() };
    client_config(&Trust::Anybody, Some(&identity(key))).unwrap();
    let wrong = client_config(&Trust::Anybody, Some(&identity(other.key().serialize_pem()))).unwrap_err();
    assert_eq!(wrong.to_string(), "keys may not be consistent: KeyMismatch");
    assert!(certified_key(&certificate, other.key().serialize_pem().as_bytes()).is_err());
}

// API-170: told, since a kubelet's own certificate has an RSA key.
#[test]
fn suites_that_the_made_certificate_cannot_have_are_named() {
    let rsa = "tlsCipherSuites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384]";
    let is_told = |fields: &str| resolved(fields).warnings.iter().any(|warning| warning.contains("has an ECDSA key"));
    assert!(is_told(rsa));
    assert!(!is_told(&format!("{rsa}\ntlsCertFile: /c\ntlsPrivateKeyFile: /k")));
    assert!(!is_told(&format!("{rsa}\ntlsMinVersion: VersionTLS13")));
    assert!(!is_told(&rsa.replace("]", ", TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]")));
    assert!(!is_told(""));
}
