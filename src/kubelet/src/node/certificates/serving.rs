//! Decides when the node asks for a serving certificate, under which names, and when the one that it has is none any more.
//! Upstream: pkg/kubelet/certificate/kubelet.go (newGetTemplateFn), k8s.io/client-go/util/certificate/certificate_manager.go.
//! Differs: a certificate without a name that was asked for counts as a failure, and the next try waits; upstream asks again each second.

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NodeAddress;

use super::{Held, LOOK_EVERY, Purpose, Step, renewal_time, retry_wait};
use crate::rng::Rng;
use crate::time::{Mono, Now};

/// API-173
pub const SERVING: Purpose =
    Purpose { signer: "kubernetes.io/kubelet-serving", usages: ["digital signature", "server auth"], store: "kubelet-server" };

/// How often names are looked at while there is no certificate.
pub const LOOK_SOON: Duration = Duration::from_secs(1);

/// The names of a serving certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// DNS names, in order.
    pub dns: Vec<String>,
    /// IP addresses, in the order of their texts.
    pub ips: Vec<IpAddr>,
}

impl Names {
    /// Those of a node's addresses; none while it has no IP address, or neither that nor a name if a name is enough.
    #[must_use]
    pub fn of(addresses: &[NodeAddress], name_is_enough: bool) -> Option<Self> {
        let mut names = Self::default();
        for NodeAddress { type_, address } in addresses {
            let ip = address.parse::<IpAddr>().ok();
            match (type_.as_str(), ip) {
                _ if address.is_empty() => {}
                ("Hostname" | "ExternalIP" | "InternalIP", Some(ip)) => names.ips.push(ip),
                ("Hostname", None) | ("ExternalDNS" | "InternalDNS", _) => names.dns.push(address.clone()),
                _ => {}
            }
        }
        names.dns.sort();
        names.dns.dedup();
        names.ips.sort_by_key(IpAddr::to_string);
        names.ips.dedup();
        (!names.ips.is_empty() || name_is_enough && !names.dns.is_empty()).then_some(names)
    }

    /// Whether each of the other's names is among these.
    #[must_use]
    pub fn cover(&self, other: &Self) -> bool {
        other.dns.iter().all(|name| self.dns.contains(name)) && other.ips.iter().all(|ip| self.ips.contains(ip))
    }
}

/// The serving certificate of one node.
#[derive(Clone, Debug)]
pub struct ServingRotation {
    node: String,
    held: Option<Held>,
    due: Timestamp,
    not_earlier: Mono,
    failures: u32,
    asked: Option<Names>,
    rng: Rng,
}

impl ServingRotation {
    /// Begins with what there is.
    #[must_use]
    pub fn new(node: &str, held: Option<Held>, seed: u64, now: Now) -> Self {
        let mut rotation = Self {
            node: node.to_owned(),
            held: None,
            due: now.wall,
            not_earlier: now.mono,
            failures: 0,
            asked: None,
            rng: Rng::new(seed),
        };
        rotation.holds(held, now);
        rotation
    }

    fn holds(&mut self, held: Option<Held>, now: Now) {
        self.due = held.as_ref().map_or(now.wall, |held| renewal_time(held.not_before, held.not_after, self.rng.fraction()));
        self.held = held;
    }

    /// Whether there is a certificate to show: an expired one is none.
    #[must_use]
    pub fn is_valid(&self, now: Now) -> bool {
        self.held.as_ref().is_some_and(|held| held.is_valid(now.wall))
    }

    /// The one that there is, expired or not.
    #[must_use]
    pub fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// When it is renewed, by the wall clock.
    #[must_use]
    pub fn due(&self) -> Timestamp {
        self.due
    }

    /// More than was asked for is no reason to ask again (API-173).
    fn covers(&self, names: &Names) -> bool {
        self.held.as_ref().is_some_and(|held| held.is_of(&self.node) && held.names.cover(names))
    }

