//! Decides which pods the static pod path asks for.
//! Upstream: pkg/kubelet/config/file.go.
//! Differs: nothing on purpose.

mod files;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use self::files::Files;
use crate::config::StaticPods as Settings;
use crate::event::{HostReply, PodSource};
use crate::failure::Failure;
use crate::kubelet::Kubelet;
use crate::out::Out;
use crate::time::{Mono, Now};

/// The sources of static pods.
#[derive(Debug)]
pub(crate) struct StaticPods {
    files: Option<Files>,
}

impl StaticPods {
    pub(crate) fn new(settings: &Settings) -> Self {
        let files = settings.path.as_deref().map(|path| Files::new(path, settings.file_check_frequency));
        Self { files }
    }

    /// Something changed at the static pod path.
    pub(crate) fn files_changed(&mut self) {
        if let Some(files) = &mut self.files {
            files.changed();
        }
    }

    pub(crate) fn deadline(&self) -> Option<Mono> {
        self.files.as_ref().and_then(Files::deadline)
    }

    pub(crate) fn due(&mut self, now: Now, out: &mut Out<'_>) {
        if let Some(files) = &mut self.files {
            files.due(now, out);
        }
    }

    /// The path was read. The pods that it asks for, if that can be told.
    fn read(&mut self, now: Now, outcome: Result<HostReply, Failure>) -> Option<Vec<Arc<Pod>>> {
        let files = self.files.as_mut()?;
        files.done(now);
        let Ok(HostReply::Manifests(manifests)) = outcome else { return None };
        // POD-007: no path and no file are a set without a pod, and as good as any other.
        manifests.is_empty().then(Vec::new)
    }
}

impl Kubelet {
    /// The static pod path was read.
    pub(crate) fn manifests_read(&mut self, now: Now, outcome: Result<HostReply, Failure>, out: &mut Out<'_>) {
        if let Some(pods) = self.static_pods.read(now, outcome) {
            let changes = self.pods.listed(now.wall, PodSource::File, pods);
            self.pods_changed(now, changes, out);
        }
    }
}
