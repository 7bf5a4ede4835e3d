//! Reads one object, and says why it cannot be read without saying what is in it.
//! Upstream: k8s.io/apimachinery/pkg/runtime/serializer.
//! Differs: managed fields are left out before anything is read: no decision goes by them, they are half of what a pod weighs, and
//! whoever may write an object may put into them what a reader of JSON cannot hold.

use k8s_openapi::api::core::v1::PodSpec;
use kubelet::event::Unreadable;
use kubelet::failure::{Failure, FailureKind};
use kubelet::pod::manager::MIRROR_ANNOTATION;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::members::{member, text, with_times_that_can_be_held, without_managed_fields};

/// The longest explanation.
const WHY_LIMIT: usize = 256;

/// An object, without its managed fields.
///
/// # Errors
/// Why it cannot be read, without any of its values.
pub(super) fn read<T: DeserializeOwned>(object: &[u8]) -> Result<T, String> {
    let object = without_managed_fields(object);
    let error = match serde_json::from_slice(&object) {
        Ok(read) => return Ok(read),
        Err(error) => error,
    };
    match with_times_that_can_be_held(&object).map(|mended| serde_json::from_slice(&mended)) {
        Some(Ok(read)) => Ok(read),
        _ => Err(why(&error)),
    }
}

/// The same of an answer.
///
/// # Errors
/// As a failure of the call.
pub(super) fn read_answer<T: DeserializeOwned>(answer: &[u8]) -> Result<T, Failure> {
    read(answer).map_err(|why| Failure::new(FailureKind::Other, format!("the API server's answer cannot be read: {why}")))
}

/// What can be read of the spec of a pod that cannot be read as a whole: its containers with their images and resources, and what
/// volumes mount of images. What of these cannot be read either is left out.
fn pod_spec(object: &[u8]) -> Option<PodSpec> {
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Parts {
        containers: Vec<Value>,
        init_containers: Vec<Value>,
        volumes: Vec<Value>,
        overhead: Value,
        resources: Value,
    }
    let spec = member(object, "spec")?;
    if let Ok(whole) = serde_json::from_slice(spec) {
        return Some(whole);
    }
    let parts: Parts = serde_json::from_slice(spec).ok()?;
    let containers =
        |list: Vec<Value>| list.iter().filter_map(|one| kept(one, &["name", "image", "resources", "restartPolicy"])).collect();
    Some(PodSpec {
        containers: containers(parts.containers),
        init_containers: Some(containers(parts.init_containers)),
        volumes: Some(parts.volumes.iter().filter_map(|one| kept(one, &["name", "image"])).collect()),
        overhead: serde_json::from_value(parts.overhead).unwrap_or_default(),
        resources: serde_json::from_value(parts.resources).unwrap_or_default(),
        ..PodSpec::default()
    })
}

/// A part of a spec with those of the fields that can be read.
fn kept<T: DeserializeOwned>(part: &Value, fields: &[&str]) -> Option<T> {
    let (part, mut kept) = (part.as_object()?, serde_json::Map::new());
    for field in fields {
        let mut with = kept.clone();
        let Some(value) = part.get(*field) else { continue };
        with.insert((*field).to_owned(), value.clone());
        if serde_json::from_value::<T>(Value::Object(with.clone())).is_ok() {
            kept = with;
        }
    }
    serde_json::from_value(Value::Object(kept)).ok()
}

/// What is known of a pod that cannot be read.
pub(super) fn unreadable_pod(object: &[u8], why: String) -> Unreadable {
    let annotations = member(object, "metadata").and_then(|metadata| member(metadata, "annotations")).unwrap_or_default();
    let mirror = member(annotations, MIRROR_ANNOTATION).is_some();
    Unreadable { spec: pod_spec(object).map(Box::new), mirror, ..unreadable(object, why) }
}

/// What is known of an object that cannot be read.
pub(super) fn unreadable(object: &[u8], why: String) -> Unreadable {
    let metadata = member(object, "metadata").unwrap_or_default();
    Unreadable {
        namespace: text(metadata, "namespace"),
        name: text(metadata, "name"),
        uid: text(metadata, "uid"),
        resource_version: text(metadata, "resourceVersion"),
        why,
        spec: None,
        mirror: false,
    }
}

