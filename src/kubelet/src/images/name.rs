//! Decides whether an image name is one, what tag it means when it names none, and which repository it stands for.
//! Upstream: pkg/util/parsers/parsers.go, github.com/distribution/reference, github.com/opencontainers/go-digest.
//! Differs: nothing on purpose.

/// An image name that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("couldn't parse image name {0:?}: {1}")]
pub struct InvalidName(String, String);

const INVALID: &str = "invalid reference format";
/// Of a repository without its registry.
const MOST_PATH: usize = 255;
const DOCKER_HUB: &str = "docker.io";

/// What an image name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reference {
    /// With the registry that is implied, and `library/` where that is.
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

/// The image's name with `:latest` if it names neither tag nor digest; short names stay short (POD-200).
///
/// # Errors
/// The name is no image reference.
pub fn with_default_tag(image: &str) -> Result<String, InvalidName> {
    let reference = parse(image)?;
    let named = reference.tag.is_some() || reference.digest.is_some();
    Ok(if named { image.to_owned() } else { format!("{image}:latest") })
}

/// The repository in full, such as `docker.io/library/busybox`: what credentials are looked up for (POD-205).
///
/// # Errors
/// The name is no image reference.
pub fn repository_of(image: &str) -> Result<String, InvalidName> {
    parse(image).map(|reference| reference.repository)
}

/// The name in full, with registry and tag: two names with the same one mean the same image. A name that is none is itself.
#[must_use]
pub fn canonical(image: &str) -> String {
    let Ok(Reference { repository, tag, digest }) = parse(image) else { return image.to_owned() };
    match (tag, digest) {
        (_, Some(digest)) => format!("{repository}@{digest}"),
        (tag, None) => format!("{repository}:{}", tag.as_deref().unwrap_or("latest")),
    }
}

/// The name as it is written, without tag and digest: what records of pulls go by (POD-208).
#[must_use]
pub fn without_tag(image: &str) -> &str {
    let rest = image.split_once('@').map_or(image, |(rest, _)| rest);
    let last_component = rest.rfind('/').map_or(0, |slash| slash + 1);
    match rest[last_component..].find(':') {
        Some(colon) => &rest[..last_component + colon],
        None => rest,
    }
}

fn parse(image: &str) -> Result<Reference, InvalidName> {
    parse_normalized(image).map_err(|why| InvalidName(image.to_owned(), why))
}

/// reference.ParseNormalizedNamed
fn parse_normalized(image: &str) -> Result<Reference, String> {
    if image.len() == 64 && image.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(format!("invalid repository name ({image}), cannot specify 64-byte hexadecimal strings"));
    }
    let (domain, remainder) = split_domain(image);
    let remote = remainder.split_once(':').map_or(remainder.as_str(), |(remote, _)| remote);
    if remote.to_lowercase() != remote {
        return Err(format!("{INVALID}: repository name ({remote}) must be lowercase"));
    }
    let (rest, digest) = match remainder.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (remainder.as_str(), None),
    };
    let (path, tag) = match rest.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (rest, None),
    };
    let well_formed =
        is_domain(&domain) && path.split('/').all(is_component) && tag.is_none_or(is_tag) && digest.is_none_or(looks_like_a_digest);
    if !well_formed {
        return Err(INVALID.to_owned());
    }
    if path.len() > MOST_PATH {
        return Err(format!("repository name must not be more than {MOST_PATH} characters"));
    }
    digest.map_or(Ok(()), check_digest)?;
    let (tag, digest) = (tag.map(str::to_owned), digest.map(str::to_owned));
    Ok(Reference { repository: format!("{domain}/{path}"), tag, digest })
}

/// The registry that a name begins with, or that it implies, and the rest.
fn split_domain(image: &str) -> (String, String) {
    let (domain, rest) = match image.split_once('/') {
        Some(("index.docker.io", rest)) => (DOCKER_HUB, rest),
        Some((first, rest)) if first == "localhost" || first.contains(['.', ':']) || first.to_lowercase() != first => (first, rest),
        _ => (DOCKER_HUB, image),
    };
    let official = domain == DOCKER_HUB && !rest.contains('/');
    (domain.to_owned(), if official { format!("library/{rest}") } else { rest.to_owned() })
}

fn is_domain(domain: &str) -> bool {
    let label = |l: &str| {
        !l.is_empty() && l.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') && !l.starts_with('-') && !l.ends_with('-')
    };
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    if let Some((address, rest)) = domain.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let is_address = !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
        return is_address && (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port));
    }
    let (name, port) = domain.split_once(':').map_or((domain, None), |(name, port)| (name, Some(port)));
    name.split('.').all(label) && port.is_none_or(is_port)
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

