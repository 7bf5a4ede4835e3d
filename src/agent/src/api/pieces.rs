//! A successful answer's body as it comes: nobody holds it as a whole, so no size of it is too much.
//! Upstream: k8s.io/client-go/rest/request.go.
//! Differs: an answer that stops coming is given up, and with it the connection; upstream waits for its pings.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use kubelet::failure::{Failure, FailureKind};
use tokio::time::timeout;

use super::send::{Ask, Opened, Sender};

/// How long an answer may keep one waiting, for its beginning and for each piece of it.
const PIECE_TIMEOUT: Duration = Duration::from_secs(60);

/// An answer, piece by piece.
pub(super) struct Pieces(Opened);

impl Pieces {
    /// Asks, and waits for the answer to begin.
    pub(super) async fn of(sender: &Sender, ask: Ask) -> Result<Self, Failure> {
        match timeout(PIECE_TIMEOUT, sender.stream(ask)).await {
            Ok(opened) => opened.map(Self),
            Err(_) => Err(Failure::new(FailureKind::Unavailable, "the answer took too long")),
        }
    }

    /// The next piece; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let fails = |why: String| Failure::new(FailureKind::Unavailable, why);
        loop {
            match timeout(PIECE_TIMEOUT, self.0.body.frame()).await {
                Err(_) => {
                    self.0.connections.distrust();
                    return Err(fails("the answer stopped coming".to_owned()));
                }
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => return Err(fails(format!("the answer broke off: {error}"))),
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}
