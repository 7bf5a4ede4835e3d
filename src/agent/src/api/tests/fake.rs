//! An API server that answers what a test tells it to, over streams within the process.
//! Upstream: k8s.io/client-go/rest/fake.
//! Differs: real HTTP, so that what is tested is all there is.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream;
use http::{Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::DuplexStream;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::env::{BoxedStream, Endpoint, Listener, Net};

/// A part of an answer's body.
#[derive(Clone, Debug)]
pub(super) enum Part {
    /// These bytes.
    Send(String),
    /// Nothing for so long.
    Wait(Duration),
    /// Nothing ever.
    Silence,
    /// The connection breaks.
    Break,
}

/// One answer.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    status: u16,
    headers: Vec<(&'static str, &'static str)>,
    parts: Vec<Part>,
}

impl Answer {
    pub(super) fn ok(parts: Vec<Part>) -> Self {
        Self { status: 200, headers: Vec::new(), parts }
    }

    pub(super) fn whole(body: impl ToString) -> Self {
        Self::ok(vec![Part::Send(body.to_string())])
    }

    /// A `Status` object with that code.
    pub(super) fn status(code: u16, reason: &str, message: &str) -> Self {
        let body = serde_json::json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code,
        });
        Self { status: code, ..Self::whole(body) }
    }

    pub(super) fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) at: Instant,
    pub(super) method: String,
    /// Path and query.
    pub(super) target: String,
    pub(super) version: http::Version,
    pub(super) headers: http::HeaderMap,
    pub(super) body: String,
    /// The number of the connection that it came on, from 0.
    pub(super) connection: usize,
    /// The name in the client's certificate.
    pub(super) client: Option<String>,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(super) fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }

    /// The value of a query parameter, as it was encoded.
    pub(super) fn query(&self, name: &str) -> &str {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).unwrap_or("")
    }
}

/// Answers in the order of the script, then not at all.
#[derive(Default)]
pub(super) struct FakeServer {
    script: Mutex<VecDeque<Answer>>,
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    pub(super) tls: Option<Arc<rustls::ServerConfig>>,
    refuses: bool,
}

impl FakeServer {
    pub(super) fn with(script: impl IntoIterator<Item = Answer>) -> Arc<Self> {
        Arc::new(Self { script: Mutex::new(script.into_iter().collect()), ..Self::default() })
    }

    /// One that takes no connection.
    pub(super) fn away() -> Arc<Self> {
        Arc::new(Self { refuses: true, ..Self::default() })
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Waits until so many requests have come.
    pub(super) async fn until_seen(&self, requests: usize) -> Vec<Seen> {
        loop {
            let seen = self.seen();
            if seen.len() >= requests {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn serve(self: Arc<Self>, stream: DuplexStream) {
        let connection = self.connections.fetch_add(1, Ordering::Relaxed);
        let mut client = None;
        let stream: BoxedStream = match &self.tls {
            None => Box::pin(stream),
            Some(tls) => {
                let Ok(stream) = TlsAcceptor::from(Arc::clone(tls)).accept(stream).await else { return };
                client = stream.get_ref().1.peer_certificates().map(|chain| common_name(&chain[0]));
                Box::pin(stream)
            }
        };
        let service = service_fn(move |request| {
            let (server, client) = (Arc::clone(&self), client.clone());
            async move { Ok::<_, Infallible>(server.answer(request, connection, client).await) }
        });
        let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
    }

    async fn answer(&self, request: Request<Incoming>, connection: usize, client: Option<String>) -> Response<Parts> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        self.seen.lock().unwrap().push(Seen {
            at: Instant::now(),
            method: head.method.to_string(),
            target: head.uri.path_and_query().unwrap().to_string(),
            version: head.version,
            headers: head.headers,
            body: String::from_utf8(body.to_vec()).unwrap(),
            connection,
            client,
        });
        let answer = self.script.lock().unwrap().pop_front();
        let Some(answer) = answer else { return futures::future::pending().await };
        let mut response = Response::builder().status(answer.status);
        for (name, value) in answer.headers {
            response = response.header(name, value);
        }
        response.body(body_of(answer.parts)).unwrap()
    }
}

type Parts = StreamBody<stream::BoxStream<'static, io::Result<Frame<Bytes>>>>;

fn body_of(parts: Vec<Part>) -> Parts {
    let frames = stream::unfold(parts.into_iter(), |mut parts| async {
        loop {
            match parts.next()? {
                Part::Send(text) => return Some((Ok(Frame::data(Bytes::from(text))), parts)),
                Part::Wait(time) => tokio::time::sleep(time).await,
                Part::Silence => futures::future::pending().await,
                Part::Break => return Some((Err(io::ErrorKind::BrokenPipe.into()), parts)),
            }
        }
    });
    StreamBody::new(Box::pin(frames))
}

fn common_name(certificate: &[u8]) -> String {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).unwrap();
    certificate.subject().iter_common_name().next().unwrap().as_str().unwrap().to_owned()
}

/// The way to it.
pub(super) struct FakeNet(pub(super) Arc<FakeServer>);

impl Net for FakeNet {
    fn connect(&self, endpoint: Endpoint) -> BoxFuture<'_, io::Result<BoxedStream>> {
        assert_eq!(endpoint, Endpoint::Tcp { host: "10.0.0.1".to_owned(), port: 6443 });
        async {
            if self.0.refuses {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            tokio::spawn(Arc::clone(&self.0).serve(theirs));
            Ok(Box::pin(ours) as BoxedStream)
        }
        .boxed()
    }

    fn listen(&self, _: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        async { Err(io::ErrorKind::Unsupported.into()) }.boxed()
    }
}
