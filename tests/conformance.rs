//! Writes docs/conformance.md: which behaviours of docs/behaviours.tsv are held by which tests, which in part, and which are open.
//!
//! A test holds a behaviour if it names its ID (`POD-225`) in a comment above or inside it, or in its own name (`pod_225`);
//! a scenario, if the ID is anywhere in its file; a part of a live or cluster suite, if the comment above its line names it.
//! `A-001 to A-009` names all between. A behaviour of which docs/in_part.tsv says what is missing is held in part, and so is one
//! that only live or cluster tests name, since those skip themselves where they cannot run. `cargo conformance` writes the page.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::source::{Source, files_below, root, sources, text_of};

const BEHAVIOURS: &str = "docs/behaviours.tsv";
const IN_PART: &str = "docs/in_part.tsv";
const PAGE: &str = "docs/conformance.md";
/// What is missing of a behaviour that only tests name which can be skipped.
const SKIPPABLE: &str = "a test that runs everywhere: the named ones need root and a container runtime, or an API server";
const TIERS: [(&str, &str); 4] = [
    ("P0", "an ordinary pod on a real cluster"),
    ("P1", "exercised by the conformance suites"),
    ("P2", "needed in production"),
    ("P3", "alpha, off by default, or rare"),
];

/// One line of the table.
struct Behaviour {
    id: String,
    tier: String,
    area: String,
    section: String,
    title: String,
}

/// Behaviours in the table's order.
struct Table(Vec<Behaviour>);

impl Table {
    fn parse(text: &str) -> Self {
        let rows = text.lines().skip(1).map(|line| {
            let cells: Vec<&str> = line.split('\t').collect();
            let [id, tier, area, section, title] = cells[..] else { panic!("{BEHAVIOURS}: not five cells: {line}") };
            assert!(TIERS.iter().any(|(known, _)| *known == tier), "{BEHAVIOURS}: {id} has no tier: {tier}");
            let owned = str::to_owned;
            Behaviour { id: owned(id), tier: owned(tier), area: owned(area), section: owned(section), title: owned(title) }
        });
        Self(rows.collect())
    }

    fn read() -> Self {
        Self::parse(&text_of(BEHAVIOURS).expect("the table of behaviours is there"))
    }

    fn knows(&self, id: &str) -> bool {
        self.0.iter().any(|behaviour| behaviour.id == id)
    }

    fn prefixes(&self) -> BTreeSet<&str> {
        self.0.iter().filter_map(|behaviour| behaviour.id.split('-').next()).collect()
    }

    /// The IDs that a text names; what looks like one but is not in the table comes second.
    fn named_in(&self, text: &str) -> (BTreeSet<String>, BTreeSet<String>) {
        let mut known = BTreeSet::new();
        let mut unknown = BTreeSet::new();
        let mut last: Option<(usize, String)> = None;
        for (at, end, id) in self.ids(text) {
            if let Some((last_end, first)) = &last
                && text[*last_end..at].trim() == "to"
            {
                known
                    .extend(self.0.iter().map(|b| &b.id).filter(|b| first.len() == b.len() && *first <= **b && **b <= id).cloned());
            }
            if self.knows(&id) {
                known.insert(id.clone())
            } else {
                unknown.insert(id.clone())
            };
            last = Some((end, id));
        }
        (known, unknown)
    }

