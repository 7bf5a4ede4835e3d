//! Decides a container's environment, and what `$(NAME)` stands for in commands and arguments.
//! Upstream: pkg/kubelet/kubelet_pods.go (makeEnvironmentVariables), pkg/kubelet/envvars, third_party/forked/golang/expansion.
//! Differs: the order is fixed: service variables by name, then those of the spec in their order.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod, Secret, Service};

use super::fields::{FieldContext, resource_field};
use crate::cache::{Lookup, ObjectCache};
use crate::limits::{EACH, Room};
use crate::sensitive::Sensitive;

/// Why an environment cannot be made now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvError {
    /// Something is still on its way: the pod is woken when it comes.
    NotYet,
    /// It cannot be made as things are; the message of `CreateContainerConfigError` (POD-169).
    Bad(String),
}

/// What an environment is made of.
#[derive(Clone, Copy)]
pub struct EnvInputs<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// ConfigMaps and Secrets.
    pub objects: &'a ObjectCache,
    /// The services of the pod's namespace, and `default/kubernetes` (ENV-010).
    pub services: &'a [Arc<Service>],
    /// What fields stand for.
    pub fields: FieldContext<'a>,
}

/// An environment: names once each, in order of their last definition's first appearance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    names: Vec<String>,
    values: BTreeMap<String, Vec<u8>>,
}

impl Environment {
    /// # Errors
    /// The environment would become too large.
    fn set(&mut self, name: &str, value: Vec<u8>, room: &mut Room) -> Result<(), EnvError> {
        room.take(name.len() + value.len() + EACH).map_err(EnvError::Bad)?;
        self.put(name, value);
        Ok(())
    }

    fn put(&mut self, name: &str, value: Vec<u8>) {
        if self.values.insert(name.to_owned(), value).is_none() {
            self.names.push(name.to_owned());
        }
    }

    /// A variable's value.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.values.get(name).map(Vec::as_slice)
    }

    /// A variable's value as text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<Cow<'_, str>> {
        self.get(name).map(String::from_utf8_lossy)
    }

    /// All variables.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.names.iter().map(|name| (name.as_str(), self.values[name].as_slice()))
    }
}

/// The container's environment (ENV-001): envFrom, then env; service variables fill what is not set.
///
/// # Errors
/// A required reference that is missing, one that is not known yet, or more than there is room for.
pub fn environment(inputs: &EnvInputs<'_>, room: &mut Room) -> Result<Environment, EnvError> {
    let services = service_variables(inputs.services);
    let mut env = Environment::default();
    from_sources(inputs, &mut env, room)?;
    for variable in inputs.container.env.iter().flatten() {
        if let Some(value) = value_of(inputs, variable, &env, &services, room)? {
            env.set(&variable.name, value, room)?;
        }
    }
    let mut all = Environment::default();
    for (name, value) in services {
        if env.get(&name).is_none() {
            all.set(&name, value.into_bytes(), room)?;
        }
    }
    let Environment { names, mut values } = env;
    for name in names {
        let value = values.remove(&name).unwrap_or_default();
        all.put(&name, value);
    }
    Ok(all)
}

fn namespace<'a>(inputs: &EnvInputs<'a>) -> &'a str {
    inputs.pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// ENV-004
fn from_sources(inputs: &EnvInputs<'_>, env: &mut Environment, room: &mut Room) -> Result<(), EnvError> {
    for source in inputs.container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref {
            let optional = reference.optional.unwrap_or(false);
            if let Some(map) = config_map(inputs, &reference.name, optional)? {
                for (key, value) in map.data.iter().flatten() {
                    env.set(&format!("{prefix}{key}"), value.clone().into_bytes(), room)?;
                }
            }
        } else if let Some(reference) = &source.secret_ref {
            let optional = reference.optional.unwrap_or(false);
            if let Some(secret) = secret(inputs, &reference.name, optional)? {
                for (key, ByteString(value)) in secret.reveal().data.iter().flatten() {
                    env.set(&format!("{prefix}{key}"), value.clone(), room)?;
                }
            }
        }
    }
    Ok(())
}

