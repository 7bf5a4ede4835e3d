//! Client and server speak gRPC to each other in one task: paths, unary answers, streams, errors.
//! Upstream: staging/src/k8s.io/cri-api/pkg/apis/runtime/v1/api_grpc.pb.go.
//! Differs: nothing on purpose.

use proto::cri::image_service_client::ImageServiceClient;
use proto::cri::image_service_server::{ImageService, ImageServiceServer};
use proto::cri::*;
use tonic::codegen::{BoxStream, tokio_stream};
use tonic::{Code, Request, Response, Status};

/// Has the images `a` and `b`, and answers nothing else.
struct TwoImages;

fn image(id: &str) -> Image {
    Image { id: id.into(), ..Default::default() }
}

#[tonic::async_trait]
impl ImageService for TwoImages {
    type StreamImagesStream = BoxStream<StreamImagesResponse>;

    async fn list_images(&self, _: Request<ListImagesRequest>) -> Result<Response<ListImagesResponse>, Status> {
        Err(Status::unimplemented("list"))
    }

    async fn stream_images(&self, _: Request<StreamImagesRequest>) -> Result<Response<Self::StreamImagesStream>, Status> {
        let piece = |id| Ok(StreamImagesResponse { images: vec![image(id)] });
        let pieces = tokio_stream::iter(["a", "b"].map(piece));
        Ok(Response::new(Box::pin(pieces)))
    }

    async fn image_status(&self, request: Request<ImageStatusRequest>) -> Result<Response<ImageStatusResponse>, Status> {
        let name = request.into_inner().image.unwrap_or_default().image;
        let found = ["a", "b"].contains(&name.as_str());
        Ok(Response::new(ImageStatusResponse { image: found.then(|| image(&name)), ..Default::default() }))
    }

    async fn pull_image(&self, _: Request<PullImageRequest>) -> Result<Response<PullImageResponse>, Status> {
        Err(Status::unimplemented("pull"))
    }

    async fn remove_image(&self, _: Request<RemoveImageRequest>) -> Result<Response<RemoveImageResponse>, Status> {
        Err(Status::unimplemented("remove"))
    }

    async fn image_fs_info(&self, _: Request<ImageFsInfoRequest>) -> Result<Response<ImageFsInfoResponse>, Status> {
        Err(Status::unimplemented("fs info"))
    }
}

/// A client whose channel is the server itself.
fn client() -> ImageServiceClient<ImageServiceServer<TwoImages>> {
    ImageServiceClient::new(ImageServiceServer::new(TwoImages))
}

fn status_request(name: &str) -> ImageStatusRequest {
    let spec = ImageSpec { image: name.into(), ..Default::default() };
    ImageStatusRequest { image: Some(spec), verbose: false }
}

#[test]
fn image_that_is_missing_is_an_absent_field_and_no_error() {
    futures::executor::block_on(async {
        let found = client().image_status(status_request("a")).await;
        assert_eq!(found.expect("an answer").into_inner().image, Some(image("a")));
        let missing = client().image_status(status_request("z")).await;
        assert_eq!(missing.expect("an answer").into_inner().image, None);
    });
}

#[test]
fn streamed_list_ends_when_the_stream_ends() {
    futures::executor::block_on(async {
        let answer = client().stream_images(StreamImagesRequest::default()).await;
        let mut stream = answer.expect("a stream").into_inner();
        let mut ids = Vec::new();
        while let Some(piece) = stream.message().await.expect("a piece") {
            ids.extend(piece.images.into_iter().map(|image| image.id));
        }
        assert_eq!(ids, ["a", "b"]);
    });
}

#[test]
fn error_keeps_its_code_and_message() {
    futures::executor::block_on(async {
        let answer = client().list_images(ListImagesRequest::default()).await;
        let status = answer.expect_err("an error");
        assert_eq!((status.code(), status.message()), (Code::Unimplemented, "list"));
    });
}
