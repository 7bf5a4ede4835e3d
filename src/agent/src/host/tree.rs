//! Whole directory trees, some of them written by containers: removed, counted and given to a group without leaving them.
//! Upstream: pkg/volume/volume_linux.go (SetVolumeOwnership), pkg/volume/util/fs, pkg/util/removeall.
//! Differs: every step is held to the tree by the kernel (openat2, hence Linux 5.6), not by comparing device numbers.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::error::{Context as _, HostError};
use super::files;

/// How many directories are held open at once; what lies deeper is first moved up.
const DEEPEST: usize = 48;

/// How many names of one directory are held at once.
const AT_ONCE: usize = 1024;

/// How many directories of one directory wait at once to be gone into.
const INSIDE_MOST: usize = 64;

/// How many files with several names are remembered.
const LINKED_MOST: usize = 1 << 18;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens a directory below another, through no link and across no mount, bind mounts included.
fn open_below(base: BorrowedFd<'_>, path: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(base, path, DIRECTORY, Mode::empty(), inside)
}

/// The names in a directory, one at a time: whoever filled it may have made millions.
fn names(directory: BorrowedFd<'_>) -> rustix::io::Result<impl Iterator<Item = rustix::io::Result<CString>>> {
    let entries = Dir::read_from(directory)?;
    Ok(entries.map(|entry| entry.map(|entry| entry.file_name().to_owned())).filter(|name| {
        let bytes = name.as_ref().map(|name| name.to_bytes());
        !matches!(bytes, Ok(b"." | b".."))
    }))
}

/// Removes a tree. A mount inside makes it fail, with what lies beyond the mount untouched. No tree is no failure.
pub(super) fn remove(path: &Path) -> Result<(), HostError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(HostError::Invalid(format!("{} cannot be removed", path.display())));
    };
    let parent = match rustix::fs::open(parent, DIRECTORY.difference(OFlags::NOFOLLOW), Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened.context("open", parent)?,
    };
    let name = CString::new(name.as_bytes()).map_err(|_| HostError::Invalid("NUL in a path".to_owned()))?;
    remove_entry(parent.as_fd(), &name, None, 0).context("remove", path)
}

/// Removes one entry of a directory. `top` is the tree's outermost directory, to which what lies too deep is moved.
fn remove_entry(parent: BorrowedFd<'_>, name: &CStr, top: Option<BorrowedFd<'_>>, depth: usize) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    if let (Some(top), true) = (top, depth >= DEEPEST) {
        let moved = format!(".removed-{}-{}", std::process::id(), files::unique());
        return rustix::fs::renameat(parent, name, top, moved.as_str());
    }
    let directory = match open_below(parent, name) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    let top = top.unwrap_or(directory.as_fd());
    // A few at a time, and until there are none: what lay too deep has moved into the outermost meanwhile.
    loop {
        let inside: Vec<CString> = names(directory.as_fd())?.take(AT_ONCE).collect::<rustix::io::Result<_>>()?;
        if inside.is_empty() {
            break;
        }
        for entry in &inside {
            remove_entry(directory.as_fd(), entry, Some(top), depth + 1)?;
        }
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOENT) => Ok(()),
        removed => removed,
    }
}

/// Removes a tree of directories; anything else in it makes it fail before that is touched (VOL-031).
pub(super) fn remove_dirs(path: &Path) -> Result<(), HostError> {
    for name in files::names(path)? {
        let inside = path.join(name);
        if !std::fs::symlink_metadata(&inside).context("lstat", &inside)?.is_dir() {
            return Err(HostError::Unfit(format!("{} is not a directory", inside.display())));
        }
        remove_dirs(&inside)?;
    }
    files::remove_dir(path)
}

