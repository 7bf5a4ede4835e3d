//! What files, registries, plugins and objects feed the core with, mangled: nothing panics (S1, S8, S9, S24).

#[path = "../../../tests/fuzz/mangled.rs"]
pub(crate) mod mangled;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeStatus, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::json;

use self::mangled::{each, each_of, text};
use crate::admission::{Beside, admit};
use crate::canonical_quantity::canonical;
use crate::config::Config;
use crate::images::{docker_config, keyring, name};
use crate::limits::Room;
use crate::observation::MachineInfo;
use crate::pod::dns::{ResolvConf, pod_dns};
use crate::pod::env::expand;
use crate::pod::hosts::{hostname_and_domain, hosts_file, sandbox_hostname};
use crate::quantity::Amount;
use crate::resources::requests::{Kind, pod_amounts, printed};
use crate::status_patch::{node_status_patch, pod_status_patch};

const POD: &[u8] = include_bytes!("../testdata/pod-running.json");

#[test]
fn quantities() {
    let seeds: [&[u8]; 9] = [b"100m", b"1.5Gi", b"129e6", b"-0.1E", b"1E18", b"999999999999999999Ei", b"1e-400", b".", b"+0x1n"];
    each("quantity", &seeds, |input| {
        let quantity = Quantity(text(input));
        let canon = canonical(&quantity);
        // What it is printed as means the same, and is printed so again; but for what no server stores, whose last digits are lost.
        if Amount::parse(&quantity).is_none_or(|amount| amount.nanos().unsigned_abs() < i128::MAX.unsigned_abs() / 1_000_000) {
            assert_eq!(canonical(&canon), canon);
        }
        if let Some(amount) = Amount::parse(&quantity) {
            for name in ["cpu", "memory"] {
                let _printed = printed(name, if name == "cpu" { amount.milli_value() } else { amount.value() });
            }
        }
    });
}

#[test]
fn names_of_images_and_registries() {
    let seeds: [&[u8]; 8] = [
        b"busybox",
        b"registry.example:5000/a/b:tag@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        b"docker.io/library/busybox:latest",
        b"*.example.com:*/a",
        b"[::1]:5000/a",
        b"https://index.docker.io/v1/",
        b"a..b/c__d",
        b"@",
    ];
    each("image name", &seeds, |input| {
        let image = text(input);
        let _with_tag = name::with_default_tag(&image);
        let _repository = name::repository_of(&image);
        assert!(name::without_tag(&image).len() <= image.len());
        let _canonical = name::canonical(&image);
        let (one, other) = image.split_once('/').unwrap_or((&image, "a.example.com/b"));
        let _match = keyring::urls_match(one, other);
    });
}

#[test]
fn logins() {
    let seeds: [&[u8]; 4] = [
        br#"{"auths":{"https://registry.example/v1/":{"auth":"dXNlcjpwYXNz","email":"a@b"},"x":null}}"#,
        br#"{"registry.example":{"username":"u","password":"p"}}"#,
        br#"{"auths":{"a":{"auth":"dXNlcjpwYXNz","username":"u","password":"p","identitytoken":"t"}},"credHelpers":{"a":"b"}}"#,
        br#"{"auths":{"a":{"auth":"dXNlcg"}}}"#,
    ];
    each("docker config", &seeds, |input| {
        let mut ring = keyring::Keyring::default();
        for config in [docker_config::config_json(input), docker_config::dockercfg(input)].into_iter().flatten() {
            ring.add(&keyring::Source::Node, &config);
        }
        let _found = ring.lookup("registry.example/a");
    });
}

#[test]
fn resolver_configurations_and_hosts() {
    let seeds: [&[u8]; 4] = [
        b"nameserver 10.0.0.1\nnameserver ::1%eth0\nsearch a.example b.example .\noptions ndots:5 timeout:1\noptions ndots:2\n",
        b"domain example\n# search x\n;nameserver 1.2.3.4\nsearch\n",
        b"nameserver\nsearch \toptions",
        b"127.0.0.1 localhost\n::1 a b\n",
    ];
    let pod: Pod = serde_json::from_slice(POD).unwrap();
    let dns = &Config::new("n1").dns;
    each("resolv.conf", &seeds, |input| {
        let written = text(input);
        if let Ok(host) = ResolvConf::parse(&written) {
            let _complaint = host.beyond_limits(dns);
            let made = pod_dns(&pod, dns, Some(&host), &[], "p");
            assert!(made.config.searches.iter().map(String::len).sum::<usize>() < 1 << 12);
        }
        let _hosts = hosts_file(&pod, std::slice::from_ref(&written), &written, Some(&written));
        let _name = (hostname_and_domain(&pod, &written), sandbox_hostname(&pod, &written));
    });
}

