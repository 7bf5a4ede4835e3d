//! Decides what a dead container said on its way out: reads its termination log, or the end of its log.
//! Upstream: pkg/kubelet/kuberuntime/kuberuntime_container.go (getTerminationMessage, readLastStringFromContainerLogs).
//! Differs: nothing on purpose.

use std::sync::Arc;

use kubelet::failure::Failure;
use kubelet::observation::{ContainerState, ContainerStatus, PodObservation};

use crate::env::Host;

/// MNT-015: the longest termination message, in bytes.
const MESSAGE_LIMIT: usize = 4096;
/// MNT-015: how much of the log stands in for a message.
const LOG_LIMIT: usize = 2048;
const LOG_LINES: usize = 80;
/// The log's own framing (time, stream, tag) takes about 45 bytes a line on top of what was said.
const LOG_READ_LIMIT: usize = LOG_LIMIT + LOG_LINES * 64;
/// How far back the beginning of a line is looked for. Runtimes cut lines at 16 KiB unless told otherwise.
const LONG_LINE_LIMIT: usize = 128 << 10;

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
    if !container.termination_log.is_empty() {
        let read = host.read_tail(container.termination_log.clone(), MESSAGE_LIMIT).await;
        if let Some(said) = said_in_file(&container.termination_log, read) {
            return said;
        }
    }
    if falls_back(container) {
        return last_of_log(&container.log_path, |limit| host.read_tail(container.log_path.clone(), limit)).await;
    }
    String::new()
}

/// What the termination log says, or why it cannot be read; `None` if nobody wrote it, so that the log may stand in.
fn said_in_file(path: &str, read: Result<Option<Vec<u8>>, Failure>) -> Option<String> {
    match read {
        Ok(said) => said.filter(|bytes| !bytes.is_empty()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        Err(failure) => Some(format!("Error on reading termination log {path}: {failure}")),
    }
}

/// What was said in the last lines of a CRI log (LOG-006), at most 80 lines and 2048 bytes. `read` gives the last bytes of the log, that
/// many at most. A line may be longer than all that is told of it; then its beginning is looked for further back. A log that cannot be read
/// is named with the reason; one that is missing is missed where upstream resolves its links.
async fn last_of_log<F: Future<Output = Result<Option<Vec<u8>>, Failure>>>(path: &str, read: impl Fn(usize) -> F) -> String {
    let cannot = |why: String| format!("Error on reading termination message from logs: {why}");
    for limit in [LOG_READ_LIMIT, LONG_LINE_LIMIT] {
        let bytes = match read(limit).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                let missing = format!("lstat {path}: no such file or directory");
                return cannot(format!("failed to try resolving symlinks in path {path:?}: {missing}"));
            }
            Err(failure) => return cannot(format!("failed to open log file {path:?}: {failure}")),
        };
        let is_last = limit == LONG_LINE_LIMIT;
        if let Some(said) = last_said(&bytes, bytes.len() < limit, is_last) {
            return String::from_utf8_lossy(&said).into_owned();
        }
    }
    String::new()
}

/// `None` if more of the log is needed. `is_whole`: these bytes are all of it. `is_last`: there will not be more; then what is there of a
/// line without beginning was said.
fn last_said(log: &[u8], is_whole: bool, is_last: bool) -> Option<Vec<u8>> {
    let mut lines: Vec<&[u8]> = log.split_inclusive(|byte| *byte == b'\n').collect();
    let cut = if is_whole || lines.is_empty() { None } else { Some(lines.remove(0)) };
    let skip = lines.len().saturating_sub(LOG_LINES);
    let mut said = lines[skip..].iter().filter_map(|line| content(line)).collect::<Vec<_>>().concat();
    if let Some(cut) = cut
        && lines.len() < LOG_LINES
        && said.len() < LOG_LIMIT
    {
        if !is_last {
            return None;
        }
        said = [cut, &said].concat();
    }
    Some(said.split_off(said.len().saturating_sub(LOG_LIMIT)))
}

/// What a line of the log says, without its time, its stream and its tag. A part of a line goes on in the next one.
fn content(line: &[u8]) -> Option<Vec<u8>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let (_time, _stream, tag) = (parts.next()?, parts.next()?, parts.next()?);
    let mut said = parts.next().unwrap_or_default().to_vec();
    if !tag.starts_with(b"P") {
        said.push(b'\n');
    }
    Some(said)
}

#[cfg(test)]
mod tests {
    use kubelet::failure::FailureKind;

    use super::*;

    async fn told(log: &str) -> String {
        let tail = |limit: usize| std::future::ready(Ok(Some(log.as_bytes()[log.len().saturating_sub(limit)..].to_vec())));
        last_of_log("/var/log/pods/p/c/0.log", tail).await
    }

