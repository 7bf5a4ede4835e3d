//! Each call of the runtime as one gRPC call, or a few for a look at a pod.
//! Upstream: staging/src/k8s.io/cri-client/pkg/{remote_runtime,remote_image}.go.
//! Differs: nothing on purpose.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kubelet::action::CriCall;
use kubelet::event::CriReply;
use kubelet::failure::{Failure, FailureKind};
use kubelet::ids::{ContainerId, SandboxId};
use proto::cri::*;
use tonic::{Response, Status};

use super::error::{gone_is_done, malformed};
use super::{CriRuntime, convert};
use crate::env::StreamRequest;
use crate::grpc::failure;

/// What of a command's output is kept, in bytes.
const MAX_OUTPUT: usize = 16 << 10;

type Outcome = Result<CriReply, Failure>;

fn reply<T>(outcome: Result<Response<T>, Status>) -> Result<T, Failure> {
    outcome.map(Response::into_inner).map_err(|status| failure(&status))
}

fn done<T>(outcome: Result<Response<T>, Status>) -> Outcome {
    reply(outcome).map(|_| CriReply::Done)
}

fn stopped<T: Default>(outcome: Result<Response<T>, Status>) -> Outcome {
    gone_is_done(reply(outcome)).map(|_| CriReply::Done)
}

/// Whole seconds, rounded up: CRI counts in them, and a wait must not be cut.
fn seconds(duration: Duration) -> i64 {
    let whole = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    i64::try_from(whole).unwrap_or(i64::MAX)
}

fn image_spec(image: String) -> Option<ImageSpec> {
    Some(ImageSpec { image, ..ImageSpec::default() })
}

impl CriRuntime {
    /// Makes one call.
    pub(super) async fn make(&self, call: CriCall) -> Outcome {
        match call {
            CriCall::List => self.list().await,
            CriCall::Observe { pod } => self.observe(pod).await,
            CriCall::Version | CriCall::Status | CriCall::RuntimeConfig | CriCall::UpdateRuntimeConfig { .. } => {
                self.about_the_runtime(call).await
            }
            CriCall::RunPodSandbox { .. } | CriCall::StopPodSandbox { .. } | CriCall::RemovePodSandbox { .. } => {
                self.to_a_sandbox(call).await
            }
            CriCall::ImageStatus { .. }
            | CriCall::PullImage { .. }
            | CriCall::ListImages
            | CriCall::RemoveImage { .. }
            | CriCall::ImageFsInfo => self.to_images(call).await,
            call => self.to_a_container(call).await,
        }
    }

    async fn about_the_runtime(&self, call: CriCall) -> Outcome {
        let mut client = self.runtime.clone();
        match call {
            CriCall::Version => {
                let request = VersionRequest { version: "0.1.0".to_owned() };
                let version = reply(client.version(request).await).and_then(convert::version);
                self.trouble.tell(version.as_ref().map(|_| ()));
                version.map(CriReply::Version)
            }
            CriCall::Status => {
                convert::runtime_status(reply(client.status(StatusRequest { verbose: false }).await)?).map(CriReply::Status)
            }
            CriCall::RuntimeConfig => {
                let config = reply(client.runtime_config(RuntimeConfigRequest {}).await)?;
                convert::systemd_cgroup(&config).map(|systemd_cgroup| CriReply::RuntimeConfig { systemd_cgroup })
            }
            CriCall::UpdateRuntimeConfig { pod_cidr } => {
                let network_config = Some(NetworkConfig { pod_cidr });
                let runtime_config = Some(RuntimeConfig { network_config });
                done(client.update_runtime_config(UpdateRuntimeConfigRequest { runtime_config }).await)
            }
            other => Err(misrouted(&other)),
        }
    }

