//! The agent's client against this server, over streams within the process: what is asked for over the wire is what comes back.

use std::io;
use std::net::SocketAddr;

use agent::cri::CriRuntime;
use agent::env::{BoxedStream, ContainerRuntime as _, Endpoint, Listener, Net};
use futures::future::BoxFuture;
use kubelet::ids::{ContainerId, PodUid, SandboxId};
use kubelet::observation::{ContainerState, Listing, Observed, RuntimeHandler, SandboxState};
use proto::cri::image_service_server::ImageServiceServer;
use proto::cri::runtime_service_server::RuntimeServiceServer;
use proto::cri::*;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::*;

/// Every connection goes to the one server.
struct Streams(mpsc::UnboundedSender<DuplexStream>);

impl Net for Streams {
    fn connect(&self, _: Endpoint) -> BoxFuture<'_, io::Result<BoxedStream>> {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let sent = self.0.send(theirs).map_err(|_| io::ErrorKind::ConnectionRefused.into());
        Box::pin(async move { sent.map(|()| Box::pin(ours) as BoxedStream) })
    }

    fn listen(&self, _: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }
}

fn runtime() -> CriRuntime {
    runtime_over(&Arc::new(Mutex::new(stocked())))
}

fn stocked() -> RuntimeModel {
    let mut model = RuntimeModel::default();
    model.add_image("busybox:1.36");
    model
}

fn runtime_over(model: &Arc<Mutex<RuntimeModel>>) -> CriRuntime {
    let clock = || Timestamp::from_second(1_767_225_600).unwrap();
    let server = CriServer::new(Arc::clone(model), Arc::new(clock), Arc::new(|_| CallFault::None));
    let (sender, receiver) = mpsc::unbounded_channel();
    let incoming = futures::stream::unfold(receiver, |mut receiver| async move {
        let stream = receiver.recv().await?;
        Some((Ok::<_, io::Error>(stream), receiver))
    });
    let services = tonic::transport::Server::builder()
        .add_service(RuntimeServiceServer::new(server.clone()))
        .add_service(ImageServiceServer::new(server));
    tokio::spawn(services.serve_with_incoming(incoming));
    let net: Arc<dyn Net> = Arc::new(Streams(sender));
    let endpoint = Endpoint::Unix("/run/pretend.sock".into());
    CriRuntime::new(&net, &endpoint, &endpoint, Instant::now())
}

async fn done(runtime: &CriRuntime, call: CriCall) {
    let reply = runtime.call(call.clone()).await;
    assert!(matches!(reply, Ok(CriReply::Done)), "{call:?}: {reply:?}");
}

/// A pod with one container that runs.
async fn run(runtime: &CriRuntime, name: &str, network: NamespaceMode) -> (SandboxId, ContainerId) {
    let metadata = PodSandboxMetadata { name: name.into(), uid: name.into(), namespace: "default".into(), attempt: 3 };
    let labels = [("uid", name), ("name", name), ("namespace", "default")];
    let labels = labels.map(|(key, value)| (format!("io.kubernetes.pod.{key}"), value.to_owned())).into();
    let options = NamespaceOption { network: network as i32, ..NamespaceOption::default() };
    let security_context =
        LinuxSandboxSecurityContext { namespace_options: Some(options), ..LinuxSandboxSecurityContext::default() };
    let linux = LinuxPodSandboxConfig { security_context: Some(security_context), ..LinuxPodSandboxConfig::default() };
    let config = PodSandboxConfig { metadata: Some(metadata), labels, linux: Some(linux), ..PodSandboxConfig::default() };
    let sandbox_config = Arc::new(config);
    let call = CriCall::RunPodSandbox { config: Arc::clone(&sandbox_config), runtime_handler: String::new() };
    let Ok(CriReply::Sandbox(sandbox)) = runtime.call(call).await else { panic!("no sandbox") };
    let security = LinuxContainerSecurityContext {
        run_as_user: Some(Int64Value { value: 1000 }),
        run_as_group: Some(Int64Value { value: 2000 }),
        supplemental_groups: vec![3000],
        ..LinuxContainerSecurityContext::default()
    };
    let resources = LinuxContainerResources {
        cpu_shares: 102,
        cpu_quota: 5000,
        cpu_period: 100_000,
        memory_limit_in_bytes: 64 << 20,
        ..LinuxContainerResources::default()
    };
    let config = ContainerConfig {
        metadata: Some(ContainerMetadata { name: "main".into(), attempt: 5 }),
        linux: Some(LinuxContainerConfig { resources: Some(resources), security_context: Some(security) }),
        image: Some(ImageSpec { image: "busybox:1.36".into(), user_specified_image: "busybox".into(), ..ImageSpec::default() }),
        labels: sandbox_config.labels.clone(),
        ..ContainerConfig::default()
    };
    let call = CriCall::CreateContainer { sandbox: sandbox.clone(), config: Box::new(config), sandbox_config };
    let Ok(CriReply::Container(container)) = runtime.call(call).await else { panic!("no container") };
    done(runtime, CriCall::StartContainer { id: container.clone() }).await;
    (sandbox, container)
}

