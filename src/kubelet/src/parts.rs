//! The parts that pods plan with, and what a pod asks of several of them at once.
//! Upstream: the fields of pkg/kubelet/kubelet.go (Kubelet).
//! Differs: nothing on purpose.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use proto::cri::{DnsConfig, ImageSpec, PodSandboxConfig};

use crate::action::HostCall;
use crate::cache::runtime_classes::RuntimeClasses;
use crate::cache::services::ServiceCache;
use crate::cache::{Lookup, ObjectCache};
use crate::config::{CgroupDriver, Config};
use crate::images::{ImageManager, ResolvedImage};
use crate::limits::Room;
use crate::node::manager::NodeManager;
use crate::node::runtime_health::RuntimeHealth;
use crate::node_files::NodeFiles;
use crate::observation::PodObservation;
use crate::out::Out;
use crate::plugins::Plugins;
use crate::pod::configs::ContainerPlan;
use crate::pod::container_config::{ContainerInputs, container_config};
use crate::pod::dns::{PodDns, ResolvConf, pod_dns};
use crate::pod::env::{EnvError, EnvInputs, Environment, environment};
use crate::pod::fields::FieldContext;
use crate::pod::hosts::hosts_file;
use crate::pod::listings::Listings;
use crate::pod::manager::{is_static, name_of, uid_of};
use crate::pod::mounts::{MountInputs, asks_for_recursion, file_mount, from_root, mounts_over, volume_mounts};
use crate::pod::sandbox_config::{SandboxInputs, sandbox_config};
use crate::pod::security_context::{SecurityInputs, security_context};
use crate::pod::status::{all_ips, sorted_ips};
use crate::pod::worker::PodWorker;
use crate::prober::Prober;
use crate::recorder::{Recorded, Subject};
use crate::resources::cgroup::pod_cgroup_name;
use crate::resources::requests::{Kind, declares_limit, pod_amounts};
use crate::rng::Rng;
use crate::sensitive::Sensitive;
use crate::startup::Startup;
use crate::status_manager::StatusManager;
use crate::time::Now;
use crate::tokens::TokenManager;
use crate::volumes::csi::CsiContext;
use crate::volumes::{VolumeInputs, VolumeManager, VolumesState};
use crate::work::Point;

/// What pods plan with: everything but the workers themselves.
#[derive(Debug)]
pub struct Parts {
    /// The settings.
    pub config: Arc<Config>,
    /// Jitter.
    pub rng: Rng,
    /// What is done once.
    pub startup: Startup,
    /// The runtime's health.
    pub runtime: RuntimeHealth,
    /// The sandbox configuration of the pod that is being planned.
    pub planned: Option<PlannedSandbox>,
    /// What pods take in the runtime's listings.
    pub listings: Listings,
    /// Images.
    pub images: ImageManager,
    /// Volumes.
    pub volumes: VolumeManager,
    /// The plugins on the node.
    pub plugins: Plugins,
    /// ConfigMaps and Secrets.
    pub objects: ObjectCache,
    /// Services, for environment variables.
    pub services: ServiceCache,
    /// RuntimeClasses.
    pub runtime_classes: RuntimeClasses,
    /// Service account tokens.
    pub tokens: TokenManager,
    /// What the API server is told of pods.
    pub statuses: StatusManager,
    /// Probes.
    pub prober: Prober,
    /// The Node object.
    pub node: NodeManager,
    /// The node's resolver configuration and hosts file, as last read; what could not be read is empty.
    pub node_files: NodeFiles,
}

/// A sandbox configuration that was made for one plan of one pod.
#[derive(Debug)]
pub struct PlannedSandbox {
    pod: Arc<Pod>,
    attempt: u32,
    config: Arc<PodSandboxConfig>,
    warnings: Vec<(&'static str, String)>,
    node_warnings: Vec<(&'static str, String)>,
}

/// Why a container's configuration cannot be made: waiting reason and message; `None` if something is still on its way.
pub type PlanError = Option<(String, String)>;

/// A container that is to be made.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// Its spec.
    pub container: &'a Container,
    /// Its number.
    pub attempt: u32,
    /// Its image.
    pub image: &'a ResolvedImage,
    /// The images that it mounts, by the volumes' names.
    pub image_volumes: &'a BTreeMap<String, ImageSpec>,
    /// What it may take.
    pub room: &'a mut Room,
}

/// A container's configuration cannot be made, and why.
pub(crate) fn config_error(message: String) -> PlanError {
    Some(("CreateContainerConfigError".to_owned(), message))
}

impl Parts {
    /// The cgroup driver in use: the runtime's word, else the setting (NODE-130).
    #[must_use]
    pub fn cgroup_driver(&self) -> CgroupDriver {
        match self.runtime.systemd_cgroup() {
            Some(Some(true)) => CgroupDriver::Systemd,
            Some(Some(false)) => CgroupDriver::Cgroupfs,
            _ => self.config.cgroups.driver,
        }
    }

