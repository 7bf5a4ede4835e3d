//! A scenario: a straight line of steps and what is expected after them, read from a file.
//! Upstream: none.
//! Differs: nothing on purpose.

pub mod crash_points;
pub mod expect;
pub mod run;
pub mod schema;

use serde::de::Error as _;

pub use self::schema::{Scenario, Stage, Step};

/// A scenario file that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {source}")]
pub struct ScenarioError {
    file: String,
    #[source]
    source: serde_saphyr::Error,
}

impl Scenario {
    /// Reads a scenario. `file` is its name, for the error.
    ///
    /// # Errors
    /// If the text is not a scenario; the message names the place.
    pub fn parse(file: &str, text: &str) -> Result<Self, ScenarioError> {
        let fails = |source| ScenarioError { file: file.to_owned(), source };
        let scenario: Self = serde_saphyr::from_str(text).map_err(fails)?;
        if scenario.steps.is_empty() {
            return Err(fails(serde_saphyr::Error::custom("steps: is empty; add at least one step")));
        }
        Ok(scenario)
    }
}
