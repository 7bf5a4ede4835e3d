//! Decides how a pod resolves names: servers, search domains and options, within the resolver's limits.
//! Upstream: pkg/kubelet/network/dns/dns.go.
//! Differs: nothing on purpose.

use std::collections::BTreeMap;
use std::net::IpAddr;

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
    /// Reads a resolv.conf (DNS-007): `nameserver` lines add up, of `search` lines the last counts, of options the last of each name.
    ///
    /// # Errors
    /// A `nameserver` without an address.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut conf = Self::default();
        let mut options: BTreeMap<&str, &str> = BTreeMap::new();
        // A comment is a whole line, as for resolvers.
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
            let mut fields = line.split_whitespace();
            match fields.next() {
                Some("nameserver") => match fields.next() {
                    Some(server) => conf.servers.push(server.to_owned()),
                    None => {
                        return Err("Encountered error while parsing resolv conf file. Error: nameserver list is empty ".to_owned());
                    }
                },
                Some("search") => {
                    let trimmed = |s: &str| s.strip_suffix('.').unwrap_or(s).to_owned();
                    conf.searches = fields.filter(|s| *s != ".").map(trimmed).collect();
                }
                Some("options") => options.extend(fields.map(|option| (name_of_option(option), option))),
                _ => {}
            }
        }
        conf.options = options.into_values().map(str::to_owned).collect();
        Ok(conf)
    }

    /// What the node's own search line has too much of, as the node's event `CheckLimitsForResolvConf` says it (DNS-008).
    #[must_use]
    pub fn beyond_limits(&self, dns: &Dns) -> Option<String> {
        let most = MOST_SEARCHES - if dns.cluster_domain.is_empty() { 0 } else { 3 };
        let file = &dns.resolv_conf;
        if self.searches.len() > most {
            return Some(format!("Resolv.conf file '{file}' contains search line consisting of more than {most} domains!"));
        }
        if self.searches.iter().any(|search| search.len() > LONGEST_SEARCH) {
            return Some(format!(
                "Resolv.conf file \"{file}\" contains a search path which length is more than allowed {LONGEST_SEARCH} chars!"
            ));
        }
        (self.searches.join(" ").len() > LONGEST_SEARCH_LINE).then(|| {
            format!("Resolv.conf file '{file}' contains search line which length is more than allowed {LONGEST_SEARCH_LINE} chars!")
        })
    }
}

/// What an option such as `ndots:5` is told from others by.
fn name_of_option(option: &str) -> &str {
    option.split(':').next().unwrap_or(option)
}

