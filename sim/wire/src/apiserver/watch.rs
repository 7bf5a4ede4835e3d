//! A watch as an endless body: what it begins with, what happens, bookmarks, and its end.
//! Upstream: staging/src/k8s.io/apiserver/pkg/endpoints/handlers/watch.go, storage/cacher.
//! Differs: a watch without a timeout ends after an hour, always.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::{Response, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use model::api::authorize::Identity;
use model::api::error::ApiError;
use model::api::rest::{self, Routed};
use model::api::store::ChangeKind;
use model::api::watch::Watch;
use serde_json::Value;
use tokio::time::Instant;

use super::handler::Body;
use super::{ApiServer, Break, WatchFault};

/// How often a quiet watch is told how far it has come.
const BOOKMARKS: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(3600);

struct Telling {
    server: ApiServer,
    who: Identity,
    routed: Routed,
    watch: Watch,
    pending: VecDeque<io::Result<Bytes>>,
    changed: tokio::sync::watch::Receiver<u64>,
    broken: tokio::sync::watch::Receiver<Option<Break>>,
    ends: Instant,
    next_bookmark: Instant,
    silent: bool,
    over: bool,
}

impl ApiServer {
    /// Opens a watch; a silent one never tells anything.
    pub(super) fn watch(&self, who: &Identity, routed: Routed, silent: bool) -> Result<Response<Body>, ApiError> {
        let options = &routed.options;
        if options.initial_events == Some(true)
            && options.revision.is_some_and(|r| r > self.with(|model, _| model.store.revision()))
        {
            return Err(ApiError::new(504, "Timeout", "Too large resource version"));
        }
        // Without a revision, or with 0, a watch begins with what there is.
        let from = options.revision.filter(|r| *r > 0 && options.initial_events != Some(true));
        let initial = from.is_none() && options.initial_events != Some(false);
        // Subscribed before the state is read, so that nothing falls in between.
        let (changed, broken) = (self.changed.subscribe(), self.broken.subscribe());
        let opened = self.with(|model, now| -> Result<_, ApiError> {
            let watch = model.watch(now, who, routed.request.clone(), from)?;
            let mut first = VecDeque::new();
            if initial {
                let objects = model.store.list(routed.request.resource.plural, &routed.request.namespace);
                for object in objects.filter(|o| routed.request.concerns(o)) {
                    first.push_back(Ok(line(&rest::watch_event(&routed, ChangeKind::Added, object, now))));
                }
                if options.initial_events == Some(true) && options.bookmarks {
                    first.push_back(Ok(line(&rest::bookmark(routed.request.resource, watch.revision(), true))));
                }
            }
            Ok((watch, first))
        });
        let (watch, pending) = match opened {
            Ok(opened) => opened,
            // A revision that is too old is told inside the stream, as the watch cache does.
            Err(error) if error.code == 410 => {
                return Ok(response(stream::iter([Ok(Frame::data(line(&rest::error_event(&error))))])));
            }
            Err(error) => return Err(error),
        };
        let now = Instant::now();
        let telling = Telling {
            server: self.clone(),
            who: who.clone(),
            ends: now + options.timeout_seconds.map_or(LONGEST, Duration::from_secs).min(LONGEST),
            next_bookmark: now + BOOKMARKS,
            routed,
            watch,
            pending: if silent { VecDeque::new() } else { pending },
            changed,
            broken,
            silent,
            over: false,
        };
        Ok(response(stream::unfold(telling, |mut telling| async move {
            let line = telling.next().await?;
            Some((line.map(Frame::data), telling))
        })))
    }
}

fn response(lines: impl stream::Stream<Item = io::Result<Frame<Bytes>>> + Send + 'static) -> Response<Body> {
    let mut response = Response::new(StreamBody::new(lines).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

fn line(event: &Value) -> Bytes {
    Bytes::from(format!("{event}\n"))
}

impl Telling {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            if let Some(line) = self.pending.pop_front() {
                return Some(line);
            }
            if self.over {
                return None;
            }
            if self.silent {
                self.wait_silent().await;
                continue;
            }
            self.look();
            if !self.pending.is_empty() || self.over {
                continue;
            }
            tokio::select! {
                biased;
                _ = self.broken.changed() => self.fail(),
                // The server is gone with its last handle; a handle is held here.
                _ = self.changed.changed() => {}
                () = tokio::time::sleep_until(self.ends) => {
                    self.mark();
                    self.over = true;
                }
                () = tokio::time::sleep_until(self.next_bookmark) => {
                    self.next_bookmark += BOOKMARKS;
                    self.mark();
                }
            }
        }
    }

    /// A silent watch can still be ended from outside, but not by its own time: what is between it and the server is dead.
    async fn wait_silent(&mut self) {
        let _held = self.broken.changed().await;
        self.fail();
    }

    fn look(&mut self) {
        let (watch, routed) = (&mut self.watch, &self.routed);
        let model = self.server.model();
        let now = (self.server.clock)();
        let told = model.lock().unwrap_or_else(std::sync::PoisonError::into_inner).watch_changes(watch);
        match told {
            Ok(told) => {
                self.pending.extend(told.iter().map(|(kind, object)| Ok(line(&rest::watch_event(routed, *kind, object, now)))));
            }
            Err(error) => {
                self.pending.push_back(Ok(line(&rest::error_event(&error))));
                self.over = true;
            }
        }
    }

    fn mark(&mut self) {
        if self.routed.options.bookmarks {
            let bookmark = rest::bookmark(self.routed.request.resource, self.watch.revision(), false);
            self.pending.push_back(Ok(line(&bookmark)));
        }
    }

    fn fail(&mut self) {
        let Some(fault) = self.broken.borrow_and_update().clone() else { return };
        if !(fault.filter)(&self.who, &self.routed.request) {
            return;
        }
        match fault.fault {
            WatchFault::Eof => self.over = true,
            WatchFault::Silence => self.silent = true,
            WatchFault::Reset => {
                self.pending.push_back(Err(io::Error::new(io::ErrorKind::ConnectionReset, "the simulator broke this watch")));
                self.over = true;
            }
            WatchFault::Expired => {
                let error = ApiError::expired(self.watch.revision(), self.watch.revision() + 1);
                self.pending.push_back(Ok(line(&rest::error_event(&error))));
                self.over = true;
            }
        }
    }
}
