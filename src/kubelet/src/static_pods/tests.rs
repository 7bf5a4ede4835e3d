//! Manifests as upstream's own code made pods of them (pkg/kubelet/config, tryDecodeSinglePod with applyDefaults of v1.36).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;

use super::decode::decode;
use super::uid::Origin;

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
    let origin = Origin { node: "node-1", path: &path };
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
    let origin = Origin { node: "n", path: "/x" };
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
        let _pod_or_error = decode(input, Origin { node: "n1", path: "/manifests/a.yaml" });
    });
}
