//! What a setting is when nobody says.
//! Upstream: pkg/kubelet/apis/config/v1beta1/defaults.go, cmd/kubelet/app/options/options.go (applyLegacyDefaults).
//! Differs: nothing on purpose.

use std::collections::BTreeMap;

use kubelet::feature_gates::FeatureGates;

use super::duration::GoDuration;
use super::schema::{KubeletConfiguration, Logging, QuantityText};

/// The API version and kind of the settings.
pub(super) const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
/// See [`API_VERSION`].
pub(super) const KIND: &str = "KubeletConfiguration";

fn text(field: &mut String, default: &str) {
    if field.is_empty() {
        default.clone_into(field);
    }
}

fn number<T: Default + PartialEq>(field: &mut T, default: T) {
    if *field == T::default() {
        *field = default;
    }
}

/// Fills every field that has a default and is not set (API-243: zero means the default).
pub(super) fn set_defaults(config: &mut KubeletConfiguration) {
    text(&mut config.api_version, API_VERSION);
    text(&mut config.kind, KIND);
    server(config);
    node(config);
    images_and_runtime(config);
    resources(config);
    logging(&mut config.logging);
    let gates = FeatureGates::new(config.feature_gates.clone());
    if gates.enabled("KubeletCrashLoopBackOffMax") {
        config.crash_loop_back_off.max_container_restart_period.get_or_insert(GoDuration::from_secs(300));
    }
    if gates.enabled("KubeletEnsureSecretPulledImages") {
        text(&mut config.image_pull_credentials_verification_policy, "NeverVerifyPreloadedImages");
    }
}

fn server(config: &mut KubeletConfiguration) {
    for switch in [
        &mut config.enable_server,
        &mut config.enable_debugging_handlers,
        &mut config.enable_system_log_handler,
        &mut config.enable_profiling_handler,
        &mut config.enable_debug_flags_handler,
    ] {
        switch.get_or_insert(true);
    }
    text(&mut config.address, "0.0.0.0");
    number(&mut config.port, 10250);
    config.healthz_port.get_or_insert(10248);
    text(&mut config.healthz_bind_address, "127.0.0.1");
    number(&mut config.streaming_connection_idle_timeout, GoDuration::from_secs(4 * 3600));
    let authentication = &mut config.authentication;
    authentication.anonymous.enabled.get_or_insert(false);
    authentication.webhook.enabled.get_or_insert(true);
    number(&mut authentication.webhook.cache_ttl, GoDuration::from_secs(120));
    text(&mut config.authorization.mode, "Webhook");
    number(&mut config.authorization.webhook.cache_authorized_ttl, GoDuration::from_secs(300));
    number(&mut config.authorization.webhook.cache_unauthorized_ttl, GoDuration::from_secs(30));
    text(&mut config.content_type, "application/vnd.kubernetes.protobuf");
    config.kube_api_qps.get_or_insert(50);
    number(&mut config.kube_api_burst, 100);
    config.event_record_qps.get_or_insert(50);
    number(&mut config.event_burst, 100);
}

fn node(config: &mut KubeletConfiguration) {
    // NODE-026: whoever set only how often status is computed also meant how often it is sent.
    if config.node_status_report_frequency == GoDuration::ZERO {
        config.node_status_report_frequency = match config.node_status_update_frequency {
            GoDuration::ZERO => GoDuration::from_secs(300),
            update => update,
        };
    }
    number(&mut config.node_status_update_frequency, GoDuration::from_secs(10));
    number(&mut config.node_lease_duration_seconds, 40);
    config.node_status_max_images.get_or_insert(50);
    config.register_node.get_or_insert(true);
    config.enable_controller_attach_detach.get_or_insert(true);
    number(&mut config.sync_frequency, GoDuration::from_secs(60));
    number(&mut config.file_check_frequency, GoDuration::from_secs(20));
    number(&mut config.http_check_frequency, GoDuration::from_secs(20));
    text(&mut config.config_map_and_secret_change_detection_strategy, "Watch");
    config.resolver_config.get_or_insert_with(|| "/etc/resolv.conf".to_owned());
    number(&mut config.max_pods, 110);
    if config.pod_pids_limit.is_none_or(|limit| limit < 0) {
        config.pod_pids_limit = Some(-1);
    }
    number(&mut config.max_open_files, 1_000_000);
    text(&mut config.hairpin_mode, "promiscuous-bridge");
    config.make_iptables_util_chains.get_or_insert(true);
    config.iptables_masquerade_bit.get_or_insert(14);
    config.iptables_drop_bit.get_or_insert(15);
}

