//! Decides what the files of a downwardAPI volume say of the pod.
//! Upstream: pkg/volume/downwardapi/downwardapi.go, pkg/fieldpath/fieldpath.go, pkg/api/v1/resource/helpers.go.
//! Differs: nothing on purpose.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, DownwardAPIVolumeFile, Pod, ResourceFieldSelector, Volume};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::emptydir::memory_limit;
use super::manager::Whose;
use super::payload::{self, Files};
use super::{Plugin, Trouble, VolumeInputs};
use crate::action::VolumeSetup;
use crate::limits::Room;
use crate::quantity::Amount;

/// VTY-008, VTY-012
pub(super) fn setup(whose: Whose<'_>, volume: &Volume, inputs: &VolumeInputs<'_>, room: &mut Room) -> Result<VolumeSetup, Trouble> {
    let source = volume.downward_api.clone().unwrap_or_default();
    let items = source.items.as_deref().unwrap_or_default();
    let files = files(whose.pod, items, source.default_mode, inputs.node_allocatable, room)?;
    payload::setup(whose.layout, whose.pod, volume, Plugin::DownwardApi, memory_limit(inputs), files)
}

/// The files for those items; every error is told, as upstream's aggregate.
pub(super) fn files(
    pod: &Pod,
    items: &[DownwardAPIVolumeFile],
    default_mode: Option<i32>,
    node_allocatable: &BTreeMap<String, Quantity>,
    room: &mut Room,
) -> Result<Files, Trouble> {
    let default_mode = payload::default_mode(default_mode)?;
    let (mut files, mut errors) = (Files::new(), Vec::new());
    for item in items {
        let value = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => field_value(pod, &field.field_path),
            // Unlike in the environment, limits of the pod are nothing to go by here.
            (None, Some(field)) => resource_value(pod, field, |resource| amount(Some(node_allocatable), resource)),
            (None, None) => Ok(String::new()),
        };
        match value {
            Ok(value) => {
                let file = payload::file_in(room, &item.path, value.as_bytes(), item.mode.unwrap_or(default_mode))?;
                files.insert(item.path.clone(), file);
            }
            Err(error) => errors.push(error),
        }
    }
    match payload::aggregate(errors) {
        Some(error) => Err(Trouble::Failed(error)),
        None => Ok(files),
    }
}

/// A field of the pod's metadata as a file shows it (ENV-008): maps as sorted lines `k="v"`.
pub(crate) fn field_value(pod: &Pod, path: &str) -> Result<String, String> {
    let metadata = &pod.metadata;
    if let Some((map, key)) = path.strip_suffix("']").and_then(|rest| rest.split_once("['")) {
        let map = match map {
            "metadata.annotations" => &metadata.annotations,
            "metadata.labels" => &metadata.labels,
            _ => return Err(format!("fieldPath {path:?} does not support subscript")),
        };
        return Ok(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    match path {
        "metadata.annotations" => Ok(lines(metadata.annotations.as_ref())),
        "metadata.labels" => Ok(lines(metadata.labels.as_ref())),
        "metadata.name" => Ok(metadata.name.clone().unwrap_or_default()),
        "metadata.namespace" => Ok(metadata.namespace.clone().unwrap_or_default()),
        "metadata.uid" => Ok(metadata.uid.clone().unwrap_or_default()),
        _ => Err(format!("unsupported fieldPath: {path}")),
    }
}

fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(key, value)| format!("{key}={}", quoted(value))).collect();
    lines.join("\n")
}

/// As Go's `%q` has it: escapes that Go does not know are written its way.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if is_printed(c) => out.push(c),
            c if u32::from(c) > 0xffff => out.push_str(&format!("\\U{:08x}", u32::from(c))),
            c => out.push_str(&format!("\\u{:04x}", u32::from(c))),
        }
    }
    out.push('"');
    out
}

/// Whether Go's `unicode.IsPrint` says so: letters, marks, numbers, punctuation, symbols and the blank. Rust escapes the same others in a
/// text, but for marks at its beginning.
fn is_printed(c: char) -> bool {
    c.is_ascii() || format!("a{c}").escape_debug().nth(1).is_none_or(|escaped| escaped != '\\')
}

