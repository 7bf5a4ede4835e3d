//! The pretend API server as a real HTTP server: over whatever connections it is given, with the faults that it is told to have.
//! Upstream: staging/src/k8s.io/apiserver/pkg/server.
//! Differs: JSON only; controllers run before an answer is sent, so that nothing is ever half done.

mod connect;
mod handler;
pub mod pki;
pub mod signer;
mod watch;

#[cfg(test)]
mod join_tests;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use jiff::Timestamp;
use model::api::ApiModel;
use model::api::authorize::Identity;
use model::api::controllers::Controllers;
use model::api::request::Request;
use tokio::io::{AsyncRead, AsyncWrite};

use self::signer::Signer;

/// What happens to one request, decided by the simulator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ApiFault {
    /// Nothing.
    #[default]
    None,
    /// It is refused without effect, with that code; a 429 or 503 may say when to come back.
    Refuse {
        /// The HTTP status.
        code: u16,
        /// `Retry-After`.
        after: Option<Duration>,
    },
    /// It is never answered and has no effect.
    Hold,
    /// Its connection breaks before it has any effect.
    Reset,
    /// It takes effect, and its connection breaks before the answer.
    Lost,
    /// It takes this much longer: its effect comes that much later, and so does its answer.
    Slow(Duration),
    /// Of a watch: it opens and never tells anything.
    Silence,
}

/// What happens to watches that are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchFault {
    /// They end as they do when their time is over.
    Eof,
    /// Their connections break.
    Reset,
    /// They tell nothing any more and do not end.
    Silence,
    /// They are told that their revision is too old, and end.
    Expired,
}

/// Decides what happens to each request; it sees who asks and what for.
pub type ApiFaultPlan = Arc<dyn Fn(&Identity, &Request) -> ApiFault + Send + Sync>;

/// Is told of every answer: to whom, the method and path, the HTTP status.
pub type Audit = Arc<dyn Fn(&Identity, &str, &str, u16) + Send + Sync>;

/// Which watches are meant.
pub type WatchFilter = Arc<dyn Fn(&Identity, &Request) -> bool + Send + Sync>;

/// A connection to a node's agent.
pub trait NodeStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> NodeStream for T {}

/// A future connection.
pub type Dialing = Pin<Box<dyn Future<Output = io::Result<Box<dyn NodeStream>>> + Send>>;

/// Connects to a node's HTTPS port as an administrator: host and port in, a stream after its TLS handshake out.
pub type NodeDialer = Arc<dyn Fn(String, u16) -> Dialing + Send + Sync>;

#[derive(Clone)]
struct Break {
    number: u64,
    fault: WatchFault,
    filter: WatchFilter,
}

/// The pretend API server behind HTTP. Cheap to clone; clones share it.
#[derive(Clone)]
pub struct ApiServer {
    model: Arc<Mutex<ApiModel>>,
    controllers: Option<Arc<Mutex<Controllers>>>,
    signer: Option<Arc<Signer>>,
    clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    faults: ApiFaultPlan,
    nodes: Option<NodeDialer>,
    audit: Option<Audit>,
    changed: tokio::sync::watch::Sender<u64>,
    broken: tokio::sync::watch::Sender<Option<Break>>,
}

impl ApiServer {
    /// A server of that model. `clock` is its wall clock.
    pub fn new(model: Arc<Mutex<ApiModel>>, clock: Arc<dyn Fn() -> Timestamp + Send + Sync>, faults: ApiFaultPlan) -> Self {
        Self {
            model,
            controllers: None,
            signer: None,
            clock,
            faults,
            nodes: None,
            audit: None,
            changed: tokio::sync::watch::Sender::new(0),
            broken: tokio::sync::watch::Sender::new(None),
        }
    }

    /// The same with controllers and a scheduler.
    #[must_use]
    pub fn with_controllers(mut self) -> Self {
        self.controllers = Some(Arc::new(Mutex::new(Controllers::default())));
        self
    }

    /// The same with somebody who approves and signs nodes' requests for certificates.
    #[must_use]
    pub fn with_signer(mut self, signer: Signer) -> Self {
        self.signer = Some(Arc::new(signer));
        self
    }

    /// The same with a way to reach nodes, for logs, exec, attach, port-forward and proxy.
    #[must_use]
    pub fn with_nodes(mut self, nodes: NodeDialer) -> Self {
        self.nodes = Some(nodes);
        self
    }

    /// The same with somebody who is told of every answer.
    #[must_use]
    pub fn with_audit(mut self, audit: Audit) -> Self {
        self.audit = Some(audit);
        self
    }

    /// A server that nothing goes wrong with.
    #[must_use]
    pub fn no_faults() -> ApiFaultPlan {
        Arc::new(|_, _| ApiFault::None)
    }

    /// The model itself, for whoever drives it; [`ApiServer::nudge`] afterwards.
    #[must_use]
    pub fn model(&self) -> Arc<Mutex<ApiModel>> {
        Arc::clone(&self.model)
    }

    /// Does something with the model, lets the controllers follow, and tells the watches.
    pub fn with<T>(&self, f: impl FnOnce(&mut ApiModel, Timestamp) -> T) -> T {
        let now = (self.clock)();
        // A panic elsewhere must not hide behind a poisoned lock: the model is plain data.
        let mut model = self.model.lock().unwrap_or_else(PoisonError::into_inner);
        let result = f(&mut model, now);
        if let Some(controllers) = &self.controllers {
            controllers.lock().unwrap_or_else(PoisonError::into_inner).run(&mut model, now);
        }
        if let Some(signer) = &self.signer {
            signer.run(&mut model, now);
        }
        let revision = model.store.revision();
        drop(model);
        self.changed.send_if_modified(|seen| std::mem::replace(seen, revision) != revision);
        result
    }

    /// Lets the controllers and the watches see what was done to the model from outside.
    pub fn nudge(&self) {
        self.with(|_, _| ());
    }

    /// Does something to open watches.
    pub fn break_watches(&self, fault: WatchFault, filter: WatchFilter) {
        self.broken.send_modify(|last| {
            let number = last.as_ref().map_or(0, |b| b.number) + 1;
            *last = Some(Break { number, fault, filter });
        });
    }

    /// Serves one connection, HTTP/1.1 or HTTP/2, until it ends. `identity` is whom its client certificate names; a bearer token
    /// in a request goes before it.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn serve_connection<S>(
        self,
        stream: S,
        identity: Option<Identity>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(move |request| {
            let (server, identity) = (self.clone(), identity.clone());
            async move { server.handle(request, identity).await }
        });
        auto::Builder::new(TokioExecutor::new()).serve_connection_with_upgrades(TokioIo::new(stream), service).await
    }

    /// Serves all connections that come, each in a task of its own, until no more come.
    pub async fn serve<S>(self, connections: impl Stream<Item = (S, Option<Identity>)>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut connections = std::pin::pin!(connections);
        while let Some((stream, identity)) = connections.next().await {
            let server = self.clone();
            tokio::spawn(async move {
                if let Err(error) = server.serve_connection(stream, identity).await {
                    tracing::debug!(%error, "connection to the pretend API server ended");
                }
            });
        }
    }
}
