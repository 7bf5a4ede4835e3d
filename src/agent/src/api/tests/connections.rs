use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kubelet::action::ApiCall;
use kubelet::event::WatchKey;
use kubelet::failure::FailureKind;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use tokio::time::timeout;

use super::fake::{Answer, FakeServer};
use super::{access, client, client_with};
use crate::api::{Access, Material};
use crate::env::ApiServer as _;

/// An authority, and a directory that goes away with it.
pub(super) struct Pki {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: PathBuf,
}

impl Drop for Pki {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Pki {
    pub(super) fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("keelson-api-{}-{name}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2120, 1, 1));
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(directory.join("ca.crt"), issuer.pem()).unwrap();
        Self { issuer, directory }
    }

    pub(super) fn leaf(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(vec!["10.0.0.1".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2120, 1, 1));
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Certificate and key in one file, renamed into place: as certificates are rotated.
    fn rotate(&self, name: &str) {
        let (certificate, key) = self.leaf(name);
        fs::write(self.path("next.pem"), format!("{}{}", certificate.pem(), key.serialize_pem())).unwrap();
        fs::rename(self.path("next.pem"), self.path("current.pem")).unwrap();
    }

    pub(super) fn access(&self) -> Access {
        let file = |name: &str| Some(Material::File(self.path(name)));
        Access {
            authority: file("ca.crt"),
            certificate: file("current.pem"),
            key: file("current.pem"),
            ..access("https://10.0.0.1:6443")
        }
    }

    pub(super) fn server(&self, script: impl IntoIterator<Item = Answer>) -> Arc<FakeServer> {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
        let (certificate, key) = self.leaf("kube-apiserver");
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let mut server = FakeServer::with(script);
        Arc::get_mut(&mut server).unwrap().tls = Some(Arc::new(tls));
        server
    }
}

fn no_node() -> Answer {
    Answer::status(404, "NotFound", "nodes \"n1\" not found")
}

async fn get(api: &impl crate::env::ApiServer) -> FailureKind {
    api.call(ApiCall::GetNode).await.unwrap_err().kind
}

#[tokio::test(start_paused = true)]
async fn a_rotated_certificate_is_shown_from_the_next_request_on() {
    let pki = Pki::new("rotated");
    pki.rotate("system:node:n1");
    let server = pki.server([no_node(), no_node(), no_node()]);
    let api = client_with(&server, pki.access());
    assert_eq!(get(&api).await, FailureKind::NotFound);
    assert_eq!(get(&api).await, FailureKind::NotFound);
    pki.rotate("system:node:n1-renewed");
    assert_eq!(get(&api).await, FailureKind::NotFound);
    let seen: Vec<_> = server.seen().into_iter().map(|seen| (seen.connection, seen.client.unwrap())).collect();
    let (old, new) = ("system:node:n1".to_owned(), "system:node:n1-renewed".to_owned());
    assert_eq!(seen, [(0, old.clone()), (0, old), (1, new)]);
}

#[tokio::test(start_paused = true)]
async fn a_server_of_another_authority_is_not_trusted() {
    let (ours, theirs) = (Pki::new("ours"), Pki::new("theirs"));
    ours.rotate("system:node:n1");
    let server = theirs.server([no_node()]);
    let failure = client_with(&server, ours.access()).call(ApiCall::GetNode).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unavailable);
    assert!(failure.message.contains("invalid peer certificate"), "{}", failure.message);
    assert!(server.seen().is_empty());
}

// API-190: client-go transport.go: the machine's authorities, which have not signed this one.
#[tokio::test(start_paused = true)]
async fn without_an_authority_it_is_the_machines_that_are_asked() {
    let pki = Pki::new("machine");
    pki.rotate("system:node:n1");
    let server = pki.server([no_node()]);
    let failure = client_with(&server, Access { authority: None, ..pki.access() }).call(ApiCall::GetNode).await.unwrap_err();
    assert!(failure.message.contains("invalid peer certificate: UnknownIssuer"), "{}", failure.message);
    assert!(server.seen().is_empty());
}

// API-197: apimachinery's net/http.go (SetTransportDefaults): DISABLE_HTTP2.
#[tokio::test(start_paused = true)]
async fn http2_is_not_offered_if_it_is_turned_off() {
    for (http1_only, expected) in [(false, http::Version::HTTP_2), (true, http::Version::HTTP_11)] {
        let pki = Pki::new(&format!("http1-{http1_only}"));
        pki.rotate("system:node:n1");
        let server = pki.server([no_node(), no_node()]);
        let api = client_with(&server, Access { http1_only, ..pki.access() });
        assert_eq!(get(&api).await, FailureKind::NotFound);
        assert_eq!(get(&api).await, FailureKind::NotFound);
        let seen: Vec<_> = server.seen().iter().map(|seen| (seen.version, seen.connection)).collect();
        assert_eq!(seen, [(expected, 0), (expected, 0)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_missing_file_is_named() {
    let pki = Pki::new("missing");
    let server = pki.server([]);
    let failure = client_with(&server, pki.access()).call(ApiCall::GetNode).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unavailable);
    let named = |path: &Path| failure.message.contains(&format!("open {}", path.display()));
    assert!(named(&pki.path("current.pem")), "{}", failure.message);
}

// API-197, API-220: heartbeats have connections of their own, and upstream closes all when one fails.
#[tokio::test(start_paused = true)]
async fn a_request_that_was_given_up_is_not_followed_by_another_on_its_connection() {
    let pki = Pki::new("given-up");
    pki.rotate("system:node:n1");
    let server = pki.server([no_node()]);
    let api = client_with(&server, pki.access());
    assert_eq!(get(&api).await, FailureKind::NotFound);
    for _ in 0..2 {
        let lease = ApiCall::UpdateLease(Box::<Lease>::default());
        timeout(Duration::from_secs(10), api.call(lease)).await.unwrap_err();
    }
    // One that was given up at once says nothing about its connection.
    timeout(Duration::from_secs(1), api.call(ApiCall::GetLease)).await.unwrap_err();
    timeout(Duration::from_secs(1), api.call(ApiCall::GetLease)).await.unwrap_err();
    let connections: Vec<_> = server.seen().iter().map(|seen| seen.connection).collect();
    assert_eq!(connections, [0, 0, 1, 2, 2]);
}

#[tokio::test(start_paused = true)]
async fn heartbeats_calls_and_watches_do_not_share_a_connection() {
    let pki = Pki::new("apart");
    pki.rotate("system:node:n1");
    let server = pki.server([]);
    let api = client_with(&server, pki.access());
    let (sink, _events) = tokio::sync::mpsc::channel(1);
    tokio::spawn(api.watch(WatchKey::Node, sink.clone()));
    tokio::spawn(api.watch(WatchKey::Services, sink));
    server.until_seen(2).await;
    let brief = Duration::from_secs(1);
    timeout(brief, api.call(ApiCall::GetLease)).await.unwrap_err();
    timeout(brief, api.call(ApiCall::GetCsiNode)).await.unwrap_err();
    // S14: whoever sends tokens keeps no status waiting.
    timeout(brief, api.review_token("t".to_owned())).await.unwrap_err();
    let connections: Vec<_> = server.seen().iter().map(|seen| seen.connection).collect();
    assert_eq!(connections[0], connections[1]);
    assert_eq!(connections[1..].iter().collect::<BTreeSet<_>>().len(), 4, "{connections:?}");
}

#[tokio::test(start_paused = true)]
async fn a_bearer_token_is_read_again_for_each_request() {
    let pki = Pki::new("token");
    fs::write(pki.path("token"), "one\n").unwrap();
    let server = FakeServer::with([no_node(), no_node()]);
    let access = Access { token: Some(Material::File(pki.path("token"))), ..access("http://10.0.0.1:6443") };
    let api = client_with(&server, access);
    get(&api).await;
    fs::write(pki.path("token"), "two\n").unwrap();
    get(&api).await;
    let shown: Vec<_> = server.seen().iter().map(|seen| seen.header("authorization").to_owned()).collect();
    assert_eq!(shown, ["Bearer one", "Bearer two"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_never_sent_had_no_effect() {
    let server = FakeServer::away();
    let failure = client(&server).call(ApiCall::UpdateLease(Box::<Lease>::default())).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unavailable);
    assert_eq!(failure.message, "dial tcp 10.0.0.1:6443: connect: connection refused");
}
