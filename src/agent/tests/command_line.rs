//! The daemon as a program: what a person sees who starts it in the wrong way. That cargo builds `keelson` with the tests, where
//! the live tests find it, is because of this file.

use std::process::{Command, Output};

fn keelson(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_keelson")).args(arguments).output().expect("it starts")
}

#[test]
fn version_names_kubernetes() {
    let output = keelson(&["--version"]);
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with("Kubernetes v1.36."), "{text}");
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

// A node that has yet to join: what is missing, and what to do.
#[test]
fn missing_kubeconfig_is_told_with_what_to_do() {
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
    for named in ["--kubeconfig", "no such file", "/nowhere/bootstrap.conf", "join the node with the kubelet first"] {
        assert!(text.contains(named), "{named} is not in:\n{text}");
    }
}
