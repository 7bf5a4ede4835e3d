//! Single files and directories: written whole or not at all, with exactly the mode that was asked for.
//! Upstream: pkg/util/filesystem, pkg/kubelet/kubelet_pods.go (makeHostsMount, makeMounts).
//! Differs: a file that is right already is left alone, so that containers that have it mounted keep sharing it.

use std::fs::{self, File, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use kubelet::event::FileRead;
use kubelet::sensitive::Sensitive;
use rustix::fs::{Mode, OFlags};

use super::error::{Context as _, HostError, unless_missing};
use super::layout::Layout;

/// How much of a file is ever read.
const MOST_READ: u64 = 10 << 20;

/// How much is read of one file of a directory, and of all of them.
const MOST_RECORD: u64 = 1 << 20;
const MOST_RECORDS: u64 = 64 << 20;

static TEMPORARY: AtomicU64 = AtomicU64::new(0);

/// A number that no other call in this process gets.
pub(super) fn unique() -> u64 {
    TEMPORARY.fetch_add(1, Ordering::Relaxed)
}

/// Opens a file, not blocking on pipes, not following a link in the last place if `nofollow`.
pub(super) fn open(path: &Path, flags: OFlags, mode: u32) -> Result<File, HostError> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::open(path, flags, Mode::from_raw_mode(mode)).map(File::from).context("open", path)
}

/// Gives a path exactly that mode, whatever the umask.
pub(super) fn chmod(path: &Path, mode: u32) -> Result<(), HostError> {
    fs::set_permissions(path, Permissions::from_mode(mode)).context("chmod", path)
}

/// Makes a directory with exactly that mode unless it is there; says whether it was made.
pub(super) fn make_dir(path: &Path, mode: u32) -> Result<bool, HostError> {
    match fs::create_dir(path) {
        Ok(()) => chmod(path, mode).map(|()| true),
        Err(_) if path.is_dir() => Ok(false),
        Err(error) => Err(error).context("mkdir", path),
    }
}

/// Makes a directory and what is missing above it, each with that mode.
pub(super) fn make_dirs(path: &Path, mode: u32) -> Result<(), HostError> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => return Ok(()),
        // As Go's os.MkdirAll says it.
        Ok(_) => return Err(rustix::io::Errno::NOTDIR).context("mkdir", path),
        Err(_) => {}
    }
    if let Some(parent) = path.parent() {
        make_dirs(parent, mode)?;
    }
    make_dir(path, mode).map(drop)
}

/// Writes a file whole: temporary, fsync, rename, fsync of the directory.
pub(super) fn write_whole(path: &Path, contents: &[u8], mode: u32) -> Result<(), HostError> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(HostError::Invalid(format!("{} is no file", path.display())));
    };
    if is_already(path, contents, mode) {
        return Ok(());
    }
    let temporary = directory.join(format!(".{}.{}-{}.tmp", name.to_string_lossy(), std::process::id(), unique()));
    let written = write_new(&temporary, contents, mode).and_then(|()| fs::rename(&temporary, path).context("rename", path));
    if written.is_err() {
        // The failure that is reported is the first one.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    sync_dir(directory)
}

fn is_already(path: &Path, contents: &[u8], mode: u32) -> bool {
    let Ok(file) = open(path, OFlags::RDONLY | OFlags::NOFOLLOW, 0) else { return false };
    let same = file.metadata().is_ok_and(|m| m.is_file() && m.mode() & 0o7777 == mode && m.len() == contents.len() as u64);
    // Whoever has it mounted may write on meanwhile: no more is read than what it is compared with, and one byte.
    let mut found = Vec::new();
    same && file.take(contents.len() as u64 + 1).read_to_end(&mut found).is_ok() && found == contents
}

fn write_new(path: &Path, contents: &[u8], mode: u32) -> Result<(), HostError> {
    let mut file = open(path, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW, 0o600)?;
    file.write_all(contents).context("write", path)?;
    file.set_permissions(Permissions::from_mode(mode)).context("chmod", path)?;
    file.sync_all().context("fsync", path)
}

/// Makes durable what was renamed or made in a directory.
pub(super) fn sync_dir(path: &Path) -> Result<(), HostError> {
    open(path, OFlags::RDONLY | OFlags::DIRECTORY, 0)?.sync_all().context("fsync", path)
}

/// Makes an empty file with exactly that mode, parents included (MNT-015).
pub(super) fn create(path: &Path, mode: u32) -> Result<(), HostError> {
    if let Some(parent) = path.parent() {
        make_dirs(parent, 0o750)?;
    }
    let file = open(path, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW, 0o600)?;
    file.set_permissions(Permissions::from_mode(mode)).context("chmod", path)
}

/// Writes a file whole, for nobody but root to read, in a directory that is made for it if it is missing.
pub(super) fn write_record(path: &Path, contents: &[u8]) -> Result<(), HostError> {
    if let Some(directory) = path.parent() {
        make_dirs(directory, 0o700)?;
    }
    write_whole(path, contents, 0o600)
}

