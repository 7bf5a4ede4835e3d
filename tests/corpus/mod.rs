//! The kubelet as judge: cases that were run on a real node under the kubelet, with recordings of what it reported and of what it told
//! the runtime, run again here under ours. What differs must stand in a table. `README.md` beside this says how.

mod case;
mod commands;
mod compare;
mod conditions;
mod live;
mod normal;
mod oci;
mod scripts;
mod seen;
mod stage;
mod tables;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use self::case::Case;
use self::compare::{Difference, differences};
use self::seen::Seen;
use self::tables::{Table, number};
use crate::source::text_of;

/// The parts of a recording that every stage compares, and those that only a machine has.
const PARTS: [&str; 5] = ["status", "transitions", "events", "cri", "runtime"];
const PARTS_OF_A_MACHINE: [&str; 2] = ["oci", "logs"];

/// How many runs of stage `sim` go on side by side.
const SIDE_BY_SIDE: usize = 2;

/// The tables, and what came out so far.
struct Judge {
    stage: &'static str,
    /// Whether all cases are asked for: a choice of them says nothing of the tables' lines for the others.
    whole: bool,
    differs: Table,
    open: Table,
    skipped: Table,
    ran: BTreeSet<String>,
    equal: usize,
    allowed: usize,
    left_out: BTreeMap<String, Vec<String>>,
    /// Of a part the cases whose recordings lack it.
    unrecorded: BTreeMap<&'static str, Vec<String>>,
    unexpected: Vec<String>,
}

impl Judge {
    fn new(stage: &'static str, whole: bool) -> Self {
        Self {
            stage,
            whole,
            differs: Table::read("differs.tsv"),
            open: Table::read("open.tsv"),
            skipped: Table::read("skipped.tsv"),
            ran: BTreeSet::new(),
            equal: 0,
            allowed: 0,
            left_out: BTreeMap::new(),
            unrecorded: BTreeMap::new(),
            unexpected: Vec::new(),
        }
    }

    /// Whether a case runs in this stage at all.
    fn takes(&mut self, case: &Case) -> bool {
        self.ran.insert(number(&case.id).to_owned());
        let Some(reason) = self.skipped.whole(self.stage, &case.id) else {
            let golden = case.golden();
            for part in self.parts(case).filter(|part| !golden[part].is_array()).collect::<Vec<_>>() {
                self.unrecorded.entry(part).or_default().push(case.id.clone());
            }
            return true;
        };
        self.left_out.entry(reason).or_default().push(case.id.clone());
        false
    }

    /// Where what was seen of a case differs from its recordings.
    fn differences(&self, case: &Case, seen: &Seen, problems: &[String]) -> Vec<Difference> {
        let (golden, ours) = (case.golden(), normal::normal(seen));
        let mut found: Vec<Difference> = problems
            .iter()
            .map(|why| Difference { path: "outcome".to_owned(), kubelet: "done".to_owned(), ours: why.clone() })
            .collect();
        for part in self.parts(case) {
            found.extend(differences(part, &golden[part], &ours[part]));
        }
        found
    }

    /// The parts that this stage compares of a case.
    fn parts(&self, case: &Case) -> impl Iterator<Item = &'static str> {
        // What a runtime makes of its orders is its own: an older one makes something else of them.
        let is_compared = |part: &&str| self.stage == "live" || self.stage == tables::OLD_RUNTIME && *part != "oci";
        let more = PARTS_OF_A_MACHINE.into_iter().filter(is_compared);
        PARTS.into_iter().chain(more).filter(|part| case.compares(part))
    }

    /// Whether the tables know all of that.
    fn knows(&self, case: &Case, found: &[Difference]) -> bool {
        let tables = [&self.differs, &self.open, &self.skipped];
        found.iter().all(|one| tables.iter().any(|table| table.knows(self.stage, &case.id, one)))
    }

    /// Takes down how a case came out; whether nothing differs but what may.
    fn judge(&mut self, case: &Case, found: Vec<Difference>) -> bool {
        let any = !found.is_empty();
        let mut left = String::new();
        for one in found {
            let skipped = self.skipped.allows(self.stage, &case.id, &one);
            let open = self.open.allows(self.stage, &case.id, &one);
            if !(self.differs.allows(self.stage, &case.id, &one) || skipped || open) {
                write!(left, "\n  {}\n    kubelet  {}\n    ours     {}", one.path, short(&one.kubelet), short(&one.ours))
                    .expect("a string takes text");
            }
        }
        let expected = left.is_empty();
        if !expected {
            self.unexpected.push(format!("{} ({}){left}", case.id, case.about));
        } else if any {
            self.allowed += 1;
        } else {
            self.equal += 1;
        }
        expected
    }

    /// Whether anything came out as no table says.
    fn is_surprised(&self) -> bool {
        !self.unexpected.is_empty()
    }

    /// Tells the sums, and fails with all that is not as it should be.
    fn close(self) {
        let left_out: usize = self.left_out.values().map(Vec::len).sum();
        println!(
            "stage {}: {} cases equal, {} differ as the tables say, {} differ otherwise, {left_out} skipped:",
            self.stage,
            self.equal,
            self.allowed,
            self.unexpected.len()
        );
        for (reason, cases) in &self.left_out {
            println!("skipped: {} cases: {reason}: {}", cases.len(), cases.join(" "));
        }
        for (part, cases) in &self.unrecorded {
            println!("not compared: {part} of {} cases, whose recordings lack it: {}", cases.len(), cases.join(" "));
        }
        let mut wrong = self.unexpected;
        if self.whole {
            for (name, table) in [("differs.tsv", &self.differs), ("open.tsv", &self.open), ("skipped.tsv", &self.skipped)] {
                if std::env::var_os("KEELSON_REGENERATE").is_some() {
                    table.clear(name, self.stage);
                } else {
                    wrong.extend(table.stale(self.stage, &self.ran));
                }
            }
        }
        assert!(wrong.is_empty(), "{} findings:\n{}\n", wrong.len(), wrong.join("\n"));
    }
}

