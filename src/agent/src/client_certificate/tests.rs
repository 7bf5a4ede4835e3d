use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use jiff::Timestamp;
use kubelet::node::certificates::store::FileStep;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, date_time_ymd};

use super::join::{Joining, connect};
use super::store::{Store, execute};
use super::*;
use crate::api::Material;
use crate::env::Clock;
use crate::net::SystemNet;

/// A directory that goes away with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("keelson-client-certificate-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        Self(directory)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn store(&self) -> Store {
        Store::open(&self.path("pki"), &CLIENT).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("pki")).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
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

/// A certificate and a key, in PEM, whose life ends with that year.
fn made(user: &str, last_year: i32) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, user);
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(last_year, 12, 31));
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn user_in(store: &Store) -> Option<String> {
    store.current(None).map(|pair| pair.held.common_name)
}

// API-193: chain, then key, for the owner's eyes only, under a name that says when, and a link to it.
#[test]
fn pair_is_kept_in_one_file_that_only_its_owner_reads() {
    let scratch = Scratch::new();
    let (certificate, key) = made("system:node:n1", 2030);
    let chain = format!("{certificate}{}", made("ca", 2040).0);
    scratch.store().update(chain.as_bytes(), &key, now()).unwrap();
    assert_eq!(scratch.names(), ["kubelet-client-2026-03-04-05-06-07.pem", "kubelet-client-current.pem"]);
    let link = fs::read_link(scratch.path("pki/kubelet-client-current.pem")).unwrap();
    assert_eq!(link, scratch.path("pki/kubelet-client-2026-03-04-05-06-07.pem"));
    assert_eq!(fs::metadata(&link).unwrap().permissions().mode() & 0o777, 0o600);
    let kept = fs::read_to_string(&link).unwrap();
    assert_eq!(kept.replace("\r\n", "\n"), format!("{chain}{key}").replace("\r\n", "\n"));
}

// API-193: after a crash at any step there is the old pair or the new one, and the next exchange goes as any.
#[test]
fn crash_after_any_step_leaves_the_old_pair_or_the_new_one() {
    for had_one in [false, true] {
        let count = 5;
        for done in 0..=count {
            let scratch = Scratch::new();
            if had_one {
                let (certificate, key) = made("old", 2030);
                scratch.store().update(certificate.as_bytes(), &key, "2025-01-01T00:00:00Z".parse().unwrap()).unwrap();
            }
            let (certificate, key) = made("new", 2030);
            let (_, steps) = scratch.store().plan(certificate.as_bytes(), &key, now()).unwrap();
            assert_eq!(steps.len(), count);
            steps.iter().take(done).for_each(|step| execute(step).unwrap());
            // Half a write: the machine died in the middle of it.
            if let Some(FileStep::Write { path, .. }) = steps.get(done) {
                fs::write(path, "half").unwrap();
            }
            let found = user_in(&scratch.store());
            let linked = done >= 4;
            let expected = if linked { Some("new") } else { had_one.then_some("old") };
            assert_eq!(found.as_deref(), expected, "{done} steps, {had_one}");
            let (certificate, key) = made("next", 2030);
            scratch.store().update(certificate.as_bytes(), &key, "2027-01-01T00:00:00Z".parse().unwrap()).unwrap();
            assert_eq!(user_in(&scratch.store()).as_deref(), Some("next"));
            assert!(!scratch.names().iter().any(|name| name.contains("tmp") || name.contains("updated")), "{:?}", scratch.names());
        }
    }
}

// API-193: two within one second, of which the second goes over the first's file as a whole.
#[test]
fn second_pair_of_the_same_second_takes_the_firsts_place() {
    let scratch = Scratch::new();
    for user in ["first", "second"] {
        let (certificate, key) = made(user, 2030);
        scratch.store().update(certificate.as_bytes(), &key, now()).unwrap();
        assert_eq!(user_in(&scratch.store()).as_deref(), Some(user));
    }
}

