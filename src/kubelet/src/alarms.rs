//! Keeps who waits until when, in order, so that an event costs those whose time has come and not everybody who waits.
//! Upstream: staging/src/k8s.io/client-go/util/workqueue/delaying_queue.go.
//! Differs: nothing waits in it; it is asked for the earliest moment, and for those whose moment has come.

use std::collections::{BTreeMap, BTreeSet};

use crate::time::Mono;

/// At most one moment for each key.
#[derive(Clone, Debug)]
pub struct Alarms<K> {
    of: BTreeMap<K, Mono>,
    in_order: BTreeSet<(Mono, K)>,
}

impl<K> Default for Alarms<K> {
    fn default() -> Self {
        Self { of: BTreeMap::new(), in_order: BTreeSet::new() }
    }
}

impl<K: Clone + Ord> Alarms<K> {
    /// Sets, moves or takes back the moment of one key.
    pub fn set(&mut self, key: &K, at: Option<Mono>) {
        let was = self.of.get(key).copied();
        if was == at {
            return;
        }
        if let Some(was) = was {
            self.in_order.remove(&(was, key.clone()));
        }
        match at {
            Some(at) => {
                self.of.insert(key.clone(), at);
                self.in_order.insert((at, key.clone()));
            }
            None => {
                self.of.remove(key);
            }
        }
    }

    /// The earliest moment of all.
    #[must_use]
    pub fn first(&self) -> Option<Mono> {
        self.in_order.first().map(|(at, _)| *at)
    }

    /// Those whose moment has come, in the order of their moments. They stay until they are set anew.
    pub fn due(&self, now: Mono) -> impl Iterator<Item = &K> {
        self.in_order.iter().take_while(move |(at, _)| *at <= now).map(|(_, key)| key)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> Mono {
        Mono::from_start(Duration::from_secs(seconds))
    }

    // POD-053
    #[test]
    fn whose_time_has_come_is_told_in_order_until_it_is_set_anew() {
        let mut alarms = Alarms::default();
        for (key, seconds) in [("late", 9), ("soon", 2), ("now", 1)] {
            alarms.set(&key, Some(at(seconds)));
        }
        assert_eq!(alarms.first(), Some(at(1)));
        assert_eq!(alarms.due(at(2)).collect::<Vec<_>>(), [&"now", &"soon"]);
        alarms.set(&"now", None);
        alarms.set(&"soon", Some(at(10)));
        assert_eq!(alarms.due(at(9)).collect::<Vec<_>>(), [&"late"]);
        assert_eq!(alarms.first(), Some(at(9)));
        alarms.set(&"late", None);
        alarms.set(&"soon", None);
        assert_eq!(alarms.first(), None);
    }
}
