//! Keeps one watch of the core open for ever: lists once, resumes where it was, lists again only when the server has forgotten.
//! Upstream: k8s.io/client-go/tools/cache/reflector.go.
//! Differs: a watch on which nothing comes for too long is opened anew, even if its connection looks healthy (kubernetes#125380).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use http_body_util::BodyExt as _;
use k8s_openapi::List;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret, Service};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::storage::v1::CSIDriver;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{ListableResource, Metadata};
use kube::client::Body;
use kubelet::event::{Event, Object, WatchKey};
use kubelet::failure::{Failure, FailureKind};
use kubelet::rng::Rng;
use kubelet::sensitive::Sensitive;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout};

use super::connector::Connector;
use super::error::{Status, in_watch};
use super::send::{Ask, Sender};
use crate::env::EventSink;

/// API-224: how long a watch lives at least; twice that at most.
const WATCH_SECONDS: u64 = 300;
/// The server sends a bookmark every minute: one that missed two and a half has stopped.
const IDLE_WITH_BOOKMARKS: Duration = Duration::from_secs(150);
/// How much longer than it was asked to a watch without bookmarks may be silent.
const IDLE_SLACK: Duration = Duration::from_secs(30);
/// As upstream's reflector.
const BACKOFF_FIRST: Duration = Duration::from_millis(800);
const BACKOFF_MOST: Duration = Duration::from_secs(30);
/// A watch that held for so long begins with the first back-off again.
const HEALTHY_AFTER: Duration = Duration::from_secs(120);
/// How long a list may take.
const LIST_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest line of a watch: the largest object that etcd takes, and some.
const LINE_LIMIT: usize = 8 << 20;
/// How many watches share a connection: API servers allow 100 to 250 streams on one, and what is above it would wait.
const WATCHES_PER_CONNECTION: usize = 80;

/// Connections for watches.
pub(super) struct WatchPool {
    connector: Connector,
    forbidden: Arc<AtomicU64>,
    senders: Mutex<Vec<(Sender, Arc<AtomicU64>)>>,
}

/// A place on a connection; given back when dropped.
struct Place {
    sender: Sender,
    taken: Arc<AtomicU64>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

impl WatchPool {
    pub(super) fn new(connector: Connector, forbidden: Arc<AtomicU64>) -> Self {
        Self { connector, forbidden, senders: Mutex::new(Vec::new()) }
    }

