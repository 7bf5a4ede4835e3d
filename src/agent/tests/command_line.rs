//! The daemon as a program: what a person sees who starts it in the wrong way. That cargo builds `keelson` with the tests, where
//! the live tests find it, is because of this file.

use std::process::{Command, Output};

fn keelson(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_keelson")).args(arguments).output().expect("it starts")
}

// API-321: kubeadm reads one line, and in it a version of three numbers.
#[test]
fn version_names_kubernetes() {
    let output = keelson(&["--version"]);
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.trim().strip_prefix("Kubernetes v").unwrap_or_else(|| panic!("{text}"));
    let numbers: Vec<u32> = version.split('.').map(|number| number.parse().unwrap()).collect();
    assert!(numbers.len() == 3 && numbers[..2] == [1, 36], "{text}");
}

// NODE-022, NODE-023, API-243
#[test]
fn every_fault_of_flags_and_file_is_told_at_once() {
    let folder = std::env::temp_dir().join(format!("keelson-command-line-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("config.yaml");
    let config = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPodz: 10\npodsPerCore: -1\n";
    std::fs::write(&file, config).unwrap();
    let output = keelson(&["--no-such-flag", "--config", file.to_str().unwrap()]);
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(output.status.code(), Some(64));
    let text = String::from_utf8_lossy(&output.stderr);
    for named in ["no-such-flag", "maxPodz", "podsPerCore"] {
        assert!(text.contains(named), "{named} is not in:\n{text}");
    }
}

// API-190: a node that has yet to join says what it lacks for that.
#[test]
fn missing_bootstrap_kubeconfig_is_told() {
    let folder = std::env::temp_dir().join(format!("keelson-bootstrap-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (config, kubeconfig) = (folder.join("config.yaml"), folder.join("kubelet.conf"));
    let contents = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nfailCgroupV1: false\nfailSwapOn: false\n\
                    containerRuntimeEndpoint: unix:///nowhere.sock\n";
    std::fs::write(&config, contents).unwrap();
    let (config, kubeconfig) = (config.to_str().unwrap(), kubeconfig.to_str().unwrap());
    let output = keelson(&["--config", config, "--kubeconfig", kubeconfig, "--bootstrap-kubeconfig", "/nowhere/bootstrap.conf"]);
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    for named in ["unable to load bootstrap kubeconfig: ", "No such file", "/nowhere/bootstrap.conf"] {
        assert!(text.contains(named), "{named} is not in:\n{text}");
    }
}

/// A directory of a test's own, which goes away with it.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("keelson-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn put(&self, name: &str, contents: &str) -> String {
        std::fs::write(self.0.join(name), contents).unwrap();
        self.path(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const SETTINGS: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nfailCgroupV1: false\nfailSwapOn: false\n\
                        containerRuntimeEndpoint: unix:///nowhere.sock\n";

type Words<'a> = &'a [&'a str];

// API-290, API-291, INV-16: flags and settings come first, and with a fault in them nothing is opened or made; then the API server's
// credentials, then the files of TLS. Each is told in the words that operators look for.
#[test]
fn start_fails_in_order_and_in_known_words() {
    let folder = Folder::new("start");
    let good = folder.put("good.yaml", SETTINGS);
    let bad = folder.put("bad.yaml", &format!("{SETTINGS}maxPods: -1\n"));
    let alone = "authentication: {webhook: {enabled: false}}\nauthorization: {mode: AlwaysAllow}\n";
    let tls = "tlsCertFile: /nowhere/tls.crt\ntlsPrivateKeyFile: /nowhere/tls.key\n";
    let no_tls = folder.put("tls.yaml", &format!("{SETTINGS}{alone}{tls}"));
    let (missing, kubeconfig) = (folder.path("none.yaml"), folder.put("kubelet.conf", "clusters: [\n"));
    let not_found = format!("failed to load kubelet config file, path: {missing}");
    let cases: [(Words<'_>, i32, Words<'_>, Words<'_>); 4] = [
        (&["--config", &missing, "--kubeconfig", &kubeconfig], 64, &[&not_found], &["invalid kubeconfig"]),
        (&["--config", &bad, "--kubeconfig", &kubeconfig], 64, &["maxPods"], &["invalid kubeconfig"]),
        (
            &["--config", &no_tls, "--kubeconfig", &kubeconfig],
            1,
            &["\"command failed\" err=\"failed to run Kubelet: invalid kubeconfig: "],
            &["/nowhere/tls.crt"],
        ),
        (&["--config", &no_tls], 1, &["command failed", "failed to run Kubelet: ", "/nowhere/tls.crt"], &["invalid kubeconfig"]),
    ];
    let certificates = folder.path("pki");
    for (arguments, code, told, untold) in cases {
        let output = keelson(&[arguments, &["--cert-dir", &certificates]].concat());
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(told.iter().all(|words| text.contains(words)), "{arguments:?}: {told:?} is not in:\n{text}");
        assert!(!untold.iter().any(|words| text.contains(words)), "{arguments:?}: {untold:?} is in:\n{text}");
        assert!(!std::path::Path::new(&certificates).exists(), "{arguments:?}: certificates were made");
    }
    let output = keelson(&["--config", &good, "--kubeconfig", &kubeconfig, "--cert-dir", &certificates]);
    assert_eq!(output.status.code(), Some(1));
}
