//! The machine: files, mounts, cgroups and facts of a Linux host, each operation on a thread that may block.
//! Upstream: pkg/kubelet/cm, pkg/volume, k8s.io/mount-utils, github.com/google/cadvisor.
//! Differs: operations are values, done whole; paths hang below a root of the caller's choice.

mod addresses;
mod atomic_writer;
mod cgroups;
mod credential_plugin;
mod csi;
mod error;
mod files;
mod inotify;
mod interfaces;
mod layout;
mod log_rotation;
mod logs;
mod machine;
mod manifests;
mod mark;
mod mounts;
mod node;
mod notify;
mod plugin_sockets;
mod pod_dirs;
mod state_files;
mod subpath;
#[cfg(test)]
mod testing;
mod threads;
mod tree;
mod volumes;
mod watched_files;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use kubelet::action::{HostCall, VolumeSetup};
use kubelet::config::Config;
use kubelet::event::HostReply;
use kubelet::failure::{Failure, FailureKind};
use kubelet::ids::PodUid;
use kubelet::observation::NodeAddresses;
use kubelet::work::Point;

use self::cgroups::Cgroups;
use self::error::HostError;
use self::layout::Layout;
use self::manifests::Manifests;
use self::mark::Mark;
use self::plugin_sockets::Registry;
use self::threads::Threads;
use crate::env::{CgroupUsage, Host, LogFile};

pub use self::notify::{notify_watchdog, watchdog};
pub use self::watched_files::read_watched;

/// A Linux machine.
#[derive(Clone, Debug)]
pub struct LinuxHost {
    layout: Arc<Layout>,
    registry: Arc<Registry>,
    manifests: Arc<Manifests>,
    threads: Arc<Threads>,
    mark: Arc<Mark>,
}

impl LinuxHost {
    /// The machine that this process runs on, with the directories that `config` names. Reads `NOTIFY_SOCKET`.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self::below(Path::new("/"), config)
    }

    /// A machine whose files lie below `root`. Mounts are looked up in this process's own table.
    #[must_use]
    pub fn below(root: &Path, config: &Config) -> Self {
        Self {
            layout: Arc::new(Layout::new(root, config)),
            registry: Arc::new(Registry::new()),
            manifests: Arc::new(Manifests::new()),
            threads: Arc::new(Threads::new()),
            mark: Arc::default(),
        }
    }

    /// Does it when its turn has come, on a thread that may hang: whoever waits may give up, the thread keeps its turn.
    fn blocking<T: Send + 'static>(
        &self,
        (about, subject): (String, String),
        operation: impl FnOnce(&Layout) -> Result<T, HostError> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, Failure>> {
        let (layout, threads) = (Arc::clone(&self.layout), Arc::clone(&self.threads));
        Box::pin(async move {
            let turn = threads.turn(&about, &subject).await;
            threads.was_given(&about, None);
            on_a_thread(turn, move || operation(&layout)).await
        })
    }

    /// On a path that pods name and the agent has not made: whatever hangs there is counted against its filesystem as well.
    fn elsewhere(&self, call: HostCall, path: String) -> BoxFuture<'static, Result<HostReply, Failure>> {
        let (layout, threads) = (Arc::clone(&self.layout), Arc::clone(&self.threads));
        let (about, subject) = (call.turn(), call.subject());
        let of_mounts = (format!("mounts for {about}"), subject.clone());
        let on = self.blocking(of_mounts, move |layout| Ok(mounts::foreign(&layout.at(&path)?, &layout.at(&layout.kubelet_root)?)));
        Box::pin(async move {
            let on = on.await?;
            let turn = threads.turn_on(&about, &subject, on.as_deref()).await;
            threads.was_given(&about, None);
            on_a_thread(turn, move || operate(&layout, &call)).await
        })
    }

    /// NODE-080: a name server that does not answer holds up its own thread, and nothing else.
    fn addresses(
        &self,
        turn: (String, String),
        name: Option<String>,
        within: Duration,
        given: Vec<IpAddr>,
    ) -> BoxFuture<'static, Result<HostReply, Failure>> {
        let asked = name.map(|name| {
            let about = format!("addresses of {name}");
            self.blocking((about.clone(), about), move |_| Ok(addresses::named(&name, &interfaces()?)))
        });
        let own = self.blocking(turn, move |layout| {
            let interfaces = interfaces()?;
            Ok((addresses::routed(layout, &interfaces), addresses::local(&given, &interfaces)))
        });
        Box::pin(async move {
            let named = async {
                match asked {
                    Some(asked) => tokio::time::timeout(within, asked).await.ok()?.ok(),
                    None => Some(Vec::new()),
                }
            };
            let (named, own) = futures::join!(named, own);
            let ((routed, default_routes), local) = own?;
            Ok(HostReply::NodeAddresses(NodeAddresses { named, routed, default_routes, local }))
        })
    }

    /// CSI-013: a large volume takes longer than anybody waits. What one call began is not begun again by the next.
    fn give(&self, call: HostCall, gift: threads::Gift) -> BoxFuture<'static, Result<HostReply, Failure>> {
        let (layout, threads) = (Arc::clone(&self.layout), Arc::clone(&self.threads));
        let (about, subject) = (call.turn(), call.subject());
        Box::pin(async move {
            let turn = threads.turn(&about, &subject).await;
            if threads.was_given(&about, Some(gift)) {
                return Ok(HostReply::Done);
            }
            let (name, done) = (about.clone(), Arc::clone(&threads));
            let given = on_a_thread(turn, move || {
                let given = operate(&layout, &call);
                if given.is_ok() {
                    done.gave(&name, gift);
                }
                given
            });
            let given = given.await;
            threads.was_given(&about, None);
            given
        })
    }
}

