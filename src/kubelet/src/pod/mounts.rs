//! Decides what a container sees mounted: its volumes, /etc/hosts, its termination log.
//! Upstream: pkg/kubelet/kubelet_pods.go (makeMounts), pkg/kubelet/kuberuntime/kuberuntime_container.go (makeMounts).
//! Differs: nothing on purpose.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use proto::cri::{ImageSpec, Mount, MountPropagation};

use super::env::expand;
use crate::action::HostCall;
use crate::ids::PodUid;
use crate::limits::Room;
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
    /// The images that are mounted, by the volumes' names (POD-209).
    pub images: &'a BTreeMap<String, ImageSpec>,
    /// The pod's directory.
    pub pod_dir: &'a str,
    /// A variable of the container's environment, for subPathExpr.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// Whether the runtime handler can mount recursively read-only.
    pub recursive_read_only: bool,
    /// Whether SELinux is on: what the agent owns is then relabelled for the container (MNT-006).
    pub selinux: bool,
}

/// The volume mounts (MNT-007 to MNT-010).
///
/// # Errors
/// A volume that there is not, a subPath that leaves its volume, a mode that cannot be had: the message of
/// `CreateContainerConfigError`.
pub fn volume_mounts(inputs: &MountInputs<'_>, room: &mut Room) -> Result<Mounts, String> {
    let mut made = Mounts::default();
    for (index, mount) in inputs.container.volume_mounts.iter().flatten().enumerate() {
        let Some(volume) = inputs.volumes.get(&mount.name) else {
            return Err(format!("cannot find volume \"{}\" to mount into container \"{}\"", mount.name, inputs.container.name));
        };
        let read_only = mount.read_only.unwrap_or(false) || volume.is_read_only();
        let mut host_path = volume.host_path.clone();
        let image = inputs.images.get(&mount.name).cloned();
        let (mut image_sub_path, sub_path) = (String::new(), sub_path(mount, inputs, room)?);
        if image.is_some() {
            // The runtime finds it.
            image_sub_path = sub_path.unwrap_or_default();
        } else if let Some(sub_path) = sub_path {
            host_path = format!("{}/volume-subpaths/{}/{}/{index}", inputs.pod_dir, volume.name, inputs.container.name);
            made.binds.push(HostCall::BindSubPath {
                pod: inputs.uid.clone(),
                volume: volume.name.clone(),
                container: inputs.container.name.clone(),
                index,
                volume_path: volume.host_path.clone(),
                sub_path,
                mount: mount.name.clone(),
            });
        }
        let (propagation, recursive) = propagation(mount, inputs, read_only)?;
        made.mounts.push(Mount {
            container_path: absolute(&mount.mount_path),
            host_path,
            readonly: read_only,
            propagation: propagation as i32,
            recursive_read_only: recursive,
            selinux_relabel: inputs.selinux && volume.is_managed(),
            image,
            image_sub_path,
            ..Mount::default()
        });
    }
    Ok(made)
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { from_root(path) }
}

