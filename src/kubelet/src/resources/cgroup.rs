//! Decides the cgroups of pods and QoS tiers: their names with either driver, and their settings.
//! Upstream: pkg/kubelet/cm/{cgroup_manager_linux,helpers_linux,pod_container_manager_linux,qos_container_manager_linux}.go.
//! Differs: nothing on purpose.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use proto::cri::LinuxContainerResources;

use super::qos::{QosClass, qos_class};
use super::requests::{Amounts, Kind, declares_limit, pod_amounts, printed};
use crate::action::CgroupSettings;
use crate::config::{CgroupDriver, Config, Enforcement};
use crate::observation::MachineInfo;

/// NODE-133
const LEAST_SHARES: u64 = 2;
const MOST_SHARES: u64 = 262_144;
const LEAST_QUOTA: i64 = 1000;
/// Huge pages without a bound, in bytes (NODE-134).
const UNBOUNDED: u64 = 1 << 62;

/// CPU shares of that many thousandths of a core.
#[must_use]
pub fn cpu_shares(milli: i64) -> u64 {
    if milli <= 0 {
        return LEAST_SHARES;
    }
    (u64::try_from(milli).unwrap_or(0) * 1024 / 1000).clamp(LEAST_SHARES, MOST_SHARES)
}

/// CFS quota in microseconds of that many thousandths of a core; 0 for no limit.
#[must_use]
pub fn cpu_quota(milli: i64, period_us: i64) -> i64 {
    if milli <= 0 { 0 } else { (milli.saturating_mul(period_us) / 1000).max(LEAST_QUOTA) }
}

/// The thousandths of a core that a quota is; 0 for no limit (upstream's quotaToMilliCPU).
#[must_use]
pub fn quota_to_milli(quota: i64, period_us: i64) -> i64 {
    if period_us > 0 && quota > 0 { quota.saturating_mul(1000) / period_us } else { 0 }
}

/// What a runtime is told of requests and limits (POD-178, CRI-044). The period is told whether or not there is a quota, and what asks for
/// no CPU has the least shares: upstream's `calculateLinuxResources`.
#[must_use]
pub fn runtime_resources(requests: &Amounts, limits: &Amounts, config: &Config) -> LinuxContainerResources {
    let cpu_limit = limits.get("cpu").copied().unwrap_or(0);
    // A request of zero is one; only one that is not there means the limit.
    let cpu_request = requests.get("cpu").copied().unwrap_or(cpu_limit);
    let mut resources = LinuxContainerResources {
        cpu_shares: i64::try_from(cpu_shares(cpu_request)).unwrap_or_default(),
        memory_limit_in_bytes: limits.get("memory").copied().unwrap_or(0),
        ..LinuxContainerResources::default()
    };
    if config.pods.cpu_cfs_quota {
        resources.cpu_period = i64::try_from(config.pods.cpu_cfs_quota_period.as_micros()).unwrap_or(100_000);
        resources.cpu_quota = cpu_quota(cpu_limit, resources.cpu_period);
    }
    resources
}

/// The name of a cgroup below the configured root from its components, as the driver writes it (NODE-131).
#[must_use]
pub fn cgroup_name(config: &Config, driver: CgroupDriver, components: &[&str]) -> String {
    let root: Vec<&str> = config.cgroups.root.split('/').filter(|c| !c.is_empty()).collect();
    let all = root.iter().copied().chain(components.iter().copied());
    match driver {
        CgroupDriver::Cgroupfs => all.map(|c| format!("/{c}")).collect(),
        CgroupDriver::Systemd => {
            let mut path = String::new();
            let mut slice = String::new();
            for component in all {
                if !slice.is_empty() {
                    slice.push('-');
                }
                slice.push_str(&component.replace('-', "_"));
                path.push_str(&format!("/{slice}.slice"));
            }
            path
        }
    }
}

/// The pod's cgroup (POD-148): Guaranteed pods lie directly under kubepods.
#[must_use]
pub fn pod_cgroup_name(pod: &Pod, config: &Config, driver: CgroupDriver) -> String {
    let uid = format!("pod{}", pod.metadata.uid.as_deref().unwrap_or_default());
    let components: &[&str] = match qos_class(pod) {
        QosClass::Guaranteed => &["kubepods", &uid],
        QosClass::Burstable => &["kubepods", "burstable", &uid],
        QosClass::BestEffort => &["kubepods", "besteffort", &uid],
    };
    cgroup_name(config, driver, components)
}

