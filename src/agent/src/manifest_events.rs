//! Tells the core that something changed at the static pod path.
//! Upstream: pkg/kubelet/config/file_linux.go.
//! Differs: no event tells what changed; the core reads everything.

use futures::StreamExt as _;
use kubelet::event::Event;

use crate::env::{Env, EventSink};

/// Follows the path until nobody listens any more, or the kernel tells no more: then the core reads it every `fileCheckFrequency`.
pub async fn follow(env: Env, sink: EventSink) {
    let mut changes = env.host.manifest_changes();
    while changes.next().await.is_some() {
        if sink.send(Event::ManifestsChanged).await.is_err() {
            return;
        }
    }
}
