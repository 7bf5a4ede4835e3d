//! Counts what the executor does: operations of the runtime, relists, requests to the API server, work on volumes and cgroups.
//! Upstream: pkg/kubelet/kuberuntime/instrumented_services.go, pkg/kubelet/pleg/generic.go, pkg/volume/util/metrics.go,
//! pkg/kubelet/cm/cgroup_manager_linux.go, k8s.io/component-base/metrics/prometheus/restclient.
//! Differs: a look at one pod counts as one operation on sandboxes and one on containers; requests have no label `host`, and of those
//! that got no answer the code is `<error>`; watches are not counted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use kubelet::action::{ApiCall, Call, CriCall, HostCall, VolumeSetup};
use kubelet::csi::{CsiCall, CsiReply};
use kubelet::event::Event;
use kubelet::failure::{Failure, FailureKind};
use tokio::time::Instant;

use crate::env::Clock;
use crate::server::metrics::{DEFAULT_BUCKETS, Measure, Metric, Registry};

const fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric { name, help, measure: Measure::Counter }
}

const fn seconds(name: &'static str, help: &'static str) -> Metric {
    Metric { name, help, measure: Measure::Histogram(DEFAULT_BUCKETS) }
}

static OPERATIONS: Metric =
    counter("kubelet_runtime_operations_total", "[ALPHA] Cumulative number of runtime operations by operation type.");
static OPERATION_ERRORS: Metric =
    counter("kubelet_runtime_operations_errors_total", "[ALPHA] Cumulative number of runtime operation errors by operation type.");
static OPERATION_SECONDS: Metric = Metric {
    name: "kubelet_runtime_operations_duration_seconds",
    help: "[ALPHA] Duration in seconds of runtime operations. Broken down by operation type.",
    // ExponentialBuckets(.005, 2.5, 14)
    measure: Measure::Histogram(&[
        0.005,
        0.0125,
        0.03125,
        0.078_125,
        0.195_312_5,
        0.488_281_25,
        1.220_703_125,
        3.051_757_812_5,
        7.629_394_531_25,
        19.073_486_328_125,
        47.683_715_820_312_5,
        119.209_289_550_781_25,
        298.023_223_876_953_1,
        745.058_059_692_382_8,
    ]),
};
static RELIST_SECONDS: Metric =
    seconds("kubelet_pleg_relist_duration_seconds", "[ALPHA] Duration in seconds for relisting pods in PLEG.");
static RELIST_INTERVAL: Metric =
    seconds("kubelet_pleg_relist_interval_seconds", "[ALPHA] Interval in seconds between relisting in PLEG.");
static LAST_SEEN: Metric = Metric {
    name: "kubelet_pleg_last_seen_seconds",
    help: "[ALPHA] Timestamp in seconds when PLEG was last seen active.",
    measure: Measure::Gauge,
};
static STARTED_PODS: Metric = counter("kubelet_started_pods_total", "[ALPHA] Cumulative number of pods started");
static STARTED_PODS_ERRORS: Metric =
    counter("kubelet_started_pods_errors_total", "[ALPHA] Cumulative number of errors when starting pods");
static SANDBOX_SECONDS: Metric = seconds(
    "kubelet_run_podsandbox_duration_seconds",
    "[ALPHA] Duration in seconds of the run_podsandbox operations. Broken down by RuntimeClass.Handler.",
);
static SANDBOX_ERRORS: Metric = counter(
    "kubelet_run_podsandbox_errors_total",
    "[ALPHA] Cumulative number of the run_podsandbox operation errors by RuntimeClass.Handler.",
);
static CGROUP_SECONDS: Metric = seconds(
    "kubelet_cgroup_manager_duration_seconds",
    "[ALPHA] Duration in seconds for cgroup manager operations. Broken down by method.",
);
static STORAGE_SECONDS: Metric = Metric {
    name: "storage_operation_duration_seconds",
    help: "[ALPHA] Storage operation duration",
    measure: Measure::Histogram(STORAGE_BUCKETS),
};
static CSI_SECONDS: Metric = Metric {
    name: "csi_operations_seconds",
    help: "[ALPHA] Container Storage Interface operation duration with gRPC error code status total",
    measure: Measure::Histogram(STORAGE_BUCKETS),
};
const STORAGE_BUCKETS: &[f64] = &[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 25.0, 50.0, 120.0, 300.0, 600.0];