/// What the pod's cgroup is set to (POD-180, NODE-135).
#[must_use]
pub fn pod_cgroup_settings(pod: &Pod, config: &Config, machine: &MachineInfo) -> CgroupSettings {
    let requests = pod_amounts(pod, Kind::Requests);
    let limits = pod_amounts(pod, Kind::Limits);
    let amount = |list: &Amounts, name: &str| list.get(name).copied().unwrap_or(0);
    // An unset request means the limit.
    let cpu = requests.get("cpu").or(limits.get("cpu")).copied().unwrap_or(0);
    let mut settings = CgroupSettings {
        cpu_shares: Some(cpu_shares(cpu)),
        pids_max: config.pods.pids_limit.and_then(|l| i64::try_from(l).ok()),
        // Sizes that are not asked for are not to be had.
        hugetlb: every_page_size(machine, 0),
        ..CgroupSettings::default()
    };
    let class = qos_class(pod);
    if class == QosClass::BestEffort {
        settings.cpu_shares = Some(LEAST_SHARES);
        return settings;
    }
    let period = i64::try_from(config.pods.cpu_cfs_quota_period.as_micros()).unwrap_or(100_000);
    if class == QosClass::Guaranteed || declares_limit(pod, "cpu") {
        let quota = cpu_quota(amount(&limits, "cpu"), period);
        settings.cpu_quota = Some(if config.pods.cpu_cfs_quota { quota } else { -1 });
        settings.cpu_period = u64::try_from(period).ok();
    }
    if class == QosClass::Guaranteed || declares_limit(pod, "memory") {
        settings.memory_limit = Some(amount(&limits, "memory")).filter(|limit| *limit > 0);
    }
    for (name, amount) in &requests {
        if let Some(size) = name.strip_prefix("hugepages-") {
            settings.hugetlb.insert(kernel_page_size(size), u64::try_from(*amount).unwrap_or(0));
        }
    }
    settings
}

/// `2Mi` as the kernel names it: `2MB`.
#[must_use]
pub fn kernel_page_size(size: &str) -> String {
    size.strip_suffix('i').map_or_else(|| size.to_owned(), |unit| format!("{unit}B"))
}

/// The same limit for all sizes of huge pages that the machine has.
fn every_page_size(machine: &MachineInfo, limit: u64) -> BTreeMap<String, u64> {
    let name = |size: &u64| kernel_page_size(&printed("memory", i64::try_from(*size).unwrap_or(0)).0);
    machine.hugepages.keys().map(|size| (name(size), limit)).collect()
}

/// What all pods together may use (NODE-141): capacity less reservations; the eviction threshold is not taken off.
#[must_use]
pub fn kubepods_settings(config: &Config, machine: &MachineInfo) -> CgroupSettings {
    let enforced = config.cgroups.enforce_node_allocatable.contains(&Enforcement::Pods);
    let reserved = |name: &str| if enforced { config.reserved.total(name) } else { 0 };
    let cpu = (machine.cpus * 1000).saturating_sub(reserved("cpu"));
    let memory = machine.memory.saturating_sub(reserved("memory"));
    let pids = machine.max_pids.saturating_sub(reserved("pid"));
    CgroupSettings {
        cpu_shares: Some(cpu_shares(i64::try_from(cpu).unwrap_or(i64::MAX))),
        memory_limit: i64::try_from(memory).ok(),
        pids_max: (pids > 0).then(|| i64::try_from(pids).unwrap_or(i64::MAX)),
        // All of them: what systemd does not hear of, it may take away.
        cpuset: Some(machine.online_cpus.clone()).filter(|cpus| !cpus.is_empty()),
        hugetlb: every_page_size(machine, UNBOUNDED),
        ..CgroupSettings::default()
    }
}

/// The groups above the pods, outermost first, with their settings (NODE-134, NODE-141).
#[must_use]
pub fn kubepods_cgroups(config: &Config, driver: CgroupDriver, machine: &MachineInfo) -> Vec<(String, CgroupSettings)> {
    let tier = || CgroupSettings {
        cpu_shares: Some(LEAST_SHARES),
        hugetlb: every_page_size(machine, UNBOUNDED),
        ..CgroupSettings::default()
    };
    vec![
        (cgroup_name(config, driver, &["kubepods"]), kubepods_settings(config, machine)),
        (cgroup_name(config, driver, &["kubepods", "burstable"]), tier()),
        (cgroup_name(config, driver, &["kubepods", "besteffort"]), tier()),
    ]
}

