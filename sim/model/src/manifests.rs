//! Which static pods a node's manifests ask for, as far as the simulator can tell: those that are JSON and name no object of the API.
//! Upstream: none.
//! Differs: nothing on purpose.

use std::collections::BTreeMap;

use kubelet::pod::labels::POD_NAME;
use serde_json::Value;

use crate::host::HostModel;
use crate::runtime::{Container, RuntimeModel};
use crate::scenario::run::NODE;

fn pod_of(contents: &[u8]) -> Option<Value> {
    let pod: Value = serde_json::from_slice(contents).ok()?;
    let good = pod["kind"] == "Pod" && pod["metadata"]["name"].is_string() && pod["spec"]["serviceAccountName"].is_null();
    good.then_some(pod)
}

/// The pod of each manifest file, by the name that it has in the API. Of two of one name the later file counts.
#[must_use]
pub fn wanted_manifests(host: &HostModel) -> BTreeMap<String, Value> {
    let named = |pod: Value| Some((format!("{}-{NODE}", pod["metadata"]["name"].as_str()?), pod));
    host.manifests.values().filter_map(|contents| pod_of(contents)).filter_map(named).collect()
}

/// The names of the pods that the static pod URL asks for; `None` if it cannot be told, for its last answer left in place what was.
#[must_use]
pub fn wanted_of_url(host: &HostModel) -> Option<Vec<String>> {
    let Some((status, body)) = &host.pod_url else { return Some(Vec::new()) };
    if *status != 200 {
        return None;
    }
    let list: Value = serde_json::from_slice(body).ok()?;
    let pods = list["items"].as_array().cloned().unwrap_or_else(|| vec![list]);
    Some(pods.iter().filter_map(|pod| Some(format!("{}-{NODE}", pod["metadata"]["name"].as_str()?))).collect())
}

/// The name of the static pod that a container is of; `None` if it is of another pod.
#[must_use]
pub fn static_pod_of<'a>(runtime: &'a RuntimeModel, container: &'a Container) -> Option<&'a str> {
    let source = runtime.sandboxes.get(&container.sandbox)?.config.annotations.get("kubernetes.io/config.source")?;
    (source != "api").then(|| container.config.labels.get(POD_NAME).map(String::as_str)).flatten()
}

/// Whether a container was made as that pod's manifest says. Of a pod that goes on under the UID that its manifest names, a container
/// is made anew for its image alone (pkg/kubelet/container/helpers.go, `pickFieldsToHash`).
#[must_use]
pub fn is_as_written(pod: &Value, container: &Container) -> bool {
    let mut containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let written = containers.find(|one| one["name"] == container.name());
    if pod["metadata"]["uid"] == container.pod.as_str() {
        return written.is_some();
    }
    let arguments = |one: &Value| one["args"].as_array().cloned().unwrap_or_default();
    written
        .is_some_and(|one| arguments(one).iter().map(Value::as_str).eq(container.config.args.iter().map(|arg| Some(arg.as_str()))))
}
