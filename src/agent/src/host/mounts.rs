//! What is mounted where, and the few mounts that an agent makes itself.
//! Upstream: k8s.io/mount-utils (mount_linux.go), pkg/volume/util/hostutil (MakeRShared).
//! Differs: system calls instead of mount(8); no mount is ever lazily detached.

use std::ffi::{CString, OsString};
use std::fs;
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use super::error::{Context as _, HostError, unless_missing};

/// One mount of this process's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// The filesystem, as major and minor number: the same wherever it is mounted.
    pub(super) device: String,
    pub(super) point: PathBuf,
    pub(super) filesystem: String,
    /// Whether mounts made in it show elsewhere.
    pub(super) shared: bool,
    /// The filesystem's own options.
    pub(super) options: String,
}

/// Everything that is mounted, in the order of mounting.
pub(super) fn table() -> Result<Vec<Mount>, HostError> {
    let path = Path::new("/proc/self/mountinfo");
    Ok(parse(&fs::read(path).context("open", path)?))
}

/// The table is bytes: a mount point may have any name.
fn parse(table: &[u8]) -> Vec<Mount> {
    let mount = |line: &[u8]| {
        let mut fields = line.split(|byte| *byte == b' ');
        let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
        let device = text(fields.nth(2)?);
        let point = unescape(fields.nth(1)?);
        let tags: Vec<&[u8]> = fields.by_ref().skip(1).take_while(|field| *field != b"-").collect();
        let shared = tags.iter().any(|tag| tag.starts_with(b"shared:"));
        let filesystem = text(fields.next()?);
        Some(Mount { device, point, shared, filesystem, options: fields.nth(1).map(text).unwrap_or_default() })
    };
    table.split(|byte| *byte == b'\n').filter_map(mount).collect()
}

/// The kernel writes blanks as `\040`.
fn unescape(bytes: &[u8]) -> PathBuf {
    let (mut plain, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let escaped = bytes.get(at + 1..at + 4).filter(|_| bytes[at] == b'\\');
        match escaped.and_then(|d| std::str::from_utf8(d).ok()).and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                at += 4;
            }
            None => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    PathBuf::from(OsString::from_vec(plain))
}

/// A path as the mount table has it: links above the last component resolved. As it is if there is nothing there.
fn canonical(path: &Path) -> PathBuf {
    let parent = path.parent().and_then(|p| fs::canonicalize(p).ok());
    match (parent, path.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => path.to_owned(),
    }
}

/// What is mounted exactly there, the visible one of several.
pub(super) fn at(path: &Path) -> Result<Option<Mount>, HostError> {
    let path = canonical(path);
    Ok(table()?.into_iter().rfind(|m| m.point == path))
}

/// The points of all mounts there and below.
pub(super) fn below(path: &Path) -> Result<Vec<PathBuf>, HostError> {
    let path = canonical(path);
    Ok(table()?.into_iter().filter(|m| m.point.starts_with(&path)).map(|m| m.point).collect())
}

/// The mount that a path lies on.
pub(super) fn holding(path: &Path) -> Result<Option<Mount>, HostError> {
    let path = fs::canonicalize(path).context("realpath", path)?;
    Ok(by_its_text(&table()?, &path).cloned())
}

/// The mount that a path without links lies on, of several at one place the visible one.
fn by_its_text<'a>(table: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    table.iter().filter(|m| path.starts_with(&m.point)).max_by_key(|m| m.point.components().count())
}

/// The filesystem that a path lies on by its text, if it is another than the root's and than that of `own`. Nothing is looked at but the
/// table, for the filesystem may be one that hangs.
pub(super) fn foreign(path: &Path, own: &Path) -> Option<String> {
    foreign_in(&table().ok()?, path, own)
}

fn foreign_in(table: &[Mount], path: &Path, own: &Path) -> Option<String> {
    let on = |path: &Path| by_its_text(table, path).map(|mount| &mount.device);
    on(path).filter(|device| Some(*device) != on(own) && Some(*device) != on(Path::new("/"))).cloned()
}

/// Mounts of tmpfs on this kernel are kept from swap if it can do that (VTY-002); tried once.
static NO_SWAP_OPTION: AtomicBool = AtomicBool::new(false);