/// What is set anew of the groups above the pods (NODE-134; UpdateCgroups): of the Burstable tier its shares and, of `all`, the BestEffort
/// tier's, and that huge pages have no bounds.
#[must_use]
pub fn tiers(
    config: &Config,
    driver: CgroupDriver,
    machine: &MachineInfo,
    shares: u64,
    all: bool,
) -> Vec<(String, CgroupSettings)> {
    let mut groups = kubepods_cgroups(config, driver, machine);
    groups[1].1.cpu_shares = Some(shares);
    if !all {
        let (name, _) = groups.swap_remove(1);
        return vec![(name, CgroupSettings { cpu_shares: Some(shares), ..CgroupSettings::default() })];
    }
    groups[0].1 = CgroupSettings { hugetlb: every_page_size(machine, UNBOUNDED), ..CgroupSettings::default() };
    groups.retain(|(_, settings)| *settings != CgroupSettings::default());
    groups
}

/// The Burstable tier's shares: the sum of what its pods ask for (NODE-134).
#[must_use]
pub fn burstable_shares<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> u64 {
    let of = |pod: &Pod| pod_amounts(pod, Kind::Requests).get("cpu").copied().unwrap_or(0);
    let total: i64 = pods.into_iter().filter(|p| qos_class(p) == QosClass::Burstable).map(of).sum();
    cpu_shares(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"uid": "3160140d-d642-4b75-acb1-34bbe06483fc"},
            "spec": {"initContainers": [{"name": "init"}], "containers": [{"name": "main", "resources": {
                "requests": {"cpu": "100m", "memory": "16Mi"}, "limits": {"cpu": "200m", "memory": "32Mi"}}}]},
        }))
        .unwrap()
    }

    // POD-148, NODE-131
    #[test]
    fn pod_cgroup_is_named_as_the_driver_wants() {
        let config = Config::new("n1");
        assert_eq!(
            pod_cgroup_name(&pod(), &config, CgroupDriver::Cgroupfs),
            "/kubepods/burstable/pod3160140d-d642-4b75-acb1-34bbe06483fc"
        );
        assert_eq!(
            pod_cgroup_name(&pod(), &config, CgroupDriver::Systemd),
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod3160140d_d642_4b75_acb1_34bbe06483fc.slice"
        );
    }

    // POD-180: as captured: an init container without limits leaves the pod's group unlimited.
    #[test]
    fn pod_cgroup_has_the_captured_settings() {
        let settings = pod_cgroup_settings(&pod(), &Config::new("n1"), &MachineInfo::default());
        assert_eq!(settings.cpu_shares, Some(102));
        assert_eq!((settings.cpu_quota, settings.memory_limit), (None, None));
        let mut limited = pod();
        limited.spec.as_mut().unwrap().init_containers = None;
        let settings = pod_cgroup_settings(&limited, &Config::new("n1"), &MachineInfo::default());
        assert_eq!((settings.cpu_quota, settings.memory_limit), (Some(20_000), Some(32 << 20)));
        assert_eq!(burstable_shares([&pod()]), 102);
    }

    // NODE-135, POD-297: upstream's test/e2e_node/runtimeclass_test.go: what a pod asks for and its overhead together, 30000 and 251658240.
    #[test]
    fn pod_cgroup_is_the_sum_of_limits_and_overhead() {
        let amounts = json!({"cpu": "100m", "memory": "100Mi"});
        let resources = json!({"requests": amounts, "limits": amounts});
        let spec = json!({"overhead": {"cpu": "200m", "memory": "140Mi"}, "containers": [{"name": "c", "resources": resources}]});
        let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
        let settings = pod_cgroup_settings(&pod, &Config::new("n1"), &MachineInfo::default());
        assert_eq!((settings.cpu_quota, settings.memory_limit, settings.cpu_shares), (Some(30_000), Some(251_658_240), Some(307)));
        // Only what has a limit grows by the overhead (component-helpers/resource/helpers.go, PodLimits).
        let resources = json!({"requests": {"cpu": "100m"}, "limits": {"memory": "100Mi"}});
        let spec = json!({"overhead": {"cpu": "200m", "memory": "140Mi"}, "containers": [{"name": "c", "resources": resources}]});
        let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
        let settings = pod_cgroup_settings(&pod, &Config::new("n1"), &MachineInfo::default());
        assert_eq!((settings.cpu_quota, settings.memory_limit, settings.cpu_shares), (None, Some(251_658_240), Some(307)));
    }

    // NODE-134, NODE-135: a BestEffort pod is not without bounds here.
    #[test]
    fn pods_have_the_huge_pages_that_they_ask_for_and_tiers_all() {
        let machine = MachineInfo { hugepages: [(2 << 20, 8), (1 << 30, 0)].into(), ..MachineInfo::default() };
        let of_pod = |resources: serde_json::Value| {
            let pod = json!({"spec": {"containers": [{"name": "main", "resources": resources}]}});
            pod_cgroup_settings(&serde_json::from_value(pod).unwrap(), &Config::new("n1"), &machine).hugetlb
        };
        let limits = |two: u64, one: u64| BTreeMap::from([("2MB".to_owned(), two), ("1GB".to_owned(), one)]);
        assert_eq!(of_pod(json!({})), limits(0, 0));
        assert_eq!(of_pod(json!({"requests": {"cpu": "1", "hugepages-2Mi": "4Mi"}})), limits(4 << 20, 0));
        for (name, settings) in kubepods_cgroups(&Config::new("n1"), CgroupDriver::Systemd, &machine) {
            assert_eq!(settings.hugetlb, limits(1 << 62, 1 << 62), "{name}");
        }
    }

    // NODE-134: qos_container_manager_linux.go (UpdateCgroups): the shares of both tiers and, of all three groups, huge pages without
    // bounds; nothing else of them.
    #[test]
    fn tiers_are_set_anew_to_shares_and_huge_pages() {
        let machine = MachineInfo { cpus: 2, memory: 1 << 30, hugepages: [(2 << 20, 8)].into(), ..MachineInfo::default() };
        let hugetlb = BTreeMap::from([("2MB".to_owned(), 1 << 62)]);
        let of = |cpu_shares, hugetlb: &BTreeMap<String, u64>| CgroupSettings {
            cpu_shares,
            hugetlb: hugetlb.clone(),
            ..CgroupSettings::default()
        };
        let set = |machine: &MachineInfo, all| tiers(&Config::new("n1"), CgroupDriver::Cgroupfs, machine, 102, all);
        let burstable = |hugetlb| ("/kubepods/burstable".to_owned(), of(Some(102), hugetlb));
        let besteffort = |hugetlb| ("/kubepods/besteffort".to_owned(), of(Some(2), hugetlb));
        let (none, kubepods) = (BTreeMap::new(), ("/kubepods".to_owned(), of(None, &hugetlb)));
        assert_eq!(set(&machine, true), [kubepods, burstable(&hugetlb), besteffort(&hugetlb)]);
        assert_eq!(set(&MachineInfo::default(), true), [burstable(&none), besteffort(&none)]);
        assert_eq!(set(&machine, false), [burstable(&none)]);
    }

    // NODE-141: as captured.
    #[test]
    fn all_pods_together_get_capacity_less_reservations() {
        let machine =
            MachineInfo { cpus: 2, memory: 25_276_510_208, max_pids: 32_768, online_cpus: "0-1".into(), ..MachineInfo::default() };
        let settings = kubepods_settings(&Config::new("n1"), &machine);
        assert_eq!(settings.cpu_shares, Some(2048));
        assert_eq!(settings.memory_limit, Some(25_276_510_208));
        assert_eq!(settings.pids_max, Some(32_768));
        assert_eq!(settings.cpuset.as_deref(), Some("0-1"));
        // node_container_manager_linux.go (getNodeAllocatableInternalAbsolute): less what is reserved, unless the pods are not bounded.
        let mut config = Config::new("n1");
        config.reserved.system = [("cpu".to_owned(), 500), ("memory".to_owned(), 1 << 30), ("pid".to_owned(), 768)].into();
        config.reserved.kube = [("memory".to_owned(), 1 << 20)].into();
        let of = |config: &Config| {
            let settings = kubepods_settings(config, &machine);
            (settings.cpu_shares, settings.memory_limit, settings.pids_max)
        };
        assert_eq!(of(&config), (Some(1536), Some(25_276_510_208 - (1 << 30) - (1 << 20)), Some(32_000)));
        config.cgroups.enforce_node_allocatable.clear();
        assert_eq!(of(&config), (Some(2048), Some(25_276_510_208), Some(32_768)));
    }

    // NODE-133
    #[test]
    fn shares_and_quota_have_bounds() {
        assert_eq!((cpu_shares(0), cpu_shares(1), cpu_shares(1_000_000)), (2, 2, 262_144));
        assert_eq!((cpu_quota(0, 100_000), cpu_quota(5, 100_000), cpu_quota(200, 100_000)), (0, 1000, 20_000));
    }
}
