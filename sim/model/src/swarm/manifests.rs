//! Static pods, in some runs: manifests come, change, break and go, two have one name, users delete mirrors, the URL answers or does not.
//! Upstream: none.
//! Differs: nothing on purpose.

use kubelet::rng::Rng;
use serde_json::{Value, json};

use super::{at, seldom, text};
use crate::api::admission::is_mirror;
use crate::api::resource::named;
use crate::api::write::DeleteOptions;
use crate::cluster::Cluster;
use crate::runtime::behaviour::ANNOTATION_PREFIX;
use crate::scenario::run::put_manifest;

/// Drawn apart, so that the rest of a run is what it would be without.
#[derive(Debug)]
pub(super) struct Manifests {
    rng: Rng,
    /// Whether there is a URL as well.
    pub(super) has_url: bool,
}

/// How many files there are, at most.
const FILES: u64 = 3;

impl Manifests {
    pub(super) fn of(seed: u64) -> Option<Self> {
        let mut rng = Rng::new(seed ^ 0x6d61_6e69_6600);
        (rng.below(3) == 0).then(|| Self { has_url: rng.below(3) == 0, rng })
    }

    /// Some are there before the agent is.
    pub(super) fn furnish(&mut self, cluster: &mut impl Cluster) {
        for number in 0..self.rng.below(3) {
            self.write(cluster, number);
        }
    }

    /// A manifest is written, broken or removed, a mirror deleted, or the URL answers otherwise; perhaps.
    pub(super) fn deed(&mut self, cluster: &mut impl Cluster) -> Option<String> {
        let file = self.rng.below(FILES);
        match self.rng.below(12) {
            0..=3 => Some(self.write(cluster, file)),
            4 | 5 => {
                put_manifest(cluster, &format!("f{file}.yaml"), None);
                Some(format!("manifest {file} goes"))
            }
            6 => {
                put_manifest(cluster, &format!("f{file}.yaml"), Some(b"kind: [Pod".to_vec()));
                Some(format!("manifest {file} breaks"))
            }
            7 | 8 => self.delete_mirror(cluster),
            9 | 10 if self.has_url => Some(self.answer(cluster)),
            _ => None,
        }
    }

    /// The URL answers.
    pub(super) fn heal(&mut self, cluster: &mut impl Cluster) {
        if self.has_url {
            let pods = [self.pod("u0"), self.pod("u1")];
            let list = json!({"apiVersion": "v1", "kind": "PodList", "items": pods[..at(&mut self.rng, 3)]});
            cluster.with_host(|host| host.pod_url = Some((200, list.to_string().into_bytes())));
        }
    }

    fn write(&mut self, cluster: &mut impl Cluster, file: u64) -> String {
        // Two files may ask for pods of one name.
        let name = if seldom(&mut self.rng, 6) { "s0".to_owned() } else { format!("s{file}") };
        let pod = self.pod(&name);
        let said =
            format!("manifest {file} is {name} with {} and UID {}", pod["spec"]["containers"][0]["args"], pod["metadata"]["uid"]);
        put_manifest(cluster, &format!("f{file}.yaml"), Some(pod.to_string().into_bytes()));
        said
    }

    fn pod(&mut self, name: &str) -> Value {
        let version = ["1", "2", "3"][at(&mut self.rng, 3)];
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
            "terminationGracePeriodSeconds": 1 + self.rng.below(6),
            "hostNetwork": seldom(&mut self.rng, 2),
            "priorityClassName": "system-node-critical",
            "containers": [{"name": "main", "image": "busybox:1.36", "args": [version]}]}});
        if seldom(&mut self.rng, 4) {
            // One UID for whatever the manifest says.
            pod["metadata"]["uid"] = format!("static-{name}").into();
        }
        let script = ["", "", "", "term=ignore", "exit=1@6s*"][at(&mut self.rng, 5)];
        if !script.is_empty() {
            pod["metadata"]["annotations"] = json!({format!("{ANNOTATION_PREFIX}main"): script});
        }
        pod
    }

    fn delete_mirror(&mut self, cluster: &mut impl Cluster) -> Option<String> {
        let mirrors: Vec<String> = cluster.look(|view| {
            let pods = view.api.store.list("pods", "").filter(|pod| is_mirror(pod));
            pods.map(|pod| text(&pod["metadata"]["name"])).collect()
        });
        let name = mirrors.get(at(&mut self.rng, mirrors.len().max(1)))?;
        let grace_seconds = seldom(&mut self.rng, 2).then_some(0);
        let options = DeleteOptions { grace_seconds, ..DeleteOptions::default() };
        let _gone_already = cluster.with_api(|api, now| api.delete(now, named("pods"), "default", name, &options));
        Some(format!("delete mirror {name} with grace {grace_seconds:?}"))
    }

    fn answer(&mut self, cluster: &mut impl Cluster) -> String {
        let list = |pods: &[Value]| json!({"apiVersion": "v1", "kind": "PodList", "items": pods}).to_string().into_bytes();
        let answer = match self.rng.below(6) {
            0 => None,
            1 => Some((503, Vec::new())),
            2 => Some((200, Vec::new())),
            3 => Some((200, b"nonsense: [".to_vec())),
            4 => Some((200, self.pod("u0").to_string().into_bytes())),
            _ => Some((200, list(&[self.pod("u0"), self.pod("u1")]))),
        };
        let said = answer.as_ref().map(|(status, body)| format!("{status} and {} bytes", body.len()));
        cluster.with_host(|host| host.pod_url = answer);
        format!("the URL answers {said:?}")
    }
}
