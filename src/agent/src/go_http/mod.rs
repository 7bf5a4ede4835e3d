//! HTTP as Go speaks it: URLs, connections for one exchange, and the errors of both.
//! Upstream: Go's net/url, net/http and crypto/tls.
//! Differs: HTTP/1.1 only, and no proxy of the environment.

#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod url;
pub(crate) mod wire;

/// hyper takes a hundred headers of an answer by itself; Go counts bytes.
pub(crate) const MOST_ANSWER_HEADERS: usize = 1000;
/// After so many requests no redirect is followed.
pub(crate) const MOST_REQUESTS: usize = 10;
/// What a client's time-out is called, before and after the answer's headers.
pub(crate) const TOO_LATE: &str = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
/// See [`TOO_LATE`].
pub(crate) const TOO_LATE_BODY: &str = "context deadline exceeded (Client.Timeout or context cancellation while reading body)";

/// Whether an answer with that status and a location leads elsewhere.
pub(crate) fn redirects(status: http::StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// What is exchanged over a connection, while that is kept going. The answer may have come with the connection's end.
pub(crate) async fn over<T>(connection: impl Future<Output = hyper::Result<()>>, exchange: impl Future<Output = T>) -> T {
    let (mut connection, mut exchange) = (std::pin::pin!(connection), std::pin::pin!(exchange));
    tokio::select! {
        biased;
        answer = &mut exchange => return answer,
        ended = &mut connection => tracing::trace!(?ended, "connection of one exchange ended"),
    }
    exchange.await
}
