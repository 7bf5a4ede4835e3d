//! One life of the agent: what `main` puts together on a node, with simulated sockets, machine and clock below it.
//! Upstream: none.
//! Differs: the HTTPS server is off.

use std::sync::Arc;

use agent::api::{Access, KubeApi};
use agent::cri::CriRuntime;
use agent::env::{ContainerRuntime, Endpoint, Env, Net, StreamRequest};
use agent::run::Agent;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use kubelet::action::CriCall;
use kubelet::event::CriReply;
use kubelet::failure::Failure;
use kubelet::ids::PodUid;
use model::faults::{Fate, Side};
use model::scenario::run::NODE;
use proto::cri::ContainerStats;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::host::{SimClock, SimHost};
use super::net::SimNet;
use super::servers::{API, API_PORT, RUNTIME, RUNTIME_PORT};
use super::shared::Shared;

/// Lives until it is killed.
pub(super) async fn live(shared: Arc<Shared>) -> turmoil::Result {
    let seed = shared.begins_life();
    let net: Arc<dyn Net> = Arc::new(SimNet(Arc::clone(&shared)));
    let endpoint = Endpoint::Tcp { host: RUNTIME.to_owned(), port: RUNTIME_PORT };
    let runtime = CriRuntime::new(&net, &endpoint, &endpoint, Instant::now());
    let env = Env {
        api: Arc::new(KubeApi::new(access()?, Arc::clone(&net), NODE, seed)),
        runtime: Arc::new(FaultyRuntime { runtime, shared: Arc::clone(&shared) }),
        host: Arc::new(SimHost(Arc::clone(&shared))),
        net,
        clock: Arc::new(SimClock(Arc::clone(&shared))),
        seed,
        cores: 2,
    };
    let config = Arc::clone(&shared.config);
    let agent = Agent::new(config, env, Some(Box::new(move |now, event, actions| shared.decided(now, event, actions))));
    Box::pin(agent.run(None, CancellationToken::new())).await?;
    Err("the agent ended by itself".into())
}

/// Plain HTTP; the server knows whose connection it is.
fn access() -> Result<Access, http::uri::InvalidUri> {
    Ok(Access {
        server: format!("http://{API}:{API_PORT}").parse()?,
        server_name: None,
        authority: None,
        insecure: false,
        certificate: None,
        key: None,
        token: None,
        rotating: None,
        http1_only: false,
    })
}

/// The runtime over the wire. `List` and `Observe` are many calls there, so what befalls them as a whole befalls them here; and
/// hints get lost here.
struct FaultyRuntime {
    runtime: CriRuntime,
    shared: Arc<Shared>,
}

impl ContainerRuntime for FaultyRuntime {
    fn call(&self, call: CriCall) -> BoxFuture<'_, Result<CriReply, Failure>> {
        async move {
            if !matches!(call, CriCall::List | CriCall::Observe { .. }) {
                return self.runtime.call(call).await;
            }
            match self.shared.arrives(Side::Runtime, call.name()) {
                Fate::Well => {}
                Fate::Slow(more) => tokio::time::sleep(more).await,
                Fate::Fails(failure) => return Err(failure),
                Fate::Lost | Fate::ReplyLost | Fate::Late(_) => return std::future::pending().await,
            }
            self.runtime.call(call).await
        }
        .boxed()
    }

    fn events(&self) -> BoxFuture<'_, Result<BoxStream<'static, Result<PodUid, Failure>>, Failure>> {
        async move {
            let shared = Arc::clone(&self.shared);
            let heard = move |item: &Result<PodUid, Failure>| futures::future::ready(item.is_err() || !shared.hint_is_lost());
            Ok(self.runtime.events().await?.filter(heard).boxed())
        }
        .boxed()
    }

    fn stream_url(&self, request: StreamRequest) -> BoxFuture<'_, Result<String, Failure>> {
        self.runtime.stream_url(request)
    }

    fn container_stats(&self) -> BoxFuture<'_, Result<Vec<ContainerStats>, Failure>> {
        self.runtime.container_stats()
    }
}
