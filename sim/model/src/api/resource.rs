//! Which resources there are, and how each is named and updated.
//! Upstream: pkg/registry (the strategies), pkg/controlplane (the API groups).
//! Differs: only what a node, its pods and the workloads on them need; anything else is not found.

/// One resource.
#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    /// The API group; empty for core.
    pub group: &'static str,
    /// The version.
    pub version: &'static str,
    /// The name in paths. Unique among all resources here.
    pub plural: &'static str,
    /// The name of one.
    pub singular: &'static str,
    /// The kind.
    pub kind: &'static str,
    /// Whether it lives in a namespace.
    pub namespaced: bool,
    /// Short names and categories, for clients' convenience.
    pub short: &'static [&'static str],
    /// The subresources with their kinds.
    pub subresources: &'static [(&'static str, &'static str)],
    /// Whether its status is written apart from the rest, and its spec counted by `metadata.generation`.
    pub rules: Rules,
}

/// How a resource is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// `metadata.generation` counts changes of the spec.
    pub generation: bool,
    /// A main update leaves the status alone.
    pub status: bool,
    /// An update without a resourceVersion is accepted.
    pub unconditional: bool,
    /// An update of what is not there creates it.
    pub create_on_update: bool,
}

const PLAIN: Rules = Rules { generation: false, status: false, unconditional: true, create_on_update: false };
const STATUS: Rules = Rules { status: true, ..PLAIN };
const WORKLOAD: Rules = Rules { generation: true, ..STATUS };

impl Resource {
    /// `pods`, `leases.coordination.k8s.io`: as messages name it.
    #[must_use]
    pub fn qualified(&self) -> String {
        format!("{}{}", self.plural, self.dotted_group())
    }

    /// `.apps`, or nothing for core.
    #[must_use]
    pub fn dotted_group(&self) -> String {
        if self.group.is_empty() { String::new() } else { format!(".{}", self.group) }
    }

    /// `v1`, `apps/v1`.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Whether there is such a subresource; the empty one is the resource itself.
    #[must_use]
    pub fn has(&self, subresource: &str) -> bool {
        subresource.is_empty() || self.subresources.iter().any(|(name, _)| *name == subresource)
    }
}

/// The resource of that plural.
///
/// # Panics
/// If there is none: it is for names written in code.
#[must_use]
pub fn named(plural: &str) -> &'static Resource {
    RESOURCES.iter().find(|r| r.plural == plural).unwrap_or_else(|| panic!("no resource {plural}"))
}

/// The resource of that group, version and plural, as a path names it.
#[must_use]
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|r| r.group == group && r.version == version && r.plural == plural)
}

/// The resource of that apiVersion and kind.
#[must_use]
pub fn of_kind(api_version: &str, kind: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|r| r.kind == kind && r.api_version() == api_version)
}

macro_rules! resource {
    ($group:literal $version:literal, $plural:literal $singular:literal $kind:literal, $namespaced:literal, $rules:expr, $short:expr, $subs:expr) => {
        Resource {
            group: $group,
            version: $version,
            plural: $plural,
            singular: $singular,
            kind: $kind,
            namespaced: $namespaced,
            short: $short,
            subresources: $subs,
            rules: $rules,
        }
    };
}

const POD_SUBRESOURCES: &[(&str, &str)] = &[
    ("status", "Pod"),
    ("binding", "Binding"),
    ("eviction", "Eviction"),
    ("ephemeralcontainers", "Pod"),
    ("resize", "Pod"),
    ("log", "Pod"),
    ("exec", "PodExecOptions"),
    ("attach", "PodAttachOptions"),
    ("portforward", "PodPortForwardOptions"),
];

