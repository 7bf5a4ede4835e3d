//! How a pretend container behaves that is given a case's command: what a shell, and the few programs that cases use, would do as the
//! first process of a container. What cannot be seen from the command stands in `scripts.yaml`.

use std::collections::BTreeMap;
use std::time::Duration;

use model::runtime::behaviour::{Behaviour, Exec};
use serde_json::Value;

use super::case::Case;
use super::scripts::Scripts;

/// Who sleeps longer than that does so for ever, as far as a case can see.
const FOR_EVER: f64 = 60.0;
/// How soon a shell that sleeps a tenth of a second at a time heeds its trap.
const HEEDS: Duration = Duration::from_millis(100);
/// How long the shortest program lives, with all that a runtime does around it.
const LIVES: Duration = Duration::from_millis(200);
/// The same beside other containers: in the lab it has ended before the next one is started.
const LIVES_BESIDE_OTHERS: Duration = Duration::from_millis(5);

/// How each container of a case behaves, by the names of its pod and itself.
pub(super) fn behaviours(case: &Case, scripts: &Scripts) -> BTreeMap<(String, String), Behaviour> {
    let mut out = BTreeMap::new();
    let mut add = |container: &Value, pod: &str, first: bool, alone: bool| {
        let name = container["name"].as_str().unwrap_or_default();
        let mut behaviour = of_container(container, first);
        if !alone {
            let ends = behaviour.exits.iter_mut().map(|(after, _)| after);
            ends.for_each(|after| *after = after.saturating_sub(LIVES) + LIVES_BESIDE_OTHERS);
        }
        let behaviour = scripts.laid_over(behaviour, pod, name);
        out.insert((pod.to_owned(), name.to_owned()), behaviour);
    };
    let applied = case.steps.iter().map(|step| &step["object"]);
    for pod in case.objects.iter().chain(applied).filter(|object| object["spec"]["containers"].is_array()) {
        let alone = pod["spec"]["containers"].as_array().is_some_and(|all| all.len() == 1);
        let name = pod["metadata"]["name"].as_str().unwrap_or("p");
        let first = pod["spec"]["shareProcessNamespace"] != true;
        let containers = |list: &str| pod["spec"][list].as_array().cloned().unwrap_or_default();
        containers("initContainers").iter().for_each(|container| add(container, name, first, true));
        containers("containers").iter().for_each(|container| add(container, name, first, alone));
    }
    for step in &case.steps {
        let added = &step["patch"]["spec"]["ephemeralContainers"];
        added.as_array().into_iter().flatten().for_each(|container| add(container, "p", true, true));
    }
    out
}

/// What a container does, and what the commands that its probes and hooks run in it do.
fn of_container(container: &Value, first: bool) -> Behaviour {
    let mut behaviour = of_command(container, first);
    let line = words(&container["command"]).join(" ");
    let lifecycle = &container["lifecycle"];
    let runs = ["livenessProbe", "readinessProbe", "startupProbe"].map(|probe| &container[probe]);
    for run in runs.into_iter().chain([&lifecycle["postStart"], &lifecycle["preStop"]]) {
        let command = words(&run["exec"]["command"]);
        if !command.is_empty() {
            behaviour.execs.push(exec(&command, &line));
        }
    }
    behaviour
}

/// What a command does that is run in a container with that line.
fn exec(command: &[String], container: &str) -> Exec {
    let line = command.join(" ");
    let mut exec = Exec { line: line.clone(), ..Exec::default() };
    exec.takes = Duration::from_secs_f64(sleeps(&line).iter().sum());
    exec.code = exits(&line).first().copied().unwrap_or_else(|| i32::from(line == "false"));
    if let Some(file) = line.strip_prefix("cat ").filter(|file| !file.contains(' ')) {
        (exec.code, exec.output) = (1, format!("cat: can't open '{file}': No such file or directory\n"));
    }
    // The container makes that file some time after its start.
    if let Some((before, _)) = line.strip_prefix("test -e ").and_then(|file| container.split_once(&format!("touch {file}"))) {
        exec.code = 1;
        exec.passes_from = Some(Duration::from_secs_f64(sleeps(before).iter().sum::<f64>()) + LIVES);
    }
    // The container waits for the file that this one makes; what runs in it dies with it.
    let made = after(&line, "touch").next().and_then(|file| container.split_once(&format!("[ -e {file} ] && exit ")));
    if let Some((_, code)) = made {
        exec.ends = code.split(';').next().and_then(|code| code.trim().parse().ok());
        (exec.code, exec.takes) = (137, HEEDS);
    }
    exec
}

