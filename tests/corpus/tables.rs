//! The tables of what may differ: `differs.tsv` on purpose, `open.tsv` for now, `skipped.tsv` where a stage cannot show it. A line
//! that is of no use any more fails the test.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use super::compare::Difference;
use crate::source::{root, text_of};

/// Where the tables are.
const FOLDER: &str = "tests/corpus";
/// Stage `live` on a containerd that is older than the recordings'.
pub(super) const OLD_RUNTIME: &str = "live-1.6";
/// Who writes a table.
static WRITING: Mutex<()> = Mutex::new(());

/// One line of a table.
#[derive(Debug)]
struct Line {
    /// The file, and the number of the line in it.
    place: (&'static str, usize),
    /// How it is written there.
    written: String,
    /// The stages in which it counts; empty for all.
    stages: Vec<String>,
    /// The numbers of the cases that it is about; empty for all.
    cases: Vec<String>,
    /// Places in what was seen; `*` stands for anything.
    path: String,
    /// Why: the subject of a row of `docs/differs.md`, a finding, or what a stage lacks.
    reason: String,
    /// Of its cases those where it was of use.
    used: BTreeSet<String>,
}

/// A table.
pub(super) struct Table(Vec<Line>);

impl Table {
    /// Reads a table: stages, cases, path and reason, with tabs between them.
    pub(super) fn read(name: &'static str) -> Self {
        let text = text_of(&format!("{FOLDER}/{name}")).unwrap_or_else(|| panic!("{FOLDER}/{name} is missing"));
        Self::parse(name, &text)
    }

    fn parse(name: &'static str, text: &str) -> Self {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let words = |text: &str| match text {
            "*" => Vec::new(),
            list => list.split(',').map(str::to_owned).collect(),
        };
        Self(
            lines
                .map(|(number, line)| {
                    let fields: Vec<&str> = line.split('\t').collect();
                    let [stages, cases, path, reason] = fields[..] else {
                        panic!(
                            "{FOLDER}/{name}:{}: not four fields with tabs between them: stages, cases, path, reason",
                            number + 1
                        )
                    };
                    Line {
                        place: (name, number + 1),
                        written: line.to_owned(),
                        stages: words(stages),
                        cases: words(cases),
                        path: path.to_owned(),
                        reason: reason.to_owned(),
                        used: BTreeSet::new(),
                    }
                })
                .collect(),
        )
    }