async fn look(runtime: &CriRuntime, pod: &str) -> Observed {
    match runtime.call(CriCall::Observe { pod: PodUid::new(pod) }).await {
        Ok(CriReply::Observation(seen)) => seen,
        other => panic!("{other:?}"),
    }
}

async fn list(runtime: &CriRuntime) -> Listing {
    match runtime.call(CriCall::List).await {
        Ok(CriReply::Listing { listing, .. }) => listing,
        other => panic!("{other:?}"),
    }
}

// CRI-014, CRI-015, CRI-020, CRI-021: everything is listed, and a look at one pod asks for what carries its UID, with the status of each.
#[tokio::test(start_paused = true)]
async fn look_at_a_pod_shows_that_pod_alone() {
    let runtime = runtime();
    let (sandbox, container) = run(&runtime, "one", NamespaceMode::Pod).await;
    run(&runtime, "two", NamespaceMode::Node).await;
    let listing = list(&runtime).await;
    assert_eq!((listing.sandboxes.len(), listing.containers.len()), (2, 2));
    let seen = look(&runtime, "one").await;
    assert_eq!((seen.sandboxes.len(), seen.containers.len()), (1, 1));
    let shown = &seen.sandboxes[0];
    assert_eq!((&shown.id, shown.attempt, shown.state, shown.host_network), (&sandbox, 3, SandboxState::Ready, false));
    assert_eq!(shown.ips.len(), 1);
    let shown = &seen.containers[0];
    assert_eq!((&shown.id, &shown.sandbox, shown.attempt, shown.state), (&container, &sandbox, 5, ContainerState::Running));
    assert!(shown.started_at > 0 && shown.finished_at == 0 && !shown.image_id.is_empty());
    let seen = look(&runtime, "two").await;
    assert!(seen.sandboxes[0].host_network && seen.sandboxes[0].ips.is_empty());
    assert!(look(&runtime, "none").await.sandboxes.is_empty());
}

// CRI-012, CRI-013, CRI-019: a stop ends what runs inside; each may be asked for twice.
#[tokio::test(start_paused = true)]
async fn sandbox_is_stopped_and_removed_as_often_as_asked() {
    let runtime = runtime();
    let (sandbox, container) = run(&runtime, "one", NamespaceMode::Pod).await;
    for _ in 0..2 {
        done(&runtime, CriCall::StopPodSandbox { id: sandbox.clone() }).await;
        let seen = look(&runtime, "one").await;
        assert_eq!((seen.sandboxes[0].state, seen.containers[0].state), (SandboxState::NotReady, ContainerState::Exited));
    }
    for _ in 0..2 {
        done(&runtime, CriCall::RemoveContainer { id: container.clone() }).await;
    }
    assert_eq!(list(&runtime).await.containers.len(), 0);
    for _ in 0..2 {
        done(&runtime, CriCall::RemovePodSandbox { id: sandbox.clone() }).await;
        assert!(list(&runtime).await.sandboxes.is_empty());
    }
}

// CRI-021: user, resources, image and message of a container are told on the wire as they are without one; but the whole path of its log.
#[tokio::test(start_paused = true)]
async fn container_is_told_on_the_wire_as_the_model_tells_it() {
    let model = Arc::new(Mutex::new(stocked()));
    if let Some(image) = model.lock().unwrap().images.get_mut("busybox:1.36") {
        image.repo_digests = vec!["busybox@sha256:1".to_owned()];
    }
    let runtime = runtime_over(&model);
    let (sandbox, container) = run(&runtime, "one", NamespaceMode::Pod).await;
    for ended in [false, true] {
        if ended {
            model.lock().unwrap().containers.get_mut(container.as_str()).unwrap().behaviour.says = "last words".to_owned();
            done(&runtime, CriCall::StopPodSandbox { id: sandbox.clone() }).await;
        }
        let seen = look(&runtime, "one").await;
        let model = model.lock().unwrap();
        let is = model.status_of(&model.containers[container.as_str()]);
        let mut told = seen.containers[0].clone();
        told.log_path.clone_from(&is.log_path);
        assert_eq!(told, is);
        assert_eq!(told.message.is_empty(), !ended);
        assert_eq!((told.user.map(|user| user.uid), told.image_ref.as_str()), (Some(1000), "busybox@sha256:1"));
    }
}

// CRI-004, MNT-009
#[tokio::test(start_paused = true)]
async fn runtime_tells_its_handlers_and_features() {
    let model = Arc::new(Mutex::new(stocked()));
    let handler =
        |name: &str, able: bool| RuntimeHandler { name: name.to_owned(), recursive_read_only_mounts: able, user_namespaces: !able };
    let handlers = vec![handler("", false), handler("runc-x", true)];
    model.lock().unwrap().handlers.clone_from(&handlers);
    model.lock().unwrap().supplemental_groups_policy = true;
    let Ok(CriReply::Status(status)) = runtime_over(&model).call(CriCall::Status).await else { panic!("no status") };
    assert_eq!((status.handlers, status.supplemental_groups_policy), (handlers, true));
}
