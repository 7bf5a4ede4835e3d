//! The fields of KubeletConfiguration v1beta1, as 1.36 has them.
//! Upstream: staging/src/k8s.io/kubelet/config/v1beta1/types.go, component-base/logs/api/v1, component-base/tracing/api/v1.
//! Differs: the values of staticPodURLHeader are never written, also not to /configz.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Taint;
use kubelet::sensitive::Sensitive;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::duration::GoDuration;

/// Whether Go's `omitempty` leaves a field out.
trait Unset {
    fn unset(&self) -> bool {
        false
    }
    /// The same for what a pointer, slice or map that is not nil holds.
    fn empty(&self) -> bool {
        false
    }
}

impl Unset for String {
    fn unset(&self) -> bool {
        self.is_empty()
    }
}
impl Unset for bool {
    fn unset(&self) -> bool {
        !self
    }
}
impl Unset for i32 {
    fn unset(&self) -> bool {
        *self == 0
    }
}
impl Unset for i64 {
    fn unset(&self) -> bool {
        *self == 0
    }
}
impl<T> Unset for Vec<T> {
    fn unset(&self) -> bool {
        self.is_empty()
    }
    fn empty(&self) -> bool {
        self.is_empty()
    }
}
impl<K, V> Unset for BTreeMap<K, V> {
    fn unset(&self) -> bool {
        self.is_empty()
    }
    fn empty(&self) -> bool {
        self.is_empty()
    }
}
impl<T: Unset> Unset for Option<T> {
    fn unset(&self) -> bool {
        self.as_ref().is_none_or(Unset::empty)
    }
}
impl Unset for Headers {
    fn unset(&self) -> bool {
        self.0.reveal().is_empty()
    }
}
// Structs are never empty to `omitempty`, durations are structs, and these numbers are only met behind a pointer or required.
impl Unset for GoDuration {}
impl Unset for f64 {}
impl Unset for FlushFrequency {}

/// The keys of a struct, in their order.
#[cfg(test)]
pub(super) trait Fields {
    const FIELDS: &[&str];
}

/// Declares structs as Go does: every field with its key; unset ones are not written.
macro_rules! versioned {
    ($($(#[$doc:meta])* pub struct $name:ident { $($(#[$field_doc:meta])* $field:ident : $kind:ty = $key:literal),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct $name {$(
            $(#[$field_doc])*
            #[serde(rename = $key, skip_serializing_if = "Unset::unset")]
            pub $field: $kind,
        )*}

        impl Unset for $name {}

        #[cfg(test)]
        impl Fields for $name {
            const FIELDS: &[&str] = &[$($key),*];
        }
    )*};
}

