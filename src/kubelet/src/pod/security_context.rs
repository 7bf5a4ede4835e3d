//! Decides under whose identity and with which powers a container runs.
//! Upstream: pkg/kubelet/kuberuntime/security_context.go, pkg/securitycontext/util.go.
//! Differs: nothing on purpose.

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, Pod, PodSecurityContext, SELinuxOptions, SeccompProfile, SecurityContext,
};
use proto::cri::security_profile::ProfileType;
use proto::cri::{
    Capability, Int64Value, LinuxContainerSecurityContext, NamespaceMode, NamespaceOption, SeLinuxOption, SecurityProfile,
    UserNamespace,
};

use crate::images::ResolvedImage;

/// Paths that a container does not see unless it asks to (POD-177).
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// What the annotation that names a container's AppArmor profile begins with.
pub const APP_ARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The pod's own security context, empty if it has none.
#[must_use]
pub fn pod_context(pod: &Pod) -> PodSecurityContext {
    pod.spec.as_ref().and_then(|s| s.security_context.clone()).unwrap_or_default()
}

fn context(container: &Container) -> SecurityContext {
    container.security_context.clone().unwrap_or_default()
}

/// Whether a container is privileged.
#[must_use]
pub fn is_privileged(container: &Container) -> bool {
    context(container).privileged.unwrap_or(false)
}

/// Which namespaces the pod's containers share with the node and one another (POD-150, CRI-041).
#[must_use]
pub fn namespace_options(pod: &Pod) -> NamespaceOption {
    let spec = pod.spec.as_ref();
    let on = |flag: Option<bool>| flag.unwrap_or(false);
    let node_or_pod = |host: bool| if host { NamespaceMode::Node } else { NamespaceMode::Pod } as i32;
    let pid = if on(spec.and_then(|s| s.host_pid)) {
        NamespaceMode::Node
    } else if on(spec.and_then(|s| s.share_process_namespace)) {
        NamespaceMode::Pod
    } else {
        NamespaceMode::Container
    };
    NamespaceOption {
        network: node_or_pod(on(spec.and_then(|s| s.host_network))),
        ipc: node_or_pod(on(spec.and_then(|s| s.host_ipc))),
        pid: pid as i32,
        target_id: String::new(),
        // UNS-001: user namespaces are not offered yet; hostUsers false is refused at admission.
        userns_options: Some(UserNamespace { mode: NamespaceMode::Node as i32, ..UserNamespace::default() }),
    }
}

/// SELinux options as the runtime takes them.
#[must_use]
pub fn selinux_options(options: Option<&SELinuxOptions>) -> Option<SeLinuxOption> {
    options.map(|o| SeLinuxOption {
        user: o.user.clone().unwrap_or_default(),
        role: o.role.clone().unwrap_or_default(),
        r#type: o.type_.clone().unwrap_or_default(),
        level: o.level.clone().unwrap_or_default(),
    })
}

/// POD-177: the container's profile, else the pod's, else the runtime's if that is the default, else none.
fn seccomp(pod: &PodSecurityContext, container: &SecurityContext, default_on: bool, root: &str) -> Result<SecurityProfile, String> {
    let profile = container.seccomp_profile.as_ref().or(pod.seccomp_profile.as_ref());
    let plain = |kind: ProfileType| Ok(SecurityProfile { profile_type: kind as i32, localhost_ref: String::new() });
    match profile {
        None if default_on => plain(ProfileType::RuntimeDefault),
        None => plain(ProfileType::Unconfined),
        Some(SeccompProfile { type_, localhost_profile }) => match (type_.as_str(), localhost_profile) {
            ("RuntimeDefault", _) => plain(ProfileType::RuntimeDefault),
            ("Localhost", Some(name)) if !name.is_empty() => {
                Ok(SecurityProfile { profile_type: ProfileType::Localhost as i32, localhost_ref: format!("{root}/seccomp/{name}") })
            }
            ("Localhost", _) => Err("localhostProfile must be set if seccompProfile type is Localhost.".to_owned()),
            _ => plain(ProfileType::Unconfined),
        },
    }
}

