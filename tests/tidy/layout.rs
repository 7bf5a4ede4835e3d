//! Rules about all files.

use super::Finding;
use crate::source::{files_below, text_of};

/// What lies at the top; whoever adds to it says in ARCHITECTURE.md what it is for.
const TOP_LEVEL: [&str; 20] = [
    ".cargo",
    ".ci",
    ".config",
    ".gitignore",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "STYLE.md",
    "clippy.toml",
    "deny.toml",
    "deploy",
    "docs",
    "proto",
    "rustfmt.toml",
    "scenarios",
    "sim",
    "src",
];

pub(super) fn top_level() -> Vec<Finding> {
    let mut seen: Vec<String> =
        files_below(".").into_iter().map(|path| path.split('/').next().unwrap_or_default().to_owned()).collect();
    seen.dedup();
    seen.into_iter()
        .filter(|name| name != "tests" && name != ".git" && !TOP_LEVEL.contains(&name.as_str()))
        .map(|path| Finding {
            path,
            line: 1,
            what: "a new entry at the top level".to_owned(),
            remedy: "Put it into a folder that is there, or add it to tests/tidy/layout.rs and to ARCHITECTURE.md",
        })
        .collect()
}

pub(super) fn machine_paths() -> Vec<Finding> {
    let mut findings = Vec::new();
    for path in files_below(".") {
        let Some(text) = text_of(&path) else { continue };
        findings.extend(machine_paths_in(&path, &text));
    }
    findings
}

fn machine_paths_in(path: &str, text: &str) -> Vec<Finding> {
    // Put together here, so that this file does not find itself.
    let folder = concat!("/wo", "rk");
    let mut findings = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for (at, _) in line.match_indices(folder) {
            let before = line[..at].chars().next_back();
            let after = line[at + folder.len()..].chars().next();
            let inside = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '}' | '*');
            if !before.is_some_and(inside) && !after.is_some_and(|c| inside(c) && c != '.') {
                findings.push(Finding {
                    path: path.to_owned(),
                    line: number + 1,
                    what: format!("`{folder}` is a path of one machine"),
                    remedy: "Use a path relative to the repository, a temporary directory, or a made-up one",
                });
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_path_is_found() {
        let found = |line: &str| !machine_paths_in("a", &line.replace('@', concat!("/wo", "rk"))).is_empty();
        assert!(found("see @/main"));
        assert!(found("\"@\""));
        assert!(found("cd @; ls"));
        assert!(!found("a/b@/c"));
        assert!(!found("@loads"));
        assert!(!found("{base}@/c"));
    }
}
