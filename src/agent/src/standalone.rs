//! No API server: nothing is asked, nothing is watched, nobody is known.
//! Upstream: cmd/kubelet/app/server.go (standaloneMode).
//! Differs: nothing on purpose.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use kubelet::action::ApiCall;
use kubelet::event::{ApiReply, WatchKey};
use kubelet::failure::{Failure, FailureKind};

use crate::env::{AccessReview, ApiServer, EventSink, UserInfo};

/// The absence of an API server (NODE-002).
#[derive(Clone, Copy, Debug)]
pub struct Standalone;

fn absent() -> Failure {
    Failure::new(FailureKind::Unavailable, "there is no API server: the agent was started without --kubeconfig")
}

impl ApiServer for Standalone {
    fn call(&self, _: ApiCall) -> BoxFuture<'_, Result<ApiReply, Failure>> {
        async { Err(absent()) }.boxed()
    }

    fn watch(&self, _: WatchKey, sink: EventSink) -> BoxFuture<'static, ()> {
        async move { sink.closed().await }.boxed()
    }

    fn review_token(&self, _: String) -> BoxFuture<'_, Result<Option<UserInfo>, Failure>> {
        async { Err(absent()) }.boxed()
    }

    fn review_access(&self, _: AccessReview) -> BoxFuture<'_, Result<bool, Failure>> {
        async { Err(absent()) }.boxed()
    }
}
