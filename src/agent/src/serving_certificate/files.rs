//! The serving certificate's files and the client authorities' file: read at the start, made if that is so, and followed from then on.
//! Upstream: cmd/kubelet/app/server.go (InitializeTLS, initConfigz), pkg/kubelet/kubelet.go (NewMainKubelet).
//! Differs: nothing on purpose.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use jiff::Timestamp;
use rustls::crypto::ring;
use rustls::server::danger::ClientCertVerifier;

use super::{Requested, ServingCertificate};
use crate::certificate::self_signed;
use crate::config::{CertificateSource, Resolved};
use crate::reloading::Subject;
use crate::run::{Serving, server_settings};
use crate::server::ClientCa;
use crate::tls::{certified_key, server_config};

/// What the server needs, and what is to be run beside it.
pub struct Prepared {
    /// For the server.
    pub serving: Serving,
    /// The files that it follows while it serves (API-028, API-171).
    pub files: Vec<Subject>,
    /// The certificate that is requested from the API server, if it comes from there (API-173).
    pub requested: Option<Requested>,
}

/// Reads what is there.
///
/// # Errors
/// If a file is not there, or not what it should be: at the start there is nothing to go on with.
pub fn serving(resolved: &Resolved, now: Timestamp) -> anyhow::Result<Prepared> {
    let (mut files, mut client_ca, mut requested) = (Vec::new(), None, None);
    if let Some(path) = &resolved.auth.client_ca_file {
        let pem = fs::read(path).with_context(|| format!("authentication.x509.clientCAFile {}", path.display()))?;
        let reads_uids = resolved.kubelet.gates.enabled("AllowParsingUserUIDFromCertAuth");
        let ca = ClientCa::new(&pem, &ring::default_provider(), reads_uids)?;
        client_ca = Some(Arc::clone(&ca));
        let take =
            move |contents: &[Vec<u8>]| ca.replace(contents.first().map_or(&[][..], Vec::as_slice)).map_err(|e| e.to_string());
        files.push(Subject::new("client CA bundle", vec![path.clone()], &[pem], take));
    }
    let certificate = ServingCertificate::new(None);
    if let CertificateSource::Bootstrap { directory, until_then } = &resolved.tls.source {
        requested = Some(Requested::open(directory, until_then.clone(), Arc::clone(&certificate), now)?);
    } else {
        let (paths, pair) = pair(&resolved.tls.source, &resolved.kubelet.node.name, &resolved.kubelet.node.ips, now)?;
        certificate.replace(certified_key(&pair[0], &pair[1])?);
        let shown = Arc::clone(&certificate);
        let taken = Subject::new("serving certificate and key", paths.into(), &pair, move |contents| {
            let [certificate, key] = contents else { return Err("two files are needed".to_owned()) };
            shown.replace(certified_key(certificate, key).map_err(|error| error.to_string())?);
            Ok(())
        });
        // Its sister, ReloadKubeletClientCAFile, is only about what a handshake asks for: authorities are followed either way.
        files.extend(resolved.kubelet.gates.enabled("ReloadKubeletServerCertificateFile").then_some(taken));
    }
    let clients = client_ca.clone().map(|ca| ca as Arc<dyn ClientCertVerifier>);
    let tls = Arc::new(server_config(&resolved.tls.terms, certificate, clients)?);
    Ok(Prepared { serving: Serving { settings: server_settings(resolved), tls, client_ca }, files, requested })
}

/// API-020: the paths of the serving certificate and its key, and what is in them; made and kept if there is none yet.
fn pair(source: &CertificateSource, node: &str, ips: &[IpAddr], now: Timestamp) -> anyhow::Result<([PathBuf; 2], [Vec<u8>; 2])> {
    let read = |path: &Path, field: &str| fs::read(path).with_context(|| format!("{field} {}", path.display()));
    match source {
        CertificateSource::Files { certificate, key } => {
            Ok(([certificate.clone(), key.clone()], [read(certificate, "tlsCertFile")?, read(key, "tlsPrivateKeyFile")?]))
        }
        CertificateSource::SelfSigned { certificate, key } => {
            if !is_there(certificate, key)? {
                let made = self_signed(node, ips, now.as_second())?;
                // Until the last step a life that ends here leaves no pair, or one that the next life completes.
                write_private(&next_to(key), made.key.as_bytes(), 0o600)?;
                write_private(certificate, made.certificate.as_bytes(), 0o644)?;
                complete(key)?;
            }
            Ok(([certificate.clone(), key.clone()], [read(certificate, "certificate")?, read(key, "key")?]))
        }
        CertificateSource::Bootstrap { directory, .. } => {
            anyhow::bail!("{}: the API server gives the certificate", directory.display())
        }
    }
}

