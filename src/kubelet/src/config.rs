//! The settings that decisions need, resolved: every default applied, every text parsed, nothing optional that a decision reads.
//! Upstream: pkg/kubelet/apis/config/types.go and cmd/kubelet/app/options/options.go (KubeletFlags).
//! Differs: one value of plain types; what only the I/O side reads (listeners, TLS, endpoints, files) is not in it.

mod eviction;
mod resources;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;
use serde::{Deserialize, Serialize};

pub use eviction::{Eviction, Signal, Threshold, ThresholdValue};
pub use resources::{
    CgroupDriver, Cgroups, CpuManagerPolicy, Enforcement, Managers, MemoryManagerPolicy, MemoryReservationPolicy, Reserved,
    ReservedMemory, SwapBehavior, TopologyManagerPolicy, TopologyManagerScope,
};

use crate::feature_gates::FeatureGates;
use crate::sensitive::Sensitive;

/// Everything that the core decides by and that does not change while the agent runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Who this node is and how it reports itself.
    pub node: Node,
    /// Where things are on this machine.
    pub paths: Paths,
    /// Where pods come from besides the API server.
    pub static_pods: StaticPods,
    /// How pods are run.
    pub pods: Pods,
    /// How names are resolved in pods.
    pub dns: Dns,
    /// Pulling, keeping and collecting images.
    pub images: Images,
    /// Rotation of container logs.
    pub container_logs: ContainerLogs,
    /// How many dead containers are kept.
    pub container_gc: ContainerGc,
    /// The cgroup hierarchy.
    pub cgroups: Cgroups,
    /// What is kept from pods.
    pub reserved: Reserved,
    /// CPU, memory and topology managers.
    pub managers: Managers,
    /// When pods are evicted.
    pub eviction: Eviction,
    /// Graceful node shutdown.
    pub shutdown: Shutdown,
    /// Events to the API server.
    pub events: EventLimits,
    /// Feature gates.
    pub gates: FeatureGates,
}

/// Who this node is and how it reports itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// The name: `--hostname-override` or the host's name, trimmed and lower-cased (NODE-003).
    pub name: Arc<str>,
    /// `--node-ip`: none, one, or one per family; `0.0.0.0` or `::` only prefers a family (NODE-082).
    pub ips: Vec<IpAddr>,
    /// `--node-labels`.
    pub labels: BTreeMap<String, String>,
    /// `registerWithTaints`.
    pub register_with_taints: Vec<Taint>,
    /// Whether the node object is created.
    pub register: bool,
    /// Whether there is no API server: no `--kubeconfig` (NODE-002).
    pub standalone: bool,
    /// `--cloud-provider=external`.
    pub external_cloud_provider: bool,
    /// `providerID`; empty if not set.
    pub provider_id: String,
    /// `podCIDR`, read when standalone; empty if not set.
    pub pod_cidr: String,
    /// The HTTPS port, reported in `daemonEndpoints` (NODE-089).
    pub port: u16,
    /// How often status is computed.
    pub status_update_frequency: Duration,
    /// How often status is sent when nothing changed.
    pub status_report_frequency: Duration,
    /// How many images the status names; `None` is all.
    pub status_max_images: Option<usize>,
    /// The lease's duration; it is renewed each quarter of it.
    pub lease_duration: Duration,
    /// Whether the attach/detach controller attaches volumes.
    pub enable_controller_attach_detach: bool,
    /// Whether iptables hints are maintained (NODE-012).
    pub make_iptables_util_chains: bool,
    /// Whether swap on the machine is fatal.
    pub fail_swap_on: bool,
    /// Whether a host with cgroup v1 is fatal (NODE-028).
    pub fail_cgroup_v1: bool,
    /// Whether kernel parameters that differ from what is expected are fatal.
    pub protect_kernel_defaults: bool,
    /// How often usage of containers is sampled (`--housekeeping-interval`).
    pub stats_interval: Duration,
    /// How often the usage of volumes is computed; `None` is never.
    pub volume_stats_period: Option<Duration>,
}

