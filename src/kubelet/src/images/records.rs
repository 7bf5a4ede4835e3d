//! Decides what is kept of pulls: an intent before each, and of each image by whom it was pulled; and when which file is written.
//! Upstream: pkg/kubelet/images/pullmanager/{image_pull_manager,fs_pullrecords}.go.
//! Differs: all records are read once and kept; records of images that are gone are removed, never those of images in use; an intent stays
//! if nobody knows how its pull ended; what a record grows beyond 512 KiB by is not kept, so that credentials are asked for again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::keyring::{Coordinates, Credential, Source, sha256};
use super::name;
use crate::action::{Call, HostCall, Lane};
use crate::event::{FileRead, HostReply};
use crate::failure::Failure;
use crate::ids::ActionId;
use crate::observation::Image;
use crate::out::{Out, Owner};
use crate::sensitive::Sensitive;
use crate::time::{Mono, Now, earliest};

const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
const OLD_API_VERSION: &str = "kubelet.config.k8s.io/v1alpha1";
const PREFIX: &str = "sha256-";
/// How long a call on the records may take.
const LIMIT: Duration = Duration::from_secs(30);
/// How long reading or writing that failed is left alone: first, and at most.
const AGAIN_FIRST: Duration = Duration::from_secs(1);
const AGAIN_MOST: Duration = Duration::from_secs(300);
/// What a record may take on the disk. The host reads twice as much.
const MOST_RECORD: usize = 512 << 10;
/// How long a record must have been left alone before it is removed with its image.
const SETTLED: Duration = Duration::from_secs(300);

/// How long an image that does not come may still come by a pull of which nobody saw the end: the runtime has given up by then what nobody
/// waits for any more.
const DOUBTED: Duration = Duration::from_secs(3600);
/// How many pulls of which nobody saw the end are remembered; beyond that the oldest ones are forgotten, as upstream forgets all of them.
const MOST_DOUBTED: usize = 1000;

/// ImagePullIntent
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Intent {
    kind: String,
    #[serde(rename = "apiVersion")]
    api_version: String,
    image: String,
}

/// ImagePulledRecord
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Pulled {
    kind: String,
    api_version: String,
    #[serde(default)]
    last_updated_time: Option<String>,
    image_ref: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    credential_mapping: BTreeMap<String, Credentials>,
}

/// ImagePullCredentials
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct Credentials {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kubernetes_secrets: Vec<SecretRecord>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kubernetes_service_accounts: Vec<AccountRecord>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub node_pods_accessible: bool,
}

/// ImagePullSecret
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct SecretRecord {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub credential_hash: String,
}

/// ImagePullServiceAccount
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AccountRecord {
    pub uid: String,
    pub namespace: String,
    pub name: String,
}

impl AccountRecord {
    pub(super) fn of(account: &Coordinates) -> Self {
        Self { uid: account.uid.clone(), namespace: account.namespace.clone(), name: account.name.clone() }
    }
}

impl SecretRecord {
    pub(super) fn of(secret: &Coordinates, hash: &str) -> Self {
        let Coordinates { namespace, name, uid } = secret.clone();
        Self { uid, namespace, name, credential_hash: hash.to_owned() }
    }

    pub(super) fn is_of_same_secret(&self, other: &Self) -> bool {
        (&self.uid, &self.namespace, &self.name) == (&other.uid, &other.namespace, &other.name)
    }
}

impl Credentials {
    /// What a pull with that credential, or with none, tells of who may use the image (trackedToImagePullCreds).
    pub(super) fn of(used: Option<&Credential>) -> Self {
        match used.map(|used| (&used.source, used)) {
            None | Some((Source::Node, _)) => Self { node_pods_accessible: true, ..Self::default() },
            Some((Source::Secret(secret), used)) => {
                Self { kubernetes_secrets: vec![SecretRecord::of(secret, &used.hash)], ..Self::default() }
            }
            Some((Source::ServiceAccount(account), _)) => {
                Self { kubernetes_service_accounts: vec![AccountRecord::of(account)], ..Self::default() }
            }
        }
    }