/// Gives a tree to a group, as upstream does for `fsGroup` (MNT-001): group owner, group rights, setgid on directories. Links
/// change their owner and nothing else. What lies in a directory comes before it, so that the root tells that all is done. A
/// filesystem that has no owners, or is read-only, must not keep the pod from starting: that is only logged. For trees that no
/// container has written to.
pub(super) fn give_to_group(path: &Path, group: u32, read_only: bool) -> Result<(), HostError> {
    let entry = rustix::fs::lstat(path).context("lstat", path)?;
    let kind = FileType::from_raw_mode(entry.st_mode);
    if kind == FileType::Directory {
        for name in files::names(path)? {
            give_to_group(&path.join(name), group, read_only)?;
        }
    }
    let owner = Some(Gid::from_raw(group));
    if let Err(error) = rustix::fs::chownat(rustix::fs::CWD, path, None, owner, AtFlags::SYMLINK_NOFOLLOW) {
        tracing::error!(%error, path = %path.display(), "Lchown failed");
    }
    if kind == FileType::Symlink {
        return Ok(());
    }
    let rights = if read_only { 0o440 } else { 0o660 };
    let more = if kind == FileType::Directory { rights | 0o2110 } else { rights };
    if let Err(error) = files::chmod(path, entry.st_mode & 0o7777 | more) {
        tracing::error!(%error, "chmod failed");
    }
    Ok(())
}

/// The same for a tree that containers may be writing to: no step follows a link or leaves the filesystem. The root comes last, so
/// that it tells by its group and mode whether all of it was given before; if that is trusted, nothing else is looked at. A server
/// that refuses owners or modes must not keep the pod from starting: that is only logged (upstream: changeFilePermission).
pub(super) fn give_shared_to_group(path: &Path, group: u32, trust_root: bool) -> Result<(), HostError> {
    let base = rustix::fs::open(path, DIRECTORY, Mode::empty()).context("open", path)?;
    let root = rustix::fs::fstat(&base).context("fstat", path)?;
    let is_given = root.st_gid == group && root.st_mode & 0o2770 == 0o2770;
    if trust_root && is_given {
        return Ok(());
    }
    let given =
        walk(base.as_fd(), |directory, name| name.map_or(Ok(false), |name| give_entry(directory, name, group, root.st_dev)));
    given.context("give to the group", path)?;
    if let Err(error) = rustix::fs::fchown(&base, None, Some(Gid::from_raw(group))) {
        tracing::error!(%error, path = %path.display(), "Lchown failed");
    }
    if let Err(error) = rustix::fs::fchmod(&base, Mode::from_raw_mode(root.st_mode & 0o7777 | 0o2770)) {
        tracing::error!(%error, path = %path.display(), "chmod failed");
    }
    Ok(())
}

/// Gives one entry to a group; true if it is a directory with entries of its own. What has gone meanwhile is none.
fn give_entry(directory: BorrowedFd<'_>, name: &CStr, group: u32, device: u64) -> rustix::io::Result<bool> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let entry = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(false),
        opened => opened?,
    };
    let found = rustix::fs::fstat(&entry)?;
    if found.st_dev != device {
        return Ok(false);
    }
    if let Err(error) = rustix::fs::chownat(&entry, c"", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH) {
        tracing::error!(%error, entry = %name.to_string_lossy(), "Lchown failed");
    }
    let kind = FileType::from_raw_mode(found.st_mode);
    let more = match kind {
        FileType::Symlink => return Ok(false),
        FileType::Directory => 0o2770,
        _ => 0o660,
    };
    // An open path has no mode of its own to change; by way of /proc it leads to what was opened, whatever it is called by now.
    let itself = format!("/proc/self/fd/{}", entry.as_raw_fd());
    if let Err(error) = rustix::fs::chmod(itself, Mode::from_raw_mode(found.st_mode & 0o7777 | more)) {
        tracing::error!(%error, entry = %name.to_string_lossy(), "chmod failed");
    }
    Ok(kind == FileType::Directory)
}

/// Bytes on disk and inodes of a tree, itself included, across no mount; a file with several names counts once, unless there are
/// very many such files. What goes away meanwhile, or lies deeper than a path can say, does not count.
pub(super) fn usage(path: &Path) -> Result<(u64, u64), HostError> {
    let base = rustix::fs::open(path, DIRECTORY.difference(OFlags::NOFOLLOW), Mode::empty()).context("open", path)?;
    let (mut bytes, mut inodes, mut linked) = (0, 0, BTreeSet::new());
    let mut count = |entry: rustix::fs::Stat| {
        bytes += blocks(entry.st_blocks);
        inodes += 1;
    };
    let counted = walk(base.as_fd(), |directory, name| {
        let Some(name) = name else {
            rustix::fs::fstat(directory).map(&mut count)?;
            return Ok(false);
        };
        let Ok(entry) = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else { return Ok(false) };
        if FileType::from_raw_mode(entry.st_mode) == FileType::Directory {
            return Ok(true);
        }
        let remembers = linked.len() < LINKED_MOST || linked.contains(&entry.st_ino);
        if entry.st_nlink < 2 || !remembers || linked.insert(entry.st_ino) {
            count(entry);
        }
        Ok(false)
    });
    counted.context("readdir", path)?;
    Ok((bytes, inodes))
}

