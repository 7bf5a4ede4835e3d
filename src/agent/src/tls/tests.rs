//! What is negotiated, as a client of rustls sees it.

use rustls::{NamedGroup, ProtocolVersion};
use tokio_rustls::TlsAcceptor;

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
    let client = client.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider()))).with_no_client_auth();
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
