//! What `scripts.yaml` says of the world around a case that its commands do not: how containers end and fail, what commands in them
//! say, what is behind ports, which pulls are refused. All of it is what the recordings say that the world was like.

use std::collections::BTreeMap;
use std::time::Duration;

use kubelet::failure::{Failure, FailureKind};
use model::runtime::behaviour::{Behaviour, Exec, parse_duration};
use model::runtime::{Door, Refusal};
use serde::Deserialize;

use crate::source::text_of;

const FILE: &str = "tests/corpus/scripts.yaml";

/// What is said of a case.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct Scripts {
    containers: BTreeMap<String, ContainerScript>,
    doors: BTreeMap<String, DoorScript>,
    refused: BTreeMap<String, RefusalScript>,
}

/// Of a container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct ContainerScript {
    /// In the words of `sim.keelson.dev/` annotations; without it the command says it.
    script: Option<String>,
    create_error: Option<String>,
    start_error: Option<String>,
    says: Option<String>,
    reason: Option<String>,
    execs: Vec<ExecScript>,
}

/// Of a command that is run in a container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct ExecScript {
    line: String,
    code: i32,
    output: String,
    takes: String,
    error: Option<String>,
    passes_from: Option<String>,
    ends: Option<i32>,
}

/// Of a port of a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct DoorScript {
    fails: Option<String>,
    warns: Option<String>,
    ends: Option<(String, String, i32)>,
}

/// Of a pull.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct RefusalScript {
    why: String,
    not_found: bool,
    without_credentials: bool,
}

impl Scripts {
    /// What is said of the case of that number.
    pub(super) fn of(number: &str) -> Self {
        let text = text_of(FILE).unwrap_or_default();
        let mut all: BTreeMap<String, Self> = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{FILE}: {error}"));
        all.remove(number).unwrap_or_default()
    }

    /// How a container behaves of which the command says that. It is known by its name, or by `POD/NAME`.
    pub(super) fn laid_over(&self, behaviour: Behaviour, pod: &str, name: &str) -> Behaviour {
        let script = self.containers.get(&format!("{pod}/{name}")).or_else(|| self.containers.get(name));
        let Some(script) = script else { return behaviour };
        let known = behaviour.execs.clone();
        let mut behaviour = match &script.script {
            Some(words) => Behaviour::parse(words).unwrap_or_else(|error| panic!("{FILE}: {error}")),
            None => behaviour,
        };
        behaviour.create_error.clone_from(&script.create_error);
        behaviour.start_error.clone_from(&script.start_error);
        behaviour.says = script.says.clone().unwrap_or_default();
        behaviour.reason = script.reason.clone().unwrap_or_default();
        behaviour.execs = script.execs.iter().map(ExecScript::exec).chain(known).collect();
        behaviour
    }

    /// What is behind the ports of pods, which are known as `POD:PORT`.
    pub(super) fn doors(&self) -> BTreeMap<(String, u16), Door> {
        let door = |(place, door): (&String, &DoorScript)| {
            let (pod, port) = place.split_once(':').unwrap_or(("p", place));
            let port = port.parse().unwrap_or_else(|_| panic!("{FILE}: {place} is no POD:PORT"));
            ((pod.to_owned(), port), Door { fails: door.fails.clone(), warns: door.warns.clone(), ends: door.ends.clone() })
        };
        self.doors.iter().map(door).collect()
    }

    /// The pulls that are refused.
    pub(super) fn refused(&self) -> BTreeMap<String, Refusal> {
        let refusal = |(image, script): (&String, &RefusalScript)| {
            let kind = if script.not_found { FailureKind::NotFound } else { FailureKind::Other };
            let code = if script.not_found { "NotFound" } else { "Unknown" };
            let failure = Failure::new(kind, script.why.clone()).with_code(code);
            (image.clone(), Refusal { failure, without_credentials: script.without_credentials })
        };
        self.refused.iter().map(refusal).collect()
    }
}

impl ExecScript {
    fn exec(&self) -> Exec {
        let duration = |text: &str| parse_duration(text).unwrap_or_else(|| panic!("{FILE}: {text:?} is no time"));
        Exec {
            line: self.line.clone(),
            code: self.code,
            output: self.output.clone(),
            takes: if self.takes.is_empty() { Duration::ZERO } else { duration(&self.takes) },
            error: self.error.clone(),
            passes_from: self.passes_from.as_deref().map(duration),
            ends: self.ends,
        }
    }
}
