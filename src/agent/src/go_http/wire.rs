//! Connections: opened for one exchange, with what the other side said first kept, for that is what an error quotes.
//! Upstream: pkg/probe/dialer_others.go, Go's net/http and crypto/tls (their errors).
//! Differs: nothing on purpose.

use std::error::Error as _;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::env::{BoxedStream, Endpoint, Net};
use crate::go_text::{dial_error, io_error, quote};
use crate::tls::{connect_trusted, connect_unverified};

/// As much of an answer as an error may quote.
const KEPT: usize = 1024;

/// What Go says of a server that answers a TLS handshake in plain HTTP; a lifecycle hook is then tried again without TLS.
pub(crate) const HTTP_ON_HTTPS: &str = "http: server gave HTTP response to HTTPS client";

/// The first bytes that the other side said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard(Arc<Mutex<Vec<u8>>>);

impl Heard {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is heard is kept for somebody else as well.
    pub(crate) fn share(stream: BoxedStream, heard: Self) -> BoxedStream {
        Box::pin(Listening { stream, heard, asks_first: false, waits: None })
    }

    fn hears(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = KEPT - kept.len();
        kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

/// A stream that keeps the first bytes that come over it.
struct Listening {
    stream: BoxedStream,
    heard: Heard,
    /// Nothing is read until something was written: hyper takes what comes before its request for a fault, and a server may well
    /// answer as soon as somebody connects.
    asks_first: bool,
    /// Who waits for that.
    waits: Option<Waker>,
}

impl AsyncRead for Listening {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.asks_first {
            self.waits = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let polled = self.stream.as_mut().poll_read(cx, buf);
        self.heard.hears(&buf.filled()[before..]);
        polled
    }
}

impl AsyncWrite for Listening {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = self.stream.as_mut().poll_write(cx, buf);
        if polled.is_ready() {
            self.asks_first = false;
            self.waits.take().into_iter().for_each(Waker::wake);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_shutdown(cx)
    }
}

/// For one request: what is heard before it is its answer all the same.
fn asking(stream: BoxedStream) -> (BoxedStream, Heard) {
    let heard = Heard::default();
    (Box::pin(Listening { stream, heard: heard.clone(), asks_first: true, waits: None }), heard)
}

/// Connects, with TLS if asked for; whatever certificate the other side has will do.
///
/// # Errors
/// In Go's words.
pub(crate) async fn open(net: &dyn Net, https: bool, host: &str, port: u16) -> Result<(BoxedStream, Heard), String> {
    let endpoint = Endpoint::Tcp { host: host.to_owned(), port };
    let stream = net.connect(endpoint).await.map_err(|error| dial_error(host, port, &error))?;
    if !https {
        return Ok(asking(stream));
    }
    let heard = Heard::default();
    match connect_unverified(Heard::share(stream, heard.clone()), host).await {
        Ok(stream) => Ok(asking(stream)),
        Err(error) => Err(handshake_error(&error, &heard.bytes())),
    }
}

/// The same, and the other side's certificate must be one that the machine trusts.
///
/// # Errors
/// In Go's words, but for what is wrong with a certificate.
pub(crate) async fn open_verified(net: &dyn Net, https: bool, host: &str, port: u16) -> Result<(BoxedStream, Heard), String> {
    if !https {
        return open(net, https, host, port).await;
    }
    let endpoint = Endpoint::Tcp { host: host.to_owned(), port };
    let stream = net.connect(endpoint).await.map_err(|error| dial_error(host, port, &error))?;
    let heard = Heard::default();
    match connect_trusted(Heard::share(stream, heard.clone()), host).await {
        Ok(stream) => Ok(asking(stream)),
        Err(error) => Err(handshake_error(&error, &heard.bytes())),
    }
}

fn handshake_error(error: &io::Error, heard: &[u8]) -> String {
    if heard.starts_with(b"HTTP/") {
        HTTP_ON_HTTPS.to_owned()
    } else if error.kind() == io::ErrorKind::UnexpectedEof {
        "EOF".to_owned()
    } else if error.to_string().contains("InvalidContentType") {
        "tls: first record does not look like a TLS handshake".to_owned()
    } else {
        error.to_string()
    }
}

/// What Go says of an exchange that hyper could not make, after the other side had said so much.
pub(crate) fn exchange_error(error: &hyper::Error, heard: &[u8]) -> String {
    if error.is_parse() {
        return malformed(heard).or_else(|| malformed_header(heard)).unwrap_or_else(|| error.to_string());
    }
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        // Go's word for a server that hangs up.
        return if heard.is_empty() { "EOF".to_owned() } else { "unexpected EOF".to_owned() };
    }
    if cause(error).is_some_and(|cause| cause.kind() == io::ErrorKind::InvalidInput && cause.to_string().contains("chunk")) {
        return "invalid byte in chunk length".to_owned();
    }
    // A body that ends too soon.
    if cause(error).is_some_and(|cause| cause.kind() == io::ErrorKind::UnexpectedEof) {
        return "unexpected EOF".to_owned();
    }
    // Go names the addresses of the connection as well.
    cause(error).map_or_else(|| error.to_string(), |cause| format!("read: {}", io_error(cause)))
}

fn cause(error: &hyper::Error) -> Option<&io::Error> {
    error.source()?.downcast_ref()
}

/// What is wrong with the first line of an answer, if it is that.
fn malformed(heard: &[u8]) -> Option<String> {
    let line = heard.split(|byte| *byte == b'\n').next()?;
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let Some(blank) = line.iter().position(|byte| *byte == b' ') else {
        return Some(format!("malformed HTTP response {}", quote(line)));
    };
    let (version, rest) = (&line[..blank], line[blank..].trim_ascii_start());
    let code = rest.split(|byte| *byte == b' ').next().unwrap_or_default();
    if code.len() != 3 || !code.iter().all(u8::is_ascii_digit) {
        return Some(format!("malformed HTTP status code {}", quote(code)));
    }
    let known = matches!(version, b"HTTP/1.0" | b"HTTP/1.1");
    (!known).then(|| format!("malformed HTTP version {}", quote(version)))
}

/// What is wrong with the headers of an answer, if their end or the fault was heard (net/textproto, readMIMEHeader; net/http,
/// fixLength).
fn malformed_header(heard: &[u8]) -> Option<String> {
    let mut lines = heard.split(|byte| *byte == b'\n');
    let rest = lines.next_back().unwrap_or_default();
    let lines = lines.skip(1).map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut lengths: Vec<String> = Vec::new();
    let mut is_whole = false;
    for (at, line) in lines.enumerate() {
        is_whole = line.is_empty();
        if is_whole {
            break;
        }
        if line.starts_with(b" ") || line.starts_with(b"\t") {
            if at == 0 {
                return Some(format!("malformed MIME header initial line: {}", String::from_utf8_lossy(line)));
            }
            continue;
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            return Some(format!("malformed MIME header: missing colon: {}", quote(line)));
        };
        let (name, value) = (line[..colon].trim_ascii_end(), line[colon + 1..].trim_ascii());
        if name.is_empty() || name.iter().chain(value).any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return Some(format!("malformed MIME header line: {}", String::from_utf8_lossy(line)));
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
                return Some(format!("bad Content-Length {}", quote(value)));
            }
            lengths.push(quote(value));
        }
    }
    lengths.dedup();
    if lengths.len() > 1 {
        return Some(format!("http: message cannot contain multiple Content-Length headers; got [{}]", lengths.join(" ")));
    }
    // The connection ended within a line, or more was said than is kept.
    (!is_whole && heard.len() < KEPT && !rest.is_empty() && !rest.contains(&b':'))
        .then(|| format!("malformed MIME header: missing colon: {}", quote(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Each as recorded of a kubelet 1.36.2.
    #[test]
    fn headers_that_are_none_are_told_in_gos_words() {
        for (headers, told) in [
            ("no colon here\r\n\r\n", "malformed MIME header: missing colon: \"no colon here\""),
            (" first: b\r\n\r\n", "malformed MIME header initial line:  first: b"),
            (": b\r\n\r\n", "malformed MIME header line: : b"),
            ("Content-Length: many\r\n\r\n", "bad Content-Length \"many\""),
            (
                "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
                "http: message cannot contain multiple Content-Length headers; got [\"3\" \"4\"]",
            ),
        ] {
            let heard = format!("HTTP/1.1 200 OK\r\n{headers}");
            assert_eq!(malformed_header(heard.as_bytes()).as_deref(), Some(told));
        }
        assert_eq!(malformed_header(b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\nContent-Length: 2\r\n\r\nok"), None);
    }

    // The first as recorded of the kubelet (case 098), the others after net/http's ReadResponse.
    #[test]
    fn answer_that_is_no_http_is_quoted() {
        assert_eq!(malformed(b"nonsense\n").unwrap(), "malformed HTTP response \"nonsense\"");
        assert_eq!(malformed(b"\x15\x03\x01\x00\x02\x02").unwrap(), "malformed HTTP response \"\\x15\\x03\\x01\\x00\\x02\\x02\"");
        assert_eq!(malformed(b"HTTP/1.1 20 OK\r\n").unwrap(), "malformed HTTP status code \"20\"");
        assert_eq!(malformed(b"SSH-2.0 200 x\r\n").unwrap(), "malformed HTTP version \"SSH-2.0\"");
        assert_eq!(malformed(b"HTTP/1.1 200 OK\r\n"), None);
    }

    #[test]
    fn mangled_answer_is_quoted_or_not() {
        crate::mangled::each("http answer", &[b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n", b"SSH-2.0-x\r\n", b"HTTP/9.9 \xff"], |input| {
            let _complaint = malformed(input);
        });
    }
}