/// MNT-010
fn sub_path(mount: &VolumeMount, inputs: &MountInputs<'_>, room: &mut Room) -> Result<Option<String>, String> {
    let path = match (mount.sub_path.as_deref(), mount.sub_path_expr.as_deref()) {
        (Some(path), _) if !path.is_empty() => path.to_owned(),
        (_, Some(expression)) if !expression.is_empty() => {
            let missing = std::cell::RefCell::new(BTreeSet::new());
            let look_up = |name: &str| {
                let value = (inputs.variable)(name).filter(|v| !v.is_empty());
                if value.is_none() {
                    missing.borrow_mut().insert(name.to_owned());
                }
                value.map(Cow::Owned)
            };
            let path = expand(expression, room, look_up)?;
            let missing = missing.into_inner();
            if !missing.is_empty() {
                return Err(format!("missing value for {}", missing.into_iter().collect::<Vec<_>>().join(", ")));
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

/// Whether the container has a mount for which it matters whether the runtime can mount recursively read-only.
#[must_use]
pub fn asks_for_recursion(container: &Container) -> bool {
    let asks = |mount: &VolumeMount| matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"));
    container.volume_mounts.iter().flatten().any(asks)
}

/// Whether the container mounts something over that path itself.
#[must_use]
pub fn mounts_over(container: &Container, path: &str) -> bool {
    container.volume_mounts.iter().flatten().any(|mount| absolute(&mount.mount_path) == path)
}

/// A plain writable mount of one file of the agent's own, relabelled if SELinux is on (MNT-006). A path that is not absolute begins at
/// the root.
#[must_use]
pub fn file_mount(container_path: &str, host_path: String, selinux: bool) -> Mount {
    Mount { container_path: absolute(container_path), host_path, selinux_relabel: selinux, ..Mount::default() }
}

/// A path in a container from its root and without detours: of its termination message (POD-175), and of mounts that are relative
/// (pkg/volume/util/util.go, MakeAbsolutePath).
#[must_use]
pub fn from_root(path: &str) -> String {
    let mut elements = Vec::new();
    for element in path.split('/') {
        match element {
            "" | "." => {}
            ".." => drop(elements.pop()),
            element => elements.push(element),
        }
    }
    format!("/{}", elements.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volumes::Plugin;
    use serde_json::{Value, json};

    /// The mounts of a container that has these, with volumes of each kind; `A` is in its environment, `EMPTY` is empty.
    fn made(mounts: Value, selinux: bool) -> Result<Mounts, String> {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}})).unwrap();
        let container: Container = serde_json::from_value(json!({"name": "c", "volumeMounts": mounts})).unwrap();
        let volume = |name: &str, plugin| {
            let host_path = if plugin == Plugin::Image { String::new() } else { format!("/v/{name}") };
            (name.to_owned(), MountedVolume { host_path, plugin, name: name.to_owned(), read_only: false, group: None })
        };
        let volumes = BTreeMap::from([
            volume("empty", Plugin::EmptyDir),
            volume("host", Plugin::HostPath),
            volume("config", Plugin::ConfigMap),
            volume("secret", Plugin::Secret),
            volume("info", Plugin::DownwardApi),
            volume("token", Plugin::Projected),
            volume("image", Plugin::Image),
        ]);
        let nginx = ImageSpec { image: "sha256:1".to_owned(), user_specified_image: "nginx".to_owned(), ..ImageSpec::default() };
        let images = BTreeMap::from([("image".to_owned(), nginx)]);
        let variable = |name: &str| match name {
            "A" => Some("a/b".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        let inputs = MountInputs {
            pod: &pod,
            uid: &PodUid::new("u"),
            container: &container,
            volumes: &volumes,
            images: &images,
            pod_dir: "/r/pods/u",
            variable: &variable,
            recursive_read_only: false,
            selinux,
        };
        volume_mounts(&inputs, &mut Room::of_container())
    }

    fn refused(mount: Value) -> String {
        made(json!([mount]), false).unwrap_err()
    }

    // POD-209, VTY-017, golden 274: an image is mounted read-only by its reference; a part of it is for the runtime to find.
    #[test]
    fn image_volume_is_mounted_by_its_reference() {
        let made =
            made(json!([{"name": "image", "mountPath": "/i"}, {"name": "image", "mountPath": "/s", "subPath": "usr/share"}]), true);
        let made = made.unwrap();
        assert!(made.binds.is_empty());
        for (mount, sub_path) in made.mounts.iter().zip(["", "usr/share"]) {
            let image = mount.image.as_ref().unwrap();
            assert_eq!((image.image.as_str(), image.user_specified_image.as_str()), ("sha256:1", "nginx"));
            assert!(mount.readonly && mount.host_path.is_empty());
            assert_eq!(mount.image_sub_path, sub_path);
        }
    }

    // MNT-007
    #[test]
    fn volume_that_is_not_there_is_named_and_its_containers() {
        let message = refused(json!({"name": "v", "mountPath": "/v"}));
        assert_eq!(message, "cannot find volume \"v\" to mount into container \"c\"");
    }

    // MNT-007: read-only if the mount or the volume is.
    #[test]
    fn mount_is_read_only_if_it_or_its_volume_is() {
        let names = ["empty", "host", "config", "secret", "info", "token", "image"];
        let mounts = |read_only: bool| {
            let one = |name: &&str| json!({"name": name, "mountPath": format!("/{name}"), "readOnly": read_only});
            made(names.iter().map(one).collect(), false).unwrap().mounts
        };
        let writable: Vec<bool> = mounts(false).iter().map(|mount| !mount.readonly).collect();
        assert_eq!(writable, [true, true, false, false, false, false, false]);
        assert!(mounts(true).iter().all(|mount| mount.readonly));
    }

    // MNT-006: what the agent owns, and only with SELinux.
    #[test]
    fn what_the_agent_owns_is_relabelled_if_selinux_is_on() {
        let names = ["empty", "host", "config", "secret", "info", "token", "image"];
        let relabelled = |selinux: bool| {
            let mounts: Value = names.iter().map(|name| json!({"name": name, "mountPath": format!("/{name}")})).collect();
            made(mounts, selinux).unwrap().mounts.iter().map(|mount| mount.selinux_relabel).collect::<Vec<_>>()
        };
        assert_eq!(relabelled(true), [true, false, true, true, true, true, false]);
        assert!(!relabelled(false).contains(&true));
        assert!(file_mount("/etc/hosts", "/h".to_owned(), true).selinux_relabel);
        assert!(!file_mount("/etc/hosts", "/h".to_owned(), false).selinux_relabel);
        // MNT-015, as a kubelet 1.36.2 was recorded with terminationMessagePath "rel".
        assert_eq!(file_mount("rel", "/h".to_owned(), false).container_path, "/rel");
    }

    // MNT-010: relative, without steps back, expanded from the environment as it will be.
    #[test]
    fn sub_path_stays_in_its_volume() {
        let sub = |path: &str| refused(json!({"name": "empty", "mountPath": "/d", "subPath": path}));
        assert_eq!(sub("/abs"), "error SubPath `/abs` must not be an absolute path");
        assert_eq!(sub("a/../.."), "unable to provision SubPath `a/../..`: must not contain '..'");
        let expr = |text: &str| made(json!([{"name": "empty", "mountPath": "/d", "subPathExpr": text}]), false);
        assert_eq!(expr("$(Z)/$(EMPTY)/$(B)/$(Z)").unwrap_err(), "missing value for B, EMPTY, Z");
        let made = expr("x/$(A)").unwrap();
        assert_eq!(made.mounts[0].host_path, "/r/pods/u/volume-subpaths/empty/c/0");
        let [HostCall::BindSubPath { volume_path, sub_path, index: 0, .. }] = made.binds.as_slice() else {
            panic!("{:?}", made.binds)
        };
        assert_eq!((volume_path.as_str(), sub_path.as_str()), ("/v/empty", "x/a/b"));
    }

    // POD-175. Upstream: MakeAbsolutePath, which is filepath.Clean("/" + path).
    #[test]
    fn termination_message_is_mounted_from_the_root() {
        for (path, mount) in [
            ("/dev/termination-log", "/dev/termination-log"),
            ("tmp/log", "/tmp/log"),
            ("/tmp//x/../log/", "/tmp/log"),
            ("../log", "/log"),
            (".", "/"),
        ] {
            assert_eq!(from_root(path), mount, "{path}");
        }
    }
}
