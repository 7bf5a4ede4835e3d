//! Decides which of the things that happened become API events: folds repeated ones, limits chatter, gives up in the end.
//! Upstream: staging/src/k8s.io/client-go/tools/record/{event,events_cache}.go, pkg/kubelet/events/event.go.
//! Differs: a full queue drops the newest; upstream's broadcaster blocks or drops by chance. Of an event whose object has too long a name,
//! the name begins with as much of that as there is room for; upstream gives it a UUID.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event as ApiEvent, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::action::{ApiCall, Call, Lane};
use crate::event::ApiReply;
use crate::failure::{Failure, FailureKind};
use crate::ids::ActionId;
use crate::out::{Out, Owner};
use crate::time::{Mono, Now};

/// API-223: more than this many similar events within the window are folded into one.
const SIMILAR_MOST: usize = 10;
const SIMILAR_WINDOW: Duration = Duration::from_secs(600);
/// API-223: how many events one object may cause at once, and how fast that refills.
const OBJECT_BURST: f64 = 25.0;
const OBJECT_REFILL_PER_SECOND: f64 = 1.0 / 300.0;
/// How many series and objects are remembered.
const REMEMBERED: usize = 4096;
/// How many events wait to be sent.
const QUEUE: usize = 1000;
/// How often, and after how long, an event is sent again when the API server is not there.
const TRIES: u32 = 12;
const RETRY: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(10);
/// A DNS subdomain has no more letters.
const LONGEST_NAME: usize = 253;

/// One thing worth telling the users.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// What it is about.
    pub subject: Subject,
    /// Whether it is a Warning; Normal otherwise.
    pub warning: bool,
    /// Upstream's exact reason, such as `BackOff`.
    pub reason: String,
    /// Upstream's exact message.
    pub message: String,
}

/// What an event is about.
#[derive(Clone, Debug, PartialEq)]
pub enum Subject {
    /// This node.
    Node,
    /// A pod.
    Pod(Arc<Pod>),
    /// A container of a pod, by its field path such as `spec.containers{main}` (POD-360).
    Container(Arc<Pod>, String),
}

impl Recorded {
    /// A Normal event.
    #[must_use]
    pub fn normal(subject: Subject, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { subject, warning: false, reason: reason.into(), message: message.into() }
    }

    /// A Warning event.
    #[must_use]
    pub fn warning(subject: Subject, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { subject, warning: true, reason: reason.into(), message: message.into() }
    }
}

/// What identifies a series of equal events.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct SeriesKey {
    object: ObjectKey,
    field_path: String,
    warning: bool,
    reason: String,
    /// `None` once the messages are folded.
    message: Option<TextDigest>,
}

/// Stands for a message. What is remembered outlives its pod, and a message may be as long as a spec.
type TextDigest = [u8; 32];

fn digest(message: &str) -> TextDigest {
    Sha256::digest(message.as_bytes()).into()
}

/// What the API server is spared too many events of: Warnings of an object have an allowance beside its others (getSpamKey).
type SpamKey = (ObjectKey, bool);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ObjectKey {
    namespace: String,
    name: String,
    uid: String,
}

#[derive(Clone, Debug)]
struct Series {
    event_name: String,
    first: Timestamp,
    count: i32,
    used: u64,
}

#[derive(Clone, Debug)]
struct Similar {
    messages: BTreeSet<TextDigest>,
    since: Mono,
    used: u64,
}

#[derive(Clone, Debug)]
struct Allowance {
    tokens: f64,
    at: Mono,
    used: u64,
}

#[derive(Debug)]
struct Waiting {
    event: Box<ApiEvent>,
    /// Whether the API server has it not yet, or not any more.
    is_new: bool,
    tries: u32,
    not_before: Mono,
}

/// The event recorder.
#[derive(Debug)]
pub struct Recorder {
    node: String,
    series: BTreeMap<SeriesKey, Series>,
    similar: BTreeMap<SeriesKey, Similar>,
    allowances: BTreeMap<SpamKey, Allowance>,
    queue: VecDeque<Waiting>,
    in_flight: BTreeMap<ActionId, Waiting>,
    tokens: f64,
    refilled: Mono,
    per_second: f64,
    burst: f64,
    uses: u64,
    dropped: u64,
}