fn short(text: &str) -> String {
    let text = text.replace('\n', "\\n");
    if text.chars().count() <= 400 { text } else { format!("{} ...", text.chars().take(400).collect::<String>()) }
}

/// The cases that `KEELSON_CORPUS` names by the beginnings of their names; none for all.
fn chosen() -> Vec<String> {
    let named = std::env::var("KEELSON_CORPUS").unwrap_or_default();
    named.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn cases() -> Vec<Case> {
    let chosen = chosen();
    case::all().into_iter().filter(|case| chosen.is_empty() || chosen.iter().any(|word| case.id.starts_with(word))).collect()
}

/// The cases that were recorded without what only a machine has.
const WITHOUT_A_MACHINE: [&str; 10] = ["702", "703", "704", "711", "720", "721", "726", "730", "735", "739"];

// A part that a recording lacks is compared with nothing: which these are is said here, and by each run.
#[test]
fn every_recording_has_every_part_but_those_that_are_named() {
    for case in case::all() {
        let golden = case.golden();
        let lacks = |part: &&str| case.compares(part) && golden[*part].as_array().is_none_or(|all| all.is_empty());
        let lacking: Vec<&str> = PARTS.iter().chain(&PARTS_OF_A_MACHINE).copied().filter(lacks).collect();
        let may: &[&str] = if WITHOUT_A_MACHINE.contains(&number(&case.id)) { &PARTS_OF_A_MACHINE } else { &[] };
        assert_eq!(lacking, may, "{}", case.id);
    }
}

// What differs on purpose is what `docs/differs.md` tells users of.
#[test]
fn what_differs_on_purpose_is_told_to_users() {
    let page = text_of("docs/differs.md").expect("the page is there");
    let subjects: BTreeSet<&str> = page.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next()).collect();
    for reason in Table::read("differs.tsv").reasons() {
        assert!(subjects.contains(reason), "tests/corpus/differs.tsv: {reason:?} is not the subject of a row of docs/differs.md");
    }
}

#[test]
fn what_differs_for_now_names_its_finding() {
    for reason in Table::read("open.tsv").reasons() {
        let finding = reason.split([':', ' ']).next().unwrap_or_default();
        let (letter, number) = finding.split_at(finding.len().min(1));
        let named = letter.chars().all(|c| c.is_ascii_uppercase()) && !number.is_empty() && number.parse::<u32>().is_ok();
        assert!(named, "tests/corpus/open.tsv: {reason:?} does not begin with the ID of a finding, such as B2");
    }
}

// A line that allows anything in a case hides every further fault of it.
#[test]
fn what_differs_is_named_by_its_places() {
    for name in ["differs.tsv", "open.tsv"] {
        let boundless: Vec<String> = Table::read(name).boundless().map(str::to_owned).collect();
        assert!(boundless.is_empty(), "tests/corpus/{name}: name the places: {boundless:#?}");
    }
}

#[test]
fn cases_come_out_in_the_model_as_under_the_kubelet() {
    let mut judge = Judge::new("model", chosen().is_empty());
    for case in cases() {
        if judge.takes(&case) {
            let mut world = stage::lab();
            world.lines = std::env::var_os("KEELSON_TRACE").map(|_| Vec::new());
            let (seen, problems) = stage::run(&mut world, &case);
            world.lines.iter().flatten().for_each(|line| println!("{:?} {}", line.at, line.text));
            let found = judge.differences(&case, &seen, &problems);
            judge.judge(&case, found);
        }
    }
    judge.close();
}

#[test]
fn cases_come_out_over_simulated_wires_as_under_the_kubelet() {
    let mut judge = Judge::new("sim", chosen().is_empty());
    let (taken, _): (Vec<Case>, Vec<Case>) = cases().into_iter().partition(|case| judge.takes(case));
    let judge = std::sync::Mutex::new(judge);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || {
        while let Some(case) = taken.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
            let (seen, problems, outcome) = stage::run_over_wires(case);
            if std::env::var_os("KEELSON_TRACE").is_some() {
                outcome.lines.iter().for_each(|line| println!("{line}"));
            }
            let mut judge = judge.lock().expect("nobody panics with it");
            let found = judge.differences(case, &seen, &problems);
            judge.judge(case, found);
        }
    };
    // Each run is a function of its seed, whatever runs beside it.
    std::thread::scope(|scope| {
        (0..SIDE_BY_SIDE).for_each(|_| drop(scope.spawn(work)));
    });
    judge.into_inner().expect("nobody panics with it").close();
}
