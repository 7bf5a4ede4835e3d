//! Decides what a container is made with.
//! Upstream: pkg/kubelet/kuberuntime/{kuberuntime_container,kuberuntime_container_linux}.go.
//! Differs: nothing on purpose.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use proto::cri::{
    ContainerConfig, ContainerMetadata, HugepageLimit, ImageSpec, KeyValue, LinuxContainerConfig, LinuxContainerResources,
    LinuxContainerSecurityContext, Mount,
};

use super::env::{Environment, expand};
use super::labels::{container_annotations, container_labels};
use crate::config::Config;
use crate::images::ResolvedImage;
use crate::limits::Room;
use crate::observation::MachineInfo;
use crate::resources::cgroup::{kernel_page_size, runtime_resources};
use crate::resources::qos::oom_score_adj;
use crate::resources::requests::{Kind, amounts_of, container_amounts};
use crate::resources::swap::limit_swap;

/// What a container is made of, beyond its spec.
#[derive(Debug)]
pub struct ContainerInputs<'a> {
    /// The settings.
    pub config: &'a Config,
    /// The machine.
    pub machine: &'a MachineInfo,
    /// The resolved image.
    pub image: &'a ResolvedImage,
    /// How often the container was restarted.
    pub restart_count: u32,
    /// Its environment.
    pub env: &'a Environment,
    /// Its mounts, in upstream's order: volumes, /etc/hosts, termination log.
    pub mounts: Vec<Mount>,
    /// Its identity and powers.
    pub security_context: LinuxContainerSecurityContext,
}

/// The container's configuration (POD-165 to POD-181).
///
/// # Errors
/// There is no room for its command and arguments.
pub fn container_config(
    pod: &Pod,
    container: &Container,
    inputs: ContainerInputs<'_>,
    room: &mut Room,
) -> Result<ContainerConfig, String> {
    let look_up = |name: &str| inputs.env.text(name);
    let mut expanded =
        |words: &Option<Vec<String>>| words.iter().flatten().map(|word| expand(word, room, look_up)).collect::<Result<Vec<_>, _>>();
    let (command, args) = (expanded(&container.command)?, expanded(&container.args)?);
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata { name: container.name.clone(), attempt: inputs.restart_count }),
        image: Some(ImageSpec {
            image: inputs.image.image_ref.clone(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..ImageSpec::default()
        }),
        command,
        args,
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: inputs.env.iter().map(|(key, value)| KeyValue { key: key.to_owned(), value: value.to_vec() }).collect(),
        labels: container_labels(pod, container),
        annotations: container_annotations(pod, container, inputs.restart_count),
        log_path: format!("{}/{}.log", container.name, inputs.restart_count),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        mounts: inputs.mounts,
        linux: Some(LinuxContainerConfig {
            resources: Some(resources(pod, container, inputs.config, inputs.machine)),
            security_context: Some(inputs.security_context),
        }),
        ..ContainerConfig::default()
    })
}

/// POD-178, POD-179, NODE-148
fn resources(pod: &Pod, container: &Container, config: &Config, machine: &MachineInfo) -> LinuxContainerResources {
    let requests = container_amounts(container, Kind::Requests);
    let mut limits = container_amounts(container, Kind::Limits);
    // Limits that are unset, or zero, are the pod's own, where it has some (getCPULimit, getMemoryLimit).
    let of_pod = pod.spec.as_ref().and_then(|s| s.resources.as_ref()).and_then(|r| r.limits.as_ref());
    for (name, amount) in amounts_of(of_pod) {
        let zero = name == "cpu" || name == "memory";
        limits.entry(name).and_modify(|limit| *limit = if zero && *limit == 0 { amount } else { *limit }).or_insert(amount);
    }
    let mut resources = LinuxContainerResources {
        oom_score_adj: oom_score_adj(pod, container, machine.memory),
        hugepage_limits: hugepage_limits(&limits, machine),
        ..runtime_resources(&requests, &limits, config)
    };
    if machine.cgroup_v2 && !config.pods.single_process_oom_kill {
        // NODE-137
        resources.unified.insert("memory.oom.group".to_owned(), "1".to_owned());
    }
    limit_swap(&mut resources, pod, container, config, machine);
    resources
}

