//! Decides which pulls run now, and which wait for their turn.
//! Upstream: pkg/kubelet/images/{puller,helpers}.go (serialImagePuller, parallelImagePuller, throttledImageService).
//! Differs: a pod has up to four pulls at once instead of one, and no more than half (rounded up) of those of the node; whichever pod's
//! turn was longest ago comes next, however many wait.

use std::collections::{BTreeMap, VecDeque};

use super::Key;
use super::keyring::Credential;
use crate::config::Images;
use crate::ids::{ActionId, PodUid};
use crate::time::Mono;

/// How many pulls one pod may have at once: its images come side by side, and with hundreds it takes neither every turn nor the runtime.
const OF_ONE_POD: usize = 4;

/// What a pull that runs was begun with: enough to keep its record, whoever still wants it.
#[derive(Debug)]
pub(super) struct Running {
    /// For whom.
    pub pod: PodUid,
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
    most_of_one: usize,
    /// Those that wait of each pod, in the order of their turns.
    waiting: VecDeque<(PodUid, VecDeque<Key>)>,
    running: BTreeMap<ActionId, Running>,
    /// How many of them each pod has. A pod without any is not there.
    running_of: BTreeMap<PodUid, usize>,
    per_second: f64,
    burst: f64,
    tokens: f64,
    filled: Mono,
}

impl Pulls {
    pub(super) fn new(settings: &Images) -> Self {
        let burst = f64::from(settings.pull_burst);
        let most = settings.max_parallel_pulls.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
        Self {
            most,
            // A registry may let a pull last as long as it likes: the other half is for others.
            most_of_one: OF_ONE_POD.min(most.div_ceil(2)),
            waiting: VecDeque::new(),
            running: BTreeMap::new(),
            running_of: BTreeMap::new(),
            per_second: f64::from(settings.pull_qps),
            burst,
            tokens: burst,
            filled: Mono::ZERO,
        }
    }

    /// Waits for its turn.
    pub(super) fn wait(&mut self, key: &Key) {
        match self.waiting.iter_mut().find(|(pod, _)| *pod == key.0) {
            Some((_, keys)) => keys.push_back(key.clone()),
            None => self.waiting.push_back((key.0.clone(), VecDeque::from([key.clone()]))),
        }
    }

    /// Does not wait any more.
    pub(super) fn give_up(&mut self, unwanted: impl Fn(&Key) -> bool) {
        self.waiting.retain_mut(|(_, keys)| {
            keys.retain(|key| !unwanted(key));
            !keys.is_empty()
        });
    }

    /// Whose turn it is, if there is room.
    pub(super) fn next(&mut self) -> Option<Key> {
        if self.waiting.is_empty() || self.running.len() >= self.most {
            return None;
        }
        let may = |(pod, _): &(PodUid, VecDeque<Key>)| self.running_of.get(pod).is_none_or(|own| *own < self.most_of_one);
        let at = self.waiting.iter().position(may)?;
        let (pod, mut keys) = self.waiting.remove(at)?;
        let key = keys.pop_front();
        if !keys.is_empty() {
            self.waiting.push_back((pod, keys));
        }
        key
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
        *self.running_of.entry(pull.pod.clone()).or_default() += 1;
        self.running.insert(action, pull);
    }

    /// A call ended, if it was one of these.
    pub(super) fn ended(&mut self, action: ActionId) -> Option<Running> {
        let pull = self.running.remove(&action)?;
        if let Some(own) = self.running_of.get_mut(&pull.pod) {
            *own -= 1;
            if *own == 0 {
                self.running_of.remove(&pull.pod);
            }
        }
        Some(pull)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn pulls(most: Option<u32>) -> Pulls {
        let mut settings = Config::new("n1").images;
        settings.max_parallel_pulls = most;
        Pulls::new(&settings)
    }

    fn waits(pulls: &mut Pulls, pod: &str, images: usize) {
        for image in 0..images {
            pulls.wait(&(PodUid::new(pod), format!("c{image}")));
        }
    }

    /// The pods whose pulls begin now.
    fn begin(pulls: &mut Pulls, next: &mut u64) -> Vec<String> {
        let mut begun = Vec::new();
        while let Some((pod, _)) = pulls.next() {
            *next += 1;
            begun.push(pod.to_string());
            pulls.began(ActionId(*next), Running { pod, image: String::new(), credential: None, in_doubt: false });
        }
        begun
    }

    // Issue 10: puller.go (serialImagePuller): a kubelet's pod has one request in the queue at a time, so another pod waits for one pull of it.
    #[test]
    fn pod_with_hundreds_of_images_leaves_every_second_turn_to_another() {
        let (mut pulls, mut next, mut turns) = (pulls(Some(1)), 0, Vec::new());
        waits(&mut pulls, "large", 200);
        turns.extend(begin(&mut pulls, &mut next));
        waits(&mut pulls, "small", 2);
        for id in 1..6 {
            assert!(pulls.ended(ActionId(id)).is_some());
            turns.extend(begin(&mut pulls, &mut next));
        }
        assert_eq!(turns, ["large", "large", "small", "large", "small", "large"]);
        pulls.give_up(|key| key.0.as_str() == "large");
        assert!(pulls.waiting.is_empty());
    }

    // Issue 10: puller.go (parallelImagePuller): without a bound of the node, a kubelet has one pull for each pod.
    #[test]
    fn pod_has_few_pulls_at_once_where_the_node_has_no_bound() {
        let (mut pulls, mut next) = (pulls(None), 0);
        waits(&mut pulls, "large", 3000);
        waits(&mut pulls, "small", 1);
        assert_eq!(begin(&mut pulls, &mut next), ["large", "small", "large", "large", "large"]);
        pulls.ended(ActionId(1));
        assert_eq!(begin(&mut pulls, &mut next), ["large"]);
    }

    // puller.go (parallelImagePuller): a kubelet's pod has one of the node's tokens at a time, so that pulls without end leave the others.
    #[test]
    fn pod_leaves_half_of_the_nodes_pulls_to_others() {
        for (most, of_one) in [(Some(1), 1), (Some(2), 1), (Some(3), 2), (Some(4), 2), (Some(100), 4), (None, 4)] {
            let (mut pulls, mut next) = (pulls(most), 0);
            waits(&mut pulls, "large", 9);
            assert_eq!(begin(&mut pulls, &mut next), vec!["large"; of_one], "{most:?}");
            waits(&mut pulls, "small", 1);
            let small: &[&str] = if most == Some(1) { &[] } else { &["small"] };
            assert_eq!(begin(&mut pulls, &mut next), small, "{most:?}");
            // Whatever ends gives its place back, and what was ended does so once.
            for _ in 0..2 {
                for id in 1..=next {
                    pulls.ended(ActionId(id));
                }
            }
            assert!(pulls.running_of.is_empty(), "{most:?}");
            pulls.give_up(|key| key.0.as_str() == "small");
            assert_eq!(begin(&mut pulls, &mut next), vec!["large"; of_one], "{most:?}");
        }
    }
}
