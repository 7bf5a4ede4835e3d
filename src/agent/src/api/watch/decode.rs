//! What lists and watches carry: where each is asked for, and how what comes becomes the core's objects.
//! Upstream: k8s.io/client-go/rest/watch, k8s.io/apimachinery/pkg/watch.
//! Differs: an object that cannot be read is told as such, by its name and UID; upstream reads protobuf, which takes nearly everything.

use std::sync::Arc;

use k8s_openapi::ListableResource as _;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::storage::v1::CSIDriver;
use kubelet::event::{Object, WatchKey};
use kubelet::failure::{Failure, FailureKind};
use kubelet::sensitive::Sensitive;
use serde::de::IgnoredAny;

use super::super::error::Status;
use super::super::members::{member, text};
use super::super::names::{encoded, field_is};
use super::super::pieces::Pieces;
use super::super::reading::{read, unreadable, unreadable_pod};
use super::super::scan::{ListScan, NoList, OBJECT_LIMIT};
use super::super::send::{Ask, Sender};

/// What a watch is about.
pub(super) struct Subject {
    pub(super) path: String,
    /// Encoded, and followed by an ampersand; empty for all.
    pub(super) selector: String,
}

/// API-224
pub(super) fn subject(node: &str, key: &WatchKey) -> Subject {
    let those = |path: String, field: String| Subject { path, selector: format!("fieldSelector={field}&") };
    let all = |path: &str| Subject { path: path.to_owned(), selector: String::new() };
    let named = |path: String, name: &str| those(path, field_is("metadata.name", name));
    // The API server makes no namespace of another name.
    let within = |namespace: &str, plural: &str| format!("/api/v1/namespaces/{}/{plural}", encoded(namespace));
    match key {
        WatchKey::Pods => those("/api/v1/pods".to_owned(), field_is("spec.nodeName", node)),
        WatchKey::Node => named("/api/v1/nodes".to_owned(), node),
        WatchKey::Services => those("/api/v1/services".to_owned(), encoded("spec.clusterIP!=None")),
        WatchKey::RuntimeClasses => all("/apis/node.k8s.io/v1/runtimeclasses"),
        WatchKey::CsiDrivers => all("/apis/storage.k8s.io/v1/csidrivers"),
        WatchKey::ConfigMap { namespace, name } => named(within(namespace, "configmaps"), name),
        WatchKey::Secret { namespace, name } => named(within(namespace, "secrets"), name),
    }
}

/// One page of a list.
pub(super) struct Page {
    pub(super) objects: Vec<Object>,
    pub(super) revision: String,
    /// Where the next one begins; empty on the last.
    pub(super) next: String,
}

/// Reads a page as it comes, one object after the other: neither its size nor any of its objects costs the others.
pub(super) async fn page(sender: &Sender, key: &WatchKey, ask: Ask) -> Result<Page, Failure> {
    let mut pieces = Pieces::of(sender, ask).await?;
    let mut scan = ListScan::new(OBJECT_LIMIT);
    let mut objects = Vec::new();
    while let Some(piece) = pieces.next().await? {
        scan.feed(&piece, |item, whole| objects.push(object(key, item, whole))).map_err(no_list)?;
    }
    let (kind, metadata) = scan.end().map_err(no_list)?;
    let kind: String = serde_json::from_slice(&kind).unwrap_or_default();
    if !kind.is_empty() && kind != list_kind(key) {
        return Err(Failure::new(FailureKind::Other, format!("the answer is not a list: its kind is {kind:?}")));
    }
    if objects.iter().any(|object| matches!(object, Object::Unreadable(unknown) if unknown.is_nobody())) {
        // Left out, it would count as deleted, and nobody can tell which one it is.
        return Err(Failure::new(FailureKind::Other, "the list has an object of which not even the name can be read"));
    }
    Ok(Page { objects, revision: text(&metadata, "resourceVersion"), next: text(&metadata, "continue") })
}

fn no_list(error: NoList) -> Failure {
    Failure::new(FailureKind::Other, error.to_string())
}

fn list_kind(key: &WatchKey) -> &'static str {
    match key {
        WatchKey::Pods => Pod::LIST_KIND,
        WatchKey::Node => Node::LIST_KIND,
        WatchKey::Services => Service::LIST_KIND,
        WatchKey::RuntimeClasses => RuntimeClass::LIST_KIND,
        WatchKey::CsiDrivers => CSIDriver::LIST_KIND,
        WatchKey::ConfigMap { .. } => ConfigMap::LIST_KIND,
        WatchKey::Secret { .. } => Secret::LIST_KIND,
    }
}

/// One line of a watch.
pub(super) struct Told<'a> {
    pub(super) kind: String,
    /// The object that it carries, as it is written.
    pub(super) object: &'a [u8],
}

impl<'a> Told<'a> {
    /// `None` if it is half a line, or nonsense. Of a line that is too long its beginning is enough.
    pub(super) fn read(line: &'a [u8], whole: bool) -> Option<Self> {
        if whole && serde_json::from_slice::<IgnoredAny>(line).is_err() {
            return None;
        }
        Some(Self { kind: serde_json::from_slice(member(line, "type")?).ok()?, object: member(line, "object")? })
    }

    /// Where the watch is after this line.
    pub(super) fn revision(&self) -> Option<String> {
        let revision = member(self.object, "metadata").map(|metadata| text(metadata, "resourceVersion"));
        revision.filter(|revision| !revision.is_empty())
    }

    /// The error that it tells.
    pub(super) fn status(&self) -> Status {
        serde_json::from_slice(self.object).unwrap_or_default()
    }
}

