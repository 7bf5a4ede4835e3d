//! Decides what a field of the pod stands for in an environment variable.
//! Upstream: pkg/kubelet/kubelet_pods.go (podFieldSelectorRuntimeValue, containerResourceRuntimeValue).
//! Differs: nothing on purpose.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::volumes::downward::{field_value, resource_value};

/// What fields stand for beyond the pod object.
#[derive(Clone, Copy, Debug)]
pub struct FieldContext<'a> {
    /// The pod's IPs, the node's family first (POD-171).
    pub pod_ips: &'a [String],
    /// The node's IPs.
    pub host_ips: &'a [String],
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
            "spec.nodeName" => Ok(spec.and_then(|s| s.node_name.clone()).unwrap_or_default()),
            "spec.serviceAccountName" => Ok(spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default()),
            "status.hostIP" => Ok(self.host_ips.first().cloned().unwrap_or_default()),
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
    let named = selector.container_name.as_deref().is_some_and(|n| !n.is_empty());
    if named {
        return resource_value(pod, selector, context.node_allocatable);
    }
    let selector = ResourceFieldSelector { container_name: Some(container.name.clone()), ..selector.clone() };
    resource_value(pod, &selector, context.node_allocatable)
}
