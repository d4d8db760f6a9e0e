//! Stdout and stderr. Text of peers cannot start a new line, control the terminal or hide other text:
//! invisible characters are escaped here, except the colours of the program itself. After [`detach`], a slow,
//! stuck or closed reader never blocks the program: lines wait in a bounded queue for a writer thread, and
//! are dropped when it is full.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anstream::AutoStream;
use nara_proto::identity::{escape, is_hidden};

/// Capacity of the queue in lines, each of a few hundred bytes.
const MOST_LINES: usize = 4096;

static STDOUT: OnceLock<Arc<Queue>> = OnceLock::new();
static STDERR: OnceLock<Arc<Queue>> = OnceLock::new();
static JOURNAL: OnceLock<Arc<Queue>> = OnceLock::new();

/// From now on, writing a line does not block: for programs that serve others, which call this once.
///
/// # Errors
/// If the system grants no more descriptors or threads. Lines are then written as before.
pub(crate) fn detach() -> io::Result<()> {
    // Duplicated descriptors: the standard library's streams hold a lock while they write.
    #[cfg(unix)]
    let (stdout, stderr, is_one) = {
        use std::os::fd::AsFd as _;
        let stdout = std::fs::File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let stderr = std::fs::File::from(io::stderr().as_fd().try_clone_to_owned()?);
        let is_one = is_same(&stdout, &stderr)?;
        (AutoStream::auto(stdout), AutoStream::auto(stderr), is_one)
    };
    #[cfg(not(unix))]
    let (stdout, stderr, is_one) = (anstream::stdout(), anstream::stderr(), false);
    let stdout = Queue::start("stdout", stdout)?;
    // Two queues would mix up lines for the same reader.
    let stderr = match is_one {
        true => stdout.clone(),
        false => Queue::start("stderr", stderr)?,
    };
    STDOUT.get_or_init(|| stdout);
    STDERR.get_or_init(|| stderr);
    Ok(())
}

/// Returns whether both lead to one file, pipe or terminal.
#[cfg(unix)]
fn is_same(one: &std::fs::File, other: &std::fs::File) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let (one, other) = (one.metadata()?, other.metadata()?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

/// From now on, [`journal`] sends records to this writer: each write is one.
///
/// # Errors
/// If the system grants no more threads.
pub(crate) fn open_journal(journal: impl Write + Send + 'static) -> io::Result<()> {
    let journal = Queue::start("the journal", journal)?;
    JOURNAL.get_or_init(|| journal);
    Ok(())
}

/// Sends a record to the journal, if it is open. Never blocks.
pub(crate) fn journal(record: Vec<u8>) {
    if let Some(queue) = JOURNAL.get() {
        queue.push(record);
    }
}

/// Returns whether the program runs on a terminal.
pub(crate) fn on_terminal() -> bool {
    use io::IsTerminal as _;
    io::stdin().is_terminal() || io::stdout().is_terminal() || io::stderr().is_terminal()
}

/// Waits until all lines are written, at most `limit` for each stream.
pub(crate) fn flush(limit: Duration) {
    for queue in [&STDOUT, &STDERR, &JOURNAL].into_iter().filter_map(OnceLock::get) {
        queue.flush(limit);
    }
}

/// Writes a line to stdout.
///
/// # Errors
/// Fails if the stream is not detached and cannot be written.
pub(crate) fn stdout(line: &str) -> io::Result<()> {
    let line = shown(line);
    match STDOUT.get() {
        Some(queue) => queue.push(with_end(&line)),
        None => {
            let mut stdout = anstream::stdout().lock();
            writeln!(stdout, "{line}")?;
            stdout.flush()?;
        }
    }
    Ok(())
}

/// Writes bytes to stdout, for commands that are not detached: verbatim, except to a terminal, which would
/// interpret control characters.
///
/// # Errors
/// Fails if stdout cannot be written.
pub(crate) fn stdout_bytes(bytes: &[u8]) -> io::Result<()> {
    use io::IsTerminal as _;
    let mut stdout = io::stdout().lock();
    if stdout.is_terminal() {
        stdout.write_all(shown(&String::from_utf8_lossy(bytes)).as_bytes())?;
    } else {
        stdout.write_all(bytes)?;
    }
    stdout.flush()
}

/// Writes a line to stderr, if possible.
pub(crate) fn stderr(line: &str) {
    stderr_bytes(with_end(&shown(line)));
}

fn stderr_bytes(bytes: Vec<u8>) {
    match STDERR.get() {
        Some(queue) => queue.push(bytes),
        // If stderr is closed, the error cannot be reported.
        None => drop(anstream::stderr().lock().write_all(&bytes)),
    }
}

fn with_end(line: &str) -> Vec<u8> {
    [line.as_bytes(), b"\n"].concat()
}

/// Escapes every character of a peer's text that is invisible or changes how the text around it is displayed,
/// so that it cannot start a line, control the terminal or reorder its surroundings. Emoji joiners and
/// unusual spaces are kept, since people use them in texts; names are shown by [`escape`] alone.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, is_usual_in_texts, |hidden, to| *to += &escaped_char(hidden))
}

