//! Which static pods a node's manifests ask for, as far as the simulator can tell: those that are JSON and name no object of the API.
//! Upstream: none.
//! Differs: nothing on purpose.

use std::collections::BTreeMap;
use std::time::Duration;

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

/// A static pod that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The file that asks for it; empty if it is the URL. One that names no UID has another under another path.
    pub file: String,
    /// The pod, as it is written.
    pub pod: Value,
}

/// What is wanted, with the name that it has in the API.
fn named(file: &str, pod: Value) -> Option<(String, Wanted)> {
    Some((format!("{}-{NODE}", pod["metadata"]["name"].as_str()?), Wanted { file: file.to_owned(), pod }))
}

/// The pod of each manifest file, by the name that it has in the API. Of two of one name the later file counts.
#[must_use]
pub fn wanted_manifests(host: &HostModel) -> BTreeMap<String, Wanted> {
    host.manifests.iter().filter_map(|(file, contents)| named(file, pod_of(contents)?)).collect()
}

/// The pods that the static pod URL asks for, by the names that they have in the API; `None` if it cannot be told, for its last answer
/// left in place what was.
#[must_use]
pub fn wanted_of_url(host: &HostModel) -> Option<BTreeMap<String, Wanted>> {
    let Some((status, body)) = &host.pod_url else { return (!host.url_has_answered).then(BTreeMap::new) };
    if *status != 200 {
        return None;
    }
    if body.is_empty() {
        // Nothing is no error for what runs: nothing is wanted (pkg/kubelet/config/http.go, extractFromURL).
        return Some(BTreeMap::new());
    }
    let list: Value = serde_json::from_slice(body).ok()?;
    let pods = list["items"].as_array().cloned().unwrap_or_else(|| vec![list]);
    Some(pods.into_iter().filter_map(|pod| named("", pod)).collect())
}

/// The name of the static pod that a container is of; `None` if it is of another pod.
#[must_use]
pub fn static_pod_of<'a>(runtime: &'a RuntimeModel, container: &'a Container) -> Option<&'a str> {
    let source = runtime.sandboxes.get(&container.sandbox)?.config.annotations.get("kubernetes.io/config.source")?;
    (source != "api").then(|| container.config.labels.get(POD_NAME).map(String::as_str)).flatten()
}

/// Whether a container was made as that pod's manifest says, as far as the runtime was told. Of a pod that goes on under the UID that its
/// manifest names, a container is made anew for its image alone (pkg/kubelet/container/helpers.go, `pickFieldsToHash`), and one that the
/// manifest has no more is left alone (kuberuntime_manager.go, computePodActions).
#[must_use]
pub fn is_as_written(runtime: &RuntimeModel, pod: &Value, container: &Container) -> bool {
    if let Some(uid) = pod["metadata"]["uid"].as_str() {
        return uid == container.pod.as_str();
    }
    let lists = ["containers", "initContainers"].iter().flat_map(|list| pod["spec"][list].as_array().into_iter().flatten());
    let Some(written) = lists.into_iter().find(|one| one["name"] == container.name()) else { return false };
    let config = &container.config;
    let args = written["args"].as_array().map(Vec::as_slice).unwrap_or_default();
    let asked_for = config.image.as_ref().map(|image| image.user_specified_image.as_str());
    let grace = config.annotations.get(GRACE).and_then(|grace| grace.parse().ok());
    let sandbox = runtime.sandboxes.get(&container.sandbox);
    let told = |annotations: &Value| {
        let mut all = annotations.as_object().into_iter().flatten();
        sandbox.is_none_or(|s| all.all(|(key, value)| s.config.annotations.get(key).map(String::as_str) == value.as_str()))
    };
    args.iter().map(Value::as_str).eq(config.args.iter().map(|arg| Some(arg.as_str())))
        && written["image"].as_str() == asked_for
        && grace == Some(grace_of(pod).as_secs())
        && told(&pod["metadata"]["annotations"])
}

/// Where a container carries the grace of its pod (pkg/kubelet/kuberuntime/labels.go).
const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

/// How long a manifest's pod has to end.
#[must_use]
pub fn grace_of(pod: &Value) -> Duration {
    Duration::from_secs(pod["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap_or(30))
}

/// Whether a mirror was made of that manifest: all that the manifest says is in it.
#[must_use]
pub fn is_mirror_as_written(pod: &Value, mirror: &Value) -> bool {
    let (said, shown) = (&pod["metadata"], &mirror["metadata"]);
    is_within(&pod["spec"], &mirror["spec"])
        && is_within(&said["annotations"], &shown["annotations"])
        && is_within(&said["labels"], &shown["labels"])
}

/// Whether a value has all that another has; lists may have more at their end, and what is empty need not be there.
fn is_within(less: &Value, more: &Value) -> bool {
    match (less, more) {
        (Value::Null, _) | (Value::Bool(false), Value::Null) => true,
        (Value::Object(less), more) => {
            less.iter().all(|(key, value)| is_within(value, more.get(key.as_str()).unwrap_or(&Value::Null)))
        }
        (Value::Array(less), Value::Array(more)) => {
            less.len() <= more.len() && less.iter().zip(more).all(|(less, more)| is_within(less, more))
        }
        (Value::Array(less), Value::Null) => less.is_empty(),
        (less, more) => less == more,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn mirror_is_as_written_if_it_has_all_that_the_manifest_says() {
        let manifest = json!({"metadata": {"annotations": {}}, "spec": {"hostNetwork": false, "volumes": [],
            "containers": [{"name": "main", "image": "a:1", "args": ["1"]}]}});
        let mut mirror = json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "h"}}, "spec": {"nodeName": "n1",
            "containers": [{"name": "main", "image": "a:1", "args": ["1"], "imagePullPolicy": "IfNotPresent"}]}});
        assert!(is_mirror_as_written(&manifest, &mirror));
        mirror["spec"]["containers"][0]["args"] = json!(["2"]);
        assert!(!is_mirror_as_written(&manifest, &mirror));
    }
}
