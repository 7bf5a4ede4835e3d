//! The strategies `Cache` and `Get`: objects are fetched when a pod is synced and what is here has aged.
//! Upstream: pkg/kubelet/util/manager/cache_based_manager.go, pkg/kubelet/{secret,configmap} (NewSimpleSecretManager).
//! Differs: reads never block: while an object is fetched it is pending; an answer serves for ten seconds at least (see `FRESH_FOR`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;

use super::{Lookup, version};
use crate::action::{ApiCall, Call, Lane};
use crate::alarms::Alarms;
use crate::event::{ApiReply, Object, WatchKey};
use crate::failure::Failure;
use crate::ids::ActionId;
use crate::out::{Out, Owner};
use crate::time::{Mono, Now};

/// CFG-020
const DEFAULT_TTL: Duration = Duration::from_secs(60);
/// CFG-020: the node's annotation, in whole seconds.
const TTL_ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";
/// CFG-023: `syncFrequency`, unless it is set.
const DEFAULT_RESYNC: Duration = Duration::from_mins(1);
const TIMEOUT: Duration = Duration::from_secs(10);
/// An answer serves at least as long as another may take, so that a pod that waits for several has them all at one moment.
const FRESH_FOR: Duration = TIMEOUT;
/// How soon something that is missing or failed is asked for again.
const RETRY: Duration = Duration::from_millis(500);
/// While the API server's authorizer may not have heard of the pod (API-360): so soon, doubled, and that often nothing is said of it.
const UNRELATED_FIRST: Duration = Duration::from_millis(50);
const UNRELATED_TIMES: u32 = 5;

/// Objects by fetching.
#[derive(Debug)]
pub(super) struct FetchStore {
    objects: BTreeMap<WatchKey, Fetched>,
    /// When the pods of each object are synced for its sake.
    alarms: Alarms<WatchKey>,
    ttl: Duration,
    /// Whether answers age (`Cache`) or are asked for each time (`Get`).
    aging: bool,
    /// How often the pods that use an object are synced, and with that the object is read again.
    resync: Duration,
}

#[derive(Debug, Default)]
struct Fetched {
    held: Option<Object>,
    in_flight: Option<ActionId>,
    last: Option<Answer>,
    /// How often it was refused as unrelated, and when it is asked for again for that.
    unrelated: u32,
    again: Option<Mono>,
}

#[derive(Debug)]
struct Answer {
    at: Mono,
    result: Result<(), Failure>,
}

impl FetchStore {
    /// `Cache` (CFG-020, CFG-021).
    pub(super) fn aging() -> Self {
        Self { objects: BTreeMap::new(), alarms: Alarms::default(), ttl: DEFAULT_TTL, aging: true, resync: DEFAULT_RESYNC }
    }

    /// `Get` (CFG-022).
    pub(super) fn asking() -> Self {
        Self { objects: BTreeMap::new(), alarms: Alarms::default(), ttl: Duration::ZERO, aging: false, resync: DEFAULT_RESYNC }
    }

    /// How often objects are read again for pods that run (`syncFrequency`).
    pub(super) fn set_resync(&mut self, every: Duration) {
        self.resync = every;
    }

    /// When an object is to be read again.
    pub(super) fn deadline(&self) -> Option<Mono> {
        self.alarms.first()
    }

    /// The objects whose pods are to be synced, so that they are read again. Each is answered once for each period.
    pub(super) fn due(&mut self, now: Now) -> BTreeSet<WatchKey> {
        let due: BTreeSet<WatchKey> = self.alarms.due(now.mono).cloned().collect();
        for key in &due {
            self.alarms.set(key, Some(now.mono + self.resync));
        }
        due
    }