    /// Everything of the form of an ID, with where it begins and ends.
    fn ids(&self, text: &str) -> Vec<(usize, usize, String)> {
        let mut found = Vec::new();
        for (at, _) in text.match_indices('-') {
            let prefix = text[..at].rsplit(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
            let number = text[at + 1..].split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
            let digits = number.len() >= 2 && number.bytes().all(|b| b.is_ascii_digit());
            if digits && self.prefixes().contains(prefix) {
                found.push((at - prefix.len(), at + 1 + number.len(), format!("{prefix}-{number}")));
            }
        }
        found
    }

    /// The IDs in a function's name, such as `pod_225`.
    fn named_by(&self, function: &str) -> BTreeSet<String> {
        let words: Vec<String> = function.split('_').map(str::to_ascii_uppercase).collect();
        words.windows(2).map(|pair| format!("{}-{}", pair[0], pair[1])).filter(|id| self.knows(id)).collect()
    }
}

/// A test of a Rust file, or a part of a suite, with all text that belongs to it.
pub(crate) struct Test {
    pub(crate) name: String,
    text: String,
}

/// The parts of a live or cluster suite: lines `("name", function),` with the comments above them.
fn parts_of(source: &Source) -> Vec<Test> {
    let mut parts = Vec::new();
    for (at, line) in source.lines.iter().enumerate() {
        let name =
            line.trim().strip_prefix("(\"").and_then(|rest| rest.split_once("\", ")).filter(|(_, rest)| rest.ends_with("),"));
        if let Some((name, _)) = name {
            let above = source.lines[..at].iter().rev().take_while(|line| line.trim_start().starts_with("//"));
            parts.push(Test { name: name.to_owned(), text: above.cloned().collect::<Vec<_>>().join("\n") });
        }
    }
    parts
}

/// Whether the tests of a file skip themselves where they cannot run.
pub(crate) fn can_be_skipped(path: &str) -> bool {
    path.starts_with("tests/live/") || path.starts_with("tests/cluster/")
}

/// Whether the tests of a file ask the simulator's own API server: what that does says nothing of what ours does.
fn asks_the_pretended(path: &str) -> bool {
    path.starts_with("sim/model/src/api/") || path.starts_with("sim/wire/src/apiserver/")
}

/// The behaviours that tests name; docs/conformance.md says how far each is held.
pub(crate) fn named_behaviours() -> BTreeSet<String> {
    Coverage::of_the_repository(&Table::read()).held.into_keys().collect()
}

/// What is missing of behaviours that are held in part, by ID: lines `ID<tab>what is missing` below a head.
fn missing_parts(text: &str) -> BTreeMap<String, String> {
    let mut missing = BTreeMap::new();
    for line in text.lines().skip(1) {
        let (id, what) = line.split_once('\t').unwrap_or_else(|| panic!("{IN_PART}: not two cells: {line}"));
        assert!(missing.insert(id.to_owned(), what.to_owned()).is_none(), "{IN_PART} lists {id} twice");
    }
    missing
}

/// The tests of a file: functions with an attribute that ends in `test`, with the comments above them.
pub(crate) fn tests_of(source: &Source) -> Vec<Test> {
    source
        .functions()
        .into_iter()
        .filter_map(|function| {
            let belongs = |line: &&String| {
                let line = line.trim_start();
                line.starts_with("//") || line.starts_with("#[")
            };
            let head = source.lines[..function.line - 1].iter().rev().take_while(belongs).count();
            let first = function.line - 1 - head;
            let is_test = source.code[first..function.line]
                .iter()
                .any(|line| line.trim().strip_prefix("#[").is_some_and(|a| a.starts_with("test]") || a.starts_with("tokio::test")));
            let text = source.lines[first..function.last_line].join("\n");
            is_test.then_some(Test { name: function.name, text })
        })
        .collect()
}

/// How far a behaviour is held.
#[derive(PartialEq)]
enum Standing<'a> {
    Held,
    /// With what is missing.
    InPart(&'a str),
    Open,
}

/// Which behaviours are held, by what; of which something is missing; and IDs that do not exist, by where.
#[derive(Default)]
struct Coverage {
    held: BTreeMap<String, BTreeSet<String>>,
    /// Those that a test names which runs everywhere.
    everywhere: BTreeSet<String>,
    missing: BTreeMap<String, String>,
    unknown: BTreeSet<String>,
}

impl Coverage {
    fn standing(&self, id: &str) -> Standing<'_> {
        match self.missing.get(id) {
            _ if !self.held.contains_key(id) => Standing::Open,
            Some(missing) => Standing::InPart(missing),
            None if self.everywhere.contains(id) => Standing::Held,
            None => Standing::InPart(SKIPPABLE),
        }
    }

