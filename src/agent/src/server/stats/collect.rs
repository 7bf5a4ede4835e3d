//! Puts usage together from cgroups, the runtime, filesystems and /proc.
//! Upstream: pkg/kubelet/server/stats/summary.go, pkg/kubelet/stats/{cri_stats_provider,helper}.go.
//! Differs: of containers with one name, the newest that runs counts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use kubelet::action::{CriCall, HostCall};
use kubelet::event::{CriReply, HostReply};
use kubelet::failure::{Failure, FailureKind};
use kubelet::ids::PodUid;
use kubelet::observation::{ContainerState, FsUsage, ListedContainer, ListedSandbox, Listing, SandboxState};
use proto::cri;
use tokio::sync::{OnceCell, Semaphore};
use tokio_util::sync::CancellationToken;

use super::machine::Machine;
use super::network;
use super::samples::{Demand, Samples};
use super::subjects::container_cgroup;
use super::summary::{
    ContainerStats, CpuStats, FsStats, IoStats, MemoryStats, NetworkStats, NodeStats, PodReference, PodStats, ProcessStats,
    PsiStats, RlimitStats, RuntimeStats, Summary, SwapStats, Time, VolumeStats,
};
use super::volumes::Volumes;
use crate::env::{CgroupUsage, Env};
use crate::server::NodeView;

/// The beat of samples: that of upstream's eviction loop (API-125).
const SAMPLE: Duration = Duration::from_secs(10);
/// How long one source may take before the whole answer fails.
const SOURCE: Duration = Duration::from_secs(30);
/// How long the disk may be searched for one container's logs, or one pod's hosts file.
const TREE: Duration = Duration::from_secs(10);
/// How many trees are walked at once for all requests: each costs the disk as much as it has files.
const WALKS: usize = 2;
/// How many pods one answer measures at once.
const PODS: usize = 16;

/// What the collector is set to.
#[derive(Clone, Debug)]
pub struct StatsSettings {
    /// The node's name.
    pub node_name: String,
    /// The agent's root directory.
    pub root_dir: String,
    /// Where pods' logs are.
    pub pod_logs_dir: String,
    /// How often volumes are measured; `None` is never (API-128).
    pub volume_stats_period: Option<Duration>,
    /// The cgroups that are set for the agent, the runtime and the rest of the system; empty if they are not.
    pub kubelet_cgroup: String,
    /// See `kubelet_cgroup`.
    pub runtime_cgroup: String,
    /// See `kubelet_cgroup`.
    pub system_cgroup: String,
}

/// Measures, and remembers what a measurement needs.
pub struct Collector {
    pub(super) env: Env,
    pub(super) settings: StatsSettings,
    started: Timestamp,
    samples: Samples,
    /// Whether anybody asks for rates.
    of_rates: Demand,
    /// Whether anybody asks for what volumes hold: whoever scrapes `/metrics` asks for no more.
    of_volumes: Demand,
    volumes: Volumes,
    /// Directory trees that are being walked, whoever asked.
    walks: Semaphore,
    pub(super) scope_prefix: OnceCell<&'static str>,
    pub(super) machine: Machine,
}

/// What the runtime says, joined.
pub(super) struct FromRuntime {
    pub(super) listing: Listing,
    pub(super) usage: BTreeMap<String, cri::ContainerStats>,
    pub(super) cgroups: BTreeMap<PodUid, String>,
    /// The sandbox that speaks for each pod, by its place in the listing.
    sandboxes: BTreeMap<PodUid, usize>,
}

impl FromRuntime {
    /// The sandbox that speaks for a pod: one that is up, or else the newest.
    pub(super) fn sandbox(&self, pod: &PodUid) -> Option<&ListedSandbox> {
        self.listing.sandboxes.get(*self.sandboxes.get(pod)?)
    }

    /// The newest running container of each name, by pod.
    pub(super) fn running(&self) -> BTreeMap<&PodUid, BTreeMap<&str, &ListedContainer>> {
        let mut running: BTreeMap<&PodUid, BTreeMap<&str, &ListedContainer>> = BTreeMap::new();
        for container in self.listing.containers.iter().filter(|one| one.state == ContainerState::Running) {
            let newest = running.entry(&container.pod).or_default().entry(&container.name).or_insert(container);
            if (newest.attempt, newest.created_at) < (container.attempt, container.created_at) {
                *newest = container;
            }
        }
        running
    }
}