// API-193
#[test]
fn file_in_the_links_place_is_read_and_not_replaced() {
    let scratch = Scratch::new();
    let (certificate, key) = made("by-hand", 2030);
    fs::create_dir(scratch.path("pki")).unwrap();
    let current = scratch.path("pki/kubelet-client-current.pem");
    fs::write(&current, format!("{certificate}{key}")).unwrap();
    assert_eq!(user_in(&scratch.store()).as_deref(), Some("by-hand"));
    let error = scratch.store().update(certificate.as_bytes(), &key, now()).err().unwrap().to_string();
    assert_eq!(error, format!("expected {:?} to be a symlink but it is a file", current.display().to_string()));
}

// A link that somebody laid where the key is about to be written leads it nowhere.
#[test]
fn key_is_not_written_through_a_link() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("pki")).unwrap();
    fs::write(scratch.path("victim"), "mine").unwrap();
    symlink(scratch.path("victim"), scratch.path("pki/.kubelet-client.pem.tmp")).unwrap();
    symlink(scratch.path("victim"), scratch.path("pki/kubelet-client-2026-03-04-05-06-07.pem")).unwrap();
    let (certificate, key) = made("system:node:n1", 2030);
    scratch.store().update(certificate.as_bytes(), &key, now()).unwrap();
    assert_eq!(fs::read_to_string(scratch.path("victim")).unwrap(), "mine");
    assert_eq!(user_in(&scratch.store()).as_deref(), Some("system:node:n1"));
}

#[test]
fn certificate_of_another_key_is_not_kept() {
    let scratch = Scratch::new();
    let (certificate, _) = made("system:node:n1", 2030);
    let (_, key) = made("system:node:n1", 2030);
    let error = scratch.store().update(certificate.as_bytes(), &key, now()).err().unwrap().to_string();
    assert!(error.starts_with("could not convert data from \"the new certificate\" into cert/key pair: "), "{error}");
    assert_eq!(user_in(&scratch.store()), None);
}

struct Fixed;

impl Clock for Fixed {
    fn now(&self) -> Timestamp {
        now()
    }
}

fn world() -> World {
    World { net: Arc::new(SystemNet::default()), clock: Arc::new(Fixed), seed: 7 }
}

async fn begun(scratch: &Scratch, bootstrap: bool) -> Result<(Access, Option<Renewal>), JoinError> {
    let (kubeconfig, given, directory) = (scratch.path("kubelet.conf"), scratch.path("bootstrap.conf"), scratch.path("pki"));
    let bootstrap = Some(given.as_path()).filter(|_| bootstrap);
    connect(&Joining { node: "n1", kubeconfig: &kubeconfig, bootstrap, directory: &directory, rotates: true }, world()).await
}

fn config(server: &str, user: &str) -> String {
    use base64::Engine as _;
    let ca = base64::prelude::BASE64_STANDARD.encode(made("ca", 2040).0);
    format!(
        "clusters: [{{name: c, cluster: {{server: '{server}', certificate-authority-data: {ca}}}}}]\nusers: [{{name: u, user: {user}}}]\n\
         contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\ncurrent-context: x\n"
    )
}

fn write_bootstrap(scratch: &Scratch) {
    fs::write(scratch.path("bootstrap.conf"), config("https://10.0.0.1:6443", "{token: abcdef.0123456789abcdef}")).unwrap();
}

fn with_files(scratch: &Scratch, last_year: i32) {
    let (certificate, key) = made("system:node:n1", last_year);
    fs::write(scratch.path("own.pem"), format!("{certificate}{key}")).unwrap();
    let pem = scratch.path("own.pem").display().to_string();
    let user = format!("{{client-certificate: {pem}, client-key: {pem}}}");
    fs::write(scratch.path("kubelet.conf"), config("https://10.0.0.2:6443", &user)).unwrap();
}

fn is_due(renewal: Option<Renewal>) -> bool {
    renewal.unwrap().rotation.due() == now()
}