    /// The node's IPs: InternalIP, else ExternalIP, and one of the other family (NET-006).
    #[must_use]
    pub fn host_ips(&self) -> Vec<String> {
        let addresses = self.node.addresses();
        let of = |kind: &str| addresses.iter().filter(|a| a.type_ == kind).map(|a| a.address.clone()).collect::<Vec<_>>();
        let all: Vec<String> = of("InternalIP").into_iter().chain(of("ExternalIP")).collect();
        let first: Vec<String> = all.iter().take(1).cloned().collect();
        let is_v6 = |ip: &String| ip.contains(':');
        let other = all.iter().find(|ip| first.first().is_some_and(|f| is_v6(f) != is_v6(ip)));
        first.iter().cloned().chain(other.cloned()).collect()
    }

    /// What pods may have of this node, as quantities.
    #[must_use]
    pub fn node_allocatable(&self) -> BTreeMap<String, Quantity> {
        let Some(machine) = self.startup.machine() else { return BTreeMap::new() };
        crate::node::status::Resources::new(&self.config, machine).allocatable
    }

    /// `<podLogsDir>/<ns>_<name>_<uid>` (POD-146).
    #[must_use]
    pub fn pod_log_directory(&self, pod: &Pod) -> String {
        let name = name_of(pod);
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        format!("{}/{}_{}_{uid}", self.config.paths.pod_logs, name.namespace, name.name)
    }

    /// The pod's directory.
    #[must_use]
    pub fn pod_dir(&self, worker: &PodWorker) -> String {
        format!("{}/pods/{}", self.config.paths.root, worker.uid)
    }

    /// Brings the pod's volumes on.
    pub fn sync_volumes(&mut self, worker: &PodWorker, now: Now, out: &mut Out<'_>) -> VolumesState {
        let allocatable = self.node_allocatable();
        let limit = declares_limit(&worker.pod, "memory")
            .then(|| pod_amounts(&worker.pod, Kind::Limits).get("memory").copied())
            .flatten()
            .and_then(|limit| u64::try_from(limit).ok());
        let mut inputs = VolumeInputs {
            objects: &self.objects,
            tokens: &mut self.tokens,
            root_dir: &self.config.paths.root,
            node_allocatable: &allocatable,
            node_labels: self.node.node().and_then(|node| node.metadata.labels.as_ref()),
            pod_memory_limit: limit,
        };
        self.volumes.sync_pod(now, &worker.pod, &mut inputs, out)
    }

    /// Brings on the volumes that drivers put in place.
    pub fn drive_volumes(&mut self, now: Now, pods_known: bool, out: &mut Out<'_>) {
        let mut context = CsiContext {
            root_dir: &self.config.paths.root,
            node_name: &self.config.node.name,
            node: self.node.node().map(Arc::as_ref),
            plugins: &self.plugins,
            tokens: &mut self.tokens,
            host_ready: self.startup.is_done(),
            pods_known,
            controller_attaches: self.config.node.enable_controller_attach_detach,
            standalone: self.config.node.standalone,
        };
        self.volumes.csi.drive(now, &mut context, out);
    }

    /// The pod's sandbox configuration.
    ///
    /// # Errors
    /// What `FailedCreatePodSandBox` tells.
    pub fn sandbox_config(&mut self, pod: &Arc<Pod>, attempt: u32, out: &mut Out<'_>) -> Result<Arc<PodSandboxConfig>, String> {
        let planned = self.planned_sandbox(pod, attempt)?;
        for (reason, message) in &planned.node_warnings {
            out.record(Recorded::warning(Subject::Node, *reason, message.clone()));
        }
        for (reason, message) in &planned.warnings {
            out.record(Recorded::warning(Subject::Pod(Arc::clone(pod)), *reason, message.clone()));
        }
        Ok(Arc::clone(&planned.config))
    }