versioned! {
    /// The settings that nodes may share. As in Go, a plain field that is zero and an `Option` that is `None` are not set.
    pub struct KubeletConfiguration {
        /// `kubelet.config.k8s.io/v1beta1`.
        api_version: String = "apiVersion",
        /// `KubeletConfiguration`.
        kind: String = "kind",
        // Server
        /// Whether the HTTPS server runs.
        enable_server: Option<bool> = "enableServer",
        /// The address that the HTTPS server listens on.
        address: String = "address",
        /// Its port.
        port: i32 = "port",
        /// The port without authentication; 0 is none.
        read_only_port: i32 = "readOnlyPort",
        /// The port of healthz; 0 is none.
        healthz_port: Option<i32> = "healthzPort",
        /// The address of healthz.
        healthz_bind_address: String = "healthzBindAddress",
        /// Whether logs, exec and the like are served.
        enable_debugging_handlers: Option<bool> = "enableDebuggingHandlers",
        /// Whether the node's logs are served.
        enable_system_log_handler: Option<bool> = "enableSystemLogHandler",
        /// Whether the node's logs may be queried.
        enable_system_log_query: Option<bool> = "enableSystemLogQuery",
        /// Whether profiles are served.
        enable_profiling_handler: Option<bool> = "enableProfilingHandler",
        /// Whether the verbosity can be changed by a request.
        enable_debug_flags_handler: Option<bool> = "enableDebugFlagsHandler",
        /// Whether contention is profiled.
        enable_contention_profiling: bool = "enableContentionProfiling",
        /// How long a stream may be idle.
        streaming_connection_idle_timeout: GoDuration = "streamingConnectionIdleTimeout",
        /// The minor version whose hidden metrics are shown.
        show_hidden_metrics_for_version: String = "showHiddenMetricsForVersion",
        // Security
        /// The serving certificate.
        tls_cert_file: String = "tlsCertFile",
        /// Its key.
        tls_private_key_file: String = "tlsPrivateKeyFile",
        /// Cipher suites of TLS 1.2, by their names in Go.
        tls_cipher_suites: Vec<String> = "tlsCipherSuites",
        /// Key exchange groups, by number.
        tls_curve_preferences: Vec<i32> = "tlsCurvePreferences",
        /// `VersionTLS12` or `VersionTLS13`.
        tls_min_version: String = "tlsMinVersion",
        /// Whether the client certificate is renewed.
        rotate_certificates: bool = "rotateCertificates",
        /// Whether the serving certificate is requested from the API server.
        server_tls_bootstrap: bool = "serverTLSBootstrap",
        /// How requests are authenticated.
        authentication: Authentication = "authentication",
        /// How requests are authorized.
        authorization: Authorization = "authorization",
        /// Whether RuntimeDefault is the default seccomp profile.
        seccomp_default: Option<bool> = "seccompDefault",
        /// Whether kernel parameters that differ are fatal.
        protect_kernel_defaults: bool = "protectKernelDefaults",
        /// Sysctls that pods may set beyond the safe ones.
        allowed_unsafe_sysctls: Vec<String> = "allowedUnsafeSysctls",
        // Pod sources
        /// A directory of static pods, or one file.
        static_pod_path: String = "staticPodPath",
        /// A URL of static pods.
        static_pod_url: String = "staticPodURL",
        /// Headers to send there.
        static_pod_url_header: Headers = "staticPodURLHeader",
        /// How often static pod files are read.
        file_check_frequency: GoDuration = "fileCheckFrequency",
        /// How often the URL is asked.
        http_check_frequency: GoDuration = "httpCheckFrequency",
        /// The longest time between two looks at a pod.
        sync_frequency: GoDuration = "syncFrequency",
        /// `Watch`, `Cache` or `Get`.
        config_map_and_secret_change_detection_strategy: String = "configMapAndSecretChangeDetectionStrategy",
        /// Not supported any more.
        run_once: bool = "runOnce",
        // Node
        /// Whether the node object is created.
        register_node: Option<bool> = "registerNode",
        /// Taints of a new node.
        register_with_taints: Vec<Taint> = "registerWithTaints",
        /// How often status is computed.
        node_status_update_frequency: GoDuration = "nodeStatusUpdateFrequency",
        /// How often unchanged status is sent.
        node_status_report_frequency: GoDuration = "nodeStatusReportFrequency",
        /// The lease's duration.
        node_lease_duration_seconds: i32 = "nodeLeaseDurationSeconds",
        /// How many images status names; -1 is all.
        node_status_max_images: Option<i32> = "nodeStatusMaxImages",
        /// The node's ID at its cloud provider.
        provider_id: String = "providerID",
        /// Pod addresses of a standalone node.
        pod_cidr: String = "podCIDR",
        /// The DNS domain.
        cluster_domain: String = "clusterDomain",
        /// DNS servers for pods.
        cluster_dns: Vec<String> = "clusterDNS",
        /// The resolv.conf that pods start from.
        resolver_config: Option<String> = "resolvConf",
        /// Whether the controller attaches volumes.
        enable_controller_attach_detach: Option<bool> = "enableControllerAttachDetach",
        /// How many pods run here.
        max_pods: i32 = "maxPods",
        /// How many pods run per core; 0 is no limit.
        pods_per_core: i32 = "podsPerCore",
        /// Processes per pod; -1 is no limit.
        pod_pids_limit: Option<i64> = "podPidsLimit",
        /// How many files the agent may open.
        max_open_files: i64 = "maxOpenFiles",
        /// `promiscuous-bridge`, `hairpin-veth` or `none`.
        hairpin_mode: String = "hairpinMode",
        /// Whether iptables hints are maintained.
        make_iptables_util_chains: Option<bool> = "makeIPTablesUtilChains",
        /// Unused since 1.28.
        iptables_masquerade_bit: Option<i32> = "iptablesMasqueradeBit",
        /// Unused since 1.28.
        iptables_drop_bit: Option<i32> = "iptablesDropBit",
        // API client
        /// The content type of requests.
        content_type: String = "contentType",
        /// Requests each second.
        kube_api_qps: Option<i32> = "kubeAPIQPS",
        /// Requests at once.
        kube_api_burst: i32 = "kubeAPIBurst",
        /// Events each second.
        event_record_qps: Option<i32> = "eventRecordQPS",
        /// Events at once.
        event_burst: i32 = "eventBurst",
        // Images
        /// Pulls each second; 0 is no limit.
        registry_pull_qps: Option<i32> = "registryPullQPS",
        /// Pulls at once.
        registry_burst: i32 = "registryBurst",
        /// Whether images are pulled one at a time.
        serialize_image_pulls: Option<bool> = "serializeImagePulls",
        /// How many pulls run at once.
        max_parallel_image_pulls: Option<i32> = "maxParallelImagePulls",
        /// How long an image is unused before it may go.
        image_minimum_gc_age: GoDuration = "imageMinimumGCAge",
        /// How long an image may be unused; 0 is for ever.
        image_maximum_gc_age: GoDuration = "imageMaximumGCAge",
        /// Disk use above which images go.
        image_gc_high_threshold_percent: Option<i32> = "imageGCHighThresholdPercent",
        /// Disk use down to which they go.
        image_gc_low_threshold_percent: Option<i32> = "imageGCLowThresholdPercent",
        /// When a present image needs credentials.
        image_pull_credentials_verification_policy: String = "imagePullCredentialsVerificationPolicy",
        /// Images that need none.
        preloaded_images_verification_allowlist: Vec<String> = "preloadedImagesVerificationAllowlist",
        // Runtime
        /// The runtime's socket.
        container_runtime_endpoint: String = "containerRuntimeEndpoint",
        /// The image service's socket; the runtime's if empty.
        image_service_endpoint: String = "imageServiceEndpoint",
        /// How long a request to it may take.
        runtime_request_timeout: GoDuration = "runtimeRequestTimeout",
        /// The size from which a log is rotated.
        container_log_max_size: String = "containerLogMaxSize",
        /// Log files per container.
        container_log_max_files: Option<i32> = "containerLogMaxFiles",
        /// Rotations at once.
        container_log_max_workers: Option<i32> = "containerLogMaxWorkers",
        /// How often log sizes are looked at.
        container_log_monitor_interval: Option<GoDuration> = "containerLogMonitorInterval",
        /// Where pods' logs are.
        pod_logs_dir: String = "podLogsDir",
        /// The wait between restarts.
        crash_loop_back_off: CrashLoopBackOff = "crashLoopBackOff",
        /// User namespaces.
        user_namespaces: Option<UserNamespaces> = "userNamespaces",
        /// Whether an out-of-memory kill ends one process only.
        single_process_oom_kill: Option<bool> = "singleProcessOOMKill",
        /// Where flexvolume plugins are.
        volume_plugin_dir: String = "volumePluginDir",
        /// How often volumes are measured; negative is never.
        volume_stats_agg_period: GoDuration = "volumeStatsAggPeriod",
        /// Whether local storage is limited.
        local_storage_capacity_isolation: Option<bool> = "localStorageCapacityIsolation",
        // Cgroups
        /// Whether there are cgroups per QoS class and pod.
        cgroups_per_qos: Option<bool> = "cgroupsPerQOS",
        /// The cgroup of pods.
        cgroup_root: String = "cgroupRoot",
        /// `cgroupfs` or `systemd`.
        cgroup_driver: String = "cgroupDriver",
        /// The agent's cgroup.
        kubelet_cgroups: String = "kubeletCgroups",
        /// The cgroup for processes without one.
        system_cgroups: String = "systemCgroups",
        /// Whether CPU limits become quotas.
        cpu_cfs_quota: Option<bool> = "cpuCFSQuota",
        /// The quota's period.
        cpu_cfs_quota_period: Option<GoDuration> = "cpuCFSQuotaPeriod",
        /// The agent's out-of-memory score adjustment.
        oom_score_adj: Option<i32> = "oomScoreAdj",
        /// Whether cgroup v1 is fatal.
        fail_cgroup_v1: Option<bool> = "failCgroupV1",
        /// Whether swap is fatal.
        fail_swap_on: Option<bool> = "failSwapOn",
        /// How pods swap.
        memory_swap: MemorySwap = "memorySwap",
        /// Where memory.high lies.
        memory_throttling_factor: Option<f64> = "memoryThrottlingFactor",
        /// `None` or `TieredReservation`.
        memory_reservation_policy: String = "memoryReservationPolicy",
        /// Requests that lower QoS classes may not touch.
        qos_reserved: BTreeMap<String, String> = "qosReserved",
        /// Whether the kernel tells of memory pressure.
        kernel_memcg_notification: bool = "kernelMemcgNotification",
        // Resource managers
        /// `none` or `static`.
        cpu_manager_policy: String = "cpuManagerPolicy",
        /// Its options.
        cpu_manager_policy_options: BTreeMap<String, String> = "cpuManagerPolicyOptions",
        /// How often CPU sets are checked.
        cpu_manager_reconcile_period: GoDuration = "cpuManagerReconcilePeriod",
        /// `None` or `Static`.
        memory_manager_policy: String = "memoryManagerPolicy",
        /// `none`, `best-effort`, `restricted` or `single-numa-node`.
        topology_manager_policy: String = "topologyManagerPolicy",
        /// `container` or `pod`.
        topology_manager_scope: String = "topologyManagerScope",
        /// Its options.
        topology_manager_policy_options: BTreeMap<String, String> = "topologyManagerPolicyOptions",
        /// Memory per NUMA node that pods do not get.
        reserved_memory: Vec<MemoryReservation> = "reservedMemory",
        // Reservations and eviction
        /// What is enforced.
        enforce_node_allocatable: Option<Vec<String>> = "enforceNodeAllocatable",
        /// For the system's daemons.
        system_reserved: Option<BTreeMap<String, String>> = "systemReserved",
        /// For Kubernetes' daemons.
        kube_reserved: Option<BTreeMap<String, String>> = "kubeReserved",
        /// The cgroup of the system's daemons.
        system_reserved_cgroup: String = "systemReservedCgroup",
        /// The cgroup of Kubernetes' daemons.
        kube_reserved_cgroup: String = "kubeReservedCgroup",
        /// CPUs for both.
        reserved_system_cpus: String = "reservedSystemCPUs",
        /// Thresholds that evict at once.
        eviction_hard: Option<BTreeMap<String, String>> = "evictionHard",
        /// Thresholds that evict after a while.
        eviction_soft: BTreeMap<String, String> = "evictionSoft",
        /// How long that is.
        eviction_soft_grace_period: BTreeMap<String, String> = "evictionSoftGracePeriod",
        /// How far above a threshold to go.
        eviction_minimum_reclaim: BTreeMap<String, String> = "evictionMinimumReclaim",
        /// How long a pressure condition stays.
        eviction_pressure_transition_period: GoDuration = "evictionPressureTransitionPeriod",
        /// The longest grace in a soft eviction, in seconds.
        eviction_max_pod_grace_period: i32 = "evictionMaxPodGracePeriod",
        /// Whether default thresholds are added to evictionHard.
        merge_default_eviction_settings: Option<bool> = "mergeDefaultEvictionSettings",
        // Shutdown, gates, logs
        /// How long pods have at shutdown.
        shutdown_grace_period: GoDuration = "shutdownGracePeriod",
        /// How much of that is for critical pods.
        shutdown_grace_period_critical_pods: GoDuration = "shutdownGracePeriodCriticalPods",
        /// The same by priority.
        shutdown_grace_period_by_pod_priority: Vec<ShutdownGracePeriodByPodPriority> = "shutdownGracePeriodByPodPriority",
        /// Feature gates.
        feature_gates: BTreeMap<String, bool> = "featureGates",
        /// How the agent logs.
        logging: Logging = "logging",
        /// Where spans go.
        tracing: Option<Tracing> = "tracing",
    }

    /// How requests are authenticated.
    pub struct Authentication {
        /// By client certificate.
        x509: X509Authentication = "x509",
        /// By asking the API server about bearer tokens.
        webhook: WebhookAuthentication = "webhook",
        /// Not at all.
        anonymous: AnonymousAuthentication = "anonymous",
    }

    /// Authentication by client certificate.
    pub struct X509Authentication {
        /// The authorities that sign clients.
        client_ca_file: String = "clientCAFile",
    }

    /// Authentication by TokenReview.
    pub struct WebhookAuthentication {
        /// Whether it is on.
        enabled: Option<bool> = "enabled",
        /// How long an answer is kept.
        cache_ttl: GoDuration = "cacheTTL",
    }

    /// Whether requests without credentials come in as system:anonymous.
    pub struct AnonymousAuthentication {
        /// Whether it is on.
        enabled: Option<bool> = "enabled",
    }

    /// How requests are authorized.
    pub struct Authorization {
        /// `AlwaysAllow` or `Webhook`.
        mode: String = "mode",
        /// By SubjectAccessReview.
        webhook: WebhookAuthorization = "webhook",
    }

    /// Authorization by SubjectAccessReview.
    pub struct WebhookAuthorization {
        /// How long a yes is kept.
        cache_authorized_ttl: GoDuration = "cacheAuthorizedTTL",
        /// How long a no is kept.
        cache_unauthorized_ttl: GoDuration = "cacheUnauthorizedTTL",
    }

    /// The wait between restarts.
    pub struct CrashLoopBackOff {
        /// The longest wait.
        max_container_restart_period: Option<GoDuration> = "maxContainerRestartPeriod",
    }

    /// User namespaces.
    pub struct UserNamespaces {
        /// How many IDs a pod gets.
        ids_per_pod: Option<i64> = "idsPerPod",
    }

    /// How pods swap.
    pub struct MemorySwap {
        /// Empty, `NoSwap` or `LimitedSwap`.
        swap_behavior: String = "swapBehavior",
    }

    /// How the agent logs.
    pub struct Logging {
        /// `text` or `json`.
        format: String = "format",
        /// The longest time that lines wait to be written.
        flush_frequency: FlushFrequency = "flushFrequency",
        /// How much is logged.
        verbosity: Verbosity = "verbosity",
        /// Verbosity by file pattern; read, not followed.
        vmodule: Vec<VModule> = "vmodule",
        /// Options of the formats.
        options: LoggingOptions = "options",
    }

    /// Verbosity of files that match a pattern.
    pub struct VModule {
        /// The pattern.
        file_pattern: String = "filePattern",
        /// The verbosity.
        verbosity: Verbosity = "verbosity",
    }

    /// Options of the log formats.
    pub struct LoggingOptions {
        /// Of `text`.
        text: OutputRouting = "text",
        /// Of `json`.
        json: OutputRouting = "json",
    }

    /// Where log lines go.
    pub struct OutputRouting {
        /// Whether information goes to standard output.
        split_stream: bool = "splitStream",
        /// How much of it is buffered.
        info_buffer_size: QuantityText = "infoBufferSize",
    }

    /// Where spans go.
    pub struct Tracing {
        /// An OTLP gRPC endpoint.
        endpoint: Option<String> = "endpoint",
        /// How many of a million spans are sampled.
        sampling_rate_per_million: Option<i32> = "samplingRatePerMillion",
    }
}

