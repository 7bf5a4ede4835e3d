//! The mark that outlives the process: which pod it worked for when it died, and how often in a row lives died so.
//! Upstream: none; a kubelet that dies of a pod dies of it again.
//! Differs: by design. The mark is a few bytes in `/run`, written for each pod that is worked for and never synced: it has to survive the
//! process, not the machine, and memory of the kernel never keeps the loop waiting. What is made of it at the next start is rare, and
//! lies fsynced in the root directory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use kubelet::ids::PodUid;
use rustix::fs::OFlags;

use super::error::{Context as _, HostError};
use super::files;
use super::layout::Layout;

/// The longest UID that is noted; the API server's have 36 bytes.
const LONGEST: usize = 253;
/// How many pods are remembered, those of the most deaths first.
const MOST: usize = 64;
/// How much of either file is read.
const MOST_READ: u64 = 64 << 10;
const SUSPECTS: &str = "suspects";

/// The mark of this process.
#[derive(Debug, Default)]
pub(super) struct Mark(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// None until the one before was read, or if it cannot be had.
    file: Option<File>,
    pod: Option<PodUid>,
}

impl Mark {
    /// Notes for whom it is worked.
    pub(super) fn set(&self, pod: Option<&PodUid>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.pod.as_ref() == pod {
            return;
        }
        state.pod = pod.cloned();
        if let Some(file) = &state.file {
            // One write, so that it is whole or not there. Without it the next life knows less; there is nothing else to be done.
            let _ = file.write_all_at(&line(pod), 0);
        }
    }

    /// Takes over from the life before: what it died of, with how often in a row.
    pub(super) fn take_over(&self, layout: &Layout) -> Result<Vec<(PodUid, u32)>, HostError> {
        let path = path(layout)?;
        if let Some(directory) = path.parent() {
            files::make_dirs(directory, 0o700)?;
        }
        let file = open_own(&path)?;
        let died_of = pod_of(&bounded(&file).context("read", &path)?);
        let memory = layout.root()?.join(SUSPECTS);
        let mut suspects = if died_of.is_some() { read(&memory) } else { BTreeMap::new() };
        if let Some(pod) = died_of {
            let deaths: &mut u32 = suspects.entry(pod).or_default();
            *deaths = deaths.saturating_add(1);
        }
        let mut suspects: Vec<(PodUid, u32)> = suspects.into_iter().collect();
        suspects.sort_by_key(|(_, deaths)| std::cmp::Reverse(*deaths));
        suspects.truncate(MOST);
        if suspects.is_empty() {
            if let Err(error) = std::fs::remove_file(&memory)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                return Err(error).context("remove", &memory);
            }
        } else {
            files::make_dirs(&layout.root()?, 0o750)?;
            let text: String = suspects.iter().map(|(pod, deaths)| format!("{deaths} {pod}\n")).collect();
            files::write_whole(&memory, text.as_bytes(), 0o600)?;
        }
        file.write_all_at(&line(None), 0).context("write", &path)?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).file = Some(file);
        Ok(suspects)
    }
}

/// What lies at the mark's place and is no file, such as a link, is of no life of ours: it goes, and what it leads to stays as it is.
fn open_own(path: &Path) -> Result<File, HostError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW;
    let opened = files::open(path, flags, 0o600);
    if opened.as_ref().is_ok_and(|file| file.metadata().is_ok_and(|found| found.is_file())) {
        return opened;
    }
    std::fs::remove_file(path).context("remove", path)?;
    files::open(path, flags | OFlags::EXCL, 0o600)
}

/// One mark for each root directory: several agents may run on one machine.
fn path(layout: &Layout) -> Result<PathBuf, HostError> {
    let name: String = layout.kubelet_root.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    layout.at(&format!("/run/keelson/works-for{name}"))
}

fn line(pod: Option<&PodUid>) -> [u8; LONGEST + 1] {
    let mut line = [b' '; LONGEST + 1];
    let uid = pod.map_or("", PodUid::as_str).as_bytes();
    if let Some(place) = line.get_mut(..uid.len()).filter(|place| place.len() <= LONGEST) {
        place.copy_from_slice(uid);
    }
    line[LONGEST] = b'\n';
    line
}

