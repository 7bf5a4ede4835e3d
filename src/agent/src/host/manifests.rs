//! The files at the static pod path, and the kernel's hints that they may be others by now.
//! Upstream: pkg/kubelet/config/file.go (extractFromDir, extractFromFile), pkg/kubelet/config/file_linux.go.
//! Differs: at most 1000 files are read, of at most 64 MiB together; what is beyond is told, as any other file that cannot be read.

use std::path::Path;

use futures::stream::BoxStream;
use kubelet::event::Manifest;
use rustix::fs::inotify::WatchFlags;

use super::error::{Context as _, HostError};
use super::files;
use super::inotify::Watched;

/// How many files are read.
const MOST_FILES: usize = 1000;
/// How many bytes are read of all of them.
const MOST_BYTES: usize = 64 << 20;

/// The static pod path, and what watches it.
#[derive(Debug)]
pub(super) struct Manifests {
    watched: Watched,
}

impl Manifests {
    pub(super) fn new() -> Self {
        Self { watched: Watched::new() }
    }

    /// A hint whenever something changed at a path that was read; ends if the kernel cannot be asked.
    pub(super) fn changes(&self) -> BoxStream<'static, ()> {
        self.watched.changes()
    }

    /// The manifests in a directory, in order, or the one that the path is (POD-007). Its path as the core knows it is `name`. Links
    /// are followed, directories are not, and hidden files do not count.
    pub(super) fn read(&self, path: &Path, name: &str) -> Result<Vec<Manifest>, HostError> {
        // Before it is read, so that nothing is missed.
        let changes = WatchFlags::CREATE | WatchFlags::MODIFY | WatchFlags::ATTRIB | WatchFlags::DELETE | WatchFlags::MOVE;
        self.watched.add(path, changes | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF);
        let found = match std::fs::metadata(path).context("stat", path) {
            Ok(found) => found,
            Err(error) if error.is_not_found() => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        if found.is_file() {
            return Ok(read(path, name.to_owned()).into_iter().collect());
        }
        if !found.is_dir() {
            return Err(HostError::Unfit("path is not a directory or file".to_owned()));
        }
        let (mut manifests, mut left) = (Vec::new(), MOST_BYTES);
        for entry in files::names(path)?.into_iter().filter(|entry| !entry.starts_with('.')) {
            let (path, name) = (path.join(&entry), format!("{}/{entry}", name.trim_end_matches('/')));
            let Ok(found) = std::fs::metadata(&path).context("stat", &path) else { continue };
            if found.is_dir() {
                continue;
            }
            if manifests.len() == MOST_FILES {
                let why = format!("there are more than {MOST_FILES} manifests: this and those after it are not read");
                manifests.push(Manifest { path: name, contents: Err(why) });
                break;
            }
            let Some(mut manifest) = read(&path, name) else { continue };
            let size = manifest.contents.as_ref().map_or(0, Vec::len);
            if size > left {
                manifest.contents = Err(format!("the manifests before it and this one take more than {MOST_BYTES} bytes"));
            } else {
                left -= size;
            }
            manifests.push(manifest);
        }
        Ok(manifests)
    }
}