#[test]
fn references_in_variables() {
    let seeds: [&[u8]; 4] = [b"$(A)$(B) $$(A) $(", b"$($(A))", b"$$$$(A)", b"a$"];
    let long = "x".repeat(10_000);
    each("expansion", &seeds, |input| {
        let _text_or_too_long = expand(&text(input), &mut Room::of_container(), |name| match name {
            "A" => Some("$(B)".into()),
            "B" => Some(long.as_str().into()),
            _ => None,
        });
    });
}

#[test]
fn statuses_that_others_wrote() {
    let pod: Pod = serde_json::from_slice(POD).unwrap();
    let status = serde_json::to_vec(&pod.status).unwrap();
    each_of("pod status", 3, &[&status], |input| {
        if let Ok(other) = serde_json::from_slice::<PodStatus>(input) {
            let (ours, uid) = (pod.status.clone().unwrap(), crate::ids::PodUid::new("u"));
            let _patch = (pod_status_patch(&uid, &other, &ours), pod_status_patch(&uid, &ours, &other));
        }
    });
    let node = br#"{"conditions":[{"type":"Ready","status":"True"}],"addresses":[{"type":"InternalIP","address":"1"}],"capacity":{"cpu":"1"},"images":[{"names":["a"]}]}"#;
    each("node status", &[node], |input| {
        if let Ok(other) = serde_json::from_slice::<NodeStatus>(input) {
            let _patch = (node_status_patch(&other, &NodeStatus::default()), node_status_patch(&NodeStatus::default(), &other));
        }
    });
}

#[test]
fn pods_that_are_judged() {
    let asking = json!({"metadata": {"name": "p", "annotations": {"container.apparmor.security.beta.kubernetes.io/c": "localhost/x"}}, "spec": {
        "overhead": {"cpu": "1m"}, "resources": {"limits": {"memory": "1Gi"}}, "nodeSelector": {"a": "b"}, "priority": 7,
        "securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem", "value": "1"}], "supplementalGroupsPolicy": "Strict"},
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "k", "operator": "Gt", "values": ["1"]}]}, {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]}}},
        "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 3}],
        "containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}],
            "resources": {"requests": {"cpu": "1", "memory": "9223372036854775807", "hugepages-2Mi": "2Mi"}, "limits": {"example.com/gpu": "1"}}}],
        "initContainers": [{"name": "i", "restartPolicy": "Always", "resources": {"requests": {"memory": "9223372036854775807"}}}]}});
    let asking = serde_json::to_vec(&asking).unwrap();
    let node = serde_json::from_value(json!({"metadata": {"name": "n1", "labels": {"k": "2"}},
        "spec": {"taints": [{"key": "k", "effect": "NoExecute"}]}, "status": {"allocatable": {"example.com/gpu": "1"}}}))
    .unwrap();
    let machine = MachineInfo { cpus: 2, memory: 4 << 30, root_fs_capacity: 1 << 30, ..MachineInfo::default() };
    let (config, other) = (Config::new("n1"), std::sync::Arc::new(serde_json::from_slice::<Pod>(POD).unwrap()));
    each_of("admission", 3, &[&asking, POD], |input| {
        let Ok(pod) = serde_json::from_slice::<Pod>(input) else { return };
        let own = std::sync::Arc::new(pod.clone());
        let beside = |there: &std::sync::Arc<Pod>, judged: &Pod| {
            let mut beside = Beside::default();
            beside.add(there, &pod_amounts(there, Kind::Requests));
            admit(judged, &beside, &node, Some(&machine), &config)
        };
        let _verdicts = (beside(&other, &pod), beside(&own, &other));
        let amounts: BTreeMap<_, _> = pod_amounts(&pod, Kind::Limits);
        assert!(amounts.len() < 1 << 16);
    });
}