impl Recorder {
    /// A recorder for that node, which sends at most so many events a second (`eventRecordQPS`, `eventBurst`; 0 means no limit).
    #[must_use]
    pub fn new(node: &str, per_second: u32, burst: u32) -> Self {
        Self {
            node: node.to_owned(),
            series: BTreeMap::new(),
            similar: BTreeMap::new(),
            allowances: BTreeMap::new(),
            queue: VecDeque::new(),
            in_flight: BTreeMap::new(),
            tokens: f64::from(burst),
            refilled: Mono::ZERO,
            per_second: f64::from(per_second),
            burst: f64::from(burst),
            uses: 0,
            dropped: 0,
        }
    }

    /// How many events were dropped for want of room or allowance.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Takes what happened, in order, and sends what may be sent.
    pub fn take(&mut self, now: Now, recorded: &mut Vec<Recorded>, out: &mut Out<'_>) {
        for item in recorded.drain(..) {
            self.correlate(now, item);
        }
        self.send(now, out);
    }

    /// When something waits to be sent.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        let front = self.queue.front()?;
        let allowed = if self.tokens >= 1.0 || self.per_second == 0.0 {
            Mono::ZERO
        } else {
            // Rounded up: a moment too early there would still be nothing to spend, for ever.
            self.refilled + Duration::from_secs_f64((1.0 - self.tokens) / self.per_second) + Duration::from_nanos(1)
        };
        Some(front.not_before.max(allowed))
    }

    /// Sends what is due.
    pub fn send(&mut self, now: Now, out: &mut Out<'_>) {
        self.refill(now.mono);
        while self.queue.front().is_some_and(|w| w.not_before <= now.mono) {
            if self.per_second > 0.0 {
                if self.tokens < 1.0 {
                    return;
                }
                self.tokens -= 1.0;
            }
            let Some(waiting) = self.queue.pop_front() else { return };
            let call = call_of(&waiting);
            let id = out.issue(Owner::Recorder, Lane::Events, TIMEOUT, Call::Api(call));
            self.in_flight.insert(id, waiting);
        }
    }

    /// A call ended.
    pub fn done(&mut self, now: Now, id: ActionId, outcome: Result<ApiReply, Failure>) {
        let Some(mut waiting) = self.in_flight.remove(&id) else { return };
        let Err(failure) = outcome else { return };
        match failure.kind {
            // The event that was to be counted up has expired, or the first of its series was withheld: it is made with all that it counts.
            FailureKind::NotFound if !waiting.is_new => {
                waiting.is_new = true;
                self.requeue(waiting);
            }
            FailureKind::Unavailable | FailureKind::UnknownOutcome | FailureKind::Throttled { .. } if waiting.tries < TRIES => {
                waiting.tries += 1;
                waiting.not_before = now.mono + RETRY;
                self.requeue(waiting);
            }
            // Refused, a namespace that is going away, or tried often enough: an event is not worth more.
            _ => self.dropped += 1,
        }
    }

    fn requeue(&mut self, waiting: Waiting) {
        if self.queue.len() < QUEUE {
            self.queue.push_back(waiting);
        } else {
            self.dropped += 1;
        }
    }

    fn refill(&mut self, now: Mono) {
        let gained = now.since(self.refilled).as_secs_f64() * self.per_second;
        self.tokens = (self.tokens + gained).min(self.burst);
        self.refilled = now;
    }

    fn correlate(&mut self, now: Now, item: Recorded) {
        self.uses += 1;
        let reference = self.reference(&item.subject);
        let object = ObjectKey {
            namespace: reference.namespace.clone().unwrap_or_default(),
            name: reference.name.clone().unwrap_or_default(),
            uid: reference.uid.clone().unwrap_or_default(),
        };
        let spam_key = (object, item.warning);
        let mut key = SeriesKey {
            object: spam_key.0.clone(),
            field_path: reference.field_path.clone().unwrap_or_default(),
            warning: item.warning,
            reason: item.reason.clone(),
            message: None,
        };
        let digest = digest(&item.message);
        let message = if self.too_similar(now.mono, &key, digest) {
            // Folded, they are one series, whichever container they are of.
            key.field_path.clear();
            format!("(combined from similar events): {}", item.message)
        } else {
            key.message = Some(digest);
            item.message.clone()
        };
        let series = self.count(now, &key, &reference);
        // EventCorrelate: what an object has no allowance for counts all the same, and the next that is sent says so.
        if self.object_may(now.mono, &spam_key) {
            let event = Box::new(self.event(now, &item, reference, message, &series));
            self.requeue(Waiting { event, is_new: series.count == 1, tries: 0, not_before: Mono::ZERO });
        } else {
            self.dropped += 1;
        }
        self.forget_oldest();
    }

    fn object_may(&mut self, now: Mono, object: &SpamKey) -> bool {
        let uses = self.uses;
        let allowance = self.allowances.entry(object.clone()).or_insert(Allowance { tokens: OBJECT_BURST, at: now, used: uses });
        allowance.tokens = (allowance.tokens + now.since(allowance.at).as_secs_f64() * OBJECT_REFILL_PER_SECOND).min(OBJECT_BURST);
        allowance.at = now;
        allowance.used = uses;
        if allowance.tokens < 1.0 {
            return false;
        }
        allowance.tokens -= 1.0;
        true
    }

    fn too_similar(&mut self, now: Mono, key: &SeriesKey, message: TextDigest) -> bool {
        let uses = self.uses;
        let fresh = || Similar { messages: BTreeSet::new(), since: now, used: uses };
        // Of all containers of a pod together (EventAggregatorByReasonFunc).
        let key = SeriesKey { field_path: String::new(), ..key.clone() };
        let similar = self.similar.entry(key).or_insert_with(fresh);
        if now.since(similar.since) > SIMILAR_WINDOW {
            *similar = fresh();
        }
        similar.used = uses;
        similar.since = now;
        similar.messages.insert(message);
        // The tenth is folded and not remembered (EventAggregate pops any): those before it go on being told by themselves.
        similar.messages.len() >= SIMILAR_MOST && similar.messages.remove(&message)
    }

    fn count(&mut self, now: Now, key: &SeriesKey, reference: &ObjectReference) -> Series {
        let uses = self.uses;
        let series = self.series.entry(key.clone()).or_insert_with(|| Series {
            event_name: event_name(reference.name.as_deref().unwrap_or_default(), now.wall.as_nanosecond() + i128::from(uses)),
            first: now.wall,
            count: 0,
            used: uses,
        });
        series.count += 1;
        series.used = uses;
        series.clone()
    }

    fn event(&self, now: Now, item: &Recorded, reference: ObjectReference, message: String, series: &Series) -> ApiEvent {
        let seconds = |at: Timestamp| Some(Time(Timestamp::from_second(at.as_second()).unwrap_or(at)));
        ApiEvent {
            metadata: ObjectMeta {
                name: Some(series.event_name.clone()),
                namespace: Some(reference.namespace.clone().unwrap_or_else(|| "default".to_owned())),
                ..ObjectMeta::default()
            },
            involved_object: reference,
            reason: Some(item.reason.clone()),
            message: Some(message),
            source: Some(EventSource { component: Some("kubelet".to_owned()), host: Some(self.node.clone()) }),
            first_timestamp: seconds(series.first),
            last_timestamp: seconds(now.wall),
            count: Some(series.count),
            type_: Some(if item.warning { "Warning" } else { "Normal" }.to_owned()),
            reporting_component: Some("kubelet".to_owned()),
            reporting_instance: Some(self.node.clone()),
            ..ApiEvent::default()
        }
    }

    fn reference(&self, subject: &Subject) -> ObjectReference {
        let (pod, field_path) = match subject {
            Subject::Node => {
                return ObjectReference {
                    kind: Some("Node".to_owned()),
                    name: Some(self.node.clone()),
                    api_version: Some("v1".to_owned()),
                    ..ObjectReference::default()
                };
            }
            Subject::Pod(pod) => (pod, None),
            Subject::Container(pod, path) => (pod, Some(path.clone())),
        };
        ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            api_version: Some("v1".to_owned()),
            resource_version: pod.metadata.resource_version.clone(),
            field_path,
        }
    }

    fn forget_oldest(&mut self) {
        evict(&mut self.series, |s| s.used);
        evict(&mut self.similar, |s| s.used);
        evict(&mut self.allowances, |s| s.used);
    }
}

