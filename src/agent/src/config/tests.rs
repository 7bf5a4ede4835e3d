use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kubelet::config::{CgroupDriver, Config, Signal, ThresholdValue};
use serde_json::Value;

use super::flag_table::FLAGS;
use super::*;

mod machine;

fn machine() -> Machine {
    Machine {
        hostname: " Worker-1\n".to_owned(),
        working_dir: PathBuf::from("/work-dir"),
        home: None,
        cgroup_v2: true,
        online_cpus: "0-7\n".to_owned(),
    }
}

fn args(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn file(path: &str, content: &str) -> SourceFile {
    SourceFile { path: PathBuf::from(path), content: content.as_bytes().to_vec() }
}

/// A file with these fields besides apiVersion and kind.
fn config_file(fields: &str) -> SourceFile {
    file("/etc/kubernetes/kubelet.yaml", &format!("apiVersion: {}\nkind: {}\n{fields}", defaults::API_VERSION, defaults::KIND))
}

fn run(line: &str, config: Option<SourceFile>, drop_ins: Option<Vec<SourceFile>>) -> Result<Resolved, ConfigError> {
    match assemble(&args(line), Sources { config, drop_ins }, &machine())? {
        Invocation::Run(resolved) => Ok(*resolved),
        Invocation::Print(text) => panic!("printed {text}"),
    }
}

/// With this file and a kubeconfig.
fn with(fields: &str, line: &str) -> Resolved {
    run(&format!("--kubeconfig=/k {line}"), Some(config_file(fields)), None).unwrap_or_else(|error| panic!("{error}"))
}

fn problems(fields: &str, line: &str) -> Vec<String> {
    match run(&format!("--kubeconfig=/k {line}"), Some(config_file(fields)), None) {
        Ok(_) => Vec::new(),
        Err(error) => error.problems.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn an_empty_file_gives_the_core_upstreams_defaults() {
    let mut expected = Config::new("worker-1");
    expected.container_gc.max_total = None;
    expected.paths.working = Some("/work-dir".to_owned());
    assert_eq!(with("", "").kubelet, expected);
}

#[test]
fn a_start_without_file_keeps_the_legacy_defaults() {
    // API-002, API-242, NODE-020, NODE-021; INV-05: nobody is let in unasked but by a start without a file, or by one that says so.
    let legacy = run("--kubeconfig=/k", None, None).expect("valid");
    assert!(legacy.auth.anonymous);
    assert_eq!(legacy.auth.token_webhook, None);
    assert_eq!(legacy.auth.authorization, Authorization::AlwaysAllow);
    assert_eq!(legacy.server.read_only, Some("0.0.0.0:10255".parse().expect("an address")));
    assert_eq!(legacy.kubelet.eviction.thresholds, []);

    let strict = with("", "");
    assert!(!strict.auth.anonymous);
    assert_eq!(strict.auth.token_webhook, Some(Duration::from_mins(2)));
    assert!(matches!(strict.auth.authorization, Authorization::Webhook { .. }));
    assert_eq!(strict.server.read_only, None);
    let open = with("authentication: {anonymous: {enabled: true}}\nauthorization: {mode: AlwaysAllow}", "");
    assert!(open.auth.anonymous && matches!(open.auth.authorization, Authorization::AlwaysAllow));
    let half = with("", "--anonymous-auth=true");
    assert!(half.auth.anonymous && matches!(half.auth.authorization, Authorization::Webhook { .. }));
    // CRI-001: apis/config/v1beta1/defaults.go, kubelet.go (PreInitRuntimeService).
    assert_eq!(strict.runtime.endpoint, "unix:///run/containerd/containerd.sock");
    assert_eq!(strict.runtime.image_endpoint, strict.runtime.endpoint);
    let apart = with("imageServiceEndpoint: unix:///run/images.sock", "").runtime;
    assert_eq!(
        (apart.endpoint.as_str(), apart.image_endpoint.as_str()),
        (strict.runtime.endpoint.as_str(), "unix:///run/images.sock")
    );
    assert_eq!(with("readOnlyPort: 10355", "").server.read_only, Some("0.0.0.0:10355".parse().expect("an address")));
    assert_eq!(strict.kubelet.eviction.thresholds.len(), 6);

    // API-241: drop-ins alone are no file.
    let drop_in = config_file("maxPods: 7");
    let only_drop_ins = run("--kubeconfig=/k", None, Some(vec![drop_in])).expect("valid");
    assert!(only_drop_ins.auth.anonymous);
    assert_eq!(only_drop_ins.kubelet.pods.max, 7);
}

#[test]
fn flags_beat_drop_ins_and_drop_ins_beat_the_file() {
    // API-240
    let drop_in = |name: &str, fields: &str| SourceFile { path: PathBuf::from(name), ..config_file(fields) };
    let resolved = run(
        "--kubeconfig=/k --max-pods=4 --feature-gates=EventedPLEG=true",
        Some(config_file("maxPods: 1\npodsPerCore: 1\nport: 1001\nclusterDNS: [10.0.0.1, 10.0.0.2]\nfeatureGates: {MemoryQoS: true, EventedPLEG: false}")),
        Some(vec![drop_in("/d/10.conf", "maxPods: 2\npodsPerCore: 2\nclusterDNS: [10.0.0.3]"), drop_in("/d/20.conf", "podsPerCore: 3\nport: null")]),
    )
    .expect("valid");
    assert_eq!(resolved.kubelet.pods.max, 4, "flag");
    assert_eq!(resolved.kubelet.pods.per_core, 3, "the last drop-in");
    assert_eq!(resolved.kubelet.node.port, 10250, "null takes a value away");
    assert_eq!(resolved.kubelet.dns.cluster_dns, ["10.0.0.3".parse::<IpAddr>().expect("an address")], "lists are replaced");
    // NODE-025: gates add up, the flag wins.
    assert_eq!(
        resolved.effective().feature_gates,
        BTreeMap::from([("EventedPLEG".to_owned(), true), ("MemoryQoS".to_owned(), true)])
    );
}

#[test]
fn a_map_flag_replaces_the_map_and_adds_up_with_itself() {
    // NODE-025
    let resolved = with(
        "evictionHard: {memory.available: 1Gi}\nsystemReserved: {cpu: 1, pid: '5'}".replace("cpu: 1,", "cpu: '1',").as_str(),
        "--eviction-hard=nodefs.available<5% --eviction-hard imagefs.available<6% --system-reserved=memory=1Gi",
    );
    let signals: Vec<Signal> = resolved.kubelet.eviction.thresholds.iter().map(|threshold| threshold.signal).collect();
    assert_eq!(signals, [Signal::ImageFsAvailable, Signal::NodeFsAvailable]);
    assert_eq!(resolved.kubelet.reserved.system, BTreeMap::from([("memory".to_owned(), 1 << 30)]));
}

#[test]
fn relative_paths_of_the_file_are_below_its_directory() {
    // API-243; NODE-024 leaves those of drop-ins alone
    let resolved = run(
        "--kubeconfig=k.conf --root-dir=/var/lib/x/../kubelet/",
        Some(config_file("staticPodPath: manifests\nauthentication: {x509: {clientCAFile: ../pki/ca.crt}}\npodLogsDir: logs")),
        Some(vec![config_file("volumePluginDir: plugins")]),
    )
    .expect("valid");
    assert_eq!(resolved.kubelet.static_pods.path.as_deref(), Some("/etc/kubernetes/manifests"));
    assert_eq!(resolved.auth.client_ca_file.as_deref(), Some(Path::new("/etc/pki/ca.crt")));
    assert_eq!(resolved.kubelet.paths.pod_logs, "/etc/kubernetes/logs");
    assert_eq!(resolved.kubelet.paths.volume_plugins, "plugins");
    assert_eq!(resolved.kubelet.paths.root, "/var/lib/kubelet");
    assert_eq!(resolved.api.kubeconfig.as_deref(), Some(Path::new("/work-dir/k.conf")));
}

#[test]
fn status_is_sent_as_often_as_computed_if_only_that_was_set() {
    // NODE-026
    let period = |resolved: Resolved| resolved.kubelet.node.status_report_frequency;
    assert_eq!(period(with("", "")), Duration::from_mins(5));
    assert_eq!(period(with("nodeStatusUpdateFrequency: 7s", "")), Duration::from_secs(7));
    assert_eq!(period(with("nodeStatusUpdateFrequency: 7s\nnodeStatusReportFrequency: 9s", "")), Duration::from_secs(9));
    assert_eq!(period(with("", "--node-status-update-frequency=7s")), Duration::from_mins(5));
    let drop_in = run("--kubeconfig=/k", Some(config_file("")), Some(vec![config_file("nodeStatusUpdateFrequency: 7s")]));
    assert_eq!(period(drop_in.expect("valid")), Duration::from_mins(5));
}

#[test]
fn a_given_map_of_thresholds_replaces_the_defaults_unless_merging() {
    // NODE-022
    let signals = |resolved: Resolved| -> Vec<&'static str> {
        resolved.kubelet.eviction.thresholds.iter().map(|threshold| threshold.signal.as_str()).collect()
    };
    assert_eq!(signals(with("evictionHard: {memory.available: 1Gi}", "")), ["memory.available", "allocatableMemory.available"]);
    assert_eq!(signals(with("evictionHard: {}", "")), Vec::<&str>::new());
    let merged = signals(with("evictionHard: {memory.available: 1Gi}\nmergeDefaultEvictionSettings: true", ""));
    assert_eq!(merged.len(), 6);
    // The default map is there when a drop-in comes, so that one merges.
    let drop_in = run("--kubeconfig=/k", Some(config_file("")), Some(vec![config_file("evictionHard: {memory.available: 1Gi}")]));
    let thresholds = drop_in.expect("valid").kubelet.eviction.thresholds;
    assert_eq!(thresholds.len(), 6);
    assert_eq!(thresholds[2].value, ThresholdValue::Quantity(1 << 30));
}

#[test]
fn every_unknown_field_is_named_with_its_path_and_what_was_meant() {
    let found = problems(
        "maxPodz: 5\nauthentication: {x509: {clientCaFile: /a}, webhok: {}}\nregisterWithTaints: [{key: a, effect: NoSchedule}, {kee: b, key: c, effect: NoExecute}]\nnonsense: {a: 1}",
        "",
    );
    assert_eq!(
        found,
        [
            "unknown field \"authentication.webhok\" (value {}) in /etc/kubernetes/kubelet.yaml; did you mean authentication.webhook?",
            "unknown field \"authentication.x509.clientCaFile\" (value \"/a\") in /etc/kubernetes/kubelet.yaml; did you mean authentication.x509.clientCAFile?",
            "unknown field \"maxPodz\" (value 5) in /etc/kubernetes/kubelet.yaml; did you mean maxPods?",
            "unknown field \"nonsense\" (value {\"a\":1}) in /etc/kubernetes/kubelet.yaml; remove it; KubeletConfiguration v1beta1 has no such field",
            "unknown field \"registerWithTaints[1].kee\" (value \"b\") in /etc/kubernetes/kubelet.yaml; did you mean registerWithTaints[1].key?",
        ]
    );
}

#[test]
fn every_wrong_value_is_named_together_with_unknown_fields_and_flags() {
    let found = problems(
        "maxPods: many\nsyncFrequency: 5 minutes\nclusterDNS: [10.0.0.1, 5, 10.0.0.2, 6]\nregistryBurst: -1\nenableServer: 'yes'\ntypo: 1",
        "--nod-ip=10.0.0.1 --max-pods x --network-plugin=cni run",
    );
    let has = |part: &str| assert!(found.iter().any(|problem| problem.contains(part)), "{part} is not in {found:#?}");
    has("unknown flag: --nod-ip (value 10.0.0.1); did you mean --node-ip?");
    has("invalid argument \"x\" for \"--max-pods\" flag: strconv.ParseInt: parsing \"x\": invalid syntax");
    has("unknown flag: --network-plugin (value cni); remove it: the container runtime sets up networks; removed in 1.24");
    has("unknown command run");
    has("field \"maxPods\" has a wrong value: invalid type: string \"many\", expected i32");
    has("field \"syncFrequency\" has a wrong value: time: invalid duration \"5 minutes\"");
    has("field \"clusterDNS[1]\" has a wrong value");
    has("field \"clusterDNS[3]\" has a wrong value");
    has("field \"enableServer\" has a wrong value: invalid type: string \"yes\", expected a boolean");
    has("unknown field \"typo\"");
    has("invalid configuration: registryBurst (--registry-burst) -1 must not be a negative number; give 0 or more");
    assert_eq!(found.len(), 11, "{found:#?}");
}

#[test]
fn files_that_are_no_configuration_say_so() {
    // NODE-023, NODE-024
    let one = |content: &str| match run("--kubeconfig=/k", Some(file("/c.yaml", content)), None) {
        Ok(_) => panic!("{content:?} was accepted"),
        Err(error) => error.problems[0].to_string(),
    };
    assert!(one("").starts_with("kubelet config file \"/c.yaml\" was empty"));
    assert!(one("kind: KubeletConfiguration").starts_with("Object 'apiVersion' is missing"));
    assert!(one("apiVersion: v1\nkind: Pod").starts_with("no kind \"KubeletConfiguration\" is registered for apiVersion \"v1\""));
    assert!(one("a: [").starts_with("failed to decode /c.yaml"));
    assert!(one("- a").starts_with("kubelet config file \"/c.yaml\" holds no fields"));
    let twice = format!("apiVersion: {}\nkind: {}\nmaxPods: 1\nmaxPods: 2\n", defaults::API_VERSION, defaults::KIND);
    assert!(one(&twice).starts_with("failed to decode /c.yaml"));
    let drop_in = run("--kubeconfig=/k", Some(config_file("")), Some(vec![file("/d/a.conf", "maxPods: 5")]));
    assert_eq!(drop_in.expect_err("no kind").problems[0].file.as_deref(), Some("/d/a.conf"));
}

#[test]
fn yaml_one_point_one_words_for_booleans_are_understood() {
    let core = with("failSwapOn: no\nseccompDefault: on\nprotectKernelDefaults: Yes", "").kubelet;
    assert_eq!((core.node.fail_swap_on, core.pods.seccomp_default, core.node.protect_kernel_defaults), (false, true, true));
}

#[test]
fn a_missing_file_and_a_missing_directory_are_both_reported() {
    let error = load(&args("--kubeconfig=/k --config=none.yaml --config-dir=none.d"), &machine()).expect_err("nothing there");
    let fields: Vec<&str> = error.problems.iter().map(|problem| problem.field.as_str()).collect();
    assert_eq!(fields, ["--config", "--config-dir"]);
    assert!(error.problems[0].message.starts_with("failed to load kubelet config file, path: /work-dir/none.yaml, error: "));
}

#[test]
fn drop_ins_apply_in_lexical_order_through_directories() {
    // API-241
    let dir = std::env::temp_dir().join(format!("keelson-drop-ins-{}", std::process::id()));
    let write = |name: &str, pods: u32| {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().expect("below dir")).expect("a directory");
        let content = format!("apiVersion: {}\nkind: {}\nmaxPods: {pods}\n", defaults::API_VERSION, defaults::KIND);
        std::fs::write(path, content).expect("a file");
    };
    write("20-b.conf", 20);
    write("10-a/99.conf", 10);
    write("15.conf", 15);
    write("30.yaml", 30);
    let files = file::read_drop_ins(&dir.display().to_string(), Path::new("/"));
    std::fs::remove_dir_all(&dir).expect("ours");
    let names: Vec<PathBuf> = files.expect("readable").into_iter().map(|file| file.path).collect();
    assert_eq!(names, [dir.join("10-a/99.conf"), dir.join("15.conf"), dir.join("20-b.conf")]);
}

// INV-16: what /configz shows can be given to an agent as its file, and is in force there.
#[test]
fn effective_configuration_is_one_to_start_with() {
    let fields = "failSwapOn: false\nmaxPods: 42\nclusterDNS: [10.96.0.10]\nsyncFrequency: 90s\nevictionHard: {memory.available: 5%}\n\
                  featureGates: {MemoryQoS: true}\nreservedSystemCPUs: '0'\nimageMinimumGCAge: 3m0.5s";
    let first = with(fields, "--node-ip=10.0.0.9 --max-pods=43 --v=4");
    let shown = serde_json::to_value(first.effective()).expect("it is JSON");
    let content = shown.to_string();
    let again = run("--kubeconfig=/k --node-ip=10.0.0.9", Some(file("/etc/kubernetes/again.json", &content)), None);
    let again = again.unwrap_or_else(|error| panic!("{error}\n{content}"));
    assert_eq!(serde_json::to_value(again.effective()).expect("it is JSON"), shown);
    assert_eq!(again.kubelet, first.kubelet);
    assert_eq!(again.kubelet.pods.max, 43);
}

// API-225: without an API server nobody can be asked who somebody is and what they may; that is said of both.
#[test]
fn standalone_agent_cannot_ask_who_may_do_what() {
    let standalone = |fields: &str| run("", Some(config_file(&format!("failSwapOn: false\n{fields}"))), None);
    let error = standalone("").unwrap_err();
    let told: Vec<String> = error.problems.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("no client provided, cannot use webhook authentication"), "{told:?}");
    assert!(told[1].starts_with("no client provided, cannot use webhook authorization"), "{told:?}");
    let off = "authentication: {webhook: {enabled: false}}\nauthorization: {mode: AlwaysAllow}";
    let resolved = standalone(off).unwrap_or_else(|error| panic!("{error}"));
    assert!(resolved.kubelet.node.standalone && resolved.api.kubeconfig.is_none());
}

