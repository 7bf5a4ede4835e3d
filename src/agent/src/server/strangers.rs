//! How many connections may wait at the door: of those from which no request has been let in yet.
//! Upstream: none; Go's server takes as many as there are file descriptors, and waits for hours (ReadTimeout 4 h).
//! Differs: so many in all, so many from one address; one more ends the oldest of the address that has most. Whoever was let in once does
//! not count, but where all are: there each connection does, for as long as it lasts.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// In all: each may hold as much memory as headers may be long.
const MOST: usize = 256;
/// From one address, so that one cannot keep out the others.
const MOST_OF_ONE: usize = 64;

/// The strangers at the door, by address.
#[derive(Debug, Default)]
pub(crate) struct Strangers(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    came: u64,
    /// Those of each address in the order in which they came, and what ends them. An address without any is not there.
    by_address: BTreeMap<IpAddr, BTreeMap<u64, CancellationToken>>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Stranger {
    all: Arc<Strangers>,
    from: IpAddr,
    number: u64,
}

impl Strangers {
    /// One more, which is told by `over` when it has to make room for another. It is never turned away itself: whoever has places keeps
    /// them for as long as it likes, refused or not, and whoever comes later may be the API server.
    pub(crate) fn enter(self: &Arc<Self>, from: IpAddr, over: CancellationToken) -> Stranger {
        let mut waiting = self.lock();
        if waiting.of(from) >= MOST_OF_ONE {
            waiting.end_oldest(from);
        } else if waiting.all() >= MOST
            && let Some(most) = waiting.most()
        {
            waiting.end_oldest(most);
        }
        waiting.came += 1;
        let number = waiting.came;
        waiting.by_address.entry(from).or_default().insert(number, over);
        Stranger { all: Arc::clone(self), from, number }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn all(&self) -> usize {
        self.by_address.values().map(BTreeMap::len).sum()
    }

    fn of(&self, address: IpAddr) -> usize {
        self.by_address.get(&address).map_or(0, BTreeMap::len)
    }

    /// The address that has most places; of several, the one that has had one the longest.
    fn most(&self) -> Option<IpAddr> {
        let places = |(_, of_one): &(&IpAddr, &BTreeMap<u64, _>)| (of_one.len(), Reverse(of_one.keys().next().copied()));
        self.by_address.iter().max_by_key(places).map(|(address, _)| *address)
    }

    fn end_oldest(&mut self, address: IpAddr) {
        let Some(of_one) = self.by_address.get_mut(&address) else { return };
        if let Some((_, over)) = of_one.pop_first() {
            over.cancel();
        }
        if of_one.is_empty() {
            self.by_address.remove(&address);
        }
    }

    fn leave(&mut self, address: IpAddr, number: u64) {
        if let Some(of_one) = self.by_address.get_mut(&address) {
            of_one.remove(&number);
            if of_one.is_empty() {
                self.by_address.remove(&address);
            }
        }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.all.lock().leave(self.from, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    /// So many of one address: each with what says that it is over.
    fn enter(strangers: &Arc<Strangers>, last: u8, count: usize) -> Vec<(Stranger, CancellationToken)> {
        let one = |_| {
            let over = CancellationToken::new();
            (strangers.enter(address(last), over.clone()), over)
        };
        (0..count).map(one).collect()
    }

    fn over(all: &[(Stranger, CancellationToken)]) -> Vec<usize> {
        all.iter().enumerate().filter(|(_, (_, over))| over.is_cancelled()).map(|(index, _)| index).collect()
    }

    // S22
    #[test]
    fn one_address_has_a_share_and_places_are_given_back() {
        let strangers = Arc::new(Strangers::default());
        let ours = enter(&strangers, 1, 66);
        assert_eq!(over(&ours), [0, 1], "the oldest of the same address make room");
        let mut others: Vec<_> =
            [(2, 64), (3, 64), (4, 63)].into_iter().map(|(last, count)| enter(&strangers, last, count)).collect();
        let good = enter(&strangers, 5, 2);
        assert_eq!((over(&ours), over(&others[0])), (vec![0, 1, 2], vec![]), "of those who have most, the oldest");
        let more = enter(&strangers, 6, 2);
        assert_eq!((over(&others[0]), over(&others[1]), over(&others[2])), (vec![0], vec![0], vec![]));
        assert_eq!((over(&good), over(&more)), (vec![], vec![]));
        // Whoever made room gives back nothing that is not his.
        drop(ours);
        assert_eq!(strangers.lock().of(address(1)), 0);
        assert_eq!(strangers.lock().all(), 256 - 63);
        others.clear();
        drop((good, more));
        assert!(strangers.lock().by_address.is_empty());
    }
}
