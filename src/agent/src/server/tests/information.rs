//! Paths, pods, health, metrics and usage.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kubelet::event::{CriReply, HostReply, VolumeDirectory};
use kubelet::observation::{FsUsage, ListedContainer, ListedSandbox, Listing, MachineInfo};
use proto::cri;

use super::*;
use crate::env::{CgroupUsage, CpuSettings, DiskUsage, MemorySettings, Pressure, Stall};

#[tokio::test(start_paused = true)]
async fn unknown_paths_are_not_found_and_odd_ones_redirected_before_authentication() {
    // API-007, API-009
    let world = World::new().start().await;
    for path in ["/", "/nosuch", "/healthz/nosuch", "/metrics/", "/podsecret", "/%70ods", "/configz/x"] {
        let answer = world.ask("GET", path, "nobodys").await;
        assert_eq!((answer.status, answer.body.as_str()), (404, "404 page not found\n"), "{path}");
    }
    let redirects = [
        ("/stats?a=b", "/stats/?a=b"),
        ("/runningpods", "/runningpods/"),
        ("/logs", "/logs/"),
        ("//pods", "/pods"),
        // S31; net/http's ServeMux: `url.URL{Path: ...}.String()`.
        ("//\\evil.com", "/%5Cevil.com"),
        ("/pods/../exec/a/b/c", "/exec/a/b/c"),
    ];
    for (path, location) in redirects {
        let answer = world.ask("GET", path, "nobodys").await;
        assert_eq!((answer.status, answer.header("location")), (307, location), "{path}");
        assert_eq!(answer.body, format!("<a href=\"{location}\">Temporary Redirect</a>.\n\n"));
    }
    assert_eq!(*world.api.token_reviews.lock().unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn number_of_headers_is_no_hindrance() {
    // API-005, S29: Go bounds their bytes (1 MiB), not how many there are.
    let world = World::new().start().await;
    let mut request = Request::builder().uri("/healthz").header("Host", "n1").header("Authorization", format!("Bearer {ADMIN}"));
    for number in 0..1000 {
        request = request.header(format!("x-{number}"), "a");
    }
    assert_eq!(world.request(MAIN, request.body(Body::empty()).unwrap()).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn below_a_known_root_paths_and_methods_are_judged_after_authentication() {
    // API-007, API-008
    let world = World::new().start().await;
    for path in ["/pods/x", "/stats/", "/exec", "/exec/a", "/containerLogs/a/b/c/d"] {
        let answer = world.get(path).await;
        assert_eq!((answer.status, answer.body.as_str()), (404, "404: Page Not Found"), "{path}");
    }
    for (method, path, allow) in
        [("DELETE", "/pods", "GET"), ("DELETE", "/stats/summary", "GET, POST"), ("GET", "/run/a/b/c", "POST")]
    {
        let answer = world.ask(method, path, ADMIN).await;
        assert_eq!((answer.status, answer.body.as_str()), (405, "405: Method Not Allowed"));
        assert_eq!(answer.header("allow"), allow, "{method} {path}");
    }
    let head = world.ask("HEAD", "/pods", ADMIN).await;
    assert_eq!((head.status, head.header("allow")), (405, "GET"));
    for method in ["GET", "POST", "DELETE", "HEAD"] {
        assert_eq!(world.ask(method, "/healthz/ping", ADMIN).await.status, 200, "{method}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_debugging_handlers_their_paths_say_so() {
    // API-011
    let mut settings = settings();
    settings.listeners.debugging_handlers = false;
    let world = World::with(settings).start().await;
    for path in [
        "/run/a/b/c",
        "/exec/a/b/c",
        "/attach/a/b/c",
        "/portForward/a/b",
        "/containerLogs/a/b/c",
        "/runningpods/",
        "/logs/",
        "/debug/pprof/",
    ] {
        let answer = world.get(path).await;
        assert_eq!((answer.status, answer.body.as_str()), (405, "Debug endpoints are disabled.\n"), "{path}");
    }
    for path in ["/configz", "/statusz", "/flagz", "/debug/flags/v"] {
        let answer = world.get(path).await;
        assert_eq!((answer.status, answer.body.as_str()), (404, "404 page not found\n"), "{path}");
    }
    assert_eq!(world.get("/pods").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn the_open_listeners_serve_little_and_nothing_that_acts() {
    // API-003, API-012, INV-03
    let world = World::new();
    world.run_pod("p");
    let (read_only, healthz) = ("10.0.0.1:10255", "127.0.0.1:10248");
    world.serve(read_only, Gate::read_only(world.shared.clone()), None).await;
    world.serve(healthz, Gate::healthz(world.shared.clone()), None).await;
    *world.view.stuck.lock().unwrap() = true;
    let ask = async |address: &str, path: &str| {
        let request = Request::builder().uri(path).header("Host", "n1").body(Body::empty()).unwrap();
        world.request(address, request).await
    };
    for (path, status) in
        [("/pods", 200), ("/metrics", 200), ("/healthz", 500), ("/exec/default/p/c?output=1", 405), ("/configz", 404)]
    {
        assert_eq!(ask(read_only, path).await.status, status, "{path}");
    }
    // Whether the loop turns is not this listener's matter: a restart of the process would not help a slow runtime.
    for (path, status) in [("/healthz", 200), ("/healthz/ping", 200), ("/healthz/syncloop", 404), ("/pods", 404), ("/metrics", 404)]
    {
        assert_eq!(ask(healthz, path).await.status, status, "{path}");
    }
    // pkg/kubelet/server/server.go, InstallDebuggingDisabledHandlers; what is not among these is not there at all.
    for path in [
        "/run/x",
        "/exec/x",
        "/attach/x",
        "/portForward/x",
        "/containerLogs/x",
        "/runningpods/",
        "/debug/pprof/",
        "/logs/",
        "/logs/x",
    ] {
        let answer = ask(read_only, path).await;
        assert_eq!((answer.status, answer.body.as_str()), (405, "Debug endpoints are disabled.\n"), "{path}");
    }
    for path in Gate::paths(&world.shared, Listener::ReadOnly) {
        let tells = ["/healthz", "/pods", "/stats/", "/metrics"].iter().any(|root| path.starts_with(root));
        assert!(tells || ask(read_only, &path.replace("{*rest}", "x")).await.status == 405, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn health_fails_when_the_sync_loop_is_stuck() {
    // API-062, API-063, API-064, API-145
    let world = World::new().start().await;
    let answer = world.get("/healthz").await;
    assert_eq!((answer.status, answer.body.as_str(), answer.header("x-content-type-options")), (200, "ok", "nosniff"));
    *world.view.stuck.lock().unwrap() = true;
    let answer = world.get("/healthz").await;
    assert_eq!((answer.status, answer.body.lines().last()), (500, Some("healthz check failed")));
    let answer = world.get("/healthz/syncloop").await;
    assert_eq!((answer.status, answer.body.as_str()), (500, "internal server error: sync Loop took longer than expected\n"));
    assert_eq!(world.get("/healthz/ping").await.status, 200);
    let slis = world.get("/metrics/slis").await.body;
    assert!(slis.contains("kubernetes_healthcheck{name=\"syncloop\",type=\"healthz\"} 0\n"), "{slis}");
    assert!(slis.contains("process_start_time_seconds "));
}

#[tokio::test(start_paused = true)]
async fn pods_are_listed_as_a_kubelet_lists_them() {
    // API-060
    let world = World::new().start().await;
    let empty = r#"{"kind":"PodList","apiVersion":"v1","metadata":{},"items":null}"#;
    assert_eq!(world.get("/pods").await.body, empty);
    let golden: Value = serde_json::from_str(include_str!("../../../testdata/server/pods-endpoint.json")).unwrap();
    for item in golden["items"].as_array().unwrap() {
        let mut item = item.clone();
        (item["apiVersion"], item["kind"]) = ("v1".into(), "Pod".into());
        world.view.pods.lock().unwrap().push(Arc::new(serde_json::from_value(item).unwrap()));
    }
    for path in ["/pods", "/pods/"] {
        let answer = world.get(path).await;
        assert_eq!(answer.header("content-type"), "application/json");
        assert_eq!(answer.json(), without_nulls(golden.clone()));
    }
}

/// Go writes times that are not set as null, where leaving them out says the same.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            fields.into_iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key, without_nulls(value))).collect()
        }
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        value => value,
    }
}

fn listing() -> CriReply {
    let container = |id: &str, pod: &str, attempt, state| ListedContainer {
        id: ContainerId::new(id),
        pod: PodUid::new(pod),
        sandbox: SandboxId::new("s"),
        name: "main".to_owned(),
        attempt,
        state,
        created_at: nanoseconds("2026-11-23T08:30:23Z"),
    };
    let sandbox = |id: &str, pod: &str, name: &str, state| ListedSandbox {
        id: SandboxId::new(id),
        pod: PodUid::new(pod),
        namespace: "default".to_owned(),
        name: name.to_owned(),
        attempt: 0,
        state,
        created_at: nanoseconds("2026-11-23T08:30:22Z"),
    };
    let listing = Listing {
        sandboxes: vec![
            sandbox("s1", GOLD, "gold-running", SandboxState::Ready),
            sandbox("s2", "over", "over", SandboxState::NotReady),
        ],
        containers: vec![
            container("dead", GOLD, 0, ContainerState::Exited),
            container("live", GOLD, 1, ContainerState::Running),
            container("over", "over", 0, ContainerState::Exited),
        ],
    };
    CriReply::Listing { began: Mono::from_start(Duration::ZERO), listing }
}

#[tokio::test(start_paused = true)]
async fn running_pods_are_those_that_the_runtime_runs() {
    // API-061
    // Upstream: runtime.go (ToAPIPod), helpers.go (toKubeContainer): the image that the container was made from, which is given by its ID.
    let world = World::new().start().await;
    assert_eq!(world.get("/runningpods/").await.status, 500);
    world.runtime.answers.lock().unwrap().listing = Some(listing());
    let uid = PodUid::new(GOLD);
    world.observe(&uid, observation(&uid, "gold-running", ContainerState::Running));
    let items = world.get("/runningpods/").await.json()["items"].clone();
    let expected = json!([{
        "metadata": { "name": "gold-running", "namespace": "default", "uid": GOLD },
        "spec": { "containers": [{ "name": "c", "image": "sha256:i", "resources": {} }] },
        "status": {},
    }]);
    assert_eq!(items, expected);
}

#[tokio::test(start_paused = true)]
async fn the_configuration_in_force_is_told() {
    // API-066: the runtime's word about its cgroup driver is in it (cmd/kubelet/app/server.go:765-770).
    let world = World::new().start().await;
    let answer = world.get("/configz").await;
    assert_eq!(answer.body, r#"{"kubeletconfig":{"cgroupDriver":"systemd","kind":"KubeletConfiguration"}}"#);
    assert_eq!((answer.header("content-type"), answer.header("x-content-type-options")), ("application/json", "nosniff"));
}

#[tokio::test(start_paused = true)]
async fn the_agent_counts_its_own_requests() {
    // API-014, API-148
    let world = World::new().start().await;
    world.api.tokens.lock().unwrap().insert("t".to_owned(), UserInfo { name: "eve".to_owned(), ..UserInfo::default() });
    world.ask("POST", "/exec/a/b/c", "t").await;
    world.host.write("/proc/self/status", "VmRSS:\t    12 kB\n");
    let answer = world.get("/metrics").await;
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8; escaping=underscores");
    assert_eq!(answer.header("process-start-time-unix"), "1795422705");
    for line in [
        "kubelet_http_requests_total{long_running=\"true\",method=\"POST\",path=\"exec\",server_type=\"readwrite\"} 1",
        "kubelet_http_inflight_requests{long_running=\"false\",method=\"GET\",path=\"metrics\",server_type=\"readwrite\"} 1",
        "keelson_api_forbidden_requests_total{path=\"exec\"} 1",
        "kubelet_node_name{node=\"n1\"} 1",
        "process_resident_memory_bytes 12288",
    ] {
        assert!(answer.body.lines().any(|found| found == line), "{line}\n{}", answer.body);
    }
    // cmd/kubelet/app/server.go:946: a mux of its own, without metrics.
    let healthz = "127.0.0.1:10248";
    world.serve(healthz, Gate::healthz(world.shared.clone()), None).await;
    let request = Request::builder().uri("/healthz").header("Host", "n1").body(Body::empty()).unwrap();
    assert_eq!(world.request(healthz, request).await.status, 200);
    assert!(!metrics::text_of(&world.shared.metrics).contains("path=\"healthz\""));
}

pub(super) const GOLD: &str = "3160140d-d642-4b75-acb1-34bbe06483fc";

fn nanoseconds(time: &str) -> i64 {
    i64::try_from(time.parse::<jiff::Timestamp>().unwrap().as_nanosecond()).unwrap()
}

pub(super) fn cgroup(
    cpu_nanos: u64,
    memory: u64,
    working_set: u64,
    rss: u64,
    faults: (u64, u64),
    limit: Option<u64>,
) -> CgroupUsage {
    CgroupUsage {
        cpu_nanos,
        memory,
        working_set,
        rss,
        page_faults: faults.0,
        major_page_faults: faults.1,
        memory_limit: limit,
        swap: Some(0),
        ..CgroupUsage::default()
    }
}

fn container_stats(id: &str) -> cri::ContainerStats {
    let timestamp = nanoseconds("2026-11-23T08:31:46Z");
    let value = |value| Some(cri::UInt64Value { value });
    cri::ContainerStats {
        attributes: Some(cri::ContainerAttributes { id: id.to_owned(), ..cri::ContainerAttributes::default() }),
        cpu: Some(cri::CpuUsage {
            timestamp,
            usage_core_nano_seconds: value(316_992_308),
            usage_nano_cores: value(0),
            ..cri::CpuUsage::default()
        }),
        memory: Some(cri::MemoryUsage {
            timestamp,
            working_set_bytes: value(675_840),
            available_bytes: value(32_878_592),
            usage_bytes: value(675_840),
            rss_bytes: value(114_688),
            page_faults: value(12_953),
            major_page_faults: value(3),
            ..cri::MemoryUsage::default()
        }),
        writable_layer: Some(cri::FilesystemUsage {
            timestamp: nanoseconds("2026-11-23T08:31:39Z"),
            used_bytes: value(57_344),
            inodes_used: value(17),
            ..cri::FilesystemUsage::default()
        }),
        swap: Some(cri::SwapUsage { timestamp, swap_available_bytes: value(0), swap_usage_bytes: value(0) }),
        ..cri::ContainerStats::default()
    }
}

/// The disk of the machine where the golden files were made.
pub(super) fn disk(used: u64, inodes_used: u64) -> FsUsage {
    FsUsage {
        mountpoint: "/images".to_owned(),
        capacity: 270_553_174_016,
        available: 71_567_253_504,
        used,
        inodes: 16_777_216,
        inodes_free: 16_254_679,
        inodes_used,
    }
}

pub(super) fn set_cgroups(world: &World, ten_seconds_ago: bool) {
    let cpu = |now: u64, rate: u64| if ten_seconds_ago { now - 10 * rate } else { now };
    let mut cgroups = world.host.cgroups.lock().unwrap();
    let root = cgroup(cpu(4_469_493_962_597, 171_230_479), 1_452_212_224, 1_285_509_120, 1_003_024_384, (196_964, 0), None);
    cgroups.insert("/".to_owned(), root);
    let pods = cgroup(cpu(53_052_905_935, 4_076_997), 5_517_312, 4_726_784, 290_816, (0, 0), Some(25_271_783_424 + 4_726_784));
    cgroups.insert("/kubepods".to_owned(), pods);
    let pod = cgroup(cpu(308_776_626, 3_686_435), 3_174_400, 3_076_096, 155_648, (0, 0), None);
    cgroups.insert("/kubepods/gold".to_owned(), pod);
}

/// The machine where the golden files were made, as far as its numbers come from files and the runtime.
pub(super) fn golden_machine(world: &World) {
    *world.runtime.answers.lock().unwrap() = fakes::Answers {
        listing: Some(listing()),
        image_fs: Some(CriReply::ImageFs(vec![disk(137_347_072, 1286)])),
        stats: vec![container_stats("live"), container_stats("dead")],
        ..fakes::Answers::default()
    };
    let host = &world.host;
    let machine = MachineInfo {
        memory: 23_991_001_088 + 1_285_509_120,
        cores_and_sockets: (2, 1),
        disks: [("8:0".to_owned(), "sda".to_owned())].into(),
        ..MachineInfo::default()
    };
    host.replies.lock().unwrap().insert("machine", HostReply::Machine(Box::new(machine)));
    host.replies
        .lock()
        .unwrap()
        .insert("cgroups", HostReply::PodCgroups([(PodUid::new(GOLD), "/kubepods/gold".to_owned())].into()));
    let mut fs = host.fs.lock().unwrap();
    fs.insert("/var/lib/kubelet".to_owned(), HostReply::Fs(disk(26_005_495_808, 522_537)));
    fs.insert("/images".to_owned(), HostReply::Fs(disk(1, 1)));
    let mut trees = host.trees.lock().unwrap();
    trees.insert(format!("/var/log/pods/default_gold-running_{GOLD}/main"), (4096, 1));
    trees.insert(format!("/var/lib/kubelet/pods/{GOLD}/etc-hosts"), (4096, 1));
    let volumes = [
        ("configmap", "cm", 16_384, 7, 71_567_396_864, 270_553_174_016, 16_254_684, 16_777_216),
        ("projected", "kube-api-access-5fj2n", 12_288, 11, 25_171_640_320, 25_171_652_608, 3_085_500, 3_085_511),
        ("secret", "sec", 4096, 5, 25_171_648_512, 25_171_652_608, 3_085_506, 3_085_511),
        ("empty-dir", "tmp", 0, 1, 8_388_608, 8_388_608, 3_085_510, 3_085_511),
        ("downward-api", "info", 4096, 5, 25_171_648_512, 25_171_652_608, 3_085_506, 3_085_511),
    ];
    let mut directories = Vec::new();
    for (plugin, name, used, inodes_used, available, capacity, inodes_free, inodes) in volumes {
        let path = format!("/var/lib/kubelet/pods/{GOLD}/volumes/kubernetes.io~{plugin}/{name}");
        directories.push(VolumeDirectory { plugin: format!("kubernetes.io~{plugin}"), volume: name.to_owned(), data: None });
        trees.insert(path.clone(), (used, inodes_used));
        fs.insert(path, HostReply::Fs(FsUsage { available, capacity, inodes_free, inodes, ..FsUsage::default() }));
    }
    host.replies.lock().unwrap().insert("volumes", HostReply::Volumes(directories));
    drop((fs, trees));
    host.write("/proc/stat", "cpu 1 2\nbtime 1795414996\n");
    host.write("/proc/loadavg", "0.00 0.01 0.05 2/1099 4242\n");
    host.write("/proc/sys/kernel/pid_max", "32768\n");
    host.write("/proc/sys/kernel/threads-max", "200000\n");
    let nothing = "0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0";
    let table = format!(
        "ifb0: {nothing}\nifb1: {nothing}\neth0: 474946371 0 0 0 0 0 0 0 1068167 0 0 0 0 0 0 0\nlo: {nothing}\nvethx: {nothing}\n"
    );
    host.write("/proc/net/dev", &table);
}

pub(super) fn gold_pod() -> Pod {
    let volumes = json!([
        { "name": "cm", "configMap": { "name": "cm" } },
        { "name": "kube-api-access-5fj2n", "projected": {} },
        { "name": "sec", "secret": {} },
        { "name": "tmp", "emptyDir": { "medium": "Memory" } },
        { "name": "info", "downwardAPI": {} },
    ]);
    let spec = serde_json::from_value(json!({ "containers": [], "volumes": volumes })).unwrap();
    let metadata = ObjectMeta { uid: Some(GOLD.to_owned()), ..ObjectMeta::default() };
    Pod { metadata, spec: Some(spec), status: None }
}

/// Without what differs on purpose (psi, io) and what depends on the moment.
fn comparable(mut summary: Value) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.retain(|key, _| !["psi", "io", "time"].contains(&key.as_str()));
                fields.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    strip(&mut summary);
    // Upstream: when the cgroup was made. Here: when the agent started.
    summary["node"]["systemContainers"][0].as_object_mut().unwrap().remove("startTime");
    summary
}

#[tokio::test(start_paused = true)]
async fn usage_is_told_as_a_kubelet_tells_it() {
    // API-120 to API-128
    let world = World::new().start().await;
    golden_machine(&world);
    world.view.pods.lock().unwrap().push(Arc::new(gold_pod()));
    set_cgroups(&world, true);
    let (collector, view, shutdown) = (world.shared.stats.clone(), world.view.clone(), world.shutdown.clone());
    tokio::spawn(async move { collector.run(view.as_ref(), shutdown).await });
    // Nobody has asked yet: nothing is measured.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let first = world.get("/stats/summary").await.json();
    assert!(first["node"]["cpu"]["usageNanoCores"].is_null(), "{first}");
    tokio::time::sleep(Duration::from_secs(5)).await;
    set_cgroups(&world, false);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let answer = world.get("/stats/summary").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    let golden: Value = serde_json::from_str(include_str!("../../../testdata/server/summary.json")).unwrap();
    assert_eq!(comparable(answer.json()), comparable(golden));
    assert!(answer.body.contains("\"time\": \"2026-11-23T08:33:00Z\""), "{}", answer.body);
}

#[tokio::test(start_paused = true)]
async fn a_containers_cgroup_knows_better_than_the_runtime() {
    // API-122, API-123, API-124, NODE-126, NODE-127, NODE-128
    let world = World::new().start().await;
    golden_machine(&world);
    set_cgroups(&world, false);
    world.host.write("/proc/self/cgroup", "0::/system.slice/keelson.service\n");
    let stall = |total| Stall { avg10: 1.5, total, ..Stall::default() };
    let pressure = Some(Pressure { some: stall(9), full: stall(4) });
    let measured = CgroupUsage {
        swap_limit: Some(10),
        cpu_pressure: pressure,
        memory_pressure: pressure,
        io_pressure: pressure,
        ..cgroup(7, 100, 90, 80, (6, 5), None)
    };
    for of in ["/kubepods/gold/live", "/system.slice/keelson.service"] {
        world.host.cgroups.lock().unwrap().insert(of.to_owned(), measured.clone());
    }
    let summary = world.get("/stats/summary").await.json();
    let container = &summary["pods"][0]["containers"][0];
    assert_eq!((&container["cpu"]["usageCoreNanoSeconds"], &container["cpu"]["usageNanoCores"]), (&json!(7), &json!(0)));
    assert_eq!(container["memory"]["workingSetBytes"], 90);
    assert!(container["memory"]["availableBytes"].is_null(), "there is no limit: {container}");
    assert_eq!((&container["swap"]["swapAvailableBytes"], &container["swap"]["swapUsageBytes"]), (&json!(10), &json!(0)));
    let psi = json!({
        "full": {"total": 4, "avg10": 1.5, "avg60": 0.0, "avg300": 0.0},
        "some": {"total": 9, "avg10": 1.5, "avg60": 0.0, "avg300": 0.0},
    });
    for of in ["cpu", "memory", "io"] {
        assert_eq!(container[of]["psi"], psi, "{of}");
    }
    let kubelet = &summary["node"]["systemContainers"][0];
    assert_eq!((&kubelet["name"], &kubelet["memory"]["usageBytes"], &kubelet["io"]["psi"]), (&json!("kubelet"), &json!(100), &psi));
    let less = world.get("/stats/summary?only_cpu_and_memory=true").await.json();
    assert!(less["pods"][0]["containers"][0]["io"].is_null(), "{less}");
    let metrics = world.get("/metrics/resource").await.body;
    let limit = "container_swap_limit_bytes{container=\"main\",namespace=\"default\",pod=\"gold-running\"} 10 ";
    assert!(metrics.contains(limit), "{metrics}");
}

// N1: GetCachedMachineInfo of upstream's pkg/kubelet/kubelet_getters.go: no scrape reads the machine again.
#[tokio::test(start_paused = true)]
async fn machine_is_read_once_for_all_scrapes() {
    let world = World::new().start().await;
    golden_machine(&world);
    set_cgroups(&world, false);
    let uid = PodUid::new(GOLD);
    world.observe(&uid, observation(&uid, "gold-running", ContainerState::Running));
    assert!(!world.get("/metrics/resource").await.body.contains("resource_scrape_error 1"));
    world.host.replies.lock().unwrap().remove("machine");
    for path in ["/metrics/resource", "/metrics/cadvisor", "/stats/summary"] {
        let answer = world.get(path).await;
        assert!(answer.status == 200 && answer.body.contains("gold-running"), "{path}: {}", answer.body);
    }
}

// S30: whoever asks, and however often: each walk costs the disk as much as the tree has files.
#[tokio::test(start_paused = true)]
async fn few_trees_are_walked_at_once() {
    let world = World::new().start().await;
    golden_machine(&world);
    set_cgroups(&world, false);
    let answers = futures::future::join_all((0..8).map(|_| world.get("/stats/summary"))).await;
    assert!(answers.iter().all(|answer| answer.body.contains("\"logs\":")), "{}", answers[0].body);
    assert_eq!(*world.host.walks.lock().unwrap(), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn only_cpu_and_memory_is_less() {
    // API-129
    let world = World::new().start().await;
    golden_machine(&world);
    set_cgroups(&world, false);
    let summary = world.ask("POST", "/stats/summary?only_cpu_and_memory=true", ADMIN).await.json();
    let pod = &summary["pods"][0];
    assert_eq!(pod["containers"][0]["memory"]["workingSetBytes"], 675_840);
    for (object, key) in
        [(&summary["node"], "fs"), (&summary["node"], "rlimit"), (pod, "volume"), (&pod["containers"][0], "rootfs")]
    {
        assert!(object[key].is_null(), "{key}");
    }
    let twice = world.get("/stats/summary?only_cpu_and_memory=true&only_cpu_and_memory=true").await.json();
    assert!(!twice["node"]["fs"].is_null());
}

#[tokio::test(start_paused = true)]
async fn a_hung_runtime_fails_usage_but_neither_health_nor_a_scrape() {
    // API-120, API-141, INV-11
    let world = World::new().start().await;
    golden_machine(&world);
    set_cgroups(&world, false);
    *world.runtime.hung.lock().unwrap() = true;
    let (health, summary, metrics) =
        tokio::join!(world.get("/healthz"), world.get("/stats/summary"), world.get("/metrics/resource"));
    assert_eq!(health.status, 200);
    assert_eq!((summary.status, summary.body.as_str()), (500, "Internal Error: context deadline exceeded"));
    assert_eq!(metrics.status, 200);
    assert_eq!(metrics.body.lines().last(), Some("resource_scrape_error 1"));
    assert_eq!(metrics.body.lines().count(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_cgroup_tells_nothing_uses_what_its_containers_use() {
    // API-124
    let world = World::new().start().await;
    golden_machine(&world);
    set_cgroups(&world, false);
    world.host.replies.lock().unwrap().remove("cgroups");
    let pod = world.get("/stats/summary").await.json()["pods"][0].clone();
    assert_eq!(pod["cpu"]["usageCoreNanoSeconds"], 316_992_308);
    assert_eq!(pod["memory"]["workingSetBytes"], 675_840);
    let lines = world.get("/metrics/resource").await.body;
    assert!(lines.contains("pod_memory_working_set_bytes{namespace=\"default\",pod=\"gold-running\"} 675840 "), "{lines}");
}

/// INV-09
pub(super) fn no_series_twice(text: &str) {
    let mut series: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once("} "))
        .map(|(series, _)| series)
        .collect();
    let all = series.len();
    series.sort_unstable();
    series.dedup();
    assert_eq!(series.len(), all);
}

/// A container, its sandbox, a tier with a quota, and the runtime's own.
pub(super) fn set_more_cgroups(world: &World) {
    let table = "h\nh\n  eth0: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n    lo: 9 9 9 9 0 0 0 0 9 9 9 9 0 0 0 0\n";
    world.host.write("/proc/42/net/dev", table);
    let stall = Pressure { some: Stall { total: 2_500_000, ..Stall::default() }, full: Stall::default() };
    let measured = CgroupUsage {
        processes: Some(1),
        threads: Some(201),
        system_nanos: Some(1_500_000_000),
        cfs: Some((9, 3, 1_000_000_000)),
        cache: Some(4096),
        oom_kills: Some(1),
        major_page_faults: 3,
        cpu_pressure: Some(stall),
        made: Some("2026-11-23T08:30:23Z".parse().unwrap()),
        cpu_settings: Some(CpuSettings { shares: 102, quota: None, period: 100_000 }),
        memory_settings: Some(MemorySettings { limit: 64, ..MemorySettings::default() }),
        disks: vec![DiskUsage { device: (8, 0), read: (4096, 2), written: (0, 0) }],
        ..CgroupUsage::default()
    };
    let mut cgroups = world.host.cgroups.lock().unwrap();
    cgroups.insert("/kubepods/gold/c1".to_owned(), measured);
    cgroups.insert("/kubepods/gold/s1".to_owned(), CgroupUsage { first_process: Some(42), ..CgroupUsage::default() });
    let limited = CpuSettings { shares: 2, quota: Some(10_000), period: 100_000 };
    cgroups.insert("/kubepods/besteffort".to_owned(), CgroupUsage { cpu_settings: Some(limited), ..CgroupUsage::default() });
    cgroups.insert("/runtime".to_owned(), CgroupUsage::default());
}

// API-122, API-124: summary_sys_containers.go and addPodNetworkStats; a look at CPU and memory alone has no network (API-129).
#[tokio::test(start_paused = true)]
async fn summary_has_the_networks_of_pods_and_the_runtimes_own_usage() {
    let world = World::new().start().await;
    golden_machine(&world);
    set_cgroups(&world, false);
    set_more_cgroups(&world);
    let running = CgroupUsage { first_process: Some(42), processes: Some(1), ..CgroupUsage::default() };
    world.host.cgroups.lock().unwrap().insert("/kubepods/gold/live".to_owned(), running);
    let summary = world.get("/stats/summary").await.json();
    let network = &summary["pods"][0]["network"];
    assert_eq!((&network["name"], &network["rxBytes"], &network["txErrors"]), (&json!("eth0"), &json!(1), &json!(7)));
    assert_eq!(network["interfaces"].as_array().unwrap().len(), 1);
    let names: Vec<&Value> = summary["node"]["systemContainers"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert!(names.contains(&&json!("runtime")) && !names.contains(&&json!("misc")), "{names:?}");
    let less = world.get("/stats/summary?only_cpu_and_memory=true").await.json();
    assert!(less["pods"][0]["network"].is_null());
}

// API-143, API-142: labels, help, kinds and which cgroups as upstream's prometheus.go, handlers of containerd and of CRI-O, and
// `getSpecInternal` have them; without a word of the runtime, for cAdvisor asks it for none.
#[tokio::test(start_paused = true)]
async fn usage_by_cgroup_has_the_names_that_dashboards_ask_for() {
    let world = World::new().start().await;
    golden_machine(&world);
    set_cgroups(&world, false);
    let uid = PodUid::new(GOLD);
    world.observe(&uid, observation(&uid, "gold-running", ContainerState::Running));
    set_more_cgroups(&world);
    *world.runtime.hung.lock().unwrap() = true;
    let text = world.get("/metrics/cadvisor").await.body;
    let container = "id=\"/kubepods/gold/c1\",image=\"i\"";
    let named = format!("{container},name=\"c1\",namespace=\"default\",pod=\"gold-running\"");
    let sandbox = "id=\"/kubepods/gold/s1\",image=\"\"";
    for line in [
        format!("container_processes{{container=\"c\",{named}}} 1 1795422707000"),
        format!("container_threads{{container=\"c\",{named}}} 201 1795422707000"),
        format!("container_cpu_system_seconds_total{{container=\"c\",{named}}} 1.5 1795422707000"),
        format!("container_memory_cache{{container=\"c\",{named}}} 4096 1795422707000"),
        // What it has none of is 0, as upstream writes it.
        format!("container_memory_swap{{container=\"c\",{named}}} 0 1795422707000"),
        format!("container_oom_events_total{{container=\"c\",{named}}} 1 1795422707000"),
        format!("container_pressure_cpu_waiting_seconds_total{{container=\"c\",{named}}} 2.5 1795422707000"),
        format!("container_start_time_seconds{{container=\"c\",{named}}} 1.795422623e+09"),
        format!("container_spec_cpu_shares{{container=\"c\",{named}}} 102"),
        format!("container_spec_memory_limit_bytes{{container=\"c\",{named}}} 64"),
        format!("container_spec_memory_reservation_limit_bytes{{container=\"c\",{named}}} 0"),
        format!(
            "container_fs_reads_bytes_total{{container=\"c\",device=\"/dev/sda\",{named}}} 4096 1795422707000"
        ),
        format!(
            "container_network_receive_packets_dropped_total{{container=\"\",{sandbox},interface=\"eth0\",name=\"s1\",namespace=\"default\",pod=\"gold-running\"}} 4 1795422707000"
        ),
        format!(
            "container_network_transmit_bytes_total{{container=\"\",{sandbox},interface=\"eth0\",name=\"s1\",namespace=\"default\",pod=\"gold-running\"}} 5 1795422707000"
        ),
        "container_cpu_usage_seconds_total{container=\"\",cpu=\"total\",id=\"/\",image=\"\",name=\"\",namespace=\"\",pod=\"\"} 4469.493962597 1795422707000".to_owned(),
        "container_memory_working_set_bytes{container=\"\",id=\"/kubepods/gold\",image=\"\",name=\"\",namespace=\"default\",pod=\"gold-running\"} 3.076096e+06 1795422707000".to_owned(),
        "container_cpu_cfs_burst_periods_total{container=\"\",id=\"/kubepods/besteffort\",image=\"\",name=\"\",namespace=\"\",pod=\"\"} 0 1795422707000".to_owned(),
        "container_threads{container=\"\",id=\"/runtime\",image=\"\",name=\"\",namespace=\"\",pod=\"\"} 0 1795422707000".to_owned(),
        format!("container_memory_failures_total{{container=\"c\",failure_type=\"pgmajfault\",{named},scope=\"hierarchy\"}} 3 1795422707000"),
        "container_scrape_error 0".to_owned(),
        "machine_cpu_physical_cores{boot_id=\"\",machine_id=\"\",system_uuid=\"\"} 2".to_owned(),
        "machine_cpu_sockets{boot_id=\"\",machine_id=\"\",system_uuid=\"\"} 1".to_owned(),
        "cadvisor_version_info{cadvisorRevision=\"\",cadvisorVersion=\"\",dockerVersion=\"\",kernelVersion=\"\",osVersion=\"\"} 1".to_owned(),
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert_eq!(text.matches("container_cpu_cfs_periods_total{").count(), 1, "one has a quota");
    assert_eq!(text.matches("container_network_receive_bytes_total{").count(), 1 + 3, "the sandbox and the node");
    no_series_twice(&text);
    world.host.replies.lock().unwrap().remove("cgroups");
    let text = world.get("/metrics/cadvisor").await.body;
    assert!(text.lines().any(|line| line == "container_scrape_error 1"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_cannot_be_had_is_an_error() {
    // API-004
    let world = World::new().start().await;
    let (net, gate) = (Arc::new(world.net.clone()), Gate::main(Arc::clone(&world.shared), world.guard(None)));
    let ended = serve(net, MAIN.parse().unwrap(), gate, None, world.shutdown.clone()).await;
    let expected = format!("Failed to listen and serve: listen tcp {MAIN}: bind: address already in use");
    assert_eq!(ended.unwrap_err().to_string(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_asks_nothing_is_closed() {
    // API-005
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let world = World::new().start().await;
    // S22: before its first request soon, later as upstream.
    let asked = "GET /healthz HTTP/1.1\r\nHost: n1\r\n\r\n";
    for (said, seconds) in [("", 10), ("GET /healthz HTTP/1.1\r\nHo", 10), (asked, 90)] {
        let mut stream = world.connect(MAIN).await;
        stream.write_all(said.as_bytes()).await.unwrap();
        let started = tokio::time::Instant::now();
        let mut rest = Vec::new();
        // What it says before it closes is no matter.
        let _ = stream.read_to_end(&mut rest).await;
        assert_eq!(started.elapsed().as_secs(), seconds, "{said}");
    }
}

// API-140: how stable each family is comes before what it is.
#[tokio::test(start_paused = true)]
async fn metrics_say_how_stable_they_are() {
    let world = World::new().start().await;
    world.run_pod("p");
    for path in ["/metrics", "/metrics/resource", "/metrics/probes", "/metrics/slis"] {
        let answer = world.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        for help in answer.body.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
            let (name, text) = help.split_once(' ').unwrap();
            let stable = ["[STABLE] ", "[BETA] ", "[ALPHA] ", "[INTERNAL] "].iter().any(|level| text.starts_with(level));
            // The libraries' own have none; the smaller paths tell the start of the process by themselves.
            let started = name == "process_start_time_seconds" && path != "/metrics";
            let of_a_library = (name.starts_with("process_") && !started) || name.starts_with("go_");
            assert!(stable != of_a_library, "{path}: {help}");
        }
    }
}
