//! Traffic by interface, from /proc/net/dev.
//! Upstream: github.com/google/cadvisor/container/libcontainer (networkStatsFromProc), pkg/kubelet/stats/helper.go.
//! Differs: a byte of a name that is no text is written as `\xff`.

use std::str::Utf8Chunk;

use super::summary::{InterfaceStats, NetworkStats, Time};

/// The interface whose numbers stand for the whole.
const DEFAULT: &str = "eth0";
/// API-123
const SKIPPED: [&str; 4] = ["lo", "veth", "docker", "nerdctl"];

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) received: Traffic,
    pub(crate) sent: Traffic,
}

/// What went one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) bytes: u64,
    pub(crate) packets: u64,
    pub(crate) errors: u64,
    pub(crate) dropped: u64,
}

/// Reads the kernel's table: the interfaces that count.
pub(super) fn interfaces(table: &[u8]) -> Vec<Interface> {
    let table: String = table.utf8_chunks().map(escaped).collect();
    table.lines().filter_map(interface).collect()
}

/// A pod may call its interfaces by any bytes: two that are no text stay two.
fn escaped(chunk: Utf8Chunk<'_>) -> String {
    let escapes = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}"));
    [chunk.valid().to_owned()].into_iter().chain(escapes).collect()
}

/// The table as the summary tells it; `None` if it holds no interface that counts.
pub(super) fn parse(table: &[u8], time: Time) -> Option<NetworkStats> {
    let stats = |interface: Interface| InterfaceStats {
        name: interface.name,
        rx_bytes: Some(interface.received.bytes),
        rx_errors: Some(interface.received.errors),
        tx_bytes: Some(interface.sent.bytes),
        tx_errors: Some(interface.sent.errors),
    };
    let interfaces: Vec<InterfaceStats> = interfaces(table).into_iter().map(stats).collect();
    let default = interfaces.iter().find(|one| one.name == DEFAULT).cloned();
    (!interfaces.is_empty()).then_some(NetworkStats { time, default, interfaces })
}

fn interface(line: &str) -> Option<Interface> {
    let (name, numbers) = line.split_once(':')?;
    let name = name.trim();
    let lower = name.to_ascii_lowercase();
    if SKIPPED.iter().any(|prefix| lower.starts_with(prefix)) {
        return None;
    }
    let numbers: Vec<u64> = numbers.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    let traffic = |from: usize| {
        let [bytes, packets, errors, dropped] = *numbers.get(from..from + 4)? else { return None };
        Some(Traffic { bytes, packets, errors, dropped })
    };
    Some(Interface { name: name.to_owned(), received: traffic(0)?, sent: traffic(8)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_of_the_node_are_told_and_those_of_pods_are_not() {
        // API-123
        let table = b"Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0: 474946371     9    1    3    0     0          0         0  1068167       7    2    4    0     0       0          0
veth12:      50       1    0    0    0     0          0         0       50       1    0    0    0     0       0          0
";
        let time = Time(jiff::Timestamp::UNIX_EPOCH);
        let stats = parse(table, time).unwrap();
        assert_eq!(stats.interfaces.len(), 1);
        let eth0 = stats.default.unwrap();
        assert_eq!((eth0.rx_bytes, eth0.rx_errors), (Some(474_946_371), Some(1)));
        assert_eq!((eth0.tx_bytes, eth0.tx_errors), (Some(1_068_167), Some(2)));
        assert!(parse(b"nothing", time).is_none());
        let [eth0] = interfaces(table).try_into().unwrap();
        assert_eq!(eth0.received, Traffic { bytes: 474_946_371, packets: 9, errors: 1, dropped: 3 });
        assert_eq!(eth0.sent, Traffic { bytes: 1_068_167, packets: 7, errors: 2, dropped: 4 });
    }

    // API-123: networkStatsFromProc reads the table line by line, whatever bytes are in it.
    #[test]
    fn interface_whose_name_is_no_text_hides_no_other() {
        let numbers = b": 1 0 0 0 0 0 0 0 2 0 0 0 0 0 0 0\n";
        let table = [b"eth0".as_slice(), numbers, b"a\xff", numbers, b"a\xfe", numbers].concat();
        let names: Vec<String> = interfaces(&table).into_iter().map(|one| one.name).collect();
        assert_eq!(names, ["eth0", "a\\xff", "a\\xfe"]);
    }

    #[test]
    fn mangled_table_of_interfaces_has_some_or_none() {
        let seed = b"Inter-|   Receive\n face |bytes\n  eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\nlo: 99999999999999999999 1\n";
        crate::mangled::each("/proc/net/dev", &[seed], |input| {
            let _interfaces = parse(input, Time(jiff::Timestamp::UNIX_EPOCH));
        });
    }
}
