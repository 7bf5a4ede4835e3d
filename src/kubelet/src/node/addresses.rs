//! Decides by which addresses the node is known, and when the machine is asked for them again.
//! Upstream: pkg/kubelet/nodestatus/setters.go (NodeAddress), pkg/kubelet/kubelet_node_status.go (validateNodeIP).
//! Differs: name servers are waited for beside the status, a few seconds at most; while they are silent, what they said before holds.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::NodeAddress;

use crate::action::{Call, HostCall, Lane};
use crate::config::{self, Config};
use crate::event::HostReply;
use crate::failure::Failure;
use crate::ids::ActionId;
use crate::observation::NodeAddresses;
use crate::out::{Out, Owner};
use crate::time::{Mono, Now};

/// NODE-081: tells an external cloud provider which addresses were chosen.
pub(super) const PROVIDED_NODE_IP: &str = "alpha.kubernetes.io/provided-node-ip";
/// How long name servers may take.
const LOOK_UP: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(10);
/// Upstream's words (k8s.io/apimachinery/pkg/util/net/interface.go, getAllDefaultRoutes).
const NO_ROUTES: &str = r#"no default routes found in "/proc/net/route" or "/proc/net/ipv6_route""#;
/// The same (chooseHostInterfaceFromRoute), where routes there are.
const NO_ADDRESS: &str = "unable to select an IP from default routes.";

/// Keeps what the machine says of its addresses, which it is asked for whenever the status is looked at, and every few seconds while there
/// is no Node.
#[derive(Debug, Default)]
pub struct AddressBook {
    asked: Option<ActionId>,
    answered: bool,
    found: Option<NodeAddresses>,
    next: Mono,
}

impl AddressBook {
    /// What was found last.
    #[must_use]
    pub fn found(&self) -> Option<&NodeAddresses> {
        self.found.as_ref()
    }

    /// Whether there is nothing to wait for before a node is registered: the machine has answered, or failed to.
    #[must_use]
    pub fn is_settled(&self, config: &config::Node) -> bool {
        self.answered || !asks(config)
    }

    /// When the machine may be asked again; `None` while it is being asked, or has nothing to say.
    #[must_use]
    pub fn deadline(&self, config: &config::Node) -> Option<Mono> {
        (asks(config) && self.asked.is_none()).then_some(self.next)
    }

    /// The status is looked at, or there is none yet: asks the machine, unless it just did.
    pub fn ask(&mut self, now: Now, config: &config::Node, out: &mut Out<'_>) {
        if self.deadline(config).is_none_or(|next| next > now.mono) {
            return;
        }
        let given = chosen(config);
        let name = (given.is_empty() && config.name.parse::<IpAddr>().is_err()).then(|| config.name.to_string());
        let call = Call::Host(HostCall::NodeAddresses { name, within: LOOK_UP, given });
        self.asked = Some(out.issue(Owner::Node, Lane::Host, TIMEOUT, call));
        self.next = now.mono + config.status_update_frequency / 2;
    }

    /// The machine answered, or failed to. Tells whether something else is so than before.
    pub fn done(&mut self, id: ActionId, outcome: Result<HostReply, Failure>) -> bool {
        if self.asked != Some(id) {
            return false;
        }
        self.asked = None;
        let first = !std::mem::replace(&mut self.answered, true);
        let Ok(HostReply::NodeAddresses(mut found)) = outcome else { return first };
        if found.named.is_none() {
            found.named = self.found.take().and_then(|known| known.named);
        }
        let changed = self.found.as_ref() != Some(&found);
        self.found = Some(found);
        first || changed
    }
}

/// The addresses that were chosen by `--node-ip`; one that is unspecified only names a family.
fn chosen(config: &config::Node) -> Vec<IpAddr> {
    config.ips.iter().copied().filter(|ip| !ip.is_unspecified()).collect()
}

/// Whether the machine has anything to say in it: an external provider without `--node-ip` says it all.
fn asks(config: &config::Node) -> bool {
    !(config.external_cloud_provider && config.ips.is_empty())
}

