//! What is added to a pod or refused before it is stored: service account, tolerations, priority, and what is plainly wrong.
//! Upstream: plugin/pkg/admission/{serviceaccount,defaulttolerationseconds,priority}, pkg/apis/core/validation.
//! Differs: validation is only of what a simulation can get wrong; there are no webhooks, quotas or limit ranges.

use serde_json::{Value, json};

use super::defaults::{default_field, items, items_mut};
use super::error::ApiError;
use super::resource::{Resource, named};
use super::selector::Selector;
use super::store::Store;

const MIRROR: &str = "kubernetes.io/config.mirror";
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The UID that the runtime knows a pod by: a mirror names its static pod's. One that a user has made names any, and is nobody's: a node's
/// own are the node's (plugin/pkg/admission/noderestriction, admitPodCreate).
#[must_use]
pub fn runtime_uid(pod: &Value) -> &str {
    let metadata = &pod["metadata"];
    let is_nodes = items(metadata, "ownerReferences").any(|owner| owner["kind"] == "Node");
    let mirrored = metadata["annotations"].get(MIRROR).and_then(Value::as_str).filter(|_| is_nodes);
    mirrored.or(metadata["uid"].as_str()).unwrap_or_default()
}

/// Whether a pod is the mirror of a static pod.
#[must_use]
pub fn is_mirror(pod: &Value) -> bool {
    pod["metadata"]["annotations"].get(MIRROR).is_some()
}

/// Adds to a new pod what admission adds. `suffix` names its token volume.
///
/// # Errors
/// 403 if its service account or priority class does not exist.
pub fn admit_pod(store: &Store, pod: &mut Value, suffix: &str) -> Result<(), ApiError> {
    priority(store, pod)?;
    tolerations(&mut pod["spec"]);
    if is_mirror(pod) { Ok(()) } else { service_account(store, pod, suffix) }
}

fn service_account(store: &Store, pod: &mut Value, suffix: &str) -> Result<(), ApiError> {
    let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
    default_field(&mut pod["spec"], "serviceAccountName", "default");
    let account_name = pod["spec"]["serviceAccountName"].clone();
    pod["spec"]["serviceAccount"] = account_name.clone();
    let account_name = account_name.as_str().unwrap_or_default();
    let Some(account) = store.get("serviceaccounts", &namespace, account_name) else {
        let why = format!("error looking up service account {namespace}/{account_name}: serviceaccount {account_name:?} not found");
        return Err(ApiError::forbidden(named("pods"), pod["metadata"]["name"].as_str().unwrap_or_default(), &why));
    };
    if let (Some(secrets), None) = (account.get("imagePullSecrets"), pod["spec"].get("imagePullSecrets")) {
        pod["spec"]["imagePullSecrets"] = secrets.clone();
    }
    let wanted = pod["spec"]["automountServiceAccountToken"].as_bool().or(account["automountServiceAccountToken"].as_bool());
    if wanted == Some(false) {
        return Ok(());
    }
    mount_token(&mut pod["spec"], suffix);
    Ok(())
}

fn mount_token(spec: &mut Value, suffix: &str) {
    let existing = items(spec, "volumes")
        .find_map(|volume| volume["name"].as_str().filter(|name| name.starts_with("kube-api-access-")).map(str::to_owned));
    let volume = existing.clone().unwrap_or_else(|| format!("kube-api-access-{suffix}"));
    let mut used = false;
    for field in ["initContainers", "containers"] {
        for container in items_mut(spec, field) {
            if items(container, "volumeMounts").any(|m| m["mountPath"] == TOKEN_PATH) {
                continue;
            }
            used = true;
            default_field(container, "volumeMounts", json!([]));
            if let Some(mounts) = container["volumeMounts"].as_array_mut() {
                mounts.push(json!({"name": volume, "mountPath": TOKEN_PATH, "readOnly": true}));
            }
        }
    }
    if used && existing.is_none() {
        default_field(spec, "volumes", json!([]));
        if let Some(volumes) = spec["volumes"].as_array_mut() {
            volumes.push(json!({"name": volume, "projected": {"defaultMode": 420, "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
            ]}}));
        }
    }
}

