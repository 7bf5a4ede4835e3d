//! What lies in configuration files and stands in flags, mangled: it is a configuration, or it is said what is wrong.

use std::path::{Path, PathBuf};

use super::file::{SourceFile, base, merge};
use super::{cpuset, duration, labels, quantity};
use crate::mangled::{each, each_of, text};

const FILE: &str = "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {cacheTTL: 2m0s}, x509: {clientCAFile: ca.crt}}
clusterDNS: [10.96.0.10]
evictionHard: {memory.available: 100Mi, nodefs.available: 10%}
evictionSoftGracePeriod: {memory.available: 1m30s}
systemReserved: {cpu: 500m, memory: 1Gi}
qosReserved: {memory: 50%}
registerWithTaints: [{key: a, value: b, effect: NoSchedule}]
reservedMemory: [{numaNode: 0, limits: {memory: 1Gi}}]
shutdownGracePeriod: 30s
maxPods: 110
featureGates: {A: true}
staticPodURLHeader: {a: [b]}
";

#[test]
fn files() {
    let file = |content: &[u8]| SourceFile { path: PathBuf::from("/etc/config.yaml"), content: content.to_vec() };
    let seeds: [&[u8]; 3] = [
        FILE.as_bytes(),
        br#"{"apiVersion":"kubelet.config.k8s.io/v1beta1","kind":"KubeletConfiguration","maxPods":-1,"evictionHard":null,"clusterDNS":{}}"#,
        b"a: &a [x]\nb: [*a, *a, *a]\n? [c]\n: d\n--- \n...",
    ];
    each_of("config file", 5, &seeds, |input| {
        let (mut problems, source) = (Vec::new(), file(input));
        let config = base(&source, &mut problems);
        let config = merge(config, &[source], &mut problems);
        let _thresholds = super::thresholds::thresholds(&config, &mut problems);
        let _told: Vec<String> = problems.iter().map(ToString::to_string).collect();
    });
}

#[test]
fn flags() {
    let seeds: [&[u8]; 6] =
        [b"1h2m3.5s", b"-9223372036854775808ns", b"0-3,7,9-8", b"a/b=c:NoSchedule,d:NoExecute", b"1.5Gi", b"100m"];
    each("flag", &seeds, |input| {
        let text = text(input);
        if let Ok(read) = text.parse::<duration::GoDuration>() {
            // As it is written it is read again.
            assert_eq!(read.to_string().parse::<duration::GoDuration>().ok(), Some(read), "{text}");
        }
        let _amounts = (quantity::milli(&text), quantity::units(&text));
        let _cpus = cpuset::parse(&text);
        let _labels = (labels::parse_taints(&text), labels::qualified_name_error(&text), labels::label_value_error(&text));
        let _clean = super::file::clean(Path::new(&text));
    });
}
