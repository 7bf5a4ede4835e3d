//! The URLs of probes: made from a spec, resolved against one another, and written as a request asks for them.
//! Upstream: pkg/probe/http/request.go (formatURL) and Go's net/url, whose leniency specs and servers rely on.
//! Differs: a blank or a byte beyond ASCII in a query is escaped, where Go writes it as it is and breaks the request.

use std::fmt;
use std::fmt::Write as _;

use crate::go_text::quote;

/// An absolute URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) https: bool,
    /// Without brackets.
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
    /// Escaped; empty, or with a leading slash.
    path: String,
    query: Option<String>,
    fragment: Option<String>,
}

/// User and password.
pub(crate) type Login = (Vec<u8>, Vec<u8>);

/// A URL that may be relative.
#[derive(Debug, PartialEq, Eq)]
struct Reference<'a> {
    scheme: Option<&'a str>,
    authority: Option<&'a str>,
    path: String,
    query: Option<String>,
    fragment: Option<String>,
}

/// Why a redirect cannot be followed, in Go's words.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unresolved {
    Malformed,
    /// Nothing that HTTP can be spoken over: the scheme, and the host that it leads to.
    Scheme(String, String),
}

impl Unresolved {
    /// The same as an error of the request that was answered with that location.
    pub(crate) fn told(&self, location: &str) -> String {
        match self {
            Self::Malformed => format!("failed to parse Location header {}", quote(location.as_bytes())),
            Self::Scheme(scheme, _) => format!("unsupported protocol scheme {}", quote(scheme.as_bytes())),
        }
    }
}

impl Url {
    /// What a spec asks for. A path that is no URL is taken for a path as it is.
    pub(crate) fn of_spec(https: bool, host: &str, port: u16, path: &str) -> Self {
        let reference = Reference::parse(path);
        let (path, query, fragment) =
            reference.map_or_else(|| (escape(path.as_bytes()), None, None), |r| (r.path, r.query, r.fragment));
        let path = if path.is_empty() || path.starts_with('/') { path } else { format!("/{path}") };
        Self { https, host: host.to_owned(), port: Some(port), path, query, fragment }
    }

    /// A URL as somebody wrote it, and what stands before its host: user and password, decoded.
    ///
    /// # Errors
    /// If it is none that can be asked, without its text, for there may be a password in it.
    pub(crate) fn parse(text: &str) -> Result<(Self, Option<Login>), String> {
        let reference = Reference::parse(text).ok_or("it is no URL")?;
        let https = match reference.scheme.map(str::to_ascii_lowercase).as_deref() {
            Some("http") => false,
            Some("https") => true,
            other => return Err(format!("unsupported protocol scheme {}", quote(other.unwrap_or_default().as_bytes()))),
        };
        let authority = reference.authority.filter(|authority| !authority.is_empty()).ok_or("http: no Host in request URL")?;
        let login = login_in(authority).map(|login| login.ok_or("net/url: invalid userinfo")).transpose()?;
        let (host, port) = split_authority(authority).ok_or("it has no valid host or port")?;
        Ok((Self { https, host, port, path: reference.path, query: reference.query, fragment: reference.fragment }, login))
    }

    /// The same without what may be secret in it, for logs.
    pub(crate) fn told(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority(), self.path)
    }

    /// Where a `Location` of an answer to this URL leads (POD-247).
    pub(crate) fn resolve(&self, location: &str) -> Result<Self, Unresolved> {
        if let Some((Some(scheme), rest)) = split_scheme(location)
            && !rest.starts_with('/')
            && !matches!(scheme.to_ascii_lowercase().as_str(), "http" | "https")
        {
            // What Go calls opaque: it leads to no host.
            return Err(Unresolved::Scheme(scheme.to_owned(), String::new()));
        }
        let reference = Reference::parse(location).ok_or(Unresolved::Malformed)?;
        let https = match reference.scheme.map(str::to_ascii_lowercase).as_deref() {
            None => self.https,
            Some("http") => false,
            Some("https") => true,
            Some(other) => {
                let host = reference.authority.and_then(split_authority).map(|(host, _)| host);
                return Err(Unresolved::Scheme(other.to_owned(), host.unwrap_or_default()));
            }
        };
        let (host, port) = match reference.authority {
            Some(authority) => split_authority(authority).ok_or(Unresolved::Malformed)?,
            None if reference.scheme.is_some() => return Err(Unresolved::Malformed),
            None => (self.host.clone(), self.port),
        };
        let absolute = reference.authority.is_some();
        let path = if absolute { resolve_path(&reference.path, "") } else { resolve_path(&self.path, &reference.path) };
        let same_document = !absolute && reference.path.is_empty() && reference.query.is_none();
        let query = if same_document { self.query.clone() } else { reference.query };
        Ok(Self { https, host, port, path, query, fragment: reference.fragment })
    }

    /// Who asks after a redirect there: a location with a host of its own has its own login or none, any other keeps that of the URL
    /// before (net/url, ResolveReference).
    pub(crate) fn login_after(kept: Option<Login>, location: &str) -> Option<Login> {
        match Reference::parse(location)?.authority {
            Some(authority) => login_in(authority).flatten(),
            None => kept,
        }
    }

    /// The port that is connected to.
    pub(crate) fn port(&self) -> u16 {
        self.port.unwrap_or(if self.https { 443 } else { 80 })
    }

    /// Host and port, as the header `Host` has them.
    pub(crate) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        self.port.map_or_else(|| host.clone(), |port| format!("{host}:{port}"))
    }

    /// The target in the first line of the request.
    pub(crate) fn request_target(&self) -> String {
        let path = if self.path.is_empty() { "/" } else { &self.path };
        self.query.as_ref().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"))
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)?;
        self.query.iter().try_for_each(|query| write!(f, "?{query}"))?;
        self.fragment.iter().try_for_each(|fragment| write!(f, "#{fragment}"))
    }
}

