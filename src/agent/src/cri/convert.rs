//! Turns CRI messages into what the core observes; what breaks the contract is refused in words, not guessed at.
//! Upstream: staging/src/k8s.io/cri-client/pkg/utils.go (verify*), pkg/kubelet/kuberuntime/{convert,helpers}.go.
//! Differs: sandboxes are grouped by their pod UID label, as containers are, so that lists and looks agree.

use std::collections::BTreeMap;

use kubelet::failure::{Failure, FailureKind};
use kubelet::ids::{ContainerId, PodUid, SandboxId};
use kubelet::observation::{
    ActualResources, ContainerState, ContainerStatus, FsUsage, Image, LinuxUser, ListedContainer, ListedSandbox, RuntimeCondition,
    RuntimeHandler, RuntimeStatus, RuntimeVersion, SandboxState, SandboxStatus,
};
use kubelet::pod::mounts::from_root;
use proto::cri;

use super::error::malformed;

/// LOG-001
pub(super) const POD_UID: &str = "io.kubernetes.pod.uid";
const POD_NAME: &str = "io.kubernetes.pod.name";
const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// LOG-002
const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";

/// A status with the pod that it is of.
#[derive(Debug)]
pub(super) struct Identified<T> {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) status: T,
}

fn set(present: bool, what: impl FnOnce() -> String) -> Result<(), Failure> {
    if present { Ok(()) } else { Err(malformed(what())) }
}

fn pod_of(labels: &BTreeMap<String, String>) -> Option<PodUid> {
    labels.get(POD_UID).filter(|uid| !uid.is_empty()).map(PodUid::new)
}

fn sandbox_state(state: i32) -> SandboxState {
    if state == cri::PodSandboxState::SandboxReady as i32 { SandboxState::Ready } else { SandboxState::NotReady }
}

fn container_state(state: i32) -> ContainerState {
    match cri::ContainerState::try_from(state) {
        Ok(cri::ContainerState::ContainerCreated) => ContainerState::Created,
        Ok(cri::ContainerState::ContainerRunning) => ContainerState::Running,
        Ok(cri::ContainerState::ContainerExited) => ContainerState::Exited,
        Ok(cri::ContainerState::ContainerUnknown) | Err(_) => ContainerState::Unknown,
    }
}

/// A sandbox of a listing; `None` if it is no pod's (LOG-003).
pub(super) fn listed_sandbox(sandbox: &cri::PodSandbox) -> Option<Result<ListedSandbox, Failure>> {
    let (pod, metadata) = (pod_of(&sandbox.labels)?, sandbox.metadata.as_ref()?);
    Some(set(!sandbox.id.is_empty(), || format!("sandbox of pod {pod:?}: id is not set")).map(|()| ListedSandbox {
        id: SandboxId::new(&sandbox.id),
        pod,
        namespace: metadata.namespace.clone(),
        name: metadata.name.clone(),
        attempt: metadata.attempt,
        state: sandbox_state(sandbox.state),
        created_at: sandbox.created_at,
    }))
}

/// A container of a listing; `None` if it is no pod's (LOG-003).
pub(super) fn listed_container(container: &cri::Container) -> Option<Result<ListedContainer, Failure>> {
    let (pod, metadata) = (pod_of(&container.labels)?, container.metadata.as_ref()?);
    let complete = set(!container.id.is_empty(), || format!("container of pod {pod:?}: id is not set"));
    Some(complete.map(|()| ListedContainer {
        id: ContainerId::new(&container.id),
        pod,
        sandbox: SandboxId::new(&container.pod_sandbox_id),
        name: container_name(&container.labels, metadata),
        attempt: metadata.attempt,
        state: container_state(container.state),
        created_at: container.created_at,
    }))
}

fn container_name(labels: &BTreeMap<String, String>, metadata: &cri::ContainerMetadata) -> String {
    labels.get(CONTAINER_NAME).filter(|n| !n.is_empty()).unwrap_or(&metadata.name).clone()
}