fn looks_like_a_digest(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else { return false };
    let component = |c: &str| c.starts_with(|c: char| c.is_ascii_alphabetic()) && c.bytes().all(|b| b.is_ascii_alphanumeric());
    algorithm.split(['-', '_', '+', '.']).all(component) && hex.len() >= 32 && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

/// digest.Parse
fn check_digest(digest: &str) -> Result<(), String> {
    let (algorithm, hex) = digest.split_once(':').unwrap_or((digest, ""));
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err("unsupported digest algorithm".to_owned()),
    };
    if hex.len() != length {
        return Err("invalid checksum digest length".to_owned());
    }
    if !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err("invalid checksum digest format".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:50f60b6643f489bc27d38eda2a0a8d5d7da0df7dde59ea101413ad6df76eb16c";

    // POD-200
    #[test]
    fn name_without_tag_means_latest() {
        let with_digest = format!("a@{DIGEST}");
        for (given, meant) in [
            ("busybox", "busybox:latest"),
            ("busybox:1", "busybox:1"),
            ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
            ("[::1]:5000/a", "[::1]:5000/a:latest"),
            ("registry.k8s.io/pause:3.10.1", "registry.k8s.io/pause:3.10.1"),
            (&with_digest, &with_digest),
        ] {
            assert_eq!(with_default_tag(given).as_deref(), Ok(meant));
        }
    }

    // POD-200: InvalidImageName
    #[test]
    fn what_is_no_name_is_refused() {
        for bad in ["", "a b", "-a", "a..b", "a/", "a:", "a@sha256:12", "http://x/y", "x:y:z"] {
            assert!(with_default_tag(bad).is_err(), "{bad:?}");
        }
    }

    // POD-200, C9: the words of golden 153, and of reference and go-digest (errors of normalize.go, reference.go, digest.go).
    #[test]
    fn why_a_name_is_none_is_told_in_upstreams_words() {
        let why = |image: &str| with_default_tag(image).unwrap_err().to_string();
        assert_eq!(
            why("127.0.0.1:5999/UPPER/case:1"),
            "couldn't parse image name \"127.0.0.1:5999/UPPER/case:1\": invalid reference format: repository name (UPPER/case) must be lowercase"
        );
        assert_eq!(why("a b"), "couldn't parse image name \"a b\": invalid reference format");
        assert_eq!(
            why("FOO"),
            "couldn't parse image name \"FOO\": invalid reference format: repository name (library/FOO) must be lowercase"
        );
        assert!(why(&"a".repeat(64)).ends_with("), cannot specify 64-byte hexadecimal strings"));
        assert!(why(&"a".repeat(256)).ends_with("repository name must not be more than 255 characters"));
        assert!(why("a@sha257:50f60b6643f489bc27d38eda2a0a8d5d").ends_with("unsupported digest algorithm"));
        assert!(why("a@sha256:50f60b6643f489bc27d38eda2a0a8d5d").ends_with("invalid checksum digest length"));
    }

    // TestParseImageName (parsers_test.go)
    #[test]
    fn repository_is_named_in_full() {
        for (image, repository) in [
            ("root", "docker.io/library/root"),
            ("user/app:1", "docker.io/user/app"),
            ("docker.io/busybox", "docker.io/library/busybox"),
            ("index.docker.io/a/b", "docker.io/a/b"),
            ("localhost:5000/a/b:1", "localhost:5000/a/b"),
            ("gcr.io/k/app@sha256:50f60b6643f489bc27d38eda2a0a8d5d7da0df7dde59ea101413ad6df76eb16c", "gcr.io/k/app"),
        ] {
            assert_eq!(repository_of(image).as_deref(), Ok(repository));
        }
        assert_eq!(canonical("busybox"), canonical("docker.io/library/busybox:latest"));
        assert_ne!(canonical("busybox"), canonical("busybox:1"));
    }

    // POD-208: as trimImageTagDigest (image_pull_policies.go) does it.
    #[test]
    fn tag_and_digest_are_cut_off_as_written() {
        let full = format!("localhost:5000/a/b:1@{DIGEST}");
        for (image, trimmed) in [("busybox:1", "busybox"), ("localhost:5000/a", "localhost:5000/a"), (&full, "localhost:5000/a/b")]
        {
            assert_eq!(without_tag(image), trimmed);
        }
    }
}