fn images_and_runtime(config: &mut KubeletConfiguration) {
    config.registry_pull_qps.get_or_insert(5);
    number(&mut config.registry_burst, 10);
    let parallel = config.max_parallel_image_pulls.is_some_and(|pulls| pulls >= 2);
    config.serialize_image_pulls.get_or_insert(!parallel);
    number(&mut config.image_minimum_gc_age, GoDuration::from_secs(120));
    config.image_gc_high_threshold_percent.get_or_insert(85);
    config.image_gc_low_threshold_percent.get_or_insert(80);
    text(&mut config.container_runtime_endpoint, "unix:///run/containerd/containerd.sock");
    number(&mut config.runtime_request_timeout, GoDuration::from_secs(120));
    text(&mut config.container_log_max_size, "10Mi");
    config.container_log_max_files.get_or_insert(5);
    config.container_log_max_workers.get_or_insert(1);
    config.container_log_monitor_interval.get_or_insert(GoDuration::from_secs(10));
    text(&mut config.pod_logs_dir, "/var/log/pods");
    text(&mut config.volume_plugin_dir, "/usr/libexec/kubernetes/kubelet-plugins/volume/exec/");
    number(&mut config.volume_stats_agg_period, GoDuration::from_secs(60));
    config.seccomp_default.get_or_insert(false);
    config.local_storage_capacity_isolation.get_or_insert(true);
}

fn resources(config: &mut KubeletConfiguration) {
    config.cgroups_per_qos.get_or_insert(true);
    text(&mut config.cgroup_driver, "cgroupfs");
    config.cpu_cfs_quota.get_or_insert(true);
    config.cpu_cfs_quota_period.get_or_insert(GoDuration::from_millis(100));
    config.oom_score_adj.get_or_insert(-999);
    config.fail_cgroup_v1.get_or_insert(true);
    config.fail_swap_on.get_or_insert(true);
    config.memory_throttling_factor.get_or_insert(0.9);
    text(&mut config.memory_reservation_policy, "None");
    text(&mut config.cpu_manager_policy, "none");
    number(&mut config.cpu_manager_reconcile_period, GoDuration::from_secs(10));
    text(&mut config.memory_manager_policy, "None");
    text(&mut config.topology_manager_policy, "none");
    text(&mut config.topology_manager_scope, "container");
    config.enforce_node_allocatable.get_or_insert_with(|| vec!["pods".to_owned()]);
    number(&mut config.eviction_pressure_transition_period, GoDuration::from_secs(300));
    config.merge_default_eviction_settings.get_or_insert(false);
}

fn logging(logging: &mut Logging) {
    text(&mut logging.format, "text");
    if logging.flush_frequency.duration == GoDuration::ZERO {
        logging.flush_frequency.duration = GoDuration::from_secs(5);
        logging.flush_frequency.as_number = false;
    }
    for QuantityText(size) in [&mut logging.options.text.info_buffer_size, &mut logging.options.json.info_buffer_size] {
        text(size, "0");
    }
}

/// What a start without `--config` begins with: the defaults, but as open as kubelets were before there was a file (API-242).
#[must_use]
pub(super) fn without_file() -> KubeletConfiguration {
    let mut config = KubeletConfiguration::default();
    set_defaults(&mut config);
    config.authentication.anonymous.enabled = Some(true);
    config.authentication.webhook.enabled = Some(false);
    "AlwaysAllow".clone_into(&mut config.authorization.mode);
    config.read_only_port = 10255;
    config
}

/// Adds the default hard thresholds to what a `--config` file said: all if it said nothing, the missing ones if it asked for
/// that, else none (NODE-021, NODE-022).
pub(super) fn set_eviction_defaults(config: &mut KubeletConfiguration) {
    let defaults = || {
        [
            ("memory.available", "100Mi"),
            ("nodefs.available", "10%"),
            ("nodefs.inodesFree", "5%"),
            ("imagefs.available", "15%"),
            ("imagefs.inodesFree", "5%"),
        ]
        .map(|(signal, value)| (signal.to_owned(), value.to_owned()))
    };
    match &mut config.eviction_hard {
        None => config.eviction_hard = Some(BTreeMap::from(defaults())),
        Some(thresholds) if config.merge_default_eviction_settings == Some(true) => {
            for (signal, value) in defaults() {
                thresholds.entry(signal).or_insert(value);
            }
        }
        Some(_) => {}
    }
}
