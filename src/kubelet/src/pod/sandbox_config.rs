//! Decides what a pod's sandbox is made with.
//! Upstream: pkg/kubelet/kuberuntime/{kuberuntime_sandbox,kuberuntime_sandbox_linux}.go.
//! Differs: nothing on purpose.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{ContainerPort, Pod};
use proto::cri::security_profile::ProfileType;
use proto::cri::{
    DnsConfig, Int64Value, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, PodSandboxConfig, PodSandboxMetadata, PortMapping,
    Protocol, SecurityProfile,
};

use super::hosts::sandbox_hostname;
use super::labels::sandbox_labels;
use super::security_context::{is_privileged, namespace_options, pod_context, selinux_options};
use crate::admission::with_dots;
use crate::config::Config;
use crate::resources::cgroup::runtime_resources;
use crate::resources::requests::{Kind, amounts_of, amounts_without_overhead};

/// What a sandbox is made of, beyond the pod.
#[derive(Clone, Debug)]
pub struct SandboxInputs<'a> {
    /// The settings.
    pub config: &'a Config,
    /// Which attempt it is.
    pub attempt: u32,
    /// The pod's cgroup; empty if there are none.
    pub cgroup_parent: String,
    /// How the pod resolves names.
    pub dns: DnsConfig,
    /// The pod's log directory.
    pub log_directory: String,
    /// Groups of its volumes.
    pub volume_groups: Vec<i64>,
}

/// The sandbox's configuration (POD-145 to POD-153, CRI-044).
///
/// # Errors
/// A host name that is too long; the text of `FailedCreatePodSandBox`.
pub fn sandbox_config(pod: &Pod, inputs: SandboxInputs<'_>) -> Result<PodSandboxConfig, String> {
    let meta = &pod.metadata;
    Ok(PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: meta.name.clone().unwrap_or_default(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            attempt: inputs.attempt,
        }),
        hostname: sandbox_hostname(pod, &inputs.config.dns.cluster_domain)?,
        port_mappings: port_mappings(pod),
        labels: sandbox_labels(pod),
        annotations: meta.annotations.clone().unwrap_or_default(),
        linux: Some(linux(pod, &inputs)),
        dns_config: Some(inputs.dns),
        log_directory: inputs.log_directory,
        ..PodSandboxConfig::default()
    })
}

fn linux(pod: &Pod, inputs: &SandboxInputs<'_>) -> LinuxPodSandboxConfig {
    let context = pod_context(pod);
    let spec = pod.spec.as_ref();
    let containers = spec.iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
    let mut groups: Vec<i64> = context.fs_group.into_iter().collect();
    // MNT-004: second here, last in containers; of a pod without a security context none.
    groups.extend(spec.and_then(|s| s.security_context.as_ref()).iter().flat_map(|_| &inputs.volume_groups));
    groups.extend(context.supplemental_groups.iter().flatten());
    let overhead = amounts_of(spec.and_then(|s| s.overhead.as_ref()));
    LinuxPodSandboxConfig {
        cgroup_parent: inputs.cgroup_parent.clone(),
        security_context: Some(LinuxSandboxSecurityContext {
            namespace_options: Some(namespace_options(pod)),
            selinux_options: selinux_options(context.se_linux_options.as_ref()),
            run_as_user: context.run_as_user.map(|value| Int64Value { value }),
            run_as_group: context.run_as_group.map(|value| Int64Value { value }),
            supplemental_groups: groups,
            privileged: containers.into_iter().any(is_privileged),
            seccomp: Some(SecurityProfile { profile_type: ProfileType::RuntimeDefault as i32, localhost_ref: String::new() }),
            supplemental_groups_policy: i32::from(context.supplemental_groups_policy.as_deref() == Some("Strict")),
            ..LinuxSandboxSecurityContext::default()
        }),
        sysctls: context.sysctls.iter().flatten().map(|s| (with_dots(&s.name), s.value.clone())).collect(),
        // What weighs nothing is not told of.
        overhead: Some(
            spec.and_then(|s| s.overhead.as_ref())
                .map(|_| runtime_resources(&overhead, &overhead, inputs.config))
                .unwrap_or_default(),
        ),
        resources: Some(runtime_resources(
            &amounts_without_overhead(pod, Kind::Requests),
            &amounts_without_overhead(pod, Kind::Limits),
            inputs.config,
        )),
    }
}

/// NET-007
fn port_mappings(pod: &Pod) -> Vec<PortMapping> {
    let mut mappings: Vec<PortMapping> = Vec::new();
    for container in pod.spec.iter().flat_map(|s| &s.containers) {
        let mut names: BTreeSet<&str> = BTreeSet::new();
        let mut seen: BTreeSet<(i32, i32, i32, String)> = BTreeSet::new();
        for port in container.ports.iter().flatten() {
            let mapping = mapping(port);
            let name = port.name.as_deref().unwrap_or_default();
            // One without a name is told from others without one only.
            let is_new = if name.is_empty() {
                seen.insert((mapping.protocol, mapping.container_port, mapping.host_port, mapping.host_ip.clone()))
            } else {
                names.insert(name)
            };
            if is_new {
                mappings.push(mapping);
            }
        }
    }
    mappings
}