    fn line(tag: &str, said: &str) -> String {
        format!("2026-01-01T00:00:00.000000000Z stdout {tag} {said}\n")
    }

    // MNT-015, LOG-006: partial lines are joined, and framing does not count.
    #[tokio::test]
    async fn log_stands_in_for_a_missing_message() {
        let log = [line("F", "first"), line("P", "half "), line("F", "line")].concat();
        assert_eq!(told(&log).await, "first\nhalf line\n");
        assert_eq!(told("").await, "");
    }

    // POD-175, MNT-015: kuberuntime_container.go (getTerminationMessage, readLastStringFromContainerLogs) and logs.go (ReadLogs): what cannot
    // be read is told; a termination log that nobody wrote is not missed.
    #[tokio::test]
    async fn message_that_cannot_be_read_says_why() {
        let denied = |path: &str| Failure::new(FailureKind::Other, format!("open {path}: permission denied"));
        let file = "/var/lib/kubelet/pods/u/containers/c/1";
        let told = format!("Error on reading termination log {file}: open {file}: permission denied");
        assert_eq!(said_in_file(file, Err(denied(file))), Some(told));
        assert_eq!(said_in_file(file, Ok(None)), None);
        assert_eq!(said_in_file(file, Ok(Some(Vec::new()))), None);
        assert_eq!(said_in_file(file, Ok(Some(b"bye".to_vec()))).as_deref(), Some("bye"));
        let log = "/var/log/pods/p/c/0.log";
        let why = "Error on reading termination message from logs: failed to open log file \"/var/log/pods/p/c/0.log\": \
                   open /var/log/pods/p/c/0.log: permission denied";
        assert_eq!(last_of_log(log, |_| std::future::ready(Err(denied(log)))).await, why);
        let why = "Error on reading termination message from logs: failed to try resolving symlinks in path \
                   \"/var/log/pods/p/c/0.log\": lstat /var/log/pods/p/c/0.log: no such file or directory";
        assert_eq!(last_of_log(log, |_| std::future::ready(Ok(None))).await, why);
    }

    // MNT-015
    #[tokio::test]
    async fn only_the_end_of_a_long_log_counts() {
        let log: String = (0..200).map(|i| line("F", &format!("line {i:03} {}", "x".repeat(40)))).collect();
        let said = told(&log).await;
        assert_eq!(said.len(), LOG_LIMIT);
        assert!(said.ends_with(&format!("line 199 {}\n", "x".repeat(40))));
        let short: String = (0..100).map(|i| line("F", &i.to_string())).collect();
        let expected: String = (20..100).map(|i| format!("{i}\n")).collect();
        assert_eq!(told(&short).await, expected);
    }

    // R3: of one line of 10,000 bytes the last 2048 are told, its end included (kuberuntime_container.go: a ring of 2048 bytes); runtimes
    // cut longer lines into parts of 16 KiB. Shown as a kubelet 1.36.2 was recorded (053): no newline where the last part has none.
    #[tokio::test]
    async fn end_of_a_very_long_line_is_told() {
        assert_eq!(told(&line("F", &"x".repeat(10_000))).await, format!("{}\n", "x".repeat(2047)));
        assert_eq!(told(&line("P", &"x".repeat(10_000))).await, "x".repeat(2048));
        let parts = [line("P", &"a".repeat(16_384)), line("F", &"b".repeat(1000)), line("F", "end")].concat();
        assert_eq!(told(&parts).await, format!("{}{}\nend\n", "a".repeat(1043), "b".repeat(1000)));
        assert_eq!(told(&line("F", &"x".repeat(1 << 20))).await, format!("{}\n", "x".repeat(2047)));
        let recorded: Vec<String> = "abcde".chars().map(|c| line("F", &c.to_string().repeat(700))).collect();
        let said = told(&[recorded.concat(), line("P", "no newline")].concat()).await;
        assert!(said.len() == 2048 && said.starts_with("ccc") && said.ends_with("e\nno newline"));
    }

    #[test]
    fn mangled_log_has_last_words_or_none() {
        let seed = b"2026-11-23T08:00:00Z stdout F one\n2026-11-23T08:00:01Z stderr P tw\n";
        crate::mangled::each("end of a log", &[seed, b"{\"log\":\"x\\n\",\"stream\":\"stderr\",\"time\":\"\"}\n"], |input| {
            for (is_whole, is_last) in [(false, false), (false, true), (true, true)] {
                let _said = last_said(input, is_whole, is_last);
            }
        });
    }
}