fn found<T>(lookup: Lookup<T>, kind: &str, name: &str, optional: bool) -> Result<Option<T>, EnvError> {
    match lookup {
        Lookup::Found(object) => Ok(Some(object)),
        Lookup::NotFound if optional => Ok(None),
        Lookup::NotFound => Err(EnvError::Bad(crate::cache::not_found(kind, name))),
        Lookup::Pending => Err(EnvError::NotYet),
        Lookup::Failed(message) => Err(EnvError::Bad(message)),
        Lookup::NotRegistered => Err(EnvError::NotYet),
    }
}

fn config_map(inputs: &EnvInputs<'_>, name: &str, optional: bool) -> Result<Option<Arc<ConfigMap>>, EnvError> {
    found(inputs.objects.lookup_config_map(namespace(inputs), name), "configmap", name, optional)
}

fn secret(inputs: &EnvInputs<'_>, name: &str, optional: bool) -> Result<Option<Sensitive<Arc<Secret>>>, EnvError> {
    found(inputs.objects.lookup_secret(namespace(inputs), name), "secret", name, optional)
}

/// One variable's value; `None` if its optional source is missing (ENV-007: an earlier value then stays).
fn value_of(
    inputs: &EnvInputs<'_>,
    variable: &EnvVar,
    env: &Environment,
    services: &BTreeMap<String, String>,
    room: &Room,
) -> Result<Option<Vec<u8>>, EnvError> {
    if let Some(source) = &variable.value_from {
        return from_source(inputs, source);
    }
    let look_up = |name: &str| env.text(name).or_else(|| services.get(name).map(|value| Cow::Borrowed(value.as_str())));
    // What it comes to is counted when it is set; until then it must not be more than could be.
    let expanded = expand(variable.value.as_deref().unwrap_or_default(), &mut room.clone(), look_up).map_err(EnvError::Bad)?;
    Ok(Some(expanded.into_bytes()))
}

fn from_source(inputs: &EnvInputs<'_>, source: &EnvVarSource) -> Result<Option<Vec<u8>>, EnvError> {
    let namespace = namespace(inputs);
    if let Some(ObjectFieldSelector { field_path, .. }) = &source.field_ref {
        let value = inputs.fields.pod_field(inputs.pod, field_path).map_err(EnvError::Bad)?;
        return Ok(Some(value.into_bytes()));
    }
    if let Some(selector) = &source.resource_field_ref {
        let value = resource_field(inputs.pod, inputs.container, selector, &inputs.fields).map_err(EnvError::Bad)?;
        return Ok(Some(value.into_bytes()));
    }
    if let Some(reference) = &source.config_map_key_ref {
        let optional = reference.optional.unwrap_or(false);
        let Some(map) = config_map(inputs, &reference.name, optional)? else { return Ok(None) };
        let value = map.data.as_ref().and_then(|d| d.get(&reference.key)).map(|v| v.clone().into_bytes());
        return key_found(value, optional, || {
            format!("couldn't find key {} in ConfigMap {namespace}/{}", reference.key, reference.name)
        });
    }
    if let Some(reference) = &source.secret_key_ref {
        let optional = reference.optional.unwrap_or(false);
        let Some(secret) = secret(inputs, &reference.name, optional)? else { return Ok(None) };
        let value = secret.reveal().data.as_ref().and_then(|d| d.get(&reference.key)).map(|v| v.0.clone());
        return key_found(value, optional, || {
            format!("couldn't find key {} in Secret {namespace}/{}", reference.key, reference.name)
        });
    }
    Err(EnvError::Bad("environment variable source is not supported".to_owned()))
}

fn key_found(value: Option<Vec<u8>>, optional: bool, missing: impl FnOnce() -> String) -> Result<Option<Vec<u8>>, EnvError> {
    match value {
        None if !optional => Err(EnvError::Bad(missing())),
        value => Ok(value),
    }
}