/// The path of an operation that may lie on anything that is mounted on the machine.
fn foreign_path(call: &HostCall) -> Option<&str> {
    match call {
        HostCall::SetUpVolume { setup, .. } => match &**setup {
            VolumeSetup::HostPath { path, .. } => Some(path),
            VolumeSetup::EmptyDir { .. } | VolumeSetup::Files { .. } => None,
        },
        HostCall::BindSubPath { volume_path: path, .. } | HostCall::FsUsage { path } => Some(path),
        _ => None,
    }
}

async fn on_a_thread<T: Send + 'static>(
    turn: threads::Turn,
    operation: impl FnOnce() -> Result<T, HostError> + Send + 'static,
) -> Result<T, Failure> {
    let done = spawn(move || {
        let outcome = operation();
        drop(turn);
        outcome
    });
    match done.await {
        Ok(outcome) => outcome.map_err(Failure::from),
        // What a panic said may hold what nobody is to read.
        Err(lost) if lost.is_panic() => Err(Failure::new(FailureKind::UnknownOutcome, "internal error: the operation panicked")),
        Err(lost) => Err(Failure::new(FailureKind::UnknownOutcome, lost.to_string())),
    }
}

fn interfaces() -> Result<Vec<interfaces::Interface>, HostError> {
    interfaces::interfaces().map_err(|error| HostError::Unfit(format!("list the network interfaces: {error}")))
}

#[expect(clippy::disallowed_methods, reason = "the real machine's disks block; simulation has another host")]
fn spawn<T: Send + 'static>(operation: impl FnOnce() -> T + Send + 'static) -> tokio::task::JoinHandle<T> {
    tokio::task::spawn_blocking(operation)
}

