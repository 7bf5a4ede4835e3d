//! The files of a certificate that was requested: does the steps that `kubelet::node::certificates::store` decides, and reads pairs back.
//! Upstream: k8s.io/client-go/util/certificate/certificate_store.go.
//! Differs: a pair that cannot be read counts as none, with a warning, where upstream does not start.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use kubelet::node::certificates::store::{FileStep, Kind, Paths, exchange, recovery};
use kubelet::node::certificates::{Held, Purpose};

use super::pem::{chain_of, encode, held_of};
use crate::tls::{ClientIdentity, Trust, client_config};

/// What can go wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Something else is where a link belongs.
    #[error("{0}")]
    InTheWay(String),
    /// A file operation.
    #[error("{path}: {error}")]
    File {
        /// Of which file.
        path: String,
        /// What the system said.
        error: io::Error,
    },
    /// A certificate or key that is none.
    #[error("could not convert data from {path:?} into cert/key pair: {why}")]
    Pair {
        /// From where.
        path: String,
        /// In words.
        why: String,
    },
}

/// A certificate with its key, and what matters of it.
#[derive(Clone)]
pub struct Pair {
    /// To be shown.
    pub identity: ClientIdentity,
    /// To be decided by.
    pub held: Held,
}

impl Pair {
    /// A pair of two PEM texts, which may be one and the same.
    ///
    /// # Errors
    /// If one is none, or they do not belong together.
    pub fn new(path: &str, identity: ClientIdentity) -> Result<Self, StoreError> {
        let wrong = |why: String| StoreError::Pair { path: path.to_owned(), why };
        // The same checks that a connection begins with.
        client_config(&Trust::Anybody, Some(&identity)).map_err(|e| wrong(e.to_string()))?;
        let chain = chain_of(&identity.certificate).map_err(&wrong)?;
        let leaf = chain.first().ok_or_else(|| wrong("no certificate in it".to_owned()))?;
        Ok(Self { held: held_of(leaf).map_err(wrong)?, identity })
    }
}

/// The store in a directory (API-193).
pub struct Store {
    paths: Paths,
}

impl Store {
    /// Opens the one for that purpose, and finishes what was broken off.
    ///
    /// # Errors
    /// If something is in the way, or the disk fails.
    pub fn open(directory: &Path, purpose: &Purpose) -> Result<Self, StoreError> {
        let store = Self { paths: Paths::new(&directory.to_string_lossy(), purpose) };
        let (current, updated) = store.kinds()?;
        for step in recovery(&store.paths, current, updated).map_err(StoreError::InTheWay)? {
            execute(&step)?;
        }
        Ok(store)
    }

    /// Where its files are.
    #[must_use]
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    fn kinds(&self) -> Result<(Kind, Kind), StoreError> {
        Ok((kind(&self.paths.current())?, kind(&self.paths.updated())?))
    }

    /// The pair in use: the store's own, else that of the files that a kubeconfig names, else the store's of long ago.
    #[must_use]
    pub fn current(&self, named: Option<(PathBuf, PathBuf)>) -> Option<Pair> {
        let current = PathBuf::from(self.paths.current());
        let (certificate, key) = self.paths.apart();
        let choices = [Some((current.clone(), current)), named, Some((certificate.into(), key.into()))];
        for (certificate, key) in choices.into_iter().flatten().filter(|(c, k)| c.exists() && k.exists()) {
            tracing::info!(certificate = %certificate.display(), key = %key.display(), "Loading cert/key pair");
            let pair = match (fs::read(&certificate), fs::read(&key)) {
                (Ok(certificate_pem), Ok(key)) => {
                    Pair::new(&certificate.to_string_lossy(), ClientIdentity { certificate: certificate_pem, key })
                }
                (Err(error), _) | (_, Err(error)) => Err(StoreError::File { path: certificate.display().to_string(), error }),
            };
            match pair {
                Ok(pair) => return Some(pair),
                Err(error) => tracing::warn!(%error, "A certificate cannot be used"),
            }
        }
        None
    }

    /// The steps by which a pair is kept; nothing is done yet.
    ///
    /// # Errors
    /// If it is no pair, or something is in the way.
    pub fn plan(&self, certificate: &[u8], key: &str, now: Timestamp) -> Result<(Pair, Vec<FileStep>), StoreError> {
        let wrong = |why: String| StoreError::Pair { path: "the new certificate".to_owned(), why };
        let mut pem = String::new();
        for certificate in chain_of(certificate).map_err(wrong)? {
            pem.push_str(&encode("CERTIFICATE", &certificate));
        }
        pem.push_str(key);
        let pem = pem.into_bytes();
        let pair = Pair::new("the new certificate", ClientIdentity { certificate: pem.clone(), key: pem.clone() })?;
        let (current, updated) = self.kinds()?;
        let steps = exchange(&self.paths, current, updated, pem, now).map_err(StoreError::InTheWay)?;
        Ok((pair, steps))
    }

    /// Keeps a pair, and makes it the one in use.
    ///
    /// # Errors
    /// As [`Store::plan`], or if the disk fails.
    pub fn update(&self, certificate: &[u8], key: &str, now: Timestamp) -> Result<Pair, StoreError> {
        let (pair, steps) = self.plan(certificate, key, now)?;
        steps.iter().try_for_each(execute)?;
        Ok(pair)
    }
}

fn kind(path: &str) -> Result<Kind, StoreError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Kind::Absent),
        Err(error) => Err(StoreError::File { path: path.to_owned(), error }),
        Ok(found) if found.file_type().is_symlink() => Ok(Kind::Link { leads: Path::new(path).exists() }),
        Ok(_) => Ok(Kind::File),
    }
}

/// Does one step, and waits until it is on the disk. The files are a few kilobytes and written a few times a year, so it does not
/// leave the thread.
///
/// # Errors
/// As the system fails.
pub(super) fn execute(step: &FileStep) -> Result<(), StoreError> {
    let (path, done) = match step {
        FileStep::MakeDirectory(path) => (path, DirBuilder::new().recursive(true).mode(0o755).create(path)),
        FileStep::Write { path, contents } => (path, write(path, contents)),
        FileStep::Remove(path) => (path, fs::remove_file(path)),
        FileStep::Link { target, at } => (at, symlink(target, at)),
        FileStep::Rename { from, to } => (to, fs::rename(from, to).and_then(|()| sync_directory_of(to))),
    };
    done.map_err(|error| StoreError::File { path: path.clone(), error })
}

fn write(path: &str, contents: &[u8]) -> io::Result<()> {
    // Of a life that ended in the middle, or somebody's link to elsewhere.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(contents)?;
    file.sync_all()
}

fn sync_directory_of(path: &str) -> io::Result<()> {
    let parent = Path::new(path).parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}
