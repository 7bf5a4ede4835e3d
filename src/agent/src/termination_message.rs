//! Decides what a dead container said on its way out: reads its termination log, or the end of its log.
//! Upstream: pkg/kubelet/kuberuntime/kuberuntime_container.go (getTerminationMessage, readLastStringFromContainerLogs).
//! Differs: nothing on purpose.

use std::sync::Arc;

use kubelet::observation::{ContainerState, ContainerStatus, PodObservation};

use crate::env::Host;

/// MNT-015: the longest termination message, in bytes.
const MESSAGE_LIMIT: usize = 4096;
/// MNT-015: how much of the log stands in for a message.
const LOG_LIMIT: usize = 2048;
const LOG_LINES: usize = 80;
/// The log's own framing (time, stream, tag) takes about 45 bytes a line on top of what was said.
const LOG_READ_LIMIT: usize = LOG_LIMIT + LOG_LINES * 64;

const POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";

/// Adds to each exited container's message what it left behind (POD-175).
pub(crate) async fn with_termination_messages(host: &dyn Host, mut observation: Arc<PodObservation>) -> Arc<PodObservation> {
    if !observation.containers.iter().any(leaves_message) {
        return observation;
    }
    for container in &mut Arc::make_mut(&mut observation).containers {
        if leaves_message(container) {
            let said = message_of(host, container).await;
            if !said.is_empty() {
                if !container.message.is_empty() {
                    container.message.push_str(": ");
                }
                container.message.push_str(&said);
            }
        }
    }
    observation
}

fn leaves_message(container: &ContainerStatus) -> bool {
    container.state == ContainerState::Exited && (!container.termination_log.is_empty() || falls_back(container))
}

fn falls_back(container: &ContainerStatus) -> bool {
    container.annotations.get(POLICY).is_some_and(|policy| policy == "FallbackToLogsOnError")
        && container.exit_code != 0
        && container.reason != "ContainerCannotRun"
}

async fn message_of(host: &dyn Host, container: &ContainerStatus) -> String {
    if !container.termination_log.is_empty()
        && let Ok(Some(bytes)) = host.read_tail(container.termination_log.clone(), MESSAGE_LIMIT).await
        && !bytes.is_empty()
    {
        return String::from_utf8_lossy(&bytes).into_owned();
    }
    if falls_back(container)
        && let Ok(Some(bytes)) = host.read_tail(container.log_path.clone(), LOG_READ_LIMIT).await
    {
        return last_lines(&String::from_utf8_lossy(&bytes));
    }
    String::new()
}

/// What was said in the last lines of a CRI log (LOG-006), at most 80 lines and 2048 bytes.
fn last_lines(log: &str) -> String {
    let mut lines: Vec<String> = log.lines().filter_map(content).collect();
    let skip = lines.len().saturating_sub(LOG_LINES);
    lines.drain(..skip);
    let text = lines.concat();
    let mut from = text.len().saturating_sub(LOG_LIMIT);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text[from..].to_owned()
}

fn content(line: &str) -> Option<String> {
    let mut parts = line.splitn(4, ' ');
    let (_time, _stream, tag) = (parts.next()?, parts.next()?, parts.next()?);
    let said = parts.next().unwrap_or_default();
    Some(if tag.starts_with('P') { said.to_owned() } else { format!("{said}\n") })
}

#[cfg(test)]
mod tests {
    use super::*;

    // MNT-015, LOG-006: partial lines are joined, and framing does not count.
    #[test]
    fn log_stands_in_for_a_missing_message() {
        let log = "2026-01-01T00:00:00Z stdout F first\n2026-01-01T00:00:00Z stderr P half \n2026-01-01T00:00:00Z stderr F line\n";
        assert_eq!(last_lines(log), "first\nhalf line\n");
    }

    #[test]
    fn only_the_end_of_a_long_log_counts() {
        let log: String = (0..200).map(|i| format!("2026-01-01T00:00:00Z stdout F line {i:03} {}\n", "x".repeat(40))).collect();
        let said = last_lines(&log);
        assert!(said.len() <= LOG_LIMIT);
        assert!(said.ends_with(&format!("line 199 {}\n", "x".repeat(40))));
    }
}
