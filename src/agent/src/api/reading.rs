//! Reads one object, and says why it cannot be read without saying what is in it.
//! Upstream: k8s.io/apimachinery/pkg/runtime/serializer.
//! Differs: managed fields are left out before anything is read: no decision goes by them, they are half of what a pod weighs, and
//! whoever may write an object may put into them what a reader of JSON cannot hold.

use kubelet::event::Unreadable;
use kubelet::failure::{Failure, FailureKind};
use serde::de::DeserializeOwned;

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

/// What is known of an object that cannot be read.
pub(super) fn unreadable(object: &[u8], why: String) -> Unreadable {
    let metadata = member(object, "metadata").unwrap_or_default();
    Unreadable {
        namespace: text(metadata, "namespace"),
        name: text(metadata, "name"),
        uid: text(metadata, "uid"),
        resource_version: text(metadata, "resourceVersion"),
        why,
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

    #[test]
    fn who_cannot_be_read_is_known() {
        let object = br#"{"kind":"Pod","metadata":{"labels":{"name":"x","uid":"y"},"name":"a\u0062","namespace":"ns","uid":"u","resourceVersion":"7"},"spec":"#;
        let known = unreadable(object, "why".to_owned());
        let Unreadable { namespace, name, uid, resource_version, why } = &known;
        assert_eq!([namespace, name, uid, resource_version, why], ["ns", "ab", "u", "7", "why"]);
    }
}
