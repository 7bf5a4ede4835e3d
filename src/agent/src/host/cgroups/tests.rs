//! Cgroups in a directory that looks like a cgroup file system; once in the real one.
//! Upstream: pkg/kubelet/cm/cgroup_manager_linux_test.go.
//! Differs: nothing on purpose.

use super::super::testing::Scratch;
use super::*;
use crate::env::{CpuSettings, DiskUsage, MemorySettings, Pressure, Stall};

const V2_FILES: &str = "sys/fs/cgroup/cgroup.controllers";

fn settings() -> CgroupSettings {
    CgroupSettings {
        cpu_shares: Some(1024),
        cpu_quota: Some(50_000),
        cpu_period: Some(100_000),
        memory_limit: Some(64 << 20),
        pids_max: Some(100),
        cpuset: Some("0-3".to_owned()),
        hugetlb: [("2MB".to_owned(), 0)].into(),
        unified: [("memory.oom.group".to_owned(), "1".to_owned())].into(),
    }
}

fn v1_machine(scratch: &Scratch) -> Cgroups {
    for controller in ["cpu,cpuacct", "cpuset", "memory", "pids", "systemd", "unified"] {
        fs::create_dir_all(scratch.path().join("sys/fs/cgroup").join(controller)).unwrap();
    }
    for name in ["cpu", "cpuacct"] {
        std::os::unix::fs::symlink("cpu,cpuacct", scratch.path().join("sys/fs/cgroup").join(name)).unwrap();
    }
    scratch.put("sys/fs/cgroup/cpuset/cpuset.cpus", "0-3\n");
    Cgroups::of(&scratch.layout())
}

// NODE-132, NODE-133
#[test]
fn v2_group_gets_controllers_and_settings_in_its_own_units() {
    let scratch = Scratch::new();
    scratch.put(V2_FILES, "cpuset cpu io memory pids rdma\n");
    scratch.put("sys/fs/cgroup/kubepods/podu1/cpuset.cpus", "");
    let cgroups = Cgroups::of(&scratch.layout());
    assert!(cgroups.is_v2());
    cgroups.apply("/kubepods/podu1", &settings(), false).unwrap();
    let of = |file: &str| scratch.get(&format!("sys/fs/cgroup/{file}"));
    assert_eq!(of("cgroup.subtree_control"), "+cpu +cpuset +memory +pids");
    assert_eq!(of("kubepods/cgroup.subtree_control"), "+cpu +cpuset +memory +pids");
    assert_eq!(of("kubepods/podu1/cpu.weight"), "39");
    assert_eq!(of("kubepods/podu1/cpu.max"), "50000 100000");
    assert_eq!(of("kubepods/podu1/memory.max"), "67108864");
    assert_eq!(of("kubepods/podu1/pids.max"), "100");
    assert_eq!(of("kubepods/podu1/cpuset.cpus"), "0-3");
    assert_eq!(of("kubepods/podu1/memory.oom.group"), "1");
    let lifted = CgroupSettings { cpu_quota: Some(-1), memory_limit: Some(-1), ..CgroupSettings::default() };
    cgroups.apply("/kubepods/podu1", &lifted, false).unwrap();
    assert_eq!((of("kubepods/podu1/cpu.max"), of("kubepods/podu1/memory.max")), ("max 100000".into(), "max".into()));
}

// NODE-135
#[test]
fn existing_pod_group_is_not_rewritten() {
    let scratch = Scratch::new();
    scratch.put(V2_FILES, "cpu memory\n");
    scratch.put("sys/fs/cgroup/kubepods/podu1/cgroup.controllers", "cpu memory\n");
    scratch.put("sys/fs/cgroup/kubepods/podu1/cpu.weight", "7");
    let cgroups = Cgroups::of(&scratch.layout());
    cgroups.apply("/kubepods/podu1", &settings(), true).unwrap();
    assert_eq!(scratch.get("sys/fs/cgroup/kubepods/podu1/cpu.weight"), "7");
    assert_eq!((cgroups.exists("/kubepods/podu1").unwrap(), cgroups.exists("/kubepods/podu2").unwrap()), (true, false));
    // NODE-132: one that lacks a controller does not count.
    scratch.put("sys/fs/cgroup/kubepods/podu1/cgroup.controllers", "cpu\n");
    assert!(!cgroups.exists("/kubepods/podu1").unwrap());
    cgroups.apply("/kubepods/podu1", &settings(), true).unwrap();
    assert_eq!(scratch.get("sys/fs/cgroup/kubepods/podu1/cpu.weight"), "39");
}

