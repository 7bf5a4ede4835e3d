//! Waiting with a bound: live tests look again and again at what others do in their own time.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// How long one look is from the next.
const PERIOD: Duration = Duration::from_millis(20);

/// Looks until there is something to be had.
///
/// # Errors
/// After `limit`, with what was waited for and what was seen last.
pub(crate) fn until<T, E: Debug>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T, E>) -> anyhow::Result<T> {
    let end = Instant::now() + limit;
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(last) if Instant::now() >= end => anyhow::bail!("{what}: not within {limit:?}; last seen: {last:?}"),
            Err(_) => std::thread::sleep(PERIOD),
        }
    }
}

/// Looks all the time; nothing may be wrong.
///
/// # Errors
/// What was wrong first.
pub(crate) fn throughout(what: &str, span: Duration, mut look: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let end = Instant::now() + span;
    while Instant::now() < end {
        look().map_err(|wrong| wrong.context(format!("{what}: not throughout {span:?}")))?;
        std::thread::sleep(PERIOD);
    }
    Ok(())
}
