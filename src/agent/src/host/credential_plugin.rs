//! Runs a credential provider plugin: a request on its stdin, an answer on its stdout, and an end to it after a minute.
//! Upstream: pkg/credentialprovider/plugin/plugin.go (ExecPlugin).
//! Differs: at most 1 MiB is read of what it says; what it leaves running is killed with it.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use kubelet::event::HostReply;
use kubelet::failure::{Failure, FailureKind};
use kubelet::sensitive::Sensitive;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

const TIME_LIMIT: Duration = Duration::from_secs(60);
const MOST_SAID: u64 = 1 << 20;
/// How much of what it complains of is told.
const MOST_COMPLAINT: u64 = 1 << 10;

/// Runs it to its end. Its environment is ours and what the configuration adds.
pub(super) async fn ask(
    executable: &Path,
    arguments: &[String],
    environment: &[(String, String)],
    request: &[u8],
) -> Result<HostReply, Failure> {
    let spawned = Command::new(executable)
        .args(arguments)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let name = executable.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let failed = |why: String| Failure::new(FailureKind::Other, format!("error execing credential provider plugin {name}: {why}"));
    let mut child = spawned.map_err(|error| failed(error.to_string()))?;
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    let talked = tokio::time::timeout(TIME_LIMIT, talk(&mut child, request)).await;
    let outcome = match talked {
        Err(_) => Err("context deadline exceeded".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok((said, _))) if said.len() as u64 > MOST_SAID => Err("its answer is too long".to_owned()),
        Ok(Ok(spoken)) => Ok(spoken),
    };
    let outcome = match outcome {
        Ok(spoken) => match tokio::time::timeout(TIME_LIMIT, child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(spoken.0),
            Ok(Ok(status)) => Err(format!("{}: {}", told(status), String::from_utf8_lossy(&spoken.1).trim())),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("context deadline exceeded".to_owned()),
        },
        Err(error) => Err(error),
    };
    if outcome.is_err()
        && let (Some(group), Ok(None)) = (group, child.try_wait())
    {
        // It has not been waited for, so the number is still its own.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    outcome.map(|said| HostReply::Output(Sensitive::new(said))).map_err(failed)
}

fn told(status: std::process::ExitStatus) -> String {
    status.code().map_or_else(|| status.to_string(), |code| format!("exit status {code}"))
}

async fn talk(child: &mut Child, request: &[u8]) -> std::io::Result<(Vec<u8>, Vec<u8>)> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // Who does not want to hear it may close it.
            let _ = stdin.write_all(request).await;
        }
    };
    let ((), said, complaint) = tokio::join!(write, read(stdout, MOST_SAID + 1), read_on(stderr));
    Ok((said?, complaint?))
}

async fn read(from: Option<impl AsyncRead + Unpin>, most: u64) -> std::io::Result<Vec<u8>> {
    let mut read = Vec::new();
    if let Some(from) = from {
        from.take(most).read_to_end(&mut read).await?;
    }
    Ok(read)
}

/// Reads all, so that it can go on, and keeps the beginning.
async fn read_on(from: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let Some(mut from) = from else { return Ok(Vec::new()) };
    let mut kept = Vec::new();
    (&mut from).take(MOST_COMPLAINT).read_to_end(&mut kept).await?;
    tokio::io::copy(&mut from, &mut tokio::io::sink()).await?;
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(script: &str) -> Result<String, String> {
        let arguments = ["-c", script, "plugin", "one"].map(str::to_owned);
        let environment = [("GREETING".to_owned(), "hello".to_owned())];
        match ask(Path::new("/bin/sh"), &arguments, &environment, b"request").await {
            Ok(HostReply::Output(output)) => Ok(String::from_utf8(output.into_inner()).unwrap()),
            Ok(other) => panic!("{other:?}"),
            Err(failure) => Err(failure.message),
        }
    }

    // POD-206: Test_ExecPlugin (plugin_test.go): stdin, arguments, environment, exit code with stderr.
    #[tokio::test]
    async fn plugin_gets_the_request_and_its_answer_is_what_it_says() {
        assert_eq!(run(r#"read in; printf "$GREETING $1 $in""#).await.unwrap(), "hello one request");
        let why = run("echo no such role >&2; exit 3").await.unwrap_err();
        assert_eq!(why, "error execing credential provider plugin sh: exit status 3: no such role");
        assert_eq!(run("exec 0<&-; echo deaf").await.unwrap(), "deaf\n");
    }

    #[tokio::test]
    async fn plugin_that_says_too_much_is_stopped() {
        let why = run("exec yes").await.unwrap_err();
        assert_eq!(why, "error execing credential provider plugin sh: its answer is too long");
    }

    #[tokio::test(start_paused = true)]
    async fn plugin_that_hangs_is_stopped_after_a_minute() {
        let began = tokio::time::Instant::now();
        let why = run("sleep 600").await.unwrap_err();
        assert_eq!(why, "error execing credential provider plugin sh: context deadline exceeded");
        assert!(began.elapsed() >= TIME_LIMIT);
    }
}
