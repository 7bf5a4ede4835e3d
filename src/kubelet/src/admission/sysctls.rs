//! Decides whether a pod may set the kernel parameters that it asks for.
//! Upstream: pkg/kubelet/sysctl/{allowlist,safe_sysctls}.go, staging/src/k8s.io/component-helpers/node/util/sysctl/namespace.go.
//! Differs: nothing on purpose.

use k8s_openapi::api::core::v1::PodSpec;

/// Those that are a pod's own and do no other pod harm, with the kernel since which that is so (POD-038, NODE-150).
const SAFE: [(&str, (u32, u32)); 12] = [
    ("kernel.shm_rmid_forced", (0, 0)),
    ("net.ipv4.ip_local_port_range", (0, 0)),
    ("net.ipv4.tcp_syncookies", (0, 0)),
    ("net.ipv4.ping_group_range", (0, 0)),
    ("net.ipv4.ip_unprivileged_port_start", (0, 0)),
    ("net.ipv4.ip_local_reserved_ports", (3, 16)),
    ("net.ipv4.tcp_keepalive_time", (4, 5)),
    ("net.ipv4.tcp_fin_timeout", (4, 6)),
    ("net.ipv4.tcp_keepalive_intvl", (4, 5)),
    ("net.ipv4.tcp_keepalive_probes", (4, 5)),
    ("net.ipv4.tcp_rmem", (4, 15)),
    ("net.ipv4.tcp_wmem", (4, 15)),
];

/// The message of `SysctlForbidden` for the first parameter that the pod may not set. `allowed` is `allowedUnsafeSysctls`; an
/// unknown kernel counts as a new one.
pub(super) fn forbidden(spec: &PodSpec, allowed: &[String], kernel: Option<&str>) -> Option<String> {
    let asked = spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
    asked.map(|sysctl| with_dots(&sysctl.name)).find_map(|name| {
        let why = if !is_safe(&name, kernel) && !allowed.iter().any(|pattern| matches(&with_dots(pattern), &name)) {
            "not allowlisted"
        } else if is_of_network(&name) {
            if !spec.host_network.unwrap_or(false) {
                return None;
            }
            "not allowed with host net enabled"
        } else if spec.host_ipc.unwrap_or(false) {
            "not allowed with host ipc enabled"
        } else {
            return None;
        };
        Some(format!("forbidden sysctl: {name:?} {why}"))
    })
}

fn is_safe(name: &str, kernel: Option<&str>) -> bool {
    let running = kernel.map_or((u32::MAX, 0), version);
    SAFE.iter().any(|(safe, since)| *safe == name && running >= *since)
}

/// Everything that is a pod's own is either of the network or of IPC.
fn is_of_network(name: &str) -> bool {
    name.starts_with("net.")
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => pattern == name,
    }
}

/// `net/ipv4/conf/eth0.1/x` is `net.ipv4.conf.eth0/1.x`: what separates first is the separator.
/// (NormalizeName in component-helpers/node/util/sysctl/sysctl.go; CRI-011)
#[must_use]
pub(crate) fn with_dots(name: &str) -> String {
    if name.find(['.', '/']).is_none_or(|at| name[at..].starts_with('.')) {
        return name.to_owned();
    }
    let swapped = |c| match c {
        '/' => '.',
        '.' => '/',
        c => c,
    };
    name.chars().map(swapped).collect()
}

/// Major and minor of `uname -r`.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(name: &str, host: &str, allowed: &[&str], kernel: &str) -> Option<String> {
        let mut spec = json!({"containers": [], "securityContext": {"sysctls": [{"name": name, "value": "1"}]}});
        spec[host] = json!(true);
        let allowed: Vec<String> = allowed.iter().map(|pattern| (*pattern).to_owned()).collect();
        forbidden(&serde_json::from_value(spec).unwrap(), &allowed, Some(kernel))
    }

    // POD-038, NODE-150
    #[test]
    fn only_safe_and_allowed_sysctls_may_be_set() {
        assert_eq!(told("net.ipv4.tcp_syncookies", "hostPID", &[], "3.10.0"), None);
        assert_eq!(told("net/ipv4/tcp_syncookies", "hostPID", &[], "3.10.0"), None);
        let refused = |name: &str| Some(format!("forbidden sysctl: {name:?} not allowlisted"));
        assert_eq!(told("kernel.msgmax", "hostPID", &[], "6.12.0-1"), refused("kernel.msgmax"));
        assert_eq!(told("kernel.msgmax", "hostPID", &["kernel.msg*"], "6.12.0-1"), None);
        assert_eq!(told("net.ipv4.tcp_rmem", "hostPID", &[], "4.15.0-20-generic"), None);
        assert_eq!(told("net.ipv4.tcp_rmem", "hostPID", &[], "4.9.0"), refused("net.ipv4.tcp_rmem"));
    }

    // POD-038, NODE-150: what the pod shares with the host is not its own to set.
    #[test]
    fn sysctls_of_the_hosts_namespaces_may_not_be_set() {
        let (port, shm) = ("net.ipv4.ip_local_port_range", "kernel.shm_rmid_forced");
        let refused = |name: &str, of: &str| Some(format!("forbidden sysctl: {name:?} not allowed with host {of} enabled"));
        assert_eq!(told(port, "hostNetwork", &[], "6.12.0"), refused(port, "net"));
        assert_eq!(told(shm, "hostNetwork", &[], "6.12.0"), None);
        assert_eq!(told(shm, "hostIPC", &[], "6.12.0"), refused(shm, "ipc"));
        assert_eq!(told("net.core.somaxconn", "hostNetwork", &["net.*"], "6.12.0"), refused("net.core.somaxconn", "net"));
    }
}
