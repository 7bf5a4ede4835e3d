//! Tells the core which sockets there are in the plugins' registry.
//! Upstream: pkg/kubelet/pluginmanager/pluginwatcher/plugin_watcher.go.
//! Differs: always all of them, not one event for each.

use futures::StreamExt as _;
use kubelet::event::Event;

use crate::env::{Env, EventSink};

/// Follows the registry until nobody listens any more.
pub async fn follow(env: Env, sink: EventSink) {
    let mut listings = env.host.plugin_sockets();
    while let Some(sockets) = listings.next().await {
        if sink.send(Event::PluginSocketsListed { sockets }).await.is_err() {
            return;
        }
    }
}