/// `None` if it has gone since it was seen: then it was never there.
fn read(path: &Path, name: String) -> Option<Manifest> {
    let contents = match files::read(path) {
        Err(error) if error.is_not_found() => return None,
        contents => contents.map_err(|error| error.to_string()),
    };
    Some(Manifest { contents, path: name })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use futures::StreamExt as _;

    use super::super::testing::Scratch;
    use super::*;

    const NAME: &str = "/etc/kubernetes/manifests/";

    fn told(manifests: &[Manifest]) -> Vec<(&str, &[u8])> {
        let contents = |manifest: &'_ Manifest| manifest.contents.clone().unwrap_or_default().leak() as &[u8];
        manifests.iter().map(|manifest| (manifest.path.as_str(), contents(manifest))).collect()
    }

    // POD-007: a missing path is an empty set, and no error.
    #[test]
    fn missing_and_empty_paths_have_no_manifests() {
        let scratch = Scratch::new();
        assert_eq!(Manifests::new().read(&scratch.path().join("nowhere"), NAME).unwrap(), []);
        fs::create_dir(scratch.path().join("empty")).unwrap();
        assert_eq!(Manifests::new().read(&scratch.path().join("empty"), NAME).unwrap(), []);
    }

    // POD-007: pkg/kubelet/config/file.go stats, so links are followed; it globs for what has no dot first, and does not recurse.
    #[test]
    fn files_and_links_are_read_and_the_rest_is_not() {
        let scratch = Scratch::new();
        let directory = scratch.path().join("manifests");
        fs::create_dir_all(directory.join("deep")).unwrap();
        fs::write(directory.join("deep/a.yaml"), "deep").unwrap();
        fs::write(directory.join(".hidden.yaml"), "hidden").unwrap();
        fs::write(scratch.path().join("elsewhere"), "linked").unwrap();
        symlink(scratch.path().join("elsewhere"), directory.join("b")).unwrap();
        symlink("gone", directory.join("dangling")).unwrap();
        fs::write(directory.join("a.json"), "{}").unwrap();
        let read = Manifests::new().read(&directory, NAME).unwrap();
        let expected: [(&str, &[u8]); 2] =
            [("/etc/kubernetes/manifests/a.json", b"{}"), ("/etc/kubernetes/manifests/b", b"linked")];
        assert_eq!(told(&read), expected);
        let one = Manifests::new().read(&directory.join("a.json"), "/a.json").unwrap();
        assert_eq!(told(&one), [("/a.json", b"{}".as_slice())]);
    }

    // POD-007: pkg/kubelet/config/file.go (extractFromDir): one that vanishes while it is read is no error.
    #[test]
    fn a_file_that_vanishes_was_never_there() {
        let scratch = Scratch::new();
        assert_eq!(read(&scratch.path().join("gone"), "gone".to_owned()), None);
    }

    // POD-007: at most 10 MiB; a pipe never blocks.
    #[test]
    fn what_cannot_be_read_is_told_by_name() {
        let scratch = Scratch::new();
        let directory = scratch.path().join("manifests");
        fs::create_dir(&directory).unwrap();
        fs::File::create(directory.join("big")).unwrap().set_len((10 << 20) + 1).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, directory.join("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let read = Manifests::new().read(&directory, NAME).unwrap();
        let wrong: Vec<_> = read.iter().map(|manifest| manifest.contents.as_ref().unwrap_err().as_str()).collect();
        assert!(wrong[0].ends_with("the read limit is reached"), "{wrong:?}");
        assert!(wrong[1].ends_with("not a regular file"), "{wrong:?}");
    }

    #[test]
    fn number_and_size_of_manifests_are_bounded() {
        let scratch = Scratch::new();
        let directory = scratch.path().join("many");
        fs::create_dir(&directory).unwrap();
        (0..1010).for_each(|n| fs::write(directory.join(format!("{n:04}")), "x").unwrap());
        let read = Manifests::new().read(&directory, NAME).unwrap();
        assert_eq!((read.len(), read.iter().filter(|m| m.contents.is_ok()).count()), (1001, 1000));
        let directory = scratch.path().join("large");
        fs::create_dir(&directory).unwrap();
        (0..8).for_each(|n| fs::File::create(directory.join(n.to_string())).unwrap().set_len(9 << 20).unwrap());
        let read = Manifests::new().read(&directory, NAME).unwrap();
        assert_eq!((read.len(), read.iter().filter(|m| m.contents.is_ok()).count()), (8, 7));
    }

    // POD-007: create, write, rename and removal are told of.
    #[tokio::test]
    async fn changes_after_a_reading_are_hinted_at() {
        let scratch = Scratch::new();
        let directory = scratch.path().join("manifests");
        fs::create_dir(&directory).unwrap();
        let manifests = Manifests::new();
        let mut changes = manifests.changes();
        manifests.read(&directory, NAME).unwrap();
        fs::write(directory.join("a"), "1").unwrap();
        changes.next().await.unwrap();
        fs::write(directory.join("a"), "2").unwrap();
        changes.next().await.unwrap();
        fs::rename(directory.join("a"), directory.join("b")).unwrap();
        changes.next().await.unwrap();
        fs::remove_file(directory.join("b")).unwrap();
        changes.next().await.unwrap();
    }
}
