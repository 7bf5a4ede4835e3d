//! What an identity may do: everything for administrators, the Node authorizer's and NodeRestriction's rules for nodes.
//! Upstream: plugin/pkg/auth/authorizer/node, plugin/pkg/admission/noderestriction/admission.go (API-360 to API-363).
//! Differs: anyone else may do nothing unless named as privileged; there is no RBAC.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::ApiModel;
use super::admission::is_mirror;
use super::defaults::items;
use super::error::ApiError;
use super::request::{Request, Verb};
use super::resource::{is_review, named};
use super::store::Store;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// The user name.
    pub user: String,
    /// The groups.
    pub groups: BTreeSet<String>,
}

impl Identity {
    /// A user with groups.
    #[must_use]
    pub fn new(user: &str, groups: &[&str]) -> Self {
        Self { user: user.to_owned(), groups: groups.iter().map(|g| (*g).to_owned()).collect() }
    }

    /// An administrator.
    #[must_use]
    pub fn admin() -> Self {
        Self::new("kubernetes-admin", &["system:masters", "system:authenticated"])
    }

    /// A node's agent.
    #[must_use]
    pub fn node(name: &str) -> Self {
        Self::new(&format!("system:node:{name}"), &["system:nodes", "system:authenticated"])
    }

    /// Who joins by the bootstrap token with that ID, as kubeadm makes them.
    #[must_use]
    pub fn bootstrap(id: &str) -> Self {
        let groups = ["system:bootstrappers", "system:bootstrappers:kubeadm:default-node-token", "system:authenticated"];
        Self::new(&format!("system:bootstrap:{id}"), &groups)
    }

    /// Nobody in particular.
    #[must_use]
    pub fn anonymous() -> Self {
        Self::new("system:anonymous", &["system:unauthenticated"])
    }

    /// The node that this is the agent of.
    #[must_use]
    pub fn node_name(&self) -> Option<&str> {
        if self.groups.contains("system:nodes") { self.user.strip_prefix("system:node:") } else { None }
    }

    /// Whether it may do everything.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        self.groups.contains("system:masters")
    }
}

/// What the Node authorizer has not heard yet: it follows pods by a watch of its own, behind the nodes' at times.
#[derive(Clone, Debug, Default)]
pub struct Behind {
    /// How long it takes to hear that a pod is bound.
    pub lag: Duration,
    /// When it hears of pods, by UID: of those that it may not have heard of.
    hears: BTreeMap<String, Timestamp>,
}

impl Behind {
    /// A pod was made or bound.
    pub(super) fn changed(&mut self, now: Timestamp, pod: &Value) {
        if self.lag.is_zero() || !pod["spec"]["nodeName"].is_string() {
            return;
        }
        self.hears.retain(|_, at| *at > now);
        let lag = SignedDuration::try_from(self.lag).unwrap_or(SignedDuration::MAX);
        self.hears.insert(uid(pod).to_owned(), now.saturating_add(lag).unwrap_or(Timestamp::MAX));
    }
}

fn uid(pod: &Value) -> &str {
    pod["metadata"]["uid"].as_str().unwrap_or_default()
}

/// What the Node authorizer knows now.
#[derive(Clone, Copy)]
struct Graph<'a> {
    store: &'a Store,
    behind: &'a Behind,
    now: Timestamp,
}

impl<'a> Graph<'a> {
    fn pods(self, node: &'a str, namespace: &'a str) -> impl Iterator<Item = &'a Value> {
        let heard = move |pod: &&Value| self.behind.hears.get(uid(pod)).is_none_or(|at| *at <= self.now);
        self.store.list("pods", namespace).map(|pod| &**pod).filter(move |pod| pod["spec"]["nodeName"] == node).filter(heard)
    }
}

impl ApiModel {
    /// Whether `who` may make this request; what it may make of an object is decided by [`admit`].
    ///
    /// # Errors
    /// 403 with upstream's words.
    pub fn authorize(&self, now: Timestamp, who: &Identity, request: &Request) -> Result<(), ApiError> {
        if who.is_admin() || self.privileged.contains(&who.user) {
            return Ok(());
        }
        let allowed = match who.node_name() {
            Some(node) => node_may(Graph { store: &self.store, behind: &self.behind, now }, node, request),
            // The role system:node-bootstrapper.
            None if who.groups.contains("system:bootstrappers") => asks_for_certificate(request),
            None if request.resource.plural.starts_with("selfsubject") => Ok(()),
            None => Err(String::new()),
        };
        allowed.map_err(|why| denied(who, request, &why))
    }
}