/// How much of a resource such a list has.
pub(crate) fn amount(quantities: Option<&BTreeMap<String, Quantity>>, resource: &str) -> Option<Amount> {
    quantities.and_then(|quantities| quantities.get(resource)).and_then(Amount::parse)
}

/// A container's request or limit in units of the divisor, rounded up (ENV-009); with what stands for a limit that it has not.
pub(crate) fn resource_value(
    pod: &Pod,
    selector: &ResourceFieldSelector,
    default_limit: impl Fn(&str) -> Option<Amount>,
) -> Result<String, String> {
    let name = selector.container_name.as_deref().unwrap_or_default();
    let container = container(pod, name).ok_or_else(|| format!("container {name} not found"))?;
    let unsupported = || format!("unsupported container resource : {}", selector.resource);
    let (list, resource) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let defaulted = matches!(resource, "cpu" | "memory" | "ephemeral-storage");
    if !defaulted && !resource.starts_with("hugepages-") {
        return Err(unsupported());
    }
    let resources = container.resources.as_ref();
    let found = match list {
        "requests" => amount(resources.and_then(|r| r.requests.as_ref()), resource),
        "limits" => {
            let own = amount(resources.and_then(|r| r.limits.as_ref()), resource).filter(|amount| amount.is_positive());
            if defaulted { own.or_else(|| default_limit(resource)) } else { own }
        }
        _ => return Err(unsupported()),
    };
    let divisor =
        selector.divisor.as_ref().and_then(Amount::parse).filter(|divisor| divisor.is_positive()).unwrap_or(Amount::of(1));
    let (amount, divisor) = match resource {
        "cpu" => (found.unwrap_or_default().milli_value(), divisor.milli_value()),
        _ => (found.unwrap_or_default().value(), divisor.value()),
    };
    Ok((amount / divisor + i64::from(amount % divisor != 0)).to_string())
}