fn words(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// What a container's command does. `first` is whether it is the first process of its PID namespace, to which signals mean nothing
/// that it does not handle.
fn of_command(container: &Value, first: bool) -> Behaviour {
    let command = [words(&container["command"]), words(&container["args"])].concat();
    let line = command.join(" ");
    let mut behaviour = Behaviour { ignores_term: first, term_code: 143, ..Behaviour::default() };
    trap(&line, &mut behaviour);
    let asleep: f64 = sleeps(&line).iter().sum();
    // Servers heed SIGTERM as servers should.
    if ["netexec", "grpc-health-checking"].iter().any(|server| line.starts_with(server)) {
        return Behaviour { stops_after: HEEDS, ..Behaviour::default() };
    }
    if container["stdin"] == true || asleep >= FOR_EVER || line.contains("while :") || command.is_empty() {
        return behaviour;
    }
    // A script that ends at its first `exit` only once a file is there makes that file on its way.
    let exits = exits(&line);
    let after = LIVES + Duration::from_secs_f64(asleep);
    behaviour.exits = match exits[..] {
        [] => vec![(after, i32::from(command == ["false"]))],
        [code] => vec![(after, code)],
        [later, code, ..] => vec![(after, code), (LIVES, later)],
    };
    behaviour.repeats = true;
    behaviour
}

/// `trap 'sleep 1; exit 3' TERM`.
fn trap(line: &str, behaviour: &mut Behaviour) {
    let Some(handler) = line.split("trap '").find_map(|part| part.split_once("' TERM")).map(|(handler, _)| handler) else { return };
    behaviour.ignores_term = handler.is_empty();
    behaviour.stops_after = HEEDS + Duration::from_secs_f64(sleeps(handler).iter().sum());
    behaviour.term_code = exits(handler).first().copied().unwrap_or(0);
}

/// What follows a word wherever it stands for itself.
fn after<'a>(line: &'a str, word: &'a str) -> impl Iterator<Item = &'a str> {
    let words: Vec<&str> = line.split(|c: char| c.is_whitespace() || c == ';' || c == '\'').filter(|w| !w.is_empty()).collect();
    let found: Vec<&str> = words.windows(2).filter(|pair| pair[0] == word).map(|pair| pair[1]).collect();
    found.into_iter()
}

fn sleeps(line: &str) -> Vec<f64> {
    after(line, "sleep").filter_map(|word| word.parse().ok()).collect()
}

fn exits(line: &str) -> Vec<i32> {
    after(line, "exit").filter_map(|word| word.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(command: Value) -> Behaviour {
        of_command(&json!({"command": command, "image": "BUSYBOX"}), true)
    }

    #[test]
    fn commands_do_what_a_shell_would() {
        let seconds = Duration::from_secs;
        assert_eq!(of(json!(["sh", "-c", "echo a; exit 7"])).exit_of(3), Some((LIVES, 7)));
        assert_eq!(of(json!(["sh", "-c", "sleep 1; exit 2"])).exit_of(0), Some((seconds(1) + LIVES, 2)));
        let once = of(json!(["sh", "-c", "[ -e /v/x ] && exit 7; touch /v/x; exit 42"]));
        assert_eq!((once.exit_of(0).unwrap().1, once.exit_of(1).unwrap().1), (42, 7));
        assert_eq!(of(json!(["false"])).exit_of(0), Some((LIVES, 1)));
        let asleep = of(json!(["sleep", "600"]));
        assert!(asleep.ignores_term && asleep.exit_of(0).is_none());
        let heeds = of(json!(["sh", "-c", "trap 'sleep 1; exit 3' TERM; while :; do sleep .1; done"]));
        assert!(!heeds.ignores_term && heeds.term_code == 3 && heeds.stops_after == seconds(1) + HEEDS);
        assert!(of(json!(["sh", "-c", "trap '' TERM; while :; do sleep .1; done"])).ignores_term);
        let waits = "while :; do [ -e /tmp/bye ] && exit 6; sleep .2; done";
        assert_eq!(exec(&["sh", "-c", "touch /tmp/bye; sleep 1"].map(str::to_owned), waits).ends, Some(6));
        let from = exec(&["test", "-e", "/u"].map(str::to_owned), "sleep 3; touch /u; sleep 600").passes_from;
        assert_eq!(from, Some(seconds(3) + LIVES));
    }
}
