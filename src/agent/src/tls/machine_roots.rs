//! The authorities that the machine trusts: where they are looked for, and that they are read once.
//! Upstream: Go's crypto/x509/root_unix.go (loadSystemRoots), root_linux.go.
//! Differs: what keeps them from being read is that there are none.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::{Authorities, provider};

/// The first of these that is there.
const FILES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// And all that is in these.
const DIRECTORIES: [&str; 2] = ["/etc/ssl/certs", "/etc/pki/tls/certs"];

/// Never changes after it was read, so it is no state that agents of one process could share.
static ROOTS: LazyLock<Arc<Authorities>> = LazyLock::new(|| {
    let given = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    Arc::new(Places::of(given("SSL_CERT_FILE"), given("SSL_CERT_DIR")).roots())
});

/// The machine's authorities. Reads files the first time that it is asked for.
pub(crate) fn machine_roots() -> Arc<Authorities> {
    Arc::clone(&ROOTS)
}

/// Where they are looked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Places {
    pub(super) files: Vec<PathBuf>,
    pub(super) directories: Vec<PathBuf>,
}

impl Places {
    /// As the variables of the environment say, or where they may be: one replaces the files, the other, split by colons, the directories.
    pub(super) fn of(file: Option<OsString>, directories: Option<OsString>) -> Self {
        let split = |given: OsString| given.as_bytes().split(|byte| *byte == b':').map(path).collect();
        Self {
            files: file.map_or_else(|| FILES.map(PathBuf::from).to_vec(), |file| vec![file.into()]),
            directories: directories.map_or_else(|| DIRECTORIES.map(PathBuf::from).to_vec(), split),
        }
    }

    /// What is found there, each once. What is no certificate is passed over.
    pub(super) fn roots(&self) -> Authorities {
        let file = self.files.iter().find_map(|path| fs::read(path).ok());
        let entries = self.directories.iter().filter_map(|directory| fs::read_dir(directory).ok()).flatten().flatten();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| !leads_to_its_neighbour(path)).collect();
        paths.sort_unstable();
        let texts = file.into_iter().chain(paths.iter().filter_map(|path| fs::read(path).ok()));
        let mut found = BTreeSet::new();
        let certificates = texts.flat_map(|pem| CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect::<Vec<_>>());
        let certificates = certificates.filter(|certificate| found.insert(certificate.to_vec()));
        Authorities::new(certificates, provider().signature_verification_algorithms)
    }
}

fn path(bytes: &[u8]) -> PathBuf {
    OsString::from_vec(bytes.to_vec()).into()
}

/// `isSameDirSymlink`: by such links, one for each hash, a directory has everything twice.
fn leads_to_its_neighbour(path: &Path) -> bool {
    fs::read_link(path).is_ok_and(|target| !target.as_os_str().as_bytes().contains(&b'/'))
}