/// What is asked for of each pod and container beside CPU and memory.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    filesystems: Option<&'a Filesystems>,
    pressure: bool,
}

/// The filesystems that usage is measured against.
struct Filesystems {
    root: FsStats,
    images: FsStats,
}

impl Collector {
    /// A collector that has measured nothing yet.
    #[must_use]
    pub fn new(env: Env, settings: StatsSettings) -> Arc<Self> {
        let started = env.clock.now();
        Arc::new(Self {
            env,
            settings,
            started,
            samples: Samples::default(),
            of_rates: Demand::default(),
            of_volumes: Demand::default(),
            volumes: Volumes::default(),
            walks: Semaphore::new(WALKS),
            scope_prefix: OnceCell::new(),
            machine: Machine::default(),
        })
    }

    /// Samples CPU every 10 s, and volumes as often as set, until the token is cancelled; while nobody asks, nothing.
    pub async fn run(&self, view: &dyn NodeView, shutdown: CancellationToken) {
        let sampling = async {
            loop {
                self.of_rates.wanted().await;
                self.sample(view).await;
                tokio::time::sleep(SAMPLE).await;
            }
        };
        let measuring = async {
            let Some(period) = self.settings.volume_stats_period else { return futures::future::pending().await };
            loop {
                self.of_volumes.wanted().await;
                let pods = view.pods().await.unwrap_or_default();
                self.volumes.measure((self.env.host.as_ref(), self.env.clock.as_ref(), view), &self.settings.root_dir, &pods).await;
                tokio::time::sleep(period).await;
            }
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            () = sampling => {}
            () = measuring => {}
        }
    }

    /// One round of samples. What cannot be had is left out of it.
    pub(super) async fn sample(&self, view: &dyn NodeView) {
        let mut round = Vec::new();
        if let Ok(Ok(containers)) = tokio::time::timeout(SOURCE, self.env.runtime.container_stats()).await {
            round.extend(containers.into_iter().filter_map(|one| {
                let cpu = one.cpu?;
                Some((one.attributes?.id, cpu.timestamp, cpu.usage_core_nano_seconds?.value))
            }));
        }
        let pods = self.pod_cgroups().await.unwrap_or_default();
        let cgroups = ["/".to_owned()].into_iter().chain(view.pods_cgroup().await).chain(pods.into_values());
        for cgroup in cgroups {
            if let Ok(Some(usage)) = self.usage(&cgroup, false).await {
                round.push((cgroup, nanoseconds(self.env.clock.now()), usage.cpu_nanos));
            }
        }
        self.samples.take(round);
    }

    /// Somebody wants to know what only beats can measure: rates, and what volumes hold.
    pub(crate) fn asked(&self) {
        self.of_rates.asked();
        self.of_volumes.asked();
    }

    /// CPU, memory and swap: what changes from one moment to the next (API-129). Pressure is in it if that is asked for.
    pub(crate) async fn cpu_and_memory(&self, view: &dyn NodeView, pressure: bool) -> Result<Summary, Failure> {
        let (node, runtime) = tokio::join!(self.node(view, pressure), self.runtime());
        let (node, runtime) = (node?, runtime?);
        let pods = self.pods(&runtime, Wanted { filesystems: None, pressure }).await;
        let mut summary = Summary { node, pods };
        summary.leave_out_io();
        Ok(summary)
    }

