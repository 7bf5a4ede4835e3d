//! Whether settings make sense together.
//! Upstream: pkg/kubelet/apis/config/validation/validation.go, logs/api/v1/options.go, tracing/api/v1/config.go.
//! Differs: each problem comes with a remedy; values that upstream finds at start-up only (addresses, durations of thresholds,
//! reservations, enums without a check) are found here too, see `resolve`.

mod enforcement;

use std::fmt::Display;
use std::path::Path;

use kubelet::feature_gates::FeatureGates;

use super::cpuset;
use super::duration::GoDuration;
use super::file::clean;
use super::labels;
use super::problem::Problem;
use super::quantity;
use super::schema::{KubeletConfiguration, Logging, OutputRouting, Tracing};

/// Collects what is wrong.
pub(super) struct Check<'a> {
    config: &'a KubeletConfiguration,
    gates: &'a FeatureGates,
    problems: Vec<Problem>,
}

/// Checks settings that have their defaults (API-247 to API-250, NODE-027).
pub(super) fn validate(config: &KubeletConfiguration, gates: &FeatureGates, cgroup_v2: bool) -> Vec<Problem> {
    let mut check = Check { config, gates, problems: Vec::new() };
    check.numbers();
    check.percentages_and_ages();
    check.images();
    check.taints();
    check.managers();
    check.shutdown();
    check.memory();
    check.crash_loop();
    enforcement::check(&mut check);
    check.host(cgroup_v2);
    check.logs();
    check.logging(&config.logging);
    check.tracing(config.tracing.as_ref());
    check.problems
}

