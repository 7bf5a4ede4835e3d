//! How many connections may wait at the door: of those from which no request has been let in yet.
//! Upstream: none; Go's server takes as many as there are file descriptors, and waits for hours (ReadTimeout 4 h).
//! Differs: so many in all, so many from one address. One more waits for its turn if no address has more places than its own, until one is
//! let in or the oldest of its address has been there for a second and is ended; else the oldest of the address that has most is ended at
//! once. Whoever was let in once does not count, but where all are: there each connection does while it lasts.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
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
/// How many connections wait for a place at the door, unread.
const MOST_OUTSIDE: usize = 4096;
/// From one address. One more, and the first of them waits no longer: the oldest inside pays for it.
const MOST_OUTSIDE_OF_ONE: usize = 320;

/// The strangers at the door, by address.
#[derive(Debug, Default)]
pub(crate) struct Strangers {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    came: u64,
    /// Those of each address in the order in which they came, since when, and what ends them. An address without any is not there.
    by_address: BTreeMap<IpAddr, BTreeMap<u64, (Instant, CancellationToken)>>,
    /// Those of each address who wait for a place, in the order in which they came. An address without any is not there.
    outside: BTreeMap<IpAddr, BTreeMap<u64, Comer>>,
}

/// Somebody who waits for a place.
#[derive(Debug)]
struct Comer {
    over: CancellationToken,
    /// Its turn has come, or it is the first of its address now.
    told: Arc<Notify>,
}

/// What somebody does who has come.
#[derive(Clone, Copy, Debug)]
enum Turn {
    GoesIn,
    /// Of those from its address: until then, if nobody leaves.
    WaitsFirst(Instant),
    Waits,
}

/// One of them, until it is dropped: inside, or still outside.
#[derive(Debug)]
pub(crate) struct Stranger {
    all: Arc<Strangers>,
    from: IpAddr,
    number: u64,
}

/// Whose an address is: a machine has all of its loopback addresses, and a network of 64 bits of IPv6 as many as it likes.
fn owner(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        address if address.is_loopback() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address => address,
    }
}

impl Strangers {
    /// One more, which is told by `over` when it has to make room for another. It is never turned away itself: whoever has places keeps
    /// them for as long as it likes, refused or not, and whoever comes later may be the API server.
    pub(crate) async fn enter(self: &Arc<Self>, from: IpAddr, over: CancellationToken) -> Stranger {
        let (from, told) = (owner(from), Arc::new(Notify::new()));
        // Whoever gives up meanwhile leaves: the line outside, or the place that it has got and does not know of.
        let stranger = self.come(from, Comer { over, told: Arc::clone(&told) }, Instant::now());
        loop {
            let turn = self.lock().turn(from, stranger.number, Instant::now());
            match turn {
                Turn::GoesIn => return stranger,
                Turn::WaitsFirst(until) => {
                    tokio::select! {
                        biased;
                        () = told.notified() => {}
                        () = tokio::time::sleep_until(until) => {}
                    }
                }
                Turn::Waits => told.notified().await,
            }
        }
    }

