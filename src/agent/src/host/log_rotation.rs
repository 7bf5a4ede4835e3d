//! Rotated container logs: which have grown, renaming, compressing, and removing the oldest.
//! Upstream: pkg/kubelet/logs/container_log_manager.go.
//! Differs: nothing on purpose.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use rustix::fs::OFlags;

use super::error::{Context as _, HostError};
use super::files;
use super::layout::Layout;

/// The logs of at least that size, and those that are not there.
pub(super) fn large(layout: &Layout, paths: &[String], at_least: u64) -> Result<(Vec<String>, Vec<String>), HostError> {
    let (mut large, mut missing) = (Vec::new(), Vec::new());
    for path in paths {
        let found = match layout.below_pod_logs(path) {
            Ok(log) => fs::symlink_metadata(log),
            Err(strange) => Err(io::Error::other(strange)),
        };
        match found {
            Ok(found) if found.is_file() && found.len() >= at_least => large.push(path.clone()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(path.clone()),
            // One that cannot be looked at does not hide the others.
            Err(error) => tracing::warn!(%path, %error, "failed to get the container's log size"),
        }
    }
    Ok((large, missing))
}

/// LOG-008: drops what an earlier rotation left unfinished and the oldest, compresses the rest, and renames the log. Answers the
/// name that it got.
pub(super) fn rotate(layout: &Layout, log: &str, suffix: &str, max_files: u32) -> Result<String, HostError> {
    let path = layout.below_pod_logs(log)?;
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Err(HostError::Invalid(format!("{log:?} is not a log")));
    };
    let prefix = format!("{name}.");
    let found: BTreeSet<String> = files::names(directory)?.into_iter().filter(|found| found.starts_with(&prefix)).collect();
    let (unfinished, mut rotated): (Vec<&String>, Vec<&String>) =
        found.iter().partition(|one| one.ends_with(".tmp") || found.contains(&format!("{one}.gz")));
    for one in unfinished {
        files::remove(&directory.join(one))?;
    }
    // The log itself and its new one count too.
    let excess = rotated.len().saturating_sub((max_files as usize).saturating_sub(2));
    for one in rotated.drain(..excess) {
        files::remove(&directory.join(one))?;
    }
    for one in rotated.into_iter().filter(|one| !one.ends_with(".gz")) {
        // One that cannot be compressed is removed in its time all the same, and keeps the log from being rotated no longer.
        if let Err(error) = compress(&directory.join(one)) {
            tracing::warn!(log, one, %error, "failed to compress log");
        }
    }
    fs::rename(&path, directory.join(format!("{name}.{suffix}"))).context("rename", &path)?;
    Ok(format!("{log}.{suffix}"))
}

/// Gives the log its name back, unless the runtime has begun a new one.
pub(super) fn undo(layout: &Layout, log: &str, rotated: &str) -> Result<(), HostError> {
    let (path, rotated) = (layout.below_pod_logs(log)?, layout.below_pod_logs(rotated)?);
    if path.exists() { Ok(()) } else { fs::rename(&rotated, &path).context("rename", &rotated) }
}