// POD-203: one image at a time, unless the configuration says otherwise, by either of its words.
#[test]
fn images_are_pulled_one_by_one_unless_told_otherwise() {
    let most = |fields: &str| with(&format!("failSwapOn: false\n{fields}"), "").kubelet.images.max_parallel_pulls;
    assert_eq!(most(""), Some(1));
    assert_eq!(most("serializeImagePulls: false"), None);
    assert_eq!(most("maxParallelImagePulls: 5"), Some(5));
    assert_eq!(most("serializeImagePulls: false\nmaxParallelImagePulls: 5"), Some(5));
}

// NODE-205: with another policy than none nothing is pinned either, and that is said.
#[test]
fn policies_without_effect_are_warned_of() {
    let warned = |fields: &str| with(&format!("failSwapOn: false\n{fields}"), "").warnings;
    assert_eq!(warned("cpuManagerPolicy: none"), [""; 0]);
    let fields = "cpuManagerPolicy: static\nreservedSystemCPUs: '0'\ntopologyManagerPolicy: best-effort";
    let warnings: Vec<String> = warned(fields).into_iter().filter(|warning| warning.contains("Policy ")).collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].starts_with("cpuManagerPolicy static is not supported yet and has no effect"), "{warnings:?}");
    assert!(warnings[1].starts_with("topologyManagerPolicy best-effort is not supported yet"), "{warnings:?}");
}

