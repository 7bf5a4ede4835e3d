//! `keelson-sim` as a program: its exit codes and what it says. That cargo builds it with the tests, where CI finds it, is
//! because of this file.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

const SCENARIO: &str = "../../scenarios/pods/ordinary_pod_runs_and_goes.yaml";

fn keelson_sim(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keelson-sim"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments).output().expect("it starts")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn scenario_that_holds_gives_zero() {
    let output = keelson_sim(&["run", SCENARIO, "--stage", "model"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
}

#[test]
fn scenario_that_breaks_gives_one_and_says_how_to_replay() {
    let text = std::fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(SCENARIO)).unwrap();
    let file = std::env::temp_dir().join(format!("keelson-sim-{}.yaml", std::process::id()));
    std::fs::write(&file, text.replace("phase: Running", "phase: Unknown")).unwrap();
    let output = keelson_sim(&["run", file.to_str().unwrap(), "--stage", "model"]);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("replay: keelson-sim run"), "{}", said(&output));
}

#[test]
fn file_that_is_not_there_gives_two() {
    let output = keelson_sim(&["run", "no-such-scenario.yaml"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("no-such-scenario.yaml"), "{}", said(&output));
}

#[test]
fn bad_usage_gives_sixty_four() {
    assert_eq!(keelson_sim(&["run", SCENARIO, "--stage", "moon"]).status.code(), Some(64));
}

// R10: `| head` closes the pipe while there is more to say.
#[test]
fn reader_that_has_enough_is_no_failure() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keelson-sim"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["run", SCENARIO, "--lines", "--stage", "model"]);
    let mut run = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    drop(run.stdout.take());
    let output = run.wait_with_output().unwrap();
    assert_eq!((output.status.code(), said(&output).as_str()), (Some(0), ""));
}
