//! What is heard while cases run: each version of pods and events from the API server, and what containerd says of its containers.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::super::seen::Seen;
use super::record::Record;

/// How long one look at what was written is from the next.
const PERIOD: Duration = Duration::from_millis(20);
/// How long a record may take to be read.
const PATIENCE: Duration = Duration::from_secs(8);
/// How many records are read side by side.
const READERS: usize = 2;

/// What is seen of one case, and a bell for news of it.
pub(super) struct Listener {
    seen: Mutex<Seen>,
    bell: Condvar,
}

/// What containerd told: the topic, whose it is, and the rest.
struct Told {
    topic: String,
    id: String,
    rest: Value,
}

/// Containers by their IDs, and all that happened to them.
#[derive(Default)]
struct Runtime {
    told: Vec<Told>,
    records: BTreeMap<String, Record>,
    unread: usize,
}

/// The ears, for all cases at once.
pub(super) struct Ears {
    listeners: Mutex<BTreeMap<String, Arc<Listener>>>,
    runtime: Mutex<Runtime>,
    to_read: Mutex<Option<Sender<String>>>,
    over: AtomicBool,
    ctr: (PathBuf, PathBuf),
}

impl Listener {
    /// All that was seen.
    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    /// Waits until something holds of it; whether it did before the end.
    pub(super) fn wait(&self, end: Instant, holds: impl Fn(&Seen) -> bool) -> bool {
        let mut seen = self.seen();
        while !holds(&seen) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            seen = self.bell.wait_timeout(seen, left).map_or_else(|error| error.into_inner().0, |(seen, _)| seen);
        }
        true
    }
}

