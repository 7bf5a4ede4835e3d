//! The shape of /stats/summary.
//! Upstream: k8s.io/kubelet/pkg/apis/stats/v1alpha1/types.go.
//! Differs: `psi` and `io` are left out where the kernel does not measure them; upstream says zero.

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::env::{Pressure, Stall};

/// A moment; whole seconds when written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Time(pub(crate) Timestamp);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0.strftime("%Y-%m-%dT%H:%M:%SZ"))
    }
}

/// All of it (API-121).
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Summary {
    pub(crate) node: NodeStats,
    pub(crate) pods: Vec<PodStats>,
}

impl Summary {
    /// What is no matter of CPU and memory (API-129).
    pub(crate) fn leave_out_io(&mut self) {
        self.node.io = None;
        self.node.system_containers.iter_mut().for_each(|one| one.io = None);
        for pod in &mut self.pods {
            pod.io = None;
            pod.containers.iter_mut().for_each(|one| one.io = None);
        }
    }
}

/// The node.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeStats {
    pub(crate) node_name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) system_containers: Vec<ContainerStats>,
    pub(crate) start_time: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu: Option<CpuStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<MemoryStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) io: Option<IoStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) network: Option<NetworkStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fs: Option<FsStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) runtime: Option<RuntimeStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rlimit: Option<RlimitStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) swap: Option<SwapStats>,
}

/// Where images and containers' layers are.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RuntimeStats {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) image_fs: Option<FsStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) container_fs: Option<FsStats>,
}

/// Processes.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RlimitStats {
    pub(crate) time: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) maxpid: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) curproc: Option<u64>,
}

/// Which pod.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodReference {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) uid: String,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodStats {
    pub(crate) pod_ref: PodReference,
    pub(crate) start_time: Time,
    pub(crate) containers: Vec<ContainerStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu: Option<CpuStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<MemoryStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) io: Option<IoStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) network: Option<NetworkStats>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) volume: Vec<VolumeStats>,
    #[serde(rename = "ephemeral-storage", skip_serializing_if = "Option::is_none")]
    pub(crate) ephemeral_storage: Option<FsStats>,
    #[serde(rename = "process_stats", skip_serializing_if = "Option::is_none")]
    pub(crate) process_stats: Option<ProcessStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) swap: Option<SwapStats>,
}

/// A container, or a cgroup of the system.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ContainerStats {
    pub(crate) name: String,
    pub(crate) start_time: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu: Option<CpuStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<MemoryStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) io: Option<IoStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rootfs: Option<FsStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) logs: Option<FsStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) swap: Option<SwapStats>,
}

/// CPU.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CpuStats {
    pub(crate) time: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usage_nano_cores: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usage_core_nano_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) psi: Option<PsiStats>,
}

/// Memory.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MemoryStats {
    pub(crate) time: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) available_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usage_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) working_set_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rss_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) page_faults: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) major_page_faults: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) psi: Option<PsiStats>,
}

/// Disks.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct IoStats {
    pub(crate) time: Time,
    pub(crate) psi: PsiStats,
}

/// Pressure (API-121).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct PsiStats {
    pub(crate) full: PsiData,
    pub(crate) some: PsiData,
}

/// How long tasks stalled: in all, and in percent of the last seconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct PsiData {
    pub(crate) total: u64,
    pub(crate) avg10: f64,
    pub(crate) avg60: f64,
    pub(crate) avg300: f64,
}

impl From<Pressure> for PsiStats {
    fn from(pressure: Pressure) -> Self {
        let data = |stall: Stall| {
            let Stall { avg10, avg60, avg300, total } = stall;
            PsiData { total, avg10, avg60, avg300 }
        };
        Self { full: data(pressure.full), some: data(pressure.some) }
    }
}

/// Swap.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SwapStats {
    pub(crate) time: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) swap_available_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) swap_usage_bytes: Option<u64>,
}

/// Processes of a pod.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ProcessStats {
    #[serde(rename = "process_count", skip_serializing_if = "Option::is_none")]
    pub(crate) process_count: Option<u64>,
}

/// A network: the default interface, and all.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NetworkStats {
    pub(crate) time: Time,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(crate) default: Option<InterfaceStats>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) interfaces: Vec<InterfaceStats>,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct InterfaceStats {
    pub(crate) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rx_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rx_errors: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tx_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tx_errors: Option<u64>,
}

/// A filesystem, and what the subject uses of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FsStats {
    pub(crate) time: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) available_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) capacity_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) used_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) inodes_free: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) inodes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) inodes_used: Option<u64>,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct VolumeStats {
    #[serde(flatten)]
    pub(crate) fs: FsStats,
    pub(crate) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pvc_ref: Option<PvcReference>,
}

/// A claim.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PvcReference {
    pub(crate) name: String,
    pub(crate) namespace: String,
}
