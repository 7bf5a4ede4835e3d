//! Keeps the runtime's stream of container events open and hands its hints to the loop.
//! Upstream: pkg/kubelet/pleg/evented.go (watchEventsChannel).
//! Differs: a runtime that has no such stream is asked again now and then, for it may be upgraded under us.

use std::time::Duration;

use futures::StreamExt as _;
use kubelet::event::Event;
use kubelet::failure::{Failure, FailureKind};

use crate::env::{Env, EventSink};

const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MOST: Duration = Duration::from_secs(10);
/// How long a runtime without the stream is left alone.
const RETRY_UNIMPLEMENTED: Duration = Duration::from_secs(120);

/// Runs until the sink closes.
pub async fn follow(env: Env, sink: EventSink) {
    let mut wait = RETRY_FIRST;
    while !sink.is_closed() {
        let failure = match env.runtime.events().await {
            Err(failure) => failure,
            Ok(mut stream) => {
                wait = RETRY_FIRST;
                if sink.send(Event::RuntimeEventsOpened).await.is_err() {
                    return;
                }
                loop {
                    match stream.next().await {
                        Some(Ok(pod)) => {
                            if sink.send(Event::RuntimeChanged { pod }).await.is_err() {
                                return;
                            }
                        }
                        Some(Err(failure)) => break failure,
                        None => break Failure::new(FailureKind::Unavailable, "the stream of container events ended"),
                    }
                }
            }
        };
        let unimplemented = failure.kind == FailureKind::Unimplemented;
        tracing::info!(error = %failure.message, "Container events are not to be had");
        if sink.send(Event::RuntimeEventsClosed { failure }).await.is_err() {
            return;
        }
        tokio::time::sleep(if unimplemented { RETRY_UNIMPLEMENTED } else { wait }).await;
        wait = (wait * 2).min(RETRY_MOST);
    }
}
