//! Decides when the node shows that it lives: keeps one lease, renewed every quarter of its duration.
//! Upstream: staging/src/k8s.io/component-helpers/apimachinery/lease/controller.go, pkg/kubelet/util/nodelease.go.
//! Differs: renewal is due at a fixed rhythm from the last success, so that a slow answer does not delay the next one.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};

use crate::action::{ApiCall, Call, Lane};
use crate::event::ApiReply;
use crate::failure::{Failure, FailureKind};
use crate::out::{Out, Owner};
use crate::rng::Rng;
use crate::time::{Mono, Now};

/// NODE-115: the namespace of node leases.
pub const NAMESPACE: &str = "kube-node-lease";
/// NODE-115: renewed every quarter of its duration, with this jitter.
const RENEW_FRACTION: f64 = 0.25;
const JITTER: f64 = 0.04;
/// NODE-117: this many tries at once before backing off.
const IMMEDIATE_TRIES: u32 = 5;
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
const BACKOFF_MOST: Duration = Duration::from_secs(7);

#[derive(Debug)]
enum State {
    /// The lease is not known: it must be read, or made.
    Unknown,
    /// It was read and is not there.
    Missing,
    /// Held as last seen.
    Held(Box<Lease>),
}

/// The node's lease.
#[derive(Debug)]
pub struct NodeLease {
    node: String,
    node_uid: Option<String>,
    duration: Duration,
    state: State,
    in_flight: bool,
    next: Mono,
    failures: u32,
    last_renewed: Option<Mono>,
}

impl NodeLease {
    /// A lease of that duration for that node; the first try is due at once.
    #[must_use]
    pub fn new(node: &str, duration: Duration) -> Self {
        Self {
            node: node.to_owned(),
            node_uid: None,
            duration,
            state: State::Unknown,
            in_flight: false,
            next: Mono::ZERO,
            failures: 0,
            last_renewed: None,
        }
    }

    /// The Node object is known: its UID goes into the owner reference (NODE-116).
    pub fn node_known(&mut self, now: Now, uid: &str) {
        if self.node_uid.as_deref() != Some(uid) {
            self.node_uid = Some(uid.to_owned());
            self.next = self.next.min(now.mono);
        }
    }

    /// When it was last renewed.
    #[must_use]
    pub fn last_renewed(&self) -> Option<Mono> {
        self.last_renewed
    }