    /// CFG-020: the annotation overrides for as long as it is there and parses.
    pub(super) fn node_seen(&mut self, node: &Node) {
        let annotation = node.metadata.annotations.as_ref().and_then(|annotations| annotations.get(TTL_ANNOTATION));
        if self.aging {
            let seconds = annotation.and_then(|text| text.parse::<i64>().ok());
            // By a negative one nothing is ever fresh.
            self.ttl = seconds.map_or(DEFAULT_TTL, |seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)));
        }
    }

    /// CFG-020: a new reference wants the object as it is now. What was under way does not count.
    pub(super) fn invalidate(&mut self, key: &WatchKey) {
        self.objects.insert(key.clone(), Fetched::default());
        self.alarms.set(key, None);
    }

    /// Fetches the object if what is here has aged.
    pub(super) fn refresh(&mut self, now: Now, key: &WatchKey, out: &mut Out<'_>) {
        let Some(known) = self.objects.get_mut(key) else { return };
        let fresh_for = match known.last.as_ref().map(|answer| &answer.result) {
            None => Duration::ZERO,
            Some(Ok(())) => self.ttl.max(FRESH_FOR),
            // CFG-021: what is missing is asked for again on each read.
            Some(Err(_)) => RETRY,
        };
        if known.again.is_some_and(|at| at > now.mono) {
            return;
        }
        known.again = None;
        let aged = known.last.as_ref().is_none_or(|answer| now.mono.since(answer.at) >= fresh_for);
        if aged && known.in_flight.is_none() {
            let cached = self.aging && known.held.is_some() && known.last.as_ref().is_some_and(|answer| answer.result.is_ok());
            let call = Call::Api(ApiCall::GetObject { key: key.clone(), cached });
            known.in_flight = Some(out.issue(Owner::Object(key.clone()), Lane::Objects, TIMEOUT, call));
        }
    }

    /// Drops the object.
    pub(super) fn drop_object(&mut self, key: &WatchKey) {
        self.objects.remove(key);
        self.alarms.set(key, None);
    }

    /// Takes an answer. True if it was waited for.
    pub(super) fn done(&mut self, now: Now, key: &WatchKey, id: ActionId, outcome: Result<ApiReply, Failure>) -> bool {
        let Some(known) = self.objects.get_mut(key).filter(|known| known.in_flight == Some(id)) else { return false };
        known.in_flight = None;
        let result = match outcome {
            Ok(ApiReply::Object(object)) => {
                if known.held.as_ref().is_none_or(|held| !is_older(&object, held)) {
                    known.held = Some(object);
                }
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(failure) if failure.is_unrelated() && known.last.is_none() && known.unrelated < UNRELATED_TIMES => {
                let at = now.mono + UNRELATED_FIRST * 2u32.pow(known.unrelated);
                known.unrelated += 1;
                known.again = Some(at);
                self.alarms.set(key, Some(at));
                return false;
            }
            Err(failure) => {
                if failure.is_not_found() || !self.aging {
                    known.held = None;
                }
                Err(failure)
            }
        };
        known.last = Some(Answer { at: now.mono, result });
        self.alarms.set(key, Some(now.mono + self.resync));
        true
    }

    /// What is known of the object.
    pub(super) fn lookup(&self, key: &WatchKey) -> Lookup<&Object> {
        let Some(known) = self.objects.get(key) else { return Lookup::NotRegistered };
        match (&known.last, &known.held) {
            _ if known.in_flight.is_some() => Lookup::Pending,
            // CFG-021: an error other than NotFound leaves the copy in force.
            (Some(_), Some(held)) => Lookup::Found(held),
            (Some(Answer { result: Err(failure), .. }), None) if !failure.is_not_found() => Lookup::Failed(failure.message.clone()),
            (Some(_), None) => Lookup::NotFound,
            (None, _) => Lookup::Pending,
        }
    }
}

/// CFG-021: resourceVersions are compared as numbers; what does not parse counts as newer.
fn is_older(new: &Object, held: &Object) -> bool {
    let number = |object: &Object| version(object).and_then(|text| text.parse::<u64>().ok());
    matches!((number(new), number(held)), (Some(new), Some(held)) if new < held)
}
