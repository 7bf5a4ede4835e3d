//! Decides which registry credentials a pull may use: those of the pod's pull secrets that match the image, best match first.
//! Upstream: pkg/credentialprovider/{keyring,config}.go, pkg/credentialprovider/secrets.
//! Differs: nothing on purpose.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use proto::cri::AuthConfig;
use serde::Deserialize;
use std::collections::BTreeMap;

use super::name::{registry_of, repository_of};
use crate::sensitive::Sensitive;

#[derive(Deserialize, Default)]
struct DockerConfigJson {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
    registrytoken: String,
}

/// The credentials in these secrets that match the image, most specific first (POD-205). Secrets that are no docker configs,
/// or cannot be read, give none.
#[must_use]
pub fn credentials_for<'a>(image: &str, secrets: impl IntoIterator<Item = &'a Secret>) -> Vec<Sensitive<AuthConfig>> {
    let mut matches: Vec<(String, AuthConfig)> = Vec::new();
    for secret in secrets {
        for (pattern, entry) in entries(secret) {
            if let Some(auth) = auth_of(entry)
                && matches_image(&pattern, image)
            {
                matches.push((pattern, auth));
            }
        }
    }
    // Stable: among equals the earlier secret wins.
    matches.sort_by_key(|(pattern, _)| std::cmp::Reverse(specificity(pattern)));
    matches.into_iter().map(|(_, auth)| Sensitive::new(auth)).collect()
}

fn entries(secret: &Secret) -> BTreeMap<String, Entry> {
    let data = |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice());
    match secret.type_.as_deref() {
        Some("kubernetes.io/dockerconfigjson") => data(".dockerconfigjson")
            .and_then(|bytes| serde_json::from_slice::<DockerConfigJson>(bytes).ok())
            .map(|config| config.auths)
            .unwrap_or_default(),
        Some("kubernetes.io/dockercfg") => {
            data(".dockercfg").and_then(|bytes| serde_json::from_slice(bytes).ok()).unwrap_or_default()
        }
        _ => BTreeMap::new(),
    }
}

fn auth_of(entry: Entry) -> Option<AuthConfig> {
    let (mut username, mut password) = (entry.username, entry.password);
    if !entry.auth.is_empty() {
        let decoded = STANDARD.decode(entry.auth.trim().trim_end_matches('\0')).ok()?;
        let text = String::from_utf8(decoded).ok()?;
        let (user, pass) = text.split_once(':')?;
        user.clone_into(&mut username);
        pass.trim_end_matches('\0').clone_into(&mut password);
    }
    Some(AuthConfig {
        username,
        password,
        identity_token: entry.identitytoken,
        registry_token: entry.registrytoken,
        ..AuthConfig::default()
    })
}

/// A pattern is `host[:port][/path]`; the host may hold globs that match within one label; the path is a prefix.
fn matches_image(pattern: &str, image: &str) -> bool {
    let pattern = pattern.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let pattern = pattern.strip_suffix("/v1").or_else(|| pattern.strip_suffix("/v2")).unwrap_or(pattern);
    let (host_pattern, path_pattern) = pattern.split_once('/').map_or((pattern, ""), |(h, p)| (h, p));
    let host = registry_of(image);
    let repository = repository_of(image);
    let path = match repository.strip_prefix(host).and_then(|rest| rest.strip_prefix('/')) {
        Some(path) => path.to_owned(),
        None if repository.contains('/') => repository.to_owned(),
        None => format!("library/{repository}"),
    };
    let docker_hub = |h: &str| matches!(h, "docker.io" | "index.docker.io" | "registry-1.docker.io");
    let host_matches = if docker_hub(host) { docker_hub(host_pattern) } else { host_glob(host_pattern, host) };
    host_matches && (path_pattern.is_empty() || path.starts_with(path_pattern))
}

fn host_glob(pattern: &str, host: &str) -> bool {
    let split = |h: &str| h.split_once(':').map_or((h.to_owned(), None), |(n, p)| (n.to_owned(), Some(p.to_owned())));
    let ((pattern, pattern_port), (host, port)) = (split(pattern), split(host));
    if pattern_port.is_some() && pattern_port != port || pattern_port.is_none() && port.is_some() {
        return false;
    }
    let (patterns, labels): (Vec<&str>, Vec<&str>) = (pattern.split('.').collect(), host.split('.').collect());
    patterns.len() == labels.len() && patterns.iter().zip(labels).all(|(p, l)| glob(p, l))
}

fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => {
            let Some(rest) = text.strip_prefix(head) else { return false };
            (0..=rest.len()).filter(|at| rest.is_char_boundary(*at)).any(|at| glob(tail, &rest[at..]))
        }
    }
}

/// Longer paths first, then patterns without globs, then longer ones.
fn specificity(pattern: &str) -> (usize, bool, usize) {
    let slashes = pattern.trim_start_matches("https://").matches('/').count();
    (slashes, !pattern.contains('*'), pattern.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;
    use serde_json::json;

    fn secret(auths: serde_json::Value) -> Secret {
        Secret {
            type_: Some("kubernetes.io/dockerconfigjson".to_owned()),
            data: Some([(".dockerconfigjson".to_owned(), ByteString(json!({"auths": auths}).to_string().into_bytes()))].into()),
            ..Secret::default()
        }
    }

    fn users(image: &str, auths: serde_json::Value) -> Vec<String> {
        credentials_for(image, [&secret(auths)]).into_iter().map(|a| a.into_inner().username).collect()
    }

    // POD-205: the most specific path first, all that match are tried.
    #[test]
    fn most_specific_match_comes_first() {
        let auths = json!({
            "r.example.com": {"username": "host", "password": "x"},
            "r.example.com/team": {"username": "team", "password": "x"},
            "other.example.com": {"username": "other", "password": "x"},
        });
        assert_eq!(users("r.example.com/team/app:1", auths), ["team", "host"]);
    }

    // POD-205: globs match within a label, ports exactly.
    #[test]
    fn host_globs_match_label_by_label() {
        let auths = json!({"*.example.com": {"username": "glob", "auth": STANDARD.encode("u:p")}});
        assert_eq!(users("r.example.com/a", auths.clone()), ["u"]);
        assert!(users("a.r.example.com/a", auths.clone()).is_empty());
        assert!(users("r.example.com:5000/a", auths).is_empty());
    }

    #[test]
    fn docker_hub_has_many_names() {
        let auths = json!({"https://index.docker.io/v1/": {"username": "hub", "password": "x"}});
        assert_eq!(users("busybox:1", auths), ["hub"]);
    }
}
