//! Tells the service manager that the agent is up.
//! Upstream: github.com/coreos/go-systemd/v22/daemon (SdNotify).
//! Differs: nothing on purpose.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Sends `READY=1` (API-295) to a socket; one whose name begins with `@` is abstract.
pub(super) fn ready(socket: &OsStr) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    sender.send_to_addr(b"READY=1", &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::super::testing::Scratch;
    use super::*;

    // API-295
    #[test]
    fn service_manager_is_told() {
        let scratch = Scratch::new();
        let path = scratch.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        ready(path.as_os_str()).unwrap();
        let mut buffer = [0; 64];
        let length = manager.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1");
        assert!(ready(scratch.path().join("none").as_os_str()).is_err());
    }
}
