//! Errors in the words of Go's library, which users know from upstream's events and search for.
//! Upstream: Go's syscall.Errno, os, net and strconv.
//! Differs: nothing on purpose.

use std::fmt::Write as _;
use std::io;

/// `no such file or directory` instead of `No such file or directory (os error 2)`.
pub(crate) fn io_error(error: &io::Error) -> String {
    let text = error.to_string();
    let Some((text, _)) = text.split_once(" (os error") else { return text };
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// Why a connection could not be made: what `net.Dialer` says of it.
pub(crate) fn dial_error(host: &str, port: u16, error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::TimedOut {
        // A name that nobody answers for is what a connection waits for longest.
        if host.parse::<std::net::IpAddr>().is_err() {
            return format!("dial tcp: lookup {host}: i/o timeout");
        }
        return format!("dial tcp {}: i/o timeout", join_host_port(host, port));
    }
    if error.to_string().starts_with("failed to lookup address information") {
        return format!("dial tcp: lookup {host}: no such host");
    }
    format!("dial tcp {}: connect: {}", join_host_port(host, port), io_error(error))
}

/// `net.JoinHostPort`: an IPv6 address gets its brackets.
pub(crate) fn join_host_port(host: &str, port: u16) -> String {
    if host.contains([':', '%']) { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Bytes as `%q` prints them.
pub(crate) fn quote(bytes: &[u8]) -> String {
    let mut quoted = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            // Writing to a String cannot fail.
            let _ = match letter {
                '"' | '\\' => write!(quoted, "\\{letter}"),
                '\n' => write!(quoted, "\\n"),
                '\r' => write!(quoted, "\\r"),
                '\t' => write!(quoted, "\\t"),
                '\x07' => write!(quoted, "\\a"),
                '\x08' => write!(quoted, "\\b"),
                '\x0b' => write!(quoted, "\\v"),
                '\x0c' => write!(quoted, "\\f"),
                letter if letter.is_ascii_control() => write!(quoted, "\\x{:02x}", u32::from(letter)),
                letter => write!(quoted, "{letter}"),
            };
        }
        for byte in chunk.invalid() {
            let _ = write!(quoted, "\\x{byte:02x}");
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    // The first as recorded of the kubelet (case 089).
    #[test]
    fn errors_read_as_gos() {
        let refused = io::Error::from_raw_os_error(111);
        assert_eq!(dial_error("10.0.0.2", 81, &refused), "dial tcp 10.0.0.2:81: connect: connection refused");
        assert_eq!(dial_error("fd00::2", 81, &refused), "dial tcp [fd00::2]:81: connect: connection refused");
        let nobody = io::Error::other("failed to lookup address information: Name or service not known");
        assert_eq!(dial_error("nobody", 81, &nobody), "dial tcp: lookup nobody: no such host");
        // As recorded of the kubelet: a TCP probe of a host whose name servers do not answer.
        let late = || io::Error::from(io::ErrorKind::TimedOut);
        assert_eq!(dial_error("nobody.invalid", 80, &late()), "dial tcp: lookup nobody.invalid: i/o timeout");
        assert_eq!(dial_error("10.0.0.2", 80, &late()), "dial tcp 10.0.0.2:80: i/o timeout");
    }

    #[test]
    fn bytes_are_quoted_as_go_does() {
        assert_eq!(quote(b"nonsense"), "\"nonsense\"");
        assert_eq!(quote(b"\x15\x03\x01\x00\x02\x02\xff\"\\\n"), "\"\\x15\\x03\\x01\\x00\\x02\\x02\\xff\\\"\\\\\\n\"");
    }

    #[test]
    fn whatever_is_quoted_is_one_line() {
        crate::mangled::each("quoted", &[b"a\xff\x00\"\n", "\u{10ffff}\u{7f}".as_bytes()], |input| {
            let quoted = quote(input);
            assert!(!quoted.contains(char::is_control), "{quoted}");
            let _host = join_host_port(&crate::mangled::text(input), 1);
        });
    }
}
