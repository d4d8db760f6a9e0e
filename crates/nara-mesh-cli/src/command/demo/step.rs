//! A step of the demo and its outcome.

use std::fmt::Display;

use serde_json::{Map, Value};

/// A step: its name in JSON, and its title.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
}

/// The outcome of a step.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) ok: bool,
    /// One line for the summary.
    pub(super) summary: String,
    /// Detail lines.
    pub(super) lines: Vec<String>,
    /// Numbers, with units in the names.
    pub(super) figures: Map<String, Value>,
}

impl Report {
    /// Creates the outcome of a failed step.
    pub(super) fn failed(why: impl Display) -> Self {
        Self {
            ok: false,
            summary: why.to_string(),
            lines: Vec::new(),
            figures: Map::new(),
        }
    }

    /// Creates an outcome.
    pub(super) fn new(ok: bool, summary: impl Display) -> Self {
        Self {
            ok,
            ..Self::failed(summary)
        }
    }

    #[must_use]
    pub(super) fn lines(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        self.lines.extend(lines);
        self
    }

    #[must_use]
    pub(super) fn figure(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.figures.insert(name.to_owned(), value.into());
        self
    }
}

/// Converts an unexpected error of a call to a failed outcome.
pub(super) fn or_failed(outcome: Result<Report, Box<dyn std::error::Error + Send + Sync>>) -> Report {
    outcome.unwrap_or_else(|error| {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        Report::failed(text)
    })
}

/// The result of a step, with the errors of its calls.
pub(super) type StepResult = Result<Report, Box<dyn std::error::Error + Send + Sync>>;