    fn add(&mut self, table: &Table, text: &str, name: Option<&str>, label: &str, path: &str) {
        let (mut known, unknown) = table.named_in(text);
        known.extend(name.map(|name| table.named_by(name)).unwrap_or_default());
        if !can_be_skipped(path) && !asks_the_pretended(path) {
            self.everywhere.extend(known.iter().cloned());
        }
        for id in known {
            self.held.entry(id).or_default().insert(label.to_owned());
        }
        self.unknown.extend(unknown.into_iter().map(|id| format!("{path}: {label} names {id}, which {BEHAVIOURS} does not have")));
    }

    fn of_the_repository(table: &Table) -> Self {
        let mut coverage = Self { missing: missing_parts(&text_of(IN_PART).unwrap_or_default()), ..Self::default() };
        for source in sources().iter().filter(|source| !source.path.ends_with("conformance.rs")) {
            let tests = match parts_of(source) {
                parts if can_be_skipped(&source.path) && !parts.is_empty() => parts,
                _ => tests_of(source),
            };
            for test in tests {
                coverage.add(table, &test.text, Some(&test.name), &label(&source.path, &test.name), &source.path);
            }
        }
        for path in files_below("scenarios").into_iter().filter(|path| path.ends_with(".yaml")) {
            let text = text_of(&path).unwrap_or_default();
            coverage.add(table, &text, None, &format!("`{path}`"), &path);
        }
        coverage
    }
}

/// `kubelet/pod/status: a_test`: the crate, the module and the test.
pub(crate) fn label(path: &str, test: &str) -> String {
    let module = path.trim_start_matches("src/").trim_start_matches("sim/").replace("/src/", "/");
    let module = module.trim_end_matches(".rs").trim_end_matches("/mod").trim_end_matches("/tests");
    format!("`{module}: {test}`")
}

fn page(table: &Table, coverage: &Coverage) -> String {
    let mut page = String::from(
        "# Conformance\n\nWritten by `cargo conformance` from the behaviour IDs that tests and scenarios name; do not edit. \
         [behaviours.tsv](behaviours.tsv) lists all behaviours of the upstream kubelet (1.36) that count here.\n\n\
         A behaviour is *held* if a test that runs everywhere and could fail names it and nothing of it is known to be missing; \
         *in part* if [in_part.tsv](in_part.tsv) says what is missing, or if only tests name it that skip themselves where they \
         cannot run, or that ask the simulator's API server alone; else *open*. The table counts held, in part, and all.\n\n",
    );
    for (tier, meaning) in TIERS {
        writeln!(page, "- **{tier}**: {meaning}").expect("a string takes text");
    }
    page.push('\n');
    summary(&mut page, table, coverage);
    for area in areas(table) {
        write!(page, "\n## {area}\n").expect("a string takes text");
        for section in sections(table, area) {
            write_section(&mut page, table, coverage, area, section);
        }
    }
    page
}

fn areas(table: &Table) -> Vec<&str> {
    let mut areas: Vec<&str> = table.0.iter().map(|behaviour| behaviour.area.as_str()).collect();
    areas.dedup();
    areas
}

fn sections<'a>(table: &'a Table, area: &str) -> Vec<&'a str> {
    let mut sections: Vec<&str> = table.0.iter().filter(|b| b.area == area).map(|b| b.section.as_str()).collect();
    sections.dedup();
    sections
}