fn evict<K: Ord + Clone, V>(map: &mut BTreeMap<K, V>, used: impl Fn(&V) -> u64) {
    if map.len() > REMEMBERED
        && let Some(oldest) = map.iter().min_by_key(|(_, v)| used(v)).map(|(k, _)| k.clone())
    {
        map.remove(&oldest);
    }
}

/// An event's name, which has to be a DNS subdomain as its object's is (GenerateEventName in tools/record/util/util.go).
fn event_name(object: &str, nanoseconds: i128) -> String {
    let moment = format!(".{nanoseconds:x}");
    let room = LONGEST_NAME - moment.len();
    // Names are of ASCII letters and digits, and may be cut before one of those only.
    let kept = object.get(..room).map_or(object, |cut| cut.trim_end_matches(['-', '.']));
    format!("{kept}{moment}")
}

/// API-226: the first of a series is created, the later ones are patches of its count.
fn call_of(Waiting { event, is_new, .. }: &Waiting) -> ApiCall {
    if *is_new {
        return ApiCall::CreateEvent(event.clone());
    }
    ApiCall::PatchEvent {
        namespace: event.metadata.namespace.clone().unwrap_or_default(),
        name: event.metadata.name.clone().unwrap_or_default(),
        patch: json!({"count": event.count, "lastTimestamp": event.last_timestamp, "message": event.message}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::out::Ledger;

    fn at(seconds: u64) -> Now {
        Now {
            mono: Mono::from_start(Duration::from_secs(seconds)),
            wall: Timestamp::from_second(1_795_422_621 + i64::try_from(seconds).unwrap()).unwrap(),
        }
    }

    fn calls(recorder: &mut Recorder, now: Now, mut recorded: Vec<Recorded>) -> Vec<(ActionId, ApiCall)> {
        let (mut ledger, mut actions, mut none) = (Ledger::default(), Vec::new(), Vec::new());
        recorder.take(now, &mut recorded, &mut Out::new(&mut ledger, &mut actions, &mut none));
        actions
            .into_iter()
            .map(|action| match action.call {
                Call::Api(call) => (action.id, call),
                other => panic!("a recorder asks only the API server, not {other:?}"),
            })
            .collect()
    }

    // Series outlive their pods, so what is kept of a message is as long whatever it says: a path of a probe may be as long as its pod.
    #[test]
    fn long_messages_are_not_kept() {
        let mut recorder = Recorder::new("n1", 0, 0);
        for number in 0..50 {
            let message = format!("Readiness probe failed: Get \"{}{number}\"", "x".repeat(1 << 20));
            let sent = calls(&mut recorder, at(number), vec![Recorded::warning(Subject::Pod(pod()), "Unhealthy", message)]);
            for (id, _) in sent {
                recorder.done(at(number), id, Err(Failure::new(FailureKind::Forbidden, "no")));
            }
        }
        assert!(!recorder.series.is_empty() && recorder.queue.is_empty() && recorder.in_flight.is_empty());
        let kept = format!("{:?}{:?}{:?}", recorder.series, recorder.similar, recorder.allowances).len();
        assert!(kept < 1 << 20, "{kept}");
    }

    fn pod() -> Arc<Pod> {
        let meta = json!({"name": "p", "namespace": "default", "uid": "u", "resourceVersion": "7"});
        Arc::new(serde_json::from_value(json!({"metadata": meta})).unwrap())
    }

    // POD-360, API-223: the fields of an event as a real kubelet sends them.
    #[test]
    fn event_of_a_container_names_its_field_path() {
        let mut recorder = Recorder::new("n1", 50, 100);
        let subject = Subject::Container(pod(), "spec.containers{c}".to_owned());
        let sent = calls(&mut recorder, at(0), vec![Recorded::normal(subject, "Created", "Container created")]);
        let ApiCall::CreateEvent(event) = &sent[0].1 else { panic!("it is created") };
        let event = serde_json::to_value(event).unwrap();
        assert_eq!(
            event["involvedObject"],
            json!({"kind": "Pod", "namespace": "default", "name": "p", "uid": "u", "apiVersion": "v1",
                   "resourceVersion": "7", "fieldPath": "spec.containers{c}"})
        );
        assert_eq!(event["source"], json!({"component": "kubelet", "host": "n1"}));
        assert_eq!(event["reportingComponent"], "kubelet");
        assert_eq!(event["count"], 1);
        assert!(event["metadata"]["name"].as_str().unwrap().starts_with("p."));
    }

    // API-226: the second of a series is a patch of the first.
    #[test]
    fn repeated_event_is_counted_up() {
        let mut recorder = Recorder::new("n1", 50, 100);
        let same = || Recorded::normal(Subject::Node, "NodeHasSufficientMemory", "Node n1 status is now: NodeHasSufficientMemory");
        let first = calls(&mut recorder, at(0), vec![same()]);
        let ApiCall::CreateEvent(created) = &first[0].1 else { panic!("it is created") };
        let second = calls(&mut recorder, at(1), vec![same()]);
        let ApiCall::PatchEvent { name, patch, .. } = &second[0].1 else { panic!("it is patched") };
        assert_eq!(Some(name), created.metadata.name.as_ref());
        assert_eq!(patch["count"], 2);
    }

    // API-223: whatever the rounding, the moment that was named is late enough to send one.
    #[test]
    fn each_deadline_sends_an_event() {
        let mut recorder = Recorder::new("n1", 7, 1);
        let of_pod = |n: u32| {
            let meta = json!({"name": format!("p{n}"), "namespace": "default", "uid": format!("u{n}")});
            Recorded::normal(Subject::Pod(Arc::new(serde_json::from_value(json!({"metadata": meta})).unwrap())), "Created", "c")
        };
        let mut sent = calls(&mut recorder, at(0), (0..300).map(of_pod).collect()).len();
        while let Some(deadline) = recorder.deadline() {
            let now = Now { mono: deadline, wall: at(0).wall };
            let more = calls(&mut recorder, now, Vec::new()).len();
            assert!(more > 0, "nothing was sent at {deadline:?}");
            sent += more;
        }
        assert_eq!(sent, 300);
    }

    // API-223: ten different messages of one reason are folded.
    #[test]
    fn similar_events_are_folded() {
        let mut recorder = Recorder::new("n1", 50, 100);
        let nth = |n: u32| Recorded::warning(Subject::Pod(pod()), "Failed", format!("error number {n}"));
        let sent = calls(&mut recorder, at(0), (0..12).map(nth).collect());
        let messages: Vec<String> = sent
            .iter()
            .map(|(_, call)| match call {
                ApiCall::CreateEvent(event) => event.message.clone().unwrap(),
                ApiCall::PatchEvent { patch, .. } => patch["message"].as_str().unwrap().to_owned(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(messages[8], "error number 8");
        assert_eq!(messages[9], "(combined from similar events): error number 9");
        assert!(matches!(sent[10].1, ApiCall::PatchEvent { .. }));
        // events_cache.go, EventAggregate: nine stay known, and are counted up by themselves.
        let again = calls(&mut recorder, at(1), vec![nth(3), nth(11)]);
        let told = |call: &ApiCall| match call {
            ApiCall::PatchEvent { patch, .. } => patch["message"].as_str().unwrap().to_owned(),
            other => panic!("{other:?}"),
        };
        assert_eq!(told(&again[0].1), "error number 3");
        assert_eq!(told(&again[1].1), "(combined from similar events): error number 11");
    }

    // API-223: one object cannot flood: 25, then one each five minutes.
    #[test]
    fn one_object_is_limited() {
        let mut recorder = Recorder::new("n1", 0, 0);
        let same = || Recorded::warning(Subject::Pod(pod()), "BackOff", "again");
        let sent = calls(&mut recorder, at(0), (0..40).map(|_| same()).collect());
        assert_eq!(sent.len(), 25);
        assert_eq!(recorder.dropped(), 15);
        let next = calls(&mut recorder, at(301), vec![same(), same()]);
        let [(_, ApiCall::PatchEvent { patch, .. })] = next.as_slice() else { panic!("{next:?}") };
        // events_cache.go, EventCorrelate: it is counted first, and filtered then.
        assert_eq!(patch["count"], 41);
    }

    // API-223, API-226: one whose first was withheld is counted up, and made with its count because it is not there. event.go
    // (recordEvent) does so with one that has expired, too.
    #[test]
    fn event_that_is_not_there_is_made_with_its_count() {
        let mut recorder = Recorder::new("n1", 0, 0);
        let of = |reason: &str| Recorded::warning(Subject::Pod(pod()), reason, "again");
        calls(&mut recorder, at(0), (0..25).map(|_| of("BackOff")).collect());
        assert!(calls(&mut recorder, at(1), vec![of("Failed"), of("Failed")]).is_empty());
        let gone = || Err(Failure::new(FailureKind::NotFound, "events \"p.1\" not found"));
        for (reason, now, count, since) in [("Failed", 400, 3, 1), ("BackOff", 800, 26, 0)] {
            let sent = calls(&mut recorder, at(now), vec![of(reason)]);
            let [(id, ApiCall::PatchEvent { name, .. })] = sent.as_slice() else { panic!("{sent:?}") };
            recorder.done(at(now), *id, gone());
            let sent = calls(&mut recorder, at(now), Vec::new());
            let [(id, ApiCall::CreateEvent(event))] = sent.as_slice() else { panic!("{sent:?}") };
            assert_eq!((event.metadata.name.as_ref(), event.count), (Some(name), Some(count)));
            assert_eq!(event.first_timestamp, Some(Time(at(since).wall)));
            assert_eq!(event.last_timestamp, Some(Time(at(now).wall)));
            recorder.done(at(now), *id, gone());
            assert!(calls(&mut recorder, at(now), Vec::new()).is_empty(), "its namespace is gone");
        }
        let sent = calls(&mut recorder, at(1200), vec![of("Failed")]);
        let [(_, ApiCall::PatchEvent { patch, .. })] = sent.as_slice() else { panic!("{sent:?}") };
        assert_eq!(patch["count"], 4);
    }

    // API-223: tools/record/util/util.go (GenerateEventName): the name is always one that the API server takes.
    #[test]
    fn event_of_an_object_with_a_long_name_has_a_valid_name() {
        let nanoseconds = at(0).wall.as_nanosecond();
        assert_eq!(event_name("p", nanoseconds), format!("p.{nanoseconds:x}"));
        for (object, kept) in [
            ("a".repeat(236), "a".repeat(236)),
            ("a".repeat(253), "a".repeat(236)),
            (format!("{}-.b", "a".repeat(234)), "a".repeat(234)),
        ] {
            assert_eq!(event_name(&object, nanoseconds), format!("{kept}.{nanoseconds:x}"));
        }
        assert_eq!(event_name(&"a".repeat(253), nanoseconds).len(), 253);
    }

    // API-223 (events_cache.go, getSpamKey): the event's type is part of the key, so 25 of each.
    #[test]
    fn normal_events_take_nothing_from_the_allowance_of_warnings() {
        let mut recorder = Recorder::new("n1", 0, 0);
        let normal = || Recorded::normal(Subject::Pod(pod()), "Pulled", "again");
        let warning = || Recorded::warning(Subject::Pod(pod()), "BackOff", "again");
        assert_eq!(calls(&mut recorder, at(0), (0..40).map(|_| normal()).collect()).len(), 25);
        assert_eq!(calls(&mut recorder, at(0), (0..40).map(|_| warning()).collect()).len(), 25);
    }

    // API-223 (events_cache.go, EventAggregatorByReasonFunc): the key has no field path, so the containers of a pod count together.
    #[test]
    fn similar_events_of_all_containers_of_a_pod_are_folded_into_one() {
        let mut recorder = Recorder::new("n1", 50, 100);
        let nth = |n: u32| {
            let subject = Subject::Container(pod(), format!("spec.containers{{c{}}}", n % 2));
            Recorded::warning(subject, "Failed", format!("error number {n}"))
        };
        let sent = calls(&mut recorder, at(0), (0..12).map(nth).collect());
        assert!(sent[..10].iter().all(|(_, call)| matches!(call, ApiCall::CreateEvent(_))));
        let ApiCall::CreateEvent(folded) = &sent[9].1 else { panic!("it is created") };
        assert_eq!(folded.message.as_deref(), Some("(combined from similar events): error number 9"));
        for (_, call) in &sent[10..] {
            let ApiCall::PatchEvent { name, .. } = call else { panic!("the folded one is counted up") };
            assert_eq!(Some(name), folded.metadata.name.as_ref());
        }
    }

    #[test]
    fn event_is_sent_again_when_the_api_server_was_away() {
        let mut recorder = Recorder::new("n1", 50, 100);
        let sent = calls(&mut recorder, at(0), vec![Recorded::normal(Subject::Node, "Starting", "Starting kubelet.")]);
        recorder.done(at(1), sent[0].0, Err(Failure::new(FailureKind::Unavailable, "connection refused")));
        assert_eq!(recorder.deadline(), Some(at(11).mono));
        assert!(calls(&mut recorder, at(10), vec![]).is_empty());
        assert_eq!(calls(&mut recorder, at(11), vec![]).len(), 1);
    }
}