    /// The same for a pull (CRI-034). What is wrong with it users are told when the container is made.
    ///
    /// # Errors
    /// As above.
    pub fn sandbox_config_of_pull(&mut self, pod: &Arc<Pod>, attempt: u32) -> Result<Arc<PodSandboxConfig>, String> {
        Ok(Arc::clone(&self.planned_sandbox(pod, attempt)?.config))
    }

    /// One configuration for all containers of one plan: with thousands of containers, ports and annotations each takes its time and room.
    fn planned_sandbox(&mut self, pod: &Arc<Pod>, attempt: u32) -> Result<&PlannedSandbox, String> {
        let known = self.planned.take().filter(|planned| Arc::ptr_eq(&planned.pod, pod) && planned.attempt == attempt);
        let planned = match known {
            Some(known) => known,
            None => {
                let PodDns { config, warnings, node_warnings } = self.dns_of(pod)?;
                let config = self.sandbox_config_with(pod, attempt, config)?;
                PlannedSandbox { pod: Arc::clone(pod), attempt, config, warnings, node_warnings }
            }
        };
        Ok(self.planned.insert(planned))
    }

    fn dns_of(&self, pod: &Pod) -> Result<PodDns, String> {
        let host = match self.node_files.resolv_conf() {
            _ if self.config.dns.resolv_conf.is_empty() => None,
            Some(Ok(text)) => Some(ResolvConf::parse(text)?),
            Some(Err(why)) => return Err(why.clone()),
            None => return Err(format!("open {}: not read yet", self.config.dns.resolv_conf)),
        };
        let display = format!("{}({})", name_of(pod), pod.metadata.uid.as_deref().unwrap_or_default());
        Ok(pod_dns(pod, &self.config.dns, host.as_ref(), &self.config.node.ips, &display))
    }

    fn sandbox_config_with(&self, pod: &Pod, attempt: u32, dns: DnsConfig) -> Result<Arc<PodSandboxConfig>, String> {
        let cgroup_parent =
            if self.config.cgroups.per_qos { pod_cgroup_name(pod, &self.config, self.cgroup_driver()) } else { String::new() };
        let inputs = SandboxInputs {
            config: &self.config,
            attempt,
            cgroup_parent,
            dns,
            log_directory: self.pod_log_directory(pod),
            volume_groups: self.volume_groups(pod),
        };
        Ok(Arc::new(sandbox_config(pod, inputs)?))
    }

    /// The pod's IPs: its newest sandbox's, or the node's on the node's network (NET-005).
    #[must_use]
    pub fn pod_ips(&self, pod: &Pod, seen: &PodObservation) -> Vec<String> {
        if pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false) {
            return self.host_ips();
        }
        seen.sandboxes.first().map(|s| sorted_ips(&s.ips, self.v6_first())).unwrap_or_default()
    }

    /// Whether of a pod's IPs the one of IPv6 is the first (NET-005): by `--node-ip`, whatever addresses the Node has.
    #[must_use]
    pub fn v6_first(&self) -> bool {
        self.config.node.ips.first().is_some_and(IpAddr::is_ipv6)
    }

    fn environment(&self, pod: &Pod, container: &Container, pod_ips: &[String], room: &mut Room) -> Result<Environment, EnvError> {
        let host_ips = self.host_ips();
        let allocatable = self.node_allocatable();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        // Static pods do not wait: the API server may be one of them.
        if !self.services.is_synced() && !self.config.node.standalone && !is_static(pod) {
            return Err(EnvError::NotYet);
        }
        let links = pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
        let services = self.services.of_environment(namespace, links);
        // As Go prints them.
        let known: Vec<String> = self.node.addresses().iter().map(|a| format!("{{{} {}}}", a.type_, a.address)).collect();
        let known_addresses = format!("[{}]", known.join(" "));
        let fields =
            FieldContext { pod_ips, host_ips: &host_ips, known_addresses: &known_addresses, node_allocatable: &allocatable };
        environment(&EnvInputs { pod, container, objects: &self.objects, services: &services, fields }, room)
    }