/// `$(NAME)` replaced by its value, `$$` by `$`; what is unknown or not closed stays (ENV-005, POD-168).
///
/// # Errors
/// There is no room for what it comes to.
pub fn expand<'a>(text: &str, room: &mut Room, look_up: impl Fn(&str) -> Option<Cow<'a, str>>) -> Result<String, String> {
    room.take(text.len() + EACH)?;
    let mut expanded = String::new();
    let (mut rest, mut closed) = (text, true);
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            expanded.push('$');
            rest = after;
            continue;
        }
        let Some(inner) = rest.strip_prefix('(').filter(|_| closed) else {
            expanded.push('$');
            continue;
        };
        // Looked for once in vain, there is none behind it either.
        let Some(end) = inner.find(')') else {
            closed = false;
            expanded.push('$');
            continue;
        };
        let name = &inner[..end];
        match look_up(name) {
            Some(value) => {
                room.take(value.len())?;
                expanded.push_str(&value);
            }
            None => expanded.push_str(&format!("$({name})")),
        }
        rest = &inner[end + 1..];
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// The variables of those services (ENV-010, ENV-011).
#[must_use]
pub fn service_variables(services: &[Arc<Service>]) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for service in services {
        let Some(spec) = &service.spec else { continue };
        let ip = match spec.cluster_ip.as_deref() {
            None | Some("" | "None") => continue,
            Some(ip) => ip,
        };
        let ports = spec.ports.as_deref().unwrap_or_default();
        let Some(first) = ports.first() else { continue };
        let name = shouted(service.metadata.name.as_deref().unwrap_or_default());
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        variables.insert(format!("{name}_SERVICE_HOST"), ip.to_owned());
        variables.insert(format!("{name}_SERVICE_PORT"), first.port.to_string());
        for (at, port) in ports.iter().enumerate() {
            if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
                variables.insert(format!("{name}_SERVICE_PORT_{}", shouted(port_name)), port.port.to_string());
            }
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
            if at == 0 {
                variables.insert(format!("{name}_PORT"), url.clone());
            }
            let prefix = format!("{name}_PORT_{}_{}", port.port, protocol.to_uppercase());
            variables.insert(prefix.clone(), url);
            variables.insert(format!("{prefix}_PROTO"), protocol.to_lowercase());
            variables.insert(format!("{prefix}_PORT"), port.port.to_string());
            variables.insert(format!("{prefix}_ADDR"), ip.to_owned());
        }
    }
    variables
}

