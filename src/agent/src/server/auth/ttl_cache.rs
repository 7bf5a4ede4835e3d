//! Answers that are kept for a while, bounded in number, with concurrent questions for one key asked once.
//! Upstream: k8s.io/apiserver/pkg/authentication/token/cache, k8s.io/apimachinery/pkg/util/cache.
//! Differs: one least-recently-used list for both caches.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};
use kubelet::failure::{Failure, FailureKind};
use tokio::time::Instant;

/// How long one lookup may take; whoever waits for it waits no longer either (API-024).
const LOOKUP_DEADLINE: Duration = Duration::from_secs(30);

type Question<V> = BoxFuture<'static, Result<V, Failure>>;
type Lookup<V> = Shared<Question<V>>;

struct Entry<V> {
    value: V,
    until: Instant,
    used: u64,
}

struct Inner<K, V> {
    entries: BTreeMap<K, Entry<V>>,
    /// Entries by when they were last used.
    order: BTreeMap<u64, K>,
    /// Lookups, as long as anybody waits for them.
    in_flight: BTreeMap<K, (u64, WeakShared<Question<V>>)>,
    clock: u64,
}

/// Takes a lookup off the list when it ends, or when nobody waits for it any more.
struct InFlight<K: Ord, V> {
    inner: Arc<Mutex<Inner<K, V>>>,
    key: K,
    number: u64,
}

impl<K: Ord, V> Drop for InFlight<K, V> {
    fn drop(&mut self) {
        let mut inner = lock(&self.inner);
        if inner.in_flight.get(&self.key).is_some_and(|(number, _)| *number == self.number) {
            inner.in_flight.remove(&self.key);
        }
    }
}

/// A bounded cache of answers.
pub(crate) struct TtlCache<K, V> {
    capacity: usize,
    inner: Arc<Mutex<Inner<K, V>>>,
}

impl<K: Ord + Clone + Send + 'static, V: Clone + Send + Sync + 'static> TtlCache<K, V> {
    pub(crate) fn new(capacity: usize) -> Self {
        let inner = Inner { entries: BTreeMap::new(), order: BTreeMap::new(), in_flight: BTreeMap::new(), clock: 0 };
        Self { capacity, inner: Arc::new(Mutex::new(inner)) }
    }

    /// The answer that is kept for `key`, or else what `ask` answers, kept for as long as `ttl` says (zero is not at all).
    /// Failures are never kept. The lookup goes on as long as anybody waits for it, whoever asked first.
    pub(crate) async fn get_or_ask(
        &self,
        key: K,
        ttl: impl FnOnce(&V) -> Duration + Send + 'static,
        ask: impl FnOnce() -> Question<V> + Send,
    ) -> Result<V, Failure> {
        let lookup = {
            let mut inner = lock(&self.inner);
            if let Some(value) = inner.fresh(&key) {
                return Ok(value);
            }
            match inner.in_flight.get(&key).and_then(|(_, lookup)| lookup.upgrade()) {
                Some(lookup) => lookup,
                None => {
                    inner.clock += 1;
                    let number = inner.clock;
                    let lookup = self.begin(InFlight { inner: Arc::clone(&self.inner), key: key.clone(), number }, ttl, ask());
                    if let Some(weak) = lookup.downgrade() {
                        inner.in_flight.insert(key, (number, weak));
                    }
                    lookup
                }
            }
        };
        lookup.await
    }

    fn begin(
        &self,
        in_flight: InFlight<K, V>,
        ttl: impl FnOnce(&V) -> Duration + Send + 'static,
        question: Question<V>,
    ) -> Lookup<V> {
        let capacity = self.capacity;
        let lookup = async move {
            let answer = tokio::time::timeout(LOOKUP_DEADLINE, question).await.unwrap_or_else(|_| Err(timed_out()));
            if let Ok(value) = &answer {
                lock(&in_flight.inner).keep(in_flight.key.clone(), value.clone(), ttl(value), capacity);
            }
            answer
        };
        lookup.boxed().shared()
    }

    /// How many lookups are under way.
    #[cfg(test)]
    pub(crate) fn under_way(&self) -> usize {
        lock(&self.inner).in_flight.len()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        lock(&self.inner).entries.len()
    }
}

