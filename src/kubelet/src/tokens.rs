//! Decides when service account tokens are asked for and renewed, so that no pod ever reads an expired one.
//! Upstream: pkg/kubelet/token/token_manager.go.
//! Differs: renewed by timer, not when a volume happens to be synced; ages are monotonic, so that a wrong wall clock does no harm.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec, TokenRequestStatus};

use crate::action::{ApiCall, Call, Lane};
use crate::alarms::Alarms;
use crate::event::ApiReply;
use crate::failure::{Failure, FailureKind};
use crate::ids::PodUid;
use crate::out::{Out, Owner};
use crate::rng::Rng;
use crate::sensitive::Sensitive;
use crate::time::{Mono, Now, earliest};
use crate::work::Point;

/// TOK-003: no token is older than this.
const MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// TOK-003: up to so many whole seconds earlier, by chance.
const JITTER_SECONDS: u64 = 10;
/// A token whose expiry lies in our past has a lifetime all the same: our clock is wrong, not the issuer's.
const MINIMUM_LIFETIME: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(10);
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// While the authorizer may not know the pod yet: it is asked again that soon, then after twice as long, and nothing is said of it until
/// that comes to [`RETRY_FIRST`].
const UNRELATED_FIRST: Duration = Duration::from_millis(50);
const RETRY_MOST: Duration = Duration::from_secs(60);

/// Which token: whose, for whom, for how long (TOK-002).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenKey {
    /// The pod that it is bound to.
    pub pod: PodUid,
    /// The pod's name.
    pub pod_name: String,
    /// The namespace of both.
    pub namespace: String,
    /// The service account's name.
    pub service_account: String,
    /// Who is to accept it; empty for the API server.
    pub audience: String,
    /// The lifetime asked for; `None` leaves it to the API server.
    pub expiration_seconds: Option<i64>,
}

impl TokenKey {
    /// TOK-001
    fn request(&self) -> TokenRequest {
        let bound = BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(self.pod_name.clone()),
            uid: Some(self.pod.to_string()),
        };
        let spec = TokenRequestSpec {
            audiences: (!self.audience.is_empty()).then(|| vec![self.audience.clone()]),
            bound_object_ref: Some(bound),
            expiration_seconds: self.expiration_seconds,
        };
        TokenRequest { spec: Some(spec), ..TokenRequest::default() }
    }

    /// As upstream's errors name it.
    fn shown(&self) -> String {
        let audiences =
            if self.audience.is_empty() { "[]string(nil)".to_owned() } else { format!("[]string{{{:?}}}", self.audience) };
        format!(
            "{:?}/{:?}/{audiences}/{}/v1.BoundObjectReference{{Kind:\"Pod\", APIVersion:\"v1\", Name:{:?}, UID:\"{}\"}}/\"\"",
            self.service_account,
            self.namespace,
            self.expiration_seconds.unwrap_or(0),
            self.pod_name,
            self.pod,
        )
    }
}

/// Where a token stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenState {
    /// Here, and not expired.
    Ready(Sensitive<String>),
    /// Asked for; the pod is woken.
    Pending,
    /// Not to be had now, in upstream's words (TOK-004). It is asked for again by itself.
    Failed(String),
}

#[derive(Debug)]
struct Token {
    value: Sensitive<String>,
    received: Mono,
    /// The issuer's stamp.
    expires_wall: Timestamp,
    /// The same by our own count, from the moment it was received.
    expires: Mono,
    lifetime: Duration,
}

impl Token {
    fn new(now: Now, key: &TokenKey, status: TokenRequestStatus) -> Option<Self> {
        let expires_wall = status.expiration_timestamp?.0;
        let remaining = Duration::try_from(expires_wall.duration_since(now.wall)).unwrap_or_default().max(MINIMUM_LIFETIME);
        let asked = key.expiration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
        Some(Self {
            value: Sensitive::new(status.token?),
            received: now.mono,
            expires_wall,
            expires: now.mono + remaining,
            lifetime: asked.map_or(remaining, |asked| asked.min(remaining)),
        })
    }

