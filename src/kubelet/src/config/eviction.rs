//! Eviction thresholds as settings: which signal, how low, for how long.
//! Upstream: pkg/kubelet/eviction/api/types.go, pkg/kubelet/eviction/defaults_linux.go.
//! Differs: nothing on purpose.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// When pods are evicted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Eviction {
    /// The thresholds, hard ones first; the copy of the hard memory threshold for allocatable memory is among them if pods'
    /// allocatable is enforced (NODE-171).
    pub thresholds: Vec<Threshold>,
    /// How long a node condition stays after the signal is fine again; never zero.
    pub pressure_transition_period: Duration,
    /// The longest grace, in seconds, of a pod that a soft threshold evicts (NODE-181); may be negative.
    pub max_pod_grace_period: i32,
    /// Whether the kernel is asked to tell of memory pressure (NODE-185).
    pub kernel_memcg_notification: bool,
    /// Whether hard thresholds are left out of allocatable (`--experimental-allocatable-ignore-eviction`).
    pub ignored_in_allocatable: bool,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Signal {
    /// `memory.available`: capacity less working set.
    MemoryAvailable,
    /// `nodefs.available`.
    NodeFsAvailable,
    /// `nodefs.inodesFree`.
    NodeFsInodesFree,
    /// `imagefs.available`.
    ImageFsAvailable,
    /// `imagefs.inodesFree`.
    ImageFsInodesFree,
    /// `containerfs.available`; derived, what the user sets is overridden (NODE-172).
    ContainerFsAvailable,
    /// `containerfs.inodesFree`; derived as well.
    ContainerFsInodesFree,
    /// `allocatableMemory.available`: the pods' limit less their working set.
    AllocatableMemoryAvailable,
    /// `pid.available`.
    PidAvailable,
}

impl Signal {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::MemoryAvailable,
        Self::NodeFsAvailable,
        Self::NodeFsInodesFree,
        Self::ImageFsAvailable,
        Self::ImageFsInodesFree,
        Self::ContainerFsAvailable,
        Self::ContainerFsInodesFree,
        Self::AllocatableMemoryAvailable,
        Self::PidAvailable,
    ];

    /// The signal's name in settings, metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "memory.available",
            Self::NodeFsAvailable => "nodefs.available",
            Self::NodeFsInodesFree => "nodefs.inodesFree",
            Self::ImageFsAvailable => "imagefs.available",
            Self::ImageFsInodesFree => "imagefs.inodesFree",
            Self::ContainerFsAvailable => "containerfs.available",
            Self::ContainerFsInodesFree => "containerfs.inodesFree",
            Self::AllocatableMemoryAvailable => "allocatableMemory.available",
            Self::PidAvailable => "pid.available",
        }
    }

    /// The signal of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|signal| signal.as_str() == name)
    }
}

/// One threshold: met while the signal is strictly below `value`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Threshold {
    /// What is measured.
    pub signal: Signal,
    /// How low it may go.
    pub value: ThresholdValue,
    /// How long it may stay there; zero for a hard threshold.
    pub grace_period: Duration,
    /// How far above the threshold it must be brought; `None` is not at all.
    pub min_reclaim: Option<ThresholdValue>,
}

impl Threshold {
    /// Whether eviction does not wait.
    #[must_use]
    pub fn is_hard(&self) -> bool {
        self.grace_period.is_zero()
    }
}

/// A bound, absolute or as part of the capacity.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum ThresholdValue {
    /// Bytes, inodes or processes.
    Quantity(u64),
    /// A fraction from 0 to 1; 32 bits, as upstream computes with.
    Fraction(f32),
}

impl ThresholdValue {
    /// The bound for a capacity, in the capacity's unit. Upstream: GetThresholdQuantity.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    pub fn of(self, capacity: u64) -> u64 {
        match self {
            Self::Quantity(quantity) => quantity,
            Self::Fraction(fraction) => (capacity as f64 * f64::from(fraction)) as u64,
        }
    }
}

impl Default for Eviction {
    fn default() -> Self {
        let hard = |signal, value| Threshold { signal, value, grace_period: Duration::ZERO, min_reclaim: None };
        let memory = ThresholdValue::Quantity(100 << 20);
        Self {
            thresholds: vec![
                hard(Signal::ImageFsAvailable, ThresholdValue::Fraction(15.0 / 100.0)),
                hard(Signal::ImageFsInodesFree, ThresholdValue::Fraction(5.0 / 100.0)),
                hard(Signal::MemoryAvailable, memory),
                hard(Signal::NodeFsAvailable, ThresholdValue::Fraction(10.0 / 100.0)),
                hard(Signal::NodeFsInodesFree, ThresholdValue::Fraction(5.0 / 100.0)),
                hard(Signal::AllocatableMemoryAvailable, memory),
            ],
            pressure_transition_period: Duration::from_mins(5),
            max_pod_grace_period: 0,
            kernel_memcg_notification: false,
            ignored_in_allocatable: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentage_is_of_the_capacity_in_32_bit_floats() {
        assert_eq!(ThresholdValue::Fraction(15.0 / 100.0).of(1000), 150);
        // 0.15 in 32 bits is a little more than 0.15.
        assert_eq!(ThresholdValue::Fraction(15.0 / 100.0).of(1_000_000_000), 150_000_005);
        assert_eq!(ThresholdValue::Quantity(7).of(1000), 7);
    }

    #[test]
    fn every_signal_is_found_by_its_name() {
        for signal in Signal::ALL {
            assert_eq!(Signal::parse(signal.as_str()), Some(signal));
        }
        assert_eq!(Signal::parse("memory"), None);
    }
}
