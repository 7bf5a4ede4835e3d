//! The API server as a node identity uses it: `kube`'s client over our own connections, and watches that do not go deaf.
//! Upstream: k8s.io/client-go as pkg/kubelet uses it.
//! Differs: heartbeats, calls, reviews and watches have connections of their own, so that none of them waits for another's.

mod access;
mod calls;
mod certificates;
mod connector;
mod error;
mod lines;
mod members;
mod names;
mod pieces;
mod reading;
mod reviews;
mod rotating;
mod scan;
mod send;
mod watch;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use kubelet::action::ApiCall;
use kubelet::event::{ApiReply, WatchKey};
use kubelet::failure::Failure;

pub use self::access::{Access, AccessError, Material};
pub use self::certificates::CertificateRequests;
use self::connector::Connector;
pub use self::rotating::Rotating;
use self::send::Sender;
use self::watch::WatchPool;
use crate::env::{AccessReview, ApiServer, EventSink, Net, UserInfo};

/// The API server through `kube`'s client.
pub struct KubeApi {
    node: String,
    heartbeats: Sender,
    calls: Sender,
    reviews: Sender,
    watches: Arc<WatchPool>,
    forbidden: Arc<AtomicU64>,
    seed: u64,
}

impl KubeApi {
    /// A client of that node's identity. Must be called in the tokio runtime that it is used in; nothing is connected yet.
    #[must_use]
    pub fn new(access: Access, net: Arc<dyn Net>, node: &str, seed: u64) -> Self {
        let connector = Connector::new(Arc::new(access), net);
        let forbidden = Arc::new(AtomicU64::new(0));
        let sender = || Sender::new(&connector, Arc::clone(&forbidden));
        Self {
            node: node.to_owned(),
            heartbeats: sender(),
            calls: sender(),
            reviews: sender(),
            watches: Arc::new(WatchPool::new(connector.clone(), Arc::clone(&forbidden))),
            forbidden,
            seed,
        }
    }

    /// How many requests were refused with 403. A node that asks only for what it may has none.
    #[must_use]
    pub fn forbidden_requests(&self) -> u64 {
        self.forbidden.load(Ordering::Relaxed)
    }
}

impl ApiServer for KubeApi {
    fn call(&self, call: ApiCall) -> BoxFuture<'_, Result<ApiReply, Failure>> {
        let heartbeat = matches!(
            call,
            ApiCall::GetLease
                | ApiCall::CreateLease(_)
                | ApiCall::UpdateLease(_)
                | ApiCall::GetNode
                | ApiCall::CreateNode(_)
                | ApiCall::PatchNodeStatus(_)
        );
        let sender = if heartbeat { &self.heartbeats } else { &self.calls };
        calls::call(sender, &self.node, call).boxed()
    }

    fn watch(&self, key: WatchKey, sink: EventSink) -> BoxFuture<'static, ()> {
        watch::follow(Arc::clone(&self.watches), self.node.clone(), key, sink, self.seed).boxed()
    }

    fn review_token(&self, token: String) -> BoxFuture<'_, Result<Option<UserInfo>, Failure>> {
        reviews::token(&self.reviews, token).boxed()
    }

    fn review_access(&self, review: AccessReview) -> BoxFuture<'_, Result<bool, Failure>> {
        reviews::access(&self.reviews, &self.node, review).boxed()
    }
}
