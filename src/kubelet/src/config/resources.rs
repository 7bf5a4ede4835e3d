//! Settings of cgroups, reservations and the CPU, memory and topology managers.
//! Upstream: pkg/kubelet/cm/container_manager.go (NodeConfig), pkg/kubelet/apis/config/types.go.
//! Differs: policies are closed enums; quantities are plain integers in the unit that their name says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The cgroup hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroups {
    /// Who manages cgroups, unless the runtime says otherwise (API-292).
    pub driver: CgroupDriver,
    /// The group below which pods live; `/` if not set.
    pub root: String,
    /// Whether there is a group per quality of service and per pod.
    pub per_qos: bool,
    /// What is enforced on which groups.
    pub enforce_node_allocatable: BTreeSet<Enforcement>,
    /// The group of system daemons; empty if not set.
    pub system_reserved: String,
    /// The group of Kubernetes daemons; empty if not set.
    pub kube_reserved: String,
    /// The agent's own group; empty if not set.
    pub kubelet: String,
    /// The group for processes that are in none; empty if not set.
    pub system: String,
    /// The runtime's group; empty if not set.
    pub runtime: String,
    /// Percent of guaranteed memory requests that lower classes may not touch (QOSReserved); `None` is off.
    pub qos_reserved_memory_percent: Option<u8>,
    /// The agent's own out-of-memory score adjustment.
    pub kubelet_oom_score_adj: i32,
}

/// Who manages cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CgroupDriver {
    /// The agent and the runtime write files.
    Cgroupfs,
    /// systemd does, as slices and scopes.
    Systemd,
}

impl CgroupDriver {
    /// As `cgroupDriver` names it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cgroupfs => "cgroupfs",
            Self::Systemd => "systemd",
        }
    }
}

/// One of `enforceNodeAllocatable` (NODE-140); none of them is `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Enforcement {
    /// Allocatable on all pods together.
    Pods,
    /// The system reservation on its group.
    SystemReserved,
    /// Of the system reservation only what can be compressed.
    SystemReservedCompressible,
    /// The Kubernetes reservation on its group.
    KubeReserved,
    /// Of the Kubernetes reservation only what can be compressed.
    KubeReservedCompressible,
}

/// What is kept from pods. Keys of the maps are `cpu` (in thousandths of a core), `memory`, `ephemeral-storage` (in bytes), `pid`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserved {
    /// For the system's daemons.
    pub system: BTreeMap<String, u64>,
    /// For Kubernetes' daemons.
    pub kube: BTreeMap<String, u64>,
    /// CPUs that pods with exclusive CPUs never get; they replace the CPU of both reservations (NODE-144).
    pub system_cpus: BTreeSet<u32>,
    /// Memory per NUMA node for the memory manager.
    pub memory: Vec<ReservedMemory>,
}

impl Reserved {
    /// Both reservations of one resource together, in the resource's unit.
    #[must_use]
    pub fn total(&self, resource: &str) -> u64 {
        let part = |of: &BTreeMap<String, u64>| of.get(resource).copied().unwrap_or(0);
        part(&self.system).saturating_add(part(&self.kube))
    }
}

/// Memory of one NUMA node that pods do not get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReservedMemory {
    /// The node.
    pub numa_node: u32,
    /// Bytes by `memory` or `hugepages-<size>`.
    pub limits: BTreeMap<String, u64>,
}

/// CPU, memory and topology managers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Managers {
    /// Who gets CPUs of its own.
    pub cpu: CpuManagerPolicy,
    /// Options of that policy.
    pub cpu_options: BTreeMap<String, String>,
    /// How often CPU sets are brought in line.
    pub cpu_reconcile_period: Duration,
    /// Who gets memory of chosen NUMA nodes.
    pub memory: MemoryManagerPolicy,
    /// How much alignment is asked for.
    pub topology: TopologyManagerPolicy,
    /// What is aligned.
    pub topology_scope: TopologyManagerScope,
    /// Options of that policy.
    pub topology_options: BTreeMap<String, String>,
}

/// Who gets CPUs of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CpuManagerPolicy {
    /// Nobody.
    None,
    /// Containers of guaranteed pods with whole CPUs.
    Static,
}

/// Who gets memory of chosen NUMA nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemoryManagerPolicy {
    /// Nobody.
    None,
    /// Guaranteed pods.
    Static,
}

/// How much alignment is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TopologyManagerPolicy {
    /// None.
    None,
    /// As much as there is.
    BestEffort,
    /// A pod that cannot have what it prefers is refused.
    Restricted,
    /// A pod that does not fit one NUMA node is refused.
    SingleNumaNode,
}

/// What is aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TopologyManagerScope {
    /// Each container by itself.
    Container,
    /// All containers of a pod together.
    Pod,
}

/// How much swap pods may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SwapBehavior {
    /// None.
    NoSwap,
    /// In proportion to the memory request, burstable pods only.
    LimitedSwap,
}

/// Whether memory requests become memory.min and memory.low.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemoryReservationPolicy {
    /// They do not.
    None,
    /// By quality of service.
    TieredReservation,
}

impl Default for Cgroups {
    fn default() -> Self {
        Self {
            driver: CgroupDriver::Cgroupfs,
            root: "/".to_owned(),
            per_qos: true,
            enforce_node_allocatable: BTreeSet::from([Enforcement::Pods]),
            system_reserved: String::new(),
            kube_reserved: String::new(),
            kubelet: String::new(),
            system: String::new(),
            runtime: String::new(),
            qos_reserved_memory_percent: None,
            kubelet_oom_score_adj: -999,
        }
    }
}

impl Default for Managers {
    fn default() -> Self {
        Self {
            cpu: CpuManagerPolicy::None,
            cpu_options: BTreeMap::new(),
            cpu_reconcile_period: Duration::from_secs(10),
            memory: MemoryManagerPolicy::None,
            topology: TopologyManagerPolicy::None,
            topology_scope: TopologyManagerScope::Container,
            topology_options: BTreeMap::new(),
        }
    }
}