fn apparmor(pod: &Pod, container: &Container) -> Option<SecurityProfile> {
    let profile = app_armor_profile(pod, container)?;
    let (kind, name) = match profile.type_.as_str() {
        "RuntimeDefault" => (ProfileType::RuntimeDefault, String::new()),
        "Localhost" => (ProfileType::Localhost, profile.localhost_profile.clone().unwrap_or_default()),
        _ => (ProfileType::Unconfined, String::new()),
    };
    Some(SecurityProfile { profile_type: kind as i32, localhost_ref: name })
}

/// As older runtimes read it, in the words of the annotation; a newer one goes by the other field.
fn old_form(profile: Option<&SecurityProfile>) -> String {
    match profile.map(|profile| (profile.profile_type(), &profile.localhost_ref)) {
        None => String::new(),
        Some((ProfileType::RuntimeDefault, _)) => "runtime/default".to_owned(),
        Some((ProfileType::Unconfined, _)) => "unconfined".to_owned(),
        Some((ProfileType::Localhost, name)) => format!("localhost/{name}"),
    }
}

/// The container's AppArmor profile: its own; the annotation's, for a static pod may have nothing else; the pod's.
#[must_use]
pub fn app_armor_profile(pod: &Pod, container: &Container) -> Option<AppArmorProfile> {
    let own = container.security_context.as_ref().and_then(|context| context.app_armor_profile.clone());
    let annotated = || app_armor_annotation(pod, &container.name);
    own.or_else(annotated).or_else(|| pod.spec.as_ref()?.security_context.as_ref()?.app_armor_profile.clone())
}

fn app_armor_annotation(pod: &Pod, container: &str) -> Option<AppArmorProfile> {
    let value = pod.metadata.annotations.as_ref()?.get(&format!("{APP_ARMOR_ANNOTATION}{container}"))?;
    let (kind, name) = match value.as_str() {
        "runtime/default" => ("RuntimeDefault", None),
        "unconfined" => ("Unconfined", None),
        other => ("Localhost", Some(other.strip_prefix("localhost/")?.to_owned())),
    };
    Some(AppArmorProfile { type_: kind.to_owned(), localhost_profile: name })
}

/// What else a security context is made of.
#[derive(Clone, Copy, Debug)]
pub struct SecurityInputs<'a> {
    /// The image that the container runs.
    pub image: &'a ResolvedImage,
    /// `seccompDefault`.
    pub seccomp_default: bool,
    /// The agent's root directory, for local profiles.
    pub root: &'a str,
    /// Groups that volumes bring along (MNT-004).
    pub volume_groups: &'a [i64],
    /// The machine's directories that tell how hot its CPUs are: not for containers.
    pub thermal_throttles: &'a [String],
}

/// The container's security context (POD-176, POD-177).
///
/// # Errors
/// What cannot be: a root user where none may be, a profile without a name; the message of `CreateContainerConfigError`.
pub fn security_context(
    pod: &Pod,
    container: &Container,
    inputs: &SecurityInputs<'_>,
) -> Result<LinuxContainerSecurityContext, String> {
    let (of_pod, own) = (pod_context(pod), context(container));
    let user = own.run_as_user.or(of_pod.run_as_user);
    verify_non_root(pod, container, &of_pod, &own, user, inputs.image)?;
    let apparmor = apparmor(pod, container);
    #[expect(deprecated, reason = "older runtimes read the old form alone")]
    let mut result = LinuxContainerSecurityContext {
        apparmor_profile: old_form(apparmor.as_ref()),
        namespace_options: Some(namespace_options(pod)),
        seccomp: Some(seccomp(&of_pod, &own, inputs.seccomp_default, inputs.root)?),
        apparmor,
        privileged: own.privileged.unwrap_or(false),
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        selinux_options: selinux_options(own.se_linux_options.as_ref().or(of_pod.se_linux_options.as_ref())),
        run_as_group: own.run_as_group.or(of_pod.run_as_group).map(|value| Int64Value { value }),
        ..LinuxContainerSecurityContext::default()
    };
    match user.or(inputs.image.uid) {
        Some(value) => result.run_as_user = Some(Int64Value { value }),
        None if !inputs.image.username.is_empty() => result.run_as_username.clone_from(&inputs.image.username),
        None => result.run_as_user = Some(Int64Value { value: 0 }),
    }
    if let Some(capabilities) = &own.capabilities {
        result.capabilities = Some(Capability {
            add_capabilities: capabilities.add.clone().unwrap_or_default(),
            drop_capabilities: capabilities.drop.clone().unwrap_or_default(),
            ..Capability::default()
        });
    }
    if own.proc_mount.as_deref() != Some("Unmasked") {
        result.masked_paths = MASKED.map(str::to_owned).to_vec();
        result.masked_paths.extend_from_slice(inputs.thermal_throttles);
        result.readonly_paths = READ_ONLY.map(str::to_owned).to_vec();
    }
    result.supplemental_groups = of_pod.fs_group.into_iter().chain(of_pod.supplemental_groups.unwrap_or_default()).collect();
    for group in inputs.volume_groups {
        if !result.supplemental_groups.contains(group) {
            result.supplemental_groups.push(*group);
        }
    }
    if of_pod.supplemental_groups_policy.as_deref() == Some("Strict") {
        result.supplemental_groups_policy = proto::cri::SupplementalGroupsPolicy::Strict as i32;
    }
    Ok(result)
}