/// A sandbox in detail (CRI-006).
pub(super) fn sandbox_status(status: cri::PodSandboxStatus) -> Result<Identified<SandboxStatus>, Failure> {
    let id = status.id;
    let wrong = |what: &str| malformed(format!("sandbox {id:?}: {what}"));
    set(!id.is_empty(), || "sandbox: status.Id is not set".to_owned())?;
    let metadata = status.metadata.ok_or_else(|| wrong("status.Metadata is not set"))?;
    if metadata.name.is_empty() || metadata.namespace.is_empty() || metadata.uid.is_empty() {
        return Err(wrong(&format!("metadata.Name, metadata.Namespace or metadata.Uid is not in metadata {metadata:?}")));
    }
    if status.created_at == 0 {
        return Err(wrong("status.CreatedAt is not set"));
    }
    // kuberuntime/util/util.go (PodSandboxChanged): one of whose network nothing is told lacks nothing.
    let lacks_ip = status.network.as_ref().is_some_and(|network| network.ip.is_empty());
    let network = status.network.unwrap_or_default();
    let ips = std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|ip| ip.ip));
    let options = status.linux.and_then(|l| l.namespaces).and_then(|n| n.options);
    let status = SandboxStatus {
        id: SandboxId::new(&id),
        attempt: metadata.attempt,
        state: sandbox_state(status.state),
        created_at: status.created_at,
        ips: ips.filter(|ip| !ip.is_empty()).collect(),
        lacks_ip,
        host_network: options.is_some_and(|o| o.network == cri::NamespaceMode::Node as i32),
        runtime_handler: status.runtime_handler,
        labels: status.labels,
        annotation_bytes: kubelet::pod::labels::texts(&status.annotations.into_iter().collect()),
    };
    Ok(Identified { namespace: metadata.namespace, name: metadata.name, status })
}

/// A container in detail (CRI-006). The status does not say in which sandbox it is; the listing did.
pub(super) fn container_status(status: cri::ContainerStatus, sandbox: &str) -> Result<Identified<ContainerStatus>, Failure> {
    let id = status.id;
    let wrong = |what: &str| malformed(format!("container {id:?}: {what}"));
    set(!id.is_empty(), || "container: status.Id is not set".to_owned())?;
    let metadata = status.metadata.ok_or_else(|| wrong("status.Metadata is not set"))?;
    set(!metadata.name.is_empty(), || format!("container {id:?}: metadata.Name is not in metadata {metadata:?}"))?;
    if status.created_at == 0 {
        return Err(wrong("status.CreatedAt is not set"));
    }
    let image = status.image.filter(|i| !i.image.is_empty()).ok_or_else(|| wrong("status.Image is not set"))?;
    if status.image_ref.is_empty() {
        return Err(wrong("status.ImageRef is not set"));
    }
    let label = |key: &str| status.labels.get(key).cloned().unwrap_or_default();
    let (namespace, name) = (label(POD_NAMESPACE), label(POD_NAME));
    let status = ContainerStatus {
        id: ContainerId::new(&id),
        sandbox: SandboxId::new(sandbox),
        name: container_name(&status.labels, &metadata),
        attempt: metadata.attempt,
        state: container_state(status.state),
        created_at: status.created_at,
        started_at: status.started_at,
        finished_at: status.finished_at,
        exit_code: status.exit_code,
        reason: status.reason,
        message: status.message,
        image: image.image,
        image_id: if status.image_id.is_empty() { status.image_ref.clone() } else { status.image_id },
        image_ref: status.image_ref,
        log_path: status.log_path,
        termination_log: termination_log(&status.annotations, &status.mounts),
        user: status.user.and_then(|u| u.linux).map(linux_user),
        resources: status.resources.and_then(|r| r.linux).map(|r| actual_resources(&r)),
        stop_signal: stop_signal(status.stop_signal),
        labels: status.labels,
        annotations: status.annotations,
    };
    Ok(Identified { namespace, name, status })
}

/// Where on the host a termination message lies: what is mounted at its path (POD-175).
fn termination_log(annotations: &BTreeMap<String, String>, mounts: &[cri::Mount]) -> String {
    let Some(path) = annotations.get(TERMINATION_PATH).filter(|p| !p.is_empty()) else { return String::new() };
    let path = from_root(path);
    mounts.iter().find(|m| m.container_path == path).map(|m| m.host_path.clone()).unwrap_or_default()
}

fn linux_user(user: cri::LinuxContainerUser) -> LinuxUser {
    LinuxUser { uid: user.uid, gid: user.gid, supplemental_groups: user.supplemental_groups }
}

fn actual_resources(resources: &cri::LinuxContainerResources) -> ActualResources {
    ActualResources {
        cpu_shares: resources.cpu_shares,
        cpu_quota: resources.cpu_quota,
        cpu_period: resources.cpu_period,
        memory_limit: resources.memory_limit_in_bytes,
    }
}

