//! Keeps a panic within the one call, request or source that it happened in: each costs itself.
//! Upstream: staging/src/k8s.io/apimachinery/pkg/util/runtime/runtime.go (HandleCrash), apiserver's WithPanicRecovery.
//! Differs: nothing here ends the process.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;
use kubelet::failure::{Failure, FailureKind};

const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MOST: Duration = Duration::from_secs(30);

/// A call that panics has failed. What it has done until then, nobody knows.
pub(crate) async fn contained<T>(call: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let caught = AssertUnwindSafe(call).catch_unwind().await;
    caught.unwrap_or_else(|_| Err(Failure::new(FailureKind::UnknownOutcome, "internal error: the call panicked")))
}

/// Runs what is to run until it ends by itself: after a panic it is begun anew, each time after a longer pause.
pub(crate) async fn kept_up<F: Future<Output = ()>>(what: &'static str, begin: impl Fn() -> F) {
    let mut pause = PAUSE_FIRST;
    while AssertUnwindSafe(async { begin().await }).catch_unwind().await.is_err() {
        tracing::error!(what, ?pause, "Panicked; it is begun anew");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MOST);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn call_that_panics_has_failed() {
        let failure = contained::<()>(async { panic!("planted") }).await.unwrap_err();
        assert_eq!((failure.kind, failure.message.as_str()), (FailureKind::UnknownOutcome, "internal error: the call panicked"));
        assert_eq!(contained(async { Ok::<_, Failure>(1) }).await.unwrap(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_panics_is_begun_anew_until_it_ends() {
        let times = Cell::new(0);
        let began = tokio::time::Instant::now();
        kept_up("it", || async {
            times.set(times.get() + 1);
            assert!(times.get() > 3, "planted");
        })
        .await;
        assert_eq!((times.get(), began.elapsed().as_millis()), (4, 3500));
    }
}
