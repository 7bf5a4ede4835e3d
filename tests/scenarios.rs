//! Runs every scenario file of stage `model` with a few seeds; `keelson-sim run` runs them with many, and in other stages.

use model::scenario::run::run;
use model::scenario::{Scenario, Stage};

use crate::source::{files_below, text_of};

/// Each file is run with the seeds below this.
const SEEDS: u64 = 4;

fn scenarios() -> Vec<(String, Scenario)> {
    let files = files_below("scenarios").into_iter().filter(|path| path.ends_with(".yaml"));
    let read = |path: String| {
        let text = text_of(&path).unwrap_or_default();
        let scenario = Scenario::parse(&path, &text).unwrap_or_else(|e| panic!("{e}"));
        (path, scenario)
    };
    files.map(read).collect()
}

#[test]
fn every_scenario_of_the_model_stage_holds() {
    let mut broken = Vec::new();
    for (path, scenario) in scenarios().iter().filter(|(_, scenario)| scenario.stages.contains(&Stage::Model)) {
        let verdicts = (0..SEEDS).map(|seed| (seed, run(scenario, seed, |_| {}).0));
        broken.extend(
            verdicts.filter(|(_, verdict)| !verdict.held()).map(|(seed, verdict)| {
                format!("{path} seed {seed}: {verdict}\n  keelson-sim run {path} --stage model --seed {seed}")
            }),
        );
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_scenario_says_what_it_is_about_and_what_it_answers_to() {
    let scenarios = scenarios();
    assert!(!scenarios.is_empty(), "there are scenarios");
    for (path, scenario) in scenarios {
        assert!(scenario.about.ends_with('.'), "{path}: about is a sentence");
        assert!(!scenario.refs.is_empty(), "{path}: refs names what it answers to");
        assert!(!scenario.stages.is_empty(), "{path}: stages names where it runs");
    }
}
