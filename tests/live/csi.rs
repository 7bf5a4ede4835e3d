//! A claim's volume, by a driver that registers with the agent over its socket and really mounts.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, ensure};
use futures::FutureExt as _;
use kubelet::csi::CsiCall;
use kubelet::failure::{Failure, FailureKind};
use model::csi::CsiModel;
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use wire::csi::{Calls, serve};

use super::api::{NAMESPACE, container, pod};
use super::bed::{Bed, SOON, container_status};
use super::enclosure::Mounts;
use super::wait::until;

pub(crate) const DRIVER: &str = "csi.example.com";
const STORAGE: &str = "/apis/storage.k8s.io/v1";

/// A driver, for as long as this lives. Each volume is a filesystem in memory of its own.
pub(crate) struct Driver {
    state: Arc<Mutex<CsiModel>>,
    calls: Arc<Mutex<Vec<CsiCall>>>,
    socket: PathBuf,
    _runtime: Runtime,
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(&self.socket);
    }
}

impl Driver {
    /// Serves on a socket in the registry of the agent with that root directory.
    pub(crate) fn start(root: &Path, mounts: Mounts) -> anyhow::Result<Self> {
        let root = root.to_str().context("the agent's root directory is no text")?.to_owned();
        let mut model = CsiModel::default();
        model.starts(DRIVER, true);
        let socket =
            PathBuf::from(&model.sockets(&format!("{root}/plugins_registry")).first().context("the driver has no socket")?.path);
        // The agent may not have come so far.
        std::fs::create_dir_all(socket.parent().context("no directory")?)?;
        let (state, calls) = (Arc::new(Mutex::new(model)), Arc::new(Mutex::new(Vec::new())));
        let (seen, kept) = (Arc::clone(&state), Arc::clone(&calls));
        let act: Calls = Arc::new(move |call| {
            let done = act(&mounts, &call)
                .map_err(|error| Failure::new(FailureKind::Other, error.to_string()))
                .and_then(|()| seen.lock().unwrap_or_else(PoisonError::into_inner).call(&call));
            kept.lock().unwrap_or_else(PoisonError::into_inner).push(call);
            async move { done }.boxed()
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = {
            let _here = runtime.enter();
            UnixListener::bind(&socket).with_context(|| socket.display().to_string())?
        };
        let endpoint = socket.display().to_string();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, endpoint.clone(), Arc::clone(&act)));
            }
        });
        Ok(Self { state, calls, socket, _runtime: runtime })
    }

    pub(crate) fn with<T>(&self, look: impl FnOnce(&CsiModel) -> T) -> T {
        look(&self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The names of the calls that were made so far, besides those of registration.
    pub(crate) fn calls(&self) -> Vec<&'static str> {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let of_volumes = calls.iter().filter_map(|call| match call {
            CsiCall::Stage { .. } => Some("stage"),
            CsiCall::Publish { .. } => Some("publish"),
            CsiCall::Unpublish { .. } => Some("unpublish"),
            CsiCall::Unstage { .. } => Some("unstage"),
            _ => None,
        });
        of_volumes.collect()
    }
}

/// What a call does to the mounts of the node.
fn act(mounts: &Mounts, call: &CsiCall) -> anyhow::Result<()> {
    match call {
        CsiCall::Stage { request, .. } => {
            let path = &request.staging_target_path;
            if mounts.run("mountpoint", &["-q", path]).is_err() {
                mounts.run("mount", &["-t", "tmpfs", "-o", "size=4m,mode=755", &request.volume_id, path])?;
            }
        }
        CsiCall::Publish { request, .. } => {
            // The specification has the driver make the target.
            mounts.run("mkdir", &["-p", &request.target_path])?;
            if mounts.run("mountpoint", &["-q", &request.target_path]).is_err() {
                mounts.run("mount", &["--bind", &request.staging_target_path, &request.target_path])?;
            }
        }
        CsiCall::Unpublish { target, .. } => {
            if mounts.run("mountpoint", &["-q", target]).is_ok() {
                mounts.run("umount", &[target])?;
            }
            mounts.run("rm", &["-df", target])?;
        }
        CsiCall::Unstage { staging, .. } => {
            if mounts.run("mountpoint", &["-q", staging]).is_ok() {
                mounts.run("umount", &[staging])?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// The driver, a volume of its, and a claim bound to that.
pub(crate) fn furniture() -> [Value; 3] {
    let modes = json!(["ReadWriteOnce"]);
    [
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": DRIVER},
            "spec": {"attachRequired": true, "fsGroupPolicy": "File"}}),
        json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv-data"}, "spec": {
            "accessModes": modes, "capacity": {"storage": "4Mi"}, "volumeMode": "Filesystem",
            "claimRef": {"namespace": "default", "name": "data"},
            "csi": {"driver": DRIVER, "volumeHandle": "vol-data", "fsType": "tmpfs"}}}),
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"}, "spec": {
            "accessModes": modes, "resources": {"requests": {"storage": "4Mi"}}, "volumeName": "pv-data", "storageClassName": ""}}),
    ]
}