fn stop_signal(signal: i32) -> String {
    match cri::Signal::try_from(signal) {
        Ok(cri::Signal::RuntimeDefault) | Err(_) => String::new(),
        Ok(signal) => signal.as_str_name().to_owned(),
    }
}

/// CRI-002: all four fields, or it is no runtime.
pub(super) fn version(reply: cri::VersionResponse) -> Result<RuntimeVersion, Failure> {
    let fields = [
        ("Version", &reply.version),
        ("RuntimeName", &reply.runtime_name),
        ("RuntimeApiVersion", &reply.runtime_api_version),
        ("RuntimeVersion", &reply.runtime_version),
    ];
    let missing: Vec<&str> = fields.into_iter().filter(|(_, value)| value.is_empty()).map(|(name, _)| name).collect();
    if !missing.is_empty() {
        return Err(malformed(format!("not all fields are set in VersionResponse (missing {})", missing.join(", "))));
    }
    Ok(RuntimeVersion { name: reply.runtime_name, version: reply.runtime_version, api_version: reply.runtime_api_version })
}

/// CRI-004
pub(super) fn runtime_status(reply: cri::StatusResponse) -> Result<RuntimeStatus, Failure> {
    let conditions = reply.status.map(|s| s.conditions).unwrap_or_default();
    if conditions.len() < 2 {
        return Err(malformed("RuntimeReady or NetworkReady condition are not set"));
    }
    let condition = |kind: &str| {
        conditions.iter().find(|c| c.r#type == kind).map(|c| RuntimeCondition {
            status: c.status,
            reason: c.reason.clone(),
            message: c.message.clone(),
        })
    };
    let handler = |handler: cri::RuntimeHandler| {
        let features = handler.features.unwrap_or_default();
        RuntimeHandler {
            name: handler.name,
            recursive_read_only_mounts: features.recursive_read_only_mounts,
            user_namespaces: features.user_namespaces,
        }
    };
    Ok(RuntimeStatus {
        runtime_ready: condition("RuntimeReady"),
        network_ready: condition("NetworkReady"),
        handlers: reply.runtime_handlers.into_iter().map(handler).collect(),
        supplemental_groups_policy: reply.features.is_some_and(|f| f.supplemental_groups_policy),
    })
}

/// Whether the runtime uses the systemd cgroup driver, if it tells (CRI-003). One that nobody knows is no driver to go by (NODE-130).
pub(super) fn systemd_cgroup(reply: &cri::RuntimeConfigResponse) -> Result<Option<bool>, Failure> {
    let Some(linux) = &reply.linux else { return Ok(None) };
    match cri::CgroupDriver::try_from(linux.cgroup_driver) {
        Ok(driver) => Ok(Some(driver == cri::CgroupDriver::Systemd)),
        Err(_) => {
            let message = format!("runtime returned an unknown cgroup driver {}", linux.cgroup_driver);
            Err(Failure::new(FailureKind::Other, message))
        }
    }
}

/// The image that was asked for (CRI-006, CRI-035).
pub(super) fn image_status(asked: &str, found: cri::Image) -> Result<Image, Failure> {
    set(!found.id.is_empty() && found.size > 0, || format!("Id or size of image {asked:?} is not set"))?;
    Ok(image(found))
}

/// One image of a list. Nothing is refused here: one odd image must not hide the others from garbage collection.
pub(super) fn image(image: cri::Image) -> Image {
    Image {
        id: image.id,
        repo_tags: image.repo_tags,
        repo_digests: image.repo_digests,
        size: image.size,
        uid: image.uid.map(|uid| uid.value),
        username: image.username,
        pinned: image.pinned,
    }
}

