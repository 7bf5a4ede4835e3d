//! Decides how a pod resolves names: servers, search domains and options, within the resolver's limits.
//! Upstream: pkg/kubelet/network/dns/dns.go.
//! Differs: nothing on purpose.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodDNSConfig};
use proto::cri::DnsConfig;

use crate::config::Dns;

/// DNS-006
const MOST_SERVERS: usize = 3;
const MOST_SEARCHES: usize = 32;
const LONGEST_SEARCH: usize = 253;
const LONGEST_SEARCH_LINE: usize = 2048;

/// The node's resolver configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// Servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

impl ResolvConf {
    /// Reads a resolv.conf (DNS-007).
    ///
    /// # Errors
    /// A `nameserver` without an address.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut conf = Self::default();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut fields = line.split_whitespace();
            match fields.next() {
                Some("nameserver") => match fields.next() {
                    Some(server) => conf.servers.push(server.to_owned()),
                    None => return Err("nameserver list is empty".to_owned()),
                },
                Some("search") => {
                    let trimmed = |s: &str| s.trim_end_matches('.').to_owned();
                    conf.searches = fields.map(trimmed).filter(|s| !s.is_empty()).collect();
                }
                Some("options") => conf.options = fields.map(str::to_owned).collect(),
                _ => {}
            }
        }
        Ok(conf)
    }
}

/// A pod's DNS configuration, and the warnings that making it caused (reason, message).
#[derive(Clone, Debug, PartialEq)]
pub struct PodDns {
    /// For the sandbox.
    pub config: DnsConfig,
    /// Events.
    pub warnings: Vec<(&'static str, String)>,
}

/// How the pod resolves names (DNS-001 to DNS-006, POD-152). `host` is the node's resolver configuration, `None` if none is set.
#[must_use]
pub fn pod_dns(pod: &Pod, dns: &Dns, host: Option<&ResolvConf>, pod_display: &str) -> PodDns {
    let spec = pod.spec.as_ref();
    let host_network = spec.and_then(|s| s.host_network).unwrap_or(false);
    let mut warnings = Vec::new();
    let policy = match spec.and_then(|s| s.dns_policy.as_deref()).unwrap_or("ClusterFirst") {
        "Default" => "Default",
        "None" => "None",
        "ClusterFirst" if host_network => "Default",
        _ if dns.cluster_dns.is_empty() => {
            warnings.push(("MissingClusterDNS", missing_cluster_dns(pod_display)));
            "Default"
        }
        _ => "Cluster",
    };
    let host = host.cloned().unwrap_or_else(|| ResolvConf {
        servers: vec!["127.0.0.1".to_owned()],
        searches: vec![".".to_owned()],
        options: Vec::new(),
    });
    let mut config = match policy {
        "None" => DnsConfig::default(),
        "Cluster" => cluster_dns(pod, dns, &host),
        _ => DnsConfig { servers: host.servers, searches: host.searches, options: host.options },
    };
    if let Some(own) = spec.and_then(|s| s.dns_config.as_ref()) {
        append(&mut config, own);
    }
    limit(&mut config, &mut warnings);
    PodDns { config, warnings }
}

fn missing_cluster_dns(pod: &str) -> String {
    format!(
        "pod: \"{pod}\". kubelet does not have ClusterDNS IP configured and cannot create Pod using \"ClusterFirst\" policy. Falling back to \"Default\" policy."
    )
}

fn cluster_dns(pod: &Pod, dns: &Dns, host: &ResolvConf) -> DnsConfig {
    let mut searches = Vec::new();
    if !dns.cluster_domain.is_empty() {
        let (domain, namespace) = (&dns.cluster_domain, pod.metadata.namespace.as_deref().unwrap_or_default());
        searches.push(format!("{namespace}.svc.{domain}"));
        searches.push(format!("svc.{domain}"));
        searches.push(domain.clone());
    }
    searches.extend(host.searches.iter().cloned());
    DnsConfig {
        servers: dns.cluster_dns.iter().map(ToString::to_string).collect(),
        searches: once_each(searches),
        options: vec!["ndots:5".to_owned()],
    }
}

/// DNS-005: servers and searches are added, options replace those of the same name.
fn append(config: &mut DnsConfig, own: &PodDNSConfig) {
    config.servers = once_each(config.servers.iter().chain(own.nameservers.iter().flatten()).cloned().collect());
    config.searches = once_each(config.searches.iter().chain(own.searches.iter().flatten()).cloned().collect());
    let split =
        |option: &str| option.split_once(':').map_or((option.to_owned(), None), |(n, v)| (n.to_owned(), Some(v.to_owned())));
    let mut options: BTreeMap<String, Option<String>> = config.options.iter().map(|o| split(o)).collect();
    for option in own.options.iter().flatten() {
        options.insert(option.name.clone().unwrap_or_default(), option.value.clone().filter(|v| !v.is_empty()));
    }
    let joined = |(name, value): (String, Option<String>)| value.map_or(name.clone(), |v| format!("{name}:{v}"));
    config.options = options.into_iter().map(joined).collect();
}

fn once_each(list: Vec<String>) -> Vec<String> {
    let mut once = Vec::new();
    for item in list {
        if !once.contains(&item) {
            once.push(item);
        }
    }
    once
}

fn limit(config: &mut DnsConfig, warnings: &mut Vec<(&'static str, String)>) {
    const REASON: &str = "DNSConfigForming";
    if config.servers.len() > MOST_SERVERS {
        config.servers.truncate(MOST_SERVERS);
        warnings.push((
            REASON,
            format!(
                "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
                config.servers.join(" ")
            ),
        ));
    }
    let before = config.searches.len();
    config.searches.retain(|s| s.len() <= LONGEST_SEARCH);
    config.searches.truncate(MOST_SEARCHES);
    while config.searches.join(" ").len() > LONGEST_SEARCH_LINE {
        config.searches.pop();
    }
    if config.searches.len() < before {
        warnings.push((
            REASON,
            format!(
                "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
                config.searches.join(" ")
            ),
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        let mut spec = spec;
        spec["containers"] = json!([]);
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "default"}, "spec": spec})).unwrap()
    }