    /// All reasons.
    pub(super) fn reasons(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|line| line.reason.as_str())
    }

    /// The lines that would allow anything in their cases.
    pub(super) fn boundless(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|line| line.path == "*").map(|line| line.written.as_str())
    }

    /// The reason for which a whole case is left out of a stage.
    pub(super) fn whole(&mut self, stage: &str, case: &str) -> Option<String> {
        let line = self.0.iter_mut().find(|line| line.path == "*" && line.is_about(stage, case))?;
        line.used.insert(number(case).to_owned());
        Some(line.reason.clone())
    }

    /// Whether a difference would be allowed.
    pub(super) fn knows(&self, stage: &str, case: &str, difference: &Difference) -> bool {
        self.0.iter().any(|line| line.is_about(stage, case) && line.names(difference))
    }

    /// Whether a difference is allowed; the lines that allow it were of use.
    pub(super) fn allows(&mut self, stage: &str, case: &str, difference: &Difference) -> bool {
        let mut allowed = false;
        for line in &mut self.0 {
            if line.is_about(stage, case) && line.names(difference) {
                line.used.insert(number(case).to_owned());
                allowed = true;
            }
        }
        allowed
    }

    /// Writes the table anew without what is of no use in a stage.
    pub(super) fn clear(&self, name: &str, stage: &str) {
        let path = root().join(FOLDER).join(name);
        // Stages run side by side, and each has a table of its own in mind.
        let _alone = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        let text = std::fs::read_to_string(&path).expect("the table can be read");
        let kept = text.lines().flat_map(|written| {
            let line = self.0.iter().find(|line| line.written == written && line.stages.iter().any(|one| one == stage));
            line.map_or(vec![written.to_owned()], |line| line.kept(stage))
        });
        let kept: String = kept.map(|line| line + "\n").collect();
        std::fs::write(&path, kept).expect("the table can be written");
    }

    /// What is of no use in a stage, and what to do about it. `ran` are the cases that were compared or left out.
    pub(super) fn stale(&self, stage: &str, ran: &BTreeSet<String>) -> Vec<String> {
        let mut stale = Vec::new();
        for line in self.0.iter().filter(|line| line.stages.iter().any(|one| one == stage) && !line.is_of_chance(stage)) {
            let (file, number) = line.place;
            let place = format!("{FOLDER}/{file}:{number}");
            let unknown: Vec<_> = line.cases.iter().filter(|case| !ran.contains(*case)).collect();
            if !unknown.is_empty() {
                stale.push(format!("{place}: no such case, or not in stage {stage}: {unknown:?}"));
            }
            let useless: Vec<&str> = line.cases.iter().filter(|case| !line.used.contains(*case)).map(String::as_str).collect();
            if line.used.is_empty() || useless.len() == line.cases.len() && !line.cases.is_empty() {
                stale.push(format!(
                    "{place}: nothing differs there any more in stage {stage}: delete the line ({} {})",
                    line.cases.join(","),
                    line.path
                ));
            } else if !useless.is_empty() {
                stale.push(format!(
                    "{place}: nothing differs there any more in {0} in stage {stage}: take {0} out of the line",
                    useless.join(",")
                ));
            }
        }
        stale
    }
}

impl Line {
    /// Whether it is about what comes out one way or the other by chance: such a line may be of no use in a stage that is not a function
    /// of its seed.
    fn is_of_chance(&self, stage: &str) -> bool {
        stage.starts_with("live") && self.reason.starts_with("chance: ")
    }

    /// What is left of it once a stage has run: the other stages keep all of it.
    fn kept(&self, stage: &str) -> Vec<String> {
        let useful: Vec<&str> = self.cases.iter().filter(|case| self.used.contains(*case)).map(String::as_str).collect();
        let whole = if self.cases.is_empty() { !self.used.is_empty() } else { useful.len() == self.cases.len() };
        if whole || self.is_of_chance(stage) {
            return vec![self.written.clone()];
        }
        let others: Vec<&str> = self.stages.iter().map(String::as_str).filter(|one| *one != stage).collect();
        let line = |stages: &str, cases: &str| [stages, cases, &self.path, &self.reason].join("\t");
        let all = if self.cases.is_empty() { "*".to_owned() } else { self.cases.join(",") };
        let of_others = (!others.is_empty()).then(|| line(&others.join(","), &all));
        let of_this = (!useful.is_empty()).then(|| line(stage, &useful.join(",")));
        of_others.into_iter().chain(of_this).collect()
    }

    /// Whether it is about that place, or about that place with what only one side says there: `PLACE = VALUE`, of several values each.
    fn names(&self, difference: &Difference) -> bool {
        let said = if difference.ours == "-" { &difference.kubelet } else { &difference.ours };
        let each = || said.split(" , ").all(|value| fits(&self.path, &format!("{} = {value}", difference.path)));
        fits(&self.path, &difference.path) || self.path.contains(" = ") && each()
    }

    fn is_about(&self, stage: &str, case: &str) -> bool {
        let among = |list: &[String], one: &str| list.is_empty() || list.iter().any(|word| word == one);
        // An older containerd is another runtime under the same stage: what may differ in stage `live` may differ there too.
        let in_stage = among(&self.stages, stage) || stage == OLD_RUNTIME && among(&self.stages, "live");
        in_stage && among(&self.cases, number(case))
    }
}

/// The number that a case's name begins with.
pub(super) fn number(case: &str) -> &str {
    case.split('-').next().unwrap_or(case)
}

