//! What kubectl does with running pods, through a real API server.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::json;

use super::Cluster;
use crate::live::api::{container, pod};

pub(super) fn reach_containers_and_ports(cluster: &mut Cluster) -> anyhow::Result<()> {
    let plane = &cluster.plane;
    // With the end of the first client's input it is at its own end.
    let listens = json!({"stdin": true, "stdinOnce": true});
    let listens = container("listens", "while read line; do echo heard $line; done; echo bye", &listens);
    let serves = container("serves", "exec nc -ll -p 8081 -e cat", &json!({}));
    plane.create(&[pod("streams", &json!({"restartPolicy": "Never", "containers": [listens, serves]}))])?;
    cluster.pod_ready("streams")?;
    let exec = |args: &[&str], input: &str| {
        let command = ["exec", "--stdin", "streams", "--container=serves", "--"];
        plane.kubectl(&[&command, args].concat(), input)
    };
    let said = exec(&["cat"], "to and fro\n")?;
    ensure!(said == "to and fro\n", "exec: {said}");
    let failed = exec(&["sh", "-c", "exit 7"], "").err().context("a failed command is told")?.to_string();
    ensure!(failed.contains("exit code 7"), "exec of a failure: {failed}");

    let said = plane.kubectl(&["attach", "--stdin", "streams", "--container=listens"], "you\n")?;
    ensure!(said.ends_with("heard you\nbye\n"), "attach: {said}");
    let said = plane.kubectl(&["logs", "--follow", "streams", "--container=listens"], "")?;
    ensure!(said == "heard you\nbye\n", "logs: {said}");

    copies_files_both_ways(cluster)?;
    let plane = &cluster.plane;
    let forward = Forward(plane.command(&["port-forward", "pod/streams", ":8081"]).stdout(Stdio::piped()).spawn()?);
    let echoed = forwarded(forward)?;
    ensure!(echoed == "ping\n", "port-forward: {echoed}");
    plane.kubectl(&["delete", "pod", "streams", "--timeout=60s"], "").map(drop)
}

/// `kubectl cp` is `tar` in the container, with its output and its input.
fn copies_files_both_ways(cluster: &Cluster) -> anyhow::Result<()> {
    let plane = &cluster.plane;
    let (there, back) = (plane.directory.join("there.bin"), plane.directory.join("back.bin"));
    // More than one frame and no text.
    let content: Vec<u8> = (0..300_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(&there, &content)?;
    let (there, inside) = (there.display().to_string(), "streams:/tmp/copied.bin");
    plane.kubectl(&["cp", &there, inside, "--container=serves"], "")?;
    plane.kubectl(&["cp", inside, &back.display().to_string(), "--container=serves"], "")?;
    ensure!(fs::read(&back)? == content, "cp: the file that came back is another");
    Ok(())
}

/// A port-forward, which ends with this.
struct Forward(Child);

impl Drop for Forward {
    fn drop(&mut self) {
        let _ended = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// What the port's other end says to `ping`.
fn forwarded(mut forward: Forward) -> anyhow::Result<String> {
    let mut line = String::new();
    // Kept open: it says more later, and ends if it cannot.
    let mut output = BufReader::new(forward.0.stdout.take().context("no output")?);
    output.read_line(&mut line)?;
    // Forwarding from 127.0.0.1:PORT -> 8081
    let port = line.split(' ').nth(2).and_then(|address| address.rsplit(':').next()?.parse().ok());
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port.with_context(|| format!("no port in {line:?}"))?))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(b"ping\n")?;
    stream.shutdown(Shutdown::Write)?;
    let mut echoed = String::new();
    stream.read_to_string(&mut echoed)?;
    Ok(echoed)
}