/// A directory on the way down: where it lies, from where on its entries are still to be read, and those of its directories that were
/// read and not yet entered.
struct Entered {
    relative: PathBuf,
    next: Option<i64>,
    inside: Vec<CString>,
}

impl Entered {
    fn at(relative: PathBuf) -> Self {
        Self { relative, next: Some(0), inside: Vec::new() }
    }
}

/// Goes through a tree, through no link and across no mount. `visit` is shown each directory itself and then each of its entries by
/// name, and says which of these it wants to be gone into. However wide the tree is, a few names of each directory on the way down are
/// held, and one directory is open: whoever filled it must not choose how much memory that takes.
fn walk(
    base: BorrowedFd<'_>,
    mut visit: impl FnMut(BorrowedFd<'_>, Option<&CStr>) -> rustix::io::Result<bool>,
) -> rustix::io::Result<()> {
    let mut way = vec![Entered::at(PathBuf::from("."))];
    while let Some(here) = way.last_mut() {
        if let Some(name) = here.inside.pop() {
            let below = here.relative.join(OsStr::from_bytes(name.to_bytes()));
            way.push(Entered::at(below));
            continue;
        }
        let Some(from) = here.next.take() else {
            way.pop();
            continue;
        };
        let Ok(directory) = open_below(base, here.relative.as_path()) else { continue };
        let mut entries = Dir::read_from(&directory)?;
        if from == 0 {
            visit(directory.as_fd(), None)?;
        } else {
            entries.seek(from)?;
        }
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") || !visit(directory.as_fd(), Some(name))? {
                continue;
            }
            here.inside.push(name.to_owned());
            if here.inside.len() == INSIDE_MOST {
                here.next = Some(entry.offset());
                break;
            }
        }
    }
    Ok(())
}

