//! Files of a volume that change all at once: a dated directory, and one link that is turned to it.
//! Upstream: pkg/volume/util/atomic_writer.go.
//! Differs: stale links are found in the volume, not computed from the old files, so what a crash left behind goes too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{lchown, symlink};
use std::path::{Path, PathBuf};

use kubelet::action::ProjectedFile;
use rustix::fs::OFlags;

use super::error::{Context as _, HostError, unless_missing};
use super::{files, tree};

const DATA: &str = "..data";
const DATA_TEMPORARY: &str = "..data_tmp";
const LONGEST_PATH: usize = 4096;
const LONGEST_NAME: usize = 255;

type Files = BTreeMap<String, ProjectedFile>;

/// Brings a volume's directory to hold exactly these files (AWR-001 to AWR-006). Callers serialise per directory. The group
/// is given the volume only when something is written (AWR-004).
pub(super) fn write(volume: &Path, payload: &Files, group: Option<u32>) -> Result<(), HostError> {
    payload.keys().try_for_each(|path| check(path))?;
    let data = volume.join(DATA);
    let old = fs::read_link(&data).ok();
    if !old.as_ref().is_some_and(|old| holds(&volume.join(old), payload)) {
        replace(volume, payload, group, old.as_deref())?;
    }
    // Also when nothing was written: it heals a crash between the swap and the links (AWR-003).
    link(volume, payload)?;
    remove_stale(volume, payload)?;
    match old.filter(|old| fs::read_link(&data).ok().as_ref() != Some(old)) {
        Some(old) if dated(&old) => tree::remove(&volume.join(old)),
        _ => Ok(()),
    }
}

/// AWR-002
fn check(path: &str) -> Result<(), HostError> {
    let wrong = |why: &str| Err(HostError::Invalid(format!("invalid path {path:?}: {why}")));
    if path.is_empty() {
        return wrong("must not be empty");
    }
    if path.starts_with('/') {
        return wrong("must be relative path");
    }
    if path.len() > LONGEST_PATH {
        return wrong("must be less than or equal to 4096 characters");
    }
    if path.starts_with("..") {
        return wrong("must not start with '..'");
    }
    if path.contains('\0') || path.split('/').any(|c| c.is_empty() || c == "." || c == "..") {
        return wrong("must not contain '..' or empty components");
    }
    if path.split('/').any(|c| c.len() > LONGEST_NAME) {
        return wrong("filename must be less than or equal to 255 characters");
    }
    Ok(())
}

fn top(path: &str) -> &str {
    path.split_once('/').map_or(path, |(top, _)| top)
}

/// A name that only this writer gives.
fn dated(name: &Path) -> bool {
    name.components().count() == 1 && name.to_str().is_some_and(|n| n.starts_with("..") && n != ".." && n != DATA)
}

/// Whether a dated directory has these files and no others; modes are not looked at (AWR-003).
fn holds(directory: &Path, payload: &Files) -> bool {
    let Ok(found) = list(directory) else { return false };
    found.iter().map(String::as_str).eq(payload.keys().map(String::as_str))
        && payload.iter().all(|(path, file)| fs::read(directory.join(path)).is_ok_and(|data| data == *file.data.reveal()))
}

/// The files below a directory, by their path in it.
fn list(directory: &Path) -> Result<BTreeSet<String>, HostError> {
    let mut found = BTreeSet::new();
    let mut waiting = vec![String::new()];
    while let Some(prefix) = waiting.pop() {
        for name in files::names(&directory.join(&prefix))? {
            let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
            let full = directory.join(&path);
            if fs::symlink_metadata(&full).context("lstat", &full)?.is_dir() {
                waiting.push(path);
            } else {
                found.insert(path);
            }
        }
    }
    Ok(found)
}

/// Writes the files into a directory of their own and turns the link to it.
fn replace(volume: &Path, payload: &Files, group: Option<u32>, old: Option<&Path>) -> Result<(), HostError> {
    let name = make_dated(volume)?;
    let directory = volume.join(&name);
    let given = || group.map_or(Ok(()), |group| tree::give_to_group(volume, group, true));
    // A failure leaves nothing behind: it is tried again, and what would pile up is as large as the volume.
    if let Err(error) = write_files(&directory, payload).and_then(|()| given()) {
        let _ = tree::remove(&directory);
        return Err(error);
    }
    // Nor does a link or rename that failed (AWR-005).
    let temporary = volume.join(DATA_TEMPORARY);
    let cleared = unless_missing(fs::remove_file(&temporary).context("remove", &temporary));
    let linked = cleared.and_then(|()| symlink(&name, &temporary).context("symlink", &temporary));
    let turned = linked.and_then(|()| {
        let data = volume.join(DATA);
        fs::rename(&temporary, &data).context("rename", &data)
    });
    if turned.is_err() {
        // The failure that is reported is the first one.
        let _ = fs::remove_file(&temporary);
        if old != Some(Path::new(&name)) {
            let _ = tree::remove(&directory);
        }
    }
    turned
}

