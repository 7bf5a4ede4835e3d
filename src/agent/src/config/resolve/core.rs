//! What the core decides by, from flags and settings.
//! Upstream: cmd/kubelet/app/server.go (run, RunKubelet), pkg/kubelet/kubelet.go (NewMainKubelet).
//! Differs: nothing on purpose.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use kubelet::config::{
    CgroupDriver, Cgroups, ChangeDetection, Config, ContainerGc, ContainerLogs, CpuManagerPolicy, CredentialsVerification, Dns,
    Enforcement, EventLimits, Eviction, Images, Managers, MemoryManagerPolicy, MemoryReservationPolicy, Node, Paths, Pods,
    Reserved, ReservedMemory, Shutdown, StaticPods, SwapBehavior, TopologyManagerPolicy, TopologyManagerScope,
};
use kubelet::feature_gates::FeatureGates;

use super::{Resolver, in_range};
use crate::config::cpuset;
use crate::config::file::clean;
use crate::config::flags::sloppy_ip;
use crate::config::labels;
use crate::config::quantity;
use crate::config::thresholds::{qos_reserved, reservation, thresholds};

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

impl Resolver<'_> {
    pub(super) fn kubelet(&mut self, gates: FeatureGates) -> Config {
        let config = self.config;
        Config {
            node: self.node(),
            paths: self.paths(),
            static_pods: StaticPods {
                path: some(&config.static_pod_path),
                file_check_frequency: config.file_check_frequency.non_negative(),
                url: some(&config.static_pod_url),
                url_headers: config.static_pod_url_header.0.clone(),
                http_check_frequency: config.http_check_frequency.non_negative(),
            },
            pods: self.pods(),
            dns: self.dns(),
            images: self.images(&gates),
            container_logs: ContainerLogs {
                max_size: quantity::units(&config.container_log_max_size),
                max_files: in_range(config.container_log_max_files.unwrap_or_default()),
                max_workers: in_range(config.container_log_max_workers.unwrap_or_default()),
                monitor_interval: config.container_log_monitor_interval.unwrap_or_default().non_negative(),
            },
            container_gc: ContainerGc {
                min_age: self.flags.minimum_container_ttl_duration.non_negative(),
                max_per_container: u32::try_from(self.flags.maximum_dead_containers_per_container).ok(),
                max_total: u32::try_from(self.flags.maximum_dead_containers).ok(),
            },
            cgroups: self.cgroups(),
            reserved: self.reserved(),
            managers: self.managers(&gates),
            eviction: Eviction {
                thresholds: thresholds(config, &mut self.problems),
                pressure_transition_period: config.eviction_pressure_transition_period.non_negative(),
                max_pod_grace_period: config.eviction_max_pod_grace_period,
                kernel_memcg_notification: config.kernel_memcg_notification,
                ignored_in_allocatable: self.flags.allocatable_ignore_eviction,
            },
            shutdown: self.shutdown(),
            events: EventLimits { qps: in_range(config.event_record_qps.unwrap_or_default()), burst: in_range(config.event_burst) },
            gates,
        }
    }

    fn node(&mut self) -> Node {
        let (config, flags) = (self.config, self.flags);
        // NODE-003
        let name =
            if flags.hostname_override.is_empty() { self.machine.hostname.as_str() } else { flags.hostname_override.as_str() };
        let name = name.trim().to_lowercase();
        if name.is_empty() {
            self.problem("--hostname-override", "", "empty hostname is invalid", "give --hostname-override");
        }
        let external = match flags.cloud_provider.as_str() {
            "" => false,
            "external" => true,
            other => {
                let message = format!("unsupported cloud provider: {other:?}");
                self.problem("--cloud-provider", other, message, "give external, or nothing");
                false
            }
        };
        self.problems.extend(labels::check_node_labels(&flags.node_labels));
        let images = config.node_status_max_images.unwrap_or(-1);
        Node {
            name: Arc::from(name),
            ips: self.node_ips(),
            labels: flags.node_labels.clone(),
            register_with_taints: config.register_with_taints.clone(),
            register: config.register_node.unwrap_or(true),
            standalone: flags.kubeconfig.is_empty(),
            external_cloud_provider: external,
            provider_id: config.provider_id.clone(),
            pod_cidr: config.pod_cidr.clone(),
            port: in_range(config.port),
            status_update_frequency: config.node_status_update_frequency.non_negative(),
            status_report_frequency: config.node_status_report_frequency.non_negative(),
            status_max_images: usize::try_from(images).ok(),
            lease_duration: Duration::from_secs(in_range(config.node_lease_duration_seconds)),
            enable_controller_attach_detach: config.enable_controller_attach_detach.unwrap_or(true),
            make_iptables_util_chains: config.make_iptables_util_chains.unwrap_or(true),
            fail_swap_on: config.fail_swap_on.unwrap_or(true),
            fail_cgroup_v1: config.fail_cgroup_v1.unwrap_or(true),
            protect_kernel_defaults: config.protect_kernel_defaults,
            stats_interval: flags.housekeeping_interval.non_negative(),
            volume_stats_period: config.volume_stats_agg_period.positive(),
        }
    }

    /// NODE-082. Upstream: ParseNodeIPArgument in component-helpers/node/util/ips.go.
    fn node_ips(&mut self) -> Vec<IpAddr> {
        let text = self.flags.node_ip.as_str();
        let mut ips = Vec::new();
        for part in text.split(',').map(str::trim).filter(|_| !text.is_empty()) {
            match sloppy_ip(part) {
                Some(ip) => ips.push(ip),
                None => self.warnings.push(format!("Could not parse some node IP(s), ignoring them: {part}")),
            }
        }
        let wrong = match ips.as_slice() {
            [] | [_] => None,
            [a, b] if a.is_ipv6() == b.is_ipv6() => Some("must contain either a single IP or a dual-stack pair of IPs"),
            [a, b] if a.is_unspecified() || b.is_unspecified() => Some("dual-stack node IP cannot include '0.0.0.0' or '::'"),
            [_, _] => None,
            _ => Some("must contain either a single IP or a dual-stack pair of IPs"),
        };
        if let Some(wrong) = wrong {
            self.problem("--node-ip", text, format!("bad --node-ip {text:?}: {wrong}"), "give one address, or one of each family");
        }
        ips
    }

    fn paths(&self) -> Paths {
        let absolute = |path: &str| clean(&self.machine.working_dir.join(path));
        Paths {
            root: absolute(&self.flags.root_dir),
            pod_logs: self.config.pod_logs_dir.clone(),
            container_logs: "/var/log/containers".to_owned(),
            volume_plugins: self.config.volume_plugin_dir.clone(),
            working: Some(clean(&self.machine.working_dir)),
            home: self.machine.home.clone(),
        }
    }

    fn pods(&mut self) -> Pods {
        let config = self.config;
        let strategy = config.config_map_and_secret_change_detection_strategy.as_str();
        let change_detection = match strategy {
            "Watch" => ChangeDetection::Watch,
            "Cache" => ChangeDetection::Cache,
            "Get" => ChangeDetection::Get,
            _ => {
                let message = format!("unknown configmap and secret manager mode: {strategy}");
                self.problem("configMapAndSecretChangeDetectionStrategy", strategy, message, "give Watch, Cache or Get");
                ChangeDetection::Watch
            }
        };
        let max_restart = config.crash_loop_back_off.max_container_restart_period;
        let ids = config.user_namespaces.as_ref().and_then(|namespaces| namespaces.ids_per_pod);
        Pods {
            max: in_range(config.max_pods),
            per_core: in_range(config.pods_per_core),
            pids_limit: config.pod_pids_limit.and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit > 0),
            sync_frequency: config.sync_frequency.non_negative(),
            max_container_restart_period: max_restart.map_or(Duration::from_mins(5), |period| period.non_negative()),
            change_detection,
            cpu_cfs_quota: config.cpu_cfs_quota.unwrap_or(true),
            cpu_cfs_quota_period: config.cpu_cfs_quota_period.unwrap_or_default().non_negative(),
            seccomp_default: config.seccomp_default.unwrap_or(false) || self.flags.seccomp_default,
            allowed_unsafe_sysctls: config.allowed_unsafe_sysctls.clone(),
            local_storage_capacity_isolation: config.local_storage_capacity_isolation.unwrap_or(true),
            swap_behavior: if config.memory_swap.swap_behavior == "LimitedSwap" {
                SwapBehavior::LimitedSwap
            } else {
                SwapBehavior::NoSwap
            },
            memory_throttling_factor: config.memory_throttling_factor.unwrap_or(0.9),
            memory_reservation_policy: match config.memory_reservation_policy.as_str() {
                "TieredReservation" => MemoryReservationPolicy::TieredReservation,
                _ => MemoryReservationPolicy::None,
            },
            // Unset, a kill ends the whole container with cgroup v2 and one process with v1, where it cannot be otherwise.
            single_process_oom_kill: config.single_process_oom_kill.unwrap_or(!self.machine.cgroup_v2),
            user_namespace_ids_per_pod: ids.and_then(|ids| u32::try_from(ids).ok()).unwrap_or(65536),
            runtime_request_timeout: config.runtime_request_timeout.non_negative(),
        }
    }

    fn dns(&mut self) -> Dns {
        let mut cluster_dns = Vec::new();
        for server in &self.config.cluster_dns {
            match sloppy_ip(server) {
                Some(ip) => cluster_dns.push(ip),
                None => self.warnings.push(format!("Invalid clusterDNS IP: {server}")),
            }
        }
        Dns {
            cluster_dns,
            cluster_domain: self.config.cluster_domain.clone(),
            resolv_conf: self.config.resolver_config.clone().unwrap_or_default(),
        }
    }

    fn images(&self, gates: &FeatureGates) -> Images {
        let config = self.config;
        let serialize = config.serialize_image_pulls.unwrap_or(true);
        let parallel = config.max_parallel_image_pulls.map(in_range::<u32, _>);
        Images {
            max_parallel_pulls: if serialize { Some(1) } else { parallel },
            pull_qps: in_range(config.registry_pull_qps.unwrap_or_default()),
            pull_burst: in_range(config.registry_burst),
            gc_high_threshold_percent: in_range(config.image_gc_high_threshold_percent.unwrap_or_default()),
            gc_low_threshold_percent: in_range(config.image_gc_low_threshold_percent.unwrap_or_default()),
            gc_min_age: config.image_minimum_gc_age.non_negative(),
            gc_max_age: config.image_maximum_gc_age.positive(),
            pulls_are_recorded: gates.enabled("KubeletEnsureSecretPulledImages"),
            credentials_verification: match config.image_pull_credentials_verification_policy.as_str() {
                "NeverVerifyPreloadedImages" => CredentialsVerification::NeverVerifyPreloadedImages,
                "NeverVerifyAllowlistedImages" => CredentialsVerification::NeverVerifyAllowlistedImages,
                "AlwaysVerify" => CredentialsVerification::AlwaysVerify,
                // Also what an empty policy comes to, when the gate is off.
                _ => CredentialsVerification::NeverVerify,
            },
            preloaded_allowlist: config.preloaded_images_verification_allowlist.clone(),
            // Their configuration is a file of its own, which is read at the start.
            credential_providers: Vec::new(),
        }
    }

    fn cgroups(&mut self) -> Cgroups {
        let config = self.config;
        let enforced = config.enforce_node_allocatable.iter().flatten().filter_map(|name| match name.as_str() {
            "pods" => Some(Enforcement::Pods),
            "system-reserved" => Some(Enforcement::SystemReserved),
            "system-reserved-compressible" => Some(Enforcement::SystemReservedCompressible),
            "kube-reserved" => Some(Enforcement::KubeReserved),
            "kube-reserved-compressible" => Some(Enforcement::KubeReservedCompressible),
            _ => None,
        });
        Cgroups {
            driver: if config.cgroup_driver == "systemd" { CgroupDriver::Systemd } else { CgroupDriver::Cgroupfs },
            root: some(&config.cgroup_root).unwrap_or_else(|| "/".to_owned()),
            per_qos: config.cgroups_per_qos.unwrap_or(true),
            enforce_node_allocatable: enforced.collect(),
            system_reserved: config.system_reserved_cgroup.clone(),
            kube_reserved: config.kube_reserved_cgroup.clone(),
            kubelet: config.kubelet_cgroups.clone(),
            system: config.system_cgroups.clone(),
            runtime: self.flags.runtime_cgroups.clone(),
            qos_reserved_memory_percent: qos_reserved(&config.qos_reserved, &mut self.problems),
            kubelet_oom_score_adj: config.oom_score_adj.unwrap_or(-999),
        }
    }

    fn reserved(&mut self) -> Reserved {
        let config = self.config;
        let mut system = reservation("systemReserved", "system-reserved", config.system_reserved.as_ref(), &mut self.problems);
        let mut kube = reservation("kubeReserved", "kube-reserved", config.kube_reserved.as_ref(), &mut self.problems);
        let system_cpus = cpuset::parse(&config.reserved_system_cpus).unwrap_or_default();
        // What the kernel does not tell refuses nothing.
        let online = cpuset::parse(self.machine.online_cpus.trim()).unwrap_or_default();
        if !online.is_empty() && !system_cpus.is_subset(&online) {
            // NODE-144: getReservedCPUs
            let (text, online) = (config.reserved_system_cpus.as_str(), cpuset::printed(&online));
            let message = format!("reserved-cpus: {text} is not a subset of online-cpus: {online}");
            self.problem("reservedSystemCPUs", text, message, "name CPUs that this machine has");
        }
        if !system_cpus.is_empty() {
            // NODE-144
            kube.remove("cpu");
            system.insert("cpu".to_owned(), in_range::<u64, _>(system_cpus.len()).saturating_mul(1000));
            let message =
                "Option --reserved-cpus is specified, it will overwrite the cpu setting in KubeReserved and SystemReserved";
            self.warnings.push(message.to_owned());
        }
        let memory = config.reserved_memory.iter().map(|reservation| ReservedMemory {
            numa_node: in_range(reservation.numa_node),
            limits: reservation
                .limits
                .iter()
                .map(|(name, amount)| (name.clone(), quantity::units(&amount.0).unwrap_or(0)))
                .collect(),
        });
        Reserved { system, kube, system_cpus, memory: memory.collect() }
    }

    fn managers(&self, gates: &FeatureGates) -> Managers {
        let config = self.config;
        let mut topology_options: BTreeMap<String, String> = config.topology_manager_policy_options.clone();
        if !gates.enabled("TopologyManagerPolicyOptions") {
            topology_options.clear();
        }
        Managers {
            cpu: if config.cpu_manager_policy == "static" { CpuManagerPolicy::Static } else { CpuManagerPolicy::None },
            cpu_options: config.cpu_manager_policy_options.clone(),
            cpu_reconcile_period: config.cpu_manager_reconcile_period.non_negative(),
            memory: if config.memory_manager_policy == "Static" { MemoryManagerPolicy::Static } else { MemoryManagerPolicy::None },
            topology: match config.topology_manager_policy.as_str() {
                "best-effort" => TopologyManagerPolicy::BestEffort,
                "restricted" => TopologyManagerPolicy::Restricted,
                "single-numa-node" => TopologyManagerPolicy::SingleNumaNode,
                _ => TopologyManagerPolicy::None,
            },
            topology_scope: if config.topology_manager_scope == "pod" {
                TopologyManagerScope::Pod
            } else {
                TopologyManagerScope::Container
            },
            topology_options,
        }
    }

    fn shutdown(&self) -> Shutdown {
        let config = self.config;
        let by_priority = &config.shutdown_grace_period_by_pod_priority;
        if by_priority.is_empty() {
            return Shutdown::from_periods(
                config.shutdown_grace_period.non_negative(),
                config.shutdown_grace_period_critical_pods.non_negative(),
            );
        }
        let mut grace_by_priority: Vec<(i32, Duration)> = by_priority
            .iter()
            .map(|group| (group.priority, Duration::from_secs(in_range(group.shutdown_grace_period_seconds))))
            .collect();
        grace_by_priority.sort_by_key(|(priority, _)| *priority);
        Shutdown { grace_by_priority }
    }
}