impl<'a> Reference<'a> {
    /// `None` for what Go's parser refuses.
    fn parse(text: &'a str) -> Option<Self> {
        if text.bytes().any(|byte| byte.is_ascii_control()) {
            return None;
        }
        let (rest, fragment) = text.split_once('#').map_or((text, None), |(rest, fragment)| (rest, Some(fragment)));
        let (scheme, rest) = split_scheme(rest)?;
        let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
        if !rest.starts_with('/') {
            let first = rest.split('/').next().unwrap_or_default();
            if scheme.is_some() || first.contains(':') {
                return None;
            }
        }
        let (authority, path) = match rest.strip_prefix("//") {
            Some(rest) if scheme.is_some() || !rest.starts_with('/') => {
                let end = rest.find('/').unwrap_or(rest.len());
                (Some(&rest[..end]), &rest[end..])
            }
            _ => (None, rest),
        };
        let fragment = fragment.filter(|f| !f.is_empty()).map(|f| unescape(f).map(|_| f.to_owned()));
        let fragment = match fragment {
            Some(None) => return None,
            Some(fragment) => fragment,
            None => None,
        };
        Some(Self { scheme, authority, path: escaped_path(path)?, query: query.map(escaped_query), fragment })
    }
}

fn split_scheme(text: &str) -> Option<(Option<&str>, &str)> {
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' if at == 0 => return None,
            b':' => return Some((Some(&text[..at]), &text[at + 1..])),
            _ => break,
        }
    }
    Some((None, text))
}

/// The login in an authority, if there is one; `Some(None)` if it cannot be read.
fn login_in(authority: &str) -> Option<Option<Login>> {
    let (login, _) = authority.rsplit_once('@')?;
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    Some(unescape(user).zip(unescape(password)))
}

/// Host without brackets, and port. `None` if it is none.
fn split_authority(authority: &str) -> Option<(String, Option<u16>)> {
    let host_port = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (host, port) = match host_port.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => host_port.split_at(host_port.find(':').unwrap_or(host_port.len())),
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => None,
        None => return None,
        Some("") => None,
        Some(digits) => Some(digits.parse().ok()?),
    };
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

