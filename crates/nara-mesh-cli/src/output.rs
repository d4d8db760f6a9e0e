//! Stdout and stderr. No line begins another one, steers a terminal or hides what stands in it, whoever chose its text: what
//! cannot be seen is escaped here, beside the colours of the program. Once [`detach`] was called, a reader that is slow, stuck or gone never holds up the program:
//! lines wait in a bounded queue for a thread that writes them, and are left out when it is full.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anstream::AutoStream;
use nara_proto::identity::{escape, is_hidden};

/// Lines that wait for a reader. Each has a few hundred bytes.
const MOST_LINES: usize = 4096;

static STDOUT: OnceLock<Arc<Queue>> = OnceLock::new();
static STDERR: OnceLock<Arc<Queue>> = OnceLock::new();
static JOURNAL: OnceLock<Arc<Queue>> = OnceLock::new();

/// From now on, no line waits for the reader of its stream: for programs that serve others, which call it once.
///
/// # Errors
/// If the system gives no more descriptors or threads. Then lines are written as before.
pub(crate) fn detach() -> io::Result<()> {
    // Descriptors of our own: the streams of the standard library hold a lock while they write.
    #[cfg(unix)]
    let (stdout, stderr) = {
        use std::os::fd::AsFd as _;
        let stdout = io::stdout().as_fd().try_clone_to_owned()?;
        let stderr = io::stderr().as_fd().try_clone_to_owned()?;
        (
            AutoStream::auto(std::fs::File::from(stdout)),
            AutoStream::auto(std::fs::File::from(stderr)),
        )
    };
    #[cfg(not(unix))]
    let (stdout, stderr) = (anstream::stdout(), anstream::stderr());
    let (stdout, stderr) = (Queue::start("stdout", stdout)?, Queue::start("stderr", stderr)?);
    STDOUT.get_or_init(|| stdout);
    STDERR.get_or_init(|| stderr);
    Ok(())
}

/// From now on, [`journal`] sends records there: each write is one.
///
/// # Errors
/// If the system gives no more threads.
pub(crate) fn open_journal(journal: impl Write + Send + 'static) -> io::Result<()> {
    let journal = Queue::start("the journal", journal)?;
    JOURNAL.get_or_init(|| journal);
    Ok(())
}

/// Sends a record to the journal, if it is open. It never waits.
pub(crate) fn journal(record: Vec<u8>) {
    if let Some(queue) = JOURNAL.get() {
        queue.push(record);
    }
}

/// Whether the program runs on a terminal.
pub(crate) fn on_terminal() -> bool {
    use io::IsTerminal as _;
    io::stdin().is_terminal() || io::stdout().is_terminal() || io::stderr().is_terminal()
}

/// Waits until all lines are written, but not longer than `limit` for each stream.
pub(crate) fn flush(limit: Duration) {
    for queue in [&STDOUT, &STDERR, &JOURNAL].into_iter().filter_map(OnceLock::get) {
        queue.flush(limit);
    }
}

/// Writes a line to stdout.
///
/// # Errors
/// If the stream is not detached and cannot be written.
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

/// Writes bytes to stdout, for commands that are not detached: as they are, but for a terminal, which would obey them.
///
/// # Errors
/// If stdout cannot be written.
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

/// Writes a line to stderr, if that is possible.
pub(crate) fn stderr(line: &str) {
    stderr_bytes(with_end(&shown(line)));
}

fn stderr_bytes(bytes: Vec<u8>) {
    match STDERR.get() {
        Some(queue) => queue.push(bytes),
        // If stderr is gone there is nobody left to tell.
        None => drop(anstream::stderr().lock().write_all(&bytes)),
    }
}

fn with_end(line: &str) -> Vec<u8> {
    [line.as_bytes(), b"\n"].concat()
}

/// A text of a peer with every character escaped that is not seen or changes how the text around it is seen: nothing in it
/// begins a line, steers a terminal or reorders what stands beside it. What joins emoji and spaces of other widths stay, as
/// people write them in texts; names are shown by [`escape`] alone.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, is_usual_in_texts, |hidden, to| *to += &escaped_char(hidden))
}

/// JSON in which every character that is not seen is written as `\uXXXX`: its reader gets the same values.
pub(crate) fn json(text: &str) -> Cow<'_, str> {
    // A line feed stands between values: within a string it is escaped already.
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

/// What a reader gets of lines of this program: as [`printable`], with line feeds, tabs and colours, which are the program's
/// own. A text that is not is escaped before it becomes part of a line.
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

/// Whether a text that stands behind an escape character begins with the rest of a colour. One of these hides text.
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

/// A text in which characters that are not seen are written in another way, but for some.
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

/// Stderr for the log. It never fails. Each write is an event, which stays on one line.
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

/// Lines that wait for a stream, and the thread that writes them.
#[derive(Debug)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    writing: bool,
    /// Lines that were left out since the last one that was written.
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
        // Whether it was in time makes no difference now.
        drop(self.changed.wait_timeout_while(self.lock(), limit, unwritten));
    }

    /// Writes what comes, for ever: a disk that is full or a reader that is gone may come back.
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
            // About stdout, stderr can be told; about stderr, nobody until it is read again.
            match &outcome {
                Ok(()) if lost > 0 => {
                    tracing::warn!("{lost} lines of {name} were dropped: the reader is too slow")
                }
                Err(error) if !failing => {
                    tracing::warn!(%error, "{name} cannot be written: its lines are lost")
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

    /// A reader that takes a line when it is told to.
    struct Reader {
        taken: mpsc::Sender<Vec<u8>>,
        turns: mpsc::Receiver<io::Result<()>>,
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Without somebody who tells, all is taken.
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
        // Nobody reads, and nothing waits.
        for number in 0..2 * MOST_LINES {
            queue.push(number.to_string().into_bytes());
        }
        // A write that fails loses its line, and the next one is tried.
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