fn tolerations(spec: &mut Value) {
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = items(spec, "tolerations").any(|t| {
            (t["key"] == key || t["key"].as_str().unwrap_or_default().is_empty())
                && (t["effect"] == "NoExecute" || t["effect"].as_str().unwrap_or_default().is_empty())
        });
        if tolerated {
            continue;
        }
        default_field(spec, "tolerations", json!([]));
        if let Some(list) = spec["tolerations"].as_array_mut() {
            list.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}));
        }
    }
}

fn priority(store: &Store, pod: &mut Value) -> Result<(), ApiError> {
    let class = pod["spec"]["priorityClassName"].as_str().unwrap_or_default().to_owned();
    let value = match class.as_str() {
        "" => 0,
        "system-node-critical" => 2_000_001_000,
        "system-cluster-critical" => 2_000_000_000,
        other => match store.get("priorityclasses", "", other) {
            Some(class) => class["value"].as_i64().unwrap_or_default(),
            None => {
                let why = format!("no PriorityClass with name {other} was found");
                return Err(ApiError::forbidden(named("pods"), pod["metadata"]["name"].as_str().unwrap_or_default(), &why));
            }
        },
    };
    default_field(&mut pod["spec"], "priority", value);
    default_field(&mut pod["spec"], "preemptionPolicy", "PreemptLowerPriority");
    Ok(())
}

/// Refuses an object that could not be stored by its name or, for pods, by its containers.
///
/// # Errors
/// 422.
pub fn validate_new(resource: &Resource, object: &Value) -> Result<(), ApiError> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        return Err(ApiError::invalid(resource, name, "metadata.name: Required value: name or generateName is required"));
    }
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let path_name = matches!(resource.plural, "events" | "certificatesigningrequests");
    let subdomain = name.chars().all(fits) && edge(name.chars().next()) && edge(name.chars().last()) && name.len() <= 253;
    if !path_name && !subdomain {
        let why = format!(
            "metadata.name: Invalid value: {name:?}: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
             '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
        );
        return Err(ApiError::invalid(resource, name, &why));
    }
    match resource.plural {
        "pods" => containers(resource, name, &object["spec"], "spec"),
        "deployments" | "replicasets" | "daemonsets" => {
            let spec = &object["spec"];
            if !spec["selector"].is_object() {
                return Err(ApiError::invalid(resource, name, "spec.selector: Required value"));
            }
            // Otherwise the controller would let go of every pod that it makes, and make another.
            let selects = Selector::of_spec(&spec["selector"]).is_some_and(|selector| selector.matches(&spec["template"]));
            if !selects {
                let why = "spec.template.metadata.labels: Invalid value: `selector` does not match template `labels`";
                return Err(ApiError::invalid(resource, name, why));
            }
            containers(resource, name, &spec["template"]["spec"], "spec.template.spec")
        }
        _ => Ok(()),
    }
}

fn containers(resource: &Resource, name: &str, spec: &Value, path: &str) -> Result<(), ApiError> {
    if items(spec, "containers").next().is_none() {
        return Err(ApiError::invalid(resource, name, &format!("{path}.containers: Required value")));
    }
    let mut seen = std::collections::BTreeSet::new();
    for field in ["containers", "initContainers"] {
        for (at, container) in items(spec, field).enumerate() {
            let own = container["name"].as_str().unwrap_or_default();
            if own.is_empty() {
                return Err(ApiError::invalid(resource, name, &format!("{path}.{field}[{at}].name: Required value")));
            }
            if !seen.insert(own) {
                return Err(ApiError::invalid(resource, name, &format!("{path}.{field}[{at}].name: Duplicate value: {own:?}")));
            }
            if container["image"].as_str().unwrap_or_default().is_empty() {
                return Err(ApiError::invalid(resource, name, &format!("{path}.{field}[{at}].image: Required value")));
            }
            for mount in items(container, "volumeMounts") {
                if !items(spec, "volumes").any(|v| v["name"] == mount["name"]) {
                    let volume = mount["name"].as_str().unwrap_or_default();
                    let why = format!("{path}.{field}[{at}].volumeMounts[0].name: Not found: {volume:?}");
                    return Err(ApiError::invalid(resource, name, &why));
                }
            }
        }
    }
    Ok(())
}