    /// Takes more in (pulledRecordMergeNewCreds). True if that changed anything.
    fn merge(&mut self, more: &Self) -> bool {
        if self.node_pods_accessible {
            return false;
        }
        if more.node_pods_accessible {
            *self = more.clone();
            return true;
        }
        if more.kubernetes_secrets.is_empty() {
            self.merge_accounts(&more.kubernetes_service_accounts)
        } else {
            self.merge_secrets(&more.kubernetes_secrets)
        }
    }

    fn merge_secrets(&mut self, more: &[SecretRecord]) -> bool {
        let mut changed = false;
        for secret in more {
            match self.kubernetes_secrets.iter_mut().find(|known| known.is_of_same_secret(secret)) {
                Some(known) if known.credential_hash == secret.credential_hash => {}
                Some(known) => {
                    known.credential_hash.clone_from(&secret.credential_hash);
                    changed = true;
                }
                None => {
                    self.kubernetes_secrets.push(secret.clone());
                    changed = true;
                }
            }
        }
        if changed {
            let key = |s: &SecretRecord| (s.namespace.clone(), s.name.clone(), s.uid.clone());
            self.kubernetes_secrets.sort_by_key(key);
        }
        changed
    }

    fn merge_accounts(&mut self, more: &[AccountRecord]) -> bool {
        let new: Vec<_> = more.iter().filter(|account| !self.kubernetes_service_accounts.contains(account)).cloned().collect();
        if new.is_empty() {
            return false;
        }
        self.kubernetes_service_accounts.extend(new);
        let key = |a: &AccountRecord| (a.namespace.clone(), a.name.clone(), a.uid.clone());
        self.kubernetes_service_accounts.sort_by_key(key);
        true
    }

    fn says_anything(&self) -> bool {
        self.node_pods_accessible || !self.kubernetes_secrets.is_empty() || !self.kubernetes_service_accounts.is_empty()
    }
}

/// What is known of an image's pulls.
#[derive(Debug, PartialEq)]
pub(super) enum Known<'a> {
    /// Nothing: somebody else brought it.
    Nothing,
    /// It was pulled, or is being pulled, and nothing is known of by whom.
    Pulled,
    /// It was pulled, and under that name by these; `None` if not under that name.
    By(Option<&'a Credentials>),
    /// What there is cannot be read.
    Unreadable,
}

#[derive(Debug)]
struct Entry {
    /// `None` if its file cannot be read.
    record: Option<Pulled>,
    touched: Mono,
}

#[derive(Debug)]
struct IntentEntry {
    /// `None` if its file cannot be read.
    image: Option<String>,
    /// Pulls that are under way, or whose record is not on the disk yet.
    pulls: u32,
    /// Since when it is known that a pull of it may have had its effect, or may still have, unseen: by an earlier life, or a lost answer.
    doubted: Option<Mono>,
    state: IntentState,
}

/// Whether an intent is on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum IntentState {
    /// It is being written.
    Writing,
    /// It is.
    Written,
    /// It could not be written: why.
    Failed(String),
}

#[derive(Debug)]
struct Write {
    /// `None` to remove the file.
    contents: Option<Vec<u8>>,
    asked: Option<ActionId>,
    /// What is to be written is not what was asked for last.
    stale: bool,
    not_before: Mono,
    pause: Duration,
    /// Intents that are over once it is written.
    releases: Vec<String>,
}

#[derive(Debug, Default)]
enum Reading {
    #[default]
    Wanted,
    Asked(ActionId),
    Done,
}

/// What is kept of pulls.
#[derive(Debug)]
pub(super) struct PullRecords {
    /// `None` if nothing is kept: the gate is off.
    directory: Option<String>,
    reading: [Reading; 2],
    /// Whether all that was there has been read, or could not be: then nothing is known to be preloaded.
    readable: bool,
    failed: bool,
    read_at: Mono,
    read_pause: Duration,
    pulled: BTreeMap<String, Entry>,
    intents: BTreeMap<String, IntentEntry>,
    writes: BTreeMap<String, Write>,
}

