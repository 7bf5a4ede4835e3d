//! Which upstream feature gates exist, what they are by default, and which of them are on for this agent.
//! Upstream: pkg/features/kube_features.go and the gate files of apiserver, client-go, component-base (1.36).
//! Differs: the gates are a value that is handed in, not a process-wide registry.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How mature a gate is; upstream's `PreRelease`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Off unless asked for; `AllAlpha` sets it.
    Alpha,
    /// `AllBeta` sets it.
    Beta,
    /// Stable; the gate will go.
    Ga,
    /// Old behaviour behind a gate; the gate will go.
    Deprecated,
}

/// One gate as of 1.36.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Its name, case-sensitive.
    pub name: &'static str,
    /// Its maturity.
    pub stage: Stage,
    /// What it is if nobody says otherwise.
    pub default: bool,
    /// Whether it may only be set to its default.
    pub locked: bool,
    /// The gates that must be on when this one is.
    pub needs: &'static [&'static str],
}

/// A gate's default and whether it is locked to it.
struct Value(bool, bool);

#[allow(non_upper_case_globals)]
const On: Value = Value(true, false);
#[allow(non_upper_case_globals)]
const Off: Value = Value(false, false);
#[allow(non_upper_case_globals)]
const OnLocked: Value = Value(true, true);
#[allow(non_upper_case_globals)]
const OffLocked: Value = Value(false, true);

const fn gate(name: &'static str, stage: Stage, value: Value, needs: &'static [&'static str]) -> Gate {
    Gate { name, stage, default: value.0, locked: value.1, needs }
}

/// Finds a gate of 1.36 by its exact name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Gate> {
    GATES.binary_search_by(|gate| gate.name.cmp(name)).ok().map(|index| &GATES[index])
}

/// What the gates are set to: the defaults of 1.36 with what was configured on top.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FeatureGates(BTreeMap<String, bool>);

impl FeatureGates {
    /// The defaults, changed by `set`. Nothing is checked: names and locks are the configuration's business.
    #[must_use]
    pub fn new(set: BTreeMap<String, bool>) -> Self {
        Self(set)
    }

    /// Whether a gate is on. `AllAlpha` and `AllBeta` count for gates that are not set themselves; a gate of which 1.36 knows
    /// nothing is off (featuregate.Enabled).
    #[must_use]
    pub fn enabled(&self, name: &str) -> bool {
        if let Some(value) = self.0.get(name) {
            return *value;
        }
        let Some(gate) = find(name) else { return false };
        let group = match gate.stage {
            Stage::Alpha => "AllAlpha",
            Stage::Beta => "AllBeta",
            Stage::Ga | Stage::Deprecated => return gate.default,
        };
        if gate.locked || name == group {
            return gate.default;
        }
        self.0.get(group).copied().unwrap_or(gate.default)
    }

    /// What was set, by name: the `featureGates` field.
    #[must_use]
    pub fn set(&self) -> &BTreeMap<String, bool> {
        &self.0
    }
}

