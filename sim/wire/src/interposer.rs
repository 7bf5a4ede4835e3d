//! Closes what dependencies leak: on a thread that simulates, the kernel's randomness and clocks are the simulator's.
//! Upstream: none; getrandom(2), clock_gettime(2).
//! Differs: other threads, and the same thread before and after, get the kernel's own.

// The one place of the simulator that stands between libc and its callers.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::marker::PhantomData;
use std::time::Duration;

/// 2026-01-01T00:00:00Z, when every run begins.
const WALL_AT_START: Duration = Duration::from_secs(model::world::EPOCH_SECONDS.unsigned_abs());
/// A machine that has been up for a while: no clock may read zero.
const MONOTONIC_AT_START: Duration = Duration::from_secs(1_000_000);

/// How often something that is not our own code asked the kernel for what must not matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leaks {
    /// Randomness: keys of hash maps.
    pub random: u64,
    /// The time of day: HTTP's `Date`.
    pub wall: u64,
    /// The monotonic clock: where paused clocks begin, ages within HTTP/2.
    pub monotonic: u64,
}

thread_local! {
    static ARMED: Cell<bool> = const { Cell::new(false) };
    static STATE: Cell<u64> = const { Cell::new(0) };
    static ELAPSED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static LEAKS: Cell<Leaks> = const { Cell::new(Leaks { random: 0, wall: 0, monotonic: 0 }) };
}

/// This thread simulates, until this is dropped.
#[derive(Debug)]
pub struct Armed {
    // It is about this thread and no other.
    _thread: PhantomData<*const ()>,
}

/// Makes this thread one that simulates. Before anything on it makes a hash map or a runtime: std draws a thread's hash keys once.
#[must_use]
pub fn arm(seed: u64) -> Armed {
    STATE.set(seed ^ 0x9e37_79b9_7f4a_7c15);
    ELAPSED.set(Duration::ZERO);
    LEAKS.set(Leaks::default());
    fastrand::seed(seed);
    ARMED.set(true);
    Armed { _thread: PhantomData }
}

impl Armed {
    /// What leaked so far.
    #[must_use]
    pub fn leaks(&self) -> Leaks {
        LEAKS.get()
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        ARMED.set(false);
    }
}

/// Sets how long the run has lasted, for whoever asks the kernel.
pub fn set_elapsed(elapsed: Duration) {
    ELAPSED.set(elapsed);
}

/// SplitMix64: eight bytes that follow from the seed.
fn draw() -> [u8; 8] {
    let state = STATE.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    STATE.set(state);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)).to_le_bytes()
}

fn count(one: impl FnOnce(&mut Leaks)) {
    let mut leaks = LEAKS.get();
    one(&mut leaks);
    LEAKS.set(leaks);
}

/// getrandom(2), as libc declares it.
///
/// # Safety
/// `buffer` must be valid for writes of `length` bytes.
// SAFETY: the name is libc's and so are signature and meaning: whoever is linked to this gets what it asked for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut libc::c_void, length: usize, flags: libc::c_uint) -> isize {
    if !ARMED.get() {
        // SAFETY: the caller's promise about the buffer is the kernel's condition.
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) as isize };
    }
    count(|leaks| leaks.random += 1);
    if length == 0 {
        return 0;
    }
    // SAFETY: the caller promises `length` writable bytes, and nobody else has them during the call.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    for chunk in bytes.chunks_mut(8) {
        let drawn = draw();
        chunk.copy_from_slice(&drawn[..chunk.len()]);
    }
    isize::try_from(length).unwrap_or(isize::MAX)
}

/// clock_gettime(2), as libc declares it.
///
/// # Safety
/// `time` must be valid for a write.
// SAFETY: the name is libc's and so are signature and meaning: whoever is linked to this gets what it asked for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    let simulated = match clock {
        _ if !ARMED.get() => None,
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => {
            count(|leaks| leaks.wall += 1);
            Some(WALL_AT_START + ELAPSED.get())
        }
        libc::CLOCK_MONOTONIC | libc::CLOCK_MONOTONIC_COARSE | libc::CLOCK_MONOTONIC_RAW | libc::CLOCK_BOOTTIME => {
            count(|leaks| leaks.monotonic += 1);
            Some(MONOTONIC_AT_START + ELAPSED.get())
        }
        // CPU time of threads and processes: nothing is decided by it.
        _ => None,
    };
    let Some(simulated) = simulated else {
        // SAFETY: the caller's promise about `time` is the kernel's condition.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) as libc::c_int };
    };
    let spec = libc::timespec {
        tv_sec: libc::time_t::try_from(simulated.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: simulated.subsec_nanos().into(),
    };
    // SAFETY: the caller promises that `time` may be written.
    unsafe { time.write(spec) };
    0
}

#[cfg(test)]
mod tests {
    use std::collections::hash_map::RandomState;
    use std::hash::BuildHasher as _;

    use super::*;

    fn on_a_thread<T: Send>(run: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| scope.spawn(run).join().unwrap())
    }

    #[test]
    fn hash_keys_follow_from_the_seed() {
        let hash = |seed| {
            on_a_thread(move || {
                let armed = arm(seed);
                (RandomState::new().hash_one("key"), armed.leaks().random)
            })
        };
        assert_eq!(hash(1), hash(1));
        assert_ne!(hash(1).0, hash(2).0);
        assert_eq!(hash(1).1, 1);
    }

    #[test]
    #[allow(clippy::disallowed_methods)] // What dependencies read is what is tested.
    fn clocks_stand_still_until_they_are_moved() {
        let read = || (std::time::SystemTime::now(), std::time::Instant::now());
        on_a_thread(move || {
            let armed = arm(1);
            let (before, later) = (read(), read());
            assert_eq!(before, later);
            set_elapsed(Duration::from_secs(5));
            assert_eq!(read(), (before.0 + Duration::from_secs(5), before.1 + Duration::from_secs(5)));
            assert_eq!(armed.leaks(), Leaks { random: 0, wall: 3, monotonic: 3 });
            drop(armed);
            assert_ne!(read().0, before.0);
        });
    }
}