fn shouted(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::ChangeDetection;
    use crate::event::{Object, WatchKey};
    use crate::out::{Ledger, Out};
    use crate::time::{Mono, Now};
    use serde_json::{Value, json};

    /// The environment of a container made of that, where ConfigMap `m`, Secret `s` and Service `svc` exist, nothing was heard
    /// of ConfigMap `silent`, and nothing else exists.
    fn made(container: Value) -> Result<BTreeMap<String, String>, EnvError> {
        let mut container = container;
        container["name"] = "c".into();
        let pod = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {"containers": [container]}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let mut objects = ObjectCache::new(ChangeDetection::Watch, false);
        let (mut ledger, mut actions, mut recorded) = (Ledger::default(), Vec::new(), Vec::new());
        let mut out = Out::new(&mut ledger, &mut actions, &mut recorded);
        let at = |seconds| Now { mono: Mono::from_start(Duration::from_secs(seconds)), wall: jiff::Timestamp::UNIX_EPOCH };
        objects.register(at(0), &pod, &mut out);
        let meta = |name: &str| json!({"name": name, "namespace": "ns", "resourceVersion": "1"});
        for name in ["m", "gone", "silent"] {
            let data = json!({"metadata": meta(name), "data": {"K": "of m", "A.dot": "odd"}, "binaryData": {"B": "AAAA"}});
            let map = Object::ConfigMap(Arc::new(serde_json::from_value(data).unwrap()));
            let key = WatchKey::ConfigMap { namespace: "ns".to_owned(), name: name.to_owned() };
            if name != "silent" {
                let _ = objects.listed(&key, if name == "m" { vec![map] } else { vec![] }, &mut out);
            }
        }
        for name in ["s", "gone"] {
            let mut secret: Secret = serde_json::from_value(json!({"metadata": meta(name)})).unwrap();
            secret.data = Some([("K".to_owned(), ByteString(b"of s, $(X)".to_vec()))].into());
            let key = WatchKey::Secret { namespace: "ns".to_owned(), name: name.to_owned() };
            let found = vec![Object::Secret(Sensitive::new(Arc::new(secret)))];
            let _ = objects.listed(&key, if name == "s" { found } else { vec![] }, &mut out);
        }
        let _ = objects.due(at(1));
        let service = json!({"metadata": {"name": "svc"}, "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 80}]}});
        let services = [Arc::new(serde_json::from_value(service).unwrap())];
        let allocatable = BTreeMap::new();
        let fields = FieldContext { pod_ips: &[], host_ips: &[], known_addresses: "[]", node_allocatable: &allocatable };
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let inputs = EnvInputs { pod: &pod, container, objects: &objects, services: &services, fields };
        let env = environment(&inputs, &mut Room::of_container())?;
        Ok(env.iter().map(|(name, value)| (name.to_owned(), String::from_utf8_lossy(value).into_owned())).collect())
    }

    fn bad(container: Value) -> String {
        match made(container) {
            Err(EnvError::Bad(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    // ENV-001: later sources win over earlier ones, env over envFrom, and all of them over services.
    #[test]
    fn later_definitions_win_and_services_only_fill_gaps() {
        let from = json!([{"configMapRef": {"name": "m"}}, {"secretRef": {"name": "s"}}]);
        assert_eq!(made(json!({"envFrom": from})).unwrap()["K"], "of s, $(X)");
        let own =
            json!([{"name": "K", "value": "one"}, {"name": "K", "value": "two"}, {"name": "SVC_SERVICE_HOST", "value": "mine"}]);
        let env = made(json!({"envFrom": from, "env": own})).unwrap();
        assert_eq!((env["K"].as_str(), env["SVC_SERVICE_HOST"].as_str()), ("two", "mine"));
        assert_eq!(env["SVC_SERVICE_PORT"], "80");
    }

    // ENV-004: every key of data, whatever it is called; none of binaryData.
    #[test]
    fn all_keys_of_a_source_come_with_its_prefix() {
        let env = made(json!({"envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}}]})).unwrap();
        let ours: Vec<&str> = env.keys().map(String::as_str).filter(|name| !name.starts_with("SVC_")).collect();
        assert_eq!(ours, ["P_A.dot", "P_K"]);
    }

    // ENV-004: optional excuses an object that is not there, and nothing else.
    #[test]
    fn optional_source_may_be_missing_but_not_unreadable() {
        let from = |kind: &str, name: &str, optional: bool| json!({"envFrom": [{kind: {"name": name, "optional": optional}}]});
        assert_eq!(bad(from("configMapRef", "gone", false)), "configmap \"gone\" not found");
        assert_eq!(bad(from("secretRef", "gone", false)), "secret \"gone\" not found");
        assert!(!made(from("configMapRef", "gone", true)).unwrap().contains_key("K"));
        assert!(!made(from("secretRef", "gone", true)).unwrap().contains_key("K"));
        assert_eq!(
            bad(from("configMapRef", "silent", true)),
            "failed to sync configmap cache: timed out waiting for the condition"
        );
    }

    fn key_of(kind: &str, object: &str, key: &str, optional: bool) -> Value {
        let reference = json!({kind: {"name": object, "key": key, "optional": optional}});
        json!({"envFrom": [{"configMapRef": {"name": "m"}}], "env": [{"name": "K", "valueFrom": reference}]})
    }

    // ENV-007
    #[test]
    fn missing_key_is_named_or_leaves_the_earlier_value() {
        assert_eq!(bad(key_of("configMapKeyRef", "m", "no", false)), "couldn't find key no in ConfigMap ns/m");
        assert_eq!(bad(key_of("secretKeyRef", "s", "no", false)), "couldn't find key no in Secret ns/s");
        for (kind, object) in
            [("configMapKeyRef", "m"), ("secretKeyRef", "s"), ("configMapKeyRef", "gone"), ("secretKeyRef", "gone")]
        {
            assert_eq!(made(key_of(kind, object, "no", true)).unwrap()["K"], "of m", "{kind} of {object}");
        }
    }

    // ENV-006: what comes from elsewhere stays as it is; only `value` is expanded.
    #[test]
    fn referenced_values_are_not_expanded() {
        let own = json!([
            {"name": "X", "value": "x"},
            {"name": "FROM", "valueFrom": {"secretKeyRef": {"name": "s", "key": "K"}}},
            {"name": "OWN", "value": "$(FROM) $(X) $(SVC_SERVICE_HOST) $(LATER)"},
            {"name": "LATER", "value": "l"}]);
        let env = made(json!({"env": own})).unwrap();
        assert_eq!(env["FROM"], "of s, $(X)");
        assert_eq!(env["OWN"], "of s, $(X) x 10.0.0.1 $(LATER)");
    }

    // ENV-005, POD-168
    #[test]
    fn known_names_are_expanded_and_the_rest_stays() {
        let look_up = |name: &str| (name == "A").then_some(Cow::Borrowed("1"));
        for (text, expanded) in [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$(A", "$(A"),
            ("a$", "a$"),
            ("$A", "$A"),
            ("$()", "$()"),
        ] {
            assert_eq!(expand(text, &mut Room::of_container(), look_up).unwrap(), expanded, "{text}");
        }
    }

    // ENV-006: 1.2 KB of spec that would be gigabytes. Upstream (third_party/forked/golang/expansion) makes them.
    #[test]
    fn variables_that_double_each_other_are_refused_before_they_are_made() {
        let mut own = vec![json!({"name": "A0", "value": "0123456789"})];
        for n in 1..=30 {
            own.push(json!({"name": format!("A{n}"), "value": format!("$(A{0})$(A{0})", n - 1)}));
        }
        let told = "the environment, command, arguments and subPaths of the container take more than 6291456 bytes, the most that is \
                    allowed";
        assert_eq!(bad(json!({"env": own})), told);
        assert!(made(json!({"env": own[..19]})).is_ok());
    }

    // ENV-005: each of a million openings would be sought an end for.
    #[test]
    fn what_is_never_closed_is_read_once() {
        let text = "$(".repeat(1 << 20);
        let looked_up = std::cell::Cell::new(0);
        let look_up = |_: &str| {
            looked_up.set(looked_up.get() + 1);
            None
        };
        assert_eq!(expand(&text, &mut Room::of_container(), look_up).unwrap(), text);
        assert_eq!(looked_up.get(), 0);
    }

    // ENV-011: as captured in the golden pod.
    #[test]
    fn service_variables_are_the_captured_ones() {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "kubernetes", "namespace": "default"},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443, "protocol": "TCP"}]},
        }))
        .unwrap();
        let expected: BTreeMap<String, String> = [
            ("KUBERNETES_PORT_443_TCP_PROTO", "tcp"),
            ("KUBERNETES_PORT_443_TCP_PORT", "443"),
            ("KUBERNETES_PORT_443_TCP_ADDR", "10.96.0.1"),
            ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
            ("KUBERNETES_SERVICE_PORT", "443"),
            ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
            ("KUBERNETES_PORT", "tcp://10.96.0.1:443"),
            ("KUBERNETES_PORT_443_TCP", "tcp://10.96.0.1:443"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
        assert_eq!(service_variables(&[Arc::new(service)]), expected);
    }
}