    fn cluster() -> Dns {
        let cluster_dns = vec!["10.96.0.10".parse().unwrap()];
        Dns { cluster_dns, cluster_domain: "cluster.local".to_owned(), resolv_conf: String::new() }
    }

    // DNS-001, POD-152: as captured.
    #[test]
    fn cluster_first_asks_the_cluster() {
        let host = ResolvConf::default();
        let config = pod_dns(&pod(json!({})), &cluster(), Some(&host), "p").config;
        assert_eq!(config.servers, ["10.96.0.10"]);
        assert_eq!(config.searches, ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"]);
        assert_eq!(config.options, ["ndots:5"]);
    }

    // DNS-002, DNS-004
    #[test]
    fn without_cluster_dns_the_node_is_asked() {
        let host = ResolvConf::parse("nameserver 1.1.1.1\nsearch a. b\noptions edns0\n# c\n").unwrap();
        let none = Dns { cluster_dns: vec![], cluster_domain: String::new(), resolv_conf: String::new() };
        let dns = pod_dns(&pod(json!({})), &none, Some(&host), "p_default(u)");
        assert_eq!((dns.config.servers, dns.config.searches), (vec!["1.1.1.1".to_owned()], vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(dns.warnings[0].0, "MissingClusterDNS");
    }

    // DNS-003, DNS-005
    #[test]
    fn dns_config_adds_and_overrides() {
        let own =
            json!({"dnsConfig": {"nameservers": ["9.9.9.9"], "searches": ["x"], "options": [{"name": "ndots", "value": "2"}]}});
        let config = pod_dns(&pod(own), &cluster(), None, "p").config;
        assert_eq!(config.servers, ["10.96.0.10", "9.9.9.9"]);
        assert_eq!(config.options, ["ndots:2"]);
        let none = json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["9.9.9.9"]}});
        assert_eq!(pod_dns(&pod(none), &cluster(), None, "p").config.searches, Vec::<String>::new());
    }

    // DNS-006
    #[test]
    fn limits_cut_and_warn() {
        let many = json!({"dnsPolicy": "None", "dnsConfig": {
            "nameservers": ["1.1.1.1", "2.2.2.2", "3.3.3.3", "4.4.4.4"], "searches": (0..40).map(|i| format!("s{i}")).collect::<Vec<_>>()}});
        let dns = pod_dns(&pod(many), &cluster(), None, "p");
        assert_eq!((dns.config.servers.len(), dns.config.searches.len()), (3, 32));
        assert!(dns.warnings[0].1.ends_with("the applied nameserver line is: 1.1.1.1 2.2.2.2 3.3.3.3"));
        assert_eq!(dns.warnings.len(), 2);
    }
}
