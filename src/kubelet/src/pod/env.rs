//! Decides a container's environment, and what `$(NAME)` stands for in commands and arguments.
//! Upstream: pkg/kubelet/kubelet_pods.go (makeEnvironmentVariables), pkg/kubelet/envvars, third_party/forked/golang/expansion.
//! Differs: the order is fixed: service variables by name, then those of the spec in their order.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod, Secret, Service};

use super::fields::{FieldContext, resource_field};
use crate::cache::{Lookup, ObjectCache};
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
    fn set(&mut self, name: &str, value: Vec<u8>) {
        if self.values.insert(name.to_owned(), value).is_none() {
            self.names.push(name.to_owned());
        }
    }

    /// A variable's value.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.values.get(name).map(Vec::as_slice)
    }

    /// All variables.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.names.iter().map(|name| (name.as_str(), self.values[name].as_slice()))
    }
}

/// The container's environment (ENV-001): envFrom, then env; service variables fill what is not set.
///
/// # Errors
/// A required reference that is missing, or one that is not known yet.
pub fn environment(inputs: &EnvInputs<'_>) -> Result<Environment, EnvError> {
    let services = service_variables(inputs.services);
    let mut env = Environment::default();
    from_sources(inputs, &mut env)?;
    for variable in inputs.container.env.iter().flatten() {
        if let Some(value) = value_of(inputs, variable, &env, &services)? {
            env.set(&variable.name, value);
        }
    }
    let mut all = Environment::default();
    for (name, value) in &services {
        if env.get(name).is_none() {
            all.set(name, value.clone().into_bytes());
        }
    }
    for (name, value) in env.iter() {
        all.set(name, value.to_vec());
    }
    Ok(all)
}

fn namespace<'a>(inputs: &EnvInputs<'a>) -> &'a str {
    inputs.pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// ENV-004
fn from_sources(inputs: &EnvInputs<'_>, env: &mut Environment) -> Result<(), EnvError> {
    for source in inputs.container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref {
            let optional = reference.optional.unwrap_or(false);
            if let Some(map) = config_map(inputs, &reference.name, optional)? {
                for (key, value) in map.data.iter().flatten() {
                    env.set(&format!("{prefix}{key}"), value.clone().into_bytes());
                }
            }
        } else if let Some(reference) = &source.secret_ref {
            let optional = reference.optional.unwrap_or(false);
            if let Some(secret) = secret(inputs, &reference.name, optional)? {
                for (key, ByteString(value)) in secret.reveal().data.iter().flatten() {
                    env.set(&format!("{prefix}{key}"), value.clone());
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
) -> Result<Option<Vec<u8>>, EnvError> {
    if let Some(source) = &variable.value_from {
        return from_source(inputs, source);
    }
    let look_up = |name: &str| {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        env.get(name).map(text).or_else(|| services.get(name).cloned())
    };
    Ok(Some(expand(variable.value.as_deref().unwrap_or_default(), look_up).into_bytes()))
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
#[must_use]
pub fn expand(text: &str, look_up: impl Fn(&str) -> Option<String>) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            expanded.push('$');
            rest = after;
        } else if let Some(end) = rest.strip_prefix('(').and_then(|inner| inner.find(')')) {
            let name = &rest[1..=end];
            match look_up(name) {
                Some(value) => expanded.push_str(&value),
                None => expanded.push_str(&format!("$({name})")),
            }
            rest = &rest[end + 2..];
        } else {
            expanded.push('$');
        }
    }
    expanded.push_str(rest);
    expanded
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
    use super::*;
    use serde_json::json;

    // ENV-005, POD-168
    #[test]
    fn known_names_are_expanded_and_the_rest_stays() {
        let look_up = |name: &str| (name == "A").then(|| "1".to_owned());
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
            assert_eq!(expand(text, look_up), expanded, "{text}");
        }
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
