//! How much may go on at once for each of many: pods, drivers, volumes, files.
//! Upstream: pkg/volume/util/nestedpendingoperations, and a goroutine for each of everything else.
//! Differs: a bound for each subject, so that what hangs for one is no other's loss.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many names are remembered before those that nobody uses are looked for.
const FEW: usize = 64;

/// A bound for each name; names that nobody uses take no room.
#[derive(Debug)]
pub(crate) struct Bounds {
    each: usize,
    names: Mutex<Names>,
}

#[derive(Debug, Default)]
struct Names {
    known: BTreeMap<String, Weak<Semaphore>>,
    /// How many there were after the last look for unused ones.
    used: usize,
}

impl Bounds {
    /// So many places for each name.
    pub(crate) fn new(each: usize) -> Self {
        Self { each, names: Mutex::default() }
    }

    /// A place; waits, in order, until one of that name's is free. It is free again when the permit is dropped.
    pub(crate) async fn enter(&self, name: &str) -> Option<OwnedSemaphorePermit> {
        // A semaphore is never closed, so this only waits.
        self.of(name).acquire_owned().await.ok()
    }

    fn of(&self, name: &str) -> Arc<Semaphore> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = names.known.get(name).and_then(Weak::upgrade) {
            return known;
        }
        if names.known.len() > FEW + 2 * names.used {
            names.known.retain(|_, places| places.strong_count() > 0);
            names.used = names.known.len();
        }
        let places = Arc::new(Semaphore::new(self.each));
        names.known.insert(name.to_owned(), Arc::downgrade(&places));
        places
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    // Issue 10, S5, S6
    #[tokio::test(start_paused = true)]
    async fn one_that_holds_all_its_places_holds_no_others() {
        let bounds = Bounds::new(2);
        let held = [bounds.enter("a").await, bounds.enter("a").await];
        assert!(tokio::time::timeout(Duration::from_secs(60), bounds.enter("a")).await.is_err());
        assert!(bounds.enter("b").await.is_some());
        drop(held);
        assert!(bounds.enter("a").await.is_some());
    }

    #[tokio::test]
    async fn names_that_nobody_uses_are_forgotten() {
        let bounds = Bounds::new(1);
        let held = bounds.enter("used").await;
        for name in 0..10_000 {
            assert!(bounds.enter(&name.to_string()).await.is_some());
        }
        let known = |bounds: &Bounds| bounds.names.lock().unwrap().known.len();
        assert!(known(&bounds) <= FEW + 4, "{}", known(&bounds));
        drop(held);
    }
}