/// Where things are on this machine. Absolute paths.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paths {
    /// `--root-dir`.
    pub root: String,
    /// `podLogsDir`.
    pub pod_logs: String,
    /// Where the legacy symbolic links to container logs go.
    pub container_logs: String,
    /// `volumePluginDir`.
    pub volume_plugins: String,
    /// The directory that the agent runs in; `None` if that does not matter.
    pub working: Option<String>,
    /// The home of the user that it runs as; `None` if there is none.
    pub home: Option<String>,
}

/// Where pods come from besides the API server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StaticPods {
    /// `staticPodPath`: a directory or one file; `None` if not set.
    pub path: Option<String>,
    /// How often it is read.
    pub file_check_frequency: Duration,
    /// `staticPodURL`; `None` if not set.
    pub url: Option<String>,
    /// Headers to send there; they may hold credentials.
    pub url_headers: Sensitive<BTreeMap<String, Vec<String>>>,
    /// How often it is asked.
    pub http_check_frequency: Duration,
}

/// How pods are run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pods {
    /// `maxPods`.
    pub max: u32,
    /// `podsPerCore`; 0 is no such limit.
    pub per_core: u32,
    /// `podPidsLimit`; `None` is no limit per pod.
    pub pids_limit: Option<u64>,
    /// How long a pod that nothing happens to waits to be looked at again.
    pub sync_frequency: Duration,
    /// The longest wait between two restarts of a container.
    pub max_container_restart_period: Duration,
    /// How changes of ConfigMaps and Secrets are found.
    pub change_detection: ChangeDetection,
    /// Whether CPU limits become quotas.
    pub cpu_cfs_quota: bool,
    /// The quota's period.
    pub cpu_cfs_quota_period: Duration,
    /// Whether the runtime's seccomp profile is what containers get that name none.
    pub seccomp_default: bool,
    /// Sysctls allowed beyond the safe ones; a trailing `*` matches the rest.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Whether use of local storage is limited and reported.
    pub local_storage_capacity_isolation: bool,
    /// How much swap pods may use.
    pub swap_behavior: SwapBehavior,
    /// Where memory.high lies between request and limit (NODE-139).
    pub memory_throttling_factor: f64,
    /// Whether requests become memory.min and memory.low (NODE-139).
    pub memory_reservation_policy: MemoryReservationPolicy,
    /// Whether an out-of-memory kill ends one process of a container only.
    pub single_process_oom_kill: bool,
    /// How many user and group IDs a pod with its own user namespace gets.
    pub user_namespace_ids_per_pod: u32,
    /// How long a request to the runtime may take, pulls and streams aside.
    pub runtime_request_timeout: Duration,
}

/// How changes of ConfigMaps and Secrets are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChangeDetection {
    /// A watch per object.
    Watch,
    /// A cache whose entries age.
    Cache,
    /// A request each time.
    Get,
}

/// How names are resolved in pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// The cluster's servers.
    pub cluster_dns: Vec<IpAddr>,
    /// The cluster's domain; empty if none.
    pub cluster_domain: String,
    /// The resolv.conf that pods start from; empty is none.
    pub resolv_conf: String,
}

