//! Decides the UID of a static pod: a digest of the pod as its manifest says it, and of where the manifest lies.
//! Upstream: pkg/kubelet/config/common.go (applyDefaults), k8s.io/utils/dump, github.com/davecgh/go-spew.
//! Differs: nothing on purpose.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use super::amount::quantity;

/// The fields of upstream's internal types, in order: name, name in the API (`+`: those of the same object; `?`: none), Go type.
const TYPES: &str = include_str!("pod_types.txt");

/// Where a manifest comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin<'a> {
    /// The node.
    pub(super) node: &'a str,
    /// The file, or the URL.
    pub(super) place: Place<'a>,
}

/// What was read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'a> {
    /// The file of that path.
    File(&'a str),
    /// What that URL answers.
    Url(&'a str),
}

/// The UID of a pod, with its defaults, that has none of its own: FNV-1a over the text that upstream prints of it.
pub(super) fn uid(pod: &Value, origin: Origin<'_>) -> String {
    let mut text = dump(pod);
    let _ = match origin.place {
        Place::File(path) => write!(text, "host:{}file:{path}", origin.node),
        Place::Url(url) => write!(text, "url:{url}"),
    };
    let digest = text.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |digest, byte| {
        (digest ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    });
    format!("{digest:032x}")
}

fn dump(pod: &Value) -> String {
    let mut types: BTreeMap<&str, Vec<Field<'_>>> = BTreeMap::new();
    let mut of = "";
    for line in TYPES.lines() {
        let mut words = line.split_whitespace();
        let (Some(first), api, go) = (words.next(), words.next(), words.next()) else { continue };
        if let (Some(api), Some(go)) = (api, go) {
            types.entry(of).or_default().push(Field { name: first, api, go });
        } else {
            of = first;
        }
    }
    let mut dumper = Dumper { types, pod, text: String::new() };
    dumper.typed("*core.Pod", Some(pod));
    dumper.text
}

#[derive(Clone, Copy, Debug)]
struct Field<'a> {
    name: &'a str,
    api: &'a str,
    go: &'a str,
}

struct Dumper<'a> {
    types: BTreeMap<&'static str, Vec<Field<'static>>>,
    pod: &'a Value,
    text: String,
}

impl Dumper<'_> {
    /// A value with its type before it.
    fn typed(&mut self, go: &str, value: Option<&Value>) {
        let value = value.filter(|value| !value.is_null());
        let _ = write!(self.text, "({go})");
        match go.strip_prefix('*') {
            Some(_) if value.is_none() => self.text.push_str("<nil>"),
            Some(pointed) => self.bare(pointed, value),
            None => self.bare(go, value),
        }
    }

    fn bare(&mut self, go: &str, value: Option<&Value>) {
        if let Some(element) = go.strip_prefix("[]") {
            let Some(items) = value.and_then(Value::as_array) else { return self.text.push_str("<nil>") };
            self.text.push('[');
            for (index, item) in items.iter().enumerate() {
                self.text.push_str(if index > 0 { " " } else { "" });
                self.bare(element, Some(item));
            }
            return self.text.push(']');
        }
        if let Some(element) = go.strip_prefix("map[string]").or((go == "core.ResourceList").then_some("rounded resource.Quantity"))
        {
            let Some(entries) = value.and_then(Value::as_object) else { return self.text.push_str("<nil>") };
            let sorted: BTreeMap<&String, &Value> = entries.iter().collect();
            self.text.push_str("map[");
            for (index, (key, item)) in sorted.into_iter().enumerate() {
                let _ = write!(self.text, "{}{key}:", if index > 0 { " " } else { "" });
                self.bare(element, Some(item));
            }
            return self.text.push(']');
        }
        match go {
            "v1.Time" => self.text.push_str("{Time:(time.Time){wall:(uint64)0 ext:(int64)0 loc:(*time.Location)<nil>}}"),
            "resource.Quantity" => self.text.push_str(&quantity(value, false)),
            "rounded resource.Quantity" => self.text.push_str(&quantity(value, true)),
            "intstr.IntOrString" => {
                let (kind, number, text) = match value {
                    Some(Value::String(text)) => (1, 0, text.as_str()),
                    number => (0, number.and_then(Value::as_i64).unwrap_or_default(), ""),
                };
                let _ = write!(self.text, "{{Type:(intstr.Type){kind} IntVal:(int32){number} StrVal:(string){text}}}");
            }
            _ => self.object_or_scalar(go, value),
        }
    }

    fn object_or_scalar(&mut self, go: &str, value: Option<&Value>) {
        let Some(fields) = self.types.get(go).cloned() else {
            let _ = match value {
                Some(Value::String(text)) => write!(self.text, "{text}"),
                Some(Value::Bool(_) | Value::Number(_)) => write!(self.text, "{}", value.unwrap_or(&Value::Null)),
                _ if go == "bool" => write!(self.text, "false"),
                _ if go.starts_with("int") || go.starts_with("uint") => write!(self.text, "0"),
                _ => Ok(()),
            };
            return;
        };
        self.text.push('{');
        for (index, field) in fields.into_iter().enumerate() {
            let _ = write!(self.text, "{}{}:", if index > 0 { " " } else { "" }, field.name);
            let found = match field.api {
                // Decoding leaves them out.
                _ if go == "v1.TypeMeta" => None,
                "+" => value,
                // The host's namespaces are the pod's own in the API.
                "?" => self.pod["spec"].get(lower_first(field.name)),
                api => value.and_then(|value| value.get(api)),
            };
            self.typed(field.go, found.cloned().as_ref());
        }
        self.text.push('}');
    }
}

fn lower_first(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}
