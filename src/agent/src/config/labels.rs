//! Which labels and taints a node may be given.
//! Upstream: cmd/kubelet/app/options/options.go (ValidateKubeletFlags), staging/src/k8s.io/kubelet/pkg/apis, pkg/util/taints.
//! Differs: nothing on purpose.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Taint;

use super::problem::Problem;

/// Labels that a kubelet may set although they are in Kubernetes' own namespaces (API-246), sorted.
const KUBELET_LABELS: [&str; 11] = [
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
const KUBELET_NAMESPACES: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

const QUALIFIED_NAME: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const SUBDOMAIN: &str = "prefix part a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

/// Checks `--node-labels`.
pub(super) fn check_node_labels(labels: &BTreeMap<String, String>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let unknown: Vec<&str> = labels.keys().map(String::as_str).filter(|key| is_kubernetes(key) && !is_kubelet_label(key)).collect();
    if !unknown.is_empty() {
        let message = format!(
            "unknown 'kubernetes.io' or 'k8s.io' labels specified with --node-labels: [{}]\n--node-labels in the 'kubernetes.io' namespace must begin with an allowed prefix ({}) or be in the specifically allowed set ({})",
            unknown.join(" "),
            KUBELET_NAMESPACES.join(", "),
            KUBELET_LABELS.join(", ")
        );
        problems.push(Problem::new("--node-labels", "", message, "set such a label through the API, or choose another prefix"));
    }
    for (key, value) in labels {
        for (text, error) in [(key, qualified_name_error(key)), (value, label_value_error(value))] {
            if let Some(error) = error {
                let message = format!("invalid node labels: '{text}' - {error}");
                problems.push(Problem::new("--node-labels", text, message, "correct the label"));
            }
        }
    }
    problems
}

fn namespace(key: &str) -> &str {
    key.split_once('/').map_or("", |(namespace, _)| namespace)
}

fn is_below(namespace: &str, parent: &str) -> bool {
    namespace.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn is_kubernetes(key: &str) -> bool {
    ["kubernetes.io", "k8s.io"].into_iter().any(|parent| is_below(namespace(key), parent))
}

fn is_kubelet_label(key: &str) -> bool {
    KUBELET_LABELS.contains(&key) || KUBELET_NAMESPACES.into_iter().any(|parent| is_below(namespace(key), parent))
}

fn is_name(text: &str, inner: impl Fn(u8) -> bool, edge: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    bytes.first().copied().is_some_and(&edge) && bytes.last().copied().is_some_and(&edge) && bytes.iter().copied().all(inner)
}

fn is_label_text(text: &str) -> bool {
    is_name(text, |byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte), |byte| byte.is_ascii_alphanumeric())
}

/// Upstream: validation.IsQualifiedName.
pub(super) fn qualified_name_error(key: &str) -> Option<String> {
    let parts: Vec<&str> = key.split('/').collect();
    let (prefix, name) = match parts.as_slice() {
        [name] => (None, *name),
        [prefix, name] => (Some(*prefix), *name),
        _ => {
            return Some("a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')".to_owned());
        }
    };
    if let Some(prefix) = prefix {
        if prefix.is_empty() {
            return Some("prefix part must be non-empty".to_owned());
        }
        let lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if prefix.len() > 253 || !prefix.split('.').all(|label| is_name(label, |byte| lower(byte) || byte == b'-', lower)) {
            return Some(SUBDOMAIN.to_owned());
        }
    }
    if name.is_empty() {
        return Some(format!("name part must be non-empty; {QUALIFIED_NAME}"));
    }
    if name.len() > 63 {
        return Some("name part must be no more than 63 characters".to_owned());
    }
    (!is_label_text(name)).then(|| QUALIFIED_NAME.to_owned())
}

/// Upstream: validation.IsValidLabelValue.
pub(super) fn label_value_error(value: &str) -> Option<String> {
    if value.len() > 63 {
        return Some("must be no more than 63 characters".to_owned());
    }
    (!value.is_empty() && !is_label_text(value)).then(|| LABEL_VALUE.to_owned())
}

/// Upstream: validateTaintEffect.
pub(super) fn taint_effect_error(effect: &str) -> Option<String> {
    let known = ["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect);
    (!known).then(|| format!("invalid taint effect: {effect}, unsupported taint effect"))
}

/// Reads `key=value:effect,key:effect`. A key with a hyphen at its end names a taint to remove, which means nothing here.
pub(super) fn parse_taints(text: &str) -> Result<Vec<Taint>, String> {
    let mut taints: Vec<Taint> = Vec::new();
    for spec in text.split(',').filter(|_| !text.is_empty()) {
        if spec.ends_with('-') {
            continue;
        }
        let invalid = || format!("invalid taint spec: {spec}");
        let (pair, effect) = spec.split_once(':').filter(|(_, effect)| !effect.contains(':')).ok_or_else(invalid)?;
        if let Some(error) = taint_effect_error(effect) {
            return Err(error);
        }
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if let Some(error) = label_value_error(value).or_else(|| qualified_name_error(key)) {
            return Err(format!("{}, {error}", invalid()));
        }
        if taints.iter().any(|taint| taint.key == key && taint.effect == effect) {
            return Err(format!("duplicated taints with the same key and effect: {spec}"));
        }
        taints.push(Taint {
            key: key.to_owned(),
            value: Some(value.to_owned()).filter(|value| !value.is_empty()),
            effect: effect.to_owned(),
            time_added: None,
        });
    }
    Ok(taints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_kubernetes_are_refused_unless_kubelets_may_set_them() {
        // API-246, NODE-047
        let labels = |key: &str| BTreeMap::from([(key.to_owned(), "a".to_owned())]);
        for key in
            ["example.com/a", "a", "node.kubernetes.io/a", "x.node.kubernetes.io/a", "kubernetes.io/arch", "notkubernetes.io/a"]
        {
            assert_eq!(check_node_labels(&labels(key)), [], "{key}");
        }
        for key in ["kubernetes.io/a", "node-role.kubernetes.io/worker", "k8s.io/a", "x.k8s.io/a"] {
            let problems = check_node_labels(&labels(key));
            assert!(problems[0].message.starts_with("unknown 'kubernetes.io' or 'k8s.io' labels"), "{key}");
            assert!(problems[0].message.contains(key));
        }
        assert_eq!(check_node_labels(&labels("a b/c")).len(), 1);
    }

    #[test]
    fn taints_read_as_upstream_reads_them() {
        let taints = parse_taints("a=b:NoSchedule,example.com/c:NoExecute").expect("valid");
        assert_eq!((taints[0].key.as_str(), taints[0].value.as_deref(), taints[0].effect.as_str()), ("a", Some("b"), "NoSchedule"));
        assert_eq!(
            (taints[1].key.as_str(), taints[1].value.as_deref(), taints[1].effect.as_str()),
            ("example.com/c", None, "NoExecute")
        );
        for text in ["a", "a=b", "a=b=c:NoSchedule", "a:b:NoSchedule", "a=b:Never", "a:NoSchedule,a:NoSchedule", "-a:NoSchedule"] {
            assert!(parse_taints(text).is_err(), "{text}");
        }
        assert_eq!(parse_taints(""), Ok(Vec::new()));
    }
}
