//! The lines of a body that goes on: one event of a watch each.
//! Upstream: k8s.io/apimachinery/pkg/runtime/serializer/json (Framer).
//! Differs: nothing on purpose.

use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use kube::client::Body;
use kubelet::failure::{Failure, FailureKind};

/// The longest line of a watch: the largest object that etcd takes, and some.
const LINE_LIMIT: usize = 8 << 20;

/// A body, line by line.
pub(super) struct Lines {
    body: Body,
    buffer: BytesMut,
}

impl Lines {
    pub(super) fn new(body: Body) -> Self {
        Self { body, buffer: BytesMut::new() }
    }

    /// The next line; `None` at the end, however it came. Half a line at the end is none: it will come again.
    ///
    /// # Errors
    /// If a line is too long.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end);
                self.buffer.advance(1);
                return Ok(Some(line.freeze()));
            }
            if self.buffer.len() > LINE_LIMIT {
                return Err(Failure::new(FailureKind::Other, "a line of the watch is too long"));
            }
            let Some(Ok(frame)) = self.body.frame().await else { return Ok(None) };
            if let Some(data) = frame.data_ref() {
                self.buffer.extend_from_slice(data);
            }
        }
    }
}