    /// Everything that a container is made with.
    ///
    /// # Errors
    /// Its waiting reason and message, or `None` if something is still on its way.
    pub fn container_plan(
        &mut self,
        worker: &PodWorker,
        seen: &PodObservation,
        wanted: Wanted<'_>,
        out: &mut Out<'_>,
    ) -> Result<ContainerPlan, PlanError> {
        out.works_for(Point::Container, &worker.uid);
        let Wanted { container, attempt, image, image_volumes, room } = wanted;
        let pod = &worker.pod;
        let Some(sandbox) = seen.sandboxes.first() else { return Err(None) };
        let Some(machine) = self.startup.machine().cloned() else { return Err(None) };
        if asks_for_recursion(container) && !self.runtime_classes.knows(pod) {
            // The first answer of this life is on its way, and wakes the pod: it is not to lose what it was confined by.
            return Err(None);
        }
        let sandbox_config = self.sandbox_config(pod, sandbox.attempt, out).map_err(config_error)?;
        let pod_ips = self.pod_ips(pod, seen);
        let env = self.environment(pod, container, &pod_ips, room).map_err(|error| match error {
            EnvError::NotYet => None,
            EnvError::Bad(message) => config_error(message),
        })?;
        let pod_dir = self.pod_dir(worker);
        let variable = |name: &str| env.text(name).map(Cow::into_owned);
        let inputs = MountInputs {
            pod,
            uid: &worker.uid,
            container,
            volumes: self.volumes.mounted(&worker.uid),
            images: image_volumes,
            pod_dir: &pod_dir,
            variable: &variable,
            recursive_read_only: self.mounts_recursively(pod),
            selinux: machine.selinux,
        };
        let mounts = volume_mounts(&inputs, room).map_err(config_error)?;
        let mut files = mounts.binds;
        let mut mounts = mounts.mounts;
        let hosts_ips = all_ips(&sandbox.ips);
        self.own_files(worker, container, &hosts_ips, machine.selinux, &mut files, &mut mounts).map_err(config_error)?;
        let groups = self.volume_groups(pod);
        let security = SecurityInputs {
            image,
            seccomp_default: self.config.pods.seccomp_default,
            root: &self.config.paths.root,
            volume_groups: &groups,
            thermal_throttles: &machine.thermal_throttles,
        };
        let security_context = security_context(pod, container, &security).map_err(config_error)?;
        let inputs = ContainerInputs {
            config: &self.config,
            machine: &machine,
            image,
            restart_count: attempt,
            env: &env,
            mounts,
            security_context,
        };
        let config = container_config(pod, container, inputs, room).map_err(config_error)?;
        let name = name_of(pod);
        Ok(ContainerPlan {
            log_target: format!("{}/{}", sandbox_config.log_directory, config.log_path),
            link_prefix: format!("{}/{}_{}_{}", self.config.paths.container_logs, name.name, name.namespace, container.name),
            config,
            sandbox: sandbox.id.clone(),
            sandbox_config,
            files,
        })
    }

    /// The groups that the pod's volumes are for, each once, and those that the pod names itself not again (MNT-004).
    fn volume_groups(&self, pod: &Pod) -> Vec<i64> {
        let own = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()?.supplemental_groups.as_ref());
        let mounted = uid_of(pod).map(|uid| self.volumes.mounted(&uid));
        let of_volumes = mounted.into_iter().flat_map(BTreeMap::values).filter_map(|volume| volume.group);
        let groups: BTreeSet<i64> = of_volumes.filter(|group| !own.is_some_and(|own| own.contains(group))).collect();
        groups.into_iter().collect()
    }

    /// Whether the pod's handler of the runtime can mount recursively read-only (runtimeClassSupportsRecursiveReadOnlyMounts).
    #[must_use]
    pub fn mounts_recursively(&self, pod: &Pod) -> bool {
        let Some(name) = self.runtime_classes.known_handler(pod) else { return false };
        self.runtime.handlers().iter().any(|h| h.name == name && h.recursive_read_only_mounts)
    }

    /// /etc/hosts (NET-003) and the termination log (MNT-015). `pod_ips` are all of them, in the runtime's order (NET-004).
    ///
    /// # Errors
    /// The node's own hosts file, which the pod is to have, cannot be read.
    fn own_files(
        &mut self,
        worker: &PodWorker,
        container: &Container,
        pod_ips: &[String],
        selinux: bool,
        files: &mut Vec<HostCall>,
        mounts: &mut Vec<proto::cri::Mount>,
    ) -> Result<(), String> {
        let pod_dir = self.pod_dir(worker);
        let host_network = worker.pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false);
        if (!pod_ips.is_empty() || host_network) && !mounts_over(container, "/etc/hosts") {
            let node_file = if host_network { Some(self.node_files.hosts()?) } else { None };
            let contents = hosts_file(&worker.pod, pod_ips, &self.config.dns.cluster_domain, node_file);
            let path = format!("{pod_dir}/etc-hosts");
            files.push(HostCall::WriteFile { path: path.clone(), contents: contents.into_bytes(), mode: 0o644 });
            mounts.push(file_mount("/etc/hosts", path, selinux));
        }
        let message_path = container.termination_message_path.as_deref().unwrap_or_default();
        if !message_path.is_empty() {
            let name = format!("{:08x}", self.rng.next_u64() as u32);
            let path = format!("{pod_dir}/containers/{}/{name}", container.name);
            files.push(HostCall::CreateFile { path: path.clone(), mode: 0o666 });
            mounts.push(file_mount(&from_root(message_path), path, selinux));
        }
        Ok(())
    }

    /// The pod's pull secrets (POD-104: those that cannot be read count as none, and are told).
    #[must_use]
    pub fn pull_secrets(&self, pod: &Pod) -> PullSecrets {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let mut secrets = PullSecrets::default();
        for reference in pod.spec.iter().flat_map(|s| s.image_pull_secrets.iter().flatten()).filter(|r| !r.name.is_empty()) {
            match self.objects.lookup_secret(namespace, &reference.name) {
                Lookup::Found(secret) => secrets.found.push(secret),
                Lookup::Pending => secrets.pending = true,
                Lookup::NotFound | Lookup::Failed(_) | Lookup::NotRegistered => secrets.missing.push(reference.name.clone()),
            }
        }
        secrets
    }
}