fn denied(who: &Identity, request: &Request, why: &str) -> ApiError {
    let resource = request.resource;
    let of = if request.subresource.is_empty() { String::new() } else { format!("/{}", request.subresource) };
    let place = if request.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace \"{}\"", request.namespace)
    };
    let why = if why.is_empty() { String::new() } else { format!(": {why}") };
    let message = format!(
        "User \"{}\" cannot {} resource \"{}{of}\" in API group \"{}\" {place}{why}",
        who.user,
        request.verb.as_str(),
        resource.plural,
        resource.group
    );
    ApiError::forbidden(resource, &request.name, &message)
}

fn node_may(graph: Graph<'_>, node: &str, request: &Request) -> Result<(), String> {
    use Verb::{Create, DeleteCollection, Get, List, Patch, Update, Watch};
    let store = graph.store;
    let (verb, sub) = (request.verb, request.subresource.as_str());
    let reads = matches!(verb, Get | List | Watch);
    let when = |allowed: bool| if allowed { Ok(()) } else { Err(String::new()) };
    match request.resource.plural {
        "secrets" | "configmaps" => {
            if !reads {
                return Err("can only read resources of this type".to_owned());
            }
            let of_volume = request.resource.plural == "secrets" && is_secret_of_a_volume(graph, node, request);
            if of_volume {
                return Ok(());
            }
            related(graph, node, request, |pod| refers_to(pod, request.resource.plural, request.target_name()))
        }
        "persistentvolumeclaims" if sub.is_empty() && verb == Get => {
            related(graph, node, request, |pod| refers_to(pod, "persistentvolumeclaims", request.target_name()))
        }
        "persistentvolumes" if verb == Get && sub.is_empty() => {
            let name = request.target_name();
            connected(node, store.list("persistentvolumeclaims", "").any(|claim| claim_is_of(graph, node, claim, name)))
        }
        "volumeattachments" if verb == Get && sub.is_empty() => {
            let found = store.get("volumeattachments", "", request.target_name());
            connected(node, found.is_some_and(|attachment| attachment["spec"]["nodeName"] == node))
        }
        "persistentvolumeclaims" | "persistentvolumes" | "volumeattachments" => {
            Err("can only get individual resources of this type".to_owned())
        }
        "serviceaccounts" if verb == Create && !request.name.is_empty() && sub == "token" => {
            related(graph, node, request, |pod| pod["spec"]["serviceAccountName"] == request.name.as_str())
        }
        "serviceaccounts" if verb == Get && sub.is_empty() => {
            related(graph, node, request, |pod| pod["spec"]["serviceAccountName"] == request.name.as_str())
        }
        "serviceaccounts" if sub != "token" && verb == Create => {
            Err("can only create token subresource of serviceaccount".to_owned())
        }
        "serviceaccounts" => Err("can only create tokens for individual service accounts".to_owned()),
        "leases" => own_lease(node, request),
        "csinodes" => own_csi_node(node, request),
        "nodes" => own_node(node, request),
        "pods" => own_pods(store, node, request),
        "resourceslices" => match verb {
            List | Watch | DeleteCollection if request.selector.required("spec.nodeName") != Some(node) => {
                Err("can only list/watch/deletecollection resourceslices with nodeName field selector".to_owned())
            }
            _ => Ok(()),
        },
        "services" | "runtimeclasses" | "csidrivers" => when(reads && sub.is_empty()),
        "endpoints" => when(verb == Get),
        "events" => when(matches!(verb, Create | Update | Patch)),
        "certificatesigningrequests" => asks_for_certificate(request),
        _ if is_review(request.resource) => when(verb == Create),
        _ => Err(String::new()),
    }
}

fn asks_for_certificate(request: &Request) -> Result<(), String> {
    let verb = matches!(request.verb, Verb::Create | Verb::Get | Verb::List | Verb::Watch);
    let allowed = verb && request.resource.plural == "certificatesigningrequests" && request.subresource.is_empty();
    if allowed { Ok(()) } else { Err(String::new()) }
}

fn related(graph: Graph<'_>, node: &str, request: &Request, refers: impl Fn(&Value) -> bool) -> Result<(), String> {
    if request.namespace.is_empty() {
        return Err("can only read namespaced object of this type".to_owned());
    }
    if request.target_name().is_empty() {
        return Err("No Object name found".to_owned());
    }
    let found = graph.pods(node, &request.namespace).any(|pod| !is_mirror(pod) && refers(pod));
    connected(node, found)
}

