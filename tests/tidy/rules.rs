//! Rules about one Rust file.

use super::Finding;
use crate::source::{Source, contains_word};

const LONGEST_FILE: usize = 800;
const LONGEST_FUNCTION: usize = 70;
/// Names that say nothing about what a module is for.
const EMPTY_NAMES: [&str; 8] = ["util", "utils", "common", "helper", "helpers", "types", "prelude", "misc"];
/// Folders and files in which `unsafe` may be: where the process meets the kernel.
const UNSAFE_PLACES: [&str; 2] = ["src/agent/src/host", "sim/wire/src/interpos"];
/// Folders of the agent that never import one another.
const ADAPTERS: [&str; 7] = ["api", "cri", "server", "probe", "plugins", "host", "net"];
/// What a pure crate cannot name, and what to do instead.
const IMPURE: [(&str, &str); 15] = [
    ("async fn", "Ask by an Action; the answer comes as an Event"),
    (".await", "Ask by an Action; the answer comes as an Event"),
    ("std::fs", "Ask by an Action (HostCall); tests use include_str!"),
    ("std::io", "Ask by an Action (HostCall)"),
    ("std::thread", "Nothing runs beside the core"),
    ("std::process", "Ask by an Action"),
    ("std::env", "Settings come in Config"),
    ("std::time::Instant", "Time is an argument: time::Now"),
    ("SystemTime", "Time is an argument: time::Now"),
    ("Timestamp::now", "Time is an argument: time::Now"),
    ("HashMap", "Its order is random: BTreeMap"),
    ("HashSet", "Its order is random: BTreeSet"),
    ("Mutex", "One owner, no locks: hand the value in"),
    ("static mut", "State belongs to a value that somebody owns"),
    ("thread_local!", "State belongs to a value that somebody owns"),
];

fn finding(source: &Source, line: usize, what: impl Into<String>, remedy: &'static str) -> Finding {
    Finding { path: source.path.clone(), line, what: what.into(), remedy }
}

fn is_pure(path: &str) -> bool {
    path.starts_with("src/kubelet/src/") || path.starts_with("sim/model/src/")
}

/// Whether the file holds tests only.
fn is_test_file(path: &str) -> bool {
    let stem = stem(path);
    stem == "tests" || stem.ends_with("_tests") || path.contains("/tests/") || path.starts_with("tests/")
}

fn stem(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.strip_suffix(".rs").unwrap_or(name)
}

pub(super) fn file_length(source: &Source) -> Vec<Finding> {
    let length = source.lines.len();
    if length <= LONGEST_FILE {
        return Vec::new();
    }
    let what = format!("{length} lines, over {LONGEST_FILE}");
    vec![finding(source, LONGEST_FILE + 1, what, "Split it by subject; move long tests to a sibling tests.rs")]
}

pub(super) fn function_length(source: &Source) -> Vec<Finding> {
    source
        .functions()
        .into_iter()
        .filter(|function| function.length > LONGEST_FUNCTION)
        .map(|f| {
            let what = format!("fn {} has {} lines of code, over {LONGEST_FUNCTION}", f.name, f.length);
            finding(source, f.line, what, "Give its parts names of their own")
        })
        .collect()
}

/// A file that only lists modules decides nothing, and has no upstream path.
fn only_lists_modules(source: &Source) -> bool {
    source.code.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).all(|line| {
        line.starts_with("mod ")
            || line.starts_with("pub mod ")
            || line.starts_with("pub(crate) mod ")
            || line.starts_with("pub(super) mod ")
            || line.starts_with("pub use ")
            || line.starts_with("#[cfg(test)]")
    })
}

pub(super) fn module_head(source: &Source) -> Vec<Finding> {
    let in_source = source.path.starts_with("src/") || source.path.starts_with("sim/");
    if !in_source || is_test_file(&source.path) {
        return Vec::new();
    }
    let head: Vec<&String> = source.lines.iter().take_while(|line| line.starts_with("//!")).collect();
    if head.is_empty() {
        let remedy = "Begin the file with `//!` and one sentence: what it decides or does";
        return vec![finding(source, 1, "no module head", remedy)];
    }
    if !source.path.starts_with("src/kubelet/src/") || only_lists_modules(source) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    if !head.iter().any(|line| line.starts_with("//! Upstream:")) {
        let remedy = "Add `//! Upstream:` and the path in the upstream tree that this answers to (or `none` and why)";
        findings.push(finding(source, 1, "the module head has no `Upstream:`", remedy));
    }
    if !head.iter().any(|line| line.starts_with("//! Differs:")) {
        let remedy = "Add `//! Differs:` and where it deviates on purpose (or `nothing on purpose.`)";
        findings.push(finding(source, 1, "the module head has no `Differs:`", remedy));
    }
    findings
}

