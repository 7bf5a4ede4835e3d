//! Which objects a list or a watch is about: label and field selectors.
//! Upstream: k8s.io/apimachinery/pkg/labels, k8s.io/apimachinery/pkg/fields.
//! Differs: nothing on purpose.

use std::collections::BTreeMap;

use serde_json::Value;

use super::error::ApiError;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

/// A label selector and a field selector. The default selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<(String, bool, String)>,
}

impl Selector {
    /// Parses `labelSelector` and `fieldSelector` as a query has them, for objects of that resource.
    ///
    /// # Errors
    /// 400 if one cannot be parsed or names a field that the resource does not select by.
    pub fn parse(plural: &str, labels: &str, fields: &str) -> Result<Self, ApiError> {
        let mut selector = Self::default();
        for part in split_top_level(labels) {
            selector.labels.push(parse_label(part)?);
        }
        for part in fields.split(',').filter(|p| !p.is_empty()) {
            let (path, equal, value) = parse_field(part)?;
            if !field_is_known(plural, path) {
                return Err(ApiError::bad_request(format!(
                    "Unable to find {plural:?} that match label selector {labels:?}, field selector {fields:?}: field label not \
                     supported: {path}"
                )));
            }
            selector.fields.push((path.to_owned(), equal, value.to_owned()));
        }
        Ok(selector)
    }

    /// A selector of one field's value.
    #[must_use]
    pub fn field(path: &str, value: &str) -> Self {
        Self { labels: Vec::new(), fields: vec![(path.to_owned(), true, value.to_owned())] }
    }

    /// A selector as specs have it: `matchLabels` and `matchExpressions`. `None` if it selects by something unknown.
    #[must_use]
    pub fn of_spec(spec: &Value) -> Option<Self> {
        let mut labels = Vec::new();
        for (key, value) in spec["matchLabels"].as_object().into_iter().flatten() {
            labels.push(Requirement::In(key.clone(), vec![value.as_str()?.to_owned()]));
        }
        for expression in spec["matchExpressions"].as_array().into_iter().flatten() {
            let key = expression["key"].as_str()?.to_owned();
            let values =
                || expression["values"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
            labels.push(match expression["operator"].as_str()? {
                "In" => Requirement::In(key, values()),
                "NotIn" => Requirement::NotIn(key, values()),
                "Exists" => Requirement::Exists(key),
                "DoesNotExist" => Requirement::Absent(key),
                _ => return None,
            });
        }
        Some(Self { labels, fields: Vec::new() })
    }

    /// Whether it selects this object.
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        let labels: BTreeMap<&str, &str> = object["metadata"]["labels"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(k, v)| Some((k.as_str(), v.as_str()?)))
            .collect();
        self.labels.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => labels.get(key.as_str()).is_some_and(|v| values.iter().any(|x| x == v)),
            Requirement::NotIn(key, values) => labels.get(key.as_str()).is_none_or(|v| !values.iter().any(|x| x == v)),
            Requirement::Exists(key) => labels.contains_key(key.as_str()),
            Requirement::Absent(key) => !labels.contains_key(key.as_str()),
        }) && self.fields.iter().all(|(path, equal, value)| (field_of(object, path) == *value) == *equal)
    }

    /// The value that a field must have, if the selector demands one.
    #[must_use]
    pub fn required(&self, path: &str) -> Option<&str> {
        self.fields.iter().find(|(p, equal, _)| p == path && *equal).map(|(_, _, value)| value.as_str())
    }
}

fn field_of(object: &Value, path: &str) -> String {
    let mut at = object;
    for part in path.split('.') {
        at = &at[part];
    }
    match at {
        Value::String(text) => text.clone(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        _ if path == "spec.unschedulable" || path == "spec.hostNetwork" => "false".to_owned(),
        _ => String::new(),
    }
}

fn field_is_known(plural: &str, path: &str) -> bool {
    matches!(path, "metadata.name" | "metadata.namespace")
        || match plural {
            "pods" => matches!(
                path,
                "spec.nodeName"
                    | "spec.restartPolicy"
                    | "spec.schedulerName"
                    | "spec.serviceAccountName"
                    | "spec.hostNetwork"
                    | "status.phase"
                    | "status.podIP"
                    | "status.nominatedNodeName"
            ),
            "nodes" => path == "spec.unschedulable",
            "services" => matches!(path, "spec.clusterIP" | "spec.type"),
            "secrets" => path == "type",
            "namespaces" => path == "status.phase",
            "replicasets" => path == "status.replicas",
            "resourceslices" => matches!(path, "spec.nodeName" | "spec.driver"),
            "events" => {
                path.starts_with("involvedObject.")
                    || matches!(path, "reason" | "type" | "reportingComponent" | "source" | "source.component")
            }
            _ => false,
        }
}

fn parse_field(part: &str) -> Result<(&str, bool, &str), ApiError> {
    if let Some((path, value)) = part.split_once("!=") {
        return Ok((path, false, value));
    }
    let (path, value) = part
        .split_once('=')
        .ok_or_else(|| ApiError::bad_request(format!("invalid field selector: {part:?}; can't understand it")))?;
    Ok((path, true, value.strip_prefix('=').unwrap_or(value)))
}

fn parse_label(part: &str) -> Result<Requirement, ApiError> {
    let part = part.trim();
    let own = |text: &str| text.trim().to_owned();
    if let Some(key) = part.strip_prefix('!') {
        return Ok(Requirement::Absent(own(key)));
    }
    if let Some((head, list)) = part.split_once('(') {
        let list = list
            .trim_end()
            .strip_suffix(')')
            .ok_or_else(|| ApiError::bad_request(format!("unable to parse requirement: {part}")))?;
        let values = list.split(',').map(own).collect();
        let mut words = head.split_whitespace();
        return match (words.next(), words.next(), words.next()) {
            (Some(key), Some("in"), None) => Ok(Requirement::In(own(key), values)),
            (Some(key), Some("notin"), None) => Ok(Requirement::NotIn(own(key), values)),
            _ => Err(ApiError::bad_request(format!("unable to parse requirement: {part}"))),
        };
    }
    if let Some((key, value)) = part.split_once("!=") {
        return Ok(Requirement::NotIn(own(key), vec![own(value)]));
    }
    if let Some((key, value)) = part.split_once('=') {
        return Ok(Requirement::In(own(key), vec![own(value.strip_prefix('=').unwrap_or(value))]));
    }
    Ok(Requirement::Exists(own(part)))
}

fn split_top_level(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0_u32, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts.retain(|p| !p.trim().is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn label_selectors_select_as_kubectl_writes_them() {
        let pod = json!({"metadata": {"name": "a", "labels": {"app": "web", "tier": "front"}}});
        let selects = |text: &str| Selector::parse("pods", text, "").unwrap().matches(&pod);
        for text in ["", "app=web", "app==web,tier", "app in (web, db)", "!gone", "app!=db", "none notin (a,b),app"] {
            assert!(selects(text), "{text}");
        }
        for text in ["app=db", "gone", "!app", "app notin (web)", "app=web,tier=back"] {
            assert!(!selects(text), "{text}");
        }
    }

    #[test]
    fn field_selectors_know_only_the_fields_of_their_resource() {
        let pod = json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n1"}});
        assert!(Selector::parse("pods", "", "spec.nodeName=n1,metadata.name!=b").unwrap().matches(&pod));
        assert!(!Selector::parse("pods", "", "spec.nodeName=").unwrap().matches(&pod));
        assert_eq!(Selector::parse("configmaps", "", "spec.nodeName=n1").unwrap_err().code, 400);
    }
}
