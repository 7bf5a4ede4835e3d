//! The system's own sockets.
//! Upstream: none; Go's net package.
//! Differs: nothing on purpose.

use std::io;
use std::net::SocketAddr;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::net::{TcpListener, TcpStream, UnixStream};

use crate::env::{BoxedStream, Endpoint, Listener, Net};

/// TCP and Unix sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemNet;

impl Net for SystemNet {
    fn connect(&self, endpoint: Endpoint) -> BoxFuture<'_, io::Result<BoxedStream>> {
        async move {
            Ok(match endpoint {
                Endpoint::Tcp { host, port } => {
                    let stream = TcpStream::connect((host.as_str(), port)).await?;
                    stream.set_nodelay(true)?;
                    Box::pin(stream) as BoxedStream
                }
                Endpoint::Unix(path) => Box::pin(UnixStream::connect(path).await?),
            })
        }
        .boxed()
    }

    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        async move {
            let listener = TcpListener::bind(address).await?;
            Ok(Box::new(SystemListener(listener)) as Box<dyn Listener>)
        }
        .boxed()
    }
}

struct SystemListener(TcpListener);

impl Listener for SystemListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxedStream, SocketAddr)>> {
        async move {
            let (stream, from) = self.0.accept().await?;
            stream.set_nodelay(true)?;
            Ok((Box::pin(stream) as BoxedStream, from))
        }
        .boxed()
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}
