//! What the machine is, as its kernel and its files say.
//! Upstream: github.com/google/cadvisor/machine, pkg/kubelet/cadvisor, pkg/kubelet/cm/util.
//! Differs: nothing on purpose.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use kubelet::observation::{FsUsage, MachineInfo};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::cgroups::Cgroups;
use super::error::{Context as _, HostError};
use super::files;
use super::layout::{DEVICE_PLUGINS, Layout};
use super::mounts;

/// Reads it all (NODE-083, NODE-087). What can be absent on a healthy machine is empty then; what cannot is a failure.
pub(super) fn info(layout: &Layout) -> Result<MachineInfo, HostError> {
    let text = |path: &str| files::text(&layout.system(path)).unwrap_or_default().trim().to_owned();
    let first = |paths: &[&str]| paths.iter().map(|p| text(p)).find(|t| !t.is_empty()).unwrap_or_default();
    let (memory, swap) = memory(layout)?;
    let cgroups = Cgroups::of(layout);
    let cpu_info = required(layout, "proc/cpuinfo")?;
    let machine_id = first(&["etc/machine-id", "var/lib/dbus/machine-id"]);
    let uuid = first(&["sys/class/dmi/id/product_uuid", "proc/device-tree/vm,uuid"]).trim_matches('\0').to_owned();
    Ok(MachineInfo {
        cpus: cpus(&cpu_info),
        memory,
        swap,
        hugepages: hugepages(layout)?,
        root_fs_capacity: root_capacity(layout)?,
        system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid },
        machine_id,
        boot_id: text("proc/sys/kernel/random/boot_id"),
        kernel_version: rustix::system::uname().release().to_string_lossy().into_owned(),
        os_image: os_image(&first(&["etc/os-release", "usr/lib/os-release"])),
        architecture: architecture(std::env::consts::ARCH).to_owned(),
        cgroup_v2: cgroups.is_v2(),
        max_pids: max_pids(&text("proc/sys/kernel/pid_max"), &text("proc/sys/kernel/threads-max")),
        selinux: layout.system("sys/fs/selinux/enforce").exists(),
        cpu_cfs_quota: cgroups.is_v2() || layout.system("sys/fs/cgroup/cpu/cpu.cfs_quota_us").exists(),
        swap_on: text("proc/swaps").lines().count() > 1,
        tmpfs_no_swap: mounts::tmpfs_stays_in_memory(),
        swap_controller: cgroups.limits_swap(&text("proc/self/cgroup")),
        device_resources: device_resources(&layout.root()?, &layout.at(DEVICE_PLUGINS)?),
        online_cpus: text("sys/devices/system/cpu/online"),
        thermal_throttles: thermal_throttles(layout, &text("sys/devices/system/cpu/possible")),
        apparmor: layout.system("sys/kernel/security/apparmor").exists()
            && text("sys/module/apparmor/parameters/enabled").starts_with('Y'),
        cores_and_sockets: (
            distinct(layout, &cpu_info, "core id", "core_id"),
            distinct(layout, &cpu_info, "physical id", "physical_package_id"),
        ),
        disks: disks(layout),
    })
}

/// How many different values there are, in /proc/cpuinfo or else below /sys (upstream's `GetPhysicalCores` and `GetSockets`).
fn distinct(layout: &Layout, cpu_info: &str, key: &str, file: &str) -> u64 {
    let told = |line: &str| line.split_once(':').filter(|(found, _)| found.trim() == key).map(|(_, value)| value.trim().to_owned());
    let mut values: BTreeSet<String> = cpu_info.lines().filter_map(told).collect();
    if values.is_empty() {
        let directory = layout.system("sys/bus/cpu/devices");
        let cpus = files::names(&directory).unwrap_or_default().into_iter().take(MOST_CPUS);
        values.extend(cpus.filter_map(|cpu| files::text(&directory.join(cpu).join("topology").join(file)).ok()));
    }
    values.len() as u64
}

/// The machine's disks by their numbers.
fn disks(layout: &Layout) -> BTreeMap<String, String> {
    let directory = layout.system("sys/block");
    let names = files::names(&directory).unwrap_or_default().into_iter();
    names.filter_map(|name| Some((files::text(&directory.join(&name).join("dev")).ok()?.trim().to_owned(), name))).collect()
}

