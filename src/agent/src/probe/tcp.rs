//! A TCP probe: whoever accepts is alive.
//! Upstream: pkg/probe/tcp/tcp.go.
//! Differs: nothing on purpose.

use std::time::Duration;

use kubelet::event::ProbeOutcome;

use crate::env::{Endpoint, Net};

/// Connects and closes (POD-248).
pub(super) async fn probe(net: &dyn Net, host: String, port: u16, timeout: Duration) -> ProbeOutcome {
    let address = format!("{host}:{port}");
    match tokio::time::timeout(timeout, net.connect(Endpoint::Tcp { host, port })).await {
        Ok(Ok(_stream)) => ProbeOutcome::Success,
        Ok(Err(error)) => ProbeOutcome::Failure(format!("dial tcp {address}: connect: {error}")),
        Err(_) => ProbeOutcome::Failure(format!("dial tcp {address}: i/o timeout")),
    }
}
