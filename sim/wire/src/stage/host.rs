//! The agent's machine: the pretend one, with its latencies and faults.
//! Upstream: none.
//! Differs: logs and usage are not pretended; there are none.

use std::sync::Arc;

use agent::env::{CgroupUsage, Clock, Host, LogFile};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt as _};
use jiff::Timestamp;
use kubelet::action::HostCall;
use kubelet::event::HostReply;
use kubelet::failure::{Failure, FailureKind};
use kubelet::ids::PodUid;
use kubelet::work::Point;
use model::faults::Side;

use super::faults::met;
use super::shared::{Shared, lock};

/// The pretend machine.
pub(super) struct SimHost(pub(super) Arc<Shared>);

/// Where containers write their logs.
const POD_LOGS: &str = "/var/log/pods/";

impl Host for SimHost {
    fn call(&self, call: HostCall) -> BoxFuture<'_, Result<HostReply, Failure>> {
        let shared = Arc::clone(&self.0);
        async move {
            let fate = shared.arrives(Side::Host, call.name());
            let takes = lock(&shared.host).latency(&call);
            met(fate, takes, move || lock(&shared.host).call(&call)).await
        }
        .boxed()
    }

    fn read_tail(&self, path: String, limit: usize) -> BoxFuture<'_, Result<Option<Vec<u8>>, Failure>> {
        async move {
            let host = lock(&self.0.host);
            // Logs are there, and empty: what a container said last, the pretend runtime tells itself.
            let log = path.starts_with(POD_LOGS).then(Vec::new);
            Ok(host.files.get(&path).map(|contents| contents[contents.len().saturating_sub(limit)..].to_vec()).or(log))
        }
        .boxed()
    }

    fn open_log(&self, path: String) -> BoxFuture<'_, Result<Box<dyn LogFile>, Failure>> {
        async move { Err(Failure::new(FailureKind::NotFound, format!("open {path}: no such file or directory"))) }.boxed()
    }

    fn cgroup_usage(&self, _: String, _: bool) -> BoxFuture<'_, Result<Option<CgroupUsage>, Failure>> {
        async { Ok(None) }.boxed()
    }

    fn tree_usage(&self, _: String) -> BoxFuture<'_, Result<(u64, u64), Failure>> {
        async { Ok((0, 0)) }.boxed()
    }

    fn plugin_changes(&self) -> BoxStream<'static, ()> {
        let changes = self.0.drivers_changed.subscribe();
        stream::unfold(changes, |mut changes| async move {
            changes.changed().await.ok()?;
            Some(((), changes))
        })
        .boxed()
    }

    fn manifest_changes(&self) -> BoxStream<'static, ()> {
        self.plugin_changes()
    }

    fn notify_ready(&self) {}

    fn works_for(&self, work: Option<(Point, &PodUid)>) {
        if let Some((at, pod)) = work {
            lock(&self.0.poisons).strike(at, pod);
        }
    }

    fn suspects(&self) -> BoxFuture<'_, Vec<(PodUid, u32)>> {
        async move { lock(&self.0.poisons).suspects() }.boxed()
    }
}

/// The node's wall clock.
pub(super) struct SimClock(pub(super) Arc<Shared>);

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        self.0.node_time()
    }
}
