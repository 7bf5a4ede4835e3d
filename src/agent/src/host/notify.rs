//! Tells the service manager that the agent is up, and that it is alive.
//! Upstream: github.com/coreos/go-systemd/v22/daemon (SdNotify, SdWatchdogEnabled), pkg/kubelet/watchdog/watchdog_linux.go.
//! Differs: nothing on purpose.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::config::GoDuration;

/// The least time that a watchdog may have (minimalNotifyInterval).
const LEAST: Duration = Duration::from_secs(1);

/// Sends `READY=1` (API-295) to a socket; one whose name begins with `@` is abstract.
pub(super) fn ready(socket: &OsStr) -> io::Result<()> {
    send(socket, b"READY=1")
}

/// Where the service manager is told, if it wants to be.
pub(super) fn socket() -> Option<OsString> {
    std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty())
}

fn send(socket: &OsStr, message: &[u8]) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    sender.send_to_addr(message, &address).map(drop)
}

/// Sends `WATCHDOG=1` to systemd.
///
/// # Errors
/// In upstream's words if there is nobody to tell.
pub fn notify_watchdog() -> io::Result<()> {
    notify_watchdog_at(socket())
}

fn notify_watchdog_at(socket: Option<OsString>) -> io::Result<()> {
    let unset = "failed to notify systemd watchdog, notification not supported - (i.e. NOTIFY_SOCKET is unset)";
    send(&socket.ok_or_else(|| io::Error::other(unset))?, b"WATCHDOG=1")
}

/// After how long without a word systemd kills this process; `None` if it does not watch it. Reads `WATCHDOG_USEC` and `WATCHDOG_PID`.
///
/// # Errors
/// In upstream's words, if they make no sense: the process is not to start then.
pub fn watchdog() -> Result<Option<Duration>, String> {
    let variable = |name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()).unwrap_or_default();
    watched_for(&variable("WATCHDOG_USEC"), &variable("WATCHDOG_PID"), std::process::id())
        .map_err(|why| format!("create health checker: configure watchdog{why}"))
}

fn watched_for(usec: &str, pid: &str, own: u32) -> Result<Option<Duration>, String> {
    let number = |name: &str, text: &str| {
        // Go's Atoi takes a sign.
        text.parse::<i64>().map_err(|error| {
            let why = if matches!(error.kind(), std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow) {
                "value out of range"
            } else {
                "invalid syntax"
            };
            format!(": error converting {name}: strconv.Atoi: parsing {text:?}: {why}")
        })
    };
    if usec.is_empty() {
        return Ok(None);
    }
    let limit = match u64::try_from(number("WATCHDOG_USEC", usec)?) {
        Ok(usec) if usec > 0 => Duration::from_micros(usec),
        _ => return Err(": error WATCHDOG_USEC must be a positive number".to_owned()),
    };
    if !pid.is_empty() && number("WATCHDOG_PID", pid)? != i64::from(own) {
        return Ok(None);
    }
    if limit <= LEAST {
        let limit = GoDuration::from_nanos(i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX));
        return Err(format!(" timeout too small: {limit}"));
    }
    Ok(Some(limit))
}

#[cfg(test)]
mod tests {
    use super::super::testing::Scratch;
    use super::*;

    // API-295, NODE-009
    #[test]
    fn service_manager_is_told() {
        let scratch = Scratch::new();
        let path = scratch.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let told = || {
            let mut buffer = [0; 64];
            let length = manager.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        };
        ready(path.as_os_str()).unwrap();
        assert_eq!(told(), "READY=1");
        notify_watchdog_at(Some(path.into_os_string())).unwrap();
        assert_eq!(told(), "WATCHDOG=1");
        assert!(ready(scratch.path().join("none").as_os_str()).is_err());
        let unset = notify_watchdog_at(None).unwrap_err().to_string();
        assert_eq!(unset, "failed to notify systemd watchdog, notification not supported - (i.e. NOTIFY_SOCKET is unset)");
    }

    // NODE-009: SdWatchdogEnabled and NewHealthChecker, in their words.
    #[test]
    fn watchdog_is_one_that_watches_this_process() {
        let of = |usec: &str, pid: &str| watched_for(usec, pid, 7);
        let watched = |seconds| Ok(Some(Duration::from_secs(seconds)));
        assert_eq!((of("", "7"), of("30000000", ""), of("30000000", "7")), (Ok(None), watched(30), watched(30)));
        assert_eq!(of("30000000", "8"), Ok(None), "it watches another");
        let refused = |usec: &str, pid: &str| of(usec, pid).unwrap_err();
        assert_eq!(refused("x", ""), ": error converting WATCHDOG_USEC: strconv.Atoi: parsing \"x\": invalid syntax");
        assert_eq!(refused("0", ""), ": error WATCHDOG_USEC must be a positive number");
        assert_eq!(refused("-5", ""), ": error WATCHDOG_USEC must be a positive number");
        assert_eq!(refused("30000000", "x"), ": error converting WATCHDOG_PID: strconv.Atoi: parsing \"x\": invalid syntax");
        assert_eq!(
            (refused("1000000", ""), refused("1500", "")),
            (" timeout too small: 1s".into(), " timeout too small: 1.5ms".into())
        );
        assert_eq!(of("500000", "8"), Ok(None));
    }
}
