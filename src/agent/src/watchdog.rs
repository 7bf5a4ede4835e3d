//! Tells systemd's watchdog that the agent is alive, while its event loop turns.
//! Upstream: pkg/kubelet/watchdog/watchdog_linux.go.
//! Differs: the loop is healthy if it answers within half the watchdog's time; a kubelet's may stand still for five minutes.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::event_loop::Handle;

/// How soon a notification that failed is sent again, once.
const AGAIN: Duration = Duration::from_secs(1);

/// What is watched: nothing until there is a loop, for joining the cluster may take an hour. Cheap to clone.
#[derive(Clone, Default)]
pub struct Watched {
    watched: Arc<OnceLock<Handle>>,
}

impl Watched {
    /// From now on the process is only as alive as that loop.
    pub fn watch(&self, event_loop: Handle) {
        // There is one loop in a process; a second one would change nothing.
        let _ = self.watched.set(event_loop);
    }

    /// Notifies at half of `limit`, the time without a word after which systemd kills the process (API-295, NODE-009). Comes to no end.
    pub async fn keep_alive(self, limit: Duration, notify: impl Fn() -> io::Result<()>) {
        let interval = limit / 2;
        loop {
            if self.is_healthy(interval).await {
                if let Err(error) = notify_twice(&notify).await {
                    tracing::error!(%error, "Failed to notify watchdog");
                }
            } else {
                tracing::error!("Do not notify watchdog this iteration as the kubelet is reportedly not healthy");
            }
            sleep(interval).await;
        }
    }

    /// A loop that is busy is waited for: its answer is soon enough before the limit is over.
    async fn is_healthy(&self, within: Duration) -> bool {
        match self.watched.get() {
            None => true,
            Some(event_loop) => matches!(timeout(within, event_loop.ask(|_, _| ())).await, Ok(Some(()))),
        }
    }
}

async fn notify_twice(notify: &impl Fn() -> io::Result<()>) -> io::Result<()> {
    if notify().is_ok() {
        return Ok(());
    }
    sleep(AGAIN).await;
    notify()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use kubelet::config::Config;
    use kubelet::kubelet::Kubelet;
    use kubelet::time::{Mono, Now};
    use tokio::time::Instant;

    use super::*;
    use crate::event_loop::{Query, handle};

    /// Seconds at which the watchdog was told, of the first two minutes; every other time it fails if it is to.
    async fn told(watched: Watched, fails: bool) -> Vec<f64> {
        let (began, told, tries) = (Instant::now(), Mutex::new(Vec::new()), Mutex::new(0));
        let notify = || {
            *tries.lock().unwrap() += 1;
            if fails && *tries.lock().unwrap() % 2 == 1 {
                return Err(io::Error::other("no"));
            }
            told.lock().unwrap().push(began.elapsed().as_secs_f64().round());
            Ok(())
        };
        let _endless = timeout(Duration::from_secs(119), watched.keep_alive(Duration::from_secs(30), notify)).await;
        told.into_inner().unwrap()
    }

    fn answer(query: Query) {
        let kubelet = Kubelet::new(Arc::new(Config::new("n1")), 1);
        query(&kubelet, Now { mono: Mono::ZERO, wall: jiff::Timestamp::UNIX_EPOCH });
    }

    // NODE-009, API-295: pkg/kubelet/watchdog/watchdog_linux.go: at once, then each half of the time, whatever the process waits for yet.
    #[tokio::test(start_paused = true)]
    async fn watchdog_is_told_at_half_its_time() {
        assert_eq!(told(Watched::default(), false).await, [0., 15., 30., 45., 60., 75., 90., 105.]);
        // Two tries, a second apart (retryBackoff).
        assert_eq!(told(Watched::default(), true).await, [1., 17., 33., 49., 65., 81., 97., 113.]);
    }

    // NODE-009, API-295
    #[tokio::test(start_paused = true)]
    async fn watchdog_hears_nothing_of_a_loop_that_stands_still() {
        let (event_loop, _standing) = handle();
        let watched = Watched::default();
        watched.watch(event_loop);
        assert_eq!(told(watched, false).await, Vec::<f64>::new());
        let (event_loop, ended) = handle();
        drop(ended);
        let watched = Watched::default();
        watched.watch(event_loop);
        assert_eq!(told(watched, false).await, Vec::<f64>::new());
    }

    // NODE-009: one event that takes long does not end the process, if the answer comes in time.
    #[tokio::test(start_paused = true)]
    async fn watchdog_is_told_late_by_a_loop_that_was_busy() {
        let (event_loop, mut queries) = handle();
        let watched = Watched::default();
        watched.watch(event_loop);
        tokio::spawn(async move {
            let mut takes = [0, 8, 0].into_iter();
            while let Some(query) = queries.recv().await {
                sleep(Duration::from_secs(takes.next().unwrap_or(0))).await;
                answer(query);
            }
        });
        assert_eq!(told(watched, false).await, [0., 23., 38., 53., 68., 83., 98., 113.]);
    }
}