impl Ears {
    /// Listens with that `ctr` on that socket to what is written to those files: pods, events, and what containerd says.
    pub(super) fn open(ctr: &Path, socket: &Path, files: [(&'static str, PathBuf); 3]) -> Arc<Self> {
        let (to_read, jobs) = channel();
        let ears = Arc::new(Self {
            listeners: Mutex::default(),
            runtime: Mutex::default(),
            to_read: Mutex::new(Some(to_read)),
            over: AtomicBool::new(false),
            ctr: (ctr.to_path_buf(), socket.to_path_buf()),
        });
        let jobs = Arc::new(Mutex::new(jobs));
        for _ in 0..READERS {
            let (ears, jobs) = (Arc::clone(&ears), Arc::clone(&jobs));
            std::thread::spawn(move || ears.read_records(&jobs));
        }
        let listening = Arc::clone(&ears);
        std::thread::spawn(move || listening.listen(files));
        ears
    }

    /// Hears no more.
    pub(super) fn close(&self) {
        self.over.store(true, Ordering::Relaxed);
        lock(&self.to_read).take();
    }

    /// Listens for a case, in its namespace.
    pub(super) fn begin(&self, namespace: &str) -> Arc<Listener> {
        let listener = Arc::new(Listener { seen: Mutex::new(Seen::of(namespace, 0)), bell: Condvar::new() });
        lock(&self.listeners).insert(namespace.to_owned(), Arc::clone(&listener));
        listener
    }

    /// Ends listening for a case; what was seen of it, with what the runtime told and did.
    pub(super) fn end(&self, namespace: &str) -> Option<Seen> {
        let listener = lock(&self.listeners).remove(namespace)?;
        let end = Instant::now() + PATIENCE;
        while lock(&self.runtime).unread > 0 && Instant::now() < end {
            std::thread::sleep(PERIOD);
        }
        let mut seen = std::mem::take(&mut *listener.seen());
        let mut runtime = lock(&self.runtime);
        let (ours, others): (Vec<Told>, Vec<Told>) = std::mem::take(&mut runtime.told)
            .into_iter()
            .partition(|told| runtime.records.get(&told.id).is_some_and(|record| record.namespace == namespace));
        runtime.told = others;
        for told in ours {
            let record = &runtime.records[&told.id];
            if let Some(deed) = deed(&told, record) {
                seen.deeds.entry(record.pod.clone()).or_default().push(deed);
            }
        }
        let (ours, others) =
            std::mem::take(&mut runtime.records).into_iter().partition(|(_, record)| record.namespace == namespace);
        runtime.records = others;
        seen.made = BTreeMap::into_iter(ours).map(|(id, record)| (id, record.made())).collect();
        Some(seen)
    }

    /// The IDs of a case's sandboxes, or of its containers of that name.
    pub(super) fn ids(&self, namespace: &str, pod: &str, container: Option<&str>) -> Vec<String> {
        let runtime = lock(&self.runtime);
        let all = runtime.records.iter().filter(|(_, record)| record.namespace == namespace && record.pod == pod);
        all.filter(|(_, record)| record.container.as_deref() == container).map(|(id, _)| id.clone()).collect()
    }

    /// Runs `ctr`.
    pub(super) fn ctr(&self, args: &[&str]) -> Option<String> {
        let mut command = Command::new("timeout");
        command.arg("20").arg(&self.ctr.0).arg("--address").arg(&self.ctr.1).args(["--namespace", "k8s.io"]).args(args);
        let output = command.stdin(Stdio::null()).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn listen(&self, files: [(&'static str, PathBuf); 3]) {
        let mut tails = files.map(|(what, path)| (what, Tail { path, file: None, rest: Vec::new() }));
        while !self.over.load(Ordering::Relaxed) {
            for (what, tail) in &mut tails {
                for line in tail.lines() {
                    if *what == "runtime" {
                        self.hear_runtime(&line);
                    } else {
                        self.hear_change(what, &line);
                    }
                }
            }
            std::thread::sleep(PERIOD);
        }
    }

    fn hear_change(&self, plural: &str, line: &str) {
        let Ok(mut change) = serde_json::from_str::<Value>(line) else { return };
        let object = Arc::new(change["object"].take());
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
        let Some(listener) = lock(&self.listeners).get(namespace).cloned() else { return };
        listener.seen().take(plural, change["type"] == "DELETED", &object);
        listener.bell.notify_all();
    }

    /// `2026-01-01 00:00:00 +0000 UTC k8s.io /tasks/exit {"container_id":...}`
    fn hear_runtime(&self, line: &str) {
        const TOPICS: [&str; 5] = ["/containers/create", "/tasks/start", "/tasks/exit", "/tasks/exec-added", "/tasks/oom"];
        let Some((topic, rest)) = line.find(" /").and_then(|at| line[at + 1..].split_once(' ')) else { return };
        let Ok(rest) = serde_json::from_str::<Value>(rest) else { return };
        if !TOPICS.contains(&topic) {
            return;
        }
        let id = ["container_id", "id"].iter().find_map(|key| rest[*key].as_str()).unwrap_or_default().to_owned();
        if topic == "/containers/create" {
            lock(&self.runtime).unread += 1;
            if let Some(to_read) = &*lock(&self.to_read) {
                let _closed = to_read.send(id);
            }
            return;
        }
        lock(&self.runtime).told.push(Told { topic: topic.to_owned(), id, rest });
    }

    fn read_records(&self, jobs: &Mutex<Receiver<String>>) {
        loop {
            let job = lock(jobs).recv();
            let Ok(id) = job else { return };
            let record = self.ctr(&["containers", "info", &id]).as_deref().and_then(Record::read);
            let mut runtime = lock(&self.runtime);
            runtime.unread -= 1;
            if let Some(record) = record {
                runtime.records.insert(id, record);
            }
        }
    }
}

/// In the words of the recordings; nothing of what has no fixed moment.
fn deed(told: &Told, record: &Record) -> Option<String> {
    let what = told.topic.rsplit('/').next()?;
    let who = record.container.as_ref().map_or("sandbox".to_owned(), |name| format!("c={name}"));
    let what = match what {
        // A command in it ended.
        "exit" if told.rest["id"].as_str().is_some_and(|id| id != told.id) => return None,
        "exit" if record.container.is_none() => return None,
        "exit" => format!("exit {}", told.rest["exit_status"].as_u64().unwrap_or(0)),
        other => other.to_owned(),
    };
    Some(format!("{who}#{} {what}", record.attempt))
}

/// A file that somebody writes to.
struct Tail {
    path: PathBuf,
    file: Option<File>,
    rest: Vec<u8>,
}

impl Tail {
    /// The whole lines that are new.
    fn lines(&mut self) -> Vec<String> {
        if self.file.is_none() {
            self.file = File::open(&self.path).ok();
        }
        let Some(file) = &mut self.file else { return Vec::new() };
        let _what_is_there = file.read_to_end(&mut self.rest);
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return Vec::new() };
        let rest = self.rest.split_off(end + 1);
        let whole = std::mem::replace(&mut self.rest, rest);
        String::from_utf8_lossy(&whole).lines().map(str::to_owned).collect()
    }
}

/// What is behind a lock, whoever panicked with it.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
