//! Time as data: what the core is told, never what it asks for.
//! Upstream: k8s.io/utils/clock.
//! Differs: the monotonic and the wall clock are two types, so that no deadline hangs on a clock that can jump.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A point in monotonic time: nanoseconds since this life of the agent began.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mono(u64);

impl Mono {
    /// The beginning.
    pub const ZERO: Self = Self(0);

    /// The point `since_start` after the beginning.
    #[must_use]
    pub fn from_start(since_start: Duration) -> Self {
        Self(u64::try_from(since_start.as_nanos()).unwrap_or(u64::MAX))
    }

    /// How long after the beginning.
    #[must_use]
    pub fn since_start(self) -> Duration {
        Duration::from_nanos(self.0)
    }

    /// How long after `earlier`; zero if it is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Mono {
    type Output = Self;
    fn add(self, after: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Mono {
    type Output = Self;
    fn sub(self, before: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(before.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Debug for Mono {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6}s", self.since_start().as_secs_f64())
    }
}

/// The moment at which an event is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    /// For deadlines, back-off and ages.
    pub mono: Mono,
    /// For what others read: it may jump, so nothing is decided by comparing it with an earlier reading of our own.
    pub wall: Timestamp,
}

impl Now {
    /// The wall clock in whole seconds, as the API's `metav1.Time` has it.
    #[must_use]
    pub fn wall_seconds(self) -> Timestamp {
        Timestamp::from_second(self.wall.as_second()).unwrap_or(self.wall)
    }
}

/// The earliest of several optional deadlines.
#[must_use]
pub fn earliest(deadlines: impl IntoIterator<Item = Option<Mono>>) -> Option<Mono> {
    deadlines.into_iter().flatten().min()
}

/// As Go prints a duration: `800ms`, `1.2s`, `3m1.4s`, `1h0m0.5s`, to the nanosecond.
#[must_use]
pub fn go_duration(duration: Duration) -> String {
    let nanos = duration.subsec_nanos();
    if duration.as_secs() == 0 {
        let (unit, name) = match nanos {
            0 => return "0s".to_owned(),
            1..1000 => (1, "ns"),
            1000..1_000_000 => (1000, "µs"),
            _ => (1_000_000, "ms"),
        };
        return decimal(nanos / unit, nanos % unit, unit, name);
    }
    let seconds = duration.as_secs();
    let rest = decimal(u32::try_from(seconds % 60).unwrap_or(0), nanos, 1_000_000_000, "s");
    match (seconds / 3600, seconds / 60 % 60) {
        (0, 0) => rest,
        (0, minutes) => format!("{minutes}m{rest}"),
        (hours, minutes) => format!("{hours}h{minutes}m{rest}"),
    }
}

/// `whole` and `part` of so many, without zeros at the end.
fn decimal(whole: u32, part: u32, of: u32, unit: &str) -> String {
    if part == 0 {
        return format!("{whole}{unit}");
    }
    let digits = of.ilog10() as usize;
    let part = format!("{part:0digits$}");
    format!("{whole}.{}{unit}", part.trim_end_matches('0'))
}

/// As Go prints whole seconds: `10s`, `1m20s`, `1h0m0s`.
#[must_use]
pub fn go_seconds(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, minutes, seconds) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // N10: durationTests of Go's time/time_test.go.
    #[test]
    fn durations_are_printed_as_go_prints_them() {
        let cases: [(u64, &str); 9] = [
            (0, "0s"),
            (1, "1ns"),
            (1100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (3_300_000_000, "3.3s"),
            (245_000_000_000, "4m5s"),
            (245_001_000_000, "4m5.001s"),
            (18_367_001_000_000, "5h6m7.001s"),
            (480_000_000_001, "8m0.000000001s"),
        ];
        for (nanos, text) in cases {
            assert_eq!(go_duration(Duration::from_nanos(nanos)), text);
        }
    }
}