    async fn to_a_sandbox(&self, call: CriCall) -> Outcome {
        let mut client = self.runtime.clone();
        match call {
            CriCall::RunPodSandbox { config, runtime_handler } => {
                let name = config.metadata.as_ref().map(|m| m.name.clone()).unwrap_or_default();
                let request = RunPodSandboxRequest { config: Some(Arc::unwrap_or_clone(config)), runtime_handler };
                let id = reply(client.run_pod_sandbox(request).await)?.pod_sandbox_id;
                if id.is_empty() {
                    return Err(malformed(format!("PodSandboxId is not set for sandbox {name:?}")));
                }
                Ok(CriReply::Sandbox(SandboxId::new(id)))
            }
            CriCall::StopPodSandbox { id } => {
                stopped(client.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id.to_string() }).await)
            }
            CriCall::RemovePodSandbox { id } => {
                stopped(client.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id.to_string() }).await)
            }
            other => Err(misrouted(&other)),
        }
    }

    async fn to_a_container(&self, call: CriCall) -> Outcome {
        let mut client = self.runtime.clone();
        match call {
            CriCall::CreateContainer { sandbox, config, sandbox_config } => {
                let name = config.metadata.as_ref().map(|m| m.name.clone()).unwrap_or_default();
                let request = CreateContainerRequest {
                    pod_sandbox_id: sandbox.to_string(),
                    config: Some(*config),
                    sandbox_config: Some(Arc::unwrap_or_clone(sandbox_config)),
                };
                let id = reply(client.create_container(request).await)?.container_id;
                if id.is_empty() {
                    return Err(malformed(format!("ContainerId is not set for container {name:?}")));
                }
                Ok(CriReply::Container(ContainerId::new(id)))
            }
            CriCall::StartContainer { id } => {
                done(client.start_container(StartContainerRequest { container_id: id.to_string() }).await)
            }
            CriCall::StopContainer { id, grace } => {
                let request = StopContainerRequest { container_id: id.to_string(), timeout: seconds(grace) };
                stopped(client.stop_container(request).await)
            }
            CriCall::RemoveContainer { id } => {
                stopped(client.remove_container(RemoveContainerRequest { container_id: id.to_string() }).await)
            }
            CriCall::ExecSync { id, command, timeout } => self.exec_sync(id, command, timeout).await,
            CriCall::ReopenContainerLog { id } => {
                done(client.reopen_container_log(ReopenContainerLogRequest { container_id: id.to_string() }).await)
            }
            other => Err(misrouted(&other)),
        }
    }

    /// Only the command's own time-out is an unknown outcome (CRI-025, RTD-011): a broken connection says nothing of the
    /// container, and a probe must not count it.
    async fn exec_sync(&self, id: ContainerId, cmd: Vec<String>, timeout: Duration) -> Outcome {
        let request = ExecSyncRequest { container_id: id.to_string(), cmd, timeout: seconds(timeout) };
        match self.runtime.clone().exec_sync(request).await {
            Ok(response) => {
                let response = response.into_inner();
                let (output, stderr) = output(&response);
                Ok(CriReply::Exec { exit_code: response.exit_code, output, stderr })
            }
            Err(status) if status.code() == tonic::Code::DeadlineExceeded => {
                Err(Failure::new(FailureKind::UnknownOutcome, format!("command timed out: {}", status.message())))
            }
            Err(status) => {
                let mut failure = failure(&status);
                if failure.outcome_unknown() {
                    failure.kind = FailureKind::Unavailable;
                }
                Err(failure)
            }
        }
    }

    async fn to_images(&self, call: CriCall) -> Outcome {
        let mut client = self.images.clone();
        match call {
            CriCall::ImageStatus { image } => {
                let request = ImageStatusRequest { image: image_spec(image.clone()), verbose: false };
                match reply(client.image_status(request).await)?.image {
                    None => Ok(CriReply::Image(None)),
                    Some(found) => convert::image_status(&image, found).map(|found| CriReply::Image(Some(found))),
                }
            }
            CriCall::PullImage { image, annotations, auth, sandbox_config } => {
                self.pull(image, annotations, auth.map(|a| a.into_inner()), sandbox_config).await
            }
            CriCall::ListImages => {
                let images = reply(client.list_images(ListImagesRequest::default()).await)?.images;
                Ok(CriReply::Images(images.into_iter().map(convert::image).collect()))
            }
            CriCall::RemoveImage { image } => stopped(client.remove_image(RemoveImageRequest { image: image_spec(image) }).await),
            CriCall::ImageFsInfo => {
                let info = reply(client.image_fs_info(ImageFsInfoRequest {}).await)?;
                Ok(CriReply::ImageFs(info.image_filesystems.iter().map(convert::filesystem).collect()))
            }
            other => Err(misrouted(&other)),
        }
    }

    async fn pull(
        &self,
        image: String,
        annotations: BTreeMap<String, String>,
        auth: Option<AuthConfig>,
        sandbox_config: Option<Arc<PodSandboxConfig>>,
    ) -> Outcome {
        let spec = ImageSpec { image: image.clone(), annotations, ..ImageSpec::default() };
        let sandbox_config = sandbox_config.map(Arc::unwrap_or_clone);
        let request = PullImageRequest { image: Some(spec), auth, sandbox_config };
        let image_ref = reply(self.images.clone().pull_image(request).await)?.image_ref;
        if image_ref.is_empty() {
            return Err(malformed(format!("imageRef of image {image:?} is not set")));
        }
        Ok(CriReply::Pulled { image_ref })
    }

    /// CRI-026
    pub(super) async fn streaming_session(&self, request: StreamRequest) -> Result<String, Failure> {
        let mut client = self.runtime.clone();
        let url = match request {
            StreamRequest::Exec { container, command, tty, stdin, stdout, stderr } => {
                let request = ExecRequest { container_id: container, cmd: command, tty, stdin, stdout, stderr };
                reply(client.exec(request).await)?.url
            }
            StreamRequest::Attach { container, tty, stdin, stdout, stderr } => {
                let request = AttachRequest { container_id: container, tty, stdin, stdout, stderr };
                reply(client.attach(request).await)?.url
            }
            StreamRequest::PortForward { sandbox, ports } => {
                reply(client.port_forward(PortForwardRequest { pod_sandbox_id: sandbox, port: ports }).await)?.url
            }
        };
        if url.is_empty() { Err(malformed("URL is not set")) } else { Ok(url) }
    }

    /// CRI-027
    pub(super) async fn all_container_stats(&self) -> Result<Vec<ContainerStats>, Failure> {
        let request = ListContainerStatsRequest::default();
        Ok(reply(self.runtime.clone().list_container_stats(request).await)?.stats)
    }
}

