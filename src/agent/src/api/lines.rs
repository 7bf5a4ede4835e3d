//! The lines of a body that goes on: one event of a watch each.
//! Upstream: k8s.io/apimachinery/pkg/runtime/serializer/json (Framer).
//! Differs: of a line that is too long the beginning is told, which says whose it is; upstream has no limit.

use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use kube::client::Body;

use super::scan::OBJECT_LIMIT;

/// The longest line of a watch.
const LINE_LIMIT: usize = OBJECT_LIMIT;

/// A line, or the beginning of one that is too long.
pub(super) struct Line {
    pub(super) bytes: Bytes,
    pub(super) whole: bool,
}

/// A body, line by line.
pub(super) struct Lines {
    body: Body,
    buffer: BytesMut,
    /// How far it has been looked through for the end of the line.
    searched: usize,
    /// The beginning of a line whose rest is left out.
    cut: Option<Bytes>,
}

impl Lines {
    pub(super) fn new(body: Body) -> Self {
        Self { body, buffer: BytesMut::new(), searched: 0, cut: None }
    }

    /// The next line; `None` at the end, however it came. Half a line at the end is none: it will come again.
    pub(super) async fn next(&mut self) -> Option<Line> {
        loop {
            let unsearched = self.buffer.get(self.searched..).unwrap_or_default();
            if let Some(end) = unsearched.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.searched + end);
                self.buffer.advance(1);
                self.searched = 0;
                return Some(match self.cut.take() {
                    None => Line { bytes: line.freeze(), whole: true },
                    Some(bytes) => Line { bytes, whole: false },
                });
            }
            self.searched = self.buffer.len();
            if self.cut.is_some() {
                self.buffer.clear();
                self.searched = 0;
            } else if self.buffer.len() > LINE_LIMIT {
                self.cut = Some(self.buffer.split().freeze());
                self.searched = 0;
            }
            let Some(Ok(frame)) = self.body.frame().await else { return None };
            if let Some(data) = frame.data_ref() {
                self.buffer.extend_from_slice(data);
            }
        }
    }
}