/// Pulling, keeping and collecting images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Images {
    /// How many pulls run at once; `None` is no limit. One if pulls are serialized.
    pub max_parallel_pulls: Option<u32>,
    /// How many pulls start each second on average; 0 is no limit.
    pub pull_qps: u32,
    /// How many pulls may start at once.
    pub pull_burst: u32,
    /// Use of the image filesystem, in percent, above which images are collected.
    pub gc_high_threshold_percent: u8,
    /// Use of the image filesystem, in percent, down to which they are.
    pub gc_low_threshold_percent: u8,
    /// How long an image stays unused before it may be collected.
    pub gc_min_age: Duration,
    /// How long an image may stay unused at all; `None` is for ever.
    pub gc_max_age: Option<Duration>,
    /// Whether it is kept who pulled which image (`KubeletEnsureSecretPulledImages`): else every pod may use what is there.
    pub pulls_are_recorded: bool,
    /// When a pod must show credentials for an image that is there.
    pub credentials_verification: CredentialsVerification,
    /// Images that need none under `NeverVerifyAllowlistedImages`.
    pub preloaded_allowlist: Vec<String>,
    /// Plugins that give credentials, in their order.
    pub credential_providers: Vec<CredentialProvider>,
}

/// A credential provider plugin (POD-206).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CredentialProvider {
    /// Its name.
    pub name: String,
    /// Its path.
    pub executable: String,
    /// Of its requests and answers.
    pub api_version: String,
    /// The images that it is asked about; hosts may have globs.
    pub match_images: Vec<String>,
    /// How long an answer counts that does not say so itself.
    pub default_cache_duration: Duration,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// What its environment has besides the agent's.
    pub environment: Sensitive<Vec<(String, String)>>,
}

/// When a pod must show credentials for an image that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CredentialsVerification {
    /// Never.
    NeverVerify,
    /// Unless the agent did not pull the image.
    NeverVerifyPreloadedImages,
    /// Unless the image is on the list.
    NeverVerifyAllowlistedImages,
    /// Always.
    AlwaysVerify,
}

/// Rotation of container logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerLogs {
    /// The size in bytes from which a file is rotated; `None` is never.
    pub max_size: Option<u64>,
    /// How many files a container may have.
    pub max_files: u32,
    /// How many rotations run at once.
    pub max_workers: u32,
    /// How often sizes are looked at.
    pub monitor_interval: Duration,
}

/// How many dead containers are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerGc {
    /// How old a dead container must be.
    pub min_age: Duration,
    /// How many are kept per container of a pod; `None` is all.
    pub max_per_container: Option<u32>,
    /// How many are kept in all; `None` is no limit.
    pub max_total: Option<u32>,
}

/// Graceful node shutdown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shutdown {
    /// How long pods of a priority and above have, ascending by priority. Empty if the machine's shutdown is not delayed.
    pub grace_by_priority: Vec<(i32, Duration)>,
}

/// The priority from which a pod is critical to the cluster; upstream's SystemCriticalPriority.
const SYSTEM_CRITICAL_PRIORITY: i32 = 2_000_000_000;

impl Shutdown {
    /// Turns the pair of periods into the list by priority that it stands for: ordinary pods get what critical ones leave.
    /// Upstream: migrateConfig in pkg/kubelet/nodeshutdown/nodeshutdown_manager.go.
    #[must_use]
    pub fn from_periods(total: Duration, critical: Duration) -> Self {
        let Some(ordinary) = total.checked_sub(critical) else { return Self { grace_by_priority: Vec::new() } };
        if total.is_zero() {
            return Self { grace_by_priority: Vec::new() };
        }
        Self { grace_by_priority: vec![(0, ordinary), (SYSTEM_CRITICAL_PRIORITY, critical)] }
    }
}

/// Events to the API server: a token bucket over all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventLimits {
    /// Events each second on average; 0 is the client's default of 5.
    pub qps: u32,
    /// Events at once.
    pub burst: u32,
}