/// The node's addresses (NODE-080, NODE-081): InternalIP first, then Hostname. `None` leaves those that it has.
///
/// # Errors
/// In upstream's words, if none can be told; those that it has are left.
pub fn generate_addresses(
    config: &Config,
    existing: &[NodeAddress],
    found: Option<&NodeAddresses>,
) -> Result<Option<Vec<NodeAddress>>, String> {
    let node = &config.node;
    let nothing = NodeAddresses::default();
    let known = found.unwrap_or(&nothing);
    let chosen = chosen(node);
    for (ip, what) in chosen.iter().zip(["nodeIP", "secondaryNodeIP"]) {
        validate(*ip, known).map_err(|why| format!("failed to validate {what}: {why}"))?;
    }
    if node.external_cloud_provider && !existing.is_empty() {
        // What the provider said takes precedence.
        return Ok(None);
    }
    let address = |kind: &str, address: String| NodeAddress { type_: kind.to_owned(), address };
    let mut addresses: Vec<_> = chosen.iter().map(|ip| address("InternalIP", ip.to_string())).collect();
    if chosen.is_empty() && asks(node) {
        let wants_v6 = node.ips.first().is_some_and(IpAddr::is_ipv6);
        let preferred = |ips: &[IpAddr]| ips.iter().find(|ip| ip.is_ipv6() == wants_v6).or(ips.first()).copied();
        let own = node.name.parse().ok();
        let found = own.or_else(|| preferred(known.named.as_deref().unwrap_or_default())).or_else(|| preferred(&known.routed));
        let Some(ip) = found else {
            let why = if known.default_routes { NO_ADDRESS } else { NO_ROUTES };
            return Err(format!("can't get ip address of node {}. error: {why}", node.name));
        };
        addresses.push(address("InternalIP", ip.to_string()));
    }
    addresses.push(address("Hostname", node.name.to_string()));
    Ok(Some(addresses))
}

/// Whether an address can be this node's (upstream's validateNodeIP, with its words).
fn validate(ip: IpAddr, known: &NodeAddresses) -> Result<(), String> {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let wrong = [
        (ip.is_loopback(), "nodeIP can't be loopback address"),
        (ip.is_multicast(), "nodeIP can't be a multicast address"),
        (link_local, "nodeIP can't be a link-local unicast address"),
    ];
    if let Some((_, why)) = wrong.into_iter().find(|(is, _)| *is) {
        return Err(why.to_owned());
    }
    if known.local.contains(&ip) { Ok(()) } else { Err(format!("node IP: \"{ip}\" not found in the host's network interfaces")) }
}