pub(super) fn leftovers(source: &Source) -> Vec<Finding> {
    // Put together here, so that this file does not find itself.
    let in_comments = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let in_code = ["todo!", "unimplemented!", "dbg!"];
    let mut findings = Vec::new();
    for (number, (line, code)) in source.lines.iter().zip(&source.code).enumerate() {
        for word in in_comments {
            if contains_word(line, word) {
                let remedy = "Do it now, or say in the module head what is not supported";
                findings.push(finding(source, number + 1, format!("`{word}`"), remedy));
            }
        }
        for word in in_code {
            if contains_word(code, word) {
                let remedy = "Refuse what is not supported with a clear message, earlier (admission, configuration)";
                findings.push(finding(source, number + 1, format!("`{word}`"), remedy));
            }
        }
    }
    findings
}

pub(super) fn unsafe_code(source: &Source) -> Vec<Finding> {
    let allowed = UNSAFE_PLACES.iter().any(|place| source.path.starts_with(place));
    let mut findings = Vec::new();
    for line in source.lines_with("unsafe") {
        if !allowed {
            let remedy = "Move it to src/agent/src/host or the simulator's interposer, or find a safe call (rustix)";
            findings.push(finding(source, line, "`unsafe` outside the edge", remedy));
        } else if !gives_reason(source, line) {
            let remedy = "Put `// SAFETY:` and why it is sound right above it";
            findings.push(finding(source, line, "`unsafe` without its reason", remedy));
        }
    }
    findings
}

/// Whether the comment above a line, or on it, says why it is sound.
fn gives_reason(source: &Source, line: usize) -> bool {
    let above = source.lines[..line - 1].iter().rev().map(|l| l.trim_start());
    let mut comment = above.take_while(|l| l.starts_with("//") || l.starts_with("#["));
    source.lines[line - 1].contains("// SAFETY:") || comment.any(|l| l.contains("SAFETY:") || l.contains("# Safety"))
}

pub(super) fn module_name(source: &Source) -> Vec<Finding> {
    let folder = source.path.rsplit('/').nth(1).unwrap_or_default();
    let name = if stem(&source.path) == "mod" { folder } else { stem(&source.path) };
    let remedy = "Name it after its subject, or put each function where it is used";
    let mut findings = Vec::new();
    if EMPTY_NAMES.contains(&name) {
        findings.push(finding(source, 1, format!("a module called `{name}`"), remedy));
    }
    for name in EMPTY_NAMES {
        for line in source.lines_with(&format!("mod {name} {{")) {
            findings.push(finding(source, line, format!("a module called `{name}`"), remedy));
        }
    }
    findings
}

