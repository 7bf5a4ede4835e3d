//! The agent's sockets: simulated TCP, and pods that answer probes as their containers would.
//! Upstream: none.
//! Differs: the Unix sockets of drivers are TCP ones that begin with a line that says which; a pod that is well answers any HTTP request with 200, and gRPC not at all.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use agent::env::{BoxedStream, Endpoint, Listener, Net};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use kubelet::observation::ContainerState;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader, DuplexStream, ReadBuf};
use turmoil::net::{TcpListener, TcpStream};

use super::servers::{DRIVERS, DRIVERS_PORT};
use super::shared::{Shared, lock};

/// Simulated sockets.
pub(super) struct SimNet(pub(super) Arc<Shared>);

impl Net for SimNet {
    fn connect(&self, endpoint: Endpoint) -> BoxFuture<'_, io::Result<BoxedStream>> {
        async move {
            let (host, port) = match endpoint {
                Endpoint::Tcp { host, port } => (host, port),
                Endpoint::Unix(path) => return self.driver(&path).await,
            };
            if let Some(well) = self.pod_is_well(&host) {
                return if well { Ok(pod()) } else { Err(io::ErrorKind::ConnectionRefused.into()) };
            }
            Ok(Box::pin(TcpStream::connect((host, port)).await?) as BoxedStream)
        }
        .boxed()
    }

    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        async move { Ok(Box::new(SimListener(TcpListener::bind(address).await?)) as Box<dyn Listener>) }.boxed()
    }
}

impl SimNet {
    /// A connection to the driver whose socket is there.
    async fn driver(&self, path: &str) -> io::Result<BoxedStream> {
        if lock(&self.0.host).csi.behind(path).is_none() {
            return Err(io::Error::new(io::ErrorKind::NotFound, path));
        }
        let mut stream = TcpStream::connect((DRIVERS, DRIVERS_PORT)).await?;
        stream.write_all(format!("{path}\n").as_bytes()).await?;
        Ok(Box::pin(stream))
    }

    /// Whether a network probe of that pod finds somebody, as an exec in its containers would; none if it is no pod's address.
    fn pod_is_well(&self, address: &str) -> Option<bool> {
        let now = self.0.now();
        let runtime = lock(&self.0.runtime);
        let sandbox = runtime.sandboxes.values().find(|s| s.ip == address)?;
        let inside = runtime.containers.values().filter(|c| c.sandbox == sandbox.id && c.state == ContainerState::Running);
        Some(inside.into_iter().any(|c| !c.exec_fails_at(now)))
    }
}

/// A connection to a pod.
fn pod() -> BoxedStream {
    let (ours, theirs) = tokio::io::duplex(4096);
    tokio::spawn(answer(theirs));
    Box::pin(ours)
}

async fn answer(stream: DuplexStream) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 2 {
        line.clear();
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await
}

struct SimListener(TcpListener);

impl Listener for SimListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxedStream, SocketAddr)>> {
        async move {
            let (stream, from) = self.0.accept().await?;
            Ok((Box::pin(stream) as BoxedStream, from))
        }
        .boxed()
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// A connection as the gRPC server takes it.
pub(super) struct GrpcStream(pub(super) TcpStream);

impl tonic::transport::server::Connected for GrpcStream {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for GrpcStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for GrpcStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