/// A pod's DNS configuration, and the warnings that making it caused (reason, message).
#[derive(Clone, Debug, PartialEq)]
pub struct PodDns {
    /// For the sandbox.
    pub config: DnsConfig,
    /// Events of the node.
    pub node_warnings: Vec<(&'static str, String)>,
    /// Events of the pod.
    pub warnings: Vec<(&'static str, String)>,
}

/// How the pod resolves names (DNS-001 to DNS-006, POD-152). `host` is the node's resolver configuration, `None` if none is set;
/// `node_ips` are the addresses that the node was told to have.
#[must_use]
pub fn pod_dns(pod: &Pod, dns: &Dns, host: Option<&ResolvConf>, node_ips: &[IpAddr], pod_display: &str) -> PodDns {
    let spec = pod.spec.as_ref();
    let host_network = spec.and_then(|s| s.host_network).unwrap_or(false);
    let mut made = PodDns { config: DnsConfig::default(), node_warnings: Vec::new(), warnings: Vec::new() };
    let wants_cluster = match spec.and_then(|s| s.dns_policy.as_deref()).unwrap_or("ClusterFirst") {
        "None" => None,
        "Default" => Some(false),
        "ClusterFirst" if host_network => Some(false),
        _ => Some(true),
    };
    made.config = match wants_cluster {
        None => DnsConfig::default(),
        Some(true) if !dns.cluster_dns.is_empty() => cluster_dns(pod, dns, host),
        Some(wanted) => {
            if wanted {
                made.node_warnings.push(("MissingClusterDNS", MISSING_CLUSTER_DNS.to_owned()));
                made.warnings.push(("MissingClusterDNS", format!("pod: \"{pod_display}\". {MISSING_CLUSTER_DNS}")));
            }
            host.map_or_else(|| this_machine(node_ips), of_host)
        }
    };
    if let Some(own) = spec.and_then(|s| s.dns_config.as_ref()) {
        append(&mut made.config, own);
    }
    limit(&mut made.config, &mut made.warnings);
    made
}

const MISSING_CLUSTER_DNS: &str = "kubelet does not have ClusterDNS IP configured and cannot create Pod using \"ClusterFirst\" \
                                   policy. Falling back to \"Default\" policy.";

fn of_host(host: &ResolvConf) -> DnsConfig {
    DnsConfig { servers: host.servers.clone(), searches: host.searches.clone(), options: host.options.clone() }
}

/// Without a resolver configuration, names are asked of a server on the node itself, in each of its families.
fn this_machine(node_ips: &[IpAddr]) -> DnsConfig {
    let mut servers: Vec<String> =
        node_ips.iter().map(|ip| if ip.is_ipv6() { "::1".to_owned() } else { "127.0.0.1".to_owned() }).collect();
    if servers.is_empty() {
        servers.push("127.0.0.1".to_owned());
    }
    DnsConfig { servers, searches: vec![".".to_owned()], options: Vec::new() }
}

fn cluster_dns(pod: &Pod, dns: &Dns, host: Option<&ResolvConf>) -> DnsConfig {
    let mut searches: Vec<String> = host.map(|host| host.searches.clone()).unwrap_or_default();
    if !dns.cluster_domain.is_empty() {
        let (domain, namespace) = (&dns.cluster_domain, pod.metadata.namespace.as_deref().unwrap_or_default());
        let own = [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
        searches = once_each(own.into_iter().chain(searches).collect());
    }
    DnsConfig { servers: dns.cluster_dns.iter().map(ToString::to_string).collect(), searches, options: vec!["ndots:5".to_owned()] }
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
    config.searches.truncate(MOST_SEARCHES);
    config.searches.retain(|s| s.len() <= LONGEST_SEARCH);
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
        let config = pod_dns(&pod(json!({})), &cluster(), Some(&host), &[], "p").config;
        assert_eq!(config.servers, ["10.96.0.10"]);
        assert_eq!(config.searches, ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"]);
        assert_eq!(config.options, ["ndots:5"]);
    }

    // DNS-002, DNS-004
    #[test]
    fn without_cluster_dns_the_node_is_asked() {
        let host = ResolvConf::parse("nameserver 1.1.1.1\nsearch a. b\noptions edns0\n# c\n").unwrap();
        let none = Dns { cluster_dns: vec![], cluster_domain: String::new(), resolv_conf: String::new() };
        let dns = pod_dns(&pod(json!({})), &none, Some(&host), &[], "p_default(u)");
        assert_eq!((dns.config.servers, dns.config.searches), (vec!["1.1.1.1".to_owned()], vec!["a".to_owned(), "b".to_owned()]));
        let told = "kubelet does not have ClusterDNS IP configured and cannot create Pod using \"ClusterFirst\" policy. \
                    Falling back to \"Default\" policy.";
        assert_eq!(dns.node_warnings, [("MissingClusterDNS", told.to_owned())]);
        assert_eq!(dns.warnings, [("MissingClusterDNS", format!("pod: \"p_default(u)\". {told}"))]);
    }

    // DNS-002: pkg/kubelet/network/dns/dns.go (GetPodDNS), the branch of an empty ResolverConfig.
    #[test]
    fn without_a_resolv_conf_the_node_itself_is_asked_in_its_families() {
        let nowhere = Dns { resolv_conf: String::new(), ..cluster() };
        let host_type = pod(json!({"dnsPolicy": "Default"}));
        let ips = ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let config = pod_dns(&host_type, &nowhere, None, &ips, "p").config;
        assert_eq!((config.servers, config.searches), (vec!["127.0.0.1".to_owned(), "::1".to_owned()], vec![".".to_owned()]));
        assert_eq!(pod_dns(&host_type, &nowhere, None, &[], "p").config.servers, ["127.0.0.1"]);
        // The search domain is not that of a pod that asks the cluster.
        let config = pod_dns(&pod(json!({})), &nowhere, None, &[], "p").config;
        assert_eq!(config.searches, ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"]);
    }

    // DNS-007: dns.go (parseResolvConf, appendOptions) and the cases of dns_test.go (TestParseResolvConf).
    #[test]
    fn options_of_all_lines_count_and_the_last_search_line() {
        let text = "# a\nnameserver 1.2.3.4\n nameserver  5.6.7.8 # not a comment\nsearch a\nsearch b. . c..\n\
                    options ndots:5 debug\noptions ndots:2 attempts:3\n";
        let conf = ResolvConf::parse(text).unwrap();
        assert_eq!(conf.servers, ["1.2.3.4", "5.6.7.8"]);
        assert_eq!(conf.searches, ["b", "c."]);
        assert_eq!(conf.options, ["attempts:3", "debug", "ndots:2"]);
        assert!(ResolvConf::parse("nameserver\n").unwrap_err().contains("nameserver list is empty"));
    }

    // DNS-008: dns.go (CheckLimitsForResolvConf).
    #[test]
    fn search_line_of_the_node_beyond_the_limits_is_told() {
        let conf = |searches: Vec<String>| ResolvConf { searches, ..ResolvConf::default() };
        let dns = Dns { resolv_conf: "/etc/resolv.conf".to_owned(), ..cluster() };
        assert_eq!(conf(vec!["a".to_owned(); 29]).beyond_limits(&dns), None);
        assert_eq!(
            conf(vec!["a".to_owned(); 30]).beyond_limits(&dns).unwrap(),
            "Resolv.conf file '/etc/resolv.conf' contains search line consisting of more than 29 domains!"
        );
        assert_eq!(
            conf(vec!["a".repeat(254)]).beyond_limits(&dns).unwrap(),
            "Resolv.conf file \"/etc/resolv.conf\" contains a search path which length is more than allowed 253 chars!"
        );
        assert_eq!(
            conf(vec!["a".repeat(250); 9]).beyond_limits(&dns).unwrap(),
            "Resolv.conf file '/etc/resolv.conf' contains search line which length is more than allowed 2048 chars!"
        );
    }

    // DNS-003, DNS-005
    #[test]
    fn dns_config_adds_and_overrides() {
        let own =
            json!({"dnsConfig": {"nameservers": ["9.9.9.9"], "searches": ["x"], "options": [{"name": "ndots", "value": "2"}]}});
        let config = pod_dns(&pod(own), &cluster(), None, &[], "p").config;
        assert_eq!(config.servers, ["10.96.0.10", "9.9.9.9"]);
        assert_eq!(config.options, ["ndots:2"]);
        let none = json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["9.9.9.9"]}});
        assert_eq!(pod_dns(&pod(none), &cluster(), None, &[], "p").config.searches, Vec::<String>::new());
    }

    // DNS-006
    #[test]
    fn limits_cut_and_warn() {
        let many = json!({"dnsPolicy": "None", "dnsConfig": {
            "nameservers": ["1.1.1.1", "2.2.2.2", "3.3.3.3", "4.4.4.4"], "searches": (0..40).map(|i| format!("s{i}")).collect::<Vec<_>>()}});
        let dns = pod_dns(&pod(many), &cluster(), None, &[], "p");
        assert_eq!((dns.config.servers.len(), dns.config.searches.len()), (3, 32));
        assert!(dns.warnings[0].1.ends_with("the applied nameserver line is: 1.1.1.1 2.2.2.2 3.3.3.3"));
        assert_eq!(dns.warnings.len(), 2);
        // dns.go (formDNSSearchFitsLimits): what is too long is left out after the cut at 32, and makes no room for a 33rd.
        let mut searches: Vec<String> = (0..33).map(|i| format!("s{i}")).collect();
        searches[0] = "x".repeat(254);
        let long = json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": searches}});
        let dns = pod_dns(&pod(long), &cluster(), None, &[], "p");
        assert_eq!((dns.config.searches.len(), dns.config.searches[30].as_str()), (31, "s31"));
    }
}