fn compress(path: &Path) -> Result<(), HostError> {
    let named = |ending: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        name
    };
    let (temporary, compressed) = (named(".tmp"), named(".gz"));
    let temporary = Path::new(&temporary);
    // Whoever may write beside the logs puts what it likes in their place: neither a pipe nor a link is opened.
    let mut plain = files::open(path, OFlags::RDONLY | OFlags::NOFOLLOW, 0)?;
    let found = plain.metadata().context("stat", path)?;
    if !found.is_file() {
        return Err(HostError::Unfit(format!("{} is not a regular file", path.display())));
    }
    let mode = found.permissions();
    let new = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
    let mut encoder = GzEncoder::new(files::open(temporary, new, 0o600)?, Compression::default());
    io::copy(&mut plain, &mut encoder).context("compress", path)?;
    encoder.finish().context("compress", path)?.set_permissions(mode).context("chmod", temporary)?;
    fs::rename(temporary, &compressed).context("rename", temporary)?;
    files::remove(path)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::testing::Scratch;
    use super::*;

    const LOG: &str = "/var/log/pods/ns_web_u1/main/0.log";

    fn file(name: &str) -> String {
        format!("{}{name}", &LOG[1..])
    }

    fn names(scratch: &Scratch) -> Vec<String> {
        let mut names = files::names(&scratch.path().join("var/log/pods/ns_web_u1/main")).unwrap();
        names.sort();
        names
    }

    // LOG-008, POD-344
    #[test]
    fn logs_are_compressed_one_rotation_later_and_the_oldest_go() {
        let scratch = Scratch::new();
        let layout = scratch.layout();
        scratch.put("var/log/pods/ns_web_u1/main/10.log.20260101-000000", "another attempt's");
        for rotation in 1..=5 {
            scratch.put(&file(""), &format!("log {rotation}"));
            fs::set_permissions(scratch.path().join(file("")), fs::Permissions::from_mode(0o640)).unwrap();
            let rotated = rotate(&layout, LOG, &format!("20261123-18000{rotation}"), 4).unwrap();
            assert_eq!(rotated, format!("{LOG}.20261123-18000{rotation}"));
        }
        let expected = ["0.log.20261123-180003.gz", "0.log.20261123-180004.gz", "0.log.20261123-180005", "10.log.20260101-000000"];
        assert_eq!(names(&scratch), expected);
        let compressed = scratch.path().join(file(".20261123-180004.gz"));
        assert_eq!(fs::metadata(&compressed).unwrap().permissions().mode() & 0o777, 0o640);
        let mut text = String::new();
        flate2::read::GzDecoder::new(fs::File::open(compressed).unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "log 4");
    }

    // LOG-008: what a crash left half done.
    #[test]
    fn unfinished_rotation_is_cleared_away() {
        let scratch = Scratch::new();
        for name in ["", ".20261123-180001", ".20261123-180001.gz", ".20261123-180002.tmp"] {
            scratch.put(&file(name), "x");
        }
        rotate(&scratch.layout(), LOG, "20261123-180003", 5).unwrap();
        assert_eq!(names(&scratch), ["0.log.20261123-180001.gz", "0.log.20261123-180003"]);
    }

    // LOG-008, POD-344
    #[test]
    fn rotation_is_undone_unless_a_new_log_was_begun() {
        let scratch = Scratch::new();
        let layout = scratch.layout();
        scratch.put(&file(""), "old");
        let rotated = rotate(&layout, LOG, "s", 5).unwrap();
        undo(&layout, LOG, &rotated).unwrap();
        assert_eq!((names(&scratch), scratch.get(&file(""))), (vec!["0.log".to_owned()], "old".to_owned()));
        rotate(&layout, LOG, "s", 5).unwrap();
        scratch.put(&file(""), "new");
        undo(&layout, LOG, &rotated).unwrap();
        assert_eq!((names(&scratch).len(), scratch.get(&file(""))), (2, "new".to_owned()));
    }

    // Issue 10, S25: neither followed nor waited for.
    #[test]
    fn what_is_no_log_is_not_compressed() {
        let scratch = Scratch::new();
        scratch.put("victim", "precious");
        scratch.put(&file(""), "log");
        let strange = scratch.path().join(file(".20261123-180001"));
        std::os::unix::fs::symlink(scratch.path().join("victim"), &strange).unwrap();
        rotate(&scratch.layout(), LOG, "20261123-180002", 5).unwrap();
        fs::remove_file(&strange).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &strange, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
        scratch.put(&file(""), "log");
        rotate(&scratch.layout(), LOG, "20261123-180003", 5).unwrap();
        assert_eq!(scratch.get("victim"), "precious");
        assert_eq!(names(&scratch), ["0.log.20261123-180001", "0.log.20261123-180002.gz", "0.log.20261123-180003"]);
    }

    // Issue 10, S21: one odd path, of a strange runtime or of containers made under another directory, hides no other log.
    #[test]
    fn odd_path_hides_no_other_log() {
        let scratch = Scratch::new();
        scratch.put(&file(""), "0123456789");
        let paths = ["relative".to_owned(), "/elsewhere/0.log".to_owned(), LOG.to_owned()];
        assert_eq!(large(&scratch.layout(), &paths, 5).unwrap(), (vec![LOG.to_owned()], Vec::new()));
    }

    // LOG-008
    #[test]
    fn large_and_missing_logs_are_told_apart() {
        let scratch = Scratch::new();
        scratch.put(&file(""), "0123456789");
        let missing = LOG.replace("0.log", "1.log");
        let paths = [LOG.to_owned(), missing.clone()];
        assert_eq!(large(&scratch.layout(), &paths, 10).unwrap(), (vec![LOG.to_owned()], vec![missing.clone()]));
        assert_eq!(large(&scratch.layout(), &paths, 11).unwrap(), (vec![], vec![missing]));
        assert_eq!(large(&scratch.layout(), &["/etc/shadow".to_owned()], 0).unwrap(), (Vec::new(), Vec::new()));
    }
}
