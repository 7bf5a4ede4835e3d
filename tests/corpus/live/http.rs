//! Requests to the API server as an administrator, by way of `kubectl proxy`, which sees to TLS.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

/// Where `kubectl proxy` listens, inside the enclosure's network.
pub(super) const PORT: u16 = 8001;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks, and gives the code and the text of the answer. `kind` is that of the body.
pub(super) fn ask(method: &str, path: &str, kind: &str, body: &str) -> anyhow::Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", PORT)).context("kubectl proxy")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // An answer in the older protocol ends with its connection.
    let head =
        format!("{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).with_context(|| format!("{method} {path}"))?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, text) = answer.split_once("\r\n\r\n").with_context(|| format!("{method} {path}: {answer}"))?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).with_context(|| head.to_owned())?;
    Ok((code, text.to_owned()))
}

/// Asks with an object, if any, and gives the code and the object of the answer.
pub(super) fn call(method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<(u16, Value)> {
    call_with(method, path, "application/json", body)
}

/// The same with another kind of body.
pub(super) fn call_with(method: &str, path: &str, kind: &str, body: Option<&Value>) -> anyhow::Result<(u16, Value)> {
    let (code, text) = ask(method, path, kind, &body.map(Value::to_string).unwrap_or_default())?;
    Ok((code, serde_json::from_str(&text).unwrap_or(Value::String(text))))
}

/// What a request must be answered.
pub(super) fn must(answer: (u16, Value)) -> anyhow::Result<Value> {
    match answer {
        (200..300, object) => Ok(object),
        (code, status) => bail!("{code} {}", status["message"].as_str().unwrap_or_default()),
    }
}