/// What is known of a pod's pull secrets.
#[derive(Debug, Default)]
pub struct PullSecrets {
    /// Those that are there.
    pub found: Vec<Sensitive<Arc<Secret>>>,
    /// Those that are not to be had.
    pub missing: Vec<String>,
    /// Whether one of them is still on its way.
    pub pending: bool,
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::action::{Call, CriCall};
    use crate::event::{CriReply, Event, Object, WatchKey};
    use crate::failure::{Failure, FailureKind};
    use crate::ids::PodUid;
    use crate::kubelet::Kubelet;
    use crate::time::Mono;

    fn now() -> Now {
        Now { mono: Mono::ZERO, wall: Timestamp::UNIX_EPOCH }
    }

    fn with_addresses(addresses: &[(&str, &str)]) -> Kubelet {
        let mut kubelet = Kubelet::new(Arc::new(Config::new("n1")), 1);
        let addresses: Vec<_> = addresses.iter().map(|(kind, ip)| json!({"type": kind, "address": ip})).collect();
        let node = json!({"metadata": {"name": "n1", "uid": "n", "resourceVersion": "1"}, "status": {"addresses": addresses}});
        let node = Object::Node(Arc::new(serde_json::from_value(node).unwrap()));
        kubelet.handle(now(), Event::WatchListed { key: WatchKey::Node, objects: vec![node] }, &mut Vec::new());
        kubelet
    }

    // NET-006
    #[test]
    fn node_lends_its_first_internal_address_and_one_of_the_other_family() {
        let ips = |addresses: &[(&str, &str)]| with_addresses(addresses).parts.host_ips();
        let (internal, external, name) = ("InternalIP", "ExternalIP", "Hostname");
        assert_eq!(ips(&[(external, "1.1.1.1"), (name, "n1"), (internal, "10.0.0.1"), (internal, "10.0.0.2")]), ["10.0.0.1"]);
        assert_eq!(ips(&[(external, "1.1.1.1"), (name, "n1")]), ["1.1.1.1"]);
        assert_eq!(ips(&[(internal, "10.0.0.1"), (external, "fd00::9"), (internal, "fd00::1")]), ["10.0.0.1", "fd00::1"]);
        assert_eq!(ips(&[(internal, "10.0.0.1"), (external, "fd00::9")]), ["10.0.0.1", "fd00::9"]);
        assert!(ips(&[(name, "n1")]).is_empty());
    }

