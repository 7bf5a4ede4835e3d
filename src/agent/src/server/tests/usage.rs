//! What a measurement costs, and how old what it goes by may be.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use kubelet::event::{CriReply, HostReply};
use kubelet::observation::MachineInfo;

use super::information::{GOLD, gold_pod, golden_machine, no_series_twice, set_cgroups, set_more_cgroups};
use super::*;
use crate::env::{CgroupUsage, DiskUsage};

fn machine(memory: u64, disks: &[(&str, &str)]) -> HostReply {
    let disks = disks.iter().map(|(numbers, name)| ((*numbers).to_owned(), (*name).to_owned())).collect();
    HostReply::Machine(Box::new(MachineInfo { memory, disks, ..MachineInfo::default() }))
}

/// The golden machine with its pod.
async fn measured() -> World {
    let world = World::new().start().await;
    golden_machine(&world);
    set_cgroups(&world, false);
    set_more_cgroups(&world);
    world.view.pods.lock().unwrap().push(Arc::new(gold_pod()));
    let uid = PodUid::new(GOLD);
    world.observe(&uid, observation(&uid, "gold-running", ContainerState::Running));
    world
}

// API-143: vendor/github.com/google/cadvisor/manager/manager.go, updateMachineInfo: every five minutes; what could be read once is told on.
#[tokio::test(start_paused = true)]
async fn machine_that_changes_is_told_within_five_minutes() {
    let world = measured().await;
    let memory = async || {
        let text = world.get("/metrics/cadvisor").await.body;
        let line = text.lines().find_map(|line| line.strip_prefix("machine_memory_bytes{")).unwrap();
        line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()
    };
    let set = |reply| world.host.replies.lock().unwrap().insert("machine", reply);
    set(machine(1000, &[("8:0", "sda")]));
    assert_eq!(memory().await, 1000.0);
    set(machine(3000, &[("8:0", "sda")]));
    tokio::time::advance(Duration::from_secs(299)).await;
    assert_eq!(memory().await, 1000.0);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(memory().await, 3000.0);
    world.host.replies.lock().unwrap().remove("machine");
    tokio::time::advance(Duration::from_secs(300)).await;
    assert_eq!(memory().await, 3000.0);
}

// API-143: container/common/helpers.go, DeviceNamer: by their numbers, from the machine as it is now; two that are not known are two.
#[tokio::test(start_paused = true)]
async fn disk_that_came_later_has_its_name() {
    let world = measured().await;
    let disk = |minor| DiskUsage { device: (8, minor), read: (1, 1), written: (2, 1) };
    let used = CgroupUsage { disks: vec![disk(0), disk(16), disk(32)], ..CgroupUsage::default() };
    let devices = async || {
        let text = world.get("/metrics/cadvisor").await.body;
        no_series_twice(&text);
        let reads = text.lines().filter(|line| line.starts_with("container_fs_reads_total{") && line.contains("id=\"/runtime\""));
        reads.filter_map(|line| Some(line.split_once("device=\"")?.1.split('"').next()?.to_owned())).collect::<Vec<_>>()
    };
    world.host.cgroups.lock().unwrap().insert("/runtime".to_owned(), used);
    assert_eq!(devices().await, ["/dev/sda", "8:16", "8:32"]);
    world.host.replies.lock().unwrap().insert("machine", machine(1, &[("8:0", "sda"), ("8:16", "sdb"), ("8:32", "sdc")]));
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(devices().await, ["/dev/sda", "/dev/sdb", "/dev/sdc"]);
}

// API-122, API-143: container/common/helpers.go, getSpecInternal: no cgroup is older than the machine is up, to the minute.
#[tokio::test(start_paused = true)]
async fn cgroup_of_a_wrong_clock_is_as_old_as_the_machine() {
    let world = measured().await;
    // 06:23:16 of the day; the clock was that of 1970 when the system's services were started.
    let made = Some("1970-01-01T00:00:07Z".parse().unwrap());
    world.host.cgroups.lock().unwrap().insert("/runtime".to_owned(), CgroupUsage { made, ..CgroupUsage::default() });
    let text = world.get("/metrics/cadvisor").await.body;
    let line =
        "container_start_time_seconds{container=\"\",id=\"/runtime\",image=\"\",name=\"\",namespace=\"\",pod=\"\"} 1.79541498e+09";
    assert!(text.lines().any(|found| found == line), "{text}");
    let summary = world.get("/stats/summary").await.json();
    assert_eq!(summary["node"]["systemContainers"][0]["startTime"], "2026-11-23T06:23:00Z");
    assert_eq!(summary["node"]["startTime"], "2026-11-23T06:23:16Z");
    // One that is younger is told as it is.
    assert!(text.contains("name=\"c1\",namespace=\"default\",pod=\"gold-running\"} 1.795422623e+09"), "{text}");
}