    /// All of it (API-120).
    pub(crate) async fn all(&self, view: &dyn NodeView) -> Result<Summary, Failure> {
        // For their volumes.
        let known = view.pods().await.unwrap_or_default();
        let known: BTreeSet<&str> = known.iter().filter_map(|known| known.metadata.uid.as_deref()).collect();
        let (node, runtime, filesystems) = tokio::join!(self.node(view, true), self.runtime(), self.filesystems());
        let (mut node, runtime, filesystems) = (node?, runtime?, filesystems?);
        node.fs = Some(filesystems.root.clone());
        node.runtime =
            Some(RuntimeStats { image_fs: Some(filesystems.images.clone()), container_fs: Some(filesystems.images.clone()) });
        node.rlimit = Some(self.rlimit().await);
        node.network = self.contents("/proc/net/dev").await.and_then(|table| network::parse(&table, self.now()));
        let mut pods = self.pods(&runtime, Wanted { filesystems: Some(&filesystems), pressure: true }).await;
        for pod in &mut pods {
            let uid = PodUid::new(&pod.pod_ref.uid);
            // A pod that the agent does not know any more has no volumes.
            if known.contains(uid.as_str()) {
                let measured = self.volumes.of(&uid);
                pod.volume = measured.iter().map(|one| one.stats.clone()).collect();
                let ephemeral = measured.iter().filter(|one| one.ephemeral).map(|one| &one.stats.fs);
                let hosts = self.tree(format!("{}/pods/{uid}/etc-hosts", self.settings.root_dir), &filesystems.root).await;
                pod.ephemeral_storage = Some(ephemeral_storage(&filesystems.root, pod, ephemeral.chain(&hosts), self.now()));
            }
        }
        Ok(Summary { node, pods })
    }

    /// Volumes of claims, as last measured (API-146).
    pub(crate) fn claims(&self) -> Vec<VolumeStats> {
        self.of_volumes.asked();
        self.volumes.all().into_iter().filter(|volume| volume.pvc_ref.is_some()).collect()
    }

    fn now(&self) -> Time {
        Time(self.env.clock.now())
    }

    async fn node(&self, view: &dyn NodeView, pressure: bool) -> Result<NodeStats, Failure> {
        let machine = self.machine().await?;
        let usage = self
            .usage("/", pressure)
            .await?
            .ok_or_else(|| Failure::new(FailureKind::NotFound, "failed to get root cgroup stats"))?;
        let usage = CgroupUsage { memory_limit: Some(machine.memory), ..usage };
        let swap = usage.swap.map(|used| SwapStats {
            time: self.now(),
            swap_available_bytes: Some(machine.swap.saturating_sub(used)),
            swap_usage_bytes: Some(used),
        });
        let mut system_containers = Vec::new();
        for (name, cgroup) in self.system_cgroups(view).await {
            // One that cannot be measured is left out (API-120).
            if let Ok(Some(usage)) = self.usage(&cgroup, pressure).await {
                let (cpu, memory, swap) = self.of_cgroup(&cgroup, &usage);
                // That of the agent is as old as the agent, whoever was in it before.
                let made = usage.made.filter(|_| name != "kubelet").unwrap_or(self.started);
                let (name, start_time, io) = (name.to_owned(), Time(made), self.io(&usage));
                system_containers.push(ContainerStats { name, start_time, cpu, memory, io, rootfs: None, logs: None, swap });
            }
        }
        let (cpu, memory, _) = self.of_cgroup("/", &usage);
        Ok(NodeStats {
            node_name: self.settings.node_name.clone(),
            system_containers,
            start_time: Time(self.boot().await.unwrap_or(self.started)),
            cpu,
            memory,
            io: self.io(&usage),
            network: None,
            fs: None,
            runtime: None,
            rlimit: None,
            swap,
        })
    }

    /// The cgroups that the machine is divided into, as the summary calls them (API-122).
    pub(super) async fn system_cgroups(&self, view: &dyn NodeView) -> Vec<(&'static str, String)> {
        let set = |cgroup: &str| Some(cgroup.to_owned()).filter(|cgroup| !cgroup.is_empty());
        let kubelet = match set(&self.settings.kubelet_cgroup) {
            Some(kubelet) => Some(kubelet),
            None => self.read("/proc/self/cgroup").await.as_deref().and_then(own_cgroup),
        };
        let (runtime, system) = (set(&self.settings.runtime_cgroup), set(&self.settings.system_cgroup));
        let all = [("kubelet", kubelet), ("runtime", runtime), ("misc", system), ("pods", view.pods_cgroup().await)];
        all.into_iter().filter_map(|(name, cgroup)| Some((name, cgroup?))).collect()
    }

