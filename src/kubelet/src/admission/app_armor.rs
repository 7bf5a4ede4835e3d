//! Decides whether the node can hold a pod to its AppArmor profiles.
//! Upstream: pkg/security/apparmor/{validate,helpers}.go, pkg/kubelet/lifecycle/handlers.go (appArmorAdmitHandler).
//! Differs: the node is looked at again with the rest of the machine; upstream looks once, when it starts.

use k8s_openapi::api::core::v1::{AppArmorProfile, Container, Pod};

use crate::observation::MachineInfo;
use crate::pod::security_context::{APP_ARMOR_ANNOTATION, app_armor_profile};

/// Why a pod may not run, if it may not (POD-034). What has run before is not asked again.
#[must_use]
pub(super) fn forbidden(pod: &Pod, machine: Option<&MachineInfo>) -> Option<String> {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if phase.is_some_and(|phase| phase != "Pending") || !is_required(pod) {
        return None;
    }
    let why = if machine.is_some_and(|machine| !machine.apparmor) {
        "AppArmor is not enabled on the host"
    } else if containers(pod).any(|container| app_armor_profile(pod, container).is_some_and(|profile| is_nameless(&profile))) {
        "invalid empty AppArmor profile name"
    } else {
        return None;
    };
    Some(format!("Cannot enforce AppArmor: {why}"))
}

fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
}

/// Whether anything of the pod is to be confined.
fn is_required(pod: &Pod) -> bool {
    let confines = |profile: Option<&AppArmorProfile>| profile.is_some_and(|profile| profile.type_ != "Unconfined");
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()?.app_armor_profile.as_ref());
    let of_container = |c: &Container| confines(c.security_context.as_ref().and_then(|own| own.app_armor_profile.as_ref()));
    let annotations = pod.metadata.annotations.iter().flatten();
    confines(of_pod)
        || containers(pod).any(of_container)
        || annotations.into_iter().any(|(key, value)| key.starts_with(APP_ARMOR_ANNOTATION) && value != "unconfined")
}

fn is_nameless(profile: &AppArmorProfile) -> bool {
    profile.type_ == "Localhost" && profile.localhost_profile.as_deref().unwrap_or_default().trim().is_empty()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn told(pod: Value, apparmor: bool) -> Option<String> {
        let machine = MachineInfo { apparmor, ..MachineInfo::default() };
        forbidden(&serde_json::from_value(pod).unwrap(), Some(&machine))
    }

    fn of_container(profile: Value) -> Value {
        json!({"spec": {"containers": [{"name": "c", "securityContext": {"appArmorProfile": profile}}]}})
    }

    // POD-034: as a kubelet 1.36.2 was recorded (190); upstream's cases for who needs AppArmor (helpers_test.go).
    #[test]
    fn pod_that_is_to_be_confined_is_refused_where_there_is_no_apparmor() {
        let refused = Some("Cannot enforce AppArmor: AppArmor is not enabled on the host".to_owned());
        let of_pod =
            |kind: &str| json!({"spec": {"securityContext": {"appArmorProfile": {"type": kind}}, "containers": [{"name": "c"}]}});
        let annotated = |value: &str| {
            let annotations = json!({"container.apparmor.security.beta.kubernetes.io/c": value});
            json!({"metadata": {"annotations": annotations}, "spec": {"containers": [{"name": "c"}]}})
        };
        for pod in [of_container(json!({"type": "RuntimeDefault"})), of_pod("RuntimeDefault"), annotated("localhost/x")] {
            assert_eq!(told(pod.clone(), false), refused, "{pod}");
            assert_eq!(told(pod, true), None);
        }
        for pod in [
            of_container(json!({"type": "Unconfined"})),
            of_pod("Unconfined"),
            annotated("unconfined"),
            json!({"spec": {"containers": []}}),
        ] {
            assert_eq!(told(pod.clone(), false), None, "{pod}");
        }
        let mut running = of_container(json!({"type": "RuntimeDefault"}));
        running["status"] = json!({"phase": "Running"});
        assert_eq!(told(running, false), None);
    }

    // POD-034: validate.go
    #[test]
    fn local_profile_needs_a_name() {
        let nameless = of_container(json!({"type": "Localhost", "localhostProfile": " "}));
        assert_eq!(told(nameless, true).unwrap(), "Cannot enforce AppArmor: invalid empty AppArmor profile name");
        assert_eq!(told(of_container(json!({"type": "Localhost", "localhostProfile": "x"})), true), None);
    }
}
