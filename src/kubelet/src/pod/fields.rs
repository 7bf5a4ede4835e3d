//! Decides what a field of the pod stands for in an environment variable.
//! Upstream: pkg/kubelet/kubelet_pods.go (podFieldSelectorRuntimeValue, containerResourceRuntimeValue).
//! Differs: nothing on purpose.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::volumes::downward::{amount, field_value, resource_value};

/// What fields stand for beyond the pod object.
#[derive(Clone, Copy, Debug)]
pub struct FieldContext<'a> {
    /// The pod's IPs, the node's family first (POD-171).
    pub pod_ips: &'a [String],
    /// The node's IPs.
    pub host_ips: &'a [String],
    /// All addresses of the node, as an error names them.
    pub known_addresses: &'a str,
    /// What pods may have of this node.
    pub node_allocatable: &'a BTreeMap<String, Quantity>,
}

impl FieldContext<'_> {
    /// A field of the pod (ENV-008).
    ///
    /// # Errors
    /// A field that there is not, in upstream's words.
    pub fn pod_field(&self, pod: &Pod, path: &str) -> Result<String, String> {
        let spec = pod.spec.as_ref();
        match path {
            // The latter is what clients of old call it (ConvertDownwardAPIFieldLabel).
            "spec.nodeName" | "spec.host" => Ok(spec.and_then(|s| s.node_name.clone()).unwrap_or_default()),
            "spec.serviceAccountName" => Ok(spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default()),
            // Of a node whose addresses its cloud has yet to tell, none may be made up (GetNodeHostIPs).
            "status.hostIP" | "status.hostIPs" if self.host_ips.is_empty() => {
                Err(format!("host IP unknown; known addresses: {}", self.known_addresses))
            }
            "status.hostIP" => Ok(self.host_ips[0].clone()),
            "status.hostIPs" => Ok(self.host_ips.join(",")),
            "status.podIP" => Ok(self.pod_ips.first().cloned().unwrap_or_default()),
            "status.podIPs" => Ok(self.pod_ips.join(",")),
            _ => field_value(pod, path),
        }
    }
}

/// A resource of a container, by default of the one that asks (ENV-009).
///
/// # Errors
/// A container or resource that there is not, in upstream's words.
pub fn resource_field(
    pod: &Pod,
    container: &Container,
    selector: &ResourceFieldSelector,
    context: &FieldContext<'_>,
) -> Result<String, String> {
    let spec = pod.spec.as_ref();
    let of_pod = spec.and_then(|spec| spec.resources.as_ref()).and_then(|resources| resources.limits.as_ref());
    let default = |resource: &str| {
        let of_node = amount(Some(context.node_allocatable), resource)?;
        Some(amount(of_pod, resource).filter(|limit| limit.is_positive()).unwrap_or(of_node))
    };
    let named = selector.container_name.as_deref().filter(|name| !name.is_empty());
    if let Some(name) = named {
        // defaultPodLimitsForDownwardAPI gives defaults to these and to the container that asks, not to init containers.
        let defaulted = spec.is_some_and(|spec| spec.containers.iter().any(|other| other.name == name));
        return resource_value(pod, selector, |resource| default(resource).filter(|_| defaulted));
    }
    let selector = ResourceFieldSelector { container_name: Some(container.name.clone()), ..selector.clone() };
    resource_value(pod, &selector, default)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    // ENV-009, as a kubelet 1.36.2 was recorded: the asking container and the regular ones have the pod's limits for default, then the
    // node's; init containers that are named have none.
    #[test]
    fn limit_that_is_not_set_is_the_pods_then_the_nodes_but_not_for_init_containers() {
        let pod = |limits: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"spec": {"resources": {"limits": limits},
                "initContainers": [{"name": "i"}], "containers": [{"name": "c"}, {"name": "d"}]}}))
            .unwrap()
        };
        let allocatable = [("cpu".to_owned(), Quantity("2".to_owned()))].into();
        let context = FieldContext { pod_ips: &[], host_ips: &[], known_addresses: "", node_allocatable: &allocatable };
        let limit = |pod: &Pod, asking: &Container, of: &str| {
            let selector = json!({"containerName": of, "resource": "limits.cpu", "divisor": "1m"});
            resource_field(pod, asking, &serde_json::from_value(selector).unwrap(), &context).unwrap()
        };
        for (limits, expected) in [(json!({}), "2000"), (json!({"cpu": "1700m"}), "1700"), (json!({"memory": "1Gi"}), "2000")] {
            let pod = pod(limits);
            let spec = pod.spec.as_ref().unwrap();
            let (init, c) = (&spec.init_containers.as_ref().unwrap()[0], &spec.containers[0]);
            let asked = [limit(&pod, c, ""), limit(&pod, c, "d"), limit(&pod, init, ""), limit(&pod, c, "i")];
            assert_eq!(asked, [expected, expected, expected, "0"]);
        }
    }

    // ENV-008, NET-006: kubelet_pods.go (podFieldSelectorRuntimeValue), pkg/util/node/node.go (GetNodeHostIPs),
    // pkg/apis/core/pods/helpers.go (ConvertDownwardAPIFieldLabel).
    #[test]
    fn address_that_the_node_does_not_have_yet_is_an_error() {
        let pod: Pod = serde_json::from_value(json!({"spec": {"nodeName": "n1", "containers": []}})).unwrap();
        let allocatable = BTreeMap::new();
        let field = |host_ips: &[String], path: &str| {
            let known_addresses = "[{Hostname n1}]";
            FieldContext { pod_ips: &[], host_ips, known_addresses, node_allocatable: &allocatable }.pod_field(&pod, path)
        };
        let ips = ["10.0.0.1".to_owned(), "fd00::1".to_owned()];
        for path in ["status.hostIP", "status.hostIPs"] {
            assert_eq!(field(&[], path), Err("host IP unknown; known addresses: [{Hostname n1}]".to_owned()));
        }
        assert_eq!(field(&ips, "status.hostIP").as_deref(), Ok("10.0.0.1"));
        assert_eq!(field(&ips, "status.hostIPs").as_deref(), Ok("10.0.0.1,fd00::1"));
        assert_eq!(field(&[], "status.podIP").as_deref(), Ok(""));
        assert_eq!([field(&[], "spec.nodeName"), field(&[], "spec.host")], [Ok("n1".to_owned()), Ok("n1".to_owned())]);
    }
}
