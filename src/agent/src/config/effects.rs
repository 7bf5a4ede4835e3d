//! Which settings have an effect here: one line for each field of the configuration, and a warning for each that was set for nothing.
//! Upstream: staging/src/k8s.io/kubelet/config/v1beta1/types.go.
//! Differs: by what is not built.

use serde_json::Value;

use super::defaults::{set_eviction_defaults, without_file};
use super::schema::KubeletConfiguration;
use Effect::{Followed, None, Only};

/// What becomes of a field.
#[derive(Clone, Copy)]
enum Effect {
    /// What it does upstream, be it nothing.
    Followed,
    /// Nothing, and why.
    None(&'static str),
    /// Always what one value of it says, and why no other.
    Only(&'static str, &'static str),
}

const EVICTION: Effect = None("no pod is evicted");
const PINNING: Effect = None("nothing is pinned or aligned");
const SHUTDOWN: Effect = None("a shutdown of the machine is not waited with");
const MEMORY_QOS: Effect = None("memory.min and memory.high are left alone");
const CLIENT_LIMITS: Effect = None("requests are not held back on this side");
const CGROUP_OF_DAEMONS: Effect = None("only pods are held to what is allocatable");
const LOG_OPTIONS: Effect = None("lines are written one by one to standard error, with one verbosity for all");

/// Every field, in the schema's order; of some the parts.
#[rustfmt::skip]
const FIELDS: &[(&str, Effect)] = &[
    ("apiVersion", Followed),
    ("kind", Followed),
    ("enableServer", Followed),
    ("address", Followed),
    ("port", Followed),
    ("readOnlyPort", Followed),
    ("healthzPort", Followed),
    ("healthzBindAddress", Followed),
    ("enableDebuggingHandlers", Followed),
    ("enableSystemLogHandler", Only("false", "/logs is not served")),
    ("enableSystemLogQuery", Only("false", "/logs is not served")),
    ("enableProfilingHandler", Only("false", "profiles are not served")),
    ("enableDebugFlagsHandler", Only("false", "/debug/flags is not served")),
    ("enableContentionProfiling", None("profiles are not served")),
    ("streamingConnectionIdleTimeout", Followed),
    ("showHiddenMetricsForVersion", None("no metric is hidden")),
    ("tlsCertFile", Followed),
    ("tlsPrivateKeyFile", Followed),
    ("tlsCipherSuites", Followed),
    ("tlsCurvePreferences", Followed),
    ("tlsMinVersion", Followed),
    ("rotateCertificates", Followed),
    ("serverTLSBootstrap", Followed),
    ("authentication", Followed),
    ("authorization", Followed),
    ("seccompDefault", Followed),
    ("protectKernelDefaults", Followed),
    ("allowedUnsafeSysctls", Followed),
    ("staticPodPath", Followed),
    ("staticPodURL", Followed),
    ("staticPodURLHeader", Followed),
    ("fileCheckFrequency", Followed),
    ("httpCheckFrequency", Followed),
    ("syncFrequency", Followed),
    ("configMapAndSecretChangeDetectionStrategy", Followed),
    ("runOnce", Followed),
    ("registerNode", Followed),
    ("registerWithTaints", Followed),
    ("nodeStatusUpdateFrequency", Followed),
    ("nodeStatusReportFrequency", Followed),
    ("nodeLeaseDurationSeconds", Followed),
    ("nodeStatusMaxImages", Followed),
    ("providerID", Followed),
    ("podCIDR", None("the runtime is not told of it")),
    ("clusterDomain", Followed),
    ("clusterDNS", Followed),
    ("resolvConf", Followed),
    ("enableControllerAttachDetach", Followed),
    ("maxPods", Followed),
    ("podsPerCore", Followed),
    ("podPidsLimit", Followed),
    ("maxOpenFiles", Followed),
    // It has no effect upstream either, since the runtimes set up networks; the next three likewise, or no more than a hint.
    ("hairpinMode", Followed),
    ("makeIPTablesUtilChains", Only("false", "the chain KUBE-IPTABLES-HINT is not made")),
    ("iptablesMasqueradeBit", Followed),
    ("iptablesDropBit", Followed),
    ("contentType", Only("\"application/json\"", "requests are in JSON")),
    ("kubeAPIQPS", CLIENT_LIMITS),
    ("kubeAPIBurst", CLIENT_LIMITS),
    ("eventRecordQPS", Followed),
    ("eventBurst", Followed),
    ("registryPullQPS", Followed),
    ("registryBurst", Followed),
    ("serializeImagePulls", Followed),
    ("maxParallelImagePulls", Followed),
    ("imageMinimumGCAge", Followed),
    ("imageMaximumGCAge", Followed),
    ("imageGCHighThresholdPercent", Followed),
    ("imageGCLowThresholdPercent", Followed),
    ("imagePullCredentialsVerificationPolicy", Followed),
    ("preloadedImagesVerificationAllowlist", Followed),
    ("containerRuntimeEndpoint", Followed),
    ("imageServiceEndpoint", Followed),
    ("runtimeRequestTimeout", Followed),
    ("containerLogMaxSize", Followed),
    ("containerLogMaxFiles", Followed),
    ("containerLogMaxWorkers", Followed),
    ("containerLogMonitorInterval", Followed),
    ("podLogsDir", Followed),
    ("crashLoopBackOff", Followed),
    ("userNamespaces", None("pods with hostUsers: false are refused")),
    ("singleProcessOOMKill", Followed),
    ("volumePluginDir", None("there are no flexvolume plugins")),
    ("volumeStatsAggPeriod", Followed),
    ("localStorageCapacityIsolation", Followed),
    ("cgroupsPerQOS", Followed),
    ("cgroupRoot", Followed),
    ("cgroupDriver", Followed),
    ("kubeletCgroups", None("the agent stays in the cgroup that it is started in")),
    ("systemCgroups", None("processes stay in the cgroups that they are in")),
    ("cpuCFSQuota", Followed),
    ("cpuCFSQuotaPeriod", Followed),
    ("oomScoreAdj", Followed),
    ("failCgroupV1", Followed),
    ("failSwapOn", Followed),
    ("memorySwap", Followed),
    ("memoryThrottlingFactor", MEMORY_QOS),
    ("memoryReservationPolicy", MEMORY_QOS),
    ("qosReserved", None("lower QoS classes are not held back")),
    ("kernelMemcgNotification", EVICTION),
    ("cpuManagerPolicy", PINNING),
    ("cpuManagerPolicyOptions", PINNING),
    ("cpuManagerReconcilePeriod", PINNING),
    ("memoryManagerPolicy", PINNING),
    ("topologyManagerPolicy", PINNING),
    ("topologyManagerScope", PINNING),
    ("topologyManagerPolicyOptions", PINNING),
    ("reservedMemory", PINNING),
    ("enforceNodeAllocatable", Only("[\"pods\"]", "only pods are held to what is allocatable")),
    ("systemReserved", Followed),
    ("kubeReserved", Followed),
    ("systemReservedCgroup", CGROUP_OF_DAEMONS),
    ("kubeReservedCgroup", CGROUP_OF_DAEMONS),
    ("reservedSystemCPUs", Followed),
    ("evictionHard", None("it counts for what is allocatable, but no pod is evicted")),
    ("evictionSoft", EVICTION),
    ("evictionSoftGracePeriod", EVICTION),
    ("evictionMinimumReclaim", EVICTION),
    ("evictionPressureTransitionPeriod", EVICTION),
    ("evictionMaxPodGracePeriod", EVICTION),
    ("mergeDefaultEvictionSettings", Followed),
    ("shutdownGracePeriod", SHUTDOWN),
    ("shutdownGracePeriodCriticalPods", SHUTDOWN),
    ("shutdownGracePeriodByPodPriority", SHUTDOWN),
    ("featureGates", Followed),
    ("logging.format", Followed),
    ("logging.flushFrequency", LOG_OPTIONS),
    ("logging.verbosity", Followed),
    ("logging.vmodule", LOG_OPTIONS),
    ("logging.options", LOG_OPTIONS),
    ("tracing", None("there are no spans")),
];

/// What to say about settings that were given and change nothing: those that are neither as they are by default nor as they are anyway.
pub(super) fn warnings(config: &KubeletConfiguration) -> Vec<String> {
    let (without, mut with_file) = (without_file(), without_file());
    set_eviction_defaults(&mut with_file);
    // A configuration that was read is plain data.
    let plain = |config: &KubeletConfiguration| serde_json::to_value(config).unwrap_or_default();
    let (config, defaults) = (plain(config), [plain(&without), plain(&with_file)]);
    let mut warnings = Vec::new();
    for (field, effect) in FIELDS {
        let given = at(&config, field);
        let why = match effect {
            Followed => continue,
            Only(one, _) if serde_json::from_str(one).is_ok_and(|one: Value| one == given) || is_off(field, &given) => continue,
            None(why) | Only(_, why) => why,
        };
        if defaults.iter().all(|defaults| at(defaults, field) != given) {
            // Of other fields the value may be long, or somebody's secret.
            let value = given.as_str().filter(|_| field.ends_with("Policy")).map(|text| format!(" {text}")).unwrap_or_default();
            warnings.push(format!("{field}{value} is not supported yet and has no effect: {why}"));
        }
    }
    warnings
}

/// `enforceNodeAllocatable` may also be nothing at all, which is done as well.
fn is_off(field: &str, given: &Value) -> bool {
    field == "enforceNodeAllocatable" && (given == &serde_json::json!([]) || given == &serde_json::json!(["none"]))
}

/// A field that is not set is null.
fn at(config: &Value, field: &str) -> Value {
    field.split('.').fold(config, |value, part| &value[part]).clone()
}

/// The fields that do nothing, or one thing only, with why: for the page about settings.
#[cfg(test)]
pub(super) fn without_effect() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    FIELDS.iter().filter_map(|(field, effect)| match effect {
        Followed => Option::None,
        None(why) => Some((*field, "", *why)),
        Only(one, why) => Some((*field, *one, *why)),
    })
}

#[cfg(test)]
mod tests {
    use super::super::schema::{Fields as _, Logging};
    use super::*;

    // S19: a field that is added to the schema gets a line here, and so somebody asks what it does.
    #[test]
    fn every_field_has_its_line() {
        let mut fields: Vec<&str> = FIELDS.iter().map(|(field, _)| field.split('.').next().unwrap_or_default()).collect();
        fields.dedup();
        assert_eq!(fields, KubeletConfiguration::FIELDS);
        let parts: Vec<&str> = FIELDS.iter().filter_map(|(field, _)| field.strip_prefix("logging.")).collect();
        assert_eq!(parts, Logging::FIELDS);
        for (field, effect) in FIELDS {
            assert!(!matches!(effect, Only(one, _) if serde_json::from_str::<Value>(one).is_err()), "{field}");
        }
    }
}
