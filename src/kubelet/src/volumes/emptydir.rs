//! Decides what an emptyDir lies on and how large it may grow.
//! Upstream: pkg/volume/emptydir/empty_dir.go.
//! Differs: nothing on purpose.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod, Volume};

use super::{Trouble, VolumeInputs, payload};
use crate::action::{EmptyDirMedium, VolumeSetup};
use crate::quantity::Amount;

const HUGEPAGES: &str = "HugePages";

/// VTY-001, VTY-002, VTY-003.
pub(super) fn setup(pod: &Pod, volume: &Volume, inputs: &VolumeInputs<'_>) -> Result<VolumeSetup, Trouble> {
    let default = EmptyDirVolumeSource::default();
    let source = volume.empty_dir.as_ref().unwrap_or(&default);
    let medium = match source.medium.as_deref().unwrap_or_default() {
        "" => EmptyDirMedium::Disk,
        "Memory" => EmptyDirMedium::Memory { size: memory_size(source, inputs) },
        medium if medium.starts_with(HUGEPAGES) => {
            EmptyDirMedium::HugePages { page_size: page_size(pod, medium).map_err(Trouble::Failed)?, size: None }
        }
        medium => return Err(Trouble::Failed(format!("unknown storage medium {medium:?}"))),
    };
    Ok(VolumeSetup::EmptyDir { medium, fs_group: payload::fs_group(pod) })
}

/// VTY-002: the least of what is positive.
fn memory_size(source: &EmptyDirVolumeSource, inputs: &VolumeInputs<'_>) -> Option<u64> {
    let bytes = |amount: Amount| u64::try_from(amount.value()).ok();
    let node = inputs.node_allocatable.get("memory").and_then(Amount::parse).and_then(bytes);
    let limit = source.size_limit.as_ref().and_then(Amount::parse).and_then(bytes);
    [node, inputs.pod_memory_limit, limit].into_iter().flatten().filter(|bytes| *bytes > 0).min()
}

/// VTY-008: how large a volume of files in memory may grow, which upstream wraps in an emptyDir without a limit of its own.
pub(super) fn memory_limit(inputs: &VolumeInputs<'_>) -> Option<u64> {
    memory_size(&EmptyDirVolumeSource::default(), inputs)
}

/// VTY-003: bare, all requests share one size; sized, some request must match.
fn page_size(pod: &Pod, medium: &str) -> Result<u64, String> {
    let requested = requested_page_sizes(pod);
    let size = match medium.strip_prefix(HUGEPAGES).and_then(|rest| rest.strip_prefix('-')) {
        Some(size) => Amount::parse_text(size).filter(|size| requested.contains(size)),
        None if medium != HUGEPAGES => return Err(format!("unknown storage medium {medium:?}")),
        None if requested.len() > 1 => {
            return Err(format!("medium: {medium} can't be used if container requests multiple huge page sizes"));
        }
        None => requested.first().copied(),
    };
    size.and_then(|size| u64::try_from(size.value()).ok())
        .ok_or_else(|| format!("medium {medium}: hugePages storage requested, but there is no resource request for huge pages"))
}