fn connected(node: &str, is: bool) -> Result<(), String> {
    if is { Ok(()) } else { Err(format!("no relationship found between node '{node}' and this object")) }
}

/// Whether a claim is bound to that volume and used by a pod of the node.
fn claim_is_of(graph: Graph<'_>, node: &str, claim: &Value, volume: &str) -> bool {
    let (namespace, name) = (&claim["metadata"]["namespace"], claim["metadata"]["name"].as_str().unwrap_or_default());
    let mut pods = graph.pods(node, namespace.as_str().unwrap_or_default());
    claim["spec"]["volumeName"] == volume && pods.any(|pod| refers_to(pod, "persistentvolumeclaims", name))
}

/// Whether a driver needs that Secret for a volume of a pod of the node.
fn is_secret_of_a_volume(graph: Graph<'_>, node: &str, request: &Request) -> bool {
    let is_it = |reference: &Value| {
        reference["name"] == request.target_name() && reference["namespace"].as_str() == Some(request.namespace.as_str())
    };
    graph.store.list("persistentvolumes", "").any(|volume| {
        let source = &volume["spec"]["csi"];
        let names = is_it(&source["nodeStageSecretRef"]) || is_it(&source["nodePublishSecretRef"]);
        let name = volume["metadata"]["name"].as_str().unwrap_or_default();
        names && graph.store.list("persistentvolumeclaims", "").any(|claim| claim_is_of(graph, node, claim, name))
    })
}

/// Whether a pod refers to a Secret, ConfigMap or claim of that name: volumes, environment, pull secrets.
#[must_use]
pub fn refers_to(pod: &Value, plural: &str, name: &str) -> bool {
    let spec = &pod["spec"];
    let (volume, field, projected, env_from, key_ref) = match plural {
        "secrets" => ("secret", "secretName", "secret", "secretRef", "secretKeyRef"),
        "configmaps" => ("configMap", "name", "configMap", "configMapRef", "configMapKeyRef"),
        _ => return super::controllers::storage::claims_of(pod).any(|claim| claim == name),
    };
    let in_volume = |v: &Value| {
        v[volume][field] == name
            || items(&v["projected"], "sources").any(|s| s[projected]["name"] == name)
            || (plural == "secrets" && v["csi"]["nodePublishSecretRef"]["name"] == name)
    };
    let in_container = |c: &Value| {
        items(c, "envFrom").any(|e| e[env_from]["name"] == name) || items(c, "env").any(|e| e["valueFrom"][key_ref]["name"] == name)
    };
    items(spec, "volumes").any(in_volume)
        || (plural == "secrets" && items(spec, "imagePullSecrets").any(|s| s["name"] == name))
        || ["containers", "initContainers", "ephemeralContainers"].iter().any(|f| items(spec, f).any(in_container))
}

fn own_lease(node: &str, request: &Request) -> Result<(), String> {
    if matches!(request.verb, Verb::List | Verb::Watch | Verb::DeleteCollection) {
        return Err("can only get, create, update, patch, or delete a node lease".to_owned());
    }
    if request.namespace != "kube-node-lease" {
        return Err("can only access leases in the \"kube-node-lease\" system namespace".to_owned());
    }
    if request.verb != Verb::Create && request.name != node {
        return Err("can only access node lease with the same name as the requesting node".to_owned());
    }
    Ok(())
}

fn own_csi_node(node: &str, request: &Request) -> Result<(), String> {
    if matches!(request.verb, Verb::List | Verb::Watch | Verb::DeleteCollection) {
        return Err("can only get, create, update, patch, or delete a CSINode".to_owned());
    }
    if request.verb != Verb::Create && request.name != node {
        return Err("can only access CSINode with the same name as the requesting node".to_owned());
    }
    Ok(())
}

fn own_node(node: &str, request: &Request) -> Result<(), String> {
    match (request.subresource.as_str(), request.verb) {
        ("", Verb::Create | Verb::Update | Verb::Patch) | ("status", Verb::Update | Verb::Patch) => Ok(()),
        ("", Verb::Get | Verb::List | Verb::Watch) => match request.target_name() {
            name if name == node => Ok(()),
            "" => Err(format!("node '{node}' cannot read all nodes, only its own Node object")),
            name => Err(format!("node '{node}' cannot read '{name}', only its own Node object")),
        },
        _ => Err(String::new()),
    }
}

