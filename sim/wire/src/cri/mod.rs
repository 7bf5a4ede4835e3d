//! The pretend runtime as a real gRPC server: CRI v1 over whatever sockets it is given.
//! Upstream: k8s.io/cri-api; containerd's answers where the contract leaves room.
//! Differs: what the pretend runtime does not have answers Unimplemented, as an older containerd does.

mod convert;
mod images;
mod runtime;
#[cfg(test)]
mod tests;

use std::future::{Future, pending};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use kubelet::action::CriCall;
use kubelet::event::CriReply;
use kubelet::failure::{Failure, FailureKind};
use model::runtime::RuntimeModel;
use tokio::sync::{oneshot, watch};
use tonic::Status;

/// What happens to one call, decided by the simulator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CallFault {
    /// Nothing.
    #[default]
    None,
    /// It fails so, without effect.
    Error(Failure),
    /// It hangs without effect.
    Hang,
    /// It takes effect, and its answer is never sent.
    Lost,
    /// It takes effect that long after its caller has given up.
    Late(Duration),
    /// It takes this much longer.
    Slow(Duration),
}

/// Decides what happens to each call, by its method name.
pub type FaultPlan = Arc<dyn Fn(&'static str) -> CallFault + Send + Sync>;

/// Sees each call at the moment before it takes effect.
pub type CallWitness = Arc<dyn Fn(&CriCall) + Send + Sync>;

/// The pretend runtime behind gRPC. Cheap to clone; clones share it.
#[derive(Clone)]
pub struct CriServer {
    model: Arc<Mutex<RuntimeModel>>,
    clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    faults: FaultPlan,
    witness: Option<CallWitness>,
    changed: watch::Sender<u64>,
}

impl CriServer {
    /// A server of that runtime. `clock` is its wall clock.
    pub fn new(model: Arc<Mutex<RuntimeModel>>, clock: Arc<dyn Fn() -> Timestamp + Send + Sync>, faults: FaultPlan) -> Self {
        Self { model, clock, faults, witness: None, changed: watch::Sender::new(0) }
    }

    /// The same, watched.
    #[must_use]
    pub fn watched_by(mut self, witness: CallWitness) -> Self {
        self.witness = Some(witness);
        self
    }

    /// The pretend runtime itself, for whoever drives it.
    #[must_use]
    pub fn model(&self) -> Arc<Mutex<RuntimeModel>> {
        Arc::clone(&self.model)
    }

    fn with<T>(&self, f: impl FnOnce(&mut RuntimeModel, Timestamp) -> T) -> T {
        let now = (self.clock)();
        // A panic elsewhere must not hide behind a poisoned lock: the model is plain data.
        let mut model = self.model.lock().unwrap_or_else(PoisonError::into_inner);
        model.advance(now);
        f(&mut model, now)
    }

    /// Tells those who listen for events that time passed or something was done to the runtime from outside.
    pub fn nudge(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    /// Makes a call as the real thing would: it takes its time, and the fault that is due. What has begun goes on whether or not
    /// its caller still waits.
    async fn call(&self, method: &'static str, call: CriCall) -> Result<CriReply, Status> {
        let reply = match (self.faults)(method) {
            CallFault::None => self.begin(call, Duration::ZERO).await?,
            CallFault::Slow(extra) => self.begin(call, extra).await?,
            CallFault::Error(failure) => Err(failure),
            CallFault::Hang => pending().await,
            CallFault::Lost => {
                self.begin(call, Duration::ZERO).await?.ok();
                pending().await
            }
            CallFault::Late(after) => {
                // Dropped with this future: when the caller hangs up.
                let (_held, given_up) = oneshot::channel::<()>();
                let server = self.clone();
                tokio::spawn(async move {
                    given_up.await.ok();
                    tokio::time::sleep(after).await;
                    server.perform(&call).await
                });
                pending().await
            }
        };
        reply.map_err(status_of)
    }

    async fn begin(&self, call: CriCall, extra: Duration) -> Result<Result<CriReply, Failure>, Status> {
        let server = self.clone();
        let task = tokio::spawn(async move {
            tokio::time::sleep(extra).await;
            server.perform(&call).await
        });
        task.await.map_err(|e| Status::internal(e.to_string()))
    }

    async fn perform(&self, call: &CriCall) -> Result<CriReply, Failure> {
        let latency = self.with(|model, now| model.latency(now, call));
        // A stop begins at once and takes its time; everything else takes effect when it ends.
        let stop = matches!(call, CriCall::StopContainer { .. });
        if !stop {
            tokio::time::sleep(latency).await;
        }
        if let Some(witness) = &self.witness {
            witness(call);
        }
        let reply = self.with(|model, now| model.call(now, call));
        self.nudge();
        if stop {
            tokio::time::sleep(latency).await;
        }
        reply
    }

    /// Ends containers whose time has come and tells of it, for as long as it is polled.
    pub fn keep_time(&self) -> impl Future<Output = ()> + Send + 'static {
        let server = self.clone();
        async move {
            let mut changed = server.changed.subscribe();
            loop {
                let wait = server.with(|model, now| {
                    model.next_change().map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default())
                });
                match wait {
                    Some(wait) => {
                        // A millisecond more: virtual time moves in whole ones.
                        let slept = tokio::time::timeout(wait + Duration::from_millis(1), changed.changed()).await;
                        if slept.is_err() {
                            server.with(|_, _| ());
                            server.nudge();
                        }
                    }
                    None => {
                        if changed.changed().await.is_err() {
                            return;
                        }
                    }
                }
            }
        }
    }
}

fn status_of(failure: Failure) -> Status {
    match failure.kind {
        FailureKind::NotFound => Status::not_found(failure.message),
        FailureKind::Unimplemented => Status::unimplemented(failure.message),
        FailureKind::Invalid => Status::invalid_argument(failure.message),
        FailureKind::Unavailable => Status::unavailable(failure.message),
        FailureKind::Conflict => Status::aborted(failure.message),
        FailureKind::Throttled { .. } => Status::resource_exhausted(failure.message),
        _ => Status::unknown(failure.message),
    }
}

fn unexpected(reply: &CriReply) -> Status {
    Status::internal(format!("the pretend runtime answered {reply:?}"))
}
