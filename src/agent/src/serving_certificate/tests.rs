//! Files of the server that change while it serves, by real files and real handshakes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use jiff::Timestamp;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::certificate::{SelfSigned, self_signed};
use crate::run::Serving;
use crate::tls::tests::resolved;
use crate::tls::{Trust, client_config};

/// A directory that goes away with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("keelson-reload-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        Self(directory)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn now() -> Timestamp {
    "2026-03-04T05:06:07Z".parse().unwrap()
}

fn made(host: &str) -> SelfSigned {
    self_signed(host, &[], now().as_second()).unwrap()
}

fn der(pem: &str) -> CertificateDer<'static> {
    crate::tls::certificates("it", pem.as_bytes()).unwrap().remove(0)
}

/// What the server shows to who asks for an address, as the API server does.
async fn shown(serving: &Serving) -> CertificateDer<'static> {
    let (near, far) = tokio::io::duplex(1 << 16);
    let accepted = tokio::spawn(TlsAcceptor::from(Arc::clone(&serving.tls)).accept(far));
    let client = TlsConnector::from(Arc::new(client_config(&Trust::Anybody, None).unwrap()));
    let stream = client.connect(ServerName::try_from("10.0.0.1").unwrap(), near).await.unwrap();
    accepted.await.unwrap().unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

/// Until it is so; each look takes pretended time, so that a look of the agent comes between.
async fn becomes(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    for _ in 0..10_000 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    panic!("{what} never comes");
}

fn follow(directory: &Path, fields: &str) -> Serving {
    let fields = fields.replace("DIR", &directory.to_string_lossy());
    let Prepared { serving, files, .. } = serving(&resolved(&fields), now()).unwrap();
    for files in files {
        tokio::spawn(files.follow());
    }
    serving
}

const FILES: &str = "tlsCertFile: DIR/tls.crt\ntlsPrivateKeyFile: DIR/tls.key";

fn write(directory: &Path, made: &SelfSigned) {
    fs::write(directory.join("tls.crt"), &made.certificate).unwrap();
    fs::write(directory.join("tls.key"), &made.key).unwrap();
}

// API-171: one file after the other, in place. With only one of them the old pair is shown, as with one that is none.
#[tokio::test(start_paused = true)]
async fn serving_certificate_is_that_of_the_files() {
    let scratch = Scratch::new();
    let (first, second) = (made("first"), made("second"));
    write(&scratch.0, &first);
    let serving = follow(&scratch.0, FILES);
    assert_eq!(shown(&serving).await, der(&first.certificate));
    for torn in [second.certificate.as_str(), &second.certificate[..100], ""] {
        fs::write(scratch.0.join("tls.crt"), torn).unwrap();
        for _ in 0..200 {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            assert_eq!(shown(&serving).await, der(&first.certificate));
        }
    }
    fs::remove_file(scratch.0.join("tls.key")).unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(200)).await;
    assert_eq!(shown(&serving).await, der(&first.certificate));
    write(&scratch.0, &second);
    becomes("the second", async || shown(&serving).await == der(&second.certificate)).await;
}

// API-171: pkg/kubelet/kubelet.go (NewMainKubelet): with the gate off the pair of the start is shown for ever.
#[tokio::test(start_paused = true)]
async fn files_are_not_followed_if_the_gate_is_off() {
    let scratch = Scratch::new();
    let (first, second) = (made("first"), made("second"));
    write(&scratch.0, &first);
    let serving = follow(&scratch.0, &format!("{FILES}\nfeatureGates: {{ReloadKubeletServerCertificateFile: false}}"));
    write(&scratch.0, &second);
    tokio::time::sleep(std::time::Duration::from_secs(300)).await;
    assert_eq!(shown(&serving).await, der(&first.certificate));
}