impl Host for LinuxHost {
    fn call(&self, call: HostCall) -> BoxFuture<'_, Result<HostReply, Failure>> {
        let turn = (call.turn(), call.subject());
        if let HostCall::GiveToGroup { group, trust_root, .. } = call {
            return self.give(call, (group, trust_root));
        }
        if let HostCall::AskCredentialPlugin { executable, arguments, environment, request } = call {
            let layout = Arc::clone(&self.layout);
            return Box::pin(async move {
                let path = layout.at(&executable).map_err(Failure::from)?;
                credential_plugin::ask(&path, &arguments, environment.reveal(), request.reveal()).await
            });
        }
        if let HostCall::ListPluginSockets { registry } = call {
            let watched = Arc::clone(&self.registry);
            return self
                .blocking(turn, move |layout| watched.look(&layout.at(&registry)?, &registry).map(HostReply::PluginSockets));
        }
        if let HostCall::ReadManifests { path } = call {
            let watched = Arc::clone(&self.manifests);
            return self.blocking(turn, move |layout| watched.read(&layout.at(&path)?, &path).map(HostReply::Manifests));
        }
        if let HostCall::NodeAddresses { name, within, given } = call {
            return self.addresses(turn, name, within, given);
        }
        if let Some(path) = foreign_path(&call) {
            let path = path.to_owned();
            return self.elsewhere(call, path);
        }
        self.blocking(turn, move |layout| operate(layout, &call))
    }

    fn read_tail(&self, path: String, limit: usize) -> BoxFuture<'_, Result<Option<Vec<u8>>, Failure>> {
        self.blocking(reading(&path), move |layout| logs::tail(&layout.at(&path)?, limit))
    }

    fn open_log(&self, path: String) -> BoxFuture<'_, Result<Box<dyn LogFile>, Failure>> {
        let (opened, who) = (Arc::clone(&self.threads), reading(&path));
        self.blocking(who, move |layout| Ok(Box::new(logs::Log::open(layout.at(&path)?, opened)?) as Box<dyn LogFile>))
    }

    fn cgroup_usage(&self, cgroup: String, pressure: bool) -> BoxFuture<'_, Result<Option<CgroupUsage>, Failure>> {
        self.blocking((format!("usage of cgroup {cgroup}"), "usage of cgroups".to_owned()), move |layout| {
            let mut whole = cgroups::Whole::default();
            if cgroup == "/" {
                (whole.memory, whole.swap) = machine::memory(layout)?;
                whole.swap_used = machine::swap_used(layout)?;
            }
            cgroups::usage(&Cgroups::of(layout), &cgroup, whole, pressure)
        })
    }

    fn tree_usage(&self, path: String) -> BoxFuture<'_, Result<(u64, u64), Failure>> {
        // One walk at a time, and never two of one tree: nobody waits for them but who asks for statistics.
        let (_, subject) = reading(&path);
        self.blocking((format!("usage of {path}"), subject), move |layout| tree::usage(&layout.at(&path)?))
    }

    fn plugin_changes(&self) -> BoxStream<'static, ()> {
        self.registry.changes()
    }

    fn manifest_changes(&self) -> BoxStream<'static, ()> {
        self.manifests.changes()
    }

    fn works_for(&self, work: Option<(Point, &PodUid)>) {
        self.mark.set(work.map(|(_, pod)| pod));
    }

    fn suspects(&self) -> BoxFuture<'_, Vec<(PodUid, u32)>> {
        let mark = Arc::clone(&self.mark);
        let taken = self.blocking(reading("/run/keelson"), move |layout| mark.take_over(layout));
        Box::pin(async move {
            taken.await.unwrap_or_else(|failure| {
                tracing::warn!(error = failure.message, "a pod of which the process dies cannot be noted");
                Vec::new()
            })
        })
    }

    fn notify_ready(&self) {
        let told = self.layout.notify_socket.as_deref().map_or(Ok(()), notify::ready);
        if let Err(error) = told {
            tracing::warn!(%error, "failed to tell the service manager that the agent is ready");
        }
    }
}

/// Reading a file for somebody who asked: not what the core does for a pod, and counted apart from it.
fn reading(path: &str) -> (String, String) {
    let subject = HostCall::ReadFile { path: path.to_owned() }.subject();
    (format!("reading {path}"), format!("reading of {subject}"))
}

fn operate(layout: &Layout, call: &HostCall) -> Result<HostReply, HostError> {
    match call {
        HostCall::MachineInfo => machine::info(layout).map(|found| HostReply::Machine(Box::new(found))),
        HostCall::ListPodCgroups => Cgroups::of(layout).pods(&layout.cgroup_root).map(HostReply::PodCgroups),
        HostCall::CgroupExists { name } => Cgroups::of(layout).exists(name).map(HostReply::Exists),
        HostCall::ListPodDirs => pod_dirs::list(layout).map(HostReply::PodDirs),
        HostCall::ListPodLogs => pod_dirs::list_logs(layout).map(HostReply::PodLogs),
        HostCall::ReadFile { path } => files::read(&layout.at(path)?).map(HostReply::Contents),
        HostCall::ReadDirectory { path, prefix } => files::read_directory(&layout.at(path)?, prefix).map(HostReply::Files),
        HostCall::ReadFiles { paths } => files::read_those(layout, paths).map(HostReply::Files),
        HostCall::HighestLog { directory } => pod_dirs::highest_log(layout, directory).map(HostReply::HighestLog),
        HostCall::LargeLogs { paths, at_least } => {
            log_rotation::large(layout, paths, *at_least).map(|(large, missing)| HostReply::LargeLogs { large, missing })
        }
        HostCall::RotateLog { path, suffix, max_files } => {
            log_rotation::rotate(layout, path, suffix, *max_files).map(HostReply::Rotated)
        }
        HostCall::ListVolumes { pod } => volumes::list(layout, pod).map(HostReply::Volumes),
        HostCall::ListCsiVolumes => csi::list(layout).map(|(staged, published)| HostReply::CsiVolumes { staged, published }),
        HostCall::FsUsage { path } => machine::filesystem(&layout.at(path)?).map(HostReply::Fs),
        call => change(layout, call).map(|()| HostReply::Done),
    }
}