fn own_pods(store: &Store, node: &str, request: &Request) -> Result<(), String> {
    match (request.subresource.as_str(), request.verb) {
        ("", Verb::Get) => {
            let bound = store.get("pods", &request.namespace, &request.name).is_some_and(|pod| pod["spec"]["nodeName"] == node);
            if bound { Ok(()) } else { Err(format!("no relationship found between node '{node}' and this object")) }
        }
        ("", Verb::List | Verb::Watch) if request.selector.required("spec.nodeName") == Some(node) => Ok(()),
        ("", Verb::List | Verb::Watch) => Err("can only list/watch pods with spec.nodeName field selector".to_owned()),
        ("", Verb::Create | Verb::Delete) | ("status", Verb::Update | Verb::Patch) | ("eviction", Verb::Create) => Ok(()),
        _ => Err(String::new()),
    }
}

/// Whether a node may make `new` of `old` (NodeRestriction). Either is null if there is none.
///
/// # Errors
/// 403 with upstream's words; 404 for an object that a check needs.
pub fn admit(store: &Store, who: &Identity, request: &Request, old: &Value, new: &Value) -> Result<(), ApiError> {
    let Some(node) = who.node_name() else { return Ok(()) };
    let name = if request.name.is_empty() { new["metadata"]["name"].as_str().unwrap_or_default() } else { &request.name };
    let refuse = |why: String| Err(ApiError::forbidden(request.resource, name, &why));
    let outcome = match (request.resource.plural, request.subresource.as_str()) {
        ("pods", "") if request.verb == Verb::Create => return admit_mirror_pod(store, node, request, new),
        ("pods", "") if old["spec"]["nodeName"] != node && !old.is_null() => {
            Some(format!("node {node:?} can only delete pods with spec.nodeName set to itself"))
        }
        ("pods", "status") => pod_status_refusal(node, old, new),
        ("pods", "eviction") if old["spec"]["nodeName"] != node => {
            Some(format!("node {node} can only evict pods with spec.nodeName set to itself"))
        }
        ("nodes", _) => node_refusal(node, name, old, new),
        ("serviceaccounts", "token") => return admit_token(store, node, request, new),
        ("leases", _) if name != node => Some("can only access node lease with the same name as the requesting node".to_owned()),
        ("csinodes", _) if name != node => Some("can only access CSINode with the same name as the requesting node".to_owned()),
        _ => None,
    };
    outcome.map_or(Ok(()), refuse)
}

