//! What is wrong with flags or settings: all of it at once, each with field, value and remedy.
//! Upstream: k8s.io/apimachinery/pkg/util/errors (Aggregate), cmd/kubelet/app/server.go.
//! Differs: one line per problem with what to do about it, and exit code 64 instead of 1.

use std::fmt;

/// The exit code for flags or settings that cannot be used.
pub const EXIT_CODE: u8 = 64;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where: a flag (`--max-pods`) or a field with its path (`authentication.x509.clientCAFile`).
    pub field: String,
    /// The value that it has there; empty if there is none to show.
    pub value: String,
    /// What is wrong with it, in upstream's words where upstream has some.
    pub message: String,
    /// What to do.
    pub remedy: String,
    /// The file that it is in; `None` for the command line and for what flags and files amount to together.
    pub file: Option<String>,
}

impl Problem {
    /// A problem of a field or flag.
    pub(super) fn new(
        field: impl Into<String>,
        value: impl fmt::Display,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { field: field.into(), value: value.to_string(), message: message.into(), remedy: remedy.into(), file: None }
    }

    /// The same, in a file.
    pub(super) fn in_file(mut self, file: &str) -> Self {
        self.file = Some(file.to_owned());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if !self.field.is_empty() && !self.message.contains(&self.field) {
            write!(f, " [{}]", self.field)?;
        }
        if !self.value.is_empty() && !self.message.contains(&self.value) {
            write!(f, " (value {})", self.value)?;
        }
        if let Some(file) = &self.file
            && !self.message.contains(file.as_str())
        {
            write!(f, " in {file}")?;
        }
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

/// Everything that is wrong; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The problems, in the order in which flags, files and settings are read.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.as_slice() {
            [one] => write!(f, "{one}"),
            many => {
                write!(f, "{} problems in flags and configuration:", many.len())?;
                many.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}