    /// API-123
    fn of_cgroup(&self, cgroup: &str, usage: &CgroupUsage) -> (Option<CpuStats>, Option<MemoryStats>, Option<SwapStats>) {
        let time = self.now();
        let cpu = CpuStats {
            time,
            usage_nano_cores: self.samples.rate(cgroup),
            usage_core_nano_seconds: Some(usage.cpu_nanos),
            psi: usage.cpu_pressure.map(PsiStats::from),
        };
        let memory = MemoryStats {
            time,
            available_bytes: usage.memory_limit.map(|limit| limit.saturating_sub(usage.working_set)),
            usage_bytes: Some(usage.memory),
            working_set_bytes: Some(usage.working_set.min(usage.memory)),
            rss_bytes: Some(usage.rss),
            page_faults: Some(usage.page_faults),
            major_page_faults: Some(usage.major_page_faults),
            psi: usage.memory_pressure.map(PsiStats::from),
        };
        let swap = usage.swap.map(|used| SwapStats {
            time,
            swap_available_bytes: usage.swap_limit.map(|limit| limit.saturating_sub(used)),
            swap_usage_bytes: Some(used),
        });
        (Some(cpu), Some(memory), swap)
    }

    fn io(&self, usage: &CgroupUsage) -> Option<IoStats> {
        usage.io_pressure.map(|pressure| IoStats { time: self.now(), psi: pressure.into() })
    }

    pub(super) async fn runtime(&self) -> Result<FromRuntime, Failure> {
        let (listing, usage, cgroups) = tokio::join!(
            within(self.env.runtime.call(CriCall::List)),
            within(self.env.runtime.container_stats()),
            self.pod_cgroups()
        );
        let listing = match listing? {
            CriReply::Listing { listing, .. } => listing,
            other => return Err(unexpected(&other)),
        };
        let usage = usage?.into_iter().filter_map(|one| Some((one.attributes.as_ref()?.id.clone(), one))).collect();
        // Without them there are the containers' own numbers.
        let sandboxes = speakers(&listing.sandboxes);
        Ok(FromRuntime { listing, usage, cgroups: cgroups.unwrap_or_default(), sandboxes })
    }

    pub(super) async fn pod_cgroups(&self) -> Result<BTreeMap<PodUid, String>, Failure> {
        match within(self.env.host.call(HostCall::ListPodCgroups)).await? {
            HostReply::PodCgroups(cgroups) => Ok(cgroups),
            other => Err(unexpected(&other)),
        }
    }

    /// API-126
    async fn filesystems(&self) -> Result<Filesystems, Failure> {
        let root = self.fs(&self.settings.root_dir).await?;
        let images = match within(self.env.runtime.call(CriCall::ImageFsInfo)).await? {
            CriReply::ImageFs(images) => images,
            other => return Err(unexpected(&other)),
        };
        let images = images.into_iter().next().ok_or_else(|| Failure::new(FailureKind::NotFound, "no image filesystem"))?;
        let of_images = self.fs(&images.mountpoint).await?;
        let used = FsUsage { used: images.used, inodes_used: images.inodes_used, ..of_images };
        Ok(Filesystems { root: fs_stats(&root, self.now()), images: fs_stats(&used, self.now()) })
    }

    async fn fs(&self, path: &str) -> Result<FsUsage, Failure> {
        match within(self.env.host.call(HostCall::FsUsage { path: path.to_owned() })).await? {
            HostReply::Fs(usage) => Ok(usage),
            other => Err(unexpected(&other)),
        }
    }

    /// API-124
    async fn pods(&self, runtime: &FromRuntime, wanted: Wanted<'_>) -> Vec<PodStats> {
        // A node of hundreds of pods does not ask for all their files at one moment; one that takes long keeps its own turn only.
        let turns = &Semaphore::new(PODS);
        let pods = runtime.running().into_iter().map(|(uid, containers)| async move {
            let _turn = turns.acquire().await;
            self.pod(runtime, wanted, uid, containers).await
        });
        join_all(pods).await.into_iter().flatten().collect()
    }