    /// When there is something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        // Without a Node there is nobody to own a new lease; `node_known` sets it going.
        let waits_for_node = matches!(self.state, State::Missing) && self.node_uid.is_none();
        (!self.in_flight && !waits_for_node).then_some(self.next)
    }

    /// Reads, makes or renews the lease if that is due.
    pub fn due(&mut self, now: Now, out: &mut Out<'_>) {
        if self.deadline().is_none_or(|at| at > now.mono) {
            return;
        }
        let call = match &self.state {
            State::Unknown => ApiCall::GetLease,
            State::Missing => ApiCall::CreateLease(Box::new(self.lease(None, now))),
            State::Held(held) => ApiCall::UpdateLease(Box::new(self.lease(Some(held), now))),
        };
        self.in_flight = true;
        // NODE-010: min(status frequency, lease duration).
        let timeout = Duration::from_secs(10).min(self.duration);
        out.issue(Owner::Lease, Lane::Lease, timeout, Call::Api(call));
    }

    /// The call ended.
    pub fn done(&mut self, now: Now, outcome: Result<ApiReply, Failure>, rng: &mut Rng) {
        self.in_flight = false;
        match outcome {
            Ok(ApiReply::Lease(lease)) => {
                let only_read = matches!(self.state, State::Unknown);
                self.state = State::Held(lease);
                self.failures = 0;
                if only_read {
                    self.next = now.mono;
                } else {
                    self.last_renewed = Some(now.mono);
                    self.next = now.mono + rng.jitter(self.duration.mul_f64(RENEW_FRACTION), JITTER);
                }
            }
            Ok(_) => self.failed(now),
            Err(failure) => {
                match failure.kind {
                    FailureKind::NotFound => self.state = State::Missing,
                    // NODE-117: somebody else wrote it, or ours was written and the answer lost.
                    FailureKind::Conflict | FailureKind::AlreadyExists => self.state = State::Unknown,
                    _ => {}
                }
                self.failed(now);
            }
        }
    }

    fn failed(&mut self, now: Now) {
        self.failures += 1;
        let wait = if self.failures <= IMMEDIATE_TRIES {
            Duration::ZERO
        } else {
            let doublings = (self.failures - IMMEDIATE_TRIES - 1).min(16);
            (BACKOFF_FIRST * 2u32.pow(doublings)).min(BACKOFF_MOST)
        };
        self.next = now.mono + wait;
    }

    fn lease(&self, held: Option<&Lease>, now: Now) -> Lease {
        let mut lease = held.cloned().unwrap_or_else(|| Lease {
            metadata: ObjectMeta { name: Some(self.node.clone()), namespace: Some(NAMESPACE.to_owned()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec { holder_identity: Some(self.node.clone()), ..LeaseSpec::default() }),
        });
        lease.metadata.managed_fields = None;
        if lease.metadata.owner_references.as_ref().is_none_or(Vec::is_empty)
            && let Some(uid) = &self.node_uid
        {
            lease.metadata.owner_references = Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: self.node.clone(),
                uid: uid.clone(),
                ..OwnerReference::default()
            }]);
        }
        let spec = lease.spec.get_or_insert_default();
        spec.lease_duration_seconds = i32::try_from(self.duration.as_secs()).ok();
        spec.renew_time = Some(MicroTime(now.wall));
        lease
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Action;
    use crate::out::Ledger;

    fn at(seconds: u64) -> Now {
        Now {
            mono: Mono::from_start(Duration::from_secs(seconds)),
            wall: jiff::Timestamp::from_second(i64::try_from(seconds).unwrap()).unwrap(),
        }
    }

    fn due(lease: &mut NodeLease, now: Now) -> Option<ApiCall> {
        let (mut ledger, mut actions, mut recorded) = (Ledger::default(), Vec::<Action>::new(), Vec::new());
        lease.due(now, &mut Out::new(&mut ledger, &mut actions, &mut recorded));
        actions.pop().map(|action| match action.call {
            Call::Api(call) => call,
            other => panic!("a lease asks only the API server, not {other:?}"),
        })
    }

    fn failure(kind: FailureKind) -> Result<ApiReply, Failure> {
        Err(Failure::new(kind, "no"))
    }

    // NODE-115, NODE-116: made with the Node as its owner, then renewed every 10 s from the last returned object.
    #[test]
    fn lease_is_made_once_the_node_is_known_and_renewed_every_quarter() {
        let mut lease = NodeLease::new("n1", Duration::from_secs(40));
        let mut rng = Rng::new(1);
        assert!(matches!(due(&mut lease, at(0)), Some(ApiCall::GetLease)));
        lease.done(at(0), failure(FailureKind::NotFound), &mut rng);
        assert!(due(&mut lease, at(1)).is_none(), "no lease without an owner");
        lease.node_known(at(2), "uid-1");
        let Some(ApiCall::CreateLease(made)) = due(&mut lease, at(2)) else { panic!("it is made") };
        let golden: Lease = serde_json::from_str(include_str!("../../testdata/lease.json")).unwrap();
        assert_eq!(made.spec.as_ref().unwrap().holder_identity, golden.spec.as_ref().unwrap().holder_identity);
        assert_eq!(made.spec.as_ref().unwrap().lease_duration_seconds, Some(40));
        assert_eq!(made.metadata.owner_references.as_ref().unwrap()[0].uid, "uid-1");
        lease.done(at(2), Ok(ApiReply::Lease(made)), &mut rng);
        assert!(due(&mut lease, at(11)).is_none());
        let Some(ApiCall::UpdateLease(renewed)) = due(&mut lease, at(13)) else { panic!("it is renewed") };
        assert_eq!(renewed.spec.unwrap().renew_time.unwrap().0, at(13).wall);
    }

    // NODE-117: five tries at once, then 200 ms doubling to 7 s; a conflict reads it again.
    #[test]
    fn failed_renewal_is_tried_five_times_at_once_and_then_backs_off() {
        let mut lease = NodeLease::new("n1", Duration::from_secs(40));
        let mut rng = Rng::new(1);
        for _ in 0..5 {
            assert!(due(&mut lease, at(0)).is_some());
            lease.done(at(0), failure(FailureKind::Unavailable), &mut rng);
        }
        assert_eq!(lease.deadline(), Some(at(0).mono));
        due(&mut lease, at(0));
        lease.done(at(0), failure(FailureKind::Unavailable), &mut rng);
        assert_eq!(lease.deadline(), Some(at(0).mono + Duration::from_millis(200)));
        for _ in 0..20 {
            due(&mut lease, at(1000));
            lease.done(at(1000), failure(FailureKind::Unavailable), &mut rng);
        }
        assert_eq!(lease.deadline(), Some(at(1007).mono));
        lease.state = State::Held(Box::default());
        due(&mut lease, at(2000));
        lease.done(at(2000), failure(FailureKind::Conflict), &mut rng);
        assert!(matches!(due(&mut lease, at(3000)), Some(ApiCall::GetLease)));
    }
}
