//! Knows when what a connection was given to write has left it, so that the end of an answer goes in a write of its own.
//! Upstream: net/http (chunkWriter.close): a handler's last words and the end of the body are two writes, and two records of TLS.
//! Differs: nothing on purpose: an API server that makes a WebSocket of a log drops what comes together with the end
//! (apiserver/pkg/util/wsstream, messageCopy).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use crate::env::BoxedStream;

/// How often one connection had nothing more to write.
#[derive(Clone, Debug)]
pub(crate) struct Flushes(Arc<watch::Sender<u64>>);

impl Default for Flushes {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl Flushes {
    /// How often until now.
    pub(crate) fn count(&self) -> u64 {
        *self.0.borrow()
    }

    /// Waits until that was so more often than then: what was written until then has gone. As long as the client takes it, as a
    /// kubelet's handler does; with the connection the answer goes, and who waits here.
    pub(crate) async fn after(&self, count: u64) {
        // The sender lives as long as this.
        let _ = self.0.subscribe().wait_for(|now| *now > count).await;
    }
}

/// A connection's stream that tells of its flushes.
pub(crate) struct Watched {
    stream: BoxedStream,
    flushes: Flushes,
}

impl Watched {
    pub(crate) fn new(stream: BoxedStream, flushes: Flushes) -> Self {
        Self { stream, flushes }
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_read(context, buffer)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.stream.as_mut().poll_flush(context))?;
        self.flushes.0.send_modify(|count| *count += 1);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_shutdown(context)
    }
}