// API-173: certificate_store.go (Current): given files are shown until `kubelet-server-current.pem` is there.
#[tokio::test(start_paused = true)]
async fn given_files_are_shown_until_the_api_server_has_signed() {
    let scratch = Scratch::new();
    let (given, signed) = (made("given"), made("signed"));
    write(&scratch.0, &given);
    let begin = || {
        let fields = format!("{FILES}\nserverTLSBootstrap: true").replace("DIR", &scratch.0.to_string_lossy());
        let mut resolved = resolved(&fields);
        let crate::config::CertificateSource::Bootstrap { directory, until_then } = &mut resolved.tls.source else {
            panic!("{:?}", resolved.tls.source);
        };
        assert_eq!(directory, Path::new("/var/lib/kubelet/pki"));
        assert_eq!(*until_then, Some((scratch.0.join("tls.crt"), scratch.0.join("tls.key"))));
        scratch.0.join("pki").clone_into(directory);
        serving(&resolved, now()).unwrap()
    };
    let prepared = begin();
    assert!(prepared.requested.is_some() && prepared.files.is_empty());
    assert_eq!(shown(&prepared.serving).await, der(&given.certificate));
    fs::create_dir_all(scratch.0.join("pki")).unwrap();
    let pair = scratch.0.join("pki/kubelet-server-2026-03-04-05-06-07.pem");
    fs::write(&pair, format!("{}{}", signed.certificate, signed.key)).unwrap();
    symlink(&pair, scratch.0.join("pki/kubelet-server-current.pem")).unwrap();
    assert_eq!(shown(&begin().serving).await, der(&signed.certificate));
}

// API-171: as the volume of a Secret changes: a new directory, and `..data` renamed to lead there.
#[tokio::test(start_paused = true)]
async fn serving_certificate_follows_the_swap_of_a_volume() {
    let scratch = Scratch::new();
    let (first, second) = (made("first"), made("second"));
    for (name, pair) in [("..1", &first), ("..2", &second)] {
        fs::create_dir(scratch.0.join(name)).unwrap();
        write(&scratch.0.join(name), pair);
    }
    symlink("..1", scratch.0.join("..data")).unwrap();
    for name in ["tls.crt", "tls.key"] {
        symlink(Path::new("..data").join(name), scratch.0.join(name)).unwrap();
    }
    let serving = follow(&scratch.0, FILES);
    assert_eq!(shown(&serving).await, der(&first.certificate));
    symlink("..2", scratch.0.join("..data_tmp")).unwrap();
    fs::rename(scratch.0.join("..data_tmp"), scratch.0.join("..data")).unwrap();
    becomes("the second", async || shown(&serving).await == der(&second.certificate)).await;
}

// API-171: one that was made by the agent is followed as well; upstream sets the paths as if they had been given.
#[tokio::test(start_paused = true)]
async fn self_signed_certificate_can_be_replaced() {
    let scratch = Scratch::new();
    let (files, second) = (scratch.0.join("pki"), made("second"));
    let mut resolved = resolved("");
    resolved.tls.source =
        crate::config::CertificateSource::SelfSigned { certificate: files.join("kubelet.crt"), key: files.join("kubelet.key") };
    let Prepared { serving, files: followed, .. } = serving(&resolved, now()).unwrap();
    followed.into_iter().for_each(|files| drop(tokio::spawn(files.follow())));
    fs::write(files.join("kubelet.crt"), &second.certificate).unwrap();
    fs::write(files.join("kubelet.key"), &second.key).unwrap();
    becomes("the second", async || shown(&serving).await == der(&second.certificate)).await;
}

// API-028, S11: a withdrawn authority vouches for nobody any more, and a bad file changes nothing.
#[tokio::test(start_paused = true)]
async fn client_authorities_are_those_of_the_file() {
    let authority = || {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        (Issuer::new(params, key), pem)
    };
    let client = |issuer: &Issuer<'_, KeyPair>| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "admin");
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        [params.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap().der().clone()]
    };
    let scratch = Scratch::new();
    let ((old, old_pem), (new, new_pem)) = (authority(), authority());
    let file = scratch.0.join("ca.crt");
    fs::write(&file, &old_pem).unwrap();
    write(&scratch.0, &made("n1"));
    let serving = follow(&scratch.0, &format!("{FILES}\nauthentication: {{x509: {{clientCAFile: DIR/ca.crt}}}}"));
    let ca = serving.client_ca.clone().unwrap();
    let (of_old, of_new) = (client(&old), client(&new));
    let vouches = |client: &[CertificateDer<'static>]| ca.authenticate(client, now()).is_ok();
    assert!(vouches(&of_old) && !vouches(&of_new));
    fs::write(&file, "nonsense").unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(200)).await;
    assert!(vouches(&of_old) && !vouches(&of_new));
    fs::write(scratch.0.join("ca.tmp"), &new_pem).unwrap();
    fs::rename(scratch.0.join("ca.tmp"), &file).unwrap();
    becomes("the new authority", async || vouches(&of_new)).await;
    assert!(!vouches(&of_old));
}
