//! The machine of `keelson-sim up`: the pretend one, with logs that say what pretend containers would.
//! Upstream: none.
//! Differs: nothing on purpose.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use agent::env::{CgroupUsage, Host, LogFile};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt as _};
use kubelet::action::HostCall;
use kubelet::event::HostReply;
use kubelet::failure::Failure;
use kubelet::ids::PodUid;
use kubelet::work::Point;
use model::host::HostModel;

/// The pretend machine.
pub(crate) struct PretendHost(pub(crate) Arc<Mutex<HostModel>>);

impl Host for PretendHost {
    fn call(&self, call: HostCall) -> BoxFuture<'_, Result<HostReply, Failure>> {
        async move { self.0.lock().unwrap_or_else(PoisonError::into_inner).call(&call) }.boxed()
    }

    fn read_tail(&self, _: String, _: usize) -> BoxFuture<'_, Result<Option<Vec<u8>>, Failure>> {
        async { Ok(None) }.boxed()
    }

    fn open_log(&self, path: String) -> BoxFuture<'_, Result<Box<dyn LogFile>, Failure>> {
        let text = format!("2026-01-01T00:00:00.000000000Z stdout F I am a pretend container; my log would be {path}\n");
        async move { Ok(Box::new(PretendLog { text: text.into_bytes(), at: 0 }) as Box<dyn LogFile>) }.boxed()
    }

    fn cgroup_usage(&self, _: String, _: bool) -> BoxFuture<'_, Result<Option<CgroupUsage>, Failure>> {
        async { Ok(None) }.boxed()
    }

    fn tree_usage(&self, _: String) -> BoxFuture<'_, Result<(u64, u64), Failure>> {
        async { Ok((0, 0)) }.boxed()
    }

    fn plugin_changes(&self) -> BoxStream<'static, ()> {
        stream::pending().boxed()
    }

    fn manifest_changes(&self) -> BoxStream<'static, ()> {
        stream::pending().boxed()
    }

    fn works_for(&self, _: Option<(Point, &PodUid)>) {}

    fn suspects(&self) -> BoxFuture<'_, Vec<(PodUid, u32)>> {
        async { Vec::new() }.boxed()
    }

    fn notify_ready(&self) {}
}

struct PretendLog {
    text: Vec<u8>,
    at: usize,
}

impl LogFile for PretendLog {
    fn read(&mut self, limit: usize) -> BoxFuture<'_, io::Result<Vec<u8>>> {
        let end = (self.at + limit).min(self.text.len());
        let read = self.text.get(self.at..end).unwrap_or_default().to_vec();
        self.at = end;
        async move { Ok(read) }.boxed()
    }

    fn seek(&mut self, to: u64) -> BoxFuture<'_, io::Result<()>> {
        self.at = usize::try_from(to).unwrap_or(usize::MAX).min(self.text.len());
        async { Ok(()) }.boxed()
    }

    fn len(&mut self) -> BoxFuture<'_, io::Result<u64>> {
        let length = self.text.len() as u64;
        async move { Ok(length) }.boxed()
    }

    fn replaced(&mut self) -> BoxFuture<'_, io::Result<bool>> {
        async { Ok(false) }.boxed()
    }
}
