//! A few files of the machine's owner, and the kernel's hint that they may be others by now.
//! Upstream: k8s.io/apiserver/pkg/server/dynamiccertificates (watchCAFile, watchCertKeyFile).
//! Differs: links on the way to a file are watched too, so that a volume's swap of its `..data` is seen at once.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::stream::BoxStream;
use rustix::fs::inotify::WatchFlags;

use super::inotify::Watched;
use super::{files, spawn};

/// As many links as the kernel follows.
const MOST_LINKS: usize = 40;

/// Reads files of at most 10 MiB each, in that order, each with why it could not be read, and gives a hint whenever one may have changed
/// since; the hints end where the kernel has none. A hung disk holds one thread.
///
/// # Errors
/// If reading came to no end.
pub async fn read_watched(paths: Arc<[PathBuf]>) -> Result<(Vec<Result<Vec<u8>, String>>, BoxStream<'static, ()>), String> {
    // One for each reading: what was watched for a file that is gone goes with it.
    let watched = Watched::new();
    let read = spawn(move || {
        // Before they are read, so that nothing is missed.
        paths.iter().for_each(|path| watch(&watched, path));
        let contents = paths.iter().map(|path| files::read(path).map_err(|error| error.to_string())).collect();
        (contents, watched)
    });
    let (contents, watched) = read.await.map_err(|error| error.to_string())?;
    Ok((contents, watched.changes()))
}

/// The file itself, for who writes into it, and each directory in which a name on the way to it may become another's.
fn watch(watched: &Watched, path: &Path) {
    let content =
        WatchFlags::MODIFY | WatchFlags::CLOSE_WRITE | WatchFlags::ATTRIB | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
    watched.add(path, content);
    let mut name = path.to_owned();
    for _ in 0..MOST_LINKS {
        let Some(directory) = name.parent() else { return };
        watched.add(directory, WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVE);
        let Ok(target) = std::fs::read_link(&name) else { return };
        name = directory.join(target);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use futures::StreamExt as _;

    use super::super::testing::Scratch;
    use super::*;

    // API-171: each way in which a file becomes another is told, without waiting for the next look.
    #[tokio::test]
    async fn whatever_changes_a_file_is_told() {
        let scratch = Scratch::new();
        let at = |name: &str| scratch.path().join(name);
        fs::create_dir(at("a")).unwrap();
        fs::create_dir(at("b")).unwrap();
        fs::write(at("a/file"), "a").unwrap();
        fs::write(at("b/file"), "b").unwrap();
        symlink("a", at("..data")).unwrap();
        symlink("..data/file", at("file")).unwrap();
        symlink(at("file"), at("far")).unwrap();
        let ways: [(&str, &dyn Fn()); 4] = [
            ("written in place", &|| fs::write(at("a/file"), "c").unwrap()),
            ("renamed over", &|| {
                fs::write(at("a/new"), "d").unwrap();
                fs::rename(at("a/new"), at("a/file")).unwrap();
            }),
            ("a directory's link", &|| {
                symlink("b", at("..tmp")).unwrap();
                fs::rename(at("..tmp"), at("..data")).unwrap();
            }),
            ("gone", &|| fs::remove_file(at("b/file")).unwrap()),
        ];
        for name in ["far", "file"] {
            let _ = fs::remove_file(at("..data"));
            symlink("a", at("..data")).unwrap();
            fs::write(at("a/file"), "a").unwrap();
            fs::write(at("b/file"), "b").unwrap();
            for (what, change) in ways {
                let (contents, mut changes) = read_watched([at(name)].into()).await.unwrap();
                assert!(contents[0].is_ok(), "before {what}");
                change();
                assert!(changes.next().await.is_some(), "{what}");
            }
        }
        // A name that is not there yet.
        let (contents, mut changes) = read_watched([at("later")].into()).await.unwrap();
        assert!(contents[0].is_err());
        fs::write(at("later"), "there").unwrap();
        assert!(changes.next().await.is_some());
    }
}
