//! Decides what a container sees mounted: its volumes, /etc/hosts, its termination log.
//! Upstream: pkg/kubelet/kubelet_pods.go (makeMounts), pkg/kubelet/kuberuntime/kuberuntime_container.go (makeMounts).
//! Differs: nothing on purpose.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use proto::cri::{Mount, MountPropagation};

use super::env::expand;
use crate::action::HostCall;
use crate::ids::PodUid;
use crate::volumes::MountedVolume;

/// The mounts of a container, and what has to be bound before they are there.
#[derive(Debug, Default)]
pub struct Mounts {
    /// For the runtime.
    pub mounts: Vec<Mount>,
    /// subPath binds (MNT-011, MNT-012).
    pub binds: Vec<HostCall>,
}

/// What mounts are made of.
pub struct MountInputs<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its UID.
    pub uid: &'a PodUid,
    /// The container.
    pub container: &'a Container,
    /// The pod's volumes that are in place.
    pub volumes: &'a BTreeMap<String, MountedVolume>,
    /// The pod's directory.
    pub pod_dir: &'a str,
    /// A variable of the container's environment, for subPathExpr.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// Whether the runtime handler can mount recursively read-only.
    pub recursive_read_only: bool,
}

/// The volume mounts (MNT-007 to MNT-010).
///
/// # Errors
/// A volume that there is not, a subPath that leaves its volume, a mode that cannot be had: the message of
/// `CreateContainerConfigError`.
pub fn volume_mounts(inputs: &MountInputs<'_>) -> Result<Mounts, String> {
    let mut made = Mounts::default();
    for (index, mount) in inputs.container.volume_mounts.iter().flatten().enumerate() {
        let Some(volume) = inputs.volumes.get(&mount.name) else {
            return Err(format!("cannot find volume \"{}\" to mount into container \"{}\"", mount.name, inputs.container.name));
        };
        let read_only = mount.read_only.unwrap_or(false) || volume.plugin.read_only();
        let mut host_path = volume.host_path.clone();
        if let Some(sub_path) = sub_path(mount, inputs)? {
            host_path = format!("{}/volume-subpaths/{}/{}/{index}", inputs.pod_dir, mount.name, inputs.container.name);
            made.binds.push(HostCall::BindSubPath {
                pod: inputs.uid.clone(),
                volume: mount.name.clone(),
                container: inputs.container.name.clone(),
                index,
                volume_path: volume.host_path.clone(),
                sub_path,
                read_only,
            });
        }
        let (propagation, recursive) = propagation(mount, inputs, read_only)?;
        made.mounts.push(Mount {
            container_path: absolute(&mount.mount_path),
            host_path,
            readonly: read_only,
            propagation: propagation as i32,
            recursive_read_only: recursive,
            selinux_relabel: false,
            ..Mount::default()
        });
    }
    Ok(made)
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// MNT-010
fn sub_path(mount: &VolumeMount, inputs: &MountInputs<'_>) -> Result<Option<String>, String> {
    let path = match (mount.sub_path.as_deref(), mount.sub_path_expr.as_deref()) {
        (Some(path), _) if !path.is_empty() => path.to_owned(),
        (_, Some(expression)) if !expression.is_empty() => {
            let missing = std::cell::RefCell::new(Vec::new());
            let look_up = |name: &str| {
                let value = (inputs.variable)(name).filter(|v| !v.is_empty());
                if value.is_none() {
                    missing.borrow_mut().push(name.to_owned());
                }
                value
            };
            let path = expand(expression, look_up);
            let missing = missing.into_inner();
            if !missing.is_empty() {
                return Err(format!("missing value for {}", missing.join(", ")));
            }
            path
        }
        _ => return Ok(None),
    };
    if path.starts_with('/') {
        return Err(format!("error SubPath `{path}` must not be an absolute path"));
    }
    if path.split('/').any(|part| part == "..") {
        return Err(format!("unable to provision SubPath `{path}`: must not contain '..'"));
    }
    Ok(Some(path))
}

/// MNT-008, MNT-009
fn propagation(mount: &VolumeMount, inputs: &MountInputs<'_>, read_only: bool) -> Result<(MountPropagation, bool), String> {
    let propagation = match mount.mount_propagation.as_deref() {
        None | Some("" | "None") => MountPropagation::PropagationPrivate,
        Some("HostToContainer") => MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") => MountPropagation::PropagationBidirectional,
        Some(other) => return Err(format!("invalid MountPropagation mode: \"{other}\"")),
    };
    let recursive = match mount.recursive_read_only.as_deref() {
        Some("Enabled") if !inputs.recursive_read_only => {
            return Err(format!(
                "volume \"{}\" requested recursive read-only mode, but it is not supported by the runtime",
                mount.name
            ));
        }
        Some("Enabled") => true,
        Some("IfPossible") => inputs.recursive_read_only,
        _ => false,
    };
    Ok((propagation, recursive && read_only))
}

/// Whether the container mounts something over that path itself.
#[must_use]
pub fn mounts_over(container: &Container, path: &str) -> bool {
    container.volume_mounts.iter().flatten().any(|mount| absolute(&mount.mount_path) == path)
}

/// A plain writable mount of one file.
#[must_use]
pub fn file_mount(container_path: &str, host_path: String) -> Mount {
    Mount { container_path: container_path.to_owned(), host_path, ..Mount::default() }
}
