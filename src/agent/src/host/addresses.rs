//! The addresses that the node may be known by, best first.
//! Upstream: pkg/kubelet/nodestatus/setters.go (NodeAddress), k8s.io/apimachinery/pkg/util/net/interface.go.
//! Differs: of the default route's interface the address is taken that the kernel would send from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _, UdpSocket};

use super::files;
use super::layout::Layout;

/// What the node's name resolves to, of the addresses that this machine has; IPv4 first. Takes as long as name servers take.
pub(super) fn named(name: &str) -> Vec<IpAddr> {
    let resolved = (name, 0).to_socket_addrs().into_iter().flatten();
    choose(&resolved.map(|a| a.ip()).collect::<Vec<_>>(), is_local)
}

/// The addresses towards the default gateways, IPv4 first.
pub(super) fn routed(layout: &Layout) -> Vec<IpAddr> {
    let table = |path: &str| files::text(&layout.system(path)).unwrap_or_default();
    let found = [
        gateway_v4(&table("proc/net/route")).and_then(|g| source_towards(SocketAddr::new(g.into(), 9))),
        gateway_v6(&table("proc/net/ipv6_route")).and_then(|g| source_towards(SocketAddr::new(g.into(), 9))),
    ];
    choose(&found.into_iter().flatten().collect::<Vec<_>>(), |_| true)
}

/// Those of the given ones that this machine has.
pub(super) fn local(given: &[IpAddr]) -> Vec<IpAddr> {
    given.iter().copied().filter(|ip| is_local(*ip)).collect()
}

/// What can be a node's address, IPv4 first.
fn choose(found: &[IpAddr], local: impl Fn(IpAddr) -> bool) -> Vec<IpAddr> {
    let mut usable: Vec<_> = found.iter().copied().filter(|ip| is_usable(*ip) && local(*ip)).collect();
    usable.sort_by_key(IpAddr::is_ipv6);
    usable
}

fn is_usable(ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(ip.is_loopback() || ip.is_multicast() || ip.is_unspecified() || link_local)
}

/// Only what an interface of this machine has can be bound.
fn is_local(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

/// The address that the kernel would send from. Nothing is sent.
fn source_towards(there: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = if there.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(there).ok()?;
    socket.local_addr().ok().map(|a| a.ip())
}

/// The gateway of the default route in `/proc/net/route`, whose numbers are in the machine's byte order.
fn gateway_v4(table: &str) -> Option<Ipv4Addr> {
    const UP_GATEWAY: u32 = 3;
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let mut number = || u32::from_str_radix(fields.next()?, 16).ok();
        let (destination, gateway, flags) = (number()?, number()?, number()?);
        let default = destination == 0 && flags & UP_GATEWAY == UP_GATEWAY;
        default.then(|| Ipv4Addr::from(gateway.to_ne_bytes()))
    })
}

/// The gateway of the default route in `/proc/net/ipv6_route`. One that is link-local tells of no source address by itself,
/// so an address behind it stands in.
fn gateway_v6(table: &str) -> Option<Ipv6Addr> {
    const BEHIND: Ipv6Addr = Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 1);
    table.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [destination, prefix, _, _, gateway, ..] = fields.as_slice() else { return None };
        let gateway = Ipv6Addr::from(u128::from_str_radix(gateway, 16).ok()?);
        let default = *prefix == "00" && destination.bytes().all(|b| b == b'0') && !gateway.is_unspecified();
        default.then_some(if gateway.is_unicast_link_local() { BEHIND } else { gateway })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // NODE-080
    #[test]
    fn unusable_addresses_are_passed_over_and_ipv4_comes_first() {
        let found = ["127.0.0.1", "::1", "fe80::1", "169.254.1.1", "224.0.0.1", "0.0.0.0", "fd00::5", "10.0.0.5"];
        let found: Vec<IpAddr> = found.iter().map(|ip| ip.parse().unwrap()).collect();
        let chosen: Vec<_> = choose(&found, |_| true).iter().map(IpAddr::to_string).collect();
        assert_eq!(chosen, ["10.0.0.5", "fd00::5"]);
        assert!(choose(&found, |_| false).is_empty());
    }

    #[test]
    fn only_addresses_of_this_machine_are_local() {
        assert!(is_local("127.0.0.1".parse().unwrap()));
        // Class E is nobody's.
        assert!(!is_local("240.0.0.1".parse().unwrap()));
        let given: Vec<IpAddr> = ["240.0.0.1", "127.0.0.1"].iter().map(|ip| ip.parse().unwrap()).collect();
        assert_eq!(local(&given), given[1..]);
    }

    #[test]
    fn default_gateways_are_read_from_the_route_tables() {
        let v4 = "Iface\tDestination\tGateway \tFlags\neth0\t0000000A\t00000000\t0001\neth0\t00000000\t0100000A\t0003\n";
        let expected = if cfg!(target_endian = "little") { Ipv4Addr::new(10, 0, 0, 1) } else { Ipv4Addr::new(1, 0, 0, 10) };
        assert_eq!(gateway_v4(v4), Some(expected));
        assert_eq!(gateway_v4("Iface\n"), None);
        let zero = "0".repeat(32);
        let line = |gateway: &str| format!("{zero} 00 {zero} 00 {gateway} 00000400 00000000 00000000 00000003 eth0\n");
        assert_eq!(gateway_v6(&line("fd000000000000000000000000000001")), Some("fd00::1".parse().unwrap()));
        assert_eq!(gateway_v6(&line(&zero)), None);
    }

    #[test]
    fn mangled_route_tables_have_a_gateway_or_none() {
        let seeds: [&[u8]; 2] = [
            b"Iface\tDestination\tGateway\tFlags\neth0\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n",
            b"00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000000 00000000 00450003 eth0\n",
        ];
        crate::mangled::each("route table", &seeds, |input| {
            let text = crate::mangled::text(input);
            let _gateways = (gateway_v4(&text), gateway_v6(&text));
        });
    }
}