fn resolve_path(base: &str, reference: &str) -> String {
    let full = if reference.is_empty() {
        base.to_owned()
    } else if reference.starts_with('/') {
        reference.to_owned()
    } else {
        let directory = base.rfind('/').map_or("", |at| &base[..=at]);
        format!("{directory}{reference}")
    };
    let mut kept: Vec<&str> = Vec::new();
    let segments: Vec<&str> = full.trim_start_matches('/').split('/').collect();
    for (at, segment) in segments.iter().enumerate() {
        let last = at + 1 == segments.len();
        match *segment {
            "." | ".." => {
                if *segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            segment => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

/// A path as it goes over the wire: as it was written, if that is right, else escaped anew. `None` if an escape in it is broken.
fn escaped_path(path: &str) -> Option<String> {
    let plain = unescape(path)?;
    let as_written = path.bytes().all(|byte| byte == b'%' || b"!'()*[]".contains(&byte) || stays(byte));
    Some(if as_written { path.to_owned() } else { escape(&plain) })
}

fn escaped_query(query: &str) -> String {
    let mut escaped = String::with_capacity(query.len());
    for byte in query.bytes() {
        if byte.is_ascii_graphic() { escaped.push(char::from(byte)) } else { push_escaped(&mut escaped, byte) }
    }
    escaped
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%' {
            let digits = bytes.get(at + 1..at + 3).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
            plain.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            at += 3;
        } else {
            plain.push(bytes[at]);
            at += 1;
        }
    }
    Some(plain)
}

fn escape(plain: &[u8]) -> String {
    let mut escaped = String::with_capacity(plain.len());
    for &byte in plain {
        if stays(byte) { escaped.push(char::from(byte)) } else { push_escaped(&mut escaped, byte) }
    }
    escaped
}

/// What a path may hold as it is.
fn stays(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte)
}

fn push_escaped(text: &mut String, byte: u8) {
    // Writing to a String cannot fail.
    let _ = write!(text, "%{byte:02X}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(path: &str) -> Url {
        Url::of_spec(false, "10.0.0.2", 8080, path)
    }

    // POD-247; the first line as recorded of the kubelet (case 092), the others as Go's net/url makes them.
    #[test]
    fn path_of_a_spec_is_escaped_as_go_does() {
        let target = |path| spec(path).request_target();
        assert_eq!(target("/a b?x=1&y=%20#frag"), "/a%20b?x=1&y=%20");
        assert_eq!(target("rel"), "/rel");
        assert_eq!(target(""), "/");
        assert_eq!(target("/a%2Fb/(c)*"), "/a%2Fb/(c)*");
        assert_eq!(target("/a%zz?b"), "/a%25zz%3Fb");
        assert_eq!(target("/\u{fc}"), "/%C3%BC");
        assert_eq!(target("/?"), "/?");
        assert_eq!(target("/a\tb"), "/a%09b");
        assert_eq!(target("http://elsewhere:1/x"), "/x");
        assert_eq!(target("//elsewhere/x"), "/x");
        assert_eq!(target("/q?a b"), "/q?a%20b");
        assert_eq!(spec("/x#y").to_string(), "http://10.0.0.2:8080/x#y");
    }

    // POD-247; R6 of the cluster cases: relative, query-only and scheme-relative locations.
    #[test]
    fn redirects_are_resolved_as_go_does() {
        let from = spec("/a/b?c=d");
        let to = |location| from.resolve(location).map(|url| url.to_string());
        let at = |path: &str| Ok(format!("http://10.0.0.2:8080{path}"));
        assert_eq!(to("/x?y=z"), at("/x?y=z"));
        assert_eq!(to("sick"), at("/a/sick"));
        assert_eq!(to("?ready=no"), at("/a/b?ready=no"));
        assert_eq!(to("../x/./y/.."), at("/x/"));
        assert_eq!(to("../../../x"), at("/x"));
        assert_eq!(to("#f"), at("/a/b?c=d#f"));
        assert_eq!(to("//10.0.0.2/x"), Ok("http://10.0.0.2/x".to_owned()));
        assert_eq!(to("HTTPS://[fd00::1]:8443"), Ok("https://[fd00::1]:8443/".to_owned()));
        assert_eq!(to("http://user:word@example.com/x"), Ok("http://example.com/x".to_owned()));
        assert_eq!(to("ftp://10.0.0.2/x"), Err(Unresolved::Scheme("ftp".to_owned(), "10.0.0.2".to_owned())));
        assert_eq!(to("http://h:port/"), Err(Unresolved::Malformed));
        assert_eq!(to("::"), Err(Unresolved::Malformed));
        // Opaque, as recorded of a kubelet 1.36.2 (`mailto:x`): it leads to no host.
        assert_eq!(to("a:b/c"), Err(Unresolved::Scheme("a".to_owned(), String::new())));
        assert_eq!(to("/%zz"), Err(Unresolved::Malformed));
    }

    // R6, R7: a path is a tenant's, and where it is redirected to the container's.
    #[test]
    fn mangled_paths_and_locations_lead_somewhere_or_nowhere() {
        let seeds: [&[u8]; 7] = [
            b"/a b?c=d#e",
            b"//host:99999/x",
            b"http://u:p@[::1]:80/%zz",
            b"../../x/./y",
            b"?q",
            b"https://h\xc3\xa9:port/",
            b"http:",
        ];
        crate::mangled::each("url", &seeds, |input| {
            let text = crate::mangled::text(input);
            let own = spec(&text);
            let to = own.resolve(&text).or_else(|_| spec("/a/b").resolve(&text));
            for url in [Some(own), to.ok()].into_iter().flatten() {
                let _told = (url.to_string(), url.authority(), url.port());
                assert!(!url.request_target().contains([' ', '\r', '\n']), "{text:?}");
            }
        });
    }
}
