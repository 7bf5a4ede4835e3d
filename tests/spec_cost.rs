//! What a pod's spec costs the core: counted in instructions inside `Kubelet::handle`, which are the same whatever else the machine
//! does. Planning is linear in the spec (faults S2, S9): twice as much of anything costs twice as much.
//!
//! Each count is a run of this test binary under callgrind; without valgrind they say `skipped:`. The bounds are a quarter above what
//! an unoptimised build needed when they were set: what passes them has to say why.

use std::fmt::Write as _;
use std::process::Command;

use model::scenario::Scenario;
use model::scenario::run::run;

/// What is asked of the run under callgrind: `shape:size`.
const ASKED: &str = "KEELSON_SPEC_COST";

/// A container's spec with `extra` in it, as YAML.
fn container(name: usize, extra: &str) -> String {
    format!("{{name: c{name}, image: 'busybox:1.36'{extra}}}")
}

/// A spec of one shape and size.
fn spec(shape: &str, size: usize) -> String {
    let list = |item: &dyn Fn(usize) -> String| (0..size).map(item).collect::<Vec<_>>().join(", ");
    match shape {
        "nothing" => format!("containers: [{}]", container(0, "")),
        "volumes" => format!(
            "containers: [{}], volumes: [{}]",
            container(0, &format!(", volumeMounts: [{}]", list(&|i| format!("{{name: v{i}, mountPath: /m/{i}}}")))),
            list(&|i| format!("{{name: v{i}, configMap: {{name: absent, optional: true}}}}"))
        ),
        "variables" => format!(
            "containers: [{}]",
            container(0, &format!(", env: [{}]", list(&|i| format!("{{name: A{i}, value: $(A{})}}", i.saturating_sub(1)))))
        ),
        "words" => {
            let variables = (0..size / 2).map(|i| format!("{{name: A{i}, value: x}}")).collect::<Vec<_>>().join(", ");
            let words = list(&|i| format!("$(A{i})"));
            let extra = format!(", env: [{variables}], readinessProbe: {{exec: {{command: [{words}]}}}}");
            format!("containers: [{}]", container(0, &extra))
        }
        "ports" => {
            let ports = format!(", ports: [{}]", list(&|i| format!("{{containerPort: {}}}", 1 + i)));
            let all: Vec<String> = (0..20).map(|i| container(i, if i == 0 { &ports } else { "" })).collect();
            format!("containers: [{}]", all.join(", "))
        }
        "containers" => format!("containers: [{}]", list(&|i| container(i, ""))),
        other => panic!("{ASKED}: no shape is called {other}"),
    }
}

/// Does the work that is asked for, and nothing in an ordinary run: a pod of that spec from its creation on,
/// until half a minute after it runs.
#[test]
fn workload() {
    let Ok(asked) = std::env::var(ASKED) else { return };
    let (shape, size) = asked.split_once(':').expect("shape:size");
    let mut text = String::from("about: cost\nstages: [model]\nsteps:\n");
    let spec = spec(shape, size.parse().expect("a number"));
    writeln!(text, "  - apply: [{{kind: Pod, metadata: {{name: p}}, spec: {{{spec}}}}}]").expect("a string takes text");
    text.push_str("    expect: {within: 60s, pods: [{name: p, phase: Running}]}\n  - holds: {within: 30s, node-ready: true}\n");
    let scenario = Scenario::parse("cost", &text).expect("it parses");
    let (verdict, _) = run(&scenario, 1, |_| {});
    assert!(verdict.held(), "{verdict}");
}

/// The instructions that a spec costs the core, or why they cannot be counted here.
fn instructions(shape: &str, size: usize) -> Result<u64, String> {
    let valgrind = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--demangle=no", "--toggle-collect=*7Kubelet6handle*"])
        .arg(std::env::current_exe().map_err(|error| error.to_string())?)
        .args(["--exact", "spec_cost::workload", "--test-threads=1"])
        .env(ASKED, format!("{shape}:{size}"))
        .output();
    let output = valgrind.map_err(|error| format!("valgrind: {error}"))?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{shape}:{size}: {told}{}", String::from_utf8_lossy(&output.stdout));
    let counted = told.lines().find_map(|line| line.split_once("Collected :")).expect("callgrind says what it counted").1;
    Ok(counted.trim().parse().expect("a number"))
}

/// Counts a spec of `size` and one of half of it: the larger one costs at most so many times the other, and so many instructions.
fn costs_at_most(shape: &str, size: usize, most_ratio: f64, most: u64) {
    let counts =
        instructions("nothing", 0).and_then(|nothing| Ok((nothing, instructions(shape, size / 2)?, instructions(shape, size)?)));
    let (nothing, half, whole) = match counts {
        Ok(counts) => counts,
        Err(missing) => return println!("skipped: cost of {size} {shape}: {missing}"),
    };
    println!("{size} {shape}: {whole} instructions, {half} for half of them, {nothing} for an ordinary pod");
    assert!(nothing > 100_000, "the core's instructions are not counted: {nothing}");
    let ratio = (whole - nothing) as f64 / (half - nothing) as f64;
    assert!(ratio < most_ratio, "{size} {shape} cost {ratio:.2} times as much as half of them; the bound is {most_ratio}");
    assert!(whole < most, "{size} {shape} cost {whole} instructions; the bound is {most}");
}

#[test]
fn five_hundred_volumes() {
    costs_at_most("volumes", 500, 2.5, 450_000_000);
}

#[test]
fn fifteen_thousand_variables() {
    costs_at_most("variables", 15_000, 2.5, 1_100_000_000);
}

#[test]
fn forty_thousand_words_of_a_probe() {
    costs_at_most("words", 40_000, 2.5, 2_500_000_000);
}

/// In a pod of twenty containers: its sandbox's configuration has all ports, and goes with each of them.
#[test]
fn eight_thousand_ports() {
    costs_at_most("ports", 8000, 2.5, 1_100_000_000);
}

/// Each container brings events of its own (image, creation, start, what the runtime tells), and after each the pod is planned, which
/// is linear: so a whole life costs the square, as at upstream.
#[test]
fn hundred_containers() {
    costs_at_most("containers", 100, 4.5, 6_500_000_000);
}