    /// Time that our count missed, such as a suspended machine. Not asked of a token that was just received: see [`MINIMUM_LIFETIME`].
    fn wall_says(&self, now: Now, margin: Duration) -> bool {
        let left = Duration::try_from(self.expires_wall.duration_since(now.wall)).unwrap_or_default();
        left <= margin && now.mono.since(self.received) >= MINIMUM_LIFETIME
    }

    fn expired(&self, now: Now) -> bool {
        now.mono >= self.expires || self.wall_says(now, Duration::ZERO)
    }
}

#[derive(Debug)]
struct Entry {
    number: u64,
    token: Option<Token>,
    in_flight: bool,
    failure: Option<String>,
    retry_wait: Duration,
    unrelated_wait: Duration,
    /// When it is asked for next; `None` while it is.
    next: Option<Mono>,
    /// When the token in hand ends, until the pod was woken for it.
    end: Option<Mono>,
}

impl Entry {
    fn ask(&mut self, key: &TokenKey, out: &mut Out<'_>) {
        self.in_flight = true;
        self.next = None;
        let call = ApiCall::CreateToken {
            namespace: key.namespace.clone(),
            service_account: key.service_account.clone(),
            request: Box::new(key.request()),
        };
        out.issue(Owner::Token(self.number), Lane::Objects, TIMEOUT, Call::Api(call));
    }
}

/// The token manager.
#[derive(Debug)]
pub struct TokenManager {
    entries: BTreeMap<TokenKey, Entry>,
    keys: BTreeMap<u64, TokenKey>,
    /// When each is to be looked at, by number.
    alarms: Alarms<u64>,
    last: u64,
    rng: Rng,
}