// S19: whatever is accepted and does nothing is named when it is set, and only then.
#[test]
fn settings_without_effect_are_warned_of_by_name() {
    let warned = |fields: &str| {
        let warnings = with(&format!("failSwapOn: false\n{fields}"), "").warnings;
        let fields = warnings.iter().filter_map(|warning| warning.split_once(" is not supported yet and has no effect: "));
        fields.map(|(field, _)| field.to_owned()).collect::<Vec<_>>()
    };
    let set = [
        ("evictionHard: {memory.available: 1Gi}", "evictionHard"),
        (
            "evictionSoft: {memory.available: 1Gi}\nevictionSoftGracePeriod: {memory.available: 1m}",
            "evictionSoft, evictionSoftGracePeriod",
        ),
        ("shutdownGracePeriod: 30s\nshutdownGracePeriodCriticalPods: 10s", "shutdownGracePeriod, shutdownGracePeriodCriticalPods"),
        ("kubeAPIQPS: 100\nkubeAPIBurst: 200", "kubeAPIQPS, kubeAPIBurst"),
        ("tracing: {endpoint: 'localhost:4317', samplingRatePerMillion: 100}", "tracing"),
        ("enableContentionProfiling: true", "enableContentionProfiling"),
        ("cpuManagerPolicy: static\nreservedSystemCPUs: '0'", "cpuManagerPolicy static"),
        ("logging: {vmodule: [{filePattern: a, verbosity: 3}]}", "logging.vmodule"),
    ];
    for (fields, expected) in set {
        assert_eq!(warned(fields).join(", "), expected);
    }
    for idle in [
        "",
        "enforceNodeAllocatable: [none]\ncontentType: application/json\nenableProfilingHandler: false\nevictionPressureTransitionPeriod: 0s",
        "evictionHard: {memory.available: 100Mi, nodefs.available: 10%, nodefs.inodesFree: 5%, imagefs.available: 15%, imagefs.inodesFree: 5%}",
    ] {
        assert_eq!(warned(idle), [""; 0], "{idle}");
    }
}