/// Areas by tiers: held, in part, of all.
fn summary(page: &mut String, table: &Table, coverage: &Coverage) {
    let count = |area: Option<&str>, tier: &str| {
        let all: Vec<&Behaviour> = table.0.iter().filter(|b| area.is_none_or(|area| b.area == area) && b.tier == tier).collect();
        let held = all.iter().filter(|b| coverage.standing(&b.id) == Standing::Held).count();
        let open = all.iter().filter(|b| coverage.standing(&b.id) == Standing::Open).count();
        format!("{held} + {} of {}", all.len() - held - open, all.len())
    };
    let head: Vec<&str> = TIERS.iter().map(|(tier, _)| *tier).collect();
    write!(page, "| Held + in part | {} |\n|---|{}\n", head.join(" | "), "---|".repeat(TIERS.len())).expect("a string takes text");
    let rows = areas(table).into_iter().map(|area| (area, Some(area))).chain([("**All**", None)]);
    for (name, area) in rows {
        let cells: Vec<String> = TIERS.iter().map(|(tier, _)| count(area, tier)).collect();
        writeln!(page, "| {name} | {} |", cells.join(" | ")).expect("a string takes text");
    }
}

fn write_section(page: &mut String, table: &Table, coverage: &Coverage, area: &str, section: &str) {
    let all: Vec<&Behaviour> = table.0.iter().filter(|b| b.area == area && b.section == section).collect();
    let row = |b: &Behaviour| {
        let tests: Vec<&str> = coverage.held[&b.id].iter().map(String::as_str).collect();
        format!("| {} | {} | {} | {}", b.id, b.tier, b.title.replace('|', "\\|"), tests.join("<br>"))
    };
    let (mut held, mut in_part, mut open) = (Vec::new(), Vec::new(), Vec::new());
    for b in &all {
        match coverage.standing(&b.id) {
            Standing::Held => held.push(format!("{} |\n", row(b))),
            Standing::InPart(missing) => in_part.push(format!("{} | {} |\n", row(b), missing.replace('|', "\\|"))),
            Standing::Open => open.push(*b),
        }
    }
    write!(page, "\n### {section}: {} + {} of {}\n\n", held.len(), in_part.len(), all.len()).expect("a string takes text");
    for (rows, head) in [
        (held, "| ID | Tier | Behaviour | Tests |\n|---|---|---|---|\n"),
        (in_part, "In part:\n\n| ID | Tier | Behaviour | Tests | Missing |\n|---|---|---|---|---|\n"),
    ] {
        if !rows.is_empty() {
            writeln!(page, "{head}{}", rows.concat()).expect("a string takes text");
        }
    }
    for (tier, _) in TIERS {
        let ids: Vec<&str> = open.iter().filter(|b| b.tier == tier).map(|b| b.id.as_str()).collect();
        if !ids.is_empty() {
            writeln!(page, "Open, {tier} ({}): {}\n", ids.len(), ids.join(", ")).expect("a string takes text");
        }
    }
    while page.ends_with("\n\n") {
        page.pop();
    }
}

#[test]
fn page_is_fresh() {
    let table = Table::read();
    let written = page(&table, &Coverage::of_the_repository(&table));
    if std::env::var_os("KEELSON_REGENERATE").is_some() {
        std::fs::write(root().join(PAGE), &written).expect("the page can be written");
        return;
    }
    let committed = text_of(PAGE).unwrap_or_default();
    let changed = committed.lines().zip(written.lines()).position(|(old, new)| old != new);
    let line = changed.unwrap_or_else(|| committed.lines().count().min(written.lines().count())) + 1;
    assert!(committed == written, "{PAGE}:{line}: stale. Run `cargo conformance` and commit the page");
}

#[test]
fn tests_name_behaviours_that_exist() {
    let unknown = Coverage::of_the_repository(&Table::read()).unknown;
    let lines: Vec<&str> = unknown.iter().map(String::as_str).collect();
    assert!(unknown.is_empty(), "{}\nCorrect the ID, or add the behaviour to {BEHAVIOURS}", lines.join("\n"));
}

#[test]
fn what_is_held_in_part_is_held_by_something() {
    let coverage = Coverage::of_the_repository(&Table::read());
    let open: Vec<&str> = coverage.missing.keys().map(String::as_str).filter(|id| !coverage.held.contains_key(*id)).collect();
    assert!(open.is_empty(), "{IN_PART}: no test names {}: it is open, so remove the line", open.join(", "));
}

