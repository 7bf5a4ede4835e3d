//! The runtime alone: the calls that a pod with one container cannot do without, and nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::cri::CriRuntime;
use agent::env::{ContainerRuntime as _, Endpoint, Net};
use agent::net::SystemNet;
use anyhow::{anyhow, bail};
use kubelet::action::CriCall;
use kubelet::event::CriReply;
use kubelet::ids::{ContainerId, SandboxId};
use proto::cri::{ContainerConfig, ContainerMetadata, ImageSpec, LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::live::image::BUSYBOX_IMAGE;
use crate::live::site::CGROUP_ROOT;
use crate::median;

/// How long pods took to come up and to go.
pub(crate) struct UpAndDown {
    pub(crate) up: Duration,
    pub(crate) down: Duration,
}

/// A connection to the runtime.
pub(crate) struct Bare {
    client: CriRuntime,
    logs: PathBuf,
    runtime: Runtime,
}

/// A pod of one container that runs.
struct Up {
    sandbox: SandboxId,
    container: ContainerId,
}

impl Bare {
    /// Connects to the runtime at that socket; what containers write goes below `logs`.
    pub(crate) fn connect(socket: &Path, logs: &Path) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let endpoint = Endpoint::Unix(socket.display().to_string());
        let net: Arc<dyn Net> = Arc::new(SystemNet::default());
        let client = runtime.block_on(async { CriRuntime::new(&net, &endpoint, &endpoint, tokio::time::Instant::now()) });
        Ok(Self { client, logs: logs.to_owned(), runtime })
    }

    /// So many pods one after another; medians.
    pub(crate) fn one_by_one(&self, count: usize) -> anyhow::Result<UpAndDown> {
        let mut times = Vec::new();
        for number in 0..count {
            let began = Instant::now();
            let pod = self.runtime.block_on(up(self.client.clone(), self.config(&format!("single-{number}"))?))?;
            let up = began.elapsed();
            self.runtime.block_on(down(self.client.clone(), pod))?;
            times.push((up, began.elapsed().saturating_sub(up)));
        }
        Ok(UpAndDown { up: median(times.iter().map(|(up, _)| *up)), down: median(times.iter().map(|(_, down)| *down)) })
    }

    /// So many pods at once.
    pub(crate) fn at_once(&self, count: usize) -> anyhow::Result<UpAndDown> {
        let configs = (0..count).map(|number| self.config(&format!("many-{number}"))).collect::<Result<Vec<_>, _>>()?;
        let began = Instant::now();
        let pods = self.all(configs.into_iter().map(|config| up(self.client.clone(), config)))?;
        let up = began.elapsed();
        self.all(pods.into_iter().map(|pod| down(self.client.clone(), pod)))?;
        Ok(UpAndDown { up, down: began.elapsed().saturating_sub(up) })
    }

    fn all<T: Send + 'static>(
        &self,
        tasks: impl Iterator<Item = impl Future<Output = anyhow::Result<T>> + Send + 'static>,
    ) -> anyhow::Result<Vec<T>> {
        self.runtime.block_on(async {
            let mut running: JoinSet<anyhow::Result<T>> = tasks.collect();
            let mut done = Vec::new();
            while let Some(ended) = running.join_next().await {
                done.push(ended??);
            }
            Ok(done)
        })
    }

    fn config(&self, name: &str) -> anyhow::Result<Arc<PodSandboxConfig>> {
        let log_directory = self.logs.join(name);
        fs::create_dir_all(log_directory.join("main"))?;
        Ok(Arc::new(PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: name.to_owned(),
                namespace: "bare".to_owned(),
                attempt: 0,
            }),
            log_directory: log_directory.display().to_string(),
            linux: Some(LinuxPodSandboxConfig { cgroup_parent: format!("{CGROUP_ROOT}/bare"), ..Default::default() }),
            ..Default::default()
        }))
    }
}

async fn up(client: CriRuntime, config: Arc<PodSandboxConfig>) -> anyhow::Result<Up> {
    let call = CriCall::RunPodSandbox { config: Arc::clone(&config), runtime_handler: String::new() };
    let CriReply::Sandbox(sandbox) = client.call(call).await.map_err(|failure| anyhow!("{failure:?}"))? else {
        bail!("not a sandbox");
    };
    let script = "trap 'exit 0' TERM; while :; do sleep 3600 & wait; done";
    let container = ContainerConfig {
        metadata: Some(ContainerMetadata { name: "main".to_owned(), attempt: 0 }),
        image: Some(ImageSpec { image: BUSYBOX_IMAGE.to_owned(), ..Default::default() }),
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        log_path: "main/0.log".to_owned(),
        ..Default::default()
    };
    let call = CriCall::CreateContainer { sandbox: sandbox.clone(), config: Box::new(container), sandbox_config: config };
    let CriReply::Container(container) = client.call(call).await.map_err(|failure| anyhow!("{failure:?}"))? else {
        bail!("not a container");
    };
    done(&client, CriCall::StartContainer { id: container.clone() }).await?;
    Ok(Up { sandbox, container })
}

async fn down(client: CriRuntime, pod: Up) -> anyhow::Result<()> {
    let stop = || CriCall::StopContainer { id: pod.container.clone(), grace: Duration::from_secs(1) };
    // With a hundred at once a stop fails now and then, as when the container ends at that moment: an agent tries again as well.
    if done(&client, stop()).await.is_err() {
        done(&client, stop()).await?;
    }
    done(&client, CriCall::StopPodSandbox { id: pod.sandbox.clone() }).await?;
    done(&client, CriCall::RemoveContainer { id: pod.container }).await?;
    done(&client, CriCall::RemovePodSandbox { id: pod.sandbox }).await
}

async fn done(client: &CriRuntime, call: CriCall) -> anyhow::Result<()> {
    client.call(call).await.map(drop).map_err(|failure| anyhow!("{failure:?}"))
}