/// Drivers whose names are kept: more than any node has.
const DRIVERS: usize = 256;
static REQUESTS: Metric =
    counter("rest_client_requests_total", "[ALPHA] Number of HTTP requests, partitioned by status code, method, and host.");
static REQUEST_SECONDS: Metric = Metric {
    name: "rest_client_request_duration_seconds",
    help: "[ALPHA] Request latency in seconds. Broken down by verb, and host.",
    measure: Measure::Histogram(&[0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0]),
};

/// Where calls are counted.
#[derive(Clone)]
pub(crate) struct CallMetrics {
    registry: Arc<Registry>,
    clock: Arc<dyn Clock>,
    relisted: Arc<Mutex<Option<Instant>>>,
    /// What the drivers behind sockets have called themselves.
    drivers: Arc<Mutex<BTreeMap<String, String>>>,
}

/// What a call counts as.
enum Kind {
    Runtime { operations: &'static [&'static str], sandbox: Option<String>, relists: bool },
    Api { verb: &'static str },
    Cgroup(&'static str),
    Storage { plugin: String, operation: &'static str },
    Csi { endpoint: String, method: &'static str, operation: Option<&'static str> },
    Registration { socket: String },
}

/// One call that is under way. Its time begins when it has a place in its lane.
pub(crate) struct Counting {
    metrics: CallMetrics,
    kind: Kind,
    began: Arc<OnceLock<Instant>>,
}

impl CallMetrics {
    pub(crate) fn new(registry: Arc<Registry>, clock: Arc<dyn Clock>) -> Self {
        for metric in [&STARTED_PODS, &STARTED_PODS_ERRORS] {
            registry.add(metric, &[], 0.0);
        }
        Self { registry, clock, relisted: Arc::default(), drivers: Arc::default() }
    }

    pub(crate) fn counting(&self, call: &Call) -> Option<Counting> {
        Some(Counting { metrics: self.clone(), kind: kind(call)?, began: Arc::default() })
    }

    fn learn(&self, endpoint: &str, name: &str) {
        let mut drivers = self.drivers.lock().unwrap_or_else(PoisonError::into_inner);
        if drivers.len() < DRIVERS {
            drivers.insert(path_of(endpoint).to_owned(), name.to_owned());
        }
    }

    fn driver(&self, endpoint: &str) -> String {
        self.drivers.lock().unwrap_or_else(PoisonError::into_inner).get(path_of(endpoint)).cloned().unwrap_or_default()
    }

    fn relist_begins(&self, now: Instant) {
        let before = self.relisted.lock().unwrap_or_else(PoisonError::into_inner).replace(now);
        if let Some(before) = before {
            self.registry.observe(&RELIST_INTERVAL, &[], now.duration_since(before).as_secs_f64());
        }
    }
}

impl Counting {
    /// Makes the call, and notes when it began.
    pub(crate) fn around<T>(counting: Option<&Self>, call: impl Future<Output = T>) -> impl Future<Output = T> {
        let noted = counting.map(|counting| {
            let relists = matches!(counting.kind, Kind::Runtime { relists: true, .. }).then(|| counting.metrics.clone());
            (Arc::clone(&counting.began), relists)
        });
        async move {
            if let Some((began, relists)) = noted {
                let now = Instant::now();
                // A call is made once.
                let _ = began.set(now);
                if let Some(metrics) = relists {
                    metrics.relist_begins(now);
                }
            }
            call.await
        }
    }

    /// The call ended; one that never had a place counts for nothing.
    pub(crate) fn end(self, event: &Event) {
        let Some(took) = self.began.get().map(Instant::elapsed) else { return };
        let registry = &self.metrics.registry;
        match self.kind {
            Kind::Runtime { operations, sandbox, relists } => {
                let Event::CriDone { outcome, .. } = event else { return };
                of_runtime(registry, operations, took, outcome.as_ref().err());
                if let Some(handler) = sandbox {
                    of_sandbox(registry, &handler, took, outcome.is_err());
                }
                if relists {
                    registry.observe(&RELIST_SECONDS, &[], took.as_secs_f64());
                    if outcome.is_ok() {
                        registry.set(&LAST_SEEN, &[], unix(self.metrics.clock.now()));
                    }
                }
            }
            Kind::Api { verb } => {
                let Event::ApiDone { outcome, .. } = event else { return };
                let code = code(verb, outcome.as_ref().err());
                registry.add(&REQUESTS, &[("code", &code), ("method", verb)], 1.0);
                registry.observe(&REQUEST_SECONDS, &[("verb", verb)], took.as_secs_f64());
            }
            Kind::Cgroup(operation) => {
                registry.observe(&CGROUP_SECONDS, &[("operation_type", operation)], took.as_secs_f64());
            }
            Kind::Storage { plugin, operation } => {
                let Event::HostDone { outcome, .. } = event else { return };
                of_storage(registry, &plugin, operation, took, outcome.is_err());
            }
            Kind::Csi { endpoint, method, operation } => {
                let Event::CsiDone { outcome, .. } = event else { return };
                let driver = self.metrics.driver(&endpoint);
                let code = outcome.as_ref().map_or_else(grpc_code, |_| "OK");
                let labels =
                    [("driver_name", driver.as_str()), ("grpc_status_code", code), ("method_name", method), ("migrated", "false")];
                registry.observe(&CSI_SECONDS, &labels, took.as_secs_f64());
                if let Some(operation) = operation {
                    // GetFullQualifiedPluginNameForVolume
                    of_storage(registry, &format!("kubernetes.io/csi:{driver}"), operation, took, outcome.is_err());
                }
            }
            Kind::Registration { socket } => {
                if let Event::CsiDone { outcome: Ok(CsiReply::Plugin(plugin)), .. } = event {
                    let endpoint = if plugin.endpoint.is_empty() { &socket } else { &plugin.endpoint };
                    self.metrics.learn(endpoint, &plugin.name);
                }
            }
        }
    }
}

/// `getErrorCode`. What was made, and given up by us, fails at upstream in gRPC.
fn grpc_code(failure: &Failure) -> &str {
    match (&failure.code, failure.kind) {
        (Some(code), _) => code,
        (None, FailureKind::UnknownOutcome) => "DeadlineExceeded",
        (None, FailureKind::Canceled) => "Canceled",
        (None, _) => "unknown-non-grpc",
    }
}

fn of_storage(registry: &Registry, plugin: &str, operation: &str, took: Duration, failed: bool) {
    let status = if failed { "fail-unknown" } else { "success" };
    let labels = [("migrated", "false"), ("operation_name", operation), ("status", status), ("volume_plugin", plugin)];
    registry.observe(&STORAGE_SECONDS, &labels, took.as_secs_f64());
}

/// The path of a socket, however it is written.
fn path_of(endpoint: &str) -> &str {
    endpoint.strip_prefix("unix://").unwrap_or(endpoint)
}

fn of_runtime(registry: &Registry, operations: &[&'static str], took: Duration, failure: Option<&Failure>) {
    for operation in operations {
        let labels = [("operation_type", *operation)];
        registry.add(&OPERATIONS, &labels, 1.0);
        registry.observe(&OPERATION_SECONDS, &labels, took.as_secs_f64());
        if failure.is_some() {
            registry.add(&OPERATION_ERRORS, &labels, 1.0);
        }
    }
}

fn of_sandbox(registry: &Registry, handler: &str, took: Duration, failed: bool) {
    let labels = [("runtime_handler", handler)];
    registry.add(&STARTED_PODS, &[], 1.0);
    registry.observe(&SANDBOX_SECONDS, &labels, took.as_secs_f64());
    if failed {
        registry.add(&STARTED_PODS_ERRORS, &[], 1.0);
        registry.add(&SANDBOX_ERRORS, &labels, 1.0);
    }
}

fn unix(at: Timestamp) -> f64 {
    at.as_second() as f64
}

fn kind(call: &Call) -> Option<Kind> {
    Some(match call {
        Call::Cri(call) => Kind::Runtime {
            operations: operations(call),
            sandbox: if let CriCall::RunPodSandbox { runtime_handler, .. } = call { Some(runtime_handler.clone()) } else { None },
            relists: matches!(call, CriCall::List),
        },
        Call::Api(call) => Kind::Api { verb: verb(call)? },
        Call::Host(call) => match call {
            HostCall::EnsureCgroup { .. } => Kind::Cgroup("create"),
            HostCall::ApplyCgroup { .. } => Kind::Cgroup("update"),
            HostCall::RemoveCgroup { .. } => Kind::Cgroup("destroy"),
            HostCall::SetUpVolume { setup, .. } => storage(plugin(setup), "volume_mount"),
            HostCall::TearDownVolume { plugin, .. } => storage(plugin, "volume_unmount"),
            _ => return None,
        },
        Call::Csi(call) => return csi(call),
        Call::Probe(_) | Call::Fetch(_) | Call::Cancel(_) => return None,
    })
}

fn csi(call: &CsiCall) -> Option<Kind> {
    let (endpoint, method, operation) = match call {
        CsiCall::GetPluginInfo { socket } => return Some(Kind::Registration { socket: socket.clone() }),
        CsiCall::NotifyRegistration { .. } => return None,
        CsiCall::NodeInfo { endpoint } => (endpoint, "/csi.v1.Node/NodeGetInfo", None),
        CsiCall::Capabilities { endpoint } => (endpoint, "/csi.v1.Node/NodeGetCapabilities", None),
        CsiCall::Stage { endpoint, .. } => (endpoint, "/csi.v1.Node/NodeStageVolume", None),
        CsiCall::Publish { endpoint, .. } => (endpoint, "/csi.v1.Node/NodePublishVolume", Some("volume_mount")),
        CsiCall::Unpublish { endpoint, .. } => (endpoint, "/csi.v1.Node/NodeUnpublishVolume", Some("volume_unmount")),
        CsiCall::Unstage { endpoint, .. } => (endpoint, "/csi.v1.Node/NodeUnstageVolume", Some("unmount_device")),
    };
    Some(Kind::Csi { endpoint: endpoint.clone(), method, operation })
}

fn storage(plugin: &str, operation: &'static str) -> Kind {
    Kind::Storage { plugin: plugin.replace('~', "/"), operation }
}

fn plugin(setup: &VolumeSetup) -> &str {
    match setup {
        VolumeSetup::EmptyDir { .. } => "kubernetes.io~empty-dir",
        VolumeSetup::HostPath { .. } => "kubernetes.io~host-path",
        VolumeSetup::Files { plugin, .. } => plugin,
    }
}

/// As upstream's instrumented services name them.
fn operations(call: &CriCall) -> &'static [&'static str] {
    match call {
        CriCall::Version => &["version"],
        CriCall::Status => &["status"],
        CriCall::RuntimeConfig => &["runtime_config"],
        CriCall::UpdateRuntimeConfig { .. } => &["update_runtime_config"],
        CriCall::List => &["list_podsandbox", "list_containers"],
        CriCall::Observe { .. } => &["podsandbox_status", "container_status"],
        CriCall::RunPodSandbox { .. } => &["run_podsandbox"],
        CriCall::StopPodSandbox { .. } => &["stop_podsandbox"],
        CriCall::RemovePodSandbox { .. } => &["remove_podsandbox"],
        CriCall::CreateContainer { .. } => &["create_container"],
        CriCall::StartContainer { .. } => &["start_container"],
        CriCall::StopContainer { .. } => &["stop_container"],
        CriCall::RemoveContainer { .. } => &["remove_container"],
        CriCall::ExecSync { .. } => &["exec_sync"],
        CriCall::ReopenContainerLog { .. } => &["reopen_container_log"],
        CriCall::ImageStatus { .. } => &["image_status"],
        CriCall::PullImage { .. } => &["pull_image"],
        CriCall::ListImages => &["list_images"],
        CriCall::RemoveImage { .. } => &["remove_image"],
        CriCall::ImageFsInfo => &["image_fs_info"],
    }
}

fn verb(call: &ApiCall) -> Option<&'static str> {
    let verbs = [("Get", "GET"), ("Create", "POST"), ("Patch", "PATCH"), ("Update", "PUT"), ("Delete", "DELETE")];
    verbs.into_iter().find(|(begins, _)| call.name().starts_with(begins)).map(|(_, verb)| verb)
}

/// The status code of an answer; `<error>` if there was none (client-go's rest/request.go).
fn code(verb: &str, failure: Option<&Failure>) -> String {
    match failure {
        None if verb == "POST" => "201".to_owned(),
        None => "200".to_owned(),
        Some(failure) => failure.status.map_or_else(|| "<error>".to_owned(), |status| status.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use kubelet::event::{ApiReply, CriReply, HostReply};
    use kubelet::ids::{ActionId, PodUid};
    use kubelet::observation::Listing;
    use kubelet::time::Mono;

    use super::*;
    use crate::server::metrics::text_of;

    struct Fixed;

    impl Clock for Fixed {
        fn now(&self) -> Timestamp {
            Timestamp::from_second(1_795_420_620).unwrap()
        }
    }

    async fn made(metrics: &CallMetrics, call: &Call, event: &Event, took: u64) {
        let counting = metrics.counting(call).unwrap();
        Counting::around(Some(&counting), tokio::time::sleep(Duration::from_millis(took))).await;
        counting.end(event);
    }

    // API-146: names, labels, help and buckets as in upstream's sources that the module's head names, and in the order of a real
    // kubelet's answer.
    #[tokio::test(start_paused = true)]
    async fn calls_are_counted_as_a_kubelet_counts_them() {
        let registry = Arc::new(Registry::new());
        let metrics = CallMetrics::new(Arc::clone(&registry), Arc::new(Fixed));
        let id = ActionId(1);
        let refused = || Failure::new(FailureKind::Forbidden, "no");
        let listed = Event::CriDone { id, outcome: Ok(CriReply::Listing { began: Mono::ZERO, listing: Listing::default() }) };
        for _ in 0..2 {
            made(&metrics, &Call::Cri(CriCall::List), &listed, 20).await;
        }
        let failed = Event::CriDone { id, outcome: Err(refused()) };
        let run = CriCall::RunPodSandbox { config: Arc::default(), runtime_handler: String::new() };
        made(&metrics, &Call::Cri(run), &failed, 1000).await;
        let forbidden = refused().with_status(403);
        made(&metrics, &Call::Api(ApiCall::GetNode), &Event::ApiDone { id, outcome: Err(forbidden) }, 0).await;
        let patch = Call::Api(ApiCall::PatchNodeStatus(serde_json::Value::Null));
        let unavailable = || Failure::new(FailureKind::Unavailable, "no");
        for failed in [unavailable().with_status(503), unavailable()] {
            made(&metrics, &patch, &Event::ApiDone { id, outcome: Err(failed) }, 0).await;
        }
        made(&metrics, &patch, &Event::ApiDone { id, outcome: Ok(ApiReply::Done) }, 0).await;
        let down = HostCall::TearDownVolume {
            pod: PodUid::new("u"),
            volume: "v".to_owned(),
            plugin: "kubernetes.io~empty-dir".to_owned(),
        };
        made(&metrics, &Call::Host(down), &Event::HostDone { id, outcome: Ok(HostReply::Done) }, 0).await;
        let remove = Call::Host(HostCall::RemoveCgroup { name: "/kubepods/u".to_owned() });
        made(&metrics, &remove, &Event::HostDone { id, outcome: Ok(HostReply::Done) }, 0).await;
        let text = text_of(&registry);
        for line in [
            "# HELP kubelet_runtime_operations_duration_seconds [ALPHA] Duration in seconds of runtime operations. Broken down by operation type.",
            "kubelet_runtime_operations_duration_seconds_bucket{operation_type=\"run_podsandbox\",le=\"0.48828125\"} 0",
            "kubelet_runtime_operations_duration_seconds_bucket{operation_type=\"run_podsandbox\",le=\"1.220703125\"} 1",
            "kubelet_runtime_operations_duration_seconds_bucket{operation_type=\"run_podsandbox\",le=\"745.0580596923828\"} 1",
            "kubelet_runtime_operations_total{operation_type=\"list_containers\"} 2",
            "kubelet_runtime_operations_total{operation_type=\"list_podsandbox\"} 2",
            "kubelet_runtime_operations_errors_total{operation_type=\"run_podsandbox\"} 1",
            "kubelet_pleg_relist_duration_seconds_bucket{le=\"0.025\"} 2",
            "kubelet_pleg_relist_interval_seconds_count 1",
            "kubelet_pleg_last_seen_seconds 1.79542062e+09",
            "kubelet_started_pods_total 1",
            "kubelet_started_pods_errors_total 1",
            "kubelet_run_podsandbox_duration_seconds_count{runtime_handler=\"\"} 1",
            "rest_client_requests_total{code=\"403\",method=\"GET\"} 1",
            "rest_client_requests_total{code=\"200\",method=\"PATCH\"} 1",
            "rest_client_requests_total{code=\"503\",method=\"PATCH\"} 1",
            "rest_client_requests_total{code=\"<error>\",method=\"PATCH\"} 1",
            "rest_client_request_duration_seconds_count{verb=\"PATCH\"} 3",
            "storage_operation_duration_seconds_count{migrated=\"false\",operation_name=\"volume_unmount\",status=\"success\",volume_plugin=\"kubernetes.io/empty-dir\"} 1",
            "kubelet_cgroup_manager_duration_seconds_count{operation_type=\"destroy\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\nnot in\n{text}");
        }
    }

    // API-147: GetFullQualifiedPluginNameForVolume and getErrorCode of upstream's pkg/volume/util/metrics.go, csiAddrs of its drivers.
    #[tokio::test(start_paused = true)]
    async fn calls_of_drivers_are_counted_by_their_names() {
        use kubelet::csi::PluginInfo;
        let registry = Arc::new(Registry::new());
        let metrics = CallMetrics::new(Arc::clone(&registry), Arc::new(Fixed));
        let id = ActionId(1);
        let info = PluginInfo {
            kind: "CSIPlugin".to_owned(),
            name: "disk.example.com".to_owned(),
            endpoint: "/d/csi.sock".to_owned(),
            versions: Vec::new(),
        };
        let registered = Event::CsiDone { id, outcome: Ok(CsiReply::Plugin(info)) };
        made(&metrics, &Call::Csi(CsiCall::GetPluginInfo { socket: "/reg.sock".to_owned() }), &registered, 0).await;
        let endpoint = "/d/csi.sock".to_owned();
        let unpublish = CsiCall::Unpublish { endpoint, volume: "v".to_owned(), target: "/t".to_owned() };
        let refused = Failure::new(FailureKind::Other, "no").with_code("Internal");
        let late = Failure::new(FailureKind::UnknownOutcome, "context deadline exceeded");
        let withdrawn = Failure::new(FailureKind::Canceled, "context canceled");
        let odd = Failure::new(FailureKind::Invalid, "no such file");
        for failure in [refused, late, withdrawn, odd] {
            made(&metrics, &Call::Csi(unpublish.clone()), &Event::CsiDone { id, outcome: Err(failure) }, 0).await;
        }
        let text = text_of(&registry);
        for line in [
            "csi_operations_seconds_count{driver_name=\"disk.example.com\",grpc_status_code=\"Internal\",method_name=\"/csi.v1.Node/NodeUnpublishVolume\",migrated=\"false\"} 1",
            "storage_operation_duration_seconds_count{migrated=\"false\",operation_name=\"volume_unmount\",status=\"fail-unknown\",volume_plugin=\"kubernetes.io/csi:disk.example.com\"} 4",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\nnot in\n{text}");
        }
        for code in ["DeadlineExceeded", "Canceled", "unknown-non-grpc"] {
            assert!(
                text.contains(&format!("grpc_status_code=\"{code}\",method_name=\"/csi.v1.Node/NodeUnpublishVolume\"")),
                "{code}\n{text}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn call_that_never_began_is_not_counted() {
        let registry = Arc::new(Registry::new());
        let metrics = CallMetrics::new(Arc::clone(&registry), Arc::new(Fixed));
        let counting = metrics.counting(&Call::Cri(CriCall::Status)).unwrap();
        let withdrawn = Failure::new(FailureKind::Canceled, "context canceled");
        counting.end(&Event::CriDone { id: ActionId(1), outcome: Err(withdrawn) });
        assert!(!text_of(&registry).contains("kubelet_runtime_operations_total"));
    }
}