    // NET-006: kubelet_node_status.go (getNodeAnyWay, initialNode): static pods come before the API server that has the Node, or without one.
    #[test]
    fn node_that_nobody_has_made_yet_has_the_addresses_that_it_would_be_made_with() {
        for standalone in [false, true] {
            let mut config = Config::new("n1");
            config.node.standalone = standalone;
            let mut kubelet = Kubelet::new(Arc::new(config), 1);
            let mut actions = Vec::new();
            kubelet.handle(now(), Event::Started, &mut actions);
            assert!(kubelet.parts.host_ips().is_empty());
            let is_asked = |call: &Call| matches!(call, Call::Host(HostCall::NodeAddresses { .. }));
            let asked = actions.iter().find(|action| is_asked(&action.call)).unwrap();
            let ip = "10.0.0.5".parse().unwrap();
            let found =
                crate::observation::NodeAddresses { named: Some(vec![]), routed: vec![ip], default_routes: true, local: vec![ip] };
            let outcome = Ok(crate::event::HostReply::NodeAddresses(found));
            kubelet.handle(now(), Event::HostDone { id: asked.id, outcome }, &mut Vec::new());
            assert_eq!(kubelet.parts.host_ips(), ["10.0.0.5"]);
        }
    }

    /// The files and mounts of a container that the agent makes itself.
    fn own(kubelet: &mut Kubelet, spec: serde_json::Value, ips: &[&str]) -> (Vec<HostCall>, Vec<proto::cri::Mount>) {
        let pod = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec});
        let pod: Arc<Pod> = Arc::new(serde_json::from_value(pod).unwrap());
        let container: Container = pod.spec.as_ref().unwrap().containers[0].clone();
        let worker = PodWorker::new(now(), PodUid::new("u"), pod, None);
        let ips: Vec<String> = ips.iter().map(|ip| (*ip).to_owned()).collect();
        let (mut files, mut mounts) = (Vec::new(), Vec::new());
        kubelet.parts.own_files(&worker, &container, &ips, false, &mut files, &mut mounts).unwrap();
        (files, mounts)
    }

    // NET-003, DIR-003: there for whoever has an address, written before each start, unless the container mounts its own.
    #[test]
    fn hosts_file_is_written_for_each_container_that_has_no_other() {
        let mut kubelet = with_addresses(&[]);
        let plain = json!({"containers": [{"name": "c"}]});
        for _ in 0..2 {
            let (files, mounts) = own(&mut kubelet, plain.clone(), &["10.88.0.2"]);
            let [HostCall::WriteFile { path, contents, mode: 0o644 }] = files.as_slice() else { panic!("{files:?}") };
            assert_eq!(path, "/var/lib/kubelet/pods/u/etc-hosts");
            assert!(String::from_utf8_lossy(contents).ends_with("10.88.0.2\tp\n"));
            assert_eq!((mounts[0].container_path.as_str(), &mounts[0].host_path, mounts[0].readonly), ("/etc/hosts", path, false));
        }
        assert!(own(&mut kubelet, plain, &[]).1.is_empty());
        let no_sandbox_yet = own(&mut kubelet, json!({"containers": [{"name": "c", "terminationMessagePath": ""}]}), &[]);
        assert!(no_sandbox_yet.0.is_empty());
        let over = json!({"containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/etc/hosts"}]}]});
        assert!(own(&mut kubelet, over, &["10.88.0.2"]).0.is_empty());
    }

    // CRI-003, RTD-001: the runtime's word counts, the setting only where it has none.
    #[test]
    fn runtime_decides_on_the_cgroup_driver_if_it_does() {
        let driver = |setting: CgroupDriver, answer: Result<CriReply, Failure>| {
            let mut config = Config::new("n1");
            config.cgroups.driver = setting;
            let mut kubelet = Kubelet::new(Arc::new(config), 1);
            let mut actions = Vec::new();
            kubelet.handle(now(), Event::Started, &mut actions);
            let asked = actions.iter().find(|action| matches!(action.call, Call::Cri(CriCall::RuntimeConfig))).unwrap();
            kubelet.handle(now(), Event::CriDone { id: asked.id, outcome: answer }, &mut Vec::new());
            kubelet.parts.cgroup_driver()
        };
        let unimplemented = || Err(Failure::new(FailureKind::Unimplemented, "unknown method RuntimeConfig"));
        let told = |systemd_cgroup| Ok(CriReply::RuntimeConfig { systemd_cgroup });
        for setting in [CgroupDriver::Systemd, CgroupDriver::Cgroupfs] {
            assert_eq!(driver(setting, unimplemented()), setting);
            assert_eq!(driver(setting, told(None)), setting);
            assert_eq!(driver(setting, told(Some(true))), CgroupDriver::Systemd);
            assert_eq!(driver(setting, told(Some(false))), CgroupDriver::Cgroupfs);
        }
    }
}