#[test]
fn weights_run_from_one_to_ten_thousand() {
    assert_eq!([2, 1024, 262_144, 0, u64::MAX].map(v2::weight), [1, 39, 10_000, 1, 10_000]);
}

#[test]
fn v1_group_lies_in_every_hierarchy() {
    let scratch = Scratch::new();
    let cgroups = v1_machine(&scratch);
    assert!(!cgroups.is_v2());
    // A file system of cgroups fills a new directory; here one file that matters does it.
    scratch.put("sys/fs/cgroup/cpuset/kubepods/cpuset.cpus", "");
    cgroups.apply("/kubepods", &settings(), false).unwrap();
    let of = |file: &str| scratch.get(&format!("sys/fs/cgroup/{file}"));
    assert_eq!(of("cpu,cpuacct/kubepods/cpu.shares"), "1024");
    assert_eq!(of("cpu/kubepods/cpu.cfs_quota_us"), "50000");
    assert_eq!(of("cpu/kubepods/cpu.cfs_period_us"), "100000");
    assert_eq!(of("memory/kubepods/memory.limit_in_bytes"), "67108864");
    assert_eq!(of("pids/kubepods/pids.max"), "100");
    assert_eq!(of("cpuset/kubepods/cpuset.cpus"), "0-3");
    assert!(scratch.path().join("sys/fs/cgroup/systemd/kubepods").is_dir());
    assert!(!scratch.path().join("sys/fs/cgroup/unified/kubepods").exists());
}

// NODE-131, NODE-136
#[test]
fn pods_are_found_whichever_driver_named_them() {
    let scratch = Scratch::new();
    scratch.put(V2_FILES, "cpu\n");
    let names = [
        "/kubepods/poda-1",
        "/kubepods/burstable/podb-1",
        "/kubepods.slice/kubepods-podc_1.slice",
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podd_1.slice",
    ];
    for name in names {
        fs::create_dir_all(scratch.path().join("sys/fs/cgroup").join(&name[1..])).unwrap();
    }
    let found = Cgroups::of(&scratch.layout()).pods("/").unwrap();
    let expected = ["a-1", "b-1", "c-1", "d-1"].map(PodUid::new).into_iter().zip(names.map(str::to_owned));
    assert_eq!(found, expected.collect());
    assert_eq!(kubepods("/a-b"), ["/a-b/kubepods", "/a_b.slice/a_b-kubepods.slice"]);
}

#[test]
fn root_and_names_that_climb_are_refused() {
    let scratch = Scratch::new();
    scratch.put(V2_FILES, "cpu\n");
    let cgroups = Cgroups::of(&scratch.layout());
    for name in ["/", "", "/kubepods/../.."] {
        assert!(cgroups.remove(name).is_err(), "{name:?}");
        assert!(cgroups.apply(name, &settings(), false).is_err(), "{name:?}");
    }
}

