//! Decides how a pretend container behaves: when it exits and with what, whether it heeds SIGTERM, what its probes say.
//! Upstream: none; the trade's fakes script this in Go.
//! Differs: a script is one annotation of the pod, so that a scenario is data only.

use std::time::Duration;

/// The annotation that scripts a container: this prefix and the container's name.
pub const ANNOTATION_PREFIX: &str = "sim.keelson.dev/";

/// What a pretend container does in its life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Behaviour {
    /// By start, the first one first: after how long it exits with which code. The last one repeats if `repeats`; without one it runs on.
    pub exits: Vec<(Duration, i32)>,
    /// Whether the last exit repeats for all later starts.
    pub repeats: bool,
    /// Whether it runs on after SIGTERM until it is killed.
    pub ignores_term: bool,
    /// How long it takes to stop after SIGTERM.
    pub stops_after: Duration,
    /// The exit code after SIGTERM.
    pub term_code: i32,
    /// When execs (probes, hooks) in it fail: from and until, counted from its start.
    pub exec_fails: Vec<(Duration, Duration)>,
    /// How long an exec takes.
    pub exec_takes: Duration,
    /// Why it cannot be created, if it cannot.
    pub create_error: Option<String>,
    /// Why it cannot be started, if it cannot.
    pub start_error: Option<String>,
    /// What it leaves in its termination log.
    pub says: String,
    /// The runtime's reason for its end, if it is not the one that the exit code has.
    pub reason: String,
    /// What commands that are run in it do, each known by a part of its line. The first one that fits counts; one that none fits
    /// goes by `exec_fails` and `exec_takes`.
    pub execs: Vec<Exec>,
}

/// What a command that is run in a pretend container does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exec {
    /// A part of its line.
    pub line: String,
    /// Its exit code.
    pub code: i32,
    /// What it writes.
    pub output: String,
    /// How long it takes.
    pub takes: Duration,
    /// Why it cannot be run, if it cannot.
    pub error: Option<String>,
    /// From which age of the container on it ends with 0, whatever its code.
    pub passes_from: Option<Duration>,
    /// With which code it ends the container, at once, if it does.
    pub ends: Option<i32>,
}

/// A script that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "container script {script:?}: {word:?} is not understood; use exit=CODE@TIME[,..][*], term=ignore|TIME[@CODE], exec-fails=FROM..TO, exec-takes=TIME, create-error=WHY, start-error=WHY, says=WORD[*TIMES]"
)]
pub struct ScriptError {
    script: String,
    word: String,
}

impl Behaviour {
    /// Reads a script: words separated by blanks, as the error text lists them.
    ///
    /// # Errors
    /// Names the first word that is not understood.
    pub fn parse(script: &str) -> Result<Self, ScriptError> {
        let mut behaviour = Self::default();
        for word in script.split_whitespace() {
            behaviour.word(word).ok_or_else(|| ScriptError { script: script.to_owned(), word: word.to_owned() })?;
        }
        Ok(behaviour)
    }

    fn word(&mut self, word: &str) -> Option<()> {
        let (key, value) = word.split_once('=')?;
        match key {
            "exit" => {
                let list = value.strip_suffix('*').unwrap_or(value);
                self.repeats = list.len() < value.len();
                for item in list.split(',') {
                    let (code, after) = item.split_once('@').unwrap_or((item, "0s"));
                    self.exits.push((parse_duration(after)?, code.parse().ok()?));
                }
            }
            "term" if value == "ignore" => self.ignores_term = true,
            "term" => {
                let (after, code) = value.split_once('@').unwrap_or((value, "0"));
                self.stops_after = parse_duration(after)?;
                self.term_code = code.parse().ok()?;
            }
            "exec-fails" => {
                let (from, to) = value.split_once("..")?;
                let to = if to.is_empty() { Duration::MAX } else { parse_duration(to)? };
                self.exec_fails.push((parse_duration(from)?, to));
            }
            "exec-takes" => self.exec_takes = parse_duration(value)?,
            "create-error" => self.create_error = Some(value.to_owned()),
            "start-error" => self.start_error = Some(value.to_owned()),
            "says" => {
                let times = value.split_once('*').and_then(|(word, times)| Some((word, times.parse::<u16>().ok()?)));
                self.says = times.map_or_else(|| value.to_owned(), |(word, times)| word.repeat(times.into()));
            }
            _ => return None,
        }
        Some(())
    }

