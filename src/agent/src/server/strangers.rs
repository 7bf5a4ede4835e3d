//! How many connections may wait at the door: of those from which no request has been let in yet.
//! Upstream: none; Go's server takes as many as there are file descriptors, and waits for hours (ReadTimeout 4 h).
//! Differs: so many in all, so many from one address; one more waits until one is let in, or a second at most, and then ends the oldest of
//! the address that has most. Whoever was let in once does not count, but where all are: there each connection does while it lasts.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// In all: each may hold as much memory as headers may be long.
const MOST: usize = 256;
/// From one address, so that one cannot keep out the others.
const MOST_OF_ONE: usize = 64;
/// How long one may wait at the door before another takes its place: the API server brings hundreds at once, and each needs a moment.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many connections wait for a place at the door, unread; those beyond wait for nobody.
const MOST_OUTSIDE: usize = 1024;

/// The strangers at the door, by address.
#[derive(Debug, Default)]
pub(crate) struct Strangers {
    waiting: Mutex<Waiting>,
    left: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    came: u64,
    /// Those who wait for a place.
    outside: usize,
    /// Those of each address in the order in which they came, since when, and what ends them. An address without any is not there.
    by_address: BTreeMap<IpAddr, BTreeMap<u64, (Instant, CancellationToken)>>,
}

/// Somebody who waits for a place, until this is dropped.
#[derive(Debug)]
struct Outside<'a>(&'a Strangers);

impl Drop for Outside<'_> {
    fn drop(&mut self) {
        self.0.lock().outside -= 1;
    }
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
    pub(crate) async fn enter(self: &Arc<Self>, from: IpAddr, over: CancellationToken) -> Stranger {
        self.lock().outside += 1;
        let _outside = Outside(self);
        loop {
            let mut left = std::pin::pin!(self.left.notified());
            // Whoever leaves from here on is noticed.
            left.as_mut().enable();
            let again = match self.try_enter(from, &over, Instant::now()) {
                Ok(stranger) => return stranger,
                Err(again) => again,
            };
            tokio::select! {
                () = left => {}
                () = tokio::time::sleep_until(again) => {}
            }
        }
    }

    /// Takes a place now; or says when the oldest of those who have one will have had it for long enough.
    fn try_enter(self: &Arc<Self>, from: IpAddr, over: &CancellationToken, now: Instant) -> Result<Stranger, Instant> {
        let mut waiting = self.lock();
        let crowded = match waiting.of(from) >= MOST_OF_ONE {
            true => Some(from),
            false => Some(waiting.most()).filter(|_| waiting.all() >= MOST).flatten(),
        };
        if let Some(crowded) = crowded {
            let until = waiting.oldest(crowded).map_or(now, |since| since + PATIENCE);
            if until > now && waiting.outside <= MOST_OUTSIDE {
                return Err(until);
            }
            waiting.end_oldest(crowded);
        }
        waiting.came += 1;
        let number = waiting.came;
        waiting.by_address.entry(from).or_default().insert(number, (now, over.clone()));
        Ok(Stranger { all: Arc::clone(self), from, number })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn oldest(&self, address: IpAddr) -> Option<Instant> {
        self.by_address.get(&address)?.values().next().map(|(since, _)| *since)
    }

    fn end_oldest(&mut self, address: IpAddr) {
        let Some(of_one) = self.by_address.get_mut(&address) else { return };
        if let Some((_, (_, over))) = of_one.pop_first() {
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
        self.all.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    /// So many of one address, long after one another: each with what says that it is over.
    fn enter(strangers: &Arc<Strangers>, last: u8, count: usize) -> Vec<(Stranger, CancellationToken)> {
        let one = |_| {
            let (over, now) = (CancellationToken::new(), Instant::now() + PATIENCE * u32::try_from(strangers.lock().came).unwrap());
            (strangers.try_enter(address(last), &over, now).unwrap(), over)
        };
        (0..count).map(one).collect()
    }

    // Issue 10: three hundred who come at once and are let in one by one all get their turn; who takes more than a second makes room.
    #[tokio::test(start_paused = true)]
    async fn burst_of_one_address_waits_for_its_turn() {
        let strangers = Arc::new(Strangers::default());
        let served = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..300 {
            let (strangers, served) = (Arc::clone(&strangers), Arc::clone(&served));
            tasks.spawn(async move {
                let over = CancellationToken::new();
                let _place = strangers.enter(address(1), over.clone()).await;
                let takes = if number == 0 { Duration::from_secs(100) } else { Duration::from_millis(50) };
                tokio::select! {
                    () = over.cancelled() => {}
                    () = tokio::time::sleep(takes) => { served.fetch_add(1, std::sync::atomic::Ordering::Relaxed); }
                }
            });
        }
        tokio::time::sleep(Duration::from_millis(900)).await;
        assert_eq!(served.load(std::sync::atomic::Ordering::Relaxed), 299);
        let began = Instant::now();
        let idle: Vec<_> = futures::future::join_all((0..64).map(|_| strangers.enter(address(1), CancellationToken::new()))).await;
        assert!(began.elapsed() <= PATIENCE, "{:?}", began.elapsed());
        let _one_more = strangers.enter(address(1), CancellationToken::new()).await;
        assert!(began.elapsed() <= PATIENCE * 2);
        let other = Instant::now();
        let _other = strangers.enter(address(2), CancellationToken::new()).await;
        assert_eq!(other.elapsed(), Duration::ZERO, "another address does not wait for this one's");
        drop(idle);
        while tasks.join_next().await.is_some() {}
        assert_eq!(strangers.lock().outside, 0);
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