fn file_of(image: &str) -> String {
    format!("{PREFIX}{}", sha256(image))
}

impl PullRecords {
    /// Records below that root directory, or none.
    pub(super) fn new(root: Option<&str>) -> Self {
        Self {
            directory: root.map(|root| format!("{root}/image_manager")),
            reading: [Reading::Wanted, Reading::Wanted],
            readable: false,
            failed: false,
            read_at: Mono::ZERO,
            read_pause: AGAIN_FIRST,
            pulled: BTreeMap::new(),
            intents: BTreeMap::new(),
            writes: BTreeMap::new(),
        }
    }

    /// Whether records are kept at all.
    pub(super) fn kept(&self) -> bool {
        self.directory.is_some()
    }

    /// Whether it can be said who may use an image.
    pub(super) fn can_tell(&self) -> bool {
        !self.kept() || self.readable || self.failed
    }

    fn folder(&self, of: usize) -> String {
        format!("{}/{}", self.directory.as_deref().unwrap_or_default(), ["pulling", "pulled"][of])
    }

    /// When there is something to do.
    pub(super) fn deadline(&self) -> Option<Mono> {
        let read = self.reading.iter().any(|r| matches!(r, Reading::Wanted)).then_some(self.read_at).filter(|_| self.kept());
        let writes = self.writes.values().filter(|write| write.asked.is_none()).map(|write| write.not_before).min();
        earliest([read, writes])
    }

    /// Reads and writes what is due.
    pub(super) fn due(&mut self, now: Now, out: &mut Out<'_>) {
        if !self.kept() {
            return;
        }
        for of in 0..2 {
            if matches!(self.reading[of], Reading::Wanted) && self.read_at <= now.mono {
                let call = HostCall::ReadDirectory { path: self.folder(of), prefix: PREFIX.to_owned() };
                self.reading[of] = Reading::Asked(out.issue(Owner::ImageRecords, Lane::Host, LIMIT, Call::Host(call)));
            }
        }
        for (path, write) in self.writes.iter_mut().filter(|(_, w)| w.asked.is_none() && w.not_before <= now.mono) {
            let call = match &write.contents {
                Some(contents) => HostCall::WriteRecord { path: path.clone(), contents: Sensitive::new(contents.clone()) },
                None => HostCall::RemoveFile { path: path.clone() },
            };
            write.asked = Some(out.issue(Owner::ImageRecords, Lane::Host, LIMIT, Call::Host(call)));
        }
    }

    /// A call ended. True if somebody may have waited for it.
    pub(super) fn done(&mut self, now: Now, id: ActionId, outcome: Result<HostReply, Failure>) -> bool {
        if let Some(of) = self.reading.iter().position(|r| matches!(r, Reading::Asked(asked) if *asked == id)) {
            self.read(now, of, outcome);
            return self.can_tell();
        }
        let Some((path, write)) = self.writes.iter_mut().find(|(_, write)| write.asked == Some(id)) else { return false };
        let path = path.clone();
        write.asked = None;
        match outcome {
            Ok(_) if write.stale => write.stale = false,
            Ok(_) => self.written(&path),
            Err(failure) => self.not_written(now, &path, failure.message),
        }
        true
    }

    fn read(&mut self, now: Now, of: usize, outcome: Result<HostReply, Failure>) {
        let Ok(HostReply::Files(files)) = outcome else {
            self.reading[of] = Reading::Wanted;
            self.failed = true;
            self.read_at = now.mono + self.read_pause;
            self.read_pause = (self.read_pause * 2).min(AGAIN_MOST);
            return;
        };
        self.reading[of] = Reading::Done;
        for file in files {
            if of == 0 { self.read_intent(now, file) } else { self.read_record(now, file) }
        }
        self.bound_doubts();
        self.readable = self.reading.iter().all(|r| matches!(r, Reading::Done));
        self.failed &= !self.readable;
    }

