//! Decides which pods the static pod path and the static pod URL ask for.
//! Upstream: pkg/kubelet/config/file.go, pkg/kubelet/config/http.go.
//! Differs: what is wrong with a file, or with what the URL answers, is told once, as an event of the node.

mod amount;
mod decode;
mod defaults;
mod files;
mod mirrors;
mod references;
mod uid;
mod url;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use self::decode::decode;
use self::files::Files;
use self::mirrors::Mirrors;
use self::uid::{Origin, Place};
use self::url::Url;
use crate::config::Config;
use crate::event::{HostReply, Manifest, PodSource};
use crate::failure::Failure;
use crate::ids::{PodName, PodUid};
use crate::kubelet::Kubelet;
use crate::out::Out;
use crate::pod::manager::name_of;
use crate::recorder::{Recorded, Subject};
use crate::time::{Mono, Now, earliest};

/// The sources of static pods, and what is made of them.
#[derive(Debug)]
pub(crate) struct StaticPods {
    node: Arc<str>,
    path: String,
    files: Option<Files>,
    url: Option<Url>,
    /// What was last read, by path.
    read: BTreeMap<String, Read>,
    /// Whether that is known which the pods are judged by.
    ready: bool,
    pub(super) mirrors: Mirrors,
    /// Those of one full name, in the order in which they run.
    pub(super) order: BTreeMap<PodName, Vec<PodUid>>,
    /// Those whose UID is still being cleared away.
    pub(crate) postponed: BTreeSet<PodUid>,
}

#[derive(Debug)]
struct Read {
    contents: Result<Vec<u8>, String>,
    /// The pod, or what is wrong.
    pod: Result<Arc<Pod>, String>,
    /// The last pod that could be made of it.
    good: Option<Arc<Pod>>,
}

impl StaticPods {
    pub(crate) fn new(config: &Config) -> Self {
        let path = config.static_pods.path.clone();
        let path = path.map(|path| if path.len() > 1 { path.trim_end_matches('/').to_owned() } else { path });
        let files = path.as_deref().map(|path| Files::new(path, config.static_pods.file_check_frequency));
        Self {
            node: Arc::from(config.node.name.as_ref()),
            path: path.unwrap_or_default(),
            files,
            url: Url::of(config),
            read: BTreeMap::new(),
            ready: false,
            mirrors: Mirrors::default(),
            order: BTreeMap::new(),
            postponed: BTreeSet::new(),
        }
    }

    /// Something changed at the static pod path.
    pub(crate) fn files_changed(&mut self) {
        if let Some(files) = &mut self.files {
            files.changed();
        }
    }

    pub(crate) fn deadline(&self) -> Option<Mono> {
        let files = self.files.as_ref().filter(|_| self.ready).and_then(Files::deadline);
        let url = self.url.as_ref().filter(|_| self.ready).and_then(Url::deadline);
        earliest([files, url, self.mirrors.deadline()])
    }

    /// Reads if it is time to, and if that is known which the pods will be judged by.
    pub(crate) fn due(&mut self, now: Now, ready: bool, out: &mut Out<'_>) {
        self.ready = ready;
        if let Some(files) = self.files.as_mut().filter(|_| ready) {
            files.due(now, out);
        }
        if let Some(url) = self.url.as_mut().filter(|_| ready) {
            url.due(now, out);
        }
    }

    /// The path was read. The pods that it asks for, if that can be told.
    fn read(&mut self, now: Now, outcome: Result<HostReply, Failure>, out: &mut Out<'_>) -> Option<Vec<Arc<Pod>>> {
        let regular = self.files.as_mut()?.done(now);
        let Ok(HostReply::Manifests(manifests)) = outcome else { return None };
        let mut before = std::mem::take(&mut self.read);
        let mut pods: BTreeMap<PodName, Arc<Pod>> = BTreeMap::new();
        let mut says_nothing = false;
        for manifest in manifests {
            let read = self.look_at(&manifest, before.remove(&manifest.path), out);
            // A file that is the whole path, and a change that was only hinted at, leave in place what was; a regular reading does not.
            let kept = if manifest.path == self.path || !regular { read.good.as_ref() } else { None };
            // Of two of one name the later one counts.
            if let Some(pod) = read.pod.as_ref().ok().or(kept) {
                pods.insert(name_of(pod), Arc::clone(pod));
            }
            // A path that is one file, and never was good: it is not known what it asks for (listConfig sends nothing then).
            says_nothing |= manifest.path == self.path && read.good.is_none();
            self.read.insert(manifest.path, read);
        }
        (!says_nothing).then(|| pods.into_values().collect())
    }

    fn look_at(&self, manifest: &Manifest, before: Option<Read>, out: &mut Out<'_>) -> Read {
        let before = match before {
            Some(before) if before.contents == manifest.contents => return before,
            before => before,
        };
        let origin = Origin { node: &self.node, place: Place::File(&manifest.path) };
        let pod = manifest.contents.as_ref().map_err(Clone::clone).and_then(|contents| decode(contents, origin));
        if let Err(why) = &pod {
            let message = format!("Could not process manifest file {}: {why}", manifest.path);
            out.record(Recorded::warning(Subject::Node, "FailedValidation", message));
        }
        let good = pod.as_ref().ok().cloned().or(before.and_then(|read| read.good));
        Read { contents: manifest.contents.clone(), pod, good }
    }
}

impl Kubelet {
    /// The static pod path was read.
    pub(crate) fn manifests_read(&mut self, now: Now, outcome: Result<HostReply, Failure>, out: &mut Out<'_>) {
        if let Some(pods) = self.static_pods.read(now, outcome, out) {
            let changes = self.pods.listed(now.wall, PodSource::File, pods);
            self.pods_changed(now, changes, out);
        }
    }

    /// The static pod URL was asked.
    pub(crate) fn url_answered(&mut self, now: Now, outcome: Result<Vec<u8>, Failure>, out: &mut Out<'_>) {
        let Some(url) = &mut self.static_pods.url else { return };
        if let Some(pods) = url.answered(now, &self.static_pods.node, outcome, out) {
            let changes = self.pods.listed(now.wall, PodSource::Http, pods);
            self.pods_changed(now, changes, out);
        }
    }
}

#[cfg(test)]
mod tests;
