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

/// API-064: a loop that does not answer for so long has stopped.
const LOOP_TIMEOUT: Duration = Duration::from_secs(2);
/// No longer does anybody wait for an answer: who asks must not pile up behind a loop that is busy.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The core as the server sees it.
pub struct CoreView(pub Handle);

impl CoreView {
    /// `None` if the loop has ended, or does not answer in time.
    async fn ask<T: Send + 'static>(&self, question: impl FnOnce(&Kubelet, Now) -> T + Send + 'static) -> Option<T> {
        tokio::time::timeout(ANSWER_TIMEOUT, self.0.ask(question)).await.ok().flatten()
    }
}

impl NodeView for CoreView {
    fn pods(&self) -> BoxFuture<'_, Option<Vec<Arc<Pod>>>> {
        self.ask(|kubelet, _| kubelet.pods()).boxed()
    }

    fn pod(&self, namespace: String, name: String) -> BoxFuture<'_, Option<Arc<Pod>>> {
        async move { self.ask(move |kubelet, _| kubelet.pod(&namespace, &name)).await.flatten() }.boxed()
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

    fn sync_loop_healthy(&self) -> BoxFuture<'_, bool> {
        async move { matches!(tokio::time::timeout(LOOP_TIMEOUT, self.0.ask(|_, _| ())).await, Ok(Some(()))) }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_loop::handle;

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever_for_a_loop_that_is_busy() {
        let (handle, _busy) = handle();
        let began = tokio::time::Instant::now();
        assert!(CoreView(handle).pods().await.is_none());
        assert_eq!(began.elapsed(), ANSWER_TIMEOUT);
    }
}
