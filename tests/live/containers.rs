//! How containers are run: their resources, their rights, their order, their ends.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::api::{container, pod};
use super::bed::{Bed, container_status, pod_path};
use super::site::{CGROUP_ROOT, cgroup_directories};

pub(super) fn resources_reach_the_cgroups(bed: &mut Bed) -> anyhow::Result<()> {
    let resources = json!({"requests": {"cpu": "100m", "memory": "32Mi"}, "limits": {"cpu": "200m", "memory": "64Mi"}});
    let main = container("main", "exec sleep 1000", &json!({"resources": resources}));
    let created = bed.api.create("pods", &pod("limited", &json!({"containers": [main]})))?;
    let ready = bed.pod_ready("limited")?;
    ensure!(ready["status"]["qosClass"] == "Burstable", "{}", ready["status"]);
    let of_pod = format!("{CGROUP_ROOT}/kubepods/burstable/pod{}", created["metadata"]["uid"].as_str().unwrap_or_default());
    let id = container_status(&ready, "main")["containerID"].as_str().unwrap_or_default();
    let of_container = format!("{of_pod}/{}", id.trim_start_matches("containerd://"));
    for cgroup in [&of_pod, &of_container] {
        let limit = cgroup_file(cgroup, "memory.max").or_else(|| cgroup_file(cgroup, "memory.limit_in_bytes"));
        ensure!(limit.as_deref() == Some("67108864"), "memory of {cgroup}: {limit:?}");
        let quota = cgroup_file(cgroup, "cpu.max").or_else(|| {
            Some(format!("{} {}", cgroup_file(cgroup, "cpu.cfs_quota_us")?, cgroup_file(cgroup, "cpu.cfs_period_us")?))
        });
        ensure!(quota.as_deref() == Some("20000 100000"), "quota of {cgroup}: {quota:?}");
    }
    let share = cgroup_file(&of_pod, "cpu.weight").map(|weight| weight == "4");
    let share = share.or_else(|| cgroup_file(&of_pod, "cpu.shares").map(|shares| shares == "102"));
    ensure!(share == Some(true), "CPU share of {of_pod}");
    let summary = bed.api.carried(&format!("/api/v1/nodes/{}/proxy/stats/summary", super::agent::NODE))?;
    let summary: Value = serde_json::from_str(&summary.1).with_context(|| format!("{summary:?}"))?;
    let systems = summary["node"]["systemContainers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let pods = systems.iter().find(|system| system["name"] == "pods").context("no system container `pods`")?;
    ensure!(pods["memory"]["workingSetBytes"].as_u64().is_some_and(|bytes| bytes > 0), "all pods together: {pods}");
    let known = summary["pods"].as_array().into_iter().flatten().find(|pod| pod["podRef"]["name"] == "limited");
    let known = known.context("the pod is not in the summary")?;
    ensure!(known["containers"][0]["memory"]["workingSetBytes"].as_u64().is_some_and(|bytes| bytes > 0), "{known}");
    bed.delete("limited")
}

/// What a cgroup's file says, in whichever hierarchy it is.
fn cgroup_file(cgroup: &str, file: &str) -> Option<String> {
    cgroup_directories(cgroup).iter().find_map(|d| Some(fs::read_to_string(d.join(file)).ok()?.trim().to_owned()))
}

pub(super) fn security_context_binds_the_process(bed: &mut Bed) -> anyhow::Result<()> {
    let script = "id -u; id -g; id -G; touch /x 2>/dev/null && echo writable || echo read-only; touch /data/y && stat -c %g /data/y; \
                  grep -E 'NoNewPrivs|CapEff' /proc/self/status";
    let fields = json!({
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        "securityContext": {
            "runAsUser": 1000, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
        },
    });
    let spec = json!({
        "restartPolicy": "Never", "containers": [container("main", script, &fields)],
        "securityContext": {"runAsUser": 7, "runAsGroup": 2000, "fsGroup": 3000, "supplementalGroups": [4000]},
        "volumes": [{"name": "data", "emptyDir": {}}],
    });
    let text = bed.output_of(&pod("bound", &spec))?;
    let lines: Vec<&str> = text.lines().collect();
    ensure!(lines.len() == 7, "{text}");
    ensure!(lines[..2] == ["1000", "2000"] && lines[3..5] == ["read-only", "3000"], "{text}");
    let groups: Vec<&str> = lines[2].split(' ').collect();
    ensure!(["2000", "3000", "4000"].iter().all(|group| groups.contains(group)), "{text}");
    let said = |name: &str| lines.iter().find_map(|line| line.strip_prefix(name)).map(str::trim);
    ensure!(said("NoNewPrivs:") == Some("1") && said("CapEff:") == Some("0000000000000000"), "{text}");
    // The image's user is root, which this pod does not allow.
    let refused = container("main", "true", &json!({"securityContext": {"runAsNonRoot": true}}));
    bed.api.create("pods", &pod("root", &json!({"containers": [refused]})))?;
    let pod = bed.pod_becomes("root", "refused", |pod| {
        container_status(pod, "main")["state"]["waiting"]["reason"] == "CreateContainerConfigError"
    })?;
    let message = &container_status(&pod, "main")["state"]["waiting"]["message"];
    ensure!(message.as_str().is_some_and(|m| m.starts_with("container has runAsNonRoot and image will run as root")), "{message}");
    Ok(())
}

pub(super) fn host_network_pod_has_the_nodes_address(bed: &mut Bed) -> anyhow::Result<()> {
    let main = container("main", "ip -4 -o addr show dev eth0; hostname; exec sleep 1000", &json!({}));
    bed.api.create("pods", &pod("outside", &json!({"hostNetwork": true, "containers": [main]})))?;
    let ready = bed.pod_ready("outside")?;
    ensure!(ready["status"]["podIP"] == super::enclosure::NODE_IP, "{}", ready["status"]);
    let text = bed.log("outside", "")?;
    ensure!(text.contains("10.77.0.1/24"), "{text}");
    bed.delete("outside")
}

pub(super) fn init_containers_run_in_order(bed: &mut Bed) -> anyhow::Result<()> {
    let data = json!({"volumeMounts": [{"name": "data", "mountPath": "/data"}]});
    let mut sidecar = data.clone();
    sidecar["restartPolicy"] = json!("Always");
    let spec = json!({
        "restartPolicy": "Never", "volumes": [{"name": "data", "emptyDir": {"medium": "Memory"}}],
        "initContainers": [
            container("one", "echo one >>/data/order", &data),
            container("side", "echo side >>/data/order; exec sleep 1000", &sidecar),
            container("two", "sleep 0.3; echo two >>/data/order", &data),
        ],
        "containers": [container("main", "cat /data/order; grep -q ' /data tmpfs' /proc/mounts && echo memory", &data)],
    });
    bed.api.create("pods", &pod("ordered", &spec))?;
    let ended = bed.pod_ended("ordered")?;
    let text = bed.log("ordered", "?container=main")?;
    ensure!(ended["status"]["phase"] == "Succeeded" && text == "one\nside\ntwo\nmemory\n", "{text} {}", ended["status"]);
    let names: Vec<&Value> =
        ended["status"]["initContainerStatuses"].as_array().into_iter().flatten().map(|s| &s["name"]).collect();
    ensure!(names == ["one", "side", "two"], "{names:?}");
    ensure!(container_status(&ended, "one")["state"]["terminated"]["exitCode"] == 0, "{}", ended["status"]);
    bed.delete("ordered")
}

pub(super) fn termination_message_is_what_the_container_left(bed: &mut Bed) -> anyhow::Result<()> {
    let fallback = json!({"terminationMessagePolicy": "FallbackToLogsOnError"});
    let spec = json!({
        "restartPolicy": "Never",
        "containers": [
            container("writes", "printf farewell >/dev/termination-log; exit 4", &json!({})),
            container("logs", "echo from the log; exit 5", &fallback),
        ],
    });
    bed.api.create("pods", &pod("ends", &spec))?;
    let ended = bed.pod_ended("ends")?;
    ensure!(ended["status"]["phase"] == "Failed", "{}", ended["status"]);
    let end_of = |name: &str| &container_status(&ended, name)["state"]["terminated"];
    let (writes, logs) = (end_of("writes"), end_of("logs"));
    ensure!(writes["message"] == "farewell" && writes["exitCode"] == 4 && writes["reason"] == "Error", "{writes}");
    ensure!(logs["message"] == "from the log\n" && logs["exitCode"] == 5, "{logs}");
    bed.delete("ends")
}

pub(super) fn hook_and_grace_come_before_the_kill(bed: &mut Bed) -> anyhow::Result<()> {
    let shared = json!({"name": "shared", "mountPath": "/shared"});
    let polite = container(
        "main",
        "trap 'echo term >>/shared/order; exit 0' TERM; while :; do sleep 0.1; done",
        &json!({
            "volumeMounts": [shared],
            "lifecycle": {
                "postStart": {"exec": {"command": ["/bin/sh", "-c", "echo started >>/shared/order"]}},
                "preStop": {"exec": {"command": ["/bin/sh", "-c", "sleep 0.5; echo hook >>/shared/order"]}},
            },
        }),
    );
    let volumes = json!([{"name": "shared", "hostPath": {"path": "/run/live-shared", "type": "DirectoryOrCreate"}}]);
    let spec = json!({"terminationGracePeriodSeconds": 15, "containers": [polite], "volumes": volumes});
    bed.api.create("pods", &pod("polite", &spec))?;
    bed.pod_ready("polite")?;
    let began = Instant::now();
    bed.delete("polite")?;
    let took = began.elapsed();
    let order = fs::read_to_string(bed.site.enclosure.path(Path::new("/run/live-shared/order")))?;
    ensure!(order == "started\nhook\nterm\n", "{order}");
    ensure!(took > Duration::from_millis(500) && took < Duration::from_secs(10), "it took {took:?}");
    // One that does not listen is killed when its grace is over, not before.
    let deaf = container("main", "trap '' TERM; while :; do sleep 0.1; done", &json!({}));
    bed.api.create("pods", &pod("deaf", &json!({"terminationGracePeriodSeconds": 3, "containers": [deaf]})))?;
    bed.pod_ready("deaf")?;
    let began = Instant::now();
    bed.delete("deaf")?;
    let took = began.elapsed();
    ensure!(took > Duration::from_secs(3) && took < Duration::from_secs(8), "killed after {took:?}");
    Ok(())
}

pub(super) fn crash_loop_backs_off(bed: &mut Bed) -> anyhow::Result<()> {
    bed.api.create("pods", &pod("crashes", &json!({"containers": [container("main", "exit 3", &json!({}))]})))?;
    let pod = bed.pod_becomes("crashes", "CrashLoopBackOff", |pod| {
        let status = container_status(pod, "main");
        status["state"]["waiting"]["reason"] == "CrashLoopBackOff" && status["restartCount"].as_u64() >= Some(1)
    })?;
    let status = container_status(&pod, "main");
    let message = status["state"]["waiting"]["message"].as_str().unwrap_or_default();
    ensure!(
        message.starts_with("back-off ") && message.contains("restarting failed container=main pod=crashes_default("),
        "{message}"
    );
    ensure!(status["lastState"]["terminated"]["exitCode"] == 3, "{status}");
    let before = status["restartCount"].as_u64();
    // The back-off ends: its longest is three seconds here.
    bed.pod_becomes("crashes", "restarted once more", |pod| container_status(pod, "main")["restartCount"].as_u64() > before)?;
    let events = bed.api.events_about("crashes");
    let told =
        events.iter().any(|(reason, text)| reason == "BackOff" && text.starts_with("Back-off restarting failed container main"));
    ensure!(told, "{events:?}");
    let previous = bed.api.carried(&format!("{}/log?previous=true", pod_path("crashes")))?;
    ensure!(previous == (200, String::new()), "{previous:?}");
    bed.delete("crashes")
}
