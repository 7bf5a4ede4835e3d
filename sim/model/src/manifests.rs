//! Which static pods a node's manifests ask for, as far as the simulator can tell: those that are JSON and name no object of the API.
//! Upstream: none.
//! Differs: nothing on purpose.

use std::collections::BTreeMap;
use std::time::Duration;

use kubelet::observation::ContainerState;
use kubelet::pod::labels::POD_NAME;
use proto::cri::{NamespaceMode, PodSandboxConfig};
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

/// Where a sandbox tells where its pod comes from.
const SOURCE: &str = "kubernetes.io/config.source";

/// The name of the static pod that a container is of; `None` if it is of another pod.
#[must_use]
pub fn static_pod_of<'a>(runtime: &'a RuntimeModel, container: &'a Container) -> Option<&'a str> {
    let source = runtime.sandboxes.get(&container.sandbox)?.config.annotations.get(SOURCE)?;
    (source != "api").then(|| container.config.labels.get(POD_NAME).map(String::as_str)).flatten()
}

/// The UIDs under which the runtime has a static pod of that name.
pub fn uids_of<'a>(runtime: &'a RuntimeModel, name: &'a str) -> impl Iterator<Item = &'a str> {
    let configs = runtime.sandboxes.values().map(|sandbox| &sandbox.config);
    let is_static = |config: &&PodSandboxConfig| config.annotations.get(SOURCE).is_some_and(|source| source != "api");
    configs
        .filter(is_static)
        .filter_map(|config| config.metadata.as_ref())
        .filter(move |meta| meta.name == name)
        .map(|meta| &*meta.uid)
}

/// Whether a static pod under that UID has come to its end, as its policy says: its manifest does not tell its phase. `lost` tells of
/// containers that the runtime has forgotten.
#[must_use]
pub fn has_come_to_its_end(runtime: &RuntimeModel, pod: &Value, uid: &str, lost: impl Fn(&str) -> bool) -> bool {
    let never = pod["spec"]["restartPolicy"] == "Never";
    let newest = |name: &Value| {
        let of_it = runtime.containers.values().filter(|c| c.pod.as_str() == uid && *name == c.name());
        of_it.max_by_key(|c| (c.attempt(), c.created))
    };
    let exited = |name: &Value| newest(name).filter(|c| c.state == ContainerState::Exited).map(|c| c.exit_code);
    let list = |list: &str| pod["spec"][list].as_array().map(Vec::as_slice).unwrap_or_default();
    let failed = list("initContainers").iter().any(|c| never && exited(&c["name"]).is_some_and(|code| code != 0));
    let ended = |name: &Value| match exited(name) {
        Some(code) => never || code == 0,
        None => newest(name).is_none() && name.as_str().is_some_and(&lost),
    };
    let ends = never || pod["spec"]["restartPolicy"] == "OnFailure";
    ends && (failed || list("containers").iter().all(|c| ended(&c["name"])))
}

/// Whether a container was made as that pod's manifest says, as far as the runtime was told. Of a pod that goes on under the UID that its
/// manifest names, a regular container is made anew for its image alone (pkg/kubelet/container/helpers.go, `pickFieldsToHash`), one that the
/// manifest has no more is left alone, and all are made anew on another network (kuberuntime_manager.go, computePodActions).
#[must_use]
pub fn is_as_written(runtime: &RuntimeModel, pod: &Value, container: &Container) -> bool {
    let config = &container.config;
    let sandbox = runtime.sandboxes.get(&container.sandbox);
    let asked_for = config.image.as_ref().map(|image| image.user_specified_image.as_str());
    let on_host = pod["spec"]["hostNetwork"] == true;
    if sandbox.is_some_and(|sandbox| is_on_host(&sandbox.config) != on_host) {
        return false;
    }
    if let Some(uid) = pod["metadata"]["uid"].as_str() {
        let mut regular = pod["spec"]["containers"].as_array().into_iter().flatten();
        let written = regular.find(|one| one["name"] == container.name());
        return uid == container.pod.as_str() && written.is_none_or(|one| one["image"].as_str() == asked_for);
    }
    let lists = ["containers", "initContainers"].iter().flat_map(|list| pod["spec"][list].as_array().into_iter().flatten());
    let Some(written) = lists.into_iter().find(|one| one["name"] == container.name()) else { return false };
    let args = written["args"].as_array().map(Vec::as_slice).unwrap_or_default();
    let grace = config.annotations.get(GRACE).and_then(|grace| grace.parse().ok());
    let told = |annotations: &Value| {
        let mut all = annotations.as_object().into_iter().flatten();
        sandbox.is_none_or(|s| all.all(|(key, value)| s.config.annotations.get(key).map(String::as_str) == value.as_str()))
    };
    args.iter().map(Value::as_str).eq(config.args.iter().map(|arg| Some(arg.as_str())))
        && written["image"].as_str() == asked_for
        && grace == Some(grace_of(pod).as_secs())
        && told(&pod["metadata"]["annotations"])
}

/// Whether a container is of that pod, as its manifest says or as it was before it changed in place.
#[must_use]
pub fn is_of(runtime: &RuntimeModel, pod: &Value, container: &Container) -> bool {
    match pod["metadata"]["uid"].as_str() {
        Some(uid) => uid == container.pod.as_str(),
        None => is_as_written(runtime, pod, container),
    }
}

fn is_on_host(config: &PodSandboxConfig) -> bool {
    let options = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref()?.namespace_options.as_ref());
    options.is_some_and(|options| options.network() == NamespaceMode::Node)
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
