//! What happened in a run: a digest to compare by, and lines to read.
//! Upstream: none.
//! Differs: nothing on purpose.

use std::time::Duration;

use kubelet::action::Action;
use kubelet::event::Event;

/// What happened so far.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) digest: u64,
    pub(super) lines: Vec<String>,
    /// When the last line was written.
    pub(super) last: Duration,
}

impl Default for Record {
    fn default() -> Self {
        Self { digest: 0xcbf2_9ce4_8422_2325, lines: Vec::new(), last: Duration::ZERO }
    }
}

impl Record {
    /// The agent handled an event.
    pub(super) fn decided(&mut self, at: Duration, event: &Event, actions: &[Action]) {
        let mut text = format!("{event:?}");
        for action in actions {
            text.push_str(&format!("\n    -> {action:?}"));
        }
        self.write(at, &text);
    }

    /// Something was done to the cluster.
    pub(super) fn note(&mut self, at: Duration, text: &str) {
        self.write(at, &format!("# {text}"));
    }

    fn write(&mut self, at: Duration, text: &str) {
        let line = format!("{:>10.4} {text}", at.as_secs_f64());
        for byte in line.bytes() {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.lines.push(line);
        self.last = at;
    }
}
