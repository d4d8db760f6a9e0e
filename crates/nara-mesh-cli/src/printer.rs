//! Prints data on stdout, and everything else on stderr.

use std::fmt::Display;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use anstream::adapter::strip_str;
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use nara_proto::identity::escape;
use owo_colors::OwoColorize as _;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tracing::Level;

use crate::failure::{Failure, Outcome};
use crate::{log, output, remedy};

/// Prints text or JSON, as requested. The streams strip colours where they are not wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Printer {
    command: &'static str,
    json: bool,
    quiet: bool,
}

impl Printer {
    /// Creates the printer of a command; `command` becomes part of the JSON schema name.
    pub(crate) fn new(command: &'static str, json: bool, quiet: bool) -> Self {
        Self { command, json, quiet }
    }

    /// Returns a printer for a daemon: with JSON it prints no notes, since its lines contain everything.
    pub(crate) fn of_daemon(mut self) -> Self {
        self.quiet |= self.json;
        self
    }

    /// Returns a printer with another schema name.
    pub(crate) fn named(mut self, command: &'static str) -> Self {
        self.command = command;
        self
    }

    /// Returns whether JSON was requested: then stdout has nothing but JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Returns whether progress may be drawn on stderr.
    pub(crate) fn may_animate(&self) -> bool {
        !self.quiet && !self.json && io::stderr().is_terminal()
    }

    /// Prints a line of data for people; does nothing with JSON.
    pub(crate) fn line(&self, line: impl Display) -> Outcome<()> {
        if self.json {
            return Ok(());
        }
        stdout_line(line)
    }

    /// Prints a line of data in both modes, verbatim.
    pub(crate) fn raw(&self, line: impl Display) -> Outcome<()> {
        stdout_line(line)
    }

    /// Prints a line of JSON without a schema in both modes.
    pub(crate) fn jsonl(&self, value: impl Serialize) -> Outcome<()> {
        line(&json!(value))
    }

    /// Prints one JSON object with its schema, if JSON was requested.
    pub(crate) fn json(&self, value: impl Serialize) -> Outcome<()> {
        if !self.json {
            return Ok(());
        }
        self.pretty(json!(value))
    }

    fn pretty(&self, value: Value) -> Outcome<()> {
        let pretty = serde_json::to_string_pretty(&self.with_schema(value)).unwrap_or_default();
        stdout_line(output::json(&pretty))
    }

    /// Prints one line of a JSON stream, if JSON was requested.
    pub(crate) fn json_line(&self, value: impl Serialize) -> Outcome<()> {
        if !self.json {
            return Ok(());
        }
        line(&self.with_schema(json!(value)))
    }

    fn with_schema(&self, value: Value) -> Value {
        let mut object = Map::new();
        let schema = format!("nara-mesh/{}/1", self.command);
        object.insert("schema".to_owned(), Value::String(schema));
        match value {
            Value::Object(fields) => object.extend(fields),
            other => {
                object.insert("value".to_owned(), other);
            }
        }
        Value::Object(object)
    }

    /// Prints a note on stderr, unless `--quiet`.
    pub(crate) fn note(&self, text: impl Display) {
        if !self.quiet {
            let text = text.to_string();
            let text = remedy::for_the_same_nara(&text);
            log::say(Level::INFO, &text, &plain(&text), &[]);
        }
    }

    /// Prints what to do next on stderr, unless `--quiet`.
    pub(crate) fn hint(&self, text: impl Display) {
        self.note(format_args!("{} {text}", "hint:".cyan().bold()));
    }

    /// Prints a warning on stderr, also with `--quiet`.
    pub(crate) fn warn(&self, text: impl Display) {
        let text = text.to_string();
        let text = remedy::for_the_same_nara(&text);
        let line = format!("{} {text}", "warning:".yellow().bold());
        log::say(Level::WARN, &line, &plain(&text), &[]);
    }
}

/// Prints a failure on stderr: `error:`, `hint:`, and with `verbose` the causes.
pub(crate) fn print_failure(failure: &Failure, verbose: bool) {
    let message = readable(&failure.message);
    let mut lines = vec![format!("{} {message}", "error:".red().bold())];
    let causes: Vec<String> = failure.causes().iter().map(|cause| readable(cause)).collect();
    // The innermost cause is the error of the system; the others are shown with -v.
    let innermost = causes.last().filter(|cause| !message.contains(*cause));
    let shown: Vec<&String> = if verbose {
        causes.iter().collect()
    } else {
        innermost.into_iter().collect()
    };
    lines.extend(shown.iter().map(|cause| format!("  caused by: {cause}")));
    let hint = failure.hint.as_deref().map(remedy::for_the_same_nara);
    // The journal shows the message only, so it has to contain everything.
    let mut whole = shown
        .iter()
        .fold(message.clone(), |whole, cause| whole + ": " + cause);
    if let Some(hint) = &hint {
        let hint = readable(hint);
        lines.push(format!("{} {hint}", "hint:".cyan().bold()));
        whole = format!("{whole}; {hint}");
    }
    let causes = causes.join(": ");
    let mut fields = Vec::new();
    if !causes.is_empty() {
        fields.push(("cause", &*causes));
    }
    fields.extend(hint.as_deref().map(|hint| ("hint", hint)));
    log::say(Level::ERROR, &lines.join("\n"), &whole, &fields);
}