    /// Decides what to do now, with the names that the node has now; while it has none there is nothing to ask for.
    pub fn step(&mut self, names: Option<&Names>, now: Now) -> Step {
        let look = if self.is_valid(now) { LOOK_EVERY } else { LOOK_SOON };
        let Some(names) = names else { return Step::Wait(look) };
        let wait = self.not_earlier.since(now.mono);
        if !wait.is_zero() {
            return Step::Wait(wait.min(look));
        }
        match Duration::try_from(self.due.duration_since(now.wall)) {
            Ok(left) if !left.is_zero() && self.is_valid(now) && self.covers(names) => Step::Wait(left.min(look)),
            _ => Step::Request,
        }
    }

    /// A request for those names was made.
    pub fn asked(&mut self, names: Names) {
        self.asked = Some(names);
    }

    /// Whether the request that is under way is for other names than the node has by now, and those are missing.
    #[must_use]
    pub fn is_outdated(&self, names: Option<&Names>) -> bool {
        names.is_some_and(|names| self.asked.as_ref() != Some(names) && !self.covers(names))
    }

    /// There was no certificate in the end: refused, denied, not in time, not kept, or for names of before.
    pub fn failed(&mut self, now: Now) {
        self.failures = self.failures.saturating_add(1);
        self.not_earlier = now.mono + retry_wait(self.failures, &mut self.rng);
    }