fn requested_page_sizes(pod: &Pod) -> BTreeSet<Amount> {
    let containers = pod.spec.iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let of_containers = containers.filter_map(|container| container.resources.as_ref()?.requests.as_ref());
    let of_pod = pod.spec.iter().filter_map(|spec| spec.resources.as_ref()?.requests.as_ref());
    let requests = of_containers.chain(of_pod).flat_map(|requests| requests.keys());
    requests.filter_map(|name| Amount::parse_text(name.strip_prefix("hugepages-")?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::ObjectCache;
    use crate::config::ChangeDetection;
    use crate::tokens::TokenManager;
    use crate::volumes::Plugin;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use serde_json::{Value, json};
    use std::collections::BTreeMap;

    fn medium(source: Value, requests: Value, pod_limit: Option<u64>) -> Result<EmptyDirMedium, Trouble> {
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "resources": {"requests": requests}}],
            "volumes": [{"name": "v", "emptyDir": source}]}}))
        .unwrap();
        let allocatable: BTreeMap<String, Quantity> = [("memory".to_owned(), Quantity("1Gi".to_owned()))].into();
        let inputs = VolumeInputs {
            objects: &ObjectCache::new(ChangeDetection::Watch, false),
            tokens: &mut TokenManager::new(1),
            root_dir: "/r",
            node_allocatable: &allocatable,
            node_labels: None,
            pod_memory_limit: pod_limit,
        };
        let volume = &pod.spec.as_ref().unwrap().volumes.as_ref().unwrap()[0];
        setup(&pod, volume, &inputs).map(|setup| match setup {
            VolumeSetup::EmptyDir { medium, .. } => medium,
            other => panic!("{other:?}"),
        })
    }

    // VTY-008, FINDINGS D2. Upstream: pkg/volume/{secret,projected,downwardapi} wrap an emptyDir in memory without a limit of its own,
    // which pkg/volume/emptydir/empty_dir.go (calculateEmptyDirMemorySize) bounds.
    #[test]
    fn files_in_memory_are_bounded_by_pod_and_node() {
        let allocatable: BTreeMap<String, Quantity> = [("memory".to_owned(), Quantity("1Gi".to_owned()))].into();
        let medium = |plugin, pod_memory_limit| {
            let inputs = VolumeInputs {
                objects: &ObjectCache::new(ChangeDetection::Watch, false),
                tokens: &mut TokenManager::new(1),
                root_dir: "/r",
                node_allocatable: &allocatable,
                node_labels: None,
                pod_memory_limit,
            };
            let limit = memory_limit(&inputs);
            let layout = super::super::layout::Layout::follow(None, &std::sync::Arc::new(Pod::default()));
            match payload::setup(&layout, &Pod::default(), &Volume::default(), plugin, limit, BTreeMap::new()) {
                Ok(VolumeSetup::Files { medium, .. }) => medium,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(medium(Plugin::Secret, Some(5)), EmptyDirMedium::Memory { size: Some(5) });
        assert_eq!(medium(Plugin::DownwardApi, None), EmptyDirMedium::Memory { size: Some(1 << 30) });
        assert_eq!(medium(Plugin::ConfigMap, Some(5)), EmptyDirMedium::Disk);
    }

    fn failed(message: &str) -> Result<EmptyDirMedium, Trouble> {
        Err(Trouble::Failed(message.to_owned()))
    }

    // VTY-002
    #[test]
    fn memory_is_bounded_by_the_least_positive_of_node_pod_and_size_limit() {
        let size = |limit: &str, pod: Option<u64>| medium(json!({"medium": "Memory", "sizeLimit": limit}), json!({}), pod);
        let memory = |size: u64| Ok(EmptyDirMedium::Memory { size: Some(size) });
        assert_eq!(size("64Mi", Some(128 << 20)), memory(64 << 20));
        assert_eq!(size("256Mi", Some(128 << 20)), memory(128 << 20));
        assert_eq!(size("2Gi", None), memory(1 << 30));
        assert_eq!(size("0", Some(0)), memory(1 << 30));
    }

    // VTY-003
    #[test]
    fn huge_pages_are_of_a_size_that_the_pod_requests() {
        let pages = |page_size| Ok(EmptyDirMedium::HugePages { page_size, size: None });
        let two = json!({"hugepages-2Mi": "4Mi"});
        let both = json!({"hugepages-2Mi": "4Mi", "hugepages-1Gi": "1Gi"});
        assert_eq!(medium(json!({"medium": "HugePages"}), two.clone(), None), pages(2 << 20));
        assert_eq!(medium(json!({"medium": "HugePages-1Gi"}), both.clone(), None), pages(1 << 30));
        // As a kubelet 1.36.2 was recorded.
        let none = |medium| {
            failed(&format!("medium {medium}: hugePages storage requested, but there is no resource request for huge pages"))
        };
        assert_eq!(medium(json!({"medium": "HugePages-1Gi"}), two, None), none("HugePages-1Gi"));
        assert_eq!(medium(json!({"medium": "HugePages"}), json!({}), None), none("HugePages"));
        let many = "medium: HugePages can't be used if container requests multiple huge page sizes";
        assert_eq!(medium(json!({"medium": "HugePages"}), both, None), failed(many));
    }

    // VTY-001
    #[test]
    fn default_medium_is_the_disk_and_unknown_ones_fail() {
        assert_eq!(medium(json!({}), json!({}), None), Ok(EmptyDirMedium::Disk));
        assert_eq!(medium(json!({"medium": "Tape"}), json!({}), None), failed("unknown storage medium \"Tape\""));
    }
}