fn blocks(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0) * 512
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::super::testing::{Scratch, may_mount};
    use super::*;

    // Issue 10, F10. Upstream: pkg/volume/volume_linux.go (changeFilePermission logs and goes on). A server that refuses is a read-only
    // filesystem here, which refuses as well.
    #[test]
    fn shared_volume_that_refuses_its_group_is_mounted_all_the_same() {
        if !may_mount() {
            return;
        }
        let scratch = Scratch::new();
        let place = scratch.path().join("volume");
        fs::create_dir(&place).unwrap();
        super::super::mounts::tmpfs(&place, None).unwrap();
        fs::create_dir(place.join("inside")).unwrap();
        rustix::mount::mount_remount(&place, rustix::mount::MountFlags::RDONLY, "").unwrap();
        let given = give_shared_to_group(&place, 4242, false);
        let group = fs::metadata(place.join("inside")).unwrap().gid();
        super::super::mounts::unmount(&place).unwrap();
        given.unwrap();
        assert_ne!(group, 4242);
    }

    #[test]
    fn removing_a_tree_does_not_follow_its_links() {
        let scratch = Scratch::new();
        scratch.put("precious/file", "x");
        scratch.put("tree/a/b", "y");
        symlink(scratch.path().join("precious"), scratch.path().join("tree/a/link")).unwrap();
        remove(&scratch.path().join("tree")).unwrap();
        remove(&scratch.path().join("tree")).unwrap();
        remove(&scratch.path().join("no/such/tree")).unwrap();
        assert_eq!(files::names(scratch.path()).unwrap(), ["precious"]);
        assert_eq!(scratch.get("precious/file"), "x");
    }

    // S26: more names than are held at once.
    #[test]
    fn directory_of_many_files_is_counted_and_removed() {
        let scratch = Scratch::new();
        let directory = scratch.path().join("many");
        fs::create_dir(&directory).unwrap();
        for number in 0..=2 * AT_ONCE {
            fs::write(directory.join(number.to_string()), "").unwrap();
        }
        assert_eq!(usage(&directory).unwrap().1, 2 * AT_ONCE as u64 + 2);
        remove(&directory).unwrap();
        assert!(!directory.exists());
    }

    // More directories than wait at once, on several levels, and between files: each is counted once, and given once.
    #[test]
    fn wide_tree_of_directories_is_gone_through_once() {
        let scratch = Scratch::new();
        let (tree, many) = (scratch.path().join("tree"), 3 * INSIDE_MOST + 1);
        let mut made = 1;
        for parent in ["", "17", "17/40", "88"] {
            let parent = tree.join(parent);
            for number in 0..many {
                fs::create_dir_all(parent.join(number.to_string())).unwrap();
                fs::write(parent.join(format!("file{number}")), "").unwrap();
                made += 2;
            }
        }
        assert_eq!(usage(&tree).unwrap().1, made as u64);
        let base = rustix::fs::open(&tree, DIRECTORY, Mode::empty()).unwrap();
        let mut entered = 0;
        walk(base.as_fd(), |directory, name| {
            entered += usize::from(name.is_none());
            let inside = |name| rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW);
            name.map_or(Ok(false), |name| Ok(FileType::from_raw_mode(inside(name)?.st_mode) == FileType::Directory))
        })
        .unwrap();
        assert_eq!(entered, 4 * many + 1);
        let group = fs::metadata(&tree).unwrap().gid();
        give_shared_to_group(&tree, group, false).unwrap();
        let is_given = |path: String| fs::metadata(tree.join(path)).unwrap().mode() & 0o2070 == 0o2070;
        assert!((0..many).all(|number| is_given(format!("17/40/{number}")) && is_given(format!("{number}"))));
    }

    #[test]
    fn tree_deeper_than_descriptors_and_paths_is_removed() {
        let scratch = Scratch::new();
        let mut inside = rustix::fs::open(scratch.path(), DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..2500 {
            rustix::fs::mkdirat(&inside, "dd", Mode::RWXU).unwrap();
            inside = rustix::fs::openat(&inside, "dd", DIRECTORY, Mode::empty()).unwrap();
        }
        remove(&scratch.path().join("dd")).unwrap();
        assert!(files::names(scratch.path()).unwrap().is_empty());
    }

    // VOL-031
    #[test]
    fn bind_mount_in_a_tree_is_not_removed_through() {
        if !may_mount() {
            return;
        }
        let scratch = Scratch::new();
        scratch.put("precious/file", "x");
        let inside = scratch.path().join("tree/mounted");
        fs::create_dir_all(&inside).unwrap();
        rustix::mount::mount_bind(scratch.path().join("precious"), &inside).unwrap();
        let outcome = remove(&scratch.path().join("tree"));
        rustix::mount::unmount(&inside, rustix::mount::UnmountFlags::empty()).unwrap();
        assert!(outcome.is_err());
        assert_eq!(scratch.get("precious/file"), "x");
    }

    // VOL-031
    #[test]
    fn file_in_a_tree_of_directories_stops_its_removal() {
        let scratch = Scratch::new();
        scratch.put("volumes/kubernetes.io~empty-dir/data/file", "x");
        assert!(remove_dirs(&scratch.path().join("volumes")).is_err());
        assert_eq!(scratch.get("volumes/kubernetes.io~empty-dir/data/file"), "x");
        fs::remove_file(scratch.path().join("volumes/kubernetes.io~empty-dir/data/file")).unwrap();
        remove_dirs(&scratch.path().join("volumes")).unwrap();
        assert!(files::names(scratch.path()).unwrap().is_empty());
    }

    // MNT-001
    #[test]
    fn group_gets_its_rights_and_directories_pass_them_on() {
        let scratch = Scratch::new();
        scratch.put("tree/file", "x");
        scratch.put("beyond", "y");
        files::chmod(&scratch.path().join("beyond"), 0o600).unwrap();
        symlink("../beyond", scratch.path().join("tree/link")).unwrap();
        let (tree, file) = (scratch.path().join("tree"), scratch.path().join("tree/file"));
        files::chmod(&tree, 0o755).unwrap();
        files::chmod(&file, 0o600).unwrap();
        // Its own group, so that no right is needed.
        let group = fs::metadata(&tree).unwrap().gid();
        give_to_group(&tree, group, true).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(fs::metadata(&tree).unwrap().mode() & 0o7777, 0o2755);
        give_to_group(&tree, group, false).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o660);
        assert_eq!(fs::metadata(&tree).unwrap().mode() & 0o7777, 0o2775);
        assert_eq!(fs::metadata(scratch.path().join("beyond")).unwrap().mode() & 0o7777, 0o600, "links are not followed");
    }

    // MNT-001: what cannot be given is no reason to keep the pod from starting; what cannot be looked at is.
    #[test]
    fn group_on_a_filesystem_that_refuses_it_is_only_logged() {
        if !may_mount() {
            return;
        }
        let scratch = Scratch::new();
        scratch.put("tree/file", "x");
        let tree = scratch.path().join("tree");
        let read_only = rustix::mount::MountFlags::RDONLY | rustix::mount::MountFlags::BIND;
        rustix::mount::mount_bind(&tree, &tree).unwrap();
        rustix::mount::mount_remount(&tree, read_only, "").unwrap();
        let outcome = give_to_group(&tree, 4711, false);
        let group = fs::metadata(tree.join("file")).unwrap().gid();
        rustix::mount::unmount(&tree, rustix::mount::UnmountFlags::empty()).unwrap();
        outcome.unwrap();
        assert_ne!(group, 4711);
        assert!(give_to_group(&scratch.path().join("none"), 4711, false).is_err());
    }

    // MNT-001: whoever finds the root given finds all of it given.
    #[test]
    fn root_of_a_tree_is_given_last() {
        let scratch = Scratch::new();
        scratch.put("tree/inner/file", "x");
        let (tree, inner) = (scratch.path().join("tree"), scratch.path().join("tree/inner"));
        let group = fs::metadata(&tree).unwrap().gid();
        let changed = |path: &Path| {
            let meta = fs::metadata(path).unwrap();
            (meta.ctime(), meta.ctime_nsec())
        };
        give_to_group(&tree, group, false).unwrap();
        assert!(changed(&inner.join("file")) <= changed(&inner) && changed(&inner) <= changed(&tree));
        assert_eq!(fs::metadata(&inner).unwrap().mode() & 0o2070, 0o2070);
    }

    // CSI-013: what a container put there leads nowhere else; the root tells that it was done.
    #[test]
    fn shared_tree_is_given_to_its_group_without_following_links() {
        let scratch = Scratch::new();
        scratch.put("tree/deep/file", "x");
        scratch.put("outside", "precious");
        let (tree, outside) = (scratch.path().join("tree"), scratch.path().join("outside"));
        let file = tree.join("deep/file");
        symlink(&outside, tree.join("link")).unwrap();
        for path in [&file, &outside] {
            files::chmod(path, 0o600).unwrap();
        }
        let group = fs::metadata(&tree).unwrap().gid();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        give_shared_to_group(&tree, group, true).unwrap();
        assert_eq!((mode(&tree) & 0o2070, mode(&tree.join("deep")) & 0o2070), (0o2070, 0o2070));
        assert_eq!((mode(&file), mode(&outside)), (0o660, 0o600));
        files::chmod(&file, 0o600).unwrap();
        give_shared_to_group(&tree, group, true).unwrap();
        assert_eq!(mode(&file), 0o600, "the root said that all was done");
        give_shared_to_group(&tree, group, false).unwrap();
        assert_eq!(mode(&file), 0o660);
    }

    #[test]
    fn file_with_two_names_counts_once() {
        let scratch = Scratch::new();
        scratch.put("tree/a", "x");
        let before = usage(&scratch.path().join("tree")).unwrap();
        assert_eq!(before.1, 2);
        fs::hard_link(scratch.path().join("tree/a"), scratch.path().join("tree/b")).unwrap();
        assert_eq!(usage(&scratch.path().join("tree")).unwrap().1, 2);
        scratch.put("tree/sub/c", "y");
        assert_eq!(usage(&scratch.path().join("tree")).unwrap().1, 4);
    }
}
