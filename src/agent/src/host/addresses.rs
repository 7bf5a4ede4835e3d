//! The addresses that the node may be known by, best first.
//! Upstream: pkg/kubelet/nodestatus/setters.go (NodeAddress), k8s.io/apimachinery/pkg/util/net/interface.go.
//! Differs: nothing on purpose.

use std::net::{IpAddr, ToSocketAddrs as _};

use super::files;
use super::interfaces::Interface;
use super::layout::Layout;

/// What the node's name resolves to, of the addresses that this machine has; IPv4 first. Takes as long as name servers take.
pub(super) fn named(name: &str, interfaces: &[Interface]) -> Vec<IpAddr> {
    let resolved = (name, 0).to_socket_addrs().into_iter().flatten();
    choose(&resolved.map(|a| a.ip()).collect::<Vec<_>>(), interfaces)
}

/// The addresses on the way out, IPv4 first, and whether there is a default route at all (chooseHostInterfaceFromRoute).
pub(super) fn routed(layout: &Layout, interfaces: &[Interface]) -> (Vec<IpAddr>, bool) {
    let table = |path: &str| files::text(&layout.system(path)).unwrap_or_default();
    let (v4, v6) = (table("proc/net/route"), table("proc/net/ipv6_route"));
    let (v4, v6) = (default_v4(&v4), default_v6(&v6));
    let on = |is_on: &dyn Fn(&Interface) -> bool, ipv6: bool| {
        let mut usable = interfaces.iter().filter(|interface| interface.up && is_on(interface)).flat_map(|on| &on.addresses);
        usable.find(|ip| ip.is_ipv6() == ipv6 && is_usable(**ip)).copied()
    };
    let first = |routes: &[&str], ipv6: bool| {
        // Where routes go by link-local addresses alone, the loopback interface has the machine's (RFC 5549).
        routes.iter().find_map(|route| on(&|on| on.name == *route, ipv6).or_else(|| on(&|on| on.loopback, ipv6)))
    };
    (first(&v4, false).into_iter().chain(first(&v6, true)).collect(), !(v4.is_empty() && v6.is_empty()))
}

/// Those of the given ones that an interface of this machine has.
pub(super) fn local(given: &[IpAddr], interfaces: &[Interface]) -> Vec<IpAddr> {
    given.iter().copied().filter(|ip| interfaces.iter().any(|interface| interface.addresses.contains(ip))).collect()
}

/// What can be a node's address, IPv4 first.
fn choose(found: &[IpAddr], interfaces: &[Interface]) -> Vec<IpAddr> {
    let mut usable = local(found, interfaces);
    usable.retain(|ip| is_usable(*ip));
    usable.sort_by_key(IpAddr::is_ipv6);
    usable
}

/// As Go's IsGlobalUnicast.
fn is_usable(ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(ip.is_loopback() || ip.is_multicast() || ip.is_unspecified() || link_local)
}

/// The interfaces of the default routes in `/proc/net/route`. One into a tunnel has no gateway.
fn default_v4(table: &str) -> Vec<&str> {
    let interface = |line| {
        let mut fields = str::split_whitespace(line);
        let (interface, destination) = (fields.next()?, fields.next()?);
        (u32::from_str_radix(destination, 16) == Ok(0)).then_some(interface)
    };
    table.lines().skip(1).filter_map(interface).collect()
}