// cost-questions (API-121, API-141, API-143): a scrape asks the core as much about fifty pods as about one.
#[tokio::test(start_paused = true)]
async fn scrape_asks_the_core_once_for_all_pods() {
    let asked = async |pods: usize| {
        let world = measured().await;
        let mut cgroups = Vec::new();
        for number in 0..pods {
            let uid = world.run_pod(&format!("p{number}"));
            world.host.cgroups.lock().unwrap().insert(format!("/kubepods/{uid}"), CgroupUsage::default());
            let cgroup = format!("/kubepods/{uid}");
            cgroups.push((uid, cgroup));
        }
        world.host.replies.lock().unwrap().insert("cgroups", HostReply::PodCgroups(cgroups.into_iter().collect()));
        let mut questions = Vec::new();
        for path in ["/metrics", "/metrics/cadvisor", "/metrics/resource", "/metrics/probes", "/stats/summary"] {
            world.view.questions.store(0, Ordering::Relaxed);
            let answer = world.get(path).await;
            assert!(answer.status == 200 && (pods < 2 || path != "/metrics/cadvisor" || answer.body.contains("p49")), "{path}");
            questions.push((path, world.view.questions.load(Ordering::Relaxed)));
        }
        questions
    };
    let of_one = asked(1).await;
    assert!(of_one.iter().all(|(_, questions)| (1..8).contains(questions)), "{of_one:?}");
    assert_eq!(asked(50).await, of_one);
}

// cost-pressure (API-141, API-143): pkg/kubelet/metrics/collectors/resource_metrics.go tells none.
#[tokio::test(start_paused = true)]
async fn pressure_is_read_only_for_those_who_are_told_it() {
    let world = measured().await;
    for (path, told) in [("/metrics/resource", false), ("/metrics/cadvisor", true), ("/stats/summary", true)] {
        world.host.measured.lock().unwrap().clear();
        assert_eq!(world.get(path).await.status, 200);
        let measured = world.host.measured.lock().unwrap().clone();
        assert!(measured[&told] > 3 && measured.len() == 1, "{path}: {measured:?}");
    }
}

// API-125, API-146: who scrapes `/metrics` wants to know what volumes hold, and has not each pod's cgroup read every ten seconds for that.
#[tokio::test(start_paused = true)]
async fn scrape_of_metrics_measures_no_rates() {
    let world = measured().await;
    let (collector, view, shutdown) = (world.shared.stats.clone(), world.view.clone(), world.shutdown.clone());
    tokio::spawn(async move { collector.run(view.as_ref(), shutdown).await });
    for _ in 0..4 {
        assert_eq!(world.get("/metrics").await.status, 200);
        tokio::time::sleep(Duration::from_secs(15)).await;
    }
    let first = world.get("/stats/summary").await.json();
    assert!(first["node"]["cpu"]["usageCoreNanoSeconds"].is_u64() && first["node"]["cpu"]["usageNanoCores"].is_null(), "{first}");
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert!(world.get("/stats/summary").await.json()["node"]["cpu"]["usageNanoCores"].is_u64());
}

// API-129: an answer about a node of hundreds of pods does not read all of their cgroups at one moment.
#[tokio::test(start_paused = true)]
async fn few_pods_are_measured_at_once() {
    let world = measured().await;
    let Some(CriReply::Listing { began, mut listing }) = world.runtime.answers.lock().unwrap().listing.clone() else {
        panic!("none")
    };
    let mut groups = BTreeMap::new();
    for number in 0..100 {
        let pod = PodUid::new(format!("pod-{number}"));
        let (mut sandbox, mut container) = (listing.sandboxes[0].clone(), listing.containers[1].clone());
        (sandbox.pod, container.pod) = (pod.clone(), pod.clone());
        listing.sandboxes.push(sandbox);
        listing.containers.push(container);
        groups.insert(pod, format!("/kubepods/pod-{number}"));
    }
    world.runtime.answers.lock().unwrap().listing = Some(CriReply::Listing { began, listing });
    world.host.replies.lock().unwrap().insert("cgroups", HostReply::PodCgroups(groups));
    let pods = world.ask("POST", "/stats/summary?only_cpu_and_memory=true", ADMIN).await.json()["pods"].as_array().map(Vec::len);
    let (now, most) = *world.host.measuring.lock().unwrap();
    // The node's own beside those of the pods.
    assert!(pods == Some(101) && now == 0 && (16..=16 + 4).contains(&most), "{pods:?} {most}");
}