/// More CPUs than any kernel is built for.
const MOST_CPUS: usize = 8192;

/// The directories that tell how hot the CPUs are, of those that there may be: as the kernel lists them, such as `0-3,8`.
fn thermal_throttles(layout: &Layout, possible: &str) -> Vec<String> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?)
    };
    let cpus = possible.split(',').filter_map(range).flatten().take(MOST_CPUS);
    let paths = cpus.map(|cpu| format!("sys/devices/system/cpu/cpu{cpu}/thermal_throttle"));
    paths.filter(|path| layout.system(path).exists()).map(|path| format!("/{path}")).collect()
}

fn required(layout: &Layout, path: &str) -> Result<String, HostError> {
    let path = layout.system(path);
    files::text(&path).context("read", &path)
}

/// MemTotal and SwapTotal in bytes.
pub(super) fn memory(layout: &Layout) -> Result<(u64, u64), HostError> {
    let table = required(layout, "proc/meminfo")?;
    let total = kilobytes(&table, "MemTotal").ok_or_else(|| HostError::Unfit("/proc/meminfo has no MemTotal".to_owned()))?;
    Ok((total, kilobytes(&table, "SwapTotal").unwrap_or(0)))
}

/// Swap that is used, in bytes.
pub(super) fn swap_used(layout: &Layout) -> Result<u64, HostError> {
    let table = required(layout, "proc/meminfo")?;
    Ok(kilobytes(&table, "SwapTotal").unwrap_or(0).saturating_sub(kilobytes(&table, "SwapFree").unwrap_or(0)))
}

/// A line of /proc/meminfo, in bytes.
fn kilobytes(table: &str, name: &str) -> Option<u64> {
    let value = table.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
    value.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib.saturating_mul(1024))
}

fn cpus(cpu_info: &str) -> u64 {
    cpu_info.lines().filter(|l| l.split_once(':').is_some_and(|(key, _)| key.trim() == "processor")).count() as u64
}

/// Pages by page size in bytes, over all NUMA nodes.
fn hugepages(layout: &Layout) -> Result<BTreeMap<u64, u64>, HostError> {
    let directory = layout.system("sys/kernel/mm/hugepages");
    let mut found = BTreeMap::new();
    for name in files::names(&directory)? {
        let size = name.strip_prefix("hugepages-").and_then(|s| s.strip_suffix("kB")?.parse::<u64>().ok());
        let count = files::text(&directory.join(&name).join("nr_hugepages"));
        if let (Some(kib), Some(count)) = (size, count.ok().and_then(|c| c.trim().parse().ok())) {
            found.insert(kib.saturating_mul(1024), count);
        }
    }
    Ok(found)
}

/// What an earlier kubelet's checkpoint says of device plugins (upstream's pkg/kubelet/cm/devicemanager/checkpoint); `None` if neither
/// a kubelet nor this agent was ever here.
fn device_resources(root: &Path, directory: &Path) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Checkpoint {
        data: Data,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Data {
        registered_devices: Option<BTreeMap<String, IgnoredAny>>,
    }
    let text = files::text(&directory.join("kubelet_internal_checkpoint")).ok();
    if let Some(found) = text.and_then(|text| serde_json::from_str::<Checkpoint>(&text).ok()) {
        return Some(found.data.registered_devices.unwrap_or_default().into_keys().collect());
    }
    let empty = files::names(directory).is_ok_and(|names| names.is_empty());
    // Where the file of this agent lies, it was here before; where it does not, nothing was.
    (!empty || root.join("cpu_manager_state").exists()).then(Vec::new)
}

/// The filesystem that the root directory lies on, or will lie on.
fn root_capacity(layout: &Layout) -> Result<u64, HostError> {
    let root = layout.root()?;
    let existing = root.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    let found = rustix::fs::statvfs(existing).context("statfs", existing)?;
    Ok(found.f_blocks * found.f_frsize)
}

fn os_image(os_release: &str) -> String {
    let name = os_release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |n| n.trim_matches(['"', '\'']).to_owned())
}

/// As Go calls it.
fn architecture(rust: &str) -> &str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// min(pid_max, threads-max); what cannot be read does not bound.
fn max_pids(pid_max: &str, threads_max: &str) -> u64 {
    [pid_max, threads_max].iter().filter_map(|n| n.parse().ok()).min().unwrap_or(0)
}

