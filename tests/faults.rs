//! What is said in docs/faults.tsv is there: each fault that was found once is held by a test that runs everywhere, by a scenario or by a
//! case of the corpus; or it is told to users as a difference; or the conformance page says how far it is held; or it is open.

use std::collections::{BTreeMap, BTreeSet};

use crate::conformance::{can_be_skipped, label, named_behaviours, tests_of};
use crate::source::{files_below, sources, text_of};

const FAULTS: &str = "docs/faults.tsv";
const DIFFERS: &str = "docs/differs.md";

/// One fault: its name, what it was, and what holds it.
struct Fault<'a> {
    entry: &'a str,
    holders: Vec<&'a str>,
}

fn parse(text: &str) -> Vec<Fault<'_>> {
    let rows = text.lines().zip(1..).skip(1).map(|(line, number)| {
        let cells: Vec<&str> = line.split('\t').collect();
        let [entry, what, held] = cells[..] else { panic!("{FAULTS}:{number}: not three cells: entry, what it was, held by") };
        assert!(!entry.is_empty() && !what.is_empty(), "{FAULTS}:{number}: an empty cell");
        Fault { entry, holders: held.split("; ").collect() }
    });
    rows.collect()
}

/// What can hold a fault.
#[derive(Default)]
struct Holders {
    /// Tests by their labels, and whether they run everywhere.
    tests: BTreeMap<String, bool>,
    files: BTreeSet<String>,
    /// The numbers of the corpus's cases that are compared in the stage that runs everywhere.
    cases: BTreeSet<String>,
    differences: Vec<String>,
    /// Behaviours of which docs/conformance.md says how far they are held, and what is missing.
    behaviours: BTreeSet<String>,
}

impl Holders {
    fn of_the_repository() -> Self {
        let mut holders = Self::default();
        for source in sources() {
            // These count instructions, where they can.
            let everywhere = !can_be_skipped(&source.path) && source.path != "tests/spec_cost.rs";
            for test in tests_of(&source) {
                let label = label(&source.path, &test.name).trim_matches('`').to_owned();
                assert!(holders.tests.insert(label.clone(), everywhere).is_none(), "two tests are called {label}");
            }
        }
        holders.files = files_below("scenarios").into_iter().collect();
        let left_out: BTreeSet<String> = ["open.tsv", "skipped.tsv"].into_iter().flat_map(left_out).collect();
        let cases = files_below("tests/corpus/cases").into_iter();
        let numbers = cases.filter_map(|path| path.rsplit('/').next()?.split('-').next().map(str::to_owned));
        holders.cases = numbers.filter(|number| !left_out.contains(number)).collect();
        let page = text_of(DIFFERS).expect("the page is there");
        let subject = |line: &str| Some(line.strip_prefix("| ")?.split(" | ").next()?.to_owned());
        holders.differences = page.lines().filter_map(subject).collect();
        holders.behaviours = named_behaviours();
        holders
    }

    /// Whether that holds a fault by itself.
    ///
    /// # Errors
    /// In words, if there is no such thing.
    fn holds(&self, holder: &str) -> Result<bool, String> {
        if holder == "open" || holder.starts_with("open: ") {
            return Ok(true);
        }
        if let Some(subject) = holder.strip_prefix("differs: ") {
            let found = self.differences.iter().filter(|one| one.starts_with(subject)).count();
            return if found == 1 { Ok(true) } else { Err(format!("{found} subjects in {DIFFERS} begin so")) };
        }
        if let Some(id) = holder.strip_prefix("conformance: ") {
            return if self.behaviours.contains(id) { Ok(true) } else { Err("no test names that behaviour".to_owned()) };
        }
        if let Some(number) = holder.strip_prefix("case ") {
            let there = self.cases.contains(number);
            return if there { Ok(true) } else { Err("no such case in the corpus, or one that is left out".to_owned()) };
        }
        if holder.ends_with(".yaml") {
            return if self.files.contains(holder) { Ok(true) } else { Err("no such scenario".to_owned()) };
        }
        self.tests.get(holder).copied().ok_or_else(|| "no such test".to_owned())
    }
}

#[test]
fn what_holds_a_fault_exists_and_runs_everywhere() {
    let holders = Holders::of_the_repository();
    let text = text_of(FAULTS).expect("the table is there");
    let mut wrong = Vec::new();
    let mut entries = BTreeSet::new();
    for Fault { entry, holders: named } in parse(&text) {
        if !entries.insert(entry) {
            wrong.push(format!("{entry} is listed twice"));
        }
        let found: Vec<_> = named.iter().map(|holder| (holder, holders.holds(holder))).collect();
        if !found.iter().any(|(_, holds)| *holds == Ok(true)) {
            wrong.push(format!("{entry}: nothing holds it that runs everywhere"));
        }
        wrong.extend(found.into_iter().filter_map(|(holder, holds)| Some(format!("{entry}: {holder}: {}", holds.err()?))));
    }
    assert!(entries.len() > 150, "{FAULTS} has lost lines");
    assert!(wrong.is_empty(), "{FAULTS}:\n{}", wrong.join("\n"));
}

/// The cases that a table of the corpus leaves out as a whole, in the stage that runs everywhere.
fn left_out(table: &str) -> Vec<String> {
    let text = text_of(&format!("tests/corpus/{table}")).expect("the table is there");
    let cases = text.lines().filter_map(|line| match line.split('\t').collect::<Vec<_>>()[..] {
        [stages, cases, "*", _] if stages.split(',').any(|stage| stage == "model" || stage == "*") => Some(cases.to_owned()),
        _ => None,
    });
    cases.flat_map(|cases| cases.split(',').map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn what_is_not_there_holds_nothing() {
    let holders = Holders {
        tests: [("a/b: c".to_owned(), true), ("tests/live: d".to_owned(), false)].into(),
        files: ["scenarios/a/b.yaml".to_owned()].into(),
        cases: ["001".to_owned()].into(),
        differences: vec!["One thing".to_owned(), "One more".to_owned()],
        behaviours: ["X-001".to_owned()].into(),
    };
    for there in ["a/b: c", "scenarios/a/b.yaml", "case 001", "differs: One t", "conformance: X-001", "open", "open: why"] {
        assert_eq!(holders.holds(there), Ok(true), "{there}");
    }
    assert_eq!(holders.holds("tests/live: d"), Ok(false));
    for absent in ["a/b: e", "scenarios/a/c.yaml", "case 002", "differs: One", "differs: Two", "conformance: X-002", "opened"] {
        assert!(holders.holds(absent).is_err(), "{absent}");
    }
}
