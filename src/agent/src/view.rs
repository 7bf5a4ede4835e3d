//! What the server sees of the core: questions that the loop answers between two events.
//! Upstream: pkg/kubelet/server/server.go (HostInterface).
//! Differs: nothing on purpose.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use kubelet::ids::PodUid;
use kubelet::kubelet::Kubelet;
use kubelet::observation::Observed;
use kubelet::snapshot::Tallies;
use kubelet::time::Now;

use crate::event_loop::Handle;
use crate::server::NodeView;

/// API-064: a loop that has not turned for so long, and for two periods of `syncFrequency`, has stopped.
const LOOP_STOPPED: Duration = Duration::from_secs(300);
/// No longer does anybody wait for an answer: who asks must not pile up behind a loop that is busy.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The core as the server sees it.
pub struct CoreView {
    core: Handle,
    loop_stopped: Duration,
}

impl CoreView {
    /// The core behind that handle, which looks at each pod at least so often.
    #[must_use]
    pub fn new(core: Handle, sync_frequency: Duration) -> Self {
        Self { core, loop_stopped: sync_frequency.saturating_mul(2).max(LOOP_STOPPED) }
    }

    /// `None` if the loop has ended, or does not answer in time.
    async fn ask<T: Send + 'static>(&self, question: impl FnOnce(&Kubelet, Now) -> T + Send + 'static) -> Option<T> {
        tokio::time::timeout(ANSWER_TIMEOUT, self.core.ask(question)).await.ok().flatten()
    }
}

impl NodeView for CoreView {
    fn pods(&self) -> BoxFuture<'_, Option<Vec<Arc<Pod>>>> {
        self.ask(|kubelet, _| kubelet.pods()).boxed()
    }

    fn pod(&self, namespace: String, name: String) -> BoxFuture<'_, Option<Option<Arc<Pod>>>> {
        self.ask(move |kubelet, _| kubelet.pod(&namespace, &name)).boxed()
    }

    fn observation(&self, pod: PodUid) -> BoxFuture<'_, Option<Observed>> {
        async move { self.ask(move |kubelet, _| kubelet.observation(&pod)).await.flatten() }.boxed()
    }

    fn observations(&self) -> BoxFuture<'_, Vec<Observed>> {
        async move { self.ask(|kubelet, _| kubelet.observations()).await.unwrap_or_default() }.boxed()
    }

    fn tallies(&self) -> BoxFuture<'_, Option<Tallies>> {
        self.ask(|kubelet, _| kubelet.tallies()).boxed()
    }

    fn volume_directories(&self, pod: PodUid) -> BoxFuture<'_, BTreeMap<String, String>> {
        async move { self.ask(move |kubelet, _| kubelet.volume_directories(&pod)).await.unwrap_or_default() }.boxed()
    }

    fn pods_cgroup(&self) -> BoxFuture<'_, Option<String>> {
        async move { self.ask(|kubelet, _| kubelet.pods_cgroup()).await }.boxed()
    }

    fn cgroup_driver(&self) -> BoxFuture<'_, Option<&'static str>> {
        self.ask(|kubelet, _| kubelet.cgroup_driver()).boxed()
    }

    fn sync_loop_healthy(&self) -> bool {
        self.core.pulse().age().is_none_or(|age| age <= self.loop_stopped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_loop::handle;

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever_for_a_loop_that_is_busy() {
        let (handle, _busy) = handle();
        let view = CoreView::new(handle, Duration::ZERO);
        let began = tokio::time::Instant::now();
        assert!(view.pods().await.is_none());
        assert_eq!(began.elapsed(), ANSWER_TIMEOUT);
        // API-082: that nobody answers is not that there is no such pod.
        assert!(view.pod("default".to_owned(), "p".to_owned()).await.is_none());
    }

    // API-064: pkg/kubelet/kubelet.go, SyncLoopHealthCheck: the greater of twice the resync interval and five minutes; a loop that was
    // never entered is not late.
    #[tokio::test(start_paused = true)]
    async fn loop_has_stopped_once_it_has_not_turned_for_five_minutes_or_two_periods() {
        for (sync_frequency, stopped) in [(60, 300), (150, 300), (600, 1200)] {
            let (handle, _queries) = handle();
            let pulse = handle.pulse().clone();
            let view = CoreView::new(handle, Duration::from_secs(sync_frequency));
            tokio::time::advance(Duration::from_secs(3600)).await;
            assert!(view.sync_loop_healthy());
            pulse.beat();
            tokio::time::advance(Duration::from_secs(stopped)).await;
            assert!(view.sync_loop_healthy(), "{sync_frequency}");
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(!view.sync_loop_healthy(), "{sync_frequency}");
            pulse.beat();
            assert!(view.sync_loop_healthy());
        }
    }
}