fn furnish(bed: &Bed) -> anyhow::Result<()> {
    let [driver, volume, claim] = furniture();
    bed.api.post(&format!("{STORAGE}/csidrivers"), &driver)?;
    bed.api.post("/api/v1/persistentvolumes", &volume)?;
    bed.api.create("persistentvolumeclaims", &claim).map(drop)
}

/// A pod that adds a line to a file of the claim's volume, and shows the file and its group.
pub(crate) fn writer(name: &str) -> Value {
    let script =
        format!("echo {name} >>/data/lines; ls -ln /data/lines | tr -s ' ' | cut -d ' ' -f 4; cat /data/lines; exec sleep 1000");
    let main = container("main", &script, &json!({"volumeMounts": [{"name": "claimed", "mountPath": "/data"}]}));
    pod(
        name,
        &json!({"containers": [main], "securityContext": {"fsGroup": 4321},
        "volumes": [{"name": "claimed", "persistentVolumeClaim": {"claimName": "data"}}]}),
    )
}

fn driver_is_registered(bed: &Bed) -> anyhow::Result<()> {
    until("the driver in the CSINode", SOON, || {
        let node =
            bed.api.get(&format!("{STORAGE}/csinodes/{}", super::agent::NODE)).map_err(|e| e.to_string())?.unwrap_or_default();
        let mut drivers = node["spec"]["drivers"].as_array().into_iter().flatten();
        if drivers.any(|driver| driver["name"] == DRIVER) { Ok(()) } else { Err(node["spec"].to_string()) }
    })
}

pub(super) fn claim_is_mounted_by_its_driver(bed: &mut Bed) -> anyhow::Result<()> {
    let driver = Driver::start(&bed.agent.root, bed.site.enclosure.mounts())?;
    driver_is_registered(bed)?;
    furnish(bed)?;
    bed.api.create("pods", &writer("first"))?;
    let before = bed.pod_ready("first")?;
    let there = driver.with(|state| (state.staged.len(), state.published.len()));
    ensure!(there == (1, 1), "staged and published: {there:?}");
    let text = bed.log("first", "")?;
    ensure!(text == "4321\nfirst\n", "{text}");
    // An agent that was killed finds what is mounted, and touches neither the volume nor the container.
    bed.agent.end(&bed.site.enclosure, "KILL")?;
    bed.agent.start_again(&bed.site.enclosure)?;
    bed.api.create("pods", &writer("second"))?;
    bed.pod_ready("second")?;
    let after = bed.pod("first")?;
    ensure!(container_status(&after, "main") == container_status(&before, "main"), "{before} {after}");
    let text = bed.log("second", "")?;
    ensure!(text == "4321\nfirst\nsecond\n", "{text}");
    bed.delete("first")?;
    ensure!(!driver.calls().contains(&"unstage"), "unstaged under the second pod: {:?}", driver.calls());
    bed.delete("second")?;
    let is_left = || {
        let left = driver.with(|state| (state.staged.clone(), state.published.clone()));
        if left.0.is_empty() && left.1.is_empty() { Ok(()) } else { Err(left) }
    };
    until("nothing staged or published", SOON, is_left)?;
    ensure!(driver.calls().last() == Some(&"unstage"), "{:?}", driver.calls());
    until("no volume in use", SOON, || {
        let node = bed.node().map_err(|error| error.to_string())?.unwrap_or_default();
        if node["status"]["volumesInUse"].as_array().is_none_or(Vec::is_empty) { Ok(()) } else { Err(node["status"].to_string()) }
    })?;
    bed.api.delete(&format!("{NAMESPACE}/persistentvolumeclaims/data"))?;
    bed.api.delete("/api/v1/persistentvolumes/pv-data")?;
    bed.api.delete(&format!("{STORAGE}/csidrivers/{DRIVER}"))
}
