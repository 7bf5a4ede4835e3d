//! Decides which ConfigMaps and Secrets a pod refers to.
//! Upstream: pkg/api/v1/pod/util.go (VisitPodSecretNames, VisitPodConfigmapNames).
//! Differs: nothing on purpose.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, LocalObjectReference, Pod, PodSpec, Volume};

use crate::event::WatchKey;

/// Every ConfigMap and Secret that the pod names itself (CFG-003): not through claims.
#[must_use]
pub fn references(pod: &Pod) -> BTreeSet<WatchKey> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut found = Found { namespace, keys: BTreeSet::new() };
    if let Some(spec) = &pod.spec {
        found.pod(spec);
    }
    found.keys
}

struct Found<'a> {
    namespace: &'a str,
    keys: BTreeSet<WatchKey>,
}

impl Found<'_> {
    fn pod(&mut self, spec: &PodSpec) {
        for reference in spec.image_pull_secrets.iter().flatten() {
            self.secret(&reference.name);
        }
        for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
            self.env(container.env.as_deref(), container.env_from.as_deref());
        }
        for container in spec.ephemeral_containers.iter().flatten() {
            self.env(container.env.as_deref(), container.env_from.as_deref());
        }
        for volume in spec.volumes.iter().flatten() {
            self.volume(volume);
        }
    }

    fn env(&mut self, env: Option<&[EnvVar]>, env_from: Option<&[EnvFromSource]>) {
        for source in env_from.into_iter().flatten() {
            if let Some(reference) = &source.secret_ref {
                self.secret(&reference.name);
            }
            if let Some(reference) = &source.config_map_ref {
                self.config_map(&reference.name);
            }
        }
        for source in env.into_iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            if let Some(reference) = &source.secret_key_ref {
                self.secret(&reference.name);
            }
            if let Some(reference) = &source.config_map_key_ref {
                self.config_map(&reference.name);
            }
        }
    }

    fn volume(&mut self, volume: &Volume) {
        if let Some(source) = &volume.secret {
            self.secret(source.secret_name.as_deref().unwrap_or_default());
        }
        if let Some(source) = &volume.config_map {
            self.config_map(&source.name);
        }
        for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
            if let Some(secret) = &source.secret {
                self.secret(&secret.name);
            }
            if let Some(config_map) = &source.config_map {
                self.config_map(&config_map.name);
            }
        }
        if let Some(source) = &volume.azure_file {
            self.secret(&source.secret_name);
        }
        let references: [Option<&LocalObjectReference>; 8] = [
            volume.csi.as_ref().and_then(|s| s.node_publish_secret_ref.as_ref()),
            volume.iscsi.as_ref().and_then(|s| s.secret_ref.as_ref()),
            volume.flex_volume.as_ref().and_then(|s| s.secret_ref.as_ref()),
            volume.cephfs.as_ref().and_then(|s| s.secret_ref.as_ref()),
            volume.rbd.as_ref().and_then(|s| s.secret_ref.as_ref()),
            volume.cinder.as_ref().and_then(|s| s.secret_ref.as_ref()),
            volume.scale_io.as_ref().map(|s| &s.secret_ref),
            volume.storageos.as_ref().and_then(|s| s.secret_ref.as_ref()),
        ];
        for reference in references.into_iter().flatten() {
            self.secret(&reference.name);
        }
    }

    fn secret(&mut self, name: &str) {
        if !name.is_empty() {
            self.keys.insert(WatchKey::Secret { namespace: self.namespace.to_owned(), name: name.to_owned() });
        }
    }

    fn config_map(&mut self, name: &str) {
        if !name.is_empty() {
            self.keys.insert(WatchKey::ConfigMap { namespace: self.namespace.to_owned(), name: name.to_owned() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    // CFG-003: every place counts once; empty names and claims do not count.
    #[test]
    fn references_come_from_environments_volumes_and_pull_secrets() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {
                "imagePullSecrets": [{"name": "pull"}, {"name": ""}],
                "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "init-env"}}]}],
                "containers": [{"name": "c", "env": [
                    {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "env-map", "key": "k"}}},
                    {"name": "B", "valueFrom": {"secretKeyRef": {"name": "pull", "key": "k"}}},
                    {"name": "C", "value": "plain"}]}],
                "ephemeralContainers": [{"name": "e", "envFrom": [{"configMapRef": {"name": "debug"}}]}],
                "volumes": [
                    {"name": "a", "secret": {"secretName": "vol"}},
                    {"name": "b", "configMap": {"name": "vol"}},
                    {"name": "c", "projected": {"sources": [{"secret": {"name": "ps"}}, {"configMap": {"name": "pm"}}]}},
                    {"name": "d", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "csi"}}},
                    {"name": "e", "persistentVolumeClaim": {"claimName": "claim"}}],
            },
        }))
        .unwrap();
        let names: Vec<String> = references(&pod)
            .into_iter()
            .map(|key| match key {
                WatchKey::ConfigMap { namespace, name } => format!("cm {namespace}/{name}"),
                WatchKey::Secret { namespace, name } => format!("secret {namespace}/{name}"),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(
            names,
            [
                "cm ns/debug",
                "cm ns/env-map",
                "cm ns/pm",
                "cm ns/vol",
                "secret ns/csi",
                "secret ns/init-env",
                "secret ns/ps",
                "secret ns/pull",
                "secret ns/vol"
            ]
        );
    }
}
