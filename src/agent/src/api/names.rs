//! Which names may stand in a path, and how they are written there and in selectors: whatever a tenant calls something, it is that name.
//! Upstream: k8s.io/apimachinery/pkg/api/validate/content (IsPathSegmentName), pkg/fields/selector.go (EscapeValue), client-go/rest.
//! Differs: nothing on purpose.

use kubelet::failure::{Failure, FailureKind};

/// A name as a segment of a path.
///
/// # Errors
/// In the words of client-go, if it can be none: then nothing is asked.
pub(super) fn segment(name: &str) -> Result<String, Failure> {
    checked("resource name", name)
}

/// A namespace as a segment of a path.
///
/// # Errors
/// The same.
pub(super) fn namespace_segment(namespace: &str) -> Result<String, Failure> {
    checked("namespace", namespace)
}

fn checked(what: &str, name: &str) -> Result<String, Failure> {
    let invalid = |why: String| Err(Failure::new(FailureKind::Invalid, why));
    if name.is_empty() {
        return invalid(format!("{what} may not be empty"));
    }
    let mut wrong = Vec::new();
    if name == "." || name == ".." {
        return invalid(format!("invalid {what} {name:?}: [may not be '{name}']"));
    }
    for letter in ['/', '%'] {
        if name.contains(letter) {
            wrong.push(format!("may not contain '{letter}'"));
        }
    }
    if !wrong.is_empty() {
        return invalid(format!("invalid {what} {name:?}: [{}]", wrong.join(" ")));
    }
    Ok(encoded(name))
}

/// A field selector for that value, encoded.
pub(super) fn field_is(field: &str, value: &str) -> String {
    encoded(&format!("{field}={}", value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")))
}

/// What a query's value may hold as it is; everything else as `%XX`.
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    // S20; the words are upstream's: content.IsPathSegmentName, rest.Request.Name.
    #[test]
    fn what_leads_elsewhere_is_no_name() {
        let why = |name: &str| segment(name).unwrap_err().message;
        assert_eq!(why(""), "resource name may not be empty");
        assert_eq!(why(".."), "invalid resource name \"..\": [may not be '..']");
        assert_eq!(why("a/../../x"), "invalid resource name \"a/../../x\": [may not contain '/']");
        assert_eq!(why("%2e/"), "invalid resource name \"%2e/\": [may not contain '/' may not contain '%']");
        assert_eq!(namespace_segment(".").unwrap_err().message, "invalid namespace \".\": [may not be '.']");
        assert_eq!(segment("a.b-c").unwrap(), "a.b-c");
        assert_eq!(segment("x?y#z,a=b").unwrap(), "x%3Fy%23z%2Ca%3Db");
    }

    // fields.EscapeValue.
    #[test]
    fn value_of_a_selector_is_one_value() {
        assert_eq!(field_is("metadata.name", "x,metadata.name!=y\\"), encoded(r"metadata.name=x\,metadata.name!\=y\\"));
    }
}
