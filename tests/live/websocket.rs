//! exec, attach and port-forward as clients without kubectl have them: a WebSocket whose messages begin with the number of a
//! channel. The pretend API server carries it on to the agent, and the agent to the runtime.

use std::collections::BTreeMap;
use std::io;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::header;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

use super::api::Api;

/// What was said, by channel. Of a command, 1 is its output, 2 its errors, 3 its outcome; of a port, 0 is what it said, 1 is what
/// went wrong, and both begin with its number.
pub(crate) type Channels = BTreeMap<u8, Vec<u8>>;

const PROTOCOL: &str = "v4.channel.k8s.io";
/// Any sixteen bytes.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

const BINARY: u8 = 0x82;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

impl Api {
    /// Opens a stream as an administrator, sends that on channel 0, and listens until there is enough or nothing more comes.
    pub(crate) fn streamed(&self, path: &str, input: &str, enough: impl Fn(&Channels) -> bool) -> anyhow::Result<Channels> {
        self.connected(path, async |mut sender| {
            let request = http::Request::get(path)
                .header(header::HOST, "api")
                .header(header::CONNECTION, "Upgrade")
                .header(header::UPGRADE, "websocket")
                .header(header::SEC_WEBSOCKET_VERSION, "13")
                .header(header::SEC_WEBSOCKET_KEY, KEY)
                .header(header::SEC_WEBSOCKET_PROTOCOL, PROTOCOL)
                .body(Full::<Bytes>::default())?;
            let response = sender.send_request(request).await?;
            if response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
                let code = response.status();
                let why = response.into_body().collect().await?.to_bytes();
                bail!("{path}: {code} {}", String::from_utf8_lossy(&why));
            }
            let mut stream = TokioIo::new(hyper::upgrade::on(response).await?);
            if !input.is_empty() {
                stream.write_all(&message(0, input.as_bytes())?).await?;
            }
            let mut channels = Channels::new();
            while !enough(&channels) {
                let Some(said) = next(&mut stream).await? else { break };
                if let Some((channel, data)) = said.split_first() {
                    channels.entry(*channel).or_default().extend_from_slice(data);
                }
            }
            Ok(channels)
        })
    }
}

/// A message in one frame. Clients must mask what they send; a mask of zeros leaves it as it is.
fn message(channel: u8, data: &[u8]) -> anyhow::Result<Vec<u8>> {
    let length = u8::try_from(data.len() + 1).ok().filter(|length| *length < 126).context("the tests send short messages only")?;
    let mut frame = vec![BINARY, 0x80 | length, 0, 0, 0, 0, channel];
    frame.extend_from_slice(data);
    Ok(frame)
}

/// The next message; nothing after the last one.
async fn next(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    loop {
        let mut head = [0; 2];
        match stream.read_exact(&mut head).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        };
        let length = match head[1] & 0x7f {
            126 => u64::from(stream.read_u16().await?),
            127 => stream.read_u64().await?,
            short => u64::from(short),
        };
        let mut data = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        stream.read_exact(&mut data).await?;
        match head[0] & 0x0f {
            CLOSE => return Ok(None),
            PING | PONG => {}
            _ => return Ok(Some(data)),
        }
    }
}