pub(super) fn purity(source: &Source) -> Vec<Finding> {
    if !is_pure(&source.path) || is_test_file(&source.path) {
        return Vec::new();
    }
    // Tests may read files and settings.
    let tests = source.code.windows(2).position(|pair| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod tests"));
    let mut findings = Vec::new();
    for (word, remedy) in IMPURE {
        for line in source.lines_with(word).filter(|line| tests.is_none_or(|tests| *line <= tests)) {
            findings.push(finding(source, line, format!("`{word}` in a pure crate"), remedy));
        }
    }
    findings
}

pub(super) fn adapters_apart(source: &Source) -> Vec<Finding> {
    let Some(own) = ADAPTERS.iter().find(|adapter| {
        let place = format!("src/agent/src/{adapter}");
        source.path.starts_with(&format!("{place}/")) || source.path == format!("{place}.rs")
    }) else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    for other in ADAPTERS.iter().filter(|other| other != &own) {
        for line in source.lines_with(&format!("crate::{other}")) {
            let remedy = "Go through a trait of env.rs; only executor.rs and run.rs know more than one adapter";
            findings.push(finding(source, line, format!("`{own}` imports `{other}`"), remedy));
        }
    }
    findings
}

pub(super) fn no_simulation_in_the_daemon(source: &Source) -> Vec<Finding> {
    if !source.path.starts_with("src/") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for word in ["cfg(sim", "cfg!(sim", "turmoil", "cfg(simulation"] {
        for line in source.lines_with(word) {
            let remedy = "The simulator hands in another Env; the code is the same";
            findings.push(finding(source, line, format!("`{word}` in the daemon"), remedy));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(rule: fn(&Source) -> Vec<Finding>, path: &str, text: &str) -> Vec<usize> {
        rule(&Source::new(path, text)).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn a_long_file_is_found() {
        assert_eq!(lines(file_length, "src/a.rs", &"\n".repeat(800)), [0; 0]);
        assert_eq!(lines(file_length, "src/a.rs", &"\n".repeat(801)), [801]);
    }

    #[test]
    fn a_long_function_is_found() {
        let function = |length| format!("fn a() {{\n{}}}\n", "    b();\n".repeat(length));
        assert_eq!(lines(function_length, "src/a.rs", &function(70)), [0; 0]);
        assert_eq!(lines(function_length, "src/a.rs", &function(71)), [1]);
    }

    #[test]
    fn a_head_without_its_lines_is_found() {
        let path = "src/kubelet/src/a.rs";
        let good = "//! Decides.\n//! Upstream: pkg/a.go.\n//! Differs: nothing on purpose.\nfn a() {}\n";
        assert_eq!(lines(module_head, path, good), [0; 0]);
        assert_eq!(lines(module_head, path, "//! Decides.\nfn a() {}\n"), [1, 1]);
        assert_eq!(lines(module_head, path, "fn a() {}\n"), [1]);
        assert_eq!(lines(module_head, path, "//! Lists.\npub mod b;\n"), [0; 0]);
        assert_eq!(lines(module_head, "src/agent/src/a.rs", "//! Does.\nfn a() {}\n"), [0; 0]);
    }

    #[test]
    fn what_is_left_for_later_is_found() {
        let text = format!("// {}: b\nfn a() {{ {}() }}\nlet c = \"todo!\";\n", concat!("TO", "DO"), "unimplemented!");
        assert_eq!(lines(leftovers, "src/a.rs", &text), [1, 2]);
    }

    #[test]
    fn unsafe_in_the_wrong_place_or_without_a_reason_is_found() {
        let bare = "fn a() {\n    unsafe { b() }\n}\n";
        let told = "fn a() {\n    // SAFETY: b takes no pointer.\n    unsafe { b() }\n}\n";
        assert_eq!(lines(unsafe_code, "src/agent/src/run.rs", told), [3]);
        assert_eq!(lines(unsafe_code, "src/agent/src/host/linux.rs", bare), [2]);
        assert_eq!(lines(unsafe_code, "src/agent/src/host/linux.rs", told), [0; 0]);
    }

    #[test]
    fn an_empty_name_is_found() {
        assert_eq!(lines(module_name, "src/a/util.rs", ""), [1]);
        assert_eq!(lines(module_name, "src/a/common/mod.rs", ""), [1]);
        assert_eq!(lines(module_name, "src/a/b.rs", "\nmod helpers {\n}\n"), [2]);
        assert_eq!(lines(module_name, "src/a/prober.rs", ""), [0; 0]);
    }

    #[test]
    fn impure_code_is_found() {
        assert_eq!(lines(purity, "src/kubelet/src/a.rs", "use std::collections::HashMap;\n// HashMap\n"), [1]);
        assert_eq!(lines(purity, "sim/model/src/a.rs", "let a = b.await;\n"), [1]);
        assert_eq!(lines(purity, "sim/model/src/a.rs", "use std::fs;\n#[cfg(test)]\nmod tests {\nuse std::env;\n}\n"), [1]);
        assert_eq!(lines(purity, "src/agent/src/a.rs", "let a = b.await;\n"), [0; 0]);
    }

    #[test]
    fn an_adapter_that_imports_another_is_found() {
        assert_eq!(lines(adapters_apart, "src/agent/src/api/client.rs", "use crate::net::tls;\n"), [1]);
        assert_eq!(lines(adapters_apart, "src/agent/src/api/client.rs", "use crate::api::watch;\nuse crate::env::Net;\n"), [0; 0]);
        assert_eq!(lines(adapters_apart, "src/agent/src/run.rs", "use crate::net::tls;\nuse crate::api::watch;\n"), [0; 0]);
    }

    #[test]
    fn simulation_in_the_daemon_is_found() {
        assert_eq!(lines(no_simulation_in_the_daemon, "src/agent/src/a.rs", "#[cfg(sim)]\nfn a() {}\n"), [1]);
        assert_eq!(lines(no_simulation_in_the_daemon, "sim/wire/src/a.rs", "use turmoil::Sim;\n"), [0; 0]);
    }
}
