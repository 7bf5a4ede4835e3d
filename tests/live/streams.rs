//! What people do with running pods: commands in containers, their inputs and outputs, their ports; through the API server and the
//! agent.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::api::{container, pod};
use super::bed::{Bed, pod_path};
use super::websocket::Channels;

pub(super) fn reach_containers_and_ports(bed: &mut Bed) -> anyhow::Result<()> {
    let listens = container("listens", "while read line; do echo heard $line; done", &json!({"stdin": true}));
    let serves = container("serves", "exec nc -ll -p 8081 -e cat", &json!({}));
    bed.api.create("pods", &pod("streams", &json!({"containers": [listens, serves]})))?;
    bed.pod_ready("streams")?;
    let path = |verb: &str, query: &[(&str, &str)]| {
        let pairs: Vec<String> = query.iter().map(|(key, value)| format!("{key}={}", escaped(value))).collect();
        format!("{}/{verb}?{}", pod_path("streams"), pairs.join("&"))
    };
    let to_the_end = |_: &Channels| false;
    let script = "echo out; echo err >&2; exit 7";
    let command = [("container", "serves"), ("command", "sh"), ("command", "-c")];
    let exec = |more: &[(&str, &str)]| path("exec", &[&command, more].concat());

    let said = bed.api.streamed(&exec(&[("command", script), ("stdout", "1"), ("stderr", "1")]), "", to_the_end)?;
    ensure!(text(&said, 1) == "out\n" && text(&said, 2) == "err\n", "exec: {said:?}");
    let outcome: Value = serde_json::from_str(&text(&said, 3))?;
    ensure!(outcome["details"]["causes"][0] == json!({"reason": "ExitCode", "message": "7"}), "exec: {outcome}");

    let streams = [("command", "head -n 1"), ("stdin", "1"), ("stdout", "1")];
    let said = bed.api.streamed(&exec(&streams), "to and fro\n", to_the_end)?;
    ensure!(text(&said, 1) == "to and fro\n" && text(&said, 3).contains("Success"), "exec with input: {said:?}");

    let streams = [("command", "test -t 1 && echo a terminal"), ("tty", "1"), ("stdin", "1"), ("stdout", "1")];
    let said = bed.api.streamed(&exec(&streams), "", to_the_end)?;
    ensure!(text(&said, 1) == "a terminal\r\n", "exec in a terminal: {said:?}");

    let attach = path("attach", &[("container", "listens"), ("stdin", "1"), ("stdout", "1")]);
    let said = bed.api.streamed(&attach, "you\n", |said| text(said, 1).ends_with('\n'))?;
    ensure!(text(&said, 1) == "heard you\n", "attach: {said:?}");

    let forward = |port: u16| path("portforward", &[("ports", &port.to_string())]);
    let said = bed.api.streamed(&forward(8081), "ping\n", |said| text(said, 0).ends_with('\n'))?;
    let expected = [&8081_u16.to_le_bytes()[..], b"ping\n"].concat();
    ensure!(said[&0] == expected, "port-forward: {said:?}");
    let said = bed.api.streamed(&forward(8082), "ping\n", to_the_end)?;
    ensure!(text(&said, 1).contains("connection refused"), "port-forward to a port that nobody listens on: {said:?}");
    bed.delete("streams")
}

fn text(said: &Channels, channel: u8) -> String {
    said.get(&channel).map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default()
}

/// Text as a part of a query.
fn escaped(text: &str) -> String {
    text.bytes().map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

pub(super) fn kubectl_runs_commands_in_containers(bed: &mut Bed) -> anyhow::Result<()> {
    let Some(kubectl) = bed.site.machine.kubectl.clone() else {
        println!("skipped: exec: kubectl");
        return Ok(());
    };
    bed.api.create("pods", &pod("served", &json!({"containers": [container("main", "exec sleep 1000", &json!({}))]})))?;
    bed.pod_ready("served")?;
    let run = |args: &[&str], input: &str| -> anyhow::Result<(Option<i32>, String, String)> {
        let mut child = Command::new("timeout")
            .arg("20")
            .arg(&kubectl)
            .arg("--kubeconfig")
            .arg(bed.admin_kubeconfig())
            // Where it keeps what it learns of the API.
            .env("HOME", bed.admin_kubeconfig().with_file_name("home"))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().context("no input")?.write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((output.status.code(), text(&output.stdout), text(&output.stderr)))
    };
    let said = run(&["exec", "served", "--", "sh", "-c", "echo out; echo err >&2"], "")?;
    ensure!(said == (Some(0), "out\n".into(), "err\n".into()), "exec: {said:?}");
    let said = run(&["exec", "-i", "served", "--", "cat"], "to and fro\n")?;
    ensure!(said == (Some(0), "to and fro\n".into(), String::new()), "exec with input: {said:?}");
    let said = run(&["exec", "served", "--", "sh", "-c", "exit 7"], "")?;
    ensure!(said.0 == Some(7) && said.2.contains("exit code 7"), "exec of a failure: {said:?}");
    let said = run(&["get", "pods"], "")?;
    ensure!(said.1.contains("served") && said.1.contains("1/1") && said.1.contains("Running"), "get pods: {said:?}");
    bed.delete("served")
}
