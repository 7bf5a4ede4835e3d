//! What lists and watches carry: where each is asked for, and how what comes becomes the core's objects.
//! Upstream: k8s.io/client-go/rest/watch, k8s.io/apimachinery/pkg/watch.
//! Differs: managedFields are dropped at once; no decision reads them, and they are half of what a pod weighs.

use std::sync::Arc;

use k8s_openapi::List;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret, Service};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::storage::v1::CSIDriver;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{ListableResource, Metadata};
use kubelet::event::{Object, WatchKey};
use kubelet::failure::Failure;
use kubelet::sensitive::Sensitive;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::super::error::Status;
use super::super::send::{Ask, Sender};

/// What a watch is about.
pub(super) struct Subject {
    pub(super) path: String,
    /// Encoded, and followed by an ampersand; empty for all.
    pub(super) selector: String,
}

/// API-224
pub(super) fn subject(node: &str, key: &WatchKey) -> Subject {
    let those = |path: String, field: &str| Subject { path, selector: format!("fieldSelector={}&", encoded(field)) };
    let all = |path: &str| Subject { path: path.to_owned(), selector: String::new() };
    let named = |path: String, name: &str| those(path, &format!("metadata.name={name}"));
    match key {
        WatchKey::Pods => those("/api/v1/pods".to_owned(), &format!("spec.nodeName={node}")),
        WatchKey::Node => named("/api/v1/nodes".to_owned(), node),
        WatchKey::Services => those("/api/v1/services".to_owned(), "spec.clusterIP!=None"),
        WatchKey::RuntimeClasses => all("/apis/node.k8s.io/v1/runtimeclasses"),
        WatchKey::CsiDrivers => all("/apis/storage.k8s.io/v1/csidrivers"),
        WatchKey::ConfigMap { namespace, name } => named(format!("/api/v1/namespaces/{namespace}/configmaps"), name),
        WatchKey::Secret { namespace, name } => named(format!("/api/v1/namespaces/{namespace}/secrets"), name),
    }
}

/// One page of a list.
pub(super) struct Page {
    pub(super) objects: Vec<Object>,
    pub(super) revision: String,
    /// Where the next one begins; empty on the last.
    pub(super) next: String,
}

pub(super) async fn page(sender: &Sender, key: &WatchKey, ask: Ask) -> Result<Page, Failure> {
    match key {
        WatchKey::Pods => listed(sender, ask, Object::Pod).await,
        WatchKey::Node => listed(sender, ask, Object::Node).await,
        WatchKey::Services => listed(sender, ask, Object::Service).await,
        WatchKey::RuntimeClasses => listed(sender, ask, Object::RuntimeClass).await,
        WatchKey::CsiDrivers => listed(sender, ask, Object::CsiDriver).await,
        WatchKey::ConfigMap { .. } => listed(sender, ask, Object::ConfigMap).await,
        WatchKey::Secret { .. } => listed(sender, ask, |secret| Object::Secret(Sensitive::new(secret))).await,
    }
}

async fn listed<T>(sender: &Sender, ask: Ask, wrap: impl Fn(Arc<T>) -> Object) -> Result<Page, Failure>
where
    T: DeserializeOwned + ListableResource + Metadata<Ty = ObjectMeta>,
{
    // An object that cannot be read fails the whole list: left out, it would count as deleted.
    let list: List<T> = sender.object(ask).await?;
    let objects = list.items.into_iter().map(|mut item| {
        item.metadata_mut().managed_fields = None;
        wrap(Arc::new(item))
    });
    Ok(Page {
        objects: objects.collect(),
        revision: list.metadata.resource_version.unwrap_or_default(),
        next: list.metadata.continue_.unwrap_or_default(),
    })
}

/// What every line of a watch has.
#[derive(Deserialize)]
pub(super) struct Envelope {
    #[serde(rename = "type")]
    pub(super) kind: String,
    object: Carried,
}

#[derive(Deserialize)]
struct Carried {
    #[serde(default)]
    metadata: CarriedMeta,
}

#[derive(Default, Deserialize)]
struct CarriedMeta {
    #[serde(rename = "resourceVersion")]
    resource_version: Option<String>,
}

impl Envelope {
    /// # Errors
    /// If it is half a line, or nonsense.
    pub(super) fn read(line: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(line)
    }

    /// Where the watch is after this line.
    pub(super) fn revision(self) -> Option<String> {
        self.object.metadata.resource_version.filter(|revision| !revision.is_empty())
    }
}

#[derive(Default, Deserialize)]
struct Wrapped<T> {
    object: T,
}

/// The error that a line tells.
pub(super) fn status(line: &[u8]) -> Status {
    serde_json::from_slice::<Wrapped<Status>>(line).unwrap_or_default().object
}

/// The object that a line carries.
///
/// # Errors
/// If it is not one of that kind.
pub(super) fn object(key: &WatchKey, line: &[u8]) -> Result<Object, serde_json::Error> {
    Ok(match key {
        WatchKey::Pods => Object::Pod(one::<Pod>(line)?),
        WatchKey::Node => Object::Node(one::<Node>(line)?),
        WatchKey::Services => Object::Service(one::<Service>(line)?),
        WatchKey::RuntimeClasses => Object::RuntimeClass(one::<RuntimeClass>(line)?),
        WatchKey::CsiDrivers => Object::CsiDriver(one::<CSIDriver>(line)?),
        WatchKey::ConfigMap { .. } => Object::ConfigMap(one::<ConfigMap>(line)?),
        WatchKey::Secret { .. } => Object::Secret(Sensitive::new(one::<Secret>(line)?)),
    })
}

fn one<T: DeserializeOwned + Metadata<Ty = ObjectMeta>>(line: &[u8]) -> Result<Arc<T>, serde_json::Error> {
    let mut wrapped: Wrapped<T> = serde_json::from_slice(line)?;
    wrapped.object.metadata_mut().managed_fields = None;
    Ok(Arc::new(wrapped.object))
}

/// What a query's value may hold as it is; everything else as `%XX`.
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}
