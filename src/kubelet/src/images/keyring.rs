//! Decides which registry credentials a pull may use: those that match the image, best match first.
//! Upstream: pkg/credentialprovider/keyring.go, pkg/credentialprovider/secrets.
//! Differs: at most 64 credentials are tried for one image.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use proto::cri::AuthConfig;
use sha2::{Digest as _, Sha256};

use super::docker_config::{DockerConfig, Login, config_json, dockercfg};
use crate::go_json;
use crate::sensitive::Sensitive;

/// Whose credentials they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The node's: every pod may use them.
    Node,
    /// A Secret's.
    Secret(Coordinates),
    /// Those that a plugin gave for a service account.
    ServiceAccount(Coordinates),
}

/// Which object it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Coordinates {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// One login, and whose it is.
#[derive(Clone, PartialEq)]
pub struct Credential {
    /// For the runtime.
    pub auth: Sensitive<AuthConfig>,
    /// SHA-256 of what it is made of, for records.
    pub hash: String,
    /// Whose it is.
    pub source: Source,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Credential {
    fn new(login: &Login, source: &Source) -> Self {
        let (username, password) = (login.username.clone(), login.password.clone());
        let auth = Sensitive::new(AuthConfig { username, password, ..AuthConfig::default() });
        Self { auth, hash: hash(login), source: source.clone() }
    }
}

/// How many credentials are tried for one image.
pub(super) const MOST_TRIED: usize = 64;

/// The default registry, by the name that its credentials have.
const DEFAULT_REGISTRY: &str = "index.docker.io";

/// Credentials by what they are for.
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    by_location: BTreeMap<String, Vec<Credential>>,
}

impl Keyring {
    /// Puts the logins of a docker config in; what is for no place that can be is left out.
    pub fn add(&mut self, source: &Source, config: &DockerConfig) {
        for (location, login) in config {
            let Some(key) = key_of(location) else { continue };
            self.by_location.entry(key).or_default().push(Credential::new(login, source));
        }
    }

    /// The credentials for a repository (its name in full), the most specific first (POD-205).
    #[must_use]
    pub fn lookup(&self, repository: &str) -> Vec<Credential> {
        let matching = self.by_location.iter().rev().filter(|(location, _)| urls_match(location, repository));
        let found: Vec<Credential> = matching.flat_map(|(_, credentials)| credentials.iter().cloned()).collect();
        if found.is_empty() && is_of_default_registry(repository) {
            return self.by_location.get(DEFAULT_REGISTRY).cloned().unwrap_or_default();
        }
        found
    }
}

/// The credentials in these pull secrets that match the repository.
///
/// # Errors
/// One of them says that it is a docker config and is none.
pub fn of_secrets<'a>(secrets: impl IntoIterator<Item = &'a Arc<Secret>>, repository: &str) -> Result<Vec<Credential>, String> {
    let mut keyring = Keyring::default();
    for secret in secrets {
        let data = |key: &str| secret.data.as_ref().and_then(|d| d.get(key)).map(|b| b.0.as_slice()).filter(|b| !b.is_empty());
        let config = match secret.type_.as_deref() {
            Some("kubernetes.io/dockerconfigjson") => data(".dockerconfigjson").map(config_json),
            Some("kubernetes.io/dockercfg") => data(".dockercfg").map(dockercfg),
            _ => None,
        };
        let Some(config) = config else { continue };
        let (namespace, name, uid) = (&secret.metadata.namespace, &secret.metadata.name, &secret.metadata.uid);
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let source = Source::Secret(Coordinates { namespace: text(namespace), name: text(name), uid: text(uid) });
        keyring.add(&source, &config?);
    }
    Ok(keyring.lookup(repository))
}

