//! Decides whether an image name is one, and what tag it means when it names none.
//! Upstream: pkg/util/parsers/parsers.go, github.com/distribution/reference.
//! Differs: nothing on purpose.

/// An image name that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("couldn't parse image name \"{0}\": {1}")]
pub struct InvalidName(String, String);

const INVALID: &str = "invalid reference format";

/// The image's name with `:latest` if it names neither tag nor digest; short names stay short (POD-200).
///
/// # Errors
/// The name is no image reference.
pub fn with_default_tag(image: &str) -> Result<String, InvalidName> {
    let error = |why: &str| Err(InvalidName(image.to_owned(), why.to_owned()));
    if image.len() == 64 && image.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)) {
        return error(&format!("invalid repository name ({image}), cannot specify 64-byte hexadecimal strings"));
    }
    let remote = remote_name(image);
    if remote.to_lowercase() != remote {
        return error(&format!("{INVALID}: repository name ({remote}) must be lowercase"));
    }
    let (rest, digest) = match image.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (image, None),
    };
    let last_component = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (repository, tag) = match rest[last_component..].split_once(':') {
        Some((name, tag)) => (&rest[..last_component + name.len()], Some(tag)),
        None => (rest, None),
    };
    if !is_repository(repository) {
        return error(INVALID);
    }
    if tag.is_some_and(|tag| !is_tag(tag)) || digest.is_some_and(|digest| !is_digest(digest)) {
        return error(INVALID);
    }
    Ok(if tag.is_none() && digest.is_none() { format!("{image}:latest") } else { image.to_owned() })
}

/// The registry's host, as the reference names it or as it is implied.
#[must_use]
pub fn registry_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "docker.io",
    }
}

/// The repository without tag and digest.
#[must_use]
pub fn repository_of(image: &str) -> &str {
    let rest = image.split_once('@').map_or(image, |(rest, _)| rest);
    let last_component = rest.rfind('/').map_or(0, |slash| slash + 1);
    match rest[last_component..].find(':') {
        Some(colon) => &rest[..last_component + colon],
        None => rest,
    }
}

/// The registry's host, if the name begins with one, and the rest (upstream's splitDockerDomain).
fn split_host(name: &str) -> (Option<&str>, &str) {
    let is_host = |first: &str| first.contains(['.', ':']) || first == "localhost" || first.to_lowercase() != first;
    match name.split_once('/') {
        Some((host, path)) if is_host(host) => (Some(host), path),
        _ => (None, name),
    }
}

/// The repository on its registry, as upstream's ParseNormalizedNamed takes it from a name: up to the first colon.
fn remote_name(image: &str) -> String {
    let (host, path) = split_host(image);
    let on_hub = host.is_none_or(|host| host == "docker.io" || host == "index.docker.io");
    let remote = path.split(':').next().unwrap_or_default();
    if on_hub && !path.contains('/') { format!("library/{remote}") } else { remote.to_owned() }
}

fn is_repository(name: &str) -> bool {
    let (host, path) = split_host(name);
    host.is_none_or(is_host) && !path.is_empty() && path.split('/').all(is_component)
}

fn is_host(host: &str) -> bool {
    let (name, port) = host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
    let label = |l: &str| {
        !l.is_empty() && l.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') && !l.starts_with('-') && !l.ends_with('-')
    };
    name.split('.').all(label) && port.is_none_or(|p| !p.is_empty() && p.chars().all(|c| c.is_ascii_digit()))
}

/// Lower-case letters and digits, with single separators `.`, `_`, `__` or any number of `-` within.
fn is_component(component: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let mut runs = component.split(inner).filter(|run| !run.is_empty());
    component.starts_with(inner)
        && component.ends_with(inner)
        && runs.all(|run| run == "." || run == "_" || run == "__" || run.chars().all(|c| c == '-'))
}

fn is_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.len() <= 128 && tag.starts_with(word) && tag.chars().all(|c| word(c) || c == '.' || c == '-')
}

fn is_digest(digest: &str) -> bool {
    digest
        .split_once(':')
        .is_some_and(|(algorithm, hex)| !algorithm.is_empty() && hex.len() >= 32 && hex.chars().all(|c| c.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    // POD-200
    #[test]
    fn name_without_tag_means_latest() {
        for (given, meant) in [
            ("busybox", "busybox:latest"),
            ("busybox:1", "busybox:1"),
            ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
            ("registry.k8s.io/pause:3.10.1", "registry.k8s.io/pause:3.10.1"),
            (
                "a@sha256:50f60b6643f489bc27d38eda2a0a8d5d7da0df7dde59ea101413ad6df76eb16c",
                "a@sha256:50f60b6643f489bc27d38eda2a0a8d5d7da0df7dde59ea101413ad6df76eb16c",
            ),
        ] {
            assert_eq!(with_default_tag(given).as_deref(), Ok(meant));
        }
    }

    // POD-200: InvalidImageName
    #[test]
    fn what_is_no_name_is_refused() {
        for bad in ["", "a b", "-a", "a..b", "a/", "a:", "FOO", "a@sha256:12", "http://x/y"] {
            assert!(with_default_tag(bad).is_err(), "{bad:?}");
        }
        assert_eq!(
            with_default_tag("FOO").unwrap_err().to_string(),
            "couldn't parse image name \"FOO\": invalid reference format: repository name (library/FOO) must be lowercase"
        );
        // As a kubelet 1.36.2 was recorded (153).
        assert_eq!(
            with_default_tag("127.0.0.1:5999/UPPER/case:1").unwrap_err().to_string(),
            "couldn't parse image name \"127.0.0.1:5999/UPPER/case:1\": invalid reference format: repository name (UPPER/case) must be \
             lowercase"
        );
        for bad in ["a b", "x:y:z"] {
            let expected = format!("couldn't parse image name \"{bad}\": invalid reference format");
            assert_eq!(with_default_tag(bad).unwrap_err().to_string(), expected);
        }
        // github.com/distribution/reference: normalize.go (ParseNormalizedNamed).
        let id = "50f60b6643f489bc27d38eda2a0a8d5d7da0df7dde59ea101413ad6df76eb16c";
        assert_eq!(
            with_default_tag(id).unwrap_err().to_string(),
            format!(
                "couldn't parse image name \"{id}\": invalid repository name ({id}), cannot specify 64-byte hexadecimal strings"
            )
        );
    }

    #[test]
    fn parts_are_found() {
        assert_eq!(registry_of("busybox:1"), "docker.io");
        assert_eq!(registry_of("localhost:5000/a"), "localhost:5000");
        assert_eq!(repository_of("localhost:5000/a/b:1@sha256:00"), "localhost:5000/a/b");
    }
}