/// Every gate that a kubelet of 1.36 knows, by name.
#[rustfmt::skip]
pub static GATES: &[Gate] = &[
    gate("APIResponseCompression", Stage::Beta, On, &[]),
    gate("APIServerIdentity", Stage::Beta, On, &[]),
    gate("APIServerTracing", Stage::Ga, OnLocked, &[]),
    gate("APIServingWithRoutine", Stage::Alpha, Off, &[]),
    gate("AggregatedDiscoveryRemoveBetaType", Stage::Deprecated, OnLocked, &[]),
    gate("AllAlpha", Stage::Alpha, Off, &[]),
    gate("AllBeta", Stage::Beta, Off, &[]),
    gate("AllowDNSOnlyNodeCSR", Stage::Deprecated, Off, &[]),
    gate("AllowInsecureKubeletCertificateSigningRequests", Stage::Deprecated, Off, &[]),
    gate("AllowOverwriteTerminationGracePeriodSeconds", Stage::Deprecated, OffLocked, &[]),
    gate("AllowParsingUserUIDFromCertAuth", Stage::Beta, On, &[]),
    gate("AllowServiceExternalIPs", Stage::Ga, On, &[]),
    gate("AllowUnsafeMalformedObjectDeletion", Stage::Alpha, Off, &[]),
    gate("AnonymousAuthConfigurableEndpoints", Stage::Ga, OnLocked, &[]),
    gate("AnyVolumeDataSource", Stage::Ga, OnLocked, &[]),
    gate("AtomicFIFO", Stage::Beta, On, &[]),
    gate("AuthorizeNodeWithSelectors", Stage::Ga, OnLocked, &["AuthorizeWithSelectors"]),
    gate("AuthorizePodWebsocketUpgradeCreatePermission", Stage::Beta, On, &[]),
    gate("AuthorizeWithSelectors", Stage::Ga, OnLocked, &[]),
    gate("BtreeWatchCache", Stage::Ga, OnLocked, &[]),
    gate("CBORServingAndStorage", Stage::Alpha, Off, &[]),
    gate("CPUManagerPolicyAlphaOptions", Stage::Alpha, Off, &[]),
    gate("CPUManagerPolicyBetaOptions", Stage::Beta, On, &[]),
    gate("CPUManagerPolicyOptions", Stage::Ga, OnLocked, &[]),
    gate("CRDObservedGenerationTracking", Stage::Beta, On, &[]),
    gate("CRDValidationRatcheting", Stage::Ga, OnLocked, &[]),
    gate("CRIListStreaming", Stage::Alpha, Off, &[]),
    gate("CSIServiceAccountTokenSecrets", Stage::Ga, OnLocked, &[]),
    gate("CSIVolumeHealth", Stage::Alpha, Off, &[]),
    gate("ChangeContainerStatusOnKubeletRestart", Stage::Deprecated, Off, &[]),
    gate("ClearingNominatedNodeNameAfterBinding", Stage::Beta, On, &[]),
    gate("ClientsAllowCARotation", Stage::Beta, On, &[]),
    gate("ClientsAllowCBOR", Stage::Alpha, Off, &[]),
    gate("ClientsAllowTLSCacheGC", Stage::Beta, On, &[]),
    gate("ClientsPreferCBOR", Stage::Alpha, Off, &[]),
    gate("CloudControllerManagerWatchBasedRoutesReconciliation", Stage::Alpha, Off, &[]),
    gate("CloudControllerManagerWebhook", Stage::Alpha, Off, &[]),
    gate("ClusterTrustBundle", Stage::Beta, Off, &[]),
    gate("ClusterTrustBundleProjection", Stage::Beta, Off, &["ClusterTrustBundle"]),
    gate("ComponentFlagz", Stage::Beta, On, &[]),
    gate("ComponentStatusz", Stage::Beta, On, &[]),
    gate("ConcurrentWatchObjectDecode", Stage::Beta, Off, &[]),
    gate("ConsistentListFromCache", Stage::Ga, OnLocked, &[]),
    gate("ConstrainedImpersonation", Stage::Beta, On, &[]),
    gate("ContainerCheckpoint", Stage::Beta, On, &[]),
    gate("ContainerRestartRules", Stage::Beta, On, &[]),
    gate("ContainerStopSignals", Stage::Alpha, Off, &[]),
    gate("ControllerManagerReleaseLeaderElectionLockOnExit", Stage::Alpha, Off, &[]),
    gate("CoordinatedLeaderElection", Stage::Beta, Off, &[]),
    gate("CrossNamespaceVolumeDataSource", Stage::Alpha, Off, &[]),
    gate("CustomCPUCFSQuotaPeriod", Stage::Ga, On, &[]),
    gate("CustomResourceFieldSelectors", Stage::Ga, OnLocked, &[]),
    gate("DRAAdminAccess", Stage::Ga, OnLocked, &["DynamicResourceAllocation"]),
    gate("DRAConsumableCapacity", Stage::Beta, On, &["DynamicResourceAllocation"]),
    gate("DRADeviceBindingConditions", Stage::Beta, On, &["DynamicResourceAllocation", "DRAResourceClaimDeviceStatus"]),
    gate("DRADeviceTaintRules", Stage::Beta, Off, &["DRADeviceTaints"]),
    gate("DRADeviceTaints", Stage::Beta, On, &["DynamicResourceAllocation"]),
    gate("DRAExtendedResource", Stage::Beta, On, &["DynamicResourceAllocation"]),
    gate("DRAListTypeAttributes", Stage::Alpha, Off, &["DynamicResourceAllocation"]),
    gate("DRANodeAllocatableResources", Stage::Alpha, Off, &["DynamicResourceAllocation"]),
    gate("DRAPartitionableDevices", Stage::Beta, On, &["DynamicResourceAllocation"]),
    gate("DRAPrioritizedList", Stage::Ga, On, &["DynamicResourceAllocation"]),
    gate("DRAResourceClaimDeviceStatus", Stage::Beta, On, &[]),
    gate("DRAResourceClaimGranularStatusAuthorization", Stage::Beta, On, &["DynamicResourceAllocation", "DRAResourceClaimDeviceStatus"]),
    gate("DRAResourcePoolStatus", Stage::Alpha, Off, &["DynamicResourceAllocation"]),
    gate("DRASchedulerFilterTimeout", Stage::Beta, On, &["DynamicResourceAllocation"]),
    gate("DRAWorkloadResourceClaims", Stage::Alpha, Off, &["DynamicResourceAllocation", "GenericWorkload"]),
    gate("DeclarativeValidation", Stage::Ga, OnLocked, &[]),
    gate("DeclarativeValidationBeta", Stage::Beta, On, &["DeclarativeValidation"]),
    gate("DeclarativeValidationTakeover", Stage::Deprecated, Off, &["DeclarativeValidation"]),
    gate("DeploymentReplicaSetTerminatingReplicas", Stage::Beta, On, &[]),
    gate("DetectCacheInconsistency", Stage::Beta, On, &[]),
    gate("DisableAllocatorDualWrite", Stage::Ga, OnLocked, &["MultiCIDRServiceAllocator"]),
    gate("DisableCPUQuotaWithExclusiveCPUs", Stage::Deprecated, On, &[]),
    gate("DisableNodeKubeProxyVersion", Stage::Deprecated, OnLocked, &[]),
    gate("DynamicResourceAllocation", Stage::Ga, OnLocked, &[]),
    gate("EnvFiles", Stage::Beta, On, &[]),
    gate("EventedPLEG", Stage::Alpha, Off, &[]),
    gate("ExecProbeTimeout", Stage::Ga, OnLocked, &[]),
    gate("ExtendWebSocketsToKubelet", Stage::Beta, On, &["NodeDeclaredFeatures"]),
    gate("ExternalServiceAccountTokenSigner", Stage::Ga, OnLocked, &[]),
    gate("GangScheduling", Stage::Alpha, Off, &["GenericWorkload"]),
    gate("GenericWorkload", Stage::Alpha, Off, &[]),
    gate("GitRepoVolumeDriver", Stage::Deprecated, OffLocked, &[]),
    gate("GracefulNodeShutdown", Stage::Beta, On, &[]),
    gate("GracefulNodeShutdownBasedOnPodPriority", Stage::Beta, On, &["GracefulNodeShutdown"]),
    gate("HPAConfigurableTolerance", Stage::Beta, On, &[]),
    gate("HPAScaleToZero", Stage::Alpha, Off, &[]),
    gate("HostnameOverride", Stage::Beta, On, &[]),
    gate("ImageMaximumGCAge", Stage::Ga, OnLocked, &[]),
    gate("ImageVolume", Stage::Ga, OnLocked, &[]),
    gate("ImageVolumeWithDigest", Stage::Alpha, Off, &["ImageVolume"]),
    gate("InOrderInformers", Stage::Ga, OnLocked, &[]),
    gate("InOrderInformersBatchProcess", Stage::Beta, On, &[]),
    gate("InPlacePodLevelResourcesVerticalScaling", Stage::Beta, On, &["InPlacePodVerticalScaling", "PodLevelResources", "NodeDeclaredFeatures"]),
    gate("InPlacePodVerticalScaling", Stage::Ga, OnLocked, &[]),
    gate("InPlacePodVerticalScalingExclusiveCPUs", Stage::Alpha, Off, &["InPlacePodVerticalScaling"]),
    gate("InPlacePodVerticalScalingExclusiveMemory", Stage::Alpha, Off, &["InPlacePodVerticalScaling"]),
    gate("InPlacePodVerticalScalingInitContainers", Stage::Beta, On, &["InPlacePodVerticalScaling", "NodeDeclaredFeatures"]),
    gate("InformerResourceVersion", Stage::Ga, On, &[]),
    gate("JobBackoffLimitPerIndex", Stage::Ga, OnLocked, &[]),
    gate("JobManagedBy", Stage::Ga, OnLocked, &[]),
    gate("JobPodReplacementPolicy", Stage::Ga, OnLocked, &[]),
    gate("JobSuccessPolicy", Stage::Ga, OnLocked, &[]),
    gate("KMSv1", Stage::Deprecated, Off, &[]),
    gate("KubeletCgroupDriverFromCRI", Stage::Ga, OnLocked, &[]),
    gate("KubeletCrashLoopBackOffMax", Stage::Beta, On, &[]),
    gate("KubeletEnsureSecretPulledImages", Stage::Beta, On, &[]),
    gate("KubeletFineGrainedAuthz", Stage::Ga, OnLocked, &[]),
    gate("KubeletInUserNamespace", Stage::Alpha, Off, &[]),
    gate("KubeletPSI", Stage::Ga, OnLocked, &[]),
    gate("KubeletPodResourcesDynamicResources", Stage::Ga, OnLocked, &[]),
    gate("KubeletPodResourcesGet", Stage::Ga, OnLocked, &[]),
    gate("KubeletPodResourcesListUseActivePods", Stage::Deprecated, On, &[]),
    gate("KubeletRegistrationGetOnExistsOnly", Stage::Deprecated, Off, &[]),
    gate("KubeletSeparateDiskGC", Stage::Beta, On, &[]),
    gate("KubeletServiceAccountTokenForCredentialProviders", Stage::Beta, On, &[]),
    gate("KubeletTracing", Stage::Ga, OnLocked, &[]),
    gate("ListFromCacheSnapshot", Stage::Beta, On, &[]),
    gate("LocalStorageCapacityIsolationFSQuotaMonitoring", Stage::Beta, Off, &[]),
    gate("LogarithmicScaleDown", Stage::Ga, OnLocked, &[]),
    gate("ManifestBasedAdmissionControlConfig", Stage::Alpha, Off, &[]),
    gate("MatchLabelKeysInPodAffinity", Stage::Ga, OnLocked, &[]),
    gate("MatchLabelKeysInPodTopologySpread", Stage::Beta, On, &[]),
    gate("MatchLabelKeysInPodTopologySpreadSelectorMerge", Stage::Beta, On, &["MatchLabelKeysInPodTopologySpread"]),
    gate("MaxUnavailableStatefulSet", Stage::Beta, Off, &[]),
    gate("MemoryQoS", Stage::Alpha, Off, &[]),
    gate("MultiCIDRServiceAllocator", Stage::Ga, OnLocked, &[]),
    gate("MutableCSINodeAllocatableCount", Stage::Ga, OnLocked, &[]),
    gate("MutablePVNodeAffinity", Stage::Alpha, Off, &[]),
    gate("MutablePodResourcesForSuspendedJobs", Stage::Beta, On, &[]),
    gate("MutableSchedulingDirectivesForSuspendedJobs", Stage::Beta, On, &[]),
    gate("MutatingAdmissionPolicy", Stage::Ga, On, &[]),
    gate("NFTablesProxyMode", Stage::Ga, OnLocked, &[]),
    gate("NodeDeclaredFeatures", Stage::Beta, On, &[]),
    gate("NodeInclusionPolicyInPodTopologySpread", Stage::Ga, OnLocked, &[]),
    gate("NodeLogQuery", Stage::Ga, OnLocked, &[]),
    gate("NodeSwap", Stage::Ga, OnLocked, &[]),
    gate("NominatedNodeNameForExpectation", Stage::Beta, On, &[]),
    gate("OpenAPIEnums", Stage::Beta, On, &[]),
    gate("OpportunisticBatching", Stage::Beta, On, &[]),
    gate("OrderedNamespaceDeletion", Stage::Ga, OnLocked, &[]),
    gate("PLEGOnDemandRelist", Stage::Beta, On, &[]),
    gate("PersistentVolumeClaimUnusedSinceTime", Stage::Alpha, Off, &[]),
    gate("PodAndContainerStatsFromCRI", Stage::Alpha, Off, &[]),
    gate("PodCertificateRequest", Stage::Beta, Off, &["AuthorizeNodeWithSelectors"]),
    gate("PodDeletionCost", Stage::Beta, On, &[]),
    gate("PodLevelResourceManagers", Stage::Alpha, Off, &["PodLevelResources"]),
    gate("PodLevelResources", Stage::Beta, On, &[]),
    gate("PodLifecycleSleepAction", Stage::Ga, OnLocked, &[]),
    gate("PodLifecycleSleepActionAllowZero", Stage::Ga, OnLocked, &["PodLifecycleSleepAction"]),
    gate("PodLogsQuerySplitStreams", Stage::Alpha, Off, &[]),
    gate("PodObservedGenerationTracking", Stage::Ga, OnLocked, &[]),
    gate("PodReadyToStartContainersCondition", Stage::Beta, On, &[]),
    gate("PodSchedulingReadiness", Stage::Ga, OnLocked, &[]),
    gate("PodTopologyLabelsAdmission", Stage::Beta, On, &[]),
    gate("PodsAPI", Stage::Alpha, Off, &[]),
    gate("PortForwardWebsockets", Stage::Beta, On, &[]),
    gate("PreferSameTrafficDistribution", Stage::Ga, OnLocked, &[]),
    gate("PreventStaticPodAPIReferences", Stage::Beta, On, &[]),
    gate("ProcMountType", Stage::Ga, OnLocked, &["UserNamespacesSupport"]),
    gate("QOSReserved", Stage::Alpha, Off, &[]),
    gate("RecoverVolumeExpansionFailure", Stage::Ga, OnLocked, &[]),
    gate("RecursiveReadOnlyMounts", Stage::Ga, OnLocked, &[]),
    gate("ReduceDefaultCrashLoopBackOffDecay", Stage::Alpha, Off, &[]),
    gate("RelaxedDNSSearchValidation", Stage::Ga, OnLocked, &[]),
    gate("RelaxedEnvironmentVariableValidation", Stage::Ga, OnLocked, &[]),
    gate("RelaxedServiceNameValidation", Stage::Beta, On, &[]),
    gate("ReloadKubeletClientCAFile", Stage::Beta, On, &[]),
    gate("ReloadKubeletServerCertificateFile", Stage::Beta, On, &[]),
    gate("RemoteRequestHeaderUID", Stage::Beta, On, &[]),
    gate("ResilientWatchCacheInitialization", Stage::Ga, OnLocked, &[]),
    gate("ResourceHealthStatus", Stage::Beta, On, &["DynamicResourceAllocation"]),
    gate("ResourceHealthStatusMessage", Stage::Beta, On, &["ResourceHealthStatus"]),
    gate("RestartAllContainersOnContainerExits", Stage::Beta, On, &["ContainerRestartRules", "NodeDeclaredFeatures"]),
    gate("RetryGenerateName", Stage::Ga, OnLocked, &[]),
    gate("RotateKubeletServerCertificate", Stage::Beta, On, &[]),
    gate("RuntimeClassInImageCriApi", Stage::Alpha, Off, &[]),
    gate("SELinuxChangePolicy", Stage::Ga, OnLocked, &[]),
    gate("SELinuxMount", Stage::Beta, Off, &[]),
    gate("SELinuxMountReadWriteOncePod", Stage::Ga, OnLocked, &[]),
    gate("SchedulerAsyncAPICalls", Stage::Beta, Off, &[]),
    gate("SchedulerAsyncPreemption", Stage::Beta, On, &[]),
    gate("SchedulerPopFromBackoffQ", Stage::Beta, On, &[]),
    gate("SchedulerQueueingHints", Stage::Ga, OnLocked, &[]),
    gate("SeparateCacheWatchRPC", Stage::Deprecated, OffLocked, &[]),
    gate("SeparateTaintEvictionController", Stage::Ga, OnLocked, &[]),
    gate("ServiceAccountNodeAudienceRestriction", Stage::Beta, On, &[]),
    gate("ServiceAccountTokenJTI", Stage::Ga, OnLocked, &[]),
    gate("ServiceAccountTokenNodeBinding", Stage::Ga, OnLocked, &["ServiceAccountTokenNodeBindingValidation"]),
    gate("ServiceAccountTokenNodeBindingValidation", Stage::Ga, OnLocked, &[]),
    gate("ServiceAccountTokenPodNodeInfo", Stage::Ga, OnLocked, &[]),
    gate("ServiceCIDRStatusFieldWiping", Stage::Deprecated, On, &[]),
    gate("ShardedListAndWatch", Stage::Alpha, Off, &[]),
    gate("SidecarContainers", Stage::Ga, OnLocked, &[]),
    gate("SizeBasedListCostEstimate", Stage::Beta, On, &[]),
    gate("StaleControllerConsistencyDaemonSet", Stage::Beta, On, &["AtomicFIFO"]),
    gate("StaleControllerConsistencyJob", Stage::Beta, On, &["AtomicFIFO"]),
    gate("StaleControllerConsistencyReplicaSet", Stage::Beta, On, &["AtomicFIFO"]),
    gate("StaleControllerConsistencyStatefulSet", Stage::Beta, On, &["AtomicFIFO"]),
    gate("StatefulSetSemanticRevisionComparison", Stage::Beta, On, &[]),
    gate("StorageCapacityScoring", Stage::Alpha, Off, &[]),
    gate("StorageNamespaceIndex", Stage::Deprecated, On, &[]),
    gate("StorageVersionAPI", Stage::Alpha, Off, &["APIServerIdentity"]),
    gate("StorageVersionHash", Stage::Beta, On, &[]),
    gate("StorageVersionMigrator", Stage::Beta, Off, &[]),
    gate("StreamingCollectionEncodingToJSON", Stage::Ga, OnLocked, &[]),
    gate("StreamingCollectionEncodingToProtobuf", Stage::Ga, OnLocked, &[]),
    gate("StrictIPCIDRValidation", Stage::Beta, On, &[]),
    gate("StructuredAuthenticationConfiguration", Stage::Ga, OnLocked, &[]),
    gate("StructuredAuthenticationConfigurationEgressSelector", Stage::Beta, On, &["StructuredAuthenticationConfiguration"]),
    gate("StructuredAuthenticationConfigurationJWKSMetrics", Stage::Beta, On, &["StructuredAuthenticationConfiguration"]),
    gate("SupplementalGroupsPolicy", Stage::Ga, OnLocked, &[]),
    gate("SystemdWatchdog", Stage::Ga, OnLocked, &[]),
    gate("TaintTolerationComparisonOperators", Stage::Alpha, Off, &[]),
    gate("TokenRequestServiceAccountUIDValidation", Stage::Beta, On, &[]),
    gate("TopologyAwareWorkloadScheduling", Stage::Alpha, Off, &["GenericWorkload"]),
    gate("TopologyManagerPolicyAlphaOptions", Stage::Alpha, Off, &[]),
    gate("TopologyManagerPolicyBetaOptions", Stage::Beta, On, &[]),
    gate("TopologyManagerPolicyOptions", Stage::Ga, OnLocked, &[]),
    gate("TranslateStreamCloseWebsocketRequests", Stage::Beta, On, &[]),
    gate("UnauthenticatedHTTP2DOSMitigation", Stage::Beta, On, &[]),
    gate("UnknownVersionInteroperabilityProxy", Stage::Beta, On, &["APIServerIdentity"]),
    gate("UnlockWhileProcessingFIFO", Stage::Beta, On, &[]),
    gate("UserNamespacesHostNetworkSupport", Stage::Alpha, Off, &["UserNamespacesSupport", "NodeDeclaredFeatures"]),
    gate("UserNamespacesSupport", Stage::Ga, OnLocked, &[]),
    gate("VolumeAttributesClass", Stage::Ga, OnLocked, &[]),
    gate("VolumeLimitScaling", Stage::Alpha, Off, &[]),
    gate("WatchCacheInitializationPostStartHook", Stage::Beta, On, &[]),
    gate("WatchList", Stage::Beta, On, &[]),
    gate("WatchListClient", Stage::Beta, On, &[]),
    gate("WinDSR", Stage::Ga, OnLocked, &[]),
    gate("WinOverlay", Stage::Ga, OnLocked, &[]),
    gate("WindowsCPUAndMemoryAffinity", Stage::Alpha, Off, &[]),
    gate("WindowsGracefulNodeShutdown", Stage::Beta, On, &["GracefulNodeShutdown"]),
    gate("WindowsHostNetwork", Stage::Deprecated, Off, &[]),
    gate("WorkloadAwarePreemption", Stage::Alpha, Off, &["GangScheduling"]),
    gate("WorkloadWithJob", Stage::Alpha, Off, &["GenericWorkload"]),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn set(gates: &[(&str, bool)]) -> FeatureGates {
        FeatureGates::new(gates.iter().map(|(name, on)| ((*name).to_owned(), *on)).collect())
    }

    #[test]
    fn gates_are_sorted_and_need_only_known_gates() {
        assert!(GATES.windows(2).all(|pair| pair[0].name < pair[1].name));
        for gate in GATES {
            for needed in gate.needs {
                assert!(find(needed).is_some(), "{} needs unknown {needed}", gate.name);
            }
        }
    }

    #[test]
    fn stable_gates_are_locked_on() {
        // API-271
        for name in [
            "KubeletFineGrainedAuthz",
            "KubeletPSI",
            "NodeLogQuery",
            "NodeSwap",
            "DynamicResourceAllocation",
            "InPlacePodVerticalScaling",
            "SidecarContainers",
            "KubeletTracing",
            "KubeletCgroupDriverFromCRI",
            "SystemdWatchdog",
            "AuthorizeNodeWithSelectors",
        ] {
            let gate = find(name).unwrap_or_else(|| panic!("{name} is missing"));
            assert!(gate.default && gate.locked, "{name}: {gate:?}");
        }
    }

    #[test]
    fn beta_gates_are_on_and_alpha_gates_are_off_by_default() {
        // API-272, API-273
        let gates = FeatureGates::default();
        for name in [
            "ExtendWebSocketsToKubelet",
            "NodeDeclaredFeatures",
            "RotateKubeletServerCertificate",
            "ReloadKubeletServerCertificateFile",
            "ReloadKubeletClientCAFile",
            "ContainerCheckpoint",
            "GracefulNodeShutdown",
            "KubeletCrashLoopBackOffMax",
            "KubeletEnsureSecretPulledImages",
            "KubeletSeparateDiskGC",
            "PodReadyToStartContainersCondition",
            "PodLevelResources",
            "ContainerRestartRules",
            "ComponentStatusz",
            "ComponentFlagz",
        ] {
            assert!(gates.enabled(name), "{name}");
        }
        for name in [
            "ClusterTrustBundleProjection",
            "PodCertificateRequest",
            "SELinuxMount",
            "PodAndContainerStatsFromCRI",
            "EventedPLEG",
            "MemoryQoS",
            "PodLogsQuerySplitStreams",
            "CRIListStreaming",
            "PodsAPI",
            "KubeletInUserNamespace",
            "QOSReserved",
        ] {
            assert!(find(name).is_some() && !gates.enabled(name), "{name}");
        }
    }

    #[test]
    fn all_alpha_turns_on_what_is_not_set_itself() {
        let gates = set(&[("AllAlpha", true), ("EventedPLEG", false)]);
        assert!(gates.enabled("MemoryQoS"));
        assert!(!gates.enabled("EventedPLEG"));
        assert!(!gates.enabled("SELinuxMount"), "a beta gate is no alpha gate");
        assert!(!gates.enabled("NoSuchGate"));
    }
}
