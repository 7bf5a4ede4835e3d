//! What a real kubelet 1.36.2 left on disk, in cgroups and in events for the same pods (`tests/testdata/golden`), line by line.
//! What was random or of its machine is replaced by a word in capitals, there as here.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::agent::NODE;
use super::api::{NAMESPACE, container, pod};
use super::bed::{Bed, SOON, container_status};
use super::site::{CGROUP_ROOT, cgroup_directories};
use super::wait::until;

/// Lines in any order.
type Lines = BTreeSet<String>;

fn golden(text: &str) -> Lines {
    text.lines().map(str::to_owned).collect()
}

/// The pod of which everything was recorded.
fn recorded() -> Value {
    let probe = json!({"exec": {"command": ["true"]}, "periodSeconds": 2});
    let main = container(
        "main",
        "echo started; trap 'exit 0' TERM; while :; do sleep 3600 & wait; done",
        &json!({
            "ports": [{"containerPort": 8080, "name": "http"}],
            "env": [{"name": "CM", "valueFrom": {"configMapKeyRef": {"name": "gold-cm", "key": "k"}}}],
            "resources": {"requests": {"cpu": "100m", "memory": "16Mi"}, "limits": {"cpu": "200m", "memory": "32Mi"}},
            "readinessProbe": probe, "livenessProbe": probe,
            "volumeMounts": [
                {"name": "cm", "mountPath": "/cm"}, {"name": "sec", "mountPath": "/sec", "readOnly": true},
                {"name": "tmp", "mountPath": "/scratch"}, {"name": "info", "mountPath": "/info"},
            ],
        }),
    );
    let labels = json!([{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]);
    let mut pod = pod(
        "gold-running",
        &json!({
            "terminationGracePeriodSeconds": 2, "initContainers": [container("init", "echo init", &json!({}))], "containers": [main],
            "volumes": [
                {"name": "cm", "configMap": {"name": "gold-cm"}}, {"name": "sec", "secret": {"secretName": "gold-sec"}},
                {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
                {"name": "info", "downwardAPI": {"items": labels}},
            ],
        }),
    );
    pod["metadata"]["labels"] = json!({"app": "gold"});
    pod
}

pub(super) fn files_and_cgroups_are_as_a_kubelet_makes_them(bed: &mut Bed) -> anyhow::Result<()> {
    let of = |kind: &str, name: &str, field: &str, data: Value| json!({"kind": kind, "metadata": {"name": name}, field: data});
    bed.api.create("configmaps", &of("ConfigMap", "gold-cm", "data", json!({"k": "v", "file.txt": "hello\n"})))?;
    bed.api.create("secrets", &of("Secret", "gold-sec", "stringData", json!({"pw": "s3cret"})))?;
    bed.api.create("pods", &recorded())?;
    let ready = bed.pod_ready("gold-running")?;
    let uid = ready["metadata"]["uid"].as_str().context("a UID")?;

    let mut found = Lines::new();
    let pods = bed.site.enclosure.path(bed.agent.root.join("pods"));
    list(&pods.join(uid), "pods/UID", &mut found)?;
    same("the pod's files", &golden(include_str!("../testdata/golden/pod-dir.txt")), &found)?;
    logs_are_linked(bed, &ready, uid)?;
    root_is_that_of_a_kubelet(bed)?;
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        println!("skipped: golden cgroups: they were recorded on cgroup v1");
    } else {
        let recorded = golden(include_str!("../testdata/golden/cgroups-v1.txt"));
        // The tier's shares follow its pods a moment later, once for all that came together.
        let are_equal = || cgroups(uid).and_then(|found| same("cgroups", &recorded, &found)).map_err(|error| error.to_string());
        until("the cgroups of a kubelet", SOON, are_equal)?;
    }
    bed.delete("gold-running")?;
    bed.api.delete(&format!("{NAMESPACE}/configmaps/gold-cm"))?;
    bed.api.delete(&format!("{NAMESPACE}/secrets/gold-sec"))
}

/// What only a kubelet keeps in its root directory: state of what is not built yet (in-place resize, dynamic resources, records of
/// pulls), what the tests have elsewhere (certificates, and device plugins, whose directory is the same for any root), and a directory
/// `kubelet` of which the record says no more.
const KUBELETS_OWN: [&str; 7] =
    ["actuated_pods_state", "allocated_pods_state", "device-plugins", "dra_manager_state", "image_manager", "kubelet", "pki"];

/// DIR-002, DIR-004 to DIR-007: names and modes.
fn root_is_that_of_a_kubelet(bed: &Bed) -> anyhow::Result<()> {
    let mut found = Lines::new();
    for entry in fs::read_dir(bed.site.enclosure.path(&bed.agent.root))? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        let kind = if metadata.is_dir() { 'd' } else { '-' };
        found.insert(format!("{kind}{} {}", permissions(metadata.permissions().mode()), entry.file_name().to_string_lossy()));
    }
    let is_built = |line: &String| !KUBELETS_OWN.iter().any(|name| line.ends_with(&format!(" {name}")));
    let recorded = golden(include_str!("../testdata/golden/root-dir.txt")).into_iter().filter(is_built).collect();
    same("the root directory", &recorded, &found)
}

