//! Decides what a pod is called and what it finds in /etc/hosts.
//! Upstream: pkg/kubelet/kubelet_pods.go (GeneratePodHostNameAndDomain, ensureHostsFile), pkg/kubelet/util/util.go.
//! Differs: nothing on purpose.

use k8s_openapi::api::core::v1::{Pod, PodSpec};

/// The longest host name the kernel takes.
const LONGEST: usize = 63;
/// The longest fully qualified one (NET-002).
const LONGEST_FQDN: usize = 64;

/// A pod's host name and its domain, which is empty without a subdomain (NET-001).
#[must_use]
pub fn hostname_and_domain(pod: &Pod, cluster_domain: &str) -> (String, String) {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    if let Some(name) = spec.hostname_override.as_deref().filter(|n| !n.is_empty()) {
        return (cut(name), String::new());
    }
    let host = spec.hostname.as_deref().filter(|h| !h.is_empty()).map_or_else(|| cut(name), str::to_owned);
    let domain = spec.subdomain.as_deref().filter(|s| !s.is_empty()).map(|subdomain| {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        format!("{subdomain}.{namespace}.svc.{cluster_domain}")
    });
    (host, domain.unwrap_or_default())
}

/// The host name as the sandbox gets it: fully qualified if asked (NET-002); empty on the node's network.
///
/// # Errors
/// A qualified name that the kernel would not take, in upstream's words.
pub fn sandbox_hostname(pod: &Pod, cluster_domain: &str) -> Result<String, String> {
    let spec = pod.spec.as_ref();
    if spec.and_then(|s| s.host_network).unwrap_or(false) {
        return Ok(String::new());
    }
    let (host, domain) = hostname_and_domain(pod, cluster_domain);
    let qualified = spec.and_then(|s| s.set_hostname_as_fqdn).unwrap_or(false) && !domain.is_empty();
    if !qualified {
        return Ok(host);
    }
    let fqdn = format!("{host}.{domain}");
    if fqdn.len() > LONGEST_FQDN {
        return Err(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {fqdn} is too long ({LONGEST_FQDN} characters is the max, {} characters requested)",
            fqdn.len()
        ));
    }
    Ok(fqdn)
}

fn cut(name: &str) -> String {
    name.chars().take(LONGEST).collect::<String>().trim_end_matches(['-', '.']).to_owned()
}

/// The pod's /etc/hosts (NET-004); `node_file` is the node's own, used on the node's network.
#[must_use]
pub fn hosts_file(pod: &Pod, ips: &[String], cluster_domain: &str, node_file: Option<&str>) -> String {
    let mut file = String::new();
    match node_file {
        Some(node_file) => {
            file.push_str("# Kubernetes-managed hosts file (host network).\n");
            file.push_str(node_file);
        }
        None => {
            file.push_str("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
            file.push_str("fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n");
            let (host, domain) = hostname_and_domain(pod, cluster_domain);
            for ip in ips {
                let qualified = if domain.is_empty() { String::new() } else { format!("{host}.{domain}\t") };
                file.push_str(&format!("{ip}\t{qualified}{host}\n"));
            }
        }
    }
    let aliases = pod.spec.as_ref().and_then(|s| s.host_aliases.as_deref()).unwrap_or_default();
    if !aliases.is_empty() {
        file.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            file.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t")));
        }
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        let mut spec = spec;
        spec["containers"] = json!([]);
        serde_json::from_value(json!({"metadata": {"name": "gold-running", "namespace": "default"}, "spec": spec})).unwrap()
    }

    // NET-004: as captured.
    #[test]
    fn hosts_file_is_the_captured_one() {
        let file = hosts_file(&pod(json!({})), &["10.88.5.34".to_owned()], "cluster.local", None);
        assert_eq!(file, include_str!("../../testdata/etc-hosts.txt"));
    }

    // NET-001, NET-002, POD-147
    #[test]
    fn hostname_is_cut_and_qualified() {
        let long = json!({"hostname": "", "subdomain": "sub", "setHostnameAsFQDN": true});
        assert_eq!(sandbox_hostname(&pod(long), "cluster.local").unwrap(), "gold-running.sub.default.svc.cluster.local");
        let mut named = pod(json!({}));
        named.metadata.name = Some(format!("{}-.x", "a".repeat(62)));
        assert_eq!(sandbox_hostname(&named, "").unwrap(), "a".repeat(62));
        // kubelet/util/util.go (GetNodenameForKernel): 64 letters are the most that the kernel takes.
        let qualified = |letters: usize| {
            let subdomain = "s".repeat(letters - "gold-running..default.svc.cluster.local".len());
            sandbox_hostname(&pod(json!({"subdomain": subdomain, "setHostnameAsFQDN": true})), "cluster.local")
        };
        assert_eq!(qualified(64).unwrap().len(), 64);
        let name = format!("gold-running.{}.default.svc.cluster.local", "s".repeat(26));
        let why = format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {name} is too long (64 characters is the max, 65 characters requested)"
        );
        assert_eq!(qualified(65), Err(why));
        assert_eq!(sandbox_hostname(&pod(json!({"hostNetwork": true})), "").unwrap(), "");
    }

    #[test]
    fn aliases_are_appended() {
        let aliased = pod(json!({"hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}));
        let file = hosts_file(&aliased, &[], "", Some("127.0.0.1 localhost\n"));
        assert_eq!(
            file,
            "# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"
        );
    }
}
