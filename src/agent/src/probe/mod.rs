//! Probes over the network, on the agent's own sockets: one connection each, closed after the answer.
//! Upstream: pkg/probe/{http,tcp,grpc}.
//! Differs: nothing on purpose.

mod grpc;
mod http;
mod tcp;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use kubelet::action::ProbeCall;

use crate::env::Net;
use crate::executor::Prober;
use crate::go_http::url;

/// The prober that the executor calls.
#[must_use]
pub fn prober(net: Arc<dyn Net>) -> Prober {
    Arc::new(move |call: ProbeCall, timeout: Duration| {
        let net = Arc::clone(&net);
        async move {
            match call {
                ProbeCall::Http { scheme, host, port, path, headers, lifecycle } => {
                    let url = url::Url::of_spec(scheme.eq_ignore_ascii_case("https"), &host, port, &path);
                    http::probe(net.as_ref(), &http::Target { url, headers, lifecycle }, timeout).await
                }
                ProbeCall::Tcp { host, port } => Ok(tcp::probe(net.as_ref(), host, port, timeout).await),
                ProbeCall::Grpc { host, port, service } => Ok(grpc::probe(net.as_ref(), &host, port, &service, timeout).await),
            }
        }
        .boxed()
    })
}
