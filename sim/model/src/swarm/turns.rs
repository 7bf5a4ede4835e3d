//! Draws what seldom befalls a node and its pods: another address, a container that the runtime forgets, other resources.
//! Upstream: none.
//! Differs: nothing on purpose.

use kubelet::rng::Rng;
use serde_json::json;

use super::{at, text};
use crate::api::request::{Request, Verb};
use crate::cluster::Cluster;
use crate::scenario::run::administrate;

/// What seldom befalls a node and its pods: in some runs, and drawn apart.
#[derive(Debug)]
pub(super) struct Turns {
    rng: Rng,
}

impl Turns {
    /// Drawn apart, in one run of three.
    pub(super) fn of(seed: u64) -> Option<Self> {
        let mut rng = Rng::new(seed ^ 0x7475_726e_7300);
        (rng.below(3) == 0).then_some(Self { rng })
    }

    /// Something befalls, perhaps.
    pub(super) fn deed(&mut self, cluster: &mut impl Cluster) -> Option<String> {
        match self.rng.below(12) {
            0 | 1 => self.lose(cluster),
            2 | 3 => self.resize(cluster),
            4 => {
                let address = format!("10.77.0.{}", 1 + self.rng.below(3));
                cluster.with_host(|host| host.addresses.routed = address.parse().into_iter().collect());
                Some(format!("the node's address is {address}"))
            }
            _ => None,
        }
    }

    /// The runtime forgets a container.
    fn lose(&mut self, cluster: &mut impl Cluster) -> Option<String> {
        let running: Vec<_> = cluster.look(|view| view.runtime.running().map(|c| (c.pod.clone(), c.name().to_owned())).collect());
        let (pod, name) = running.get(at(&mut self.rng, running.len().max(1)))?.clone();
        cluster.with_witness(|witness| witness.lost(pod.as_str(), &name));
        cluster.with_runtime(|runtime, now| runtime.lose(now, &pod, &name));
        Some(format!("{name} of pod {pod} is lost"))
    }

    /// A user asks for other resources.
    fn resize(&mut self, cluster: &mut impl Cluster) -> Option<String> {
        let names: Vec<String> =
            cluster.look(|view| view.api.store.list("pods", "").map(|p| text(&p["metadata"]["name"])).collect());
        let name = names.get(at(&mut self.rng, names.len().max(1)))?;
        let memory = ["16Mi", "20e6", "0.02G"][at(&mut self.rng, 3)];
        let with = json!({"spec": {"containers": [{"name": "c0", "resources": {"requests": {"memory": memory}}}]}});
        let request = Request::new(Verb::Patch, "pods", "default", name).of("resize").with(with);
        let refused = administrate(cluster, &request).is_err();
        Some(format!("pod {name} is to have {memory}, refused: {refused}"))
    }
}
