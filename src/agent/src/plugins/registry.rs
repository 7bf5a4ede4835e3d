//! Tells the core that something changed in the plugins' registry, or that nobody can tell it.
//! Upstream: pkg/kubelet/pluginmanager/pluginwatcher/plugin_watcher.go.
//! Differs: no event tells what changed; the core looks at everything.

use futures::StreamExt as _;
use kubelet::event::Event;

use crate::env::{Env, EventSink};

/// Follows the registry until nobody listens any more.
pub async fn follow(env: Env, sink: EventSink) {
    let mut changes = env.host.plugin_changes();
    while changes.next().await.is_some() {
        if sink.send(Event::PluginsChanged).await.is_err() {
            return;
        }
    }
    tracing::warn!("Changes in the plugins' registry cannot be watched, so it is looked at every second");
    // Nobody may listen any more.
    let _ = sink.send(Event::PluginsUnwatched).await;
}
