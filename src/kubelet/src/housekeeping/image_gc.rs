//! Decides when the node's images are listed, and which go when their filesystem is full: the longest unused first.
//! Upstream: pkg/kubelet/images/image_gc_manager.go.
//! Differs: images are listed after pulls and with each collection, not every 30 s.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use crate::action::{Call, CriCall, HostCall, Lane};
use crate::config::Images;
use crate::event::{CriReply, HostReply};
use crate::failure::Failure;
use crate::ids::ActionId;
use crate::images::name::canonical;
use crate::observation::{FsUsage, Image};
use crate::out::{Out, Owner};
use crate::pod::worker::PodWorker;
use crate::recorder::{Recorded, Subject};
use crate::time::{Mono, Now, earliest};

/// POD-210
const PERIOD: Duration = Duration::from_secs(300);
/// How long after a pull the images are listed: a burst of pulls is listed once.
const SETTLE: Duration = Duration::from_secs(3);

/// The images that pods use, by the names and IDs that specs and containers know them by, and by what those names mean in full.
#[derive(Debug, Default)]
pub struct InUse(BTreeSet<String>);

impl InUse {
    /// What the pods' containers, dead ones included, and their specs name.
    pub fn of<'a>(workers: impl Iterator<Item = &'a PodWorker>) -> Self {
        let mut names = Self::default();
        for worker in workers {
            for container in worker.observation.iter().flat_map(|seen| &seen.containers) {
                for name in [&container.image, &container.image_ref, &container.image_id] {
                    names.add(name);
                }
            }
            names.add_spec(&worker.pod);
        }
        names
    }

    /// And what the specs of these pods name.
    #[must_use]
    pub fn and_of(mut self, pods: impl Iterator<Item = Pod>) -> Self {
        pods.for_each(|pod| self.add_spec(&pod));
        self
    }

    fn add_spec(&mut self, pod: &Pod) {
        for spec in pod.spec.iter() {
            let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
            let volumes = spec.volumes.iter().flatten().filter_map(|volume| volume.image.as_ref()?.reference.as_ref());
            containers.filter_map(|c| c.image.as_ref()).chain(volumes).for_each(|name| self.add(name));
        }
    }

    fn add(&mut self, name: &str) {
        self.0.insert(name.to_owned());
        self.0.insert(canonical(name));
    }

    fn has(&self, image: &Image) -> bool {
        let mut names = image.repo_tags.iter().chain(&image.repo_digests);
        self.0.contains(&image.id) || names.any(|name| self.0.contains(name) || self.0.contains(&canonical(name)))
    }
}

#[derive(Clone, Copy, Debug)]
struct Record {
    first_seen: Mono,
    last_used: Option<Mono>,
}

/// The images of the node and their collection.
#[derive(Debug, Default)]
pub struct ImageGc {
    images: Vec<Image>,
    records: BTreeMap<String, Record>,
    /// `None` until the runtime was first there.
    list_at: Option<Mono>,
    listing: Option<ActionId>,
    collect_at: Option<Mono>,
    asking_where: Option<ActionId>,
    asking_fill: Option<ActionId>,
    fill: Option<FsUsage>,
    removing: BTreeMap<ActionId, u64>,
    failed: u32,
}

impl ImageGc {
    /// The images as last listed.
    #[must_use]
    pub fn images(&self) -> &[Image] {
        &self.images
    }

    /// Images came or went.
    pub fn changed(&mut self, now: Now) {
        self.list_at = self.list_at.map(|at| at.min(now.mono + SETTLE));
    }

