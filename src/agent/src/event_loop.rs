//! The loop: an event is handled, what the core asks for is started, and that is all.
//! Upstream: pkg/kubelet/kubelet.go (syncLoop, syncLoopIteration).
//! Differs: the order among ready sources is fixed, and nothing in the loop ever waits for a call.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kubelet::action::Action;
use kubelet::event::Event;
use kubelet::kubelet::Kubelet;
use kubelet::time::{Mono, Now};
use kubelet::work::caught;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::env::Env;
use crate::executor::Executor;
use crate::loop_gauge::LoopGauge;

/// How many events of one source are handled before the others get their turn.
const BURST: usize = 64;

/// A question about the core, answered between two events.
pub type Query = Box<dyn FnOnce(&Kubelet, Now) + Send>;

/// Sees everything that is decided: the moment, the event, and what was asked for. For digests, traces and tests.
pub type Tap = Box<dyn FnMut(Now, &Event, &[Action]) + Send>;

/// The way to ask the core from outside the loop. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    queries: mpsc::Sender<Query>,
    pulse: Pulse,
}

/// When the loop last began a turn: written by it, and read by whoever must not wait for it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<Mutex<Option<Instant>>>);

impl Pulse {
    /// It begins one now.
    pub(crate) fn beat(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// How long ago it did; `None` before the first turn.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).map(|at| at.elapsed())
    }
}

impl Handle {
    /// Asks, and waits for the answer; `None` once the loop has ended.
    pub async fn ask<T: Send + 'static>(&self, question: impl FnOnce(&Kubelet, Now) -> T + Send + 'static) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        let query: Query = Box::new(move |kubelet, now| {
            // The one who asked may have gone away: then nobody needs the answer.
            let _ = reply.send(question(kubelet, now));
        });
        self.queries.send(query).await.ok()?;
        answer.await.ok()
    }

    /// The loop's pulse.
    #[must_use]
    pub fn pulse(&self) -> &Pulse {
        &self.pulse
    }
}

/// A channel for questions.
#[must_use]
pub fn handle() -> (Handle, mpsc::Receiver<Query>) {
    let (queries, receiver) = mpsc::channel(64);
    (Handle { queries, pulse: Pulse::default() }, receiver)
}

/// All that the loop turns around.
pub struct EventLoop {
    /// The decider.
    pub kubelet: Kubelet,
    /// The clock is read from it.
    pub env: Env,
    /// The doer.
    pub executor: Executor,
    /// What watches, streams and file sources deliver.
    pub sources: mpsc::Receiver<Event>,
    /// What the server asks.
    pub queries: mpsc::Receiver<Query>,
    /// Beats with each turn (API-064).
    pub pulse: Pulse,
    /// The moment that the core counts from.
    pub epoch: Instant,
    /// Sees all decisions.
    pub tap: Option<Tap>,
    /// What the loop counts of itself.
    pub gauge: LoopGauge,
}

impl EventLoop {
    /// Turns until the token is cancelled. Containers go on running.
    pub async fn run(mut self, shutdown: CancellationToken) {
        self.handle(Event::Started);
        loop {
            self.pulse.beat();
            let deadline = self.kubelet.deadline();
            let sleep = sleep_until(self.epoch, deadline);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                event = self.executor.next() => self.handle(event),
                () = sleep => {}
                Some(event) = self.sources.recv() => self.handle(event),
                Some(query) = self.queries.recv() => self.answer(query),
            }
            self.give_everyone_a_turn();
        }
    }

    /// Whichever it was that woke the loop, everyone gets a turn: however much one has to say, it keeps none of the others out
    /// (POD-050).
    fn give_everyone_a_turn(&mut self) {
        for _ in 0..BURST {
            let Some(event) = self.executor.try_next() else { break };
            self.handle(event);
        }
        if self.kubelet.deadline().is_some_and(|at| at <= self.now().mono) {
            self.handle(Event::TimerFired);
        }
        for _ in 0..BURST {
            let Ok(event) = self.sources.try_recv() else { break };
            self.handle(event);
        }
        for _ in 0..BURST {
            let Ok(query) = self.queries.try_recv() else { break };
            self.answer(query);
        }
    }

    fn answer(&mut self, query: Query) {
        let now = self.now();
        let began = Instant::now();
        // Whoever asked what cannot be answered gets no answer.
        let _answered = caught(|| query(&self.kubelet, now));
        self.gauge.turned("query", None, began.elapsed(), &self.kubelet);
    }

    fn handle(&mut self, event: Event) {
        let now = self.now();
        let began = Instant::now();
        let kind = event.name();
        if let Event::WatchFailed { key, .. } = &event {
            self.gauge.watch_failed(key);
        }
        let mut actions = Vec::new();
        if let Some(tap) = &mut self.tap {
            let seen = event.clone();
            self.kubelet.handle(now, event, &mut actions);
            tap(now, &seen, &actions);
        } else {
            self.kubelet.handle(now, event, &mut actions);
        }
        for action in actions {
            self.executor.start(action);
        }
        self.gauge.counts(self.kubelet.facts());
        let pod = self.kubelet.worked_for();
        self.gauge.turned(kind, pod, began.elapsed(), &self.kubelet);
    }

    fn now(&self) -> Now {
        Now { mono: Mono::from_start(Instant::now().duration_since(self.epoch)), wall: self.env.clock.now() }
    }
}

async fn sleep_until(epoch: Instant, deadline: Option<Mono>) {
    match deadline {
        // tokio's timer counts in milliseconds and never fires early, but the core counts in nanoseconds.
        Some(at) => tokio::time::sleep_until(epoch + at.since_start() + Duration::from_nanos(1)).await,
        None => futures::future::pending().await,
    }
}