impl Check<'_> {
    /// Notes a problem in upstream's words, which come without the prefix here.
    fn fail(&mut self, field: &str, value: impl Display, message: impl Display, remedy: impl Into<String>) {
        self.problems.push(Problem::new(field, value, format!("invalid configuration: {message}"), remedy));
    }

    /// One of a closed set of words.
    fn word(&mut self, field: &str, value: &str, known: &[&str], message: impl Display) {
        if !known.contains(&value) {
            self.fail(field, value, message, format!("set {field} to one of {}", known.join(", ")));
        }
    }

    fn at_least_zero(&mut self, field: &str, flag: &str, value: i64) {
        if value < 0 {
            self.fail(field, value, format_args!("{field} (--{flag}) {value} must not be a negative number"), "give 0 or more");
        }
    }

    fn within(&mut self, field: &str, flag: &str, value: i32, low: i32, high: i32) {
        if !(low..=high).contains(&value) {
            let message = format!("{field} (--{flag}) {value} must be between {low} and {high}, inclusive");
            self.fail(field, value, message, format!("give {low} to {high}"));
        }
    }

    fn numbers(&mut self) {
        let config = self.config;
        if config.node_lease_duration_seconds <= 0 {
            let value = config.node_lease_duration_seconds;
            self.fail(
                "nodeLeaseDurationSeconds",
                value,
                "nodeLeaseDurationSeconds must be greater than 0",
                "give 1 or more; 40 is usual",
            );
        }
        if !config.system_cgroups.is_empty() && config.cgroup_root.is_empty() {
            self.fail(
                "systemCgroups",
                &config.system_cgroups,
                "systemCgroups (--system-cgroups) was specified and cgroupRoot (--cgroup-root) was not specified",
                "set cgroupRoot: /",
            );
        }
        self.at_least_zero("eventBurst", "event-burst", config.event_burst.into());
        self.at_least_zero("eventRecordQPS", "event-qps", config.event_record_qps.unwrap_or_default().into());
        self.at_least_zero("kubeAPIBurst", "kube-api-burst", config.kube_api_burst.into());
        self.at_least_zero("kubeAPIQPS", "kube-api-qps", config.kube_api_qps.unwrap_or_default().into());
        self.at_least_zero("maxOpenFiles", "max-open-files", config.max_open_files);
        self.at_least_zero("maxPods", "max-pods", config.max_pods.into());
        self.at_least_zero("podsPerCore", "pods-per-core", config.pods_per_core.into());
        self.at_least_zero("registryBurst", "registry-burst", config.registry_burst.into());
        self.at_least_zero("registryPullQPS", "registry-qps", config.registry_pull_qps.unwrap_or_default().into());
        self.within("iptablesDropBit", "iptables-drop-bit", config.iptables_drop_bit.unwrap_or_default(), 0, 31);
        self.within("iptablesMasqueradeBit", "iptables-masquerade-bit", config.iptables_masquerade_bit.unwrap_or_default(), 0, 31);
        self.within("oomScoreAdj", "oom-score-adj", config.oom_score_adj.unwrap_or_default(), -1000, 1000);
        self.within("port", "port", config.port, 1, 65535);
        self.within("readOnlyPort", "read-only-port", config.read_only_port, 0, 65535);
        let healthz = config.healthz_port.unwrap_or_default();
        if healthz != 0 {
            self.within("healthzPort", "healthz-port", healthz, 1, 65535);
        }
        let images = config.node_status_max_images.unwrap_or_default();
        if images < -1 {
            let message = format!("nodeStatusMaxImages (--node-status-max-images) {images} must be -1 or greater");
            self.fail("nodeStatusMaxImages", images, message, "give -1 for all images");
        }
    }

    fn percentages_and_ages(&mut self) {
        let config = self.config;
        let period = config.cpu_cfs_quota_period.unwrap_or_default();
        let field = "cpuCFSQuotaPeriod";
        if self.gates.enabled("CustomCPUCFSQuotaPeriod") {
            if !(GoDuration::from_millis(1)..=GoDuration::from_secs(1)).contains(&period) {
                let message = format!("{field} (--cpu-cfs-quota-period) {{{period}}} must be between 1ms and 1sec, inclusive");
                self.fail(field, period, message, "give 100ms unless you measured");
            }
        } else if period != GoDuration::from_millis(100) {
            let message = format!("{field} (--cpu-cfs-quota-period) {{{period}}} requires feature gate CustomCPUCFSQuotaPeriod");
            self.fail(field, period, message, "remove it or the gate");
        }
        let (high, low) =
            (config.image_gc_high_threshold_percent.unwrap_or_default(), config.image_gc_low_threshold_percent.unwrap_or_default());
        self.within("imageGCHighThresholdPercent", "image-gc-high-threshold", high, 0, 100);
        self.within("imageGCLowThresholdPercent", "image-gc-low-threshold", low, 0, 100);
        if low >= high {
            let message = format!(
                "imageGCLowThresholdPercent (--image-gc-low-threshold) {low} must be less than imageGCHighThresholdPercent (--image-gc-high-threshold) {high}"
            );
            self.fail("imageGCLowThresholdPercent", low, message, "lower it, or raise imageGCHighThresholdPercent");
        }
        let (min, max) = (config.image_minimum_gc_age, config.image_maximum_gc_age);
        if max != GoDuration::ZERO && !self.gates.enabled("ImageMaximumGCAge") {
            let message = "ImageMaximumGCAge feature gate is required for Kubelet configuration option imageMaximumGCAge";
            self.fail("imageMaximumGCAge", max, message, "remove it, or turn the gate on");
        }
        for (field, age) in [("imageMinimumGCAge", min), ("imageMaximumGCAge", max)] {
            if age < GoDuration::ZERO {
                self.fail(field, age, format_args!("{field} {age} must not be negative"), "give 0s or more");
            }
        }
        if max > GoDuration::ZERO && max <= min {
            let message = format!("imageMaximumGCAge {max} must be greater than imageMinimumGCAge {min}");
            self.fail("imageMaximumGCAge", max, message, "raise it, or set it to 0s for no such age");
        }
    }

    fn images(&mut self) {
        let config = self.config;
        if let Some(pulls) = config.max_parallel_image_pulls {
            let field = "maxParallelImagePulls";
            if pulls < 1 {
                self.fail(field, pulls, format_args!("{field} {pulls} must be a positive number"), "give 1 or more, or remove it");
            }
            if pulls > 1 && config.serialize_image_pulls == Some(true) {
                let message = "maxParallelImagePulls cannot be larger than 1 unless SerializeImagePulls (--serialize-image-pulls) is set to false";
                self.fail(field, pulls, message, "set serializeImagePulls: false");
            }
        }
        let policy = config.image_pull_credentials_verification_policy.as_str();
        let allowlist = &config.preloaded_images_verification_allowlist;
        let (policy_field, list_field) = ("imagePullCredentialsVerificationPolicy", "preloadedImagesVerificationAllowlist");
        if self.gates.enabled("KubeletEnsureSecretPulledImages") {
            let known = ["NeverVerify", "NeverVerifyPreloadedImages", "NeverVerifyAllowlistedImages", "AlwaysVerify"];
            let [a, b, c, d] = known;
            let message = format!("option {policy:?} specified for {policy_field}. Valid options are {a:?}, {b:?}, {c:?} or {d:?}");
            self.word(policy_field, policy, &known, message);
            if !allowlist.is_empty() && policy != "NeverVerifyAllowlistedImages" {
                // The misspelling is upstream's.
                let message = "can't set `preloadedImagesVerificationAllowlist` if `imagePullCredentialsVertificationPolicy` is not \"NeverVerifyAllowlistedImages\"";
                self.fail(list_field, allowlist.join(","), message, "set the policy to NeverVerifyAllowlistedImages");
            } else if let Some((pattern, reason)) = allowlist.iter().find_map(|pattern| Some((pattern, allowlist_error(pattern)?)))
            {
                let message = format!("invalid image pattern in `{list_field}`: {reason}");
                self.fail(list_field, pattern, message, "name an image without tag, or a prefix that ends with /*");
            }
        } else {
            for (field, set) in [(policy_field, !policy.is_empty()), (list_field, !allowlist.is_empty())] {
                if set {
                    let message =
                        format!("`{field}` must not be set if KubeletEnsureSecretPulledImages feature gate is not enabled");
                    self.fail(field, "", message, "remove it, or turn the gate on");
                }
            }
        }
    }

    fn taints(&mut self) {
        for (index, taint) in self.config.register_with_taints.iter().enumerate() {
            let field = format!("registerWithTaints[{index}]");
            let value = taint.value.as_deref().unwrap_or_default();
            let effect = if taint.effect.is_empty() { None } else { labels::taint_effect_error(&taint.effect) };
            let error = labels::qualified_name_error(&taint.key).or_else(|| labels::label_value_error(value)).or(effect);
            if let Some(error) = error {
                let shown = format!("{}={value}:{}", taint.key, taint.effect);
                let message = format!("invalid taint: {{{} {value} {} <nil>}}", taint.key, taint.effect);
                self.problems.push(Problem::new(&field, shown, message, error));
            }
            if taint.time_added.is_some() {
                self.fail(&field, &taint.key, "taint.TimeAdded is not nil", "remove timeAdded");
            }
        }
    }

    fn managers(&mut self) {
        let config = self.config;
        let policies = ["none", "best-effort", "restricted", "single-numa-node"];
        let policy = config.topology_manager_policy.as_str();
        let message =
            format!("topologyManagerPolicy (--topology-manager-policy) {policy:?} must be one of: [{}]", quoted(&policies, " "));
        self.word("topologyManagerPolicy", policy, &policies, message);
        let scope = config.topology_manager_scope.as_str();
        let message =
            format!("topologyManagerScope (--topology-manager-scope) {scope:?} must be one of: \"container\", or \"pod\"");
        self.word("topologyManagerScope", scope, &["container", "pod"], message);
        let hairpin = config.hairpin_mode.as_str();
        let message = format!(
            "option {hairpin:?} specified for hairpinMode (--hairpin-mode). Valid options are \"none\", \"hairpin-veth\" or \"promiscuous-bridge\""
        );
        self.word("hairpinMode", hairpin, &["none", "hairpin-veth", "promiscuous-bridge"], message);
        // Upstream finds these three at start-up.
        let message = format!("unknown policy: {:?}", config.cpu_manager_policy);
        self.word("cpuManagerPolicy", &config.cpu_manager_policy, &["none", "static"], message);
        let message = format!("unknown policy: {:?}", config.memory_manager_policy);
        self.word("memoryManagerPolicy", &config.memory_manager_policy, &["None", "Static"], message);
        let driver = &config.cgroup_driver;
        self.word("cgroupDriver", driver, &["cgroupfs", "systemd"], format_args!("unknown cgroup driver {driver:?}"));
        if config.run_once {
            let message = "runOnce (--runOnce) true, Runonce mode has been deprecated and should not be set";
            self.fail("runOnce", true, message, "remove it");
        }
        if config.server_tls_bootstrap && !self.gates.enabled("RotateKubeletServerCertificate") {
            let message = "serverTLSBootstrap true requires feature gate RotateKubeletServerCertificate";
            self.fail("serverTLSBootstrap", true, message, "remove it, or turn the gate on");
        }
    }

    fn shutdown(&mut self) {
        let config = self.config;
        let (total, critical) = (config.shutdown_grace_period, config.shutdown_grace_period_critical_pods);
        let set = total > GoDuration::ZERO || critical > GoDuration::ZERO;
        if self.gates.enabled("GracefulNodeShutdown") {
            if critical > total {
                let message = format!("shutdownGracePeriodCriticalPods {{{critical}}} must be <= shutdownGracePeriod {{{total}}}");
                self.fail("shutdownGracePeriodCriticalPods", critical, message, "raise shutdownGracePeriod");
            }
            for (field, period) in [("shutdownGracePeriod", total), ("shutdownGracePeriodCriticalPods", critical)] {
                if period != GoDuration::ZERO && period < GoDuration::from_secs(1) {
                    let message = format!("{field} {{{period}}} must be either zero or otherwise >= 1 sec");
                    self.fail(field, period, message, "give 0s, or 1s or more");
                }
            }
        } else if set {
            let message =
                "specifying shutdownGracePeriod or shutdownGracePeriodCriticalPods requires feature gate GracefulNodeShutdown";
            self.fail("shutdownGracePeriod", total, message, "remove them, or turn the gate on");
        }
        let by_priority = &config.shutdown_grace_period_by_pod_priority;
        let field = "shutdownGracePeriodByPodPriority";
        if !by_priority.is_empty() {
            if !self.gates.enabled("GracefulNodeShutdownBasedOnPodPriority") {
                let message = format!("Specifying {field} requires feature gate GracefulNodeShutdownBasedOnPodPriority");
                self.fail(field, "", message, "remove it, or turn the gate on");
            } else if set {
                let message = format!("Cannot specify both {field} and shutdownGracePeriod at the same time");
                self.fail(field, "", message, "remove one of them");
            }
        }
    }

    fn memory(&mut self) {
        let config = self.config;
        let swap = config.memory_swap.swap_behavior.as_str();
        let message = format!("memorySwap.swapBehavior {swap:?} must be one of: \"\", \"LimitedSwap\" or \"NoSwap\"");
        self.word("memorySwap.swapBehavior", swap, &["", "NoSwap", "LimitedSwap"], message);
        if let Some(factor) = config.memory_throttling_factor
            && !(factor > 0.0 && factor <= 1.0)
        {
            let message = format!("memoryThrottlingFactor {factor} must be greater than 0 and less than or equal to 1.0");
            self.fail("memoryThrottlingFactor", factor, message, "give 0.9 unless you measured");
        }
        let policy = config.memory_reservation_policy.as_str();
        if policy == "TieredReservation" && !self.gates.enabled("MemoryQoS") {
            let message = format!("memoryReservationPolicy {policy:?} requires MemoryQoS feature gate to be enabled");
            self.fail("memoryReservationPolicy", policy, message, "turn the gate on, or set None");
        }
        let message =
            format!("option {policy:?} specified for memoryReservationPolicy. Valid options are \"None\" or \"TieredReservation\"");
        self.word("memoryReservationPolicy", policy, &["None", "TieredReservation"], message);
    }

    fn crash_loop(&mut self) {
        let field = "crashLoopBackOff.maxContainerRestartPeriod";
        let period = self.config.crash_loop_back_off.max_container_restart_period;
        let on = self.gates.enabled("KubeletCrashLoopBackOffMax");
        match period {
            Some(period) if !on => {
                let message = "FeatureGate KubeletCrashLoopBackOffMax not enabled, CrashLoopBackOff.MaxContainerRestartPeriod must not be set";
                self.fail(field, period, message, "remove it, or turn the gate on");
            }
            Some(period) if !(1000..=300_000).contains(&(period.as_nanos() / 1_000_000)) => {
                #[allow(clippy::cast_precision_loss)]
                let seconds = period.as_nanos() as f64 / 1e9;
                let message =
                    format!("CrashLoopBackOff.MaxContainerRestartPeriod (got: {seconds} seconds) must be set between 1s and 300s");
                self.fail(field, period, message, "give 1s to 300s");
            }
            None if on => {
                let message =
                    "FeatureGate KubeletCrashLoopBackOffMax is enabled, CrashLoopBackOff.MaxContainerRestartPeriod must be set";
                self.fail(field, "", message, "give 300s");
            }
            _ => {}
        }
    }

    fn host(&mut self, cgroup_v2: bool) {
        let config = self.config;
        if !cgroup_v2 {
            if config.fail_cgroup_v1 == Some(true) {
                self.problems.push(Problem::new(
                    "failCgroupV1",
                    true,
                    "kubelet is configured to not run on a host using cgroup v1. cgroup v1 support is unsupported and will be removed in a future release",
                    "boot the host with cgroup v2, or set failCgroupV1: false",
                ));
            }
            if config.single_process_oom_kill == Some(false) {
                let message = "singleProcessOOMKill must not be explicitly set to false when using cgroup v1";
                self.fail("singleProcessOOMKill", false, message, "remove it");
            }
            if config.memory_swap.swap_behavior == "LimitedSwap" {
                let message = "swap feature is enabled and LimitedSwap but it is only supported with cgroupv2";
                self.problems.push(Problem::new(
                    "memorySwap.swapBehavior",
                    "LimitedSwap",
                    message,
                    "set NoSwap, or boot with cgroup v2",
                ));
            }
        }
        let Some(ids) = config.user_namespaces.as_ref().and_then(|namespaces| namespaces.ids_per_pod) else { return };
        let field = "userNamespaces.idsPerPod";
        let wrong = match ids {
            ..65536 => "must not be less than 65536",
            _ if ids % 65536 != 0 => "must be a multiple of 65536",
            _ if ids > i64::from(u32::MAX) => "must not be more than 4294967295",
            _ => return,
        };
        self.fail(field, ids, format_args!("{field} {wrong}"), "give a multiple of 65536 below 2^32");
    }

    fn logs(&mut self) {
        let config = self.config;
        let query = config.enable_system_log_query == Some(true);
        if query && config.enable_system_log_handler == Some(false) {
            let message = "enableSystemLogHandler is required for enableSystemLogQuery";
            self.fail("enableSystemLogQuery", true, message, "set enableSystemLogHandler: true");
        }
        if config.container_log_max_workers < Some(1) {
            let value = config.container_log_max_workers.unwrap_or_default();
            self.fail("containerLogMaxWorkers", value, "containerLogMaxWorkers must be greater than or equal to 1", "give 1");
        }
        let interval = config.container_log_monitor_interval.unwrap_or_default();
        if interval < GoDuration::from_secs(3) {
            let message = "containerLogMonitorInterval must be a positive time duration greater than or equal to 3s";
            self.fail("containerLogMonitorInterval", interval, message, "give 3s or more");
        }
        if config.container_log_max_files <= Some(1) {
            let value = config.container_log_max_files.unwrap_or_default();
            self.fail("containerLogMaxFiles", value, "containerLogMaxFiles must be greater than 1", "give 2 or more");
        }
        if quantity::milli(&config.container_log_max_size).is_none() {
            let size = &config.container_log_max_size;
            let message = format!("failed to parse container log max size {size:?}");
            self.fail("containerLogMaxSize", size, message, "give a quantity such as 10Mi");
        }
        let dir = config.pod_logs_dir.as_str();
        let mut wrong = Vec::new();
        if !dir.starts_with('/') {
            wrong.push("must be absolute path");
        }
        if clean(Path::new(dir)) != dir {
            wrong.push("must be normalized");
        }
        if !dir.is_ascii() {
            // The grammar is upstream's.
            wrong.push("mut contains ASCII characters only");
        }
        for wrong in wrong {
            self.fail(
                "podLogsDir",
                dir,
                format_args!("pod logs path {dir:?} {wrong}"),
                "give an absolute path such as /var/log/pods",
            );
        }
    }

    fn logging(&mut self, logging: &Logging) {
        let mut fail = |field: &str, message: String, remedy: &str| self.problems.push(Problem::new(field, "", message, remedy));
        if logging.flush_frequency.duration <= GoDuration::ZERO {
            let message =
                format!("logging.flushFrequency: Invalid value: {}: Must be greater than zero", logging.flush_frequency.duration);
            fail("logging.flushFrequency", message, "give 5s");
        }
        let format = logging.format.as_str();
        if !["text", "json"].contains(&format) {
            let message = format!("logging.format: Invalid value: {format:?}: Unsupported log format");
            fail("logging.format", message, "give text or json");
        }
        if i32::try_from(logging.verbosity.0).is_err() {
            let message = format!("logging.verbosity: Invalid value: {}: Must be <= 2147483647", logging.verbosity.0);
            fail("logging.verbosity", message, "give 0 to 10");
        }
        if !logging.vmodule.is_empty() && format != "text" {
            fail("logging.vmodule", "logging.vmodule: Forbidden: Only supported for text log format".to_owned(), "remove it");
        }
        for (name, options) in [("text", &logging.options.text), ("json", &logging.options.json)] {
            self.routing(name, options);
        }
    }

    fn routing(&mut self, format: &str, options: &OutputRouting) {
        let gate = "LoggingAlphaOptions";
        let buffered = quantity::milli(&options.info_buffer_size.0) != Some(0);
        for (option, set) in [("splitStream", options.split_stream), ("infoBufferSize", buffered)] {
            if set && !self.gates.enabled(gate) {
                let field = format!("logging.options.{format}.{option}");
                let message = format!("{field}: Forbidden: Feature {gate} is disabled");
                self.problems.push(Problem::new(field, "", message, "remove it, or turn the gate on"));
            }
        }
    }

    fn tracing(&mut self, tracing: Option<&Tracing>) {
        let Some(tracing) = tracing else { return };
        if let Some(rate) = tracing.sampling_rate_per_million {
            let wrong = match rate {
                ..0 => Some("sampling rate must be positive"),
                0..=1_000_000 => None,
                _ => Some("sampling rate per million must be less than or equal to one million"),
            };
            if let Some(wrong) = wrong {
                let field = "tracing.samplingRatePerMillion";
                self.problems.push(Problem::new(
                    field,
                    rate,
                    format!("{field}: Invalid value: {rate}: {wrong}"),
                    "give 0 to 1000000",
                ));
            }
        }
        if let Some((scheme, _)) = tracing.endpoint.as_deref().and_then(|endpoint| endpoint.split_once("//"))
            && !["dns:", "unix:", "unix-abstract:"].contains(&scheme)
        {
            let (field, endpoint) = ("tracing.endpoint", tracing.endpoint.as_deref().unwrap_or_default());
            let scheme = scheme.trim_end_matches(':');
            let message = format!(
                "{field}: Invalid value: {endpoint:?}: unsupported scheme: {scheme}.  Options are none, dns, unix, or unix-abstract.  See https://github.com/grpc/grpc/blob/master/doc/naming.md"
            );
            self.problems.push(Problem::new(field, endpoint, message, "give host:port"));
        }
    }
}