#[expect(clippy::disallowed_methods, reason = "the name of a directory on a real disk; nothing is decided by it")]
fn make_dated(volume: &Path) -> Result<String, HostError> {
    let now = jiff::Timestamp::now();
    let date = now.strftime("..%Y_%m_%d_%H_%M_%S.").to_string();
    for attempt in 0..1000_u32 {
        let number = u32::try_from(now.subsec_nanosecond()).unwrap_or(0).wrapping_add(attempt);
        let name = format!("{date}{number}");
        if files::make_dir(&volume.join(&name), 0o755)? {
            return Ok(name);
        }
    }
    Err(HostError::Unfit(format!("no free name for a directory in {}", volume.display())))
}

fn write_files(directory: &Path, payload: &Files) -> Result<(), HostError> {
    for (path, file) in payload {
        let full = directory.join(path);
        if let Some(parent) = full.parent() {
            make_parents(parent)?;
        }
        let mut open = files::open(&full, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW, 0o600)?;
        open.write_all(file.data.reveal()).context("write", &full)?;
        files::chmod(&full, file.mode & 0o7777)?;
        give(&full, file.owner)?;
    }
    Ok(())
}

/// Of a file in the way it is said what Go's os.MkdirAll says, which upstream calls with a slash at the end (filepath.Split).
fn make_parents(directory: &Path) -> Result<(), HostError> {
    match directory.ancestors().find(|above| fs::metadata(above).is_ok_and(|found| !found.is_dir())) {
        Some(file) => Err(rustix::io::Errno::EXIST).context("mkdir", &file.join("")),
        None => files::make_dirs(directory, 0o755),
    }
}

fn give(path: &Path, owner: Option<i64>) -> Result<(), HostError> {
    match owner.and_then(|o| u32::try_from(o).ok()) {
        Some(owner) => lchown(path, Some(owner), None).context("lchown", path),
        None => Ok(()),
    }
}

/// Every first component links into the data.
fn link(volume: &Path, payload: &Files) -> Result<(), HostError> {
    for (path, file) in payload {
        let (name, target) = (volume.join(top(path)), PathBuf::from(DATA).join(top(path)));
        if fs::symlink_metadata(&name).is_ok() {
            continue;
        }
        symlink(target, &name).context("symlink", &name)?;
        give(&name, file.owner)?;
    }
    Ok(())
}

