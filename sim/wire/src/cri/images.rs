//! The image service of the pretend runtime.
//! Upstream: k8s.io/cri-api ImageService.
//! Differs: nothing on purpose.

use std::sync::Arc;

use kubelet::action::CriCall;
use kubelet::event::CriReply;
use kubelet::sensitive::Sensitive;
use proto::cri::image_service_server::ImageService;
use proto::cri::{
    FilesystemIdentifier, FilesystemUsage, ImageFsInfoRequest, ImageFsInfoResponse, ImageStatusRequest, ImageStatusResponse,
    ListImagesRequest, ListImagesResponse, PullImageRequest, PullImageResponse, RemoveImageRequest, RemoveImageResponse,
    StreamImagesRequest, StreamImagesResponse, UInt64Value,
};
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::{CriServer, convert, unexpected};

fn name_of(spec: Option<proto::cri::ImageSpec>) -> String {
    spec.map(|spec| spec.image).unwrap_or_default()
}

#[tonic::async_trait]
impl ImageService for CriServer {
    type StreamImagesStream = BoxStream<StreamImagesResponse>;

    async fn list_images(&self, _: Request<ListImagesRequest>) -> Result<Response<ListImagesResponse>, Status> {
        match self.call("ListImages", CriCall::ListImages).await? {
            CriReply::Images(images) => {
                Ok(Response::new(ListImagesResponse { images: images.iter().map(convert::image).collect() }))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn stream_images(&self, _: Request<StreamImagesRequest>) -> Result<Response<Self::StreamImagesStream>, Status> {
        Err(Status::unimplemented("unknown method StreamImages"))
    }

    async fn image_status(&self, request: Request<ImageStatusRequest>) -> Result<Response<ImageStatusResponse>, Status> {
        let image = name_of(request.into_inner().image);
        match self.call("ImageStatus", CriCall::ImageStatus { image }).await? {
            CriReply::Image(found) => {
                let image = found.as_ref().map(convert::image);
                Ok(Response::new(ImageStatusResponse { image, ..ImageStatusResponse::default() }))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Result<Response<PullImageResponse>, Status> {
        let request = request.into_inner();
        let (image, auth) = (name_of(request.image), request.auth.map(Sensitive::new));
        let sandbox_config = request.sandbox_config.map(Arc::new);
        let call = CriCall::PullImage { image, annotations: Default::default(), auth, sandbox_config };
        match self.call("PullImage", call).await? {
            CriReply::Pulled { image_ref } => Ok(Response::new(PullImageResponse { image_ref })),
            other => Err(unexpected(&other)),
        }
    }

    async fn remove_image(&self, request: Request<RemoveImageRequest>) -> Result<Response<RemoveImageResponse>, Status> {
        let image = name_of(request.into_inner().image);
        self.call("RemoveImage", CriCall::RemoveImage { image }).await?;
        Ok(Response::new(RemoveImageResponse::default()))
    }

    async fn image_fs_info(&self, _: Request<ImageFsInfoRequest>) -> Result<Response<ImageFsInfoResponse>, Status> {
        let CriReply::ImageFs(usages) = self.call("ImageFsInfo", CriCall::ImageFsInfo).await? else {
            return Err(Status::internal("the pretend runtime answered something else"));
        };
        let image_filesystems = usages
            .into_iter()
            .map(|usage| FilesystemUsage {
                fs_id: Some(FilesystemIdentifier { mountpoint: usage.mountpoint }),
                used_bytes: Some(UInt64Value { value: usage.used }),
                inodes_used: Some(UInt64Value { value: usage.inodes_used }),
                ..FilesystemUsage::default()
            })
            .collect();
        Ok(Response::new(ImageFsInfoResponse { image_filesystems, ..ImageFsInfoResponse::default() }))
    }
}