/// Escapes each line of a text: it may contain file names that the user did not choose.
fn readable(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(output::printable).collect();
    lines.join("\n")
}

fn line(value: &Value) -> Outcome<()> {
    stdout_line(output::json(&value.to_string()))
}

fn stdout_line(line: impl Display) -> Outcome<()> {
    written(output::stdout(&line.to_string()))
}

/// Writes bytes to stdout; see [`output::stdout_bytes`].
pub(crate) fn stdout_bytes(bytes: &[u8]) -> Outcome<()> {
    written(output::stdout_bytes(bytes))
}

/// Converts the result of writing to stdout.
pub(crate) fn written(outcome: io::Result<()>) -> Outcome<()> {
    match outcome {
        Ok(()) => Ok(()),
        // The reader has closed the pipe: `nara-mesh … | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Failure::failed("stdout cannot be written").caused_by(error)),
    }
}

/// Returns the text without colours.
fn plain(text: &str) -> String {
    strip_str(text).to_string()
}

/// Creates a table without borders, as wide as its content.
pub(crate) fn table<const N: usize>(header: [&str; N]) -> Table {
    table_of(header)
}

/// Creates a table without borders with a dynamic number of columns.
pub(crate) fn table_of<'a>(header: impl IntoIterator<Item = &'a str>) -> Table {
    let mut table = Table::new();
    let header: Vec<&str> = header.into_iter().collect();
    table
        .load_style(NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// Renders a table: bold header, no trailing white space.
pub(crate) fn render(table: &Table) -> String {
    let text = table.to_string();
    let mut lines = text.lines().map(str::trim_end).filter(|line| !line.is_empty());
    let mut rendered = lines
        .next()
        .map(|header| header.bold().to_string())
        .unwrap_or_default();
    for line in lines {
        rendered.push('\n');
        rendered.push_str(line);
    }
    rendered
}

/// Formats a duration: three significant digits and a unit, or days, hours, minutes and seconds.
pub(crate) fn human(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds >= 120.0 {
        let whole = duration.as_secs();
        let parts = [
            (whole / 86_400, "d"),
            (whole / 3_600 % 24, "h"),
            (whole / 60 % 60, "min"),
            (whole % 60, "s"),
        ];
        let from = parts.iter().position(|(value, _)| *value > 0).unwrap_or_default();
        let parts: Vec<String> = parts[from..]
            .iter()
            .take(2)
            .map(|(value, unit)| format!("{value} {unit}"))
            .collect();
        return parts.join(" ");
    }
    let (value, unit) = match seconds {
        s if s < 1e-3 => (s * 1e6, "µs"),
        s if s < 1.0 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    if value >= 100.0 || unit == "µs" {
        format!("{value:.0} {unit}")
    } else if value >= 10.0 {
        format!("{value:.1} {unit}")
    } else {
        format!("{value:.2} {unit}")
    }
}

/// Formats a count with its noun.
pub(crate) fn count(number: usize, thing: &str) -> String {
    if number == 1 {
        format!("1 {thing}")
    } else {
        format!("{number} {thing}s")
    }
}

/// Joins the first texts, and adds how many more there are.
pub(crate) fn first_of(texts: &[impl AsRef<str>], most: usize, separator: &str) -> String {
    let mut shown: Vec<&str> = texts.iter().map(AsRef::as_ref).take(most).collect();
    let more = format!("and {} more", texts.len().saturating_sub(most));
    if texts.len() > most {
        shown.push(&more);
    }
    shown.join(separator)
}

/// Returns the microseconds of a duration, for JSON.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The most characters of a peer's text that are shown.
const MOST: usize = 200;

/// Makes a name or word of a peer safe to print: escapes every invisible character, and truncates it.
pub(crate) fn harmless(text: &str) -> String {
    cut(text, |text| escape(text).to_string())
}

/// Makes a text that a peer wrote for people safe to print, keeping its emoji.
pub(crate) fn harmless_text(text: &str) -> String {
    cut(text, |text| output::printable(text).into_owned())
}

fn cut(text: &str, show: impl Fn(&str) -> String) -> String {
    match text.char_indices().nth(MOST) {
        Some((end, _)) => show(&text[..end]) + "…",
        None => show(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_three_figures() {
        let human = |us| human(Duration::from_micros(us));
        assert_eq!(human(7), "7 µs");
        assert_eq!(human(1_234), "1.23 ms");
        assert_eq!(human(12_340), "12.3 ms");
        assert_eq!(human(123_400), "123 ms");
        assert_eq!(human(1_000_000), "1.00 s");
        assert_eq!(human(125_000_000), "2 min 5 s");
        assert_eq!(human(90_000_000_000), "1 d 1 h");
    }

    #[test]
    fn a_list_says_how_many_it_leaves_out() {
        assert_eq!(first_of(&["a", "b"], 2, ", "), "a, b");
        assert_eq!(first_of(&["a", "b", "c", "d"], 2, "; "), "a; b; and 2 more");
    }

    #[test]
    fn text_of_a_peer_cannot_steer_the_terminal() {
        assert_eq!(harmless("a\x1b[2Jb\n"), "a\\u{1b}[2Jb\\n");
        assert_eq!(harmless(&"x".repeat(500)).chars().count(), 201);
    }
}