/// Writes every invisible character in JSON as `\uXXXX`: the parsed values stay the same.
pub(crate) fn json(text: &str) -> Cow<'_, str> {
    // A raw line feed can only be between values: within a string it is already escaped.
    escaped(
        text,
        |c| c == '\n',
        |hidden, to| {
            for unit in hidden.encode_utf16(&mut [0; 2]) {
                *to += &format!("\\u{unit:04x}");
            }
        },
    )
}

/// Escapes lines of this program as [`printable`] does, but keeps line feeds, tabs and colours, which are the
/// program's own. Text of peers is escaped before it becomes part of a line.
fn shown(lines: &str) -> Cow<'_, str> {
    let is_kept = |c| is_usual_in_texts(c) || matches!(c, '\n' | '\t');
    let escaped = |text| escaped(text, is_kept, |hidden, to| *to += &escaped_char(hidden));
    let mut parts = lines.split('\u{1b}');
    let mut shown = escaped(parts.next().unwrap_or_default());
    for part in parts {
        let start = if is_colour(part) { "\u{1b}" } else { "\\u{1b}" };
        *shown.to_mut() += start;
        *shown.to_mut() += &escaped(part);
    }
    shown
}

/// Returns whether the text after an escape character is the rest of a colour sequence. One such sequence
/// hides text.
fn is_colour(text: &str) -> bool {
    let Some((codes, _)) = text.strip_prefix('[').and_then(|text| text.split_once('m')) else {
        return false;
    };
    codes.split(';').all(|code| match code.parse::<u8>() {
        Ok(code) => code != 8,
        Err(_) => code.is_empty(),
    })
}

fn escaped_char(hidden: char) -> String {
    escape(hidden.encode_utf8(&mut [0; 4])).to_string()
}

/// Escapes invisible characters, except those for which `is_kept` is true.
fn escaped(text: &str, is_kept: impl Fn(char) -> bool, write: impl Fn(char, &mut String)) -> Cow<'_, str> {
    let is_plain = |c: char| matches!(c, ' '..='~') || is_kept(c) || !is_hidden(c);
    let Some(first) = text.find(|c| !is_plain(c)) else {
        return Cow::Borrowed(text);
    };
    let mut written = text[..first].to_owned();
    for character in text[first..].chars() {
        if is_plain(character) {
            written.push(character);
        } else {
            write(character, &mut written);
        }
    }
    Cow::Owned(written)
}

fn is_usual_in_texts(c: char) -> bool {
    matches!(
        c,
        '\u{a0}' | '\u{200c}' | '\u{200d}' | '\u{3000}' | '\u{fe0e}' | '\u{fe0f}'
    )
}

/// Stderr for the log. Never fails. Each write is one event on one line.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LogWriter {
    Json,
    Text,
}

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let event = String::from_utf8_lossy(bytes.strip_suffix(b"\n").unwrap_or(bytes));
        match self {
            Self::Json => stderr(&json(&event)),
            Self::Text => stderr(&event.replace('\n', "\\n")),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The queue of lines for a stream, and the thread that writes them.
#[derive(Debug)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    writing: bool,
    /// Lines dropped since the last one that was written.
    lost: u64,
}

