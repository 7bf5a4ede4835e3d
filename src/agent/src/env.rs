//! The five seams between the agent and the world: everything it does to anything outside goes through one of them.
//! Upstream: kubelet.Dependencies in pkg/kubelet/kubelet.go.
//! Differs: five traits with boxed futures; calls are the values that the core makes, so an adapter is one `match`.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use jiff::Timestamp;
use kubelet::action::{ApiCall, CriCall, HostCall};
use kubelet::event::{ApiReply, CriReply, Event, HostReply, WatchKey};
use kubelet::failure::Failure;
use kubelet::ids::PodUid;
use kubelet::work::Point;
use tokio::io::{AsyncRead, AsyncWrite};

/// What the agent is given to live on.
#[derive(Clone)]
pub struct Env {
    /// The API server.
    pub api: Arc<dyn ApiServer>,
    /// The container runtime.
    pub runtime: Arc<dyn ContainerRuntime>,
    /// The machine.
    pub host: Arc<dyn Host>,
    /// Byte streams: probes, the HTTPS server, proxied streams.
    pub net: Arc<dyn Net>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// What all of the agent's randomness comes from.
    pub seed: u64,
    /// How many cores the machine has: how much heavy work at once is good for it.
    pub cores: usize,
}

/// The API server, as far as a node identity may use it (API-360).
pub trait ApiServer: Send + Sync {
    /// Makes one call. Deadlines are the caller's; watches are not calls.
    fn call(&self, call: ApiCall) -> BoxFuture<'_, Result<ApiReply, Failure>>;

    /// Keeps a watch open for ever, with its own seeded back-off, and hands its events to `sink`. Ends when the sink closes.
    /// Delivers `WatchListed` first, and again after every gap that could hide an event.
    fn watch(&self, key: WatchKey, sink: EventSink) -> BoxFuture<'static, ()>;

    /// Asks who a bearer token is (API-023). `Ok(None)` if it is nobody's.
    fn review_token(&self, token: String) -> BoxFuture<'_, Result<Option<UserInfo>, Failure>>;

    /// Asks whether a user may do something to this node (API-046).
    fn review_access(&self, review: AccessReview) -> BoxFuture<'_, Result<bool, Failure>>;
}

/// Where a source puts its events; waits when the loop is behind.
pub type EventSink = tokio::sync::mpsc::Sender<Event>;

/// An authenticated user.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct UserInfo {
    /// Its name.
    pub name: String,
    /// Its UID; empty if it has none.
    pub uid: String,
    /// Its groups.
    pub groups: Vec<String>,
    /// More about it.
    pub extra: Vec<(String, Vec<String>)>,
}

/// A question of authorization: may `user` do `verb` to `nodes/<subresource>` of this node?
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AccessReview {
    /// Who.
    pub user: UserInfo,
    /// API-041.
    pub verb: String,
    /// API-042.
    pub subresource: String,
}

/// The container runtime: CRI v1, in domain types.
pub trait ContainerRuntime: Send + Sync {
    /// Makes one call. Deadlines are the caller's.
    fn call(&self, call: CriCall) -> BoxFuture<'_, Result<CriReply, Failure>>;

    /// Opens the stream of container events; each item names a pod of which something changed (CRI-032).
    fn events(&self) -> BoxFuture<'_, Result<BoxStream<'static, Result<PodUid, Failure>>, Failure>>;

    /// Asks for a streaming session; answers the URL to proxy to (API-102).
    fn stream_url(&self, request: StreamRequest) -> BoxFuture<'_, Result<String, Failure>>;

    /// Usage of all containers: the raw CRI answer, for the stats endpoints (CRI-027).
    fn container_stats(&self) -> BoxFuture<'_, Result<Vec<proto::cri::ContainerStats>, Failure>>;
}

/// A streaming session to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamRequest {
    /// Exec.
    Exec {
        /// The container's ID.
        container: String,
        /// The command.
        command: Vec<String>,
        /// Whether it gets a terminal.
        tty: bool,
        /// Which streams.
        stdin: bool,
        /// See `stdin`.
        stdout: bool,
        /// See `stdin`.
        stderr: bool,
    },
    /// Attach.
    Attach {
        /// The container's ID.
        container: String,
        /// Whether it has a terminal.
        tty: bool,
        /// Which streams.
        stdin: bool,
        /// See `stdin`.
        stdout: bool,
        /// See `stdin`.
        stderr: bool,
    },
    /// Port forward.
    PortForward {
        /// The sandbox's ID.
        sandbox: String,
        /// The ports; empty for SPDY, which names them in its streams.
        ports: Vec<i32>,
    },
}

