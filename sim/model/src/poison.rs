//! Plants panics in the core: for one pod, at one place, so often; or the death of the whole process there.
//! Upstream: none.
//! Differs: nothing on purpose.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use kubelet::ids::PodUid;
use kubelet::work::{OnWork, Point};

/// One planted panic.
#[derive(Debug)]
pub struct Poison {
    pod: PodUid,
    at: Option<Point>,
    kills: bool,
    skip: AtomicU32,
    left: AtomicU32,
    struck: AtomicU32,
    killed: AtomicBool,
}

impl Poison {
    /// The core panics for a pod, wherever or at one place, so often.
    #[must_use]
    pub fn new(pod: PodUid, at: Option<Point>, times: u32) -> Self {
        let (skip, left, struck) = (AtomicU32::new(0), AtomicU32::new(times), AtomicU32::new(0));
        Self { pod, at, kills: false, skip, left, struck, killed: AtomicBool::new(false) }
    }

    /// The same, but it goes well so often before.
    #[must_use]
    pub fn after(self, skip: u32) -> Self {
        Self { skip: AtomicU32::new(skip), ..self }
    }

    /// The same, but the process dies of it, as of an abort.
    #[must_use]
    pub fn that_kills(self) -> Self {
        Self { kills: true, ..self }
    }

    fn meets(&self, at: Point, pod: &PodUid) -> bool {
        let less = |n: &AtomicU32| n.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok();
        self.pod == *pod && self.at.is_none_or(|point| point == at) && !less(&self.skip) && less(&self.left)
    }
}

/// The planted panics of a run, and what the machine keeps of deaths.
#[derive(Debug, Default)]
pub struct Poisons {
    list: Vec<Arc<Poison>>,
    suspects: BTreeMap<PodUid, u32>,
}

impl Poisons {
    /// Plants one.
    pub fn plant(&mut self, poison: Poison) {
        self.list.push(Arc::new(poison));
    }

    /// No more panics from here.
    pub fn heal(&self) {
        for poison in &self.list {
            poison.left.store(0, Ordering::Relaxed);
        }
    }

    /// How many were ever planted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether none was ever planted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How often the core has panicked of them.
    #[must_use]
    pub fn struck(&self) -> u64 {
        self.list.iter().map(|poison| u64::from(poison.struck.load(Ordering::Relaxed))).sum()
    }

    /// The pods of those that never struck.
    pub fn idle(&self) -> impl Iterator<Item = &PodUid> {
        self.list.iter().filter(|poison| poison.struck.load(Ordering::Relaxed) == 0).map(|poison| &poison.pod)
    }

    /// The pods that have one.
    pub fn pods(&self) -> impl Iterator<Item = &PodUid> {
        self.list.iter().map(|poison| &poison.pod)
    }

    /// The core works for a pod: panics if that is planted. Nothing is printed.
    pub fn strike(&self, at: Point, pod: &PodUid) {
        if let Some(poison) = self.list.iter().find(|poison| poison.meets(at, pod)) {
            poison.struck.fetch_add(1, Ordering::Relaxed);
            poison.killed.store(poison.kills, Ordering::Relaxed);
            resume_unwind(Box::new("planted"));
        }
    }

    /// What does so from within the core.
    #[must_use]
    pub fn hook(&self) -> OnWork {
        let all = Self { list: self.list.clone(), suspects: BTreeMap::new() };
        Box::new(move |work| {
            if let Some((at, pod)) = work {
                all.strike(at, pod);
            }
        })
    }

    /// Whether the process has died of one since this was last asked. The machine's mark says of which pod.
    pub fn take_death(&mut self) -> bool {
        let Some(poison) = self.list.iter().find(|poison| poison.killed.swap(false, Ordering::Relaxed)) else { return false };
        *self.suspects.entry(poison.pod.clone()).or_default() += 1;
        true
    }

    /// The process ended while it worked for no pod.
    pub fn ended_well(&mut self) {
        self.suspects.clear();
    }

    /// What the next life is told.
    #[must_use]
    pub fn suspects(&self) -> Vec<(PodUid, u32)> {
        self.suspects.iter().map(|(pod, deaths)| (pod.clone(), *deaths)).collect()
    }
}

#[cfg(test)]
mod tests;
