//! Traffic by interface, from /proc/net/dev.
//! Upstream: github.com/google/cadvisor/container/libcontainer (networkStatsFromProc), pkg/kubelet/stats/helper.go.
//! Differs: nothing on purpose.

use super::summary::{InterfaceStats, NetworkStats, Time};

/// The interface whose numbers stand for the whole.
const DEFAULT: &str = "eth0";
/// API-123
const SKIPPED: [&str; 4] = ["lo", "veth", "docker", "nerdctl"];

/// Reads the kernel's table; `None` if it holds no interface that counts.
pub(super) fn parse(table: &str, time: Time) -> Option<NetworkStats> {
    let interfaces: Vec<InterfaceStats> = table.lines().filter_map(interface).collect();
    let default = interfaces.iter().find(|one| one.name == DEFAULT).cloned();
    (!interfaces.is_empty()).then_some(NetworkStats { time, default, interfaces })
}

fn interface(line: &str) -> Option<InterfaceStats> {
    let (name, numbers) = line.split_once(':')?;
    let name = name.trim();
    if SKIPPED.iter().any(|prefix| name.starts_with(prefix)) {
        return None;
    }
    let numbers: Vec<u64> = numbers.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    let at = |index: usize| numbers.get(index).copied();
    Some(InterfaceStats { name: name.to_owned(), rx_bytes: at(0), rx_errors: at(2), tx_bytes: at(8), tx_errors: at(10) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_of_the_node_are_told_and_those_of_pods_are_not() {
        // API-123
        let table = "Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0: 474946371     9    1    0    0     0          0         0  1068167       7    2    0    0     0       0          0
veth12:      50       1    0    0    0     0          0         0       50       1    0    0    0     0       0          0
";
        let time = Time(jiff::Timestamp::UNIX_EPOCH);
        let stats = parse(table, time).unwrap();
        assert_eq!(stats.interfaces.len(), 1);
        let eth0 = stats.default.unwrap();
        assert_eq!((eth0.rx_bytes, eth0.rx_errors), (Some(474_946_371), Some(1)));
        assert_eq!((eth0.tx_bytes, eth0.tx_errors), (Some(1_068_167), Some(2)));
        assert!(parse("nothing", time).is_none());
    }
}