#[test]
fn flags_are_read_as_gos_pflag_reads_them() {
    let flags = "--max_pods 5 --port=1000 --fail-swap-on=false --rotate-certificates --cluster-dns=10.0.0.1,10.0.0.2 --cluster-dns 10.0.0.3 \
                 --node-labels=a=b,c --node-ip=10.0.0.9 --register-with-taints=k=v:NoSchedule -v=4 --resolv-conf= \
                 --cpu-manager-policy-options=full-pcpus-only=true --hostname-override=NODE-a --vmodule=a=1";
    let resolved = with("failSwapOn: true", flags);
    let core = &resolved.kubelet;
    assert_eq!((core.pods.max, core.node.port, core.node.fail_swap_on), (5, 1000, false));
    assert_eq!(core.dns.cluster_dns.len(), 3);
    assert_eq!(core.dns.resolv_conf, "");
    assert_eq!(core.node.labels, BTreeMap::from([("a".to_owned(), "b".to_owned()), ("c".to_owned(), String::new())]));
    assert_eq!(core.node.ips, ["10.0.0.9".parse::<IpAddr>().expect("an address")]);
    assert_eq!(core.node.register_with_taints[0].key, "k");
    assert_eq!(&*core.node.name, "node-a", "NODE-003");
    assert_eq!(resolved.logging.verbosity, 4);
    assert!(resolved.api.rotate_certificates);
    let warned = |part: &str| resolved.warnings.iter().any(|warning| warning.starts_with(part));
    assert!(warned("Flag --max-pods has been deprecated, This parameter should be set via the config file"));
    assert!(warned("Flag --vmodule is ignored"));
    assert!(!warned("Flag --node-ip"));
    for short in ["-v2", "-v 2", "--v=2", "--v 2"] {
        assert_eq!(with("", short).logging.verbosity, 2, "{short}");
    }
}

#[test]
fn version_and_help_print_and_do_nothing_else() {
    // API-244: kubeadm parses the line.
    for line in ["--version", "--version=raw", "--version=true --config=/none"] {
        assert_eq!(load(&args(line), &machine()), Ok(Invocation::Print("Kubernetes v1.36.2\n".to_owned())), "{line}");
    }
    for line in ["--help", "-h"] {
        let Ok(Invocation::Print(text)) = load(&args(line), &machine()) else { panic!("{line} does not print") };
        assert!(FLAGS.iter().all(|flag| text.contains(flag.help)));
        assert!(text.contains("      --max-pods int32\n"));
    }
}