/// Refuses a change of a pod's spec that may not change.
///
/// # Errors
/// 422.
pub fn validate_pod_update(old: &Value, new: &Value) -> Result<(), ApiError> {
    let frozen = |pod: &Value| {
        let mut spec = pod["spec"].clone();
        for field in ["containers", "initContainers"] {
            items_mut(&mut spec, field).for_each(|c| c["image"] = Value::Null);
        }
        for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
            if let Some(map) = spec.as_object_mut() {
                map.remove(field);
            }
        }
        spec
    };
    if frozen(old) == frozen(new) {
        return Ok(());
    }
    let why = "spec: Forbidden: pod updates may not change fields other than \
               `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only \
               additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously \
               negative)";
    Err(ApiError::invalid(named("pods"), new["metadata"]["name"].as_str().unwrap_or_default(), why))
}

/// What the mirror of a static pod may not be asked for (validation.go, ValidatePodResize, ValidatePodEphemeralContainersUpdate).
pub(super) fn validate_static(subresource: &str, old: &Value) -> Result<(), ApiError> {
    let why = match subresource {
        "resize" => ": Forbidden: static pods cannot be resized",
        "ephemeralcontainers" => ": Forbidden: static pods do not support ephemeral containers",
        _ => return Ok(()),
    };
    if !is_mirror(old) {
        return Ok(());
    }
    Err(ApiError::invalid(named("pods"), old["metadata"]["name"].as_str().unwrap_or_default(), why))
}

/// A regular container that is told as terminated and is not to restart does not come back (validation.go,
/// ValidateContainerStateTransition).
pub(super) fn validate_state_transitions(resource: &Resource, old: &Value, new: &Value) -> Result<(), ApiError> {
    let statuses = |pod: &Value| pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
    let now = statuses(new);
    for (at, was) in statuses(old).iter().enumerate() {
        let Some(code) = was["state"]["terminated"]["exitCode"].as_i64() else { continue };
        let leaves = now.iter().any(|is| is["name"] == was["name"] && is["state"]["terminated"].is_null());
        if leaves && !may_restart(old, &was["name"], code) {
            let why = format!("status.containerStatuses[{at}].state: Forbidden: may not be transitioned to non-terminated state");
            return Err(ApiError::invalid(resource, old["metadata"]["name"].as_str().unwrap_or_default(), &why));
        }
    }
    Ok(())
}

fn may_restart(pod: &Value, container: &Value, code: i64) -> bool {
    let mut containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let Some(spec) = containers.find(|c| c["name"] == *container) else { return true };
    let lists = ["containers", "initContainers"].iter().flat_map(|list| pod["spec"][list].as_array().into_iter().flatten());
    let mut rules = lists.flat_map(|c| c["restartPolicyRules"].as_array().into_iter().flatten());
    if rules.any(|rule| rule["action"] == "RestartAllContainers") {
        return true;
    }
    let has_rules = spec["restartPolicyRules"].as_array().is_some_and(|rules| !rules.is_empty());
    let policy = spec["restartPolicy"].as_str().or(pod["spec"]["restartPolicy"].as_str());
    has_rules
        || match policy {
            Some("Never") => false,
            Some("OnFailure") => code != 0,
            _ => true,
        }
}
