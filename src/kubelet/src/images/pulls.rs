//! Decides which pulls run now, and which wait for their turn.
//! Upstream: pkg/kubelet/images/{puller,helpers}.go (serialImagePuller, parallelImagePuller, throttledImageService).
//! Differs: pulls wait in the order in which they were asked for, however many there are.

use std::collections::{BTreeMap, VecDeque};

use super::Key;
use super::keyring::Credential;
use crate::config::Images;
use crate::ids::ActionId;
use crate::time::Mono;

/// What a pull that runs was begun with: enough to keep its record, whoever still wants it.
#[derive(Debug)]
pub(super) struct Running {
    /// As the spec names it.
    pub image: String,
    /// `None` if anonymous.
    pub credential: Option<Credential>,
    /// Nobody knows how an earlier try with another credential ended.
    pub in_doubt: bool,
}

/// The pulls of the node.
#[derive(Debug)]
pub(super) struct Pulls {
    most: usize,
    waiting: VecDeque<Key>,
    running: BTreeMap<ActionId, Running>,
    per_second: f64,
    burst: f64,
    tokens: f64,
    filled: Mono,
}

impl Pulls {
    pub(super) fn new(settings: &Images) -> Self {
        let burst = f64::from(settings.pull_burst);
        Self {
            most: settings.max_parallel_pulls.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX)),
            waiting: VecDeque::new(),
            running: BTreeMap::new(),
            per_second: f64::from(settings.pull_qps),
            burst,
            tokens: burst,
            filled: Mono::ZERO,
        }
    }

    /// Waits for its turn.
    pub(super) fn wait(&mut self, key: &Key) {
        self.waiting.push_back(key.clone());
    }

    /// Does not wait any more.
    pub(super) fn give_up(&mut self, unwanted: impl Fn(&Key) -> bool) {
        self.waiting.retain(|key| !unwanted(key));
    }

    /// Whose turn it is, if there is room.
    pub(super) fn next(&mut self) -> Option<Key> {
        if self.running.len() < self.most { self.waiting.pop_front() } else { None }
    }

    /// Whether one more pull may begin by `registryPullQPS` and `registryBurst` (POD-204): one that may not fails.
    pub(super) fn may_begin(&mut self, now: Mono) -> bool {
        if self.per_second == 0.0 {
            return true;
        }
        let gained = now.since(self.filled).as_secs_f64() * self.per_second;
        self.tokens = (self.tokens + gained).min(self.burst);
        self.filled = now;
        let may = self.tokens >= 1.0;
        if may {
            self.tokens -= 1.0;
        }
        may
    }

    pub(super) fn began(&mut self, action: ActionId, pull: Running) {
        self.running.insert(action, pull);
    }

    /// A call ended, if it was one of these.
    pub(super) fn ended(&mut self, action: ActionId) -> Option<Running> {
        self.running.remove(&action)
    }
}