/// How full the filesystem of a path is.
pub(super) fn filesystem(path: &Path) -> Result<FsUsage, HostError> {
    let found = rustix::fs::statvfs(path).context("statfs", path)?;
    let bytes = |blocks: u64| blocks * found.f_frsize;
    Ok(FsUsage {
        // Nobody asks for it, and the table of mounts of a full node is megabytes.
        mountpoint: String::new(),
        capacity: bytes(found.f_blocks),
        available: bytes(found.f_bavail),
        used: bytes(found.f_blocks.saturating_sub(found.f_bfree)),
        inodes: found.f_files,
        inodes_free: found.f_ffree,
        inodes_used: found.f_files.saturating_sub(found.f_ffree),
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::Scratch;
    use super::*;

    // NODE-045, F13, DIR-005: upstream's checkpoint names the resources; without any trace of an earlier life there is nothing to go by. It
    // lies where device plugins look, wherever the root is (devicemanager/manager.go, newManagerImpl: the socket's directory).
    #[test]
    fn resources_of_earlier_device_plugins_are_read_from_their_checkpoint() {
        for kubelet_root in ["/var/lib/kubelet", "/data/kubelet"] {
            let scratch = Scratch::new();
            scratch.put("proc/cpuinfo", "processor: 0\n");
            scratch.put("proc/meminfo", "MemTotal: 1 kB\n");
            let mut layout = scratch.layout();
            kubelet_root.clone_into(&mut layout.kubelet_root);
            let found = || info(&layout).unwrap().device_resources;
            assert_eq!(found(), None);
            std::fs::create_dir_all(scratch.path().join("var/lib/kubelet/device-plugins")).unwrap();
            assert_eq!(found(), None);
            scratch.put(&format!("{kubelet_root}/cpu_manager_state")[1..], "{}");
            assert_eq!(found(), Some(Vec::new()));
            let text = r#"{"Data":{"PodDeviceEntries":null,"RegisteredDevices":{"nvidia.com/gpu":["0","1"]}},"Checksum":7}"#;
            scratch.put("var/lib/kubelet/device-plugins/kubelet_internal_checkpoint", text);
            assert_eq!(found(), Some(vec!["nvidia.com/gpu".to_owned()]), "{kubelet_root}");
        }
    }

    // NODE-083, NODE-087
    #[test]
    fn machine_is_what_its_files_say() {
        let scratch = Scratch::new();
        scratch.put("proc/cpuinfo", "processor\t: 0\nmodel name\t: x\n\nprocessor\t: 1\n");
        scratch.put("proc/meminfo", "MemTotal:       24684092 kB\nMemFree: 1 kB\nSwapTotal:  1024 kB\n");
        scratch.put("proc/sys/kernel/random/boot_id", "b-1\n");
        scratch.put("proc/sys/kernel/pid_max", "4194304\n");
        scratch.put("proc/sys/kernel/threads-max", "95000\n");
        scratch.put("proc/swaps", "Filename Type\n/swapfile file\n");
        scratch.put("etc/machine-id", "m-1\n");
        scratch.put("sys/class/dmi/id/product_uuid", "UUID-1\n");
        scratch.put("etc/os-release", "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n");
        scratch.put("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "4\n");
        let found = info(&scratch.layout()).unwrap();
        assert_eq!((found.cpus, found.memory, found.swap), (2, 24_684_092 << 10, 1 << 20));
        assert_eq!(found.hugepages, BTreeMap::from([(2 << 20, 4)]));
        assert_eq!((found.machine_id.as_str(), found.boot_id.as_str(), found.system_uuid.as_str()), ("m-1", "b-1", "UUID-1"));
        assert_eq!(found.os_image, "Debian GNU/Linux 12 (bookworm)");
        assert_eq!((found.max_pids, found.swap_on, found.selinux, found.cgroup_v2), (95_000, true, false, false));
        assert!(found.root_fs_capacity > 0 && !found.kernel_version.is_empty());
        assert!(!found.apparmor && found.thermal_throttles.is_empty());
    }

    // POD-177, POD-034: pkg/securitycontext/util_linux.go (possibleCPUs); runc's apparmor.IsEnabled.
    #[test]
    fn what_the_kernel_has_of_thermal_throttles_and_apparmor_is_found() {
        let scratch = Scratch::new();
        scratch.put("proc/cpuinfo", "processor: 0\n");
        scratch.put("proc/meminfo", "MemTotal: 1 kB\n");
        for cpu in [0, 2, 9] {
            scratch.put(&format!("sys/devices/system/cpu/cpu{cpu}/thermal_throttle/core_throttle_count"), "0\n");
        }
        scratch.put("sys/devices/system/cpu/possible", "0-1,2,7\n");
        scratch.put("sys/module/apparmor/parameters/enabled", "Y\n");
        let found = || info(&scratch.layout()).unwrap();
        let of = |cpu: u32| format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle");
        assert_eq!(found().thermal_throttles, [of(0), of(2)]);
        assert!(!found().apparmor, "the file system is not there");
        scratch.put("sys/kernel/security/apparmor/profiles", "");
        assert!(found().apparmor);
        scratch.put("sys/devices/system/cpu/possible", "0-18446744073709551615\n");
        assert_eq!(found().thermal_throttles.len(), 3);
        scratch.put("sys/module/apparmor/parameters/enabled", "N\n");
        assert!(!found().apparmor);
    }

    // NODE-147: the root of version 2 has no such file, so the agent's own group tells.
    #[test]
    fn swap_can_be_limited_where_a_cgroup_has_a_file_for_it() {
        let scratch = Scratch::new();
        scratch.put("proc/cpuinfo", "processor: 0\n");
        scratch.put("proc/meminfo", "MemTotal: 1 kB\nSwapTotal: 9 kB\nSwapFree: 2 kB\n");
        scratch.put("proc/self/cgroup", "0::/system.slice/keelson.service\n");
        scratch.put("sys/devices/system/cpu/online", "0-3,8\n");
        let found = || info(&scratch.layout()).unwrap();
        assert_eq!((found().swap_controller, found().online_cpus.as_str()), (false, "0-3,8"));
        scratch.put("sys/fs/cgroup/memory/memory.memsw.limit_in_bytes", "9\n");
        assert!(found().swap_controller);
        scratch.put("sys/fs/cgroup/cgroup.controllers", "memory\n");
        assert!(!found().swap_controller);
        scratch.put("sys/fs/cgroup/system.slice/keelson.service/memory.swap.max", "max\n");
        assert!(found().swap_controller);
        assert_eq!(swap_used(&scratch.layout()).unwrap(), 7 << 10);
    }

    #[test]
    fn machine_without_a_uuid_goes_by_its_machine_id() {
        let scratch = Scratch::new();
        scratch.put("proc/cpuinfo", "processor: 0\n");
        scratch.put("proc/meminfo", "MemTotal: 1 kB\n");
        scratch.put("var/lib/dbus/machine-id", "m-2\n");
        assert_eq!(info(&scratch.layout()).unwrap().system_uuid, "m-2");
    }

    #[test]
    fn machine_without_memory_is_a_failure() {
        let scratch = Scratch::new();
        scratch.put("proc/meminfo", "nonsense\n");
        assert!(info(&scratch.layout()).is_err());
    }

    #[test]
    fn fill_of_a_filesystem_adds_up() {
        let scratch = Scratch::new();
        let found = filesystem(scratch.path()).unwrap();
        assert!(found.available <= found.capacity && found.used <= found.capacity);
        assert!(found.mountpoint.is_empty(), "nobody asks for it, and the table of mounts of a full node is megabytes");
        assert!(filesystem(&scratch.path().join("none")).unwrap_err().is_not_found());
    }

    // What the kernel and the distribution say of the machine.
    #[test]
    fn mangled_facts_of_the_machine_are_something() {
        let seeds: [&[u8]; 5] = [
            b"MemTotal: 9223372036854775807 kB\n",
            b"MemTotal:       24576000 kB\nSwapTotal: 99999999999999999999 kB\nMemFree\n",
            b"processor\t: 0\nprocessor: 1\n",
            b"PRETTY_NAME=\"Debian\"\nNAME='x'\nPRETTY_NAME=",
            b"4194304",
        ];
        crate::mangled::each("machine", &seeds, |input| {
            let text = crate::mangled::text(input);
            let _facts = (kilobytes(&text, "MemTotal"), cpus(&text), os_image(&text), max_pids(&text, &text));
        });
    }
}