/// API-170: whether both files can be read. With one of them alone there is nothing to begin with: it may be somebody's who forgot the other
/// (k8s.io/client-go/util/cert/io.go: CanReadCertAndKey).
fn is_there(certificate: &Path, key: &Path) -> anyhow::Result<bool> {
    let can_read = |path: &Path| fs::File::open(path).is_ok();
    let alone = match (can_read(certificate), can_read(key)) {
        (true, true) => return Ok(true),
        (false, false) => return Ok(false),
        (false, true) => certificate,
        (true, false) => {
            let read = fs::read(certificate).and_then(|certificate| Ok((certificate, fs::read(next_to(key))?)));
            if read.is_ok_and(|(certificate, key)| certified_key(&certificate, &key).is_ok()) {
                complete(key)?;
                return Ok(true);
            }
            key
        }
    };
    anyhow::bail!("error reading {}, certificate and key must be supplied as a pair", alone.display())
}

/// Where a key waits for its certificate to be on the disk.
fn next_to(key: &Path) -> PathBuf {
    let mut path = key.as_os_str().to_owned();
    path.push(".new");
    path.into()
}

fn complete(key: &Path) -> anyhow::Result<()> {
    let directory = key.parent().unwrap_or_else(|| Path::new("/"));
    let renamed = fs::rename(next_to(key), key).and_then(|()| fs::File::open(directory)?.sync_all());
    renamed.with_context(|| key.display().to_string())
}

/// Writes a file whole or not at all, with exactly that mode: half a key would end every later start.
fn write_private(path: &Path, contents: &[u8], mode: u32) -> anyhow::Result<()> {
    use io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;
    let directory = path.parent().unwrap_or_else(|| Path::new("/"));
    fs::create_dir_all(directory).with_context(|| format!("cert-dir {}", directory.display()))?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = Path::new(&temporary);
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(temporary)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(temporary, path)?;
        fs::File::open(directory)?.sync_all()
    };
    let written = write();
    if written.is_err() {
        // The failure that is reported is the first one.
        let _ = fs::remove_file(temporary);
    }
    written.with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    // API-170: made once for the host and a year, kept beside its key, and the same in every later life.
    #[test]
    fn serving_certificate_is_made_once_and_kept() {
        let directory = std::env::temp_dir().join(format!("keelson-serving-{}", std::process::id()));
        let (file, key_file) = (directory.join("pki/kubelet.crt"), directory.join("pki/kubelet.key"));
        let source = CertificateSource::SelfSigned { certificate: file.clone(), key: key_file.clone() };
        let (_, made) = pair(&source, "n1", &[], Timestamp::from_second(1_767_225_600).unwrap()).unwrap();
        let (_, kept) = pair(&source, "n1", &[], Timestamp::from_second(1_767_312_000).unwrap()).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let modes = (mode(&file), mode(&key_file));
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(made, kept);
        assert_eq!(modes, (0o644, 0o600));
        certified_key(&made[0], &made[1]).unwrap();
        let der = crate::tls::certificates("it", &made[0]).unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(&der[0]).unwrap();
        let names = parsed.subject_alternative_name().unwrap().unwrap();
        assert!(matches!(names.value.general_names[..], [x509_parser::extensions::GeneralName::DNSName("n1")]));
        let seconds = parsed.validity().not_after.timestamp() - 1_767_225_600;
        assert_eq!(seconds, 365 * 86_400);
    }

    // API-170: client-go util/cert/io.go (CanReadCertAndKey): one without the other ends the start, and is left as it is.
    #[test]
    fn one_file_of_the_pair_alone_is_not_overwritten() {
        let directory = std::env::temp_dir().join(format!("keelson-alone-{}", std::process::id()));
        let (file, key_file) = (directory.join("kubelet.crt"), directory.join("kubelet.key"));
        let source = CertificateSource::SelfSigned { certificate: file.clone(), key: key_file.clone() };
        let pair = || pair(&source, "n1", &[], Timestamp::from_second(1_767_225_600).unwrap());
        let (_, made) = pair().unwrap();
        let told = |missing: &Path| format!("error reading {}, certificate and key must be supplied as a pair", missing.display());
        fs::remove_file(&key_file).unwrap();
        assert_eq!(pair().unwrap_err().to_string(), told(&key_file));
        assert_eq!(fs::read(&file).unwrap(), made[0]);
        // A life that ended between the two: its key waits, and belongs to the certificate.
        fs::write(next_to(&key_file), "another's").unwrap();
        assert_eq!(pair().unwrap_err().to_string(), told(&key_file));
        fs::write(next_to(&key_file), &made[1]).unwrap();
        assert_eq!(pair().unwrap().1, made);
        assert!(!next_to(&key_file).exists());
        fs::remove_file(&file).unwrap();
        assert_eq!(pair().unwrap_err().to_string(), told(&file));
        assert_eq!(fs::read(&key_file).unwrap(), made[1]);
        fs::remove_dir_all(&directory).unwrap();
    }

    // Issue 10, S28
    #[test]
    fn private_file_has_its_mode_and_is_whole() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = std::env::temp_dir().join(format!("keelson-private-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let key = directory.join("kubelet.key");
        fs::write(&key, "torn").unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        write_private(&key, b"whole", 0o600).unwrap();
        let (mode, names) = (fs::metadata(&key).unwrap().permissions().mode() & 0o777, fs::read_dir(&directory).unwrap().count());
        let found = fs::read(&key).unwrap();
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!((mode, names, found.as_slice()), (0o600, 1, &b"whole"[..]));
    }
}