/// The machine. Operations block for as long as the disk does; an implementation keeps that away from the event loop.
pub trait Host: Send + Sync {
    /// Does one operation.
    fn call(&self, call: HostCall) -> BoxFuture<'_, Result<HostReply, Failure>>;

    /// Reads the last bytes of a file, at most `limit`; `Ok(None)` if there is none.
    fn read_tail(&self, path: String, limit: usize) -> BoxFuture<'_, Result<Option<Vec<u8>>, Failure>>;

    /// Opens a log file for reading; reads at its end wait neither for more nor for ever (see [`LogFile::changed`]).
    fn open_log(&self, path: String) -> BoxFuture<'_, Result<Box<dyn LogFile>, Failure>>;

    /// CPU, memory and processes of one cgroup, by its name such as `/kubepods`; `Ok(None)` if there is none. Pressure, which is in files
    /// of its own, is read only if that is asked for.
    fn cgroup_usage(&self, cgroup: String, pressure: bool) -> BoxFuture<'_, Result<Option<CgroupUsage>, Failure>>;

    /// Bytes and inodes that a directory tree uses, without crossing mounts.
    fn tree_usage(&self, path: String) -> BoxFuture<'_, Result<(u64, u64), Failure>>;

    /// Hints that something changed in the plugins' registry since it was listed (CSI-001). Ends where they cannot be had.
    fn plugin_changes(&self) -> BoxStream<'static, ()>;

    /// Hints that something changed at the static pod path since it was read (POD-007). Ends where they cannot be had.
    fn manifest_changes(&self) -> BoxStream<'static, ()>;

    /// The core begins to work for a pod, or for none: should the process die of it, the next life is told. Called often, from the
    /// thread that decides, so it takes no longer than a write to memory that the kernel keeps. In the simulator a planted panic
    /// strikes here.
    fn works_for(&self, work: Option<(Point, &PodUid)>);

    /// The pods that earlier lives died of, with how often in a row; what this life works for is noted from here on.
    fn suspects(&self) -> BoxFuture<'_, Vec<(PodUid, u32)>>;

    /// Tells systemd that the service is up (API-295). Does nothing where there is none.
    fn notify_ready(&self);
}

/// An open log.
#[expect(clippy::len_without_is_empty, reason = "a length in bytes that grows, not a collection")]
pub trait LogFile: Send {
    /// Reads on from where the last read ended; empty at the end.
    fn read(&mut self, limit: usize) -> BoxFuture<'_, io::Result<Vec<u8>>>;

    /// Moves to a byte.
    fn seek(&mut self, to: u64) -> BoxFuture<'_, io::Result<()>>;

    /// The file's length now.
    fn len(&mut self) -> BoxFuture<'_, io::Result<u64>>;

    /// Whether the path now leads to another file: it was rotated.
    fn replaced(&mut self) -> BoxFuture<'_, io::Result<bool>>;

    /// Waits for a hint that there is more to read, or that the path leads elsewhere; the first one comes at once. False at once where
    /// there are no hints: then the reader looks by itself.
    fn changed(&mut self) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(false))
    }
}

/// How much of the time tasks stalled for want of something, as the kernel tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stall {
    /// Of the last ten seconds, in percent.
    pub avg10: f64,
    /// Of the last minute, in percent.
    pub avg60: f64,
    /// Of the last five minutes, in percent.
    pub avg300: f64,
    /// In all, in microseconds.
    pub total: u64,
}

/// Pressure for one resource (API-123).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    /// While some tasks stalled.
    pub some: Stall,
    /// While all of them did.
    pub full: Stall,
}