    /// What a plain command line means, when no script says otherwise: `sh -c "exit 3"`, `true`, `false`, `sleep 5`.
    #[must_use]
    pub fn of_command(command: &[String]) -> Self {
        let line = command.last().map(String::as_str).unwrap_or_default();
        let mut behaviour = Self::default();
        let words: Vec<&str> = line.split(|c: char| c == ';' || c.is_whitespace()).filter(|word| !word.is_empty()).collect();
        let sleeps = words.iter().position(|word| *word == "sleep").and_then(|at| words.get(at + 1)?.parse::<u64>().ok());
        let exit = words.iter().position(|word| *word == "exit").and_then(|at| words.get(at + 1)?.trim_matches('\'').parse().ok());
        let looping = words.contains(&"while") || words.contains(&"trap");
        let code = match (exit, words.last()) {
            _ if looping => None,
            (Some(code), _) => Some(code),
            (None, Some(&"true")) => Some(0),
            (None, Some(&"false")) => Some(1),
            (None, _) if words.first() == Some(&"echo") || sleeps.is_some() => Some(0),
            _ => None,
        };
        if let Some(code) = code {
            behaviour.exits.push((Duration::from_secs(sleeps.unwrap_or(0)), code));
            behaviour.repeats = true;
        }
        behaviour
    }

    /// What is known of a command that is run in it.
    #[must_use]
    pub fn exec(&self, command: &[String]) -> Option<&Exec> {
        let line = command.join(" ");
        self.execs.iter().find(|exec| line.contains(&exec.line))
    }

    /// When and how it exits by itself after it was started that many times before, if it does.
    #[must_use]
    pub fn exit_of(&self, starts: u32) -> Option<(Duration, i32)> {
        let starts = starts as usize;
        self.exits.get(starts).or_else(|| if self.repeats { self.exits.last() } else { None }).copied()
    }

    /// Whether an exec at that age of the container fails.
    #[must_use]
    pub fn exec_fails_at(&self, age: Duration) -> bool {
        self.exec_fails.iter().any(|(from, to)| *from <= age && age < *to)
    }

    /// Whether an exec could have passed at some time up to that age.
    #[must_use]
    pub fn exec_passes_by(&self, age: Duration) -> bool {
        let ends = self.exec_fails.iter().map(|(_, to)| *to).filter(|to| *to <= age);
        ends.chain([Duration::ZERO]).any(|at| !self.exec_fails_at(at))
    }
}

/// Reads `250ms`, `3s`, `2m`, `1h`.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    if let Some(millis) = text.strip_suffix("ms") {
        return millis.parse().ok().map(Duration::from_millis);
    }
    if let Some(seconds) = text.strip_suffix('s') {
        return seconds.parse::<f64>().ok().filter(|s| s.is_finite() && *s >= 0.0).map(Duration::from_secs_f64);
    }
    let (number, unit) = match text.strip_suffix('m') {
        Some(minutes) => (minutes, 60),
        None => (text.strip_suffix('h')?, 3600),
    };
    number.parse::<u64>().ok()?.checked_mul(unit).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn script_tells_each_attempt_its_end() {
        let behaviour = Behaviour::parse("exit=1@3s,0@500ms* term=ignore exec-fails=10s..20s").unwrap();
        assert_eq!(behaviour.exit_of(0), Some((Duration::from_secs(3), 1)));
        assert_eq!(Behaviour::parse("says=ab*3").unwrap().says, "ababab");
        assert_eq!(Behaviour::parse("says=a*b").unwrap().says, "a*b");
        assert_eq!(behaviour.exit_of(7), Some((Duration::from_millis(500), 0)));
        assert!(behaviour.ignores_term);
        assert!(!behaviour.exec_fails_at(Duration::from_secs(9)));
        assert!(behaviour.exec_passes_by(Duration::ZERO));
        let late = Behaviour::parse("exec-fails=0s..5s").unwrap();
        assert!(!late.exec_passes_by(Duration::from_secs(4)) && late.exec_passes_by(Duration::from_secs(5)));
        assert!(behaviour.exec_fails_at(Duration::from_secs(10)));
        assert!(!behaviour.exec_fails_at(Duration::from_secs(20)));
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_duration("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!(parse_duration("2m"), Some(Duration::from_secs(120)));
        assert_eq!(parse_duration("1h"), Some(Duration::from_secs(3600)));
        assert_eq!(parse_duration("3"), None);
    }

    #[test]
    fn unknown_word_is_named() {
        let error = Behaviour::parse("exit=1@3s frobnicate=2").unwrap_err();
        assert!(error.to_string().contains("\"frobnicate=2\""));
    }

    #[test]
    fn plain_commands_mean_what_they_say() {
        let command = |line: &str| Behaviour::of_command(&["sh".to_owned(), "-c".to_owned(), line.to_owned()]);
        assert_eq!(command("echo bye; exit 3").exit_of(4), Some((Duration::ZERO, 3)));
        assert_eq!(command("sleep 5").exit_of(0), Some((Duration::from_secs(5), 0)));
        assert_eq!(command("while :; do sleep 3600 & wait; done").exit_of(0), None);
        assert_eq!(Behaviour::of_command(&[]).exit_of(0), None);
    }
}
