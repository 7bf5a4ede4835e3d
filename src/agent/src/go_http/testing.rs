//! Servers for the tests of probes: each connection gets the next of some answers.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::env::{BoxedStream, Endpoint, Listener, Net};

/// Reads a request, says the next answer, and hangs up; refuses when there are no more.
#[derive(Clone, Default)]
pub(crate) struct Answers {
    answers: Arc<Mutex<VecDeque<Vec<u8>>>>,
    requests: Arc<Mutex<Vec<String>>>,
    at_once: bool,
}

impl Answers {
    pub(crate) fn of<A: Into<Vec<u8>>>(answers: impl IntoIterator<Item = A>) -> Self {
        let answers = answers.into_iter().map(Into::into).collect();
        Self { answers: Arc::new(Mutex::new(answers)), ..Self::default() }
    }

    pub(crate) fn none() -> Self {
        Self::default()
    }

    /// Answers whatever comes first: for what is no HTTP request.
    pub(crate) fn at_once(mut self) -> Self {
        self.at_once = true;
        self
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

impl Net for Answers {
    fn connect(&self, _: Endpoint) -> BoxFuture<'_, io::Result<BoxedStream>> {
        let Some(answer) = self.answers.lock().unwrap().pop_front() else {
            return Box::pin(async { Err(io::Error::from_raw_os_error(111)) });
        };
        let (requests, at_once) = (Arc::clone(&self.requests), self.at_once);
        Box::pin(async move {
            let (ours, mut theirs) = tokio::io::duplex(1 << 20);
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut some = [0; 4096];
                    let read = theirs.read(&mut some).await.unwrap();
                    request.extend_from_slice(&some[..read]);
                    if at_once || read == 0 {
                        break;
                    }
                }
                requests.lock().unwrap().push(String::from_utf8_lossy(&request).into_owned());
                theirs.write_all(&answer).await.unwrap();
            });
            Ok(Box::pin(ours) as BoxedStream)
        })
    }

    fn listen(&self, _: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }
}

/// One connection that is there already.
pub(crate) struct One(Mutex<Option<tokio::io::DuplexStream>>);

impl One {
    pub(crate) fn of(stream: tokio::io::DuplexStream) -> Self {
        Self(Mutex::new(Some(stream)))
    }
}

impl Net for One {
    fn connect(&self, _: Endpoint) -> BoxFuture<'_, io::Result<BoxedStream>> {
        let stream = self.0.lock().unwrap().take().unwrap();
        Box::pin(async { Ok(Box::pin(stream) as BoxedStream) })
    }

    fn listen(&self, _: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }
}