fn change(layout: &Layout, call: &HostCall) -> Result<(), HostError> {
    match call {
        HostCall::PrepareNode => node::prepare(layout),
        HostCall::ApplyCgroup { name, settings } => Cgroups::of(layout).apply(name, settings, false),
        HostCall::EnsureCgroup { name, settings } => Cgroups::of(layout).apply(name, settings, true),
        HostCall::RemoveCgroup { name } => Cgroups::of(layout).remove(name),
        HostCall::MakePodDirs { pod, containers, log_directory } => pod_dirs::make(layout, pod, containers, log_directory),
        HostCall::RemovePodDir { pod } => pod_dirs::remove(layout, pod),
        HostCall::WriteFile { path, contents, mode } => files::write_whole(&layout.at(path)?, contents, *mode),
        HostCall::WriteRecord { path, contents } => files::write_record(&layout.at(path)?, contents.reveal()),
        HostCall::RemoveFile { path } => files::remove(&layout.at(path)?),
        HostCall::CreateFile { path, mode } => files::create(&layout.at(path)?, *mode),
        HostCall::LinkContainerLog { target, link } => pod_dirs::link_log(layout, target, link),
        HostCall::RemoveContainerLogs { path, link } => pod_dirs::remove_container_logs(layout, path, link),
        HostCall::UndoLogRotation { path, rotated } => log_rotation::undo(layout, path, rotated),
        HostCall::RemovePodLogs { path } => pod_dirs::remove_pod_logs(layout, path),
        HostCall::SweepLogLinks => pod_dirs::sweep_log_links(layout),
        HostCall::SetUpVolume { pod, volume, setup } => volumes::set_up(layout, pod, volume, setup),
        HostCall::TearDownVolume { pod, volume, plugin } => volumes::tear_down(layout, pod, volume, plugin),
        HostCall::BindSubPath { pod, volume, container, index, volume_path, sub_path, mount } => {
            let wanted = subpath::SubPath { pod, volume, mount, container, index: *index, volume_path, sub_path };
            subpath::bind(layout, &wanted)
        }
        HostCall::PrepareCsiVolume { directory, data_path, data } => csi::prepare(layout, directory, data_path, data),
        HostCall::RemoveCsiVolume { mount } => csi::remove(layout, mount),
        HostCall::CleanSubPaths { pod, volume } => subpath::clean(layout, pod, volume),
        HostCall::GiveToGroup { path, group, trust_root } => csi::give_to_group(layout, path, *group, *trust_root),
        HostCall::MachineInfo
        | HostCall::NodeAddresses { .. }
        | HostCall::ListCsiVolumes
        | HostCall::ListPodCgroups
        | HostCall::ListPluginSockets { .. }
        | HostCall::ReadManifests { .. }
        | HostCall::CgroupExists { .. }
        | HostCall::ListPodDirs
        | HostCall::ListPodLogs
        | HostCall::ReadFile { .. }
        | HostCall::ReadDirectory { .. }
        | HostCall::ReadFiles { .. }
        | HostCall::AskCredentialPlugin { .. }
        | HostCall::HighestLog { .. }
        | HostCall::LargeLogs { .. }
        | HostCall::RotateLog { .. }
        | HostCall::ListVolumes { .. }
        | HostCall::FsUsage { .. } => Err(HostError::Invalid(format!("{call:?} changes nothing"))),
    }
}

#[cfg(test)]
mod tests {
    use kubelet::ids::PodUid;

    use super::testing::Scratch;
    use super::*;

    #[tokio::test]
    async fn what_was_written_is_read_and_what_is_missing_is_not_found() {
        let scratch = Scratch::new();
        let host = LinuxHost::below(scratch.path(), &Config::new("192.0.2.1"));
        let write = HostCall::WriteFile { path: "/etc-hosts".into(), contents: b"x".to_vec(), mode: 0o644 };
        assert!(matches!(host.call(write).await, Ok(HostReply::Done)));
        let read = |path: &str| host.call(HostCall::ReadFile { path: path.into() });
        assert!(matches!(read("/etc-hosts").await, Ok(HostReply::Contents(found)) if found == b"x"));
        assert_eq!(read("/none").await.unwrap_err().kind, FailureKind::NotFound);
        assert_eq!(read("relative").await.unwrap_err().kind, FailureKind::Invalid);
        let pods = host.call(HostCall::ListPodDirs).await;
        assert!(matches!(pods, Ok(HostReply::PodDirs(pods)) if pods.is_empty()));
        let strange = HostCall::RemovePodDir { pod: PodUid::new("../..") };
        assert_eq!(host.call(strange).await.unwrap_err().kind, FailureKind::Invalid);
    }