    /// A new certificate is in use.
    pub fn renewed(&mut self, now: Now, held: Held) {
        self.holds(Some(held), now);
        if self.asked.clone().is_some_and(|asked| !self.covers(&asked)) {
            self.failed(now);
        } else {
            self.failures = 0;
            self.not_earlier = now.mono + LOOK_SOON;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(list: &[(&str, &str)]) -> Vec<NodeAddress> {
        list.iter().map(|(kind, address)| NodeAddress { type_: (*kind).to_owned(), address: (*address).to_owned() }).collect()
    }

    fn names(dns: &[&str], ips: &[&str]) -> Names {
        Names { dns: dns.iter().map(ToString::to_string).collect(), ips: ips.iter().map(|ip| ip.parse().unwrap()).collect() }
    }

    fn now(mono: u64, wall: i64) -> Now {
        Now { mono: Mono::from_start(Duration::from_secs(mono)), wall: Timestamp::from_second(wall).unwrap() }
    }

    fn held(names: Names, not_after: i64) -> Held {
        Held {
            not_before: Timestamp::from_second(0).unwrap(),
            not_after: Timestamp::from_second(not_after).unwrap(),
            common_name: "system:node:n1".to_owned(),
            organizations: vec!["system:nodes".to_owned()],
            names,
        }
    }

    // API-173; pkg/kubelet/certificate/kubelet_test.go, TestAddressesToHostnamesAndIPs.
    #[test]
    fn names_are_those_of_the_nodes_addresses() {
        let of = |list: &[(&str, &str)]| Names::of(&addresses(list), false);
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("Hostname", "")]), None);
        assert_eq!(of(&[("InternalIP", "1.2"), ("ExternalIP", "3.4")]), None);
        let twice = [
            ("Hostname", "hostname"),
            ("ExternalDNS", "hostname"),
            ("InternalDNS", "hostname"),
            ("InternalIP", "1.1.1.1"),
            ("ExternalIP", "1.1.1.1"),
        ];
        assert_eq!(of(&twice), Some(names(&["hostname"], &["1.1.1.1"])));
        let mixed = [
            ("Hostname", "hostname-2"),
            ("ExternalDNS", "hostname-1"),
            ("InternalDNS", "hostname-3"),
            ("InternalIP", "2.2.2.2"),
            ("ExternalIP", "1.1.1.1"),
            ("InternalIP", "3.3.3.3"),
        ];
        assert_eq!(of(&mixed), Some(names(&["hostname-1", "hostname-2", "hostname-3"], &["1.1.1.1", "2.2.2.2", "3.3.3.3"])));
        assert_eq!(of(&[("Hostname", "hostname"), ("Hostname", "1.1.1.1")]), Some(names(&["hostname"], &["1.1.1.1"])));
        // newGetTemplateFn: without an IP only if the gate AllowDNSOnlyNodeCSR is on.
        let name = addresses(&[("Hostname", "hostname")]);
        assert_eq!((Names::of(&name, false), Names::of(&name, true)), (None, Some(names(&["hostname"], &[]))));
    }

    // API-173; certificate_manager.go, certSatisfiesTemplateLocked: what is missing is asked for, what is too much is not minded.
    #[test]
    fn missing_name_makes_a_request_and_one_too_many_does_not() {
        let both = names(&["n1"], &["10.0.0.1", "10.0.0.2"]);
        let mut rotation = ServingRotation::new("n1", Some(held(both, 1_000_000)), 7, now(0, 10));
        assert_eq!(rotation.step(Some(&names(&["n1"], &["10.0.0.1"])), now(0, 10)), Step::Wait(LOOK_EVERY));
        assert_eq!(rotation.step(Some(&names(&["n1"], &["10.0.0.3"])), now(0, 10)), Step::Request);
        assert_eq!(rotation.step(Some(&names(&["n2"], &["10.0.0.1"])), now(0, 10)), Step::Request);
        assert_eq!(rotation.step(None, now(0, 10)), Step::Wait(LOOK_EVERY));
        let mut nothing = ServingRotation::new("n1", None, 7, now(0, 10));
        assert_eq!(nothing.step(None, now(0, 10)), Step::Wait(LOOK_SOON));
        assert_eq!(nothing.step(Some(&names(&[], &["10.0.0.1"])), now(0, 10)), Step::Request);
    }

    // API-173: renewed at seven to nine tenths of its life, and none any more once it has expired.
    #[test]
    fn certificate_is_renewed_in_time() {
        let own = names(&["n1"], &["10.0.0.1"]);
        let mut rotation = ServingRotation::new("n1", Some(held(own.clone(), 1000)), 7, now(0, 10));
        assert!(matches!(rotation.step(Some(&own), now(0, 699)), Step::Wait(_)));
        assert_eq!(rotation.step(Some(&own), now(0, 901)), Step::Request);
        assert!(rotation.is_valid(now(0, 1000)) && !rotation.is_valid(now(0, 1001)));
        rotation.asked(own.clone());
        rotation.renewed(now(1, 902), held(own.clone(), 2000));
        assert_eq!(rotation.step(Some(&own), now(3, 904)), Step::Wait(LOOK_EVERY));
    }

    // API-173: a request whose names are those of before is given up; a signer that leaves names out is not asked in a tight loop.
    #[test]
    fn requests_follow_the_names_and_wait_after_failures() {
        let (old, new) = (names(&["n1"], &["10.0.0.1"]), names(&["n1"], &["10.0.0.2"]));
        let mut rotation = ServingRotation::new("n1", None, 7, now(0, 10));
        rotation.asked(old.clone());
        assert!(!rotation.is_outdated(Some(&old)) && !rotation.is_outdated(None) && rotation.is_outdated(Some(&new)));
        rotation.failed(now(1, 11));
        assert_eq!(rotation.step(Some(&new), now(1, 11)), Step::Wait(LOOK_SOON));
        assert_eq!(rotation.step(Some(&new), now(4, 14)), Step::Request);
        rotation.asked(new.clone());
        for (second, least) in [(10, 4), (30, 8), (50, 16)] {
            rotation.renewed(now(second, 20), held(old.clone(), 1_000_000));
            assert!(matches!(rotation.step(Some(&new), now(second + least - 1, 20)), Step::Wait(_)), "{second}");
            assert_eq!(rotation.step(Some(&new), now(second + 2 * least, 20)), Step::Request, "{second}");
        }
        rotation.renewed(now(100, 30), held(new.clone(), 1_000_000));
        assert_eq!(rotation.step(Some(&new), now(102, 32)), Step::Wait(LOOK_EVERY));
    }
}
