//! The machine's network interfaces and the addresses that they have, asked of the kernel.
//! Upstream: Go's net (Interfaces, InterfaceAddrs), by which k8s.io/apimachinery/pkg/util/net/interface.go goes.
//! Differs: nothing on purpose.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

/// What is asked for: a message type of rtnetlink(7). The kernel answers with the type two below.
#[derive(Clone, Copy)]
enum Table {
    Links = 18,
    Addresses = 22,
}

/// An interface, with its addresses in the kernel's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) up: bool,
    pub(super) loopback: bool,
    pub(super) addresses: Vec<IpAddr>,
}

/// All of them. That an address can be bound would not tell that an interface has it: whole networks may be routed to this machine
/// (`ip route add local`), and `net.ipv4.ip_nonlocal_bind` lets anything be bound.
pub(super) fn interfaces() -> io::Result<Vec<Interface>> {
    Ok(read(&dump(Table::Links)?, &dump(Table::Addresses)?))
}

/// The answers to one question, one after the other.
fn dump(table: Table) -> io::Result<Vec<u8>> {
    const REQUEST_DUMP: u16 = 0x301;
    let mut request = Vec::with_capacity(20);
    request.extend(20u32.to_ne_bytes());
    request.extend((table as u16).to_ne_bytes());
    request.extend(REQUEST_DUMP.to_ne_bytes());
    // Number, port and family: none.
    request.extend([0; 12]);
    // No protocol is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    sendto(&socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    // No answer of the kernel is larger.
    let mut buffer = vec![0; 1 << 16];
    let mut answers = Vec::new();
    loop {
        let (_, length) = recv(&socket, &mut buffer[..], RecvFlags::TRUNC)?;
        let answer = buffer.get(..length).ok_or_else(|| io::Error::other("the kernel's answer is too long"))?;
        answers.extend_from_slice(answer);
        for (kind, _) in messages(answer) {
            match kind {
                ERROR => return Err(io::Error::other("the kernel does not list its interfaces")),
                DONE => return Ok(answers),
                _ => {}
            }
        }
    }
}

const ERROR: u16 = 2;
const DONE: u16 = 3;

fn read(links: &[u8], addresses: &[u8]) -> Vec<Interface> {
    const UP: u32 = 1;
    const LOOPBACK: u32 = 8;
    const NAME: u16 = 3;
    let mut found: Vec<(u32, Interface)> = Vec::new();
    for (_, link) in messages(links).filter(|(kind, _)| *kind == Table::Links as u16 - 2) {
        let (Some(index), Some(flags)) = (number(link, 4), number(link, 8)) else { continue };
        let name = attributes(link, 16).find(|(kind, _)| *kind == NAME).map(|(_, name)| name).unwrap_or_default();
        let name = String::from_utf8_lossy(name).trim_end_matches('\0').to_owned();
        let (up, loopback) = (flags & UP != 0, flags & LOOPBACK != 0);
        found.push((index, Interface { name, up, loopback, addresses: Vec::new() }));
    }
    for (_, message) in messages(addresses).filter(|(kind, _)| *kind == Table::Addresses as u16 - 2) {
        let interface = number(message, 4).and_then(|index| found.iter_mut().find(|(known, _)| *known == index));
        if let (Some((_, interface)), Some(address)) = (interface, address(message)) {
            interface.addresses.push(address);
        }
    }
    found.into_iter().map(|(_, interface)| interface).collect()
}

/// On a link between two points the other attribute is the other end's.
fn address(message: &[u8]) -> Option<IpAddr> {
    const ADDRESS: u16 = 1;
    const LOCAL: u16 = 2;
    let of = |wanted: u16| attributes(message, 8).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let value = of(LOCAL).or_else(|| of(ADDRESS))?;
    <[u8; 4]>::try_from(value)
        .map(|v4| Ipv4Addr::from(v4).into())
        .or_else(|_| <[u8; 16]>::try_from(value).map(|v6| Ipv6Addr::from(v6).into()))
        .ok()
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

/// The messages of an answer: type and what follows the header.
fn messages(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = number(rest, 0)? as usize;
        let (kind, payload) = (short(rest, 4)?, rest.get(16..length)?);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    })
}

/// The attributes of a message that begin there: type and value.
fn attributes(message: &[u8], from: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = message.get(from..).unwrap_or_default();
    std::iter::from_fn(move || {
        let length = usize::from(short(rest, 0)?);
        let (kind, value) = (short(rest, 2)?, rest.get(4..length)?);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = [(value.len() as u16 + 4).to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32 + 16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(payload);
        bytes
    }

    fn link(index: u32, flags: u32, name: &str) -> Vec<u8> {
        let payload = [&[0; 4][..], &index.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 4], &attribute(3, name.as_bytes())];
        message(16, &payload.concat())
    }

    fn address_of(index: u32, attributes: &[Vec<u8>]) -> Vec<u8> {
        message(20, &[&[0; 4][..], &index.to_ne_bytes(), &attributes.concat()].concat())
    }

    fn answers() -> (Vec<u8>, Vec<u8>) {
        let links = [link(1, 9, "lo\0"), link(7, 0x11, "tun0\0"), link(8, 0, "eth1\0"), message(DONE, &[0; 4])].concat();
        let addresses = [
            address_of(1, &[attribute(1, &[127, 0, 0, 1]), attribute(2, &[127, 0, 0, 1])]),
            address_of(7, &[attribute(1, &[10, 9, 8, 1]), attribute(2, &[10, 9, 8, 7]), attribute(3, b"tun0\0")]),
            address_of(7, &[attribute(1, &[0xfd; 16])]),
            address_of(9, &[attribute(1, &[192, 0, 2, 1])]),
            message(DONE, &[0; 4]),
        ];
        (links, addresses.concat())
    }

    // NODE-080: Go's newAddr: between two points the own end counts.
    #[test]
    fn interfaces_have_the_addresses_that_the_kernel_tells() {
        let (links, addresses) = answers();
        let of = |name: &str, up, loopback, addresses: &[&str]| Interface {
            name: name.to_owned(),
            up,
            loopback,
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
        };
        let v6 = "fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd";
        let expected =
            [of("lo", true, true, &["127.0.0.1"]), of("tun0", true, false, &["10.9.8.7", v6]), of("eth1", false, false, &[])];
        assert_eq!(read(&links, &addresses), expected);
    }

    // NODE-080, NODE-082: all of 127.0.0.0/8 can be bound, and an interface has one address of it.
    #[test]
    fn kernel_tells_what_interfaces_have_and_not_what_can_be_bound() {
        let found = interfaces().unwrap();
        let has = |ip: [u8; 4]| found.iter().any(|interface| interface.addresses.contains(&IpAddr::from(ip)));
        assert!(has([127, 0, 0, 1]), "{found:?}");
        assert!(std::net::UdpSocket::bind("127.0.0.2:0").is_ok());
        assert!(!has([127, 0, 0, 2]), "{found:?}");
    }

    #[test]
    fn mangled_answers_are_read_or_passed_over() {
        let (links, addresses) = answers();
        crate::mangled::each("netlink", &[&links, &addresses], |input| {
            let _found = (read(input, &addresses), read(&links, input));
        });
    }
}