/// Links into the data that no file has any more.
fn remove_stale(volume: &Path, payload: &Files) -> Result<(), HostError> {
    let wanted: BTreeSet<&str> = payload.keys().map(|path| top(path)).collect();
    for name in files::names(volume)? {
        let path = volume.join(&name);
        let ours = fs::read_link(&path).is_ok_and(|target| target == Path::new(DATA).join(&name));
        if ours && !wanted.contains(name.as_str()) {
            files::remove(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use kubelet::sensitive::Sensitive;

    use super::super::testing::Scratch;
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Files {
        let file = |data: &str| ProjectedFile { data: Sensitive::new(data.into()), mode: 0o644, owner: None };
        files.iter().map(|(path, data)| ((*path).to_owned(), file(data))).collect()
    }

    fn dated_in(volume: &Path) -> Vec<String> {
        files::names(volume).unwrap().into_iter().filter(|n| dated(Path::new(n))).collect()
    }

    // AWR-001: pkg/volume/util/atomic_writer.go, newTimestampDir and writePayloadToDir.
    #[test]
    fn files_are_seen_through_links_into_a_dated_directory() {
        let scratch = Scratch::new();
        let mut given = payload(&[("key", "value"), ("dir/inner/file", "deep")]);
        given.get_mut("key").unwrap().mode = 0o400;
        write(scratch.path(), &given, None).unwrap();
        assert_eq!((scratch.get("key"), scratch.get("dir/inner/file")), ("value".into(), "deep".into()));
        assert_eq!(fs::read_link(scratch.path().join("dir")).unwrap(), Path::new("..data/dir"));
        assert_eq!(fs::metadata(scratch.path().join("key")).unwrap().permissions().mode() & 0o7777, 0o400);
        let dated = dated_in(scratch.path());
        assert_eq!(fs::read_link(scratch.path().join("..data")).unwrap(), Path::new(&dated[0]));
        let (date, number) = dated[0][2..].split_once('.').unwrap();
        assert!(!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()), "{number}");
        let directory = scratch.path().join(&dated[0]);
        let made = jiff::civil::DateTime::strptime("%Y_%m_%d_%H_%M_%S", date).unwrap().to_zoned(jiff::tz::TimeZone::UTC).unwrap();
        let changed = jiff::Timestamp::try_from(fs::metadata(&directory).unwrap().modified().unwrap()).unwrap();
        assert!(changed.duration_since(made.timestamp()).as_secs().abs() <= 5, "{date} is not {changed}");
        let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&directory), mode(&directory.join("dir")), mode(&directory.join("dir/inner"))), (0o755, 0o755, 0o755));
        for name in ["key", "dir"] {
            assert_eq!(fs::read_link(scratch.path().join(name)).unwrap(), Path::new("..data").join(name));
        }
        assert_eq!(files::names(scratch.path()).unwrap(), [dated[0].as_str(), "..data", "dir", "key"]);
    }

    // AWR-004
    #[test]
    fn change_replaces_the_directory_and_drops_what_is_no_more() {
        let scratch = Scratch::new();
        write(scratch.path(), &payload(&[("a", "1"), ("b/c", "2")]), None).unwrap();
        let before = dated_in(scratch.path());
        write(scratch.path(), &payload(&[("a", "changed")]), None).unwrap();
        assert_eq!(scratch.get("a"), "changed");
        let after = dated_in(scratch.path());
        assert_eq!(after.len(), 1);
        assert_ne!(before, after);
        assert_eq!(files::names(scratch.path()).unwrap(), [after[0].as_str(), "..data", "a"]);
    }

    /// What happens in a directory meanwhile, as the kernel tells it, each once in a row: what, and to which name.
    fn told_of(directory: &Path, act: impl FnOnce()) -> Vec<(&'static str, String)> {
        use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
        let kernel = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
        let changes = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::DELETE | WatchFlags::ATTRIB;
        inotify::add_watch(&kernel, directory, changes).unwrap();
        act();
        let mut buffer = [std::mem::MaybeUninit::uninit(); 1 << 14];
        let mut reader = inotify::Reader::new(&kernel, &mut buffer);
        let mut told = Vec::new();
        while let Ok(event) = reader.next() {
            let kinds = [(ReadFlags::CREATE, "made"), (ReadFlags::MOVED_TO, "renamed"), (ReadFlags::DELETE, "gone")];
            let what = kinds.iter().find(|(kind, _)| event.events().contains(*kind)).map_or("given", |(_, what)| what);
            let name = event.file_name().map_or(".", |name| name.to_str().unwrap());
            told.push((what, name.to_owned()));
        }
        told.dedup();
        told
    }

    // AWR-004: pkg/volume/util/atomic_writer.go, Write, steps 5 to 12: the volume is given to the group before anybody can see the
    // files, and only if any are written.
    #[test]
    fn steps_of_a_write_have_their_order() {
        let scratch = Scratch::new();
        let group = Some(rustix::process::getegid().as_raw());
        let names = |told: Vec<(&'static str, String)>| {
            let steps = told.into_iter().filter(|(what, name)| *what != "given" || name == ".");
            steps.map(|(what, name)| format!("{what} {name}")).collect::<Vec<_>>()
        };
        write(scratch.path(), &payload(&[("a", "1"), ("b", "1")]), group).unwrap();
        let old = dated_in(scratch.path()).remove(0);
        files::chmod(scratch.path(), 0o755).unwrap();
        let changed = payload(&[("a", "2"), ("c", "2")]);
        let told = names(told_of(scratch.path(), || write(scratch.path(), &changed, group).unwrap()));
        let new = dated_in(scratch.path()).remove(0);
        let steps = [
            format!("made {new}"),
            "given .".to_owned(),
            "made ..data_tmp".to_owned(),
            "renamed ..data".to_owned(),
            "made c".to_owned(),
            "gone b".to_owned(),
            format!("gone {old}"),
        ];
        assert_eq!(told, steps);
        files::chmod(scratch.path(), 0o755).unwrap();
        assert!(told_of(scratch.path(), || write(scratch.path(), &changed, group).unwrap()).is_empty());
    }

    // AWR-004: writePayloadToDir: chmod is exact, whatever the umask; the user gets his files, and the links to them.
    #[test]
    fn files_have_their_mode_and_their_owner() {
        use std::os::unix::fs::MetadataExt as _;
        let scratch = Scratch::new();
        let own = rustix::process::geteuid();
        // Only root can give anything away.
        let owner = if own.is_root() { 4711 } else { own.as_raw() };
        let mut given = payload(&[("key", "1"), ("dir/other", "2")]);
        for file in given.values_mut() {
            (file.mode, file.owner) = (0o666, Some(i64::from(owner)));
        }
        write(scratch.path(), &given, None).unwrap();
        let of = |path: &str| fs::symlink_metadata(scratch.path().join(path)).unwrap();
        for file in ["..data/key", "..data/dir/other"] {
            assert_eq!((of(file).permissions().mode() & 0o7777, of(file).uid()), (0o666, owner), "{file}");
        }
        assert_eq!((of("key").uid(), of("dir").uid(), of("..data").uid()), (owner, owner, own.as_raw()));
    }

    // AWR-003
    #[test]
    fn equal_files_are_not_written_but_links_are_healed() {
        let scratch = Scratch::new();
        let given = payload(&[("a", "1")]);
        write(scratch.path(), &given, None).unwrap();
        let before = dated_in(scratch.path());
        fs::remove_file(scratch.path().join("a")).unwrap();
        write(scratch.path(), &given, None).unwrap();
        assert_eq!((dated_in(scratch.path()), scratch.get("a")), (before, "1".into()));
    }

    #[test]
    fn volume_without_files_has_a_data_directory() {
        let scratch = Scratch::new();
        write(scratch.path(), &Files::new(), None).unwrap();
        assert!(fs::metadata(scratch.path().join("..data")).unwrap().is_dir());
    }

    // AWR-005; issue 10, S13: what is there stays as it was, and tries that fail do not pile up.
    // Upstream: pkg/volume/configmap/configmap.go (setupSuccess) tears the volume down.
    #[test]
    fn failed_write_leaves_what_was_there_and_nothing_else() {
        let scratch = Scratch::new();
        write(scratch.path(), &payload(&[("a", "1")]), None).unwrap();
        // A file cannot be a directory as well; in the words of os.MkdirAll (writePayloadToDir).
        for below in ["a/b", "a/b/c"] {
            let why = write(scratch.path(), &payload(&[("a", "2"), (below, "2")]), None).unwrap_err().to_string();
            assert!(why.starts_with("mkdir /") && why.ends_with("/a/: file exists"), "{why}");
        }
        assert_eq!((scratch.get("a"), dated_in(scratch.path()).len()), ("1".into(), 1));
        write(scratch.path(), &payload(&[("a", "3")]), None).unwrap();
        assert_eq!(scratch.get("a"), "3");
        assert_eq!(fs::read_link(scratch.path().join("a")).unwrap(), Path::new("..data/a"));
    }

    // AWR-005
    #[test]
    fn failed_link_or_rename_takes_its_directory_with_it() {
        for in_the_way in ["..data_tmp/x", "..data/x"] {
            let scratch = Scratch::new();
            scratch.put(in_the_way, "a directory where a link belongs");
            assert!(write(scratch.path(), &payload(&[("a", "1")]), None).is_err(), "{in_the_way}");
            let left = files::names(scratch.path()).unwrap();
            assert_eq!(left, [in_the_way.trim_end_matches("/x")], "{in_the_way}");
        }
    }

    // VTY-019: directories for nested mounts are not the writer's.
    #[test]
    fn what_the_writer_did_not_make_stays() {
        let scratch = Scratch::new();
        fs::create_dir(scratch.path().join("nested")).unwrap();
        write(scratch.path(), &payload(&[("a", "1")]), None).unwrap();
        write(scratch.path(), &payload(&[("b", "1")]), None).unwrap();
        assert!(scratch.path().join("nested").is_dir());
    }

    // AWR-002
    #[test]
    fn paths_stay_in_the_volume() {
        let scratch = Scratch::new();
        let (long_name, long_path) = ("x".repeat(256), "x/".repeat(2049) + "x");
        for path in ["", "/etc/passwd", "../x", "a/../../x", "..data", "..x", "a//b", &long_name, &long_path] {
            assert!(write(scratch.path(), &payload(&[(path, "1")]), None).is_err(), "{path:?}");
        }
        assert!(files::names(scratch.path()).unwrap().is_empty());
    }
}
