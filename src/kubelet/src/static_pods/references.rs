//! Decides whether a static pod names objects of the API, which it may not.
//! Upstream: pkg/api/pod/util.go (HasAPIObjectReference), feature gate PreventStaticPodAPIReferences.
//! Differs: nothing on purpose.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Volume};

/// The kind of object that the pod refers to, in upstream's words (POD-009).
pub(super) fn api_reference(pod: &Pod) -> Option<&'static str> {
    let spec = pod.spec.as_ref()?;
    if [&spec.service_account_name, &spec.service_account].into_iter().flatten().any(|name| !name.is_empty()) {
        return Some("serviceaccounts");
    }
    if names_secret(spec) {
        return Some("secrets");
    }
    if names_config_map(spec) {
        return Some("configmaps");
    }
    if spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
        return Some("resourceclaims");
    }
    spec.volumes.iter().flatten().find_map(of_volume)
}

fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

fn names_secret(spec: &PodSpec) -> bool {
    let env = |c: &Container| {
        let key = |e: &k8s_openapi::api::core::v1::EnvVar| e.value_from.as_ref().is_some_and(|from| from.secret_key_ref.is_some());
        c.env.iter().flatten().any(key) || c.env_from.iter().flatten().any(|from| from.secret_ref.is_some())
    };
    let volume = |v: &Volume| {
        let sources = v.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        v.secret.is_some()
            || v.azure_file.is_some()
            || sources.into_iter().any(|source| source.secret.is_some())
            || v.cephfs.as_ref().is_some_and(|s| s.secret_ref.is_some())
            || v.cinder.as_ref().is_some_and(|s| s.secret_ref.is_some())
            || v.flex_volume.as_ref().is_some_and(|s| s.secret_ref.is_some())
            || v.rbd.as_ref().is_some_and(|s| s.secret_ref.is_some())
            || v.iscsi.as_ref().is_some_and(|s| s.secret_ref.is_some())
            || v.csi.as_ref().is_some_and(|s| s.node_publish_secret_ref.is_some())
    };
    spec.image_pull_secrets.as_ref().is_some_and(|secrets| !secrets.is_empty())
        || containers(spec).any(env)
        || spec.volumes.iter().flatten().any(volume)
}

fn names_config_map(spec: &PodSpec) -> bool {
    let env = |c: &Container| {
        let key =
            |e: &k8s_openapi::api::core::v1::EnvVar| e.value_from.as_ref().is_some_and(|from| from.config_map_key_ref.is_some());
        c.env.iter().flatten().any(key) || c.env_from.iter().flatten().any(|from| from.config_map_ref.is_some())
    };
    let volume = |v: &Volume| {
        let mut sources = v.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        v.config_map.is_some() || sources.any(|source| source.config_map.is_some())
    };
    containers(spec).any(env) || spec.volumes.iter().flatten().any(volume)
}

fn of_volume(volume: &Volume) -> Option<&'static str> {
    if volume.csi.is_some() {
        return Some("csidrivers (via CSI volumes)");
    }
    if volume.glusterfs.is_some() {
        return Some("endpoints (via glusterFS volumes)");
    }
    if volume.persistent_volume_claim.is_some() {
        return Some("persistentvolumeclaims");
    }
    if volume.ephemeral.is_some() {
        return Some("persistentvolumeclaims (via ephemeral volumes)");
    }
    volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()).find_map(|source| {
        if source.service_account_token.is_some() {
            Some("serviceaccounts (via projected volumes)")
        } else if source.cluster_trust_bundle.is_some() {
            Some("clustertrustbundles")
        } else {
            source.pod_certificate.is_some().then_some("podcertificates")
        }
    })
}