impl Config {
    /// A node of this name that was given nothing but an empty configuration file: upstream's defaults.
    #[must_use]
    pub fn new(node_name: &str) -> Self {
        Self {
            node: Node::new(node_name),
            paths: Paths {
                root: "/var/lib/kubelet".to_owned(),
                pod_logs: "/var/log/pods".to_owned(),
                container_logs: "/var/log/containers".to_owned(),
                volume_plugins: "/usr/libexec/kubernetes/kubelet-plugins/volume/exec/".to_owned(),
                working: None,
                home: None,
            },
            static_pods: StaticPods {
                path: None,
                file_check_frequency: Duration::from_secs(20),
                url: None,
                url_headers: Sensitive::default(),
                http_check_frequency: Duration::from_secs(20),
            },
            pods: Pods::default(),
            dns: Dns { cluster_dns: Vec::new(), cluster_domain: String::new(), resolv_conf: "/etc/resolv.conf".to_owned() },
            images: Images {
                max_parallel_pulls: Some(1),
                pull_qps: 5,
                pull_burst: 10,
                gc_high_threshold_percent: 85,
                gc_low_threshold_percent: 80,
                gc_min_age: Duration::from_mins(2),
                gc_max_age: None,
                pulls_are_recorded: true,
                credentials_verification: CredentialsVerification::NeverVerifyPreloadedImages,
                preloaded_allowlist: Vec::new(),
                credential_providers: Vec::new(),
            },
            container_logs: ContainerLogs {
                max_size: Some(10 << 20),
                max_files: 5,
                max_workers: 1,
                monitor_interval: Duration::from_secs(10),
            },
            container_gc: ContainerGc { min_age: Duration::ZERO, max_per_container: Some(1), max_total: None },
            cgroups: Cgroups::default(),
            reserved: Reserved::default(),
            managers: Managers::default(),
            eviction: Eviction::default(),
            shutdown: Shutdown { grace_by_priority: Vec::new() },
            events: EventLimits { qps: 50, burst: 100 },
            gates: FeatureGates::default(),
        }
    }
}

impl Node {
    fn new(name: &str) -> Self {
        Self {
            name: Arc::from(name),
            ips: Vec::new(),
            labels: BTreeMap::new(),
            register_with_taints: Vec::new(),
            register: true,
            standalone: false,
            external_cloud_provider: false,
            provider_id: String::new(),
            pod_cidr: String::new(),
            port: 10250,
            status_update_frequency: Duration::from_secs(10),
            status_report_frequency: Duration::from_mins(5),
            status_max_images: Some(50),
            lease_duration: Duration::from_secs(40),
            enable_controller_attach_detach: true,
            make_iptables_util_chains: true,
            fail_swap_on: true,
            fail_cgroup_v1: true,
            protect_kernel_defaults: false,
            stats_interval: Duration::from_secs(10),
            volume_stats_period: Some(Duration::from_mins(1)),
        }
    }
}

impl Default for Pods {
    fn default() -> Self {
        Self {
            max: 110,
            per_core: 0,
            pids_limit: None,
            sync_frequency: Duration::from_mins(1),
            max_container_restart_period: Duration::from_mins(5),
            change_detection: ChangeDetection::Watch,
            cpu_cfs_quota: true,
            cpu_cfs_quota_period: Duration::from_millis(100),
            seccomp_default: false,
            allowed_unsafe_sysctls: Vec::new(),
            local_storage_capacity_isolation: true,
            swap_behavior: SwapBehavior::NoSwap,
            memory_throttling_factor: 0.9,
            memory_reservation_policy: MemoryReservationPolicy::None,
            single_process_oom_kill: false,
            user_namespace_ids_per_pod: 65536,
            runtime_request_timeout: Duration::from_mins(2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shutdown_periods_become_two_priorities() {
        let shutdown = Shutdown::from_periods(Duration::from_secs(30), Duration::from_secs(10));
        assert_eq!(shutdown.grace_by_priority, [(0, Duration::from_secs(20)), (2_000_000_000, Duration::from_secs(10))]);
        assert!(Shutdown::from_periods(Duration::ZERO, Duration::ZERO).grace_by_priority.is_empty());
    }

    #[test]
    fn a_recorded_config_reads_back_equal() {
        let config = Config::new("worker-1");
        let text = serde_json::to_string(&config).expect("plain data");
        assert_eq!(serde_json::from_str::<Config>(&text).expect("what was written"), config);
    }
}