/// Whether a text is one that a pattern stands for: `*` is any text.
fn fits(pattern: &str, text: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else { return pattern == text };
    let Some(rest) = text.strip_prefix(head) else { return false };
    let ends = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
    let mut ends = ends;
    ends.any(|at| fits(tail, &rest[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(path: &str) -> Difference {
        Difference { path: path.to_owned(), kubelet: String::new(), ours: String::new() }
    }

    #[test]
    fn line_that_allows_nothing_is_named() {
        let mut table = Table::parse("open.tsv", "# words\nmodel\t001,002\tstatus/*/phase\tB1\nmodel\t003\tevents/*\tB2\n");
        assert!(table.allows("model", "001-a", &difference("status/pod=p/phase")));
        assert!(!table.allows("model", "004-b", &difference("status/pod=p/phase")));
        assert!(!table.allows("live", "001-a", &difference("status/pod=p/phase")));
        let ran = ["001", "002", "003"].map(str::to_owned).into();
        let stale = table.stale("model", &ran);
        assert_eq!(stale.len(), 2);
        assert!(stale[0].starts_with("tests/corpus/open.tsv:2: ") && stale[0].ends_with("take 002 out of the line"), "{stale:?}");
        assert!(stale[1].contains(":3: nothing differs there any more in stage model: delete the line"), "{stale:?}");
    }

    #[test]
    fn what_is_of_no_use_in_one_stage_stays_for_the_others() {
        let written = "model,sim\t001,002\tstatus/*\tB1";
        let mut table = Table::parse("open.tsv", &format!("{written}\n"));
        assert_eq!(table.0[0].kept("sim"), ["model\t001,002\tstatus/*\tB1"]);
        assert!(table.allows("sim", "002-a", &difference("status/phase")));
        assert_eq!(table.0[0].kept("sim"), ["model\t001,002\tstatus/*\tB1", "sim\t002\tstatus/*\tB1"]);
        assert!(table.allows("sim", "001-a", &difference("status/phase")));
        assert_eq!(table.0[0].kept("sim"), [written]);
    }

    #[test]
    fn line_may_name_what_one_side_says() {
        let mut table = Table::parse("skipped.tsv", "live\t*\ttransitions/*/c=* state more = running last none\tchance: x\n");
        let more = |ours: &str| Difference {
            path: "transitions/pod=p/c=a state more".to_owned(),
            kubelet: "-".to_owned(),
            ours: ours.to_owned(),
        };
        assert!(table.allows("live", "001-a", &more("running last none")));
        assert!(!table.allows("live", "001-a", &more("waiting:X last none")));
        assert!(!table.allows("live", "001-a", &more("running last none , waiting:X last none")));
        // What a star stands for is within one value.
        let mut table = Table::parse("skipped.tsv", "live\t*\ttransitions/*/c=* state more = running last *\tchance: x\n");
        assert!(table.allows("live", "001-a", &more("running last none , running last terminated")));
        assert!(!table.allows("live", "001-a", &more("running last none , waiting:X last none")));
    }

    // A run of a stage that nothing but its seed decides comes out the same each time: there no line may be of no use.
    #[test]
    fn chance_is_for_stages_that_have_some() {
        let table = Table::parse("skipped.tsv", "model,live\t001\tevents/*\tchance: x\n");
        let ran = ["001".to_owned()].into();
        assert_eq!(table.stale("live", &ran), Vec::<String>::new());
        assert_eq!(table.stale("model", &ran).len(), 1);
        assert_eq!(table.0[0].kept("model"), ["live\t001\tevents/*\tchance: x"]);
        assert_eq!(table.0[0].kept("live"), ["model,live\t001\tevents/*\tchance: x"]);
    }

    #[test]
    fn star_is_any_text() {
        assert!(fits("a/*/c*", "a/b/x/c"));
        assert!(fits("*", ""));
        assert!(!fits("a/*/c", "a/b/d"));
    }
}