/// What is wrong, and where. Errors of the reader quote what they found, which may be a secret.
fn why(error: &serde_json::Error) -> String {
    let (mut told, mut quoted, mut escaped) = (String::new(), false, false);
    for letter in error.to_string().chars().take(4 * WHY_LIMIT) {
        match letter {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => {
                quoted = !quoted;
                told.push_str(if quoted { "\"" } else { "...\"" });
            }
            _ if quoted => {}
            letter => told.push(letter),
        }
        if told.len() >= WHY_LIMIT {
            break;
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Pod, Secret};

    use super::*;

    #[test]
    fn why_something_cannot_be_read_tells_none_of_its_values() {
        let why = read::<Pod>(br#"{"spec": {"containers": "p\"assword"}}"#).unwrap_err();
        assert!(why.starts_with(r#"invalid type: string "...", expected"#), "{why}");
        let why = read::<Secret>(br#"{"metadata": {}, "data": {"a": "not base64!"}}"#).unwrap_err();
        assert!(!why.contains("not base64"), "{why}");
    }

    // S3: metav1.Time takes every time to the end of 9999 (k8s.io/apimachinery/pkg/apis/meta/v1/time.go), and FieldsV1 is opaque bytes.
    #[test]
    fn what_upstream_can_hold_and_the_reader_cannot_is_left_out_or_mended() {
        let deep = format!("{}{}", "{\"f:a\":".repeat(200), "{}") + &"}".repeat(200);
        let pod = format!(
            r#"{{"metadata":{{"name":"a","managedFields":[{{"time":"9999-12-31T23:59:59Z","fieldsV1":{deep}}}],"uid":"u",
            "creationTimestamp":"9999-12-31T23:59:59Z"}},"spec":{{"containers":[]}},"status":{{"startTime":"9999-12-30T22:30:00Z",
            "conditions":[{{"type":"Ready","status":"True","lastTransitionTime":"9999-12-31T00:00:00Z"}}]}}}}"#
        );
        let read = read::<Pod>(pod.as_bytes()).unwrap();
        assert_eq!((read.metadata.uid.as_deref(), read.metadata.managed_fields), (Some("u"), None));
        let created = read.metadata.creation_timestamp.unwrap().0;
        assert_eq!(created.to_string(), "9999-12-30T21:59:59Z");
    }

    // It may run: what it holds of the node is counted as far as it can be read.
    #[test]
    fn what_a_pod_asks_for_is_known_if_that_can_be_read() {
        let spec = |object: &str| unreadable_pod(object.as_bytes(), String::new()).spec;
        let whole = r#"{"metadata":{"selfLink":7},"spec":{"nodeName":"n","containers":[{"name":"a","tty":true}]}}"#;
        assert_eq!(spec(whole).and_then(|spec| spec.node_name).as_deref(), Some("n"));
        let part = r#"{"spec":{"nodeName":7,"overhead":{"cpu":"1m"},"volumes":[{"name":"v","image":{"reference":"vol:1"}},{"name":8}],
            "initContainers":[{"image":"no-name:1"},{"name":"s","restartPolicy":"Always","resources":{"requests":{"cpu":"2"}}}],
            "containers":[{"name":"a","tty":"x","image":"web:1","resources":{"requests":{"cpu":"1"}}},{"name":"b","image":9},7]}}"#;
        let spec_of_part = spec(part).unwrap();
        let told = serde_json::to_value(&spec_of_part).unwrap();
        assert_eq!(
            told,
            serde_json::json!({
                "overhead": {"cpu": "1m"}, "volumes": [{"name": "v", "image": {"reference": "vol:1"}}, {"name": ""}],
                "initContainers": [{"name": "", "image": "no-name:1"}, {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "2"}}}],
                "containers": [{"name": "a", "image": "web:1", "resources": {"requests": {"cpu": "1"}}}, {"name": "b"}],
            }),
            "{told}"
        );
        for nothing in ["", "{}", r#"{"spec":"#, r#"{"spec":7}"#, r#"{"spec":{"containers":{}}}"#] {
            assert_eq!(spec(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn who_cannot_be_read_is_known() {
        let object = br#"{"kind":"Pod","metadata":{"labels":{"name":"x","uid":"y"},"name":"a\u0062","namespace":"ns","uid":"u","resourceVersion":"7"},"spec":"#;
        let known = unreadable(object, "why".to_owned());
        let Unreadable { namespace, name, uid, resource_version, why, .. } = &known;
        assert_eq!([namespace, name, uid, resource_version, why], ["ns", "ab", "u", "7", "why"]);
    }

    // The annotation says so, and nothing else does (pkg/kubelet/types/pod_update.go, IsMirrorPod).
    #[test]
    fn whether_it_is_a_mirror_is_known() {
        let is_mirror =
            |metadata: &str| unreadable_pod(format!(r#"{{"metadata":{metadata},"spec":7}}"#).as_bytes(), String::new()).mirror;
        assert!(is_mirror(r#"{"selfLink":7,"annotations":{"a":"b","kubernetes.io/config.mirror":"h"}}"#));
        for other in ["7", "{}", r#"{"annotations":7}"#, r#"{"annotations":{"a":"kubernetes.io/config.mirror"}}"#] {
            assert!(!is_mirror(other), "{other}");
        }
    }
}