    /// When there is something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        let list = if self.listing.is_some() { None } else { self.list_at };
        let busy = self.asking_where.is_some() || self.asking_fill.is_some();
        earliest([list, if busy { None } else { self.collect_at }])
    }

    /// Lists and collects when it is time. `in_use` is asked only then.
    pub fn due(&mut self, now: Now, config: &Images, limit: Duration, in_use: impl Fn() -> InUse, out: &mut Out<'_>) {
        let mut ask = |call, owner| out.issue(owner, Lane::Housekeeping, limit, call);
        if self.listing.is_none() && self.list_at.is_none_or(|at| at <= now.mono) {
            self.list_at = Some(now.mono + PERIOD);
            self.listing = Some(ask(Call::Cri(CriCall::ListImages), Owner::ImageGc));
        }
        let collect_at = *self.collect_at.get_or_insert(now.mono + PERIOD);
        if collect_at <= now.mono && self.asking_where.is_none() && self.asking_fill.is_none() {
            self.collect_at = Some(now.mono + PERIOD);
            self.asking_where = Some(ask(Call::Cri(CriCall::ImageFsInfo), Owner::ImageGc));
        }
        match self.fill.take() {
            Some(fill) if fill.capacity > 0 => self.collect(now, config, &fill, &in_use(), limit, out),
            Some(fill) => {
                let message = format!("invalid capacity {} on image filesystem", fill.capacity);
                out.record(Recorded::warning(Subject::Node, "InvalidDiskCapacity", message.clone()));
                self.has_failed(message, out);
            }
            None => {}
        }
    }

    /// POD-210
    fn collect(&mut self, now: Now, config: &Images, fill: &FsUsage, in_use: &InUse, limit: Duration, out: &mut Out<'_>) {
        for image in &self.images {
            let record = self.records.entry(image.id.clone()).or_insert(Record { first_seen: now.mono, last_used: None });
            if in_use.has(image) {
                record.last_used = Some(now.mono);
            }
        }
        let present: BTreeSet<&String> = self.images.iter().map(|i| &i.id).collect();
        self.records.retain(|id, _| present.contains(id));
        let used_percent = 100_u64.saturating_sub(fill.available.saturating_mul(100) / fill.capacity.max(1));
        let high = u64::from(config.gc_high_threshold_percent);
        let mut unused: Vec<&Image> = self.images.iter().filter(|i| !i.pinned && !in_use.has(i)).collect();
        unused.sort_by_key(|i| self.records.get(&i.id).map(|r| (r.last_used, r.first_seen)));
        let mut to_free = 0;
        if high < 100 && used_percent >= high {
            let low = u64::from(config.gc_low_threshold_percent);
            to_free = (fill.capacity / 100 * (100 - low)).saturating_sub(fill.available);
        }
        let wanted = to_free;
        let mut freed = 0;
        for image in unused {
            let Some(record) = self.records.get(&image.id) else { continue };
            // freeOldImages: once the agent has run that long, whatever it has not seen in use since.
            let too_old = config.gc_max_age.is_some_and(|most| {
                now.mono.since_start() > most && record.last_used.is_none_or(|used| now.mono.since(used) > most)
            });
            if !too_old && (now.mono.since(record.first_seen) < config.gc_min_age || freed >= to_free) {
                continue;
            }
            freed += image.size;
            let call = Call::Cri(CriCall::RemoveImage { image: image.id.clone() });
            let action = out.issue(Owner::ImageGc, Lane::Housekeeping, limit, call);
            self.removing.insert(action, image.size);
        }
        if freed < wanted {
            let message = format!(
                "Insufficient free disk space on the node's image filesystem ({used_percent}% of {} used). Failed to free \
                 sufficient space by deleting unused images (freed {freed} bytes). Investigate disk usage, as it could be used by \
                 active images, logs, volumes, or other data.",
                format_size(fill.capacity)
            );
            out.record(Recorded::warning(Subject::Node, "FreeDiskSpaceFailed", message.clone()));
            self.has_failed(message, out);
        } else {
            self.failed = 0;
        }
    }

    /// Once may be for want of a first look; what goes on failing is told, whatever it failed for (kubelet.go, StartGarbageCollection).
    fn has_failed(&mut self, why: String, out: &mut Out<'_>) {
        self.failed = self.failed.saturating_add(1);
        if self.failed > 1 {
            out.record(Recorded::warning(Subject::Node, "ImageGCFailed", why));
        }
    }

    /// A runtime call ended. What was none of these is handed back.
    pub fn cri_done(
        &mut self,
        now: Now,
        id: ActionId,
        outcome: Result<CriReply, Failure>,
        out: &mut Out<'_>,
    ) -> Option<Result<CriReply, Failure>> {
        if self.listing == Some(id) {
            self.listing = None;
            if let Ok(CriReply::Images(images)) = outcome {
                for image in &images {
                    self.records.entry(image.id.clone()).or_insert(Record { first_seen: now.mono, last_used: None });
                }
                self.images = images;
            }
        } else if self.asking_where == Some(id) {
            self.asking_where = None;
            match outcome {
                Ok(CriReply::ImageFs(systems)) => {
                    if let Some(first) = systems.into_iter().next() {
                        let call = Call::Host(HostCall::FsUsage { path: first.mountpoint });
                        self.asking_fill = Some(out.issue(Owner::ImageGc, Lane::Housekeeping, PERIOD, call));
                    }
                }
                Ok(_) => {}
                Err(failure) => self.has_failed(failure.message, out),
            }
        } else if self.removing.remove(&id).is_some() {
            self.changed(now);
        } else {
            return Some(outcome);
        }
        None
    }

    /// A host call ended. What was none of these is handed back.
    pub fn host_done(&mut self, id: ActionId, outcome: Result<HostReply, Failure>) -> Option<Result<HostReply, Failure>> {
        if self.asking_fill != Some(id) {
            return Some(outcome);
        }
        self.asking_fill = None;
        if let Ok(HostReply::Fs(fill)) = outcome {
            self.fill = Some(fill);
        }
        None
    }
}

/// formatSize (image_gc_manager.go)
fn format_size(bytes: u64) -> String {
    let units = [("TiB", 1_u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.into_iter().find(|(_, worth)| bytes >= *worth) {
        Some((unit, worth)) => format!("{:.1} {unit}", bytes as f64 / worth as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests;