    fn place(&self) -> Place {
        let mut senders = self.senders.lock().unwrap_or_else(PoisonError::into_inner);
        let free = senders.iter().position(|(_, taken)| taken.load(Ordering::Relaxed) < WATCHES_PER_CONNECTION as u64);
        let at = free.unwrap_or_else(|| {
            senders.push((Sender::new(&self.connector, Arc::clone(&self.forbidden)), Arc::default()));
            senders.len() - 1
        });
        let (sender, taken) = &senders[at];
        taken.fetch_add(1, Ordering::Relaxed);
        Place { sender: sender.clone(), taken: Arc::clone(taken) }
    }
}

/// What a watch is about: where to ask, and how to read what comes.
struct Subject {
    path: String,
    /// Encoded, without a leading ampersand; empty for all.
    selector: String,
}

fn subject(node: &str, key: &WatchKey) -> Subject {
    let named = |path: String, name: &str| Subject { path, selector: format!("fieldSelector=metadata.name%3D{name}") };
    let all = |path: &str| Subject { path: path.to_owned(), selector: String::new() };
    match key {
        WatchKey::Pods => Subject { path: "/api/v1/pods".to_owned(), selector: format!("fieldSelector=spec.nodeName%3D{node}") },
        WatchKey::Node => named("/api/v1/nodes".to_owned(), node),
        WatchKey::Services => all("/api/v1/services"),
        WatchKey::RuntimeClasses => all("/apis/node.k8s.io/v1/runtimeclasses"),
        WatchKey::CsiDrivers => all("/apis/storage.k8s.io/v1/csidrivers"),
        WatchKey::ConfigMap { namespace, name } => named(format!("/api/v1/namespaces/{namespace}/configmaps"), name),
        WatchKey::Secret { namespace, name } => named(format!("/api/v1/namespaces/{namespace}/secrets"), name),
    }
}

/// Why the stream of a watch ended.
enum Ended {
    /// The loop has gone away.
    Closed,
    /// It is to be opened again at the same place.
    Resume,
    /// The server has forgotten the place.
    Forgotten,
    /// It failed.
    Failed(Failure),
}

/// Follows until the sink closes.
pub(super) async fn follow(pool: Arc<WatchPool>, node: String, key: WatchKey, sink: EventSink, seed: u64) {
    let mark = format!("{key:?}").bytes().fold(seed, |mark, byte| (mark ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mut watch = Watch { place: pool.place(), subject: subject(&node, &key), key, sink, rng: Rng::new(mark), revision: None };
    let mut wait = BACKOFF_FIRST;
    let mut relist_cached = true;
    loop {
        let began = Instant::now();
        let ended = match watch.revision.clone() {
            None => watch.list(relist_cached).await,
            Some(revision) => watch.stream(&revision).await,
        };
        if began.elapsed() > HEALTHY_AFTER {
            wait = BACKOFF_FIRST;
        }
        match ended {
            Ended::Closed => return,
            Ended::Resume => {
                wait = if watch.revision.is_some() { BACKOFF_FIRST } else { wait };
                // A server that closes each watch at once must not be asked in a tight loop.
                if began.elapsed() < Duration::from_secs(1) && watch.revision.is_some() {
                    tokio::time::sleep(watch.rng.jitter(Duration::from_millis(5), 1.0)).await;
                }
            }
            Ended::Forgotten => {
                // The cache may be as old as what was forgotten: ask for what is newest.
                relist_cached = watch.revision.take().is_some() && relist_cached;
            }
            Ended::Failed(failure) => {
                if watch.sink.send(Event::WatchFailed { key: watch.key.clone(), failure: failure.clone() }).await.is_err() {
                    return;
                }
                let pause = match failure.kind {
                    FailureKind::Throttled { after: Some(after) } => after.max(wait),
                    _ => wait,
                };
                tokio::time::sleep(watch.rng.jitter(pause, 1.0)).await;
                wait = (wait * 2).min(BACKOFF_MOST);
            }
        }
    }
}

struct Watch {
    place: Place,
    subject: Subject,
    key: WatchKey,
    sink: EventSink,
    rng: Rng,
    revision: Option<String>,
}

impl Watch {
    /// Lists all that matches, and tells it. `cached` asks for the server's cache, which is cheaper and may be behind.
    async fn list(&mut self, cached: bool) -> Ended {
        let mut objects = Vec::new();
        let mut next = None;
        loop {
            let page = match timeout(LIST_TIMEOUT, self.page(cached, next.as_deref())).await {
                Err(_) => return Ended::Failed(Failure::new(FailureKind::Unavailable, "the list took too long")),
                Ok(Err(failure)) if failure.kind == FailureKind::Gone => return Ended::Forgotten,
                Ok(Err(failure)) => return Ended::Failed(failure),
                Ok(Ok(page)) => page,
            };
            objects.extend(page.objects);
            self.revision = Some(page.revision);
            next = page.next.filter(|next| !next.is_empty());
            if next.is_none() {
                break;
            }
        }
        match self.sink.send(Event::WatchListed { key: self.key.clone(), objects }).await {
            Ok(()) => Ended::Resume,
            Err(_) => Ended::Closed,
        }
    }

    async fn page(&self, cached: bool, next: Option<&str>) -> Result<Page, Failure> {
        let mut query = vec![self.subject.selector.clone()];
        match next {
            Some(next) => query.push(format!("limit=500&continue={}", encoded(next))),
            None if cached => query.push("resourceVersion=0".to_owned()),
            None => query.push("limit=500".to_owned()),
        }
        query.retain(|part| !part.is_empty());
        let ask = Ask::get(format!("{}?{}", self.subject.path, query.join("&")));
        let sender = &self.place.sender;
        match &self.key {
            WatchKey::Pods => listed(sender, ask, Object::Pod).await,
            WatchKey::Node => listed(sender, ask, Object::Node).await,
            WatchKey::Services => listed(sender, ask, Object::Service).await,
            WatchKey::RuntimeClasses => listed(sender, ask, Object::RuntimeClass).await,
            WatchKey::CsiDrivers => listed(sender, ask, Object::CsiDriver).await,
            WatchKey::ConfigMap { .. } => listed(sender, ask, Object::ConfigMap).await,
            WatchKey::Secret { .. } => listed(sender, ask, |secret| Object::Secret(Sensitive::new(secret))).await,
        }
    }

    async fn stream(&mut self, revision: &str) -> Ended {
        let seconds = WATCH_SECONDS + self.rng.below(WATCH_SECONDS);
        let and = if self.subject.selector.is_empty() { "" } else { "&" };
        let path = format!(
            "{}?{}{and}watch=true&allowWatchBookmarks=true&resourceVersion={}&timeoutSeconds={seconds}",
            self.subject.path,
            self.subject.selector,
            encoded(revision)
        );
        let idle = Duration::from_secs(seconds) + IDLE_SLACK;
        let opened = timeout(LIST_TIMEOUT, self.place.sender.stream(Ask::get(path))).await;
        let body = match opened {
            Err(_) => return Ended::Failed(Failure::new(FailureKind::Unavailable, "the watch took too long to open")),
            Ok(Err(failure)) if failure.kind == FailureKind::Gone => return Ended::Forgotten,
            Ok(Err(failure)) => return Ended::Failed(failure),
            Ok(Ok(response)) => response.into_body(),
        };
        self.lines(body, idle).await
    }

    async fn lines(&mut self, mut body: Body, mut idle: Duration) -> Ended {
        let mut buffer = BytesMut::new();
        loop {
            let frame = match timeout(idle, body.frame()).await {
                Err(_) => {
                    tracing::info!(watch = ?self.key, "Nothing came on a watch for too long; it is opened again");
                    return Ended::Resume;
                }
                // The end of a watch's life, or of its server's: it goes on where it was.
                Ok(None | Some(Err(_))) => return Ended::Resume,
                Ok(Some(Ok(frame))) => frame,
            };
            if let Some(data) = frame.data_ref() {
                buffer.extend_from_slice(data);
            }
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line = buffer.split_to(end);
                buffer.advance(1);
                if let Some(ended) = self.line(&line, &mut idle).await {
                    return ended;
                }
            }
            if buffer.len() > LINE_LIMIT {
                return Ended::Failed(Failure::new(FailureKind::Other, "a line of the watch is too long"));
            }
        }
    }

    async fn line(&mut self, line: &[u8], idle: &mut Duration) -> Option<Ended> {
        let envelope: Envelope = match serde_json::from_slice(line) {
            Ok(envelope) => envelope,
            Err(_) if line.is_empty() => return None,
            // Half a line, or nonsense: what it was is not known, so nothing after it can be trusted.
            Err(_) => return Some(Ended::Resume),
        };
        let event = match envelope.kind.as_str() {
            "BOOKMARK" => {
                *idle = (*idle).min(IDLE_WITH_BOOKMARKS);
                self.revision = envelope.object.metadata.resource_version.or(self.revision.take());
                return None;
            }
            "ERROR" => {
                let status: Wrapped<Status> = serde_json::from_slice(line).unwrap_or_default();
                let failure = in_watch(&status.object);
                return Some(if failure.kind == FailureKind::Gone { Ended::Forgotten } else { Ended::Failed(failure) });
            }
            "ADDED" | "MODIFIED" => self.object(line).map(|object| Event::WatchApplied { key: self.key.clone(), object }),
            "DELETED" => self.object(line).map(|object| Event::WatchDeleted { key: self.key.clone(), object }),
            _ => None,
        };
        match event {
            // One object that cannot be read must not stop the others.
            None => tracing::warn!(watch = ?self.key, "An object of a watch cannot be read and is left out"),
            Some(event) => {
                if self.sink.send(event).await.is_err() {
                    return Some(Ended::Closed);
                }
            }
        }
        self.revision = envelope.object.metadata.resource_version.or(self.revision.take());
        None
    }

    fn object(&self, line: &[u8]) -> Option<Object> {
        Some(match &self.key {
            WatchKey::Pods => Object::Pod(one::<Pod>(line)?),
            WatchKey::Node => Object::Node(one::<Node>(line)?),
            WatchKey::Services => Object::Service(one::<Service>(line)?),
            WatchKey::RuntimeClasses => Object::RuntimeClass(one::<RuntimeClass>(line)?),
            WatchKey::CsiDrivers => Object::CsiDriver(one::<CSIDriver>(line)?),
            WatchKey::ConfigMap { .. } => Object::ConfigMap(one::<ConfigMap>(line)?),
            WatchKey::Secret { .. } => Object::Secret(Sensitive::new(one::<Secret>(line)?)),
        })
    }
}

/// What every line of a watch has.
#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "type")]
    kind: String,
    object: Carried,
}

#[derive(Deserialize)]
struct Carried {
    #[serde(default)]
    metadata: CarriedMeta,
}

#[derive(Default, Deserialize)]
struct CarriedMeta {
    #[serde(rename = "resourceVersion")]
    resource_version: Option<String>,
}

#[derive(Default, Deserialize)]
struct Wrapped<T> {
    object: T,
}

fn one<T: DeserializeOwned + Metadata<Ty = ObjectMeta>>(line: &[u8]) -> Option<Arc<T>> {
    let mut wrapped: Wrapped<T> = serde_json::from_slice(line).ok()?;
    wrapped.object.metadata_mut().managed_fields = None;
    Some(Arc::new(wrapped.object))
}

struct Page {
    objects: Vec<Object>,
    revision: String,
    next: Option<String>,
}

async fn listed<T>(sender: &Sender, ask: Ask, wrap: impl Fn(Arc<T>) -> Object) -> Result<Page, Failure>
where
    T: DeserializeOwned + ListableResource + Metadata<Ty = ObjectMeta>,
{
    let list: List<T> = sender.object(ask).await?;
    let objects = list.items.into_iter().map(|mut item| {
        item.metadata_mut().managed_fields = None;
        wrap(Arc::new(item))
    });
    Ok(Page {
        objects: objects.collect(),
        revision: list.metadata.resource_version.unwrap_or_default(),
        next: list.metadata.continue_,
    })
}

/// What a query's value may hold as it is; everything else as `%XX`.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}