    fn read_intent(&mut self, now: Now, file: FileRead) {
        let intent = file.contents.ok().and_then(|bytes| serde_json::from_slice::<Intent>(bytes.reveal()).ok());
        let intent = intent.filter(|intent| known("ImagePullIntent", &intent.kind, &intent.api_version));
        let is_old = intent.as_ref().is_some_and(|intent| intent.api_version == OLD_API_VERSION);
        let image = intent.map(|intent| intent.image);
        if let Some(image) = &image
            && file_of(image) != file.name
        {
            // ImagePullIntentExists: it is of another image, and nobody looks for that here.
            return;
        }
        // What began meanwhile is newer than what was read.
        let rewritten = image.clone().filter(|_| is_old && !self.intents.contains_key(&file.name));
        self.intents.entry(file.name).or_insert(IntentEntry {
            image,
            pulls: 0,
            doubted: Some(now.mono),
            state: IntentState::Written,
        });
        if let Some(image) = rewritten {
            self.write_intent(&image);
        }
    }

    fn read_record(&mut self, now: Now, file: FileRead) {
        let record = file.contents.ok().and_then(|bytes| serde_json::from_slice::<Pulled>(bytes.reveal()).ok());
        let mut record = record.filter(|record| known("ImagePulledRecord", &record.kind, &record.api_version));
        if record.as_ref().is_some_and(|record| file_of(&record.image_ref) != file.name) || self.pulled.contains_key(&file.name) {
            return;
        }
        let mut is_old = false;
        if let Some(record) = record.as_mut().filter(|record| record.api_version == OLD_API_VERSION) {
            API_VERSION.clone_into(&mut record.api_version);
            is_old = true;
        }
        self.pulled.insert(file.name.clone(), Entry { record, touched: now.mono });
        if is_old {
            self.write_record(&file.name, Vec::new());
        }
    }

    fn written(&mut self, path: &str) {
        let Some(write) = self.writes.remove(path) else { return };
        let name = path.rsplit('/').next().unwrap_or_default();
        if path.starts_with(&self.folder(0))
            && write.contents.is_some()
            && let Some(intent) = self.intents.get_mut(name)
        {
            intent.state = IntentState::Written;
        }
        for image in write.releases {
            self.recorded(&image);
        }
    }

    fn not_written(&mut self, now: Now, path: &str, message: String) {
        let name = path.rsplit('/').next().unwrap_or_default();
        let is_intent = path.starts_with(&self.folder(0));
        let Some(write) = self.writes.get_mut(path) else { return };
        write.stale = false;
        if is_intent
            && write.contents.is_some()
            && let Some(intent) = self.intents.get_mut(name)
        {
            // Nothing is pulled of which a crash would leave no trace.
            intent.state = IntentState::Failed(message);
            self.writes.remove(path);
            return;
        }
        write.not_before = now.mono + write.pause;
        write.pause = (write.pause * 2).min(AGAIN_MOST);
    }

    fn put(&mut self, path: String, contents: Option<Vec<u8>>, releases: Vec<String>) {
        let write = self.writes.entry(path).or_insert_with(|| Write {
            contents: None,
            asked: None,
            stale: false,
            not_before: Mono::ZERO,
            pause: AGAIN_FIRST,
            releases: Vec::new(),
        });
        write.contents = contents;
        write.stale = write.asked.is_some();
        write.releases.extend(releases);
    }

    fn write_intent(&mut self, image: &str) {
        let intent = Intent { kind: "ImagePullIntent".to_owned(), api_version: API_VERSION.to_owned(), image: image.to_owned() };
        let path = format!("{}/{}", self.folder(0), file_of(image));
        self.put(path, Some(json(&intent)), Vec::new());
    }

    fn write_record(&mut self, name: &str, releases: Vec<String>) {
        let Some(record) = self.pulled.get(name).and_then(|entry| entry.record.as_ref()) else { return };
        let (path, contents) = (format!("{}/{name}", self.folder(1)), json(record));
        self.put(path, Some(contents), releases);
    }

