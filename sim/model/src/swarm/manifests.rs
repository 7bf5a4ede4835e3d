//! Static pods, in some runs: manifests come, change, break and go, two have one name, users delete mirrors, the URL answers or does not.
//! Upstream: none.
//! Differs: nothing on purpose.

use kubelet::rng::Rng;
use serde_json::{Value, json};

use super::{PRIVATE, Registry, at, disrupt, draw_pod, seldom, text};
use crate::api::admission::is_mirror;
use crate::api::resource::named;
use crate::api::write::DeleteOptions;
use crate::cluster::Cluster;
use crate::scenario::run::{answer_url, put_manifest};

/// Drawn apart, so that the rest of a run is what it would be without.
#[derive(Debug)]
pub(super) struct Manifests {
    rng: Rng,
    /// What the URL answers first is drawn from this: the rest of a run is what it would be without.
    of_url: Rng,
    /// How many pods that asks for.
    asked: usize,
    /// Whether there is a URL as well.
    pub(super) has_url: bool,
    /// Whether there is a private image.
    pub(super) has_private: bool,
}

/// How many files there are, at most.
const FILES: u64 = 3;

/// A static pod may name no object of the API (pkg/api/pod/util.go, HasAPIObjectReference).
fn without_objects(spec: &mut Value) {
    let is_own = |name: &Value| ["empty", "memory", "info"].iter().any(|own| name == own);
    spec["volumes"].as_array_mut().into_iter().for_each(|volumes| volumes.retain(|volume| is_own(&volume["name"])));
    for container in spec["containers"].as_array_mut().into_iter().flatten() {
        container["volumeMounts"].as_array_mut().into_iter().for_each(|mounts| mounts.retain(|mount| is_own(&mount["name"])));
        container.as_object_mut().into_iter().for_each(|fields| drop(fields.remove("env")));
    }
}

fn list_of(pods: &[Value]) -> Vec<u8> {
    json!({"apiVersion": "v1", "kind": "PodList", "items": pods}).to_string().into_bytes()
}

impl Manifests {
    pub(super) fn of(seed: u64) -> Option<Self> {
        let mut rng = Rng::new(seed ^ 0x6d61_6e69_6600);
        let of_url = Rng::new(seed ^ 0x7572_6c00);
        let has_private = Registry::of(seed).is_some();
        (rng.below(3) == 0).then(|| Self { has_url: rng.below(3) == 0, has_private, of_url, asked: 0, rng })
    }

    /// Some are there before the agent is.
    pub(super) fn furnish(&mut self, cluster: &mut impl Cluster) {
        for number in 0..self.rng.below(3) {
            self.write(cluster, number);
        }
        if self.has_url {
            // It answers from the start: the agent asks every 20 s, and a run has 25 s of faults.
            std::mem::swap(&mut self.rng, &mut self.of_url);
            let pods = [self.pod("u0"), self.pod("u1")];
            self.asked = 1 + at(&mut self.rng, 2);
            std::mem::swap(&mut self.rng, &mut self.of_url);
            answer_url(cluster, Some((200, list_of(&pods[..self.asked]))));
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

    /// The URL answers, mostly with the names that it began with, and otherwise of them.
    pub(super) fn heal(&mut self, cluster: &mut impl Cluster) {
        if self.has_url {
            let pods = [self.pod("u0"), self.pod("u1")];
            let any = at(&mut self.rng, 3);
            let many = if seldom(&mut self.of_url, 3) { any } else { self.asked };
            answer_url(cluster, Some((200, list_of(&pods[..many]))));
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
        let rng = &mut self.rng;
        let version = ["1", "2", "3"][at(rng, 3)];
        let mut pod = draw_pod(rng, 0);
        pod["metadata"] = json!({"name": name, "annotations": pod["metadata"]["annotations"]});
        without_objects(&mut pod["spec"]);
        let spec = &mut pod["spec"];
        spec["restartPolicy"] = json!(["Always", "Always", "Always", "OnFailure", "Never"][at(rng, 5)]);
        spec["terminationGracePeriodSeconds"] = (1 + rng.below(6)).into();
        spec["hostNetwork"] = seldom(rng, 2).into();
        spec["priorityClassName"] = "system-node-critical".into();
        spec["containers"][0]["args"] = json!([version]);
        if self.has_private && seldom(rng, 6) {
            spec["containers"][0]["image"] = PRIVATE.0.into();
        }
        if seldom(rng, 4) {
            // One UID for whatever the manifest says.
            pod["metadata"]["uid"] = format!("static-{name}").into();
        }
        pod
    }

    fn delete_mirror(&mut self, cluster: &mut impl Cluster) -> Option<String> {
        let mirrors: Vec<String> = cluster.look(|view| {
            let pods = view.api.store.list("pods", "").filter(|pod| is_mirror(pod));
            pods.map(|pod| text(&pod["metadata"]["name"])).collect()
        });
        let name = mirrors.get(at(&mut self.rng, mirrors.len().max(1)))?;
        if seldom(&mut self.rng, 3) {
            disrupt(cluster, name);
            return Some(format!("mirror {name} is told that it will be evicted"));
        }
        // What runs is the static pod, and goes on.
        cluster
            .look(|view| view.api.store.get("pods", "default", name).map(|pod| text(&pod["metadata"]["uid"])))
            .iter()
            .for_each(|uid| cluster.with_witness(|witness| witness.forced(uid)));
        let grace_seconds = seldom(&mut self.rng, 2).then_some(0);
        let options = DeleteOptions { grace_seconds, ..DeleteOptions::default() };
        let _gone_already = cluster.with_api(|api, now| api.delete(now, named("pods"), "default", name, &options));
        Some(format!("delete mirror {name} with grace {grace_seconds:?}"))
    }

    fn answer(&mut self, cluster: &mut impl Cluster) -> String {
        let answer = match self.rng.below(6) {
            0 => None,
            1 => Some((503, Vec::new())),
            2 => Some((200, Vec::new())),
            3 => Some((200, b"nonsense: [".to_vec())),
            4 => Some((200, self.pod("u0").to_string().into_bytes())),
            _ => Some((200, list_of(&[self.pod("u0"), self.pod("u1")]))),
        };
        let said = answer.as_ref().map(|(status, body)| format!("{status} and {} bytes", body.len()));
        answer_url(cluster, answer);
        format!("the URL answers {said:?}")
    }
}