/// What a command said, and where in that stderr begins.
fn output(response: &ExecSyncResponse) -> (String, usize) {
    let text = |bytes: &[u8], room: usize| String::from_utf8_lossy(&bytes[..bytes.len().min(room)]).into_owned();
    let mut output = text(&response.stdout, MAX_OUTPUT);
    let stderr = output.len();
    output.push_str(&text(&response.stderr, MAX_OUTPUT.saturating_sub(response.stdout.len())));
    (output, stderr)
}

fn misrouted(call: &CriCall) -> Failure {
    malformed(format!("{call:?} was sent to the wrong service"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grace_is_never_cut_to_whole_seconds() {
        assert_eq!(seconds(Duration::from_millis(2001)), 3);
        assert_eq!(seconds(Duration::from_secs(30)), 30);
        assert_eq!(seconds(Duration::ZERO), 0);
    }

    #[test]
    fn output_is_stdout_then_stderr_and_bounded() {
        let response = ExecSyncResponse { stdout: b"out\n".to_vec(), stderr: b"err\n".to_vec(), exit_code: 0 };
        assert_eq!(output(&response), ("out\nerr\n".to_owned(), 4));
        let long = ExecSyncResponse { stdout: vec![b'x'; 20 << 10], ..ExecSyncResponse::default() };
        assert_eq!(output(&long).0.len(), MAX_OUTPUT);
    }
}