// NODE-125
#[test]
fn v2_usage_is_less_inactive_files_and_the_root_has_the_machines_limit() {
    let scratch = Scratch::new();
    scratch.put(V2_FILES, "cpu\n");
    scratch.put("sys/fs/cgroup/memory.stat", "anon 100\nfile 50\ninactive_file 20\npgfault 9\n");
    scratch.put("sys/fs/cgroup/cpu.stat", "usage_usec 7\n");
    scratch.put("sys/fs/cgroup/kubepods/memory.current", "10\n");
    scratch.put("sys/fs/cgroup/kubepods/memory.stat", "inactive_file 20\n");
    scratch.put("sys/fs/cgroup/kubepods/memory.max", "max\n");
    scratch.put("sys/fs/cgroup/kubepods/memory.swap.current", "4\n");
    scratch.put("sys/fs/cgroup/kubepods/memory.swap.max", "0\n");
    let pressure = "some avg10=1.50 avg60=0.00 avg300=0.00 total=12\nfull avg10=0.25 avg60=0.00 avg300=0.00 total=7\n";
    scratch.put("sys/fs/cgroup/kubepods/memory.pressure", pressure);
    scratch.put(
        "sys/fs/cgroup/kubepods/cpu.stat",
        "usage_usec 9\nuser_usec 4\nsystem_usec 5\nnr_periods 3\nnr_throttled 2\nthrottled_usec 1\n",
    );
    scratch.put("sys/fs/cgroup/kubepods/cgroup.procs", "0\n77\n78\n");
    scratch.put("sys/fs/cgroup/kubepods/pids.current", "200\n");
    scratch.put("sys/fs/cgroup/kubepods/memory.events", "low 0\noom 2\noom_kill 1\n");
    scratch.put("sys/fs/cgroup/kubepods/cpu.max", "max 100000\n");
    scratch.put("sys/fs/cgroup/kubepods/cpu.weight", "39\n");
    scratch.put("sys/fs/cgroup/kubepods/pids.max", "max\n");
    scratch.put("sys/fs/cgroup/kubepods/io.stat", "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n7:0\n");
    let cgroups = Cgroups::of(&scratch.layout());
    let root = usage(&cgroups, "/", Whole { memory: 1000, swap: 99, swap_used: 9 }, true).unwrap().unwrap();
    assert_eq!((root.memory, root.working_set, root.memory_limit), (150, 130, Some(1000)));
    assert_eq!((root.swap, root.swap_limit), (Some(9), Some(99)));
    assert_eq!((root.cpu_nanos, root.page_faults, root.rss), (7000, 9, 100));
    let pods = usage(&cgroups, "/kubepods", Whole::default(), true).unwrap().unwrap();
    assert_eq!((pods.working_set, pods.memory_limit), (0, None));
    let stall = |avg10, total| Stall { avg10, total, ..Stall::default() };
    assert_eq!(pods.memory_pressure, Some(Pressure { some: stall(1.5, 12), full: stall(0.25, 7) }));
    assert_eq!((pods.io_pressure, root.cpu_pressure), (None, None));
    assert_eq!((pods.swap, pods.swap_limit), (Some(4), Some(0)));
    // N6: handler.go of cAdvisor counts the lines of cgroup.procs; threads are another matter.
    assert_eq!((pods.processes, pods.threads), (Some(3), Some(200)));
    assert_eq!((pods.user_nanos, pods.system_nanos, pods.cfs), (Some(4000), Some(5000), Some((3, 2, 1000))));
    assert_eq!((pods.oom_kills, root.cfs), (Some(1), None));
    // Upstream's getSpecInternal and fs2/io.go: what is set, in the units of version 1, and what disks were asked for.
    assert_eq!(pods.cpu_settings, Some(CpuSettings { shares: 2 + 38 * 262_142 / 9999, quota: None, period: 100_000 }));
    assert_eq!((pods.memory_settings, root.memory_settings), (Some(MemorySettings::default()), None));
    assert_eq!((pods.threads_max, pods.inactive_file, pods.made.is_some()), (None, Some(20), true));
    assert_eq!(pods.disks, [DiskUsage { device: (8, 0), read: (4096, 1), written: (8192, 2) }]);
    // API-141: what /metrics/resource does not tell is not read for it.
    assert_eq!(usage(&cgroups, "/kubepods", Whole::default(), false).unwrap().unwrap().memory_pressure, None);
    assert_eq!(usage(&cgroups, "/none", Whole::default(), true).unwrap(), None);
}

