//! Decides whether an image name is one, and what tag it means when it names none.
//! Upstream: pkg/util/parsers/parsers.go, github.com/distribution/reference.
//! Differs: nothing on purpose.

/// An image name that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("couldn't parse image name \"{0}\": {1}")]
pub struct InvalidName(String, &'static str);

const INVALID: &str = "invalid reference format";

/// The image's name with `:latest` if it names neither tag nor digest; short names stay short (POD-200).
///
/// # Errors
/// The name is no image reference.
pub fn with_default_tag(image: &str) -> Result<String, InvalidName> {
    let error = |why| Err(InvalidName(image.to_owned(), why));
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
        if repository.chars().any(|c| c.is_ascii_uppercase()) {
            return error("invalid reference format: repository name must be lowercase");
        }
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

fn is_repository(name: &str) -> bool {
    let (host, path) = match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (Some(host), path),
        _ => (None, name),
    };
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
            "couldn't parse image name \"FOO\": invalid reference format: repository name must be lowercase"
        );
    }

    #[test]
    fn parts_are_found() {
        assert_eq!(registry_of("busybox:1"), "docker.io");
        assert_eq!(registry_of("localhost:5000/a"), "localhost:5000");
        assert_eq!(repository_of("localhost:5000/a/b:1@sha256:00"), "localhost:5000/a/b");
    }
}