/// The object that is written there, or what is known of it if it cannot be read.
pub(super) fn object(key: &WatchKey, written: &[u8], whole: bool) -> Object {
    let read = if whole { typed(key, written) } else { Err(format!("it is larger than {} MiB", OBJECT_LIMIT >> 20)) };
    let unknown = if *key == WatchKey::Pods { unreadable_pod } else { unreadable };
    read.unwrap_or_else(|why| Object::Unreadable(Box::new(unknown(written, why))))
}

fn typed(key: &WatchKey, written: &[u8]) -> Result<Object, String> {
    Ok(match key {
        WatchKey::Pods => Object::Pod(read(written)?),
        WatchKey::Node => Object::Node(read(written)?),
        WatchKey::Services => Object::Service(Arc::new(slim(read(written)?))),
        WatchKey::RuntimeClasses => Object::RuntimeClass(read(written)?),
        WatchKey::CsiDrivers => Object::CsiDriver(read(written)?),
        WatchKey::ConfigMap { .. } => Object::ConfigMap(read(written)?),
        WatchKey::Secret { .. } => Object::Secret(Sensitive::new(read(written)?)),
    })
}

/// A service without what no decision goes by: every node of a cluster has all of them.
fn slim(mut service: Service) -> Service {
    let meta = &mut service.metadata;
    (meta.annotations, meta.labels, meta.owner_references, meta.finalizers) = (None, None, None, None);
    service.status = None;
    service.spec = service.spec.map(|spec| ServiceSpec {
        cluster_ip: spec.cluster_ip,
        ports: spec.ports.map(|ports| ports.into_iter().map(slim_port).collect()),
        ..ServiceSpec::default()
    });
    service
}

fn slim_port(port: ServicePort) -> ServicePort {
    ServicePort { name: port.name, port: port.port, protocol: port.protocol, ..ServicePort::default() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys() -> [WatchKey; 7] {
        let (namespace, name) = ("ns".to_owned(), "it".to_owned());
        let secret = WatchKey::Secret { namespace: namespace.clone(), name: name.clone() };
        let map = WatchKey::ConfigMap { namespace, name };
        [WatchKey::Pods, WatchKey::Node, WatchKey::Services, WatchKey::RuntimeClasses, WatchKey::CsiDrivers, map, secret]
    }

    // ENV-010: a service of a tenant may be 1.2 MB large, and every node keeps all of them.
    #[test]
    fn of_a_service_is_kept_what_variables_are_made_of() {
        let written = r#"{"metadata":{"name":"it","namespace":"ns","uid":"u"},"spec":{"clusterIP":"10.0.0.1","externalIPs":["192.0.2.1"],
            "loadBalancerSourceRanges":["192.0.2.0/24"],"selector":{"a":"b"},"ports":[{"name":"http","port":80,"protocol":"TCP","targetPort":8080}]}}"#;
        let Object::Service(service) = object(&WatchKey::Services, written.as_bytes(), true) else { panic!("unreadable") };
        let port =
            ServicePort { name: Some("http".to_owned()), port: 80, protocol: Some("TCP".to_owned()), ..ServicePort::default() };
        let kept = ServiceSpec { cluster_ip: Some("10.0.0.1".to_owned()), ports: Some(vec![port]), ..ServiceSpec::default() };
        assert_eq!(service.spec, Some(kept));
    }

    proptest! {
        /// S3: whatever is sent for an object, it is one or it is told as one that cannot be read.
        #[test]
        fn any_bytes_are_an_object_or_an_unreadable_one(bytes in proptest::collection::vec(any::<u8>(), 0..200), whole: bool) {
            for key in keys() {
                let _read_or_not = object(&key, &bytes, whole);
                let _line_or_not = Told::read(&bytes, whole).map(|told| (told.revision(), told.status().code));
            }
        }

        /// The same of what looks like one; who it is, is known all the same.
        #[test]
        fn who_it_is_is_known_whatever_else_is_in_it(
            field in prop_oneof![Just("spec"), Just("status"), Just("data"), Just("kind"), Just("stringData")],
            value in "[{}\\[\\]\",:\\\\ 0-9a-z.-]{0,40}",
        ) {
            let written = format!(r#"{{"metadata":{{"name":"it","namespace":"ns","uid":"u","resourceVersion":"7"}},"{field}":{value}}}"#);
            for key in keys() {
                match object(&key, written.as_bytes(), true) {
                    Object::Unreadable(unknown) => {
                        prop_assert_eq!((unknown.full_name(), unknown.uid.as_str()), ("ns/it".to_owned(), "u"));
                    }
                    read => prop_assert_eq!(read.metadata().and_then(|metadata| metadata.uid.as_deref()), Some("u")),
                }
            }
            let line = format!(r#"{{"type":"ADDED","object":{written}}}"#);
            if let Some(told) = Told::read(line.as_bytes(), true) {
                prop_assert_eq!(told.revision(), Some("7".to_owned()));
            }
        }
    }

    const POD: &[u8] = include_bytes!("../../../../kubelet/testdata/pod-running.json");

    /// S3: the same of real objects that somebody has mangled.
    #[test]
    fn mangled_objects_are_objects_or_unreadable_ones() {
        let line = [&br#"{"type":"MODIFIED","object":"#[..], POD, b"}"].concat();
        let small = br#"{"metadata":{"name":"a","uid":"u","managedFields":[{"time":"9999-12-31T23:59:59Z"}],"creationTimestamp":"9999-12-31T23:59:59Z"},"spec":{"containers":[{"name":"c"}]},"data":{"a":"Yg=="}}"#;
        crate::mangled::each_of("object", 4, &[POD, &line, small], |input| {
            for key in keys() {
                let _object = object(&key, input, true);
            }
            let _line = Told::read(input, true).map(|told| (told.revision(), told.status().code));
        });
    }
}
