//! /metrics/cadvisor: usage by cgroup, under the names that dashboards ask for.
//! Upstream: github.com/google/cadvisor/metrics/{prometheus,prometheus_machine}.go, pkg/kubelet/server/server.go
//! (containerPrometheusLabelsFunc).
//! Differs: no file systems, open files, sockets or ulimits, and nothing of what a kubelet never measures; out of memory is told as
//! the kernel counts it by cgroup.

mod families;

use kubelet::observation::MachineInfo;

use self::families::{BEFORE_THE_ERROR, FAMILIES, Family};
use super::text::{Encoder, Kind};
use crate::server::stats::subjects::Subject;

/// `None` is a failed collection.
pub(super) fn encode(measured: Option<&(MachineInfo, Vec<Subject>)>) -> String {
    let mut encoder = Encoder::default();
    if let Some((machine, _)) = measured {
        encode_version(&mut encoder, machine);
    }
    let error = if measured.is_some() { 0.0 } else { 1.0 };
    let (before, after) = FAMILIES.split_at(BEFORE_THE_ERROR);
    for family in before {
        encode_family(&mut encoder, family, measured);
    }
    encoder.family("container_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise", Kind::Gauge);
    encoder.sample("container_scrape_error", &[], error, None);
    for family in after {
        encode_family(&mut encoder, family, measured);
    }
    if let Some((machine, _)) = measured {
        encode_machine(&mut encoder, machine);
    }
    encoder.finish()
}

/// Of cAdvisor itself, which is not here as it is not in a kubelet, nothing is told.
fn encode_version(encoder: &mut Encoder, machine: &MachineInfo) {
    encoder.family(
        "cadvisor_version_info",
        "A metric with a constant '1' value labeled by kernel version, OS version, docker version, cadvisor version & cadvisor \
         revision.",
        Kind::Gauge,
    );
    let labels = [
        ("cadvisorRevision", ""),
        ("cadvisorVersion", ""),
        ("dockerVersion", ""),
        ("kernelVersion", machine.kernel_version.as_str()),
        ("osVersion", &machine.os_image),
    ];
    encoder.sample("cadvisor_version_info", &labels, 1.0, None);
}

fn encode_machine(encoder: &mut Encoder, machine: &MachineInfo) {
    let labels = [
        ("boot_id", machine.boot_id.as_str()),
        ("machine_id", machine.machine_id.as_str()),
        ("system_uuid", machine.system_uuid.as_str()),
    ];
    let (cores, sockets) = machine.cores_and_sockets;
    let mut tell = |name: &str, help: &str, value: u64| {
        encoder.family(name, help, Kind::Gauge);
        encoder.sample(name, &labels, value as f64, None);
    };
    // Books and drawers are for s390x.
    tell("machine_cpu_books", "Number of CPU books.", 0);
    tell("machine_cpu_cores", "Number of logical CPU cores.", machine.cpus);
    tell("machine_cpu_drawers", "Number of CPU drawers.", 0);
    tell("machine_cpu_physical_cores", "Number of physical CPU cores.", cores);
    tell("machine_cpu_sockets", "Number of CPU sockets.", sockets);
    tell("machine_memory_bytes", "Amount of memory installed on the machine.", machine.memory);
    encoder.family("machine_scrape_error", "1 if there was an error while getting machine metrics, 0 otherwise.", Kind::Gauge);
    encoder.sample("machine_scrape_error", &[], 0.0, None);
    encoder.family("machine_swap_bytes", "Amount of swap memory available on the machine.", Kind::Gauge);
    encoder.sample("machine_swap_bytes", &labels, machine.swap as f64, None);
}

fn encode_family(encoder: &mut Encoder, family: &Family, measured: Option<&(MachineInfo, Vec<Subject>)>) {
    let mut begun = false;
    for subject in measured.iter().flat_map(|(_, subjects)| subjects) {
        for (more, value) in (family.says)(subject) {
            if !begun {
                encoder.family(family.name, family.help, family.kind);
                begun = true;
            }
            let mut labels = vec![
                ("container", subject.container.as_str()),
                ("id", &subject.id),
                ("image", &subject.image),
                ("name", &subject.name),
                ("namespace", &subject.namespace),
                ("pod", &subject.pod),
            ];
            labels.extend(more.iter().map(|(label, value)| (*label, value.as_str())));
            labels.sort_unstable();
            encoder.sample(family.name, &labels, value, family.timed.then(|| subject.at.as_millisecond()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_come_in_the_order_of_their_names() {
        let names = FAMILIES.iter().map(|family| family.name);
        assert!(names.clone().is_sorted());
        assert_eq!(names.filter(|name| *name < "container_scrape_error").count(), BEFORE_THE_ERROR);
    }
}
