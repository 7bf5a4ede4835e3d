//! Probes over the network, on the agent's own sockets: one connection each, closed after the answer.
//! Upstream: pkg/probe/{http,tcp,grpc}.
//! Differs: nothing on purpose.

mod grpc;
mod http;
mod tcp;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use kubelet::action::ProbeCall;

use crate::env::{BoxedStream, Endpoint, Listener, Net};
use crate::executor::Prober;
use crate::go_http::url;

/// The prober that the executor calls.
#[must_use]
pub fn prober(net: Arc<dyn Net>) -> Prober {
    Arc::new(move |call: ProbeCall, pod: String, timeout: Duration| {
        let net = OfPod { net: Arc::clone(&net), pod };
        async move {
            match call {
                ProbeCall::Http { scheme, host, port, path, headers, lifecycle } => {
                    let url = url::Url::of_spec(scheme.eq_ignore_ascii_case("https"), &host, port, &path);
                    http::probe(&net, &http::Target { url, headers, lifecycle }, timeout).await
                }
                ProbeCall::Tcp { host, port } => Ok(tcp::probe(&net, host, port, timeout).await),
                ProbeCall::Grpc { host, port, service } => Ok(grpc::probe(&net, &host, port, &service, timeout).await),
            }
        }
        .boxed()
    })
}

/// The network as the probes of one pod use it.
struct OfPod {
    net: Arc<dyn Net>,
    pod: String,
}

impl Net for OfPod {
    fn connect(&self, endpoint: Endpoint) -> BoxFuture<'_, io::Result<BoxedStream>> {
        self.net.connect_for(self.pod.clone(), endpoint)
    }

    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        self.net.listen(address)
    }
}
