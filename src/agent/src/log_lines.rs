//! Carries the log's finished lines to where they are written, on a thread of their own: whoever logs never waits for a reader.
//! Upstream: k8s.io/klog/v2, k8s.io/apiserver/pkg/server/healthz/healthz.go (LogHealthz).
//! Differs: a kubelet whose standard error nobody reads stands still; here what does not fit is dropped, counted and told of.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// So many bytes may wait.
const ROOM: usize = 4 << 20;
/// What waits and does not move for so long is blocked (LogHealthz).
const BLOCKED: Duration = Duration::from_secs(120);
/// How long the end of the process waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(2);

/// The lines that wait to be written. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct LogLines(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Vec<u8>>,
    /// How long those are together.
    bytes: usize,
    /// Whether one is being written.
    in_hand: bool,
    written: u64,
    dropped: u64,
    /// Of how many that were dropped a line has told.
    told: u64,
    /// How many were written when that was last looked at and had changed, and when it was.
    seen: Option<(u64, Instant)>,
}

impl Queue {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && !self.in_hand
    }

    /// How long lines have been waiting without one of them having been written.
    fn stuck(&mut self, now: Instant) -> Duration {
        match self.seen {
            Some((written, since)) if written == self.written && !self.is_idle() => now.saturating_duration_since(since),
            _ => {
                self.seen = Some((self.written, now));
                Duration::ZERO
            }
        }
    }

    /// How many were dropped of which nobody was told, once there is room to tell.
    fn take_untold(&mut self) -> Option<u64> {
        let untold = self.dropped - self.told;
        if untold == 0 || self.bytes > ROOM / 2 {
            return None;
        }
        self.told = self.dropped;
        Some(untold)
    }
}

impl LogLines {
    /// Writes from here on, for as long as the process lives. `tell` logs that so many lines were dropped.
    ///
    /// # Panics
    /// If the process can have no thread.
    pub fn write_to(&self, mut to: impl Write + Send + 'static, tell: impl Fn(u64) + Send + 'static) {
        let lines = self.clone();
        let carry = move || {
            loop {
                let line = lines.next();
                // A reader that is gone is no reason to stop running pods.
                let _gone = to.write_all(&line);
                if let Some(dropped) = lines.done() {
                    tell(dropped);
                }
            }
        };
        let thread = std::thread::Builder::new().name("log".to_owned()).spawn(carry);
        thread.expect("a process that cannot have one thread cannot be a node agent");
    }

    /// Takes a line, or drops it if there is no room.
    pub fn push(&self, line: &[u8]) {
        let mut queue = self.lock();
        queue.stuck(Instant::now());
        if queue.bytes + line.len() > ROOM {
            queue.dropped += 1;
            return;
        }
        queue.bytes += line.len();
        queue.waiting.push_back(line.to_vec());
        self.0.changed.notify_all();
    }

    /// Whether lines move, or none waits (API-065).
    ///
    /// # Errors
    /// In upstream's words.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.lock().stuck(Instant::now()) < BLOCKED { Ok(()) } else { Err("logging blocked") }
    }

    /// How many lines were dropped since the process began.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    /// Waits until all that was logged is written, but not long: for the end of the process.
    pub fn flush(&self) {
        let _late = self.0.changed.wait_timeout_while(self.lock(), LAST_LINES, |queue| !queue.is_idle());
    }

    /// The next line, as soon as there is one.
    fn next(&self) -> Vec<u8> {
        let mut queue = self.lock();
        loop {
            if let Some(line) = queue.waiting.pop_front() {
                queue.bytes -= line.len();
                queue.in_hand = true;
                return line;
            }
            queue = self.0.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The line is written. How many were dropped, if that is to be told now.
    fn done(&self) -> Option<u64> {
        let mut queue = self.lock();
        queue.in_hand = false;
        queue.written += 1;
        self.0.changed.notify_all();
        queue.take_untold()
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Each change is whole.
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};

    use tokio::time::advance;

    use super::*;

    fn told(lines: &LogLines) -> impl Fn(u64) + Send + 'static {
        let lines = lines.clone();
        move |dropped| lines.push(format!("dropped {dropped}\n").as_bytes())
    }

    // API-065: staging/src/k8s.io/apiserver/pkg/server/healthz/healthz.go, LogHealthz: two minutes.
    #[tokio::test(start_paused = true)]
    async fn log_that_nobody_reads_keeps_nobody_waiting() {
        const LOGGED: usize = 6 << 10;
        let (reader, writer) = std::io::pipe().unwrap();
        let lines = LogLines::default();
        lines.write_to(writer, told(&lines));
        for number in 0..LOGGED {
            lines.push(format!("{number:01023}\n").as_bytes());
        }
        let dropped = usize::try_from(lines.dropped()).unwrap();
        // Beside the room there is what a pipe holds.
        assert!((LOGGED - 4096 - 256..=LOGGED - 4096).contains(&dropped), "{dropped}");
        // Once the pipe is full nothing moves.
        while lines.check().is_ok() {
            std::thread::yield_now();
            advance(BLOCKED).await;
        }
        assert_eq!(lines.check(), Err("logging blocked"));
        // Once it is read, all that was not dropped comes, and how many were is told once.
        let mut read = BufReader::new(reader).lines().map(Result::unwrap);
        let came: Vec<String> = read.by_ref().take(LOGGED - dropped + 1).collect();
        let (notices, rest): (Vec<String>, Vec<String>) = came.into_iter().partition(|line| line.starts_with("dropped"));
        assert_eq!(notices, [format!("dropped {dropped}")]);
        assert!(rest.is_sorted() && rest.len() == LOGGED - dropped);
        lines.flush();
        assert_eq!(lines.check(), Ok(()));
        lines.push(b"on\n");
        assert_eq!(read.next().unwrap(), "on");
    }

    // API-065: what moves is not blocked, however much waits, and a line that comes after a long silence has not waited for it.
    #[tokio::test(start_paused = true)]
    async fn log_that_moves_is_not_blocked() {
        let lines = LogLines::default();
        advance(BLOCKED).await;
        lines.push(b"a\n");
        lines.push(b"b\n");
        assert_eq!(lines.check(), Ok(()));
        for _ in 0..2 {
            advance(BLOCKED - Duration::from_secs(1)).await;
            lines.next();
            lines.done();
            assert_eq!(lines.check(), Ok(()));
        }
        advance(BLOCKED).await;
        assert_eq!(lines.check(), Ok(()));
        lines.push(b"c\n");
        advance(BLOCKED - Duration::from_secs(1)).await;
        assert_eq!(lines.check(), Ok(()));
        advance(Duration::from_secs(1)).await;
        assert_eq!(lines.check(), Err("logging blocked"));
    }

    // API-291: the error that ends the agent is logged last of all.
    #[test]
    fn what_was_logged_before_the_end_is_written() {
        struct Written(Arc<Mutex<Vec<u8>>>);
        impl Write for Written {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }

            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let (lines, written) = (LogLines::default(), Arc::default());
        (0..10_000).for_each(|number| lines.push(format!("{number:04}\n").as_bytes()));
        lines.write_to(Written(Arc::clone(&written)), told(&lines));
        lines.flush();
        let written = written.lock().unwrap();
        assert!(written.len() == 50_000 && written.ends_with(b"9998\n9999\n"), "{}", written.len());
    }
}