    async fn pod(
        &self,
        runtime: &FromRuntime,
        wanted: Wanted<'_>,
        uid: &PodUid,
        containers: BTreeMap<&str, &ListedContainer>,
    ) -> Option<PodStats> {
        let sandbox = runtime.sandbox(uid)?;
        let pod_ref = PodReference { name: sandbox.name.clone(), namespace: sandbox.namespace.clone(), uid: uid.to_string() };
        let mut stats = Vec::new();
        let (mut processes, mut process) = (None::<u64>, None);
        for (name, container) in containers {
            let Some(usage) = runtime.usage.get(container.id.as_str()) else { continue };
            let mut one = self.container(name, container, usage);
            if let Some(pod) = runtime.cgroups.get(uid) {
                let cgroup = container_cgroup(pod, container.id.as_str(), self.cgroup_prefix().await);
                if let Some(usage) = self.measure(&mut one, &cgroup, wanted.pressure).await {
                    processes = usage.processes.map(|count| processes.unwrap_or_default().saturating_add(count)).or(processes);
                    process = process.or(usage.first_process);
                }
            }
            if let Some(filesystems) = wanted.filesystems {
                one.rootfs = usage.writable_layer.as_ref().map(|layer| of_writable_layer(layer, &filesystems.images));
                let logs = format!("{}/{}_{}_{uid}/{name}", self.settings.pod_logs_dir, pod_ref.namespace, pod_ref.name);
                one.logs = self.tree(logs, &filesystems.root).await;
            }
            stats.push(one);
        }
        let of_cgroup = match runtime.cgroups.get(uid) {
            Some(cgroup) => self.usage(cgroup, wanted.pressure).await.ok().flatten().map(|usage| (cgroup, usage)),
            None => None,
        };
        // Of its containers, as upstream adds them up: threads are no processes.
        let process_stats = processes.map(|count| ProcessStats { process_count: Some(count) });
        let (cpu, memory, swap) = match &of_cgroup {
            Some((cgroup, usage)) => self.of_cgroup(cgroup, usage),
            None => sum(&stats),
        };
        let network = match process.filter(|_| wanted.filesystems.is_some()) {
            // All of a pod are in the network of its sandbox.
            Some(process) => self.network(process).await,
            None => None,
        };
        Some(PodStats {
            pod_ref,
            start_time: Time(timestamp(sandbox.created_at)),
            containers: stats,
            cpu,
            memory,
            io: of_cgroup.as_ref().and_then(|(_, usage)| self.io(usage)),
            network,
            volume: Vec::new(),
            ephemeral_storage: None,
            process_stats: process_stats.filter(|_| wanted.filesystems.is_some()),
            swap,
        })
    }

    /// API-124, NODE-126: a container's cgroup knows better than the runtime, which may tell limits that there are not.
    async fn measure(&self, container: &mut ContainerStats, cgroup: &str, pressure: bool) -> Option<CgroupUsage> {
        let usage = self.usage(cgroup, pressure).await.ok()??;
        let (cpu, memory, swap) = self.of_cgroup(cgroup, &usage);
        let rate = container.cpu.as_ref().and_then(|cpu| cpu.usage_nano_cores);
        container.cpu = cpu.map(|cpu| CpuStats { usage_nano_cores: rate, ..cpu });
        container.memory = memory;
        container.io = self.io(&usage);
        container.swap = swap.or(container.swap.take());
        Some(usage)
    }

    /// The traffic of the network that a process is in.
    async fn network(&self, process: u32) -> Option<NetworkStats> {
        network::parse(&self.contents(&format!("/proc/{process}/net/dev")).await?, self.now())
    }