impl Queue {
    fn start(name: &'static str, stream: impl Write + Send + 'static) -> io::Result<Arc<Self>> {
        let queue = Arc::new(Self {
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let writing = queue.clone();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || writing.run(name, stream))?;
        Ok(queue)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: Vec<u8>) {
        let mut state = self.lock();
        if state.lines.len() < MOST_LINES {
            state.lines.push_back(line);
        } else {
            state.lost += 1;
        }
        drop(state);
        self.changed.notify_all();
    }

    fn flush(&self, limit: Duration) {
        let unwritten = |state: &mut State| state.writing || !state.lines.is_empty();
        // The result does not matter: either way, waiting is over.
        drop(self.changed.wait_timeout_while(self.lock(), limit, unwritten));
    }

    /// Writes lines for ever: a full disk or a closed reader may recover.
    fn run(&self, name: &'static str, mut stream: impl Write) {
        let mut failing = false;
        loop {
            let empty = |state: &mut State| state.lines.is_empty();
            let waiting = self.changed.wait_while(self.lock(), empty);
            let mut state = waiting.unwrap_or_else(PoisonError::into_inner);
            let Some(line) = state.lines.pop_front() else {
                continue;
            };
            state.writing = true;
            let lost = std::mem::take(&mut state.lost);
            drop(state);
            let outcome = stream.write_all(&line).and_then(|()| stream.flush());
            let mut state = self.lock();
            state.writing = false;
            if outcome.is_err() {
                state.lost += lost + 1;
            }
            drop(state);
            self.changed.notify_all();
            // Losses on stdout are reported on stderr; losses on stderr once it is read again.
            match &outcome {
                Ok(()) if lost > 0 => {
                    tracing::warn!("{lost} lines of {name} were dropped: the reader is too slow")
                }
                Err(error) if !failing => {
                    tracing::warn!(%error, "cannot write to {name}: its lines are lost")
                }
                _ => {}
            }
            failing = outcome.is_err();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A reader that takes one line for each turn.
    struct Reader {
        taken: mpsc::Sender<Vec<u8>>,
        turns: mpsc::Receiver<io::Result<()>>,
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Once the test has dropped its end, everything is read.
            self.turns.recv().unwrap_or(Ok(()))?;
            self.taken.send(bytes.to_vec()).unwrap();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_text_with_control_characters_stays_on_its_line() {
        assert_eq!(printable("plain é"), "plain é");
        assert_eq!(printable("a\nb\x1b[2J\u{9b}"), "a\\nb\\u{1b}[2J\\u{9b}");
        assert_eq!(
            printable("a\u{202e}b\u{2028}c\u{200b}"),
            "a\\u{202e}b\\u{2028}c\\u{200b}"
        );
        assert_eq!(
            printable("👩\u{200d}🚀 ❤\u{fe0f}\u{fe0f}!"),
            "👩\u{200d}🚀 ❤\u{fe0f}\u{fe0f}!"
        );
    }

    #[test]
    fn a_line_has_the_colours_of_the_program_and_nothing_else_that_steers_a_terminal() {
        let coloured = "\u{1b}[1;33mwarning:\u{1b}[0m a\tb\nc \u{1b}[m";
        assert_eq!(shown(coloured), coloured);
        for (text, expected) in [
            ("\u{1b}[2Ja", "\\u{1b}[2Ja"),
            ("\u{1b}[8msecret", "\\u{1b}[8msecret"),
            ("\u{1b}[38;5;8msecret", "\\u{1b}[38;5;8msecret"),
            ("\u{1b}]0;title\u{7}", "\\u{1b}]0;title\\u{7}"),
            ("\u{1b}", "\\u{1b}"),
            ("\u{1b}\u{1b}[31mx", "\\u{1b}\u{1b}[31mx"),
            ("a\rb\u{9b}2J\u{202e}c", "a\\rb\\u{9b}2J\\u{202e}c"),
        ] {
            assert_eq!(shown(text), expected);
        }
    }

    #[test]
    fn json_with_hidden_characters_shows_them_and_means_the_same() {
        let value = serde_json::json!({
            "a\u{202e}b": ["\u{9b}2J\u{7f}\u{1b}[31m", "👩\u{200d}🚀 é\u{a0}", "\u{e0041}", "\n\t\"\\"],
        });
        for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            let escaped = json(&text);
            assert!(escaped.chars().all(|c| c == '\n' || !is_hidden(c)), "{escaped}");
            assert!(
                escaped.contains("a\\u202eb") && escaped.contains("\\udb40\\udc41"),
                "{escaped}"
            );
            assert_eq!(shown(&escaped), escaped);
            assert_eq!(
                serde_json::from_str::<serde_json::Value>(&escaped).unwrap(),
                value
            );
        }
        assert!(matches!(json("{\"a\":\"é\"}"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_reader_that_stops_costs_lines_and_nothing_else() {
        let (taken, lines) = mpsc::channel();
        let (turn, turns) = mpsc::channel();
        let queue = Queue::start("test", Reader { taken, turns }).unwrap();
        // Nothing is read, and nothing blocks.
        for number in 0..2 * MOST_LINES {
            queue.push(number.to_string().into_bytes());
        }
        // A failed write loses its line, and the next one is tried.
        turn.send(Err(io::ErrorKind::BrokenPipe.into())).unwrap();
        drop(turn);
        assert_eq!(lines.recv().unwrap(), b"1");
        queue.flush(Duration::from_secs(60));
        queue.push(b"again".to_vec());
        queue.flush(Duration::from_secs(60));
        let read: Vec<_> = lines.try_iter().collect();
        assert!(read.len() <= MOST_LINES, "{}", read.len());
        assert_eq!(read.last().unwrap(), b"again");
        assert_eq!(queue.lock().lost, 0);
    }
}
