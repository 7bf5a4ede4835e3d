//! Manifests as upstream's own code made pods of them (pkg/kubelet/config, tryDecodeSinglePod with applyDefaults of v1.36).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;

use super::decode::{decode, decode_any};
use super::uid::{Origin, Place};

#[derive(Deserialize)]
struct Case {
    manifest: String,
    pod: Option<Pod>,
    error: Option<String>,
}

fn cases() -> BTreeMap<String, Case> {
    serde_json::from_str(include_str!("testdata/manifests.json")).unwrap()
}

fn made(name: &str, case: &Case) -> Result<Pod, String> {
    let path = format!("/etc/kubernetes/manifests/{name}");
    let origin = Origin { node: "node-1", place: Place::File(&path) };
    decode(case.manifest.as_bytes(), origin).map(|pod| Pod::clone(&pod))
}

// POD-008: the UID decides whether a node that changes its agent keeps its static pods; defaults are part of it.
#[test]
fn manifests_become_the_pods_that_upstream_makes_of_them() {
    let good: Vec<_> = cases().into_iter().filter(|(_, case)| case.pod.is_some()).collect();
    assert!(good.len() >= 4);
    for (name, case) in good {
        let (mut made, mut expected) = (made(&name, &case).unwrap_or_else(|why| panic!("{name}: {why}")), case.pod.unwrap());
        // Upstream writes quantities anew, and empty lists not at all.
        for pod in [&mut made, &mut expected] {
            let spec = pod.spec.as_mut().unwrap();
            spec.containers.iter_mut().for_each(|c| c.resources = None);
            spec.volumes.iter_mut().flatten().for_each(|v| v.empty_dir.iter_mut().for_each(|e| e.size_limit = None));
            spec.containers.iter_mut().flat_map(|c| c.env.iter_mut().flatten()).for_each(|e| {
                e.value_from.iter_mut().for_each(|v| v.resource_field_ref.iter_mut().for_each(|r| r.divisor = None));
            });
            spec.init_containers.iter_mut().flatten().for_each(|c| {
                c.resources = None;
                c.command = c.command.take().filter(|command| !command.is_empty());
            });
            spec.volumes.iter_mut().flatten().for_each(|v| {
                let items = v.downward_api.iter_mut().flat_map(|d| d.items.iter_mut().flatten());
                items.for_each(|i| i.resource_field_ref.iter_mut().for_each(|r| r.divisor = None));
            });
            pod.metadata.creation_timestamp = None;
        }
        let text = |pod: &Pod| serde_json::to_string_pretty(pod).unwrap();
        assert_eq!(text(&made), text(&expected), "{name}");
    }
}

// POD-009, POD-008: what upstream refuses is refused, with the same words where it names API objects or fields.
#[test]
fn manifests_that_upstream_refuses_are_refused() {
    let bad: Vec<_> = cases().into_iter().filter(|(_, case)| case.error.is_some()).collect();
    assert!(bad.len() >= 20);
    for (name, case) in bad {
        let (why, expected) = (made(&name, &case).expect_err(&name), case.error.clone().unwrap());
        let same_words = ["static pods", "invalid pod: name is", "invalid pod: [spec", "quantities"];
        if same_words.iter().any(|words| expected.starts_with(words)) && name != "bad-token.yaml" && name != "bad-quantity.yaml" {
            assert_eq!(why, expected, "{name}");
        }
    }
}

#[test]
fn hostile_manifests_cost_little_and_break_nothing() {
    let origin = Origin { node: "n", place: Place::File("/x") };
    for text in [
        "",
        "---",
        "a: &a [*a]",
        "[]",
        "kind: Pod\napiVersion: v1",
        "\u{0}",
        "{\"kind\":\"Pod\",\"apiVersion\":\"v1\",\"metadata\":[]}",
    ] {
        assert!(decode(text.as_bytes(), origin).is_err(), "{text}");
    }
    let nested = "[".repeat(100_000);
    assert!(decode(nested.as_bytes(), origin).is_err());
    assert!(decode(&[0xff, 0xfe], origin).is_err());
}

// POD-008: a manifest is whatever lies in the folder.
#[test]
fn mangled_manifest_is_a_pod_or_an_error() {
    let cases = cases();
    let seeds: Vec<&[u8]> = cases.values().map(|case| case.manifest.as_bytes()).collect();
    crate::fuzz_tests::mangled::each_of("manifest", 4, &seeds, |input| {
        let _pod_or_error = decode(input, Origin { node: "n1", place: Place::File("/manifests/a.yaml") });
    });
}

#[derive(Deserialize)]
struct Read {
    manifest: String,
    url: bool,
    uids: Option<Vec<String>>,
}

// POD-008, POD-010: how upstream's code (v1.36, tryDecodeSinglePod and tryDecodePodList with applyDefaults) reads what can be written in more
// than one way; the UID tells that it was read so, to the last field.
#[test]
fn whatever_way_a_manifest_is_written_in_its_uid_is_upstreams() {
    let cases: BTreeMap<String, Read> = serde_json::from_str(include_str!("testdata/uids.json")).unwrap();
    assert!(cases.len() >= 55);
    let mut wrong = Vec::new();
    for (name, case) in cases {
        let path = format!("/etc/kubernetes/manifests/{name}");
        let place = if case.url { Place::Url("http://example.com/pods") } else { Place::File(&path) };
        let origin = Origin { node: "node-1", place };
        let contents = case.manifest.as_bytes();
        let read = if case.url { decode_any(contents, origin) } else { decode(contents, origin).map(|pod| vec![pod]) };
        let uids: Result<Vec<String>, String> = read.map(|pods| pods.iter().map(|pod| pod.metadata.uid.clone().unwrap()).collect());
        if uids.as_ref().ok() != case.uids.as_ref() {
            wrong.push(format!("{name}: {uids:?}, not {:?}", case.uids));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn aliases_copy_no_more_than_is_bounded() {
    let origin = Origin { node: "n", place: Place::File("/x") };
    let many = |text: &str, times| format!("a: &a {text}\nb: [{}]\n", vec!["*a"; times].join(", "));
    for bomb in [many(&"x".repeat(100_000), 10_000), many(&format!("[{}]", vec!["x"; 1000].join(",")), 10_000)] {
        let why = decode(bomb.as_bytes(), origin).unwrap_err();
        assert!(why.starts_with("yaml: "), "{why}");
    }
    let few = many("{name: c, image: x}", 3) + "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [*a]}\n";
    assert!(decode(few.as_bytes(), origin).is_ok());
}

// Pods' directories and cgroups are named by UIDs, and a manifest may bring its own.
#[test]
fn a_uid_that_leads_elsewhere_is_refused() {
    let origin = Origin { node: "n", place: Place::File("/x") };
    let with = |uid: &str| {
        let pod = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "uid": uid},
            "spec": {"containers": [{"name": "c", "image": "x"}]}});
        decode(pod.to_string().as_bytes(), origin).map(|pod| pod.metadata.uid.clone().unwrap())
    };
    for uid in ["..", ".", "../../etc", "a/b", "/", "a\u{0}b", "\n", &"x".repeat(300)] {
        assert!(with(uid).unwrap_err().contains("metadata.uid"), "{uid:?}");
    }
    assert_eq!(with("my-uid_1.2").unwrap(), "my-uid_1.2");
}