    fn container(&self, name: &str, container: &ListedContainer, usage: &cri::ContainerStats) -> ContainerStats {
        let cpu = usage.cpu.as_ref().map(|cpu| CpuStats {
            time: Time(timestamp(cpu.timestamp)),
            usage_nano_cores: value(&cpu.usage_nano_cores).or_else(|| self.samples.rate(container.id.as_str())),
            usage_core_nano_seconds: value(&cpu.usage_core_nano_seconds),
            psi: None,
        });
        let memory = usage.memory.as_ref().map(|memory| MemoryStats {
            time: Time(timestamp(memory.timestamp)),
            available_bytes: value(&memory.available_bytes),
            usage_bytes: value(&memory.usage_bytes),
            working_set_bytes: value(&memory.working_set_bytes),
            rss_bytes: value(&memory.rss_bytes),
            page_faults: value(&memory.page_faults),
            major_page_faults: value(&memory.major_page_faults),
            psi: None,
        });
        let swap = usage.swap.as_ref().map(|swap| SwapStats {
            time: Time(timestamp(swap.timestamp)),
            swap_available_bytes: value(&swap.swap_available_bytes),
            swap_usage_bytes: value(&swap.swap_usage_bytes),
        });
        // Of a runtime that tells nothing of it, there is none.
        let none = SwapStats { time: self.now(), swap_available_bytes: Some(0), swap_usage_bytes: Some(0) };
        let swap = Some(swap.unwrap_or(none));
        let start_time = Time(timestamp(container.created_at));
        ContainerStats { name: name.to_owned(), start_time, cpu, memory, io: None, rootfs: None, logs: None, swap }
    }

    /// What lies below a path of the root filesystem; `None` if there is nothing, or if it takes too long.
    async fn tree(&self, path: String, root: &FsStats) -> Option<FsStats> {
        let walk = async {
            // A semaphore is never closed, so this only waits.
            let _place = self.walks.acquire().await.ok();
            self.env.host.tree_usage(path).await
        };
        let (bytes, inodes) = tokio::time::timeout(TREE, walk).await.ok()?.ok()?;
        Some(FsStats { time: self.now(), used_bytes: Some(bytes), inodes_used: Some(inodes), ..root.clone() })
    }

    /// API-130
    async fn rlimit(&self) -> RlimitStats {
        let number = |text: Option<String>| text.and_then(|text| text.trim().parse::<u64>().ok());
        let pid_max = number(self.read("/proc/sys/kernel/pid_max").await);
        let threads_max = number(self.read("/proc/sys/kernel/threads-max").await);
        let curproc = self.read("/proc/loadavg").await.as_deref().and_then(processes);
        RlimitStats { time: self.now(), maxpid: pid_max.into_iter().chain(threads_max).min(), curproc }
    }

    pub(super) async fn read(&self, path: &str) -> Option<String> {
        String::from_utf8(self.contents(path).await?).ok()
    }

    pub(super) async fn contents(&self, path: &str) -> Option<Vec<u8>> {
        match within(self.env.host.call(HostCall::ReadFile { path: path.to_owned() })).await {
            Ok(HostReply::Contents(contents)) => Some(contents),
            _ => None,
        }
    }
}

/// The sandbox of each pod that is up, or else the newest, by its place.
fn speakers(sandboxes: &[ListedSandbox]) -> BTreeMap<PodUid, usize> {
    let rank = |index: usize| sandboxes.get(index).map(|one| (one.state == SandboxState::Ready, one.attempt, one.created_at));
    let mut speakers: BTreeMap<PodUid, usize> = BTreeMap::new();
    for (index, one) in sandboxes.iter().enumerate() {
        let best = speakers.entry(one.pod.clone()).or_insert(index);
        if rank(*best) <= rank(index) {
            *best = index;
        }
    }
    speakers
}

pub(super) async fn within<T>(call: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let late = || Failure::new(FailureKind::UnknownOutcome, "context deadline exceeded");
    tokio::time::timeout(SOURCE, call).await.unwrap_or_else(|_| Err(late()))
}

pub(super) fn unexpected(reply: &impl std::fmt::Debug) -> Failure {
    Failure::new(FailureKind::Other, format!("unexpected reply: {reply:?}"))
}

pub(super) fn value(value: &Option<cri::UInt64Value>) -> Option<u64> {
    value.as_ref().map(|value| value.value)
}