/// CRI-044: every page size of the machine, 0 unless limited.
fn hugepage_limits(limits: &BTreeMap<String, i64>, machine: &MachineInfo) -> Vec<HugepageLimit> {
    let one = |size: &u64| {
        let name = crate::resources::requests::printed("memory", i64::try_from(*size).unwrap_or(0)).0;
        let limit = limits.get(&format!("hugepages-{name}")).copied().unwrap_or(0);
        HugepageLimit { page_size: kernel_page_size(&name), limit: u64::try_from(limit).unwrap_or(0) }
    };
    machine.hugepages.keys().map(one).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::pod::security_context::{SecurityInputs, security_context};

    // POD-165 to POD-181, CRI-016: the main container of the golden pod, field by field; the order of its environment is free.
    #[test]
    fn golden_pod_has_the_golden_container() {
        let pod: Pod = serde_json::from_str(include_str!("../../testdata/pod-running.json")).unwrap();
        let golden: serde_json::Value = serde_json::from_str(include_str!("../../testdata/container.json")).unwrap();
        let golden: ContainerConfig = serde_json::from_value(golden["config"].clone()).unwrap();
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let config = Config::new("n1");
        let machine = MachineInfo {
            memory: 24_684_092 << 10,
            hugepages: [(2 << 20, 0), (1 << 30, 0)].into(),
            swap_controller: true,
            ..MachineInfo::default()
        };
        let image = ResolvedImage { image_ref: golden.image.as_ref().unwrap().image.clone(), ..ResolvedImage::default() };
        let env = golden_environment(&pod, container);
        let root = "/var/lib/kubelet";
        let security = SecurityInputs { image: &image, seccomp_default: false, root, volume_groups: &[], thermal_throttles: &[] };
        let inputs = ContainerInputs {
            config: &config,
            machine: &machine,
            image: &image,
            restart_count: 0,
            env: &env,
            mounts: golden.mounts.clone(),
            security_context: security_context(&pod, container, &security).unwrap(),
        };
        let mut ours = container_config(&pod, container, inputs, &mut Room::of_container()).unwrap();
        let by_key = |mut envs: Vec<KeyValue>| {
            envs.sort_by(|a, b| a.key.cmp(&b.key));
            envs
        };
        assert_eq!(by_key(ours.envs.clone()), by_key(golden.envs.clone()));
        ours.envs.clone_from(&golden.envs);
        assert_eq!(ours, golden);
    }

    // ENV-006: commands and arguments know the whole environment, services included.
    #[test]
    fn command_and_arguments_are_expanded_from_the_whole_environment() {
        let mut pod: Pod = serde_json::from_str(include_str!("../../testdata/pod-running.json")).unwrap();
        let container = &mut pod.spec.as_mut().unwrap().containers[0];
        container.command = Some(vec!["$(KUBERNETES_SERVICE_HOST)".to_owned(), "$$(X)".to_owned()]);
        container.args = Some(vec!["at $(KUBERNETES_SERVICE_PORT) $(NOT_THERE)".to_owned()]);
        let container = container.clone();
        let env = golden_environment(&pod, &container);
        let inputs = ContainerInputs {
            config: &Config::new("n1"),
            machine: &MachineInfo::default(),
            image: &ResolvedImage::default(),
            restart_count: 0,
            env: &env,
            mounts: Vec::new(),
            security_context: LinuxContainerSecurityContext::default(),
        };
        let made = container_config(&pod, &container, inputs, &mut Room::of_container()).unwrap();
        assert_eq!(made.command, ["10.96.0.1", "$(X)"]);
        assert_eq!(made.args, ["at 443 $(NOT_THERE)"]);
    }

    // POD-178: as a kubelet 1.36.2 was recorded, with containers without a CPU limit: nothing asked for, and a request of 100m.
    #[test]
    fn container_without_a_limit_is_told_the_period() {
        let of = |config: &Config, requests: serde_json::Value| {
            let container = serde_json::json!({"name": "c", "resources": {"requests": requests}});
            let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {"containers": [container]}})).unwrap();
            let made = resources(&pod, &pod.spec.as_ref().unwrap().containers[0], config, &MachineInfo::default());
            (made.cpu_period, made.cpu_quota, made.cpu_shares)
        };
        let mut config = Config::new("n1");
        assert_eq!(of(&config, serde_json::json!({})), (100_000, 0, 2));
        assert_eq!(of(&config, serde_json::json!({"cpu": "100m"})), (100_000, 0, 102));
        config.pods.cpu_cfs_quota = false;
        assert_eq!(of(&config, serde_json::json!({"cpu": "100m"})), (0, 0, 102));
    }

    // POD-178: kuberuntime_container_linux.go (getCPULimit, getMemoryLimit): a limit of zero is none, and the pod's own counts.
    #[test]
    fn limit_of_zero_is_the_pods_own() {
        let of = |limits: serde_json::Value| {
            let spec = serde_json::json!({
                "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}},
                "containers": [{"name": "c", "resources": {"limits": limits}}],
            });
            let pod: Pod = serde_json::from_value(serde_json::json!({"spec": spec})).unwrap();
            let made = resources(&pod, &pod.spec.as_ref().unwrap().containers[0], &Config::new("n1"), &MachineInfo::default());
            (made.cpu_quota, made.memory_limit_in_bytes)
        };
        assert_eq!(of(serde_json::json!({})), (50_000, 64 << 20));
        assert_eq!(of(serde_json::json!({"cpu": "0", "memory": "0"})), (50_000, 64 << 20));
        assert_eq!(of(serde_json::json!({"cpu": "200m", "memory": "32Mi"})), (20_000, 32 << 20));
    }

    // NODE-137
    #[test]
    fn container_dies_whole_when_memory_is_out_unless_one_process_is_to() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {"containers": [{"name": "c"}]}})).unwrap();
        let mut config = Config::new("n1");
        let unified = |config: &Config, cgroup_v2| {
            let machine = MachineInfo { cgroup_v2, ..MachineInfo::default() };
            resources(&pod, &pod.spec.as_ref().unwrap().containers[0], config, &machine).unified
        };
        config.pods.single_process_oom_kill = false;
        assert_eq!(unified(&config, true).get("memory.oom.group").map(String::as_str), Some("1"));
        assert!(unified(&config, false).is_empty());
        config.pods.single_process_oom_kill = true;
        assert!(unified(&config, true).is_empty());
    }

    // CRI-044: every size that the machine has is named as the kernel does, and limited to nothing unless asked for.
    #[test]
    fn every_huge_page_size_is_limited() {
        let machine = MachineInfo { hugepages: [(2 << 20, 8), (1 << 30, 1)].into(), ..MachineInfo::default() };
        let limits = BTreeMap::from([("hugepages-2Mi".to_owned(), 4 << 20)]);
        let limited: Vec<(String, u64)> =
            hugepage_limits(&limits, &machine).into_iter().map(|limit| (limit.page_size, limit.limit)).collect();
        assert_eq!(limited, [("2MB".to_owned(), 4 << 20), ("1GB".to_owned(), 0)]);
    }

    fn golden_environment(pod: &Pod, container: &Container) -> Environment {
        use crate::cache::ObjectCache;
        use crate::event::{Object, WatchKey};
        use crate::out::{Ledger, Out};
        use crate::pod::env::{EnvInputs, environment};
        use crate::pod::fields::FieldContext;
        let mut objects = ObjectCache::new(crate::config::ChangeDetection::Watch, false);
        let (mut ledger, mut actions, mut recorded) = (Ledger::default(), Vec::new(), Vec::new());
        let mut out = Out::new(&mut ledger, &mut actions, &mut recorded);
        let now = crate::time::Now { mono: crate::time::Mono::ZERO, wall: jiff::Timestamp::UNIX_EPOCH };
        objects.register(now, pod, &mut out);
        let map = serde_json::json!({"metadata": {"name": "gold-cm", "namespace": "default"}, "data": {"k": "v"}});
        let key = WatchKey::ConfigMap { namespace: "default".to_owned(), name: "gold-cm".to_owned() };
        let map = Object::ConfigMap(Arc::new(serde_json::from_value(map).unwrap()));
        let _woken = objects.listed(&key, vec![map], &mut out);
        let service = serde_json::json!({"metadata": {"name": "kubernetes", "namespace": "default"},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443, "protocol": "TCP"}]}});
        let services = [Arc::new(serde_json::from_value(service).unwrap())];
        let allocatable = BTreeMap::new();
        let fields = FieldContext { pod_ips: &[], host_ips: &[], known_addresses: "[]", node_allocatable: &allocatable };
        environment(&EnvInputs { pod, container, objects: &objects, services: &services, fields }, &mut Room::of_container())
            .unwrap()
    }
}
