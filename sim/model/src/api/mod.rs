//! A pretend API server: objects, revisions, watches, and upstream's rules for who may make what of them.
//! Upstream: cmd/kube-apiserver, as far as a node and its pods can tell.
//! Differs: one member, no admission webhooks, no RBAC, no managedFields, JSON only.

pub mod admission;
pub mod authorize;
pub mod certificates;
pub mod controllers;
pub mod defaults;
pub mod discovery;
pub mod error;
pub mod patch;
mod quantities;
pub mod request;
pub mod resource;
pub mod rest;
pub mod selector;
pub mod store;
pub mod table;
mod table_pods;
mod tokens;
mod typed;
pub mod watch;
pub mod write;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use jiff::Timestamp;
use kubelet::rng::Rng;
use serde_json::json;

use self::authorize::Behind;
use self::resource::named;
use self::store::Store;

/// The pretend API server.
#[derive(Clone, Debug)]
pub struct ApiModel {
    /// What it holds.
    pub store: Store,
    /// Users beside the administrators that may do everything.
    pub privileged: BTreeSet<String>,
    /// Bootstrap tokens that let a node ask for its first certificate, as `id.secret`.
    pub bootstrap_tokens: BTreeSet<String>,
    /// The certificate that pods are given to trust the API server by.
    pub ca_certificate: String,
    /// What the Node authorizer has not heard yet.
    pub behind: Behind,
    rng: Rng,
    next_cluster_ip: u32,
}

impl ApiModel {
    /// A new cluster with the namespaces and service accounts that every cluster has. UIDs and generated names follow from
    /// `seed`.
    #[must_use]
    pub fn new(now: Timestamp, seed: u64) -> Self {
        let mut model = Self {
            store: Store::new(10_000),
            privileged: BTreeSet::new(),
            bootstrap_tokens: BTreeSet::new(),
            ca_certificate: "-----BEGIN CERTIFICATE-----\nsimulated\n-----END CERTIFICATE-----\n".to_owned(),
            behind: Behind::default(),
            rng: Rng::new(seed),
            next_cluster_ip: 2,
        };
        for name in ["default", "kube-system", "kube-node-lease", "kube-public"] {
            model.ensure_namespace(now, name);
        }
        let service = json!({
            "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443, "targetPort": 6443}]},
        });
        // The namespace was made just now, and nothing else can be wrong with it.
        let _kept = model.create(now, named("services"), "default", service);
        model
    }

    /// Makes a namespace with its service account and root certificate, unless it exists.
    pub fn ensure_namespace(&mut self, now: Timestamp, name: &str) {
        if self.store.get("namespaces", "", name).is_none() {
            let _kept = self.create(now, named("namespaces"), "", json!({"metadata": {"name": name}}));
        }
        self.furnish_namespace(now, name);
    }

    /// Gives a namespace what controllers give to every one.
    pub(crate) fn furnish_namespace(&mut self, now: Timestamp, name: &str) {
        if self.store.get("serviceaccounts", name, "default").is_none() {
            let _kept = self.create(now, named("serviceaccounts"), name, json!({"metadata": {"name": "default"}}));
        }
        if self.store.get("configmaps", name, "kube-root-ca.crt").is_none() {
            let data = json!({"ca.crt": self.ca_certificate});
            let _kept =
                self.create(now, named("configmaps"), name, json!({"metadata": {"name": "kube-root-ca.crt"}, "data": data}));
        }
    }

    fn fresh_uid(&mut self) -> String {
        let (high, low) = (self.rng.next_u64(), self.rng.next_u64());
        // Version 4, variant 1.
        format!(
            "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0xfff,
            0x8000 | (low >> 48) & 0x3fff,
            low & 0xffff_ffff_ffff
        )
    }

    /// Five letters as upstream picks them for generated names.
    fn suffix(&mut self) -> String {
        const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
        let letter = |at: u64| usize::try_from(at).ok().and_then(|at| LETTERS.get(at)).copied().unwrap_or(b'x');
        (0..5).map(|_| char::from(letter(self.rng.below(LETTERS.len() as u64)))).collect()
    }

    fn fresh_cluster_ip(&mut self) -> String {
        let number = self.next_cluster_ip;
        self.next_cluster_ip += 1;
        format!("10.96.{}.{}", (number >> 8) & 0xff, number & 0xff)
    }
}