/// All resources, by group.
pub static RESOURCES: [Resource; 27] = [
    resource!("" "v1", "pods" "pod" "Pod", true, WORKLOAD, &["po"], POD_SUBRESOURCES),
    resource!("" "v1", "nodes" "node" "Node", false, STATUS, &["no"], &[("status", "Node"), ("proxy", "NodeProxyOptions")]),
    resource!("" "v1", "namespaces" "namespace" "Namespace", false, STATUS, &["ns"], &[("status", "Namespace"), ("finalize", "Namespace")]),
    resource!("" "v1", "configmaps" "configmap" "ConfigMap", true, PLAIN, &["cm"], &[]),
    resource!("" "v1", "secrets" "secret" "Secret", true, PLAIN, &[], &[]),
    resource!("" "v1", "services" "service" "Service", true, STATUS, &["svc"], &[("status", "Service")]),
    resource!("" "v1", "endpoints" "endpoints" "Endpoints", true, PLAIN, &["ep"], &[]),
    resource!("" "v1", "serviceaccounts" "serviceaccount" "ServiceAccount", true, PLAIN, &["sa"], &[("token", "TokenRequest")]),
    resource!("" "v1", "events" "event" "Event", true, Rules { create_on_update: true, ..PLAIN }, &["ev"], &[]),
    resource!("" "v1", "persistentvolumes" "persistentvolume" "PersistentVolume", false, STATUS, &["pv"], &[("status", "PersistentVolume")]),
    resource!("" "v1", "persistentvolumeclaims" "persistentvolumeclaim" "PersistentVolumeClaim", true, STATUS, &["pvc"], &[("status", "PersistentVolumeClaim")]),
    resource!("apps" "v1", "deployments" "deployment" "Deployment", true, WORKLOAD, &["deploy"], &[("status", "Deployment"), ("scale", "Scale")]),
    resource!("apps" "v1", "replicasets" "replicaset" "ReplicaSet", true, WORKLOAD, &["rs"], &[("status", "ReplicaSet"), ("scale", "Scale")]),
    resource!("apps" "v1", "daemonsets" "daemonset" "DaemonSet", true, WORKLOAD, &["ds"], &[("status", "DaemonSet")]),
    resource!("coordination.k8s.io" "v1", "leases" "lease" "Lease", true, Rules { unconditional: false, create_on_update: true, ..PLAIN }, &[], &[]),
    resource!("node.k8s.io" "v1", "runtimeclasses" "runtimeclass" "RuntimeClass", false, PLAIN, &[], &[]),
    resource!("scheduling.k8s.io" "v1", "priorityclasses" "priorityclass" "PriorityClass", false, PLAIN, &["pc"], &[]),
    resource!("storage.k8s.io" "v1", "csinodes" "csinode" "CSINode", false, Rules { unconditional: false, ..PLAIN }, &[], &[]),
    resource!("storage.k8s.io" "v1", "csidrivers" "csidriver" "CSIDriver", false, PLAIN, &[], &[]),
    resource!("storage.k8s.io" "v1", "storageclasses" "storageclass" "StorageClass", false, PLAIN, &["sc"], &[]),
    resource!("storage.k8s.io" "v1", "volumeattachments" "volumeattachment" "VolumeAttachment", false, STATUS, &[], &[("status", "VolumeAttachment")]),
    resource!("resource.k8s.io" "v1", "resourceslices" "resourceslice" "ResourceSlice", false, PLAIN, &[], &[]),
    resource!("certificates.k8s.io" "v1", "certificatesigningrequests" "certificatesigningrequest" "CertificateSigningRequest", false, STATUS, &["csr"], &[("status", "CertificateSigningRequest"), ("approval", "CertificateSigningRequest")]),
    resource!("authentication.k8s.io" "v1", "tokenreviews" "tokenreview" "TokenReview", false, PLAIN, &[], &[]),
    resource!("authentication.k8s.io" "v1", "selfsubjectreviews" "selfsubjectreview" "SelfSubjectReview", false, PLAIN, &[], &[]),
    resource!("authorization.k8s.io" "v1", "subjectaccessreviews" "subjectaccessreview" "SubjectAccessReview", false, PLAIN, &[], &[]),
    resource!("authorization.k8s.io" "v1", "selfsubjectaccessreviews" "selfsubjectaccessreview" "SelfSubjectAccessReview", false, PLAIN, &[], &[]),
];

/// Resources that are asked and not kept.
#[must_use]
pub fn is_review(resource: &Resource) -> bool {
    matches!(resource.group, "authentication.k8s.io" | "authorization.k8s.io")
}