/// Fails with what is missing and what is too much.
fn same(what: &str, golden: &Lines, found: &Lines) -> anyhow::Result<()> {
    let missing: Vec<&String> = golden.difference(found).collect();
    let more: Vec<&String> = found.difference(golden).collect();
    ensure!(missing.is_empty() && more.is_empty(), "{what}: missing {missing:#?}, more {more:#?}");
    Ok(())
}

/// Everything below a directory, in the form of the record.
fn list(path: &Path, shown: &str, lines: &mut Lines) -> anyhow::Result<()> {
    let metadata = fs::symlink_metadata(path).with_context(|| shown.to_owned())?;
    let mode = metadata.permissions().mode();
    let (kind, letter, target) = if metadata.is_symlink() {
        ('l', 'l', format!(" -> {}", word_for(&fs::read_link(path)?.display().to_string())))
    } else if metadata.is_dir() {
        ('d', 'd', String::new())
    } else {
        ('-', 'f', String::new())
    };
    lines.insert(format!("{kind}{} {letter} {shown}{target}", permissions(mode)));
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let name = word_for(&entry.file_name().to_string_lossy());
            list(&entry.path(), &format!("{shown}/{name}"), lines)?;
        }
    }
    Ok(())
}

/// `rwxr-x---`, with the sticky bit as `ls` shows it.
fn permissions(mode: u32) -> String {
    let letters = ['r', 'w', 'x'];
    let mut text: String = (0..9).map(|at| if mode & (0o400 >> at) == 0 { '-' } else { letters[at % 3] }).collect();
    if mode & 0o1000 != 0 {
        text.replace_range(8.., if mode & 1 == 0 { "T" } else { "t" });
    }
    text
}

/// What stands for a random name.
fn word_for(name: &str) -> String {
    let is_hex = name.len() == 8 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hex {
        return "HEX".to_owned();
    }
    if name.starts_with("..2") {
        return "..TIME".to_owned();
    }
    match name.split_once("kube-api-access-") {
        Some((before, _)) => format!("{before}kube-api-access-RANDOM"),
        None => name.to_owned(),
    }
}

/// LOG-005, DIR-009: the links that log collectors follow.
fn logs_are_linked(bed: &Bed, pod: &Value, uid: &str) -> anyhow::Result<()> {
    for name in ["init", "main"] {
        let id = container_status(pod, name)["containerID"].as_str().unwrap_or_default();
        let id = id.trim_start_matches("containerd://");
        let link = format!("/var/log/containers/gold-running_default_{name}-{id}.log");
        let target = fs::read_link(bed.site.enclosure.path(&link)).context(link)?;
        let log = format!("/var/log/pods/default_gold-running_{uid}/{name}/0.log");
        ensure!(target == Path::new(&log), "{}", target.display());
        ensure!(fs::metadata(bed.site.enclosure.path(&log))?.is_file(), "{log}");
    }
    let mode = |path: &str| Ok::<_, std::io::Error>(fs::metadata(bed.site.enclosure.path(path))?.permissions().mode() & 0o7777);
    let modes = (mode("/var/log/pods")?, mode("/var/log/containers")?, mode(&format!("/var/log/pods/default_gold-running_{uid}"))?);
    ensure!(modes == (0o750, 0o755, 0o755), "modes {modes:?}");
    Ok(())
}