    /// A pull is about to begin (RecordPullIntent). Ask [`Self::intent`] how that went.
    pub(super) fn intend(&mut self, image: &str) {
        let new =
            || IntentEntry { image: Some(image.to_owned()), pulls: 0, doubted: None, state: IntentState::Failed(String::new()) };
        let intent = self.intents.entry(file_of(image)).or_insert_with(new);
        intent.pulls += 1;
        intent.image = Some(image.to_owned());
        if matches!(intent.state, IntentState::Failed(_)) {
            intent.state = IntentState::Writing;
            self.write_intent(image);
        }
    }

    /// Whether the intent is on the disk.
    pub(super) fn intent(&self, image: &str) -> IntentState {
        self.intents.get(&file_of(image)).map_or(IntentState::Failed(String::new()), |intent| intent.state.clone())
    }

    /// A pull is over, or did not begin (RecordImagePullFailed): without another one, its intent goes, unless an earlier one is in doubt.
    pub(super) fn release(&mut self, image: &str) {
        let name = file_of(image);
        let Some(intent) = self.intents.get_mut(&name) else { return };
        intent.pulls = intent.pulls.saturating_sub(1);
        if intent.pulls == 0 && intent.doubted.is_none() {
            self.intents.remove(&name);
            self.put(format!("{}/{name}", self.folder(0)), None, Vec::new());
        }
    }

    /// Nobody knows how a pull ended: if the image is there later, it may be by that pull.
    pub(super) fn leave(&mut self, now: Now, image: &str) {
        if let Some(intent) = self.intents.get_mut(&file_of(image)) {
            intent.pulls = intent.pulls.saturating_sub(1);
            intent.doubted = Some(now.mono);
        }
        self.bound_doubts();
    }

    /// Forgets the oldest doubts beyond [`MOST_DOUBTED`]: whoever has pods pull what never comes fills no disk.
    fn bound_doubts(&mut self) {
        let idle = |intent: &&IntentEntry| intent.pulls == 0 && intent.image.is_some();
        let doubts = self.intents.values().filter(idle).filter_map(|intent| intent.doubted.zip(intent.image.clone()));
        let mut doubts: Vec<(Mono, String)> = doubts.collect();
        let Some(beyond) = doubts.len().checked_sub(MOST_DOUBTED) else { return };
        doubts.sort_unstable();
        for (_, image) in doubts.into_iter().take(beyond) {
            self.recorded(&image);
        }
    }

    /// There is a record of the image by now, which says all that there is to say.
    fn recorded(&mut self, image: &str) {
        if let Some(intent) = self.intents.get_mut(&file_of(image)) {
            intent.doubted = None;
        }
        self.release(image);
    }

    /// A pull brought the image (RecordImagePulled): with that credential, or with none.
    pub(super) fn pulled(&mut self, now: Now, image: &str, image_ref: &str, used: Option<&Credential>) {
        let name = file_of(image_ref);
        if self.learn(now, image, image_ref, Some(&Credentials::of(used))) {
            self.write_record(&name, vec![image.to_owned()]);
        } else if let Some(write) = self.writes.get_mut(&format!("{}/{name}", self.folder(1))) {
            write.releases.push(image.to_owned());
        } else {
            self.recorded(image);
        }
    }

    /// A pod that may use the image showed that these may as well.
    pub(super) fn also(&mut self, now: Now, image: &str, image_ref: &str, secret: SecretRecord) {
        let credentials = Credentials { kubernetes_secrets: vec![secret], ..Credentials::default() };
        if self.learn(now, image, image_ref, Some(&credentials)) {
            self.write_record(&file_of(image_ref), Vec::new());
        }
    }

