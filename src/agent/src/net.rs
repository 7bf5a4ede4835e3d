//! The system's own sockets.
//! Upstream: none; Go's net package.
//! Differs: nothing on purpose.

mod names;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::net::{TcpListener, TcpStream, UnixStream};

use self::names::Names;
use crate::env::{BoxedStream, Endpoint, Listener, Net};

/// TCP and Unix sockets.
#[derive(Clone, Debug)]
pub struct SystemNet(Arc<Names>);

impl Default for SystemNet {
    fn default() -> Self {
        Self(Arc::new(Names::of_the_system()))
    }
}

impl SystemNet {
    async fn open(&self, pod: Option<&str>, endpoint: Endpoint) -> io::Result<BoxedStream> {
        match endpoint {
            Endpoint::Tcp { host, port } => {
                let stream = self.dial(pod, &host, port).await?;
                stream.set_nodelay(true)?;
                Ok(Box::pin(stream))
            }
            Endpoint::Unix(path) => Ok(Box::pin(UnixStream::connect(path).await?)),
        }
    }

    /// Looks up what is no address itself: left to the runtime, that would take one of the threads on which the machine's calls are made.
    async fn dial(&self, pod: Option<&str>, host: &str, port: u16) -> io::Result<TcpStream> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return TcpStream::connect((ip, port)).await;
        }
        let mut addresses = self.0.find(pod, host).await?;
        addresses.iter_mut().for_each(|address| address.set_port(port));
        TcpStream::connect(addresses.as_slice()).await
    }
}

impl Net for SystemNet {
    fn connect(&self, endpoint: Endpoint) -> BoxFuture<'_, io::Result<BoxedStream>> {
        self.open(None, endpoint).boxed()
    }

    fn connect_for(&self, pod: String, endpoint: Endpoint) -> BoxFuture<'_, io::Result<BoxedStream>> {
        async move { self.open(Some(&pod), endpoint).await }.boxed()
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

#[cfg(test)]
pub(crate) use self::names::tests::Servers;

#[cfg(test)]
impl SystemNet {
    /// One that knows names by these servers.
    pub(crate) fn by(servers: &Arc<Servers>) -> Self {
        Self(Arc::new(names::tests::names(servers)))
    }

    /// How many look-ups go on for pods.
    pub(crate) fn looked_up_for_pods(&self) -> usize {
        self.0.going_on_for_pods()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_and_addresses_of_the_system_are_connected_to() {
        let net = SystemNet::default();
        let listener = net.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in ["localhost", "127.0.0.1"] {
            let endpoint = || Endpoint::Tcp { host: host.to_owned(), port };
            assert!(net.connect(endpoint()).await.is_ok() && net.connect_for("a".to_owned(), endpoint()).await.is_ok(), "{host}");
        }
    }
}
