//! The house rules that a machine can check (STYLE.md has them all, with their reasons). Each finding names its place and the
//! remedy; each rule is shown to catch what it is for.

mod crates;
mod layout;
mod rules;

use std::fmt;

use crate::source::{Source, sources};

/// Something that breaks a rule.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    path: String,
    line: usize,
    what: String,
    remedy: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}. {}", self.path, self.line, self.what, self.remedy)
    }
}

/// Fails with all findings at once.
fn assert_none(findings: &[Finding]) {
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert!(findings.is_empty(), "{} findings:\n{}\n", findings.len(), lines.join("\n"));
}

fn assert_rule(rule: fn(&Source) -> Vec<Finding>) {
    assert_none(&sources().iter().flat_map(rule).collect::<Vec<_>>());
}

#[test]
fn no_file_is_longer_than_800_lines() {
    assert_rule(rules::file_length);
}

#[test]
fn no_function_is_longer_than_70_lines() {
    assert_rule(rules::function_length);
}

#[test]
fn module_heads_say_what_is_decided_where_upstream_does_it_and_what_differs() {
    assert_rule(rules::module_head);
}

#[test]
fn nothing_is_left_for_later() {
    assert_rule(rules::leftovers);
}

#[test]
fn unsafe_code_is_at_the_edge_and_gives_its_reason() {
    assert_rule(rules::unsafe_code);
}

#[test]
fn modules_are_named_after_their_subject() {
    assert_rule(rules::module_name);
}

#[test]
fn pure_crates_have_no_io_no_clock_and_no_random_order() {
    assert_rule(rules::purity);
}

#[test]
fn adapters_do_not_know_one_another() {
    assert_rule(rules::adapters_apart);
}

#[test]
fn the_daemon_does_not_know_that_it_is_simulated() {
    assert_rule(rules::no_simulation_in_the_daemon);
}

#[test]
fn no_file_names_a_path_of_the_machine_that_it_was_written_on() {
    assert_none(&layout::machine_paths());
}

#[test]
fn the_top_level_holds_what_the_architecture_names() {
    assert_none(&layout::top_level());
}

#[test]
fn crates_depend_inwards_only() {
    assert_none(&crates::directions());
}

#[test]
fn third_party_crates_are_declared_once_in_the_workspace() {
    assert_none(&crates::versions_outside_the_workspace());
}