/// The interfaces of the default routes in `/proc/net/ipv6_route`. Those without a gateway are the kernel's own.
fn default_v6(table: &str) -> Vec<&str> {
    let all_zero = |text: &str| text.bytes().all(|b| b == b'0');
    let interface = |line| {
        let fields: Vec<&str> = str::split_whitespace(line).collect();
        let [destination, _, _, _, gateway, .., interface] = fields.as_slice() else { return None };
        (all_zero(destination) && !all_zero(gateway)).then_some(*interface)
    };
    table.lines().filter_map(interface).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::Scratch;
    use super::*;

    fn interface(name: &str, addresses: &[&str]) -> Interface {
        let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        Interface { name: name.to_owned(), up: true, loopback: name == "lo", addresses }
    }

    fn texts(addresses: &[IpAddr]) -> Vec<String> {
        addresses.iter().map(IpAddr::to_string).collect()
    }

    // NODE-080: kubelet_node_status.go (validateNodeIP) and Go's IsGlobalUnicast.
    #[test]
    fn unusable_addresses_are_passed_over_and_ipv4_comes_first() {
        let all = ["127.0.0.1", "::1", "fe80::1", "169.254.1.1", "224.0.0.1", "255.255.255.255", "0.0.0.0", "fd00::5", "10.0.0.5"];
        let found: Vec<IpAddr> = all.iter().map(|ip| ip.parse().unwrap()).collect();
        assert_eq!(texts(&choose(&found, &[interface("eth0", &all)])), ["10.0.0.5", "fd00::5"]);
        assert!(choose(&found, &[]).is_empty());
    }

    // NODE-082: validateNodeIP goes by net.InterfaceAddrs.
    #[test]
    fn only_addresses_of_interfaces_are_local() {
        let given: Vec<IpAddr> = ["240.0.0.1", "127.0.0.2", "127.0.0.1"].iter().map(|ip| ip.parse().unwrap()).collect();
        assert_eq!(local(&given, &[interface("lo", &["127.0.0.1"]), interface("eth0", &["10.0.0.5"])]), given[2..]);
        assert_eq!(local(&given, &super::super::interfaces::interfaces().unwrap()), given[2..]);
    }

    fn found(scratch: &Scratch, interfaces: &[Interface]) -> (Vec<String>, bool) {
        let (addresses, routes) = routed(&scratch.layout(), interfaces);
        (texts(&addresses), routes)
    }

    const HEADING: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n";
    const INSIDE: &str = "eth0\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\n";

    // NODE-080: interface.go (getIPv4DefaultRoutes, chooseHostInterfaceFromRoute): TestGetIPv4DefaultRoutes and its kin in
    // interface_test.go. A route into a tunnel has no gateway, and is one all the same.
    #[test]
    fn addresses_of_the_default_routes_interface_are_found() {
        let scratch = Scratch::new();
        let interfaces = [
            interface("lo", &["127.0.0.1"]),
            interface("tun0", &["10.9.8.7"]),
            interface("eth0", &["fe80::1", "10.0.0.5", "fd00::5"]),
        ];
        assert_eq!(found(&scratch, &interfaces), (vec![], false));
        scratch.put("proc/net/route", &format!("{HEADING}{INSIDE}"));
        assert_eq!(found(&scratch, &interfaces), (vec![], false));
        scratch.put("proc/net/route", &format!("{HEADING}{INSIDE}tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\n"));
        assert_eq!(found(&scratch, &interfaces), (vec!["10.9.8.7".to_owned()], true));
        let zero = "0".repeat(32);
        let line = |gateway: &str, on: &str| format!("{zero} 00 {zero} 00 {gateway} 00000400 00000000 00000000 00000003 {on}\n");
        scratch.put("proc/net/ipv6_route", &(line(&zero, "lo") + &line("fe800000000000000000000000000001", "eth0")));
        assert_eq!(found(&scratch, &interfaces), (vec!["10.9.8.7".to_owned(), "fd00::5".to_owned()], true));
    }

    // NODE-080: interface_test.go, "all link-local" and "interface down": the loopback interface's address, or none.
    #[test]
    fn loopback_lends_its_address_where_routes_go_by_link_local_ones() {
        let scratch = Scratch::new();
        scratch.put("proc/net/route", &format!("{HEADING}eth0\t00000000\t0100FEA9\t0003\t0\t0\t0\t00000000\n"));
        let (lo, eth0) = (interface("lo", &["127.0.0.1", "10.1.1.1"]), interface("eth0", &["169.254.1.2"]));
        assert_eq!(found(&scratch, &[lo.clone(), eth0.clone()]), (vec!["10.1.1.1".to_owned()], true));
        assert_eq!(found(&scratch, &[eth0]), (vec![], true));
        let down = Interface { up: false, ..interface("eth0", &["10.0.0.5"]) };
        assert_eq!(found(&scratch, &[down]), (vec![], true));
    }

    #[test]
    fn mangled_route_tables_have_a_gateway_or_none() {
        let seeds: [&[u8]; 2] = [
            b"Iface\tDestination\tGateway\tFlags\neth0\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n",
            b"00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000000 00000000 00450003 eth0\n",
        ];
        crate::mangled::each("route table", &seeds, |input| {
            let text = crate::mangled::text(input);
            let _routes = (default_v4(&text), default_v6(&text));
        });
    }
}
