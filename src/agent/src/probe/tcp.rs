//! A TCP probe: whoever accepts is alive.
//! Upstream: pkg/probe/tcp/tcp.go.
//! Differs: nothing on purpose.

use std::io;
use std::time::Duration;

use kubelet::event::ProbeOutcome;

use crate::env::{Endpoint, Net};
use crate::go_text::dial_error;

/// Connects and closes (POD-248).
pub(super) async fn probe(net: &dyn Net, host: String, port: u16, timeout: Duration) -> ProbeOutcome {
    let connecting = tokio::time::timeout(timeout, net.connect(Endpoint::Tcp { host: host.clone(), port }));
    match connecting.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(_stream) => ProbeOutcome::Success,
        Err(error) => ProbeOutcome::Failure(dial_error(&host, port, &error)),
    }
}