fn timed_out() -> Failure {
    Failure::new(FailureKind::UnknownOutcome, "the lookup did not end in time")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while it was held cannot have left it half changed in a way that matters: the worst is a lost entry.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K: Ord + Clone, V: Clone> Inner<K, V> {
    fn fresh(&mut self, key: &K) -> Option<V> {
        let now = Instant::now();
        self.clock += 1;
        let entry = self.entries.get_mut(key)?;
        self.order.remove(&entry.used);
        if entry.until <= now {
            self.entries.remove(key);
            return None;
        }
        entry.used = self.clock;
        self.order.insert(self.clock, key.clone());
        Some(entry.value.clone())
    }

    fn keep(&mut self, key: K, value: V, ttl: Duration, capacity: usize) {
        if ttl.is_zero() {
            return;
        }
        while self.entries.len() >= capacity {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            self.entries.remove(&oldest);
        }
        self.clock += 1;
        self.order.insert(self.clock, key.clone());
        let entry = Entry { value, until: Instant::now() + ttl, used: self.clock };
        if let Some(old) = self.entries.insert(key, entry) {
            self.order.remove(&old.used);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answering(value: u32) -> impl FnOnce() -> BoxFuture<'static, Result<u32, Failure>> + Send {
        move || async move { Ok(value) }.boxed()
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_kept_until_its_time_is_over() {
        // INV-04
        let cache = TtlCache::new(8);
        assert_eq!(cache.get_or_ask(1, |_| MINUTE, answering(10)).await.unwrap(), 10);
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!(cache.get_or_ask(1, |_| MINUTE, answering(20)).await.unwrap(), 10);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(cache.get_or_ask(1, |_| MINUTE, answering(30)).await.unwrap(), 30);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_not_kept() {
        // INV-04
        let cache = TtlCache::new(8);
        let failing = || async { Err(Failure::new(FailureKind::Unavailable, "down")) }.boxed();
        assert!(cache.get_or_ask(1, |_| MINUTE, failing).await.is_err());
        assert_eq!(cache.get_or_ask(1, |_| MINUTE, answering(2)).await.unwrap(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_least_recently_used_answer_makes_room() {
        let cache = TtlCache::new(2);
        for key in [1, 2, 1, 3] {
            cache.get_or_ask(key, |_| MINUTE, answering(key)).await.unwrap();
        }
        assert_eq!(cache.len(), 2);
        assert_eq!(cache.get_or_ask(1, |_| MINUTE, answering(100)).await.unwrap(), 1);
        assert_eq!(cache.get_or_ask(2, |_| MINUTE, answering(100)).await.unwrap(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn concurrent_questions_for_one_key_are_asked_once() {
        // API-024
        let cache = TtlCache::new(8);
        let slow = || {
            async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(1)
            }
            .boxed()
        };
        let (first, second) = tokio::join!(cache.get_or_ask(7, |_| MINUTE, slow), cache.get_or_ask(7, |_| MINUTE, answering(2)));
        assert_eq!((first.unwrap(), second.unwrap()), (1, 1));
    }

    // S14
    #[tokio::test(start_paused = true)]
    async fn a_lookup_ends_with_the_last_who_waits_for_it() {
        let cache: TtlCache<u32, u32> = TtlCache::new(8);
        let hung = || futures::future::pending().boxed();
        let mut first = Box::pin(cache.get_or_ask(7, |_| MINUTE, hung));
        let mut second = Box::pin(cache.get_or_ask(7, |_| MINUTE, hung));
        assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
        drop(first);
        assert_eq!(cache.under_way(), 1);
        drop(second);
        assert_eq!(cache.under_way(), 0);
        assert_eq!(cache.get_or_ask(7, |_| MINUTE, answering(3)).await.unwrap(), 3);
        assert_eq!(cache.under_way(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hung_lookup_ends_after_thirty_seconds() {
        // API-024
        let cache: TtlCache<u32, u32> = TtlCache::new(8);
        let started = Instant::now();
        let hung = || futures::future::pending().boxed();
        assert!(cache.get_or_ask(7, |_| MINUTE, hung).await.is_err());
        assert_eq!(started.elapsed().as_secs(), 30);
    }
}