/// Memory of one NUMA node that pods do not get.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MemoryReservation {
    /// The node.
    pub numa_node: i32,
    /// Quantities by `memory` or `hugepages-<size>`.
    pub limits: BTreeMap<String, QuantityText>,
}

/// How long pods of a priority have at shutdown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ShutdownGracePeriodByPodPriority {
    /// The lowest priority that this is for.
    pub priority: i32,
    /// Seconds.
    pub shutdown_grace_period_seconds: i64,
}

/// A log verbosity; also 0 is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Verbosity(pub u32);

impl Unset for Verbosity {}

/// A quantity as text; it may be a number in a document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct QuantityText(pub String);

impl Unset for QuantityText {}

impl<'de> Deserialize<'de> for QuantityText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a quantity such as \"1Gi\"")]
        enum Form {
            Text(String),
            Whole(i64),
            Float(f64),
        }
        Ok(Self(match Form::deserialize(deserializer)? {
            Form::Text(text) => text,
            Form::Whole(number) => number.to_string(),
            Form::Float(number) => number.to_string(),
        }))
    }
}

/// A duration that older documents have as a number of nanoseconds; it is written the way it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlushFrequency {
    /// The duration.
    pub duration: GoDuration,
    /// Whether it came as a number.
    pub as_number: bool,
}

impl Serialize for FlushFrequency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.as_number { serializer.serialize_i64(self.duration.as_nanos()) } else { self.duration.serialize(serializer) }
    }
}

impl<'de> Deserialize<'de> for FlushFrequency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a duration such as \"5s\" or a number of nanoseconds")]
        enum Form {
            Text(GoDuration),
            Nanos(i64),
        }
        Ok(match Form::deserialize(deserializer)? {
            Form::Text(duration) => Self { duration, as_number: false },
            Form::Nanos(nanos) => Self { duration: GoDuration::from_nanos(nanos), as_number: true },
        })
    }
}

/// Headers for staticPodURL; they may hold credentials, so they show only to who asks by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(pub Sensitive<BTreeMap<String, Vec<String>>>);

impl Serialize for Headers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.reveal().keys().map(|name| (name, ["<masked>"])))
    }
}

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(|headers| Self(Sensitive::new(headers)))
    }
}
