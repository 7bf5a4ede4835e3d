//! Tells systemd's watchdog that the agent is alive, while it is healthy.
//! Upstream: pkg/kubelet/watchdog/watchdog_linux.go.
//! Differs: nothing on purpose.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::sleep;

/// How soon a notification that failed is sent again, once.
const AGAIN: Duration = Duration::from_secs(1);

/// Whether the process is healthy; which check failed and why, if it is not.
pub type Check = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What is watched: nothing until there is a loop, for joining the cluster may take an hour. Cheap to clone.
#[derive(Clone, Default)]
pub struct Watched {
    check: Arc<OnceLock<Check>>,
}

impl Watched {
    /// From now on the process is only alive while it is healthy.
    pub fn watch(&self, check: Check) {
        // There is one agent in a process; a second one would change nothing.
        let _ = self.check.set(check);
    }

    /// Notifies at half of `limit`, the time without a word after which systemd kills the process (API-295, NODE-009). Comes to no end.
    pub async fn keep_alive(self, limit: Duration, notify: impl Fn() -> io::Result<()>) {
        let interval = limit / 2;
        loop {
            match self.check.get().map_or(Ok(()), |check| check()) {
                Ok(()) => {
                    if let Err(error) = notify_twice(&notify).await {
                        tracing::error!(%error, "Failed to notify watchdog");
                    }
                }
                Err(error) => {
                    tracing::error!(error, "Do not notify watchdog this iteration as the kubelet is reportedly not healthy");
                }
            }
            sleep(interval).await;
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

    use tokio::time::{Instant, timeout};

    use super::*;
    use crate::daemon::health_of;
    use crate::event_loop::handle;
    use crate::log_lines::LogLines;

    /// Seconds at which the watchdog was told, of the first ten minutes; every other time it fails if it is to.
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
        let _endless = timeout(Duration::from_secs(599), watched.keep_alive(Duration::from_secs(120), notify)).await;
        told.into_inner().unwrap()
    }

    // NODE-009, API-295: pkg/kubelet/watchdog/watchdog_linux.go: at once, then each half of the time, whatever the process waits for yet.
    #[tokio::test(start_paused = true)]
    async fn watchdog_is_told_at_half_its_time() {
        assert_eq!(told(Watched::default(), false).await, [0., 60., 120., 180., 240., 300., 360., 420., 480., 540.]);
        // Two tries, a second apart (retryBackoff).
        assert_eq!(told(Watched::default(), true).await, [1., 62., 123., 184., 245., 306., 367., 428., 489., 550.]);
    }

    // NODE-009, API-295, INV-17: SetHealthCheckers: the checks of /healthz, with their limits, and no others.
    #[tokio::test(start_paused = true)]
    async fn watchdog_hears_nothing_of_a_loop_that_stands_still() {
        let (event_loop, _standing) = handle();
        let watched = Watched::default();
        watched.watch(health_of(event_loop.clone(), Duration::from_secs(60), LogLines::default()));
        // One that was never entered is not late.
        assert_eq!(told(watched.clone(), false).await.len(), 10);
        event_loop.pulse().beat();
        assert_eq!(told(watched, false).await, [0., 60., 120., 180., 240., 300.]);
        let check = health_of(event_loop, Duration::from_secs(60), LogLines::default());
        assert_eq!(check().unwrap_err(), "checker syncloop failed: sync Loop took longer than expected");
    }

    // NODE-009, API-295, API-065: LogHealthz is one of them.
    #[tokio::test(start_paused = true)]
    async fn watchdog_hears_nothing_while_nobody_reads_the_log() {
        let (event_loop, _turning) = handle();
        let (watched, log) = (Watched::default(), LogLines::default());
        log.push(b"nobody writes me\n");
        watched.watch(health_of(event_loop, Duration::from_secs(60), log));
        assert_eq!(told(watched, false).await, [0., 60.]);
    }
}