fn mapping(port: &ContainerPort) -> PortMapping {
    let protocol = match port.protocol.as_deref() {
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        _ => Protocol::Tcp,
    };
    PortMapping {
        protocol: protocol as i32,
        container_port: port.container_port,
        host_port: port.host_port.unwrap_or(0),
        host_ip: port.host_ip.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use proto::cri::LinuxContainerResources;

    use super::*;
    use crate::resources::cgroup::pod_cgroup_name;
    use serde_json::json;

    // POD-145 to POD-152, CRI-011: the sandbox of the golden pod, field by field.
    #[test]
    fn golden_pod_has_the_golden_sandbox() {
        let pod: Pod = serde_json::from_str(include_str!("../../testdata/pod-running.json")).unwrap();
        let mut pod = pod;
        let golden: serde_json::Value = serde_json::from_str(include_str!("../../testdata/sandbox.json")).unwrap();
        let golden: PodSandboxConfig = serde_json::from_value(golden["config"].clone()).unwrap();
        pod.metadata.annotations.clone_from(&Some(golden.annotations.clone()));
        let config = Config::new("n1");
        let inputs = SandboxInputs {
            attempt: 0,
            cgroup_parent: pod_cgroup_name(&pod, &config, crate::config::CgroupDriver::Cgroupfs),
            dns: golden.dns_config.clone().unwrap(),
            log_directory: golden.log_directory.clone(),
            volume_groups: Vec::new(),
            config: &config,
        };
        assert_eq!(sandbox_config(&pod, inputs).unwrap(), golden);
    }

    fn made(config: &Config, pod: serde_json::Value) -> PodSandboxConfig {
        let inputs = SandboxInputs {
            attempt: 0,
            cgroup_parent: String::new(),
            dns: DnsConfig::default(),
            log_directory: String::new(),
            volume_groups: vec![7],
            config,
        };
        sandbox_config(&serde_json::from_value(pod).unwrap(), inputs).unwrap()
    }

    fn of_spec(spec: serde_json::Value) -> PodSandboxConfig {
        made(&Config::new("n1"), json!({"metadata": {"name": "p"}, "spec": spec}))
    }

    // MNT-004: kuberuntime_sandbox.go (generatePodSandboxLinuxConfig).
    #[test]
    fn sandbox_has_the_groups_of_volumes_before_those_of_the_pod() {
        let groups = |context: serde_json::Value| {
            let linux = of_spec(json!({"securityContext": context, "containers": []})).linux.unwrap();
            linux.security_context.unwrap().supplemental_groups
        };
        assert_eq!(groups(json!({"fsGroup": 5, "supplementalGroups": [9]})), [5, 7, 9]);
        assert_eq!(groups(json!(null)), [0i64; 0]);
    }

    // NET-007: of regular containers, those without a host port and those on the node's network too; each once.
    #[test]
    fn ports_are_mapped_once_for_each_regular_container() {
        let port = |name: &str, container: i32, host: i32| json!({"name": name, "containerPort": container, "hostPort": host});
        let ports = json!([
            port("web", 80, 8080),
            port("web", 81, 8081),
            {"containerPort": 53, "protocol": "UDP"},
            {"containerPort": 53, "protocol": "UDP"},
            {"containerPort": 53, "protocol": "TCP"},
            {"containerPort": 53, "hostIP": "::1"},
            {"containerPort": 80, "hostPort": 8080}]);
        let made = of_spec(json!({
            "hostNetwork": true,
            "initContainers": [{"name": "sidecar", "restartPolicy": "Always", "ports": [port("s", 1, 1)]}],
            "containers": [{"name": "a", "ports": ports}, {"name": "b", "ports": [port("web", 90, 0)]}]}));
        let mapped: Vec<(i32, i32, i32, &str)> =
            made.port_mappings.iter().map(|m| (m.protocol, m.container_port, m.host_port, m.host_ip.as_str())).collect();
        let (tcp, udp) = (Protocol::Tcp as i32, Protocol::Udp as i32);
        assert_eq!(
            mapped,
            [(tcp, 80, 8080, ""), (udp, 53, 0, ""), (tcp, 53, 0, ""), (tcp, 53, 0, "::1"), (tcp, 80, 8080, ""), (tcp, 90, 0, "")]
        );
    }

    // LOG-001: the pod's labels and annotations; what the agent goes by cannot be overwritten.
    #[test]
    fn sandbox_carries_the_pods_labels_under_the_agents_own() {
        let made = made(
            &Config::new("n1"),
            json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u", "annotations": {"a": "1"},
                "labels": {"app": "web", "io.kubernetes.pod.uid": "forged"}}, "spec": {"containers": []}}),
        );
        let labels: Vec<(&str, &str)> = made.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let own = [("io.kubernetes.pod.name", "p"), ("io.kubernetes.pod.namespace", "ns"), ("io.kubernetes.pod.uid", "u")];
        assert_eq!(labels, [&[("app", "web")], own.as_slice()].concat());
        assert_eq!(made.annotations["a"], "1");
    }

    // CRI-011: component-helpers/node/util/sysctl/sysctl.go (NormalizeName) and its test.
    #[test]
    fn sysctls_are_told_with_dots_but_for_the_dots_of_an_interface() {
        for (name, told) in [
            ("kernel.shm_rmid_forced", "kernel.shm_rmid_forced"),
            ("kernel/shm_rmid_forced", "kernel.shm_rmid_forced"),
            ("net.ipv4.conf.eno2/100.rp_filter", "net.ipv4.conf.eno2/100.rp_filter"),
            ("net/ipv4/conf/eno2.100/rp_filter", "net.ipv4.conf.eno2/100.rp_filter"),
        ] {
            let spec = json!({"securityContext": {"sysctls": [{"name": name, "value": "1"}]}, "containers": []});
            let sysctls: Vec<(String, String)> = of_spec(spec).linux.unwrap().sysctls.into_iter().collect();
            assert_eq!(sysctls, [(told.to_owned(), "1".to_owned())]);
        }
    }

    // CRI-043
    #[test]
    fn sandbox_is_confined_and_privileged_if_any_container_is() {
        let security = |spec| of_spec(spec).linux.unwrap().security_context.unwrap();
        let plain = security(json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}, "containers": [{"name": "a"}]}));
        assert_eq!(plain.seccomp.unwrap().profile_type, ProfileType::RuntimeDefault as i32);
        assert!(!plain.privileged);
        let privileged = json!({"name": "i", "securityContext": {"privileged": true}});
        assert!(security(json!({"initContainers": [privileged], "containers": [{"name": "a"}]})).privileged);
        assert!(security(json!({"containers": [{"name": "a"}, privileged]})).privileged);
    }

    // CRI-044: as a kubelet 1.36.2 was recorded with a pod that asks for nothing: the least shares and the period, without a quota; and
    // with overhead, upstream's calculateLinuxResources of it (kuberuntime_container_linux.go, kuberuntime_sandbox_linux.go).
    #[test]
    fn sandbox_of_a_pod_that_asks_for_nothing_has_the_least_shares_and_the_period() {
        let linux = of_spec(json!({"containers": [{"name": "c"}]})).linux.unwrap();
        assert_eq!(linux.resources, Some(expected_without_requests()));
        assert_eq!(linux.overhead, Some(LinuxContainerResources::default()));
        let weighed = of_spec(json!({"overhead": {"memory": "10Mi"}, "containers": [{"name": "c"}]})).linux.unwrap();
        let expected = LinuxContainerResources { memory_limit_in_bytes: 10 << 20, ..expected_without_requests() };
        assert_eq!(weighed.overhead, Some(expected));
        let mut config = Config::new("n1");
        config.pods.cpu_cfs_quota = false;
        let unbounded = made(&config, json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}}));
        let expected = LinuxContainerResources { cpu_period: 0, ..expected_without_requests() };
        assert_eq!(unbounded.linux.unwrap().resources, Some(expected));
    }

    fn expected_without_requests() -> LinuxContainerResources {
        LinuxContainerResources { cpu_period: 100_000, cpu_shares: 2, ..LinuxContainerResources::default() }
    }

    // CRI-044: sums without overhead, which comes beside them; memory counts what is declared, even if not by all.
    #[test]
    fn sandbox_is_told_the_pods_resources_and_its_overhead_apart() {
        let spec = json!({"overhead": {"cpu": "100m", "memory": "10Mi"}, "containers": [
            {"name": "a", "resources": {"requests": {"cpu": "250m"}, "limits": {"cpu": "500m", "memory": "64Mi"}}},
            {"name": "b", "resources": {"requests": {"cpu": "250m"}, "limits": {"cpu": "1"}}}]});
        let linux = of_spec(spec.clone()).linux.unwrap();
        let (resources, overhead) = (linux.resources.unwrap(), linux.overhead.unwrap());
        assert_eq!((resources.cpu_shares, resources.cpu_quota, resources.cpu_period), (512, 150_000, 100_000));
        assert_eq!(resources.memory_limit_in_bytes, 64 << 20);
        assert_eq!((overhead.cpu_shares, overhead.cpu_quota, overhead.memory_limit_in_bytes), (102, 10_000, 10 << 20));
        let mut config = Config::new("n1");
        config.pods.cpu_cfs_quota = false;
        let unbounded = made(&config, json!({"metadata": {"name": "p"}, "spec": spec})).linux.unwrap().resources.unwrap();
        assert_eq!((unbounded.cpu_shares, unbounded.cpu_quota, unbounded.cpu_period), (512, 0, 0));
        let from_limits = of_spec(json!({"containers": [{"name": "a", "resources": {"limits": {"cpu": "2"}}}]}));
        assert_eq!(from_limits.linux.unwrap().resources.unwrap().cpu_shares, 2048);
    }
}
