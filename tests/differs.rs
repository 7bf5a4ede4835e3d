//! Writes the second part of docs/differs.md: what the `Differs:` lines of module heads say. The first part is people's.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::source::{Source, root, sources, text_of};

const PAGE: &str = "docs/differs.md";
const MARK: &str = "<!-- From here on written by `cargo conformance` from the `Differs:` lines of module heads; do not edit. -->\n";
const PARTS: [(&str, &str); 2] = [("src/kubelet/src/", "What is decided"), ("src/agent/src/", "What is done")];

/// What a module's head says about where it deviates; `None` if nowhere.
fn deviation(source: &Source) -> Option<String> {
    let head = source.lines.iter().map_while(|line| line.strip_prefix("//!")).map(str::trim);
    let mut said = head.skip_while(|line| !line.starts_with("Differs:"));
    let first = said.next()?.trim_start_matches("Differs:").trim().to_owned();
    let whole = said.take_while(|line| !line.is_empty()).fold(first, |whole, line| format!("{whole} {line}"));
    (!whole.starts_with("nothing on purpose.") && !whole.is_empty()).then_some(whole)
}

/// What a module's head names as its upstream.
fn upstream(source: &Source) -> String {
    let line = source.lines.iter().find_map(|line| line.strip_prefix("//! Upstream:"));
    line.map(|line| line.trim().trim_end_matches('.').to_owned()).unwrap_or_default()
}

fn written(sources: &[Source]) -> String {
    let mut page = String::from(MARK);
    for (folder, title) in PARTS {
        write!(page, "\n## {title}\n\n| Module | Upstream | Differs |\n|---|---|---|\n").expect("a string takes text");
        let rows: BTreeMap<&str, (String, String)> = sources
            .iter()
            .filter_map(|source| Some((source.path.strip_prefix(folder)?, (upstream(source), deviation(source)?))))
            .collect();
        for (module, (upstream, differs)) in rows {
            let escaped = |text: &str| text.replace('|', "\\|");
            writeln!(page, "| `{module}` | {} | {} |", escaped(&upstream), escaped(&differs)).expect("a string takes text");
        }
    }
    page
}

#[test]
fn page_is_fresh() {
    let committed = text_of(PAGE).expect("the page is there");
    let (by_people, _) = committed.split_once(MARK).unwrap_or_else(|| panic!("{PAGE}:1: the mark is gone: {MARK}"));
    let wanted = format!("{by_people}{}", written(&sources()));
    if std::env::var_os("KEELSON_REGENERATE").is_some() {
        std::fs::write(root().join(PAGE), &wanted).expect("the page can be written");
        return;
    }
    let line = committed.lines().zip(wanted.lines()).take_while(|(old, new)| old == new).count() + 1;
    assert!(committed == wanted, "{PAGE}:{line}: stale. Run `cargo conformance` and commit the page");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_deviations_are_listed_in_full() {
        let head = |differs: &str| {
            Source::new(
                "src/kubelet/src/a.rs",
                &format!("//! A.\n//! Upstream: pkg/a.go.\n//! Differs: {differs}\n\nfn a() {{}}\n"),
            )
        };
        assert_eq!(deviation(&head("nothing on purpose.")), None);
        assert_eq!(deviation(&head("one,\n//! and more.\n//!\n//! Text.")), Some("one, and more.".to_owned()));
        let page = written(&[head("a|b.")]);
        assert!(page.contains("| `a.rs` | pkg/a.go | a\\|b. |"), "{page}");
    }
}