#[test]
fn behaviours_are_listed_once_each() {
    let table = Table::read();
    let ids: BTreeSet<&str> = table.0.iter().map(|behaviour| behaviour.id.as_str()).collect();
    assert_eq!(ids.len(), table.0.len(), "{BEHAVIOURS} lists a behaviour twice");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table::parse("id\nPOD-001\tP0\tPods\tA\ta\nPOD-002\tP1\tPods\tA\tb|c\nPOD-004\tP0\tPods\tB\td\nNODE-001\tP0\tNode\tC\te\n")
    }

    fn known(text: &str) -> Vec<String> {
        table().named_in(text).0.into_iter().collect()
    }

    #[test]
    fn ids_are_found_in_text() {
        assert_eq!(known("// POD-001, NODE-001: x"), ["NODE-001", "POD-001"]);
        assert_eq!(known("POD-001 to POD-004"), ["POD-001", "POD-002", "POD-004"]);
        assert_eq!(known("POD-01a NPOD-001 POD-0011 CVE-2020-8551"), [""; 0]);
    }

    #[test]
    fn ids_that_do_not_exist_are_found() {
        assert_eq!(table().named_in("POD-003 POD-001").1.into_iter().collect::<Vec<_>>(), ["POD-003"]);
    }

    #[test]
    fn a_test_holds_what_it_names_and_other_code_holds_nothing() {
        let text = "// POD-002\nfn code() {}\n\n// POD-001\n#[test]\nfn first() {\n    // POD-004\n}\n\n#[test]\nfn node_001_second() {}\n";
        let tests = tests_of(&Source::new("a.rs", text));
        let mut coverage = Coverage::default();
        for test in &tests {
            coverage.add(&table(), &test.text, Some(&test.name), &test.name, "a.rs");
        }
        let held: Vec<(&str, &str)> =
            coverage.held.iter().flat_map(|(id, by)| by.iter().map(|by| (id.as_str(), by.as_str()))).collect();
        assert_eq!(held, [("NODE-001", "node_001_second"), ("POD-001", "first"), ("POD-004", "first")]);
    }

    #[test]
    fn the_page_lists_what_is_held_and_what_is_open() {
        let mut coverage = Coverage::default();
        coverage.add(&table(), "POD-002 NODE-001", None, "`a: b`", "a.rs");
        coverage.add(&table(), "POD-004", None, "`live: c`", "tests/live/mod.rs");
        coverage.missing = missing_parts("id\tmissing\nNODE-001\tthe rest\n");
        let page = page(&table(), &coverage);
        assert!(page.contains("| Pods | 0 + 1 of 2 | 1 + 0 of 1 | 0 + 0 of 0 | 0 + 0 of 0 |"), "{page}");
        assert!(page.contains("| NODE-001 | P0 | e | `a: b` | the rest |"), "{page}");
        assert!(page.contains(&format!("| POD-004 | P0 | d | `live: c` | {SKIPPABLE} |")), "{page}");
        assert!(page.contains("| POD-002 | P1 | b\\|c | `a: b` |"), "{page}");
        assert!(page.contains("Open, P0 (1): POD-001\n"), "{page}");
    }

    #[test]
    fn parts_of_a_suite_hold_what_the_comment_above_them_names() {
        let text = "// POD-001\n#[test]\nfn suite() {\n    // POD-002\n    (\"one\", pods::one),\n    // POD-004\n    (\"two\", pods::two),\n}\n";
        let parts: Vec<(String, String)> =
            parts_of(&Source::new("tests/live/mod.rs", text)).into_iter().map(|part| (part.name, part.text)).collect();
        let expected = [("one", "    // POD-002"), ("two", "    // POD-004")];
        assert_eq!(parts, expected.map(|(name, text)| (name.to_owned(), text.to_owned())));
    }

    #[test]
    fn a_label_is_crate_module_and_test() {
        assert_eq!(label("src/kubelet/src/pod/status.rs", "a"), "`kubelet/pod/status: a`");
        assert_eq!(label("src/kubelet/src/cache/tests.rs", "a"), "`kubelet/cache: a`");
    }
}