// API-190: a kubeconfig that can be used wins, whatever the bootstrap kubeconfig is.
#[tokio::test]
async fn good_kubeconfig_goes_before_the_bootstrap_kubeconfig() {
    let scratch = Scratch::new();
    with_files(&scratch, 2030);
    let before = fs::read(scratch.path("kubelet.conf")).unwrap();
    let (access, renewal) = begun(&scratch, true).await.unwrap();
    assert_eq!(access.server.host(), Some("10.0.0.2"));
    assert!(!is_due(renewal), "its certificate is good for years");
    assert_eq!(fs::read(scratch.path("kubelet.conf")).unwrap(), before);
}

// API-190, API-191: as good as any other: one whose certificate is of version 1, and one without an authority.
#[tokio::test]
async fn good_kubeconfig_is_known_whatever_it_is_made_of() {
    let scratch = Scratch::new();
    write_bootstrap(&scratch);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, "system:node:n1");
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2030, 12, 31));
    let like = params.self_signed(&key).unwrap();
    let old = crate::tls::tests::first_version(like.der(), &key, crate::tls::tests::ECDSA_SHA256);
    fs::write(scratch.path("own.pem"), format!("{}{}", pem::encode("CERTIFICATE", &old), key.serialize_pem())).unwrap();
    let pem = scratch.path("own.pem").display().to_string();
    let text = config("https://10.0.0.2:6443", &format!("{{client-certificate: {pem}, client-key: {pem}}}"));
    let (before, after) = (text.find(", certificate-authority-data").unwrap(), text.find("}}]\nusers").unwrap());
    for text in [text.clone(), format!("{}{}", &text[..before], &text[after..])] {
        fs::write(scratch.path("kubelet.conf"), &text).unwrap();
        let (access, renewal) = begun(&scratch, true).await.unwrap();
        assert_eq!((access.server.host(), is_due(renewal)), (Some("10.0.0.2"), false));
        assert_eq!(fs::read_to_string(scratch.path("kubelet.conf")).unwrap(), text);
    }
}

// API-190: what is not supported is told, and stays as it is: another who reads it may need it.
#[tokio::test]
async fn kubeconfig_with_what_is_not_supported_is_not_written_over() {
    let proxied = ("{server:", "{proxy-url: 'http://proxy:3128', server:");
    for (what, instead) in [proxied, ("{client-certificate", "{as: admin, as-groups: [g], client-certificate")] {
        let scratch = Scratch::new();
        write_bootstrap(&scratch);
        with_files(&scratch, 2030);
        let text = fs::read_to_string(scratch.path("kubelet.conf")).unwrap().replace(what, instead);
        fs::write(scratch.path("kubelet.conf"), &text).unwrap();
        let error = begun(&scratch, true).await.err().unwrap().to_string();
        assert!(error.starts_with("unable to load kubeconfig: ") && error.contains("supported"), "{error}");
        assert_eq!(fs::read_to_string(scratch.path("kubelet.conf")).unwrap(), text);
    }
}