/// What a filesystem holds of the runtime's; its size only the host knows (CRI-037).
pub(super) fn filesystem(usage: &cri::FilesystemUsage) -> FsUsage {
    let value = |v: &Option<cri::UInt64Value>| v.as_ref().map_or(0, |v| v.value);
    FsUsage {
        mountpoint: usage.fs_id.as_ref().map(|id| id.mountpoint.clone()).unwrap_or_default(),
        used: value(&usage.used_bytes),
        inodes_used: value(&usage.inodes_used),
        ..FsUsage::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Spoil<T> = fn(&mut T);

    fn labels() -> BTreeMap<String, String> {
        [(POD_UID, "u1"), (POD_NAME, "web"), (POD_NAMESPACE, "default"), (CONTAINER_NAME, "main")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into()
    }

    fn sandbox() -> cri::PodSandboxStatus {
        let metadata = cri::PodSandboxMetadata { name: "web".into(), namespace: "default".into(), uid: "u1".into(), attempt: 1 };
        cri::PodSandboxStatus { id: "s1".into(), metadata: Some(metadata), created_at: 5, ..cri::PodSandboxStatus::default() }
    }

    fn container() -> cri::ContainerStatus {
        cri::ContainerStatus {
            id: "c1".into(),
            metadata: Some(cri::ContainerMetadata { name: "main".into(), attempt: 3 }),
            state: cri::ContainerState::ContainerExited as i32,
            created_at: 7,
            image: Some(cri::ImageSpec { image: "busybox:1".into(), ..cri::ImageSpec::default() }),
            image_ref: "sha256:abc".into(),
            labels: labels(),
            annotations: [(TERMINATION_PATH.to_owned(), "/dev/termination-log".to_owned())].into(),
            mounts: vec![cri::Mount {
                container_path: "/dev/termination-log".into(),
                host_path: "/r/pods/u1/containers/main/0a".into(),
                ..cri::Mount::default()
            }],
            ..cri::ContainerStatus::default()
        }
    }

    // CRI-006
    #[test]
    fn incomplete_sandbox_is_refused_in_words() {
        let spoil: [(Spoil<cri::PodSandboxStatus>, &str); 4] = [
            (|s| s.id.clear(), "sandbox: status.Id is not set"),
            (|s| s.metadata = None, "sandbox \"s1\": status.Metadata is not set"),
            (|s| s.metadata.as_mut().unwrap().uid.clear(), "metadata.Name, metadata.Namespace or metadata.Uid is not in"),
            (|s| s.created_at = 0, "sandbox \"s1\": status.CreatedAt is not set"),
        ];
        assert!(sandbox_status(sandbox()).is_ok());
        for (spoil, message) in spoil {
            let mut status = sandbox();
            spoil(&mut status);
            let failure = sandbox_status(status).unwrap_err();
            assert!(failure.message.contains(message), "{failure}");
        }
    }

    // CRI-006
    #[test]
    fn incomplete_container_is_refused_in_words() {
        let spoil: [(Spoil<cri::ContainerStatus>, &str); 6] = [
            (|c| c.id.clear(), "container: status.Id is not set"),
            (|c| c.metadata = None, "container \"c1\": status.Metadata is not set"),
            (|c| c.metadata.as_mut().unwrap().name.clear(), "metadata.Name is not in metadata"),
            (|c| c.created_at = 0, "container \"c1\": status.CreatedAt is not set"),
            (|c| c.image = None, "container \"c1\": status.Image is not set"),
            (|c| c.image_ref.clear(), "container \"c1\": status.ImageRef is not set"),
        ];
        for (spoil, message) in spoil {
            let mut status = container();
            spoil(&mut status);
            let failure = container_status(status, "s1").unwrap_err();
            assert!(failure.message.contains(message), "{failure}");
        }
    }

    #[test]
    fn container_keeps_what_the_core_asks_for() {
        let mut given = container();
        given.stop_signal = cri::Signal::Sigquit as i32;
        let found = container_status(given, "s1").unwrap();
        assert_eq!((found.namespace.as_str(), found.name.as_str()), ("default", "web"));
        let status = found.status;
        assert_eq!((status.name.as_str(), status.attempt, status.state), ("main", 3, ContainerState::Exited));
        assert_eq!(status.sandbox, SandboxId::new("s1"));
        assert_eq!(status.stop_signal, "SIGQUIT");
        // POD-175
        assert_eq!(status.termination_log, "/r/pods/u1/containers/main/0a");
        // POD-175: the mount's path is the spec's from the root (getTerminationMessage).
        let annotations = [(TERMINATION_PATH.to_owned(), "dev//termination-log".to_owned())].into();
        let mounts =
            [cri::Mount { container_path: "/dev/termination-log".into(), host_path: "/r/0b".into(), ..cri::Mount::default() }];
        assert_eq!(termination_log(&annotations, &mounts), "/r/0b");
    }

    // CRI-021: images are collected by ID; what the image resolved to is what users are shown.
    #[test]
    fn image_of_a_container_is_known_by_its_id_where_the_runtime_tells() {
        let found = container_status(container(), "s1").unwrap().status;
        assert_eq!((found.image_ref.as_str(), found.image_id.as_str()), ("sha256:abc", "sha256:abc"));
        let told = cri::ContainerStatus { image_id: "sha256:def".into(), ..container() };
        let found = container_status(told, "s1").unwrap().status;
        assert_eq!((found.image_ref.as_str(), found.image_id.as_str()), ("sha256:abc", "sha256:def"));
    }

    #[test]
    fn sandbox_has_all_its_addresses_in_order() {
        let mut given = sandbox();
        given.network =
            Some(cri::PodSandboxNetworkStatus { ip: "10.0.0.1".into(), additional_ips: vec![cri::PodIp { ip: "fd00::1".into() }] });
        assert_eq!(sandbox_status(given).unwrap().status.ips, ["10.0.0.1", "fd00::1"]);
    }

    // CRI-042: kuberuntime/util/util.go (PodSandboxChanged): `Network != nil && Network.Ip == ""`.
    #[test]
    fn sandbox_lacks_an_ip_if_its_network_is_told_without_a_first_one() {
        let lacks = |network: Option<cri::PodSandboxNetworkStatus>| {
            sandbox_status(cri::PodSandboxStatus { network, ..sandbox() }).unwrap().status.lacks_ip
        };
        let network = |ip: &str, more: &[&str]| {
            let additional_ips = more.iter().map(|ip| cri::PodIp { ip: (*ip).to_owned() }).collect();
            Some(cri::PodSandboxNetworkStatus { ip: ip.to_owned(), additional_ips })
        };
        assert!(!lacks(None), "of its network nothing is told");
        assert!(lacks(network("", &[])) && lacks(network("", &["fd00::1"])));
        assert!(!lacks(network("10.0.0.1", &[])));
    }

    // LOG-003
    #[test]
    fn what_is_no_pods_is_not_listed() {
        let metadata = Some(cri::PodSandboxMetadata::default());
        let stranger = cri::PodSandbox { id: "x".into(), metadata: metadata.clone(), ..cri::PodSandbox::default() };
        assert!(listed_sandbox(&stranger).is_none());
        let nameless = cri::PodSandbox { id: "x".into(), labels: labels(), ..cri::PodSandbox::default() };
        assert!(listed_sandbox(&nameless).is_none());
        let ours = cri::PodSandbox { labels: labels(), metadata, ..stranger };
        assert_eq!(listed_sandbox(&ours).unwrap().unwrap().pod, PodUid::new("u1"));
        let metadata = Some(cri::ContainerMetadata { name: "main".into(), attempt: 0 });
        let stranger = cri::Container { id: "c".into(), metadata: metadata.clone(), ..cri::Container::default() };
        assert!(listed_container(&stranger).is_none());
        let nameless = cri::Container { id: "c".into(), labels: labels(), ..cri::Container::default() };
        assert!(listed_container(&nameless).is_none());
        let ours = cri::Container { labels: labels(), ..stranger };
        assert_eq!(listed_container(&ours).unwrap().unwrap().pod, PodUid::new("u1"));
    }

    // CRI-002: remote_runtime.go (versionV1), and its words.
    #[test]
    fn version_needs_all_four_fields() {
        let whole = cri::VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "containerd".into(),
            runtime_version: "v2.1.9".into(),
            runtime_api_version: "v1".into(),
        };
        assert_eq!(version(whole.clone()).unwrap().name, "containerd");
        let missing = |reply: cri::VersionResponse| version(reply).unwrap_err().message;
        let spoil: [(Spoil<cri::VersionResponse>, &str); 4] = [
            (|v| v.version.clear(), "Version"),
            (|v| v.runtime_name.clear(), "RuntimeName"),
            (|v| v.runtime_api_version.clear(), "RuntimeApiVersion"),
            (|v| v.runtime_version.clear(), "RuntimeVersion"),
        ];
        for (spoil, name) in spoil {
            let mut reply = whole.clone();
            spoil(&mut reply);
            assert_eq!(missing(reply), format!("not all fields are set in VersionResponse (missing {name})"));
        }
        let all = "not all fields are set in VersionResponse (missing Version, RuntimeName, RuntimeApiVersion, RuntimeVersion)";
        assert_eq!(missing(cri::VersionResponse::default()), all);
    }

    // CRI-006: remote_image.go (imageStatusV1), and its words.
    #[test]
    fn image_without_a_size_is_listed_but_no_answer() {
        let image = || cri::Image { id: "sha256:abc".into(), ..cri::Image::default() };
        assert_eq!(super::image(image()).id, "sha256:abc");
        for odd in [image(), cri::Image { size: 1, ..cri::Image::default() }] {
            assert_eq!(image_status("busybox", odd).unwrap_err().message, "Id or size of image \"busybox\" is not set");
        }
        assert!(image_status("busybox", cri::Image { size: 1, ..image() }).is_ok());
    }

    // NODE-130, CRI-003: cmd/kubelet/app/server.go, getCgroupDriverFromCRI
    #[test]
    fn only_cgroup_drivers_that_are_known_count() {
        let of = |driver: Option<i32>| {
            let linux = driver.map(|cgroup_driver| cri::LinuxRuntimeConfiguration { cgroup_driver });
            systemd_cgroup(&cri::RuntimeConfigResponse { linux }).map_err(|failure| failure.message)
        };
        assert_eq!((of(None), of(Some(0)), of(Some(1))), (Ok(None), Ok(Some(true)), Ok(Some(false))));
        assert_eq!(of(Some(7)), Err("runtime returned an unknown cgroup driver 7".to_owned()));
    }

    // CRI-004
    #[test]
    fn status_needs_both_conditions() {
        let condition = |kind: &str, status| cri::RuntimeCondition {
            r#type: kind.to_owned(),
            status,
            reason: format!("{kind}Reason"),
            message: "m".to_owned(),
        };
        let handler = cri::RuntimeHandler {
            name: "runc-x".to_owned(),
            features: Some(cri::RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces: false }),
        };
        let told = |conditions: &[cri::RuntimeCondition]| {
            runtime_status(cri::StatusResponse {
                status: Some(cri::RuntimeStatus { conditions: conditions.to_vec() }),
                runtime_handlers: vec![cri::RuntimeHandler::default(), handler.clone()],
                features: Some(cri::RuntimeFeatures { supplemental_groups_policy: true, ..cri::RuntimeFeatures::default() }),
                ..cri::StatusResponse::default()
            })
        };
        let (runtime, network) = (condition("RuntimeReady", true), condition("NetworkReady", false));
        // remote_runtime.go (Status)
        for too_few in [&[][..], std::slice::from_ref(&runtime), std::slice::from_ref(&network)] {
            assert!(told(too_few).unwrap_err().message.contains("RuntimeReady or NetworkReady condition are not set"));
        }
        let status = told(&[network, runtime]).unwrap();
        assert_eq!(
            status.runtime_ready.map(|c| (c.status, c.reason, c.message)),
            Some((true, "RuntimeReadyReason".into(), "m".into()))
        );
        assert_eq!(status.network_ready.map(|c| c.status), Some(false));
        let handlers: Vec<(&str, bool, bool)> =
            status.handlers.iter().map(|h| (h.name.as_str(), h.recursive_read_only_mounts, h.user_namespaces)).collect();
        assert_eq!(handlers, [("", false, false), ("runc-x", true, false)]);
        assert!(status.supplemental_groups_policy);
    }

    // A runtime may say anything: what it says is bytes.
    #[test]
    fn mangled_answers_of_a_runtime_are_something_or_a_failure() {
        use prost::Message as _;
        let container = container();
        let listed = cri::Container {
            id: "c1".to_owned(),
            labels: labels(),
            metadata: Some(cri::ContainerMetadata { name: "main".to_owned(), attempt: u32::MAX }),
            created_at: i64::MIN,
            ..cri::Container::default()
        };
        let image = cri::Image { id: "i".to_owned(), size: u64::MAX, ..cri::Image::default() };
        let usage = cri::FilesystemUsage {
            used_bytes: Some(cri::UInt64Value { value: u64::MAX }),
            timestamp: i64::MAX,
            ..cri::FilesystemUsage::default()
        };
        let seeds = [
            container.encode_to_vec(),
            sandbox().encode_to_vec(),
            listed.encode_to_vec(),
            image.encode_to_vec(),
            usage.encode_to_vec(),
        ];
        let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
        crate::mangled::each("runtime answer", &seeds, |input| {
            let _container = cri::ContainerStatus::decode(input).map(|status| container_status(status, "s1"));
            let _sandbox = cri::PodSandboxStatus::decode(input).map(sandbox_status);
            let _listed = cri::Container::decode(input).map(|listed| listed_container(&listed).is_some());
            let _listed = cri::PodSandbox::decode(input).map(|listed| listed_sandbox(&listed).is_some());
            let _status = cri::StatusResponse::decode(input).map(runtime_status);
            let _version = cri::VersionResponse::decode(input).map(version);
            let _image = cri::Image::decode(input).map(|image| image_status("i", image));
            let _usage = cri::FilesystemUsage::decode(input).map(|usage| filesystem(&usage));
        });
    }
}