impl TokenManager {
    /// A manager without tokens; the seed is for the jitter of renewals and retries.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { entries: BTreeMap::new(), keys: BTreeMap::new(), alarms: Alarms::default(), last: 0, rng: Rng::new(seed) }
    }

    /// When a token in hand expires, by its issuer.
    #[must_use]
    pub fn expires(&self, key: &TokenKey) -> Option<Timestamp> {
        self.entries.get(key)?.token.as_ref().map(|token| token.expires_wall)
    }

    /// A token. Ask again when the pod is woken; asking is free, and keeps the token renewed until [`TokenManager::forget`].
    pub fn get(&mut self, now: Now, key: &TokenKey, out: &mut Out<'_>) -> TokenState {
        if !self.entries.contains_key(key) {
            self.last += 1;
            let mut entry = Entry {
                number: self.last,
                token: None,
                in_flight: false,
                failure: None,
                retry_wait: RETRY_FIRST,
                unrelated_wait: UNRELATED_FIRST,
                next: None,
                end: None,
            };
            entry.ask(key, out);
            self.keys.insert(entry.number, key.clone());
            self.entries.insert(key.clone(), entry);
        }
        let Some(entry) = self.entries.get_mut(key) else { return TokenState::Pending };
        let usable = entry.token.as_ref().filter(|token| !token.expired(now));
        let overdue = entry.token.as_ref().is_some_and(|token| token.wall_says(now, token.lifetime / 5));
        let state = match (usable, &entry.failure) {
            (Some(token), _) => TokenState::Ready(token.value.clone()),
            (None, Some(failure)) if !entry.in_flight => match &entry.token {
                Some(_) => TokenState::Failed(format!("token {} expired and refresh failed: {failure}", key.shown())),
                None => TokenState::Failed(format!("failed to fetch token: {failure}")),
            },
            (None, _) => TokenState::Pending,
        };
        if overdue && !entry.in_flight && entry.failure.is_none() {
            entry.ask(key, out);
            self.alarms.set(&entry.number, entry.end);
            return if matches!(state, TokenState::Failed(_)) { TokenState::Pending } else { state };
        }
        state
    }

    /// Whose request has that number.
    #[must_use]
    pub fn pod_of(&self, number: u64) -> Option<&PodUid> {
        self.keys.get(&number).map(|key| &key.pod)
    }

    /// The pod's volumes are gone, and with them its tokens (TOK-005).
    pub fn forget(&mut self, uid: &PodUid) {
        for (_, entry) in self.entries.extract_if(.., |key, _| key.pod == *uid) {
            self.keys.remove(&entry.number);
            self.alarms.set(&entry.number, None);
        }
    }

    /// When a token is to be renewed or asked for again, or ends.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        self.alarms.first()
    }

    /// Renews what is due. Answers the pods whose token has ended: they are to look at it.
    #[must_use]
    pub fn due(&mut self, now: Now, out: &mut Out<'_>) -> BTreeSet<PodUid> {
        let mut woken = BTreeSet::new();
        for number in self.alarms.due(now.mono).copied().collect::<Vec<_>>() {
            self.alarms.set(&number, None);
            let Some(key) = self.keys.get(&number) else { continue };
            let Some(entry) = self.entries.get_mut(key) else { continue };
            if entry.next.is_some_and(|at| at <= now.mono) {
                out.works_for(Point::TokenDue, &key.pod);
                entry.ask(key, out);
            }
            if entry.end.is_some_and(|at| at <= now.mono) {
                entry.end = None;
                woken.insert(key.pod.clone());
            }
            self.alarms.set(&number, earliest([entry.next, entry.end]));
        }
        woken
    }

    /// A request ended (`Owner::Token(number)`). Answers the pod to wake.
    #[must_use]
    pub fn done(&mut self, now: Now, number: u64, outcome: Result<ApiReply, Failure>) -> Option<PodUid> {
        let woken = self.answered(now, number, outcome);
        let entry = self.keys.get(&number).and_then(|key| self.entries.get(key));
        self.alarms.set(&number, entry.and_then(|entry| earliest([entry.next, entry.end])));
        woken
    }

    fn answered(&mut self, now: Now, number: u64, outcome: Result<ApiReply, Failure>) -> Option<PodUid> {
        let key = self.keys.get(&number)?;
        let entry = self.entries.get_mut(key)?;
        entry.in_flight = false;
        let token = outcome.map(|reply| match reply {
            ApiReply::Token(status) => Token::new(now, key, status.into_inner()),
            _ => None,
        });
        let failure = match token {
            Ok(Some(token)) => {
                entry.next = Some(renewal(&token, &mut self.rng));
                entry.end = Some(token.expires);
                entry.token = Some(token);
                entry.failure = None;
                entry.retry_wait = RETRY_FIRST;
                return Some(key.pod.clone());
            }
            Ok(None) => Failure::new(FailureKind::Other, "the API server answered without a token"),
            Err(failure) => failure,
        };
        let early = failure.is_unrelated() || failure.is_of_a_pod_unheard_of();
        if early && entry.token.is_none() && entry.failure.is_none() && entry.unrelated_wait < RETRY_FIRST {
            entry.next = Some(now.mono + self.rng.jitter(entry.unrelated_wait, 0.5));
            entry.unrelated_wait *= 2;
            return None;
        }
        let wait = match failure.kind {
            FailureKind::Throttled { after: Some(after) } => after.max(entry.retry_wait),
            _ => entry.retry_wait,
        };
        entry.next = Some(now.mono + self.rng.jitter(wait, 0.5));
        entry.retry_wait = (entry.retry_wait * 2).min(RETRY_MOST);
        entry.failure = Some(failure.message);
        // A pod that has a token that serves learns nothing from this.
        let usable = entry.token.as_ref().is_some_and(|token| !token.expired(now));
        (!usable).then(|| key.pod.clone())
    }

    /// How many tokens are kept renewed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// TOK-003: when older than 24 hours or with a fifth of its life left, whichever is first, and a little earlier by chance.
