//! Objects that nobody can read, in some runs: pods and what they use become so and are mended again; some stay so to the end.
//! Upstream: none.
//! Differs: nothing on purpose.

use kubelet::rng::Rng;
use serde_json::{Value, json};

use super::{at, seldom, text};
use crate::cluster::Cluster;
use crate::scenario::run::{apply, spoil};
use crate::scenario::schema::Spoil;

/// Drawn apart, so that the rest of a run is what it would be without.
#[derive(Debug)]
pub(super) struct Blight {
    rng: Rng,
    spoiled: Vec<(&'static str, String)>,
}

fn write(cluster: &mut impl Cluster, (resource, name): &(&'static str, String), with: Value) -> bool {
    let step = Spoil { resource: (*resource).to_owned(), namespace: "default".to_owned(), name: name.clone(), with };
    spoil(cluster, &step).is_ok()
}

impl Blight {
    pub(super) fn of(seed: u64) -> Option<Self> {
        let mut rng = Rng::new(seed ^ 0x626c_6967_6874);
        (rng.below(3) == 0).then(|| Self { rng, spoiled: Vec::new() })
    }

    /// Makes a service that may be spoiled.
    pub(super) fn furnish(&self, cluster: &mut impl Cluster) {
        let _made = apply(cluster, json!({"kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}}));
    }

    /// Something cannot be read any more, or can again; perhaps.
    pub(super) fn deed(&mut self, cluster: &mut impl Cluster) -> Option<String> {
        if !seldom(&mut self.rng, 3) {
            return None;
        }
        if seldom(&mut self.rng, 3) && !self.spoiled.is_empty() {
            let one = self.spoiled.swap_remove(at(&mut self.rng, self.spoiled.len()));
            mend(cluster, &one);
            return Some(format!("mend {one:?}"));
        }
        let pods: Vec<String> =
            cluster.look(|view| view.api.store.list("pods", "default").map(|pod| text(&pod["metadata"]["name"])).collect());
        let one = match self.rng.below(6) {
            0 => ("services", "web".to_owned()),
            1 => ("configmaps", "settings".to_owned()),
            2 => ("secrets", "settings".to_owned()),
            _ => ("pods", pods.get(at(&mut self.rng, pods.len().max(1)))?.clone()),
        };
        let spoiled = write(cluster, &one, json!({"metadata": {"selfLink": 7}}));
        let said = format!("spoil {one:?}");
        if spoiled && !self.spoiled.contains(&one) {
            self.spoiled.push(one);
        }
        Some(said)
    }

    /// What pods need can be read again; of the pods and services some stay as they are.
    pub(super) fn heal(&mut self, cluster: &mut impl Cluster) {
        for one in std::mem::take(&mut self.spoiled) {
            let stays = matches!(one.0, "pods" | "services") && seldom(&mut self.rng, 2);
            if !stays {
                mend(cluster, &one);
            }
        }
    }
}

fn mend(cluster: &mut impl Cluster, one: &(&'static str, String)) {
    let _gone_already = write(cluster, one, json!({"metadata": {"selfLink": null}}));
}
