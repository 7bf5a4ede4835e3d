//! Decides where certificates and keys are kept, and in which steps a new pair takes an old one's place.
//! Upstream: k8s.io/client-go/util/certificate/certificate_store.go.
//! Differs: a pair is written under another name first, and its link renamed over the old one, which upstream removes before; so at
//! no moment is there none. A finished pair whose link waits is taken even if there is an older one. Names are in UTC.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::Purpose;

/// What is at a path, links not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Absent,
    /// A link; whether it leads to a file.
    Link {
        /// It does.
        leads: bool,
    },
    /// Something else.
    File,
}

/// One step; what it did is on the disk before the next one begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileStep {
    /// Make a directory and what is missing above it, 0755, unless it is there.
    MakeDirectory(String),
    /// Write a file that nobody else has open: what is there is removed, nothing is followed, mode 0600, synced.
    Write {
        /// Its path.
        path: String,
        /// What is to be in it.
        contents: Vec<u8>,
    },
    /// Remove a link.
    Remove(String),
    /// Make a link.
    Link {
        /// What it leads to.
        target: String,
        /// Where it is.
        at: String,
    },
    /// Rename, over what is there, and sync the directory.
    Rename {
        /// From.
        from: String,
        /// To.
        to: String,
    },
}

/// The paths of a certificate's store in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    directory: String,
    /// What the names of its files begin with.
    name: &'static str,
}

impl Paths {
    /// Those for that purpose in that directory, which is absolute.
    #[must_use]
    pub fn new(directory: &str, purpose: &Purpose) -> Self {
        Self { directory: directory.trim_end_matches('/').to_owned(), name: purpose.store }
    }

    fn named(&self, name: &str) -> String {
        format!("{}/{}{name}", self.directory, self.name)
    }

    /// The link to the pair in use.
    #[must_use]
    pub fn current(&self) -> String {
        self.named("-current.pem")
    }

    /// The link that is about to take its place.
    #[must_use]
    pub fn updated(&self) -> String {
        self.named("-updated.pem")
    }

    /// A certificate and a key apart, of kubelets long ago.
    #[must_use]
    pub fn apart(&self) -> (String, String) {
        (self.named(".crt"), self.named(".key"))
    }

    /// Where the key of a request waits for its certificate (API-192).
    #[must_use]
    pub fn waiting_key(&self) -> String {
        self.named(".key.tmp")
    }

    /// The pair that came at that moment.
    #[must_use]
    pub fn pair(&self, at: Timestamp) -> String {
        let at = at.to_zoned(TimeZone::UTC);
        let (date, time) = (at.date(), at.time());
        self.named(&format!(
            "-{:04}-{:02}-{:02}-{:02}-{:02}-{:02}.pem",
            date.year(),
            date.month(),
            date.day(),
            time.hour(),
            time.minute(),
            time.second()
        ))
    }

    fn temporary(&self) -> String {
        format!("{}/.{}.pem.tmp", self.directory, self.name)
    }
}

fn not_a_link(path: &str) -> String {
    format!("expected {path:?} to be a symlink but it is a file")
}

/// What finishes an exchange that was broken off, to be done at each start (API-193).
///
/// # Errors
/// If something else is where a link belongs.
pub fn recovery(paths: &Paths, current: Kind, updated: Kind) -> Result<Vec<FileStep>, String> {
    let exists = matches!(current, Kind::File | Kind::Link { leads: true });
    match updated {
        Kind::Link { leads } if current != Kind::File && (leads || !exists) => {
            Ok(vec![FileStep::Rename { from: paths.updated(), to: paths.current() }])
        }
        Kind::File if !exists => Err(not_a_link(&paths.updated())),
        Kind::Absent | Kind::Link { .. } | Kind::File => Ok(Vec::new()),
    }
}