// API-143: upstream's fs/{memory,blkio,cpu}.go, getSpecInternal and setMemoryStats for version 1.
#[test]
fn v1_usage_comes_from_each_controllers_tree() {
    let scratch = Scratch::new();
    let cgroups = v1_machine(&scratch);
    let of = |controller: &str, file: &str, text: &str| {
        scratch.put(&format!("sys/fs/cgroup/{controller}/kubepods/{file}"), text);
    };
    of("cpu,cpuacct", "cpu.shares", "102\n");
    of("cpu,cpuacct", "cpu.cfs_quota_us", "10000\n");
    of("cpu,cpuacct", "cpu.cfs_period_us", "100000\n");
    of("cpu,cpuacct", "cpu.stat", "nr_periods 9\nnr_throttled 3\nthrottled_time 7\nnr_bursts 2\nburst_time 5\n");
    of("memory", "memory.limit_in_bytes", "9223372036854771712\n");
    of("memory", "memory.soft_limit_in_bytes", "4096\n");
    of("memory", "memory.kmem.usage_in_bytes", "12\n");
    of("memory", "memory.stat", "pgfault 1\npgmajfault 2\ntotal_pgfault 10\ntotal_pgmajfault 20\ntotal_active_file 3\n");
    of("memory", "cgroup.procs", "77\n78\n");
    of("pids", "pids.max", "100\n");
    of("blkio", "blkio.throttle.io_service_bytes_recursive", "8:0 Read 4096\n8:0 Write 1\n8:0 Total 4097\nTotal 4097\n");
    of("blkio", "blkio.throttle.io_serviced_recursive", "8:0 Read 2\n8:0 Write 1\nTotal 3\n");
    let pods = usage(&cgroups, "/kubepods", Whole::default(), true).unwrap().unwrap();
    assert_eq!((pods.page_faults, pods.major_page_faults), (1, 2));
    assert_eq!(pods.cpu_settings, Some(CpuSettings { shares: 102, quota: Some(10_000), period: 100_000 }));
    assert_eq!(pods.memory_settings, Some(MemorySettings { limit: 0, swap_limit: 0, reservation: 4096 }));
    assert_eq!((pods.cfs, pods.bursts), (Some((9, 3, 7)), (2, 5)));
    assert_eq!((pods.kernel_memory, pods.active_file, pods.threads_max), (Some(12), Some(3), Some(100)));
    assert_eq!((pods.processes, pods.first_process), (Some(2), Some(77)));
    assert_eq!(pods.disks, [DiskUsage { device: (8, 0), read: (4096, 2), written: (1, 1) }]);
}

// NODE-136: runc puts containers into it too, on hosts that have both versions.
#[test]
fn what_a_runtime_made_in_the_tree_without_controllers_goes_with_the_pod() {
    let scratch = Scratch::new();
    let cgroups = v1_machine(&scratch);
    let left = scratch.path().join("sys/fs/cgroup/unified/kubepods/besteffort/podu1");
    fs::create_dir_all(left.join("c1")).unwrap();
    let pods = cgroups.pods("/").unwrap();
    assert_eq!(pods.into_values().collect::<Vec<_>>(), ["/kubepods/besteffort/podu1"]);
    cgroups.remove("/kubepods/besteffort/podu1").unwrap();
    assert!(!left.exists());
}

// NODE-134, NODE-136: on whatever this machine has.
#[test]
fn real_cgroup_is_made_filled_killed_and_removed() {
    let layout = Layout { machine: "/".into(), ..Scratch::new().layout() };
    let cgroups = Cgroups::of(&layout);
    let name = format!("/keelson-test-{}", std::process::id());
    let small = CgroupSettings { hugetlb: BTreeMap::new(), unified: BTreeMap::new(), cpuset: None, ..settings() };
    if let Err(error) = cgroups.apply(&format!("{name}/inner"), &small, false) {
        let _ = cgroups.remove(&name);
        println!("skipped: {error}");
        return;
    }
    let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    for root in cgroups.roots().unwrap() {
        fs::write(root.join(&name[1..]).join("inner/cgroup.procs"), child.id().to_string()).unwrap();
    }
    let used = usage(&cgroups, &format!("{name}/inner"), Whole::default(), true).unwrap().unwrap();
    let removed = cgroups.remove(&name);
    let _ = child.kill();
    child.wait().unwrap();
    removed.unwrap();
    cgroups.remove(&name).unwrap();
    assert_eq!((used.memory_limit, used.processes, used.threads), (Some(64 << 20), Some(1), Some(1)));
    assert_eq!(usage(&cgroups, &name, Whole::default(), true).unwrap(), None);
}