/// POD-176
fn verify_non_root(
    pod: &Pod,
    container: &Container,
    of_pod: &PodSecurityContext,
    own: &SecurityContext,
    user: Option<i64>,
    image: &ResolvedImage,
) -> Result<(), String> {
    if !own.run_as_non_root.or(of_pod.run_as_non_root).unwrap_or(false) {
        return Ok(());
    }
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let whose = format!("(pod: \"{name}_{namespace}({uid})\", container: {})", container.name);
    match (user, image.uid) {
        (Some(0), _) => Err(format!("container's runAsUser breaks non-root policy {whose}")),
        (Some(_), _) => Ok(()),
        (None, Some(0)) => Err(format!("container has runAsNonRoot and image will run as root {whose}")),
        (None, Some(_)) => Ok(()),
        (None, None) if !image.username.is_empty() => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root {whose}",
            image.username
        )),
        (None, None) => Err(format!("container has runAsNonRoot and image will run as root {whose}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn made(
        pod_context: serde_json::Value,
        own: serde_json::Value,
        image: &ResolvedImage,
    ) -> Result<LinuxContainerSecurityContext, String> {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {
            "securityContext": pod_context, "containers": [{"name": "c", "securityContext": own}]}}))
        .unwrap();
        let throttles = ["/sys/devices/system/cpu/cpu0/thermal_throttle".to_owned()];
        let root = "/var/lib/kubelet";
        let inputs = SecurityInputs { image, seccomp_default: false, root, volume_groups: &[], thermal_throttles: &throttles };
        security_context(&pod, &pod.spec.as_ref().unwrap().containers[0], &inputs)
    }

    // POD-176: container, pod, image uid, image name, root.
    #[test]
    fn user_is_the_most_specific_one() {
        let user = |pod, own, image: &ResolvedImage| made(pod, own, image).unwrap();
        let image = ResolvedImage { uid: Some(7), ..ResolvedImage::default() };
        assert_eq!(user(json!({"runAsUser": 1}), json!({"runAsUser": 2}), &image).run_as_user.unwrap().value, 2);
        assert_eq!(user(json!({"runAsUser": 1}), json!({}), &image).run_as_user.unwrap().value, 1);
        assert_eq!(user(json!({}), json!({}), &image).run_as_user.unwrap().value, 7);
        let named = ResolvedImage { username: "nobody".to_owned(), ..ResolvedImage::default() };
        assert_eq!(user(json!({}), json!({}), &named).run_as_username, "nobody");
        assert_eq!(user(json!({}), json!({}), &ResolvedImage::default()).run_as_user.unwrap().value, 0);
    }

    // POD-176: CreateContainerConfigError
    #[test]
    fn root_is_refused_where_it_may_not_be() {
        let refused = |own| made(json!({"runAsNonRoot": true}), own, &ResolvedImage::default());
        assert_eq!(
            refused(json!({})).unwrap_err(),
            "container has runAsNonRoot and image will run as root (pod: \"p_ns(u)\", container: c)"
        );
        assert!(refused(json!({"runAsUser": 0})).unwrap_err().starts_with("container's runAsUser breaks non-root policy"));
        assert!(refused(json!({"runAsUser": 5})).is_ok());
        assert!(refused(json!({"runAsNonRoot": false})).is_ok());
    }

    // CRI-041
    #[test]
    fn namespaces_are_the_nodes_the_pods_or_the_containers() {
        let options = |spec: serde_json::Value| {
            let mut spec = spec;
            spec["containers"] = json!([]);
            let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
            let options = namespace_options(&pod);
            (options.network, options.ipc, options.pid)
        };
        let (pod, container, node) = (NamespaceMode::Pod as i32, NamespaceMode::Container as i32, NamespaceMode::Node as i32);
        assert_eq!(options(json!({})), (pod, pod, container));
        assert_eq!(options(json!({"shareProcessNamespace": true})), (pod, pod, pod));
        assert_eq!(options(json!({"hostPID": true, "hostIPC": true, "hostNetwork": true})), (node, node, node));
        assert_eq!(options(json!({"hostPID": true, "shareProcessNamespace": true})).2, node);
    }

    // POD-177
    #[test]
    fn powers_follow_the_spec() {
        let made = made(
            json!({"fsGroup": 3, "supplementalGroups": [4], "seccompProfile": {"type": "RuntimeDefault"}}),
            json!({"allowPrivilegeEscalation": false, "procMount": "Unmasked", "capabilities": {"drop": ["ALL"]}}),
            &ResolvedImage::default(),
        )
        .unwrap();
        assert!(made.no_new_privs && made.masked_paths.is_empty());
        assert_eq!(made.supplemental_groups, [3, 4]);
        assert_eq!(made.capabilities.unwrap().drop_capabilities, ["ALL"]);
        assert_eq!(made.seccomp.unwrap().profile_type, ProfileType::RuntimeDefault as i32);
    }

    // POD-177: securitycontext/util.go masks what the machine has of them, after all else.
    #[test]
    fn heat_of_the_machines_cpus_is_masked() {
        let made = made(json!({}), json!({}), &ResolvedImage { uid: Some(7), ..ResolvedImage::default() }).unwrap();
        assert_eq!(made.masked_paths[11..], ["/sys/devices/virtual/powercap", "/sys/devices/system/cpu/cpu0/thermal_throttle"]);
    }

    // POD-177: apparmor/helpers.go (GetProfile): the container's field, the annotation, the pod's field.
    #[test]
    fn app_armor_profile_of_an_annotation_stands_between_the_containers_and_the_pods() {
        let profile = |pod: serde_json::Value| {
            let pod: Pod = serde_json::from_value(pod).unwrap();
            apparmor(&pod, &pod.spec.as_ref().unwrap().containers[0]).map(|made| (made.profile_type, made.localhost_ref))
        };
        let local = |name: &str| Some((ProfileType::Localhost as i32, name.to_owned()));
        let mut pod = json!({
            "metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/c": "localhost/annotated"}},
            "spec": {"securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}, "containers": [
                {"name": "c", "securityContext": {"appArmorProfile": {"type": "Localhost", "localhostProfile": "own"}}}]},
        });
        assert_eq!(profile(pod.clone()), local("own"));
        pod["spec"]["containers"][0]["securityContext"] = json!({});
        assert_eq!(profile(pod.clone()), local("annotated"));
        pod["metadata"] = json!({});
        assert_eq!(profile(pod), Some((ProfileType::RuntimeDefault as i32, String::new())));
    }

    // POD-177: kuberuntime/helpers.go (getAppArmorProfile): the old form as well, which is all that older runtimes read; recorded case 190.
    #[test]
    #[expect(deprecated, reason = "the old form is what this is about")]
    fn app_armor_profile_is_told_in_its_old_form_too() {
        let old = |profile: serde_json::Value| {
            let image = ResolvedImage { uid: Some(7), ..ResolvedImage::default() };
            made(json!({}), json!({"appArmorProfile": profile}), &image).unwrap().apparmor_profile
        };
        assert_eq!(old(json!({"type": "Unconfined"})), "unconfined");
        assert_eq!(old(json!({"type": "RuntimeDefault"})), "runtime/default");
        assert_eq!(old(json!({"type": "Localhost", "localhostProfile": "mine"})), "localhost/mine");
        let none = made(json!({}), json!({}), &ResolvedImage { uid: Some(7), ..ResolvedImage::default() }).unwrap();
        assert_eq!(none.apparmor_profile, "");
    }
}