/// What the logins of one place are kept under: host, port and path, without scheme and without `/v1/`, `/v2/` (BasicDockerKeyring.Add).
fn key_of(location: &str) -> Option<String> {
    let rest = location.strip_prefix("https://").or_else(|| location.strip_prefix("http://")).unwrap_or(location);
    let (host, path) = split_url(rest)?;
    let path = if path.starts_with("/v1/") || path.starts_with("/v2/") { &path[3..] } else { path };
    Some(if path.is_empty() || path == "/" { host.to_owned() } else { format!("{host}{path}") })
}

/// Host with port, and path, of a URL without scheme; none if it is no URL.
fn split_url(url: &str) -> Option<(&str, &str)> {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let url = &url[..end];
    let (host, path) = url.split_at(url.find('/').unwrap_or(url.len()));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let port = host.rsplit_once(':').filter(|_| !host.ends_with(']')).map_or("", |(_, port)| port);
    let odd = |c: char| c.is_ascii_control() || matches!(c, ' ' | '<' | '>' | '"' | '\\' | '^' | '`' | '{' | '|' | '}');
    (!host.contains(odd) && port.bytes().all(|b| b.is_ascii_digit())).then_some((host, path))
}

/// Whether a URL without scheme fits one whose host may have globs, label by label; the port is the same, the path a prefix.
#[must_use]
pub fn urls_match(pattern: &str, target: &str) -> bool {
    let (Some((pattern_host, pattern_path)), Some((host, path))) = (split_url(pattern), split_url(target)) else { return false };
    let split = |host: &str| match host.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name.to_owned(), port.to_owned()),
        _ => (host.to_owned(), String::new()),
    };
    let ((pattern_name, pattern_port), (name, port)) = (split(pattern_host), split(host));
    let (patterns, labels): (Vec<&str>, Vec<&str>) = (pattern_name.split('.').collect(), name.split('.').collect());
    pattern_port == port
        && patterns.len() == labels.len()
        && path.starts_with(pattern_path)
        && patterns.iter().zip(labels).all(|(pattern, label)| glob(pattern.as_bytes(), label.as_bytes()))
}

/// `*` and `?`, as filepath.Match has them for what a host's label can be. Linear but for the last star.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((after, from)) = star else { return false };
                star = Some((after, from + 1));
                p = after;
                t = from + 1;
            }
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// isDefaultRegistryMatch
fn is_of_default_registry(repository: &str) -> bool {
    match repository.split_once('/') {
        _ if repository.is_empty() || repository.starts_with('/') => false,
        None => true,
        Some((first, _)) => matches!(first, "docker.io" | DEFAULT_REGISTRY) || !first.contains(['.', ':']),
    }
}

/// hashAuthConfig: SHA-256 of the login as Go writes it in JSON, so that a kubelet's records and ours are the same.
fn hash(login: &Login) -> String {
    let fields = [("username", &login.username), ("password", &login.password), ("email", &login.email)];
    let fields: Vec<String> = fields
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("\"{name}\":{}", go_json::of(value)))
        .collect();
    sha256(&format!("{{{}}}", fields.join(",")))
}