/// Mounts a tmpfs, its root open to all and sticky, of at most `size` bytes, kept from swap where the kernel can.
pub(super) fn tmpfs(path: &Path, size: Option<u64>) -> Result<(), HostError> {
    let size = size.map(|s| format!("size={s}"));
    let with_size = |first: Option<&str>| first.into_iter().chain(size.as_deref()).collect::<Vec<_>>().join(",");
    if !NO_SWAP_OPTION.load(Ordering::Relaxed) && !in_user_namespace() {
        match mount("tmpfs", path, &with_size(Some("noswap"))) {
            Err(Errno::INVAL) => NO_SWAP_OPTION.store(true, Ordering::Relaxed),
            outcome => return outcome.context("mount tmpfs on", path),
        }
    }
    mount("tmpfs", path, &with_size(None)).context("mount tmpfs on", path)
}

/// Whether a tmpfs of this kernel can be kept from swap (NODE-146). Nothing is mounted.
pub(super) fn tmpfs_stays_in_memory() -> bool {
    let context = rustix::mount::fsopen("tmpfs", rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC);
    !in_user_namespace() && context.is_ok_and(|context| rustix::mount::fsconfig_set_flag(context, "noswap").is_ok())
}

fn in_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"]
}

/// Mounts huge pages of that size in bytes, at most `size` bytes of them (VTY-003).
pub(super) fn hugetlbfs(path: &Path, page_size: u64, size: Option<u64>) -> Result<(), HostError> {
    let size = size.map(|s| format!(",size={s}")).unwrap_or_default();
    mount("hugetlbfs", path, &format!("pagesize={page_size}{size}")).context("mount hugetlbfs on", path)
}

fn mount(filesystem: &str, path: &Path, options: &str) -> rustix::io::Result<()> {
    let source = if filesystem == "hugetlbfs" { "nodev" } else { filesystem };
    let options = CString::new(options).map_err(|_| Errno::INVAL)?;
    rustix::mount::mount(source, path, filesystem, MountFlags::empty(), options.as_c_str())
}

/// Shows an open file or directory at another place, wherever it has been moved meanwhile.
pub(super) fn bind(open: impl AsFd, at: &Path) -> Result<(), HostError> {
    let source = format!("/proc/self/fd/{}", open.as_fd().as_raw_fd());
    rustix::mount::mount_bind(source, at).context("bind mount on", at)
}

/// Takes away everything that is mounted exactly there. Nothing mounted is no failure.
pub(super) fn unmount(path: &Path) -> Result<(), HostError> {
    while at(path)?.is_some() {
        unless_missing(rustix::mount::unmount(path, UnmountFlags::NOFOLLOW).context("unmount", path))?;
    }
    Ok(())
}

