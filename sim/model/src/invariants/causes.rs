//! What explains what would otherwise break an invariant: deletions, deadlines, probes, deaths, refusals.
//! Upstream: none.
//! Differs: nothing on purpose.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use kubelet::observation::{ContainerState, SandboxState};
use kubelet::volumes::csi::spec::attachment_name;
use serde_json::Value;

use super::{PodRecord, Scene};
use crate::runtime::Container;
use crate::world::EPOCH_SECONDS;

/// Whether the cluster has attached a volume wherever it is wanted, if its driver wants it attached.
pub(super) fn is_attached(scene: Scene<'_>, (driver, handle): &(String, String)) -> bool {
    let object = scene.api.store.get("csidrivers", "", driver);
    let attaches = object.is_none_or(|driver| driver["spec"]["attachRequired"] != false);
    let attached = |node: &str| scene.api.store.get("volumeattachments", "", &attachment_name(handle, driver, node)).is_some();
    !attaches || scene.api.store.list("nodes", "").any(|node| attached(text(&node["metadata"]["name"])))
}

/// Whether a pull secret holds the login of an image: its registry's, whatever the path.
pub(super) fn opens(secret: &Value, image: &str, (user, password): &(String, String)) -> bool {
    let data = secret["data"][".dockerconfigjson"].as_str().and_then(|data| STANDARD.decode(data).ok());
    let config: Value = data.and_then(|data| serde_json::from_slice(&data).ok()).unwrap_or_default();
    let mut logins = config["auths"].as_object().into_iter().flatten();
    logins.any(|(host, login)| {
        image.starts_with(&format!("{host}/")) && login["username"] == user.as_str() && login["password"] == password.as_str()
    })
}

/// For how long an end of something explains a loss of readiness: a call that hangs for two minutes keeps the pod from being looked at.
const REMEMBERED: Duration = Duration::from_secs(180);

/// S7: whether something explains that a pod is not ready any more.
pub(super) fn may_lose_readiness(scene: Scene<'_>, record: &PodRecord, object: &Value, now: Duration) -> bool {
    let recently = |at: Option<Duration>| at.is_some_and(|at| now.saturating_sub(at) < REMEMBERED);
    let is_gone = pod_by_uid(scene, text(&object["metadata"]["uid"])).is_none();
    record.deleted_at.is_some()
        || has_deadline(object)
        || recently(record.last_exit)
        || recently(record.last_sandbox_down)
        || regular(object).any(|c| !c["readinessProbe"].is_null())
        || is_gone
        || may_be_refused(scene, object)
}

/// S6: whether something explains that the agent stops a running container, alone or with all of its sandbox.
pub(super) fn may_be_stopped(scene: Scene<'_>, object: &Value, container: &Container, alone: bool) -> bool {
    let ended = matches!(text(&object["status"]["phase"]), "Succeeded" | "Failed");
    let is_of_pod = |uid: &str| container.pod.as_str() == uid;
    let mut sandboxes = scene.runtime.sandboxes.values().filter(|s| s.config.metadata.as_ref().is_some_and(|m| is_of_pod(&m.uid)));
    let one_ready = sandboxes.clone().filter(|s| s.state == SandboxState::Ready).count() == 1;
    let is_up = sandboxes.any(|s| s.id == container.sandbox && s.state == SandboxState::Ready);
    let by_itself = alone && {
        let changed = object["metadata"]["generation"].as_u64().is_some_and(|generation| generation > 1);
        let spec = regular(object).find(|c| c["name"] == container.name());
        // Init containers, sidecars among them, end when their time is over.
        let checked = spec.is_none_or(|c| {
            ["livenessProbe", "startupProbe"].iter().any(|p| !c[p].is_null()) || !c["lifecycle"]["postStart"].is_null()
        });
        changed || checked || begins_anew(scene, object)
    };
    !object["metadata"]["deletionTimestamp"].is_null()
        || ended
        || has_deadline(object)
        || !one_ready
        || !is_up
        || by_itself
        || may_be_refused(scene, object)
}

/// The rules of a pod after which all of it begins anew, with their containers' names.
pub(super) fn rules_for_all(object: &Value) -> impl Iterator<Item = (&Value, &Value)> {
    let lists = ["containers", "initContainers"].into_iter();
    let all = lists.flat_map(|list| object["spec"][list].as_array().into_iter().flatten());
    let rules = all.flat_map(|c| c["restartPolicyRules"].as_array().into_iter().flatten().map(move |rule| (&c["name"], rule)));
    rules.filter(|(_, rule)| rule["action"] == "RestartAllContainers")
}

/// Whether a container of the pod has ended in a way after which all of it begins anew, or that is told.
fn begins_anew(scene: Scene<'_>, object: &Value) -> bool {
    let uid = text(&object["metadata"]["uid"]);
    let asks = |name: &Value, rule: &Value| {
        let codes = || rule["exitCodes"]["values"].as_array().into_iter().flatten();
        let ended = |c: &Container| c.state == ContainerState::Exited && codes().any(|code| *code == c.exit_code);
        scene.runtime.containers.values().any(|c| c.pod.as_str() == uid && *name == c.name() && ended(c))
    };
    let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    rules_for_all(object).any(|(name, rule)| asks(name, rule))
        || conditions.any(|c| c["type"] == "AllContainersRestarting" && c["status"] == "True")
}

/// S8: whether an exec in the container passed at some time of its life; without an exec probe nothing is asked for.
pub(super) fn passed_its_probe(scene: Scene<'_>, object: &Value, container: &Container) -> bool {
    let probed = regular(object).any(|c| c["name"] == container.name() && !c["readinessProbe"]["exec"].is_null());
    !probed || container.behaviour.exec_passes_by(age(scene, container))
}

/// How long the container has run.
pub(super) fn age(scene: Scene<'_>, container: &Container) -> Duration {
    let start = Timestamp::from_second(EPOCH_SECONDS).unwrap_or_default();
    let now = start.saturating_add(SignedDuration::try_from(scene.elapsed).unwrap_or(SignedDuration::MAX)).unwrap_or(start);
    container.started.and_then(|at| Duration::try_from(now.duration_since(at)).ok()).unwrap_or_default()
}

/// Whether the agent's next life may refuse the pod: the node is not for it.
fn may_be_refused(scene: Scene<'_>, object: &Value) -> bool {
    let node = scene.api.store.get("nodes", "", text(&object["spec"]["nodeName"]));
    let mut taints = node.into_iter().flat_map(|node| node["spec"]["taints"].as_array().into_iter().flatten());
    taints.any(|taint| taint["effect"] == "NoExecute")
        || !object["spec"]["nodeSelector"].is_null()
        || !object["spec"]["affinity"].is_null()
}

fn has_deadline(object: &Value) -> bool {
    !object["spec"]["activeDeadlineSeconds"].is_null()
}

fn regular(object: &Value) -> impl Iterator<Item = &Value> {
    object["spec"]["containers"].as_array().into_iter().flatten()
}

/// S5: whether a hook takes some of the container's grace.
pub(super) fn has_hook(object: &Value, container: &str) -> bool {
    regular(object).any(|c| c["name"] == container && !c["lifecycle"]["preStop"].is_null())
}

pub(super) fn is_ready(object: &Value) -> bool {
    let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|c| c["type"] == "Ready" && c["status"] == "True")
}

pub(super) fn pod_by_uid<'a>(scene: Scene<'a>, uid: &str) -> Option<&'a Value> {
    scene.api.store.list("pods", "").map(AsRef::as_ref).find(|pod| pod["metadata"]["uid"] == uid)
}

pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