/// What a cgroup uses now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CgroupUsage {
    /// CPU time in nanoseconds since it was made.
    pub cpu_nanos: u64,
    /// Memory in bytes, page cache included.
    pub memory: u64,
    /// Memory less inactive file cache (NODE-125).
    pub working_set: u64,
    /// Anonymous memory in bytes.
    pub rss: u64,
    /// Page faults.
    pub page_faults: u64,
    /// Major page faults.
    pub major_page_faults: u64,
    /// Memory limit in bytes; `None` if there is none.
    pub memory_limit: Option<u64>,
    /// Swap in bytes.
    pub swap: Option<u64>,
    /// Swap limit in bytes; `None` if there is none, or none is known.
    pub swap_limit: Option<u64>,
    /// Processes of this cgroup itself, not of those below it.
    pub processes: Option<u64>,
    /// Threads, those below it included.
    pub threads: Option<u64>,
    /// CPU time in user mode in nanoseconds.
    pub user_nanos: Option<u64>,
    /// CPU time in the kernel in nanoseconds.
    pub system_nanos: Option<u64>,
    /// Periods that the quota was enforced in, those of them that it throttled, and for how many nanoseconds.
    pub cfs: Option<(u64, u64, u64)>,
    /// Page cache in bytes.
    pub cache: Option<u64>,
    /// Mapped files in bytes.
    pub mapped_file: Option<u64>,
    /// The most memory that it had, in bytes.
    pub max_memory: Option<u64>,
    /// How often it hit its memory limit.
    pub memory_failures: Option<u64>,
    /// How often something of it was killed for want of memory.
    pub oom_kills: Option<u64>,
    /// Pressure for CPU; `None` if it was not asked for or the kernel does not measure it.
    pub cpu_pressure: Option<Pressure>,
    /// Pressure for memory.
    pub memory_pressure: Option<Pressure>,
    /// Pressure for disks.
    pub io_pressure: Option<Pressure>,
    /// Page cache that was used lately, in bytes.
    pub active_file: Option<u64>,
    /// Page cache that was not, in bytes.
    pub inactive_file: Option<u64>,
    /// Memory of the kernel in bytes, where it is counted apart.
    pub kernel_memory: Option<u64>,
    /// Periods in which it went above its quota on what it had saved, and for how many nanoseconds.
    pub bursts: (u64, u64),
    /// How many threads it may have; `None` if there is no limit.
    pub threads_max: Option<u64>,
    /// One process of this cgroup itself.
    pub first_process: Option<u32>,
    /// When it was made, as far as its files tell.
    pub made: Option<Timestamp>,
    /// What its CPU is set to; `None` without the controller.
    pub cpu_settings: Option<CpuSettings>,
    /// What its memory is set to; `None` without the controller.
    pub memory_settings: Option<MemorySettings>,
    /// What it read and wrote, by device.
    pub disks: Vec<DiskUsage>,
}

/// What the CPU of a cgroup is set to, in the units of version 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuSettings {
    /// Shares.
    pub shares: u64,
    /// Microseconds of each period; `None` if there is no quota.
    pub quota: Option<u64>,
    /// Microseconds.
    pub period: u64,
}

/// What the memory of a cgroup is set to, in bytes; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemorySettings {
    /// The limit.
    pub limit: u64,
    /// That of swap; of version 1, of memory and swap.
    pub swap_limit: u64,
    /// What is kept for it.
    pub reservation: u64,
}

/// What a cgroup did to one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Major and minor number.
    pub device: (u32, u32),
    /// Bytes read, and read requests.
    pub read: (u64, u64),
    /// Bytes written, and write requests.
    pub written: (u64, u64),
}

/// A byte stream.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A byte stream of whatever kind.
pub type BoxedStream = Pin<Box<dyn Stream>>;

/// Where to connect to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Endpoint {
    /// Host name or IP, and port.
    Tcp {
        /// Host name or IP.
        host: String,
        /// Port.
        port: u16,
    },
    /// A Unix socket's path.
    Unix(String),
}

/// Byte streams. TLS lies above it.
pub trait Net: Send + Sync {
    /// Opens a stream. The deadline is the caller's.
    fn connect(&self, endpoint: Endpoint) -> BoxFuture<'_, io::Result<BoxedStream>>;

    /// The same for a pod, whose spec names the host: should nobody answer for that name, it is this pod that waits.
    fn connect_for(&self, pod: String, endpoint: Endpoint) -> BoxFuture<'_, io::Result<BoxedStream>> {
        let _counted_nowhere = pod;
        self.connect(endpoint)
    }

    /// Listens on an address.
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>>;
}

/// A listening socket.
pub trait Listener: Send {
    /// The next stream and where it came from.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxedStream, SocketAddr)>>;

    /// The address in use.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// The wall clock. Monotonic time is tokio's, hence virtual in simulation.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;
}