/// The values that were recorded, of the classes and of the pod.
fn cgroups(uid: &str) -> anyhow::Result<Lines> {
    let mut lines = Lines::new();
    for cgroup in ["kubepods/besteffort", "kubepods/burstable", &format!("kubepods/burstable/pod{uid}")] {
        for directory in cgroup_directories(&format!("{CGROUP_ROOT}/{cgroup}")) {
            for file in ["cpu.shares", "cpu.cfs_quota_us", "memory.limit_in_bytes", "pids.max"] {
                if let Ok(value) = fs::read_to_string(directory.join(file)) {
                    lines.insert(format!("{} {file} {}", cgroup.replace(uid, "UID"), value.trim()));
                }
            }
        }
    }
    Ok(lines)
}

/// The events of every step: type, reason, object, field and message.
pub(super) fn events_are_those_of_a_kubelet(bed: &mut Bed) -> anyhow::Result<()> {
    let one = |name: &str, spec: Value| bed.api.create("pods", &pod(name, &spec)).map(drop);
    let unlive = json!({"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1});
    one("gold-crash", json!({"containers": [container("c", "echo bye; exit 3", &json!({}))]}))?;
    one("gold-noimage", json!({"containers": [{"name": "c", "image": "docker.io/library/doesnotexist:1"}]}))?;
    // It ends soon after the one before it: one that takes longer than the longest back-off of this bed, a kubelet starts again at
    // once, for ever.
    let ends_at_once = "trap 'exit 0' TERM; while :; do sleep 3600 & wait; done";
    one("gold-unlive", json!({"containers": [container("c", ends_at_once, &json!({"livenessProbe": unlive}))]}))?;
    let done = container("c", "echo ok > /dev/termination-log", &json!({}));
    one("gold-done", json!({"restartPolicy": "Never", "containers": [done]}))?;
    let golden: Lines = golden(include_str!("../testdata/golden/events.tsv"))
        .into_iter()
        .filter(|line| !line.contains("gold-running") && !not_told(line))
        .collect();
    let about = |line: &String| line.contains("Pod/gold-") || line.contains("Node/NODE");
    until("the events of a kubelet", SOON * 3, || {
        let told: Lines = told(bed).map_err(|error| error.to_string())?.into_iter().filter(about).collect();
        let missing: Vec<String> = golden.difference(&told).cloned().collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("missing {missing:#?} of {told:#?}")) }
    })?;
    let pods = |lines: Lines| lines.into_iter().filter(|line| line.contains("Pod/gold-")).collect::<Lines>();
    let mut told = pods(told(bed)?);
    // Of other pods of these tests.
    told.retain(|line| !line.contains("gold-running") && !not_told(line));
    same("events", &pods(golden), &told)
}

/// What a kubelet tells and this agent does not: see docs/differs.md.
fn not_told(line: &str) -> bool {
    let v1 = !Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    line.contains("InvalidDiskCapacity") || (line.contains("CgroupV1") && !v1)
}

fn told(bed: &Bed) -> anyhow::Result<Lines> {
    let listed = bed.api.get(&format!("{NAMESPACE}/events"))?.unwrap_or_default();
    let line = |event: &Value| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let about = &event["involvedObject"];
        let mut message = text(&event["message"]).replace(&format!("Node {NODE} "), "Node NODE ");
        if let Some((pulled, _)) = message.split_once(": ").filter(|(before, _)| before.starts_with("Failed to pull image")) {
            message = format!("{pulled}: WHY");
        }
        if let Some((before, _)) = message.split_once("_default(") {
            message = format!("{before}_default(UID)");
        }
        let name = if about["kind"] == "Node" { "NODE".to_owned() } else { text(&about["name"]) };
        let object = format!("{}/{name}", text(&about["kind"]));
        [text(&event["type"]), text(&event["reason"]), object, text(&about["fieldPath"]), message].join("\t")
    };
    Ok(listed["items"].as_array().into_iter().flatten().map(line).collect())
}
