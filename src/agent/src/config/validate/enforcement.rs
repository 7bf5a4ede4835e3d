//! Whether reservations can be enforced as asked.
//! Upstream: pkg/kubelet/apis/config/validation/validation.go, validation_reserved_memory.go.
//! Differs: nothing on purpose.

use std::collections::BTreeSet;

use super::{Check, cpus_error};
use crate::config::quantity;

const FIELD: &str = "enforceNodeAllocatable";
const BOTH: &str = "enforceNodeAllocatable (--enforce-node-allocatable)";

/// API-249, NODE-140.
pub(super) fn check(check: &mut Check<'_>) {
    let empty = Vec::new();
    let asked = check.config.enforce_node_allocatable.as_ref().unwrap_or(&empty);
    let has = |name: &str| asked.iter().any(|asked| asked == name);
    for plain in ["system-reserved", "kube-reserved"] {
        let compressible = format!("{plain}-compressible");
        if has(plain) && has(&compressible) {
            let message = format!("both {plain:?} and {compressible:?} cannot be specified together in {BOTH}");
            check.fail(FIELD, asked.join(","), message, "remove one of them");
        }
    }
    let mut seen = BTreeSet::new();
    for name in asked {
        if !seen.insert(name) {
            check.fail(FIELD, name, format_args!("duplicated enforcements {name:?} in {BOTH}"), "name it once");
            continue;
        }
        one(check, name, asked.len());
    }
    reserved_cpus(check);
    reserved_memory(check);
}

fn one(check: &mut Check<'_>, name: &str, count: usize) {
    let config = check.config;
    let (cgroup, field, flag) = match name {
        "pods" => ("-", "", ""),
        "system-reserved" | "system-reserved-compressible" => {
            (config.system_reserved_cgroup.as_str(), "systemReservedCgroup", "system-reserved")
        }
        "kube-reserved" | "kube-reserved-compressible" => {
            (config.kube_reserved_cgroup.as_str(), "kubeReservedCgroup", "kube-reserved")
        }
        "none" => {
            if count > 1 {
                let message = format!("{BOTH} may not contain additional enforcements when \"none\" is specified");
                check.fail(FIELD, name, message, "name none alone");
            }
            return;
        }
        _ => {
            let message = format!(
                "option {name:?} specified for {BOTH}. Valid options are \"pods\", \"system-reserved\", \"system-reserved-compressible\", \"kube-reserved\", \"kube-reserved-compressible\" or \"none\""
            );
            check.fail(FIELD, name, message, "give valid options");
            return;
        }
    };
    if cgroup.is_empty() {
        let message =
            format!("{field} (--{flag}-cgroup) must be specified when {flag:?} or \"{flag}-compressible\" included in {BOTH}");
        check.fail(field, "", message, format!("name the cgroup, such as {field}: /{flag}"));
    }
    if config.cgroups_per_qos == Some(false) {
        let message = format!("cgroupsPerQOS (--cgroups-per-qos) must be set to true when {name:?} contained in {BOTH}");
        check.fail("cgroupsPerQOS", false, message, "set enforceNodeAllocatable: [none], or cgroupsPerQOS: true");
    }
}

fn reserved_cpus(check: &mut Check<'_>) {
    let config = check.config;
    let cpus = config.reserved_system_cpus.as_str();
    if cpus.is_empty() {
        return;
    }
    let field = "reservedSystemCPUs";
    if !config.system_reserved_cgroup.is_empty() || !config.kube_reserved_cgroup.is_empty() {
        let message = "can't use reservedSystemCPUs (--reserved-cpus) with systemReservedCgroup (--system-reserved-cgroup) or kubeReservedCgroup (--kube-reserved-cgroup)";
        check.fail(field, cpus, message, "remove one of them");
    }
    if let Some(error) = cpus_error(cpus) {
        let message = format!("unable to parse reservedSystemCPUs (--reserved-cpus) {cpus}, error: {error}");
        check.fail(field, cpus, message, "give a list such as 0-1,4");
    }
}

fn reserved_memory(check: &mut Check<'_>) {
    let mut seen = BTreeSet::new();
    for (index, reservation) in check.config.reserved_memory.iter().enumerate() {
        let node = reservation.numa_node;
        for (name, amount) in &reservation.limits {
            let field = format!("reservedMemory[{index}].limits.{name}");
            if name != "memory" && !name.starts_with("hugepages-") {
                let message = format!(
                    "the limit type {name:?} for NUMA node {node} is not supported, only [memory hugepages-<HugePageSize>] is accepted"
                );
                check.fail(&field, &amount.0, message, "remove it");
            }
            match quantity::milli(&amount.0) {
                None => check.fail(
                    &field,
                    &amount.0,
                    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
                    "give a quantity such as 1Gi",
                ),
                Some(0) => {
                    let message = format!("reserved memory may not be zero for NUMA node {node} and resource {name:?}");
                    check.fail(&field, &amount.0, message, "give a quantity, or remove it");
                }
                Some(_) => {}
            }
            if !seen.insert((node, name)) {
                let message = format!("the reserved memory has a duplicate value for NUMA node {node} and resource {name:?}");
                check.fail(&field, &amount.0, message, "name it once");
            }
        }
    }
}