fn pod_status_refusal(node: &str, old: &Value, new: &Value) -> Option<String> {
    if old["spec"]["nodeName"] != node {
        return Some(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"));
    }
    if old["metadata"]["labels"] != new["metadata"]["labels"] {
        return Some(format!("node {node:?} cannot update labels through pod status"));
    }
    (old["status"]["resourceClaimStatuses"] != new["status"]["resourceClaimStatuses"])
        .then(|| format!("node {node:?} cannot update resource claim statues"))
}

fn admit_mirror_pod(store: &Store, node: &str, request: &Request, pod: &Value) -> Result<(), ApiError> {
    let refuse =
        |why: String| Err(ApiError::forbidden(request.resource, pod["metadata"]["name"].as_str().unwrap_or_default(), &why));
    if !is_mirror(pod) {
        return refuse(format!(
            "pod does not have \"kubernetes.io/config.mirror\" annotation, node {node:?} can only create mirror pods"
        ));
    }
    if pod["spec"]["nodeName"] != node {
        return refuse(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let owners: Vec<&Value> = items(&pod["metadata"], "ownerReferences").collect();
    let [owner] = owners[..] else {
        let which = if owners.is_empty() { "an" } else { "a single" };
        return refuse(format!("node {node:?} can only create pods with {which} owner reference set to itself"));
    };
    if owner["apiVersion"] != "v1" || owner["kind"] != "Node" || owner["name"] != node {
        return refuse(format!("node {node:?} can only create pods with an owner reference set to itself"));
    }
    if owner["controller"] != true {
        return refuse(format!("node {node:?} can only create pods with a controller owner reference set to itself"));
    }
    if owner["blockOwnerDeletion"] == true {
        return refuse(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
    }
    let own = store.get("nodes", "", node).ok_or_else(|| ApiError::not_found(named("nodes"), node))?;
    if owner["uid"] != own["metadata"]["uid"] {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        return refuse(format!("node {node} UID mismatch: expected {} got {}", text(&owner["uid"]), text(&own["metadata"]["uid"])));
    }
    let what = if pod["spec"]["serviceAccountName"].as_str().is_some_and(|n| !n.is_empty()) {
        "a service account"
    } else {
        let spec = pod["spec"].to_string();
        if ["\"secret\":", "\"secretRef\":", "\"secretKeyRef\":", "\"imagePullSecrets\":"].iter().any(|f| spec.contains(f)) {
            "secrets"
        } else if ["\"configMap\":", "\"configMapRef\":", "\"configMapKeyRef\":"].iter().any(|f| spec.contains(f)) {
            "configmaps"
        } else if spec.contains("\"persistentVolumeClaim\":") {
            "persistentvolumeclaims"
        } else {
            return Ok(());
        }
    };
    refuse(format!("node {node:?} can not create pods that reference {what}"))
}

fn node_refusal(node: &str, name: &str, old: &Value, new: &Value) -> Option<String> {
    if name != node {
        return Some(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    let forbidden = forbidden_labels(&old["metadata"]["labels"], &new["metadata"]["labels"]);
    if old.is_null() {
        return (!forbidden.is_empty())
            .then(|| format!("node {node:?} is not allowed to set the following labels: {}", forbidden.join(", ")));
    }
    if old["spec"]["taints"] != new["spec"]["taints"] {
        return Some(format!("node {node:?} is not allowed to modify taints"));
    }
    if old["metadata"]["ownerReferences"] != new["metadata"]["ownerReferences"] {
        return Some(format!("node {node:?} is not allowed to modify ownerReferences"));
    }
    (!forbidden.is_empty()).then(|| format!("is not allowed to modify labels: {}", forbidden.join(", ")))
}

fn forbidden_labels(old: &Value, new: &Value) -> Vec<String> {
    let keys = |v: &Value| v.as_object().into_iter().flatten().map(|(k, _)| k.clone()).collect::<BTreeSet<_>>();
    let changed =
        keys(old).union(&keys(new)).filter(|key| old.get(key.as_str()) != new.get(key.as_str())).cloned().collect::<Vec<_>>();
    changed.into_iter().filter(|key| is_forbidden(key)).collect()
}

fn is_forbidden(key: &str) -> bool {
    let Some((prefix, _)) = key.split_once('/') else { return false };
    let under = |domain: &str| prefix == domain || prefix.ends_with(&format!(".{domain}"));
    if under("node-restriction.kubernetes.io") {
        return true;
    }
    let kubelets_own = under("kubelet.kubernetes.io")
        || under("node.kubernetes.io")
        || matches!(
            key,
            "kubernetes.io/hostname"
                | "kubernetes.io/os"
                | "kubernetes.io/arch"
                | "beta.kubernetes.io/os"
                | "beta.kubernetes.io/arch"
                | "beta.kubernetes.io/instance-type"
                | "topology.kubernetes.io/zone"
                | "topology.kubernetes.io/region"
                | "failure-domain.beta.kubernetes.io/zone"
                | "failure-domain.beta.kubernetes.io/region"
        );
    (under("kubernetes.io") || under("k8s.io")) && !kubelets_own
}

fn admit_token(store: &Store, node: &str, request: &Request, token: &Value) -> Result<(), ApiError> {
    let refuse = |why: &str| Err(ApiError::forbidden(request.resource, &request.name, why));
    let bound = &token["spec"]["boundObjectRef"];
    let pod_name = bound["name"].as_str().unwrap_or_default();
    if bound["apiVersion"] != "v1" || bound["kind"] != "Pod" || pod_name.is_empty() {
        return refuse("node requested token not bound to a pod");
    }
    let uid = bound["uid"].as_str().unwrap_or_default();
    if uid.is_empty() {
        return refuse("node requested token with a pod binding without a uid");
    }
    let pod = store.get("pods", &request.namespace, pod_name).ok_or_else(|| ApiError::not_found(named("pods"), pod_name))?;
    if pod["metadata"]["uid"] != uid {
        return refuse(&format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and \
             then recreated"
        ));
    }
    if pod["spec"]["nodeName"] != node {
        return refuse("node requested token bound to a pod scheduled on a different node");
    }
    Ok(())
}