pub(super) fn timestamp(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(nanoseconds.into()).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn nanoseconds(at: Timestamp) -> i64 {
    i64::try_from(at.as_nanosecond()).unwrap_or_default()
}

/// The cgroup of this process: that of version 2, or else the one of both CPU and memory (API-122).
fn own_cgroup(table: &str) -> Option<String> {
    let of = |controller: &str| {
        table.lines().find_map(|line| {
            let (_, line) = line.split_once(':')?;
            let (controllers, path) = line.split_once(':')?;
            controllers.split(',').any(|c| c == controller).then(|| path.to_owned())
        })
    };
    match (of("cpu"), of("memory")) {
        (None, None) => of(""),
        (cpu, memory) if cpu == memory => of("name=systemd").or(cpu),
        _ => None,
    }
}

/// The number after the slash in `0.00 0.00 0.00 1/1099 4242`.
fn processes(loadavg: &str) -> Option<u64> {
    loadavg.split_ascii_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

fn fs_stats(usage: &FsUsage, time: Time) -> FsStats {
    FsStats {
        time,
        available_bytes: Some(usage.available),
        capacity_bytes: Some(usage.capacity),
        used_bytes: Some(usage.used),
        inodes_free: Some(usage.inodes_free),
        inodes: Some(usage.inodes),
        inodes_used: Some(usage.inodes_used),
    }
}

fn of_writable_layer(layer: &cri::FilesystemUsage, images: &FsStats) -> FsStats {
    FsStats {
        time: Time(timestamp(layer.timestamp)),
        used_bytes: value(&layer.used_bytes),
        inodes_used: value(&layer.inodes_used),
        ..images.clone()
    }
}

/// API-127
fn ephemeral_storage<'a>(root: &FsStats, pod: &'a PodStats, volumes: impl Iterator<Item = &'a FsStats>, time: Time) -> FsStats {
    let of_containers = pod.containers.iter().flat_map(|one| one.rootfs.iter().chain(&one.logs));
    let (mut bytes, mut inodes) = (0_u64, 0_u64);
    for part in of_containers.chain(volumes) {
        bytes = bytes.saturating_add(part.used_bytes.unwrap_or_default());
        inodes = inodes.saturating_add(part.inodes_used.unwrap_or_default());
    }
    FsStats { time, used_bytes: Some(bytes), inodes_used: Some(inodes), ..root.clone() }
}

/// What a pod uses whose cgroup tells nothing: its containers together.
fn sum(containers: &[ContainerStats]) -> (Option<CpuStats>, Option<MemoryStats>, Option<SwapStats>) {
    fn add(a: Option<u64>, b: Option<u64>) -> Option<u64> {
        match (a, b) {
            (Some(a), Some(b)) => Some(a.saturating_add(b)),
            (one, other) => one.or(other),
        }
    }
    let later = |a: Time, b: Time| Time(a.0.max(b.0));
    let cpu = containers.iter().filter_map(|one| one.cpu.clone()).reduce(|a, b| CpuStats {
        time: later(a.time, b.time),
        usage_nano_cores: add(a.usage_nano_cores, b.usage_nano_cores),
        usage_core_nano_seconds: add(a.usage_core_nano_seconds, b.usage_core_nano_seconds),
        // Shares of time do not add up.
        psi: None,
    });
    let memory = containers.iter().filter_map(|one| one.memory.clone()).reduce(|a, b| MemoryStats {
        time: later(a.time, b.time),
        available_bytes: add(a.available_bytes, b.available_bytes),
        usage_bytes: add(a.usage_bytes, b.usage_bytes),
        working_set_bytes: add(a.working_set_bytes, b.working_set_bytes),
        rss_bytes: add(a.rss_bytes, b.rss_bytes),
        page_faults: add(a.page_faults, b.page_faults),
        major_page_faults: add(a.major_page_faults, b.major_page_faults),
        psi: None,
    });
    let swap = containers.iter().filter_map(|one| one.swap.clone()).reduce(|a, b| SwapStats {
        time: later(a.time, b.time),
        swap_available_bytes: add(a.swap_available_bytes, b.swap_available_bytes),
        swap_usage_bytes: add(a.swap_usage_bytes, b.swap_usage_bytes),
    });
    (cpu, memory, swap)
}