#[test]
fn the_table_of_flags_is_sorted_and_holds_no_removed_flag() {
    assert!(FLAGS.windows(2).all(|pair| pair[0].name < pair[1].name), "sorted, no name twice");
    for (removed, _) in flag_table::REMOVED {
        assert!(FLAGS.iter().all(|flag| flag.name != *removed), "{removed} is not removed");
    }
}

// API-001: the port that is served is the one that the node tells, unless nothing is served at all.
#[test]
fn served_port_is_the_one_that_the_node_tells() {
    let served = with("address: 192.0.2.1\nport: 10350\n", "");
    assert_eq!(served.server.https, Some("192.0.2.1:10350".parse().expect("an address")));
    assert_eq!(served.kubelet.node.port, 10350);
    assert_eq!(with("", "").server.https.map(|address| address.port()), Some(10250));
    assert_eq!(with("enableServer: false\n", "").server.https, None);
}

// API-245: what can be said by flags alone, and what is called otherwise than its field.
#[test]
fn flags_that_are_no_field_or_have_another_name_are_known() {
    let alone = "config config-dir kubeconfig bootstrap-kubeconfig hostname-override node-ip node-labels seccomp-default cert-dir \
                 root-dir cloud-provider runtime-cgroups lock-file exit-on-lock-contention image-credential-provider-config \
                 image-credential-provider-bin-dir housekeeping-interval version help minimum-container-ttl-duration \
                 maximum-dead-containers maximum-dead-containers-per-container";
    let renamed = "pod-manifest-path manifest-url manifest-url-header rotate-server-certificates reserved-cpus event-qps \
                   registry-qps pod-max-pids image-gc-high-threshold image-gc-low-threshold minimum-image-ttl-duration \
                   contention-profiling kube-api-content-type anonymous-auth client-ca-file authentication-token-webhook \
                   authentication-token-webhook-cache-ttl authorization-mode authorization-webhook-cache-authorized-ttl \
                   authorization-webhook-cache-unauthorized-ttl";
    let unknown = |name: &&str| FLAGS.iter().all(|flag| flag.name != *name);
    let missing: Vec<&str> = alone.split_whitespace().chain(renamed.split_whitespace()).filter(unknown).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// The page about flags, from the table.
fn flags_page() -> String {
    let mut page = String::from(
        "# Flags\n\nWritten from the table in `src/agent/src/config/flag_table.rs`; \
         `KEELSON_REGENERATE=1 cargo test -p agent the_page_about_flags` writes it anew.\n\
         Underscores and hyphens in names are the same. A flag beats the configuration file.\n\n| Flag | Value | |\n|---|---|---|\n",
    );
    for flag in FLAGS {
        let note = match flag.standing {
            flags::Standing::Current => String::new(),
            flags::Standing::Deprecated(why) if why.starts_with("This parameter") => {
                " Deprecated: set it in the configuration file.".to_owned()
            }
            flags::Standing::Deprecated(why) => format!(" Deprecated: {why}"),
            flags::Standing::Ignored(why) => format!(" Ignored: {why}"),
        };
        let value = flag.kind.value_name();
        page.push_str(&format!("| `--{}` | {} | {}{note} |\n", flag.name, value, flag.help).replace('<', "&lt;"));
    }
    page.push_str("\n## Flags that are gone\n\n| Flag | |\n|---|---|\n");
    for (name, why) in flag_table::REMOVED {
        page.push_str(&format!("| `--{name}` | {why} |\n"));
    }
    page.push_str(
        "\n## Fields of the configuration without effect\n\nWritten from `src/agent/src/config/effects.rs`. They are read and checked as upstream's; \
         where one is set to something else than its default, the start warns.\n\n| Field | What is done is as if it were | Why |\n|---|---|---|\n",
    );
    for (field, one, why) in effects::without_effect() {
        let one = if one.is_empty() { "not set".to_owned() } else { format!("`{one}`") };
        page.push_str(&format!("| `{field}` | {one} | {why} |\n"));
    }
    page
}

#[test]
fn the_page_about_flags_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/flags.md");
    if std::env::var_os("KEELSON_REGENERATE").is_some() {
        std::fs::write(&path, flags_page()).expect("writable");
    }
    assert!(std::fs::read_to_string(&path).is_ok_and(|page| page == flags_page()), "run with KEELSON_REGENERATE=1");
}

