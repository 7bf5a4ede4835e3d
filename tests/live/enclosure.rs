//! Namespaces of the tests' own: process IDs, mounts and network. A shell that reads from a pipe of ours is their first process;
//! when the pipe closes, however the tests end, it ends, and the kernel with it every process, mount and network device in them.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::wait::until;

/// How long the shell may take for what it is told.
const PATIENCE: Duration = Duration::from_secs(20);

/// Address of the node in its own network.
pub(crate) const NODE_IP: &str = "10.77.0.1";

/// What makes the enclosure fit for a node: mounts that no one else sees, and a network with a device that has an address,
/// a carrier and a default route, since a loopback address is none for a node.
const FURNITURE: &str = "set -e
mount --make-rshared /
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o mode=755 log /var/log
ip link set lo up
ip link add eth0 type bridge
ip addr add 10.77.0.1/24 dev eth0
ip link add up0 type veth peer name up1
ip link set up0 master eth0
ip link set up0 up
ip link set up1 up
ip link set eth0 up
ip route add default via 10.77.0.254 dev eth0
echo 1 >/proc/sys/net/ipv4/ip_forward
set +e";

/// The namespaces, for as long as this lives.
pub(crate) struct Enclosure {
    /// `unshare`, which is in the new mount and network namespaces and waits for the shell.
    outer: Child,
    shell: Mutex<Shell>,
}

struct Shell {
    orders: Option<ChildStdin>,
    answers: Receiver<String>,
}

/// The mounts inside, for whoever has to change them from another thread.
pub(crate) struct Mounts {
    namespace: String,
}

impl Mounts {
    /// Runs a command that sees them.
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new("nsenter");
        let output = command.arg(format!("--mount={}", self.namespace)).args(["--", program]).args(args).output()?;
        ensure!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

impl Enclosure {
    /// Makes the namespaces; what the shell complains about goes to that file.
    pub(crate) fn new(complaints: &Path) -> anyhow::Result<Self> {
        let mut outer = Command::new("unshare")
            .args(["--mount", "--net", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--", "/bin/sh"])
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(complaints)?)
            .spawn()
            .context("unshare")?;
        let orders = outer.stdin.take();
        let output = outer.stdout.take().ok_or_else(|| anyhow!("unshare has no output"))?;
        let (told, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if told.send(line).is_err() {
                    break;
                }
            }
        });
        let enclosure = Self { outer, shell: Mutex::new(Shell { orders, answers }) };
        let furnished = enclosure.order(FURNITURE);
        furnished.with_context(|| format!("namespaces: {}", std::fs::read_to_string(complaints).unwrap_or_default()))?;
        Ok(enclosure)
    }

    /// Has the shell do something; what it printed.
    pub(crate) fn order(&self, script: &str) -> anyhow::Result<Vec<String>> {
        let mut shell = self.shell.lock().map_err(|_| anyhow!("another order panicked"))?;
        let orders = shell.orders.as_mut().ok_or_else(|| anyhow!("the enclosure is closed"))?;
        writeln!(orders, "{script}\necho \"done $?\"").context("the enclosure's shell is gone")?;
        orders.flush()?;
        let mut said = Vec::new();
        loop {
            let line = shell.answers.recv_timeout(PATIENCE).with_context(|| format!("the shell does not answer: {script}"))?;
            match line.strip_prefix("done ") {
                Some("0") => return Ok(said),
                Some(code) => bail!("exit code {code} of {script}: {said:?}"),
                None => said.push(line),
            }
        }
    }

    /// Starts a daemon; its process ID inside.
    pub(crate) fn start(&self, command: &str, log: &Path) -> anyhow::Result<u32> {
        let said = self.order(&format!("{command} </dev/null >>{} 2>&1 &\necho $!", log.display()))?;
        said.last().and_then(|pid| pid.parse().ok()).ok_or_else(|| anyhow!("{command}: no process ID in {said:?}"))
    }

    /// Ends a daemon by that signal (`TERM`, `KILL`) and waits for its end; its exit code.
    pub(crate) fn end(&self, pid: u32, signal: &str) -> anyhow::Result<i32> {
        self.order(&format!("kill -{signal} {pid}"))?;
        until(&format!("end of process {pid}"), PATIENCE, || if self.runs(pid) { Err("it runs") } else { Ok(()) })?;
        let code = self.order(&format!("wait {pid}; echo $?"))?;
        Ok(code.last().and_then(|code| code.parse().ok()).unwrap_or(-1))
    }

    /// Whether a process inside runs.
    pub(crate) fn runs(&self, pid: u32) -> bool {
        let status = std::fs::read_to_string(self.path(format!("/proc/{pid}/status"))).unwrap_or_default();
        status.lines().find_map(|line| line.strip_prefix("State:")).is_some_and(|state| !state.trim().starts_with(['Z', 'X']))
    }

    /// A path inside, as it is reached from outside.
    pub(crate) fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        Path::new("/proc").join(self.outer.id().to_string()).join("root").join(inside.strip_prefix("/").unwrap_or(inside))
    }

    /// A command that runs inside, with an end.
    pub(crate) fn command(&self, program: &str) -> Command {
        let namespaces = format!("/proc/{}/ns", self.outer.id());
        let mut command = Command::new("timeout");
        command.args(["--kill-after=1", "30", "nsenter"]);
        command.arg(format!("--mount={namespaces}/mnt")).arg(format!("--net={namespaces}/net"));
        command.arg(format!("--pid={namespaces}/pid_for_children")).args(["--", program]).stdin(Stdio::null());
        command
    }

    /// Runs a command inside; its output.
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> anyhow::Result<String> {
        let output = self.command(program).args(args).output().with_context(|| program.to_owned())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if !output.status.success() {
            bail!("{program} {args:?}: {}: {}{}", output.status, text(&output.stdout), text(&output.stderr));
        }
        Ok(text(&output.stdout))
    }

    /// Its mounts.
    pub(crate) fn mounts(&self) -> Mounts {
        Mounts { namespace: format!("/proc/{}/ns/mnt", self.outer.id()) }
    }

    /// Moves the calling thread, and all threads and processes that it will start, into the network inside.
    pub(crate) fn enter_network(&self) -> anyhow::Result<()> {
        let namespace = File::open(format!("/proc/{}/ns/net", self.outer.id()))?;
        use std::os::fd::AsFd as _;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).context("setns")
    }

    /// Ends everything inside.
    pub(crate) fn close(mut self) -> anyhow::Result<()> {
        self.shell.get_mut().map_err(|_| anyhow!("an order panicked"))?.orders.take();
        let ended = until("end of the enclosure", PATIENCE, || match self.outer.try_wait() {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        if ended.is_err() {
            self.outer.kill()?;
            self.outer.wait()?;
        }
        ended
    }
}