fn quoted(words: &[&str], separator: &str) -> String {
    words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(separator)
}

/// Upstream: getAllowlistImagePattern in pkg/kubelet/images/pullmanager/image_pull_policies.go.
fn allowlist_error(pattern: &str) -> Option<String> {
    if pattern != pattern.trim() {
        return Some(format!("leading/trailing spaces are not allowed: {pattern}"));
    }
    let trimmed = pattern.strip_suffix('*').filter(|prefix| prefix.ends_with('/')).unwrap_or(pattern);
    if trimmed.is_empty() {
        return Some(format!("the supplied pattern is too short: {pattern}"));
    }
    if trimmed.contains('*') {
        return Some(format!("not a valid wildcard pattern, only patterns ending with '/*' are allowed: {pattern}"));
    }
    if trimmed == "/" {
        return Some("at least registry hostname is required".to_owned());
    }
    let last = trimmed.rsplit('/').next().unwrap_or_default();
    let tagged = trimmed.contains('@') || (last.contains(':') && trimmed == pattern);
    tagged.then(|| format!("neither tag nor digest is accepted in an image reference: {pattern}"))
}

/// Whether a text lists CPUs; upstream's cpuset.Parse.
fn cpus_error(text: &str) -> Option<String> {
    cpuset::parse(text).err()
}