fn bounded(file: &File) -> std::io::Result<String> {
    let mut text = Vec::new();
    if file.metadata()?.is_file() {
        file.take(MOST_READ).read_to_end(&mut text)?;
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn pod_of(text: &str) -> Option<PodUid> {
    let uid = text.lines().next()?.trim();
    (!uid.is_empty() && uid.len() <= LONGEST && uid.chars().all(|c| c.is_ascii_graphic())).then(|| PodUid::new(uid))
}

/// What is not readable counts as nothing: at worst a pod is tried once more.
fn read(path: &Path) -> BTreeMap<PodUid, u32> {
    let Ok(file) = files::open(path, OFlags::RDONLY | OFlags::NOFOLLOW, 0) else { return BTreeMap::new() };
    let text = bounded(&file).unwrap_or_default();
    let entries = text.lines().take(MOST).filter_map(|line| {
        let (deaths, uid) = line.split_once(' ')?;
        Some((pod_of(uid)?, deaths.parse().ok()?))
    });
    entries.collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::Scratch;
    use super::*;

    fn life(scratch: &Scratch) -> (Mark, Vec<(PodUid, u32)>) {
        let mark = Mark::default();
        let suspects = mark.take_over(&scratch.layout()).unwrap();
        (mark, suspects)
    }

    #[test]
    fn next_life_knows_of_which_pod_the_last_one_died() {
        let scratch = Scratch::new();
        let (a, b) = (PodUid::new("aaaaaaaa-1"), PodUid::new("b"));
        let (mark, suspects) = life(&scratch);
        assert_eq!(suspects, []);
        mark.set(Some(&a));
        let (mark, suspects) = life(&scratch);
        assert_eq!(suspects, [(a.clone(), 1)]);
        // A shorter one leaves nothing of the one before.
        mark.set(Some(&a));
        mark.set(Some(&b));
        let (mark, suspects) = life(&scratch);
        assert_eq!(suspects, [(a.clone(), 1), (b.clone(), 1)]);
        mark.set(Some(&a));
        let (mark, suspects) = life(&scratch);
        assert_eq!(suspects, [(a.clone(), 2), (b, 1)]);
        // Whoever ends while nobody is worked for did not die of anybody.
        mark.set(Some(&a));
        mark.set(None);
        assert_eq!(life(&scratch).1, []);
        assert!(!scratch.path().join("var/lib/kubelet/suspects").exists());
    }

    #[test]
    fn mark_that_is_a_link_or_nonsense_is_not_followed_or_believed() {
        let scratch = Scratch::new();
        scratch.put("victim", "as it was");
        scratch.put("run/keelson/other", "");
        let path = path(&scratch.layout()).unwrap();
        std::os::unix::fs::symlink(scratch.path().join("victim"), &path).unwrap();
        assert_eq!(life(&scratch).1, []);
        assert_eq!(scratch.get("victim"), "as it was");
        life(&scratch).0.set(Some(&PodUid::new("u")));
        assert_eq!(life(&scratch).1, [(PodUid::new("u"), 1)], "the mark is one again");
        for nonsense in ["\0\0\0", "a b c", &"x".repeat(100_000), "\n\nu", ""] {
            std::fs::write(&path, nonsense).unwrap();
            assert_eq!(life(&scratch).1, [], "{nonsense:.10}");
        }
        std::fs::write(&path, "u\n").unwrap();
        scratch.put("var/lib/kubelet/suspects", "many v\n4294967295 u\n7 \n");
        assert_eq!(life(&scratch).1, [(PodUid::new("u"), u32::MAX)]);
    }

    #[test]
    fn mangled_mark_names_a_pod_or_nobody() {
        crate::mangled::each("mark", &[b"0d1c2b3a-0000-4000-8000-000000000000\n", b"../x", b"\n"], |input| {
            let named = pod_of(&crate::mangled::text(input));
            assert!(named.is_none_or(|pod| line(Some(&pod)).len() == LONGEST + 1));
        });
    }
}
