//! How many connections may wait at the door: of those from which no request has been let in yet.
//! Upstream: none; Go's server takes as many as there are file descriptors, and waits for hours (ReadTimeout 4 h).
//! Differs: so many in all, so many from one address; what is beyond is closed. Whoever was let in once does not count.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// In all: each may hold as much memory as headers may be long.
const MOST: usize = 256;
/// From one address, so that one cannot keep out the others.
const MOST_OF_ONE: usize = 64;

/// The strangers at the door, by address.
#[derive(Debug, Default)]
pub(crate) struct Strangers(Mutex<BTreeMap<IpAddr, usize>>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Stranger {
    all: Arc<Strangers>,
    from: IpAddr,
}

impl Strangers {
    /// One more; `None` if there is no place.
    pub(crate) fn enter(self: &Arc<Self>, from: IpAddr) -> Option<Stranger> {
        let mut waiting = self.lock();
        let (all, of_one) = (waiting.values().sum::<usize>(), waiting.get(&from).copied().unwrap_or(0));
        if all >= MOST || of_one >= MOST_OF_ONE {
            return None;
        }
        waiting.insert(from, of_one + 1);
        Some(Stranger { all: Arc::clone(self), from })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut waiting = self.all.lock();
        if let Some(count) = waiting.get_mut(&self.from) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                waiting.remove(&self.from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // S22
    #[test]
    fn one_address_has_a_share_and_places_are_given_back() {
        let strangers = Arc::new(Strangers::default());
        let address = |last: u8| IpAddr::from([10, 0, 0, last]);
        let enter = |last: u8| -> Vec<Stranger> { (0..100).filter_map(|_| strangers.enter(address(last))).collect() };
        let mut all: Vec<Vec<Stranger>> = (0..5).map(enter).collect();
        assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), [64, 64, 64, 64, 0]);
        all.remove(0);
        assert_eq!(enter(9).len(), 64);
        all.clear();
        assert!(strangers.lock().is_empty());
    }
}