/// How a new pair takes the old one's place (API-193). A crash after any of the steps leaves the old pair or the new one.
///
/// # Errors
/// If something else is where a link belongs.
pub fn exchange(paths: &Paths, current: Kind, updated: Kind, contents: Vec<u8>, now: Timestamp) -> Result<Vec<FileStep>, String> {
    for (kind, path) in [(current, paths.current()), (updated, paths.updated())] {
        if kind == Kind::File {
            return Err(not_a_link(&path));
        }
    }
    let pair = paths.pair(now);
    let mut steps = vec![
        FileStep::MakeDirectory(paths.directory.clone()),
        FileStep::Write { path: paths.temporary(), contents },
        FileStep::Rename { from: paths.temporary(), to: pair.clone() },
    ];
    if updated != Kind::Absent {
        steps.push(FileStep::Remove(paths.updated()));
    }
    steps.push(FileStep::Link { target: pair, at: paths.updated() });
    steps.push(FileStep::Rename { from: paths.updated(), to: paths.current() });
    Ok(steps)
}

/// How a file with a secret in it is put in place: whole or not at all.
#[must_use]
pub fn place(path: &str, contents: Vec<u8>) -> Vec<FileStep> {
    let (directory, name) = path.rsplit_once('/').unwrap_or((".", path));
    let directory = if directory.is_empty() { "/" } else { directory };
    let temporary = format!("{}/.{name}.tmp", directory.trim_end_matches('/'));
    vec![
        FileStep::MakeDirectory(directory.to_owned()),
        FileStep::Write { path: temporary.clone(), contents },
        FileStep::Rename { from: temporary, to: path.to_owned() },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-03-04T05:06:07.8Z";

    fn paths() -> Paths {
        Paths::new("/pki/", &super::super::CLIENT)
    }

    // API-193
    #[test]
    fn pair_is_named_by_its_second_and_linked_last() {
        let steps = exchange(&paths(), Kind::Absent, Kind::Absent, b"pair".to_vec(), NOW.parse().unwrap()).unwrap();
        let pair = "/pki/kubelet-client-2026-03-04-05-06-07.pem".to_owned();
        assert_eq!(
            steps,
            [
                FileStep::MakeDirectory("/pki".to_owned()),
                FileStep::Write { path: "/pki/.kubelet-client.pem.tmp".to_owned(), contents: b"pair".to_vec() },
                FileStep::Rename { from: "/pki/.kubelet-client.pem.tmp".to_owned(), to: pair.clone() },
                FileStep::Link { target: pair, at: "/pki/kubelet-client-updated.pem".to_owned() },
                FileStep::Rename {
                    from: "/pki/kubelet-client-updated.pem".to_owned(),
                    to: "/pki/kubelet-client-current.pem".to_owned()
                },
            ]
        );
    }

    // API-193
    #[test]
    fn file_where_a_link_belongs_is_an_error() {
        let link = Kind::Link { leads: true };
        let fails = |current, updated| exchange(&paths(), current, updated, Vec::new(), NOW.parse().unwrap()).unwrap_err();
        assert_eq!(fails(Kind::File, link), "expected \"/pki/kubelet-client-current.pem\" to be a symlink but it is a file");
        assert_eq!(fails(link, Kind::File), "expected \"/pki/kubelet-client-updated.pem\" to be a symlink but it is a file");
        let at_start = recovery(&paths(), Kind::Absent, Kind::File).unwrap_err();
        assert_eq!(at_start, "expected \"/pki/kubelet-client-updated.pem\" to be a symlink but it is a file");
    }

    // API-193: what was broken off is finished, unless it leads nowhere and there is something.
    #[test]
    fn link_that_waits_is_taken_at_the_start() {
        let finishes = |current, updated| !recovery(&paths(), current, updated).unwrap().is_empty();
        let (good, bad) = (Kind::Link { leads: true }, Kind::Link { leads: false });
        assert!(finishes(Kind::Absent, good) && finishes(bad, good) && finishes(good, good));
        assert!(finishes(Kind::Absent, bad));
        assert!(!finishes(good, bad) && !finishes(good, Kind::Absent) && !finishes(Kind::Absent, Kind::Absent));
        assert!(!finishes(Kind::File, good) && !finishes(good, Kind::File));
    }
}