/// The regular files of a directory whose names begin so, in order; none if there is no such directory. Of one that is too large, or beyond
/// what is read in all, its name is told and why it was not read.
pub(super) fn read_directory(directory: &Path, prefix: &str) -> Result<Vec<FileRead>, HostError> {
    let (mut found, mut left) = (Vec::new(), MOST_RECORDS);
    for name in names(directory)?.into_iter().filter(|name| name.starts_with(prefix)) {
        let path = directory.join(&name);
        if path.is_dir() {
            continue;
        }
        let contents = read_at_most(&path, MOST_RECORD.min(left)).map_err(|error| error.to_string());
        left -= contents.as_ref().map_or(0, |bytes| bytes.len() as u64);
        found.push(FileRead { name, contents: contents.map(Sensitive::new) });
    }
    Ok(found)
}

/// Those of these files that are there, by the paths that the core knows them by.
pub(super) fn read_those(layout: &Layout, paths: &[String]) -> Result<Vec<FileRead>, HostError> {
    let mut found = Vec::new();
    for name in paths {
        let contents = match read(&layout.at(name)?) {
            Err(error) if error.is_not_found() => continue,
            contents => contents.map(Sensitive::new).map_err(|error| error.to_string()),
        };
        found.push(FileRead { name: name.clone(), contents });
    }
    Ok(found)
}

/// Reads a regular file of at most 10 MiB.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, HostError> {
    read_at_most(path, MOST_READ)
}

fn read_at_most(path: &Path, most: u64) -> Result<Vec<u8>, HostError> {
    let file = open(path, OFlags::RDONLY, 0)?;
    if !file.metadata().context("stat", path)?.is_file() {
        return Err(HostError::Unfit(format!("read {}: not a regular file", path.display())));
    }
    let mut contents = Vec::new();
    file.take(most + 1).read_to_end(&mut contents).context("read", path)?;
    if contents.len() as u64 > most {
        return Err(HostError::Unfit(format!("read {}: the read limit is reached", path.display())));
    }
    Ok(contents)
}

/// A file of the kernel or of the machine's owner as text, whatever bytes are in it.
pub(super) fn text(path: &Path) -> std::io::Result<String> {
    Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned())
}

/// The names in a directory, sorted; none if there is no such directory.
pub(super) fn names(directory: &Path) -> Result<Vec<String>, HostError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context("open", directory),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.context("readdir", directory)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Removes a file; nothing to do if it is not there.
pub(super) fn remove(path: &Path) -> Result<(), HostError> {
    unless_missing(fs::remove_file(path).context("remove", path))
}

/// Removes an empty directory; nothing to do if it is not there.
pub(super) fn remove_dir(path: &Path) -> Result<(), HostError> {
    unless_missing(fs::remove_dir(path).context("rmdir", path))
}

#[cfg(test)]
mod tests {
    use super::super::testing::Scratch;
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn file_is_replaced_whole_with_its_exact_mode() {
        let scratch = Scratch::new();
        let path = scratch.path().join("etc-hosts");
        write_whole(&path, b"one\n", 0o666).unwrap();
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"one\n".to_vec(), 0o666));
        write_whole(&path, b"two\n", 0o644).unwrap();
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"two\n".to_vec(), 0o644));
        assert_eq!(names(scratch.path()).unwrap(), ["etc-hosts"]);
    }

    #[test]
    fn file_that_is_right_keeps_its_inode() {
        let scratch = Scratch::new();
        let path = scratch.path().join("etc-hosts");
        write_whole(&path, b"same\n", 0o644).unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        write_whole(&path, b"same\n", 0o644).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    }

    #[test]
    fn link_in_the_place_of_a_file_is_replaced_not_followed() {
        let scratch = Scratch::new();
        let (victim, path) = (scratch.path().join("victim"), scratch.path().join("file"));
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        write_whole(&path, b"precious", 0o644).unwrap();
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        assert!(create(&path, 0o666).is_err());
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
    }

    // POD-208: names and modes as fs_pullrecords.go has them; what is too large keeps its name.
    #[test]
    fn records_are_written_and_read_back() {
        let scratch = Scratch::new();
        let directory = scratch.path().join("image_manager/pulled");
        assert_eq!(read_directory(&directory, "sha256-").unwrap(), []);
        write_record(&directory.join("sha256-1"), b"one").unwrap();
        fs::write(directory.join("other"), "x").unwrap();
        File::create(directory.join("sha256-2")).unwrap().set_len(MOST_RECORD + 1).unwrap();
        fs::create_dir(directory.join("sha256-3")).unwrap();
        assert_eq!((mode(&directory), mode(&directory.join("sha256-1"))), (0o700, 0o600));
        let found = read_directory(&directory, "sha256-").unwrap();
        assert_eq!(found[0], FileRead { name: "sha256-1".to_owned(), contents: Ok(Sensitive::new(b"one".to_vec())) });
        assert!(found[1].name == "sha256-2" && found[1].contents.is_err() && found.len() == 2);
        remove(&directory.join("sha256-1")).unwrap();
        remove(&directory.join("sha256-1")).unwrap();
    }

    // MNT-015
    #[test]
    fn termination_log_is_empty_and_open_to_all() {
        let scratch = Scratch::new();
        let path = scratch.path().join("containers/main/0123abcd");
        create(&path, 0o666).unwrap();
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (Vec::new(), 0o666));
    }

    #[test]
    fn too_long_a_file_is_not_read() {
        let scratch = Scratch::new();
        let path = scratch.path().join("long");
        File::create(&path).unwrap().set_len(MOST_READ + 1).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("the read limit is reached"));
        assert!(read(&scratch.path().join("none")).unwrap_err().is_not_found());
    }
}