/// Fields that contradict, and what upstream says of them.
const CONTRADICTIONS: &[(&str, &str)] = &[
    ("nodeLeaseDurationSeconds: -1", "invalid configuration: nodeLeaseDurationSeconds must be greater than 0"),
    (
        "systemCgroups: /system",
        "invalid configuration: systemCgroups (--system-cgroups) was specified and cgroupRoot (--cgroup-root) was not specified",
    ),
    ("healthzPort: 70000", "invalid configuration: healthzPort (--healthz-port) 70000 must be between 1 and 65535, inclusive"),
    ("port: 70000", "invalid configuration: port (--port) 70000 must be between 1 and 65535, inclusive"),
    (
        "cpuCFSQuotaPeriod: 2s",
        "invalid configuration: cpuCFSQuotaPeriod (--cpu-cfs-quota-period) {2s} must be between 1ms and 1sec, inclusive",
    ),
    (
        "imageGCHighThresholdPercent: 101",
        "invalid configuration: imageGCHighThresholdPercent (--image-gc-high-threshold) 101 must be between 0 and 100, inclusive",
    ),
    ("imageMaximumGCAge: 1m", "invalid configuration: imageMaximumGCAge 1m0s must be greater than imageMinimumGCAge 2m0s"),
    ("nodeStatusMaxImages: -2", "invalid configuration: nodeStatusMaxImages (--node-status-max-images) -2 must be -1 or greater"),
    ("oomScoreAdj: 1001", "invalid configuration: oomScoreAdj (--oom-score-adj) 1001 must be between -1000 and 1000, inclusive"),
    ("maxParallelImagePulls: 0", "invalid configuration: maxParallelImagePulls 0 must be a positive number"),
    (
        "maxParallelImagePulls: 2\nserializeImagePulls: true",
        "invalid configuration: maxParallelImagePulls cannot be larger than 1 unless SerializeImagePulls (--serialize-image-pulls) is set to false",
    ),
    ("runOnce: true", "invalid configuration: runOnce (--runOnce) true, Runonce mode has been deprecated and should not be set"),
    ("registerWithTaints: [{key: a, effect: Never}]", "invalid taint: {a  Never <nil>}"),
    (
        "topologyManagerPolicy: best",
        "invalid configuration: topologyManagerPolicy (--topology-manager-policy) \"best\" must be one of: [\"none\" \"best-effort\" \"restricted\" \"single-numa-node\"]",
    ),
    ("shutdownGracePeriod: 500ms", "invalid configuration: shutdownGracePeriod {500ms} must be either zero or otherwise >= 1 sec"),
    (
        "shutdownGracePeriodCriticalPods: 1s",
        "invalid configuration: shutdownGracePeriodCriticalPods {1s} must be <= shutdownGracePeriod {0s}",
    ),
    (
        "memorySwap: {swapBehavior: Much}",
        "invalid configuration: memorySwap.swapBehavior \"Much\" must be one of: \"\", \"LimitedSwap\" or \"NoSwap\"",
    ),
    (
        "crashLoopBackOff: {maxContainerRestartPeriod: 301s}",
        "invalid configuration: CrashLoopBackOff.MaxContainerRestartPeriod (got: 301 seconds) must be set between 1s and 300s",
    ),
    (
        "enforceNodeAllocatable: [pods, pods]",
        "invalid configuration: duplicated enforcements \"pods\" in enforceNodeAllocatable (--enforce-node-allocatable)",
    ),
    (
        "enforceNodeAllocatable: [none, pods]",
        "invalid configuration: enforceNodeAllocatable (--enforce-node-allocatable) may not contain additional enforcements when \"none\" is specified",
    ),
    (
        "enforceNodeAllocatable: [kube-reserved]",
        "invalid configuration: kubeReservedCgroup (--kube-reserved-cgroup) must be specified when \"kube-reserved\" or \"kube-reserved-compressible\" included in enforceNodeAllocatable (--enforce-node-allocatable)",
    ),
    (
        "cgroupsPerQOS: false",
        "invalid configuration: cgroupsPerQOS (--cgroups-per-qos) must be set to true when \"pods\" contained in enforceNodeAllocatable (--enforce-node-allocatable)",
    ),
    (
        "hairpinMode: x",
        "invalid configuration: option \"x\" specified for hairpinMode (--hairpin-mode). Valid options are \"none\", \"hairpin-veth\" or \"promiscuous-bridge\"",
    ),
    (
        "reservedSystemCPUs: 0-1\nkubeReservedCgroup: /a",
        "invalid configuration: can't use reservedSystemCPUs (--reserved-cpus) with systemReservedCgroup (--system-reserved-cgroup) or kubeReservedCgroup (--kube-reserved-cgroup)",
    ),
    (
        "reservedMemory: [{numaNode: 0, limits: {memory: 0}}]",
        "invalid configuration: reserved memory may not be zero for NUMA node 0 and resource \"memory\"",
    ),
    (
        "memoryThrottlingFactor: 1.5",
        "invalid configuration: memoryThrottlingFactor 1.5 must be greater than 0 and less than or equal to 1.0",
    ),
    (
        "memoryReservationPolicy: TieredReservation",
        "invalid configuration: memoryReservationPolicy \"TieredReservation\" requires MemoryQoS feature gate to be enabled",
    ),
    ("containerLogMaxFiles: 1", "invalid configuration: containerLogMaxFiles must be greater than 1"),
    (
        "containerLogMonitorInterval: 2s",
        "invalid configuration: containerLogMonitorInterval must be a positive time duration greater than or equal to 3s",
    ),
    ("podLogsDir: /var/log/pods/", "invalid configuration: pod logs path \"/var/log/pods/\" must be normalized"),
    ("userNamespaces: {idsPerPod: 65537}", "invalid configuration: userNamespaces.idsPerPod must be a multiple of 65536"),
    (
        "enableSystemLogQuery: true\nenableSystemLogHandler: false",
        "invalid configuration: enableSystemLogHandler is required for enableSystemLogQuery",
    ),
    ("logging: {format: xml}", "logging.format: Invalid value: \"xml\": Unsupported log format"),
    ("evictionSoft: {memory.available: 1Gi}", "grace period must be specified for the soft eviction threshold memory.available"),
    ("evictionHard: {memory.free: 1Gi}", "unsupported eviction signal memory.free"),
    ("kubeReserved: {gpu: '1'}", "--kube-reserved value failed to parse: cannot reserve \"gpu\" resource"),
    ("featureGates: {Nope: true}", "unrecognized feature gate: Nope"),
    ("authorization: {mode: RBAC}", "unknown authorization mode RBAC"),
    ("tlsCertFile: /a", "tlsCertFile and tlsPrivateKeyFile must be set together"),
    ("tlsCipherSuites: [TLS_RSA_WITH_NULL_SHA]", "Cipher suite TLS_RSA_WITH_NULL_SHA not supported or doesn't exist"),
    (
        "tlsCipherSuites: [TLS_RSA_WITH_RC4_128_SHA, TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA]",
        "none of the cipher suites in tlsCipherSuites can be served: TLS_RSA_WITH_RC4_128_SHA, TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    ),
    ("tlsCurvePreferences: [70000]", "curve preference 70000 is out of range (must be 1-65535)"),
    ("tlsCurvePreferences: [23, 29, 23]", "duplicate curve preference 23"),
    ("tlsCurvePreferences: [9999]", "curve preference 9999 is not supported"),
    ("tlsCurvePreferences: [25, 4588]", "none of the groups in tlsCurvePreferences can be served: 25, 4588"),
];

#[test]
fn settings_that_contradict_are_all_reported_in_upstreams_words() {
    // API-247 to API-250, NODE-027
    for (fields, message) in CONTRADICTIONS.iter().copied() {
        match run("--kubeconfig=/k", Some(config_file(fields)), None) {
            Ok(_) => panic!("{fields} was accepted"),
            Err(error) => {
                let messages: Vec<&str> = error.problems.iter().map(|problem| problem.message.as_str()).collect();
                assert_eq!(messages, [message], "{fields}");
                assert!(!error.problems[0].remedy.is_empty(), "{fields}");
            }
        }
    }
}

#[test]
fn flags_that_contradict_are_reported() {
    for (line, message) in [
        (
            "--node-ip=10.0.0.1,10.0.0.2",
            "bad --node-ip \"10.0.0.1,10.0.0.2\": must contain either a single IP or a dual-stack pair of IPs",
        ),
        ("--node-ip=10.0.0.1,::", "bad --node-ip \"10.0.0.1,::\": dual-stack node IP cannot include '0.0.0.0' or '::'"),
        ("--cloud-provider=aws", "unsupported cloud provider: \"aws\""),
        ("--exit-on-lock-contention", "cannot exit on lock file contention: no lock file specified"),
        ("--max-pods", "flag needs an argument: --max-pods"),
        ("-config=/a", "unknown shorthand flag: 'c' in -config=/a"),
        ("--register-with-taints=a", "invalid argument \"a\" for \"--register-with-taints\" flag: invalid taint spec: a"),
        (
            "--eviction-hard=memory.available=1Gi",
            "invalid argument \"memory.available=1Gi\" for \"--eviction-hard\" flag: malformed pair, expect string<string",
        ),
    ] {
        let error = run(&format!("--kubeconfig=/k {line}"), Some(config_file("")), None).expect_err(line);
        assert_eq!(error.problems.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>(), [message], "{line}");
    }
    // NODE-082: garbage is dropped with a warning.
    let resolved = with("", "--node-ip=10.0.0.1,x");
    assert_eq!(resolved.kubelet.node.ips.len(), 1);
    assert!(resolved.warnings[0].contains("ignoring them: x"));
}

#[test]
fn a_host_with_cgroup_v1_is_refused_unless_allowed() {
    // NODE-028, API-250
    let v1 = Machine { cgroup_v2: false, ..machine() };
    let start =
        |fields: &str| assemble(&args("--kubeconfig=/k"), Sources { config: Some(config_file(fields)), drop_ins: None }, &v1);
    let error = start("").expect_err("v1");
    assert!(error.problems[0].message.starts_with("kubelet is configured to not run on a host using cgroup v1."));
    let Ok(Invocation::Run(allowed)) = start("failCgroupV1: false") else { panic!("v1 was allowed") };
    assert!(allowed.kubelet.pods.single_process_oom_kill);
}

#[test]
fn reserved_cpus_replace_the_cpu_of_both_reservations() {
    // NODE-144
    let reserved =
        with("reservedSystemCPUs: 0-1,4\nkubeReserved: {cpu: 200m, memory: 1Gi}\nsystemReserved: {cpu: '1'}", "").kubelet.reserved;
    assert_eq!(reserved.system["cpu"], 3000);
    assert_eq!(reserved.kube, BTreeMap::from([("memory".to_owned(), 1 << 30)]));
    assert_eq!(reserved.total("cpu"), 3000);
}

#[test]
fn soft_thresholds_have_their_grace_and_reclaim() {
    let eviction = with(
        "evictionHard: {}\nevictionSoft: {memory.available: 1.5Gi}\nevictionSoftGracePeriod: {memory.available: 1m30s}\nevictionMinimumReclaim: {memory.available: 10%}",
        "",
    )
    .kubelet
    .eviction;
    let threshold = eviction.thresholds[0];
    assert_eq!(threshold.value, ThresholdValue::Quantity(3 << 29));
    assert_eq!(threshold.grace_period, Duration::from_secs(90));
    assert_eq!(threshold.min_reclaim, Some(ThresholdValue::Fraction(0.1)));
}

#[test]
fn what_kubeadm_writes_is_understood() {
    // API-320, API-322
    let config = file("/var/lib/kubelet/config.yaml", include_str!("../../testdata/config/kubeadm.yaml"));
    let line = "--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf \
                --config=/var/lib/kubelet/config.yaml --container-runtime-endpoint=unix:///var/run/containerd/containerd.sock \
                --hostname-override=cp-1 --node-ip=192.168.56.10 --register-with-taints=node-role.kubernetes.io/control-plane:NoSchedule";
    let resolved = run(line, Some(config), None).unwrap_or_else(|error| panic!("{error}"));
    let core = &resolved.kubelet;
    assert_eq!(core.cgroups.driver, CgroupDriver::Systemd);
    assert_eq!(core.static_pods.path.as_deref(), Some("/etc/kubernetes/manifests"));
    assert_eq!(core.dns.resolv_conf, "/run/systemd/resolve/resolv.conf");
    assert_eq!(core.node.status_report_frequency, Duration::from_mins(5));
    assert_eq!(core.eviction.thresholds.len(), 6);
    assert_eq!(resolved.runtime.endpoint, "unix:///var/run/containerd/containerd.sock");
    assert_eq!(resolved.runtime.image_endpoint, resolved.runtime.endpoint);
    assert_eq!(resolved.api.bootstrap_kubeconfig.as_deref(), Some(Path::new("/etc/kubernetes/bootstrap-kubelet.conf")));
    assert!(resolved.api.rotate_certificates);
    assert!(
        matches!(&resolved.tls.source, CertificateSource::SelfSigned { certificate, .. } if certificate == Path::new("/var/lib/kubelet/pki/kubelet.crt"))
    );
    assert_eq!(resolved.server.healthz, Some("127.0.0.1:10248".parse().expect("an address")));
    // S19: kubeadm writes fields out that are as they are by default.
    assert!(!resolved.warnings.iter().any(|warning| warning.contains("no effect")), "{:?}", resolved.warnings);
}

#[test]
fn what_k3s_passes_is_understood() {
    // API-323
    let drop_in = file(
        "/var/lib/rancher/k3s/agent/etc/kubelet.conf.d/00-k3s-defaults.conf",
        include_str!("../../testdata/config/k3s-00-defaults.conf"),
    );
    let line = "--cloud-provider=external --config-dir=/var/lib/rancher/k3s/agent/etc/kubelet.conf.d \
                --containerd=/run/k3s/containerd/containerd.sock --hostname-override=edge-1 --kubeconfig=/var/lib/rancher/k3s/agent/kubelet.kubeconfig \
                --node-ip=10.0.0.5 --node-labels=plan.upgrade.cattle.io/k3s=yes --read-only-port=0 --root-dir=/var/lib/kubelet \
                --cert-dir=/var/lib/rancher/k3s/agent --runtime-cgroups=/k3s";
    let resolved = run(line, None, Some(vec![drop_in])).unwrap_or_else(|error| panic!("{error}"));
    let core = &resolved.kubelet;
    assert!(core.node.external_cloud_provider);
    assert!(!resolved.auth.anonymous);
    assert_eq!(resolved.server.read_only, None);
    assert_eq!(core.images.max_parallel_pulls, None);
    assert_eq!(core.cgroups.runtime, "/k3s");
    assert_eq!(core.eviction.thresholds.len(), 2);
    assert_eq!(core.pods.allowed_unsafe_sysctls.len(), 2);
    assert!(matches!(&resolved.tls.source, CertificateSource::Files { .. }));
}

#[test]
fn what_talos_passes_is_understood() {
    // API-323
    let config = file("/etc/kubernetes/kubelet.yaml", include_str!("../../testdata/config/talos.yaml"));
    let line = "--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubeconfig --kubeconfig=/etc/kubernetes/kubeconfig-kubelet \
                --config=/etc/kubernetes/kubelet.yaml --cert-dir=/var/lib/kubelet/pki --hostname-override=talos-a --node-ip=10.5.0.2 \
                --cloud-provider=external --image-credential-provider-config=/etc/kubernetes/credentialproviderconfig.yaml \
                --image-credential-provider-bin-dir=/usr/local/lib/kubelet/credentialproviders";
    let resolved = run(line, Some(config), None).unwrap_or_else(|error| panic!("{error}"));
    let core = &resolved.kubelet;
    assert!(resolved.logging.json);
    assert!(resolved.tls.terms.only_tls13);
    assert!(!core.node.fail_swap_on);
    assert!(core.pods.seccomp_default);
    assert_eq!(core.dns.cluster_dns.len(), 2);
    assert_eq!(core.shutdown.grace_by_priority, [(0, Duration::from_secs(20)), (2_000_000_000, Duration::from_secs(10))]);
    assert_eq!((core.reserved.total("cpu"), core.reserved.total("pid"), core.reserved.total("memory")), (100, 200, 768 << 20));
    assert_eq!(core.static_pods.url.as_deref(), Some("http://127.0.0.1:38485/"));
    assert!(resolved.credential_provider.is_some());
}

#[test]
fn the_effective_configuration_is_what_a_real_kubelet_shows() {
    let golden: Value = serde_json::from_str(include_str!("../../testdata/config/configz.json")).expect("JSON");
    let golden = golden["kubeletconfig"].clone();
    // What the kubelet that answered it had been given.
    let config = config_file(
        "authentication: {x509: {clientCAFile: /var/lib/lab/pki/ca.crt}}\ncgroupDriver: cgroupfs\nclusterDNS: [10.96.0.10]\nclusterDomain: cluster.local\n\
         containerRuntimeEndpoint: unix:///var/lib/lab/run/containerd.sock\nevictionHard: {memory.available: 100Mi}\nfailCgroupV1: false\nfailSwapOn: false\n\
         maxPods: 250",
    );
    let resolved = run("--kubeconfig=/k --v=2", Some(config), None).unwrap_or_else(|error| panic!("{error}"));
    let ours = serde_json::to_value(resolved.effective()).expect("plain data");
    let (ours, golden) = (ours.as_object().expect("fields"), golden.as_object().expect("fields"));
    for (field, value) in golden {
        assert_eq!(ours.get(field), Some(value), "{field}");
    }
    let more: Vec<&String> = ours.keys().filter(|field| !golden.contains_key(*field)).collect();
    assert_eq!(more, Vec::<&String>::new(), "fields that a kubelet does not show");

    // And it loads again, to the same.
    let again = SourceFile { path: PathBuf::from("/again.json"), content: serde_json::to_vec(&golden).expect("JSON") };
    let again = run("--kubeconfig=/k", Some(again), None).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(serde_json::to_value(again.effective()).expect("plain data").as_object(), Some(golden));
}

#[test]
fn headers_for_static_pods_never_show() {
    // API-280
    let fields = "staticPodURL: http://a/\nstaticPodURLHeader: {Authorization: [hunter2]}";
    let resolved = run("--kubeconfig=/k", Some(config_file(fields)), Some(vec![config_file("maxPods: 1")])).expect("valid");
    assert_eq!(resolved.kubelet.static_pods.url_headers.reveal()["Authorization"], ["hunter2"], "a drop-in leaves them alone");
    let effective = serde_json::to_string(&resolved.effective()).expect("plain data");
    assert!(effective.contains("<masked>") && !effective.contains("hunter2"));
    assert!(!format!("{resolved:?}").contains("hunter2"));
    let found = problems("staticPodURLHeader: {Authorization: hunter2}", "--manifest-url-header=hunter3");
    assert!(found.len() == 2 && found.iter().all(|problem| !problem.contains("hunter")), "{found:?}");
}
