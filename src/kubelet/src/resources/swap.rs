//! Decides how much swap a container may use.
//! Upstream: pkg/kubelet/kuberuntime/kuberuntime_container_linux.go (configureContainerSwapResources).
//! Differs: nothing on purpose.

use k8s_openapi::api::core::v1::{Container, Pod};
use proto::cri::LinuxContainerResources;

use super::qos::{QosClass, qos_class};
use super::requests::{Kind, container_amounts, is_critical};
use crate::config::{Config, SwapBehavior};
use crate::observation::MachineInfo;

/// Bounds a container's swap where the kernel can (POD-182, NODE-147).
pub fn limit_swap(
    resources: &mut LinuxContainerResources,
    pod: &Pod,
    container: &Container,
    config: &Config,
    machine: &MachineInfo,
) {
    if !machine.swap_controller {
        return;
    }
    if machine.cgroup_v2 {
        // Written as it is, so that it holds without a memory limit too, and systemd hears of it.
        let limit = allowed(pod, container, config, machine);
        resources.unified.insert("memory.swap.max".to_owned(), limit.to_string());
    } else {
        // Memory and swap together: no swap beyond the memory limit.
        resources.memory_swap_limit_in_bytes = resources.memory_limit_in_bytes;
    }
}

/// Bytes of swap: a share as large as that of the memory, for Burstable containers that ask for less than they may use.
fn allowed(pod: &Pod, container: &Container, config: &Config, machine: &MachineInfo) -> u64 {
    let memory = |kind| container_amounts(container, kind).get("memory").copied().and_then(|m| u64::try_from(m).ok()).unwrap_or(0);
    let (request, limit) = (memory(Kind::Requests), memory(Kind::Limits));
    let limited = config.pods.swap_behavior == SwapBehavior::LimitedSwap
        && !is_critical(pod)
        && qos_class(pod) == QosClass::Burstable
        && request != limit
        && request <= machine.memory
        && machine.memory > 0;
    if !limited {
        return 0;
    }
    let share = u128::from(request) * u128::from(machine.swap) / u128::from(machine.memory);
    u64::try_from(share).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn machine() -> MachineInfo {
        MachineInfo { memory: 4 << 30, swap: 1 << 30, cgroup_v2: true, swap_controller: true, ..MachineInfo::default() }
    }

    fn limited(config: &Config, machine: &MachineInfo, priority: i32, resources: serde_json::Value) -> LinuxContainerResources {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "spec": {"priority": priority, "containers": [{"name": "c", "resources": resources}]},
        }))
        .unwrap();
        let mut made = LinuxContainerResources { memory_limit_in_bytes: 64 << 20, ..LinuxContainerResources::default() };
        limit_swap(&mut made, &pod, &pod.spec.as_ref().unwrap().containers[0], config, machine);
        made
    }

    fn of_v2(config: &Config, priority: i32, resources: serde_json::Value) -> String {
        let made = limited(config, &machine(), priority, resources);
        assert_eq!(made.memory_swap_limit_in_bytes, 0);
        made.unified["memory.swap.max"].clone()
    }

    // NODE-147, POD-182
    #[test]
    fn no_container_swaps_unless_that_is_allowed() {
        let config = Config::new("n1");
        for resources in [json!({}), json!({"requests": {"memory": "1Gi"}}), json!({"limits": {"memory": "64Mi"}})] {
            assert_eq!(of_v2(&config, 0, resources), "0");
        }
    }

    // NODE-147, POD-182
    #[test]
    fn burstable_containers_get_a_share_of_swap_where_it_is_allowed() {
        let mut config = Config::new("n1");
        config.pods.swap_behavior = SwapBehavior::LimitedSwap;
        let burstable = || json!({"requests": {"memory": "1Gi"}, "limits": {"memory": "2Gi"}});
        assert_eq!(of_v2(&config, 0, burstable()), (256 << 20).to_string());
        assert_eq!(of_v2(&config, 0, json!({"requests": {"memory": "1Gi"}})), (256 << 20).to_string());
        // Critical, BestEffort, without a request, with all that it may use, with more than there is.
        assert_eq!(of_v2(&config, 2_000_000_000, burstable()), "0");
        assert_eq!(of_v2(&config, 0, json!({})), "0");
        assert_eq!(of_v2(&config, 0, json!({"requests": {"cpu": "1"}})), "0");
        assert_eq!(of_v2(&config, 0, json!({"requests": {"memory": "1Gi", "cpu": "1"}, "limits": {"memory": "1Gi"}})), "0");
        assert_eq!(of_v2(&config, 0, json!({"requests": {"memory": "5Gi"}})), "0");
    }

    // NODE-147
    #[test]
    fn swap_is_left_alone_where_the_kernel_cannot_limit_it_and_counts_with_memory_on_v1() {
        let config = Config::new("n1");
        let cannot = MachineInfo { swap_controller: false, ..machine() };
        let made = limited(&config, &cannot, 0, json!({}));
        assert_eq!((made.unified.len(), made.memory_swap_limit_in_bytes), (0, 0));
        let v1 = MachineInfo { cgroup_v2: false, ..machine() };
        let made = limited(&config, &v1, 0, json!({}));
        assert_eq!((made.unified.len(), made.memory_swap_limit_in_bytes), (0, 64 << 20));
    }
}