fn renewal(token: &Token, rng: &mut Rng) -> Mono {
    let jitter = Duration::from_secs(rng.below(JITTER_SECONDS));
    let fresh = (token.lifetime - token.lifetime / 5).min(MAX_AGE);
    token.received + fresh.saturating_sub(jitter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Action;
    use crate::out::Ledger;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    const START: i64 = 1_795_422_621;

    struct Bench {
        tokens: TokenManager,
        ledger: Ledger,
    }

    impl Bench {
        fn new() -> Self {
            Self { tokens: TokenManager::new(7), ledger: Ledger::default() }
        }

        fn get(&mut self, at: Now) -> (TokenState, Vec<Action>) {
            let mut actions = Vec::new();
            let state = self.tokens.get(at, &key(), &mut Out::new(&mut self.ledger, &mut actions, &mut Vec::new()));
            (state, actions)
        }

        fn due(&mut self, at: Now) -> (usize, Vec<Action>) {
            let mut actions = Vec::new();
            let woken = self.tokens.due(at, &mut Out::new(&mut self.ledger, &mut actions, &mut Vec::new()));
            (woken.len(), actions)
        }

        fn issued(&mut self, at: Now, value: &str, expires: Timestamp) -> Option<PodUid> {
            let status = TokenRequestStatus { token: Some(value.to_owned()), expiration_timestamp: Some(Time(expires)) };
            self.tokens.done(at, 1, Ok(ApiReply::Token(Sensitive::new(status))))
        }

        fn refused(&mut self, at: Now) -> Option<PodUid> {
            let failure = Failure::new(FailureKind::NotFound, "serviceaccounts \"default\" not found");
            self.tokens.done(at, 1, Err(failure))
        }
    }

    fn key() -> TokenKey {
        TokenKey {
            pod: PodUid::new("u"),
            pod_name: "p".to_owned(),
            namespace: "ns".to_owned(),
            service_account: "default".to_owned(),
            audience: String::new(),
            expiration_seconds: Some(3607),
        }
    }

    fn wall(seconds: i64) -> Timestamp {
        Timestamp::from_second(START + seconds).unwrap()
    }

    fn at(seconds: u64) -> Now {
        Now { mono: Mono::from_start(Duration::from_secs(seconds)), wall: wall(i64::try_from(seconds).unwrap()) }
    }

    fn ready(value: &str) -> TokenState {
        TokenState::Ready(Sensitive::new(value.to_owned()))
    }

    // TOK-001: exactly what upstream asks for; one request in flight.
    #[test]
    fn token_is_bound_to_its_pod_and_asked_for_once() {
        let mut bench = Bench::new();
        let (state, actions) = bench.get(at(0));
        assert_eq!(state, TokenState::Pending);
        let Call::Api(ApiCall::CreateToken { namespace, service_account, request }) = &actions[0].call else {
            panic!("a token is asked for")
        };
        assert_eq!((namespace.as_str(), service_account.as_str()), ("ns", "default"));
        assert_eq!(
            serde_json::to_value(&request.spec).unwrap(),
            serde_json::json!({
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"},
                "expirationSeconds": 3607,
            })
        );
        assert!(bench.get(at(1)).1.is_empty());
        assert_eq!(bench.issued(at(1), "one", wall(3608)), Some(PodUid::new("u")));
        assert_eq!(bench.get(at(1)).0, ready("one"));
    }

    // TOK-002: whatever of a token differs, it is another token; one that is the same is shared.
    #[test]
    fn tokens_that_differ_in_anything_are_not_shared() {
        let mut tokens = TokenManager::new(7);
        let mut ledger = Ledger::default();
        let mut asked = |key: &TokenKey| {
            let mut actions = Vec::new();
            tokens.get(at(0), key, &mut Out::new(&mut ledger, &mut actions, &mut Vec::new()));
            actions.len()
        };
        let others = [
            TokenKey { pod: PodUid::new("v"), ..key() },
            TokenKey { pod_name: "q".to_owned(), ..key() },
            TokenKey { namespace: "other".to_owned(), ..key() },
            TokenKey { service_account: "other".to_owned(), ..key() },
            TokenKey { audience: "vault".to_owned(), ..key() },
            TokenKey { expiration_seconds: Some(600), ..key() },
            TokenKey { expiration_seconds: None, ..key() },
        ];
        for key in [key()].iter().chain(&others) {
            assert_eq!((asked(key), asked(key)), (1, 0), "{key:?}");
        }
    }

    // TOK-003: renewed by timer with a fifth of its life left, at most ten seconds earlier; the pod is woken for the new one.
    #[test]
    fn token_is_renewed_in_time_without_being_asked() {
        let mut bench = Bench::new();
        bench.get(at(0));
        let _ = bench.issued(at(0), "one", wall(3607));
        let renewal = bench.tokens.deadline().unwrap().since_start().as_secs();
        assert!((2876..=2886).contains(&renewal), "{renewal}");
        assert!(bench.due(at(2875)).1.is_empty());
        assert_eq!(bench.due(at(2886)).1.len(), 1);
        assert_eq!(bench.get(at(2886)).0, ready("one"));
        assert_eq!(bench.issued(at(2887), "two", wall(2887 + 3607)), Some(PodUid::new("u")));
        assert_eq!(bench.get(at(2887)).0, ready("two"));
    }

    // TOK-003: a token that lives for a week is renewed each day.
    #[test]
    fn long_lived_token_is_renewed_daily() {
        let mut bench = Bench::new();
        let mut week = key();
        week.expiration_seconds = Some(7 * 86_400);
        let mut actions = Vec::new();
        bench.tokens.get(at(0), &week, &mut Out::new(&mut bench.ledger, &mut actions, &mut Vec::new()));
        let _ = bench.issued(at(0), "one", wall(7 * 86_400));
        let renewal = bench.tokens.deadline().unwrap().since_start().as_secs();
        assert!((86_390..=86_400).contains(&renewal), "{renewal}");
    }

    // TOK-004: the old token serves until it expires, never after; then the pod is told.
    #[test]
    fn old_token_serves_until_it_expires_when_renewal_fails() {
        let mut bench = Bench::new();
        bench.get(at(0));
        let _ = bench.issued(at(0), "one", wall(3607));
        assert_eq!(bench.due(at(2900)).1.len(), 1);
        assert_eq!(bench.refused(at(2901)), None);
        assert_eq!(bench.get(at(3606)).0, ready("one"));
        let (woken, asked) = bench.due(at(3607));
        assert_eq!((woken, asked.len()), (1, 1));
        assert_eq!(bench.get(at(3607)).0, TokenState::Pending);
        assert_eq!(bench.refused(at(3607)), Some(PodUid::new("u")));
        let TokenState::Failed(message) = bench.get(at(3607)).0 else { panic!("an expired token does not serve") };
        assert_eq!(
            message,
            "token \"default\"/\"ns\"/[]string(nil)/3607/v1.BoundObjectReference{Kind:\"Pod\", APIVersion:\"v1\", Name:\"p\", \
             UID:\"u\"}/\"\" expired and refresh failed: serviceaccounts \"default\" not found"
        );
    }

    // TOK-004
    #[test]
    fn refused_token_is_asked_for_again_after_a_growing_wait() {
        let mut bench = Bench::new();
        bench.get(at(0));
        let mut now = Duration::ZERO;
        let mut waits = Vec::new();
        for _ in 0..9 {
            let moment = Now { mono: Mono::from_start(now), wall: wall(0) };
            assert_eq!(bench.refused(moment), Some(PodUid::new("u")));
            assert_eq!(
                bench.get(moment).0,
                TokenState::Failed("failed to fetch token: serviceaccounts \"default\" not found".to_owned())
            );
            let next = bench.tokens.deadline().unwrap().since_start();
            waits.push((next - now).as_secs());
            now = next;
            assert_eq!(bench.due(Now { mono: Mono::from_start(now), wall: wall(0) }).1.len(), 1);
        }
        assert!(waits[0] <= 1 && waits[8] >= 60 && waits[8] <= 90, "{waits:?}");
    }

    // A machine that slept: the monotonic clock stood still, the token did not.
    #[test]
    fn token_that_expired_while_the_machine_slept_is_renewed_at_the_next_look() {
        let mut bench = Bench::new();
        bench.get(at(0));
        let _ = bench.issued(at(0), "one", wall(3607));
        let woke = Now { mono: at(100).mono, wall: wall(9000) };
        let (state, actions) = bench.get(woke);
        assert_eq!((state, actions.len()), (TokenState::Pending, 1));
        let _ = bench.issued(woke, "two", wall(9000 + 3607));
        assert_eq!(bench.get(woke).0, ready("two"));
    }

    // A wall clock two hours fast makes every token look expired: it serves, and is renewed each minute, not each moment.
    #[test]
    fn fast_wall_clock_causes_no_storm_of_requests() {
        let mut bench = Bench::new();
        let fast = |seconds: u64| Now { mono: at(seconds).mono, wall: wall(7200 + i64::try_from(seconds).unwrap()) };
        bench.get(fast(0));
        let _ = bench.issued(fast(0), "one", wall(3607));
        assert_eq!(bench.get(fast(0)).0, ready("one"));
        assert!(bench.get(fast(1)).1.is_empty());
        assert!(bench.tokens.deadline().unwrap() >= at(38).mono);
    }

    // TOK-005
    #[test]
    fn forgotten_pod_leaves_nothing_and_late_answers_are_ignored() {
        let mut bench = Bench::new();
        bench.get(at(0));
        bench.tokens.forget(&PodUid::new("u"));
        assert_eq!(bench.issued(at(1), "one", wall(3607)), None);
        assert!(bench.tokens.is_empty() && bench.tokens.keys.is_empty());
        assert_eq!(bench.tokens.deadline(), None);
    }

    // An event costs the tokens whose time has come, however many there are.
    #[test]
    fn only_tokens_whose_time_has_come_are_looked_at() {
        let mut bench = Bench::new();
        let pods: Vec<PodUid> = (0..100).map(|n| PodUid::new(format!("u{n}"))).collect();
        for (number, pod) in (1..).zip(&pods) {
            let key = TokenKey { pod: pod.clone(), expiration_seconds: None, ..key() };
            let mut actions = Vec::new();
            bench.tokens.get(at(0), &key, &mut Out::new(&mut bench.ledger, &mut actions, &mut Vec::new()));
            let expires = wall(3600 * i64::try_from(number).unwrap());
            let status = TokenRequestStatus { token: Some("t".to_owned()), expiration_timestamp: Some(Time(expires)) };
            assert!(bench.tokens.done(at(0), number, Ok(ApiReply::Token(Sensitive::new(status)))).is_some());
        }
        let first = bench.tokens.deadline().unwrap();
        assert_eq!(bench.tokens.alarms.due(first).copied().collect::<Vec<_>>(), [1]);
        assert_eq!(bench.due(Now { mono: first, ..at(0) }).1.len(), 1);
        pods.iter().for_each(|pod| bench.tokens.forget(pod));
        assert_eq!((bench.tokens.deadline(), bench.tokens.len()), (None, 0));
    }

    // API-360, FINDINGS A9: the authorizer of the API server learns of a new pod some milliseconds after the node does; so does its
    // admission (plugin/pkg/admission/noderestriction: admitServiceAccount), whose words are as a busy API server 1.36 said them.
    #[test]
    fn token_of_a_pod_that_the_authorizer_does_not_know_yet_is_asked_for_soon() {
        let unrelated = "serviceaccounts \"default\" is forbidden: no relationship found between node 'n1' and this object";
        told_late(FailureKind::Forbidden, unrelated);
        told_late(FailureKind::NotFound, "pod \"p\" not found");
    }

    fn told_late(kind: FailureKind, message: &str) {
        let mut bench = Bench::new();
        let mut at = Now { mono: Mono::ZERO, wall: Timestamp::from_second(START).unwrap() };
        let _first = bench.get(at);
        let refused = |bench: &mut Bench, at| bench.tokens.done(at, 1, Err(Failure::new(kind, message)));
        for _ in 0..5 {
            let asked = at.mono;
            assert_eq!(refused(&mut bench, at), None, "nothing is said of it");
            assert_eq!(bench.get(at).0, TokenState::Pending);
            at.mono = bench.tokens.deadline().unwrap();
            assert!(at.mono.since(asked) <= Duration::from_millis(1200));
            assert_eq!(bench.due(at).1.len(), 1, "asked for again");
        }
        assert!(at.mono.since(Mono::ZERO) < Duration::from_secs(3));
        assert!(refused(&mut bench, at).is_some(), "then it is");
        assert!(matches!(bench.get(at).0, TokenState::Failed(_)));
    }
}
