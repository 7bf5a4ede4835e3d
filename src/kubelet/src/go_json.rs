//! Writes JSON as Go's encoder does, for texts that upstream reads or that are compared with its own byte by byte.
//! Upstream: encoding/json (HTMLEscape), as pkg/kubelet/kuberuntime/labels.go and pkg/kubelet/container/helpers.go use it.
//! Differs: nothing on purpose.

use std::fmt::Write as _;

/// Escapes in a JSON text what Go escapes and serde does not.
#[must_use]
pub(crate) fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if matches!(c, '&' | '<' | '>' | '\u{2028}' | '\u{2029}') {
            // Writing to a string cannot fail.
            let _ = write!(text, "\\u{:04x}", u32::from(c));
        } else {
            text.push(c);
        }
    }
    text
}

/// A value that serializes in upstream's order; nothing of plain data fails to.
#[must_use]
pub(crate) fn of(value: &impl serde::Serialize) -> String {
    escaped(&serde_json::to_string(value).unwrap_or_default())
}

/// An object from its fields in upstream's order, each with its JSON; those without any are left out.
#[must_use]
pub(crate) fn object<'a>(fields: impl IntoIterator<Item = (&'a str, Option<String>)>) -> String {
    let fields = fields.into_iter().filter_map(|(name, json)| Some(format!("\"{name}\":{}", json?)));
    format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
}

/// A list.
#[must_use]
pub(crate) fn list(items: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", items.into_iter().collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    // encoding/json, TestEscape and HTMLEscape: `"<script>&"` and the line separators.
    #[test]
    fn what_html_and_javascript_take_amiss_is_escaped() {
        assert_eq!(of(&"<script>&\u{2028}\u{2029}"), r#""\u003cscript\u003e\u0026\u2028\u2029""#);
        assert_eq!(of(&"a\n\"ä"), r#""a\n\"ä""#);
    }
}
