//! Keeps the volumes of drivers, who has them, and which of them may have something to do, so that an event costs those alone.
//! Upstream: pkg/kubelet/volumemanager/{cache,reconciler}, which look at all volumes every 100 ms.
//! Differs: a volume is looked at when it changed or its time has come, and until nothing is to be done about it.

use std::collections::{BTreeMap, BTreeSet};

use super::volume::CsiVolume;
use crate::alarms::Alarms;
use crate::ids::PodUid;
use crate::time::{Mono, Now};

/// Volumes by their unique names.
#[derive(Debug, Default)]
pub(super) struct Known {
    volumes: BTreeMap<String, CsiVolume>,
    /// Those that changed, or that had something to do when they were last looked at.
    awake: BTreeSet<String>,
    /// When the others are looked at again.
    alarms: Alarms<String>,
    /// Of which volumes a pod may have something.
    of_pods: BTreeMap<PodUid, BTreeSet<String>>,
    /// Another one whenever a volume came or went.
    pub(super) revision: u64,
}

impl Known {
    pub(super) fn is_empty(&self) -> bool {
        self.volumes.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &CsiVolume)> {
        self.volumes.iter()
    }

    pub(super) fn get(&self, name: &str) -> Option<&CsiVolume> {
        self.volumes.get(name)
    }

    /// To change it: it will be looked at.
    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut CsiVolume> {
        let volume = self.volumes.get_mut(name)?;
        if !self.awake.contains(name) {
            self.awake.insert(name.to_owned());
        }
        Some(volume)
    }

    /// The volume of that name, made if there is none; of a pod, if one is named.
    pub(super) fn of(&mut self, name: &str, pod: Option<&PodUid>, new: impl FnOnce() -> CsiVolume) -> &mut CsiVolume {
        if !self.volumes.contains_key(name) {
            self.revision += 1;
        }
        if !self.awake.contains(name) {
            self.awake.insert(name.to_owned());
        }
        if let Some(pod) = pod {
            self.of_pods.entry(pod.clone()).or_default().insert(name.to_owned());
        }
        self.volumes.entry(name.to_owned()).or_insert_with(new)
    }

    /// The volumes of which that pod may have something.
    pub(super) fn of_pod(&self, pod: &PodUid) -> impl Iterator<Item = (&str, &CsiVolume)> {
        let names = self.of_pods.get(pod).into_iter().flatten();
        names.filter_map(|name| Some((name.as_str(), self.volumes.get(name)?)))
    }

    /// Those pods may have lost what they had of that volume, and with the last of them it may be over.
    pub(super) fn left<'a>(&mut self, name: &str, pods: impl IntoIterator<Item = &'a PodUid>) {
        let Some(volume) = self.volumes.get(name) else { return };
        for pod in pods.into_iter().filter(|pod| !volume.has(pod)) {
            if let Some(names) = self.of_pods.get_mut(pod) {
                names.remove(name);
                if names.is_empty() {
                    self.of_pods.remove(pod);
                }
            }
        }
        if volume.is_over() {
            self.volumes.remove(name);
            self.awake.remove(name);
            self.alarms.set(&name.to_owned(), None);
            self.revision += 1;
        }
    }

    /// All of them may have something to do.
    pub(super) fn rouse(&mut self) {
        self.awake = self.volumes.keys().cloned().collect();
    }

    /// Those that are to be looked at now.
    pub(super) fn awake(&mut self, now: Now) -> Vec<String> {
        self.awake.extend(self.alarms.due(now.mono).cloned());
        self.awake.iter().cloned().collect()
    }

    /// A volume was looked at: whether it still has something to do, and when something that failed is tried again.
    pub(super) fn looked_at(&mut self, name: &String, busy: bool, again: Option<Mono>) {
        self.alarms.set(name, again);
        if !busy {
            self.awake.remove(name);
        }
    }

    /// When the first of them is looked at again by time alone.
    pub(super) fn next(&self) -> Option<Mono> {
        self.alarms.first()
    }

    /// Those that are not looked at.
    pub(super) fn asleep(&self) -> impl Iterator<Item = &CsiVolume> {
        self.volumes.iter().filter(|(name, _)| !self.awake.contains(*name)).map(|(_, volume)| volume)
    }
}