// API-190: one that is missing, expired, without a certificate, or nonsense is written anew.
#[tokio::test]
async fn kubeconfig_that_cannot_be_used_is_replaced_by_one_that_points_to_the_store() {
    let expired: fn(&Scratch) = |scratch| with_files(scratch, 2025);
    let dangling: fn(&Scratch) = |scratch| {
        with_files(scratch, 2030);
        fs::remove_file(scratch.path("own.pem")).unwrap();
    };
    let token: fn(&Scratch) = |scratch| {
        fs::write(scratch.path("kubelet.conf"), config("https://10.0.0.2:6443", "{token: t}")).unwrap();
    };
    let nonsense: fn(&Scratch) = |scratch| fs::write(scratch.path("kubelet.conf"), "{").unwrap();
    let missing: fn(&Scratch) = |_| ();
    for spoil in [missing, expired, dangling, token, nonsense] {
        let scratch = Scratch::new();
        write_bootstrap(&scratch);
        spoil(&scratch);
        let (access, renewal) = begun(&scratch, true).await.unwrap();
        let renewal = renewal.unwrap();
        assert_eq!((access.server.host(), access.token.is_none()), (Some("10.0.0.1"), true));
        assert_eq!(renewal.bootstrap.token, Some(Material::Data(b"abcdef.0123456789abcdef".to_vec())));
        assert_eq!(renewal.rotation.due(), now());
        let written = Access::from_kubeconfig(&scratch.path("kubelet.conf")).unwrap();
        let pem = Some(Material::File(scratch.path("pki/kubelet-client-current.pem")));
        assert_eq!((&written.certificate, &written.key, written.server), (&pem, &pem, access.server));
        let mode = fs::metadata(scratch.path("kubelet.conf")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

// API-190: and it is, whatever was there, whole or not at all.
#[tokio::test]
async fn kubeconfig_written_by_a_life_that_ended_there_is_written_again() {
    let scratch = Scratch::new();
    write_bootstrap(&scratch);
    begun(&scratch, true).await.unwrap();
    let first = fs::read(scratch.path("kubelet.conf")).unwrap();
    fs::write(scratch.path(".kubelet.conf.tmp"), "half").unwrap();
    begun(&scratch, true).await.unwrap();
    assert_eq!(fs::read(scratch.path("kubelet.conf")).unwrap(), first);
    assert!(!scratch.path(".kubelet.conf.tmp").exists());
}

// API-190
#[tokio::test]
async fn what_cannot_be_loaded_is_told_as_upstream_tells_it() {
    let scratch = Scratch::new();
    let said = |outcome: Result<(Access, Option<Renewal>), JoinError>| outcome.err().unwrap().to_string();
    let error = said(begun(&scratch, false).await);
    assert!(error.starts_with("unable to load kubeconfig: "), "{error}");
    let error = said(begun(&scratch, true).await);
    assert!(error.starts_with("unable to load bootstrap kubeconfig: "), "{error}");
    assert!(error.contains("bootstrap.conf"), "{error}");
}

// API-194: the certificate that kubeadm puts into a control plane's kubeconfig goes into the store, and is replaced at once.
#[tokio::test]
async fn certificate_within_the_kubeconfig_seeds_the_store_and_is_due_at_once() {
    use base64::Engine as _;
    let scratch = Scratch::new();
    let (certificate, key) = made("system:node:n1", 2030);
    let data = |text: &str| base64::prelude::BASE64_STANDARD.encode(text);
    let user = format!("{{client-certificate-data: {}, client-key-data: {}}}", data(&certificate), data(&key));
    fs::write(scratch.path("kubelet.conf"), config("https://10.0.0.2:6443", &user)).unwrap();
    let (_, renewal) = begun(&scratch, false).await.unwrap();
    assert!(is_due(renewal));
    assert_eq!(user_in(&scratch.store()).as_deref(), Some("system:node:n1"));
    // A later life finds the store's, which is good.
    let (_, renewal) = begun(&scratch, false).await.unwrap();
    assert!(!is_due(renewal));
}

// API-194: an expired pair counts as none.
#[tokio::test]
async fn expired_pair_of_the_store_counts_as_none() {
    let scratch = Scratch::new();
    write_bootstrap(&scratch);
    let (certificate, key) = made("system:node:n1", 2025);
    scratch.store().update(certificate.as_bytes(), &key, now()).unwrap();
    let (_, renewal) = begun(&scratch, true).await.unwrap();
    let renewal = renewal.unwrap();
    assert!(renewal.rotation.due() == now() && !renewal.rotation.is_valid(renewal.now()));
}

// A pair that cannot be read must not keep a node from joining.
#[tokio::test]
async fn broken_pair_does_not_keep_a_node_from_joining() {
    let scratch = Scratch::new();
    write_bootstrap(&scratch);
    fs::create_dir(scratch.path("pki")).unwrap();
    fs::write(scratch.path("pki/broken.pem"), "nonsense").unwrap();
    symlink(Path::new("broken.pem"), scratch.path("pki/kubelet-client-current.pem")).unwrap();
    let (_, renewal) = begun(&scratch, true).await.unwrap();
    assert!(is_due(renewal));
    let (certificate, key) = made("system:node:n1", 2030);
    scratch.store().update(certificate.as_bytes(), &key, now()).unwrap();
    assert_eq!(user_in(&scratch.store()).as_deref(), Some("system:node:n1"));
}
