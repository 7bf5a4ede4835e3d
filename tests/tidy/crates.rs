//! Rules about Cargo.toml files: which crate may depend on which.

use super::Finding;
use crate::source::{files_below, text_of};

/// Our crates, where they live, and which of ours each may depend on (ARCHITECTURE.md, "Map").
const OURS: [(&str, &str, &[&str]); 6] = [
    ("proto", "proto", &[]),
    ("kubelet", "src/kubelet", &["proto"]),
    ("agent", "src/agent", &["kubelet", "proto"]),
    ("model", "sim/model", &["kubelet", "proto"]),
    ("wire", "sim/wire", &["agent", "kubelet", "model", "proto"]),
    ("tests", "tests", &["agent", "kubelet", "model", "proto", "wire"]),
];
const PURE: [&str; 2] = ["kubelet", "model"];
/// All that pure crates may use of others': data, and nothing that can wait or look; proptest and criterion in tests and benchmarks.
const PURE_MAY_USE: [&str; 18] = [
    "base64",
    "bytes",
    "criterion",
    "fnv",
    "indexmap",
    "jiff",
    "k8s-openapi",
    "proptest",
    "prost",
    "prost-types",
    "rand_pcg",
    "serde",
    "serde-saphyr",
    "serde_json",
    "sha2",
    "similar",
    "thiserror",
    "x509-parser",
];
/// The simulator is the simulator's.
const ONLY_WIRE: [&str; 2] = ["turmoil", "libc"];

/// One line of a dependency table.
struct Dependency<'a> {
    line: usize,
    name: &'a str,
    value: &'a str,
}

fn dependencies(text: &str) -> Vec<Dependency<'_>> {
    let mut within = false;
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(table) = line.strip_prefix('[') {
            let table = table.trim_end_matches(']');
            within = table.ends_with("dependencies");
            if let Some((_, name)) = table.split_once("dependencies.") {
                found.push(Dependency { line: number + 1, name, value: "" });
            }
        } else if within && let Some((key, value)) = line.split_once('=') {
            let name = key.trim().split('.').next().unwrap_or_default();
            let value = if key.trim().ends_with(".workspace") { "workspace" } else { value.trim() };
            found.push(Dependency { line: number + 1, name, value });
        }
    }
    found
}

fn check(krate: &str, path: &str, may: &[&str], text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for dependency in dependencies(text) {
        let Dependency { line, name, value } = dependency;
        let mut found = |what: String, remedy| findings.push(Finding { path: path.to_owned(), line, what, remedy });
        let ours = OURS.iter().any(|(our, _, _)| *our == name);
        if ours && !may.contains(&name) {
            let remedy = "Move what is shared inwards (towards proto and kubelet), or hand it in as a value or trait";
            found(format!("`{krate}` depends on `{name}`"), remedy);
        }
        if PURE.contains(&krate) && !ours && !PURE_MAY_USE.contains(&name) {
            let remedy = "A pure crate decides, it does not do: put the doing behind an Action (or extend tests/tidy/crates.rs for plain data)";
            found(format!("pure `{krate}` depends on `{name}`"), remedy);
        }
        if PURE.contains(&krate) && (value.contains("\"client\"") || value.contains("\"server\"")) {
            found(format!("pure `{krate}` asks for gRPC of `{name}`"), "Use the messages only");
        }
        if !["wire", "tests"].contains(&krate) && ONLY_WIRE.contains(&name) {
            found(
                format!("`{krate}` depends on `{name}`"),
                "Only sim/wire simulates a network; the daemon uses rustix for system calls",
            );
        }
    }
    findings
}

pub(super) fn directions() -> Vec<Finding> {
    OURS.iter()
        .flat_map(|(krate, folder, may)| {
            let path = format!("{folder}/Cargo.toml");
            let text = text_of(&path).unwrap_or_else(|| panic!("{path}: missing"));
            check(krate, &path, may, &text)
        })
        .collect()
}

pub(super) fn versions_outside_the_workspace() -> Vec<Finding> {
    let mut findings = Vec::new();
    for path in files_below(".").into_iter().filter(|path| path.ends_with("/Cargo.toml")) {
        let text = text_of(&path).unwrap_or_default();
        for dependency in dependencies(&text) {
            if !dependency.value.contains("workspace") {
                findings.push(Finding {
                    path: path.clone(),
                    line: dependency.line,
                    what: format!("`{}` has a version of its own", dependency.name),
                    remedy: "Declare it under [workspace.dependencies] of the root and write `name.workspace = true` here",
                });
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(krate: &str, text: &str) -> Vec<usize> {
        let may = OURS.iter().find(|(our, _, _)| *our == krate).expect("one of ours").2;
        check(krate, "Cargo.toml", may, text).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn an_outward_dependency_is_found() {
        assert_eq!(found("kubelet", "[dependencies]\nproto.workspace = true\nagent.workspace = true\n"), [3]);
        assert_eq!(found("agent", "[dependencies]\nkubelet.workspace = true\n\n[dev-dependencies]\nmodel.workspace = true\n"), [5]);
    }

    #[test]
    fn io_in_a_pure_crate_is_found() {
        assert_eq!(found("kubelet", "[dependencies]\ntokio = { workspace = true }\n"), [2]);
        assert_eq!(found("kubelet", "[dependencies.tokio]\nworkspace = true\n"), [1]);
        assert_eq!(found("model", "[dependencies]\nproto = { workspace = true, features = [\"client\"] }\n"), [2]);
        assert_eq!(found("agent", "[dependencies]\ntokio = { workspace = true }\n"), [0; 0]);
    }

    #[test]
    fn the_simulated_network_in_the_daemon_is_found() {
        assert_eq!(found("agent", "[dependencies]\nturmoil.workspace = true\n"), [2]);
        assert_eq!(found("wire", "[dependencies]\nturmoil.workspace = true\n"), [0; 0]);
    }
}