/// Makes mounts below a directory show in containers' namespaces and back (NODE-005).
pub(super) fn make_shared(path: &Path) -> Result<(), HostError> {
    match holding(path)? {
        None => Err(HostError::Unfit(format!("path {:?} is not on any mount", path.display()))),
        Some(mount) if mount.shared => Ok(()),
        Some(_) => {
            rustix::mount::mount_bind(path, path).context("bind mount on", path)?;
            let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
            rustix::mount::mount_change(path, shared).context("make rshared", path)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::super::testing::{Scratch, may_mount};
    use super::*;

    const TABLE: &str = "\
25 0 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
90 25 0:40 / /var/lib/my\\040kubelet/v rw,relatime - tmpfs tmpfs rw,size=64k
";

    #[test]
    fn mount_table_is_read_with_its_escapes() {
        let mounts = parse(TABLE.as_bytes());
        assert_eq!((mounts[0].point.as_path(), mounts[0].shared), (Path::new("/"), true));
        assert_eq!(mounts[1].point, Path::new("/var/lib/my kubelet/v"));
        assert_eq!((mounts[1].filesystem.as_str(), mounts[1].options.as_str(), mounts[1].shared), ("tmpfs", "rw,size=64k", false));
    }

    // Issue 10, S6: one server's directories are one filesystem, wherever they are mounted.
    #[test]
    fn filesystem_of_a_path_is_known_without_asking_it() {
        let nfs = "92 25 0:50 / /srv/a rw - nfs4 x:/ rw\n93 25 0:50 /b /srv/b rw - nfs4 x:/ rw\n94 25 8:2 / /var/lib/kubelet rw - ext4 /dev/sda2 rw\n";
        let table = parse([TABLE, nfs].concat().as_bytes());
        let on = |path: &str| foreign_in(&table, Path::new(path), Path::new("/var/lib/kubelet"));
        assert_eq!((on("/srv/a/x").as_deref(), on("/srv/b").as_deref(), on("/srv/ab")), (Some("0:50"), Some("0:50"), None));
        assert_eq!((on("/"), on("/var/lib/kubelet/pods/u1"), on("/var/lib/my kubelet/v/x").as_deref()), (None, None, Some("0:40")));
    }

    // Issue 10, S15: one strange name hides neither itself nor the others.
    #[test]
    fn mount_point_need_not_be_text() {
        let mut table = b"91 25 0:41 / /media/usb\xff rw - tmpfs tmpfs rw\n".to_vec();
        table.extend(TABLE.as_bytes());
        let mounts = parse(&table);
        assert_eq!(mounts.len(), 3);
        assert_eq!(mounts[0].point.as_os_str().as_encoded_bytes(), b"/media/usb\xff");
        assert_eq!((mounts[0].filesystem.as_str(), mounts[0].options.as_str(), mounts[0].shared), ("tmpfs", "rw", false));
    }

    // VTY-002
    #[test]
    fn tmpfs_is_bounded_open_and_goes_away() {
        if !may_mount() {
            return;
        }
        let scratch = Scratch::new();
        tmpfs(scratch.path(), Some(1 << 20)).unwrap();
        tmpfs(scratch.path(), None).unwrap();
        let mode = fs::metadata(scratch.path()).unwrap().permissions().mode() & 0o7777;
        let found = at(scratch.path()).unwrap().unwrap();
        unmount(scratch.path()).unwrap();
        assert_eq!((mode, found.filesystem.as_str()), (0o1777, "tmpfs"));
        assert_eq!(at(scratch.path()).unwrap(), None);
        unmount(scratch.path()).unwrap();
    }

    // MNT-012
    #[test]
    fn what_is_bound_is_what_was_opened() {
        if !may_mount() {
            return;
        }
        let scratch = Scratch::new();
        scratch.put("source/file", "x");
        let (source, target) = (scratch.path().join("source"), scratch.path().join("target"));
        fs::create_dir(&target).unwrap();
        let open = fs::File::open(&source).unwrap();
        fs::rename(&source, scratch.path().join("moved")).unwrap();
        bind(&open, &target).unwrap();
        let (bound, inside) = (fs::metadata(&target).unwrap().ino(), below(scratch.path()).unwrap());
        unmount(&target).unwrap();
        assert_eq!(bound, open.metadata().unwrap().ino());
        assert_eq!(inside.len(), 1);
    }

    // NODE-005, DIR-001
    #[test]
    fn root_directory_is_shared_once() {
        if !may_mount() {
            return;
        }
        let scratch = Scratch::new();
        make_shared(scratch.path()).unwrap();
        let mounted = below(scratch.path()).unwrap().len();
        make_shared(scratch.path()).unwrap();
        let again = below(scratch.path()).unwrap().len();
        let shared = holding(scratch.path()).unwrap().unwrap().shared;
        unmount(scratch.path()).unwrap();
        assert_eq!((mounted, shared), (again, true));
    }

    // S15: a container with the right to mount chooses what mountinfo says.
    #[test]
    fn mangled_mountinfo_is_read_as_far_as_it_goes() {
        let seed =
            b"36 35 98:0 /mnt1 /mnt2\\040\\134\\777 rw,noatime master:1 - ext3 /dev/root rw\n37 36 0:5 / /a\xff rw - tmpfs t rw";
        crate::mangled::each("mountinfo", &[seed, b"\\04", b"1 2 3:4 / / - - - -\n"], |input| {
            assert!(parse(input).len() <= input.len());
            let _path = unescape(input);
        });
    }
}