/// NODE-081: the annotation that a cloud provider goes by; `None` is none.
#[must_use]
pub fn provided_node_ip(config: &Config) -> Option<String> {
    let chosen = chosen(&config.node);
    // Only of a first address that was chosen: `::` before one says nothing.
    let specified = config.node.ips.first().is_some_and(|ip| !ip.is_unspecified());
    (config.node.external_cloud_provider && specified).then(|| chosen.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
}

/// The annotations that this makes of a node's.
#[must_use]
pub fn annotate(annotations: Option<BTreeMap<String, String>>, config: &Config) -> Option<BTreeMap<String, String>> {
    let Some(provided) = provided_node_ip(config) else { return annotations };
    let mut annotations = annotations.unwrap_or_default();
    annotations.insert(PROVIDED_NODE_IP.to_owned(), provided);
    Some(annotations)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn config(external: bool, ips: &[&str]) -> Config {
        let mut config = Config::new("n1");
        config.node.external_cloud_provider = external;
        config.node.ips = ips.iter().map(|text| ip(text)).collect();
        config
    }

    fn found() -> NodeAddresses {
        NodeAddresses {
            named: Some(Vec::new()),
            routed: vec![ip("10.0.0.5"), ip("fd00::5")],
            default_routes: true,
            local: vec![ip("10.0.0.7"), ip("fd00::7")],
        }
    }

    fn generated(config: &Config, existing: &[NodeAddress], found: &NodeAddresses) -> Result<Option<Vec<String>>, String> {
        let brief = |a: NodeAddress| format!("{} {}", a.type_, a.address);
        Ok(generate_addresses(config, existing, Some(found))?.map(|list| list.into_iter().map(brief).collect()))
    }

    fn is(addresses: &[&str]) -> Result<Option<Vec<String>>, String> {
        Ok(Some(addresses.iter().map(|&a| a.to_owned()).collect()))
    }

    // NODE-080, NODE-081: each case of TestNodeAddress in upstream's pkg/kubelet/nodestatus/setters_test.go that has a cloud
    // provider: its addresses stay; without any, those that were chosen or the host's name alone stand in.
    #[test]
    fn addresses_of_a_cloud_provider_stay() {
        let set = vec![
            NodeAddress { type_: "InternalIP".to_owned(), address: "10.1.1.1".to_owned() },
            NodeAddress { type_: "ExternalIP".to_owned(), address: "55.55.55.55".to_owned() },
        ];
        for ips in [&[][..], &["10.0.0.7"], &["0.0.0.0"], &["10.0.0.7", "fd00::7"]] {
            assert_eq!(generated(&config(true, ips), &set, &found()), Ok(None), "{ips:?}");
        }
        assert_eq!(generated(&config(true, &[]), &[], &found()), is(&["Hostname n1"]));
        assert_eq!(generated(&config(true, &["10.0.0.7"]), &[], &found()), is(&["InternalIP 10.0.0.7", "Hostname n1"]));
        assert_eq!(generated(&config(true, &["0.0.0.0"]), &[], &found()), is(&["InternalIP 10.0.0.5", "Hostname n1"]));
        assert_eq!(generated(&config(true, &["::"]), &[], &found()), is(&["InternalIP fd00::5", "Hostname n1"]));
        assert_eq!(generated(&config(false, &[]), &set, &found()), is(&["InternalIP 10.0.0.5", "Hostname n1"]));
    }

    // NODE-081: setters.go, NodeAddress: chosen addresses, joined by a comma, with an external provider only.
    #[test]
    fn cloud_provider_is_told_which_addresses_were_chosen() {
        let of = |external, ips: &[&str]| provided_node_ip(&config(external, ips));
        assert_eq!(of(true, &["10.0.0.7"]).as_deref(), Some("10.0.0.7"));
        assert_eq!(of(true, &["10.0.0.7", "fd00::7"]).as_deref(), Some("10.0.0.7,fd00::7"));
        assert_eq!(of(true, &["0.0.0.0"]), None);
        assert_eq!(of(true, &[]), None);
        assert_eq!(of(false, &["10.0.0.7"]), None);
    }

    // NODE-080: kubelet_node_status.go, validateNodeIP, and its words.
    #[test]
    fn chosen_address_must_be_one_of_the_machine() {
        let refused = |ips: &[&str]| generated(&config(false, ips), &[], &found()).unwrap_err();
        assert_eq!(refused(&["127.0.0.1"]), "failed to validate nodeIP: nodeIP can't be loopback address");
        assert_eq!(refused(&["224.0.0.1"]), "failed to validate nodeIP: nodeIP can't be a multicast address");
        assert_eq!(refused(&["169.254.1.1"]), "failed to validate nodeIP: nodeIP can't be a link-local unicast address");
        assert_eq!(refused(&["fe80::1"]), "failed to validate nodeIP: nodeIP can't be a link-local unicast address");
        let absent = "node IP: \"10.0.0.8\" not found in the host's network interfaces";
        assert_eq!(refused(&["10.0.0.8"]), format!("failed to validate nodeIP: {absent}"));
        assert_eq!(refused(&["fd00::7", "10.0.0.8"]), format!("failed to validate secondaryNodeIP: {absent}"));
        let both = generated(&config(false, &["10.0.0.7", "fd00::7"]), &[], &found());
        assert_eq!(both, is(&["InternalIP 10.0.0.7", "InternalIP fd00::7", "Hostname n1"]));
    }

    // NODE-080: setters.go, steps 2 to 4: the name as an address, what it resolves to, the default route; IPv4 unless `::` is set.
    #[test]
    fn address_is_looked_for_in_upstreams_order() {
        let mut named = found();
        named.named = Some(vec![ip("192.0.2.1"), ip("2001:db8::1")]);
        assert_eq!(generated(&config(false, &[]), &[], &named), is(&["InternalIP 192.0.2.1", "Hostname n1"]));
        assert_eq!(generated(&config(false, &["::"]), &[], &named), is(&["InternalIP 2001:db8::1", "Hostname n1"]));
        let mut by_ip = config(false, &[]);
        by_ip.node.name = "192.0.2.9".into();
        assert_eq!(generated(&by_ip, &[], &named), is(&["InternalIP 192.0.2.9", "Hostname 192.0.2.9"]));
        let nothing = NodeAddresses::default();
        let words =
            r#"can't get ip address of node n1. error: no default routes found in "/proc/net/route" or "/proc/net/ipv6_route""#;
        assert_eq!(generated(&config(false, &[]), &[], &nothing).unwrap_err(), words);
        let nothing = NodeAddresses { default_routes: true, ..nothing };
        let words = "can't get ip address of node n1. error: unable to select an IP from default routes.";
        assert_eq!(generated(&config(false, &[]), &[], &nothing).unwrap_err(), words);
    }
}