    // Issue 10, S6: a check of a path that hangs for eight pods is begun for no ninth; other paths are.
    #[tokio::test(start_paused = true)]
    async fn paths_on_a_filesystem_that_hangs_are_counted_against_it() {
        let host = LinuxHost::new(&Config::new("192.0.2.1"));
        let Some(proc) = mounts::foreign(Path::new("/proc/sys"), Path::new("/")) else {
            println!("skipped: /proc is not mounted");
            return;
        };
        let check = async |pod: &str, path: &str| {
            let setup = VolumeSetup::HostPath { path: path.to_owned(), kind: "Directory".to_owned() };
            let call = HostCall::SetUpVolume { pod: PodUid::new(pod), volume: "v".to_owned(), setup: Box::new(setup) };
            tokio::time::timeout(Duration::from_secs(120), host.call(call)).await
        };
        let mut hang = Vec::new();
        for number in 0..8 {
            hang.push(host.threads.turn_on(&number.to_string(), &number.to_string(), Some(&proc)).await);
        }
        assert!(check("u1", "/proc/sys").await.is_err());
        assert!(matches!(check("u2", "/").await, Ok(Ok(HostReply::Done))));
        hang.pop();
        assert!(matches!(check("u1", "/proc/sys").await, Ok(Ok(HostReply::Done))));
    }

    // N2, NODE-080: addresses that the machine has are told, those that it has not are not; a node name that nobody knows is no
    // failure.
    #[tokio::test]
    async fn addresses_are_answered_with_whatever_name_servers_say() {
        let scratch = Scratch::new();
        let host = LinuxHost::below(scratch.path(), &Config::new("n1"));
        let given = ["127.0.0.1", "240.0.0.1"].map(|ip| ip.parse().unwrap());
        // The look-up of an earlier pass that still hangs.
        let hangs = host.threads.turn("addresses of n1", "addresses of n1").await;
        for (name, named) in [(None, Some(Vec::new())), (Some("n1".to_owned()), None)] {
            let call = HostCall::NodeAddresses { name, within: Duration::from_millis(10), given: given.to_vec() };
            let Ok(HostReply::NodeAddresses(found)) = host.call(call).await else { panic!("no answer") };
            assert_eq!(found, NodeAddresses { named, local: vec![given[0]], ..NodeAddresses::default() });
        }
        drop(hangs);
    }

    // cost-usage (NODE-125): there is no such file to read, and only the root misses it.
    #[tokio::test]
    async fn memory_of_the_machine_is_read_for_the_root_alone() {
        let scratch = Scratch::new();
        scratch.put("sys/fs/cgroup/cgroup.controllers", "cpu\n");
        scratch.put("sys/fs/cgroup/kubepods/memory.current", "10\n");
        let host = LinuxHost::below(scratch.path(), &Config::new("n1"));
        let usage = |cgroup: &str| host.cgroup_usage(cgroup.to_owned(), false);
        assert_eq!(usage("/kubepods").await.unwrap().unwrap().memory, 10);
        assert!(usage("/").await.unwrap_err().message.contains("proc/meminfo"));
        scratch.put("proc/meminfo", "MemTotal: 1 kB\n");
        assert_eq!(usage("/").await.unwrap().unwrap().memory_limit, Some(1024));
    }

    /// Shows what this machine is: `cargo test -p agent --lib this_machine -- --nocapture`.
    #[tokio::test]
    async fn this_machine_has_processors_and_memory() {
        let host = LinuxHost::new(&Config::new("192.0.2.1"));
        let Ok(HostReply::Machine(machine)) = host.call(HostCall::MachineInfo).await else { panic!("no machine") };
        println!("{machine:?}");
        assert!(machine.cpus > 0 && machine.memory > 0 && machine.max_pids > 0);
        let root = host.cgroup_usage("/".into(), true).await.unwrap();
        println!("{root:?}");
    }
}