fn container<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    let spec = pod.spec.as_ref()?;
    spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|container| container.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"b": "two", "a": "one \"1\"\n"}},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "250m"}, "limits": {"memory": "64Mi"}}}]},
        }))
        .unwrap()
    }

    fn resource(resource: &str, divisor: Option<&str>) -> Result<String, String> {
        let selector = ResourceFieldSelector {
            container_name: Some("c".to_owned()),
            resource: resource.to_owned(),
            divisor: divisor.map(|divisor| Quantity(divisor.to_owned())),
        };
        let allocatable = [("cpu".to_owned(), Quantity("1900m".to_owned())), ("memory".to_owned(), Quantity("4Gi".to_owned()))];
        let allocatable = allocatable.into();
        resource_value(&pod(), &selector, |resource| amount(Some(&allocatable), resource))
    }

    // ENV-008, VTY-012
    #[test]
    fn metadata_fields_are_shown_and_others_refused() {
        let value = |path: &str| field_value(&pod(), path);
        assert_eq!(value("metadata.labels"), Ok("a=\"one \\\"1\\\"\\n\"\nb=\"two\"".to_owned()));
        assert_eq!(value("metadata.labels['b']"), Ok("two".to_owned()));
        assert_eq!(value("metadata.annotations['none']"), Ok(String::new()));
        assert_eq!(value("metadata.uid"), Ok("u".to_owned()));
        assert_eq!(value("spec.nodeName"), Err("unsupported fieldPath: spec.nodeName".to_owned()));
        assert_eq!(value("metadata.name['x']"), Err("fieldPath \"metadata.name['x']\" does not support subscript".to_owned()));
    }

    // ENV-009
    #[test]
    fn resources_are_rounded_up_and_limits_default_to_the_node() {
        assert_eq!(resource("requests.cpu", None).as_deref(), Ok("1"));
        assert_eq!(resource("requests.cpu", Some("1m")).as_deref(), Ok("250"));
        assert_eq!(resource("limits.memory", Some("1Mi")).as_deref(), Ok("64"));
        assert_eq!(resource("limits.memory", Some("0")).as_deref(), Ok("67108864"));
        assert_eq!(resource("limits.cpu", Some("1m")).as_deref(), Ok("1900"));
        assert_eq!(resource("requests.memory", None).as_deref(), Ok("0"));
        assert_eq!(resource("limits.gpu", None), Err("unsupported container resource : limits.gpu".to_owned()));
    }

    // ENV-008, VTY-012: as a kubelet 1.36.2 was recorded.
    #[test]
    fn annotations_are_quoted_as_go_does() {
        for (text, as_go_has_it) in [
            ("\u{7}\u{8}\u{c}\u{b}\r", r#""\a\b\f\v\r""#),
            ("\u{1}\u{1f}\u{7f}", r#""\x01\x1f\x7f""#),
            ("\u{85}\u{9f}", r#""\u0085\u009f""#),
            ("a\u{200d}b", r#""a\u200db""#),
            ("a\u{a0}b", r#""a\u00a0b""#),
            ("\u{feff}x", r#""\ufeffx""#),
            ("x\u{ad}y", r#""x\u00ady""#),
            ("\u{e000}", r#""\ue000""#),
            ("\u{378}", r#""\u0378""#),
            ("\u{2028}\u{2029}\u{3000}", r#""\u2028\u2029\u3000""#),
            ("\u{202e}abc", r#""\u202eabc""#),
            ("\u{e0001}\u{10ffff}", r#""\U000e0001\U0010ffff""#),
            ("e\u{301} \u{1f600} \u{6f22}", "\"e\u{301} \u{1f600} \u{6f22}\""),
        ] {
            assert_eq!(quoted(text), as_go_has_it);
        }
    }

    // ENV-009, as a kubelet 1.36.2 was recorded: the pod's own limits count for variables, not for files.
    #[test]
    fn limits_of_the_pod_are_no_default_for_files() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "containers": [{"name": "c"}], "resources": {"limits": {"cpu": "1700m", "memory": "200Mi"}}}}))
        .unwrap();
        let item = json!([{"path": "f", "resourceFieldRef": {"containerName": "c", "resource": "limits.cpu", "divisor": "1m"}}]);
        let items: Vec<DownwardAPIVolumeFile> = serde_json::from_value(item).unwrap();
        let allocatable = [("cpu".to_owned(), Quantity("2".to_owned()))].into();
        let files = files(&pod, &items, Some(0o644), &allocatable, &mut Room::of_volume()).unwrap();
        assert_eq!(files["f"], payload::file(b"2000", 0o644));
    }

    #[test]
    fn every_item_that_fails_is_named() {
        let items: Vec<DownwardAPIVolumeFile> = serde_json::from_value(json!([
            {"path": "a", "fieldRef": {"fieldPath": "spec.x"}},
            {"path": "b", "resourceFieldRef": {"containerName": "d", "resource": "limits.cpu"}},
            {"path": "c", "fieldRef": {"fieldPath": "metadata.name"}}]))
        .unwrap();
        let trouble = files(&pod(), &items, Some(0o644), &BTreeMap::new(), &mut Room::of_volume()).unwrap_err();
        assert_eq!(trouble, Trouble::Failed("[unsupported fieldPath: spec.x, container d not found]".to_owned()));
        let named = files(&pod(), &items[2..], Some(0o400), &BTreeMap::new(), &mut Room::of_volume()).unwrap();
        assert_eq!(named["c"], payload::file(b"p", 0o400));
    }

    // VTY-008: 2000 files of one large annotation. Upstream (pkg/volume/downwardapi/downwardapi.go) makes them.
    #[test]
    fn files_that_take_too_much_are_refused_before_they_are_made() {
        let mut pod = pod();
        pod.metadata.annotations = Some([("large".to_owned(), "x".repeat(250_000))].into());
        let item = |n: usize| json!({"path": format!("f{n}"), "fieldRef": {"fieldPath": "metadata.annotations['large']"}});
        let items: Vec<DownwardAPIVolumeFile> = serde_json::from_value((0..2000).map(item).collect()).unwrap();
        let trouble = files(&pod, &items, Some(0o644), &BTreeMap::new(), &mut Room::of_volume()).unwrap_err();
        let told = "the files of the volume take more than 33554432 bytes, the most that is allowed";
        assert_eq!(trouble, Trouble::Failed(told.to_owned()));
        assert!(files(&pod, &items[..100], Some(0o644), &BTreeMap::new(), &mut Room::of_volume()).is_ok());
    }
}
