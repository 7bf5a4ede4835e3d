//! The client against a scripted server: real HTTP over streams within the process, in paused time.

mod calls;
mod certificates;
mod connections;
mod fake;
mod scan;
mod watches;

use std::sync::Arc;

use self::fake::{FakeNet, FakeServer};
use super::{Access, KubeApi};

const SEED: u64 = 7;

fn access(server: &str) -> Access {
    Access {
        server: server.parse().unwrap(),
        server_name: None,
        authority: None,
        insecure: false,
        certificate: None,
        key: None,
        token: None,
        rotating: None,
        http1_only: false,
    }
}

fn client(server: &Arc<FakeServer>) -> KubeApi {
    client_with(server, access("http://10.0.0.1:6443"))
}

fn client_with(server: &Arc<FakeServer>, access: Access) -> KubeApi {
    KubeApi::new(access, Arc::new(FakeNet(Arc::clone(server))), "n1", SEED)
}