    fn come(self: &Arc<Self>, from: IpAddr, comer: Comer, now: Instant) -> Stranger {
        let number = self.lock().come(from, comer, now);
        Stranger { all: Arc::clone(self), from, number }
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

    /// Whose oldest has to make room for one more from there. Where others have just as many it is its own: else those who have most
    /// would end one another's for ever.
    fn crowd(&self, from: IpAddr) -> Option<IpAddr> {
        let own = self.of(from);
        if own >= MOST_OF_ONE {
            return Some(from);
        }
        if self.all() < MOST {
            return None;
        }
        self.most().map(|most| if own < self.of(most) { most } else { from })
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

    fn outside_of(&self, address: IpAddr) -> usize {
        self.outside.get(&address).map_or(0, BTreeMap::len)
    }

    fn first_outside(&self, address: IpAddr) -> Option<u64> {
        self.outside.get(&address)?.keys().next().copied()
    }

    /// One more: it goes in, or waits behind those who came from there before. Its number is the answer.
    fn come(&mut self, from: IpAddr, comer: Comer, now: Instant) -> u64 {
        self.came += 1;
        let number = self.came;
        self.outside.entry(from).or_default().insert(number, comer);
        self.let_in(from, now);
        let longest = || self.outside.iter().max_by_key(|(_, of_one)| of_one.len()).map(|(address, _)| *address);
        let too_many = if self.outside_of(from) > MOST_OUTSIDE_OF_ONE {
            Some(from)
        } else if self.outside.values().map(BTreeMap::len).sum::<usize>() > MOST_OUTSIDE {
            longest()
        } else {
            None
        };
        if let Some(address) = too_many {
            if let Some(crowded) = self.crowd(address) {
                self.end_oldest(crowded);
            }
            self.go_in(address, now);
        }
        number
    }

    /// How it stands with one who has come. Who is the first of its address goes in if it may.
    fn turn(&mut self, from: IpAddr, number: u64, now: Instant) -> Turn {
        let is_first = self.first_outside(from) == Some(number);
        let until = if is_first { self.let_in(from, now) } else { None };
        match (self.first_outside(from), until) {
            (Some(first), Some(until)) if first == number => Turn::WaitsFirst(until),
            (Some(first), _) if first < number => Turn::Waits,
            _ => Turn::GoesIn,
        }
    }

    /// Lets in those who wait from there for as long as one may go in. Answers how long the first of the others waits, if there is one.
    fn let_in(&mut self, from: IpAddr, now: Instant) -> Option<Instant> {
        while self.outside.contains_key(&from) {
            if let Some(crowded) = self.crowd(from) {
                let until = self.oldest(crowded).map_or(now, |since| since + PATIENCE);
                if crowded == from && until > now {
                    return Some(until);
                }
                self.end_oldest(crowded);
            }
            self.go_in(from, now);
        }
        None
    }

    /// The first who waits from there has its place now.
    fn go_in(&mut self, from: IpAddr, now: Instant) {
        let first = self.outside.get_mut(&from).and_then(BTreeMap::pop_first);
        if let Some((number, Comer { over, told })) = first {
            self.by_address.entry(from).or_default().insert(number, (now, over));
            told.notify_one();
        }
        self.tell_first(from);
    }

    /// Somebody else may be the first who waits from there.
    fn tell_first(&mut self, from: IpAddr) {
        if let Some(first) = self.outside.get(&from).and_then(|of_one| of_one.values().next()) {
            first.told.notify_one();
        } else {
            self.outside.remove(&from);
        }
    }

    /// A place is free that somebody from there had. It is for one who waits: of the address that has the fewest, of its own if others have
    /// as few.
    fn pass_on(&mut self, from: IpAddr, now: Instant) {
        let all = self.outside.keys().map(|address| (self.of(*address), *address != from, self.first_outside(*address), *address));
        if let Some((.., next)) = all.filter(|(places, ..)| *places < MOST_OF_ONE).min() {
            self.go_in(next, now);
        }
    }

    fn leave(&mut self, from: IpAddr, number: u64, now: Instant) {
        let outside = self.outside.get_mut(&from).and_then(|of_one| of_one.remove(&number));
        if outside.is_some() {
            self.tell_first(from);
            return;
        }
        let Some(of_one) = self.by_address.get_mut(&from) else { return };
        // Whoever made room has given its place back.
        let had_place = of_one.remove(&number).is_some();
        if of_one.is_empty() {
            self.by_address.remove(&from);
        }
        if had_place {
            self.pass_on(from, now);
        }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.all.lock().leave(self.from, self.number, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Waker};

    use futures::FutureExt as _;
    use tokio::task::JoinSet;

    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    /// So many of one address, long after one another: each with what says that it is over.
    fn enter(strangers: &Arc<Strangers>, last: u8, count: usize) -> Vec<(Stranger, CancellationToken)> {
        let one = |_| {
            let (over, now) = (CancellationToken::new(), Instant::now() + PATIENCE * u32::try_from(strangers.lock().came).unwrap());
            let stranger = strangers.come(address(last), Comer { over: over.clone(), told: Arc::default() }, now);
            assert!(strangers.lock().outside.is_empty());
            (stranger, over)
        };
        (0..count).map(one).collect()
    }

    /// How many of one address are inside, and how many outside.
    fn state(strangers: &Strangers, last: u8) -> (usize, usize) {
        let waiting = strangers.lock();
        (waiting.of(address(last)), waiting.outside_of(address(last)))
    }

    /// So many of one address for whom there is room.
    async fn hold(strangers: &Arc<Strangers>, last: u8, count: usize) -> Vec<Stranger> {
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(strangers.enter(address(last), CancellationToken::new()).await);
        }
        all
    }

    /// Connections, and how many of them were served.
    #[derive(Default)]
    struct Visitors {
        tasks: JoinSet<()>,
        served: Arc<AtomicUsize>,
    }

    impl Visitors {
        /// So many more of one address, who are let in that long after they got a place.
        fn come(&mut self, strangers: &Arc<Strangers>, last: u8, count: usize, takes: Duration) {
            for _ in 0..count {
                let (strangers, served) = (Arc::clone(strangers), Arc::clone(&self.served));
                self.tasks.spawn(async move {
                    let over = CancellationToken::new();
                    let _place = strangers.enter(address(last), over.clone()).await;
                    tokio::select! {
                        biased;
                        () = over.cancelled() => {}
                        () = tokio::time::sleep(takes) => { served.fetch_add(1, Ordering::Relaxed); }
                    }
                });
            }
        }

        fn served(&self) -> usize {
            self.served.load(Ordering::Relaxed)
        }
    }

    const SOON: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(100);

    // Issue 10: three hundred who come at once and are let in one by one all get their turn; who takes more than a second makes room.
    #[tokio::test(start_paused = true)]
    async fn burst_of_one_address_waits_for_its_turn() {
        let (strangers, mut visitors) = (Arc::new(Strangers::default()), Visitors::default());
        visitors.come(&strangers, 1, 1, LONG);
        visitors.come(&strangers, 1, 299, SOON);
        tokio::time::sleep(Duration::from_millis(900)).await;
        assert_eq!(visitors.served(), 299);
        let began = Instant::now();
        let idle: Vec<_> = futures::future::join_all((0..64).map(|_| strangers.enter(address(1), CancellationToken::new()))).await;
        assert!(began.elapsed() <= PATIENCE, "{:?}", began.elapsed());
        let _one_more = strangers.enter(address(1), CancellationToken::new()).await;
        assert!(began.elapsed() <= PATIENCE * 2);
        let other = Instant::now();
        let _other = strangers.enter(address(2), CancellationToken::new()).await;
        assert_eq!(other.elapsed(), Duration::ZERO, "another address does not wait for this one's");
        drop(idle);
        while visitors.tasks.join_next().await.is_some() {}
        assert!(strangers.lock().outside.is_empty());
    }

    // Issue 10: those who keep more waiting than may wait take nobody else's turn, from one address or from several.
    #[tokio::test(start_paused = true)]
    async fn burst_of_one_address_is_served_while_others_flood() {
        for floods in [1, 8] {
            let (strangers, mut flood, mut burst) = (Arc::new(Strangers::default()), Visitors::default(), Visitors::default());
            for last in 1..=floods {
                flood.come(&strangers, last, 1100, LONG);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            for last in 1..=floods {
                assert_eq!(state(&strangers, last).1, MOST_OUTSIDE_OF_ONE);
            }
            burst.come(&strangers, 100, 300, SOON);
            tokio::time::sleep(Duration::from_millis(900)).await;
            assert_eq!(burst.served(), 300, "while {floods} flood");
            assert!(strangers.lock().outside.values().map(BTreeMap::len).sum::<usize>() <= MOST_OUTSIDE);
            assert!((1..=floods).all(|last| state(&strangers, last).0 <= MOST_OF_ONE));
        }
    }

    // S22: the crowd pays for one more, though its oldest has come just now, and whoever else comes does not wait.
    #[tokio::test(start_paused = true)]
    async fn crowds_of_others_keep_nobody_waiting() {
        let (strangers, mut flood) = (Arc::new(Strangers::default()), Visitors::default());
        for last in 1..=4 {
            flood.come(&strangers, last, 300, LONG);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        let began = Instant::now();
        let _places = hold(&strangers, 5, 20).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        let inside: Vec<usize> = (1..=5).map(|last| state(&strangers, last).0).collect();
        assert_eq!(inside, [59, 59, 59, 59, 20]);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_goes_away_passes_its_turn_on() {
        let strangers = Arc::new(Strangers::default());
        let mut inside = hold(&strangers, 1, MOST_OF_ONE).await;
        let began = Instant::now();
        let waits = || Box::pin(strangers.enter(address(1), CancellationToken::new()));
        let (mut first, mut second, mut third, mut fourth) = (waits(), waits(), waits(), waits());
        for one in [&mut first, &mut second, &mut third, &mut fourth] {
            assert!(one.as_mut().now_or_never().is_none());
        }
        // Its turn has come, and it does not know of it.
        drop(inside.pop());
        drop(first);
        assert_eq!(state(&strangers, 1), (MOST_OF_ONE, 2));
        let second = second.as_mut().now_or_never();
        assert!(second.is_some());
        assert!(third.as_mut().now_or_never().is_none());
        // It is the first of those who wait; whoever comes next looks at the time then.
        drop(third);
        let fourth = tokio::time::timeout(PATIENCE * 2, fourth).await;
        assert!(fourth.is_ok());
        assert_eq!(began.elapsed().as_secs(), PATIENCE.as_secs());
        assert!(strangers.lock().outside.is_empty());
        drop((inside, second, fourth));
        assert!(strangers.lock().by_address.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn where_all_places_are_taken_one_waits_for_that_of_any_address() {
        let strangers = Arc::new(Strangers::default());
        let mut others = Vec::new();
        for last in 1..=4 {
            others.push(hold(&strangers, last, MOST_OF_ONE - 1).await);
        }
        let _more = hold(&strangers, 5, 4).await;
        let mut waits = Box::pin(strangers.enter(address(1), CancellationToken::new()));
        assert!(waits.as_mut().now_or_never().is_none());
        assert_eq!(state(&strangers, 1), (MOST_OF_ONE - 1, 1), "nobody has more, so that nobody else pays");
        drop(others[1].pop());
        assert!(waits.as_mut().now_or_never().is_some());
    }

    /// How often somebody was woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_leaves_wakes_the_first_and_the_next() {
        let strangers = Arc::new(Strangers::default());
        let mut inside = hold(&strangers, 1, MOST_OF_ONE).await;
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        let mut waiting: Vec<_> = (0..20).map(|_| Box::pin(strangers.enter(address(1), CancellationToken::new()))).collect();
        for one in &mut waiting {
            assert!(one.as_mut().poll(&mut context).is_pending());
        }
        woken.0.store(0, Ordering::Relaxed);
        drop(inside.pop());
        assert_eq!(woken.0.load(Ordering::Relaxed), 2, "one goes in, and one is the first of those who wait");
        let mut came = Vec::new();
        for (index, one) in waiting.iter_mut().enumerate() {
            if let Poll::Ready(stranger) = one.as_mut().poll(&mut context) {
                came.push((index, stranger));
            }
        }
        assert_eq!(came.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [0]);
    }

    // S22: 127.0.0.0/8 is one machine's, and so is each /64 of IPv6 (RFC 4291, 2.5.4).
    #[test]
    fn addresses_of_one_owner_are_one() {
        let of = |address: &str| owner(address.parse().unwrap()).to_string();
        let cases = [
            ("10.0.0.1", "10.0.0.1"),
            ("127.3.2.1", "127.0.0.1"),
            ("::1", "127.0.0.1"),
            ("::ffff:127.0.0.9", "127.0.0.1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("2001:db8:1:3::1", "2001:db8:1:3::"),
        ];
        for (address, whose) in cases {
            assert_eq!(of(address), whose);
        }
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