/// In hexadecimal.
pub(super) fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;
    use serde_json::json;

    fn secret(auths: serde_json::Value) -> Arc<Secret> {
        let data = json!({"auths": auths}).to_string().into_bytes();
        Arc::new(Secret {
            type_: Some("kubernetes.io/dockerconfigjson".to_owned()),
            data: Some([(".dockerconfigjson".to_owned(), ByteString(data))].into()),
            ..Secret::default()
        })
    }

    fn users(repository: &str, auths: serde_json::Value) -> Vec<String> {
        let found = of_secrets([&secret(auths)], repository).unwrap();
        found.into_iter().map(|c| c.auth.into_inner().username).collect()
    }

    // POD-205: the most specific path first, all that match are tried.
    #[test]
    fn most_specific_match_comes_first() {
        let auths = json!({
            "r.example.com": {"username": "host", "password": "x"},
            "r.example.com/team": {"username": "team", "password": "x"},
            "https://r.example.com/v2/team/app": {"username": "app", "password": "x"},
            "other.example.com": {"username": "other", "password": "x"},
        });
        assert_eq!(users("r.example.com/team/app", auths), ["app", "team", "host"]);
    }

    // POD-205: TestURLsMatch (keyring_test.go), its table.
    #[test]
    fn host_globs_match_label_by_label() {
        for (pattern, target, matches) in [
            ("*.kubernetes.io", "prefix.kubernetes.io", true),
            ("prefix.*.io", "prefix.kubernetes.io", true),
            ("prefix.kubernetes.*", "prefix.kubernetes.io", true),
            ("*-good.kubernetes.io", "prefix-good.kubernetes.io", true),
            ("*.kubernetes.io/blah", "prefix.kubernetes.io/blah", true),
            ("prefix.*.io/foo", "prefix.kubernetes.io/foo/bar", true),
            ("*.kubernetes.io:1111/blah", "prefix.kubernetes.io:1111/blah", true),
            ("prefix.*.io:1111/foo", "prefix.kubernetes.io:1111/foo/bar", true),
            ("*.kubernetes.io", "kubernetes.io", false),
            ("*.*.kubernetes.io", "prefix.kubernetes.io", false),
            ("*kubernetes.io", "a.kubernetes.io", false),
            ("*kubernetes.io", "kubernetes.io", true),
            ("*.*.*.kubernetes.io", "a.b.c.kubernetes.io", true),
            ("kubernetes.io", "kubernetes.com", false),
            ("k*.io", "quay.io", false),
            ("*.kubernetes.io:1234/blah", "prefix.kubernetes.io:1111/blah", false),
            ("prefix.*.io/foo", "prefix.kubernetes.io:1111/foo/bar", false),
        ] {
            assert_eq!(urls_match(pattern, target), matches, "{pattern} {target}");
        }
    }

    // POD-205: TestKeyringHitWithUnqualifiedDockerHub, TestKeyringMissWithDockerHubCredentials (keyring_test.go).
    #[test]
    fn docker_hub_has_many_names() {
        let auths = json!({"https://index.docker.io/v1/": {"username": "hub", "password": "x"}});
        assert_eq!(users("docker.io/library/busybox", auths.clone()), ["hub"]);
        assert_eq!(users("google/docker-registry", auths.clone()), ["hub"]);
        assert!(users("quay.io/a/b", auths).is_empty());
    }

    // POD-205: a secret that is a docker config and cannot be read fails the pull (secretsToTrackedDockerConfigs); another kind is none.
    #[test]
    fn secret_that_cannot_be_read_is_an_error() {
        let broken = secret(json!({"r.example.com": {"auth": "bm8gY29sb24="}}));
        assert_eq!(
            of_secrets([&broken], "r.example.com/a").unwrap_err(),
            "unable to parse auth field, must be formatted as base64(username:password)"
        );
        let opaque = Arc::new(Secret { type_: Some("Opaque".to_owned()), ..Secret::clone(&broken) });
        assert!(of_secrets([&opaque], "r.example.com/a").unwrap().is_empty());
    }

    // POD-208: hashAuthConfig (keyring.go): SHA-256 of the JSON that Go makes, computed with sha256sum of
    // {"username":"user","password":"pass"} and of {"username":"a\u003cb","password":"c\u0026"}.
    #[test]
    fn hash_is_that_of_a_kubelet() {
        let of = |username: &str, password: &str| {
            hash(&Login { username: username.to_owned(), password: password.to_owned(), email: String::new() })
        };
        assert_eq!(of("user", "pass"), "cb54b00fb550d4a17c448149caa29f38f4d5a44fb87c752e43db8160af3a032a");
        assert_eq!(of("a<b", "c&"), "fdda93ff5c2ebc6481c45d21f4ed7bf648d0a37329af86f850ab334c95f0d008");
    }
}