    /// writePulledRecordIfChanged; true if there is something to write.
    fn learn(&mut self, now: Now, image: &str, image_ref: &str, credentials: Option<&Credentials>) -> bool {
        let (file, name) = (file_of(image_ref), name::without_tag(image));
        let entry = self.pulled.entry(file).or_insert(Entry { record: None, touched: now.mono });
        entry.touched = now.mono;
        let new = || Pulled {
            kind: "ImagePulledRecord".to_owned(),
            api_version: API_VERSION.to_owned(),
            last_updated_time: None,
            image_ref: image_ref.to_owned(),
            credential_mapping: BTreeMap::new(),
        };
        let mut changed = entry.record.is_none();
        let mut record = entry.record.clone().unwrap_or_else(new);
        if let Some(credentials) = credentials.filter(|credentials| credentials.says_anything()) {
            changed |= match record.credential_mapping.get_mut(name) {
                Some(known) => known.merge(credentials),
                None => record.credential_mapping.insert(name.to_owned(), credentials.clone()).is_none(),
            };
        }
        if !changed {
            return false;
        }
        record.last_updated_time = Some(now.wall_seconds().to_string());
        if json(&record).len() > MOST_RECORD {
            return false;
        }
        entry.record = Some(record);
        true
    }

    /// What is known of an image that is there.
    pub(super) fn known(&self, image: &str, image_ref: &str) -> Known<'_> {
        if !self.readable {
            return Known::Unreadable;
        }
        match self.pulled.get(&file_of(image_ref)) {
            Some(Entry { record: None, .. }) => Known::Unreadable,
            Some(Entry { record: Some(record), .. }) => Known::By(record.credential_mapping.get(name::without_tag(image))),
            None => match self.intents.get(&file_of(image)) {
                Some(IntentEntry { image: None, .. }) => Known::Unreadable,
                Some(_) => Known::Pulled,
                None => {
                    let meant = name::canonical(image);
                    let mut names = self.intents.values().filter_map(|intent| intent.image.as_deref());
                    if names.any(|name| name::canonical(name) == meant) { Known::Pulled } else { Known::Nothing }
                }
            },
        }
    }

    /// The images of the node were listed. What earlier pulls brought that nobody saw the end of is known to be pulled (initialize), and
    /// records of images that are gone go as well (PruneUnknownRecords).
    pub(super) fn listed(&mut self, now: Now, images: &[Image]) {
        if !self.readable {
            return;
        }
        self.resolve_doubts(now, images);
        let names = |image: &Image| [image.id.clone()].into_iter().chain(image.repo_tags.clone()).chain(image.repo_digests.clone());
        let present: BTreeSet<String> = images.iter().flat_map(names).map(|name| file_of(&name)).collect();
        let is_gone = |(file, entry): &(&String, &Entry)| !present.contains(*file) && now.mono.since(entry.touched) >= SETTLED;
        let gone: Vec<String> = self.pulled.iter().filter(is_gone).map(|(file, _)| file.clone()).collect();
        for file in gone {
            self.pulled.remove(&file);
            self.put(format!("{}/{file}", self.folder(1)), None, Vec::new());
        }
    }

    fn resolve_doubts(&mut self, now: Now, images: &[Image]) {
        let idle = self.intents.values().filter(|intent| intent.pulls == 0);
        let doubts = idle.filter_map(|intent| intent.image.clone().zip(intent.doubted));
        for (intent, since) in doubts.collect::<Vec<_>>() {
            let meant = name::canonical(&intent);
            let is_it =
                |image: &&Image| image.repo_tags.iter().chain(&image.repo_digests).any(|name| name::canonical(name) == meant);
            match images.iter().find(is_it) {
                Some(image) if self.learn(now, &intent, &image.id, None) => {
                    self.write_record(&file_of(&image.id), vec![intent.clone()]);
                }
                Some(_) => self.recorded(&intent),
                None if now.mono.since(since) >= DOUBTED => self.recorded(&intent),
                None => {}
            }
        }
    }
}

fn known(kind: &str, found: &str, version: &str) -> bool {
    kind == found && matches!(version, API_VERSION | OLD_API_VERSION)
}

/// As upstream's encoder writes it: with a line end.
fn json(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
#[path = "records_tests.rs"]
mod tests;
